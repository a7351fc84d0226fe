// Functions of the elements of rows, with folds along the row between them: softmax, cross entropy, norms and their gradients.
//
// Inputs: as in map.wgsl, in `bindings`. Outputs: one array a store, for each element or for each row; both stand in `bindings`.
// Grid: a workgroup of 64 holds 64 / LANES teams; a team takes one row. Its lanes take steps of WIDTH elements in turn and meet at each fold in a binary
// tree in workgroup memory (LANES is 1 or 64). Each pass over the row reads its elements anew, from the first-level cache.
// Bounds: any ROWS >= 1; LENGTH at most 1024, a multiple of WIDTH. Teams past the end repeat the last row and store nothing.
// CPU twin: `KernelOp::Rows` in host/engine/src/cpu/ (another tree, so equal to rounding only).

const ROWS: u32 = 10u;
const LENGTH: u32 = 100u;
const WIDTH: u32 = 1u;
const LANES: u32 = 1u;
const GROUPS_X: u32 = 1u;

// begin bindings
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
// end bindings

// begin functions
var<workgroup> partials_f32: array<f32, 64>;

fn combine_sum_f32(x: f32, y: f32) -> f32 {
    return x + y;
}

fn fold_sum_f32(value: f32, lane: u32) -> f32 {
    if (LANES == 1u) {
        return value;
    }
    workgroupBarrier();
    partials_f32[lane] = value;
    workgroupBarrier();
    for (var distance = 32u; distance > 0u; distance = distance >> 1u) {
        if (lane < distance) {
            partials_f32[lane] = combine_sum_f32(partials_f32[lane], partials_f32[lane + distance]);
        }
        workgroupBarrier();
    }
    return partials_f32[0];
}
// end functions

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = ((group.y * GROUPS_X + group.x) * 64u + lane) / LANES;
    let o = min(row, ROWS - 1u);
    let first = lane % LANES * WIDTH;
    // begin row
    var acc = 0.0;
    for (var k = first; k < LENGTH; k = k + LANES * WIDTH) {
        acc = combine_sum_f32(acc, b0[o * LENGTH + k]);
    }
    let total = fold_sum_f32(acc, lane);
    for (var k = first; k < LENGTH; k = k + LANES * WIDTH) {
        if (row < ROWS) {
            b1[o * LENGTH + k] = b0[o * LENGTH + k] / total;
        }
    }
    // end row
}
