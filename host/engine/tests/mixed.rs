//! Mixed precision on the first adapter: memory of halves is rounded as IEEE 754 says, every kernel that takes halves computes with it what it computes without,
//! products round their factors and nothing else, the plan keeps in f32 what must stay there, and a step with a loss scale skips and recovers as written down
//! by hand. Data that f16 holds exactly gives equal bytes, so most comparisons have no tolerance.

#[path = "common/device.rs"]
mod device;
#[allow(dead_code)]
#[path = "common/models.rs"]
mod models;

use device::{Case, Results, numbers_of, run};
use models::{convnet, gpt, mlp, value};
use solstice_engine::cost::cost;
use solstice_engine::cpu::CpuRuntime;
use solstice_engine::gpu::{Choice, GpuRuntime, Launches, Sources, Step, Target, Tuning, adapters, choices, launches, naga, shaders};
use solstice_engine::kernel::{AttentionPass, BufferId, BufferKind, KernelOp};
use solstice_engine::loss_scale::{FIRST_SCALE, GOOD_STEPS, GROWTH_STEPS, OVERFLOWED, SCALE, SKIPPED_STEPS, StepPart, with_loss_scale};
use solstice_engine::reference::Tensor;
use solstice_engine::{CompileOptions, Plan, Precision, ProgramId, Runtime, Session, compile, init};
use solstice_ir::{
    BinaryOp, ConvolutionGeometry, DType, DotDims, Graph, NodeId, Op, ReduceKind, Role, TensorType, UnaryOp, Window, element_count,
};
use std::collections::BTreeSet;

fn plan_of(graph: &Graph, fuse: bool, precision: Precision) -> Plan {
    compile(graph, &CompileOptions { fuse, precision }).unwrap_or_else(|error| panic!("{}: {error}", graph.name)).plan
}

fn halves(plan: &Plan) -> usize {
    plan.buffers.iter().filter(|buffer| buffer.is_half).count()
}

/// The first adapter with the kernels of another kind.
fn gpu(change: impl FnOnce(Target) -> Target) -> Box<dyn Runtime> {
    let adapter = adapters().into_iter().min_by_key(|adapter| adapter.is_software);
    let adapter = adapter.expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
    let own = GpuRuntime::new(&adapter).expect("the adapter opens").target().clone();
    assert!(own.has_f16, "these tests want an adapter with f16; Mesa's software Vulkan has it");
    Box::new(GpuRuntime::with_target(&adapter, change(own)).expect("the adapter opens"))
}

