//! Bounds on the gradients of a step. The bound is the live scalar `trainer.clip`, so it may be changed while a run goes on.

use super::Step;
use crate::error::{Error, Result};
use crate::graph::Tensor;
use solstice_ir::Compare;
use solstice_plugin_abi::wire::Clip;

/// Gradients within the bound.
pub(super) struct Clipped {
    pub(super) grads: Vec<Tensor>,
    /// 1 when a gradient was changed, else 0: f32 scalar.
    pub(super) happened: Tensor,
}

impl Step<'_> {
    /// The gradients within the recipe's bound; `grad_norm` is the norm of all of them.
    #[track_caller]
    pub(super) fn clip(&mut self, clip: Clip, weights: &[Tensor], grads: &[Tensor], grad_norm: Tensor) -> Result<Clipped> {
        let (Clip::Norm(first) | Clip::Value(first) | Clip::Adaptive(first)) = clip;
        if !(first.is_finite() && first > 0.0) {
            return Err(Error::new(format!("the bound on the gradients (`trainer.clip`) must be above 0, it is {first}")));
        }
        let bound = self.graph.live("trainer.clip", first);
        Ok(match clip {
            Clip::Norm(_) => self.clip_norm(bound, grads, grad_norm),
            Clip::Value(_) => self.clip_value(bound, grads),
            Clip::Adaptive(_) => self.clip_adaptive(bound, weights, grads),
        })
    }

    /// All gradients times `min(1, bound / (norm + 1e-6))`. Source: `torch.nn.utils.clip_grad_norm_`.
    #[track_caller]
    fn clip_norm(&mut self, bound: Tensor, grads: &[Tensor], norm: Tensor) -> Clipped {
        let one = self.graph.constant(1.0);
        let above_zero = self.graph.offset(norm, 1e-6);
        let ratio = self.graph.div(bound, above_zero);
        let factor = self.graph.minimum(ratio, one);
        let grads = grads.iter().map(|grad| self.graph.mul(*grad, factor)).collect();
        let is_over = self.graph.compare(Compare::Less, ratio, one);
        Clipped { grads, happened: self.one_where(is_over) }
    }

    /// Each element between `-bound` and `bound`.
    #[track_caller]
    fn clip_value(&mut self, bound: Tensor, grads: &[Tensor]) -> Clipped {
        let least = self.graph.neg(bound);
        let mut largest = self.graph.constant(0.0);
        let mut clipped = vec![];
        for &grad in grads {
            let below = self.graph.minimum(grad, bound);
            clipped.push(self.graph.maximum(below, least));
            let size = self.graph.abs(grad);
            let size = self.largest(size);
            largest = self.graph.maximum(largest, size);
        }
        let is_over = self.graph.compare(Compare::Greater, largest, bound);
        Clipped { grads: clipped, happened: self.one_where(is_over) }
    }

    /// Each unit's gradient at most `bound` times as long as its weight, which counts as 1e-3 at least.
    ///
    /// Source: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", 2021, as `optax.adaptive_grad_clip`; a unit is
    /// what makes one output: axis 0 here, where a weight is `[out, in]` or OIHW.
    #[track_caller]
    fn clip_adaptive(&mut self, bound: Tensor, weights: &[Tensor], grads: &[Tensor]) -> Clipped {
        let one = self.graph.constant(1.0);
        let mut happened = self.graph.constant(0.0);
        let mut clipped = vec![];
        for (&weight, &grad) in weights.iter().zip(grads) {
            let weight_norm = self.unit_norms(weight);
            let grad_norm = self.unit_norms(grad);
            let least = self.graph.full_like(weight_norm, 1e-3);
            let weight_norm = self.graph.maximum(weight_norm, least);
            let allowed = self.graph.mul(weight_norm, bound);
            let is_over = self.graph.compare(Compare::Greater, grad_norm, allowed);
            // Where a gradient is over its bound it is not 0; the other branch must not divide by 0 all the same.
            let least = self.graph.full_like(grad_norm, 1e-6);
            let divisor = self.graph.maximum(grad_norm, least);
            let ratio = self.graph.div(allowed, divisor);
            let factor = self.graph.select(is_over, ratio, one);
            clipped.push(self.graph.mul(grad, factor));
            let over = self.one_where(is_over);
            let over = self.largest(over);
            happened = self.graph.maximum(happened, over);
        }
        Clipped { grads: clipped, happened }
    }

    /// Euclidean norm of each unit, in a shape that stretches to `x`: `[out, ..] -> [out, 1, ..]`, a vector or a scalar as a whole: `[]`.
    #[track_caller]
    fn unit_norms(&mut self, x: Tensor) -> Tensor {
        let shape = self.graph.shape(x).to_vec();
        let square = self.graph.square(x);
        let sum = if shape.iter().filter(|&&size| size != 1).count() <= 1 {
            self.graph.sum_all(square)
        } else {
            let axes: Vec<usize> = (1..shape.len()).collect();
            let sums = self.graph.sum(square, &axes);
            let mut kept = vec![1; shape.len()];
            kept[0] = shape[0];
            self.graph.reshape(sums, &kept)
        };
        self.graph.sqrt(sum)
    }

    #[track_caller]
    fn largest(&mut self, x: Tensor) -> Tensor {
        let axes: Vec<usize> = (0..self.graph.shape(x).len()).collect();
        self.graph.max(x, &axes)
    }

    #[track_caller]
    fn one_where(&mut self, predicate: Tensor) -> Tensor {
        let one = self.graph.constant(1.0);
        let zero = self.graph.constant(0.0);
        self.graph.select(predicate, one, zero)
    }
}
