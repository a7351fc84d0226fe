//! The primitive set, with StableHLO names where StableHLO has the op.

use crate::{DType, Graph, Init, Literal};
use serde::{Deserialize, Serialize};

/// Where a parameter's value comes from and who owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Given anew at each call: a batch tensor, a mask, an argument of a traced function.
    Input,
    /// A runtime scalar (`shape []`): learning rate, step, seed, live config fields. Changing one never recompiles.
    Scalar,
    /// Trainable weight; kept between calls.
    Param,
    /// Model state that is not trained (running statistics); kept between calls.
    ModelState,
    /// Optimizer state; kept between calls.
    OptState,
    /// Metric accumulator; kept between calls, cleared when reported.
    Metric,
    /// A whole data set resident on the device; never written by a step.
    Table,
}

impl Role {
    /// True for the tensors that live in the state table between calls.
    pub fn is_state(self) -> bool {
        !matches!(self, Role::Input | Role::Scalar)
    }
}

/// A named leaf of the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Unique within the graph, e.g. `model.fc1.weight`.
    pub name: String,
    /// Owner and lifetime.
    pub role: Role,
    /// First value of a state tensor; for a scalar its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
}

/// Elementwise functions of one argument. Float unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum UnaryOp {
    /// Float and i32.
    Negate,
    /// Float and i32.
    Abs,
    /// -1, 0 or 1; float and i32.
    Sign,
    Floor,
    Exponential,
    Log,
    Sqrt,
    Rsqrt,
    Tanh,
    Logistic,
    Sine,
    Cosine,
    Erf,
    /// Logical on bool, bitwise on integers.
    Not,
}

/// Elementwise functions of two arguments of the same type and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    /// Integers: truncating; division by 0 gives 0.
    Divide,
    Maximum,
    Minimum,
    /// Float only; `x` below 0 gives a NaN unless `y` is a whole number.
    Power,
    /// Sign of the dividend, as `%` in Rust and C; integer remainder by 0 gives 0.
    Remainder,
    /// Bool (logical) and integers (bitwise).
    And,
    /// Bool (logical) and integers (bitwise).
    Or,
    /// Bool (logical) and integers (bitwise).
    Xor,
    /// Integers; a shift of 32 or more gives 0.
    ShiftLeft,
    /// Logical shift; integers; a shift of 32 or more gives 0.
    ShiftRight,
}

/// Direction of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// The monoid of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Max,
    Min,
    Prod,
}

/// How a scatter combines an update with what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScatterMode {
    /// Sum of the old value and all updates, in the order of the updates.
    Add,
    /// The last update in row-major order wins.
    Set,
}

/// Which axes of a dot product belong together. The result has the batch axes, then the free axes of the left, then of the right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DotDims {
    /// Batch axes of the left operand.
    pub lhs_batch: Vec<usize>,
    /// Batch axes of the right operand, in the same order.
    pub rhs_batch: Vec<usize>,
    /// Summed axes of the left operand.
    pub lhs_contract: Vec<usize>,
    /// Summed axes of the right operand, in the same order.
    pub rhs_contract: Vec<usize>,
}

impl DotDims {
    /// Axes of an operand of `rank` that are neither batch nor contracted.
    pub fn free(rank: usize, batch: &[usize], contract: &[usize]) -> Vec<usize> {
        (0..rank).filter(|axis| !batch.contains(axis) && !contract.contains(axis)).collect()
    }
}

/// Geometry of a convolution over `n` spatial axes. Input `[batch, channels, spatial..]`, weight `[out, channels / groups, kernel..]`,
/// result `[batch, out, spatial..]`; all vectors have one entry a spatial axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvolutionGeometry {
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Zeros before the first element.
    pub low: Vec<usize>,
    /// Zeros after the last element.
    pub high: Vec<usize>,
    /// Distance between neighbouring weights; 1 is dense.
    pub dilation: Vec<usize>,
    /// Channels are cut into this many groups; group `g` of the input feeds group `g` of the output.
    pub groups: usize,
}

impl ConvolutionGeometry {
    /// Output size along spatial `axis` for an input and a kernel size; `None` when the window does not fit.
    pub fn output_size(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let reach = (kernel.checked_sub(1)?) * self.dilation[axis] + 1;
        let padded = input + self.low[axis] + self.high[axis];
        Some(padded.checked_sub(reach)? / self.strides[axis] + 1)
    }
}

/// A sliding window over every axis of a tensor; entries of 1 leave an axis alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Window size.
    pub size: Vec<usize>,
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Elements of the reduction's identity before the first one.
    pub low: Vec<usize>,
    /// Elements of the reduction's identity after the last one.
    pub high: Vec<usize>,
}

