//! [`Remote`]: the runs of another machine, mirrored here over ssh, and its `solstice` program.
//!
//! A thread of its own starts `ssh HOST solstice stream DIR`, keeps a mirror of each run in a folder of the cache (`solstice_store::mirror`), and
//! begins again when the connection is cut: from what the mirrors hold, so nothing is fetched twice. A [`Library`](super::Library) follows that
//! folder like any other. Commands and marks go over the wire ([`Outbox`]), what becomes of a command comes back as a row of its mirror. There is
//! no port and no password here: ssh asks what it must ask, on the terminal.
//!
//! `wire.rs` has the messages, `stream.rs` the other end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, unbounded};
use solstice_store::mirror::{Chunk, Mirror};
use solstice_store::{DATABASE_FILE, StoreError};

use super::cache::{CacheLimits, LOCK_FILE, clean};
use super::host::{Answer, Host};
use super::library::{LABEL, Outbox, SentCommand};
use super::wire::{
    FILES, FromStream, Heard, Outcome, PROTOCOL, Timing, ToStream, VERSION, Wanted, file_digest, is_plain_path, protocol_problem,
    read_frame, read_hello, silent_for, skip_to_start, write_frame,
};

/// Mirrors whose files are kept open: each takes three descriptors.
const OPEN_MIRRORS_MAX: usize = 64;
/// The last lines of what ssh complains of are kept.
const COMPLAINT_LINES_MAX: usize = 20;
/// How long a program whose output has ended may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long the lock of mirrors is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// How deep a run may lie below the base folder: sweep, trial, run.
const RUN_DEPTH_MAX: usize = 3;

/// Where runs are, and how to get there.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// What ssh is told: a name, `user@name`, or an alias of its settings.
    pub host: String,
    /// The folder of runs there; from the home folder unless it begins with `/`.
    pub folder: String,
    /// The `solstice` program there.
    pub program: String,
    /// The program that is used as ssh, with its first arguments.
    pub ssh: Vec<String>,
    /// Mirrors are kept in a folder of this one.
    pub cache: PathBuf,
    /// How it uses time.
    pub timing: Timing,
}

