//! Every rule of `grad.rs` against central finite differences of the f64 oracle, each op in the middle of a graph:
//! `loss = 2.5 mean(op(x) * c) + sum(0.3 x^2)` with random `c`, so that a rule that drops the upstream gradient, mixes up its elements or overwrites
//! another contribution is seen. The table of cases must hold every op that carries gradients: `coverage!` below is matched exhaustively.

use serde_json::json;
use solstice_engine::grad::{GradError, expand_gradients};
use solstice_engine::random::{threefry2x32, unit_f64};
use solstice_engine::reference::{Tensor, evaluate};
use solstice_engine::simplify::{remove_dead_code, simplify};
use solstice_ir::{
    BinaryOp, Compare, ConvolutionGeometry, DType, DotDims, Graph, Literal, NodeId, Op, Output, Parameter, ReduceKind, Role, ScatterMode,
    TensorType, UnaryOp, Window, element_count,
};
use std::collections::{BTreeMap, BTreeSet};

/// One list: which ops carry gradients, by the key that a case has to produce; `""` for those that carry none.
macro_rules! coverage {
    ($($pattern:pat => $key:literal,)*) => {
        fn coverage_key(op: &Op) -> &'static str {
            match op { $($pattern => $key,)* }
        }
        const COVERAGE_KEYS: &[&str] = &[$($key),*];
    };
}

coverage! {
    Op::Unary { function: UnaryOp::Negate } => "negate",
    Op::Unary { function: UnaryOp::Abs } => "abs",
    Op::Unary { function: UnaryOp::Sign } => "sign",
    Op::Unary { function: UnaryOp::Floor } => "floor",
    Op::Unary { function: UnaryOp::Exponential } => "exponential",
    Op::Unary { function: UnaryOp::Log } => "log",
    Op::Unary { function: UnaryOp::Sqrt } => "sqrt",
    Op::Unary { function: UnaryOp::Rsqrt } => "rsqrt",
    Op::Unary { function: UnaryOp::Tanh } => "tanh",
    Op::Unary { function: UnaryOp::Logistic } => "logistic",
    Op::Unary { function: UnaryOp::Sine } => "sine",
    Op::Unary { function: UnaryOp::Cosine } => "cosine",
    Op::Unary { function: UnaryOp::Erf } => "erf",
    Op::Binary { function: BinaryOp::Add } => "add",
    Op::Binary { function: BinaryOp::Subtract } => "subtract",
    Op::Binary { function: BinaryOp::Multiply } => "multiply",
    Op::Binary { function: BinaryOp::Divide } => "divide",
    Op::Binary { function: BinaryOp::Maximum } => "maximum",
    Op::Binary { function: BinaryOp::Minimum } => "minimum",
    Op::Binary { function: BinaryOp::Power } => "power",
    Op::Binary { function: BinaryOp::Remainder } => "remainder",
    Op::Convert { .. } => "convert",
    Op::Select => "select",
    Op::Reshape { .. } => "reshape",
    Op::Transpose { .. } => "transpose",
    Op::BroadcastInDim { .. } => "broadcast_in_dim",
    Op::Slice { .. } => "slice",
    Op::Pad { .. } => "pad",
    Op::Concatenate { .. } => "concatenate",
    Op::Reverse { .. } => "reverse",
    Op::Gather { .. } => "gather",
    Op::Scatter { mode: ScatterMode::Add, .. } => "scatter_add",
    Op::Scatter { mode: ScatterMode::Set, .. } => "scatter_set",
    Op::DynamicSlice { .. } => "dynamic_slice",
    Op::DynamicUpdateSlice => "dynamic_update_slice",
    Op::Reduce { kind: ReduceKind::Sum, .. } => "reduce_sum",
    Op::Reduce { kind: ReduceKind::Max, .. } => "reduce_max",
    Op::Reduce { kind: ReduceKind::Min, .. } => "reduce_min",
    Op::Reduce { kind: ReduceKind::Prod, .. } => "reduce_prod",
    Op::ReduceWindow { kind: ReduceKind::Sum, .. } => "reduce_window_sum",
    Op::ReduceWindow { kind: ReduceKind::Max, .. } => "reduce_window_max",
    Op::ReduceWindow { kind: ReduceKind::Min, .. } => "reduce_window_min",
    Op::SelectAndScatter { .. } => "select_and_scatter",
    Op::DotGeneral { .. } => "dot_general",
    Op::Convolution { .. } => "convolution",
    Op::ConvolutionInputGrad { .. } => "convolution_input_grad",
    Op::ConvolutionWeightGrad { .. } => "convolution_weight_grad",
    Op::Composite { .. } => "composite",
    Op::AllReduce { kind: ReduceKind::Sum } => "all_reduce_sum",
    // Leaves, and results that are no floats.
    Op::Parameter(_) | Op::Constant { .. } | Op::Iota { .. } | Op::RngBits { .. } => "",
    Op::Compare { .. } | Op::ReduceArg { .. } => "",
    Op::Unary { function: UnaryOp::Not } => "",
    Op::Binary { function: BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight } => "",
    // The oracle rounds to f32 to have bits: no finite difference there.
    Op::BitcastConvert { .. } => "",
    // Blocked by purpose, or an error; each has a test of its own below.
    Op::StopGradient | Op::AllReduce { .. } => "",
    // No window of products.
    Op::ReduceWindow { kind: ReduceKind::Prod, .. } => "",
    // Expanded away.
    Op::Grad | Op::Result { .. } => "",
}

/// A graph in the making.
struct Net {
    graph: Graph,
}

impl Net {
    fn new(name: &str) -> Self {
        Net { graph: Graph::new(name) }
    }

