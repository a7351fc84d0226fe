//! A run in memory: trace, compile, step, report, evaluate. The loop around it is `drive.rs`; nothing here knows of stores or commands.

use crate::assemble::{Assembly, BATCH_INDEX, table_name, with_resident_tables};
use crate::data::{Batch, FOLD, Loaded, Order, Prefetch, RESIDENT_BYTES_MAX, SplitData};
use crate::outcome::sentence;
use crate::recipe::{RecipeError, Trainer};
use crate::timing::{Meter, Part};
use crate::weights::{self, InitOptions, WEIGHT_PREFIX};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use solstice_engine::random::threefry2x32;
use solstice_engine::{CompileOptions, Precision, ProgramId, Session, compile, init, reference};
use solstice_ir::{DType, Graph, Init, Op, Role, TensorType};
use solstice_plugin_abi::run::Entry;
use solstice_plugin_abi::wire::{Accumulate, DatasetSpec, MetricPort, StepTrace};
use solstice_plugin_abi::{EpochShape, Progress};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// A split with its programs, data and metrics.
pub struct SplitProgram {
    /// `train`, `test`, `test-ema`: the prefix of its metrics.
    pub split: String,
    /// The step as the experiment traced it: the batch is plain inputs.
    pub trace: StepTrace,
    /// Its samples.
    pub data: SplitData,
    /// What it was compiled to, in the run's session.
    pub program: ProgramId,
    // Of a training step made of several batches: what runs for all but the last.
    gather: Option<ProgramId>,
    resident: bool,
    options: CompileOptions,
    // Values of the runtime scalars of the graph that are not `run.*`.
    scalars: Vec<(String, u32)>,
}

/// A run in memory: session, programs, position.
pub struct Run {
    /// Device, state and programs.
    pub session: Session,
    /// The training program.
    pub train: SplitProgram,
    /// The evaluation programs, in the order in which they run. One with copies of the weights follows the one with the weights.
    pub evaluations: Vec<SplitProgram>,
    /// Steps done.
    pub step: u64,
    /// Seconds trained, over all processes of the run.
    pub seconds: f64,
    /// Steps and samples of an epoch.
    pub epoch: EpochShape,
    /// Steps of the whole run, as the schedule sees them.
    pub total_steps: f64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Programs of questions that callbacks ask.
    pub probes: Probes,
    /// Where the time of the thread goes that trains.
    pub meter: Meter,
    live: BTreeMap<String, f64>,
    seed: u32,
    order: Order,
    // Samples that an evaluation sees, in the order of `evaluations`.
    evaluated: Vec<u64>,
    prefetch: Option<Prefetch>,
    loader_threads: usize,
    mask: Vec<u8>,
    // What the data set calls its classes; empty where it has none.
    class_names: Vec<String>,
}

/// What an evaluation found.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// By name, `<split>/<name>`.
    pub scalars: Vec<(String, f64)>,
    /// Tables of numbers by class, `<split>/<name>`; row: target, column: guess.
    pub matrices: Vec<Entry>,
}

/// Programs that were compiled for questions.
#[derive(Default)]
pub struct Probes {
    /// The gradients of a step.
    pub gradients: Option<ProgramId>,
    /// What an evaluation observes.
    pub predict: Option<ProgramId>,
}

/// What a run begins with: nothing, or a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// Steps done.
    pub step: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// What the schedule was told, for a budget of time.
    pub total_steps: Option<f64>,
    /// State tensors.
    pub tensors: Vec<(String, TensorType, Vec<u8>)>,
    /// Take what fits by name and shape, and give the rest its first value.
    pub partial: bool,
    /// Live scalars that differ from the recipe's.
    pub live: BTreeMap<String, f64>,
    /// A file with weights to begin with instead of the first values.
    pub init: Option<(PathBuf, InitOptions)>,
}

/// Nothing is wrong: only a report was wanted.
#[derive(Debug, thiserror::Error)]
#[error("a dry run ends here")]
pub struct DryRun;

/// Seconds of each part of the start-up, in order.
pub type Timings = Vec<(&'static str, f64)>;

/// Measures the parts of the start-up.
pub struct Stopwatch {
    last: Instant,
    /// Parts so far.
    pub parts: Timings,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch { last: Instant::now(), parts: vec![] }
    }

    /// Ends the part `name`.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.parts.push((name, now.duration_since(self.last).as_secs_f64()));
        self.last = now;
    }
}

