//! RMSprop.

use crate::{descend, moving_average, with_penalty, zeros_like};
use solstice_plugin_api::prelude::*;

/// Divides the gradient by the root of its mean square. Source: Hinton, Coursera lecture 6e, 2012, as `torch.optim.RMSprop`.
#[config]
pub struct RmsProp {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Decay of the mean squared gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub alpha: f64,
    /// Added to the root of the mean square.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// Divides by the standard deviation in place of the root of the mean square.
    pub centered: bool,
    /// Part of the last direction that is kept; 0 keeps no state. Live when it starts above 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub momentum: f64,
    /// Strength of the L2 penalty. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp { lr: 1e-2, alpha: 0.99, epsilon: 1e-8, centered: false, momentum: 0.0, weight_decay: 0.0 }
    }
}

impl Optimizer for RmsProp {
    const ID: &'static str = "rmsprop";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let grad = with_penalty(g, at, self.weight_decay);
        let square = zeros_like(g, "square", at.param);
        let grad_square = g.square(grad);
        let mut spread = moving_average(g, square, grad_square, self.alpha);
        if self.centered {
            let mean = zeros_like(g, "mean", at.param);
            let mean = moving_average(g, mean, grad, self.alpha);
            let mean_square = g.square(mean);
            spread = g.sub(spread, mean_square);
            // Rounding can take a variance of nothing below zero.
            let zero = g.full_like(spread, 0.0);
            spread = g.maximum(spread, zero);
        }
        let root = g.sqrt(spread);
        let denominator = g.offset(root, self.epsilon);
        let mut direction = g.div(grad, denominator);
        if self.momentum > 0.0 {
            let momentum = g.live("momentum", self.momentum);
            let old = zeros_like(g, "velocity", at.param);
            let kept = g.mul(momentum, old);
            direction = g.add(kept, direction);
            g.update(old, direction);
        }
        Ok(descend(g, at.param, at.lr, direction))
    }
}
