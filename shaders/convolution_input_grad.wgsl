// Gradient of a convolution for its input (the transposed convolution), as a matrix product: see convolution.wgsl.
//
// Inputs: `lhs` weight [OUT_CHANNELS, CHANNELS / groups, KERNEL_0, KERNEL_1, KERNEL_2], `rhs` the gradient [batch, OUT_CHANNELS, OUT_0, OUT_1, OUT_2].
// Output: [batch, CHANNELS, X_0, X_1, X_2].
// Grid to element: batch = group, row = channel of the group, column = (batch entry, position in x), inner = (output channel of the group, tap).
// Bounds: any sizes; positions that no window reaches get 0. CPU twin: `KernelOp::Convolution` (`InputGrad`) in host/engine/src/cpu/.

const CHANNELS: u32 = 3u;
const OUT_CHANNELS: u32 = 8u;
const GROUP_CHANNELS: u32 = 3u; // of x
const GROUP_OUT: u32 = 8u;
const X_0: u32 = 1u;
const X_1: u32 = 9u;
const X_2: u32 = 9u;
const KERNEL_0: u32 = 1u;
const KERNEL_1: u32 = 3u;
const KERNEL_2: u32 = 3u;
const OUT_0: u32 = 1u;
const OUT_1: u32 = 7u;
const OUT_2: u32 = 7u;
const STRIDE_0: u32 = 1u;
const STRIDE_1: u32 = 1u;
const STRIDE_2: u32 = 1u;
const LOW_0: u32 = 0u;
const LOW_1: u32 = 0u;
const LOW_2: u32 = 0u;
const DILATION_0: u32 = 1u;
const DILATION_1: u32 = 1u;
const DILATION_2: u32 = 1u;

// begin lhs
@group(0) @binding(0) var<storage, read> lhs: array<f32>;

fn load_lhs(batch: u32, row: u32, k: u32) -> f32 {
    return lhs[lhs_position(batch, row, k)];
}
// end lhs

// begin rhs
@group(0) @binding(1) var<storage, read> rhs: array<f32>;

fn rhs_at(position: u32) -> f32 {
    return rhs[position];
}
// end rhs

fn lhs_position(batch: u32, row: u32, k: u32) -> u32 {
    let taps = KERNEL_0 * KERNEL_1 * KERNEL_2;
    return ((batch * GROUP_OUT + k / taps) * GROUP_CHANNELS + row) * taps + k % taps;
}

// Batch entry of a column in the gradient, and its place along each axis of x from the edge of the padding on: see convolution.wgsl.
fn rhs_column(batch: u32, column: u32) -> vec4<u32> {
    let entry = column / (X_0 * X_1 * X_2);
    let first = (entry * OUT_CHANNELS + batch * GROUP_OUT) * (OUT_0 * OUT_1 * OUT_2);
    return vec4<u32>(first, column / (X_1 * X_2) % X_0 + LOW_0, column / X_2 % X_1 + LOW_1, column % X_2 + LOW_2);
}

// Output channel of a step in the gradient, and its tap.
fn rhs_step(k: u32) -> vec4<u32> {
    let channel = k / (KERNEL_0 * KERNEL_1 * KERNEL_2) * (OUT_0 * OUT_1 * OUT_2);
    let tap_0 = k / (KERNEL_1 * KERNEL_2) % KERNEL_0 * DILATION_0;
    return vec4<u32>(channel, tap_0, k / KERNEL_2 % KERNEL_1 * DILATION_1, k % KERNEL_2 * DILATION_2);
}

fn load_rhs_at(column: vec4<u32>, step: vec4<u32>) -> f32 {
    // The window that reaches the column's position by this tap starts at `p`: it is there when p is not below 0 (wrapped: large) and a multiple of the stride.
    let p = column.yzw - step.yzw;
    let o_0 = p.x / STRIDE_0;
    let o_1 = p.y / STRIDE_1;
    let o_2 = p.z / STRIDE_2;
    let is_start = (p.x % STRIDE_0) + (p.y % STRIDE_1) + (p.z % STRIDE_2) == 0u;
    let is_inside = is_start && o_0 < OUT_0 && o_1 < OUT_1 && o_2 < OUT_2;
    let position = column.x + step.x + (o_0 * OUT_1 + o_1) * OUT_2 + o_2;
    return select(0.0, rhs_at(select(0u, position, is_inside)), is_inside);
}

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    return load_rhs_at(rhs_column(batch, column), rhs_step(k));
}

fn address(batch: u32, row: u32, column: u32) -> u32 {
    let entry = column / (X_0 * X_1 * X_2);
    return (entry * CHANNELS + batch * GROUP_CHANNELS + row) * (X_0 * X_1 * X_2) + column % (X_0 * X_1 * X_2);
}
