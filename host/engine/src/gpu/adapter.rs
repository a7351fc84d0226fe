//! The adapters of this machine as wgpu sees them.

use crate::gpu::launch::Target;
use crate::gpu::{Sources, Tuning};
use std::sync::OnceLock;

/// One adapter: what a person wants to know about it, and the handle that [`crate::gpu::GpuRuntime`] opens.
pub struct Adapter {
    pub(super) handle: wgpu::Adapter,
    /// As the driver calls it: `NVIDIA H100`, `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`.
    pub backend: String,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `software`, `other`.
    pub device_type: String,
    /// Driver and its version; may be empty.
    pub driver: String,
    /// A program on the CPU.
    pub is_software: bool,
    /// The limits that training meets first, for people.
    pub limits: String,
}

impl Adapter {
    /// Adapter, driver and engine in one line: what is made for one identity is of no use to another.
    pub fn identity(&self) -> String {
        let info = self.handle.get_info();
        let (engine, ids) = (env!("CARGO_PKG_VERSION"), format!("{:04x}:{:04x}", info.vendor, info.device));
        [engine, &self.backend, &ids, &self.name, &self.driver].map(|part| part.replace(char::is_control, " ")).join(" | ")
    }
}

/// All adapters, in the driver's order; empty when there is no driver.
pub fn adapters() -> Vec<Adapter> {
    // Loading the drivers is the slow part; once a process is enough.
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    let instance = INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // Only debug layers hang on the flags; wgpu's own validation stays.
        descriptor.flags = wgpu::InstanceFlags::empty();
        wgpu::Instance::new(descriptor)
    });
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    pollster::block_on(instance.enumerate_adapters(backends)).into_iter().map(described).collect()
}

fn described(handle: wgpu::Adapter) -> Adapter {
    let info = handle.get_info();
    let limits = handle.limits();
    let device_type = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    let mebibytes = |bytes: u64| bytes >> 20;
    Adapter {
        name: info.name,
        backend: info.backend.to_str().to_owned(),
        device_type: device_type.to_owned(),
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        is_software: info.device_type == wgpu::DeviceType::Cpu,
        limits: format!(
            "tensors up to {} MiB, {} buffers a kernel, subgroups of {} to {}, {}",
            mebibytes(limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)),
            limits.max_storage_buffers_per_shader_stage,
            info.subgroup_min_size,
            info.subgroup_max_size,
            if handle.features().contains(wgpu::Features::SHADER_F16) { "f16" } else { "no f16" }
        ),
        handle,
    }
}

/// What the shader texts depend on.
pub(super) fn target(adapter: &wgpu::Adapter, sources: &Sources) -> Target {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let has_subgroups = adapter.features().contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size;
    let is_software = info.device_type == wgpu::DeviceType::Cpu;
    Target {
        is_software,
        loop_steps_max: if is_software { 60_000 } else { usize::MAX },
        subgroup_size: if has_subgroups { info.subgroup_min_size as usize } else { 1 },
        storage_buffers_max: limits.max_storage_buffers_per_shader_stage as usize,
        has_f16: adapter.features().contains(wgpu::Features::SHADER_F16),
        has_tensor_cores: false,
        groups_max: limits.max_compute_workgroups_per_dimension as usize,
        workgroup_bytes_max: limits.max_compute_workgroup_storage_size as usize,
        tuning: Tuning::default(),
        sources: sources.clone(),
    }
}
