//! Loading: the one place where foreign code begins to run.

#![allow(unsafe_code)]

use super::calls::Call;
use super::handles::{CallbackHandle, DatasetHandle, ExperimentHandle, LoggerHandle, TracedHandle};
use super::{LoadError, Loader, Manifest, PluginError, host, probe};
use serde_json::Value;
use solstice_plugin_abi::wire::{ComponentInfo, Kind};
use solstice_plugin_abi::{AbiError, PluginModule_Ref, RResult, open_root};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A loaded plugin. It stays loaded until the process ends: unloading Rust code is not safe.
pub struct Plugin {
    /// What the file says about itself.
    pub manifest: Manifest,
    /// The file that was asked for (a copy of it is loaded).
    pub path: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    module: PluginModule_Ref,
    loader: Loader,
    components: OnceLock<Vec<ComponentInfo>>,
}

/// By hash: the same content is one library, however often it is asked for.
static LOADED: Mutex<BTreeMap<String, Arc<Plugin>>> = Mutex::new(BTreeMap::new());

impl Loader {
    /// Checks a file and loads it.
    pub fn load(&self, path: &Path) -> Result<Arc<Plugin>, PluginError> {
        self.load_file(path).map_err(|reason| PluginError::Load { path: path.to_owned(), reason })
    }

    fn load_file(&self, path: &Path) -> Result<Arc<Plugin>, LoadError> {
        // These bytes are judged and these bytes are loaded, whatever happens to the file meanwhile.
        let bytes = probe::read(path)?;
        let sha256 = probe::sha256(&bytes);
        let found = probe::probe(&bytes, probe::file_stem(path))?;
        probe::check_version(&found.manifest)?;
        self.check_trust(path, &sha256, &found.manifest)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&sha256) {
            return Ok(plugin.clone());
        }
        self.check_quarantine(&sha256)?;
        let copy = self.copy(&bytes, &sha256, &found.manifest.name)?;
        let name = &found.manifest.name;
        if found.manifest.panic == "abort" {
            host::warn(name, "built with panic = \"abort\": a panic in it ends the whole run");
        }
        let note = self.note(&sha256, "it was being loaded");
        let call = Call::enter("loading", &format!("plugin `{name}`"));
        let module = open_library(&copy, &found.root_symbol)?;
        if let RResult::RErr(error) = module.init()(host::host_api()) {
            return Err(LoadError::Layout(format!("its start failed: {error}")));
        }
        drop((call, note));
        let plugin = Plugin {
            manifest: found.manifest,
            path: path.to_owned(),
            sha256: sha256.clone(),
            module,
            loader: self.clone(),
            components: OnceLock::new(),
        };
        let plugin = Arc::new(plugin);
        loaded.insert(sha256, plugin.clone());
        Ok(plugin)
    }

    /// Copies the bytes to a path named by their hash. A library that is overwritten in place kills those who run it, and one that is replaced by a
    /// rename is not seen by `dlopen`; a copy knows neither.
    fn copy(&self, bytes: &[u8], sha256: &str, name: &str) -> Result<PathBuf, LoadError> {
        let dir = self.cache_dir.join("plugins");
        let failed = |error: std::io::Error| LoadError::Open(format!("it cannot be copied to {}: {error}", dir.display()));
        private_dir(&dir).map_err(failed)?;
        let name: String = name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter)).take(64).collect();
        let copy = dir.join(format!("{sha256}-{name}{}", std::env::consts::DLL_SUFFIX));
        if std::fs::read(&copy).is_ok_and(|there| there == bytes) {
            return Ok(copy);
        }
        let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.persist(&copy).map_err(|error| failed(error.error))?;
        Ok(copy)
    }

    /// Components of a plugin whose file has that hash, if they were ever asked for.
    pub(super) fn cached_description(&self, sha256: &str) -> Option<Vec<ComponentInfo>> {
        serde_json::from_slice(&std::fs::read(self.description_file(sha256)).ok()?).ok()
    }

    fn cache_description(&self, sha256: &str, components: &[ComponentInfo]) -> std::io::Result<()> {
        let path = self.description_file(sha256);
        let dir = path.parent().expect("the file is in a folder of the cache");
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&serde_json::to_vec(components)?)?;
        file.persist(&path)?;
        Ok(())
    }

    fn description_file(&self, sha256: &str) -> PathBuf {
        self.cache_dir.join("descriptions").join(format!("{sha256}-{}.json", solstice_plugin_abi::ABI_VERSION))
    }
}

impl Plugin {
    /// What it offers. Asked once; later processes read the answer from the cache.
    pub fn components(&self) -> Result<&[ComponentInfo], PluginError> {
        if let Some(components) = self.components.get() {
            return Ok(components);
        }
        let components = match self.loader.cached_description(&self.sha256) {
            Some(components) => components,
            None => {
                let components = self.describe()?;
                // A cache that cannot be written costs time, nothing else.
                let _ = self.loader.cache_description(&self.sha256, &components);
                components
            }
        };
        Ok(self.components.get_or_init(|| components))
    }