    fn parameter(&mut self, name: &str, role: Role, ty: TensorType) -> NodeId {
        let op = Op::Parameter(Parameter { name: name.into(), role, init: None });
        self.graph.push_typed(op, vec![], ty, "".into(), "".into())
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> NodeId {
        self.parameter(name, Role::Input, TensorType::new(DType::F32, shape))
    }

    fn op(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(op, inputs, &"".into(), &"".into()).unwrap()
    }

    fn unary(&mut self, function: UnaryOp, x: NodeId) -> NodeId {
        self.op(Op::Unary { function }, &[x])
    }

    fn binary(&mut self, function: BinaryOp, x: NodeId, y: NodeId) -> NodeId {
        self.op(Op::Binary { function }, &[x, y])
    }

    fn constant(&mut self, dtype: DType, shape: &[usize], values: &[f64]) -> NodeId {
        let ty = TensorType::new(dtype, shape);
        let value = Literal { ty: ty.clone(), values: values.to_vec() };
        self.graph.push_typed(Op::Constant { value }, vec![], ty, "".into(), "".into())
    }

    fn i32(&mut self, value: i32) -> NodeId {
        self.constant(DType::I32, &[], &[f64::from(value)])
    }

    fn shape(&self, id: NodeId) -> Vec<usize> {
        self.graph.ty(id).shape.clone()
    }

    fn random_like(&mut self, id: NodeId, seed: u32) -> NodeId {
        let shape = self.shape(id);
        let values: Vec<f64> = (0..element_count(&shape)).map(|index| random(seed, index) * 2.0 - 1.0).collect();
        // A literal with one value is a splat of it, which is the same for one element.
        let values = if values.is_empty() { vec![0.0] } else { values };
        self.constant(DType::F32, &shape, &values)
    }

    fn sum(&mut self, x: NodeId) -> NodeId {
        let axes = (0..self.shape(x).len()).collect();
        self.op(Op::Reduce { kind: ReduceKind::Sum, axes }, &[x])
    }

    /// `factor * sum(x * y)`
    fn product_sum(&mut self, factor: f64, x: NodeId, y: NodeId) -> NodeId {
        let product = self.binary(BinaryOp::Multiply, x, y);
        let sum = self.sum(product);
        let factor = self.constant(DType::F32, &[], &[factor]);
        self.binary(BinaryOp::Multiply, sum, factor)
    }

    fn gradients(&mut self, loss: NodeId, wrt: &[NodeId]) -> Vec<NodeId> {
        let gradient = self.op(Op::Grad, &[&[loss], wrt].concat());
        (0..wrt.len()).map(|index| self.op(Op::Result { index }, &[gradient])).collect()
    }

    fn output(&mut self, name: &str, node: NodeId) {
        self.graph.outputs.push(Output { name: name.into(), node });
    }

    fn composite(&mut self, name: &str, attrs: serde_json::Value, body: Graph, inputs: &[NodeId]) -> NodeId {
        let serde_json::Value::Object(attrs) = attrs else { panic!("attributes are an object") };
        self.op(Op::Composite { name: name.into(), attrs, body: Box::new(body) }, inputs)
    }
}

/// A number in [0, 1).
fn random(seed: u32, index: usize) -> f64 {
    unit_f64(threefry2x32([seed, 0], [index as u32, 0]))
}

/// `count` distinct values in `(low, high)`, evenly apart and in random order: no two within a finite difference of each other.
fn spread(seed: u32, count: usize, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|left, right| random(seed, *left).total_cmp(&random(seed, *right)));
    // The irrational part keeps values away from whole numbers, zero and each other across tensors.
    let offset = 0.1 * random(seed, count);
    order.into_iter().map(|place| low + (high - low) * (place as f64 + 0.45 + offset) / count as f64).collect()
}

type Build = Box<dyn Fn(&mut Net, &[NodeId]) -> NodeId>;

struct Case {
    name: String,
    /// Shape and range of each input.
    inputs: Vec<(Vec<usize>, (f64, f64))>,
    /// Values instead of random ones, by input.
    values: BTreeMap<usize, Vec<f64>>,
    build: Build,
}

fn case(name: impl Into<String>, inputs: &[(&[usize], (f64, f64))], build: impl Fn(&mut Net, &[NodeId]) -> NodeId + 'static) -> Case {
    let inputs = inputs.iter().map(|(shape, range)| (shape.to_vec(), *range)).collect();
    Case { name: name.into(), inputs, values: BTreeMap::new(), build: Box::new(build) }
}

/// A case whose op is the whole of it.
fn op_case(name: &str, op: Op, shapes: &[&[usize]]) -> Case {
    let inputs: Vec<(&[usize], (f64, f64))> = shapes.iter().map(|shape| (*shape, AROUND_ZERO)).collect();
    case(name, &inputs, move |net, x| net.op(op.clone(), x))
}

const AROUND_ZERO: (f64, f64) = (-1.7, 1.9);
const POSITIVE: (f64, f64) = (0.4, 2.3);
const SHAPES: [&[usize]; 5] = [&[3, 5], &[7], &[1], &[], &[2, 1, 3]];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    elementwise_cases(&mut cases);
    movement_cases(&mut cases);
    indexing_cases(&mut cases);
    reduction_cases(&mut cases);
    product_cases(&mut cases);
    composite_cases(&mut cases);
    cases
}

