//! Products on tensor cores: `shaders/dot_general_cooperative.wgsl`, whose accumulators and loads are written out here.
//!
//! No adapter has run this yet. The tiles are those that others report for 16 x 16 matrices: 128 x 128 for large products (four subgroups with 4 x 4 blocks each),
//! smaller ones where there would be too few workgroups. `solstice tune` measures instead.

use super::tiles::{TILES_WANTED, quads_inner, vector_fetch};
use super::{Choice, Product, cut, launch, parts};
use crate::gpu::launch::Context;
use crate::gpu::template::Template;
use std::fmt::Write;

/// Steps of the inner axis that stand in workgroup memory; the inner axis is cut into multiples of this.
const STEP: usize = 32;

/// Invocations of a workgroup at most: the floor of WebGPU's `maxComputeInvocationsPerWorkgroup`.
const THREADS_MAX: usize = 256;

/// Rows and columns of a block.
const BLOCK: usize = 16;

/// Subgroups along rows and columns of a tile, and blocks of each, the largest tile first.
const TILES: [([usize; 2], [usize; 2]); 4] = [([2, 2], [4, 4]), ([2, 2], [2, 4]), ([2, 2], [2, 2]), ([2, 2], [1, 1])];

/// Appends the launches of a product with a `Choice::Cooperative`.
pub fn emit(
    context: &mut Context,
    label: &str,
    product: &Product,
    subgroups: [usize; 2],
    blocks: [usize; 2],
    splits: usize,
) -> Result<(), String> {
    let (splits, split_length) = cut(product.inner, splits, STEP);
    let (row_tiles, column_tiles) = counts(product, subgroups, blocks);
    let inner = quads_inner(product);
    let size = context.target.subgroup_size;
    let finish = |template: Template, groups_x: usize| {
        template
            .count("TILES_ROW", row_tiles)
            .count("TILES_COLUMN", column_tiles)
            .count("SIZE", size)
            .count("SUBGROUP_ROWS", subgroups[0])
            .count("SUBGROUP_COLUMNS", subgroups[1])
            .count("BLOCK_ROWS", blocks[0])
            .count("BLOCK_COLUMNS", blocks[1])
            .flag("LHS_INNER", inner[0])
            .flag("RHS_INNER", inner[1])
            .count("GROUPS_X", groups_x)
            .region("lhs vector", &vector_fetch(product.vectors[0], 0))
            .region("rhs vector", &vector_fetch(product.vectors[1], 1))
            .region("first", &first(blocks))
            .region("products", &products(blocks))
            .region("last", &last(blocks))
            .into_text()
    };
    let groups = splits * product.batches * row_tiles * column_tiles;
    launch(context, label, product, "dot_general_cooperative", (splits, split_length), (groups, 1), finish)
}

/// The largest tile that gives every processor one, else the one with the most workgroups; `None` where the device or the product has nothing for tensor cores.
pub fn rule_of_thumb(context: &Context, product: &Product) -> Option<Choice> {
    let possible = TILES.iter().filter(|(subgroups, blocks)| is_possible(context, product, *subgroups, *blocks));
    let choice = |(subgroups, blocks): &([usize; 2], [usize; 2])| {
        let (row_tiles, column_tiles) = counts(product, *subgroups, *blocks);
        let tiles = product.batches * row_tiles * column_tiles;
        (tiles, Choice::Cooperative { subgroups: *subgroups, blocks: *blocks, splits: usual_parts(product, tiles) })
    };
    let all: Vec<(usize, Choice)> = possible.map(choice).collect();
    let large = all.iter().find(|(tiles, _)| *tiles >= TILES_WANTED);
    large.or_else(|| all.last()).map(|(_, choice)| *choice)
}

