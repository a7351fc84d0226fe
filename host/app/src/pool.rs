//! Child processes, n at once: the trials of a sweep, the folds of a cross-validation. Each is a program of its own, so one that crashes costs itself
//! alone. Ctrl-C once lets each finish its step and save, twice ends them; when the pool itself is killed, its children stop and save as well.

use crate::outcome::exit;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Names the pool's process to its children.
const STARTER: &str = "SOLSTICE_STARTED_BY";

/// How often children are looked at. Also the least time between two signals to one child, which must not merge into one.
const POLL: Duration = Duration::from_millis(25);

/// How often a child looks whether its pool still lives.
const STARTER_POLL: Duration = Duration::from_millis(100);

/// How much of the end of a child's log is searched for its last error.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// A process to run.
pub struct Job {
    /// The caller's number for it.
    pub id: usize,
    /// Program and arguments; input and output are the pool's affair.
    pub command: Command,
    /// What it prints goes to this file, written anew; its folder is made.
    pub log: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Of the job.
    pub id: usize,
    /// Exit code as in `outcome::exit`; a death by signal is `CRASHED`.
    pub code: i32,
    /// The last error that it printed, or how it died; `None` for code 0.
    pub sentence: Option<String>,
}

/// What the pool does after a process ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Starts the next one.
    GoOn,
    /// Starts none any more and asks those under way to save and stop.
    Halt,
}

/// Runs jobs. One for the life of a command: Ctrl-C is counted from its making.
pub struct Pool {
    workers: usize,
    echo: bool,
    interrupts: Arc<AtomicUsize>,
}

struct Running {
    id: usize,
    child: Child,
    log: PathBuf,
    // What the log has gained since the last look; only with `echo`.
    news: Option<File>,
    signals_sent: usize,
}

impl Pool {
    /// A pool of at most `workers` processes at once. From here on Ctrl-C and SIGTERM no longer end this process.
    pub fn new(workers: usize) -> Result<Pool> {
        let interrupts = Arc::new(AtomicUsize::new(0));
        let counter = interrupts.clone();
        let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
            .context("cannot listen for Ctrl-C")?;
        std::thread::spawn(move || {
            for _ in signals.forever() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Pool { workers: workers.max(1), echo: false, interrupts })
    }

    /// The same, and what the children print also goes to standard error.
    pub fn with_echo(self) -> Pool {
        Pool { echo: true, ..self }
    }

    /// How often Ctrl-C was pressed.
    pub fn interrupts(&self) -> usize {
        self.interrupts.load(Ordering::SeqCst)
    }

    /// Exit code for an interrupted command; `None` when nobody pressed Ctrl-C.
    pub fn interrupted_code(&self) -> Option<i32> {
        match self.interrupts() {
            0 => None,
            1 => Some(exit::STOPPED),
            _ => Some(exit::INTERRUPTED),
        }
    }

    /// Runs the jobs in their order, and returns when the last one has ended. Waits. An error of `on_end` halts the pool and is returned.
    pub fn run(&self, jobs: impl IntoIterator<Item = Job>, mut on_end: impl FnMut(Ended) -> Result<Next>) -> Result<()> {
        let mut jobs = jobs.into_iter();
        let mut running: Vec<Running> = vec![];
        let mut outcome = Ok(());
        let mut halted = false;
        let mut announced = self.interrupts();
        loop {
            while !halted && self.interrupts() == 0 && running.len() < self.workers {
                let Some(job) = jobs.next() else { break };
                match self.start(job) {
                    Ok(child) => running.push(child),
                    Err(error) => (outcome, halted) = (Err(error), true),
                }
            }
            if running.is_empty() {
                return outcome;
            }
            let pressed = self.interrupts();
            if pressed > announced {
                announced = pressed;
                let text =
                    if pressed == 1 { "Stopping: each finishes its step and saves; once more stops at once." } else { "Stopping now." };
                eprintln!("{text}");
            }
            for child in &mut running {
                child.signal(pressed.max(usize::from(halted)));
            }
            let mut still = vec![];
            for mut child in running {
                child.echo();
                match child.child.try_wait() {
                    Ok(None) => still.push(child),
                    Ok(Some(status)) => {
                        child.echo();
                        match on_end(child.ended(status)) {
                            Ok(Next::GoOn) => {}
                            Ok(Next::Halt) => halted = true,
                            // The first error is the one that explains the others.
                            Err(error) if outcome.is_ok() => (outcome, halted) = (Err(error), true),
                            Err(_) => {}
                        }
                    }
                    Err(error) if outcome.is_ok() => (outcome, halted) = (Err(error.into()), true),
                    Err(_) => {}
                }
            }
            running = still;
            if !running.is_empty() {
                std::thread::sleep(POLL);
            }
        }
    }

    fn start(&self, mut job: Job) -> Result<Running> {
        let file = create_log(&job.log).with_context(|| format!("cannot write {}", job.log.display()))?;
        let news = if self.echo { Some(File::open(&job.log)?) } else { None };
        job.command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        job.command.env(STARTER, std::process::id().to_string());
        // A group of its own: Ctrl-C reaches the pool alone, which passes it on.
        let child = job.command.process_group(0).spawn().context("cannot start a process for a trial")?;
        Ok(Running { id: job.id, child, log: job.log, news, signals_sent: 0 })
    }
}

impl Running {
    /// Passes on one of `wanted` interrupts: two requests, then the end.
    fn signal(&mut self, wanted: usize) {
        if self.signals_sent < wanted {
            let signal = if self.signals_sent < 2 { Signal::INT } else { Signal::KILL };
            // One that has just ended is reported by its exit status.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
            self.signals_sent += 1;
        }
    }

