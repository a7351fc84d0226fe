//! Reductions beyond those of `graph.rs`: variance, running sums.

use crate::{Graph, Tensor};
use solstice_ir::{ReduceKind, Window};

impl Graph {
    /// Mean square distance from the mean over `axes`, which vanish; the divisor is the count less `correction` (0: population, 1: sample).
    ///
    /// Shapes: `[.., n, ..] -> [.., ..]`. Errors: an axis that repeats or is not there, a correction that leaves no divisor.
    /// Two passes, so that a large mean costs no digits.
    #[track_caller]
    pub fn variance(&mut self, x: Tensor, axes: &[usize], correction: usize) -> Tensor {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        let shape = self.shape(x).to_vec();
        let count: usize = axes.iter().filter_map(|&axis| shape.get(axis)).product();
        if count <= correction {
            return self.fail(format!("variance: wants more than {correction} elements over axes {axes:?}, got {count}: x is {shape:?}"));
        }
        let mean = self.mean(x, &axes);
        let mean = self.restore_axes(mean, &axes);
        let distance = self.sub(x, mean);
        let square = self.square(distance);
        let sum = self.sum(square, &axes);
        self.scale(sum, 1.0 / (count - correction) as f64)
    }

    /// Sum of the elements up to and including each one along `axis`.
    ///
    /// Shapes: `[.., n, ..] -> [.., n, ..]`. Errors: an axis that is not there. Gradient: the running sum of `grad_out` from the end.
    /// Cost: `n^2 / 2` additions a row; meant for short axes.
    #[track_caller]
    pub fn cumsum(&mut self, x: Tensor, axis: usize) -> Tensor {
        if !self.has_axis("cumsum", x, axis) {
            return x;
        }
        let rank = self.shape(x).len();
        let length = self.shape(x)[axis];
        if length < 2 {
            return x;
        }
        let mut window = Window { size: vec![1; rank], strides: vec![1; rank], low: vec![0; rank], high: vec![0; rank] };
        window.size[axis] = length;
        window.low[axis] = length - 1;
        self.reduce_window(ReduceKind::Sum, x, window)
    }
}
