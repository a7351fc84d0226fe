//! Schedules that jump, decay or move along a line.

use crate::{line, power_of, share, total_steps};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

/// The base learning rate times a factor, at every step.
#[config]
pub struct Constant {
    /// The factor.
    #[schemars(range(min = 0.0))]
    pub factor: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Constant { factor: 1.0 }
    }
}

impl LrSchedule for Constant {
    const ID: &'static str = "constant";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        Ok(g.scale(at.base_lr, self.factor))
    }
}

/// Times `gamma` every `step_size` steps.
#[config]
pub struct StepDecay {
    /// Steps between two jumps.
    #[schemars(range(min = 1))]
    pub step_size: u32,
    /// The factor of a jump.
    #[schemars(range(min = 1e-12))]
    pub gamma: f64,
}

impl Default for StepDecay {
    fn default() -> Self {
        StepDecay { step_size: 1000, gamma: 0.5 }
    }
}

impl LrSchedule for StepDecay {
    const ID: &'static str = "step";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        // Half a step in front: a GPU may give 15 / 15 as just below 1.
        let middle = g.offset(at.step, 0.5);
        let ratio = g.scale(middle, 1.0 / f64::from(self.step_size));
        let jumps = g.floor(ratio);
        let factor = power_of(g, self.gamma, jumps);
        Ok(g.mul(at.base_lr, factor))
    }
}

/// Times `gamma` at each milestone.
#[config]
pub struct MultiStep {
    /// Steps at which the rate jumps.
    pub milestones: Vec<u32>,
    /// The factor of a jump.
    #[schemars(range(min = 0.0))]
    pub gamma: f64,
}

impl Default for MultiStep {
    fn default() -> Self {
        MultiStep { milestones: vec![], gamma: 0.1 }
    }
}

impl LrSchedule for MultiStep {
    const ID: &'static str = "multistep";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let mut rate = at.base_lr;
        for &milestone in &self.milestones {
            let is_past = g.compare_with(Compare::GreaterEqual, at.step, f64::from(milestone));
            let lower = g.scale(rate, self.gamma);
            rate = g.select(is_past, lower, rate);
        }
        Ok(rate)
    }
}

/// Times `gamma` at every step.
#[config]
pub struct Exponential {
    /// The factor of a step.
    #[schemars(range(min = 1e-12))]
    pub gamma: f64,
}

impl Default for Exponential {
    fn default() -> Self {
        Exponential { gamma: 0.999 }
    }
}

impl LrSchedule for Exponential {
    const ID: &'static str = "exponential";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let factor = power_of(g, self.gamma, at.step);
        Ok(g.mul(at.base_lr, factor))
    }
}

/// From `start_factor` to `end_factor` times the base learning rate along a line.
#[config]
pub struct Linear {
    /// Factor at the first step.
    #[schemars(range(min = 0.0))]
    pub start_factor: f64,
    /// Factor after `total` steps.
    #[schemars(range(min = 0.0))]
    pub end_factor: f64,
    /// Length in steps.
    pub total: Option<u32>,
}

impl Default for Linear {
    fn default() -> Self {
        Linear { start_factor: 1.0, end_factor: 0.0, total: None }
    }
}

impl LrSchedule for Linear {
    const ID: &'static str = "linear";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let total = total_steps(g, self.total, at);
        let share = share(g, at.step, total);
        let from = g.constant(self.start_factor);
        let to = g.constant(self.end_factor);
        let factor = line(g, from, to, share);
        Ok(g.mul(at.base_lr, factor))
    }
}

/// From the base learning rate to `min_lr` as `(1 - step / total)^power`.
#[config]
pub struct Polynomial {
    /// The power; 1 is a line.
    #[schemars(range(min = 0.0))]
    pub power: f64,
    /// Rate at the end.
    #[schemars(range(min = 0.0))]
    pub min_lr: f64,
    /// Length in steps.
    pub total: Option<u32>,
}

impl Default for Polynomial {
    fn default() -> Self {
        Polynomial { power: 1.0, min_lr: 0.0, total: None }
    }
}

impl LrSchedule for Polynomial {
    const ID: &'static str = "polynomial";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let total = total_steps(g, self.total, at);
        let left = g.sub(total, at.step);
        let left = share(g, left, total);
        // Products where they do: a GPU's power is a logarithm and an exponential.
        let factor = if self.power == 1.0 {
            left
        } else if self.power == 2.0 {
            g.square(left)
        } else {
            let power = g.constant(self.power);
            g.pow(left, power)
        };
        let end = g.constant(self.min_lr);
        Ok(line(g, end, at.base_lr, factor))
    }
}
