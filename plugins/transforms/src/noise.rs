//! Noise.

use solstice_plugin_api::prelude::*;
use std::f64::consts::TAU;

/// Adds normal noise of mean 0 to every element of the input, whatever its shape.
#[config]
pub struct GaussianNoise {
    /// Standard deviation, in the units of the input; live.
    #[schemars(range(min = 0.0))]
    pub deviation: f64,
}

impl Default for GaussianNoise {
    fn default() -> Self {
        GaussianNoise { deviation: 0.1 }
    }
}

impl Transform for GaussianNoise {
    const ID: &'static str = "gaussian-noise";

    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        g.check()?;
        let shape = g.shape(x).to_vec();
        let deviation = g.live("deviation", self.deviation);
        let noise = normal(g, &shape);
        let noise = g.mul(noise, deviation);
        Ok(g.add(x, noise))
    }
}

/// Normal numbers of mean 0 and deviation 1. The largest is `sqrt(48 ln 2)`, 5.77: the uniform ones are on a grid of 2^-24.
///
/// Source: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
fn normal(g: &mut Graph, shape: &[usize]) -> Tensor {
    let (distance, turn) = (g.random_uniform(shape), g.random_uniform(shape));
    // Within (0, 1], so that the logarithm is finite.
    let negated = g.neg(distance);
    let distance = g.offset(negated, 1.0);
    let logarithm = g.log(distance);
    let square = g.scale(logarithm, -2.0);
    // A device's log(1) may lie just above 0.
    let zero = g.full_like(square, 0.0);
    let square = g.maximum(square, zero);
    let radius = g.sqrt(square);
    let angle = g.scale(turn, TAU);
    let cosine = g.cos(angle);
    g.mul(radius, cosine)
}
