//! [`RunReader`]: any number of processes read a run, while it is written, after it ended, after it was killed. Nothing here changes a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{self, Checkpoint};
use crate::command::{COMMAND_COLUMNS, command_from_row};
use crate::error::{Result, StoreError};
use crate::insert::unsigned;
use crate::process::{host_name, now, process_is_alive};
use crate::retention::{self, CheckpointTarget, Monitor};
use crate::rows::{
    At, CheckpointRow, Command, Event, Heartbeat, Histogram, Image, LogLine, Logged, Matrix, MetricKind, MetricSummary, Parent, PluginInfo,
    Rewind, RunContents, RunInfo, RunState, RunSummary, Scalar, ScalarPage, Table, metrics_from_json,
};
use crate::{CHECKPOINT_FOLDER, DATABASE_FILE, schema};

/// A heartbeat from this machine this old, whose process is gone, means a lost run. A fresher one may come from another container of this machine,
/// whose processes cannot be seen from here; they beat every second.
const BEAT_STALE_SECS: f64 = 1.5;
/// A heartbeat from another machine, whose processes cannot be seen from here, means a lost run when this old.
pub(crate) const FOREIGN_BEAT_STALE_SECS: f64 = 60.0;

/// A process that is gone without a word, as the machine of the run judges it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// A sentence.
    pub reason: Option<String>,
    /// The last sign of life.
    pub time: f64,
}

/// The reading end of a run. Each call is one short read of the newest state; none waits for the writer for more than a transaction's end.
#[derive(Debug)]
pub struct RunReader {
    path: PathBuf,
    database: PathBuf,
    connection: Connection,
    /// A copy of a run on another machine, whose process only that machine can see.
    is_mirror: bool,
}

impl RunReader {
    /// Opens the run in folder `path` (or by its `run.sqlite`).
    pub fn open(path: &Path) -> Result<RunReader> {
        RunReader::open_within(path, schema::BUSY_TIMEOUT)
    }

    /// The same for one who reads many runs: another program's lock on this one is waited for no longer than `patience`, here and by each read.
    pub fn open_within(path: &Path, patience: Duration) -> Result<RunReader> {
        let path = if path.file_name().is_some_and(|name| name == DATABASE_FILE) { path.parent().unwrap_or(path) } else { path };
        let database = path.join(DATABASE_FILE);
        if !database.is_file() {
            return Err(StoreError::NoRun { path: path.to_path_buf(), problem: missing_run_problem(path) });
        }
        let connection = schema::open_for_reading(&database, patience)?;
        connection.set_prepared_statement_cache_capacity(64);
        let is_mirror = schema::mirror_source(&connection).map_err(|error| schema::damaged_or_sqlite(error, &database))?.is_some();
        Ok(RunReader { path: path.to_path_buf(), database, connection, is_mirror })
    }

    /// The run's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number that changes when another process has written: the cheap question "is there anything new?".
    pub fn data_version(&self) -> Result<i64> {
        self.read(|connection| connection.pragma_query_value(None, "data_version", |row| row.get(0)))
    }

    /// The run, its state and its labels.
    pub fn info(&self) -> Result<RunInfo> {
        let (mut info, beat) = self.read(|connection| Ok((run_info(connection, &self.path)?, heartbeat_row(connection)?)))?;
        if self.is_mirror {
            info.writer = beat.and_then(|(beat, is_open)| is_open.then_some(beat));
            if let Some(verdict) = self.read(schema::mirror_verdict)?.filter(|_| !info.state.is_over()) {
                (info.state, info.state_reason, info.state_time) = (RunState::Lost, verdict.reason, verdict.time);
            }
        } else {
            judge_state(&mut info, beat);
        }
        Ok(info)
    }

    /// The plugins that the run uses.
    pub fn plugins(&self) -> Result<Vec<PluginInfo>> {
        self.rows("SELECT name, version, hash, path, provides FROM plugins ORDER BY rowid", [], |row| {
            let provides = json_column::<Vec<String>>(row, 4)?;
            Ok(PluginInfo { name: row.get(0)?, version: row.get(1)?, hash: row.get(2)?, path: row.get(3)?, provides })
        })
    }

