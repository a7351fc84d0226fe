//! [`FolderCache`]: what devices can make again, a file each in the user's cache.

use crate::loader;
use solstice_engine::DeviceCache;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Files of one folder, written beside and renamed.
pub struct FolderCache {
    dir: PathBuf,
}

impl FolderCache {
    /// The folder is made when the first file is.
    pub fn new(dir: &Path) -> FolderCache {
        FolderCache { dir: dir.to_owned() }
    }

    /// The one of this user.
    pub fn of_user() -> FolderCache {
        FolderCache::new(&loader::cache_dir().join("devices"))
    }
}

impl DeviceCache for FolderCache {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(name)).ok()
    }

    fn save(&self, name: &str, bytes: &[u8]) {
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.dir)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(bytes)?;
            file.persist(self.dir.join(name))?;
            Ok(())
        };
        // A cache that cannot be written costs time, nothing else.
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_there_whole_and_what_cannot_be_saved_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FolderCache::new(&folder.path().join("a/b"));
        assert_eq!(cache.load("x"), None);
        cache.save("x", b"one");
        cache.save("x", b"two");
        assert_eq!(cache.load("x").as_deref(), Some(&b"two"[..]));
        // No file is left beside it.
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let nowhere = FolderCache::new(&folder.path().join("file/below"));
        nowhere.save("x", b"one");
        assert_eq!(nowhere.load("x"), None);
    }
}
