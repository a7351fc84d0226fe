//! Products on software adapters: `shaders/dot_general_subgroup.wgsl`, whose tile is unrolled here, because on llvmpipe a memory access costs about as much as
//! [`LOAD_COST`] products: one subgroup loads an element once and broadcasts it.
//!
//! Measured on llvmpipe (Mesa 22.3.6, 256 bits, two cores shared with other work), 512^3 f32, best of 15: 13 to 27 GFLOP/s with 64 accumulators a lane, 17 to
//! 24 with 128 (a third more time in the compiler), 4 to 12 with 32. The tiles for hardware reach 0.3 there.

use super::{Choice, Product, Vector, cut, launch, parts};
use crate::gpu::launch::Context;
use crate::gpu::template::Template;
use std::fmt::Write;

/// Cost of one memory access on a software adapter, in products.
const LOAD_COST: usize = 8;

/// The inner axis is cut into multiples of this.
const STEP: usize = 4;

/// Appends the launches of a product with a `Choice::Subgroup`.
pub fn emit(context: &mut Context, label: &str, product: &Product, choice: &Choice, splits: usize) -> Result<(), String> {
    let Choice::Subgroup { shared, columns, is_swapped, .. } = *choice else { unreachable!("the caller matched a tile of a subgroup") };
    let tile = Tile { size: context.target.subgroup_size, shared, columns, is_swapped };
    let (splits, split_length) = cut(product.inner, splits, STEP);
    let lanes = if tile.size == 1 { 32 } else { tile.size };
    let code = tile_code(product, &tile, split_length);
    let (row_tiles, column_tiles) = tile.counts(product);
    let finish = |template: Template, groups_x: usize| {
        template
            .count("TILES_ROW", row_tiles)
            .count("TILES_COLUMN", column_tiles)
            .count("SIZE", tile.size)
            .count("LANES", lanes)
            .count("GROUPS_X", groups_x)
            .region("tile", &code)
            .into_text()
    };
    let groups = (splits * product.batches * row_tiles * column_tiles * tile.size).div_ceil(lanes);
    launch(context, label, product, "dot_general_subgroup", (splits, split_length), groups, finish)
}

/// The tile with the least products and loads, padding included.
pub fn rule_of_thumb(context: &Context, product: &Product) -> Choice {
    let tiles = tiles(context, product);
    let best = tiles.iter().min_by_key(|tile| tile.cost(product)).expect("the smallest tile is always possible");
    best.choice(best.parts(product))
}

/// The cheapest tiles, each with more and fewer parts of the inner axis.
pub fn candidates(context: &Context, product: &Product) -> Vec<Choice> {
    let mut tiles = tiles(context, product);
    tiles.sort_by_key(|tile| tile.cost(product));
    tiles.truncate(8);
    let parts = |tile: &Tile| {
        let usual = tile.parts(product);
        [usual, usual * 2, usual.div_ceil(2)].map(|parts| tile.choice(parts))
    };
    let mut choices: Vec<Choice> = Vec::new();
    for choice in tiles.iter().flat_map(parts) {
        if !choices.contains(&choice) {
            choices.push(choice);
        }
    }
    choices
}

/// True when the kernel can be written with this tile.
pub fn is_possible(context: &Context, product: &Product, shared: usize, columns: usize, is_swapped: bool) -> bool {
    let size = context.target.subgroup_size;
    let (shared_vector, owned_vector) = Tile { size, shared, columns, is_swapped }.vectors(product);
    // Twice as many accumulators are a little faster and cost the driver's compiler a third more: about a second at the start of a small network.
    let fits =
        [1, 2, 4, 8, 16, 32].contains(&shared) && [1, 2, 4].contains(&columns) && shared * columns <= if size == 1 { 32 } else { 64 };
    let is_aligned =
        shared_vector != Vector::Across || (shared.is_multiple_of(4) && (shared <= 4 * size || shared.is_multiple_of(4 * size)));
    fits && is_aligned && (owned_vector != Vector::Across || columns == 4)
}

fn tiles(context: &Context, product: &Product) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for is_swapped in [false, true] {
        for shared in [1, 2, 4, 8, 16, 32] {
            for columns in [1, 2, 4] {
                if is_possible(context, product, shared, columns, is_swapped) {
                    tiles.push(Tile { size: context.target.subgroup_size, shared, columns, is_swapped });
                }
            }
        }
    }
    tiles
}

/// Tile of one subgroup on a software adapter.
struct Tile {
    /// Lanes that work together.
    size: usize,
    /// Rows, loaded once for the subgroup and broadcast.
    shared: usize,
    /// Columns of one lane: 1, 2 or 4.
    columns: usize,
    /// Rows and columns change places: the lanes own rows.
    is_swapped: bool,
}

