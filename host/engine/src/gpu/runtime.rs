//! [`GpuRuntime`]: the `Runtime` of wgpu devices. Everything that can be built is built when a program is loaded; a run is one encoder and one submission.
//!
//! Runs of a session execute in order on one queue, so scratch memory is shared by all programs, and a run needs memory of its own only for what the host
//! touches (staging.rs). A program remembers the buffers that it was bound to; when a state tensor has been replaced since, or the scratch memory has
//! grown, the bind groups are made anew.

use crate::cache::DeviceCache;
use crate::gpu::adapter::{Adapter, target};
use crate::gpu::cooperative::{self, TensorCores};
use crate::gpu::launch::{Binding, Launches, Memory, Step, Target, buffer_bytes, launches, pieces};
use crate::gpu::pipelines::{Pipelines, Wanted};
use crate::gpu::profile::Clock;
use crate::gpu::staging::Staging;
use crate::gpu::wave::pass_starts;
use crate::gpu::{Sources, Tuning};
use crate::kernel::{Buffer, BufferKind};
use crate::session::{KernelSpan, KernelTime, ProgramId, Runtime, SPANS_KEPT, Ticket};
use crate::{EngineError, Plan};
use solstice_ir::{DType, Literal, TensorType};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs that may be under way at once: one on the device, one waiting, one being prepared.
const RUNS_IN_FLIGHT: usize = 3;

/// Runs whose outputs were never fetched and are still kept; older ones are dropped.
const RESULTS_KEPT: usize = 64;

/// Buffers are made in multiples of this, so that four words at once never reach over the end.
const PADDING: usize = 16;

/// What is asked of an adapter that has it.
const FEATURES: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16).union(Clock::FEATURES).union(Pipelines::FEATURES);

/// A wgpu device with its state tensors and programs.
pub struct GpuRuntime {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    target: Target,
    tensor_cores: TensorCores,
    limits: wgpu::Limits,
    /// First error that wgpu reported since the last look.
    failure: Arc<Mutex<Option<String>>>,
    states: HashMap<String, State>,
    /// Scratch slots of all programs.
    slots: Vec<wgpu::Buffer>,
    /// Temporaries of all programs.
    temporaries: Vec<wgpu::Buffer>,
    pipelines: Pipelines,
    programs: Vec<Program>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    results: BTreeMap<u64, Outcome>,
    next_ticket: u64,
    is_profiling: bool,
    spans: Vec<KernelSpan>,
    /// Spent waiting for the device so far.
    waited: Cell<Duration>,
}

struct State {
    ty: TensorType,
    buffer: wgpu::Buffer,
}

/// Where the memory of a piece comes from.
enum Source {
    Own(wgpu::Buffer),
    State(String),
    Slot(usize),
}

struct Program {
    plan: Arc<Plan>,
    sources: Vec<Source>,
    /// What the bind groups hold, by piece.
    bound: Vec<wgpu::Buffer>,
    bound_temporaries: Vec<wgpu::Buffer>,
    steps: Vec<Prepared>,
    /// For each step whether a pass begins with it.
    begins_pass: Vec<bool>,
    /// Piece, offset in the staging buffer and bytes of each input, then of the scalars.
    uploads: Vec<(usize, usize, usize)>,
    /// The same of each output.
    downloads: Vec<(usize, usize, usize)>,
    upload_ring: Vec<Staging>,
    readback_ring: Vec<Staging>,
    readbacks_free: Vec<usize>,
    run_count: usize,
    /// The kernel of the plan that each step is a part of.
    kernel_of: Vec<usize>,
    /// Calls and time of each kernel of the plan, of profiled runs.
    times: Vec<(u64, Duration)>,
    /// Made by the first profiled run.
    clock: Option<Clock>,
}

enum Prepared {
    Dispatch(Dispatch),
    Copy { from: Memory, to: Memory, bytes: usize },
}

struct Dispatch {
    label: String,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: Vec<Binding>,
    group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Prepared {
    fn is_dispatch(&self) -> bool {
        matches!(self, Prepared::Dispatch(_))
    }
}

impl Dispatch {
    fn record(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}

enum Outcome {
    /// In a readback buffer of the program.
    Pending {
        program: usize,
        readback: usize,
        submission: wgpu::SubmissionIndex,
    },
    Ready(Vec<Vec<u8>>),
}

impl GpuRuntime {
    /// Opens an adapter with all limits that it has.
    ///
    /// Errors: `EngineError::Device` when the driver refuses.
    pub fn new(adapter: &Adapter) -> Result<GpuRuntime, EngineError> {
        GpuRuntime::with_sources(adapter, &Sources::built_in())
    }

