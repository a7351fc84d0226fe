//! `solstice bench`: milliseconds a step of three models on each device, on random data, in interleaved rounds.

use crate::assemble::Assembly;
use crate::cli::BenchArgs;
use crate::launch::device_options;
use crate::loader::Catalog;
use crate::recipe::Recipe;
use crate::supervise::without_window_complaints;
use crate::train::{initialise, scalar_words};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use solstice_engine::gpu::Sources;
use solstice_engine::random::threefry2x32;
use solstice_engine::{CompileOptions, Session, compile, device};
use solstice_ir::DType;
use solstice_plugin_abi::wire::{DatasetSpec, Field, FieldRole};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

/// A benchmark model: the nets of `research/baselines`, so that figures can stand beside PyTorch's and Burn's.
struct Model {
    name: &'static str,
    recipe: &'static str,
    input: (DType, &'static [usize]),
    target: &'static [usize],
    /// Targets and tokens are below this.
    classes: usize,
}

const MODELS: [Model; 3] = [
    Model {
        name: "mlp",
        recipe: r#"(experiment: classification(), model: mlp(hidden: [512, 512]), dataset: drawn_digits(), optimizer: adam(lr: 1e-3),
            trainer: (budget: "1st", batch_size: 128, norms: false))"#,
        input: (DType::F32, &[1, 28, 28]),
        target: &[],
        classes: 10,
    },
    Model {
        name: "convnet",
        recipe: r#"(experiment: classification(), model: convnet(channels: [32, 64], padding: valid, pool: last, batch_norm: false, dense: 128, dropout: 0.0), dataset: drawn_digits(),
            optimizer: adam(lr: 1e-3), trainer: (budget: "1st", batch_size: 64, norms: false))"#,
        input: (DType::F32, &[1, 28, 28]),
        target: &[],
        classes: 10,
    },
    Model {
        name: "gpt",
        recipe: r#"(experiment: language_model(), model: gpt(layers: 4, heads: 4, width: 128), dataset: text(context: 64),
            optimizer: adamw(lr: 1e-3), trainer: (budget: "1st", batch_size: 12, norms: false))"#,
        input: (DType::I32, &[64]),
        target: &[64],
        classes: 65,
    },
];

/// The figures of one model on one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figure {
    model: String,
    device: String,
    adapter: String,
    ms_per_step: f64,
    samples_per_sec: f64,
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
        "{:<8} {:<34} {:>9} {:>11} {:>11} {:>9} {:>9}",
        "model", "device", "ms/step", "samples/s", "dispatches", "peak MiB", "first s"
    );
    for row in &rows {
        println!(
            "{:<8} {:<34} {:>9.2} {:>11.0} {:>11} {:>9.0} {:>9.2}",
            row.model,
            format!("{} ({})", row.device, row.adapter).chars().take(34).collect::<String>(),
            row.ms_per_step,
            row.samples_per_sec,
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

fn measure(model: &str, device_name: &str, seconds: f64) -> Result<Figure> {
    let Some(model) = MODELS.iter().find(|candidate| candidate.name == model) else {
        bail!("there is no benchmark model `{model}`; there are {}", MODELS.map(|model| model.name).join(", "));
    };
    let started = Instant::now();
    let recipe = Recipe::from_text(model.recipe, model.name, "benchmark")?;
    let assembly = Assembly::new(&recipe, &Catalog::discover(&[])?)?;
    let batch_size = recipe.trainer.batch_size;
    let field =
        |name: &str, role, dtype, shape: &[usize]| Field { name: name.into(), role, dtype, shape: shape.into(), scale: 1.0, offset: 0.0 };
    let classes = serde_json::json!(model.classes);
    let spec = DatasetSpec {
        splits: vec![],
        fields: vec![field("x", FieldRole::Input, model.input.0, model.input.1), field("y", FieldRole::Target, DType::I32, model.target)],
        resident: false,
        facts: ["classes", "vocabulary"].iter().map(|fact| ((*fact).to_owned(), classes.clone())).collect(),
    };
    let trace = assembly.step("train_step", "train", &spec)?;
    let (runtime, info) = device::open_with(&device_name.parse().expect("any text is a request"), &device_options(&Sources::built_in()))?;
    let mut session = Session::new(runtime);
    initialise(&mut session, &trace.graph, 0)?;
    let program = session.load(compile(&trace.graph, &CompileOptions::default())?.plan)?;
    let scalars = scalar_words(&trace.graph)?;
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
                    _ => bits % model.classes as u32,
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
    // Two more steps to warm caches, then single steps timed one by one: a median does not mind a busy moment.
    for _ in 0..2 {
        one(&mut session)?;
    }
    session.finish()?;
    let mut times = vec![];
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 5 {
        let start = Instant::now();
        one(&mut session)?;
        session.finish()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let secs = times[times.len() / 2];
    Ok(Figure {
        model: model.name.into(),
        device: device_name.into(),
        adapter: info.name,
        ms_per_step: secs * 1e3,
        samples_per_sec: batch_size as f64 / secs,
        dispatches_per_step: session.plan(program).kernels.len(),
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
