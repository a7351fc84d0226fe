//! Reverse-mode differentiation, graph to graph: every `Grad` node becomes the nodes that compute the gradients.
//!
//! [`expand_gradients`] is the pass, `differentiate` one reverse sweep, `vjp` the table of rules. A rule names the forward op's output, so nothing is
//! recomputed; it is made of primitives, so gradients have gradients. It does not simplify: `simplify.rs` runs after it and removes what nobody reads.

use crate::attention;
use crate::lower::{first_result, inline_where, values_differentiated_by};
use solstice_ir::{
    BinaryOp, Compare, DType, DotDims, Graph, Literal, Node, NodeId, Op, ReduceKind, ScatterMode, TensorType, UnaryOp, Window,
    element_count,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Why a gradient does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GradError {
    /// An op between the loss and a value that it is differentiated by has no derivative here.
    #[error("no gradient through `{op}`: {reason}{}", at(.location))]
    NotDifferentiable {
        /// The op's name.
        op: String,
        /// What is missing, and what to do instead.
        reason: String,
        /// The author's line; may be empty.
        location: String,
    },
}

fn at(location: &str) -> String {
    if location.is_empty() { String::new() } else { format!(" ({location})") }
}

/// Replaces every `Grad` of a verified graph by primitives; outputs, updates and every other node stay.
///
/// Gradients of gradients work: an inner `Grad` stands before the outer one and is expanded first. Composites between a loss and the values that it is
/// differentiated by are inlined, but for those with a rule of their own (`composite_vjp`). A value that the loss does not depend on has the gradient 0.
/// A generated node carries the scope and location of the forward node whose derivative it is.
///
/// Cost: linear in the nodes of the graph for each `Grad`.
pub fn expand_gradients(graph: &Graph) -> Result<Graph, GradError> {
    let graph = inline_gradient_paths(graph);
    let differentiated = values_differentiated_by(&graph);
    let mut result = Graph::new(graph.name.clone());
    let mut values: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    let mut gradients_of: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let id = NodeId(index as u32);
        let inputs: Vec<NodeId> = node.inputs.iter().map(|input| values[input.index()]).collect();
        let alias = match &node.op {
            Op::Grad => {
                let gradients = differentiate(&mut result, inputs[0], &inputs[1..], node)?;
                let first = gradients[0];
                gradients_of.insert(id, gradients);
                Some(first)
            }
            Op::Result { index: 0 } => Some(inputs[0]),
            Op::Result { index } => gradients_of.get(&node.inputs[0]).map(|gradients| gradients[*index]),
            _ => None,
        };
        let copy = |result: &mut Graph, op: Op, inputs: Vec<NodeId>| {
            result.push_typed(op, inputs, node.ty.clone(), node.scope.clone(), node.location.clone())
        };
        let value = match (alias, &node.op) {
            // A gradient that somebody differentiates by stays a node of its own: merged with another value it would have that one's gradient.
            (Some(value), Op::Grad) if differentiated.contains(&id) => {
                copy(&mut result, Op::Reshape { shape: node.ty.shape.clone() }, vec![value])
            }
            (Some(value), Op::Result { index }) if *index > 0 && differentiated.contains(&id) => {
                copy(&mut result, Op::Reshape { shape: node.ty.shape.clone() }, vec![value])
            }
            (Some(value), _) => value,
            (None, Op::Composite { name, attrs, body }) if contains_gradient(body) => {
                let body = Box::new(expand_gradients(body)?);
                copy(&mut result, Op::Composite { name: name.clone(), attrs: attrs.clone(), body }, inputs)
            }
            (None, op) => copy(&mut result, op.clone(), inputs),
        };
        values.push(value);
    }
    result.outputs = graph.outputs;
    result.updates = graph.updates;
    result.outputs.iter_mut().for_each(|output| output.node = values[output.node.index()]);
    result.updates.iter_mut().for_each(|update| update.node = values[update.node.index()]);
    Ok(result)
}

/// True when the graph or a body in it has a `Grad`.
pub fn contains_gradient(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| match &node.op {
        Op::Grad => true,
        Op::Composite { body, .. } => contains_gradient(body),
        _ => false,
    })
}

/// A loss depends on a gradient.
fn has_nested_gradients(graph: &Graph) -> bool {
    let mut depends = vec![false; graph.nodes.len()];
    graph.nodes.iter().enumerate().any(|(index, node)| {
        let is_gradient = matches!(node.op, Op::Grad);
        depends[index] = is_gradient || node.inputs.iter().any(|input| depends[input.index()]);
        is_gradient && depends[node.inputs[0].index()]
    })
}

/// Inlines the composites that a gradient has to go through, and those within them, until there are none left.
fn inline_gradient_paths(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    // The gradient of attention is a composite without a rule of its own, so a gradient of it must not meet it.
    let is_nested = has_nested_gradients(&graph);
    loop {
        let mut crossed: HashSet<NodeId> = HashSet::new();
        for gradient in graph.nodes.iter().filter(|node| matches!(node.op, Op::Grad)) {
            let paths = Paths::new(&graph, gradient.inputs[0], &gradient.inputs[1..]);
            let composites = graph.ids().take(paths.crossed.len()).filter(|id| paths.crossed[id.index()]);
            crossed.extend(composites.filter(|id| {
                let node = graph.node(*id);
                let has_no_rule = || composite_vjp(&graph, node).is_none() || (is_nested && attention::gradient_of(&graph, node).is_some());
                matches!(node.op, Op::Composite { .. }) && has_no_rule()
            }));
        }
        if crossed.is_empty() {
            return graph;
        }
        graph = inline_where(&graph, &|_, id, _| id.is_some_and(|id| crossed.contains(&id)));
    }
}