/// Both families of kernels, and the one for software without subgroups.
fn families() -> [(&'static str, Box<dyn Runtime>); 3] {
    [
        ("software", gpu(|own| Target { is_software: true, ..own })),
        ("software without subgroups", gpu(|own| Target { is_software: true, subgroup_size: 1, ..own })),
        ("hardware", gpu(|own| Target { is_software: false, ..own })),
    ]
}

/// The nearest f16 number, ties to even.
fn half(x: f32) -> f32 {
    let size = f64::from(x.abs());
    if x.is_nan() || size >= 65520.0 {
        return if x.is_nan() { x } else { x.signum() * f32::INFINITY };
    }
    let exponent = if size == 0.0 { -14.0 } else { size.log2().floor().max(-14.0) };
    let unit = (exponent - 10.0).exp2();
    ((f64::from(x) / unit).round_ties_even() * unit) as f32
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Numbers

#[test]
fn numbers_are_rounded_to_nearest_and_overflow_to_infinity() {
    // Rounding, ties, the edge of infinity, subnormals and what is below them.
    let mut x: Vec<f32> = vec![
        0.0,
        -0.0,
        1.0,
        2049.0,
        2051.0,
        -2049.0,
        0.1,
        65503.0,
        65504.0,
        65519.996,
        65520.0,
        -65520.0,
        65536.0,
        1e30,
        -3e38,
        6.1e-5,
        5.9e-8,
        2.9e-8,
        2.0f32.powi(-25),
        3.1e-8,
        -1e-30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let mut seed = 7u32;
    while x.len() < 1536 {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        // All exponents of f16 and some beyond.
        x.push(f32::from_bits((seed & 0x807f_ffff) | ((100 + (seed >> 9) % 45) << 23)));
    }
    let mut case = Case::new("rounding", 1);
    let values: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
    let ty = TensorType::new(DType::F32, [1536]);
    let input = case.given("x", Role::Input, Tensor::from_f64(&ty, &values));
    let zeros = case.given("zeros", Role::Input, Tensor::from_f64(&ty, &[0.0; 1536]));
    let minus_one = case.given("minus one", Role::Input, Tensor::from_f64(&ty, &[-1.0; 1536]));
    let negative = case.mul(input, minus_one);
    let y = case.add(negative, zeros);
    case.output("y", y);
    let mut plan = case.plan(false);
    // Nothing here is a product's, so the plan is changed by hand: the one value between the two kernels.
    let between: Vec<usize> =
        (0..plan.buffers.len()).filter(|&index| matches!(plan.buffers[index].kind, BufferKind::Scratch { .. })).collect();
    assert_eq!(between.len(), 1, "{plan}");
    plan.buffers[between[0]].is_half = true;
    for (family, runtime) in families() {
        let results = run(runtime, &plan, &case.values, 1);
        let found = numbers_of(&results["y"].0, &results["y"].1);
        for (x, found) in x.iter().zip(found) {
            let wanted = f64::from(half(-x));
            assert!(found == wanted || (found.is_nan() && wanted.is_nan()), "{family}: {x:e} became {found:e}, not {wanted:e}");
        }
    }
}

/// Whole numbers from -2 to 2.
fn whole(case: &mut Case, name: &str, shape: &[usize]) -> NodeId {
    let bits = |i: usize| solstice_engine::random::rng_bits(5, shape.len() as u32, name.len() as u32, i as u32);
    let values: Vec<f64> = (0..element_count(shape)).map(|i| f64::from(bits(i) % 5) - 2.0).collect();
    case.given(name, Role::Input, Tensor::from_f64(&TensorType::new(DType::F32, shape), &values))
}

/// A product's result, which mixed precision keeps as halves: whole numbers up to 64.
fn product(case: &mut Case, shape: &[usize]) -> NodeId {
    let count = element_count(shape);
    let (x, y) = (whole(case, "left", &[count / 32, 16]), whole(case, "right", &[16, 32]));
    let z = case.matmul(x, y);
    case.reshape(z, shape)
}

/// The same bytes in both precisions on all families; the mixed plan has `wanted` halves, fused or not.
fn is_exact(case: &Case, wanted: [usize; 2]) {
    for (fuse, wanted) in [(false, wanted[0]), (true, wanted[1])] {
        let [single, mixed] = [Precision::F32, Precision::Mixed].map(|precision| plan_of(&case.graph, fuse, precision));
        assert_eq!((halves(&single), halves(&mixed)), (0, wanted), "{}: fused: {fuse}\n{mixed}", case.graph.name);
        for (family, runtime) in families() {
            let found = run(runtime, &mixed, &case.values, 2);
            let runtime = families().into_iter().find(|(name, _)| *name == family).expect("the same family").1;
            let wanted = run(runtime, &single, &case.values, 2);
            assert_same(&format!("{} on {family}, fused: {fuse}", case.graph.name), &found, &wanted);
        }
    }
}

fn assert_same(what: &str, found: &Results, wanted: &Results) {
    for (name, (ty, bytes)) in wanted {
        let (found, wanted) = (numbers_of(ty, &found[name].1), numbers_of(ty, bytes));
        let largest = wanted.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        // Nothing is exact beyond.
        assert!(largest <= 2048.0, "{what}: `{name}` has {largest}");
        assert!(wanted.iter().any(|value| *value != 0.0), "{what}: `{name}` is nothing but zeros");
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!(found == wanted, "{what}: `{name}` at {i} is {found}, not {wanted}");
        }
    }
}

#[test]
fn products_of_halves_are_products() {
    // Every way to lie, whole tiles and ragged ones, thin results and long sums.
    for (batch, rows, inner, columns) in
        [(1, 64, 64, 64), (2, 33, 65, 17), (3, 40, 9, 70), (1, 1, 1500, 2), (2, 5, 1030, 4), (1, 300, 4, 5)]
    {
        for ways in 0..4 {
            let mut case = Case::new(&format!("{batch} x {rows}x{inner}x{columns}, way {ways}"), 1);
            let lhs_shape = if ways & 1 == 0 { [batch, rows, inner] } else { [batch, inner, rows] };
            let rhs_shape = if ways & 2 == 0 { [batch, inner, columns] } else { [batch, columns, inner] };
            let factor = |case: &mut Case, name: &str, shape: &[usize]| {
                let x = whole(case, name, shape);
                case.scaled(x, -1.0)
            };
            let (x, y) = (factor(&mut case, "lhs", &lhs_shape), factor(&mut case, "rhs rhs", &rhs_shape));
            let (lhs_contract, rhs_contract) = (if ways & 1 == 0 { 2 } else { 1 }, if ways & 2 == 0 { 1 } else { 2 });
            let dims =
                DotDims { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![lhs_contract], rhs_contract: vec![rhs_contract] };
            let z = case.op(Op::DotGeneral { dims }, &[x, y]);
            // An eighth of it fits into f16 whatever the sum.
            let z = case.scaled(z, 0.125);
            case.output("z", z);
            let is_large = |shape: &[usize]| usize::from(element_count(shape) >= 1024);
            let factors = is_large(&lhs_shape) + is_large(&rhs_shape);
            is_exact(&case, [factors + is_large(&[batch, rows, columns]), factors]);
        }
    }
}

#[test]
fn convolutions_of_halves_are_convolutions() {
    for (spatial, groups) in [(1, 1), (2, 2), (3, 1)] {
        let mut case = Case::new(&format!("{spatial} axes, {groups} groups"), 1);
        let side = [0, 300, 17, 8][spatial];
        let geometry = ConvolutionGeometry {
            strides: vec![1; spatial],
            low: vec![1; spatial],
            high: vec![0; spatial],
            dilation: vec![2; spatial],
            groups,
        };
        let shape = |a: usize, b: usize, size: usize| [vec![a, b], vec![size; spatial]].concat();
        let x = whole(&mut case, "x", &shape(2, 4, side));
        let x = case.scaled(x, -1.0);
        let weight = whole(&mut case, "weight", &shape(6, 4 / groups, 2));
        let y = case.op(Op::Convolution { geometry: geometry.clone() }, &[x, weight]);
        let y = case.scaled(y, 0.0625);
        let shape = case.shape(y);
        let flow = whole(&mut case, "flow", &shape);
        let flow = case.scaled(flow, -1.0);
        let dx = case.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial: vec![side; spatial] }, &[flow, weight]);
        let dx = case.scaled(dx, 0.0625);
        let dw = case.op(Op::ConvolutionWeightGrad { geometry, kernel_spatial: vec![2; spatial] }, &[x, flow]);
        let dw = case.scaled(dw, 0.0625);
        for (name, node) in [("y", y), ("dx", dx), ("dw", dw)] {
            case.output(name, node);
        }
        // x, what flows back, y and dx before they are scaled.
        is_exact(&case, [4, 2]);
    }
}

#[test]
fn maps_and_reductions_load_and_store_halves() {
    let mut case = Case::new("maps", 1);
    let z = product(&mut case, &[6, 16, 32]);
    // Along the row, across it, turned round, repeated, every third element, shifted by one.
    let turned = case.transpose(z, &[2, 0, 1]);
    let turned = case.scaled(turned, 2.0);
    let reversed = case.op(Op::Reverse { axes: vec![2] }, &[z]);
    let sum = case.add(reversed, z);
    let cut = case.op(Op::Slice { starts: vec![0, 1, 1], limits: vec![6, 16, 32], strides: vec![1, 1, 3] }, &[z]);
    let cut = case.scaled(cut, 0.5);
    let row = case.op(Op::Slice { starts: vec![0, 0, 3], limits: vec![6, 16, 4], strides: vec![1; 3] }, &[z]);
    let row = case.reshape(row, &[6, 16]);
    let wide = case.broadcast(row, &[6, 16, 32], &[0, 1]);
    let mixed = case.sub(z, wide);
    for (name, node) in [("turned", turned), ("sum", sum), ("cut", cut), ("mixed", mixed)] {
        case.output(name, node);
    }
    for (name, axes) in [("last", vec![2]), ("first", vec![0]), ("middle", vec![1])] {
        for kind in [ReduceKind::Sum, ReduceKind::Max] {
            let y = case.reduce(kind, z, &axes);
            case.output(&format!("{kind:?} {name}"), y);
        }
        let index = case.op(Op::ReduceArg { kind: ReduceKind::Max, axis: axes[0] }, &[z]);
        case.output(&format!("arg {name}"), index);
    }
    is_exact(&case, [1, 1]);
}

