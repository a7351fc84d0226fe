//! `Map`, and how any body is evaluated: in blocks of [`BLOCK`] elements, one vectorised loop an instruction.
//!
//! [`Code`] is a body made ready: what is the same for every element is worked out once (*uniform* registers), contiguous loads are read where they
//! stand, other loads are copied into a register block, and register blocks are shared between registers that are never alive together. The interpreter
//! runs inside `pulp`'s dispatch, so its loops are compiled for AVX2 and AVX-512 too and the best that the machine has is chosen at run time.

use super::CpuKernel;
use super::math;
use super::memory::{Units, Words, word_of};
use crate::kernel::{Body, Instruction, Plan, Register, Store, View};
use solstice_ir::{BinaryOp, Compare, DType, UnaryOp, element_count};
use std::cell::RefCell;
use std::ops::Range;

/// Elements of a block. Four registers, 32 KiB, are in the first-level cache at once; with blocks of half the size what is around each instruction shows, with
/// twice the size the second-level cache does.
pub(super) const BLOCK: usize = 2048;

/// Operations that are worth a task of their own.
const TASK_OPERATIONS: usize = 1 << 17;

pub(super) struct Map {
    code: Code,
    elements: usize,
    stores: Vec<Target>,
    /// Units that are written, each once.
    written: Vec<usize>,
    /// A range of elements is cut at multiples of this; `None` keeps it whole.
    cut_at: Option<usize>,
    grain: usize,
}

/// Where a register goes.
pub(super) struct Target {
    pub value: usize,
    /// Index into `Map::written`.
    pub chunk: usize,
    pub to: To,
}

pub(super) enum To {
    /// Element `i` at word `offset + i`.
    Contiguous(usize),
    Strided(Walk),
    /// As `Strided`, into packed bytes.
    Bytes(Walk),
}

/// The part of a written unit that a task owns.
pub(super) struct Chunk<'a> {
    pub data: &'a mut [u32],
    /// Word of the unit at `data[0]`.
    pub first: usize,
}

impl Map {
    pub(super) fn new(shape: &[usize], body: &Body, stores: &[Store], plan: &Plan, unit_of: &[usize]) -> Map {
        let mut written: Vec<usize> = Vec::new();
        let mut targets = Vec::new();
        for store in stores {
            let unit = unit_of[store.to.buffer.index()];
            let chunk = written.iter().position(|known| *known == unit).unwrap_or_else(|| {
                written.push(unit);
                written.len() - 1
            });
            let walk = Walk::new(shape, &store.to);
            let to = match walk.contiguous() {
                _ if plan.buffers[store.to.buffer.index()].dtype == DType::U8 => To::Bytes(walk),
                Some(offset) => To::Contiguous(offset),
                None => To::Strided(walk),
            };
            targets.push(Target { value: usize::from(store.value.0), chunk, to });
        }
        let values: Vec<Register> = stores.iter().map(|store| store.value).collect();
        let code = Code::new(shape, body, &values, plan, unit_of, &written);
        let cut_at = if written.len() < targets.len() { None } else { cut_at(&targets) };
        let grain = (TASK_OPERATIONS / (2 + code.steps.len())).next_multiple_of(BLOCK);
        Map { code, elements: element_count(shape), stores: targets, written, cut_at, grain }
    }

    fn split(&self, units: &Units, range: Range<usize>, mut chunks: Vec<Chunk>) {
        let cut = self.cut_at.map(|unit| (range.start + range.len() / 2) / unit * unit);
        match cut {
            Some(middle) if range.len() >= 2 * self.grain && middle > range.start => {
                let mut right = Vec::with_capacity(chunks.len());
                let mut left = Vec::with_capacity(chunks.len());
                for (chunk, target) in chunks.into_iter().zip(&self.stores) {
                    let at = target.to.first_word(middle).saturating_sub(chunk.first).min(chunk.data.len());
                    let (low, high) = chunk.data.split_at_mut(at);
                    left.push(Chunk { data: low, first: chunk.first });
                    right.push(Chunk { data: high, first: chunk.first + at });
                }
                rayon::join(|| self.split(units, range.start..middle, left), || self.split(units, middle..range.end, right));
            }
            _ => self.run_range(units, range, &mut chunks),
        }
    }