/// Which nodes lie between a loss and the values that it is differentiated by. Both vectors end with the loss.
struct Paths {
    /// The value varies with one of `wrt`, or is one.
    varies: Vec<bool>,
    /// The value varies through its inputs, and the loss varies with it.
    crossed: Vec<bool>,
}

impl Paths {
    fn new(graph: &Graph, loss: NodeId, wrt: &[NodeId]) -> Paths {
        let count = loss.index() + 1;
        let mut varies = vec![false; count];
        let mut crossed = vec![false; count];
        for id in wrt.iter().map(|id| first_result(graph, *id)).filter(|id| id.index() < count) {
            varies[id.index()] = true;
        }
        for (index, node) in graph.nodes[..count].iter().enumerate() {
            crossed[index] = match &node.op {
                Op::StopGradient => false,
                // The node itself stands for its first result; the others vary only when it varies through its inputs.
                Op::Result { index: 0 } => varies[node.inputs[0].index()],
                Op::Result { .. } => crossed[node.inputs[0].index()],
                _ => node.inputs.iter().any(|input| varies[input.index()]),
            };
            // Some result of a composite may be a float even if the first is not.
            crossed[index] &= node.ty.dtype.is_float() || matches!(node.op, Op::Composite { .. });
            varies[index] |= crossed[index];
        }
        let mut needed = vec![false; count];
        needed[loss.index()] = true;
        for index in (0..count).rev() {
            if needed[index] && crossed[index] {
                graph.nodes[index].inputs.iter().for_each(|input| needed[input.index()] = true);
            }
            crossed[index] &= needed[index];
        }
        Paths { varies, crossed }
    }
}

/// Appends the reverse sweep from `loss` to each of `wrt` and returns the gradients. `gradient` is the `Grad` node, for its scope and location.
fn differentiate(graph: &mut Graph, loss: NodeId, wrt: &[NodeId], gradient: &Node) -> Result<Vec<NodeId>, GradError> {
    let paths = Paths::new(graph, loss, wrt);
    let mut cotangents: Vec<Option<NodeId>> = vec![None; loss.index() + 1];
    let mut emitter = Emitter { graph, scope: gradient.scope.clone(), location: gradient.location.clone() };
    cotangents[loss.index()] = Some(emitter.splat(&TensorType::new(DType::F32, []), 1.0));
    // A node's readers all come after it, so its cotangent is complete when the sweep reaches it.
    for index in (0..=loss.index()).rev() {
        let (true, Some(cotangent)) = (paths.crossed[index], cotangents[index]) else { continue };
        let node = emitter.graph.nodes[index].clone();
        emitter.scope = node.scope.clone();
        emitter.location = node.location.clone();
        let wanted: Vec<bool> = node.inputs.iter().map(|input| paths.varies[input.index()]).collect();
        let mut flow = Flow { emitter: &mut emitter, inputs: &node.inputs, wanted, contributions: Vec::new() };
        vjp(&mut flow, &node, NodeId(index as u32), cotangent)?;
        // Summed in the order of the inputs and, over the sweep, of the readers: the same graph always gives the same sums.
        for (position, contribution) in flow.contributions {
            let slot = &mut cotangents[node.inputs[position].index()];
            *slot = Some(match *slot {
                Some(sum) => emitter.add(sum, contribution),
                None => contribution,
            });
        }
    }
    emitter.scope = gradient.scope.clone();
    emitter.location = gradient.location.clone();
    let gradient_of = |id: &NodeId| match cotangents.get(id.index()).copied().flatten() {
        Some(cotangent) => cotangent,
        None => {
            let ty = emitter.ty(*id);
            emitter.splat(&ty, 0.0)
        }
    };
    Ok(wrt.iter().map(gradient_of).collect())
}

/// Where a rule puts what flows back to each input.
struct Flow<'a, 'b> {
    emitter: &'a mut Emitter<'b>,
    inputs: &'a [NodeId],
    wanted: Vec<bool>,
    contributions: Vec<(usize, NodeId)>,
}

impl Flow<'_, '_> {
    /// Adds what `rule` makes to the cotangent of input `position`, if anybody asks for it.
    fn to(&mut self, position: usize, rule: impl FnOnce(&mut Emitter) -> NodeId) {
        if !self.wanted[position] {
            return;
        }
        let ty = self.emitter.ty(self.inputs[position]);
        // Nothing flows into a tensor without elements, and rules need not think about one.
        let cotangent = if ty.element_count() == 0 { self.emitter.splat(&ty, 0.0) } else { rule(self.emitter) };
        assert_eq!(*self.emitter.graph.ty(cotangent), ty, "a cotangent has the type of its value");
        self.contributions.push((position, cotangent));
    }
}

