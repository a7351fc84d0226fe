//! `solstice dashboard [RUNS_DIR ..]`: the window over the runs of some folders.

use crate::cli::DashboardArgs;
use crate::outcome::exit;

/// A window can be opened, as far as the environment tells.
#[cfg(feature = "window")]
pub use solstice_dashboard::gui::has_display;

/// A window can be opened: never, in a program that was built without it.
#[cfg(not(feature = "window"))]
pub fn has_display() -> bool {
    false
}

/// Shows the window until it is closed; returns the exit code.
#[cfg(feature = "window")]
pub fn run(args: &DashboardArgs) -> i32 {
    use solstice_dashboard::data::LocalHost;
    use solstice_dashboard::gui::{self, source::Source};

    // Looked at first: without a display no folder need be read.
    if !gui::has_display() {
        eprintln!("error: {}", gui::NO_DISPLAY);
        return exit::USAGE;
    }
    let mut source = Source::live(&args.runs_dirs);
    // Without them the window still watches and steers.
    if let (Ok(program), Ok(folder)) = (std::env::current_exe(), std::env::current_dir()) {
        source = source.with_host(std::sync::Arc::new(LocalHost::new(program, folder)));
    }
    match gui::open(&source, &args.renderer) {
        Ok(()) => exit::OK,
        Err(reason) => {
            eprintln!("error: {reason}");
            exit::USAGE
        }
    }
}

/// Says why there is none.
#[cfg(not(feature = "window"))]
pub fn run(_: &DashboardArgs) -> i32 {
    eprintln!(
        "error: this solstice was built without its window (`--no-default-features`): use `solstice watch`, or build it with the feature `window`"
    );
    exit::USAGE
}
