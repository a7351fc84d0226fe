//! What plugins may ask of the host: log, progress, cancellation, folders. One set of services a process.

use solstice_plugin_abi::wire::HostInfo;
use solstice_plugin_abi::{AbiError, HostApi, HostApi_Ref, RResult, RStr, RVec, guard};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// The app's side of what plugins ask. The functions are called from any thread, also from inside plugin calls.
pub trait HostServices: Send + Sync {
    /// A line of a plugin; level 1 is an error, 5 a trace.
    fn log(&self, level: u32, plugin: &str, message: &str) {
        let level = ["error", "error", "warn", "info", "debug", "trace"].get(level as usize).copied().unwrap_or("trace");
        if !matches!(level, "debug" | "trace") {
            eprintln!("{level}: [{plugin}] {message}");
        }
    }

    /// True once the user asked for a stop.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// A long call is alive; `total` 0 means unknown.
    fn progress(&self, message: &str, done: u64, total: u64) {
        let _ = (message, done, total);
    }
}

struct ToStderr;
impl HostServices for ToStderr {}

static SERVICES: RwLock<Option<Arc<dyn HostServices>>> = RwLock::new(None);
static INFO: RwLock<Option<HostInfo>> = RwLock::new(None);

/// Replaces the services; without any, errors, warnings and notes go to stderr.
pub fn set_host_services(services: impl HostServices + 'static) {
    *SERVICES.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(services));
}

/// Replaces what plugins are told about the machine.
pub fn set_host_info(info: HostInfo) {
    *INFO.write().unwrap_or_else(PoisonError::into_inner) = Some(info);
}

fn services() -> Arc<dyn HostServices> {
    SERVICES.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| Arc::new(ToStderr))
}

pub(super) fn host_api() -> HostApi_Ref {
    static API: OnceLock<HostApi_Ref> = OnceLock::new();
    *API.get_or_init(|| HostApi { log, is_cancelled, progress, info }.into_static())
}

pub(super) fn warn(plugin: &str, message: &str) {
    services().log(2, plugin, message);
}

// A panic must not cross into the plugin either.
fn or_default<T: Default>(f: impl FnOnce() -> T) -> T {
    match guard(|| Ok::<T, AbiError>(f())) {
        RResult::ROk(value) => value,
        RResult::RErr(_) => T::default(),
    }
}

extern "C" fn log(level: u32, plugin: RStr<'_>, message: RStr<'_>) {
    or_default(|| services().log(level, plugin.as_str(), message.as_str()));
}

extern "C" fn is_cancelled() -> bool {
    or_default(|| services().is_cancelled())
}

extern "C" fn progress(message: RStr<'_>, done: u64, total: u64) {
    super::calls::renew();
    or_default(|| services().progress(message.as_str(), done, total));
}

extern "C" fn info() -> RVec<u8> {
    let info = || INFO.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    or_default(|| serde_json::to_vec(&info()).unwrap_or_default().into())
}
