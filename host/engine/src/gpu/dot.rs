//! Matrix products and the three convolutions, which are matrix products of a matrix that is looked up rather than stored.
//!
//! Two families. Hardware: `shaders/dot_general.wgsl`, tiles in workgroup memory. Software adapters: `shaders/dot_general_subgroup.wgsl`, whose tile is
//! unrolled here, because on llvmpipe a memory access costs about as much as [`LOAD_COST`] products: one subgroup loads an element once and broadcasts it.
//!
//! Measured on llvmpipe (Mesa 22.3.6, 256 bits, two cores shared with other work), 512^3 f32, best of 15: 13 to 27 GFLOP/s with 64 accumulators a lane, 17 to
//! 24 with 128 (a third more time in the compiler), 4 to 12 with 32. The tiles for hardware reach 0.3 there.

use crate::gpu::emit::Emitter;
use crate::gpu::launch::{Binding, Context, count_u32};
use crate::gpu::map;
use crate::gpu::reduce::{Target, chunked};
use crate::gpu::template::{Template, library};
use crate::kernel::{BufferId, ConvolutionForm, Epilogue, Instruction, KernelOp, MatrixView, View};
use solstice_ir::{DType, ReduceKind, element_count};
use std::fmt::Write;

/// Cost of one memory access on a software adapter, in products.
const LOAD_COST: usize = 8;

/// Longest sum of one accumulator: rounding errors of random sign grow with the square root, to about 50 units in the last place.
const SPLIT_MAX: usize = 8192;

/// Which neighbours one `vec4` load of an operand brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vector {
    /// None: the operand is read one by one.
    None,
    /// Four along the inner axis.
    Inner,
    /// Four rows of the left, four columns of the right operand.
    Across,
}

/// A product as both families take it.
struct Product<'a> {
    batches: usize,
    rows: usize,
    columns: usize,
    inner: usize,
    /// Text with `load_lhs`, `load_rhs`, `address`, and `load_lhs4`, `load_rhs4` where the vector says so.
    operands: String,
    vectors: [Vector; 2],
    /// Neighbours along the inner axis are neighbours in memory.
    inner_first: [bool; 2],
    from: [BufferId; 2],
    to: BufferId,
    epilogue: Option<&'a Epilogue>,
}

/// Appends the launches of a `KernelOp::Dot`.
pub fn dot(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::Dot { batch, rows, columns, inner, lhs, rhs, to, epilogue } = op else { unreachable!("the caller matched a dot") };
    let vectors = if context.target.is_software {
        [
            matrix_vector(lhs, lhs.column_stride, lhs.row_stride, batch, *inner, *rows),
            matrix_vector(rhs, rhs.row_stride, rhs.column_stride, batch, *inner, *columns),
        ]
    } else {
        [Vector::None; 2]
    };
    let mut operands = load_functions("lhs", 0, vectors[0]) + &load_functions("rhs", 1, vectors[1]);
    operands += &position_function("lhs", "row: u32, k: u32", lhs, batch, "row", "k");
    operands += &position_function("rhs", "k: u32, column: u32", rhs, batch, "k", "column");
    operands += "fn address(batch: u32, row: u32, column: u32) -> u32 {\nreturn (batch * ROWS + row) * COLUMNS + column;\n}\n";
    let product = Product {
        batches: element_count(batch),
        rows: *rows,
        columns: *columns,
        inner: *inner,
        operands,
        vectors,
        inner_first: [lhs.column_stride.abs() <= lhs.row_stride.abs(), rhs.row_stride.abs() < rhs.column_stride.abs()],
        from: [lhs.buffer, rhs.buffer],
        to: *to,
        epilogue: epilogue.as_deref(),
    };
    emit(context, label, &product)
}

