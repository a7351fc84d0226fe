//! How well scores rank positives before negatives.

use crate::{inside, ratio, rows, total};
use solstice_plugin_api::ir::{Compare, Literal, ScatterMode};
use solstice_plugin_api::prelude::*;
use std::collections::BTreeMap;

/// Area under the ROC curve and average precision, from a histogram of scores.
///
/// Sees `scores` (f32 `[batch]`, in `[0, 1]`) and a `target` of 0 and 1, or else `logits`: one or two classes are a single ranking; with
/// more, each class is ranked against the rest and the figures are means over the classes that occur. A logit margin `m` (log odds of the
/// class) is binned as `(1 + m / (1 + |m|)) / 2`, which keeps apart what a probability would round to 1.
///
/// Within a bin positives and negatives count as ties. So the area is off by at most `sum(positives * negatives) / 2 / all positives / all
/// negatives`, the sum over bins; with `n` scores spread over the bins that is about `1 / (2 bins)`.
#[config]
pub struct Auroc {
    /// Bins of a histogram; rounded up to a multiple of 128. Two histograms of 32-bit counts a class are kept.
    #[schemars(range(min = 128, max = 1048576))]
    pub bins: u32,
}

impl Default for Auroc {
    fn default() -> Self {
        Auroc { bins: 16_384 }
    }
}

/// Bins of one row in the two-level running sum.
const ROW: usize = 128;

impl Metric for Auroc {
    const ID: &'static str = "auroc";

    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>> {
        let bins = self.bin_count();
        let (scores, is_positive, counted) = scores(g, observed)?; // [rows, rankings]
        let shape = g.shape(scores).to_vec();
        let scaled = g.scale(scores, bins as f64);
        let is_number = g.is_finite(scaled);
        let lowest = g.full_like(scaled, 0.0);
        let scaled = g.select(is_number, scaled, lowest); // a NaN ranks last
        let scaled = g.clamp(scaled, 0.0, (bins - 1) as f64);
        let bin = g.convert(scaled, DType::I32);
        // Cell of the histogram [class is positive, ranking, bin].
        let ranking = g.iota(DType::I32, &shape, 1);
        let side = g.convert(is_positive, DType::I32);
        let side_start = g.scale(side, (shape[1] * bins) as f64);
        let ranking_start = g.scale(ranking, bins as f64);
        let start = g.add(side_start, ranking_start);
        let cell = g.add(start, bin);
        let first = g.full_like(cell, 0.0);
        let cell = g.select(counted, cell, first);
        let ones = g.convert(counted, DType::I32);
        let flat = [shape[0] * shape[1]];
        let cell = g.reshape(cell, &flat);
        let ones = g.reshape(ones, &flat);
        let empty = g.literal(Literal::splat(TensorType::new(DType::I32, [2 * shape[1] * bins]), 0.0));
        let histogram = g.scatter(empty, cell, ones, 0, 0, ScatterMode::Add);
        Ok(vec![("histogram".into(), g.reshape(histogram, &[2, shape[1], bins]))])
    }

    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        let histogram = total(g, accumulators, "histogram");
        let shape = g.shape(histogram)[1..].to_vec(); // [rankings, bins]
        let side = |g: &mut Graph, index: usize| {
            let one = g.slice(histogram, 0, index, index + 1);
            g.reshape(one, &shape)
        };
        let negatives = side(g, 0);
        let positives = side(g, 1);
        let negative_count = g.sum(negatives, &[1]); // [rankings]
        let positive_count = g.sum(positives, &[1]);
        let per_bin = |g: &mut Graph, x: Tensor| g.expand_dims(x, 1);
        let positive_share = {
            let all = per_bin(g, positive_count);
            ratio(g, positives, all)
        };
        let negatives_from = sum_from(g, negatives); // this bin and those above it
        let positives_from = sum_from(g, positives);

        let area = {
            // Negatives below a positive's bin, and half of those in it.
            let all = per_bin(g, negative_count);
            let half = g.scale(negatives, 0.5);
            let not_below = g.sub(negatives_from, half);
            let below = g.sub(all, not_below);
            let below = ratio(g, below, all);
            let product = g.mul(positive_share, below);
            g.sum(product, &[1]) // [rankings]
        };
        let average_precision = {
            let found = g.add(positives_from, negatives_from);
            let precision = ratio(g, positives_from, found);
            let product = g.mul(positive_share, precision);
            g.sum(product, &[1])
        };
        let has_positives = g.compare_with(Compare::Greater, positive_count, 0.0);
        let has_negatives = g.compare_with(Compare::Greater, negative_count, 0.0);
        let has_both = g.and(has_positives, has_negatives);
        Ok(vec![
            ("auroc".into(), mean_where(g, has_both, area)),
            ("average_precision".into(), mean_where(g, has_positives, average_precision)),
        ])
    }
}

