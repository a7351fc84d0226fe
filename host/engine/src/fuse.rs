//! Fusion: a graph of primitives becomes kernels over buffers.
//!
//! Elementwise nodes are written into the bodies of the kernels that read them. A node gets a buffer of its own (it is *materialised*) when something
//! needs its memory (a contraction, an output, a state update), when it is dear and has several readers, when it is small and read broadcast, or when a
//! body would grow past the limits below. Movement ops never cost memory traffic by themselves: they change the index map of the load behind them, and
//! only a map that no strides can express is copied out. Materialised elementwise nodes of one shape join one kernel with several stores when their
//! levels allow it. Order, memory and state updates are not decided here; read `plan.rs` next.

mod body;
mod epilogue;
mod index_map;
mod merge;
mod pack;
mod rematerialise;
mod rows;

pub(crate) use body::map_registers;
pub(crate) use epilogue::fuse_epilogues;
pub(crate) use merge::{Updates, merge_maps};
pub(crate) use pack::pack_scalars;
pub(crate) use rematerialise::rematerialise;
pub(crate) use rows::fuse_rows;

use crate::attention::Attention;
use crate::kernel::{
    AttentionPass, BUFFERS_PER_KERNEL, Buffer, BufferId, BufferKind, ConvolutionForm, Instruction, Kernel, KernelOp, MatrixView, Port,
    Register, ScalarPort, StatePort, Store, View,
};
use body::{Builder, collapse, collapse_body};
use index_map::{Affine, IndexMap, identity, linear, through_movement, through_reshape};
use solstice_ir::{DType, DotDims, Graph, Node, NodeId, Op, ReduceKind, Role, ScatterMode, element_count, strides_of};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// Nodes that one materialised value may pull into its body; beyond this registers spill on any device.
const NODES_PER_VALUE: usize = 64;

/// Instructions of a kernel with several stores.
const INSTRUCTIONS_PER_KERNEL: usize = 160;

/// Kernels of at most this many elements join without sharing a load, as they cost a launch and nothing else.
const SMALL_KERNEL_ELEMENTS: usize = 4096;

/// Kernels and buffers before scheduling. Scratch buffers have no slot yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fused {
    pub buffers: Vec<Buffer>,
    /// Writers of a buffer stand in the order in which they must run.
    pub kernels: Vec<Kernel>,
    pub inputs: Vec<Port>,
    pub scalars: Vec<ScalarPort>,
    pub states: Vec<StatePort>,
    pub outputs: Vec<Port>,
    /// State buffer and the buffer of its new value.
    pub updates: Vec<(BufferId, BufferId)>,
    /// Buffers whose writers write parts that are apart, in any order.
    pub unordered: HashSet<BufferId>,
}

/// Kernels for `graph`, which holds primitives only. With `fuse` off every elementwise node has its own kernel; movement ops are views all the same.
pub(crate) fn fuse(graph: &Graph, fuse: bool) -> Fused {
    let mut fuser = Fuser::new(graph, fuse);
    for id in graph.ids() {
        if fuser.demand[id.index()].live {
            fuser.visit(id);
        }
    }
    fuser.finish()
}

/// What the readers of a node want of it, seen through movement ops.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    live: bool,
    /// Someone reads its memory.
    buffer: bool,
    /// Someone reads it repeated along an axis.
    expanded: bool,
    /// Number of reading nodes.
    readers: u32,
}

/// Where a materialised node is: dense row-major at an element offset of a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Home {
    buffer: BufferId,
    offset: usize,
}

/// What writing a node into a body brings along.
#[derive(Clone, Debug, Default)]
struct Summary {
    /// Buffers that are loaded, sorted.
    loads: Vec<BufferId>,
    /// Elementwise nodes, sorted.
    nodes: Vec<NodeId>,
    /// Operations for one element; a transcendental counts 8.
    cost: u32,
}

enum Proto {
    Map(Box<Cluster>),
    Other(KernelOp),
}

/// Map kernel under construction.
struct Cluster {
    builder: Builder,
    stores: Vec<(Register, View)>,
    written: HashMap<View, Register>,
    /// Scalars of one type share a buffer: its number of elements so far.
    packed: HashMap<DType, BufferId>,
    /// Buffers of loads and stores, updates counted in place.
    buffers: HashSet<BufferId>,
}

struct ProtoKernel {
    proto: Proto,
    /// Longer than the level of every kernel it waits for, so that kernels of one level never wait for each other.
    level: u32,
    label: String,
    location: Arc<str>,
}

struct Fuser<'a> {
    graph: &'a Graph,
    fuse: bool,
    demand: Vec<Demand>,
    readers: Vec<Vec<NodeId>>,
    homes: Vec<Option<Home>>,
    summaries: Vec<Option<Rc<Summary>>>,
    fused: Fused,
    kernels: Vec<ProtoKernel>,
    /// Level and last writer of each buffer.
    levels: Vec<u32>,
    writers: Vec<Option<usize>>,
    clusters: HashMap<(u32, Vec<usize>), Vec<usize>>,
    copies: HashMap<(NodeId, IndexMap), BufferId>,
    /// State buffer that a node's value is going to replace.
    update_of: HashMap<NodeId, BufferId>,
    scalars: Option<BufferId>,
    /// Result and log sums of each attention that is differentiated, by its q, k and v.
    attended: HashMap<[NodeId; 3], (MatrixView, BufferId)>,
}

fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Compare { .. }
            | Op::Select
            | Op::Convert { .. }
            | Op::BitcastConvert { .. }
            | Op::Iota { .. }
            | Op::RngBits { .. }
    )
}

/// Ops that only move the index, those that are the identity in one process included.
fn is_movement(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::BroadcastInDim { .. }
            | Op::Slice { .. }
            | Op::Reverse { .. }
            | Op::StopGradient
            | Op::AllReduce { .. }
    ) || matches!(op, Op::Reduce { axes, .. } if axes.is_empty())
}

fn splat(node: &Node) -> Option<f64> {
    match &node.op {
        Op::Constant { value } => value.splat_value(),
        _ => None,
    }
}

fn cost_of(op: &Op) -> u32 {
    use solstice_ir::{BinaryOp, UnaryOp};
    match op {
        Op::Unary { function } => match function {
            UnaryOp::Exponential | UnaryOp::Log | UnaryOp::Tanh | UnaryOp::Logistic | UnaryOp::Sine | UnaryOp::Cosine | UnaryOp::Erf => 8,
            UnaryOp::Sqrt | UnaryOp::Rsqrt => 3,
            _ => 1,
        },
        Op::Binary { function: BinaryOp::Power } => 32,
        Op::Binary { function: BinaryOp::Divide | BinaryOp::Remainder } => 2,
        Op::RngBits { .. } => 64,
        _ => 1,
    }
}

