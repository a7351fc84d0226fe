//! Flips.

use crate::{Images, chosen};
use solstice_plugin_api::prelude::*;

/// Turns images round, each sample with a chance of its own: left to right, top to bottom, or both.
#[config]
pub struct RandomFlip {
    /// Chance of a flip, for each sample and each way; live.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub probability: f64,
    /// Left to right.
    pub horizontal: bool,
    /// Top to bottom.
    pub vertical: bool,
}

impl Default for RandomFlip {
    fn default() -> Self {
        RandomFlip { probability: 0.5, horizontal: true, vertical: false }
    }
}

impl Transform for RandomFlip {
    const ID: &'static str = "random-flip";

    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let images = Images::of(g, x, Self::ID)?;
        if !self.horizontal && !self.vertical {
            return Err(Error::new("random-flip: there is no way to turn; set `horizontal` or `vertical`, or leave it out"));
        }
        let probability = g.live("probability", self.probability);
        let mut y = x;
        for (is_wanted, axis) in [(self.horizontal, images.width_axis()), (self.vertical, images.height_axis())] {
            if is_wanted {
                let flipped = g.reverse(y, &[axis]);
                let flip = chosen(g, images.batch(), probability);
                let flip = images.spread(g, flip, None); // [batch, 1, ..]
                y = g.select(flip, flipped, y);
            }
        }
        Ok(y)
    }
}
