//! `ReduceWindow` and `SelectAndScatter`.
//!
//! Axes that the window leaves alone and that come first are planes, spread over threads; a window over the last two axes has loops of its own, any other
//! is walked index by index.

use super::CpuKernel;
use super::math::{maximum, minimum};
use super::memory::Units;
use crate::kernel::KernelOp;
use rayon::prelude::*;
use solstice_ir::{ReduceKind, Window, element_count, strides_of};

/// Input elements of a task.
const TASK_ELEMENTS: usize = 1 << 14;

pub(super) struct WindowKernel {
    kind: ReduceKind,
    /// Number of planes that stand apart.
    planes: usize,
    /// Sizes of one plane of x and of the windows, axis by axis.
    x_sizes: Vec<usize>,
    window_sizes: Vec<usize>,
    window: Window,
    x: usize,
    /// Gradient of the windows of a `SelectAndScatter`.
    grad: Option<usize>,
    to: usize,
}

impl WindowKernel {
    pub(super) fn new(op: &KernelOp, unit_of: &[usize]) -> WindowKernel {
        let (kind, window, x_shape, windows_shape, x, grad, to) = match op {
            KernelOp::ReduceWindow { kind, window, from_shape, to_shape, from, to } => (kind, window, from_shape, to_shape, from, None, to),
            KernelOp::SelectAndScatter { kind, window, x_shape, windows_shape, x, grad, to } => {
                (kind, window, x_shape, windows_shape, x, Some(grad), to)
            }
            _ => unreachable!("only windows come here"),
        };
        let is_left_alone =
            |axis: &usize| (window.size[*axis], window.strides[*axis], window.low[*axis], window.high[*axis]) == (1, 1, 0, 0);
        let leading = (0..x_shape.len()).take_while(is_left_alone).count();
        let cut = |values: &[usize]| values[leading..].to_vec();
        WindowKernel {
            kind: *kind,
            planes: element_count(&x_shape[..leading]),
            x_sizes: cut(x_shape),
            window_sizes: cut(windows_shape),
            window: Window { size: cut(&window.size), strides: cut(&window.strides), low: cut(&window.low), high: cut(&window.high) },
            x: unit_of[x.index()],
            grad: grad.map(|buffer| unit_of[buffer.index()]),
            to: unit_of[to.index()],
        }
    }

    /// Calls `at(window position, x position)` for every element of every window of a plane, windows in order, elements in order.
    fn for_each_element(&self, mut at: impl FnMut(usize, usize)) {
        let rank = self.x_sizes.len();
        let strides = strides_of(&self.x_sizes);
        let mut window_index = vec![0; rank];
        let mut inside = vec![0; rank];
        for position in 0..element_count(&self.window_sizes) {
            for _ in 0..element_count(&self.window.size) {
                let element = (0..rank).try_fold(0, |sum, axis| {
                    let place = (window_index[axis] * self.window.strides[axis] + inside[axis]).checked_sub(self.window.low[axis])?;
                    (place < self.x_sizes[axis]).then_some(sum + place * strides[axis])
                });
                if let Some(element) = element {
                    at(position, element);
                }
                advance(&mut inside, &self.window.size);
            }
            advance(&mut window_index, &self.window_sizes);
        }
    }

    /// Rows and columns of x under a window of a two-axis plane.
    #[inline(always)]
    fn span(&self, axis: usize, place: usize) -> (usize, usize) {
        let start = place * self.window.strides[axis];
        let end = (start + self.window.size[axis]).saturating_sub(self.window.low[axis]).min(self.x_sizes[axis]);
        (start.saturating_sub(self.window.low[axis]).min(end), end)
    }

    /// Rows and columns are paired without overlap or padding, as in the usual pooling.
    fn is_pairs(&self) -> bool {
        self.window.size == [2, 2] && self.window.strides == [2, 2] && self.window.low == [0, 0] && self.window.high == [0, 0]
    }

    fn reduce_plane(&self, x: &[f32], out: &mut [f32]) {
        let (identity, combine): (f32, fn(f32, f32) -> f32) = match self.kind {
            ReduceKind::Max => (f32::NEG_INFINITY, maximum),
            ReduceKind::Min => (f32::INFINITY, minimum),
            _ => (0.0, |x, y| x + y),
        };
        let [_, width] = self.x_sizes[..] else {
            out.fill(identity);
            self.for_each_element(|position, element| out[position] = combine(out[position], x[element]));
            return;
        };
        let is_pairs = self.is_pairs() && self.kind == ReduceKind::Max;
        for (row, out) in out.chunks_mut(self.window_sizes[1]).enumerate() {
            if is_pairs {
                let (top, bottom) = x[2 * row * width..][..2 * width].split_at(width);
                pulp::Arch::new().dispatch(PairsMaximum { top, bottom, out });
                continue;
            }
            let (top, bottom) = self.span(0, row);
            for (column, out) in out.iter_mut().enumerate() {
                let (left, right) = self.span(1, column);
                let mut value = identity;
                for row in top..bottom {
                    value = x[row * width + left..row * width + right].iter().fold(value, |value, &x| combine(value, x));
                }
                *out = value;
            }
        }
    }

