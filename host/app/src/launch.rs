//! From a recipe and what it begins with to a run that trains: a new one, one that goes on, a branch of another.
//!
//! Everything that can be wrong is found before anything is written: a mistake leaves no run behind and changes none.

use crate::assemble::Assembly;
use crate::control::{Change, Control, LIVE_SETTINGS, Saved};
use crate::device_cache::FolderCache;
use crate::drive::{Beginning, Driver, End, retention, state_type};
use crate::journal::Journal;
use crate::loader::{CallbackHandle, Catalog, LoggerHandle};
use crate::observers::Observers;
use crate::outcome::{Exit, OrExit, exit, sentence};
use crate::recipe::{Recipe, RecipeError, ResolvedRecipe, Trainer, differences};
use crate::saver::Saver;
use crate::side::{Reload, SideDir};
use crate::summary;
use crate::train::{Begin, DryRun, Restored, Run, Stopwatch};
use crate::weights::InitOptions;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use solstice_engine::device::{self, DeviceInfo, DeviceOptions, DeviceRequest};
use solstice_engine::gpu::Sources;
use solstice_engine::{Precision, Runtime, Session};
use solstice_plugin_abi::run::RunFacts;
use solstice_plugin_abi::wire::DatasetSpec;
use solstice_store::{
    Checkpoint, Event, NewRun, Parent, PluginInfo, RunReader, RunState, RunUpdate, RunWriter, StoreError, load_checkpoint,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A run to be.
pub struct Launch {
    /// Its recipe, command line applied.
    pub recipe: Recipe,
    /// What it begins with.
    pub origin: Origin,
    /// As given to `--device`.
    pub device: String,
    /// Shaders of a GPU.
    pub shaders: Sources,
    /// Folder of a new run.
    pub runs_dir: PathBuf,
    /// Where the recipe came from.
    pub recipe_path: Option<PathBuf>,
    /// The command, for people to read.
    pub command_line: String,
    /// Say what the model is made of before training.
    pub verbose: bool,
}

/// What a run begins with.
pub enum Origin {
    /// First values, or the weights of a file.
    New(Option<(PathBuf, InitOptions)>),
    /// The run in this folder goes on.
    Resume {
        /// Its folder.
        folder: PathBuf,
        /// From here; from its first step when there is none.
        checkpoint: Option<Checkpoint>,
        /// Somebody asked for this very checkpoint: later changes of live values are forgotten.
        chosen: bool,
        /// Take what fits.
        partial: bool,
    },
    /// The run in this folder goes on with rebuilt plugins or shaders, from the state that the process before leaves.
    Reload(Reload),
    /// A new run goes on from a checkpoint of another.
    Fork {
        /// The other one's id.
        parent: String,
        /// Its recipe.
        resolved: Box<ResolvedRecipe>,
        /// From here.
        checkpoint: Checkpoint,
        /// Take what fits.
        partial: bool,
    },
}

/// Trains; returns the exit code.
pub fn launch(launch: Launch, catalog: &Catalog, side: &SideDir, interrupted: &AtomicBool, mut watch: Stopwatch) -> Result<i32, Exit> {
    let mut assembly = Assembly::new(&launch.recipe, catalog).or_exit(exit::USAGE)?;
    watch.lap("plugins");
    let (runtime, device) = open_device(&launch.device, &launch.shaders)?;
    if assembly.resolved.trainer.precision == Precision::Mixed && !device.tensor_cores.is_empty() {
        eprintln!("{}: {}", device.name, device.tensor_cores);
    }
    watch.lap("device");
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    watch.lap("open data");
    let mut start = Start::of(&launch.origin, &mut assembly).or_exit(exit::USAGE)?;
    let begin = std::mem::take(&mut start.begin);
    let started = Run::start(&assembly, &spec, Session::new(runtime), begin, &mut watch);
    if started.as_ref().is_err_and(|error| error.is::<DryRun>()) {
        return Ok(exit::OK);
    }
    let (mut run, mut restored) = started.or_exit(exit::FAILED)?;
    if let Origin::Reload(reload) = &launch.origin {
        watch.lap("ready");
        let checkpoint = wait_for_state(reload, interrupted).or_exit(exit::FAILED)?;
        watch.lap("wait");
        start = Start::from_checkpoint(&launch.origin, &mut assembly, &checkpoint, true).or_exit(exit::FAILED)?;
        restored = run.adopt(std::mem::take(&mut start.begin)).or_exit(exit::FAILED)?;
        watch.lap("restore");
    }
    let live = run.live().clone();
    let mut control = Control::new(assembly.resolved.trainer.clone(), live, start.saved.clone(), start.replay);
    control.side = Some(side.clone());
    if launch.verbose {
        eprintln!("{}", summary::table(&summary::of_run(&assembly, &run)));
    }
    // The callbacks check their settings against the run before there is one.
    let mut facts = run_facts(&assembly, &run, &spec);
    let (callbacks, loggers) = (std::mem::take(&mut assembly.callbacks), std::mem::take(&mut assembly.loggers));
    let observers = Observers::start(callbacks, &facts, &start.callbacks).or_exit(exit::USAGE)?;

    // From here on there is a run on disk.
    let writer = Arc::new(open_writer(&launch, &assembly, &run, &device, &restored).or_exit(exit::FAILED)?);
    remember(&writer);
    let seen = RunReader::open(writer.path()).and_then(|reader| reader.rewinds_since(0)).unwrap_or_default();
    let first_row = seen.last().map_or(0, |rewind| rewind.scalar_id + 1);
    std::fs::write(side.run_file(), format!("{}\n{first_row}", writer.path().to_string_lossy())).or_exit(exit::FAILED)?;
    watch.lap("run folder");
    facts.id = writer.id().to_owned();
    facts.folder = writer.path().to_string_lossy().into_owned();
    let rows = RunReader::open(writer.path()).and_then(|reader| reader.checkpoints()).unwrap_or_default();
    let saver = Saver::start(writer.clone(), rows, retention(&assembly, &run, &assembly.resolved.trainer));
    let journal = Journal::open(writer.clone(), loggers, &facts);
    summary::log(&writer, &assembly, &run);
    watch.lap("summary");
    let stamp = stamp(&assembly, &device, &launch.shaders);
    let beginning = match &launch.origin {
        Origin::New(_) => Beginning::New,
        Origin::Reload(reload) => Beginning::Reloaded(reload.clone(), restored.to_string()),
        _ if run.step == 0 => Beginning::New,
        _ => Beginning::Resumed,
    };
    let mut driver = Driver::new(&assembly, run, control, journal, saver, observers, stamp, start.saved.best, interrupted);
    if let Origin::Fork { parent, .. } = &launch.origin {
        let fit = if restored.is_exact() { String::new() } else { format!(": {restored}") };
        driver.save_branch(&format!("forked from {parent} at step {}{fit}", driver.run.step)).or_exit(exit::FAILED)?;
    }
    writer.event(driver.control.live_event(&assembly, driver.run.step));
    let outcome = driver.train(&beginning, &mut watch);
    let code = match &outcome {
        Ok(End::Done(reason)) => {
            writer.state(RunState::Done, reason.as_deref());
            exit::OK
        }
        Ok(End::Stopped(who)) => {
            writer.state(RunState::Stopped, Some(&format!("stopped {who}")));
            exit::STOPPED
        }
        Ok(End::Diverged(sentence)) => {
            writer.state(RunState::Failed, Some(sentence));
            eprintln!("error: {sentence}");
            exit::DIVERGED
        }
        Ok(End::HandedOver(_)) => exit::HANDED_OVER,
        Err(error) => {
            writer.state(RunState::Failed, Some(&sentence(error)));
            exit::FAILED
        }
    };
    let _ = std::fs::copy(side.log_file(), writer.path().join("worker.log"));
    // Waits for the last checkpoint, the loggers and the last rows, in this order.
    let Driver { saver, journal, .. } = driver;
    drop(saver);
    drop(journal);
    drop(writer);
    outcome.map(|_| code).or_exit(exit::FAILED)
}

/// A run that nobody keeps, with all that belongs to one: for a measurement of the loop. Its store lies in `folder`; `trainer` has the cadences that count.
pub fn rehearse<'a>(
    assembly: &'a Assembly,
    (callbacks, loggers): (Vec<(String, CallbackHandle)>, Vec<(String, LoggerHandle)>),
    run: Run,
    mut facts: RunFacts,
    trainer: Trainer,
    folder: &Path,
    interrupted: &'a AtomicBool,
) -> Result<Driver<'a>> {
    let new = NewRun { name: assembly.resolved.name.clone(), ..NewRun::default() };
    let writer = Arc::new(RunWriter::create(folder, &new)?);
    facts.id = writer.id().to_owned();
    facts.folder = writer.path().to_string_lossy().into_owned();
    let observers = Observers::start(callbacks, &facts, &BTreeMap::new())?;
    let journal = Journal::open(writer.clone(), loggers, &facts);
    let saver = Saver::start(writer, vec![], retention(assembly, &run, &trainer));
    let control = Control::new(trainer, run.live().clone(), Saved::default(), vec![]);
    Ok(Driver::new(assembly, run, control, journal, saver, observers, BTreeMap::new(), None, interrupted))
}

