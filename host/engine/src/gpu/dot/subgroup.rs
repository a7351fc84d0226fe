//! Products on software adapters: `shaders/dot_general_subgroup.wgsl`, whose tile is unrolled here.
//!
//! What llvmpipe (Mesa 22.3, LLVM 15) makes of a shader decides the shape of the tile. Every access to memory is a loop over the 8 lanes with a test of the
//! bounds for each component: 19 ns for one element a lane, 33 ns for four, whatever the addresses, beside 0.4 ns for a product of 8 lanes. So a subgroup loads
//! an element once and broadcasts it (one instruction), loads are of four where they can be, and a tile is as large as its loop fits the instruction cache: 256
//! accumulators, which live in the first-level cache. Products and sums are separate instructions (`fma` is taken apart), and an accumulator is blended with its
//! old value once a pass of the loop.
//!
//! Measured there, 512^3 f32, two cores: 40 GFLOP/s with 256 accumulators a lane, 36 with 128, 30 with 64, 32 with 512. The tiles for hardware reach 0.3.

use super::{Choice, Product, Vector, cut, launch, parts, writes_quads};
use crate::gpu::launch::Context;
use crate::gpu::template::Template;
use std::fmt::Write;

/// Eighths of a nanosecond on llvmpipe for 8 lanes: a product with its sum.
const PRODUCT_COST: usize = 3;

/// A load or store of four elements.
const VECTOR_COST: usize = 264;

/// A load or store of one element.
const SCALAR_COST: usize = 152;

/// Finding the place of an element that is looked up.
const LOOKUP_COST: usize = 40;

/// Accumulators of a lane at most: more do not fit the instruction cache.
const ACCUMULATORS_MAX: usize = 256;

/// The same for products of little work: their time is the compiler's, 0.2 s for 64 accumulators, 0.8 s for 256.
const ACCUMULATORS_SMALL: usize = 64;

/// Products of a kernel that are little work.
const SMALL_WORK: usize = 1 << 23;

/// Shared rows of a tile.
const SHARED: [usize; 11] = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64];

/// The inner axis is cut into multiples of this.
const STEP: usize = 4;

/// Appends the launches of a product with a `Choice::Subgroup`.
pub fn emit(context: &mut Context, label: &str, product: &Product, choice: &Choice, splits: usize) -> Result<(), String> {
    let Choice::Subgroup { shared, columns, is_swapped, .. } = *choice else { unreachable!("the caller matched a tile of a subgroup") };
    let tile = Tile { size: context.target.subgroup_size, shared, columns, is_swapped };
    let (splits, split_length) = cut(product.inner, splits, STEP);
    let lanes = if tile.size == 1 { 32 } else { tile.size };
    let width = if tile.has_quads() && writes_quads(context, product, splits) { 4 } else { 1 };
    let code = tile_code(product, &tile, split_length, width);
    let (row_tiles, column_tiles) = tile.counts(product);
    let invocations = splits * product.batches * row_tiles * column_tiles * tile.size;
    let groups = invocations.div_ceil(lanes);
    let is_filled = tile.fills(product) && invocations.is_multiple_of(lanes);
    let finish = |template: Template, groups_x: usize| {
        template
            .alias("T", if width == 4 { "vec4<f32>" } else { "f32" })
            .count("WIDTH", width)
            .flag("IS_FILLED", is_filled && groups.is_multiple_of(groups_x))
            .count("TILES_ROW", row_tiles)
            .count("TILES_COLUMN", column_tiles)
            .count("SIZE", tile.size)
            .count("LANES", lanes)
            .count("GROUPS_X", groups_x)
            .region("tile", &code)
            .into_text()
    };
    launch(context, label, product, "dot_general_subgroup", (splits, split_length), (groups, width), finish)
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
    let accumulators_max = if size == 1 { 32 } else { ACCUMULATORS_MAX };
    let fits = SHARED.contains(&shared) && [1, 2, 4].contains(&columns) && shared * columns <= accumulators_max;
    let is_aligned = shared_vector != Vector::Across || shared.is_multiple_of(4);
    fits && is_aligned && (owned_vector != Vector::Across || columns == 4)
}

