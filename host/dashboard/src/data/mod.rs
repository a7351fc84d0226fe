//! What the dashboard knows of runs, without a window: it follows runs folders on a thread of its own and publishes immutable snapshots.
//!
//! [`Library`] owns the thread. A reader takes [`Library::snapshot`] once a frame (one atomic load, no lock) and draws from it: a [`Snapshot`] of
//! [`Run`]s, each with its [`Series`]. [`RunData`] is the part that follows one run; `solstice watch` uses it alone. Nothing here changes a run
//! but the commands and labels that are sent through [`Library::send`] and [`Library::set_label`], and the deletions of [`Library::trash`].
//!
//! Runs of another machine are mirrored into a folder here by [`Remote`], over ssh; [`serve`] is the other end.
//! [`Workshop`] is the same for what new runs can be made of: it asks a [`Host`] on a thread of its own and publishes a [`Catalog`].
//!
//! Read next: `series.rs` for the points, `run.rs` for one run, `library.rs` for the thread; `host.rs` and `catalog.rs` for new runs; `wire.rs` for
//! far away.

mod cache;
mod catalog;
mod host;
mod library;
#[cfg(feature = "window")]
mod media;
mod remote;
mod run;
mod series;
mod stream;
mod wire;

pub use catalog::{Catalog, Checked, Component, Curve, Device, Launched, Outcome, PluginFile, Problem, RecipeFile, Report, Workshop};
pub use host::{Answer, Host, LocalHost};
pub use library::{DELETE, LABEL, Library, Outbox, RESTORE, SAVE, SentCommand, SentState, Snapshot, Trashed, save_beside};
#[cfg(feature = "window")]
pub use media::{Item, Listing, Media, MediaKey, MediaReader, MediaRow, Picture, SIDE_MAX, Saved, Want, picture};
pub use remote::{Hosts, Remote, RemoteOptions};
pub use run::{LATEST_TABLES, LATEST_TEXTS, Run, RunData};
pub use series::{Column, Detail, Point, Series, XAxis};
pub use stream::{COMMANDS, serve};
pub use wire::{PROTOCOL, START, Timing};
