//! Every kernel of the GPU device against the oracle, fused and not: graphs first, then what graphs cannot ask for (hand-made plans), then how runs follow
//! each other. A machine without an adapter fails here; `apt-get install mesa-vulkan-drivers` gives it one in software.

#[path = "common/device.rs"]
mod device;
#[path = "common/kernels.rs"]
mod kernels;

use device::{Case, Results, assert_close, numbers_of, run};
use solstice_engine::gpu::{GpuRuntime, Target, adapters};
use solstice_engine::kernel::{
    Body, Buffer, BufferId, BufferKind, Instruction, Kernel, KernelOp, Port, Register, ScalarPort, StatePort, Store, View,
};
use solstice_engine::random::rng_bits;
use solstice_engine::reference::Tensor;
use solstice_engine::{EngineError, Plan, Session};
use solstice_ir::{BinaryOp, Compare, DType, DotDims, Literal, NodeId, Op, ReduceKind, Role, ScatterMode, TensorType, UnaryOp};

fn open() -> Box<GpuRuntime> {
    let adapters = adapters();
    let adapter = adapters.first().expect("an adapter: `apt-get install mesa-vulkan-drivers` installs one in software");
    Box::new(GpuRuntime::new(adapter).expect("the adapter opens"))
}

/// The first adapter with other families of kernels than its own: those for hardware, and those for software without subgroups.
fn open_as(is_software: bool) -> Box<GpuRuntime> {
    let own = open().target().clone();
    let adapters = adapters();
    let target = Target { is_software, subgroup_size: 1, ..own };
    Box::new(GpuRuntime::with_target(&adapters[0], target).expect("the adapter opens"))
}

/// Fused and unfused and with every family of kernels against the oracle, and byte-equal when run again.
fn check(case: &Case, tolerance: f64) {
    let wanted = case.wanted();
    let name = &case.graph.name;
    let (fused, unfused) = (case.plan(true), case.plan(false));
    let found: Results = run(open(), &fused, &case.values, 1);
    assert_close(&format!("{name} fused\n{}\n{fused}", case.graph), &found, &wanted, tolerance);
    assert_close(&format!("{name} unfused"), &run(open(), &unfused, &case.values, 1), &wanted, tolerance);
    assert_close(&format!("{name} as on hardware"), &run(open_as(false), &fused, &case.values, 1), &wanted, tolerance);
    assert_close(&format!("{name} without subgroups"), &run(open_as(true), &fused, &case.values, 1), &wanted, tolerance);
    assert!(run(open(), &fused, &case.values, 1) == found, "{name}: other bytes when run again");
}

/// Elementwise chains cost a few units of the last place, sums of some thousand terms some tens: 2^-24 * 64.
const CLOSE: f64 = 4e-6;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Elementwise

/// Awkward places: zeros, the ends of f32, poles, halves, the edges of the polynomials.
fn awkward() -> Vec<f64> {
    let positive = [
        0.0,
        1e-38,
        1e-20,
        1e-4,
        0.1,
        0.5,
        0.624,
        0.626,
        0.7072,
        0.9999,
        1.0,
        1.0001,
        1.5,
        2.0,
        2.5,
        3.0,
        3.99,
        4.01,
        7.0,
        10.5,
        31.0,
        32.0,
        88.0,
        89.5,
        104.5,
        1000.0,
        7999.0,
        65537.0,
        16777217.0,
        2147483647.0,
        2147483648.0,
        4294967295.0,
        4294967296.0,
        1e20,
        3e38,
        f64::INFINITY,
    ];
    // As f32 holds them, so that the oracle sees the same numbers.
    let positive = positive.map(|value: f64| f64::from(value as f32));
    positive.iter().copied().chain(positive.iter().map(|value| -value)).chain([f64::NAN]).collect()
}

