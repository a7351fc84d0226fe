//! Adagrad.

use crate::{descend, with_penalty};
use solstice_plugin_api::prelude::*;

/// Divides the gradient by the root of the sum of its squares. Source: Duchi, Hazan and Singer, 2011, as `torch.optim.Adagrad`.
#[config]
pub struct Adagrad {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// The learning rate is divided by `1 + lr_decay * steps before this one`.
    #[schemars(range(min = 0.0))]
    pub lr_decay: f64,
    /// The sum of squares starts here.
    #[schemars(range(min = 0.0))]
    pub initial_accumulator: f64,
    /// Added to the root of the sum.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// Strength of the L2 penalty. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Adagrad { lr: 1e-2, lr_decay: 0.0, initial_accumulator: 0.0, epsilon: 1e-10, weight_decay: 0.0 }
    }
}

impl Optimizer for Adagrad {
    const ID: &'static str = "adagrad";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let grad = with_penalty(g, at, self.weight_decay);
        let shape = g.shape(at.param).to_vec();
        let old = g.optimizer_state("square_sum", &shape, Init::Constant(self.initial_accumulator));
        let grad_square = g.square(grad);
        let sum = g.add(old, grad_square);
        g.update(old, sum);
        let root = g.sqrt(sum);
        let denominator = g.offset(root, self.epsilon);
        let direction = g.div(grad, denominator);
        let steps_before = g.offset(at.step, -1.0);
        let slowed = g.scale(steps_before, self.lr_decay);
        let divisor = g.offset(slowed, 1.0);
        let lr = g.div(at.lr, divisor);
        Ok(descend(g, at.param, lr, direction))
    }
}
