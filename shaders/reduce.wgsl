// Reduction of a function of the index over some axes of an iteration space, in a fixed tree.
//
// Inputs: as in map.wgsl, in `bindings`. Output: `to`, dense `[CHUNKS, OUTPUTS]`; with CHUNKS > 1 a second launch of this kernel reduces the chunks.
// Grid: a workgroup of 64 holds 64 / LANES teams; a team reduces one chunk of one output (WIDTH_OUT neighbouring outputs). Its lanes take steps of
// WIDTH_IN elements in turn, keep their own accumulators, and meet in a binary tree in workgroup memory (LANES is 1 or 64).
// Bounds: any OUTPUTS >= 1; LENGTH >= 1, a multiple of WIDTH_IN; OUTPUTS a multiple of WIDTH_OUT. The host bounds the steps of a lane, which bounds the
// rounding error of a sum (see gpu/reduce.rs).
// CPU twin: `KernelOp::Reduce` in host/engine/src/cpu/ (another tree, so equal to rounding only).
// Source: tree reduction after Harris, "Optimizing Parallel Reduction in CUDA", 2007.

alias T = f32;

const OUTPUTS: u32 = 10u;
const LENGTH: u32 = 100u;
const CHUNKS: u32 = 1u;
const STEPS: u32 = 100u; // of one lane in one chunk
const LANES: u32 = 1u;
const WIDTH_IN: u32 = 1u;
const WIDTH_OUT: u32 = 1u;
const GROUPS_X: u32 = 1u;

// begin bindings
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> to: array<T>;
// end bindings

// begin functions
fn combine(x: T, y: T) -> T {
    return x + y;
}

fn identity() -> T {
    return 0.0;
}
// end functions

var<workgroup> partials: array<T, 64>;

// Combines the values of the team's lanes; the result is valid in its first lane. One tree for each of the WIDTH_OUT outputs.
fn tree(value: T, lane: u32) -> T {
    if (LANES == 1u) {
        return value;
    }
    workgroupBarrier();
    partials[lane] = value;
    workgroupBarrier();
    for (var distance = 32u; distance > 0u; distance = distance >> 1u) {
        if (lane < distance) {
            partials[lane] = combine(partials[lane], partials[lane + distance]);
        }
        workgroupBarrier();
    }
    return partials[0];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let team = ((group.y * GROUPS_X + group.x) * 64u + lane) / LANES;
    let chunk = team / (OUTPUTS / WIDTH_OUT);
    let o = (team % (OUTPUTS / WIDTH_OUT)) * WIDTH_OUT;
    var acc_0 = identity();
    var acc_1 = identity();
    var acc_2 = identity();
    var acc_3 = identity();
    // Teams past the end have no steps, but come to the barriers.
    let steps = select(0u, STEPS, chunk < CHUNKS);
    for (var step = 0u; step < steps; step = step + 1u) {
        let k = ((chunk * STEPS + step) * LANES + lane % LANES) * WIDTH_IN;
        if (k >= LENGTH) {
            break;
        }
        // begin elements
        acc_0 = combine(acc_0, b0[o * LENGTH + k]);
        // end elements
    }
    // begin store
    let total = tree(acc_0, lane);
    if (chunk < CHUNKS && lane % LANES == 0u) {
        to[chunk * OUTPUTS + o] = total;
    }
    // end store
}