impl Tile {
    /// Columns of the subgroup.
    fn owned(&self) -> usize {
        self.size * self.columns
    }

    fn choice(&self, splits: usize) -> Choice {
        Choice::Subgroup { shared: self.shared, columns: self.columns, is_swapped: self.is_swapped, splits }
    }

    /// Vectors of the shared and of the owned operand.
    fn vectors(&self, product: &Product) -> (Vector, Vector) {
        let [lhs, rhs] = product.vectors;
        if self.is_swapped { (rhs, lhs) } else { (lhs, rhs) }
    }

    /// Tiles along rows and columns.
    fn counts(&self, product: &Product) -> (usize, usize) {
        let (rows, columns) = if self.is_swapped { (self.owned(), self.shared) } else { (self.shared, self.owned()) };
        (product.rows.div_ceil(rows), product.columns.div_ceil(columns))
    }

    fn parts(&self, product: &Product) -> usize {
        let (row_tiles, column_tiles) = self.counts(product);
        parts(product.inner, product.batches * row_tiles * column_tiles, 8, 1024)
    }

    /// Products and loads of a step of the inner axis, padding included, in quarters of a product.
    fn cost(&self, product: &Product) -> usize {
        let (row_tiles, column_tiles) = self.counts(product);
        let (shared_vector, owned_vector) = self.vectors(product);
        let per_load = |vector: Vector| if vector == Vector::None { 4 } else { 2 };
        let shared_loads = match shared_vector {
            Vector::Across => self.shared.div_ceil(4 * self.size) * 4,
            vector => self.shared.div_ceil(self.size) * per_load(vector),
        };
        let owned_loads = if owned_vector == Vector::Across { 4 } else { self.columns * per_load(owned_vector) };
        row_tiles * column_tiles * self.size * (4 * self.shared * self.columns + LOAD_COST * (shared_loads + owned_loads))
    }
}

/// The unrolled tile: four steps of the inner axis at once, then what is left one by one.
fn tile_code(product: &Product, tile: &Tile, split_length: usize) -> String {
    let code = TileCode { product, tile };
    let mut text = String::new();
    code.prologue(&mut text);
    let _ = writeln!(text, "var k = k_start;");
    let _ = writeln!(text, "for (; k + 4u <= k_end; k = k + 4u) {{");
    code.steps(&mut text, 4);
    let _ = writeln!(text, "}}");
    // The splits are multiples of four, so a rest is left by the last one alone.
    if !product.inner.is_multiple_of(4) {
        debug_assert!(split_length.is_multiple_of(4));
        let _ = writeln!(text, "for (; k < k_end; k = k + 1u) {{");
        code.steps(&mut text, 1);
        let _ = writeln!(text, "}}");
    }
    code.epilogue(&mut text);
    text
}

struct TileCode<'a> {
    product: &'a Product<'a>,
    tile: &'a Tile,
}