/// Every tile with the usual number of parts, with more and with fewer.
pub fn candidates(context: &Context, product: &Product) -> Vec<Choice> {
    let mut choices = Vec::new();
    for (subgroups, blocks) in TILES.iter().filter(|(subgroups, blocks)| is_possible(context, product, *subgroups, *blocks)) {
        let (row_tiles, column_tiles) = counts(product, *subgroups, *blocks);
        let usual = usual_parts(product, product.batches * row_tiles * column_tiles);
        for splits in [usual, usual * 2, usual.div_ceil(2)] {
            let choice = Choice::Cooperative { subgroups: *subgroups, blocks: *blocks, splits };
            if !choices.contains(&choice) {
                choices.push(choice);
            }
        }
    }
    choices
}

/// True when the kernel can be written with this tile, for this device, and has something to gain: a block is not mostly padding.
pub fn is_possible(context: &Context, product: &Product, subgroups: [usize; 2], blocks: [usize; 2]) -> bool {
    let size = context.target.subgroup_size;
    let are_few = subgroups.iter().chain(&blocks).all(|&count| (1..=8).contains(&count)) && blocks[0] * blocks[1] <= 16;
    context.target.has_tensor_cores
        && product.is_half
        && product.rows.min(product.columns).min(product.inner) >= BLOCK
        && are_few
        && size > 1
        && subgroups[0] * subgroups[1] * size <= THREADS_MAX
        && workgroup_bytes(subgroups, blocks) <= context.target.workgroup_bytes_max
}

fn workgroup_bytes(subgroups: [usize; 2], blocks: [usize; 2]) -> usize {
    let (rows, columns) = (BLOCK * subgroups[0] * blocks[0], BLOCK * subgroups[1] * blocks[1]);
    2 * (rows * (STEP + 8) + STEP * (columns + 8)) + 4 * subgroups[0] * subgroups[1] * BLOCK * BLOCK
}

fn usual_parts(product: &Product, tiles: usize) -> usize {
    parts(product.inner, tiles, TILES_WANTED, 256)
}

/// Tiles along rows and columns.
fn counts(product: &Product, subgroups: [usize; 2], blocks: [usize; 2]) -> (usize, usize) {
    (product.rows.div_ceil(BLOCK * subgroups[0] * blocks[0]), product.columns.div_ceil(BLOCK * subgroups[1] * blocks[1]))
}

fn first(blocks: [usize; 2]) -> String {
    each(blocks).map(|(row, column)| format!("var acc_{row}_{column} = coop_mat16x16<f32, C>();\n")).collect()
}

fn products(blocks: [usize; 2]) -> String {
    let mut text = String::new();
    for row in 0..blocks[0] {
        let start = format!("(own_row + {}u) * LHS_STRIDE + k", BLOCK * row);
        let _ = writeln!(text, "let a_{row} = coopLoadT<coop_mat16x16<f16, A>>(&lhs_tile[{start}], LHS_STRIDE);");
    }
    for column in 0..blocks[1] {
        let start = format!("k * RHS_STRIDE + own_column + {}u", BLOCK * column);
        let _ = writeln!(text, "let b_{column} = coopLoadT<coop_mat16x16<f16, B>>(&rhs_tile[{start}], RHS_STRIDE);");
    }
    for (row, column) in each(blocks) {
        let _ = writeln!(text, "acc_{row}_{column} = coopMultiplyAdd(a_{row}, b_{column}, acc_{row}_{column});");
    }
    text
}

fn last(blocks: [usize; 2]) -> String {
    let mut text = String::new();
    for (row, column) in each(blocks) {
        let _ = writeln!(text, "coopStoreT(acc_{row}_{column}, &results[start], 16u);\nworkgroupBarrier();");
        let place = format!("row_0 + own_row + {}u, column_0 + own_column + {}u", BLOCK * row, BLOCK * column);
        let _ = writeln!(text, "store_block(place, start, split, batch, {place});\nworkgroupBarrier();");
    }
    text
}

fn each(blocks: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    (0..blocks[0]).flat_map(move |row| (0..blocks[1]).map(move |column| (row, column)))
}