    fn scatter_plane(&self, x: &[f32], grad: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        let is_max = self.kind == ReduceKind::Max;
        // The first NaN is selected over all numbers.
        let is_better = |new: f32, best: f32| (if is_max { new > best } else { new < best }) || (new.is_nan() && !best.is_nan());
        let [_, width] = self.x_sizes[..] else {
            let mut best: Vec<Option<usize>> = vec![None; grad.len()];
            self.for_each_element(|position, element| {
                if best[position].is_none_or(|best| is_better(x[element], x[best])) {
                    best[position] = Some(element);
                }
            });
            best.iter().zip(grad).filter_map(|(best, grad)| Some(((*best)?, grad))).for_each(|(best, grad)| out[best] += grad);
            return;
        };
        if self.is_pairs() && is_max {
            for ((row, grad), out) in grad.chunks(self.window_sizes[1]).enumerate().zip(out.chunks_mut(2 * width)) {
                let (top, bottom) = x[2 * row * width..][..2 * width].split_at(width);
                let (out_top, out_bottom) = out.split_at_mut(width);
                pulp::Arch::new().dispatch(PairsGradient { top, bottom, grad, out_top, out_bottom });
            }
            return;
        }
        for (row, grad) in grad.chunks(self.window_sizes[1]).enumerate() {
            let (top, bottom) = self.span(0, row);
            for (column, grad) in grad.iter().enumerate() {
                let (left, right) = self.span(1, column);
                if top == bottom || left == right {
                    continue;
                }
                let mut best = top * width + left;
                for row in top..bottom {
                    for element in row * width + left..row * width + right {
                        best = if is_better(x[element], x[best]) { element } else { best };
                    }
                }
                out[best] += grad;
            }
        }
    }
}

/// Largest of each 2 by 2 window of two rows.
struct PairsMaximum<'a> {
    top: &'a [f32],
    bottom: &'a [f32],
    out: &'a mut [f32],
}

impl pulp::WithSimd for PairsMaximum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for ((out, top), bottom) in self.out.iter_mut().zip(self.top.chunks_exact(2)).zip(self.bottom.chunks_exact(2)) {
            *out = maximum(maximum(top[0], top[1]), maximum(bottom[0], bottom[1]));
        }
    }
}

/// The gradient of each 2 by 2 window goes to its first largest element; all four are written, without a branch.
struct PairsGradient<'a> {
    top: &'a [f32],
    bottom: &'a [f32],
    grad: &'a [f32],
    out_top: &'a mut [f32],
    out_bottom: &'a mut [f32],
}

impl pulp::WithSimd for PairsGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let rows = self.top.chunks_exact(2).zip(self.bottom.chunks_exact(2));
        let outs = self.out_top.chunks_exact_mut(2).zip(self.out_bottom.chunks_exact_mut(2));
        for (((top, bottom), &grad), (out_top, out_bottom)) in rows.zip(self.grad).zip(outs) {
            let is_better = |new: f32, best: f32| (new > best) | (new.is_nan() & !best.is_nan());
            let (right, lower_right) = (is_better(top[1], top[0]), is_better(bottom[1], bottom[0]));
            let upper = if right { top[1] } else { top[0] };
            let lower = if lower_right { bottom[1] } else { bottom[0] };
            let below = is_better(lower, upper);
            out_top[0] = if !below & !right { grad } else { 0.0 };
            out_top[1] = if !below & right { grad } else { 0.0 };
            out_bottom[0] = if below & !lower_right { grad } else { 0.0 };
            out_bottom[1] = if below & lower_right { grad } else { 0.0 };
        }
    }
}

impl CpuKernel for WindowKernel {
    fn run(&self, units: &mut Units) {
        let (x_plane, windows_plane) = (element_count(&self.x_sizes), element_count(&self.window_sizes));
        let at_once = (TASK_ELEMENTS / x_plane.max(1)).max(1);
        units.with_written(self.to, |units, words| {
            let x = &units.get(self.x).floats()[..self.planes * x_plane];
            match self.grad {
                None => {
                    let out = &mut words.floats_mut()[..self.planes * windows_plane];
                    if out.is_empty() {
                        return;
                    }
                    // x may be empty where the windows lie in the padding.
                    let plane = |index: usize| &x[index * x_plane..(index + 1) * x_plane];
                    out.par_chunks_mut(windows_plane)
                        .enumerate()
                        .with_min_len(at_once)
                        .for_each(|(index, out)| self.reduce_plane(plane(index), out));
                }
                Some(grad) => {
                    let grad = &units.get(grad).floats()[..self.planes * windows_plane];
                    let out = &mut words.floats_mut()[..self.planes * x_plane];
                    if out.is_empty() {
                        return;
                    }
                    let plane = |index: usize| &grad[index * windows_plane..(index + 1) * windows_plane];
                    let task = |(index, (out, x)): (usize, (&mut [f32], &[f32]))| self.scatter_plane(x, plane(index), out);
                    out.par_chunks_mut(x_plane).zip(x.par_chunks(x_plane)).enumerate().with_min_len(at_once).for_each(task);
                }
            }
        });
    }
}

fn advance(index: &mut [usize], sizes: &[usize]) {
    for axis in (0..index.len()).rev() {
        index[axis] += 1;
        if index[axis] < sizes[axis] {
            return;
        }
        index[axis] = 0;
    }
}
