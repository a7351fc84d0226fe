//! `Rows`: a body that folds along rows, evaluated for a block of whole rows at a time.
//!
//! Registers are of three kinds: the same for all elements, one value a row, one value an element. Rows of up to a block stay in register blocks between
//! their folds, so every element is read and written once. Work is cut into tasks of whole rows by shape alone. Read `map.rs` first.

use super::CpuKernel;
use super::map::{Action, BLOCK, Chunk, NONE, Operand, RunStep, Scratch, Step, Target, To, Walk};
use super::memory::{Units, Words, word_of};
use super::reduce::fold_rows;
use crate::kernel::{Body, Instruction, Plan, Register, Store, View};
use solstice_ir::{DType, ReduceKind, element_count, strides_of};
use std::collections::HashMap;
use std::ops::Range;

// A row must fit into a block of registers.
const _: () = assert!(crate::kernel::ROW_MAX <= BLOCK);

/// Operations that are worth a task of their own.
const TASK_OPERATIONS: usize = 1 << 17;

pub(super) struct Rows {
    uniform: Vec<Step>,
    steps: Vec<RowStep>,
    values: Vec<Value>,
    slots: usize,
    rows: usize,
    length: usize,
    rows_at_once: usize,
    stores: Vec<RowTarget>,
    /// Units that are written, each once.
    written: Vec<usize>,
    /// Each task writes its own stretch of every unit.
    can_split: bool,
    grain: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The same for all.
    Uniform,
    Row,
    Element,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    level: Level,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In `Scratch::uniform`, at this register.
    Uniform(usize),
    Slot(usize),
    Direct {
        unit: usize,
        offset: usize,
    },
    Written {
        chunk: usize,
        offset: usize,
    },
}

struct RowStep {
    /// The value that is made.
    value: usize,
    operands: [usize; 3],
    kind: StepKind,
}

enum StepKind {
    Plain(Step),
    Fold(ReduceKind, DType),
    /// The operand repeated to one value an element, or copied.
    Spread,
}

struct RowTarget {
    value: usize,
    target: Target,
    level: Level,
}

