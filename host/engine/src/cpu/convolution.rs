//! `Convolution` in its three forms: taps unrolled into a matrix (im2col) and one product, or direct loops where each group has one input channel.
//!
//! With strides of 1 the columns keep the row length of the padded input: each tap is then one contiguous stretch of the input, and the few columns
//! between the end of an output row and the end of an input row are dropped from the product.
//!
//! Images are taken in chunks of at least [`COLUMNS`] output positions; chunks are spread over threads. The weight's gradient is summed over a number of
//! partial results that depends on the shapes alone, added in order.

use super::CpuKernel;
use super::gemm::{Matrix, Result as Product, multiply};
use super::memory::Units;
use crate::EngineError;
use crate::kernel::{ConvolutionForm, KernelOp};
use rayon::prelude::*;
use solstice_ir::element_count;
use std::cell::RefCell;
use std::ops::Range;

/// Output positions that make a product worth its packing.
const COLUMNS: usize = 256;

/// Elements of a column matrix that stay in the second-level cache beside the rest.
const PIECE_ELEMENTS: usize = 1 << 16;

/// Partial sums of a weight's gradient at most.
const PARTIALS_MAX: usize = 16;

pub(super) struct Convolution {
    form: ConvolutionForm,
    shape: Shape,
    first: usize,
    second: usize,
    to: usize,
}

/// Sizes, with one to three spatial axes filled up to three.
struct Shape {
    batch: usize,
    groups: usize,
    /// Channels of one group.
    channels: usize,
    /// Output channels of one group.
    outputs: usize,
    x: [usize; 3],
    kernel: [usize; 3],
    out: [usize; 3],
    strides: [usize; 3],
    low: [usize; 3],
    dilation: [usize; 3],
    wide: Option<Wide>,
}

/// Columns at the row length of the padded input.
struct Wide {
    /// Sizes of the input with its padding.
    padded: [usize; 3],
    /// Columns of an image.
    span: usize,
}

