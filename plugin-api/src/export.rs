//! `export_plugin!` and what stands behind it: the author's traits on one side, the functions of the boundary on the other.
//!
//! Nothing here knows a particular component; the macro lists them, and everything else is generic functions over that list. The host's side is
//! `host/app/src/loader`.

use crate::callbacks::{Callback, LogSink, Logger, Run, ShadowUpdate};
use crate::config;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::step::Step;
use crate::traits::{
    Config, DataHost, Dataset, Experiment, LrSchedule, Metric, Model, Observed, Optimizer, ParamUpdate, Samples, SchedulePoint, Transform,
};
use solstice_ir::{DType, TensorType};
use solstice_plugin_abi::run::{NamedTensor, Question, RunFacts, tensors_from_bytes, tensors_to_bytes};
use solstice_plugin_abi::wire::{ComponentInfo, DatasetSpec, HostInfo, Kind, StepRequest, StepTrace, TraceRequest};
use solstice_plugin_abi::{
    self as abi, AbiError, CallbackBox, DatasetBox, ErrorKind, ExperimentBox, HostApi_Ref, LoggerBox, RResult, RSlice, RSliceMut, RStr,
    RString, RVec, RunAccessRef, TracedBox, TracerRef, guard,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Makes the crate a plugin: lists its components by kind, in any order.
///
/// ```ignore
/// export_plugin! { models: [Mlp], metrics: [Accuracy, TopK] }
/// ```
/// Kinds: `models`, `datasets`, `experiments`, `optimizers`, `lr_schedules`, `metrics`, `transforms`, `callbacks`, `loggers`. Call it once a crate, with
/// `crate-type = ["cdylib", "rlib"]`. The two exported symbols carry the crate's name, so several plugins link into one test binary.
#[macro_export]
macro_rules! export_plugin {
    ($($kind:ident : [$($component:ty),* $(,)?]),* $(,)?) => {
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::__private::{self as private, abi, abi::RResult, abi::RStr};

            const COMPONENTS: &[private::Component] = &[$($($crate::__component!($kind, $component),)*)*];
            const NAMES: [(&str, &str); COMPONENTS.len()] = private::component_names(COMPONENTS);

            extern "C" fn init(host: abi::HostApi_Ref) -> RResult<(), abi::AbiError> {
                private::init(env!("CARGO_PKG_NAME"), host)
            }
            extern "C" fn describe() -> RResult<abi::RString, abi::AbiError> {
                private::describe(COMPONENTS)
            }
            extern "C" fn validate_config(kind: RStr<'_>, id: RStr<'_>, text: RStr<'_>) -> RResult<abi::RString, abi::AbiError> {
                private::validate_config(COMPONENTS, kind, id, text)
            }
            extern "C" fn create_traced(kind: RStr<'_>, id: RStr<'_>, text: RStr<'_>) -> RResult<abi::TracedBox, abi::AbiError> {
                private::create_traced(COMPONENTS, kind, id, text)
            }
            extern "C" fn create_dataset(id: RStr<'_>, text: RStr<'_>) -> RResult<abi::DatasetBox, abi::AbiError> {
                private::create_dataset(COMPONENTS, id, text)
            }
            extern "C" fn create_experiment(id: RStr<'_>, text: RStr<'_>) -> RResult<abi::ExperimentBox, abi::AbiError> {
                private::create_experiment(COMPONENTS, id, text)
            }
            extern "C" fn create_callback(id: RStr<'_>, text: RStr<'_>) -> RResult<abi::CallbackBox, abi::AbiError> {
                private::create_callback(COMPONENTS, id, text)
            }
            extern "C" fn create_logger(id: RStr<'_>, text: RStr<'_>) -> RResult<abi::LoggerBox, abi::AbiError> {
                private::create_logger(COMPONENTS, id, text)
            }
            extern "C" fn root() -> abi::RootResult {
                abi::root_result(|| abi::PluginModule {
                    init,
                    describe,
                    validate_config,
                    create_traced,
                    create_dataset,
                    create_experiment,
                    create_callback,
                    create_logger,
                })
            }

            // SAFETY: the name holds the crate's own, so no other crate of a program defines it.
            #[unsafe(export_name = concat!("SOLSTICE_PLUGIN_MANIFEST_", env!("CARGO_CRATE_NAME")))]
            pub static MANIFEST: [u8; abi::MANIFEST_BYTES] = abi::encode_manifest(
                &[
                    ("abi", abi::ABI_VERSION),
                    ("name", env!("CARGO_PKG_NAME")),
                    ("version", env!("CARGO_PKG_VERSION")),
                    ("rustc", abi::RUSTC_VERSION),
                    ("panic", if cfg!(panic = "abort") { "abort" } else { "unwind" }),
                ],
                &NAMES,
            );
            // SAFETY: as above; and `root` returns what `root_result` made.
            #[unsafe(export_name = concat!("SOLSTICE_PLUGIN_ROOT_", env!("CARGO_CRATE_NAME")))]
            pub static ROOT: abi::RootHeader = unsafe { abi::root_header(root) };
        };
    };
}

