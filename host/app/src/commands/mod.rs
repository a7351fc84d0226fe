//! One file a command.

pub mod bench;
pub mod bench_loop;
pub mod check;
pub mod cross_validate;
pub mod ctl;
pub mod dashboard;
pub mod describe;
pub mod devices;
pub mod eval;
pub mod export;
pub mod follow;
pub mod inspect;
pub mod plugin_new;
pub mod plugins;
pub mod runs;
pub mod summary;
pub mod sweep;
pub mod train;
pub mod watch_run;

use crate::assemble::Assembly;
use crate::cli::{DataArgs, RecipeArgs};
use crate::loader::{self, Catalog};
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::recipe::Recipe;
use anyhow::Result;
use solstice_plugin_abi::wire::HostInfo;
use std::path::PathBuf;

/// The recipe of a command line with its `--set` applied, and the plugins to make it with.
pub fn assemble(args: &RecipeArgs) -> Result<Assembly, Exit> {
    let mut recipe = Recipe::from_file(&args.recipe).or_exit(exit::USAGE)?;
    for assignment in &args.set {
        recipe.set(assignment).or_exit(exit::USAGE)?;
    }
    let catalog = catalog(&args.data).or_exit(exit::FAILED)?;
    Assembly::new(&recipe, &catalog).or_exit(exit::USAGE)
}

/// The plugins, told where data is.
pub fn catalog(data: &DataArgs) -> Result<Catalog> {
    catalog_of(&[], data)
}

/// The same, with more files or folders to look at.
pub fn catalog_of(paths: &[PathBuf], data: &DataArgs) -> Result<Catalog> {
    let data_dir = data.data_dir.clone().or_else(|| std::env::var_os("SOLSTICE_DATA").map(Into::into));
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let info = HostInfo { data_dir: data_dir.map(text), cache_dir: Some(text(loader::cache_dir().join("data"))), offline: data.offline };
    Catalog::discover_with(paths, info)
}
