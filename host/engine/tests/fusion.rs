//! The passes that make few kernels of many: what they join, what they leave alone, and that the numbers stay those of the oracle on the CPU, on the first
//! adapter and with the kernels for hardware.

#[path = "common/device.rs"]
mod device;

use device::{Case, assert_close, run};
use solstice_engine::Plan;
use solstice_engine::cpu::CpuRuntime;
use solstice_engine::gpu::{GpuRuntime, Sources, Step, Target, adapters, launches};
use solstice_engine::kernel::{BUFFERS_PER_KERNEL, Kernel, KernelOp, ROW_MAX};
use solstice_ir::{BinaryOp, Compare, ConvolutionGeometry, DType, NodeId, Op, ReduceKind, TensorType, UnaryOp};

fn gpu(is_software: bool, storage_buffers_max: Option<usize>) -> Box<GpuRuntime> {
    let adapters = adapters();
    let adapter = adapters.first().expect("an adapter: `apt-get install mesa-vulkan-drivers` gives one in software");
    let own = GpuRuntime::new(adapter).expect("the adapter opens").target().clone();
    let subgroup_size = if is_software { own.subgroup_size } else { 1 };
    let target = Target { is_software, subgroup_size, storage_buffers_max: storage_buffers_max.unwrap_or(own.storage_buffers_max), ..own };
    Box::new(GpuRuntime::with_target(adapter, target).expect("the adapter opens"))
}

/// Compares with the oracle on every device, checks that threads and repetition change nothing, and returns the fused plan.
fn checked(case: &Case, tolerance: f64) -> Plan {
    let (fused, wanted) = (case.plan(true), case.wanted());
    let cpu = |threads| Box::new(CpuRuntime::new(Some(threads)).expect("threads start"));
    let name = &case.graph.name;
    let found = run(cpu(2), &fused, &case.values, 1);
    assert_close(&format!("{name} on the cpu\n{fused}"), &found, &wanted, tolerance);
    assert_close(&format!("{name} unfused"), &run(cpu(2), &case.plan(false), &case.values, 1), &wanted, tolerance);
    assert!(found == run(cpu(1), &fused, &case.values, 1), "{name}: the same bytes on one thread");
    for (what, is_software, limit) in
        [("software", true, None), ("hardware", false, None), ("few bindings", true, Some(BUFFERS_PER_KERNEL))]
    {
        let found = run(gpu(is_software, limit), &fused, &case.values, 1);
        assert_close(&format!("{name} as {what}\n{fused}"), &found, &wanted, tolerance);
        assert!(found == run(gpu(is_software, limit), &fused, &case.values, 1), "{name} as {what}: the same bytes again");
    }
    fused
}

fn softmax(case: &mut Case, x: NodeId) -> NodeId {
    let shape = case.shape(x);
    let last = shape.len() - 1;
    let dims: Vec<usize> = (0..last).collect();
    let largest = case.reduce(ReduceKind::Max, x, &[last]);
    let largest = case.broadcast(largest, &shape, &dims);
    let shifted = case.sub(x, largest);
    let exponentials = case.unary(UnaryOp::Exponential, shifted);
    let total = case.reduce(ReduceKind::Sum, exponentials, &[last]);
    let total = case.broadcast(total, &shape, &dims);
    case.div(exponentials, total)
}

#[test]
fn chains_along_rows_are_one_kernel() {
    for (outer, length) in [(vec![3], 2), (vec![5, 7], 9), (vec![130], 64), (vec![2, 3], 129), (vec![33], 1000), (vec![4], ROW_MAX)] {
        let mut case = Case::new(&format!("softmax over {length}"), 1);
        let x = case.input("x", &[&outer[..], &[length]].concat());
        let y = softmax(&mut case, x);
        // Mean and variance of the same rows, a value a row, one that does not vary along its row, and a sum of it along the row.
        let shape = case.shape(x);
        let dims: Vec<usize> = (0..outer.len()).collect();
        let sum = case.reduce(ReduceKind::Sum, y, &[outer.len()]);
        let mean = case.scaled(sum, 1.0 / length as f64);
        let mean_wide = case.broadcast(mean, &shape, &dims);
        let centred = case.sub(x, mean_wide);
        let square = case.mul(centred, centred);
        let variance = case.reduce(ReduceKind::Sum, square, &[outer.len()]);
        let root = case.unary(UnaryOp::Sqrt, variance);
        case.output("y", y);
        case.output("root", root);
        case.output("centred", centred);
        // Some 2 * length roundings of 2^-24 in the variance, which is below 4 * length.
        let plan = checked(&case, 1e-5 * (length as f64).sqrt().max(1.0));
        assert_eq!(plan.kernels.len(), 1, "{plan}");
        assert!(matches!(plan.kernels[0].op, KernelOp::Rows { .. }), "{plan}");
    }
}