    fn run_range(&self, units: &Units, range: Range<usize>, chunks: &mut [Chunk]) {
        let mut scratch = Scratch::of_thread(&self.code);
        self.code.begin(units, &mut scratch);
        let mut start = range.start;
        while start < range.end {
            let len = BLOCK.min(range.end - start);
            self.code.evaluate(units, chunks, &mut scratch, start, len);
            for target in &self.stores {
                // No stored value is read in place: `Action::Keep` has copied it.
                let Chunk { data, first } = &mut chunks[target.chunk];
                let (data, first) = (std::mem::take(data), *first);
                let value = self.code.operand(target.value, units, chunks, &scratch, start, len);
                target.to.write(value, start, len, data, first);
                chunks[target.chunk].data = data;
            }
            start += len;
        }
        scratch.give_back();
    }
}

impl CpuKernel for Map {
    fn run(&self, units: &mut Units) {
        let mut taken: Vec<Words> = self.written.iter().map(|&unit| units.take(unit)).collect();
        let chunks = taken.iter_mut().map(|words| Chunk { data: words.words_mut(), first: 0 }).collect();
        self.split(units, 0..self.elements, chunks);
        self.written.iter().zip(taken).for_each(|(&unit, words)| units.put(unit, words));
    }
}

/// Where a range may be cut so that each half writes its own stretch of every unit.
fn cut_at(targets: &[Target]) -> Option<usize> {
    let mut unit = 1;
    for target in targets {
        match &target.to {
            To::Contiguous(_) => {}
            To::Bytes(_) => return None,
            To::Strided(walk) => {
                // Axis 0 of the walk must step over everything within it.
                let reach: isize = walk.sizes.iter().zip(&walk.strides).skip(1).map(|(&size, stride)| (size as isize - 1) * stride).sum();
                if walk.strides.iter().any(|stride| *stride < 0) || walk.strides[0] <= reach {
                    return None;
                }
                unit = unit.max(element_count(&walk.sizes[1..]));
                if unit % element_count(&walk.sizes[1..]) != 0 {
                    return None;
                }
            }
        }
    }
    Some(if unit == 1 { BLOCK } else { unit })
}

impl To {
    /// First word that elements from `element` on write, where that is at a cut.
    pub(super) fn first_word(&self, element: usize) -> usize {
        match self {
            To::Contiguous(offset) => offset + element,
            To::Strided(walk) | To::Bytes(walk) => walk.offset + element / element_count(&walk.sizes[1..]) * walk.strides[0] as usize,
        }
    }