#[test]
fn a_chain_of_elementwise_kernels_stays_in_halves() {
    let mut case = Case::new("chain", 1);
    let z = product(&mut case, &[48, 33 * 32]);
    // The mean of a row, taken away, and the largest of the rest: kernels over rows when fused.
    let top = case.reduce(ReduceKind::Max, z, &[1]);
    let top = case.broadcast(top, &[48, 33 * 32], &[0]);
    let rest = case.sub(top, z);
    let whole_rest = case.scaled(rest, 0.25);
    let least = case.reduce(ReduceKind::Min, whole_rest, &[0]);
    case.output("least", least);
    let weight = whole(&mut case, "weight", &[33 * 32, 40]);
    let second = case.scaled(whole_rest, 0.125);
    let up = case.unary(UnaryOp::Floor, second);
    let y = case.matmul(up, weight);
    let y = case.scaled(y, 1.0 / 64.0);
    let y = case.unary(UnaryOp::Floor, y);
    case.output("y", y);
    for (fuse, least_halves) in [(false, 5), (true, 2)] {
        let [single, mixed] = [Precision::F32, Precision::Mixed].map(|precision| plan_of(&case.graph, fuse, precision));
        assert!(halves(&mixed) >= least_halves, "{mixed}");
        for (family, runtime) in families() {
            let found = run(runtime, &mixed, &case.values, 1);
            let runtime = families().into_iter().find(|(name, _)| *name == family).expect("the same family").1;
            assert_same(&format!("chain on {family}, fused: {fuse}"), &found, &run(runtime, &single, &case.values, 1));
        }
    }
}

#[test]
fn pooling_and_its_gradient_take_halves() {
    for (size, stride, low) in [(2, 2, 0), (3, 2, 1)] {
        let mut case = Case::new(&format!("windows of {size}"), 1);
        let z = product(&mut case, &[4, 3, 16, 16]);
        let window =
            Window { size: vec![1, 1, size, size], strides: vec![1, 1, stride, stride], low: vec![0, 0, low, low], high: vec![0; 4] };
        for kind in [ReduceKind::Max, ReduceKind::Sum] {
            let pooled = case.op(Op::ReduceWindow { kind, window: window.clone() }, &[z]);
            case.output(&format!("{kind:?}"), pooled);
        }
        let pooled = case.op(Op::ReduceWindow { kind: ReduceKind::Max, window: window.clone() }, &[z]);
        let flow = case.scaled(pooled, 0.5);
        let back = case.op(Op::SelectAndScatter { kind: ReduceKind::Max, window }, &[z, flow]);
        let weight = whole(&mut case, "weight", &[16, 8]);
        let back = case.reshape(back, &[192, 16]);
        let y = case.matmul(back, weight);
        let y = case.scaled(y, 0.25);
        case.output("y", y);
        for fuse in [false, true] {
            let mixed = plan_of(&case.graph, fuse, Precision::Mixed);
            let is_half = |buffer: &BufferId| mixed.buffers[buffer.index()].is_half;
            let takes_halves = |op: &KernelOp| matches!(op, KernelOp::SelectAndScatter { x, to, .. } if is_half(x) && is_half(to));
            assert!(mixed.kernels.iter().any(|kernel| takes_halves(&kernel.op)), "{mixed}");
        }
        let counts = [false, true].map(|fuse| halves(&plan_of(&case.graph, fuse, Precision::Mixed)));
        is_exact(&case, counts);
    }
}

/// The composite of attention as a plugin's author makes it.
fn attention(case: &mut Case, qkv: [NodeId; 3], causal: bool) -> NodeId {
    let mut g = solstice_plugin_api::Graph::new("attention", true);
    let inputs = [0, 1, 2].map(|index| g.input(&format!("x{index}"), case.graph.ty(qkv[index]).clone()));
    let y = g.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], causal).expect("sizes fit");
    g.output("y", y);
    let graph = g.finish().expect("a sound graph");
    let is_whole = |op: &Op| matches!(op, Op::Composite { name, .. } if name == "attention");
    let node = graph.nodes.iter().find(|node| is_whole(&node.op)).expect("one composite");
    case.op(node.op.clone(), &qkv)
}

