//! Kernels that move elements to or from places known only at run time: `Gather`, `Scatter`, `DynamicSlice`, `DynamicUpdateSlice`; and `ReduceArg` and
//! `Copy`, which fit nowhere else.

use super::CpuKernel;
use super::memory::{Units, Words};
use crate::kernel::{BufferId, KernelOp, Plan};
use rayon::prelude::*;
use solstice_ir::{DType, ReduceKind, ScatterMode, element_count, strides_of};

/// Elements of a task.
const TASK_ELEMENTS: usize = 1 << 15;

pub(super) struct IndexKernel {
    op: KernelOp,
    /// Unit of each buffer that the op names.
    units: Vec<(BufferId, usize)>,
    /// Words that `Copy` moves.
    words: usize,
}

impl IndexKernel {
    pub(super) fn new(op: &KernelOp, plan: &Plan, unit_of: &[usize]) -> IndexKernel {
        let units = op.reads().into_iter().chain(op.writes()).map(|buffer| (buffer, unit_of[buffer.index()])).collect();
        let words = op.writes().first().map_or(0, |&buffer| plan.buffer_bytes(buffer).div_ceil(4));
        IndexKernel { op: op.clone(), units, words }
    }

    fn unit(&self, buffer: BufferId) -> usize {
        self.units.iter().find(|(known, _)| *known == buffer).expect("every buffer of the op was listed").1
    }
}

impl CpuKernel for IndexKernel {
    fn run(&self, units: &mut Units) {
        let at = |buffer: &BufferId| self.unit(*buffer);
        match &self.op {
            KernelOp::Copy { from, to } => units.with_written(at(to), |units, out| {
                out.words_mut()[..self.words].copy_from_slice(&units.get(at(from)).words()[..self.words]);
            }),
            KernelOp::ReduceArg { kind, outer, n, inner, from, dtype, to } => units.with_written(at(to), |units, out| {
                let from = units.get(at(from)).words();
                let size = n * inner;
                let task = |(position, out): (usize, &mut [u32])| {
                    reduce_arg(*kind, *dtype, *inner, &from[position * size..(position + 1) * size], out)
                };
                let out = &mut out.words_mut()[..outer * inner];
                if !out.is_empty() {
                    out.par_chunks_mut(*inner).enumerate().with_min_len((TASK_ELEMENTS / size.max(1)).max(1)).for_each(task);
                }
            }),
            KernelOp::Gather { batch, outer, n, index_count, inner, from, from_dtype, indices, indices_unsigned, to, to_dtype } => {
                units.with_written(at(to), |units, out| {
                    let indices = units.get(at(indices)).words();
                    let from = units.get(at(from));
                    let rows = batch * outer * index_count;
                    if rows * inner == 0 {
                        return;
                    }
                    let row_of = |row: usize| {
                        let (group, place) = (row / index_count, row % index_count);
                        let chosen = clamped(indices[group / outer * index_count + place], *indices_unsigned, *n - 1);
                        (group * n + chosen) * inner
                    };
                    let at_once = (TASK_ELEMENTS / inner).max(1);
                    if *from_dtype == DType::U8 {
                        let bytes = from.bytes();
                        let task = |(row, out): (usize, &mut [u32])| widen(&bytes[row_of(row)..][..*inner], *to_dtype, out);
                        out.words_mut()[..rows * inner].par_chunks_mut(*inner).enumerate().with_min_len(at_once).for_each(task);
                    } else {
                        let words = from.words();
                        let task = |(row, out): (usize, &mut [u32])| out.copy_from_slice(&words[row_of(row)..][..*inner]);
                        out.words_mut()[..rows * inner].par_chunks_mut(*inner).enumerate().with_min_len(at_once).for_each(task);
                    }
                });
            }
            KernelOp::Scatter { mode, batch, outer, n, index_count, inner, dtype, from, indices, indices_unsigned, updates, to } => {
                let (from, to) = (at(from), at(to));
                units.with_written(to, |units, out| {
                    let size = n * inner;
                    let out = &mut out.words_mut()[..batch * outer * size];
                    if from != to {
                        out.copy_from_slice(&units.get(from).words()[..out.len()]);
                    }
                    let (indices, updates) = (units.get(at(indices)).words(), units.get(at(updates)).words());
                    if out.is_empty() || *index_count == 0 {
                        return;
                    }
                    // Groups are apart; within one the updates come in order.
                    let task = |(group, out): (usize, &mut [u32])| {
                        for place in 0..*index_count {
                            let chosen = clamped(indices[group / outer * index_count + place], *indices_unsigned, *n - 1);
                            let update = &updates[(group * index_count + place) * inner..][..*inner];
                            combine(*mode, *dtype, &mut out[chosen * inner..][..*inner], update);
                        }
                    };
                    let at_once = (TASK_ELEMENTS / (index_count * inner).max(1)).max(1);
                    out.par_chunks_mut(size).enumerate().with_min_len(at_once).for_each(task);
                });
            }
            KernelOp::DynamicSlice { from_shape, sizes, from, starts, to } => units.with_written(at(to), |units, out| {
                let offset = self.block_offset(units, None, from_shape, sizes, starts);
                let from = units.get(at(from)).words();
                for_each_row(from_shape, sizes, |row, position, length| {
                    out.words_mut()[row * length..][..length].copy_from_slice(&from[offset + position..][..length]);
                });
            }),
            KernelOp::DynamicUpdateSlice { from_shape, block_shape, from, block, starts, to } => {
                let (from, to) = (at(from), at(to));
                units.with_written(to, |units, out| {
                    let offset = self.block_offset(units, Some((to, out)), from_shape, block_shape, starts);
                    let out = &mut out.words_mut()[..element_count(from_shape)];
                    if from != to {
                        out.copy_from_slice(&units.get(from).words()[..out.len()]);
                    }
                    let block = units.get(at(block)).words();
                    for_each_row(from_shape, block_shape, |row, position, length| {
                        out[offset + position..][..length].copy_from_slice(&block[row * length..][..length]);
                    });
                });
            }
            _ => unreachable!("other kernels have files of their own"),
        }
    }
}

