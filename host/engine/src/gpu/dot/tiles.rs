//! Products on hardware: `shaders/dot_general.wgsl` and `shaders/dot_general_thin.wgsl`.
//!
//! No hardware has run these yet: that they are right is checked on llvmpipe, and the rules of thumb are from what others report (128 x 128 tiles with 8 x 8
//! results an invocation where there are enough of them, 64 x 64 with 4 x 4 for small matrices). `solstice tune` measures instead.

use super::{Choice, Product, Vector, cut, launch, parts};
use crate::gpu::launch::Context;
use crate::gpu::template::Template;
use std::fmt::Write;

/// Steps of the inner axis that stand in workgroup memory; the inner axis is cut into multiples of this.
const STEP: usize = 16;

/// Invocations of a workgroup at most: the floor of WebGPU's `maxComputeInvocationsPerWorkgroup`.
const THREADS_MAX: usize = 256;

/// Workgroups that keep a large device busy.
pub(super) const TILES_WANTED: usize = 128;

/// Results with fewer rows, or columns, are thin.
const THIN: usize = 4;

/// Invocations and quads of a tile, and how fast it is beside the first, in hundredths.
const TILES: [([usize; 2], [usize; 2], usize); 8] = [
    ([16, 16], [2, 2], 100),
    ([16, 16], [2, 1], 85),
    ([16, 16], [1, 2], 85),
    ([16, 16], [1, 1], 70),
    ([8, 8], [2, 2], 70),
    ([8, 8], [2, 1], 60),
    ([8, 8], [1, 2], 60),
    ([8, 8], [1, 1], 50),
];

/// Appends the launches of a product with a `Choice::Tile`.
pub fn emit(
    context: &mut Context,
    label: &str,
    product: &Product,
    threads: [usize; 2],
    quads: [usize; 2],
    splits: usize,
) -> Result<(), String> {
    let (splits, split_length) = cut(product.inner, splits, STEP);
    let (row_tiles, column_tiles) = counts(product, threads, quads);
    let inner = quads_inner(product);
    let finish = |template: Template, groups_x: usize| {
        template
            .alias("E", tile_element(product))
            .count("TILES_ROW", row_tiles)
            .count("TILES_COLUMN", column_tiles)
            .count("THREADS_ROW", threads[0])
            .count("THREADS_COLUMN", threads[1])
            .count("ROW_QUADS", quads[0])
            .count("COLUMN_QUADS", quads[1])
            .flag("LHS_INNER", inner[0])
            .flag("RHS_INNER", inner[1])
            .count("GROUPS_X", groups_x)
            .region("lhs vector", &vector_fetch(product.vectors[0], 0))
            .region("rhs vector", &vector_fetch(product.vectors[1], 1))
            .region("first", &first(threads, quads))
            .region("keep", &keep(threads, quads))
            .region("next", &next(threads, quads))
            .region("products", &products(product, quads))
            .region("last", &last(quads))
            .into_text()
    };
    let groups = splits * product.batches * row_tiles * column_tiles;
    launch(context, label, product, "dot_general", (splits, split_length), (groups, 1), finish)
}

/// Appends the launches of a product with a `Choice::Thin`.
pub fn emit_thin(context: &mut Context, label: &str, product: &Product, lanes: usize, splits: usize) -> Result<(), String> {
    let (splits, split_length) = cut(product.inner, splits, 1);
    let finish = |template: Template, groups_x: usize| template.count("LANES", lanes).count("GROUPS_X", groups_x).into_text();
    let groups = (splits * product.total() * lanes).div_ceil(64);
    launch(context, label, product, "dot_general_thin", (splits, split_length), (groups, 1), finish)
}

