//! Dynamic loss scaling: gradients that f16 cannot hold, made large enough for the way back through the network, and small again before anybody sees them.
//!
//! [`with_loss_scale`] rewrites a step before its gradients are expanded: each `Grad` is of the loss times the scale, and its results are divided by it, so
//! norms, bounds, optimizers and probes see the gradients that they would see without. The scale and its counts are state tensors, which makes checkpoints
//! and forks whole; everything happens on the device. It does not decide what is f16: that is `precision.rs`.
//!
//! Source of the rule and its figures: `torch.amp.GradScaler` (PyTorch 2), after Micikevicius et al., "Mixed Precision Training", 2018.

use solstice_ir::{
    BinaryOp, Compare, DType, Graph, Init, Literal, Node, NodeId, Op, Parameter, ReduceKind, Role, TensorType, UnaryOp, Update,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The scale at the start: `init_scale` of `torch.amp.GradScaler`.
pub const FIRST_SCALE: f64 = 65536.0;

/// A step whose gradients overflow is left out, and the scale is halved: `backoff_factor`.
pub const BACKOFF: f64 = 0.5;

/// After [`GROWTH_STEPS`] good steps in a row the scale is doubled: `growth_factor`.
pub const GROWTH: f64 = 2.0;

/// As `growth_interval`.
pub const GROWTH_STEPS: f64 = 2000.0;

/// The scale is halved no further: gradients that overflow by themselves are a run that diverges, and are treated as without scaling. PyTorch has no such
/// end; there a diverged run goes on for ever with a scale of 0.
pub const LEAST_SCALE: f64 = 1.0;

/// State tensor of the scale: f32 scalar.
pub const SCALE: &str = "precision.loss_scale";

/// State tensor of the good steps since the scale last changed: f32 scalar.
pub const GOOD_STEPS: &str = "precision.good_steps";

/// State tensor that is 1 when an earlier micro-batch of this step has overflowed: f32 scalar. In steps of several micro-batches alone.
pub const OVERFLOWED: &str = "precision.overflowed";

/// State tensor of the steps that were left out so far: f32 scalar. In steps whose optimizer counts steps alone.
pub const SKIPPED_STEPS: &str = "precision.skipped_steps";

/// Where a graph stands in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPart {
    /// It is the step.
    Whole,
    /// A micro-batch that others follow: an overflow is remembered.
    Gather,
    /// The last micro-batch: the step is left out when any of them has overflowed.
    Apply,
}

/// A rewritten step.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// The step.
    pub graph: Graph,
    /// Where each value of the old graph is in the new one; the results of a `Grad` as they are after the division.
    pub places: Vec<NodeId>,
    /// True where this step is left out: bool scalar.
    pub is_skipped: NodeId,
    /// The scale that this step worked with: f32 scalar.
    pub scale: NodeId,
}

