//! A plugin that took its process down while it was loaded or described is not tried again by itself.
//!
//! A note stands on disk while that goes on; a note whose process is gone was left by a crash, or by somebody who killed the process at that moment: so one
//! such note is forgiven, and the second in a row is not. It is keyed by the file's content and the ABI version, so a rebuilt plugin starts afresh.

use super::{LoadError, Loader};
use std::path::{Path, PathBuf};

/// Removes its note when it is dropped: the plugin survived, even if it failed.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    /// A death in something else, which this survival does not excuse.
    before: Option<String>,
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = match &self.before {
            Some(text) => write_beside(&self.path, text),
            None => std::fs::remove_file(&self.path),
        };
    }
}

/// Of several workers that start at once, none may read half a note.
fn write_beside(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(std::process::id().to_string());
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path))
}

/// A note as it stands on disk.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    process: i32,
    what: String,
    /// Processes in a row that died before this one.
    deaths: u32,
}

impl Standing {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.process, self.what, self.deaths)
    }

    fn read(path: &Path) -> Option<Standing> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let process = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
        let what = lines.next().unwrap_or("it was being loaded").to_owned();
        Some(Standing { process, what, deaths: lines.next().and_then(|line| line.parse().ok()).unwrap_or(0) })
    }
}

impl Loader {
    /// Notes that something dangerous begins; the note goes with the value.
    pub(super) fn note(&self, sha256: &str, what: &str) -> Note {
        let path = self.quarantine_file(sha256);
        // Without a place to write there is no quarantine, and that is no reason not to work.
        let _ = std::fs::create_dir_all(self.quarantine_dir());
        let standing = Standing::read(&path).filter(|note| !process_is_alive(note.process));
        let deaths = standing.as_ref().filter(|note| note.what == what).map_or(0, |note| note.deaths + 1);
        let before = standing.filter(|note| note.what != what).map(|note| note.text());
        let _ = write_beside(&path, &Standing { process: std::process::id() as i32, what: what.into(), deaths }.text());
        Note { path, before }
    }

    /// Refuses a plugin that a process did not survive.
    pub(super) fn check_quarantine(&self, sha256: &str) -> Result<(), LoadError> {
        let path = self.quarantine_file(sha256);
        let Some(note) = Standing::read(&path) else { return Ok(()) };
        // A process that took its note back and ended in the meantime did survive.
        if process_is_alive(note.process) || note.deaths == 0 || Standing::read(&path).as_ref() != Some(&note) {
            return Ok(());
        }
        Err(LoadError::Quarantined(format!("{} processes in a row died while {}", note.deaths + 1, note.what)))
    }

    /// Forgets all crashes; returns how many there were.
    pub fn clear_quarantine(&self) -> usize {
        let entries = std::fs::read_dir(self.quarantine_dir()).into_iter().flatten().flatten();
        entries.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count()
    }

    fn quarantine_dir(&self) -> PathBuf {
        self.cache_dir.join("quarantine")
    }

    fn quarantine_file(&self, sha256: &str) -> PathBuf {
        self.quarantine_dir().join(format!("{sha256}-{}", solstice_plugin_abi::ABI_VERSION))
    }
}

#[cfg(unix)]
fn process_is_alive(process: i32) -> bool {
    rustix::process::Pid::from_raw(process).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(not(unix))]
fn process_is_alive(process: i32) -> bool {
    process == std::process::id() as i32
}
