//! Shape and type rules: one arm an op. A message says what was wanted and what came; the caller adds the place.

use crate::{BinaryOp, ConvolutionGeometry, DType, DotDims, Graph, NodeId, Op, ReduceKind, TensorType, UnaryOp, Window};

/// Why inputs do not fit an op. The message names the op's rule and both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ShapeError {
    /// The sentence.
    pub message: String,
}

fn error<T>(message: impl Into<String>) -> Result<T, ShapeError> {
    Err(ShapeError { message: message.into() })
}

/// Type of the (first) result of `op` on `inputs`, which are nodes of `graph`.
///
/// Leaves carry their own type and are an error here.
pub fn infer(graph: &Graph, op: &Op, inputs: &[NodeId]) -> Result<TensorType, ShapeError> {
    if let Some(bad) = inputs.iter().find(|input| input.index() >= graph.nodes.len()) {
        return error(format!("input %{} is not there", bad.0));
    }
    let types: Vec<&TensorType> = inputs.iter().map(|input| graph.ty(*input)).collect();
    check_arity(op, &types)?;
    if types.iter().any(|ty| ty.dtype == DType::U8) && !matches!(op, Op::Convert { .. } | Op::Gather { .. }) {
        return error("u8 is for storage only: convert it first");
    }
    match op {
        Op::Parameter(_) | Op::Constant { .. } | Op::Iota { .. } | Op::RngBits { .. } => error("a leaf has no type to infer"),
        Op::Unary { function } => unary(*function, types[0]),
        Op::Convert { to } => {
            if *to == DType::U8 {
                return error("nothing converts to u8, which is for storage only");
            }
            Ok(TensorType::new(*to, types[0].shape.clone()))
        }
        Op::BitcastConvert { to } => {
            if matches!(to, DType::Bool | DType::U8) || types[0].dtype == DType::Bool {
                return error(format!("no bitcast from {} to {to}", types[0].dtype));
            }
            Ok(TensorType::new(*to, types[0].shape.clone()))
        }
        Op::Binary { function } => binary(*function, types[0], types[1]),
        Op::Compare { .. } => {
            same(types[0], types[1])?;
            Ok(TensorType::new(DType::Bool, types[0].shape.clone()))
        }
        Op::Select => {
            if types[0].dtype != DType::Bool || types[0].shape != types[1].shape {
                return error(format!("the predicate must be bool{:?}, it is {}", types[1].shape, types[0]));
            }
            same(types[1], types[2])?;
            Ok(types[1].clone())
        }
        Op::Reshape { shape } => {
            let to = TensorType::new(types[0].dtype, shape.clone());
            if to.element_count() != types[0].element_count() {
                return error(format!("{} has {} elements, {to} has {}", types[0], types[0].element_count(), to.element_count()));
            }
            Ok(to)
        }
        Op::Transpose { perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted != (0..types[0].rank()).collect::<Vec<_>>() {
                return error(format!("{perm:?} is no permutation of the axes of {}", types[0]));
            }
            Ok(TensorType::new(types[0].dtype, perm.iter().map(|&axis| types[0].shape[axis]).collect::<Vec<_>>()))
        }
        Op::BroadcastInDim { shape, dims } => {
            let increasing = dims.windows(2).all(|pair| pair[0] < pair[1]);
            if dims.len() != types[0].rank() || !increasing || dims.iter().any(|&dim| dim >= shape.len()) {
                return error(format!("{dims:?} does not place the axes of {} in {shape:?}", types[0]));
            }
            for (axis, &dim) in dims.iter().enumerate() {
                let size = types[0].shape[axis];
                if size != 1 && size != shape[dim] {
                    return error(format!("{} does not broadcast to {shape:?}: axis {axis} is {size}, not 1 or {}", types[0], shape[dim]));
                }
            }
            Ok(TensorType::new(types[0].dtype, shape.clone()))
        }
        Op::Slice { starts, limits, strides } => slice(types[0], starts, limits, strides),
        Op::Pad { low, high, interior } => {
            if types[1].rank() != 0 || types[1].dtype != types[0].dtype {
                return error(format!("the padding value must be {}[], it is {}", types[0].dtype, types[1]));
            }
            pad(types[0], low, high, interior)
        }
        Op::Concatenate { axis } => concatenate(&types, *axis),
        Op::Reverse { axes } => {
            check_axes(types[0], axes)?;
            Ok(types[0].clone())
        }
        Op::Gather { axis, batch_dims } => {
            let shape = gathered_shape(types[0], types[1], *axis, *batch_dims)?;
            Ok(TensorType::new(types[0].dtype, shape))
        }
        Op::Scatter { axis, batch_dims, .. } => {
            let shape = gathered_shape(types[0], types[1], *axis, *batch_dims)?;
            let wanted = TensorType::new(types[0].dtype, shape);
            if *types[2] != wanted {
                return error(format!("the updates must be {wanted}, they are {}", types[2]));
            }
            Ok(types[0].clone())
        }
        Op::DynamicSlice { sizes } => {
            check_starts(types[0], &types[1..])?;
            if sizes.len() != types[0].rank() || sizes.iter().zip(&types[0].shape).any(|(size, whole)| size > whole) {
                return error(format!("a block of {sizes:?} does not fit in {}", types[0]));
            }
            Ok(TensorType::new(types[0].dtype, sizes.clone()))
        }
        Op::DynamicUpdateSlice => {
            check_starts(types[0], &types[2..])?;
            let fits = types[1].rank() == types[0].rank() && types[1].shape.iter().zip(&types[0].shape).all(|(size, whole)| size <= whole);
            if !fits || types[1].dtype != types[0].dtype {
                return error(format!("a block {} does not fit in {}", types[1], types[0]));
            }
            Ok(types[0].clone())
        }
        Op::Reduce { kind, axes } => {
            check_axes(types[0], axes)?;
            check_numeric(types[0])?;
            let _ = kind;
            Ok(TensorType::new(types[0].dtype, without(&types[0].shape, axes)))
        }
        Op::ReduceArg { kind, axis } => {
            check_axes(types[0], &[*axis])?;
            check_numeric(types[0])?;
            if !matches!(kind, ReduceKind::Max | ReduceKind::Min) || types[0].shape[*axis] == 0 {
                return error(format!("no arg_{kind:?} along axis {axis} of {}", types[0]));
            }
            Ok(TensorType::new(DType::I32, without(&types[0].shape, &[*axis])))
        }
        Op::ReduceWindow { kind, window } => {
            if *kind == ReduceKind::Prod {
                return error("windows reduce by sum, max or min");
            }
            check_float(types[0])?;
            Ok(TensorType::new(types[0].dtype, window_shape(types[0], window)?))
        }
        Op::SelectAndScatter { kind, window } => {
            if !matches!(kind, ReduceKind::Max | ReduceKind::Min) {
                return error("only max and min windows select");
            }
            check_float(types[0])?;
            let wanted = TensorType::new(types[0].dtype, window_shape(types[0], window)?);
            if *types[1] != wanted {
                return error(format!("the gradient must be {wanted}, it is {}", types[1]));
            }
            Ok(types[0].clone())
        }
        Op::DotGeneral { dims } => dot_general(types[0], types[1], dims),
        Op::Convolution { geometry } => {
            let (input, weight) = (types[0], types[1]);
            check_geometry(geometry, input, weight)?;
            let channels = input.shape[1];
            if channels != weight.shape[1] * geometry.groups || !weight.shape[0].is_multiple_of(geometry.groups) {
                return error(format!(
                    "the input has {channels} channels; the weight {weight} in {} groups wants {}",
                    geometry.groups,
                    weight.shape[1] * geometry.groups
                ));
            }
            let mut shape = vec![input.shape[0], weight.shape[0]];
            shape.extend(convolution_spatial(geometry, &input.shape[2..], &weight.shape[2..])?);
            Ok(TensorType::new(DType::F32, shape))
        }
        Op::ConvolutionInputGrad { geometry, input_spatial } => {
            let (grad, weight) = (types[0], types[1]);
            check_geometry(geometry, grad, weight)?;
            if input_spatial.len() != geometry.strides.len() {
                return error(format!("input_spatial {input_spatial:?} has another rank than the strides"));
            }
            let out = convolution_spatial(geometry, input_spatial, &weight.shape[2..])?;
            if !weight.shape[0].is_multiple_of(geometry.groups) {
                return error(format!("the {} output channels of {weight} do not split into {} groups", weight.shape[0], geometry.groups));
            }
            if grad.shape[1] != weight.shape[0] || grad.shape[2..] != out[..] {
                return error(format!("the gradient {grad} is not what weight {weight} gives on {input_spatial:?}: {out:?}"));
            }
            let mut shape = vec![grad.shape[0], weight.shape[1] * geometry.groups];
            shape.extend(input_spatial);
            Ok(TensorType::new(DType::F32, shape))
        }
        Op::ConvolutionWeightGrad { geometry, kernel_spatial } => {
            let (input, grad) = (types[0], types[1]);
            check_geometry(geometry, input, grad)?;
            if kernel_spatial.len() != geometry.strides.len() {
                return error(format!("kernel_spatial {kernel_spatial:?} has another rank than the strides"));
            }
            let out = convolution_spatial(geometry, &input.shape[2..], kernel_spatial)?;
            if input.shape[0] != grad.shape[0]
                || grad.shape[2..] != out[..]
                || !input.shape[1].is_multiple_of(geometry.groups)
                || !grad.shape[1].is_multiple_of(geometry.groups)
            {
                return error(format!("the gradient {grad} does not belong to the input {input}"));
            }
            let mut shape = vec![grad.shape[1], input.shape[1] / geometry.groups];
            shape.extend(kernel_spatial);
            Ok(TensorType::new(DType::F32, shape))
        }
        Op::Composite { name, body, .. } => {
            let wanted: Vec<&TensorType> = body
                .parameters()
                .map(|(_, parameter, ty)| match parameter.role {
                    crate::Role::Input => Ok(ty),
                    _ => error(format!("the body of `{name}` holds the state `{}`", parameter.name)),
                })
                .collect::<Result<_, _>>()?;
            if wanted != types {
                return error(format!("`{name}` wants {}, got {}", list(&wanted), list(&types)));
            }
            match body.outputs.first() {
                Some(output) if body.updates.is_empty() && output.node.index() < body.nodes.len() => Ok(body.ty(output.node).clone()),
                _ => error(format!("the body of `{name}` must have outputs and no updates")),
            }
        }
        Op::Grad => {
            if *types[0] != TensorType::new(DType::F32, []) {
                return error(format!("only a scalar f32[] has a gradient here, the loss is {}", types[0]));
            }
            if let Some(whole) = types[1..].iter().find(|ty| !ty.dtype.is_float()) {
                return error(format!("{whole} carries no gradient"));
            }
            Ok(types[1].clone())
        }
        Op::Result { index } => {
            let producer = graph.node(inputs[0]);
            if !producer.op.has_several_results() {
                return error(format!("`{}` has one result", producer.op.name()));
            }
            // One type is looked up, not all: a gradient by thousands of weights has thousands of results.
            let (found, count) = match &producer.op {
                Op::Composite { body, .. } => (body.outputs.get(*index).map(|output| body.ty(output.node)), body.outputs.len()),
                _ => (producer.inputs.get(*index + 1).map(|input| graph.ty(*input)), producer.inputs.len() - 1),
            };
            found
                .cloned()
                .ok_or_else(|| ShapeError { message: format!("`{}` has {count} results, none is number {index}", producer.op.name()) })
        }
        Op::StopGradient => Ok(types[0].clone()),
        Op::AllReduce { .. } => {
            check_numeric(types[0])?;
            Ok(types[0].clone())
        }
    }
}