#[test]
fn attention_takes_halves_of_any_width() {
    // Rows that are whole vectors, and rows that are none, with values too few to be halves beside queries and keys that are.
    for (entries, queries, keys, dim, width, causal) in [(6, 64, 64, 32, 32, true), (4, 65, 70, 5, 3, false), (3, 100, 100, 6, 10, true)] {
        let mut case = Case::new(&format!("{entries} x {queries}x{dim} * {keys}x{width}"), 9);
        let operand = |case: &mut Case, name: &str, rows: usize, columns: usize| {
            let x = case.input(name, &[entries, rows, columns]);
            case.scaled(x, 0.7)
        };
        let qkv = [operand(&mut case, "q", queries, dim), operand(&mut case, "k", keys, dim), operand(&mut case, "v", keys, width)];
        let y = attention(&mut case, qkv, causal);
        let shown = case.scaled(y, 3.0);
        case.output("y", shown);
        let weight = case.input("weight", &[entries, queries, width]);
        let product = case.mul(y, weight);
        let loss = case.reduce(ReduceKind::Sum, product, &[0, 1, 2]);
        let first = case.op(Op::Grad, &[&[loss], &qkv[..]].concat());
        for (index, name) in ["dq", "dk", "dv"].iter().enumerate() {
            let gradient = case.op(Op::Result { index }, &[first]);
            let gradient = case.scaled(gradient, 0.3);
            case.output(name, gradient);
        }
        let [single, mixed] = [Precision::F32, Precision::Mixed].map(|precision| plan_of(&case.graph, true, precision));
        let is_half = |buffer: BufferId| mixed.buffers[buffer.index()].is_half;
        let reads_halves = |op: &&KernelOp| matches!(op, KernelOp::Attention { qkv, .. } if is_half(qkv[0].buffer));
        let attention: Vec<&KernelOp> = kernels(&mixed).into_iter().filter(reads_halves).collect();
        assert_eq!(attention.len(), 2, "forward and gradient read halves\n{mixed}");
        assert!(attention.iter().any(|op| op.writes().into_iter().any(is_half)), "and write some\n{mixed}");
        for (family, runtime) in families() {
            let found = run(runtime, &mixed, &case.values, 1);
            let runtime = families().into_iter().find(|(name, _)| *name == family).expect("the same family").1;
            let wanted = run(runtime, &single, &case.values, 1);
            for (name, (ty, bytes)) in &wanted {
                let (found, wanted) = (numbers_of(ty, &found[name].1), numbers_of(ty, bytes));
                let norm = |values: Vec<f64>| values.into_iter().map(|value| value * value).sum::<f64>().sqrt();
                let error = norm(found.iter().zip(&wanted).map(|(found, wanted)| found - wanted).collect()) / norm(wanted);
                // Some roundings of half a unit on the way, of random sign.
                assert!(error > 0.0 && error <= 3.0 * 2f64.powi(-11), "{} on {family}: `{name}` is off by {error:.1e}", case.graph.name);
            }
        }
    }
}