fn elementwise_cases(cases: &mut Vec<Case>) {
    use UnaryOp::*;
    for function in [Negate, Abs, Sign, Floor, Exponential, Log, Sqrt, Rsqrt, Tanh, Logistic, Sine, Cosine, Erf] {
        let range = if matches!(function, Log | Sqrt | Rsqrt) { POSITIVE } else { AROUND_ZERO };
        for shape in SHAPES {
            cases.push(case(format!("{function:?} {shape:?}"), &[(shape, range)], move |net, x| net.unary(function, x[0])));
        }
    }
    use BinaryOp::*;
    for function in [Add, Subtract, Multiply, Divide, Maximum, Minimum, Power, Remainder] {
        let (left, right) = match function {
            Divide => (AROUND_ZERO, POSITIVE),
            Power => (POSITIVE, AROUND_ZERO),
            Remainder => ((-9.1, 9.7), (1.1, 1.9)),
            _ => (AROUND_ZERO, AROUND_ZERO),
        };
        for shape in SHAPES {
            cases.push(case(format!("{function:?} {shape:?}"), &[(shape, left), (shape, right)], move |net, x| {
                net.binary(function, x[0], x[1])
            }));
        }
    }
    // The same value on both sides: two contributions to one cotangent.
    cases.push(case("multiply by itself", &[(&[4], AROUND_ZERO)], |net, x| net.binary(Multiply, x[0], x[0])));
    for exponent in [0.0, 1.0, 2.0, 3.0] {
        cases.push(case(format!("power {exponent} of negatives"), &[(&[5], AROUND_ZERO)], move |net, x| {
            let exponent = net.constant(DType::F32, &[5], &[exponent]);
            net.binary(Power, x[0], exponent)
        }));
    }
    cases.push(op_case("convert", Op::Convert { to: DType::F32 }, &[&[3, 2]]));
    cases.push(case("select", &[(&[3, 3], AROUND_ZERO), (&[3, 3], AROUND_ZERO)], |net, x| {
        let predicate = net.constant(DType::Bool, &[3, 3], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        net.op(Op::Select, &[predicate, x[0], x[1]])
    }));
    cases.push(case("leaky relu by select", &[(&[7], AROUND_ZERO)], |net, x| {
        let zeros = net.constant(DType::F32, &[7], &[0.0]);
        let slope = net.constant(DType::F32, &[7], &[0.1]);
        let positive = net.op(Op::Compare { direction: Compare::Greater }, &[x[0], zeros]);
        let leak = net.binary(Multiply, x[0], slope);
        net.op(Op::Select, &[positive, x[0], leak])
    }));
    cases.push(op_case("sum over processes", Op::AllReduce { kind: ReduceKind::Sum }, &[&[3]]));
}

fn movement_cases(cases: &mut Vec<Case>) {
    cases.push(op_case("reshape", Op::Reshape { shape: vec![2, 1, 6] }, &[&[3, 4]]));
    cases.push(op_case("reshape to scalar", Op::Reshape { shape: vec![] }, &[&[1, 1]]));
    for perm in [vec![0, 1, 2], vec![2, 0, 1], vec![1, 2, 0], vec![0, 2, 1]] {
        cases.push(op_case("transpose", Op::Transpose { perm }, &[&[2, 3, 4]]));
    }
    cases.push(op_case("broadcast scalar", Op::BroadcastInDim { shape: vec![2, 3], dims: vec![] }, &[&[]]));
    cases.push(op_case("broadcast bias", Op::BroadcastInDim { shape: vec![2, 3, 5], dims: vec![1] }, &[&[3]]));
    cases.push(op_case("broadcast of 1", Op::BroadcastInDim { shape: vec![4, 2, 3], dims: vec![1, 2] }, &[&[1, 3]]));
    cases.push(op_case("broadcast of 1 to 1", Op::BroadcastInDim { shape: vec![1, 2, 1], dims: vec![0, 1] }, &[&[1, 1]]));
    let slice = |starts: &[usize], limits: &[usize], strides: &[usize]| Op::Slice {
        starts: starts.to_vec(),
        limits: limits.to_vec(),
        strides: strides.to_vec(),
    };
    cases.push(op_case("slice", slice(&[1, 0], &[3, 5], &[1, 1]), &[&[4, 5]]));
    cases.push(op_case("strided slice", slice(&[1, 1], &[7, 4], &[3, 2]), &[&[7, 5]]));
    cases.push(op_case("strided slice to the end", slice(&[0], &[7], &[3]), &[&[7]]));
    cases.push(op_case("empty slice", slice(&[2, 0], &[2, 3], &[1, 1]), &[&[4, 3]]));
    let pads: [(&[i64], &[i64], &[usize]); 5] = [
        (&[1, 0], &[2, 3], &[0, 0]),
        (&[0, 2], &[0, 1], &[2, 1]),
        (&[-1, 1], &[2, -2], &[0, 0]),
        (&[-2, -1], &[-1, 3], &[1, 2]),
        (&[-5, 4], &[6, -3], &[0, 0]),
    ];
    for (low, high, interior) in pads {
        let op = Op::Pad { low: low.to_vec(), high: high.to_vec(), interior: interior.to_vec() };
        cases.push(op_case(&format!("pad {low:?} {high:?} {interior:?}"), op, &[&[3, 4], &[]]));
    }
    cases.push(op_case("concatenate", Op::Concatenate { axis: 1 }, &[&[2, 1, 3], &[2, 4, 3], &[2, 2, 3]]));
    cases.push(case("concatenate with itself", &[(&[2], AROUND_ZERO)], |net, x| net.op(Op::Concatenate { axis: 0 }, &[x[0], x[0]])));
    cases.push(op_case("reverse", Op::Reverse { axes: vec![0, 2] }, &[&[2, 3, 4]]));
}

fn indexing_cases(cases: &mut Vec<Case>) {
    // An index that comes twice, one below and one above the range.
    cases.push(case("gather rows", &[(&[4, 3], AROUND_ZERO)], |net, x| {
        let indices = net.constant(DType::I32, &[5], &[2.0, 0.0, 2.0, -7.0, 9.0]);
        net.op(Op::Gather { axis: 0, batch_dims: 0 }, &[x[0], indices])
    }));
    cases.push(case("gather in batch", &[(&[2, 3, 5, 2], AROUND_ZERO)], |net, x| {
        let indices = net.constant(DType::U32, &[2, 2, 3], &[0.0, 4.0, 1.0, 1.0, 7.0, 3.0, 2.0, 2.0, 2.0, 0.0, 1.0, 4.0]);
        net.op(Op::Gather { axis: 2, batch_dims: 1 }, &[x[0], indices])
    }));
    cases.push(case("gather a scalar index", &[(&[3, 4], AROUND_ZERO)], |net, x| {
        let index = net.i32(2);
        net.op(Op::Gather { axis: 1, batch_dims: 0 }, &[x[0], index])
    }));
    for mode in [ScatterMode::Add, ScatterMode::Set] {
        cases.push(case(format!("scatter {mode:?} rows"), &[(&[4, 3], AROUND_ZERO), (&[5, 3], AROUND_ZERO)], move |net, x| {
            let indices = net.constant(DType::I32, &[5], &[2.0, 0.0, 2.0, -7.0, 1.0]);
            net.op(Op::Scatter { axis: 0, batch_dims: 0, mode }, &[x[0], indices, x[1]])
        }));
        cases.push(case(format!("scatter {mode:?} in batch"), &[(&[2, 3, 4], AROUND_ZERO), (&[2, 3, 2], AROUND_ZERO)], move |net, x| {
            let indices = net.constant(DType::U32, &[2, 2], &[1.0, 3.0, 2.0, 2.0]);
            net.op(Op::Scatter { axis: 2, batch_dims: 1, mode }, &[x[0], indices, x[1]])
        }));
    }
    // The second start is clamped: a block of 2 does not fit at 3 of 4.
    cases.push(case("dynamic slice", &[(&[5, 4], AROUND_ZERO)], |net, x| {
        let (first, second) = (net.i32(1), net.i32(3));
        net.op(Op::DynamicSlice { sizes: vec![3, 2] }, &[x[0], first, second])
    }));
    cases.push(case("dynamic update slice", &[(&[5, 4], AROUND_ZERO), (&[3, 2], AROUND_ZERO)], |net, x| {
        let (first, second) = (net.i32(-4), net.i32(1));
        net.op(Op::DynamicUpdateSlice, &[x[0], x[1], first, second])
    }));
}

fn reduction_cases(cases: &mut Vec<Case>) {
    for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min, ReduceKind::Prod] {
        for axes in [vec![], vec![1], vec![0, 2], vec![0, 1, 2]] {
            cases.push(op_case(&format!("reduce {kind:?} {axes:?}"), Op::Reduce { kind, axes }, &[&[2, 3, 5]]));
        }
        cases.push(op_case(&format!("reduce {kind:?} of one"), Op::Reduce { kind, axes: vec![0] }, &[&[1, 3]]));
    }
    // No zero, one zero and two zeros in a row: a quotient by the element would fail.
    let mut zeros = op_case("reduce Prod with zeros", Op::Reduce { kind: ReduceKind::Prod, axes: vec![1] }, &[&[3, 4]]);
    zeros.values.insert(0, vec![1.0, -2.0, 3.0, 0.5, 2.0, 0.0, -1.5, 3.0, 0.0, 2.0, 0.0, 1.5]);
    cases.push(zeros);
    let window = |size: &[usize], strides: &[usize], low: &[usize], high: &[usize]| Window {
        size: size.to_vec(),
        strides: strides.to_vec(),
        low: low.to_vec(),
        high: high.to_vec(),
    };
    let windows: [(&[usize], Window); 5] = [
        (&[6], window(&[2], &[2], &[0], &[0])),
        (&[7], window(&[3], &[2], &[1], &[0])),
        (&[2, 5, 6], window(&[1, 3, 2], &[1, 2, 3], &[0, 1, 0], &[0, 1, 1])),
        (&[8], window(&[2], &[3], &[0], &[0])),
        (&[3, 3], window(&[3, 1], &[1, 1], &[2, 0], &[2, 0])),
    ];
    for (shape, window) in windows {
        for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min] {
            let op = Op::ReduceWindow { kind, window: window.clone() };
            cases.push(op_case(&format!("window {kind:?} {shape:?} {window:?}"), op, &[shape]));
        }
        for kind in [ReduceKind::Max, ReduceKind::Min] {
            let result: Vec<usize> = (0..shape.len())
                .map(|axis| (shape[axis] + window.low[axis] + window.high[axis] - window.size[axis]) / window.strides[axis] + 1)
                .collect();
            let op = Op::SelectAndScatter { kind, window: window.clone() };
            cases.push(op_case(&format!("select and scatter {kind:?} {shape:?} {window:?}"), op, &[shape, &result]));
        }
    }
}

