//! A plugin that took its process down while it was loaded or described is not tried again by itself.
//!
//! A note stands on disk while that goes on; a note whose process is gone was left by a crash. It is keyed by the file's content and the ABI version, so
//! a rebuilt plugin starts afresh.

use super::{LoadError, Loader};
use std::path::PathBuf;

/// Removes its note when it is dropped: the plugin survived, even if it failed.
#[derive(Debug)]
pub struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Loader {
    /// Notes that something dangerous begins; the note goes with the value.
    pub(super) fn note(&self, sha256: &str, what: &str) -> Note {
        let path = self.quarantine_file(sha256);
        // Without a place to write there is no quarantine, and that is no reason not to work.
        let _ = std::fs::create_dir_all(self.quarantine_dir());
        let _ = std::fs::write(&path, format!("{}\n{what}\n", std::process::id()));
        Note(path)
    }

    /// Refuses a plugin that a process did not survive.
    pub(super) fn check_quarantine(&self, sha256: &str) -> Result<(), LoadError> {
        let Ok(text) = std::fs::read_to_string(self.quarantine_file(sha256)) else { return Ok(()) };
        let mut lines = text.lines();
        let process = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
        if process_is_alive(process) {
            return Ok(());
        }
        let what = lines.next().unwrap_or("it was being loaded");
        Err(LoadError::Quarantined(format!("a process died while {what}")))
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