#[test]
fn factors_are_rounded_and_sums_are_not() {
    // Factors that f16 does not hold; the product of two rounded ones is exact in f32, and so is a sum of few of them to f32's rounding.
    for (rows, inner, columns) in [(40, 70, 50), (64, 16, 128), (1, 2000, 3)] {
        let mut case = Case::new("rounded factors", 3);
        let (a, b) = (case.input("a", &[rows, inner]), case.input("b", &[inner, columns]));
        let x = case.scaled(a, 1.25);
        let z = case.matmul(x, b);
        case.output("z", z);
        let plan = plan_of(&case.graph, false, Precision::Mixed);
        assert_eq!(halves(&plan), 1, "the scaled factor alone: the result is the plan's output\n{plan}");
        let numbers = |name: &str| -> Vec<f32> { case.values[name].to_f64().iter().map(|value| *value as f32).collect() };
        let (a, b) = (numbers("a"), numbers("b"));
        for (family, runtime) in families() {
            let results = run(runtime, &plan, &case.values, 1);
            let found = numbers_of(&results["z"].0, &results["z"].1);
            for row in 0..rows {
                for column in 0..columns {
                    let term = |k: usize| f64::from(half(1.25 * a[row * inner + k])) * f64::from(half(b[k * columns + column]));
                    let wanted: f64 = (0..inner).map(term).sum();
                    let sizes: f64 = (0..inner).map(|k| term(k).abs()).sum();
                    // A sum of n terms in f32, in whatever order: n units of 2^-24 at most.
                    let allowed = sizes * inner as f64 * 2f64.powi(-24);
                    let error = (found[row * columns + column] - wanted).abs();
                    assert!(error <= allowed, "{family}: [{row}, {column}] is off by {error:e}, more than {allowed:e}");
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Plans

fn models() -> [(&'static str, Graph); 3] {
    [("mlp", mlp(&[512, 512], 128)), ("convnet", convnet([32, 64], 128, 64, 28)), ("gpt", gpt(4, 4, 128, 12, 64))]
}

fn scaled(graph: &Graph) -> Graph {
    with_loss_scale(graph, StepPart::Whole).expect("a step has gradients").graph
}

#[test]
fn f32_is_the_default_and_knows_nothing_of_halves() {
    assert_eq!(CompileOptions::default().precision, Precision::F32);
    for (name, graph) in models() {
        let plan = plan_of(&graph, true, Precision::F32);
        assert!(!plan.is_mixed(), "{name}");
        for (label, wgsl) in shaders(&plan, &Sources::built_in()).unwrap_or_else(|error| panic!("{name}: {error}")) {
            assert!(!wgsl.contains("f16"), "{name}: {label}\n{wgsl}");
        }
    }
}

/// Every kernel of a plan, members of groups by themselves.
fn kernels(plan: &Plan) -> Vec<&KernelOp> {
    fn flat<'a>(op: &'a KernelOp, all: &mut Vec<&'a KernelOp>) {
        match op {
            KernelOp::Group { members } => members.iter().for_each(|member| flat(&member.op, all)),
            op => all.push(op),
        }
    }
    let mut all = Vec::new();
    plan.kernels.iter().for_each(|kernel| flat(&kernel.op, &mut all));
    all
}

#[test]
fn activations_are_halves_and_what_must_be_exact_is_not() {
    for (name, graph) in models() {
        let plan = plan_of(&scaled(&graph), true, Precision::Mixed);
        let is_half = |buffer: &BufferId| plan.buffers[buffer.index()].is_half;
        let is_state = |buffer: &BufferId| matches!(plan.buffers[buffer.index()].kind, BufferKind::State(_));
        for buffer in &plan.buffers {
            let is_scratch = matches!(buffer.kind, BufferKind::Scratch { .. });
            assert!(!buffer.is_half || (is_scratch && buffer.dtype == DType::F32), "{name}: {buffer:?}");
        }
        let mut product_count = 0;
        for op in kernels(&plan) {
            match op {
                KernelOp::Reduce { to, .. } => assert!(!is_half(to), "{name}: the result of a reduction"),
                KernelOp::Attention { pass: AttentionPass::Forward { log_sums: Some(log_sums), .. }, .. } => {
                    assert!(!is_half(log_sums), "{name}: log sums");
                }
                // The optimizer's kernels read gradients of weights.
                KernelOp::Map { body, stores, .. } | KernelOp::Rows { body, stores, .. }
                    if stores.iter().any(|store| is_state(&store.to.buffer)) =>
                {
                    let halves = body.loads.iter().filter(|view| is_half(&view.buffer)).count();
                    assert_eq!(halves, 0, "{name}: an update reads halves\n{plan}");
                }
                KernelOp::Dot { lhs, rhs, .. } => {
                    product_count += 1;
                    assert!(is_half(&lhs.buffer) || is_half(&rhs.buffer) || op.writes().iter().any(is_half), "{name}: {}", op.summary());
                }
                KernelOp::Convolution { from, .. } => {
                    product_count += 1;
                    assert!(from.iter().any(is_half) || op.writes().iter().any(is_half), "{name}: {}", op.summary());
                }
                _ => {}
            }
        }
        assert!(product_count >= 8, "{name}: {product_count} products");
    }
}

#[test]
fn a_mixed_step_moves_fewer_bytes_in_less_memory() {
    let bytes = |plan: &Plan| plan.kernels.iter().map(|kernel| cost(plan, &kernel.op).bytes).sum::<u64>();
    for (name, graph) in models() {
        let [single, mixed] =
            [(&graph, Precision::F32), (&scaled(&graph), Precision::Mixed)].map(|(graph, precision)| plan_of(graph, true, precision));
        let mib = |bytes: f64| bytes / 1_048_576.0;
        println!(
            "{name}: {:.1} MiB moved, {:.1} with halves; {:.1} MiB scratch, {:.1} with halves; {} kernels, {}",
            mib(bytes(&single) as f64),
            mib(bytes(&mixed) as f64),
            mib(single.scratch_bytes() as f64),
            mib(mixed.scratch_bytes() as f64),
            single.kernels.len(),
            mixed.kernels.len()
        );
        // What is left is weights, their gradients and moments.
        if name == "gpt" {
            assert!(bytes(&mixed) * 10 < bytes(&single) * 7, "{mixed}");
            assert!(mixed.scratch_bytes() * 10 < single.scratch_bytes() * 7, "{mixed}");
        }
        assert!(bytes(&mixed) < bytes(&single) && mixed.scratch_bytes() < single.scratch_bytes(), "{name}");
    }
}

#[test]
fn every_kernel_of_a_mixed_step_is_valid() {
    let mut texts = BTreeSet::new();
    let own = Target { has_f16: true, ..Target::smallest(&Sources::built_in()) };
    let targets = [
        own.clone(),
        Target { storage_buffers_max: 32, workgroup_bytes_max: 32_768, ..own.clone() },
        Target { is_software: true, subgroup_size: 8, ..own.clone() },
        Target { is_software: true, ..own },
    ];
    for (name, graph) in models() {
        for fuse in [false, true] {
            let plan = plan_of(&scaled(&graph), fuse, Precision::Mixed);
            for target in &targets {
                let Launches { steps, .. } = launches(&plan, target).unwrap_or_else(|error| panic!("{name}: {error}"));
                texts.extend(steps.into_iter().filter_map(|step| match step {
                    Step::Launch { wgsl, .. } => Some(wgsl),
                    Step::Copy { .. } => None,
                }));
            }
        }
    }
    let capabilities = naga::valid::Capabilities::SUBGROUP | naga::valid::Capabilities::SHADER_FLOAT16;
    for text in &texts {
        let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
        let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
        validator.validate(&module).unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
    }
    let mixed = texts.iter().filter(|text| text.starts_with("enable f16;")).count();
    assert!(mixed > 100, "{mixed} of {} texts hold halves", texts.len());
}

/// `run` for every choice on tensor cores of every product of a plan.
fn on_tensor_cores(plan: &Plan, mut each: impl FnMut(&str)) -> usize {
    let target = Target {
        has_f16: true,
        has_tensor_cores: true,
        subgroup_size: 32,
        storage_buffers_max: 32,
        workgroup_bytes_max: 32_768,
        ..Target::smallest(&Sources::built_in())
    };
    let mut count = 0;
    for (_, class, candidates) in choices(plan, &target).unwrap_or_else(|error| panic!("{error}")) {
        for choice in candidates.into_iter().filter(|choice| matches!(choice, Choice::Cooperative { .. })) {
            let tuned = Target { tuning: Tuning::default().with(&class, choice), ..target.clone() };
            for step in launches(plan, &tuned).unwrap_or_else(|error| panic!("{error}")).steps {
                if let Step::Launch { wgsl, .. } = step
                    && wgsl.contains("coop_mat")
                {
                    each(&wgsl);
                    count += 1;
                }
            }
        }
    }
    count
}

#[test]
fn every_form_on_tensor_cores_is_valid_down_to_spirv() {
    let mut texts = BTreeSet::new();
    let mut collect = |plan: &Plan| {
        on_tensor_cores(plan, |wgsl| {
            texts.insert(wgsl.to_owned());
        })
    };
    // The models have convolutions in their three forms, epilogues, views of heads, thin results; products of every way to lie and with cut sums are here.
    for (name, graph) in models() {
        assert!(collect(&plan_of(&scaled(&graph), true, Precision::Mixed)) > 0, "{name}");
    }
    for (batch, rows, inner, columns) in [(1, 64, 64, 64), (2, 33, 65, 17), (1, 40, 3000, 48)] {
        for ways in 0..4 {
            let mut case = Case::new("forms", 1);
            let shape = |is_turned: bool, a: usize, b: usize| if is_turned { [batch, b, a] } else { [batch, a, b] };
            let (x, y) = (case.input("x", &shape(ways & 1 == 1, rows, inner)), case.input("y", &shape(ways & 2 == 2, inner, columns)));
            let x = case.scaled(x, 2.0);
            let dims =
                DotDims { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2 - (ways & 1)], rhs_contract: vec![1 + (ways >> 1)] };
            let z = case.op(Op::DotGeneral { dims }, &[x, y]);
            case.output("z", z);
            assert!(collect(&plan_of(&case.graph, false, Precision::Mixed)) > 0, "{batch} x {rows}x{inner}x{columns}");
        }
    }
    for text in &texts {
        assert!(text.starts_with("enable f16;\nenable wgpu_cooperative_matrix;\n"), "{text}");
        let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
        let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        let info = validator.validate(&module).unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
        let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
        // OpCooperativeMatrixMulAddKHR.
        let mut at = 5;
        let mut products = 0;
        while at < words.len() {
            products += usize::from(words[at] & 0xffff == 4459);
            at += (words[at] >> 16) as usize;
        }
        assert_eq!(products, text.matches("coopMultiplyAdd(").count(), "{text}");
    }
    assert!(texts.len() > 50, "{} texts", texts.len());
}

#[test]
fn tensor_cores_are_for_large_products_of_f16() {
    let target = Target { has_f16: true, has_tensor_cores: true, subgroup_size: 32, ..Target::smallest(&Sources::built_in()) };
    let first = |plan: &Plan, target: &Target| -> Vec<Choice> {
        let all = choices(plan, target).unwrap_or_else(|error| panic!("{error}"));
        all.into_iter().map(|(_, _, candidates)| candidates[0]).collect()
    };
    let is_on_them = |choice: &Choice| matches!(choice, Choice::Cooperative { .. });
    let graph = scaled(&mlp(&[512, 512], 128));
    let (single, mixed) = (plan_of(&graph, true, Precision::F32), plan_of(&graph, true, Precision::Mixed));
    assert!(!first(&single, &target).iter().any(is_on_them), "f32 stays f32");
    // The last layer has ten columns, fewer than a block.
    let found = first(&mixed, &target);
    assert_eq!(found.iter().filter(|choice| is_on_them(choice)).count(), 5, "{found:?}");
    assert!(!first(&mixed, &Target { has_tensor_cores: false, ..target }).iter().any(is_on_them), "not without the self-test");
}

#[test]
fn a_device_without_f16_says_what_to_do() {
    let plan = plan_of(&scaled(&mlp(&[64, 64], 32)), true, Precision::Mixed);
    assert!(plan.is_mixed(), "{plan}");
    let refuse = |runtime: Box<dyn Runtime>| {
        let mut session = Session::new(runtime);
        for port in &plan.states {
            session.write_state(&port.name, &port.ty, &vec![0; port.ty.byte_count()]).expect("a state is written");
        }
        session.load(plan.clone()).expect_err("the device has no f16").to_string()
    };
    let cpu = refuse(Box::new(CpuRuntime::new(Some(1)).expect("threads start")));
    assert_eq!(
        cpu,
        "`train_step` wants mixed precision, and the CPU device computes in f32 alone: set `trainer.precision` to `f32`, or choose a GPU that \
         `solstice devices` lists with f16"
    );
    let other = refuse(gpu(|own| Target { has_f16: false, ..own }));
    assert!(other.contains("has no f16 arithmetic: set `trainer.precision` to `f32`"), "{other}");
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Training

/// A graph on the first adapter, step after step.
struct Trainer {
    session: Session,
    program: ProgramId,
    graph: Graph,
    classes: u32,
}

impl Trainer {
    fn new(graph: &Graph, precision: Precision, classes: u32) -> Trainer {
        let mut session = Session::new(gpu(|own| own));
        for (_, parameter, ty) in graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
            let values = init::initial_values(parameter.init.as_ref().expect("a state has an init"), &ty.shape, 0, &parameter.name);
            let bytes: Vec<u8> = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
            session.write_state(&parameter.name, ty, &bytes).expect("a state is written");
        }
        let program = session.load(plan_of(graph, true, precision)).unwrap_or_else(|error| panic!("{}: {error}", graph.name));
        Trainer { session, program, graph: graph.clone(), classes }
    }

    fn step(&mut self, step: u32) {
        let inputs: Vec<(String, Vec<u8>)> = self
            .session
            .plan(self.program)
            .inputs
            .iter()
            .map(|port| {
                let words = (0..port.ty.element_count() as u32).map(|i| {
                    // Two batches in turn.
                    let value = value(&port.name, port.ty.dtype, self.classes, i + (step % 2) * 1_000_000);
                    if port.ty.dtype == DType::F32 { (value as f32).to_bits() } else { value as u32 }
                });
                (port.name.clone(), words.flat_map(u32::to_le_bytes).collect())
            })
            .collect();
        let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let first = |name: &str| match self.graph.parameter(name).map(|id| self.graph.node(id)) {
            Some(solstice_ir::Node {
                op: Op::Parameter(solstice_ir::Parameter { init: Some(solstice_ir::Init::Constant(value)), .. }),
                ..
            }) => *value,
            _ => 0.0,
        };
        let scalars: Vec<(String, u32)> = self
            .session
            .plan(self.program)
            .scalars
            .iter()
            .map(|port| {
                let value = match port.name.as_str() {
                    "run.step" => f64::from(step),
                    "run.seed" => 0.0,
                    "run.total_steps" => 1e6,
                    name => first(name),
                };
                (port.name.clone(), if port.dtype == DType::F32 { (value as f32).to_bits() } else { value as u32 })
            })
            .collect();
        let scalars: Vec<(&str, u32)> = scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).collect();
        self.session.submit(self.program, &inputs, &scalars).expect("a step runs");
    }

    fn state(&mut self, name: &str) -> Vec<f64> {
        let ty = self.session.states()[name].clone();
        numbers_of(&ty, &self.session.read_state(name).expect("a state is read"))
    }

    /// Mean loss since the last call.
    fn loss(&mut self) -> f64 {
        let mean = self.state("metrics.train.loss.sum")[0] / self.state("metrics.train.loss.weight")[0];
        for name in ["metrics.train.loss.sum", "metrics.train.loss.weight"] {
            let ty = self.session.states()[name].clone();
            self.session.write_state(name, &ty, &[0; 4]).expect("a state is written");
        }
        mean
    }
}

#[test]
fn the_bench_models_train_as_in_f32() {
    let unit = 2f64.powi(-11);
    // A smooth network: a handful of roundings of half a unit between a weight's gradient and what it is made from, of random sign. One with kinks: a part of about
    // a unit of the elements is so near to 0, or two of a window so near to each other, that rounding decides otherwise, and those elements' gradients are wrong
    // by their whole size; the norm of that is the root of the part.
    for (name, graph, classes, steps, moments_apart) in [
        ("mlp", mlp(&[128, 96], 64), 10, 40, 5.0 * unit.sqrt()),
        ("convnet", convnet([8, 16], 48, 16, 16), 10, 30, 5.0 * unit.sqrt()),
        ("gpt", gpt(2, 2, 64, 4, 32), 65, 30, 5.0 * unit),
    ] {
        let mut single = Trainer::new(&graph, Precision::F32, classes);
        let mut mixed = Trainer::new(&scaled(&graph), Precision::Mixed, classes);
        let mut losses = Vec::new();
        for step in 0..steps {
            single.step(step);
            mixed.step(step);
            losses.push((single.loss(), mixed.loss()));
            if step > 0 {
                continue;
            }
            // After one step the moments are the gradients and their squares, times constants.
            let moments: Vec<String> = graph
                .parameters()
                .filter(|(_, parameter, _)| parameter.role == Role::OptState)
                .map(|(_, parameter, _)| parameter.name.clone())
                .collect();
            assert!(moments.len() > 6, "{name}: {moments:?}");
            let mut largest = 0.0f64;
            for moment in &moments {
                let (wanted, found) = (single.state(moment), mixed.state(moment));
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
                let error = norm(&mut wanted.iter().zip(&found).map(|(wanted, found)| wanted - found));
                let relative = error / norm(&mut wanted.iter().copied());
                assert!(relative <= moments_apart, "{name}: {moment} is off by {relative:.2e}");
                largest = largest.max(relative);
            }
            println!("{name}: moments are off by {largest:.1e} at most");
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        println!(
            "{name}: loss {:.5} to {:.5} in f32, {:.5} to {:.5} mixed; scale {}",
            first.0,
            last.0,
            first.1,
            last.1,
            mixed.state(SCALE)[0]
        );
        // The same weights: some roundings of 2^-11 each on the way to the loss, which average out over the samples.
        assert!((first.0 - first.1).abs() <= first.0 * 2f64.powi(-11), "{name}: {first:?}");
        // Trained, it goes the same way: Adam's first steps are of one size however small a gradient is, so noise counts, but it stays small beside what is
        // learned.
        let learned = first.0 - last.0;
        assert!(learned > 0.1 * first.0, "{name}: nothing was learned: {losses:?}");
        let apart = losses.iter().map(|(single, mixed)| (single - mixed).abs()).fold(0.0, f64::max);
        println!("{name}: {apart:.5} apart at most, {learned:.5} learned");
        assert!(apart <= 0.1 * learned, "{name}: {apart} apart, {learned} learned: {losses:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// The loss scale

/// `loss = sum(c * (x * w))` with x `[64, 32]` of ones, so that each element of w `[32, 48]` has the gradient `64 c`; w goes down by 1/64 of it. What flows back
/// is `c * scale`, in halves.
struct Scaling {
    session: Session,
    programs: Vec<ProgramId>,
}

fn scaling_graph(part: StepPart) -> Graph {
    let mut case = Case::new("scaling", 1);
    let x = case.input("x", &[64, 32]);
    let c = case.input("c", &[64, 48]);
    let w = case.state("w", &[32, 48]);
    let y = case.matmul(x, w);
    let product = case.mul(y, c);
    let loss = case.reduce(ReduceKind::Sum, product, &[0, 1]);
    let grad = case.op(Op::Grad, &[loss, w]);
    let sum = case.random("gradients.w", Role::OptState, DType::F32, &[32, 48]);
    let total = case.add(sum, grad);
    match part {
        StepPart::Gather => case.update("gradients.w", total),
        StepPart::Whole | StepPart::Apply => {
            let change = case.scaled(if part == StepPart::Whole { grad } else { total }, 1.0 / 64.0);
            let after = case.sub(w, change);
            case.update("w", after);
            let zero = case.splat(sum, 0.0);
            case.update("gradients.w", zero);
        }
    }
    case.graph
}

impl Scaling {
    fn new(parts: &[StepPart]) -> Scaling {
        let mut session = Session::new(gpu(|own| own));
        let mut programs = Vec::new();
        for &part in parts {
            let graph = with_loss_scale(&scaling_graph(part), part).expect("a gradient").graph;
            for (_, parameter, ty) in graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
                if !session.states().contains_key(&parameter.name) {
                    let first = if parameter.name == SCALE { FIRST_SCALE as f32 } else { 0.0 };
                    let bytes: Vec<u8> = (0..ty.element_count()).flat_map(|_| first.to_le_bytes()).collect();
                    session.write_state(&parameter.name, ty, &bytes).expect("a state is written");
                }
            }
            let plan = plan_of(&graph, true, Precision::Mixed);
            assert!(plan.is_mixed(), "what flows back is in halves\n{plan}");
            programs.push(session.load(plan).expect("the plan loads"));
        }
        Scaling { session, programs }
    }

    fn run(&mut self, program: usize, c: f32) {
        let (x, c): (Vec<u8>, Vec<u8>) =
            ((0..64 * 32).flat_map(|_| 1f32.to_le_bytes()).collect(), (0..64 * 48).flat_map(|_| c.to_le_bytes()).collect());
        self.session.run(self.programs[program], &[("x", &x), ("c", &c)], &[]).expect("a step runs");
    }

    fn set(&mut self, name: &str, value: f32) {
        self.session.write_state(name, &TensorType::new(DType::F32, []), &value.to_le_bytes()).expect("a state is written");
    }

    fn get(&mut self, name: &str) -> f32 {
        f32::from_le_bytes(self.session.read_state(name).expect("a state is read")[..4].try_into().expect("a scalar"))
    }

    /// Every weight, which are all the same; the scale; the good steps.
    fn now(&mut self) -> (f32, f32, f32) {
        let bytes = self.session.read_state("w").expect("a state is read");
        let weights: BTreeSet<[u8; 4]> = bytes.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect();
        assert_eq!(weights.len(), 1, "all weights are the same");
        (self.get("w"), self.get(SCALE), self.get(GOOD_STEPS))
    }
}

#[test]
fn an_overflow_halves_the_scale_and_leaves_the_weights() {
    let mut run = Scaling::new(&[StepPart::Whole]);
    // 65536 is no f16.
    run.run(0, 1.0);
    assert_eq!(run.now(), (0.0, 32768.0, 0.0));
    run.run(0, 1.0);
    assert_eq!(run.now(), (-1.0, 32768.0, 1.0));
    run.run(0, 0.5);
    assert_eq!(run.now(), (-1.5, 32768.0, 2.0));
    // 4 * 32768 and 4 * 16384 are none either, 4 * 8192 is.
    run.run(0, 4.0);
    assert_eq!(run.now(), (-1.5, 16384.0, 0.0));
    run.run(0, 4.0);
    assert_eq!(run.now(), (-1.5, 8192.0, 0.0));
    run.run(0, -4.0);
    assert_eq!(run.now(), (2.5, 8192.0, 1.0));
    // Gradients too small for f16 by themselves: 2^-30 * 8192 is not.
    run.set(GOOD_STEPS, 0.0);
    let before = run.now().0;
    run.run(0, 2f32.powi(-20));
    assert_eq!(run.now(), (before - 2f32.powi(-20), 8192.0, 1.0));
}

#[test]
fn the_scale_is_doubled_after_so_many_good_steps() {
    let mut run = Scaling::new(&[StepPart::Whole]);
    run.set(SCALE, 1024.0);
    run.set(GOOD_STEPS, GROWTH_STEPS as f32 - 2.0);
    run.run(0, 1.0);
    assert_eq!(run.now(), (-1.0, 1024.0, GROWTH_STEPS as f32 - 1.0));
    run.run(0, 1.0);
    assert_eq!(run.now(), (-2.0, 2048.0, 0.0));
    // An overflow on the step that would have doubled it.
    run.set(GOOD_STEPS, GROWTH_STEPS as f32 - 1.0);
    run.run(0, 32.0);
    assert_eq!(run.now(), (-2.0, 1024.0, 0.0));
}

#[test]
fn what_is_not_the_scales_fault_goes_its_way() {
    // A loss that is not finite: nothing is skipped, so that the step's own guard sees it.
    let mut run = Scaling::new(&[StepPart::Whole]);
    run.run(0, f32::NAN);
    assert!(run.get("w").is_nan());
    assert_eq!(run.get(SCALE), 65536.0);
    // A gradient that overflows by itself.
    let mut run = Scaling::new(&[StepPart::Whole]);
    run.set(SCALE, 2.0);
    run.run(0, 1e6);
    assert_eq!(run.now(), (0.0, 1.0, 0.0));
    run.run(0, 1e6);
    assert!(!run.get("w").is_finite());
    assert_eq!(run.get(SCALE), 1.0);
}

#[test]
fn an_overflow_in_any_micro_batch_skips_the_step() {
    let mut run = Scaling::new(&[StepPart::Gather, StepPart::Apply]);
    run.set(SCALE, 1024.0);
    run.run(0, 1.0);
    run.run(0, 1.0);
    run.run(1, 1.0);
    assert_eq!(run.now(), (-3.0, 1024.0, 1.0));
    // The first overflows, the others do not: the step is left out whole, and halves the scale once.
    run.run(0, 64.0);
    assert_eq!((run.get(OVERFLOWED), run.get(SCALE)), (1.0, 1024.0));
    run.run(0, 1.0);
    run.run(1, 1.0);
    assert_eq!(run.now(), (-3.0, 512.0, 0.0));
    assert_eq!((run.get(OVERFLOWED), run.get("gradients.w")), (0.0, 0.0));
    // The last overflows.
    run.run(0, 1.0);
    run.run(1, 128.0);
    assert_eq!(run.now(), (-3.0, 256.0, 0.0));
    assert_eq!(run.get("gradients.w"), 0.0);
    // And the next is whole again.
    run.run(0, 1.0);
    run.run(1, 1.0);
    assert_eq!(run.now(), (-5.0, 256.0, 1.0));
}

#[test]
fn without_an_overflow_the_scale_changes_nothing() {
    // In f32 a power of two scales without rounding, so the states are the same to the byte.
    let graph = mlp(&[64, 48], 32);
    let mut plain = Trainer::new(&graph, Precision::F32, 10);
    let mut with_scale = Trainer::new(&scaled(&graph), Precision::F32, 10);
    for step in 0..3 {
        plain.step(step);
        with_scale.step(step);
    }
    let names: Vec<String> = plain.session.states().keys().cloned().collect();
    assert!(names.len() > 10);
    for name in names {
        assert_eq!(plain.state(&name), with_scale.state(&name), "{name}");
    }
    assert_eq!((with_scale.state(SCALE), with_scale.state(GOOD_STEPS)), (vec![FIRST_SCALE], vec![3.0]));
}

/// Adam corrects the bias of its means by the number of its updates.
#[test]
fn an_optimizer_counts_the_steps_that_were_taken() {
    let graph = mlp(&[64, 48], 32);
    let mut plain = Trainer::new(&graph, Precision::F32, 10);
    let mut with_scale = Trainer::new(&scaled(&graph), Precision::F32, 10);
    let scalar = TensorType::new(DType::F32, []);
    for step in 0..2 {
        // The gradients of a loss times this are not finite.
        with_scale.session.write_state(SCALE, &scalar, &f32::INFINITY.to_le_bytes()).expect("a state is written");
        with_scale.step(step);
    }
    with_scale.session.write_state(SCALE, &scalar, &(FIRST_SCALE as f32).to_le_bytes()).expect("a state is written");
    for step in 0..3 {
        plain.step(step);
        with_scale.step(step + 2);
    }
    assert_eq!(with_scale.state(SKIPPED_STEPS), [2.0]);
    let trained: Vec<String> = plain.session.states().keys().filter(|name| !name.starts_with("metrics.")).cloned().collect();
    assert!(trained.len() > 10);
    for name in trained {
        assert_eq!(plain.state(&name), with_scale.state(&name), "{name}");
    }
}

#[test]
fn values_of_a_rewritten_step_are_found_again() {
    let graph = scaling_graph(StepPart::Whole);
    let scaled = with_loss_scale(&graph, StepPart::Whole).expect("a gradient");
    scaled.graph.verify().expect("a sound graph");
    for id in graph.ids() {
        assert_eq!(graph.ty(id), scaled.graph.ty(scaled.places[id.index()]), "%{}", id.0);
    }
    let gradient = graph.ids().find(|id| graph.node(*id).op == Op::Grad).expect("a gradient");
    let place = scaled.graph.node(scaled.places[gradient.index()]);
    assert_eq!(place.op, Op::Binary { function: BinaryOp::Multiply }, "behind the division");
    let plain = Graph::new("nothing");
    assert!(with_loss_scale(&plain, StepPart::Whole).is_none());
}
