//! Every kernel of the CPU device against the oracle: hand-made cases, then random graphs, fused and not, on one thread and on two.

#[path = "common/device.rs"]
mod device;

use device::{Case, Results, assert_close, run};
use solstice_engine::cpu::CpuRuntime;
use solstice_engine::random::rng_bits;
use solstice_engine::reference::Tensor;
use solstice_ir::{
    BinaryOp, Compare, ConvolutionGeometry, DType, DotDims, NodeId, Op, ReduceKind, Role, ScatterMode, TensorType, UnaryOp, Window,
};

fn run_cpu(case: &Case, fuse: bool, threads: usize) -> Results {
    let runtime = CpuRuntime::new(Some(threads)).expect("threads start");
    run(Box::new(runtime), &case.plan(fuse), &case.values, 1)
}

/// Fused and unfused against the oracle, and byte-equal on one thread, two and three, and when run again.
fn check(case: &Case, tolerance: f64) {
    let wanted = case.wanted();
    let name = &case.graph.name;
    let fused = run_cpu(case, true, 1);
    assert_close(&format!("{name} fused\n{}\n{}", case.graph, case.plan(true)), &fused, &wanted, tolerance);
    assert_close(&format!("{name} unfused"), &run_cpu(case, false, 2), &wanted, tolerance);
    assert!(run_cpu(case, true, 2) == fused, "{name}: other bytes on two threads");
    assert!(run_cpu(case, true, 3) == fused, "{name}: other bytes on three threads");
    assert!(run_cpu(case, true, 1) == fused, "{name}: other bytes when run again");
}

/// Elementwise chains cost a few units of the last place, sums of up to a few thousand terms some tens: 2^-24 * 64.
const CLOSE: f64 = 4e-6;

const SIZES: [usize; 8] = [0, 1, 2, 7, 1023, 1024, 1025, 70_001];

#[test]
fn elementwise_functions_of_floats() {
    let functions = [
        UnaryOp::Negate,
        UnaryOp::Abs,
        UnaryOp::Sign,
        UnaryOp::Floor,
        UnaryOp::Exponential,
        UnaryOp::Tanh,
        UnaryOp::Logistic,
        UnaryOp::Sine,
        UnaryOp::Cosine,
        UnaryOp::Erf,
    ];
    for size in SIZES {
        let mut case = Case::new("unary", 1);
        let x = case.input("x", &[size]);
        for function in functions {
            let y = case.unary(function, x);
            case.output(&format!("{function:?}"), y);
        }
        let positive = case.unary(UnaryOp::Abs, x);
        let tenth = case.splat(x, 0.1);
        let positive = case.add(positive, tenth);
        for function in [UnaryOp::Log, UnaryOp::Sqrt, UnaryOp::Rsqrt] {
            let y = case.unary(function, positive);
            case.output(&format!("{function:?}"), y);
        }
        check(&case, CLOSE);
    }
}

#[test]
fn elementwise_functions_of_two_arguments() {
    use BinaryOp::*;
    for dtype in [DType::F32, DType::I32, DType::U32, DType::Bool] {
        let mut case = Case::new(&format!("binary {dtype}"), 2);
        let x = case.random("x", Role::Input, dtype, &[37, 31]);
        let y = case.random("y", Role::Input, dtype, &[37, 31]);
        let functions: &[BinaryOp] = match dtype {
            DType::F32 => &[Add, Subtract, Multiply, Maximum, Minimum],
            DType::Bool => &[And, Or, Xor],
            _ => &[Add, Subtract, Multiply, Divide, Maximum, Minimum, Remainder, And, Or, Xor, ShiftLeft, ShiftRight],
        };
        for &function in functions {
            let z = case.binary(function, x, y);
            case.output(&format!("{function:?}"), z);
        }
        for direction in [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::LessEqual, Compare::Greater, Compare::GreaterEqual] {
            let z = case.compare(direction, x, y);
            let chosen = case.op(Op::Select, &[z, x, y]);
            case.output(&format!("{direction:?}"), z);
            case.output(&format!("chosen {direction:?}"), chosen);
        }
        if dtype == DType::F32 {
            let positive = case.unary(UnaryOp::Exponential, x);
            for (name, function, exponent) in [("power", Power, y), ("remainder", Remainder, positive), ("quotient", Divide, positive)] {
                let base = if name == "power" { positive } else { y };
                let z = case.binary(function, base, exponent);
                case.output(name, z);
            }
        } else {
            let z = case.unary(UnaryOp::Not, x);
            case.output("not", z);
        }
        check(&case, CLOSE);
    }
}

