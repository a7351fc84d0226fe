//! `solstice profile`: where the time of a recipe's step goes, and how near to what the device can do each kernel comes.
//!
//! The recipe is trained in earnest for some steps, in a run that nobody keeps: first as `train` would, cut into the parts of the loop, then with every
//! kernel timed, which on a gpu costs the overlap of steps. What happens now and then (reports, evaluations, checkpoints) is done once and spread over the
//! steps of its cadence. The figures are `timing.rs`'s, the roofs the engine's.

use super::catalog;
use crate::assemble::Assembly;
use crate::cli::{ProfileArgs, RecipeArgs};
use crate::drive::{Driver, End};
use crate::launch::{open_device, rehearse, run_facts};
use crate::outcome::{Exit, OrExit, exit};
use crate::recipe::{Recipe, RecipeError, Trainer};
use crate::side::SideDir;
use crate::summary::{aligned, bytes, scaled};
use crate::timing::{KernelRow, Part, Piece, kernels, named};
use crate::trace::{Event, Track, trace};
use crate::train::{Begin, Run, Stopwatch};
use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde_json::json;
use solstice_engine::device::DeviceInfo;
use solstice_engine::gpu::Sources;
use solstice_engine::roof::{self, Bound, Roofs};
use solstice_engine::{KernelSpan, Session};
use solstice_plugin_abi::{Span, Unit};
use solstice_store::find_run;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Kernels of the printed table, unless `--top` says how many.
const ROWS: usize = 20;
/// Steps of a trace at most.
const TRACED_STEPS: usize = 8;

/// What was measured.
#[derive(Debug, Serialize)]
struct Profile {
    recipe: String,
    device: Device,
    batch_size: usize,
    /// Steps of each measurement, and those before the first.
    steps: u64,
    warmup: u64,
    roofs: RoofFigures,
    /// All parts together, and what that comes to.
    ms_per_step: f64,
    samples_per_sec: f64,
    parts: Vec<PartRow>,
    timed: Timed,
    kernels: Vec<Row>,
    #[serde(skip)]
    kernels_max: usize,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    backend: String,
    #[serde(rename = "type")]
    kind: String,
    threads: usize,
}

#[derive(Debug, Serialize)]
struct RoofFigures {
    gflop_per_sec: f64,
    product_size: usize,
    gb_per_sec: f64,
    stream_bytes: usize,
}

/// The steps whose kernels were timed.
#[derive(Debug, Serialize)]
struct Timed {
    ms_per_step: f64,
    /// The loop's part `device` of it.
    device_ms_per_step: f64,
    /// The kernels of it.
    kernels_ms_per_step: f64,
}

/// A part of a step.
#[derive(Debug, Serialize)]
struct PartRow {
    part: &'static str,
    ms_per_step: f64,
    percent: f64,
    /// Of it, what happens only now and then.
    spread: Vec<Spread>,
}

/// Something that happens once in many steps.
#[derive(Debug, Clone, Serialize)]
struct Spread {
    what: String,
    ms_each: f64,
    every_steps: f64,
}

/// A kernel, with the names of the run's table `profile/kernels` where that has the figure too.
#[derive(Debug, Serialize)]
struct Row {
    kernel: String,
    module: String,
    form: String,
    location: String,
    calls: f64,
    us_per_step: f64,
    percent: f64,
    bytes: u64,
    flops: Option<u64>,
    gflop_per_sec: Option<f64>,
    gb_per_sec: Option<f64>,
    percent_of_roof: Option<f64>,
    bound_by: Option<&'static str>,
}