/// The parts of a checkpoint that a run begins with.
#[derive(Default)]
struct Start {
    begin: Begin,
    saved: Saved,
    callbacks: BTreeMap<String, String>,
    replay: Vec<Change>,
}

impl Start {
    /// Reads them; settings that were changed live come back into the recipe.
    fn of(origin: &Origin, assembly: &mut Assembly) -> Result<Start> {
        let (checkpoint, partial) = match origin {
            Origin::New(init) => return Ok(Start { begin: Begin { init: init.clone(), ..Begin::default() }, ..Start::default() }),
            Origin::Reload(_) => return Ok(Start::default()),
            Origin::Resume { folder, checkpoint: None, .. } => {
                return Ok(Start { replay: changes_after(folder, 0)?, ..Start::default() });
            }
            Origin::Resume { checkpoint: Some(checkpoint), partial, .. } => (checkpoint, *partial),
            Origin::Fork { checkpoint, partial, .. } => (checkpoint, *partial),
        };
        Start::from_checkpoint(origin, assembly, checkpoint, partial)
    }

    fn from_checkpoint(origin: &Origin, assembly: &mut Assembly, checkpoint: &Checkpoint, partial: bool) -> Result<Start> {
        let info = &checkpoint.info;
        let part = |key: &str| info.metadata.get(key).map_or("{}", String::as_str);
        let mut saved: Saved = serde_json::from_str(part("control")).context("the checkpoint's record of live values")?;
        let callbacks = serde_json::from_str(part("callbacks")).context("the checkpoint's record of callbacks")?;
        let mut replay = vec![];
        match origin {
            Origin::Fork { resolved, .. } => {
                // What the fork changes is the fork's; the rest is as it was at that step.
                let changed = differences(resolved, &assembly.resolved);
                saved.live.retain(|key, _| !changed.contains_key(key));
                take_settings(&mut assembly.resolved, &saved, |key| !changed.contains_key(key));
                (saved.finish, saved.paused) = (None, false);
            }
            Origin::Resume { folder, chosen, .. } => {
                saved.paused = false;
                // A setting of the recipe that is not what the checkpoint's process began with is newer than the checkpoint: a resume changed it, and may
                // have died before it saved. Not so for somebody who goes back: the settings of that step are asked for.
                let mut given = stored_recipe(folder)?;
                if let (false, Some(trainer)) = (*chosen, &saved.trainer_given) {
                    given.trainer = trainer.clone();
                }
                let changed = differences(&given, &assembly.resolved);
                take_settings(&mut assembly.resolved, &saved, |key| !changed.contains_key(key));
                if *chosen {
                    saved.finish = None;
                } else {
                    replay = changes_after(folder, saved.last_command)?;
                }
            }
            Origin::Reload(_) => take_settings(&mut assembly.resolved, &saved, |_| true),
            Origin::New(_) => {}
        }
        let tensors = checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), state_type(tensor), tensor.bytes.clone())).collect();
        let begin = Begin {
            step: info.at.step,
            seconds: saved.seconds,
            total_steps: Some(saved.total_steps),
            tensors,
            partial,
            live: saved.live.clone(),
            init: None,
        };
        Ok(Start { begin, saved, callbacks, replay })
    }
}