/// The list entry of one component.
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    (models, $component:ty) => {
        $crate::__private::model::<$component>()
    };
    (datasets, $component:ty) => {
        $crate::__private::dataset::<$component>()
    };
    (experiments, $component:ty) => {
        $crate::__private::experiment::<$component>()
    };
    (optimizers, $component:ty) => {
        $crate::__private::optimizer::<$component>()
    };
    (lr_schedules, $component:ty) => {
        $crate::__private::lr_schedule::<$component>()
    };
    (metrics, $component:ty) => {
        $crate::__private::metric::<$component>()
    };
    (transforms, $component:ty) => {
        $crate::__private::transform::<$component>()
    };
    (callbacks, $component:ty) => {
        $crate::__private::callback::<$component>()
    };
    (loggers, $component:ty) => {
        $crate::__private::logger::<$component>()
    };
    ($kind:ident, $component:ty) => {
        compile_error!(concat!(
            "export_plugin! knows models, datasets, experiments, optimizers, lr_schedules, metrics, transforms, callbacks and loggers, not `",
            stringify!($kind),
            "`"
        ))
    };
}

// ---- the list of components --------------------------------------------------------------------------------------------------------------

/// One component of a plugin: its names, and how to describe, check and create it.
#[derive(Clone, Copy)]
pub struct Component {
    kind: Kind,
    kind_name: &'static str,
    id: &'static str,
    describe: fn(Kind, &str) -> Result<ComponentInfo>,
    canonical: fn(&str) -> Result<String>,
    create: Create,
}

#[derive(Clone, Copy)]
enum Create {
    Traced(fn(&str) -> Result<TracedBox>),
    Dataset(fn(&str) -> Result<DatasetBox>),
    Experiment(fn(&str) -> Result<ExperimentBox>),
    // A callback is called, and its copies of the weights are traced.
    Callback(fn(&str) -> Result<CallbackBox>, fn(&str) -> Result<TracedBox>),
    Logger(fn(&str) -> Result<LoggerBox>),
}

const fn component<C: Config>(kind: Kind, kind_name: &'static str, id: &'static str, create: Create) -> Component {
    Component {
        kind,
        kind_name,
        id,
        describe: describe_one::<C>,
        canonical: |text| config::canonical_json(&config::parse::<C>(text)?),
        create,
    }
}

/// A model.
pub const fn model<M: Model>() -> Component {
    let create = Create::Traced(|text| Ok(abi::traced_box(TracedModel(config::parse::<M>(text)?))));
    component::<M>(Kind::Model, "model", M::ID, create)
}

/// An optimizer.
pub const fn optimizer<O: Optimizer>() -> Component {
    let create = Create::Traced(|text| Ok(abi::traced_box(TracedOptimizer(config::parse::<O>(text)?))));
    component::<O>(Kind::Optimizer, "optimizer", O::ID, create)
}

