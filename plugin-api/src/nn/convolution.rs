//! Convolutions over one, two or three spatial axes, and transposed ones. Layout: batch, channels, space (NCHW), weights OIHW.

use super::init;
use crate::{Graph, Result, Tensor};
use solstice_ir::{ConvolutionGeometry, DType};

/// A convolution layer over `N` spatial axes. Fields that are not set by [`Conv::new`] change through the methods of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv<const N: usize> {
    /// Output channels.
    pub channels: usize,
    /// Size of the window.
    pub kernel: [usize; N],
    /// Step of the window; 1 unless said.
    pub stride: [usize; N],
    /// Zeros on either side of each axis; 0 unless said.
    pub padding: [usize; N],
    /// Distance between neighbouring weights; 1 unless said.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other; 1 unless said. As many as input channels is a depthwise convolution.
    pub groups: usize,
    /// Whether `{name}.bias` is added; true unless said.
    pub bias: bool,
}

/// Convolution over `[batch, channels, length]`.
pub type Conv1d = Conv<1>;
/// Convolution over `[batch, channels, height, width]`.
pub type Conv2d = Conv<2>;
/// Convolution over `[batch, channels, depth, height, width]`.
pub type Conv3d = Conv<3>;

impl<const N: usize> Conv<N> {
    /// `channels` outputs from a window of `kernel` along every axis.
    pub fn new(channels: usize, kernel: usize) -> Self {
        Conv { channels, kernel: [kernel; N], stride: [1; N], padding: [0; N], dilation: [1; N], groups: 1, bias: true }
    }

    /// The same step along every axis.
    pub fn stride(self, stride: usize) -> Self {
        Conv { stride: [stride; N], ..self }
    }

    /// The same padding on every side.
    pub fn padding(self, padding: usize) -> Self {
        Conv { padding: [padding; N], ..self }
    }

    /// The same dilation along every axis.
    pub fn dilation(self, dilation: usize) -> Self {
        Conv { dilation: [dilation; N], ..self }
    }

    /// Groups of channels.
    pub fn groups(self, groups: usize) -> Self {
        Conv { groups, ..self }
    }

    /// Whether a bias is added; one before a batch norm is lost work.
    pub fn bias(self, bias: bool) -> Self {
        Conv { bias, ..self }
    }

    /// Strides, padding, dilation and groups as the op has them.
    pub fn geometry(&self) -> ConvolutionGeometry {
        geometry(&self.stride, &self.padding, &self.dilation, self.groups)
    }
}

/// A transposed convolution layer over `N` spatial axes: the input gradient of a [`Conv`] with the same numbers. It makes maps larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTranspose<const N: usize> {
    /// Output channels.
    pub channels: usize,
    /// Size of the window.
    pub kernel: [usize; N],
    /// Factor by which the map grows; 1 unless said.
    pub stride: [usize; N],
    /// Elements cut from either side of the result; 0 unless said.
    pub padding: [usize; N],
    /// Elements added at the end of the result, fewer than the stride; 0 unless said.
    pub output_padding: [usize; N],
    /// Distance between neighbouring weights; 1 unless said.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other; 1 unless said.
    pub groups: usize,
    /// Whether `{name}.bias` is added; true unless said.
    pub bias: bool,
}

/// Transposed convolution over `[batch, channels, length]`.
pub type ConvTranspose1d = ConvTranspose<1>;
/// Transposed convolution over `[batch, channels, height, width]`.
pub type ConvTranspose2d = ConvTranspose<2>;

impl<const N: usize> ConvTranspose<N> {
    /// `channels` outputs through a window of `kernel` along every axis.
    pub fn new(channels: usize, kernel: usize) -> Self {
        let (ones, zeros) = ([1; N], [0; N]);
        ConvTranspose {
            channels,
            kernel: [kernel; N],
            stride: ones,
            padding: zeros,
            output_padding: zeros,
            dilation: ones,
            groups: 1,
            bias: true,
        }
    }

    /// The same growth along every axis.
    pub fn stride(self, stride: usize) -> Self {
        ConvTranspose { stride: [stride; N], ..self }
    }

    /// The same cut on every side.
    pub fn padding(self, padding: usize) -> Self {
        ConvTranspose { padding: [padding; N], ..self }
    }

    /// The same addition at the end of every axis.
    pub fn output_padding(self, output_padding: usize) -> Self {
        ConvTranspose { output_padding: [output_padding; N], ..self }
    }

