//! What `trainer.precision: mixed` changes in a training step, and what its report says about it. Which memory is f16 is the engine's
//! (host/engine/src/precision.rs), as is the rule of the loss scale (host/engine/src/loss_scale.rs).

use solstice_engine::loss_scale::{Scaled, StepPart, with_loss_scale};
use solstice_ir::{BinaryOp, DType, Graph, Init, NodeId, Op, Output, Parameter, Role, TensorType, Update};
use solstice_plugin_abi::wire::{Accumulate, MetricPort, StepTrace};
use std::sync::Arc;

/// The step with a dynamic loss scale, and with two figures more: `overflows`, the steps since the last report that were left out because a gradient did not
/// fit into f16, and `loss_scale`, the mean of the scale over them. A step without gradients stays as it is.
pub fn scaled(trace: StepTrace, split: &str, part: Option<Accumulate>) -> StepTrace {
    let part = match part {
        None => StepPart::Whole,
        Some(Accumulate::Gather) => StepPart::Gather,
        Some(Accumulate::Apply) => StepPart::Apply,
    };
    let Some(Scaled { graph, places, is_skipped, scale }) = with_loss_scale(&trace.graph, part) else { return trace };
    let moved =
        |named: std::collections::BTreeMap<String, NodeId>| named.into_iter().map(|(name, node)| (name, places[node.index()])).collect();
    let mut step = StepTrace { graph, metrics: trace.metrics, gradients: moved(trace.gradients), observed: moved(trace.observed) };
    // A step of several micro-batches is counted once.
    if part != StepPart::Gather {
        let mut figures = Figures { graph: &mut step.graph, split, at: Arc::from("precision") };
        let one = figures.constant(1.0);
        let zero = figures.constant(0.0);
        let skipped = figures.push(Op::Select, &[is_skipped, one, zero]);
        let overflows = figures.sum("overflows", "sum", skipped);
        let (scales, steps) = (figures.sum("loss_scale", "sum", scale), figures.sum("loss_scale", "weight", one));
        step.metrics.push(port("overflows", vec![overflows]));
        step.metrics.push(port("loss_scale", vec![scales, steps]));
    }
    step
}

/// Sums in a step's graph.
struct Figures<'a> {
    graph: &'a mut Graph,
    split: &'a str,
    at: Arc<str>,
}

impl Figures<'_> {
    fn push(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(op, inputs, &self.at, &Arc::from("")).expect("scalars of one type")
    }

    fn leaf(&mut self, op: Op) -> NodeId {
        self.graph.push_typed(op, vec![], TensorType::new(DType::F32, []), self.at.clone(), Arc::from(""))
    }

    fn constant(&mut self, value: f64) -> NodeId {
        self.leaf(Op::Constant { value: solstice_ir::Literal::splat(TensorType::new(DType::F32, []), value) })
    }

    /// Adds `increment` to an accumulator each step; its name.
    fn sum(&mut self, metric: &str, accumulator: &str, increment: NodeId) -> String {
        let state = format!("metrics.{}.{metric}.{accumulator}", self.split);
        let old = self.leaf(Op::Parameter(Parameter { name: state.clone(), role: Role::Metric, init: Some(Init::Constant(0.0)) }));
        let node = self.push(Op::Binary { function: BinaryOp::Add }, &[old, increment]);
        self.graph.updates.push(Update { state: state.clone(), node });
        state
    }
}

/// A figure that is its one sum, or the ratio of its two.
fn port(name: &str, states: Vec<String>) -> MetricPort {
    let (mut compute, at) = (Graph::new(name), Arc::from(""));
    let inputs: Vec<NodeId> = states
        .iter()
        .map(|state| {
            let op = Op::Parameter(Parameter { name: state.clone(), role: Role::Input, init: None });
            compute.push_typed(op, vec![], TensorType::new(DType::F32, []), Arc::clone(&at), Arc::clone(&at))
        })
        .collect();
    let node = match inputs[..] {
        [sum, weight] => compute.push(Op::Binary { function: BinaryOp::Divide }, &[sum, weight], &at, &at).expect("two scalars"),
        _ => inputs[0],
    };
    compute.outputs.push(Output { name: name.into(), node });
    MetricPort { name: name.into(), states, compute }
}