/// The rules: what flows back to the inputs of `node` when `g` flows back to its output `y`. One arm an op, the formula above it.
///
/// `x` and its kin are inputs, `d x` what flows to them. Integers, truth values and random bits carry no gradient.
fn vjp(flow: &mut Flow, node: &Node, y: NodeId, g: NodeId) -> Result<(), GradError> {
    let inputs = node.inputs.as_slice();
    match &node.op {
        Op::Unary { function } => {
            let x = inputs[0];
            flow.to(0, |e| unary_vjp(e, *function, x, y, g));
        }
        Op::Binary { function } => binary_vjp(flow, *function, inputs[0], inputs[1], y, g),
        // Between floats a conversion or a bitcast is the identity; from or to anything else nothing flows.
        Op::Convert { .. } | Op::BitcastConvert { .. } => flow.to(0, |_| g),
        // d on_true = p ? g : 0, d on_false = p ? 0 : g
        Op::Select => {
            let predicate = inputs[0];
            flow.to(1, |e| {
                let zeros = e.zeros_like(g);
                e.select(predicate, g, zeros)
            });
            flow.to(2, |e| {
                let zeros = e.zeros_like(g);
                e.select(predicate, zeros, g)
            });
        }
        // d x = g in the shape of x
        Op::Reshape { .. } => flow.to(0, |e| e.reshape_as(g, inputs[0])),
        // d x = g with the axes where they came from
        Op::Transpose { perm } => flow.to(0, |e| {
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
            e.op(Op::Transpose { perm: inverse }, &[g])
        }),
        // d x = sum of g over the axes along which x was repeated
        Op::BroadcastInDim { shape, dims } => flow.to(0, |e| {
            let ty = e.ty(inputs[0]);
            let kept = |axis: usize| dims.iter().position(|&dim| dim == axis).is_some_and(|from| ty.shape[from] == shape[axis]);
            let sum = e.reduce(ReduceKind::Sum, g, (0..shape.len()).filter(|&axis| !kept(axis)).collect());
            e.reshape_as(sum, inputs[0])
        }),
        // d x = g spread by the strides, zeros before, between and after
        Op::Slice { starts, strides, .. } => flow.to(0, |e| {
            let (ty, size) = (e.ty(inputs[0]), e.ty(g).shape);
            let spread = |axis: usize| if size[axis] == 0 { 0 } else { (size[axis] - 1) * strides[axis] + 1 };
            let low = starts.iter().map(|&start| start as i64).collect();
            let high = (0..ty.rank()).map(|axis| (ty.shape[axis] - starts[axis] - spread(axis)) as i64).collect();
            let interior = strides.iter().map(|stride| stride - 1).collect();
            e.pad(g, 0.0, low, high, interior)
        }),
        Op::Pad { low, high, interior } => {
            let ty = flow.emitter.ty(inputs[0]);
            // d x = g where x went: undo the outer padding (a crop comes back as zeros), then step over the interior
            flow.to(0, |e| {
                let negated = |sizes: &[i64]| sizes.iter().map(|size| -size).collect();
                let uncropped = e.pad(g, 0.0, negated(low), negated(high), vec![0; ty.rank()]);
                let limits = e.ty(uncropped).shape;
                let strides = interior.iter().map(|between| between + 1).collect();
                e.op(Op::Slice { starts: vec![0; ty.rank()], limits, strides }, &[uncropped])
            });
            // d value = sum of g where x did not go
            flow.to(1, |e| {
                let inside = e.splat(&TensorType::new(DType::Bool, ty.shape.clone()), 0.0);
                let outside = e.splat(&TensorType::new(DType::Bool, []), 1.0);
                let op = Op::Pad { low: low.clone(), high: high.clone(), interior: interior.clone() };
                let mask = e.op(op, &[inside, outside]);
                let zeros = e.zeros_like(g);
                let masked = e.select(mask, g, zeros);
                e.reduce(ReduceKind::Sum, masked, (0..ty.rank()).collect())
            });
        }
        // d x_i = the part of g where x_i went
        Op::Concatenate { axis } => {
            let mut start = 0;
            for (position, input) in inputs.iter().enumerate() {
                let limit = start + flow.emitter.graph.ty(*input).shape[*axis];
                flow.to(position, |e| e.slice_axis(g, *axis, start, limit));
                start = limit;
            }
        }
        // d x = g turned back
        Op::Reverse { axes } => flow.to(0, |e| e.op(Op::Reverse { axes: axes.clone() }, &[g])),
        // d x = zeros with g added where it was read; a scatter clamps its indices as the gather did
        Op::Gather { axis, batch_dims } => flow.to(0, |e| {
            let zeros = e.zeros_like(inputs[0]);
            e.op(Op::Scatter { axis: *axis, batch_dims: *batch_dims, mode: ScatterMode::Add }, &[zeros, inputs[1], g])
        }),
        // d x = g, d updates = g read where they were added
        Op::Scatter { axis, batch_dims, mode: ScatterMode::Add } => {
            flow.to(0, |_| g);
            flow.to(2, |e| e.op(Op::Gather { axis: *axis, batch_dims: *batch_dims }, &[g, inputs[1]]));
        }
        // d x = g where nothing was written, d updates = g read by the update that was written last. To know which that is, the scatter is run on the
        // updates' numbers (from 1), whose winners are read back.
        Op::Scatter { axis, batch_dims, mode: ScatterMode::Set } => {
            let e = &mut *flow.emitter;
            let (x, updates) = (e.ty(inputs[0]), e.ty(inputs[2]));
            let counted = e.leaf(Op::Iota { axis: 0 }, TensorType::new(DType::I32, [updates.element_count()]));
            let counted = e.op(Op::Reshape { shape: updates.shape.clone() }, &[counted]);
            let ones = e.splat(&TensorType::new(DType::I32, updates.shape.clone()), 1.0);
            let numbers = e.add(counted, ones);
            let nobody = e.splat(&TensorType::new(DType::I32, x.shape), 0.0);
            let winners = e.op(node.op.clone(), &[nobody, inputs[1], numbers]);
            flow.to(0, |e| {
                let unwritten = e.compare(Compare::Equal, winners, nobody);
                let zeros = e.zeros_like(g);
                e.select(unwritten, g, zeros)
            });
            flow.to(2, |e| {
                let gather = Op::Gather { axis: *axis, batch_dims: *batch_dims };
                let winner = e.op(gather.clone(), &[winners, inputs[1]]);
                let won = e.compare(Compare::Equal, winner, numbers);
                let read = e.op(gather, &[g, inputs[1]]);
                let zeros = e.zeros_like(read);
                e.select(won, read, zeros)
            });
        }
        // d x = zeros with g written where it was read
        Op::DynamicSlice { .. } => flow.to(0, |e| {
            let zeros = e.zeros_like(inputs[0]);
            e.op(Op::DynamicUpdateSlice, &[&[zeros, g], &inputs[1..]].concat())
        }),
        // d x = g with zeros under the block, d block = g under the block
        Op::DynamicUpdateSlice => {
            flow.to(0, |e| {
                let zeros = e.zeros_like(inputs[1]);
                e.op(Op::DynamicUpdateSlice, &[&[g, zeros], &inputs[2..]].concat())
            });
            flow.to(1, |e| {
                let sizes = e.ty(inputs[1]).shape;
                e.op(Op::DynamicSlice { sizes }, &[&[g], &inputs[2..]].concat())
            });
        }
        Op::Reduce { kind, axes } => flow.to(0, |e| reduce_vjp(e, *kind, axes, inputs[0], y, g)),
        Op::ReduceWindow { kind: ReduceKind::Sum, window } => flow.to(0, |e| window_sum_vjp(e, window, inputs[0], g)),
        // d x = g of each window at its first largest (smallest) element
        Op::ReduceWindow { kind, window } => {
            flow.to(0, |e| e.op(Op::SelectAndScatter { kind: *kind, window: window.clone() }, &[inputs[0], g]));
        }
        // Linear in the windows' gradient: it gets g from the element that the window selected. Piecewise constant in x: nothing flows there.
        Op::SelectAndScatter { kind, window } => {
            flow.to(0, |e| e.zeros_like(inputs[0]));
            flow.to(1, |e| {
                let windows = e.ty(inputs[1]).shape;
                select_from_windows(e, *kind, window, &windows, inputs[0], g)
            });
        }
        Op::DotGeneral { dims } => {
            let (lhs, rhs) = (inputs[0], inputs[1]);
            let (lhs_rank, rhs_rank) = (flow.emitter.graph.ty(lhs).rank(), flow.emitter.graph.ty(rhs).rank());
            let left = DotSide::new(lhs_rank, &dims.lhs_batch, &dims.lhs_contract);
            let right = DotSide::new(rhs_rank, &dims.rhs_batch, &dims.rhs_contract);
            // Axes of g: batch, then those of the left, then those of the right.
            let (batch, middle) = (left.batch.len(), left.batch.len() + left.free.len());
            // d lhs = g . rhs over the axes that only the right has
            flow.to(0, |e| dot_vjp(e, g, rhs, &left, &right, (middle..middle + right.free.len()).collect()));
            // d rhs = lhs . g over the axes that only the left has
            flow.to(1, |e| dot_vjp(e, g, lhs, &right, &left, (batch..middle).collect()));
        }
        // The three convolutions are one form, linear in input, weight and gradient of the output: <g, conv(x, w)>. Each one's derivatives are the others.
        Op::Convolution { geometry } => {
            let (x, weight) = (inputs[0], inputs[1]);
            flow.to(0, |e| {
                let input_spatial = e.ty(x).shape[2..].to_vec();
                e.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial }, &[g, weight])
            });
            flow.to(1, |e| {
                let kernel_spatial = e.ty(weight).shape[2..].to_vec();
                e.op(Op::ConvolutionWeightGrad { geometry: geometry.clone(), kernel_spatial }, &[x, g])
            });
        }
        Op::ConvolutionInputGrad { geometry, .. } => {
            let (output, weight) = (inputs[0], inputs[1]);
            flow.to(0, |e| e.op(Op::Convolution { geometry: geometry.clone() }, &[g, weight]));
            flow.to(1, |e| {
                let kernel_spatial = e.ty(weight).shape[2..].to_vec();
                e.op(Op::ConvolutionWeightGrad { geometry: geometry.clone(), kernel_spatial }, &[g, output])
            });
        }
        Op::ConvolutionWeightGrad { geometry, .. } => {
            let (x, output) = (inputs[0], inputs[1]);
            flow.to(0, |e| {
                let input_spatial = e.ty(x).shape[2..].to_vec();
                e.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial }, &[output, g])
            });
            flow.to(1, |e| e.op(Op::Convolution { geometry: geometry.clone() }, &[x, g]));
        }
        // The loss of the run is the sum of the processes' losses, so the transpose of a sum over processes is that sum of the cotangents.
        Op::AllReduce { kind: ReduceKind::Sum } => flow.to(0, |e| e.op(Op::AllReduce { kind: ReduceKind::Sum }, &[g])),
        Op::AllReduce { .. } => {
            return Err(GradError::NotDifferentiable {
                op: node.op.name(),
                reason: "only the sum over processes is differentiable; stop the gradient in front of the others".into(),
                location: node.location.to_string(),
            });
        }
        Op::Composite { .. } => {
            let rule = composite_vjp(flow.emitter.graph, node).expect("composites without a rule were inlined");
            rule(flow, y, g);
        }
        // No float goes in and out here: `Paths` never crosses these.
        Op::Parameter(_) | Op::Constant { .. } | Op::Iota { .. } | Op::RngBits { .. } | Op::Compare { .. } | Op::ReduceArg { .. } => {}
        Op::StopGradient => {}
        Op::Grad | Op::Result { .. } => panic!("gradients before this one were expanded, and composites in its way inlined"),
    }
    Ok(())
}

