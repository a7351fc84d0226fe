// Gradient of max or min windows that cover x without gaps and overlaps: see select_and_scatter.wgsl, which does the others. Each window is looked at once.
//
// Inputs: `x` f32 [FROM_0, .., FROM_3], `grad` f32 [TO_0, .., TO_3]. Output: `to` f32 [FROM_0, .., FROM_3].
// Grid: one invocation a window, which writes all of its elements: the gradient to the first best one (a NaN is best), 0 to the others. The unrolled
// `window` is written by gpu/indexing.rs.
// Bounds: any COUNT; windows of a few elements. CPU twin: `KernelOp::SelectAndScatter` in host/engine/src/cpu/.

alias X = f32; // of x and grad in memory
alias G = f32;

const COUNT: u32 = 16u; // windows
const FROM_1: u32 = 1u;
const FROM_2: u32 = 8u;
const FROM_3: u32 = 8u;
const TO_1: u32 = 1u;
const TO_2: u32 = 4u;
const TO_3: u32 = 4u;
const SIZE_0: u32 = 1u;
const SIZE_1: u32 = 1u;
const SIZE_2: u32 = 2u;
const SIZE_3: u32 = 2u;
const IS_MAX: bool = true;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> grad: array<G>;
// begin write
@group(0) @binding(2) var<storage, read_write> to: array<f32>;

fn write(position: u32, value: f32) {
    to[position] = value;
}
// end write

fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

fn is_better(a: f32, b: f32) -> bool {
    let wins = select((a < b), (a > b), IS_MAX);
    return (wins && !is_nan(b)) || (is_nan(a) && !is_nan(b));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    let p3 = i % TO_3 * SIZE_3;
    let p2 = i / TO_3 % TO_2 * SIZE_2;
    let p1 = i / (TO_3 * TO_2) % TO_1 * SIZE_1;
    let p0 = i / (TO_3 * TO_2 * TO_1) * SIZE_0;
    let first = ((p0 * FROM_1 + p1) * FROM_2 + p2) * FROM_3 + p3;
    // begin window
    let position_0 = first;
    let position_1 = first + 1u;
    let position_2 = first + FROM_3;
    let position_3 = first + FROM_3 + 1u;
    var best = 0u;
    var best_value = f32(x[position_0]);
    let value_1 = f32(x[position_1]);
    if (is_better(value_1, best_value)) {
        best = 1u;
        best_value = value_1;
    }
    let value_2 = f32(x[position_2]);
    if (is_better(value_2, best_value)) {
        best = 2u;
        best_value = value_2;
    }
    let value_3 = f32(x[position_3]);
    if (is_better(value_3, best_value)) {
        best = 3u;
        best_value = value_3;
    }
    let value = f32(grad[i]);
    write(position_0, select(0.0, value, best == 0u));
    write(position_1, select(0.0, value, best == 1u));
    write(position_2, select(0.0, value, best == 2u));
    write(position_3, select(0.0, value, best == 3u));
    // end window
}