fn product_cases(cases: &mut Vec<Case>) {
    let dot = |lhs_batch: &[usize], rhs_batch: &[usize], lhs_contract: &[usize], rhs_contract: &[usize]| Op::DotGeneral {
        dims: DotDims {
            lhs_batch: lhs_batch.to_vec(),
            rhs_batch: rhs_batch.to_vec(),
            lhs_contract: lhs_contract.to_vec(),
            rhs_contract: rhs_contract.to_vec(),
        },
    };
    cases.push(op_case("matmul", dot(&[], &[], &[1], &[0]), &[&[3, 5], &[5, 2]]));
    cases.push(op_case("matmul transposed right", dot(&[], &[], &[1], &[1]), &[&[3, 5], &[2, 5]]));
    cases.push(op_case("matmul transposed left", dot(&[], &[], &[0], &[0]), &[&[5, 3], &[5, 2]]));
    cases.push(op_case("inner product", dot(&[], &[], &[0], &[0]), &[&[4], &[4]]));
    cases.push(op_case("outer product", dot(&[], &[], &[], &[]), &[&[4], &[3]]));
    cases.push(op_case("attention scores", dot(&[0, 1], &[0, 1], &[3], &[3]), &[&[2, 3, 4, 5], &[2, 3, 2, 5]]));
    cases.push(op_case("batch axes anywhere", dot(&[2], &[1], &[0], &[2]), &[&[3, 2, 4], &[5, 4, 3]]));
    cases.push(op_case("two batch axes crossed", dot(&[2, 0], &[0, 1], &[1], &[2]), &[&[2, 3, 4], &[4, 2, 3]]));
    cases.push(op_case("two summed axes crossed", dot(&[], &[], &[2, 0], &[0, 2]), &[&[3, 2, 4], &[4, 5, 3]]));
    cases.push(op_case("all kinds of axes", dot(&[1], &[3], &[3, 0], &[1, 2]), &[&[2, 3, 1, 4, 2], &[2, 4, 2, 3]]));

    struct Shape {
        input: &'static [usize],
        weight: &'static [usize],
        strides: &'static [usize],
        low: &'static [usize],
        high: &'static [usize],
        dilation: &'static [usize],
        groups: usize,
    }
    let shapes = [
        Shape { input: &[2, 3, 5, 6], weight: &[4, 3, 3, 2], strides: &[1, 1], low: &[0, 0], high: &[0, 0], dilation: &[1, 1], groups: 1 },
        Shape { input: &[1, 2, 7, 5], weight: &[3, 2, 3, 3], strides: &[2, 3], low: &[1, 2], high: &[1, 0], dilation: &[1, 1], groups: 1 },
        Shape { input: &[2, 4, 6], weight: &[6, 2, 3], strides: &[2], low: &[1], high: &[2], dilation: &[2], groups: 2 },
        Shape { input: &[1, 3, 5, 4], weight: &[3, 1, 2, 3], strides: &[1, 2], low: &[0, 1], high: &[1, 1], dilation: &[2, 1], groups: 3 },
        Shape { input: &[2, 1, 1, 1], weight: &[1, 1, 1, 1], strides: &[1, 1], low: &[0, 0], high: &[0, 0], dilation: &[1, 1], groups: 1 },
        // With stride 3 the last columns of the input are never read.
        Shape { input: &[1, 1, 9], weight: &[1, 1, 2], strides: &[3], low: &[0], high: &[0], dilation: &[1], groups: 1 },
        Shape {
            input: &[1, 2, 3, 2, 4],
            weight: &[2, 2, 2, 1, 3],
            strides: &[1, 1, 2],
            low: &[1, 0, 1],
            high: &[0, 0, 1],
            dilation: &[1, 1, 1],
            groups: 1,
        },
    ];
    for shape in shapes {
        let geometry = ConvolutionGeometry {
            strides: shape.strides.to_vec(),
            low: shape.low.to_vec(),
            high: shape.high.to_vec(),
            dilation: shape.dilation.to_vec(),
            groups: shape.groups,
        };
        let mut output = vec![shape.input[0], shape.weight[0]];
        output.extend(
            (0..shape.strides.len()).map(|axis| geometry.output_size(axis, shape.input[axis + 2], shape.weight[axis + 2]).unwrap()),
        );
        let (input_spatial, kernel_spatial) = (shape.input[2..].to_vec(), shape.weight[2..].to_vec());
        let op = Op::Convolution { geometry: geometry.clone() };
        cases.push(op_case(&format!("convolution {geometry:?}"), op, &[shape.input, shape.weight]));
        let op = Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial };
        cases.push(op_case(&format!("input gradient {geometry:?}"), op, &[&output, shape.weight]));
        let op = Op::ConvolutionWeightGrad { geometry: geometry.clone(), kernel_spatial };
        cases.push(op_case(&format!("weight gradient {geometry:?}"), op, &[shape.input, &output]));
    }
}