// Evaluation has its own random stream: its cadence cannot change training.
const EVALUATION_SEED: u32 = 0x6576_616c;

/// How the tensors of a checkpoint fit the state of the graphs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Taken over.
    pub kept: Vec<String>,
    /// Not in the checkpoint: at their first value.
    pub new: Vec<String>,
    /// In the checkpoint alone.
    pub dropped: Vec<String>,
    /// In both, but of different shapes: at their first value. Name, shape there, shape here.
    pub reshaped: Vec<(String, TensorType, TensorType)>,
}

impl Restored {
    /// Every tensor of the state was taken over, and nothing was left.
    pub fn is_exact(&self) -> bool {
        self.new.is_empty() && self.dropped.is_empty() && self.reshaped.is_empty()
    }
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let some = |names: &[String]| {
            let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
            if names.len() > 4 { format!("{shown} and {} more", names.len() - 4) } else { shown }
        };
        write!(f, "{} tensors kept", self.kept.len())?;
        if !self.new.is_empty() {
            write!(f, ", {} new ({})", self.new.len(), some(&self.new))?;
        }
        if !self.dropped.is_empty() {
            write!(f, ", {} dropped ({})", self.dropped.len(), some(&self.dropped))?;
        }
        if !self.reshaped.is_empty() {
            let shapes: Vec<String> = self.reshaped.iter().map(|(name, there, here)| format!("{name} was {there}, is {here}")).collect();
            write!(f, ", {} of another shape ({})", self.reshaped.len(), some(&shapes))?;
        }
        Ok(())
    }
}

/// State that a checkpoint holds: everything but resident data, sums within a step, and the accumulators of evaluations, which are empty between steps.
pub fn is_saved(name: &str) -> bool {
    let is_metric = name.starts_with("metrics.") && !name.starts_with("metrics.train.");
    !(name.starts_with("data.") || name.starts_with("gradients.") || is_metric)
}

impl Run {
    /// Opens the data, traces, compiles, and gives every state tensor the value of the checkpoint, or its first one.
    ///
    /// Errors: a state that does not fit the checkpoint, unless `begin.partial`.
    pub fn start(
        assembly: &Assembly,
        spec: &DatasetSpec,
        mut session: Session,
        begin: Begin,
        watch: &mut Stopwatch,
    ) -> Result<(Run, Restored)> {
        let trainer = &assembly.resolved.trainer;
        let (batch_size, fold) = (trainer.batch_size, trainer.fold);
        let seed = u32::try_from(trainer.seed).expect("checked when the recipe was read");
        // Traces first: a mistake in any split shows before anything is compiled.
        let train_data = SplitData::new(assembly.dataset.clone(), spec, "train", fold)?;
        let groups = assembly.groups(spec)?;
        let accumulates = trainer.accumulate > 1;
        let part = |part| accumulates.then_some(part);
        let train_trace = assembly.step_with("train_step", "train", spec, &groups, part(Accumulate::Apply))?;
        let gather_trace = match accumulates {
            true => Some(assembly.step_with("train_step", "train", spec, &groups, part(Accumulate::Gather))?),
            false => None,
        };
        let mut evaluated = vec![];
        for (split, source) in evaluated_splits(assembly, spec, &train_trace.graph) {
            let data = SplitData::new(assembly.dataset.clone(), spec, &source, fold)?;
            let mut trace = assembly.step("eval_step", &split, spec)?;
            if let Some(shadow) = split.strip_prefix(&format!("{source}-")) {
                with_shadows(&mut trace.graph, shadow);
            }
            evaluated.push((split, data, trace));
        }
        watch.lap("trace");
        let graphs: Vec<&Graph> = std::iter::once(&train_trace)
            .chain(&gather_trace)
            .chain(evaluated.iter().map(|(.., trace)| trace))
            .map(|trace| &trace.graph)
            .collect();
        let restored = restore(&mut session, &graphs, &begin)?;
        if let Some((file, options)) = &begin.init {
            let states = train_trace.graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state());
            let weights = states.map(|(_, parameter, ty)| (parameter.name.clone(), ty.clone()));
            let weights: Vec<_> = weights.filter(|(name, _)| name.starts_with(WEIGHT_PREFIX)).collect();
            let loaded = weights::load(&mut session, &weights, file, options);
            let report = loaded.map_err(|error| RecipeError(sentence(&error)))?;
            if options.dry_run {
                println!("{report}");
                match report.problem(options.partial) {
                    Some(problem) => bail!(RecipeError(format!("--init {}: {problem}", file.display()))),
                    None => bail!(DryRun),
                }
            }
            eprintln!("{}: {}", file.display(), report.summary());
        }
        for graph in &graphs {
            initialise(&mut session, graph, seed)?;
        }
        watch.lap("state");