fn tiles(context: &Context, product: &Product) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let is_small = product.total() * product.inner < SMALL_WORK;
    let accumulators_max = if is_small { ACCUMULATORS_SMALL } else { ACCUMULATORS_MAX };
    for is_swapped in [false, true] {
        for shared in SHARED {
            for columns in [1, 2, 4] {
                if shared * columns <= accumulators_max && is_possible(context, product, shared, columns, is_swapped) {
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

    /// True when each lane has four neighbouring results of a row.
    fn has_quads(&self) -> bool {
        if self.is_swapped { self.shared.is_multiple_of(4) } else { self.columns == 4 }
    }

    /// True when no tile reaches over an edge.
    fn fills(&self, product: &Product) -> bool {
        let (rows, columns) = if self.is_swapped { (self.owned(), self.shared) } else { (self.shared, self.owned()) };
        product.rows.is_multiple_of(rows) && product.columns.is_multiple_of(columns)
    }

    /// Products, loads and stores, padding included.
    fn cost(&self, product: &Product) -> usize {
        let (row_tiles, column_tiles) = self.counts(product);
        let (shared_vector, owned_vector) = self.vectors(product);
        let lookup = |is_right: bool| if product.is_looked_up && is_right { LOOKUP_COST } else { 0 };
        // Of a step of the inner axis.
        let one_load = |vector: Vector, is_right: bool| match vector {
            Vector::None => SCALAR_COST + lookup(is_right),
            Vector::Inner => VECTOR_COST / 4,
            Vector::Across => VECTOR_COST,
        };
        let shared_loads = self.shared.div_ceil(self.size * if shared_vector == Vector::Across { 4 } else { 1 });
        let owned_loads = if owned_vector == Vector::Across { 1 } else { self.columns };
        let step = PRODUCT_COST * self.shared * self.columns
            + shared_loads * one_load(shared_vector, self.is_swapped)
            + owned_loads * one_load(owned_vector, !self.is_swapped);
        let results = self.shared * self.columns;
        let stores = if self.has_quads() && product.has_quads { results / 4 * VECTOR_COST } else { results * SCALAR_COST };
        row_tiles * column_tiles * self.size * (product.inner * step + stores)
    }
}

/// The unrolled tile: four steps of the inner axis at once, then what is left one by one.
fn tile_code(product: &Product, tile: &Tile, split_length: usize, width: usize) -> String {
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
    code.epilogue(&mut text, width);
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
                let _ = writeln!(text, "let o_{column} = min(owned_0 + lane * {}u + {column}u, {owned_end} - 1u);", tile.columns);
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

    /// `count` steps of the inner axis (4 or 1): everything is loaded, then row after row takes its steps, so that an accumulator which has no register of
    /// its own is fetched and put back once. Each result is a sum in the order of the inner axis.
    fn steps(&self, text: &mut String, count: usize) {
        let tile = self.tile;
        let is_inner = |vector: Vector| vector == Vector::Inner && count == 4;
        let component = |index: usize| ["x", "y", "z", "w"][index];
        let at = |step: usize| if step == 0 { "k".to_owned() } else { format!("k + {step}u") };
        // The owned columns of each step.
        if is_inner(self.owned_vector()) {
            for column in 0..tile.columns {
                let _ = writeln!(text, "let b_{column} = {};", self.load(false, &format!("o_{column}"), "k", true));
            }
        }
        for step in 0..count {
            let columns: Vec<String> = match self.owned_vector() {
                vector if is_inner(vector) => (0..tile.columns).map(|column| format!("b_{column}.{}", component(step))).collect(),
                Vector::Across => vec![self.load(false, "o_0", &at(step), true)],
                _ => (0..tile.columns).map(|column| self.load(false, &format!("o_{column}"), &at(step), false)).collect(),
            };
            let owned = if columns.len() == 1 { columns[0].clone() } else { format!("{}({})", self.accumulator(), columns.join(", ")) };
            let _ = writeln!(text, "let owned_{step} = {owned};");
        }
        // The shared rows: row = (register * size + lane) * shared_step + part.
        for register in 0..self.shared_registers() {
            let place = format!("s_{register}");
            if is_inner(self.shared_vector()) {
                let _ = writeln!(text, "let a_{register} = {};", self.load(true, &place, "k", true));
                continue;
            }
            for step in 0..count {
                let value = self.load(true, &place, &at(step), self.shared_vector() == Vector::Across);
                let _ = writeln!(text, "let a_{register}_{step} = {value};");
            }
        }
        for row in 0..tile.shared {
            let (group, part) = (row / self.shared_step(), row % self.shared_step());
            let (register, lane) = (group / tile.size, group % tile.size);
            for step in 0..count {
                let value = match self.shared_vector() {
                    vector if is_inner(vector) => format!("a_{register}.{}", component(step)),
                    Vector::Across => format!("a_{register}_{step}.{}", component(part)),
                    _ => format!("a_{register}_{step}"),
                };
                let value = if tile.size == 1 { value } else { format!("subgroupBroadcast({value}, {lane}u)") };
                let _ = writeln!(text, "acc_{row} = acc_{row} + {value} * owned_{step};");
            }
        }
    }

    /// Stores of `width` neighbouring results of a row, 1 or 4.
    fn epilogue(&self, text: &mut String, width: usize) {
        let tile = self.tile;
        let component = |column: usize| if tile.columns == 1 { String::new() } else { format!(".{}", ["x", "y", "z", "w"][column]) };
        let accumulator = |shared: usize, owned: usize| format!("acc_{shared}{}", component(owned));
        let place = |owned: usize| format!("owned_0 + lane * {}u + {owned}u", tile.columns);
        if tile.is_swapped {
            for owned in 0..tile.columns {
                for first in (0..tile.shared).step_by(width) {
                    let values: Vec<String> = (first..first + width).map(|shared| accumulator(shared, owned)).collect();
                    let _ = writeln!(text, "store(split, batch, {}, shared_0 + {first}u, T({}));", place(owned), values.join(", "));
                }
            }
            return;
        }
        for shared in 0..tile.shared {
            for first in (0..tile.columns).step_by(width) {
                let value = if width == 4 { format!("acc_{shared}") } else { accumulator(shared, first) };
                let _ = writeln!(text, "store(split, batch, shared_0 + {shared}u, {}, {value});", place(first));
            }
        }
    }
}
