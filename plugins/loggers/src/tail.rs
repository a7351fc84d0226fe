//! The end of a file that grows, and what waits to be written there.
//!
//! A write that fails part of the way changes nothing that counts: the next one starts at the same place and writes over it. After a failure the file
//! is opened anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// See the module.
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that are written for good.
    end: u64,
    waiting: Vec<u8>,
    synced: bool,
}

impl Tail {
    /// The end, at byte `end`, of a file that need not be there yet; it is opened by the first write. What stands behind `end` goes with that write.
    pub fn new(path: PathBuf, end: u64) -> Tail {
        Tail { path, file: None, end, waiting: vec![], synced: true }
    }

    /// Opens the file now, and cuts it at the end.
    pub fn open(mut self) -> Result<Tail, String> {
        self.write(&[], &[])?;
        Ok(self)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are written for good.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Nothing was ever written or waits.
    pub fn is_empty(&self) -> bool {
        self.end == 0 && self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Lets bytes wait for [`Tail::drain`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// Writes what waits.
    pub fn drain(&mut self) -> Result<(), String> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let outcome = self.write(&waiting, &[]);
        if outcome.is_err() {
            self.waiting = waiting;
        }
        outcome
    }

    /// Writes `finished` for good and `unfinished` behind it, which the next write replaces. Only for a file without waiting bytes.
    pub fn write(&mut self, finished: &[u8], unfinished: &[u8]) -> Result<(), String> {
        assert!(self.waiting.is_empty(), "what waits comes first");
        let written = self.write_at_end(&[finished, unfinished].concat());
        written.map_err(|error| {
            self.file = None;
            format!("cannot write {}: {error}", self.path.display())
        })?;
        self.end += finished.len() as u64;
        self.synced = false;
        Ok(())
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?),
        };
        let length = file.metadata()?.len();
        if length < self.end {
            let wanted = self.end;
            return Err(io::Error::other(format!(
                "something else cut the file: wanted the {wanted} bytes that were written, found {length}"
            )));
        }
        file.seek(SeekFrom::Start(self.end))?;
        file.write_all(bytes)?;
        let wanted = self.end + bytes.len() as u64;
        if length > wanted { file.set_len(wanted) } else { Ok(()) }
    }

    /// Puts what was written on the disk.
    pub fn sync(&mut self) -> Result<(), String> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.synced) {
            file.sync_data().map_err(|error| format!("cannot write {}: {error}", self.path.display()))?;
            self.synced = true;
        }
        Ok(())
    }

    /// The file was replaced by another of that length.
    pub fn replaced(&mut self, end: u64) {
        (self.file, self.end) = (None, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_replaced_and_what_stands_behind_the_end_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "kept, gone").unwrap();
        let mut tail = Tail::new(path.clone(), 4).open().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
        tail.write(b"+a", b"unfinished").unwrap();
        tail.write(b"+b", b"?").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept+a+b?");
        tail.push(b"+c");
        tail.drain().unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), tail.end()), ("kept+a+b+c", 10));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut tail = Tail::new(path.clone(), 0);
        for part in ["one ", "two "] {
            tail.push(part.as_bytes());
            let problem = tail.drain().unwrap_err();
            assert!(problem.contains("/file: No space left on device"), "{problem}");
        }
        std::fs::remove_file(&path).unwrap();
        tail.push(b"three");
        tail.drain().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two three");
    }

    #[test]
    fn a_file_that_something_else_cut_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let problem = Tail::new(folder.path().join("file"), 9).open().err().unwrap();
        assert!(problem.contains("wanted the 9 bytes that were written, found 0"), "{problem}");
    }
}