        // One table of values for all programs: a live scalar has one value.
        let mut live = BTreeMap::new();
        for graph in &graphs {
            live.extend(scalar_defaults(graph)?);
        }
        let resident = |data: &SplitData| is_resident(trainer, spec, data);
        let options = assembly.compile_options();
        let mut train = SplitProgram::prepare("train", train_data, train_trace, batch_size, options, resident, &mut session, watch)?;
        if let Some(gather) = &gather_trace {
            train.gather = Some(train.load(&gather.graph, batch_size, &mut session)?);
            watch.lap("compile");
        }
        let mut evaluations = vec![];
        for (split, data, trace) in evaluated {
            evaluations.push(SplitProgram::prepare(&split, data, trace, batch_size, options, resident, &mut session, watch)?);
        }

        let step_samples = batch_size * trainer.accumulate;
        let order = match trainer.overfit_batches {
            Some(batches) => {
                let samples = (batches * step_samples as u64).min(train.data.len());
                Order::sequential(&train.data, samples, step_samples)
            }
            None => Order::shuffled(&train.data, train.data.limited(trainer.limit_train, batch_size), step_samples, seed),
        };
        let limit = match trainer.overfit_batches {
            Some(batches) => Some(solstice_plugin_abi::Span { amount: batches as f64, unit: solstice_plugin_abi::Unit::Steps }),
            None => trainer.limit_evaluate,
        };
        let evaluated = evaluations.iter().map(|evaluation| evaluation.data.limited(limit, batch_size)).collect();
        let epoch = EpochShape { samples: order.len(), steps: order.steps() };
        let total_steps = trainer.budget.steps(epoch).map_or(begin.total_steps.unwrap_or(0.0), |steps| steps as f64);
        let prefetch = (!train.resident).then(|| Prefetch::start(&train.data, &order, batch_size, begin.step, trainer.loader_threads));
        let mut run = Run {
            session,
            train,
            class_names: class_names(spec),
            evaluations,
            step: begin.step,
            seconds: begin.seconds,
            epoch,
            total_steps,
            batch_size,
            probes: Probes::default(),
            meter: Meter::start(),
            live: BTreeMap::new(),
            seed,
            order,
            evaluated,
            prefetch,
            loader_threads: trainer.loader_threads,
            mask: vec![],
        };
        for (name, value) in begin.live {
            live.entry(name).and_modify(|now| *now = value);
        }
        run.set_live(&live);
        Ok((run, restored))
    }

    /// Goes on from a checkpoint instead of the state that it was started with: what fits by name and shape is taken, the rest begins anew.
    pub fn adopt(&mut self, begin: Begin) -> Result<Restored> {
        let graphs: Vec<&Graph> = std::iter::once(&self.train).chain(&self.evaluations).map(|program| &program.trace.graph).collect();
        let restored = restore(&mut self.session, &graphs, &begin)?;
        // Copies that the checkpoint lacks begin as the weights that it has.
        for name in restored.new.iter().filter(|name| copied_from(name).is_some()) {
            self.session.remove_state(name);
        }
        for graph in graphs {
            initialise(&mut self.session, graph, self.seed)?;
        }
        self.step = begin.step;
        self.seconds = begin.seconds;
        if let Some(steps) = begin.total_steps {
            self.total_steps = steps;
        }
        let mut live = self.live.clone();
        for (name, value) in begin.live {
            live.entry(name).and_modify(|now| *now = value);
        }
        self.set_live(&live);
        if let Some(prefetch) = &mut self.prefetch {
            *prefetch = Prefetch::start(&self.train.data, &self.order, self.batch_size, begin.step, self.loader_threads);
        }
        Ok(restored)
    }

    /// How its steps are compiled.
    pub fn precision(&self) -> Precision {
        self.train.options.precision
    }

    /// Live scalars and their values.
    pub fn live(&self) -> &BTreeMap<String, f64> {
        &self.live
    }

    /// Gives live scalars their values, from the next step on; nothing is compiled.
    pub fn set_live(&mut self, values: &BTreeMap<String, f64>) {
        for program in std::iter::once(&mut self.train).chain(&mut self.evaluations) {
            let parameters = live_parameters(&program.trace.graph);
            program.scalars = parameters.into_iter().map(|(name, ty)| (name.clone(), bits_of(ty, values[&name]))).collect();
        }
        self.live = values.clone();
    }

    /// One training step; returns the number of samples in it. The device may still be at work.
    pub fn train_step(&mut self) -> Result<usize> {
        self.meter.lap(Part::Other);
        let batches = match &mut self.prefetch {
            Some(prefetch) => prefetch.next()?,
            None => {
                let batches = self.order.micro_batches(self.step, self.batch_size);
                batches.into_iter().map(|batch| Loaded { batch, fields: vec![] }).collect()
            }
        };
        self.meter.lap(Part::DataWait);
        let last = batches.len() - 1;
        let mut count = 0;
        for (index, loaded) in batches.iter().enumerate() {
            let scalars = run_scalars(self.step as u32, micro_seed(self.seed, index as u32), self.total_steps);
            let program =
                if index == last { self.train.program } else { self.train.gather.expect("a step of several batches accumulates") };
            let waited = self.session.waited();
            self.train.submit(program, &mut self.session, loaded, self.batch_size, &mut self.mask, &scalars)?;
            self.meter.lap_submitted(self.session.waited() - waited);
            count += loaded.batch.indices.len();
        }
        self.step += 1;
        Ok(count)
    }

    /// Gives the first batch to the engine `steps` times, with nothing around it; for the measurement of what the loop adds. Waits for the device.
    pub fn repeat_first_step(&mut self, steps: u64) -> Result<()> {
        let loaded = self.load_step(0)?;
        let (mut inputs, mut scalars) = self.step_inputs(0, &loaded);
        let index = loaded.batch.indices.iter().chain(std::iter::repeat(&0)).take(self.batch_size);
        inputs.push((BATCH_INDEX.into(), index.flat_map(|sample| (*sample as i32).to_le_bytes()).collect()));
        let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let at = scalars.iter().position(|(name, _)| name == "run.step").expect("every step has its number");
        for step in 0..steps {
            scalars[at].1 = step as u32;
            let scalars: Vec<(&str, u32)> = scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).collect();
            self.session.submit(self.train.program, &inputs, &scalars)?;
        }
        Ok(self.session.finish()?)
    }

    /// The samples of the last batch of an earlier or later step, loaded anew; for the search of a bad number and for questions.
    pub fn load_step(&self, step: u64) -> Result<Loaded> {
        let batches = self.order.clone().micro_batches(step, self.batch_size);
        self.train.data.load(batches.into_iter().next_back().expect("a step has samples"), self.batch_size)
    }

    /// Named inputs and scalars of a step, for a program compiled apart; fields are given as tensors, not by resident table.
    pub fn step_inputs(&self, step: u64, loaded: &Loaded) -> (Vec<(String, Vec<u8>)>, Vec<(String, u32)>) {
        let named = self.train.data.fields.iter().zip(&loaded.fields);
        let mut inputs: Vec<(String, Vec<u8>)> = named.map(|(field, bytes)| (format!("batch.{}", field.name), bytes.clone())).collect();
        let mut mask = vec![];
        fill_mask(&mut mask, loaded.batch.indices.len(), self.batch_size);
        inputs.push(("batch.mask".into(), mask));
        let batches = self.order.clone().micro_batches(step, self.batch_size).len() as u32;
        let scalars = run_scalars(step as u32, micro_seed(self.seed, batches - 1), self.total_steps);
        let mut scalars: Vec<(String, u32)> = scalars.iter().map(|(name, bits)| ((*name).to_owned(), *bits)).collect();
        scalars.extend(self.train.scalars.iter().cloned());
        (inputs, scalars)
    }

    /// Training metrics since the last report, named `train/<name>`; clears them. Waits for the device.
    pub fn report(&mut self) -> Result<Vec<(String, f64)>> {
        self.wait()?;
        let report = self.train.report(&mut self.session, &[])?;
        self.meter.lap(Part::Readback);
        Ok(report.scalars)
    }

    /// Waits for the device: what comes next does not pay for the steps that are still under way.
    pub fn wait(&mut self) -> Result<()> {
        self.meter.lap(Part::Other);
        self.session.finish()?;
        self.meter.lap(Part::Device);
        Ok(())
    }

    /// Steps since the last report whose loss or gradients were not finite. Waits for the device.
    pub fn bad_steps(&mut self) -> Result<f64> {
        const COUNT: &str = "metrics.train.nonfinite.sum";
        let Some(ty) = self.session.states().get(COUNT).cloned() else { return Ok(0.0) };
        self.wait()?;
        let count = decode(&ty, &self.session.read_state(COUNT)?)[0];
        self.meter.lap(Part::Readback);
        Ok(count)
    }

    /// Evaluates `splits`, with their copies of the weights; metrics named `<split>/<name>`. At most `batches_max` batches of each. `cancelled` is
    /// asked between batches; then there are no metrics.
    pub fn evaluate(&mut self, splits: &[String], batches_max: Option<u64>, cancelled: &mut dyn FnMut() -> bool) -> Result<Evaluated> {
        let mut all = Evaluated::default();
        for (evaluation, samples) in self.evaluations.iter().zip(&self.evaluated) {
            if !splits.contains(&evaluation.data.split) {
                continue;
            }
            let mut order = Order::sequential(&evaluation.data, *samples, self.batch_size);
            for step in 0..batches_max.map_or(order.steps(), |most| most.min(order.steps())) {
                if cancelled() {
                    evaluation.report(&mut self.session, &[])?;
                    return Ok(Evaluated::default());
                }
                let batch = order.batch(step);
                let loaded = match evaluation.resident {
                    true => Loaded { batch, fields: vec![] },
                    false => evaluation.data.load(batch, self.batch_size)?,
                };
                let scalars = run_scalars(step as u32, self.seed ^ EVALUATION_SEED, self.total_steps);
                evaluation.submit(evaluation.program, &mut self.session, &loaded, self.batch_size, &mut self.mask, &scalars)?;
            }
            let found = evaluation.report(&mut self.session, &self.class_names)?;
            all.scalars.extend(found.scalars);
            all.matrices.extend(found.matrices);
        }
        Ok(all)
    }

    /// Batches of an evaluation of this split; with copies of the weights it runs as many again for each.
    pub fn evaluation_batches(&self, split: &str) -> u64 {
        let of_split = self.evaluations.iter().zip(&self.evaluated).find(|(evaluation, _)| evaluation.data.split == split);
        of_split.map_or(0, |(_, samples)| samples.div_ceil(self.batch_size as u64))
    }

    /// Splits that are evaluated, without those of copied weights.
    pub fn evaluated_splits(&self) -> Vec<String> {
        let mut names: Vec<String> = self.evaluations.iter().map(|evaluation| evaluation.data.split.clone()).collect();
        names.dedup();
        names
    }

    /// Position in the run, for cadences.
    pub fn progress(&self) -> Progress {
        let (epochs, rest) = (self.step / self.epoch.steps, self.step % self.epoch.steps);
        let step_samples = self.epoch_step_samples();
        Progress { step: self.step, samples: epochs * self.epoch.samples + rest * step_samples, seconds: self.seconds }
    }

    /// Index of the next sample within the epoch.
    pub fn sample_index(&self) -> u64 {
        (self.step % self.epoch.steps) * self.epoch_step_samples()
    }

    fn epoch_step_samples(&self) -> u64 {
        self.order.step_samples() as u64
    }

    /// All state tensors that a checkpoint holds. Waits for the device.
    pub fn checkpoint_states(&mut self) -> Result<Vec<(String, TensorType, Vec<u8>)>> {
        let states: Vec<(String, TensorType)> =
            self.session.states().iter().filter(|(name, _)| is_saved(name)).map(|(name, ty)| (name.clone(), ty.clone())).collect();
        states.into_iter().map(|(name, ty)| Ok((name.clone(), ty, self.session.read_state(&name)?))).collect()
    }

    /// Number of trainable weights.
    pub fn param_count(&self) -> usize {
        let params = self.train.trace.graph.parameters().filter(|(_, parameter, _)| parameter.role == Role::Param);
        params.map(|(_, _, ty)| ty.element_count()).sum()
    }

    /// Values of scalars for an evaluation program compiled apart.
    pub fn evaluation_scalars(&self, evaluation: &SplitProgram) -> Vec<(String, u32)> {
        let scalars = run_scalars(0, self.seed ^ EVALUATION_SEED, self.total_steps);
        scalars.iter().map(|(name, bits)| ((*name).to_owned(), *bits)).chain(evaluation.scalars.iter().cloned()).collect()
    }
}

