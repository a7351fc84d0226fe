//! What an adapter reaches on its own: peak arithmetic, memory, and what launching costs. For `solstice devices --measure`, never for a run.
//!
//! The kernels here only keep the device busy. They are made from text in this file and not from `/shaders`, since no plan asks for them. Each
//! figure is the best of several, by the host's clock around work that takes long beside the way there and back.

use crate::EngineError;
use crate::gpu::adapter::Adapter;
use crate::gpu::cooperative::TensorCores;
use crate::gpu::runtime::GpuRuntime;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Work is made longer until it takes this.
const LONG_ENOUGH: Duration = Duration::from_millis(30);

/// Repetitions of which the best counts.
const REPETITIONS: usize = 5;

/// Dispatches of which the mean is what one costs.
const DISPATCHES: usize = 1000;

/// What one adapter reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// Fused multiply-adds of f32 in registers, two operations each, per second.
    pub f32_flops: f64,
    /// The same of f16 in pairs; `None` without f16 arithmetic.
    pub f16_flops: Option<f64>,
    /// `out = 2 in + out` over memory larger than caches: bytes read and written per second.
    pub memory_bytes_per_sec: f64,
    /// Seconds a dispatch when each waits for the one before it, encoding included.
    pub chained_dispatch_secs: f64,
    /// Seconds a dispatch when none waits for another, encoding included.
    pub independent_dispatch_secs: f64,
    /// Seconds of host time to encode and submit one dispatch.
    pub encode_secs: f64,
    /// Seconds from an empty submission to knowing that it is done.
    pub round_trip_secs: f64,
}

/// What the engine uses or may use, and whether the adapter has it.
pub fn features(adapter: &Adapter) -> Vec<(&'static str, bool)> {
    use wgpu::Features as F;
    let has = adapter.handle.features();
    [
        ("subgroup operations", F::SUBGROUP),
        ("f16 arithmetic", F::SHADER_F16),
        ("timestamps of passes", F::TIMESTAMP_QUERY),
        ("timestamps between commands", F::TIMESTAMP_QUERY_INSIDE_ENCODERS),
        ("pipeline cache", F::PIPELINE_CACHE),
        ("immediates", F::IMMEDIATES),
        ("mappable memory of the device", F::MAPPABLE_PRIMARY_BUFFERS),
        ("cooperative matrices", F::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ]
    .map(|(name, feature)| (name, has.contains(feature)))
    .to_vec()
}

/// Limits that kernels meet.
pub fn limits(adapter: &Adapter) -> Vec<(&'static str, u64)> {
    let (limits, info) = (adapter.handle.limits(), adapter.handle.get_info());
    vec![
        ("bytes in one buffer", limits.max_buffer_size),
        ("bytes in one binding", limits.max_storage_buffer_binding_size),
        ("buffers a kernel", limits.max_storage_buffers_per_shader_stage.into()),
        ("bytes shared by a workgroup", limits.max_compute_workgroup_storage_size.into()),
        ("invocations of a workgroup", limits.max_compute_invocations_per_workgroup.into()),
        ("workgroups along an axis", limits.max_compute_workgroups_per_dimension.into()),
        ("smallest subgroup", info.subgroup_min_size.into()),
        ("largest subgroup", info.subgroup_max_size.into()),
    ]
}

/// The matrix shapes of the adapter's tensor cores, `16x16x16 f16 -> f32`; empty without any.
pub fn tensor_cores(adapter: &Adapter) -> Vec<String> {
    let shapes = adapter.handle.cooperative_matrix_properties();
    let name = |ty: wgpu::CooperativeScalarType| format!("{ty:?}").to_lowercase();
    shapes
        .iter()
        .map(|shape| format!("{}x{}x{} {} -> {}", shape.m_size, shape.n_size, shape.k_size, name(shape.ab_type), name(shape.cr_type)))
        .collect()
}

/// Opens the adapter as a run does: whether mixed precision would run on its tensor cores, or what their self-test found.
///
/// Errors: `EngineError::Device` when the driver refuses the device.
pub fn tensor_core_test(adapter: &Adapter) -> Result<TensorCores, EngineError> {
    Ok(GpuRuntime::new(adapter)?.tensor_cores().clone())
}

/// Measures an adapter. Waits for the device; some seconds on one that computes in software.
///
/// Errors: `EngineError::Device` when the driver refuses the device, a kernel or memory.
pub fn reach(adapter: &Adapter) -> Result<Reach, EngineError> {
    let bench = Bench::open(adapter)?;
    let f16_flops = match bench.device.features().contains(wgpu::Features::SHADER_F16) {
        true => Some(bench.flops("f16")?),
        false => None,
    };
    let (chained_dispatch_secs, _) = bench.dispatches(1)?;
    let (independent_dispatch_secs, encode_secs) = bench.dispatches(DISPATCHES)?;
    Ok(Reach {
        f32_flops: bench.flops("f32")?,
        f16_flops,
        memory_bytes_per_sec: bench.memory()?,
        chained_dispatch_secs,
        independent_dispatch_secs,
        encode_secs,
        round_trip_secs: bench.best(|_| ())?,
    })
}

/// Vectors of four that an invocation keeps in registers: enough chains to hide how long one operation takes.
const CHAINS: usize = 8;
/// Operations of one chain in a turn of the loop.
const UNROLLED: usize = 8;
const WORKGROUP: usize = 256;
/// Some 500 thousand invocations, more than any chip of 2026 holds at once.
const WORKGROUPS: u32 = 2048;

/// Multiply-adds in registers. The number of turns comes from memory, so that no compiler can know the result; values stay near 1.
fn flops_wgsl(scalar: &str) -> String {
    let enable = if scalar == "f16" { "enable f16;\n" } else { "" };
    let over_chains = |line: &dyn Fn(usize) -> String| (0..CHAINS).map(line).collect::<String>();
    let begin = over_chains(&|k| format!("    var a{k} = vec4<{scalar}>({scalar}(id.x & 7u) + {scalar}({k}));\n"));
    let turn = over_chains(&|k| format!("        a{k} = fma(a{k}, m, b);\n")).repeat(UNROLLED);
    let sum = (0..CHAINS).map(|k| format!("a{k}")).collect::<Vec<_>>().join(" + ");
    format!(
        "{enable}@group(0) @binding(0) var<storage, read_write> out: array<f32>;\n\
         @group(0) @binding(1) var<storage, read> turns: array<u32>;\n\
         @compute @workgroup_size({WORKGROUP}) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{\n\
         {begin}    let m = vec4<{scalar}>({scalar}(turns[1]) * 0.5);\n    let b = vec4<{scalar}>(0.5);\n\
         \x20   for (var i = 0u; i < turns[0]; i++) {{\n{turn}    }}\n\
         \x20   let sum = {sum};\n    out[id.x & 1023u] = f32(sum.x + sum.y + sum.z + sum.w);\n}}\n"
    )
}

const MEMORY_WGSL: &str = "\
@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < arrayLength(&out); i += groups.x * 256u) {
        out[i] = 2.0 * input[i] + out[i];
    }
}
";

