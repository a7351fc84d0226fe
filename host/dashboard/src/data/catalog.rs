//! [`Workshop`]: asks a [`Host`] on a thread of its own what new runs can be made of, whether a recipe is right, and to start one. It publishes an
//! immutable [`Catalog`] after each answer. It loads no plugin and reads no recipe itself: that is done by child processes of the host.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde::Deserialize;
use serde_json::Value;

use super::host::{Answer, Host};

/// Where the recipes are, in the host's folder.
const RECIPES_FOLDER: &str = "experiments";
/// A recipe is checked when nothing was typed for so long.
const TYPING_PAUSE: Duration = Duration::from_millis(150);
/// Between two looks at the times of plugin files.
const FILES_INTERVAL: Duration = Duration::from_secs(2);
/// The same, where a look is a command on another machine.
const LIST_INTERVAL: Duration = Duration::from_secs(20);
/// Between two looks at commands that were just started, and at those that have gone on for [`NEW`].
const STARTED_INTERVALS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
const NEW: Duration = Duration::from_secs(60);
/// Launches that are remembered.
const LAUNCHED_MAX: usize = 50;

/// A component that a plugin offers, or the trainer.
#[derive(Clone, Debug, Deserialize)]
pub struct Component {
    /// `model`, `lr-schedule`; `trainer`.
    pub kind: String,
    /// Unique within the kind.
    pub id: String,
    /// What it is.
    #[serde(default)]
    pub doc: String,
    /// All settings.
    pub defaults: Value,
    /// JSON schema of the settings.
    pub schema: Value,
}

/// A recipe of the host's folder.
#[derive(Clone, Debug, Deserialize)]
pub struct RecipeFile {
    /// Its file.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// The comment that it begins with.
    #[serde(default)]
    pub doc: String,
    /// The file's content.
    #[serde(default)]
    pub text: String,
    /// Why it is no recipe, if so.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A plugin's file.
#[derive(Clone, Debug, Deserialize)]
pub struct PluginFile {
    /// The plugin.
    pub name: String,
    /// Of the plugin.
    pub version: String,
    /// The file.
    pub path: PathBuf,
    /// Kinds of components.
    pub kinds: Vec<String>,
    /// Why it is not loaded, if so.
    pub refused: Option<String>,
    /// It took its process down before, and can be tried again.
    #[serde(default)]
    pub quarantined: bool,
}

/// What can train.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    /// Of the processor or adapter.
    pub name: String,
    /// `native`, `vulkan`, ...
    pub backend: String,
    /// `CPU`, `discrete GPU`, ...
    #[serde(rename = "type")]
    pub device_type: String,
}

/// A mistake in a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Dotted path: `model.hidden`; `model` when it is about the component, empty for the recipe as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// In the recipe's text, from 1.
    pub line: Option<usize>,
    /// From 1.
    pub column: Option<usize>,
}

/// The learning rate over a run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Curve {
    /// Steps of the run, where they are known.
    pub total_steps: Option<u64>,
    /// Steps that the points are for.
    pub assumed_steps: u64,
    /// The optimizer has a learning rate; without one the points are factors.
    pub has_base: bool,
    /// Step and rate.
    pub points: Vec<(u64, f64)>,
}

/// What `solstice check --json` says of a recipe.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// With all settings; only when nothing is wrong.
    pub recipe: Option<Value>,
    /// Only when nothing is wrong.
    pub schedule: Option<Curve>,
}

/// A recipe that was checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What [`Workshop::check`] returned.
    pub ticket: u64,
    /// The report, or why there is none.
    pub report: Result<Report, String>,
}

/// How far a started command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way.
    Going,
    /// It has ended.
    Ended(Answer),
    /// It could not be started: a sentence.
    Failed(String),
}

impl Outcome {
    /// Why it made nothing, or broke off: a sentence. Stopped on request is no failure.
    pub fn complaint(&self) -> Option<String> {
        match self {
            Outcome::Going => None,
            Outcome::Ended(answer) if matches!(answer.code, 0 | 3) => None,
            Outcome::Ended(answer) => Some(answer.complaint()),
            Outcome::Failed(sentence) => Some(sentence.clone()),
        }
    }
}

