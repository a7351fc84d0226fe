//! [`RunData`]: follows one run in bounded bites. [`Run`]: what it knows, immutable once published.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use solstice_store::{
    CheckpointRow, Command, CommandState, DATABASE_FILE, Event, Heartbeat, LogLine, Logged, MetricKind, MetricSummary, Rewind, RunInfo,
    RunReader, RunState, StoreError, Table,
};

use super::series::Series;

/// Rows read at a time.
const PAGE_ROWS: usize = 4000;
/// A poll begins no new page after this.
const BITE: Duration = Duration::from_millis(6);
/// The newest log lines that are kept.
const LOG_LINES_MAX: usize = 5000;
/// The state of a run whose process dies changes without a row: looked at this often.
const STATE_INTERVAL: Duration = Duration::from_millis(250);
/// How long another program's lock on a run is waited for: the other runs wait too.
const LOCK_PATIENCE: Duration = Duration::from_millis(60);
/// The list of metrics is read at most in this part of the time: that of a run with thousands takes longer than what is new in it.
const METRICS_SHARE: u32 = 20;

/// The tables of which the newest row is part of a run: what the model is, and where a step's time goes. All others are read on demand.
pub const LATEST_TABLES: [&str; 2] = ["model/summary", "profile/kernels"];
/// The texts likewise.
pub const LATEST_TEXTS: [&str; 2] = ["model/graph", "profile/note"];

/// One run as a snapshot shows it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name of its folder, with as much of the path before it as tells it from the other runs that are followed; names the run.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// The sweep or cross-validation it belongs to: name of that folder.
    pub group: Option<String>,
    /// State, config, labels; `None` while it could not be read yet.
    pub info: Option<Arc<RunInfo>>,
    /// Every metric of every kind with last and best values, in the order in which they came.
    pub metrics: Arc<Vec<MetricSummary>>,
    /// Every scalar metric by name.
    pub series: BTreeMap<String, Arc<Series>>,
    /// What happened, oldest first.
    pub events: Arc<Vec<Event>>,
    /// The newest log lines, oldest first.
    pub logs: Arc<Vec<LogLine>>,
    /// The checkpoints by step.
    pub checkpoints: Arc<Vec<CheckpointRow>>,
    /// Every command that was sent, with how far it is.
    pub commands: Arc<Vec<Command>>,
    /// Where resumes went back to.
    pub rewinds: Arc<Vec<Rewind>>,
    /// The newest row of each of [`LATEST_TABLES`] that it has.
    pub latest_tables: Arc<BTreeMap<String, Arc<Logged<Table>>>>,
    /// The newest row of each of [`LATEST_TEXTS`] that it has.
    pub latest_texts: Arc<BTreeMap<String, Arc<Logged<String>>>>,
    /// Why it cannot be read, or not any more: a sentence to show in its row.
    pub problem: Option<String>,
    /// Everything that is on disk has been read.
    pub is_complete: bool,
    /// Changes with every change of anything here.
    pub version: u64,
}

impl Run {
    fn new(path: &Path, group: Option<String>) -> Run {
        Run {
            id: path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned()),
            path: path.to_path_buf(),
            group,
            info: None,
            metrics: Arc::default(),
            series: BTreeMap::new(),
            events: Arc::default(),
            logs: Arc::default(),
            checkpoints: Arc::default(),
            commands: Arc::default(),
            rewinds: Arc::default(),
            latest_tables: Arc::default(),
            latest_texts: Arc::default(),
            problem: None,
            is_complete: false,
            version: 0,
        }
    }

    /// What people call it: the label `name` if they gave one, else the recipe's name, else the folder's.
    pub fn title(&self) -> &str {
        let info = self.info.as_deref();
        info.map_or(&self.id, |info| info.labels.get("name").filter(|name| !name.is_empty()).unwrap_or(&info.name))
    }

    /// Part of the budget that is done, from 0 to 1, where the budget is known.
    pub fn progress(&self) -> Option<f64> {
        let info = self.info.as_ref()?;
        let total = info.steps_total.filter(|&total| total > 0)?;
        Some((info.at.step as f64 / total as f64).min(1.0))
    }

    /// Steps a second of late, from the newest points of the busiest metric; `None` before there are two.
    pub fn steps_per_sec(&self) -> Option<f64> {
        let series = self.series.values().max_by_key(|series| series.len())?;
        let last = series.last()?;
        let first = series.point(series.len().saturating_sub(50));
        let secs = last.time - first.time;
        (last.step > first.step && secs > 0.0).then(|| (last.step - first.step) as f64 / secs)
    }

    /// Seconds until the budget is done at the present speed; `None` for a run that is not running.
    pub fn eta_secs(&self) -> Option<f64> {
        let info = self.info.as_ref().filter(|info| info.state == RunState::Running)?;
        let left = info.steps_total?.saturating_sub(info.at.step);
        Some(left as f64 / self.steps_per_sec()?)
    }

    /// Bytes of memory that its points take.
    pub fn bytes(&self) -> usize {
        self.series.values().map(|series| series.bytes()).sum()
    }
}