/// The tile that should take the least time when workgroups run [`TILES_WANTED`] at a time; for thin results, no tile.
pub fn rule_of_thumb(context: &Context, product: &Product) -> Choice {
    if product.rows.min(product.columns) < THIN {
        return thin(product);
    }
    let possible = TILES.iter().filter(|(threads, quads, _)| is_possible(context, product, *threads, *quads));
    let best = possible.min_by_key(|(threads, quads, speed)| {
        let (row_tiles, column_tiles) = counts(product, *threads, *quads);
        let tiles = product.batches * row_tiles * column_tiles;
        let (splits, length) = cut(product.inner, usual_parts(product, tiles), STEP);
        let results = 16 * threads[0] * quads[0] * threads[1] * quads[1];
        // The second pass over the parts reads each once, which costs about as much as 16 products.
        let second = if splits > 1 { 16 * splits * product.total() / TILES_WANTED } else { 0 };
        ((tiles * splits).div_ceil(TILES_WANTED) * results * length + second) * 100 / speed
    });
    let (threads, quads, _) = *best.expect("the smallest tile is always possible");
    let (row_tiles, column_tiles) = counts(product, threads, quads);
    Choice::Tile { threads, quads, splits: usual_parts(product, product.batches * row_tiles * column_tiles) }
}

fn thin(product: &Product) -> Choice {
    // The operand that is read once, by far the larger one, says how to go along it.
    let along = product.inner_first[usize::from(product.columns > product.rows)];
    let lanes = if along && product.inner >= 64 { 64 } else { 1 };
    let splits = parts(product.inner.div_ceil(lanes), product.total() * lanes, 65_536, 64).max(product.inner.div_ceil(1024 * lanes));
    Choice::Thin { lanes, splits }
}

/// Every tile with the usual number of parts, with more and with fewer.
pub fn candidates(context: &Context, product: &Product) -> Vec<Choice> {
    let mut choices = Vec::new();
    for (threads, quads, _) in TILES.iter().filter(|(threads, quads, _)| is_possible(context, product, *threads, *quads)) {
        let (row_tiles, column_tiles) = counts(product, *threads, *quads);
        let usual = usual_parts(product, product.batches * row_tiles * column_tiles);
        for splits in [usual, usual * 2, usual.div_ceil(2)] {
            let choice = Choice::Tile { threads: *threads, quads: *quads, splits };
            if !choices.contains(&choice) {
                choices.push(choice);
            }
        }
    }
    if product.rows.min(product.columns) <= 16 {
        choices.insert(0, thin(product));
    }
    choices
}

/// True when the kernel can be written with this tile, for this device.
pub fn is_possible(context: &Context, product: &Product, threads: [usize; 2], quads: [usize; 2]) -> bool {
    let fits = threads.iter().chain(&quads).all(|&count| (1..=THREADS_MAX).contains(&count)) && threads[0] * threads[1] <= THREADS_MAX;
    // Each invocation fetches the same number of quads.
    fits && quads.iter().all(|&count| count <= 4)
        && (STEP * quads[0]).is_multiple_of(threads[1])
        && (STEP * quads[1]).is_multiple_of(threads[0])
        && workgroup_bytes(product, threads, quads) <= context.target.workgroup_bytes_max
}

fn workgroup_bytes(product: &Product, threads: [usize; 2], quads: [usize; 2]) -> usize {
    let inner = quads_inner(product);
    let quad_bytes = if product.is_half { 8 } else { 16 };
    (0..2).map(|side| STEP * quad_bytes * (threads[side] * quads[side] + usize::from(inner[side]))).sum()
}

/// WGSL type of the factors in workgroup memory.
fn tile_element(product: &Product) -> &'static str {
    if product.is_half { "f16" } else { "f32" }
}

fn usual_parts(product: &Product, tiles: usize) -> usize {
    parts(product.inner, tiles, TILES_WANTED, 256)
}

/// Tiles along rows and columns.
fn counts(product: &Product, threads: [usize; 2], quads: [usize; 2]) -> (usize, usize) {
    (product.rows.div_ceil(4 * threads[0] * quads[0]), product.columns.div_ceil(4 * threads[1] * quads[1]))
}

/// Do the quads of each operand lie along the inner axis?
pub(super) fn quads_inner(product: &Product) -> [bool; 2] {
    [0, 1].map(|side| match product.vectors[side] {
        Vector::Inner => true,
        Vector::Across => false,
        Vector::None => product.inner_first[side],
    })
}

