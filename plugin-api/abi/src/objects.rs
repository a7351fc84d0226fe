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

/// An owned [`Traced`].
pub type TracedBox = Traced_TO<'static, RBox<()>>;
/// An owned [`DatasetAbi`].
pub type DatasetBox = DatasetAbi_TO<'static, RBox<()>>;
/// An owned [`ExperimentAbi`].
pub type ExperimentBox = ExperimentAbi_TO<'static, RBox<()>>;
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