/// Follows one run. Not for the thread that paints: [`RunData::poll`] reads from disk.
#[derive(Debug)]
pub struct RunData {
    run: Arc<Run>,
    reader: Option<RunReader>,
    /// `data_version` of the reader when everything was read.
    seen_version: Option<i64>,
    last_state_look: Option<Instant>,
    next_scalar: i64,
    last_rewind: i64,
    last_event: i64,
    last_log: i64,
    /// More lines of the log than one bite takes are on disk.
    has_more_logs: bool,
    /// The list of metrics is not read before.
    metrics_due: Option<Instant>,
    names: HashMap<i64, String>,
}

impl RunData {
    /// The run in folder `path`; reads nothing yet.
    pub fn new(path: &Path) -> RunData {
        RunData::in_group(path, None)
    }

    /// The same for a run of a sweep.
    pub fn in_group(path: &Path, group: Option<String>) -> RunData {
        RunData {
            run: Arc::new(Run::new(path, group)),
            reader: None,
            seen_version: None,
            last_state_look: None,
            next_scalar: 0,
            last_rewind: 0,
            last_event: 0,
            last_log: 0,
            has_more_logs: false,
            metrics_due: None,
            names: HashMap::new(),
        }
    }

    /// The same under another id, where the folder's name is not its own.
    pub fn with_id(mut self, id: String) -> RunData {
        Arc::make_mut(&mut self.run).id = id;
        self
    }

    /// What is known now. Costs nothing; later polls do not change it.
    pub fn run(&self) -> Arc<Run> {
        self.run.clone()
    }

    /// Reads what is new, for some milliseconds at most; true if anything changed. Call again at once while the run is not
    /// [complete](Run::is_complete). What cannot be read becomes the run's `problem`, and is tried again by the next call.
    pub fn poll(&mut self) -> bool {
        match self.read() {
            Ok(changed) => {
                let had_problem = self.run.problem.is_some();
                if had_problem {
                    self.change().problem = None;
                }
                changed || had_problem
            }
            Err(error) => {
                self.close();
                let sentence = error.to_string();
                if self.run.problem.as_ref() == Some(&sentence) {
                    return false;
                }
                let run = self.change();
                run.problem = Some(sentence);
                run.is_complete = true;
                true
            }
        }
    }

    /// Lets go of the file, so that many runs do not use up the descriptors of the process; the next poll opens it again.
    pub fn close(&mut self) {
        self.reader = None;
        self.seen_version = None;
        self.last_state_look = None;
    }

