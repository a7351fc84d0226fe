//! From a plan to launches: which shader text runs with which buffers on which grid. Plain data; no wgpu here, so it can be printed and tested alone.
//!
//! [`launches`] walks the kernels; `emit.rs` writes the generated ones (`Map`, `Reduce`), `dot.rs` the products and convolutions, `indexing.rs` the rest.

use crate::Plan;
use crate::gpu::dot::{self, Choice};
use crate::gpu::{Sources, Tuning, attention, chain, group, indexing, map, reduce, rows};
use crate::kernel::{Buffer, BufferId, BufferKind, Kernel, KernelOp};
use solstice_ir::{DType, element_count};
use std::collections::HashMap;

/// What the text of a kernel depends on besides the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The adapter is a program on the CPU (llvmpipe): other shapes of kernels are fast there.
    pub is_software: bool,
    /// Size of a subgroup where it is fixed and subgroup operations are there; otherwise 1.
    pub subgroup_size: usize,
    /// Most storage buffers that one kernel may bind.
    pub storage_buffers_max: usize,
    /// Most workgroups along one dimension of a grid.
    pub groups_max: usize,
    /// Most passes through loops, all loops of an invocation together. llvmpipe leaves its loops after 65535 passes without a word
    /// (`LP_MAX_TGSI_LOOP_ITERATIONS` in Mesa's src/gallium/auxiliary/gallivm).
    pub loop_steps_max: usize,
    /// Kernels may hold and compute f16 numbers.
    pub has_f16: bool,
    /// Products of f16 may run on tensor cores: the adapter has passed the self-test (`cooperative.rs`).
    pub has_tensor_cores: bool,
    /// Bytes of workgroup memory that one kernel may have.
    pub workgroup_bytes_max: usize,
    /// What was measured on this adapter; where it says nothing, rules of thumb hold.
    pub tuning: Tuning,
    /// The shader files.
    pub sources: Sources,
}

impl Target {
    /// A GPU with WebGPU's smallest limits, which every other has too.
    pub fn smallest(sources: &Sources) -> Target {
        Target {
            is_software: false,
            subgroup_size: 1,
            storage_buffers_max: 8,
            groups_max: 65_535,
            loop_steps_max: usize::MAX,
            has_f16: false,
            has_tensor_cores: false,
            workgroup_bytes_max: 16_384,
            tuning: Tuning::default(),
            sources: sources.clone(),
        }
    }
}

/// Memory that a launch uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// A piece of memory of the plan: see [`pieces`].
    Piece(usize),
    /// A piece that the launches of one kernel hand to each other; index into [`Launches::temporaries`].
    Temporary(usize),
}

/// One buffer of a launch, at the binding of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The memory.
    pub memory: Memory,
    /// Bound `read_write`; otherwise `read`.
    pub is_written: bool,
}

/// One thing that a run does on the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A dispatch.
    Launch {
        /// The kernel's label.
        label: String,
        /// The shader.
        wgsl: String,
        /// Binding `i` of group 0.
        bindings: Vec<Binding>,
        /// Workgroups along x and y.
        grid: [u32; 2],
    },
    /// A copy from the start of one piece to the start of another.
    Copy {
        /// Source.
        from: Memory,
        /// Destination.
        to: Memory,
        /// Bytes, a multiple of 4.
        bytes: usize,
    },
}

/// The steps of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launches {
    /// In execution order.
    pub steps: Vec<Step>,
    /// The kernel of the plan that each step is a part of.
    pub kernel_of: Vec<usize>,
    /// Bytes of each temporary.
    pub temporaries: Vec<usize>,
}

/// Pieces of memory of a plan: buffers that share a scratch slot, or name the same state tensor, are one piece.
///
/// Returns the piece of each buffer and the bytes of each piece.
pub fn pieces(plan: &Plan) -> (Vec<usize>, Vec<usize>) {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Alone(usize),
        Slot(usize),
        State(&'a str),
        Scalars,
        Nothing,
    }
    let mut pieces = HashMap::new();
    let mut bytes: Vec<usize> = Vec::new();
    let piece_of = plan.buffers.iter().enumerate().map(|(index, buffer)| {
        let (key, size) = match &buffer.kind {
            // Never written, so it may be bound beside anything.
            BufferKind::Scratch { .. } if buffer.elements == 0 => (Key::Nothing, 0),
            BufferKind::Scratch { slot } => (Key::Slot(*slot), plan.slots[*slot].max(buffer_bytes(buffer))),
            BufferKind::State(name) => (Key::State(name), buffer_bytes(buffer)),
            BufferKind::Scalars => (Key::Scalars, buffer_bytes(buffer).max(4 * plan.scalars.len())),
            BufferKind::Input(_) | BufferKind::Constant(_) | BufferKind::Output(_) => (Key::Alone(index), buffer_bytes(buffer)),
        };
        let piece = *pieces.entry(key).or_insert_with(|| {
            bytes.push(0);
            bytes.len() - 1
        });
        bytes[piece] = bytes[piece].max(size);
        piece
    });
    let piece_of = piece_of.collect();
    (piece_of, bytes)
}

