//! Attention taken whole, forward and gradient: results on the CPU and on three families of GPU kernels are the oracle's, which goes through the body; the
//! scores are in no buffer; what no kernel takes goes through the body.

#[path = "common/device.rs"]
mod device;

use device::{Case, Results, assert_close, run};
use solstice_engine::cpu::CpuRuntime;
use solstice_engine::gpu::{GpuRuntime, Target, adapters};
use solstice_engine::kernel::{AttentionPass, KernelOp};
use solstice_engine::{Plan, Runtime};
use solstice_ir::{Graph, NodeId, Op, Output, Parameter, ReduceKind, Role};
use solstice_plugin_api as api;
use std::sync::Arc;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    width: usize,
    causal: bool,
}

const fn sizes(batch: usize, heads: usize, queries: usize, keys: usize, dim: usize, width: usize, causal: bool) -> Sizes {
    Sizes { batch, heads, queries, keys, dim, width, causal }
}

/// 0-dimensional cases do not arise; 1, primes, a block of the kernels (64 queries, 16 or 8 keys) less and more one, rows that fill no `vec4`.
const SIZES: [Sizes; 7] = [
    sizes(2, 3, 64, 64, 32, 32, true),
    sizes(1, 1, 1, 1, 1, 1, true),
    sizes(2, 1, 7, 13, 5, 3, false),
    sizes(1, 2, 65, 17, 8, 4, true),
    sizes(1, 2, 17, 65, 4, 12, true),
    sizes(3, 1, 63, 15, 16, 7, false),
    sizes(1, 1, 130, 130, 12, 12, true),
];

/// The composite as a plugin's author makes it, appended to the case.
fn attention(case: &mut Case, qkv: [NodeId; 3], causal: bool) -> NodeId {
    let mut g = api::Graph::new("attention", true);
    let inputs = [0, 1, 2].map(|index| g.input(&format!("x{index}"), case.graph.ty(qkv[index]).clone()));
    let y = g.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], causal).expect("sizes fit");
    g.output("y", y);
    let graph = g.finish().expect("a sound graph");
    let node =
        graph.nodes.iter().find(|node| matches!(&node.op, Op::Composite { name, .. } if name == "attention")).expect("one composite");
    case.op(node.op.clone(), &qkv)
}

/// `2.5 * sum(y * w) + sum(y)`, so that what flows back is neither 1 nor constant, and its gradients by `wrt`.
fn gradients(case: &mut Case, y: NodeId, wrt: &[NodeId]) -> Vec<NodeId> {
    let shape = case.shape(y);
    let weight = case.input("w", &shape);
    let product = case.mul(y, weight);
    let product = case.scaled(product, 2.5);
    let whole = case.add(product, y);
    let loss = case.reduce(ReduceKind::Sum, whole, &(0..shape.len()).collect::<Vec<_>>());
    let first = case.op(Op::Grad, &[&[loss], wrt].concat());
    (0..wrt.len()).map(|index| case.op(Op::Result { index }, &[first])).collect()
}

/// Operands that are inputs of their own.
fn apart(sizes: Sizes) -> Case {
    let Sizes { batch, heads, queries, keys, dim, width, causal } = sizes;
    let mut case = Case::new("apart", 3);
    let qkv = [("q", queries, dim), ("k", keys, dim), ("v", keys, width)]
        .map(|(name, rows, columns)| case.input(name, &[batch, heads, rows, columns]));
    let y = attention(&mut case, qkv, causal);
    case.output("y", y);
    for (name, gradient) in ["dq", "dk", "dv"].into_iter().zip(gradients(&mut case, y, &qkv)) {
        case.output(name, gradient);
    }
    case
}

