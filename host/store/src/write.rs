//! [`RunWriter`]: the one process that writes a run.
//!
//! Calls from training only push into the queue of `queue.rs`; the thread of `thread.rs` writes it with the SQL of `insert.rs`. What the disk
//! refuses stays in memory, bounded, and is tried again: a full disk is a banner ([`RunWriter::health`]), never an error in the training loop.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::checkpoint::{self, NewCheckpoint, Tensor};
use crate::error::{Result, StoreError};
use crate::insert::{index_checkpoint, load_metrics, sql_integer, write_plugins};
use crate::process::{host_name, minute_stamp, now, process_is_alive, process_start_ticks, random_suffix};
use crate::queue::{Control, Media, Queue};
use crate::read;
use crate::rows::{
    At, CheckpointRow, Command, Event, Health, Heartbeat, Histogram, Image, LogLine, Matrix, Parent, PluginInfo, RunState, Table,
};
use crate::thread::{Shared, WriterThread};
use crate::{CHECKPOINT_FOLDER, DATABASE_FILE, LOCK_FILE, RECIPE_FILE, schema};

/// What is known of a run when it starts.
#[derive(Clone, Debug, Default)]
pub struct NewRun {
    /// Such as `mnist-convnet`; part of the id.
    pub name: String,
    /// The recipe it was started from.
    pub recipe_path: Option<String>,
    /// The resolved recipe, written to `recipe.ron`.
    pub recipe: String,
    /// Resolved config, defaults filled in.
    pub config: Value,
    /// The command that starts it.
    pub command_line: Option<String>,
    /// Seed of every random stream.
    pub seed: u64,
    /// `cpu` or `gpu`, where already known.
    pub device: Option<String>,
    /// The adapter's name and driver, where already known.
    pub adapter: Option<String>,
    /// SHA-256 over the shader sources.
    pub shaders_hash: Option<String>,
    /// Plugins that it uses.
    pub plugins: Vec<PluginInfo>,
    /// The run it is forked from.
    pub parent: Option<Parent>,
    /// Its budget as written: `3ep`, `500st`.
    pub budget: Option<String>,
    /// Its budget in steps, where already known.
    pub steps_total: Option<u64>,
    /// Steps of one epoch, where already known.
    pub steps_per_epoch: Option<u64>,
}

/// What a run learns later, or changes when it is resumed. `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct RunUpdate {
    /// See [`NewRun`].
    pub config: Option<Value>,
    /// See [`NewRun`].
    pub command_line: Option<String>,
    /// See [`NewRun`].
    pub device: Option<String>,
    /// See [`NewRun`].
    pub adapter: Option<String>,
    /// See [`NewRun`].
    pub shaders_hash: Option<String>,
    /// See [`NewRun`].
    pub budget: Option<String>,
    /// See [`NewRun`].
    pub steps_total: Option<u64>,
    /// See [`NewRun`].
    pub steps_per_epoch: Option<u64>,
}

/// How a writer uses memory and time.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Bound on the memory of rows that wait for the disk.
    pub memory_bytes_max: usize,
    /// Time between transactions.
    pub batch_interval: Duration,
    /// How long a drop goes on trying when the disk refuses rows.
    pub drop_patience: Duration,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions { memory_bytes_max: 64 << 20, batch_interval: Duration::from_millis(100), drop_patience: Duration::from_secs(2) }
    }
}

/// How long `flush` waits for the writer thread, which may wait seconds for another program's lock.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
/// How the hidden folder of a run that is being deleted ends.
const DELETED_SUFFIX: &str = ".deleted";
/// How long a deleted run that nobody purged, as after a crash of the window that could undo it, is left.
const TRASH_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// A store up to this size is checked page by page before a run goes on in it.
const CHECK_BYTES_MAX: u64 = 256 << 20;

/// The writing end of a run. All methods take `&self`, may be called from any thread (`Arc<RunWriter>`), and (but for `flush`, `rewind`,
/// `save_checkpoint` and `remove_checkpoint`, which say so) return at once. Dropping it writes what waits and marks the run as no longer written.
#[derive(Debug)]
pub struct RunWriter {
    id: String,
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Held while a checkpoint's file and its entry in the queue change together, so that the index follows the files in one order.
    checkpoints: Mutex<()>,
    /// Locked as long as this writer lives; the system unlocks it when the process dies.
    _lock: File,
}