#[test]
fn conversions_between_all_types() {
    for from in [DType::F32, DType::I32, DType::U32, DType::Bool, DType::U8] {
        let mut case = Case::new(&format!("convert {from}"), 3);
        let x = case.random("x", Role::Table, from, &[5, 210]);
        for to in [DType::F32, DType::I32, DType::U32, DType::Bool] {
            let y = case.op(Op::Convert { to }, &[x]);
            case.output(&format!("to {to}"), y);
        }
        if !matches!(from, DType::Bool | DType::U8) {
            let y = case.op(Op::BitcastConvert { to: DType::U32 }, &[x]);
            case.output("bits", y);
        }
        check(&case, CLOSE);
    }
}

#[test]
fn counters_and_random_bits_through_views() {
    let mut case = Case::new("counters", 4);
    let (seed, step) = (case.scalar("seed", DType::U32, 7.0), case.scalar("step", DType::U32, 123.0));
    for dtype in [DType::I32, DType::U32, DType::F32] {
        let counter = case.leaf(Op::Iota { axis: 1 }, TensorType::new(dtype, [6, 9]));
        let turned = case.op(Op::Reverse { axes: vec![1] }, &[counter]);
        let cut = case.op(Op::Slice { starts: vec![1, 2], limits: vec![6, 9], strides: vec![2, 3] }, &[turned]);
        let flat = case.reshape(counter, &[54]);
        for (name, node) in [("whole", counter), ("cut", cut), ("flat", flat)] {
            case.output(&format!("{name} {dtype}"), node);
        }
    }
    let bits =
        case.graph.push_typed(Op::RngBits { stream: 5 }, vec![seed, step], TensorType::new(DType::U32, [33, 40]), "".into(), "".into());
    let turned = case.transpose(bits, &[1, 0]);
    let cut = case.op(Op::Slice { starts: vec![0, 0], limits: vec![10, 40], strides: vec![1, 1] }, &[bits]);
    let one = case.splat(cut, 1.0);
    let next = case.binary(BinaryOp::Add, cut, one);
    for (name, node) in [("bits", bits), ("turned", turned), ("next", next)] {
        case.output(name, node);
    }
    check(&case, 0.0);
}

#[test]
fn views_of_values_and_of_memory() {
    let mut case = Case::new("views", 5);
    let x = case.input("x", &[4, 6, 5]);
    let y = case.unary(UnaryOp::Tanh, x);
    for (name, x) in [("memory", x), ("value", y)] {
        let turned = case.transpose(x, &[2, 0, 1]);
        let flat = case.reshape(turned, &[20, 6]);
        let cut = case.op(Op::Slice { starts: vec![3, 1], limits: vec![19, 6], strides: vec![5, 2] }, &[flat]);
        let reversed = case.op(Op::Reverse { axes: vec![0, 1] }, &[cut]);
        let wide = case.reshape(reversed, &[4, 1, 3]);
        let wide = case.broadcast(wide, &[4, 7, 3], &[0, 1, 2]);
        let doubled = case.add(wide, wide);
        for (step, node) in [("turned", turned), ("flat", flat), ("cut", cut), ("reversed", reversed), ("wide", doubled)] {
            case.output(&format!("{name} {step}"), node);
        }
    }
    check(&case, CLOSE);
}