/// A register never holds a byte.
fn register_type(dtype: DType) -> DType {
    if dtype == DType::U8 { DType::U32 } else { dtype }
}

fn union<T: Copy + Ord>(into: &mut Vec<T>, more: &[T]) {
    into.extend_from_slice(more);
    into.sort_unstable();
    into.dedup();
}

fn dense_view(buffer: BufferId, offset: usize, shape: &[usize]) -> View {
    let strides = strides_of(shape).into_iter().zip(shape).map(|(stride, &size)| if size <= 1 { 0 } else { stride as isize }).collect();
    View { buffer, offset, strides }
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph, fuse: bool) -> Fuser<'a> {
        let count = graph.nodes.len();
        let mut fuser = Fuser {
            graph,
            fuse,
            demand: vec![Demand::default(); count],
            readers: vec![Vec::new(); count],
            homes: vec![None; count],
            summaries: vec![None; count],
            fused: Fused::default(),
            kernels: Vec::new(),
            levels: Vec::new(),
            writers: Vec::new(),
            clusters: HashMap::new(),
            copies: HashMap::new(),
            update_of: HashMap::new(),
            scalars: None,
            attended: HashMap::new(),
        };
        fuser.collect_demand();
        fuser.declare_leaves();
        fuser
    }

    fn collect_demand(&mut self) {
        let graph = self.graph;
        for root in graph.outputs.iter().map(|output| output.node).chain(graph.updates.iter().map(|update| update.node)) {
            let demand = &mut self.demand[root.index()];
            (demand.live, demand.buffer) = (true, true);
            demand.readers += 1;
        }
        for id in graph.ids().rev() {
            let own = self.demand[id.index()];
            if !own.live {
                continue;
            }
            let node = graph.node(id);
            let reads_values = is_elementwise(&node.op) || matches!(node.op, Op::Reduce { .. } | Op::Concatenate { .. } | Op::Pad { .. });
            for (position, &input) in node.inputs.iter().enumerate() {
                let demand = &mut self.demand[input.index()];
                demand.live = true;
                if is_movement(&node.op) {
                    let grows = node.ty.element_count() > graph.ty(input).element_count();
                    demand.buffer |= own.buffer;
                    demand.expanded |= own.expanded || grows;
                    demand.readers += own.readers;
                } else if !node.inputs[..position].contains(&input) {
                    demand.buffer |= !reads_values;
                    demand.readers += 1;
                }
                // The padding value and a seed stand for many elements.
                let is_scalar_operand = matches!((&node.op, position), (Op::Pad { .. }, 1) | (Op::RngBits { .. }, _));
                demand.expanded |= is_scalar_operand && node.ty.element_count() > 1;
                if !self.readers[input.index()].contains(&id) || self.readers[input.index()].len() > 8 {
                    self.readers[input.index()].push(id);
                }
            }
        }
    }

    fn declare_leaves(&mut self) {
        let graph = self.graph;
        let updated: HashSet<&str> = graph.updates.iter().map(|update| update.state.as_str()).collect();
        for (id, parameter, ty) in graph.parameters() {
            let is_written = updated.contains(parameter.name.as_str());
            if !self.demand[id.index()].live && !is_written {
                continue;
            }
            let (name, ty) = (parameter.name.clone(), ty.clone());
            match parameter.role {
                Role::Scalar => {
                    let buffer = match self.scalars {
                        Some(buffer) => buffer,
                        None => self.new_buffer(BufferKind::Scalars, DType::U32, 0),
                    };
                    self.scalars = Some(buffer);
                    let offset = self.fused.scalars.len();
                    self.homes[id.index()] = Some(Home { buffer, offset });
                    self.fused.scalars.push(ScalarPort { name, dtype: ty.dtype });
                    self.fused.buffers[buffer.index()].elements = offset + 1;
                }
                Role::Input => {
                    let buffer = self.new_buffer(BufferKind::Input(self.fused.inputs.len()), ty.dtype, ty.element_count());
                    self.homes[id.index()] = Some(Home { buffer, offset: 0 });
                    self.fused.inputs.push(Port { name, ty, buffer });
                }
                role => {
                    let buffer = self.new_buffer(BufferKind::State(name.clone()), ty.dtype, ty.element_count());
                    self.homes[id.index()] = Some(Home { buffer, offset: 0 });
                    self.fused.states.push(StatePort { name, ty, role, buffer, is_written: false });
                }
            }
        }
        for update in &graph.updates {
            let state = graph.parameter(&update.state).and_then(|id| self.homes[id.index()]).expect("an updated state has a buffer");
            self.update_of.entry(update.node).or_insert(state.buffer);
        }
    }

    fn new_buffer(&mut self, kind: BufferKind, dtype: DType, elements: usize) -> BufferId {
        self.fused.buffers.push(Buffer { kind, dtype, elements, is_half: false });
        self.levels.push(0);
        self.writers.push(None);
        BufferId(self.fused.buffers.len() as u32 - 1)
    }

    fn new_scratch(&mut self, dtype: DType, elements: usize) -> BufferId {
        self.new_buffer(BufferKind::Scratch { slot: usize::MAX }, dtype, elements)
    }

    /// Decides a live node. Its inputs have been visited.
    fn visit(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        match &node.op {
            Op::Parameter(_) => {}
            Op::Constant { value } => {
                if value.splat_value().is_none() {
                    let buffer = self.new_buffer(BufferKind::Constant(value.clone()), value.ty.dtype, value.ty.element_count());
                    self.homes[id.index()] = Some(Home { buffer, offset: 0 });
                }
            }
            op if is_movement(op) => {}
            // Named when the node with several results was visited.
            Op::Result { .. } => {}
            Op::Convert { .. } if self.takes_widened_gather(id) => {}
            op if is_elementwise(op) => {
                self.summarise(id);
                if self.wants_buffer(id) {
                    self.materialise(id);
                }
            }
            _ => self.emit_kernel(id),
        }
    }

    /// The one type that all readers convert a gather of bytes to; `None` when there is no such type.
    fn widened_type(&self, id: NodeId) -> Option<DType> {
        let node = self.graph.node(id);
        // Only a state holds bytes: a gather from a gather reads words.
        if node.ty.dtype != DType::U8 || !matches!(self.graph.node(*node.inputs.first()?).op, Op::Parameter(_)) {
            return None;
        }
        let mut roots = self.graph.outputs.iter().map(|output| output.node).chain(self.graph.updates.iter().map(|update| update.node));
        if roots.any(|root| root == id) {
            return None;
        }
        let mut types = self.readers[id.index()].iter().map(|reader| match &self.graph.node(*reader).op {
            Op::Convert { to } => Some(*to),
            _ => None,
        });
        let first = types.next()??;
        types.all(|dtype| dtype == Some(first)).then_some(first)
    }

    fn takes_widened_gather(&mut self, id: NodeId) -> bool {
        let input = self.graph.node(id).inputs[0];
        let is_widened = matches!(self.graph.node(input).op, Op::Gather { .. }) && self.widened_type(input).is_some();
        if is_widened {
            self.homes[id.index()] = self.homes[input.index()];
        }
        is_widened
    }

    /// The node behind a chain of movement ops, or the first of them that is materialised.
    fn base(&self, mut id: NodeId) -> NodeId {
        while self.homes[id.index()].is_none() && is_movement(&self.graph.node(id).op) {
            id = self.graph.node(id).inputs[0];
        }
        id
    }

    fn summary(&self, id: NodeId) -> Rc<Summary> {
        let base = self.base(id);
        if let Some(home) = self.homes[base.index()] {
            return Rc::new(Summary { loads: vec![home.buffer], ..Summary::default() });
        }
        self.summaries[base.index()].clone().unwrap_or_default()
    }

    /// Works out what writing `id` into a body brings along, after materialising operands until that is within the limits.
    fn summarise(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let summary = loop {
            let operands: Vec<(NodeId, Rc<Summary>)> = node.inputs.iter().map(|&input| (self.base(input), self.summary(input))).collect();
            let mut whole = Summary { loads: Vec::new(), nodes: vec![id], cost: cost_of(&node.op) };
            for (position, (base, summary)) in operands.iter().enumerate() {
                if operands[..position].iter().any(|(other, _)| other == base) {
                    continue;
                }
                union(&mut whole.loads, &summary.loads);
                union(&mut whole.nodes, &summary.nodes);
                whole.cost += summary.cost;
            }
            if whole.loads.len() < BUFFERS_PER_KERNEL && whole.nodes.len() <= NODES_PER_VALUE {
                break whole;
            }
            let largest = operands
                .iter()
                .filter(|(base, _)| self.homes[base.index()].is_none())
                .max_by_key(|(_, summary)| (summary.loads.len(), summary.nodes.len()));
            let (largest, _) = largest.expect("a node over the limits has an operand that is not materialised");
            self.materialise(*largest);
        };
        self.summaries[id.index()] = Some(Rc::new(summary));
    }

    fn wants_buffer(&self, id: NodeId) -> bool {
        let demand = self.demand[id.index()];
        if demand.buffer || !self.fuse {
            return true;
        }
        let summary = self.summary(id);
        if demand.expanded && !(summary.loads.is_empty() && summary.cost <= 2) {
            return true;
        }
        let elements = self.graph.ty(id).element_count();
        let is_full = |buffer: &&BufferId| self.fused.buffers[buffer.index()].elements * 4 >= elements.max(4);
        let full_loads = summary.loads.iter().filter(is_full).count();
        // Recomputing costs the loads and the operations again, keeping costs a store and a load for each reader.
        let is_cheap = match (full_loads, demand.readers) {
            (_, 0 | 1) => true,
            (0, _) => summary.cost <= 128,
            (1, 2) => summary.cost <= 12,
            (1, _) => summary.cost <= 4,
            _ => false,
        };
        !is_cheap
    }

    // -----------------------------------------------------------------------------------------------------------------------------------------------
    // Writing values into bodies

    /// Value of `id` at the index that map number `map` of the builder gives.
    fn emit(&mut self, builder: &mut Builder, id: NodeId, map: usize) -> Register {
        if let Some(register) = builder.values.get(&(id, map)) {
            return *register;
        }
        let register = match self.homes[id.index()] {
            Some(home) => self.emit_load(builder, id, home, map),
            None => self.emit_op(builder, id, map),
        };
        builder.values.insert((id, map), register);
        register
    }

    fn emit_load(&mut self, builder: &mut Builder, id: NodeId, home: Home, map: usize) -> Register {
        let ty = self.graph.ty(id);
        let position = linear(&ty.shape, &builder.maps[map], &builder.shape);
        let view = View { buffer: home.buffer, offset: home.offset + position.offset as usize, strides: position.strides };
        // A gather of bytes is kept widened, a byte of a state loads as u32.
        builder.load(view, register_type(ty.dtype))
    }

    fn emit_op(&mut self, builder: &mut Builder, id: NodeId, map: usize) -> Register {
        let node = self.graph.node(id);
        if let Some(value) = splat(node) {
            return builder.push(Instruction::Constant(value), register_type(node.ty.dtype));
        }
        if is_movement(&node.op) {
            let moved = through_movement(self.graph, node, &builder.maps[map], &builder.shape);
            if let Some(moved) = moved {
                let moved = builder.map_index(moved);
                return self.emit(builder, node.inputs[0], moved);
            }
            return self.emit_dense_reshape(builder, id, map);
        }
        let dtype = register_type(node.ty.dtype);
        match &node.op {
            Op::Iota { axis } => {
                let index = builder.maps[map][*axis].clone();
                return builder.affine(&index, dtype);
            }
            Op::RngBits { stream } => {
                let scalar = builder.map_index(Vec::new());
                let seed = self.emit(builder, node.inputs[0], scalar);
                let step = self.emit(builder, node.inputs[1], scalar);
                let element = if map == 0 && node.ty.shape == builder.shape {
                    builder.push(Instruction::LinearIndex, DType::U32)
                } else {
                    let position = linear(&node.ty.shape, &builder.maps[map], &builder.shape);
                    builder.affine(&position, DType::U32)
                };
                return builder.push(Instruction::Random { seed, step, element, stream: *stream }, dtype);
            }
            _ => {}
        }
        let operands: Vec<Register> = node.inputs.iter().map(|&input| self.emit(builder, input, map)).collect();
        let instruction = match (&node.op, &operands[..]) {
            (Op::Unary { function }, [x]) => Instruction::Unary(*function, *x),
            (Op::Binary { function }, [x, y]) => Instruction::Binary(*function, *x, *y),
            (Op::Compare { direction }, [x, y]) => Instruction::Compare(*direction, *x, *y),
            (Op::Select, [predicate, on_true, on_false]) => Instruction::Select(*predicate, *on_true, *on_false),
            (Op::Convert { .. }, [x]) if builder.body.types[usize::from(x.0)] == dtype => return *x,
            (Op::Convert { .. }, [x]) => Instruction::Convert(*x),
            (Op::BitcastConvert { .. }, [x]) => Instruction::Bitcast(*x),
            (op, _) => panic!("`{}` is materialised before it is read", op.name()),
        };
        builder.push(instruction, dtype)
    }

    /// A reshape whose map cannot be carried through: its operand is made dense, where a reshape changes nothing.
    fn emit_dense_reshape(&mut self, builder: &mut Builder, id: NodeId, map: usize) -> Register {
        let input = self.behind_reshapes(self.graph.node(id).inputs[0]);
        let home = self.materialise(input);
        self.emit_load(builder, id, home, map)
    }

    // -----------------------------------------------------------------------------------------------------------------------------------------------
    // Materialising

    /// Gives `id` memory, dense and row-major.
    fn materialise(&mut self, id: NodeId) -> Home {
        if let Some(home) = self.homes[id.index()] {
            return home;
        }
        let node = self.graph.node(id);
        let dtype = register_type(node.ty.dtype);
        if node.ty.element_count() == 0 {
            let home = Home { buffer: self.new_scratch(dtype, 0), offset: 0 };
            self.homes[id.index()] = Some(home);
            return home;
        }
        let mut builder;
        let value = loop {
            builder = Builder::new(&node.ty.shape);
            let value = self.emit_op(&mut builder, id, 0);
            let buffers: HashSet<BufferId> = builder.body.loads.iter().map(|view| view.buffer).collect();
            // Operands that were materialised after they were summarised may have added a buffer.
            let operand = node
                .inputs
                .iter()
                .map(|&input| self.base(input))
                .filter(|base| self.homes[base.index()].is_none() && is_elementwise(&self.graph.node(*base).op));
            let operand = operand.max_by_key(|base| self.summary(*base).nodes.len());
            match operand {
                Some(operand) if buffers.len() >= BUFFERS_PER_KERNEL => self.materialise(operand),
                _ => break value,
            };
        };
        let is_packable = node.ty.element_count() == 1 && !self.demand[id.index()].buffer;
        let replaces = self.update_of.get(&id).copied();
        let home = self.place(builder, value, id, dtype, is_packable, replaces);
        self.homes[id.index()] = Some(home);
        home
    }

    /// A dense copy of `id` in the order of `map` over `shape`.
    fn materialise_map(&mut self, id: NodeId, shape: &[usize], map: IndexMap) -> BufferId {
        if let Some(buffer) = self.copies.get(&(id, map.clone())) {
            return *buffer;
        }
        let dtype = register_type(self.graph.ty(id).dtype);
        let buffer = if element_count(shape) == 0 {
            self.new_scratch(dtype, 0)
        } else {
            let mut builder = Builder::new(shape);
            let index = builder.map_index(map.clone());
            let value = self.emit(&mut builder, id, index);
            self.place(builder, value, id, dtype, false, None).buffer
        };
        self.copies.insert((id, map), buffer);
        buffer
    }

    /// Adds a store of `value` to a kernel that it may join, or to a new one.
    fn place(
        &mut self,
        builder: Builder,
        value: Register,
        id: NodeId,
        dtype: DType,
        is_packable: bool,
        replaces: Option<BufferId>,
    ) -> Home {
        let level = 1 + builder.body.loads.iter().map(|view| self.levels[view.buffer.index()]).max().unwrap_or(0);
        let shape = builder.shape.clone();
        let joined = if self.fuse { self.cluster_to_join(&builder, level, replaces) } else { None };
        let (index, value) = match joined {
            Some(index) => {
                let Proto::Map(cluster) = &mut self.kernels[index].proto else { unreachable!("only maps are joined") };
                let Cluster { builder: target, written, .. } = &mut **cluster;
                let registers = target.absorb(&builder.body, written);
                (index, registers[usize::from(value.0)])
            }
            None => {
                let node = self.graph.node(id);
                let cluster =
                    Cluster { builder, stores: Vec::new(), written: HashMap::new(), packed: HashMap::new(), buffers: HashSet::new() };
                let label = label_of(node);
                self.kernels.push(ProtoKernel { proto: Proto::Map(Box::new(cluster)), level, label, location: node.location.clone() });
                let index = self.kernels.len() - 1;
                self.clusters.entry((level, shape.clone())).or_default().push(index);
                (index, value)
            }
        };
        let level = self.kernels[index].level;
        let Proto::Map(cluster) = &self.kernels[index].proto else { unreachable!("only maps are joined") };
        let packed = if is_packable { cluster.packed.get(&dtype).copied() } else { None };
        let home = match packed {
            Some(buffer) => {
                let offset = self.fused.buffers[buffer.index()].elements;
                self.fused.buffers[buffer.index()].elements += 1;
                Home { buffer, offset }
            }
            None => Home { buffer: self.new_scratch(dtype, element_count(&shape)), offset: 0 },
        };
        self.levels[home.buffer.index()] = level;
        self.writers[home.buffer.index()] = Some(index);
        let Proto::Map(cluster) = &mut self.kernels[index].proto else { unreachable!("only maps are joined") };
        if is_packable {
            cluster.packed.insert(dtype, home.buffer);
        }
        let to = dense_view(home.buffer, home.offset, &shape);
        cluster.stores.push((value, to.clone()));
        cluster.written.insert(to, value);
        cluster.buffers.insert(replaces.unwrap_or(home.buffer));
        cluster.buffers.extend(cluster.builder.body.loads.iter().map(|view| view.buffer));
        home
    }

    /// A kernel of the same shape that the body may become part of: one that it reads from, or one beside it that loads the same.
    fn cluster_to_join(&self, builder: &Builder, level: u32, replaces: Option<BufferId>) -> Option<usize> {
        let loads = &builder.body.loads;
        let above =
            loads.iter().filter(|view| self.levels[view.buffer.index()] + 1 == level).filter_map(|view| self.writers[view.buffer.index()]);
        let is_small = element_count(&builder.shape) <= SMALL_KERNEL_ELEMENTS;
        let shares = |index: usize| {
            let Proto::Map(cluster) = &self.kernels[index].proto else { return false };
            let is_whole = |view: &&View| self.fused.buffers[view.buffer.index()].elements > 1;
            is_small || loads.iter().filter(is_whole).any(|view| cluster.buffers.contains(&view.buffer))
        };
        let beside =
            self.clusters.get(&(level, builder.shape.clone())).into_iter().flatten().rev().take(8).copied().filter(|index| shares(*index));
        above.chain(beside).find(|index| self.may_join(builder, *index, replaces))
    }

    fn may_join(&self, builder: &Builder, index: usize, replaces: Option<BufferId>) -> bool {
        let kernel = &self.kernels[index];
        let Proto::Map(cluster) = &kernel.proto else { return false };
        if cluster.builder.shape != builder.shape || cluster.builder.body.code.len() + builder.body.code.len() > INSTRUCTIONS_PER_KERNEL {
            return false;
        }
        let mut buffers = cluster.buffers.clone();
        for view in &builder.body.loads {
            if self.writers[view.buffer.index()] == Some(index) {
                // Another element of what the kernel itself writes is not there yet.
                if !cluster.written.contains_key(view) {
                    return false;
                }
            } else if self.levels[view.buffer.index()] >= kernel.level {
                return false;
            } else {
                buffers.insert(view.buffer);
            }
        }
        let stored = usize::from(replaces.is_none_or(|buffer| !buffers.contains(&buffer)));
        buffers.len() + stored <= BUFFERS_PER_KERNEL
    }

    // -----------------------------------------------------------------------------------------------------------------------------------------------
    // Operands of kernels that read memory

    /// A view on memory that holds `id` at the index `map` over the iteration space `shape`. Materialises what is not there.
    fn address(&mut self, id: NodeId, shape: &[usize], map: IndexMap) -> View {
        let mut at = id;
        let mut at_map = map.clone();
        loop {
            if let Some(home) = self.homes[at.index()] {
                let position = linear(&self.graph.ty(at).shape, &at_map, shape);
                return View { buffer: home.buffer, offset: home.offset + position.offset as usize, strides: position.strides };
            }
            let node = self.graph.node(at);
            if !is_movement(&node.op) {
                if splat(node).is_none() {
                    self.materialise(at);
                    continue;
                }
                break;
            }
            if let Some(moved) = through_movement(self.graph, node, &at_map, shape) {
                (at, at_map) = (node.inputs[0], moved);
                continue;
            }
            let input = self.behind_reshapes(node.inputs[0]);
            let home = self.materialise(input);
            let position = linear(&node.ty.shape, &at_map, shape);
            return View { buffer: home.buffer, offset: home.offset + position.offset as usize, strides: position.strides };
        }
        let buffer = self.materialise_map(id, shape, map);
        dense_view(buffer, 0, shape)
    }

    /// A buffer that holds `id` and nothing else, dense and row-major.
    fn dense(&mut self, id: NodeId) -> BufferId {
        let ty = self.graph.ty(id);
        let view = self.address(id, &ty.shape, identity(&ty.shape));
        if ty.element_count() == 0
            || (view == dense_view(view.buffer, 0, &ty.shape) && self.fused.buffers[view.buffer.index()].elements == ty.element_count())
        {
            return view.buffer;
        }
        self.materialise_map(id, &ty.shape, identity(&ty.shape))
    }

    fn scalar(&mut self, id: NodeId) -> (BufferId, usize) {
        let view = self.address(id, &[], Vec::new());
        (view.buffer, view.offset)
    }

    /// One operand of a dot as a matrix per batch index, or `None` when its row or inner axes do not walk as one.
    fn matrix(&mut self, id: NodeId, batch: &[usize], rows: &[usize], columns: &[usize]) -> MatrixView {
        let ty = self.graph.ty(id).clone();
        let order: Vec<usize> = batch.iter().chain(rows).chain(columns).copied().collect();
        let shape: Vec<usize> = order.iter().map(|&axis| ty.shape[axis]).collect();
        let mut map = vec![Affine::constant(0, order.len()); order.len()];
        let unit = identity(&shape);
        order.iter().enumerate().for_each(|(place, &axis)| map[axis] = unit[place].clone());
        let view = self.address(id, &shape, map.clone());
        let matrix_of = |view: &View| {
            let (row_start, column_start) = (batch.len(), batch.len() + rows.len());
            Some(MatrixView {
                buffer: view.buffer,
                offset: view.offset,
                batch_strides: view.strides[..row_start].to_vec(),
                row_stride: merged_stride(&shape[row_start..column_start], &view.strides[row_start..column_start])?,
                column_stride: merged_stride(&shape[column_start..], &view.strides[column_start..])?,
            })
        };
        if let Some(matrix) = matrix_of(&view) {
            return matrix;
        }
        let buffer = self.materialise_map(id, &shape, map);
        matrix_of(&dense_view(buffer, 0, &shape)).expect("the axes of a dense tensor walk as one")
    }

    // -----------------------------------------------------------------------------------------------------------------------------------------------
    // Kernels that are not maps

    fn push_kernel(&mut self, id: NodeId, op: KernelOp) {
        let level = 1 + op.reads().iter().map(|buffer| self.levels[buffer.index()]).max().unwrap_or(0);
        for buffer in op.writes() {
            self.levels[buffer.index()] = self.levels[buffer.index()].max(level);
            self.writers[buffer.index()] = Some(self.kernels.len());
        }
        let node = self.graph.node(id);
        self.kernels.push(ProtoKernel { proto: Proto::Other(op), level, label: label_of(node), location: node.location.clone() });
    }

    fn emit_kernel(&mut self, id: NodeId) {
        let graph = self.graph;
        let node = graph.node(id);
        if let Some(attention) = Attention::of(graph, node) {
            return self.attention(id, attention);
        }
        let inputs = &node.inputs;
        let shape_of = |position: usize| graph.ty(inputs[position]).shape.clone();
        let to_dtype = match (node.ty.dtype, self.widened_type(id)) {
            (_, Some(dtype)) => dtype,
            (DType::U8, None) => DType::U32,
            (dtype, None) => dtype,
        };
        let to = self.new_scratch(to_dtype, node.ty.element_count());
        self.homes[id.index()] = Some(Home { buffer: to, offset: 0 });
        if node.ty.element_count() == 0 {
            return;
        }
        let op = match &node.op {
            Op::Reduce { kind, axes } => self.reduce(id, *kind, axes, to),
            Op::ReduceArg { kind, axis } => {
                let shape = shape_of(0);
                KernelOp::ReduceArg {
                    kind: *kind,
                    outer: element_count(&shape[..*axis]),
                    n: shape[*axis],
                    inner: element_count(&shape[*axis + 1..]),
                    from: self.dense(inputs[0]),
                    dtype: graph.ty(inputs[0]).dtype,
                    to,
                }
            }
            Op::DotGeneral { dims } => self.dot(id, dims, to),
            Op::Convolution { geometry } => KernelOp::Convolution {
                form: ConvolutionForm::Forward,
                geometry: geometry.clone(),
                x_shape: shape_of(0),
                weight_shape: shape_of(1),
                out_shape: node.ty.shape.clone(),
                from: [self.dense(inputs[0]), self.dense(inputs[1])],
                to,
                epilogue: None,
            },
            Op::ConvolutionInputGrad { geometry, .. } => KernelOp::Convolution {
                form: ConvolutionForm::InputGrad,
                geometry: geometry.clone(),
                x_shape: node.ty.shape.clone(),
                weight_shape: shape_of(1),
                out_shape: shape_of(0),
                from: [self.dense(inputs[0]), self.dense(inputs[1])],
                to,
                epilogue: None,
            },
            Op::ConvolutionWeightGrad { geometry, .. } => KernelOp::Convolution {
                form: ConvolutionForm::WeightGrad,
                geometry: geometry.clone(),
                x_shape: shape_of(0),
                weight_shape: node.ty.shape.clone(),
                out_shape: shape_of(1),
                from: [self.dense(inputs[0]), self.dense(inputs[1])],
                to,
                epilogue: None,
            },
            Op::ReduceWindow { kind, window } => KernelOp::ReduceWindow {
                kind: *kind,
                window: window.clone(),
                from_shape: shape_of(0),
                to_shape: node.ty.shape.clone(),
                from: self.dense(inputs[0]),
                to,
            },
            Op::SelectAndScatter { kind, window } => KernelOp::SelectAndScatter {
                kind: *kind,
                window: window.clone(),
                x_shape: shape_of(0),
                windows_shape: shape_of(1),
                x: self.dense(inputs[0]),
                grad: self.dense(inputs[1]),
                to,
            },
            Op::Gather { axis, batch_dims } => {
                let shape = shape_of(0);
                let from = self.dense(inputs[0]);
                KernelOp::Gather {
                    batch: element_count(&shape[..*batch_dims]),
                    outer: element_count(&shape[*batch_dims..*axis]),
                    n: shape[*axis],
                    index_count: element_count(&shape_of(1)[*batch_dims..]),
                    inner: element_count(&shape[*axis + 1..]),
                    from,
                    from_dtype: self.fused.buffers[from.index()].dtype,
                    indices: self.dense(inputs[1]),
                    indices_unsigned: graph.ty(inputs[1]).dtype == DType::U32,
                    to,
                    to_dtype,
                }
            }
            Op::Scatter { axis, batch_dims, mode } => self.scatter(id, *axis, *batch_dims, *mode, to),
            Op::DynamicSlice { sizes } => KernelOp::DynamicSlice {
                from_shape: shape_of(0),
                sizes: sizes.clone(),
                from: self.dense(inputs[0]),
                starts: inputs[1..].iter().map(|&start| self.scalar(start)).collect(),
                to,
            },
            Op::DynamicUpdateSlice => KernelOp::DynamicUpdateSlice {
                from_shape: shape_of(0),
                block_shape: shape_of(1),
                from: self.dense(inputs[0]),
                block: self.dense(inputs[1]),
                starts: inputs[2..].iter().map(|&start| self.scalar(start)).collect(),
                to,
            },
            Op::Concatenate { axis } => return self.concatenate(id, *axis, to),
            Op::Pad { low, interior, .. } => return self.pad(id, low, interior, to),
            op => panic!("`{}` is gone after lowering", op.name()),
        };
        self.push_kernel(id, op);
    }

    fn reduce(&mut self, id: NodeId, kind: ReduceKind, axes: &[usize], to: BufferId) -> KernelOp {
        let input = self.graph.node(id).inputs[0];
        let shape = &self.graph.ty(input).shape;
        let mut builder;
        let value = loop {
            builder = Builder::new(shape);
            let value = self.emit(&mut builder, input, 0);
            let buffers: HashSet<BufferId> = builder.body.loads.iter().map(|view| view.buffer).collect();
            if buffers.len() < BUFFERS_PER_KERNEL {
                break value;
            }
            let base = self.base(input);
            self.materialise(base);
        };
        let views: Vec<&View> = builder.body.loads.iter().collect();
        // LinearIndex counts in the whole shape, which merging axes does not change.
        let (sizes, groups) = collapse(shape, &views, &builder.body, &|axis| axes.contains(&axis));
        let reduced = (0..groups.len()).filter(|group| axes.contains(&groups[*group][0])).collect();
        KernelOp::Reduce { shape: sizes, axes: reduced, kind, body: collapse_body(&builder.body, &groups), value, to, to_offset: 0 }
    }

    fn dot(&mut self, id: NodeId, dims: &DotDims, to: BufferId) -> KernelOp {
        let graph = self.graph;
        let [lhs, rhs] = graph.node(id).inputs[..] else { unreachable!("a dot has two operands") };
        let (lhs_shape, rhs_shape) = (&graph.ty(lhs).shape, &graph.ty(rhs).shape);
        let lhs_free = DotDims::free(lhs_shape.len(), &dims.lhs_batch, &dims.lhs_contract);
        let rhs_free = DotDims::free(rhs_shape.len(), &dims.rhs_batch, &dims.rhs_contract);
        let product = |shape: &[usize], axes: &[usize]| axes.iter().map(|&axis| shape[axis]).product();
        KernelOp::Dot {
            batch: dims.lhs_batch.iter().map(|&axis| lhs_shape[axis]).collect(),
            rows: product(lhs_shape, &lhs_free),
            columns: product(rhs_shape, &rhs_free),
            inner: product(lhs_shape, &dims.lhs_contract),
            lhs: self.matrix(lhs, &dims.lhs_batch, &lhs_free, &dims.lhs_contract),
            rhs: self.matrix(rhs, &dims.rhs_batch, &dims.rhs_contract, &rhs_free),
            to,
            epilogue: None,
        }
    }

    fn attention(&mut self, id: NodeId, attention: Attention) {
        let inputs = &self.graph.node(id).inputs;
        let Attention { is_gradient, batch, queries, keys, dim, width, causal, scale } = attention;
        let rank = batch.len() + 2;
        let leading: Vec<usize> = (0..rank - 2).collect();
        let operand = |fuser: &mut Self, position: usize| fuser.matrix(inputs[position], &leading, &[rank - 2], &[rank - 1]);
        let qkv = Box::new([operand(self, 0), operand(self, 1), operand(self, 2)]);
        let kernel = |qkv, pass| KernelOp::Attention { batch: batch.clone(), queries, keys, dim, width, scale, causal, qkv, pass };
        let key = [inputs[0], inputs[1], inputs[2]];
        let log_sum_count = element_count(&batch) * queries;
        if !is_gradient {
            let to = self.result(id, 0);
            let is_differentiated = |reader: &NodeId| {
                let reader = self.graph.node(*reader);
                Attention::of(self.graph, reader).is_some_and(|other| other.is_gradient) && reader.inputs[..3] == key
            };
            let has_gradient = self.readers[key[0].index()].iter().any(is_differentiated);
            let log_sums = has_gradient.then(|| self.new_scratch(DType::F32, log_sum_count));
            if let Some(log_sums) = log_sums {
                self.attended.insert(key, (to.clone(), log_sums));
            }
            return self.push_kernel(id, kernel(qkv, AttentionPass::Forward { to, log_sums }));
        }
        let grad = operand(self, 3);
        let (result, log_sums) = self.attended.get(&key).cloned().unwrap_or_else(|| {
            // Nobody wanted the result itself: it is made for the gradient alone.
            let shape = [&batch[..], &[queries, width]].concat();
            let buffer = self.new_scratch(DType::F32, element_count(&shape));
            let view = dense_view(buffer, 0, &shape);
            let [batch_strides @ .., row_stride, column_stride] = &view.strides[..] else { unreachable!("a matrix has two axes") };
            let to = MatrixView {
                buffer,
                offset: 0,
                batch_strides: batch_strides.to_vec(),
                row_stride: *row_stride,
                column_stride: *column_stride,
            };
            let log_sums = self.new_scratch(DType::F32, log_sum_count);
            self.push_kernel(id, kernel(qkv.clone(), AttentionPass::Forward { to: to.clone(), log_sums: Some(log_sums) }));
            (to, log_sums)
        });
        let to = Box::new([0, 1, 2].map(|index| self.result(id, index)));
        self.push_kernel(id, kernel(qkv, AttentionPass::Gradient { result, log_sums, grad, to }));
    }

    /// Memory for result `index` of the node `id`, as a matrix of its last two axes. Where all that reads the result is one transposition, the memory is in the
    /// order of that.
    fn result(&mut self, id: NodeId, index: usize) -> MatrixView {
        let graph = self.graph;
        let is_result = |reader: &NodeId| matches!(graph.node(*reader).op, Op::Result { .. });
        let named = |reader: &&NodeId| matches!(graph.node(**reader).op, Op::Result { index: named } if named == index);
        let roots = graph.outputs.iter().map(|output| output.node).chain(graph.updates.iter().map(|update| update.node));
        let roots: HashSet<NodeId> = roots.collect();
        // Result 0 is the node itself.
        let value = if index == 0 { Some(id) } else { self.readers[id.index()].iter().find(named).copied() };
        let ty = &graph.result_types(id)[index];
        let buffer = self.new_scratch(ty.dtype, ty.element_count());
        let home = Home { buffer, offset: 0 };
        let mut strides: Vec<isize> = strides_of(&ty.shape).into_iter().map(|stride| stride as isize).collect();
        if let Some(value) = value {
            let readers: Vec<NodeId> = self.readers[value.index()].iter().filter(|reader| !is_result(reader)).copied().collect();
            match readers[..] {
                [reader] if !roots.contains(&value) && matches!(graph.node(reader).op, Op::Transpose { .. }) => {
                    let Op::Transpose { perm } = &graph.node(reader).op else { unreachable!("matched above") };
                    let transposed = strides_of(&graph.ty(reader).shape);
                    perm.iter().zip(transposed).for_each(|(&axis, stride)| strides[axis] = stride as isize);
                    self.homes[reader.index()] = Some(home);
                }
                _ => self.homes[value.index()] = Some(home),
            }
        }
        let [batch_strides @ .., row_stride, column_stride] = &strides[..] else { unreachable!("a matrix has two axes") };
        MatrixView { buffer, offset: 0, batch_strides: batch_strides.to_vec(), row_stride: *row_stride, column_stride: *column_stride }
    }

    fn scatter(&mut self, id: NodeId, axis: usize, batch_dims: usize, mode: ScatterMode, to: BufferId) -> KernelOp {
        let graph = self.graph;
        let [x, indices, updates] = graph.node(id).inputs[..] else { unreachable!("a scatter has three operands") };
        let shape = &graph.ty(x).shape;
        KernelOp::Scatter {
            mode,
            batch: element_count(&shape[..batch_dims]),
            outer: element_count(&shape[batch_dims..axis]),
            n: shape[axis],
            index_count: element_count(&graph.ty(indices).shape[batch_dims..]),
            inner: element_count(&shape[axis + 1..]),
            dtype: graph.ty(x).dtype,
            from: self.dense(x),
            indices: self.dense(indices),
            indices_unsigned: graph.ty(indices).dtype == DType::U32,
            updates: self.dense(updates),
            to,
        }
    }

    /// The node behind reshapes that have no memory.
    fn behind_reshapes(&self, mut id: NodeId) -> NodeId {
        while self.homes[id.index()].is_none() && matches!(self.graph.node(id).op, Op::Reshape { .. }) {
            id = self.graph.node(id).inputs[0];
        }
        id
    }

    /// One map a part, each with a strided store.
    fn concatenate(&mut self, id: NodeId, axis: usize, to: BufferId) {
        let node = self.graph.node(id);
        let strides: Vec<isize> = strides_of(&node.ty.shape).into_iter().map(|stride| stride as isize).collect();
        let mut start = 0;
        self.fused.unordered.insert(to);
        for &input in &node.inputs {
            let shape = &self.graph.ty(input).shape;
            if element_count(shape) > 0 {
                let offset = start * strides[axis] as usize;
                // In the axes from before a reshape: heads that are laid side by side are not copied first.
                let source = self.behind_reshapes(input);
                let is_once = node.inputs.iter().filter(|&&other| self.behind_reshapes(other) == source).count() == 1;
                let finer = &self.graph.ty(source).shape;
                match through_reshape(shape, finer, &identity(finer), finer) {
                    Some(place) => {
                        let of_axis = |from: usize| place.iter().zip(&strides).map(|(index, stride)| index.strides[from] * stride).sum();
                        let view = View { buffer: to, offset, strides: (0..finer.len()).map(of_axis).collect() };
                        if !(is_once && self.redirect(source, &view)) {
                            self.store_part(id, source, finer, identity(finer), view);
                        }
                    }
                    None => {
                        let view = View { buffer: to, offset, strides: strides.clone() };
                        self.store_part(id, input, shape, identity(shape), view);
                    }
                }
            }
            start += shape[axis];
        }
    }

    /// Lets the attention kernel that makes `id`, which nobody else reads, write it to where `view` has it; false where another kernel makes it.
    fn redirect(&mut self, id: NodeId, view: &View) -> bool {
        let (Some(home), 1) = (self.homes[id.index()], self.demand[id.index()].readers) else { return false };
        let Some(writer) = self.writers[home.buffer.index()] else { return false };
        let kernel = &mut self.kernels[writer];
        let Proto::Other(KernelOp::Attention { pass: AttentionPass::Gradient { to, .. }, .. }) = &mut kernel.proto else { return false };
        let Some(result) = to.iter_mut().find(|result| result.buffer == home.buffer) else { return false };
        // The buffer holds `id` densely: equal strides are the same axis.
        let shape = &self.graph.ty(id).shape;
        let dense = strides_of(shape);
        let moved = |stride: isize| {
            let axis = (0..shape.len()).find(|&axis| shape[axis] > 1 && dense[axis] as isize == stride);
            axis.map_or(0, |axis| view.strides[axis])
        };
        let batch_strides = result.batch_strides.iter().map(|&stride| moved(stride)).collect();
        let (row_stride, column_stride) = (moved(result.row_stride), moved(result.column_stride));
        *result = MatrixView { buffer: view.buffer, offset: view.offset, batch_strides, row_stride, column_stride };
        let level = kernel.level;
        self.levels[view.buffer.index()] = self.levels[view.buffer.index()].max(level);
        self.writers[view.buffer.index()] = Some(writer);
        self.fused.buffers[home.buffer.index()].elements = 0;
        true
    }

    /// A fill with the value, then a strided store of what is not cropped away.
    fn pad(&mut self, id: NodeId, low: &[i64], interior: &[usize], to: BufferId) {
        let node = self.graph.node(id);
        let shape = &node.ty.shape;
        let input_shape = &self.graph.ty(node.inputs[0]).shape;
        self.store_part(id, node.inputs[1], shape, Vec::new(), dense_view(to, 0, shape));
        // Elements of the input that are inside: 0 <= low + i * step < size.
        let mut first = Vec::new();
        let mut kept = Vec::new();
        for axis in 0..shape.len() {
            let step = interior[axis] as i64 + 1;
            let begin = (-low[axis]).max(0).div_euclid(step) + i64::from((-low[axis]).max(0).rem_euclid(step) != 0);
            let end = ((shape[axis] as i64 - low[axis]).max(0) + step - 1).div_euclid(step).min(input_shape[axis] as i64);
            first.push(begin);
            kept.push((end - begin).max(0) as usize);
        }
        if element_count(&kept) == 0 {
            return;
        }
        let strides = strides_of(shape);
        let mut map = identity(&kept);
        let mut view = View { buffer: to, offset: 0, strides: Vec::new() };
        for axis in 0..shape.len() {
            let step = interior[axis] as i64 + 1;
            map[axis].offset = first[axis] as isize;
            view.offset += (low[axis] + first[axis] * step) as usize * strides[axis];
            view.strides.push(strides[axis] as isize * step as isize);
        }
        self.store_part(id, node.inputs[0], &kept, map, view);
    }

    /// A map kernel of its own that stores `input` at `map` into a part of the buffer of `id`.
    fn store_part(&mut self, id: NodeId, input: NodeId, shape: &[usize], map: IndexMap, to: View) {
        let mut builder = Builder::new(shape);
        let index = builder.map_index(map);
        let value = self.emit(&mut builder, input, index);
        let body = builder.body;
        self.push_kernel(id, KernelOp::Map { shape: shape.to_vec(), body, stores: vec![Store { value, to }] });
    }

    // -----------------------------------------------------------------------------------------------------------------------------------------------
    // Results

    fn finish(mut self) -> Fused {
        let graph = self.graph;
        for output in &graph.outputs {
            let ty = graph.ty(output.node).clone();
            let kind = BufferKind::Output(self.fused.outputs.len());
            let from = self.dense(output.node);
            let is_free = matches!(self.fused.buffers[from.index()].kind, BufferKind::Scratch { .. });
            let same_type = self.fused.buffers[from.index()].dtype == ty.dtype;
            let buffer = if is_free && same_type {
                self.fused.buffers[from.index()].kind = kind;
                from
            } else {
                let to = self.new_buffer(kind, ty.dtype, ty.element_count());
                if ty.element_count() == 0 {
                } else if same_type {
                    self.push_kernel(output.node, KernelOp::Copy { from, to });
                } else {
                    // Bytes that were gathered stand in memory as words.
                    let shape = ty.shape.clone();
                    self.store_part(output.node, output.node, &shape, identity(&shape), dense_view(to, 0, &shape));
                }
                to
            };
            self.fused.outputs.push(Port { name: output.name.clone(), ty, buffer });
        }
        for update in &graph.updates {
            let parameter = graph.parameter(&update.state).expect("a verified update names a parameter");
            if self.base_of_copy(update.node) == parameter {
                continue;
            }
            let state = self.homes[parameter.index()].expect("a state has a buffer").buffer;
            let mut value = self.dense(update.node);
            // A value that stands in another state, an input or a constant is copied by a map, which may write in place.
            if !matches!(self.fused.buffers[value.index()].kind, BufferKind::Scratch { .. } | BufferKind::Output(_)) {
                let ty = graph.ty(update.node);
                value = self.materialise_map(update.node, &ty.shape, identity(&ty.shape));
            }
            self.fused.updates.push((state, value));
            let port = self.fused.states.iter_mut().find(|port| port.buffer == state).expect("a state has a port");
            port.is_written = true;
        }
        let kernels = std::mem::take(&mut self.kernels);
        self.fused.kernels = kernels.into_iter().map(finished_kernel).collect();
        self.fused
    }

    /// The node that `id` is a plain copy of.
    fn base_of_copy(&self, mut id: NodeId) -> NodeId {
        while matches!(self.graph.node(id).op, Op::StopGradient | Op::AllReduce { .. }) {
            id = self.graph.node(id).inputs[0];
        }
        id
    }
}