/// Types of all results of node `id`.
pub fn result_types(graph: &Graph, id: NodeId) -> Vec<TensorType> {
    let node = graph.node(id);
    match &node.op {
        Op::Composite { body, .. } => body.outputs.iter().map(|output| body.ty(output.node).clone()).collect(),
        Op::Grad => node.inputs[1..].iter().map(|input| graph.ty(*input).clone()).collect(),
        _ => vec![node.ty.clone()],
    }
}

fn list(types: &[&TensorType]) -> String {
    let names: Vec<String> = types.iter().map(|ty| ty.to_string()).collect();
    format!("({})", names.join(", "))
}

fn check_arity(op: &Op, types: &[&TensorType]) -> Result<(), ShapeError> {
    let (least, most) = match op {
        Op::Parameter(_) | Op::Constant { .. } | Op::Iota { .. } => (0, 0),
        Op::Binary { .. }
        | Op::Compare { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::SelectAndScatter { .. }
        | Op::DotGeneral { .. }
        | Op::Convolution { .. }
        | Op::ConvolutionInputGrad { .. }
        | Op::ConvolutionWeightGrad { .. }
        | Op::RngBits { .. } => (2, 2),
        Op::Select | Op::Scatter { .. } => (3, 3),
        Op::Concatenate { .. } => (1, usize::MAX),
        Op::DynamicSlice { .. } => (1, usize::MAX),
        Op::DynamicUpdateSlice | Op::Grad => (2, usize::MAX),
        Op::Composite { .. } => (0, usize::MAX),
        _ => (1, 1),
    };
    if types.len() < least || types.len() > most {
        return error(format!("wants {least} inputs, got {}", types.len()));
    }
    Ok(())
}

fn same(lhs: &TensorType, rhs: &TensorType) -> Result<(), ShapeError> {
    if lhs != rhs {
        return error(format!("the two sides differ: {lhs} and {rhs}"));
    }
    Ok(())
}

fn check_float(ty: &TensorType) -> Result<(), ShapeError> {
    if !ty.dtype.is_float() {
        return error(format!("wants f32, got {ty}"));
    }
    Ok(())
}

fn check_numeric(ty: &TensorType) -> Result<(), ShapeError> {
    if ty.dtype == DType::Bool {
        return error(format!("wants numbers, got {ty}"));
    }
    Ok(())
}

fn check_axes(ty: &TensorType, axes: &[usize]) -> Result<(), ShapeError> {
    if !axes.windows(2).all(|pair| pair[0] < pair[1]) || axes.iter().any(|&axis| axis >= ty.rank()) {
        return error(format!("axes {axes:?} of {ty}: each must be below {} and stand once, in order", ty.rank()));
    }
    Ok(())
}

fn check_starts(ty: &TensorType, starts: &[&TensorType]) -> Result<(), ShapeError> {
    let scalar = TensorType::new(DType::I32, []);
    if starts.len() != ty.rank() || starts.iter().any(|start| **start != scalar) {
        return error(format!("wants one i32[] start for each axis of {ty}, got {}", list(starts)));
    }
    Ok(())
}

fn without(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, &size)| size).collect()
}

