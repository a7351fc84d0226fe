//! Hot reload, the user's side: sources are watched, what changed is built, and a new worker takes the run over from the one before.
//!
//! The new worker loads, traces and compiles while the old one trains on; only then does the old one leave its state, in memory-backed storage, and end.
//! Whatever fails on the way (the compiler, a trace, a shader) leaves the old one as it is.

use crate::cli::Command;
use crate::commands::ctl::user;
use crate::outcome::exit;
use crate::side::{Job, Reload};
use crate::supervise::{Output, Worker};
use crate::watch::{Building, Change, PluginSource, Watch};
use anyhow::Result;
use serde_json::json;
use solstice_store::{PluginInfo, send_command};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::SystemTime;

/// Where a file lives in memory, on systems that have such a place.
const MEMORY: &str = "/dev/shm";

/// Watches the sources of a run and brings what changed into it.
pub struct Reloader {
    command: Command,
    folder: PathBuf,
    sources: Vec<PluginSource>,
    shaders: Option<PathBuf>,
    watch: Watch,
    color: bool,
    warming: Option<Building>,
    // Plugins whose sources changed, with the time of the save; the first is being built.
    waiting: VecDeque<(usize, f64)>,
    building: Option<Building>,
    next: Option<Next>,
}

/// A worker that is about to take over.
struct Next {
    worker: Worker,
    reload: Reload,
    asked: bool,
    // Removed with it, unless it takes over.
    state: tempfile::TempDir,
}

impl Reloader {
    /// Watches the plugins of the run in `folder`, and the shaders of a development build; and a sentence for each plugin that cannot be watched.
    pub fn start(command: &Command, folder: &Path, plugins: &[PluginInfo], color: bool) -> (Reloader, Vec<String>) {
        let (mut sources, mut notes) = (vec![], vec![]);
        for plugin in plugins {
            let library = plugin.path.clone().unwrap_or_default();
            match PluginSource::find(Path::new(&library), &plugin.name) {
                Ok(source) => sources.push(source),
                Err(note) => notes.push(note),
            }
        }
        let shaders = solstice_engine::gpu::development_dir();
        let watch = Watch::new(&sources, shaders.clone());
        let names: Vec<&str> = sources.iter().map(|source| source.package.as_str()).collect();
        let shaders_too = if shaders.is_some() { " and the shaders" } else { "" };
        notes.push(format!("Watching {}{shaders_too}: save a source, and the run goes on with it.", names.join(", ")));
        let (command, folder) = (command.clone(), folder.to_path_buf());
        // Nothing is to be built yet, but cargo's caches are warm afterwards; how it ends does not matter.
        let warming = sources.first().and_then(|source| Building::start(source, color).ok());
        let waiting = VecDeque::new();
        (Reloader { command, folder, sources, shaders, watch, color, warming, waiting, building: None, next: None }, notes)
    }

    /// Watches nothing: reloads when it is asked to.
    pub fn on_request(command: &Command, folder: &Path, color: bool) -> Reloader {
        let (command, folder, watch) = (command.clone(), folder.to_path_buf(), Watch::new(&[], None));
        let (sources, waiting) = (vec![], VecDeque::new());
        Reloader { command, folder, sources, shaders: None, watch, color, warming: None, waiting, building: None, next: None }
    }

    /// Starts a worker with the plugins' files as they are now; [`Reloader::poll`] does the rest. What there is to say.
    pub fn reload(&mut self) -> Option<String> {
        if let Some(mut next) = self.next.take() {
            next.worker.kill();
        }
        self.prepare("plugins", solstice_store::now(), 0.0)
    }

