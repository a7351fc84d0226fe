//! Small kernels that do not wait for each other become one launch: a [`KernelOp::Group`].
//!
//! An optimizer is a kernel a parameter, and so is the check of the gradients; each costs a launch and little else. Members of a group need nothing in
//! common but the height in the graph (the longest chain of kernels that wait for them), which keeps them from waiting for each other. That moves a kernel
//! as late as its readers allow, so one that would keep much memory alive until then stays where it is.

use crate::dataflow::{Dag, uses};
use crate::fuse::Fused;
use crate::kernel::{BufferKind, Kernel, KernelOp};
use crate::plan::is_empty;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Scratch bytes that a kernel may keep alive to join a group.
const DELAYED_BYTES_MAX: usize = 1 << 20;

/// Members of one group at most.
const MEMBERS_MAX: usize = 256;

/// Groups the kernels of `fused`, whose order `successors` holds; returns the successors of the kernels as they are then.
pub(crate) fn group_kernels(fused: &mut Fused, successors: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let heights = Dag::of_successors(&successors).heights();
    let readers = uses(fused).readers;
    let depths = depths_of(&successors);
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, kernel) in fused.kernels.iter().enumerate() {
        if is_member(&kernel.op) {
            groups.entry(heights[index]).or_default().push(index);
        }
    }
    for members in groups.values_mut() {
        // A member that could run no earlier than the last one is not delayed.
        let deepest = members.iter().map(|&member| depths[member]).max().unwrap_or(0);
        members.retain(|&member| depths[member] == deepest || delayed_bytes(fused, member, &heights, &readers) <= DELAYED_BYTES_MAX);
    }
    let mut kernels: Vec<Option<Kernel>> = std::mem::take(&mut fused.kernels).into_iter().map(Some).collect();
    let mut place_of = vec![usize::MAX; kernels.len()];
    for members in groups.values().flat_map(|group| group.chunks(MEMBERS_MAX)).filter(|members| members.len() > 1) {
        let place = fused.kernels.len();
        members.iter().for_each(|&member| place_of[member] = place);
        let members: Vec<Kernel> = members.iter().map(|&member| kernels[member].take().expect("a kernel is in one group")).collect();
        // The shortest of the labels that occur most often.
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        members.iter().for_each(|member| *counts.entry(member.label.as_str()).or_default() += 1);
        let common = counts.iter().max_by_key(|(label, count)| (**count, std::cmp::Reverse(label.len()))).map_or("", |(label, _)| label);
        let label = format!("group {} kernels: {common}", members.len());
        let location = members.iter().map(|member| &member.location).find(|location| !location.is_empty()).cloned();
        let location = location.unwrap_or_else(|| Arc::from(""));
        fused.kernels.push(Kernel { op: KernelOp::Group { members }, label, location });
    }
    for (index, kernel) in kernels.into_iter().enumerate() {
        if let Some(kernel) = kernel {
            place_of[index] = fused.kernels.len();
            fused.kernels.push(kernel);
        }
    }
    let mut grouped = vec![Vec::new(); fused.kernels.len()];
    for (before, list) in successors.into_iter().enumerate() {
        for after in list {
            if place_of[before] != place_of[after] {
                grouped[place_of[before]].push(place_of[after]);
            }
        }
    }
    grouped
}

/// For each kernel the length of the longest chain of kernels that it waits for.
fn depths_of(successors: &[Vec<usize>]) -> Vec<usize> {
    let mut predecessors = vec![Vec::new(); successors.len()];
    for (before, list) in successors.iter().enumerate() {
        list.iter().for_each(|&after| predecessors[after].push(before));
    }
    Dag::of_successors(&predecessors).heights()
}

fn is_member(op: &KernelOp) -> bool {
    matches!(op, KernelOp::Map { .. } | KernelOp::Reduce { .. } | KernelOp::Rows { .. }) && !is_empty(op)
}

/// Bytes of scratch that nobody reads after the kernel, if it runs as late as it can.
fn delayed_bytes(fused: &Fused, kernel: usize, heights: &[usize], readers: &[Vec<usize>]) -> usize {
    let mut read = fused.kernels[kernel].op.reads();
    read.sort_unstable();
    read.dedup();
    let is_last = |buffer: usize| readers[buffer].iter().all(|&reader| heights[reader] >= heights[kernel]);
    let scratch = read.into_iter().filter(|buffer| matches!(fused.buffers[buffer.index()].kind, BufferKind::Scratch { .. }));
    scratch.filter(|buffer| is_last(buffer.index())).map(|buffer| fused.buffers[buffer.index()].elements * 4).sum()
}
