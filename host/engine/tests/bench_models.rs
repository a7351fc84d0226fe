//! The three models of `solstice bench`: how many kernels a step has, how many bytes it moves, and that fusion does not change what it computes.

#[path = "common/kept.rs"]
mod kept;
#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;
#[path = "common/models.rs"]
mod models;

use kept::Kept;
use machine::{Device, Machine};
use models::{convnet, gpt, mlp, value};
use solstice_engine::cost::cost;
use solstice_engine::device::DeviceOptions;
use solstice_engine::gpu::{Measured, Sources, Target, launches};
use solstice_engine::kernel::KernelOp;
use solstice_engine::{CompileOptions, Plan, ProgramId, Session, compile, device, init};
use solstice_ir::{DType, Graph, Role};
use std::collections::BTreeMap;
use std::sync::Arc;

fn plan(graph: &Graph) -> Plan {
    compile(graph, &CompileOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", graph.name)).plan
}

/// States after two steps.
fn trained(device: Device, graph: &Graph, classes: u32) -> BTreeMap<String, Vec<f64>> {
    let mut machine = Machine::new(device, graph, &BTreeMap::new());
    let inputs: Vec<(String, Vec<f64>)> = graph
        .parameters()
        .filter(|(_, parameter, _)| parameter.role == Role::Input)
        .map(|(_, parameter, ty)| {
            let values = (0..ty.element_count() as u32).map(|i| value(&parameter.name, ty.dtype, classes, i)).collect();
            (parameter.name.clone(), values)
        })
        .collect();
    for step in [[0.0], [1.0]] {
        let mut given: Vec<(&str, &[f64])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        given.extend([("run.step", &step[..]), ("run.seed", &[0.0]), ("run.total_steps", &[1e6])]);
        machine.run(&given);
    }
    let states = graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state());
    states.map(|(_, parameter, _)| (parameter.name.clone(), machine.state(&parameter.name))).collect()
}

fn agrees_with_the_oracle(graph: &Graph) {
    let wanted = trained(Device::Reference, graph, 10);
    for device in [Device::Cpu, Device::Gpu] {
        let found = trained(device, graph, 10);
        for (name, wanted) in &wanted {
            let largest = wanted.iter().fold(1e-30, |most: f64, value| most.max(value.abs()));
            // Adam's first steps divide small gradients by their own size: a step of 1e-3 may be off by its whole where a gradient is noise, so
            // a few weights may differ by a step or two. The others agree as the means do, which are the gradients, to rounding.
            let is_weight = name.starts_with("model.");
            let allowed = if is_weight { 2e-3 } else { 2e-4 * largest };
            let errors: Vec<f64> = wanted.iter().zip(&found[name]).map(|(wanted, found)| (wanted - found).abs()).collect();
            for (i, error) in errors.iter().enumerate() {
                assert!(*error <= allowed, "{device:?}: {name}[{i}] is {}, wanted {}", found[name][i], wanted[i]);
            }
            let far = errors.iter().filter(|error| **error > 2e-5).count();
            assert!(
                !is_weight || far * 20 <= errors.len(),
                "{device:?}: {far} of {} elements of {name} are off by more than 2e-5",
                errors.len()
            );
        }
    }
}

#[test]
fn a_perceptron_trains_as_the_oracle_says() {
    agrees_with_the_oracle(&mlp(&[20, 12], 9));
}

#[test]
fn a_convolutional_net_trains_as_the_oracle_says() {
    agrees_with_the_oracle(&convnet([3, 4], 11, 5, 12));
}

#[test]
fn a_transformer_trains_as_the_oracle_says() {
    agrees_with_the_oracle(&gpt(2, 2, 12, 3, 10));
}

