//! What a plugin can be: one trait a kind. `export_plugin!` turns implementations into a library that the host loads.

use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::step::Step;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use solstice_ir::Op;
use solstice_plugin_abi::wire::DatasetSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A config type: made by `#[config]`, with defaults for every field.
pub trait Config: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync + 'static> Config for T {}

/// A network: a function of one tensor with trainable weights.
pub trait Model: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// Maps a batch `x` (`[batch, ..]`) to the output; called once for training and once for evaluation, when the run is compiled.
    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor>;
}

/// One parameter, for its optimizer.
#[derive(Clone, Copy, Debug)]
pub struct ParamUpdate {
    /// The weight.
    pub param: Tensor,
    /// Its gradient, same shape.
    pub grad: Tensor,
    /// Learning rate of this step, after the schedule (f32 scalar).
    pub lr: Tensor,
    /// Number of this update, from 1 (f32 scalar).
    pub step: Tensor,
    /// Factor on the optimizer's weight decay for this parameter, 1 unless the recipe groups it (f32 scalar).
    pub decay: Tensor,
}

impl ParamUpdate {
    /// Strength of the weight decay for this parameter: the live field `weight_decay`, at first `value`, times [`ParamUpdate::decay`].
    #[track_caller]
    pub fn weight_decay(&self, g: &mut Graph, value: f64) -> Tensor {
        let strength = g.live("weight_decay", value);
        match &g.ir().node(self.decay.0).op {
            Op::Constant { value } if value.splat_value() == Some(1.0) => strength,
            _ => g.mul(strength, self.decay),
        }
    }
}

/// An update rule, traced once for each parameter.
pub trait Optimizer: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// The base learning rate, from the config; it may be changed while a run goes on.
    fn learning_rate(&self) -> f64;
    /// The new weight. State goes through `g.optimizer_state(..)` and `g.update(..)`; scalar fields that may change live go through `g.live(..)`.
    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor>;
}

/// Changes samples while training: augmentation on the device.
///
/// A recipe lists any number of them; [`Step::input`] applies them in that order. What it draws (`g.random_bits(..)`, `g.random_uniform(..)`) is a function
/// of the run's seed and the step, and differs between two of a kind. Scalar fields that may change live go through `g.live(..)`.
pub trait Transform: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// `x` changed, in the same type and shape. `x` is the model's input `[batch, ..]` (f32), scaled as the data set says; padding may be among the
    /// samples. Called for training steps only. It keeps no state and has no weights.
    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor>;
}

/// Where a schedule is asked.
#[derive(Clone, Copy, Debug)]
pub struct SchedulePoint {
    /// The optimizer's base learning rate (f32 scalar).
    pub base_lr: Tensor,
    /// Step from 0 (f32 scalar).
    pub step: Tensor,
    /// Steps of the whole run (f32 scalar).
    pub total_steps: Tensor,
}

/// A learning rate as a function of the step.
pub trait LrSchedule: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// Learning rate at a step (f32 scalar).
    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor>;
}

/// What an experiment lets metrics see: `logits`, `target`, .., each `[batch, ..]`, and the mask.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Values by name.
    pub values: BTreeMap<String, Tensor>,
}

impl Observed {
    /// The observation `name`, or an error that lists what there is.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.values.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
            crate::Error::new(format!("the experiment observes no `{name}`; it observes {}", known.join(", ")))
        })
    }

    /// 1 for samples of the batch, 0 for padding: f32 `[batch]`.
    #[track_caller]
    pub fn mask(&self) -> Result<Tensor> {
        self.get("mask")
    }
}

/// A figure of merit: increments that add up on the device, and named scalars computed from the sums when they are logged.
pub trait Metric: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// What this batch adds to each accumulator (f32 or i32, any shape), by name. Padding (mask 0) must add nothing.
    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>>;
    /// Named scalars from the accumulators of [`Metric::update`]. A value of two axes (row: target, column: guess) is logged as a matrix after an
    /// evaluation, with the data set's class names where there is one for each row.
    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>>;
}

/// A training strategy: how model, data, loss and optimizer make a step.
pub trait Experiment: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// Builds the training step: read the batch, call the model, form the loss, `step.minimize(loss)`.
    fn train_step(&self, step: &mut Step) -> Result<()>;
    /// Builds the evaluation step: what it logs and observes is accumulated over the split.
    fn eval_step(&self, step: &mut Step) -> Result<()>;
}

/// What a data set may ask the host for.
pub trait DataHost {
    /// Folder that the user named with `--data-dir` or `SOLSTICE_DATA`.
    fn data_dir(&self) -> Option<PathBuf>;
    /// Folder for downloads; it exists.
    fn cache_dir(&self) -> PathBuf;
    /// Downloads are not allowed.
    fn offline(&self) -> bool;
    /// Reports progress of a long load; also tells the host that the call is alive.
    fn progress(&self, message: &str);
}

/// A source of samples.
pub trait Dataset: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// Finds, downloads and reads what is needed. Called once, in the worker.
    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>>;
}

/// An opened data set.
pub trait Samples: Send + Sync {
    /// Splits, fields and facts.
    fn spec(&self) -> DatasetSpec;
    /// Writes sample `indices[i]` of `split` to slot `i` of every buffer of `out` (one a field, in the order of the spec, each
    /// `indices.len() * field.sample_bytes()` long, little-endian).
    ///
    /// Called from several threads at once. Must be a function of (config, split, epoch, index) alone. An index past the end is an error.
    fn fill(&self, split: &str, epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()>;
}
