//! `solstice bench`: milliseconds a step of three models on each device, on random data, in interleaved rounds. `bench_work.rs` says what can be timed.
//!
//! `xtask/src/peers.rs` starts children of its own, beside those of other frameworks: what a child prints, and how it times, is the same there.

use super::bench_work::work;
use crate::cli::BenchArgs;
use crate::launch::device_options;
use crate::supervise::without_window_complaints;
use crate::train::{initialise, scalar_words};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use solstice_engine::cost::cost;
use solstice_engine::gpu::Sources;
use solstice_engine::random::threefry2x32;
use solstice_engine::{CompileOptions, Session, compile, device};
use solstice_ir::{DType, Role};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

/// The figures of one model on one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figure {
    model: String,
    device: String,
    adapter: String,
    ms_per_step: f64,
    samples_per_sec: f64,
    /// Trainable numbers.
    parameters: usize,
    /// By the count of `cost.rs`, in billions a second.
    gflops_per_sec: f64,
    dispatches_per_step: usize,
    peak_memory_mib: f64,
    device_memory_mib: f64,
    first_step_secs: f64,
}

/// Not a model: what the loop adds to a step.
const LOOP: &str = "loop";

/// Runs every (model, device) in a process of its own, round by round, and prints the medians.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.child {
        let (Some(model), Some(device)) = (args.models.first(), args.devices.first()) else {
            bail!("a child times one model on one device")
        };
        println!("{}", serde_json::to_string(&measure(model, device, args.seconds)?)?);
        return Ok(());
    }
    if args.models.iter().any(|model| model == LOOP) {
        super::bench_loop::run(args.rounds.max(1), 20_000)?;
    }
    let models: Vec<&String> = args.models.iter().filter(|model| *model != LOOP).collect();
    if models.is_empty() {
        return Ok(());
    }
    let mut figures: BTreeMap<(usize, usize), Vec<Figure>> = BTreeMap::new();
    for round in 0..args.rounds.max(1) {
        for (m, model) in models.iter().enumerate() {
            for (d, device) in args.devices.iter().enumerate() {
                eprintln!("round {} of {}: {model} on {device}", round + 1, args.rounds.max(1));
                let mut child = Command::new(std::env::current_exe()?);
                without_window_complaints(&mut child, &std::env::temp_dir());
                let output = child
                    .args(["bench", "--child", "--models", model, "--devices", device, "--seconds", &args.seconds.to_string()])
                    .stderr(std::process::Stdio::inherit())
                    .output()
                    .context("cannot start the child that measures")?;
                if !output.status.success() {
                    bail!("{model} on {device} failed ({})", output.status);
                }
                figures.entry((m, d)).or_default().push(serde_json::from_slice(&output.stdout)?);
            }
        }
    }
    let rows: Vec<Figure> = figures.into_values().map(median).collect();
    println!(
        "{:<12} {:<34} {:>9} {:>11} {:>9} {:>11} {:>9} {:>9}",
        "model", "device", "ms/step", "samples/s", "GFLOP/s", "dispatches", "peak MiB", "first s"
    );
    for row in &rows {
        println!(
            "{:<12} {:<34} {:>9.2} {:>11.0} {:>9.1} {:>11} {:>9.0} {:>9.2}",
            row.model,
            format!("{} ({})", row.device, row.adapter).chars().take(34).collect::<String>(),
            row.ms_per_step,
            row.samples_per_sec,
            row.gflops_per_sec,
            row.dispatches_per_step,
            row.peak_memory_mib,
            row.first_step_secs
        );
    }
    let json = serde_json::to_string_pretty(&rows)?;
    match &args.json {
        Some(path) => std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?,
        None => println!("{json}"),
    }
    Ok(())
}

/// The round with the median step time.
fn median(mut rounds: Vec<Figure>) -> Figure {
    rounds.sort_by(|a, b| a.ms_per_step.total_cmp(&b.ms_per_step));
    rounds.swap_remove((rounds.len() - 1) / 2)
}

/// Steps timed together take about this: short enough for a median that does not mind a busy moment, long beside the way to a device and back.
const SECS_TIMED_TOGETHER: f64 = 0.02;

fn measure(name: &str, device_name: &str, seconds: f64) -> Result<Figure> {
    let started = Instant::now();
    let work = work(name)?;
    let graph = &work.graph;
    let (runtime, info) = device::open_with(&device_name.parse().expect("any text is a request"), &device_options(&Sources::built_in()))?;
    let mut session = Session::new(runtime);
    initialise(&mut session, graph, 0)?;
    let program = session.load(compile(graph, &CompileOptions::default())?.plan)?;
    let scalars = scalar_words(graph)?;
    let inputs: Vec<(String, Vec<u8>)> = session
        .plan(program)
        .inputs
        .iter()
        .map(|port| {
            let words = (0..port.ty.element_count() as u32).map(|element| {
                let [bits, _] = threefry2x32([1, 2], [3, element]);
                match (port.name.as_str(), port.ty.dtype) {
                    ("batch.mask", _) => 1.0f32.to_bits(),
                    (_, DType::F32) => ((bits >> 8) as f32 / 16_777_216.0).to_bits(),
                    _ => bits % work.classes as u32,
                }
            });
            (port.name.clone(), words.flat_map(u32::to_le_bytes).collect())
        })
        .collect();
    let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let mut step = 0u32;
    let mut one = |session: &mut Session| -> Result<()> {
        let mut all: Vec<(&str, u32)> = vec![("run.step", step), ("run.seed", 0), ("run.total_steps", 1e6f32.to_bits())];
        all.extend(scalars.iter().map(|(name, bits)| (name.as_str(), *bits)));
        step += 1;
        session.submit(program, &inputs, &all)?;
        Ok(())
    };
    one(&mut session)?;
    session.finish()?;
    let first_step_secs = started.elapsed().as_secs_f64();
    // Two more steps at least, and a second, to warm caches and to know how long a step takes.
    let (mut warm_steps, begin) = (0, Instant::now());
    while warm_steps < 2 || begin.elapsed().as_secs_f64() < 1.0 {
        one(&mut session)?;
        session.finish()?;
        warm_steps += 1;
    }
    let together = (SECS_TIMED_TOGETHER * f64::from(warm_steps) / begin.elapsed().as_secs_f64()).clamp(1.0, 1000.0) as usize;
    let mut times = vec![];
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 3 {
        let start = Instant::now();
        for _ in 0..together {
            one(&mut session)?;
        }
        session.finish()?;
        times.push(start.elapsed().as_secs_f64() / together as f64);
    }
    times.sort_by(f64::total_cmp);
    let secs = times[times.len() / 2];
    let plan = session.plan(program);
    let flops: u64 = plan.kernels.iter().map(|kernel| cost(plan, &kernel.op).flops).sum();
    let trainable = graph.parameters().filter(|(_, parameter, _)| parameter.role == Role::Param);
    Ok(Figure {
        model: name.into(),
        device: device_name.into(),
        adapter: info.name,
        ms_per_step: secs * 1e3,
        samples_per_sec: work.batch_size as f64 / secs,
        parameters: trainable.map(|(_, _, ty)| ty.element_count()).sum(),
        gflops_per_sec: flops as f64 / secs / 1e9,
        dispatches_per_step: plan.kernels.len(),
        peak_memory_mib: peak_memory_bytes() as f64 / f64::from(1 << 20),
        device_memory_mib: session.memory_bytes() as f64 / f64::from(1 << 20),
        first_step_secs,
    })
}

/// Largest resident set of this process so far; 0 where the system does not tell.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
