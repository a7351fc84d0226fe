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

// begin lhs
@group(0) @binding(0) var<storage, read> lhs: array<f32>;

fn load_lhs(batch: u32, row: u32, k: u32) -> f32 {
    return lhs[lhs_position(batch, row, k)];
}
// end lhs

@group(0) @binding(1) var<storage, read> rhs: array<f32>;

fn lhs_position(batch: u32, row: u32, k: u32) -> u32 {
    return (batch * GROUP_OUT + row) * (GROUP_CHANNELS * KERNEL_0 * KERNEL_1 * KERNEL_2) + k;
}

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    let entry = column / (OUT_0 * OUT_1 * OUT_2);
    let channel = batch * GROUP_CHANNELS + k / (KERNEL_0 * KERNEL_1 * KERNEL_2);
    // Too large by LOW, and wrapped below 0, so that one comparison finds both edges.
    let x_0 = column / (OUT_1 * OUT_2) % OUT_0 * STRIDE_0 + k / (KERNEL_1 * KERNEL_2) % KERNEL_0 * DILATION_0 - LOW_0;
    let x_1 = column / OUT_2 % OUT_1 * STRIDE_1 + k / KERNEL_2 % KERNEL_1 * DILATION_1 - LOW_1;
    let x_2 = column % OUT_2 * STRIDE_2 + k % KERNEL_2 * DILATION_2 - LOW_2;
    if (x_0 >= X_0 || x_1 >= X_1 || x_2 >= X_2) {
        return 0.0;
    }
    return rhs[(((entry * CHANNELS + channel) * X_0 + x_0) * X_1 + x_1) * X_2 + x_2];
}

fn address(batch: u32, row: u32, column: u32) -> u32 {
    let entry = column / (OUT_0 * OUT_1 * OUT_2);
    return (entry * OUT_CHANNELS + batch * GROUP_OUT + row) * (OUT_0 * OUT_1 * OUT_2) + column % (OUT_0 * OUT_1 * OUT_2);
}
