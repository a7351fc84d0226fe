//! Which kernel waits for which: the graph that the passes over kernels ask before they make two kernels one.
//!
//! Making `a` and `b` one is sound exactly when no third kernel stands between them; otherwise the new kernel would wait for itself.

use crate::fuse::Fused;
use crate::kernel::{BufferId, Kernel};
use std::collections::BTreeSet;

/// Kernels that read and that write each buffer, each kernel once.
pub(crate) struct Uses {
    pub readers: Vec<Vec<usize>>,
    pub writers: Vec<Vec<usize>>,
}

/// Readers and writers of every buffer.
pub(crate) fn uses(fused: &Fused) -> Uses {
    let mut uses = Uses { readers: vec![Vec::new(); fused.buffers.len()], writers: vec![Vec::new(); fused.buffers.len()] };
    for (index, kernel) in fused.kernels.iter().enumerate() {
        let add = |list: &mut Vec<Vec<usize>>, buffers: Vec<BufferId>| {
            for buffer in buffers {
                if list[buffer.index()].last() != Some(&index) {
                    list[buffer.index()].push(index);
                }
            }
        };
        add(&mut uses.readers, kernel.op.reads());
        add(&mut uses.writers, kernel.op.writes());
    }
    uses
}

/// The kernels as a graph without circles.
pub(crate) struct Dag {
    successors: Vec<BTreeSet<usize>>,
    predecessors: Vec<BTreeSet<usize>>,
}

impl Dag {
    /// Edges from the writers of each buffer to its readers, and between the writers of a buffer whose parts have an order.
    pub fn new(fused: &Fused) -> Dag {
        let uses = uses(fused);
        let mut dag =
            Dag { successors: vec![BTreeSet::new(); fused.kernels.len()], predecessors: vec![BTreeSet::new(); fused.kernels.len()] };
        for (buffer, (readers, writers)) in uses.readers.iter().zip(&uses.writers).enumerate() {
            if !fused.unordered.contains(&BufferId(buffer as u32)) {
                writers.windows(2).for_each(|pair| dag.add(pair[0], pair[1]));
            }
            for &writer in writers {
                readers.iter().for_each(|&reader| dag.add(writer, reader));
            }
        }
        dag
    }

    /// A graph of known edges.
    pub fn of_successors(successors: &[Vec<usize>]) -> Dag {
        let mut dag = Dag { successors: vec![BTreeSet::new(); successors.len()], predecessors: vec![BTreeSet::new(); successors.len()] };
        for (before, list) in successors.iter().enumerate() {
            list.iter().for_each(|&after| dag.add(before, after));
        }
        dag
    }

    /// `after` waits for `before`.
    pub fn add(&mut self, before: usize, after: usize) {
        if before != after {
            self.successors[before].insert(after);
            self.predecessors[after].insert(before);
        }
    }

    /// Kernels that `kernel` waits for directly.
    pub fn predecessors(&self, kernel: usize) -> &BTreeSet<usize> {
        &self.predecessors[kernel]
    }

    /// Kernels that wait for `kernel` directly.
    pub fn successors(&self, kernel: usize) -> &BTreeSet<usize> {
        &self.successors[kernel]
    }

    /// True when `to` waits for `from` through a third kernel.
    pub fn has_detour(&self, from: usize, to: usize) -> bool {
        let mut seen: BTreeSet<usize> = self.successors[from].iter().copied().filter(|&next| next != to).collect();
        let mut stack: Vec<usize> = seen.iter().copied().collect();
        while let Some(kernel) = stack.pop() {
            for &next in &self.successors[kernel] {
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }

    /// True when `to` waits for `from`, directly or not.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.successors[from].contains(&to) || self.has_detour(from, to)
    }

    /// `from` becomes a part of `into`.
    pub fn contract(&mut self, from: usize, into: usize) {
        for next in std::mem::take(&mut self.successors[from]) {
            self.predecessors[next].remove(&from);
            self.add(into, next);
        }
        for before in std::mem::take(&mut self.predecessors[from]) {
            self.successors[before].remove(&from);
            self.add(before, into);
        }
    }

    /// For each kernel the length of the longest chain of kernels that wait for it.
    pub fn heights(&self) -> Vec<usize> {
        let mut heights = vec![0; self.successors.len()];
        let mut waits: Vec<usize> = self.successors.iter().map(BTreeSet::len).collect();
        let mut ready: Vec<usize> = (0..waits.len()).filter(|&kernel| waits[kernel] == 0).collect();
        while let Some(kernel) = ready.pop() {
            for &before in &self.predecessors[kernel] {
                heights[before] = heights[before].max(heights[kernel] + 1);
                waits[before] -= 1;
                if waits[before] == 0 {
                    ready.push(before);
                }
            }
        }
        heights
    }
}

/// Removes the kernels that were taken out.
pub(crate) fn compact(fused: &mut Fused, kernels: Vec<Option<Kernel>>) {
    fused.kernels = kernels.into_iter().flatten().collect();
}
