//! A step of several micro-batches: sums that are state tensors, so that the graph of one micro-batch does not know how many there are.
//!
//! Each micro-batch counts by its samples: `k` batches of `b` give the gradients of one batch of `k * b`, and a ragged one has the weight that it
//! should. The order of a step is in `minimize.rs`.

use super::Step;
use super::minimize::Trained;
use crate::graph::Tensor;
use solstice_ir::Init;

/// Sums over the micro-batches of a step. None of them is gated: a number that is not finite stays in them until the whole step is refused.
pub(super) struct Sums {
    /// Samples.
    samples: Tensor,
    /// Loss times samples: a loss may be infinite where its gradients are not.
    loss: Tensor,
    /// Gradients times samples.
    grads: Vec<Tensor>,
}

impl Sums {
    fn all(&self) -> impl Iterator<Item = Tensor> {
        [self.samples, self.loss].into_iter().chain(self.grads.iter().copied())
    }
}

impl Step<'_> {
    /// The sums of the micro-batches before this one.
    #[track_caller]
    pub(super) fn sums(&mut self, params: &[Trained]) -> Sums {
        let mut state = |name: &str, shape: &[usize]| self.graph.optimizer_state(&format!("gradients.{name}"), shape, Init::Constant(0.0));
        let (samples, loss) = (state("samples", &[]), state("loss", &[]));
        let grads = params
            .iter()
            .map(|param| {
                let shape = self.graph.shape(param.weight).to_vec();
                self.graph.optimizer_state(&format!("gradients.{}", param.name), &shape, Init::Constant(0.0))
            })
            .collect();
        Sums { samples, loss, grads }
    }

    /// Adds this micro-batch to the sums. Weights and the optimizer's state stay; the rest (running statistics) is gated by this micro-batch alone.
    #[track_caller]
    pub(super) fn gather(&mut self, loss: Tensor, params: &[Trained], grads: &[Tensor]) {
        let grad_norm = self.norm(grads);
        let finite = self.all_finite(loss, grad_norm);
        self.keep_unless(finite);
        let before = self.sums(params);
        let after = self.with_batch(&before, loss, grads);
        for (state, value) in before.all().zip(after.all()) {
            self.graph.update(state, value);
        }
    }

    /// Loss and gradients of the whole step, of which this micro-batch is the last.
    #[track_caller]
    pub(super) fn mean_with(&mut self, before: &Sums, loss: Tensor, grads: &[Tensor]) -> (Tensor, Vec<Tensor>) {
        let total = self.with_batch(before, loss, grads);
        let grads = total.grads.iter().map(|sum| self.graph.div(*sum, total.samples)).collect();
        (self.graph.div(total.loss, total.samples), grads)
    }

    #[track_caller]
    fn with_batch(&mut self, before: &Sums, loss: Tensor, grads: &[Tensor]) -> Sums {
        let mask = self.mask();
        let samples = self.graph.sum_all(mask);
        let mut plus = |sum: Tensor, mean: Tensor| {
            let weighted = self.graph.mul(mean, samples);
            self.graph.add(sum, weighted)
        };
        let loss = plus(before.loss, loss);
        let grads = before.grads.iter().zip(grads).map(|(sum, grad)| plus(*sum, *grad)).collect();
        Sums { samples: self.graph.add(before.samples, samples), loss, grads }
    }

    /// Makes the sums zero for the next step, whether this one was taken or refused.
    #[track_caller]
    pub(super) fn clear(&mut self, sums: &Sums) {
        for state in sums.all() {
            let zero = self.graph.full_like(state, 0.0);
            self.graph.update(state, zero);
        }
    }
}
