// Batched matrix product on tensor cores: f16 factors, f32 sums, 16 x 16 results of a subgroup at once. Under mixed precision alone, on adapters that list
// 16x16x16 f16 -> f32 and have passed the self-test (gpu/cooperative.rs). Also a skeleton of the convolutions, which bring their own `operands`.
//
// Inputs, output, splits: as in dot_general.wgsl. Grid: workgroup (a fold of x and y) = ((split * batches + batch) * TILES_ROW + tile row) * TILES_COLUMN + tile
// column. A workgroup of SUBGROUPS subgroups of SIZE lanes owns TILE_ROWS x TILE_COLUMNS results; a subgroup owns BLOCK_ROWS x BLOCK_COLUMNS blocks of 16 x 16 of
// them. All lanes bring STEP steps of the inner axis into workgroup memory as f16, the subgroups multiply from there; at the end the blocks go through workgroup
// memory too, which is where ragged edges are cut and where an epilogue meets single elements. Lanes of a subgroup are never apart when they multiply.
// Bounds: any ROWS, COLUMNS >= 1, any INNER: what lies outside reads as 0 and is not written.
// CPU twin: none, the CPU device has no f16; the f16 tiles of dot_general.wgsl differ by the order of the sum.

enable f16;
enable wgpu_cooperative_matrix;

const ROWS: u32 = 100u;
const COLUMNS: u32 = 100u;
const INNER: u32 = 100u;
const BATCHES: u32 = 1u;
const SPLITS: u32 = 1u;
const SPLIT_LENGTH: u32 = 128u; // of the inner axis, a multiple of STEP
const TOTAL: u32 = 10000u; // elements of the result
const TILES_ROW: u32 = 2u;
const TILES_COLUMN: u32 = 2u;
const SIZE: u32 = 32u; // lanes of a subgroup
const SUBGROUP_ROWS: u32 = 2u; // subgroups along the rows of a tile
const SUBGROUP_COLUMNS: u32 = 2u;
const BLOCK_ROWS: u32 = 2u; // blocks of 16 x 16 of a subgroup
const BLOCK_COLUMNS: u32 = 2u;
const LHS_INNER: bool = true; // neighbours along the inner axis are neighbours in memory, so lanes in a row fetch along it
const RHS_INNER: bool = false;
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
@group(0) @binding(0) var<storage, read> lhs: array<f16>;

fn load_lhs(batch: u32, row: u32, k: u32) -> f32 {
    return f32(lhs[lhs_position(batch, row, k)]);
}
// end lhs

// begin rhs
@group(0) @binding(1) var<storage, read> rhs: array<f16>;

