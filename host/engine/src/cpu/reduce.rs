//! `Reduce`: a body evaluated in blocks and folded as it comes.
//!
//! The iteration space is walked in row-major order. A row (the innermost axis) is folded into one element of the result in sixteen lanes, or, where the
//! innermost axis is kept, added to a row of the result. The work is cut into tasks by shape alone: over leading kept axes, whose results are apart; else
//! over the elements of each result group, with one partial result a task, combined in order (sums in f64).

use super::CpuKernel;
use super::map::{BLOCK, Code, Operand, Scratch};
use super::memory::Units;
use crate::kernel::{KernelOp, Plan};
use bytemuck::Pod;
use rayon::prelude::*;
use solstice_ir::{DType, ReduceKind, element_count};
use std::ops::Range;

/// Elements of a task.
const TASK_ELEMENTS: usize = 1 << 15;

/// Partial results of one group at most.
const PARTIALS_MAX: usize = 64;

const LANES: usize = 16;

pub(super) struct Reduce {
    code: Code,
    value: usize,
    kind: ReduceKind,
    dtype: DType,
    /// Iteration space without axes of size 1; at least one axis.
    sizes: Vec<usize>,
    /// Stride of each axis in the result; 0 where it is reduced.
    out_strides: Vec<usize>,
    inner_is_reduced: bool,
    /// Groups of results that share no element, one after the other.
    groups: usize,
    group_elements: usize,
    group_results: usize,
    to: usize,
    to_offset: usize,
}

impl Reduce {
    pub(super) fn new(op: &KernelOp, plan: &Plan, unit_of: &[usize]) -> Reduce {
        let KernelOp::Reduce { shape, axes, kind, body, value, to, to_offset } = op else { unreachable!("only reductions come here") };
        let code = Code::new(shape, body, &[*value], plan, unit_of, &[]);
        let mut out_strides = vec![0; shape.len()];
        let mut results = 1;
        for axis in (0..shape.len()).rev().filter(|axis| !axes.contains(axis)) {
            out_strides[axis] = results;
            results *= shape[axis];
        }
        let (mut sizes, mut out_strides): (Vec<usize>, Vec<usize>) =
            shape.iter().copied().zip(out_strides).filter(|(size, _)| *size != 1).unzip();
        if sizes.is_empty() {
            sizes.push(1);
            out_strides.push(1);
        }
        let is_reduced = |axis: &usize| out_strides[*axis] == 0;
        let leading = (0..sizes.len()).find(is_reduced).unwrap_or(sizes.len());
        let groups = element_count(&sizes[..leading]);
        let dtype = body.types[usize::from(value.0)];
        Reduce {
            code,
            value: usize::from(value.0),
            kind: *kind,
            dtype,
            inner_is_reduced: out_strides[sizes.len() - 1] == 0,
            groups,
            group_elements: element_count(&sizes[leading..]),
            group_results: results / groups.max(1),
            sizes,
            out_strides,
            to: unit_of[to.index()],
            to_offset: *to_offset,
        }
    }

    fn run_typed<T: Number>(&self, units: &Units, out: &mut [T]) {
        match self.kind {
            ReduceKind::Sum => self.run_kind::<T, SUM>(units, out),
            ReduceKind::Prod => self.run_kind::<T, PROD>(units, out),
            ReduceKind::Max => self.run_kind::<T, MAX>(units, out),
            ReduceKind::Min => self.run_kind::<T, MIN>(units, out),
        }
    }