/// Asserts that each element is within `relative` of its own size or `absolute`.
fn assert_each(what: &str, inputs: &[Vec<f64>], found: &[f64], wanted: &[f64], relative: f64, absolute: f64) {
    for (index, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let arguments: Vec<f64> = inputs.iter().map(|input| input[index]).collect();
        let rounded = f64::from(wanted as f32);
        let bound = absolute + relative * wanted.abs();
        // Numbers below the smallest normal one may be flushed to 0; the largest may round to infinity.
        let is_tiny = wanted.abs() < 1.2e-38 && found.abs() < 1.2e-38;
        let is_huge = wanted.abs() > 3.4e38 && found.abs() > 3.4e38 && (found > 0.0) == (wanted > 0.0);
        let close = found == rounded || (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() <= bound || is_tiny || is_huge;
        assert!(close, "{what} of {arguments:?} is {found}, not {wanted}");
    }
}

#[test]
fn functions_of_one_float_at_awkward_places() {
    use UnaryOp::{Abs, Cosine, Erf, Exponential, Floor, Log, Logistic, Negate, Rsqrt, Sign, Sine, Sqrt, Tanh};
    let mut points = awkward();
    points.extend((0..2000).map(|i| f64::from((f64::from(i) * 0.0137 - 13.7) as f32)));
    for function in [Abs, Cosine, Erf, Exponential, Floor, Log, Logistic, Negate, Rsqrt, Sign, Sine, Sqrt, Tanh] {
        // The range reduction of sine and cosine is good for arguments up to some 8000.
        let places: Vec<f64> =
            points.iter().copied().filter(|x| !matches!(function, Sine | Cosine) || x.abs() < 8000.0 || !x.is_finite()).collect();
        let mut case = Case::new("unary", 1);
        let x = case.given("x", Role::Input, Tensor::f32([places.len()], places.clone()));
        let y = case.unary(function, x);
        case.output("y", y);
        let (ty, bytes) = &run(open(), &case.plan(true), &case.values, 1)["y"];
        // Cephes: 1 to 2 units in the last place (2^-23); erf some 4 of the result's largest; a sine's error is absolute.
        let absolute = match function {
            Sine | Cosine => 3e-7,
            Erf => 6e-7,
            _ => 0.0,
        };
        assert_each(&format!("{function:?}"), &[places], &numbers_of(ty, bytes), &case.wanted()["y"].to_f64(), 4e-7, absolute);
    }
}

#[test]
fn functions_of_two_floats_at_awkward_places() {
    use BinaryOp::{Add, Divide, Maximum, Minimum, Multiply, Power, Remainder, Subtract};
    let points = awkward();
    let pairs: Vec<(f64, f64)> = points.iter().flat_map(|&x| points.iter().map(move |&y| (x, y))).collect();
    let sides = |pairs: &[(f64, f64)]| vec![pairs.iter().map(|pair| pair.0).collect::<Vec<_>>(), pairs.iter().map(|pair| pair.1).collect()];
    for function in [Add, Divide, Maximum, Minimum, Multiply, Power, Remainder, Subtract] {
        // A product y ln x of size p has an absolute error of p * 2^-24, which is the power's relative error.
        let exact = |&(x, y): &(f64, f64)| {
            function != Power
                || !x.is_finite()
                || x == 0.0
                || !y.is_finite()
                || (y * x.abs().ln()).abs() < 60.0
                || (y * x.abs().ln()).abs() > 110.0
        };
        // A subnormal divisor or dividend may count as 0.
        let normal = |&(x, y): &(f64, f64)| {
            !matches!(function, Remainder | Divide) || [x, y].iter().all(|z| *z == 0.0 || z.abs() > 1.2e-38 || z.is_nan())
        };
        let pairs: Vec<(f64, f64)> = pairs.iter().copied().filter(|pair| exact(pair) && normal(pair)).collect();
        let inputs = sides(&pairs);
        let mut case = Case::new("binary", 1);
        let x = case.given("x", Role::Input, Tensor::f32([pairs.len()], inputs[0].clone()));
        let y = case.given("y", Role::Input, Tensor::f32([pairs.len()], inputs[1].clone()));
        let z = case.binary(function, x, y);
        case.output("z", z);
        let (ty, bytes) = &run(open(), &case.plan(true), &case.values, 1)["z"];
        let relative = if function == Power { 1e-5 } else { 1.3e-7 };
        assert_each(&format!("{function:?}"), &inputs, &numbers_of(ty, bytes), &case.wanted()["z"].to_f64(), relative, 0.0);
    }
}

/// Constant operands take other paths: comparisons without NaN tests, powers as products.
#[test]
fn functions_of_a_float_and_a_constant() {
    let points = awkward();
    for value in [0.0, -0.0, 2.0, 3.0, 4.0, -1.0, -2.0, 0.5, f64::INFINITY, f64::NAN] {
        for function in [BinaryOp::Maximum, BinaryOp::Minimum, BinaryOp::Power] {
            let places: Vec<f64> =
                points.iter().copied().filter(|x| function != BinaryOp::Power || !x.is_finite() || x.abs() < 1e5).collect();
            let mut case = Case::new("constant", 1);
            let x = case.given("x", Role::Input, Tensor::f32([places.len()], places.clone()));
            let constant = case.splat(x, value);
            for (name, left, right) in [("right", x, constant), ("left", constant, x)] {
                if function != BinaryOp::Power || name == "right" {
                    let z = case.binary(function, left, right);
                    case.output(name, z);
                }
            }
            let (found, wanted) = (run(open(), &case.plan(true), &case.values, 1), case.wanted());
            for (name, tensor) in wanted {
                let (ty, bytes) = &found[&name];
                assert_each(
                    &format!("{function:?} {name} {value}"),
                    std::slice::from_ref(&places),
                    &numbers_of(ty, bytes),
                    &tensor.to_f64(),
                    4e-6,
                    0.0,
                );
            }
        }
    }
}

#[test]
fn integers_wrap_and_divide_by_zero() {
    use BinaryOp::{Add, And, Divide, Maximum, Minimum, Multiply, Or, Remainder, ShiftLeft, ShiftRight, Subtract, Xor};
    let values: [u32; 14] = [0, 1, 2, 3, 7, 31, 32, 33, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX - 2, u32::MAX - 1, u32::MAX];
    let pairs: Vec<(u32, u32)> = values.iter().flat_map(|&x| values.iter().map(move |&y| (x, y))).collect();
    for dtype in [DType::I32, DType::U32] {
        let tensor = |side: &dyn Fn(&(u32, u32)) -> u32| match dtype {
            DType::I32 => Tensor::i32([pairs.len()], pairs.iter().map(|pair| side(pair) as i32).collect::<Vec<_>>()),
            _ => Tensor::u32([pairs.len()], pairs.iter().map(side).collect::<Vec<_>>()),
        };
        let mut case = Case::new("integers", 1);
        let x = case.given("x", Role::Input, tensor(&|pair| pair.0));
        let y = case.given("y", Role::Input, tensor(&|pair| pair.1));
        for function in [Add, And, Divide, Maximum, Minimum, Multiply, Or, Remainder, ShiftLeft, ShiftRight, Subtract, Xor] {
            let z = case.binary(function, x, y);
            case.output(&format!("{function:?}"), z);
        }
        for function in [UnaryOp::Negate, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Not] {
            if dtype == DType::I32 || function == UnaryOp::Not {
                let z = case.unary(function, x);
                case.output(&format!("{function:?}"), z);
            }
        }
        for to in [DType::F32, DType::I32, DType::U32, DType::Bool] {
            let z = case.op(Op::Convert { to }, &[x]);
            case.output(&format!("to {to}"), z);
        }
        // Conversions to f32 round once: 2^-24.
        check(&case, 1e-7);
    }
}

#[test]
fn comparisons_and_conversions_of_floats() {
    let points = awkward();
    let pairs: Vec<(f64, f64)> = points.iter().flat_map(|&x| points.iter().map(move |&y| (x, y))).collect();
    let mut case = Case::new("comparisons", 1);
    let x = case.given("x", Role::Input, Tensor::f32([pairs.len()], pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()));
    let y = case.given("y", Role::Input, Tensor::f32([pairs.len()], pairs.iter().map(|pair| pair.1).collect::<Vec<_>>()));
    for direction in [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::LessEqual, Compare::Greater, Compare::GreaterEqual] {
        for (name, right) in [("other", y), ("itself", x)] {
            let z = case.compare(direction, x, right);
            case.output(&format!("{direction:?} {name}"), z);
        }
    }
    for to in [DType::I32, DType::U32, DType::Bool] {
        let z = case.op(Op::Convert { to }, &[x]);
        case.output(&format!("to {to}"), z);
    }
    check(&case, 0.0);
}

#[test]
fn sizes_around_a_workgroup() {
    for size in [0, 1, 2, 3, 4, 5, 63, 64, 65, 255, 256, 257, 1021] {
        let mut case = Case::new(&format!("size {size}"), 2);
        let x = case.input("x", &[size]);
        let state = case.state("w", &[size]);
        let bytes = case.random("bytes", Role::Table, DType::U8, &[size]);
        let wide = case.op(Op::Convert { to: DType::F32 }, &[bytes]);
        let sum = case.add(x, wide);
        let turned = case.op(Op::Reverse { axes: vec![0] }, &[sum]);
        let mask = case.compare(Compare::Less, x, state);
        let chosen = case.op(Op::Select, &[mask, turned, state]);
        let total = case.reduce(ReduceKind::Sum, chosen, &[0]);
        let new = case.mul(state, x);
        case.update("w", new);
        for (name, node) in [("sum", sum), ("mask", mask), ("chosen", chosen), ("total", total)] {
            case.output(name, node);
        }
        check(&case, CLOSE);
    }
}

/// More than 65535 workgroups along one axis: the grid is folded.
#[test]
fn more_workgroups_than_one_axis_holds() {
    let mut case = Case::new("many workgroups", 3);
    // 4 200 003 elements in workgroups of 64, one by one as the rows are odd and turned.
    let counter = case.leaf(Op::Iota { axis: 1 }, TensorType::new(DType::U32, [3, 1_400_001]));
    let row = case.random("row", Role::Input, DType::U32, &[3]);
    let wide = case.broadcast(row, &[3, 1_400_001], &[0]);
    let y = case.add(counter, wide);
    let turned = case.op(Op::Reverse { axes: vec![1] }, &[y]);
    case.output("turned", turned);
    let plan = case.plan(true);
    let found = run(open(), &plan, &case.values, 1);
    let (ty, bytes) = &found["turned"];
    let rows = case.values["row"].to_f64();
    for (index, found) in numbers_of(ty, bytes).into_iter().enumerate() {
        let (row, column) = (index / 1_400_001, index % 1_400_001);
        assert_eq!(found, (1_400_000 - column) as f64 + rows[row], "row {row}, column {column}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// The other kernels

#[test]
fn every_kernel_in_its_variants() {
    for case in kernels::every_other_kernel() {
        // A product over 300 000 random factors is not a number to compare: it is 0 or infinite either way. Sums of 9000 products and chains of two
        // convolutions err by some hundred units in the last place of their largest element.
        check(&case, 2e-5);
    }
}

/// A sum of a million elements is good to about 1e-6: partial sums in a tree.
#[test]
fn long_sums_keep_their_digits() {
    for shape in [vec![1_000_003], vec![1000, 1000], vec![250_000, 4]] {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| f64::from((rng_bits(1, 2, 3, i as u32) >> 8) as f32 / (1 << 24) as f32)).collect();
        let axes: Vec<usize> = (0..shape.len()).collect();
        let mut case = Case::new("long sum", 4);
        let x = case.given("x", Role::Input, Tensor::f32(shape, values));
        let y = case.reduce(ReduceKind::Sum, x, &axes);
        case.output("y", y);
        check(&case, 1e-6);
    }
}

#[test]
fn products_around_the_tile_sizes() {
    let mut case = Case::new("dot", 5);
    for (rows, inner, columns) in
        [(1, 5, 1), (1, 33, 40), (33, 5, 1), (8, 4, 8), (9, 3, 7), (31, 16, 33), (32, 12, 32), (65, 17, 66), (2, 0, 3)]
    {
        for (is_left_turned, is_right_turned) in [(false, false), (true, false), (false, true), (true, true)] {
            let name = format!("{rows} {inner} {columns} {is_left_turned} {is_right_turned}");
            let left = if is_left_turned { [inner, rows] } else { [rows, inner] };
            let right = if is_right_turned { [columns, inner] } else { [inner, columns] };
            let (x, y) = (case.input(&format!("x {name}"), &left), case.input(&format!("y {name}"), &right));
            let dims = DotDims {
                lhs_contract: vec![usize::from(!is_left_turned)],
                rhs_contract: vec![usize::from(is_right_turned)],
                ..DotDims::default()
            };
            let z = case.op(Op::DotGeneral { dims }, &[x, y]);
            case.output(&name, z);
        }
    }
    // Sums of at most 33 products.
    check(&case, CLOSE);
}

/// The order of the updates is the order of the indices, also where a workgroup looks for them together.
#[test]
fn scattered_updates_come_in_order() {
    for count in [5, 32, 33, 64, 65, 300] {
        let mut case = Case::new(&format!("scatter {count}"), 6);
        let x = case.input("x", &[2, 7, 3]);
        let indices = case.random("indices", Role::Input, DType::I32, &[2, count]);
        let updates = case.input("updates", &[2, count, 3]);
        for mode in [ScatterMode::Add, ScatterMode::Set] {
            let y = case.op(Op::Scatter { axis: 1, batch_dims: 1, mode }, &[x, indices, updates]);
            case.output(&format!("{mode:?}"), y);
        }
        let histogram = case.random("histogram", Role::Metric, DType::I32, &[11]);
        let picks = case.random("picks", Role::Input, DType::I32, &[count]);
        let ones = case
            .leaf(Op::Constant { value: Literal::splat(TensorType::new(DType::I32, [count]), 1.0) }, TensorType::new(DType::I32, [count]));
        let counted = case.op(Op::Scatter { axis: 0, batch_dims: 0, mode: ScatterMode::Add }, &[histogram, picks, ones]);
        case.update("histogram", counted);
        // Up to 300 additions one after the other.
        check(&case, CLOSE);
        // A device that leaves its loops early does long lists in several launches.
        let target = Target { loop_steps_max: 128, ..open().target().clone() };
        let runtime = GpuRuntime::with_target(&adapters()[0], target).expect("the adapter opens");
        assert_close("in several launches", &run(Box::new(runtime), &case.plan(true), &case.values, 1), &case.wanted(), CLOSE);
    }
}

#[test]
fn not_a_number_goes_through_extremes() {
    let mut case = Case::new("holes", 7);
    let holes = case.given(
        "holes",
        Role::Input,
        Tensor::f32([3, 4], vec![1.0, f64::NAN, f64::NAN, 5.0, 3.0, 3.0, 2.0, 3.0, f64::NEG_INFINITY, 0.0, f64::INFINITY, -1.0]),
    );
    for kind in [ReduceKind::Max, ReduceKind::Min] {
        for axis in [0, 1] {
            let y = case.reduce(kind, holes, &[axis]);
            case.output(&format!("{kind:?} {axis}"), y);
            let y = case.op(Op::ReduceArg { kind, axis }, &[holes]);
            case.output(&format!("arg {kind:?} {axis}"), y);
        }
        let window = solstice_ir::Window { size: vec![1, 2], strides: vec![1, 2], low: vec![0, 0], high: vec![0, 0] };
        let y = case.op(Op::ReduceWindow { kind, window: window.clone() }, &[holes]);
        case.output(&format!("windows {kind:?}"), y);
        let ones = case.splat(y, 1.0);
        let back = case.op(Op::SelectAndScatter { kind, window }, &[holes, ones]);
        case.output(&format!("back {kind:?}"), back);
    }
    check(&case, 0.0);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Random graphs

/// A graph of some twenty float nodes of matching shapes, with state; no comparisons of floats, which rounding could flip.
fn random_graph(seed: u32) -> Case {
    let mut drawn = 0;
    let mut below = |limit: usize| {
        drawn += 1;
        rng_bits(seed, 77, 0, drawn) as usize % limit
    };
    let mut case = Case::new(&format!("random graph {seed}"), seed.wrapping_mul(100));
    let (rows, columns) = ([1, 3, 4, 8, 13][below(5)], [1, 2, 4, 5, 12, 64][below(6)]);
    let mut nodes: Vec<NodeId> =
        vec![case.input("x", &[rows, columns]), case.state("w", &[rows, columns]), case.state("v", &[rows, columns])];
    let (key, step) = (case.scalar("seed", DType::U32, 3.0), case.scalar("step", DType::U32, 9.0));
    for _ in 0..20 {
        let x = nodes[below(nodes.len())];
        let y = nodes[below(nodes.len())];
        // Each brings back the shape [rows, columns].
        let node = match below(11) {
            0 => case.unary([UnaryOp::Tanh, UnaryOp::Sine, UnaryOp::Logistic, UnaryOp::Erf][below(4)], x),
            1 => case.binary([BinaryOp::Add, BinaryOp::Subtract, BinaryOp::Maximum][below(3)], x, y),
            2 => case.op(Op::Reverse { axes: vec![below(2)] }, &[x]),
            3 => {
                let axis = below(2);
                let total = case.reduce(ReduceKind::Sum, x, &[axis]);
                let total = case.unary(UnaryOp::Tanh, total);
                case.broadcast(total, &[rows, columns], &[1 - axis])
            }
            4 => {
                let turned = case.transpose(y, &[1, 0]);
                let square = case.matmul(x, turned);
                let square = case.unary(UnaryOp::Tanh, square);
                let back = case.matmul(square, x);
                case.unary(UnaryOp::Sine, back)
            }
            5 => {
                let turned = case.transpose(x, &[1, 0]);
                case.reshape(turned, &[rows, columns])
            }
            6 => {
                let axis = below(2);
                let both = case.op(Op::Concatenate { axis }, &[x, y]);
                let mut starts = vec![0, 0];
                starts[axis] = [rows, columns][axis] / 2;
                let limits = vec![starts[0] + rows, starts[1] + columns];
                case.op(Op::Slice { starts, limits, strides: vec![1, 1] }, &[both])
            }
            7 => {
                let ty = TensorType::new(DType::U32, [rows, columns]);
                let bits = case.graph.push_typed(Op::RngBits { stream: below(100) as u32 }, vec![key, step], ty, "".into(), "".into());
                let half = case.splat(bits, f64::from(1u32 << 31));
                let mask = case.compare(Compare::Less, bits, half);
                case.op(Op::Select, &[mask, x, y])
            }
            8 => {
                let ty = TensorType::new(DType::I32, [rows]);
                let counter = case.leaf(Op::Iota { axis: 0 }, ty);
                let turned = case.op(Op::Reverse { axes: vec![0] }, &[counter]);
                case.op(Op::Scatter { axis: 0, batch_dims: 0, mode: ScatterMode::Add }, &[x, turned, y])
            }
            9 => {
                let zero = case.constant(DType::F32, 0.25);
                case.op(Op::Pad { low: vec![1, -1], high: vec![-1, 1], interior: vec![0, 0] }, &[x, zero])
            }
            _ => case.scaled(x, 0.5),
        };
        nodes.push(node);
    }
    let last = nodes[nodes.len() - 1];
    let total = case.reduce(ReduceKind::Sum, last, &[0, 1]);
    case.output("last", last);
    case.output("total", total);
    let (w, v) = (nodes[nodes.len() - 2], nodes[nodes.len() - 3]);
    case.update("w", w);
    case.update("v", v);
    case
}

#[test]
fn random_graphs_are_what_the_oracle_says() {
    for seed in 0..30 {
        // Chains of twenty ops with sums of up to 64 terms, whose errors add up.
        check(&random_graph(seed), 4e-5);
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Hand-made plans

struct PlanBuilder {
    plan: Plan,
}

impl PlanBuilder {
    fn new() -> PlanBuilder {
        PlanBuilder { plan: Plan { name: "by hand".into(), ..Plan::default() } }
    }

    fn buffer(&mut self, kind: BufferKind, dtype: DType, elements: usize) -> BufferId {
        self.plan.buffers.push(Buffer { kind, dtype, elements, is_half: false });
        BufferId(self.plan.buffers.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        let ty = TensorType::new(dtype, shape);
        let buffer = self.buffer(BufferKind::Input(self.plan.inputs.len()), dtype, ty.element_count());
        self.plan.inputs.push(Port { name: name.into(), ty, buffer });
        buffer
    }

    fn output(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        let ty = TensorType::new(dtype, shape);
        let buffer = self.buffer(BufferKind::Output(self.plan.outputs.len()), dtype, ty.element_count());
        self.plan.outputs.push(Port { name: name.into(), ty, buffer });
        buffer
    }

    fn state(&mut self, name: &str, shape: &[usize]) -> BufferId {
        let ty = TensorType::new(DType::F32, shape);
        let buffer = self.buffer(BufferKind::State(name.into()), DType::F32, ty.element_count());
        self.plan.states.push(StatePort { name: name.into(), ty, role: Role::Param, buffer, is_written: true });
        buffer
    }

    fn scratch(&mut self, slot: usize, dtype: DType, elements: usize) -> BufferId {
        self.plan.slots.resize(self.plan.slots.len().max(slot + 1), 0);
        self.plan.slots[slot] = self.plan.slots[slot].max(elements * 4);
        self.buffer(BufferKind::Scratch { slot }, dtype, elements)
    }

    fn kernel(&mut self, label: &str, op: KernelOp) {
        self.plan.kernels.push(Kernel { op, label: label.into(), location: "here.rs:1".into() });
    }
}

fn view(buffer: BufferId, offset: usize, strides: &[isize]) -> View {
    View { buffer, offset, strides: strides.to_vec() }
}

fn words(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// A map whose input and output share a slot, with other element types; its second store goes to a part of another buffer, backwards.
#[test]
fn one_slot_with_two_element_types_and_a_store_to_a_part() {
    for size in [1, 3, 64, 67] {
        let mut builder = PlanBuilder::new();
        let x = builder.input("x", DType::F32, &[size]);
        let (first, second) = (builder.scratch(0, DType::F32, size), builder.scratch(0, DType::I32, size));
        let part = builder.output("part", DType::F32, &[3 * size]);
        let whole = builder.output("whole", DType::I32, &[size]);
        let copy = |from: BufferId, to: BufferId, dtype: DType| KernelOp::Map {
            shape: vec![size],
            body: Body { loads: vec![view(from, 0, &[1])], code: vec![Instruction::Load(0)], types: vec![dtype] },
            stores: vec![Store { value: Register(0), to: view(to, 0, &[1]) }],
        };
        builder.kernel(
            "fill",
            KernelOp::Map {
                shape: vec![3 * size],
                body: Body { loads: vec![], code: vec![Instruction::Constant(-1.0)], types: vec![DType::F32] },
                stores: vec![Store { value: Register(0), to: view(part, 0, &[1]) }],
            },
        );
        builder.kernel("load", copy(x, first, DType::F32));
        builder.kernel(
            "in place",
            KernelOp::Map {
                shape: vec![size],
                body: Body {
                    loads: vec![view(first, 0, &[1])],
                    code: vec![
                        Instruction::Load(0),
                        Instruction::Constant(2.0),
                        Instruction::Binary(BinaryOp::Multiply, Register(0), Register(1)),
                        Instruction::Convert(Register(2)),
                    ],
                    types: vec![DType::F32, DType::F32, DType::F32, DType::I32],
                },
                stores: vec![
                    Store { value: Register(3), to: view(second, 0, &[1]) },
                    Store { value: Register(2), to: view(part, 2 * size - 1, &[-1]) },
                ],
            },
        );
        builder.kernel("store", copy(second, whole, DType::I32));
        let mut session = Session::new(open());
        let program = session.load(builder.plan).expect("the plan loads");
        let values: Vec<f32> = (0..size).map(|i| i as f32 - 2.0).collect();
        let outputs = session.run(program, &[("x", &words(&values))], &[]).expect("the plan runs");
        let doubled: Vec<i32> = (0..size).map(|i| 2 * i as i32 - 4).collect();
        assert_eq!(outputs[1], doubled.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        let mut wanted = vec![-1.0; 3 * size];
        doubled.iter().enumerate().for_each(|(i, &value)| wanted[2 * size - 1 - i] = value as f32);
        assert_eq!(floats(&outputs[0]), wanted, "size {size}");
    }
}

#[test]
fn scatters_and_blocks_in_place_and_copies() {
    let mut builder = PlanBuilder::new();
    let w = builder.state("w", &[4, 3]);
    let old = builder.state("old", &[4, 3]);
    let indices = builder.input("indices", DType::I32, &[3]);
    let updates = builder.input("updates", DType::F32, &[3, 3]);
    let block = builder.input("block", DType::F32, &[2, 1]);
    let scalars = builder.buffer(BufferKind::Scalars, DType::U32, 2);
    builder.plan.scalars =
        vec![ScalarPort { name: "row".into(), dtype: DType::I32 }, ScalarPort { name: "column".into(), dtype: DType::I32 }];
    builder.kernel("keep", KernelOp::Copy { from: w, to: old });
    builder.kernel(
        "scatter",
        KernelOp::Scatter {
            mode: ScatterMode::Add,
            batch: 1,
            outer: 1,
            n: 4,
            index_count: 3,
            inner: 3,
            dtype: DType::F32,
            from: w,
            indices,
            indices_unsigned: false,
            updates,
            to: w,
        },
    );
    builder.kernel(
        "block",
        KernelOp::DynamicUpdateSlice {
            from_shape: vec![4, 3],
            block_shape: vec![2, 1],
            from: w,
            block,
            starts: vec![(scalars, 0), (scalars, 1)],
            to: w,
        },
    );
    let mut session = Session::new(open());
    let start: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let ty = TensorType::new(DType::F32, [4, 3]);
    session.write_state("w", &ty, &words(&start)).expect("written");
    session.write_state("old", &ty, &words(&[9.0; 12])).expect("written");
    let program = session.load(builder.plan).expect("the plan loads");
    let index_bytes: Vec<u8> = [1i32, 9, 1].iter().flat_map(|index| index.to_le_bytes()).collect();
    let inputs: [(&str, &[u8]); 3] = [
        ("indices", &index_bytes),
        ("updates", &words(&[10.0, 20.0, 30.0, 1.0, 2.0, 3.0, 100.0, 200.0, 300.0])),
        ("block", &words(&[-5.0, -6.0])),
    ];
    // A start of 7 is moved to 2, so that the block fits.
    let ticket = session.submit(program, &inputs, &[("row", 7), ("column", 1)]).expect("the plan runs");
    assert_eq!(session.outputs(ticket).expect("no outputs"), Vec::<Vec<u8>>::new());
    assert_eq!(floats(&session.read_state("old").expect("read")), start);
    let wanted = [0.0, 1.0, 2.0, 113.0, 224.0, 335.0, 6.0, -5.0, 8.0, 10.0, -6.0, 14.0];
    assert_eq!(floats(&session.read_state("w").expect("read")), wanted);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Runs

/// `w <- w + x`, output `y = 2 w` of the new w.
fn accumulator(size: usize) -> Case {
    let mut case = Case::new("accumulator", 8);
    let x = case.given("x", Role::Input, Tensor::f32([size], vec![1.0; size]));
    let w = case.given("w", Role::Param, Tensor::f32([size], vec![0.0; size]));
    let new = case.add(w, x);
    let doubled = case.scaled(new, 2.0);
    case.update("w", new);
    case.output("y", doubled);
    case
}

#[test]
fn many_runs_in_flight_and_outputs_fetched_late_in_any_order() {
    let case = accumulator(1000);
    let mut session = Session::new(open());
    let ty = TensorType::new(DType::F32, [1000]);
    session.write_state("w", &ty, &vec![0; 4000]).expect("written");
    let program = session.load(case.plan(true)).expect("loads");
    let steps: Vec<Vec<u8>> = (1..=20).map(|step| words(&vec![step as f32; 1000])).collect();
    let mut tickets: Vec<_> = steps.iter().map(|x| Some(session.submit(program, &[("x", x)], &[]).expect("submits"))).collect();
    // Sum of 1..=n, doubled; exact in f32.
    for index in [19, 0, 7, 18, 3] {
        let ticket = tickets[index].take().expect("fetched once");
        let outputs = session.outputs(ticket).expect("fetched");
        let wanted = ((index + 1) * (index + 2)) as f32;
        assert!(floats(&outputs[0]).iter().all(|&value| value == wanted), "run {index} gave {}, not {wanted}", floats(&outputs[0])[0]);
    }
    assert!(floats(&session.read_state("w").expect("read")).iter().all(|&value| value == 210.0));
    session.finish().expect("finishes");
    assert!(session.memory_bytes() > 3 * 4000);
}

#[test]
fn outputs_that_nobody_fetches_are_dropped_with_a_reason() {
    let case = accumulator(10);
    let mut session = Session::new(open());
    session.write_state("w", &TensorType::new(DType::F32, [10]), &[0; 40]).expect("written");
    let program = session.load(case.plan(true)).expect("loads");
    let x = words(&[1.0; 10]);
    let first = session.submit(program, &[("x", &x)], &[]).expect("submits");
    for _ in 0..70 {
        session.submit(program, &[("x", &x)], &[]).expect("submits");
    }
    let error = session.outputs(first).expect_err("70 runs later it is gone");
    assert!(error.to_string().contains("are gone"), "{error}");
}

#[test]
fn programs_share_state_and_see_it_replaced() {
    let case = accumulator(8);
    let ty = TensorType::new(DType::F32, [8]);
    let mut session = Session::new(open());
    session.write_state("w", &ty, &words(&[5.0; 8])).expect("written");
    let (first, second) = (session.load(case.plan(true)).expect("loads"), session.load(case.plan(false)).expect("loads"));
    let x = words(&[1.0; 8]);
    session.run(first, &[("x", &x)], &[]).expect("runs");
    assert_eq!(floats(&session.run(second, &[("x", &x)], &[]).expect("runs")[0]), [14.0; 8]);
    session.write_state("w", &ty, &words(&[100.0; 8])).expect("written");
    assert_eq!(floats(&session.run(first, &[("x", &x)], &[]).expect("runs")[0]), [202.0; 8]);
    session.remove_state("w");
    let error = session.run(first, &[("x", &x)], &[]).expect_err("the state is gone");
    assert!(matches!(error, EngineError::UnknownState { .. }), "{error}");
    session.write_state("w", &ty, &words(&[-1.0; 8])).expect("written");
    assert_eq!(floats(&session.run(second, &[("x", &x)], &[]).expect("runs")[0]), [0.0; 8]);
}

/// A tensor larger than the device binds is an error that names it, not a crash.
#[test]
fn a_tensor_beyond_the_limits_is_named() {
    let mut case = Case::new("too large", 9);
    let ty = TensorType::new(DType::F32, [1 << 20, 1 << 10]);
    let x = case.leaf(Op::Parameter(solstice_ir::Parameter { name: "everything".into(), role: Role::Input, init: None }), ty);
    let y = case.reduce(ReduceKind::Sum, x, &[0, 1]);
    case.output("y", y);
    let mut session = Session::new(open());
    match session.load(case.plan(true)) {
        Err(error) => assert!(error.to_string().contains("`everything` (f32[1048576,1024]) needs 4294967296 bytes"), "{error}"),
        Ok(_) => panic!("no adapter binds 4 GiB"),
    }
    // And the session goes on.
    let case = accumulator(4);
    session.write_state("w", &TensorType::new(DType::F32, [4]), &[0; 16]).expect("written");
    let program = session.load(case.plan(true)).expect("loads");
    session.run(program, &[("x", &words(&[1.0; 4]))], &[]).expect("runs");
}

/// Steps of a small network: state in place, random bits, runtime scalars; the oracle takes the same steps.
#[test]
fn a_training_loop_follows_the_oracle() {
    let mut case = Case::new("training", 10);
    let (x, w, m) = (case.input("x", &[17, 12]), case.state("w", &[12, 5]), case.state("m", &[12, 5]));
    let rate = case.scalar("rate", DType::F32, 0.05);
    let h = case.matmul(x, w);
    let y = case.unary(UnaryOp::Tanh, h);
    let loss = case.mul(y, y);
    let loss = case.reduce(ReduceKind::Sum, loss, &[0, 1]);
    let gradient = case.op(Op::Grad, &[loss, w]);
    let kept = case.scaled(m, 0.9);
    let new_m = case.add(kept, gradient);
    let rate = case.spread(rate, w);
    let step = case.mul(rate, new_m);
    let new_w = case.sub(w, step);
    case.update("w", new_w);
    case.update("m", new_m);
    case.output("loss", loss);
    let found = run(open(), &case.plan(true), &case.values, 5);
    let mut values = case.values.clone();
    let mut wanted = Default::default();
    for _ in 0..5 {
        let evaluation = solstice_engine::reference::evaluate(&case.graph, &values).expect("the oracle runs");
        values.extend(evaluation.updates.clone());
        wanted = evaluation.outputs.into_iter().chain(evaluation.updates).collect();
    }
    // Five steps feed rounding errors back, each of some units in the last place.
    assert_close("training", &found, &wanted, 2e-5);
}
