//! `KernelOp::Attention` as one launch forward and two in the gradient, over `shaders/attention.wgsl` and `shaders/attention_grad.wgsl`.
//!
//! A lane owns a row (a query, or in the gradient of k and v a key) and goes through the rows of the other side a block at a time. How a block comes to the
//! lanes is what the two families differ in ([`Fetch`]); the arithmetic is the same. Rows live in registers, so the body is written out chunk by chunk: a
//! chunk is four neighbours along a row. Untuned on hardware: none has run it yet.

use crate::gpu::launch::{Binding, Context, Memory, count_u32};
use crate::gpu::template::{Template, library};
use crate::kernel::{AttentionPass, KernelOp, MatrixView};
use solstice_ir::element_count;
use std::fmt::Write;

/// Lanes of a workgroup on hardware, and rows of the other side that it holds in workgroup memory: 16 KiB for two rows of 128.
const LANES: usize = 64;
const TILE_ROWS: usize = 16;

/// Rows of the other side that are taken at once where subgroup operations do not set their number.
const ROWS_AT_ONCE: usize = 4;

/// How a row of the other side comes to every lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetch {
    /// From workgroup memory, where the workgroup has put a tile.
    Tile,
    /// Each lane of a subgroup loads one and the others take it by broadcast.
    Broadcast(usize),
    /// Each lane loads it.
    Direct,
}

impl Fetch {
    fn rows_at_once(self) -> usize {
        if let Fetch::Broadcast(size) = self { size } else { ROWS_AT_ONCE }
    }

    fn lanes(self) -> usize {
        match self {
            Fetch::Tile => LANES,
            Fetch::Broadcast(size) => size,
            Fetch::Direct => 32,
        }
    }
}

