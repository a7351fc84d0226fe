//! Which memory of a step holds f16 numbers under mixed precision, decided on kernels, before they are ordered and given memory.
//!
//! The graph stays f32, and so does all arithmetic but the factors of products: what is decided here is how scratch buffers lie in memory
//! ([`Buffer::is_half`](crate::kernel::Buffer::is_half)). Half as wide are the large values that products make and read, and what elementwise kernels make
//! of them: activations, and what flows back to them. f32 stay the results of reductions (statistics, losses, sums, log sums), whatever becomes the new value
//! of a state or is on its way there (the gradients of weights, moments, running statistics), whatever is computed from such gradients (an optimizer may
//! have products of its own), and what no kernel takes as f16. The weights stay f32 in the state table, which is the only thing that checkpoints know; a
//! product rounds them when it fetches them, so there is no second copy to keep in step. Gradients that f16 cannot hold are the business of `loss_scale.rs`.
//!
//! Source: Micikevicius et al., "Mixed Precision Training", 2018, whose master weights, loss scaling and f32 sums these are.

use crate::fuse::{Fused, map_registers};
use crate::kernel::{AttentionPass, Body, Buffer, BufferId, BufferKind, Epilogue, Instruction, Kernel, KernelOp, View};
use serde::{Deserialize, Serialize};
use solstice_ir::{DType, Role};
use std::collections::HashMap;
use std::fmt;

/// How the numbers of a step lie in memory and are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// All floats in f32.
    #[default]
    F32,
    /// Large activations and their gradients in f16, products of f16 with sums in f32, weights and all other state in f32. Wants a device with f16
    /// arithmetic, and [`crate::loss_scale`] where gradients are small.
    Mixed,
}

impl fmt::Display for Precision {
    /// As recipes write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Mixed => "mixed",
        })
    }
}

/// Smaller buffers are not worth a rounding.
const ELEMENTS_MIN: usize = 1024;

/// Marks the scratch buffers that hold f16 numbers. Changes nothing else.
pub(crate) fn store_halves(fused: &mut Fused) {
    let mut flows = Vec::new();
    let mut is_takeable: Vec<bool> = fused
        .buffers
        .iter()
        .map(|buffer| matches!(buffer.kind, BufferKind::Scratch { .. }) && buffer.dtype == DType::F32 && buffer.elements >= ELEMENTS_MIN)
        .collect();
    let mut feeds_product = vec![false; fused.buffers.len()];
    for kernel in &fused.kernels {
        collect(kernel, &mut flows, &mut is_takeable, &mut feeds_product);
    }
    let facts = Facts { fused, flows: &flows };
    let (kept, tainted) = (facts.on_the_way_to_state(|_| true), facts.made_from_weight_gradients());
    let is_large = facts.large(&feeds_product);
    for index in 0..fused.buffers.len() {
        fused.buffers[index].is_half = is_takeable[index] && is_large[index] && !kept[index] && !tainted[index];
    }
}

/// What one store of a kernel is made from.
struct Flow {
    to: BufferId,
    /// What it is made from element by element: a shape of its own, or a smaller one that is repeated.
    elementwise: Vec<BufferId>,
    /// What goes into a sum behind it.
    summed: Vec<BufferId>,
    /// The sum is a product's.
    is_product: bool,
}

