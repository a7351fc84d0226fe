//! Matrix products and the three convolutions, which are matrix products of a matrix that is looked up rather than stored.
//!
//! Four skeletons. Hardware: `shaders/dot_general.wgsl`, tiles in workgroup memory (`dot/tiles.rs`), `shaders/dot_general_thin.wgsl` for results with few
//! rows or columns, and `shaders/dot_general_cooperative.wgsl` for products of f16 on tensor cores (`dot/cooperative.rs`). Software adapters: `shaders/dot_general_subgroup.wgsl`, whose tile is unrolled (`dot/subgroup.rs`). A [`Choice`] says which, with which
//! tile and how often the inner axis is cut: by rules of thumb, or as `tune.rs` measured it on this adapter.

mod cooperative;
mod subgroup;
mod tiles;

use crate::gpu::emit::{Emitter, write_function};
use crate::gpu::launch::{Binding, Context, count_u32};
use crate::gpu::map;
use crate::gpu::reduce::{Target as Reduced, chunked};
use crate::gpu::template::{Template, library};
use crate::kernel::{BufferId, ConvolutionForm, Epilogue, Instruction, KernelOp, MatrixView, View};
use serde::{Deserialize, Serialize};
use solstice_ir::{DType, ReduceKind, element_count};
use std::fmt::{self, Write};

/// Longest sum of one accumulator: rounding errors of random sign grow with the square root, to about 50 units in the last place.
const SPLIT_MAX: usize = 8192;

/// How a product runs. The order of its sums, and so its bytes, depend on this and on the shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Workgroup tiles: `dot_general.wgsl`.
    Tile {
        /// Invocations along rows and columns.
        threads: [usize; 2],
        /// Groups of four rows, and of four columns, of an invocation.
        quads: [usize; 2],
        /// Parts of the inner axis.
        splits: usize,
    },
    /// A team a result: `dot_general_thin.wgsl`.
    Thin {
        /// Invocations of a team: 1 or 64.
        lanes: usize,
        /// Parts of the inner axis.
        splits: usize,
    },
    /// Tensor cores: `dot_general_cooperative.wgsl`. Products of f16 alone.
    Cooperative {
        /// Subgroups along rows and columns.
        subgroups: [usize; 2],
        /// Blocks of 16 x 16 of a subgroup.
        blocks: [usize; 2],
        /// Parts of the inner axis.
        splits: usize,
    },
    /// A tile a subgroup: `dot_general_subgroup.wgsl`.
    Subgroup {
        /// Rows, loaded once for the subgroup and broadcast.
        shared: usize,
        /// Columns of one lane: 1, 2 or 4.
        columns: usize,
        /// Rows and columns change places: the lanes own rows.
        is_swapped: bool,
        /// Parts of the inner axis.
        splits: usize,
    },
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let splits = match *self {
            Choice::Tile { threads, quads, splits } => {
                write!(f, "tile {} x {} by {} threads", 4 * threads[0] * quads[0], 4 * threads[1] * quads[1], threads[0] * threads[1])?;
                splits
            }
            Choice::Thin { lanes, splits } => {
                write!(f, "{lanes} lanes a result")?;
                splits
            }
            Choice::Cooperative { subgroups, blocks, splits } => {
                let [rows, columns] = [0, 1].map(|axis| 16 * subgroups[axis] * blocks[axis]);
                write!(f, "tile {rows} x {columns} on tensor cores by {} subgroups", subgroups[0] * subgroups[1])?;
                splits
            }
            Choice::Subgroup { shared, columns, is_swapped, splits } => {
                write!(f, "{shared} {} by {columns} a lane", if is_swapped { "columns" } else { "rows" })?;
                splits
            }
        };
        if splits > 1 { write!(f, " in {splits} parts") } else { Ok(()) }
    }
}

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

