//! For the unit tests of a plugin: what the host would do with a component, without a host.
//!
//! ```ignore
//! let graph = testing::trace_model(&Mlp::default(), TensorType::new(DType::F32, [64, 784]))?;
//! ```

use crate::callbacks::Callback;
use crate::error::{Error, Result};
use crate::export;
use crate::graph::{Graph as Builder, Tensor};
use crate::traits::{
    Config, DataHost, Dataset, Experiment, LrSchedule, Metric, Model, Optimizer, ParamUpdate, Samples, SchedulePoint, Transform,
};
use crate::wire::{Field, FieldRole, NamedType, StepRequest, StepTrace, TraceRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use solstice_ir::{DType, Graph, TensorType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Graph of a model for an input, in training.
pub fn trace_model<M: Model>(model: &M, x: TensorType) -> Result<Graph> {
    trace_model_as(model, &request(&[("x", x)], true))
}

/// Graph of a model for a whole request: evaluation, facts of the data set.
pub fn trace_model_as<M: Model>(model: &M, request: &TraceRequest) -> Result<Graph> {
    again(|| export::trace_model(model, "forward", request))
}

/// Graph of an optimizer's update of a weight of that shape: inputs `param`, `grad`, `lr`, `step`, output `param`.
pub fn trace_optimizer<O: Optimizer>(optimizer: &O, shape: &[usize]) -> Result<Graph> {
    let (weight, scalar) = (TensorType::new(DType::F32, shape), TensorType::new(DType::F32, []));
    let inputs = [("param", weight.clone()), ("grad", weight), ("lr", scalar.clone()), ("step", scalar)];
    again(|| export::trace_optimizer(optimizer, "update", &request(&inputs, true)))
}

/// As [`trace_optimizer`] for a parameter with settings of its own: one more input, `decay`, the factor on the weight decay.
pub fn trace_grouped_optimizer<O: Optimizer>(optimizer: &O, shape: &[usize]) -> Result<Graph> {
    let (weight, scalar) = (TensorType::new(DType::F32, shape), TensorType::new(DType::F32, []));
    let inputs = [("param", weight.clone()), ("grad", weight), ("lr", scalar.clone()), ("step", scalar.clone()), ("decay", scalar)];
    again(|| export::trace_optimizer(optimizer, "update", &request(&inputs, true)))
}

/// Graph of a callback's copy of a weight of that shape: inputs `shadow`, `param`, `step`, output `shadow`, or none when it keeps no copies.
pub fn trace_shadow<C: Callback>(callback: &C, shape: &[usize]) -> Result<Graph> {
    let (weight, scalar) = (TensorType::new(DType::F32, shape), TensorType::new(DType::F32, []));
    let inputs = [("shadow", weight.clone()), ("param", weight), ("step", scalar)];
    again(|| export::trace_callback(callback, "shadow", &request(&inputs, true)))
}

/// Graph of a schedule: inputs `base_lr`, `step`, `total_steps`, output `lr`.
pub fn trace_lr_schedule<S: LrSchedule>(schedule: &S) -> Result<Graph> {
    let scalar = TensorType::new(DType::F32, []);
    let inputs = ["base_lr", "step", "total_steps"].map(|name| (name, scalar.clone()));
    again(|| export::trace_lr_schedule(schedule, "rate", &request(&inputs, true)))
}

/// Graphs of a metric for these observations (`mask`, f32 `[batch]`, is added): increments, and scalars from the accumulators.
pub fn trace_metric<M: Metric>(metric: &M, observed: &[(&str, TensorType)]) -> Result<(Graph, Graph)> {
    let mut inputs = observed.to_vec();
    if !inputs.iter().any(|(name, _)| *name == "mask") {
        let batch = observed.first().and_then(|(_, ty)| ty.shape.first()).copied().unwrap_or(1);
        inputs.push(("mask", TensorType::new(DType::F32, [batch])));
    }
    let update = again(|| export::trace_metric(metric, "update", &request(&inputs, false)))?;
    let sums: Vec<(&str, TensorType)> =
        update.outputs.iter().map(|output| (output.name.as_str(), update.ty(output.node).clone())).collect();
    let compute = again(|| export::trace_metric(metric, "compute", &request(&sums, false)))?;
    Ok((update, compute))
}

/// Graph of a transform for an input: input `x`, output `y`.
pub fn trace_transform<T: Transform>(transform: &T, x: TensorType) -> Result<Graph> {
    again(|| export::trace_transform(transform, "apply", &request(&[("x", x.clone())], true)))
}

/// A request for these inputs, without facts.
pub fn request(inputs: &[(&str, TensorType)], training: bool) -> TraceRequest {
    let inputs = inputs.iter().map(|(name, ty)| NamedType { name: (*name).into(), ty: ty.clone() }).collect();
    TraceRequest { inputs, training, facts: BTreeMap::new() }
}

// Twice, because the host keeps compiled programs by graph: one that depends on the time or on a hash order never hits.
fn again(trace: impl Fn() -> Result<Graph>) -> Result<Graph> {
    let (first, second) = (trace()?, trace()?);
    if first != second {
        return Err(Error::at("traced twice with one request, the graphs differ", ""));
    }
    // As the host gets it: through bytes, verified.
    Graph::from_bytes(&first.to_bytes()).map_err(|error| Error::at(error.to_string(), ""))
}

type TraceComponent = dyn Fn(&str, &TraceRequest) -> Result<Graph>;

/// The other components of a recipe, for the test of an experiment.
#[derive(Default)]
pub struct Components {
    by_path: BTreeMap<String, Box<TraceComponent>>,
    metrics: Vec<(String, String)>,
    shadows: Vec<(String, String)>,
    transforms: Vec<String>,
}

impl Components {
    /// None yet.
    pub fn new() -> Components {
        Components::default()
    }

    /// The smallest recipe: a linear model of so many outputs (its weights `fc.weight` and `fc.bias`), plain gradient descent, a constant rate.
    pub fn linear(outputs: u32) -> Components {
        Components::new().model(Line { outputs }).optimizer(Descent {}).lr_schedule(Steady {})
    }

    /// With a model.
    pub fn model<M: Model>(self, model: M) -> Components {
        self.with("model", move |entry, request| export::trace_model(&model, entry, request))
    }

    /// With an optimizer.
    pub fn optimizer<O: Optimizer>(self, optimizer: O) -> Components {
        self.with("optimizer", move |entry, request| export::trace_optimizer(&optimizer, entry, request))
    }

    /// With a schedule.
    pub fn lr_schedule<S: LrSchedule>(self, schedule: S) -> Components {
        self.with("schedule", move |entry, request| export::trace_lr_schedule(&schedule, entry, request))
    }

    /// With one more metric.
    pub fn metric<M: Metric>(mut self, metric: M) -> Components {
        let path = format!("metrics.{}", self.metrics.len());
        self.metrics.push((path.clone(), M::ID.to_owned()));
        self.with(&path, move |entry, request| export::trace_metric(&metric, entry, request))
    }

    /// With one more transform.
    pub fn transform<T: Transform>(mut self, transform: T) -> Components {
        let path = format!("transforms.{}", self.transforms.len());
        self.transforms.push(path.clone());
        self.with(&path, move |entry, request| export::trace_transform(&transform, entry, request))
    }

    /// With one more callback, for the copies of weights that it keeps.
    pub fn callback<C: Callback>(mut self, callback: C) -> Components {
        let path = format!("callbacks.{}", self.shadows.len());
        self.shadows.push((path.clone(), C::ID.to_owned()));
        self.with(&path, move |entry, request| export::trace_callback(&callback, entry, request))
    }

    fn with(mut self, path: &str, trace: impl Fn(&str, &TraceRequest) -> Result<Graph> + 'static) -> Components {
        self.by_path.insert(path.to_owned(), Box::new(trace));
        self
    }

    /// The step of an experiment with these components. `entry` is `train_step` or `eval_step`.
    pub fn trace<E: Experiment>(&self, experiment: &E, entry: &str, request: &StepRequest) -> Result<StepTrace> {
        let tracer = |path: &str, entry: &str, request: &TraceRequest| match self.by_path.get(path) {
            Some(trace) => trace(entry, request),
            None => {
                let known: Vec<&str> = self.by_path.keys().map(String::as_str).collect();
                Err(Error::at(format!("no component at `{path}`; there are {}", known.join(", ")), ""))
            }
        };
        let mut request = request.clone();
        if request.metrics.is_empty() {
            request.metrics = self.metrics.clone();
        }
        if request.shadows.is_empty() {
            request.shadows = self.shadows.clone();
        }
        if request.transforms.is_empty() {
            request.transforms = self.transforms.clone();
        }
        export::trace_experiment(experiment, entry, &request, &tracer)
    }
}

// What `#[config]` would write; it names this crate from outside, so it cannot be used in here.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Line {
    outputs: u32,
}

impl Default for Line {
    fn default() -> Self {
        Line { outputs: 1 }
    }
}

impl Model for Line {
    const ID: &'static str = "line";
    fn forward(&self, g: &mut Builder, x: Tensor) -> Result<Tensor> {
        g.linear("fc", x, self.outputs)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Descent {}

impl Optimizer for Descent {
    const ID: &'static str = "descent";
    fn learning_rate(&self) -> f64 {
        0.1
    }
    fn update(&self, g: &mut Builder, at: ParamUpdate) -> Result<Tensor> {
        let change = g.mul(at.lr, at.grad);
        Ok(g.sub(at.param, change))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Steady {}

impl LrSchedule for Steady {
    const ID: &'static str = "steady";
    fn rate(&self, _: &mut Builder, at: SchedulePoint) -> Result<Tensor> {
        Ok(at.base_lr)
    }
}

/// A request for a batch of one input and one target.
/// A request for a batch of one input and one target, without training options.
pub fn step_request(split: &str, batch_size: usize, input: TensorType, target: TensorType) -> StepRequest {
    let field = |name: &str, role: FieldRole, ty: TensorType| Field {
        name: name.into(),
        role,
        dtype: ty.dtype,
        shape: ty.shape,
        scale: 1.0,
        offset: 0.0,
    };
    StepRequest {
        split: split.into(),
        batch_size,
        fields: vec![field("input", FieldRole::Input, input), field("target", FieldRole::Target, target)],
        ..StepRequest::default()
    }
}

/// A host for data sets: folders given, downloads refused, progress ignored.
#[derive(Clone, Debug)]
pub struct TestHost {
    /// Answer to `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Answer to `cache_dir`.
    pub cache_dir: PathBuf,
}

impl DataHost for TestHost {
    fn data_dir(&self) -> Option<PathBuf> {
        self.data_dir.clone()
    }
    fn cache_dir(&self) -> PathBuf {
        let _ = std::fs::create_dir_all(&self.cache_dir);
        self.cache_dir.clone()
    }
    fn offline(&self) -> bool {
        true
    }
    fn progress(&self, _message: &str) {}
}

/// Opens a data set whose files are in `data_dir`, without network.
pub fn open_dataset<D: Dataset>(dataset: &D, data_dir: &Path) -> Result<Box<dyn Samples>> {
    dataset.open(&TestHost { data_dir: Some(data_dir.to_owned()), cache_dir: std::env::temp_dir().join("solstice-tests") })
}

/// Samples of a split, one buffer a field.
pub fn read_samples(samples: &dyn Samples, split: &str, epoch: u64, indices: &[u64]) -> Result<Vec<Vec<u8>>> {
    read_into(samples, split, epoch, indices, 0)
}

fn read_into(samples: &dyn Samples, split: &str, epoch: u64, indices: &[u64], poison: u8) -> Result<Vec<Vec<u8>>> {
    let spec = samples.spec();
    let mut buffers: Vec<Vec<u8>> = spec.fields.iter().map(|field| vec![poison; indices.len() * field.sample_bytes()]).collect();
    let mut slots: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    export::check_fill(&spec, split, indices, &slots)?;
    samples.fill(split, epoch, indices, &mut slots)?;
    Ok(buffers)
}

/// The promises of [`Samples::fill`], on some samples of every split: every byte written, the same answer again, alone and from other threads, an
/// error past the end.
pub fn check_samples(samples: &dyn Samples) -> Result<()> {
    let broken = |message: String| Err(Error::at(message, ""));
    let spec = samples.spec();
    for split in &spec.splits {
        let name = split.name.as_str();
        if split.len == 0 {
            continue;
        }
        let indices = [0, split.len - 1, split.len / 2, 0];
        let first = read_into(samples, name, 0, &indices, 0xAA)?;
        if first != read_into(samples, name, 0, &indices, 0x55)? {
            return broken(format!("split `{name}`: fill leaves bytes of its buffers unwritten, or answers differently the second time"));
        }
        for (slot, &index) in indices.iter().enumerate() {
            let alone = read_into(samples, name, 0, &[index], 0xAA)?;
            for (field, (together, alone)) in spec.fields.iter().zip(first.iter().zip(&alone)) {
                let size = field.sample_bytes();
                if together[slot * size..][..size] != alone[..] {
                    return broken(format!("split `{name}`, sample {index}: `{}` depends on its place in the batch", field.name));
                }
            }
        }
        let concurrent = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| read_into(samples, name, 0, &indices, 0xAA))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| broken("fill panicked".into()).map(|()| vec![])))
                .collect::<Vec<_>>()
        });
        for read in concurrent {
            if read? != first {
                return broken(format!("split `{name}`: fill answers differently from several threads"));
            }
        }
        let mut buffers: Vec<Vec<u8>> = spec.fields.iter().map(|field| vec![0; field.sample_bytes()]).collect();
        let mut slots: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        if samples.fill(name, 0, &[split.len], &mut slots).is_ok() {
            return broken(format!("split `{name}`: fill answers for sample {}, which is past the end", split.len));
        }
    }
    Ok(())
}

/// The promises of a config type: its defaults are in its own ranges, and survive the way through text.
pub fn check_config<C: Config>() -> Result<()> {
    let text = crate::config::canonical_json(&C::default())?;
    let again = crate::config::canonical_json(&crate::config::parse::<C>(&text)?)?;
    if text == again { Ok(()) } else { Err(Error::at(format!("the defaults do not survive: {text} became {again}"), "")) }
}
