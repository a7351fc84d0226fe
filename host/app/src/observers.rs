//! The recipe's callbacks: told what happens, asked what they want.

use crate::loader::CallbackHandle;
use crate::outcome::sentence;
use crate::train::Run;
use anyhow::{Context, Result};
use solstice_plugin_abi::run::{Action, Event, Moment, NamedTensor, Question, RunFacts};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The callbacks of a run, in the order of the recipe.
pub struct Observers {
    callbacks: Vec<Observer>,
}

struct Observer {
    name: String,
    handle: CallbackHandle,
    moments: Vec<Moment>,
}

impl Observers {
    /// Starts every callback and gives back the states that a checkpoint holds of them.
    pub fn start(callbacks: Vec<(String, CallbackHandle)>, facts: &RunFacts, states: &BTreeMap<String, String>) -> Result<Observers> {
        let start = |(name, handle): (String, CallbackHandle)| -> Result<Observer> {
            handle.start(facts)?;
            if let Some(state) = states.get(&name) {
                handle.load(state).with_context(|| format!("the checkpoint's state of the callback `{name}`"))?;
            }
            let moments = handle.moments()?;
            Ok(Observer { name, handle, moments })
        };
        Ok(Observers { callbacks: callbacks.into_iter().map(start).collect::<Result<_>>()? })
    }

    /// True when some callback wants to hear of this moment.
    pub fn listen_to(&self, moment: Moment) -> bool {
        self.callbacks.iter().any(|callback| callback.moments.contains(&moment))
    }

    /// Tells every callback that wants to know; what they ask for, with their names, in order.
    pub fn tell(&self, event: &Event, run: &mut Run) -> Result<Vec<(String, Action)>> {
        let run = RefCell::new(run);
        let answer =
            |question: &Question, tensors: &[NamedTensor]| run.borrow_mut().answer(question, tensors).map_err(|error| sentence(&error));
        let mut wanted = vec![];
        for callback in self.callbacks.iter().filter(|callback| callback.moments.contains(&event.moment)) {
            let actions = callback.handle.on_event(event, &answer)?;
            wanted.extend(actions.into_iter().map(|action| (callback.name.clone(), action)));
        }
        Ok(wanted)
    }

    /// The state of every callback, for a checkpoint.
    pub fn states(&self) -> Result<BTreeMap<String, String>> {
        self.callbacks.iter().map(|callback| Ok((callback.name.clone(), callback.handle.save()?))).collect()
    }
}