/// `exp(x) / sum(exp(x))` along `axis`, or its logarithm.
fn softmax_body(shape: &[usize], axis: usize, logarithm: bool) -> Graph {
    let mut body = Net::new("softmax");
    let x = body.input("x", shape);
    let exponential = body.unary(UnaryOp::Exponential, x);
    let sum = body.op(Op::Reduce { kind: ReduceKind::Sum, axes: vec![axis] }, &[exponential]);
    let dims = (0..shape.len()).filter(|other| *other != axis).collect();
    let sums = body.op(Op::BroadcastInDim { shape: shape.to_vec(), dims }, &[sum]);
    let quotient = body.binary(BinaryOp::Divide, exponential, sums);
    let result = if logarithm { body.unary(UnaryOp::Log, quotient) } else { quotient };
    body.output("y", result);
    body.graph
}

/// `(sin x, sin(x) cos(y))`, the sine through a composite of its own.
fn two_results_body(shape: &[usize]) -> Graph {
    let mut inner = Net::new("inner");
    let x = inner.input("x", shape);
    let sine = inner.unary(UnaryOp::Sine, x);
    inner.output("y", sine);
    let mut body = Net::new("two_results");
    let (x, y) = (body.input("x", shape), body.input("y", shape));
    let sine = body.composite("inner", json!({}), inner.graph, &[x]);
    let cosine = body.unary(UnaryOp::Cosine, y);
    let product = body.binary(BinaryOp::Multiply, sine, cosine);
    body.output("sine", sine);
    body.output("product", product);
    body.graph
}

