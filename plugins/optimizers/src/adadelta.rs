//! Adadelta.

use crate::{descend, moving_average, with_penalty, zeros_like};
use solstice_plugin_api::prelude::*;

/// Steps in proportion to past steps. Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, as `torch.optim.Adadelta`.
#[config]
pub struct Adadelta {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Decay of both mean squares.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub rho: f64,
    /// Added under both roots.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// Strength of the L2 penalty. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for Adadelta {
    fn default() -> Self {
        Adadelta { lr: 1.0, rho: 0.9, epsilon: 1e-6, weight_decay: 0.0 }
    }
}

impl Optimizer for Adadelta {
    const ID: &'static str = "adadelta";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let grad = with_penalty(g, at, self.weight_decay);
        let square = zeros_like(g, "square", at.param);
        let grad_square = g.square(grad);
        let square = moving_average(g, square, grad_square, self.rho);
        let change_square = zeros_like(g, "change_square", at.param);
        let root = |g: &mut Graph, x: Tensor| {
            let above_zero = g.offset(x, self.epsilon);
            g.sqrt(above_zero)
        };
        let numerator = root(g, change_square);
        let denominator = root(g, square);
        let ratio = g.div(numerator, denominator);
        let change = g.mul(ratio, grad);
        let squared_change = g.square(change);
        moving_average(g, change_square, squared_change, self.rho);
        Ok(descend(g, at.param, at.lr, change))
    }
}