impl TileCode<'_> {
    fn shared_vector(&self) -> Vector {
        self.product.vectors[usize::from(self.tile.is_swapped)]
    }

    fn owned_vector(&self) -> Vector {
        self.product.vectors[usize::from(!self.tile.is_swapped)]
    }

    /// Rows that a lane loads with one access.
    fn shared_step(&self) -> usize {
        if self.shared_vector() == Vector::Across { 4 } else { 1 }
    }

    /// Registers of a lane for the shared operand.
    fn shared_registers(&self) -> usize {
        self.tile.shared.div_ceil(self.tile.size * self.shared_step())
    }

    /// Load of the shared (owned) operand at place `place` and inner index `k`; `four` asks for a vector.
    fn load(&self, is_shared: bool, place: &str, k: &str, four: bool) -> String {
        let suffix = if four { "4" } else { "" };
        if is_shared != self.tile.is_swapped {
            format!("load_lhs{suffix}(batch, {place}, {k})")
        } else if self.product.is_looked_up {
            format!("load_rhs_at({place}_at, rhs_step({k}))")
        } else {
            format!("load_rhs{suffix}(batch, {k}, {place})")
        }
    }

    fn prologue(&self, text: &mut String) {
        let tile = self.tile;
        let (shared_end, owned_end) = if tile.is_swapped { ("COLUMNS", "ROWS") } else { ("ROWS", "COLUMNS") };
        let (row_tile, column_tile) = ("tile / TILES_COLUMN % TILES_ROW", "tile % TILES_COLUMN");
        let (shared_tile, owned_tile) = if tile.is_swapped { (column_tile, row_tile) } else { (row_tile, column_tile) };
        let _ = writeln!(text, "let shared_0 = {shared_tile} * {}u;", tile.shared);
        let _ = writeln!(text, "let owned_0 = {owned_tile} * {}u;", tile.owned());
        // Places outside are moved inside: loaded in vain, never stored.
        let step = self.shared_step();
        for register in 0..self.shared_registers() {
            let first = register * tile.size;
            let _ = writeln!(text, "let s_{register} = min(shared_0 + (lane + {first}u) * {step}u, {shared_end} - {step}u);");
        }
        if self.owned_vector() == Vector::Across {
            let _ = writeln!(text, "let o_0 = min(owned_0 + lane * 4u, {owned_end} - 4u);");
        } else {
            for column in 0..tile.columns {
                let _ = writeln!(text, "let o_{column} = min(owned_0 + lane + {}u, {owned_end} - 1u);", column * tile.size);
            }
        }
        if self.product.is_looked_up {
            // Drivers of software adapters do not move what stays the same out of loops.
            let (name, count) = if tile.is_swapped { ("s", self.shared_registers()) } else { ("o", tile.columns) };
            (0..count).for_each(|index| {
                let _ = writeln!(text, "let {name}_{index}_at = rhs_column(batch, {name}_{index});");
            });
        }
        for row in 0..tile.shared {
            let _ = writeln!(text, "var acc_{row} = {}();", self.accumulator());
        }
    }

    fn accumulator(&self) -> &'static str {
        match self.tile.columns {
            1 => "f32",
            2 => "vec2<f32>",
            _ => "vec4<f32>",
        }
    }

    /// `count` steps of the inner axis (4 or 1).
    fn steps(&self, text: &mut String, count: usize) {
        let tile = self.tile;
        let is_inner = |vector: Vector| vector == Vector::Inner && count == 4;
        let component = |index: usize| ["x", "y", "z", "w"][index];
        if is_inner(self.shared_vector()) {
            for register in 0..self.shared_registers() {
                let _ = writeln!(text, "let a_{register} = {};", self.load(true, &format!("s_{register}"), "k", true));
            }
        }
        if is_inner(self.owned_vector()) {
            for column in 0..tile.columns {
                let _ = writeln!(text, "let b_{column} = {};", self.load(false, &format!("o_{column}"), "k", true));
            }
        }
        for step in 0..count {
            let k = if step == 0 { "k".to_owned() } else { format!("k + {step}u") };
            // The owned columns of this step.
            let columns: Vec<String> = match self.owned_vector() {
                vector if is_inner(vector) => (0..tile.columns).map(|column| format!("b_{column}.{}", component(step))).collect(),
                Vector::Across => vec![self.load(false, "o_0", &k, true)],
                _ => (0..tile.columns).map(|column| self.load(false, &format!("o_{column}"), &k, false)).collect(),
            };
            let owned = if columns.len() == 1 { columns[0].clone() } else { format!("{}({})", self.accumulator(), columns.join(", ")) };
            let _ = writeln!(text, "let owned_{step} = {owned};");
            // The shared rows of this step: row = (register * size + lane) * shared_step + part.
            for register in 0..self.shared_registers() {
                let value = match self.shared_vector() {
                    vector if is_inner(vector) => format!("a_{register}.{}", component(step)),
                    Vector::Across => self.load(true, &format!("s_{register}"), &k, true),
                    _ => self.load(true, &format!("s_{register}"), &k, false),
                };
                let _ = writeln!(text, "let a_{step}_{register} = {value};");
            }
            for row in 0..tile.shared {
                let (group, part) = (row / self.shared_step(), row % self.shared_step());
                let (register, lane) = (group / tile.size, group % tile.size);
                let value = format!("a_{step}_{register}");
                let value = if self.shared_step() == 4 { format!("{value}.{}", component(part)) } else { value };
                let value = if tile.size == 1 { value } else { format!("subgroupBroadcast({value}, {lane}u)") };
                let _ = writeln!(text, "acc_{row} = acc_{row} + {value} * owned_{step};");
            }
        }
    }

    fn epilogue(&self, text: &mut String) {
        let tile = self.tile;
        for row in 0..tile.shared {
            for column in 0..tile.columns {
                let place = if self.owned_vector() == Vector::Across {
                    format!("owned_0 + lane * 4u + {column}u")
                } else {
                    format!("owned_0 + lane + {}u", column * tile.size)
                };
                let value = if tile.columns == 1 { format!("acc_{row}") } else { format!("acc_{row}.{}", ["x", "y", "z", "w"][column]) };
                let shared = format!("shared_0 + {row}u");
                let (row, column) = if tile.is_swapped { (&place, &shared) } else { (&shared, &place) };
                let _ = writeln!(text, "store(split, batch, {row}, {column}, {value});");
            }
        }
    }
}
