//! `solstice dashboard [RUNS_DIR ..]`: the window over the runs of some folders.

use crate::cli::DashboardArgs;
use crate::outcome::exit;
use solstice_dashboard::gui::{self, source::Source};

/// Shows the window until it is closed; returns the exit code.
pub fn run(args: &DashboardArgs) -> i32 {
    // Looked at first: without a display no folder need be read.
    if !gui::has_display() {
        eprintln!("error: {}", gui::NO_DISPLAY);
        return exit::USAGE;
    }
    match gui::open(&Source::live(&args.runs_dirs), &args.renderer) {
        Ok(()) => exit::OK,
        Err(reason) => {
            eprintln!("error: {reason}");
            exit::USAGE
        }
    }
}