/// Appends the launches of a `KernelOp::Attention`.
pub fn emit(context: &mut Context, label: &str, op: &KernelOp) -> Result<(), String> {
    let KernelOp::Attention { batch, queries, keys, dim, width, scale, causal, qkv, pass } = op else {
        unreachable!("the caller matched attention")
    };
    let [q, k, v] = &**qkv;
    let fetch = match (context.target.is_software, context.target.subgroup_size) {
        (false, _) => Fetch::Tile,
        (true, 1) => Fetch::Direct,
        (true, size) => Fetch::Broadcast(size),
    };
    let entries = element_count(batch);
    count_u32(&[entries, (*queries).max(*keys), (*dim).max(*width)])?;
    let steps = (*queries).max(*keys).div_ceil(fetch.rows_at_once());
    if steps > context.target.loop_steps_max {
        let most = context.target.loop_steps_max;
        return Err(format!("needs {steps} steps in a row, this software device stops after {most}: use `--device cpu`"));
    }
    let scale_text = format!("{:?}", *scale as f32);
    let sources = context.sources();
    let (of_query, of_key, of_value) = ((*queries, *dim), (*keys, *dim), (*keys, *width));
    let rows = |view: &MatrixView, (rows, columns): (usize, usize)| Rows { view: view.clone(), rows, columns };
    let (q, k, v) = (rows(q, of_query), rows(k, of_key), rows(v, of_value));
    let of_result = (*queries, *width);
    // In chunks.
    let (dim, width) = (dim.div_ceil(4), width.div_ceil(4));
    match pass {
        AttentionPass::Forward { to, log_sums } => {
            let to = rows(to, of_result);
            let mut text = Operands::new(context, batch);
            text.load("own", &q);
            text.load("key", &k);
            text.load("value", &v);
            text.store(&[("result", &to)]);
            if let Some(log_sums) = log_sums {
                let name = text.bind(context.memory(*log_sums), true, "f32");
                text.line(format_args!(
                    "fn store_log_sum(entry: u32, row: u32, value: f32) {{\n{name}[entry * QUERIES + row] = value;\n}}"
                ));
            }
            let body = forward_body(fetch, dim, width, log_sums.is_some());
            let operands = text.finish(fetch, &[("key", dim), ("value", width)], &body);
            let blocks = queries.div_ceil(fetch.lanes());
            context.launch(label, operands.bindings, entries * blocks, |groups_x| {
                Template::new(sources, "attention")
                    .count("ENTRIES", entries)
                    .count("QUERIES", *queries)
                    .count("KEYS", *keys)
                    .count("BLOCKS", blocks)
                    .count("LANES", fetch.lanes())
                    .flag("CAUSAL", *causal)
                    .number("SCALE", &scale_text)
                    .count("GROUPS_X", groups_x)
                    .region("operands", &operands.text)
                    .region("body", &body)
                    .into_text()
            })
        }
        AttentionPass::Gradient { result, log_sums, grad, to } => {
            let [to_q, to_k, to_v] = &**to;
            let (result, grad) = (rows(result, of_result), rows(grad, of_result));
            let (to_q, to_k, to_v) = (rows(to_q, of_query), rows(to_k, of_key), rows(to_v, of_value));
            let sums = context.temporary(entries * queries);
            for owns_keys in [false, true] {
                let mut text = Operands::new(context, batch);
                let (own, other) = if owns_keys { ((&k, &v), (&q, &grad)) } else { ((&q, &grad), (&k, &v)) };
                text.load("own_a", own.0);
                text.load("own_b", own.1);
                text.load("other_a", other.0);
                text.load("other_b", other.1);
                if !owns_keys {
                    text.load("result", &result);
                }
                let side = if owns_keys { "OTHERS" } else { "OWNS" };
                let name = text.bind(context.memory(*log_sums), false, "f32");
                text.line(format_args!("fn load_log_sum(entry: u32, row: u32) -> f32 {{\nreturn {name}[entry * {side} + row];\n}}"));
                let name = text.bind(sums, !owns_keys, "f32");
                if owns_keys {
                    text.line(format_args!("fn load_sum(entry: u32, row: u32) -> f32 {{\nreturn {name}[entry * OTHERS + row];\n}}"));
                    text.store(&[("a", &to_k), ("b", &to_v)]);
                } else {
                    text.line(format_args!("fn store_sum(entry: u32, row: u32, value: f32) {{\n{name}[entry * OWNS + row] = value;\n}}"));
                    text.store(&[("a", &to_q)]);
                }
                let body = gradient_body(fetch, dim, width, owns_keys);
                let operands = text.finish(fetch, &[("other_a", dim), ("other_b", width)], &body);
                let (owns, others) = if owns_keys { (*keys, *queries) } else { (*queries, *keys) };
                let blocks = owns.div_ceil(fetch.lanes());
                context.launch(label, operands.bindings, entries * blocks, |groups_x| {
                    Template::new(sources, "attention_grad")
                        .count("ENTRIES", entries)
                        .count("OWNS", owns)
                        .count("OTHERS", others)
                        .count("BLOCKS", blocks)
                        .count("LANES", fetch.lanes())
                        .flag("OWNS_KEYS", owns_keys)
                        .flag("CAUSAL", *causal)
                        .number("SCALE", &scale_text)
                        .count("GROUPS_X", groups_x)
                        .region("operands", &operands.text)
                        .region("body", &body)
                        .into_text()
                })?;
            }
            Ok(())
        }
    }
}

/// The rows of one operand.
struct Rows {
    view: MatrixView,
    rows: usize,
    columns: usize,
}

impl Rows {
    /// A chunk is one `vec4` of memory.
    fn is_packed(&self, batch: &[usize]) -> bool {
        let view = &self.view;
        let mut strides: Vec<isize> =
            batch.iter().zip(&view.batch_strides).filter(|(size, _)| **size > 1).map(|(_, stride)| *stride).collect();
        if self.rows > 1 {
            strides.push(view.row_stride);
        }
        view.column_stride == 1
            && self.columns.is_multiple_of(4)
            && view.offset.is_multiple_of(4)
            && strides.iter().all(|stride| stride % 4 == 0)
    }
}

/// Bindings and functions of a launch.
struct Operands<'a, 'b> {
    context: &'a Context<'b>,
    batch: &'a [usize],
    bindings: Vec<Binding>,
    text: String,
}

/// The same when they are all there.
struct Finished {
    bindings: Vec<Binding>,
    text: String,
}

