//! What a kernel costs: bytes that it must move and floating-point operations that it does. A function of the plan alone, for profiles.
//!
//! Bytes are those of each buffer once, no more than the kernel can touch: caches may save nothing and waste nothing. Operations follow the rule of
//! `solstice summary`: a multiply-add counts as two, an elementwise function of floats as one; moving data counts nothing.

use crate::Plan;
use crate::kernel::{AttentionPass, Body, BufferId, Epilogue, Instruction, KernelOp};
use solstice_ir::DType;

/// The work of one call of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Read and written, together.
    pub bytes: u64,
    /// Of floating-point numbers; 0 for kernels that only move data or count.
    pub flops: u64,
}

/// The work of one call of a kernel of `plan`. That of a group is that of its members: each reads for itself.
pub fn cost(plan: &Plan, op: &KernelOp) -> Cost {
    if let KernelOp::Group { members } = op {
        let costs = members.iter().map(|member| cost(plan, &member.op));
        return costs.fold(Cost::default(), |all, one| Cost { bytes: all.bytes + one.bytes, flops: all.flops + one.flops });
    }
    let reach = reach(op);
    let bytes_of = |mut buffers: Vec<BufferId>| -> u64 {
        buffers.sort_unstable();
        buffers.dedup();
        let bytes = |id: &BufferId| {
            let buffer = &plan.buffers[id.index()];
            (buffer.elements.min(reach) * buffer.element_bytes()) as u64
        };
        buffers.iter().map(bytes).sum()
    };
    Cost { bytes: bytes_of(op.reads()) + bytes_of(op.writes()), flops: flops(op) }
}

/// Most elements of one buffer that the kernel touches, where that may be less than the buffer has.
fn reach(op: &KernelOp) -> usize {
    match op {
        KernelOp::Map { shape, .. } | KernelOp::Reduce { shape, .. } | KernelOp::Rows { shape, .. } => shape.iter().product(),
        KernelOp::Gather { batch, outer, index_count, inner, .. } => batch * outer * index_count * inner,
        KernelOp::DynamicSlice { sizes, .. } => sizes.iter().product(),
        _ => usize::MAX,
    }
}

fn flops(op: &KernelOp) -> u64 {
    let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    match op {
        KernelOp::Map { shape, body, .. } | KernelOp::Rows { shape, body, .. } => count(shape) * body_flops(body),
        KernelOp::Reduce { shape, body, .. } => count(shape) * (body_flops(body) + 1),
        KernelOp::ReduceArg { outer, n, inner, .. } => (outer * n * inner) as u64,
        KernelOp::Dot { batch, rows, columns, inner, epilogue, .. } => {
            2 * count(batch) * (rows * columns * inner) as u64 + epilogue_flops(epilogue.as_deref())
        }
        KernelOp::Attention { batch, queries, keys, dim, width, causal, pass, .. } => {
            let pairs: usize = if *causal { (1..=*queries).map(|seen| seen.min(*keys)).sum() } else { queries * keys };
            // Scores and mixing; in the gradient the scores again, two products with what flows to the result, one each for q and k.
            let products = if matches!(pass, AttentionPass::Forward { .. }) { dim + width } else { 3 * dim + 2 * width };
            2 * count(batch) * (pairs * products) as u64
        }
        // Each output element meets the weights of its channel; the two gradients do the same products.
        KernelOp::Convolution { weight_shape, out_shape, epilogue, .. } => {
            2 * count(out_shape) * count(&weight_shape[1..]) + epilogue_flops(epilogue.as_deref())
        }
        KernelOp::ReduceWindow { window, to_shape, .. } => count(to_shape) * count(&window.size),
        KernelOp::SelectAndScatter { window, windows_shape, .. } => count(windows_shape) * count(&window.size),
        KernelOp::Scatter { batch, outer, index_count, inner, dtype: DType::F32, .. } => (batch * outer * index_count * inner) as u64,
        _ => 0,
    }
}

fn epilogue_flops(epilogue: Option<&Epilogue>) -> u64 {
    epilogue.map_or(0, |epilogue| epilogue.shape.iter().product::<usize>() as u64 * body_flops(&epilogue.body))
}