#[test]
fn a_step_has_few_kernels() {
    // Kernels; launches on a software adapter, on a GPU with WebGPU's smallest limits, and on a usual GPU, where products are cut for more workgroups.
    let wanted = [
        ("mlp", mlp(&[512, 512], 128), [14, 16, 25, 18]),
        ("convnet", convnet([32, 64], 128, 64, 28), [21, 28, 38, 29]),
        ("gpt", gpt(4, 4, 128, 12, 64), [86, 122, 159, 116]),
    ];
    for (name, graph, wanted) in wanted {
        let plan = plan(&graph);
        println!("{plan}");
        let bytes: u64 = plan.kernels.iter().map(|kernel| cost(&plan, &kernel.op).bytes).sum();
        let mib = |bytes: f64| bytes / 1048576.0;
        println!(
            "{name}: {} kernels, {:.1} MiB moved, {:.1} MiB scratch",
            plan.kernels.len(),
            mib(bytes as f64),
            mib(plan.scratch_bytes() as f64)
        );
        let launched = |limit, is_software| {
            let subgroup_size = if is_software { 8 } else { 1 };
            let target = Target { is_software, subgroup_size, storage_buffers_max: limit, ..Target::smallest(&Sources::built_in()) };
            let launches = launches(&plan, &target).unwrap_or_else(|error| panic!("{name}: {error}"));
            launches.steps.len()
        };
        let found = [plan.kernels.len(), launched(32, true), launched(8, false), launched(128, false)];
        println!("{name}: {found:?} kernels and launches");
        assert_eq!(found, wanted, "{name}: kernels of a step, and its launches");
    }
}

/// What the norms wrote for the products is not kept for the gradients of these products' weights: the norms' gradients write it again.
#[test]
fn a_transformer_keeps_less_than_pytorch() {
    let plan = plan(&gpt(4, 4, 128, 12, 64));
    let state_bytes: usize = plan.states.iter().map(|port| port.ty.byte_count()).sum();
    // Parameters, moments, activations and gradients of the same step in PyTorch 2.15 at their peak: 35.5 MiB of tensors.
    let mib = (state_bytes + plan.scratch_bytes()) as f64 / 1048576.0;
    assert!(mib <= 35.5, "{mib:.1} MiB");
    let writer = |buffer| plan.kernels.iter().position(|kernel| kernel.op.writes().contains(&buffer)).expect("somebody writes it");
    let (mut again, mut kept) = (0, Vec::new());
    for (index, kernel) in plan.kernels.iter().enumerate() {
        if let KernelOp::Dot { inner: 768, lhs, rhs, .. } = &kernel.op
            && (kernel.label.ends_with("mlp.fc") || kernel.label.ends_with("attention.qkv"))
        {
            let normed =
                [lhs.buffer, rhs.buffer].into_iter().find(|&buffer| matches!(plan.kernels[writer(buffer)].op, KernelOp::Rows { .. }));
            let written = writer(normed.expect("the product's argument is a norm's result"));
            if index - written < 8 { again += 1 } else { kept.push(kernel.label.as_str()) }
        }
    }
    // The first norm has two tensors for its argument, so that its gradient has no binding left.
    assert_eq!((again, kept), (7, vec!["dot_general model.block0.attention.qkv"]));
}