    /// Writes elements `start..start + len` to `data`, whose first word is word `first` of its unit.
    pub(super) fn write(&self, value: Operand, start: usize, len: usize, data: &mut [u32], first: usize) {
        let word = |i: usize| match value {
            Operand::Slice(words) => words[i],
            Operand::Scalar(word) => word,
        };
        let mut done = 0;
        match self {
            To::Contiguous(offset) => match value {
                Operand::Slice(words) => data[offset + start - first..][..len].copy_from_slice(words),
                Operand::Scalar(word) => data[offset + start - first..][..len].fill(word),
            },
            To::Strided(walk) => walk.rows(start, len, |at, stride, count| {
                match (stride, value) {
                    (1, Operand::Slice(words)) => data[at as usize - first..][..count].copy_from_slice(&words[done..][..count]),
                    _ => (0..count).for_each(|i| data[(at + i as isize * stride) as usize - first] = word(done + i)),
                }
                done += count;
            }),
            To::Bytes(walk) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
                walk.rows(start, len, |at, stride, count| {
                    (0..count).for_each(|i| bytes[(at + i as isize * stride) as usize] = word(done + i) as u8);
                    done += count;
                });
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Walks

/// The addresses of a view in row-major order of its iteration space, axes merged as far as this view alone allows.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub offset: usize,
    pub sizes: Vec<usize>,
    pub strides: Vec<isize>,
}

impl Walk {
    pub(super) fn new(shape: &[usize], view: &View) -> Walk {
        let mut walk = Walk { offset: view.offset, sizes: Vec::new(), strides: Vec::new() };
        for (&size, &stride) in shape.iter().zip(&view.strides).filter(|(size, _)| **size != 1) {
            match (walk.sizes.last_mut(), walk.strides.last_mut()) {
                (Some(last_size), Some(last)) if *last == stride * size as isize => {
                    *last_size *= size;
                    *last = stride;
                }
                _ => {
                    walk.sizes.push(size);
                    walk.strides.push(stride);
                }
            }
        }
        walk
    }

    /// The offset when element `i` is at `offset + i`.
    pub(super) fn contiguous(&self) -> Option<usize> {
        matches!(self.strides[..], [] | [1]).then_some(self.offset)
    }

    pub(super) fn is_uniform(&self) -> bool {
        self.strides.iter().all(|stride| *stride == 0)
    }

    /// Calls `row(address, stride, count)` for each piece of a row within elements `start..start + len`.
    #[inline(always)]
    pub(super) fn rows(&self, start: usize, len: usize, mut row: impl FnMut(isize, isize, usize)) {
        let Some((&inner_size, &inner_stride)) = self.sizes.last().zip(self.strides.last()) else {
            if len > 0 {
                row(self.offset as isize, 0, len);
            }
            return;
        };
        let outer = self.sizes.len() - 1;
        // Ranks beyond 8 do not come up after merging; they are walked without an odometer.
        let mut index = [0usize; 8];
        let mut rest = start / inner_size;
        let mut column = start % inner_size;
        let mut address = self.offset as isize;
        for axis in (0..outer).rev() {
            let place = rest % self.sizes[axis];
            rest /= self.sizes[axis];
            address += place as isize * self.strides[axis];
            index[axis & 7] = place;
        }
        assert!(outer <= 8, "a view has at most 9 axes that do not merge");
        let mut left = len;
        while left > 0 {
            let count = left.min(inner_size - column);
            row(address + column as isize * inner_stride, inner_stride, count);
            left -= count;
            column = 0;
            for axis in (0..outer).rev() {
                index[axis] += 1;
                address += self.strides[axis];
                if index[axis] < self.sizes[axis] {
                    break;
                }
                address -= self.sizes[axis] as isize * self.strides[axis];
                index[axis] = 0;
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Bodies made ready

/// Where the value of a register is found.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The same for all elements: in `Scratch::uniform`.
    Uniform,
    /// In a register block.
    Slot(usize),
    /// Element `i` at word `offset + i` of a unit.
    Direct { unit: usize, offset: usize },
    /// As `Direct`, in a unit that the kernel itself writes.
    Written { chunk: usize, offset: usize },
}

#[derive(Debug)]
pub(super) enum Action {
    /// Copies a load into a register block.
    Fill {
        unit: usize,
        walk: Walk,
        bytes: bool,
    },
    /// Copies a load in place, as its block is going to be overwritten before it is stored elsewhere.
    Keep {
        chunk: usize,
        offset: usize,
    },
    Constant(u32),
    /// `start / inner % size` counts along an axis.
    Index {
        size: usize,
        inner: usize,
    },
    LinearIndex,
    Unary(UnaryOp),
    Binary(BinaryOp),
    Compare(Compare),
    Select,
    Convert,
    Bitcast,
    /// Operands: seed, step, element.
    Random {
        stream: u32,
    },
}

/// No register.
pub(super) const NONE: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct Step {
    pub register: usize,
    pub dtype: DType,
    /// Type of the first operand.
    pub from: DType,
    /// Registers, `NONE` where there are fewer.
    pub operands: [usize; 3],
    pub action: Action,
}

/// A body ready to be evaluated.
#[derive(Debug)]
pub(super) struct Code {
    uniform: Vec<Step>,
    steps: Vec<Step>,
    places: Vec<Place>,
    slots: usize,
}

/// Register blocks and uniform values of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub slots: Vec<Words>,
    pub uniform: Vec<u32>,
}

/// The value of a register for one block.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Slice(&'a [u32]),
    Scalar(u32),
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// This thread's scratch memory, large enough for `code`.
    pub(super) fn of_thread(code: &Code) -> Scratch {
        Scratch::with_room(code.slots, code.places.len())
    }

    /// The same with room for `slots` blocks and `uniform` values.
    pub(super) fn with_room(slots: usize, uniform: usize) -> Scratch {
        let mut scratch = SCRATCH.take();
        while scratch.slots.len() < slots {
            scratch.slots.push(Words::zeroed(BLOCK));
        }
        if scratch.uniform.len() < uniform {
            scratch.uniform.resize(uniform, 0);
        }
        scratch
    }

    /// Keeps the memory for the thread's next kernel.
    pub(super) fn give_back(self) {
        SCRATCH.set(self);
    }
}

impl Code {
    /// `kept` are the registers that are read after the body. `written` are units that the kernel takes out; loads of them are in place.
    pub(super) fn new(shape: &[usize], body: &Body, kept: &[Register], plan: &Plan, unit_of: &[usize], written: &[usize]) -> Code {
        let count = body.code.len();
        let strides = solstice_ir::strides_of(shape);
        let index = |register: Register| usize::from(register.0);
        let mut places = vec![Place::Uniform; count];
        let mut code = Code { uniform: Vec::new(), steps: Vec::new(), places: Vec::new(), slots: 0 };
        let mut needs_slot = vec![false; count];
        let mut operands_of: Vec<Vec<usize>> = Vec::with_capacity(count);
        for (register, instruction) in body.code.iter().enumerate() {
            let mut operands = Vec::new();
            crate::fuse::map_registers(*instruction, |operand| {
                operands.push(index(operand));
                operand
            });
            let mut is_uniform = !operands.is_empty() && operands.iter().all(|&operand| matches!(places[operand], Place::Uniform));
            let action = match *instruction {
                Instruction::Load(load) => {
                    let view = &body.loads[usize::from(load)];
                    let unit = unit_of[view.buffer.index()];
                    let walk = Walk::new(shape, view);
                    let bytes = plan.buffers[view.buffer.index()].dtype == DType::U8;
                    if let Some(chunk) = written.iter().position(|&other| other == unit) {
                        let offset = walk.contiguous().expect("a kernel that loads what it writes does so densely");
                        places[register] = Place::Written { chunk, offset };
                        if !kept.iter().any(|&value| index(value) == register) {
                            operands_of.push(operands);
                            continue;
                        }
                        Action::Keep { chunk, offset }
                    } else if walk.is_uniform() {
                        is_uniform = true;
                        Action::Fill { unit, walk, bytes }
                    } else if let (Some(offset), false) = (walk.contiguous(), bytes) {
                        places[register] = Place::Direct { unit, offset };
                        operands_of.push(operands);
                        continue;
                    } else {
                        Action::Fill { unit, walk, bytes }
                    }
                }
                Instruction::Constant(value) => {
                    is_uniform = true;
                    Action::Constant(word_of(body.types[register], value))
                }
                Instruction::Index(axis) => {
                    let axis = usize::from(axis);
                    Action::Index { size: shape[axis].max(1), inner: strides[axis].max(1) }
                }
                Instruction::LinearIndex => Action::LinearIndex,
                Instruction::Unary(function, _) => Action::Unary(function),
                Instruction::Binary(function, ..) => Action::Binary(function),
                Instruction::Compare(direction, ..) => Action::Compare(direction),
                Instruction::Select(..) => Action::Select,
                Instruction::Convert(_) => Action::Convert,
                Instruction::Bitcast(_) => Action::Bitcast,
                Instruction::Random { stream, .. } => Action::Random { stream },
                Instruction::Fold(..) => panic!("only a kernel over rows folds"),
            };
            let from = operands.first().map_or(body.types[register], |&operand| body.types[operand]);
            let place = |position: usize| operands.get(position).copied().unwrap_or(NONE);
            let step = Step { register, dtype: body.types[register], from, operands: [place(0), place(1), place(2)], action };
            if is_uniform {
                places[register] = Place::Uniform;
                code.uniform.push(step);
            } else {
                // Which slot is found below; the readers that follow must already see that it varies.
                places[register] = Place::Slot(0);
                needs_slot[register] = true;
                code.steps.push(step);
            }
            operands_of.push(operands);
        }
        let mut last_use: Vec<usize> = (0..count).collect();
        for (register, operands) in operands_of.iter().enumerate() {
            operands.iter().for_each(|&operand| last_use[operand] = register);
        }
        kept.iter().for_each(|&value| last_use[index(value)] = usize::MAX);
        let mut free: Vec<usize> = Vec::new();
        let mut dying: Vec<Vec<usize>> = vec![Vec::new(); count];
        for register in (0..count).filter(|&register| needs_slot[register]) {
            let slot = free.pop().unwrap_or_else(|| {
                code.slots += 1;
                code.slots - 1
            });
            places[register] = Place::Slot(slot);
            if last_use[register] != usize::MAX {
                dying[last_use[register]].push(slot);
            }
            free.append(&mut dying[register]);
        }
        code.places = places;
        code
    }

    /// Works out the uniform registers.
    pub(super) fn begin(&self, units: &Units, scratch: &mut Scratch) {
        for step in &self.uniform {
            let mut word = [0];
            let operands = step.operands.map(|register| Operand::Scalar(scratch.uniform.get(register).copied().unwrap_or(0)));
            pulp::Arch::new().dispatch(RunStep { step, operands, units, start: 0, block: &mut word });
            scratch.uniform[step.register] = word[0];
        }
    }

    /// Evaluates elements `start..start + len`, at most a block.
    pub(super) fn evaluate(&self, units: &Units, chunks: &[Chunk], scratch: &mut Scratch, start: usize, len: usize) {
        let arch = pulp::Arch::new();
        for step in &self.steps {
            let Place::Slot(slot) = self.places[step.register] else { continue };
            let mut taken = std::mem::take(&mut scratch.slots[slot]);
            let block = &mut taken.words_mut()[..len];
            if let Action::Keep { chunk, offset } = step.action {
                let Chunk { data, first } = &chunks[chunk];
                block.copy_from_slice(&data[offset + start - first..][..len]);
            } else {
                let operands = step.operands.map(|register| match register {
                    NONE => Operand::Scalar(0),
                    register => self.operand(register, units, chunks, scratch, start, len),
                });
                arch.dispatch(RunStep { step, operands, units, start, block });
            }
            scratch.slots[slot] = taken;
        }
    }

    /// The value of a register for the block that was evaluated last.
    pub(super) fn operand<'a>(
        &self,
        register: usize,
        units: &'a Units,
        chunks: &'a [Chunk],
        scratch: &'a Scratch,
        start: usize,
        len: usize,
    ) -> Operand<'a> {
        match self.places[register] {
            Place::Uniform => Operand::Scalar(scratch.uniform[register]),
            Place::Slot(slot) => Operand::Slice(&scratch.slots[slot].words()[..len]),
            Place::Direct { unit, offset } => Operand::Slice(&units.get(unit).words()[offset + start..][..len]),
            Place::Written { chunk, offset } => {
                let Chunk { data, first } = &chunks[chunk];
                Operand::Slice(&data[offset + start - first..][..len])
            }
        }
    }

    /// Number of steps of a block.
    pub(super) fn step_count(&self) -> usize {
        self.steps.len()
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Instructions

#[derive(Clone, Copy)]
enum Typed<'a, T> {
    Slice(&'a [T]),
    Scalar(T),
}

impl<'a> Operand<'a> {
    #[inline(always)]
    fn floats(self) -> Typed<'a, f32> {
        match self {
            Operand::Slice(words) => Typed::Slice(bytemuck::cast_slice(words)),
            Operand::Scalar(word) => Typed::Scalar(f32::from_bits(word)),
        }
    }

    #[inline(always)]
    fn signed(self) -> Typed<'a, i32> {
        match self {
            Operand::Slice(words) => Typed::Slice(bytemuck::cast_slice(words)),
            Operand::Scalar(word) => Typed::Scalar(word as i32),
        }
    }

    #[inline(always)]
    fn words(self) -> Typed<'a, u32> {
        match self {
            Operand::Slice(words) => Typed::Slice(words),
            Operand::Scalar(word) => Typed::Scalar(word),
        }
    }
}

