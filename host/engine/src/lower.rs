//! Inlining of composites: a graph with named functions becomes a graph of primitives.
//!
//! `grad.rs` inlines the composites on a gradient path through here; the compiler inlines those that no kernel takes whole.

use solstice_ir::{Graph, Node, NodeId, Op};
use std::collections::{HashMap, HashSet};

/// Replaces every composite whose name `keep` refuses by its body, bodies within bodies included; the results of the composite become the body's
/// outputs.
///
/// A body's node without a scope or a location takes the composite's. Kept composites are copied as they are.
/// Cost: linear in the nodes of the result.
pub fn inline_composites(graph: &Graph, keep: &dyn Fn(&str) -> bool) -> Graph {
    inline_where(graph, &|_, _, node| !keep(&node.op.name()))
}

/// Chooses by the graph that a composite stands in, its id there, or `None` when that graph is an inlined body, and the composite.
type Choice<'a> = &'a dyn Fn(&Graph, Option<NodeId>, &Node) -> bool;

/// As [`inline_composites`], with a choice by node.
pub(crate) fn inline_where(graph: &Graph, inline: Choice) -> Graph {
    let mut result = Graph::new(graph.name.clone());
    let values = emit(&mut result, graph, None, inline);
    result.outputs = graph.outputs.clone();
    result.updates = graph.updates.clone();
    result.outputs.iter_mut().for_each(|output| output.node = values[output.node.index()]);
    result.updates.iter_mut().for_each(|update| update.node = values[update.node.index()]);
    result
}

/// Appends `graph` to `result` and returns where each node's value went. `call` is the composite node and its arguments when `graph` is a body.
fn emit(result: &mut Graph, graph: &Graph, call: Option<(&Node, &[NodeId])>, inline: Choice) -> Vec<NodeId> {
    let differentiated = values_differentiated_by(graph);
    let mut values: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    let mut results_of: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut arguments = call.map(|(_, arguments)| arguments.iter().copied());
    for id in graph.ids() {
        let node = &graph.nodes[id.index()];
        let (scope, location) = match call {
            Some((outer, _)) => (
                if node.scope.is_empty() { &outer.scope } else { &node.scope },
                if node.location.is_empty() { &outer.location } else { &node.location },
            ),
            None => (&node.scope, &node.location),
        };
        let inputs: Vec<NodeId> = node.inputs.iter().map(|input| values[input.index()]).collect();
        let alias = match &node.op {
            Op::Parameter(_) => {
                arguments.as_mut().map(|rest| rest.next().expect("a verified composite has an argument for each parameter"))
            }
            Op::Composite { body, .. } if inline(graph, call.is_none().then_some(id), node) => {
                let call_site = Node { scope: scope.clone(), location: location.clone(), ..node.clone() };
                let inner = emit(result, body, Some((&call_site, &inputs)), inline);
                let outputs: Vec<NodeId> = body.outputs.iter().map(|output| inner[output.node.index()]).collect();
                let first = outputs[0];
                results_of.insert(id, outputs);
                Some(first)
            }
            Op::Result { index } => results_of.get(&node.inputs[0]).map(|outputs| match index {
                0 => values[node.inputs[0].index()],
                _ => outputs[*index],
            }),
            _ => None,
        };
        let value = match alias {
            // A value that somebody differentiates by stays a node of its own: merged with another value it would have that one's gradient.
            Some(value) if differentiated.contains(&id) => {
                let shape = node.ty.shape.clone();
                result.push_typed(Op::Reshape { shape }, vec![value], node.ty.clone(), scope.clone(), location.clone())
            }
            Some(value) => value,
            None => result.push_typed(node.op.clone(), inputs, node.ty.clone(), scope.clone(), location.clone()),
        };
        values.push(value);
    }
    values
}

/// Nodes that some `Grad` of the graph differentiates by; for the first result of a node, that node.
pub(crate) fn values_differentiated_by(graph: &Graph) -> HashSet<NodeId> {
    let gradients = graph.nodes.iter().filter(|node| matches!(node.op, Op::Grad));
    gradients.flat_map(|node| node.inputs[1..].iter().map(|input| first_result(graph, *input))).collect()
}