/// Names of the evaluations and the splits that they are made on: `test` on `test`, and `test-ema` on `test` where a callback keeps copies.
fn evaluated_splits(assembly: &Assembly, spec: &DatasetSpec, train: &Graph) -> Vec<(String, String)> {
    let keeps_copies = |name: &str| train.parameters().any(|(_, parameter, _)| parameter.name.starts_with(&format!("shadow.{name}.")));
    let shadows: Vec<&String> = assembly.callbacks.iter().map(|(name, _)| name).filter(|name| keeps_copies(name)).collect();
    let with_copies = |split: String| {
        let copies: Vec<_> = shadows.iter().map(|shadow| (format!("{split}-{shadow}"), split.clone())).collect();
        std::iter::once((split.clone(), split)).chain(copies)
    };
    evaluation_splits(&assembly.resolved.trainer, spec).into_iter().flat_map(with_copies).collect()
}

/// Splits that are evaluated: those of the recipe, else all but `train`; and the fold that is held out.
pub fn evaluation_splits(trainer: &Trainer, spec: &DatasetSpec) -> Vec<String> {
    let mut names = match &trainer.evaluate {
        Some(names) => names.clone(),
        None => spec.splits.iter().filter(|split| split.name != "train" && split.len > 0).map(|split| split.name.clone()).collect(),
    };
    if trainer.fold.is_some() && !names.iter().any(|name| name == FOLD) {
        names.insert(0, FOLD.into());
    }
    names
}

