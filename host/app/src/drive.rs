//! The training loop: steps, and between two steps whatever is due: reports, evaluations, checkpoints, commands, callbacks.
//!
//! What is due is decided by one rule (`Span::fires`) from the positions before and after the step, so a run that goes on from a checkpoint does at
//! each step what an undisturbed one does. Nothing that is only watching (reports, evaluations, saves, pauses) changes what training computes.

use crate::assemble::Assembly;
use crate::control::{Change, Control, Saved};
use crate::diagnose;
use crate::journal::{Journal, store_at};
use crate::observers::Observers;
use crate::saver::{Saver, Urgency};
use crate::side::Reload;
use crate::timing::{self, Part, Profile};
use crate::train::{Evaluated, Run, Stopwatch};
use anyhow::{Context, Result};
use solstice_engine::Precision;
use solstice_ir::{DType, TensorType};
use solstice_plugin_abi::Span;
use solstice_plugin_abi::run::{Action, Event as Told, Moment, Position};
use solstice_store::retention::EVERY;
use solstice_store::{Event, Monitor, MonitorMode, NewCheckpoint, Retention, RunState, RunUpdate};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a run ended.
pub enum End {
    /// The budget is used up, or a callback asked for the end: its reason.
    Done(Option<String>),
    /// Somebody stopped it.
    Stopped(String),
    /// The loss or a gradient was not finite.
    Diverged(String),
    /// The state lies in this file, for another process to go on with.
    HandedOver(PathBuf),
}

/// How a run begins in this process.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// With its first step.
    New,
    /// From a checkpoint.
    Resumed,
    /// From the state of the process before, with rebuilt code; and what of the state was kept.
    Reloaded(Reload, String),
}

/// Everything that a run needs while it goes on.
pub struct Driver<'a> {
    /// The recipe's components.
    pub assembly: &'a Assembly,
    /// The run in memory.
    pub run: Run,
    /// What is asked of it.
    pub control: Control,
    /// Where its words go.
    pub journal: Journal,
    /// Where its state goes.
    pub saver: Saver,
    /// Its callbacks.
    pub observers: Observers,
    /// What every checkpoint says besides the state: config, plugins, shaders, adapter.
    pub stamp: BTreeMap<String, String>,
    /// Best value of the monitored metric so far.
    pub best: Option<f64>,
    /// Set by Ctrl-C.
    pub interrupted: &'a AtomicBool,
    // Since the last report.
    since: Since,
    // The step that was saved last.
    saved: Option<u64>,
    // Metrics of evaluations of this very step.
    evaluated: BTreeMap<String, f64>,
    // Kernels are being timed.
    profile: Option<Profile>,
}

/// What the rates of the next report are measured from.
struct Since {
    step: u64,
    samples: u64,
    start: Instant,
}