/// Bytes of a buffer's elements, whole words.
pub fn buffer_bytes(buffer: &Buffer) -> usize {
    buffer.bytes().next_multiple_of(4)
}

/// All steps of a plan for a target.
///
/// Errors: one sentence when a kernel wants more than the target can do.
pub fn launches(plan: &Plan, target: &Target) -> Result<Launches, String> {
    if plan.is_mixed() && !target.has_f16 {
        return Err("the plan holds f16 numbers, which this target has not".into());
    }
    let (piece_of, _) = pieces(plan);
    let mut context = Context { plan, piece_of: &piece_of, target, launches: Launches::default(), temporary_count: 0 };
    for (index, kernel) in plan.kernels.iter().enumerate() {
        context.kernel(kernel).map_err(|message| format!("kernel `{}`: {message}", kernel.label))?;
        let Launches { steps, kernel_of, .. } = &mut context.launches;
        kernel_of.resize(steps.len(), index);
    }
    Ok(chain::join(plan, target, context.launches))
}

/// The products of a plan (convolutions too): the kernel, the class of products that it is in, and how it may run, the rule of thumb first.
///
/// Errors: as of [`launches`].
pub fn choices(plan: &Plan, target: &Target) -> Result<Vec<(usize, String, Vec<Choice>)>, String> {
    let (piece_of, _) = pieces(plan);
    let context = Context { plan, piece_of: &piece_of, target, launches: Launches::default(), temporary_count: 0 };
    let mut all = Vec::new();
    for (index, kernel) in plan.kernels.iter().enumerate() {
        if let Some((class, choices)) =
            dot::choices(&context, &kernel.op).map_err(|message| format!("kernel `{}`: {message}", kernel.label))?
        {
            all.push((index, class, choices));
        }
    }
    Ok(all)
}

impl Launches {
    /// Appends a step of a kernel.
    pub fn push(&mut self, step: Step, kernel: usize) {
        self.steps.push(step);
        self.kernel_of.push(kernel);
    }
}

/// What the emitters read, and the list that they write.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Piece of each buffer.
    pub piece_of: &'a [usize],
    /// What the text is for.
    pub target: &'a Target,
    launches: Launches,
    /// Temporaries of the current kernel so far.
    temporary_count: usize,
}

impl<'a> Context<'a> {
    fn kernel(&mut self, kernel: &Kernel) -> Result<(), String> {
        self.temporary_count = 0;
        self.steps(kernel)
    }

    /// The steps of a member of a group; its temporaries are apart from those of the others.
    pub fn steps_of(&mut self, member: &Kernel) -> Result<Vec<Step>, String> {
        let before = std::mem::take(&mut self.launches.steps);
        let result = self.steps(member);
        let steps = std::mem::replace(&mut self.launches.steps, before);
        result.map(|()| steps)
    }

    /// Appends a step that is ready.
    pub fn push(&mut self, step: Step) {
        self.launches.steps.push(step);
    }

    fn steps(&mut self, kernel: &Kernel) -> Result<(), String> {
        let label = &kernel.label;
        match &kernel.op {
            KernelOp::Rows { shape, row_axes, body, stores } => rows::emit(self, label, shape, *row_axes, body, stores),
            KernelOp::Group { members } => group::emit(self, label, members),
            KernelOp::Map { shape, body, stores } => map::emit(self, label, shape, body, stores),
            KernelOp::Reduce { shape, axes, kind, body, value, to, to_offset } => {
                let reduction = reduce::Reduction { shape, axes, kind: *kind, body, value: *value };
                reduce::emit(self, label, &reduction, (self.memory(*to), *to_offset))
            }
            KernelOp::ReduceArg { .. } => indexing::reduce_arg(self, label, &kernel.op),
            KernelOp::Attention { .. } => attention::emit(self, label, &kernel.op),
            KernelOp::Dot { .. } | KernelOp::Convolution { .. } => dot::emit(self, label, &kernel.op),
            KernelOp::ReduceWindow { .. } | KernelOp::SelectAndScatter { .. } => indexing::window(self, label, &kernel.op),
            KernelOp::Gather { .. } => indexing::gather(self, label, &kernel.op),
            KernelOp::Scatter { .. } => indexing::scatter(self, label, &kernel.op),
            KernelOp::DynamicSlice { .. } | KernelOp::DynamicUpdateSlice { .. } => indexing::dynamic(self, label, &kernel.op),
            KernelOp::Copy { from, to } => {
                self.copy(*from, *to);
                Ok(())
            }
        }
    }

