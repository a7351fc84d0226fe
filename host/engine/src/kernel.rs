//! The plan: what both devices run.
//!
//! A [`Plan`] is a list of [`Kernel`]s in execution order over numbered [`Buffer`]s. It knows nothing of wgpu or threads. `fuse.rs` makes kernels from a
//! simplified graph, `plan.rs` orders them and gives scratch buffers their memory; `cpu/` and `gpu/` execute them. Each kernel has a header that says
//! what it reads, what it writes and what it computes; the two devices must agree on it to rounding.

use solstice_ir::{BinaryOp, Compare, ConvolutionGeometry, DType, Literal, ReduceKind, Role, ScatterMode, TensorType, UnaryOp, Window};
use std::sync::Arc;

/// Distinct buffers of one kernel: the floor of WebGPU's `maxStorageBuffersPerShaderStage`. A state tensor that is loaded and updated counts once; where
/// an update turns out not to be possible in place, a `Map` may have more by the number of its such updates. A `DynamicSlice` or `DynamicUpdateSlice` of
/// many axes may have more by its starts.
pub const BUFFERS_PER_KERNEL: usize = 8;

/// Elements of a row of [`KernelOp::Rows`] at most: one block of the CPU's registers.
pub const ROW_MAX: usize = 1024;

/// Index of a buffer in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

impl BufferId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a buffer's memory is and who fills it.
#[derive(Clone, Debug, PartialEq)]
pub enum BufferKind {
    /// Filled by the caller at each run; position in [`Plan::inputs`].
    Input(usize),
    /// The block of runtime scalars, one 32-bit word each, in the order of [`Plan::scalars`]; filled at each run.
    Scalars,
    /// A tensor of the session's state table.
    State(String),
    /// A constant that is not a splat; filled once.
    Constant(Literal),
    /// Lives within one run, in slot `slot` of [`Plan::slots`]; buffers whose lives do not touch may share a slot.
    Scratch {
        /// Index into [`Plan::slots`].
        slot: usize,
    },
    /// Kept until the caller has read it; position in [`Plan::outputs`]. Never shares memory.
    Output(usize),
}

/// A dense row-major array of `elements` elements. Every element is a 32-bit word but for `U8`, which is packed bytes, and for halves (both padded to whole
/// words).
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Where the memory is.
    pub kind: BufferKind,
    /// Element type.
    pub dtype: DType,
    /// Number of elements; may be 0.
    pub elements: usize,
    /// The elements are f32 to the kernels and f16 in memory: rounded when they are written, infinite from 65520 on. Scratch memory alone; `precision.rs`
    /// says which.
    pub is_half: bool,
}

impl Buffer {
    /// Bytes of an element in memory.
    pub fn element_bytes(&self) -> usize {
        if self.is_half { 2 } else { self.dtype.size() }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.elements * self.element_bytes()
    }
}

/// A window on a buffer: element `i` of the kernel's iteration space is at `offset + sum(i[axis] * strides[axis])`. Strides may be 0 (broadcast) or
/// negative (reverse); every address that the iteration space reaches is inside the buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// Element at index 0.
    pub offset: usize,
    /// One stride for each axis of the iteration space.
    pub strides: Vec<isize>,
}

/// Result of instruction `Register.0` of a [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register(pub u16);

/// One instruction on one element. Operands are earlier registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// Element of `loads[index]`.
    Load(u16),
    /// A constant of the register's type.
    Constant(f64),
    /// Index along an axis of the iteration space, in the register's type.
    Index(u16),
    /// Row-major index in the iteration space (u32).
    LinearIndex,
    /// Elementwise function.
    Unary(UnaryOp, Register),
    /// Elementwise function.
    Binary(BinaryOp, Register, Register),
    /// Comparison; the register is bool.
    Compare(Compare, Register, Register),
    /// `predicate ? on_true : on_false`.
    Select(Register, Register, Register),
    /// Conversion to the register's type as `Op::Convert` defines it.
    Convert(Register),
    /// Same bits, the register's type.
    Bitcast(Register),
    /// First word of threefry2x32 with key (seed, stream) and counter (step, element).
    Random {
        /// u32 register.
        seed: Register,
        /// u32 register.
        step: Register,
        /// u32 register: the element's row-major index in the op's shape.
        element: Register,
        /// Stream of the op.
        stream: u32,
    },
    /// The monoid over the register's values in the row; the same for every element of the row. In `KernelOp::Rows` alone.
    Fold(ReduceKind, Register),
}

