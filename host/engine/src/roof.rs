//! What a device can do at most, measured through the engine itself: the two roofs that a kernel's rates are held against.
//!
//! The roof of computing is the fastest of a few square products, that of memory a stream over tensors larger than any cache. A kernel whose tensors stay in
//! a cache may pass the second. For profiles; `cost.rs` says what a kernel's work is.
//! Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009; McCalpin's triad, STREAM.

use crate::cost::Cost;
use crate::{CompileOptions, EngineError, Session, compile};
use solstice_ir::{BinaryOp, DType, DotDims, Graph, Literal, NodeId, Op, Parameter, Role, TensorType, Update};
use std::sync::Arc;
use std::time::Duration;

/// Sizes of the products that are tried, until one takes long enough.
const PRODUCT_SIZES: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// A product that takes as long as this shows what the device can do.
const LONG_ENOUGH: Duration = Duration::from_millis(10);
/// Elements of each of the three tensors of the stream: 64 MiB.
const STREAM_ELEMENTS: usize = 16 << 20;
/// Runs of each; the fastest counts, and the first touches memory for the first time.
const RUNS: usize = 4;

/// The two roofs of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// Floating-point operations a second (f32) of the fastest product.
    pub flops_per_sec: f64,
    /// That product is one of two matrices `[product_size, product_size]`.
    pub product_size: usize,
    /// Bytes a second, read and written together, of `c = a + 3 b`.
    pub bytes_per_sec: f64,
    /// Bytes of each of its three tensors.
    pub stream_bytes: usize,
}

/// The roof that a kernel meets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its operations take longer than its bytes.
    Compute,
    /// Its bytes take at least as long.
    Memory,
}

impl Roofs {
    /// The least seconds that `work` can take, and what they are taken by.
    pub fn least(&self, work: Cost) -> (f64, Bound) {
        let (computing, moving) = (work.flops as f64 / self.flops_per_sec, work.bytes as f64 / self.bytes_per_sec);
        if computing > moving { (computing, Bound::Compute) } else { (moving, Bound::Memory) }
    }
}

/// Measures both roofs in a session of its own, whose kernels are timed afterwards too.
///
/// Cost: some hundred milliseconds, and three tensors of 64 MiB.
/// Errors: `EngineError::Device` when the device has no clock for kernels, or not the memory.
pub fn measure(session: &mut Session) -> Result<Roofs, EngineError> {
    session.set_profiling(true)?;
    let mut roofs = Roofs { flops_per_sec: 0.0, product_size: 0, bytes_per_sec: 0.0, stream_bytes: 4 * STREAM_ELEMENTS };
    for size in PRODUCT_SIZES {
        let dims = DotDims { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![0] };
        let time = fastest(session, &[size, size], |graph, a, b| push(graph, Op::DotGeneral { dims }, &[a, b]))?;
        let rate = 2.0 * (size as f64).powi(3) / time.as_secs_f64().max(1e-9);
        if rate > roofs.flops_per_sec {
            (roofs.flops_per_sec, roofs.product_size) = (rate, size);
        }
        if time >= LONG_ENOUGH {
            break;
        }
    }
    let time = fastest(session, &[STREAM_ELEMENTS], |graph, a, b| {
        let ty = graph.ty(a).clone();
        let value = Literal::splat(ty.clone(), 3.0);
        let three = graph.push_typed(Op::Constant { value }, vec![], ty, "".into(), "".into());
        let scaled = push(graph, Op::Binary { function: BinaryOp::Multiply }, &[b, three]);
        push(graph, Op::Binary { function: BinaryOp::Add }, &[a, scaled])
    })?;
    roofs.bytes_per_sec = (12 * STREAM_ELEMENTS) as f64 / time.as_secs_f64().max(1e-9);
    Ok(roofs)
}

/// The shortest time of `c = function(a, b)`, all three tensors of `shape` and in the session's state, so that nothing is copied.
fn fastest(
    session: &mut Session,
    shape: &[usize],
    function: impl FnOnce(&mut Graph, NodeId, NodeId) -> NodeId,
) -> Result<Duration, EngineError> {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let mut graph = Graph::new("roof");
    let ty = TensorType::new(DType::F32, shape);
    let [a, b, _] = NAMES.map(|name| {
        let op = Op::Parameter(Parameter { name: name.into(), role: Role::ModelState, init: None });
        graph.push_typed(op, vec![], ty.clone(), "".into(), "".into())
    });
    let node = function(&mut graph, a, b);
    graph.updates.push(Update { state: "c".into(), node });
    // Numbers in 0 .. 1 of all kinds of bits: a chip takes more power for them than for zeros.
    let pattern: Vec<u8> =
        (0..1024u32).flat_map(|index| (index.wrapping_mul(0x9e37_79b1) as f32 / 4_294_967_296.0).to_le_bytes()).collect();
    let mut bytes = pattern.repeat(ty.byte_count().div_ceil(pattern.len()));
    bytes.truncate(ty.byte_count());
    for name in NAMES {
        session.write_state(name, &ty, &bytes)?;
    }
    let program = session.load(compile(&graph, &CompileOptions::default())?.plan)?;
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        session.take_profile();
        session.submit(program, &[], &[])?;
        session.finish()?;
        fastest = fastest.min(session.take_profile().iter().map(|kernel| kernel.time).sum());
    }
    session.take_spans();
    NAMES.iter().for_each(|name| session.remove_state(name));
    Ok(fastest)
}

fn push(graph: &mut Graph, op: Op, inputs: &[NodeId]) -> NodeId {
    graph.push(op, inputs, &Arc::from(""), &Arc::from("")).expect("two tensors of one shape")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuRuntime;

    #[test]
    fn a_kernel_is_bound_by_what_takes_it_longer() {
        let roofs = Roofs { flops_per_sec: 100e9, product_size: 512, bytes_per_sec: 10e9, stream_bytes: 0 };
        // 10 operations a byte are the ridge.
        assert_eq!(roofs.least(Cost { bytes: 1_000, flops: 20_000 }), (200e-9, Bound::Compute));
        assert_eq!(roofs.least(Cost { bytes: 1_000, flops: 5_000 }), (100e-9, Bound::Memory));
        assert_eq!(roofs.least(Cost { bytes: 1_000, flops: 0 }), (100e-9, Bound::Memory));
    }

    #[test]
    fn both_roofs_are_found_and_the_state_is_gone_again() {
        let mut session = Session::new(Box::new(CpuRuntime::new(Some(2)).unwrap()));
        let roofs = measure(&mut session).unwrap();
        assert!(roofs.flops_per_sec > 1e6 && roofs.bytes_per_sec > 1e6, "{roofs:?}");
        assert!(PRODUCT_SIZES.contains(&roofs.product_size));
        assert!(session.states().is_empty() && session.take_profile().is_empty() && session.take_spans().is_empty());
        println!("{roofs:?}");
    }
}
