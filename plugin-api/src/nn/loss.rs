//! Losses. Each gives one value a sample, because an experiment masks the padding of a ragged batch before it takes the mean (`Step::batch_mean`);
//! where there is no padding, `g.mean_all(loss)` is the mean that PyTorch gives.

use crate::{Graph, Tensor};
use serde_json::json;
use solstice_ir::{Compare, DType};

impl Graph {
    /// Cross-entropy of the distribution `softmax(logits)` and a class: `-log softmax(logits)[target]`, one value a sample. With `label_smoothing` that
    /// share of the target is spread evenly over all classes. Logits of any size are fine.
    ///
    /// Shapes: logits `[batch.., classes]`, target i32 or u32 `[batch..] -> [batch..]`. A target outside `0..classes` (say -1, for padding in a sequence)
    /// counts for nothing: loss and gradient are 0.
    /// Errors: sizes that do not fit, a target that is not whole numbers, a smoothing outside `[0, 1]`.
    /// Gradient: `(softmax(logits) - target) grad_out`.
    /// Source: label smoothing after Szegedy et al., "Rethinking the Inception Architecture", 2015.
    #[track_caller]
    pub fn cross_entropy(&mut self, logits: Tensor, target: Tensor, label_smoothing: f64) -> Tensor {
        let (shape, target_ty) = (self.shape(logits).to_vec(), self.ty(target).clone());
        let Some((&classes, batch)) = shape.split_last() else {
            return self.fail("cross_entropy: wants logits as [batch.., classes], got []");
        };
        if target_ty.shape != batch || !target_ty.dtype.is_integer() {
            return self.fail(format!("cross_entropy: wants target as i32{batch:?} for logits {shape:?}, got {target_ty}"));
        }
        if !(0.0..=1.0).contains(&label_smoothing) {
            return self.fail(format!("cross_entropy: wants a label smoothing within 0..=1, got {label_smoothing}"));
        }
        let axis = batch.len();
        self.function("cross_entropy", json!({"label_smoothing": label_smoothing}), &[logits, target], |g, inputs| {
            let log_probability = g.log_softmax(inputs[0], axis); // [batch.., classes]
            // A row of the mask has one true element, or none for a target out of range. No gather: its gradient would be a scatter.
            let hot = g.is_class(inputs[1], classes); // [batch.., classes]
            let zero = g.full_like(log_probability, 0.0);
            let picked = g.select(hot, log_probability, zero);
            let picked = g.sum(picked, &[axis]); // [batch..]
            let loss = g.neg(picked);
            if label_smoothing == 0.0 {
                return loss;
            }
            let sharp = g.scale(loss, 1.0 - label_smoothing);
            let even = g.mean(log_probability, &[axis]);
            let even = g.scale(even, -label_smoothing);
            let mixed = g.add(sharp, even);
            let counts = g.is_counted(inputs[1], classes);
            let nothing = g.full_like(mixed, 0.0);
            g.select(counts, mixed, nothing)
        })
    }

    /// Mean of [`Graph::cross_entropy`] over the targets within `0..classes`: a scalar; 0 when there is none.
    #[track_caller]
    pub fn cross_entropy_mean(&mut self, logits: Tensor, target: Tensor, label_smoothing: f64) -> Tensor {
        let classes = self.shape(logits).last().copied().unwrap_or(0);
        let loss = self.cross_entropy(logits, target, label_smoothing);
        if self.check().is_err() {
            return loss;
        }
        let counts = self.is_counted(target, classes);
        let counts = self.convert(counts, DType::F32);
        let (sum, count) = (self.sum_all(loss), self.sum_all(counts));
        let one = self.constant(1.0);
        let count = self.maximum(count, one);
        self.div(sum, count)
    }

    /// Cross-entropy with a distribution as the target: `-sum(target log softmax(logits))`, one value a sample.
    ///
    /// Shapes: logits and target `[batch.., classes] -> [batch..]`. Errors: shapes that differ.
    #[track_caller]
    pub fn cross_entropy_soft(&mut self, logits: Tensor, target: Tensor) -> Tensor {
        if !self.same_shape("cross_entropy_soft", "logits", logits, target) {
            return logits;
        }
        if self.shape(logits).is_empty() {
            return self.fail("cross_entropy_soft: wants logits as [batch.., classes], got []");
        }
        let axis = self.shape(logits).len() - 1;
        let log_probability = self.log_softmax(logits, axis);
        let product = self.mul(target, log_probability);
        let sum = self.sum(product, &[axis]);
        self.neg(sum)
    }

