//! Which tensor was the first to hold a number that is not finite: the step is run again, unfused, with every value watched.

use crate::train::Run;
use anyhow::Result;
use solstice_engine::{CompileOptions, Session, compile, device, grad, lower, simplify};
use solstice_ir::{BinaryOp, Compare, DType, Graph, Literal, Node, NodeId, Op, Output, ReduceKind, TensorType};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a bad number first stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadTensor {
    /// The step (from 0) that made it.
    pub step: u64,
    /// `log model.fc1: f32[64,10] (plugins/mlp/src/lib.rs:41)`.
    pub description: String,
}

/// Looks through `steps` for the first whose loss or gradients are not finite in the run's present state.
///
/// The state must be the last good one, which a step with a bad number leaves untouched.
pub fn first_bad_tensor(run: &mut Run, steps: std::ops::Range<u64>) -> Result<Option<BadTensor>> {
    let watched = watched_graph(&run.train.trace.graph)?;
    let (runtime, _) = device::open(&device::DeviceRequest::Cpu)?;
    let mut session = Session::new(runtime);
    for (_, parameter, ty) in watched.graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
        let bytes = run.session.read_state(&parameter.name)?;
        session.write_state(&parameter.name, ty, &bytes)?;
    }
    let program = session.load(compile(&watched.graph, &CompileOptions { fuse: false, ..CompileOptions::default() })?.plan)?;
    for step in steps {
        let loaded = run.load_step(step)?;
        let (inputs, scalars) = run.step_inputs(step, &loaded);
        let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let scalars: Vec<(&str, u32)> = scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).collect();
        let flags = session.run(program, &inputs, &scalars)?;
        let bad: BTreeSet<NodeId> =
            watched.values.iter().zip(&flags).filter(|(_, flag)| flag.iter().any(|&byte| byte != 0)).map(|(id, _)| *id).collect();
        if let Some(id) = origin(&watched, &bad) {
            return Ok(Some(BadTensor { step, description: describe(watched.graph.node(id)) }));
        }
    }
    Ok(None)
}

struct Watched {
    /// The step, then a flag for each watched value.
    graph: Graph,
    /// Watched values, in order of the flags.
    values: Vec<NodeId>,
    /// What the step would have written to its state.
    written: Vec<NodeId>,
}

/// The step with one flag (f32 scalar, not 0 when bad) for each value that may not be infinite or a NaN, in order of evaluation; no updates.
fn watched_graph(traced: &Graph) -> Result<Watched> {
    let mut graph = simplify::simplify(&lower::inline_composites(&grad::expand_gradients(traced)?, &|_| false));
    // The guard of a step selects between the new and the old value: the new one is what went bad.
    let written = graph
        .updates
        .iter()
        .map(|update| match &graph.node(update.node) {
            Node { op: Op::Select, inputs, .. } => inputs[1],
            _ => update.node,
        })
        .collect();
    graph.updates.clear();
    graph.outputs.clear();
    let empty: Arc<str> = Arc::from("");
    let values: Vec<NodeId> = graph
        .ids()
        .filter(|id| {
            let node = graph.node(*id);
            node.ty.dtype == DType::F32 && node.ty.element_count() > 0 && !matches!(node.op, Op::Constant { .. })
        })
        .collect();
    for &id in &values {
        let shape = graph.node(id).ty.shape.clone();
        let exponent_ty = TensorType::new(DType::U32, shape.clone());
        let value = Literal::splat(exponent_ty.clone(), f64::from(0x7f80_0000u32));
        let exponent = graph.push_typed(Op::Constant { value }, vec![], exponent_ty, empty.clone(), empty.clone());
        let mut push = |op: Op, inputs: &[NodeId]| graph.push(op, inputs, &empty, &empty).map_err(|error| anyhow::anyhow!(error.message));
        let bits = push(Op::BitcastConvert { to: DType::U32 }, &[id])?;
        let masked = push(Op::Binary { function: BinaryOp::And }, &[bits, exponent])?;
        let bad = push(Op::Compare { direction: Compare::Equal }, &[masked, exponent])?;
        let bad = push(Op::Convert { to: DType::F32 }, &[bad])?;
        let flag = push(Op::Reduce { kind: ReduceKind::Max, axes: (0..shape.len()).collect() }, &[bad])?;
        graph.outputs.push(Output { name: format!("flag{}", id.0), node: flag });
    }
    Ok(Watched { graph, values, written })
}

/// The earliest bad value on a path of bad values to something that the step writes.
///
/// A bad number that a selection threw away (a guarded logarithm, a masked score) does not count.
fn origin(watched: &Watched, bad: &BTreeSet<NodeId>) -> Option<NodeId> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<NodeId> = watched.written.iter().copied().filter(|id| bad.contains(id)).collect();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(watched.graph.node(id).inputs.iter().filter(|input| bad.contains(input)));
        }
    }
    reached.first().copied()
}

fn describe(node: &Node) -> String {
    let what = match &node.op {
        Op::Parameter(parameter) => format!("`{}`", parameter.name),
        op if node.scope.is_empty() => op.name(),
        op => format!("{} in `{}`", op.name(), node.scope),
    };
    let place = if node.location.is_empty() { String::new() } else { format!(" ({})", node.location) };
    format!("{what}, {}{place}", node.ty)
}
