//! The training loop: compile, step, report, evaluate, save. It runs in the worker and talks to the outside through the store alone.

use crate::assemble::{Assembly, BATCH_INDEX, table_name, with_resident_tables};
use crate::data::{Batch, Loaded, Order, Prefetch, RESIDENT_BYTES_MAX, SplitData};
use crate::span::{EpochShape, Progress};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use solstice_engine::{CompileOptions, ProgramId, Session, compile, init, reference};
use solstice_ir::{DType, Graph, Init, Op, Role, TensorType};
use solstice_plugin_abi::wire::{DatasetSpec, MetricPort};
use std::collections::BTreeMap;
use std::time::Instant;

/// A split with its program, data and metrics.
pub struct SplitProgram {
    /// `train`, `test`, `val`.
    pub split: String,
    /// The step as the experiment traced it: the batch is plain inputs.
    pub traced: Graph,
    program: ProgramId,
    metrics: Vec<MetricPort>,
    data: SplitData,
    resident: bool,
    /// Values of the runtime scalars of the graph that are not `run.*`.
    scalars: Vec<(String, u32)>,
}

/// A run in memory: session, programs, position.
pub struct Run {
    /// Device, state and programs.
    pub session: Session,
    /// The training program.
    pub train: SplitProgram,
    /// The evaluation programs, in the order in which they run.
    pub evaluations: Vec<SplitProgram>,
    /// Steps done.
    pub step: u64,
    /// Steps and samples of an epoch.
    pub epoch: EpochShape,
    /// Steps of the whole run, as the schedule sees them.
    pub total_steps: f64,
    seed: u32,
    batch_size: usize,
    order: Order,
    prefetch: Option<Prefetch>,
    mask: Vec<u8>,
}

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

impl Run {
    /// Opens the data, traces, compiles, and gives every state tensor its first value.
    pub fn start(assembly: &Assembly, spec: &DatasetSpec, session: Session, watch: &mut Stopwatch) -> Result<Run> {
        let trainer = &assembly.resolved.trainer;
        let batch_size = trainer.batch_size;
        let seed = u32::try_from(trainer.seed).expect("checked when the recipe was read");
        let mut session = session;
        let names = match &trainer.evaluate {
            Some(names) => names.clone(),
            None => spec.splits.iter().filter(|split| split.name != "train" && split.len > 0).map(|split| split.name.clone()).collect(),
        };
        let train = SplitProgram::prepare(assembly, spec, "train", "train_step", &mut session, seed, watch)?;
        let epoch = EpochShape { samples: train.data.len, steps: train.data.steps(batch_size) };
        let mut evaluations = vec![];
        for name in &names {
            evaluations.push(SplitProgram::prepare(assembly, spec, name, "eval_step", &mut session, seed, watch)?);
        }
        let order = Order::shuffled(train.data.len, batch_size, seed);
        let total_steps = trainer.budget.steps(epoch).map_or(0.0, |steps| steps as f64);
        let prefetch = (!train.resident).then(|| Prefetch::start(&train.data, &order, batch_size, 0, trainer.loader_threads));
        Ok(Run { session, train, evaluations, step: 0, epoch, total_steps, seed, batch_size, order, prefetch, mask: vec![] })
    }

    /// One training step; returns the number of samples in it. The device may still be at work.
    pub fn train_step(&mut self) -> Result<usize> {
        let loaded = match &mut self.prefetch {
            Some(prefetch) => prefetch.next()?,
            None => Loaded { batch: self.order.batch(self.step), fields: vec![] },
        };
        let count = loaded.batch.indices.len();
        let scalars = run_scalars(self.step as u32, self.seed, self.total_steps);
        self.train.submit(&mut self.session, &loaded, self.batch_size, &mut self.mask, &scalars)?;
        self.step += 1;
        Ok(count)
    }

    /// The samples of an earlier or later step, loaded anew; for the search of a bad number.
    pub fn load_step(&self, step: u64) -> Result<Loaded> {
        let batch = self.order.clone().batch(step);
        let fields = self.train.data.fill(batch.epoch, &batch.indices, self.batch_size)?;
        Ok(Loaded { batch, fields })
    }

