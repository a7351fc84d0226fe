// Batched matrix product for hardware GPUs: workgroup tiles in workgroup memory, 4 x 4 results an invocation. Also the skeleton of the convolutions,
// which bring their own `operands` (convolution*.wgsl).
//
// Inputs: two matrices behind `load_lhs` [batch, ROWS, INNER] and `load_rhs` [batch, INNER, COLUMNS]. Output: `to`, at `address(batch, row, column)`; with
// SPLITS > 1 the inner axis is cut, `to` is `[SPLITS, TOTAL]` and a reduction over the splits follows (fixed order: no atomics).
// Grid: workgroup (a fold of x and y) = ((split * batches + batch) * TILES_ROW + tile row) * TILES_COLUMN + tile column; a tile is SIDE * 4 squared.
// Bounds: any ROWS, COLUMNS >= 1, any INNER: what lies outside reads as 0 and is not written.
// CPU twin: `KernelOp::Dot` in host/engine/src/cpu/ (another order of the sum, so equal to rounding only).

const ROWS: u32 = 100u;
const COLUMNS: u32 = 100u;
const INNER: u32 = 100u;
const BATCHES: u32 = 1u;
const SPLITS: u32 = 1u;
const SPLIT_LENGTH: u32 = 100u; // of the inner axis, a multiple of 16
const TOTAL: u32 = 10000u; // elements of the result
const TILES_ROW: u32 = 2u;
const TILES_COLUMN: u32 = 2u;
const SIDE: u32 = 16u; // invocations along a side of the tile: 16 or 8
const LHS_INNER_FIRST: bool = true; // neighbours along the inner axis are neighbours in memory
const RHS_INNER_FIRST: bool = false;
const GROUPS_X: u32 = 4u;

// begin to
@group(0) @binding(2) var<storage, read_write> to: array<f32>;

// The product's element; an epilogue takes the place of this.
fn write(position: u32, product: f32) {
    to[position] = product;
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

const TILE: u32 = SIDE * 4u;
const THREADS: u32 = SIDE * SIDE;

// 16 steps of the inner axis, the tile's rows (columns) in groups of four.
var<workgroup> lhs_tile: array<vec4<f32>, 16u * SIDE>;
var<workgroup> rhs_tile: array<vec4<f32>, 16u * SIDE>;

fn store(split: u32, batch: u32, row: u32, column: u32, values: vec4<f32>) {
    for (var j = 0u; j < 4u; j = j + 1u) {
        if (row < ROWS && column + j < COLUMNS) {
            write(split * TOTAL + address(batch, row, column + j), values[j]);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.y * GROUPS_X + group.x;
    let column_0 = tile % TILES_COLUMN * TILE;
    let row_0 = tile / TILES_COLUMN % TILES_ROW * TILE;
    let batch = tile / (TILES_COLUMN * TILES_ROW) % BATCHES;
    let split = tile / (TILES_COLUMN * TILES_ROW * BATCHES);
    // Workgroups that only fill the grid have nothing to add up, but keep in step.
    let k_end = select(0u, min(INNER, (split + 1u) * SPLIT_LENGTH), split < SPLITS);
    let thread_row = lane / SIDE;
    let thread_column = lane % SIDE;
    var acc_0 = vec4<f32>();
    var acc_1 = vec4<f32>();
    var acc_2 = vec4<f32>();
    var acc_3 = vec4<f32>();
    for (var k_0 = split * SPLIT_LENGTH; k_0 < k_end; k_0 = k_0 + 16u) {
        for (var element = lane; element < 16u * TILE; element = element + THREADS) {
            let lhs_k = select(element / TILE, element % 16u, LHS_INNER_FIRST);
            let lhs_row = select(element % TILE, element / 16u, LHS_INNER_FIRST);
            var value = 0.0;
            if (row_0 + lhs_row < ROWS && k_0 + lhs_k < k_end) {
                value = load_lhs(batch, row_0 + lhs_row, k_0 + lhs_k);
            }
            lhs_tile[lhs_k * SIDE + lhs_row / 4u][lhs_row % 4u] = value;
            let rhs_k = select(element / TILE, element % 16u, RHS_INNER_FIRST);
            let rhs_column = select(element % TILE, element / 16u, RHS_INNER_FIRST);
            value = 0.0;
            if (column_0 + rhs_column < COLUMNS && k_0 + rhs_k < k_end) {
                value = load_rhs(batch, k_0 + rhs_k, column_0 + rhs_column);
            }
            rhs_tile[rhs_k * SIDE + rhs_column / 4u][rhs_column % 4u] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k = k + 1u) {
            let a = lhs_tile[k * SIDE + thread_row];
            let b = rhs_tile[k * SIDE + thread_column];
            acc_0 = acc_0 + a.x * b;
            acc_1 = acc_1 + a.y * b;
            acc_2 = acc_2 + a.z * b;
            acc_3 = acc_3 + a.w * b;
        }
        workgroupBarrier();
    }
    if (split < SPLITS) {
        let row = row_0 + thread_row * 4u;
        let column = column_0 + thread_column * 4u;
        store(split, batch, row, column, acc_0);
        store(split, batch, row + 1u, column, acc_1);
        store(split, batch, row + 2u, column, acc_2);
        store(split, batch, row + 3u, column, acc_3);
    }
}
