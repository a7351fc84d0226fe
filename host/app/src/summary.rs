//! The model's table: parameters, shapes, bytes and FLOPs by module, memory and kernels of the step. A function of traced graphs and their plans.
//!
//! A module is a scope that owns weights or model state: `model.fc1` owns `model.fc1.weight`. Its parents are modules too, and hold their children's
//! figures. A node counts for the module of its scope, or for the nearest parent; what no module has around it (the loss, metrics) is counted apart.
//! `commands/summary.rs` makes the graphs and prints the table; [`of_run`] does it for a run that is about to start.

use crate::assemble::Assembly;
use crate::model_graph::{ModelGraph, model_graph};
use crate::train::Run;
use serde::Serialize;
use serde_json::json;
use solstice_engine::{Plan, lower};
use solstice_ir::{Graph, Node, NodeId, Op, Role, ScatterMode, TensorType};
use solstice_store::{At, RunWriter, Table};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;

/// A step as it was traced, and what it was compiled to.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The split: `train`, `test`, `val`.
    pub name: &'a str,
    /// Composites and gradients are still whole; the batch is plain inputs.
    pub graph: &'a Graph,
    /// What a device runs.
    pub plan: &'a Plan,
}

/// What a recipe's model and step come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Samples in a step.
    pub batch_size: usize,
    /// Parents before children, in the order in which their parameters were made.
    pub modules: Vec<Module>,
    /// All modules together.
    pub total: Figures,
    /// What belongs to no module: the loss, the metrics, the scaling of the input.
    pub outside: Flops,
    /// Bytes that live on the device between steps; data sets are not among them.
    pub state: StateBytes,
    /// The compiled steps, training first.
    pub programs: Vec<ProgramFigures>,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Module {
    /// `model.block3.attention`.
    pub module: String,
    /// Number of parents.
    pub depth: usize,
    /// `linear`, `conv2d`, `layer_norm`, `attention`, a component's id; where the graph tells.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What the module hands on: the last of its values that is read outside.
    pub output: Option<TensorType>,
    /// Its own and its children's.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Figures of a module or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Numbers in all weights.
    pub parameters: usize,
    /// Of those, what the training step updates.
    pub trainable: usize,
    /// Of those, what it leaves alone.
    pub frozen: usize,
    /// Bytes of the weights.
    pub parameter_bytes: usize,
    /// Work of the forward pass.
    #[serde(flatten)]
    pub flops: Flops,
}

/// Floating-point operations of a forward pass in evaluation; a multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// For one batch.
    #[serde(rename = "flops_batch")]
    pub batch: u64,
    /// The same over the samples of the batch, rounded.
    #[serde(rename = "flops_sample")]
    pub sample: u64,
}

/// Bytes of state by owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateBytes {
    /// Weights.
    pub parameters: usize,
    /// Model state that is not trained: running statistics.
    pub model_state: usize,
    /// What the optimizer keeps.
    pub optimizer: usize,
    /// Metric accumulators of all steps.
    pub metrics: usize,
    /// All of these.
    pub total: usize,
}

/// One compiled step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramFigures {
    /// The split.
    pub name: String,
    /// Kernels of a step.
    pub kernels: usize,
    /// Memory for values between kernels.
    pub scratch_bytes: usize,
}

/// Summary of a run that has been made ready, for the start of `train -v`.
///
/// A run without an evaluation has its training step counted: dropout is then among the model's operations, gradients are not.
pub fn of_run(assembly: &Assembly, run: &Run) -> Summary {
    let programs = std::iter::once(&run.train).chain(&run.evaluations);
    let steps: Vec<Step> = programs
        .map(|program| Step { name: &program.split, graph: &program.trace.graph, plan: run.session.plan(program.program) })
        .collect();
    let forward = steps.get(1).unwrap_or(&steps[0]).graph;
    summarise(&steps, forward, &components(assembly), assembly.resolved.trainer.batch_size)
}