/// Settings of the trainer that were changed while the run went on.
fn take_settings(resolved: &mut ResolvedRecipe, saved: &Saved, is_wanted: impl Fn(&str) -> bool) {
    let Some(then) = &saved.trainer else { return };
    let then = serde_json::to_value(then).expect("trainer settings are plain data");
    let mut now = serde_json::to_value(&resolved.trainer).expect("trainer settings are plain data");
    for setting in LIVE_SETTINGS.into_iter().filter(|setting| is_wanted(&format!("trainer.{setting}"))) {
        now[setting] = then[setting].clone();
    }
    resolved.trainer = serde_json::from_value(now).expect("both were trainer settings");
}

/// The resolved recipe that a run was made with.
pub fn stored_recipe(folder: &Path) -> Result<ResolvedRecipe> {
    let config = RunReader::open(folder)?.info()?.config;
    serde_json::from_value(config).with_context(|| format!("{}: its recipe is of another version of Solstice", folder.display()))
}

/// Changes that people made after the command that a checkpoint knows, unless somebody has since gone back to an earlier checkpoint.
fn changes_after(folder: &Path, last_command: i64) -> Result<Vec<Change>> {
    let events = RunReader::open(folder)?.events_since(0)?;
    let start = events.iter().rposition(|event| event.kind == "rewind").map_or(0, |index| index + 1);
    let changes = events[start..].iter().filter(|event| event.kind == "set" && event.command_id.is_some_and(|id| id > last_command));
    let change = |event: &Event| {
        let key = event.message.split(':').next().unwrap_or_default().to_owned();
        let (old, new) = (event.old.clone().unwrap_or_default(), event.new.clone().unwrap_or_default());
        Change { step: event.step, key, old, new, who: event.who.clone(), command: event.command_id }
    };
    Ok(changes.map(change).collect())
}