fn unary_vjp(e: &mut Emitter, function: UnaryOp, x: NodeId, y: NodeId, g: NodeId) -> NodeId {
    match function {
        // d x = -g
        UnaryOp::Negate => e.negate(g),
        // d x = g sign(x), so 0 at 0
        UnaryOp::Abs => {
            let sign = e.unary(UnaryOp::Sign, x);
            e.multiply(g, sign)
        }
        // Piecewise constant.
        UnaryOp::Sign | UnaryOp::Floor => e.zeros_like(x),
        // d x = g y
        UnaryOp::Exponential => e.multiply(g, y),
        // d x = g / x
        UnaryOp::Log => e.divide(g, x),
        // d x = g / 2y
        UnaryOp::Sqrt => {
            let half = e.scale(g, 0.5);
            e.divide(half, y)
        }
        // d x = -g y^3 / 2
        UnaryOp::Rsqrt => {
            let square = e.multiply(y, y);
            let cube = e.multiply(square, y);
            let half = e.scale(g, -0.5);
            e.multiply(half, cube)
        }
        // d x = g (1 - y^2)
        UnaryOp::Tanh => {
            let square = e.multiply(y, y);
            let slope = e.one_minus(square);
            e.multiply(g, slope)
        }
        // d x = g y (1 - y)
        UnaryOp::Logistic => {
            let rest = e.one_minus(y);
            let slope = e.multiply(y, rest);
            e.multiply(g, slope)
        }
        // d x = g cos(x)
        UnaryOp::Sine => {
            let slope = e.unary(UnaryOp::Cosine, x);
            e.multiply(g, slope)
        }
        // d x = -g sin(x)
        UnaryOp::Cosine => {
            let sine = e.unary(UnaryOp::Sine, x);
            let slope = e.negate(sine);
            e.multiply(g, slope)
        }
        // d x = g 2/sqrt(pi) exp(-x^2)
        UnaryOp::Erf => {
            let square = e.multiply(x, x);
            let exponent = e.negate(square);
            let bell = e.unary(UnaryOp::Exponential, exponent);
            let slope = e.scale(bell, std::f64::consts::FRAC_2_SQRT_PI);
            e.multiply(g, slope)
        }
        UnaryOp::Not => panic!("a verified graph has no `not` of floats"),
    }
}

