// Sum, maximum or minimum of each window of a tensor. Axes without a window are merged by the host, so four axes serve 3-D pooling.
//
// Inputs: `source` f32 [FROM_0, FROM_1, FROM_2, FROM_3]. Output: `to` f32 [TO_0, TO_1, TO_2, TO_3].
// Grid: one invocation an output element. Padding holds the identity and is skipped; small windows without padding are written out one element after the
// other by gpu/indexing.rs in place of the loops.
// Bounds: any COUNT; windows may lie wholly in the padding. CPU twin: `KernelOp::ReduceWindow` in host/engine/src/cpu/.

alias S = f32; // of the source in memory

const COUNT: u32 = 16u;
const FROM_0: u32 = 1u;
const FROM_1: u32 = 1u;
const FROM_2: u32 = 8u;
const FROM_3: u32 = 8u;
const TO_0: u32 = 1u;
const TO_1: u32 = 1u;
const TO_2: u32 = 4u;
const TO_3: u32 = 4u;
const SIZE_0: u32 = 1u;
const SIZE_1: u32 = 1u;
const SIZE_2: u32 = 2u;
const SIZE_3: u32 = 2u;
const STRIDE_0: u32 = 1u;
const STRIDE_1: u32 = 1u;
const STRIDE_2: u32 = 2u;
const STRIDE_3: u32 = 2u;
const LOW_0: u32 = 0u;
const LOW_1: u32 = 0u;
const LOW_2: u32 = 0u;
const LOW_3: u32 = 0u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> source: array<S>;
// begin write
@group(0) @binding(1) var<storage, read_write> to: array<f32>;

fn write(position: u32, value: f32) {
    to[position] = value;
}
// end write

// begin functions
fn combine(x: f32, y: f32) -> f32 {
    return x + y;
}

fn identity() -> f32 {
    return 0.0;
}
// end functions

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    // First place of the window, `LOW` too large so that it stays unsigned.
    let start_3 = i % TO_3 * STRIDE_3;
    let start_2 = i / TO_3 % TO_2 * STRIDE_2;
    let start_1 = i / (TO_3 * TO_2) % TO_1 * STRIDE_1;
    let start_0 = i / (TO_3 * TO_2 * TO_1) * STRIDE_0;
    var total = identity();
    // begin window
    for (var p0 = max(start_0, LOW_0); p0 < min(start_0 + SIZE_0, FROM_0 + LOW_0); p0 = p0 + 1u) {
        for (var p1 = max(start_1, LOW_1); p1 < min(start_1 + SIZE_1, FROM_1 + LOW_1); p1 = p1 + 1u) {
            for (var p2 = max(start_2, LOW_2); p2 < min(start_2 + SIZE_2, FROM_2 + LOW_2); p2 = p2 + 1u) {
                let row = (((p0 - LOW_0) * FROM_1 + p1 - LOW_1) * FROM_2 + p2 - LOW_2) * FROM_3;
                for (var p3 = max(start_3, LOW_3); p3 < min(start_3 + SIZE_3, FROM_3 + LOW_3); p3 = p3 + 1u) {
                    total = combine(total, f32(source[row + p3 - LOW_3]));
                }
            }
        }
    }
    // end window
    write(i, total);
}
