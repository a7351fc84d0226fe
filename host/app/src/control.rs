//! Steering a run while it goes on: commands of people, actions of callbacks, and the live values that both may change.
//!
//! Nothing here touches the device, so a command is answered between two batches of an evaluation as well as between two steps; the loop of `drive.rs`
//! carries out at the next step boundary what it finds here.

use crate::assemble::Assembly;
use crate::journal::Journal;
use crate::recipe::{LISTS, Trainer, did_you_mean};
use crate::side::SideDir;
use crate::timing::Profile;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use solstice_plugin_abi::run::Position;
use solstice_plugin_abi::wire::Clip;
use solstice_store::{Command, Event};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// Settings of the trainer that may change while a run goes on.
pub const LIVE_SETTINGS: [&str; 7] = ["budget", "log_every", "evaluate_every", "checkpoint_every", "keep_last", "keep_best", "keep_every"];

/// Steps of a profile, unless it says how many.
pub const PROFILED_STEPS: u64 = 20;

/// What is asked of a run, and its live values.
pub struct Control {
    /// The trainer's settings as they are now.
    pub trainer: Trainer,
    /// Live scalars as they are now.
    pub live: BTreeMap<String, f64>,
    /// `live` or `trainer` changed since the loop last looked.
    pub changed: Vec<Change>,
    /// Every change so far, as checkpoints keep it.
    pub history: Vec<Change>,
    /// No steps until further notice.
    pub paused: bool,
    /// Steps that are allowed while paused.
    pub steps_allowed: u64,
    /// Evaluate at the next boundary.
    pub evaluate: bool,
    /// Save at the next boundary: the reasons, and whether to keep it for good.
    pub checkpoint: Option<(String, bool)>,
    /// End at the next boundary, and who asked.
    pub stop: Option<String>,
    /// End as done at the next boundary: the reason that a callback gave.
    pub finish: Option<String>,
    /// Leave the state in this file for a process that goes on with it, and end.
    pub hand_over: Option<PathBuf>,
    /// Where the process beside this one is asked for a new worker; none in a process without one.
    pub side: Option<SideDir>,
    /// The last command that changed something, for exact resume.
    pub last_command: i64,
    /// An evaluation that a stop cut short: what goes on from the checkpoint begins with it.
    pub unfinished: Vec<String>,
    /// Profiles to begin at the next boundary. Their commands are answered when they are done.
    pub profiles: Vec<Profile>,
    // Changes of an earlier process, not yet reached again.
    replay: VecDeque<Change>,
}

/// A live value that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Steps done at that time: it counts from the next one.
    pub step: u64,
    /// `optimizer.lr`, `trainer.budget`.
    pub key: String,
    /// Before.
    pub old: Value,
    /// After.
    pub new: Value,
    /// A person, or a callback.
    pub who: String,
    /// The command, if a person's.
    pub command: Option<i64>,
}

/// What a checkpoint keeps of all this, and of the clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Seconds trained.
    pub seconds: f64,
    /// What the schedule was told.
    pub total_steps: f64,
    /// Live scalars.
    pub live: BTreeMap<String, f64>,
    /// Settings of the trainer.
    pub trainer: Option<Trainer>,
    /// The same as the process that saved began with: the recipe's.
    pub trainer_given: Option<Trainer>,
    /// Every change so far.
    pub history: Vec<Change>,
    /// See [`Control`].
    pub last_command: i64,
    /// See [`Control`].
    pub finish: Option<String>,
    /// See [`Control`].
    pub unfinished: Vec<String>,
    /// See [`Control`]; a reload leaves a paused run paused.
    pub paused: bool,
    /// See [`Control`].
    pub steps_allowed: u64,
    /// Best value of the monitored metric.
    pub best: Option<f64>,
}

