//! Measurements of single kernels of the GPU device. Ignored: they check nothing but that the kernels run.
//!
//! `cargo test -p solstice-engine --test gpu_time -- --ignored --nocapture`; the first adapter, software serves.

#[path = "common/device.rs"]
mod device;

use device::{Case, bytes_of};
use solstice_engine::Session;
use solstice_engine::gpu::{GpuRuntime, adapters};
use solstice_ir::{DotDims, Op};
use std::time::Instant;

/// Medians of `rounds` times of one case.
fn time(case: &Case, rounds: usize) -> (f64, f64) {
    let adapters = adapters();
    let runtime = GpuRuntime::new(adapters.first().expect("an adapter")).expect("the adapter opens");
    let mut session = Session::new(Box::new(runtime));
    let plan = case.plan(true);
    for port in &plan.states {
        session.write_state(&port.name, &port.ty, &bytes_of(&case.values[&port.name])).expect("a state is written");
    }
    let program = session.load(plan).expect("the plan loads");
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            session.submit(program, &[], &[]).expect("a run starts");
            session.finish().expect("a run ends");
            begin.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[rounds / 2])
}

/// Products of matrices that stay on the device, in the four forms of a training step.
#[test]
#[ignore = "a measurement"]
fn products() {
    for (rows, inner, columns) in [(512, 512, 512), (128, 784, 512), (768, 128, 384), (1024, 1024, 1024)] {
        for (form, lhs_contract, rhs_contract) in [("a b", 1, 0), ("a b^T", 1, 1), ("a^T b", 0, 0), ("a^T b^T", 0, 1)] {
            let mut case = Case::new("product", 1);
            let shape = |contract: usize, outer: usize| if contract == 0 { [inner, outer] } else { [outer, inner] };
            let a = case.state("a", &shape(lhs_contract, rows));
            let b = case.state("b", &shape(rhs_contract, columns));
            let dims = DotDims { lhs_contract: vec![lhs_contract], rhs_contract: vec![rhs_contract], ..DotDims::default() };
            let product = case.op(Op::DotGeneral { dims }, &[a, b]);
            let _ = case.state("c", &[rows, columns]);
            case.update("c", product);
            let (least, median) = time(&case, 15);
            let rate = |seconds: f64| 2.0 * (rows * inner * columns) as f64 / seconds / 1e9;
            println!("{rows} x {inner} x {columns}, {form}: median {:.1} GFLOP/s, best {:.1}", rate(median), rate(least));
        }
    }
}
