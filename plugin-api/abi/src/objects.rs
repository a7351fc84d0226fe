//! The objects that cross: components that a plugin makes, and the tracer that the host lends an experiment.
//!
//! New methods go to the tail, with a default body; the attribute `last_prefix_field` stays where it is.

#![allow(non_local_definitions, non_camel_case_types, clippy::double_must_use)]
#![allow(missing_docs)] // for what the attribute generates

use crate::{AbiError, guard};
use abi_stable::{
    RRef, sabi_trait,
    sabi_trait::TD_Opaque,
    std_types::{RBox, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};
use std::mem::ManuallyDrop;

/// A function that the host compiles: model, optimizer, lr-schedule, metric.
#[sabi_trait]
pub trait Traced: Send + Sync {
    /// JSON of `ir::Graph` for an entry; `request` is JSON of `wire::TraceRequest`.
    #[sabi(last_prefix_field)]
    fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError>;
}

/// A source of samples.
#[sabi_trait]
pub trait DatasetAbi: Send + Sync {
    /// Finds, downloads and reads what is needed; may take long. Later calls do nothing.
    fn open(&self) -> RResult<(), AbiError>;
    /// JSON of `wire::DatasetSpec`; after `open`.
    fn spec(&self) -> RResult<RString, AbiError>;
    /// Writes sample `indices[i]` of `split` to slot `i` of every buffer (one a field, in the order of the spec). Called from several threads.
    #[sabi(last_prefix_field)]
    fn fill(&self, split: RStr<'_>, epoch: u64, indices: RSlice<'_, u64>, out: RSliceMut<'_, RSliceMut<'_, u8>>) -> RResult<(), AbiError>;
}

/// A training strategy.
#[sabi_trait]
pub trait ExperimentAbi: Send + Sync {
    /// JSON of `wire::StepTrace` for `train_step` or `eval_step`; `request` is JSON of `wire::StepRequest`. Other components are asked through `tracer`.
    #[sabi(last_prefix_field)]
    fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>, tracer: TracerRef<'_>) -> RResult<RVec<u8>, AbiError>;
}

/// The host's side of an experiment: traces the recipe's other components, whichever plugin they come from.
#[sabi_trait]
pub trait TracerAbi {
    /// (component path such as `model`, entry, JSON of `wire::TraceRequest`) to JSON of `ir::Graph`.
    #[sabi(last_prefix_field)]
    fn trace(&self, component: RStr<'_>, entry: RStr<'_>, request: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError>;
}

/// Code that is called while a run goes on.
#[sabi_trait]
pub trait CallbackAbi: Send + Sync {
    /// JSON of `Vec<run::Moment>`: when it wants to be called.
    fn moments(&self) -> RResult<RString, AbiError>;
    /// JSON of `run::RunFacts`; once, before any event.
    fn start(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError>;
    /// JSON of `Vec<run::Action>`; `event` is JSON of `run::Event`. Called between two steps.
    fn on_event(&self, event: RSlice<'_, u8>, run: RunAccessRef<'_>) -> RResult<RVec<u8>, AbiError>;
    /// Its state as JSON, for a checkpoint.
    fn save(&self) -> RResult<RString, AbiError>;
    /// Takes a saved state back.
    #[sabi(last_prefix_field)]
    fn load(&self, state: RStr<'_>) -> RResult<(), AbiError>;
}

/// The host's side of a callback: answers questions about the run.
#[sabi_trait]
pub trait RunAccessAbi {
    /// (JSON of `run::Question`, tensors that belong to it) to tensors; both as `run::tensors_to_bytes`.
    #[sabi(last_prefix_field)]
    fn ask(&self, question: RSlice<'_, u8>, tensors: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError>;
}

/// A place that a run's log goes to. It has a thread of its own, and may be slow or fail without harm to the run.
#[sabi_trait]
pub trait LoggerAbi: Send + Sync {
    /// JSON of `run::RunFacts`; once, before anything is logged.
    fn open(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError>;
    /// JSON of `Vec<run::LogItem>`, in the order in which they happened.
    fn log(&self, items: RSlice<'_, u8>) -> RResult<(), AbiError>;
    /// The log is wanted on disk: at every checkpoint, and at the end.
    #[sabi(last_prefix_field)]
    fn flush(&self) -> RResult<(), AbiError>;
}

/// An owned [`Traced`].
pub type TracedBox = Traced_TO<'static, RBox<()>>;
/// An owned [`DatasetAbi`].
pub type DatasetBox = DatasetAbi_TO<'static, RBox<()>>;
/// An owned [`ExperimentAbi`].
pub type ExperimentBox = ExperimentAbi_TO<'static, RBox<()>>;
/// An owned [`CallbackAbi`].
pub type CallbackBox = CallbackAbi_TO<'static, RBox<()>>;
/// An owned [`LoggerAbi`].
pub type LoggerBox = LoggerAbi_TO<'static, RBox<()>>;
/// A borrowed [`RunAccessAbi`].
pub type RunAccessRef<'a> = RunAccessAbi_TO<'a, RRef<'a, ()>>;
/// A borrowed [`TracerAbi`].
pub type TracerRef<'a> = TracerAbi_TO<'a, RRef<'a, ()>>;

/// Boxes a component; a panic of its `Drop` is printed and goes no further.
pub fn traced_box(value: impl Traced + 'static) -> TracedBox {
    Traced_TO::from_value(Guarded::new(value), TD_Opaque)
}

/// Boxes a data set; see [`traced_box`].
pub fn dataset_box(value: impl DatasetAbi + 'static) -> DatasetBox {
    DatasetAbi_TO::from_value(Guarded::new(value), TD_Opaque)
}

/// Boxes an experiment; see [`traced_box`].
pub fn experiment_box(value: impl ExperimentAbi + 'static) -> ExperimentBox {
    ExperimentAbi_TO::from_value(Guarded::new(value), TD_Opaque)
}

/// Boxes a callback; see [`traced_box`].
pub fn callback_box(value: impl CallbackAbi + 'static) -> CallbackBox {
    CallbackAbi_TO::from_value(Guarded::new(value), TD_Opaque)
}

/// Boxes a logger; see [`traced_box`].
pub fn logger_box(value: impl LoggerAbi + 'static) -> LoggerBox {
    LoggerAbi_TO::from_value(Guarded::new(value), TD_Opaque)
}

/// Lends access to a run for one call.
pub fn run_access_ref<'a, T: RunAccessAbi + 'a>(run: &'a T) -> RunAccessRef<'a> {
    RunAccessAbi_TO::from_ptr(RRef::new(run), TD_Opaque)
}

/// Lends a tracer for one call.
pub fn tracer_ref<'a, T: TracerAbi + 'a>(tracer: &'a T) -> TracerRef<'a> {
    TracerAbi_TO::from_ptr(RRef::new(tracer), TD_Opaque)
}

/// A value whose `Drop` is guarded. abi_stable's own shim would end the process with code 1.
struct Guarded<T>(ManuallyDrop<T>);

impl<T> Guarded<T> {
    fn new(value: T) -> Self {
        Guarded(ManuallyDrop::new(value))
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let dropped = guard(|| {
            // SAFETY: this is the only drop of the field, and nothing reads it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.0) };
            Ok(())
        });
        if let RResult::RErr(error) = dropped {
            eprintln!("a component panicked while it was dropped: {error}");
        }
    }
}

impl<T: Traced> Traced for Guarded<T> {
    fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError> {
        guard(|| self.0.trace(entry, request).into_result())
    }
}

impl<T: DatasetAbi> DatasetAbi for Guarded<T> {
    fn open(&self) -> RResult<(), AbiError> {
        guard(|| self.0.open().into_result())
    }
    fn spec(&self) -> RResult<RString, AbiError> {
        guard(|| self.0.spec().into_result())
    }
    fn fill(&self, split: RStr<'_>, epoch: u64, indices: RSlice<'_, u64>, out: RSliceMut<'_, RSliceMut<'_, u8>>) -> RResult<(), AbiError> {
        guard(|| self.0.fill(split, epoch, indices, out).into_result())
    }
}

impl<T: ExperimentAbi> ExperimentAbi for Guarded<T> {
    fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>, tracer: TracerRef<'_>) -> RResult<RVec<u8>, AbiError> {
        guard(|| self.0.trace(entry, request, tracer).into_result())
    }
}

impl<T: CallbackAbi> CallbackAbi for Guarded<T> {
    fn moments(&self) -> RResult<RString, AbiError> {
        guard(|| self.0.moments().into_result())
    }
    fn start(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| self.0.start(facts).into_result())
    }
    fn on_event(&self, event: RSlice<'_, u8>, run: RunAccessRef<'_>) -> RResult<RVec<u8>, AbiError> {
        guard(|| self.0.on_event(event, run).into_result())
    }
    fn save(&self) -> RResult<RString, AbiError> {
        guard(|| self.0.save().into_result())
    }
    fn load(&self, state: RStr<'_>) -> RResult<(), AbiError> {
        guard(|| self.0.load(state).into_result())
    }
}

impl<T: LoggerAbi> LoggerAbi for Guarded<T> {
    fn open(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| self.0.open(facts).into_result())
    }
    fn log(&self, items: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| self.0.log(items).into_result())
    }
    fn flush(&self) -> RResult<(), AbiError> {
        guard(|| self.0.flush().into_result())
    }
}