fn load_rhs(batch: u32, k: u32, column: u32) -> f32 {
    return f32(rhs[rhs_position(batch, k, column)]);
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

const STEP: u32 = 32u;
const SUBGROUPS: u32 = SUBGROUP_ROWS * SUBGROUP_COLUMNS;
const THREADS: u32 = SUBGROUPS * SIZE;
const TILE_ROWS: u32 = SUBGROUP_ROWS * BLOCK_ROWS * 16u;
const TILE_COLUMNS: u32 = SUBGROUP_COLUMNS * BLOCK_COLUMNS * 16u;
// Eight more than a row puts neighbouring rows into different banks and keeps 16 bytes of alignment.
const LHS_STRIDE: u32 = STEP + 8u;
const RHS_STRIDE: u32 = TILE_COLUMNS + 8u;

// Row-major: the tile's rows by STEP, and STEP by the tile's columns.
var<workgroup> lhs_tile: array<f16, TILE_ROWS * LHS_STRIDE>;
var<workgroup> rhs_tile: array<f16, STEP * RHS_STRIDE>;
// A block of each subgroup, row-major.
var<workgroup> results: array<f32, SUBGROUPS * 256u>;

// Row (column) and place along the inner axis of the first of four neighbours, which lie along the inner axis or across it.
fn lhs_quad(quad: u32) -> vec2<u32> {
    let across = vec2<u32>(quad % (TILE_ROWS / 4u) * 4u, quad / (TILE_ROWS / 4u));
    return select(across, vec2<u32>(quad / (STEP / 4u), quad % (STEP / 4u) * 4u), LHS_INNER);
}

fn rhs_quad(quad: u32) -> vec2<u32> {
    let across = vec2<u32>(quad % (TILE_COLUMNS / 4u) * 4u, quad / (TILE_COLUMNS / 4u));
    return select(across, vec2<u32>(quad / (STEP / 4u), quad % (STEP / 4u) * 4u), RHS_INNER);
}

fn fetch_lhs(batch: u32, row: u32, k: u32, k_end: u32) -> vec4<f32> {
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

fn fetch_rhs(batch: u32, column: u32, k: u32, k_end: u32) -> vec4<f32> {
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

fn fill_lhs(lane: u32, batch: u32, row_0: u32, k_0: u32, k_end: u32) {
    for (var quad = lane; quad < TILE_ROWS * STEP / 4u; quad = quad + THREADS) {
        let at = lhs_quad(quad);
        let values = vec4<f16>(fetch_lhs(batch, row_0 + at.x, k_0 + at.y, k_end));
        let first = at.x * LHS_STRIDE + at.y;
        let next = select(LHS_STRIDE, 1u, LHS_INNER);
        lhs_tile[first] = values.x;
        lhs_tile[first + next] = values.y;
        lhs_tile[first + 2u * next] = values.z;
        lhs_tile[first + 3u * next] = values.w;
    }
}

fn fill_rhs(lane: u32, batch: u32, column_0: u32, k_0: u32, k_end: u32) {
    for (var quad = lane; quad < TILE_COLUMNS * STEP / 4u; quad = quad + THREADS) {
        let at = rhs_quad(quad);
        let values = vec4<f16>(fetch_rhs(batch, column_0 + at.x, k_0 + at.y, k_end));
        let first = at.y * RHS_STRIDE + at.x;
        let next = select(1u, RHS_STRIDE, RHS_INNER);
        rhs_tile[first] = values.x;
        rhs_tile[first + next] = values.y;
        rhs_tile[first + 2u * next] = values.z;
        rhs_tile[first + 3u * next] = values.w;
    }
}

// Writes the block of each subgroup that stands in `results`: lanes go along its rows.
fn store_block(lane: u32, start: u32, split: u32, batch: u32, row_0: u32, column_0: u32) {
    for (var i = lane; i < 256u; i = i + SIZE) {
        let row = row_0 + i / 16u;
        let column = column_0 + i % 16u;
        if (split < SPLITS && row < ROWS && column < COLUMNS) {
            write(split * TOTAL + address(batch, row, column), results[start + i]);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    let tile = group.y * GROUPS_X + group.x;
    let column_0 = tile % TILES_COLUMN * TILE_COLUMNS;
    let row_0 = tile / TILES_COLUMN % TILES_ROW * TILE_ROWS;
    let batch = tile / (TILES_COLUMN * TILES_ROW) % BATCHES;
    let split = tile / (TILES_COLUMN * TILES_ROW * BATCHES);
    // Workgroups that only fill the grid have nothing to add up, but keep in step.
    let k_end = select(0u, min(INNER, (split + 1u) * SPLIT_LENGTH), split < SPLITS);
    let own_row = subgroup / SUBGROUP_COLUMNS * (BLOCK_ROWS * 16u);
    let own_column = subgroup % SUBGROUP_COLUMNS * (BLOCK_COLUMNS * 16u);
    // begin first
    var acc_0_0 = coop_mat16x16<f32, C>();
    // end first
    for (var k_0 = split * SPLIT_LENGTH; k_0 < k_end; k_0 = k_0 + STEP) {
        fill_lhs(lane, batch, row_0, k_0, k_end);
        fill_rhs(lane, batch, column_0, k_0, k_end);
        workgroupBarrier();
        for (var k = 0u; k < STEP; k = k + 16u) {
            // begin products
            let a_0 = coopLoadT<coop_mat16x16<f16, A>>(&lhs_tile[own_row * LHS_STRIDE + k], LHS_STRIDE);
            let b_0 = coopLoadT<coop_mat16x16<f16, B>>(&rhs_tile[k * RHS_STRIDE + own_column], RHS_STRIDE);
            acc_0_0 = coopMultiplyAdd(a_0, b_0, acc_0_0);
            // end products
        }
        workgroupBarrier();
    }
    let start = subgroup * 256u;
    // begin last
    coopStoreT(acc_0_0, &results[start], 16u);
    workgroupBarrier();
    store_block(place, start, split, batch, row_0 + own_row, column_0 + own_column);
    workgroupBarrier();
    // end last
}
