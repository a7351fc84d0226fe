//! [`Pipelines`]: every kernel's text compiled once, several at a time, and what the driver has compiled kept from process to process.

use crate::cache::{DeviceCache, checksum, name, opened, sealed};
use crate::gpu::launch::Binding;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A kept cache beyond this is begun anew: it only grows, by the kernels of every model that was ever trained.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// A kernel that is to be compiled.
pub struct Wanted<'a> {
    /// For the driver's tools.
    pub label: &'a str,
    /// The text.
    pub wgsl: &'a str,
    /// Its bindings.
    pub bindings: &'a [Binding],
}

/// Layouts and pipelines of one device.
pub struct Pipelines {
    compiled: HashMap<String, wgpu::ComputePipeline>,
    /// By the access of each binding: is it written?
    layouts: HashMap<Vec<bool>, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    kept: Option<Kept>,
}

/// The driver's cache, and where it is kept.
struct Kept {
    cache: wgpu::PipelineCache,
    store: Arc<dyn DeviceCache>,
    identity: String,
    /// Checksum of what the store holds.
    saved: u64,
}

impl Pipelines {
    /// What is asked of an adapter that has it; without it drivers keep what they compile themselves, or nobody does.
    pub const FEATURES: wgpu::Features = wgpu::Features::PIPELINE_CACHE;

    /// Nothing compiled yet. `identity` names adapter, driver and engine: what another has kept is not taken.
    pub fn new(device: &wgpu::Device, store: Option<Arc<dyn DeviceCache>>, identity: &str) -> Pipelines {
        let store = store.filter(|_| device.features().contains(Pipelines::FEATURES));
        let kept = store.map(|store| {
            let all = store.load(&name("pipelines", identity)).filter(|all| all.len() <= KEPT_BYTES_MAX);
            let data = all.as_deref().and_then(|all| opened(identity, all));
            let saved = data.map_or(0, checksum);
            Kept { cache: driver_cache(device, data), store, identity: identity.to_owned(), saved }
        });
        Pipelines { compiled: HashMap::new(), layouts: HashMap::new(), kept }
    }

    /// Layout of a kernel's bindings.
    pub fn layout(&mut self, device: &wgpu::Device, bindings: &[Binding]) -> wgpu::BindGroupLayout {
        self.layouts_of(device, bindings).0.clone()
    }

    fn layouts_of(&mut self, device: &wgpu::Device, bindings: &[Binding]) -> &(wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let access: Vec<bool> = bindings.iter().map(|binding| binding.is_written).collect();
        self.layouts.entry(access).or_insert_with_key(|access| {
            let entry = |(index, is_written): (usize, &bool)| wgpu::BindGroupLayoutEntry {
                binding: index as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !is_written },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            let entries: Vec<wgpu::BindGroupLayoutEntry> = access.iter().enumerate().map(entry).collect();
            let groups = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&groups)],
                immediate_size: 0,
            });
            (groups, layout)
        })
    }

    /// Compiles what is not compiled yet, on all cores. What goes wrong is reported to the device's error handler.
    pub fn compile(&mut self, device: &wgpu::Device, wanted: &[Wanted]) {
        let mut seen = HashSet::new();
        let new: Vec<&Wanted> =
            wanted.iter().filter(|kernel| !self.compiled.contains_key(kernel.wgsl) && seen.insert(kernel.wgsl)).collect();
        let new: Vec<(&Wanted, wgpu::PipelineLayout)> =
            new.into_iter().map(|kernel| (kernel, self.layouts_of(device, kernel.bindings).1.clone())).collect();
        let cache = self.kept.as_ref().map(|kept| &kept.cache);
        let compile = |(kernel, layout): &(&Wanted, wgpu::PipelineLayout)| {
            let label = Some(kernel.label);
            let source = wgpu::ShaderSource::Wgsl(kernel.wgsl.into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(layout),
                module: &module,
                entry_point: Some("main"),
                // Every kernel writes workgroup memory before it reads it.
                compilation_options: wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() },
                cache,
            });
            (kernel.wgsl.to_owned(), pipeline)
        };
        let compiled: Vec<(String, wgpu::ComputePipeline)> = new.par_iter().map(compile).collect();
        self.compiled.extend(compiled);
    }

    /// The pipeline of a text that was compiled.
    pub fn get(&self, wgsl: &str) -> wgpu::ComputePipeline {
        self.compiled.get(wgsl).expect("a kernel is compiled before it is asked for").clone()
    }

    /// Forgets texts, after one of them was not valid or when they are no longer of use.
    pub fn clear(&mut self) {
        self.compiled.clear();
    }

    /// Keeps what the driver has compiled, if that is more than what is kept already.
    pub fn save(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        let Some(data) = kept.cache.get_data() else { return };
        let sum = checksum(&data);
        if sum != kept.saved && data.len() <= KEPT_BYTES_MAX {
            kept.store.save(&name("pipelines", &kept.identity), &sealed(&kept.identity, &data));
            kept.saved = sum;
        }
    }
}

/// The driver's cache, filled with what an earlier process got from it.
#[allow(unsafe_code)]
fn driver_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("solstice"), data, fallback: true };
    // SAFETY: `data` is what `PipelineCache::get_data` returned in a process with the same adapter, driver and engine, unchanged: `opened` compares the
    // identity and a checksum, and wgpu and the driver check their own headers and fall back to an empty cache.
    unsafe { device.create_pipeline_cache(&descriptor) }
}