/// Measures and prints; returns the exit code.
pub fn run(args: &ProfileArgs, side: &SideDir, interrupted: &AtomicBool) -> Result<i32, Exit> {
    if let Some(file) = &args.trace {
        check_writable(file).or_exit(exit::USAGE)?;
    }
    let recipe = recipe_of(args).or_exit(exit::USAGE)?;
    let catalog = catalog(&args.recipe.data).or_exit(exit::FAILED)?;
    let mut assembly = Assembly::new(&recipe, &catalog).or_exit(exit::USAGE)?;
    let shaders = Sources::built_in();
    // In a session that is over before the run begins: its tensors would stand in the run's memory.
    let (runtime, device) = open_device(&args.recipe.device, &shaders)?;
    let roofs = roof::measure(&mut Session::new(runtime)).or_exit(exit::FAILED)?;
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let (runtime, _) = open_device(&args.recipe.device, &shaders)?;
    let start = Run::start(&assembly, &spec, Session::new(runtime), Begin::default(), &mut Stopwatch::start());
    let (run, _) = start.or_exit(exit::FAILED)?;
    let facts = run_facts(&assembly, &run, &spec);
    // Loggers have threads of their own, and nobody reads what they would write.
    let heard = (std::mem::take(&mut assembly.callbacks), vec![]);
    let trainer = without_cadences(&assembly.resolved.trainer);
    let mut driver = rehearse(&assembly, heard, run, facts, trainer, &side.0.join("runs"), interrupted).or_exit(exit::USAGE)?;
    let (profile, traced) = measure(&mut driver, args, &roofs, &device)?;
    if let Some(file) = &args.trace {
        let name = format!("solstice profile {}", profile.recipe);
        let about = json!({ "recipe": profile.recipe, "device": profile.device.name, "version": env!("CARGO_PKG_VERSION") });
        let text = trace(&name, traced, about).to_string();
        std::fs::write(file, text).with_context(|| format!("cannot write the trace {}", file.display())).or_exit(exit::FAILED)?;
    }
    let text = match args.json {
        true => serde_json::to_string(&profile).map_err(anyhow::Error::from).or_exit(exit::FAILED)? + "\n",
        false => profile.to_string(),
    };
    // A pager that closes early is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(exit::OK)
}

/// A file that can be made, as far as that shows before there is anything to write.
fn check_writable(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = match (folder.is_dir(), file.is_dir()) {
        (false, _) => format!("there is no folder {}; make it, or give another file", folder.display()),
        (_, true) => "it is a folder; give a file in it".into(),
        _ => return Ok(()),
    };
    Err(anyhow!("cannot write the trace {}: {problem}", file.display()))
}

/// The recipe of the command line: a file, or that of a run.
fn recipe_of(args: &ProfileArgs) -> Result<Recipe, RecipeError> {
    let given = &args.recipe.recipe;
    if args.recipe.text.is_some() || given.is_file() {
        return Recipe::from_args(&args.recipe);
    }
    match find_run(&args.runs_dir, &given.to_string_lossy()) {
        Ok(folder) => Recipe::from_args(&RecipeArgs { recipe: folder.join("recipe.ron"), ..args.recipe.clone() }),
        Err(no_run) => Err(RecipeError(format!("`{}` is no recipe, as there is no such file, and no run: {no_run}", given.display()))),
    }
}

/// Without end, and with nothing due at any step.
fn without_cadences(trainer: &Trainer) -> Trainer {
    let never = Span { amount: 1e15, unit: Unit::Steps };
    Trainer {
        budget: never,
        log_every: never,
        evaluate_every: never,
        evaluate_each: BTreeMap::new(),
        checkpoint_every: never,
        keep_every: None,
        ..trainer.clone()
    }
}