/// A learning rate schedule.
pub const fn lr_schedule<S: LrSchedule>() -> Component {
    let create = Create::Traced(|text| Ok(abi::traced_box(TracedSchedule(config::parse::<S>(text)?))));
    component::<S>(Kind::LrSchedule, "lr-schedule", S::ID, create)
}

/// A metric.
pub const fn metric<M: Metric>() -> Component {
    let create = Create::Traced(|text| Ok(abi::traced_box(TracedMetric(config::parse::<M>(text)?))));
    component::<M>(Kind::Metric, "metric", M::ID, create)
}

/// A transform.
pub const fn transform<T: Transform>() -> Component {
    let create = Create::Traced(|text| Ok(abi::traced_box(TracedTransform(config::parse::<T>(text)?))));
    component::<T>(Kind::Transform, "transform", T::ID, create)
}

/// A data set.
pub const fn dataset<D: Dataset>() -> Component {
    let create = Create::Dataset(|text| Ok(abi::dataset_box(CalledDataset::new(config::parse::<D>(text)?))));
    component::<D>(Kind::Dataset, "dataset", D::ID, create)
}

/// An experiment.
pub const fn experiment<E: Experiment>() -> Component {
    let create = Create::Experiment(|text| Ok(abi::experiment_box(CalledExperiment(config::parse::<E>(text)?))));
    component::<E>(Kind::Experiment, "experiment", E::ID, create)
}

/// A callback.
pub const fn callback<C: Callback>() -> Component {
    let create = Create::Callback(
        |text| Ok(abi::callback_box(CalledCallback::new(config::parse::<C>(text)?))),
        |text| Ok(abi::traced_box(TracedCallback(config::parse::<C>(text)?))),
    );
    component::<C>(Kind::Callback, "callback", C::ID, create)
}

/// A logger.
pub const fn logger<L: Logger>() -> Component {
    let create = Create::Logger(|text| Ok(abi::logger_box(CalledLogger { logger: config::parse::<L>(text)?, sink: Mutex::new(None) })));
    component::<L>(Kind::Logger, "logger", L::ID, create)
}

/// Kind and id of each component, for the manifest.
pub const fn component_names<const N: usize>(components: &[Component]) -> [(&'static str, &'static str); N] {
    let mut names = [("", ""); N];
    let mut index = 0;
    while index < N {
        names[index] = (components[index].kind_name, components[index].id);
        index += 1;
    }
    names
}

fn describe_one<C: Config>(kind: Kind, id: &str) -> Result<ComponentInfo> {
    let schema = config::schema::<C>();
    let text = schema.get("description").and_then(|doc| doc.as_str()).unwrap_or("");
    // The first paragraph, its lines joined.
    let doc = text.split("\n\n").next().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(ComponentInfo { kind, id: id.to_owned(), doc, defaults: config::canonical(&C::default())?, schema })
}

// ---- functions of the module -------------------------------------------------------------------------------------------------------------

/// Keeps the host's services for this library.
pub fn init(plugin: &'static str, host: HostApi_Ref) -> RResult<(), AbiError> {
    guard(|| {
        let _ = HOST.set((plugin, host));
        Ok(())
    })
}

/// JSON of all components.
pub fn describe(components: &[Component]) -> RResult<RString, AbiError> {
    guard(|| {
        let infos: Result<Vec<ComponentInfo>> =
            components.iter().map(|component| (component.describe)(component.kind, component.id)).collect();
        to_json(&infos.map_err(plugin_error)?).map(RString::from)
    })
}

/// Canonical JSON of a config text.
pub fn validate_config(components: &[Component], kind: RStr<'_>, id: RStr<'_>, text: RStr<'_>) -> RResult<RString, AbiError> {
    guard(|| {
        let component = find(components, kind.as_str(), id.as_str())?;
        (component.canonical)(text.as_str()).map(RString::from).map_err(config_error)
    })
}