fn unary(function: UnaryOp, ty: &TensorType) -> Result<TensorType, ShapeError> {
    let allowed = match function {
        UnaryOp::Not => ty.dtype == DType::Bool || ty.dtype.is_integer(),
        UnaryOp::Negate | UnaryOp::Abs | UnaryOp::Sign => ty.dtype.is_float() || ty.dtype == DType::I32,
        _ => ty.dtype.is_float(),
    };
    if !allowed {
        return error(format!("is not defined on {ty}"));
    }
    Ok(ty.clone())
}

fn binary(function: BinaryOp, lhs: &TensorType, rhs: &TensorType) -> Result<TensorType, ShapeError> {
    same(lhs, rhs)?;
    let allowed = match function {
        BinaryOp::Power => lhs.dtype.is_float(),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => lhs.dtype == DType::Bool || lhs.dtype.is_integer(),
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight => lhs.dtype.is_integer(),
        _ => lhs.dtype != DType::Bool,
    };
    if !allowed {
        return error(format!("is not defined on {lhs}"));
    }
    Ok(lhs.clone())
}

fn slice(ty: &TensorType, starts: &[usize], limits: &[usize], strides: &[usize]) -> Result<TensorType, ShapeError> {
    let rank = ty.rank();
    if starts.len() != rank || limits.len() != rank || strides.len() != rank {
        return error(format!("starts, limits and strides need {rank} entries for {ty}"));
    }
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (start, limit, stride) = (starts[axis], limits[axis], strides[axis]);
        if start > limit || limit > ty.shape[axis] || stride == 0 {
            return error(format!("{start}..{limit} step {stride} is not within axis {axis} of {ty}"));
        }
        shape.push((limit - start).div_ceil(stride));
    }
    Ok(TensorType::new(ty.dtype, shape))
}