fn binary_vjp(flow: &mut Flow, function: BinaryOp, x: NodeId, y: NodeId, out: NodeId, g: NodeId) {
    match function {
        // d x = g, d y = g
        BinaryOp::Add => {
            flow.to(0, |_| g);
            flow.to(1, |_| g);
        }
        // d x = g, d y = -g
        BinaryOp::Subtract => {
            flow.to(0, |_| g);
            flow.to(1, |e| e.negate(g));
        }
        // d x = g y, d y = g x
        BinaryOp::Multiply => {
            flow.to(0, |e| e.multiply(g, y));
            flow.to(1, |e| e.multiply(g, x));
        }
        // d x = g / y, d y = -(g / y) out
        BinaryOp::Divide => {
            flow.to(0, |e| e.divide(g, y));
            flow.to(1, |e| {
                let quotient = e.divide(g, y);
                let product = e.multiply(quotient, out);
                e.negate(product)
            });
        }
        // d of the larger (smaller) = g, and half of it to each where they are equal, as PyTorch has it
        BinaryOp::Maximum | BinaryOp::Minimum => {
            let loses = if function == BinaryOp::Maximum { Compare::Less } else { Compare::Greater };
            for (position, own, other) in [(0, x, y), (1, y, x)] {
                flow.to(position, |e| {
                    let half = e.scale(g, 0.5);
                    let equal = e.compare(Compare::Equal, x, y);
                    let shared = e.select(equal, half, g);
                    let lost = e.compare(loses, own, other);
                    let zeros = e.zeros_like(g);
                    e.select(lost, zeros, shared)
                });
            }
        }
        BinaryOp::Power => {
            // d x = g y x^(y - 1); for y = 0 the exponent is taken as 1, so that 0 is not multiplied by the infinity 0^-1
            flow.to(0, |e| {
                let (zeros, ones) = (e.zeros_like(y), e.ones_like(y));
                let constant = e.compare(Compare::Equal, y, zeros);
                let lower = e.subtract(y, ones);
                let exponent = e.select(constant, ones, lower);
                let power = e.binary(BinaryOp::Power, x, exponent);
                let slope = e.multiply(y, power);
                e.multiply(g, slope)
            });
            // d y = g out log(x), 0 where x is not positive
            flow.to(1, |e| {
                let (zeros, ones) = (e.zeros_like(x), e.ones_like(x));
                let positive = e.compare(Compare::Greater, x, zeros);
                let base = e.select(positive, x, ones);
                let logarithm = e.unary(UnaryOp::Log, base);
                let slope = e.multiply(out, logarithm);
                e.multiply(g, slope)
            });
        }
        // out = x - trunc(x / y) y: d x = g, d y = -g trunc(x / y), and trunc(x / y) = (x - out) / y
        BinaryOp::Remainder => {
            flow.to(0, |_| g);
            flow.to(1, |e| {
                let whole = e.subtract(x, out);
                let times = e.divide(whole, y);
                let product = e.multiply(g, times);
                e.negate(product)
            });
        }
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight => {
            panic!("a verified graph has no {function:?} of floats")
        }
    }
}