impl Auroc {
    fn bin_count(&self) -> usize {
        (self.bins as usize).max(1).next_multiple_of(ROW)
    }
}

/// Scores in `[0, 1]`, whether each is of a positive, and whether it counts: all `[rows, rankings]`.
fn scores(g: &mut Graph, observed: &Observed) -> Result<(Tensor, Tensor, Tensor)> {
    if let Ok(scores) = observed.get("scores") {
        let target = observed.get("target")?;
        g.check()?;
        if g.shape(scores).len() != 1 || g.shape(scores) != g.shape(target) || !g.dtype(target).is_integer() {
            let (scores, target) = (g.ty(scores), g.ty(target));
            return Err(Error::new(format!("wants scores f32 [batch] and target i32 [batch], got {scores} and {target}")));
        }
        let shape = [g.shape(scores)[0], 1];
        let counted = inside(g, observed, &shape)?;
        let target = g.reshape(target, &shape);
        let is_positive = g.compare_with(Compare::Greater, target, 0.0);
        return Ok((g.reshape(scores, &shape), is_positive, counted));
    }
    let rows = rows(g, observed)?;
    let &[count, classes] = g.shape(rows.logits) else { return Err(Error::new("logits in rows have two axes")) };
    let target = g.expand_dims(rows.target, 1); // [rows, 1]
    let (margin, is_positive) = if classes == 2 {
        let (negative, positive) = (g.slice(rows.logits, 1, 0, 1), g.slice(rows.logits, 1, 1, 2));
        (g.sub(positive, negative), g.compare_with(Compare::Equal, target, 1.0))
    } else {
        // Log odds of class c: its logit less the logarithm of the sum over all others. Cost: rows * classes^2.
        let all = g.expand_dims(rows.logits, 1); // [rows, 1, other]
        let class = g.iota(DType::I32, &[classes, classes], 0);
        let other = g.iota(DType::I32, &[classes, classes], 1);
        let is_own = g.compare(Compare::Equal, class, other);
        let nothing = g.constant(-1e30);
        let all = g.broadcast_to(all, &[count, classes, classes]);
        let others = g.select(is_own, nothing, all); // [rows, class, other]
        let rest = g.logsumexp(others, 2);
        let class = g.iota(DType::I32, &[count, classes], 1);
        (g.sub(rows.logits, rest), g.compare(Compare::Equal, target, class))
    };
    let distance = g.abs(margin);
    let divisor = g.offset(distance, 1.0);
    let bent = g.div(margin, divisor);
    let half = g.scale(bent, 0.5);
    let score = g.offset(half, 0.5);
    let shape = g.shape(score).to_vec();
    let counted = g.expand_dims(rows.counted, 1);
    Ok((score, is_positive, g.broadcast_to(counted, &shape)))
}

/// Sum of each bin and those after it, `[rankings, bins] -> [rankings, bins]`: within rows of 128 bins, then over the rows, each a product
/// with a triangle.
fn sum_from(g: &mut Graph, x: Tensor) -> Tensor {
    let (rankings, bins) = (g.shape(x)[0], g.shape(x)[1]);
    let row_count = bins / ROW;
    let x = g.reshape(x, &[rankings, row_count, ROW]);
    let triangle = |g: &mut Graph, size: usize, direction: Compare| {
        let from = g.iota(DType::I32, &[size, size], 0);
        let to = g.iota(DType::I32, &[size, size], 1);
        let reached = g.compare(direction, from, to);
        g.convert(reached, DType::F32)
    };
    let within = triangle(g, ROW, Compare::GreaterEqual);
    let within = g.matmul(x, within); // [rankings, row, 128]
    let row_sums = g.sum(x, &[2]); // [rankings, row]
    let later = triangle(g, row_count, Compare::Greater);
    let later = g.matmul(row_sums, later);
    let later = g.expand_dims(later, 2);
    let all = g.add(within, later);
    g.reshape(all, &[rankings, bins])
}

/// Mean of the elements of `x` where `which` is true; 0 when it is nowhere.
fn mean_where(g: &mut Graph, which: Tensor, x: Tensor) -> Tensor {
    let zero = g.full_like(x, 0.0);
    let kept = g.select(which, x, zero);
    let sum = g.sum_all(kept);
    let ones = g.convert(which, DType::F32);
    let count = g.sum_all(ones);
    ratio(g, sum, count)
}