/// As a transformer has it: heads are views of one projection, the result is laid side by side again, and so is the gradient.
fn self_attention(batch: usize, heads: usize, time: usize, dim: usize) -> Case {
    let mut case = Case::new("self-attention", 5);
    let width = heads * dim;
    let all = case.input("all", &[batch, time, 3 * width]);
    let heads_of = |case: &mut Case, part: usize| {
        let (starts, limits) = (vec![0, 0, part * width], vec![batch, time, (part + 1) * width]);
        let cut = case.op(Op::Slice { starts, limits, strides: vec![1; 3] }, &[all]);
        let split = case.reshape(cut, &[batch, time, heads, dim]);
        case.transpose(split, &[0, 2, 1, 3])
    };
    let qkv = [0, 1, 2].map(|part| heads_of(&mut case, part));
    let y = attention(&mut case, qkv, true);
    let y = case.transpose(y, &[0, 2, 1, 3]);
    let y = case.reshape(y, &[batch * time, width]);
    let weight = case.input("weight", &[width, 5]);
    let y = case.matmul(y, weight);
    case.output("y", y);
    let gradient = gradients(&mut case, y, &[all])[0];
    // Read as a matrix, as the gradient of a projection is.
    let rows = case.reshape(gradient, &[batch * time, 3 * width]);
    let mixing = case.input("mixing", &[3 * width, 4]);
    let mixed = case.matmul(rows, mixing);
    case.output("mixed", mixed);
    case
}

fn gpu(is_software: bool, with_subgroups: bool) -> Box<dyn Runtime> {
    let adapter = adapters().into_iter().min_by_key(|adapter| adapter.is_software);
    let adapter = adapter.expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
    let own = GpuRuntime::new(&adapter).expect("the adapter opens").target().clone();
    let subgroup_size = if with_subgroups { own.subgroup_size } else { 1 };
    Box::new(GpuRuntime::with_target(&adapter, Target { is_software, subgroup_size, ..own }).expect("the adapter opens"))
}

fn check(case: &Case, tolerance: f64) {
    let (plan, wanted) = (case.plan(true), case.wanted());
    assert!(attention_kernels(&plan).len() >= 2, "forward and gradient are taken whole:\n{plan}");
    let devices: [(&str, &dyn Fn() -> Box<dyn Runtime>); 5] = [
        ("one thread", &|| Box::new(CpuRuntime::new(Some(1)).expect("threads start"))),
        ("three threads", &|| Box::new(CpuRuntime::new(Some(3)).expect("threads start"))),
        ("hardware", &|| gpu(false, false)),
        ("software", &|| gpu(true, true)),
        ("software without subgroups", &|| gpu(true, false)),
    ];
    let mut on_cpu: Option<Results> = None;
    for (what, open) in devices {
        let found = run(open(), &plan, &case.values, 1);
        assert_close(&format!("{} on {what}", case.graph.name), &found, &wanted, tolerance);
        match what.ends_with("thread") || what.ends_with("threads") {
            true => assert!(on_cpu.get_or_insert_with(|| found.clone()) == &found, "the number of threads changes nothing"),
            false => assert!(found == run(open(), &plan, &case.values, 1), "{what}: the same bytes again"),
        }
    }
    // Unfused, the body is gone through.
    let unfused = run(Box::new(CpuRuntime::new(Some(2)).expect("threads start")), &case.plan(false), &case.values, 1);
    assert_close("unfused", &unfused, &wanted, tolerance);
}

fn attention_kernels(plan: &Plan) -> Vec<&KernelOp> {
    plan.kernels.iter().map(|kernel| &kernel.op).filter(|op| matches!(op, KernelOp::Attention { .. })).collect()
}

#[test]
fn results_and_gradients_are_the_oracles_for_sizes_around_the_blocks() {
    for sizes in SIZES {
        let case = apart(sizes);
        println!("{sizes:?}");
        // Sums of up to 130 products of products: about 130 * 2^-24 relative to the largest.
        check(&case, 2e-5);
    }
}

#[test]
fn the_widest_heads_that_a_kernel_takes() {
    let case = apart(sizes(1, 2, 9, 33, 128, 128, false));
    let (plan, wanted) = (case.plan(true), case.wanted());
    assert!(attention_kernels(&plan).len() == 2, "{plan}");
    // On the CPU; a software GPU takes a minute to compile rows of this width.
    assert_close("wide", &run(Box::new(CpuRuntime::new(Some(2)).expect("threads start")), &plan, &case.values, 1), &wanted, 2e-5);
}

