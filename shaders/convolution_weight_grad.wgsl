// Gradient of a convolution for its weight, as a matrix product: see convolution.wgsl. The inner axis is long (batch and positions): the skeleton splits it
// and a reduction over the splits follows, in a fixed order.
//
// Inputs: `lhs` the gradient [batch, OUT_CHANNELS, OUT_0, OUT_1, OUT_2], `rhs` x [batch, CHANNELS, X_0, X_1, X_2].
// Output: [OUT_CHANNELS, CHANNELS / groups, KERNEL_0, KERNEL_1, KERNEL_2].
// Grid to element: batch = group, row = output channel of the group, column = (channel of the group, tap), inner = (batch entry, output position).
// Bounds: any sizes; padding reads as 0. CPU twin: `KernelOp::Convolution` (`WeightGrad`) in host/engine/src/cpu/.

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
const IS_PADDED: bool = true; // some taps fall beside x

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
    let positions = OUT_0 * OUT_1 * OUT_2;
    return (k / positions * OUT_CHANNELS + batch * GROUP_OUT + row) * positions + k % positions;
}

// Channel and tap of a column, as position in x and place along each axis: see convolution.wgsl.
fn rhs_column(batch: u32, column: u32) -> vec4<u32> {
    let channel = batch * GROUP_CHANNELS + column / (KERNEL_0 * KERNEL_1 * KERNEL_2);
    let tap_0 = column / (KERNEL_1 * KERNEL_2) % KERNEL_0 * DILATION_0 - LOW_0;
    let tap_1 = column / KERNEL_2 % KERNEL_1 * DILATION_1 - LOW_1;
    let tap_2 = column % KERNEL_2 * DILATION_2 - LOW_2;
    return vec4<u32>(((channel * X_0 + tap_0) * X_1 + tap_1) * X_2 + tap_2, tap_0, tap_1, tap_2);
}

// Batch entry and output position of a step.
fn rhs_step(k: u32) -> vec4<u32> {
    let entry = k / (OUT_0 * OUT_1 * OUT_2);
    let x_0 = k / (OUT_1 * OUT_2) % OUT_0 * STRIDE_0;
    let x_1 = k / OUT_2 % OUT_1 * STRIDE_1;
    let x_2 = k % OUT_2 * STRIDE_2;
    return vec4<u32>(((entry * CHANNELS * X_0 + x_0) * X_1 + x_1) * X_2 + x_2, x_0, x_1, x_2);
}

fn load_rhs_at(column: vec4<u32>, step: vec4<u32>) -> f32 {
    let place = column + step;
    if (!IS_PADDED) {
        return rhs_at(place.x);
    }
    let is_inside = place.y < X_0 && place.z < X_1 && place.w < X_2;
    return select(0.0, rhs_at(select(0u, place.x, is_inside)), is_inside);
}

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    return load_rhs_at(rhs_column(batch, column), rhs_step(k));
}

fn address(batch: u32, row: u32, column: u32) -> u32 {
    return (batch * GROUP_OUT + row) * COLUMNS_OF_WEIGHT + column;
}

const COLUMNS_OF_WEIGHT: u32 = GROUP_CHANNELS * KERNEL_0 * KERNEL_1 * KERNEL_2;