    /// The same dilation along every axis.
    pub fn dilation(self, dilation: usize) -> Self {
        ConvTranspose { dilation: [dilation; N], ..self }
    }

    /// Groups of channels.
    pub fn groups(self, groups: usize) -> Self {
        ConvTranspose { groups, ..self }
    }

    /// Whether a bias is added.
    pub fn bias(self, bias: bool) -> Self {
        ConvTranspose { bias, ..self }
    }
}

fn geometry(stride: &[usize], padding: &[usize], dilation: &[usize], groups: usize) -> ConvolutionGeometry {
    ConvolutionGeometry { strides: stride.to_vec(), low: padding.to_vec(), high: padding.to_vec(), dilation: dilation.to_vec(), groups }
}

impl Graph {
    /// Convolution along one axis; see [`Graph::conv2d`]. Shapes: `[batch, in, length] -> [batch, out, length']`.
    #[track_caller]
    pub fn conv1d(&mut self, name: &str, x: Tensor, layer: Conv1d) -> Result<Tensor> {
        self.conv_layer("conv1d", name, x, &layer)
    }

    /// Convolution (cross-correlation) over two axes with the weights `{name}.weight` `[out, in / groups, kh, kw]` and `{name}.bias` `[out]`.
    ///
    /// Shapes: `[batch, in, h, w] -> [batch, out, h', w']` with `h' = (h + 2 padding - dilation (kh - 1) - 1) / stride + 1`, rounded down.
    /// Errors: another rank or type, groups that do not divide the channels, a window that does not fit, a stride or dilation of 0.
    /// Weights start uniform in `±1/sqrt(in / groups kh kw)`, PyTorch's default.
    #[track_caller]
    pub fn conv2d(&mut self, name: &str, x: Tensor, layer: Conv2d) -> Result<Tensor> {
        self.conv_layer("conv2d", name, x, &layer)
    }

    /// Convolution over three axes; see [`Graph::conv2d`].
    #[track_caller]
    pub fn conv3d(&mut self, name: &str, x: Tensor, layer: Conv3d) -> Result<Tensor> {
        self.conv_layer("conv3d", name, x, &layer)
    }

    #[track_caller]
    fn conv_layer<const N: usize>(&mut self, function: &str, name: &str, x: Tensor, layer: &Conv<N>) -> Result<Tensor> {
        self.layer(function, name, |g| {
            let channels = g.conv_channels(x, N, layer.channels, layer.groups)?;
            let mut shape = vec![layer.channels, channels / layer.groups];
            shape.extend(layer.kernel);
            let start = init::fan_in_uniform(init::fans(&shape).0);
            let weight = g.param("weight", &shape, start.clone());
            let y = g.convolution(x, weight, layer.geometry());
            Ok(g.conv_bias(y, layer.bias, start))
        })
    }

    /// Convolution with weights that are values: `weight` `[out, in / groups, kernel..]`, `bias` `[out]`.
    ///
    /// Shapes: `[batch, in, space..] -> [batch, out, space'..]`. Errors: as [`Graph::conv2d`].
    #[track_caller]
    pub fn conv_with(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>, geometry: ConvolutionGeometry) -> Tensor {
        let y = self.convolution(x, weight, geometry);
        self.add_channel_bias("conv", y, bias)
    }

    /// Transposed convolution along one axis; see [`Graph::conv_transpose2d`].
    #[track_caller]
    pub fn conv_transpose1d(&mut self, name: &str, x: Tensor, layer: ConvTranspose1d) -> Result<Tensor> {
        self.conv_transpose_layer("conv_transpose1d", name, x, &layer)
    }

    /// Transposed convolution over two axes with the weights `{name}.weight` `[in, out / groups, kh, kw]` and `{name}.bias` `[out]`.
    ///
    /// Shapes: `[batch, in, h, w] -> [batch, out, h', w']` with `h' = (h - 1) stride - 2 padding + dilation (kh - 1) + 1 + output_padding`.
    /// Errors: as [`Graph::conv2d`], and an output padding that is not below the stride.
    /// Weights start as PyTorch has them: uniform in `±1/sqrt(out / groups kh kw)`.
    #[track_caller]
    pub fn conv_transpose2d(&mut self, name: &str, x: Tensor, layer: ConvTranspose2d) -> Result<Tensor> {
        self.conv_transpose_layer("conv_transpose2d", name, x, &layer)
    }

