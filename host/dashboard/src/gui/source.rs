//! Where the window's snapshots come from, and where its commands go.

use crate::data::{Library, SentState, Snapshot};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs folders, followed or read once.
#[derive(Clone)]
pub enum Source {
    /// Followed by a thread.
    Live {
        /// The thread.
        library: Arc<Library>,
        /// What it follows.
        folders: Vec<PathBuf>,
    },
    /// Read when it was made and, where there are folders, after each command, on the thread that asks: for tests, where nothing may change by itself.
    Still {
        /// What is read.
        folders: Vec<PathBuf>,
        /// What was read.
        snapshot: Arc<Snapshot>,
        /// What could not be sent.
        failures: Vec<String>,
    },
}

impl Source {
    /// Follows these folders.
    pub fn live(folders: &[PathBuf]) -> Source {
        Source::Live { library: Arc::new(Library::open(folders)), folders: folders.to_vec() }
    }

    /// These folders as they are now.
    pub fn still(folders: &[PathBuf]) -> Source {
        Source::Still { folders: folders.to_vec(), snapshot: Arc::new(Snapshot::read(folders)), failures: Vec::new() }
    }

    /// A snapshot made elsewhere.
    pub fn of(snapshot: Snapshot) -> Source {
        Source::Still { folders: Vec::new(), snapshot: Arc::new(snapshot), failures: Vec::new() }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        match self {
            Source::Live { library, .. } => library.snapshot(),
            Source::Still { snapshot, .. } => snapshot.clone(),
        }
    }

    /// The folders.
    pub fn folders(&self) -> &[PathBuf] {
        match self {
            Source::Live { folders, .. } | Source::Still { folders, .. } => folders,
        }
    }

    /// Calls `wake` whenever there is a new snapshot.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        if let Source::Live { library, .. } = self {
            library.on_change(Box::new(wake));
        }
    }

    /// Sends a command to the run in folder `run`.
    pub fn send(&mut self, run: &Path, kind: &str, args: Value) {
        match self {
            Source::Live { library, .. } => {
                library.send(run, kind, args);
            }
            Source::Still { folders, snapshot, failures } => {
                if let Err(error) = solstice_store::send_command(run, "window", kind, &args) {
                    failures.push(error.to_string());
                }
                if !folders.is_empty() {
                    *snapshot = Arc::new(Snapshot::read(folders));
                }
            }
        }
    }

    /// Why the last command could not be sent, if it could not.
    pub fn failure(&self) -> Option<String> {
        match self {
            Source::Live { library, .. } => {
                let snapshot = library.snapshot();
                let last = snapshot.sent.last()?;
                (last.state == SentState::Failed && last.id.is_none()).then(|| last.reason.clone()).flatten()
            }
            Source::Still { failures, .. } => failures.last().cloned(),
        }
    }
}