impl Rows {
    pub(super) fn new(shape: &[usize], row_axes: usize, body: &Body, stores: &[Store], plan: &Plan, unit_of: &[usize]) -> Rows {
        let (outer, row) = shape.split_at(shape.len() - row_axes);
        let (rows, length) = (element_count(outer), element_count(row));
        let varies = |view: &View| view.strides[outer.len()..].iter().zip(row).any(|(stride, size)| *stride != 0 && *size > 1);
        let outer_view = |view: &View| View { buffer: view.buffer, offset: view.offset, strides: view.strides[..outer.len()].to_vec() };
        let mut written: Vec<usize> = Vec::new();
        for store in stores {
            let unit = unit_of[store.to.buffer.index()];
            if !written.contains(&unit) {
                written.push(unit);
            }
        }
        let mut build = Build { values: Vec::new(), steps: Vec::new(), uniform: Vec::new(), spread: HashMap::new() };
        let (all_strides, outer_strides) = (strides_of(shape), strides_of(outer));
        let mut value_of: Vec<usize> = Vec::with_capacity(body.code.len());
        for (register, instruction) in body.code.iter().enumerate() {
            let mut operands: Vec<usize> = Vec::new();
            crate::fuse::map_registers(*instruction, |operand| {
                operands.push(value_of[usize::from(operand.0)]);
                operand
            });
            let dtype = body.types[register];
            let level_of_operands = operands.iter().map(|&operand| build.values[operand].level);
            let mut level = if level_of_operands.clone().any(|level| level == Level::Element) {
                Level::Element
            } else if level_of_operands.clone().any(|level| level == Level::Row) {
                Level::Row
            } else {
                Level::Uniform
            };
            // Type of the first operand.
            let from = first_operand(*instruction).map_or(dtype, |first| body.types[usize::from(first.0)]);
            let action = match *instruction {
                Instruction::Fold(kind, _) => {
                    let spread = build.spread(operands[0]);
                    value_of.push(build.step(Level::Row, [spread, NONE, NONE], StepKind::Fold(kind, dtype)));
                    continue;
                }
                Instruction::Load(load) => {
                    let view = &body.loads[usize::from(load)];
                    let unit = unit_of[view.buffer.index()];
                    level = if varies(view) { Level::Element } else { Level::Row };
                    let walk = if level == Level::Element { Walk::new(shape, view) } else { Walk::new(outer, &outer_view(view)) };
                    let bytes = plan.buffers[view.buffer.index()].dtype == DType::U8;
                    let chunk = written.iter().position(|&other| other == unit);
                    if let Some(chunk) = chunk {
                        let offset = walk.contiguous().expect("a kernel that loads what it writes does so densely");
                        value_of.push(build.value(level, Place::Written { chunk, offset }));
                        continue;
                    }
                    if walk.is_uniform() {
                        level = Level::Uniform;
                    } else if let (Some(offset), false) = (walk.contiguous(), bytes) {
                        value_of.push(build.value(level, Place::Direct { unit, offset }));
                        continue;
                    }
                    Action::Fill { unit, walk, bytes }
                }
                Instruction::Constant(value) => Action::Constant(word_of(dtype, value)),
                Instruction::Index(axis) => {
                    let axis = usize::from(axis);
                    if axis >= outer.len() {
                        level = Level::Element;
                        Action::Index { size: shape[axis].max(1), inner: all_strides[axis].max(1) }
                    } else {
                        level = Level::Row;
                        Action::Index { size: shape[axis].max(1), inner: outer_strides[axis].max(1) }
                    }
                }
                Instruction::LinearIndex => {
                    level = Level::Element;
                    Action::LinearIndex
                }
                Instruction::Unary(function, _) => Action::Unary(function),
                Instruction::Binary(function, ..) => Action::Binary(function),
                Instruction::Compare(direction, ..) => Action::Compare(direction),
                Instruction::Select(..) => Action::Select,
                Instruction::Convert(_) => Action::Convert,
                Instruction::Bitcast(_) => Action::Bitcast,
                Instruction::Random { stream, .. } => Action::Random { stream },
            };
            if level == Level::Element {
                for operand in &mut operands {
                    if build.values[*operand].level == Level::Row {
                        *operand = build.spread(*operand);
                    }
                }
            }
            let place = |position: usize| operands.get(position).copied().unwrap_or(NONE);
            let operands = [place(0), place(1), place(2)];
            if level == Level::Uniform {
                // Uniform steps name each other by their registers.
                let register_of = |value: usize| match build.values.get(value) {
                    Some(Value { place: Place::Uniform(register), .. }) => *register,
                    _ => NONE,
                };
                let step = Step { register, dtype, from, operands: operands.map(register_of), action };
                build.uniform.push(step);
                value_of.push(build.value(level, Place::Uniform(register)));
            } else {
                let step = Step { register, dtype, from, operands: [NONE; 3], action };
                value_of.push(build.step(level, operands, StepKind::Plain(step)));
            }
        }
        let mut targets = Vec::new();
        for store in stores {
            let mut value = value_of[usize::from(store.value.0)];
            let level = if varies(&store.to) { Level::Element } else { Level::Row };
            let is_written = matches!(build.values[value].place, Place::Written { .. });
            if (level == Level::Element && build.values[value].level == Level::Row)
                || (is_written && build.values[value].level == Level::Element)
            {
                value = build.spread(value);
            } else if is_written {
                value = build.step(Level::Row, [value, NONE, NONE], StepKind::Spread);
            }
            let chunk = written.iter().position(|unit| *unit == unit_of[store.to.buffer.index()]).expect("collected above");
            let walk = if level == Level::Element { Walk::new(shape, &store.to) } else { Walk::new(outer, &outer_view(&store.to)) };
            let to = match walk.contiguous() {
                _ if plan.buffers[store.to.buffer.index()].dtype == DType::U8 => To::Bytes(walk),
                Some(offset) => To::Contiguous(offset),
                None => To::Strided(walk),
            };
            targets.push(RowTarget { value, target: Target { value, chunk, to }, level });
        }
        let can_split = written.len() == targets.len() && targets.iter().all(|store| matches!(store.target.to, To::Contiguous(_)));
        let kept: Vec<usize> = targets.iter().map(|store| store.value).collect();
        let slots = assign_slots(&mut build, &kept);
        let grain = (TASK_OPERATIONS / (2 + build.steps.len()) / length).max(1);
        let Build { values, steps, uniform, .. } = build;
        let rows_at_once = (BLOCK / length).max(1);
        Rows { uniform, steps, values, slots, rows, length, rows_at_once, stores: targets, written, can_split, grain }
    }