thread_local! {
    static PADDED_IMAGES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static COLUMN_MATRIX: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static OUTPUT_MATRIX: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// This thread's buffer, with at least `len` floats of any value.
fn with_buffer<R>(buffer: &'static std::thread::LocalKey<RefCell<Vec<f32>>>, len: usize, run: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut values = buffer.take();
    if values.len() < len {
        values.resize(len, 0.0);
    }
    let result = run(&mut values[..len]);
    buffer.set(values);
    result
}

impl Convolution {
    pub(super) fn new(op: &KernelOp, unit_of: &[usize]) -> Result<Convolution, EngineError> {
        let KernelOp::Convolution { form, geometry, x_shape, weight_shape, out_shape, from, to, .. } = op else {
            unreachable!("only convolutions come here")
        };
        if geometry.strides.len() > 3 {
            let message = format!("a convolution over {} spatial axes; this device has 1 to 3", geometry.strides.len());
            return Err(EngineError::Device { device: "CPU".into(), message });
        }
        let filled = |values: &[usize], filler: usize| {
            let mut result = [filler; 3];
            result[3 - values.len()..].copy_from_slice(values);
            result
        };
        let mut shape = Shape {
            batch: x_shape[0],
            groups: geometry.groups,
            channels: weight_shape[1],
            outputs: weight_shape[0] / geometry.groups,
            x: filled(&x_shape[2..], 1),
            kernel: filled(&weight_shape[2..], 1),
            out: filled(&out_shape[2..], 1),
            strides: filled(&geometry.strides, 1),
            low: filled(&geometry.low, 0),
            dilation: filled(&geometry.dilation, 1),
            wide: None,
        };
        shape.wide = shape.wide();
        let unit = |buffer: crate::kernel::BufferId| unit_of[buffer.index()];
        Ok(Convolution { form: *form, shape, first: unit(from[0]), second: unit(from[1]), to: unit(*to) })
    }
}

impl CpuKernel for Convolution {
    fn run(&self, units: &mut Units) {
        let shape = &self.shape;
        units.with_written(self.to, |units, words| {
            let (first, second) = (units.get(self.first).floats(), units.get(self.second).floats());
            let out = words.floats_mut();
            match self.form {
                ConvolutionForm::Forward => forward(shape, first, second, &mut out[..shape.batch * shape.out_image()]),
                ConvolutionForm::InputGrad => input_grad(shape, first, second, &mut out[..shape.batch * shape.x_image()]),
                ConvolutionForm::WeightGrad => weight_grad(shape, first, second, &mut out[..shape.weight_size()]),
            }
        });
    }
}

impl Shape {
    fn x_plane(&self) -> usize {
        element_count(&self.x)
    }

    fn out_plane(&self) -> usize {
        element_count(&self.out)
    }

    fn taps(&self) -> usize {
        element_count(&self.kernel)
    }

    fn x_image(&self) -> usize {
        self.groups * self.channels * self.x_plane()
    }

    fn out_image(&self) -> usize {
        self.groups * self.outputs * self.out_plane()
    }

    fn weight_size(&self) -> usize {
        self.groups * self.outputs * self.channels * self.taps()
    }

    /// Rows of the column matrix of one group.
    fn depth(&self) -> usize {
        self.channels * self.taps()
    }

    /// Wide columns, unless the columns to drop would be more than a third.
    fn wide(&self) -> Option<Wide> {
        if self.strides != [1; 3] || self.is_pointwise() || self.out_plane() == 0 || self.taps() == 0 {
            return None;
        }
        let padded: [usize; 3] = std::array::from_fn(|axis| self.out[axis] - 1 + (self.kernel[axis] - 1) * self.dilation[axis] + 1);
        let span = ((self.out[0] - 1) * padded[1] + self.out[1] - 1) * padded[2] + self.out[2];
        (span * 3 <= self.out_plane() * 4).then_some(Wide { padded, span })
    }

    /// Columns of an image.
    fn span(&self) -> usize {
        self.wide.as_ref().map_or_else(|| self.out_plane(), |wide| wide.span)
    }

    /// Calls `row(column, position, count)` for each row of an output plane whose columns are in `range`: where it stands among them and in the plane.
    fn for_each_out_row(&self, range: &Range<usize>, mut row: impl FnMut(usize, usize, usize)) {
        let Some(wide) = &self.wide else { return row(0, 0, self.out_plane()) };
        for d in 0..self.out[0] {
            for h in 0..self.out[1] {
                let column = (d * wide.padded[1] + h) * wide.padded[2];
                if range.contains(&column) {
                    row(column - range.start, (d * self.out[1] + h) * self.out[2], self.out[2]);
                }
            }
        }
    }

    /// Calls `row(padded position, x position, count)` for each row of an input plane that is inside the padded one.
    fn for_each_padded_row(&self, wide: &Wide, mut row: impl FnMut(usize, usize, usize)) {
        let count = |axis: usize| self.x[axis].min(wide.padded[axis].saturating_sub(self.low[axis]));
        for d in 0..count(0) {
            for h in 0..count(1) {
                let padded = ((d + self.low[0]) * wide.padded[1] + h + self.low[1]) * wide.padded[2] + self.low[2];
                row(padded, (d * self.x[1] + h) * self.x[2], count(2));
            }
        }
    }

    /// Where in the padded input each tap starts.
    fn for_each_shift(&self, wide: &Wide, mut tap: impl FnMut(usize, usize)) {
        let mut number = 0;
        for d in 0..self.kernel[0] {
            for h in 0..self.kernel[1] {
                for w in 0..self.kernel[2] {
                    let row = d * self.dilation[0] * wide.padded[1] + h * self.dilation[1];
                    tap(number, row * wide.padded[2] + w * self.dilation[2]);
                    number += 1;
                }
            }
        }
    }

    /// Images of a chunk.
    fn chunk(&self) -> usize {
        COLUMNS.div_ceil(self.out_plane().max(1)).clamp(1, self.batch.max(1))
    }

    /// The column matrix of an image is the image.
    fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.strides == [1; 3] && self.low == [0; 3] && self.x == self.out
    }

    /// Direct loops beat products with one channel to sum over.
    fn is_depthwise(&self) -> bool {
        self.channels == 1 && self.groups > 1
    }

    /// Calls `row(tap, out_start, x_start, count)` for each stretch of an output row and the elements of the input plane that a tap reads for it:
    /// `out_start + i` reads `x_start + i * strides[2]`. What reads padding is left out.
    #[inline(always)]
    fn rows(&self, mut row: impl FnMut(usize, usize, usize, usize)) {
        let within = |axis: usize, tap: usize, place: usize| {
            let at = (place * self.strides[axis] + tap * self.dilation[axis]).checked_sub(self.low[axis])?;
            (at < self.x[axis]).then_some(at)
        };
        let mut tap = 0;
        for tap_d in 0..self.kernel[0] {
            for tap_h in 0..self.kernel[1] {
                for tap_w in 0..self.kernel[2] {
                    let (start, end) = self.columns_within(tap_w);
                    if start < end {
                        let first = start * self.strides[2] + tap_w * self.dilation[2] - self.low[2];
                        for d in 0..self.out[0] {
                            let Some(x_d) = within(0, tap_d, d) else { continue };
                            for h in 0..self.out[1] {
                                let Some(x_h) = within(1, tap_h, h) else { continue };
                                let out_row = (d * self.out[1] + h) * self.out[2];
                                let x_row = (x_d * self.x[1] + x_h) * self.x[2];
                                row(tap, out_row + start, x_row + first, end - start);
                            }
                        }
                    }
                    tap += 1;
                }
            }
        }
    }

    /// Columns of the output for which a tap of the last axis is inside the input.
    fn columns_within(&self, tap: usize) -> (usize, usize) {
        let (stride, reach) = (self.strides[2], tap * self.dilation[2]);
        let start = self.low[2].saturating_sub(reach).div_ceil(stride);
        // place * stride + reach - low <= x - 1
        let end = (self.x[2] + self.low[2]).saturating_sub(reach).div_ceil(stride).min(self.out[2]);
        (start.min(end), end)
    }

    /// True when no tap ever reads padding.
    fn is_unpadded(&self) -> bool {
        (0..3).all(|axis| {
            let last = (self.out[axis].max(1) - 1) * self.strides[axis] + (self.kernel[axis].max(1) - 1) * self.dilation[axis];
            self.low[axis] == 0 && last < self.x[axis]
        })
    }

    /// Elements of a plane that `unroll` reads.
    fn padded_plane(&self) -> usize {
        self.wide.as_ref().map_or_else(|| self.x_plane(), |wide| element_count(&wide.padded))
    }

    /// Column ranges that are unrolled and multiplied at once: whole output rows, few enough to stay in the second-level cache.
    fn pieces(&self, images: usize) -> impl Iterator<Item = Range<usize>> {
        let span = self.span();
        let step = match &self.wide {
            Some(wide) if images == 1 => (PIECE_ELEMENTS / self.depth() / wide.padded[2]).max(1) * wide.padded[2],
            _ => span,
        };
        (0..span.div_ceil(step.max(1))).map(move |piece| piece * step..((piece + 1) * step).min(span))
    }

    /// Calls `run` with the planes of one group of a chunk of images, padded where `unroll` needs it, and the distance between images.
    fn with_padded<R>(&self, images: usize, x: &[f32], run: impl FnOnce(&[f32], usize) -> R) -> R {
        let Some(wide) = self.wide.as_ref().filter(|wide| wide.padded != self.x) else { return run(x, self.x_image()) };
        let (plane, x_plane) = (self.padded_plane(), self.x_plane());
        with_buffer(&PADDED_IMAGES, images * self.channels * plane, |padded| {
            padded.fill(0.0);
            for image in 0..images {
                for channel in 0..self.channels {
                    let from = &x[image * self.x_image() + channel * x_plane..][..x_plane];
                    let to = &mut padded[(image * self.channels + channel) * plane..][..plane];
                    self.for_each_padded_row(wide, |at, position, count| to[at..][..count].copy_from_slice(&from[position..][..count]));
                }
            }
            run(padded, self.channels * plane)
        })
    }

    /// As `with_padded`, for planes that `run` adds to; they start as 0 and end in `x`, which is 0.
    fn with_padded_sums(&self, images: usize, x: &mut [f32], run: impl FnOnce(&mut [f32], usize)) {
        let Some(wide) = self.wide.as_ref().filter(|wide| wide.padded != self.x) else { return run(x, self.x_image()) };
        let (plane, x_plane) = (self.padded_plane(), self.x_plane());
        with_buffer(&PADDED_IMAGES, images * self.channels * plane, |padded| {
            padded.fill(0.0);
            run(padded, self.channels * plane);
            for image in 0..images {
                for channel in 0..self.channels {
                    let to = &mut x[image * self.x_image() + channel * x_plane..][..x_plane];
                    let from = &padded[(image * self.channels + channel) * plane..][..plane];
                    self.for_each_padded_row(wide, |at, position, count| to[position..][..count].copy_from_slice(&from[at..][..count]));
                }
            }
        });
    }

    /// Writes columns `range` of one group of one image: row `channel * taps + tap`, rows `stride` apart.
    fn unroll(&self, x: &[f32], columns: &mut [f32], stride: usize, range: &Range<usize>) {
        let (x_plane, out_plane, taps) = (self.padded_plane(), self.out_plane(), self.taps());
        let padded = self.wide.is_none() && !self.is_unpadded();
        for channel in 0..self.channels {
            let x = &x[channel * x_plane..][..x_plane];
            let columns = &mut columns[channel * taps * stride..];
            if let Some(wide) = &self.wide {
                self.for_each_shift(wide, |tap, shift| {
                    columns[tap * stride..][..range.len()].copy_from_slice(&x[shift + range.start..shift + range.end])
                });
                continue;
            }
            if padded {
                (0..taps).for_each(|tap| columns[tap * stride..][..out_plane].fill(0.0));
            }
            let step = self.strides[2];
            self.rows(|tap, out_start, x_start, count| {
                let to = &mut columns[tap * stride + out_start..][..count];
                if step == 1 {
                    to.copy_from_slice(&x[x_start..][..count]);
                } else {
                    to.iter_mut().zip(x[x_start..].iter().step_by(step)).for_each(|(to, &from)| *to = from);
                }
            });
        }
    }

    /// The reverse of `unroll`: adds each column to the element that it was read from.
    fn roll_up(&self, columns: &[f32], stride: usize, x: &mut [f32], range: &Range<usize>) {
        let (x_plane, taps) = (self.padded_plane(), self.taps());
        for channel in 0..self.channels {
            let x = &mut x[channel * x_plane..][..x_plane];
            let columns = &columns[channel * taps * stride..];
            if let Some(wide) = &self.wide {
                self.for_each_shift(wide, |tap, shift| {
                    let to = &mut x[shift + range.start..shift + range.end];
                    to.iter_mut().zip(&columns[tap * stride..][..range.len()]).for_each(|(to, from)| *to += from);
                });
                continue;
            }
            let step = self.strides[2];
            self.rows(|tap, out_start, x_start, count| {
                let from = &columns[tap * stride + out_start..][..count];
                if step == 1 {
                    x[x_start..][..count].iter_mut().zip(from).for_each(|(to, from)| *to += from);
                } else {
                    x[x_start..].iter_mut().step_by(step).zip(from).for_each(|(to, from)| *to += from);
                }
            });
        }
    }

    /// Columns `range` of one group of a chunk's gradient, `[outputs][images][range]`; between the rows of wide columns stands 0.
    fn gather_grad(&self, images: usize, grad: &[f32], columns: &mut [f32], range: &Range<usize>) {
        let (length, plane) = (range.len(), self.out_plane());
        if self.wide.is_some() {
            columns.fill(0.0);
        }
        for output in 0..self.outputs {
            for image in 0..images {
                let from = &grad[image * self.out_image() + output * plane..][..plane];
                let to = &mut columns[(output * images + image) * length..][..length];
                self.for_each_out_row(range, |column, position, count| to[column..][..count].copy_from_slice(&from[position..][..count]));
            }
        }
    }

    /// The reverse of `gather_grad`, for a result.
    fn scatter_out(&self, images: usize, columns: &[f32], out: &mut [f32], range: &Range<usize>) {
        let (length, plane) = (range.len(), self.out_plane());
        for output in 0..self.outputs {
            for image in 0..images {
                let to = &mut out[image * self.out_image() + output * plane..][..plane];
                let from = &columns[(output * images + image) * length..][..length];
                self.for_each_out_row(range, |column, position, count| to[position..][..count].copy_from_slice(&from[column..][..count]));
            }
        }
    }
}

