//! Steering a run from another process: the `commands` table and the `labels` that people set.
//!
//! A sender inserts a row; the worker's writer thread sees it within 50 ms, the training loop takes it between two steps and answers in the same
//! row. Nothing here waits for a training step but [`wait_command`].

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use crate::error::{Result, StoreError};
use crate::process::now;
use crate::read::RunReader;
use crate::rows::{Command, CommandState};
use crate::{DATABASE_FILE, schema};

/// Time between two looks for an answer.
const ANSWER_INTERVAL: Duration = Duration::from_millis(5);

/// Puts a command before the worker of the run in folder `run` and returns its id, for [`wait_command`].
///
/// Errors: `StoreError::NotRunning` when no process works on the run, so that nobody waits for nothing.
pub fn send_command(run: &Path, who: &str, kind: &str, args: &Value) -> Result<i64> {
    let info = RunReader::open(run)?.info()?;
    if info.state.is_over() {
        return Err(StoreError::NotRunning { path: run.to_path_buf(), kind: kind.to_string(), state: info.state.name().to_string() });
    }
    let database = run.join(DATABASE_FILE);
    let connection = schema::open_for_writing(&database)?;
    connection
        .execute(
            "INSERT INTO commands (time, who, kind, args, state) VALUES (?1, ?2, ?3, ?4, 'sent')",
            params![now(), who, kind, args.to_string()],
        )
        .map_err(StoreError::sqlite("send a command through", &database))?;
    Ok(connection.last_insert_rowid())
}

/// Waits until the command is done or failed and returns it.
///
/// Errors: `StoreError::CommandTimeout` when `timeout` passes first; `StoreError::NoCommand` for an id that the run does not have.
pub fn wait_command(run: &Path, id: i64, timeout: Duration) -> Result<Command> {
    let reader = RunReader::open(run)?;
    let start = Instant::now();
    loop {
        let command = reader.command(id)?.ok_or_else(|| StoreError::NoCommand { path: run.to_path_buf(), id })?;
        if matches!(command.state, CommandState::Done | CommandState::Failed) {
            return Ok(command);
        }
        if start.elapsed() >= timeout {
            return Err(StoreError::CommandTimeout {
                path: run.to_path_buf(),
                id,
                kind: command.kind,
                state: command.state.name().to_string(),
                waited_secs: start.elapsed().as_secs_f64(),
            });
        }
        std::thread::sleep(ANSWER_INTERVAL);
    }
}

/// Sets a mark of people on a run, such as `name`, `note`, `tags`, `colour`, `pinned`, `archived`. Any run, also one that is over.
pub fn set_label(run: &Path, key: &str, value: &str) -> Result<()> {
    change_labels(run, "INSERT OR REPLACE INTO labels (key, value, time) VALUES (?1, ?2, ?3)", params![key, value, now()])
}

/// Takes a mark away.
pub fn forget_label(run: &Path, key: &str) -> Result<()> {
    change_labels(run, "DELETE FROM labels WHERE key = ?1", params![key])
}

fn change_labels(run: &Path, sql: &str, values: impl rusqlite::Params) -> Result<()> {
    let database = run.join(DATABASE_FILE);
    let connection = schema::open_for_writing(&database)?;
    connection.execute(sql, values).map_err(StoreError::sqlite("set a label in", &database))?;
    Ok(())
}

pub(crate) const COMMAND_COLUMNS: &str = "id, time, who, kind, args, state, reason, taken_time, answered_time";

pub(crate) fn command_from_row(row: &Row) -> rusqlite::Result<Command> {
    let args: String = row.get(4)?;
    let state: String = row.get(5)?;
    Ok(Command {
        id: row.get(0)?,
        time: row.get(1)?,
        who: row.get(2)?,
        kind: row.get(3)?,
        // A row put in by hand with `sqlite3` may hold anything: the worker sees it as a string and answers that it wants an object.
        args: serde_json::from_str(&args).unwrap_or(Value::String(args)),
        state: CommandState::from_name(&state).unwrap_or(CommandState::Failed),
        reason: row.get(6)?,
        taken_time: row.get(7)?,
        answered_time: row.get(8)?,
    })
}

/// Commands sent after row `id` that nobody has taken.
pub(crate) fn sent_after(connection: &Connection, id: i64) -> rusqlite::Result<Vec<Command>> {
    connection
        .prepare_cached(&format!("SELECT {COMMAND_COLUMNS} FROM commands WHERE state = 'sent' AND id > ?1 ORDER BY id"))?
        .query_map([id], command_from_row)?
        .collect()
}