/// A component of a traced kind.
pub fn create_traced(components: &[Component], kind: RStr<'_>, id: RStr<'_>, text: RStr<'_>) -> RResult<TracedBox, AbiError> {
    guard(|| match find(components, kind.as_str(), id.as_str())?.create {
        Create::Traced(create) | Create::Callback(_, create) => create(text.as_str()).map_err(config_error),
        _ => Err(AbiError::new(ErrorKind::UNKNOWN, format!("a {kind} is called, not traced"))),
    })
}

/// A data set.
pub fn create_dataset(components: &[Component], id: RStr<'_>, text: RStr<'_>) -> RResult<DatasetBox, AbiError> {
    guard(|| match find(components, Kind::Dataset.name(), id.as_str())?.create {
        Create::Dataset(create) => create(text.as_str()).map_err(config_error),
        _ => unreachable!("components of kind dataset are made by `dataset`"),
    })
}

/// An experiment.
pub fn create_experiment(components: &[Component], id: RStr<'_>, text: RStr<'_>) -> RResult<ExperimentBox, AbiError> {
    guard(|| match find(components, Kind::Experiment.name(), id.as_str())?.create {
        Create::Experiment(create) => create(text.as_str()).map_err(config_error),
        _ => unreachable!("components of kind experiment are made by `experiment`"),
    })
}

/// A callback.
pub fn create_callback(components: &[Component], id: RStr<'_>, text: RStr<'_>) -> RResult<CallbackBox, AbiError> {
    guard(|| match find(components, Kind::Callback.name(), id.as_str())?.create {
        Create::Callback(create, _) => create(text.as_str()).map_err(config_error),
        _ => unreachable!("components of kind callback are made by `callback`"),
    })
}

/// A logger.
pub fn create_logger(components: &[Component], id: RStr<'_>, text: RStr<'_>) -> RResult<LoggerBox, AbiError> {
    guard(|| match find(components, Kind::Logger.name(), id.as_str())?.create {
        Create::Logger(create) => create(text.as_str()).map_err(config_error),
        _ => unreachable!("components of kind logger are made by `logger`"),
    })
}

fn find<'a>(components: &'a [Component], kind: &str, id: &str) -> Result<&'a Component, AbiError> {
    let of_kind = || components.iter().filter(|component| component.kind_name == kind);
    of_kind().find(|component| component.id == id).ok_or_else(|| {
        let close = config::closest(id, of_kind().map(|component| component.id));
        let hint = close.map(|close| format!(", did you mean `{close}`?")).unwrap_or_default();
        AbiError::new(ErrorKind::UNKNOWN, format!("the plugin has no {kind} `{id}`{hint}"))
    })
}

fn plugin_error(error: Error) -> AbiError {
    AbiError::at(ErrorKind::PLUGIN, error.message, error.location)
}

fn config_error(error: Error) -> AbiError {
    AbiError::at(ErrorKind::CONFIG, error.message, error.location)
}

fn to_json(value: &impl serde::Serialize) -> Result<String, AbiError> {
    serde_json::to_string(value).map_err(|error| AbiError::new(ErrorKind::PROTOCOL, format!("no JSON form: {error}")))
}

fn from_json<T: serde::de::DeserializeOwned>(bytes: RSlice<'_, u8>) -> Result<T, AbiError> {
    serde_json::from_slice(bytes.as_slice())
        .map_err(|error| AbiError::new(ErrorKind::PROTOCOL, format!("the host's request is not understood: {error}")))
}

// ---- traced kinds ------------------------------------------------------------------------------------------------------------------------

struct TracedModel<M>(M);
struct TracedOptimizer<O>(O);
struct TracedSchedule<S>(S);
struct TracedMetric<M>(M);
struct TracedTransform<T>(T);
struct TracedCallback<C>(C);

