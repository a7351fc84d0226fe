//! Which device to run on: the list for people, and the choice.
//!
//! The native CPU device is always there and comes first. Software adapters (Mesa's llvmpipe) run the GPU's shaders on the CPU, far slower than the native
//! device; they are used only when asked for.

use crate::cpu::CpuRuntime;
use crate::gpu::{self, Adapter, GpuRuntime, Measured, Sources, TensorCores, Tuning, adapters};
use crate::{DeviceCache, EngineError, Plan, Runtime};
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

/// What the user asked for: `auto`, `cpu`, `gpu` or a part of an adapter's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceRequest {
    /// A hardware GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The native CPU device.
    Cpu,
    /// A hardware GPU if there is one, else a software adapter.
    Gpu,
    /// The adapter whose name holds this text, whatever the case of its letters.
    Named(String),
}

impl FromStr for DeviceRequest {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<DeviceRequest, Infallible> {
        Ok(match text.trim().to_lowercase().as_str() {
            "" | "auto" => DeviceRequest::Auto,
            "cpu" => DeviceRequest::Cpu,
            "gpu" => DeviceRequest::Gpu,
            _ => DeviceRequest::Named(text.trim().to_owned()),
        })
    }
}

/// A device that could be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the processor or adapter.
    pub name: String,
    /// `native`, `vulkan`, `metal`, `dx12`.
    pub backend: String,
    /// `CPU`, `discrete GPU`, `integrated GPU`, `virtual GPU`, `software`, `other`.
    pub device_type: String,
    /// Driver and its version; empty for the CPU.
    pub driver: String,
    /// Runs shaders on the CPU.
    pub is_software: bool,
    /// Threads of the CPU device; 0 for adapters.
    pub threads: usize,
    /// The limits that training meets first.
    pub limits: String,
    /// Which measured choices its kernels follow; empty where rules of thumb do.
    pub tuning: String,
    /// Whether mixed precision runs on tensor cores, or why not; empty where there are none or the device was not opened.
    pub tensor_cores: String,
}

/// What a device is opened with.
#[derive(Clone, Default)]
pub struct DeviceOptions {
    /// Shader files of one's own; the CPU needs none.
    pub sources: Sources,
    /// Where compiled kernels and measured choices are kept; `None` keeps nothing.
    pub cache: Option<Arc<dyn DeviceCache>>,
}

/// All devices of this machine, the CPU first.
///
/// Cost: asks every driver; about 0.1 s.
pub fn devices() -> Vec<DeviceInfo> {
    let adapters = adapters();
    std::iter::once(cpu_info()).chain(adapters.iter().map(adapter_info)).collect()
}

/// Opens the device that `request` means.
///
/// Errors: `EngineError::NoDevice` when there is none, or several answer to the name; the sentence lists what there is and says what to do.
pub fn open(request: &DeviceRequest) -> Result<(Box<dyn Runtime>, DeviceInfo), EngineError> {
    open_with(request, &DeviceOptions::default())
}

/// The same with options.
pub fn open_with(request: &DeviceRequest, options: &DeviceOptions) -> Result<(Box<dyn Runtime>, DeviceInfo), EngineError> {
    let Some(adapter) = chosen(request)? else { return open_cpu() };
    let runtime = match &options.cache {
        Some(cache) => GpuRuntime::with_cache(&adapter, &options.sources, cache)?,
        None => GpuRuntime::with_sources(&adapter, &options.sources)?,
    };
    let tuning = &runtime.target().tuning;
    let tuning = if tuning.is_empty() { String::new() } else { tuning.stamp() };
    let tensor_cores = match runtime.tensor_cores() {
        TensorCores::Absent => String::new(),
        told => told.to_string(),
    };
    Ok((Box::new(runtime), DeviceInfo { tuning, tensor_cores, ..adapter_info(&adapter) }))
}

/// Measures how the products of `plans` run best on the device, and keeps that in the options' cache for those who open it later. What is kept already stays,
/// unless `again`.
///
/// Errors: `EngineError::NoDevice` for the CPU, which has nothing to choose; those of the device.
pub fn tune(
    request: &DeviceRequest,
    options: &DeviceOptions,
    plans: &[&Plan],
    again: bool,
    report: &mut dyn FnMut(&Measured),
) -> Result<DeviceInfo, EngineError> {
    let adapter = chosen(request)?.ok_or_else(|| {
        EngineError::NoDevice(
            "the CPU device chooses its kernels by itself; name a GPU, as in `--device gpu`, to measure its kernels".into(),
        )
    })?;
    let known = options.cache.as_ref().filter(|_| !again).map(|cache| Tuning::load(&**cache, &adapter));
    let mut tuning = known.unwrap_or_default();
    for plan in plans {
        tuning = gpu::tune(&adapter, &options.sources, plan, &tuning, report)?;
    }
    if let Some(cache) = &options.cache {
        tuning.save(&**cache, &adapter);
    }
    Ok(DeviceInfo { tuning: tuning.stamp(), ..adapter_info(&adapter) })
}

