//! Errors of a regression.

use crate::{count, inside, ratio, total};
use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;
use std::collections::BTreeMap;

/// Mean squared error, its root, mean absolute error and the coefficient of determination; several outputs weigh the same.
///
/// All but `r2` are in the units of the target as the experiment observes it: standard deviations where the data set standardises. The
/// total sum of squares comes from `sum((y - pivot)^2)` and `sum(y - pivot)`, which loses digits when the mean of `y - pivot` is far larger
/// than its deviation (about `2^-24 (mean / deviation)^2` of `r2`): set `pivot` near the mean of a target that is not standardised.
#[config]
#[derive(Default)]
pub struct Regression {
    /// Taken off the targets before their squares are added up.
    pub pivot: f64,
}

impl Metric for Regression {
    const ID: &'static str = "regression";

    fn update(&self, g: &mut Graph, observed: &Observed) -> Result<Vec<(String, Tensor)>> {
        g.check()?;
        let (prediction, target) = (observed.get("prediction")?, observed.get("target")?);
        if g.ty(prediction) != g.ty(target) || g.shape(target).is_empty() || !g.dtype(target).is_float() {
            let (prediction, target) = (g.ty(prediction), g.ty(target));
            return Err(Error::new(format!("wants prediction and target as f32 [batch, ..] of one shape, got {prediction} and {target}")));
        }
        let (batch, outputs) = (g.shape(target)[0], g.shape(target)[1..].iter().product());
        let prediction = g.reshape(prediction, &[batch, outputs]);
        let target = g.reshape(target, &[batch, outputs]);
        let rows = inside(g, observed, &[batch])?;
        let inside = inside(g, observed, &[batch, outputs])?;
        // Sum over the samples of each output. Padding may hold a NaN: it is selected away, not multiplied.
        let sum = |g: &mut Graph, x: Tensor| {
            let zero = g.full_like(x, 0.0);
            let kept = g.select(inside, x, zero);
            g.sum(kept, &[0]) // [outputs]
        };
        let error = g.sub(prediction, target);
        let square = g.square(error);
        let distance = g.abs(error);
        let moved = g.offset(target, -self.pivot);
        let moved_square = g.square(moved);
        Ok(vec![
            ("count".into(), count(g, rows)),
            ("square".into(), sum(g, square)),
            ("distance".into(), sum(g, distance)),
            ("target".into(), sum(g, moved)),
            ("target_square".into(), sum(g, moved_square)),
        ])
    }

    fn compute(&self, g: &mut Graph, accumulators: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        let count = total(g, accumulators, "count");
        let [square, distance, target, target_square] = ["square", "distance", "target", "target_square"].map(|name| accumulators[name]);
        let mean = |g: &mut Graph, sums: Tensor| {
            let means = ratio(g, sums, count);
            g.mean_all(means)
        };
        let mse = mean(g, square);
        let mae = mean(g, distance);
        let rmse = g.sqrt(mse);
        let r2 = {
            let target_mean = ratio(g, target, count);
            let of_mean = g.mul(target_mean, target);
            let total = g.sub(target_square, of_mean); // [outputs]
            // A constant target leaves nothing to explain.
            let varies = g.compare_with(Compare::Greater, total, 0.0);
            let one = g.full_like(total, 1.0);
            let divisor = g.select(varies, total, one);
            let unexplained = g.div(square, divisor);
            let explained = g.sub(one, unexplained);
            let zero = g.full_like(total, 0.0);
            let explained = g.select(varies, explained, zero);
            g.mean_all(explained)
        };
        Ok(vec![("mse".into(), mse), ("rmse".into(), rmse), ("mae".into(), mae), ("r2".into(), r2)])
    }
}