/// Operations of one element. In a kernel over rows that counts what is the same along a row for each element of it, which is a little too much.
fn body_flops(body: &Body) -> u64 {
    let is_float = |register: usize| body.types.get(register) == Some(&DType::F32);
    let counts = |(register, instruction): (usize, &Instruction)| match instruction {
        Instruction::Unary(..) | Instruction::Binary(..) | Instruction::Select(..) | Instruction::Fold(..) => is_float(register),
        Instruction::Compare(_, left, _) => is_float(usize::from(left.0)),
        _ => false,
    };
    body.code.iter().enumerate().filter(|pair| counts(*pair)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompileOptions, compile};
    use solstice_ir::{BinaryOp, DotDims, Graph, NodeId, Op, Output, Parameter, Role, TensorType};

    fn input(graph: &mut Graph, name: &str, shape: &[usize]) -> NodeId {
        let op = Op::Parameter(Parameter { name: name.into(), role: Role::Input, init: None });
        graph.push_typed(op, vec![], TensorType::new(DType::F32, shape), "".into(), "".into())
    }

    fn costs(build: impl FnOnce(&mut Graph) -> NodeId) -> Vec<Cost> {
        let mut graph = Graph::new("test");
        let node = build(&mut graph);
        graph.outputs.push(Output { name: "y".into(), node });
        let plan = compile(&graph, &CompileOptions::default()).unwrap().plan;
        plan.kernels.iter().map(|kernel| cost(&plan, &kernel.op)).collect()
    }

    #[test]
    fn a_product_and_a_sum_of_two_tensors_cost_what_a_textbook_says() {
        let product = costs(|graph| {
            let (a, b) = (input(graph, "a", &[3, 5]), input(graph, "b", &[5, 7]));
            let dims = DotDims { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![0] };
            graph.push(Op::DotGeneral { dims }, &[a, b], &"".into(), &"".into()).unwrap()
        });
        assert_eq!(product, [Cost { bytes: 4 * (15 + 35 + 21), flops: 2 * 3 * 5 * 7 }]);
        let sum = costs(|graph| {
            let (a, b) = (input(graph, "a", &[6]), input(graph, "b", &[6]));
            let sum = graph.push(Op::Binary { function: BinaryOp::Add }, &[a, b], &"".into(), &"".into()).unwrap();
            graph.push(Op::Binary { function: BinaryOp::Multiply }, &[sum, a], &"".into(), &"".into()).unwrap()
        });
        // One kernel: `a` is read once.
        assert_eq!(sum, [Cost { bytes: 4 * 18, flops: 12 }]);
    }

    #[test]
    fn an_epilogue_rows_and_a_group_count_what_they_do() {
        let dense = costs(|graph| {
            let (a, b, c) = (input(graph, "a", &[3, 5]), input(graph, "b", &[5, 7]), input(graph, "c", &[3, 7]));
            let dims = DotDims { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![0] };
            let product = graph.push(Op::DotGeneral { dims }, &[a, b], &"".into(), &"".into()).unwrap();
            graph.push(Op::Binary { function: BinaryOp::Add }, &[product, c], &"".into(), &"".into()).unwrap()
        });
        assert_eq!(dense, [Cost { bytes: 4 * (15 + 35 + 21 + 21), flops: 2 * 3 * 5 * 7 + 21 }]);
        // Each element over the sum of its row: a fold and a division.
        let rows = costs(|graph| {
            let x = input(graph, "x", &[4, 6]);
            let reduce = Op::Reduce { kind: solstice_ir::ReduceKind::Sum, axes: vec![1] };
            let sum = graph.push(reduce, &[x], &"".into(), &"".into()).unwrap();
            let wide = graph.push(Op::BroadcastInDim { shape: vec![4, 6], dims: vec![0] }, &[sum], &"".into(), &"".into()).unwrap();
            graph.push(Op::Binary { function: BinaryOp::Divide }, &[x, wide], &"".into(), &"".into()).unwrap()
        });
        assert_eq!(rows, [Cost { bytes: 4 * 48, flops: 2 * 24 }]);
        let mut graph = Graph::new("test");
        for (name, size) in [("a", 6), ("b", 10)] {
            let x = input(&mut graph, name, &[size]);
            let node = graph.push(Op::Binary { function: BinaryOp::Add }, &[x, x], &"".into(), &"".into()).unwrap();
            graph.outputs.push(Output { name: format!("{name}2"), node });
        }
        let plan = compile(&graph, &CompileOptions::default()).unwrap().plan;
        assert_eq!(plan.kernels.len(), 1, "{plan}");
        assert_eq!(cost(&plan, &plan.kernels[0].op), Cost { bytes: 4 * 32, flops: 16 });
    }
}
