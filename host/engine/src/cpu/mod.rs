//! The native device: runs plans on the CPU with rayon, the `gemm` crate and block-wise elementwise kernels.
//!
//! Every kernel is prepared when a program is loaded; a step then allocates next to nothing. Work is cut by shape alone, never by the number of threads,
//! so the same run is byte-equal on any number of them. Read `map.rs` for how bodies are evaluated; each other file is one family of kernels.

mod attention;
mod convolution;
mod dot;
mod gemm;
mod hot;
mod index;
mod map;
mod math;
mod memory;
mod reduce;
mod rows;
mod window;

use crate::EngineError;
use crate::kernel::{BufferKind, Epilogue, KernelOp, Plan};
use crate::plan::is_empty;
use crate::session::{KernelSpan, KernelTime, ProgramId, Runtime, SPANS_KEPT, Ticket};
use memory::{Units, Words};
use solstice_ir::TensorType;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs whose outputs were never fetched and are still kept; older ones are dropped.
const RESULTS_KEPT: usize = 64;

/// The CPU as a device. Runs are done when `submit` returns.
pub struct CpuRuntime {
    pool: rayon::ThreadPool,
    units: Units,
    /// Unit of each state tensor, and its type while it is there.
    states: HashMap<String, (usize, Option<TensorType>)>,
    /// Scratch memory, shared by all programs as runs never overlap.
    slots: Vec<usize>,
    programs: Vec<Program>,
    results: VecDeque<(u64, Vec<Vec<u8>>)>,
    next_ticket: u64,
    clock_enabled: bool,
    spans: Vec<KernelSpan>,
    /// Spent in kernels so far.
    computed: Duration,
}

struct Program {
    plan: Arc<Plan>,
    /// A run takes long enough that threads had better not fall asleep in it.
    is_long: bool,
    /// Unit of each buffer.
    unit_of: Vec<usize>,
    /// Each with its place in the plan; kernels with nothing to do are left out.
    kernels: Vec<(usize, Box<dyn CpuKernel>)>,
    /// Calls and time of each kernel of the plan while the clock was on.
    times: Vec<(u64, Duration)>,
}

/// A kernel ready to run.
trait CpuKernel: Send + Sync {
    /// Reads and writes its units. Called on a thread of the runtime's pool.
    fn run(&self, units: &mut Units);
}

impl CpuRuntime {
    /// A runtime with `threads` threads, or one for each core.
    ///
    /// Errors: `EngineError::NoDevice` when the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<CpuRuntime, EngineError> {
        let builder =
            rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).thread_name(|index| format!("solstice-cpu-{index}"));
        let pool = builder.build().map_err(|error| EngineError::NoDevice(format!("no CPU threads: {error}")))?;
        Ok(CpuRuntime {
            pool,
            units: Units::default(),
            states: HashMap::new(),
            slots: Vec::new(),
            programs: Vec::new(),
            results: VecDeque::new(),
            next_ticket: 0,
            clock_enabled: false,
            spans: Vec::new(),
            computed: Duration::ZERO,
        })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn check_states(&self, program: &Program) -> Result<(), EngineError> {
        for port in &program.plan.states {
            match self.states.get(&port.name) {
                Some((_, Some(ty))) if *ty == port.ty => {}
                Some((_, Some(ty))) => {
                    let (name, wanted, found) = (port.name.clone(), port.ty.clone(), ty.clone());
                    return Err(EngineError::StateType { name, wanted, found });
                }
                _ => return Err(EngineError::UnknownState { name: port.name.clone() }),
            }
        }
        Ok(())
    }
}

