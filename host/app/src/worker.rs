//! The child process that loads plugins and trains. It reads its job from standard input and leaves everything in the run's store; a crash here costs
//! one run and no window.

use crate::cli::Command;
use crate::commands;
use crate::launch;
use crate::loader;
use crate::outcome::{Exit, OrExit, exit, sentence};
use crate::side::{Job, SideDir};
use anyhow::{Context, Result};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs the job and returns the exit code.
pub fn main(side_dir: &Path) -> i32 {
    let side = SideDir(side_dir.to_path_buf());
    let mut text = String::new();
    let job: Job =
        match std::io::stdin().read_to_string(&mut text).map_err(anyhow::Error::from).and_then(|_| Ok(serde_json::from_str(&text)?)) {
            Ok(job) => job,
            Err(error) => {
                eprintln!("error: `solstice worker` is started by the other commands; its job is not readable: {error}");
                return exit::USAGE;
            }
        };
    loader::record_calls_in(&side.entering_file());
    let stop = Arc::new(AtomicBool::new(false));
    loader::set_host_services(Services { stop: stop.clone(), last: Mutex::new(None) });
    let limit = job.command.call_limit();
    loader::limit_calls(limit, move |call| {
        let sentence = format!("{call} gave no sign of life for {} s and was stopped (--plugin-timeout)", limit.as_secs_f64());
        eprintln!("error: {sentence}");
        launch::abandon(&sentence);
        std::process::exit(exit::CRASHED);
    });
    let shaders = job.shaders.as_deref();
    let outcome = listen_for_interrupts(&stop).or_exit(exit::FAILED).and_then(|()| match &job.command {
        command if job.reload.is_some() => commands::train::reload(job.reload.as_ref().expect("asked for"), command, shaders, &side, &stop),
        Command::Train(args) => commands::train::train(args, shaders, &side, &stop),
        Command::Resume(args) => commands::train::resume(args, shaders, &side, &stop),
        Command::Fork(args) => commands::train::fork(args, shaders, &side, &stop),
        Command::Eval(args) => commands::eval::run(args),
        Command::Plugins(args) => commands::plugins::list(args).or_exit(exit::FAILED),
        Command::Describe(args) => commands::describe::run(args).or_exit(exit::USAGE),
        Command::Devices(args) => commands::devices::run(args).map(|()| exit::OK),
        Command::Check(args) => commands::check::run(args),
        Command::Summary(args) => commands::summary::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Profile(args) => commands::profile::run(args, &side, &stop),
        Command::Tune(args) => commands::tune::run(args),
        other => unreachable!("{other:?} needs no worker"),
    });
    loader::stop_recording();
    match outcome {
        Ok(code) => code,
        Err(Exit { code, error }) => {
            eprintln!("error: {}", sentence(&error));
            code
        }
    }
}

/// What plugins may ask of a worker.
struct Services {
    stop: Arc<AtomicBool>,
    // When a progress line was last printed.
    last: Mutex<Option<Instant>>,
}

impl loader::HostServices for Services {
    fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn progress(&self, message: &str, done: u64, total: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return;
        }
        *last = Some(Instant::now());
        match total {
            0 => eprintln!("{message}"),
            total => eprintln!("{message} ({} %)", 100 * done / total),
        }
    }
}

// The first signal asks; the second one ends the process at once.
fn listen_for_interrupts(stop: &Arc<AtomicBool>) -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, exit::INTERRUPTED, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(())
}