/// Puts the summary of a run that is about to start into its store: the modules as the table `model/summary`; totals and the drawing of the model as
/// the text `model/graph`, in JSON.
pub fn log(writer: &RunWriter, assembly: &Assembly, run: &Run) {
    let summary = of_run(assembly, run);
    let forward = &run.evaluations.first().unwrap_or(&run.train).trace;
    let drawing = model_graph(&forward.graph, &forward.observed, &summary.modules);
    let at = At::from(run.step);
    writer.table(at, "model/summary", stored_table(&summary));
    writer.text(at, "model/graph", stored_graph(&summary, &drawing.unwrap_or_default()));
}

/// The table for a store: a row a module, then what stands outside, then everything together.
fn stored_table(summary: &Summary) -> Table {
    let columns = ["module", "depth", "type", "output", "parameters", "trainable", "bytes", "flops_sample"];
    let mut rows: Vec<Vec<serde_json::Value>> = vec![];
    let mut row = |module: &str, depth: usize, kind: Option<&str>, output: Option<String>, figures: &Figures| {
        let Figures { parameters, trainable, parameter_bytes, flops, .. } = figures;
        rows.push(vec![
            json!(module),
            json!(depth),
            json!(kind),
            json!(output),
            json!(parameters),
            json!(trainable),
            json!(parameter_bytes),
            json!(flops.sample),
        ]);
    };
    for Module { module, depth, kind, output, figures } in &summary.modules {
        row(module, *depth, kind.as_deref(), output.as_ref().map(TensorType::to_string), figures);
    }
    row("(loss, metrics)", 0, None, None, &Figures { flops: summary.outside, ..Figures::default() });
    row("(model in all)", 0, None, None, &summary.total);
    Table { columns: columns.map(str::to_owned).to_vec(), rows }
}

fn stored_graph(summary: &Summary, drawing: &ModelGraph) -> String {
    let Summary { batch_size, total, outside, state, programs, .. } = summary;
    let ModelGraph { nodes, edges } = drawing;
    json!({
        "version": 1, "batch_size": batch_size, "total": total, "outside": outside, "state": state, "programs": programs, "nodes": nodes, "edges": edges
    })
    .to_string()
}

/// Scope and id of each component of a recipe: (`model`, `mlp`).
pub fn components(assembly: &Assembly) -> Vec<(&str, &str)> {
    assembly.resolved.components.iter().map(|(slot, component)| (slot.as_str(), component.id.as_str())).collect()
}

/// Adds everything up. `steps` begins with the training step; `forward` is an evaluation step; `components` name the type of a scope.
pub fn summarise(steps: &[Step], forward: &Graph, components: &[(&str, &str)], batch_size: usize) -> Summary {
    let graphs = || steps.iter().map(|step| step.graph).chain([forward]);
    let mut tree = Tree::new(graphs());
    let updated: HashSet<&str> = steps[0].graph.updates.iter().map(|update| update.state.as_str()).collect();
    let mut state = StateBytes::default();
    let mut seen = HashSet::new();
    for (_, parameter, ty) in graphs().flat_map(Graph::parameters).filter(|(_, parameter, _)| seen.insert(parameter.name.as_str())) {
        let bytes = ty.byte_count();
        match parameter.role {
            Role::Param => {
                state.parameters += bytes;
                let count = ty.element_count();
                let is_trained = updated.contains(parameter.name.as_str());
                tree.add(owner(&parameter.name), |figures| {
                    figures.parameters += count;
                    *if is_trained { &mut figures.trainable } else { &mut figures.frozen } += count;
                    figures.parameter_bytes += bytes;
                });
            }
            Role::ModelState => state.model_state += bytes,
            Role::OptState => state.optimizer += bytes,
            Role::Metric => state.metrics += bytes,
            Role::Input | Role::Scalar | Role::Table => {}
        }
    }
    state.total = state.parameters + state.model_state + state.optimizer + state.metrics;

    let primitives = lower::inline_composites(forward, &|_| false);
    let mut outside = Flops::default();
    for id in live(&primitives) {
        let (flops, scope) = (node_flops(&primitives, id), &primitives.node(id).scope);
        match scope.is_empty() || tree.ancestors(scope).next().is_none() {
            true => outside.batch += flops,
            false => tree.add(scope, |figures| figures.flops.batch += flops),
        }
    }
    let facts = Facts::new(forward, &tree);
    let rounded = |flops: &mut Flops| flops.sample = (flops.batch + batch_size as u64 / 2) / batch_size.max(1) as u64;
    let mut total = Figures::default();
    let modules: Vec<Module> = tree
        .paths
        .iter()
        .zip(&tree.figures)
        .map(|(path, figures)| {
            let depth = tree.ancestors(path).count() - 1;
            if depth == 0 {
                total.parameters += figures.parameters;
                total.trainable += figures.trainable;
                total.frozen += figures.frozen;
                total.parameter_bytes += figures.parameter_bytes;
                total.flops.batch += figures.flops.batch;
            }
            let mut figures = *figures;
            rounded(&mut figures.flops);
            let component = components.iter().find(|(scope, _)| scope == path).map(|(_, id)| (*id).to_owned());
            Module { module: path.clone(), depth, kind: component.or_else(|| facts.kind(path)), output: facts.output(path), figures }
        })
        .collect();
    rounded(&mut total.flops);
    rounded(&mut outside);
    let programs = steps.iter().map(|step| ProgramFigures {
        name: step.name.to_owned(),
        kernels: step.plan.kernels.len(),
        scratch_bytes: step.plan.scratch_bytes(),
    });
    Summary { batch_size, modules, total, outside, state, programs: programs.collect() }
}

