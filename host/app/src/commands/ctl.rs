//! `solstice ctl RUN ..`: a word to a run that is going on, through its store.

use crate::cli::{CtlArgs, CtlCommand};
use crate::outcome::exit;
use anyhow::Result;
use serde_json::{Value, json};
use solstice_store::{CommandState, find_run, send_command, wait_command};
use std::time::Duration;

/// How long a run may take to answer: a step of a large model, or a plugin's call.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the command, waits for the answer and prints it; returns the exit code.
pub fn run(args: &CtlArgs) -> Result<i32> {
    let folder = find_run(&args.runs_dir, &args.run)?;
    let (kind, body) = match &args.command {
        CtlCommand::Pause => ("pause", json!({})),
        CtlCommand::Resume => ("resume", json!({})),
        CtlCommand::Step { steps } => ("step", json!({ "steps": steps })),
        CtlCommand::Eval => ("eval", json!({})),
        CtlCommand::Checkpoint => ("checkpoint", json!({})),
        CtlCommand::Stop => ("stop", json!({})),
        CtlCommand::Profile { steps } => ("profile", json!({ "steps": steps })),
        CtlCommand::Set { key, value } => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
            ("set", json!({ "key": key, "value": value }))
        }
    };
    let id = send_command(&folder, &user(), kind, &body)?;
    let answer = wait_command(&folder, id, PATIENCE)?;
    let text = answer.reason.unwrap_or_default();
    if answer.state == CommandState::Done {
        println!("{kind}: {}", if text.is_empty() { "done" } else { &text });
        Ok(exit::OK)
    } else {
        eprintln!("error: {kind}: {text}");
        Ok(exit::FAILED)
    }
}

/// Who sends a command.
pub fn user() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "somebody".into())
}