/// All measurements, and the tracks of a trace.
fn measure(driver: &mut Driver, args: &ProfileArgs, roofs: &Roofs, device: &DeviceInfo) -> Result<(Profile, Vec<Track>), Exit> {
    let steps = args.steps;
    train(driver, args.warmup)?;
    driver.run.meter.record();
    train(driver, steps)?;
    let mut millis = per_step(&driver.run.meter.recorded(), steps);
    let spread = now_and_then(driver, steps, millis.iter().sum())?;
    for (part, rows) in &spread {
        millis[*part as usize] += rows.iter().map(|row| row.ms_each / row.every_steps).sum::<f64>();
    }
    let step_millis: f64 = millis.iter().sum();
    let part_row = |part: Part| PartRow {
        part: part.title(),
        ms_per_step: millis[part as usize],
        percent: 100.0 * millis[part as usize] / step_millis.max(1e-12),
        spread: spread.get(&part).cloned().unwrap_or_default(),
    };

    driver.run.session.set_profiling(true).or_exit(exit::FAILED)?;
    // The first step with a clock makes the clock.
    train(driver, 1)?;
    driver.run.session.take_profile();
    driver.run.session.take_spans();
    let first = driver.run.step;
    driver.run.meter.record();
    train(driver, steps)?;
    let pieces = driver.run.meter.recorded();
    let session = &mut driver.run.session;
    session.set_profiling(false).or_exit(exit::FAILED)?;
    let (mut times, mut spans) = (session.take_profile(), session.take_spans());
    // What callbacks ask for is no part of a step.
    let programs = driver.run.train.programs();
    times.retain(|time| programs.contains(&time.program));
    spans.retain(|span| programs.contains(&span.program));
    let rows = kernels(&driver.run.session, &times, steps);
    let timed = per_step(&pieces, steps);

    let profile = Profile {
        recipe: driver.assembly.resolved.name.clone(),
        device: Device {
            name: device.name.clone(),
            backend: device.backend.clone(),
            kind: device.device_type.clone(),
            threads: device.threads,
        },
        batch_size: driver.run.batch_size,
        steps,
        warmup: args.warmup,
        roofs: RoofFigures {
            gflop_per_sec: roofs.flops_per_sec / 1e9,
            product_size: roofs.product_size,
            gb_per_sec: roofs.bytes_per_sec / 1e9,
            stream_bytes: roofs.stream_bytes,
        },
        ms_per_step: step_millis,
        samples_per_sec: samples_per_step(&driver.run) / step_millis.max(1e-12) * 1e3,
        parts: Part::ALL.into_iter().map(part_row).collect(),
        timed: Timed {
            ms_per_step: timed.iter().sum(),
            device_ms_per_step: timed[Part::Device as usize],
            kernels_ms_per_step: rows.iter().map(|row| row.micros).sum::<f64>() / 1e3,
        },
        kernels: rows.iter().take(args.top.unwrap_or(usize::MAX)).map(|row| Row::of(row, roofs)).collect(),
        kernels_max: args.top.unwrap_or(ROWS),
    };
    let tracks = tracks(&driver.run.session, &pieces, &spans, first, roofs, &device.name);
    Ok((profile, tracks))
}

/// Steps that must all be made.
fn train(driver: &mut Driver, steps: u64) -> Result<(), Exit> {
    let end = driver.train_some(steps).or_exit(exit::FAILED)?;
    let step = driver.run.step;
    match end {
        None => Ok(()),
        Some(End::Diverged(sentence)) => Err(anyhow!(sentence)).or_exit(exit::DIVERGED),
        Some(End::Done(Some(reason))) => {
            Err(anyhow!("the run ended at step {step}, before the profile was done: {reason}; try fewer --steps")).or_exit(exit::FAILED)
        }
        Some(_) => Err(anyhow!("stopped at step {step}, before the profile was done")).or_exit(exit::STOPPED),
    }
}

/// Of an average step of an epoch, whose last one may lack some.
fn samples_per_step(run: &Run) -> f64 {
    run.epoch.samples as f64 / run.epoch.steps as f64
}

/// Milliseconds a step of each part.
fn per_step(pieces: &[Piece], steps: u64) -> [f64; Part::ALL.len()] {
    let mut millis = [0.0; Part::ALL.len()];
    for piece in pieces {
        millis[piece.part as usize] += piece.time.as_secs_f64() * 1e3 / steps as f64;
    }
    millis
}

