//! The f64 oracle against cases worked by hand: the numbers on the right are not computed by any code of ours.

use solstice_engine::reference::{ReferenceError, Tensor, evaluate};
use solstice_ir::{
    BinaryOp, Compare, ConvolutionGeometry, DType, DotDims, Graph, Literal, NodeId, Op, Output, Parameter, ReduceKind, Role, ScatterMode,
    TensorType, UnaryOp, Update, Window,
};
use std::collections::BTreeMap;

fn push(graph: &mut Graph, op: Op, inputs: &[NodeId]) -> NodeId {
    graph.push(op, inputs, &"".into(), &"".into()).unwrap()
}

fn leaf(graph: &mut Graph, op: Op, ty: TensorType, inputs: &[NodeId]) -> NodeId {
    graph.push_typed(op, inputs.to_vec(), ty, "".into(), "".into())
}

fn parameter(graph: &mut Graph, name: &str, role: Role, ty: TensorType) -> NodeId {
    leaf(graph, Op::Parameter(Parameter { name: name.into(), role, init: None }), ty, &[])
}

/// The result of one op on values.
fn run(op: Op, inputs: &[Tensor]) -> Tensor {
    let mut graph = Graph::new("one op");
    let named: BTreeMap<String, Tensor> = inputs.iter().enumerate().map(|(index, tensor)| (format!("x{index}"), tensor.clone())).collect();
    let ids: Vec<NodeId> = named.iter().map(|(name, tensor)| parameter(&mut graph, name, Role::Input, tensor.ty.clone())).collect();
    let result = push(&mut graph, op, &ids);
    graph.outputs.push(Output { name: "y".into(), node: result });
    graph.verify().unwrap();
    evaluate(&graph, &named).unwrap().outputs.remove("y").unwrap()
}

fn unary(function: UnaryOp, values: &[f64]) -> Vec<f64> {
    run(Op::Unary { function }, &[Tensor::f32([values.len()], values)]).to_f64()
}

fn binary(function: BinaryOp, left: Tensor, right: Tensor) -> Tensor {
    run(Op::Binary { function }, &[left, right])
}

fn f32s(values: &[f64]) -> Tensor {
    Tensor::f32([values.len()], values)
}

fn i32s(values: &[i32]) -> Tensor {
    Tensor::i32([values.len()], values)
}

fn u32s(values: &[u32]) -> Tensor {
    Tensor::u32([values.len()], values)
}

fn bools(values: &[bool]) -> Tensor {
    Tensor::bool([values.len()], values)
}

fn near(left: &[f64], right: &[f64]) {
    let equal =
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| (left - right).abs() <= 1e-15 * right.abs().max(1.0));
    assert!(equal, "{left:?} is not {right:?}");
}

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