    fn run_kind<T: Number, const KIND: u8>(&self, units: &Units, out: &mut [T]) {
        let out = &mut out[self.to_offset..][..self.groups * self.group_results];
        out.fill(T::identity(KIND));
        let elements = self.groups * self.group_elements;
        if elements == 0 {
            return;
        }
        let task_elements = (TASK_ELEMENTS / (1 + self.code.step_count() / 4)).max(BLOCK);
        let partials = self.group_elements / task_elements.max(4 * self.group_results);
        if partials >= 2 && self.groups < 16 {
            let partials = partials.min(PARTIALS_MAX);
            let length = self.group_elements.div_ceil(partials);
            for (group, out) in out.chunks_mut(self.group_results).enumerate() {
                let first = group * self.group_elements;
                let mut parts = vec![T::identity(KIND); partials * self.group_results];
                parts.par_chunks_mut(self.group_results).enumerate().for_each(|(part, results)| {
                    let range = first + (part * length).min(self.group_elements)..first + ((part + 1) * length).min(self.group_elements);
                    self.fold::<T, KIND>(units, range, group * self.group_results, results);
                });
                for (place, out) in out.iter_mut().enumerate() {
                    *out = T::combine_all(KIND, parts[place..].iter().step_by(self.group_results).copied());
                }
            }
            return;
        }
        let groups_at_once = (task_elements / self.group_elements).max(1);
        let task = |(task, results): (usize, &mut [T])| {
            let first = task * groups_at_once;
            let count = results.len() / self.group_results;
            let range = first * self.group_elements..(first + count) * self.group_elements;
            self.fold::<T, KIND>(units, range, first * self.group_results, results);
        };
        let results_at_once = groups_at_once * self.group_results;
        if elements < 2 * task_elements {
            out.chunks_mut(results_at_once).enumerate().for_each(task);
        } else {
            out.par_chunks_mut(results_at_once).enumerate().for_each(task);
        }
    }

    /// Folds elements `range` into `results`, which stand at `first_result` of the whole result.
    fn fold<T: Number, const KIND: u8>(&self, units: &Units, range: Range<usize>, first_result: usize, results: &mut [T]) {
        pulp::Arch::new().dispatch(Fold::<T, KIND> { reduce: self, units, range, first_result, results });
    }
}

impl CpuKernel for Reduce {
    fn run(&self, units: &mut Units) {
        units.with_written(self.to, |units, words| match self.dtype {
            DType::F32 => self.run_typed::<f32>(units, words.floats_mut()),
            DType::I32 => self.run_typed::<i32>(units, bytemuck::cast_slice_mut(words.words_mut())),
            _ => self.run_typed::<u32>(units, words.words_mut()),
        });
    }
}

struct Fold<'a, T, const KIND: u8> {
    reduce: &'a Reduce,
    units: &'a Units,
    range: Range<usize>,
    first_result: usize,
    results: &'a mut [T],
}

impl<T: Number, const KIND: u8> pulp::WithSimd for Fold<'_, T, KIND> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Fold { reduce, units, range, first_result, results } = self;
        let outer = reduce.sizes.len() - 1;
        let inner_size = reduce.sizes[outer];
        // Odometer over the outer axes.
        let mut index = vec![0usize; outer];
        let mut result = 0;
        let mut rest = range.start / inner_size;
        for axis in (0..outer).rev() {
            index[axis] = rest % reduce.sizes[axis];
            rest /= reduce.sizes[axis];
            result += index[axis] * reduce.out_strides[axis];
        }
        let mut column = range.start % inner_size;
        let mut scratch = Scratch::of_thread(&reduce.code);
        reduce.code.begin(units, &mut scratch);
        let mut start = range.start;
        while start < range.end {
            let len = BLOCK.min(range.end - start);
            reduce.code.evaluate(units, &[], &mut scratch, start, len);
            let value = reduce.code.operand(reduce.value, units, &[], &scratch, start, len);
            let mut done = 0;
            while done < len {
                let count = (inner_size - column).min(len - done);
                let at = result - first_result;
                match value {
                    Operand::Slice(words) => {
                        let row: &[T] = bytemuck::cast_slice(&words[done..done + count]);
                        if reduce.inner_is_reduced {
                            results[at] = T::combine(KIND, results[at], fold_row::<T, KIND>(row));
                        } else {
                            for (result, &value) in results[at + column..at + column + count].iter_mut().zip(row) {
                                *result = T::combine(KIND, *result, value);
                            }
                        }
                    }
                    Operand::Scalar(word) => {
                        let value: T = bytemuck::cast(word);
                        for i in 0..count {
                            let at = if reduce.inner_is_reduced { at } else { at + column + i };
                            results[at] = T::combine(KIND, results[at], value);
                        }
                    }
                }
                done += count;
                column += count;
                if column == inner_size {
                    column = 0;
                    for axis in (0..outer).rev() {
                        index[axis] += 1;
                        result += reduce.out_strides[axis];
                        if index[axis] < reduce.sizes[axis] {
                            break;
                        }
                        result -= reduce.sizes[axis] * reduce.out_strides[axis];
                        index[axis] = 0;
                    }
                }
            }
            start += len;
        }
        scratch.give_back();
    }
}