impl<'a> Driver<'a> {
    /// Ready to go on from where `run` is.
    pub fn new(
        assembly: &'a Assembly,
        run: Run,
        control: Control,
        journal: Journal,
        saver: Saver,
        observers: Observers,
        stamp: BTreeMap<String, String>,
        best: Option<f64>,
        interrupted: &'a AtomicBool,
    ) -> Driver<'a> {
        let since = Since { step: run.step, samples: 0, start: Instant::now() };
        Driver {
            assembly,
            run,
            control,
            journal,
            saver,
            observers,
            stamp,
            best,
            interrupted,
            since,
            saved: None,
            evaluated: BTreeMap::new(),
            profile: None,
        }
    }

    /// Trains to the end.
    pub fn train(&mut self, beginning: &Beginning, watch: &mut Stopwatch) -> Result<End> {
        let first = self.run.step;
        self.journal.writer.state(RunState::Running, None);
        if matches!(beginning, Beginning::New) {
            self.try_evaluations(watch)?;
        }
        let moment = if matches!(beginning, Beginning::Reloaded(..)) { Moment::Reloaded } else { Moment::RunStart };
        let resumed = !matches!(beginning, Beginning::New);
        self.tell(Told { resumed, ..Told::new(moment, self.position()) })?;
        let unfinished = std::mem::take(&mut self.control.unfinished);
        if !unfinished.is_empty() {
            self.evaluate(&unfinished)?;
        }
        self.settle()?;
        // The first report is about steps, not about the start.
        self.run.meter.restart();
        loop {
            self.control.replay(self.assembly, self.run.step);
            self.listen()?;
            if let Some(end) = self.wait_while_paused()? {
                return self.close(end);
            }
            if self.control.finish.is_some() || self.is_finished() {
                return self.close(End::Done(self.control.finish.clone()));
            }
            if self.run.step.is_multiple_of(self.run.epoch.steps) {
                self.tell(Told::new(Moment::EpochStart, self.position()))?;
            }

            let before = self.run.progress();
            let begin = Instant::now();
            let samples = self.run.train_step().with_context(|| format!("at step {}", self.run.step + 1))?;
            if self.run.step == first + 1 {
                self.run.wait()?;
                watch.lap("first step");
                self.tell_startup(watch);
                if let Beginning::Reloaded(reload, kept) = beginning {
                    self.tell_reload(reload, kept, watch);
                }
            }
            self.run.seconds += begin.elapsed().as_secs_f64();
            self.since.samples += samples as u64;
            self.count_profiled_step()?;
            if let Some(end) = self.after_step(before)? {
                return self.close(end);
            }
        }
    }

    /// Trains `steps` steps more with everything that is due after each, for a profile; nobody is listened to. How the run ended, if it did before. Waits for
    /// the device.
    pub fn train_some(&mut self, steps: u64) -> Result<Option<End>> {
        if self.run.step == 0 {
            self.tell(Told::new(Moment::RunStart, self.position()))?;
            self.settle()?;
        }
        for _ in 0..steps {
            if self.run.step.is_multiple_of(self.run.epoch.steps) {
                self.tell(Told::new(Moment::EpochStart, self.position()))?;
            }
            let before = self.run.progress();
            let samples = self.run.train_step().with_context(|| format!("at step {}", self.run.step + 1))?;
            self.since.samples += samples as u64;
            if let Some(end) = self.after_step(before)? {
                return Ok(Some(end));
            }
        }
        self.run.wait()?;
        Ok(None)
    }

    /// What is due at this boundary.
    fn after_step(&mut self, before: solstice_plugin_abi::Progress) -> Result<Option<End>> {
        let (now, epoch) = (self.run.progress(), self.run.epoch);
        self.evaluated.clear();
        let at = self.position();
        self.journal.writer.progress(store_at(at));
        self.tell(Told::new(Moment::StepEnd, at))?;
        if self.run.step.is_multiple_of(epoch.steps) {
            self.tell(Told::new(Moment::EpochEnd, at))?;
        }
        let finished = self.is_finished();
        let fires = |span: Span| finished || span.fires(before, now, epoch);
        let trainer = self.control.trainer.clone();
        let evaluate_every = |split: &String| *trainer.evaluate_each.get(split).unwrap_or(&trainer.evaluate_every);
        let (log, save) = (fires(trainer.log_every), fires(trainer.checkpoint_every));
        let keep = trainer.keep_every.is_some_and(|span| span.fires(before, now, epoch));
        let due: Vec<String> = self.run.evaluated_splits().into_iter().filter(|split| fires(evaluate_every(split))).collect();
        if log && let Some(end) = self.report()? {
            return Ok(Some(end));
        }
        // A state is worth measuring and saving only when its steps were good.
        if !log && (save || keep || !due.is_empty()) && self.run.bad_steps()? > 0.0 {
            return self.report();
        }
        if !due.is_empty() && self.is_interrupted() {
            // Whoever goes on from here makes it first.
            self.control.unfinished = due;
        } else if !due.is_empty() {
            self.evaluate(&due)?;
        }
        // The best state so far was saved a moment ago: once is enough for a cadence.
        let is_saved = self.saved == Some(self.run.step) && !keep && !finished;
        if (save || keep) && !is_saved {
            let reason = match (keep, finished) {
                (true, _) => EVERY,
                (_, true) => "end",
                _ => "cadence",
            };
            self.save(reason, false, if finished { Urgency::Must } else { Urgency::MaySkip })?;
        }
        self.settle()?;
        let ended = finished || self.control.finish.is_some();
        // A stop that fell into the last evaluation leaves that to whoever goes on.
        if ended && self.control.unfinished.is_empty() {
            return Ok(Some(End::Done(self.control.finish.clone())));
        }
        Ok(self.end_asked())
    }

    fn is_finished(&self) -> bool {
        self.control.trainer.budget.share(self.run.progress(), self.run.epoch) >= 1.0 - 1e-12
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn end_asked(&self) -> Option<End> {
        if self.is_interrupted() {
            return Some(End::Stopped("on request".into()));
        }
        if let Some(who) = &self.control.stop {
            return Some(End::Stopped(format!("by {who}")));
        }
        self.control.hand_over.clone().map(End::HandedOver)
    }

    /// Commands that came, carried out at this boundary.
    fn listen(&mut self) -> Result<()> {
        self.control.poll(self.assembly, &self.journal, position(&self.run));
        self.settle()
    }

    /// Carries out what was asked: changes, evaluations, checkpoints.
    fn settle(&mut self) -> Result<()> {
        if !self.control.changed.is_empty() {
            self.apply_changes()?;
        }
        if std::mem::take(&mut self.control.evaluate) {
            let splits = self.run.evaluated_splits();
            self.evaluate(&splits)?;
        }
        if let Some((reason, pinned)) = self.control.checkpoint.take() {
            self.save(&reason, pinned, Urgency::Must)?;
        }
        for asked in std::mem::take(&mut self.control.profiles) {
            self.begin_profile(asked);
        }
        Ok(())
    }

    /// Times the kernels of the steps to come; a device that cannot, or a profile that is under way, is the answer.
    fn begin_profile(&mut self, asked: Profile) {
        let refused = match &self.profile {
            Some(Profile { left, .. }) => Err(format!("a profile is under way already: {left} more steps")),
            None => self.run.session.set_profiling(true).map_err(|error| error.to_string()),
        };
        match refused {
            Err(sentence) => self.journal.writer.complete_command(asked.command, Err(&sentence)),
            Ok(()) => {
                // Of an earlier one, if any.
                self.run.session.take_profile();
                self.profile = Some(asked);
            }
        }
    }

    fn count_profiled_step(&mut self) -> Result<()> {
        let Some(profile) = &mut self.profile else { return Ok(()) };
        profile.left -= 1;
        if profile.left == 0 { self.end_profile() } else { Ok(()) }
    }

    /// Writes what was measured, and answers the command.
    fn end_profile(&mut self) -> Result<()> {
        let Some(profile) = self.profile.take() else { return Ok(()) };
        self.run.session.set_profiling(false)?;
        let steps = profile.wanted - profile.left;
        let mut times = self.run.session.take_profile();
        // An evaluation in between is no part of a step.
        let programs = self.run.train.programs();
        times.retain(|time| programs.contains(&time.program));
        let at = self.position();
        if steps == 0 || times.is_empty() {
            self.journal.writer.complete_command(profile.command, Err("the run ended before a step was profiled"));
            return Ok(());
        }
        let rows = timing::kernels(&self.run.session, &times, steps);
        let total: f64 = rows.iter().map(|row| row.micros).sum();
        let (first, slowest) = (at.step - steps + 1, &rows[0]);
        let of = if slowest.module.is_empty() { String::new() } else { format!(" of {}", slowest.module) };
        let mut note = format!(
            "steps {first} to {}: {} kernels take {:.3} ms a step, most of it {}{of} ({:.1} %)",
            at.step,
            rows.len(),
            total / 1e3,
            slowest.kernel,
            slowest.percent
        );
        if profile.left > 0 {
            note += &format!("; {steps} of {} steps, then the run ended", profile.wanted);
        }
        self.journal.writer.table(store_at(at), timing::KERNELS, timing::kernel_table(&rows));
        self.journal.writer.text(store_at(at), timing::NOTE, note.clone());
        let event = Event { command_id: Some(profile.command), ..Event::new(at.step, "profile", &profile.who, note.clone()) };
        self.journal.event(at, event);
        self.journal.writer.complete_command(profile.command, Ok(&note));
        Ok(())
    }

    fn apply_changes(&mut self) -> Result<()> {
        let changed = std::mem::take(&mut self.control.changed);
        self.run.set_live(&self.control.live);
        let trainer = &self.control.trainer;
        if let Some(steps) = trainer.budget.steps(self.run.epoch) {
            self.run.total_steps = steps as f64;
        }
        self.saver.set_policy(retention(self.assembly, &self.run, trainer));
        self.journal.writer.update(RunUpdate {
            budget: Some(trainer.budget.to_string()),
            steps_total: (self.run.total_steps > 0.0).then_some(self.run.total_steps as u64),
            ..RunUpdate::default()
        });
        for Change { key, old, new, .. } in changed {
            self.tell(Told { note: key, change: Some((old, new)), ..Told::new(Moment::Changed, self.position()) })?;
        }
        Ok(())
    }

    /// Waits while the run is paused and has no steps left; how it ends, if somebody ends it meanwhile.
    fn wait_while_paused(&mut self) -> Result<Option<End>> {
        if self.control.paused && self.control.steps_allowed == 0 {
            self.run.wait()?;
            self.journal.writer.state(RunState::Paused, None);
            while self.control.paused && self.control.steps_allowed == 0 {
                if let Some(end) = self.end_asked() {
                    return Ok(Some(end));
                }
                for command in self.journal.writer.wait_for_commands(Duration::from_millis(50)) {
                    self.control.take(&command, self.assembly, &self.journal, position(&self.run));
                    self.run.meter.skip();
                    self.settle()?;
                }
            }
            self.journal.writer.state(RunState::Running, None);
            self.since.start = Instant::now();
            self.run.meter.skip();
        }
        self.control.steps_allowed = self.control.steps_allowed.saturating_sub(1);
        Ok(self.end_asked())
    }

    /// Reads, logs and clears the training metrics; the end, when a step was not finite. Waits for the device.
    pub fn report(&mut self) -> Result<Option<End>> {
        // The wait belongs to the steps.
        let begin = Instant::now();
        let mut scalars = self.run.report()?;
        self.run.seconds += begin.elapsed().as_secs_f64();
        let bad_steps = scalars.iter().find(|(name, _)| name == "train/nonfinite").map_or(0.0, |(_, count)| *count);
        scalars.retain(|(name, _)| name != "train/nonfinite");
        let since = std::mem::replace(&mut self.since, Since { step: self.run.step, samples: 0, start: Instant::now() });
        scalars.push(("train/samples_per_sec".into(), since.samples as f64 / since.start.elapsed().as_secs_f64().max(1e-9)));
        scalars.extend(self.run.meter.take(self.run.step - since.step));
        scalars.extend(timing::memory(&self.run.session));
        let at = self.position();
        self.journal.scalars(at, &scalars);
        self.journal.watch_store();
        if bad_steps > 0.0 {
            let sentence = diverged(&mut self.run, since.step..at.step)?;
            self.journal.event(at, Event::new(at.step, "nan", "worker", sentence.clone()));
            self.tell(Told { note: sentence.clone(), ..Told::new(Moment::NotFinite, at) })?;
            if let Some(reason) = &self.control.finish {
                // A search that went too far on purpose has found what it wanted.
                return Ok(Some(End::Done(Some(reason.clone()))));
            }
            return Ok(Some(End::Diverged(sentence)));
        }
        let budget = self.control.trainer.budget;
        if budget.steps(self.run.epoch).is_none() {
            // The schedule needs the length of the run: what the rate so far promises.
            self.run.total_steps = at.step as f64 * budget.amount / self.run.seconds.max(1e-9);
        }
        if self.observers.listen_to(Moment::Report) {
            self.tell(Told { metrics: scalars.into_iter().collect(), ..Told::new(Moment::Report, at) })?;
        }
        Ok(None)
    }

    fn evaluate(&mut self, splits: &[String]) -> Result<()> {
        let at = self.position();
        self.tell(Told::new(Moment::EvalStart, at))?;
        self.run.wait()?;
        let (control, assembly, journal, interrupted) = (&mut self.control, self.assembly, &self.journal, self.interrupted);
        // People are heard between two batches, and a stop need not wait for the rest.
        let mut cancelled = || {
            control.poll(assembly, journal, at);
            control.stop.is_some() || interrupted.load(Ordering::Relaxed)
        };
        let Evaluated { scalars, matrices } = self.run.evaluate(splits, None, &mut cancelled)?;
        self.run.meter.lap(Part::Evaluation);
        self.since.start = Instant::now();
        if scalars.is_empty() {
            self.control.unfinished = splits.to_vec();
            return Ok(());
        }
        self.journal.scalars(at, &scalars);
        matrices.into_iter().for_each(|matrix| self.journal.entry(at, matrix));
        self.evaluated.extend(scalars.iter().cloned());
        self.tell(Told { metrics: scalars.into_iter().collect(), note: splits.join(","), ..Told::new(Moment::EvalEnd, at) })?;
        if let Some(monitor) = monitor(self.assembly, &self.run, &self.control.trainer)
            && let Some(value) = self.evaluated.get(&monitor.metric).copied().filter(|value| value.is_finite())
            && splits.iter().any(|split| monitor.metric.starts_with(split.as_str()))
        {
            let better = |best: f64| if monitor.mode == MonitorMode::Max { value > best } else { value < best };
            if self.best.is_none_or(better) {
                self.best = Some(value);
                if self.control.trainer.keep_best > 0 {
                    self.save("best", false, Urgency::MaySkip)?;
                }
            }
        }
        Ok(())
    }

    /// Two batches of every evaluated split before the first step: a mistake there must not show after hours.
    fn try_evaluations(&mut self, watch: &mut Stopwatch) -> Result<()> {
        let batches = self.control.trainer.sanity_batches;
        if batches > 0 {
            let splits = self.run.evaluated_splits();
            self.run.evaluate(&splits, Some(batches), &mut || false).context("a trial of the evaluation, before the first step")?;
            watch.lap("trial evaluation");
        }
        Ok(())
    }

    /// Tells the callbacks, and notes what they ask for.
    fn tell(&mut self, event: Told) -> Result<()> {
        if !self.observers.listen_to(event.moment) {
            return Ok(());
        }
        let at = event.at;
        for (name, action) in self.observers.tell(&event, &mut self.run)? {
            match action {
                Action::Stop { reason } => self.control.finish = Some(reason),
                Action::Evaluate => self.control.evaluate = true,
                Action::Checkpoint { reason } => self.control.checkpoint = Some((reason, false)),
                Action::Set { key, value } => {
                    self.control
                        .set(self.assembly, &key, &value, &name, None, at.step)
                        .map_err(|message| anyhow::anyhow!("callback `{name}`: {message}"))?;
                    self.control.tell_changes(&self.journal, at);
                }
                Action::Log(entry) => self.journal.entry(at, entry),
                Action::Mark { kind, message } => self.journal.event(at, Event::new(at.step, &kind, &name, message)),
            }
        }
        Ok(())
    }

    /// Hands the state to the disk's thread.
    fn save(&mut self, reason: &str, pinned: bool, urgency: Urgency) -> Result<()> {
        // Told first, so that what callbacks make of it is in the checkpoint.
        self.tell(Told { note: reason.into(), ..Told::new(Moment::Checkpoint, self.position()) })?;
        self.run.wait()?;
        let (new, tensors) = self.snapshot(reason, pinned)?;
        self.saver.save(new, tensors, urgency);
        self.run.meter.lap(Part::Checkpoint);
        self.saved = Some(self.run.step);
        self.journal.flush();
        Ok(())
    }

    /// The first checkpoint of a fork: a branch stands by itself, so it can go on even when its parent is deleted. Waits for the disk.
    pub fn save_branch(&mut self, message: &str) -> Result<()> {
        let (new, tensors) = self.snapshot("fork", false)?;
        self.journal.writer.save_checkpoint(&new, &tensors)?;
        self.journal.event(self.position(), Event::new(self.run.step, "fork", "worker", message));
        Ok(())
    }

    /// The whole state. Waits for the device.
    fn snapshot(&mut self, reason: &str, pinned: bool) -> Result<(NewCheckpoint, Vec<solstice_store::Tensor>)> {
        let states = self.run.checkpoint_states()?;
        let tensors = states.into_iter().map(|(name, ty, bytes)| solstice_store::Tensor {
            name,
            dtype: stored_type(ty.dtype),
            shape: ty.shape,
            bytes,
        });
        let mut metadata = self.stamp.clone();
        metadata.insert("callbacks".into(), serde_json::to_string(&self.observers.states()?)?);
        metadata.insert("control".into(), serde_json::to_string(&self.saved())?);
        let new = NewCheckpoint {
            at: store_at(self.position()),
            position: self.run.sample_index(),
            reason: reason.to_owned(),
            metrics: self.evaluated.clone(),
            pinned,
            metadata,
        };
        Ok((new, tensors.collect()))
    }

    fn saved(&self) -> Saved {
        Saved {
            seconds: self.run.seconds,
            total_steps: self.run.total_steps,
            live: self.control.live.clone(),
            trainer: Some(self.control.trainer.clone()),
            trainer_given: Some(self.assembly.resolved.trainer.clone()),
            history: self.control.history.clone(),
            last_command: self.control.last_command,
            finish: self.control.finish.clone(),
            unfinished: self.control.unfinished.clone(),
            paused: self.control.paused,
            steps_allowed: self.control.steps_allowed,
            best: self.best,
        }
    }

    fn close(&mut self, end: End) -> Result<End> {
        self.end_profile()?;
        for asked in std::mem::take(&mut self.control.profiles) {
            self.journal.writer.complete_command(asked.command, Err("the run ended before a step was profiled"));
        }
        let note = match &end {
            End::Done(reason) => reason.clone().unwrap_or_else(|| "done".into()),
            End::Stopped(who) => format!("stopped {who}"),
            End::Diverged(sentence) => sentence.clone(),
            End::HandedOver(_) => "reload".into(),
        };
        match &end {
            End::Stopped(_) => self.save("stop", false, Urgency::Must)?,
            End::Diverged(_) => self.save("nan", false, Urgency::Must)?,
            End::Done(Some(_)) if !self.is_finished() => self.save("end", false, Urgency::Must)?,
            End::Done(_) => {}
            End::HandedOver(path) => {
                let (new, tensors) = self.snapshot("reload", false)?;
                solstice_store::save_checkpoint(path, &new, &tensors)?;
                // And on disk, so that there is a way back from code that turns out wrong.
                self.saver.save(new, tensors, Urgency::MaySkip);
                return Ok(end);
            }
        }
        self.tell(Told { note, ..Told::new(Moment::RunEnd, self.position()) })?;
        Ok(end)
    }

    /// How long it took from the save of a source to the end of the first step with it, part by part.
    fn tell_reload(&self, reload: &Reload, kept: &str, watch: &Stopwatch) {
        let part = |names: &[&str]| -> f64 { watch.parts.iter().filter(|(name, _)| names.contains(name)).map(|(_, secs)| secs).sum() };
        let parts = [
            ("build", reload.build_secs),
            ("load", part(&["plugins", "device", "open data", "read data"])),
            ("trace", part(&["trace"])),
            ("compile", part(&["compile", "state"])),
            ("restore", part(&["wait", "restore", "run folder", "first step"])),
            ("total", solstice_store::now() - reload.changed_time),
        ];
        let words: Vec<String> = parts.iter().map(|(name, secs)| format!("{name} {secs:.2} s")).collect();
        let message = format!("{} reloaded at step {}: {}; {kept}", reload.what, self.run.step - 1, words.join(", "));
        let seconds: serde_json::Map<String, serde_json::Value> =
            parts.iter().map(|(name, secs)| ((*name).into(), (*secs).into())).collect();
        let event = Event { new: Some(seconds.into()), ..Event::new(self.run.step - 1, "reload", "worker", message.clone()) };
        eprintln!("{message}");
        self.journal.event(self.position(), event);
    }

    fn tell_startup(&self, watch: &Stopwatch) {
        let mut parts: VecDeque<(&str, f64)> = VecDeque::new();
        for (part, secs) in &watch.parts {
            match parts.iter_mut().find(|(known, _)| known == part) {
                Some((_, total)) => *total += secs,
                None => parts.push_back((part, *secs)),
            }
        }
        for (part, secs) in parts {
            self.journal.writer.event(Event::new(self.run.step - 1, "startup", "worker", format!("{part:<16} {:7.1} ms", secs * 1e3)));
        }
    }

    fn position(&self) -> Position {
        position(&self.run)
    }
}

