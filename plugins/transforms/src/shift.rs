//! Shifts by whole pixels.

use crate::{Images, whole_below};
use solstice_plugin_api::ir::{Compare, Literal};
use solstice_plugin_api::prelude::*;

/// Moves images by whole pixels, each sample by its own, up or down and left or right. This is what others call a random crop with padding.
#[config]
pub struct RandomShift {
    /// Pixels at most, along each axis; every distance up to it is as likely as any other, 0 included.
    #[schemars(range(min = 0, max = 65535))]
    pub pixels: u32,
    /// What comes in at the edge.
    pub fill: f64,
}

impl Default for RandomShift {
    fn default() -> Self {
        RandomShift { pixels: 2, fill: 0.0 }
    }
}

impl Transform for RandomShift {
    const ID: &'static str = "random-shift";

    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let images = Images::of(g, x, Self::ID)?;
        let axes = [images.height_axis(), images.width_axis()];
        let [height, width] = axes.map(|axis| images.shape[axis]);
        if self.pixels as usize >= height.min(width) {
            return Err(Error::new(format!(
                "random-shift: `pixels` is {}, which can move an image of {height} x {width} out of sight; it must be below {}",
                self.pixels,
                height.min(width)
            )));
        }
        if self.pixels == 0 {
            return Ok(x);
        }
        let [(rows, is_row), (columns, is_column)] = axes.map(|axis| self.sources(g, &images, axis));
        let moved = g.gather(x, rows, axes[0], 1);
        let moved = g.gather(moved, columns, axes[1], 1);
        let is_inside = g.and(is_row, is_column);
        let fill = g.full_like(x, self.fill);
        Ok(g.select(is_inside, moved, fill))
    }
}

impl RandomShift {
    /// Where each row (column) along `axis` comes from, i32 `[batch, n]`, and whether there is one, in a shape that stretches to the images.
    fn sources(&self, g: &mut Graph, images: &Images, axis: usize) -> (Tensor, Tensor) {
        let (batch, size) = (images.batch(), images.shape[axis]);
        let distances = 2.0 * f64::from(self.pixels) + 1.0;
        let distances = g.literal(Literal::splat(TensorType::new(DType::U32, [batch]), distances));
        let distance = whole_below(g, batch, distances);
        let distance = g.convert(distance, DType::I32);
        let distance = g.offset(distance, -f64::from(self.pixels)); // -pixels ..= pixels
        let distance = g.reshape(distance, &[batch, 1]);
        let place = g.iota(DType::I32, &[batch, size], 1);
        let source = g.sub(place, distance);
        let is_after_start = g.compare_with(Compare::GreaterEqual, source, 0.0);
        let is_before_end = g.compare_with(Compare::Less, source, size as f64);
        let is_inside = g.and(is_after_start, is_before_end);
        // The gather clamps what lies outside.
        (source, images.spread(g, is_inside, Some(axis)))
    }
}
