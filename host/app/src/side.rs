//! What a worker and its parent share besides the run's store.

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

    /// What the worker and its plugins print.
    pub fn log_file(&self) -> PathBuf {
        self.0.join("worker.log")
    }
}
