// The reverse of a gather, for many indices: a workgroup owns 64 elements of one row, its lanes look for the row among the indices together.
//
// Inputs and output as in scatter.wgsl. Grid: workgroup (a fold of x and y) = row * BLOCKS + block; row `r` is row `r % LENGTH` of batch entry
// `r / LENGTH`, a block is 64 of its OUTER * INNER elements, one a lane. 64 indices at a time become a bit mask in workgroup memory, whose bits are taken in
// order: no float atomics, and the order of the updates is the order of the indices.
// Bounds: as in scatter.wgsl, with ROWS = batch * LENGTH; indices START to END of each batch entry, so that long lists can be done in several launches.
// CPU twin: `KernelOp::Scatter` in host/engine/src/cpu/.

alias T = f32;

const ROWS: u32 = 10u;
const OUTER: u32 = 1u;
const LENGTH: u32 = 10u;
const INDEX_COUNT: u32 = 100u;
const START: u32 = 0u;
const END: u32 = 100u;
const BLOCKS: u32 = 1u;
const INNER: u32 = 8u;
const INDICES_UNSIGNED: bool = false;
const GROUPS_X: u32 = 10u;

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

var<workgroup> masks: array<atomic<u32>, 2>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.y * GROUPS_X + group.x;
    let r = tile / BLOCKS;
    let b = r / LENGTH;
    let row = r % LENGTH;
    let element = tile % BLOCKS * 64u + lane;
    let is_mine = r < ROWS && element < OUTER * INNER;
    let o = element / INNER;
    let s = element % INNER;
    let position = ((b * OUTER + o) * LENGTH + row) * INNER + s;
    var value = T();
    if (is_mine) {
        value = load(position);
    }
    // All lanes go through the indices in step, 64 at a time, so that all come to the barriers.
    for (var start = START; start < END; start = start + 64u) {
        if (lane < 2u) {
            atomicStore(&masks[lane], 0u);
        }
        workgroupBarrier();
        let place = start + lane;
        if (r < ROWS && place < END && clamped(indices[b * INDEX_COUNT + place]) == row) {
            atomicOr(&masks[lane >> 5u], 1u << (lane & 31u));
        }
        workgroupBarrier();
        for (var word = 0u; word < 2u; word = word + 1u) {
            var mask = atomicLoad(&masks[word]);
            while (mask != 0u) {
                let hit = start + word * 32u + countTrailingZeros(mask);
                mask = mask & (mask - 1u);
                if (is_mine) {
                    value = combine(value, updates[((b * OUTER + o) * INDEX_COUNT + hit) * INNER + s]);
                }
            }
        }
        workgroupBarrier();
    }
    if (is_mine) {
        to[position] = value;
    }
}