impl Runtime for CpuRuntime {
    fn write_state(&mut self, name: &str, ty: &TensorType, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.len() != ty.byte_count() {
            return Err(EngineError::Size { name: name.into(), ty: ty.clone(), found: bytes.len() });
        }
        let units = &mut self.units;
        let entry = self.states.entry(name.into()).or_insert_with(|| (units.add(Words::default()), None));
        entry.1 = Some(ty.clone());
        let words = units.get_mut(entry.0);
        if words.byte_capacity() != ty.byte_count().next_multiple_of(4) {
            *words = Words::zeroed(ty.byte_count().div_ceil(4));
        }
        words.write_bytes(bytes);
        Ok(())
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<u8>, EngineError> {
        match self.states.get(name) {
            Some((unit, Some(ty))) => Ok(self.units.get(*unit).bytes()[..ty.byte_count()].to_vec()),
            _ => Err(EngineError::UnknownState { name: name.into() }),
        }
    }

    fn remove_state(&mut self, name: &str) {
        // The unit stays: a program that names the state may be loaded still, and finds it again when it is written anew.
        if let Some((unit, ty)) = self.states.get_mut(name) {
            *ty = None;
            *self.units.get_mut(*unit) = Words::default();
        }
    }

    fn load(&mut self, plan: Arc<Plan>) -> Result<ProgramId, EngineError> {
        if plan.is_mixed() {
            let (device, why) = ("the CPU device".into(), "computes in f32 alone".into());
            return Err(EngineError::NoMixedPrecision { program: plan.name.clone(), device, why });
        }
        for (slot, &bytes) in plan.slots.iter().enumerate() {
            if slot == self.slots.len() {
                self.slots.push(self.units.add(Words::default()));
            }
            let words = self.units.get_mut(self.slots[slot]);
            if words.byte_capacity() < bytes {
                *words = Words::zeroed(bytes.div_ceil(4));
            }
        }
        let mut unit_of = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            let word_count = (buffer.elements * buffer.dtype.size()).div_ceil(4);
            unit_of.push(match &buffer.kind {
                BufferKind::Scratch { slot } => self.slots[*slot],
                BufferKind::State(name) => match self.states.get(name) {
                    Some((unit, Some(_))) => *unit,
                    _ => return Err(EngineError::UnknownState { name: name.clone() }),
                },
                BufferKind::Constant(literal) => self.units.add(memory::words_of_literal(literal)),
                BufferKind::Input(_) | BufferKind::Scalars | BufferKind::Output(_) => self.units.add(Words::zeroed(word_count)),
            });
        }
        let mut kernels = Vec::with_capacity(plan.kernels.len());
        for (index, kernel) in plan.kernels.iter().enumerate().filter(|(_, kernel)| !is_empty(&kernel.op)) {
            kernels.push((index, prepare(&kernel.op, &plan, &unit_of)?));
        }
        let times = vec![(0, Duration::ZERO); plan.kernels.len()];
        let is_long = hot::is_long(&plan);
        let program = Program { plan, is_long, unit_of, kernels, times };
        self.check_states(&program)?;
        self.programs.push(program);
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn submit(&mut self, id: ProgramId, inputs: &[&[u8]], scalars: &[u32]) -> Result<Ticket, EngineError> {
        let program = &self.programs[id.0];
        self.check_states(program)?;
        for (port, bytes) in program.plan.inputs.iter().zip(inputs) {
            if bytes.len() != port.ty.byte_count() {
                return Err(EngineError::Size { name: port.name.clone(), ty: port.ty.clone(), found: bytes.len() });
            }
            self.units.get_mut(program.unit_of[port.buffer.index()]).write_bytes(bytes);
        }
        if let Some(buffer) = program.plan.buffers.iter().position(|buffer| buffer.kind == BufferKind::Scalars) {
            self.units.get_mut(program.unit_of[buffer]).words_mut()[..scalars.len()].copy_from_slice(scalars);
        }
        let units = &mut self.units;
        let (program, spans) = (&mut self.programs[id.0], &mut self.spans);
        let begin = Instant::now();
        self.pool.install(|| {
            let _hot = program.is_long.then(hot::Hot::start);
            for (index, kernel) in &program.kernels {
                let start = self.clock_enabled.then(Instant::now);
                kernel.run(units);
                if let Some(start) = start {
                    let time = start.elapsed();
                    let (calls, total) = &mut program.times[*index];
                    *calls += 1;
                    *total += time;
                    if spans.len() < SPANS_KEPT {
                        spans.push(KernelSpan { program: id, kernel: *index, start, time });
                    }
                }
            }
        });
        self.computed += begin.elapsed();
        let output = |port: &crate::kernel::Port| units.get(program.unit_of[port.buffer.index()]).bytes()[..port.ty.byte_count()].to_vec();
        let outputs = program.plan.outputs.iter().map(output).collect();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.results.len() == RESULTS_KEPT {
            self.results.pop_front();
        }
        self.results.push_back((ticket, outputs));
        Ok(Ticket(ticket))
    }

    fn outputs(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>, EngineError> {
        let dropped = || EngineError::Device {
            device: "CPU".into(),
            message: format!("the outputs of run {} are gone: the last {RESULTS_KEPT} runs are kept, each until it is read", ticket.0),
        };
        let place = self.results.iter().rposition(|(kept, _)| *kept == ticket.0).ok_or_else(dropped)?;
        Ok(self.results.remove(place).map(|(_, outputs)| outputs).unwrap_or_default())
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.units.byte_count()
    }

    fn waited(&self) -> Duration {
        self.computed
    }

    fn set_profiling(&mut self, enabled: bool) -> Result<(), EngineError> {
        self.clock_enabled = enabled;
        Ok(())
    }

    fn take_profile(&mut self) -> Vec<KernelTime> {
        let programs = self.programs.iter_mut().enumerate();
        programs.flat_map(|(index, program)| KernelTime::take(ProgramId(index), &mut program.times)).collect()
    }

    fn take_spans(&mut self) -> Vec<KernelSpan> {
        std::mem::take(&mut self.spans)
    }
}

fn prepare(op: &KernelOp, plan: &Plan, unit_of: &[usize]) -> Result<Box<dyn CpuKernel>, EngineError> {
    Ok(match op {
        KernelOp::Map { shape, body, stores } => Box::new(map::Map::new(shape, body, stores, plan, unit_of)),
        KernelOp::Reduce { .. } => Box::new(reduce::Reduce::new(op, plan, unit_of)),
        KernelOp::Rows { shape, row_axes, body, stores } => Box::new(rows::Rows::new(shape, *row_axes, body, stores, plan, unit_of)),
        KernelOp::Group { members } => {
            let members = members.iter().map(|member| prepare(&member.op, plan, unit_of)).collect::<Result<Vec<_>, _>>()?;
            Box::new(Sequence(members))
        }
        KernelOp::Dot { epilogue, .. } => with_epilogue(Box::new(dot::Dot::new(op, unit_of)), epilogue.as_deref(), plan, unit_of),
        KernelOp::Attention { .. } => Box::new(attention::Attention::new(op, unit_of)),
        KernelOp::Convolution { epilogue, .. } => {
            with_epilogue(Box::new(convolution::Convolution::new(op, unit_of)?), epilogue.as_deref(), plan, unit_of)
        }
        KernelOp::ReduceWindow { .. } | KernelOp::SelectAndScatter { .. } => Box::new(window::WindowKernel::new(op, unit_of)),
        _ => Box::new(index::IndexKernel::new(op, plan, unit_of)),
    })
}

/// Kernels one after the other: the members of a group, a product and what becomes of it.
struct Sequence(Vec<Box<dyn CpuKernel>>);

impl CpuKernel for Sequence {
    fn run(&self, units: &mut Units) {
        self.0.iter().for_each(|kernel| kernel.run(units));
    }
}

/// The product, then its epilogue over it where it stands.
fn with_epilogue(product: Box<dyn CpuKernel>, epilogue: Option<&Epilogue>, plan: &Plan, unit_of: &[usize]) -> Box<dyn CpuKernel> {
    match epilogue {
        Some(epilogue) => {
            let map = map::Map::new(&epilogue.shape, &epilogue.body, &epilogue.stores_behind_product(), plan, unit_of);
            Box::new(Sequence(vec![product, Box::new(map)]))
        }
        None => product,
    }
}
