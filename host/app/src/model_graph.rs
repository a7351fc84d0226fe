//! The model as a drawing would show it: modules and the ops between them as nodes, the flow of data as edges. A function of a traced step.
//!
//! Ops of one module that hang together are one node. Ops that stand in a module with children (a residual sum, an activation between two layers) are
//! small nodes of their own, named by what they do, so that the flow through a block can be followed. Weights, constants, masks and metrics are no
//! nodes. `summary.rs` makes the table beside it.

use crate::summary::Module;
use serde::Serialize;
use solstice_ir::{Graph, NodeId, Op, ReduceKind, Role};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Larger graphs can be drawn by nobody and looked through by nobody.
const NODES_MAX: usize = 2000;

/// Nodes in the order in which data meets them, edges as pairs of places.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModelGraph {
    /// Inputs, modules, ops, outputs.
    pub nodes: Vec<GraphNode>,
    /// From where to where.
    pub edges: Vec<[usize; 2]>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphNode {
    /// `input`, `module`, `op`, `output`.
    pub kind: &'static str,
    /// The module that it is, or that it stands in; empty outside of all.
    pub module: String,
    /// What is written on it: `fc1`, `add`, `image`.
    pub name: String,
    /// `linear`, `layer_norm`; the op.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it hands on: `f32[64,10]`.
    pub shape: String,
    /// Numbers in the module's weights.
    pub parameters: usize,
}

/// What a value of the traced step is to the drawing.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    /// A constant, a mask, a runtime scalar.
    Neutral,
    /// Made of weights alone; of this module.
    Weight(usize),
    /// Data that flows.
    Data,
    /// A metric, a gradient or what follows from it.
    Aside,
}