    fn split(&self, units: &Units, range: Range<usize>, mut chunks: Vec<Chunk>) {
        let middle = (range.start + range.len() / 2) / self.rows_at_once * self.rows_at_once;
        if !self.can_split || range.len() < 2 * self.grain || middle <= range.start {
            self.run_range(units, range, &mut chunks);
            return;
        }
        let mut right = Vec::with_capacity(chunks.len());
        let mut left = Vec::with_capacity(chunks.len());
        // One store a unit, in the order of the units.
        for (chunk, store) in chunks.into_iter().zip(&self.stores) {
            let element = if store.level == Level::Element { middle * self.length } else { middle };
            let at = store.target.to.first_word(element).saturating_sub(chunk.first).min(chunk.data.len());
            let (low, high) = chunk.data.split_at_mut(at);
            left.push(Chunk { data: low, first: chunk.first });
            right.push(Chunk { data: high, first: chunk.first + at });
        }
        rayon::join(|| self.split(units, range.start..middle, left), || self.split(units, middle..range.end, right));
    }

    fn run_range(&self, units: &Units, range: Range<usize>, chunks: &mut [Chunk]) {
        let mut scratch = Scratch::with_room(self.slots, self.uniform.iter().map(|step| step.register + 1).max().unwrap_or(0));
        for step in &self.uniform {
            let mut word = [0];
            let operands = step.operands.map(|register| Operand::Scalar(scratch.uniform.get(register).copied().unwrap_or(0)));
            pulp::Arch::new().dispatch(RunStep { step, operands, units, start: 0, block: &mut word });
            scratch.uniform[step.register] = word[0];
        }
        let mut row = range.start;
        while row < range.end {
            let count = self.rows_at_once.min(range.end - row);
            self.evaluate(units, chunks, &mut scratch, row, count);
            for store in &self.stores {
                let (start, len) = self.extent(store.level, row, count);
                let Chunk { data, first } = &mut chunks[store.target.chunk];
                let (data, first) = (std::mem::take(data), *first);
                let value = self.operand(store.value, units, chunks, &scratch, row, count);
                store.target.to.write(value, start, len, data, first);
                chunks[store.target.chunk].data = data;
            }
            row += count;
        }
        scratch.give_back();
    }

    /// First element and number of elements of a block of rows.
    fn extent(&self, level: Level, row: usize, count: usize) -> (usize, usize) {
        if level == Level::Element { (row * self.length, count * self.length) } else { (row, count) }
    }

    fn evaluate(&self, units: &Units, chunks: &[Chunk], scratch: &mut Scratch, row: usize, count: usize) {
        let arch = pulp::Arch::new();
        for step in &self.steps {
            let Value { level, place: Place::Slot(slot) } = self.values[step.value] else { continue };
            let mut taken = std::mem::take(&mut scratch.slots[slot]);
            let (start, len) = self.extent(level, row, count);
            let block = &mut taken.words_mut()[..len];
            let operands = step.operands.map(|value| match value {
                NONE => Operand::Scalar(0),
                value => self.operand(value, units, chunks, scratch, row, count),
            });
            match &step.kind {
                StepKind::Plain(plain) => arch.dispatch(RunStep { step: plain, operands, units, start, block }),
                StepKind::Fold(kind, dtype) => {
                    let Operand::Slice(words) = operands[0] else { unreachable!("a fold is of one value an element") };
                    fold_rows(*kind, *dtype, words, self.length, block);
                }
                StepKind::Spread => match operands[0] {
                    Operand::Scalar(word) => block.fill(word),
                    Operand::Slice(words) if words.len() == len => block.copy_from_slice(words),
                    Operand::Slice(words) => {
                        block.chunks_mut(self.length).zip(words).for_each(|(row, word)| row.fill(*word));
                    }
                },
            }
            scratch.slots[slot] = taken;
        }
    }

