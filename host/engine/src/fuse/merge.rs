//! Maps that run one after the other over the same elements become one map: what the first wrote, the second has in a register.
//!
//! `fuse.rs` decides node by node and level by level, so a chain of maps that waits for something in its middle is cut there (an optimizer's moments and its
//! update, which waits for the gradients' check). Here the kernels are known, and two become one wherever nothing stands between them. Pays a launch, one
//! load of what passes between them, and its store where nobody else reads it.

use super::body::{Builder, collapse, collapse_body, collapse_view};
use super::{Fused, INSTRUCTIONS_PER_KERNEL};
use crate::dataflow::{Dag, Uses, compact, uses};
use crate::kernel::{BUFFERS_PER_KERNEL, Body, BufferId, BufferKind, Instruction, Kernel, KernelOp, Register, Store, View};
use solstice_ir::element_count;
use std::collections::{BTreeSet, HashMap, HashSet};

/// A map, by itself.
#[derive(Clone)]
pub(super) struct MapParts {
    pub shape: Vec<usize>,
    pub body: Body,
    pub stores: Vec<Store>,
}

/// Where the buffers are counted that a kernel needs: a new state in the old one's memory, or in its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Updates {
    /// One buffer.
    InPlace,
    /// Two.
    Apart,
}

impl Updates {
    /// The memory that `buffer` is counted as.
    pub(super) fn home(self, buffer: BufferId, state_of: &HashMap<BufferId, BufferId>) -> BufferId {
        match self {
            Updates::InPlace => state_of.get(&buffer).copied().unwrap_or(buffer),
            Updates::Apart => buffer,
        }
    }
}

impl From<MapParts> for KernelOp {
    fn from(MapParts { shape, body, stores }: MapParts) -> KernelOp {
        KernelOp::Map { shape, body, stores }
    }
}

/// Merges until no pair is left.
pub(crate) fn merge_maps(fused: &mut Fused, updates: Updates) {
    let Uses { mut readers, writers } = uses(fused);
    let mut dag = Dag::new(fused);
    let state_of: HashMap<BufferId, BufferId> = fused.updates.iter().map(|(state, value)| (*value, *state)).collect();
    let mut kernels: Vec<Option<Kernel>> = std::mem::take(&mut fused.kernels).into_iter().map(Some).collect();
    for consumer in 0..kernels.len() {
        if !matches!(&kernels[consumer], Some(Kernel { op: KernelOp::Map { .. }, .. })) {
            continue;
        }
        let mut refused: HashSet<usize> = HashSet::new();
        loop {
            // The latest first: it is the likeliest to have nothing behind it.
            let candidates: Vec<usize> =
                dag.predecessors(consumer).iter().rev().copied().filter(|kernel| !refused.contains(kernel)).collect();
            let merged = candidates.into_iter().find_map(|producer| {
                let is_late = |state: BufferId| is_late(&dag, &readers, state, producer, consumer);
                let homes = Homes { updates, state_of: &state_of, is_late: &is_late };
                let result =
                    merged(fused, &kernels, producer, consumer, &readers, &writers, &homes).filter(|_| !dag.has_detour(producer, consumer));
                if result.is_none() {
                    refused.insert(producer);
                }
                result.map(|parts| (producer, parts))
            });
            let Some((producer, parts)) = merged else { break };
            dag.contract(producer, consumer);
            for readers in &mut readers {
                if let Some(place) = readers.iter().position(|&reader| reader == producer) {
                    readers[place] = consumer;
                }
            }
            let gone = kernels[producer].take().expect("a producer is a kernel");
            let kernel = kernels[consumer].as_mut().expect("a consumer is a kernel");
            // The larger one names the kernel.
            if code_length(&gone.op) > code_length(&kernel.op) {
                (kernel.label, kernel.location) = (gone.label, gone.location);
            }
            kernel.op = parts.into();
            refused.clear();
        }
    }
    compact(fused, kernels);
}

