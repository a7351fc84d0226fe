// A block written into a tensor at a start that is known at run time. The rest of the tensor is copied by the runtime before (unless it is in place).
//
// Inputs: `block` (dense), the buffers that hold the i32 starts. Output: `to`, dense. 32-bit elements move as bits.
// Grid: one invocation an element of the block. `address` clamps the starts so that the block fits. Bounds: any COUNT.
// CPU twin: `KernelOp::DynamicUpdateSlice` in host/engine/src/cpu/.

const COUNT: u32 = 4u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> block: array<u32>;
@group(0) @binding(1) var<storage, read_write> to: array<u32>;

// begin address
@group(0) @binding(2) var<storage, read> start_0: array<i32>;

// Position in `to` of element `i` of a block of 4 of 16.
fn address(i: u32) -> u32 {
    return i + u32(clamp(start_0[0], 0, 12));
}
// end address

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    to[address(i)] = block[i];
}