/// A product as all skeletons take it.
struct Product<'a> {
    /// Which kernel: `dot_general` or the file of the convolution.
    form: &'static str,
    batches: usize,
    rows: usize,
    columns: usize,
    inner: usize,
    /// Text with `load_lhs`, `load_rhs`, `address`, and `load_lhs4`, `load_rhs4` where the vector says so.
    operands: String,
    vectors: [Vector; 2],
    /// The right operand is looked up: `operands` has `load_rhs_at(rhs_column(..), rhs_step(..))`, whose parts can be kept.
    is_looked_up: bool,
    /// Neighbours along the inner axis are neighbours in memory.
    inner_first: [bool; 2],
    /// Four results of a row, from a multiple of four on, are neighbours in memory.
    has_quads: bool,
    from: [BufferId; 2],
    to: BufferId,
    /// The factors are rounded to f16, because some of what the product reads or makes is f16 in memory. Sums stay f32.
    is_half: bool,
    epilogue: Option<&'a Epilogue>,
}

impl Product<'_> {
    /// Results of one part of the inner axis.
    fn total(&self) -> usize {
        self.batches * self.rows * self.columns
    }

    /// What products have in common that one measurement stands for: the kernel, the ways its operands lie, and each size to the next power of two.
    fn class(&self, is_software: bool) -> String {
        let family = if is_software { "software" } else { "hardware" };
        let way = |side: usize| match (self.vectors[side], self.inner_first[side]) {
            (Vector::Inner, _) => "inner4",
            (Vector::Across, _) => "across4",
            (Vector::None, true) => "inner",
            (Vector::None, false) => "across",
        };
        let [batches, rows, columns, inner] = [self.batches, self.rows, self.columns, self.inner].map(usize::next_power_of_two);
        let epilogue = if self.epilogue.is_some() { " with an epilogue" } else { "" };
        let half = if self.is_half { " of f16" } else { "" };
        format!("{family} {} {} {} {batches}x{rows}x{columns}x{inner}{half}{epilogue}", self.form, way(0), way(1))
    }
}

/// Appends the launches of a `KernelOp::Dot` or `KernelOp::Convolution`.
pub fn emit(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let product = product(context, op)?;
    count_u32(&[product.batches, product.rows, product.columns])?;
    count_u32(&[product.inner])?;
    if product.total() == 0 {
        return Ok(());
    }
    let measured = context.target.tuning.choice(&product.class(context.target.is_software));
    let choice = match measured.filter(|choice| is_allowed(context, &product, choice)) {
        Some(measured) => measured,
        None => rule_of_thumb(context, &product),
    };
    match choice {
        Choice::Tile { threads, quads, splits } => tiles::emit(context, label, &product, threads, quads, splits),
        Choice::Thin { lanes, splits } => tiles::emit_thin(context, label, &product, lanes, splits),
        Choice::Cooperative { subgroups, blocks, splits } => cooperative::emit(context, label, &product, subgroups, blocks, splits),
        Choice::Subgroup { splits, .. } => subgroup::emit(context, label, &product, &choice, splits),
    }
}

/// Class of a product and what may be chosen for it, the rule of thumb first; `None` for other kernels and for empty products.
///
/// Errors: as of [`emit`].
pub fn choices(context: &Context, op: &KernelOp) -> Result<Option<(String, Vec<Choice>)>, String> {
    if !matches!(op, KernelOp::Dot { .. } | KernelOp::Convolution { .. }) {
        return Ok(None);
    }
    let product = product(context, op)?;
    if product.total() == 0 {
        return Ok(None);
    }
    let first = rule_of_thumb(context, &product);
    let tiles = if context.target.is_software { subgroup::candidates(context, &product) } else { tiles::candidates(context, &product) };
    let others = cooperative::candidates(context, &product)
        .into_iter()
        .chain(tiles)
        .filter(|choice| *choice != first && is_allowed(context, &product, choice));
    Ok(Some((product.class(context.target.is_software), std::iter::once(first).chain(others).collect())))
}

fn rule_of_thumb(context: &Context, product: &Product) -> Choice {
    let on_tensor_cores = cooperative::rule_of_thumb(context, product);
    let without =
        || if context.target.is_software { subgroup::rule_of_thumb(context, product) } else { tiles::rule_of_thumb(context, product) };
    on_tensor_cores.unwrap_or_else(without)
}