    /// The same with shader files of one's own.
    pub fn with_sources(adapter: &Adapter, sources: &Sources) -> Result<GpuRuntime, EngineError> {
        GpuRuntime::with_target(adapter, target(&adapter.handle, sources))
    }

    /// The same, with the choices that were measured on this adapter and the kernels that were compiled for it, as `cache` has kept them.
    pub fn with_cache(adapter: &Adapter, sources: &Sources, cache: &Arc<dyn DeviceCache>) -> Result<GpuRuntime, EngineError> {
        let target = Target { tuning: Tuning::load(&**cache, adapter), ..target(&adapter.handle, sources) };
        GpuRuntime::open(adapter, target, Some(cache.clone()))
    }

    /// An adapter with the kernels of another: for tests, which run the shaders for hardware in software.
    pub fn with_target(adapter: &Adapter, target: Target) -> Result<GpuRuntime, EngineError> {
        GpuRuntime::open(adapter, target, None)
    }

    fn open(adapter: &Adapter, target: Target, cache: Option<Arc<dyn DeviceCache>>) -> Result<GpuRuntime, EngineError> {
        let is_wanted = target.has_f16 && target.subgroup_size > 1 && cooperative::is_listed(adapter);
        let open = |target: Target| GpuRuntime::open_device(adapter, target, cache.clone());
        GpuRuntime::settle(target, is_wanted, &open, &|runtime| cooperative::test_device(runtime, &cooperative::pick_cooperative))
    }

    /// A device that uses its tensor cores where it has some that are wanted and pass `test`, and one that does not know of them otherwise: it is opened anew, so
    /// that nothing of a failure stays behind.
    fn settle(
        target: Target,
        is_wanted: bool,
        open: &dyn Fn(Target) -> Result<GpuRuntime, EngineError>,
        test: &dyn Fn(&mut GpuRuntime) -> Result<usize, String>,
    ) -> Result<GpuRuntime, EngineError> {
        let target = Target { has_tensor_cores: false, ..target };
        if !is_wanted {
            return open(target);
        }
        let tried = open(Target { has_tensor_cores: true, ..target.clone() }).map_err(|error| error.to_string());
        match tried.and_then(|mut runtime| test(&mut runtime).map(|products| (runtime, products))) {
            Ok((runtime, products)) => Ok(GpuRuntime { tensor_cores: TensorCores::Used { products }, ..runtime }),
            Err(why) => Ok(GpuRuntime { tensor_cores: TensorCores::Refused(why), ..open(target)? }),
        }
    }

