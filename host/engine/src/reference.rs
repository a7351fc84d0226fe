//! The oracle: a graph evaluated node by node, floats in f64, integers with 32-bit wrapping. Written to be read and believed, not to be fast: no
//! fusion, no threads. Devices are compared with it; `simplify.rs` folds constants with it, so that a folded constant is what the graph says.
//!
//! What an op means stands in `solstice_ir::Op`; here it is code. Where floats leave a choice: `Maximum`, `Minimum` and the reductions by them give a
//! NaN when a NaN takes part; `ReduceArg` and `SelectAndScatter` pick the first NaN; `Sign` of a NaN is 0; a float constant is not rounded to f32.

use crate::grad::{GradError, contains_gradient, expand_gradients};
use crate::random::rng_bits;
use solstice_ir::{
    BinaryOp, Compare, ConvolutionGeometry, DType, DotDims, Graph, Literal, Op, Parameter, ReduceKind, ScatterMode, TensorType, UnaryOp,
    Window, element_count, strides_of,
};
use std::collections::BTreeMap;

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A tensor declared f32, held without rounding.
    F64(Vec<f64>),
    /// i32.
    I32(Vec<i32>),
    /// u32.
    U32(Vec<u32>),
    /// bool.
    Bool(Vec<bool>),
    /// u8.
    U8(Vec<u8>),
}

/// A value of the oracle.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Declared type.
    pub ty: TensorType,
    /// As many elements as `ty` says, of its kind.
    pub data: Data,
}

/// Results of a graph by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Value of each output.
    pub outputs: BTreeMap<String, Tensor>,
    /// New value of each updated state tensor.
    pub updates: BTreeMap<String, Tensor>,
}

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// A parameter has no value.
    #[error("parameter `{name}` ({ty}) was not given")]
    Missing {
        /// The parameter.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A parameter's value has another type, or data that do not fill it.
    #[error("parameter `{name}` is {wanted}, got {found} with {elements} elements")]
    Mismatch {
        /// The parameter.
        name: String,
        /// Its type.
        wanted: TensorType,
        /// Type of the value.
        found: TensorType,
        /// Elements of the value.
        elements: usize,
    },
    /// The graph asks for a gradient that does not exist.
    #[error(transparent)]
    Gradient(#[from] GradError),
}

/// Outputs and updates of a verified graph for parameters by name; names that the graph does not have are ignored.
///
/// Floats are taken as given, so a caller may move an "f32" parameter by 1e-9 and see the loss move: finite differences are exact enough to judge
/// gradients by. `Grad` nodes are expanded first, composites run through their bodies, an `AllReduce` is that of a single process.
pub fn evaluate(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Evaluation, ReferenceError> {
    let expanded;
    let graph = if contains_gradient(graph) {
        expanded = expand_gradients(graph)?;
        &expanded
    } else {
        graph
    };
    let mut leaf = |parameter: &Parameter, ty: &TensorType| {
        let name = &parameter.name;
        let value = inputs.get(name).ok_or_else(|| ReferenceError::Missing { name: name.clone(), ty: ty.clone() })?;
        if value.ty != *ty || value.data.len() != ty.element_count() || !value.data.holds(ty.dtype) {
            let (wanted, found, elements) = (ty.clone(), value.ty.clone(), value.data.len());
            return Err(ReferenceError::Mismatch { name: name.clone(), wanted, found, elements });
        }
        Ok(value.clone())
    };
    let outputs = graph.outputs.iter().map(|output| output.node.index());
    let updates = graph.updates.iter().map(|update| update.node.index());
    let mut results = run(graph, &outputs.chain(updates).collect::<Vec<_>>(), &mut leaf)?.into_iter();
    let mut evaluation = Evaluation::default();
    for output in &graph.outputs {
        evaluation.outputs.extend(results.next().map(|value| (output.name.clone(), value)));
    }
    for update in &graph.updates {
        evaluation.updates.extend(results.next().map(|value| (update.state.clone(), value)));
    }
    Ok(evaluation)
}

/// Values of the nodes `roots`.
fn run(
    graph: &Graph,
    roots: &[usize],
    leaf: &mut dyn FnMut(&Parameter, &TensorType) -> Result<Tensor, ReferenceError>,
) -> Result<Vec<Tensor>, ReferenceError> {
    // A value is dropped after its last reader: a training step in f64 would not fit in memory otherwise.
    let mut last_reader: Vec<usize> = (0..graph.nodes.len()).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| last_reader[input.index()] = index);
    }
    roots.iter().for_each(|&root| last_reader[root] = usize::MAX);
    // All results of each node; one, but for composites.
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        let results = match &node.op {
            Op::Parameter(parameter) => vec![leaf(parameter, &node.ty)?],
            Op::Composite { body, .. } => {
                let mut arguments = node.inputs.iter().map(|input| values[input.index()][0].clone());
                let body_roots: Vec<usize> = body.outputs.iter().map(|output| output.node.index()).collect();
                run(body, &body_roots, &mut |_, _| Ok(arguments.next().expect("a verified composite has all its arguments")))?
            }
            Op::Result { index } => vec![values[node.inputs[0].index()][*index].clone()],
            op => {
                let inputs: Vec<&Tensor> = node.inputs.iter().map(|input| &values[input.index()][0]).collect();
                vec![apply(op, &inputs, &node.ty)]
            }
        };
        values.push(results);
        for input in &node.inputs {
            if last_reader[input.index()] == index {
                values[input.index()].clear();
            }
        }
    }
    Ok(roots.iter().map(|&root| values[root][0].clone()).collect())
}