fn composite_cases(cases: &mut Vec<Case>) {
    for (name, axis, logarithm) in [("softmax", 1, false), ("softmax", 0, false), ("log_softmax", 2, true), ("of_a_plugin", 1, false)] {
        cases.push(case(format!("{name} {axis}"), &[(&[2, 3, 4], AROUND_ZERO)], move |net, x| {
            net.composite(name, json!({ "axis": axis }), softmax_body(&[2, 3, 4], axis, logarithm), &[x[0]])
        }));
    }
    // The name is known, the attributes are not: the body counts. Here it is not a softmax at all.
    cases.push(case("softmax with more attributes", &[(&[2, 3], AROUND_ZERO)], |net, x| {
        net.composite("softmax", json!({ "axis": 1, "temperature": 2.0 }), softmax_body(&[2, 3], 1, true), &[x[0]])
    }));
    cases.push(case("two results", &[(&[3], AROUND_ZERO), (&[3], AROUND_ZERO)], |net, x| {
        let call = net.composite("two_results", json!({}), two_results_body(&[3]), &[x[0], x[1]]);
        let first = net.op(Op::Result { index: 0 }, &[call]);
        let second = net.op(Op::Result { index: 1 }, &[call]);
        let sum = net.binary(BinaryOp::Add, first, second);
        net.binary(BinaryOp::Multiply, sum, call)
    }));
}

impl Case {
    /// The parameters' values.
    fn values(&self) -> BTreeMap<String, Tensor> {
        let value = |(index, (shape, range)): (usize, &(Vec<usize>, (f64, f64)))| {
            let random = || spread(17 + index as u32, element_count(shape), *range);
            let values = self.values.get(&index).cloned().unwrap_or_else(random);
            (format!("x{index}"), Tensor::f32(shape.clone(), values))
        };
        self.inputs.iter().enumerate().map(value).collect()
    }

    /// `2.5 mean(op(x) * c) + sum(0.3 x^2)`, its parameters, and the keys of the ops that the case consists of.
    fn loss(&self) -> (Net, Vec<NodeId>, NodeId, BTreeSet<&'static str>) {
        let mut net = Net::new(&self.name);
        let inputs = self.inputs.iter().enumerate();
        let x: Vec<NodeId> = inputs
            .map(|(index, (shape, _))| net.parameter(&format!("x{index}"), Role::Param, TensorType::new(DType::F32, shape.clone())))
            .collect();
        let first = net.graph.nodes.len();
        let result = (self.build)(&mut net, &x);
        let keys = net.graph.nodes[first..].iter().map(|node| coverage_key(&node.op)).collect();
        let mixed = net.random_like(result, 99);
        let count = element_count(&net.shape(result)).max(1);
        let mut loss = net.product_sum(2.5 / count as f64, result, mixed);
        for &x in &x {
            let other = net.product_sum(0.3, x, x);
            loss = net.binary(BinaryOp::Add, loss, other);
        }
        (net, x, loss, keys)
    }
}