/// One loop of one argument. A macro, not a function of a closure: the body must be compiled into the caller's instruction set.
macro_rules! each {
    ($x:expr, $out:expr, |$a:ident| $body:expr) => {
        match $x {
            Typed::Slice(values) => {
                for (out, &$a) in $out.iter_mut().zip(values) {
                    *out = $body;
                }
            }
            Typed::Scalar($a) => $out.fill($body),
        }
    };
}

/// One loop of two arguments.
macro_rules! each_pair {
    ($x:expr, $y:expr, $out:expr, |$a:ident, $b:ident| $body:expr) => {
        match ($x, $y) {
            (Typed::Slice(left), Typed::Slice(right)) => {
                for ((out, &$a), &$b) in $out.iter_mut().zip(left).zip(right) {
                    *out = $body;
                }
            }
            (Typed::Slice(left), Typed::Scalar($b)) => {
                for (out, &$a) in $out.iter_mut().zip(left) {
                    *out = $body;
                }
            }
            (Typed::Scalar($a), Typed::Slice(right)) => {
                for (out, &$b) in $out.iter_mut().zip(right) {
                    *out = $body;
                }
            }
            (Typed::Scalar($a), Typed::Scalar($b)) => $out.fill($body),
        }
    };
}

/// One instruction on one block.
pub(super) struct RunStep<'a> {
    pub step: &'a Step,
    pub operands: [Operand<'a>; 3],
    pub units: &'a Units,
    pub start: usize,
    pub block: &'a mut [u32],
}

