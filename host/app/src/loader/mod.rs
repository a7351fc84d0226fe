//! From a file to a component that can be asked: finding plugins, checking them, loading them, calling them.
//!
//! A plugin is a program; nothing here is a sandbox. What this module promises: a file that is no plugin, is damaged, is too new or is not trusted is
//! refused in one sentence before its code can run; every call says whose it was, when it fails and when it kills the process; nothing a plugin
//! answers is believed unchecked. Only worker processes load plugins, the window and the plain commands never do.
//!
//! Read `probe.rs` (what a file says about itself), `trust.rs`, `library.rs` (loading), `handles.rs` (calls), `catalog.rs` (which plugin has what).

mod calls;
mod catalog;
mod error;
mod handles;
mod host;
mod library;
mod probe;
mod quarantine;
mod trust;

pub use calls::{limit_calls, record_calls_in, stop_recording};
pub use catalog::Catalog;
pub use error::{LoadError, PluginError};
pub use handles::{CallbackHandle, DatasetHandle, ExperimentHandle, LoggerHandle, TracedHandle};
pub use host::{HostServices, set_host_services};
pub use library::Plugin;
pub use solstice_plugin_abi::Manifest;

use std::path::{Path, PathBuf};

/// Where plugins are looked for, what is trusted, and where copies and notes are kept.
#[derive(Clone, Debug)]
pub struct Loader {
    /// `trust.ron`.
    pub config_dir: PathBuf,
    /// Copies of plugin files, descriptions, quarantine. Safe to delete.
    pub cache_dir: PathBuf,
    /// Plugins below these folders need no entry in `trust.ron`; from the environment: the target folder of the running program.
    pub trusted_dirs: Vec<PathBuf>,
    /// Folders to search besides explicit paths, in order.
    pub search_dirs: Vec<SearchDir>,
}

/// A folder of plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDir {
    /// The folder; it need not exist.
    pub path: PathBuf,
    /// Libraries that are no plugins at all lie there as well and are not worth a word: build folders.
    pub mixed: bool,
}

impl Loader {
    /// As the environment has it: `SOLSTICE_PLUGIN_PATH`, the folder of the running program, the user's plugin folder.
    pub fn from_env() -> Loader {
        let mut search_dirs: Vec<SearchDir> = std::env::var_os("SOLSTICE_PLUGIN_PATH")
            .map(|paths| std::env::split_paths(&paths).map(|path| SearchDir { path, mixed: false }).collect())
            .unwrap_or_default();
        let program = std::env::current_exe().ok();
        if let Some(folder) = program.as_deref().and_then(Path::parent) {
            // Test programs lie one folder deeper than what `cargo build` leaves.
            let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
            search_dirs.push(SearchDir { path: folder.to_owned(), mixed: true });
        }
        search_dirs.push(SearchDir { path: plugin_dir(), mixed: false });
        let trusted_dirs = program.as_deref().and_then(trust::target_dir_of).into_iter().collect();
        Loader { config_dir: config_dir(), cache_dir: cache_dir(), trusted_dirs, search_dirs }
    }
}

/// Settings of the user: `SOLSTICE_CONFIG_DIR`, else `~/.config/solstice`.
pub fn config_dir() -> PathBuf {
    user_dir("SOLSTICE_CONFIG_DIR", "XDG_CONFIG_HOME", ".config")
}

/// What can be made again: `SOLSTICE_CACHE_DIR`, else `~/.cache/solstice`.
pub fn cache_dir() -> PathBuf {
    user_dir("SOLSTICE_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

/// Plugins that the user installed: `~/.local/share/solstice/plugins`.
pub fn plugin_dir() -> PathBuf {
    user_dir("SOLSTICE_SHARE_DIR", "XDG_DATA_HOME", ".local/share").join("plugins")
}

fn user_dir(own: &str, xdg: &str, below_home: &str) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set(own) {
        return dir;
    }
    let base = set(xdg).filter(|dir| dir.is_absolute()).or_else(|| std::env::home_dir().map(|home| home.join(below_home)));
    base.unwrap_or_else(std::env::temp_dir).join("solstice")
}

/// Name of the file that `cargo build` makes of a plugin crate: `libmy_model.so`.
pub fn library_file_name(package: &str) -> String {
    format!("{}{}{}", std::env::consts::DLL_PREFIX, package.replace('-', "_"), std::env::consts::DLL_SUFFIX)
}