/// Appends the launches of a `KernelOp::Convolution`.
pub fn convolution(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::Convolution { form, geometry, x_shape, weight_shape, out_shape, from, to, epilogue } = op else {
        unreachable!("the caller matched a convolution")
    };
    let spatial = geometry.strides.len();
    if spatial > 3 {
        return Err(format!("{spatial} spatial axes; convolutions have at most 3 on this device"));
    }
    // Missing axes come first, with size 1.
    let padded = |values: &[usize], missing: usize| [vec![missing; 3 - spatial], values.to_vec()].concat();
    let (x, kernel, out) = (padded(&x_shape[2..], 1), padded(&weight_shape[2..], 1), padded(&out_shape[2..], 1));
    let (taps, positions, x_positions) = (element_count(&kernel), element_count(&out), element_count(&x));
    let (batch, channels, out_channels) = (x_shape[0], x_shape[1], out_shape[1]);
    let (group_channels, group_out) = (weight_shape[1], out_channels / geometry.groups);
    let (file, rows, columns, inner, is_row_contiguous, from) = match form {
        ConvolutionForm::Forward => {
            ("convolution", group_out, batch * positions, group_channels * taps, (group_channels * taps) % 4 == 0, [from[1], from[0]])
        }
        ConvolutionForm::InputGrad => {
            ("convolution_input_grad", group_channels, batch * x_positions, group_out * taps, false, [from[1], from[0]])
        }
        ConvolutionForm::WeightGrad => {
            ("convolution_weight_grad", group_out, group_channels * taps, batch * positions, positions % 4 == 0, [from[1], from[0]])
        }
    };
    let vector = if is_row_contiguous && context.target.is_software { Vector::Inner } else { Vector::None };
    let mut template = Template::new(context.sources(), file)
        .count("CHANNELS", channels)
        .count("OUT_CHANNELS", out_channels)
        .count("GROUP_CHANNELS", group_channels)
        .count("GROUP_OUT", group_out)
        .region("lhs", &load_functions("lhs", 0, vector));
    let low = padded(&geometry.low, 0);
    let (strides, dilation) = (padded(&geometry.strides, 1), padded(&geometry.dilation, 1));
    for axis in 0..3 {
        for (name, values) in [("X", &x), ("KERNEL", &kernel), ("OUT", &out), ("STRIDE", &strides), ("LOW", &low), ("DILATION", &dilation)]
        {
            template = template.count(&format!("{name}_{axis}"), values[axis]);
        }
    }
    let product = Product {
        batches: geometry.groups,
        rows,
        columns,
        inner,
        operands: template.into_text()?,
        vectors: [vector, Vector::None],
        inner_first: [*form != ConvolutionForm::InputGrad, *form == ConvolutionForm::WeightGrad],
        from,
        to: *to,
        epilogue: epilogue.as_deref(),
    };
    emit(context, label, &product)
}

/// The vector loads that an operand allows: one stride is 1, the others keep the alignment.
fn matrix_vector(view: &MatrixView, inner_stride: isize, across_stride: isize, batch: &[usize], inner: usize, across: usize) -> Vector {
    let batches_aligned = batch.iter().zip(&view.batch_strides).all(|(&size, &stride)| size == 1 || stride % 4 == 0);
    if !view.offset.is_multiple_of(4) || !batches_aligned {
        return Vector::None;
    }
    if inner_stride == 1 && (across_stride % 4 == 0 || across == 1) {
        Vector::Inner
    } else if across_stride == 1 && across.is_multiple_of(4) && (inner_stride % 4 == 0 || inner == 1) {
        Vector::Across
    } else {
        Vector::None
    }
}

/// Binding and load functions of an operand over its `_position` function.
fn load_functions(name: &str, binding: usize, vector: Vector) -> String {
    let parameters = if name == "lhs" { "batch: u32, row: u32, k: u32" } else { "batch: u32, k: u32, column: u32" };
    let arguments = if name == "lhs" { "batch, row, k" } else { "batch, k, column" };
    let position = format!("{name}_position({arguments})");
    if vector == Vector::None {
        return format!(
            "@group(0) @binding({binding}) var<storage, read> {name}: array<f32>;\n\
             fn load_{name}({parameters}) -> f32 {{\nreturn {name}[{position}];\n}}\n"
        );
    }
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<vec4<f32>>;\n\
         fn load_{name}4({parameters}) -> vec4<f32> {{\nreturn {name}[{position} >> 2u];\n}}\n\
         fn load_{name}({parameters}) -> f32 {{\nlet position = {position};\nreturn {name}[position >> 2u][position & 3u];\n}}\n"
    )
}

/// `lhs_position` or `rhs_position` of a strided matrix.
fn position_function(name: &str, parameters: &str, view: &MatrixView, batch: &[usize], row: &str, column: &str) -> String {
    let mut text = format!("fn {name}_position(batch: u32, {parameters}) -> u32 {{\n");
    let mut terms = Vec::new();
    let mut after = 1;
    for (&size, &stride) in batch.iter().zip(&view.batch_strides).rev() {
        if size > 1 && stride != 0 {
            terms.push(format!("batch / {after}u % {size}u * {}u", stride as u32));
        }
        after *= size;
    }
    terms.push(format!("{row} * {}u", view.row_stride as u32));
    terms.push(format!("{column} * {}u", view.column_stride as u32));
    terms.push(format!("{}u", view.offset));
    let _ = write!(text, "return {};\n}}\n", terms.join(" + "));
    text
}