fn pad(ty: &TensorType, low: &[i64], high: &[i64], interior: &[usize]) -> Result<TensorType, ShapeError> {
    let rank = ty.rank();
    if low.len() != rank || high.len() != rank || interior.len() != rank {
        return error(format!("low, high and interior need {rank} entries for {ty}"));
    }
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let size = ty.shape[axis] as i64;
        let spread = size + (size - 1).max(0) * interior[axis] as i64;
        let Some(padded) = spread.checked_add(low[axis]).and_then(|sum| sum.checked_add(high[axis])) else {
            return error(format!("padding of axis {axis} is out of range"));
        };
        if padded < 0 {
            return error(format!("axis {axis} of {ty} is cropped below nothing"));
        }
        shape.push(padded as usize);
    }
    Ok(TensorType::new(ty.dtype, shape))
}

fn concatenate(types: &[&TensorType], axis: usize) -> Result<TensorType, ShapeError> {
    let first = types[0];
    if axis >= first.rank() {
        return error(format!("axis {axis} of {first} is not there"));
    }
    let mut shape = first.shape.clone();
    for ty in &types[1..] {
        let fits = ty.dtype == first.dtype
            && ty.rank() == first.rank()
            && (0..first.rank()).all(|other| other == axis || ty.shape[other] == first.shape[other]);
        if !fits {
            return error(format!("{} do not match beside axis {axis}", list(types)));
        }
        shape[axis] += ty.shape[axis];
    }
    Ok(TensorType::new(first.dtype, shape))
}

