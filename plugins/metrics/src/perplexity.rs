//! Perplexity.

use crate::{count, ratio, rows, total};
use solstice_plugin_api::prelude::*;
use std::collections::BTreeMap;

/// `e` to the mean cross-entropy of all tokens (not the mean over samples of each one's perplexity). Targets outside the vocabulary do not
/// count.
#[config]
#[derive(Default)]
pub struct Perplexity {}

impl Metric for Perplexity {
    const ID: &'static str = "perplexity";

    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>> {
        let rows = rows(g, observed)?;
        let loss = g.cross_entropy(rows.logits, rows.target, 0.0); // [rows]
        let zero = g.full_like(loss, 0.0);
        let loss = g.select(rows.counted, loss, zero);
        Ok(vec![("loss".into(), g.sum_all(loss)), ("count".into(), count(g, rows.counted))])
    }

    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        let loss = total(g, accumulators, "loss");
        let count = total(g, accumulators, "count");
        let mean = ratio(g, loss, count);
        Ok(vec![("perplexity".into(), g.exp(mean))])
    }
}