fn emit(context: &mut Context, label: &str, product: &Product) -> Result<(), String> {
    let total = count_u32(&[product.batches, product.rows, product.columns])?;
    count_u32(&[product.inner])?;
    if total == 0 {
        return Ok(());
    }
    if context.target.is_software { emit_software(context, label, product, total) } else { emit_hardware(context, label, product, total) }
}

fn emit_hardware(context: &mut Context, label: &str, product: &Product, total: usize) -> Result<(), String> {
    let tiles = |side: usize| product.batches * product.rows.div_ceil(side * 4) * product.columns.div_ceil(side * 4);
    // Large tiles load less, small ones keep more of the device busy.
    let side = if tiles(16) >= 128 { 16 } else { 8 };
    let (splits, split_length) = splits(product.inner, tiles(side), 128, 256, 16);
    let tile = side * 4;
    let finish = |template: Template, groups_x: usize| {
        template
            .count("SIDE", side)
            .flag("LHS_INNER_FIRST", product.inner_first[0])
            .flag("RHS_INNER_FIRST", product.inner_first[1])
            .count("GROUPS_X", groups_x)
            .into_text()
    };
    launch_product(context, label, product, total, "dot_general", (tile, tile), (splits, split_length), splits * tiles(side), finish)
}

fn emit_software(context: &mut Context, label: &str, product: &Product, total: usize) -> Result<(), String> {
    let tile = choose_tile(product, context.target.subgroup_size);
    let sides = if tile.is_swapped { (tile.owned(), tile.shared) } else { (tile.shared, tile.owned()) };
    let tiles = product.batches * product.rows.div_ceil(sides.0) * product.columns.div_ceil(sides.1);
    let (splits, split_length) = splits(product.inner, tiles, 8, 1024, 4);
    let lanes = if tile.size == 1 { 32 } else { tile.size };
    let code = tile_code(product, &tile, split_length);
    let finish = |template: Template, groups_x: usize| {
        template.count("SIZE", tile.size).count("LANES", lanes).count("GROUPS_X", groups_x).region("tile", &code).into_text()
    };
    let groups = (splits * tiles * tile.size).div_ceil(lanes);
    launch_product(context, label, product, total, "dot_general_subgroup", sides, (splits, split_length), groups, finish)
}

/// The launch, and the sum over the splits where there are several.
fn launch_product(
    context: &mut Context,
    label: &str,
    product: &Product,
    total: usize,
    file: &str,
    (tile_rows, tile_columns): (usize, usize),
    (splits, split_length): (usize, usize),
    groups: usize,
    finish: impl FnOnce(Template, usize) -> Result<String, String>,
) -> Result<(), String> {
    let to = context.memory(product.to);
    let partial = if splits > 1 { context.temporary(splits * total) } else { to };
    count_u32(&[splits, total])?;
    let mut bindings = vec![context.read(product.from[0]), context.read(product.from[1])];
    let sources = context.sources();
    // Behind the sum over the splits an epilogue is written once, so it pays on every device.
    let fused = product.epilogue.filter(|epilogue| splits > 1 || pays(context, epilogue));
    let to_text = match fused {
        Some(epilogue) if splits == 1 => {
            let (more, text) = epilogue_text(context, epilogue, 2);
            bindings.extend(more);
            Some(text)
        }
        _ => {
            bindings.push(Binding { memory: partial, is_written: true });
            None
        }
    };
    context.launch(label, bindings, groups, |groups_x| {
        let template = Template::new(sources, file)
            .count("ROWS", product.rows)
            .count("COLUMNS", product.columns)
            .count("INNER", product.inner)
            .count("BATCHES", product.batches)
            .count("SPLITS", splits)
            .count("SPLIT_LENGTH", split_length)
            .count("TOTAL", total)
            .count("TILES_ROW", product.rows.div_ceil(tile_rows))
            .count("TILES_COLUMN", product.columns.div_ceil(tile_columns))
            .region("operands", &product.operands);
        finish(
            match &to_text {
                Some(text) => template.region("to", text),
                None => template,
            },
            groups_x,
        )
    })?;
    if splits > 1 {
        let target = match fused {
            Some(epilogue) => {
                let (more, text) = epilogue_text(context, epilogue, 1);
                Target::Written(more, text)
            }
            None => Target::Memory(to, 0),
        };
        chunked(context, label, ReduceKind::Sum, DType::F32, splits, total, partial, target)?;
    }
    match product.epilogue {
        Some(epilogue) if fused.is_none() => map::emit(context, label, &epilogue.shape, &epilogue.body, &epilogue.stores_behind_product()),
        _ => Ok(()),
    }
}