/// The adapter that a request means; `None` for the CPU.
fn chosen(request: &DeviceRequest) -> Result<Option<Adapter>, EngineError> {
    if *request == DeviceRequest::Cpu {
        return Ok(None);
    }
    let adapters = adapters();
    let hardware = adapters.iter().position(|adapter| !adapter.is_software);
    let index = match request {
        DeviceRequest::Cpu | DeviceRequest::Auto => hardware,
        DeviceRequest::Gpu if adapters.is_empty() => return Err(EngineError::NoDevice(NO_ADAPTER.into())),
        DeviceRequest::Gpu => Some(hardware.unwrap_or(0)),
        DeviceRequest::Named(name) => Some(named(name, &adapters)?),
    };
    Ok(index.and_then(|index| adapters.into_iter().nth(index)))
}

/// The adapter that `request` means, unopened, for [`crate::gpu::check`].
///
/// Errors: those of [`open`], and `EngineError::NoDevice` where `request` means the CPU.
pub fn adapter(request: &DeviceRequest) -> Result<(Adapter, DeviceInfo), EngineError> {
    let adapter = chosen(request)?.ok_or_else(|| {
        EngineError::NoDevice("this looks at adapters, and the request means the CPU: ask for `gpu` or part of an adapter's name".into())
    })?;
    let info = adapter_info(&adapter);
    Ok((adapter, info))
}

const NO_ADAPTER: &str = "no GPU was found: Vulkan, Metal and DirectX 12 list no adapter; install the GPU's driver, or \
                          `apt-get install mesa-vulkan-drivers` for Vulkan in software, or use `--device cpu`";

/// Index of the one adapter whose name holds `name`; several of the same name count as one.
fn named(name: &str, adapters: &[Adapter]) -> Result<usize, EngineError> {
    if adapters.is_empty() {
        return Err(EngineError::NoDevice(format!("no adapter `{name}`: {NO_ADAPTER}")));
    }
    let wanted = name.to_lowercase();
    let matches: Vec<usize> = (0..adapters.len()).filter(|&index| adapters[index].name.to_lowercase().contains(&wanted)).collect();
    let list =
        |adapters: &mut dyn Iterator<Item = &Adapter>| adapters.map(|adapter| format!("`{}`", adapter.name)).collect::<Vec<_>>().join(", ");
    match matches.as_slice() {
        [] => {
            let all = list(&mut adapters.iter());
            Err(EngineError::NoDevice(format!("no adapter is called `{name}`; there is {all}; `auto`, `cpu` and `gpu` work too")))
        }
        [first, rest @ ..] if rest.iter().all(|&other| adapters[other].name == adapters[*first].name) => Ok(*first),
        several => {
            let several = list(&mut several.iter().map(|&index| &adapters[index]));
            Err(EngineError::NoDevice(format!("several adapters are called `{name}`: {several}; give more of the name")))
        }
    }
}

fn open_cpu() -> Result<(Box<dyn Runtime>, DeviceInfo), EngineError> {
    let runtime = CpuRuntime::new(None)?;
    let info = DeviceInfo { threads: runtime.threads(), ..cpu_info() };
    Ok((Box::new(runtime), info))
}

fn cpu_info() -> DeviceInfo {
    let threads = std::thread::available_parallelism().map(usize::from).unwrap_or(1);
    DeviceInfo {
        name: processor_name(),
        backend: "native".into(),
        device_type: "CPU".into(),
        driver: String::new(),
        is_software: false,
        threads,
        limits: format!("{threads} threads, tensors as large as memory"),
        tuning: String::new(),
        tensor_cores: String::new(),
    }
}

/// The processor's own name where the system tells it, else its architecture.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(':').nth(1));
    name.map(|name| name.trim().to_owned()).unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH))
}

fn adapter_info(adapter: &Adapter) -> DeviceInfo {
    DeviceInfo {
        name: adapter.name.clone(),
        backend: adapter.backend.clone(),
        device_type: adapter.device_type.clone(),
        driver: adapter.driver.clone(),
        is_software: adapter.is_software,
        threads: 0,
        limits: adapter.limits.clone(),
        tuning: String::new(),
        tensor_cores: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_users_write_them() {
        let read = |text: &str| text.parse::<DeviceRequest>();
        assert_eq!(read("auto"), Ok(DeviceRequest::Auto));
        assert_eq!(read(" CPU "), Ok(DeviceRequest::Cpu));
        assert_eq!(read("gpu"), Ok(DeviceRequest::Gpu));
        assert_eq!(read("RTX 4090"), Ok(DeviceRequest::Named("RTX 4090".into())));
    }

    #[test]
    fn the_cpu_comes_first_and_opens() {
        let all = devices();
        assert_eq!(all[0].backend, "native");
        let (_, info) = open(&DeviceRequest::Cpu).expect("the CPU is always there");
        assert!(info.threads >= 1);
    }

    #[test]
    fn an_unknown_name_says_what_there_is() {
        let Err(error) = open(&DeviceRequest::Named("no such adapter".into())) else { panic!("no adapter has this name") };
        assert!(error.to_string().contains("no such adapter"), "{error}");
    }
}