fn gathered_shape(x: &TensorType, indices: &TensorType, axis: usize, batch_dims: usize) -> Result<Vec<usize>, ShapeError> {
    if !indices.dtype.is_integer() {
        return error(format!("the indices must be i32 or u32, they are {indices}"));
    }
    let fits =
        axis < x.rank() && batch_dims <= axis && batch_dims <= indices.rank() && x.shape[..batch_dims] == indices.shape[..batch_dims];
    if !fits {
        return error(format!("axis {axis} with {batch_dims} batch axes does not fit x {x} and indices {indices}"));
    }
    if x.shape[axis] == 0 && indices.element_count() > 0 {
        return error(format!("there is nothing to index along axis {axis} of {x}"));
    }
    let mut shape = x.shape[..axis].to_vec();
    shape.extend(&indices.shape[batch_dims..]);
    shape.extend(&x.shape[axis + 1..]);
    Ok(shape)
}

fn window_shape(ty: &TensorType, window: &Window) -> Result<Vec<usize>, ShapeError> {
    let rank = ty.rank();
    if [&window.size, &window.strides, &window.low, &window.high].iter().any(|entries| entries.len() != rank) {
        return error(format!("the window needs {rank} entries for {ty}"));
    }
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let padded = ty.shape[axis] + window.low[axis] + window.high[axis];
        if window.size[axis] == 0 || window.strides[axis] == 0 || padded < window.size[axis] {
            return error(format!("a window of {:?} does not fit in {ty} along axis {axis}", window.size));
        }
        shape.push((padded - window.size[axis]) / window.strides[axis] + 1);
    }
    Ok(shape)
}