impl Control {
    /// Nothing is asked yet.
    pub fn new(trainer: Trainer, live: BTreeMap<String, f64>, saved: Saved, replay: Vec<Change>) -> Control {
        Control {
            trainer,
            live,
            changed: vec![],
            history: saved.history,
            paused: saved.paused,
            steps_allowed: saved.steps_allowed,
            evaluate: false,
            checkpoint: None,
            stop: None,
            finish: saved.finish,
            hand_over: None,
            side: None,
            last_command: saved.last_command,
            unfinished: saved.unfinished,
            profiles: vec![],
            replay: replay.into(),
        }
    }

    /// Takes the commands that came, and answers each.
    pub fn poll(&mut self, assembly: &Assembly, journal: &Journal, at: Position) {
        for command in journal.writer.pending_commands() {
            self.take(&command, assembly, journal, at);
        }
    }

    /// Carries out a command and answers it; a profile is answered by the loop.
    pub fn take(&mut self, command: &Command, assembly: &Assembly, journal: &Journal, at: Position) {
        if command.kind == "profile" {
            match counted(&command.args["steps"], PROFILED_STEPS) {
                Ok(steps) => self.profiles.push(Profile { command: command.id, who: command.who.clone(), wanted: steps, left: steps }),
                Err(sentence) => journal.writer.complete_command(command.id, Err(&sentence)),
            }
            return;
        }
        let outcome = self.carry_out(command, assembly, at);
        match &outcome {
            Ok(remark) if command.kind != "set" => {
                let message = if remark.is_empty() { command.kind.clone() } else { format!("{}: {remark}", command.kind) };
                let event = Event { command_id: Some(command.id), ..Event::new(at.step, &command.kind, &command.who, message) };
                journal.event(at, event);
            }
            _ => self.tell_changes(journal, at),
        }
        journal.writer.complete_command(command.id, outcome.as_ref().map(String::as_str).map_err(String::as_str));
    }

    fn carry_out(&mut self, command: &Command, assembly: &Assembly, at: Position) -> Result<String, String> {
        let step = at.step;
        match command.kind.as_str() {
            "pause" => {
                (self.paused, self.steps_allowed) = (true, 0);
                Ok(format!("paused after step {step}"))
            }
            "resume" => {
                self.paused = false;
                Ok(format!("goes on after step {step}"))
            }
            "step" => {
                let steps = counted(&command.args["steps"], 1)?;
                (self.paused, self.steps_allowed) = (true, self.steps_allowed + steps);
                Ok(format!("{steps} from step {step}"))
            }
            "eval" => {
                self.evaluate = true;
                Ok(format!("at step {step}"))
            }
            "checkpoint" => {
                self.checkpoint = Some(("command".into(), true));
                Ok(format!("at step {step}, kept for good"))
            }
            "stop" => {
                self.stop = Some(command.who.clone());
                Ok(format!("after step {step}"))
            }
            "set" => {
                let key = command.args["key"].as_str().ok_or("set wants a key and a value")?;
                self.set(assembly, key, &command.args["value"], &command.who, Some(command.id), step)
            }
            "hand_over" => {
                let path = command.args["path"].as_str().ok_or("hand_over wants a path")?;
                self.hand_over = Some(path.into());
                Ok(String::new())
            }
            "reload" => {
                let side = self.side.as_ref().filter(|side| side.reloads_file().exists());
                let side =
                    side.ok_or("nothing beside this process starts a new one: stop the run, and resume it with the rebuilt plugin")?;
                std::fs::write(side.reload_file(), "").map_err(|error| format!("cannot ask for a new process: {error}"))?;
                Ok("a new process loads the plugins and takes the run over when it is ready".into())
            }
            // A rebuild that failed: the run goes on as it is, and the event says why.
            "reload_failed" => Ok(command.args["message"].as_str().unwrap_or_default().into()),
            other => Err(format!(
                "there is no command `{other}`: a run takes pause, resume, step, eval, checkpoint, stop, reload, set and profile"
            )),
        }
    }

