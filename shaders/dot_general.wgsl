// Batched matrix product for hardware GPUs: workgroup tiles in workgroup memory, 4 x 4 to 8 x 8 results an invocation. Also the skeleton of the
// convolutions, which bring their own `operands` (convolution*.wgsl).
//
// Inputs: two matrices behind `load_lhs` [batch, ROWS, INNER] and `load_rhs` [batch, INNER, COLUMNS]. Output: `to`, at `address(batch, row, column)`; with
// SPLITS > 1 the inner axis is cut, `to` is `[SPLITS, TOTAL]` and a reduction over the splits follows (fixed order: no atomics).
// Grid: workgroup (a fold of x and y) = ((split * batches + batch) * TILES_ROW + tile row) * TILES_COLUMN + tile column. A tile goes through the inner axis in
// steps of 16: each invocation fetches its quads (four neighbours, along the inner axis or across it) of the next step into registers while the workgroup
// multiplies the step that stands in workgroup memory. Every result is summed in the order of the inner axis, whatever the tile.
// Bounds: any ROWS, COLUMNS >= 1, any INNER: what lies outside reads as 0 and is not written.
// CPU twin: `KernelOp::Dot` in host/engine/src/cpu/ (another order of the sum, so equal to rounding only).
// Source: register tiles with prefetch after Volkov and Demmel, "Benchmarking GPUs to Tune Dense Linear Algebra", 2008.

alias E = f32; // of the factors in workgroup memory

const ROWS: u32 = 100u;
const COLUMNS: u32 = 100u;
const INNER: u32 = 100u;
const BATCHES: u32 = 1u;
const SPLITS: u32 = 1u;
const SPLIT_LENGTH: u32 = 112u; // of the inner axis, a multiple of 16
const TOTAL: u32 = 10000u; // elements of the result
const TILES_ROW: u32 = 4u;
const TILES_COLUMN: u32 = 4u;
const THREADS_ROW: u32 = 8u; // invocations along the rows of a tile
const THREADS_COLUMN: u32 = 8u;
const ROW_QUADS: u32 = 1u; // groups of four rows of an invocation
const COLUMN_QUADS: u32 = 1u;
const LHS_INNER: bool = true; // quads lie along the inner axis, because neighbours there are neighbours in memory
const RHS_INNER: bool = false;
const GROUPS_X: u32 = 16u;

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

const THREADS: u32 = THREADS_ROW * THREADS_COLUMN;
const TILE_ROW_QUADS: u32 = THREADS_ROW * ROW_QUADS;
const TILE_COLUMN_QUADS: u32 = THREADS_COLUMN * COLUMN_QUADS;
// Quads along the inner axis are kept component by component: one more vector a step puts neighbours into different banks.
const LHS_STRIDE: u32 = TILE_ROW_QUADS + u32(LHS_INNER);
const RHS_STRIDE: u32 = TILE_COLUMN_QUADS + u32(RHS_INNER);

// 16 steps of the inner axis, the tile's rows (columns) in groups of four.
var<workgroup> lhs_tile: array<vec4<E>, 16u * LHS_STRIDE>;
var<workgroup> rhs_tile: array<vec4<E>, 16u * RHS_STRIDE>;

// Quad number `quad` of a step of the left operand: row and place along the inner axis of its first element.
fn lhs_quad(quad: u32) -> vec2<u32> {
    return select(vec2<u32>(quad % TILE_ROW_QUADS * 4u, quad / TILE_ROW_QUADS), vec2<u32>(quad / 4u, quad % 4u * 4u), LHS_INNER);
}

fn rhs_quad(quad: u32) -> vec2<u32> {
    return select(vec2<u32>(quad % TILE_COLUMN_QUADS * 4u, quad / TILE_COLUMN_QUADS), vec2<u32>(quad / 4u, quad % 4u * 4u), RHS_INNER);
}

fn fetch_lhs(quad: u32, batch: u32, row_0: u32, k_0: u32, k_end: u32) -> vec4<f32> {
    let row = row_0 + lhs_quad(quad).x;
    let k = k_0 + lhs_quad(quad).y;
    var values = vec4<f32>();
    if (row >= ROWS || k >= k_end) {
        return values;
    }
    // begin lhs vector
    // end lhs vector
    for (var j = 0u; j < 4u; j = j + 1u) {
        let row_j = row + select(j, 0u, LHS_INNER);
        let k_j = k + select(0u, j, LHS_INNER);
        if (row_j < ROWS && k_j < k_end) {
            values[j] = load_lhs(batch, row_j, k_j);
        }
    }
    return values;
}

fn fetch_rhs(quad: u32, batch: u32, column_0: u32, k_0: u32, k_end: u32) -> vec4<f32> {
    let column = column_0 + rhs_quad(quad).x;
    let k = k_0 + rhs_quad(quad).y;
    var values = vec4<f32>();
    if (column >= COLUMNS || k >= k_end) {
        return values;
    }
    // begin rhs vector
    // end rhs vector
    for (var j = 0u; j < 4u; j = j + 1u) {
        let column_j = column + select(j, 0u, RHS_INNER);
        let k_j = k + select(0u, j, RHS_INNER);
        if (column_j < COLUMNS && k_j < k_end) {
            values[j] = load_rhs(batch, k_j, column_j);
        }
    }
    return values;
}