macro_rules! traced {
    ($wrapper:ident, $kind:ident, $trace:ident) => {
        impl<T: $kind> abi::Traced for $wrapper<T> {
            fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError> {
                guard(|| {
                    let graph = $trace(&self.0, entry.as_str(), &from_json(request)?).map_err(plugin_error)?;
                    Ok(graph.to_bytes().into())
                })
            }
        }
    };
}
traced!(TracedModel, Model, trace_model);
traced!(TracedOptimizer, Optimizer, trace_optimizer);
traced!(TracedSchedule, LrSchedule, trace_lr_schedule);
traced!(TracedMetric, Metric, trace_metric);
traced!(TracedTransform, Transform, trace_transform);
traced!(TracedCallback, Callback, trace_callback);

pub(crate) fn trace_model<M: Model>(model: &M, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("model", M::ID, entry, &["forward"])?;
    let (mut g, inputs) = begin(entry, request);
    let x = input(&inputs, "x")?;
    let y = model.forward(&mut g, x)?;
    g.output("y", y);
    g.finish()
}

pub(crate) fn trace_optimizer<O: Optimizer>(optimizer: &O, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("optimizer", O::ID, entry, &["learning_rate", "update"])?;
    let (mut g, inputs) = begin(entry, request);
    if entry == "learning_rate" {
        let lr = g.live("lr", optimizer.learning_rate());
        g.output("lr", lr);
        return g.finish();
    }
    let [param, grad, lr, step] = [input(&inputs, "param")?, input(&inputs, "grad")?, input(&inputs, "lr")?, input(&inputs, "step")?];
    // A host of 1.0 does not know the factor.
    let decay = inputs.get("decay").copied().unwrap_or_else(|| g.constant(1.0));
    let updated = optimizer.update(&mut g, ParamUpdate { param, grad, lr, step, decay })?;
    let wanted = g.ty(param).clone();
    returns(&g, &format!("update of optimizer `{}`", O::ID), updated, &wanted)?;
    g.output("param", updated);
    g.finish()
}

pub(crate) fn trace_lr_schedule<S: LrSchedule>(schedule: &S, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("lr-schedule", S::ID, entry, &["rate"])?;
    let (mut g, inputs) = begin(entry, request);
    let at =
        SchedulePoint { base_lr: input(&inputs, "base_lr")?, step: input(&inputs, "step")?, total_steps: input(&inputs, "total_steps")? };
    let lr = schedule.rate(&mut g, at)?;
    returns(&g, &format!("rate of lr-schedule `{}`", S::ID), lr, &TensorType::new(DType::F32, []))?;
    g.output("lr", lr);
    g.finish()
}

pub(crate) fn trace_metric<M: Metric>(metric: &M, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("metric", M::ID, entry, &["update", "compute"])?;
    let (mut g, inputs) = begin(entry, request);
    let outputs = if entry == "update" { metric.update(&mut g, &Observed { values: inputs })? } else { metric.compute(&mut g, &inputs)? };
    for (name, value) in outputs {
        g.output(&name, value);
    }
    g.finish()
}

pub(crate) fn trace_transform<T: Transform>(transform: &T, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("transform", T::ID, entry, &["apply"])?;
    let (mut g, inputs) = begin(entry, request);
    let x = input(&inputs, "x")?;
    let y = transform.apply(&mut g, x)?;
    let wanted = g.ty(x).clone();
    returns(&g, &format!("apply of transform `{}`", T::ID), y, &wanted)?;
    if let Some((id, own, _)) = g.ir().parameters().find(|(_, parameter, _)| parameter.role.is_state()) {
        let problem = format!(
            "transform `{}` makes the weight or state `{}`; it may read its input, random numbers, the step and live scalars only",
            T::ID,
            own.name
        );
        return Err(Error::at(problem, g.ir().node(id).location.to_string()));
    }
    g.output("y", y);
    g.finish()
}

