//! The JSON that crosses the boundary: what the host asks, what a plugin answers. Fields are only ever added, each with a serde default.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use solstice_ir::{DType, Graph, NodeId, TensorType};
use std::collections::BTreeMap;

/// Kinds of component, as they stand in requests and listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    Experiment,
    Model,
    Dataset,
    Optimizer,
    LrSchedule,
    Metric,
    Loss,
    Transform,
    Callback,
    Logger,
    Collective,
}

impl Kind {
    /// The kebab-case name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Experiment => "experiment",
            Kind::Model => "model",
            Kind::Dataset => "dataset",
            Kind::Optimizer => "optimizer",
            Kind::LrSchedule => "lr-schedule",
            Kind::Metric => "metric",
            Kind::Loss => "loss",
            Kind::Transform => "transform",
            Kind::Callback => "callback",
            Kind::Logger => "logger",
            Kind::Collective => "collective",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        serde_json::from_value(Value::String(name.into())).ok()
    }
}

/// One component that a plugin offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentInfo {
    /// Its kind.
    pub kind: Kind,
    /// Unique within the kind, e.g. `mlp`, `drawn-digits`.
    pub id: String,
    /// First paragraph of the config type's doc comment.
    #[serde(default)]
    pub doc: String,
    /// The default config as JSON, all fields filled in.
    pub defaults: Value,
    /// JSON schema of the config.
    pub schema: Value,
}

/// A named, typed input of a traced function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedType {
    /// Name of the graph's `Input` parameter.
    pub name: String,
    /// Element type and shape.
    #[serde(flatten)]
    pub ty: TensorType,
}

/// What a traced component is asked: the graph of one of its entries for these inputs.
///
/// Entries: model `forward` (input `x`, output `y`); optimizer `learning_rate` (no inputs, output `lr`) and `update` (inputs `param`, `grad`, `lr`,
/// `step`, and since 1.1 `decay`, the factor on weight decay; output `param`; own state by updates); schedule `rate` (inputs `base_lr`, `step`, `total_steps`; output `lr`); metric `update` (inputs: the
/// step's observations that it names, and `mask`; outputs: increments of its accumulators) and `compute` (inputs: accumulators; outputs: scalars);
/// transform `apply` (input `x`, output `y` of the same type; random numbers and live scalars, no state);
/// callback `shadow` (inputs: `shadow`, `param` after the step, `step`; output: `shadow`, or none when it keeps no copies).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Inputs in order.
    #[serde(default)]
    pub inputs: Vec<NamedType>,
    /// Training (dropout, batch statistics) or evaluation.
    #[serde(default)]
    pub training: bool,
    /// What the data set and the experiment know: `classes`, `vocabulary`, `targets`.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}

/// A metric that a step accumulates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricPort {
    /// `loss`, `accuracy`; for messages. The scalars are named by the outputs of `compute`.
    pub name: String,
    /// Accumulators: state tensors of role `Metric`, cleared after each report.
    pub states: Vec<String>,
    /// Accumulators in (by state name), named scalars out.
    pub compute: Graph,
}

/// What an experiment is asked: its graph for a split.
///
/// Entry `train_step` trains, `eval_step` measures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRequest {
    /// Name of the split, the prefix of its metrics: `train`, `test`, `val`.
    pub split: String,
    /// Samples in a batch; the last one may be ragged, then `mask` is 0 there.
    pub batch_size: usize,
    /// The data set's fields.
    pub fields: Vec<Field>,
    /// Metric components: path (`metrics.0`) and name.
    #[serde(default)]
    pub metrics: Vec<(String, String)>,
    /// Facts for the components.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
    /// Also report the norms of gradients, parameters and updates.
    #[serde(default)]
    pub norms: bool,
    /// Part of a step that is made of several micro-batches; absent when a step is one batch.
    #[serde(default)]
    pub accumulate: Option<Accumulate>,
    /// Bound on the gradients.
    #[serde(default)]
    pub clip: Option<Clip>,
    /// Groups of parameters with settings of their own.
    #[serde(default)]
    pub groups: Vec<ParamGroup>,
    /// Group of a parameter, by its name; one that is not here has none.
    #[serde(default)]
    pub group_of: BTreeMap<String, usize>,
    /// Callbacks that keep a copy of every weight on the device: path (`callbacks.0`) and name (`ema`).
    #[serde(default)]
    pub shadows: Vec<(String, String)>,
    /// Transforms of the model's input while training: paths (`transforms.0`) in the order in which they are applied.
    #[serde(default)]
    pub transforms: Vec<String>,
}