/// A record may be another program's: what it says must be possible here.
fn is_allowed(context: &Context, product: &Product, choice: &Choice) -> bool {
    let (splits, is_possible) = match *choice {
        Choice::Tile { threads, quads, splits } => (splits, tiles::is_possible(context, product, threads, quads)),
        Choice::Thin { lanes, splits } => (splits, !context.target.is_software && (lanes == 1 || lanes == 64)),
        Choice::Cooperative { subgroups, blocks, splits } => (splits, cooperative::is_possible(context, product, subgroups, blocks)),
        Choice::Subgroup { shared, columns, is_swapped, splits } => {
            (splits, context.target.is_software && subgroup::is_possible(context, product, shared, columns, is_swapped))
        }
    };
    let parts = product.inner.div_ceil(SPLIT_MAX).max(1)..=product.inner.max(1);
    is_possible && parts.contains(&splits) && count_u32(&[splits, product.total()]).is_ok()
}

fn product<'a>(context: &Context, op: &'a KernelOp) -> Result<Product<'a>, String> {
    match op {
        KernelOp::Dot { .. } => Ok(dot(context, op)),
        _ => convolution(context, op),
    }
}

/// True when the factors of a product are rounded to f16.
fn is_half(context: &Context, from: [BufferId; 2], to: BufferId) -> bool {
    from.iter().chain([&to]).any(|buffer| context.buffer(*buffer).is_half)
}

fn dot<'a>(context: &Context, op: &'a KernelOp) -> Product<'a> {
    let KernelOp::Dot { batch, rows, columns, inner, lhs, rhs, to, epilogue } = op else { unreachable!("the caller matched a dot") };
    let is_half = is_half(context, [lhs.buffer, rhs.buffer], *to);
    let vectors = [
        matrix_vector(lhs, lhs.column_stride, lhs.row_stride, batch, *inner, *rows),
        matrix_vector(rhs, rhs.row_stride, rhs.column_stride, batch, *inner, *columns),
    ];
    let load = |name: &str, binding: usize, view: &MatrixView| {
        load_functions(name, binding, vectors[binding], Element::of(context, view.buffer, is_half))
    };
    let mut operands = load("lhs", 0, lhs) + &load("rhs", 1, rhs);
    operands += &position_function("lhs", "row: u32, k: u32", lhs, batch, "row", "k");
    operands += &position_function("rhs", "k: u32, column: u32", rhs, batch, "k", "column");
    operands += "fn address(batch: u32, row: u32, column: u32) -> u32 {\nreturn (batch * ROWS + row) * COLUMNS + column;\n}\n";
    operands += &library(context.sources(), &operands);
    Product {
        form: "dot_general",
        batches: element_count(batch),
        rows: *rows,
        columns: *columns,
        inner: *inner,
        operands,
        vectors,
        is_looked_up: false,
        inner_first: [lhs.column_stride.abs() <= lhs.row_stride.abs(), rhs.row_stride.abs() < rhs.column_stride.abs()],
        has_quads: columns.is_multiple_of(4),
        from: [lhs.buffer, rhs.buffer],
        to: *to,
        is_half,
        epilogue: epilogue.as_deref(),
    }
}

fn convolution<'a>(context: &Context, op: &'a KernelOp) -> Result<Product<'a>, String> {
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
    // Columns that follow each other in memory.
    let neighbours = match form {
        ConvolutionForm::Forward => positions,
        ConvolutionForm::InputGrad => x_positions,
        ConvolutionForm::WeightGrad => columns,
    };
    let vector = if is_row_contiguous { Vector::Inner } else { Vector::None };
    let is_half = is_half(context, from, *to);
    let [lhs, rhs] = from.map(|buffer| Element::of(context, buffer, is_half));
    let rhs = format!(
        "@group(0) @binding(1) var<storage, read> rhs: array<{}>;\nfn rhs_at(position: u32) -> f32 {{\nreturn {};\n}}\n",
        rhs.memory(),
        rhs.load("rhs[position]")
    );
    let lhs = load_functions("lhs", 0, vector, lhs);
    let mut template = Template::new(context.sources(), file)
        .count("CHANNELS", channels)
        .count("OUT_CHANNELS", out_channels)
        .count("GROUP_CHANNELS", group_channels)
        .count("GROUP_OUT", group_out)
        .region("lhs", &format!("{lhs}{}", library(context.sources(), &format!("{lhs}{rhs}"))))
        .region("rhs", &rhs);
    let low = padded(&geometry.low, 0);
    let (strides, dilation) = (padded(&geometry.strides, 1), padded(&geometry.dilation, 1));
    for axis in 0..3 {
        for (name, values) in [("X", &x), ("KERNEL", &kernel), ("OUT", &out), ("STRIDE", &strides), ("LOW", &low), ("DILATION", &dilation)]
        {
            template = template.count(&format!("{name}_{axis}"), values[axis]);
        }
    }
    if *form != ConvolutionForm::InputGrad {
        // The last window's last tap is the farthest; the first ones start at the padding.
        let reach = |axis: usize| (out[axis].max(1) - 1) * strides[axis] + (kernel[axis].max(1) - 1) * dilation[axis];
        template = template.flag("IS_PADDED", (0..3).any(|axis| low[axis] > 0 || reach(axis) >= x[axis]));
    }
    Ok(Product {
        form: file,
        batches: geometry.groups,
        rows,
        columns,
        inner,
        operands: template.into_text()?,
        vectors: [vector, Vector::None],
        is_looked_up: true,
        inner_first: [*form != ConvolutionForm::InputGrad, *form == ConvolutionForm::WeightGrad],
        has_quads: neighbours.is_multiple_of(4),
        from,
        to: *to,
        is_half,
        epilogue: epilogue.as_deref(),
    })
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

