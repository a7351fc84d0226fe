//! What authors of Solstice plugins depend on.
//!
//! A plugin implements one or more of the traits in `traits.rs` ([`Model`], [`Dataset`], [`Experiment`], [`Optimizer`], [`LrSchedule`], [`Metric`],
//! [`Transform`]) on a `#[config]` type (or those in `callbacks.rs`: [`Callback`], [`Logger`]) and names them in [`export_plugin!`]. Functions are built with [`Graph`]; layers and losses are its methods in `nn/`.

mod callbacks;
mod config;
mod error;
mod export;
#[cfg(feature = "fetch")]
pub mod fetch;
mod graph;
pub mod nn;
mod step;
pub mod testing;
mod traits;

pub use callbacks::{Callback, LogSink, Logger, Run, ShadowUpdate};
pub use error::{Error, Result};
pub use export::{is_cancelled, log};
pub use graph::{Graph, Tensor};
pub use solstice_ir as ir;
pub use solstice_plugin_abi::{EpochShape, Progress, Span, Unit, run, wire};
pub use solstice_plugin_macros::config;
pub use step::{Step, Tracer};
pub use traits::{
    Config, DataHost, Dataset, Experiment, LrSchedule, Metric, Model, Observed, Optimizer, ParamUpdate, Samples, SchedulePoint, Transform,
};

/// Everything that a plugin usually needs.
pub mod prelude {
    pub use crate::ir::{DType, Init, TensorType};
    pub use crate::wire::{DatasetSpec, Field, FieldRole, Split};
    pub use crate::{
        Callback, DataHost, Dataset, Error, Experiment, Graph, LogSink, Logger, LrSchedule, Metric, Model, Observed, Optimizer,
        ParamUpdate, Result, Samples, SchedulePoint, ShadowUpdate, Step, Tensor, Transform, config, export_plugin,
    };
    // The attribute inside `#[config]` types is looked up by this name.
    pub use schemars;
}

/// What the macros expand to; not for authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::*;
    pub use schemars;
    pub use serde;
    pub use solstice_plugin_abi as abi;
}