pub(crate) fn trace_callback<C: Callback>(callback: &C, entry: &str, request: &TraceRequest) -> Result<solstice_ir::Graph> {
    known_entry("callback", C::ID, entry, &["shadow"])?;
    let (mut g, inputs) = begin(entry, request);
    let at = ShadowUpdate { shadow: input(&inputs, "shadow")?, param: input(&inputs, "param")?, step: input(&inputs, "step")? };
    if let Some(shadow) = callback.shadow(&mut g, at)? {
        let wanted = g.ty(at.param).clone();
        returns(&g, &format!("shadow of callback `{}`", C::ID), shadow, &wanted)?;
        g.output("shadow", shadow);
    }
    g.finish()
}

fn begin(entry: &str, request: &TraceRequest) -> (Graph, BTreeMap<String, Tensor>) {
    let mut g = Graph::new(entry, request.training).with_facts(request.facts.clone());
    let inputs = request.inputs.iter().map(|named| (named.name.clone(), g.input(&named.name, named.ty.clone()))).collect();
    (g, inputs)
}

fn input(inputs: &BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
    let missing = || {
        let given: Vec<&str> = inputs.keys().map(String::as_str).collect();
        Error::at(format!("wants the input `{name}`, which was not given (given: {})", given.join(", ")), "")
    };
    inputs.get(name).copied().ok_or_else(missing)
}

fn known_entry(kind: &str, id: &str, entry: &str, known: &[&str]) -> Result<()> {
    if known.contains(&entry) {
        return Ok(());
    }
    Err(Error::at(format!("{kind} `{id}` has no entry `{entry}`; it has {}", known.join(", ")), ""))
}

// The first shape error stands before any complaint about the placeholder that it left behind.
fn returns(g: &Graph, what: &str, value: Tensor, wanted: &TensorType) -> Result<()> {
    g.check()?;
    let (found, place) = (g.ty(value), &g.ir().node(value.0).location);
    if found == wanted { Ok(()) } else { Err(Error::at(format!("{what} must return {wanted}, it returns {found}"), place.to_string())) }
}

// ---- called kinds ------------------------------------------------------------------------------------------------------------------------

struct Opened {
    samples: Box<dyn Samples>,
    spec: DatasetSpec,
}

struct CalledDataset<D> {
    dataset: D,
    opening: Mutex<()>,
    opened: OnceLock<Opened>,
}

impl<D: Dataset> CalledDataset<D> {
    fn new(dataset: D) -> Self {
        CalledDataset { dataset, opening: Mutex::new(()), opened: OnceLock::new() }
    }

    fn opened(&self) -> Result<&Opened, AbiError> {
        self.opened.get().ok_or_else(|| AbiError::new(ErrorKind::PROTOCOL, "the data set was not opened"))
    }
}

impl<D: Dataset> abi::DatasetAbi for CalledDataset<D> {
    fn open(&self) -> RResult<(), AbiError> {
        guard(|| {
            let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            if self.opened.get().is_none() {
                let samples = self.dataset.open(&HostOfData).map_err(plugin_error)?;
                let spec = samples.spec();
                let _ = self.opened.set(Opened { samples, spec });
            }
            Ok(())
        })
    }

    fn spec(&self) -> RResult<RString, AbiError> {
        guard(|| to_json(&self.opened()?.spec).map(RString::from))
    }

    fn fill(
        &self,
        split: RStr<'_>,
        epoch: u64,
        indices: RSlice<'_, u64>,
        mut out: RSliceMut<'_, RSliceMut<'_, u8>>,
    ) -> RResult<(), AbiError> {
        guard(|| {
            let opened = self.opened()?;
            let mut buffers: Vec<&mut [u8]> = out.iter_mut().map(|buffer| buffer.as_mut_slice()).collect();
            check_fill(&opened.spec, split.as_str(), indices.as_slice(), &buffers).map_err(plugin_error)?;
            opened.samples.fill(split.as_str(), epoch, indices.as_slice(), &mut buffers).map_err(plugin_error)
        })
    }
}

