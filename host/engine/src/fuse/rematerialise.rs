//! What is cheap to compute again is not kept for the backward pass: a norm's result, which the product after it reads and, much later, the gradient of that
//! product's weight.
//!
//! The gradient of the norm reads the norm's argument and statistics in any case, so it has all that the result is made of: it writes it once more, and the
//! late readers read that. Costs a store and a few operations, and frees the memory from the first reader of the result to the norm's gradient.

use super::merge::{MapParts, common_shape, joined, reshaped};
use super::rows::row_parts;
use super::{Fused, INSTRUCTIONS_PER_KERNEL};
use crate::dataflow::{Dag, Uses, uses};
use crate::kernel::{BUFFERS_PER_KERNEL, BufferId, BufferKind, Instruction, KernelOp, Store, View};
use crate::plan::{map_buffers, remove_dead_code};
use std::collections::BTreeSet;

/// Smaller values stay.
const BYTES_MIN: usize = 1 << 16;

/// Kernels, at least, in the chain that a value would be kept alive over.
const GAP_MIN: usize = 6;

/// Instructions that the second computation adds, at most.
const INSTRUCTIONS_MAX: usize = 8;

/// Lets the gradients of row-wise kernels compute again what those kernels wrote, for readers that come after them.
pub(crate) fn rematerialise(fused: &mut Fused) {
    let Uses { mut readers, mut writers } = uses(fused);
    let mut dag = Dag::new(fused);
    let heights = dag.heights();
    let kept: BTreeSet<BufferId> = fused.updates.iter().map(|(_, value)| *value).collect();
    for producer in 0..fused.kernels.len() {
        let Some(first) = row_parts(fused, &fused.kernels[producer]) else { continue };
        for store in first.parts.stores.clone() {
            let value = store.to.buffer;
            let buffer = fused.buffers[value.index()].clone();
            let is_large = buffer.elements * buffer.dtype.size() >= BYTES_MIN;
            let is_alone = writers[value.index()].len() == 1 && !kept.contains(&value);
            if !is_large || !is_alone || !matches!(buffer.kind, BufferKind::Scratch { .. }) {
                continue;
            }
            // Whoever reads an argument of the producer may be its gradient.
            let arguments = first.parts.body.loads.iter().map(|view| view.buffer);
            let candidates: BTreeSet<usize> = arguments.flat_map(|buffer| readers[buffer.index()].iter().copied()).collect();
            let found = candidates.into_iter().filter(|&kernel| kernel != producer).find_map(|kernel| {
                let late = late_readers(&dag, &heights, &readers[value.index()], kernel)?;
                Some((kernel, late, again(fused, &first.parts, &store, kernel)?))
            });
            let Some((kernel, late, (parts, copy))) = found else { continue };
            let KernelOp::Rows { shape, body, stores, .. } = &mut fused.kernels[kernel].op else { unreachable!("`again` looks at these") };
            (*shape, *body, *stores) = (parts.shape, parts.body, parts.stores);
            fused.buffers.push(buffer);
            for &reader in &late {
                map_buffers(&mut fused.kernels[reader].op, &|buffer| if buffer == value { copy } else { buffer });
                dag.add(kernel, reader);
            }
            readers[value.index()].retain(|reader| !late.contains(reader));
            readers.push(late);
            writers.push(vec![kernel]);
        }
    }
}

/// The readers that can wait for `kernel`, if the others are done long before it.
fn late_readers(dag: &Dag, heights: &[usize], readers: &[usize], kernel: usize) -> Option<Vec<usize>> {
    let (early, late): (Vec<usize>, Vec<usize>) = readers.iter().partition(|&&reader| reader == kernel || dag.reaches(reader, kernel));
    let gap = early.iter().map(|&reader| heights[reader].saturating_sub(heights[kernel])).min()?;
    (gap >= GAP_MIN && !late.is_empty()).then_some(late)
}

/// `kernel` over rows with a second computation of what `store` of `first` writes, into a buffer that is to be made; `None` when it lacks an argument.
fn again(fused: &Fused, first: &MapParts, store: &Store, kernel: usize) -> Option<(MapParts, BufferId)> {
    let KernelOp::Rows { shape, body, stores, .. } = &fused.kernels[kernel].op else { return None };
    let second = MapParts { shape: shape.clone(), body: body.clone(), stores: stores.clone() };
    let common = common_shape(&first.shape, shape).filter(|common| common == shape)?;
    let (first, to) = (reshaped(first, &common)?, store.to.buffer);
    let place = first.stores.iter().position(|store| store.to.buffer == to)?;
    let slice = slice(&first, place);
    let elements = fused.buffers[to.index()].elements;
    let is_there = |view: &View| body.loads.contains(view) || fused.buffers[view.buffer.index()].elements * 16 <= elements;
    let folds = slice.body.code.iter().any(|instruction| matches!(instruction, Instruction::Fold(..)));
    if folds || !slice.body.loads.iter().all(is_there) {
        return None;
    }
    let copy = BufferId(fused.buffers.len() as u32);
    let (body, registers, more) = joined(&common, &second, &slice);
    if body.code.len() > (second.body.code.len() + INSTRUCTIONS_MAX).min(INSTRUCTIONS_PER_KERNEL) {
        return None;
    }
    let mut stores: Vec<Store> =
        second.stores.iter().map(|store| Store { value: registers[usize::from(store.value.0)], to: store.to.clone() }).collect();
    let to = View { buffer: copy, ..slice.stores[0].to.clone() };
    stores.push(Store { value: more[usize::from(slice.stores[0].value.0)], to });
    let buffers: BTreeSet<BufferId> = body.loads.iter().chain(stores.iter().map(|store| &store.to)).map(|view| view.buffer).collect();
    (buffers.len() <= BUFFERS_PER_KERNEL).then_some((MapParts { shape: common, body, stores }, copy))
}

/// What store `place` of `parts` needs, by itself; other values that are stored are read from where they stand.
fn slice(parts: &MapParts, place: usize) -> MapParts {
    let mut body = parts.body.clone();
    let wanted = parts.stores[place].clone();
    for store in parts.stores.iter().filter(|store| store.value != wanted.value) {
        body.code[usize::from(store.value.0)] = Instruction::Load(body.loads.len() as u16);
        body.loads.push(store.to.clone());
    }
    let mut stores = vec![wanted];
    remove_dead_code(&mut body, &mut stores);
    MapParts { shape: parts.shape.clone(), body, stores }
}
