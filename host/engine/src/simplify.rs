//! Simplification, value to value: dead nodes go, equal nodes become one, constants fold, identities vanish. Runs after `grad.rs`, whose rules rely on it.
//!
//! It does not fuse, choose layouts or change what is computed: a value before and after differs at most in the sign of a zero and in rounding that the
//! fold avoids (constants fold in f64). In particular `x * 0` stays, as it is not 0 for a NaN or an infinity.

use crate::reference::{Tensor, apply};
use solstice_ir::{BinaryOp, DType, Graph, Literal, Node, NodeId, Op, ReduceKind, TensorType, UnaryOp, element_count};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The simplified graph of a run of one process, where an `AllReduce` is the identity. See [`simplify_for_processes`].
pub fn simplify(graph: &Graph) -> Graph {
    simplify_for_processes(graph, 1)
}

/// The simplified graph of a run of `process_count` processes: same outputs and updates, at most as many nodes.
///
/// A parameter stays when something reads or updates it. The bodies of composites are left as they are. A graph that still has `Grad` nodes only loses
/// its dead ones: merging two equal values would merge their gradients.
/// Cost: linear in the nodes.
pub fn simplify_for_processes(graph: &Graph, process_count: usize) -> Graph {
    let graph = remove_dead_code(graph);
    if graph.nodes.iter().any(|node| matches!(node.op, Op::Grad)) {
        return graph;
    }
    let mut builder = Builder { graph: Graph::new(graph.name), equal: HashMap::new(), process_count };
    let mut values: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for mut node in graph.nodes {
        node.inputs.iter_mut().for_each(|input| *input = values[input.index()]);
        values.push(builder.emit(node));
    }
    let mut result = builder.graph;
    result.outputs = graph.outputs;
    result.updates = graph.updates;
    result.outputs.iter_mut().for_each(|output| output.node = values[output.node.index()]);
    result.updates.iter_mut().for_each(|update| update.node = values[update.node.index()]);
    remove_dead_code(&result)
}

/// The graph without the nodes that no output and no update depends on.
pub fn remove_dead_code(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.nodes.len()];
    graph.outputs.iter().for_each(|output| live[output.node.index()] = true);
    graph.updates.iter().for_each(|update| live[update.node.index()] = true);
    if !graph.updates.is_empty() {
        // An update names a parameter of the graph, which has to be there even if nothing reads it.
        let updated: std::collections::HashSet<&str> = graph.updates.iter().map(|update| update.state.as_str()).collect();
        for (id, parameter, _) in graph.parameters() {
            live[id.index()] |= updated.contains(parameter.name.as_str());
        }
    }
    for index in (0..graph.nodes.len()).rev() {
        if live[index] {
            graph.nodes[index].inputs.iter().for_each(|input| live[input.index()] = true);
        }
    }
    let mut result = Graph::new(graph.name.clone());
    let mut values = vec![NodeId(0); graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| live[*index]) {
        let inputs = node.inputs.iter().map(|input| values[input.index()]).collect();
        values[index] = result.push_typed(node.op.clone(), inputs, node.ty.clone(), node.scope.clone(), node.location.clone());
    }
    result.outputs = graph.outputs.clone();
    result.updates = graph.updates.clone();
    result.outputs.iter_mut().for_each(|output| output.node = values[output.node.index()]);
    result.updates.iter_mut().for_each(|update| update.node = values[update.node.index()]);
    result
}

/// The graph as far as it is simplified, with its nodes by hash.
struct Builder {
    graph: Graph,
    /// Nodes of equal hash; those that are equal too stand for each other.
    equal: HashMap<u64, Vec<NodeId>>,
    process_count: usize,
}

/// What a node turns into. Its type stays the same.
enum Rewrite {
    /// Another node has the value already.
    Value(NodeId),
    /// The same value by another op, which may be rewritten again.
    Node(Op, Vec<NodeId>),
}

impl Builder {
    /// The node's value, by way of all rewrites; its inputs are nodes of `self.graph`.
    fn emit(&mut self, mut node: Node) -> NodeId {
        // Each rewrite leaves fewer or cheaper nodes, so this ends.
        while let Some(rewrite) = self.rewrite(&node) {
            match rewrite {
                Rewrite::Value(id) => {
                    debug_assert_eq!(*self.graph.ty(id), node.ty, "a rewrite of `{}` keeps the type", node.op.name());
                    return id;
                }
                Rewrite::Node(op, inputs) => (node.op, node.inputs) = (op, inputs),
            }
        }
        if let Some(id) = self.join_pads(&node) {
            return id;
        }
        let hash = hash_of(&node);
        let bucket = self.equal.entry(hash).or_default();
        if let Some(id) = bucket.iter().find(|id| is_same(self.graph.node(**id), &node)) {
            return *id;
        }
        let id = self.graph.push_typed(node.op, node.inputs, node.ty, node.scope, node.location);
        bucket.push(id);
        id
    }