/// The node that `id` is another name of: `Result 0` is its producer.
pub(crate) fn first_result(graph: &Graph, id: NodeId) -> NodeId {
    match graph.node(id) {
        Node { op: Op::Result { index: 0 }, inputs, .. } => inputs[0],
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_ir::{BinaryOp, DType, Output, Parameter, Role, TensorType, UnaryOp};
    use std::sync::Arc;

    fn parameter(graph: &mut Graph, name: &str) -> NodeId {
        let op = Op::Parameter(Parameter { name: name.into(), role: Role::Input, init: None });
        graph.push_typed(op, vec![], TensorType::new(DType::F32, [2]), "".into(), "".into())
    }

    fn push(graph: &mut Graph, op: Op, inputs: &[NodeId], scope: &str, location: &str) -> NodeId {
        graph.push(op, inputs, &Arc::from(scope), &Arc::from(location)).unwrap()
    }

    fn composite(name: &str, body: Graph) -> Op {
        Op::Composite { name: name.into(), attrs: Default::default(), body: Box::new(body) }
    }

    /// `pair(x, y) = (neg_exp(x), y)` with `neg_exp(x) = -exp(x)`, called on (a, b); result 1 is used.
    fn nested() -> Graph {
        let mut inner = Graph::new("neg_exp");
        let x = parameter(&mut inner, "x");
        let exponential = push(&mut inner, Op::Unary { function: UnaryOp::Exponential }, &[x], "", "");
        let negated = push(&mut inner, Op::Unary { function: UnaryOp::Negate }, &[exponential], "own", "own.rs:1");
        inner.outputs = vec![Output { name: "y".into(), node: negated }];
        let mut pair = Graph::new("pair");
        let (x, y) = (parameter(&mut pair, "x"), parameter(&mut pair, "y"));
        let first = push(&mut pair, composite("neg_exp", inner), &[x], "", "");
        pair.outputs = vec![Output { name: "first".into(), node: first }, Output { name: "second".into(), node: y }];
        let mut graph = Graph::new("outer");
        let (a, b) = (parameter(&mut graph, "a"), parameter(&mut graph, "b"));
        let call = push(&mut graph, composite("pair", pair), &[a, b], "model", "m.rs:9");
        let second = push(&mut graph, Op::Result { index: 1 }, &[call], "model", "m.rs:9");
        let sum = push(&mut graph, Op::Binary { function: BinaryOp::Add }, &[call, second], "model", "m.rs:10");
        graph.outputs = vec![Output { name: "sum".into(), node: sum }];
        graph.verify().unwrap();
        graph
    }

    #[test]
    fn bodies_within_bodies_become_primitives_at_the_authors_line() {
        let lowered = inline_composites(&nested(), &|_| false);
        lowered.verify().unwrap();
        let printed: Vec<(String, &str, &str)> = lowered.nodes.iter().map(|node| (node.op.name(), &*node.scope, &*node.location)).collect();
        let wanted = [
            ("parameter", "", ""),
            ("parameter", "", ""),
            ("exponential", "model", "m.rs:9"),
            ("negate", "own", "own.rs:1"),
            ("add", "model", "m.rs:10"),
        ];
        assert_eq!(printed, wanted.map(|(op, scope, location)| (op.to_string(), scope, location)));
        // Result 1 of the pair is its second argument.
        assert_eq!(lowered.nodes[4].inputs, [NodeId(3), NodeId(1)]);
    }

    #[test]
    fn kept_composites_stay_whole() {
        let kept = inline_composites(&nested(), &|name| name == "neg_exp");
        kept.verify().unwrap();
        let names: Vec<String> = kept.nodes.iter().map(|node| node.op.name()).collect();
        assert_eq!(names, ["parameter", "parameter", "neg_exp", "add"]);
        assert_eq!(inline_composites(&nested(), &|_| true), nested());
    }
}