#[test]
fn unary_functions() {
    assert_eq!(unary(UnaryOp::Negate, &[1.5, -2.0]), [-1.5, 2.0]);
    assert_eq!(unary(UnaryOp::Abs, &[1.5, -2.0]), [1.5, 2.0]);
    assert_eq!(unary(UnaryOp::Sign, &[1.5, -2.0, 0.0, NAN]), [1.0, -1.0, 0.0, 0.0]);
    assert_eq!(unary(UnaryOp::Floor, &[1.5, -1.5, 2.0]), [1.0, -2.0, 2.0]);
    assert_eq!(unary(UnaryOp::Sqrt, &[9.0, 0.25]), [3.0, 0.5]);
    assert_eq!(unary(UnaryOp::Rsqrt, &[4.0, 0.25]), [0.5, 2.0]);
    // Digits from Abramowitz and Stegun, tables 4.4, 4.2, 4.6, 4.15 and 7.1.
    near(&unary(UnaryOp::Exponential, &[1.0, 0.0]), &[std::f64::consts::E, 1.0]);
    near(&unary(UnaryOp::Log, &[2.0, 1.0]), &[std::f64::consts::LN_2, 0.0]);
    near(&unary(UnaryOp::Tanh, &[1.0, 0.0]), &[0.761_594_155_955_764_9, 0.0]);
    near(&unary(UnaryOp::Sine, &[1.0]), &[0.841_470_984_807_896_5]);
    near(&unary(UnaryOp::Cosine, &[1.0]), &[0.540_302_305_868_139_8]);
    near(&unary(UnaryOp::Erf, &[0.5, 1.0, -2.0, 0.0]), &[0.520_499_877_813_046_5, 0.842_700_792_949_714_9, -0.995_322_265_018_952_7, 0.0]);
    // 1 / (1 + e^-ln 3) = 3/4; far out it saturates without a NaN.
    near(&unary(UnaryOp::Logistic, &[3f64.ln(), -(3f64.ln()), 1000.0, -1000.0]), &[0.75, 0.25, 1.0, 0.0]);
    let not = Op::Unary { function: UnaryOp::Not };
    assert_eq!(run(not.clone(), &[bools(&[true, false])]), bools(&[false, true]));
    assert_eq!(run(not.clone(), &[i32s(&[0, 5])]), i32s(&[-1, -6]));
    assert_eq!(run(not, &[u32s(&[0, 1])]), u32s(&[0xffff_ffff, 0xffff_fffe]));
    // i32::MIN has no positive counterpart and stays.
    assert_eq!(run(Op::Unary { function: UnaryOp::Abs }, &[i32s(&[-3, i32::MIN])]), i32s(&[3, i32::MIN]));
    assert_eq!(run(Op::Unary { function: UnaryOp::Negate }, &[i32s(&[-3, i32::MIN])]), i32s(&[3, i32::MIN]));
    assert_eq!(run(Op::Unary { function: UnaryOp::Sign }, &[i32s(&[-3, 0, 9])]), i32s(&[-1, 0, 1]));
}

#[test]
fn binary_functions_of_floats() {
    let (x, y) = (f32s(&[7.5, -7.5]), f32s(&[2.0, 2.0]));
    let of = |function: BinaryOp| binary(function, x.clone(), y.clone()).to_f64();
    assert_eq!(of(BinaryOp::Add), [9.5, -5.5]);
    assert_eq!(of(BinaryOp::Subtract), [5.5, -9.5]);
    assert_eq!(of(BinaryOp::Multiply), [15.0, -15.0]);
    assert_eq!(of(BinaryOp::Divide), [3.75, -3.75]);
    assert_eq!(of(BinaryOp::Maximum), [7.5, 2.0]);
    assert_eq!(of(BinaryOp::Minimum), [2.0, -7.5]);
    assert_eq!(of(BinaryOp::Power), [56.25, 56.25]);
    // The sign of the dividend.
    assert_eq!(of(BinaryOp::Remainder), [1.5, -1.5]);
    assert!(binary(BinaryOp::Power, f32s(&[-2.0]), f32s(&[0.5])).to_f64()[0].is_nan());
    assert_eq!(binary(BinaryOp::Divide, f32s(&[1.0, -1.0]), f32s(&[0.0, 0.0])).to_f64(), [INF, -INF]);
    for function in [BinaryOp::Maximum, BinaryOp::Minimum] {
        assert!(binary(function, f32s(&[NAN, 1.0]), f32s(&[1.0, NAN])).to_f64().iter().all(|value| value.is_nan()));
    }
}

