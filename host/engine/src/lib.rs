//! The engine: graph in, arrays out. No files, no plugins, no UI.
//!
//! `verify -> grad -> lower -> simplify -> fuse -> precision -> plan -> device`: functions from value to value. [`compile`] runs the passes, `kernel.rs` says what a
//! plan is, [`Session`] holds state and runs programs, `reference.rs` is the f64 oracle.

mod attention;
mod cache;
mod compile;
pub mod cost;
pub mod cpu;
mod dataflow;
pub mod device;
mod error;
mod fuse;
pub mod gpu;
pub mod grad;
mod group;
pub mod init;
pub mod kernel;
pub mod loss_scale;
pub mod lower;
mod plan;
mod precision;
pub mod random;
pub mod reference;
pub mod roof;
mod session;
pub mod simplify;

pub use cache::DeviceCache;
pub use compile::{CompileOptions, Stages, compile};
pub use error::EngineError;
pub use kernel::Plan;
pub use precision::Precision;
pub use session::{KernelSpan, KernelTime, ProgramId, Runtime, Session, Ticket};