#[test]
fn heads_are_read_and_written_where_they_stand() {
    let case = self_attention(2, 3, 20, 8);
    check(&case, 2e-5);
    let plan = case.plan(true);
    // Projection and mixing forward and back, the loss and its parts; nothing that only moves heads.
    let moved = plan.kernels.iter().filter(|kernel| matches!(&kernel.op, KernelOp::Map { body, .. } if body.code.len() == 1)).count();
    assert_eq!(moved, 0, "{plan}");
    let results: Vec<_> = attention_kernels(&plan)
        .into_iter()
        .filter_map(|op| match op {
            KernelOp::Attention { pass: AttentionPass::Gradient { to, .. }, .. } => Some(to.each_ref().map(|view| view.buffer)),
            _ => None,
        })
        .collect();
    assert!(matches!(results[..], [[q, k, v]] if q == k && k == v), "the three gradients are one tensor:\n{plan}");
}

#[test]
fn a_gradient_that_is_laid_down_twice_is_there_twice() {
    let mut case = Case::new("twice", 8);
    let qkv = ["q", "k", "v"].map(|name| case.input(name, &[1, 2, 9, 4]));
    let y = attention(&mut case, qkv, true);
    let dq = gradients(&mut case, y, &qkv)[0];
    let dq = case.transpose(dq, &[0, 2, 1, 3]);
    let dq = case.reshape(dq, &[9, 8]);
    let both = case.op(Op::Concatenate { axis: 1 }, &[dq, dq]);
    case.output("both", both);
    check(&case, 2e-5);
}

#[test]
fn a_plugins_own_attention_grad_is_what_its_body_says() {
    let mut case = Case::new("foreign", 4);
    let inputs = ["q", "k", "v", "g"].map(|name| case.input(name, &[4, 6]));
    let mut body = Graph::new("attention_grad");
    let nothing: Arc<str> = Arc::from("");
    let parameters = [0, 1, 2, 3].map(|index| {
        let parameter = Parameter { name: format!("x{index}"), role: Role::Input, init: None };
        body.push_typed(Op::Parameter(parameter), vec![], case.graph.ty(inputs[index]).clone(), nothing.clone(), nothing.clone())
    });
    body.outputs = (0..3).map(|index| Output { name: format!("y{index}"), node: parameters[3 - index] }).collect();
    let serde_json::Value::Object(attrs) = serde_json::json!({"causal": true, "scale": 1.0, "dropout": 0.0}) else { panic!("an object") };
    let first = case.op(Op::Composite { name: "attention_grad".into(), attrs, body: Box::new(body) }, &inputs);
    let second = case.op(Op::Result { index: 1 }, &[first]);
    let sum = case.add(first, second);
    case.output("sum", sum);
    let plan = case.plan(true);
    assert!(attention_kernels(&plan).is_empty(), "{plan}");
    assert_close("foreign", &run(Box::new(CpuRuntime::new(Some(1)).expect("threads start")), &plan, &case.values, 1), &case.wanted(), 1e-6);
}

#[test]
fn one_head_of_one_long_sequence_keeps_every_thread_busy_and_right() {
    // No batch axis lies apart here: the results are gathered first.
    check(&self_attention(1, 2, 70, 4), 2e-5);
}

#[test]
fn no_buffer_holds_the_scores() {
    let Sizes { batch, heads, queries, keys, .. } = SIZES[6];
    let plan = apart(SIZES[6]).plan(true);
    let scores = batch * heads * queries * keys;
    assert!(plan.buffers.iter().all(|buffer| buffer.elements < scores), "{plan}");
}

#[test]
fn a_gradient_whose_result_nobody_reads_makes_it_itself() {
    let mut case = apart(SIZES[2]);
    case.graph.outputs.retain(|output| output.name != "y");
    check(&case, 2e-5);
}