/// `cargo test -p solstice-engine --test bench_models -- --ignored --nocapture time_of_a_step`: least and median milliseconds of a step. `SOLSTICE_DEVICES` names
/// devices and `SOLSTICE_MODELS` models, `SOLSTICE_PROFILE` prints the times of kernels, `SOLSTICE_TUNE` measures the kernels of products first.
#[test]
#[ignore = "a measurement"]
fn time_of_a_step() {
    let devices = std::env::var("SOLSTICE_DEVICES").unwrap_or_else(|_| "cpu".into());
    let wanted = std::env::var("SOLSTICE_MODELS").unwrap_or_else(|_| "mlp,convnet,gpt".into());
    let models = [("mlp", mlp(&[512, 512], 128), 10), ("convnet", convnet([32, 64], 128, 64, 28), 10), ("gpt", gpt(4, 4, 128, 12, 64), 65)];
    for device_name in devices.split(',') {
        for (name, graph, classes) in models.iter().filter(|(name, ..)| wanted.split(',').any(|wanted| wanted == *name)) {
            let request = device_name.parse().expect("any text is a request");
            let options = DeviceOptions { cache: Some(Arc::new(Kept::default())), ..DeviceOptions::default() };
            if std::env::var_os("SOLSTICE_TUNE").is_some() {
                let mut report = |class: &Measured| {
                    let gain = class.before_secs / class.after_secs;
                    println!("  {gain:.2} times as fast: {} of {} for {} ({})", class.choice, class.candidates, class.class, class.label);
                };
                device::tune(&request, &options, &[&plan(graph)], false, &mut report).expect("the device has something to measure");
            }
            let (runtime, _) = device::open_with(&request, &options).expect("the device opens");
            let mut session = Session::new(runtime);
            for (_, parameter, ty) in graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
                let values = init::initial_values(parameter.init.as_ref().expect("a state has an init"), &ty.shape, 0, &parameter.name);
                let bytes: Vec<u8> = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
                session.write_state(&parameter.name, ty, &bytes).expect("a state is written");
            }
            let begin = std::time::Instant::now();
            let program = session.load(plan(graph)).expect("the plan loads");
            let inputs: Vec<(String, Vec<u8>)> = session
                .plan(program)
                .inputs
                .iter()
                .map(|port| {
                    let words = (0..port.ty.element_count() as u32).map(|i| {
                        let value = value(&port.name, port.ty.dtype, *classes, i);
                        if port.ty.dtype == DType::F32 { (value as f32).to_bits() } else { value as u32 }
                    });
                    (port.name.clone(), words.flat_map(u32::to_le_bytes).collect())
                })
                .collect();
            let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            let scalars: Vec<(String, DType)> = session.plan(program).scalars.iter().map(|port| (port.name.clone(), port.dtype)).collect();
            let scalars: Vec<(&str, u32)> = scalars
                .iter()
                .map(|(name, dtype)| {
                    let value = match name.as_str() {
                        "run.step" | "run.seed" => 0.0,
                        "run.total_steps" => 1e6,
                        _ => 1e-3,
                    };
                    (name.as_str(), if *dtype == DType::F32 { (value as f32).to_bits() } else { value as u32 })
                })
                .collect();
            session.run(program, &inputs, &scalars).expect("a step runs");
            let first = begin.elapsed().as_secs_f64();
            let mut times = Vec::new();
            let begin = std::time::Instant::now();
            while begin.elapsed().as_secs_f64() < 3.0 {
                let start = std::time::Instant::now();
                session.submit(program, &inputs, &scalars).expect("a step runs");
                session.finish().expect("a step ends");
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            times.sort_by(f64::total_cmp);
            let memory = session.memory_bytes() as f64 / 1048576.0;
            println!(
                "{device_name} {name}: least {:.2} ms, median {:.2} ms, load and first step {first:.2} s, {memory:.0} MiB",
                times[0],
                times[times.len() / 2]
            );
            if std::env::var_os("SOLSTICE_PROFILE").is_some() {
                print_kernels(&mut session, program, &inputs, &scalars);
            }
        }
    }
}

/// The kernels that take longest, of ten steps: mean microseconds, share, work and rate.
fn print_kernels(session: &mut Session, program: ProgramId, inputs: &[(&str, &[u8])], scalars: &[(&str, u32)]) {
    session.set_profiling(true).expect("the device has a clock");
    for _ in 0..10 {
        session.run(program, inputs, scalars).expect("a step runs");
    }
    let mut times = session.take_profile();
    session.set_profiling(false).expect("a clock stops");
    let all: f64 = times.iter().map(|entry| entry.time.as_secs_f64()).sum();
    println!("  {:.2} ms in kernels", all * 1e3 / 10.0);
    times.sort_by_key(|entry| std::cmp::Reverse(entry.time));
    let plan = session.plan(program);
    for entry in times.iter().take(40) {
        let kernel = &plan.kernels[entry.kernel];
        let (seconds, work) = (entry.time.as_secs_f64() / entry.calls as f64, cost(plan, &kernel.op));
        println!(
            "  {:9.0} us {:5.1} % {:7.2} MiB {:7.2} GB/s {:8.2} Mflop {:7.2} GFLOP/s  {:3} {}",
            seconds * 1e6,
            100.0 * entry.time.as_secs_f64() / all,
            work.bytes as f64 / 1048576.0,
            work.bytes as f64 / seconds / 1e9,
            work.flops as f64 / 1e6,
            work.flops as f64 / seconds / 1e9,
            entry.kernel,
            kernel.label
        );
    }
}