/// What fetches a quad with one access, if the operand (0: left, 1: right) allows it.
pub(super) fn vector_fetch(vector: Vector, side: usize) -> String {
    let (load, across) =
        [("load_lhs4(batch, row, k)", "row + 4u <= ROWS"), ("load_rhs4(batch, k, column)", "column + 4u <= COLUMNS")][side];
    let is_whole = match vector {
        Vector::None => return String::new(),
        Vector::Inner => "k + 4u <= k_end",
        Vector::Across => across,
    };
    format!("if ({is_whole}) {{\nreturn {load};\n}}\n")
}

/// Numbers of the quads that an invocation fetches of each operand, as the text counts them.
fn fetched(threads: [usize; 2], quads: [usize; 2]) -> Vec<(&'static str, &'static str, usize, String)> {
    let place = |index: usize| if index == 0 { "lane".to_owned() } else { format!("lane + {index}u * THREADS") };
    let lhs = (0..STEP * quads[0] / threads[1]).map(|index| ("lhs", "row_0", index, place(index)));
    let rhs = (0..STEP * quads[1] / threads[0]).map(|index| ("rhs", "column_0", index, place(index)));
    lhs.chain(rhs).collect()
}

fn first(threads: [usize; 2], quads: [usize; 2]) -> String {
    let mut text = String::new();
    for column in 0..quads[1] {
        (0..4 * quads[0]).for_each(|row| {
            let _ = writeln!(text, "var acc_{row}_{column} = vec4<f32>();");
        });
    }
    for (side, start, index, quad) in fetched(threads, quads) {
        let _ = writeln!(text, "var {side}_{index} = fetch_{side}({quad}, batch, {start}, k_0, k_end);");
    }
    text
}

fn keep(threads: [usize; 2], quads: [usize; 2]) -> String {
    fetched(threads, quads).iter().map(|(side, _, index, quad)| format!("keep_{side}({quad}, {side}_{index});\n")).collect()
}

fn next(threads: [usize; 2], quads: [usize; 2]) -> String {
    let fetches = fetched(threads, quads).into_iter();
    fetches
        .map(|(side, start, index, quad)| format!("{side}_{index} = fetch_{side}({quad}, batch, {start}, k_0 + 16u, k_end);\n"))
        .collect()
}

fn products(product: &Product, quads: [usize; 2]) -> String {
    let mut text = String::new();
    // The product of two f16 is exact in f32.
    let widened = |quad: String| if product.is_half { format!("vec4<f32>({quad})") } else { quad };
    for quad in 0..quads[0] {
        let a = widened(format!("lhs_tile[k * LHS_STRIDE + {quad}u * THREADS_ROW + thread_row]"));
        let _ = writeln!(text, "let a_{quad} = {a};");
    }
    for quad in 0..quads[1] {
        let b = widened(format!("rhs_tile[k * RHS_STRIDE + {quad}u * THREADS_COLUMN + thread_column]"));
        let _ = writeln!(text, "let b_{quad} = {b};");
    }
    for row in 0..4 * quads[0] {
        let a = format!("a_{}.{}", row / 4, ["x", "y", "z", "w"][row % 4]);
        (0..quads[1]).for_each(|column| {
            let _ = writeln!(text, "acc_{row}_{column} = acc_{row}_{column} + {a} * b_{column};");
        });
    }
    text
}

fn last(quads: [usize; 2]) -> String {
    let mut text = String::new();
    for row in 0..4 * quads[0] {
        for column in 0..quads[1] {
            let row_of = format!("row_0 + ({}u * THREADS_ROW + thread_row) * 4u + {}u", row / 4, row % 4);
            let column_of = format!("column_0 + ({column}u * THREADS_COLUMN + thread_column) * 4u");
            let _ = writeln!(text, "store(split, batch, {row_of}, {column_of}, acc_{row}_{column});");
        }
    }
    text
}
