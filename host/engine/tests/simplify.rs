//! `simplify` may change nodes, never values: random graphs before and after, and the rewrites that a reader of a plan expects, one by one.

use solstice_engine::random::threefry2x32;
use solstice_engine::reference::{Tensor, evaluate};
use solstice_engine::simplify::{simplify, simplify_for_processes};
use solstice_ir::{
    BinaryOp, Compare, DType, Graph, Literal, NodeId, Op, Output, Parameter, ReduceKind, Role, TensorType, UnaryOp, Update, element_count,
};
use std::collections::BTreeMap;

fn push(graph: &mut Graph, op: Op, inputs: &[NodeId]) -> NodeId {
    graph.push(op, inputs, &"".into(), &"".into()).unwrap()
}

fn leaf(graph: &mut Graph, op: Op, ty: TensorType) -> NodeId {
    graph.push_typed(op, vec![], ty, "".into(), "".into())
}

fn parameter(graph: &mut Graph, name: &str, dtype: DType, shape: &[usize]) -> NodeId {
    let op = Op::Parameter(Parameter { name: name.into(), role: Role::Param, init: None });
    leaf(graph, op, TensorType::new(dtype, shape))
}

fn constant(graph: &mut Graph, dtype: DType, shape: &[usize], values: &[f64]) -> NodeId {
    let ty = TensorType::new(dtype, shape);
    leaf(graph, Op::Constant { value: Literal { ty: ty.clone(), values: values.to_vec() } }, ty)
}

fn binary(function: BinaryOp) -> Op {
    Op::Binary { function }
}

fn unary(function: UnaryOp) -> Op {
    Op::Unary { function }
}

/// Numbers of one seed, one after the other.
struct Dice {
    seed: u32,
    count: u32,
}

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.count += 1;
        threefry2x32([self.seed, 1], [self.count, 0])[0] as usize % limit
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = self.below(4);
        (0..rank).map(|_| self.pick(&[1, 1, 2, 3, 0, 2, 3, 2])).collect()
    }
}

