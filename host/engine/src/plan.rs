//! From fused kernels to a plan: dead stores go, state updates are written in place where that is safe, kernels are ordered so that memory is freed
//! early, and scratch buffers share slots. Everything here is deterministic, and near linear in the number of kernels but for the slots (buffers by slots).

use crate::cost::cost;
use crate::dataflow::{Uses, uses};
use crate::fuse::{Fused, map_registers};
use crate::group::group_kernels;
use crate::kernel::{AttentionPass, Body, BufferId, BufferKind, Instruction, Kernel, KernelOp, Plan, Register, Store, View};
use solstice_ir::element_count;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

/// Orders `fused` and gives its scratch buffers memory. With `fuse` kernels that do not wait for each other are grouped.
pub(crate) fn plan(name: &str, mut fused: Fused, fuse: bool) -> Plan {
    let mut dependencies = apply_updates(&mut fused);
    if fuse {
        dependencies.successors = group_kernels(&mut fused, dependencies.successors);
    }
    let order = schedule(&fused, &dependencies);
    let mut kernels: Vec<Option<Kernel>> = fused.kernels.drain(..).map(Some).collect();
    fused.kernels = order.iter().map(|&index| kernels[index].take().expect("a schedule names each kernel once")).collect();
    let slots = assign_slots(&mut fused);
    let Fused { buffers, kernels, inputs, scalars, states, outputs, .. } = fused;
    Plan { name: name.into(), buffers, slots, kernels, inputs, scalars, states, outputs }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Dead stores

/// A value that all its readers found in a register of its own kernel need not be stored.
pub(crate) fn remove_dead_stores(fused: &mut Fused) {
    let Uses { readers, writers } = uses(fused);
    let mut reader_counts: Vec<usize> = readers.iter().map(Vec::len).collect();
    let kept: HashSet<BufferId> = fused.updates.iter().map(|(_, value)| *value).collect();
    let is_dead = |fused: &Fused, counts: &[usize], buffer: usize| {
        let is_scratch = matches!(fused.buffers[buffer].kind, BufferKind::Scratch { .. });
        is_scratch && counts[buffer] == 0 && !kept.contains(&BufferId(buffer as u32))
    };
    let mut queue: Vec<usize> = (0..fused.buffers.len()).filter(|&buffer| is_dead(fused, &reader_counts, buffer)).collect();
    while let Some(buffer) = queue.pop() {
        for &writer in &writers[buffer] {
            let (KernelOp::Map { body, stores, .. } | KernelOp::Rows { body, stores, .. }) = &mut fused.kernels[writer].op else {
                continue;
            };
            let distinct = |body: &Body| body.loads.iter().map(|view| view.buffer).collect::<HashSet<_>>();
            let before = distinct(body);
            stores.retain(|store| store.to.buffer.index() != buffer);
            remove_dead_code(body, stores);
            let after = distinct(body);
            let mut gone: Vec<BufferId> = before.difference(&after).copied().collect();
            gone.sort_unstable();
            for load in gone {
                reader_counts[load.index()] -= 1;
                if is_dead(fused, &reader_counts, load.index()) {
                    queue.push(load.index());
                }
            }
        }
    }
    fused.kernels.retain(|kernel| !matches!(&kernel.op, KernelOp::Map { stores, .. } | KernelOp::Rows { stores, .. } if stores.is_empty()));
}

/// Leaves out what no store needs.
pub(crate) fn remove_dead_code(body: &mut Body, stores: &mut [Store]) {
    let mut needed = vec![false; body.code.len()];
    stores.iter().for_each(|store| needed[usize::from(store.value.0)] = true);
    for index in (0..body.code.len()).rev() {
        if needed[index] {
            map_registers(body.code[index], |operand| {
                needed[usize::from(operand.0)] = true;
                operand
            });
        }
    }
    let mut registers = vec![Register(0); body.code.len()];
    let mut kept = Body::default();
    for index in (0..body.code.len()).filter(|&index| needed[index]) {
        registers[index] = Register(kept.code.len() as u16);
        let instruction = match body.code[index] {
            Instruction::Load(load) => {
                kept.loads.push(body.loads[usize::from(load)].clone());
                Instruction::Load(kept.loads.len() as u16 - 1)
            }
            instruction => map_registers(instruction, |operand| registers[usize::from(operand.0)]),
        };
        kept.code.push(instruction);
        kept.types.push(body.types[index]);
    }
    stores.iter_mut().for_each(|store| store.value = registers[usize::from(store.value.0)]);
    *body = kept;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// State updates

/// For each kernel those that must wait for it.
struct Dependencies {
    successors: Vec<Vec<usize>>,
}

impl Dependencies {
    fn add(&mut self, before: usize, after: usize) {
        if before != after {
            self.successors[before].push(after);
        }
    }

    /// True when one of `targets` waits for `from`, directly or not.
    fn reaches_any(&self, from: usize, targets: &[usize]) -> bool {
        if targets.is_empty() {
            return false;
        }
        let targets: HashSet<usize> = targets.iter().copied().collect();
        let mut seen = HashSet::from([from]);
        let mut stack = vec![from];
        while let Some(kernel) = stack.pop() {
            for &next in &self.successors[kernel] {
                if targets.contains(&next) {
                    return true;
                }
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }
}

/// Lets the writer of a new value write into the state tensor, or appends a copy.
///
/// In place is safe when the writer's own loads of the state are of the very element that it stores, and no other reader of the old value has to wait for
/// the writer; those readers are then made to run before it.
fn apply_updates(fused: &mut Fused) -> Dependencies {
    let Uses { readers, writers } = uses(fused);
    let mut dependencies = Dependencies { successors: vec![Vec::new(); fused.kernels.len()] };
    for (buffer, (readers, writers)) in readers.iter().zip(&writers).enumerate() {
        // A buffer written in parts: the order of the parts is theirs (a fill comes before what is laid over it).
        if !fused.unordered.contains(&BufferId(buffer as u32)) {
            writers.windows(2).for_each(|pair| dependencies.add(pair[0], pair[1]));
        }
        for &writer in writers {
            readers.iter().for_each(|&reader| dependencies.add(writer, reader));
        }
    }
    let mut home: Vec<BufferId> = (0..fused.buffers.len() as u32).map(BufferId).collect();
    let mut copies = Vec::new();
    for &(state, value) in &fused.updates {
        let others = |writer: usize| readers[state.index()].iter().copied().filter(|&reader| reader != writer).collect::<Vec<_>>();
        let writer = match writers[value.index()][..] {
            [writer] if home[value.index()] == value && is_replaceable(fused, state, value, writer) => Some(writer),
            _ => None,
        };
        if let Some(writer) = writer.filter(|&writer| !dependencies.reaches_any(writer, &others(writer))) {
            others(writer).into_iter().for_each(|reader| dependencies.add(reader, writer));
            home[value.index()] = state;
        } else if fused.buffers[state.index()].elements > 0 {
            copies.push((state, value));
        }
    }
    for (state, value) in copies {
        let copy = fused.kernels.len();
        dependencies.successors.push(Vec::new());
        for &before in writers[value.index()].iter().chain(&readers[state.index()]) {
            dependencies.add(before, copy);
        }
        let BufferKind::State(name) = &fused.buffers[state.index()].kind else { unreachable!("an update is of a state") };
        let label = format!("update {name}");
        fused.kernels.push(Kernel { op: KernelOp::Copy { from: value, to: state }, label, location: Arc::from("") });
    }
    for kernel in &mut fused.kernels {
        map_buffers(&mut kernel.op, &|buffer| home[buffer.index()]);
    }
    dependencies
}

/// True when `writer` may store into `state` what it would store into `value`.
fn is_replaceable(fused: &Fused, state: BufferId, value: BufferId, writer: usize) -> bool {
    let (old, new) = (&fused.buffers[state.index()], &fused.buffers[value.index()]);
    if !matches!(new.kind, BufferKind::Scratch { .. }) || old.dtype != new.dtype || old.elements != new.elements {
        return false;
    }
    match &fused.kernels[writer].op {
        KernelOp::Map { body, stores, .. } | KernelOp::Rows { body, stores, .. } => {
            let mut stored = stores.iter().filter(|store| store.to.buffer == value).map(|store| &store.to);
            let (Some(to), None) = (stored.next(), stored.next()) else { return false };
            let same_element = |view: &View| view.offset == to.offset && view.strides == to.strides;
            body.loads.iter().filter(|view| view.buffer == state).all(same_element)
        }
        KernelOp::Scatter { indices, updates, .. } => *indices != state && *updates != state,
        op => !op.reads().contains(&state),
    }
}

/// Replaces every buffer of a kernel.
pub(crate) fn map_buffers(op: &mut KernelOp, to: &dyn Fn(BufferId) -> BufferId) {
    let each = |buffers: &mut [&mut BufferId]| buffers.iter_mut().for_each(|buffer| **buffer = to(**buffer));
    let views = |body: &mut Body, stores: &mut [Store]| {
        body.loads.iter_mut().for_each(|view| view.buffer = to(view.buffer));
        stores.iter_mut().for_each(|store| store.to.buffer = to(store.to.buffer));
    };
    match op {
        KernelOp::Map { body, stores, .. } | KernelOp::Rows { body, stores, .. } => views(body, stores),
        KernelOp::Group { members } => members.iter_mut().for_each(|member| map_buffers(&mut member.op, to)),
        KernelOp::Reduce { body, to: result, .. } => {
            body.loads.iter_mut().for_each(|view| view.buffer = to(view.buffer));
            each(&mut [result]);
        }
        KernelOp::Dot { lhs, rhs, to, epilogue, .. } => {
            each(&mut [&mut lhs.buffer, &mut rhs.buffer, to]);
            epilogue.iter_mut().for_each(|epilogue| views(&mut epilogue.body, &mut epilogue.stores));
        }
        KernelOp::Attention { qkv, pass, .. } => {
            qkv.iter_mut().for_each(|view| each(&mut [&mut view.buffer]));
            match pass {
                AttentionPass::Forward { to, log_sums } => {
                    each(&mut [&mut to.buffer]);
                    log_sums.iter_mut().for_each(|log_sums| each(&mut [log_sums]));
                }
                AttentionPass::Gradient { result, log_sums, grad, to } => {
                    each(&mut [&mut result.buffer, log_sums, &mut grad.buffer]);
                    to.iter_mut().for_each(|to| each(&mut [&mut to.buffer]));
                }
            }
        }
        KernelOp::Convolution { from: [first, second], to, epilogue, .. } => {
            each(&mut [first, second, to]);
            epilogue.iter_mut().for_each(|epilogue| views(&mut epilogue.body, &mut epilogue.stores));
        }
        KernelOp::SelectAndScatter { x, grad, to, .. } => each(&mut [x, grad, to]),
        KernelOp::Gather { from, indices, to, .. } => each(&mut [from, indices, to]),
        KernelOp::Scatter { from, indices, updates, to, .. } => each(&mut [from, indices, updates, to]),
        KernelOp::DynamicSlice { from, starts, to, .. } => {
            each(&mut [from, to]);
            starts.iter_mut().for_each(|(buffer, _)| each(&mut [buffer]));
        }
        KernelOp::DynamicUpdateSlice { from, block, starts, to, .. } => {
            each(&mut [from, block, to]);
            starts.iter_mut().for_each(|(buffer, _)| each(&mut [buffer]));
        }
        KernelOp::ReduceArg { from, to, .. } | KernelOp::ReduceWindow { from, to, .. } | KernelOp::Copy { from, to } => {
            each(&mut [from, to])
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Order and memory

fn scratch_bytes(fused: &Fused, buffer: usize) -> usize {
    match fused.buffers[buffer].kind {
        BufferKind::Scratch { .. } => fused.buffers[buffer].bytes().next_multiple_of(4),
        _ => 0,
    }
}

/// Memory that is not worth a thought when kernels are ordered: a loss, corrections of an optimizer.
const SMALL_BYTES: usize = 4096;

/// How soon a kernel that is ready should run, first of all by whether it frees at least as much memory as it takes (an optimizer's update runs as soon as
/// its gradient is there), of those by how much it frees; the others in the order in which they were made.
fn rank(takes: &[usize], frees: &[usize], kernel: usize) -> (bool, Reverse<usize>, usize) {
    let (takes, frees) = (takes[kernel], frees[kernel]);
    let grows = takes > frees.max(SMALL_BYTES);
    (grows, Reverse(if grows { 0 } else { frees.saturating_sub(takes) }), kernel)
}

/// An execution order: of the kernels that are ready always the first by [`rank`].
fn schedule(fused: &Fused, dependencies: &Dependencies) -> Vec<usize> {
    let count = fused.kernels.len();
    let Uses { readers, writers } = uses(fused);
    let mut waits = vec![0usize; count];
    dependencies.successors.iter().flatten().for_each(|&after| waits[after] += 1);
    let mut unread: Vec<usize> = readers.iter().map(Vec::len).collect();
    let mut is_written = vec![false; fused.buffers.len()];
    let mut is_done = vec![false; count];
    // Bytes that a kernel frees as the only reader left.
    let mut frees = vec![0usize; count];
    let mut takes = vec![0usize; count];
    for (buffer, (readers, writers)) in readers.iter().zip(&writers).enumerate() {
        writers.iter().for_each(|&writer| takes[writer] += scratch_bytes(fused, buffer));
        if let [reader] = readers[..] {
            frees[reader] += scratch_bytes(fused, buffer);
        }
    }
    let mut ready: BTreeSet<_> = (0..count).filter(|&kernel| waits[kernel] == 0).map(|kernel| rank(&takes, &frees, kernel)).collect();
    let mut order = Vec::with_capacity(count);
    while let Some((_, _, kernel)) = ready.pop_first() {
        order.push(kernel);
        is_done[kernel] = true;
        let mut change = |other: usize, frees: &mut Vec<usize>, takes: &mut Vec<usize>, freed: usize, taken: usize| {
            let was_ready = ready.remove(&rank(takes, frees, other));
            frees[other] += freed;
            takes[other] -= taken;
            if was_ready {
                ready.insert(rank(takes, frees, other));
            }
        };
        let distinct: BTreeSet<BufferId> = fused.kernels[kernel].op.reads().into_iter().collect();
        for buffer in distinct.into_iter().map(BufferId::index) {
            unread[buffer] -= 1;
            if unread[buffer] == 1
                && let Some(&last) = readers[buffer].iter().find(|&&reader| !is_done[reader])
            {
                change(last, &mut frees, &mut takes, scratch_bytes(fused, buffer), 0);
            }
        }
        let distinct: BTreeSet<BufferId> = fused.kernels[kernel].op.writes().into_iter().collect();
        for buffer in distinct.into_iter().map(BufferId::index) {
            if !std::mem::replace(&mut is_written[buffer], true) {
                // The memory is taken by the first writer alone.
                for &writer in writers[buffer].iter().filter(|&&writer| !is_done[writer]) {
                    change(writer, &mut frees, &mut takes, 0, scratch_bytes(fused, buffer));
                }
            }
        }
        for &after in &dependencies.successors[kernel] {
            waits[after] -= 1;
            if waits[after] == 0 {
                ready.insert(rank(&takes, &frees, after));
            }
        }
    }
    assert_eq!(order.len(), count, "kernels never wait for each other in a circle");
    order
}

/// First and last kernel that reads or writes each buffer.
fn spans(kernels: &[Kernel], buffer_count: usize) -> Vec<Option<(usize, usize)>> {
    let mut spans = vec![None; buffer_count];
    for (index, kernel) in kernels.iter().enumerate() {
        for buffer in kernel.op.reads().into_iter().chain(kernel.op.writes()) {
            spans[buffer.index()].get_or_insert((index, index)).1 = index;
        }
    }
    spans
}

/// Gives each scratch buffer a slot that nobody else has from its first to its last kernel, the largest buffers first: the slot that stands idle for the
/// shortest time before or after, else a new one. Returns the sizes. Source: "greedy by size for shared objects" of Pisarchyk and Lee, "Efficient Memory
/// Management for Deep Neural Net Inference", 2020.
fn assign_slots(fused: &mut Fused) -> Vec<usize> {
    let spans = spans(&fused.kernels, fused.buffers.len());
    let is_scratch = |buffer: usize| matches!(fused.buffers[buffer].kind, BufferKind::Scratch { .. });
    let mut order: Vec<(usize, (usize, usize))> =
        (0..fused.buffers.len()).filter(|&buffer| is_scratch(buffer)).filter_map(|buffer| Some((buffer, spans[buffer]?))).collect();
    order.sort_by_key(|&(buffer, span)| (Reverse(scratch_bytes(fused, buffer)), span));
    let mut sizes: Vec<usize> = Vec::new();
    // Spans of each slot's buffers, last kernel by first kernel.
    let mut taken: Vec<BTreeMap<usize, usize>> = Vec::new();
    let mut slot_of = vec![usize::MAX; fused.buffers.len()];
    for (buffer, (first, last)) in order {
        // Kernels for which the slot would stand idle, if it is free: what a kernel reads and what it writes never overlap.
        let idle = |spans: &BTreeMap<usize, usize>| {
            let before = spans.range(..=last).next_back().map(|(_, &end)| end);
            let after = spans.range(last..).next().map(|(&start, _)| start);
            let is_free = before.is_none_or(|end| end < first);
            is_free.then(|| before.map_or(usize::MAX, |end| first - end).min(after.map_or(usize::MAX, |start| start - last)))
        };
        let free = taken.iter().enumerate().filter_map(|(slot, spans)| Some((idle(spans)?, slot)));
        let slot = free.min().map_or(taken.len(), |(_, slot)| slot);
        if slot == taken.len() {
            taken.push(BTreeMap::new());
            sizes.push(scratch_bytes(fused, buffer));
        }
        taken[slot].insert(first, last);
        slot_of[buffer] = slot;
    }
    for (buffer, slot) in slot_of.into_iter().enumerate() {
        if matches!(fused.buffers[buffer].kind, BufferKind::Scratch { .. }) {
            // Buffers that nobody writes are empty or were replaced by a state tensor.
            if slot == usize::MAX && sizes.is_empty() {
                sizes.push(4);
            }
            let is_used = slot != usize::MAX;
            fused.buffers[buffer].kind = BufferKind::Scratch { slot: if is_used { slot } else { 0 } };
            if !is_used {
                fused.buffers[buffer].elements = 0;
            }
        }
    }
    sizes
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Figures and printing

impl Plan {
    /// Bytes of a buffer.
    pub fn buffer_bytes(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.index()].bytes()
    }

    /// Bytes of all scratch slots.
    pub fn scratch_bytes(&self) -> usize {
        self.slots.iter().sum()
    }

    /// Bytes of scratch that hold a value while each kernel runs: what a perfect packing into slots would need.
    pub fn live_bytes(&self) -> Vec<usize> {
        let mut live = vec![0; self.kernels.len()];
        for (buffer, span) in spans(&self.kernels, self.buffers.len()).into_iter().enumerate() {
            if let (BufferKind::Scratch { .. }, Some((first, last))) = (&self.buffers[buffer].kind, span) {
                live[first..=last].iter_mut().for_each(|bytes| *bytes += self.buffer_bytes(BufferId(buffer as u32)));
            }
        }
        live
    }

    fn buffer_name(&self, buffer: BufferId) -> String {
        match &self.buffers[buffer.index()].kind {
            BufferKind::Input(index) => format!("in:{}", self.inputs[*index].name),
            BufferKind::Scalars => "scalars".into(),
            BufferKind::State(name) => name.clone(),
            BufferKind::Constant(_) => format!("const:{}", buffer.0),
            BufferKind::Scratch { slot } if self.buffers[buffer.index()].is_half => format!("%{}:f16@{slot}", buffer.0),
            BufferKind::Scratch { slot } => format!("%{}@{slot}", buffer.0),
            BufferKind::Output(index) => format!("out:{}", self.outputs[*index].name),
        }
    }
}

impl KernelOp {
    /// `map [32,128] 7 ops`: the family and its sizes.
    pub fn summary(&self) -> String {
        let sizes = |shape: &[usize]| format!("{shape:?}").replace(' ', "");
        match self {
            KernelOp::Map { shape, body, .. } => format!("map {} {} ops", sizes(shape), body.code.len() - body.loads.len()),
            KernelOp::Rows { shape, row_axes, body, .. } => {
                let (outer, row) = shape.split_at(shape.len() - row_axes);
                format!("rows {} of {} {} ops", sizes(outer), sizes(row), body.code.len() - body.loads.len())
            }
            KernelOp::Group { members } => {
                let count = |is: fn(&KernelOp) -> bool| members.iter().filter(|member| is(&member.op)).count();
                let maps = count(|op| matches!(op, KernelOp::Map { .. }));
                let reductions = count(|op| matches!(op, KernelOp::Reduce { .. }));
                format!("group of {maps} maps {reductions} reductions {} rows", members.len() - maps - reductions)
            }
            KernelOp::Reduce { shape, axes, kind, body, .. } => {
                format!("reduce_{kind:?} {} over {} {} ops", sizes(shape), sizes(axes), body.code.len() - body.loads.len()).to_lowercase()
            }
            KernelOp::ReduceArg { kind, outer, n, inner, .. } => format!("arg_{kind:?} [{outer},{n},{inner}]").to_lowercase(),
            KernelOp::Dot { batch, rows, columns, inner, epilogue, .. } => {
                let batch = if batch.is_empty() { String::new() } else { format!("{} x ", sizes(batch)) };
                format!("dot {batch}{rows}x{inner} * {inner}x{columns}{}", epilogue_summary(epilogue))
            }
            KernelOp::Attention { batch, queries, keys, dim, width, causal, pass, .. } => {
                let name = if matches!(pass, AttentionPass::Forward { .. }) { "attention" } else { "attention_grad" };
                let causal = if *causal { " causal" } else { "" };
                format!("{name} {} x {queries}x{dim} * {keys}x{width}{causal}", sizes(batch))
            }
            KernelOp::Convolution { form, x_shape, weight_shape, geometry, epilogue, .. } => {
                let form = match form {
                    crate::kernel::ConvolutionForm::Forward => "convolution",
                    crate::kernel::ConvolutionForm::InputGrad => "convolution_input_grad",
                    crate::kernel::ConvolutionForm::WeightGrad => "convolution_weight_grad",
                };
                let epilogue = epilogue_summary(epilogue);
                format!("{form} x {} weight {} stride {}{epilogue}", sizes(x_shape), sizes(weight_shape), sizes(&geometry.strides))
            }
            KernelOp::ReduceWindow { kind, window, from_shape, .. } => {
                format!("reduce_window_{kind:?} {} by {}", sizes(from_shape), sizes(&window.size)).to_lowercase()
            }
            KernelOp::SelectAndScatter { window, x_shape, .. } => {
                format!("select_and_scatter {} by {}", sizes(x_shape), sizes(&window.size))
            }
            KernelOp::Gather { batch, outer, n, index_count, inner, .. } => {
                format!("gather {index_count} of [{batch},{outer},{n},{inner}]")
            }
            KernelOp::Scatter { mode, batch, outer, n, index_count, inner, .. } => {
                format!("scatter_{mode:?} {index_count} into [{batch},{outer},{n},{inner}]").to_lowercase()
            }
            KernelOp::DynamicSlice { from_shape, sizes: block, .. } => format!("dynamic_slice {} of {}", sizes(block), sizes(from_shape)),
            KernelOp::DynamicUpdateSlice { from_shape, block_shape, .. } => {
                format!("dynamic_update_slice {} into {}", sizes(block_shape), sizes(from_shape))
            }
            KernelOp::Copy { .. } => "copy".into(),
        }
    }
}

impl fmt::Display for Plan {
    /// A table: number, scratch alive, bytes moved, kernel, what is read and written, label.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state_bytes: usize = self.states.iter().map(|port| port.ty.byte_count()).sum();
        writeln!(
            f,
            "plan {}: {} kernels, {} state, {} scratch in {} slots",
            self.name,
            self.kernels.len(),
            readable_bytes(state_bytes),
            readable_bytes(self.scratch_bytes()),
            self.slots.len()
        )?;
        let names = |buffers: Vec<BufferId>| {
            let mut seen = HashSet::new();
            let names: Vec<String> =
                buffers.into_iter().filter(|buffer| seen.insert(*buffer)).map(|buffer| self.buffer_name(buffer)).collect();
            names.join(" ")
        };
        for (index, (kernel, live)) in self.kernels.iter().zip(self.live_bytes()).enumerate() {
            let (read, written) = (names(kernel.op.reads()), names(kernel.op.writes()));
            let (live, bytes) = (readable_bytes(live), readable_bytes(cost(self, &kernel.op).bytes as usize));
            writeln!(f, "{index:>5}  {live:>10}  {bytes:>10}  {:<44}  {written} <- {read}  # {}", kernel.op.summary(), kernel.label)?;
        }
        for port in &self.outputs {
            writeln!(f, "       output {}: {}", port.name, port.ty)?;
        }
        Ok(())
    }
}

fn epilogue_summary(epilogue: &Option<Box<crate::kernel::Epilogue>>) -> String {
    epilogue.as_ref().map_or(String::new(), |epilogue| format!(" + {} ops", epilogue.body.code.len() - epilogue.body.loads.len()))
}

fn readable_bytes(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// True when a kernel has no element to compute.
pub(crate) fn is_empty(op: &KernelOp) -> bool {
    match op {
        KernelOp::Map { shape, .. } | KernelOp::Rows { shape, .. } => element_count(shape) == 0,
        KernelOp::Reduce { shape, axes, .. } => (0..shape.len()).any(|axis| shape[axis] == 0 && !axes.contains(&axis)),
        _ => false,
    }
}