fn reduce_vjp(e: &mut Emitter, kind: ReduceKind, axes: &[usize], x: NodeId, y: NodeId, g: NodeId) -> NodeId {
    match kind {
        // d x = g repeated
        ReduceKind::Sum => e.repeat_along(g, axes, x),
        // d x = g / n at the n elements that equal the result
        ReduceKind::Max | ReduceKind::Min => {
            let repeated = e.repeat_along(y, axes, x);
            let chosen = e.compare(Compare::Equal, x, repeated);
            let (ones, zeros) = (e.ones_like(x), e.zeros_like(x));
            let counted = e.select(chosen, ones, zeros);
            let count = e.reduce(ReduceKind::Sum, counted, axes.to_vec());
            let share = e.divide(g, count);
            let shares = e.repeat_along(share, axes, x);
            e.select(chosen, shares, zeros)
        }
        // d x_i = g times the product of the others. Not y / x_i, which fails at 0: the products of those before and of those after, by doubling.
        ReduceKind::Prod => {
            let shape = e.ty(x).shape;
            let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
            let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
            let length: usize = axes.iter().map(|&axis| shape[axis]).product();
            let rows: usize = kept.iter().map(|&axis| shape[axis]).product();
            let last = e.op(Op::Transpose { perm: perm.clone() }, &[x]);
            let last_shape = e.ty(last).shape;
            let flat = e.op(Op::Reshape { shape: vec![rows, length] }, &[last]);
            let before = product_of_those_before(e, flat, length as i64, 1);
            let after = product_of_those_before(e, flat, length as i64, -1);
            let others = e.multiply(before, after);
            let others = e.op(Op::Reshape { shape: last_shape }, &[others]);
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
            let others = e.op(Op::Transpose { perm: inverse }, &[others]);
            let repeated = e.repeat_along(g, axes, x);
            e.multiply(repeated, others)
        }
    }
}

/// For each element of a row of `x` (`[rows, length]`) the product of those before it (`direction` 1) or after it (-1); 1 where there are none.
///
/// Source: Hillis and Steele, "Data parallel algorithms", 1986: log2(length) steps.
fn product_of_those_before(e: &mut Emitter, x: NodeId, length: i64, direction: i64) -> NodeId {
    // Each row moved by `distance` places, ones coming in.
    let moved = |e: &mut Emitter, x: NodeId, distance: i64| {
        let step = direction * distance;
        e.pad(x, 1.0, vec![0, step], vec![0, -step], vec![0, 0])
    };
    let mut product = moved(e, x, 1);
    let mut distance = 1;
    while distance < length {
        let further = moved(e, product, distance);
        product = e.multiply(product, further);
        distance *= 2;
    }
    product
}

/// d x_i = sum of g over the windows that hold `i`: g spread by the strides, under a dense window of the same size.
fn window_sum_vjp(e: &mut Emitter, window: &Window, x: NodeId, g: NodeId) -> NodeId {
    let (x_shape, windows) = (e.ty(x).shape, e.ty(g).shape);
    let rank = x_shape.len();
    // Element i of x lies under window o at place k when o stride + k = i + low. So with g spread, result i is the sum over places i + low - k.
    let low: Vec<i64> = (0..rank).map(|axis| window.size[axis] as i64 - 1 - window.low[axis] as i64).collect();
    let spread = |axis: usize| ((windows[axis] - 1) * window.strides[axis] + 1) as i64;
    let wanted = |axis: usize| (x_shape[axis] + window.size[axis] - 1) as i64;
    let high = (0..rank).map(|axis| wanted(axis) - low[axis] - spread(axis)).collect();
    let spread = e.pad(g, 0.0, low, high, window.strides.iter().map(|stride| stride - 1).collect());
    let dense = Window { size: window.size.clone(), strides: vec![1; rank], low: vec![0; rank], high: vec![0; rank] };
    e.op(Op::ReduceWindow { kind: ReduceKind::Sum, window: dense }, &[spread])
}

