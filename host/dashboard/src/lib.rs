//! The dashboard: what it knows of runs ([`data`]), and the window over it ([`gui`]).
//!
//! Read next: `data/mod.rs`, then `gui/mod.rs`.

pub mod data;
#[cfg(feature = "window")]
pub mod gui;
