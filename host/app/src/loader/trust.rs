//! Who may run: a plugin can do whatever its user can, and it does so from the moment that it is loaded.
//!
//! Two questions. Could somebody else have written this file? And did the user say that it may run? A file below a trusted folder (the target folder of
//! the running program) needs no word: who can write there can replace the program itself.

use super::{LoadError, Loader, Manifest};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of `trust.ron`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// Of the file's bytes; nothing else counts.
    pub sha256: String,
    /// For the reader.
    #[serde(default)]
    pub name: String,
    /// Where it was when it was trusted; for the reader.
    #[serde(default)]
    pub path: PathBuf,
}

impl Loader {
    /// Refuses a file that somebody else could have written, and one that is neither below a trusted folder nor on the list.
    pub(super) fn check_trust(&self, path: &Path, sha256: &str, manifest: &Manifest) -> Result<(), LoadError> {
        let real = path.canonicalize().map_err(|error| LoadError::Unreadable(error.to_string()))?;
        check_permissions(&real)?;
        let below_trusted = self.trusted_dirs.iter().any(|dir| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir)));
        if below_trusted || self.trusted().iter().any(|entry| entry.sha256 == sha256) {
            return Ok(());
        }
        Err(LoadError::Untrusted { name: manifest.name.clone(), path: path.to_owned() })
    }

    /// The list of trusted files; a list that cannot be read trusts nothing.
    pub fn trusted(&self) -> Vec<Trusted> {
        std::fs::read_to_string(self.trust_file()).ok().and_then(|text| ron::from_str(&text).ok()).unwrap_or_default()
    }

    /// Trusts a file from now on, by its content; rebuilding it needs a new word. Refuses what is no plugin.
    pub fn trust(&self, path: &Path) -> Result<Manifest, LoadError> {
        let bytes = super::probe::read(path)?;
        let manifest = super::probe::probe(&bytes, super::probe::file_stem(path))?.manifest;
        check_permissions(&path.canonicalize().map_err(|error| LoadError::Unreadable(error.to_string()))?)?;
        let entry = Trusted {
            sha256: super::probe::sha256(&bytes),
            name: manifest.name.clone(),
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        let mut entries = self.trusted();
        entries.retain(|known| known.sha256 != entry.sha256);
        entries.push(entry);
        self.write_trusted(&entries).map_err(|error| LoadError::Unreadable(format!("{}: {error}", self.trust_file().display())))?;
        Ok(manifest)
    }

    fn trust_file(&self) -> PathBuf {
        self.config_dir.join("trust.ron")
    }

    fn write_trusted(&self, entries: &[Trusted]) -> std::io::Result<()> {
        let text = ron::ser::to_string_pretty(&entries, ron::ser::PrettyConfig::default()).map_err(std::io::Error::other)?;
        std::fs::create_dir_all(&self.config_dir)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.config_dir)?;
        writeln!(file, "// Plugins that may run, by the SHA-256 of their file. Written by `solstice plugin trust`.\n{text}")?;
        file.persist(self.trust_file())?;
        Ok(())
    }
}

/// The cargo target folder that holds a program.
pub fn target_dir_of(program: &Path) -> Option<PathBuf> {
    let is_target = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file() && dir.join(".rustc_info.json").is_file();
    program.ancestors().skip(1).take(5).find(is_target).map(Path::to_owned)
}

#[cfg(not(unix))]
fn check_permissions(_path: &Path) -> Result<(), LoadError> {
    Ok(())
}

/// The file and every folder above it must belong to this user or root and must not be open to others.
///
/// What holds for the running program's own file and folders is no reason to refuse: who can write there needs no plugin. (A workspace mounted into a
/// container often belongs to another user.)
#[cfg(unix)]
fn check_permissions(path: &Path) -> Result<(), LoadError> {
    let program = std::env::current_exe().ok().and_then(|program| program.canonicalize().ok());
    let own_owner = program.as_deref().and_then(|program| std::os::unix::fs::MetadataExt::uid(&program.metadata().ok()?).into());
    let own_is_open = program.as_deref().is_some_and(|program| weakness(program, own_owner).is_some());
    for (depth, place) in path.ancestors().enumerate() {
        let shared = program.as_deref().is_some_and(|program| program.ancestors().skip(1).any(|folder| folder == place));
        if shared {
            break;
        }
        let same_folder = program.as_deref().and_then(Path::parent).is_some_and(|folder| place.parent() == Some(folder));
        if depth == 0 && own_is_open && same_folder {
            continue;
        }
        if let Some(problem) = weakness(place, own_owner) {
            return Err(LoadError::Permissions(format!(
                "{} {problem}, so somebody else could have put their program there",
                place.display()
            )));
        }
    }
    Ok(())
}

#[cfg(unix)]
fn weakness(place: &Path, own_owner: Option<u32>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let metadata = match place.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("cannot be looked at ({error})")),
    };
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != 0 && owner != rustix::process::geteuid().as_raw() && Some(owner) != own_owner {
        return Some(format!("belongs to user {owner}"));
    }
    let sticky = metadata.is_dir() && mode & 0o1000 != 0;
    if mode & 0o002 != 0 && !sticky {
        return Some("can be written by everybody".into());
    }
    // A group of one's own is usual (umask 002 on Debian and Ubuntu).
    let own_group = metadata.gid() == 0 || metadata.gid() == rustix::process::getegid().as_raw();
    if mode & 0o020 != 0 && !sticky && !own_group {
        return Some(format!("can be written by group {}", metadata.gid()));
    }
    None
}
