//! `KernelOp::Rows` as a launch of `shaders/rows.wgsl`.
//!
//! The body is cut at its folds: a pass over the row for the folds that wait for the same earlier ones, a last pass for the stores. What varies along the row
//! is worked out in the pass that needs it, from the loads on; what does not is worked out once between the passes.

use crate::gpu::emit::{Emitter, Motion};
use crate::gpu::launch::{Context, count_u32, memory_type};
use crate::gpu::reduce::monoid;
use crate::gpu::template::{Template, library};
use crate::kernel::{Body, Instruction, Store, View};
use solstice_ir::{DType, ReduceKind};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Rows below this are too few to give every invocation of a software adapter one.
const ROWS_FEW: usize = 32;

/// Appends the launch of a kernel over rows.
pub fn emit(context: &mut Context, label: &str, shape: &[usize], row_axes: usize, body: &Body, stores: &[Store]) -> Result<(), String> {
    let split = shape.len() - row_axes;
    let (rows, length) = (count_u32(&shape[..split])?, count_u32(&shape[split..])?);
    count_u32(shape)?;
    if rows == 0 || stores.is_empty() {
        return Ok(());
    }
    let to: Vec<&View> = stores.iter().map(|store| &store.to).collect();
    let groups: [(&'static str, Vec<usize>); 2] = [("o", (0..split).collect()), ("k", (split..shape.len()).collect())];
    let mut emitter = Emitter::new(context, shape, body, &to, &groups);
    let motions: Vec<Motion> = (0..body.loads.len())
        .map(|load| emitter.load_motion(load, 1))
        .chain((0..stores.len()).map(|store| emitter.store_motion(store, 1)))
        .collect();
    let width = if emitter.inner_size(1).is_multiple_of(4) && motions.contains(&Motion::Packed) { 4 } else { 1 };
    if width == 4 {
        emitter.widen(1);
    }
    // On a CPU each invocation takes its own row, but for so few rows that most would idle; many lanes also keep a long sum exact.
    let lanes = if length >= 32 * width && (!context.target.is_software || rows < ROWS_FEW) { 64 } else { 1 };
    let varies_view = |view: &View| view.strides[split..].iter().zip(&shape[split..]).any(|(stride, size)| *stride != 0 && *size > 1);
    let facts = Facts::new(body, &varies_view, split);
    let per_row: Vec<bool> = stores.iter().map(|store| !varies_view(&store.to)).collect();

    let mut functions: BTreeMap<String, (ReduceKind, DType)> = BTreeMap::new();
    emitter.coordinates_of(0);
    for phase in 0..=facts.phases {
        for register in 0..body.code.len() {
            if !facts.varies[register] && facts.phase[register] == phase && !matches!(body.code[register], Instruction::Fold(..)) {
                emitter.emit_register(register);
            }
        }
        let folds: Vec<(usize, ReduceKind, usize)> = (0..body.code.len())
            .filter(|&register| facts.phase[register] == phase + 1)
            .filter_map(|register| match body.code[register] {
                Instruction::Fold(kind, value) => Some((register, kind, usize::from(value.0))),
                _ => None,
            })
            .collect();
        if folds.is_empty() {
            continue;
        }
        for &(register, kind, _) in &folds {
            let dtype = body.types[register];
            functions.insert(suffix(kind, dtype), (kind, dtype));
            let (ty, (_, identity)) = (memory_type(dtype), monoid(kind, dtype));
            (0..width).for_each(|lane| emitter.line(&format!("var acc{register}_{lane}: {ty} = {identity};")));
        }
        begin_pass(&mut emitter);
        let wanted: Vec<usize> = folds.iter().map(|(_, _, value)| *value).collect();
        facts.needed(body, &wanted).into_iter().for_each(|register| emitter.emit_register(register));
        for &(register, kind, value) in &folds {
            for lane in 0..width {
                let value = emitter.value(crate::kernel::Register(value as u16), lane).to_owned();
                let suffix = suffix(kind, body.types[register]);
                emitter.line(&format!("acc{register}_{lane} = combine_{suffix}(acc{register}_{lane}, {value});"));
            }
        }
        emitter.line("}");
        for &(register, kind, _) in &folds {
            let suffix = suffix(kind, body.types[register]);
            let acc = |lane: usize| format!("acc{register}_{lane}");
            let whole = if width == 4 {
                format!("combine_{suffix}(combine_{suffix}({}, {}), combine_{suffix}({}, {}))", acc(0), acc(1), acc(2), acc(3))
            } else {
                acc(0)
            };
            emitter.define(register, &format!("fold_{suffix}({whole}, lane)"));
        }
    }
    if per_row.contains(&false) {
        begin_pass(&mut emitter);
        let wanted: Vec<usize> =
            stores.iter().zip(&per_row).filter(|(_, per_row)| !**per_row).map(|(store, _)| usize::from(store.value.0)).collect();
        facts.needed(body, &wanted).into_iter().for_each(|register| emitter.emit_register(register));
        emitter.line("if (row < ROWS) {");
        for (index, store) in stores.iter().enumerate().filter(|(index, _)| !per_row[*index]) {
            emitter.store(index, store.value);
        }
        emitter.line("}\n}");
    }
    if per_row.contains(&true) {
        // Other lanes may have read what the first one is about to replace.
        let replaces = |store: &Store| body.loads.iter().any(|load| load.buffer == store.to.buffer);
        if lanes > 1 && stores.iter().zip(&per_row).any(|(store, per_row)| *per_row && replaces(store)) {
            emitter.line("storageBarrier();");
        }
        emitter.line("if (row < ROWS && lane % LANES == 0u) {");
        for (index, store) in stores.iter().enumerate().filter(|(index, _)| per_row[*index]) {
            emitter.store_once(index, store.value);
        }
        emitter.line("}");
    }
    let (bindings, declarations, row) = (emitter.bindings(), emitter.bindings_text(), emitter.into_text());
    let mut folds = String::new();
    let types: std::collections::BTreeSet<&str> = functions.values().map(|(_, dtype)| memory_type(*dtype)).collect();
    for ty in types {
        let _ = writeln!(folds, "var<workgroup> partials_{ty}: array<{ty}, 64>;");
    }
    for (suffix, (kind, dtype)) in &functions {
        let (ty, (combine, _)) = (memory_type(*dtype), monoid(*kind, *dtype));
        let _ = write!(
            folds,
            "fn combine_{suffix}(x: {ty}, y: {ty}) -> {ty} {{\nreturn {combine};\n}}\n\
             fn fold_{suffix}(value: {ty}, lane: u32) -> {ty} {{\n\
             if (LANES == 1u) {{\nreturn value;\n}}\n\
             workgroupBarrier();\npartials_{ty}[lane] = value;\nworkgroupBarrier();\n\
             for (var distance = 32u; distance > 0u; distance = distance >> 1u) {{\n\
             if (lane < distance) {{\npartials_{ty}[lane] = combine_{suffix}(partials_{ty}[lane], partials_{ty}[lane + distance]);\n}}\n\
             workgroupBarrier();\n}}\nreturn partials_{ty}[0];\n}}\n"
        );
    }
    let functions = library(context.sources(), &format!("{row}{folds}")) + &folds;
    let sources = context.sources();
    context.launch(label, bindings, (rows * lanes).div_ceil(64), |groups_x| {
        Template::new(sources, "rows")
            .count("ROWS", rows)
            .count("LENGTH", length)
            .count("WIDTH", width)
            .count("LANES", lanes)
            .count("GROUPS_X", groups_x)
            .region("bindings", &declarations)
            .region("functions", &functions)
            .region("row", &row)
            .into_text()
    })
}

fn begin_pass(emitter: &mut Emitter) {
    emitter.line("for (var k = first; k < LENGTH; k = k + LANES * WIDTH) {");
    emitter.coordinates_of(1);
}

/// `sum_f32`: the end of the names of a fold's functions.
fn suffix(kind: ReduceKind, dtype: DType) -> String {
    format!("{kind:?}_{}", memory_type(dtype)).to_lowercase()
}

/// What is known of each register.
struct Facts {
    /// It differs between the elements of a row.
    varies: Vec<bool>,
    /// Number of folds on the longest way to it.
    phase: Vec<usize>,
    /// The largest of them.
    phases: usize,
}

impl Facts {
    fn new(body: &Body, varies_view: &dyn Fn(&View) -> bool, split: usize) -> Facts {
        let mut facts = Facts { varies: Vec::new(), phase: Vec::new(), phases: 0 };
        for instruction in &body.code {
            let operands = operands(*instruction);
            let phase = operands.iter().map(|&operand| facts.phase[operand]).max().unwrap_or(0);
            let varies = match instruction {
                Instruction::Load(load) => varies_view(&body.loads[usize::from(*load)]),
                Instruction::Index(axis) => usize::from(*axis) >= split,
                Instruction::LinearIndex => true,
                Instruction::Fold(..) => false,
                _ => operands.iter().any(|&operand| facts.varies[operand]),
            };
            facts.varies.push(varies);
            facts.phase.push(phase + usize::from(matches!(instruction, Instruction::Fold(..))));
        }
        facts.phases = facts.phase.iter().copied().max().unwrap_or(0);
        facts
    }

    /// Registers that vary and that `wanted` are made from, in order.
    fn needed(&self, body: &Body, wanted: &[usize]) -> Vec<usize> {
        let mut is_needed = vec![false; body.code.len()];
        wanted.iter().for_each(|&register| is_needed[register] = self.varies[register]);
        for register in (0..body.code.len()).rev() {
            if is_needed[register] {
                operands(body.code[register]).into_iter().for_each(|operand| is_needed[operand] = self.varies[operand]);
            }
        }
        (0..body.code.len()).filter(|&register| is_needed[register]).collect()
    }
}

fn operands(instruction: Instruction) -> Vec<usize> {
    let mut operands = Vec::new();
    crate::fuse::map_registers(instruction, |operand| {
        operands.push(usize::from(operand.0));
        operand
    });
    operands
}