/// Whether a split is kept on the device.
pub fn is_resident(trainer: &Trainer, spec: &DatasetSpec, data: &SplitData) -> bool {
    spec.resident && trainer.resident && data.bytes() <= RESIDENT_BYTES_MAX
}

// The evaluation reads the copies instead of the weights.
fn with_shadows(graph: &mut Graph, shadow: &str) {
    for node in &mut graph.nodes {
        if let Op::Parameter(parameter) = &mut node.op
            && parameter.role == Role::Param
        {
            parameter.name = format!("shadow.{shadow}.{}", parameter.name);
            parameter.role = Role::OptState;
        }
    }
}

/// Writes what fits of the checkpoint into the session.
fn restore(session: &mut Session, graphs: &[&Graph], begin: &Begin) -> Result<Restored> {
    if begin.tensors.is_empty() {
        return Ok(Restored::default());
    }
    let mut wanted = BTreeMap::new();
    for graph in graphs {
        for (_, parameter, ty) in graph.parameters() {
            if parameter.role.is_state() && parameter.role != Role::Table && is_saved(&parameter.name) {
                wanted.insert(parameter.name.clone(), ty.clone());
            }
        }
    }
    let mut restored = Restored::default();
    for (name, ty, bytes) in &begin.tensors {
        match wanted.remove(name) {
            None => restored.dropped.push(name.clone()),
            Some(here) if here != *ty => restored.reshaped.push((name.clone(), ty.clone(), here)),
            Some(_) => {
                session.write_state(name, ty, bytes)?;
                restored.kept.push(name.clone());
            }
        }
    }
    restored.new = wanted.into_keys().collect();
    if !restored.is_exact() && !begin.partial {
        bail!(
            "the state of the checkpoint is not the state that the plugins trace now: {restored}; with --partial the run goes on with what fits, and \
             the rest begins anew"
        );
    }
    Ok(restored)
}