/// How an operand's elements lie in memory, and what becomes of them on the way into a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// f32, taken as it is.
    Single,
    /// f32, rounded to f16.
    Rounded,
    /// f16.
    Half,
}

impl Element {
    fn of(context: &Context, buffer: BufferId, is_half: bool) -> Element {
        match (context.buffer(buffer).is_half, is_half) {
            (true, _) => Element::Half,
            (false, true) => Element::Rounded,
            (false, false) => Element::Single,
        }
    }

    /// WGSL type in memory.
    fn memory(self) -> &'static str {
        if self == Element::Half { "f16" } else { "f32" }
    }

    /// The f32 value of an element in memory.
    fn load(self, place: &str) -> String {
        match self {
            Element::Single => place.to_owned(),
            Element::Rounded => format!("rounded_of({place})"),
            Element::Half => format!("f32({place})"),
        }
    }

    /// The same of four neighbours.
    fn load4(self, place: &str) -> String {
        match self {
            Element::Single => place.to_owned(),
            Element::Rounded => format!("rounded4_of({place})"),
            Element::Half => format!("vec4<f32>({place})"),
        }
    }
}

/// Binding and load functions of an operand over its `_position` function.
fn load_functions(name: &str, binding: usize, vector: Vector, element: Element) -> String {
    let parameters = if name == "lhs" { "batch: u32, row: u32, k: u32" } else { "batch: u32, k: u32, column: u32" };
    let arguments = if name == "lhs" { "batch, row, k" } else { "batch, k, column" };
    let position = format!("{name}_position({arguments})");
    let memory = element.memory();
    if vector == Vector::None {
        let value = element.load(&format!("{name}[{position}]"));
        return format!(
            "@group(0) @binding({binding}) var<storage, read> {name}: array<{memory}>;\n\
             fn load_{name}({parameters}) -> f32 {{\nreturn {value};\n}}\n"
        );
    }
    let (four, one) =
        (element.load4(&format!("{name}[{position} >> 2u]")), element.load(&format!("{name}[position >> 2u][position & 3u]")));
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<vec4<{memory}>>;\n\
         fn load_{name}4({parameters}) -> vec4<f32> {{\nreturn {four};\n}}\n\
         fn load_{name}({parameters}) -> f32 {{\nlet position = {position};\nreturn {one};\n}}\n"
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

/// Number and length of the parts that `parts` wanted become: the length is a multiple of `step`.
fn cut(inner: usize, parts: usize, step: usize) -> (usize, usize) {
    let length = inner.div_ceil(parts).next_multiple_of(step).max(step);
    (inner.div_ceil(length).max(1), length)
}

/// Parts of the inner axis: enough for `tiles_wanted` tiles, none shorter than `length_min`.
fn parts(inner: usize, tiles: usize, tiles_wanted: usize, length_min: usize) -> usize {
    let busy = (tiles_wanted / tiles.max(1)).min(inner / length_min);
    inner.div_ceil(SPLIT_MAX).max(busy).max(1)
}

/// The launch, and the sum over the splits where there are several. The kernel writes `width` neighbouring results of a row at once: 1, or 4 where
/// [`writes_quads`] says so.
fn launch(
    context: &mut Context,
    label: &str,
    product: &Product,
    file: &str,
    (splits, split_length): (usize, usize),
    (groups, width): (usize, usize),
    finish: impl FnOnce(Template, usize) -> Result<String, String>,
) -> Result<(), String> {
    let total = product.total();
    let to = context.memory(product.to);
    let partial = if splits > 1 { context.temporary(splits * total) } else { to };
    count_u32(&[splits, total])?;
    let mut bindings = vec![context.read(product.from[0]), context.read(product.from[1])];
    let sources = context.sources();
    // Behind the sum over the splits an epilogue is written once, so it pays on every device.
    let fused = product.epilogue.filter(|epilogue| splits > 1 || pays(context, epilogue));
    let to_text = match fused {
        Some(epilogue) if splits == 1 => {
            let (more, text) = epilogue_text(context, epilogue, 2, width);
            bindings.extend(more);
            Some(text)
        }
        _ => {
            bindings.push(Binding { memory: partial, is_written: true });
            (splits == 1).then(|| result_text(context, product.to, 2)).flatten()
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
                let (more, text) = epilogue_text(context, epilogue, 1, 1);
                Reduced::Written(more, text)
            }
            None => match result_text(context, product.to, 1) {
                Some(text) => Reduced::Written(vec![Binding { memory: to, is_written: true }], text),
                None => Reduced::Memory(to, 0),
            },
        };
        chunked(context, label, ReduceKind::Sum, DType::F32, splits, total, partial, target)?;
    }
    match product.epilogue {
        Some(epilogue) if fused.is_none() => map::emit(context, label, &epilogue.shape, &epilogue.body, &epilogue.stores_behind_product()),
        _ => Ok(()),
    }
}