/// The graph of `graph`, which is best an evaluation step; `observed` are the values that the experiment shows, `modules` the rows of its summary.
/// `None` for one that is too large to draw.
pub fn model_graph(graph: &Graph, observed: &BTreeMap<String, NodeId>, modules: &[Module]) -> Option<ModelGraph> {
    // Unit 0 is what stands outside of all modules.
    let paths: Vec<&str> = std::iter::once("").chain(modules.iter().map(|module| module.module.as_str())).collect();
    let unit_of: HashMap<&str, usize> = paths.iter().enumerate().map(|(unit, path)| (*path, unit)).collect();
    let unit_around = |scope: &str| {
        let around = std::iter::successors(Some(scope), |path| path.rsplit_once('.').map(|(parent, _)| parent));
        around.filter_map(|path| unit_of.get(path).copied()).next().unwrap_or(0)
    };
    let is_below = |path: &str, parent: &str| parent.is_empty() || path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('.'));

    let count = graph.nodes.len();
    let parents: HashSet<&str> = modules.iter().filter_map(|module| module.module.rsplit_once('.').map(|(parent, _)| parent)).collect();
    let live: Vec<NodeId> = crate::summary::live(graph);
    let mut values = vec![Value::Neutral; count];
    // Of data: its unit, and how often the way to it has left that unit before. Two nodes of one unit and rank are on no way that leaves the unit
    // between them, so they may be drawn as one.
    let mut places = vec![(0usize, 0u32); count];
    let mut ranks_seen: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); count];
    let mut clusters = Clusters((0..count).collect());
    for &id in &live {
        let node = graph.node(id);
        let inputs = || node.inputs.iter().map(|input| input.index());
        let is_metric = node.scope.split('.').next() == Some("metrics");
        let value = match &node.op {
            Op::Parameter(parameter) => match parameter.role {
                Role::Input if parameter.name == "batch.mask" => Value::Neutral,
                Role::Input => Value::Data,
                Role::Param | Role::ModelState => {
                    Value::Weight(unit_around(parameter.name.rsplit_once('.').map_or("", |(owner, _)| owner)))
                }
                _ => Value::Neutral,
            },
            Op::Grad => Value::Aside,
            _ if is_metric || inputs().any(|input| values[input] == Value::Aside) => Value::Aside,
            _ if inputs().any(|input| values[input] == Value::Data) => Value::Data,
            _ => inputs().map(|input| values[input]).find(|value| matches!(value, Value::Weight(_))).unwrap_or(Value::Neutral),
        };
        values[id.index()] = value;
        if value != Value::Data || matches!(node.op, Op::Parameter(_)) {
            continue;
        }
        let mut unit = unit_around(&node.scope);
        for input in inputs() {
            // A lookup belongs to the embedding that it reads, wherever it is made.
            if let Value::Weight(owner) = values[input]
                && is_below(paths[owner], paths[unit])
            {
                unit = owner;
            }
        }
        let mut seen: BTreeMap<usize, u32> = BTreeMap::new();
        let mut rank = 0;
        for input in inputs().filter(|input| values[*input] == Value::Data) {
            let is_inside = !is_input(graph, input) && places[input].0 == unit;
            let before = ranks_seen[input].get(&unit).copied();
            rank = rank.max(before.map_or(0, |before| if is_inside { before } else { before + 1 }));
            for (&other, &rank) in &ranks_seen[input] {
                let entry = seen.entry(other).or_insert(0);
                *entry = rank.max(*entry);
            }
        }
        seen.insert(unit, rank);
        places[id.index()] = (unit, rank);
        ranks_seen[id.index()] = seen;
        for input in inputs().filter(|input| values[*input] == Value::Data && !is_input(graph, *input)) {
            if places[input] == (unit, rank) {
                clusters.join(input, id.index());
            }
        }
    }

    // Nodes in the order of their first op; of one that only changes the form of what flows, the drawing says nothing.
    let mut members: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
    let mut order = vec![];
    for &id in live.iter().filter(|id| values[id.index()] == Value::Data) {
        let root = clusters.root(id.index());
        let list = members.entry(root).or_default();
        if list.is_empty() {
            order.push(root);
        }
        list.push(id);
    }
    if order.len() > NODES_MAX {
        return None;
    }
    let is_form = |root: &usize| {
        let list = &members[root];
        let path = paths[places[list[0].index()].0];
        let is_module = !path.is_empty() && !parents.contains(path);
        !is_input(graph, list[0].index()) && !is_module && list.iter().all(|id| is_movement(&graph.node(*id).op))
    };
    let forms: HashSet<usize> = order.iter().copied().filter(is_form).collect();
    order.retain(|root| !forms.contains(root));
    let number: HashMap<usize, usize> = order.iter().enumerate().map(|(number, root)| (*root, number)).collect();
    let mut edges = BTreeSet::new();
    let mut handed_on: HashMap<usize, NodeId> = HashMap::new();
    // What flows into a change of form, by its root: that flows out of it.
    let mut through: HashMap<usize, BTreeSet<usize>> = HashMap::new();
    for &id in live.iter().filter(|id| values[id.index()] == Value::Data) {
        let to = clusters.root(id.index());
        for input in graph.node(id).inputs.iter().filter(|input| values[input.index()] == Value::Data) {
            let from = clusters.root(input.index());
            if from == to {
                continue;
            }
            let last = handed_on.entry(from).or_insert(*input);
            *last = (*last).max(*input);
            let sources = through.get(&from).cloned().unwrap_or_else(|| BTreeSet::from([from]));
            match forms.contains(&to) {
                true => through.entry(to).or_default().extend(sources),
                false => edges.extend(sources.iter().filter_map(|from| number.get(from)).map(|from| [*from, number[&to]])),
            }
        }
    }
    let mut nodes: Vec<GraphNode> = vec![];
    for root in &order {
        let (list, first) = (&members[root], members[root][0]);
        if let Op::Parameter(parameter) = &graph.node(first).op {
            let name = parameter.name.strip_prefix("batch.").unwrap_or(&parameter.name).to_owned();
            nodes.push(GraphNode {
                kind: "input",
                module: String::new(),
                name,
                ty: "input".into(),
                shape: graph.ty(first).to_string(),
                parameters: 0,
            });
            continue;
        }
        let unit = places[first.index()].0;
        let (label, main) = label(graph, list);
        let shape = graph.ty(handed_on.get(root).copied().unwrap_or(main)).to_string();
        let module = unit.checked_sub(1).map(|index| &modules[index]);
        let path = paths[unit].to_owned();
        nodes.push(match module.filter(|module| !parents.contains(module.module.as_str())) {
            Some(module) => {
                let name = module.module.rsplit('.').next().unwrap_or_default().to_owned();
                let ty = module.kind.clone().unwrap_or(label);
                GraphNode { kind: "module", module: path, name, ty, shape, parameters: module.figures.parameters }
            }
            None => GraphNode { kind: "op", module: path, name: label.clone(), ty: label, shape, parameters: 0 },
        });
    }
    for (name, id) in observed {
        let is_shown = values.get(id.index()) == Some(&Value::Data) && !is_input(graph, id.index()) && places[id.index()].0 > 0;
        let root = clusters.root(id.index());
        let sources = through.get(&root).cloned().unwrap_or_else(|| BTreeSet::from([root]));
        let from: Vec<usize> = sources.iter().filter_map(|root| number.get(root)).copied().collect();
        if is_shown && !from.is_empty() {
            edges.extend(from.into_iter().map(|from| [from, nodes.len()]));
            let shape = graph.ty(*id).to_string();
            nodes.push(GraphNode { kind: "output", module: String::new(), name: name.clone(), ty: "output".into(), shape, parameters: 0 });
        }
    }
    Some(ModelGraph { nodes, edges: edges.into_iter().collect() })
}

