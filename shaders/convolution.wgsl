// Convolution (cross-correlation) as a matrix product: the operands that gpu/dot.rs puts into dot_general.wgsl or dot_general_subgroup.wgsl. The matrix of
// patches is never stored; its elements are looked up in x.
//
// Inputs: `lhs` weight [OUT_CHANNELS, CHANNELS / groups, KERNEL_0, KERNEL_1, KERNEL_2], `rhs` x [batch, CHANNELS, X_0, X_1, X_2].
// Output: [batch, OUT_CHANNELS, OUT_0, OUT_1, OUT_2]. Missing spatial axes have size 1.
// Grid to element: batch = group, row = output channel of the group, column = (batch entry, output position), inner = (channel of the group, tap).
// Bounds: any sizes; padding reads as 0. CPU twin: `KernelOp::Convolution` (`Forward`) in host/engine/src/cpu/.

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
    return (batch * GROUP_OUT + row) * (GROUP_CHANNELS * KERNEL_0 * KERNEL_1 * KERNEL_2) + k;
}

// What a column has to itself: position of its window in x, and its place along each axis; too large where it is below 0 (wrapped), so that one comparison
// finds both edges. The skeletons that go through many steps with the same columns work this out once.
fn rhs_column(batch: u32, column: u32) -> vec4<u32> {
    let entry = column / (OUT_0 * OUT_1 * OUT_2);
    let x_0 = column / (OUT_1 * OUT_2) % OUT_0 * STRIDE_0 - LOW_0;
    let x_1 = column / OUT_2 % OUT_1 * STRIDE_1 - LOW_1;
    let x_2 = column % OUT_2 * STRIDE_2 - LOW_2;
    return vec4<u32>((((entry * CHANNELS + batch * GROUP_CHANNELS) * X_0 + x_0) * X_1 + x_1) * X_2 + x_2, x_0, x_1, x_2);
}

// What a step adds to both: its channel and tap.
fn rhs_step(k: u32) -> vec4<u32> {
    let channel = k / (KERNEL_0 * KERNEL_1 * KERNEL_2);
    let tap_0 = k / (KERNEL_1 * KERNEL_2) % KERNEL_0 * DILATION_0;
    let tap_1 = k / KERNEL_2 % KERNEL_1 * DILATION_1;
    let tap_2 = k % KERNEL_2 * DILATION_2;
    return vec4<u32>(((channel * X_0 + tap_0) * X_1 + tap_1) * X_2 + tap_2, tap_0, tap_1, tap_2);
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
    let entry = column / (OUT_0 * OUT_1 * OUT_2);
    return (entry * OUT_CHANNELS + batch * GROUP_OUT + row) * (OUT_0 * OUT_1 * OUT_2) + column % (OUT_0 * OUT_1 * OUT_2);
}