/// Binding number `binding` and the text of `write` for a result without an epilogue; `None` where it is f32, as the skeletons write it by themselves.
fn result_text(context: &Context, to: BufferId, binding: usize) -> Option<String> {
    context.buffer(to).is_half.then(|| write_function(context, to, binding))
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

/// True when four neighbouring results of a row can be written at once, by an epilogue too. Halves are written one by one.
fn writes_quads(context: &Context, product: &Product, splits: usize) -> bool {
    let fused = product.epilogue.filter(|epilogue| splits == 1 && pays(context, epilogue));
    let is_half = |buffer: BufferId| context.buffer(buffer).is_half;
    let has_halves = match fused {
        Some(Epilogue { body, stores, .. }) => {
            body.loads.iter().chain(stores.iter().map(|store| &store.to)).any(|view| is_half(view.buffer))
        }
        None => splits == 1 && is_half(product.to),
    };
    product.has_quads && !has_halves && fused.is_none_or(|epilogue| epilogue_emitter(context, epilogue, 2).inner_size(0).is_multiple_of(4))
}

fn epilogue_emitter<'a>(context: &Context, epilogue: &'a Epilogue, first_binding: usize) -> Emitter<'a> {
    let to: Vec<&View> = epilogue.stores.iter().map(|store| &store.to).collect();
    let axes = (0..epilogue.shape.len()).collect();
    Emitter::with_given(context, &epilogue.shape, &epilogue.body, &to, &[("i", axes)], Some(epilogue.product), first_binding)
}

/// Bindings from `first_binding` on and the text of `write` for an epilogue, which takes `width` elements at once.
fn epilogue_text(context: &Context, epilogue: &Epilogue, first_binding: usize, width: usize) -> (Vec<Binding>, String) {
    let mut emitter = epilogue_emitter(context, epilogue, first_binding);
    if width == 4 {
        emitter.widen(0);
    }
    emitter.run();
    for (index, store) in epilogue.stores.iter().enumerate() {
        emitter.store(index, store.value);
    }
    let (bindings, declarations, elements) = (emitter.bindings(), emitter.bindings_text(), emitter.into_text());
    let functions = library(context.sources(), &elements);
    let ty = if width == 4 { "vec4<f32>" } else { "f32" };
    (bindings, format!("{declarations}{functions}fn write(i: u32, product: {ty}) {{\n{elements}}}\n"))
}