/// A command that was started.
#[derive(Clone, Debug)]
pub struct Launched {
    /// What [`Workshop::start`] returned.
    pub ticket: u64,
    /// Its command line, without the program.
    pub args: Vec<String>,
    /// How far it is.
    pub outcome: Outcome,
}

/// What new runs can be made of, as it was at one moment.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Grows with every catalog published.
    pub version: u64,
    /// It was not read yet.
    pub is_loading: bool,
    /// By kind and id.
    pub components: Arc<Vec<Component>>,
    /// The settings of the training loop.
    pub trainer: Option<Arc<Component>>,
    /// Refused ones included.
    pub plugins: Arc<Vec<PluginFile>>,
    /// By name of the file.
    pub recipes: Arc<Vec<RecipeFile>>,
    /// The CPU first.
    pub devices: Arc<Vec<Device>>,
    /// Why it could not be read: a sentence.
    pub problem: Option<String>,
    /// The newest answer of [`Workshop::check`].
    pub checked: Option<Arc<Checked>>,
    /// What was started, oldest first.
    pub launched: Vec<Launched>,
}

impl Catalog {
    /// The component of this kind and id.
    pub fn component(&self, kind: &str, id: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == kind && component.id == id)
    }

    /// All of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Component> {
        self.components.iter().filter(move |component| component.kind == kind)
    }
}

enum Request {
    Refresh { try_again: bool },
    Check { ticket: u64, text: String, steps_per_epoch: Option<u64> },
    Start { ticket: u64, args: Vec<String>, input: String },
}

/// Called when there is a new catalog.
type Wake = Box<dyn Fn() + Send + Sync>;

/// Asks a host, and publishes what it answers.
pub struct Workshop {
    catalog: Arc<ArcSwap<Catalog>>,
    tickets: AtomicU64,
    work: Work,
}

enum Work {
    Thread(Sender<Request>),
    // On the thread that asks: for tests, where nothing may change by itself.
    Here(Box<Mutex<Worker>>),
}

impl std::fmt::Debug for Workshop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").field("version", &self.catalog.load().version).finish_non_exhaustive()
    }
}

impl Workshop {
    /// Asks on a thread of its own, which ends with this value.
    pub fn live(host: Arc<dyn Host>, wake: impl Fn() + Send + Sync + 'static) -> Workshop {
        let (requests, inbox) = unbounded();
        let (worker, catalog) = Worker::new(host, Box::new(wake));
        let thread = std::thread::Builder::new().name("workshop".into()).spawn(move || worker.run(&inbox));
        // Without a thread nothing is ever answered, which is what the panel then shows.
        drop(thread);
        Workshop { catalog, tickets: AtomicU64::new(1), work: Work::Thread(requests) }
    }

    /// Asks on the thread that wants to know, at once.
    pub fn still(host: Arc<dyn Host>) -> Workshop {
        let (mut worker, catalog) = Worker::new(host, Box::new(|| {}));
        worker.read_all();
        Workshop { catalog, tickets: AtomicU64::new(1), work: Work::Here(Box::new(Mutex::new(worker))) }
    }

    /// The newest catalog: one atomic load, no lock, never waits.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Reads everything again.
    pub fn refresh(&self) {
        self.ask(Request::Refresh { try_again: false });
    }

    /// Lets plugins that took their process down be tried again.
    pub fn try_again(&self) {
        self.ask(Request::Refresh { try_again: true });
    }

    /// Checks a recipe; of several in quick succession only the last. The answer stands in [`Catalog::checked`] with the ticket that this returns.
    pub fn check(&self, text: &str, steps_per_epoch: Option<u64>) -> u64 {
        let ticket = self.ticket();
        self.ask(Request::Check { ticket, text: text.into(), steps_per_epoch });
        ticket
    }

    /// Starts a command that outlives the window. What becomes of it stands in [`Catalog::launched`] with the ticket that this returns.
    pub fn start(&self, args: Vec<String>, input: &str) -> u64 {
        let ticket = self.ticket();
        self.ask(Request::Start { ticket, args, input: input.into() });
        ticket
    }