/// `graph` with every loss scaled, its gradients scaled back, and the rule that changes the scale. `None` for a graph without gradients.
///
/// When a loss is finite and a gradient of this step is not, nothing that depends on gradients changes: weights, optimizer state, running statistics that a
/// step gates, counters of bad steps. What the forward pass alone says, such as the sums behind a mean loss, is counted all the same. A loss that is not
/// finite is no matter of the scale, and goes its way as without.
///
/// What is made of gradients and of the number of the step, such as Adam's correction of its bias, sees the steps that were taken: PyTorch's optimizers, which
/// are not called for the others, count so too. Schedules and random numbers go by the steps of the run.
///
/// A gradient inside a composite is left as it is. Cost: one multiplication an element of a gradient, which fuses with what reads it; the sums of squares are
/// those of a step's own norm.
pub fn with_loss_scale(graph: &Graph, part: StepPart) -> Option<Scaled> {
    let losses: BTreeSet<NodeId> = graph.nodes.iter().filter(|node| node.op == Op::Grad).map(|node| node.inputs[0]).collect();
    if losses.is_empty() {
        return None;
    }
    let mut builder = Builder { graph: Graph::new(graph.name.clone()), at: (Arc::from("precision"), Arc::from("")) };
    let scale = builder.state(SCALE, FIRST_SCALE);
    let good_steps = builder.state(GOOD_STEPS, 0.0);
    let overflowed = (part != StepPart::Whole).then(|| builder.state(OVERFLOWED, 0.0));
    let depends = depends_on_gradients(graph);
    let is_of_step = made_of_the_step_alone(graph);
    let counts = graph.ids().any(|id| depends[id.index()] && graph.node(id).inputs.iter().any(|input| is_of_step[input.index()]));
    let skipped_steps = (counts && part != StepPart::Gather).then(|| builder.state(SKIPPED_STEPS, 0.0));
    let one = builder.constant(1.0);
    // A power of two, so that scaling and scaling back round nothing.
    let inverse = builder.binary(BinaryOp::Divide, one, scale);

    let mut places: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    // The `Grad` itself, whose other results are named by `Result`.
    let mut raw: HashMap<NodeId, NodeId> = HashMap::new();
    let mut gradients: Vec<NodeId> = Vec::new();
    // What is made of the step alone, made of the number of steps taken instead.
    let mut of_taken: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        builder.at = (node.scope.clone(), node.location.clone());
        let place_of = |input: &NodeId| places[input.index()];
        let counted_of = |input: &NodeId| of_taken.get(input).copied().unwrap_or(place_of(input));
        let counted: Vec<NodeId> = node.inputs.iter().map(counted_of).collect();
        let mut inputs = if depends[id.index()] { counted.clone() } else { node.inputs.iter().map(place_of).collect() };
        let place = match &node.op {
            Op::Grad => {
                inputs[0] = builder.binary(BinaryOp::Multiply, inputs[0], scale);
                let all = builder.copy(node, inputs);
                raw.insert(id, all);
                let gradient = builder.times(all, inverse);
                gradients.push(gradient);
                gradient
            }
            Op::Result { index } if raw.contains_key(&node.inputs[0]) => match index {
                0 => places[node.inputs[0].index()],
                _ => {
                    let one_of = builder.copy(node, vec![raw[&node.inputs[0]]]);
                    let gradient = builder.times(one_of, inverse);
                    gradients.push(gradient);
                    gradient
                }
            },
            _ => builder.copy(node, inputs),
        };
        places.push(place);
        if let (true, Some(skipped)) = (is_of_step[id.index()], skipped_steps) {
            let taken = match &node.op {
                Op::Parameter(_) => {
                    let skipped = builder.push(Op::Convert { to: node.ty.dtype }, &[skipped]);
                    builder.binary(BinaryOp::Subtract, place, skipped)
                }
                _ => builder.copy(node, counted),
            };
            of_taken.insert(id, taken);
        }
    }

    builder.at = (Arc::from("precision"), Arc::from(""));
    let sum = builder.sum_of_squares(&gradients);
    let is_finite = builder.is_finite(sum);
    let mut is_overflow = builder.not(is_finite);
    for loss in losses {
        let is_finite = builder.is_finite(places[loss.index()]);
        is_overflow = builder.binary(BinaryOp::And, is_overflow, is_finite);
    }
    let least = builder.constant(LEAST_SCALE);
    let may_shrink = builder.compare(Compare::Greater, scale, least);
    let mut is_skipped = builder.binary(BinaryOp::And, is_overflow, may_shrink);
    let zero = builder.constant(0.0);
    if let (StepPart::Apply, Some(before)) = (part, overflowed) {
        let was = builder.compare(Compare::Greater, before, zero);
        is_skipped = builder.binary(BinaryOp::Or, is_skipped, was);
    }

    let is_taken = builder.not(is_skipped);
    for update in &graph.updates {
        let value = places[update.node.index()];
        let value = if depends[update.node.index()] {
            let state = graph.parameter(&update.state).expect("a verified graph declares the states that it updates");
            builder.gate(is_taken, value, places[state.index()])
        } else {
            value
        };
        builder.update(&update.state, value);
    }
    if part == StepPart::Gather {
        let before = overflowed.expect("a part of a step remembers");
        let after = builder.choose(is_skipped, one, before);
        builder.update(OVERFLOWED, after);
    } else {
        let (shrunk, grown) = (builder.times_constant(scale, BACKOFF), builder.times_constant(scale, GROWTH));
        let counted = builder.binary(BinaryOp::Add, good_steps, one);
        let wanted = builder.constant(GROWTH_STEPS);
        let is_time = builder.compare(Compare::GreaterEqual, counted, wanted);
        let after_good = builder.choose(is_time, grown, scale);
        let after = builder.choose(is_skipped, shrunk, after_good);
        builder.update(SCALE, after);
        let begins_anew = builder.binary(BinaryOp::Or, is_skipped, is_time);
        let count = builder.choose(begins_anew, zero, counted);
        builder.update(GOOD_STEPS, count);
        if overflowed.is_some() {
            builder.update(OVERFLOWED, zero);
        }
    }
    if let Some(before) = skipped_steps {
        let more = builder.choose(is_skipped, one, zero);
        let after = builder.binary(BinaryOp::Add, before, more);
        builder.update(SKIPPED_STEPS, after);
    }
    let mut graph_after = builder.graph;
    graph_after.outputs = graph.outputs.clone();
    graph_after.outputs.iter_mut().for_each(|output| output.node = places[output.node.index()]);
    Some(Scaled { graph: graph_after, places, is_skipped, scale })
}