/// Floating-point operations of one node of a graph of primitives.
///
/// A multiply-add counts as two: `2 batch m n k` for a product, `2 output elements, window elements, input channels / groups` for a convolution.
/// Elementwise functions, comparisons and selections of floats count one an element, reductions one for each element that they read, a sum into
/// scattered places one an update. Moving data, whole numbers, truth values and random bits count nothing, nor do gradients.
pub fn node_flops(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let elements = node.ty.element_count() as u64;
    let input = |index: usize| graph.ty(node.inputs[index]);
    let read = || input(0).element_count() as u64;
    // Multiplications that one output channel of a convolution takes for a position: the weight is [out, in / groups, window..].
    let per_channel = |weight: &TensorType| weight.shape[1..].iter().product::<usize>() as u64;
    match &node.op {
        Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } if input(0).dtype.is_float() => elements,
        Op::Select if node.ty.dtype.is_float() => elements,
        Op::Reduce { .. } | Op::ReduceArg { .. } | Op::AllReduce { .. } if input(0).dtype.is_float() => read(),
        Op::ReduceWindow { window, .. } if input(0).dtype.is_float() => elements * window.size.iter().product::<usize>() as u64,
        Op::SelectAndScatter { .. } => read(),
        Op::Scatter { mode: ScatterMode::Add, .. } if node.ty.dtype.is_float() => input(2).element_count() as u64,
        Op::DotGeneral { dims } => {
            let inner: usize = dims.lhs_contract.iter().map(|&axis| input(0).shape[axis]).product();
            2 * elements * inner as u64
        }
        Op::Convolution { .. } => 2 * elements * per_channel(input(1)),
        // Each element of the first input, which is in the place of a convolution's output, meets the weights of its channel.
        Op::ConvolutionInputGrad { .. } => 2 * read() * per_channel(input(1)),
        Op::ConvolutionWeightGrad { .. } => 2 * input(1).element_count() as u64 * per_channel(&node.ty),
        _ => 0,
    }
}