fn finished_kernel(kernel: ProtoKernel) -> Kernel {
    let op = match kernel.proto {
        Proto::Map(cluster) => {
            let stores: Vec<Store> = cluster.stores.into_iter().map(|(value, to)| Store { value, to }).collect();
            merge::lowest_rank(&cluster.builder.shape, &cluster.builder.body, &stores).into()
        }
        Proto::Other(KernelOp::Map { shape, body, stores }) => merge::lowest_rank(&shape, &body, &stores).into(),
        Proto::Other(op) => op,
    };
    Kernel { op, label: kernel.label, location: kernel.location }
}

/// Stride of axes that walk as one, innermost last; 0 for no axes.
fn merged_stride(shape: &[usize], strides: &[isize]) -> Option<isize> {
    let mut axes = shape.iter().zip(strides).filter(|(size, _)| **size != 1).rev();
    if shape.contains(&0) {
        return Some(0);
    }
    let Some((&size, &innermost)) = axes.next() else { return Some(0) };
    let mut reach = innermost * size as isize;
    for (&size, &stride) in axes {
        if stride != reach {
            return None;
        }
        reach *= size as isize;
    }
    Some(innermost)
}

fn label_of(node: &Node) -> String {
    let name = node.op.name();
    if node.scope.is_empty() { name } else { format!("{name} {}", node.scope) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_merge_only_without_gaps() {
        assert_eq!(merged_stride(&[2, 3], &[3, 1]), Some(1));
        assert_eq!(merged_stride(&[2, 3], &[4, 1]), None);
        assert_eq!(merged_stride(&[5, 1], &[7, 0]), Some(7));
    }
}