/// A random graph that is rich in what `simplify` looks for: splats of 0, 1 and -1, repeated ops, identities, chains of movement.
fn random_graph(seed: u32) -> Graph {
    let mut dice = Dice { seed, count: 0 };
    let mut graph = Graph::new(format!("random {seed}"));
    for index in 0..2 + dice.below(3) {
        let shape = dice.shape();
        let dtype = dice.pick(&[DType::F32, DType::F32, DType::I32, DType::U32, DType::Bool]);
        parameter(&mut graph, &format!("p{index}"), dtype, &shape);
    }
    while graph.nodes.len() < 60 {
        let x = NodeId(dice.below(graph.nodes.len()) as u32);
        let ty = graph.ty(x).clone();
        let (shape, rank) = (ty.shape.clone(), ty.rank());
        let same: Vec<NodeId> = graph.ids().filter(|id| *graph.ty(*id) == ty).collect();
        let y = dice.pick(&same);
        let (op, inputs) = match dice.below(17) {
            0 => {
                let value = match ty.dtype {
                    DType::Bool => dice.pick(&[0.0, 1.0]),
                    DType::U32 => dice.pick(&[0.0, 1.0, 2.0, 4294967295.0]),
                    DType::I32 => dice.pick(&[0.0, 1.0, -1.0, -2147483648.0]),
                    _ => dice.pick(&[0.0, -0.0, 1.0, -1.0, 2.0, 0.1, f64::INFINITY]),
                };
                constant(&mut graph, ty.dtype, &shape, &[value]);
                continue;
            }
            1 => {
                use UnaryOp::*;
                (unary(dice.pick(&[Negate, Negate, Abs, Sign, Floor, Exponential, Log, Tanh, Not, Not])), vec![x])
            }
            2..=5 => {
                use BinaryOp::*;
                let functions = [Add, Subtract, Multiply, Divide, Maximum, Minimum, Power, Remainder, And, Or, Xor, ShiftLeft, ShiftRight];
                (binary(dice.pick(&functions)), vec![x, y])
            }
            6 => (Op::Compare { direction: dice.pick(&[Compare::Less, Compare::Equal, Compare::NotEqual]) }, vec![x, y]),
            7 => {
                let wanted = TensorType::new(DType::Bool, shape);
                let predicates: Vec<NodeId> = graph.ids().filter(|id| *graph.ty(*id) == wanted).collect();
                if predicates.is_empty() {
                    continue;
                }
                (Op::Select, vec![dice.pick(&predicates), x, y])
            }
            8 => (Op::Convert { to: dice.pick(&[DType::F32, DType::F32, DType::I32, DType::Bool]) }, vec![x]),
            9 => {
                let mut flat = vec![1; dice.below(2)];
                flat.push(ty.element_count());
                (Op::Reshape { shape: dice.pick(&[shape.clone(), flat, [&[1], &shape[..], &[1]].concat()]) }, vec![x])
            }
            10 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (0..rank).for_each(|axis| perm.swap(axis, dice.below(rank)));
                (Op::Transpose { perm }, vec![x])
            }
            11 => {
                // Sizes of 1 may grow, and an axis comes in at a random place.
                let place = dice.below(rank + 1);
                let mut to: Vec<usize> = shape.iter().map(|&size| if size == 1 { dice.pick(&[1, 2]) } else { size }).collect();
                to.insert(place, dice.pick(&[1, 2]));
                if element_count(&to) > 64 {
                    continue;
                }
                (Op::BroadcastInDim { shape: to, dims: (0..rank).map(|axis| axis + usize::from(axis >= place)).collect() }, vec![x])
            }
            12 => {
                let starts: Vec<usize> = shape.iter().map(|&size| dice.below(size + 1).min(dice.below(2))).collect();
                (Op::Slice { starts, limits: shape, strides: vec![1 + dice.below(2); rank] }, vec![x])
            }
            13 => {
                let scalar = TensorType::new(ty.dtype, []);
                let scalars: Vec<NodeId> = graph.ids().filter(|id| *graph.ty(*id) == scalar).collect();
                let op = Op::Pad { low: vec![dice.pick(&[0, 1]); rank], high: vec![0; rank], interior: vec![dice.below(2); rank] };
                if scalars.is_empty() || ty.element_count() > 16 {
                    continue;
                }
                (op, vec![x, dice.pick(&scalars)])
            }
            14 if rank > 0 && ty.element_count() < 16 => (Op::Concatenate { axis: dice.below(rank) }, dice.pick(&[vec![x, y], vec![x]])),
            15 => (Op::Reverse { axes: (0..rank).filter(|_| dice.below(2) == 0).collect() }, vec![x]),
            _ => {
                let kind = dice.pick(&[ReduceKind::Sum, ReduceKind::Max, ReduceKind::Prod]);
                (Op::Reduce { kind, axes: (0..rank).filter(|_| dice.below(2) == 0).collect() }, vec![x])
            }
        };
        // A function that is not defined on the type is drawn again.
        let _ = graph.push(op, &inputs, &"".into(), &"".into());
    }
    for index in 0..4 {
        let node = NodeId((graph.nodes.len() - 1 - index * 3) as u32);
        graph.outputs.push(Output { name: format!("y{index}"), node });
    }
    let updated = graph.parameters().next().map(|(_, parameter, ty)| (parameter.name.clone(), ty.clone())).unwrap();
    let last_of_type = graph.ids().rev().find(|id| *graph.ty(*id) == updated.1).unwrap();
    graph.updates.push(Update { state: updated.0, node: last_of_type });
    graph.verify().unwrap();
    graph
}

fn random_inputs(graph: &Graph, seed: u32) -> BTreeMap<String, Tensor> {
    let mut dice = Dice { seed, count: 1 << 20 };
    let mut value = |dtype: DType| match dtype {
        DType::F32 => dice.below(2001) as f64 / 500.0 - 2.0,
        DType::I32 => dice.below(9) as f64 - 4.0,
        DType::Bool => dice.below(2) as f64,
        _ => dice.below(9) as f64,
    };
    let tensor = |ty: &TensorType, value: &mut dyn FnMut(DType) -> f64| {
        let values: Vec<f64> = (0..ty.element_count()).map(|_| value(ty.dtype)).collect();
        Tensor::from_f64(ty, &values)
    };
    graph.parameters().map(|(_, parameter, ty)| (parameter.name.clone(), tensor(ty, &mut value))).collect()
}