fn dense(data: &[f32], offset: usize, row_stride: usize) -> Matrix<'_> {
    Matrix { data, offset, row_stride: row_stride as isize, column_stride: 1 }
}

fn transposed(data: &[f32], offset: usize, row_stride: usize) -> Matrix<'_> {
    Matrix { data, offset, row_stride: 1, column_stride: row_stride as isize }
}

/// x, weight -> out.
fn forward(shape: &Shape, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let (x_image, out_image, plane, depth) = (shape.x_image(), shape.out_image(), shape.out_plane(), shape.depth());
    if out.is_empty() {
        return;
    }
    if shape.is_depthwise() {
        out.par_chunks_mut(out_image).zip(x.par_chunks(x_image)).for_each(|(out, x)| depthwise_forward(shape, x, weight, out));
        return;
    }
    let chunk = shape.chunk();
    let shared = shape.batch <= chunk;
    out.par_chunks_mut(chunk * out_image).enumerate().for_each(|(position, out)| {
        let images = out.len() / out_image;
        let x = &x[position * chunk * x_image..];
        let is_direct = images == 1 && shape.wide.is_none();
        for group in 0..shape.groups {
            let weight = dense(weight, group * shape.outputs * depth, depth);
            let (x, out) = (&x[group * shape.channels * shape.x_plane()..], &mut out[group * shape.outputs * plane..]);
            if is_direct && shape.is_pointwise() {
                let result = &mut out[..shape.outputs * plane];
                multiply(shape.outputs, plane, depth, result, Product::Replace, weight, dense(x, 0, plane), shared);
                continue;
            }
            shape.with_padded(images, x, |x, x_image| {
                for range in shape.pieces(images) {
                    let width = images * range.len();
                    with_buffer(&COLUMN_MATRIX, depth * width, |columns| {
                        for image in 0..images {
                            shape.unroll(&x[image * x_image..], &mut columns[image * range.len()..], width, &range);
                        }
                        let columns = dense(columns, 0, width);
                        if is_direct {
                            let result = &mut out[..shape.outputs * plane];
                            multiply(shape.outputs, width, depth, result, Product::Replace, weight, columns, shared);
                            return;
                        }
                        with_buffer(&OUTPUT_MATRIX, shape.outputs * width, |result| {
                            multiply(shape.outputs, width, depth, result, Product::Replace, weight, columns, shared);
                            shape.scatter_out(images, result, out, &range);
                        });
                    });
                }
            });
        }
    });
}

