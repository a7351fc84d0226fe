//! Figures of merit. Each adds integer counts or masked sums to accumulators on the device; scalars are worked out from them only when they
//! are logged.
//!
//! A class that does not occur, an empty split or a constant target gives 0, never a NaN.

mod accuracy;
mod auroc;
mod confusion;
mod perplexity;
mod regression;

pub use accuracy::Accuracy;
pub use auroc::Auroc;
pub use confusion::Confusion;
pub use perplexity::Perplexity;
pub use regression::Regression;

use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

export_plugin! { metrics: [Accuracy, Confusion, Regression, Perplexity, Auroc] }

/// Classified things of a batch, one a row: samples, or the tokens of all samples.
struct Rows {
    /// `[rows, classes]`.
    logits: Tensor,
    /// i32 `[rows]`.
    target: Tensor,
    /// bool `[rows]`: not padding, and the target is a class.
    counted: Tensor,
}

/// The observed `logits` `[batch, .., classes]` and `target` `[batch, ..]` as rows. A single logit `z` a row stands for the classes `[0,
/// z]`.
fn rows(g: &mut Graph, observed: &Observed) -> Result<Rows> {
    g.check()?;
    let (logits, target) = (observed.get("logits")?, observed.get("target")?);
    let shape = g.shape(logits).to_vec();
    if shape.len() < 2 || g.shape(target) != &shape[..shape.len() - 1] || !g.dtype(target).is_integer() {
        let (logits, target) = (g.ty(logits), g.ty(target));
        return Err(Error::new(format!(
            "wants logits [batch, .., classes] and whole numbers [batch, ..] as target, got {logits} and {target}"
        )));
    }
    let count: usize = shape[..shape.len() - 1].iter().product();
    let mut classes = shape[shape.len() - 1];
    let mut logits = g.reshape(logits, &[count, classes]);
    if classes == 1 {
        let zero = g.full_like(logits, 0.0);
        logits = g.concatenate(&[zero, logits], 1);
        classes = 2;
    }
    let inside = inside(g, observed, &shape[..shape.len() - 1])?;
    let inside = g.reshape(inside, &[count]);
    let target = g.reshape(target, &[count]);
    let target = g.convert(target, DType::I32);
    let not_negative = g.compare_with(Compare::GreaterEqual, target, 0.0);
    let below = g.compare_with(Compare::Less, target, classes as f64);
    let is_class = g.and(not_negative, below);
    let counted = g.and(inside, is_class);
    Ok(Rows { logits, target, counted })
}

/// True for what belongs to a sample, false for padding: bool of `shape`, whose first axis is the batch.
fn inside(g: &mut Graph, observed: &Observed, shape: &[usize]) -> Result<Tensor> {
    let mask = observed.mask()?;
    let inside = g.compare_with(Compare::Greater, mask, 0.0); // [batch]
    let mut aligned = vec![1; shape.len()];
    aligned[0] = shape[0];
    let inside = g.reshape(inside, &aligned);
    Ok(g.broadcast_to(inside, shape))
}

/// Number of true elements, i32.
fn count(g: &mut Graph, which: Tensor) -> Tensor {
    let ones = g.convert(which, DType::I32);
    g.sum_all(ones)
}

/// The accumulator `name` as f32.
fn total(g: &mut Graph, sums: &std::collections::BTreeMap<String, Tensor>, name: &str) -> Tensor {
    g.convert(sums[name], DType::F32)
}

/// `above / below`, 0 where `below` is 0. For counts: whatever is not 0 is 1 or more.
fn ratio(g: &mut Graph, above: Tensor, below: Tensor) -> Tensor {
    let one = g.constant(1.0);
    let divisor = g.maximum(below, one);
    g.div(above, divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Accumulators and scalars of a metric for observations of these types. What they come to is tried in the engine's tests
    /// (`golden_metrics.rs`).
    fn traced(metric: &impl Metric, observations: &[(&str, TensorType)]) -> Result<(Vec<String>, Vec<String>)> {
        let mut g = Graph::new("update", false);
        let mut observed = Observed::default();
        for (name, ty) in observations {
            observed.values.insert(name.to_string(), g.input(name, ty.clone()));
        }
        let increments = metric.update(&mut g, &observed)?;
        let types: Vec<TensorType> = increments.iter().map(|(_, value)| g.ty(*value).clone()).collect();
        for (name, value) in &increments {
            g.output(name, *value);
        }
        g.finish()?;
        let mut g = Graph::new("compute", false);
        let sums: BTreeMap<String, Tensor> =
            increments.iter().zip(types).map(|((name, _), ty)| (name.clone(), g.input(name, ty))).collect();
        let scalars = metric.compute(&mut g, &sums)?;
        for (name, value) in &scalars {
            let rank = if name == "confusion" { 2 } else { 0 };
            assert_eq!(g.shape(*value).len(), rank, "{name}");
            g.output(name, *value);
        }
        g.finish()?;
        let names = |list: Vec<(String, Tensor)>| list.into_iter().map(|(name, _)| name).collect();
        Ok((names(increments), names(scalars)))
    }

    fn classified(classes: usize) -> Vec<(&'static str, TensorType)> {
        vec![
            ("logits", TensorType::new(DType::F32, [8, classes])),
            ("target", TensorType::new(DType::I32, [8])),
            ("mask", TensorType::new(DType::F32, [8])),
        ]
    }

    #[test]
    fn one_matrix_serves_accuracy_precision_recall_and_f1() -> Result<()> {
        let (sums, scalars) = traced(&Confusion { per_class: true, ..Confusion::default() }, &classified(2))?;
        assert_eq!(sums, ["matrix"]);
        assert_eq!(scalars[..4], ["accuracy", "precision_macro", "recall_macro", "f1_macro"]);
        assert_eq!(scalars.len(), 7 + 3 * 2 + 1);
        Ok(())
    }

    #[test]
    fn tokens_count_like_samples() -> Result<()> {
        let observations = [
            ("logits", TensorType::new(DType::F32, [8, 16, 65])),
            ("target", TensorType::new(DType::I32, [8, 16])),
            ("mask", TensorType::new(DType::F32, [8])),
        ];
        assert_eq!(traced(&Perplexity::default(), &observations)?.1, ["perplexity"]);
        assert_eq!(traced(&Accuracy::default(), &observations)?.1, ["accuracy"]);
        assert_eq!(traced(&Accuracy { top_k: 5 }, &observations)?.1, ["top_5_accuracy"]);
        Ok(())
    }

    #[test]
    fn a_ranking_takes_scores_two_classes_or_many() -> Result<()> {
        let scores = [
            ("scores", TensorType::new(DType::F32, [8])),
            ("target", TensorType::new(DType::I32, [8])),
            ("mask", TensorType::new(DType::F32, [8])),
        ];
        for observations in [&scores[..], &classified(1), &classified(2), &classified(5)] {
            assert_eq!(traced(&Auroc { bins: 256 }, observations)?.1, ["auroc", "average_precision"]);
        }
        Ok(())
    }

    #[test]
    fn a_metric_without_its_observation_says_what_there_is() {
        let refused = traced(&Regression::default(), &classified(3));
        assert!(refused.is_err_and(|error| error.message.contains("logits, mask, target")));
    }
}
