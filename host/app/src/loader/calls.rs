//! Which plugin call is under way, written where a parent process can read it after a crash, and how long it has been.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest record; the file always has this size, padded with zeros.
const RECORD_BYTES: usize = 512;

struct Calls {
    file: Option<File>,
    /// In the order in which they began; several threads may be in calls at once, and a traced call may stand inside an experiment's.
    under_way: Vec<UnderWay>,
    next: u64,
}

struct UnderWay {
    id: u64,
    text: String,
    patience: Patience,
    // When it began, or last gave a sign of life.
    since: Instant,
}

/// Whether a call may be stopped when it takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Training waits for it.
    Limited,
    /// Nothing waits for it: a logger's.
    Endless,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls { file: None, under_way: vec![], next: 0 });

fn calls() -> MutexGuard<'static, Calls> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the newest call that is under way stands in this file: `forward of model `mlp` (plugin `mlp`)`, or nothing.
pub fn record_calls_in(path: &Path) {
    let mut calls = calls();
    // Without the file a crash is still reported, only without its culprit.
    calls.file = File::options().create(true).truncate(false).write(true).open(path).ok();
    calls.write();
}

/// The process ends of its own will: a logger's call that is still under way is no culprit.
pub fn stop_recording() {
    let mut calls = calls();
    calls.under_way.clear();
    calls.write();
    calls.file = None;
}

/// Every call that is under way has given a sign of life.
pub(super) fn renew() {
    let now = Instant::now();
    for call in &mut calls().under_way {
        call.since = now;
    }
}

/// Starts a thread that calls `overrun` with the name of a call which has gone on for longer than `limit` without a sign of life.
pub fn limit_calls(limit: Duration, overrun: impl Fn(&str) + Send + 'static) {
    let watch = move || {
        loop {
            std::thread::sleep((limit / 8).clamp(Duration::from_millis(10), Duration::from_millis(500)));
            let late = |call: &&UnderWay| call.patience == Patience::Limited && call.since.elapsed() > limit;
            // The newest: an experiment's call waits for the model's inside it.
            let name = calls().under_way.iter().rev().find(late).map(|call| call.text.clone());
            if let Some(name) = name {
                overrun(&name);
            }
        }
    };
    // Without the thread a call without an end is the user's to stop.
    let _ = std::thread::Builder::new().name("call-limit".into()).spawn(watch);
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub struct Call(u64);

impl Call {
    /// Call it before the plugin's function is entered; about a microsecond when recorded.
    pub fn enter(call: &str, component: &str) -> Call {
        Call::enter_with(call, component, Patience::Limited)
    }

    /// The same, with a say on how long it may take.
    pub fn enter_with(call: &str, component: &str, patience: Patience) -> Call {
        let mut calls = calls();
        let id = calls.next;
        calls.next += 1;
        calls.under_way.push(UnderWay { id, text: format!("{call} of {component}"), patience, since: Instant::now() });
        calls.write();
        Call(id)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = calls();
        calls.under_way.retain(|call| call.id != self.0);
        calls.write();
    }
}

impl Calls {
    // One write of a whole record: the page cache keeps it when this process dies.
    fn write(&self) {
        let Some(file) = &self.file else { return };
        // A logger is always somewhere; what training waits for is the likelier culprit.
        let newest = |patience| self.under_way.iter().rev().find(move |call: &&UnderWay| call.patience == patience);
        let text = newest(Patience::Limited).or_else(|| newest(Patience::Endless)).map_or("", |call| call.text.as_str());
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
