//! Kernels that look elements up: windows, arg reductions, gathers, scatters and blocks at runtime starts. Each is a file of `/shaders` with its sizes set.

use crate::gpu::emit::{constant, convert, write_function};
use crate::gpu::launch::{Binding, Context, count_u32, memory_type};
use crate::gpu::reduce::monoid;
use crate::gpu::template::{Template, library};
use crate::kernel::{BufferId, KernelOp};
use solstice_ir::{DType, ReduceKind, ScatterMode, Window, element_count, strides_of};
use std::fmt::Write;

/// Up to this many indices an element goes through them alone; beyond, a workgroup shares the search.
const SCATTER_ALONE_MAX: usize = 32;

/// Appends the launch of a `KernelOp::ReduceArg`.
pub fn reduce_arg(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::ReduceArg { kind, outer, n, inner, from, dtype, to } = op else { unreachable!("the caller matched an arg reduction") };
    count_u32(&[*outer, *n, *inner])?;
    let outputs = outer * inner;
    let is_shared = if context.target.is_software { *n > 16384 } else { *n >= 256 && outputs < 65536 };
    let lanes = if is_shared { 64 } else { 1 };
    check_steps(context, n.div_ceil(lanes))?;
    let (element, stored) = (memory_type(*dtype), context.element(*from));
    let is_nan = format!("fn is_nan(x: {element}) -> bool {{\nreturn false;\n}}");
    let is_nan = if *dtype == DType::F32 { library(context.sources(), "is_nan(x)") } else { is_nan };
    let bindings = vec![context.read(*from), context.write(*to)];
    let sources = context.sources();
    context.launch(label, bindings, (outputs * lanes).div_ceil(64), |groups_x| {
        Template::new(sources, "reduce_arg")
            .alias("T", element)
            .alias("S", stored)
            .count("OUTPUTS", outputs)
            .count("LENGTH", *n)
            .count("INNER", *inner)
            .count("LANES", lanes)
            .flag("IS_MAX", *kind == ReduceKind::Max)
            .count("GROUPS_X", groups_x)
            .region("is_nan", &is_nan)
            .into_text()
    })
}

/// Errors: an invocation would go through more loop passes than the device takes.
fn check_steps(context: &Context, steps: usize) -> Result<(), String> {
    let most = context.target.loop_steps_max;
    if steps > most {
        Err(format!("needs {steps} steps in a row, this software device stops after {most}: use `--device cpu`"))
    } else {
        Ok(())
    }
}

/// Appends the launch of a `KernelOp::ReduceWindow` or `KernelOp::SelectAndScatter`.
pub fn window(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    match op {
        KernelOp::ReduceWindow { kind, window, from_shape, to_shape, from, to } => {
            let axes = window_axes(window, from_shape, to_shape)?;
            check_steps(context, 2 * element_count(&window.size))?;
            let (count, _) = (count_u32(to_shape)?, count_u32(from_shape)?);
            let (combine, identity) = monoid(*kind, DType::F32);
            let functions =
                format!("fn combine(x: f32, y: f32) -> f32 {{\nreturn {combine};\n}}\nfn identity() -> f32 {{\nreturn {identity};\n}}\n");
            let functions = library(context.sources(), &functions) + &functions;
            let unrolled = (axes.iter().all(WindowAxis::is_unpadded) && element_count(&window.size) <= WINDOW_UNROLLED_MAX).then(|| {
                let first = "let first = ((start_0 * FROM_1 + start_1) * FROM_2 + start_2) * FROM_3 + start_3;\n".to_owned();
                offsets(&axes)
                    .iter()
                    .fold(first, |text, offset| text + &format!("total = combine(total, f32(source[first + {offset}u]));\n"))
            });
            let bindings = vec![context.read(*from), context.write(*to)];
            let (sources, write, stored) = (context.sources(), write_function(context, *to, 1), context.element(*from));
            context.launch(label, bindings, count.div_ceil(64), |groups_x| {
                let template = Template::new(sources, "reduce_window")
                    .alias("S", stored)
                    .region("write", &write)
                    .count("COUNT", count)
                    .count("GROUPS_X", groups_x)
                    .region("functions", &functions);
                let template = match &unrolled {
                    Some(text) => template.region("window", text),
                    None => template,
                };
                set_window(template, &axes).into_text()
            })
        }
        KernelOp::SelectAndScatter { kind, window, x_shape, windows_shape, x, grad, to } => {
            let axes = window_axes(window, x_shape, windows_shape)?;
            if axes.iter().all(WindowAxis::is_tiled) && element_count(&window.size) <= WINDOW_UNROLLED_MAX {
                return select_tiled(context, label, op, &axes);
            }
            let windows: usize = axes.iter().map(|axis| axis.size.div_ceil(axis.stride)).product();
            check_steps(context, 2 * windows * element_count(&window.size))?;
            let (count, _) = (count_u32(x_shape)?, count_u32(windows_shape)?);
            let bindings = vec![context.read(*x), context.read(*grad), context.write(*to)];
            let (sources, write) = (context.sources(), write_function(context, *to, 2));
            let stored = [*x, *grad].map(|buffer| context.element(buffer));
            context.launch(label, bindings, count.div_ceil(64), |groups_x| {
                let template = Template::new(sources, "select_and_scatter")
                    .alias("X", stored[0])
                    .alias("G", stored[1])
                    .region("write", &write)
                    .count("COUNT", count)
                    .count("GROUPS_X", groups_x)
                    .flag("IS_MAX", *kind == ReduceKind::Max);
                set_window(template, &axes).into_text()
            })
        }
        _ => unreachable!("the caller matched a window"),
    }
}