#[test]
fn random_graphs_have_the_same_values_before_and_after() {
    let (mut nodes_before, mut nodes_after) = (0, 0);
    for seed in 0..400 {
        println!("seed {seed}");
        let graph = random_graph(seed);
        let simplified = simplify(&graph);
        simplified.verify().unwrap_or_else(|error| panic!("{error}\n{graph}\n{simplified}"));
        nodes_before += graph.nodes.len();
        nodes_after += simplified.nodes.len();
        // Printed, as a constant NaN is not equal to itself.
        assert_eq!(simplify(&simplified).to_string(), simplified.to_string(), "a second pass finds nothing\n{graph}");
        let inputs = random_inputs(&graph, seed);
        let (before, after) = (evaluate(&graph, &inputs).unwrap(), evaluate(&simplified, &inputs).unwrap());
        assert_eq!(before.outputs.keys().collect::<Vec<_>>(), after.outputs.keys().collect::<Vec<_>>());
        for (name, left) in before.outputs.iter().chain(&before.updates) {
            let right = after.outputs.get(name).unwrap_or_else(|| &after.updates[name]);
            assert_eq!(left.ty, right.ty);
            for (x, y) in left.to_f64().into_iter().zip(right.to_f64()) {
                // x^2 as a product and sums of splats round differently: a few units in the last place of f64.
                let equal = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-12 * x.abs().max(y.abs());
                assert!(equal, "`{name}` was {x}, is {y}\n{graph}\n{simplified}");
            }
        }
    }
    assert!(nodes_after * 2 < nodes_before, "{nodes_before} nodes became {nodes_after}");
}

/// Names of the ops of `build(x)`, simplified, with `x` an f32 parameter of `shape`.
fn simplified(shape: &[usize], build: impl Fn(&mut Graph, NodeId) -> NodeId) -> Vec<String> {
    let mut graph = Graph::new("one rewrite");
    let x = parameter(&mut graph, "x", DType::F32, shape);
    let result = build(&mut graph, x);
    graph.outputs.push(Output { name: "y".into(), node: result });
    graph.verify().unwrap();
    let simplified = simplify(&graph);
    simplified.verify().unwrap();
    simplified.nodes.iter().map(|node| node.op.name()).collect()
}

#[test]
fn identities_vanish() {
    let with_splat = |function: BinaryOp, value: f64| {
        simplified(&[2], |graph, x| {
            let splat = constant(graph, DType::F32, &[2], &[value]);
            push(graph, binary(function), &[x, splat])
        })
    };
    assert_eq!(with_splat(BinaryOp::Add, 0.0), ["parameter"]);
    assert_eq!(with_splat(BinaryOp::Subtract, 0.0), ["parameter"]);
    assert_eq!(with_splat(BinaryOp::Multiply, 1.0), ["parameter"]);
    assert_eq!(with_splat(BinaryOp::Divide, 1.0), ["parameter"]);
    assert_eq!(with_splat(BinaryOp::Power, 1.0), ["parameter"]);
    assert_eq!(with_splat(BinaryOp::Power, 2.0), ["parameter", "multiply"]);
    // NaN * 0 is a NaN.
    assert_eq!(with_splat(BinaryOp::Multiply, 0.0), ["parameter", "constant", "multiply"]);
    let twice = |function: UnaryOp| {
        simplified(&[2], |graph, x| {
            let once = push(graph, unary(function), &[x]);
            push(graph, unary(function), &[once])
        })
    };
    assert_eq!(twice(UnaryOp::Negate), ["parameter"]);
    assert_eq!(twice(UnaryOp::Abs), ["parameter", "abs"]);
    let one = |op: Op| simplified(&[2, 1, 3], move |graph, x| push(graph, op.clone(), &[x]));
    assert_eq!(one(Op::StopGradient), ["parameter"]);
    assert_eq!(one(Op::Convert { to: DType::F32 }), ["parameter"]);
    assert_eq!(one(Op::Reshape { shape: vec![2, 1, 3] }), ["parameter"]);
    assert_eq!(one(Op::Transpose { perm: vec![0, 1, 2] }), ["parameter"]);
    // Only an axis of size 1 moves.
    assert_eq!(one(Op::Transpose { perm: vec![1, 0, 2] }), ["parameter", "reshape"]);
    assert_eq!(one(Op::BroadcastInDim { shape: vec![2, 1, 3], dims: vec![0, 1, 2] }), ["parameter"]);
    assert_eq!(one(Op::Slice { starts: vec![0; 3], limits: vec![2, 1, 3], strides: vec![1; 3] }), ["parameter"]);
    assert_eq!(one(Op::Reverse { axes: vec![1] }), ["parameter"]);
    assert_eq!(one(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1] }), ["parameter", "reshape"]);
    assert_eq!(one(Op::AllReduce { kind: ReduceKind::Sum }), ["parameter"]);
}