impl Tensor {
    /// A float tensor.
    pub fn f32(shape: impl Into<Vec<usize>>, values: impl Into<Vec<f64>>) -> Self {
        Tensor::new(DType::F32, shape, Data::F64(values.into()))
    }

    /// An i32 tensor.
    pub fn i32(shape: impl Into<Vec<usize>>, values: impl Into<Vec<i32>>) -> Self {
        Tensor::new(DType::I32, shape, Data::I32(values.into()))
    }

    /// A u32 tensor.
    pub fn u32(shape: impl Into<Vec<usize>>, values: impl Into<Vec<u32>>) -> Self {
        Tensor::new(DType::U32, shape, Data::U32(values.into()))
    }

    /// A bool tensor.
    pub fn bool(shape: impl Into<Vec<usize>>, values: impl Into<Vec<bool>>) -> Self {
        Tensor::new(DType::Bool, shape, Data::Bool(values.into()))
    }

    /// A u8 tensor.
    pub fn u8(shape: impl Into<Vec<usize>>, values: impl Into<Vec<u8>>) -> Self {
        Tensor::new(DType::U8, shape, Data::U8(values.into()))
    }

    fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: Data) -> Self {
        let ty = TensorType::new(dtype, shape);
        assert_eq!(data.len(), ty.element_count(), "as many values as {ty} has elements");
        Tensor { ty, data }
    }

    /// A tensor of type `ty` from values that its element type holds exactly (f32: any value, unrounded).
    pub fn from_f64(ty: &TensorType, values: &[f64]) -> Self {
        assert_eq!(values.len(), ty.element_count(), "as many values as {ty} has elements");
        Tensor { ty: ty.clone(), data: Data::F64(values.to_vec()).converted(ty.dtype) }
    }

    /// The value of a constant.
    pub fn from_literal(literal: &Literal) -> Self {
        let values: Vec<f64> = (0..literal.ty.element_count()).map(|index| literal.value(index)).collect();
        Tensor::from_f64(&literal.ty, &values)
    }

    /// Elements as f64, exact for every type; bool is 0 or 1.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.data.len()).map(|index| self.data.number(index)).collect()
    }

    fn floats(&self) -> &[f64] {
        match &self.data {
            Data::F64(values) => values,
            other => panic!("a verified graph has floats here, not {other:?}"),
        }
    }

    /// A tensor of type `ty` made of elements of this one.
    fn pick(&self, ty: &TensorType, positions: &[usize]) -> Tensor {
        fn at<T: Copy>(values: &[T], positions: &[usize]) -> Vec<T> {
            positions.iter().map(|&position| values[position]).collect()
        }
        let data = match &self.data {
            Data::F64(values) => Data::F64(at(values, positions)),
            Data::I32(values) => Data::I32(at(values, positions)),
            Data::U32(values) => Data::U32(at(values, positions)),
            Data::Bool(values) => Data::Bool(at(values, positions)),
            Data::U8(values) => Data::U8(at(values, positions)),
        };
        Tensor { ty: ty.clone(), data }
    }
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F64(values) => values.len(),
            Data::I32(values) => values.len(),
            Data::U32(values) => values.len(),
            Data::Bool(values) => values.len(),
            Data::U8(values) => values.len(),
        }
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn holds(&self, dtype: DType) -> bool {
        matches!(
            (self, dtype),
            (Data::F64(_), DType::F32)
                | (Data::I32(_), DType::I32)
                | (Data::U32(_), DType::U32)
                | (Data::Bool(_), DType::Bool)
                | (Data::U8(_), DType::U8)
        )
    }

    fn number(&self, index: usize) -> f64 {
        match self {
            Data::F64(values) => values[index],
            Data::I32(values) => f64::from(values[index]),
            Data::U32(values) => f64::from(values[index]),
            Data::Bool(values) => f64::from(u8::from(values[index])),
            Data::U8(values) => f64::from(values[index]),
        }
    }

    /// `Op::Convert`: float to integer truncates and saturates (a NaN gives 0), between integers the bits stay, to bool is `!= 0`.
    fn converted(&self, to: DType) -> Data {
        let numbers = || (0..self.len()).map(|index| self.number(index));
        match (to, self) {
            (DType::F32, _) => Data::F64(numbers().collect()),
            (DType::Bool, _) => Data::Bool(numbers().map(|value| value != 0.0).collect()),
            (DType::I32, Data::U32(values)) => Data::I32(values.iter().map(|&value| value as i32).collect()),
            (DType::U32, Data::I32(values)) => Data::U32(values.iter().map(|&value| value as u32).collect()),
            (DType::I32, _) => Data::I32(numbers().map(|value| value as i32).collect()),
            (DType::U32, _) => Data::U32(numbers().map(|value| value as u32).collect()),
            (DType::U8, _) => Data::U8(numbers().map(|value| value as u8).collect()),
        }
    }

    /// `Op::BitcastConvert`; a float is rounded to f32 first, as only then has it bits.
    fn bitcast(&self, to: DType) -> Data {
        let words: Vec<u32> = match self {
            Data::F64(values) => values.iter().map(|&value| (value as f32).to_bits()).collect(),
            Data::I32(values) => values.iter().map(|&value| value as u32).collect(),
            Data::U32(values) => values.clone(),
            Data::Bool(_) | Data::U8(_) => panic!("a verified graph has no bitcast from bool or u8"),
        };
        match to {
            DType::F32 => Data::F64(words.into_iter().map(|word| f64::from(f32::from_bits(word))).collect()),
            DType::I32 => Data::I32(words.into_iter().map(|word| word as i32).collect()),
            DType::U32 => Data::U32(words),
            DType::Bool | DType::U8 => panic!("a verified graph has no bitcast to bool or u8"),
        }
    }
}

