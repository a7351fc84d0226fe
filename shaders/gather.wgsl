// Rows of a tensor by index: `to[b, o, i, s] = source[b, o, clamp(indices[b, i]), s]`.
//
// Inputs: `source` [batch, OUTER, LENGTH, INNER], `indices` [batch, INDEX_COUNT] (i32, or u32 where INDICES_UNSIGNED).
// Output: `to` [batch, OUTER, INDEX_COUNT, INNER]. 32-bit elements move as bits, four at once where INNER allows (alias T); bytes are widened by `convert`.
// Grid: one invocation an element of T of `to`. Bounds: any COUNT, LENGTH >= 1. CPU twin: `KernelOp::Gather` in host/engine/src/cpu/.

alias T = u32;

const COUNT: u32 = 64u;
const OUTER: u32 = 1u;
const LENGTH: u32 = 10u;
const INDEX_COUNT: u32 = 8u;
const INNER: u32 = 8u; // in elements of T
const INDICES_UNSIGNED: bool = false;
const GROUPS_X: u32 = 1u;

@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> to: array<T>;

// begin load
@group(0) @binding(0) var<storage, read> source: array<T>;

fn load(position: u32) -> T {
    return source[position];
}
// end load

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * GROUPS_X + group.x) * 64u + lane;
    if (i >= COUNT) {
        return;
    }
    let s = i % INNER;
    let place = i / INNER % INDEX_COUNT;
    let o = i / (INNER * INDEX_COUNT) % OUTER;
    let b = i / (INNER * INDEX_COUNT * OUTER);
    let bits = indices[b * INDEX_COUNT + place];
    let is_negative = !INDICES_UNSIGNED && bits > 0x7fffffffu;
    let index = select(min(bits, LENGTH - 1u), 0u, is_negative);
    to[i] = load(((b * OUTER + o) * LENGTH + index) * INNER + s);
}