/// Gradient of out, weight -> gradient of x.
fn input_grad(shape: &Shape, grad: &[f32], weight: &[f32], out: &mut [f32]) {
    let (x_image, out_image, plane, depth) = (shape.x_image(), shape.out_image(), shape.out_plane(), shape.depth());
    out.fill(0.0);
    if out.is_empty() || grad.is_empty() {
        return;
    }
    if shape.is_depthwise() {
        out.par_chunks_mut(x_image).zip(grad.par_chunks(out_image)).for_each(|(x, grad)| depthwise_input_grad(shape, grad, weight, x));
        return;
    }
    let chunk = shape.chunk();
    let shared = shape.batch <= chunk;
    out.par_chunks_mut(chunk * x_image).enumerate().for_each(|(position, out)| {
        let images = out.len() / x_image;
        let grad = &grad[position * chunk * out_image..];
        let is_direct = images == 1 && shape.wide.is_none();
        for group in 0..shape.groups {
            let weight = transposed(weight, group * shape.outputs * depth, depth);
            let (x, grad) = (&mut out[group * shape.channels * shape.x_plane()..], &grad[group * shape.outputs * plane..]);
            if is_direct && shape.is_pointwise() {
                let result = &mut x[..depth * plane];
                multiply(depth, plane, shape.outputs, result, Product::Replace, weight, dense(grad, 0, plane), shared);
                continue;
            }
            shape.with_padded_sums(images, x, |x, x_image| {
                for range in shape.pieces(images) {
                    let width = images * range.len();
                    with_buffer(&COLUMN_MATRIX, depth * width, |columns| {
                        if is_direct {
                            multiply(depth, width, shape.outputs, columns, Product::Replace, weight, dense(grad, 0, plane), shared);
                        } else {
                            with_buffer(&OUTPUT_MATRIX, shape.outputs * width, |gathered| {
                                shape.gather_grad(images, grad, gathered, &range);
                                multiply(depth, width, shape.outputs, columns, Product::Replace, weight, dense(gathered, 0, width), shared);
                            });
                        }
                        for image in 0..images {
                            shape.roll_up(&columns[image * range.len()..], width, &mut x[image * x_image..], &range);
                        }
                    });
                }
            });
        }
    });
}

