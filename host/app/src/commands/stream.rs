//! `solstice stream DIR`: the end of `solstice dashboard --ssh` where the runs are. It talks on standard input and output with one window, ends when
//! that goes away, and opens no port. `data/stream.rs` of the dashboard does the work.

use crate::cli::StreamArgs;
use crate::outcome::exit;
use anyhow::{Context, Result};
use solstice_dashboard::data::{LocalHost, Timing, serve};
use std::io::IsTerminal;
use std::sync::Arc;

/// Serves until the window goes away; returns the exit code.
pub fn run(args: &StreamArgs) -> Result<i32> {
    if std::io::stdin().is_terminal() {
        eprintln!(
            "error: `solstice stream` talks to a window, not to a terminal: run `solstice dashboard --ssh HOST:DIR` on the machine where you sit"
        );
        return Ok(exit::USAGE);
    }
    let program = std::env::current_exe().context("the path of this program")?;
    let folder = std::env::current_dir().context("the current folder")?;
    let host = Arc::new(LocalHost::new(program, folder));
    let mut output = std::io::stdout().lock();
    serve(&args.runs_dir, host, Timing::default(), std::io::stdin(), &mut output).map_err(anyhow::Error::msg)?;
    Ok(exit::OK)
}