/// Says that everything is ready, and waits for the state that the process before leaves.
fn wait_for_state(reload: &Reload, interrupted: &AtomicBool) -> Result<Checkpoint> {
    std::fs::write(&reload.ready, "").context("cannot tell that the new process is ready")?;
    while !reload.state.exists() {
        if interrupted.load(Ordering::Relaxed) {
            bail!("stopped before it took the run over");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let checkpoint = load_checkpoint(&reload.state)?;
    // The folder was made for this.
    let _ = reload.state.parent().map(std::fs::remove_dir_all);
    Ok(checkpoint)
}

/// The process before lets go of the run a moment after it has left its state.
fn open_when_free(folder: &Path, wait: bool) -> Result<RunWriter> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match RunWriter::open(folder) {
            Err(StoreError::Locked { .. }) if wait && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            outcome => return Ok(outcome?),
        }
    }
}

/// What callbacks and loggers are told about a run; id and folder come with the folder.
pub fn run_facts(assembly: &Assembly, run: &Run, spec: &DatasetSpec) -> RunFacts {
    RunFacts {
        id: String::new(),
        name: assembly.resolved.name.clone(),
        folder: String::new(),
        config: serde_json::to_value(&assembly.resolved).expect("a resolved recipe is plain data"),
        seed: assembly.resolved.trainer.seed,
        batch_size: run.batch_size,
        epoch_steps: run.epoch.steps,
        epoch_samples: run.epoch.samples,
        total_steps: (run.total_steps > 0.0).then_some(run.total_steps as u64),
        first_step: run.step,
        evaluated: run.evaluated_splits(),
        facts: spec.facts.clone(),
        fields: spec.fields.clone(),
    }
}