/// Compares the gradients of `loss` with central differences of it.
fn check(name: &str, mut net: Net, x: &[NodeId], loss: NodeId, values: &BTreeMap<String, Tensor>) {
    net.output("loss", loss);
    let mut scalar_only = net.graph.clone();
    for (index, gradient) in net.gradients(loss, x).into_iter().enumerate() {
        net.output(&format!("x{index}"), gradient);
    }
    net.graph.verify().unwrap_or_else(|error| panic!("{name}: {error}"));
    let expanded = expand_gradients(&net.graph).unwrap_or_else(|error| panic!("{name}: {error}"));
    expanded.verify().unwrap_or_else(|error| panic!("{name}, expanded: {error}"));
    let simplified = simplify(&expanded);
    simplified.verify().unwrap_or_else(|error| panic!("{name}, simplified: {error}\n{simplified}"));
    let gradients = evaluate(&expanded, values).unwrap().outputs;
    let simplified_gradients = evaluate(&simplified, values).unwrap().outputs;
    scalar_only = simplify(&expand_gradients(&remove_dead_code(&scalar_only)).unwrap());
    let loss_at = |values: &BTreeMap<String, Tensor>| evaluate(&scalar_only, values).unwrap().outputs["loss"].to_f64()[0];
    for (parameter, value) in values {
        let analytic = gradients[parameter].to_f64();
        for (index, (before, after)) in analytic.iter().zip(simplified_gradients[parameter].to_f64()).enumerate() {
            assert!(close(*before, after, 1e-12), "{name}: d {parameter}[{index}] is {before}, simplified {after}\n{simplified}");
        }
        for (index, gradient) in analytic.iter().enumerate() {
            let step = 1e-5;
            let moved = |distance: f64| {
                let mut elements = value.to_f64();
                elements[index] += distance;
                let mut values = values.clone();
                values.insert(parameter.clone(), Tensor::f32(value.ty.shape.clone(), elements));
                loss_at(&values)
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            // Cancellation: 1e-16 of a loss of a few, over 1e-5; truncation: 1e-10 of the third derivative.
            assert!(
                close(*gradient, difference, 1e-6),
                "{name}: d {parameter}[{index}] is {gradient}, the difference quotient {difference}"
            );
        }
    }
}

/// Within `tolerance` of the larger, or of 0.1 where both are small.
fn close(left: f64, right: f64, tolerance: f64) -> bool {
    (left - right).abs() <= tolerance * left.abs().max(right.abs()).max(0.1)
}

#[test]
fn gradients_equal_finite_differences() {
    for case in cases() {
        let (net, x, loss, _) = case.loss();
        check(&case.name, net, &x, loss, &case.values());
    }
}

/// The gradient of `sum(gradient * c)`: every rule consists of ops whose rules are right too.
#[test]
fn second_derivatives_equal_finite_differences() {
    for case in cases() {
        let (mut net, x, loss, _) = case.loss();
        let gradients = net.gradients(loss, &x);
        let mut second = net.constant(DType::F32, &[], &[0.0]);
        for (index, gradient) in gradients.into_iter().enumerate() {
            let mixed = net.random_like(gradient, 7 + index as u32);
            let sum = net.product_sum(1.0, gradient, mixed);
            second = net.binary(BinaryOp::Add, second, sum);
        }
        check(&format!("second derivative of {}", case.name), net, &x, second, &case.values());
    }
}

#[test]
fn every_op_that_carries_a_gradient_has_a_case() {
    let covered: BTreeSet<&str> = cases().iter().flat_map(|case| case.loss().3).collect();
    let missing: Vec<&&str> = COVERAGE_KEYS.iter().filter(|key| !key.is_empty() && !covered.contains(**key)).collect();
    assert!(missing.is_empty(), "no gradient check for {missing:?}");
}

/// Gradient of `sum(build(x))` at `values`.
fn gradient_of_sum(values: &[&[f64]], build: impl Fn(&mut Net, &[NodeId]) -> NodeId) -> Vec<Vec<f64>> {
    let mut net = Net::new("hand");
    let x: Vec<NodeId> = (0..values.len()).map(|index| net.input(&format!("x{index}"), &[values[index].len()])).collect();
    let result = build(&mut net, &x);
    let loss = net.sum(result);
    for (index, gradient) in net.gradients(loss, &x).into_iter().enumerate() {
        net.output(&format!("g{index}"), gradient);
    }
    net.graph.verify().unwrap();
    let inputs = (0..values.len()).map(|index| (format!("x{index}"), Tensor::f32([values[index].len()], values[index]))).collect();
    let outputs = evaluate(&net.graph, &inputs).unwrap().outputs;
    (0..values.len()).map(|index| outputs[&format!("g{index}")].to_f64()).collect()
}

#[test]
fn kinks_and_ties_follow_pytorch() {
    // torch.maximum and torch.minimum halve the gradient where both sides are equal.
    for function in [BinaryOp::Maximum, BinaryOp::Minimum] {
        let gradients = gradient_of_sum(&[&[1.0], &[1.0]], |net, x| net.binary(function, x[0], x[1]));
        assert_eq!(gradients, [[0.5], [0.5]]);
    }
    // torch.amax spreads it evenly over all largest elements.
    let gradients = gradient_of_sum(&[&[2.0, 1.0, 2.0, 2.0]], |net, x| net.op(Op::Reduce { kind: ReduceKind::Max, axes: vec![0] }, x));
    assert_eq!(gradients, [[1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]]);
    // torch.nn.functional.max_pool1d gives it to the first.
    let window = Window { size: vec![2], strides: vec![2], low: vec![0], high: vec![0] };
    let pool = Op::ReduceWindow { kind: ReduceKind::Max, window };
    assert_eq!(gradient_of_sum(&[&[2.0, 2.0, 1.0, 3.0]], |net, x| net.op(pool.clone(), x)), [[1.0, 0.0, 0.0, 1.0]]);
    assert_eq!(gradient_of_sum(&[&[0.0, -2.0]], |net, x| net.unary(UnaryOp::Abs, x[0])), [[0.0, -1.0]]);
    // 0^0: the exponent 0 makes a constant, and log(0) is not multiplied in. 0^2: both vanish.
    let gradients = gradient_of_sum(&[&[0.0, 0.0, -2.0], &[0.0, 2.0, 3.0]], |net, x| net.binary(BinaryOp::Power, x[0], x[1]));
    assert_eq!(gradients, [[0.0, 0.0, 12.0], [0.0, 0.0, 0.0]]);
}

#[test]
fn stop_gradient_lets_nothing_through() {
    // x * stop(x): 2x without the stop, x with it.
    let gradients = gradient_of_sum(&[&[3.0, -4.0]], |net, x| {
        let stopped = net.op(Op::StopGradient, x);
        net.binary(BinaryOp::Multiply, x[0], stopped)
    });
    assert_eq!(gradients, [[3.0, -4.0]]);
}

#[test]
fn integers_in_the_way_block_the_gradient() {
    // x * float(int(x)): the conversion is a constant to the gradient.
    let gradients = gradient_of_sum(&[&[3.5, -4.5]], |net, x| {
        let whole = net.op(Op::Convert { to: DType::I32 }, x);
        let back = net.op(Op::Convert { to: DType::F32 }, &[whole]);
        net.binary(BinaryOp::Multiply, x[0], back)
    });
    assert_eq!(gradients, [[3.0, -4.0]]);
}

#[test]
fn any_value_can_be_differentiated_by() {
    // h = sin(x), loss = sum(h^2 + y); z and the late value are not in it.
    let mut net = Net::new("wrt");
    let (x, y, z) = (net.input("x", &[2]), net.input("y", &[2]), net.input("z", &[3]));
    let h = net.unary(UnaryOp::Sine, x);
    let square = net.binary(BinaryOp::Multiply, h, h);
    let total = net.binary(BinaryOp::Add, square, y);
    let loss = net.sum(total);
    let late = net.unary(UnaryOp::Exponential, h);
    for (index, gradient) in net.gradients(loss, &[h, x, y, z, late, loss]).into_iter().enumerate() {
        net.output(&format!("g{index}"), gradient);
    }
    net.graph.verify().unwrap();
    let values = [("x", vec![0.5, 2.0]), ("y", vec![1.0, 1.0]), ("z", vec![0.0; 3])];
    let inputs = values.into_iter().map(|(name, values)| (name.to_string(), Tensor::f32([values.len()], values))).collect();
    let outputs = evaluate(&net.graph, &inputs).unwrap().outputs;
    let gradient = |index: usize| outputs[&format!("g{index}")].to_f64();
    let near = |left: Vec<f64>, right: Vec<f64>| left.iter().zip(&right).all(|(left, right)| close(*left, *right, 1e-14));
    assert!(near(gradient(0), vec![2.0 * 0.5f64.sin(), 2.0 * 2f64.sin()]));
    // d sin^2 = sin 2x
    assert!(near(gradient(1), vec![1f64.sin(), 4f64.sin()]));
    assert_eq!(gradient(2), [1.0, 1.0]);
    assert_eq!(gradient(3), [0.0; 3]);
    assert_eq!(gradient(4), [0.0; 2]);
    assert_eq!(gradient(5), [1.0]);
}

/// `loss = sum(identity(x) + 2x)`: by the composite's result the gradient is 1, by x it is 3, however the composite is named in the graph.
#[test]
fn a_result_that_is_another_value_keeps_its_own_gradient() {
    for by_result in [false, true] {
        for use_result in [false, true] {
            let mut body = Net::new("identity");
            let inner = body.input("x", &[2]);
            body.output("y", inner);
            let mut net = Net::new("outer");
            let x = net.input("x", &[2]);
            let call = net.composite("identity", json!({}), body.graph, &[x]);
            let result = net.op(Op::Result { index: 0 }, &[call]);
            let doubled = net.binary(BinaryOp::Add, x, x);
            let total = net.binary(BinaryOp::Add, if use_result { result } else { call }, doubled);
            let loss = net.sum(total);
            let gradients = net.gradients(loss, &[if by_result { result } else { call }, x]);
            net.output("by_result", gradients[0]);
            net.output("by_x", gradients[1]);
            net.graph.verify().unwrap();
            let inputs = BTreeMap::from([("x".to_string(), Tensor::f32([2], [1.0, 2.0]))]);
            let outputs = evaluate(&net.graph, &inputs).unwrap().outputs;
            assert_eq!(outputs["by_result"].to_f64(), [1.0, 1.0], "{by_result} {use_result}");
            assert_eq!(outputs["by_x"].to_f64(), [3.0, 3.0], "{by_result} {use_result}");
        }
    }
}

#[test]
fn a_body_may_ask_for_gradients() {
    // slope(x) = d sum(x^3) / d x = 3 x^2, once kept whole and once differentiated: 6x.
    let mut body = Net::new("slope");
    let x = body.input("x", &[2]);
    let square = body.binary(BinaryOp::Multiply, x, x);
    let cube = body.binary(BinaryOp::Multiply, square, x);
    let loss = body.sum(cube);
    let gradient = body.gradients(loss, &[x])[0];
    body.output("slope", gradient);
    let mut net = Net::new("outer");
    let x = net.input("x", &[2]);
    let slope = net.composite("slope", json!({}), body.graph, &[x]);
    net.output("slope", slope);
    let inputs = BTreeMap::from([("x".to_string(), Tensor::f32([2], [2.0, -1.0]))]);
    assert_eq!(evaluate(&net.graph, &inputs).unwrap().outputs["slope"].to_f64(), [12.0, 3.0]);
    let loss = net.sum(slope);
    let second = net.gradients(loss, &[x])[0];
    net.output("second", second);
    net.graph.verify().unwrap();
    assert_eq!(evaluate(&net.graph, &inputs).unwrap().outputs["second"].to_f64(), [12.0, -6.0]);
}

#[test]
fn composites_off_the_gradient_path_stay_whole() {
    let mut net = Net::new("off");
    let (x, y) = (net.input("x", &[1, 3]), net.input("y", &[1, 3]));
    let weights = net.composite("of_a_plugin", json!({}), softmax_body(&[1, 3], 1, false), &[y]);
    let weighted = net.binary(BinaryOp::Multiply, x, weights);
    let loss = net.sum(weighted);
    let gradient = net.gradients(loss, &[x])[0];
    net.output("gradient", gradient);
    let expanded = expand_gradients(&net.graph).unwrap();
    assert!(expanded.nodes.iter().any(|node| matches!(node.op, Op::Composite { .. })));
    assert!(expanded.nodes.iter().all(|node| !matches!(node.op, Op::Grad)));
}

#[test]
fn a_generated_node_names_the_authors_line() {
    let mut net = Net::new("place");
    let x = net.input("x", &[2]);
    let sine = net.graph.push(Op::Unary { function: UnaryOp::Sine }, &[x], &"model.fc1".into(), &"mlp.rs:41".into()).unwrap();
    let loss = net.sum(sine);
    let gradient = net.gradients(loss, &[x])[0];
    net.output("gradient", gradient);
    let expanded = expand_gradients(&net.graph).unwrap();
    let cosine = expanded.nodes.iter().find(|node| node.op == Op::Unary { function: UnaryOp::Cosine }).unwrap();
    assert_eq!((&*cosine.scope, &*cosine.location), ("model.fc1", "mlp.rs:41"));
}

#[test]
fn a_gradient_that_does_not_exist_names_the_op_and_the_line() {
    let mut net = Net::new("largest");
    let x = net.input("x", &[2]);
    let largest = net.graph.push(Op::AllReduce { kind: ReduceKind::Max }, &[x], &"".into(), &"m.rs:3".into()).unwrap();
    let loss = net.sum(largest);
    let gradient = net.gradients(loss, &[x])[0];
    net.output("gradient", gradient);
    let error = expand_gradients(&net.graph).unwrap_err();
    assert!(matches!(&error, GradError::NotDifferentiable { op, location, .. } if op == "all_reduce" && location == "m.rs:3"));
    assert!(error.to_string().ends_with("(m.rs:3)"), "{error}");
}

#[test]
fn tensors_without_elements_have_gradients_without_elements() {
    assert_eq!(gradient_of_sum(&[&[]], |net, x| net.unary(UnaryOp::Tanh, x[0])), [[0.0; 0]]);
    let window = Window { size: vec![2], strides: vec![1], low: vec![1], high: vec![1] };
    for kind in [ReduceKind::Sum, ReduceKind::Max] {
        let op = Op::ReduceWindow { kind, window: window.clone() };
        assert_eq!(gradient_of_sum(&[&[]], |net, x| net.op(op.clone(), x)), [[0.0; 0]]);
    }
    assert_eq!(gradient_of_sum(&[&[], &[2.0]], |net, x| net.op(Op::Concatenate { axis: 0 }, x)), [vec![], vec![1.0]]);
}