#[test]
fn padding_and_concatenation() {
    let mut case = Case::new("pad", 6);
    let x = case.input("x", &[5, 7]);
    let zero = case.constant(DType::F32, 0.5);
    let pads: [([i64; 2], [i64; 2], [usize; 2]); 6] = [
        ([1, 2], [3, 0], [0, 0]),
        ([0, 0], [0, 0], [2, 1]),
        ([-1, -2], [2, -1], [1, 2]),
        ([-5, 0], [0, 0], [0, 0]),
        ([-3, 3], [-1, -6], [1, 0]),
        ([2, 2], [-4, 1], [1, 1]),
    ];
    for (index, (low, high, interior)) in pads.into_iter().enumerate() {
        let y = case.op(Op::Pad { low: low.to_vec(), high: high.to_vec(), interior: interior.to_vec() }, &[x, zero]);
        let y = case.add(y, y);
        case.output(&format!("pad {index}"), y);
    }
    let row = case.input("row", &[1, 7]);
    let empty = case.input("empty", &[0, 7]);
    let square = case.mul(x, x);
    for axis in [0, 1] {
        let parts = if axis == 0 { vec![x, empty, row, square] } else { vec![square, x, x] };
        let y = case.op(Op::Concatenate { axis }, &parts);
        case.output(&format!("concatenated {axis}"), y);
    }
    let large = case.input("large", &[300, 90]);
    let larger = case.input("larger", &[300, 411]);
    let y = case.op(Op::Concatenate { axis: 1 }, &[large, larger]);
    case.output("large concatenation", y);
    check(&case, CLOSE);
}

#[test]
fn reductions_over_all_kinds_of_axes() {
    let shapes: [(&[usize], &[&[usize]]); 6] = [
        (&[70_001], &[&[0]]),
        (&[257, 513], &[&[0], &[1], &[0, 1]]),
        (&[13, 7, 11, 5], &[&[0], &[1], &[3], &[0, 2], &[1, 3], &[0, 2, 3], &[1, 2], &[0, 1, 2, 3]]),
        (&[3, 0, 4], &[&[0], &[1], &[2], &[0, 1, 2]]),
        (&[3, 100_000], &[&[0], &[1]]),
        (&[2, 1, 1], &[&[1], &[0, 1], &[2]]),
    ];
    for (shape, axes) in shapes {
        let mut case = Case::new("reduce", 7);
        let x = case.input("x", shape);
        let small = case.scaled(x, 0.01);
        let integer = case.random("n", Role::Input, DType::I32, shape);
        for axes in axes {
            for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min] {
                for (name, x) in [("float", x), ("integer", integer)] {
                    let y = case.reduce(kind, x, axes);
                    case.output(&format!("{kind:?} {name} {axes:?}"), y);
                }
            }
            let one = case.splat(small, 1.0);
            let near_one = case.add(small, one);
            let y = case.reduce(ReduceKind::Prod, near_one, axes);
            case.output(&format!("product {axes:?}"), y);
        }
        // A product of 100 000 factors has an error of the square root of as many roundings, at best.
        check(&case, 4e-5);
    }
}

#[test]
fn arguments_of_extremes() {
    let mut case = Case::new("arg", 8);
    for dtype in [DType::F32, DType::I32, DType::U32] {
        let x = case.random(&format!("x {dtype}"), Role::Input, dtype, &[5, 17, 6]);
        for axis in 0..3 {
            for kind in [ReduceKind::Max, ReduceKind::Min] {
                let y = case.op(Op::ReduceArg { kind, axis }, &[x]);
                case.output(&format!("{dtype} {kind:?} {axis}"), y);
            }
        }
    }
    let holes = case.given("holes", Role::Input, Tensor::f32([2, 3], vec![1.0, f64::NAN, f64::NAN, 3.0, 3.0, 2.0]));
    let y = case.op(Op::ReduceArg { kind: ReduceKind::Max, axis: 1 }, &[holes]);
    case.output("holes", y);
    let y = case.reduce(ReduceKind::Max, holes, &[1]);
    case.output("largest", y);
    check(&case, 0.0);
}

