//! Augmentation: changes of the model's input that run on the device, in training steps only. One file a transform; what they share is here.
//!
//! Every sample draws for itself. Choices of whole pixels are made with whole numbers, so that every device makes the same ones.

mod erase;
mod flip;
mod noise;
mod shift;

pub use erase::RandomErase;
pub use flip::RandomFlip;
pub use noise::GaussianNoise;
pub use shift::RandomShift;

use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

export_plugin! { transforms: [RandomFlip, RandomShift, RandomErase, GaussianNoise] }

/// A batch of images: `[batch, channels, height, width]` or `[batch, height, width]`.
struct Images {
    shape: Vec<usize>,
}

impl Images {
    /// `x` as images, or an error that names the transform.
    #[track_caller]
    fn of(g: &Graph, x: Tensor, transform: &str) -> Result<Images> {
        g.check()?;
        let shape = g.shape(x).to_vec();
        if !matches!(shape.len(), 3 | 4) || shape.contains(&0) {
            return Err(Error::new(format!(
                "{transform}: wants images [batch, channels, height, width] or [batch, height, width], got {}",
                g.ty(x)
            )));
        }
        Ok(Images { shape })
    }

    fn batch(&self) -> usize {
        self.shape[0]
    }

    fn height_axis(&self) -> usize {
        self.shape.len() - 2
    }

    fn width_axis(&self) -> usize {
        self.shape.len() - 1
    }

    /// `values` of each sample, `[batch]`, or of each sample's rows or columns, `[batch, n]` with `axis`, in a shape that stretches to the images.
    fn spread(&self, g: &mut Graph, values: Tensor, axis: Option<usize>) -> Tensor {
        let mut shape = vec![1; self.shape.len()];
        shape[0] = self.batch();
        if let Some(axis) = axis {
            shape[axis] = self.shape[axis];
        }
        g.reshape(values, &shape)
    }
}

/// For each sample, true with the chance `probability` (f32 scalar): bool `[batch]`.
fn chosen(g: &mut Graph, batch: usize, probability: Tensor) -> Tensor {
    // In [0, 1): never below 0, always below 1.
    let draw = g.random_uniform(&[batch]);
    g.compare(Compare::Less, draw, probability)
}

/// For each sample a whole number below `count` (u32 `[batch]`, none 0), all alike: u32 `[batch]`.
fn whole_below(g: &mut Graph, batch: usize, count: Tensor) -> Tensor {
    // Of 2^32 words, each number has as many as any other or one more.
    let bits = g.random_bits(&[batch]);
    g.rem(bits, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{check_config, trace_transform};

    fn traced(transform: &impl Transform, shape: &[usize]) -> Result<()> {
        let ty = TensorType::new(DType::F32, shape);
        let graph = trace_transform(transform, ty.clone())?;
        let y = graph.output("y").expect("the output is called `y`");
        assert_eq!(*graph.ty(y), ty);
        Ok(())
    }

    fn refused(transform: &impl Transform, shape: &[usize]) -> String {
        traced(transform, shape).expect_err("the transform was to be refused").message
    }

    // What comes out of them is tried in the engine's tests (`transforms.rs`).
    #[test]
    fn every_transform_keeps_the_shape() -> Result<()> {
        for shape in [&[4, 3, 8, 6][..], &[5, 28, 28], &[1, 1, 3, 3]] {
            traced(&RandomFlip { vertical: true, ..RandomFlip::default() }, shape)?;
            traced(&RandomShift::default(), shape)?;
            traced(&RandomErase::default(), shape)?;
            traced(&GaussianNoise::default(), shape)?;
        }
        traced(&GaussianNoise::default(), &[4, 13])?;
        traced(&GaussianNoise::default(), &[4])
    }

    #[test]
    fn defaults_are_within_their_ranges() -> Result<()> {
        check_config::<RandomFlip>()?;
        check_config::<RandomShift>()?;
        check_config::<RandomErase>()?;
        check_config::<GaussianNoise>()
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for shape in [&[4, 13][..], &[4], &[4, 3, 2, 8, 6]] {
            for message in
                [refused(&RandomFlip::default(), shape), refused(&RandomShift::default(), shape), refused(&RandomErase::default(), shape)]
            {
                assert!(message.contains("wants images [batch, channels, height, width]"), "{message}");
            }
        }
    }

    #[test]
    fn settings_that_make_no_sense_together_are_refused() {
        let message = refused(&RandomFlip { horizontal: false, ..RandomFlip::default() }, &[4, 1, 8, 6]);
        assert!(message.contains("`horizontal`") && message.contains("`vertical`"), "{message}");
        let message = refused(&RandomShift { pixels: 6, ..RandomShift::default() }, &[4, 1, 8, 6]);
        assert!(message.contains("`pixels`") && message.contains("8 x 6"), "{message}");
        let message = refused(&RandomErase { size_min: 0.5, size_max: 0.25, ..RandomErase::default() }, &[4, 1, 8, 6]);
        assert!(message.contains("`size_min` is 0.5") && message.contains("`size_max` is 0.25"), "{message}");
    }
}