/// A report, an evaluation of each split and a checkpoint, each made once. `step_millis` is what a step takes without them, for cadences in time.
fn now_and_then(driver: &mut Driver, steps: u64, step_millis: f64) -> Result<BTreeMap<Part, Vec<Spread>>, Exit> {
    let trainer = driver.assembly.resolved.trainer.clone();
    let (epoch, total_steps) = (driver.run.epoch, driver.run.total_steps);
    let spread = |what: &str, secs: f64, cadence: Span| {
        let steps = cadence.steps(epoch).map_or(cadence.amount * 1e3 / step_millis.max(1e-9), |steps| steps as f64);
        // At the end of the run all of them are made.
        let every_steps = if total_steps > 0.0 { steps.min(total_steps) } else { steps }.max(1.0);
        Spread { what: what.into(), ms_each: secs * 1e3, every_steps }
    };
    if driver.run.bad_steps().or_exit(exit::FAILED)? > 0.0 {
        let sentence = format!("the loss or a gradient was not finite in the first {} steps; `solstice train` says where", driver.run.step);
        return Err(anyhow!(sentence)).or_exit(exit::DIVERGED);
    }
    driver.run.meter.record();
    driver.report().or_exit(exit::FAILED)?;
    let pieces = driver.run.meter.recorded();
    let readback: Duration = pieces.iter().filter(|piece| piece.part == Part::Readback).map(|piece| piece.time).sum();
    let mut all = BTreeMap::from([(Part::Readback, vec![spread("a report", readback.as_secs_f64(), trainer.log_every)])]);

    let run = &mut driver.run;
    let (interrupted, mut evaluations) = (driver.interrupted, vec![]);
    for split in run.evaluated_splits() {
        let (batches, splits) = (run.evaluation_batches(&split), [split.clone()]);
        let measured = steps.min(batches);
        let mut cancelled = || interrupted.load(Ordering::Relaxed);
        // As in training, the first time is not for the figures.
        run.evaluate(&splits, Some(1), &mut cancelled).or_exit(exit::FAILED)?;
        let begin = Instant::now();
        if run.evaluate(&splits, Some(measured), &mut cancelled).or_exit(exit::FAILED)?.scalars.is_empty() && cancelled() {
            return Err(anyhow!("stopped before the profile was done")).or_exit(exit::STOPPED);
        }
        let secs = begin.elapsed().as_secs_f64() * batches as f64 / measured.max(1) as f64;
        evaluations.push(spread(&split, secs, *trainer.evaluate_each.get(&split).unwrap_or(&trainer.evaluate_every)));
    }
    all.insert(Part::Evaluation, evaluations);

    let begin = Instant::now();
    run.checkpoint_states().or_exit(exit::FAILED)?;
    all.insert(Part::Checkpoint, vec![spread("a checkpoint", begin.elapsed().as_secs_f64(), trainer.checkpoint_every)]);
    Ok(all)
}

/// The loop's thread and the device, over the first of the timed steps.
fn tracks(session: &Session, pieces: &[Piece], spans: &[KernelSpan], first: u64, roofs: &Roofs, device: &str) -> Vec<Track> {
    // Every step begins with its wait for data.
    let begins: Vec<Instant> = pieces.iter().filter(|piece| piece.part == Part::DataWait).map(|piece| piece.start).collect();
    let step_at = |moment: Instant| first + begins.partition_point(|begin| *begin <= moment) as u64;
    let is_traced = |moment: Instant| begins.get(TRACED_STEPS).is_none_or(|end| moment < *end);
    let part = |piece: &Piece| Event {
        name: piece.part.title().into(),
        start: piece.start,
        time: piece.time,
        details: json!({ "step": step_at(piece.start) }),
    };
    let kernel = |span: &KernelSpan| {
        let once = [solstice_engine::KernelTime { program: span.program, kernel: span.kernel, calls: 1, time: span.time }];
        let row = kernels(session, &once, 1).remove(0);
        let name = named(&row.kernel, &row.form);
        let bound = row.of_roof(roofs);
        Event {
            name: if row.module.is_empty() { name } else { format!("{name} {}", row.module) },
            start: span.start,
            time: span.time,
            details: json!({
                "step": step_at(span.start), "kernel": span.kernel, "location": row.location, "bytes": row.bytes, "flops": row.flops,
                "percent_of_roof": bound.map(|(percent, _)| percent), "bound_by": bound.map(|(_, bound)| bound_text(bound)),
            }),
        }
    };
    let parts = pieces.iter().filter(|piece| is_traced(piece.start) && !piece.time.is_zero()).map(part).collect();
    let kernels = spans.iter().filter(|span| is_traced(span.start)).map(kernel).collect();
    vec![
        Track { name: "loop".into(), category: "loop", events: parts },
        Track { name: format!("device: {device}"), category: "kernel", events: kernels },
    ]
}