impl RunWriter {
    /// Makes a new run in `runs_dir` (which is made too) under a readable id that no other run has.
    ///
    /// The run appears whole or not at all: it is built in a hidden folder and renamed.
    pub fn create(runs_dir: &Path, run: &NewRun) -> Result<RunWriter> {
        RunWriter::create_with(runs_dir, run, WriterOptions::default())
    }

    /// [`RunWriter::create`] with other limits.
    pub fn create_with(runs_dir: &Path, run: &NewRun, options: WriterOptions) -> Result<RunWriter> {
        fs::create_dir_all(runs_dir).map_err(StoreError::io("create the runs folder", runs_dir))?;
        remove_dead_drafts(runs_dir);
        // A clash of ids means the same minute, name and sixteen bits: try again.
        for _ in 0..16 {
            let id = format!("{}-{}-{}", minute_stamp(now()), folder_name(&run.name), random_suffix());
            let path = runs_dir.join(&id);
            let hidden = runs_dir.join(format!(".{id}.new"));
            if path.exists() || hidden.exists() {
                continue;
            }
            let lock = build_run(&hidden, &id, run).and_then(|lock| {
                fs::rename(&hidden, &path).map_err(StoreError::io("put the new run in place", &path))?;
                Ok(lock)
            });
            let lock = lock.inspect_err(|_| {
                let _ = fs::remove_dir_all(&hidden);
            })?;
            let connection = schema::open_for_writing(&path.join(DATABASE_FILE))?;
            return RunWriter::start(id, path, connection, lock, options);
        }
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        Err(StoreError::Io { action: "find a free run id in", path: runs_dir.to_path_buf(), source })
    }

    /// Opens the run in folder `path` to go on with it.
    ///
    /// Refuses a run that another live process writes, a store of a newer version and a damaged one. Commands that nobody answered are marked
    /// failed; half-written checkpoints are removed; a checkpoint that was renamed but not yet indexed when the process died is indexed.
    /// The state becomes `starting`. Call [`RunWriter::rewind`] with the step of the checkpoint that training goes on from.
    pub fn open(path: &Path) -> Result<RunWriter> {
        RunWriter::open_with(path, WriterOptions::default())
    }

    /// [`RunWriter::open`] with other limits.
    pub fn open_with(path: &Path, options: WriterOptions) -> Result<RunWriter> {
        let database = path.join(DATABASE_FILE);
        if !database.is_file() {
            return Err(StoreError::NoRun { path: path.to_path_buf(), problem: read::missing_run_problem(path) });
        }
        let lock = lock_run(path)?;
        let connection = schema::open_for_writing(&database)?;
        schema::bring_up_to_date(&connection, &database)?;
        let sqlite = |action| StoreError::sqlite(action, &database);
        if fs::metadata(&database).is_ok_and(|metadata| metadata.len() <= CHECK_BYTES_MAX) {
            let damage = schema::first_damage(&connection).map_err(|error| schema::damaged_or_sqlite(error, &database))?;
            if let Some(damage) = damage {
                let problem = format!("the run store is damaged ({damage}); its checkpoints may still be whole");
                return Err(StoreError::NotAStore { path: database, problem });
            }
        }
        // The lock does not reach over every network file system; a fresh heartbeat from another machine does.
        let heartbeat = read::heartbeat(&connection).map_err(sqlite("read the heartbeat of"))?;
        if let Some(other) = heartbeat.filter(is_fresh_and_foreign) {
            return Err(StoreError::Locked { path: path.to_path_buf(), who: writer_name(&other) });
        }
        let id: String = connection
            .query_row("SELECT id FROM run", [], |row| row.get(0))
            .map_err(|error| schema::damaged_or_sqlite(error, &database))?;
        connection
            .execute(
                "UPDATE commands SET state = 'failed', answered_time = ?1,
                 reason = iif(state = 'taken', 'the process ended before it answered', 'no process worked on the run when it was sent')
                 WHERE state IN ('sent', 'taken')",
                [now()],
            )
            .map_err(sqlite("close the old commands of"))?;
        connection
            .execute("UPDATE run SET state = 'starting', state_reason = NULL, state_time = ?1", [now()])
            .map_err(sqlite("set the state of"))?;
        tidy_checkpoints(&connection, path)?;
        RunWriter::start(id, path.to_path_buf(), connection, lock, options)
    }