#[test]
fn integers_wrap_and_never_trap() {
    let of = |function: BinaryOp, x: i32, y: i32| match binary(function, i32s(&[x]), i32s(&[y])).to_f64()[..] {
        [value] => value as i32,
        _ => panic!("one element in, one element out"),
    };
    assert_eq!(of(BinaryOp::Add, i32::MAX, 1), i32::MIN);
    assert_eq!(of(BinaryOp::Subtract, i32::MIN, 1), i32::MAX);
    assert_eq!(of(BinaryOp::Multiply, 65536, 65537), 65536);
    assert_eq!(of(BinaryOp::Divide, -7, 2), -3);
    assert_eq!(of(BinaryOp::Divide, -7, 0), 0);
    assert_eq!(of(BinaryOp::Divide, i32::MIN, -1), i32::MIN);
    assert_eq!(of(BinaryOp::Remainder, -7, 2), -1);
    assert_eq!(of(BinaryOp::Remainder, -7, 0), 0);
    assert_eq!(of(BinaryOp::Remainder, i32::MIN, -1), 0);
    assert_eq!(of(BinaryOp::Maximum, -7, 2), 2);
    assert_eq!(of(BinaryOp::Minimum, -7, 2), -7);
    assert_eq!(of(BinaryOp::And, 0b1100, 0b1010), 0b1000);
    assert_eq!(of(BinaryOp::Or, 0b1100, 0b1010), 0b1110);
    assert_eq!(of(BinaryOp::Xor, 0b1100, 0b1010), 0b0110);
    assert_eq!(of(BinaryOp::ShiftLeft, 1, 31), i32::MIN);
    assert_eq!(of(BinaryOp::ShiftLeft, 1, 32), 0);
    // Logical: zeros come in at the top.
    assert_eq!(of(BinaryOp::ShiftRight, -1, 28), 15);
    assert_eq!(of(BinaryOp::ShiftRight, -1, 32), 0);
    assert_eq!(of(BinaryOp::ShiftRight, -1, -1), 0);
    let of = |function: BinaryOp, x: u32, y: u32| binary(function, u32s(&[x]), u32s(&[y]));
    assert_eq!(of(BinaryOp::Subtract, 0, 1), u32s(&[u32::MAX]));
    assert_eq!(of(BinaryOp::Maximum, u32::MAX, 1), u32s(&[u32::MAX]));
    assert_eq!(of(BinaryOp::Divide, u32::MAX, 2), u32s(&[0x7fff_ffff]));
    assert_eq!(of(BinaryOp::Divide, 5, 0), u32s(&[0]));
    assert_eq!(of(BinaryOp::Remainder, 5, 0), u32s(&[0]));
    assert_eq!(of(BinaryOp::ShiftRight, u32::MAX, 40), u32s(&[0]));
    let (p, q) = ([true, true, false, false], [true, false, true, false]);
    assert_eq!(binary(BinaryOp::And, bools(&p), bools(&q)), bools(&[true, false, false, false]));
    assert_eq!(binary(BinaryOp::Or, bools(&p), bools(&q)), bools(&[true, true, true, false]));
    assert_eq!(binary(BinaryOp::Xor, bools(&p), bools(&q)), bools(&[false, true, true, false]));
}

#[test]
fn comparisons_with_a_nan_are_false_but_for_not_equal() {
    let (x, y) = (f32s(&[1.0, 2.0, 2.0, NAN, NAN]), f32s(&[2.0, 1.0, 2.0, 1.0, NAN]));
    let of = |direction: Compare| run(Op::Compare { direction }, &[x.clone(), y.clone()]);
    assert_eq!(of(Compare::Equal), bools(&[false, false, true, false, false]));
    assert_eq!(of(Compare::NotEqual), bools(&[true, true, false, true, true]));
    assert_eq!(of(Compare::Less), bools(&[true, false, false, false, false]));
    assert_eq!(of(Compare::LessEqual), bools(&[true, false, true, false, false]));
    assert_eq!(of(Compare::Greater), bools(&[false, true, false, false, false]));
    assert_eq!(of(Compare::GreaterEqual), bools(&[false, true, true, false, false]));
    // Unsigned stays unsigned.
    assert_eq!(run(Op::Compare { direction: Compare::Greater }, &[u32s(&[u32::MAX]), u32s(&[1])]), bools(&[true]));
}