/// Adds the flows of a kernel, and clears what it can neither read nor write as f16.
fn collect(kernel: &Kernel, flows: &mut Vec<Flow>, is_takeable: &mut [bool], feeds_product: &mut [bool]) {
    let mut flow = |to: BufferId, elementwise: Vec<BufferId>, summed: Vec<BufferId>, is_product: bool| {
        flows.push(Flow { to, elementwise, summed, is_product });
    };
    let mut refuse = |buffer: BufferId| is_takeable[buffer.index()] = false;
    match &kernel.op {
        KernelOp::Map { body, stores, .. } => {
            for store in stores {
                flow(store.to.buffer, loads_behind(body, store.value.0), vec![], false);
            }
        }
        KernelOp::Rows { shape, row_axes, body, stores } => {
            let split = shape.len() - row_axes;
            let varies = |view: &View| view.strides[split..].iter().zip(&shape[split..]).any(|(stride, size)| *stride != 0 && *size > 1);
            for store in stores {
                let loads = loads_behind(body, store.value.0);
                if varies(&store.to) {
                    flow(store.to.buffer, loads, vec![], false);
                } else {
                    // A statistic of the row.
                    refuse(store.to.buffer);
                    flow(store.to.buffer, vec![], loads, false);
                }
            }
        }
        KernelOp::Reduce { body, value, to, .. } => {
            refuse(*to);
            flow(*to, vec![], loads_behind(body, value.0), false);
        }
        KernelOp::Dot { lhs, rhs, to, epilogue, .. } => {
            product([lhs.buffer, rhs.buffer], *to, epilogue.as_deref(), &mut flow, feeds_product)
        }
        KernelOp::Convolution { from, to, epilogue, .. } => product(*from, *to, epilogue.as_deref(), &mut flow, feeds_product),
        KernelOp::Attention { qkv, pass, .. } => {
            let mut from: Vec<BufferId> = qkv.iter().map(|view| view.buffer).collect();
            from.iter().for_each(|buffer| feeds_product[buffer.index()] = true);
            match pass {
                AttentionPass::Forward { to, log_sums } => {
                    flow(to.buffer, vec![], from.clone(), true);
                    if let Some(log_sums) = log_sums {
                        refuse(*log_sums);
                        flow(*log_sums, vec![], from, false);
                    }
                }
                AttentionPass::Gradient { result, log_sums, grad, to } => {
                    from.extend([result.buffer, grad.buffer]);
                    [result, grad].iter().for_each(|view| feeds_product[view.buffer.index()] = true);
                    refuse(*log_sums);
                    to.iter().for_each(|to| flow(to.buffer, vec![], from.clone(), true));
                }
            }
        }
        // They choose or add elements of the same kind.
        KernelOp::ReduceWindow { from, to, .. } => flow(*to, vec![*from], vec![], false),
        KernelOp::SelectAndScatter { x, grad, to, .. } => flow(*to, vec![*grad], vec![*x], false),
        KernelOp::ReduceArg { from, to, .. } => flow(*to, vec![], vec![*from], false),
        KernelOp::Group { members } => members.iter().for_each(|member| collect(member, flows, is_takeable, feeds_product)),
        // Data that moves as words.
        op @ (KernelOp::Gather { .. }
        | KernelOp::Scatter { .. }
        | KernelOp::DynamicSlice { .. }
        | KernelOp::DynamicUpdateSlice { .. }
        | KernelOp::Copy { .. }) => {
            op.reads().into_iter().chain(op.writes()).for_each(&mut refuse);
            op.writes().into_iter().for_each(|to| flow(to, op.reads(), vec![], false));
        }
    }
}

fn product(
    from: [BufferId; 2],
    to: BufferId,
    epilogue: Option<&Epilogue>,
    flow: &mut impl FnMut(BufferId, Vec<BufferId>, Vec<BufferId>, bool),
    feeds_product: &mut [bool],
) {
    from.iter().for_each(|buffer| feeds_product[buffer.index()] = true);
    let Some(epilogue) = epilogue else { return flow(to, vec![], from.to_vec(), true) };
    for store in &epilogue.stores {
        let behind = registers_behind(&epilogue.body, store.value.0);
        let mut elementwise = Vec::new();
        let mut is_of_product = false;
        for load in behind.iter().filter_map(|&register| load_of(&epilogue.body, register)) {
            match load == epilogue.product {
                true => is_of_product = true,
                false => elementwise.push(epilogue.body.loads[load].buffer),
            }
        }
        flow(store.to.buffer, elementwise, if is_of_product { from.to_vec() } else { vec![] }, is_of_product);
    }
}

fn load_of(body: &Body, register: usize) -> Option<usize> {
    if let Instruction::Load(load) = body.code[register] { Some(usize::from(load)) } else { None }
}

/// Buffers that register `value` is made from.
fn loads_behind(body: &Body, value: u16) -> Vec<BufferId> {
    registers_behind(body, value).into_iter().filter_map(|register| load_of(body, register)).map(|load| body.loads[load].buffer).collect()
}