fn bound_text(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "compute",
        Bound::Memory => "memory",
    }
}

impl Row {
    fn of(row: &KernelRow, roofs: &Roofs) -> Row {
        let bound = row.of_roof(roofs);
        Row {
            kernel: row.kernel.clone(),
            module: row.module.clone(),
            form: row.form.clone(),
            location: row.location.clone(),
            calls: row.calls,
            us_per_step: row.micros,
            percent: row.percent,
            bytes: row.bytes,
            flops: row.flops,
            gflop_per_sec: row.flops.and_then(|flops| row.giga_per_sec(flops)),
            gb_per_sec: row.giga_per_sec(row.bytes),
            percent_of_roof: bound.map(|(percent, _)| percent),
            bound_by: bound.map(|(_, bound)| bound_text(bound)),
        }
    }
}

// The printed form

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Profile { recipe, device, batch_size, steps, warmup, roofs, timed, .. } = self;
        let threads = if device.threads > 0 { format!(", {} threads", device.threads) } else { String::new() };
        writeln!(f, "{recipe} on {} ({}{threads}), batches of {batch_size}, {steps} steps after {warmup}", device.name, device.kind)?;
        writeln!(
            f,
            "roofs of this device, measured just now: {:.1} GFLOP/s (f32, product of {size} x {size} matrices), {:.1} GB/s (a + 3 b, {} each)\n",
            roofs.gflop_per_sec,
            roofs.gb_per_sec,
            bytes(roofs.stream_bytes),
            size = roofs.product_size,
        )?;
        f.write_str(&self.kernel_table())?;
        writeln!(
            f,
            "kernels take {:.3} ms of the {:.3} ms of a step while they are timed\n",
            timed.kernels_ms_per_step, timed.ms_per_step
        )?;
        f.write_str(&self.part_table())
    }
}

impl Profile {
    fn kernel_table(&self) -> String {
        let header =
            ["kernel", "module", "ms/step", "share", "calls", "bytes", "FLOP", "GFLOP/s", "GB/s", "of roof", "bound by", "asked for at"];
        let mut lines = vec![header.map(str::to_owned)];
        let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.1}"));
        let shown = &self.kernels[..self.kernels.len().min(self.kernels_max)];
        for row in shown {
            lines.push([
                named(&row.kernel, &row.form),
                row.module.clone(),
                format!("{:.3}", row.us_per_step / 1e3),
                format!("{:.1} %", row.percent),
                format!("{}", (row.calls * 1e3).round() / 1e3),
                bytes(row.bytes as usize),
                row.flops.map(scaled).unwrap_or_default(),
                rate(row.gflop_per_sec),
                rate(row.gb_per_sec),
                row.percent_of_roof.map_or(String::new(), |percent| format!("{percent:.0} %")),
                row.bound_by.unwrap_or_default().into(),
                row.location.clone(),
            ]);
        }
        let mut text: String = aligned(&lines, &[0, 1, 10, 11]).into_iter().map(|line| line + "\n").collect();
        let percent: f64 = shown.iter().map(|row| row.percent).sum();
        if percent < 99.95 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "other kernels take {:.1} % (--top N shows more)", 100.0 - percent);
        }
        text
    }

    fn part_table(&self) -> String {
        let mut lines = vec![["part of a step", "ms/step", "share", ""].map(str::to_owned)];
        for row in &self.parts {
            let each = |spread: &Spread| format!("{}: {:.3} ms every {} steps", spread.what, spread.ms_each, spread.every_steps.round());
            lines.push([
                row.part.into(),
                format!("{:.3}", row.ms_per_step),
                format!("{:.1} %", row.percent),
                row.spread.iter().map(each).collect::<Vec<_>>().join(", "),
            ]);
        }
        let rate = format!("{:.0} samples/s", self.samples_per_sec);
        lines.push(["in all".into(), format!("{:.3}", self.ms_per_step), String::new(), rate]);
        aligned(&lines, &[0, 3]).into_iter().map(|line| line + "\n").collect()
    }
}
