//! A session: one device, one table of named state tensors, and the programs that read and write it.

use crate::{EngineError, Plan};
use solstice_ir::TensorType;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A program loaded into a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(pub usize);

/// A submitted run whose outputs can be fetched once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// How long one kernel of a plan took in the profiled runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// Whose kernel it is.
    pub program: ProgramId,
    /// Its place in `Plan::kernels`.
    pub kernel: usize,
    /// In how many runs it was timed.
    pub calls: u64,
    /// All of them together.
    pub time: Duration,
}

/// One run of one kernel, as it was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSpan {
    /// Whose kernel it is.
    pub program: ProgramId,
    /// Its place in `Plan::kernels`.
    pub kernel: usize,
    /// When it began, on the host's clock. A device with a clock of its own tells how long before the end of the run it was.
    pub start: Instant,
    /// As in [`KernelTime`]; of a kernel in several launches without the gaps between them.
    pub time: Duration,
}

/// Most spans that wait for [`Runtime::take_spans`]; kernels after them are added up only.
pub(crate) const SPANS_KEPT: usize = 1 << 16;

impl KernelTime {
    /// What stands in a program's table of calls and times; the table is empty afterwards.
    pub(crate) fn take(program: ProgramId, times: &mut [(u64, Duration)]) -> Vec<KernelTime> {
        let timed = times.iter_mut().enumerate().filter(|(_, (calls, _))| *calls > 0);
        timed
            .map(|(kernel, entry)| {
                let (calls, time) = std::mem::take(entry);
                KernelTime { program, kernel, calls, time }
            })
            .collect()
    }
}

/// What a device must offer. `bytes` are little-endian, dense, row-major, `TensorType::byte_count` long; a bool is a 32-bit word.
///
/// Runs execute in the order of submission; a state read waits for every run before it.
pub trait Runtime: Send {
    /// Makes or replaces a state tensor. Programs that are already loaded see the new values; a change of size needs them loaded anew.
    fn write_state(&mut self, name: &str, ty: &TensorType, bytes: &[u8]) -> Result<(), EngineError>;
    /// Copies a state tensor out. Waits for the device.
    fn read_state(&mut self, name: &str) -> Result<Vec<u8>, EngineError>;
    /// Forgets a state tensor.
    fn remove_state(&mut self, name: &str);
    /// Compiles a plan; every state tensor that it names must be there with the same type.
    fn load(&mut self, plan: Arc<Plan>) -> Result<ProgramId, EngineError>;
    /// Starts one run. `inputs` in the order of `plan.inputs`, `scalars` as bits in the order of `plan.scalars`. May return before the work is done.
    fn submit(&mut self, program: ProgramId, inputs: &[&[u8]], scalars: &[u32]) -> Result<Ticket, EngineError>;
    /// Outputs of a run, in the order of `plan.outputs`. Waits for the device.
    fn outputs(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>, EngineError>;
    /// Waits until everything submitted is done.
    fn finish(&mut self) -> Result<(), EngineError>;
    /// Bytes of device memory in use: state, scratch, staging.
    fn memory_bytes(&self) -> usize;
    /// How long calls have taken for the device's work so far: waiting for it, or doing it where the caller's thread computes.
    fn waited(&self) -> Duration;
    /// Times every kernel of the runs from now on, or of none; results stay the same to the byte. While it is on, a run may wait for its end.
    ///
    /// Errors: `EngineError::Device` when the device has no clock.
    fn set_profiling(&mut self, enabled: bool) -> Result<(), EngineError>;
    /// What was timed since the last call, by program and kernel; kernels without a time are left out.
    fn take_profile(&mut self) -> Vec<KernelTime>;
    /// The first runs of kernels that were timed since the last call, in the order in which they ran; some ten thousand of them are kept.
    fn take_spans(&mut self) -> Vec<KernelSpan>;
}

/// One device, its state table and its programs.
pub struct Session {
    runtime: Box<dyn Runtime>,
    states: BTreeMap<String, TensorType>,
    plans: Vec<Arc<Plan>>,
}

impl Session {
    /// A session on an opened device.
    pub fn new(runtime: Box<dyn Runtime>) -> Session {
        Session { runtime, states: BTreeMap::new(), plans: Vec::new() }
    }

    /// Makes or replaces the state tensor `name`.
    ///
    /// Errors: `EngineError::Size` when `bytes` does not fill `ty`.
    pub fn write_state(&mut self, name: &str, ty: &TensorType, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.len() != ty.byte_count() {
            return Err(EngineError::Size { name: name.into(), ty: ty.clone(), found: bytes.len() });
        }
        self.runtime.write_state(name, ty, bytes)?;
        self.states.insert(name.into(), ty.clone());
        Ok(())
    }

