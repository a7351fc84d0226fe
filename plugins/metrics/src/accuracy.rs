//! Share of right answers.

use crate::{count, ratio, rows, total};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;
use std::collections::BTreeMap;

/// Share of targets that are the likeliest class, or among the `top_k` likeliest. Of equal logits the lower class comes first.
#[config]
pub struct Accuracy {
    /// So many guesses are allowed; the scalar is then called `top_5_accuracy`.
    #[schemars(range(min = 1))]
    pub top_k: u32,
}

impl Default for Accuracy {
    fn default() -> Self {
        Accuracy { top_k: 1 }
    }
}

impl Metric for Accuracy {
    const ID: &'static str = "accuracy";

    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>> {
        let rows = rows(g, observed)?;
        let right = if self.top_k == 1 {
            let guess = g.argmax(rows.logits, 1);
            g.compare(Compare::Equal, guess, rows.target)
        } else {
            // Guesses in front of the target: those that are not below it, and of equals only the lower classes. A NaN is never below.
            let shape = g.shape(rows.logits).to_vec();
            let own = g.gather(rows.logits, rows.target, 1, 1); // [rows]
            let own = g.expand_dims(own, 1);
            let class = g.iota(DType::I32, &shape, 1);
            let target = g.expand_dims(rows.target, 1);
            let is_below = g.compare(Compare::Less, rows.logits, own);
            let is_equal = g.compare(Compare::Equal, rows.logits, own);
            let is_later = g.compare(Compare::GreaterEqual, class, target);
            let is_behind = g.and(is_equal, is_later);
            let is_after = g.or(is_below, is_behind); // [rows, classes]
            let is_before = g.not(is_after);
            let before = g.convert(is_before, DType::I32);
            let rank = g.sum(before, &[1]);
            g.compare_with(Compare::Less, rank, f64::from(self.top_k))
        };
        let right = g.and(right, rows.counted);
        Ok(vec![("correct".into(), count(g, right)), ("count".into(), count(g, rows.counted))])
    }

    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        let correct = total(g, accumulators, "correct");
        let count = total(g, accumulators, "count");
        let name = if self.top_k == 1 { "accuracy".into() } else { format!("top_{}_accuracy", self.top_k) };
        Ok(vec![(name, ratio(g, correct, count))])
    }
}