    fn open_device(adapter: &Adapter, target: Target, cache: Option<Arc<dyn DeviceCache>>) -> Result<GpuRuntime, EngineError> {
        let limits = adapter.handle.limits();
        let mut required_features = adapter.handle.features() & FEATURES;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if target.has_tensor_cores {
            required_features |= cooperative::FEATURES;
            experimental_features = cooperative::experiments();
        }
        let request = wgpu::DeviceDescriptor {
            label: Some("solstice"),
            required_features,
            required_limits: limits.clone(),
            experimental_features,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.handle.request_device(&request))
            .map_err(|error| EngineError::Device { device: adapter.name.clone(), message: error.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let keep_first = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = failure.clone();
            move |message: String| {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
            }
        };
        let report = keep_first(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| report(error.to_string())));
        let report = keep_first(&failure);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                report(format!("the device is lost: {message}"));
            }
        });
        let pipelines = Pipelines::new(&device, cache, &adapter.identity());
        Ok(GpuRuntime {
            name: adapter.name.clone(),
            target,
            tensor_cores: TensorCores::Absent,
            device,
            queue,
            limits,
            failure,
            states: HashMap::new(),
            slots: Vec::new(),
            temporaries: Vec::new(),
            pipelines,
            programs: Vec::new(),
            in_flight: VecDeque::new(),
            results: BTreeMap::new(),
            next_ticket: 0,
            is_profiling: false,
            spans: Vec::new(),
            waited: Cell::default(),
        })
    }

    /// What the shader texts of this device depend on.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether mixed products run on tensor cores, and why not.
    pub fn tensor_cores(&self) -> &TensorCores {
        &self.tensor_cores
    }

    /// Programs that are loaded from now on follow this record.
    pub(super) fn set_tuning(&mut self, tuning: Tuning) {
        self.target.tuning = tuning;
    }

    /// Frees what programs hold; their ids are worth nothing afterwards.
    pub(super) fn forget_programs(&mut self) {
        self.programs.clear();
        self.pipelines.clear();
        self.slots.clear();
        self.temporaries.clear();
    }

    fn error(&self, message: impl Into<String>) -> EngineError {
        EngineError::Device { device: self.name.clone(), message: message.into() }
    }

    /// The error that wgpu reported since the last look, if any.
    fn check(&self, doing: impl FnOnce() -> String) -> Result<(), EngineError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => Err(self.error(format!("{}: {message}", doing()))),
            None => Ok(()),
        }
    }

    /// Waits for a submission, or for all. Mapped buffers are back afterwards.
    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), EngineError> {
        let poll = || self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        let begin = Instant::now();
        // wgpu panics when the device is lost while it waits.
        let polled = catch_unwind(AssertUnwindSafe(poll));
        self.waited.set(self.waited.get() + begin.elapsed());
        match polled {
            Ok(Ok(_)) => self.check(|| "while running".into()),
            Ok(Err(error)) => Err(self.error(error.to_string())),
            Err(_) => Err(self.error("the device was lost while waiting for it")),
        }
    }

    fn submit_encoder(&mut self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.queue.submit([encoder.finish()])
    }

    /// A buffer on the device, filled with `bytes` if there are any.
    fn create_buffer(&self, label: &str, size: usize, bytes: &[u8]) -> Result<wgpu::Buffer, EngineError> {
        let limit = self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size);
        let padded = size.max(1).next_multiple_of(PADDING) as u64;
        if padded > limit {
            return Err(self.error(format!(
                "{label} needs {size} bytes in one piece, this device holds at most {limit}: use a smaller batch or another device"
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let is_filled = !bytes.is_empty();
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size: padded, usage, mapped_at_creation: is_filled });
        self.check(|| format!("allocating {size} bytes for {label}"))?;
        if is_filled {
            let mut view = buffer.slice(..).get_mapped_range_mut().map_err(|error| self.error(error.to_string()))?;
            view.slice(..bytes.len()).copy_from_slice(bytes);
            drop(view);
            buffer.unmap();
        }
        Ok(buffer)
    }

    fn check_states(&self, plan: &Plan) -> Result<(), EngineError> {
        for port in &plan.states {
            match self.states.get(&port.name) {
                Some(state) if state.ty == port.ty => {}
                Some(state) => {
                    return Err(EngineError::StateType { name: port.name.clone(), wanted: port.ty.clone(), found: state.ty.clone() });
                }
                None => return Err(EngineError::UnknownState { name: port.name.clone() }),
            }
        }
        Ok(())
    }

    /// The buffer that a piece has now.
    fn current(&self, source: &Source) -> Result<wgpu::Buffer, EngineError> {
        match source {
            Source::Own(buffer) => Ok(buffer.clone()),
            Source::Slot(slot) => Ok(self.slots[*slot].clone()),
            Source::State(name) => {
                self.states.get(name).map(|state| state.buffer.clone()).ok_or_else(|| EngineError::UnknownState { name: name.clone() })
            }
        }
    }

    /// Makes `pool[index]` hold at least `bytes`.
    fn reserve(&self, pool: &mut Vec<wgpu::Buffer>, index: usize, bytes: usize, label: &str) -> Result<(), EngineError> {
        while pool.len() <= index {
            pool.push(self.create_buffer(label, 0, &[])?);
        }
        if (pool[index].size() as usize) < bytes {
            pool[index] = self.create_buffer(label, bytes, &[])?;
        }
        Ok(())
    }

    /// Compiles the kernels of a program.
    ///
    /// Errors: one of them is not valid; the sentence names its file where that can be told.
    fn compile(&mut self, steps: &[Step]) -> Result<(), EngineError> {
        let wanted: Vec<Wanted> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Launch { label, wgsl, bindings, .. } => Some(Wanted { label, wgsl, bindings }),
                Step::Copy { .. } => None,
            })
            .collect();
        self.pipelines.compile(&self.device, &wanted);
        if let Err(error) = self.check(|| "compiling kernels".into()) {
            self.pipelines.clear();
            // The device's own words know no file.
            let explained = wanted.iter().find_map(|kernel| Some((kernel.label, self.target.sources.explain(kernel.wgsl)?)));
            return Err(explained.map_or(error, |(label, why)| self.error(format!("the kernel `{label}` is {why}"))));
        }
        self.pipelines.save();
        Ok(())
    }

    /// Binds a program anew if memory that it shares has been replaced.
    fn refresh(&mut self, index: usize) -> Result<(), EngineError> {
        let program = &self.programs[index];
        let current = program.sources.iter().map(|source| self.current(source)).collect::<Result<Vec<_>, _>>()?;
        let temporaries = &self.temporaries[..program.bound_temporaries.len()];
        if current == program.bound && temporaries == program.bound_temporaries {
            return Ok(());
        }
        let temporaries = temporaries.to_vec();
        let program = &mut self.programs[index];
        for step in &mut program.steps {
            if let Prepared::Dispatch(Dispatch { label, layout, bindings, group, .. }) = step {
                *group = bind_group(&self.device, label, layout, bindings, &current, &temporaries);
            }
        }
        program.bound = current;
        program.bound_temporaries = temporaries;
        self.check(|| "binding memory".into())
    }

    /// Fetches the outputs of a pending run into host memory and frees its readback buffer.
    fn collect(&mut self, outcome: Outcome) -> Result<Vec<Vec<u8>>, EngineError> {
        match outcome {
            Outcome::Ready(outputs) => Ok(outputs),
            Outcome::Pending { program, readback, submission } => {
                if !self.programs[program].readback_ring[readback].is_mapped() {
                    self.wait(Some(submission))?;
                }
                let entry = &mut self.programs[program];
                entry.readbacks_free.push(readback);
                let (staging, downloads) = (&entry.readback_ring[readback], &entry.downloads);
                let outputs =
                    staging.read(|bytes| downloads.iter().map(|&(_, offset, size)| bytes[offset..offset + size].to_vec()).collect());
                outputs.map_err(|message| self.error(message))
            }
        }
    }

    /// A readback buffer of a program that no run holds.
    fn free_readback(&mut self, program: usize) -> Result<usize, EngineError> {
        if self.programs[program].readbacks_free.is_empty() {
            let oldest = self.results.iter().find_map(|(ticket, outcome)| match outcome {
                Outcome::Pending { program: other, .. } if *other == program => Some(*ticket),
                _ => None,
            });
            if let Some((ticket, outcome)) = oldest.and_then(|ticket| self.results.remove_entry(&ticket)) {
                let outputs = self.collect(outcome)?;
                self.results.insert(ticket, Outcome::Ready(outputs));
            }
        }
        self.programs[program].readbacks_free.pop().ok_or_else(|| self.error("no readback buffer is free"))
    }

    fn run(&mut self, index: usize, inputs: &[&[u8]], scalars: &[u32]) -> Result<Outcome, EngineError> {
        while self.in_flight.len() >= RUNS_IN_FLIGHT {
            let oldest = self.in_flight.pop_front();
            self.wait(oldest)?;
        }
        if self.is_profiling && self.programs[index].clock.is_none() {
            let copies = self.programs[index].steps.iter().map(|step| matches!(step, Prepared::Copy { .. }));
            self.programs[index].clock = Some(Clock::new(&self.device, &self.queue, copies));
            self.check(|| "making a clock for kernels".into())?;
        }
        let has_outputs = !self.programs[index].downloads.is_empty();
        let readback = if has_outputs { Some(self.free_readback(index)?) } else { None };
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(&self.programs[index].plan.name) });
        let program = &self.programs[index];
        if !program.uploads.is_empty() {
            let staging = &program.upload_ring[program.run_count % RUNS_IN_FLIGHT];
            if !staging.is_mapped() {
                self.wait(None)?;
            }
            let parts = inputs.iter().copied().chain([bytemuck::cast_slice(scalars)]);
            let parts = program.uploads.iter().zip(parts).map(|(&(_, offset, _), bytes)| (offset, bytes));
            staging.write(parts).map_err(|message| self.error(format!("upload: {message}")))?;
            for &(piece, offset, bytes) in &program.uploads {
                let words = bytes.next_multiple_of(4) as u64;
                if words > 0 {
                    encoder.copy_buffer_to_buffer(&staging.buffer, offset as u64, &program.bound[piece], 0, Some(words));
                }
            }
            staging.map_after(&encoder);
        }
        let clock = if self.is_profiling { program.clock.as_ref() } else { None };
        match clock {
            Some(clock) => program.encode_timed(&mut encoder, clock),
            None => program.encode(&mut encoder),
        }
        if let Some(readback) = readback {
            let staging = &program.readback_ring[readback];
            for &(piece, offset, bytes) in &program.downloads {
                let words = bytes.next_multiple_of(4) as u64;
                if words > 0 {
                    encoder.copy_buffer_to_buffer(&program.bound[piece], 0, &staging.buffer, offset as u64, Some(words));
                }
            }
            staging.map_after(&encoder);
        }
        let submission = self.submit_encoder(encoder);
        self.in_flight.push_back(submission.clone());
        self.programs[index].run_count += 1;
        if self.is_profiling {
            self.wait(Some(submission.clone()))?;
            let done = Instant::now();
            let Program { clock, kernel_of, times, .. } = &mut self.programs[index];
            let calls =
                clock.as_ref().map_or(Ok(Vec::new()), |clock| clock.add(kernel_of, times)).map_err(|message| self.error(message))?;
            let span = |(kernel, before, time)| KernelSpan { program: ProgramId(index), kernel, start: done - before, time };
            self.spans.extend(calls.into_iter().map(span).take(SPANS_KEPT.saturating_sub(self.spans.len())));
        }
        self.check(|| format!("submitting `{}`", self.programs[index].plan.name))?;
        Ok(match readback {
            Some(readback) => Outcome::Pending { program: index, readback, submission },
            None => Outcome::Ready(Vec::new()),
        })
    }
}

