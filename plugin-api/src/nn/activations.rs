//! Activations: elementwise functions, and softmax with its kin. Shapes stay as they are.

use crate::{Graph, Tensor};
use serde_json::json;
use solstice_ir::Compare;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

impl Graph {
    /// `max(x, 0)`; a NaN stays a NaN, so that it is seen.
    ///
    /// Shapes: any. Gradient: `grad_out` where `x > 0`, else 0, at 0 too (PyTorch's choice).
    #[track_caller]
    pub fn relu(&mut self, x: Tensor) -> Tensor {
        // Not maximum(x, 0), which would halve the gradient at 0.
        let cut = self.compare_with(Compare::LessEqual, x, 0.0);
        let zero = self.full_like(x, 0.0);
        self.select(cut, zero, x)
    }

    /// `x` where `x > 0`, else `negative_slope * x`.
    ///
    /// Shapes: any. Gradient: `grad_out` or `negative_slope * grad_out`; the latter at 0.
    /// Source: Maas et al., "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.
    #[track_caller]
    pub fn leaky_relu(&mut self, x: Tensor, negative_slope: f64) -> Tensor {
        let positive = self.compare_with(Compare::Greater, x, 0.0);
        let sloped = self.scale(x, negative_slope);
        self.select(positive, x, sloped)
    }

    /// `x` where `x > 0`, else `alpha (e^x - 1)`.
    ///
    /// Shapes: any. Gradient: 1 or `alpha e^x`; the latter at 0.
    /// Source: Clevert et al., "Fast and Accurate Deep Network Learning by Exponential Linear Units", 2015.
    #[track_caller]
    pub fn elu(&mut self, x: Tensor, alpha: f64) -> Tensor {
        let positive = self.compare_with(Compare::Greater, x, 0.0);
        let zero = self.full_like(x, 0.0);
        // The side that is not taken must not overflow: its gradient would be 0 * inf.
        let negative = self.select(positive, zero, x);
        let exponential = self.exp(negative);
        let shifted = self.offset(exponential, -1.0);
        let curved = self.scale(shifted, alpha);
        self.select(positive, x, curved)
    }

    /// `x sigmoid(x)`, also called swish.
    ///
    /// Shapes: any. Gradient: `s (1 + x (1 - s))` with `s = sigmoid(x)`.
    /// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; Ramachandran et al., "Searching for Activation Functions", 2017.
    #[track_caller]
    pub fn silu(&mut self, x: Tensor) -> Tensor {
        let gate = self.sigmoid(x);
        self.mul(x, gate)
    }

    /// `x Phi(x)` with the normal distribution function by `erf`.
    ///
    /// Shapes: any. Gradient: `Phi(x) + x phi(x)`.
    /// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    #[track_caller]
    pub fn gelu(&mut self, x: Tensor) -> Tensor {
        self.function("gelu", json!({"approximate": "none"}), &[x], |g, inputs| {
            let x = inputs[0];
            let scaled = g.scale(x, FRAC_1_SQRT_2);
            let erf = g.erf(scaled);
            let twice = g.offset(erf, 1.0);
            let probability = g.scale(twice, 0.5);
            g.mul(x, probability)
        })
    }

    /// [`Graph::gelu`] by the approximation `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as GPT-2 has it.
    ///
    /// Shapes: any.
    /// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
    #[track_caller]
    pub fn gelu_tanh(&mut self, x: Tensor) -> Tensor {
        self.function("gelu", json!({"approximate": "tanh"}), &[x], |g, inputs| {
            let x = inputs[0];
            let square = g.square(x);
            let bent = g.scale(square, 0.044715);
            let bent = g.offset(bent, 1.0);
            let inner = g.mul(x, bent);
            let inner = g.scale(inner, FRAC_2_PI.sqrt());
            let tanh = g.tanh(inner);
            let twice = g.offset(tanh, 1.0);
            let probability = g.scale(twice, 0.5);
            g.mul(x, probability)
        })
    }