    /// What can be changed while the run goes on, for those who only have its store: each key with its present value, its range where a plugin's
    /// schema has one, and what it is.
    pub fn live_event(&self, assembly: &Assembly, step: u64) -> Event {
        let trainer = serde_json::to_value(&self.trainer).expect("trainer settings are plain data");
        let scalars = self.live.iter().map(|(key, value)| {
            let mut told = json!({ "key": key, "value": value });
            let schema = schema_of(assembly, key);
            for (name, words) in [("minimum", ["minimum", "exclusiveMinimum"]), ("maximum", ["maximum", "exclusiveMaximum"])] {
                told[name] = words.iter().find_map(|word| schema.get(word)).cloned().unwrap_or_default();
            }
            told["doc"] = schema["description"].clone();
            told
        });
        let settings = LIVE_SETTINGS.iter().map(|name| {
            let minimum = trainer[*name].is_u64().then_some(0);
            json!({ "key": format!("trainer.{name}"), "value": trainer[*name], "minimum": minimum, "doc": setting_doc(name) })
        });
        let settings: Vec<Value> = scalars.chain(settings).collect();
        let reloads = self.side.as_ref().is_some_and(|side| side.reloads_file().exists());
        let keys: Vec<&str> = self.live.keys().map(String::as_str).chain(LIVE_SETTINGS).collect();
        let new = json!({ "settings": settings, "reloads": reloads });
        Event { new: Some(new), ..Event::new(step, "live", "worker", format!("can be changed: {}", keys.join(", "))) }
    }

    /// Changes a live scalar or setting; answers with old and new value.
    pub fn set(
        &mut self,
        assembly: &Assembly,
        key: &str,
        value: &Value,
        who: &str,
        command: Option<i64>,
        step: u64,
    ) -> Result<String, String> {
        let old = self.put(assembly, key, value)?;
        let remark = format!("{key}: {old} -> {value}, from step {} on", step + 1);
        let change = Change { step, key: key.into(), old, new: value.clone(), who: who.into(), command };
        self.history.push(change.clone());
        self.changed.push(change);
        self.last_command = command.unwrap_or(self.last_command);
        Ok(remark)
    }

    /// Puts back the changes that an earlier process made at this step after the checkpoint.
    pub fn replay(&mut self, assembly: &Assembly, step: u64) {
        while let Some(change) = self.replay.pop_front_if(|change| change.step <= step) {
            // It was possible then; a plugin that refuses it now has other settings.
            if self.put(assembly, &change.key, &change.new).is_ok() {
                self.last_command = change.command.unwrap_or(self.last_command);
                self.history.push(change.clone());
                self.changed.push(Change { command: None, who: String::new(), ..change });
            }
        }
    }

    /// Records what changed since the last call as events; changes that are put back have theirs already.
    pub fn tell_changes(&self, journal: &Journal, at: Position) {
        for change in self.changed.iter().filter(|change| !change.who.is_empty()) {
            let message = format!("{}: {} -> {}", change.key, change.old, change.new);
            journal.event(
                at,
                Event {
                    old: Some(change.old.clone()),
                    new: Some(change.new.clone()),
                    command_id: change.command,
                    ..Event::new(change.step, "set", &change.who, message)
                },
            );
        }
    }

