//! [`Library`]: follows runs folders on a thread and publishes a [`Snapshot`] after each change.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde_json::{Value, json};
use solstice_store::{CommandState, DATABASE_FILE, StoreError};

use super::run::{Run, RunData};

/// Between two looks at runs that go on.
pub(super) const LIVE_INTERVAL: Duration = Duration::from_millis(50);
/// Between two looks for new, deleted and revived runs.
pub(super) const FOLDER_INTERVAL: Duration = Duration::from_millis(500);
/// Looking at all runs takes at most one part in this many of the time, as long as that leaves no more than the longest interval between two looks.
const FOLDER_SHARE: u32 = 200;
/// The longest interval.
const FOLDER_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// While much is read, a snapshot is published this often.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);
/// Runs whose files are kept open: each takes three descriptors.
pub(super) const OPEN_RUNS_MAX: usize = 64;
/// At most these many runs are read at the same time.
const READERS_MAX: usize = 4;
/// Sent commands that are remembered.
const SENT_MAX: usize = 200;
/// A file in a folder that is a sweep or a cross-validation: its subfolders hold the runs.
pub(super) const TRIALS_FILE: &str = "trials.json";
/// First and longest wait before a run that could not be read is tried again.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Folders are listed again this often even if they look unchanged: their times are coarse.
pub(super) const LISTING_INTERVAL: Duration = Duration::from_secs(5);

/// Kind of a [`SentCommand`] that set or took away a mark.
pub const LABEL: &str = "label";
/// Kind of a [`SentCommand`] that deleted a run.
pub const DELETE: &str = "delete";
/// Kind of a [`SentCommand`] that brought a deleted run back.
pub const RESTORE: &str = "restore";
/// Kind of a [`SentCommand`] that wrote a text beside a runs folder; its `run` is the file.
pub const SAVE: &str = "save";

/// What the runs folders held at one moment. Never changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every snapshot published.
    pub version: u64,
    /// Every run, newest first by the name of its folder.
    pub runs: Vec<Arc<Run>>,
    /// What is wrong with a runs folder as a whole, a sentence each.
    pub problems: Vec<String>,
    /// Commands sent from here, oldest first, with what became of them.
    pub sent: Vec<SentCommand>,
    /// Runs deleted from here that can be restored, oldest first.
    pub trashed: Vec<Trashed>,
    /// Some run is not read to its end yet.
    pub is_loading: bool,
}

impl Snapshot {
    /// Everything in these folders, read on the calling thread: for tests and for commands without a window.
    pub fn read(folders: &[PathBuf]) -> Snapshot {
        let mut shelf = Shelf::new(folders);
        shelf.look_at_folders();
        while shelf.is_loading() {
            shelf.look_at_runs(true);
        }
        shelf.snapshot(1, &[], &[])
    }

    /// The run in this folder.
    pub fn run(&self, path: &Path) -> Option<&Arc<Run>> {
        self.runs.iter().find(|run| run.path == path)
    }
}

/// A deleted run that can be restored as long as the window is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// What people called it.
    pub title: String,
    /// The folder that it had.
    pub run: PathBuf,
    /// Where it waits.
    pub hidden: PathBuf,
    /// Runs that were deleted together have the same.
    pub batch: u64,
}

impl Trashed {
    /// Puts a run away.
    ///
    /// Errors: as [`solstice_store::trash_run`].
    pub fn new(run: &Path, title: &str, batch: u64) -> Result<Trashed, StoreError> {
        let hidden = solstice_store::trash_run(run)?;
        Ok(Trashed { title: title.to_string(), run: run.to_path_buf(), hidden, batch })
    }
}

