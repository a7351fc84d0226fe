//! Elementwise work on a product goes into the kernel that makes the product: bias, activation, residual, mask of a dropout.
//!
//! The result of a `Dot` or a `Convolution` is in a register when it is done; a map that reads it element by element takes it from there. Pays a launch, a
//! load of the product, and its store where nobody else reads it. Not where the map writes a state: an update in place must wait for other readers.

use super::merge::map_parts;
use super::{Fused, dense_view};
use crate::dataflow::{Dag, Uses, compact, uses};
use crate::kernel::{BUFFERS_PER_KERNEL, BufferId, BufferKind, Epilogue, Instruction, Kernel, KernelOp, Register, Store, View};
use solstice_ir::DType;
use std::collections::{BTreeSet, HashSet};

/// Instructions of an epilogue: it runs once for each element, but its registers stand beside the accumulators.
const INSTRUCTIONS_MAX: usize = 64;

/// Moves maps into the kernels whose products they read.
pub(crate) fn fuse_epilogues(fused: &mut Fused) {
    let Uses { mut readers, writers } = uses(fused);
    let mut dag = Dag::new(fused);
    let kept: HashSet<BufferId> = fused.updates.iter().map(|(_, value)| *value).collect();
    let mut kernels: Vec<Option<Kernel>> = std::mem::take(&mut fused.kernels).into_iter().map(Some).collect();
    for product in 0..kernels.len() {
        let Some(to) = kernels[product].as_ref().and_then(|kernel| product_of(&kernel.op)) else { continue };
        let is_free = matches!(fused.buffers[to.index()].kind, BufferKind::Scratch { .. }) && !kept.contains(&to);
        if !is_free || writers[to.index()].len() != 1 {
            continue;
        }
        let candidates: Vec<usize> = dag.successors(product).iter().copied().collect();
        let found = candidates.into_iter().find_map(|map| {
            let kernel = kernels[map].as_ref()?;
            let others = readers[to.index()].iter().any(|&reader| reader != map);
            let alone = kernel.op.writes().iter().all(|buffer| writers[buffer.index()].len() == 1 && !kept.contains(buffer));
            let op = &kernels[product].as_ref()?.op;
            let (epilogue, target) = if alone { epilogue_of(fused, op, kernel, to, others) } else { None }?;
            (!dag.has_detour(product, map)).then_some((map, epilogue, target))
        });
        let Some((map, epilogue, target)) = found else { continue };
        dag.contract(map, product);
        for readers in &mut readers {
            if let Some(place) = readers.iter().position(|&reader| reader == map) {
                readers[place] = product;
            }
        }
        readers[to.index()].retain(|&reader| reader != product);
        kernels[map] = None;
        match &mut kernels[product].as_mut().expect("a product is a kernel").op {
            KernelOp::Dot { to, epilogue: place, .. } | KernelOp::Convolution { to, epilogue: place, .. } => {
                (*to, *place) = (target, Some(Box::new(epilogue)));
            }
            _ => unreachable!("only products have epilogues"),
        }
    }
    compact(fused, kernels);
}

/// The buffer of a product without an epilogue.
fn product_of(op: &KernelOp) -> Option<BufferId> {
    match op {
        KernelOp::Dot { to, epilogue: None, .. } | KernelOp::Convolution { to, epilogue: None, .. } => Some(*to),
        _ => None,
    }
}

/// The map as an epilogue and the buffer where the product stands; `None` when the map reads the product elsewhere than it writes.
fn epilogue_of(fused: &Fused, op: &KernelOp, map: &Kernel, to: BufferId, is_read_elsewhere: bool) -> Option<(Epilogue, BufferId)> {
    let parts = map_parts(map)?;
    if parts.body.code.len() > INSTRUCTIONS_MAX || parts.shape.iter().product::<usize>() != fused.buffers[to.index()].elements {
        return None;
    }
    let is_dense = |view: &View| *view == dense_view(view.buffer, 0, &parts.shape);
    let mut loads = parts.body.loads.iter().enumerate().filter(|(_, view)| view.buffer == to);
    let (product, None) = (loads.next()?, loads.next()) else { return None };
    if !is_dense(product.1) {
        return None;
    }
    let product = product.0;
    let (mut body, mut stores) = (parts.body, parts.stores);
    let target = if is_read_elsewhere {
        // The product itself is stored too.
        let register = body.code.iter().position(|instruction| *instruction == Instruction::Load(product as u16))?;
        stores.push(Store { value: Register(register as u16), to: body.loads[product].clone() });
        to
    } else {
        let fits = |store: &&Store| {
            let buffer = &fused.buffers[store.to.buffer.index()];
            is_dense(&store.to) && buffer.dtype == DType::F32 && buffer.elements == fused.buffers[to.index()].elements
        };
        let target = stores.iter().find(fits)?.to.buffer;
        body.loads[product].buffer = target;
        target
    };
    let epilogue = Epilogue { shape: parts.shape, body, stores, product };
    let own = epilogue.body.loads.iter().map(|view| view.buffer).chain(epilogue.stores.iter().map(|store| store.to.buffer));
    let own: BTreeSet<BufferId> = own.collect();
    // Operands are bound one by one, whatever else the kernel reads.
    (op.reads().len() + own.len() <= BUFFERS_PER_KERNEL).then_some((epilogue, target))
}
