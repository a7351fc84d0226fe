//! Stochastic gradient descent.

use crate::{descend, with_penalty, zeros_like};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

/// Gradient descent with momentum. Source: `torch.optim.SGD`.
#[config]
pub struct Sgd {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Part of the last direction that is kept; 0 keeps no state. Live when it starts above 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub momentum: f64,
    /// Part of the gradient that does not enter the momentum.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dampening: f64,
    /// Looks one step ahead along the momentum.
    pub nesterov: bool,
    /// Strength of the L2 penalty. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { lr: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl Optimizer for Sgd {
    const ID: &'static str = "sgd";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::new("`nesterov` wants a momentum above 0 and no dampening"));
        }
        let grad = with_penalty(g, at, self.weight_decay);
        if self.momentum == 0.0 {
            return Ok(descend(g, at.param, at.lr, grad));
        }
        let momentum = g.live("momentum", self.momentum);
        let old = zeros_like(g, "velocity", at.param);
        let kept = g.mul(momentum, old);
        let entering = if self.dampening == 0.0 {
            grad
        } else {
            // The first gradient enters whole.
            let damped = g.scale(grad, 1.0 - self.dampening);
            let is_first = g.compare_with(Compare::LessEqual, at.step, 1.0);
            g.select(is_first, grad, damped)
        };
        let velocity = g.add(kept, entering);
        g.update(old, velocity);
        let direction = if self.nesterov {
            let ahead = g.mul(momentum, velocity);
            g.add(grad, ahead)
        } else {
            velocity
        };
        Ok(descend(g, at.param, at.lr, direction))
    }
}
