//! `KernelOp::Reduce` as one or two launches of `shaders/reduce.wgsl`.
//!
//! A sum of n f32 numbers one after the other errs by up to n units in the last place of the total. So a lane adds at most [`STEPS_MAX`] numbers; what is
//! longer is cut into chunks, whose results a second launch adds up. The order depends on the shape and the target alone.

use crate::gpu::emit::{Emitter, Motion, constant};
use crate::gpu::launch::{Binding, Context, Memory, count_u32, memory_type};
use crate::gpu::template::{Template, library};
use crate::kernel::{Body, Register};
use solstice_ir::{DType, ReduceKind};

/// Most additions of one accumulator: 1024 roundings of random sign err by about 30 units in the last place at worst, typically by a few.
const STEPS_MAX: usize = 1024;

/// The parts of a `KernelOp::Reduce` that say what is computed.
pub struct Reduction<'a> {
    /// Iteration space.
    pub shape: &'a [usize],
    /// Reduced axes.
    pub axes: &'a [usize],
    /// The monoid.
    pub kind: ReduceKind,
    /// Function of the index.
    pub body: &'a Body,
    /// The reduced register.
    pub value: Register,
}

/// Appends the launches of a reduction into `to`.
pub fn emit(context: &mut Context, label: &str, reduction: &Reduction, (to, to_offset): (Memory, usize)) -> Result<(), String> {
    let Reduction { shape, axes, kind, body, value } = *reduction;
    let outer: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
    let sizes = |axes: &[usize]| axes.iter().map(|&axis| shape[axis]).collect::<Vec<_>>();
    let (outputs, length) = (count_u32(&sizes(&outer))?, count_u32(&sizes(axes))?);
    count_u32(shape)?;
    let dtype = body.types[value.0 as usize];
    if outputs == 0 {
        return Ok(());
    }
    if length == 0 {
        return fill(context, label, kind, dtype, outputs, (to, to_offset));
    }
    let mut emitter = Emitter::new(context, shape, body, &[], &[("o", outer), ("k", axes.to_vec())]);
    let packed = |group: usize| {
        emitter.inner_size(group).is_multiple_of(4) && (0..body.loads.len()).any(|load| emitter.load_motion(load, group) == Motion::Packed)
    };
    let runs_along = (0..body.loads.len()).any(|load| matches!(emitter.load_motion(load, 1), Motion::Packed | Motion::Strided(1)));
    // On a GPU a workgroup reads a row together; on a CPU each invocation reads its own.
    let lanes = if !context.target.is_software && length >= 128 && (runs_along || outputs < 1024) { 64 } else { 1 };
    let (width_in, width_out) = if packed(1) {
        (4, 1)
    } else if lanes == 1 && packed(0) {
        (1, 4)
    } else {
        (1, 1)
    };
    if width_in * width_out == 4 {
        emitter.widen(if width_in == 4 { 1 } else { 0 });
    }
    emitter.run();
    let width = width_in * width_out;
    let values: Vec<String> = (0..width).map(|lane| emitter.value(value, lane).to_owned()).collect();
    let mut bindings = emitter.bindings();
    let (declarations, mut elements) = (emitter.bindings_text(), emitter.into_text());
    for (lane, value) in values.iter().enumerate() {
        elements += &format!("acc_{lane} = combine(acc_{lane}, {value});\n");
    }

    let (chunks, steps) = cut(length.div_ceil(lanes * width_in), outputs / width_out * lanes, context.target.is_software);
    let (partial, offset) = if chunks > 1 { (context.temporary(chunks * outputs), 0) } else { (to, to_offset) };
    let binding = bindings.len();
    bindings.push(Binding { memory: partial, is_written: true });
    let ty = memory_type(dtype);
    let declarations = format!("{declarations}@group(0) @binding({binding}) var<storage, read_write> to: array<T>;\n");
    let (combine, identity) = monoid(kind, dtype);
    let functions = format!("fn combine(x: T, y: T) -> T {{\nreturn {combine};\n}}\nfn identity() -> T {{\nreturn {identity};\n}}\n");
    let functions = library(context.sources(), &format!("{elements}{functions}")) + &functions;
    let mut store = String::new();
    for lane in 0..width_out {
        let own = if width_in == 4 { "combine(combine(acc_0, acc_1), combine(acc_2, acc_3))".into() } else { format!("acc_{lane}") };
        store += &format!("let total_{lane} = tree({own}, lane);\n");
        store +=
            &format!("if (chunk < CHUNKS && lane % LANES == 0u) {{\nto[{offset}u + chunk * OUTPUTS + o + {lane}u] = total_{lane};\n}}\n");
    }
    let groups = (chunks * (outputs / width_out) * lanes).div_ceil(64);
    let sources = context.sources();
    context.launch(label, bindings, groups, |groups_x| {
        Template::new(sources, "reduce")
            .alias("T", ty)
            .count("OUTPUTS", outputs)
            .count("LENGTH", length)
            .count("CHUNKS", chunks)
            .count("STEPS", steps)
            .count("LANES", lanes)
            .count("WIDTH_IN", width_in)
            .count("WIDTH_OUT", width_out)
            .count("GROUPS_X", groups_x)
            .region("bindings", &declarations)
            .region("functions", &functions)
            .region("elements", &elements)
            .region("store", &store)
            .into_text()
    })?;
    if chunks > 1 { chunked(context, label, kind, dtype, chunks, outputs, partial, Target::Memory(to, to_offset)) } else { Ok(()) }
}

/// Where the second launch of a reduction writes.
pub enum Target {
    /// Memory, from an element on.
    Memory(Memory, usize),
    /// Bindings from 1 on and the text of a function `write(i, product)` over them.
    Written(Vec<Binding>, String),
}