/// Instructions of an epilogue that a software adapter runs in the product's kernel: there it is written once for each accumulator of the tile.
const SOFTWARE_EPILOGUE_MAX: usize = 12;

/// True when the epilogue is better in the product's kernel than in a map of its own.
fn pays(context: &Context, epilogue: &Epilogue) -> bool {
    use solstice_ir::{BinaryOp, UnaryOp};
    let is_cheap = |instruction: &Instruction| match instruction {
        Instruction::Unary(function, _) => matches!(function, UnaryOp::Negate | UnaryOp::Abs | UnaryOp::Sqrt | UnaryOp::Not),
        Instruction::Binary(function, ..) => !matches!(function, BinaryOp::Power | BinaryOp::Remainder),
        Instruction::Random { .. } => false,
        _ => true,
    };
    !context.target.is_software || (epilogue.body.code.len() <= SOFTWARE_EPILOGUE_MAX && epilogue.body.code.iter().all(is_cheap))
}

/// Bindings from `first_binding` on and the text of `write` for an epilogue.
fn epilogue_text(context: &Context, epilogue: &Epilogue, first_binding: usize) -> (Vec<Binding>, String) {
    let to: Vec<&View> = epilogue.stores.iter().map(|store| &store.to).collect();
    let axes = (0..epilogue.shape.len()).collect();
    let mut emitter =
        Emitter::with_given(context, &epilogue.shape, &epilogue.body, &to, &[("i", axes)], Some(epilogue.product), first_binding);
    emitter.run();
    for (index, store) in epilogue.stores.iter().enumerate() {
        emitter.store(index, store.value);
    }
    let (bindings, declarations, elements) = (emitter.bindings(), emitter.bindings_text(), emitter.into_text());
    let functions = library(context.sources(), &elements);
    (bindings, format!("{declarations}{functions}fn write(i: u32, product: f32) {{\n{elements}}}\n"))
}

/// Parts of the inner axis, and their length (a multiple of `step`): enough parts for `tiles_wanted` tiles, none shorter than `length_min`.
fn splits(inner: usize, tiles: usize, tiles_wanted: usize, length_min: usize, step: usize) -> (usize, usize) {
    let busy = (tiles_wanted / tiles.max(1)).min(inner / length_min);
    let parts = inner.div_ceil(SPLIT_MAX).max(busy).max(1);
    let length = inner.div_ceil(parts).next_multiple_of(step).max(step);
    (inner.div_ceil(length).max(1), length)
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
}

/// The tile with the least products and loads, padding included.
fn choose_tile(product: &Product, size: usize) -> Tile {
    let mut best: Option<(usize, Tile)> = None;
    for is_swapped in [false, true] {
        let (rows, columns) = if is_swapped { (product.columns, product.rows) } else { (product.rows, product.columns) };
        let (shared_vector, owned_vector) =
            if is_swapped { (product.vectors[1], product.vectors[0]) } else { (product.vectors[0], product.vectors[1]) };
        for shared in [1usize, 2, 4, 8, 16, 32] {
            for lane_columns in [1, 2, 4] {
                // Twice as many are a little faster and cost the driver's compiler a third more: about a second at the start of a small network.
                let is_allowed = shared * lane_columns <= if size == 1 { 32 } else { 64 };
                let aligned_shared = shared_vector != Vector::Across
                    || (shared.is_multiple_of(4) && (shared <= 4 * size || shared.is_multiple_of(4 * size)));
                if !is_allowed || !aligned_shared || (owned_vector == Vector::Across && lane_columns != 4) {
                    continue;
                }
                let tile = Tile { size, shared, columns: lane_columns, is_swapped };
                let tiles = rows.div_ceil(shared) * columns.div_ceil(tile.owned());
                let per_load = |vector: Vector| if vector == Vector::None { 4 } else { 2 };
                // In quarters of a load a step of the inner axis.
                let shared_loads = match shared_vector {
                    Vector::Across => shared.div_ceil(4 * size) * 4,
                    vector => shared.div_ceil(size) * per_load(vector),
                };
                let owned_loads = if owned_vector == Vector::Across { 4 } else { lane_columns * per_load(owned_vector) };
                let cost = tiles * size * (4 * shared * lane_columns + LOAD_COST * (shared_loads + owned_loads));
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, tile));
                }
            }
        }
    }
    best.expect("the smallest tile is always allowed").1
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