    /// For tests, where no thread does it: looks at the commands that were started.
    pub fn look(&self) {
        if let Work::Here(worker) = &self.work {
            worker.lock().unwrap_or_else(PoisonError::into_inner).look_at_started();
        }
    }

    fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    fn ask(&self, request: Request) {
        match &self.work {
            // The thread ends only with this value.
            Work::Thread(requests) => drop(requests.send(request)),
            Work::Here(worker) => {
                let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
                worker.take(request);
                worker.check_now();
            }
        }
    }
}

struct Worker {
    host: Arc<dyn Host>,
    catalog: Catalog,
    shared: Arc<ArcSwap<Catalog>>,
    wake: Wake,
    // The check that waits for a pause in typing, and since when.
    waiting: Option<(Instant, u64, String, Option<u64>)>,
    // Commands under way: ticket, the host's ticket, since when.
    going: Vec<(u64, u64, Instant)>,
    // Times of the files when everything was read, and at the last look.
    read_times: Option<Vec<Option<SystemTime>>>,
    seen_times: Option<Vec<Option<SystemTime>>>,
    plugins_text: String,
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|word| (*word).to_owned()).collect()
}

impl Worker {
    fn new(host: Arc<dyn Host>, wake: Wake) -> (Worker, Arc<ArcSwap<Catalog>>) {
        let catalog = Catalog { is_loading: true, ..Catalog::default() };
        let shared = Arc::new(ArcSwap::from_pointee(catalog.clone()));
        let worker = Worker {
            host,
            catalog,
            shared: shared.clone(),
            wake,
            waiting: None,
            going: vec![],
            read_times: None,
            seen_times: None,
            plugins_text: String::new(),
        };
        (worker, shared)
    }

    fn run(mut self, inbox: &Receiver<Request>) {
        self.read_all();
        let mut looked = Instant::now();
        loop {
            let wait = self.wait(looked);
            match inbox.recv_timeout(wait) {
                Ok(request) => self.take(request),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.waiting.as_ref().is_some_and(|(since, ..)| since.elapsed() >= TYPING_PAUSE) {
                self.check_now();
            }
            self.look_at_started();
            if looked.elapsed() >= self.files_interval() {
                self.look_at_files();
                looked = Instant::now();
            }
        }
    }

    fn files_interval(&self) -> Duration {
        if self.read_times.is_some() { FILES_INTERVAL } else { LIST_INTERVAL }
    }

    // Until there is something to do.
    fn wait(&self, looked: Instant) -> Duration {
        let typing = self.waiting.as_ref().map(|(since, ..)| TYPING_PAUSE.saturating_sub(since.elapsed()));
        let started = self.going.iter().map(|(.., since)| STARTED_INTERVALS[usize::from(since.elapsed() > NEW)]).min();
        let files = self.files_interval().saturating_sub(looked.elapsed());
        [typing, started].into_iter().flatten().fold(files, Duration::min)
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Refresh { try_again } => {
                if try_again && let Err(problem) = self.ask(&["plugins", "--try-again", "--json"], "") {
                    self.catalog.problem = Some(problem);
                    return self.publish();
                }
                self.read_all();
            }
            Request::Check { ticket, text, steps_per_epoch } => self.waiting = Some((Instant::now(), ticket, text, steps_per_epoch)),
            Request::Start { ticket, args, input } => self.start(ticket, args, &input),
        }
    }

    // What a command printed; its complaint, when it failed.
    fn ask(&self, args: &[&str], input: &str) -> Result<String, String> {
        let answer = self.host.ask(&words(args), input)?;
        if answer.code == 0 { Ok(answer.out) } else { Err(answer.complaint()) }
    }