// Each batch of a step draws its own random numbers; the first one draws what a step of one batch does.
fn micro_seed(seed: u32, index: u32) -> u32 {
    const MICRO_STREAM: u32 = 0x6d69_6372;
    if index == 0 { seed } else { threefry2x32([seed, MICRO_STREAM], [index, 0])[0] }
}

fn live_parameters(graph: &Graph) -> Vec<(String, DType)> {
    let is_live = |parameter: &solstice_ir::Parameter| parameter.role == Role::Scalar && !parameter.name.starts_with("run.");
    graph.parameters().filter(|(_, parameter, _)| is_live(parameter)).map(|(_, parameter, ty)| (parameter.name.clone(), ty.dtype)).collect()
}

fn bits_of(dtype: DType, value: f64) -> u32 {
    match dtype {
        DType::F32 => (value as f32).to_bits(),
        DType::I32 => (value as i32) as u32,
        _ => value as u32,
    }
}

impl SplitProgram {
    fn prepare(
        split: &str,
        data: SplitData,
        trace: StepTrace,
        batch_size: usize,
        options: CompileOptions,
        resident: impl Fn(&SplitData) -> bool,
        session: &mut Session,
        watch: &mut Stopwatch,
    ) -> Result<SplitProgram> {
        let resident = resident(&data);
        // A fold and its complement share the tables of their split, as do evaluations with copies of the weights.
        let is_there =
            |session: &Session| data.fields.iter().all(|field| session.states().contains_key(&table_name(&data.source, &field.name)));
        if resident && !is_there(session) {
            for (field, bytes) in data.fields.iter().zip(data.table()?) {
                let mut shape = vec![data.source_len as usize];
                shape.extend(&field.shape);
                session.write_state(&table_name(&data.source, &field.name), &TensorType::new(field.dtype, shape), &bytes)?;
            }
            watch.lap("read data");
        }
        let mut prepared =
            SplitProgram { split: split.into(), trace, data, program: ProgramId(0), gather: None, resident, options, scalars: vec![] };
        prepared.program = prepared.load(&prepared.trace.graph, batch_size, session)?;
        watch.lap("compile");
        Ok(prepared)
    }

