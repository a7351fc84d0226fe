//! `solstice dashboard [RUNS_DIR ..]`: the window over the runs of some folders.

use crate::cli::DashboardArgs;
use crate::outcome::exit;
use solstice_dashboard::data::LocalHost;
use solstice_dashboard::gui::{self, source::Source};
use std::sync::Arc;

/// Shows the window until it is closed; returns the exit code.
pub fn run(args: &DashboardArgs) -> i32 {
    // Looked at first: without a display no folder need be read.
    if !gui::has_display() {
        eprintln!("error: {}", gui::NO_DISPLAY);
        return exit::USAGE;
    }
    let mut source = Source::live(&args.runs_dirs);
    // Without them the window still watches and steers.
    if let (Ok(program), Ok(folder)) = (std::env::current_exe(), std::env::current_dir()) {
        source = source.with_host(Arc::new(LocalHost::new(program, folder)));
    }
    match gui::open(&source, &args.renderer) {
        Ok(()) => exit::OK,
        Err(reason) => {
            eprintln!("error: {reason}");
            exit::USAGE
        }
    }
}
