//! The rows of a run as values: what [`RunWriter`](crate::RunWriter) takes and [`RunReader`](crate::RunReader) gives.
//!
//! Plain data, public fields. A step, a count of samples or an index is a `u64` here and an integer of 63 bits on disk; larger values are
//! stored as the largest. Reading order: position, run, metrics, what is logged, what steers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where in training something happened. `At::from(step)` where only the step matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// Optimizer steps finished.
    pub step: u64,
    /// Passes over the training data, with a fraction.
    pub epoch: f64,
    /// Samples seen.
    pub samples: u64,
}

impl From<u64> for At {
    fn from(step: u64) -> At {
        At { step, epoch: 0.0, samples: 0 }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Created; plugins load, shaders compile.
    Starting,
    /// Training.
    Running,
    /// Waits for `resume`, `step` or `stop`.
    Paused,
    /// Reached its budget.
    Done,
    /// Stopped on request, resumable.
    Stopped,
    /// Ended by an error, with a reason.
    Failed,
    /// Never written: a reader's verdict that the process is gone without a word (killed, power cut).
    Lost,
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: [RunState; 7] =
        [RunState::Starting, RunState::Running, RunState::Paused, RunState::Done, RunState::Stopped, RunState::Failed, RunState::Lost];

    /// The word on disk and on screen.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Starting => "starting",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Done => "done",
            RunState::Stopped => "stopped",
            RunState::Failed => "failed",
            RunState::Lost => "lost",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// No process works on the run any more.
    pub fn is_over(self) -> bool {
        matches!(self, RunState::Done | RunState::Stopped | RunState::Failed | RunState::Lost)
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A plugin that a run uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Its crate's name.
    pub name: String,
    /// Its crate's version.
    pub version: String,
    /// SHA-256 of the library file, hexadecimal.
    pub hash: String,
    /// Where it was loaded from.
    pub path: Option<String>,
    /// The components used of it, such as `model mlp`.
    pub provides: Vec<String>,
}

/// Where a forked run comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// Id of the parent run.
    pub id: String,
    /// Step of the parent at which this run begins.
    pub step: u64,
    /// What was changed: dotted key to `[old, new]`.
    pub changes: Map<String, Value>,
}

/// A run as its `run` row, heartbeat and labels tell it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// Unique name of the run and of its folder.
    pub id: String,
    /// What the recipe calls it.
    pub name: String,
    /// The run's folder.
    pub path: PathBuf,
    /// When it was created.
    pub created: f64,
    /// Version of Solstice that created it.
    pub solstice_version: String,
    /// What it is doing now; [`RunState::Lost`] when its process is gone without a word.
    pub state: RunState,
    /// Why: the error of a failed run, who stopped a stopped one.
    pub state_reason: Option<String>,
    /// When it came into this state; for a lost run the last sign of life.
    pub state_time: f64,
    /// The recipe it was started from.
    pub recipe_path: Option<String>,
    /// Resolved config, defaults filled in.
    pub config: Value,
    /// The command that started it.
    pub command_line: Option<String>,
    /// Seed of every random stream.
    pub seed: u64,
    /// `cpu` or `gpu`.
    pub device: Option<String>,
    /// The adapter's name and driver.
    pub adapter: Option<String>,
    /// SHA-256 over the shader sources.
    pub shaders_hash: Option<String>,
    /// The run it was forked from.
    pub parent: Option<Parent>,
    /// Its budget as written: `3ep`, `500st`.
    pub budget: Option<String>,
    /// Its budget in steps, where that is known.
    pub steps_total: Option<u64>,
    /// Steps of one epoch, where that is known.
    pub steps_per_epoch: Option<u64>,
    /// Where training is.
    pub at: At,
    /// When it last got further: a process that lives without progress hangs.
    pub progress_time: Option<f64>,
    /// Seconds of process time spent on this run, all its processes together.
    pub train_secs: f64,
    /// The process that writes it, while one does.
    pub writer: Option<Heartbeat>,
    /// Marks set by people: `name`, `note`, `tags`, `colour`, `pinned`, `archived`.
    pub labels: BTreeMap<String, String>,
}

/// Sign of life of the writing process, renewed every second.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Its process id on `host`.
    pub pid: u32,
    /// When that process started, in ticks since boot, where known: tells it from a later one with the same id.
    pub pid_start: Option<i64>,
    /// Its machine.
    pub host: String,
    /// When it opened the run.
    pub opened: f64,
    /// When it last wrote.
    pub time: f64,
}

