//! A callback that acts, or misbehaves, once.

use crate::misdeed::Misdeed;
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run;

/// At the first event of its moment at or after a step, commits its misdeed, then asks for its action; never again in this run.
#[config]
#[derive(Default)]
pub struct Meddler {
    /// The step.
    pub at_step: u64,
    /// The moment.
    pub moment: Moment,
    /// What goes wrong. `panic_in_drop` waits for the end.
    pub misdeed: Misdeed,
    /// What is asked of the run.
    pub action: Option<Action>,
}

/// When it acts: `wire::run::Moment` for a recipe.
#[config]
#[derive(Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Moment {
    RunStart,
    EpochStart,
    EpochEnd,
    #[default]
    StepEnd,
    Report,
    EvalStart,
    EvalEnd,
    Checkpoint,
    Changed,
    Reloaded,
    NotFinite,
    RunEnd,
}

/// What it asks for: `wire::run::Action` for a recipe.
#[config]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The end of the run, because "the meddler had enough".
    Stop,
    /// An evaluation.
    Evaluate,
    /// A checkpoint, for the reason `meddler`.
    Checkpoint,
    /// A change.
    Set {
        /// Dotted key.
        key: String,
        /// New value.
        value: f64,
    },
    /// The scalar `meddler/calls`.
    Log,
    /// A mark of kind `meddler` that tells the number of calls.
    Mark,
}

/// What a checkpoint keeps.
#[config]
#[derive(Default)]
pub struct Memory {
    /// Events of the moment so far, over all processes of the run.
    pub calls: u64,
    /// It acted.
    pub done: bool,
    #[serde(skip)]
    bitter: bool,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bitter {
            panic!("dropped badly");
        }
    }
}

impl Meddler {
    fn waits_for(&self) -> run::Moment {
        match self.moment {
            Moment::RunStart => run::Moment::RunStart,
            Moment::EpochStart => run::Moment::EpochStart,
            Moment::EpochEnd => run::Moment::EpochEnd,
            Moment::StepEnd => run::Moment::StepEnd,
            Moment::Report => run::Moment::Report,
            Moment::EvalStart => run::Moment::EvalStart,
            Moment::EvalEnd => run::Moment::EvalEnd,
            Moment::Checkpoint => run::Moment::Checkpoint,
            Moment::Changed => run::Moment::Changed,
            Moment::Reloaded => run::Moment::Reloaded,
            Moment::NotFinite => run::Moment::NotFinite,
            Moment::RunEnd => run::Moment::RunEnd,
        }
    }
}

impl Callback for Meddler {
    const ID: &'static str = "meddler";
    const MOMENTS: &'static [run::Moment] = &run::Moment::ALL;
    type State = Memory;

    fn on_event(&self, memory: &mut Memory, event: &run::Event, _run: &Run<'_>) -> Result<Vec<run::Action>> {
        if event.moment != self.waits_for() {
            return Ok(vec![]);
        }
        memory.calls += 1;
        if memory.done || event.at.step < self.at_step {
            return Ok(vec![]);
        }
        memory.done = true;
        memory.bitter = self.misdeed == Misdeed::PanicInDrop;
        self.misdeed.commit()?;
        let calls = memory.calls;
        let action = self.action.as_ref().map(|action| match action {
            Action::Stop => run::Action::Stop { reason: "the meddler had enough".into() },
            Action::Evaluate => run::Action::Evaluate,
            Action::Checkpoint => run::Action::Checkpoint { reason: "meddler".into() },
            Action::Set { key, value } => run::Action::Set { key: key.clone(), value: (*value).into() },
            Action::Log => run::Action::Log(run::Entry::Scalar { name: "meddler/calls".into(), value: calls as f64 }),
            Action::Mark => run::Action::Mark { kind: "meddler".into(), message: format!("the meddler was called {calls} times") },
        });
        Ok(action.into_iter().collect())
    }
}