    /// Copies the state tensor `name` out. Waits for the device.
    pub fn read_state(&mut self, name: &str) -> Result<Vec<u8>, EngineError> {
        if !self.states.contains_key(name) {
            return Err(EngineError::UnknownState { name: name.into() });
        }
        self.runtime.read_state(name)
    }

    /// Forgets the state tensor `name`.
    pub fn remove_state(&mut self, name: &str) {
        self.states.remove(name);
        self.runtime.remove_state(name);
    }

    /// Names and types of all state tensors.
    pub fn states(&self) -> &BTreeMap<String, TensorType> {
        &self.states
    }

    /// Loads a plan after checking that its state is there.
    pub fn load(&mut self, plan: Plan) -> Result<ProgramId, EngineError> {
        for port in &plan.states {
            match self.states.get(&port.name) {
                None => return Err(EngineError::UnknownState { name: port.name.clone() }),
                Some(ty) if *ty != port.ty => {
                    return Err(EngineError::StateType { name: port.name.clone(), wanted: port.ty.clone(), found: ty.clone() });
                }
                Some(_) => {}
            }
        }
        let plan = Arc::new(plan);
        let program = self.runtime.load(plan.clone())?;
        debug_assert_eq!(program.0, self.plans.len());
        self.plans.push(plan);
        Ok(program)
    }

    /// The plan of a loaded program.
    pub fn plan(&self, program: ProgramId) -> &Plan {
        &self.plans[program.0]
    }

    /// Starts one run. Inputs and scalars are given by name, in any order; scalars as bits of their type.
    ///
    /// Errors: `EngineError::MissingInput` for one that the plan wants and the caller does not give; surplus ones are ignored.
    pub fn submit(&mut self, program: ProgramId, inputs: &[(&str, &[u8])], scalars: &[(&str, u32)]) -> Result<Ticket, EngineError> {
        let plan = &self.plans[program.0];
        let mut ordered = Vec::with_capacity(plan.inputs.len());
        for port in &plan.inputs {
            let Some((_, bytes)) = inputs.iter().find(|(name, _)| *name == port.name) else {
                return Err(EngineError::MissingInput { name: port.name.clone() });
            };
            if bytes.len() != port.ty.byte_count() {
                return Err(EngineError::Size { name: port.name.clone(), ty: port.ty.clone(), found: bytes.len() });
            }
            ordered.push(*bytes);
        }
        let mut words = Vec::with_capacity(plan.scalars.len());
        for port in &plan.scalars {
            let Some((_, bits)) = scalars.iter().find(|(name, _)| *name == port.name) else {
                return Err(EngineError::MissingInput { name: port.name.clone() });
            };
            words.push(*bits);
        }
        self.runtime.submit(program, &ordered, &words)
    }

    /// Outputs of a run, in the order of the plan's outputs. Waits for the device.
    pub fn outputs(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>, EngineError> {
        self.runtime.outputs(ticket)
    }

    /// Submits one run and returns its outputs.
    pub fn run(&mut self, program: ProgramId, inputs: &[(&str, &[u8])], scalars: &[(&str, u32)]) -> Result<Vec<Vec<u8>>, EngineError> {
        let ticket = self.submit(program, inputs, scalars)?;
        self.outputs(ticket)
    }

    /// Waits until everything submitted is done.
    pub fn finish(&mut self) -> Result<(), EngineError> {
        self.runtime.finish()
    }

    /// Bytes of device memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.runtime.memory_bytes()
    }

    /// How long calls of this session have taken for the device's work so far: waiting for it, or computing on the CPU. The difference over a
    /// `submit` is the device's part of it; the rest went into checking, copying and encoding.
    pub fn waited(&self) -> Duration {
        self.runtime.waited()
    }

    /// Times every kernel of the runs from now on, or of none (as at first, when it costs nothing). Results stay the same to the byte.
    ///
    /// Errors: `EngineError::Device` when the device has no clock.
    pub fn set_profiling(&mut self, enabled: bool) -> Result<(), EngineError> {
        self.runtime.set_profiling(enabled)
    }

    /// What was timed since the last call, by program and kernel. [`Session::plan`] has the kernels' labels, [`crate::cost::cost`] their work.
    pub fn take_profile(&mut self) -> Vec<KernelTime> {
        self.runtime.take_profile()
    }

    /// When the kernels ran that were timed since the last call, in their order: the first ones, for a picture of a few steps.
    pub fn take_spans(&mut self) -> Vec<KernelSpan> {
        self.runtime.take_spans()
    }
}
