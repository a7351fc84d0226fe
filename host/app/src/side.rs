//! What a worker and its parent share besides the run's store.

use crate::cli::Command;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Where the worker tells its parent things that must survive a crash: plain files in a folder of the parent's.
#[derive(Clone, Debug)]
pub struct SideDir(pub PathBuf);

impl SideDir {
    /// Folder of the run, once there is one.
    pub fn run_file(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The plugin call that is under way.
    pub fn entering_file(&self) -> PathBuf {
        self.0.join("entering")
    }

    /// Is there when the parent starts another worker for this run on request, with the plugins' files as they are then.
    pub fn reloads_file(&self) -> PathBuf {
        self.0.join("reloads")
    }

    /// That request.
    pub fn reload_file(&self) -> PathBuf {
        self.0.join("reload")
    }

    /// What the worker and its plugins print.
    pub fn log_file(&self) -> PathBuf {
        self.0.join("worker.log")
    }
}

/// What a worker is told on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The command to carry out.
    pub command: Command,
    /// Standard error is a terminal.
    pub color: bool,
    /// Take a run over from the worker before instead.
    pub reload: Option<Reload>,
    /// Folder with shader files that count instead of the built-in ones.
    pub shaders: Option<PathBuf>,
}

impl Job {
    /// An ordinary job.
    pub fn of(command: &Command) -> Job {
        Job { command: command.clone(), color: std::io::stderr().is_terminal(), reload: None, shaders: None }
    }
}

/// How a process takes a run over from the one before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reload {
    /// The run's folder.
    pub folder: PathBuf,
    /// Where the process before leaves the state, once `ready` is there.
    pub state: PathBuf,
    /// Tells that everything is traced and compiled: a file that is made then.
    pub ready: PathBuf,
    /// What changed: `mlp`, `shaders/gather.wgsl`.
    pub what: String,
    /// When it was saved, in seconds since 1970.
    pub changed_time: f64,
    /// Seconds that the build took.
    pub build_secs: f64,
}