    fn echo(&mut self) {
        let mut bytes = vec![];
        if let Some(log) = &mut self.news
            && log.read_to_end(&mut bytes).is_ok()
        {
            let _ = std::io::stderr().write_all(&bytes);
        }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        let code = match (status.code(), status.signal()) {
            (Some(code), _) => code,
            // Asked to stop before it could listen.
            (None, Some(signal)) if self.signals_sent > 0 && signal == signal_hook::consts::SIGINT => exit::STOPPED,
            (None, _) => exit::CRASHED,
        };
        let sentence = (code != exit::OK).then(|| {
            last_error(&log_tail(&self.log)).unwrap_or_else(|| match status.signal() {
                Some(signal) => format!("its process died of signal {signal}"),
                None => format!("its process ended with code {code} and no error; {} holds what it printed", self.log.display()),
            })
        });
        Ended { id: self.id, code, sentence }
    }
}

/// Makes this process stop, as Ctrl-C would, when the pool that started it dies. Does nothing for one that a person started.
///
/// By asking for the parent again and again: the signal that Linux sends at a parent's death comes once for each of the parent's threads, and the
/// second one would end the run before it is saved.
pub fn stop_with_starter() {
    let starter = std::env::var(STARTER).ok().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    let Some(starter) = starter else { return };
    if rustix::process::getppid() != Some(starter) {
        // The pool died at once; or this is a process further down the line, a plugin's child, and none of the pool's.
        if rustix::process::test_kill_process(starter) == Err(rustix::io::Errno::SRCH) {
            std::process::exit(exit::STOPPED);
        }
        return;
    }
    std::thread::spawn(move || {
        // By now the run listens for Ctrl-C: a signal that comes before this note of it is not lost.
        std::thread::sleep(STARTER_POLL);
        let was_asked = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let _ = signal_hook::flag::register(signal, was_asked.clone());
        }
        while rustix::process::getppid() == Some(starter) {
            std::thread::sleep(STARTER_POLL);
        }
        // A second request would be the end at once.
        if !was_asked.load(Ordering::SeqCst) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::INT);
        }
    });
}

fn create_log(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(path)
}

fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The sentence of the last line that begins with `error: `.
pub fn last_error(text: &str) -> Option<String> {
    text.lines().rev().find_map(|line| line.strip_prefix("error: ")).map(|sentence| sentence.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn job(folder: &Path, id: usize, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { id, command, log: folder.join(format!("{id}/output.log")) }
    }

    #[test]
    fn every_job_runs_and_tells_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::new(2).unwrap();
        let scripts = ["exit 0", "echo 'error: first'; echo 'error: no such field'; echo bye; exit 2", "kill -9 $$", "exit 7"];
        let mut ended = BTreeMap::new();
        let jobs = scripts.iter().enumerate().map(|(id, script)| job(folder.path(), id, script));
        pool.run(jobs, |end| {
            ended.insert(end.id, (end.code, end.sentence));
            Ok(Next::GoOn)
        })
        .unwrap();
        assert_eq!(ended[&0], (0, None));
        assert_eq!(ended[&1], (2, Some("no such field".into())));
        assert_eq!(ended[&2], (exit::CRASHED, Some("its process died of signal 9".into())));
        assert!(ended[&3].0 == 7 && ended[&3].1.as_ref().unwrap().contains("3/output.log"), "{ended:?}");
    }

    #[test]
    fn halting_starts_no_more_and_an_error_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::new(1).unwrap();
        let mut count = 0;
        let jobs = || (0..3).map(|id| job(folder.path(), id, "exit 0"));
        pool.run(jobs(), |_| {
            count += 1;
            Ok(Next::Halt)
        })
        .unwrap();
        assert_eq!(count, 1);
        let error = pool.run(jobs(), |end| anyhow::bail!("no place for {}", end.id)).unwrap_err();
        assert_eq!(error.to_string(), "no place for 0");
    }

    #[test]
    fn never_more_at_once_than_workers() {
        let folder = tempfile::tempdir().unwrap();
        // Each leaves a mark while it runs and counts the marks that it sees.
        let script = "touch $0.mark; ls *.mark | wc -l; sleep 0.05; rm $0.mark";
        let jobs = (0..6).map(|id| {
            let mut job = job(folder.path(), id, script);
            job.command.arg(id.to_string()).current_dir(folder.path());
            job
        });
        Pool::new(3).unwrap().run(jobs, |_| Ok(Next::GoOn)).unwrap();
        let counts: Vec<usize> = (0..6)
            .map(|id| std::fs::read_to_string(folder.path().join(format!("{id}/output.log"))).unwrap().trim().parse().unwrap())
            .collect();
        assert!(counts.iter().all(|count| *count <= 3), "{counts:?}");
    }
}