#[test]
fn products_of_every_layout() {
    let mut case = Case::new("dot", 9);
    let dims = |lhs_batch: &[usize], rhs_batch: &[usize], lhs_contract: &[usize], rhs_contract: &[usize]| DotDims {
        lhs_batch: lhs_batch.to_vec(),
        rhs_batch: rhs_batch.to_vec(),
        lhs_contract: lhs_contract.to_vec(),
        rhs_contract: rhs_contract.to_vec(),
    };
    let cases: [(&[usize], &[usize], DotDims); 12] = [
        (&[17, 23], &[23, 9], dims(&[], &[], &[1], &[0])),
        (&[23, 17], &[9, 23], dims(&[], &[], &[0], &[1])),
        (&[5], &[5], dims(&[], &[], &[0], &[0])),
        (&[5], &[7], dims(&[], &[], &[], &[])),
        (&[4, 3, 5, 6], &[4, 6, 3, 7], dims(&[0, 1], &[0, 2], &[3], &[1])),
        (&[4, 3, 5], &[5, 4, 2], dims(&[0], &[1], &[2], &[0])),
        (&[3, 4, 5], &[4, 5, 3], dims(&[], &[], &[0, 2], &[2, 1])),
        (&[3, 4, 5], &[6, 5, 4], dims(&[], &[], &[1, 2], &[2, 1])),
        (&[0, 3], &[3, 2], dims(&[], &[], &[1], &[0])),
        (&[2, 0], &[0, 3], dims(&[], &[], &[1], &[0])),
        (&[160, 200], &[200, 170], dims(&[], &[], &[1], &[0])),
        (&[40, 16, 33], &[40, 33, 8], dims(&[0], &[0], &[2], &[1])),
    ];
    for (index, (lhs, rhs, dims)) in cases.into_iter().enumerate() {
        let x = case.input(&format!("x{index}"), lhs);
        let y = case.input(&format!("y{index}"), rhs);
        let z = case.op(Op::DotGeneral { dims }, &[x, y]);
        case.output(&format!("z{index}"), z);
    }
    // Operands that are values, transposed, repeated.
    let x = case.input("x", &[6, 4]);
    let y = case.unary(UnaryOp::Sine, x);
    let turned = case.transpose(y, &[1, 0]);
    let z = case.matmul(y, turned);
    let row = case.input("row", &[6]);
    let wide = case.broadcast(row, &[3, 6], &[1]);
    let w = case.matmul(wide, z);
    let ones = case.splat(x, 1.0);
    let v = case.matmul(turned, ones);
    for (name, node) in [("z", z), ("w", w), ("v", v)] {
        case.output(name, node);
    }
    check(&case, CLOSE);
}

fn convolution_case(name: &str, x: &[usize], weight: &[usize], geometry: ConvolutionGeometry) {
    let mut case = Case::new(name, 10);
    let (x_id, w_id) = (case.input("x", x), case.input("weight", weight));
    let y = case.op(Op::Convolution { geometry: geometry.clone() }, &[x_id, w_id]);
    let shape = case.shape(y);
    let grad = case.input("grad", &shape);
    let input_grad = case.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial: x[2..].to_vec() }, &[grad, w_id]);
    let weight_grad = case.op(Op::ConvolutionWeightGrad { geometry, kernel_spatial: weight[2..].to_vec() }, &[x_id, grad]);
    for (name, node) in [("y", y), ("input grad", input_grad), ("weight grad", weight_grad)] {
        case.output(name, node);
    }
    check(&case, CLOSE);
}