    /// `log(1 + e^x)`, without overflow for any `x`. Below -17 the f32 result is 0; the gradient there is still right.
    ///
    /// Shapes: any. Gradient: `sigmoid(x)`, exactly, at 0 too.
    #[track_caller]
    pub fn softplus(&mut self, x: Tensor) -> Tensor {
        // log(e^(x - m) + e^-m) + m with m = max(x, 0) held fixed. Written with |x| and max, both kinks would meet at 0 and spoil the gradient there,
        // which is where a zero-initialised head starts.
        let high = self.relu(x);
        let high = self.stop_gradient(high);
        let above = self.sub(x, high);
        let below = self.neg(high);
        let (above, below) = (self.exp(above), self.exp(below));
        let sum = self.add(above, below);
        let log = self.log(sum);
        self.add(log, high)
    }

    /// `x` held within `[low, high]`.
    ///
    /// Shapes: any. Gradient: `grad_out` within, bounds included, else 0.
    #[track_caller]
    pub fn clamp(&mut self, x: Tensor, low: f64, high: f64) -> Tensor {
        let is_below = self.compare_with(Compare::Less, x, low);
        let is_above = self.compare_with(Compare::Greater, x, high);
        let (low, high) = (self.full_like(x, low), self.full_like(x, high));
        let capped = self.select(is_above, high, x);
        self.select(is_below, low, capped)
    }

    /// `e^x / sum(e^x)` along `axis`; large values do not overflow.
    ///
    /// Shapes: any with `axis`. Errors: an axis that is not there. Gradient: `y (grad_out - sum(grad_out y))`.
    #[track_caller]
    pub fn softmax(&mut self, x: Tensor, axis: usize) -> Tensor {
        if !self.has_axis("softmax", x, axis) {
            return x;
        }
        self.function("softmax", json!({"axis": axis}), &[x], |g, inputs| {
            let (shifted, _) = shifted_by_max(g, inputs[0], axis);
            let exponential = g.exp(shifted);
            let sum = g.sum(exponential, &[axis]);
            let sum = g.restore_axes(sum, &[axis]); // [.., 1, ..]
            g.div(exponential, sum)
        })
    }

    /// `x - log(sum(e^x))` along `axis`; large values do not overflow.
    ///
    /// Shapes: any with `axis`. Errors: an axis that is not there. Gradient: `grad_out - e^y sum(grad_out)`.
    #[track_caller]
    pub fn log_softmax(&mut self, x: Tensor, axis: usize) -> Tensor {
        if !self.has_axis("log_softmax", x, axis) {
            return x;
        }
        self.function("log_softmax", json!({"axis": axis}), &[x], |g, inputs| {
            let (shifted, _) = shifted_by_max(g, inputs[0], axis);
            let exponential = g.exp(shifted);
            let sum = g.sum(exponential, &[axis]);
            let log = g.log(sum);
            let log = g.restore_axes(log, &[axis]); // [.., 1, ..]
            g.sub(shifted, log)
        })
    }

    /// `log(sum(e^x))` along `axis`, which vanishes; large values do not overflow.
    ///
    /// Shapes: `[.., n, ..] -> [.., ..]`. Errors: an axis that is not there. Gradient: `softmax(x) grad_out`.
    #[track_caller]
    pub fn logsumexp(&mut self, x: Tensor, axis: usize) -> Tensor {
        if !self.has_axis("logsumexp", x, axis) {
            return x;
        }
        self.function("logsumexp", json!({"axis": axis}), &[x], |g, inputs| {
            let (shifted, largest) = shifted_by_max(g, inputs[0], axis);
            let exponential = g.exp(shifted);
            let sum = g.sum(exponential, &[axis]);
            let log = g.log(sum);
            g.add(log, largest)
        })
    }
}

/// `x` less its maximum along `axis`, and that maximum (`axis` gone). The maximum is held fixed: it cancels from every function that uses this.
fn shifted_by_max(g: &mut Graph, x: Tensor, axis: usize) -> (Tensor, Tensor) {
    let largest = g.max(x, &[axis]);
    let largest = g.stop_gradient(largest);
    let row = g.restore_axes(largest, &[axis]); // [.., 1, ..]
    (g.sub(x, row), largest)
}