/// A straight-line function of the index: loads, then instructions; `types[i]` is the type of register `i`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// What `Instruction::Load` reads. A load's type is its register's type, but for a `U8` buffer, whose bytes load as u32.
    pub loads: Vec<View>,
    /// In evaluation order.
    pub code: Vec<Instruction>,
    /// Type of each register.
    pub types: Vec<DType>,
}

/// A register written to a buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The value.
    pub value: Register,
    /// Where it goes, over the kernel's iteration space. Addresses are distinct.
    pub to: View,
}

/// Elementwise work on a product, in the kernel that makes it: a map over `shape`, which has the product's elements in row-major order. Its load number
/// `product` is the product's element, before anything is stored; that view and one of the stores are dense on the kernel's `to`.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue {
    /// Iteration space.
    pub shape: Vec<usize>,
    /// Function of the index.
    pub body: Body,
    /// What is written.
    pub stores: Vec<Store>,
    /// The load that is the product.
    pub product: usize,
}

impl Epilogue {
    /// The stores that are left when the product stands in memory already: the epilogue is a map over it then.
    pub fn stores_behind_product(&self) -> Vec<Store> {
        let is_there = |store: &&Store| {
            let is_product = self.body.code[usize::from(store.value.0)] == Instruction::Load(self.product as u16);
            !(is_product && store.to == self.body.loads[self.product])
        };
        self.stores.iter().filter(is_there).cloned().collect()
    }
}

/// Which of the three bilinear convolution kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvolutionForm {
    /// Reads x and weight, writes the output.
    Forward,
    /// Reads the output's gradient and weight, writes x's gradient.
    InputGrad,
    /// Reads x and the output's gradient, writes the weight's gradient.
    WeightGrad,
}

/// What an attention kernel writes. The views are over distinct addresses; those of the gradient may share a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum AttentionPass {
    /// The result.
    Forward {
        /// `[query, width]` a batch entry.
        to: MatrixView,
        /// Logarithm of the sum of the exponentials of a query's scores, dense `[batch.., query]`, where a gradient wants it.
        log_sums: Option<BufferId>,
    },
    /// What flows to q, k and v.
    Gradient {
        /// The result that the forward kernel wrote.
        result: MatrixView,
        /// And its logarithms.
        log_sums: BufferId,
        /// What flows to the result, `[query, width]` a batch entry.
        grad: MatrixView,
        /// As q, k and v.
        to: Box<[MatrixView; 3]>,
    },
}

/// A matrix operand: element (batch, row, column) at `offset + batch·batch_strides + row * row_stride + column * column_stride`.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixView {
    /// The buffer (f32).
    pub buffer: BufferId,
    /// First element.
    pub offset: usize,
    /// One stride for each batch axis.
    pub batch_strides: Vec<isize>,
    /// Stride of the row axis.
    pub row_stride: isize,
    /// Stride of the column axis.
    pub column_stride: isize,
}