    #[track_caller]
    fn conv_transpose_layer<const N: usize>(&mut self, function: &str, name: &str, x: Tensor, layer: &ConvTranspose<N>) -> Result<Tensor> {
        self.layer(function, name, |g| {
            let channels = g.conv_channels(x, N, layer.channels, layer.groups)?;
            let mut shape = vec![channels, layer.channels / layer.groups];
            shape.extend(layer.kernel);
            let start = init::fan_in_uniform(init::fans(&shape).0);
            let weight = g.param("weight", &shape, start.clone());
            let geometry = geometry(&layer.stride, &layer.padding, &layer.dilation, layer.groups);
            let y = g.conv_transpose_with(x, weight, None, geometry, &layer.output_padding);
            Ok(g.conv_bias(y, layer.bias, start))
        })
    }

    /// Transposed convolution with weights that are values: `weight` `[in, out / groups, kernel..]`, `bias` `[out]`; `geometry` is that of the
    /// convolution whose input gradient this is.
    ///
    /// Shapes: `[batch, in, space..] -> [batch, out, space'..]`, sizes as [`Graph::conv_transpose2d`] has them. Errors: as there.
    #[track_caller]
    pub fn conv_transpose_with(
        &mut self,
        x: Tensor,
        weight: Tensor,
        bias: Option<Tensor>,
        geometry: ConvolutionGeometry,
        output_padding: &[usize],
    ) -> Tensor {
        let spatial = geometry.strides.len();
        let (shape, weight_shape) = (self.shape(x).to_vec(), self.shape(weight).to_vec());
        let lengths =
            [&geometry.low[..], &geometry.high, &geometry.dilation, output_padding].iter().all(|entries| entries.len() == spatial);
        if !lengths || shape.len() != spatial + 2 || weight_shape.len() != spatial + 2 {
            return self.fail(format!(
                "conv_transpose: wants x [batch, in, space..] and weight [in, out / groups, kernel..] over {spatial} axes, got x {shape:?}, weight {weight_shape:?}"
            ));
        }
        let mut sizes = Vec::with_capacity(spatial);
        for axis in 0..spatial {
            let (input, kernel, stride) = (shape[axis + 2], weight_shape[axis + 2], geometry.strides[axis]);
            if output_padding[axis] >= stride.max(1) {
                return self.fail(format!(
                    "conv_transpose: the output padding {output_padding:?} must be below the strides {:?}",
                    geometry.strides
                ));
            }
            let whole = input.saturating_sub(1) * stride + geometry.dilation[axis] * kernel.saturating_sub(1) + 1 + output_padding[axis];
            match whole.checked_sub(geometry.low[axis] + geometry.high[axis]) {
                Some(size) if input > 0 && kernel > 0 => sizes.push(size),
                _ => {
                    let padding = &geometry.low;
                    return self.fail(format!(
                        "conv_transpose: nothing is left of x {shape:?} with weight {weight_shape:?} and padding {padding:?}"
                    ));
                }
            }
        }
        let y = self.convolution_transposed(x, weight, geometry, &sizes);
        self.add_channel_bias("conv_transpose", y, bias)
    }

    /// Channels of `x`, after a check of what the op could not say in the layer's words.
    #[track_caller]
    fn conv_channels(&mut self, x: Tensor, spatial: usize, out: usize, groups: usize) -> Result<usize> {
        let ty = self.ty(x).clone();
        if ty.rank() != spatial + 2 || ty.dtype != DType::F32 {
            self.fail(format!("wants x as f32[batch, channels, {spatial} spatial axes], got {ty}"));
        } else if groups == 0 || !ty.shape[1].is_multiple_of(groups) || !out.is_multiple_of(groups) {
            self.fail(format!("wants groups that divide {} input and {out} output channels, got {groups}", ty.shape[1]));
        }
        self.check().map(|()| ty.shape[1])
    }

    #[track_caller]
    fn conv_bias(&mut self, y: Tensor, has_bias: bool, start: solstice_ir::Init) -> Tensor {
        match (has_bias, self.shape(y).get(1).copied()) {
            (true, Some(channels)) => {
                let bias = self.param("bias", &[channels], start);
                self.add_channel_bias("conv", y, Some(bias))
            }
            _ => y,
        }
    }

    /// `y` `[batch, channels, space..]` plus `bias` `[channels]`.
    #[track_caller]
    pub(super) fn add_channel_bias(&mut self, function: &str, y: Tensor, bias: Option<Tensor>) -> Tensor {
        let Some(bias) = bias else { return y };
        match self.per_channel(function, "bias", bias, y) {
            Some(bias) => self.add(y, bias),
            None => y,
        }
    }