#[test]
fn convolutions_of_every_geometry() {
    let geometry = |strides: &[usize], low: &[usize], high: &[usize], dilation: &[usize], groups: usize| ConvolutionGeometry {
        strides: strides.to_vec(),
        low: low.to_vec(),
        high: high.to_vec(),
        dilation: dilation.to_vec(),
        groups,
    };
    convolution_case("plain", &[3, 2, 9, 8], &[5, 2, 3, 3], geometry(&[1, 1], &[0, 0], &[0, 0], &[1, 1], 1));
    convolution_case("same", &[9, 4, 28, 28], &[6, 4, 3, 3], geometry(&[1, 1], &[1, 1], &[1, 1], &[1, 1], 1));
    convolution_case("strided", &[2, 3, 11, 13], &[4, 3, 3, 5], geometry(&[2, 3], &[1, 2], &[0, 3], &[1, 1], 1));
    convolution_case("dilated", &[2, 3, 11, 13], &[4, 3, 3, 2], geometry(&[1, 2], &[3, 0], &[1, 0], &[2, 3], 1));
    convolution_case("grouped", &[3, 6, 7, 7], &[4, 3, 3, 3], geometry(&[1, 1], &[1, 1], &[1, 1], &[1, 1], 2));
    convolution_case("depthwise", &[3, 5, 7, 9], &[10, 1, 3, 3], geometry(&[2, 1], &[1, 1], &[1, 1], &[1, 2], 5));
    convolution_case("pointwise", &[3, 5, 7, 9], &[4, 5, 1, 1], geometry(&[1, 1], &[0, 0], &[0, 0], &[1, 1], 1));
    convolution_case("pointwise large", &[2, 5, 17, 19], &[4, 5, 1, 1], geometry(&[1, 1], &[0, 0], &[0, 0], &[1, 1], 1));
    convolution_case("one axis", &[3, 4, 50], &[6, 4, 5], geometry(&[2], &[4], &[0], &[1], 1));
    convolution_case("three axes", &[2, 3, 5, 6, 4], &[4, 3, 3, 2, 2], geometry(&[1, 2, 1], &[1, 0, 1], &[1, 0, 0], &[1, 1, 2], 1));
    convolution_case("wide padding", &[2, 2, 2, 2], &[3, 2, 2, 2], geometry(&[1, 1], &[4, 5], &[5, 3], &[1, 1], 1));
    // Pieces of columns: 40 channels of 3x3 taps let 182 columns into the cache at once.
    convolution_case("in pieces", &[2, 40, 26, 26], &[3, 40, 3, 3], geometry(&[1, 1], &[1, 1], &[1, 1], &[1, 1], 1));
    convolution_case(
        "in pieces, two axes deep",
        &[2, 24, 6, 12, 12],
        &[3, 24, 2, 3, 3],
        geometry(&[1, 1, 1], &[0, 1, 1], &[1, 1, 1], &[1, 1, 1], 1),
    );
    convolution_case("no images", &[0, 2, 5, 5], &[3, 2, 2, 2], geometry(&[1, 1], &[0, 0], &[0, 0], &[1, 1], 1));
    convolution_case("many images", &[70, 1, 4, 4], &[3, 1, 2, 2], geometry(&[1, 1], &[0, 0], &[0, 0], &[1, 1], 1));
}

#[test]
fn windows_of_every_kind() {
    let windows: [(&[usize], Window); 6] = [
        (&[3, 4, 8, 10], window(&[1, 1, 2, 2], &[1, 1, 2, 2], &[0; 4], &[0; 4])),
        (&[3, 4, 9, 7], window(&[1, 1, 2, 2], &[1, 1, 2, 2], &[0; 4], &[0, 0, 1, 1])),
        (&[2, 3, 9, 7], window(&[1, 1, 3, 2], &[1, 1, 2, 1], &[0, 0, 1, 1], &[0, 0, 2, 0])),
        (&[2, 8, 6, 3], window(&[1, 2, 2, 1], &[1, 2, 2, 1], &[0; 4], &[0; 4])),
        (&[40], window(&[5], &[3], &[2], &[0])),
        (&[2, 3, 4], window(&[1, 1, 1], &[1, 1, 1], &[0; 3], &[0; 3])),
    ];
    for (shape, window) in windows {
        let mut case = Case::new("window", 11);
        let x = case.input("x", shape);
        for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min] {
            let y = case.op(Op::ReduceWindow { kind, window: window.clone() }, &[x]);
            case.output(&format!("{kind:?}"), y);
            if kind != ReduceKind::Sum {
                let windows_shape = case.shape(y);
                let grad = case.input(&format!("grad {kind:?}"), &windows_shape);
                let z = case.op(Op::SelectAndScatter { kind, window: window.clone() }, &[x, grad]);
                case.output(&format!("back {kind:?}"), z);
            }
        }
        check(&case, CLOSE);
    }
}

fn window(size: &[usize], strides: &[usize], low: &[usize], high: &[usize]) -> Window {
    Window { size: size.to_vec(), strides: strides.to_vec(), low: low.to_vec(), high: high.to_vec() }
}

