//! The boundary between the host and a plugin: types whose layout does not depend on the compiler.
//!
//! This is the only crate that names `abi_stable`; authors and the host see plain Rust around it. It holds no behaviour beyond what both sides need
//! to meet: the module that a plugin exports ([`PluginModule`]), the objects that it makes ([`Traced`], [`DatasetAbi`], [`ExperimentAbi`],
//! [`CallbackAbi`], [`LoggerAbi`]), what the host gives ([`HostApi`], [`TracerAbi`], [`RunAccessAbi`]), the panic guard, and the manifest that can be read without running the file. What may grow often is JSON
//! (`wire.rs`, and `run.rs` for what callbacks and loggers hear). `README.md` has the rules by which the rest grows.

#![allow(unsafe_code)]

mod error;
mod guard;
mod manifest;
mod module;
mod objects;
mod root;
pub mod run;
mod span;
pub mod wire;

pub use error::{AbiError, ErrorKind};
pub use guard::guard;
pub use manifest::{MANIFEST_BYTES, MANIFEST_SYMBOL_PREFIX, Manifest, ManifestError, encode_manifest};
pub use module::{HostApi, HostApi_Ref, PluginModule, PluginModule_Ref};
pub use objects::{
    CallbackAbi, CallbackBox, DatasetAbi, DatasetBox, ExperimentAbi, ExperimentBox, LoggerAbi, LoggerBox, RunAccessAbi, RunAccessRef,
    Traced, TracedBox, TracerAbi, TracerRef, callback_box, dataset_box, experiment_box, logger_box, run_access_ref, traced_box, tracer_ref,
};
pub use root::{ROOT_SYMBOL_PREFIX, RootHeader, RootResult, open_root, root_header, root_result};
pub use span::{EpochShape, Progress, Span, Unit};

pub use abi_stable::std_types::{RResult, RSlice, RSliceMut, RStr, RString, RVec};

/// Version of the boundary; a host takes plugins of its own major and of its own minor or an older one.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The compiler that built this copy of the crate, as `rustc --version` prints it.
pub const RUSTC_VERSION: &str = env!("SOLSTICE_RUSTC");
