//! Bodies of kernels under construction: common instructions are written once, iteration spaces are brought to their lowest rank.

use super::index_map::{Affine, IndexMap, identity};
use crate::kernel::{Body, Instruction, Register, View};
use solstice_ir::{BinaryOp, DType, NodeId};
use std::collections::HashMap;

/// A body under construction. Equal instructions and equal loads are written once.
#[derive(Clone, Debug, Default)]
pub(super) struct Builder {
    pub(super) shape: Vec<usize>,
    pub(super) body: Body,
    seen: HashMap<(u8, [u64; 4], DType), Register>,
    loads: HashMap<View, u16>,
    pub(super) maps: Vec<IndexMap>,
    /// Registers of nodes at a map.
    pub(super) values: HashMap<(NodeId, usize), Register>,
}

impl Builder {
    pub(super) fn new(shape: &[usize]) -> Builder {
        Builder { shape: shape.to_vec(), maps: vec![identity(shape)], ..Builder::default() }
    }

    /// Number of `map`; the identity is 0.
    pub(super) fn map_index(&mut self, map: IndexMap) -> usize {
        if let Some(index) = self.maps.iter().position(|known| *known == map) {
            return index;
        }
        self.maps.push(map);
        self.maps.len() - 1
    }

    pub(super) fn push(&mut self, instruction: Instruction, dtype: DType) -> Register {
        let word = |register: Register| u64::from(register.0);
        let key = match instruction {
            Instruction::Load(index) => (0, [index.into(), 0, 0, 0]),
            Instruction::Constant(value) => (1, [value.to_bits(), 0, 0, 0]),
            Instruction::Index(axis) => (2, [axis.into(), 0, 0, 0]),
            Instruction::LinearIndex => (3, [0; 4]),
            Instruction::Unary(function, x) => (4, [function as u64, word(x), 0, 0]),
            Instruction::Binary(function, x, y) => (5, [function as u64, word(x), word(y), 0]),
            Instruction::Compare(direction, x, y) => (6, [direction as u64, word(x), word(y), 0]),
            Instruction::Select(predicate, x, y) => (7, [word(predicate), word(x), word(y), 0]),
            Instruction::Convert(x) => (8, [word(x), 0, 0, 0]),
            Instruction::Bitcast(x) => (9, [word(x), 0, 0, 0]),
            Instruction::Random { seed, step, element, stream } => (10, [word(seed), word(step), word(element), stream.into()]),
            Instruction::Fold(kind, x) => (11, [kind as u64, word(x), 0, 0]),
        };
        *self.seen.entry((key.0, key.1, dtype)).or_insert_with(|| {
            self.body.code.push(instruction);
            self.body.types.push(dtype);
            Register(u16::try_from(self.body.code.len() - 1).expect("a body has at most 65536 instructions"))
        })
    }

    pub(super) fn load(&mut self, view: View, dtype: DType) -> Register {
        let loads = &mut self.body.loads;
        let index = *self.loads.entry(view).or_insert_with_key(|view| {
            loads.push(view.clone());
            loads.len() as u16 - 1
        });
        self.push(Instruction::Load(index), dtype)
    }

    /// An affine function of the index as a register.
    pub(super) fn affine(&mut self, affine: &Affine, dtype: DType) -> Register {
        let terms: Vec<(usize, isize)> =
            affine.strides.iter().copied().enumerate().filter(|(axis, stride)| *stride != 0 && self.shape[*axis] > 1).collect();
        match terms[..] {
            [] => self.push(Instruction::Constant(affine.offset as f64), dtype),
            [(axis, 1)] if affine.offset == 0 => self.push(Instruction::Index(axis as u16), dtype),
            _ => {
                // In i32, where a stride may be negative.
                let mut sum = self.push(Instruction::Constant(affine.offset as f64), DType::I32);
                for (axis, stride) in terms {
                    let index = self.push(Instruction::Index(axis as u16), DType::I32);
                    let stride = self.push(Instruction::Constant(stride as f64), DType::I32);
                    let term = self.push(Instruction::Binary(BinaryOp::Multiply, index, stride), DType::I32);
                    sum = self.push(Instruction::Binary(BinaryOp::Add, sum, term), DType::I32);
                }
                if dtype == DType::I32 { sum } else { self.push(Instruction::Convert(sum), dtype) }
            }
        }
    }

