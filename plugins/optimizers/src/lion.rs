//! Lion.

use crate::{descend, moving_average, with_decay, zeros_like};
use solstice_plugin_api::prelude::*;

/// Steps of one size along the sign of the momentum; wants a learning rate 3 to 10 times below AdamW's and a decay as much above.
/// Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.
#[config]
pub struct Lion {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Share of the momentum in the direction of this step.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta1: f64,
    /// Decay of the momentum.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta2: f64,
    /// Each step takes `lr * weight_decay` of a weight away. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Weights with fewer than two axes decay too.
    pub decay_biases_and_norms: bool,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, decay_biases_and_norms: true }
    }
}

impl Optimizer for Lion {
    const ID: &'static str = "lion";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let momentum = zeros_like(g, "momentum", at.param);
        let from_momentum = g.scale(momentum, self.beta1);
        let from_grad = g.scale(at.grad, 1.0 - self.beta1);
        let mixed = g.add(from_momentum, from_grad);
        let direction = g.sign(mixed);
        moving_average(g, momentum, at.grad, self.beta2);
        let param = with_decay(g, at, self.weight_decay, self.decay_biases_and_norms);
        Ok(descend(g, param, at.lr, direction))
    }
}
