//! Schedules along half a cosine.
//!
//! `(1 + cos(pi s)) / 2` is written `sin^2(pi / 2 (1 - s))`: near the end, where the rate comes to nothing, `1 + cos` has no digits left in
//! f32.

use crate::{line, share, total_steps};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;
use std::f64::consts::FRAC_PI_2;

/// From the base learning rate to `min_lr` along half a cosine.
/// Source: Loshchilov and Hutter, "SGDR", 2017; after `total` steps the rate stays (PyTorch's comes up again).
#[config]
pub struct Cosine {
    /// Rate at the end.
    #[schemars(range(min = 0.0))]
    pub min_lr: f64,
    /// Length in steps.
    pub total: Option<u32>,
}

impl Default for Cosine {
    fn default() -> Self {
        Cosine { min_lr: 0.0, total: None }
    }
}

impl LrSchedule for Cosine {
    const ID: &'static str = "cosine";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let total = total_steps(g, self.total, at);
        let end = g.constant(self.min_lr);
        Ok(half_wave(g, at.base_lr, end, at.step, total))
    }
}

/// Cosines one after the other, each `t_mult` times as long as the one before.
/// Source: Loshchilov and Hutter, "SGDR", 2017.
#[config]
pub struct CosineRestarts {
    /// Steps of the first cosine.
    #[schemars(range(min = 1))]
    pub t0: u32,
    /// Factor from one length to the next.
    #[schemars(range(min = 1))]
    pub t_mult: u32,
    /// Rate at the end of each.
    #[schemars(range(min = 0.0))]
    pub min_lr: f64,
}

impl Default for CosineRestarts {
    fn default() -> Self {
        CosineRestarts { t0: 1000, t_mult: 2, min_lr: 0.0 }
    }
}

impl LrSchedule for CosineRestarts {
    const ID: &'static str = "cosine-restarts";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let first = f64::from(self.t0);
        let (start, length) = if self.t_mult <= 1 {
            // Half a step in front: a GPU may give 10 / 10 as just below 1.
            let middle = g.offset(at.step, 0.5);
            let ratio = g.scale(middle, 1.0 / first);
            let count = g.floor(ratio);
            (g.scale(count, first), g.constant(first))
        } else {
            // A logarithm would give the cycle's number, but not exactly at its borders. Steps are f32, so none is above 2^24.
            let (mut start, mut length) = (g.constant(0.0), g.constant(first));
            let (mut next_start, mut next_length) = (first, first * f64::from(self.t_mult));
            while next_start < 16_777_216.0 {
                let is_past = g.compare_with(Compare::GreaterEqual, at.step, next_start);
                let (s, l) = (g.constant(next_start), g.constant(next_length));
                start = g.select(is_past, s, start);
                length = g.select(is_past, l, length);
                next_start += next_length;
                next_length *= f64::from(self.t_mult);
            }
            (start, length)
        };
        let step = g.sub(at.step, start);
        let end = g.constant(self.min_lr);
        Ok(half_wave(g, at.base_lr, end, step, length))
    }
}

/// Up along a line from `start_factor` times the base learning rate, then down to `min_lr` along half a cosine.
#[config]
pub struct LinearWarmupCosine {
    /// Steps of the line.
    pub warmup: u32,
    /// Factor at the first step.
    #[schemars(range(min = 0.0))]
    pub start_factor: f64,
    /// Rate at the end.
    #[schemars(range(min = 0.0))]
    pub min_lr: f64,
    /// Length in steps, the warm-up included.
    pub total: Option<u32>,
}

impl Default for LinearWarmupCosine {
    fn default() -> Self {
        LinearWarmupCosine { warmup: 100, start_factor: 0.01, min_lr: 0.0, total: None }
    }
}

impl LrSchedule for LinearWarmupCosine {
    const ID: &'static str = "linear-warmup-cosine";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let warmup = g.constant(f64::from(self.warmup));
        let up = {
            let done = share(g, at.step, warmup);
            let from = g.scale(at.base_lr, self.start_factor);
            line(g, from, at.base_lr, done)
        };
        let down = {
            let total = total_steps(g, self.total, at);
            let length = g.sub(total, warmup);
            let step = g.sub(at.step, warmup);
            let end = g.constant(self.min_lr);
            half_wave(g, at.base_lr, end, step, length)
        };
        let is_warm = g.compare(Compare::GreaterEqual, at.step, warmup);
        Ok(g.select(is_warm, down, up))
    }
}

/// Up from `max_lr / div_factor` to `max_lr`, then down to nearly nothing, each along half a cosine.
/// Source: Smith and Topin, "Super-Convergence", 2018, as `torch.optim.lr_scheduler.OneCycleLR` in two phases. Momentum is left alone.
#[config]
pub struct OneCycle {
    /// Highest rate; by default the optimizer's learning rate, which is otherwise not used.
    pub max_lr: Option<f64>,
    /// Share of the steps that go up.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub pct_start: f64,
    /// Highest rate over the first one.
    #[schemars(range(min = 1.0))]
    pub div_factor: f64,
    /// First rate over the last one.
    #[schemars(range(min = 1.0))]
    pub final_div_factor: f64,
    /// Length in steps.
    pub total: Option<u32>,
}

impl Default for OneCycle {
    fn default() -> Self {
        OneCycle { max_lr: None, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4, total: None }
    }
}

impl LrSchedule for OneCycle {
    const ID: &'static str = "one-cycle";

    fn rate(&self, g: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        let highest = match self.max_lr {
            Some(rate) => g.constant(rate),
            None => at.base_lr,
        };
        let first = g.scale(highest, 1.0 / self.div_factor);
        let last = g.scale(first, 1.0 / self.final_div_factor);
        let total = total_steps(g, self.total, at);
        let up_steps = g.scale(total, self.pct_start);
        let up_steps = g.offset(up_steps, -1.0); // PyTorch counts the steps between the first and the highest rate
        let up = half_wave(g, first, highest, at.step, up_steps);
        let down = {
            let end = g.offset(total, -1.0);
            let length = g.sub(end, up_steps);
            let step = g.sub(at.step, up_steps);
            half_wave(g, highest, last, step, length)
        };
        let is_up = g.compare(Compare::LessEqual, at.step, up_steps);
        Ok(g.select(is_up, up, down))
    }
}

/// `from` at step 0, `to` at step `length` and after, half a cosine between.
fn half_wave(g: &mut Graph, from: Tensor, to: Tensor, step: Tensor, length: Tensor) -> Tensor {
    let left = g.sub(length, step);
    let left = share_left(g, left, length);
    let done = share(g, step, length);
    let from_part = sine_square(g, left);
    let to_part = sine_square(g, done);
    let a = g.mul(from, from_part);
    let b = g.mul(to, to_part);
    g.add(a, b)
}

/// `share`, but nothing is left of a wave without length.
fn share_left(g: &mut Graph, left: Tensor, length: Tensor) -> Tensor {
    let ratio = share(g, left, length);
    let is_something = g.compare_with(Compare::Greater, length, 0.0);
    let zero = g.constant(0.0);
    g.select(is_something, ratio, zero)
}

/// `sin^2(pi / 2 x)`.
fn sine_square(g: &mut Graph, x: Tensor) -> Tensor {
    let angle = g.scale(x, FRAC_PI_2);
    let sine = g.sin(angle);
    g.square(sine)
}
