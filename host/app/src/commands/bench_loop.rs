//! What the loop costs: steps of a tiny model through the whole loop with store, callbacks and logger, beside the same steps given to the engine alone; and
//! the first step of an epoch of a resident set beside the other steps.

use crate::assemble::Assembly;
use crate::drive::Beginning;
use crate::launch::{rehearse, run_facts};
use crate::loader::Catalog;
use crate::recipe::Recipe;
use crate::train::{Begin, Run, Stopwatch};
use anyhow::{Result, ensure};
use solstice_engine::{Session, device};
use solstice_plugin_abi::run::RunFacts;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A step of about 20 microseconds, reported every tenth: what a run does by default, with nothing to hide behind.
const RECIPE: &str = r#"(
    experiment: classification(),
    model: mlp(hidden: [8]),
    dataset: drawn_digits(train: 512, test: 64),
    optimizer: sgd(lr: 0.01),
    metrics: [accuracy()],
    callbacks: [early_stopping(monitor: "train/loss", mode: min, patience: "100ep"), loss_spike()],
    loggers: [csv()],
    trainer: (budget: "1ep", batch_size: 8, evaluate: [], norms: false, checkpoint_every: "1000ep"),
)"#;

/// Sixty thousand samples on the device: their order, drawn anew every epoch, is the work of an epoch boundary.
const RESIDENT_RECIPE: &str = r#"(
    experiment: classification(),
    model: mlp(hidden: [512, 512]),
    dataset: drawn_digits(train: 60000, test: 64),
    optimizer: adam(lr: 0.001),
    trainer: (budget: "100ep", batch_size: 128, evaluate: [], norms: false),
)"#;

/// Epochs whose first steps are timed.
const BOUNDARIES: u64 = 8;

/// Seconds a step: of the engine alone, of the whole loop.
#[derive(Debug, Clone, Copy)]
struct LoopFigure {
    engine: f64,
    whole: f64,
}

/// Times both, `rounds` times in turn, and prints the medians.
pub fn run(rounds: usize, steps: u64) -> Result<()> {
    let mut figures = vec![];
    for round in 0..rounds {
        let figure = LoopFigure { engine: engine_alone(steps)?, whole: whole_loop(steps)? };
        eprintln!("round {} of {rounds}: engine {:.1} us, loop {:.1} us a step", round + 1, figure.engine * 1e6, figure.whole * 1e6);
        figures.push(figure);
    }
    let median = |value: fn(&LoopFigure) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (engine, whole, over) = (median(|f| f.engine), median(|f| f.whole), median(|f| f.whole - f.engine));
    println!(
        "loop: {:.1} us a step, the engine alone {:.1} us: {:.1} us of overhead (medians of {rounds} rounds of {steps} steps)",
        whole * 1e6,
        engine * 1e6,
        over * 1e6
    );
    boundary()
}

/// Times every step of some epochs and prints how long the first ones took beside the others.
fn boundary() -> Result<()> {
    let assembly = assembly(RESIDENT_RECIPE, 1)?;
    let (mut run, _) = start(&assembly)?;
    let steps = run.epoch.steps;
    let (mut first, mut others) = (vec![], vec![]);
    for step in 0..steps * (BOUNDARIES + 1) {
        let begin = Instant::now();
        run.train_step()?;
        run.wait()?;
        // The first epoch warms up.
        if step >= steps {
            if step % steps == 0 { &mut first } else { &mut others }.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    first.sort_by(f64::total_cmp);
    others.sort_by(f64::total_cmp);
    let at = |times: &[f64], share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "epoch boundary of a resident set: the first step takes {:.2} ms, the others {:.2} (medians; 99 of 100 of them up to {:.2}); slowest first step {:.2}",
        at(&first, 0.5),
        at(&others, 0.5),
        at(&others, 0.99),
        at(&first, 1.0)
    );
    Ok(())
}

fn assembly(recipe: &str, steps: u64) -> Result<Assembly> {
    let mut recipe = Recipe::from_text(recipe, "loop", "benchmark")?;
    recipe.set(&format!("trainer.budget={steps}st"))?;
    Assembly::new(&recipe, &Catalog::discover(&[])?)
}

fn start(assembly: &Assembly) -> Result<(Run, RunFacts)> {
    let (runtime, _) = device::open(&device::DeviceRequest::Cpu)?;
    let spec = assembly.open_data()?;
    let (run, _) = Run::start(assembly, &spec, Session::new(runtime), Begin::default(), &mut Stopwatch::start())?;
    let facts = run_facts(assembly, &run, &spec);
    Ok((run, facts))
}

/// The same step over and over: inputs are ready, nothing is read, logged or decided.
fn engine_alone(steps: u64) -> Result<f64> {
    let assembly = assembly(RECIPE, steps)?;
    let (mut run, _) = start(&assembly)?;
    run.repeat_first_step(100)?;
    let begin = Instant::now();
    run.repeat_first_step(steps)?;
    Ok(begin.elapsed().as_secs_f64() / steps as f64)
}

fn whole_loop(steps: u64) -> Result<f64> {
    let mut assembly = assembly(RECIPE, steps)?;
    let (run, facts) = start(&assembly)?;
    let folder = tempfile::tempdir()?;
    let heard = (std::mem::take(&mut assembly.callbacks), std::mem::take(&mut assembly.loggers));
    let (trainer, interrupted) = (assembly.resolved.trainer.clone(), AtomicBool::new(false));
    let mut driver = rehearse(&assembly, heard, run, facts, trainer, folder.path(), &interrupted)?;
    let begin = Instant::now();
    driver.train(&Beginning::New, &mut Stopwatch::start())?;
    let secs = begin.elapsed().as_secs_f64();
    ensure!(driver.run.step == steps, "the run ended at step {}", driver.run.step);
    Ok(secs / steps as f64)
}
