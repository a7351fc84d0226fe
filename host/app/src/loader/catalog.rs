//! Which plugin has what: files found, looked at without loading, and loaded when one of their components is wanted.

use super::{LoadError, Loader, Manifest, Plugin, PluginError, host, probe};
use serde::{Deserialize, Serialize};
use solstice_plugin_abi::wire::{ComponentInfo, HostInfo, Kind};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was looked at.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its content; empty when it could not be read.
    pub sha256: String,
    /// What it says about itself, if it is a plugin.
    pub manifest: Option<Manifest>,
    /// Why it cannot be used, if so.
    pub refusal: Option<LoadError>,
}

impl Found {
    /// Its name: the manifest's, else the file's.
    pub fn name(&self) -> &str {
        self.manifest.as_ref().map_or_else(|| probe::file_stem(&self.path), |manifest| &manifest.name)
    }

    /// Its version; empty when it has none.
    pub fn version(&self) -> &str {
        self.manifest.as_ref().map_or("", |manifest| &manifest.version)
    }

    /// Kinds that it offers, each once.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> =
            self.manifest.iter().flat_map(|manifest| &manifest.components).filter_map(|(kind, _)| Kind::from_name(kind)).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

/// The plugins at hand.
pub struct Catalog {
    loader: Loader,
    found: Vec<Found>,
}

impl Catalog {
    /// Looks at the given files and folders, `SOLSTICE_PLUGIN_PATH`, the folder of this program and the user's plugin folder. Loads nothing.
    pub fn discover(paths: &[PathBuf]) -> anyhow::Result<Catalog> {
        Ok(Catalog::new(Loader::from_env(), paths))
    }

    /// The same, and tells the plugins about the machine.
    pub fn discover_with(paths: &[PathBuf], info: HostInfo) -> anyhow::Result<Catalog> {
        host::set_host_info(info);
        Catalog::discover(paths)
    }

    /// With a loader of one's own.
    pub fn new(loader: Loader, paths: &[PathBuf]) -> Catalog {
        let found = loader.discover(paths);
        Catalog { loader, found }
    }

    /// All files, refused ones included, in the order in which they are asked.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// The loader behind it.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The plugin that offers a component, loaded. The first one counts, in the order of [`Catalog::found`].
    pub fn plugin(&self, kind: Kind, id: &str) -> Result<Arc<Plugin>, PluginError> {
        let offers = |found: &&Found| match &found.manifest {
            Some(manifest) if manifest.components_complete => manifest.components.iter().any(|(k, i)| k == kind.name() && i == id),
            Some(_) => self.describe(found).is_ok_and(|infos| infos.iter().any(|info| info.kind == kind && info.id == id)),
            None => false,
        };
        let mut refused = None;
        for found in self.found.iter().filter(offers) {
            match &found.refusal {
                None => return self.loader.load(&found.path),
                Some(reason) => refused = refused.or(Some((found, reason))),
            }
        }
        match refused {
            Some((found, reason)) => Err(PluginError::Load { path: found.path.clone(), reason: reason.clone() }),
            None => Err(self.unknown(kind, id)),
        }
    }

    /// What a file offers: from the cache, else by loading it.
    pub fn describe(&self, found: &Found) -> Result<Vec<ComponentInfo>, PluginError> {
        if let Some(reason) = &found.refusal {
            return Err(PluginError::Load { path: found.path.clone(), reason: reason.clone() });
        }
        match self.loader.cached_description(&found.sha256) {
            Some(components) => Ok(components),
            None => self.loader.load(&found.path)?.components().map(<[ComponentInfo]>::to_vec),
        }
    }

    /// Everything that can be used, by kind and id. A plugin that fails to describe itself is logged and left out.
    pub fn components(&self) -> Vec<ComponentInfo> {
        let mut components: Vec<ComponentInfo> = Vec::new();
        for found in self.found.iter().filter(|found| found.refusal.is_none()) {
            match self.describe(found) {
                Ok(infos) => {
                    for info in infos {
                        if !components.iter().any(|known| known.kind == info.kind && known.id == info.id) {
                            components.push(info);
                        }
                    }
                }
                Err(error) => host::warn(found.name(), &error.to_string()),
            }
        }
        components.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        components
    }

