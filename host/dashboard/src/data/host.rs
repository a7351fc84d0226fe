//! [`Host`]: the `solstice` program as the window uses it. Whatever needs plugins or starts runs is a command line of that program, carried out in a
//! process of its own, here or on the machine where the runs are; the window itself loads no plugin.

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
    started: Mutex<Vec<Started>>,
}

struct Started {
    child: Child,
    output: tempfile::NamedTempFile,
    answer: Option<Answer>,
}

impl LocalHost {
    /// `program` is the file of `solstice`; commands run in `folder`.
    pub fn new(program: PathBuf, folder: PathBuf) -> LocalHost {
        LocalHost { program, folder, started: Mutex::default() }
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.folder);
        command
    }

    fn spawn(&self, command: &mut Command, input: &str) -> Result<Child, String> {
        let mut child =
            command.stdin(Stdio::piped()).spawn().map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
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
        let child = self.spawn(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()), input)?;
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
        let child = self.spawn(&mut command, input)?;
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