    /// Everything that a step runs.
    pub fn programs(&self) -> Vec<ProgramId> {
        std::iter::once(self.program).chain(self.gather).collect()
    }

    fn load(&self, graph: &Graph, batch_size: usize, session: &mut Session) -> Result<ProgramId> {
        let rewritten = self.resident.then(|| with_resident_tables(graph, &self.data.source, self.data.source_len, batch_size));
        let plan = compile(rewritten.as_ref().unwrap_or(graph), &self.options)?.plan;
        session.load(plan).with_context(|| format!("while preparing the `{}` program", self.split))
    }

    fn submit(
        &self,
        program: ProgramId,
        session: &mut Session,
        loaded: &Loaded,
        batch_size: usize,
        mask: &mut Vec<u8>,
        run_scalars: &[(&str, u32)],
    ) -> Result<()> {
        let Batch { indices, .. } = &loaded.batch;
        fill_mask(mask, indices.len(), batch_size);
        let mut scalars: Vec<(&str, u32)> = run_scalars.to_vec();
        scalars.extend(self.scalars.iter().map(|(name, bits)| (name.as_str(), *bits)));
        // Nothing is fetched: a step's results are state.
        let _ticket = if self.resident {
            // Padding slots repeat sample 0; the mask takes them out.
            let mut index = vec![0u8; batch_size * 4];
            for (slot, sample) in index.chunks_exact_mut(4).zip(indices) {
                slot.copy_from_slice(&(*sample as i32).to_le_bytes());
            }
            session.submit(program, &[(BATCH_INDEX, &index), ("batch.mask", mask)], &scalars)?
        } else {
            let names: Vec<String> = self.data.fields.iter().map(|field| format!("batch.{}", field.name)).collect();
            let mut inputs: Vec<(&str, &[u8])> =
                names.iter().zip(&loaded.fields).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            inputs.push(("batch.mask", mask));
            session.submit(program, &inputs, &scalars)?
        };
        Ok(())
    }

    /// Metrics since the last report; clears the accumulators. Waits for the device.
    fn report(&self, session: &mut Session, class_names: &[String]) -> Result<Evaluated> {
        let mut report = Evaluated::default();
        for MetricPort { name: metric, states, compute } in &self.trace.metrics {
            let mut inputs = BTreeMap::new();
            for state in states {
                let ty = session.states()[state].clone();
                let bytes = session.read_state(state)?;
                session.write_state(state, &ty, &vec![0; bytes.len()])?;
                inputs.insert(state.clone(), reference::Tensor::from_f64(&ty, &decode(&ty, &bytes)));
            }
            let values = reference::evaluate(compute, &inputs).with_context(|| format!("metric `{metric}`"))?;
            for output in &compute.outputs {
                let tensor = &values.outputs[&output.name];
                let name = format!("{}/{}", self.split, output.name);
                // Two metrics may give the same figure (`accuracy` and `confusion`): it is reported once.
                let is_new = !report.scalars.iter().any(|(known, _)| *known == name);
                match *tensor.ty.shape {
                    [rows, columns] if rows > 0 && columns > 0 => {
                        report.matrices.push(Entry::Matrix {
                            name,
                            row_labels: labels(class_names, rows),
                            column_labels: labels(class_names, columns),
                            cells: tensor.to_f64(),
                        });
                    }
                    _ if tensor.ty.element_count() == 1 && is_new => report.scalars.push((name, tensor.to_f64()[0])),
                    _ => {}
                }
            }
        }
        Ok(report)
    }
}

