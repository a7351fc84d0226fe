// Gradient of max or min windows, gathered: each element of x finds the windows that selected it. No atomics, so the order of the sum is fixed.
//
// Inputs: `x` f32 [FROM_0, .., FROM_3], `grad` f32 [TO_0, .., TO_3]. Output: `to` f32 [FROM_0, .., FROM_3].
// Grid: one invocation an element of x. It goes through the windows that cover it in row-major order and looks for each one's first best element (a NaN
// is best); cost: (size / stride)^axes windows of size^axes elements.
// Bounds: any COUNT; padding is never selected. CPU twin: `KernelOp::SelectAndScatter` in host/engine/src/cpu/.

alias X = f32; // of x and grad in memory
alias G = f32;

const COUNT: u32 = 64u;
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

// Position in x of the first best element of window (w0, w1, w2, w3), which covers at least one element.
fn selected(w0: u32, w1: u32, w2: u32, w3: u32) -> u32 {
    var best = 0xffffffffu;
    var best_value = 0.0;
    for (var p0 = max(w0 * STRIDE_0, LOW_0); p0 < min(w0 * STRIDE_0 + SIZE_0, FROM_0 + LOW_0); p0 = p0 + 1u) {
        for (var p1 = max(w1 * STRIDE_1, LOW_1); p1 < min(w1 * STRIDE_1 + SIZE_1, FROM_1 + LOW_1); p1 = p1 + 1u) {
            for (var p2 = max(w2 * STRIDE_2, LOW_2); p2 < min(w2 * STRIDE_2 + SIZE_2, FROM_2 + LOW_2); p2 = p2 + 1u) {
                let row = (((p0 - LOW_0) * FROM_1 + p1 - LOW_1) * FROM_2 + p2 - LOW_2) * FROM_3;
                for (var p3 = max(w3 * STRIDE_3, LOW_3); p3 < min(w3 * STRIDE_3 + SIZE_3, FROM_3 + LOW_3); p3 = p3 + 1u) {
                    let value = f32(x[row + p3 - LOW_3]);
                    if (best == 0xffffffffu || is_better(value, best_value)) {
                        best = row + p3 - LOW_3;
                        best_value = value;
                    }
                }
            }
        }
    }
    return best;
}

// First window that covers padded place p: the smallest w with w * stride + size > p.
fn first_window(p: u32, size: u32, stride: u32) -> u32 {
    return select(0u, (p - size) / stride + 1u, p >= size);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    let p3 = i % FROM_3 + LOW_3;
    let p2 = i / FROM_3 % FROM_2 + LOW_2;
    let p1 = i / (FROM_3 * FROM_2) % FROM_1 + LOW_1;
    let p0 = i / (FROM_3 * FROM_2 * FROM_1) + LOW_0;
    var total = 0.0;
    for (var w0 = first_window(p0, SIZE_0, STRIDE_0); w0 < min(p0 / STRIDE_0 + 1u, TO_0); w0 = w0 + 1u) {
        for (var w1 = first_window(p1, SIZE_1, STRIDE_1); w1 < min(p1 / STRIDE_1 + 1u, TO_1); w1 = w1 + 1u) {
            for (var w2 = first_window(p2, SIZE_2, STRIDE_2); w2 < min(p2 / STRIDE_2 + 1u, TO_2); w2 = w2 + 1u) {
                for (var w3 = first_window(p3, SIZE_3, STRIDE_3); w3 < min(p3 / STRIDE_3 + 1u, TO_3); w3 = w3 + 1u) {
                    if (selected(w0, w1, w2, w3) == i) {
                        total = total + f32(grad[((w0 * TO_1 + w1) * TO_2 + w2) * TO_3 + w3]);
                    }
                }
            }
        }
    }
    write(i, total);
}