/// Reduces `[chunks, outputs]` in `partial` over its first axis. Also the second launch of a product whose inner axis was cut.
pub fn chunked(
    context: &mut Context,
    label: &str,
    kind: ReduceKind,
    dtype: DType,
    chunks: usize,
    outputs: usize,
    partial: Memory,
    target: Target,
) -> Result<(), String> {
    let (combine, identity) = monoid(kind, dtype);
    let functions = format!("fn combine(x: T, y: T) -> T {{\nreturn {combine};\n}}\nfn identity() -> T {{\nreturn {identity};\n}}\n");
    let functions = library(context.sources(), &functions) + &functions;
    let lanes = if !context.target.is_software && chunks >= 128 && outputs < 1024 { 64 } else { 1 };
    let (next_chunks, steps) = cut(chunks.div_ceil(lanes), outputs * lanes, context.target.is_software);
    let next = (next_chunks > 1).then(|| context.temporary(next_chunks * outputs));
    let mut bindings = vec![Binding { memory: partial, is_written: false }];
    let mut declarations = "@group(0) @binding(0) var<storage, read> partial: array<T>;\n".to_owned();
    let store = match (&next, &target) {
        (None, Target::Written(more, text)) => {
            bindings.extend(more);
            declarations += text;
            "write(o, total);".to_owned()
        }
        (_, target) => {
            let (memory, offset) = match (next, target) {
                (None, Target::Memory(memory, offset)) => (*memory, *offset),
                (next, _) => (next.expect("written at once otherwise"), 0),
            };
            bindings.push(Binding { memory, is_written: true });
            declarations += "@group(0) @binding(1) var<storage, read_write> to: array<T>;\n";
            format!("to[{offset}u + chunk * OUTPUTS + o] = total;")
        }
    };
    let sources = context.sources();
    context.launch(label, bindings, (next_chunks * outputs * lanes).div_ceil(64), |groups_x| {
        Template::new(sources, "reduce")
            .alias("T", memory_type(dtype))
            .count("OUTPUTS", outputs)
            .count("LENGTH", chunks)
            .count("CHUNKS", next_chunks)
            .count("STEPS", steps)
            .count("LANES", lanes)
            .count("GROUPS_X", groups_x)
            .region("bindings", &declarations)
            .region("functions", &functions)
            .region("elements", "acc_0 = combine(acc_0, partial[k * OUTPUTS + o]);")
            .region("store", &format!("let total = tree(acc_0, lane);\nif (chunk < CHUNKS && lane % LANES == 0u) {{\n{store}\n}}\n"))
            .into_text()
    })?;
    match next {
        Some(next) => chunked(context, label, kind, dtype, next_chunks, outputs, next, target),
        None => Ok(()),
    }
}

/// Chunks and steps of a lane: `steps` steps for each of `lanes` lanes would be needed without cutting.
fn cut(steps: usize, lanes: usize, is_software: bool) -> (usize, usize) {
    // Enough lanes to keep the device busy, but not so many that the second launch has more to do than the first.
    let (lanes_wanted, steps_min): (usize, usize) = if is_software { (1024, 256) } else { (65536, 16) };
    let busy = lanes_wanted.div_ceil(lanes.max(1)).min(steps / steps_min);
    let chunks = steps.div_ceil(STEPS_MAX).max(busy).max(1);
    let steps_cut = steps.div_ceil(chunks);
    (steps.div_ceil(steps_cut), steps_cut)
}

/// `combine(x, y)` and `identity()` in WGSL.
pub fn monoid(kind: ReduceKind, dtype: DType) -> (&'static str, String) {
    let is_float = dtype == DType::F32;
    let combine = match kind {
        ReduceKind::Sum => "x + y",
        ReduceKind::Prod => "x * y",
        ReduceKind::Max if is_float => "maximum_f32(x, y)",
        ReduceKind::Min if is_float => "minimum_f32(x, y)",
        ReduceKind::Max => "max(x, y)",
        ReduceKind::Min => "min(x, y)",
    };
    (combine, constant(dtype, identity(kind, dtype)))
}

/// Identity of a monoid.
fn identity(kind: ReduceKind, dtype: DType) -> f64 {
    match (kind, dtype) {
        (ReduceKind::Sum, _) => 0.0,
        (ReduceKind::Prod, _) => 1.0,
        (ReduceKind::Max, DType::F32) => f64::NEG_INFINITY,
        (ReduceKind::Min, DType::F32) => f64::INFINITY,
        (ReduceKind::Max, DType::I32) => f64::from(i32::MIN),
        (ReduceKind::Min, DType::I32) => f64::from(i32::MAX),
        (ReduceKind::Max, _) => 0.0,
        (ReduceKind::Min, _) => f64::from(u32::MAX),
    }
}

/// An empty axis gives the identity.
fn fill(
    context: &mut Context,
    label: &str,
    kind: ReduceKind,
    dtype: DType,
    outputs: usize,
    (to, to_offset): (Memory, usize),
) -> Result<(), String> {
    let value = constant(dtype, identity(kind, dtype));
    let bindings = vec![Binding { memory: to, is_written: true }];
    let sources = context.sources();
    context.launch(label, bindings, outputs.div_ceil(64), |groups_x| {
        Template::new(sources, "map")
            .count("COUNT", outputs)
            .count("GROUPS_X", groups_x)
            .region("bindings", &format!("@group(0) @binding(0) var<storage, read_write> b0: array<{}>;", memory_type(dtype)))
            .region("functions", &library(sources, &value))
            .region("elements", &format!("b0[{to_offset}u + i] = {value};"))
            .into_text()
    })
}