const SMALL_WGSL: &str = "\
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    out[id.x] += input[id.x];
}
";

struct Bench {
    name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    failure: Arc<Mutex<Option<String>>>,
}

impl Bench {
    fn open(adapter: &Adapter) -> Result<Bench, EngineError> {
        let request = wgpu::DeviceDescriptor {
            label: Some("solstice devices --measure"),
            required_features: adapter.handle.features() & wgpu::Features::SHADER_F16,
            required_limits: adapter.handle.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.handle.request_device(&request))
            .map_err(|error| EngineError::Device { device: adapter.name.clone(), message: error.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let kept = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
        }));
        Ok(Bench { name: adapter.name.clone(), device, queue, failure })
    }

    fn error(&self, message: String) -> EngineError {
        EngineError::Device { device: self.name.clone(), message }
    }

    fn check(&self) -> Result<(), EngineError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => Err(self.error(message)),
            None => Ok(()),
        }
    }

    /// Encodes with `fill` and submits; seconds until the device has done it.
    fn run(&self, fill: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<Duration, EngineError> {
        let begin = Instant::now();
        let mut encoder = self.device.create_command_encoder(&Default::default());
        fill(&mut encoder);
        let submission = self.queue.submit([encoder.finish()]);
        let poll = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        self.device.poll(poll).map_err(|error| self.error(error.to_string()))?; // Waits for the GPU.
        let took = begin.elapsed();
        self.check()?;
        Ok(took)
    }

    /// Seconds of the fastest of several; one before them warms up.
    fn best(&self, fill: impl Fn(&mut wgpu::CommandEncoder)) -> Result<f64, EngineError> {
        self.run(&fill)?;
        let mut best = f64::INFINITY;
        for _ in 0..REPETITIONS {
            best = best.min(self.run(&fill)?.as_secs_f64());
        }
        Ok(best)
    }

    fn buffer(&self, bytes: u64) -> Result<wgpu::Buffer, EngineError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false });
        self.check()?;
        Ok(buffer)
    }

    fn pipeline(&self, wgsl: String) -> Result<wgpu::ComputePipeline, EngineError> {
        let module =
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(wgsl.into()) });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        self.check()?;
        Ok(pipeline)
    }

    fn group(&self, pipeline: &wgpu::ComputePipeline, written: &wgpu::Buffer, read: &wgpu::Buffer) -> wgpu::BindGroup {
        let entries = [
            wgpu::BindGroupEntry { binding: 0, resource: written.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: read.as_entire_binding() },
        ];
        let layout = pipeline.get_bind_group_layout(0);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
    }

    /// Operations per second of multiply-adds of `scalar` in registers.
    fn flops(&self, scalar: &str) -> Result<f64, EngineError> {
        let pipeline = self.pipeline(flops_wgsl(scalar))?;
        let (out, turns) = (self.buffer(4096)?, self.buffer(16)?);
        let group = self.group(&pipeline, &out, &turns);
        let (mut turn_count, mut workgroups) = (1u32, WORKGROUPS);
        loop {
            let words: Vec<u8> = [turn_count, 1, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
            self.queue.write_buffer(&turns, 0, &words);
            let launch = |encoder: &mut wgpu::CommandEncoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(workgroups, 1, 1);
            };
            let took = self.run(launch)?;
            if took < LONG_ENOUGH && turn_count < 1 << 20 {
                turn_count *= 2;
                continue;
            }
            if took > 20 * LONG_ENOUGH && workgroups > 64 {
                // A slow device: fewer invocations keep it as busy.
                workgroups /= 8;
                continue;
            }
            let operations = 2 * 4 * CHAINS * UNROLLED * WORKGROUP;
            return Ok(operations as f64 * f64::from(workgroups) * f64::from(turn_count) / self.best(launch)?);
        }
    }

    /// Bytes per second of a stream through memory.
    fn memory(&self) -> Result<f64, EngineError> {
        // 256 MiB lie beyond every cache; what a binding holds may be less.
        let limits = self.device.limits();
        let bytes = (256 << 20).min(limits.max_buffer_size).min(limits.max_storage_buffer_binding_size) / 16 * 16;
        let pipeline = self.pipeline(MEMORY_WGSL.into())?;
        let (out, input) = (self.buffer(bytes)?, self.buffer(bytes)?);
        let group = self.group(&pipeline, &out, &input);
        let workgroups = (bytes / 16).div_ceil(256).min(16_384) as u32;
        let secs = self.best(|encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(workgroups, 1, 1);
        })?;
        Ok(3.0 * bytes as f64 / secs)
    }

    /// Seconds of one of many small dispatches in one pass, and of the host's part of it. They write `buffer_count` buffers in turn: with one, each
    /// waits for the one before it; with as many as dispatches, none waits.
    fn dispatches(&self, buffer_count: usize) -> Result<(f64, f64), EngineError> {
        let pipeline = self.pipeline(SMALL_WGSL.into())?;
        let input = self.buffer(256)?;
        let groups =
            (0..buffer_count).map(|_| Ok(self.group(&pipeline, &self.buffer(256)?, &input))).collect::<Result<Vec<_>, EngineError>>()?;
        let fill = |encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            for index in 0..DISPATCHES {
                pass.set_bind_group(0, &groups[index % buffer_count], &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        };
        let whole = self.best(fill)?;
        let mut host = f64::INFINITY;
        for _ in 0..REPETITIONS {
            let begin = Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            fill(&mut encoder);
            self.queue.submit([encoder.finish()]);
            host = host.min(begin.elapsed().as_secs_f64());
            self.run(|_| ())?;
        }
        Ok((whole / DISPATCHES as f64, host / DISPATCHES as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_are_wgsl_that_every_device_takes() {
        for text in [flops_wgsl("f32"), flops_wgsl("f16"), MEMORY_WGSL.into(), SMALL_WGSL.into()] {
            let module = wgpu::naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&text)));
            let mut validator = wgpu::naga::valid::Validator::new(Default::default(), wgpu::naga::valid::Capabilities::all());
            validator.validate(&module).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        }
    }

    #[test]
    fn an_adapter_tells_what_it_reaches() {
        let adapters = crate::gpu::adapters();
        let adapter = adapters.first().expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
        let reach = reach(adapter).unwrap_or_else(|error| panic!("{error}"));
        // Any processor since 2010 does a billion operations a second, none of 2026 a hundred quadrillion.
        assert!((1e9..1e17).contains(&reach.f32_flops), "{reach:?}");
        assert!((1e7..1e14).contains(&reach.memory_bytes_per_sec), "{reach:?}");
        assert!(reach.chained_dispatch_secs > 0.0 && reach.round_trip_secs > 0.0, "{reach:?}");
        assert!(limits(adapter).iter().all(|(name, value)| *value > 0 || name.contains("subgroup")), "{:?}", limits(adapter));
    }
}