    fn describe(&self) -> Result<Vec<ComponentInfo>, PluginError> {
        let whom = format!("plugin `{}`", self.manifest.name);
        let note = self.loader.note(&self.sha256, "it was describing itself");
        let call = Call::enter("describe", &whom);
        let answer = self.module.describe()();
        drop((call, note));
        let text = self.answered(answer, &whom, "describe")?;
        serde_json::from_str(text.as_str())
            .map_err(|error| PluginError::answer(&whom, "describe", format!("the answer is not understood: {error}")))
    }

    /// Checks a config text (RON, or JSON when it starts with `{`); the answer has every field filled in.
    pub fn validate_config(&self, kind: Kind, id: &str, text: &str) -> Result<Value, PluginError> {
        let whom = self.component(kind, id);
        let call = Call::enter("settings", &whom);
        let answer = self.module.validate_config()(kind.name().into(), id.into(), text.into());
        drop(call);
        let canonical = self.answered(answer, &whom, "settings")?;
        serde_json::from_str(canonical.as_str())
            .map_err(|error| PluginError::answer(&whom, "settings", format!("the answer is no JSON: {error}")))
    }

    /// A model, optimizer, schedule or metric with these settings.
    pub fn create_traced(&self, kind: Kind, id: &str, text: &str) -> Result<TracedHandle, PluginError> {
        let whom = self.component(kind, id);
        let call = Call::enter("create", &whom);
        let answer = self.module.create_traced()(kind.name().into(), id.into(), text.into());
        drop(call);
        Ok(TracedHandle::new(self.answered(answer, &whom, "create")?, whom))
    }

    /// A data set with these settings, not yet opened.
    pub fn create_dataset(&self, id: &str, text: &str) -> Result<DatasetHandle, PluginError> {
        let whom = self.component(Kind::Dataset, id);
        let call = Call::enter("create", &whom);
        let answer = self.module.create_dataset()(id.into(), text.into());
        drop(call);
        Ok(DatasetHandle::new(self.answered(answer, &whom, "create")?, whom))
    }

    /// An experiment with these settings.
    pub fn create_experiment(&self, id: &str, text: &str) -> Result<ExperimentHandle, PluginError> {
        let whom = self.component(Kind::Experiment, id);
        let call = Call::enter("create", &whom);
        let answer = self.module.create_experiment()(id.into(), text.into());
        drop(call);
        Ok(ExperimentHandle::new(self.answered(answer, &whom, "create")?, whom))
    }

    /// A callback with these settings.
    pub fn create_callback(&self, id: &str, text: &str) -> Result<CallbackHandle, PluginError> {
        let whom = self.component(Kind::Callback, id);
        let create = self.module.create_callback().ok_or_else(|| PluginError::answer(&whom, "create", OLD_PLUGIN))?;
        let call = Call::enter("create", &whom);
        let answer = create(id.into(), text.into());
        drop(call);
        Ok(CallbackHandle::new(self.answered(answer, &whom, "create")?, whom))
    }

    /// A logger with these settings.
    pub fn create_logger(&self, id: &str, text: &str) -> Result<LoggerHandle, PluginError> {
        let whom = self.component(Kind::Logger, id);
        let create = self.module.create_logger().ok_or_else(|| PluginError::answer(&whom, "create", OLD_PLUGIN))?;
        let call = Call::enter("create", &whom);
        let answer = create(id.into(), text.into());
        drop(call);
        Ok(LoggerHandle::new(self.answered(answer, &whom, "create")?, whom))
    }

    fn component(&self, kind: Kind, id: &str) -> String {
        format!("{} `{id}` (plugin `{}`)", kind.name(), self.manifest.name)
    }

    fn answered<T>(&self, answer: RResult<T, AbiError>, whom: &str, call: &str) -> Result<T, PluginError> {
        answer.into_result().map_err(|error| PluginError::from_call(whom, call, error))
    }
}

const OLD_PLUGIN: &str = "the plugin was built for an ABI older than 1.1, which has none of these: build it again";

fn open_library(path: &Path, root_symbol: &str) -> Result<PluginModule_Ref, LoadError> {
    // SAFETY: the file was probed and is trusted; its constructors may do anything, which is what trust is about.
    let library = unsafe { dlopen(path) }.map_err(|error| LoadError::Open(format!("the system cannot load it: {}", reason(&error))))?;
    // Objects of the plugin may live until the process ends, so the library does as well.
    let library: &'static _ = Box::leak(Box::new(library));
    // SAFETY: the symbol is only taken as an address here.
    let symbol = unsafe { library.get::<*const ()>(root_symbol.as_bytes()) }
        .map_err(|error| LoadError::Open(format!("the system does not find its header: {}", reason(&error))))?;
    // SAFETY: the manifest beside this symbol says that it is a header of our major version, and the library is never unloaded.
    unsafe { open_root(*symbol) }.map_err(|error| LoadError::Layout(error.to_string()))
}

#[cfg(unix)]
unsafe fn dlopen(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // All symbols at once: a missing one is an error here and not a death at the first call.
    // SAFETY: the caller's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

#[cfg(not(unix))]
unsafe fn dlopen(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's.
    unsafe { libloading::Library::new(path) }
}

/// libloading's own text is "dlopen failed"; the reason is in the sources.
fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    #[cfg(unix)]
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}