    fn read_all(&mut self) {
        match self.ask(&["describe", "--json", "--recipes", RECIPES_FOLDER], "") {
            Ok(text) => {
                let (mut components, mut recipes) = (vec![], vec![]);
                for line in text.lines() {
                    let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
                    match value["kind"].as_str() {
                        Some("recipe") => recipes.extend(serde_json::from_value::<RecipeFile>(value)),
                        Some("trainer") => self.catalog.trainer = serde_json::from_value(value).ok().map(Arc::new),
                        _ => components.extend(serde_json::from_value::<Component>(value)),
                    }
                }
                self.catalog.components = Arc::new(components);
                self.catalog.recipes = Arc::new(recipes);
                self.catalog.problem = None;
            }
            Err(problem) => self.catalog.problem = Some(problem),
        }
        self.catalog.is_loading = false;
        self.publish();
        if let Ok(text) = self.ask(&["plugins", "--json"], "") {
            self.catalog.plugins = Arc::new(lines(&text));
            self.plugins_text = text;
        }
        self.read_times = self.host.changed(&self.files());
        self.seen_times = self.read_times.clone();
        self.publish();
        // The machine's devices do not change, and asking the drivers takes a tenth of a second.
        if self.catalog.devices.is_empty()
            && let Ok(text) = self.ask(&["devices", "--json"], "")
        {
            self.catalog.devices = Arc::new(lines(&text));
            self.publish();
        }
    }

    // Plugins with their folders, where a new one would appear, and recipes with theirs.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.catalog.plugins.iter().map(|plugin| plugin.path.clone()).collect();
        let mut folders: Vec<PathBuf> = files.iter().filter_map(|file| file.parent().map(Path::to_path_buf)).collect();
        folders.dedup();
        files.extend(folders);
        files.push(RECIPES_FOLDER.into());
        files.extend(self.catalog.recipes.iter().map(|recipe| recipe.path.clone()));
        files
    }

    fn look_at_files(&mut self) {
        if self.read_times.is_none() {
            if self.ask(&["plugins", "--json"], "").is_ok_and(|text| text != self.plugins_text) {
                self.read_all();
            }
            return;
        }
        let times = self.host.changed(&self.files());
        // Not before a look finds what the one before found: a file that is being written is not asked.
        if times != self.read_times && times == self.seen_times {
            self.read_all();
        } else {
            self.seen_times = times;
        }
    }

    fn check_now(&mut self) {
        let Some((_, ticket, text, steps_per_epoch)) = self.waiting.take() else { return };
        let mut args = words(&["check", "--settings-only", "--json"]);
        if let Some(steps) = steps_per_epoch {
            args.extend(["--steps-per-epoch".into(), steps.to_string()]);
        }
        args.push("-".into());
        let report = self.host.ask(&args, &text).and_then(|answer| serde_json::from_str(&answer.out).map_err(|_| answer.complaint()));
        self.catalog.checked = Some(Arc::new(Checked { ticket, report }));
        self.publish();
    }

    fn start(&mut self, ticket: u64, args: Vec<String>, input: &str) {
        let outcome = match self.host.start(&args, input) {
            Ok(host_ticket) => {
                self.going.push((ticket, host_ticket, Instant::now()));
                Outcome::Going
            }
            Err(sentence) => Outcome::Failed(sentence),
        };
        self.catalog.launched.push(Launched { ticket, args, outcome });
        if self.catalog.launched.len() > LAUNCHED_MAX
            && let Some(over) = self.catalog.launched.iter().position(|launched| launched.outcome != Outcome::Going)
        {
            self.catalog.launched.remove(over);
        }
        self.publish();
    }

    fn look_at_started(&mut self) {
        let mut ended = vec![];
        self.going.retain(|(ticket, host_ticket, _)| match self.host.ended(*host_ticket) {
            Some(answer) => {
                ended.push((*ticket, answer));
                false
            }
            None => true,
        });
        if ended.is_empty() {
            return;
        }
        for (ticket, answer) in ended {
            if let Some(launched) = self.catalog.launched.iter_mut().find(|launched| launched.ticket == ticket) {
                launched.outcome = Outcome::Ended(answer);
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.catalog.version += 1;
        self.shared.store(Arc::new(self.catalog.clone()));
        (self.wake)();
    }
}

fn lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
