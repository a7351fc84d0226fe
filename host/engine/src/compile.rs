//! The passes in order: verify, gradients, inlining, simplification, fusion, precision, plan.

use crate::attention::{Attention, without_foreign_gradients};
use crate::fuse::{Fused, Updates};
use crate::kernel::{BUFFERS_PER_KERNEL, KernelOp, Plan};
use crate::precision::{Precision, store_halves};
use crate::{EngineError, fuse, grad, lower, plan, simplify};
use solstice_ir::{Graph, Node};
use std::collections::BTreeSet;

/// How a graph is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Fuse elementwise nodes into their readers. Off, every elementwise node is a kernel of its own: slow, and what fusion is tested against.
    pub fuse: bool,
    /// How floats lie in memory and are multiplied.
    pub precision: Precision,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions { fuse: true, precision: Precision::F32 }
    }
}

/// A graph after each pass; every stage has a printed form.
#[derive(Clone, Debug)]
pub struct Stages {
    /// With gradients as nodes, composites still whole where no gradient went through.
    pub grad: Graph,
    /// Primitives and what a kernel takes whole, folded and without duplicates.
    pub simplified: Graph,
    /// What a device runs.
    pub plan: Plan,
}

/// Compiles `graph` for any device.
///
/// Errors: `EngineError::Graph` when it is not sound, `EngineError::Gradient` for a gradient that does not exist.
/// Cost: near linear in the nodes.
pub fn compile(graph: &Graph, options: &CompileOptions) -> Result<Stages, EngineError> {
    graph.verify()?;
    let grad = grad::expand_gradients(&without_foreign_gradients(graph)).map_err(|error| EngineError::Gradient(error.to_string()))?;
    // Unfused, every composite goes through its body.
    let is_body = |graph: &Graph, _, node: &Node| !options.fuse || Attention::of(graph, node).is_none();
    let simplified = simplify::simplify(&lower::inline_where(&grad, &is_body));
    let plan = match options.fuse {
        true => {
            // Kernels are merged as if every new state took the place of the old one. Where another reader of the old one comes too late for that, a
            // kernel may need more buffers than a device binds: then without that.
            let plan = fused(&graph.name, &simplified, Updates::InPlace, options.precision);
            let apart = || Some(fused(&graph.name, &simplified, Updates::Apart, options.precision)).filter(fits);
            if fits(&plan) { plan } else { apart().unwrap_or(plan) }
        }
        false => {
            let mut fused = fuse::fuse(&simplified, false);
            plan::remove_dead_stores(&mut fused);
            decide(&mut fused, options.precision);
            plan::plan(&graph.name, fused, false)
        }
    };
    Ok(Stages { grad, simplified, plan })
}

fn decide(fused: &mut Fused, precision: Precision) {
    if precision == Precision::Mixed {
        store_halves(fused);
    }
}

fn fused(name: &str, simplified: &Graph, updates: Updates, precision: Precision) -> Plan {
    let mut fused = fuse::fuse(simplified, true);
    plan::remove_dead_stores(&mut fused);
    fuse::pack_scalars(&mut fused);
    fuse::merge_maps(&mut fused, updates);
    fuse::fuse_epilogues(&mut fused);
    fuse::fuse_rows(&mut fused, updates);
    plan::remove_dead_stores(&mut fused);
    fuse::rematerialise(&mut fused);
    decide(&mut fused, precision);
    plan::plan(name, fused, true)
}

/// No kernel that updates are merged into needs more buffers than every device binds; a group is launched in parts.
fn fits(plan: &Plan) -> bool {
    fn fits(op: &KernelOp) -> bool {
        match op {
            KernelOp::Group { members } => members.iter().all(|member| fits(&member.op)),
            KernelOp::Map { .. } | KernelOp::Rows { .. } => {
                op.reads().into_iter().chain(op.writes()).collect::<BTreeSet<_>>().len() <= BUFFERS_PER_KERNEL
            }
            _ => true,
        }
    }
    plan.kernels.iter().all(|kernel| fits(&kernel.op))
}
