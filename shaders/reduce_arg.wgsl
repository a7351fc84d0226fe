// Index of the first largest or smallest element along the middle axis. A NaN counts as largest (smallest).
//
// Inputs: `source` [OUTER, LENGTH, INNER]. Output: `to` i32 [OUTER, INNER].
// Grid: a workgroup of 64 holds 64 / LANES teams, one an output; the team's lanes take every LANES-th element and meet in a binary tree (LANES is 1 or 64).
// Bounds: OUTER * INNER = OUTPUTS of any number, LENGTH >= 1. CPU twin: `KernelOp::ReduceArg` in host/engine/src/cpu/.

alias T = f32;
alias S = f32; // of the source in memory

const OUTPUTS: u32 = 10u;
const LENGTH: u32 = 100u;
const INNER: u32 = 1u;
const LANES: u32 = 1u;
const IS_MAX: bool = true;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> source: array<S>;
@group(0) @binding(1) var<storage, read_write> to: array<i32>;

var<workgroup> best_values: array<T, 64>;
var<workgroup> best_indices: array<u32, 64>;

// begin is_nan
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
// end is_nan

// True when `x` goes before `y` whatever their places.
fn is_better(x: T, y: T) -> bool {
    let wins = select((x < y), (x > y), IS_MAX);
    return (wins && !is_nan(y)) || (is_nan(x) && !is_nan(y));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let output = ((group.y * GROUPS_X + group.x) * 64u + lane) / LANES;
    // Lanes past the end look at the last output again, so that all come to the barriers.
    let valid = min(output, OUTPUTS - 1u);
    let base = valid / INNER * (LENGTH * INNER) + valid % INNER;
    var index = min(lane % LANES, LENGTH - 1u);
    var value = T(source[base + index * INNER]);
    for (var k = index + LANES; k < LENGTH; k = k + LANES) {
        let candidate = T(source[base + k * INNER]);
        if (is_better(candidate, value)) {
            value = candidate;
            index = k;
        }
    }
    if (LANES > 1u) {
        best_values[lane] = value;
        best_indices[lane] = index;
        workgroupBarrier();
        for (var distance = 32u; distance > 0u; distance = distance >> 1u) {
            if (lane < distance) {
                let other = best_values[lane + distance];
                let other_index = best_indices[lane + distance];
                let mine = best_values[lane];
                let is_earlier = !is_better(mine, other) && other_index < best_indices[lane];
                if (is_better(other, mine) || is_earlier) {
                    best_values[lane] = other;
                    best_indices[lane] = other_index;
                }
            }
            workgroupBarrier();
        }
        index = best_indices[0];
    }
    if (output < OUTPUTS && lane % LANES == 0u) {
        to[output] = i32(index);
    }
}
