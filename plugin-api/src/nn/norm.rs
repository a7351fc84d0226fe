//! Normalisation layers.

use super::init;
use crate::{Graph, Result, Tensor};
use serde_json::json;
use solstice_ir::DType;

/// PyTorch's epsilon for layer, group and batch norm.
const EPSILON: f64 = 1e-5;
/// Llama's epsilon for RMS norm.
const RMS_EPSILON: f64 = 1e-6;
/// Share of the new batch in batch norm's running statistics, as PyTorch has it.
const MOMENTUM: f64 = 0.1;

/// A batch-normalised tensor and what it was normalised by.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormed {
    /// The result, in the shape of the input.
    pub y: Tensor,
    /// Mean of each channel, `[channels]`.
    pub mean: Tensor,
    /// Population variance of each channel, `[channels]`.
    pub variance: Tensor,
}

impl Graph {
    /// Layer norm over the last axis with the weights `{name}.weight` (ones) and `{name}.bias` (zeros), both `[width]`; epsilon 1e-5.
    ///
    /// Shapes: `[.., width] -> [.., width]`. Errors: an `x` without axes, or not f32. For several axes or another epsilon: [`Graph::layer_norm_with`].
    /// Source: Ba et al., "Layer Normalization", 2016.
    #[track_caller]
    pub fn layer_norm(&mut self, name: &str, x: Tensor) -> Result<Tensor> {
        self.layer_norm_layer(name, x, true)
    }

    /// [`Graph::layer_norm`] without `{name}.bias`.
    #[track_caller]
    pub fn layer_norm_no_bias(&mut self, name: &str, x: Tensor) -> Result<Tensor> {
        self.layer_norm_layer(name, x, false)
    }

    #[track_caller]
    fn layer_norm_layer(&mut self, name: &str, x: Tensor, has_bias: bool) -> Result<Tensor> {
        self.layer("layer_norm", name, |g| {
            let width = g.norm_width(x)?;
            let weight = g.param("weight", &[width], init::ones());
            let mut bias = None;
            if has_bias {
                bias = Some(g.param("bias", &[width], init::zeros()));
            }
            Ok(g.layer_norm_with(x, weight, bias, EPSILON))
        })
    }

    /// `(x - mean) / sqrt(variance + epsilon) weight + bias` over the trailing axes that `weight` has.
    ///
    /// Shapes: x `[.., a, b]`, weight and bias `[a, b]` (any number of trailing axes) `-> [.., a, b]`. Errors: weights that are not the tail of `x`.
    #[track_caller]
    pub fn layer_norm_with(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>, epsilon: f64) -> Tensor {
        let Some(axes) = self.trailing_axes("layer_norm", x, weight) else { return x };
        if let Some(bias) = bias.filter(|bias| self.shape(*bias) != self.shape(weight)) {
            let (wanted, found) = (self.shape(weight).to_vec(), self.ty(bias).clone());
            return self.fail(format!("layer_norm: wants bias in the shape of weight {wanted:?}, got {found}"));
        }
        let inputs: Vec<Tensor> = [x, weight].into_iter().chain(bias).collect();
        self.function("layer_norm", json!({"axes": axes.clone(), "epsilon": epsilon}), &inputs, |g, inputs| {
            let (normal, ..) = normalized(g, inputs[0], &axes, epsilon);
            let scaled = g.mul(normal, inputs[1]);
            match inputs.get(2) {
                Some(&bias) => g.add(scaled, bias),
                None => scaled,
            }
        })
    }

    /// RMS norm over the last axis with the weight `{name}.weight` `[width]` (ones); epsilon 1e-6.
    ///
    /// Shapes: `[.., width] -> [.., width]`. Errors: an `x` without axes, or not f32.
    /// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    #[track_caller]
    pub fn rms_norm(&mut self, name: &str, x: Tensor) -> Result<Tensor> {
        self.layer("rms_norm", name, |g| {
            let width = g.norm_width(x)?;
            let weight = g.param("weight", &[width], init::ones());
            Ok(g.rms_norm_with(x, weight, RMS_EPSILON))
        })
    }

    /// `x / sqrt(mean(x^2) + epsilon) weight` over the trailing axes that `weight` has.
    ///
    /// Shapes: x `[.., a, b]`, weight `[a, b]` (any number of trailing axes) `-> [.., a, b]`. Errors: a weight that is not the tail of `x`.
    #[track_caller]
    pub fn rms_norm_with(&mut self, x: Tensor, weight: Tensor, epsilon: f64) -> Tensor {
        let Some(axes) = self.trailing_axes("rms_norm", x, weight) else { return x };
        self.function("rms_norm", json!({"axes": axes.clone(), "epsilon": epsilon}), &[x, weight], |g, inputs| {
            let square = g.square(inputs[0]);
            let mean = g.mean(square, &axes);
            let mean = g.offset(mean, epsilon);
            let scale = g.rsqrt(mean);
            let scale = g.restore_axes(scale, &axes);
            let normal = g.mul(inputs[0], scale);
            g.mul(normal, inputs[1])
        })
    }

