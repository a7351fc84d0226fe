//! `solstice train`, the worker's side: make the run, train it, leave it in its store.

use super::{assemble, open_device};
use crate::assemble::Assembly;
use crate::cli::TrainArgs;
use crate::diagnose;
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::side::SideDir;
use crate::span::Progress;
use crate::train::{Run, Stopwatch};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use solstice_engine::Session;
use solstice_engine::device::DeviceInfo;
use solstice_engine::gpu;
use solstice_store::{At, Event, NewCheckpoint, NewRun, PluginInfo, RunState, RunWriter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How a run ended.
enum End {
    Done,
    Stopped,
    Diverged(String),
}

/// Trains; returns the exit code.
pub fn run(args: &TrainArgs, side: &SideDir, stop: &AtomicBool) -> Result<i32, Exit> {
    let mut watch = Stopwatch::start();
    let assembly = assemble(&args.recipe)?;
    watch.lap("plugins");
    let (runtime, device) = open_device(&args.recipe.device)?;
    watch.lap("device");
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    watch.lap("open data");
    let mut run = Run::start(&assembly, &spec, Session::new(runtime), &mut watch).or_exit(exit::FAILED)?;
    // Everything that can be wrong with the recipe has been found by now: from here on there is a run on disk.
    let mut writer = create_run(args, &assembly, &run, &device).or_exit(exit::FAILED)?;
    std::fs::write(side.run_file(), writer.path().to_string_lossy().as_bytes()).or_exit(exit::FAILED)?;
    watch.lap("run folder");
    let outcome = train(&assembly, &mut run, &mut writer, stop, &mut watch);
    let code = match &outcome {
        Ok(End::Done) => {
            writer.state(RunState::Done, None);
            exit::OK
        }
        Ok(End::Stopped) => {
            writer.state(RunState::Stopped, Some("stopped on request"));
            exit::STOPPED
        }
        Ok(End::Diverged(sentence)) => {
            writer.state(RunState::Failed, Some(sentence));
            eprintln!("error: {sentence}");
            exit::DIVERGED
        }
        Err(error) => {
            writer.state(RunState::Failed, Some(&crate::outcome::sentence(error)));
            exit::FAILED
        }
    };
    let _ = std::fs::copy(side.log_file(), writer.path().join("worker.log"));
    // Dropping the writer waits for the last rows.
    drop(writer);
    outcome.map(|_| code).or_exit(exit::FAILED)
}

fn create_run(args: &TrainArgs, assembly: &Assembly, run: &Run, device: &DeviceInfo) -> Result<RunWriter> {
    let resolved = &assembly.resolved;
    let plugins = assembly.plugins.iter().map(|plugin| PluginInfo {
        name: plugin.manifest.name.clone(),
        version: plugin.manifest.version.clone(),
        hash: plugin.sha256.clone(),
        path: Some(plugin.path.display().to_string()),
        provides: vec![],
    });
    Ok(RunWriter::create(
        &args.runs_dir,
        &NewRun {
            name: resolved.name.clone(),
            recipe_path: Some(args.recipe.recipe.display().to_string()),
            recipe: resolved.to_ron(),
            config: serde_json::to_value(resolved)?,
            command_line: Some(command_line(args)),
            seed: resolved.trainer.seed,
            device: Some(args.recipe.device.clone()),
            adapter: Some(device.name.clone()),
            shaders_hash: Some(shaders_hash()),
            plugins: plugins.collect(),
            parent: None,
            budget: Some(resolved.trainer.budget.to_string()),
            steps_total: (run.total_steps > 0.0).then_some(run.total_steps as u64),
            steps_per_epoch: Some(run.epoch.steps),
        },
    )?)
}

/// SHA-256 over the shader files that this build carries, hexadecimal.
fn shaders_hash() -> String {
    let mut hasher = Sha256::new();
    for (name, text) in gpu::FILES {
        hasher.update(name);
        hasher.update([0]);
        hasher.update(text);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn command_line(args: &TrainArgs) -> String {
    let mut line = format!("solstice train {}", args.recipe.recipe.display());
    for assignment in &args.recipe.set {
        line += &format!(" --set '{assignment}'");
    }
    line + &format!(" --device '{}'", args.recipe.device)
}

fn train(assembly: &Assembly, run: &mut Run, writer: &mut RunWriter, stop: &AtomicBool, watch: &mut Stopwatch) -> Result<End> {
    let trainer = &assembly.resolved.trainer;
    writer.state(RunState::Running, None);
    let mut trained_secs = 0.0;
    let mut reported = run.step;
    let mut report_start = Instant::now();
    let mut samples = 0;
    let is_timed = trainer.budget.steps(run.epoch).is_none();
    loop {
        let before = run.progress(trained_secs);
        let begin = Instant::now();
        samples += run.train_step().with_context(|| format!("at step {}", run.step))?;
        if run.step == 1 {
            run.session.finish()?;
            watch.lap("first step");
            for (part, secs) in &watch.parts {
                writer.event(Event::new(0, "startup", "worker", format!("{part:<16} {:7.1} ms", secs * 1e3)));
            }
        }
        trained_secs += begin.elapsed().as_secs_f64();
        let now = run.progress(trained_secs);
        let finished = trainer.budget.share(now, run.epoch) >= 1.0 - 1e-12;
        let stopping = stop.load(Ordering::Relaxed);
        let fires = |span: crate::span::Span| finished || stopping || span.fires(before, now, run.epoch);
        writer.progress(at(run, now));
        let (log, evaluate, save) = (fires(trainer.log_every), fires(trainer.evaluate_every), fires(trainer.checkpoint_every));
        if log || evaluate || save {
            // The report waits for the device, so its time belongs to the steps.
            let begin = Instant::now();
            let mut scalars = run.report()?;
            trained_secs += begin.elapsed().as_secs_f64();
            let bad_steps = scalars.iter().find(|(name, _)| name == "train/nonfinite").map_or(0.0, |(_, count)| *count);
            scalars.retain(|(name, _)| name != "train/nonfinite");
            let secs = report_start.elapsed().as_secs_f64();
            scalars.push(("train/samples_per_sec".into(), samples as f64 / secs));
            samples = 0;
            write_scalars(writer, run, now, &scalars);
            if bad_steps > 0.0 {
                let sentence = diverged(run, reported..now.step)?;
                writer.event(Event::new(now.step, "nan", "worker", sentence.clone()));
                checkpoint(assembly, run, writer, "nan")?;
                return Ok(End::Diverged(sentence));
            }
            reported = now.step;
            if is_timed {
                // The schedule needs the length of the run: what the rate so far promises.
                run.total_steps = now.step as f64 * trainer.budget.amount / trained_secs.max(1e-9);
            }
            report_start = Instant::now();
        }
        if evaluate && !stopping {
            let scalars = run.evaluate(&|| stop.load(Ordering::Relaxed))?;
            write_scalars(writer, run, now, &scalars);
            report_start = Instant::now();
        }
        if save {
            checkpoint(
                assembly,
                run,
                writer,
                if stopping {
                    "stop"
                } else if finished {
                    "end"
                } else {
                    "cadence"
                },
            )?;
            report_start = Instant::now();
        }
        if finished {
            return Ok(End::Done);
        }
        if stopping {
            return Ok(End::Stopped);
        }
    }
}

fn write_scalars(writer: &RunWriter, run: &Run, now: Progress, scalars: &[(String, f64)]) {
    let borrowed: Vec<(&str, f64)> = scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    writer.scalars(at(run, now), &borrowed);
}

fn at(run: &Run, now: Progress) -> At {
    At { step: now.step, epoch: now.step as f64 / run.epoch.steps as f64, samples: now.samples }
}

fn diverged(run: &mut Run, steps: std::ops::Range<u64>) -> Result<String> {
    let kept = "the last good state is saved";
    Ok(match diagnose::first_bad_tensor(run, steps.clone())? {
        Some(bad) => format!("not finite at step {}: first in {}; {kept}", bad.step + 1, bad.description),
        None => format!(
            "the loss or the gradients of a step between {} and {} were not finite (the step gave finite numbers when it was run again); {kept}",
            steps.start + 1,
            steps.end
        ),
    })
}

/// Saves the state. A disk that refuses is a warning and an event: training goes on.
fn checkpoint(assembly: &Assembly, run: &mut Run, writer: &mut RunWriter, reason: &str) -> Result<()> {
    let mut tensors = vec![];
    for (name, ty, bytes) in run.checkpoint_states()? {
        let dtype = match ty.dtype {
            solstice_ir::DType::F32 => solstice_store::DType::F32,
            solstice_ir::DType::I32 => solstice_store::DType::I32,
            // A truth value is a 32-bit word on every device.
            _ => solstice_store::DType::U32,
        };
        tensors.push(solstice_store::Tensor { name, dtype, shape: ty.shape, bytes });
    }
    let now = run.progress(0.0);
    let metadata =
        [("seed".to_owned(), assembly.resolved.trainer.seed.to_string()), ("config".into(), serde_json::to_string(&assembly.resolved)?)];
    let new = NewCheckpoint {
        at: at(run, now),
        position: (run.step % run.epoch.steps) * assembly.resolved.trainer.batch_size as u64,
        reason: reason.to_owned(),
        metadata: metadata.into_iter().collect(),
        ..NewCheckpoint::default()
    };
    if let Err(error) = writer.save_checkpoint(&new, &tensors) {
        let sentence = format!("the checkpoint of step {} was not saved: {error}", run.step);
        eprintln!("warning: {sentence}");
        writer.event(Event::new(run.step, "checkpoint", "worker", sentence));
    }
    Ok(())
}