/// What `fill` may rely on: a known split, indices inside it, one buffer a field, each of the right size.
pub(crate) fn check_fill(spec: &DatasetSpec, split: &str, indices: &[u64], buffers: &[&mut [u8]]) -> Result<()> {
    let problem = |message: String| Err(Error::at(message, ""));
    let Some(found) = spec.splits.iter().find(|known| known.name == split) else {
        let known: Vec<&str> = spec.splits.iter().map(|split| split.name.as_str()).collect();
        return problem(format!("the data set has no split `{split}`; it has {}", known.join(", ")));
    };
    if let Some(index) = indices.iter().find(|&&index| index >= found.len) {
        return problem(format!("sample {index} of `{split}` was asked for, which has {} samples", found.len));
    }
    if buffers.len() != spec.fields.len() {
        return problem(format!("{} buffers were given for {} fields", buffers.len(), spec.fields.len()));
    }
    for (field, buffer) in spec.fields.iter().zip(buffers) {
        let wanted = indices.len() * field.sample_bytes();
        if buffer.len() != wanted {
            return problem(format!("the buffer of `{}` has {} bytes, {wanted} are needed", field.name, buffer.len()));
        }
    }
    Ok(())
}

struct CalledExperiment<E>(E);

impl<E: Experiment> abi::ExperimentAbi for CalledExperiment<E> {
    fn trace(&self, entry: RStr<'_>, request: RSlice<'_, u8>, tracer: TracerRef<'_>) -> RResult<RVec<u8>, AbiError> {
        guard(|| {
            let ask = |component: &str, entry: &str, request: &TraceRequest| -> Result<solstice_ir::Graph> {
                let request = serde_json::to_vec(request)?;
                match tracer.trace(component.into(), entry.into(), request.as_slice().into()) {
                    RResult::ROk(bytes) => Ok(solstice_ir::Graph::from_bytes(&bytes)?),
                    RResult::RErr(error) => Err(Error::at(error.message.as_str(), error.location.as_str())),
                }
            };
            let trace = trace_experiment(&self.0, entry.as_str(), &from_json(request)?, &ask).map_err(plugin_error)?;
            to_json(&trace).map(|json| json.into_bytes().into())
        })
    }
}

pub(crate) fn trace_experiment<E: Experiment>(
    experiment: &E,
    entry: &str,
    request: &StepRequest,
    tracer: &crate::step::Tracer<'_>,
) -> Result<StepTrace> {
    known_entry("experiment", E::ID, entry, &["train_step", "eval_step"])?;
    let training = entry == "train_step";
    let mut step = Step::new(request, training, tracer);
    if training {
        experiment.train_step(&mut step)?
    } else {
        experiment.eval_step(&mut step)?
    }
    step.finish()
}

struct CalledCallback<C: Callback> {
    callback: C,
    state: Mutex<C::State>,
    facts: OnceLock<RunFacts>,
}

impl<C: Callback> CalledCallback<C> {
    fn new(callback: C) -> Self {
        CalledCallback { callback, state: Mutex::new(C::State::default()), facts: OnceLock::new() }
    }
}

impl<C: Callback> abi::CallbackAbi for CalledCallback<C> {
    fn moments(&self) -> RResult<RString, AbiError> {
        guard(|| to_json(&C::MOMENTS).map(RString::from))
    }