    /// Every metric with its last and best values, in the order in which they first came. Costs nothing however many rows there are.
    pub fn metrics(&self) -> Result<Vec<MetricSummary>> {
        self.read(metrics)
    }

    /// Scalars of all metrics written after row `row_id` (0: from the beginning), at most `row_count_max` of them.
    pub fn scalars_since(&self, row_id: i64, row_count_max: usize) -> Result<ScalarPage> {
        let limit = i64::try_from(row_count_max).unwrap_or(i64::MAX);
        let rows = self.rows(
            "SELECT id, metric_id, step, epoch, samples, time, value FROM scalars WHERE id > ?1 ORDER BY id LIMIT ?2",
            [row_id, limit],
            scalar_from_row,
        )?;
        let next_row_id = rows.last().map_or(row_id, |row| row.id);
        Ok(ScalarPage { is_full: rows.len() == row_count_max, next_row_id, rows })
    }

    /// Every value of one scalar, in the order written; empty for an unknown name. Reads the whole table of scalars: for one run, not for a plot
    /// of many (that is [`RunReader::scalars_since`]).
    pub fn series(&self, name: &str) -> Result<Vec<Scalar>> {
        self.rows(
            "SELECT id, metric_id, step, epoch, samples, time, value FROM scalars
             WHERE metric_id = (SELECT id FROM metrics WHERE name = ?1 AND kind = 'scalar') ORDER BY id",
            [name],
            scalar_from_row,
        )
    }

    /// What resumes took back, in order, after rewind `id`: forget those rows.
    pub fn rewinds_since(&self, id: i64) -> Result<Vec<Rewind>> {
        self.rows("SELECT id, time, step, scalar_id FROM rewinds WHERE id > ?1 ORDER BY id", [id], |row| {
            Ok(Rewind { id: row.get(0)?, time: row.get(1)?, step: unsigned(row.get(2)?), scalar_id: row.get(3)? })
        })
    }

    /// Histograms of this name after row `id`.
    pub fn histograms(&self, name: &str, id: i64) -> Result<Vec<Logged<Histogram>>> {
        self.logged("histograms", "edges, counts, not_finite", name, id, histogram_from_row)
    }

    /// Pictures of this name after row `id`, without their data: [`RunReader::image`] reads one.
    pub fn images(&self, name: &str, id: i64) -> Result<Vec<Logged<Image>>> {
        self.logged("images", "format, width, height, caption, x''", name, id, image_from_row)
    }

    /// One picture with its data.
    pub fn image(&self, id: i64) -> Result<Option<Logged<Image>>> {
        self.one("images", "format, width, height, caption, data", id, image_from_row)
    }

    /// Where and when rows of this name and kind were logged, after row `id`, without what was logged: a listing costs the same for small and for
    /// large rows. Scalars have none.
    pub fn places(&self, kind: MetricKind, name: &str, id: i64) -> Result<Vec<Logged<()>>> {
        let table = match kind {
            MetricKind::Scalar => return Ok(Vec::new()),
            MetricKind::Histogram => "histograms",
            MetricKind::Image => "images",
            MetricKind::Text => "texts",
            MetricKind::Table => "tables",
            MetricKind::Matrix => "matrices",
        };
        self.logged(table, "NULL", name, id, |_| Ok(()))
    }

    /// One histogram.
    pub fn histogram(&self, id: i64) -> Result<Option<Logged<Histogram>>> {
        self.one("histograms", "edges, counts, not_finite", id, histogram_from_row)
    }

    /// One text.
    pub fn text(&self, id: i64) -> Result<Option<Logged<String>>> {
        self.one("texts", "text", id, |row| row.get(4))
    }

    /// One table.
    pub fn table(&self, id: i64) -> Result<Option<Logged<Table>>> {
        self.one("tables", "columns, rows", id, table_from_row)
    }

