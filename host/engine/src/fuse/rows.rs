//! Reductions along rows and the maps around them become one kernel: softmax, cross entropy, the norms and their gradients.
//!
//! Such a chain goes over the same rows several times, a reduction and a map at a time. A row of at most [`ROW_MAX`] elements stays close to the arithmetic
//! (a block of registers on the CPU, the first-level cache on a GPU), so the whole chain runs row by row: what is read and written once in theory is read and
//! written once in fact. Pays a launch for each kernel but one, and all that passed between them.

use super::body::{collapse, collapse_body, collapse_view};
use super::merge::{Homes, MapParts, as_one, common_shape, is_late, map_parts, reshaped};
use super::{Fused, Updates};
use crate::dataflow::{Dag, Uses, compact, uses};
use crate::kernel::{BufferId, Instruction, Kernel, KernelOp, ROW_MAX, Register, Store, View};
use solstice_ir::element_count;
use std::collections::{HashMap, HashSet};

/// A kernel over rows, by itself: the last axes of `parts.shape`, `length` elements together, are the row.
#[derive(Clone)]
pub(super) struct RowParts {
    pub parts: MapParts,
    length: usize,
}

/// Joins kernels along rows until no pair is left.
pub(crate) fn fuse_rows(fused: &mut Fused, updates: Updates) {
    let Uses { mut readers, writers } = uses(fused);
    let mut dag = Dag::new(fused);
    let state_of: HashMap<BufferId, BufferId> = fused.updates.iter().map(|(state, value)| (*value, *state)).collect();
    let mut kernels: Vec<Option<Kernel>> = std::mem::take(&mut fused.kernels).into_iter().map(Some).collect();
    loop {
        let mut changed = false;
        for consumer in 0..kernels.len() {
            let mut refused: HashSet<usize> = HashSet::new();
            while kernels[consumer].as_ref().is_some_and(|kernel| is_row_like(&kernel.op)) {
                let candidates: Vec<usize> =
                    dag.predecessors(consumer).iter().rev().copied().filter(|kernel| !refused.contains(kernel)).collect();
                let found = candidates.into_iter().find_map(|producer| {
                    let is_late = |state: BufferId| is_late(&dag, &readers, state, producer, consumer);
                    let homes = Homes { updates, state_of: &state_of, is_late: &is_late };
                    let op = merged(fused, &kernels, producer, consumer, &readers, &writers, &homes)
                        .filter(|_| !dag.has_detour(producer, consumer));
                    if op.is_none() {
                        refused.insert(producer);
                    }
                    op.map(|op| (producer, op))
                });
                let Some((producer, op)) = found else { break };
                changed = true;
                dag.contract(producer, consumer);
                for readers in &mut readers {
                    if let Some(place) = readers.iter().position(|&reader| reader == producer) {
                        readers[place] = consumer;
                    }
                }
                let gone = kernels[producer].take().expect("a producer is a kernel");
                let kernel = kernels[consumer].as_mut().expect("a consumer is a kernel");
                if kernel.label.len() < gone.label.len() {
                    (kernel.label, kernel.location) = (gone.label, gone.location);
                }
                kernel.op = op;
                refused.clear();
            }
        }
        if !changed {
            break;
        }
    }
    compact(fused, kernels);
}

fn is_row_like(op: &KernelOp) -> bool {
    matches!(op, KernelOp::Map { .. } | KernelOp::Reduce { .. } | KernelOp::Rows { .. })
}