impl<'a, 'b> Operands<'a, 'b> {
    fn new(context: &'a Context<'b>, batch: &'a [usize]) -> Self {
        Operands { context, batch, bindings: Vec::new(), text: String::new() }
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Binds a piece of memory and returns its name.
    fn bind(&mut self, memory: Memory, is_written: bool, element: &str) -> String {
        let binding = self.bindings.len();
        let access = if is_written { "read_write" } else { "read" };
        self.line(format_args!("@group(0) @binding({binding}) var<storage, {access}> memory_{binding}: array<{element}>;"));
        self.bindings.push(Binding { memory, is_written });
        format!("memory_{binding}")
    }

    /// The position of row `row` of batch entry `entry`.
    fn start(&self, view: &MatrixView) -> String {
        let mut terms = vec![format!("{}u", view.offset)];
        let mut after = 1;
        for (&size, &stride) in self.batch.iter().zip(&view.batch_strides).rev() {
            if size > 1 && stride != 0 {
                terms.push(format!("entry / {after}u % {size}u * {}u", stride as u32));
            }
            after *= size;
        }
        terms.push(format!("row * {}u", view.row_stride as u32));
        terms.join(" + ")
    }

    /// `load_{name}(entry, row, chunk)`.
    fn load(&mut self, name: &str, rows: &Rows) {
        let is_packed = rows.is_packed(self.batch);
        let element = self.context.element(rows.view.buffer);
        let memory = self.bind(self.context.memory(rows.view.buffer), false, &array_of(element, is_packed));
        // A half becomes f32 on the way.
        let widened = |ty: &str, value: String| if element == "f16" { format!("{ty}({value})") } else { value };
        let start = self.start(&rows.view);
        self.line(format_args!("fn load_{name}(entry: u32, row: u32, chunk: u32) -> vec4<f32> {{\nlet start = {start};"));
        if is_packed {
            self.line(format_args!("return {};\n}}", widened("vec4<f32>", format!("{memory}[(start >> 2u) + chunk]"))));
            return;
        }
        let (stride, columns) = (rows.view.column_stride as u32, rows.columns);
        self.line(format_args!("var value = vec4<f32>();\nfor (var i = 0u; i < 4u; i = i + 1u) {{\nlet column = chunk * 4u + i;"));
        let value = widened("f32", format!("{memory}[start + column * {stride}u]"));
        self.line(format_args!("if (column < {columns}u) {{\nvalue[i] = {value};\n}}\n}}\nreturn value;\n}}"));
    }

    /// `store_{name}(entry, row, chunk, value)` for each result; those in one piece of memory share its binding.
    fn store(&mut self, results: &[(&str, &Rows)]) {
        let is_packed = results.iter().all(|(_, rows)| rows.is_packed(self.batch));
        let mut names: Vec<(Memory, String)> = Vec::new();
        for (name, rows) in results {
            let piece = self.context.memory(rows.view.buffer);
            let element = self.context.element(rows.view.buffer);
            let memory = match names.iter().find(|(known, _)| *known == piece) {
                Some((_, name)) => name.clone(),
                None => {
                    let name = self.bind(piece, true, &array_of(element, is_packed));
                    names.push((piece, name.clone()));
                    name
                }
            };
            let start = self.start(&rows.view);
            self.line(format_args!("fn store_{name}(entry: u32, row: u32, chunk: u32, value: vec4<f32>) {{\nlet start = {start};"));
            if is_packed {
                let value = if element == "f16" { "half4_of(value)" } else { "value" };
                self.line(format_args!("{memory}[(start >> 2u) + chunk] = {value};\n}}"));
                continue;
            }
            let (stride, columns) = (rows.view.column_stride as u32, rows.columns);
            self.line(format_args!("for (var i = 0u; i < 4u; i = i + 1u) {{\nlet column = chunk * 4u + i;"));
            let value = if element == "f16" { "half_of(value[i])" } else { "value[i]" };
            self.line(format_args!("if (column < {columns}u) {{\n{memory}[start + column * {stride}u] = {value};\n}}\n}}\n}}"));
        }
    }

    /// With the workgroup memory of the tiles and the functions of the library that `body` calls.
    fn finish(mut self, fetch: Fetch, tiles: &[(&str, usize)], body: &str) -> Finished {
        if fetch == Fetch::Tile {
            for (name, chunks) in tiles {
                self.line(format_args!("var<workgroup> tile_{name}: array<vec4<f32>, {}>;", TILE_ROWS * chunks));
            }
        }
        self.text += &library(self.context.sources(), &format!("{}{body}", self.text));
        Finished { bindings: self.bindings, text: self.text }
    }
}

/// What a binding is an array of.
fn array_of(element: &str, is_packed: bool) -> String {
    if is_packed { format!("vec4<{element}>") } else { element.to_owned() }
}

/// The loop over the other side: `block` writes what happens with [`Fetch::rows_at_once`] rows from row `other` on.
fn for_each_block(text: &mut String, fetch: Fetch, others: &str, start: &str, tiles: &[(&str, usize)], block: impl FnOnce(&mut String)) {
    let at_once = fetch.rows_at_once();
    if fetch != Fetch::Tile {
        let _ = writeln!(text, "for (var other = {start}; other < others_end; other = other + {at_once}u) {{");
        block(text);
        text.push_str("}\n");
        return;
    }
    let _ = writeln!(text, "for (var tile_first = {start}; tile_first < others_end; tile_first = tile_first + {TILE_ROWS}u) {{");
    for (name, chunks) in tiles {
        let count = TILE_ROWS * chunks;
        let _ = writeln!(text, "for (var i = lane; i < {count}u; i = i + LANES) {{");
        let _ = writeln!(text, "tile_{name}[i] = load_{name}(entry, min(tile_first + i / {chunks}u, {others} - 1u), i % {chunks}u);\n}}");
    }
    text.push_str("workgroupBarrier();\n");
    let _ =
        writeln!(text, "for (var within = 0u; within < {TILE_ROWS}u; within = within + {at_once}u) {{\nlet other = tile_first + within;");
    block(text);
    text.push_str("}\nworkgroupBarrier();\n}\n");
}

/// Calls `each(text, row, value)` for each of the rows at once, with the text of that row's chunk.
fn with_chunk(
    text: &mut String,
    fetch: Fetch,
    (name, chunks): (&str, usize),
    others: &str,
    chunk: usize,
    each: &dyn Fn(&mut String, usize, &str),
) {
    text.push_str("{\n");
    if let Fetch::Broadcast(_) = fetch {
        let _ = writeln!(text, "let mine = load_{name}(entry, min(other + lane, {others} - 1u), {chunk}u);");
    }
    for row in 0..fetch.rows_at_once() {
        let value = format!("x{row}");
        let _ = match fetch {
            Fetch::Broadcast(_) => writeln!(text, "let {value} = subgroupBroadcast(mine, {row}u);"),
            Fetch::Tile => writeln!(text, "let {value} = tile_{name}[(within + {row}u) * {chunks}u + {chunk}u];"),
            Fetch::Direct => writeln!(text, "let {value} = load_{name}(entry, min(other + {row}u, {others} - 1u), {chunk}u);"),
        };
        each(text, row, &value);
    }
    text.push_str("}\n");
}

/// The row and its chunks, declared as `{name}{chunk}`.
fn own_row(text: &mut String, name: &str, function: &str, chunks: usize) {
    for chunk in 0..chunks {
        let _ = writeln!(text, "let {name}{chunk} = {function}(entry, row, {chunk}u);");
    }
}

fn zero_row(text: &mut String, name: &str, chunks: usize) {
    (0..chunks).for_each(|chunk| {
        let _ = writeln!(text, "var {name}{chunk} = vec4<f32>();");
    });
}

fn store_row(text: &mut String, function: &str, name: &str, chunks: usize, factor: &str) {
    for chunk in 0..chunks {
        let _ = writeln!(text, "{function}(entry, row, {chunk}u, {name}{chunk}{factor});");
    }
}

fn forward_body(fetch: Fetch, dim: usize, width: usize, keeps_log_sums: bool) -> String {
    let mut text = String::new();
    let rows = fetch.rows_at_once();
    own_row(&mut text, "q", "load_own", dim);
    zero_row(&mut text, "r", width);
    text.push_str("var most = -1e30;\nvar sum = 0.0;\n");
    for_each_block(&mut text, fetch, "KEYS", "0u", &[("key", dim), ("value", width)], |text| {
        (0..rows).for_each(|row| {
            let _ = writeln!(text, "var s{row} = 0.0;");
        });
        for chunk in 0..dim {
            with_chunk(text, fetch, ("key", dim), "KEYS", chunk, &|text, row, value| {
                let _ = writeln!(text, "s{row} = s{row} + dot(q{chunk}, {value});");
            });
        }
        text.push_str("var larger = most;\n");
        for row in 0..rows {
            let _ = writeln!(text, "let is_seen{row} = other + {row}u < KEYS && (!CAUSAL || other + {row}u <= row);");
            let _ = writeln!(text, "s{row} = select(-1e30, s{row} * SCALE, is_seen{row});\nlarger = max(larger, s{row});");
        }
        text.push_str("let kept = exponential(most - larger);\nmost = larger;\n");
        (0..rows).for_each(|row| {
            let _ = writeln!(text, "let w{row} = exponential(s{row} - larger);");
        });
        let weights: Vec<String> = (0..rows).map(|row| format!("w{row}")).collect();
        let _ = writeln!(text, "sum = sum * kept + ({});", weights.join(" + "));
        for chunk in 0..width {
            let _ = writeln!(text, "r{chunk} = r{chunk} * kept;");
            with_chunk(text, fetch, ("value", width), "KEYS", chunk, &|text, row, value| {
                let _ = writeln!(text, "r{chunk} = r{chunk} + w{row} * {value};");
            });
        }
    });
    text.push_str("if (is_mine) {\nlet factor = 1.0 / sum;\n");
    store_row(&mut text, "store_result", "r", width, " * factor");
    if keeps_log_sums {
        text.push_str("store_log_sum(entry, row, most + logarithm(sum));\n");
    }
    text.push_str("}\n");
    text
}

fn gradient_body(fetch: Fetch, dim: usize, width: usize, owns_keys: bool) -> String {
    let mut text = String::new();
    let rows = fetch.rows_at_once();
    own_row(&mut text, "a", "load_own_a", dim);
    own_row(&mut text, "b", "load_own_b", width);
    zero_row(&mut text, "to_a", dim);
    if owns_keys {
        zero_row(&mut text, "to_b", width);
    } else {
        text.push_str("let log_sum = load_log_sum(entry, row);\nvar own_sum = 0.0;\n");
        (0..width).for_each(|chunk| {
            let _ = writeln!(text, "own_sum = own_sum + dot(b{chunk}, load_result(entry, row, {chunk}u));");
        });
    }
    for_each_block(&mut text, fetch, "OTHERS", "others_start", &[("other_a", dim), ("other_b", width)], |text| {
        (0..rows).for_each(|row| {
            let _ = writeln!(text, "var s{row} = 0.0;\nvar p{row} = 0.0;");
        });
        for chunk in 0..dim {
            with_chunk(text, fetch, ("other_a", dim), "OTHERS", chunk, &|text, row, value| {
                let _ = writeln!(text, "s{row} = s{row} + dot(a{chunk}, {value});");
            });
        }
        for chunk in 0..width {
            with_chunk(text, fetch, ("other_b", width), "OTHERS", chunk, &|text, row, value| {
                let _ = writeln!(text, "p{row} = p{row} + dot(b{chunk}, {value});");
            });
        }
        for row in 0..rows {
            let other = format!("other + {row}u");
            let is_seen = if owns_keys { format!("{other} >= row") } else { format!("{other} <= row") };
            let (log_sum, sum) = if owns_keys {
                let _ = writeln!(text, "let place{row} = min({other}, OTHERS - 1u);");
                (format!("load_log_sum(entry, place{row})"), format!("load_sum(entry, place{row})"))
            } else {
                ("log_sum".to_owned(), "own_sum".to_owned())
            };
            let _ = writeln!(text, "let is_seen{row} = {other} < OTHERS && (!CAUSAL || {is_seen});");
            let _ = writeln!(text, "let w{row} = select(0.0, exponential(s{row} * SCALE - {log_sum}), is_seen{row});");
            let _ = writeln!(text, "let f{row} = w{row} * (p{row} - {sum}) * SCALE;");
        }
        for chunk in 0..dim {
            with_chunk(text, fetch, ("other_a", dim), "OTHERS", chunk, &|text, row, value| {
                let _ = writeln!(text, "to_a{chunk} = to_a{chunk} + f{row} * {value};");
            });
        }
        for chunk in (0..width).filter(|_| owns_keys) {
            with_chunk(text, fetch, ("other_b", width), "OTHERS", chunk, &|text, row, value| {
                let _ = writeln!(text, "to_b{chunk} = to_b{chunk} + w{row} * {value};");
            });
        }
    });
    text.push_str("if (is_mine) {\n");
    store_row(&mut text, "store_a", "to_a", dim, "");
    if owns_keys {
        store_row(&mut text, "store_b", "to_b", width, "");
    } else {
        text.push_str("store_sum(entry, row, own_sum);\n");
    }
    text.push_str("}\n");
    text
}
