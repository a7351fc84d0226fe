//! The loggers that come with Solstice: `tensorboard` writes event files, `csv` plain tables, pictures and texts.
//!
//! Both keep in memory what a disk refuses, up to [`WAITING_BYTES_MAX`], and write it with what comes later; `tail.rs` is how.

mod csv_files;
mod records;
mod tail;
mod tensorboard;

pub use csv_files::Csv;
pub use tensorboard::TensorBoard;

use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::RunFacts;
use std::path::{Path, PathBuf};

export_plugin! { loggers: [TensorBoard, Csv] }

/// A logger that has more than so much waiting for the disk drops what comes, and counts it.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// The folder of a logger, made if it is not there: `<setting>/<run id>`, or `<run folder>/<default>`.
fn place(setting: Option<&str>, facts: &RunFacts, default: &str) -> Result<PathBuf> {
    let folder = match setting {
        Some(folder) => Path::new(folder).join(&facts.id),
        None => Path::new(&facts.folder).join(default),
    };
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|error| Error::at(format!("cannot make the folder {}: {error}", folder.display()), ""))?;
    Ok(folder)
}

/// The error while a disk refuses: what, why, and what becomes of the items.
fn refused(problem: &str, waiting_bytes: usize, dropped_count: u64) -> Error {
    let mut message = format!("{problem}; {waiting_bytes} bytes wait in memory and are written with what comes later, once that works");
    if dropped_count > 0 {
        message += &format!("; {}", dropped(dropped_count));
    }
    Error::at(message, "")
}

/// How many items are not in the files, as a sentence for the error and for the mark that is made afterwards.
fn dropped(count: u64) -> String {
    let items = if count == 1 { "item was" } else { "items were" };
    format!("{count} {items} dropped because more than {} MiB waited for the disk", WAITING_BYTES_MAX >> 20)
}

/// Rust's shortest digits that read back as the same number; `nan`, `inf`, `-inf`.
fn number(value: f64) -> String {
    let is_plain = value == 0.0 || (1e-5..1e16).contains(&value.abs());
    match value {
        value if value.is_nan() => "nan".into(),
        value if is_plain || value.is_infinite() => format!("{value}"),
        value => format!("{value:e}"),
    }
}

fn seconds_since_1970() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
