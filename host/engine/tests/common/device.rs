//! Running graphs on a device and on the oracle, for the tests of every device.
#![allow(dead_code)]

use solstice_engine::random::rng_bits;
use solstice_engine::reference::{Tensor, evaluate};
use solstice_engine::{CompileOptions, Plan, Runtime, Session, compile};
use solstice_ir::{
    BinaryOp, Compare, DType, DotDims, Graph, Literal, NodeId, Op, Parameter, ReduceKind, Role, TensorType, UnaryOp, element_count,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A graph under construction and the values of its parameters.
pub struct Case {
    pub graph: Graph,
    pub values: BTreeMap<String, Tensor>,
    seed: u32,
}

/// Results of a run: outputs and states after it by name, as bytes.
pub type Results = BTreeMap<String, (TensorType, Vec<u8>)>;

impl Case {
    pub fn new(name: &str, seed: u32) -> Case {
        Case { graph: Graph::new(name), values: BTreeMap::new(), seed }
    }

    pub fn op(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = op.name();
        self.graph.push(op, inputs, &Arc::from(""), &Arc::from("")).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn leaf(&mut self, op: Op, ty: TensorType) -> NodeId {
        self.graph.push_typed(op, Vec::new(), ty, Arc::from(""), Arc::from(""))
    }

    /// A parameter with a value.
    pub fn given(&mut self, name: &str, role: Role, value: Tensor) -> NodeId {
        let ty = value.ty.clone();
        self.values.insert(name.into(), value);
        self.leaf(Op::Parameter(Parameter { name: name.into(), role, init: None }), ty)
    }

    /// A parameter with random values: floats in (-2, 2) that f32 holds, integers in -3..10, bytes.
    pub fn random(&mut self, name: &str, role: Role, dtype: DType, shape: &[usize]) -> NodeId {
        self.seed = self.seed.wrapping_add(1);
        let ty = TensorType::new(dtype, shape);
        let word = |i: usize| rng_bits(self.seed, 1, 2, i as u32);
        let value = |i: usize| match dtype {
            DType::F32 => f64::from((word(i) >> 8) as f32 / (1u32 << 22) as f32 - 2.0),
            DType::I32 => f64::from((word(i) % 13) as i32 - 3),
            DType::U32 => f64::from(word(i) % 13),
            DType::Bool => f64::from(word(i) % 2),
            DType::U8 => f64::from(word(i) % 256),
        };
        let values: Vec<f64> = (0..ty.element_count()).map(value).collect();
        self.given(name, role, Tensor::from_f64(&ty, &values))
    }

    pub fn input(&mut self, name: &str, shape: &[usize]) -> NodeId {
        self.random(name, Role::Input, DType::F32, shape)
    }

    pub fn state(&mut self, name: &str, shape: &[usize]) -> NodeId {
        self.random(name, Role::Param, DType::F32, shape)
    }

    pub fn scalar(&mut self, name: &str, dtype: DType, value: f64) -> NodeId {
        self.given(name, Role::Scalar, Tensor::from_f64(&TensorType::new(dtype, []), &[value]))
    }

    pub fn constant(&mut self, dtype: DType, value: f64) -> NodeId {
        let value = Literal::scalar(dtype, value);
        let ty = value.ty.clone();
        self.leaf(Op::Constant { value }, ty)
    }

    pub fn splat(&mut self, like: NodeId, value: f64) -> NodeId {
        let ty = self.graph.ty(like).clone();
        self.leaf(Op::Constant { value: Literal::splat(ty.clone(), value) }, ty)
    }

    pub fn unary(&mut self, function: UnaryOp, x: NodeId) -> NodeId {
        self.op(Op::Unary { function }, &[x])
    }

    pub fn binary(&mut self, function: BinaryOp, x: NodeId, y: NodeId) -> NodeId {
        self.op(Op::Binary { function }, &[x, y])
    }

    pub fn add(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Add, x, y)
    }

    pub fn sub(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Subtract, x, y)
    }

    pub fn mul(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Multiply, x, y)
    }

    pub fn div(&mut self, x: NodeId, y: NodeId) -> NodeId {
        self.binary(BinaryOp::Divide, x, y)
    }

    pub fn scaled(&mut self, x: NodeId, factor: f64) -> NodeId {
        let factor = self.splat(x, factor);
        self.mul(x, factor)
    }

    pub fn compare(&mut self, direction: Compare, x: NodeId, y: NodeId) -> NodeId {
        self.op(Op::Compare { direction }, &[x, y])
    }

    pub fn reduce(&mut self, kind: ReduceKind, x: NodeId, axes: &[usize]) -> NodeId {
        self.op(Op::Reduce { kind, axes: axes.to_vec() }, &[x])
    }

    pub fn reshape(&mut self, x: NodeId, shape: &[usize]) -> NodeId {
        self.op(Op::Reshape { shape: shape.to_vec() }, &[x])
    }

    pub fn transpose(&mut self, x: NodeId, perm: &[usize]) -> NodeId {
        self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    pub fn broadcast(&mut self, x: NodeId, shape: &[usize], dims: &[usize]) -> NodeId {
        self.op(Op::BroadcastInDim { shape: shape.to_vec(), dims: dims.to_vec() }, &[x])
    }

    /// A scalar repeated to the shape of `like`.
    pub fn spread(&mut self, scalar: NodeId, like: NodeId) -> NodeId {
        let shape = self.graph.ty(like).shape.clone();
        self.broadcast(scalar, &shape, &[])
    }

    /// `[rows, inner] * [inner, columns]`.
    pub fn matmul(&mut self, x: NodeId, y: NodeId) -> NodeId {
        let dims = DotDims { lhs_contract: vec![1], rhs_contract: vec![0], ..DotDims::default() };
        self.op(Op::DotGeneral { dims }, &[x, y])
    }

    pub fn shape(&self, x: NodeId) -> Vec<usize> {
        self.graph.ty(x).shape.clone()
    }

    pub fn output(&mut self, name: &str, node: NodeId) {
        self.graph.outputs.push(solstice_ir::Output { name: name.into(), node });
    }

    pub fn update(&mut self, state: &str, node: NodeId) {
        self.graph.updates.push(solstice_ir::Update { state: state.into(), node });
    }

    pub fn plan(&self, fuse: bool) -> Plan {
        compile(&self.graph, &CompileOptions { fuse, ..CompileOptions::default() })
            .unwrap_or_else(|error| panic!("{error}\n{}", self.graph))
            .plan
    }

    /// What the oracle says; updates under the name of their state.
    pub fn wanted(&self) -> BTreeMap<String, Tensor> {
        let evaluation = evaluate(&self.graph, &self.values).unwrap_or_else(|error| panic!("{error}"));
        evaluation.outputs.into_iter().chain(evaluation.updates).collect()
    }
}