    fn start(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| {
            let facts = from_json(facts)?;
            self.callback.start(&facts).map_err(plugin_error)?;
            let _ = self.facts.set(facts);
            Ok(())
        })
    }

    fn on_event(&self, event: RSlice<'_, u8>, run: RunAccessRef<'_>) -> RResult<RVec<u8>, AbiError> {
        guard(|| {
            let ask = |question: &Question, tensors: &[NamedTensor]| -> Result<Vec<NamedTensor>> {
                let (question, tensors) = (serde_json::to_vec(question)?, tensors_to_bytes(tensors));
                match run.ask(question.as_slice().into(), tensors.as_slice().into()) {
                    RResult::ROk(bytes) => tensors_from_bytes(&bytes).map_err(|problem| Error::at(problem, "")),
                    RResult::RErr(error) => Err(Error::at(error.message.as_str(), error.location.as_str())),
                }
            };
            let facts = self.facts.get().ok_or_else(|| AbiError::new(ErrorKind::PROTOCOL, "the callback was not started"))?;
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let actions = self.callback.on_event(&mut state, &from_json(event)?, &Run::new(facts, &ask)).map_err(plugin_error)?;
            to_json(&actions).map(|json| json.into_bytes().into())
        })
    }

    fn save(&self) -> RResult<RString, AbiError> {
        guard(|| to_json(&*self.state.lock().unwrap_or_else(PoisonError::into_inner)).map(RString::from))
    }

    fn load(&self, state: RStr<'_>) -> RResult<(), AbiError> {
        guard(|| {
            let read = serde_json::from_str(state.as_str());
            let read = read.map_err(|error| AbiError::new(ErrorKind::PLUGIN, format!("its saved state is of another version: {error}")))?;
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = read;
            Ok(())
        })
    }
}

struct CalledLogger<L> {
    logger: L,
    sink: Mutex<Option<Box<dyn LogSink>>>,
}

impl<L> CalledLogger<L> {
    fn with_sink(&self, call: impl FnOnce(&mut dyn LogSink) -> Result<()>) -> Result<(), AbiError> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let sink = sink.as_mut().ok_or_else(|| AbiError::new(ErrorKind::PROTOCOL, "the logger was not opened"))?;
        call(sink.as_mut()).map_err(plugin_error)
    }
}

impl<L: Logger> abi::LoggerAbi for CalledLogger<L> {
    fn open(&self, facts: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| {
            let sink = self.logger.open(&from_json(facts)?).map_err(plugin_error)?;
            *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
            Ok(())
        })
    }

    fn log(&self, items: RSlice<'_, u8>) -> RResult<(), AbiError> {
        guard(|| {
            let items: Vec<solstice_plugin_abi::run::LogItem> = from_json(items)?;
            self.with_sink(|sink| sink.log(&items))
        })
    }

    fn flush(&self) -> RResult<(), AbiError> {
        guard(|| self.with_sink(|sink| sink.flush()))
    }
}

// ---- services of the host ----------------------------------------------------------------------------------------------------------------

static HOST: OnceLock<(&'static str, HostApi_Ref)> = OnceLock::new();

/// Writes a line to the run's log; to stderr where there is no host. `println!` works too, but does not say whose line it is.
pub fn log(message: &str) {
    const INFO: u32 = 3;
    match HOST.get() {
        Some((plugin, host)) => host.log()(INFO, (*plugin).into(), message.into()),
        None => eprintln!("{message}"),
    }
}

/// True once the user asked for a stop: a long load should return soon.
pub fn is_cancelled() -> bool {
    HOST.get().is_some_and(|(_, host)| host.is_cancelled()())
}

struct HostOfData;

impl HostOfData {
    fn info(&self) -> HostInfo {
        let info = HOST.get().map(|(_, host)| host.info()());
        info.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

impl DataHost for HostOfData {
    fn data_dir(&self) -> Option<PathBuf> {
        self.info().data_dir.map(PathBuf::from)
    }

    fn cache_dir(&self) -> PathBuf {
        let dir = self.info().cache_dir.map_or_else(|| std::env::temp_dir().join("solstice"), PathBuf::from);
        // A folder that cannot be made shows at the first write into it, with its path.
        let _ = std::fs::create_dir_all(&dir);
        dir
    }

    fn offline(&self) -> bool {
        self.info().offline
    }

    fn progress(&self, message: &str) {
        if let Some((_, host)) = HOST.get() {
            host.progress()(message.into(), 0, 0);
        }
    }
}