impl Program {
    /// All steps: dispatches share passes as `wave.rs` says.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut steps = self.steps.iter().zip(&self.begins_pass).peekable();
        while let Some((step, _)) = steps.next() {
            match step {
                Prepared::Copy { from, to, bytes } => {
                    encoder.copy_buffer_to_buffer(self.memory(*from), 0, self.memory(*to), 0, Some(*bytes as u64))
                }
                Prepared::Dispatch(dispatch) => {
                    let descriptor = wgpu::ComputePassDescriptor { label: Some(&self.plan.name), timestamp_writes: None };
                    let mut pass = encoder.begin_compute_pass(&descriptor);
                    dispatch.record(&mut pass);
                    while let Some((Prepared::Dispatch(dispatch), _)) = steps.next_if(|(step, begins)| !**begins && step.is_dispatch()) {
                        dispatch.record(&mut pass);
                    }
                }
            }
        }
    }

    /// The same with a pass for each dispatch, and the time before and after each step.
    fn encode_timed(&self, encoder: &mut wgpu::CommandEncoder, clock: &Clock) {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Prepared::Copy { from, to, bytes } => {
                    clock.begin_copy(encoder, index);
                    encoder.copy_buffer_to_buffer(self.memory(*from), 0, self.memory(*to), 0, Some(*bytes as u64));
                    clock.end_copy(encoder, index);
                }
                Prepared::Dispatch(dispatch) => {
                    let timestamp_writes = clock.of_pass(index);
                    let descriptor = wgpu::ComputePassDescriptor { label: Some(&dispatch.label), timestamp_writes };
                    dispatch.record(&mut encoder.begin_compute_pass(&descriptor));
                }
            }
        }
        clock.resolve(encoder);
    }

    fn memory(&self, memory: Memory) -> &wgpu::Buffer {
        match memory {
            Memory::Piece(piece) => &self.bound[piece],
            Memory::Temporary(index) => &self.bound_temporaries[index],
        }
    }
}