/// What one kernel computes. Plain `BufferId` operands are dense row-major in the shape that is named.
#[derive(Clone, Debug, PartialEq)]
pub enum KernelOp {
    /// For every index of `shape`: run `body`, write `stores`. A store may go to a buffer that the body loads when both views are equal.
    Map {
        /// Iteration space.
        shape: Vec<usize>,
        /// Function of the index.
        body: Body,
        /// What is written.
        stores: Vec<Store>,
    },
    /// For every index of the outer axes of `shape`: `kind` over `value` along `axes`. Accumulates f32 in a fixed tree or chunked order.
    Reduce {
        /// Iteration space, reduced axes included.
        shape: Vec<usize>,
        /// Reduced axes, strictly increasing.
        axes: Vec<usize>,
        /// The monoid.
        kind: ReduceKind,
        /// Function of the index.
        body: Body,
        /// The reduced register of `body`.
        value: Register,
        /// Result, dense over the outer axes from element `to_offset` on.
        to: BufferId,
        /// First element of the result.
        to_offset: usize,
    },
    /// A `Map` whose body may fold along rows: the last `row_axes` axes of `shape`, at most [`ROW_MAX`] elements together. A register that does not vary along
    /// the row may be stored through a view that does not either.
    Rows {
        /// Iteration space.
        shape: Vec<usize>,
        /// Number of axes that make a row, at least 1.
        row_axes: usize,
        /// Function of the index.
        body: Body,
        /// What is written.
        stores: Vec<Store>,
    },
    /// Kernels that neither wait for each other nor write what another one touches, in one launch.
    Group {
        /// `Map`, `Reduce` and `Rows` kernels.
        members: Vec<Kernel>,
    },
    /// First index of the largest or smallest element: from `[outer, n, inner]` to i32 `[outer, inner]`. NaN counts as largest (smallest).
    ReduceArg {
        /// `Max` or `Min`.
        kind: ReduceKind,
        /// Sizes.
        outer: usize,
        /// Sizes.
        n: usize,
        /// Sizes.
        inner: usize,
        /// Operand and its type.
        from: BufferId,
        /// Type of the operand.
        dtype: DType,
        /// Result.
        to: BufferId,
    },
    /// `to[batch.., row, column] = sum_k lhs[batch.., row, k] * rhs[batch.., k, column]`; `to` is dense.
    Dot {
        /// Sizes of the batch axes.
        batch: Vec<usize>,
        /// Rows of the result.
        rows: usize,
        /// Columns of the result.
        columns: usize,
        /// Length of the sum.
        inner: usize,
        /// Left matrix.
        lhs: MatrixView,
        /// Right matrix.
        rhs: MatrixView,
        /// Result.
        to: BufferId,
        /// What becomes of the result.
        epilogue: Option<Box<Epilogue>>,
    },
    /// For each batch entry `softmax(scale * q k^T) v`, or what flows to q, k and v; the scores are never written.
    Attention {
        /// Sizes of the batch axes.
        batch: Vec<usize>,
        /// Rows of q.
        queries: usize,
        /// Rows of k and v.
        keys: usize,
        /// Columns of q and k.
        dim: usize,
        /// Columns of v.
        width: usize,
        /// Factor of the scores.
        scale: f64,
        /// Query `i` sees keys `0..=i` only.
        causal: bool,
        /// `[query, dim]`, `[key, dim]` and `[key, width]` a batch entry.
        qkv: Box<[MatrixView; 3]>,
        /// Forward or gradient.
        pass: AttentionPass,
    },
    /// A convolution in one of its forms; `x`, `weight`, `out` name the shapes of the forward op.
    Convolution {
        /// Which form.
        form: ConvolutionForm,
        /// Strides, padding, dilation, groups.
        geometry: ConvolutionGeometry,
        /// `[batch, channels, spatial..]`.
        x_shape: Vec<usize>,
        /// `[out_channels, channels / groups, kernel..]`.
        weight_shape: Vec<usize>,
        /// `[batch, out_channels, spatial..]`.
        out_shape: Vec<usize>,
        /// The two operands, in the order of the op.
        from: [BufferId; 2],
        /// Result.
        to: BufferId,
        /// What becomes of the result.
        epilogue: Option<Box<Epilogue>>,
    },
    /// `kind` of each window of a tensor of shape `from_shape`.
    ReduceWindow {
        /// `Sum`, `Max` or `Min`.
        kind: ReduceKind,
        /// The window.
        window: Window,
        /// Shape of the operand.
        from_shape: Vec<usize>,
        /// Shape of the result.
        to_shape: Vec<usize>,
        /// Operand (f32).
        from: BufferId,
        /// Result.
        to: BufferId,
    },
    /// Gradient of a max or min window: the gradient of each window goes to its first selected element; others get 0; overlaps add in window order.
    SelectAndScatter {
        /// `Max` or `Min`.
        kind: ReduceKind,
        /// The window.
        window: Window,
        /// Shape of x and of the result.
        x_shape: Vec<usize>,
        /// Shape of the windows' gradient.
        windows_shape: Vec<usize>,
        /// Operand x.
        x: BufferId,
        /// Gradient of the windows.
        grad: BufferId,
        /// Result.
        to: BufferId,
    },
    /// `to[b, o, i, s] = from[b, o, clamp(indices[b, i]), s]`. A `U8` operand is widened to the result's type by `Convert`'s rule.
    Gather {
        /// Product of the batch axes.
        batch: usize,
        /// Product of the axes between batch and the indexed one.
        outer: usize,
        /// Size of the indexed axis.
        n: usize,
        /// Indices a batch entry.
        index_count: usize,
        /// Product of the axes after the indexed one.
        inner: usize,
        /// Operand.
        from: BufferId,
        /// Type of the operand.
        from_dtype: DType,
        /// Indices (i32, or u32 where `indices_unsigned`).
        indices: BufferId,
        /// The indices are u32.
        indices_unsigned: bool,
        /// Result.
        to: BufferId,
        /// Type of the result.
        to_dtype: DType,
    },
    /// `to = from`, then `to[b, o, clamp(indices[b, i]), s]` combined with `updates[b, o, i, s]` in the order of `i`. `to` may be `from`.
    Scatter {
        /// How an update is combined.
        mode: ScatterMode,
        /// Sizes as in `Gather`.
        batch: usize,
        /// Sizes as in `Gather`.
        outer: usize,
        /// Sizes as in `Gather`.
        n: usize,
        /// Sizes as in `Gather`.
        index_count: usize,
        /// Sizes as in `Gather`.
        inner: usize,
        /// Element type of `from`, `updates` and `to`.
        dtype: DType,
        /// Operand.
        from: BufferId,
        /// Indices.
        indices: BufferId,
        /// The indices are u32.
        indices_unsigned: bool,
        /// Updates.
        updates: BufferId,
        /// Result.
        to: BufferId,
    },
    /// `to = from[start.. start + sizes]`, starts clamped so that the block fits.
    DynamicSlice {
        /// Shape of the operand.
        from_shape: Vec<usize>,
        /// Shape of the result.
        sizes: Vec<usize>,
        /// Operand.
        from: BufferId,
        /// One i32 scalar an axis: buffer and element offset.
        starts: Vec<(BufferId, usize)>,
        /// Result.
        to: BufferId,
    },
    /// `to = from` with `block` written at the starts (clamped so that it fits).
    DynamicUpdateSlice {
        /// Shape of the operand and the result.
        from_shape: Vec<usize>,
        /// Shape of the block.
        block_shape: Vec<usize>,
        /// Operand.
        from: BufferId,
        /// The block.
        block: BufferId,
        /// One i32 scalar an axis: buffer and element offset.
        starts: Vec<(BufferId, usize)>,
        /// Result.
        to: BufferId,
    },
    /// Whole-buffer copy of equal sizes (state updates that cannot be written in place).
    Copy {
        /// Operand.
        from: BufferId,
        /// Result.
        to: BufferId,
    },
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What is computed.
    pub op: KernelOp,
    /// `dot_general model.fc1`: op and scope, for labels and profiles.
    pub label: String,
    /// The author's line; may be empty.
    pub location: Arc<str>,
}