    /// `pad(a) + pad(b) = pad(concatenate(a, b))`, where the zeros of each stand where the other is, side by side: gradients of the slices of one tensor.
    fn join_pads(&mut self, node: &Node) -> Option<NodeId> {
        if !matches!(node.op, Op::Binary { function: BinaryOp::Add }) {
            return None;
        }
        let rank = node.ty.rank();
        // What is padded, by how much before and after.
        let padded = |id: NodeId| match self.graph.node(id) {
            Node { op: Op::Pad { low, high, interior }, inputs, .. } => {
                let is_plain = interior.iter().all(|&between| between == 0) && low.iter().chain(high).all(|&size| size >= 0);
                (is_plain && self.splat(inputs[1]) == Some(0.0)).then(|| (inputs[0], inputs[1], low.clone(), high.clone()))
            }
            _ => None,
        };
        let (left, right) = (padded(node.inputs[0])?, padded(node.inputs[1])?);
        // The one axis along which they differ.
        let mut differing = (0..rank).filter(|&axis| left.2[axis] != right.2[axis] || left.3[axis] != right.3[axis]);
        let (axis, None) = (differing.next()?, differing.next()) else { return None };
        let (first, last) = if left.2[axis] < right.2[axis] { (left, right) } else { (right, left) };
        let size = |id: NodeId| self.graph.ty(id).shape[axis];
        if first.2[axis] as usize + size(first.0) != last.2[axis] as usize {
            return None;
        }
        let mut shape = self.graph.ty(first.0).shape.clone();
        shape[axis] += size(last.0);
        let ty = TensorType::new(node.ty.dtype, shape);
        let (low, mut high) = (first.2, first.3);
        high[axis] = last.3[axis];
        // A concatenation of what was joined before takes its parts.
        let mut parts = Vec::new();
        for part in [first.0, last.0] {
            match self.graph.node(part) {
                Node { op: Op::Concatenate { axis: inner }, inputs, .. } if *inner == axis => parts.extend(inputs),
                _ => parts.push(part),
            }
        }
        let (scope, location) = (node.scope.clone(), node.location.clone());
        let whole = self.emit(Node { op: Op::Concatenate { axis }, inputs: parts, ty, scope: scope.clone(), location: location.clone() });
        if low.iter().chain(&high).all(|&size| size == 0) {
            return Some(whole);
        }
        let op = Op::Pad { low, high, interior: vec![0; rank] };
        Some(self.emit(Node { op, inputs: vec![whole, first.1], ty: node.ty.clone(), scope, location }))
    }

    fn rewrite(&self, node: &Node) -> Option<Rewrite> {
        self.fold(node).map(|value| Rewrite::Node(Op::Constant { value: Literal::splat(node.ty.clone(), value) }, vec![])).or_else(|| {
            match &node.op {
                Op::Unary { function } => self.rewrite_unary(*function, node.inputs[0]),
                Op::Binary { function } => self.rewrite_binary(*function, node.inputs[0], node.inputs[1], &node.ty),
                _ => self.rewrite_other(node),
            }
        })
    }

