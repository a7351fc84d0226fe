//! Which plugin call is under way, written where a parent process can read it after a crash.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Longest record; the file always has this size, padded with zeros.
const RECORD_BYTES: usize = 512;

struct Calls {
    file: Option<File>,
    /// In the order in which they began; several threads may be in calls at once, and a traced call may stand inside an experiment's.
    under_way: Vec<(u64, String)>,
    next: u64,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls { file: None, under_way: vec![], next: 0 });

/// From now on the newest call that is under way stands in this file: `forward of model `mlp` (plugin `mlp`)`, or nothing.
pub fn record_calls_in(path: &Path) {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    // Without the file a crash is still reported, only without its culprit.
    calls.file = File::options().create(true).truncate(false).write(true).open(path).ok();
    calls.write();
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub struct Call(u64);

impl Call {
    /// Call it before the plugin's function is entered; about a microsecond when recorded.
    pub fn enter(call: &str, component: &str) -> Call {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = calls.next;
        calls.next += 1;
        calls.under_way.push((id, format!("{call} of {component}")));
        calls.write();
        Call(id)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        calls.under_way.retain(|(id, _)| *id != self.0);
        calls.write();
    }
}

impl Calls {
    // One write of a whole record: the page cache keeps it when this process dies.
    fn write(&self) {
        let Some(file) = &self.file else { return };
        let text = self.under_way.last().map_or("", |(_, text)| text.as_str());
        let mut record = [0; RECORD_BYTES];
        let end = text.floor_char_boundary(RECORD_BYTES - 1);
        record[..end].copy_from_slice(&text.as_bytes()[..end]);
        let _ = write_at_start(file, &record);
    }
}

#[cfg(unix)]
fn write_at_start(file: &File, record: &[u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, record, 0)
}

#[cfg(windows)]
fn write_at_start(file: &File, record: &[u8]) -> std::io::Result<()> {
    std::os::windows::fs::FileExt::seek_write(file, record, 0).map(drop)
}