/// Nodes that an output or an update needs, in order.
pub fn live(graph: &Graph) -> Vec<NodeId> {
    let mut needed = vec![false; graph.nodes.len()];
    let ends = graph.outputs.iter().map(|output| output.node).chain(graph.updates.iter().map(|update| update.node));
    ends.for_each(|end| needed[end.index()] = true);
    for id in graph.ids().rev() {
        if needed[id.index()] {
            graph.node(id).inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    graph.ids().filter(|id| needed[id.index()]).collect()
}

/// Module of a parameter: `model.fc1` for `model.fc1.weight`; empty for one that the experiment itself made.
fn owner(parameter: &str) -> &str {
    parent(parameter).unwrap_or("")
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(parent, _)| parent)
}

/// The modules, parents before children.
struct Tree {
    paths: Vec<String>,
    figures: Vec<Figures>,
    indices: HashMap<String, usize>,
}

impl Tree {
    /// The owners of the weights and the model state of `graphs`, and their parents.
    fn new<'a>(graphs: impl Iterator<Item = &'a Graph>) -> Tree {
        let mut known = HashSet::new();
        let mut children: HashMap<Option<String>, Vec<String>> = HashMap::new();
        for (_, parameter, _) in graphs.flat_map(Graph::parameters) {
            if !matches!(parameter.role, Role::Param | Role::ModelState) {
                continue;
            }
            let mut next = Some(owner(&parameter.name));
            while let Some(path) = next.filter(|path| known.insert((*path).to_owned())) {
                next = parent(path);
                children.entry(next.map(str::to_owned)).or_default().push(path.to_owned());
            }
        }
        let mut paths = vec![];
        let mut open: Vec<String> = children.remove(&None).unwrap_or_default().into_iter().rev().collect();
        while let Some(path) = open.pop() {
            open.extend(children.remove(&Some(path.clone())).unwrap_or_default().into_iter().rev());
            paths.push(path);
        }
        let indices = paths.iter().enumerate().map(|(index, path)| (path.clone(), index)).collect();
        Tree { figures: vec![Figures::default(); paths.len()], paths, indices }
    }

    /// The modules around a scope, innermost first.
    fn ancestors(&self, scope: &str) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(scope), |path| parent(path)).filter_map(|path| self.indices.get(path).copied())
    }

    /// Changes the figures of every module around `scope`.
    fn add(&mut self, scope: &str, change: impl Fn(&mut Figures)) {
        let around: Vec<usize> = self.ancestors(scope).collect();
        around.into_iter().for_each(|index| change(&mut self.figures[index]));
    }
}

/// What a step as it was traced, its composites whole, says of the modules.
struct Facts<'a> {
    graph: &'a Graph,
    /// By module: nodes that read a weight of its own, with the number of the input.
    readers: HashMap<&'a str, BTreeSet<(NodeId, usize)>>,
    /// By module: the last of its values that is read outside.
    handed_on: BTreeMap<&'a str, NodeId>,
    /// Scopes with an `attention` of their own.
    attentive: HashSet<&'a str>,
}