/// For each window of `x` the element of `g` at the place of the first largest (smallest) element of x: a running choice over the places of the window.
fn select_from_windows(e: &mut Emitter, kind: ReduceKind, window: &Window, windows: &[usize], x: NodeId, g: NodeId) -> NodeId {
    let rank = windows.len();
    let (identity, better) = match kind {
        ReduceKind::Min => (f64::INFINITY, Compare::Less),
        _ => (f64::NEG_INFINITY, Compare::Greater),
    };
    let signed = |sizes: &[usize]| -> Vec<i64> { sizes.iter().map(|&size| size as i64).collect() };
    let x = e.pad(x, identity, signed(&window.low), signed(&window.high), vec![0; rank]);
    let g = e.pad(g, 0.0, signed(&window.low), signed(&window.high), vec![0; rank]);
    let mut best: Option<(NodeId, NodeId)> = None;
    for place in 0..element_count(&window.size) {
        let mut rest = place;
        let mut starts = vec![0; rank];
        for axis in (0..rank).rev() {
            starts[axis] = rest % window.size[axis];
            rest /= window.size[axis];
        }
        let limits = (0..rank).map(|axis| starts[axis] + (windows[axis] - 1) * window.strides[axis] + 1).collect();
        let slice = Op::Slice { starts, limits, strides: window.strides.clone() };
        let (value, gradient) = (e.op(slice.clone(), &[x]), e.op(slice, &[g]));
        best = Some(match best {
            None => (value, gradient),
            Some((best_value, best_gradient)) => {
                let is_better = e.compare(better, value, best_value);
                (e.select(is_better, value, best_value), e.select(is_better, gradient, best_gradient))
            }
        });
    }
    best.expect("a verified window has places").1
}

/// The axes of one operand of a dot product.
struct DotSide {
    batch: Vec<usize>,
    contract: Vec<usize>,
    free: Vec<usize>,
}

impl DotSide {
    fn new(rank: usize, batch: &[usize], contract: &[usize]) -> Self {
        DotSide { batch: batch.to_vec(), contract: contract.to_vec(), free: DotDims::free(rank, batch, contract) }
    }
}

/// What flows to the `own` side of a dot product: `g` and the `other` operand, summed over the other's free axes, which are axes `summed` of `g`.
fn dot_vjp(e: &mut Emitter, g: NodeId, other: NodeId, own_side: &DotSide, other_side: &DotSide, summed: Vec<usize>) -> NodeId {
    let g_batch: Vec<usize> = (0..own_side.batch.len()).collect();
    // What was contracted is free now, and a dot product keeps free axes in the order of the other operand.
    let mut pairs: Vec<(usize, usize)> = other_side.contract.iter().copied().zip(own_side.contract.iter().copied()).collect();
    pairs.sort_unstable();
    let contracted: Vec<usize> = pairs.into_iter().map(|(_, own)| own).collect();
    // The axes of `own` in the order in which each way round gives them; take the way that needs no transpose, if there is one.
    let g_first = [&own_side.batch[..], &own_side.free, &contracted].concat();
    let g_last = [&own_side.batch[..], &contracted, &own_side.free].concat();
    let (axes, product) = if g_last.is_sorted() && !g_first.is_sorted() {
        let (lhs_batch, lhs_contract) = (other_side.batch.clone(), other_side.free.clone());
        let dims = DotDims { lhs_batch, rhs_batch: g_batch, lhs_contract, rhs_contract: summed };
        (g_last, e.op(Op::DotGeneral { dims }, &[other, g]))
    } else {
        let (rhs_batch, rhs_contract) = (other_side.batch.clone(), other_side.free.clone());
        let dims = DotDims { lhs_batch: g_batch, rhs_batch, lhs_contract: summed, rhs_contract };
        (g_first, e.op(Op::DotGeneral { dims }, &[g, other]))
    };
    if axes.is_sorted() {
        return product;
    }
    let mut perm = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(from, &to)| perm[to] = from);
    e.op(Op::Transpose { perm }, &[product])
}

/// A rule for a composite of one result: output and cotangent to what flows to the inputs.
type CompositeVjp = Box<dyn Fn(&mut Flow, NodeId, NodeId)>;