/// Where a run is.
pub fn position(run: &Run) -> Position {
    let now = run.progress();
    Position { step: now.step, epoch: now.step as f64 / run.epoch.steps as f64, samples: now.samples, seconds: now.seconds }
}

/// What is best: the recipe's metric, or the loss of the first evaluated split.
pub fn monitor(assembly: &Assembly, run: &Run, trainer: &crate::recipe::Trainer) -> Option<Monitor> {
    let named = assembly.resolved.trainer.monitor.clone();
    let metric = named.or_else(|| run.evaluated_splits().first().map(|split| format!("{split}/loss")))?;
    Some(Monitor { metric, mode: trainer.monitor_mode })
}

/// The same for a run on disk: the loss that its checkpoints tell.
pub fn monitor_of(resolved: &crate::recipe::ResolvedRecipe, rows: &[solstice_store::CheckpointRow]) -> Option<Monitor> {
    let told = || rows.iter().flat_map(|row| row.metrics.keys()).find(|name| name.ends_with("/loss")).cloned();
    let metric = resolved.trainer.monitor.clone().or_else(told)?;
    Some(Monitor { metric, mode: resolved.trainer.monitor_mode })
}

/// Which checkpoints are kept.
pub fn retention(assembly: &Assembly, run: &Run, trainer: &crate::recipe::Trainer) -> Retention {
    Retention { last: trainer.keep_last, best: trainer.keep_best, monitor: monitor(assembly, run, trainer) }
}

