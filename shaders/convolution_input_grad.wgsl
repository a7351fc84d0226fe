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

@group(0) @binding(1) var<storage, read> rhs: array<f32>;

fn lhs_position(batch: u32, row: u32, k: u32) -> u32 {
    let taps = KERNEL_0 * KERNEL_1 * KERNEL_2;
    return ((batch * GROUP_OUT + k / taps) * GROUP_CHANNELS + row) * taps + k % taps;
}

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    let entry = column / (X_0 * X_1 * X_2);
    let channel = batch * GROUP_OUT + k / (KERNEL_0 * KERNEL_1 * KERNEL_2);
    // The window that reaches this position by this tap starts at `p`: it is there when p is not below 0 (wrapped: large) and a multiple of the stride.
    let p_0 = column / (X_1 * X_2) % X_0 + LOW_0 - k / (KERNEL_1 * KERNEL_2) % KERNEL_0 * DILATION_0;
    let p_1 = column / X_2 % X_1 + LOW_1 - k / KERNEL_2 % KERNEL_1 * DILATION_1;
    let p_2 = column % X_2 + LOW_2 - k % KERNEL_2 * DILATION_2;
    let o_0 = p_0 / STRIDE_0;
    let o_1 = p_1 / STRIDE_1;
    let o_2 = p_2 / STRIDE_2;
    let is_between = (p_0 % STRIDE_0) + (p_1 % STRIDE_1) + (p_2 % STRIDE_2) != 0u;
    if (is_between || o_0 >= OUT_0 || o_1 >= OUT_1 || o_2 >= OUT_2) {
        return 0.0;
    }
    return rhs[(((entry * OUT_CHANNELS + channel) * OUT_0 + o_0) * OUT_1 + o_1) * OUT_2 + o_2];
}

fn address(batch: u32, row: u32, column: u32) -> u32 {
    let entry = column / (X_0 * X_1 * X_2);
    return (entry * CHANNELS + batch * GROUP_CHANNELS + row) * (X_0 * X_1 * X_2) + column % (X_0 * X_1 * X_2);
}
