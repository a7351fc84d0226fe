//! How a command ends: exit codes, errors that carry one, and the sentence that a user reads.

use crate::recipe::RecipeError;

/// Exit codes of every command.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// The run failed: a component, a device or a file.
    pub const FAILED: i32 = 1;
    /// The command line, the recipe or a setting is wrong; nothing was started.
    pub const USAGE: i32 = 2;
    /// Stopped on request (Ctrl-C); the state is saved.
    pub const STOPPED: i32 = 3;
    /// The loss or a gradient was not finite; the last good state is saved.
    pub const DIVERGED: i32 = 4;
    /// A data set is not there and could not be downloaded.
    pub const DATA_MISSING: i32 = 5;
    /// The worker died: a plugin crashed, or the system killed it.
    pub const CRASHED: i32 = 6;
    /// The worker left its state to another one; no command ends with it.
    pub const HANDED_OVER: i32 = 7;
    /// Ctrl-C twice: stopped at once.
    pub const INTERRUPTED: i32 = 130;
}

/// An error with the exit code that it asks for.
#[derive(Debug)]
pub struct Exit {
    /// One of `cli::exit`.
    pub code: i32,
    /// What happened.
    pub error: anyhow::Error,
}

/// Marks a result's error with an exit code.
pub trait OrExit<T> {
    /// The error, if any, ends the process with `code`; a mistake in a recipe always ends it with `USAGE`.
    fn or_exit(self, code: i32) -> Result<T, Exit>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: i32) -> Result<T, Exit> {
        self.map_err(|error| {
            let error = error.into();
            let is_usage = error.chain().any(|cause| cause.is::<RecipeError>());
            Exit { code: if is_usage { exit::USAGE } else { code }, error }
        })
    }
}

/// The chain of causes in one line; a cause that repeats what the one before says is left out.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text += ": ";
        }
        text += &cause;
    }
    text
}
