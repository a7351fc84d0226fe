//! Erased rectangles.

use crate::{Images, chosen, whole_below};
use solstice_plugin_api::ir::{Compare, Literal};
use solstice_plugin_api::prelude::*;

/// Paints over one rectangle of an image, each sample its own, all channels alike.
///
/// Height and width are drawn apart, between `size_min` and `size_max` of the image's, rounded to whole pixels, at least one; then a place where the
/// rectangle fits. Source: after DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, and Zhong et al., "Random
/// Erasing Data Augmentation", 2017, who draw area and aspect ratio.
#[config]
pub struct RandomErase {
    /// Chance of a sample to lose a rectangle; live.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub probability: f64,
    /// Smallest side of the rectangle, as a share of the image's.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub size_min: f64,
    /// Largest side of the rectangle, as a share of the image's.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub size_max: f64,
    /// What the rectangle is painted with.
    pub fill: f64,
}

impl Default for RandomErase {
    fn default() -> Self {
        RandomErase { probability: 0.5, size_min: 0.1, size_max: 0.4, fill: 0.0 }
    }
}

impl Transform for RandomErase {
    const ID: &'static str = "random-erase";

    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let images = Images::of(g, x, Self::ID)?;
        if self.size_min > self.size_max {
            return Err(Error::new(format!(
                "random-erase: `size_min` is {} and `size_max` is {}; the smallest side must not be above the largest",
                self.size_min, self.size_max
            )));
        }
        let probability = g.live("probability", self.probability);
        let erased = chosen(g, images.batch(), probability);
        let erased = images.spread(g, erased, None);
        let is_row = self.side(g, &images, images.height_axis());
        let is_column = self.side(g, &images, images.width_axis());
        let is_inside = g.and(is_row, is_column);
        let is_inside = g.and(is_inside, erased);
        let fill = g.full_like(x, self.fill);
        Ok(g.select(is_inside, fill, x))
    }
}

impl RandomErase {
    /// True for the rows (columns) along `axis` that the rectangle has, in a shape that stretches to the images.
    fn side(&self, g: &mut Graph, images: &Images, axis: usize) -> Tensor {
        let (batch, whole) = (images.batch(), images.shape[axis]);
        let pixels = |share: f64| (share * whole as f64).round().clamp(1.0, whole as f64);
        let (low, high) = (pixels(self.size_min), pixels(self.size_max));
        let mut every = |value: f64| g.literal(Literal::splat(TensorType::new(DType::U32, [batch]), value));
        let (lengths, places) = (every(high - low + 1.0), every(whole as f64 + 1.0));
        let length = whole_below(g, batch, lengths);
        let length = g.offset(length, low); // low ..= high
        let places = g.sub(places, length); // 1 ..
        let start = whole_below(g, batch, places);
        let end = g.add(start, length);
        let (start, end) = (g.reshape(start, &[batch, 1]), g.reshape(end, &[batch, 1]));
        let place = g.iota(DType::U32, &[batch, whole], 1);
        let is_after_start = g.compare(Compare::GreaterEqual, place, start);
        let is_before_end = g.compare(Compare::Less, place, end);
        let is_inside = g.and(is_after_start, is_before_end);
        images.spread(g, is_inside, Some(axis))
    }
}