#[test]
fn conversions_truncate_saturate_and_keep_bits() {
    let to = |to: DType, x: Tensor| run(Op::Convert { to }, &[x]);
    assert_eq!(to(DType::I32, f32s(&[1.9, -1.9, 3e9, -3e9, NAN])), i32s(&[1, -1, i32::MAX, i32::MIN, 0]));
    assert_eq!(to(DType::U32, f32s(&[1.9, -1.9, 5e9, NAN])), u32s(&[1, 0, u32::MAX, 0]));
    assert_eq!(to(DType::Bool, f32s(&[0.0, -0.0, 0.5, NAN])), bools(&[false, false, true, true]));
    assert_eq!(to(DType::F32, i32s(&[-7])), f32s(&[-7.0]));
    assert_eq!(to(DType::F32, bools(&[true, false])), f32s(&[1.0, 0.0]));
    assert_eq!(to(DType::F32, Tensor::u8([2], [0, 255])), f32s(&[0.0, 255.0]));
    assert_eq!(to(DType::U32, i32s(&[-1])), u32s(&[u32::MAX]));
    assert_eq!(to(DType::I32, u32s(&[u32::MAX])), i32s(&[-1]));
    assert_eq!(to(DType::Bool, i32s(&[0, -2])), bools(&[false, true]));
    let cast = |to: DType, x: Tensor| run(Op::BitcastConvert { to }, &[x]);
    // 1.0f32 is 0x3f800000.
    assert_eq!(cast(DType::U32, f32s(&[1.0, -0.0])), u32s(&[0x3f80_0000, 0x8000_0000]));
    assert_eq!(cast(DType::F32, u32s(&[0x4049_0fdb])), f32s(&[f64::from(std::f32::consts::PI)]));
    assert_eq!(cast(DType::I32, u32s(&[0xffff_fffe])), i32s(&[-2]));
}

/// `[0, 1, .., n - 1]` in a shape.
fn counted(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::f32(shape, (0..count).map(|value| value as f64).collect::<Vec<_>>())
}