/// Register `value` and all that it is made from.
fn registers_behind(body: &Body, value: u16) -> Vec<usize> {
    let mut is_needed = vec![false; body.code.len()];
    is_needed[usize::from(value)] = true;
    for register in (0..body.code.len()).rev().filter(|&register| register <= usize::from(value)) {
        if is_needed[register] {
            map_registers(body.code[register], |operand| {
                is_needed[usize::from(operand.0)] = true;
                operand
            });
        }
    }
    (0..body.code.len()).filter(|&register| is_needed[register]).collect()
}

struct Facts<'a> {
    fused: &'a Fused,
    flows: &'a [Flow],
}

impl Facts<'_> {
    fn elements(&self, buffer: BufferId) -> usize {
        self.fused.buffers[buffer.index()].elements
    }

    fn role_of(&self) -> HashMap<BufferId, Role> {
        self.fused.states.iter().map(|port| (port.buffer, port.role)).collect()
    }

    /// New values of the states whose role `wanted` names, and what they are made from element by element.
    fn on_the_way_to_state(&self, wanted: impl Fn(Role) -> bool) -> Vec<bool> {
        let roles = self.role_of();
        let mut is_on_the_way = vec![false; self.fused.buffers.len()];
        for (state, value) in &self.fused.updates {
            is_on_the_way[value.index()] |= roles.get(state).is_some_and(|role| wanted(*role));
        }
        self.close(&mut is_on_the_way, |flow, marked| {
            // What is larger was folded or picked from on the way.
            let is_kept = |from: &&BufferId| self.elements(**from) <= self.elements(flow.to);
            if marked[flow.to.index()] { flow.elementwise.iter().filter(is_kept).copied().collect() } else { Vec::new() }
        });
        is_on_the_way
    }

    /// Gradients of weights and everything that is made from them; but a new weight is a weight.
    fn made_from_weight_gradients(&self) -> Vec<bool> {
        let roles = self.role_of();
        let mut is_made = self.on_the_way_to_state(|role| matches!(role, Role::Param | Role::OptState));
        let mut is_weight = vec![false; self.fused.buffers.len()];
        for (state, value) in &self.fused.updates {
            is_weight[value.index()] |= roles.get(state) == Some(&Role::Param);
        }
        // The states themselves are where the way ends. A scalar (a norm, a scale) goes everywhere and says nothing.
        let is_end = |buffer: usize| {
            let Buffer { kind, elements, .. } = &self.fused.buffers[buffer];
            is_weight[buffer] || *elements < ELEMENTS_MIN || !matches!(kind, BufferKind::Scratch { .. })
        };
        (0..is_made.len()).filter(|&buffer| is_end(buffer)).for_each(|buffer| is_made[buffer] = false);
        self.close(&mut is_made, |flow, marked| {
            let comes_from = flow.elementwise.iter().chain(&flow.summed).any(|from| marked[from.index()]);
            if comes_from && !is_end(flow.to.index()) { vec![flow.to] } else { Vec::new() }
        });
        is_made
    }

    /// What products make or read, and what is made of that element by element without getting smaller.
    fn large(&self, feeds_product: &[bool]) -> Vec<bool> {
        let mut is_large = feeds_product.to_vec();
        self.flows.iter().filter(|flow| flow.is_product).for_each(|flow| is_large[flow.to.index()] = true);
        self.close(&mut is_large, |flow, marked| {
            let mut from = flow.elementwise.iter().filter(|from| marked[from.index()]).peekable();
            let is_of_large = from.peek().is_some() && from.all(|from| self.elements(*from) <= self.elements(flow.to));
            if is_of_large { vec![flow.to] } else { Vec::new() }
        });
        is_large
    }

    /// Marks what `more` names for the flows, until nothing is new.
    fn close(&self, marked: &mut [bool], more: impl Fn(&Flow, &[bool]) -> Vec<BufferId>) {
        loop {
            let mut is_done = true;
            for flow in self.flows {
                for buffer in more(flow, marked) {
                    is_done &= std::mem::replace(&mut marked[buffer.index()], true);
                }
            }
            if is_done {
                return;
            }
        }
    }
}