impl pulp::WithSimd for RunStep<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let RunStep { step, operands: [x, y, z], units, start, block } = self;
        match step.action {
            Action::Fill { unit, ref walk, bytes } => fill(units.get(unit), walk, bytes, start, block),
            Action::Keep { .. } => {}
            Action::Constant(word) => block.fill(word),
            Action::Index { size, inner } => count_along(step.dtype, size, inner, start, block),
            Action::LinearIndex => {
                let start = start as u32;
                for (i, word) in block.iter_mut().enumerate() {
                    *word = start.wrapping_add(i as u32);
                }
            }
            Action::Unary(function) => match step.dtype {
                DType::F32 => unary_float(function, x.floats(), bytemuck::cast_slice_mut(block)),
                DType::I32 => unary_signed(function, x.signed(), bytemuck::cast_slice_mut(block)),
                DType::Bool => each!(x.words(), block, |a| a ^ 1),
                _ => each!(x.words(), block, |a| !a),
            },
            Action::Binary(function) => match step.dtype {
                DType::F32 => binary_float(function, x.floats(), y.floats(), bytemuck::cast_slice_mut(block)),
                DType::I32 if matches!(function, BinaryOp::Divide | BinaryOp::Remainder | BinaryOp::Maximum | BinaryOp::Minimum) => {
                    binary_signed(function, x.signed(), y.signed(), bytemuck::cast_slice_mut(block));
                }
                _ => binary_words(function, x.words(), y.words(), block),
            },
            Action::Compare(direction) => match step.from {
                DType::F32 => compare_float(direction, x.floats(), y.floats(), block),
                DType::I32 => compare_signed(direction, x.signed(), y.signed(), block),
                _ => compare_words(direction, x.words(), y.words(), block),
            },
            Action::Select => select(x, y.words(), z.words(), block),
            Action::Convert => convert(step.from, step.dtype, x, block),
            Action::Bitcast => each!(x.words(), block, |a| a),
            Action::Random { stream } => random(x, y, z, stream, block),
        }
    }
}

