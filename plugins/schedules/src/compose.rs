//! Schedules made of schedules.

use crate::{Constant, Cosine, CosineRestarts, Exponential, Linear, LinearWarmupCosine, MultiStep, OneCycle, Polynomial, StepDecay};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

/// Any schedule, as a part of another: `cosine((min_lr: 0.01))`.
#[config]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AnySchedule {
    Constant(Constant),
    Step(StepDecay),
    #[serde(rename = "multistep")]
    MultiStep(MultiStep),
    Exponential(Exponential),
    Linear(Linear),
    Polynomial(Polynomial),
    Cosine(Cosine),
    CosineRestarts(CosineRestarts),
    LinearWarmupCosine(LinearWarmupCosine),
    OneCycle(OneCycle),
    Product(Product),
    Sequence(Sequence),
}

impl AnySchedule {
    /// Learning rate at a step.
    pub fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        match self {
            AnySchedule::Constant(schedule) => schedule.rate(g, at),
            AnySchedule::Step(schedule) => schedule.rate(g, at),
            AnySchedule::MultiStep(schedule) => schedule.rate(g, at),
            AnySchedule::Exponential(schedule) => schedule.rate(g, at),
            AnySchedule::Linear(schedule) => schedule.rate(g, at),
            AnySchedule::Polynomial(schedule) => schedule.rate(g, at),
            AnySchedule::Cosine(schedule) => schedule.rate(g, at),
            AnySchedule::CosineRestarts(schedule) => schedule.rate(g, at),
            AnySchedule::LinearWarmupCosine(schedule) => schedule.rate(g, at),
            AnySchedule::OneCycle(schedule) => schedule.rate(g, at),
            AnySchedule::Product(schedule) => schedule.rate(g, at),
            AnySchedule::Sequence(schedule) => schedule.rate(g, at),
        }
    }
}

/// Each schedule takes the rate of the one before it as its base learning rate: factors multiply.
#[config]
#[derive(Default)]
pub struct Product {
    /// The factors; none leaves the base learning rate as it is.
    pub schedules: Vec<AnySchedule>,
}

impl LrSchedule for Product {
    const ID: &'static str = "product";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        self.schedules.iter().try_fold(at.base_lr, |base_lr, schedule| schedule.rate(g, SchedulePoint { base_lr, ..at }))
    }
}

/// Schedules one after the other, each from its own step 0.
#[config]
#[derive(Default)]
pub struct Sequence {
    /// The parts in order; none leaves the base learning rate as it is.
    pub parts: Vec<Part>,
}

/// A part of a sequence.
#[config]
#[derive(Default)]
pub struct Part {
    /// Its schedule, whose `total` is by default `steps`.
    pub schedule: AnySchedule,
    /// Its length; the last part may leave it out and takes the rest of the run.
    pub steps: Option<u32>,
}

impl Default for AnySchedule {
    fn default() -> Self {
        AnySchedule::Constant(Constant::default())
    }
}

impl LrSchedule for Sequence {
    const ID: &'static str = "sequence";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let mut rate = at.base_lr;
        let mut start = 0.0;
        for (index, part) in self.parts.iter().enumerate() {
            let is_last = index + 1 == self.parts.len();
            let total_steps = match part.steps {
                Some(steps) => g.constant(f64::from(steps)),
                None if is_last => g.offset(at.total_steps, -start),
                None => {
                    return Err(Error::new(format!("part {index} of the sequence has no `steps`; only the last part may leave them out")));
                }
            };
            let step = g.offset(at.step, -start);
            let own = part.schedule.rate(g, SchedulePoint { step, total_steps, ..at })?;
            let is_reached = g.compare_with(Compare::GreaterEqual, at.step, start);
            rate = if index == 0 { own } else { g.select(is_reached, own, rate) };
            start += f64::from(part.steps.unwrap_or(0));
        }
        Ok(rate)
    }
}
