// Elementwise kernel: one function of the index, read from strided views, written to strided views.
//
// Inputs: any number of arrays, read through views on the iteration space. Outputs: one array a store. Both stand in `bindings`, which the engine writes.
// Grid: invocation `i` (a fold of x and y) runs `WIDTH` neighbouring elements from `i * WIDTH`; `elements` holds the function for all of them.
// Bounds: COUNT elements of any number; the last invocation may touch the padding (up to a multiple of four words) of a buffer that the space fills.
// CPU twin: `KernelOp::Map` in host/engine/src/cpu/.

const COUNT: u32 = 1000u;
const WIDTH: u32 = 1u;
const GROUPS_X: u32 = 16u;
const LANES: u32 = 64u;

// begin bindings
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
// end bindings

// begin functions
// end functions

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = ((group.y * GROUPS_X + group.x) * LANES + lane) * WIDTH;
    // begin bounds
    if (i >= COUNT) {
        return;
    }
    // end bounds
    // begin elements
    b1[i] = b0[i];
    // end elements
}
