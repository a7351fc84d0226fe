//! The passes in order: verify, gradients, inlining, simplification, fusion, plan.

use crate::kernel::Plan;
use crate::{EngineError, fuse, grad, lower, plan, simplify};
use solstice_ir::Graph;

/// How a graph is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Fuse elementwise nodes into their readers. Off, every elementwise node is a kernel of its own: slow, and what fusion is tested against.
    pub fuse: bool,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions { fuse: true }
    }
}

/// A graph after each pass; every stage has a printed form.
#[derive(Clone, Debug)]
pub struct Stages {
    /// With gradients as nodes, composites still whole where no gradient went through.
    pub grad: Graph,
    /// Primitives only, folded and without duplicates.
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
    let grad = grad::expand_gradients(graph).map_err(|error| EngineError::Gradient(error.to_string()))?;
    let simplified = simplify::simplify(&lower::inline_composites(&grad, &|_| false));
    let mut fused = fuse::fuse(&simplified, options.fuse);
    plan::remove_dead_stores(&mut fused);
    if options.fuse {
        fuse::pack_scalars(&mut fused);
        fuse::merge_maps(&mut fused);
        fuse::fuse_epilogues(&mut fused);
        fuse::fuse_rows(&mut fused);
        plan::remove_dead_stores(&mut fused);
    }
    let plan = plan::plan(&graph.name, fused, options.fuse);
    Ok(Stages { grad, simplified, plan })
}
