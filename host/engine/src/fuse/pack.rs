//! Results of one element that no two kernels wait for in turn share a buffer, so that a kernel which reads all of them binds one.
//!
//! The check and the norm of the gradients are a reduction each and a sum over as many numbers as there are parameters; with a buffer each that sum is a
//! chain of launches of eight buffers.

use super::Fused;
use crate::dataflow::{Dag, Uses, uses};
use crate::kernel::{Buffer, BufferId, BufferKind, KernelOp, View};
use solstice_ir::DType;
use std::collections::{HashMap, HashSet};

/// Most results in one buffer; beyond this the search for pairs that wait for each other is not worth it.
const PACKED_MAX: usize = 512;

/// Packs results of reductions.
pub(crate) fn pack_scalars(fused: &mut Fused) {
    let Uses { readers, writers } = uses(fused);
    let dag = Dag::new(fused);
    let heights = dag.heights();
    let kept: HashSet<BufferId> = fused.updates.iter().map(|(_, value)| *value).collect();
    let reads_by_view = |kernel: usize| matches!(fused.kernels[kernel].op, KernelOp::Map { .. } | KernelOp::Reduce { .. });
    let mut candidates: Vec<(usize, usize, BufferId)> = Vec::new();
    for (index, kernel) in fused.kernels.iter().enumerate() {
        let KernelOp::Reduce { to, .. } = &kernel.op else { continue };
        let buffer = &fused.buffers[to.index()];
        let is_free = matches!(buffer.kind, BufferKind::Scratch { .. }) && !kept.contains(to) && buffer.dtype == DType::F32;
        if is_free
            && buffer.elements == 1
            && writers[to.index()].len() == 1
            && readers[to.index()].iter().all(|&reader| reads_by_view(reader))
        {
            candidates.push((heights[index], index, *to));
        }
    }
    candidates.sort_unstable();
    candidates.truncate(PACKED_MAX);
    let mut chosen: Vec<(usize, BufferId)> = Vec::new();
    for (_, index, buffer) in candidates {
        // Sorted by height, so only the later ones can reach the earlier, and none that is as high.
        if chosen.iter().all(|&(other, _)| heights[other] == heights[index] || !dag.reaches(index, other)) {
            chosen.push((index, buffer));
        }
    }
    if chosen.len() < 2 {
        return;
    }
    chosen.sort_unstable();
    let packed = BufferId(fused.buffers.len() as u32);
    fused.buffers.push(Buffer {
        kind: BufferKind::Scratch { slot: usize::MAX },
        dtype: DType::F32,
        elements: chosen.len(),
        is_half: false,
    });
    fused.unordered.insert(packed);
    let place_of: HashMap<BufferId, usize> = chosen.iter().enumerate().map(|(place, (_, buffer))| (*buffer, place)).collect();
    let moved = |view: &mut View| {
        if let Some(place) = place_of.get(&view.buffer) {
            // Every stride of a view on one element is 0.
            (view.buffer, view.offset) = (packed, *place);
        }
    };
    for kernel in &mut fused.kernels {
        match &mut kernel.op {
            KernelOp::Map { body, .. } => body.loads.iter_mut().for_each(moved),
            KernelOp::Reduce { body, to, to_offset, .. } => {
                body.loads.iter_mut().for_each(moved);
                if let Some(place) = place_of.get(to) {
                    (*to, *to_offset) = (packed, *place);
                }
            }
            _ => {}
        }
    }
}