    /// The one value of all elements of `node`, if the inputs say so.
    fn fold(&self, node: &Node) -> Option<f64> {
        let inputs = &node.inputs;
        match &node.op {
            Op::Parameter(_) | Op::Constant { .. } | Op::Composite { .. } | Op::Grad => None,
            // No element, no computation.
            _ if node.ty.element_count() == 0 => Some(0.0),
            Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select | Op::Convert { .. } | Op::BitcastConvert { .. } => {
                let scalar = |input: &NodeId| {
                    let ty = TensorType::new(self.graph.ty(*input).dtype, []);
                    self.splat(*input).map(|value| Tensor::from_f64(&ty, &[value]))
                };
                let scalars: Vec<Tensor> = inputs.iter().map(scalar).collect::<Option<_>>()?;
                let result = apply(&node.op, &scalars.iter().collect::<Vec<_>>(), &TensorType::new(node.ty.dtype, []));
                let value = result.to_f64()[0];
                // The bits of a NaN would be lost in a literal.
                let nan_bits = value.is_nan() && matches!(node.op, Op::BitcastConvert { .. });
                (!nan_bits).then_some(value)
            }
            Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::BroadcastInDim { .. }
            | Op::Slice { .. }
            | Op::Reverse { .. }
            | Op::Gather { .. }
            | Op::DynamicSlice { .. } => self.splat(inputs[0]),
            Op::Pad { .. } | Op::Concatenate { .. } => {
                let first = self.splat(inputs[0])?;
                let same = |input: &NodeId| self.splat(*input).is_some_and(|value| value.to_bits() == first.to_bits());
                inputs.iter().all(same).then_some(first)
            }
            Op::Reduce { kind, axes } if node.ty.dtype.is_float() => {
                let value = self.splat(inputs[0])?;
                let shape = &self.graph.ty(inputs[0]).shape;
                let count: usize = axes.iter().map(|&axis| shape[axis]).product();
                match kind {
                    ReduceKind::Sum if count == 0 => Some(0.0),
                    ReduceKind::Sum => Some(value * count as f64),
                    ReduceKind::Max | ReduceKind::Min if count > 0 => Some(value),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn rewrite_unary(&self, function: UnaryOp, x: NodeId) -> Option<Rewrite> {
        let (inner, inner_inputs) = self.unary(x)?;
        match (function, inner) {
            // -(-x) = x, !!p = p
            (UnaryOp::Negate, UnaryOp::Negate) | (UnaryOp::Not, UnaryOp::Not) => Some(Rewrite::Value(inner_inputs)),
            // ||x|| = |x|
            (UnaryOp::Abs, UnaryOp::Abs) => Some(Rewrite::Value(x)),
            // |-x| = |x|
            (UnaryOp::Abs, UnaryOp::Negate) => Some(Rewrite::Node(Op::Unary { function }, vec![inner_inputs])),
            _ => None,
        }
    }

    fn rewrite_binary(&self, function: BinaryOp, x: NodeId, y: NodeId, ty: &TensorType) -> Option<Rewrite> {
        let is = |id: NodeId, value: f64| self.splat(id) == Some(value);
        let node = |function: BinaryOp, x: NodeId, y: NodeId| Some(Rewrite::Node(Op::Binary { function }, vec![x, y]));
        match function {
            BinaryOp::Add if is(y, 0.0) => Some(Rewrite::Value(x)),
            BinaryOp::Add if is(x, 0.0) => Some(Rewrite::Value(y)),
            // x + -y = x - y
            BinaryOp::Add if self.negated(y).is_some() => node(BinaryOp::Subtract, x, self.negated(y)?),
            BinaryOp::Add if self.negated(x).is_some() => node(BinaryOp::Subtract, y, self.negated(x)?),
            BinaryOp::Subtract if is(y, 0.0) => Some(Rewrite::Value(x)),
            // x - -y = x + y
            BinaryOp::Subtract if self.negated(y).is_some() => node(BinaryOp::Add, x, self.negated(y)?),
            BinaryOp::Multiply if is(y, 1.0) => Some(Rewrite::Value(x)),
            BinaryOp::Multiply if is(x, 1.0) => Some(Rewrite::Value(y)),
            BinaryOp::Multiply if is(y, -1.0) && ty.dtype.is_float() => {
                Some(Rewrite::Node(Op::Unary { function: UnaryOp::Negate }, vec![x]))
            }
            BinaryOp::Multiply if is(x, -1.0) && ty.dtype.is_float() => {
                Some(Rewrite::Node(Op::Unary { function: UnaryOp::Negate }, vec![y]))
            }
            BinaryOp::Divide if is(y, 1.0) => Some(Rewrite::Value(x)),
            BinaryOp::Power if is(y, 1.0) => Some(Rewrite::Value(x)),
            // Exact, and on a GPU far cheaper than the power.
            BinaryOp::Power if is(y, 2.0) => node(BinaryOp::Multiply, x, x),
            BinaryOp::And if ty.dtype == DType::Bool && is(y, 1.0) => Some(Rewrite::Value(x)),
            BinaryOp::And if ty.dtype == DType::Bool && is(x, 1.0) => Some(Rewrite::Value(y)),
            BinaryOp::And if is(x, 0.0) => Some(Rewrite::Value(x)),
            BinaryOp::And if is(y, 0.0) => Some(Rewrite::Value(y)),
            BinaryOp::Or | BinaryOp::Xor if is(y, 0.0) => Some(Rewrite::Value(x)),
            BinaryOp::Or | BinaryOp::Xor if is(x, 0.0) => Some(Rewrite::Value(y)),
            BinaryOp::Or if ty.dtype == DType::Bool && is(x, 1.0) => Some(Rewrite::Value(x)),
            BinaryOp::Or if ty.dtype == DType::Bool && is(y, 1.0) => Some(Rewrite::Value(y)),
            BinaryOp::ShiftLeft | BinaryOp::ShiftRight if is(y, 0.0) => Some(Rewrite::Value(x)),
            BinaryOp::Maximum | BinaryOp::Minimum | BinaryOp::And | BinaryOp::Or if x == y => Some(Rewrite::Value(x)),
            _ => None,
        }
    }

    fn rewrite_other(&self, node: &Node) -> Option<Rewrite> {
        let &x = node.inputs.first()?;
        let from = self.graph.ty(x);
        let reshape = || Some(Rewrite::Node(Op::Reshape { shape: node.ty.shape.clone() }, vec![x]));
        let rank = from.rank();
        match &node.op {
            Op::Convert { .. } | Op::BitcastConvert { .. } if *from == node.ty => Some(Rewrite::Value(x)),
            Op::StopGradient | Op::Result { index: 0 } => Some(Rewrite::Value(x)),
            Op::AllReduce { .. } if self.process_count == 1 => Some(Rewrite::Value(x)),
            Op::Select => {
                let &[predicate, on_true, on_false] = node.inputs.as_slice() else { return None };
                match self.splat(predicate) {
                    Some(truth) => Some(Rewrite::Value(if truth != 0.0 { on_true } else { on_false })),
                    None if on_true == on_false => Some(Rewrite::Value(on_true)),
                    // !p ? a : b = p ? b : a
                    None => match self.unary(predicate)? {
                        (UnaryOp::Not, inner) => Some(Rewrite::Node(Op::Select, vec![inner, on_false, on_true])),
                        _ => None,
                    },
                }
            }
            Op::Reshape { .. } if *from == node.ty => Some(Rewrite::Value(x)),
            Op::Reshape { .. } => match self.graph.node(x) {
                Node { op: Op::Reshape { .. }, inputs, .. } => Some(Rewrite::Node(node.op.clone(), inputs.clone())),
                _ => None,
            },
            // Axes of size 1 may go anywhere: the order of the elements is that of the others.
            Op::Transpose { perm } if perm.iter().filter(|&&axis| from.shape[axis] != 1).is_sorted() => reshape(),
            Op::Transpose { perm } => match self.graph.node(x) {
                Node { op: Op::Transpose { perm: inner }, inputs, .. } => {
                    Some(Rewrite::Node(Op::Transpose { perm: perm.iter().map(|&axis| inner[axis]).collect() }, inputs.clone()))
                }
                _ => None,
            },
            // Nothing is repeated.
            Op::BroadcastInDim { .. } if from.element_count() == node.ty.element_count() => reshape(),
            Op::BroadcastInDim { shape, dims } => {
                let Node { op, inputs, .. } = self.graph.node(x);
                let kept = match op {
                    Op::BroadcastInDim { dims: inner, .. } => inner.clone(),
                    Op::Reshape { shape: reshaped } => inserted_axes(&self.graph.ty(inputs[0]).shape, reshaped)?,
                    _ => return None,
                };
                let dims = kept.into_iter().map(|axis| dims[axis]).collect();
                Some(Rewrite::Node(Op::BroadcastInDim { shape: shape.clone(), dims }, inputs.clone()))
            }
            // With the shape unchanged, a slice has every element and a stride of 1 where it matters.
            Op::Slice { .. } if *from == node.ty => Some(Rewrite::Value(x)),
            Op::Pad { low, high, interior } => {
                let still =
                    low.iter().chain(high).all(|&size| size == 0) && (0..rank).all(|axis| interior[axis] == 0 || from.shape[axis] == 1);
                still.then_some(Rewrite::Value(x))
            }
            Op::Concatenate { .. } if node.inputs.len() == 1 => Some(Rewrite::Value(x)),
            Op::Reverse { axes } if axes.iter().all(|&axis| from.shape[axis] == 1) => Some(Rewrite::Value(x)),
            // One element folds to itself.
            Op::Reduce { axes, .. } if axes.iter().all(|&axis| from.shape[axis] == 1) => reshape(),
            // A block as large as the whole has but one place.
            Op::DynamicSlice { .. } if *from == node.ty => Some(Rewrite::Value(x)),
            Op::DynamicUpdateSlice if self.graph.ty(node.inputs[1]) == from => Some(Rewrite::Value(node.inputs[1])),
            _ => None,
        }
    }

    fn splat(&self, id: NodeId) -> Option<f64> {
        match &self.graph.node(id).op {
            Op::Constant { value } => value.splat_value(),
            _ => None,
        }
    }

    fn unary(&self, id: NodeId) -> Option<(UnaryOp, NodeId)> {
        match self.graph.node(id) {
            Node { op: Op::Unary { function }, inputs, .. } => Some((*function, inputs[0])),
            _ => None,
        }
    }

    /// `x` where `id` is `-x`.
    fn negated(&self, id: NodeId) -> Option<NodeId> {
        self.unary(id).and_then(|(function, x)| (function == UnaryOp::Negate).then_some(x))
    }
}

/// The axis of `to` that each axis of `from` became, if `to` is `from` with axes of size 1 put in.
fn inserted_axes(from: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let mut next = 0;
    let mut places = Vec::with_capacity(from.len());
    for &size in from {
        while *to.get(next)? != size {
            if to[next] != 1 {
                return None;
            }
            next += 1;
        }
        places.push(next);
        next += 1;
    }
    (element_count(&to[next..]) == 1).then_some(places)
}

fn hash_of(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.inputs.hash(&mut hasher);
    node.ty.hash(&mut hasher);
    std::mem::discriminant(&node.op).hash(&mut hasher);
    match &node.op {
        Op::Parameter(parameter) => parameter.name.hash(&mut hasher),
        // A few values tell most constants apart; equal hashes are compared in full.
        Op::Constant { value } => value.values.iter().take(8).for_each(|value| value.to_bits().hash(&mut hasher)),
        Op::Iota { axis } | Op::Concatenate { axis } => axis.hash(&mut hasher),
        Op::RngBits { stream } => stream.hash(&mut hasher),
        Op::Unary { function } => function.hash(&mut hasher),
        Op::Binary { function } => function.hash(&mut hasher),
        Op::Compare { direction } => direction.hash(&mut hasher),
        Op::Transpose { perm } => perm.hash(&mut hasher),
        Op::BroadcastInDim { dims, .. } => dims.hash(&mut hasher),
        Op::Slice { starts, limits, strides } => (starts, limits, strides).hash(&mut hasher),
        Op::Pad { low, high, interior } => (low, high, interior).hash(&mut hasher),
        Op::Reverse { axes } => axes.hash(&mut hasher),
        Op::Gather { axis, batch_dims } => (axis, batch_dims).hash(&mut hasher),
        Op::Scatter { axis, batch_dims, mode } => (axis, batch_dims, mode).hash(&mut hasher),
        Op::Reduce { kind, axes } => (kind, axes).hash(&mut hasher),
        Op::ReduceArg { kind, axis } => (kind, axis).hash(&mut hasher),
        Op::ReduceWindow { kind, window } | Op::SelectAndScatter { kind, window } => (kind, window).hash(&mut hasher),
        Op::DotGeneral { dims } => dims.hash(&mut hasher),
        Op::Convolution { geometry } | Op::ConvolutionInputGrad { geometry, .. } | Op::ConvolutionWeightGrad { geometry, .. } => {
            geometry.hash(&mut hasher);
        }
        Op::Composite { name, .. } => name.hash(&mut hasher),
        Op::Result { index } => index.hash(&mut hasher),
        Op::AllReduce { kind } => kind.hash(&mut hasher),
        // Told by the type and the inputs.
        Op::Convert { .. } | Op::BitcastConvert { .. } | Op::Reshape { .. } | Op::DynamicSlice { .. } => {}
        Op::Select | Op::DynamicUpdateSlice | Op::Grad | Op::StopGradient => {}
    }
    hasher.finish()
}

/// True when both nodes compute the same bits.
fn is_same(left: &Node, right: &Node) -> bool {
    left.inputs == right.inputs && left.ty == right.ty && is_same_op(&left.op, &right.op)
}

fn is_same_op(left: &Op, right: &Op) -> bool {
    match (left, right) {
        // `==` would take 0 for -0 and no NaN for itself.
        (Op::Constant { value: left }, Op::Constant { value: right }) => {
            let bits = |literal: &Literal| literal.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            left.ty == right.ty && left.values.len() == right.values.len() && bits(left) == bits(right)
        }
        (
            Op::Composite { name: left_name, attrs: left_attrs, body: left },
            Op::Composite { name: right_name, attrs: right_attrs, body: right },
        ) => {
            left_name == right_name
                && left_attrs == right_attrs
                && left.outputs == right.outputs
                && left.nodes.len() == right.nodes.len()
                && left.nodes.iter().zip(&right.nodes).all(|(left, right)| is_same(left, right))
        }
        _ => left == right,
    }
}
