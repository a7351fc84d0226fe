//! Adam with Nesterov momentum.

use crate::adam::adam_denominator;
use crate::{moving_average, with_decay, with_penalty, zeros_like};
use solstice_plugin_api::prelude::*;

/// Adam with Nesterov momentum. Source: Dozat, "Incorporating Nesterov Momentum into Adam", 2016, as `torch.optim.NAdam`.
#[config]
pub struct Nadam {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Decay of the mean gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta2: f64,
    /// Added to the root of the mean square.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// How fast the momentum comes up to `beta1`.
    #[schemars(range(min = 0.0))]
    pub momentum_decay: f64,
    /// Strength of the L2 penalty, or of the decay when it is decoupled. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Weight decay shrinks the weights directly, as in AdamW.
    pub decoupled_weight_decay: bool,
}

impl Default for Nadam {
    fn default() -> Self {
        Nadam { lr: 2e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, momentum_decay: 4e-3, weight_decay: 0.0, decoupled_weight_decay: false }
    }
}

impl Optimizer for Nadam {
    const ID: &'static str = "nadam";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let (param, grad) = if self.decoupled_weight_decay {
            (with_decay(g, at, self.weight_decay, true), at.grad)
        } else {
            (at.param, with_penalty(g, at, self.weight_decay))
        };
        let next_step = g.offset(at.step, 1.0);
        let momentum = self.momentum_at(g, at.step);
        let next_momentum = self.momentum_at(g, next_step);
        let old_product = g.optimizer_state("momentum_product", &[], Init::Constant(1.0));
        let product = g.mul(old_product, momentum);
        g.update(old_product, product);
        let next_product = g.mul(product, next_momentum);

        let mean = zeros_like(g, "mean", at.param);
        let mean = moving_average(g, mean, grad, self.beta1);
        let denominator = adam_denominator(g, ParamUpdate { grad, ..at }, self.beta2, self.epsilon);
        let one = g.constant(1.0);
        let grad_share = {
            let above = g.sub(one, momentum);
            let below = g.sub(one, product);
            g.div(above, below)
        };
        let mean_share = {
            let below = g.sub(one, next_product);
            g.div(next_momentum, below)
        };
        let from_grad = g.mul(grad_share, grad);
        let from_mean = g.mul(mean_share, mean);
        let mixed = g.add(from_grad, from_mean);
        let direction = g.div(mixed, denominator);
        Ok(crate::descend(g, param, at.lr, direction))
    }
}

impl Nadam {
    /// `beta1 * (1 - 0.96^(step * momentum_decay) / 2)`.
    fn momentum_at(&self, g: &mut Graph, step: Tensor) -> Tensor {
        let exponent = g.scale(step, self.momentum_decay * 0.96f64.ln());
        let power = g.exp(exponent);
        let part = g.scale(power, -0.5 * self.beta1);
        g.offset(part, self.beta1)
    }
}