    /// One matrix.
    pub fn matrix(&self, id: i64) -> Result<Option<Logged<Matrix>>> {
        self.one("matrices", "row_labels, column_labels, cells", id, matrix_from_row)
    }

    /// Texts of this name after row `id`.
    pub fn texts(&self, name: &str, id: i64) -> Result<Vec<Logged<String>>> {
        self.logged("texts", "text", name, id, |row| row.get(4))
    }

    /// Tables of this name after row `id`.
    pub fn tables(&self, name: &str, id: i64) -> Result<Vec<Logged<Table>>> {
        self.logged("tables", "columns, rows", name, id, table_from_row)
    }

    /// Matrices of this name after row `id`.
    pub fn matrices(&self, name: &str, id: i64) -> Result<Vec<Logged<Matrix>>> {
        self.logged("matrices", "row_labels, column_labels, cells", name, id, matrix_from_row)
    }

    /// Events after row `id`.
    pub fn events_since(&self, id: i64) -> Result<Vec<Event>> {
        self.rows("SELECT id, time, step, kind, who, message, old, new, command_id FROM events WHERE id > ?1 ORDER BY id", [id], |row| {
            let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
            Ok(Event {
                id: row.get(0)?,
                time: row.get(1)?,
                step: unsigned(row.get(2)?),
                kind: row.get(3)?,
                who: row.get(4)?,
                message: row.get(5)?,
                old: json(row.get(6)?),
                new: json(row.get(7)?),
                command_id: row.get(8)?,
            })
        })
    }

    /// Log lines after row `id`, at most `line_count_max` of them.
    pub fn logs_since(&self, id: i64, line_count_max: usize) -> Result<Vec<LogLine>> {
        let limit = i64::try_from(line_count_max).unwrap_or(i64::MAX);
        self.rows("SELECT id, time, level, source, message FROM logs WHERE id > ?1 ORDER BY id LIMIT ?2", [id, limit], |row| {
            Ok(LogLine { id: row.get(0)?, time: row.get(1)?, level: row.get(2)?, source: row.get(3)?, message: row.get(4)? })
        })
    }

    /// Commands after row `id`, with how far each is.
    pub fn commands_since(&self, id: i64) -> Result<Vec<Command>> {
        self.rows(&format!("SELECT {COMMAND_COLUMNS} FROM commands WHERE id > ?1 ORDER BY id"), [id], command_from_row)
    }

    /// One command.
    pub fn command(&self, id: i64) -> Result<Option<Command>> {
        Ok(self.rows(&format!("SELECT {COMMAND_COLUMNS} FROM commands WHERE id = ?1"), [id], command_from_row)?.pop())
    }