    /// The shader files.
    pub fn sources(&self) -> &'a Sources {
        &self.target.sources
    }

    /// The buffer behind an id.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.plan.buffers[id.index()]
    }

    /// WGSL type of the buffer's elements in memory.
    pub fn element(&self, id: BufferId) -> &'static str {
        element_type(self.buffer(id))
    }

    /// The memory of a buffer.
    pub fn memory(&self, id: BufferId) -> Memory {
        Memory::Piece(self.piece_of[id.index()])
    }

    /// The buffer, to be read by a launch.
    pub fn read(&self, id: BufferId) -> Binding {
        Binding { memory: self.memory(id), is_written: false }
    }

    /// The buffer, to be written by a launch.
    pub fn write(&self, id: BufferId) -> Binding {
        Binding { memory: self.memory(id), is_written: true }
    }

    /// A temporary of `words` words, apart from the others of this kernel. Kernels run in order, so the next kernel gets the same memory.
    pub fn temporary(&mut self, words: usize) -> Memory {
        let index = self.temporary_count;
        self.temporary_count += 1;
        let sizes = &mut self.launches.temporaries;
        sizes.resize(sizes.len().max(index + 1), 0);
        sizes[index] = sizes[index].max(words * 4);
        Memory::Temporary(index)
    }

    /// Appends a copy of a whole buffer; nothing when both are one piece.
    pub fn copy(&mut self, from: BufferId, to: BufferId) {
        let bytes = buffer_bytes(self.buffer(to));
        if bytes > 0 && self.memory(from) != self.memory(to) {
            let step = Step::Copy { from: self.memory(from), to: self.memory(to), bytes };
            self.launches.steps.push(step);
        }
    }

    /// Appends a launch of `groups` workgroups; `text` is given the grid's width in workgroups, which it needs to number them.
    ///
    /// Errors: more buffers than one kernel may bind, or that of `text`.
    pub fn launch(
        &mut self,
        label: &str,
        bindings: Vec<Binding>,
        groups: usize,
        text: impl FnOnce(usize) -> Result<String, String>,
    ) -> Result<(), String> {
        if groups == 0 {
            return Ok(());
        }
        if bindings.len() > self.target.storage_buffers_max {
            return Err(format!("uses {} buffers, the device binds at most {} a kernel", bindings.len(), self.target.storage_buffers_max));
        }
        // wgpu forbids one buffer as `read` and `read_write` in one dispatch; the emitters merge such bindings.
        for (index, binding) in bindings.iter().enumerate() {
            let clashes = bindings[..index].iter().any(|other| other.memory == binding.memory && (other.is_written || binding.is_written));
            assert!(!clashes, "`{label}` binds one piece of memory twice and writes it: the plan shares a slot that is still in use");
        }
        let rows = groups.div_ceil(self.target.groups_max);
        let columns = groups.div_ceil(rows);
        if rows > self.target.groups_max {
            return Err(format!("wants {groups} workgroups, more than the device starts at once"));
        }
        let wgsl = enabled(text(columns)?);
        let step = Step::Launch { label: label.to_owned(), wgsl, bindings, grid: [columns as u32, rows as u32] };
        self.launches.steps.push(step);
        Ok(())
    }
}

/// Number of elements of `shape` as a shader counts them.
///
/// Errors: more than a 32-bit index reaches.
pub fn count_u32(shape: &[usize]) -> Result<usize, String> {
    let count = element_count(shape);
    // The last workgroup counts a little further.
    if count > u32::MAX as usize - 65536 { Err(format!("{count} elements are more than 32 bits count")) } else { Ok(count) }
}

/// The text under the directives that it needs: WGSL wants them before everything else.
pub fn enabled(wgsl: String) -> String {
    let needed = [("f16", "f16"), ("coop_mat", "wgpu_cooperative_matrix")];
    let directives = needed.iter().filter(|(word, _)| wgsl.contains(word)).map(|(_, extension)| format!("enable {extension};\n"));
    directives.collect::<String>() + &wgsl
}

/// WGSL type of an element of a buffer in memory.
pub fn element_type(buffer: &Buffer) -> &'static str {
    if buffer.is_half { "f16" } else { memory_type(buffer.dtype) }
}

/// WGSL type of an element in a register.
pub fn register_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::U32 | DType::U8 => "u32",
        DType::Bool => "bool",
    }
}

/// WGSL type of an element in memory that is not a half.
pub fn memory_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::U32 | DType::U8 | DType::Bool => "u32",
    }
}