    /// The file is open.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    fn change(&mut self) -> &mut Run {
        let run = Arc::make_mut(&mut self.run);
        run.version += 1;
        run
    }

    fn read(&mut self) -> Result<bool, StoreError> {
        // An open file that was deleted can still be read, for ever.
        if !self.run.path.join(DATABASE_FILE).is_file() {
            self.reader = None;
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => RunReader::open_within(&self.run.path, LOCK_PATIENCE)?,
        };
        let changed = self.read_with(&reader)?;
        self.reader = Some(reader);
        Ok(changed)
    }

    fn read_with(&mut self, reader: &RunReader) -> Result<bool, StoreError> {
        let start = Instant::now();
        let data_version = reader.data_version()?;
        let is_quiet = self.seen_version == Some(data_version);
        let is_over = self.run.info.as_ref().is_some_and(|info| info.state.is_over());
        let is_state_due = !is_over && self.last_state_look.is_none_or(|last| last.elapsed() >= STATE_INTERVAL);
        if is_quiet && !is_state_due {
            return Ok(false);
        }
        let mut changed = false;
        let info = reader.info()?;
        self.last_state_look = Some(start);
        if self.run.info.as_deref() != Some(&info) {
            // The same folder with another run in it: begin again.
            if self.run.info.as_ref().is_some_and(|known| (&known.id, known.created) != (&info.id, info.created)) {
                let (path, group, id) = (self.run.path.clone(), self.run.group.clone(), self.run.id.clone());
                let version = self.run.version;
                *self = RunData::in_group(&path, group).with_id(id);
                self.change().version = version + 1;
            }
            changed = self.is_news(&info);
            self.change().info = Some(Arc::new(info));
        }
        if is_quiet {
            return Ok(changed);
        }
        // A run that is over is not looked at again: its last values must be there.
        let is_over = self.run.info.as_ref().is_some_and(|info| info.state.is_over());
        let reads_metrics = is_over || self.metrics_due.is_none_or(|due| Instant::now() >= due);
        if reads_metrics {
            let begin = Instant::now();
            let metrics = reader.metrics()?;
            if *self.run.metrics != metrics {
                self.read_latest(reader, &metrics)?;
                self.take_metrics(metrics);
                changed = true;
            }
            self.metrics_due = Some(Instant::now() + begin.elapsed() * METRICS_SHARE);
        }
        changed |= self.read_small_tables(reader)?;
        let is_complete = loop {
            let page = reader.scalars_since(self.next_scalar, PAGE_ROWS)?;
            // After the page, so that no row read here was taken back before without our knowing: rows already held are older than any rewind
            // found now, rows of the page are told apart by their id.
            let rewinds = reader.rewinds_since(self.last_rewind)?;
            changed |= !page.rows.is_empty() || !rewinds.is_empty();
            if page.rows.iter().any(|row| !self.names.contains_key(&row.metric_id)) {
                let metrics = reader.metrics()?;
                self.read_latest(reader, &metrics)?;
                self.take_metrics(metrics);
            }
            self.apply(&page.rows, &rewinds);
            self.next_scalar = page.next_row_id;
            if !page.is_full {
                break !self.has_more_logs;
            }
            if start.elapsed() >= BITE {
                break false;
            }
        };
        if self.run.is_complete != is_complete {
            self.change().is_complete = is_complete;
            changed = true;
        }
        self.seen_version = (is_complete && reads_metrics).then_some(data_version);
        Ok(changed)
    }

    /// There is something to show. A process that waits in a pause says every second that it lives, which is told only where somebody waits for its
    /// answer: a window over paused runs draws nothing.
    fn is_news(&self, info: &RunInfo) -> bool {
        let is_awaited = || self.run.commands.iter().any(|command| matches!(command.state, CommandState::Sent | CommandState::Taken));
        let Some(known) = self.run.info.as_deref().filter(|_| info.state == RunState::Paused && !is_awaited()) else { return true };
        let silent = |info: &RunInfo| {
            let writer = info.writer.clone().map(|writer| Heartbeat { time: 0.0, ..writer });
            RunInfo { writer, train_secs: 0.0, ..info.clone() }
        };
        silent(known) != silent(info)
    }

    /// The newest rows of what is kept of tables and texts, where their number has changed since the last look.
    fn read_latest(&mut self, reader: &RunReader, metrics: &[MetricSummary]) -> Result<(), StoreError> {
        // Whatever is new has a greater id; after a rewind there may be nothing new, and less than before.
        fn newest<T>(
            known: Option<&Arc<Logged<T>>>,
            read: impl Fn(i64) -> Result<Vec<Logged<T>>, StoreError>,
        ) -> Result<Option<Arc<Logged<T>>>, StoreError> {
            let last = match known {
                Some(known) => read(known.id)?.pop(),
                None => None,
            };
            Ok(match last {
                Some(last) => Some(last),
                None => read(0)?.pop(),
            }
            .map(Arc::new))
        }
        for metric in metrics.iter().filter(|metric| matches!(metric.kind, MetricKind::Table | MetricKind::Text)) {
            if self.run.metrics.iter().any(|known| known.id == metric.id && known.count == metric.count) {
                continue;
            }
            let name = metric.name.as_str();
            if metric.kind == MetricKind::Table && LATEST_TABLES.contains(&name) {
                let row = newest(self.run.latest_tables.get(name), |id| reader.tables(name, id))?;
                let tables = Arc::make_mut(&mut self.change().latest_tables);
                let _ = match row {
                    Some(row) => tables.insert(name.into(), row),
                    None => tables.remove(name),
                };
            } else if metric.kind == MetricKind::Text && LATEST_TEXTS.contains(&name) {
                let row = newest(self.run.latest_texts.get(name), |id| reader.texts(name, id))?;
                let texts = Arc::make_mut(&mut self.change().latest_texts);
                let _ = match row {
                    Some(row) => texts.insert(name.into(), row),
                    None => texts.remove(name),
                };
            }
        }
        Ok(())
    }

    fn take_metrics(&mut self, metrics: Vec<MetricSummary>) {
        for metric in metrics.iter().filter(|metric| metric.kind == MetricKind::Scalar) {
            self.names.entry(metric.id).or_insert_with(|| metric.name.clone());
        }
        self.change().metrics = Arc::new(metrics);
    }

    fn apply(&mut self, rows: &[solstice_store::Scalar], rewinds: &[Rewind]) {
        if rows.is_empty() && rewinds.is_empty() {
            return;
        }
        let run = Arc::make_mut(&mut self.run);
        run.version += 1;
        let origin = run.info.as_ref().map_or(0.0, |info| info.created);
        for rewind in rewinds {
            run.series.values_mut().for_each(|series| Arc::make_mut(series).rewind(rewind.step));
            self.last_rewind = rewind.id;
        }
        if !rewinds.is_empty() {
            Arc::make_mut(&mut run.rewinds).extend_from_slice(rewinds);
        }
        let was_taken_back =
            |row: &solstice_store::Scalar| rewinds.iter().any(|rewind| row.id <= rewind.scalar_id && row.at.step > rewind.step);
        // Metric by metric, so that a series is looked up and made writable once a page and not once a row.
        let mut rows: Vec<&solstice_store::Scalar> = rows.iter().filter(|row| !was_taken_back(row)).collect();
        rows.sort_by_key(|row| row.metric_id);
        for rows in rows.chunk_by(|a, b| a.metric_id == b.metric_id) {
            let Some(name) = self.names.get(&rows[0].metric_id) else { continue };
            if !run.series.contains_key(name) {
                run.series.insert(name.clone(), Arc::new(Series::new(origin)));
            }
            if let Some(series) = run.series.get_mut(name) {
                let series = Arc::make_mut(series);
                rows.iter().for_each(|row| series.push(row));
            }
        }
    }

    /// Everything but scalars.
    fn read_small_tables(&mut self, reader: &RunReader) -> Result<bool, StoreError> {
        let mut changed = false;
        let events = reader.events_since(self.last_event)?;
        if let Some(last) = events.last() {
            self.last_event = last.id;
            Arc::make_mut(&mut self.change().events).extend(events);
            changed = true;
        }
        let lines = reader.logs_since(self.last_log, LOG_LINES_MAX)?;
        self.has_more_logs = lines.len() == LOG_LINES_MAX;
        if let Some(last) = lines.last() {
            self.last_log = last.id;
            let logs = Arc::make_mut(&mut self.change().logs);
            logs.extend(lines);
            logs.drain(..logs.len().saturating_sub(LOG_LINES_MAX));
            changed = true;
        }
        // Commands change until they are answered, so those from the first open one on are read again.
        let is_open = |command: &Command| matches!(command.state, CommandState::Sent | CommandState::Taken);
        let first_open = self.run.commands.iter().position(is_open).unwrap_or(self.run.commands.len());
        let answered = first_open.checked_sub(1).map_or(0, |index| self.run.commands[index].id);
        let commands = reader.commands_since(answered)?;
        if commands != self.run.commands[first_open..] {
            let known = Arc::make_mut(&mut self.change().commands);
            known.truncate(first_open);
            known.extend(commands);
            changed = true;
        }
        let checkpoints = reader.checkpoints()?;
        if checkpoints != *self.run.checkpoints {
            self.change().checkpoints = Arc::new(checkpoints);
            changed = true;
        }
        Ok(changed)
    }
}