/// Changes the form of a value, or where it stands, and nothing else.
fn is_movement(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. } | Op::Transpose { .. } | Op::BroadcastInDim { .. } | Op::Slice { .. } | Op::Convert { .. } | Op::StopGradient
    )
}

fn is_input(graph: &Graph, index: usize) -> bool {
    matches!(graph.nodes[index].op, Op::Parameter(_))
}

/// Sets of nodes, each known by one of them.
struct Clusters(Vec<usize>);

impl Clusters {
    fn root(&mut self, mut node: usize) -> usize {
        while self.0[node] != node {
            self.0[node] = self.0[self.0[node]];
            node = self.0[node];
        }
        node
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[other] = one;
    }
}

/// What some ops that hang together do, in a word or two, and the op that says so.
fn label(graph: &Graph, members: &[NodeId]) -> (String, NodeId) {
    let named: Vec<(u8, String, NodeId)> = members.iter().filter_map(|id| word(graph, *id).map(|(tier, word)| (tier, word, *id))).collect();
    let Some(best) = named.iter().map(|(tier, ..)| *tier).min() else {
        let last = members[members.len() - 1];
        return (graph.node(last).op.name(), last);
    };
    let mut words: Vec<&str> = vec![];
    for (_, word, _) in named.iter().filter(|(tier, ..)| *tier == best) {
        if !words.contains(&word.as_str()) {
            words.push(word);
        }
    }
    let more = if words.len() > 2 { " + …" } else { "" };
    let main = named.iter().rev().find(|(tier, ..)| *tier == best).expect("found above").2;
    (words[..words.len().min(2)].join(" + ") + more, main)
}