    /// Named inputs and scalars of a step, for a program compiled apart; fields are given as tensors, not by resident table.
    pub fn step_inputs(&self, step: u64, loaded: &Loaded) -> (Vec<(String, Vec<u8>)>, Vec<(String, u32)>) {
        let mut inputs: Vec<(String, Vec<u8>)> = self
            .train
            .data
            .fields
            .iter()
            .zip(&loaded.fields)
            .map(|(field, bytes)| (format!("batch.{}", field.name), bytes.clone()))
            .collect();
        let mut mask = vec![];
        fill_mask(&mut mask, loaded.batch.indices.len(), self.batch_size);
        inputs.push(("batch.mask".into(), mask));
        let mut scalars: Vec<(String, u32)> =
            run_scalars(step as u32, self.seed, self.total_steps).iter().map(|(name, bits)| ((*name).to_owned(), *bits)).collect();
        scalars.extend(self.train.scalars.iter().cloned());
        (inputs, scalars)
    }

    /// Training metrics since the last report, named `train/<name>`; clears them. Waits for the device.
    pub fn report(&mut self) -> Result<Vec<(String, f64)>> {
        self.train.report(&mut self.session)
    }

    /// Evaluates every split; metrics named `<split>/<name>`. `cancelled` is asked between batches.
    pub fn evaluate(&mut self, cancelled: &dyn Fn() -> bool) -> Result<Vec<(String, f64)>> {
        let mut all = vec![];
        for evaluation in &self.evaluations {
            let mut order = Order::sequential(evaluation.data.len, self.batch_size);
            for step in 0..evaluation.data.steps(self.batch_size) {
                if cancelled() {
                    evaluation.report(&mut self.session)?;
                    return Ok(vec![]);
                }
                let batch = order.batch(step);
                let fields =
                    if evaluation.resident { vec![] } else { evaluation.data.fill(batch.epoch, &batch.indices, self.batch_size)? };
                let scalars = run_scalars(step as u32, self.seed ^ EVALUATION_SEED, self.total_steps);
                evaluation.submit(&mut self.session, &Loaded { batch, fields }, self.batch_size, &mut self.mask, &scalars)?;
            }
            all.extend(evaluation.report(&mut self.session)?);
        }
        Ok(all)
    }

    /// Position in the run, for cadences.
    pub fn progress(&self, seconds: f64) -> Progress {
        let (epochs, rest) = (self.step / self.epoch.steps, self.step % self.epoch.steps);
        Progress { step: self.step, samples: epochs * self.epoch.samples + rest * self.batch_size as u64, seconds }
    }

    /// All state tensors that a checkpoint holds: everything but resident data.
    pub fn checkpoint_states(&mut self) -> Result<Vec<(String, TensorType, Vec<u8>)>> {
        let states: Vec<(String, TensorType)> = self
            .session
            .states()
            .iter()
            .filter(|(name, _)| !name.starts_with("data."))
            .map(|(name, ty)| (name.clone(), ty.clone()))
            .collect();
        states.into_iter().map(|(name, ty)| Ok((name.clone(), ty, self.session.read_state(&name)?))).collect()
    }

    /// Number of trainable weights.
    pub fn param_count(&self) -> usize {
        self.train.traced.parameters().filter(|(_, parameter, _)| parameter.role == Role::Param).map(|(_, _, ty)| ty.element_count()).sum()
    }
}

impl SplitProgram {
    fn prepare(
        assembly: &Assembly,
        spec: &DatasetSpec,
        split: &str,
        entry: &str,
        session: &mut Session,
        seed: u32,
        watch: &mut Stopwatch,
    ) -> Result<SplitProgram> {
        let trainer = &assembly.resolved.trainer;
        let data = SplitData::new(assembly.dataset.clone(), spec, split)?;
        let trace = assembly.step(entry, split, spec)?;
        watch.lap("trace");
        let resident = spec.resident && trainer.resident && data.bytes() <= RESIDENT_BYTES_MAX;
        let plan = {
            let rewritten = resident.then(|| with_resident_tables(&trace.graph, split, data.len, trainer.batch_size));
            compile(rewritten.as_ref().unwrap_or(&trace.graph), &CompileOptions::default())?.plan
        };
        watch.lap("compile");
        if resident {
            for (field, bytes) in data.fields.iter().zip(data.table()?) {
                let mut shape = vec![data.len as usize];
                shape.extend(&field.shape);
                session.write_state(&table_name(split, &field.name), &TensorType::new(field.dtype, shape), &bytes)?;
            }
            watch.lap("read data");
        }
        initialise(session, &trace.graph, seed)?;
        watch.lap("initial state");
        let program = session.load(plan).with_context(|| format!("while preparing the `{split}` program"))?;
        watch.lap("load program");
        let scalars = scalar_defaults(&trace.graph)?;
        Ok(SplitProgram { split: split.into(), traced: trace.graph, program, metrics: trace.metrics, data, resident, scalars })
    }