    // Checks and stores a value; the one before.
    fn put(&mut self, assembly: &Assembly, key: &str, value: &Value) -> Result<Value, String> {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        if let Some(old) = self.live.get(key).copied() {
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            let Some(number) = number.filter(|number| (*number as f32).is_finite()) else {
                return Err(format!("`{key}` wants a number, got {value}"));
            };
            self.check_range(assembly, &path, number)?;
            self.live.insert(key.into(), number);
            return Ok(json!(old));
        }
        match (path[0].as_str(), path.get(1)) {
            ("trainer", Some(field)) if path.len() == 2 && LIVE_SETTINGS.contains(&field.as_str()) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let old = serde_json::to_value(&self.trainer).expect("trainer settings are plain data")[field].clone();
                self.trainer = self.trainer.with(&path[1..], &text, key).map_err(|error| error.to_string())?;
                Ok(old)
            }
            _ => {
                let settings: Vec<String> = LIVE_SETTINGS.iter().map(|name| format!("trainer.{name}")).collect();
                let known: Vec<&str> = self.live.keys().chain(&settings).map(String::as_str).collect();
                let hint = did_you_mean(key, known.iter().copied());
                Err(format!("`{key}` cannot be changed while the run goes on{hint}; what can: {}", known.join(", ")))
            }
        }
    }

    // A live scalar that is a field of a component must be a value that the component takes.
    fn check_range(&mut self, assembly: &Assembly, path: &[String], number: f64) -> Result<(), String> {
        if path[0] == "trainer" {
            let mut trainer = self.trainer.clone();
            match (&mut trainer.clip, path.get(1).map(String::as_str)) {
                (Some(Clip::Norm(bound) | Clip::Value(bound) | Clip::Adaptive(bound)), Some("clip")) => *bound = number,
                _ => trainer = trainer.with(&path[1..], &number.to_string(), &path.join(".")).map_err(|error| error.to_string())?,
            }
            trainer.check(&path.join(".")).map_err(|error| error.to_string())?;
            self.trainer = trainer;
            return Ok(());
        }
        let slot_words = if LISTS.contains(&path[0].as_str()) { 2 } else { 1 };
        if path.len() <= slot_words {
            return Ok(());
        }
        let (slot, field) = (path[..slot_words].join("."), &path[slot_words..]);
        let mut config = &assembly.resolved.component(&slot).config;
        for word in field {
            match config.get(word) {
                Some(below) => config = below,
                // A live scalar that its author named otherwise than a setting: there is no range to check.
                None => return Ok(()),
            }
        }
        assembly.with_field(&slot, field, &json!(number)).map(drop).map_err(|error| crate::outcome::sentence(&error))
    }
}

/// What a live scalar's plugin says of it: description and range. Nothing for one that is no setting.
fn schema_of(assembly: &Assembly, key: &str) -> Value {
    let words: Vec<&str> = key.split('.').collect();
    if words[0] == "trainer" {
        let doc = match words.last() {
            Some(&"clip") => "Bound on the gradients",
            Some(&"lr") => "Factor on the learning rate of this group",
            Some(&"weight_decay") => "Factor on the weight decay of this group",
            _ => return Value::Null,
        };
        return json!({ "minimum": 0, "description": doc });
    }
    let slot_words = if LISTS.contains(&words[0]) { 2 } else { 1 };
    let slot = words[..slot_words.min(words.len())].join(".");
    let is_slot = assembly.resolved.components.contains_key(&slot) || slot_words == 2;
    let Some(root) = assembly.schema(&slot).filter(|_| is_slot) else { return Value::Null };
    let follow = |schema: &Value| -> Value {
        let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        let mut found = pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema).clone();
        // What stands beside a reference describes this place, and not all of its kind.
        if let Some(doc) = schema.get("description") {
            found["description"] = doc.clone();
        }
        found
    };
    words[slot_words.min(words.len())..].iter().fold(root.clone(), |schema, word| follow(&schema["properties"][*word]))
}

/// What a live setting of the trainer is.
fn setting_doc(name: &str) -> &'static str {
    match name {
        "budget" => "How long to train: `3ep`, `500st`, `30min`",
        "log_every" => "When to report the training metrics; always at the end",
        "evaluate_every" => "When to evaluate; always at the end",
        "checkpoint_every" => "When to save; always at the end and on a stop",
        "keep_last" => "Newest checkpoints that are kept",
        "keep_best" => "Best checkpoints that are kept",
        _ => "Also keep one checkpoint in every span of this length for good",
    }
}

// A number of steps, or the default where none is given.
fn counted(value: &Value, default: u64) -> Result<u64, String> {
    match value {
        Value::Null => Ok(default),
        value => value.as_u64().filter(|steps| *steps > 0).ok_or(format!("steps must be a whole number above 0, got {value}")),
    }
}