#[test]
fn rows_longer_than_a_block_keep_their_kernels() {
    let mut case = Case::new("long rows", 2);
    let x = case.input("x", &[3, ROW_MAX + 1]);
    let y = softmax(&mut case, x);
    case.output("y", y);
    let plan = checked(&case, 1e-5);
    assert_eq!(plan.kernels.len(), 3, "{plan}");
}

#[test]
fn a_row_kernel_updates_a_state_in_place() {
    let mut case = Case::new("normalised state", 3);
    let x = case.state("x", &[6, 40]);
    let y = softmax(&mut case, x);
    case.update("x", y);
    let plan = checked(&case, 1e-5);
    assert!(plan.kernels.len() == 1 && plan.scratch_bytes() <= 4, "{plan}");
}

#[test]
fn bias_activation_and_residual_are_in_the_product() {
    for (rows, inner, columns) in [(1, 3, 1), (7, 5, 13), (64, 64, 64), (65, 33, 20), (16, 3000, 8)] {
        let mut case = Case::new(&format!("dense {rows} {inner} {columns}"), 4);
        let (x, weight) = (case.input("x", &[rows, inner]), case.state("w", &[inner, columns]));
        let (bias, residual) = (case.state("b", &[columns]), case.input("r", &[rows, columns]));
        let product = case.matmul(x, weight);
        let bias = case.broadcast(bias, &[rows, columns], &[1]);
        let sum = case.add(product, bias);
        let zero = case.splat(sum, 0.0);
        let active = case.binary(BinaryOp::Maximum, sum, zero);
        let y = case.add(active, residual);
        case.output("y", y);
        // The product itself is wanted by a second product.
        let turned = case.transpose(product, &[1, 0]);
        let again = case.matmul(residual, turned);
        let wave = case.unary(UnaryOp::Tanh, again);
        case.output("wave", wave);
        let plan = checked(&case, 2e-6 * inner as f64);
        assert_eq!(plan.kernels.len(), 2, "{plan}");
        assert!(plan.kernels.iter().all(|kernel| matches!(kernel.op, KernelOp::Dot { epilogue: Some(_), .. })), "{plan}");
    }
}

#[test]
fn a_convolution_takes_its_bias_and_its_relu() {
    let mut case = Case::new("convolution", 5);
    let (x, weight) = (case.input("x", &[2, 3, 9, 7]), case.state("w", &[4, 3, 3, 3]));
    let geometry = ConvolutionGeometry { strides: vec![1, 1], low: vec![1, 1], high: vec![1, 1], dilation: vec![1, 1], groups: 1 };
    let y = case.op(Op::Convolution { geometry }, &[x, weight]);
    let shape = case.shape(y);
    let bias = case.state("b", &[4]);
    let bias = case.broadcast(bias, &shape, &[1]);
    let y = case.add(y, bias);
    let zero = case.splat(y, 0.0);
    let positive = case.compare(Compare::Greater, y, zero);
    let y = case.op(Op::Select, &[positive, y, zero]);
    case.output("y", y);
    let plan = checked(&case, 1e-5);
    assert_eq!(plan.kernels.len(), 1, "{plan}");
}