/// Element type of a state tensor in a file. A truth value is a 32-bit word on every device.
pub fn stored_type(dtype: DType) -> solstice_store::DType {
    match dtype {
        DType::F32 => solstice_store::DType::F32,
        DType::I32 => solstice_store::DType::I32,
        _ => solstice_store::DType::U32,
    }
}

/// A state tensor of a file; types that a device does not hold are taken as words.
pub fn state_type(tensor: &solstice_store::Tensor) -> TensorType {
    let dtype = match tensor.dtype {
        solstice_store::DType::F32 => DType::F32,
        solstice_store::DType::I32 => DType::I32,
        _ => DType::U32,
    };
    TensorType::new(dtype, tensor.shape.clone())
}

fn diverged(run: &mut Run, steps: std::ops::Range<u64>) -> Result<String> {
    let kept = "the last good state is saved";
    Ok(match diagnose::first_bad_tensor(run, steps.clone())? {
        Some(bad) => format!("not finite at step {}: first in {}; {kept}", bad.step + 1, bad.description),
        None => {
            // The search is made in f32.
            let again = match run.precision() {
                Precision::F32 => "the step gave finite numbers when it was run again",
                Precision::Mixed => {
                    "in f32 the step gives finite numbers, so something is beyond f16, which ends at 65504: train with `trainer.precision: f32`"
                }
            };
            format!("the loss or the gradients of a step between {} and {} were not finite ({again}); {kept}", steps.start + 1, steps.end)
        }
    })
}
