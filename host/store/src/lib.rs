//! What a training run leaves on disk, and how processes meet there.
//!
//! A run is a folder:
//!
//! ```text
//! runs/2026-11-23-1859-mnist-convnet-a1b2/
//!   run.sqlite                        everything but the weights; anyone can read it with `sqlite3`
//!   recipe.ron                        the resolved recipe, to read or to train again
//!   checkpoints/step-000001200.safetensors
//!   run.lock                          held by the one process that writes
//! ```
//!
//! One process writes a run ([`RunWriter`]); any number read it while it is written, after it ended or after it was killed ([`RunReader`],
//! [`list_runs`]), and steer it through its `commands` table ([`send_command`]). Nothing here knows of a GPU, a plugin or a window.
//!
//! Read next: `schema.rs` for the tables (the README says the same for people with `sqlite3`), then `write.rs`.
#![warn(missing_docs)]

pub mod mirror;
pub mod retention;
pub mod schema;

mod checkpoint;
mod command;
mod error;
mod insert;
mod process;
mod queue;
mod read;
mod rows;
mod thread;
mod write;

pub use checkpoint::{
    Checkpoint, DType, NewCheckpoint, SavedCheckpoint, Tensor, load_checkpoint, load_tensors, save_checkpoint, save_tensors,
};
pub use command::{forget_label, send_command, set_label, wait_command};
pub use error::{Result, StoreError};
pub use process::{minute_stamp, now};
pub use read::{RunReader, Verdict, find_run, list_runs};
pub use retention::{CheckpointTarget, Monitor, MonitorMode, Retention};
pub use rows::*;
pub use write::{NewRun, RunUpdate, RunWriter, WriterOptions, delete_run, purge_run, restore_run, trash_run, writer_of};

/// Name of the SQLite file in a run's folder.
pub const DATABASE_FILE: &str = "run.sqlite";
/// Name of the resolved recipe in a run's folder.
pub const RECIPE_FILE: &str = "recipe.ron";
/// Name of the folder of checkpoints in a run's folder.
pub const CHECKPOINT_FOLDER: &str = "checkpoints";
/// Name of the file that the writing process holds locked.
pub const LOCK_FILE: &str = "run.lock";