#[test]
fn movement() {
    assert_eq!(run(Op::Reshape { shape: vec![3, 2] }, &[counted(&[2, 3])]), counted(&[3, 2]));
    assert_eq!(run(Op::Transpose { perm: vec![1, 0] }, &[counted(&[2, 3])]), Tensor::f32([3, 2], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    // Result axis 0 is input axis 2: [4, 2, 3] from [2, 3, 4]; element [1, 0, 2] is input [0, 2, 1] = 9.
    let moved = run(Op::Transpose { perm: vec![2, 0, 1] }, &[counted(&[2, 3, 4])]);
    assert_eq!((moved.ty.shape.clone(), moved.to_f64()[6 + 2]), (vec![4, 2, 3], 9.0));
    let broadcast = |shape: &[usize], dims: &[usize]| Op::BroadcastInDim { shape: shape.to_vec(), dims: dims.to_vec() };
    assert_eq!(run(broadcast(&[2, 2], &[1]), &[counted(&[2])]).to_f64(), [0.0, 1.0, 0.0, 1.0]);
    assert_eq!(run(broadcast(&[2, 2], &[0]), &[counted(&[2])]).to_f64(), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(run(broadcast(&[2, 2], &[0, 1]), &[counted(&[2, 1])]).to_f64(), [0.0, 0.0, 1.0, 1.0]);
    let slice = Op::Slice { starts: vec![1, 0], limits: vec![3, 4], strides: vec![1, 3] };
    // Rows 1 and 2, columns 0 and 3 of [3, 4].
    assert_eq!(run(slice, &[counted(&[3, 4])]).to_f64(), [4.0, 7.0, 8.0, 11.0]);
    let zero = Tensor::f32([], [9.0]);
    let pad = |low: i64, high: i64, interior: usize| Op::Pad { low: vec![low], high: vec![high], interior: vec![interior] };
    assert_eq!(run(pad(1, 2, 0), &[counted(&[2]), zero.clone()]).to_f64(), [9.0, 0.0, 1.0, 9.0, 9.0]);
    assert_eq!(run(pad(0, 0, 2), &[counted(&[3]), zero.clone()]).to_f64(), [0.0, 9.0, 9.0, 1.0, 9.0, 9.0, 2.0]);
    assert_eq!(run(pad(-1, 1, 0), &[counted(&[3]), zero.clone()]).to_f64(), [1.0, 2.0, 9.0]);
    // 0 9 1 9 2, two off the front and one off the back.
    assert_eq!(run(pad(-2, -1, 1), &[counted(&[3]), zero.clone()]).to_f64(), [1.0, 9.0]);
    // More is cropped in front than there is, and put back behind.
    assert_eq!(run(pad(-3, 3, 0), &[counted(&[2]), zero]).to_f64(), [9.0, 9.0]);
    let joined = run(Op::Concatenate { axis: 1 }, &[counted(&[2, 1]), Tensor::f32([2, 2], [5.0, 6.0, 7.0, 8.0])]);
    assert_eq!(joined.to_f64(), [0.0, 5.0, 6.0, 1.0, 7.0, 8.0]);
    assert_eq!(run(Op::Reverse { axes: vec![1] }, &[counted(&[2, 3])]).to_f64(), [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    let chosen = run(Op::Select, &[bools(&[true, false]), i32s(&[1, 2]), i32s(&[3, 4])]);
    assert_eq!(chosen, i32s(&[1, 4]));
    assert_eq!(run(Op::StopGradient, &[counted(&[2])]), counted(&[2]));
    assert_eq!(run(Op::AllReduce { kind: ReduceKind::Sum }, &[counted(&[2])]), counted(&[2]));
}

#[test]
fn indexing() {
    let rows = Op::Gather { axis: 0, batch_dims: 0 };
    // Rows 2, 0 and, clamped, 0 and 2 of [[0, 1], [2, 3], [4, 5]].
    let gathered = run(rows, &[counted(&[3, 2]), i32s(&[2, 0, -5, 3])]);
    assert_eq!(gathered, Tensor::f32([4, 2], [4.0, 5.0, 0.0, 1.0, 0.0, 1.0, 4.0, 5.0]));
    // One index a row: x[b, indices[b]].
    let labels = Op::Gather { axis: 1, batch_dims: 1 };
    assert_eq!(run(labels, &[counted(&[2, 3]), i32s(&[2, 1])]), f32s(&[2.0, 4.0]));
    // Indices [2, 1] along axis 1 of [2, 3]: result [2, 2, 1].
    let columns = Op::Gather { axis: 1, batch_dims: 0 };
    let indices = Tensor::u32([2, 1], [2, 0]);
    assert_eq!(run(columns, &[counted(&[2, 3]), indices]), Tensor::f32([2, 2, 1], [2.0, 0.0, 5.0, 3.0]));
    let bytes = run(Op::Gather { axis: 0, batch_dims: 0 }, &[Tensor::u8([3], [7, 8, 9]), i32s(&[1])]);
    assert_eq!(bytes, Tensor::u8([1], [8]));

    let scatter = |mode| Op::Scatter { axis: 0, batch_dims: 0, mode };
    let inputs = [f32s(&[10.0, 20.0, 30.0]), i32s(&[2, 0, 2, 9]), f32s(&[1.0, 2.0, 3.0, 4.0])];
    // Index 9 is clamped to 2.
    assert_eq!(run(scatter(ScatterMode::Add), &inputs), f32s(&[12.0, 20.0, 38.0]));
    assert_eq!(run(scatter(ScatterMode::Set), &inputs), f32s(&[2.0, 20.0, 4.0]));
    // In batch: row 0 gets 1 at column 1, row 1 gets 2 at column 0.
    let batch = Op::Scatter { axis: 1, batch_dims: 1, mode: ScatterMode::Add };
    let inputs = [Tensor::i32([2, 2], [0; 4]), Tensor::i32([2, 1], [1, 0]), Tensor::i32([2, 1], [1, 2])];
    assert_eq!(run(batch, &inputs), Tensor::i32([2, 2], [0, 1, 2, 0]));

    let start = |value: i32| Tensor::i32([], [value]);
    // At (1, 2), clamped to (1, 1) so that a [1, 2] block fits in [2, 3].
    let block = run(Op::DynamicSlice { sizes: vec![1, 2] }, &[counted(&[2, 3]), start(1), start(2)]);
    assert_eq!(block, Tensor::f32([1, 2], [4.0, 5.0]));
    let updated = run(Op::DynamicUpdateSlice, &[counted(&[2, 3]), Tensor::f32([1, 2], [8.0, 9.0]), start(-1), start(2)]);
    assert_eq!(updated, Tensor::f32([2, 3], [0.0, 8.0, 9.0, 3.0, 4.0, 5.0]));
}

#[test]
fn reductions() {
    let x = Tensor::f32([2, 3], [1.0, -2.0, 3.0, 4.0, 5.0, -6.0]);
    let reduce = |kind, axes: &[usize], x: &Tensor| run(Op::Reduce { kind, axes: axes.to_vec() }, std::slice::from_ref(x));
    assert_eq!(reduce(ReduceKind::Sum, &[1], &x), f32s(&[2.0, 3.0]));
    assert_eq!(reduce(ReduceKind::Sum, &[0], &x), f32s(&[5.0, 3.0, -3.0]));
    assert_eq!(reduce(ReduceKind::Sum, &[0, 1], &x), Tensor::f32([], [5.0]));
    assert_eq!(reduce(ReduceKind::Max, &[1], &x), f32s(&[3.0, 5.0]));
    assert_eq!(reduce(ReduceKind::Min, &[0], &x), f32s(&[1.0, -2.0, -6.0]));
    assert_eq!(reduce(ReduceKind::Prod, &[1], &x), f32s(&[-6.0, -120.0]));
    assert!(reduce(ReduceKind::Max, &[0], &f32s(&[1.0, NAN, 2.0])).to_f64()[0].is_nan());
    // An empty axis gives the identity.
    let empty = Tensor::f32([2, 0], []);
    assert_eq!(reduce(ReduceKind::Sum, &[1], &empty), f32s(&[0.0; 2]));
    assert_eq!(reduce(ReduceKind::Prod, &[1], &empty), f32s(&[1.0; 2]));
    assert_eq!(reduce(ReduceKind::Max, &[1], &empty), f32s(&[-INF; 2]));
    assert_eq!(reduce(ReduceKind::Min, &[1], &empty), f32s(&[INF; 2]));
    assert_eq!(reduce(ReduceKind::Max, &[0], &i32s(&[])), Tensor::i32([], [i32::MIN]));
    assert_eq!(reduce(ReduceKind::Min, &[0], &u32s(&[])), Tensor::u32([], [u32::MAX]));
    assert_eq!(reduce(ReduceKind::Sum, &[0], &i32s(&[i32::MAX, 2])), Tensor::i32([], [i32::MIN + 1]));
    let arg = |kind, axis, x: Tensor| run(Op::ReduceArg { kind, axis }, &[x]);
    // The first of equals.
    assert_eq!(arg(ReduceKind::Max, 1, Tensor::f32([2, 3], [1.0, 7.0, 7.0, 0.0, 0.0, -1.0])), i32s(&[1, 0]));
    assert_eq!(arg(ReduceKind::Min, 0, Tensor::f32([3, 2], [1.0, 7.0, 1.0, 2.0, 3.0, 2.0])), i32s(&[0, 1]));
    assert_eq!(arg(ReduceKind::Max, 0, f32s(&[1.0, NAN, 9.0, NAN])), Tensor::i32([], [1]));
}

#[test]
fn windows() {
    let window = Window { size: vec![2], strides: vec![2], low: vec![1], high: vec![0] };
    let x = f32s(&[-3.0, 5.0, 4.0, -1.0, -2.0]);
    // Windows (pad, -3), (5, 4), (-1, -2).
    let of = |kind| run(Op::ReduceWindow { kind, window: window.clone() }, std::slice::from_ref(&x));
    assert_eq!(of(ReduceKind::Sum), f32s(&[-3.0, 9.0, -3.0]));
    assert_eq!(of(ReduceKind::Max), f32s(&[-3.0, 5.0, -1.0]));
    assert_eq!(of(ReduceKind::Min), f32s(&[-3.0, 4.0, -2.0]));
    let gradient = f32s(&[1.0, 2.0, 4.0]);
    let scattered = run(Op::SelectAndScatter { kind: ReduceKind::Max, window: window.clone() }, &[x, gradient.clone()]);
    assert_eq!(scattered, f32s(&[1.0, 2.0, 0.0, 4.0, 0.0]));
    // Overlapping windows (1, 3, 2), (3, 2, 3): both select the 3 at index 1, the first of the two.
    let dense = Window { size: vec![3], strides: vec![1], low: vec![0], high: vec![0] };
    let scattered = run(Op::SelectAndScatter { kind: ReduceKind::Max, window: dense }, &[f32s(&[1.0, 3.0, 2.0, 3.0]), f32s(&[1.0, 2.0])]);
    assert_eq!(scattered, f32s(&[0.0, 3.0, 0.0, 0.0]));
}

#[test]
fn dot_products() {
    let dims = |lhs_contract: &[usize], rhs_contract: &[usize]| DotDims {
        lhs_contract: lhs_contract.to_vec(),
        rhs_contract: rhs_contract.to_vec(),
        ..DotDims::default()
    };
    let x = Tensor::f32([2, 2], [1.0, 2.0, 3.0, 4.0]);
    let y = Tensor::f32([2, 2], [5.0, 6.0, 7.0, 8.0]);
    let of = |dims| run(Op::DotGeneral { dims }, &[x.clone(), y.clone()]).to_f64();
    assert_eq!(of(dims(&[1], &[0])), [19.0, 22.0, 43.0, 50.0]);
    // x y^T and x^T y.
    assert_eq!(of(dims(&[1], &[1])), [17.0, 23.0, 39.0, 53.0]);
    assert_eq!(of(dims(&[0], &[0])), [26.0, 30.0, 38.0, 44.0]);
    // All products summed: 5 + 12 + 21 + 32, or crossed: x_ij y_ji = 5 + 14 + 18 + 32.
    assert_eq!(of(dims(&[0, 1], &[0, 1])), [70.0]);
    assert_eq!(of(dims(&[0, 1], &[1, 0])), [69.0]);
    // Batch over x's columns and y's rows: row i of y times column i of x, [batch, left free, right free].
    let batched = DotDims { lhs_batch: vec![1], rhs_batch: vec![0], ..DotDims::default() };
    assert_eq!(of(batched), [5.0, 6.0, 15.0, 18.0, 14.0, 16.0, 28.0, 32.0]);
}

#[test]
fn convolutions() {
    let geometry = |strides, low, high, dilation, groups| ConvolutionGeometry {
        strides: vec![strides],
        low: vec![low],
        high: vec![high],
        dilation: vec![dilation],
        groups,
    };
    let x = Tensor::f32([1, 1, 4], [1.0, 2.0, 3.0, 4.0]);
    let weight = Tensor::f32([1, 1, 2], [10.0, 1.0]);
    let of = |geometry| run(Op::Convolution { geometry }, &[x.clone(), weight.clone()]).to_f64();
    // Not mirrored: 10 x_i + x_(i+1).
    assert_eq!(of(geometry(1, 0, 0, 1, 1)), [12.0, 23.0, 34.0]);
    assert_eq!(of(geometry(2, 1, 0, 1, 1)), [1.0, 23.0]);
    assert_eq!(of(geometry(1, 0, 1, 2, 1)), [13.0, 24.0, 30.0]);
    // Two groups, one channel each, the second with other weights.
    let grouped = run(
        Op::Convolution { geometry: geometry(1, 0, 0, 1, 2) },
        &[Tensor::f32([1, 2, 2], [1.0, 2.0, 3.0, 4.0]), Tensor::f32([2, 1, 1], [10.0, 100.0])],
    );
    assert_eq!(grouped, Tensor::f32([1, 2, 2], [10.0, 20.0, 300.0, 400.0]));
    // Output o touched inputs 2o and 2o + 1 with weights 10 and 1: the gradient goes the same ways back.
    let gradient = Tensor::f32([1, 1, 2], [1.0, 2.0]);
    let strided = geometry(2, 0, 0, 1, 1);
    let back = run(Op::ConvolutionInputGrad { geometry: strided.clone(), input_spatial: vec![5] }, &[gradient.clone(), weight.clone()]);
    assert_eq!(back, Tensor::f32([1, 1, 5], [10.0, 1.0, 20.0, 2.0, 0.0]));
    // 1 * (x_0, x_1) + 2 * (x_2, x_3)
    let weights = run(Op::ConvolutionWeightGrad { geometry: strided, kernel_spatial: vec![2] }, &[x.clone(), gradient]);
    assert_eq!(weights, Tensor::f32([1, 1, 2], [7.0, 10.0]));
}

#[test]
fn leaves() {
    let mut graph = Graph::new("leaves");
    let iota = leaf(&mut graph, Op::Iota { axis: 1 }, TensorType::new(DType::I32, [2, 3]), &[]);
    let seed = parameter(&mut graph, "seed", Role::Scalar, TensorType::new(DType::U32, []));
    let step = parameter(&mut graph, "step", Role::Scalar, TensorType::new(DType::U32, []));
    let bits = leaf(&mut graph, Op::RngBits { stream: 0x0370_7344 }, TensorType::new(DType::U32, [2]), &[seed, step]);
    let value = Literal { ty: TensorType::new(DType::F32, [2]), values: vec![0.1, f64::NEG_INFINITY] };
    let constant = leaf(&mut graph, Op::Constant { value: value.clone() }, value.ty, &[]);
    for (name, node) in [("iota", iota), ("bits", bits), ("constant", constant)] {
        graph.outputs.push(Output { name: name.into(), node });
    }
    graph.verify().unwrap();
    // Element 0 at step 0 with key 0: the first word of Random123's known answer for zeros.
    let run = |seed: u32, step: u32| {
        let inputs = BTreeMap::from([("seed".into(), Tensor::u32([], [seed])), ("step".into(), Tensor::u32([], [step]))]);
        evaluate(&graph, &inputs).unwrap().outputs
    };
    let outputs = run(0x1319_8a2e, 0x243f_6a88);
    assert_eq!(outputs["iota"], Tensor::i32([2, 3], [0, 1, 2, 0, 1, 2]));
    assert_eq!(outputs["constant"], f32s(&[0.1, -INF]));
    // Key (seed, stream), counter (step, element): the words of threefry2x32 itself, whose known answers `random.rs` tests.
    let word = |element| solstice_engine::random::threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, element])[0];
    assert_eq!(outputs["bits"], u32s(&[word(0), word(1)]));
    assert_ne!(outputs["bits"], run(0x1319_8a2e, 0x243f_6a89)["bits"]);
}

#[test]
fn state_is_read_before_and_written_after() {
    let mut graph = Graph::new("step");
    let ty = TensorType::new(DType::F32, [2]);
    let weight = parameter(&mut graph, "w", Role::Param, ty.clone());
    let input = parameter(&mut graph, "x", Role::Input, ty);
    let sum = push(&mut graph, Op::Binary { function: BinaryOp::Add }, &[weight, input]);
    graph.outputs.push(Output { name: "old".into(), node: weight });
    graph.updates.push(Update { state: "w".into(), node: sum });
    let inputs = BTreeMap::from([("w".to_string(), f32s(&[1.0, 2.0])), ("x".to_string(), f32s(&[10.0, 20.0]))]);
    let evaluation = evaluate(&graph, &inputs).unwrap();
    assert_eq!(evaluation.outputs["old"], f32s(&[1.0, 2.0]));
    assert_eq!(evaluation.updates["w"], f32s(&[11.0, 22.0]));
}

#[test]
fn a_missing_or_wrong_parameter_is_named() {
    let mut graph = Graph::new("missing");
    let x = parameter(&mut graph, "x", Role::Input, TensorType::new(DType::F32, [2]));
    graph.outputs.push(Output { name: "y".into(), node: x });
    let error = evaluate(&graph, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.to_string(), "parameter `x` (f32[2]) was not given");
    let error = evaluate(&graph, &BTreeMap::from([("x".to_string(), i32s(&[1, 2]))])).unwrap_err();
    assert!(matches!(error, ReferenceError::Mismatch { .. }), "{error}");
}
