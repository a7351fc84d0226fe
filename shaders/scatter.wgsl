// The reverse of a gather, for few indices: each element of the result goes through all indices in their order.
//
// Inputs: `source` [batch, OUTER, LENGTH, INNER], `indices` [batch, INDEX_COUNT], `updates` [batch, OUTER, INDEX_COUNT, INNER].
// Output: `to` [batch, OUTER, LENGTH, INNER]; it may be `source` (then `load` reads `to`).
// Grid: one invocation an element of `to`. No atomics: the order of the updates is the order of the indices.
// Bounds: any COUNT, LENGTH >= 1, INDEX_COUNT from 0. CPU twin: `KernelOp::Scatter` in host/engine/src/cpu/.

alias T = f32;

const COUNT: u32 = 64u;
const OUTER: u32 = 1u;
const LENGTH: u32 = 10u;
const INDEX_COUNT: u32 = 8u;
const INNER: u32 = 8u;
const INDICES_UNSIGNED: bool = false;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> updates: array<T>;
@group(0) @binding(2) var<storage, read_write> to: array<T>;

// begin load
@group(0) @binding(3) var<storage, read> source: array<T>;

fn load(position: u32) -> T {
    return source[position];
}
// end load

// begin combine
fn combine(old: T, update: T) -> T {
    return old + update;
}
// end combine

fn clamped(bits: u32) -> u32 {
    let is_negative = !INDICES_UNSIGNED && bits > 0x7fffffffu;
    return select(min(bits, LENGTH - 1u), 0u, is_negative);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    let s = i % INNER;
    let row = i / INNER % LENGTH;
    let o = i / (INNER * LENGTH) % OUTER;
    let b = i / (INNER * LENGTH * OUTER);
    var value = load(i);
    for (var place = 0u; place < INDEX_COUNT; place = place + 1u) {
        if (clamped(indices[b * INDEX_COUNT + place]) == row) {
            value = combine(value, updates[((b * OUTER + o) * INDEX_COUNT + place) * INNER + s]);
        }
    }
    to[i] = value;
}