/// A reader of an old state that waits for one of the two kernels keeps the new state out of the old one's place.
pub(super) fn is_late(dag: &Dag, readers: &[Vec<usize>], state: BufferId, producer: usize, consumer: usize) -> bool {
    let others = readers[state.index()].iter().filter(|&&reader| reader != producer && reader != consumer);
    others.into_iter().any(|&reader| dag.reaches(producer, reader) || dag.reaches(consumer, reader))
}

fn code_length(op: &KernelOp) -> usize {
    if let KernelOp::Map { body, .. } = op { body.code.len() } else { 0 }
}

/// What tells the memory of a new state.
pub(super) struct Homes<'a> {
    pub updates: Updates,
    /// The state that a buffer is the new value of.
    pub state_of: &'a HashMap<BufferId, BufferId>,
    /// A reader of the old state comes too late for the new one to take its place.
    pub is_late: &'a dyn Fn(BufferId) -> bool,
}

fn merged(
    fused: &Fused,
    kernels: &[Option<Kernel>],
    producer: usize,
    consumer: usize,
    readers: &[Vec<usize>],
    writers: &[Vec<usize>],
    homes: &Homes,
) -> Option<MapParts> {
    let first = map_parts(kernels[producer].as_ref()?)?;
    let second = map_parts(kernels[consumer].as_ref()?)?;
    let shape = common_shape(&first.shape, &second.shape)?;
    let (first, second) = (reshaped(&first, &shape)?, reshaped(&second, &shape)?);
    let (body, stores) = as_one(fused, &first, &second, consumer, readers, writers, homes)?;
    Some(lowest_rank(&shape, &body, &stores))
}

/// Two kernels over the same shape as one, the second after the first, or `None` when they must stay apart. `consumer` is the second's index.
pub(super) fn as_one(
    fused: &Fused,
    first: &MapParts,
    second: &MapParts,
    consumer: usize,
    readers: &[Vec<usize>],
    writers: &[Vec<usize>],
    homes: &Homes,
) -> Option<(Body, Vec<Store>)> {
    if first.body.code.len() + second.body.code.len() > INSTRUCTIONS_PER_KERNEL {
        return None;
    }
    let alone = |store: &Store| writers[store.to.buffer.index()].len() == 1;
    if !first.stores.iter().chain(&second.stores).all(alone) {
        return None;
    }
    let written_by_first: HashSet<BufferId> = first.stores.iter().map(|store| store.to.buffer).collect();
    let written: HashSet<&View> = first.stores.iter().map(|store| &store.to).collect();
    // Another element of what the first writes is not there yet.
    if second.body.loads.iter().any(|view| written_by_first.contains(&view.buffer) && !written.contains(view)) {
        return None;
    }
    let (body, registers, more) = joined(&first.shape, first, second);
    // A value that only the second read is not stored.
    let is_needed = |store: &Store| {
        let buffer = store.to.buffer;
        !matches!(fused.buffers[buffer.index()].kind, BufferKind::Scratch { .. })
            || homes.state_of.contains_key(&buffer)
            || readers[buffer.index()].iter().any(|&reader| reader != consumer)
    };
    let mut stores: Vec<Store> = first
        .stores
        .iter()
        .filter(|store| is_needed(store))
        .map(|store| Store { value: registers[usize::from(store.value.0)], to: store.to.clone() })
        .collect();
    stores.extend(second.stores.iter().map(|store| Store { value: more[usize::from(store.value.0)], to: store.to.clone() }));
    let home = |buffer: BufferId| match homes.updates.home(buffer, homes.state_of) {
        state if state != buffer && (homes.is_late)(state) => buffer,
        home => home,
    };
    let buffers: BTreeSet<BufferId> =
        body.loads.iter().map(|view| view.buffer).chain(stores.iter().map(|store| home(store.to.buffer))).collect();
    (buffers.len() <= BUFFERS_PER_KERNEL).then_some((body, stores))
}

