//! Code that is called while a run goes on: callbacks, which may steer it, and loggers, which only write.
//!
//! A callback is called between two steps on the training thread, so it should be quick; its state is saved in checkpoints and given back on resume.
//! A logger has a thread of its own. What both hear is in `wire::run`.

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::traits::Config;
use serde::{Serialize, de::DeserializeOwned};
use solstice_ir::Role;
use solstice_plugin_abi::run::{Action, Event, LogItem, Moment, NamedTensor, Question, RunFacts};

/// Watches a run and may steer it: early stopping, averages of weights, samples at each evaluation.
pub trait Callback: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// When [`Callback::on_event`] is called.
    const MOMENTS: &'static [Moment];
    /// What it remembers between calls. A checkpoint holds it as JSON, so a resumed run goes on as if it had never stopped.
    type State: Serialize + DeserializeOwned + Default + Send;

    /// Checks the settings against the run, before anything is trained.
    fn start(&self, facts: &RunFacts) -> Result<()> {
        let _ = facts;
        Ok(())
    }

    /// What to do now. An error ends the run with that sentence.
    fn on_event(&self, state: &mut Self::State, event: &Event, run: &Run<'_>) -> Result<Vec<Action>>;

    /// A copy of every weight that is kept on the device and changed after every step, such as a moving average; traced once for each parameter.
    /// Evaluations are made with the copies as well, as `<split>-<id>/..`. `None` keeps no copies.
    fn shadow(&self, g: &mut Graph, at: ShadowUpdate) -> Result<Option<Tensor>> {
        let _ = (g, at);
        Ok(None)
    }
}

/// One weight and its copy. All copies begin as their weights.
#[derive(Clone, Copy, Debug)]
pub struct ShadowUpdate {
    /// The copy before this step.
    pub shadow: Tensor,
    /// The weight after this step, same shape.
    pub param: Tensor,
    /// Number of this step, from 1 (f32 scalar).
    pub step: Tensor,
}

/// The run, while a callback is called. Questions that need numbers wait for the device.
pub struct Run<'a> {
    facts: &'a RunFacts,
    ask: &'a dyn Fn(&Question, &[NamedTensor]) -> Result<Vec<NamedTensor>>,
}

impl<'a> Run<'a> {
    /// For tests: a run that answers questions with a function.
    pub fn new(facts: &'a RunFacts, ask: &'a dyn Fn(&Question, &[NamedTensor]) -> Result<Vec<NamedTensor>>) -> Run<'a> {
        Run { facts, ask }
    }

    /// What the run is.
    pub fn facts(&self) -> &RunFacts {
        self.facts
    }

    /// Asks anything.
    pub fn ask(&self, question: &Question) -> Result<Vec<NamedTensor>> {
        (self.ask)(question, &[])
    }

    /// Names, types and roles of all state tensors.
    pub fn states(&self) -> Result<Vec<NamedTensor>> {
        self.ask(&Question::States)
    }

    /// The trainable weights, with their values.
    pub fn params(&self) -> Result<Vec<NamedTensor>> {
        let names = self.states()?.into_iter().filter(|state| state.role == Some(Role::Param)).map(|state| state.name);
        names.map(|name| only(self.ask(&Question::State { name })?)).collect()
    }

    /// Gradients of the last step's loss by the weights, before clipping.
    pub fn gradients(&self) -> Result<Vec<NamedTensor>> {
        self.ask(&Question::Gradients)
    }

    /// Samples of a split, one tensor a field.
    pub fn samples(&self, split: &str, indices: &[u64]) -> Result<Vec<NamedTensor>> {
        self.ask(&Question::Samples { split: split.into(), indices: indices.into() })
    }

    /// What the experiment observes (`logits`, ..) for these samples, one tensor a field, at most a batch of them.
    pub fn predict(&self, fields: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        (self.ask)(&Question::Predict, fields)
    }

    /// Present value of a live scalar such as `optimizer.lr`.
    pub fn live(&self, key: &str) -> Result<f64> {
        let tensor = only(self.ask(&Question::Live { key: key.into() })?)?;
        let value = tensor.to_f32().and_then(|values| values.first().copied());
        value.map(f64::from).ok_or_else(|| Error::new(format!("the run has no live scalar `{key}`")))
    }
}

fn only(tensors: Vec<NamedTensor>) -> Result<NamedTensor> {
    tensors.into_iter().next().ok_or_else(|| Error::new("the run gave no tensor for the question"))
}

/// Writes a run's log to somewhere else than the run's own store: TensorBoard event files, CSV.
pub trait Logger: Config {
    /// Name in recipes.
    const ID: &'static str;
    /// Opens the place. A run that goes on has `facts.first_step` above 0: what was written after that step is to be taken back.
    fn open(&self, facts: &RunFacts) -> Result<Box<dyn LogSink>>;
}

/// An opened [`Logger`]. Its calls come from one thread, in order; an error is shown once and tried again with what comes later.
pub trait LogSink: Send {
    /// Writes what happened, in order. The same items never come twice, whatever this returns.
    fn log(&mut self, items: &[LogItem]) -> Result<()>;
    /// Puts everything on disk.
    fn flush(&mut self) -> Result<()>;
}