impl IndexKernel {
    /// Position of a block's first element, starts clamped so that the block fits. `taken` is a unit that is not in `units` now.
    fn block_offset(
        &self,
        units: &Units,
        taken: Option<(usize, &Words)>,
        shape: &[usize],
        block: &[usize],
        starts: &[(BufferId, usize)],
    ) -> usize {
        let mut offset = 0;
        for (axis, stride) in strides_of(shape).into_iter().enumerate() {
            let (buffer, element) = starts[axis];
            let unit = self.unit(buffer);
            let words = match taken {
                Some((taken, words)) if taken == unit => words,
                _ => units.get(unit),
            };
            let start = words.words()[element] as i32;
            offset += (start.max(0) as usize).min(shape[axis] - block[axis]) * stride;
        }
        offset
    }
}

fn clamped(index: u32, unsigned: bool, last: usize) -> usize {
    if !unsigned && (index as i32) < 0 { 0 } else { (index as usize).min(last) }
}

fn widen(bytes: &[u8], dtype: DType, out: &mut [u32]) {
    match dtype {
        DType::F32 => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f32::from(byte).to_bits()),
        DType::Bool => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = u32::from(byte != 0)),
        _ => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = u32::from(byte)),
    }
}

fn combine(mode: ScatterMode, dtype: DType, out: &mut [u32], update: &[u32]) {
    match (mode, dtype) {
        (ScatterMode::Set, _) => out.copy_from_slice(update),
        (ScatterMode::Add, DType::F32) => {
            let (out, update): (&mut [f32], &[f32]) = (bytemuck::cast_slice_mut(out), bytemuck::cast_slice(update));
            out.iter_mut().zip(update).for_each(|(out, update)| *out += update);
        }
        (ScatterMode::Add, DType::Bool) => out.iter_mut().zip(update).for_each(|(out, update)| *out |= update),
        (ScatterMode::Add, _) => out.iter_mut().zip(update).for_each(|(out, update)| *out = out.wrapping_add(*update)),
    }
}

/// First index of the best element of each column of `[n, inner]`.
fn reduce_arg(kind: ReduceKind, dtype: DType, inner: usize, from: &[u32], out: &mut [u32]) {
    fn best<T: Copy>(from: &[T], inner: usize, out: &mut [u32], is_better: impl Fn(T, T) -> bool) {
        out.fill(0);
        for (row, values) in from.chunks_exact(inner).enumerate().skip(1) {
            for (column, (&value, out)) in values.iter().zip(out.iter_mut()).enumerate() {
                if is_better(value, from[*out as usize * inner + column]) {
                    *out = row as u32;
                }
            }
        }
    }
    let is_max = kind == ReduceKind::Max;
    match dtype {
        DType::F32 => best(bytemuck::cast_slice::<u32, f32>(from), inner, out, |new, old| {
            (if is_max { new > old } else { new < old }) || (new.is_nan() && !old.is_nan())
        }),
        DType::I32 => best(bytemuck::cast_slice::<u32, i32>(from), inner, out, |new, old| if is_max { new > old } else { new < old }),
        _ => best(from, inner, out, |new, old| if is_max { new > old } else { new < old }),
    }
}

/// Calls `row(number, position, length)` for each innermost row of a block within a tensor of `shape`.
fn for_each_row(shape: &[usize], block: &[usize], mut row: impl FnMut(usize, usize, usize)) {
    if element_count(block) == 0 {
        return;
    }
    let Some((&length, outer)) = block.split_last() else { return row(0, 0, 1) };
    let strides = strides_of(shape);
    for number in 0..element_count(outer) {
        let mut rest = number;
        let mut position = 0;
        for axis in (0..outer.len()).rev() {
            position += rest % outer[axis] * strides[axis];
            rest /= outer[axis];
        }
        row(number, position, length);
    }
}