    fn submit(
        &self,
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
            session.submit(self.program, &[(BATCH_INDEX, &index), ("batch.mask", mask)], &scalars)?
        } else {
            let names: Vec<String> = self.data.fields.iter().map(|field| format!("batch.{}", field.name)).collect();
            let mut inputs: Vec<(&str, &[u8])> =
                names.iter().zip(&loaded.fields).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            inputs.push(("batch.mask", mask));
            session.submit(self.program, &inputs, &scalars)?
        };
        Ok(())
    }

    /// Metrics since the last report; clears the accumulators. Waits for the device.
    fn report(&self, session: &mut Session) -> Result<Vec<(String, f64)>> {
        let mut report: Vec<(String, f64)> = vec![];
        for metric in &self.metrics {
            let mut inputs = BTreeMap::new();
            for state in &metric.states {
                let ty = session.states()[state].clone();
                let bytes = session.read_state(state)?;
                session.write_state(state, &ty, &vec![0; bytes.len()])?;
                inputs.insert(state.clone(), reference::Tensor::from_f64(&ty, &decode(&ty, &bytes)));
            }
            let values = reference::evaluate(&metric.compute, &inputs).with_context(|| format!("metric `{}`", metric.name))?;
            for output in &metric.compute.outputs {
                let tensor = &values.outputs[&output.name];
                let name = format!("{}/{}", self.split, output.name);
                // Two metrics may give the same figure (`accuracy` and `confusion`): it is reported once.
                let is_new = !report.iter().any(|(known, _)| *known == name);
                if tensor.ty.element_count() == 1 && is_new {
                    report.push((name, tensor.to_f64()[0]));
                }
            }
        }
        Ok(report)
    }
}

fn run_scalars(step: u32, seed: u32, total_steps: f64) -> [(&'static str, u32); 3] {
    [("run.step", step), ("run.seed", seed), ("run.total_steps", (total_steps as f32).to_bits())]
}

fn fill_mask(mask: &mut Vec<u8>, samples: usize, batch_size: usize) {
    mask.clear();
    for slot in 0..batch_size {
        mask.extend((if slot < samples { 1.0f32 } else { 0.0 }).to_le_bytes());
    }
}

/// First values of the live scalars, which carry them as their initial value.
pub fn scalar_defaults(graph: &Graph) -> Result<Vec<(String, u32)>> {
    let mut scalars = vec![];
    for node in &graph.nodes {
        if let Op::Parameter(parameter) = &node.op
            && parameter.role == Role::Scalar
            && !parameter.name.starts_with("run.")
        {
            let value = match &parameter.init {
                Some(Init::Constant(value)) => *value,
                _ => bail!("the runtime scalar `{}` has no first value", parameter.name),
            };
            let bits = match node.ty.dtype {
                DType::F32 => (value as f32).to_bits(),
                DType::I32 => (value as i32) as u32,
                _ => value as u32,
            };
            scalars.push((parameter.name.clone(), bits));
        }
    }
    Ok(scalars)
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

/// Gives every state tensor of the graph that the session does not hold yet its first value, drawn from (seed, name).
pub fn initialise(session: &mut Session, graph: &Graph, seed: u32) -> Result<()> {
    let missing: Vec<(String, Option<Init>, TensorType)> = graph
        .parameters()
        .filter(|(_, parameter, _)| {
            parameter.role.is_state() && parameter.role != Role::Table && !session.states().contains_key(&parameter.name)
        })
        .map(|(_, parameter, ty)| (parameter.name.clone(), parameter.init.clone(), ty.clone()))
        .collect();
    let values: Vec<Vec<u8>> = missing
        .par_iter()
        .map(|(name, init, ty)| {
            let init = init.clone().unwrap_or(Init::Constant(0.0));
            let values = init::initial_values(&init, &ty.shape, u64::from(seed), name);
            let mut bytes = Vec::with_capacity(ty.byte_count());
            for value in values {
                match ty.dtype {
                    DType::F32 => bytes.extend((value as f32).to_le_bytes()),
                    DType::I32 => bytes.extend((value as i32).to_le_bytes()),
                    _ => bytes.extend((value as u32).to_le_bytes()),
                }
            }
            bytes
        })
        .collect();
    for ((name, _, ty), bytes) in missing.iter().zip(values) {
        session.write_state(name, ty, &bytes)?;
    }
    Ok(())
}