/// x, gradient of out -> gradient of weight.
fn weight_grad(shape: &Shape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    if out.is_empty() || grad.is_empty() {
        return;
    }
    let chunks = shape.batch.div_ceil(shape.chunk());
    let parts = chunks.min(PARTIALS_MAX);
    if parts == 1 {
        weight_grad_of_chunks(shape, x, grad, 0..chunks, out, true);
        return;
    }
    let mut partials = vec![0.0; parts * out.len()];
    partials.par_chunks_mut(out.len()).enumerate().for_each(|(part, partial)| {
        weight_grad_of_chunks(shape, x, grad, part * chunks / parts..(part + 1) * chunks / parts, partial, false);
    });
    for partial in partials.chunks(out.len()) {
        out.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
    }
}

/// Adds the part of a range of chunks to `out`, which starts as 0.
fn weight_grad_of_chunks(shape: &Shape, x: &[f32], grad: &[f32], chunks: Range<usize>, out: &mut [f32], shared: bool) {
    let (x_image, out_image, plane, depth) = (shape.x_image(), shape.out_image(), shape.out_plane(), shape.depth());
    for chunk in chunks {
        let first = chunk * shape.chunk();
        let images = shape.chunk().min(shape.batch - first);
        let (x, grad) = (&x[first * x_image..], &grad[first * out_image..]);
        if shape.is_depthwise() {
            (0..images).for_each(|image| depthwise_weight_grad(shape, &x[image * x_image..], &grad[image * out_image..], out));
            continue;
        }
        for group in 0..shape.groups {
            let result = &mut out[group * shape.outputs * depth..][..shape.outputs * depth];
            let (x, grad) = (&x[group * shape.channels * shape.x_plane()..], &grad[group * shape.outputs * plane..]);
            shape.with_padded(images, x, |x, x_image| {
                for range in shape.pieces(images) {
                    let width = images * range.len();
                    with_buffer(&COLUMN_MATRIX, depth * width, |columns| {
                        for image in 0..images {
                            shape.unroll(&x[image * x_image..], &mut columns[image * range.len()..], width, &range);
                        }
                        let columns = transposed(columns, 0, width);
                        if images == 1 && shape.wide.is_none() {
                            multiply(shape.outputs, depth, width, result, Product::AddTo, dense(grad, 0, plane), columns, shared);
                            return;
                        }
                        with_buffer(&OUTPUT_MATRIX, shape.outputs * width, |gathered| {
                            shape.gather_grad(images, grad, gathered, &range);
                            multiply(shape.outputs, depth, width, result, Product::AddTo, dense(gathered, 0, width), columns, shared);
                        });
                    });
                }
            });
        }
    }
}