/// A reduction along the last axes, or a kernel over rows.
pub(super) fn row_parts(fused: &Fused, kernel: &Kernel) -> Option<RowParts> {
    match &kernel.op {
        KernelOp::Rows { shape, row_axes, body, stores } => {
            let parts = MapParts { shape: shape.clone(), body: body.clone(), stores: stores.clone() };
            Some(RowParts { parts, length: element_count(&shape[shape.len() - row_axes..]) })
        }
        KernelOp::Reduce { shape, axes, kind, body, value, to, to_offset } => {
            let outer = shape.len() - axes.len();
            let length = element_count(&shape[outer..]);
            if axes.first() != Some(&outer) || !(2..=ROW_MAX).contains(&length) || element_count(shape) == 0 {
                return None;
            }
            let mut body = body.clone();
            body.code.push(Instruction::Fold(*kind, *value));
            body.types.push(body.types[usize::from(value.0)]);
            let fold = Register(body.code.len() as u16 - 1);
            let mut strides = vec![0; shape.len()];
            let mut reach = 1;
            for axis in (0..outer).rev() {
                strides[axis] = if shape[axis] == 1 { 0 } else { reach };
                reach *= shape[axis] as isize;
            }
            // The result must have the buffer for itself, unless it was packed.
            debug_assert!(fused.buffers[to.index()].elements >= reach as usize);
            let stores = vec![Store { value: fold, to: View { buffer: *to, offset: *to_offset, strides } }];
            Some(RowParts { parts: MapParts { shape: shape.clone(), body, stores }, length })
        }
        _ => None,
    }
}

/// The parts of `kernel` over the rows of `like`: it has their elements, or one for each row.
fn along(kernel: &MapParts, like: &RowParts) -> Option<(MapParts, MapParts)> {
    let whole = &like.parts;
    if let Some(shape) = common_shape(&kernel.shape, &whole.shape) {
        return Some((reshaped(kernel, &shape)?, reshaped(whole, &shape)?));
    }
    let split = row_start(&whole.shape, like.length);
    let outer = common_shape(&kernel.shape, &whole.shape[..split])?;
    if kernel.body.code.contains(&Instruction::LinearIndex) {
        return None;
    }
    let shape = [&outer[..], &whole.shape[split..]].concat();
    let mut lifted = reshaped(kernel, &outer)?;
    let inner = whole.shape.len() - split;
    lifted.body.loads.iter_mut().for_each(|view| view.strides.extend(vec![0; inner]));
    lifted.stores.iter_mut().for_each(|store| store.to.strides.extend(vec![0; inner]));
    lifted.shape = shape.clone();
    Some((lifted, reshaped(whole, &shape)?))
}

/// The first of the axes that make a row of `length` elements.
fn row_start(shape: &[usize], length: usize) -> usize {
    let mut product = 1;
    let mut axis = shape.len();
    while product < length {
        axis -= 1;
        product *= shape[axis];
    }
    axis
}

fn merged(
    fused: &Fused,
    kernels: &[Option<Kernel>],
    producer: usize,
    consumer: usize,
    readers: &[Vec<usize>],
    writers: &[Vec<usize>],
    homes: &Homes,
) -> Option<KernelOp> {
    let (first, second) = (kernels[producer].as_ref()?, kernels[consumer].as_ref()?);
    let (first, second, length) = match (row_parts(fused, first), row_parts(fused, second)) {
        (Some(first), Some(second)) => {
            if first.length != second.length {
                return None;
            }
            let shape = common_shape(&first.parts.shape, &second.parts.shape)?;
            (reshaped(&first.parts, &shape)?, reshaped(&second.parts, &shape)?, first.length)
        }
        (Some(first), None) => {
            let (map, rows) = along(&map_parts(second)?, &first)?;
            (rows, map, first.length)
        }
        (None, Some(second)) => {
            let (map, rows) = along(&map_parts(first)?, &second)?;
            (map, rows, second.length)
        }
        (None, None) => return None,
    };
    let (body, stores) = as_one(fused, &first, &second, consumer, readers, writers, homes)?;
    let shape = first.shape;
    // Axes of the row and the others stay apart.
    let split = row_start(&shape, length);
    let views: Vec<&View> = body.loads.iter().chain(stores.iter().map(|store| &store.to)).collect();
    let (sizes, groups) = collapse(&shape, &views, &body, &|axis| axis >= split);
    let row_axes = groups.iter().filter(|group| group[0] >= split).count();
    let stores = stores.iter().map(|store| Store { value: store.value, to: collapse_view(&store.to, &groups) }).collect();
    Some(KernelOp::Rows { shape: sizes, row_axes, body: collapse_body(&body, &groups), stores })
}