/// An operation. Inputs are listed in `Node::inputs`, in the order that each variant names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// A named leaf. No inputs. The node's type is the parameter's type.
    Parameter(Parameter),
    /// A constant. No inputs.
    Constant {
        /// The value.
        value: Literal,
    },
    /// Index along `axis`, in the node's type (i32, u32 or f32). No inputs.
    Iota {
        /// The axis that counts.
        axis: usize,
    },
    /// 32 random bits an element: threefry2x32 with key (seed, stream) and counter (step, element index), first word. Inputs: seed, step (u32 scalars).
    RngBits {
        /// Distinguishes the draws of one step.
        stream: u32,
    },
    /// Elementwise function of one input.
    Unary {
        /// The function.
        function: UnaryOp,
    },
    /// Conversion of type. Float to integer truncates and saturates; to bool is `!= 0`. Input: x.
    Convert {
        /// Target type.
        to: DType,
    },
    /// Same bits, other 32-bit type. Input: x.
    BitcastConvert {
        /// Target type.
        to: DType,
    },
    /// Elementwise function of two inputs of one type and shape.
    Binary {
        /// The function.
        function: BinaryOp,
    },
    /// Comparison, result bool. Inputs: two of one type and shape. Comparisons with a NaN are false, but for `NotEqual`.
    Compare {
        /// The direction.
        direction: Compare,
    },
    /// `predicate ? on_true : on_false`. Inputs: predicate (bool), on_true, on_false, all of one shape.
    Select,
    /// Same elements in row-major order, other shape. Input: x.
    Reshape {
        /// Result shape.
        shape: Vec<usize>,
    },
    /// Axis `i` of the result is axis `perm[i]` of the input. Input: x.
    Transpose {
        /// A permutation of the axes.
        perm: Vec<usize>,
    },
    /// Axis `i` of the input becomes axis `dims[i]` of the result (strictly increasing); a size of 1 is repeated. Input: x.
    BroadcastInDim {
        /// Result shape.
        shape: Vec<usize>,
        /// For each input axis its place in the result.
        dims: Vec<usize>,
    },
    /// Elements `start, start + stride, ..` below `limit` on every axis. Input: x.
    Slice {
        /// First index.
        starts: Vec<usize>,
        /// One past the last index.
        limits: Vec<usize>,
        /// Step, at least 1.
        strides: Vec<usize>,
    },
    /// Padding with a value; negative `low` and `high` crop. Inputs: x, value (scalar of x's type).
    Pad {
        /// Elements before.
        low: Vec<i64>,
        /// Elements after.
        high: Vec<i64>,
        /// Elements between neighbours.
        interior: Vec<usize>,
    },
    /// Inputs one after the other along `axis`.
    Concatenate {
        /// The axis.
        axis: usize,
    },
    /// Order of the elements turned round along `axes`. Input: x.
    Reverse {
        /// The axes.
        axes: Vec<usize>,
    },
    /// `out[b.., o.., i.., s..] = x[b.., o.., indices[b.., i..], s..]`: `b` are `batch_dims` leading axes that x and indices share, `o` the axes of x
    /// between them and `axis`, `s` the axes of x after it. Indices out of range are clamped. Inputs: x, indices (i32 or u32).
    Gather {
        /// The axis of x that is indexed; at least `batch_dims`.
        axis: usize,
        /// Leading axes that x and indices share.
        batch_dims: usize,
    },
    /// The reverse of a gather: x with `updates[b.., o.., i.., s..]` combined into `x[b.., o.., indices[b.., i..], s..]`. Inputs: x, indices, updates.
    Scatter {
        /// The axis of x that is indexed.
        axis: usize,
        /// Leading axes that x and indices share.
        batch_dims: usize,
        /// How an update is combined.
        mode: ScatterMode,
    },
    /// A block of `sizes` at a start that is known at run time (clamped so that it fits). Inputs: x, one i32 scalar an axis.
    DynamicSlice {
        /// Shape of the block.
        sizes: Vec<usize>,
    },
    /// x with a block replaced at a start known at run time (clamped so that it fits). Inputs: x, block, one i32 scalar an axis.
    DynamicUpdateSlice,
    /// Reduction over `axes`, which vanish from the shape. Input: x. An empty axis gives the identity.
    Reduce {
        /// The monoid.
        kind: ReduceKind,
        /// The axes, strictly increasing.
        axes: Vec<usize>,
    },
    /// Index (i32) of the first largest (`Max`) or smallest (`Min`) element along `axis`, which vanishes. Input: x.
    ReduceArg {
        /// `Max` or `Min`.
        kind: ReduceKind,
        /// The axis.
        axis: usize,
    },
    /// Reduction of each window (`Sum`, `Max` or `Min`). Input: x.
    ReduceWindow {
        /// The monoid.
        kind: ReduceKind,
        /// The window.
        window: Window,
    },
    /// VJP of a `Max` or `Min` window: each window's gradient goes to its first selected element. Inputs: x, gradient of the windows.
    SelectAndScatter {
        /// `Max` or `Min`.
        kind: ReduceKind,
        /// The window of the forward op.
        window: Window,
    },
    /// Sum of products. Inputs: lhs, rhs.
    DotGeneral {
        /// Which axes belong together.
        dims: DotDims,
    },
    /// Cross-correlation, as deep-learning frameworks define convolution. Inputs: x, weight.
    Convolution {
        /// Strides, padding, dilation, groups.
        geometry: ConvolutionGeometry,
    },
    /// Gradient of a convolution for its input; as a forward op it is the transposed convolution. Inputs: gradient of the output, weight.
    ConvolutionInputGrad {
        /// Geometry of the forward convolution.
        geometry: ConvolutionGeometry,
        /// Spatial sizes of the forward convolution's input.
        input_spatial: Vec<usize>,
    },
    /// Gradient of a convolution for its weight. Inputs: x, gradient of the output.
    ConvolutionWeightGrad {
        /// Geometry of the forward convolution.
        geometry: ConvolutionGeometry,
        /// Spatial sizes of the weight.
        kernel_spatial: Vec<usize>,
    },
    /// A named function with its own decomposition. The body's `Input` parameters, in node order, take this node's inputs; its outputs are
    /// the results. The body holds no state parameters and no updates.
    Composite {
        /// The field's name for the function: `softmax`, `layer_norm`.
        name: String,
        /// What a kernel or a VJP needs to know: axis, epsilon.
        attrs: serde_json::Map<String, serde_json::Value>,
        /// The decomposition.
        body: Box<Graph>,
    },
    /// Gradients of a scalar. Inputs: loss (f32 scalar), then the values to differentiate by; result `i` has the type of input `i + 1`.
    Grad,
    /// Result `index` of the multi-result node that is the only input (`Composite`, `Grad`). Result 0 is also the node itself.
    Result {
        /// Which result.
        index: usize,
    },
    /// Identity whose gradient is zero. Input: x.
    StopGradient,
    /// Reduction over all processes of the run; the identity when there is one. Input: x.
    AllReduce {
        /// The monoid.
        kind: ReduceKind,
    },
}

