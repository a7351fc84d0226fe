//! Where a program's compute passes begin, so that launches which do not wait for each other run beside each other.
//!
//! wgpu writes a barrier before each dispatch that uses a piece of memory otherwise than the pass did before it, and every barrier waits for all work so far.
//! The first uses in a pass have one barrier together, before the pass. So launches that follow each other and are independent get a pass of their own: the
//! first waits, the others do not. Barriers of a step in one pass and so: gpt 120 and 96 (llvmpipe), 114 and 102 (128 buffers a kernel), mlp 14 and 12.

use crate::gpu::launch::{Memory, Step};
use std::collections::HashMap;

/// For each step whether a pass begins with it. Launches up to the next such step, or copy, share the pass.
pub fn pass_starts(steps: &[Step]) -> Vec<bool> {
    let mut starts = vec![false; steps.len()];
    let mut first = 0;
    let mut is_in_pass = false;
    while first < steps.len() {
        let length = independent(&steps[first..]);
        starts[first] = length > 1 || (length == 1 && !is_in_pass);
        is_in_pass = length > 0;
        first += length.max(1);
    }
    starts
}

/// How many launches at the beginning of `steps` do not wait for each other; 0 before a copy.
fn independent(steps: &[Step]) -> usize {
    let mut is_written: HashMap<Memory, bool> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let Step::Launch { bindings, .. } = step else { return index };
        let waits = |memory, writes| is_written.get(&memory).is_some_and(|&was_written| was_written || writes);
        if bindings.iter().any(|binding| waits(binding.memory, binding.is_written)) {
            return index;
        }
        bindings.iter().for_each(|binding| *is_written.entry(binding.memory).or_default() |= binding.is_written);
    }
    steps.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::launch::Binding;

    /// A launch that reads and writes these pieces.
    fn launch(reads: &[usize], writes: &[usize]) -> Step {
        let binding = |&piece: &usize, is_written| Binding { memory: Memory::Piece(piece), is_written };
        let bindings = reads.iter().map(|piece| binding(piece, false)).chain(writes.iter().map(|piece| binding(piece, true))).collect();
        Step::Launch { label: String::new(), wgsl: String::new(), bindings, grid: [1, 1] }
    }

    #[test]
    fn independent_launches_have_a_pass_of_their_own() {
        let copy = Step::Copy { from: Memory::Piece(4), to: Memory::Piece(9), bytes: 4 };
        let steps = [
            launch(&[0], &[1]),
            launch(&[1], &[2]),
            // These two read one piece; the third writes what the second reads.
            launch(&[2], &[3]),
            launch(&[2, 0], &[4]),
            launch(&[3], &[2]),
            launch(&[2], &[3]),
            copy,
            launch(&[4], &[5]),
        ];
        assert_eq!(pass_starts(&steps), [true, false, true, false, false, false, false, true]);
    }
}