#[test]
fn movement_composes() {
    let back_and_forth = simplified(&[2, 3, 4], |graph, x| {
        let there = push(graph, Op::Transpose { perm: vec![2, 0, 1] }, &[x]);
        push(graph, Op::Transpose { perm: vec![1, 2, 0] }, &[there])
    });
    assert_eq!(back_and_forth, ["parameter"]);
    let kept_dims = simplified(&[2, 3], |graph, x| {
        let column = push(graph, Op::Reshape { shape: vec![2, 1, 3] }, &[x]);
        push(graph, Op::BroadcastInDim { shape: vec![2, 5, 3], dims: vec![0, 1, 2] }, &[column])
    });
    assert_eq!(kept_dims, ["parameter", "broadcast_in_dim"]);
}

#[test]
fn splats_fold_and_equal_nodes_merge() {
    let mut graph = Graph::new("fold");
    let x = parameter(&mut graph, "x", DType::F32, &[2]);
    let two = constant(&mut graph, DType::F32, &[], &[2.0]);
    let four = push(&mut graph, binary(BinaryOp::Multiply), &[two, two]);
    let wide = push(&mut graph, Op::BroadcastInDim { shape: vec![2], dims: vec![] }, &[four]);
    let left = push(&mut graph, binary(BinaryOp::Multiply), &[x, wide]);
    let other = constant(&mut graph, DType::F32, &[2], &[4.0]);
    let right = push(&mut graph, binary(BinaryOp::Multiply), &[x, other]);
    let sum = push(&mut graph, binary(BinaryOp::Add), &[left, right]);
    graph.outputs.push(Output { name: "y".into(), node: sum });
    let simplified = simplify(&graph);
    let names: Vec<String> = simplified.nodes.iter().map(|node| node.op.name()).collect();
    assert_eq!(names, ["parameter", "constant", "multiply", "add"]);
    assert_eq!(simplified.nodes[3].inputs, [NodeId(2), NodeId(2)]);
}

#[test]
fn zeros_of_both_signs_stay_apart() {
    let mut graph = Graph::new("zeros");
    for (index, zero) in [0.0, -0.0].into_iter().enumerate() {
        let zero = constant(&mut graph, DType::F32, &[2], &[zero]);
        graph.outputs.push(Output { name: format!("y{index}"), node: zero });
    }
    let outputs = evaluate(&simplify(&graph), &BTreeMap::new()).unwrap().outputs;
    assert!(outputs["y0"].to_f64()[0].is_sign_positive() && outputs["y1"].to_f64()[0].is_sign_negative());
}

#[test]
fn updated_state_keeps_its_parameter_and_unread_inputs_go() {
    let mut graph = Graph::new("reset");
    parameter(&mut graph, "count", DType::F32, &[]);
    parameter(&mut graph, "unread", DType::F32, &[]);
    let zero = constant(&mut graph, DType::F32, &[], &[0.0]);
    graph.updates.push(Update { state: "count".into(), node: zero });
    let simplified = simplify(&graph);
    simplified.verify().unwrap();
    assert_eq!(simplified.parameters().map(|(_, parameter, _)| parameter.name.as_str()).collect::<Vec<_>>(), ["count"]);
}

#[test]
fn several_processes_keep_their_all_reduce() {
    let mut graph = Graph::new("several");
    let x = parameter(&mut graph, "x", DType::F32, &[2]);
    let sum = push(&mut graph, Op::AllReduce { kind: ReduceKind::Sum }, &[x]);
    graph.outputs.push(Output { name: "y".into(), node: sum });
    assert_eq!(simplify_for_processes(&graph, 2), graph);
}

/// Two equal values, one of which is differentiated by: merged they would share a gradient.
#[test]
fn graphs_with_gradients_are_left_alone() {
    let mut graph = Graph::new("gradient");
    let x = parameter(&mut graph, "x", DType::F32, &[2]);
    let left = push(&mut graph, unary(UnaryOp::Tanh), &[x]);
    let right = push(&mut graph, unary(UnaryOp::Tanh), &[x]);
    let product = push(&mut graph, binary(BinaryOp::Multiply), &[left, right]);
    let loss = push(&mut graph, Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[product]);
    let gradient = push(&mut graph, Op::Grad, &[loss, left]);
    graph.outputs.push(Output { name: "g".into(), node: gradient });
    assert_eq!(simplify(&graph), graph);
}