impl<'a> Facts<'a> {
    fn new(graph: &'a Graph, tree: &'a Tree) -> Facts<'a> {
        let mut facts = Facts { graph, readers: HashMap::new(), handed_on: BTreeMap::new(), attentive: HashSet::new() };
        // The parameter behind a value, through ops that only change its form.
        let mut weights: Vec<Option<&str>> = vec![None; graph.nodes.len()];
        let live = live(graph);
        let mut handed_on = |from: NodeId, to: &str| {
            let node = graph.node(from);
            let is_value = !matches!(node.op, Op::Parameter(_) | Op::Constant { .. } | Op::Iota { .. });
            let outside = |path: &str| to != path && !to.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
            for index in tree.ancestors(&node.scope).filter(|_| is_value && !node.scope.is_empty()) {
                let path = tree.paths[index].as_str();
                if outside(path) {
                    let last = facts.handed_on.entry(path).or_insert(from);
                    *last = from.max(*last);
                }
            }
        };
        for &id in &live {
            graph.node(id).inputs.iter().for_each(|input| handed_on(*input, &graph.node(id).scope));
        }
        graph.outputs.iter().for_each(|output| handed_on(output.node, ""));
        for &id in &live {
            let node = graph.node(id);
            match &node.op {
                Op::Parameter(parameter) if matches!(parameter.role, Role::Param | Role::ModelState) => {
                    weights[id.index()] = Some(owner(&parameter.name));
                }
                Op::Composite { name, .. } if name == "attention" => {
                    facts.attentive.insert(&node.scope);
                }
                _ => {}
            }
            for (index, input) in node.inputs.iter().enumerate() {
                let Some(module) = weights[input.index()] else { continue };
                if matches!(node.op, Op::Reshape { .. } | Op::Transpose { .. } | Op::Convert { .. }) {
                    weights[id.index()] = Some(module);
                } else {
                    facts.readers.entry(module).or_default().insert((id, index));
                }
            }
        }
        facts
    }

    /// What a module does with its weights, if that is one thing; `attention` for one that has an attention between its parts.
    fn kind(&self, path: &str) -> Option<String> {
        let mut kinds: Vec<(NodeId, String)> = vec![];
        for &(id, index) in self.readers.get(path).into_iter().flatten() {
            let kind = match &self.graph.node(id).op {
                Op::DotGeneral { .. } => "linear".into(),
                Op::Convolution { geometry } => format!("conv{}d", geometry.strides.len()),
                Op::ConvolutionInputGrad { geometry, .. } => format!("conv_transpose{}d", geometry.strides.len()),
                Op::Gather { .. } if index == 0 => "embedding".into(),
                Op::Composite { name, .. } => name.strip_suffix("_eval").unwrap_or(name).into(),
                _ => continue,
            };
            if kinds.last().is_none_or(|(last, _)| *last != id) {
                kinds.push((id, kind));
            }
        }
        // Called twice, or shared between layers (an embedding that is the last layer too), a weight still is what it is first.
        let weights = |id: NodeId| -> Vec<NodeId> { self.graph.node(id).inputs.clone() };
        match &kinds[..] {
            [] if self.attentive.contains(path) => Some("attention".into()),
            [] => None,
            [(first, kind), rest @ ..] => {
                let shared =
                    |id: NodeId| weights(id).iter().any(|input| self.is_weight_of(*input, path) && weights(*first).contains(input));
                rest.iter().all(|(id, _)| shared(*id)).then(|| kind.clone())
            }
        }
    }

    fn is_weight_of(&self, id: NodeId, path: &str) -> bool {
        matches!(self.graph.node(id), Node { op: Op::Parameter(parameter), .. } if owner(&parameter.name) == path)
    }

    fn output(&self, path: &str) -> Option<TensorType> {
        let first_reader = || self.readers.get(path)?.first().map(|(id, _)| *id);
        self.handed_on.get(path).copied().or_else(first_reader).map(|id| self.graph.ty(id).clone())
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// The printed form

/// The summary for people: a table, then what the step takes.
pub fn table(summary: &Summary) -> String {
    let header = ["module", "type", "parameters", "output", "bytes", "FLOPs/batch", "FLOPs/sample"].map(str::to_owned);
    let mut rows = vec![header];
    for row in &summary.modules {
        let name = if row.depth == 0 { &row.module } else { row.module.rsplit('.').next().unwrap_or(&row.module) };
        let name = if name.is_empty() { "(experiment)" } else { name };
        let Figures { parameters, parameter_bytes, flops, .. } = row.figures;
        rows.push([
            format!("{}{name}", "  ".repeat(row.depth)),
            row.kind.clone().unwrap_or_default(),
            grouped(parameters as u64),
            row.output.as_ref().map(TensorType::to_string).unwrap_or_default(),
            bytes(parameter_bytes),
            scaled(flops.batch),
            scaled(flops.sample),
        ]);
    }
    let empty = String::new;
    let outside = summary.outside;
    rows.push(["(loss, metrics)".into(), empty(), empty(), empty(), empty(), scaled(outside.batch), scaled(outside.sample)]);
    let Figures { parameters, trainable, frozen, parameter_bytes, flops } = summary.total;
    rows.push([
        "model in all".into(),
        empty(),
        grouped(parameters as u64),
        empty(),
        bytes(parameter_bytes),
        scaled(flops.batch),
        scaled(flops.sample),
    ]);
    let lines = aligned(&rows, &[0, 1, 3]);
    let rule = "-".repeat(lines.iter().map(|line| line.chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text += line;
        text += "\n";
        if index == 0 || index + 2 == rows.len() {
            text += &rule;
            text += "\n";
        }
    }
    let StateBytes { parameters: weights, model_state, optimizer, metrics, total } = summary.state;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nparameters   {} trainable, {} frozen", grouped(trainable as u64), grouped(frozen as u64));
    let _ = writeln!(
        text,
        "state        {}: weights {}, model state {}, optimizer {}, metrics {}",
        bytes(total),
        bytes(weights),
        bytes(model_state),
        bytes(optimizer),
        bytes(metrics)
    );
    for program in &summary.programs {
        let _ = writeln!(text, "{:<12} {} kernels, {} of scratch memory", program.name, program.kernels, bytes(program.scratch_bytes));
    }
    let _ = writeln!(
        text,
        "FLOPs        one forward pass in evaluation, on a batch of {}; a multiply-add counts as two, an elementwise function as one",
        summary.batch_size
    );
    text
}

/// Rows of cells as lines whose columns stand below each other: `texts` to the left, numbers to the right.
pub fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]], texts: &[usize]) -> Vec<String> {
    let mut widths = [0; COLUMNS];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
    }
    let line = |row: &[String; COLUMNS]| {
        let cell = |column: usize| match texts.contains(&column) {
            true => format!("{:<width$}", row[column], width = widths[column]),
            false => format!("{:>width$}", row[column], width = widths[column]),
        };
        (0..COLUMNS).map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `101,770`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `13.03 M`.
pub fn scaled(number: u64) -> String {
    let steps = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match steps.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, letter)) => format!("{:.2} {letter}", number as f64 / unit as f64),
        None => number.to_string(),
    }
}

