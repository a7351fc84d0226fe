//! One file a command.

pub mod bench;
pub mod bench_loop;
pub mod bench_work;
pub mod check;
pub mod check_json;
pub mod cross_validate;
pub mod ctl;
#[cfg_attr(not(feature = "window"), path = "no_window.rs")]
pub mod dashboard;
pub mod describe;
pub mod devices;
pub mod eval;
pub mod export;
pub mod follow;
pub mod inspect;
pub mod plugin_new;
pub mod plugins;
pub mod profile;
pub mod runs;
pub mod stream;
pub mod summary;
pub mod sweep;
pub mod train;
pub mod tune;
pub mod watch_run;

use crate::assemble::Assembly;
use crate::cli::{Command, DataArgs, RecipeArgs};
use crate::loader::{self, Catalog};
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::recipe::Recipe;
use anyhow::{Context, Result};
use solstice_plugin_abi::wire::HostInfo;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A path that stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads a recipe that comes on standard input, which the worker does not inherit.
pub fn take_input(command: &mut Command) -> Result<()> {
    let recipe = match command {
        Command::Train(args) => &mut args.recipe,
        Command::Check(args) => &mut args.recipe,
        Command::Inspect(args) => &mut args.recipe,
        Command::Profile(args) => &mut args.recipe,
        Command::Summary(args) => &mut args.recipe,
        Command::Tune(args) => &mut args.recipe,
        _ => return Ok(()),
    };
    if is_stdin(&recipe.recipe) {
        recipe.text = Some(read_stdin("recipe")?);
    }
    Ok(())
}

/// All of standard input; `what` it is stands in the error.
pub fn read_stdin(what: &str) -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).with_context(|| format!("cannot read the {what} from standard input"))?;
    Ok(text)
}

/// The recipe of a command line with its `--set` applied, and the plugins to make it with.
pub fn assemble(args: &RecipeArgs) -> Result<Assembly, Exit> {
    let recipe = Recipe::from_args(args).or_exit(exit::USAGE)?;
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
