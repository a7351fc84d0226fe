//! `solstice dashboard` in a program that was built without its window.

use crate::cli::DashboardArgs;
use crate::outcome::exit;

/// A window can be opened: never.
pub fn has_display() -> bool {
    false
}

/// Says why there is none.
pub fn run(_: &DashboardArgs) -> i32 {
    eprintln!(
        "error: this solstice was built without its window (`--no-default-features`): use `solstice watch`, or build it with the feature `window`"
    );
    exit::USAGE
}
