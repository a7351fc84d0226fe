//! Graphs that reach every kernel of the GPU device.
#![allow(dead_code)]

use crate::device::Case;
use solstice_ir::{BinaryOp, ConvolutionGeometry, DType, DotDims, Op, ReduceKind, Role, ScatterMode, TensorType, UnaryOp, Window};

/// Every elementwise function and awkward constants in chains that make sense to a compiler only.
pub fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [1, 7, 64] {
        let mut case = Case::new("elementwise", 1);
        let x = case.input("x", &[3, size]);
        let table = case.random("table", Role::Table, DType::U8, &[3, size]);
        let table = case.op(Op::Convert { to: DType::F32 }, &[table]);
        let mut y = case.binary(BinaryOp::Power, x, table);
        use UnaryOp::*;
        for function in [Negate, Abs, Sign, Floor, Exponential, Log, Sqrt, Rsqrt, Tanh, Logistic, Sine, Cosine, Erf] {
            y = case.unary(function, y);
        }
        for function in [BinaryOp::Divide, BinaryOp::Maximum, BinaryOp::Minimum, BinaryOp::Remainder] {
            y = case.binary(function, y, x);
        }
        for value in [0.0, -0.0, -1.5, 1e-45, 3e38, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1] {
            let constant = case.splat(x, value);
            let smaller = case.binary(BinaryOp::Minimum, x, constant);
            y = case.add(y, smaller);
        }
        case.output("y", y);
        let (seed, step) = (case.scalar("seed", DType::U32, 7.0), case.scalar("step", DType::U32, 1.0));
        let ty = TensorType::new(DType::U32, [size, 5]);
        let bits = case.graph.push_typed(Op::RngBits { stream: 5 }, vec![seed, step], ty.clone(), "".into(), "".into());
        let iota = case.leaf(Op::Iota { axis: 0 }, ty);
        let mut whole = bits;
        use BinaryOp::{And, Divide, Maximum, Remainder, ShiftLeft, ShiftRight, Xor};
        for function in [And, Divide, Maximum, Remainder, ShiftLeft, ShiftRight, Xor] {
            whole = case.binary(function, whole, iota);
        }
        let signed = case.op(Op::Convert { to: DType::I32 }, &[whole]);
        let least = case.splat(signed, f64::from(i32::MIN));
        let signed = case.binary(Maximum, signed, least);
        case.output("whole", signed);
        let float = case.op(Op::BitcastConvert { to: DType::F32 }, &[whole]);
        let back = case.op(Op::Convert { to: DType::I32 }, &[float]);
        case.output("back", back);
        cases.push(case);
    }
    cases
}

/// The other kernels in the variants that change their text: widths, splits, layouts, element types. The numbers make sense.
pub fn every_other_kernel() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, axes) in
        [(vec![8, 12], vec![1]), (vec![8, 12], vec![0]), (vec![7, 13], vec![0, 1]), (vec![300_000], vec![0]), (vec![0, 3], vec![0])]
    {
        let mut case = Case::new("reductions", 2);
        for dtype in [DType::F32, DType::I32, DType::U32] {
            let x = case.random(&format!("x {dtype}"), Role::Input, dtype, &shape);
            for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min, ReduceKind::Prod] {
                let y = case.reduce(kind, x, &axes);
                case.output(&format!("{kind:?} {dtype}"), y);
            }
            if shape[0] > 0 {
                let y = case.op(Op::ReduceArg { kind: ReduceKind::Min, axis: 0 }, &[x]);
                case.output(&format!("arg {dtype}"), y);
            }
        }
        cases.push(case);
    }
    for (rows, inner, columns) in [(1, 1, 1), (64, 64, 64), (13, 7, 3), (3, 9000, 2), (128, 512, 10), (512, 128, 784)] {
        for is_transposed in [false, true] {
            let mut case = Case::new("products", 3);
            let x = case.input("x", &if is_transposed { [2, inner, rows] } else { [2, rows, inner] });
            let y = case.input("y", &if is_transposed { [2, columns, inner] } else { [2, inner, columns] });
            let (left, right) = if is_transposed { (1, 2) } else { (2, 1) };
            let dims = DotDims { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![left], rhs_contract: vec![right] };
            let z = case.op(Op::DotGeneral { dims }, &[x, y]);
            case.output("z", z);
            cases.push(case);
        }
    }
    for spatial in 1..=3 {
        let mut case = Case::new("convolutions", 4);
        let geometry = ConvolutionGeometry {
            strides: vec![2; spatial],
            low: vec![1; spatial],
            high: vec![0; spatial],
            dilation: vec![2; spatial],
            groups: 2,
        };
        let shape = |a: usize, b: usize, size: usize| [vec![a, b], vec![size; spatial]].concat();
        let x = case.input("x", &shape(2, 4, 9));
        let weight = case.input("weight", &shape(6, 2, 3));
        let y = case.op(Op::Convolution { geometry: geometry.clone() }, &[x, weight]);
        let dx = case.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial: vec![9; spatial] }, &[y, weight]);
        let dw = case.op(Op::ConvolutionWeightGrad { geometry, kernel_spatial: vec![3; spatial] }, &[x, y]);
        for (name, node) in [("y", y), ("dx", dx), ("dw", dw)] {
            case.output(name, node);
        }
        cases.push(case);
    }
    let mut case = Case::new("windows and indices", 5);
    let x = case.input("x", &[2, 3, 9, 8]);
    let window = Window { size: vec![1, 1, 3, 2], strides: vec![1, 1, 2, 1], low: vec![0, 0, 1, 1], high: vec![0, 0, 1, 0] };
    for kind in [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min] {
        let y = case.op(Op::ReduceWindow { kind, window: window.clone() }, &[x]);
        case.output(&format!("{kind:?}"), y);
        if kind != ReduceKind::Sum {
            let z = case.op(Op::SelectAndScatter { kind, window: window.clone() }, &[x, y]);
            case.output(&format!("select {kind:?}"), z);
        }
    }
    for (count, index_dtype) in [(5, DType::I32), (100, DType::U32)] {
        let indices = case.random(&format!("indices {count}"), Role::Input, index_dtype, &[count]);
        for (dtype, inner) in [(DType::F32, 8), (DType::F32, 3), (DType::I32, 4), (DType::Bool, 4), (DType::U8, 8), (DType::U8, 3)] {
            let name = format!("{dtype} {inner} {count}");
            let table = case.random(&format!("table {name}"), Role::Table, dtype, &[13, inner]);
            let rows = case.op(Op::Gather { axis: 0, batch_dims: 0 }, &[table, indices]);
            if dtype == DType::U8 {
                let wide = case.op(Op::Convert { to: DType::F32 }, &[rows]);
                case.output(&format!("rows {name}"), wide);
                continue;
            }
            case.output(&format!("rows {name}"), rows);
            for mode in [ScatterMode::Add, ScatterMode::Set] {
                let back = case.op(Op::Scatter { axis: 0, batch_dims: 0, mode }, &[table, indices, rows]);
                case.output(&format!("{mode:?} {name}"), back);
            }
        }
    }
    let starts: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| case.scalar(name, DType::I32, 1.0)).collect();
    let mut inputs = vec![x];
    inputs.extend(&starts);
    let block = case.op(Op::DynamicSlice { sizes: vec![1, 3, 2, 5] }, &inputs);
    inputs.insert(1, block);
    let whole = case.op(Op::DynamicUpdateSlice, &inputs);
    case.output("block", block);
    case.output("whole", whole);
    cases.push(case);
    cases
}
