// Batched matrix product for software adapters, where an access to memory costs as much as many products and workgroup memory saves nothing: a subgroup of
// SIZE lanes owns a tile; each lane loads a share of the left operand, which the others take by subgroup broadcast, and owns some columns of the right.
// With SIZE = 1 every invocation owns a tile of its own and no subgroup operation is left.
//
// Inputs, output, splits: as in dot_general.wgsl. Grid: workgroup = ((split * batches + batch) * TILES_ROW + tile row) * TILES_COLUMN + tile column for
// SIZE > 1, an invocation of workgroups of 32 in the same order for SIZE = 1. The unrolled `tile` is written by gpu/dot/subgroup.rs, which says why it is so.
// Bounds: any ROWS, COLUMNS >= 1, any INNER: addresses are clamped into the matrices, results outside are not written.
// CPU twin: `KernelOp::Dot` in host/engine/src/cpu/.

const ROWS: u32 = 100u;
const COLUMNS: u32 = 100u;
const INNER: u32 = 100u;
const BATCHES: u32 = 1u;
const SPLITS: u32 = 1u;
const SPLIT_LENGTH: u32 = 100u; // of the inner axis, a multiple of 4
const TOTAL: u32 = 10000u; // elements of the result
const TILES_ROW: u32 = 100u;
const TILES_COLUMN: u32 = 13u;
const SIZE: u32 = 8u; // of a subgroup, or 1
const LANES: u32 = 8u; // of a workgroup: SIZE, or 32
const GROUPS_X: u32 = 1300u;
const WIDTH: u32 = 1u; // results of a store, neighbours in a row: 1, or 4
const IS_FILLED: bool = false; // no tile reaches over an edge

alias T = f32; // WIDTH results

// begin to
@group(0) @binding(2) var<storage, read_write> to: array<T>;

// The product's elements from `position` on; an epilogue takes the place of this.
fn write(position: u32, product: T) {
    to[position / WIDTH] = product;
}
// end to

// begin operands
// begin lhs
@group(0) @binding(0) var<storage, read> lhs: array<f32>;

fn load_lhs(batch: u32, row: u32, k: u32) -> f32 {
    return lhs[lhs_position(batch, row, k)];
}
// end lhs

// begin rhs
@group(0) @binding(1) var<storage, read> rhs: array<f32>;

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    return rhs[rhs_position(batch, k, column)];
}
// end rhs

fn lhs_position(batch: u32, row: u32, k: u32) -> u32 {
    return batch * (ROWS * INNER) + row * INNER + k;
}

fn rhs_position(batch: u32, k: u32, column: u32) -> u32 {
    return batch * (INNER * COLUMNS) + k * COLUMNS + column;
}

fn address(batch: u32, row: u32, column: u32) -> u32 {
    return (batch * ROWS + row) * COLUMNS + column;
}
// end operands

fn store(split: u32, batch: u32, row: u32, column: u32, value: T) {
    if (IS_FILLED || (split < SPLITS && row < ROWS && column < COLUMNS)) {
        write(split * TOTAL + address(batch, row, column), value);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let tile = ((group.y * GROUPS_X + group.x) * LANES + index) / SIZE;
    let lane = index % SIZE;
    let batch = tile / (TILES_COLUMN * TILES_ROW) % BATCHES;
    let split = tile / (TILES_COLUMN * TILES_ROW * BATCHES);
    let k_start = min(INNER, split * SPLIT_LENGTH);
    let k_end = select(0u, min(INNER, k_start + SPLIT_LENGTH), split < SPLITS);
    // begin tile
    // A tile of one row and SIZE columns.
    let row_0 = tile / TILES_COLUMN % TILES_ROW;
    let column_0 = tile % TILES_COLUMN * SIZE;
    let column = min(column_0 + lane, COLUMNS - 1u);
    var acc_0 = 0.0;
    for (var k = k_start; k < k_end; k = k + 1u) {
        acc_0 = acc_0 + subgroupBroadcast(load_lhs(batch, row_0, k), 0u) * load_rhs(batch, k, column);
    }
    store(split, batch, row_0, column_0 + lane, acc_0);
    // end tile
}
