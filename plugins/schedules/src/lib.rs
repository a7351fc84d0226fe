//! Learning-rate schedules: functions of the step, one struct each. Names, settings and values are those of `torch.optim.lr_scheduler`.
//!
//! `total` is by default the number of steps of the run. After its last step a schedule stays where it is. Read `compose.rs` for schedules
//! made of schedules.

mod compose;
mod steps;
mod waves;

pub use compose::{AnySchedule, Part, Product, Sequence};
pub use steps::{Constant, Exponential, Linear, MultiStep, Polynomial, StepDecay};
pub use waves::{Cosine, CosineRestarts, LinearWarmupCosine, OneCycle};

use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

export_plugin! {
    lr_schedules: [
        Constant,
        StepDecay,
        MultiStep,
        Exponential,
        Linear,
        Polynomial,
        Cosine,
        CosineRestarts,
        LinearWarmupCosine,
        OneCycle,
        Product,
        Sequence,
    ]
}

/// `total` steps, or those of the run.
fn total_steps(g: &mut Graph, total: Option<u32>, at: SchedulePoint) -> Tensor {
    match total {
        Some(steps) => g.constant(f64::from(steps)),
        None => at.total_steps,
    }
}

/// `part / whole`, held within 0 and 1; 1 when `whole` is 0 or less.
fn share(g: &mut Graph, part: Tensor, whole: Tensor) -> Tensor {
    let (zero, one) = (g.constant(0.0), g.constant(1.0));
    let is_something = g.compare_with(Compare::Greater, whole, 0.0);
    let divisor = g.select(is_something, whole, one);
    let ratio = g.div(part, divisor);
    let ratio = g.select(is_something, ratio, one);
    let ratio = g.maximum(ratio, zero);
    g.minimum(ratio, one)
}

/// `from` at `share` 0, `to` at 1, a straight line between.
fn line(g: &mut Graph, from: Tensor, to: Tensor, share: Tensor) -> Tensor {
    let rise = g.sub(to, from);
    let part = g.mul(share, rise);
    g.add(from, part)
}

/// `base^exponent` of a constant.
fn power_of(g: &mut Graph, base: f64, exponent: Tensor) -> Tensor {
    let exponent = g.scale(exponent, base.ln());
    g.exp(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(schedule: &impl LrSchedule) -> Result<()> {
        let mut g = Graph::new("rate", true);
        let scalar = TensorType::new(DType::F32, []);
        let at = SchedulePoint {
            base_lr: g.input("base_lr", scalar.clone()),
            step: g.input("step", scalar.clone()),
            total_steps: g.input("total_steps", scalar.clone()),
        };
        let rate = schedule.rate(&mut g, at)?;
        assert_eq!(*g.ty(rate), scalar);
        g.output("lr", rate);
        g.finish().map(drop)
    }

    // The values are compared with PyTorch's in the engine's tests (`golden_schedules.rs`).
    #[test]
    fn every_schedule_traces_to_a_scalar() -> Result<()> {
        traced(&Constant::default())?;
        traced(&StepDecay::default())?;
        traced(&MultiStep::default())?;
        traced(&Exponential::default())?;
        traced(&Linear::default())?;
        traced(&Polynomial::default())?;
        traced(&Cosine::default())?;
        traced(&CosineRestarts::default())?;
        traced(&LinearWarmupCosine::default())?;
        traced(&OneCycle::default())?;
        traced(&Product::default())?;
        let warmup = AnySchedule::Linear(Linear { total: Some(10), ..Linear::default() });
        let parts =
            vec![Part { schedule: warmup, steps: Some(10) }, Part { schedule: AnySchedule::Cosine(Cosine::default()), steps: None }];
        traced(&Sequence { parts })
    }

    #[test]
    fn a_part_without_steps_must_be_the_last() {
        let endless = Part { schedule: AnySchedule::Constant(Constant::default()), steps: None };
        let refused = traced(&Sequence { parts: vec![endless.clone(), endless] });
        assert!(refused.is_err_and(|error| error.message.contains("only the last part")));
    }
}
