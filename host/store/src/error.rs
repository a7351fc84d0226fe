//! The one error type of this crate: each variant is a sentence that says what, where, what was wanted, what came, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong between a run and the disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), io_advice(source))]
    Io {
        /// What was tried, as a verb: `create`, `write`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("{}: cannot {action}: {source}{}", path.display(), sqlite_advice(source))]
    Sqlite {
        /// What was tried, as a verb.
        action: &'static str,
        /// In which database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// There is a file, but it is not a run store, or no longer one.
    #[error("{}: {problem}", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Written by a later Solstice.
    #[error(
        "{}: written by a newer Solstice (store version {found}; this build reads up to {supported}). Update Solstice to open this run; nothing was changed",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version this build knows.
        supported: u32,
    },
    /// A mirror of a run on another machine that was to be changed from here, or that does not fit what came from there.
    #[error("{}: a mirror of {source_name}: {problem}", path.display())]
    Mirror {
        /// The mirror's folder.
        path: PathBuf,
        /// Where the run is.
        source_name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Another process writes this run.
    #[error("{}: {who} is writing this run, and only one process may. Stop it first (`solstice ctl {} stop`), or fork the run", path.display(), run_name(path))]
    Locked {
        /// The run's folder.
        path: PathBuf,
        /// The other writer: `process 4242 on host7`.
        who: String,
    },
    /// No run where one was asked for.
    #[error("no run at {}: {problem}", path.display())]
    NoRun {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found instead.
        problem: String,
    },
    /// A checkpoint file that must not be used.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that cannot be saved as it was given.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What was wanted and what came.
        problem: String,
    },
    /// No checkpoint of the run can be used.
    #[error("{}: no usable checkpoint{}", path.display(), if problems.is_empty() { ": none was saved yet".to_string() } else { format!(": {}", problems.join("; ")) })]
    NoCheckpoint {
        /// The run's folder.
        path: PathBuf,
        /// Why each one was refused, newest first.
        problems: Vec<String>,
    },
    /// The run has no checkpoint of the kind that was asked for.
    #[error("{}: {problem}", path.display())]
    NoSuchCheckpoint {
        /// The run's folder.
        path: PathBuf,
        /// What was asked for and what there is.
        problem: String,
    },
    /// Words that name no checkpoint.
    #[error("`{text}` names no checkpoint: say `last`, `best` or `step:N`, such as `step:1200`")]
    NotATarget {
        /// What was said.
        text: String,
    },
    /// A run that was to be deleted while a process writes it.
    #[error("{}: not deleted: {who} is writing this run. Stop it first (`solstice ctl {} stop`)", path.display(), run_name(path))]
    InUse {
        /// The run's folder.
        path: PathBuf,
        /// The writer: `process 4242 on host7`.
        who: String,
    },
    /// Rows are still in memory because the disk does not take them.
    #[error("{}: {row_count} rows wait in memory, not yet on disk: {problem}", path.display())]
    NotSaved {
        /// The database.
        path: PathBuf,
        /// How many rows wait.
        row_count: usize,
        /// Why.
        problem: String,
    },
    /// A command for a run that no process works on.
    #[error("{}: `{kind}` was not sent: the run is {state}, so no process would take it. `solstice resume {}` goes on from its last checkpoint", path.display(), run_name(path))]
    NotRunning {
        /// The run's folder.
        path: PathBuf,
        /// The command.
        kind: String,
        /// State of the run.
        state: String,
    },
    /// A command that was not answered in time.
    #[error("{}: command {id} (`{kind}`) was {state} and not answered within {waited_secs:.1} s; it stays in the queue", path.display())]
    CommandTimeout {
        /// The run's folder.
        path: PathBuf,
        /// Row of the command.
        id: i64,
        /// Its kind.
        kind: String,
        /// `sent` or `taken`.
        state: String,
        /// How long was waited.
        waited_secs: f64,
    },
    /// A command id that the run does not have.
    #[error("{}: there is no command {id}", path.display())]
    NoCommand {
        /// The run's folder.
        path: PathBuf,
        /// The row asked for.
        id: i64,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { action, path, source }
    }

    pub(crate) fn sqlite(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Sqlite { action, path, source }
    }

    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> StoreError {
        StoreError::Checkpoint { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// Last part of a run's path, for advice that can be pasted.
fn run_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ". The folder is read-only for this user: choose another with --runs-dir, or change its permissions"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". The disk is full: free some space; old checkpoints are the largest files"
        }
        _ => "",
    }
}

pub(crate) fn sqlite_advice(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ". The disk is full: free some space; old checkpoints are the largest files",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            ". The run's folder is read-only for this user: change its permissions, or copy the run"
        }
        Some(ErrorCode::CannotOpen) => ". The file is missing, or the folder does not let this user open it",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ". Another program holds the file locked; it is tried again",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ". The file is damaged. Its checkpoints may be whole: `solstice train RECIPE --init FILE.safetensors` uses one"
        }
        _ => "",
    }
}