    fn unknown(&self, kind: Kind, id: &str) -> PluginError {
        let all: Vec<(&str, &str)> = self
            .found
            .iter()
            .filter_map(|found| found.manifest.as_ref())
            .flat_map(|manifest| manifest.components.iter().map(|(kind, id)| (kind.as_str(), id.as_str())))
            .collect();
        let of_kind: Vec<&str> = all.iter().filter(|(known, _)| *known == kind.name()).map(|(_, id)| *id).collect();
        let distances = of_kind.iter().map(|known| (strsim::osa_distance(known, id), *known));
        let close = distances.filter(|(distance, _)| *distance <= (id.len() / 3).max(1)).min();
        let hint = if let Some((_, close)) = close {
            format!(", did you mean `{close}`?")
        } else if let Some((other, _)) = all.iter().find(|(_, known)| *known == id) {
            format!("; there is {} {other} of that name", if "aeiou".contains(&other[..1]) { "an" } else { "a" })
        } else if of_kind.is_empty() {
            format!("; no plugin with a {} was found: `solstice plugins` shows where they are looked for", kind.name())
        } else {
            format!("; there are {}", of_kind.join(", "))
        };
        PluginError::Unknown(format!("no plugin offers the {} `{id}`{hint}", kind.name()))
    }
}

impl Loader {
    /// Looks at the given files and folders, then at the search folders. Loads nothing; a file that is no plugin is told only where plugins are expected.
    pub fn discover(&self, paths: &[PathBuf]) -> Vec<Found> {
        let mut candidates: Vec<(PathBuf, bool)> = Vec::new();
        for path in paths {
            match path.is_dir() {
                true => candidates.extend(libraries_in(path).into_iter().map(|path| (path, false))),
                false => candidates.push((path.clone(), false)),
            }
        }
        for dir in &self.search_dirs {
            candidates.extend(libraries_in(&dir.path).into_iter().map(|path| (path, dir.mixed)));
        }
        let mut seen_paths = HashSet::new();
        let mut seen_contents = HashSet::new();
        let mut notes = ProbeNotes::read(&self.cache_dir);
        let mut all = Vec::new();
        for (path, mixed) in candidates {
            if !seen_paths.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            let found = self.look_at(path, &mut notes);
            let is_no_plugin = found.manifest.is_none();
            if (mixed && is_no_plugin) || (!found.sha256.is_empty() && !seen_contents.insert(found.sha256.clone())) {
                continue;
            }
            all.push(found);
        }
        notes.write(&self.cache_dir);
        all
    }

    fn look_at(&self, path: PathBuf, notes: &mut ProbeNotes) -> Found {
        let note = notes.of(&path);
        let refusal = match &note.result {
            Err(reason) => Some(reason.clone()),
            Ok(manifest) => probe::check_version(manifest)
                .and_then(|()| self.check_trust(&path, &note.sha256, manifest))
                .and_then(|()| self.check_quarantine(&note.sha256))
                .err(),
        };
        Found { path, sha256: note.sha256, manifest: note.result.ok(), refusal }
    }
}

fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.starts_with(std::env::consts::DLL_PREFIX) && name.ends_with(std::env::consts::DLL_SUFFIX)
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_library).collect();
    paths.sort();
    paths
}

// ---- what was seen last time -------------------------------------------------------------------------------------------------------------

/// Results of earlier looks, so that listing does not read and hash megabytes again. Loading does not use them.
struct ProbeNotes {
    notes: BTreeMap<PathBuf, StoredNote>,
    changed: bool,
}

/// A file as it was.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct StoredNote {
    bytes: u64,
    modified_nanos: u128,
    sha256: String,
    /// None for a library that is no plugin; other failures are not kept.
    manifest: Option<Manifest>,
}

struct Note {
    sha256: String,
    result: Result<Manifest, LoadError>,
}

impl ProbeNotes {
    fn file(cache_dir: &Path) -> PathBuf {
        cache_dir.join("probes.json")
    }

    fn read(cache_dir: &Path) -> ProbeNotes {
        let notes = std::fs::read(Self::file(cache_dir)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        ProbeNotes { notes, changed: false }
    }

    fn write(&self, cache_dir: &Path) {
        if !self.changed {
            return;
        }
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(cache_dir)?;
            let mut file = tempfile::NamedTempFile::new_in(cache_dir)?;
            file.write_all(&serde_json::to_vec(&self.notes)?)?;
            file.persist(Self::file(cache_dir))?;
            Ok(())
        };
        // A cache that cannot be written costs time, nothing else.
        let _ = write();
    }

    fn of(&mut self, path: &Path) -> Note {
        let state = state_of(path);
        if let (Some(known), Some((bytes, modified_nanos))) = (self.notes.get(path), state)
            && (known.bytes, known.modified_nanos) == (bytes, modified_nanos)
        {
            return Note { sha256: known.sha256.clone(), result: known.manifest.clone().ok_or(LoadError::NoManifest) };
        }
        let (sha256, result) = match probe::read(path) {
            Ok(bytes) => (probe::sha256(&bytes), probe::probe(&bytes, probe::file_stem(path)).map(|found| found.manifest)),
            Err(reason) => (String::new(), Err(reason)),
        };
        let manifest = match &result {
            Ok(manifest) => Some(Some(manifest.clone())),
            Err(LoadError::NoManifest) => Some(None),
            Err(_) => None,
        };
        if let (Some(manifest), Some((bytes, modified_nanos))) = (manifest, state) {
            self.notes.insert(path.to_owned(), StoredNote { bytes, modified_nanos, sha256: sha256.clone(), manifest });
            self.changed = true;
        }
        Note { sha256, result }
    }
}

fn state_of(path: &Path) -> Option<(u64, u128)> {
    let metadata = path.metadata().ok()?;
    let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some((metadata.len(), modified.as_nanos()))
}