impl Runtime for GpuRuntime {
    fn write_state(&mut self, name: &str, ty: &TensorType, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.len() != ty.byte_count() {
            return Err(EngineError::Size { name: name.into(), ty: ty.clone(), found: bytes.len() });
        }
        let known = self.states.get_mut(name).filter(|state| state.ty.byte_count() == bytes.len());
        if let Some(state) = known {
            // In the order of submissions: runs before this call see the old values.
            state.ty = ty.clone();
            if !bytes.is_empty() {
                let staging = Staging::upload(&self.device, bytes.len());
                staging.write([(0, bytes)].into_iter()).map_err(|message| self.error(message))?;
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
                let words = bytes.len().next_multiple_of(4) as u64;
                encoder.copy_buffer_to_buffer(&staging.buffer, 0, &self.states[name].buffer, 0, Some(words));
                self.submit_encoder(encoder);
            }
            return self.check(|| format!("writing `{name}`"));
        }
        let buffer = self.create_buffer(&format!("the state tensor `{name}` ({ty})"), bytes.len(), bytes)?;
        self.states.insert(name.into(), State { ty: ty.clone(), buffer });
        Ok(())
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<u8>, EngineError> {
        let state = self.states.get(name).ok_or_else(|| EngineError::UnknownState { name: name.into() })?;
        let bytes = state.ty.byte_count();
        let staging = Staging::readback(&self.device, bytes);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
        if bytes > 0 {
            encoder.copy_buffer_to_buffer(&state.buffer, 0, &staging.buffer, 0, Some(bytes.next_multiple_of(4) as u64));
        }
        staging.map_after(&encoder);
        let submission = self.submit_encoder(encoder);
        self.wait(Some(submission))?;
        staging.read(|all| all[..bytes].to_vec()).map_err(|message| self.error(message))
    }

    fn remove_state(&mut self, name: &str) {
        self.states.remove(name);
    }

    fn load(&mut self, plan: Arc<Plan>) -> Result<ProgramId, EngineError> {
        self.check_states(&plan)?;
        if plan.is_mixed() && !self.target.has_f16 {
            let (device, why) = (format!("the adapter {}", self.name), "has no f16 arithmetic".into());
            return Err(EngineError::NoMixedPrecision { program: plan.name.clone(), device, why });
        }
        let launches = launches(&plan, &self.target).map_err(|message| self.error(message))?;
        self.load_launches(plan, launches)
    }

    fn submit(&mut self, program: ProgramId, inputs: &[&[u8]], scalars: &[u32]) -> Result<Ticket, EngineError> {
        let plan = self.programs[program.0].plan.clone();
        self.check_states(&plan)?;
        for (port, bytes) in plan.inputs.iter().zip(inputs) {
            if bytes.len() != port.ty.byte_count() {
                return Err(EngineError::Size { name: port.name.clone(), ty: port.ty.clone(), found: bytes.len() });
            }
        }
        assert!(
            inputs.len() == plan.inputs.len() && scalars.len() == plan.scalars.len(),
            "the session gives all inputs and scalars of the plan"
        );
        self.refresh(program.0)?;
        let outcome = self.run(program.0, inputs, scalars)?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.results.len() == RESULTS_KEPT
            && let Some((_, oldest)) = self.results.pop_first()
        {
            self.collect(oldest)?;
        }
        self.results.insert(ticket, outcome);
        Ok(Ticket(ticket))
    }

    fn outputs(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>, EngineError> {
        let Some(outcome) = self.results.remove(&ticket.0) else {
            return Err(self
                .error(format!("the outputs of run {} are gone: the last {RESULTS_KEPT} runs are kept, each until it is read", ticket.0)));
        };
        self.collect(outcome)
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        self.in_flight.clear();
        self.wait(None)
    }

    fn memory_bytes(&self) -> usize {
        let states = self.states.values().map(|state| &state.buffer);
        let own = self.programs.iter().flat_map(|program| {
            let sources = program.sources.iter().filter_map(|source| match source {
                Source::Own(buffer) => Some(buffer),
                _ => None,
            });
            sources.chain(program.upload_ring.iter().chain(&program.readback_ring).map(|staging| &staging.buffer))
        });
        states.chain(own).chain(&self.slots).chain(&self.temporaries).map(|buffer| buffer.size() as usize).sum()
    }

    fn waited(&self) -> Duration {
        self.waited.get()
    }

    fn set_profiling(&mut self, enabled: bool) -> Result<(), EngineError> {
        if enabled && !self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(self.error(
                "it has no timestamp queries, so its kernels cannot be timed; profile the run with `--device cpu`, or on another adapter",
            ));
        }
        self.is_profiling = enabled;
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

impl GpuRuntime {
    /// Loads a plan whose launches are known.
    pub(super) fn load_launches(&mut self, plan: Arc<Plan>, launches: Launches) -> Result<ProgramId, EngineError> {
        let Launches { steps, kernel_of, temporaries } = launches;
        let (piece_of, piece_bytes) = pieces(&plan);
        let mut slots = std::mem::take(&mut self.slots);
        let mut temporary_pool = std::mem::take(&mut self.temporaries);
        let reserved = self.reserve_all(&plan, &piece_of, &piece_bytes, &temporaries, &mut slots, &mut temporary_pool);
        (self.slots, self.temporaries) = (slots, temporary_pool);
        let sources = reserved?;
        let bound = sources.iter().map(|source| self.current(source)).collect::<Result<Vec<_>, _>>()?;
        let bound_temporaries = self.temporaries[..temporaries.len()].to_vec();
        self.compile(&steps)?;
        let begins_pass = pass_starts(&steps);
        let mut prepared = Vec::with_capacity(steps.len());
        for step in steps {
            prepared.push(match step {
                Step::Copy { from, to, bytes } => Prepared::Copy { from, to, bytes },
                Step::Launch { label, wgsl, bindings, grid } => {
                    let (pipeline, layout) = (self.pipelines.get(&wgsl), self.pipelines.layout(&self.device, &bindings));
                    let group = bind_group(&self.device, &label, &layout, &bindings, &bound, &bound_temporaries);
                    self.check(|| format!("binding memory of `{label}`"))?;
                    Prepared::Dispatch(Dispatch { label, pipeline, layout, bindings, group, grid })
                }
            });
        }
        let mut uploads: Vec<(usize, usize, usize)> = Vec::new();
        let mut upload_bytes = 0;
        let scalars = plan.buffers.iter().position(|buffer| buffer.kind == BufferKind::Scalars);
        let inputs = plan.inputs.iter().map(|port| (port.buffer.index(), port.ty.byte_count()));
        // The scalars come last in any case: `run` zips the parts with the inputs.
        for (buffer, bytes) in inputs.chain(scalars.map(|buffer| (buffer, 4 * plan.scalars.len()))) {
            uploads.push((piece_of[buffer], upload_bytes, bytes));
            upload_bytes += bytes.next_multiple_of(4);
        }
        let mut downloads = Vec::new();
        let mut download_bytes = 0;
        for port in &plan.outputs {
            downloads.push((piece_of[port.buffer.index()], download_bytes, port.ty.byte_count()));
            download_bytes += port.ty.byte_count().next_multiple_of(4);
        }
        let ring = |count: usize, is_used: bool, make: &dyn Fn() -> Staging| {
            (0..if is_used { count } else { 0 }).map(|_| make()).collect::<Vec<_>>()
        };
        let upload_ring = ring(RUNS_IN_FLIGHT, !uploads.is_empty(), &|| Staging::upload(&self.device, upload_bytes));
        let readback_ring = ring(RUNS_IN_FLIGHT + 1, !downloads.is_empty(), &|| Staging::readback(&self.device, download_bytes));
        self.check(|| format!("allocating {upload_bytes} bytes for inputs and {download_bytes} bytes for outputs"))?;
        let readbacks_free = (0..readback_ring.len()).collect();
        let times = vec![(0, Duration::ZERO); plan.kernels.len()];
        self.programs.push(Program {
            plan,
            sources,
            bound,
            bound_temporaries,
            steps: prepared,
            begins_pass,
            uploads,
            downloads,
            upload_ring,
            readback_ring,
            readbacks_free,
            run_count: 0,
            kernel_of,
            times,
            clock: None,
        });
        Ok(ProgramId(self.programs.len() - 1))
    }

    /// Memory for every piece and temporary of a plan.
    fn reserve_all(
        &self,
        plan: &Plan,
        piece_of: &[usize],
        piece_bytes: &[usize],
        temporaries: &[usize],
        slots: &mut Vec<wgpu::Buffer>,
        temporary_pool: &mut Vec<wgpu::Buffer>,
    ) -> Result<Vec<Source>, EngineError> {
        for (index, &bytes) in temporaries.iter().enumerate() {
            self.reserve(temporary_pool, index, bytes, "partial results")?;
        }
        let mut sources: Vec<Option<Source>> = piece_bytes.iter().map(|_| None).collect();
        for (index, buffer) in plan.buffers.iter().enumerate() {
            let piece = piece_of[index];
            let bytes = piece_bytes[piece];
            sources[piece] = Some(match &buffer.kind {
                BufferKind::Scratch { .. } if buffer.elements == 0 => Source::Own(self.create_buffer("nothing", 0, &[])?),
                BufferKind::Scratch { slot } => {
                    self.reserve(slots, *slot, bytes, &described(plan, index))?;
                    Source::Slot(*slot)
                }
                BufferKind::State(name) => Source::State(name.clone()),
                BufferKind::Constant(literal) => Source::Own(self.create_buffer("a constant", bytes, &literal_bytes(literal))?),
                BufferKind::Input(_) | BufferKind::Output(_) | BufferKind::Scalars => {
                    Source::Own(self.create_buffer(&described(plan, index), bytes, &[])?)
                }
            });
        }
        Ok(sources.into_iter().map(|source| source.expect("every piece has a buffer")).collect())
    }
}

fn bind_group(
    device: &wgpu::Device,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    bindings: &[Binding],
    pieces: &[wgpu::Buffer],
    temporaries: &[wgpu::Buffer],
) -> wgpu::BindGroup {
    let entries: Vec<wgpu::BindGroupEntry> = bindings
        .iter()
        .enumerate()
        .map(|(index, binding)| {
            let buffer = match binding.memory {
                Memory::Piece(piece) => &pieces[piece],
                Memory::Temporary(temporary) => &temporaries[temporary],
            };
            wgpu::BindGroupEntry { binding: index as u32, resource: buffer.as_entire_binding() }
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries })
}

/// A buffer of a plan, for messages: by its name, or by the kernel that writes it.
fn described(plan: &Plan, index: usize) -> String {
    let buffer: &Buffer = &plan.buffers[index];
    let of_port = |ports: &[crate::kernel::Port], position: usize| {
        ports.get(position).map(|port| format!("`{}` ({})", port.name, port.ty)).unwrap_or_default()
    };
    match &buffer.kind {
        BufferKind::Input(position) => format!("the input {}", of_port(&plan.inputs, *position)),
        BufferKind::Output(position) => format!("the output {}", of_port(&plan.outputs, *position)),
        BufferKind::State(name) => format!("the state tensor `{name}`"),
        BufferKind::Scalars => "the runtime scalars".into(),
        BufferKind::Constant(_) => "a constant".into(),
        BufferKind::Scratch { .. } => {
            let writer = plan.kernels.iter().find(|kernel| kernel.op.writes().iter().any(|written| written.index() == index));
            let at = writer.map(|kernel| if kernel.location.is_empty() { String::new() } else { format!(" ({})", kernel.location) });
            let label = writer.map(|kernel| kernel.label.as_str()).unwrap_or("nobody");
            format!(
                "the result of `{label}`{} ({} {} elements, {} bytes)",
                at.unwrap_or_default(),
                buffer.elements,
                buffer.dtype,
                buffer_bytes(buffer)
            )
        }
    }
}

/// A constant as the device holds it.
fn literal_bytes(literal: &Literal) -> Vec<u8> {
    let values = (0..literal.ty.element_count()).map(|index| literal.value(index));
    match literal.ty.dtype {
        DType::F32 => values.flat_map(|value| (value as f32).to_le_bytes()).collect(),
        DType::I32 => values.flat_map(|value| (value as i32).to_le_bytes()).collect(),
        DType::U32 => values.flat_map(|value| (value as u32).to_le_bytes()).collect(),
        DType::Bool => values.flat_map(|value| u32::from(value != 0.0).to_le_bytes()).collect(),
        DType::U8 => values.map(|value| value as u8).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        let adapters = crate::gpu::adapters();
        adapters.into_iter().next().expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan")
    }

    /// A device that was made to want tensor cores; `open` is told whether it is asked for them.
    fn settled(is_wanted: bool, asks: bool, test: &dyn Fn(&mut GpuRuntime) -> Result<usize, String>) -> (GpuRuntime, Vec<bool>) {
        let adapter = adapter();
        let asked = Mutex::new(Vec::new());
        let open = |wanted: Target| {
            asked.lock().unwrap().push(wanted.has_tensor_cores);
            let has_tensor_cores = asks && wanted.has_tensor_cores;
            let opened = GpuRuntime::open_device(&adapter, Target { has_tensor_cores, ..wanted.clone() }, None)?;
            Ok(GpuRuntime { target: wanted, ..opened })
        };
        let runtime = GpuRuntime::settle(target(&adapter.handle, &Sources::built_in()), is_wanted, &open, test);
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        (runtime, asked.into_inner().unwrap())
    }

    /// Mixed products run on it all the same.
    fn works(runtime: &mut GpuRuntime) {
        assert!(!runtime.target.has_tensor_cores);
        let other = |trial: usize, candidates: &[crate::gpu::Choice]| Some(candidates[trial % candidates.len().min(2)]);
        assert!(cooperative::test_device(runtime, &other).is_ok());
    }

    #[test]
    fn a_device_without_tensor_cores_is_opened_once() {
        let (mut runtime, asked) = settled(false, true, &|_| panic!("there is nothing to test"));
        assert_eq!((runtime.tensor_cores(), asked), (&TensorCores::Absent, vec![false]));
        works(&mut runtime);
    }

    #[test]
    fn a_driver_that_refuses_the_feature_leaves_the_tiles() {
        if adapter().handle.features().contains(cooperative::FEATURES) {
            return;
        }
        let (mut runtime, asked) = settled(true, true, &|_| panic!("it was never opened"));
        assert_eq!(asked, [true, false]);
        assert!(matches!(runtime.tensor_cores(), TensorCores::Refused(why) if why.contains("eature")), "{}", runtime.tensor_cores());
        works(&mut runtime);
    }

    #[test]
    fn a_failed_self_test_leaves_the_tiles_and_says_so() {
        let (mut runtime, asked) = settled(true, false, &|_| Err("the self-test's 1 x 16x16 * 16x16 gave 8 at [0, 0], not 4".into()));
        assert_eq!(asked, [true, false]);
        let said = runtime.tensor_cores().to_string();
        assert_eq!(said, "tensor cores not used: the self-test's 1 x 16x16 * 16x16 gave 8 at [0, 0], not 4");
        works(&mut runtime);
    }

    #[test]
    fn a_kernel_that_does_not_compile_leaves_the_tiles() {
        // The device has not asked for the feature, so the kernels of tensor cores are refused when they are compiled.
        let (mut runtime, asked) = settled(true, false, &|runtime| {
            runtime.target.subgroup_size = runtime.target.subgroup_size.max(8);
            cooperative::test_device(runtime, &cooperative::pick_cooperative)
        });
        assert_eq!(asked, [true, false]);
        assert!(matches!(runtime.tensor_cores(), TensorCores::Refused(_)), "{}", runtime.tensor_cores());
        works(&mut runtime);
    }

    #[test]
    fn what_passes_is_used() {
        let (runtime, asked) = settled(true, false, &|_| Ok(144));
        assert_eq!((runtime.tensor_cores(), asked), (&TensorCores::Used { products: 144 }, vec![true]));
        assert!(runtime.target().has_tensor_cores);
    }
}