impl RemoteOptions {
    /// From `HOST:DIR`; without `:DIR` the folder is `runs`. `SOLSTICE_SSH` is another command than `ssh`, with its arguments between spaces.
    ///
    /// Errors: a sentence.
    pub fn new(target: &str, cache: &Path) -> Result<RemoteOptions, String> {
        // The colons of a numerical address stand in brackets.
        let after_address = target.rfind(']').unwrap_or(0);
        let (host, folder) = match target[after_address..].find(':') {
            Some(colon) => (&target[..after_address + colon], &target[after_address + colon + 1..]),
            None => (target, ""),
        };
        // ssh would take it for an option.
        if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
            return Err(format!("--ssh {target}: this names no machine; wanted is HOST:DIR, such as `box:runs` or `me@box:/data/runs`"));
        }
        let ssh = std::env::var("SOLSTICE_SSH").unwrap_or_default();
        let ssh: Vec<String> = ssh.split_whitespace().map(str::to_string).collect();
        Ok(RemoteOptions {
            host: host.trim_start_matches('[').trim_end_matches(']').to_string(),
            folder: if folder.is_empty() { "runs" } else { folder }.to_string(),
            program: "solstice".to_string(),
            ssh: if ssh.is_empty() { vec!["ssh".to_string()] } else { ssh },
            cache: cache.to_path_buf(),
            timing: Timing::default(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.ssh[0]);
        command.args(&self.ssh[1..]);
        // No terminal over there: nothing may change the bytes.
        command.args(["-T", &self.host, &format!("{} stream {}", shell_word(&self.program), shell_word(&self.folder))]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `box:runs`.
    fn name(&self) -> String {
        format!("{}:{}", self.host, self.folder)
    }
}

/// `text` as one word for the shell over there; `~/` at its beginning keeps its meaning, and so does a leading hyphen lose its own.
fn shell_word(text: &str) -> String {
    let (home, rest) = match text.strip_prefix("~/") {
        Some(rest) => ("~/", rest),
        None if text == "~" => return text.to_string(),
        None if text.starts_with('-') => ("./", text),
        None => ("", text),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./@%+=:,-".contains(c);
    if !rest.is_empty() && rest.chars().all(is_plain) {
        format!("{home}{rest}")
    } else {
        format!("{home}'{}'", rest.replace('\'', "'\\''"))
    }
}

/// The runs of a folder on another machine. Dropping it ends the connection; what runs there goes on.
pub struct Remote {
    options: RemoteOptions,
    root: PathBuf,
    orders: Sender<Order>,
    shared: Arc<Mutex<Shared>>,
    tickets: AtomicU64,
    thread: Option<JoinHandle<()>>,
    /// No other process writes these mirrors.
    _lock: File,
}

enum Order {
    Request { wanted: Wanted, reply: Reply },
    Stop,
}

/// Who waits for the answer to a request.
enum Reply {
    /// A thread in [`Host::ask`] or [`Host::start`]; with the number of the connection.
    Waiting(Sender<Result<(Outcome, u64), String>>),
    /// [`Outbox::settled`], by the library's ticket.
    Ticket(u64),
}

/// What the connection's thread tells.
#[derive(Default)]
struct Shared {
    status: Status,
    last_news: Option<Instant>,
    /// Grows with every connection.
    connection: u64,
    folder_problems: Vec<String>,
    run_problems: BTreeMap<String, String>,
    settled: Vec<(u64, Result<Option<i64>, String>)>,
    /// Commands that were started: connection and ticket over there, by the ticket here.
    started: HashMap<u64, (u64, u64)>,
    ended: HashMap<(u64, u64), Answer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Status {
    #[default]
    Connecting,
    Connected,
    Cut {
        reason: String,
        retry_at: Instant,
    },
}

impl Remote {
    /// Begins to mirror. Returns at once; what is wrong with the connection stands in [`Outbox::problems`].
    ///
    /// Errors: the folder of the mirrors cannot be made; a sentence.
    pub fn open(options: RemoteOptions) -> Result<Remote, String> {
        let (root, lock) = own_folder(&options)?;
        let cache = options.cache.clone();
        // Without a thread the next window does it.
        let _ = std::thread::Builder::new().name("cache".to_string()).spawn(move || clean(&cache, CacheLimits::default()));
        let (orders, inbox) = unbounded();
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let link = Link {
            options: options.clone(),
            root: root.clone(),
            shared: shared.clone(),
            mirrors: HashMap::new(),
            failed: HashMap::new(),
            requests: HashMap::new(),
            next_request: 1,
            early: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("ssh".to_string()).spawn(move || link.run(&inbox));
        let thread = Some(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
        Ok(Remote { options, root, orders, shared, tickets: AtomicU64::new(0), thread, _lock: lock })
    }

    /// The machine, as ssh is told.
    pub fn host(&self) -> &str {
        &self.options.host
    }

    /// The connection stands.
    pub fn is_connected(&self) -> bool {
        locked(&self.shared).status == Status::Connected
    }

    fn root_text(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    fn request(&self, wanted: Wanted) -> Result<(Outcome, u64), String> {
        let (reply, answer) = bounded(1);
        let _ = self.orders.send(Order::Request { wanted, reply: Reply::Waiting(reply) });
        answer.recv().unwrap_or_else(|_| Err("the window is being closed".to_string()))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Host for Remote {
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String> {
        match self.request(Wanted::Ask { args: args.to_vec(), input: input.to_string(), root: self.root_text() })?.0 {
            Outcome::Answered { answer } => Ok(answer),
            other => Err(other.failure()),
        }
    }

    fn start(&self, args: &[String], input: &str) -> Result<u64, String> {
        match self.request(Wanted::Start { args: args.to_vec(), input: input.to_string(), root: self.root_text() })? {
            (Outcome::Started { ticket }, connection) => {
                let here = self.tickets.fetch_add(1, Ordering::Relaxed);
                locked(&self.shared).started.insert(here, (connection, ticket));
                Ok(here)
            }
            (other, _) => Err(other.failure()),
        }
    }

    fn ended(&self, ticket: u64) -> Option<Answer> {
        let shared = locked(&self.shared);
        let place = shared.started.get(&ticket)?;
        let is_cut = place.0 != shared.connection || shared.status != Status::Connected;
        shared.ended.get(place).cloned().or_else(|| {
            is_cut.then(|| Answer {
                code: -1,
                out: String::new(),
                err: format!(
                    "error: the connection to {} was cut before the command ended; if it made a run, the run goes on and is in the list",
                    self.options.host
                ),
            })
        })
    }
}

impl Outbox for Remote {
    fn folder(&self) -> &Path {
        &self.root
    }

    fn post(&self, command: &SentCommand, who: &str) {
        let run = path_below(&self.root, &command.run);
        let text = |key: &str| command.args[key].as_str().map(str::to_string);
        let wanted = if command.kind == LABEL {
            Wanted::Label { run, key: text("key").unwrap_or_default(), value: text("value") }
        } else {
            Wanted::Command { run, kind: command.kind.clone(), args: command.args.to_string(), who: who.to_string() }
        };
        let _ = self.orders.send(Order::Request { wanted, reply: Reply::Ticket(command.ticket) });
    }

    fn settled(&self) -> Vec<(u64, Result<Option<i64>, String>)> {
        std::mem::take(&mut locked(&self.shared).settled)
    }

    fn problems(&self) -> Vec<String> {
        let shared = locked(&self.shared);
        let host = &self.options.host;
        match &shared.status {
            Status::Connecting => vec![format!("connecting to {host}")],
            Status::Connected => {
                let of_runs = shared.run_problems.iter().map(|(run, problem)| format!("{host}: {run}: {problem}"));
                shared.folder_problems.iter().map(|problem| format!("{host}: {problem}")).chain(of_runs).collect()
            }
            Status::Cut { reason, retry_at } => {
                // Whole seconds, so that a snapshot is made once a second at most.
                let wait = retry_at.saturating_duration_since(Instant::now());
                let when = if wait.is_zero() { "now".to_string() } else { format!("in {} s", wait.as_secs() + 1) };
                vec![match shared.last_news {
                    Some(news) => {
                        let ago = ago(news.elapsed());
                        format!("connection to {host} lost, trying again {when}; last news {ago} ago ({reason})")
                    }
                    None => format!("no connection to {host}, trying again {when}: {reason}"),
                }]
            }
        }
    }
}

/// `40 s`, `3 min`, `2 h`.
fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs => format!("{} h", secs / 3600),
    }
}

impl Outcome {
    fn failure(self) -> String {
        match self {
            Outcome::Failed { sentence } => sentence,
            other => format!("an answer came that does not fit: {other:?}"),
        }
    }
}

/// The `solstice` programs of a window over several machines. A command line that names a run of another machine goes there; all others go to the
/// first, which is this machine where its runs are shown too.
pub struct Hosts {
    local: Option<Arc<dyn Host>>,
    remotes: Vec<Arc<Remote>>,
}

impl Hosts {
    /// At least one of them.
    pub fn new(local: Option<Arc<dyn Host>>, remotes: &[Arc<Remote>]) -> Hosts {
        assert!(local.is_some() || !remotes.is_empty(), "a window shows the runs of at least one machine");
        Hosts { local, remotes: remotes.to_vec() }
    }

    fn all(&self) -> impl Iterator<Item = &dyn Host> {
        self.local.iter().map(|host| &**host).chain(self.remotes.iter().map(|remote| &**remote as &dyn Host))
    }

    fn index_for(&self, args: &[String]) -> usize {
        let named = self.remotes.iter().position(|remote| {
            let root = remote.root.to_string_lossy();
            args.iter().any(|arg| arg.contains(&*root))
        });
        named.map_or(0, |index| index + usize::from(self.local.is_some()))
    }
}

impl Host for Hosts {
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String> {
        self.all().nth(self.index_for(args)).expect("the index is of one").ask(args, input)
    }

    fn start(&self, args: &[String], input: &str) -> Result<u64, String> {
        let index = self.index_for(args);
        let ticket = self.all().nth(index).expect("the index is of one").start(args, input)?;
        Ok(ticket * self.all().count() as u64 + index as u64)
    }

    fn ended(&self, ticket: u64) -> Option<Answer> {
        let count = self.all().count() as u64;
        self.all().nth((ticket % count) as usize)?.ended(ticket / count)
    }
}

/// The folder for the mirrors of this host and folder, locked: a second window over the same runs gets one of its own.
fn own_folder(options: &RemoteOptions) -> Result<(PathBuf, File), String> {
    let host: String = options.host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let digest = file_digest(options.name().as_bytes());
    let mut number = 1;
    loop {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let root = options.cache.join(format!("{host}-{digest}{suffix}"));
        let failed = |error: std::io::Error| format!("cannot keep copies of runs in {}: {error}", root.display());
        fs::create_dir_all(&root).map_err(failed)?;
        let lock = File::create(root.join(LOCK_FILE)).map_err(failed)?;
        // A process that is being started holds every lock of its parent for a moment.
        let patience = Instant::now() + LOCK_PATIENCE;
        let mut outcome = lock.try_lock();
        while matches!(outcome, Err(fs::TryLockError::WouldBlock)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
            outcome = lock.try_lock();
        }
        match outcome {
            Err(fs::TryLockError::WouldBlock) => number += 1,
            // A file system without locks: two windows at once write the same rows.
            _ => {
                // From now on nobody has shown these mirrors more lately. A file system that does not keep the time keeps that of the first window.
                let _ = lock.set_modified(SystemTime::now());
                return Ok((root, lock));
            }
        }
    }
}

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// `sweep/trial-1/run`.
fn path_below(root: &Path, path: &Path) -> String {
    let parts: Vec<String> = path.strip_prefix(root).unwrap_or(path).iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.join("/")
}

/// The connection's thread.
struct Link {
    options: RemoteOptions,
    root: PathBuf,
    shared: Arc<Mutex<Shared>>,
    mirrors: HashMap<String, Mirror>,
    /// How often a mirror had to begin anew in this connection.
    failed: HashMap<String, u32>,
    requests: HashMap<u64, Reply>,
    next_request: u64,
    /// What was asked before the connection stood.
    early: Vec<(Wanted, Reply)>,
}

/// What the threads that read from ssh say.
enum Came {
    Hello(FromStream),
    Message(FromStream, Vec<u8>),
    /// Before a hello came; with what came instead.
    Noise(String),
    End(Option<String>),
}

/// Why a connection is over.
enum End {
    Stop,
    /// What we saw ourselves; without it what ssh says.
    Cut(Option<String>),
    /// Something else than a hello came.
    Noise(String),
}

impl Link {
    fn run(mut self, orders: &Receiver<Order>) {
        let timing = self.options.timing;
        let mut wait = timing.retry_first;
        loop {
            let began = Instant::now();
            let outcome = self.connect(orders);
            self.mirrors.clear();
            let Err(reason) = outcome else { return self.give_up("the window is being closed") };
            if began.elapsed() >= timing.steady {
                wait = timing.retry_first;
            }
            let retry_at = Instant::now() + wait;
            wait = (wait * 2).min(timing.retry_max);
            locked(&self.shared).status = Status::Cut { reason: reason.clone(), retry_at };
            let host = self.options.host.clone();
            self.give_up(&format!("the connection to {host} was cut before an answer came, so it may or may not have been done: {reason}"));
            loop {
                match orders.recv_timeout(retry_at.saturating_duration_since(Instant::now())) {
                    Ok(Order::Request { reply, .. }) => self.settle(reply, Err(format!("not sent: no connection to {host} ({reason})"))),
                    Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
        }
    }

    /// One connection from its beginning to its end; `Ok` when the window is closed.
    fn connect(&mut self, orders: &Receiver<Order>) -> Result<(), String> {
        locked(&self.shared).connection += 1;
        self.failed.clear();
        let mut child = self.options.command().spawn().map_err(|error| format!("cannot start `{}`: {error}", self.options.ssh[0]))?;
        let complaints = Complaints::of(&mut child);
        let outcome = self.talk(&mut child, orders);
        // The pipes are closed now. What ended by itself says why by its exit code.
        let mut status = None;
        if matches!(outcome, End::Cut(None) | End::Noise(_)) {
            let patience = Instant::now() + END_PATIENCE;
            while status.is_none() && Instant::now() < patience {
                status = child.try_wait().ok().flatten();
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        match outcome {
            End::Stop => Ok(()),
            End::Cut(Some(reason)) => Err(reason),
            End::Cut(None) => Err(self.complaint(status, &complaints.last_lines(), "")),
            End::Noise(seen) => Err(self.complaint(status, &complaints.last_lines(), &seen)),
        }
    }

    /// Why it ended, from what ssh and the shell over there say.
    fn complaint(&self, status: Option<ExitStatus>, lines: &[String], seen: &str) -> String {
        let (host, program) = (&self.options.host, &self.options.program);
        let code = status.and_then(|status| status.code());
        // What ssh says of a new machine is no reason.
        let is_reason = |line: &&String| !line.starts_with("Warning: Permanently added");
        let last = lines.iter().rfind(is_reason).map(String::as_str).unwrap_or_default();
        let ours = lines.iter().find_map(|line| line.strip_prefix("error: "));
        let is_missing = |line: &String| line.contains("not found") || line.contains("No such file");
        if code == Some(127) || (code != Some(255) && ours.is_none() && lines.iter().any(is_missing)) {
            format!(
                "{host} has no `{program}` where it was looked for ({last}): install Solstice there, or say where it is with --remote-program"
            )
        } else if ours.is_some_and(|line| line.contains("unrecognized subcommand 'stream'")) {
            format!("the Solstice on {host} is too old for --ssh: install version {VERSION} there")
        } else if let Some(line) = ours {
            format!("{host} says: {line}")
        } else if code == Some(255) && !last.is_empty() {
            last.to_string()
        } else if !seen.is_empty() {
            format!("{host} did not start `{program} stream`; it said: {seen}")
        } else if !last.is_empty() {
            format!("{host} says: {last}")
        } else {
            match code {
                Some(code) => format!("`{}` ended with code {code}", self.options.ssh[0]),
                None => "it ended without a word".to_string(),
            }
        }
    }

    fn talk(&mut self, child: &mut Child, orders: &Receiver<Order>) -> End {
        let timing = self.options.timing;
        let mut stdin = child.stdin.take().expect("asked for");
        let stdout = child.stdout.take().expect("asked for");
        // Of its own, because a dead connection takes no bytes, and that must not keep it from being noticed.
        let (outgoing, to_write) = unbounded::<Vec<u8>>();
        std::thread::spawn(
            move || while to_write.recv().is_ok_and(|bytes| stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_ok()) {},
        );
        let heard = Arc::new(Mutex::new(Instant::now()));
        // Bounded: who is slow to write to disk must not fill the memory.
        let (came, incoming) = bounded(8);
        let mut input = BufReader::new(Heard { input: stdout, at: heard.clone() });
        std::thread::spawn(move || {
            if let Err(seen) = skip_to_start(&mut input) {
                return drop(came.send(Came::Noise(seen)));
            }
            let mut next = match read_hello(&mut input) {
                Ok(hello) => Ok(hello.map(Came::Hello)),
                Err(problem) => Err(problem),
            };
            loop {
                let (message, is_last) = match next {
                    Ok(Some(message)) => (message, false),
                    Ok(None) => (Came::End(None), true),
                    Err(problem) => (Came::End(Some(problem)), true),
                };
                if came.send(message).is_err() || is_last {
                    return;
                }
                next = read_frame(&mut input).map(|frame| frame.map(|(message, payload)| Came::Message(message, payload)));
            }
        });
        let send = |message: &ToStream| {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, message, &[]).expect("memory takes it");
            // When the writer has ended, so has the connection: the reader tells.
            let _ = outgoing.send(bytes);
        };
        send(&ToStream::Hello { protocol: PROTOCOL, version: VERSION.into() });
        let mut is_greeted = false;
        let mut beat_due = Instant::now() + timing.beat;
        loop {
            let wait = beat_due.saturating_duration_since(Instant::now()).min(timing.silence);
            select! {
                recv(incoming) -> message => {
                    match message.unwrap_or(Came::End(None)) {
                        Came::Noise(seen) => return End::Noise(seen),
                        Came::End(problem) => return End::Cut(problem),
                        Came::Hello(FromStream::Hello { protocol, version }) => {
                            let there = format!("on {}", self.options.host);
                            if let Some(problem) = protocol_problem(&there, protocol, &version) {
                                return End::Cut(Some(problem));
                            }
                            is_greeted = true;
                            send(&self.have());
                            for (wanted, reply) in std::mem::take(&mut self.early) {
                                send(&self.request(wanted, reply));
                            }
                            let mut shared = locked(&self.shared);
                            shared.run_problems.clear();
                            (shared.status, shared.last_news) = (Status::Connected, Some(Instant::now()));
                        }
                        Came::Hello(_) => return End::Cut(Some("the first message was no hello".to_string())),
                        Came::Message(FromStream::Refused { sentence }, _) => {
                            return End::Cut(Some(format!("{} says: {sentence}", self.options.host)));
                        }
                        Came::Message(message, payload) => {
                            if let Some(answer) = self.take(message, payload) {
                                send(&answer);
                            }
                        }
                    }
                }
                recv(orders) -> order => match order {
                    Ok(Order::Request { wanted, reply }) if is_greeted => send(&self.request(wanted, reply)),
                    Ok(Order::Request { wanted, reply }) => self.early.push((wanted, reply)),
                    Ok(Order::Stop) | Err(_) => return End::Stop,
                },
                default(wait) => {}
            }
            if Instant::now() >= beat_due {
                if is_greeted {
                    send(&ToStream::Beat);
                }
                beat_due = Instant::now() + timing.beat;
            }
            // Before the hello a person may be typing a password.
            if is_greeted && incoming.is_empty() && silent_for(&heard) >= timing.silence {
                return End::Cut(Some(format!("nothing was heard for {} s", timing.silence.as_secs_f32())));
            }
        }
    }

    /// What the mirrors hold.
    fn have(&mut self) -> ToStream {
        let mut folders = Vec::new();
        runs_below(&self.root, RUN_DEPTH_MAX, &mut folders);
        let (mut runs, mut files) = (BTreeMap::new(), BTreeMap::new());
        for folder in folders {
            let run = path_below(&self.root, &folder);
            runs.extend(Mirror::new(&folder, &self.options.name()).have().map(|have| (run, have)));
            for place in folder.ancestors().take_while(|place| **place != self.root) {
                for name in FILES {
                    let path = place.join(name);
                    let below = path_below(&self.root, &path);
                    if !files.contains_key(&below)
                        && let Ok(bytes) = fs::read(path)
                    {
                        files.insert(below, file_digest(&bytes));
                    }
                }
            }
        }
        ToStream::Have { runs, files }
    }

    fn request(&mut self, wanted: Wanted, reply: Reply) -> ToStream {
        let request = self.next_request;
        self.next_request += 1;
        self.requests.insert(request, reply);
        ToStream::Request { request, wanted }
    }

    /// Takes in what came; what is to be said to it.
    fn take(&mut self, message: FromStream, payload: Vec<u8>) -> Option<ToStream> {
        locked(&self.shared).last_news = Some(Instant::now());
        match message {
            FromStream::Runs { runs, problems } => {
                let is_whole = problems.is_empty();
                {
                    let mut shared = locked(&self.shared);
                    shared.folder_problems = problems;
                    shared.run_problems.retain(|run, _| runs.contains(run));
                }
                // A disk that is not mounted is no reason to forget the runs on it.
                if is_whole {
                    self.forget_all_but(&runs);
                }
            }
            FromStream::Chunk { run, header } => {
                let again = self.take_chunk(&run, Chunk { header, rows: payload });
                return Some(if again { ToStream::Again { run } } else { ToStream::Taken });
            }
            FromStream::File { path } => self.take_file(&path, &payload),
            FromStream::RunProblem { run, problem } => {
                let mut shared = locked(&self.shared);
                match problem {
                    Some(problem) => drop(shared.run_problems.insert(run, problem)),
                    None => drop(shared.run_problems.remove(&run)),
                }
            }
            FromStream::Answer { request, outcome } => {
                if let Some(reply) = self.requests.remove(&request) {
                    self.settle(reply, Ok(outcome));
                }
            }
            FromStream::Ended { ticket, answer } => {
                let mut shared = locked(&self.shared);
                let place = (shared.connection, ticket);
                shared.ended.insert(place, answer);
            }
            FromStream::Hello { .. } | FromStream::Refused { .. } | FromStream::Beat | FromStream::Unknown => {}
        }
        None
    }

    /// True when the run must be sent from its beginning.
    fn take_chunk(&mut self, run: &str, chunk: Chunk) -> bool {
        if !is_plain_path(run) || run.split('/').count() > RUN_DEPTH_MAX {
            return false;
        }
        let folder = self.root.join(run);
        if self.mirrors.len() >= OPEN_MIRRORS_MAX && !self.mirrors.contains_key(run) {
            self.mirrors.clear();
        }
        let source = self.options.name();
        let mirror = self.mirrors.entry(run.to_string()).or_insert_with(|| Mirror::new(&folder, &source));
        let Err(error) = mirror.apply(&chunk) else { return false };
        self.mirrors.remove(run);
        let failed = self.failed.entry(run.to_string()).or_default();
        *failed += 1;
        let is_first = *failed == 1;
        // The mirror stays: what comes anew takes its place within the same file, which a reader may have open.
        // A disk that is full, or tables of a later build, do not get better by sending them again.
        if is_first && !matches!(error, StoreError::Newer { .. } | StoreError::Io { .. }) {
            return true;
        }
        let newer = match error {
            StoreError::Newer { found, supported, .. } => format!(
                "written by a newer Solstice (store version {found}; this build reads up to {supported}). Update Solstice on this machine to see this run"
            ),
            other => other.to_string(),
        };
        locked(&self.shared).run_problems.insert(run.to_string(), newer);
        false
    }

    fn take_file(&mut self, path: &str, bytes: &[u8]) {
        let name = path.rsplit('/').next().unwrap_or_default();
        if !is_plain_path(path) || !FILES.contains(&name) {
            return;
        }
        let path = self.root.join(path);
        let Some(folder) = path.parent() else { return };
        let hidden = folder.join(format!(".{name}.new"));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&hidden, bytes)).and_then(|()| fs::rename(&hidden, &path));
        if let Err(error) = written {
            let problem = format!("cannot write {}: {error}", path.display());
            locked(&self.shared).folder_problems.push(problem);
        }
    }

    /// Removes the mirrors of runs that are no longer there, and the folders of sweeps that became empty.
    fn forget_all_but(&mut self, runs: &[String]) {
        let mut folders = Vec::new();
        runs_below(&self.root, RUN_DEPTH_MAX, &mut folders);
        for folder in folders {
            let run = path_below(&self.root, &folder);
            if runs.contains(&run) {
                continue;
            }
            self.mirrors.remove(&run);
            let _ = Mirror::remove(&folder);
            for group in folder.ancestors().skip(1).take_while(|group| **group != self.root) {
                let mut left = Vec::new();
                runs_below(group, RUN_DEPTH_MAX, &mut left);
                if left.is_empty() {
                    let _ = fs::remove_dir_all(group);
                }
            }
        }
    }

    /// No answer will come to what was asked.
    fn give_up(&mut self, sentence: &str) {
        let waiting: Vec<Reply> =
            self.requests.drain().map(|(_, reply)| reply).chain(self.early.drain(..).map(|(_, reply)| reply)).collect();
        waiting.into_iter().for_each(|reply| self.settle(reply, Err(sentence.to_string())));
    }

    fn settle(&self, reply: Reply, outcome: Result<Outcome, String>) {
        let mut shared = locked(&self.shared);
        match reply {
            Reply::Waiting(waiting) => drop(waiting.send(outcome.map(|outcome| (outcome, shared.connection)))),
            Reply::Ticket(ticket) => {
                let settled = match outcome {
                    Ok(Outcome::Sent { id }) => Ok(Some(id)),
                    Ok(Outcome::Done) => Ok(None),
                    Ok(other) => Err(other.failure()),
                    Err(sentence) => Err(sentence),
                };
                shared.settled.push((ticket, settled));
            }
        }
    }
}

/// Folders with a store, not below hidden ones.
fn runs_below(folder: &Path, depth: usize, runs: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) || !path.is_dir() {
            continue;
        }
        if path.join(DATABASE_FILE).is_file() {
            runs.push(path);
        } else if depth > 1 {
            runs_below(&path, depth - 1, runs);
        }
    }
}

/// The last lines that ssh and the shell over there complain of.
struct Complaints {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: Receiver<()>,
}

impl Complaints {
    fn of(child: &mut Child) -> Complaints {
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (end, ended) = bounded(1);
        let (stderr, into) = (child.stderr.take().expect("asked for"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
                let mut lines = into.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                lines.push_back(line.trim().to_string());
                if lines.len() > COMPLAINT_LINES_MAX {
                    lines.pop_front();
                }
            }
            let _ = end.send(());
        });
        Complaints { lines, ended }
    }

    fn last_lines(&self) -> Vec<String> {
        // A connection that ssh shares between commands keeps this pipe open for as long as it likes.
        let _ = self.ended.recv_timeout(Duration::from_millis(200));
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(target: &str) -> Result<(String, String), String> {
        RemoteOptions::new(target, Path::new("cache")).map(|options| (options.host, options.folder))
    }

    #[test]
    fn a_target_is_a_host_and_a_folder() {
        let of = |host: &str, folder: &str| Ok((host.to_string(), folder.to_string()));
        assert_eq!(split("box:runs"), of("box", "runs"));
        assert_eq!(split("me@box:/data/my runs"), of("me@box", "/data/my runs"));
        assert_eq!(split("box:~/a:b"), of("box", "~/a:b"));
        assert_eq!(split("box"), of("box", "runs"));
        assert_eq!(split("box:"), of("box", "runs"));
        assert_eq!(split("[::1]:runs"), of("::1", "runs"));
        for target in ["", ":runs", "-oProxyCommand=sh:runs", "a b:runs"] {
            assert!(split(target).unwrap_err().contains("HOST:DIR"), "{target}");
        }
    }

    #[test]
    fn words_reach_the_other_shell_as_they_are() {
        for (text, word) in [
            ("runs", "runs"),
            ("/data/runs-2", "/data/runs-2"),
            ("my runs", "'my runs'"),
            ("~/my runs", "~/'my runs'"),
            ("~/.cargo/bin/solstice", "~/.cargo/bin/solstice"),
            ("it's; rm", "'it'\\''s; rm'"),
            ("$HOME", "'$HOME'"),
            ("-x", "./-x"),
            ("~", "~"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        let said = [5, 119, 120, 7199, 7200].map(|secs| ago(Duration::from_secs(secs)));
        assert_eq!(said, ["5 s", "119 s", "2 min", "119 min", "2 h"]);
    }
}