    fn start(id: String, path: PathBuf, connection: Connection, lock: File, options: WriterOptions) -> Result<RunWriter> {
        let database = path.join(DATABASE_FILE);
        let sqlite = |action| StoreError::sqlite(action, &database);
        let mut queue = Queue::new(options.memory_bytes_max);
        let metrics = load_metrics(&connection).map_err(sqlite("read the metrics of"))?;
        for metric in &metrics {
            queue.metric_index(metric.kind, &metric.name);
        }
        connection
            .execute(
                "INSERT OR REPLACE INTO heartbeat (one, pid, pid_start, host, opened, time) VALUES (1, ?1, ?2, ?3, ?4, ?4)",
                params![std::process::id(), process_start_ticks(std::process::id()), host_name(), now()],
            )
            .map_err(sqlite("write the heartbeat of"))?;
        let shared = Arc::new(Shared::new(queue));
        let thread_shared = shared.clone();
        let thread = std::thread::Builder::new()
            .name("run-store".to_string())
            .spawn(move || {
                let writing = AssertUnwindSafe(|| WriterThread::new(&thread_shared, connection, metrics, options).run());
                let outcome = std::panic::catch_unwind(writing);
                let mut queue = thread_shared.queue();
                queue.thread_ended = true;
                if outcome.is_err() {
                    queue.health.problem =
                        Some("the thread that writes the run store ended by a defect of Solstice; please report it".to_string());
                    queue.health.problem_since = Some(now());
                }
                thread_shared.written.notify_all();
            })
            .map_err(StoreError::io("start the writer thread for", &path))?;
        Ok(RunWriter { id, path, shared, thread: Some(thread), checkpoints: Mutex::new(()), _lock: lock })
    }

    /// Id of the run: name of its folder when it was made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The run's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Logs one value; NaN and infinities are kept.
    pub fn scalar(&self, at: impl Into<At>, name: &str, value: f64) {
        self.scalars(at, &[(name, value)]);
    }

    /// Logs values of one step. The everyday call of a training loop: well under a microsecond a value, and a known name allocates nothing.
    pub fn scalars(&self, at: impl Into<At>, scalars: &[(&str, f64)]) {
        self.push(|queue| queue.push_scalars(at.into(), now(), scalars));
    }

    /// Tells where training is, when nothing is logged at this step.
    pub fn progress(&self, at: impl Into<At>) {
        self.push(|queue| queue.progress(at.into(), now()));
    }

    /// Logs counts between edges.
    pub fn histogram(&self, at: impl Into<At>, name: &str, histogram: Histogram) {
        self.media(at.into(), name, Media::Histogram(histogram));
    }

    /// Logs an encoded picture.
    pub fn image(&self, at: impl Into<At>, name: &str, image: Image) {
        self.media(at.into(), name, Media::Image(image));
    }

    /// Logs text, such as generated samples.
    pub fn text(&self, at: impl Into<At>, name: &str, text: impl Into<String>) {
        self.media(at.into(), name, Media::Text(text.into()));
    }

    /// Logs named columns.
    pub fn table(&self, at: impl Into<At>, name: &str, table: Table) {
        self.media(at.into(), name, Media::Table(table));
    }

    /// Logs labelled numbers, such as a confusion matrix.
    pub fn matrix(&self, at: impl Into<At>, name: &str, matrix: Matrix) {
        self.media(at.into(), name, Media::Matrix(matrix));
    }

    /// Logs a line of text for the log view.
    pub fn log(&self, level: &str, source: &str, message: impl Into<String>) {
        let line = LogLine { id: 0, time: now(), level: level.to_string(), source: source.to_string(), message: message.into() };
        self.push(|queue| queue.push_log(line));
    }

    /// Notes something that happened. `id` and `time` are set here.
    pub fn event(&self, event: Event) {
        self.push(|queue| queue.push_event(Event { time: now(), ..event }));
    }

    /// Changes the state, with the reason of a stop or failure; on disk within milliseconds.
    pub fn state(&self, state: RunState, reason: Option<&str>) {
        debug_assert!(state != RunState::Lost, "`lost` is a reader's verdict");
        self.control(Control::State { state, reason: reason.map(str::to_string), time: now() });
    }

    /// Sets what became known after the start.
    pub fn update(&self, update: RunUpdate) {
        self.control(Control::Update(Box::new(update)));
    }