    fn operand<'a>(
        &self,
        value: usize,
        units: &'a Units,
        chunks: &'a [Chunk],
        scratch: &'a Scratch,
        row: usize,
        count: usize,
    ) -> Operand<'a> {
        let Value { level, place } = self.values[value];
        let (start, len) = self.extent(level, row, count);
        match place {
            Place::Uniform(register) => Operand::Scalar(scratch.uniform[register]),
            Place::Slot(slot) => Operand::Slice(&scratch.slots[slot].words()[..len]),
            Place::Direct { unit, offset } => Operand::Slice(&units.get(unit).words()[offset + start..][..len]),
            Place::Written { chunk, offset } => {
                let Chunk { data, first } = &chunks[chunk];
                Operand::Slice(&data[offset + start - first..][..len])
            }
        }
    }
}

impl CpuKernel for Rows {
    fn run(&self, units: &mut Units) {
        let mut taken: Vec<Words> = self.written.iter().map(|&unit| units.take(unit)).collect();
        let chunks = taken.iter_mut().map(|words| Chunk { data: words.words_mut(), first: 0 }).collect();
        self.split(units, 0..self.rows, chunks);
        self.written.iter().zip(taken).for_each(|(&unit, words)| units.put(unit, words));
    }
}

fn first_operand(instruction: Instruction) -> Option<Register> {
    let mut first = None;
    crate::fuse::map_registers(instruction, |operand| {
        first.get_or_insert(operand);
        operand
    });
    first
}

/// A kernel under construction.
struct Build {
    values: Vec<Value>,
    steps: Vec<RowStep>,
    uniform: Vec<Step>,
    /// The value that holds another one element by element.
    spread: HashMap<usize, usize>,
}

impl Build {
    fn value(&mut self, level: Level, place: Place) -> usize {
        self.values.push(Value { level, place });
        self.values.len() - 1
    }

    fn step(&mut self, level: Level, operands: [usize; 3], kind: StepKind) -> usize {
        // Which slot is found when all steps are there.
        let value = self.value(level, Place::Slot(usize::MAX));
        self.steps.push(RowStep { value, operands, kind });
        value
    }

    /// `value` as one value an element in a register block (or, where it is that already, itself).
    fn spread(&mut self, value: usize) -> usize {
        let Value { level, place } = self.values[value];
        if level == Level::Element && !matches!(place, Place::Written { .. }) {
            return value;
        }
        if let Some(known) = self.spread.get(&value) {
            return *known;
        }
        let spread = self.step(Level::Element, [value, NONE, NONE], StepKind::Spread);
        self.spread.insert(value, spread);
        spread
    }
}

/// Slots of values, shared by those that are never alive together; returns their number.
fn assign_slots(build: &mut Build, kept: &[usize]) -> usize {
    let mut last_use: Vec<usize> = vec![0; build.values.len()];
    for (index, step) in build.steps.iter().enumerate() {
        last_use[step.value] = last_use[step.value].max(index);
        step.operands.iter().filter(|&&operand| operand != NONE).for_each(|&operand| last_use[operand] = index);
    }
    kept.iter().for_each(|&value| last_use[value] = usize::MAX);
    let mut free: Vec<usize> = Vec::new();
    let mut slots = 0;
    let mut dying: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in 0..build.steps.len() {
        let value = build.steps[index].value;
        let slot = free.pop().unwrap_or_else(|| {
            slots += 1;
            slots - 1
        });
        build.values[value].place = Place::Slot(slot);
        if last_use[value] != usize::MAX {
            dying.entry(last_use[value]).or_default().push(slot);
        }
        // After the step, so that what it reads and what it makes never share a block.
        free.extend(dying.remove(&index).unwrap_or_default());
    }
    slots
}