/// How much an op tells (less is more), and its word; `None` for a part of another op's word.
fn word(graph: &Graph, id: NodeId) -> Option<(u8, String)> {
    let node = graph.node(id);
    let is_zero =
        |id: NodeId| matches!(&graph.node(id).op, Op::Constant { value } if value.ty.element_count() > 0 && value.value(0) == 0.0);
    Some(match &node.op {
        Op::Composite { name, .. } => (0, name.strip_suffix("_eval").unwrap_or(name).into()),
        Op::DotGeneral { .. } => (0, "matmul".into()),
        Op::Convolution { .. } | Op::ConvolutionInputGrad { .. } => (0, "convolution".into()),
        Op::Gather { .. } => (0, "lookup".into()),
        Op::ReduceWindow { kind: ReduceKind::Max, .. } => (0, "max_pool".into()),
        Op::ReduceWindow { kind: ReduceKind::Sum, .. } => (0, "average_pool".into()),
        Op::Select => {
            // What is compared is what comes out, or nothing does.
            let condition = graph.node(node.inputs[0]);
            let is_itself = matches!(condition.op, Op::Compare { .. }) && node.inputs[1..].contains(&condition.inputs[0]);
            if is_itself && node.inputs[1..].iter().any(|branch| is_zero(*branch)) { (0, "relu".into()) } else { (1, "select".into()) }
        }
        Op::Compare { .. } | Op::Result { .. } => return None,
        op if is_movement(op) => return None,
        _ => (1, node.op.name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Figures;
    use solstice_ir::{BinaryOp, DType, DotDims, Output, Parameter, TensorType, UnaryOp};
    use std::sync::Arc;

    fn leaf(graph: &mut Graph, name: &str, role: Role, shape: &[usize]) -> NodeId {
        let op = Op::Parameter(Parameter { name: name.into(), role, init: None });
        graph.push_typed(op, vec![], TensorType::new(DType::F32, shape), "".into(), "".into())
    }

    fn push(graph: &mut Graph, scope: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        graph.push(op, inputs, &Arc::from(scope), &Arc::from("")).unwrap()
    }

    fn linear(graph: &mut Graph, scope: &str, x: NodeId) -> NodeId {
        let weight = leaf(graph, &format!("{scope}.weight"), Role::Param, &[3, 3]);
        let dims = DotDims { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![1] };
        push(graph, scope, Op::DotGeneral { dims }, &[x, weight])
    }

    fn module(path: &str) -> Module {
        let depth = path.matches('.').count();
        Module { module: path.into(), depth, kind: None, output: None, figures: Figures { parameters: 9, ..Figures::default() } }
    }

    /// A block that adds its input to what two layers make of it, a loss outside, and a metric.
    #[test]
    fn a_residual_block_is_drawn_as_people_draw_it() {
        let mut g = Graph::new("step");
        let x = leaf(&mut g, "batch.x", Role::Input, &[2, 3]);
        let y = leaf(&mut g, "batch.y", Role::Input, &[2, 3]);
        let scaled = push(&mut g, "", Op::Binary { function: BinaryOp::Multiply }, &[x, x]);
        let scaled = push(&mut g, "model", Op::Transpose { perm: vec![0, 1] }, &[scaled]);
        let first = linear(&mut g, "model.block.fc", scaled);
        let tanh = push(&mut g, "model.block", Op::Unary { function: UnaryOp::Tanh }, &[first]);
        let second = linear(&mut g, "model.block.proj", tanh);
        let sum = push(&mut g, "model.block", Op::Binary { function: BinaryOp::Add }, &[scaled, second]);
        let head = linear(&mut g, "model.head", sum);
        let loss = push(&mut g, "", Op::Binary { function: BinaryOp::Subtract }, &[head, y]);
        let metric = push(&mut g, "metrics.0", Op::Binary { function: BinaryOp::Subtract }, &[head, y]);
        g.outputs = vec![Output { name: "loss".into(), node: loss }, Output { name: "metric".into(), node: metric }];
        g.verify().unwrap();
        let modules = ["model", "model.block", "model.block.fc", "model.block.proj", "model.head"].map(module);
        let observed = BTreeMap::from([("logits".to_owned(), head), ("target".to_owned(), y)]);
        let got = model_graph(&g, &observed, &modules).unwrap();
        let nodes: Vec<(&str, &str, &str)> = got.nodes.iter().map(|node| (node.kind, node.module.as_str(), node.name.as_str())).collect();
        let wanted = [
            ("input", "", "x"),
            ("input", "", "y"),
            ("op", "", "multiply"),
            ("module", "model.block.fc", "fc"),
            ("op", "model.block", "tanh"),
            ("module", "model.block.proj", "proj"),
            ("op", "model.block", "add"),
            ("module", "model.head", "head"),
            ("op", "", "subtract"),
            ("output", "", "logits"),
        ];
        assert_eq!(nodes, wanted);
        assert_eq!(got.edges, [[0, 2], [1, 8], [2, 3], [2, 6], [3, 4], [4, 5], [5, 6], [6, 7], [7, 8], [7, 9]]);
        assert_eq!((got.nodes[3].parameters, got.nodes[3].shape.as_str(), got.nodes[3].ty.as_str()), (9, "f32[2,3]", "matmul"));
    }
}
