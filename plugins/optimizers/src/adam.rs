//! Adam and AdamW.

use crate::{descend, moving_average, one_minus_power, with_decay, with_penalty, zeros_like};
use solstice_plugin_api::prelude::*;

/// Adam; weight decay enters the gradient. Source: Kingma and Ba, "Adam", 2015, as `torch.optim.Adam`.
#[config]
pub struct Adam {
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
    /// Strength of the L2 penalty. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl Optimizer for Adam {
    const ID: &'static str = "adam";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let grad = with_penalty(g, at, self.weight_decay);
        let direction = adam_direction(g, ParamUpdate { grad, ..at }, (self.beta1, self.beta2), self.epsilon);
        Ok(descend(g, at.param, at.lr, direction))
    }
}

/// Adam; weight decay shrinks the weights directly. Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, as
/// `torch.optim.AdamW`.
#[config]
pub struct AdamW {
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
    /// Each step takes `lr * weight_decay` of a weight away. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Weights with fewer than two axes decay too, as in PyTorch.
    pub decay_biases_and_norms: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, decay_biases_and_norms: true }
    }
}

impl Optimizer for AdamW {
    const ID: &'static str = "adamw";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let param = with_decay(g, at, self.weight_decay, self.decay_biases_and_norms);
        let direction = adam_direction(g, at, (self.beta1, self.beta2), self.epsilon);
        Ok(descend(g, param, at.lr, direction))
    }
}

/// `mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + epsilon)`, keeping `mean` and `square`.
pub fn adam_direction(g: &mut Graph, at: ParamUpdate, (beta1, beta2): (f64, f64), epsilon: f64) -> Tensor {
    let mean = zeros_like(g, "mean", at.param);
    let mean = moving_average(g, mean, at.grad, beta1);
    let denominator = adam_denominator(g, at, beta2, epsilon);
    let correction = one_minus_power(g, beta1, at.step);
    let unbiased = g.div(mean, correction);
    g.div(unbiased, denominator)
}

/// `sqrt(square / (1 - beta2^t)) + epsilon`, keeping `square`.
pub fn adam_denominator(g: &mut Graph, at: ParamUpdate, beta2: f64, epsilon: f64) -> Tensor {
    let square = zeros_like(g, "square", at.param);
    let grad_square = g.square(at.grad);
    let square = moving_average(g, square, grad_square, beta2);
    let correction = one_minus_power(g, beta2, at.step);
    let unbiased = g.div(square, correction);
    let root = g.sqrt(unbiased);
    g.offset(root, epsilon)
}
