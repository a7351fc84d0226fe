//! The two tables of functions: what a plugin exports, and what the host lends it.
//!
//! Both are prefix types: fields are only ever added below the last one, and an older side reads as many as it knows.

#![allow(non_local_definitions, non_camel_case_types)]
#![allow(missing_docs)] // for the `_Ref` and `_Prefix` twins that the derive makes

use crate::{AbiError, CallbackBox, DatasetBox, ExperimentBox, LoggerBox, TracedBox};
use abi_stable::{
    StableAbi,
    library::RootModule,
    prefix_type::PrefixTypeTrait,
    sabi_types::VersionStrings,
    std_types::{RResult, RStr, RString, RVec},
};

/// What a plugin exports. Every function is guarded: a panic inside comes back as an error.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModule_Ref, prefix_fields = PluginModule_Prefix)))]
pub struct PluginModule {
    /// Hands over the host's services; called once, before anything else.
    pub init: extern "C" fn(HostApi_Ref) -> RResult<(), AbiError>,
    /// JSON of `Vec<wire::ComponentInfo>`. Must be quick and touch no file, no network.
    pub describe: extern "C" fn() -> RResult<RString, AbiError>,
    /// (kind, id, text) to canonical JSON: defaults filled in, ranges checked. Text is RON, or JSON when it starts with `{`.
    pub validate_config: extern "C" fn(RStr<'_>, RStr<'_>, RStr<'_>) -> RResult<RString, AbiError>,
    /// (kind, id, config text) to a component that the host compiles: model, optimizer, lr-schedule, metric, and later kinds of that family.
    pub create_traced: extern "C" fn(RStr<'_>, RStr<'_>, RStr<'_>) -> RResult<TracedBox, AbiError>,
    /// (id, config text) to a data set, not opened yet.
    pub create_dataset: extern "C" fn(RStr<'_>, RStr<'_>) -> RResult<DatasetBox, AbiError>,
    /// (id, config text) to an experiment.
    #[sabi(last_prefix_field)]
    pub create_experiment: extern "C" fn(RStr<'_>, RStr<'_>) -> RResult<ExperimentBox, AbiError>,
    /// (id, config text) to a callback. Since 1.1. The traced part of a callback comes from `create_traced`.
    pub create_callback: extern "C" fn(RStr<'_>, RStr<'_>) -> RResult<CallbackBox, AbiError>,
    /// (id, config text) to a logger. Since 1.1.
    pub create_logger: extern "C" fn(RStr<'_>, RStr<'_>) -> RResult<LoggerBox, AbiError>,
}

impl RootModule for PluginModule_Ref {
    abi_stable::declare_root_module_statics! {PluginModule_Ref}
    const BASE_NAME: &'static str = "solstice_plugin";
    const NAME: &'static str = "solstice_plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

/// What the host lends a plugin. The functions may be called from any thread.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostApi_Ref, prefix_fields = HostApi_Prefix)))]
pub struct HostApi {
    /// (level 1 error .. 5 trace, plugin, message): a line in the run's log.
    pub log: extern "C" fn(u32, RStr<'_>, RStr<'_>),
    /// True once the user asked for a stop; long loads should return soon.
    pub is_cancelled: extern "C" fn() -> bool,
    /// (message, done, total): a long call is alive. `total` 0 means that it is not known.
    pub progress: extern "C" fn(RStr<'_>, u64, u64),
    /// JSON of `wire::HostInfo`.
    #[sabi(last_prefix_field)]
    pub info: extern "C" fn() -> RVec<u8>,
}

impl HostApi {
    /// Makes the table that plugins get; it lives as long as the process. Host only.
    pub fn into_static(self) -> HostApi_Ref {
        self.leak_into_prefix()
    }
}