/// A named tensor of a plan's signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Parameter or output name.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// The buffer that holds it.
    pub buffer: BufferId,
}

/// A runtime scalar of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarPort {
    /// Parameter name.
    pub name: String,
    /// f32, i32, u32 or bool.
    pub dtype: DType,
}

/// A state tensor that a plan reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub struct StatePort {
    /// Name in the session's state table.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Role of the parameter.
    pub role: Role,
    /// The buffer that holds it.
    pub buffer: BufferId,
    /// The plan changes it.
    pub is_written: bool,
}

/// A compiled graph, independent of the device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Name of the graph.
    pub name: String,
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// Sizes of the scratch slots in bytes.
    pub slots: Vec<usize>,
    /// In execution order.
    pub kernels: Vec<Kernel>,
    /// Filled by the caller at each run.
    pub inputs: Vec<Port>,
    /// Runtime scalars, in the order of the scalar block.
    pub scalars: Vec<ScalarPort>,
    /// State tensors.
    pub states: Vec<StatePort>,
    /// Results.
    pub outputs: Vec<Port>,
}

impl Plan {
    /// True when some of its memory holds f16 numbers.
    pub fn is_mixed(&self) -> bool {
        self.buffers.iter().any(|buffer| buffer.is_half)
    }
}

impl KernelOp {
    /// Buffers that the kernel reads, duplicates included.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            KernelOp::Map { body, .. } | KernelOp::Reduce { body, .. } | KernelOp::Rows { body, .. } => {
                body.loads.iter().map(|view| view.buffer).collect()
            }
            KernelOp::Group { members } => members.iter().flat_map(|member| member.op.reads()).collect(),
            KernelOp::Dot { lhs, rhs, epilogue, .. } => [lhs.buffer, rhs.buffer].into_iter().chain(epilogue_reads(epilogue)).collect(),
            KernelOp::Attention { qkv, pass, .. } => {
                let qkv = qkv.iter().map(|view| view.buffer);
                match pass {
                    AttentionPass::Forward { .. } => qkv.collect(),
                    AttentionPass::Gradient { result, log_sums, grad, .. } => qkv.chain([result.buffer, *log_sums, grad.buffer]).collect(),
                }
            }
            KernelOp::Convolution { from, epilogue, .. } => from.iter().copied().chain(epilogue_reads(epilogue)).collect(),
            KernelOp::SelectAndScatter { x, grad, .. } => vec![*x, *grad],
            KernelOp::Gather { from, indices, .. } => vec![*from, *indices],
            KernelOp::Scatter { from, indices, updates, .. } => vec![*from, *indices, *updates],
            KernelOp::DynamicSlice { from, starts, .. } => std::iter::once(*from).chain(starts.iter().map(|(buffer, _)| *buffer)).collect(),
            KernelOp::DynamicUpdateSlice { from, block, starts, .. } => {
                [*from, *block].into_iter().chain(starts.iter().map(|(buffer, _)| *buffer)).collect()
            }
            KernelOp::ReduceArg { from, .. } | KernelOp::ReduceWindow { from, .. } | KernelOp::Copy { from, .. } => vec![*from],
        }
    }

    /// Buffers that the kernel writes.
    pub fn writes(&self) -> Vec<BufferId> {
        match self {
            KernelOp::Map { stores, .. } | KernelOp::Rows { stores, .. } => stores.iter().map(|store| store.to.buffer).collect(),
            KernelOp::Group { members } => members.iter().flat_map(|member| member.op.writes()).collect(),
            KernelOp::Dot { epilogue: Some(epilogue), .. } | KernelOp::Convolution { epilogue: Some(epilogue), .. } => {
                epilogue.stores.iter().map(|store| store.to.buffer).collect()
            }
            KernelOp::Attention { pass: AttentionPass::Forward { to, log_sums }, .. } => [to.buffer].into_iter().chain(*log_sums).collect(),
            KernelOp::Attention { pass: AttentionPass::Gradient { to, .. }, .. } => to.iter().map(|view| view.buffer).collect(),
            KernelOp::Reduce { to, .. }
            | KernelOp::ReduceArg { to, .. }
            | KernelOp::Dot { to, .. }
            | KernelOp::Convolution { to, .. }
            | KernelOp::ReduceWindow { to, .. }
            | KernelOp::SelectAndScatter { to, .. }
            | KernelOp::Gather { to, .. }
            | KernelOp::Scatter { to, .. }
            | KernelOp::DynamicSlice { to, .. }
            | KernelOp::DynamicUpdateSlice { to, .. }
            | KernelOp::Copy { to, .. } => vec![*to],
        }
    }
}

/// What an epilogue reads besides the product.
fn epilogue_reads(epilogue: &Option<Box<Epilogue>>) -> impl Iterator<Item = BufferId> + '_ {
    let loads =
        epilogue.iter().flat_map(|epilogue| epilogue.body.loads.iter().enumerate().map(|(load, view)| (epilogue.product, load, view)));
    loads.filter(|(product, load, _)| load != product).map(|(_, _, view)| view.buffer)
}
