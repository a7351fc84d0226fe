//! Which device to run on: the list for people, and the choice.
//!
//! The native CPU device is always there and comes first. Software adapters (Mesa's llvmpipe) run the GPU's shaders on the CPU, far slower than the native
//! device; they are used only when asked for.

use crate::cpu::CpuRuntime;
use crate::gpu::{Adapter, GpuRuntime, Sources, adapters};
use crate::{EngineError, Runtime};
use std::convert::Infallible;
use std::str::FromStr;

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
    open_with(request, &Sources::built_in())
}

/// The same with shader files of one's own; the CPU needs none.
pub fn open_with(request: &DeviceRequest, sources: &Sources) -> Result<(Box<dyn Runtime>, DeviceInfo), EngineError> {
    if *request == DeviceRequest::Cpu {
        return open_cpu();
    }
    let adapters = adapters();
    match chosen(request, &adapters)? {
        Some(adapter) => Ok((Box::new(GpuRuntime::with_sources(adapter, sources)?), adapter_info(adapter))),
        None => open_cpu(),
    }
}

/// The adapter that `request` means, unopened, for [`crate::gpu::check`].
///
/// Errors: those of [`open`], and `EngineError::NoDevice` where `request` means the CPU.
pub fn adapter(request: &DeviceRequest) -> Result<(Adapter, DeviceInfo), EngineError> {
    let adapters = adapters();
    let chosen = chosen(request, &adapters)?.map(|adapter| adapter_info(adapter)).ok_or_else(|| {
        EngineError::NoDevice("this looks at adapters, and the request means the CPU: ask for `gpu` or part of an adapter's name".into())
    })?;
    let mut adapters = adapters.into_iter();
    let adapter = adapters.find(|adapter| adapter_info(adapter) == chosen).expect("the chosen one is among them");
    Ok((adapter, chosen))
}

/// `None` stands for the CPU.
fn chosen<'a>(request: &DeviceRequest, adapters: &'a [Adapter]) -> Result<Option<&'a Adapter>, EngineError> {
    let hardware = || adapters.iter().find(|adapter| !adapter.is_software);
    match request {
        DeviceRequest::Cpu => Ok(None),
        DeviceRequest::Auto => Ok(hardware()),
        DeviceRequest::Gpu => hardware().or(adapters.first()).map(Some).ok_or_else(|| EngineError::NoDevice(NO_ADAPTER.into())),
        DeviceRequest::Named(name) => named(name, adapters).map(Some),
    }
}

const NO_ADAPTER: &str = "no GPU was found: Vulkan, Metal and DirectX 12 list no adapter; install the GPU's driver, or \
                          `apt-get install mesa-vulkan-drivers` for Vulkan in software, or use `--device cpu`";

/// The one adapter whose name holds `name`; several of the same name count as one.
fn named<'a>(name: &str, adapters: &'a [Adapter]) -> Result<&'a Adapter, EngineError> {
    if adapters.is_empty() {
        return Err(EngineError::NoDevice(format!("no adapter `{name}`: {NO_ADAPTER}")));
    }
    let wanted = name.to_lowercase();
    let matches: Vec<&Adapter> = adapters.iter().filter(|adapter| adapter.name.to_lowercase().contains(&wanted)).collect();
    let list =
        |adapters: &mut dyn Iterator<Item = &Adapter>| adapters.map(|adapter| format!("`{}`", adapter.name)).collect::<Vec<_>>().join(", ");
    match matches.as_slice() {
        [] => {
            let all = list(&mut adapters.iter());
            Err(EngineError::NoDevice(format!("no adapter is called `{name}`; there is {all}; `auto`, `cpu` and `gpu` work too")))
        }
        [first, rest @ ..] if rest.iter().all(|other| other.name == first.name) => Ok(first),
        several => {
            let several = list(&mut several.iter().copied());
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