    /// Group norm with the weights `{name}.weight` (ones) and `{name}.bias` (zeros), both `[channels]`; epsilon 1e-5.
    ///
    /// Shapes: `[batch, channels, ..] -> [batch, channels, ..]`. Errors: fewer than two axes, groups that do not divide the channels.
    /// Source: Wu and He, "Group Normalization", 2018.
    #[track_caller]
    pub fn group_norm(&mut self, name: &str, x: Tensor, groups: usize) -> Result<Tensor> {
        self.layer("group_norm", name, |g| {
            let channels = g.norm_channels(x)?;
            let weight = g.param("weight", &[channels], init::ones());
            let bias = g.param("bias", &[channels], init::zeros());
            Ok(g.group_norm_with(x, weight, bias, groups, EPSILON))
        })
    }

    /// Normalisation of each sample over groups of neighbouring channels and all of space, then `weight` and `bias` `[channels]`.
    ///
    /// Shapes: `[batch, channels, ..] -> [batch, channels, ..]`. Errors: weights of another size, groups that do not divide the channels.
    #[track_caller]
    pub fn group_norm_with(&mut self, x: Tensor, weight: Tensor, bias: Tensor, groups: usize, epsilon: f64) -> Tensor {
        let shape = self.shape(x).to_vec();
        if !self.fits_channels("group_norm", x, &[("weight", weight), ("bias", bias)]) {
            return x;
        }
        if groups == 0 || !shape[1].is_multiple_of(groups) {
            return self.fail(format!("group_norm: wants groups that divide {} channels, got {groups}: x is {shape:?}", shape[1]));
        }
        self.function("group_norm", json!({"groups": groups, "epsilon": epsilon}), &[x, weight, bias], |g, inputs| {
            let size = shape[1] / groups * shape[2..].iter().product::<usize>();
            let grouped = g.reshape(inputs[0], &[shape[0], groups, size]);
            let (normal, ..) = normalized(g, grouped, &[2], epsilon);
            let normal = g.reshape(normal, &shape);
            scale_channels(g, normal, inputs[1], inputs[2])
        })
    }

    /// Batch norm with the weights `{name}.weight` (ones), `{name}.bias` (zeros) and the model state `{name}.running_mean` (zeros) and
    /// `{name}.running_var` (ones), all `[channels]`; epsilon 1e-5, momentum 0.1.
    ///
    /// While training, a batch is normalised by its own statistics and a tenth of them goes into the running ones (the variance with divisor `n - 1`,
    /// as PyTorch has it); otherwise the running ones are used. Padded rows of a ragged batch count like any other.
    ///
    /// Shapes: `[batch, channels, ..] -> [batch, channels, ..]`. Errors: fewer than two axes; while training, one value a channel.
    /// Source: Ioffe and Szegedy, "Batch Normalization", 2015.
    #[track_caller]
    pub fn batch_norm(&mut self, name: &str, x: Tensor) -> Result<Tensor> {
        self.layer("batch_norm", name, |g| {
            let channels = g.norm_channels(x)?;
            let weight = g.param("weight", &[channels], init::ones());
            let bias = g.param("bias", &[channels], init::zeros());
            let running_mean = g.model_state("running_mean", &[channels], init::zeros());
            let running_var = g.model_state("running_var", &[channels], init::ones());
            if !g.training() {
                return Ok(g.batch_norm_eval(x, weight, bias, running_mean, running_var, EPSILON));
            }
            let shape = g.shape(x).to_vec();
            let count = shape[0] * shape[2..].iter().product::<usize>();
            if count < 2 {
                return Ok(g.fail(format!("wants more than one value a channel while training, got {count}: x is {shape:?}")));
            }
            let BatchNormed { y, mean, variance } = g.batch_norm_train(x, weight, bias, EPSILON)?;
            let unbiased = g.scale(variance, count as f64 / (count as f64 - 1.0));
            for (running, batch) in [(running_mean, mean), (running_var, unbiased)] {
                let kept = g.scale(running, 1.0 - MOMENTUM);
                let new = g.scale(batch, MOMENTUM);
                let sum = g.add(kept, new);
                g.update(running, sum);
            }
            Ok(y)
        })
    }