impl Op {
    /// Short name for printing and labels: the StableHLO name where there is one.
    pub fn name(&self) -> String {
        // The serde names are the op's names; unary and binary functions stand for themselves.
        fn snake<T: Serialize>(value: &T) -> String {
            serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
        }
        match self {
            Op::Unary { function } => snake(function),
            Op::Binary { function } => snake(function),
            Op::Compare { direction } => format!("compare_{}", snake(direction)),
            Op::Reduce { kind, .. } => format!("reduce_{}", snake(kind)),
            Op::ReduceArg { kind, .. } => format!("arg_{}", snake(kind)),
            Op::ReduceWindow { kind, .. } => format!("reduce_window_{}", snake(kind)),
            Op::Scatter { mode, .. } => format!("scatter_{}", snake(mode)),
            Op::Composite { name, .. } => name.clone(),
            Op::Parameter(_) => "parameter".into(),
            Op::Constant { .. } => "constant".into(),
            Op::Iota { .. } => "iota".into(),
            Op::RngBits { .. } => "rng_bits".into(),
            Op::Convert { .. } => "convert".into(),
            Op::BitcastConvert { .. } => "bitcast_convert".into(),
            Op::Select => "select".into(),
            Op::Reshape { .. } => "reshape".into(),
            Op::Transpose { .. } => "transpose".into(),
            Op::BroadcastInDim { .. } => "broadcast_in_dim".into(),
            Op::Slice { .. } => "slice".into(),
            Op::Pad { .. } => "pad".into(),
            Op::Concatenate { .. } => "concatenate".into(),
            Op::Reverse { .. } => "reverse".into(),
            Op::Gather { .. } => "gather".into(),
            Op::DynamicSlice { .. } => "dynamic_slice".into(),
            Op::DynamicUpdateSlice => "dynamic_update_slice".into(),
            Op::SelectAndScatter { .. } => "select_and_scatter".into(),
            Op::DotGeneral { .. } => "dot_general".into(),
            Op::Convolution { .. } => "convolution".into(),
            Op::ConvolutionInputGrad { .. } => "convolution_input_grad".into(),
            Op::ConvolutionWeightGrad { .. } => "convolution_weight_grad".into(),
            Op::Grad => "grad".into(),
            Op::Result { .. } => "result".into(),
            Op::StopGradient => "stop_gradient".into(),
            Op::AllReduce { .. } => "all_reduce".into(),
        }
    }

    /// True when the node may be followed by [`Op::Result`] nodes.
    pub fn has_several_results(&self) -> bool {
        matches!(self, Op::Composite { .. } | Op::Grad)
    }
}
