//! `solstice dashboard [RUNS_DIR ..] [--ssh HOST:DIR ..]`: the window over the runs of some folders, here and on other machines.

use crate::cli::DashboardArgs;
use crate::loader;
use crate::outcome::exit;
use solstice_dashboard::data::{Host, LocalHost, Remote, RemoteOptions};
use solstice_dashboard::gui::{self, source::Source};
use std::path::PathBuf;
use std::sync::Arc;

pub use solstice_dashboard::gui::has_display;

/// Shows the window until it is closed; returns the exit code.
pub fn run(args: &DashboardArgs) -> i32 {
    // Looked at first: without a display no folder need be read.
    if !gui::has_display() {
        eprintln!("error: {}", gui::NO_DISPLAY);
        return exit::USAGE;
    }
    let mut folders = args.runs_dirs.clone();
    if folders.is_empty() && args.ssh.is_empty() {
        folders.push(PathBuf::from("runs"));
    }
    // Without it the window still watches and steers.
    let local = match (std::env::current_exe(), std::env::current_dir()) {
        (Ok(program), Ok(folder)) => Some(Arc::new(LocalHost::new(program, folder)) as Arc<dyn Host>),
        _ => None,
    };
    let source = if args.ssh.is_empty() {
        let source = Source::live(&folders);
        local.map_or(source.clone(), |local| source.with_host(local))
    } else {
        match args.ssh.iter().map(|target| remote(target, args)).collect::<Result<Vec<_>, String>>() {
            // A window with runs of other machines alone starts new ones there too.
            Ok(remotes) => Source::far(&folders, &remotes, local.filter(|_| !folders.is_empty())),
            Err(reason) => {
                eprintln!("error: {reason}");
                return exit::USAGE;
            }
        }
    };
    match gui::open(&source, &args.renderer) {
        Ok(()) => exit::OK,
        Err(reason) => {
            eprintln!("error: {reason}");
            exit::USAGE
        }
    }
}

fn remote(target: &str, args: &DashboardArgs) -> Result<Arc<Remote>, String> {
    let options = RemoteOptions::new(target, &loader::cache_dir().join("remote"))?;
    Ok(Arc::new(Remote::open(RemoteOptions { program: args.remote_program.clone(), ..options })?))
}