/// Values that are not what they are without the gradients.
fn depends_on_gradients(graph: &Graph) -> Vec<bool> {
    let mut depends = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        depends[index] = node.op == Op::Grad || node.inputs.iter().any(|input| depends[input.index()]);
    }
    depends
}

/// Values that are computed from the number of the step, constants and nothing else.
fn made_of_the_step_alone(graph: &Graph) -> Vec<bool> {
    let mut is_constant = vec![false; graph.nodes.len()];
    let mut is_of_step = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        match &node.op {
            Op::Constant { .. } => is_constant[index] = true,
            Op::Parameter(parameter) => is_of_step[index] = parameter.name == "run.step",
            Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select | Op::Convert { .. } | Op::BroadcastInDim { .. } => {
                let is_known = |input: &NodeId| is_constant[input.index()] || is_of_step[input.index()];
                let knows_all = node.inputs.iter().all(is_known);
                let has_step = node.inputs.iter().any(|input| is_of_step[input.index()]);
                (is_constant[index], is_of_step[index]) = (knows_all && !has_step, knows_all && has_step);
            }
            _ => {}
        }
    }
    is_of_step
}

/// Appends nodes to a graph.
struct Builder {
    graph: Graph,
    /// Scope and location of new nodes.
    at: (Arc<str>, Arc<str>),
}

impl Builder {
    fn push(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(op, inputs, &self.at.0, &self.at.1).expect("scalars and gradients of one type")
    }

    fn copy(&mut self, node: &Node, inputs: Vec<NodeId>) -> NodeId {
        self.graph.push_typed(node.op.clone(), inputs, node.ty.clone(), self.at.0.clone(), self.at.1.clone())
    }

    fn state(&mut self, name: &str, first: f64) -> NodeId {
        let parameter = Parameter { name: name.into(), role: Role::OptState, init: Some(Init::Constant(first)) };
        self.graph.push_typed(Op::Parameter(parameter), vec![], TensorType::new(DType::F32, []), self.at.0.clone(), self.at.1.clone())
    }

    fn splat(&mut self, ty: TensorType, value: f64) -> NodeId {
        let op = Op::Constant { value: Literal::splat(ty.clone(), value) };
        self.graph.push_typed(op, vec![], ty, self.at.0.clone(), self.at.1.clone())
    }