/// Folds each row of `length` words into one word of `results`.
pub(super) fn fold_rows(kind: ReduceKind, dtype: DType, words: &[u32], length: usize, results: &mut [u32]) {
    match dtype {
        DType::F32 => fold_rows_typed::<f32>(kind, words, length, results),
        DType::I32 => fold_rows_typed::<i32>(kind, words, length, results),
        _ => fold_rows_typed::<u32>(kind, words, length, results),
    }
}

fn fold_rows_typed<T: Number>(kind: ReduceKind, words: &[u32], length: usize, results: &mut [u32]) {
    let (rows, results) = (bytemuck::cast_slice(words), bytemuck::cast_slice_mut(results));
    match kind {
        ReduceKind::Sum => pulp::Arch::new().dispatch(FoldRows::<T, SUM> { rows, length, results }),
        ReduceKind::Prod => pulp::Arch::new().dispatch(FoldRows::<T, PROD> { rows, length, results }),
        ReduceKind::Max => pulp::Arch::new().dispatch(FoldRows::<T, MAX> { rows, length, results }),
        ReduceKind::Min => pulp::Arch::new().dispatch(FoldRows::<T, MIN> { rows, length, results }),
    }
}

struct FoldRows<'a, T, const KIND: u8> {
    rows: &'a [T],
    length: usize,
    results: &'a mut [T],
}

impl<T: Number, const KIND: u8> pulp::WithSimd for FoldRows<'_, T, KIND> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for (row, result) in self.rows.chunks_exact(self.length).zip(self.results) {
            *result = fold_row::<T, KIND>(row);
        }
    }
}

/// A row in sixteen lanes, which are then folded pairwise.
#[inline(always)]
fn fold_row<T: Number, const KIND: u8>(row: &[T]) -> T {
    let mut lanes = [T::identity(KIND); LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] = T::combine(KIND, lanes[lane], chunk[lane]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = T::combine(KIND, *lane, value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = T::combine(KIND, lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

const SUM: u8 = 0;
const PROD: u8 = 1;
const MAX: u8 = 2;
const MIN: u8 = 3;

/// An element type with the four monoids.
trait Number: Pod + Send + Sync {
    fn identity(kind: u8) -> Self;
    fn combine(kind: u8, x: Self, y: Self) -> Self;
    fn combine_all(kind: u8, values: impl Iterator<Item = Self>) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn identity(kind: u8) -> f32 {
        match kind {
            SUM => 0.0,
            PROD => 1.0,
            MAX => f32::NEG_INFINITY,
            _ => f32::INFINITY,
        }
    }

    #[inline(always)]
    fn combine(kind: u8, x: f32, y: f32) -> f32 {
        match kind {
            SUM => x + y,
            PROD => x * y,
            MAX => super::math::maximum(x, y),
            _ => super::math::minimum(x, y),
        }
    }

    fn combine_all(kind: u8, values: impl Iterator<Item = f32>) -> f32 {
        match kind {
            SUM => values.map(f64::from).sum::<f64>() as f32,
            _ => values.fold(f32::identity(kind), |x, y| f32::combine(kind, x, y)),
        }
    }
}

macro_rules! integer {
    ($type:ty) => {
        impl Number for $type {
            #[inline(always)]
            fn identity(kind: u8) -> $type {
                match kind {
                    SUM => 0,
                    PROD => 1,
                    MAX => <$type>::MIN,
                    _ => <$type>::MAX,
                }
            }

            #[inline(always)]
            fn combine(kind: u8, x: $type, y: $type) -> $type {
                match kind {
                    SUM => x.wrapping_add(y),
                    PROD => x.wrapping_mul(y),
                    MAX => x.max(y),
                    _ => x.min(y),
                }
            }

            fn combine_all(kind: u8, values: impl Iterator<Item = $type>) -> $type {
                values.fold(<$type>::identity(kind), |x, y| <$type>::combine(kind, x, y))
            }
        }
    };
}

integer!(i32);
integer!(u32);