    /// `vector` `[channels]` in the shape of `like` `[batch, channels, space..]`; `None`, with an error noted, when it does not fit.
    #[track_caller]
    pub(super) fn per_channel(&mut self, function: &str, what: &str, vector: Tensor, like: Tensor) -> Option<Tensor> {
        let shape = self.shape(like).to_vec();
        if shape.len() < 2 || self.shape(vector) != [shape[1]] {
            let found = self.ty(vector).clone();
            self.fail(format!("{function}: wants {what} as [channels] for {shape:?}, got {found}"));
            return None;
        }
        Some(self.push(solstice_ir::Op::BroadcastInDim { shape, dims: vec![1] }, &[vector]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_ir::TensorType;

    fn graph(shape: &[usize]) -> (Graph, Tensor) {
        let mut g = Graph::new("test", true);
        let x = g.input("x", TensorType::new(DType::F32, shape));
        (g, x)
    }

    fn weights(g: &Graph) -> Vec<(String, Vec<usize>)> {
        g.params().iter().map(|(name, weight)| (name.clone(), g.shape(*weight).to_vec())).collect()
    }

    #[test]
    fn a_convolution_has_the_weights_and_the_size_of_pytorch() -> Result<()> {
        let (mut g, x) = graph(&[2, 4, 9, 11]);
        let layer = Conv2d { kernel: [3, 5], ..Conv2d::new(6, 3).stride(2).padding(1).groups(2) };
        let y = g.conv2d("c", x, layer)?;
        // (9 + 2 - 3) / 2 + 1 = 5; (11 + 2 - 5) / 2 + 1 = 5.
        assert_eq!(g.shape(y), [2, 6, 5, 5]);
        assert_eq!(weights(&g), [("c.weight".to_owned(), vec![6, 2, 3, 5]), ("c.bias".to_owned(), vec![6])]);
        g.finish().map(drop)
    }

    #[test]
    fn a_transposed_convolution_undoes_the_size_of_its_convolution() -> Result<()> {
        let (mut g, x) = graph(&[2, 3, 8, 8]);
        let small = g.conv2d("down", x, Conv2d::new(5, 3).stride(2).padding(1).bias(false))?;
        assert_eq!(g.shape(small), [2, 5, 4, 4]);
        let large = g.conv_transpose2d("up", small, ConvTranspose2d::new(3, 3).stride(2).padding(1).output_padding(1))?;
        assert_eq!(g.shape(large), [2, 3, 8, 8]);
        let wanted = [("down.weight", vec![5, 3, 3, 3]), ("up.weight", vec![5, 3, 3, 3]), ("up.bias", vec![3])];
        assert_eq!(weights(&g), wanted.map(|(name, shape)| (name.to_owned(), shape)));
        g.finish().map(drop)
    }

    #[test]
    fn errors_name_the_layer_and_the_line() {
        let (mut g, x) = graph(&[2, 3, 8]);
        let line = line!() + 1;
        let error = g.conv2d("c", x, Conv2d::new(5, 3)).expect_err("no image");
        assert_eq!(error.location, format!("{}:{line}", file!()));
        assert_eq!(error.message, "conv2d `c`: wants x as f32[batch, channels, 2 spatial axes], got f32[2,3,8]");

        let (mut g, x) = graph(&[2, 3, 2]);
        let line = line!() + 1;
        let error = g.conv1d("c", x, Conv1d::new(5, 3)).expect_err("too short");
        assert_eq!(error.location, format!("{}:{line}", file!()));
        assert_eq!(error.message, "conv1d `c`: convolution: a kernel of [3] does not fit in an input of [2] with padding [0]");

        let (mut g, x) = graph(&[2, 3, 4]);
        let error = g.conv1d("c", x, Conv1d::new(4, 3).groups(2)).expect_err("3 channels in 2 groups");
        assert_eq!(error.message, "conv1d `c`: wants groups that divide 3 input and 4 output channels, got 2");

        let (mut g, x) = graph(&[2, 3, 4]);
        let error = g.conv_transpose1d("c", x, ConvTranspose1d::new(4, 3).output_padding(1)).expect_err("1 is not below 1");
        assert!(error.message.starts_with("conv_transpose1d `c`: "), "{error}");
    }
}