fn dot_general(lhs: &TensorType, rhs: &TensorType, dims: &DotDims) -> Result<TensorType, ShapeError> {
    check_float(lhs)?;
    check_float(rhs)?;
    let distinct = |rank: usize, batch: &[usize], contract: &[usize]| {
        let mut all: Vec<usize> = batch.iter().chain(contract).copied().collect();
        all.sort_unstable();
        all.windows(2).all(|pair| pair[0] != pair[1]) && all.iter().all(|&axis| axis < rank)
    };
    if dims.lhs_batch.len() != dims.rhs_batch.len()
        || dims.lhs_contract.len() != dims.rhs_contract.len()
        || !distinct(lhs.rank(), &dims.lhs_batch, &dims.lhs_contract)
        || !distinct(rhs.rank(), &dims.rhs_batch, &dims.rhs_contract)
    {
        return error(format!("{dims:?} does not pair axes of {lhs} and {rhs}"));
    }
    for (&left, &right) in dims.lhs_batch.iter().zip(&dims.rhs_batch) {
        if lhs.shape[left] != rhs.shape[right] {
            return error(format!("batch sizes differ: a is {:?}, b is {:?}", lhs.shape, rhs.shape));
        }
    }
    for (&left, &right) in dims.lhs_contract.iter().zip(&dims.rhs_contract) {
        if lhs.shape[left] != rhs.shape[right] {
            return error(format!("inner sizes differ: a is {:?}, b is {:?}", lhs.shape, rhs.shape));
        }
    }
    let mut shape: Vec<usize> = dims.lhs_batch.iter().map(|&axis| lhs.shape[axis]).collect();
    shape.extend(DotDims::free(lhs.rank(), &dims.lhs_batch, &dims.lhs_contract).iter().map(|&axis| lhs.shape[axis]));
    shape.extend(DotDims::free(rhs.rank(), &dims.rhs_batch, &dims.rhs_contract).iter().map(|&axis| rhs.shape[axis]));
    Ok(TensorType::new(DType::F32, shape))
}

fn check_geometry(geometry: &ConvolutionGeometry, first: &TensorType, second: &TensorType) -> Result<(), ShapeError> {
    let spatial = geometry.strides.len();
    check_float(first)?;
    check_float(second)?;
    if first.rank() != spatial + 2 || second.rank() != spatial + 2 {
        return error(format!(
            "{spatial} spatial axes want [batch, channels, spatial..] of rank {}, got {first} and {second}",
            spatial + 2
        ));
    }
    let lengths = [&geometry.low, &geometry.high, &geometry.dilation].iter().all(|entries| entries.len() == spatial);
    let positive = geometry.strides.iter().chain(&geometry.dilation).all(|&entry| entry > 0) && geometry.groups > 0;
    if !lengths || !positive {
        return error(format!("{geometry:?} is not a convolution: strides, dilation and groups are at least 1"));
    }
    Ok(())
}

fn convolution_spatial(geometry: &ConvolutionGeometry, input: &[usize], kernel: &[usize]) -> Result<Vec<usize>, ShapeError> {
    (0..input.len())
        .map(|axis| {
            geometry.output_size(axis, input[axis], kernel[axis]).ok_or_else(|| ShapeError {
                message: format!("a kernel of {kernel:?} does not fit in an input of {input:?} with padding {:?}", geometry.low),
            })
        })
        .collect()
}
