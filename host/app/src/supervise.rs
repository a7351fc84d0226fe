//! The parent's side of a worker: start it, forward Ctrl-C, and say what happened when it dies.

use crate::cli::Command;
use crate::outcome::exit;
use crate::side::{Job, SideDir};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A worker under way.
pub struct Worker {
    child: Child,
    side: SideDir,
    // Removed with the worker; a run keeps its own copy of the log.
    _folder: tempfile::TempDir,
    log: Option<File>,
    interrupts: Arc<AtomicUsize>,
    forwarded: usize,
}

/// Where a worker's output goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To this process's own.
    Inherited,
    /// To the log file; it survives the window that started the run.
    Logged,
}

impl Worker {
    /// Starts the worker with a job.
    pub fn start(job: &Job, output: Output) -> Result<Worker> {
        let folder = tempfile::Builder::new().prefix("solstice-").tempdir().context("cannot make a temporary folder")?;
        let side = SideDir(folder.path().to_path_buf());
        let interrupts = Arc::new(AtomicUsize::new(0));
        let counter = interrupts.clone();
        let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
            .context("cannot listen for Ctrl-C")?;
        std::thread::spawn(move || {
            for _ in signals.forever() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut process = std::process::Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        process.arg("worker").env("SOLSTICE_SIDE_DIR", &side.0).stdin(Stdio::piped());
        without_window_complaints(&mut process, &side.0);
        let mut log = None;
        if output == Output::Logged {
            let file = File::create(side.log_file())?;
            process.stdout(file.try_clone()?).stderr(file);
            log = Some(File::open(side.log_file())?);
            // Its own group: Ctrl-C reaches this process alone, which passes it on.
            process.process_group(0);
        }
        let mut child = process.spawn().context("cannot start the worker")?;
        let mut stdin = child.stdin.take().expect("asked for above");
        // A worker that is already dead is reported by its exit status.
        let _ = stdin.write_all(&serde_json::to_vec(job)?);
        drop(stdin);
        Ok(Worker { child, side, _folder: folder, log, interrupts, forwarded: 0 })
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The side channel.
    pub fn side(&self) -> &SideDir {
        &self.side
    }

    /// What the worker has printed since the last call (only when logged).
    pub fn new_output(&mut self) -> String {
        let mut bytes = vec![];
        if let Some(log) = &mut self.log {
            let _ = log.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Passes Ctrl-C on: the first as a request, the second as the end. Returns how often it was pressed.
    pub fn forward_interrupts(&mut self, own_group: bool) -> usize {
        let pressed = self.interrupts.load(Ordering::SeqCst);
        if own_group && pressed > self.forwarded {
            let pid = rustix::process::Pid::from_child(&self.child);
            let signal = if pressed >= 2 { rustix::process::Signal::KILL } else { rustix::process::Signal::INT };
            let _ = rustix::process::kill_process(pid, signal);
        }
        self.forwarded = pressed;
        pressed
    }

    /// The exit status, once there is one.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Exit code for the user; a death by signal is explained with the plugin call that was under way.
    pub fn verdict(&self, status: ExitStatus) -> (i32, Option<String>) {
        let call = std::fs::read_to_string(self.side.entering_file()).unwrap_or_default();
        let call = call.trim_end_matches(['\0', '\n']).trim();
        let place = if call.is_empty() { "outside any plugin".to_owned() } else { format!("while in {call}") };
        match (status.code(), status.signal()) {
            (Some(code), _) => {
                // A plugin that calls `exit` takes the worker with it, in the middle of a call.
                // The worker tells of a call that it stopped itself.
                if call.is_empty() || code == exit::CRASHED {
                    (code, None)
                } else {
                    (exit::CRASHED, Some(format!("the worker ended early with code {code} {place}")))
                }
            }
            (None, Some(_)) if self.forwarded >= 2 => (exit::INTERRUPTED, Some("stopped at once; the last checkpoint stands".into())),
            (None, signal) => {
                let signal = signal.unwrap_or(0);
                (exit::CRASHED, Some(format!("the worker died of signal {signal}{} {place}", signal_name(signal))))
            }
        }
    }

    /// The last lines that the worker printed.
    pub fn log_tail(&self) -> String {
        let Ok(mut file) = File::open(self.side.log_file()) else { return String::new() };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(4096)));
        let mut bytes = vec![];
        let _ = file.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Without a runtime folder Mesa's window code complains on stderr, and a worker has no window.
pub fn without_window_complaints(process: &mut std::process::Command, folder: &Path) {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        process.env("XDG_RUNTIME_DIR", folder);
    }
}

/// Runs a command in a worker whose output is this process's own; returns the exit code.
pub fn run_attached(command: &Command) -> Result<i32> {
    let mut worker = Worker::start(&Job::of(command), Output::Inherited)?;
    loop {
        // The terminal sends Ctrl-C to the worker as well: same process group.
        worker.forward_interrupts(false);
        if let Some(status) = worker.poll()? {
            let (code, sentence) = worker.verdict(status);
            if let Some(sentence) = sentence {
                eprintln!("error: {sentence}");
            }
            return Ok(code);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        signal_hook::consts::SIGSEGV => " (segmentation fault)",
        signal_hook::consts::SIGABRT => " (abort)",
        signal_hook::consts::SIGBUS => " (bus error)",
        signal_hook::consts::SIGILL => " (illegal instruction)",
        signal_hook::consts::SIGFPE => " (arithmetic error)",
        signal_hook::consts::SIGKILL => " (killed: out of memory, or by somebody)",
        signal_hook::consts::SIGTERM => " (terminated)",
        _ => "",
    }
}