    /// Appends another body over the same iteration space; loads of views in `written` become the registers that were stored there.
    pub(super) fn absorb(&mut self, other: &Body, written: &HashMap<View, Register>) -> Vec<Register> {
        let mut registers: Vec<Register> = Vec::with_capacity(other.code.len());
        for (instruction, &dtype) in other.code.iter().zip(&other.types) {
            let register = match *instruction {
                Instruction::Load(index) => {
                    let view = &other.loads[usize::from(index)];
                    written.get(view).copied().unwrap_or_else(|| self.load(view.clone(), dtype))
                }
                instruction => self.push(map_registers(instruction, |register| registers[usize::from(register.0)]), dtype),
            };
            registers.push(register);
        }
        registers
    }
}

/// The instruction with its operands replaced.
pub(crate) fn map_registers(instruction: Instruction, mut to: impl FnMut(Register) -> Register) -> Instruction {
    match instruction {
        Instruction::Load(_) | Instruction::Constant(_) | Instruction::Index(_) | Instruction::LinearIndex => instruction,
        Instruction::Unary(function, x) => Instruction::Unary(function, to(x)),
        Instruction::Binary(function, x, y) => Instruction::Binary(function, to(x), to(y)),
        Instruction::Compare(direction, x, y) => Instruction::Compare(direction, to(x), to(y)),
        Instruction::Select(predicate, x, y) => Instruction::Select(to(predicate), to(x), to(y)),
        Instruction::Convert(x) => Instruction::Convert(to(x)),
        Instruction::Bitcast(x) => Instruction::Bitcast(to(x)),
        Instruction::Fold(kind, x) => Instruction::Fold(kind, to(x)),
        Instruction::Random { seed, step, element, stream } => {
            Instruction::Random { seed: to(seed), step: to(step), element: to(element), stream }
        }
    }
}

/// Merges axes of `shape` that every view walks as one and drops axes of size 1, so that devices see the lowest rank. Axes on different sides of
/// `is_reduced` stay apart, and so do axes whose index the body reads. Returns the new shape and for each new axis the old ones it stands for.
pub(super) fn collapse(shape: &[usize], views: &[&View], body: &Body, is_reduced: &dyn Fn(usize) -> bool) -> (Vec<usize>, Vec<Vec<usize>>) {
    let indexed = |axis: usize| body.code.contains(&Instruction::Index(axis as u16));
    let mut sizes: Vec<usize> = Vec::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (axis, &axis_size) in shape.iter().enumerate() {
        if axis_size == 1 && !indexed(axis) {
            continue;
        }
        if let (Some(group), Some(size)) = (groups.last_mut(), sizes.last_mut()) {
            let last = *group.last().expect("a group has an axis");
            let walks_on = views.iter().all(|view| view.strides[last] == view.strides[axis] * axis_size as isize);
            if walks_on && is_reduced(last) == is_reduced(axis) && !indexed(last) && !indexed(axis) {
                group.push(axis);
                *size *= axis_size;
                continue;
            }
        }
        groups.push(vec![axis]);
        sizes.push(axis_size);
    }
    (sizes, groups)
}

pub(super) fn collapse_view(view: &View, groups: &[Vec<usize>]) -> View {
    let strides = groups.iter().map(|group| view.strides[*group.last().expect("a group has an axis")]).collect();
    View { buffer: view.buffer, offset: view.offset, strides }
}

pub(super) fn collapse_body(body: &Body, groups: &[Vec<usize>]) -> Body {
    let mut body = body.clone();
    body.loads.iter_mut().for_each(|view| *view = collapse_view(view, groups));
    for instruction in &mut body.code {
        if let Instruction::Index(axis) = instruction {
            let place = groups.iter().position(|group| group.contains(&usize::from(*axis)));
            *axis = place.expect("an axis whose index is read is kept") as u16;
        }
    }
    body
}