/// The map in as few axes as its views allow.
pub(super) fn lowest_rank(shape: &[usize], body: &Body, stores: &[Store]) -> MapParts {
    let views: Vec<&View> = body.loads.iter().chain(stores.iter().map(|store| &store.to)).collect();
    let (sizes, groups) = collapse(shape, &views, body, &|_| false);
    let stores = stores.iter().map(|store| Store { value: store.value, to: collapse_view(&store.to, &groups) }).collect();
    MapParts { shape: sizes, body: collapse_body(body, &groups), stores }
}

/// The parts of a map.
pub(super) fn map_parts(kernel: &Kernel) -> Option<MapParts> {
    match &kernel.op {
        KernelOp::Map { shape, body, stores } => Some(MapParts { shape: shape.clone(), body: body.clone(), stores: stores.clone() }),
        _ => None,
    }
}

/// Both bodies as one, and where their registers went.
pub(super) fn joined(shape: &[usize], first: &MapParts, second: &MapParts) -> (Body, Vec<Register>, Vec<Register>) {
    let mut builder = Builder::new(shape);
    let registers = builder.absorb(&first.body, &HashMap::new());
    let written: HashMap<View, Register> =
        first.stores.iter().map(|store| (store.to.clone(), registers[usize::from(store.value.0)])).collect();
    let more = builder.absorb(&second.body, &written);
    (builder.body, registers, more)
}

/// The shape with the fewest axes that both are merged forms of; `None` when the axes of one cut those of the other.
pub(super) fn common_shape(left: &[usize], right: &[usize]) -> Option<Vec<usize>> {
    if element_count(left) != element_count(right) || element_count(left) == 0 {
        return None;
    }
    // Products of the axes from the last one on: where an axis begins.
    let begins = |shape: &[usize]| -> BTreeSet<usize> {
        let mut product = 1;
        let inner = shape.iter().rev().map(|size| {
            product *= size;
            product
        });
        inner.filter(|&product| product > 1).collect()
    };
    let mut all = begins(left);
    all.extend(begins(right));
    let mut shape = Vec::new();
    let mut below = 1;
    for product in all {
        if product % below != 0 {
            return None;
        }
        shape.push(product / below);
        below = product;
    }
    shape.reverse();
    Some(shape)
}

/// The map over `shape`, whose axes are its own cut finer; `None` when it reads the index along an axis that is cut.
pub(super) fn reshaped(map: &MapParts, shape: &[usize]) -> Option<MapParts> {
    // For each new axis the old one and how many elements of it one step of the new one crosses.
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut axis = map.shape.len();
    let mut left = 1;
    let mut inner = 1;
    for &size in shape.iter().rev() {
        while left == 1 {
            axis = axis.checked_sub(1)?;
            left = map.shape[axis];
            inner = 1;
        }
        if left % size != 0 {
            return None;
        }
        places.push((axis, inner));
        inner *= size;
        left /= size;
    }
    places.reverse();
    let view = |view: &View| View {
        buffer: view.buffer,
        offset: view.offset,
        strides: places.iter().map(|&(axis, inner)| view.strides[axis] * inner as isize).collect(),
    };
    let mut body = map.body.clone();
    body.loads.iter_mut().for_each(|load| *load = view(load));
    for instruction in &mut body.code {
        if let Instruction::Index(index) = instruction {
            let mut whole = places.iter().enumerate().filter(|(_, (axis, _))| *axis == usize::from(*index));
            match (whole.next(), whole.next()) {
                (Some((place, _)), None) => *index = place as u16,
                _ => return None,
            }
        }
    }
    let stores = map.stores.iter().map(|store| Store { value: store.value, to: view(&store.to) }).collect();
    Some(MapParts { shape: shape.to_vec(), body, stores })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_meet_in_the_finer_cut() {
        assert_eq!(common_shape(&[12], &[3, 4]), Some(vec![3, 4]));
        assert_eq!(common_shape(&[6, 2], &[3, 4]), Some(vec![3, 2, 2]));
        assert_eq!(common_shape(&[4, 3], &[3, 4]), None);
        assert_eq!(common_shape(&[], &[1]), Some(vec![]));
        assert_eq!(common_shape(&[5], &[6]), None);
    }
}