/// Writes `text` to a new file beside `folder`: `runs-table.csv`, and where that is taken `runs-table-2.csv`. Returns its path.
///
/// Errors: a sentence.
pub fn save_beside(folder: &Path, ending: &str, text: &str) -> Result<PathBuf, String> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let stem = folder.file_name().map_or_else(|| "runs".into(), |name| name.to_string_lossy().into_owned());
    for count in 1..1000 {
        let number = if count == 1 { String::new() } else { format!("-{count}") };
        let path = folder.with_file_name(format!("{stem}-table{number}.{ending}"));
        match fs::File::create_new(&path) {
            Ok(mut file) => {
                return file
                    .write_all(text.as_bytes())
                    .map(|()| path.clone())
                    .map_err(|error| format!("cannot write {}: {error}", path.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot make {}: {error}", path.display())),
        }
    }
    Err(format!("there are a thousand tables beside {} already: delete some", folder.display()))
}

/// How far a command sent from here is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentState {
    /// Not in the run's table yet.
    Sending,
    /// In the table; the worker has not seen it.
    Sent,
    /// The worker has it.
    Taken,
    /// Carried out.
    Done,
    /// Not sent, refused or failed: see the reason.
    Failed,
}

/// A command sent from here.
#[derive(Clone, Debug, PartialEq)]
pub struct SentCommand {
    /// What [`Library::send`] returned.
    pub ticket: u64,
    /// Folder of the run.
    pub run: PathBuf,
    /// `pause`, `resume`, `step`, `eval`, `checkpoint`, `stop`, `set`, ...; `label` for a mark.
    pub kind: String,
    /// Its arguments.
    pub args: Value,
    /// How far it is.
    pub state: SentState,
    /// The worker's answer, or why it could not be sent.
    pub reason: Option<String>,
    /// When it was sent, in seconds since 1970.
    pub time: f64,
    /// Its row in the run's `commands`, once it is there.
    pub id: Option<i64>,
}

impl SentCommand {
    /// It is in the run's table, in this row; it was a mark; or neither, and why.
    fn settle(&mut self, outcome: Delivery) {
        match outcome {
            Ok(Some(id)) => (self.state, self.id) = (SentState::Sent, Some(id)),
            Ok(None) => self.state = SentState::Done,
            Err(reason) => (self.state, self.reason) = (SentState::Failed, Some(reason)),
        }
    }
}

/// Carries commands and marks to runs that are mirrored here from another machine: what is written into a mirror reaches nobody. All calls return
/// at once.
pub trait Outbox: Send + Sync {
    /// The folder of the mirrors.
    fn folder(&self) -> &Path;

    /// Sends a command or a mark ([`LABEL`]) on its way, from `who`.
    fn post(&self, command: &SentCommand, who: &str);

    /// What became of those sent since the last call, by their tickets: the row of a command, nothing for a mark, or a sentence.
    fn settled(&self) -> Vec<(u64, Result<Option<i64>, String>)>;

    /// What is wrong with the connection, a sentence each.
    fn problems(&self) -> Vec<String>;
}

enum Request {
    Send(SentCommand),
    Trash(Vec<SentCommand>),
    Restore(Vec<SentCommand>),
    Save(SentCommand, &'static str, String),
    AddFolder(PathBuf),
    /// From a courier: what became of the command of this ticket.
    Delivered(u64, Delivery),
    Stop,
}

/// The row of a command, nothing for a mark, or a sentence.
type Delivery = Result<Option<i64>, String>;

type OnChange = Box<dyn Fn() + Send + Sync>;

/// Follows runs folders. Dropping it ends its thread and deletes for good what was deleted from here.
pub struct Library {
    snapshot: Arc<ArcSwap<Snapshot>>,
    on_change: Arc<Mutex<Option<OnChange>>>,
    requests: Sender<Request>,
    tickets: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Library {
    /// Begins to follow these runs folders. One that does not exist yet is looked for; it may also be the folder of one run.
    pub fn open(folders: &[PathBuf]) -> Library {
        Library::open_with(folders, Vec::new())
    }

    /// The same, and the mirrors of these outboxes, in their folders.
    pub fn open_with(folders: &[PathBuf], outboxes: Vec<Arc<dyn Outbox>>) -> Library {
        let folders: Vec<PathBuf> = folders.iter().cloned().chain(outboxes.iter().map(|outbox| outbox.folder().to_path_buf())).collect();
        let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
        let on_change: Arc<Mutex<Option<OnChange>>> = Arc::default();
        let (requests, inbox) = unbounded();
        let who = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_else(|_| "dashboard".to_string());
        let follower = Follower {
            shelf: Shelf::new(&folders),
            couriers: Couriers::new(&who, &requests),
            outboxes,
            problems: Vec::new(),
            sent: Vec::new(),
            trashed: Vec::new(),
            batches: 0,
            snapshot: snapshot.clone(),
            on_change: on_change.clone(),
            version: 0,
            who,
        };
        let thread = std::thread::Builder::new().name("runs".to_string()).spawn(move || follower.run(&inbox));
        Library { snapshot, on_change, requests, tickets: AtomicU64::new(1), thread: Some(thread.expect("a thread can be started")) }
    }

    /// The newest snapshot: one atomic load, no lock, never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// How often a snapshot was published.
    pub fn changed(&self) -> u64 {
        self.snapshot.load().version
    }

    /// Calls `wake` after each new snapshot, on the library's thread; it must be quick, such as asking a window to repaint.
    pub fn on_change(&self, wake: OnChange) {
        *self.on_change.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(wake);
    }

    /// Sends a command to the run in folder `run` from the library's thread and returns its ticket; what becomes of it stands in
    /// [`Snapshot::sent`].
    pub fn send(&self, run: &Path, kind: &str, args: Value) -> u64 {
        let command = self.command(run, kind, args);
        let ticket = command.ticket;
        // The thread ends only with the library.
        let _ = self.requests.send(Request::Send(command));
        ticket
    }

    /// Sets a mark on a run (`name`, `note`, `tags`, `colour`, `pinned`, `archived`), or takes it away; what becomes of it stands in
    /// [`Snapshot::sent`] under the kind [`LABEL`].
    pub fn set_label(&self, run: &Path, key: &str, value: Option<&str>) -> u64 {
        let command = self.command(run, LABEL, json!({"key": key, "value": value}));
        let ticket = command.ticket;
        let _ = self.requests.send(Request::Send(command));
        ticket
    }

    /// Deletes these runs, together. They can be restored from [`Snapshot::trashed`] until the library is dropped, which deletes them for good.
    /// A run that is being written is left; the sentence stands in [`Snapshot::sent`] under the kind [`DELETE`].
    pub fn trash(&self, runs: &[PathBuf]) {
        let commands = runs.iter().map(|run| self.command(run, DELETE, Value::Null)).collect();
        let _ = self.requests.send(Request::Trash(commands));
    }

    /// Brings back deleted runs by the hidden folders they wait in.
    pub fn restore(&self, hidden: &[PathBuf]) {
        let commands = hidden.iter().map(|hidden| self.command(hidden, RESTORE, Value::Null)).collect();
        let _ = self.requests.send(Request::Restore(commands));
    }

    /// Writes a text to a new file beside `folder`; where stands in [`Snapshot::sent`] under the kind [`SAVE`].
    pub fn save_beside(&self, folder: &Path, ending: &'static str, text: String) {
        let _ = self.requests.send(Request::Save(self.command(folder, SAVE, Value::Null), ending, text));
    }

    /// Follows one more runs folder.
    pub fn add_folder(&self, folder: &Path) {
        let _ = self.requests.send(Request::AddFolder(folder.to_path_buf()));
    }

    fn command(&self, run: &Path, kind: &str, args: Value) -> SentCommand {
        SentCommand {
            ticket: self.tickets.fetch_add(1, Ordering::Relaxed),
            run: run.to_path_buf(),
            kind: kind.to_string(),
            args,
            state: SentState::Sending,
            reason: None,
            time: solstice_store::now(),
            id: None,
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The library's thread.
struct Follower {
    shelf: Shelf,
    couriers: Couriers,
    outboxes: Vec<Arc<dyn Outbox>>,
    /// Of the outboxes, as they were published.
    problems: Vec<String>,
    sent: Vec<SentCommand>,
    trashed: Vec<Trashed>,
    batches: u64,
    snapshot: Arc<ArcSwap<Snapshot>>,
    on_change: Arc<Mutex<Option<OnChange>>>,
    version: u64,
    who: String,
}

impl Follower {
    fn run(mut self, inbox: &Receiver<Request>) {
        let mut folders_due = Instant::now();
        // The first snapshot comes at once, also from empty folders.
        let mut changed = true;
        loop {
            let begin = Instant::now();
            let is_folder_time = begin >= folders_due;
            if is_folder_time {
                changed |= self.shelf.look_at_folders();
            }
            changed |= self.shelf.look_at_runs(is_folder_time);
            changed |= self.look_at_outboxes();
            if is_folder_time {
                // Thousands of runs are looked at less often, so that an idle window costs next to nothing.
                let wait = if self.shelf.is_loading() { FOLDER_INTERVAL } else { begin.elapsed() * FOLDER_SHARE };
                folders_due = Instant::now() + wait.clamp(FOLDER_INTERVAL, FOLDER_INTERVAL_MAX);
            }
            changed |= self.look_at_sent();
            if changed {
                self.publish();
                changed = false;
            }
            let wait = match (self.shelf.is_loading(), self.shelf.has_live()) {
                (true, _) => Duration::ZERO,
                (false, true) => LIVE_INTERVAL,
                (false, false) if !self.outboxes.is_empty() => LIVE_INTERVAL,
                (false, false) => FOLDER_INTERVAL,
            };
            match inbox.recv_timeout(wait) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.couriers.wait();
                    return self.purge();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(request) => {
                    self.carry_out(request);
                    changed = true;
                }
            }
        }
    }

    fn carry_out(&mut self, request: Request) {
        let command = match request {
            Request::AddFolder(folder) => {
                if !self.shelf.folders.contains(&folder) {
                    self.shelf.folders.push(folder);
                    self.shelf.look_at_folders();
                }
                return;
            }
            Request::Trash(commands) => {
                self.batches += 1;
                return commands.into_iter().for_each(|command| self.trash(command));
            }
            Request::Restore(commands) => return commands.into_iter().for_each(|command| self.restore(command)),
            Request::Save(mut command, ending, text) => {
                match save_beside(&command.run, ending, &text) {
                    Ok(path) => (command.state, command.run) = (SentState::Done, path),
                    Err(sentence) => (command.state, command.reason) = (SentState::Failed, Some(sentence)),
                }
                return self.remember(command);
            }
            Request::Delivered(ticket, delivery) => return self.settle(ticket, delivery),
            Request::Send(command) => command,
            Request::Stop => return,
        };
        if let Some(outbox) = self.outboxes.iter().find(|outbox| command.run.starts_with(outbox.folder())) {
            outbox.post(&command, &self.who);
            return self.remember(command);
        }
        self.couriers.take(command.clone());
        self.remember(command);
    }

    fn settle(&mut self, ticket: u64, delivery: Delivery) {
        if let Some(command) = self.sent.iter_mut().find(|command| command.ticket == ticket) {
            command.settle(delivery);
            self.shelf.wake(&command.run);
        }
    }

    fn remember(&mut self, command: SentCommand) {
        let run = command.run.clone();
        self.sent.push(command);
        self.sent.drain(..self.sent.len().saturating_sub(SENT_MAX));
        self.shelf.wake(&run);
    }

    /// What other machines answered, and how the connections to them are.
    fn look_at_outboxes(&mut self) -> bool {
        let mut changed = false;
        for (ticket, outcome) in self.outboxes.iter().flat_map(|outbox| outbox.settled()) {
            if let Some(command) = self.sent.iter_mut().find(|command| command.ticket == ticket) {
                command.settle(outcome);
                changed = true;
            }
        }
        let problems: Vec<String> = self.outboxes.iter().flat_map(|outbox| outbox.problems()).collect();
        changed |= problems != self.problems;
        self.problems = problems;
        changed
    }

    fn trash(&mut self, mut command: SentCommand) {
        if self.outboxes.iter().any(|outbox| command.run.starts_with(outbox.folder())) {
            (command.state, command.reason) =
                (SentState::Failed, Some("a run of another machine is deleted there, not from here".to_string()));
            return self.remember(command);
        }
        let title = match self.shelf.runs.get_mut(&command.run) {
            Some(entry) => {
                // An open file may keep a folder from being renamed.
                entry.data.close();
                entry.data.run().title().to_string()
            }
            None => command.run.display().to_string(),
        };
        match Trashed::new(&command.run, &title, self.batches) {
            Ok(trashed) => {
                command.state = SentState::Done;
                self.trashed.push(trashed);
            }
            Err(error) => (command.state, command.reason) = (SentState::Failed, Some(error.to_string())),
        }
        self.remember(command);
        self.shelf.list_again();
    }

    fn restore(&mut self, mut command: SentCommand) {
        match solstice_store::restore_run(&command.run) {
            Ok(_) => command.state = SentState::Done,
            Err(error) => (command.state, command.reason) = (SentState::Failed, Some(error.to_string())),
        }
        // What cannot be restored now may be later, unless it is gone.
        let is_settled = command.state == SentState::Done || !command.run.exists();
        self.trashed.retain(|trashed| !is_settled || trashed.hidden != command.run);
        self.remember(command);
        self.shelf.list_again();
    }

    /// Deletes for good what was not restored. What a crash leaves goes when a run is made, a day later.
    fn purge(&mut self) {
        for trashed in self.trashed.drain(..) {
            let _ = solstice_store::purge_run(&trashed.hidden);
        }
    }

    /// Follows what workers make of the commands sent from here.
    fn look_at_sent(&mut self) -> bool {
        let mut changed = false;
        for command in self.sent.iter_mut().filter(|command| matches!(command.state, SentState::Sent | SentState::Taken)) {
            let run = self.shelf.runs.get(&command.run).map(|entry| entry.data.run());
            let row = run.as_ref().and_then(|run| run.commands.iter().rev().find(|row| Some(row.id) == command.id).cloned());
            let (mut state, mut reason) = (command.state, command.reason.clone());
            if let Some(row) = row {
                reason = row.reason;
                state = match row.state {
                    CommandState::Sent => SentState::Sent,
                    CommandState::Taken => SentState::Taken,
                    CommandState::Done => SentState::Done,
                    CommandState::Failed => SentState::Failed,
                };
            }
            let is_over = run.is_none_or(|run| run.is_complete && run.info.as_ref().is_some_and(|info| info.state.is_over()));
            if is_over && matches!(state, SentState::Sent | SentState::Taken) {
                (state, reason) = (SentState::Failed, Some("the run ended before it answered".to_string()));
            }
            if (state, &reason) != (command.state, &command.reason) {
                (command.state, command.reason) = (state, reason);
                changed = true;
            }
        }
        changed
    }

    fn publish(&mut self) {
        self.version += 1;
        let mut snapshot = self.shelf.snapshot(self.version, &self.sent, &self.trashed);
        snapshot.problems.extend_from_slice(&self.problems);
        self.snapshot.store(Arc::new(snapshot));
        if let Some(wake) = &*self.on_change.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            wake();
        }
    }
}

/// Carry commands and marks to the stores of runs on this machine, those of a run one after the other, by threads that end when there is nothing left:
/// a store that another program holds locked is waited for, and nobody waits with it.
struct Couriers {
    who: String,
    answers: Sender<Request>,
    /// What a run's courier has not taken yet; without one there is no courier.
    waiting: Arc<Mutex<HashMap<PathBuf, VecDeque<SentCommand>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Couriers {
    fn new(who: &str, answers: &Sender<Request>) -> Couriers {
        Couriers { who: who.to_string(), answers: answers.clone(), waiting: Arc::default(), threads: Vec::new() }
    }

    fn take(&mut self, command: SentCommand) {
        self.threads.retain(|thread| !thread.is_finished());
        let run = command.run.clone();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let has_courier = waiting.contains_key(&run);
            waiting.entry(run.clone()).or_default().push_back(command);
            if has_courier {
                return;
            }
        }
        let (who, answers, waiting) = (self.who.clone(), self.answers.clone(), self.waiting.clone());
        let carry = move || {
            loop {
                let command = {
                    let mut waiting = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    let Some(command) = waiting.get_mut(&run).and_then(VecDeque::pop_front) else {
                        waiting.remove(&run);
                        return;
                    };
                    command
                };
                // The library is gone: nobody asks any more.
                let _ = answers.send(Request::Delivered(command.ticket, deliver(&command, &who)));
            }
        };
        match std::thread::Builder::new().name("courier".to_string()).spawn(carry.clone()) {
            Ok(thread) => self.threads.push(thread),
            // No thread is to be had: late is better than not at all.
            Err(_) => carry(),
        }
    }

    /// Until everything is delivered, or was refused.
    fn wait(&mut self) {
        // A panic there was printed when it happened.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn deliver(command: &SentCommand, who: &str) -> Delivery {
    let outcome = if command.kind == LABEL {
        let key = command.args["key"].as_str().unwrap_or_default();
        match command.args["value"].as_str() {
            Some(value) => solstice_store::set_label(&command.run, key, value),
            None => solstice_store::forget_label(&command.run, key),
        }
        .map(|()| None)
    } else {
        solstice_store::send_command(&command.run, who, &command.kind, &command.args).map(Some)
    };
    outcome.map_err(|error| error.to_string())
}

/// Size and time of a run's files: what tells a closed run from one that goes on.
pub(super) type Stamp = [Option<(u64, SystemTime)>; 2];

struct Entry {
    data: RunData,
    /// The files as they were before everything was read; `None`: read again.
    stamp: Option<Stamp>,
    /// When one that could not be read is tried again, and how long that was put off.
    retry: Option<(Instant, Duration)>,
}

impl Entry {
    fn new(data: RunData) -> Entry {
        Entry { data, stamp: None, retry: None }
    }

    /// There is something to look at. One that is not open costs three looks at its files, and is opened only when they changed or its process may
    /// have died; `all`: looks at those too.
    fn is_due(&self, path: &Path, all: bool) -> bool {
        match self.retry {
            Some((when, _)) => Instant::now() >= when,
            None if self.data.is_open() || self.stamp.is_none() => true,
            None => all && (self.stamp != Some(stamp(path)) || is_live(&self.data)),
        }
    }

    /// Reads what is new; true if anything is.
    fn look(&mut self, path: &Path, open_count: &AtomicUsize) -> bool {
        let now = stamp(path);
        let changed = self.data.poll();
        let run = self.data.run();
        self.stamp = run.is_complete.then_some(now);
        self.plan_retry();
        if run.is_complete && (!is_live(&self.data) || open_count.load(Ordering::Relaxed) >= OPEN_RUNS_MAX) {
            self.data.close();
        }
        open_count.fetch_add(usize::from(self.data.is_open()), Ordering::Relaxed);
        changed
    }

    /// Puts the next try off, longer and longer while it fails: it may wait for another program's lock, and all other runs with it.
    fn plan_retry(&mut self) {
        let wait = |(_, last): (Instant, Duration)| (last * 2).min(RETRY_WAIT.1);
        let has_problem = self.data.run().problem.is_some();
        self.retry = has_problem.then(|| self.retry.map_or(RETRY_WAIT.0, wait)).map(|wait| (Instant::now() + wait, wait));
    }
}

/// The runs, on the library's thread.
struct Shelf {
    folders: Vec<PathBuf>,
    runs: BTreeMap<PathBuf, Entry>,
    problems: Vec<String>,
    /// Folders that were listed, with the time of their last change.
    listed: Vec<(PathBuf, Option<SystemTime>)>,
    listed_at: Option<Instant>,
    /// Runs that are read at the same time while many are opened.
    reader_count_max: usize,
}

impl Shelf {
    fn new(folders: &[PathBuf]) -> Shelf {
        // One processor is the window's.
        let reader_count_max = std::thread::available_parallelism().map_or(1, |count| count.get() - 1).clamp(1, READERS_MAX);
        let (folders, runs) = (folders.to_vec(), BTreeMap::new());
        Shelf { folders, runs, problems: Vec::new(), listed: Vec::new(), listed_at: None, reader_count_max }
    }

    /// Finds new runs and forgets deleted ones; true if there were any. Lists nothing while no folder has changed.
    fn look_at_folders(&mut self) -> bool {
        let is_recent = self.listed_at.is_some_and(|at| at.elapsed() < LISTING_INTERVAL);
        let is_known = |folder: &PathBuf| self.listed.iter().any(|(path, _)| path == folder);
        let is_same = |(path, time): &(PathBuf, Option<SystemTime>)| changed_time(path) == *time;
        if is_recent && self.folders.iter().all(is_known) && self.listed.iter().all(is_same) {
            return false;
        }
        self.listed_at = Some(Instant::now());
        let mut listing = Listing::default();
        for folder in &self.folders {
            listing.add(folder, None, true);
        }
        self.listed = listing.listed;
        let mut changed = self.problems != listing.problems;
        self.problems = listing.problems;
        let count = self.runs.len();
        self.runs.retain(|path, _| listing.runs.contains_key(path));
        changed |= self.runs.len() != count;
        let mut ids: Option<BTreeSet<String>> = None;
        for (path, group) in listing.runs {
            if !self.runs.contains_key(&path) {
                let ids = ids.get_or_insert_with(|| self.runs.values().map(|entry| entry.data.run().id.clone()).collect());
                let id = free_id(&path, ids);
                ids.insert(id.clone());
                self.runs.insert(path.clone(), Entry::new(RunData::in_group(&path, group).with_id(id)));
                changed = true;
            }
        }
        changed
    }

    /// Reads what is new in the runs, for [`PUBLISH_INTERVAL`] at most; true if anything is. `all`: also looks at those that are over.
    fn look_at_runs(&mut self, all: bool) -> bool {
        let end = Instant::now() + PUBLISH_INTERVAL;
        let mut due: Vec<(&PathBuf, &mut Entry)> = self.runs.iter_mut().rev().filter(|(path, entry)| entry.is_due(path, all)).collect();
        // What goes on does not wait for what is opened.
        due.sort_by_key(|(_, entry)| entry.stamp.is_none());
        let reader_count = due.iter().filter(|(_, entry)| entry.stamp.is_none()).count().clamp(1, self.reader_count_max);
        let (due, open_count) = (Mutex::new(due.into_iter()), AtomicUsize::new(0));
        let read = || {
            let mut changed = false;
            while Instant::now() < end {
                let next = due.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                let Some((path, entry)) = next else { break };
                changed |= entry.look(path, &open_count);
            }
            changed
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (1..reader_count).map(|_| scope.spawn(read)).collect();
            // A panic there was printed when it happened.
            readers.into_iter().fold(read(), |changed, reader| reader.join().unwrap_or(true) || changed)
        })
    }

    /// Lists the folders at once, as after a run was deleted or restored here.
    fn list_again(&mut self) {
        self.listed_at = None;
        self.look_at_folders();
    }

    /// Looks at the run in this folder again by the next call.
    fn wake(&mut self, path: &Path) {
        if let Some(entry) = self.runs.get_mut(path).filter(|entry| entry.data.run().is_complete) {
            (entry.stamp, entry.retry) = (None, None);
        }
    }

    fn is_loading(&self) -> bool {
        self.runs.values().any(|entry| entry.stamp.is_none())
    }

    fn has_live(&self) -> bool {
        self.runs.values().any(|entry| entry.data.is_open())
    }

    fn snapshot(&self, version: u64, sent: &[SentCommand], trashed: &[Trashed]) -> Snapshot {
        let mut runs: Vec<Arc<Run>> = self.runs.values().map(|entry| entry.data.run()).collect();
        runs.sort_by(|a, b| b.id.cmp(&a.id).then_with(|| a.path.cmp(&b.path)));
        let is_loading = runs.iter().any(|run| !run.is_complete);
        Snapshot { version, runs, problems: self.problems.clone(), sent: sent.to_vec(), trashed: trashed.to_vec(), is_loading }
    }
}

/// The folder's name, with as much of the path before it as tells it from `taken`.
fn free_id(path: &Path, taken: &BTreeSet<String>) -> String {
    let mut id = String::new();
    for part in path.components().rev().map(|part| part.as_os_str().to_string_lossy()) {
        id = if id.is_empty() { part.into_owned() } else { format!("{part}/{id}") };
        if !taken.contains(&id) {
            break;
        }
    }
    id
}

/// A process works on the run, or may.
fn is_live(data: &RunData) -> bool {
    data.run().info.as_ref().is_some_and(|info| !info.state.is_over())
}

pub(super) fn stamp(path: &Path) -> Stamp {
    let of = |name: &str| fs::metadata(path.join(name)).ok().and_then(|file| Some((file.len(), file.modified().ok()?)));
    // Reading leaves an empty one behind, which is no news.
    let wal = of(&format!("{DATABASE_FILE}-wal")).filter(|(len, _)| *len > 0);
    [of(DATABASE_FILE), wal]
}

pub(super) fn changed_time(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|folder| folder.modified()).ok()
}

/// What lies in runs folders.
#[derive(Default)]
pub(super) struct Listing {
    /// With the sweep that each belongs to.
    pub runs: BTreeMap<PathBuf, Option<String>>,
    /// Folders that cannot be listed, a sentence each.
    pub problems: Vec<String>,
    /// Folders that were listed, with the time of their last change.
    pub listed: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Listing {
    /// Adds what `folder` holds; `is_given`: by the user, who may also name a run or a sweep.
    pub fn add(&mut self, folder: &Path, group: Option<&str>, is_given: bool) {
        if is_given && folder.join(DATABASE_FILE).is_file() {
            self.listed.push((folder.to_path_buf(), None));
            self.runs.insert(folder.to_path_buf(), None);
            return;
        }
        if is_given && folder.join(TRIALS_FILE).is_file() {
            return self.add_trials(folder);
        }
        self.listed.push((folder.to_path_buf(), changed_time(folder)));
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // It may be made later.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.problems.push(format!("could not list the runs in {}: {error}", folder.display()));
                return;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_shown(path)) {
            if path.join(TRIALS_FILE).is_file() {
                self.add_trials(&path);
            } else {
                self.runs.insert(path, group.map(str::to_string));
            }
        }
    }

    /// Adds the runs of a sweep or a cross-validation: each of its subfolders is a runs folder.
    fn add_trials(&mut self, folder: &Path) {
        self.listed.push((folder.to_path_buf(), changed_time(folder)));
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| is_shown(path)) {
            self.add(&path, name.as_deref(), false);
        }
    }
}

/// Hidden folders are runs in the making or being deleted.
fn is_shown(path: &Path) -> bool {
    path.is_dir() && path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
}