/// What the rows of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// One number a row.
    Scalar,
    /// Counts between edges.
    Histogram,
    /// An encoded picture.
    Image,
    /// Text, such as generated samples.
    Text,
    /// Named columns.
    Table,
    /// Labelled rows and columns of numbers, such as a confusion matrix.
    Matrix,
}

impl MetricKind {
    /// Every kind.
    pub const ALL: [MetricKind; 6] =
        [MetricKind::Scalar, MetricKind::Histogram, MetricKind::Image, MetricKind::Text, MetricKind::Table, MetricKind::Matrix];

    /// The word on disk.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Scalar => "scalar",
            MetricKind::Histogram => "histogram",
            MetricKind::Image => "image",
            MetricKind::Text => "text",
            MetricKind::Table => "table",
            MetricKind::Matrix => "matrix",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<MetricKind> {
        MetricKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One metric's name and, for a scalar, its last, least and greatest value: kept as rows are written, so reading them costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSummary {
    /// What `Scalar::metric_id` refers to.
    pub id: i64,
    /// Such as `train/loss`.
    pub name: String,
    /// What its rows are.
    pub kind: MetricKind,
    /// How many rows.
    pub count: u64,
    /// Step of the last row.
    pub last_step: Option<u64>,
    /// Last value of a scalar; may be NaN or infinite.
    pub last: Option<f64>,
    /// Least value that is not NaN, and its first step.
    pub min: Option<(f64, u64)>,
    /// Greatest value that is not NaN, and its first step.
    pub max: Option<(f64, u64)>,
}

/// One row of `scalars`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalar {
    /// Row id; grows, never reused.
    pub id: i64,
    /// Which metric.
    pub metric_id: i64,
    /// Where in training.
    pub at: At,
    /// When.
    pub time: f64,
    /// The value; NaN and infinities as they were logged.
    pub value: f64,
}

/// A bite of new scalars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScalarPage {
    /// In the order they were written.
    pub rows: Vec<Scalar>,
    /// What to pass next.
    pub next_row_id: i64,
    /// There is more now: ask again at once.
    pub is_full: bool,
}

/// Rows that a resume from an earlier step took back: of those with an id up to `scalar_id`, the ones after `step` are gone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rewind {
    /// Row id.
    pub id: i64,
    /// When.
    pub time: f64,
    /// The last step that was kept.
    pub step: u64,
    /// Greatest id of `scalars` at that time.
    pub scalar_id: i64,
}

/// Counts between edges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Ascending, one more than `counts`.
    pub edges: Vec<f64>,
    /// How many values fell between two edges.
    pub counts: Vec<u64>,
    /// How many values were NaN or infinite, and so are in no bin.
    pub not_finite: u64,
}

/// An encoded picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// How `data` is encoded: `png`.
    pub format: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// One line to show with it.
    pub caption: String,
    /// The encoded bytes; empty in a listing without data.
    pub data: Vec<u8>,
}

/// Named columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Their names.
    pub columns: Vec<String>,
    /// Each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// Labelled rows and columns of numbers, such as a confusion matrix (row: truth; column: prediction).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Labels of rows.
    pub row_labels: Vec<String>,
    /// Labels of columns.
    pub column_labels: Vec<String>,
    /// Row after row.
    pub cells: Vec<f64>,
}

/// Something logged under a name, with where and when: `Logged<Image>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged<T> {
    /// Row id.
    pub id: i64,
    /// Where in training. Samples are not kept for these rows.
    pub at: At,
    /// When.
    pub time: f64,
    /// What.
    pub item: T,
}

/// Something that happened: a line of a run's history and a mark on its curves.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Event {
    /// Row id; set by the store.
    pub id: i64,
    /// When; set by the store.
    pub time: f64,
    /// At which step.
    pub step: u64,
    /// `state`, `checkpoint`, `eval`, `set`, `reload`, `nan`, `store`, ...
    pub kind: String,
    /// Who caused it: a user, `worker`, a callback's name.
    pub who: String,
    /// A sentence.
    pub message: String,
    /// The value before, of a change.
    pub old: Option<Value>,
    /// The value after, of a change.
    pub new: Option<Value>,
    /// The command that asked for it.
    pub command_id: Option<i64>,
}