/// One primitive on values; `ty` is the verified type of the result.
pub(crate) fn apply(op: &Op, inputs: &[&Tensor], ty: &TensorType) -> Tensor {
    let with_data = |data: Data| Tensor { ty: ty.clone(), data };
    match op {
        Op::Constant { value } => Tensor::from_literal(value),
        Op::Iota { axis } => {
            let counted: Vec<f64> = map_indices(&ty.shape, |index| index[*axis] as f64);
            Tensor::from_f64(ty, &counted)
        }
        Op::RngBits { stream } => {
            let (seed, step) = (integer(inputs[0], 0) as u32, integer(inputs[1], 0) as u32);
            with_data(Data::U32((0..ty.element_count()).map(|element| rng_bits(seed, *stream, step, element as u32)).collect()))
        }
        Op::Unary { function } => with_data(unary(*function, &inputs[0].data)),
        Op::Binary { function } => with_data(binary(*function, &inputs[0].data, &inputs[1].data)),
        Op::Compare { direction } => with_data(Data::Bool(compare(*direction, inputs[0], inputs[1]))),
        Op::Convert { to } => with_data(inputs[0].data.converted(*to)),
        Op::BitcastConvert { to } => with_data(inputs[0].data.bitcast(*to)),
        Op::Select => {
            let Data::Bool(predicate) = &inputs[0].data else { panic!("a verified predicate is bool") };
            let count = predicate.len();
            let chosen: Vec<usize> = (0..count).map(|index| if predicate[index] { index } else { count + index }).collect();
            joined(&inputs[1..]).pick(ty, &chosen)
        }
        Op::StopGradient | Op::AllReduce { .. } => inputs[0].clone(),
        Op::Reshape { .. } => with_data(inputs[0].data.clone()),
        Op::Transpose { perm } => {
            let strides = strides_of(&inputs[0].ty.shape);
            let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
            inputs[0].pick(ty, &map_indices(&ty.shape, |index| offset(index, &strides)))
        }
        Op::BroadcastInDim { dims, .. } => {
            let shape = &inputs[0].ty.shape;
            let strides = strides_of(shape);
            let source =
                |index: &[usize]| (0..dims.len()).map(|axis| if shape[axis] == 1 { 0 } else { index[dims[axis]] * strides[axis] }).sum();
            inputs[0].pick(ty, &map_indices(&ty.shape, source))
        }
        Op::Slice { starts, strides: steps, .. } => {
            let strides = strides_of(&inputs[0].ty.shape);
            let source = |index: &[usize]| (0..index.len()).map(|axis| (starts[axis] + index[axis] * steps[axis]) * strides[axis]).sum();
            inputs[0].pick(ty, &map_indices(&ty.shape, source))
        }
        Op::Pad { low, interior, .. } => pad(inputs[0], inputs[1], low, interior, ty),
        Op::Concatenate { axis } => concatenate(inputs, *axis, ty),
        Op::Reverse { axes } => {
            let shape = &ty.shape;
            let strides = strides_of(shape);
            let turned = |axis: usize, index: usize| if axes.contains(&axis) { shape[axis] - 1 - index } else { index };
            let source = |index: &[usize]| (0..index.len()).map(|axis| turned(axis, index[axis]) * strides[axis]).sum();
            inputs[0].pick(ty, &map_indices(shape, source))
        }
        Op::Gather { axis, batch_dims } => {
            inputs[0].pick(ty, &indexed_positions(&inputs[0].ty.shape, inputs[1], *axis, *batch_dims, &ty.shape))
        }
        Op::Scatter { axis, batch_dims, mode } => {
            let [x, indices, updates] = inputs else { panic!("a verified scatter has three inputs") };
            let targets = indexed_positions(&x.ty.shape, indices, *axis, *batch_dims, &updates.ty.shape);
            scatter(*mode, x, &targets, updates)
        }
        Op::DynamicSlice { sizes } => {
            let x = inputs[0];
            let starts = clamped_starts(&x.ty.shape, sizes, &inputs[1..]);
            let strides = strides_of(&x.ty.shape);
            x.pick(ty, &map_indices(sizes, |index| offset(index, &strides) + offset(&starts, &strides)))
        }
        Op::DynamicUpdateSlice => {
            let (x, block) = (inputs[0], inputs[1]);
            let starts = clamped_starts(&x.ty.shape, &block.ty.shape, &inputs[2..]);
            let strides = strides_of(&x.ty.shape);
            let targets = map_indices(&block.ty.shape, |index| offset(index, &strides) + offset(&starts, &strides));
            scatter(ScatterMode::Set, x, &targets, block)
        }
        Op::Reduce { kind, axes } => with_data(reduce(*kind, &inputs[0].data, &axis_groups(&inputs[0].ty.shape, axes))),
        Op::ReduceArg { kind, axis } => {
            let x = inputs[0];
            let stride = strides_of(&x.ty.shape)[*axis];
            let groups = axis_groups(&x.ty.shape, &[*axis]);
            let first = |group: &Vec<usize>| {
                let chosen = selected(*kind, &x.data, group).expect("a verified axis is not empty");
                ((chosen - group[0]) / stride) as i32
            };
            with_data(Data::I32(groups.iter().map(first).collect()))
        }
        Op::ReduceWindow { kind, window } => {
            with_data(reduce(*kind, &inputs[0].data, &window_groups(&inputs[0].ty.shape, window, &ty.shape)))
        }
        Op::SelectAndScatter { kind, window } => {
            let (x, gradient) = (inputs[0], inputs[1]);
            let mut result = vec![0.0; ty.element_count()];
            for (group, value) in window_groups(&ty.shape, window, &gradient.ty.shape).iter().zip(gradient.floats()) {
                // A window that lies wholly in the padding selects nothing.
                if let Some(target) = selected(*kind, &x.data, group) {
                    result[target] += value;
                }
            }
            with_data(Data::F64(result))
        }
        Op::DotGeneral { dims } => with_data(Data::F64(dot_general(inputs[0], inputs[1], dims))),
        Op::Convolution { geometry } => {
            let (x, weight) = (inputs[0].floats(), inputs[1].floats());
            let mut result = vec![0.0; ty.element_count()];
            for_each_tap(geometry, &inputs[0].ty.shape, &inputs[1].ty.shape, &ty.shape, |i, w, o| result[o] += x[i] * weight[w]);
            with_data(Data::F64(result))
        }
        Op::ConvolutionInputGrad { geometry, .. } => {
            let (gradient, weight) = (inputs[0].floats(), inputs[1].floats());
            let mut result = vec![0.0; ty.element_count()];
            for_each_tap(geometry, &ty.shape, &inputs[1].ty.shape, &inputs[0].ty.shape, |i, w, o| result[i] += gradient[o] * weight[w]);
            with_data(Data::F64(result))
        }
        Op::ConvolutionWeightGrad { geometry, .. } => {
            let (x, gradient) = (inputs[0].floats(), inputs[1].floats());
            let mut result = vec![0.0; ty.element_count()];
            for_each_tap(geometry, &inputs[0].ty.shape, &ty.shape, &inputs[1].ty.shape, |i, w, o| result[w] += x[i] * gradient[o]);
            with_data(Data::F64(result))
        }
        Op::Parameter(_) | Op::Composite { .. } | Op::Result { .. } | Op::Grad => panic!("`{}` is no primitive on values", op.name()),
    }
}

