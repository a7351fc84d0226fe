// Attention, gradient: the weights are worked out anew from the log sums of the forward kernel. Two launches: lanes that own a query make what flows to q,
// lanes that own a key make what flows to k and v; neither needs an atomic.
//
// Inputs: rows of the own and of the other side behind `load_own_a`, `load_own_b`, `load_other_a`, `load_other_b` (q beside what flows to the result,
// k beside v), four neighbours along a row at a time; log sums and `sums` (of the result and what flows to it) [entry, QUERIES]. Outputs: `store_a`, `store_b`.
// Grid: workgroup (a fold of x and y) = entry * BLOCKS + block of LANES own rows; one row a lane.
// Bounds: any sizes >= 1; rows outside are clamped and not written. gpu/attention.rs writes the body out for its sizes and its target, as for attention.wgsl.
// CPU twin: `KernelOp::Attention` in host/engine/src/cpu/attention.rs.
// Source: Dao, "FlashAttention-2", 2023, section 3.1.2.

const ENTRIES: u32 = 1u;
const OWNS: u32 = 16u; // rows of the own side
const OTHERS: u32 = 16u; // rows of the other side
const BLOCKS: u32 = 1u;
const LANES: u32 = 64u;
const OWNS_KEYS: bool = false;
const CAUSAL: bool = true;
const SCALE: f32 = 1.0;
const GROUPS_X: u32 = 1u;

// begin operands
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> log_sums: array<f32>;
@group(0) @binding(5) var<storage, read> sums: array<f32>;
@group(0) @binding(6) var<storage, read_write> to: array<vec4<f32>>;

fn load_own_a(entry: u32, row: u32) -> vec4<f32> {
    return q[entry * OWNS + row];
}

fn load_own_b(entry: u32, row: u32) -> vec4<f32> {
    return grad[entry * OWNS + row];
}

fn load_other_a(entry: u32, row: u32) -> vec4<f32> {
    return k[entry * OTHERS + row];
}

fn load_other_b(entry: u32, row: u32) -> vec4<f32> {
    return v[entry * OTHERS + row];
}

fn store_a(entry: u32, row: u32, value: vec4<f32>) {
    to[entry * OWNS + row] = value;
}
// end operands

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.y * GROUPS_X + group.x;
    let entry = min(tile / BLOCKS, ENTRIES - 1u);
    let first = tile % BLOCKS * LANES;
    let own = first + lane;
    let row = min(own, OWNS - 1u);
    let is_mine = own < OWNS && tile < ENTRIES * BLOCKS;
    // The same for all lanes, so that they keep in step: a key is seen by the queries from its own place on.
    let others_start = select(0u, first, CAUSAL && OWNS_KEYS);
    let others_end = select(OTHERS, min(OTHERS, first + LANES), CAUSAL && !OWNS_KEYS);
    // begin body
    let a = load_own_a(entry, row);
    let b = load_own_b(entry, row);
    let log_sum = log_sums[entry * OWNS + row];
    let own_sum = sums[entry * OWNS + row];
    var to_a = vec4<f32>();
    for (var other = others_start; other < others_end; other = other + 1u) {
        let other_a = load_other_a(entry, other);
        let is_seen = !CAUSAL || other <= row;
        let weight = select(0.0, exp(dot(a, other_a) * SCALE - log_sum), is_seen);
        let flow = weight * (dot(b, load_other_b(entry, other)) - own_sum) * SCALE;
        to_a = to_a + flow * other_a;
    }
    if (is_mine) {
        store_a(entry, row, to_a);
    }
    // end body
}