#[test]
fn gathers_and_scatters() {
    let mut case = Case::new("gather", 12);
    let table = case.random("table", Role::Table, DType::U8, &[11, 6]);
    let picks = case.random("picks", Role::Input, DType::I32, &[7]);
    let rows = case.op(Op::Gather { axis: 0, batch_dims: 0 }, &[table, picks]);
    let floats = case.op(Op::Convert { to: DType::F32 }, &[rows]);
    let small = case.scaled(floats, 1.0 / 256.0);
    case.output("widened", small);
    let rows = case.op(Op::Gather { axis: 1, batch_dims: 0 }, &[table, picks]);
    let both = [DType::F32, DType::I32].map(|to| case.op(Op::Convert { to }, &[rows]));
    case.output("as float", both[0]);
    case.output("as integer", both[1]);
    let again = case.op(Op::Gather { axis: 0, batch_dims: 0 }, &[rows, picks]);
    let again = case.op(Op::Convert { to: DType::F32 }, &[again]);
    case.output("twice", again);

    for dtype in [DType::F32, DType::I32, DType::Bool] {
        let x = case.random(&format!("x {dtype}"), Role::Input, dtype, &[3, 4, 5, 2]);
        let indices =
            case.random(&format!("indices {dtype}"), Role::Input, if dtype == DType::F32 { DType::U32 } else { DType::I32 }, &[3, 9]);
        for (name, axis, batch_dims) in [("middle", 2, 1), ("plain", 1, 0), ("last", 3, 1)] {
            let y = case.op(Op::Gather { axis, batch_dims }, &[x, indices]);
            let shape = case.shape(y);
            case.output(&format!("{name} {dtype}"), y);
            let updates = case.random(&format!("updates {name} {dtype}"), Role::Input, dtype, &shape);
            for mode in [ScatterMode::Add, ScatterMode::Set] {
                let z = case.op(Op::Scatter { axis, batch_dims, mode }, &[x, indices, updates]);
                case.output(&format!("{name} {mode:?} {dtype}"), z);
            }
        }
    }
    let none = case.random("none", Role::Input, DType::I32, &[0]);
    let x = case.input("y", &[3, 2]);
    let y = case.op(Op::Gather { axis: 0, batch_dims: 0 }, &[x, none]);
    case.output("nothing", y);
    check(&case, CLOSE);
}

#[test]
fn blocks_at_starts_known_at_run_time() {
    let mut case = Case::new("dynamic", 13);
    let x = case.input("x", &[6, 7]);
    let block = case.input("block", &[2, 3]);
    let starts: Vec<NodeId> =
        [("a", -3.0), ("b", 2.0), ("c", 100.0)].into_iter().map(|(name, value)| case.scalar(name, DType::I32, value)).collect();
    let one = case.constant(DType::I32, 1.0);
    let next = case.binary(BinaryOp::Add, starts[1], one);
    for (name, row, column) in [("low", starts[0], starts[1]), ("high", starts[2], next), ("constant", one, one)] {
        let y = case.op(Op::DynamicSlice { sizes: vec![2, 3] }, &[x, row, column]);
        case.output(&format!("{name} slice"), y);
        let y = case.op(Op::DynamicUpdateSlice, &[x, block, row, column]);
        case.output(&format!("{name} update"), y);
    }
    check(&case, 0.0);
}

#[test]
fn outputs_that_are_leaves_or_views() {
    let mut case = Case::new("outputs", 14);
    let x = case.input("x", &[3, 4]);
    let state = case.state("w", &[4]);
    let rate = case.scalar("rate", DType::F32, 0.25);
    let bytes = case.random("bytes", Role::Table, DType::U8, &[7]);
    let one = case.splat(x, 1.0);
    let flat = case.reshape(x, &[12]);
    let turned = case.transpose(x, &[1, 0]);
    let sum = case.add(x, one);
    for (name, node) in [
        ("x", x),
        ("w", state),
        ("rate", rate),
        ("bytes", bytes),
        ("one", one),
        ("flat", flat),
        ("turned", turned),
        ("sum", sum),
        ("sum again", sum),
    ] {
        case.output(name, node);
    }
    let half = case.constant(DType::F32, 0.5);
    let half = case.broadcast(half, &[4], &[]);
    case.update("w", half);
    check(&case, CLOSE);
}