fn unary(function: UnaryOp, x: &Data) -> Data {
    match x {
        Data::F64(values) => Data::F64(values.iter().map(|&value| unary_f64(function, value)).collect()),
        Data::I32(values) => Data::I32(values.iter().map(|&value| unary_i32(function, value)).collect()),
        Data::U32(values) if function == UnaryOp::Not => Data::U32(values.iter().map(|&value| !value).collect()),
        Data::Bool(values) if function == UnaryOp::Not => Data::Bool(values.iter().map(|&value| !value).collect()),
        other => panic!("a verified graph has no {function:?} of {other:?}"),
    }
}

fn unary_f64(function: UnaryOp, x: f64) -> f64 {
    match function {
        UnaryOp::Negate => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Exponential => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Tanh => x.tanh(),
        // exp of a positive number may overflow; of a negative one it may only vanish.
        UnaryOp::Logistic if x >= 0.0 => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Logistic => x.exp() / (1.0 + x.exp()),
        UnaryOp::Sine => x.sin(),
        UnaryOp::Cosine => x.cos(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Not => panic!("a verified graph has no `not` of floats"),
    }
}

fn unary_i32(function: UnaryOp, x: i32) -> i32 {
    match function {
        UnaryOp::Negate => x.wrapping_neg(),
        UnaryOp::Abs => x.wrapping_abs(),
        UnaryOp::Sign => x.signum(),
        UnaryOp::Not => !x,
        other => panic!("a verified graph has no {other:?} of integers"),
    }
}

fn binary(function: BinaryOp, lhs: &Data, rhs: &Data) -> Data {
    fn zip<T: Copy>(lhs: &[T], rhs: &[T], function: impl Fn(T, T) -> T) -> Vec<T> {
        lhs.iter().zip(rhs).map(|(&left, &right)| function(left, right)).collect()
    }
    match (lhs, rhs) {
        (Data::F64(lhs), Data::F64(rhs)) => Data::F64(zip(lhs, rhs, |x, y| binary_f64(function, x, y))),
        (Data::I32(lhs), Data::I32(rhs)) => Data::I32(zip(lhs, rhs, |x, y| binary_i32(function, x, y))),
        (Data::U32(lhs), Data::U32(rhs)) => Data::U32(zip(lhs, rhs, |x, y| binary_u32(function, x, y))),
        (Data::Bool(lhs), Data::Bool(rhs)) => Data::Bool(zip(lhs, rhs, |x, y| match function {
            BinaryOp::And => x & y,
            BinaryOp::Or => x | y,
            BinaryOp::Xor => x ^ y,
            other => panic!("a verified graph has no {other:?} of bools"),
        })),
        _ => panic!("a verified {function:?} has two sides of one type"),
    }
}

fn binary_f64(function: BinaryOp, x: f64, y: f64) -> f64 {
    match function {
        BinaryOp::Add => x + y,
        BinaryOp::Subtract => x - y,
        BinaryOp::Multiply => x * y,
        BinaryOp::Divide => x / y,
        BinaryOp::Maximum if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Maximum => x.max(y),
        BinaryOp::Minimum if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Minimum => x.min(y),
        BinaryOp::Power => x.powf(y),
        BinaryOp::Remainder => x % y,
        other => panic!("a verified graph has no {other:?} of floats"),
    }
}

fn binary_i32(function: BinaryOp, x: i32, y: i32) -> i32 {
    match function {
        BinaryOp::Divide if y == 0 => 0,
        BinaryOp::Divide => x.wrapping_div(y),
        BinaryOp::Remainder if y == 0 => 0,
        BinaryOp::Remainder => x.wrapping_rem(y),
        BinaryOp::Maximum => x.max(y),
        BinaryOp::Minimum => x.min(y),
        // The rest works on the bits alone.
        _ => binary_u32(function, x as u32, y as u32) as i32,
    }
}

fn binary_u32(function: BinaryOp, x: u32, y: u32) -> u32 {
    match function {
        BinaryOp::Add => x.wrapping_add(y),
        BinaryOp::Subtract => x.wrapping_sub(y),
        BinaryOp::Multiply => x.wrapping_mul(y),
        BinaryOp::Divide => x.checked_div(y).unwrap_or(0),
        BinaryOp::Remainder => x.checked_rem(y).unwrap_or(0),
        BinaryOp::Maximum => x.max(y),
        BinaryOp::Minimum => x.min(y),
        BinaryOp::And => x & y,
        BinaryOp::Or => x | y,
        BinaryOp::Xor => x ^ y,
        BinaryOp::ShiftLeft => x.checked_shl(y).unwrap_or(0),
        BinaryOp::ShiftRight => x.checked_shr(y).unwrap_or(0),
        BinaryOp::Power => panic!("a verified graph has no power of integers"),
    }
}

fn compare(direction: Compare, lhs: &Tensor, rhs: &Tensor) -> Vec<bool> {
    // f64 holds every element of every type exactly, and orders them as their own type does.
    let pairs = lhs.to_f64().into_iter().zip(rhs.to_f64());
    let test: fn(f64, f64) -> bool = match direction {
        Compare::Equal => |x, y| x == y,
        Compare::NotEqual => |x, y| x != y,
        Compare::Less => |x, y| x < y,
        Compare::LessEqual => |x, y| x <= y,
        Compare::Greater => |x, y| x > y,
        Compare::GreaterEqual => |x, y| x >= y,
    };
    pairs.map(|(x, y)| test(x, y)).collect()
}

fn pad(x: &Tensor, value: &Tensor, low: &[i64], interior: &[usize], ty: &TensorType) -> Tensor {
    let shape = &x.ty.shape;
    let strides = strides_of(shape);
    let positions = map_indices(&ty.shape, |index| {
        let mut position = 0;
        for axis in 0..index.len() {
            // Place on the axis of x with its interior padding; outside it and between its elements stands the value, which is joined behind x.
            let place = index[axis] as i64 - low[axis];
            let step = interior[axis] as i64 + 1;
            if place < 0 || place % step != 0 || place / step >= shape[axis] as i64 {
                return x.data.len();
            }
            position += (place / step) as usize * strides[axis];
        }
        position
    });
    joined(&[x, value]).pick(ty, &positions)
}

fn concatenate(inputs: &[&Tensor], axis: usize, ty: &TensorType) -> Tensor {
    // For each place on the axis: where its part starts in the joined data, the part, and the place within the part.
    let mut places = Vec::with_capacity(ty.shape[axis]);
    let mut start = 0;
    for input in inputs {
        places.extend((0..input.ty.shape[axis]).map(|place| (start, strides_of(&input.ty.shape), place)));
        start += input.data.len();
    }
    let source = |index: &[usize]| {
        let (start, strides, place) = &places[index[axis]];
        start + offset(index, strides) - index[axis] * strides[axis] + place * strides[axis]
    };
    joined(inputs).pick(ty, &map_indices(&ty.shape, source))
}

/// For each element `[b.., o.., i.., s..]` of a gather's result, or of a scatter's updates, its position in x.
fn indexed_positions(x_shape: &[usize], indices: &Tensor, axis: usize, batch_dims: usize, shape: &[usize]) -> Vec<usize> {
    let (x_strides, index_strides) = (strides_of(x_shape), strides_of(&indices.ty.shape));
    let index_axes = indices.ty.rank() - batch_dims;
    map_indices(shape, |index| {
        let (outer, rest) = index.split_at(axis);
        let (place, inner) = rest.split_at(index_axes);
        let index_position = offset(&outer[..batch_dims], &index_strides) + offset(place, &index_strides[batch_dims..]);
        let chosen = integer(indices, index_position).clamp(0, x_shape[axis] as i64 - 1) as usize;
        offset(outer, &x_strides) + chosen * x_strides[axis] + offset(inner, &x_strides[axis + 1..])
    })
}

fn scatter(mode: ScatterMode, x: &Tensor, targets: &[usize], updates: &Tensor) -> Tensor {
    fn combine<T: Copy>(x: &mut [T], targets: &[usize], updates: &[T], function: impl Fn(T, T) -> T) {
        targets.iter().zip(updates).for_each(|(&target, &update)| x[target] = function(x[target], update));
    }
    let mut result = x.clone();
    match (mode, &mut result.data, &updates.data) {
        (ScatterMode::Add, Data::F64(x), Data::F64(updates)) => combine(x, targets, updates, |old, update| old + update),
        (ScatterMode::Add, Data::I32(x), Data::I32(updates)) => combine(x, targets, updates, i32::wrapping_add),
        (ScatterMode::Add, Data::U32(x), Data::U32(updates)) => combine(x, targets, updates, u32::wrapping_add),
        // The sum of truth values is whether one of them holds.
        (ScatterMode::Add, Data::Bool(x), Data::Bool(updates)) => combine(x, targets, updates, |old, update| old | update),
        (ScatterMode::Set, ..) => {
            let mut positions: Vec<usize> = (0..x.data.len()).collect();
            targets.iter().enumerate().for_each(|(update, &target)| positions[target] = x.data.len() + update);
            return joined(&[x, updates]).pick(&x.ty, &positions);
        }
        _ => panic!("a verified scatter has x and updates of one type that adds"),
    }
    result
}

/// Starts of a block of `sizes`, each moved so that the block lies within `shape`.
fn clamped_starts(shape: &[usize], sizes: &[usize], starts: &[&Tensor]) -> Vec<usize> {
    let clamped = |axis: usize| integer(starts[axis], 0).clamp(0, (shape[axis] - sizes[axis]) as i64) as usize;
    (0..shape.len()).map(clamped).collect()
}

/// Positions that fold into each element of a reduction, in row-major order.
fn axis_groups(shape: &[usize], axes: &[usize]) -> Vec<Vec<usize>> {
    let strides = strides_of(shape);
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
    let within = offsets_along(shape, &strides, axes);
    offsets_along(shape, &strides, &kept).iter().map(|start| within.iter().map(|step| start + step).collect()).collect()
}

/// Positions in x under each window, in row-major order; the padding holds the identity and is left out.
fn window_groups(shape: &[usize], window: &Window, windows_shape: &[usize]) -> Vec<Vec<usize>> {
    let strides = strides_of(shape);
    map_indices(windows_shape, |at| {
        let positions = map_indices(&window.size, |inside| {
            (0..shape.len()).try_fold(0, |position, axis| {
                let place = (at[axis] * window.strides[axis] + inside[axis]).checked_sub(window.low[axis])?;
                (place < shape[axis]).then_some(position + place * strides[axis])
            })
        });
        positions.into_iter().flatten().collect()
    })
}

fn reduce(kind: ReduceKind, x: &Data, groups: &[Vec<usize>]) -> Data {
    fn fold<T: Copy>(values: &[T], groups: &[Vec<usize>], identity: T, function: impl Fn(T, T) -> T) -> Vec<T> {
        groups.iter().map(|group| group.iter().fold(identity, |total, &position| function(total, values[position]))).collect()
    }
    let (function, float, signed, unsigned) = match kind {
        ReduceKind::Sum => (BinaryOp::Add, 0.0, 0, 0),
        ReduceKind::Prod => (BinaryOp::Multiply, 1.0, 1, 1),
        ReduceKind::Max => (BinaryOp::Maximum, f64::NEG_INFINITY, i32::MIN, u32::MIN),
        ReduceKind::Min => (BinaryOp::Minimum, f64::INFINITY, i32::MAX, u32::MAX),
    };
    match x {
        Data::F64(values) => Data::F64(fold(values, groups, float, |x, y| binary_f64(function, x, y))),
        Data::I32(values) => Data::I32(fold(values, groups, signed, |x, y| binary_i32(function, x, y))),
        Data::U32(values) => Data::U32(fold(values, groups, unsigned, |x, y| binary_u32(function, x, y))),
        other => panic!("a verified graph has no reduction of {other:?}"),
    }
}

/// Position of the first largest (smallest) element of a group; a NaN is larger (smaller) than any number.
fn selected(kind: ReduceKind, x: &Data, group: &[usize]) -> Option<usize> {
    let better = |new: f64, best: f64| match kind {
        ReduceKind::Min => new < best || (new.is_nan() && !best.is_nan()),
        _ => new > best || (new.is_nan() && !best.is_nan()),
    };
    group.iter().copied().reduce(|best, position| if better(x.number(position), x.number(best)) { position } else { best })
}

fn dot_general(lhs: &Tensor, rhs: &Tensor, dims: &DotDims) -> Vec<f64> {
    let along = |tensor: &Tensor, axes: &[usize]| offsets_along(&tensor.ty.shape, &strides_of(&tensor.ty.shape), axes);
    let lhs_free = along(lhs, &DotDims::free(lhs.ty.rank(), &dims.lhs_batch, &dims.lhs_contract));
    let rhs_free = along(rhs, &DotDims::free(rhs.ty.rank(), &dims.rhs_batch, &dims.rhs_contract));
    let (lhs_contract, rhs_contract) = (along(lhs, &dims.lhs_contract), along(rhs, &dims.rhs_contract));
    let (lhs_values, rhs_values) = (lhs.floats(), rhs.floats());
    let mut result = Vec::new();
    for (lhs_batch, rhs_batch) in along(lhs, &dims.lhs_batch).iter().zip(along(rhs, &dims.rhs_batch)) {
        for row in &lhs_free {
            for column in &rhs_free {
                let products = lhs_contract.iter().zip(&rhs_contract);
                result.push(products.map(|(i, j)| lhs_values[lhs_batch + row + i] * rhs_values[rhs_batch + column + j]).sum());
            }
        }
    }
    result
}

/// Calls `tap` with the positions (input, weight, output) of every product of a convolution.
fn for_each_tap(
    geometry: &ConvolutionGeometry,
    input_shape: &[usize],
    weight_shape: &[usize],
    output_shape: &[usize],
    mut tap: impl FnMut(usize, usize, usize),
) {
    let (input_spatial, kernel, output_spatial) = (&input_shape[2..], &weight_shape[2..], &output_shape[2..]);
    let (input_strides, kernel_strides, output_strides) = (strides_of(input_spatial), strides_of(kernel), strides_of(output_spatial));
    let mut spatial_taps = Vec::new();
    for_each_index(output_spatial, |at| {
        for_each_index(kernel, |inside| {
            let input = (0..at.len()).try_fold(0, |position, axis| {
                let place = at[axis] * geometry.strides[axis] + inside[axis] * geometry.dilation[axis];
                let place = place.checked_sub(geometry.low[axis])?;
                (place < input_spatial[axis]).then_some(position + place * input_strides[axis])
            });
            spatial_taps.extend(input.map(|input| (input, offset(inside, &kernel_strides), offset(at, &output_strides))));
        });
    });
    let (input_size, kernel_size, output_size) = (element_count(input_spatial), element_count(kernel), element_count(output_spatial));
    let (outputs, group_inputs) = (weight_shape[0], weight_shape[1]);
    let group_outputs = outputs / geometry.groups;
    for batch in 0..input_shape[0] {
        for output in 0..outputs {
            for group_input in 0..group_inputs {
                let input = output / group_outputs * group_inputs + group_input;
                let input_start = (batch * input_shape[1] + input) * input_size;
                let weight_start = (output * group_inputs + group_input) * kernel_size;
                let output_start = (batch * outputs + output) * output_size;
                for (i, w, o) in &spatial_taps {
                    tap(input_start + i, weight_start + w, output_start + o);
                }
            }
        }
    }
}

/// Data of tensors of one element type one after the other.
fn joined(inputs: &[&Tensor]) -> Tensor {
    let mut data = inputs[0].data.clone();
    for input in &inputs[1..] {
        match (&mut data, &input.data) {
            (Data::F64(all), Data::F64(more)) => all.extend(more),
            (Data::I32(all), Data::I32(more)) => all.extend(more),
            (Data::U32(all), Data::U32(more)) => all.extend(more),
            (Data::Bool(all), Data::Bool(more)) => all.extend(more),
            (Data::U8(all), Data::U8(more)) => all.extend(more),
            _ => panic!("a verified graph joins tensors of one element type"),
        }
    }
    Tensor { ty: TensorType::new(inputs[0].ty.dtype, [data.len()]), data }
}

fn integer(tensor: &Tensor, position: usize) -> i64 {
    tensor.data.number(position) as i64
}

fn offset(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(place, stride)| place * stride).sum()
}

/// Offsets of all combinations of places along `axes`, the last axis fastest.
fn offsets_along(shape: &[usize], strides: &[usize], axes: &[usize]) -> Vec<usize> {
    let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let strides: Vec<usize> = axes.iter().map(|&axis| strides[axis]).collect();
    map_indices(&sizes, |index| offset(index, &strides))
}

/// `function` of every index of `shape` in row-major order.
fn map_indices<T>(shape: &[usize], mut function: impl FnMut(&[usize]) -> T) -> Vec<T> {
    let mut values = Vec::with_capacity(element_count(shape));
    for_each_index(shape, |index| values.push(function(index)));
    values
}

fn for_each_index(shape: &[usize], mut function: impl FnMut(&[usize])) {
    let mut index = vec![0; shape.len()];
    for _ in 0..element_count(shape) {
        function(&index);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}