fn keep_lhs(quad: u32, values: vec4<f32>) {
    let row = lhs_quad(quad).x;
    let k = lhs_quad(quad).y;
    if (LHS_INNER) {
        lhs_tile[k * LHS_STRIDE + row / 4u][row % 4u] = E(values.x);
        lhs_tile[(k + 1u) * LHS_STRIDE + row / 4u][row % 4u] = E(values.y);
        lhs_tile[(k + 2u) * LHS_STRIDE + row / 4u][row % 4u] = E(values.z);
        lhs_tile[(k + 3u) * LHS_STRIDE + row / 4u][row % 4u] = E(values.w);
    } else {
        lhs_tile[k * LHS_STRIDE + row / 4u] = vec4<E>(values);
    }
}

fn keep_rhs(quad: u32, values: vec4<f32>) {
    let column = rhs_quad(quad).x;
    let k = rhs_quad(quad).y;
    if (RHS_INNER) {
        rhs_tile[k * RHS_STRIDE + column / 4u][column % 4u] = E(values.x);
        rhs_tile[(k + 1u) * RHS_STRIDE + column / 4u][column % 4u] = E(values.y);
        rhs_tile[(k + 2u) * RHS_STRIDE + column / 4u][column % 4u] = E(values.z);
        rhs_tile[(k + 3u) * RHS_STRIDE + column / 4u][column % 4u] = E(values.w);
    } else {
        rhs_tile[k * RHS_STRIDE + column / 4u] = vec4<E>(values);
    }
}

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
    let column_0 = tile % TILES_COLUMN * (TILE_COLUMN_QUADS * 4u);
    let row_0 = tile / TILES_COLUMN % TILES_ROW * (TILE_ROW_QUADS * 4u);
    let batch = tile / (TILES_COLUMN * TILES_ROW) % BATCHES;
    let split = tile / (TILES_COLUMN * TILES_ROW * BATCHES);
    // Workgroups that only fill the grid have nothing to add up, but keep in step.
    let k_end = select(0u, min(INNER, (split + 1u) * SPLIT_LENGTH), split < SPLITS);
    let thread_row = lane / THREADS_COLUMN;
    let thread_column = lane % THREADS_COLUMN;
    var k_0 = split * SPLIT_LENGTH;
    // begin first
    var acc_0_0 = vec4<f32>();
    var acc_1_0 = vec4<f32>();
    var acc_2_0 = vec4<f32>();
    var acc_3_0 = vec4<f32>();
    var lhs_0 = fetch_lhs(lane, batch, row_0, k_0, k_end);
    var lhs_1 = fetch_lhs(lane + THREADS, batch, row_0, k_0, k_end);
    var rhs_0 = fetch_rhs(lane, batch, column_0, k_0, k_end);
    var rhs_1 = fetch_rhs(lane + THREADS, batch, column_0, k_0, k_end);
    // end first
    for (; k_0 < k_end; k_0 = k_0 + 16u) {
        // begin keep
        keep_lhs(lane, lhs_0);
        keep_lhs(lane + THREADS, lhs_1);
        keep_rhs(lane, rhs_0);
        keep_rhs(lane + THREADS, rhs_1);
        // end keep
        workgroupBarrier();
        // begin next
        lhs_0 = fetch_lhs(lane, batch, row_0, k_0 + 16u, k_end);
        lhs_1 = fetch_lhs(lane + THREADS, batch, row_0, k_0 + 16u, k_end);
        rhs_0 = fetch_rhs(lane, batch, column_0, k_0 + 16u, k_end);
        rhs_1 = fetch_rhs(lane + THREADS, batch, column_0, k_0 + 16u, k_end);
        // end next
        for (var k = 0u; k < 16u; k = k + 1u) {
            // begin products
            let a_0 = lhs_tile[k * LHS_STRIDE + thread_row];
            let b_0 = rhs_tile[k * RHS_STRIDE + thread_column];
            acc_0_0 = acc_0_0 + a_0.x * b_0;
            acc_1_0 = acc_1_0 + a_0.y * b_0;
            acc_2_0 = acc_2_0 + a_0.z * b_0;
            acc_3_0 = acc_3_0 + a_0.w * b_0;
            // end products
        }
        workgroupBarrier();
    }
    if (split < SPLITS) {
        // begin last
        let row = row_0 + thread_row * 4u;
        let column = column_0 + thread_column * 4u;
        store(split, batch, row, column, acc_0_0);
        store(split, batch, row + 1u, column, acc_1_0);
        store(split, batch, row + 2u, column, acc_2_0);
        store(split, batch, row + 3u, column, acc_3_0);
        // end last
    }
}