/// The rule for a composite as a whole, where there is one that beats differentiating its body. Inputs, outputs and attributes must be exactly what the
/// name promises; anything else goes through the body.
fn composite_vjp(graph: &Graph, node: &Node) -> Option<CompositeVjp> {
    let Op::Composite { name, attrs, body } = &node.op else { return None };
    if let Some(gradient) = attention::gradient_of(graph, node) {
        // An error is told by the walk through the body.
        let (gradient, inputs) = (gradient.ok()?, node.inputs.clone());
        return Some(Box::new(move |flow, _, g| {
            let first = flow.emitter.op(gradient.clone(), &[&inputs[..], &[g]].concat());
            flow.to(0, |_| first);
            (1..inputs.len()).for_each(|index| flow.to(index, |e| e.op(Op::Result { index }, &[first])));
        }));
    }
    let along_axis: fn(&mut Emitter, usize, NodeId, NodeId) -> NodeId = match name.as_str() {
        // d x = y (g - sum(g y))
        "softmax" => |e, axis, y, g| {
            let product = e.multiply(g, y);
            let sum = e.reduce(ReduceKind::Sum, product, vec![axis]);
            let sums = e.repeat_along(sum, &[axis], y);
            let difference = e.subtract(g, sums);
            e.multiply(y, difference)
        },
        // d x = g - exp(y) sum(g)
        "log_softmax" => |e, axis, y, g| {
            let sum = e.reduce(ReduceKind::Sum, g, vec![axis]);
            let sums = e.repeat_along(sum, &[axis], y);
            let probabilities = e.unary(UnaryOp::Exponential, y);
            let product = e.multiply(probabilities, sums);
            e.subtract(g, product)
        },
        _ => return None,
    };
    let [input] = node.inputs[..] else { return None };
    let rank = node.ty.rank() as i64;
    let axis = attrs.get("axis")?.as_i64()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    let fits = attrs.len() == 1 && body.outputs.len() == 1 && *graph.ty(input) == node.ty && (0..rank).contains(&axis);
    fits.then(|| -> CompositeVjp { Box::new(move |flow, y, g| flow.to(0, |e| along_axis(e, axis as usize, y, g))) })
}

/// Appends nodes under one scope and location.
struct Emitter<'a> {
    graph: &'a mut Graph,
    scope: Arc<str>,
    location: Arc<str>,
}

impl Emitter<'_> {
    fn op(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = op.name();
        let pushed = self.graph.push(op, inputs, &self.scope, &self.location);
        pushed.unwrap_or_else(|error| panic!("a rule of the gradient made a `{name}` that does not fit: {error} ({})", self.location))
    }

    fn leaf(&mut self, op: Op, ty: TensorType) -> NodeId {
        self.graph.push_typed(op, vec![], ty, self.scope.clone(), self.location.clone())
    }

    fn ty(&self, id: NodeId) -> TensorType {
        self.graph.ty(id).clone()
    }

    fn splat(&mut self, ty: &TensorType, value: f64) -> NodeId {
        self.leaf(Op::Constant { value: Literal::splat(ty.clone(), value) }, ty.clone())
    }

    fn zeros_like(&mut self, x: NodeId) -> NodeId {
        let ty = self.ty(x);
        self.splat(&ty, 0.0)
    }

    fn ones_like(&mut self, x: NodeId) -> NodeId {
        let ty = self.ty(x);
        self.splat(&ty, 1.0)
    }

    fn unary(&mut self, function: UnaryOp, x: NodeId) -> NodeId {
        self.op(Op::Unary { function }, &[x])
    }

    fn binary(&mut self, function: BinaryOp, x: NodeId, y: NodeId) -> NodeId {
        self.op(Op::Binary { function }, &[x, y])
    }

    fn negate(&mut self, x: NodeId) -> NodeId {
        self.unary(UnaryOp::Negate, x)
    }

    fn add(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Add, x, y)
    }

    fn subtract(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Subtract, x, y)
    }

    fn multiply(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Multiply, x, y)
    }

    fn divide(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Divide, x, y)
    }

    fn scale(&mut self, x: NodeId, factor: f64) -> NodeId {
        let ty = self.ty(x);
        let factor = self.splat(&ty, factor);
        self.multiply(x, factor)
    }

    fn one_minus(&mut self, x: NodeId) -> NodeId {
        let ones = self.ones_like(x);
        self.subtract(ones, x)
    }

    fn compare(&mut self, direction: Compare, x: NodeId, y: NodeId) -> NodeId {
        self.op(Op::Compare { direction }, &[x, y])
    }

    fn select(&mut self, predicate: NodeId, on_true: NodeId, on_false: NodeId) -> NodeId {
        self.op(Op::Select, &[predicate, on_true, on_false])
    }

    fn reduce(&mut self, kind: ReduceKind, x: NodeId, axes: Vec<usize>) -> NodeId {
        self.op(Op::Reduce { kind, axes }, &[x])
    }

    fn reshape_as(&mut self, x: NodeId, like: NodeId) -> NodeId {
        let shape = self.ty(like).shape;
        self.op(Op::Reshape { shape }, &[x])
    }

    /// `x`, which lacks `axes` of `like`, repeated along them.
    fn repeat_along(&mut self, x: NodeId, axes: &[usize], like: NodeId) -> NodeId {
        let shape = self.ty(like).shape;
        let dims = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
        self.op(Op::BroadcastInDim { shape, dims }, &[x])
    }

    fn slice_axis(&mut self, x: NodeId, axis: usize, start: usize, limit: usize) -> NodeId {
        let mut limits = self.ty(x).shape;
        let mut starts = vec![0; limits.len()];
        let strides = vec![1; limits.len()];
        (starts[axis], limits[axis]) = (start, limit);
        self.op(Op::Slice { starts, limits, strides }, &[x])
    }

    fn pad(&mut self, x: NodeId, value: f64, low: Vec<i64>, high: Vec<i64>, interior: Vec<usize>) -> NodeId {
        let scalar = TensorType::new(self.ty(x).dtype, []);
        let value = self.splat(&scalar, value);
        self.op(Op::Pad { low, high, interior }, &[x, value])
    }
}