    /// Normalisation of each channel by the statistics of the batch, then `weight` and `bias` `[channels]`.
    ///
    /// Shapes: `[batch, channels, ..] -> [batch, channels, ..]`. Errors: weights of another size. Gradient: through the statistics too.
    #[track_caller]
    pub fn batch_norm_train(&mut self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: f64) -> Result<BatchNormed> {
        self.check()?;
        if !self.fits_channels("batch_norm", x, &[("weight", weight), ("bias", bias)]) {
            return self.check().map(|()| BatchNormed { y: x, mean: x, variance: x });
        }
        let axes: Vec<usize> = (0..self.shape(x).len()).filter(|&axis| axis != 1).collect();
        let results = self.composite("batch_norm", json!({"epsilon": epsilon}), &[x, weight, bias], |g, inputs| {
            let (normal, mean, variance) = normalized(g, inputs[0], &axes, epsilon);
            Ok(vec![scale_channels(g, normal, inputs[1], inputs[2]), mean, variance])
        })?;
        Ok(BatchNormed { y: results[0], mean: results[1], variance: results[2] })
    }

    /// Normalisation of each channel by a given mean and variance, then `weight` and `bias`, all `[channels]`.
    ///
    /// Shapes: `[batch, channels, ..] -> [batch, channels, ..]`. Errors: vectors of another size.
    #[track_caller]
    pub fn batch_norm_eval(&mut self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: f64) -> Tensor {
        if !self.fits_channels("batch_norm", x, &[("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)]) {
            return x;
        }
        self.function("batch_norm_eval", json!({"epsilon": epsilon}), &[x, weight, bias, mean, variance], |g, inputs| {
            let shifted = g.offset(inputs[4], epsilon);
            let deviation = g.rsqrt(shifted);
            let scale = g.mul(inputs[1], deviation); // [channels]
            let moved = g.mul(inputs[3], scale);
            let offset = g.sub(inputs[2], moved); // [channels]
            scale_channels(g, inputs[0], scale, offset)
        })
    }

    /// Size of the last axis.
    #[track_caller]
    fn norm_width(&mut self, x: Tensor) -> Result<usize> {
        match self.ty(x).shape.last() {
            Some(&width) if self.dtype(x) == DType::F32 => Ok(width),
            _ => {
                let found = self.ty(x).clone();
                self.fail(format!("wants x as f32[.., width], got {found}"));
                self.check().map(|()| 0)
            }
        }
    }

    /// Size of axis 1.
    #[track_caller]
    fn norm_channels(&mut self, x: Tensor) -> Result<usize> {
        match self.ty(x).shape.get(1) {
            Some(&channels) if self.dtype(x) == DType::F32 => Ok(channels),
            _ => {
                let found = self.ty(x).clone();
                self.fail(format!("wants x as f32[batch, channels, ..], got {found}"));
                self.check().map(|()| 0)
            }
        }
    }

    /// The trailing axes of `x` whose sizes are those of `weight`.
    #[track_caller]
    fn trailing_axes(&mut self, function: &str, x: Tensor, weight: Tensor) -> Option<Vec<usize>> {
        let (shape, tail) = (self.shape(x).to_vec(), self.shape(weight).to_vec());
        if tail.is_empty() || !shape.ends_with(&tail) {
            self.fail(format!("{function}: wants weight in the shape of the last axes of x {shape:?}, got {tail:?}"));
            return None;
        }
        Some((shape.len() - tail.len()..shape.len()).collect())
    }

    /// True when `x` has channels and every vector is `[channels]`; otherwise an error is noted.
    #[track_caller]
    fn fits_channels(&mut self, function: &str, x: Tensor, vectors: &[(&str, Tensor)]) -> bool {
        let shape = self.shape(x).to_vec();
        if shape.len() < 2 {
            self.fail(format!("{function}: wants x as [batch, channels, ..], got {shape:?}"));
            return false;
        }
        for (what, vector) in vectors {
            if self.shape(*vector) != [shape[1]] {
                let found = self.ty(*vector).clone();
                self.fail(format!("{function}: wants {what} as [{}] for x {shape:?}, got {found}", shape[1]));
                return false;
            }
        }
        true
    }
}

/// `x` less its mean, over its standard deviation along `axes`; the mean and the population variance without those axes.
fn normalized(g: &mut Graph, x: Tensor, axes: &[usize], epsilon: f64) -> (Tensor, Tensor, Tensor) {
    let mean = g.mean(x, axes);
    let kept = g.restore_axes(mean, axes);
    let centred = g.sub(x, kept);
    let square = g.square(centred);
    let variance = g.mean(square, axes);
    let shifted = g.offset(variance, epsilon);
    let scale = g.rsqrt(shifted);
    let scale = g.restore_axes(scale, axes);
    (g.mul(centred, scale), mean, variance)
}

/// `x scale + offset` with vectors `[channels]`, whose size is already checked.
fn scale_channels(g: &mut Graph, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor {
    let shape = g.shape(x).to_vec();
    let spread = |g: &mut Graph, vector| g.push(solstice_ir::Op::BroadcastInDim { shape: shape.clone(), dims: vec![1] }, &[vector]);
    let (scale, offset) = (spread(g, scale), spread(g, offset));
    let scaled = g.mul(x, scale);
    g.add(scaled, offset)
}
