//! Pooling: the largest or the mean of each window. Layout: batch, channels, space.

use crate::{Graph, Result, Tensor};
use solstice_ir::{ReduceKind, Window};

/// A pooling window over `N` spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool<const N: usize> {
    /// Size of the window.
    pub kernel: [usize; N],
    /// Step of the window; the size unless said.
    pub stride: [usize; N],
    /// Elements added on either side of each axis, at most half of the window; 0 unless said.
    pub padding: [usize; N],
}

/// A pooling window over `[batch, channels, length]`.
pub type Pool1d = Pool<1>;
/// A pooling window over `[batch, channels, height, width]`.
pub type Pool2d = Pool<2>;

impl<const N: usize> Pool<N> {
    /// Windows of `kernel` along every axis, side by side.
    pub fn new(kernel: usize) -> Self {
        Pool { kernel: [kernel; N], stride: [kernel; N], padding: [0; N] }
    }

    /// The same step along every axis.
    pub fn stride(self, stride: usize) -> Self {
        Pool { stride: [stride; N], ..self }
    }

    /// The same padding on every side.
    pub fn padding(self, padding: usize) -> Self {
        Pool { padding: [padding; N], ..self }
    }
}

/// A size alone: windows side by side.
impl<const N: usize> From<usize> for Pool<N> {
    fn from(kernel: usize) -> Self {
        Pool::new(kernel)
    }
}

impl Graph {
    /// Largest element of each window along one axis; see [`Graph::max_pool2d`]. Shapes: `[batch, channels, length] -> [batch, channels, length']`.
    #[track_caller]
    pub fn max_pool1d(&mut self, x: Tensor, pool: impl Into<Pool1d>) -> Result<Tensor> {
        let Pool { kernel, stride, padding } = pool.into();
        self.pool("max_pool1d", ReduceKind::Max, x, &kernel, &stride, &padding)
    }

    /// Largest element of each window: `g.max_pool2d(x, 2)`, or `g.max_pool2d(x, Pool2d::new(3).stride(2).padding(1))`.
    ///
    /// Shapes: `[batch, channels, h, w] -> [batch, channels, h', w']` with `h' = (h + 2 padding - kernel) / stride + 1`, rounded down. Padding never wins.
    /// Errors: another rank, a window that does not fit, a padding of more than half of the window.
    /// Gradient: to the first largest element of each window.
    #[track_caller]
    pub fn max_pool2d(&mut self, x: Tensor, pool: impl Into<Pool2d>) -> Result<Tensor> {
        let Pool { kernel, stride, padding } = pool.into();
        self.pool("max_pool2d", ReduceKind::Max, x, &kernel, &stride, &padding)
    }

    /// Mean of each window along one axis; see [`Graph::avg_pool2d`].
    #[track_caller]
    pub fn avg_pool1d(&mut self, x: Tensor, pool: impl Into<Pool1d>) -> Result<Tensor> {
        let Pool { kernel, stride, padding } = pool.into();
        self.pool("avg_pool1d", ReduceKind::Sum, x, &kernel, &stride, &padding)
    }

    /// Mean of each window. Padding counts as zeros (PyTorch's `count_include_pad`).
    ///
    /// Shapes, errors: as [`Graph::max_pool2d`]. Gradient: an equal share to each element of the window.
    #[track_caller]
    pub fn avg_pool2d(&mut self, x: Tensor, pool: impl Into<Pool2d>) -> Result<Tensor> {
        let Pool { kernel, stride, padding } = pool.into();
        self.pool("avg_pool2d", ReduceKind::Sum, x, &kernel, &stride, &padding)
    }

    /// Largest element of each window over as many spatial axes as `kernel` has entries; what [`Graph::max_pool2d`] is made of.
    ///
    /// Shapes: `[batch, channels, space..] -> [batch, channels, space'..]`. Errors: as [`Graph::max_pool2d`], and lists of different lengths.
    #[track_caller]
    pub fn max_pool(&mut self, x: Tensor, kernel: &[usize], stride: &[usize], padding: &[usize]) -> Result<Tensor> {
        self.pool("max_pool", ReduceKind::Max, x, kernel, stride, padding)
    }

    /// Mean of each window over as many spatial axes as `kernel` has entries; what [`Graph::avg_pool2d`] is made of.
    ///
    /// Shapes, errors: as [`Graph::max_pool`].
    #[track_caller]
    pub fn avg_pool(&mut self, x: Tensor, kernel: &[usize], stride: &[usize], padding: &[usize]) -> Result<Tensor> {
        self.pool("avg_pool", ReduceKind::Sum, x, kernel, stride, padding)
    }

    #[track_caller]
    fn pool(
        &mut self,
        function: &str,
        kind: ReduceKind,
        x: Tensor,
        kernel: &[usize],
        stride: &[usize],
        padding: &[usize],
    ) -> Result<Tensor> {
        self.check()?;
        let (shape, spatial) = (self.shape(x).to_vec(), kernel.len());
        if shape.len() != spatial + 2 || stride.len() != spatial || padding.len() != spatial {
            self.fail(format!(
                "{function}: wants x as [batch, channels, {spatial} spatial axes], got {shape:?} with stride {stride:?}, padding {padding:?}"
            ));
        } else if (0..spatial).any(|axis| padding[axis] > kernel[axis] / 2) {
            self.fail(format!("{function}: wants a padding of at most half of the window {kernel:?}, got {padding:?}"));
        } else if !(0..spatial).all(|axis| kernel[axis] > 0 && stride[axis] > 0 && shape[axis + 2] + 2 * padding[axis] >= kernel[axis]) {
            self.fail(format!(
                "{function}: wants a window that fits in x {shape:?}, got {kernel:?} with stride {stride:?}, padding {padding:?}"
            ));
        }
        self.check()?;
        let over_space = |first: usize, rest: &[usize]| [&[first, first], rest].concat();
        let window = Window {
            size: over_space(1, kernel),
            strides: over_space(1, stride),
            low: over_space(0, padding),
            high: over_space(0, padding),
        };
        let reduced = self.reduce_window(kind, x, window);
        let y = match kind {
            ReduceKind::Sum => self.scale(reduced, 1.0 / kernel.iter().product::<usize>() as f64),
            _ => reduced,
        };
        self.check().map(|()| y)
    }

    /// Mean over the length: `[batch, channels, length] -> [batch, channels]`. Errors: another rank.
    #[track_caller]
    pub fn global_avg_pool1d(&mut self, x: Tensor) -> Result<Tensor> {
        self.global_avg_pool("global_avg_pool1d", x, 1)
    }

    /// Mean over height and width: `[batch, channels, h, w] -> [batch, channels]`. Errors: another rank.
    #[track_caller]
    pub fn global_avg_pool2d(&mut self, x: Tensor) -> Result<Tensor> {
        self.global_avg_pool("global_avg_pool2d", x, 2)
    }

    #[track_caller]
    fn global_avg_pool(&mut self, function: &str, x: Tensor, spatial: usize) -> Result<Tensor> {
        self.check()?;
        let found = self.ty(x).clone();
        if found.rank() != spatial + 2 {
            self.fail(format!("{function}: wants x as [batch, channels, {spatial} spatial axes], got {found}"));
        }
        self.check()?;
        let axes: Vec<usize> = (2..spatial + 2).collect();
        let y = self.mean(x, &axes);
        self.check().map(|()| y)
    }
}