    /// Mean square difference of each sample.
    ///
    /// Shapes: both `[batch, ..] -> [batch]`; `[] -> []`. Errors: shapes that differ. Gradient: `2 (prediction - target) / n`.
    #[track_caller]
    pub fn mse(&mut self, prediction: Tensor, target: Tensor) -> Tensor {
        if !self.same_shape("mse", "prediction", prediction, target) {
            return prediction;
        }
        let difference = self.sub(prediction, target);
        let square = self.square(difference);
        self.sample_mean(square)
    }

    /// Mean absolute difference of each sample.
    ///
    /// Shapes: both `[batch, ..] -> [batch]`; `[] -> []`. Errors: shapes that differ. Gradient: `sign(prediction - target) / n`, 0 at 0.
    #[track_caller]
    pub fn l1(&mut self, prediction: Tensor, target: Tensor) -> Tensor {
        if !self.same_shape("l1", "prediction", prediction, target) {
            return prediction;
        }
        let difference = self.sub(prediction, target);
        let distance = self.abs(difference);
        self.sample_mean(distance)
    }

    /// Mean over each sample of `d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`, with `d` the difference.
    ///
    /// Shapes: both `[batch, ..] -> [batch]`; `[] -> []`. Errors: shapes that differ, a `delta` that is not positive.
    /// Source: Huber, "Robust Estimation of a Location Parameter", 1964.
    #[track_caller]
    pub fn huber(&mut self, prediction: Tensor, target: Tensor, delta: f64) -> Tensor {
        if !self.same_shape("huber", "prediction", prediction, target) {
            return prediction;
        }
        if delta.is_nan() || delta <= 0.0 {
            return self.fail(format!("huber: wants a positive delta, got {delta}"));
        }
        let difference = self.sub(prediction, target);
        let distance = self.abs(difference);
        let is_near = self.compare_with(Compare::LessEqual, distance, delta);
        let square = self.square(difference);
        let near = self.scale(square, 0.5);
        let far = self.offset(distance, -0.5 * delta);
        let far = self.scale(far, delta);
        let loss = self.select(is_near, near, far);
        self.sample_mean(loss)
    }

    /// Mean over each sample of the cross-entropy of `sigmoid(logits)` and probabilities: `softplus(logits) - logits target`. Logits of any size are fine.
    ///
    /// Shapes: both `[batch, ..] -> [batch]`; `[] -> []`. Errors: shapes that differ. Gradient: `(sigmoid(logits) - target) / n`.
    #[track_caller]
    pub fn bce_with_logits(&mut self, logits: Tensor, target: Tensor) -> Tensor {
        if !self.same_shape("bce_with_logits", "logits", logits, target) {
            return logits;
        }
        let whole = self.softplus(logits);
        let product = self.mul(logits, target);
        let loss = self.sub(whole, product);
        self.sample_mean(loss)
    }

    /// True where a target is within `0..classes`.
    #[track_caller]
    fn is_counted(&mut self, target: Tensor, classes: usize) -> Tensor {
        let not_negative = self.compare_with(Compare::GreaterEqual, target, 0.0);
        let below = self.compare_with(Compare::Less, target, classes as f64);
        self.and(not_negative, below)
    }

    /// Mean over all axes but the first.
    #[track_caller]
    fn sample_mean(&mut self, x: Tensor) -> Tensor {
        let axes: Vec<usize> = (1..self.shape(x).len()).collect();
        if axes.is_empty() { x } else { self.mean(x, &axes) }
    }

    // No broadcasting here: [batch] against [batch, 1] would silently compare all with all.
    #[track_caller]
    fn same_shape(&mut self, function: &str, what: &str, a: Tensor, b: Tensor) -> bool {
        let same = self.ty(a) == self.ty(b);
        if !same {
            let (a, b) = (self.ty(a).clone(), self.ty(b).clone());
            self.fail(format!("{function}: wants {what} and target of one shape, got {what} {a}, target {b}"));
        }
        same
    }
}
