//! What was measured on an adapter instead of guessed: which tile each class of products takes ([`Tuning`]), and the measuring ([`tune`]).
//!
//! A record is data. Runs look classes up in it and never measure, so the same record gives the same bytes; measuring is an act of its own. It is bounded:
//! at most [`CANDIDATES_MAX`] tiles a class, [`ROUNDS`] interleaved runs each, and what is hopeless in its first run is not run again.

use crate::cache::{DeviceCache, checksum, name, opened, sealed};
use crate::gpu::dot::Choice;
use crate::gpu::{Adapter, GpuRuntime, Sources, choices};
use crate::kernel::{BufferKind, Kernel};
use crate::session::Runtime;
use crate::{EngineError, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Candidates of a class, the rule of thumb among them.
const CANDIDATES_MAX: usize = 24;

/// Measured runs of a candidate.
const ROUNDS: usize = 7;

/// A candidate whose first run takes this many times the least first run is left.
const HOPELESS: u32 = 4;

/// Another choice than the rule of thumb must be faster by this part of its time: what is less is noise.
const GAIN_MIN: f64 = 0.03;

/// The measured choice of each class of products. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    choices: Arc<BTreeMap<String, Choice>>,
}

impl Tuning {
    /// What was measured for a class of products.
    pub fn choice(&self, class: &str) -> Option<Choice> {
        self.choices.get(class).copied()
    }

    /// The record with one more choice.
    pub fn with(&self, class: &str, choice: Choice) -> Tuning {
        let mut choices = (*self.choices).clone();
        choices.insert(class.to_owned(), choice);
        Tuning { choices: Arc::new(choices) }
    }

    /// What is kept for an adapter; nothing where nothing is, or where it is another's.
    pub fn load(cache: &dyn DeviceCache, adapter: &Adapter) -> Tuning {
        let identity = adapter.identity();
        let all = cache.load(&name("tuning", &identity));
        let text = all.as_deref().and_then(|all| opened(&identity, all)).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.and_then(|text| Tuning::from_json(text).ok()).unwrap_or_default()
    }

    /// Keeps the record for an adapter.
    pub fn save(&self, cache: &dyn DeviceCache, adapter: &Adapter) {
        let identity = adapter.identity();
        cache.save(&name("tuning", &identity), &sealed(&identity, self.to_json().as_bytes()));
    }

    /// What tells one record from another: the number of classes and a checksum.
    pub fn stamp(&self) -> String {
        format!("{} classes, {:016x}", self.len(), checksum(self.to_json().as_bytes()))
    }

    /// True when nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// As JSON, a class a line.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&*self.choices).expect("names and numbers are JSON")
    }

    /// Reads [`Tuning::to_json`]'s text.
    ///
    /// Errors: what is wrong with the text.
    pub fn from_json(text: &str) -> Result<Tuning, String> {
        let choices: BTreeMap<String, Choice> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Tuning { choices: Arc::new(choices) })
    }
}

/// One class that was measured, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The class.
    pub class: String,
    /// A kernel of it.
    pub label: String,
    /// Candidates that ran.
    pub candidates: usize,
    /// Median seconds of the rule of thumb.
    pub before_secs: f64,
    /// Median seconds of the choice.
    pub after_secs: f64,
    /// What was chosen.
    pub choice: Choice,
}

/// `known` with a choice for each class of products of `plan` that it has none for; `report` is told of each class.
///
/// The kernels run alone on memory of their own, filled with zeros. Cost: some seconds a class; nothing for known classes.
///
/// Errors: the device's.
pub fn tune(
    adapter: &Adapter,
    sources: &Sources,
    plan: &Plan,
    known: &Tuning,
    report: &mut dyn FnMut(&Measured),
) -> Result<Tuning, EngineError> {
    let mut runtime = GpuRuntime::with_sources(adapter, sources)?;
    let failed = |message: String| EngineError::Device { device: adapter.name.clone(), message };
    let mut tuning = known.clone();
    for (kernel, class, candidates) in choices(plan, runtime.target()).map_err(failed)? {
        if tuning.choice(&class).is_some() {
            continue;
        }
        let kernel = &plan.kernels[kernel];
        let measured = measure(&mut runtime, plan, kernel, &class, &candidates[..candidates.len().min(CANDIDATES_MAX)])?;
        tuning = tuning.with(&class, measured.choice);
        report(&measured);
    }
    Ok(tuning)
}

fn measure(runtime: &mut GpuRuntime, plan: &Plan, kernel: &Kernel, class: &str, candidates: &[Choice]) -> Result<Measured, EngineError> {
    let alone = Arc::new(alone(plan, kernel));
    let mut programs = Vec::new();
    for candidate in candidates {
        runtime.set_tuning(Tuning::default().with(class, *candidate));
        programs.push(runtime.load(alone.clone())?);
    }
    runtime.set_tuning(Tuning::default());
    // The first run of a kernel is that of the driver's compiler too.
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); programs.len()];
    let mut run = |index: usize| -> Result<Duration, EngineError> {
        let begin = Instant::now();
        runtime.submit(programs[index], &[], &[])?;
        runtime.finish()?;
        Ok(begin.elapsed())
    };
    let mut first = Vec::new();
    for index in 0..candidates.len() {
        run(index)?;
        first.push(run(index)?);
    }
    let limit = first.iter().min().copied().unwrap_or_default() * HOPELESS;
    let hopeful: Vec<usize> = (0..candidates.len()).filter(|&index| index == 0 || first[index] <= limit).collect();
    for _ in 0..ROUNDS {
        for &index in &hopeful {
            times[index].push(run(index)?);
        }
    }
    let median = |index: usize| {
        let mut sorted = times[index].clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2].as_secs_f64()
    };
    let best = hopeful.iter().copied().min_by(|&one, &other| median(one).total_cmp(&median(other))).unwrap_or(0);
    let best = if median(best) <= median(0) * (1.0 - GAIN_MIN) { best } else { 0 };
    runtime.forget_programs();
    Ok(Measured {
        class: class.to_owned(),
        label: kernel.label.clone(),
        candidates: candidates.len(),
        before_secs: median(0),
        after_secs: median(best),
        choice: candidates[best],
    })
}

/// A plan of one kernel, whose buffers are all scratch memory of their own.
fn alone(plan: &Plan, kernel: &Kernel) -> Plan {
    let touched: Vec<usize> = kernel.op.reads().into_iter().chain(kernel.op.writes()).map(|buffer| buffer.index()).collect();
    let mut slots = Vec::new();
    let mut buffers = plan.buffers.clone();
    for (index, buffer) in buffers.iter_mut().enumerate() {
        if !touched.contains(&index) {
            buffer.elements = 0;
        }
        buffer.kind = BufferKind::Scratch { slot: slots.len() };
        slots.push(buffer.bytes().next_multiple_of(4));
    }
    Plan { name: kernel.label.clone(), buffers, slots, kernels: vec![kernel.clone()], ..Plan::default() }
}