/// One axis of a window.
#[derive(Clone, Copy)]
struct WindowAxis {
    from: usize,
    to: usize,
    size: usize,
    stride: usize,
    low: usize,
}

/// Four axes: neighbours without a window are merged, missing ones have size 1.
fn window_axes(window: &Window, from_shape: &[usize], to_shape: &[usize]) -> Result<[WindowAxis; 4], String> {
    let mut axes: Vec<WindowAxis> = Vec::new();
    let mut last_is_plain = false;
    for axis in 0..from_shape.len() {
        let (size, stride, low) = (window.size[axis], window.strides[axis], window.low[axis]);
        let is_plain = size == 1 && stride == 1 && low == 0 && window.high[axis] == 0;
        if is_plain && last_is_plain {
            let last = axes.last_mut().expect("the last axis is plain, so there is one");
            last.from *= from_shape[axis];
            last.to *= to_shape[axis];
        } else {
            axes.push(WindowAxis { from: from_shape[axis], to: to_shape[axis], size, stride, low });
        }
        last_is_plain = is_plain;
    }
    let unit = WindowAxis { from: 1, to: 1, size: 1, stride: 1, low: 0 };
    let missing =
        4usize.checked_sub(axes.len()).ok_or_else(|| format!("a window over {:?} has more than four axes after merging", window.size))?;
    axes.splice(0..0, vec![unit; missing]);
    axes.try_into().map_err(|_| "a window has four axes".into())
}

impl WindowAxis {
    /// No window reaches into padding.
    fn is_unpadded(&self) -> bool {
        self.low == 0 && self.to > 0 && (self.to - 1) * self.stride + self.size <= self.from
    }

    /// The windows cover the axis without gaps and overlaps.
    fn is_tiled(&self) -> bool {
        self.low == 0 && self.stride == self.size && self.from == self.to * self.size
    }
}

/// Elements of a window that are written out one by one.
const WINDOW_UNROLLED_MAX: usize = 16;

/// Places of the elements of a window from its first on, in row-major order.
fn offsets(axes: &[WindowAxis; 4]) -> Vec<usize> {
    let sizes = axes.map(|axis| axis.size);
    let strides = strides_of(&axes.map(|axis| axis.from));
    let place = |element: usize| (0..4).map(|axis| element / element_count(&sizes[axis + 1..]) % sizes[axis] * strides[axis]).sum();
    (0..element_count(&sizes)).map(place).collect()
}

/// Appends the launch of a `KernelOp::SelectAndScatter` whose windows cover x.
fn select_tiled(context: &mut Context, label: &str, op: &KernelOp, axes: &[WindowAxis; 4]) -> Result<(), String> {
    let KernelOp::SelectAndScatter { kind, x_shape, windows_shape, x, grad, to, .. } = op else {
        unreachable!("the caller matched a window")
    };
    let (count, _) = (count_u32(windows_shape)?, count_u32(x_shape)?);
    let offsets = offsets(axes);
    let elements = offsets.len();
    let mut text = String::new();
    for (element, offset) in offsets.iter().enumerate() {
        let _ = writeln!(text, "let position_{element} = first + {offset}u;");
    }
    text += "var best = 0u;\nvar best_value = f32(x[position_0]);\n";
    for element in 1..elements {
        let _ = writeln!(text, "let value_{element} = f32(x[position_{element}]);");
        let _ = writeln!(text, "if (is_better(value_{element}, best_value)) {{\nbest = {element}u;\nbest_value = value_{element};\n}}");
    }
    text += "let value = f32(grad[i]);\n";
    for element in 0..elements {
        let _ = writeln!(text, "write(position_{element}, select(0.0, value, best == {element}u));");
    }
    let bindings = vec![context.read(*x), context.read(*grad), context.write(*to)];
    let (sources, write) = (context.sources(), write_function(context, *to, 2));
    let stored = [*x, *grad].map(|buffer| context.element(buffer));
    context.launch(label, bindings, count.div_ceil(64), |groups_x| {
        let mut template = Template::new(sources, "select_and_scatter_tiled")
            .alias("X", stored[0])
            .alias("G", stored[1])
            .region("write", &write)
            .count("COUNT", count)
            .count("GROUPS_X", groups_x)
            .flag("IS_MAX", *kind == ReduceKind::Max)
            .region("window", &text);
        for (index, axis) in axes.iter().enumerate() {
            template = template.count(&format!("SIZE_{index}"), axis.size);
            if index > 0 {
                template = template.count(&format!("FROM_{index}"), axis.from).count(&format!("TO_{index}"), axis.to);
            }
        }
        template.into_text()
    })
}