impl Event {
    /// An event without values.
    pub fn new(step: u64, kind: &str, who: &str, message: impl Into<String>) -> Event {
        Event { step, kind: kind.to_string(), who: who.to_string(), message: message.into(), ..Event::default() }
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Row id.
    pub id: i64,
    /// When.
    pub time: f64,
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
    /// Which part or plugin wrote it.
    pub source: String,
    /// The text.
    pub message: String,
}

/// A checkpoint as the index tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRow {
    /// Name of the file in the run's folder `checkpoints`; names the checkpoint.
    pub file: String,
    /// The whole path.
    pub path: PathBuf,
    /// Where in training.
    pub at: At,
    /// Index of the next sample within the epoch.
    pub position: u64,
    /// When it was saved.
    pub time: f64,
    /// Size of the file.
    pub bytes: u64,
    /// Checksum of its content, as within the file.
    pub sha256: String,
    /// The metrics known when it was saved.
    pub metrics: BTreeMap<String, f64>,
    /// `cadence`, `every` (kept for ever), `best`, `end`, `stop`, `nan`, `reload`, `command`.
    pub reason: String,
    /// Retention leaves it.
    pub pinned: bool,
    /// A resume from an earlier step left it behind: not offered as the newest.
    pub abandoned: bool,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    /// In the table.
    Sent,
    /// The worker has it.
    Taken,
    /// Carried out.
    Done,
    /// Refused or failed, with a reason.
    Failed,
}

impl CommandState {
    /// The word on disk.
    pub fn name(self) -> &'static str {
        match self {
            CommandState::Sent => "sent",
            CommandState::Taken => "taken",
            CommandState::Done => "done",
            CommandState::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<CommandState> {
        [CommandState::Sent, CommandState::Taken, CommandState::Done, CommandState::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// A request to the worker of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Row id.
    pub id: i64,
    /// When it was sent.
    pub time: f64,
    /// Who sent it.
    pub who: String,
    /// `pause`, `resume`, `step`, `eval`, `checkpoint`, `stop`, `set`, `fork`, `reload`.
    pub kind: String,
    /// Its arguments, such as `{"key": "optimizer.lr", "value": 0.001}`.
    pub args: Value,
    /// How far it is.
    pub state: CommandState,
    /// What the worker answered.
    pub reason: Option<String>,
    /// When the worker took it.
    pub taken_time: Option<f64>,
    /// When it was done or failed.
    pub answered_time: Option<f64>,
}

/// How the writer fares. `problem` is the banner to show; all counts are since the writer was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Why rows do not reach the disk at present.
    pub problem: Option<String>,
    /// Since when.
    pub problem_since: Option<f64>,
    /// Rows in memory, not yet on disk.
    pub waiting_rows: usize,
    /// Bytes of memory that they take, about.
    pub waiting_bytes: usize,
    /// Transactions written.
    pub transactions: u64,
    /// Images, histograms, texts, tables and matrices given up to keep memory bounded.
    pub dropped_media: u64,
    /// Log lines given up.
    pub dropped_logs: u64,
    /// Scalars given up.
    pub dropped_scalars: u64,
    /// Events given up.
    pub dropped_events: u64,
    /// Rows that SQLite refused for what they are, such as an image above 1 GB.
    pub refused_rows: u64,
}

impl Health {
    /// Everything logged is on disk or about to be.
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && self.lost_rows() == 0
    }

    /// Rows that will never reach the disk.
    pub fn lost_rows(&self) -> u64 {
        self.dropped_media + self.dropped_logs + self.dropped_scalars + self.dropped_events + self.refused_rows
    }
}

/// One folder of a runs folder: a run, or what is wrong with it.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Name of the folder.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
    /// The run and its metrics, or a sentence.
    pub contents: Result<RunContents, String>,
}

/// What a table of runs shows of one.
#[derive(Clone, Debug)]
pub struct RunContents {
    /// The run.
    pub info: RunInfo,
    /// Its metrics with last and best values.
    pub metrics: Vec<MetricSummary>,
}

/// `metrics` as JSON that keeps NaN and infinities, as strings: a JSON number cannot.
pub(crate) fn json_from_metrics(metrics: &BTreeMap<String, f64>) -> String {
    let map: Map<String, Value> = metrics
        .iter()
        .map(|(name, &value)| {
            (name.clone(), serde_json::Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number))
        })
        .collect();
    Value::Object(map).to_string()
}

/// Inverse of [`json_from_metrics`]; what is no number is left out.
pub(crate) fn metrics_from_json(text: &str) -> BTreeMap<String, f64> {
    let map: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    map.into_iter()
        .filter_map(|(name, value)| {
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
            Some((name, number))
        })
        .collect()
}
