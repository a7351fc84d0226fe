// Attention, forward: a lane owns a query and goes through the keys a block at a time with a running maximum, so no score is ever written.
//
// Inputs: q, k, v behind `load_own` [entry, QUERIES, DIM], `load_key` [entry, KEYS, DIM] and `load_value` [entry, KEYS, WIDTH], four neighbours along a row
// at a time. Outputs: `store_result` [entry, QUERIES, WIDTH] and `store_log_sum` [entry, QUERIES].
// Grid: workgroup (a fold of x and y) = entry * BLOCKS + block of LANES queries; one query a lane.
// Bounds: any sizes >= 1; rows outside are clamped and not written. gpu/attention.rs writes the body out for its sizes and its target: keys come from
// workgroup memory on hardware, by subgroup broadcast on software adapters.
// CPU twin: `KernelOp::Attention` in host/engine/src/cpu/attention.rs.
// Source: Dao et al., "FlashAttention", 2022, algorithm 1.

const ENTRIES: u32 = 1u;
const QUERIES: u32 = 16u;
const KEYS: u32 = 16u;
const BLOCKS: u32 = 1u;
const LANES: u32 = 64u;
const CAUSAL: bool = true;
const SCALE: f32 = 1.0;
const GROUPS_X: u32 = 1u;

// begin operands
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> result: array<vec4<f32>>;

fn load_own(entry: u32, row: u32) -> vec4<f32> {
    return q[entry * QUERIES + row];
}

fn load_key(entry: u32, row: u32) -> vec4<f32> {
    return k[entry * KEYS + row];
}

fn load_value(entry: u32, row: u32) -> vec4<f32> {
    return v[entry * KEYS + row];
}

fn store_result(entry: u32, row: u32, value: vec4<f32>) {
    result[entry * QUERIES + row] = value;
}
// end operands

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.y * GROUPS_X + group.x;
    let entry = min(tile / BLOCKS, ENTRIES - 1u);
    let first = tile % BLOCKS * LANES;
    let own = first + lane;
    let row = min(own, QUERIES - 1u);
    let is_mine = own < QUERIES && tile < ENTRIES * BLOCKS;
    // The same for all lanes, so that they keep in step.
    let others_end = select(KEYS, min(KEYS, first + LANES), CAUSAL);
    // begin body
    let query = load_own(entry, row);
    var result_row = vec4<f32>();
    var most = -1e30;
    var sum = 0.0;
    for (var other = 0u; other < others_end; other = other + 1u) {
        let score = select(-1e30, dot(query, load_key(entry, other)) * SCALE, !CAUSAL || other <= row);
        let larger = max(most, score);
        let kept = exp(most - larger);
        let weight = exp(score - larger);
        sum = sum * kept + weight;
        result_row = result_row * kept + weight * load_value(entry, other);
        most = larger;
    }
    if (is_mine) {
        store_result(entry, row, result_row / sum);
    }
    // end body
}
