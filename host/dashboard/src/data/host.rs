//! [`Host`]: the `solstice` program as the window uses it. Whatever needs plugins or starts runs is a command line of that program, carried out in a
//! process of its own, here or on the machine where the runs are; the window itself loads no plugin.

use crossbeam_channel::{Sender, bounded, unbounded};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

impl Answer {
    /// The complaint as one line, without the word `error`: what to show where it failed.
    pub fn complaint(&self) -> String {
        let line = self.err.lines().find_map(|line| line.strip_prefix("error: ")).or(self.err.lines().last());
        line.filter(|line| !line.trim().is_empty()).map_or_else(|| format!("it ended with code {}", self.code), str::to_owned)
    }
}

/// Carries out command lines of `solstice`. Not for the thread that paints: both calls wait.
pub trait Host: Send + Sync {
    /// Runs `solstice ARGS..` with `input` as its standard input, and waits for the end.
    ///
    /// Errors: the program cannot be started, or the machine cannot be reached; a sentence.
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String>;

    /// Starts `solstice ARGS..` so that it outlives the window. Returns a ticket for [`Host::ended`].
    ///
    /// Errors: as [`Host::ask`].
    fn start(&self, args: &[String], input: &str) -> Result<u64, String>;

    /// What a started command answered, once it has ended.
    fn ended(&self, ticket: u64) -> Option<Answer>;

    /// When each of these files was last changed, where that costs next to nothing to know; `None` where it does not, as on another machine.
    fn changed(&self, files: &[PathBuf]) -> Option<Vec<Option<SystemTime>>> {
        let _ = files;
        None
    }
}

/// The program on this machine.
pub struct LocalHost {
    program: PathBuf,
    folder: PathBuf,
    starter: Sender<(Command, Sender<std::io::Result<Child>>)>,
    started: Mutex<Vec<Started>>,
}

struct Started {
    child: Child,
    output: tempfile::NamedTempFile,
    answer: Option<Answer>,
}

impl LocalHost {
    /// `program` is the file of `solstice`; commands run in `folder`, and at the priority of the thread that calls this.
    pub fn new(program: PathBuf, folder: PathBuf) -> LocalHost {
        let (starter, commands) = unbounded::<(Command, Sender<std::io::Result<Child>>)>();
        // A process has the priority of the thread that starts it, and a window that a processor draws lowers its own.
        std::thread::spawn(move || {
            for (mut command, child) in commands {
                // Nobody waits any more: the window was closed.
                let _ = child.send(command.spawn());
            }
        });
        LocalHost { program, folder, starter, started: Mutex::default() }
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.folder);
        command
    }

    fn spawn(&self, mut command: Command, input: &str) -> Result<Child, String> {
        let (reply, child) = bounded(1);
        command.stdin(Stdio::piped());
        self.starter.send((command, reply)).expect("its thread ends with the host");
        let child = child.recv().expect("its thread answers each command");
        let mut child = child.map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let mut stdin = child.stdin.take().expect("asked for above");
        let input = input.to_owned();
        // A command that does not read its input must not stop the window's thread.
        std::thread::spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
        Ok(child)
    }
}

impl Host for LocalHost {
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command, input)?;
        let output = child.wait_with_output().map_err(|error| format!("cannot read what `solstice {}` says: {error}", args.join(" ")))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) })
    }

    fn start(&self, args: &[String], input: &str) -> Result<u64, String> {
        let file = |error| format!("cannot make a temporary file for what `solstice {}` says: {error}", args.join(" "));
        let output = tempfile::NamedTempFile::new().map_err(file)?;
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(output.reopen().map_err(file)?);
        #[cfg(unix)]
        {
            // A group of its own: neither Ctrl-C nor the end of the window's terminal reaches it.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        let child = self.spawn(command, input)?;
        let mut started = self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        started.push(Started { child, output, answer: None });
        Ok(started.len() as u64 - 1)
    }

    fn ended(&self, ticket: u64) -> Option<Answer> {
        let mut started = self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let started = started.get_mut(usize::try_from(ticket).ok()?)?;
        if started.answer.is_none() {
            let status = started.child.try_wait().ok()??;
            let mut err = String::new();
            let _ = started.output.reopen().and_then(|mut file| file.read_to_string(&mut err));
            started.answer = Some(Answer { code: status.code().unwrap_or(-1), out: String::new(), err });
        }
        started.answer.clone()
    }

    fn changed(&self, files: &[PathBuf]) -> Option<Vec<Option<SystemTime>>> {
        Some(files.iter().map(|file| self.folder.join(file).metadata().and_then(|file| file.modified()).ok()).collect())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_has_the_priority_from_before() {
        let host = LocalHost::new("/bin/sh".into(), std::env::temp_dir());
        let nice = || host.ask(&["-c".into(), "nice".into()], "").unwrap().out.trim().parse::<i32>().unwrap();
        let before = nice();
        // Of this thread alone.
        rustix::process::nice(3).unwrap();
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_program_that_is_not_there_is_a_sentence() {
        let host = LocalHost::new("/nowhere/solstice".into(), std::env::temp_dir());
        assert!(host.ask(&[], "").unwrap_err().starts_with("cannot start /nowhere/solstice: "));
        assert!(host.start(&[], "").unwrap_err().starts_with("cannot start /nowhere/solstice: "));
    }
}