/// Which part of a step a micro-batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accumulate {
    /// Adds its gradients, weighted by its samples, and changes no weight.
    Gather,
    /// The last of a step: adds its own, divides by the samples of all, updates the weights, and clears the sums.
    Apply,
}

/// How gradients are bounded. The bound is the live scalar `trainer.clip`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// The norm of all gradients together.
    Norm(f64),
    /// Each element.
    Value(f64),
    /// The norm of each row of a gradient beside the norm of that row of its weight (Brock et al., "High-Performance Large-Scale Image Recognition
    /// Without Normalization", 2021).
    Adaptive(f64),
}

/// Settings of a group of parameters. `lr` and `weight_decay` are the live scalars `trainer.groups.<index>.lr` and `.weight_decay`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamGroup {
    /// Factor on the learning rate.
    pub lr: f64,
    /// Factor on the optimizer's weight decay; 0 leaves these parameters out of it.
    pub weight_decay: f64,
    /// Not trained at all.
    pub frozen: bool,
}

/// An experiment's answer. The graph's `Input` parameters are `batch.<field>` (each `[batch, ..]` in the field's stored type) and `batch.mask` (f32
/// `[batch]`); its scalars `run.step` (u32, from 0), `run.seed` (u32), `run.total_steps` (f32) and the live fields (`optimizer.lr`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTrace {
    /// The step.
    pub graph: Graph,
    /// What it accumulates.
    pub metrics: Vec<MetricPort>,
    /// Gradient of each trained parameter before clipping, by the parameter's name.
    #[serde(default)]
    pub gradients: BTreeMap<String, NodeId>,
    /// What the step observes: `logits`, `target`, ..
    #[serde(default)]
    pub observed: BTreeMap<String, NodeId>,
}

/// Which part a field plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldRole {
    /// What the model sees.
    Input,
    /// What it should say.
    Target,
    /// Neither: weights, ids.
    Other,
}

/// One tensor of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// `image`, `label`, `tokens`.
    pub name: String,
    /// Its part.
    pub role: FieldRole,
    /// Type as `fill` writes it: `u8`, `f32` or `i32`.
    pub dtype: DType,
    /// Shape of one sample; images are `[channels, height, width]`.
    pub shape: Vec<usize>,
    /// A `u8` field becomes `f32` as `value * scale + offset`.
    #[serde(default = "one")]
    pub scale: f64,
    /// See `scale`.
    #[serde(default)]
    pub offset: f64,
}

fn one() -> f64 {
    1.0
}

impl Field {
    /// Bytes of one sample of this field.
    pub fn sample_bytes(&self) -> usize {
        solstice_ir::element_count(&self.shape) * self.dtype.size()
    }
}

/// A part of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// `train`, `test`, `val`.
    pub name: String,
    /// Samples.
    pub len: u64,
}

/// What a data set offers once it is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSpec {
    /// `train` and one or more others.
    pub splits: Vec<Split>,
    /// Tensors of a sample, in the order in which `fill` gets its buffers.
    pub fields: Vec<Field>,
    /// A sample is a pure function of (split, index), small enough to keep the whole set on the device when it fits.
    #[serde(default)]
    pub resident: bool,
    /// Facts for models and experiments: `classes` (count), `class_names`, `vocabulary` (count), `targets` (count).
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}

/// What the host tells a plugin about the machine and the run, at `init`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Folder named by `--data-dir` or `SOLSTICE_DATA`, if any.
    #[serde(default)]
    pub data_dir: Option<String>,
    /// Folder for downloads and derived files.
    #[serde(default)]
    pub cache_dir: Option<String>,
    /// Downloads are not allowed.
    #[serde(default)]
    pub offline: bool,
}