/// What every checkpoint says besides the state.
fn stamp(assembly: &Assembly, device: &DeviceInfo, shaders: &Sources) -> BTreeMap<String, String> {
    let plugins: Vec<String> =
        assembly.plugins.iter().map(|plugin| format!("{} {} {}", plugin.manifest.name, plugin.manifest.version, plugin.sha256)).collect();
    let parts = [
        ("seed", assembly.resolved.trainer.seed.to_string()),
        ("config", serde_json::to_string(&assembly.resolved).expect("a resolved recipe is plain data")),
        ("recipe", assembly.resolved.to_ron()),
        ("plugins", plugins.join("\n")),
        ("shaders", shaders_hash(shaders)),
        ("adapter", device.name.clone()),
        ("tuning", device.tuning.clone()),
        ("tensor_cores", device.tensor_cores.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn open_writer(launch: &Launch, assembly: &Assembly, run: &Run, device: &DeviceInfo, restored: &Restored) -> Result<RunWriter> {
    let resolved = &assembly.resolved;
    let plugins: Vec<PluginInfo> = assembly
        .plugins
        .iter()
        .map(|plugin| PluginInfo {
            name: plugin.manifest.name.clone(),
            version: plugin.manifest.version.clone(),
            hash: plugin.sha256.clone(),
            path: Some(plugin.path.display().to_string()),
            provides: vec![],
        })
        .collect();
    let steps_total = (run.total_steps > 0.0).then_some(run.total_steps as u64);
    let (budget, config) = (resolved.trainer.budget.to_string(), serde_json::to_value(resolved)?);
    let parent = match &launch.origin {
        Origin::Resume { folder, .. } | Origin::Reload(Reload { folder, .. }) => {
            let writer = open_when_free(folder, matches!(launch.origin, Origin::Reload(_)))?;
            if matches!(launch.origin, Origin::Resume { .. }) {
                writer.rewind(run.step)?;
            }
            writer.plugins(&plugins);
            writer.update(RunUpdate {
                config: Some(config),
                command_line: Some(launch.command_line.clone()),
                device: Some(launch.device.clone()),
                adapter: Some(device.name.clone()),
                shaders_hash: Some(shaders_hash(&launch.shaders)),
                budget: Some(budget),
                steps_total,
                steps_per_epoch: Some(run.epoch.steps),
            });
            std::fs::write(folder.join("recipe.ron"), resolved.to_ron()).context("cannot write the recipe of the run")?;
            let fit = if restored.is_exact() { String::new() } else { format!(": {restored}") };
            if matches!(launch.origin, Origin::Resume { .. }) {
                writer.event(Event::new(run.step, "resume", "worker", format!("goes on from step {}{fit}", run.step)));
            }
            if let Origin::Resume { chosen: true, .. } = &launch.origin {
                writer.event(Event::new(
                    run.step,
                    "rewind",
                    "worker",
                    format!("step {} was asked for: what was changed after it is forgotten", run.step),
                ));
            }
            // A plugin may take the process down in its first step: what was changed for this resume must be on disk by then. (A full disk is told by
            // `watch_store`; it ends no run.)
            let _ = writer.flush();
            return Ok(writer);
        }
        Origin::Fork { parent, resolved: before, .. } => {
            let changes = differences(before, resolved).into_iter().map(|(key, (old, new))| (key, serde_json::json!([old, new])));
            Some(Parent { id: parent.clone(), step: run.step, changes: changes.collect() })
        }
        Origin::New(_) => None,
    };
    Ok(RunWriter::create(
        &launch.runs_dir,
        &NewRun {
            name: resolved.name.clone(),
            recipe_path: launch.recipe_path.as_ref().map(|path| path.display().to_string()),
            recipe: resolved.to_ron(),
            config,
            command_line: Some(launch.command_line.clone()),
            seed: resolved.trainer.seed,
            device: Some(launch.device.clone()),
            adapter: Some(device.name.clone()),
            shaders_hash: Some(shaders_hash(&launch.shaders)),
            plugins,
            parent,
            budget: Some(budget),
            steps_total,
            steps_per_epoch: Some(run.epoch.steps),
        },
    )?)
}

/// The device that `--device` names.
pub fn open_device(name: &str, shaders: &Sources) -> Result<(Box<dyn Runtime>, DeviceInfo), Exit> {
    let request: DeviceRequest = name.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    device::open_with(&request, &device_options(shaders)).or_exit(exit::FAILED)
}

/// What devices are opened with: shader files, and the user's cache.
pub fn device_options(shaders: &Sources) -> DeviceOptions {
    DeviceOptions { sources: shaders.clone(), cache: Some(Arc::new(FolderCache::of_user())) }
}

/// SHA-256 over the shader files, hexadecimal.
fn shaders_hash(shaders: &Sources) -> String {
    let mut hasher = Sha256::new();
    for (name, text) in shaders.files() {
        hasher.update(name);
        hasher.update([0]);
        hasher.update(text);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses changes that are not for a run that goes on.
pub fn check_resumable(before: &ResolvedRecipe, after: &ResolvedRecipe, place: &str) -> Result<()> {
    const FREE: [&str; 4] = ["loader_threads", "resident", "sanity_batches", "evaluate_each"];
    // What only watches may come and go; a crash of a callback must not be the end of its run.
    const WATCHING: [&str; 2] = ["callbacks", "loggers"];
    let is_free = |key: &str| {
        if WATCHING.contains(&key.split('.').next().unwrap_or_default()) {
            return true;
        }
        let setting = key.strip_prefix("trainer.").and_then(|rest| rest.split('.').next());
        setting.is_some_and(|setting| LIVE_SETTINGS.contains(&setting) || FREE.contains(&setting))
    };
    let changed = differences(before, after);
    if let Some((key, (old, new))) = changed.iter().find(|(key, _)| !is_free(key)) {
        bail!(RecipeError(format!(
            "{place}: `{key}` was {old} and would be {new}: a run that goes on keeps what it trains; `solstice fork` makes a new run with the change"
        )));
    }
    Ok(())
}

// ---- the run of this process, for those who end it early ---------------------------------------------------------------------------------------

static CURRENT: Mutex<Weak<RunWriter>> = Mutex::new(Weak::new());

fn remember(writer: &Arc<RunWriter>) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(writer);
}

/// Marks the run of this process, if there is one, as failed; for a process that is about to end in the middle of a step.
pub fn abandon(reason: &str) {
    if let Some(writer) = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
        writer.state(RunState::Failed, Some(reason));
        let _ = writer.flush();
    }
}
