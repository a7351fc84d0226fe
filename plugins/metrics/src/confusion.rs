//! The confusion matrix and what follows from it.

use crate::{ratio, rows, total};
use solstice_plugin_api::ir::{Compare, Literal, ScatterMode};
use solstice_plugin_api::prelude::*;
use std::collections::BTreeMap;

/// Accuracy, precision, recall and F1 from one confusion matrix.
///
/// Averages go over the classes that occur as a target or as a guess; a ratio of nothing to nothing is 0. That is scikit-learn's
/// `precision_score(.., labels=seen, zero_division=0)`. The matrix itself (row: target, column: guess) is logged as `confusion` after each evaluation.
#[config]
pub struct Confusion {
    /// Means over classes.
    pub macro_average: bool,
    /// Means over classes, each as heavy as it is frequent.
    pub weighted_average: bool,
    /// The figures of every class: `f1_class_0`, ..
    pub per_class: bool,
}

impl Default for Confusion {
    fn default() -> Self {
        Confusion { macro_average: true, weighted_average: true, per_class: false }
    }
}

impl Metric for Confusion {
    const ID: &'static str = "confusion";

    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>> {
        let rows = rows(g, observed)?;
        let classes = g.shape(rows.logits)[1];
        let guess = g.argmax(rows.logits, 1); // [rows]
        let row_start = g.scale(rows.target, classes as f64);
        let cell = g.add(row_start, guess);
        let first = g.full_like(cell, 0.0);
        let cell = g.select(rows.counted, cell, first);
        let ones = g.convert(rows.counted, DType::I32);
        let empty = g.literal(Literal::splat(TensorType::new(DType::I32, [classes * classes]), 0.0));
        let matrix = g.scatter(empty, cell, ones, 0, 0, ScatterMode::Add);
        Ok(vec![("matrix".into(), g.reshape(matrix, &[classes, classes]))])
    }

    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        let matrix = total(g, accumulators, "matrix"); // [target, guess]
        let shape = g.shape(matrix).to_vec();
        let row = g.iota(DType::I32, &shape, 0);
        let column = g.iota(DType::I32, &shape, 1);
        let is_diagonal = g.compare(Compare::Equal, row, column);
        let zeros = g.full_like(matrix, 0.0);
        let diagonal = g.select(is_diagonal, matrix, zeros);
        let right = g.sum(diagonal, &[1]); // [classes], as all below
        let support = g.sum(matrix, &[1]);
        let guessed = g.sum(matrix, &[0]);
        let occurrences = g.add(support, guessed);
        let twice_right = g.scale(right, 2.0);
        let figures =
            [("precision", ratio(g, right, guessed)), ("recall", ratio(g, right, support)), ("f1", ratio(g, twice_right, occurrences))];

        let all = g.sum_all(matrix);
        let all_right = g.sum_all(right);
        let mut scalars = vec![("accuracy".to_owned(), ratio(g, all_right, all))];
        if self.macro_average {
            let is_seen = g.compare_with(Compare::Greater, occurrences, 0.0);
            let seen = g.convert(is_seen, DType::F32);
            let seen_count = g.sum_all(seen);
            for (name, figure) in figures {
                // A class that is not seen has 0 over 0, hence 0: it adds nothing.
                let sum = g.sum_all(figure);
                scalars.push((format!("{name}_macro"), ratio(g, sum, seen_count)));
            }
        }
        if self.weighted_average {
            for (name, figure) in figures {
                let heavy = g.mul(figure, support);
                let sum = g.sum_all(heavy);
                scalars.push((format!("{name}_weighted"), ratio(g, sum, all)));
            }
        }
        if self.per_class {
            for (name, figure) in figures {
                for class in 0..shape[0] {
                    let one = g.slice(figure, 0, class, class + 1);
                    scalars.push((format!("{name}_class_{class}"), g.reshape(one, &[])));
                }
            }
        }
        scalars.push(("confusion".to_owned(), matrix));
        Ok(scalars)
    }
}