    fn constant(&mut self, value: f64) -> NodeId {
        self.splat(TensorType::new(DType::F32, []), value)
    }

    fn update(&mut self, state: &str, node: NodeId) {
        self.graph.updates.push(Update { state: state.into(), node });
    }

    fn binary(&mut self, function: BinaryOp, x: NodeId, y: NodeId) -> NodeId {
        self.push(Op::Binary { function }, &[x, y])
    }

    fn compare(&mut self, direction: Compare, x: NodeId, y: NodeId) -> NodeId {
        self.push(Op::Compare { direction }, &[x, y])
    }

    fn not(&mut self, x: NodeId) -> NodeId {
        self.push(Op::Unary { function: UnaryOp::Not }, &[x])
    }

    /// A scalar in the shape of `like`.
    fn spread(&mut self, scalar: NodeId, like: NodeId) -> NodeId {
        let shape = self.graph.ty(like).shape.clone();
        if shape.is_empty() { scalar } else { self.push(Op::BroadcastInDim { shape, dims: vec![] }, &[scalar]) }
    }

    fn times(&mut self, x: NodeId, scalar: NodeId) -> NodeId {
        let factor = self.spread(scalar, x);
        self.binary(BinaryOp::Multiply, x, factor)
    }

    fn times_constant(&mut self, x: NodeId, factor: f64) -> NodeId {
        let factor = self.constant(factor);
        self.binary(BinaryOp::Multiply, x, factor)
    }

    /// `predicate ? on_true : on_false` for a scalar predicate.
    fn choose(&mut self, predicate: NodeId, on_true: NodeId, on_false: NodeId) -> NodeId {
        let predicate = self.spread(predicate, on_true);
        self.push(Op::Select, &[predicate, on_true, on_false])
    }

    /// `is_taken ? value : state`. Where the value has such a gate already, that one gets a second condition, so that the new value stays behind one
    /// selection.
    fn gate(&mut self, is_taken: NodeId, value: NodeId, state: NodeId) -> NodeId {
        let (predicate, value) = match self.graph.node(value) {
            Node { op: Op::Select, inputs, .. } if inputs[2] == state => (Some(inputs[0]), inputs[1]),
            _ => (None, value),
        };
        let Some(predicate) = predicate else { return self.choose(is_taken, value, state) };
        let scalar = match self.graph.node(predicate) {
            Node { op: Op::BroadcastInDim { .. }, inputs, .. } if self.graph.ty(inputs[0]).rank() == 0 => inputs[0],
            _ => predicate,
        };
        let is_taken = self.spread(is_taken, scalar);
        let both = self.binary(BinaryOp::And, scalar, is_taken);
        let both = if scalar == predicate { both } else { self.spread(both, value) };
        self.push(Op::Select, &[both, value, state])
    }

    /// As `Step::norm` of the plugin API writes it, so that both are one sum.
    fn sum_of_squares(&mut self, tensors: &[NodeId]) -> NodeId {
        let mut total = self.constant(0.0);
        for &tensor in tensors {
            let square = self.binary(BinaryOp::Multiply, tensor, tensor);
            let axes: Vec<usize> = (0..self.graph.ty(tensor).rank()).collect();
            let sum = self.push(Op::Reduce { kind: ReduceKind::Sum, axes }, &[square]);
            total = self.binary(BinaryOp::Add, total, sum);
        }
        total
    }

    /// From the exponent's bits, as drivers may fold comparisons with itself away.
    fn is_finite(&mut self, x: NodeId) -> NodeId {
        let bits = self.push(Op::BitcastConvert { to: DType::U32 }, &[x]);
        let exponent = self.splat(TensorType::new(DType::U32, []), f64::from(0x7f80_0000u32));
        let masked = self.binary(BinaryOp::And, bits, exponent);
        self.compare(Compare::NotEqual, masked, exponent)
    }
}