    /// Checkpoints of the index, by step. A file may have been deleted since: loading it says so.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRow>> {
        let folder = self.path.join(CHECKPOINT_FOLDER);
        self.rows(
            "SELECT file, step, epoch, samples, position, time, bytes, sha256, metrics, reason, pinned, abandoned FROM checkpoints ORDER BY step, id",
            [],
            |row| {
                let file: String = row.get(0)?;
                Ok(CheckpointRow {
                    path: folder.join(&file),
                    file,
                    at: At { step: unsigned(row.get(1)?), epoch: row.get(2)?, samples: unsigned(row.get(3)?) },
                    position: unsigned(row.get(4)?),
                    time: row.get(5)?,
                    bytes: unsigned(row.get(6)?),
                    sha256: row.get(7)?,
                    metrics: metrics_from_json(&row.get::<_, String>(8)?),
                    reason: row.get(9)?,
                    pinned: row.get(10)?,
                    abandoned: row.get(11)?,
                })
            },
        )
    }

    /// The newest checkpoint that is whole, read; and a sentence for each newer one that is not. Files that a killed process had renamed but not
    /// indexed count too; checkpoints that a rewind left behind do not.
    pub fn latest_good(&self) -> Result<(PathBuf, Checkpoint, Vec<String>)> {
        let files = self.checkpoint_files()?;
        let newest_first = files.into_iter().rev().filter(|file| !file.abandoned).map(|file| file.path);
        self.first_whole(newest_first)
    }

    /// The checkpoint that `target` means, read; and a sentence for each one that would have been taken first but is damaged. `monitor` says what
    /// `best` is. A step that is asked for by its number is given even if a resume left it behind.
    ///
    /// Errors: `NoSuchCheckpoint`, which names the nearest steps; `Checkpoint` when the one of that step is damaged.
    pub fn checkpoint_at(&self, target: CheckpointTarget, monitor: Option<&Monitor>) -> Result<(PathBuf, Checkpoint, Vec<String>)> {
        let none = |problem: String| Err(StoreError::NoSuchCheckpoint { path: self.path.clone(), problem });
        match target {
            CheckpointTarget::Last => self.latest_good(),
            CheckpointTarget::Best => {
                let Some(monitor) = monitor else {
                    return none("no metric is monitored, so no checkpoint is the best one: say `last` or `step:N`".to_string());
                };
                let rows = self.checkpoints()?;
                let ranked = retention::ranked(&rows, monitor);
                if ranked.is_empty() {
                    let names: BTreeSet<&str> = rows.iter().flat_map(|row| row.metrics.keys().map(String::as_str)).collect();
                    let names = if names.is_empty() { "none".to_string() } else { Vec::from_iter(names).join(", ") };
                    return none(format!(
                        "no checkpoint holds a finite `{}`, so none is the best; metrics that they hold: {names}",
                        monitor.metric
                    ));
                }
                self.first_whole(ranked.into_iter().map(|row| row.path.clone()))
            }
            CheckpointTarget::Step(step) => {
                let files = self.checkpoint_files()?;
                match files.iter().find(|file| file.step == step) {
                    Some(file) => Ok((file.path.clone(), checkpoint::load_checkpoint(&file.path)?, vec![])),
                    None => none(retention::no_such_step(step, &files.iter().map(|file| file.step).collect::<Vec<_>>())),
                }
            }
        }
    }

    /// Every checkpoint, indexed or not, by step.
    fn checkpoint_files(&self) -> Result<Vec<CheckpointFile>> {
        let folder = self.path.join(CHECKPOINT_FOLDER);
        // Files by their names, which hold the step, and not by the index alone; the index is needed only to know what was left behind.
        let rows = self.checkpoints()?;
        let mut files: Vec<CheckpointFile> = Vec::new();
        for row in &rows {
            files.push(CheckpointFile { step: row.at.step, path: row.path.clone(), abandoned: row.abandoned });
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let step = file.strip_prefix("step-").and_then(|rest| rest.strip_suffix(checkpoint::SUFFIX)).and_then(|step| step.parse().ok());
            if let Some(step) = step
                && !rows.iter().any(|row| row.file == file)
            {
                files.push(CheckpointFile { step, path: entry.path(), abandoned: false });
            }
        }
        files.sort_by(|a, b| a.step.cmp(&b.step).then_with(|| a.path.cmp(&b.path)));
        Ok(files)
    }

    /// The first of these that loads, and why each one before it does not.
    fn first_whole(&self, paths: impl Iterator<Item = PathBuf>) -> Result<(PathBuf, Checkpoint, Vec<String>)> {
        let mut problems = Vec::new();
        for path in paths {
            match checkpoint::load_checkpoint(&path) {
                Ok(checkpoint) => return Ok((path, checkpoint, problems)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        Err(StoreError::NoCheckpoint { path: self.path.clone(), problems })
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&self.connection).map_err(|error| schema::damaged_or_sqlite(error, &self.database))
    }

    fn rows<T>(&self, sql: &str, values: impl rusqlite::Params, item: impl FnMut(&Row) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        self.read(|connection| connection.prepare_cached(sql)?.query_map(values, item)?.collect())
    }

    /// Rows of one of the tables with `metric_id, step, epoch, time`; the item's columns begin at 4.
    fn logged<T>(&self, table: &str, columns: &str, name: &str, id: i64, item: fn(&Row) -> rusqlite::Result<T>) -> Result<Vec<Logged<T>>> {
        let kind = match table {
            "histograms" => MetricKind::Histogram,
            "images" => MetricKind::Image,
            "texts" => MetricKind::Text,
            "tables" => MetricKind::Table,
            _ => MetricKind::Matrix,
        };
        self.rows(
            &format!(
                "SELECT id, step, epoch, time, {columns} FROM {table}
                 WHERE metric_id = (SELECT id FROM metrics WHERE name = ?1 AND kind = ?2) AND id > ?3 ORDER BY id"
            ),
            rusqlite::params![name, kind.name(), id],
            |row| logged_from_row(row, item),
        )
    }

    /// One row of such a table; `None` when a rewind took it back.
    fn one<T>(&self, table: &str, columns: &str, id: i64, item: fn(&Row) -> rusqlite::Result<T>) -> Result<Option<Logged<T>>> {
        let sql = format!("SELECT id, step, epoch, time, {columns} FROM {table} WHERE id = ?1");
        Ok(self.rows(&sql, [id], |row| logged_from_row(row, item))?.pop())
    }
}

/// A checkpoint as the index or the name of its file tells it.
struct CheckpointFile {
    step: u64,
    path: PathBuf,
    abandoned: bool,
}

/// Every folder of `runs_dir`, newest first by name: a run, or a sentence about what is wrong with it. A folder that does not exist holds no runs.
pub fn list_runs(runs_dir: &Path) -> Result<Vec<RunSummary>> {
    let entries = match fs::read_dir(runs_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list the runs in", runs_dir)(error)),
    };
    let mut runs: Vec<RunSummary> = entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        // Hidden folders are runs in the making.
        .filter(|(id, path)| !id.starts_with('.') && path.is_dir())
        .map(|(id, path)| {
            let contents = RunReader::open(&path).and_then(|reader| Ok(RunContents { info: reader.info()?, metrics: reader.metrics()? }));
            RunSummary { id, path, contents: contents.map_err(|error| error.to_string()) }
        })
        .collect();
    runs.sort_by(|a, b| b.id.cmp(&a.id));
    Ok(runs)
}

/// The folder of the run that `query` means: a path, an id, the beginning or end of one id, or `last`.
pub fn find_run(runs_dir: &Path, query: &str) -> Result<PathBuf> {
    if Path::new(query).join(DATABASE_FILE).is_file() {
        return Ok(PathBuf::from(query));
    }
    let mut ids: Vec<String> = fs::read_dir(runs_dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join(DATABASE_FILE).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|id| !id.starts_with('.'))
        .collect();
    ids.sort();
    if query == "last" {
        // By time of creation: ids of one minute sort by name.
        let created = |id: &String| RunReader::open(&runs_dir.join(id)).and_then(|reader| reader.info()).map_or(0.0, |info| info.created);
        let newest = ids.iter().max_by(|a, b| created(a).total_cmp(&created(b)));
        return newest
            .map(|id| runs_dir.join(id))
            .ok_or_else(|| StoreError::NoRun { path: runs_dir.to_path_buf(), problem: "the folder holds no runs yet".to_string() });
    }
    if ids.iter().any(|id| id == query) {
        return Ok(runs_dir.join(query));
    }
    let near: Vec<&String> = ids.iter().filter(|id| !query.is_empty() && (id.starts_with(query) || id.ends_with(query))).collect();
    match near[..] {
        [id] => Ok(runs_dir.join(id)),
        [] => {
            let newest = ids.iter().rev().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let problem =
                if ids.is_empty() { "that folder holds no runs".to_string() } else { format!("the newest runs there are {newest}") };
            Err(StoreError::NoRun { path: runs_dir.join(query), problem })
        }
        _ => {
            let names = near.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
            Err(StoreError::NoRun { path: runs_dir.join(query), problem: format!("it could mean {names}: give more of the name") })
        }
    }
}

/// What is wrong with a folder that has no store.
pub(crate) fn missing_run_problem(path: &Path) -> String {
    let is_denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    if fs::metadata(path.join(DATABASE_FILE)).is_err_and(|error| is_denied(&error))
        || fs::read_dir(path).is_err_and(|error| is_denied(&error))
    {
        "this user may not read the folder: change its permissions".to_string()
    } else if path.is_dir() {
        format!("the folder has no `{DATABASE_FILE}`")
    } else {
        "there is no such folder. `solstice runs` lists what there is".to_string()
    }
}

pub(crate) fn metrics(connection: &Connection) -> rusqlite::Result<Vec<MetricSummary>> {
    connection
        .prepare_cached("SELECT id, name, kind, count, last_step, last, min, min_step, max, max_step FROM metrics ORDER BY id")?
        .query_map([], |row| {
            let kind: String = row.get(2)?;
            let kind = MetricKind::from_name(&kind).unwrap_or(MetricKind::Scalar);
            let count = unsigned(row.get(3)?);
            let pair = |value, step| -> rusqlite::Result<_> {
                Ok(row.get::<_, Option<f64>>(value)?.zip(row.get::<_, Option<i64>>(step)?.map(unsigned)))
            };
            Ok(MetricSummary {
                id: row.get(0)?,
                name: row.get(1)?,
                kind,
                count,
                last_step: row.get::<_, Option<i64>>(4)?.map(unsigned),
                // NULL is how SQLite keeps NaN.
                last: (kind == MetricKind::Scalar && count > 0).then_some(float_column(row, 5)?),
                min: pair(6, 7)?,
                max: pair(8, 9)?,
            })
        })?
        .collect()
}

/// The heartbeat of the process that writes; `None` when the last one closed the run.
pub(crate) fn heartbeat(connection: &Connection) -> rusqlite::Result<Option<Heartbeat>> {
    Ok(heartbeat_row(connection)?.and_then(|(beat, is_open)| is_open.then_some(beat)))
}

/// The heartbeat, and whether its writer has not closed the run.
fn heartbeat_row(connection: &Connection) -> rusqlite::Result<Option<(Heartbeat, bool)>> {
    connection
        .query_row("SELECT pid, pid_start, host, opened, time FROM heartbeat", [], |row| {
            let pid: Option<u32> = row.get(0)?;
            let beat =
                Heartbeat { pid: pid.unwrap_or(0), pid_start: row.get(1)?, host: row.get(2)?, opened: row.get(3)?, time: row.get(4)? };
            Ok((beat, pid.is_some()))
        })
        .optional()
}

/// A run that says it goes on while nobody writes it is lost.
fn judge_state(info: &mut RunInfo, beat: Option<(Heartbeat, bool)>) {
    let last_sign = beat.as_ref().map_or(info.created, |(beat, _)| beat.time);
    info.writer = beat.and_then(|(beat, is_open)| is_open.then_some(beat));
    if info.state.is_over() {
        return;
    }
    let reason = match &info.writer {
        None => "its process closed the run without finishing it".to_string(),
        Some(beat) => {
            let age = now() - beat.time;
            let gone = if beat.host == host_name() {
                age > BEAT_STALE_SECS && process_is_alive(beat.pid, beat.pid_start) == Some(false)
            } else {
                age > FOREIGN_BEAT_STALE_SECS
            };
            if !gone {
                return;
            }
            format!("process {} on {} is gone without a word (killed, or the machine went down)", beat.pid, beat.host)
        }
    };
    info.state = RunState::Lost;
    info.state_reason = Some(reason);
    info.state_time = last_sign;
}

fn run_info(connection: &Connection, path: &Path) -> rusqlite::Result<RunInfo> {
    let labels = connection
        .prepare_cached("SELECT key, value FROM labels")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<BTreeMap<String, String>>>()?;
    let mut select = connection.prepare_cached(
        "SELECT id, name, created, solstice_version, state, state_reason, state_time, recipe_path, config, command_line, seed, device, adapter,
         shaders_hash, parent_id, parent_step, parent_changes, budget, steps_total, steps_per_epoch, step, epoch, samples, progress_time, train_secs
         FROM run",
    )?;
    select.query_row([], |row| {
        let state: String = row.get(4)?;
        let config: String = row.get(8)?;
        let seed: String = row.get(10)?;
        let count = |column| -> rusqlite::Result<_> { Ok(row.get::<_, Option<i64>>(column)?.map(unsigned)) };
        let parent_id: Option<String> = row.get(14)?;
        let parent = match parent_id {
            Some(id) => {
                let changes: Option<String> = row.get(16)?;
                let changes = changes.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                Some(Parent { id, step: count(15)?.unwrap_or(0), changes })
            }
            None => None,
        };
        Ok(RunInfo {
            id: row.get(0)?,
            name: row.get(1)?,
            path: path.to_path_buf(),
            created: row.get(2)?,
            solstice_version: row.get(3)?,
            state: RunState::from_name(&state).unwrap_or(RunState::Failed),
            state_reason: row.get(5)?,
            state_time: row.get(6)?,
            recipe_path: row.get(7)?,
            config: serde_json::from_str(&config).unwrap_or(Value::String(config)),
            command_line: row.get(9)?,
            seed: seed.parse().unwrap_or(0),
            device: row.get(11)?,
            adapter: row.get(12)?,
            shaders_hash: row.get(13)?,
            parent,
            budget: row.get(17)?,
            steps_total: count(18)?,
            steps_per_epoch: count(19)?,
            at: At { step: unsigned(row.get(20)?), epoch: row.get(21)?, samples: unsigned(row.get(22)?) },
            progress_time: row.get(23)?,
            train_secs: row.get(24)?,
            writer: None,
            labels,
        })
    })
}

fn scalar_from_row(row: &Row) -> rusqlite::Result<Scalar> {
    Ok(Scalar {
        id: row.get(0)?,
        metric_id: row.get(1)?,
        at: At { step: unsigned(row.get(2)?), epoch: float_column(row, 3)?, samples: unsigned(row.get(4)?) },
        time: row.get(5)?,
        value: float_column(row, 6)?,
    })
}

fn logged_from_row<T>(row: &Row, item: impl Fn(&Row) -> rusqlite::Result<T>) -> rusqlite::Result<Logged<T>> {
    let at = At { step: unsigned(row.get(1)?), epoch: float_column(row, 2)?, samples: 0 };
    Ok(Logged { id: row.get(0)?, at, time: row.get(3)?, item: item(row)? })
}

fn image_from_row(row: &Row) -> rusqlite::Result<Image> {
    Ok(Image { format: row.get(4)?, width: row.get(5)?, height: row.get(6)?, caption: row.get(7)?, data: row.get(8)? })
}

fn histogram_from_row(row: &Row) -> rusqlite::Result<Histogram> {
    Ok(Histogram { edges: numbers_column(row, 4)?, counts: json_column(row, 5)?, not_finite: unsigned(row.get(6)?) })
}

fn table_from_row(row: &Row) -> rusqlite::Result<Table> {
    Ok(Table { columns: json_column(row, 4)?, rows: json_column(row, 5)? })
}

fn matrix_from_row(row: &Row) -> rusqlite::Result<Matrix> {
    Ok(Matrix { row_labels: json_column(row, 4)?, column_labels: json_column(row, 5)?, cells: numbers_column(row, 6)? })
}

/// SQLite keeps NaN as NULL.
fn float_column(row: &Row, column: usize) -> rusqlite::Result<f64> {
    Ok(row.get::<_, Option<f64>>(column)?.unwrap_or(f64::NAN))
}

fn json_column<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error)))
}

/// A JSON list of numbers in which `null` stands for what JSON has no number for.
fn numbers_column(row: &Row, column: usize) -> rusqlite::Result<Vec<f64>> {
    let numbers: Vec<Option<f64>> = json_column(row, column)?;
    Ok(numbers.into_iter().map(|number| number.unwrap_or(f64::NAN)).collect())
}