/// Little-endian bytes of a tensor as a device holds it.
pub fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let values = tensor.to_f64();
    match tensor.ty.dtype {
        DType::F32 => values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
        DType::U32 | DType::Bool => values.iter().flat_map(|&value| (value as u32).to_le_bytes()).collect(),
        DType::U8 => values.iter().map(|&value| value as u8).collect(),
    }
}

/// Elements of a device's tensor.
pub fn numbers_of(ty: &TensorType, bytes: &[u8]) -> Vec<f64> {
    let words = || bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
    match ty.dtype {
        DType::F32 => words().map(|word| f64::from(f32::from_le_bytes(word))).collect(),
        DType::I32 => words().map(|word| f64::from(i32::from_le_bytes(word))).collect(),
        DType::U32 | DType::Bool => words().map(|word| f64::from(u32::from_le_bytes(word))).collect(),
        DType::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
    }
}

/// Runs `plan` `steps` times on a fresh session; results of the last step.
pub fn run(runtime: Box<dyn Runtime>, plan: &Plan, values: &BTreeMap<String, Tensor>, steps: usize) -> Results {
    let mut session = Session::new(runtime);
    for port in &plan.states {
        session.write_state(&port.name, &port.ty, &bytes_of(&values[&port.name])).expect("a state is written");
    }
    let program = session.load(plan.clone()).unwrap_or_else(|error| panic!("{error}\n{plan}"));
    let inputs: Vec<(&str, Vec<u8>)> = plan.inputs.iter().map(|port| (port.name.as_str(), bytes_of(&values[&port.name]))).collect();
    let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let bits = |name: &String| u32::from_le_bytes(bytes_of(&values[name])[..4].try_into().expect("a scalar is a word"));
    let scalars: Vec<(&str, u32)> = plan.scalars.iter().map(|port| (port.name.as_str(), bits(&port.name))).collect();
    let mut outputs = Vec::new();
    for _ in 0..steps {
        outputs = session.run(program, &inputs, &scalars).expect("a step runs");
    }
    let mut results: Results =
        plan.outputs.iter().zip(outputs).map(|(port, bytes)| (port.name.clone(), (port.ty.clone(), bytes))).collect();
    for port in &plan.states {
        results.insert(port.name.clone(), (port.ty.clone(), session.read_state(&port.name).expect("a state is read")));
    }
    results
}

/// Asserts that results are the oracle's: integers equal, floats within `tolerance` of the largest element.
pub fn assert_close(what: &str, found: &Results, wanted: &BTreeMap<String, Tensor>, tolerance: f64) {
    for (name, tensor) in wanted {
        let Some((ty, bytes)) = found.get(name) else { panic!("{what}: no result `{name}`") };
        assert_eq!(*ty, tensor.ty, "{what}: type of `{name}`");
        let (found, wanted) = (numbers_of(ty, bytes), tensor.to_f64());
        assert_eq!(found.len(), element_count(&ty.shape));
        let scale = wanted.iter().filter(|value| value.is_finite()).fold(1.0f64, |scale, value| scale.max(value.abs()));
        let bound = if ty.dtype == DType::F32 { tolerance * scale } else { 0.0 };
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let close = found == wanted || (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() <= bound;
            assert!(close, "{what}: `{name}` {ty} at {index} is {found}, not {wanted}");
        }
    }
}
