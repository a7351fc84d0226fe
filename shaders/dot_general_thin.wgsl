// Batched matrix product for hardware GPUs where a result has few rows or few columns (a vector, a depthwise convolution): a team of LANES invocations a
// result, no tiles. Also a skeleton of the convolutions, which bring their own `operands` (convolution*.wgsl).
//
// Inputs, output, splits: as in dot_general.wgsl. Grid: a workgroup of 64 holds 64 / LANES teams; team = ((split * batches + batch) * ROWS + row) * COLUMNS +
// column. LANES is 64 where neighbours along the inner axis are neighbours in memory, else 1: then neighbouring invocations read neighbouring columns.
// Bounds: any ROWS, COLUMNS >= 1, any INNER; the lanes of a team meet in a binary tree in workgroup memory, in a fixed order.
// CPU twin: `KernelOp::Dot` in host/engine/src/cpu/ (another order of the sum, so equal to rounding only).

const ROWS: u32 = 1u;
const COLUMNS: u32 = 100u;
const INNER: u32 = 100u;
const BATCHES: u32 = 1u;
const SPLITS: u32 = 1u;
const SPLIT_LENGTH: u32 = 100u; // of the inner axis
const TOTAL: u32 = 100u; // elements of the result
const LANES: u32 = 1u;
const GROUPS_X: u32 = 2u;

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

var<workgroup> partials: array<f32, 64>;

// Sum over the team's lanes; valid in its first lane.
fn tree(value: f32, lane: u32) -> f32 {
    if (LANES == 1u) {
        return value;
    }
    workgroupBarrier();
    partials[lane] = value;
    workgroupBarrier();
    for (var distance = 32u; distance > 0u; distance = distance >> 1u) {
        if (lane < distance) {
            partials[lane] = partials[lane] + partials[lane + distance];
        }
        workgroupBarrier();
    }
    return partials[0];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let team = ((group.y * GROUPS_X + group.x) * 64u + lane) / LANES;
    let column = team % COLUMNS;
    let row = team / COLUMNS % ROWS;
    let batch = team / (COLUMNS * ROWS) % BATCHES;
    let split = team / (COLUMNS * ROWS * BATCHES);
    // Teams past the end have nothing to add up, but come to the barriers.
    let k_end = select(0u, min(INNER, (split + 1u) * SPLIT_LENGTH), split < SPLITS);
    var acc = 0.0;
    for (var k = split * SPLIT_LENGTH + lane % LANES; k < k_end; k = k + LANES) {
        acc = acc + load_lhs(batch, row, k) * load_rhs(batch, k, column);
    }
    let total = tree(acc, lane);
    if (split < SPLITS && lane % LANES == 0u) {
        write(split * TOTAL + address(batch, row, column), total);
    }
}