    /// Does what is due; what there is to say. Does not wait.
    pub fn poll(&mut self) -> Vec<String> {
        let mut said = vec![];
        for change in self.watch.changes() {
            // What was on its way is out of date.
            if let Some(mut next) = self.next.take() {
                next.worker.kill();
            }
            match change {
                Change::Plugin { index, files } => {
                    if self.waiting.front().is_some_and(|(first, _)| *first == index) {
                        self.building = None;
                    }
                    self.waiting.retain(|(known, _)| *known != index);
                    self.waiting.push_back((index, saved_time(&files)));
                    said.push(format!("{} changed: building.", self.sources[index].package));
                }
                Change::Shaders { files } => {
                    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let names: Vec<String> = files.iter().map(name).collect();
                    said.extend(self.prepare(&names.join(", "), saved_time(&files), 0.0));
                }
            }
        }
        said.extend(self.build());
        said.extend(self.hand_over());
        said
    }

    /// The worker that takes over, once the one before has ended with `status` to make room for it.
    pub fn successor(&mut self, status: ExitStatus) -> Option<Worker> {
        if status.code() != Some(exit::HANDED_OVER) {
            return None;
        }
        let Next { worker, state, .. } = self.next.take()?;
        // The new worker removes it when it has read it.
        let _ = state.keep();
        Some(worker)
    }

    fn build(&mut self) -> Option<String> {
        let (index, changed_time) = *self.waiting.front()?;
        self.warming = None;
        let Some(building) = &mut self.building else {
            match Building::start(&self.sources[index], self.color) {
                Ok(building) => self.building = Some(building),
                Err(problem) => {
                    self.waiting.pop_front();
                    return Some(self.failed(&problem));
                }
            }
            return None;
        };
        let build = building.poll()?;
        self.building = None;
        self.waiting.pop_front();
        match build.outcome {
            Ok(()) => {
                let source = self.sources[index].again();
                self.watch.set_files(index, &source);
                let name = source.package.clone();
                self.sources[index] = source;
                self.prepare(&name, changed_time, build.secs)
            }
            Err(errors) => Some(self.failed(&errors)),
        }
    }

    /// Starts the worker that will take over.
    fn prepare(&mut self, what: &str, changed_time: f64, build_secs: f64) -> Option<String> {
        let start = || -> Result<Next> {
            let memory = Path::new(MEMORY);
            let mut builder = tempfile::Builder::new();
            builder.prefix("solstice-");
            let state = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }?;
            let reload = Reload {
                folder: self.folder.clone(),
                state: state.path().join("state.safetensors"),
                ready: state.path().join("ready"),
                what: what.to_owned(),
                changed_time,
                build_secs,
            };
            let job = Job { command: self.command.clone(), color: self.color, reload: Some(reload.clone()), shaders: self.shaders.clone() };
            Ok(Next { worker: Worker::start(&job, Output::Logged)?, reload, asked: false, state })
        };
        match start() {
            Ok(next) => {
                self.next = Some(next);
                None
            }
            Err(error) => Some(self.failed(&crate::outcome::sentence(&error))),
        }
    }

    /// Asks the present worker to make room once the next one is ready.
    fn hand_over(&mut self) -> Option<String> {
        let next = self.next.as_mut()?;
        if !next.asked && next.reload.ready.exists() {
            next.asked = true;
            let path = next.reload.state.display().to_string();
            // A run that has just ended has nothing to hand over; its end is told elsewhere.
            let _ = send_command(&self.folder, &user(), "hand_over", &json!({ "path": path }));
        }
        if let Ok(Some(_)) = next.worker.poll() {
            let output = next.worker.new_output();
            self.next = None;
            return Some(self.failed(output.trim()));
        }
        None
    }

    /// Tells the run, so that its history has it, and the person.
    fn failed(&self, problem: &str) -> String {
        let _ = send_command(&self.folder, &user(), "reload_failed", &json!({ "message": problem }));
        format!("{problem}\nNot reloaded: the run goes on as it was.")
    }
}

impl Drop for Reloader {
    /// The run is over: nobody will take it over.
    fn drop(&mut self) {
        if let Some(next) = &mut self.next {
            next.worker.kill();
        }
    }
}

/// When the newest of the files was saved.
fn saved_time(files: &[PathBuf]) -> f64 {
    let modified = files.iter().filter_map(|path| std::fs::metadata(path).ok()?.modified().ok()).max();
    let since = modified.unwrap_or_else(SystemTime::now).duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
