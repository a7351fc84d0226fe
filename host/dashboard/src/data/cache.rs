//! The folder of the mirrors that [`Remote`](super::Remote) keeps is a cache, and bounded: what no window has shown for a month goes, and beyond four
//! gigabytes what was shown the longest ago.
//!
//! The runs of one machine and folder lie in a subfolder whose `.lock` is held by the window that shows them and tells by its time when one last did.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// In each folder of mirrors.
pub(super) const LOCK_FILE: &str = ".lock";

/// What the cache may keep of what no window shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheLimits {
    /// Since a window last showed it.
    pub age_max: Duration,
    /// Of all mirrors together; those that windows show count, and stay.
    pub bytes_max: u64,
}

impl Default for CacheLimits {
    fn default() -> CacheLimits {
        CacheLimits { age_max: Duration::from_secs(30 * 24 * 3600), bytes_max: 4 << 30 }
    }
}

/// A folder of mirrors.
struct Mirrors {
    path: PathBuf,
    shown: SystemTime,
    bytes: u64,
}

/// Removes what is beyond the limits. Looks at the size of every file: for a thread of its own.
pub(super) fn clean(cache: &Path, limits: CacheLimits) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut folders: Vec<Mirrors> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let shown = fs::metadata(path.join(LOCK_FILE)).ok()?.modified().ok()?;
            Some(Mirrors { bytes: bytes_of(&path), shown, path })
        })
        .collect();
    folders.sort_by_key(|folder| folder.shown);
    let mut bytes: u64 = folders.iter().map(|folder| folder.bytes).sum();
    for folder in &folders {
        let is_old = folder.shown.elapsed().is_ok_and(|age| age > limits.age_max);
        if folder.bytes > 0 && (is_old || bytes > limits.bytes_max) && empty(&folder.path) {
            bytes -= folder.bytes;
        }
    }
}

/// Removes the mirrors in a folder that no window shows; true when they are gone. The lock stays: a window that waits for it must not hold one that
/// nobody else can see.
fn empty(folder: &Path) -> bool {
    let Ok(lock) = File::open(folder.join(LOCK_FILE)) else { return false };
    if lock.try_lock().is_err() {
        return false;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != LOCK_FILE);
    entries.fold(true, |is_gone, entry| {
        let path = entry.path();
        // What cannot be removed is tried again by the next window.
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.is_ok() && is_gone
    })
}

fn bytes_of(folder: &Path) -> u64 {
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => bytes_of(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with one mirror of `bytes` bytes, shown `days` ago; its lock.
    fn mirrors(cache: &Path, name: &str, bytes: usize, days: u64) -> File {
        let run = cache.join(name).join("run");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("run.sqlite"), vec![0; bytes]).unwrap();
        let lock = File::create(cache.join(name).join(LOCK_FILE)).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        lock
    }

    #[test]
    fn what_is_old_goes_and_then_what_was_shown_the_longest_ago() {
        let cache = tempfile::tempdir().unwrap();
        let of = |name: &str, bytes, days| mirrors(cache.path(), name, bytes, days);
        let shown = of("shown", 500, 90);
        shown.try_lock().unwrap();
        of("old", 10, 31);
        of("third", 300, 3);
        of("second", 300, 2);
        of("first", 300, 1);
        // Something else that somebody put there.
        fs::create_dir_all(cache.path().join("other/run")).unwrap();
        fs::write(cache.path().join("other/run/run.sqlite"), vec![0; 5000]).unwrap();
        // 500 that stay, and 600 of the newest.
        clean(cache.path(), CacheLimits { bytes_max: 1100, ..CacheLimits::default() });
        let left = |name: &str| cache.path().join(name).join("run/run.sqlite").exists();
        let names = ["shown", "old", "third", "second", "first", "other"];
        assert_eq!(names.map(left), [true, false, false, true, true, true]);
        // The locks stay, and nothing more is to be done.
        assert!(cache.path().join("old").join(LOCK_FILE).exists());
        clean(cache.path(), CacheLimits { bytes_max: 1100, ..CacheLimits::default() });
        assert_eq!(names.map(left), [true, false, false, true, true, true]);
        clean(&cache.path().join("not there"), CacheLimits::default());
    }
}