/// Index along an axis of `size` whose stride in the iteration space is `inner`.
fn count_along(dtype: DType, size: usize, inner: usize, start: usize, block: &mut [u32]) {
    let mut place = start / inner % size;
    let mut within = start % inner;
    for word in block {
        *word = if dtype == DType::F32 { (place as f32).to_bits() } else { place as u32 };
        within += 1;
        if within == inner {
            within = 0;
            place = if place + 1 == size { 0 } else { place + 1 };
        }
    }
}

#[inline(always)]
fn fill(source: &Words, walk: &Walk, bytes: bool, start: usize, block: &mut [u32]) {
    let mut done = 0;
    let len = block.len();
    if bytes {
        let source = source.bytes();
        walk.rows(start, len, |at, stride, count| {
            for i in 0..count {
                block[done + i] = u32::from(source[(at + i as isize * stride) as usize]);
            }
            done += count;
        });
        return;
    }
    let source = source.words();
    walk.rows(start, len, |at, stride, count| {
        let row = &mut block[done..done + count];
        match stride {
            0 => row.fill(source[at as usize]),
            1 => row.copy_from_slice(&source[at as usize..][..count]),
            _ => {
                for (i, word) in row.iter_mut().enumerate() {
                    *word = source[(at + i as isize * stride) as usize];
                }
            }
        }
        done += count;
    });
}

#[inline(always)]
fn unary_float(function: UnaryOp, x: Typed<f32>, out: &mut [f32]) {
    match function {
        UnaryOp::Negate => each!(x, out, |a| -a),
        UnaryOp::Abs => each!(x, out, |a| a.abs()),
        UnaryOp::Sign => each!(x, out, |a| if a > 0.0 {
            1.0
        } else if a < 0.0 {
            -1.0
        } else {
            0.0
        }),
        UnaryOp::Floor => each!(x, out, |a| a.floor()),
        UnaryOp::Exponential => each!(x, out, |a| math::exp(a)),
        UnaryOp::Log => each!(x, out, |a| math::log(a)),
        UnaryOp::Sqrt => each!(x, out, |a| a.sqrt()),
        UnaryOp::Rsqrt => each!(x, out, |a| 1.0 / a.sqrt()),
        UnaryOp::Tanh => each!(x, out, |a| math::tanh(a)),
        UnaryOp::Logistic => each!(x, out, |a| math::logistic(a)),
        UnaryOp::Erf => each!(x, out, |a| math::erf(a)),
        UnaryOp::Sine => {
            each!(x, out, |a| math::sine(a));
            redo_beyond(x, out, f32::sin);
        }
        UnaryOp::Cosine => {
            each!(x, out, |a| math::cosine(a));
            redo_beyond(x, out, f32::cos);
        }
        UnaryOp::Not => unreachable!("`not` is not defined on floats"),
    }
}

