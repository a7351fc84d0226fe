//! Components in use. Every call is announced (`calls.rs`), and every answer is checked before anybody believes it.

use super::PluginError;
use super::calls::Call;
use solstice_ir::{DType, GRAPH_VERSION, Graph};
use solstice_plugin_abi::wire::{DatasetSpec, StepRequest, StepTrace, TraceRequest};
use solstice_plugin_abi::{
    AbiError, DatasetBox, ErrorKind, ExperimentBox, RResult, RSlice, RSliceMut, RStr, RVec, TracedBox, TracerAbi, guard, tracer_ref,
};
use std::cell::RefCell;
use std::collections::HashSet;

/// A model, optimizer, schedule or metric.
pub struct TracedHandle {
    object: TracedBox,
    component: String,
}

impl TracedHandle {
    pub(super) fn new(object: TracedBox, component: String) -> Self {
        TracedHandle { object, component }
    }

    /// The verified graph of an entry. Reproducible; may take seconds for a large model.
    pub fn trace(&self, entry: &str, request: &TraceRequest) -> Result<Graph, PluginError> {
        let request = to_json(request);
        let call = Call::enter(entry, &self.component);
        let answer = self.object.trace(entry.into(), request.as_slice().into());
        drop(call);
        let bytes = answer.into_result().map_err(|error| PluginError::from_call(&self.component, entry, error))?;
        Graph::from_bytes(&bytes).map_err(|error| PluginError::answer(&self.component, entry, error.to_string()))
    }
}

/// A data set. `fill` may be called from several threads at once.
pub struct DatasetHandle {
    object: DatasetBox,
    component: String,
}

impl DatasetHandle {
    pub(super) fn new(object: DatasetBox, component: String) -> Self {
        DatasetHandle { object, component }
    }

    /// Finds, downloads and reads the data; may take minutes. The second time it does nothing.
    pub fn open(&self) -> Result<(), PluginError> {
        let call = Call::enter("open", &self.component);
        let answer = self.object.open();
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "open", error))
    }

    /// Splits, fields and facts; after [`DatasetHandle::open`].
    pub fn spec(&self) -> Result<DatasetSpec, PluginError> {
        let call = Call::enter("spec", &self.component);
        let answer = self.object.spec();
        drop(call);
        let text = answer.into_result().map_err(|error| PluginError::from_call(&self.component, "spec", error))?;
        let spec = serde_json::from_str(text.as_str())
            .map_err(|error| PluginError::answer(&self.component, "spec", format!("the answer is not understood: {error}")))?;
        check_spec(&spec).map_err(|message| PluginError::answer(&self.component, "spec", message))?;
        Ok(spec)
    }

    /// Writes samples into the buffers, one a field in the order of the spec, each `indices.len()` samples long.
    pub fn fill(&self, split: &str, epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<(), PluginError> {
        let mut buffers: Vec<RSliceMut<'_, u8>> = out.iter_mut().map(|buffer| RSliceMut::from_mut_slice(buffer)).collect();
        let call = Call::enter("fill", &self.component);
        let answer = self.object.fill(split.into(), epoch, indices.into(), RSliceMut::from_mut_slice(&mut buffers));
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "fill", error))
    }
}

fn check_spec(spec: &DatasetSpec) -> Result<(), String> {
    if spec.splits.is_empty() || spec.fields.is_empty() {
        return Err("the data set has no splits or no fields".into());
    }
    let mut names = HashSet::new();
    for split in &spec.splits {
        if !names.insert(&split.name) {
            return Err(format!("the split `{}` is named twice", split.name));
        }
    }
    let mut names = HashSet::new();
    for field in &spec.fields {
        if !names.insert(&field.name) {
            return Err(format!("the field `{}` is named twice", field.name));
        }
        if !matches!(field.dtype, DType::U8 | DType::F32 | DType::I32) {
            return Err(format!("the field `{}` is {}; a field is u8, f32 or i32", field.name, field.dtype));
        }
        let bytes = field.shape.iter().try_fold(field.dtype.size(), |bytes, &size| bytes.checked_mul(size));
        if bytes.is_none_or(|bytes| bytes == 0 || bytes > isize::MAX as usize) {
            return Err(format!("a sample of the field `{}` has the shape {:?}", field.name, field.shape));
        }
    }
    Ok(())
}

/// A training strategy.
pub struct ExperimentHandle {
    object: ExperimentBox,
    component: String,
}

/// How an experiment reaches the recipe's other components: (slot, entry, request).
pub type Ask<'a> = dyn Fn(&str, &str, &TraceRequest) -> Result<Graph, PluginError> + 'a;

impl ExperimentHandle {
    pub(super) fn new(object: ExperimentBox, component: String) -> Self {
        ExperimentHandle { object, component }
    }

    /// The verified step for `train_step` or `eval_step`. When another component is at fault, the error names that one.
    pub fn trace(&self, entry: &str, request: &StepRequest, ask: &Ask<'_>) -> Result<StepTrace, PluginError> {
        let request = to_json(request);
        let tracer = HostTracer { ask, failed: RefCell::new(None) };
        let call = Call::enter(entry, &self.component);
        let answer = self.object.trace(entry.into(), request.as_slice().into(), tracer_ref(&tracer));
        drop(call);
        let bytes = answer.into_result().map_err(|error| match tracer.failed.take() {
            Some(cause) if error.message.as_str() == message_of(&cause) => cause,
            _ => PluginError::from_call(&self.component, entry, error),
        })?;
        let broken = |message: String| PluginError::answer(&self.component, entry, message);
        let trace: StepTrace = serde_json::from_slice(&bytes).map_err(|error| broken(format!("the answer is not understood: {error}")))?;
        for graph in std::iter::once(&trace.graph).chain(trace.metrics.iter().map(|metric| &metric.compute)) {
            if graph.version > GRAPH_VERSION {
                return Err(broken(format!("graph version {} is newer than this host's {GRAPH_VERSION}: update the host", graph.version)));
            }
            graph.verify().map_err(|error| broken(error.to_string()))?;
        }
        Ok(trace)
    }
}

struct HostTracer<'a> {
    ask: &'a Ask<'a>,
    failed: RefCell<Option<PluginError>>,
}

impl TracerAbi for HostTracer<'_> {
    fn trace(&self, component: RStr<'_>, entry: RStr<'_>, request: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError> {
        guard(|| {
            let request = serde_json::from_slice(request.as_slice())
                .map_err(|error| AbiError::new(ErrorKind::PROTOCOL, format!("the request is not understood: {error}")))?;
            match (self.ask)(component.as_str(), entry.as_str(), &request) {
                Ok(graph) => Ok(graph.to_bytes().into()),
                Err(error) => {
                    let abi_error = AbiError::at(ErrorKind::HOST, message_of(&error), error.location());
                    *self.failed.borrow_mut() = Some(error);
                    Err(abi_error)
                }
            }
        })
    }
}

/// The sentence without the place, which travels beside it.
fn message_of(error: &PluginError) -> String {
    let sentence = error.to_string();
    sentence.strip_suffix(&format!(" ({})", error.location())).unwrap_or(&sentence).to_owned()
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("requests are plain data")
}