    /// Replaces the list of plugins, after a reload.
    pub fn plugins(&self, plugins: &[PluginInfo]) {
        self.control(Control::Plugins(plugins.to_vec()));
    }

    /// Commands that arrived since the last call, marked as taken. Costs one atomic load when there are none: call it every step.
    pub fn pending_commands(&self) -> Vec<Command> {
        if !self.shared.commands_wait.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let commands: Vec<Command> = self.shared.commands().drain(..).collect();
        for command in &commands {
            self.control(Control::CommandTaken { id: command.id, time: now() });
        }
        commands
    }

    /// As [`RunWriter::pending_commands`], but waits up to `timeout` for the first: for a paused run.
    pub fn wait_for_commands(&self, timeout: Duration) -> Vec<Command> {
        let commands = self.shared.commands();
        let (commands, _) = self
            .shared
            .command_came
            .wait_timeout_while(commands, timeout, |commands| commands.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        drop(commands);
        self.pending_commands()
    }

    /// Answers a command: done (with a remark, or an empty one) or failed (with the reason); on disk within milliseconds.
    pub fn complete_command(&self, id: i64, outcome: Result<&str, &str>) {
        let (done, reason) = match outcome {
            Ok(remark) => (true, Some(remark).filter(|remark| !remark.is_empty()).map(str::to_string)),
            Err(reason) => (false, Some(reason.to_string())),
        };
        self.control(Control::CommandAnswered { id, done, reason, time: now() });
    }

    /// Takes back what was logged after `step`, so that a resumed run logs those steps once; checkpoints after it are marked abandoned.
    /// Events and logs stay: they happened. Waits for the disk.
    pub fn rewind(&self, step: u64) -> Result<()> {
        self.flush()?;
        self.control(Control::Rewind { step, time: now() });
        self.flush()
    }

    /// Saves a checkpoint: rows logged so far, then the file (beside, fsync, rename), then its index. Waits for the disk: call it from a thread
    /// that training does not wait for. An error leaves all earlier checkpoints as they were, and no half-written file.
    pub fn save_checkpoint(&self, new: &NewCheckpoint, tensors: &[Tensor]) -> Result<CheckpointRow> {
        // A run resumed from this file must find what was logged before it. When the disk refuses rows the weights matter more.
        let _ = self.flush();
        let file = checkpoint::file_name(new.at.step);
        let path = self.path.join(CHECKPOINT_FOLDER).join(&file);
        let time = now();
        let _order = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = checkpoint::save_checkpoint(&path, new, tensors)?;
        let row = CheckpointRow {
            file,
            path,
            at: new.at,
            position: new.position,
            time,
            bytes: saved.bytes,
            sha256: saved.sha256,
            metrics: new.metrics.clone(),
            reason: new.reason.clone(),
            pinned: new.pinned,
            abandoned: false,
        };
        self.control(Control::Checkpoint(Box::new(row.clone())));
        Ok(row)
    }

    /// Deletes a checkpoint of this run, then its index. Waits for the end of a save on another thread.
    pub fn remove_checkpoint(&self, file: &str) -> Result<()> {
        let path = self.path.join(CHECKPOINT_FOLDER).join(file);
        let _order = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove the checkpoint", &path)(error));
            }
            _ => self.control(Control::RemoveCheckpoint { file: file.to_string() }),
        }
        Ok(())
    }

    /// Keeps a checkpoint from retention, or lets go of it.
    pub fn pin_checkpoint(&self, file: &str, pinned: bool) {
        self.control(Control::PinCheckpoint { file: file.to_string(), pinned });
    }

    /// How the writing fares: the banner to show, and what was given up.
    pub fn health(&self) -> Health {
        self.shared.queue().health()
    }

    /// Waits until everything that was logged before this call is on disk, or says why it is not.
    pub fn flush(&self) -> Result<()> {
        let mut queue = self.shared.queue();
        queue.flush_requested += 1;
        let ticket = queue.flush_requested;
        self.shared.wake.notify_one();
        let (queue, _) = self
            .shared
            .written
            .wait_timeout_while(queue, FLUSH_PATIENCE, |queue| queue.flush_finished < ticket && !queue.thread_ended)
            .unwrap_or_else(PoisonError::into_inner);
        let problem = if queue.flush_finished >= ticket {
            queue.flush_problem.clone()
        } else {
            Some(queue.health.problem.clone().unwrap_or_else(|| "the disk does not answer".to_string()))
        };
        match problem {
            None => Ok(()),
            Some(problem) => {
                Err(StoreError::NotSaved { path: self.path.join(DATABASE_FILE), row_count: queue.health().waiting_rows, problem })
            }
        }
    }

    fn media(&self, at: At, name: &str, item: Media) {
        self.push(|queue| queue.push_media(name, at, now(), item));
    }

    fn control(&self, control: Control) {
        self.shared.queue().push_control(control);
        self.shared.wake.notify_one();
    }

    fn push(&self, push: impl FnOnce(&mut Queue)) {
        let mut queue = self.shared.queue();
        push(&mut queue);
        let filling = queue.is_filling();
        drop(queue);
        if filling {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        self.shared.queue().shutdown = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Deletes the run in `folder` with all its checkpoints: [`trash_run`], then [`purge_run`].
///
/// Refuses a folder that is no run, and a run that a live process writes. The run disappears at once or not at all. A damaged store, or one of a
/// newer version, can be deleted too.
pub fn delete_run(folder: &Path) -> Result<()> {
    purge_run(&trash_run(folder)?)
}

/// Puts the run in `folder` away: it disappears from every list at once, and [`restore_run`] brings it back from the hidden folder beside it that
/// is returned. What nobody restores or purges goes when the next run is made, a day later at the earliest.
///
/// Refuses what [`delete_run`] refuses.
pub fn trash_run(folder: &Path) -> Result<PathBuf> {
    if !folder.join(DATABASE_FILE).is_file() {
        return Err(StoreError::NoRun { path: folder.to_path_buf(), problem: read::missing_run_problem(folder) });
    }
    // The name below must be that of the run's own folder, also for `.` or a link.
    let folder = folder.canonicalize().map_err(StoreError::io("find the run folder", folder))?;
    let lock = lock_to_delete(&folder)?;
    if let Some(other) = foreign_writer(&folder.join(DATABASE_FILE)) {
        return Err(StoreError::InUse { path: folder, who: writer_name(&other) });
    }
    // The time of the lock says when this was, and so how long the run can be restored: a folder keeps its own time when it is renamed.
    lock.set_modified(SystemTime::now()).map_err(StoreError::io("mark the run as deleted", &folder))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let hidden = folder.with_file_name(format!(".{name}{DELETED_SUFFIX}"));
    fs::rename(&folder, &hidden).map_err(StoreError::io("delete the run", &folder))?;
    Ok(hidden)
}

/// Brings back what [`trash_run`] put into `hidden`, and returns the run's folder, which is the very one it was.
///
/// Errors: `StoreError::NoRun` when nothing that can be restored is there; `StoreError::Io` when another run took its place meanwhile.
pub fn restore_run(hidden: &Path) -> Result<PathBuf> {
    let no_run = |problem: &str| StoreError::NoRun { path: hidden.to_path_buf(), problem: problem.to_string() };
    let name = trashed_name(hidden).ok_or_else(|| no_run("this is not the folder of a deleted run"))?;
    if !hidden.join(DATABASE_FILE).is_file() {
        return Err(no_run("the deleted run is gone for good"));
    }
    let folder = hidden.with_file_name(&name);
    let _lock = lock_to_delete(hidden)?;
    if folder.exists() {
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(StoreError::Io { action: "restore the deleted run to", path: folder, source });
    }
    fs::rename(hidden, &folder).map_err(StoreError::io("restore the deleted run to", &folder))?;
    Ok(folder)
}

/// Deletes for good what [`trash_run`] put into `hidden`; nothing happens where nothing is.
///
/// Errors: `StoreError::NoRun` for any other folder.
pub fn purge_run(hidden: &Path) -> Result<()> {
    if trashed_name(hidden).is_none() {
        let problem = "this is not the folder of a deleted run".to_string();
        return Err(StoreError::NoRun { path: hidden.to_path_buf(), problem });
    }
    if !hidden.exists() {
        return Ok(());
    }
    // Without its store it can neither be restored nor be taken for a run by anybody.
    match fs::remove_file(hidden.join(DATABASE_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("delete what is left of the run in", hidden)(error))
        }
        _ => fs::remove_dir_all(hidden).map_err(StoreError::io("delete what is left of the run in", hidden)),
    }
}

/// The name that a deleted run had, by that of its hidden folder.
fn trashed_name(hidden: &Path) -> Option<String> {
    let name = hidden.file_name()?.to_str()?;
    name.strip_prefix('.')?.strip_suffix(DELETED_SUFFIX).filter(|name| !name.is_empty()).map(str::to_string)
}

fn lock_to_delete(folder: &Path) -> Result<File> {
    lock_run(folder).map_err(|error| match error {
        StoreError::Locked { path, who } => StoreError::InUse { path, who },
        other => other,
    })
}

/// Who writes the run in `folder` at this moment, if somebody does: `process 4242 on host7`.
pub fn writer_of(folder: &Path) -> Option<String> {
    match lock_run(folder) {
        Err(StoreError::Locked { who, .. }) => Some(who),
        _ => foreign_writer(&folder.join(DATABASE_FILE)).map(|beat| writer_name(&beat)),
    }
}

/// The process of another machine that writes the store by its fresh heartbeat. The lock does not reach over every network file system.
fn foreign_writer(database: &Path) -> Option<Heartbeat> {
    let connection = schema::open_for_reading(database, schema::BUSY_TIMEOUT).ok()?;
    read::heartbeat(&connection).ok()?.filter(is_fresh_and_foreign)
}

fn is_fresh_and_foreign(beat: &Heartbeat) -> bool {
    beat.host != host_name() && now() - beat.time < read::FOREIGN_BEAT_STALE_SECS
}

/// `name` as part of a folder's name: lower case, letters, digits and single hyphens.
fn folder_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().take(60) {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { "run".to_string() } else { out.to_string() }
}

/// Everything of a new run but its place: folders, recipe, store with its `run` row. Returns the held lock.
fn build_run(folder: &Path, id: &str, run: &NewRun) -> Result<File> {
    let checkpoints = folder.join(CHECKPOINT_FOLDER);
    fs::create_dir_all(&checkpoints).map_err(StoreError::io("create the run folder", &checkpoints))?;
    let lock = lock_run(folder)?;
    let recipe = folder.join(RECIPE_FILE);
    fs::write(&recipe, &run.recipe).map_err(StoreError::io("write the recipe", &recipe))?;
    let database = folder.join(DATABASE_FILE);
    let connection = schema::create(&database)?;
    let time = now();
    let parent = run.parent.as_ref();
    let insert = || {
        connection.execute(
            "INSERT INTO run (one, id, name, created, solstice_version, state, state_time, recipe_path, config, command_line, seed, device, adapter,
             shaders_hash, parent_id, parent_step, parent_changes, budget, steps_total, steps_per_epoch)
             VALUES (1, ?1, ?2, ?3, ?4, 'starting', ?3, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
            params![
                id,
                run.name,
                time,
                env!("CARGO_PKG_VERSION"),
                run.recipe_path,
                run.config.to_string(),
                run.command_line,
                run.seed.to_string(),
                run.device,
                run.adapter,
                run.shaders_hash,
                parent.map(|parent| &parent.id),
                parent.map(|parent| sql_integer(parent.step)),
                parent.map(|parent| Value::Object(parent.changes.clone()).to_string()),
                run.budget,
                run.steps_total.map(sql_integer),
                run.steps_per_epoch.map(sql_integer)
            ],
        )?;
        // The folder appears with a writer's heartbeat in it: nobody can take the new run for a lost one.
        connection.execute(
            "INSERT INTO heartbeat (one, pid, pid_start, host, opened, time) VALUES (1, ?1, ?2, ?3, ?4, ?4)",
            params![std::process::id(), process_start_ticks(std::process::id()), host_name(), time],
        )?;
        write_plugins(&connection, &run.plugins)
    };
    insert().map_err(StoreError::sqlite("write the new run to", &database))?;
    // Closing moves the log into the file, so that the rename takes one whole file.
    connection.close().map_err(|(_, error)| StoreError::sqlite("close", &database)(error))?;
    Ok(lock)
}

/// Removes what dead processes left: runs that were being made (their lock is a minute old and nobody holds it), and deleted runs that cannot be
/// restored any more or that nobody restored within [`TRASH_PATIENCE`]. What cannot be removed is left.
fn remove_dead_drafts(runs_dir: &Path) {
    for entry in fs::read_dir(runs_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        // Since when, and nobody holds it.
        let lock_age = || {
            let lock = File::open(path.join(LOCK_FILE)).ok()?;
            let age = lock.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            lock.try_lock().is_ok().then_some(age)
        };
        let is_older = |limit: Duration| lock_age().is_some_and(|age| age > limit);
        if name.starts_with('.')
            && ((name.ends_with(DELETED_SUFFIX) && (!path.join(DATABASE_FILE).is_file() || is_older(TRASH_PATIENCE)))
                || (name.ends_with(".new") && is_older(Duration::from_secs(60))))
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Takes the lock of the run in `folder`, or says who has it.
fn lock_run(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(StoreError::io("open the lock file", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let heartbeat = schema::open_for_reading(&folder.join(DATABASE_FILE), schema::BUSY_TIMEOUT)
                .ok()
                .and_then(|connection| read::heartbeat(&connection).ok()?);
            let who = heartbeat.map_or_else(|| "another process".to_string(), |beat| writer_name(&beat));
            Err(StoreError::Locked { path: folder.to_path_buf(), who })
        }
        // A file system without locks: the heartbeat is what is left.
        Err(TryLockError::Error(_)) => {
            let heartbeat = schema::open_for_reading(&folder.join(DATABASE_FILE), schema::BUSY_TIMEOUT)
                .ok()
                .and_then(|connection| read::heartbeat(&connection).ok()?);
            match heartbeat {
                Some(beat) if beat.host == host_name() && process_is_alive(beat.pid, beat.pid_start) == Some(true) => {
                    Err(StoreError::Locked { path: folder.to_path_buf(), who: writer_name(&beat) })
                }
                _ => Ok(file),
            }
        }
    }
}

fn writer_name(beat: &Heartbeat) -> String {
    format!("process {} on {}", beat.pid, beat.host)
}

/// Brings files and index together again after a process died between the two.
fn tidy_checkpoints(connection: &Connection, run: &Path) -> Result<()> {
    let folder = run.join(CHECKPOINT_FOLDER);
    let database = run.join(DATABASE_FILE);
    let sqlite = |action| StoreError::sqlite(action, &database);
    fs::create_dir_all(&folder).map_err(StoreError::io("create the checkpoints folder", &folder))?;
    for entry in fs::read_dir(&folder).map_err(StoreError::io("list the checkpoints in", &folder))?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.ends_with(checkpoint::PARTIAL_SUFFIX) {
            let _ = fs::remove_file(entry.path());
        } else if file.ends_with(checkpoint::SUFFIX) {
            let indexed: Option<String> = connection
                .query_row("SELECT sha256 FROM checkpoints WHERE file = ?1", [&file], |row| row.get(0))
                .optional()
                .map_err(sqlite("read the checkpoints of"))?;
            // A new checkpoint of an already indexed step replaces the file first, so the names may match and the sums differ.
            if indexed.as_deref() == checkpoint::recorded_sha256(&entry.path()).as_deref() && indexed.is_some() {
                continue;
            }
            // A damaged file stays where it is, out of the index.
            if let Ok(row) = checkpoint::row_from_file(&entry.path()) {
                index_checkpoint(connection, &row).map_err(sqlite("index a checkpoint of"))?;
            }
        }
    }
    let mut select = connection.prepare("SELECT file FROM checkpoints").map_err(sqlite("read the checkpoints of"))?;
    let files: Vec<String> =
        select.query_map([], |row| row.get(0)).and_then(|rows| rows.collect()).map_err(sqlite("read the checkpoints of"))?;
    for file in files.iter().filter(|file| !folder.join(file).exists()) {
        connection.execute("DELETE FROM checkpoints WHERE file = ?1", [file]).map_err(sqlite("tidy the checkpoints of"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunReader;

    fn limit_pages(writer: &RunWriter, pages: Option<u32>) {
        writer.shared.queue().page_count_max = pages;
    }

    /// `PRAGMA max_page_count` makes SQLite answer SQLITE_FULL, as a full disk does.
    #[test]
    fn a_full_disk_is_a_banner_and_nothing_is_lost_when_space_returns() {
        let runs = tempfile::tempdir().unwrap();
        let writer = RunWriter::create(runs.path(), &NewRun::default()).unwrap();
        writer.flush().unwrap();
        limit_pages(&writer, Some(1));
        for step in 0..20_000u64 {
            writer.scalar(step, "train/loss", step as f64);
        }
        let error = writer.flush().unwrap_err().to_string();
        assert!(error.contains("full") && error.contains("rows wait in memory"), "{error}");
        let health = writer.health();
        assert!(health.problem.as_ref().is_some_and(|problem| problem.contains("free some space")), "{health:?}");
        assert!(health.waiting_rows >= 20_000, "{health:?}");
        // The run goes on meanwhile, commands and state too.
        writer.scalar(20_000, "train/loss", f64::NAN);
        writer.state(RunState::Running, None);
        limit_pages(&writer, None);
        writer.flush().unwrap();
        assert_eq!(writer.health().problem, None);
        assert_eq!(writer.health().lost_rows(), 0);
        writer.flush().unwrap();
        let reader = RunReader::open(writer.path()).unwrap();
        let values = reader.series("train/loss").unwrap();
        assert_eq!(values.len(), 20_001);
        assert!(values.iter().take(20_000).all(|row| row.value == row.at.step as f64));
        assert!(reader.events_since(0).unwrap().iter().any(|event| event.kind == "store" && event.message.contains("takes rows again")));
    }

    /// Both refuse at once, as on one disk: SQLite its pages, `/dev/full` the bytes of the checkpoint.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_checkpoint_that_a_full_disk_refuses_is_told_while_scalars_wait_and_all_recovers() {
        let runs = tempfile::tempdir().unwrap();
        let writer = RunWriter::create(runs.path(), &NewRun::default()).unwrap();
        let reader = RunReader::open(writer.path()).unwrap();
        let at = |step: u64| NewCheckpoint { at: step.into(), reason: "cadence".into(), ..NewCheckpoint::default() };
        for step in [1, 2] {
            writer.save_checkpoint(&at(step), &[]).unwrap();
        }
        writer.flush().unwrap();
        limit_pages(&writer, Some(1));
        for step in 0..20_000u64 {
            writer.scalar(step, "train/loss", step as f64);
        }
        std::os::unix::fs::symlink("/dev/full", writer.path().join("checkpoints/step-000000003.safetensors.partial")).unwrap();
        let sentence = writer.save_checkpoint(&at(3), &[]).unwrap_err().to_string();
        assert!(sentence.contains("free some space"), "{sentence}");
        // Retention goes on meanwhile: the file goes at once, its row when the disk takes rows again.
        writer.remove_checkpoint("step-000000001.safetensors").unwrap();
        writer.save_checkpoint(&at(4), &[]).unwrap();
        assert!(writer.flush().is_err() && writer.health().waiting_rows >= 20_000, "{:?}", writer.health());
        assert_eq!(reader.latest_good().unwrap().1.info.at.step, 4, "found by its file, though not indexed");
        limit_pages(&writer, None);
        writer.flush().unwrap();
        assert_eq!((writer.health().problem, writer.health().lost_rows()), (None, 0));
        assert_eq!(reader.series("train/loss").unwrap().len(), 20_000);
        assert_eq!(reader.checkpoints().unwrap().iter().map(|row| row.at.step).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(std::fs::read_dir(writer.path().join("checkpoints")).unwrap().count(), 2);
    }

    #[test]
    fn a_disk_that_stays_full_bounds_memory_and_keeps_scalars_longest() {
        let runs = tempfile::tempdir().unwrap();
        let options = WriterOptions { memory_bytes_max: 1 << 20, drop_patience: Duration::from_millis(50), ..WriterOptions::default() };
        let writer = RunWriter::create_with(runs.path(), &NewRun::default(), options).unwrap();
        let path = writer.path().to_path_buf();
        writer.flush().unwrap();
        limit_pages(&writer, Some(1));
        for step in 0..200u64 {
            writer.scalar(step, "train/loss", 1.0);
            writer.image(step, "sample", Image { format: "png".into(), width: 8, height: 8, data: vec![7; 20_000], ..Image::default() });
        }
        assert!(writer.flush().is_err());
        let health = writer.health();
        assert!(health.waiting_bytes <= 1 << 20, "{health:?}");
        assert!(health.dropped_media > 100 && health.dropped_scalars == 0, "{health:?}");
        drop(writer);
        assert_eq!(RunReader::open(&path).unwrap().info().unwrap().id, path.file_name().unwrap().to_string_lossy());
    }

    #[test]
    fn folder_names_are_plain() {
        assert_eq!(folder_name("MNIST  convnet (v2)!"), "mnist-convnet-v2");
        assert_eq!(folder_name("../..//"), "run");
        assert_eq!(folder_name("Größe"), "gr-e");
    }
}