/// Replaces the sines of large arguments, infinities and NaN by std's.
#[inline(always)]
fn redo_beyond(x: Typed<f32>, out: &mut [f32], function: fn(f32) -> f32) {
    let is_beyond = |a: f32| a.is_nan() || a.abs() > math::TRIGONOMETRIC_MAX;
    match x {
        Typed::Slice(values) => {
            if values.iter().fold(false, |any, &a| any | is_beyond(a)) {
                out.iter_mut().zip(values).filter(|(_, a)| is_beyond(**a)).for_each(|(out, &a)| *out = function(a));
            }
        }
        Typed::Scalar(a) if is_beyond(a) => out.fill(function(a)),
        Typed::Scalar(_) => {}
    }
}

#[inline(always)]
fn unary_signed(function: UnaryOp, x: Typed<i32>, out: &mut [i32]) {
    match function {
        UnaryOp::Negate => each!(x, out, |a| a.wrapping_neg()),
        UnaryOp::Abs => each!(x, out, |a| a.wrapping_abs()),
        UnaryOp::Sign => each!(x, out, |a| a.signum()),
        _ => each!(x, out, |a| !a),
    }
}

#[inline(always)]
fn binary_float(function: BinaryOp, x: Typed<f32>, y: Typed<f32>, out: &mut [f32]) {
    match function {
        BinaryOp::Add => each_pair!(x, y, out, |a, b| a + b),
        BinaryOp::Subtract => each_pair!(x, y, out, |a, b| a - b),
        BinaryOp::Multiply => each_pair!(x, y, out, |a, b| a * b),
        BinaryOp::Divide => each_pair!(x, y, out, |a, b| a / b),
        BinaryOp::Maximum => each_pair!(x, y, out, |a, b| math::maximum(a, b)),
        BinaryOp::Minimum => each_pair!(x, y, out, |a, b| math::minimum(a, b)),
        BinaryOp::Power => match y {
            Typed::Scalar(1.0) => each!(x, out, |a| a),
            Typed::Scalar(2.0) => each!(x, out, |a| a * a),
            Typed::Scalar(3.0) => each!(x, out, |a| a * a * a),
            Typed::Scalar(-1.0) => each!(x, out, |a| 1.0 / a),
            // The general power has no short vector form: std, element by element.
            _ => each_pair!(x, y, out, |a, b| a.powf(b)),
        },
        BinaryOp::Remainder => each_pair!(x, y, out, |a, b| a % b),
        _ => unreachable!("bits of floats have no operations"),
    }
}