fn run_scalars(step: u32, seed: u32, total_steps: f64) -> [(&'static str, u32); 3] {
    [("run.step", step), ("run.seed", seed), ("run.total_steps", (total_steps as f32).to_bits())]
}

/// 1 for each of `samples`, 0 for the rest of a batch.
pub fn fill_mask(mask: &mut Vec<u8>, samples: usize, batch_size: usize) {
    mask.clear();
    for slot in 0..batch_size {
        mask.extend((if slot < samples { 1.0f32 } else { 0.0 }).to_le_bytes());
    }
}

/// What the data set calls its classes; nothing where it has none.
fn class_names(spec: &DatasetSpec) -> Vec<String> {
    let names = spec.facts.get("class_names").and_then(serde_json::Value::as_array);
    names.into_iter().flatten().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned)).collect()
}

/// The names where there is one for each, else numbers.
fn labels(class_names: &[String], count: usize) -> Vec<String> {
    if class_names.len() == count { class_names.to_vec() } else { (0..count).map(|class| class.to_string()).collect() }
}

/// First values of the live scalars, which carry them as their initial value.
fn scalar_defaults(graph: &Graph) -> Result<BTreeMap<String, f64>> {
    let mut scalars = BTreeMap::new();
    for (_, parameter, _) in graph.parameters() {
        if parameter.role == Role::Scalar && !parameter.name.starts_with("run.") {
            let Some(Init::Constant(value)) = &parameter.init else {
                bail!("the runtime scalar `{}` has no first value", parameter.name);
            };
            scalars.insert(parameter.name.clone(), *value);
        }
    }
    Ok(scalars)
}

/// The same as words for a submission.
pub fn scalar_words(graph: &Graph) -> Result<Vec<(String, u32)>> {
    let values = scalar_defaults(graph)?;
    Ok(live_parameters(graph).into_iter().map(|(name, dtype)| (name.clone(), bits_of(dtype, values[&name]))).collect())
}

// A metric accumulator's numbers; the words are little-endian.
fn decode(ty: &TensorType, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    match ty.dtype {
        DType::F32 => words.map(|word| f64::from(f32::from_bits(word))).collect(),
        DType::I32 => words.map(|word| f64::from(word as i32)).collect(),
        _ => words.map(f64::from).collect(),
    }
}

/// Gives every state tensor of the graph that the session does not hold yet its first value, drawn from (seed, name). Copies of weights begin as
/// their weights.
pub fn initialise(session: &mut Session, graph: &Graph, seed: u32) -> Result<()> {
    let missing: Vec<(String, Option<Init>, TensorType)> = graph
        .parameters()
        .filter(|(_, parameter, _)| {
            parameter.role.is_state() && parameter.role != Role::Table && !session.states().contains_key(&parameter.name)
        })
        .map(|(_, parameter, ty)| (parameter.name.clone(), parameter.init.clone(), ty.clone()))
        .collect();
    let (copies, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(name, ..)| copied_from(name).is_some());
    let values: Vec<Vec<u8>> = others
        .par_iter()
        .map(|(name, init, ty)| {
            let init = init.clone().unwrap_or(Init::Constant(0.0));
            let values = init::initial_values(&init, &ty.shape, u64::from(seed), name);
            values.into_iter().flat_map(|value| bits_of(ty.dtype, value).to_le_bytes()).collect()
        })
        .collect();
    for ((name, _, ty), bytes) in others.iter().zip(values) {
        session.write_state(name, ty, &bytes)?;
    }
    for (name, _, ty) in &copies {
        let weight = session.read_state(copied_from(name).expect("copies have sources"))?;
        session.write_state(name, ty, &weight)?;
    }
    Ok(())
}

// `shadow.ema.model.fc1.weight` is a copy of `model.fc1.weight`.
fn copied_from(name: &str) -> Option<&str> {
    Some(name.strip_prefix("shadow.")?.split_once('.')?.1)
}
