//! Components in use. Every call is announced (`calls.rs`), and every answer is checked before anybody believes it.

use super::PluginError;
use super::calls::{Call, Patience};
use solstice_ir::{DType, GRAPH_VERSION, Graph};
use solstice_plugin_abi::run::{Action, Event, LogItem, Moment, NamedTensor, Question, RunFacts, tensors_from_bytes, tensors_to_bytes};
use solstice_plugin_abi::wire::{DatasetSpec, StepRequest, StepTrace, TraceRequest};
use solstice_plugin_abi::{
    AbiError, CallbackBox, DatasetBox, ErrorKind, ExperimentBox, LoggerBox, RResult, RSlice, RSliceMut, RStr, RVec, RunAccessAbi,
    TracedBox, TracerAbi, guard, run_access_ref, tracer_ref,
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
        let nodes = trace.graph.nodes.len();
        if let Some((name, _)) = trace.gradients.iter().chain(&trace.observed).find(|(_, node)| node.index() >= nodes) {
            return Err(broken(format!("`{name}` is at a node that the graph does not have")));
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

/// Code that watches a run.
pub struct CallbackHandle {
    object: CallbackBox,
    component: String,
}

/// How a callback asks about the run; an error is a sentence.
pub type Answer<'a> = dyn Fn(&Question, &[NamedTensor]) -> Result<Vec<NamedTensor>, String> + 'a;

impl CallbackHandle {
    pub(super) fn new(object: CallbackBox, component: String) -> Self {
        CallbackHandle { object, component }
    }

    /// When it wants to be called.
    pub fn moments(&self) -> Result<Vec<Moment>, PluginError> {
        let call = Call::enter("moments", &self.component);
        let answer = self.object.moments();
        drop(call);
        let text = answer.into_result().map_err(|error| PluginError::from_call(&self.component, "moments", error))?;
        self.understood("moments", text.as_bytes())
    }

    /// Tells it about the run, once.
    pub fn start(&self, facts: &RunFacts) -> Result<(), PluginError> {
        let facts = to_json(facts);
        let call = Call::enter("start", &self.component);
        let answer = self.object.start(facts.as_slice().into());
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "start", error))
    }

    /// Tells it what happened; what it asks for in return.
    pub fn on_event(&self, event: &Event, answer: &Answer<'_>) -> Result<Vec<Action>, PluginError> {
        let event = to_json(event);
        let access = HostAccess { answer };
        let call = Call::enter("on_event", &self.component);
        let answer = self.object.on_event(event.as_slice().into(), run_access_ref(&access));
        drop(call);
        let bytes = answer.into_result().map_err(|error| PluginError::from_call(&self.component, "on_event", error))?;
        self.understood("on_event", &bytes)
    }

    /// Its state, as JSON.
    pub fn save(&self) -> Result<String, PluginError> {
        let call = Call::enter("save", &self.component);
        let answer = self.object.save();
        drop(call);
        answer.into_result().map(String::from).map_err(|error| PluginError::from_call(&self.component, "save", error))
    }

    /// Gives a saved state back.
    pub fn load(&self, state: &str) -> Result<(), PluginError> {
        let call = Call::enter("load", &self.component);
        let answer = self.object.load(state.into());
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "load", error))
    }

    fn understood<T: serde::de::DeserializeOwned>(&self, call: &str, bytes: &[u8]) -> Result<T, PluginError> {
        serde_json::from_slice(bytes)
            .map_err(|error| PluginError::answer(&self.component, call, format!("the answer is not understood: {error}")))
    }
}

struct HostAccess<'a> {
    answer: &'a Answer<'a>,
}

impl RunAccessAbi for HostAccess<'_> {
    fn ask(&self, question: RSlice<'_, u8>, tensors: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError> {
        guard(|| {
            let protocol = |problem: String| AbiError::new(ErrorKind::PROTOCOL, problem);
            let question = serde_json::from_slice(question.as_slice())
                .map_err(|error| protocol(format!("this host does not know the question: {error}")))?;
            let tensors = tensors_from_bytes(tensors.as_slice()).map_err(protocol)?;
            match (self.answer)(&question, &tensors) {
                Ok(tensors) => Ok(tensors_to_bytes(&tensors).into()),
                Err(sentence) => Err(AbiError::new(ErrorKind::HOST, sentence)),
            }
        })
    }
}

/// A place that a run's log goes to. Its calls may take any time: they are made on a thread of their own.
pub struct LoggerHandle {
    object: LoggerBox,
    component: String,
}

impl LoggerHandle {
    pub(super) fn new(object: LoggerBox, component: String) -> Self {
        LoggerHandle { object, component }
    }

    /// `logger `csv` (plugin `loggers`)`.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Opens the place.
    pub fn open(&self, facts: &RunFacts) -> Result<(), PluginError> {
        let facts = to_json(facts);
        let call = Call::enter_with("open", &self.component, Patience::Endless);
        let answer = self.object.open(facts.as_slice().into());
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "open", error))
    }

    /// Writes what happened.
    pub fn log(&self, items: &[LogItem]) -> Result<(), PluginError> {
        let items = to_json(&items);
        let call = Call::enter_with("log", &self.component, Patience::Endless);
        let answer = self.object.log(items.as_slice().into());
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "log", error))
    }

    /// Puts it on disk.
    pub fn flush(&self) -> Result<(), PluginError> {
        let call = Call::enter_with("flush", &self.component, Patience::Endless);
        let answer = self.object.flush();
        drop(call);
        answer.into_result().map_err(|error| PluginError::from_call(&self.component, "flush", error))
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
