//! The GPU device: a plan as WGSL compute shaders, run through wgpu. The only place that names wgpu.
//!
//! `launch.rs` turns a plan into launches (plain data: shader text, buffers, grid), with `map.rs`, `reduce.rs`, `dot.rs` and `indexing.rs` for the kernels,
//! `emit.rs` for the generated bodies, `template.rs` and `sources.rs` for the files of `/shaders`; `group.rs` puts small launches beside each other into one,
//! `chain.rs` tiny ones behind each other, and `wave.rs` finds those that need not wait. `adapter.rs` finds devices, `runtime.rs` holds memory and runs programs, `pipelines.rs` compiles them, `staging.rs`
//! moves bytes in and out, `profile.rs` times kernels, `tune.rs` measures which tiles products should take, `check.rs` measures an adapter apart from any
//! plan, `cooperative.rs` tests its tensor cores. It does not choose kernels' order or memory: that is the plan's.

mod adapter;
mod attention;
mod chain;
pub mod check;
mod cooperative;
mod dot;
mod emit;
mod group;
mod indexing;
mod inspect;
mod launch;
mod map;
mod pipelines;
mod profile;
mod reduce;
mod rows;
mod runtime;
mod sources;
mod staging;
mod template;
mod tune;
mod wave;

pub use adapter::{Adapter, adapters};
pub use cooperative::TensorCores;
pub use dot::Choice;
pub use inspect::{shaders, validate};
pub use launch::{Launches, Memory, Step, Target, choices, launches};
pub use runtime::GpuRuntime;
pub use sources::{FILES, Sources, development_dir};
pub use tune::{Measured, Tuning, tune};

/// The shader grammar's own checker, for tests that read every shader without a device.
pub use wgpu::naga;