#[test]
fn states_that_swap_and_read_each_other() {
    for size in [1, 5, 5000] {
        let mut case = Case::new("swap", 15);
        let (a, b, c) = (case.state("a", &[size]), case.state("b", &[size]), case.state("c", &[size]));
        let d = case.state("d", &[size]);
        let total = case.reduce(ReduceKind::Sum, a, &[0]);
        let total = case.spread(total, c);
        let total = case.scaled(total, 0.01);
        let new_c = case.add(c, total);
        // d takes the new c, turned round; a and b swap; all old values are read.
        let turned = case.op(Op::Reverse { axes: vec![0] }, &[new_c]);
        let new_d = case.mul(turned, d);
        case.update("a", b);
        case.update("b", a);
        case.update("c", new_c);
        case.update("d", new_d);
        let old = case.add(a, d);
        let old = case.op(Op::Reverse { axes: vec![0] }, &[old]);
        case.output("old", old);
        check(&case, CLOSE);
    }
}

#[test]
fn a_state_read_by_what_its_own_update_feeds() {
    // out reads the new and the old value of a at other places: no update in place.
    let mut case = Case::new("old and new", 16);
    let a = case.state("a", &[300]);
    let new = case.unary(UnaryOp::Sine, a);
    case.update("a", new);
    let sum = case.reduce(ReduceKind::Sum, new, &[0]);
    let sum = case.spread(sum, a);
    let turned = case.op(Op::Reverse { axes: vec![0] }, &[a]);
    let y = case.mul(sum, turned);
    case.output("y", y);
    let table = case.random("count", Role::Metric, DType::F32, &[4, 3]);
    let picks = case.random("picks", Role::Input, DType::I32, &[6]);
    let updates = case.input("updates", &[6, 3]);
    let counted = case.op(Op::Scatter { axis: 0, batch_dims: 0, mode: ScatterMode::Add }, &[table, picks, updates]);
    case.update("count", counted);
    check(&case, CLOSE);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Random graphs

struct Dice {
    seed: u32,
    drawn: u32,
}

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.drawn += 1;
        rng_bits(self.seed, 99, 0, self.drawn) as usize % limit
    }
}