#[test]
fn a_gradient_of_a_gradient_goes_through_the_body() {
    let mut case = Case::new("second", 9);
    let qkv = ["q", "k", "v"].map(|name| case.input(name, &[1, 5, 4]));
    let y = attention(&mut case, qkv, true);
    let first = gradients(&mut case, y, &qkv);
    let squares: Vec<NodeId> = first.iter().map(|&gradient| case.mul(gradient, gradient)).collect();
    let sum = squares.into_iter().reduce(|left, right| case.add(left, right)).expect("three");
    let penalty = case.reduce(ReduceKind::Sum, sum, &[0, 1, 2]);
    let second = case.op(Op::Grad, &[penalty, qkv[0], qkv[2]]);
    case.output("ddq", second);
    let value = case.op(Op::Result { index: 1 }, &[second]);
    case.output("ddv", value);
    let wanted = case.wanted();
    // The penalty is of the second power, its gradient of the third: errors grow with it.
    assert_close(
        "second",
        &run(Box::new(CpuRuntime::new(Some(2)).expect("threads start")), &case.plan(true), &case.values, 1),
        &wanted,
        1e-4,
    );
    // Against finite differences of the oracle's own first derivative.
    let (name, step) = ("q", 1e-4);
    let at = |shift: f64| {
        let mut moved = Case::new("moved", 9);
        moved.graph = case.graph.clone();
        moved.graph.outputs = vec![Output { name: "penalty".into(), node: penalty }];
        moved.values = case.values.clone();
        let tensor = &moved.values[name];
        let mut values = tensor.to_f64();
        values[3] += shift;
        let tensor = solstice_engine::reference::Tensor::from_f64(&tensor.ty, &values);
        moved.values.insert(name.into(), tensor);
        moved.wanted()["penalty"].to_f64()[0]
    };
    let difference = (at(step) - at(-step)) / (2.0 * step);
    let exact = wanted["ddq"].to_f64()[3];
    assert!((difference - exact).abs() <= 1e-5 * exact.abs().max(1.0), "{difference} and {exact}");
}

/// A composite of the same name that is something else.
fn other_composite(causal: serde_json::Value) -> Case {
    let mut case = Case::new("other", 4);
    let qkv = ["q", "k", "v"].map(|name| case.input(name, &[4, 6]));
    let mut body = Graph::new("attention");
    let nothing: Arc<str> = Arc::from("");
    let inputs = [0, 1, 2].map(|index| {
        let parameter = Parameter { name: format!("x{index}"), role: Role::Input, init: None };
        body.push_typed(Op::Parameter(parameter), vec![], case.graph.ty(qkv[index]).clone(), nothing.clone(), nothing.clone())
    });
    let sum = body.push(Op::Binary { function: solstice_ir::BinaryOp::Add }, &inputs[..2], &nothing, &nothing).expect("sizes fit");
    body.outputs = vec![Output { name: "y".into(), node: sum }];
    let serde_json::Value::Object(attrs) = causal else { panic!("an object") };
    let y = case.op(Op::Composite { name: "attention".into(), attrs, body: Box::new(body) }, &qkv);
    case.output("y", y);
    case
}

#[test]
fn what_is_not_exactly_attention_goes_through_its_body() {
    for attrs in [
        serde_json::json!({}),
        serde_json::json!({"causal": true, "scale": 1.0}),
        serde_json::json!({"causal": true, "scale": 1.0, "dropout": 0.5}),
        serde_json::json!({"causal": true, "scale": 1.0, "dropout": 0.0, "window": 3}),
        serde_json::json!({"causal": true, "scale": 1e300, "dropout": 0.0}),
        // What attention says of itself, before a body that is none.
        serde_json::json!({"causal": true, "scale": 1.0, "dropout": 0.0}),
    ] {
        let case = other_composite(attrs);
        let plan = case.plan(true);
        assert!(attention_kernels(&plan).is_empty(), "{plan}");
        assert_close(
            "other",
            &run(Box::new(CpuRuntime::new(Some(1)).expect("threads start")), &plan, &case.values, 1),
            &case.wanted(),
            1e-6,
        );
    }
    // Heads that are too wide for registers.
    let case = apart(sizes(1, 1, 5, 6, 132, 4, true));
    let plan = case.plan(true);
    assert!(attention_kernels(&plan).is_empty(), "{plan}");
    assert_close("wide", &run(Box::new(CpuRuntime::new(Some(1)).expect("threads start")), &plan, &case.values, 1), &case.wanted(), 2e-5);
}