/// `3.1 MiB`.
pub fn bytes(count: usize) -> String {
    let steps = [(1usize << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match steps.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, letters)) => format!("{:.1} {letters}", count as f64 / unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_ir::{BinaryOp, ConvolutionGeometry, DType, DotDims, Literal, Output, Parameter, ReduceKind, UnaryOp, Update, Window};
    use std::sync::Arc;

    fn leaf(graph: &mut Graph, name: &str, role: Role, shape: &[usize], dtype: DType) -> NodeId {
        let op = Op::Parameter(Parameter { name: name.into(), role, init: None });
        graph.push_typed(op, vec![], TensorType::new(dtype, shape), "".into(), "".into())
    }

    fn push(graph: &mut Graph, scope: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        graph.push(op, inputs, &Arc::from(scope), &Arc::from("")).unwrap()
    }

    fn last_flops(build: impl FnOnce(&mut Graph) -> NodeId) -> u64 {
        let mut graph = Graph::new("test");
        let id = build(&mut graph);
        node_flops(&graph, id)
    }

    #[test]
    fn a_batched_product_counts_two_for_each_multiply_add() {
        // [2, 3, 5] x [2, 5, 7], batch 2, m 3, k 5, n 7: 2 * 2 * 3 * 7 * 5.
        let flops = last_flops(|g| {
            let a = leaf(g, "a", Role::Input, &[2, 3, 5], DType::F32);
            let b = leaf(g, "b", Role::Input, &[2, 5, 7], DType::F32);
            let dims = DotDims { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![1] };
            push(g, "", Op::DotGeneral { dims }, &[a, b])
        });
        assert_eq!(flops, 420);
    }

    #[test]
    fn a_convolution_counts_its_window_and_the_channels_of_its_group() {
        let geometry =
            |groups| ConvolutionGeometry { strides: vec![2, 2], low: vec![1, 1], high: vec![1, 1], dilation: vec![1, 1], groups };
        // [2, 4, 9, 9] with [6, 2, 3, 3] in 2 groups, stride 2, padding 1: out [2, 6, 5, 5]. 300 elements * 9 window * 2 channels * 2.
        let flops = last_flops(|g| {
            let x = leaf(g, "x", Role::Input, &[2, 4, 9, 9], DType::F32);
            let w = leaf(g, "w", Role::Input, &[6, 2, 3, 3], DType::F32);
            push(g, "", Op::Convolution { geometry: geometry(2) }, &[x, w])
        });
        assert_eq!(flops, 300 * 9 * 2 * 2);
        // Transposed: [2, 6, 5, 5] back to [2, 4, 9, 9]. Every input element is multiplied with 2 channels * 9 weights and added.
        let flops = last_flops(|g| {
            let x = leaf(g, "x", Role::Input, &[2, 6, 5, 5], DType::F32);
            let w = leaf(g, "w", Role::Input, &[6, 2, 3, 3], DType::F32);
            push(g, "", Op::ConvolutionInputGrad { geometry: geometry(2), input_spatial: vec![9, 9] }, &[x, w])
        });
        assert_eq!(flops, 300 * 2 * 9 * 2);
    }

    #[test]
    fn elementwise_functions_and_reductions_count_elements_and_moves_count_nothing() {
        let on = |dtype: DType, op: Op| {
            last_flops(|g| {
                let x = leaf(g, "x", Role::Input, &[4, 6], dtype);
                push(g, "", op, &[x])
            })
        };
        assert_eq!(on(DType::F32, Op::Unary { function: UnaryOp::Tanh }), 24);
        assert_eq!(on(DType::F32, Op::Reduce { kind: ReduceKind::Sum, axes: vec![1] }), 24);
        assert_eq!(on(DType::I32, Op::Reduce { kind: ReduceKind::Sum, axes: vec![1] }), 0);
        assert_eq!(on(DType::F32, Op::ReduceArg { kind: ReduceKind::Max, axis: 0 }), 24);
        assert_eq!(on(DType::F32, Op::Transpose { perm: vec![1, 0] }), 0);
        assert_eq!(on(DType::F32, Op::Convert { to: DType::I32 }), 0);
        // Windows of 3 with step 1 overlap: 4 * 4 windows of 3.
        let window = Window { size: vec![1, 3], strides: vec![1, 1], low: vec![0, 0], high: vec![0, 0] };
        assert_eq!(on(DType::F32, Op::ReduceWindow { kind: ReduceKind::Max, window }), 48);
        let gathered = last_flops(|g| {
            let x = leaf(g, "x", Role::Input, &[4, 6], DType::F32);
            let indices = leaf(g, "i", Role::Input, &[3], DType::I32);
            push(g, "", Op::Gather { axis: 0, batch_dims: 0 }, &[x, indices])
        });
        assert_eq!(gathered, 0);
    }

    /// An embedding `[11, 4]` that also is the last layer, a frozen linear layer `[4, 4]` in a block, a mean of squares as the loss; batch 2, time 3.
    fn step(training: bool) -> Graph {
        let mut g = Graph::new("step");
        let tokens = leaf(&mut g, "batch.tokens", Role::Input, &[2, 3], DType::I32);
        let table = leaf(&mut g, "model.wte.weight", Role::Param, &[11, 4], DType::F32);
        let fc = leaf(&mut g, "model.block.fc.weight", Role::Param, &[4, 4], DType::F32);
        let mean = leaf(&mut g, "model.block.norm.running_mean", Role::ModelState, &[4], DType::F32);
        leaf(&mut g, "metrics.count", Role::Metric, &[], DType::F32);
        let by_rows = DotDims { lhs_contract: vec![2], rhs_contract: vec![1], ..DotDims::default() };
        let x = push(&mut g, "model", Op::Gather { axis: 0, batch_dims: 0 }, &[table, tokens]); // [2, 3, 4]
        let y = push(&mut g, "model.block.fc", Op::DotGeneral { dims: by_rows.clone() }, &[x, fc]); // 2 * 24 * 4 = 192
        let wide = push(&mut g, "model.block.norm", Op::BroadcastInDim { shape: vec![2, 3, 4], dims: vec![2] }, &[mean]);
        let y = push(&mut g, "model.block.norm.deep", Op::Binary { function: BinaryOp::Subtract }, &[y, wide]); // 24
        let y = push(&mut g, "model.block", Op::Unary { function: UnaryOp::Tanh }, &[y]); // 24
        let dead = push(&mut g, "model.block", Op::Unary { function: UnaryOp::Tanh }, &[y]);
        push(&mut g, "model.block", Op::Unary { function: UnaryOp::Tanh }, &[dead]);
        let logits = push(&mut g, "model", Op::DotGeneral { dims: by_rows }, &[y, table]); // 2 * 66 * 4 = 528
        let square = push(&mut g, "", Op::Binary { function: BinaryOp::Multiply }, &[logits, logits]); // 66
        let loss = push(&mut g, "", Op::Reduce { kind: ReduceKind::Sum, axes: vec![0, 1, 2] }, &[square]); // 66
        g.outputs.push(Output { name: "loss".into(), node: loss });
        if training {
            let moment = leaf(&mut g, "optimizer.model.wte.weight.m", Role::OptState, &[11, 4], DType::F32);
            let constant = Op::Constant { value: Literal::scalar(DType::F32, 1.0) };
            let one = g.push_typed(constant, vec![], TensorType::new(DType::F32, []), "".into(), "".into());
            let negated = [table, moment].map(|value| push(&mut g, "optimizer", Op::Unary { function: UnaryOp::Negate }, &[value]));
            let update = |state: &str, node| Update { state: state.into(), node };
            g.updates = vec![
                update("model.wte.weight", negated[0]),
                update("optimizer.model.wte.weight.m", negated[1]),
                update("metrics.count", one),
            ];
        }
        g.verify().unwrap();
        g
    }

    #[test]
    fn modules_hold_what_their_children_hold_and_the_loss_is_apart() {
        let (train, forward) = (step(true), step(false));
        let plan = solstice_engine::compile(&train, &solstice_engine::CompileOptions::default()).unwrap().plan;
        let summary = summarise(&[Step { name: "train", graph: &train, plan: &plan }], &forward, &[("model", "tiny")], 2);
        let rows: Vec<(&str, usize, Option<&str>, usize, u64)> = summary
            .modules
            .iter()
            .map(|row| (row.module.as_str(), row.depth, row.kind.as_deref(), row.figures.parameters, row.figures.flops.batch))
            .collect();
        let wanted = [
            ("model", 0, Some("tiny"), 60, 192 + 24 + 24 + 528),
            ("model.wte", 1, Some("embedding"), 44, 0),
            ("model.block", 1, None, 16, 240),
            ("model.block.fc", 2, Some("linear"), 16, 192),
            ("model.block.norm", 2, None, 0, 24),
        ];
        assert_eq!(rows, wanted);
        let outputs: Vec<Option<Vec<usize>>> = summary.modules.iter().map(|row| row.output.as_ref().map(|ty| ty.shape.clone())).collect();
        let [wide, narrow] = [Some(vec![2, 3, 11]), Some(vec![2, 3, 4])];
        assert_eq!(outputs, [wide, narrow.clone(), narrow.clone(), narrow.clone(), narrow]);
        let total = Figures { parameters: 60, trainable: 44, frozen: 16, parameter_bytes: 240, flops: Flops { batch: 768, sample: 384 } };
        assert_eq!(summary.total, total);
        assert_eq!(summary.outside.batch, 132);
        assert_eq!(summary.state, StateBytes { parameters: 240, model_state: 16, optimizer: 176, metrics: 4, total: 436 });
        assert_eq!(summary.programs[0].kernels, plan.kernels.len());
        let text = table(&summary);
        assert!(text.contains("44 trainable, 16 frozen") && text.contains("\n    fc "), "{text}");
    }

    #[test]
    fn numbers_are_printed_for_people() {
        assert_eq!([0, 999, 1_000, 101_770, 12_345_678].map(grouped), ["0", "999", "1,000", "101,770", "12,345,678"]);
        assert_eq!([0, 999, 203_658, 13_034_112, 2_500_000_000].map(scaled), ["0", "999", "203.66 k", "13.03 M", "2.50 G"]);
        assert_eq!([12, 407_080, 3 << 30].map(bytes), ["12 B", "397.5 KiB", "3.0 GiB"]);
    }
}