/// A graph of some thirty float nodes; no comparisons of floats, which rounding could flip.
fn random_graph(seed: u32) -> Case {
    let mut dice = Dice { seed, drawn: 0 };
    let mut case = Case::new(&format!("random graph {seed}"), seed.wrapping_mul(1000));
    let sizes = [1, 2, 3, 5, 7];
    let mut nodes: Vec<NodeId> = Vec::new();
    let mut states = Vec::new();
    for index in 0..4 {
        let rank = dice.below(4);
        let shape: Vec<usize> = (0..rank).map(|_| if dice.below(25) == 0 { 0 } else { sizes[dice.below(5)] }).collect();
        if index % 2 == 0 {
            let name = format!("s{index}");
            nodes.push(case.state(&name, &shape));
            states.push((name, shape.clone()));
            let twin = format!("t{index}");
            nodes.push(case.state(&twin, &shape));
            states.push((twin, shape));
        } else {
            nodes.push(case.input(&format!("x{index}"), &shape));
        }
    }
    let (key, step) = (case.scalar("seed", DType::U32, 3.0), case.scalar("step", DType::U32, 9.0));
    for _ in 0..30 {
        let x = nodes[dice.below(nodes.len())];
        let shape = case.shape(x);
        let rank = shape.len();
        let node = match dice.below(16) {
            0 => case.unary([UnaryOp::Tanh, UnaryOp::Sine, UnaryOp::Logistic, UnaryOp::Erf][dice.below(4)], x),
            1 | 2 => {
                let same: Vec<NodeId> = nodes.iter().copied().filter(|&y| case.shape(y) == shape).collect();
                let y = same[dice.below(same.len())];
                let z = case.binary([BinaryOp::Add, BinaryOp::Subtract, BinaryOp::Multiply, BinaryOp::Maximum][dice.below(4)], x, y);
                case.unary(UnaryOp::Tanh, z)
            }
            3 => {
                let elements = shape.iter().product::<usize>();
                let target = match dice.below(3) {
                    0 => vec![elements],
                    1 => [vec![1], shape.clone(), vec![1]].concat(),
                    _ if elements % 2 == 0 => vec![2, elements / 2],
                    _ => vec![elements, 1],
                };
                case.reshape(x, &target)
            }
            4 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (0..rank).for_each(|axis| perm.swap(axis, dice.below(rank)));
                case.transpose(x, &perm)
            }
            5 if rank < 4 => {
                let place = dice.below(rank + 1);
                let mut target = shape.clone();
                target.insert(place, sizes[dice.below(4)]);
                let dims: Vec<usize> = (0..rank + 1).filter(|&axis| axis != place).collect();
                case.broadcast(x, &target, &dims)
            }
            6 => {
                let starts: Vec<usize> = shape.iter().map(|&size| dice.below(size / 2 + 1)).collect();
                let strides: Vec<usize> = shape.iter().map(|_| 1 + dice.below(2)).collect();
                case.op(Op::Slice { starts, limits: shape.clone(), strides }, &[x])
            }
            7 => case.op(Op::Reverse { axes: (0..rank).filter(|_| dice.below(2) == 0).collect() }, &[x]),
            8 => {
                let zero = case.constant(DType::F32, 0.25);
                let low: Vec<i64> = shape.iter().map(|_| dice.below(3) as i64 - 1).collect();
                let high: Vec<i64> =
                    shape.iter().zip(&low).map(|(&size, low)| if size as i64 + low < 2 { 2 } else { dice.below(3) as i64 - 1 }).collect();
                let interior: Vec<usize> = shape.iter().map(|_| dice.below(2)).collect();
                case.op(Op::Pad { low, high, interior }, &[x, zero])
            }
            9 if rank > 0 => {
                let axis = dice.below(rank);
                let y = case.unary(UnaryOp::Cosine, x);
                case.op(Op::Concatenate { axis }, &[x, y, x])
            }
            10 | 11 => {
                let axes: Vec<usize> = (0..rank).filter(|_| dice.below(2) == 0).collect();
                let y = case.reduce(ReduceKind::Sum, x, &axes);
                case.unary(UnaryOp::Tanh, y)
            }
            12 if rank > 0 && !shape.contains(&0) => {
                let axis = dice.below(rank);
                let counter = case.leaf(Op::Iota { axis: 0 }, TensorType::new(DType::I32, [dice.below(4)]));
                case.op(Op::Gather { axis, batch_dims: 0 }, &[x, counter])
            }
            13 if rank > 0 => {
                let (free, shared) = (dice.below(rank), dice.below(rank));
                let mut contract: Vec<usize> = (0..rank).filter(|&axis| axis != free && axis != shared).collect();
                if dice.below(2) == 0 {
                    contract.reverse();
                }
                let batch = if free == shared { vec![] } else { vec![shared] };
                let y = case.unary(UnaryOp::Sine, x);
                let dims = DotDims { lhs_batch: batch.clone(), rhs_batch: batch, lhs_contract: contract.clone(), rhs_contract: contract };
                let z = case.op(Op::DotGeneral { dims }, &[x, y]);
                case.unary(UnaryOp::Tanh, z)
            }
            14 => {
                let ty = TensorType::new(DType::U32, shape.clone());
                let bits = case.graph.push_typed(Op::RngBits { stream: dice.below(100) as u32 }, vec![key, step], ty, "".into(), "".into());
                let half = case.splat(bits, f64::from(1u32 << 31));
                let mask = case.compare(Compare::Less, bits, half);
                let zero = case.splat(x, 0.0);
                case.op(Op::Select, &[mask, x, zero])
            }
            _ => case.scaled(x, 0.5),
        };
        if case.graph.ty(node).element_count() < 3000 && case.shape(node).len() < 6 {
            nodes.push(node);
        }
    }
    for index in 0..3 {
        let node = nodes[nodes.len() - 1 - dice.below(nodes.len() / 2)];
        case.output(&format!("out{index}"), node);
    }
    for (name, shape) in states {
        let same: Vec<NodeId> = nodes.iter().copied().filter(|&node| case.shape(node) == shape).collect();
        let value = same[dice.below(same.len())];
        case.update(&name, value);
    }
    case
}

#[test]
fn random_graphs_are_what_the_oracle_says() {
    for seed in 0..400 {
        check(&random_graph(seed), 2e-5);
    }
}