#[inline(always)]
fn binary_signed(function: BinaryOp, x: Typed<i32>, y: Typed<i32>, out: &mut [i32]) {
    match function {
        BinaryOp::Divide => each_pair!(x, y, out, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        BinaryOp::Remainder => each_pair!(x, y, out, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        BinaryOp::Maximum => each_pair!(x, y, out, |a, b| a.max(b)),
        _ => each_pair!(x, y, out, |a, b| a.min(b)),
    }
}

/// Operations on u32, those on i32 that only see bits, and logic of bools.
#[inline(always)]
fn binary_words(function: BinaryOp, x: Typed<u32>, y: Typed<u32>, out: &mut [u32]) {
    match function {
        BinaryOp::Add => each_pair!(x, y, out, |a, b| a.wrapping_add(b)),
        BinaryOp::Subtract => each_pair!(x, y, out, |a, b| a.wrapping_sub(b)),
        BinaryOp::Multiply => each_pair!(x, y, out, |a, b| a.wrapping_mul(b)),
        BinaryOp::Divide => each_pair!(x, y, out, |a, b| a.checked_div(b).unwrap_or(0)),
        BinaryOp::Remainder => each_pair!(x, y, out, |a, b| a.checked_rem(b).unwrap_or(0)),
        BinaryOp::Maximum => each_pair!(x, y, out, |a, b| a.max(b)),
        BinaryOp::Minimum => each_pair!(x, y, out, |a, b| a.min(b)),
        BinaryOp::And => each_pair!(x, y, out, |a, b| a & b),
        BinaryOp::Or => each_pair!(x, y, out, |a, b| a | b),
        BinaryOp::Xor => each_pair!(x, y, out, |a, b| a ^ b),
        BinaryOp::ShiftLeft => each_pair!(x, y, out, |a, b| if b < 32 { a << (b & 31) } else { 0 }),
        BinaryOp::ShiftRight => each_pair!(x, y, out, |a, b| if b < 32 { a >> (b & 31) } else { 0 }),
        BinaryOp::Power => unreachable!("there is no power of integers"),
    }
}

macro_rules! comparison {
    ($name:ident, $type:ty) => {
        #[inline(always)]
        fn $name(direction: Compare, x: Typed<$type>, y: Typed<$type>, out: &mut [u32]) {
            match direction {
                Compare::Equal => each_pair!(x, y, out, |a, b| u32::from(a == b)),
                Compare::NotEqual => each_pair!(x, y, out, |a, b| u32::from(a != b)),
                Compare::Less => each_pair!(x, y, out, |a, b| u32::from(a < b)),
                Compare::LessEqual => each_pair!(x, y, out, |a, b| u32::from(a <= b)),
                Compare::Greater => each_pair!(x, y, out, |a, b| u32::from(a > b)),
                Compare::GreaterEqual => each_pair!(x, y, out, |a, b| u32::from(a >= b)),
            }
        }
    };
}

comparison!(compare_float, f32);
comparison!(compare_signed, i32);
comparison!(compare_words, u32);

#[inline(always)]
fn select(predicate: Operand, x: Typed<u32>, y: Typed<u32>, out: &mut [u32]) {
    match predicate {
        Operand::Scalar(word) => each_pair!(x, y, out, |a, b| if word != 0 { a } else { b }),
        Operand::Slice(predicate) => match (x, y) {
            (Typed::Slice(x), Typed::Slice(y)) => {
                for (((out, &word), &a), &b) in out.iter_mut().zip(predicate).zip(x).zip(y) {
                    *out = if word != 0 { a } else { b };
                }
            }
            (Typed::Slice(x), Typed::Scalar(b)) => {
                for ((out, &word), &a) in out.iter_mut().zip(predicate).zip(x) {
                    *out = if word != 0 { a } else { b };
                }
            }
            (Typed::Scalar(a), Typed::Slice(y)) => {
                for ((out, &word), &b) in out.iter_mut().zip(predicate).zip(y) {
                    *out = if word != 0 { a } else { b };
                }
            }
            (Typed::Scalar(a), Typed::Scalar(b)) => {
                for (out, &word) in out.iter_mut().zip(predicate) {
                    *out = if word != 0 { a } else { b };
                }
            }
        },
    }
}

#[inline(always)]
fn convert(from: DType, to: DType, x: Operand, out: &mut [u32]) {
    match (from, to) {
        (DType::F32, DType::I32) => each!(x.floats(), out, |a| a as i32 as u32),
        (DType::F32, DType::U32) => each!(x.floats(), out, |a| a as u32),
        (DType::F32, DType::Bool) => each!(x.floats(), out, |a| u32::from(a != 0.0)),
        (DType::I32, DType::F32) => each!(x.signed(), out, |a| (a as f32).to_bits()),
        (DType::U32 | DType::Bool | DType::U8, DType::F32) => each!(x.words(), out, |a| (a as f32).to_bits()),
        (DType::I32 | DType::U32, DType::Bool) => each!(x.words(), out, |a| u32::from(a != 0)),
        _ => each!(x.words(), out, |a| a),
    }
}

#[inline(always)]
fn random(seed: Operand, step: Operand, element: Operand, stream: u32, out: &mut [u32]) {
    if let (Operand::Scalar(seed), Operand::Scalar(step), Operand::Slice(elements)) = (seed, step, element) {
        let mut lanes = [0; math::LANES];
        for (out, elements) in out.chunks_mut(math::LANES).zip(elements.chunks(math::LANES)) {
            lanes[..elements.len()].copy_from_slice(elements);
            let words = math::threefry(seed, stream, step, &lanes);
            out.copy_from_slice(&words[..out.len()]);
        }
        return;
    }
    let at = |operand: Operand, i: usize| match operand {
        Operand::Slice(words) => words[i],
        Operand::Scalar(word) => word,
    };
    for (i, out) in out.iter_mut().enumerate() {
        *out = crate::random::rng_bits(at(seed, i), stream, at(step, i), at(element, i));
    }
}