/// An optimizer with momentum that waits for the norm of all gradients, on parameters of sizes that have nothing in common.
#[test]
fn an_optimizer_and_the_norm_are_a_launch_each() {
    let sizes: Vec<Vec<usize>> = (0..23).map(|index| vec![2 + index * 37 % 50, 1 + index % 3]).collect();
    let mut case = Case::new("optimizer", 6);
    let mut total: Option<NodeId> = None;
    let mut parameters = Vec::new();
    for (index, shape) in sizes.iter().enumerate() {
        let weight = case.state(&format!("w{index}"), shape);
        let momentum = case.state(&format!("m{index}"), shape);
        let seen = case.input(&format!("g{index}"), shape);
        let gradient = case.unary(UnaryOp::Tanh, seen);
        let square = case.mul(gradient, gradient);
        let sum = case.reduce(ReduceKind::Sum, square, &[0, 1]);
        total = Some(total.map_or(sum, |total| case.add(total, sum)));
        parameters.push((index, weight, momentum, gradient));
    }
    let norm = case.unary(UnaryOp::Sqrt, total.expect("there are parameters"));
    case.output("norm", norm);
    for (index, weight, momentum, gradient) in parameters {
        let wide = case.spread(norm, gradient);
        let scaled = case.div(gradient, wide);
        let old = case.scaled(momentum, 0.9);
        let new = case.add(old, scaled);
        let step = case.scaled(new, 0.1);
        let weight = case.sub(weight, step);
        case.update(&format!("m{index}"), new);
        case.update(&format!("w{index}"), weight);
    }
    let plan = checked(&case, 1e-5);
    // Squares, their sum and the root, the update.
    assert_eq!(plan.kernels.len(), 3, "{plan}");
    for kernel in [&plan.kernels[0], &plan.kernels[2]] {
        assert!(matches!(&kernel.op, KernelOp::Group { members } if members.len() == 23), "{plan}");
    }
    let count = |storage_buffers_max| {
        let target = Target { storage_buffers_max, ..Target::smallest(&Sources::built_in()) };
        launches(&plan, &target).expect("the plan has launches").steps.iter().filter(|step| matches!(step, Step::Launch { .. })).count()
    };
    // 23 gradients and one result, in two stages; 3 pieces a parameter and the norm. One launch a stage where the device binds that many.
    assert_eq!(count(128), 4);
    assert!(count(32) <= 2 + 1 + 3, "{}", count(32));
    assert!(count(8) <= 4 + 4 + 1 + 12, "{}", count(8));
}

#[test]
fn gradients_of_slices_side_by_side_are_laid_side_by_side() {
    let mut case = Case::new("heads", 7);
    let (batch, time, heads, size) = (2, 5, 3, 4);
    let all = case.input("all", &[batch, time, 3 * heads * size]);
    let mut loss: Option<NodeId> = None;
    for part in 0..3 {
        let width = heads * size;
        let slice = Op::Slice { starts: vec![0, 0, part * width], limits: vec![batch, time, (part + 1) * width], strides: vec![1; 3] };
        let x = case.op(slice, &[all]);
        let x = case.reshape(x, &[batch, time, heads, size]);
        let x = case.transpose(x, &[0, 2, 1, 3]);
        let other = case.input(&format!("other{part}"), &[batch, heads, time, size]);
        let product = case.mul(x, x);
        let product = case.mul(product, other);
        let sum = case.reduce(ReduceKind::Sum, product, &[0, 1, 2, 3]);
        loss = Some(loss.map_or(sum, |loss| case.add(loss, sum)));
    }
    let loss = loss.expect("three parts");
    let gradient = case.op(Op::Grad, &[loss, all]);
    case.output("gradient", gradient);
    let plan = checked(&case, 1e-5);
    assert_eq!(plan.kernels.len(), 1, "three parts in one launch, nothing is filled with zeros first\n{plan}");
    assert!(matches!(&plan.kernels[0], Kernel { op: KernelOp::Group { members }, .. } if members.len() == 3), "{plan}");
}

#[test]
fn a_map_that_must_wait_stays_apart() {
    // a = tanh x; b = sum of a; c = a + b: c waits for b, which reads a whole.
    let mut case = Case::new("wait", 8);
    let x = case.input("x", &[2000]);
    let a = case.unary(UnaryOp::Tanh, x);
    let b = case.reduce(ReduceKind::Sum, a, &[0]);
    let wide = case.spread(b, a);
    let c = case.add(a, wide);
    case.output("c", c);
    let mask = case.leaf(Op::Iota { axis: 0 }, TensorType::new(DType::I32, [2000]));
    case.output("mask", mask);
    let plan = checked(&case, 1e-5);
    assert!(plan.kernels.len() >= 2, "{plan}");
}