fn depthwise_forward(shape: &Shape, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let (x_plane, plane, taps, step) = (shape.x_plane(), shape.out_plane(), shape.taps(), shape.strides[2]);
    for (output, out) in out.chunks_mut(plane).enumerate() {
        let x = &x[output / shape.outputs * x_plane..][..x_plane];
        let weight = &weight[output * taps..][..taps];
        out.fill(0.0);
        shape.rows(|tap, out_start, x_start, count| {
            let (out, scale) = (&mut out[out_start..][..count], weight[tap]);
            if step == 1 {
                out.iter_mut().zip(&x[x_start..][..count]).for_each(|(out, x)| *out += scale * x);
            } else {
                out.iter_mut().zip(x[x_start..].iter().step_by(step)).for_each(|(out, x)| *out += scale * x);
            }
        });
    }
}

fn depthwise_input_grad(shape: &Shape, grad: &[f32], weight: &[f32], out: &mut [f32]) {
    let (x_plane, plane, taps, step) = (shape.x_plane(), shape.out_plane(), shape.taps(), shape.strides[2]);
    for (output, grad) in grad.chunks(plane).enumerate() {
        let out = &mut out[output / shape.outputs * x_plane..][..x_plane];
        let weight = &weight[output * taps..][..taps];
        shape.rows(|tap, out_start, x_start, count| {
            let (grad, scale) = (&grad[out_start..][..count], weight[tap]);
            out[x_start..].iter_mut().step_by(step).zip(grad).for_each(|(out, grad)| *out += scale * grad);
        });
    }
}

fn depthwise_weight_grad(shape: &Shape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    let (x_plane, plane, taps, step) = (shape.x_plane(), shape.out_plane(), shape.taps(), shape.strides[2]);
    for (output, out) in out.chunks_mut(taps).enumerate() {
        let x = &x[output / shape.outputs * x_plane..][..x_plane];
        let grad = &grad[output * plane..][..plane];
        shape.rows(|tap, out_start, x_start, count| {
            let grad = &grad[out_start..][..count];
            out[tap] += x[x_start..].iter().step_by(step).zip(grad).map(|(x, grad)| x * grad).sum::<f32>();
        });
    }
}