fn set_window(mut template: Template, axes: &[WindowAxis; 4]) -> Template {
    for (index, axis) in axes.iter().enumerate() {
        for (name, value) in [("FROM", axis.from), ("TO", axis.to), ("SIZE", axis.size), ("STRIDE", axis.stride), ("LOW", axis.low)] {
            template = template.count(&format!("{name}_{index}"), value);
        }
    }
    template
}

/// Appends the launch of a `KernelOp::Gather`.
pub fn gather(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::Gather { batch, outer, n, index_count, inner, from, from_dtype, indices, indices_unsigned, to, to_dtype } = op else {
        unreachable!("the caller matched a gather")
    };
    let count = count_u32(&[*batch, *outer, *index_count, *inner])?;
    count_u32(&[*batch, *outer, *n, *inner])?;
    if count == 0 {
        return Ok(());
    }
    let is_bytes = *from_dtype == DType::U8;
    if *to_dtype == DType::U8 || (is_bytes && *to_dtype == DType::Bool) || (!is_bytes && from_dtype != to_dtype) {
        return Err(format!("a gather from {from_dtype} to {to_dtype}"));
    }
    // Words move as bits, four at once where a row allows it; a row of bytes comes a word at a time.
    let width = if inner.is_multiple_of(4) { 4 } else { 1 };
    let (element, load) = match (is_bytes, width) {
        (false, 4) => (
            "vec4<u32>",
            "@group(0) @binding(0) var<storage, read> source: array<T>;\nfn load(position: u32) -> T {\nreturn source[position];\n}".into(),
        ),
        (false, _) => (
            "u32",
            "@group(0) @binding(0) var<storage, read> source: array<T>;\nfn load(position: u32) -> T {\nreturn source[position];\n}".into(),
        ),
        (true, _) => bytes_load(width, *to_dtype),
    };
    let bindings = vec![context.read(*from), context.read(*indices), context.write(*to)];
    let sources = context.sources();
    context.launch(label, bindings, (count / width).div_ceil(64), |groups_x| {
        Template::new(sources, "gather")
            .alias("T", element)
            .count("COUNT", count / width)
            .count("OUTER", *outer)
            .count("LENGTH", *n)
            .count("INDEX_COUNT", *index_count)
            .count("INNER", inner / width)
            .flag("INDICES_UNSIGNED", *indices_unsigned)
            .count("GROUPS_X", groups_x)
            .region("load", &load)
            .into_text()
    })
}

/// Element type and load of a gather from bytes; positions count elements of `width` bytes.
fn bytes_load(width: usize, to: DType) -> (&'static str, String) {
    let declaration = "@group(0) @binding(0) var<storage, read> source: array<u32>;\n";
    let widened = |byte: &str| convert(DType::U32, to, byte);
    match (width, memory_type(to)) {
        (4, element) => {
            let parts: Vec<String> = (0..4).map(|part| widened(&format!("((word >> {}u) & 255u)", part * 8))).collect();
            let vector = match element {
                "f32" => "vec4<f32>",
                "i32" => "vec4<i32>",
                _ => "vec4<u32>",
            };
            let text = format!("fn load(position: u32) -> T {{\nlet word = source[position];\nreturn T({});\n}}", parts.join(", "));
            (vector, declaration.to_owned() + &text)
        }
        (_, element) => {
            let value = widened("((source[position >> 2u] >> ((position & 3u) * 8u)) & 255u)");
            (element, format!("{declaration}fn load(position: u32) -> T {{\nreturn {value};\n}}"))
        }
    }
}

/// Appends the launch of a `KernelOp::Scatter`.
pub fn scatter(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::Scatter { mode, batch, outer, n, index_count, inner, dtype, from, indices, indices_unsigned, updates, to } = op else {
        unreachable!("the caller matched a scatter")
    };
    let count = count_u32(&[*batch, *outer, *n, *inner])?;
    count_u32(&[*batch, *outer, *index_count, *inner])?;
    if count == 0 {
        return Ok(());
    }
    let combine = match (mode, dtype) {
        (ScatterMode::Set, _) => "update",
        // The sum of truth values is whether one of them holds.
        (ScatterMode::Add, DType::Bool) => "old | update",
        (ScatterMode::Add, _) => "old + update",
    };
    let combine = format!("fn combine(old: T, update: T) -> T {{\nreturn {combine};\n}}");
    let is_alone = *index_count <= SCATTER_ALONE_MAX;
    let row_blocks = (outer * inner).div_ceil(64);
    let (file, sizes, groups) = if is_alone {
        ("scatter", [("COUNT", count), ("INDEX_COUNT", *index_count)], count.div_ceil(64))
    } else {
        ("scatter_rows", [("ROWS", batch * n), ("INDEX_COUNT", *index_count)], batch * n * row_blocks)
    };
    // Every index may hit the row, and each 64 cost three passes more. What is too long for one launch is done in several, in order and in place.
    let range = (context.target.loop_steps_max / 2).min(*index_count).next_multiple_of(64).max(64);
    for start in (0..(*index_count).max(1)).step_by(range) {
        let mut bindings = vec![context.read(*indices), context.read(*updates), context.write(*to)];
        let load = if start > 0 || context.memory(*from) == context.memory(*to) {
            "fn load(position: u32) -> T {\nreturn to[position];\n}"
        } else {
            bindings.push(context.read(*from));
            "@group(0) @binding(3) var<storage, read> source: array<T>;\nfn load(position: u32) -> T {\nreturn source[position];\n}"
        };
        let sources = context.sources();
        context.launch(label, bindings, groups, |groups_x| {
            let mut template = Template::new(sources, file)
                .alias("T", memory_type(*dtype))
                .count("OUTER", *outer)
                .count("LENGTH", *n)
                .count("INNER", *inner)
                .flag("INDICES_UNSIGNED", *indices_unsigned)
                .count("GROUPS_X", groups_x)
                .region("load", load)
                .region("combine", &combine);
            for (name, value) in sizes {
                template = template.count(name, value);
            }
            if !is_alone {
                template = template.count("START", start).count("END", (start + range).min(*index_count)).count("BLOCKS", row_blocks);
            }
            template.into_text()
        })?;
    }
    Ok(())
}

/// Appends the steps of a `KernelOp::DynamicSlice` or `KernelOp::DynamicUpdateSlice`.
pub fn dynamic(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let (file, shape, block_shape, starts, mut bindings) = match op {
        KernelOp::DynamicSlice { from_shape, sizes, from, starts, to } => {
            ("dynamic_slice", from_shape, sizes, starts, vec![context.read(*from), context.write(*to)])
        }
        KernelOp::DynamicUpdateSlice { from_shape, block_shape, from, block, starts, to } => {
            context.copy(*from, *to);
            ("dynamic_update_slice", from_shape, block_shape, starts, vec![context.read(*block), context.write(*to)])
        }
        _ => unreachable!("the caller matched a block at runtime starts"),
    };
    count_u32(shape)?;
    let count = count_u32(block_shape)?;
    let address = address_text(context, shape, block_shape, starts, &mut bindings);
    let sources = context.sources();
    context.launch(label, bindings, count.div_ceil(64), |groups_x| {
        Template::new(sources, file).count("COUNT", count).count("GROUPS_X", groups_x).region("address", &address).into_text()
    })
}

/// Declarations of the start buffers and `address(i)`: where element `i` of the block is in the whole.
fn address_text(
    context: &Context,
    shape: &[usize],
    block_shape: &[usize],
    starts: &[(BufferId, usize)],
    bindings: &mut Vec<Binding>,
) -> String {
    let mut declarations = String::new();
    let mut body = String::from("var rest = i;\nvar position = 0u;\n");
    let strides = strides_of(shape);
    for axis in (0..shape.len()).rev() {
        let slack = shape[axis] - block_shape[axis];
        // Only one place for the block on this axis: its start does not matter.
        if slack > 0 {
            let (buffer, offset) = starts[axis];
            let binding = context.read(buffer);
            let known = bindings.iter().position(|other| *other == binding).filter(|&index| index >= 2);
            let index = known.unwrap_or_else(|| {
                bindings.push(binding);
                let index = bindings.len() - 1;
                let _ = writeln!(declarations, "@group(0) @binding({index}) var<storage, read> start_{index}: array<u32>;");
                index
            });
            let slack = constant(DType::I32, slack as f64);
            let _ = writeln!(body, "position += u32(clamp(bitcast<i32>(start_{index}[{offset}u]), 0, {slack})) * {}u;", strides[axis]);
        }
        if block_shape[axis] > 1 {
            let _ = writeln!(body, "position += rest % {}u * {}u;", block_shape[axis], strides[axis]);
            let _ = writeln!(body, "rest = rest / {}u;", block_shape[axis]);
        }
    }
    debug_assert!(element_count(block_shape) <= element_count(shape));
    format!("{declarations}fn address(i: u32) -> u32 {{\n{body}return position;\n}}")
}
