//! [`serve`]: the end of a connection where the runs are. `solstice stream DIR` is this over its standard input and output.
//!
//! It reads the stores as anybody may, so it costs the runs nothing, and writes only what the window asks for: rows in the tables of commands and
//! labels. What is new goes out newest run first, and all curves before any picture; a few chunks at a time are under way, so that answers do not
//! wait behind a gigabyte. `wire.rs` has the messages.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use solstice_store::DATABASE_FILE;
use solstice_store::mirror::{Chunk, Depth, Have, RunFeed};

use super::host::Host;
use super::library::{FOLDER_INTERVAL, LISTING_INTERVAL, LIVE_INTERVAL, Listing, OPEN_RUNS_MAX, Stamp, TRIALS_FILE, changed_time, stamp};
use super::wire::{
    CHUNKS_UNDER_WAY_MAX, FILE_BYTES_MAX, FromStream, Heard, Outcome, PROTOCOL, START, Timing, ToStream, VERSION, Wanted, file_digest,
    protocol_problem, read_frame, read_hello, silent_for, write_frame,
};

/// The command lines that a window may have carried out here.
pub const COMMANDS: [&str; 10] =
    ["describe", "check", "plugins", "devices", "summary", "train", "resume", "fork", "sweep", "cross-validate"];

/// Serves the runs of `folder` until `input` ends. `host` carries out command lines.
///
/// Errors: the other end is no window, speaks another protocol, or was silent for too long; a sentence.
pub fn serve(
    folder: &Path,
    host: Arc<dyn Host>,
    timing: Timing,
    input: impl Read + Send + 'static,
    output: &mut impl Write,
) -> Result<(), String> {
    let heard = Arc::new(Mutex::new(Instant::now()));
    let mut input = Heard { input, at: heard.clone() };
    // A window that is gone is the end, not an error.
    if output.write_all(START).is_err()
        || write_frame(output, &FromStream::Hello { protocol: PROTOCOL, version: VERSION.into() }, &[]).is_err()
    {
        return Ok(());
    }
    let (events, inbox) = unbounded();
    let from_window = events.clone();
    std::thread::spawn(move || {
        let mut hello = read_hello::<ToStream>(&mut input).map(|hello| hello.map(|hello| (hello, Vec::new())));
        loop {
            let (event, is_last) = match hello {
                Ok(Some((message, _))) => (Event::Message(message), false),
                Ok(None) => (Event::Closed, true),
                Err(problem) => (Event::Broken(problem), true),
            };
            if from_window.send(event).is_err() || is_last {
                return;
            }
            hello = read_frame(&mut input);
        }
    });
    let mut stream = Stream {
        folder: folder.to_path_buf(),
        host,
        have: None,
        runs: BTreeMap::new(),
        listed: None,
        listed_folders: Vec::new(),
        listed_at: None,
        files: BTreeMap::new(),
        sent_files: HashMap::new(),
        under_way: 0,
        started: Vec::new(),
        events,
    };
    match stream.greet(&inbox, timing) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(sentence) => {
            let _ = write_frame(output, &FromStream::Refused { sentence: sentence.clone() }, &[]);
            return Err(sentence);
        }
    }
    match stream.run(&inbox, timing, &heard, output) {
        Err(End::Gone) | Ok(()) => Ok(()),
        Err(End::Problem(sentence)) => Err(sentence),
    }
}

enum Event {
    Message(ToStream),
    Closed,
    Broken(String),
    Answered { request: u64, outcome: Outcome },
}

/// Why a connection is over.
enum End {
    /// Nobody reads any more.
    Gone,
    Problem(String),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

struct Stream {
    folder: PathBuf,
    host: Arc<dyn Host>,
    /// What the window has of runs that were not looked at yet; `None`: it did not say so yet, and nothing is sent.
    have: Option<BTreeMap<String, Have>>,
    /// By name and path: the newest run is the last.
    runs: BTreeMap<(String, String), Entry>,
    /// What was last told: runs and problems.
    listed: Option<(Vec<String>, Vec<String>)>,
    /// Folders that were listed, with the time of their last change.
    listed_folders: Vec<(PathBuf, Option<SystemTime>)>,
    listed_at: Option<Instant>,
    /// Files that the window has, with a digest.
    files: BTreeMap<String, String>,
    /// Files as they were when they were sent.
    sent_files: HashMap<String, (u64, Option<SystemTime>)>,
    under_way: usize,
    /// Tickets of commands that were started and have not ended.
    started: Vec<u64>,
    events: Sender<Event>,
}

struct Entry {
    path: PathBuf,
    feed: RunFeed,
    /// The run's files as they were before all curves, and everything, were read; `None`: read again.
    read: [Option<Stamp>; 2],
    problem: Option<String>,
}

impl Stream {
    /// Waits for the window's hello; false when it went away before.
    fn greet(&self, inbox: &Receiver<Event>, timing: Timing) -> Result<bool, String> {
        match inbox.recv_timeout(timing.silence) {
            Ok(Event::Message(ToStream::Hello { protocol, version })) => match protocol_problem("at the window", protocol, &version) {
                None => Ok(true),
                Some(problem) => Err(problem),
            },
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => Ok(false),
            Ok(Event::Broken(problem)) => Err(format!("{problem}. `solstice stream` is for `solstice dashboard --ssh HOST:DIR`")),
            Ok(_) => Err("the first message must be a hello. `solstice stream` is for `solstice dashboard --ssh HOST:DIR`".into()),
            Err(RecvTimeoutError::Timeout) => {
                Err("nobody says hello on standard input. `solstice stream` is for `solstice dashboard --ssh HOST:DIR`".into())
            }
        }
    }

    fn run(&mut self, inbox: &Receiver<Event>, timing: Timing, heard: &Mutex<Instant>, output: &mut impl Write) -> Result<(), End> {
        let mut beat_due = Instant::now() + timing.beat;
        let mut folder_due = Instant::now();
        let mut wait = Duration::ZERO;
        loop {
            let mut event = match inbox.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(some) = event {
                match some {
                    Event::Message(message) => self.take(message, output)?,
                    Event::Answered { request, outcome } => write_frame(output, &FromStream::Answer { request, outcome }, &[])?,
                    Event::Closed => return Ok(()),
                    Event::Broken(problem) => return Err(End::Problem(problem)),
                }
                event = inbox.try_recv().ok();
            }
            if silent_for(heard) >= timing.silence {
                return Err(End::Problem(format!("nothing was heard from the window for {} s", timing.silence.as_secs_f32())));
            }
            let now = Instant::now();
            if now >= beat_due {
                write_frame(output, &FromStream::Beat, &[])?;
                beat_due = now + timing.beat;
            }
            if self.have.is_none() {
                wait = timing.beat.min(FOLDER_INTERVAL);
                continue;
            }
            if now >= folder_due {
                self.look_at_folder(output)?;
                self.look_at_runs();
                folder_due = now + FOLDER_INTERVAL;
            }
            self.look_at_started(output)?;
            let is_idle = self.under_way >= CHUNKS_UNDER_WAY_MAX || !self.send_next(output)?;
            wait = match is_idle {
                false => Duration::ZERO,
                true if self.runs.values().any(|entry| entry.feed.is_open()) || !self.started.is_empty() => LIVE_INTERVAL,
                true => FOLDER_INTERVAL,
            };
            wait = wait.min(timing.beat);
        }
    }

    fn take(&mut self, message: ToStream, output: &mut impl Write) -> Result<(), End> {
        match message {
            ToStream::Have { runs, files } => {
                (self.have, self.files) = (Some(runs), files);
                self.runs.clear();
                (self.listed, self.listed_at) = (None, None);
            }
            ToStream::Taken => self.under_way = self.under_way.saturating_sub(1),
            ToStream::Again { run } => {
                if let Some(entry) = self.entry(&run) {
                    (entry.feed, entry.read) = (RunFeed::new(&entry.path, None), [None; 2]);
                }
                self.sent_files.retain(|path, _| !path.starts_with(&format!("{run}/")));
                self.files.retain(|path, _| !path.starts_with(&format!("{run}/")));
            }
            ToStream::Request { request, wanted } => {
                if let Some(outcome) = self.carry_out(request, wanted) {
                    write_frame(output, &FromStream::Answer { request, outcome }, &[])?;
                }
            }
            ToStream::Hello { .. } | ToStream::Beat | ToStream::Unknown => {}
        }
        Ok(())
    }

    fn entry(&mut self, run: &str) -> Option<&mut Entry> {
        self.runs.iter_mut().find(|((_, path), _)| path == run).map(|(_, entry)| entry)
    }

    /// What became of a request; `None`: it is told later.
    fn carry_out(&mut self, request: u64, wanted: Wanted) -> Option<Outcome> {
        let failed = |sentence: String| Some(Outcome::Failed { sentence });
        let no_run = |run: &str| failed(format!("there is no run `{run}` on that machine any more"));
        match wanted {
            Wanted::Command { run, kind, args, who } => {
                let Some(entry) = self.entry(&run) else { return no_run(&run) };
                let args = match serde_json::from_str(&args) {
                    Ok(args) => args,
                    Err(error) => return failed(format!("the arguments of `{kind}` are no JSON: {error}")),
                };
                entry.read = [None; 2];
                match solstice_store::send_command(&entry.path, &who, &kind, &args) {
                    Ok(id) => Some(Outcome::Sent { id }),
                    Err(error) => failed(error.to_string()),
                }
            }
            Wanted::Label { run, key, value } => {
                let Some(entry) = self.entry(&run) else { return no_run(&run) };
                entry.read = [None; 2];
                let done = match value {
                    Some(value) => solstice_store::set_label(&entry.path, &key, &value),
                    None => solstice_store::forget_label(&entry.path, &key),
                };
                match done {
                    Ok(()) => Some(Outcome::Done),
                    Err(error) => failed(error.to_string()),
                }
            }
            Wanted::Ask { args, .. } | Wanted::Start { args, .. } if !is_allowed(&args) => failed(format!(
                "`solstice {}` is not carried out for a window far away; what is: {}",
                args.first().map_or("", String::as_str),
                COMMANDS.join(", ")
            )),
            Wanted::Ask { args, input, root } => {
                let args = self.translated(&args, &root);
                let (host, events) = (self.host.clone(), self.events.clone());
                // Some take minutes.
                std::thread::spawn(move || {
                    let outcome = match host.ask(&args, &input) {
                        Ok(answer) => Outcome::Answered { answer },
                        Err(sentence) => Outcome::Failed { sentence },
                    };
                    let _ = events.send(Event::Answered { request, outcome });
                });
                None
            }
            Wanted::Start { args, input, root } => match self.host.start(&self.translated(&args, &root), &input) {
                Ok(ticket) => {
                    self.started.push(ticket);
                    Some(Outcome::Started { ticket })
                }
                Err(sentence) => failed(sentence),
            },
            Wanted::Unknown => failed(format!("Solstice {VERSION} on that machine does not know this request: update it")),
        }
    }

    /// Paths of the window's mirrors, below `root`, as those of the runs here: a panel need not know where a run is.
    fn translated(&self, args: &[String], root: &str) -> Vec<String> {
        let base = self.place().1.to_string_lossy().into_owned();
        args.iter().map(|arg| if root.is_empty() { arg.clone() } else { arg.replace(root, &base) }).collect()
    }

    fn look_at_started(&mut self, output: &mut impl Write) -> Result<(), End> {
        for ticket in std::mem::take(&mut self.started) {
            match self.host.ended(ticket) {
                Some(answer) => write_frame(output, &FromStream::Ended { ticket, answer }, &[])?,
                None => self.started.push(ticket),
            }
        }
        Ok(())
    }

    /// The folder, and the one that the paths of runs are told from: a folder that is itself a run or a sweep keeps its name.
    fn place(&self) -> (PathBuf, PathBuf) {
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        let is_part = folder.join(DATABASE_FILE).is_file() || folder.join(TRIALS_FILE).is_file();
        let base = folder.parent().filter(|_| is_part).unwrap_or(&folder).to_path_buf();
        (folder, base)
    }

    /// Finds new runs and forgets deleted ones. Lists nothing while no folder has changed.
    fn look_at_folder(&mut self, output: &mut impl Write) -> Result<(), End> {
        let is_recent = self.listed_at.is_some_and(|at| at.elapsed() < LISTING_INTERVAL);
        if is_recent && self.listed_folders.iter().all(|(path, time)| changed_time(path) == *time) {
            return Ok(());
        }
        let (folder, base) = self.place();
        let mut listing = Listing::default();
        listing.add(&folder, None, true);
        (self.listed_at, self.listed_folders) = (Some(Instant::now()), listing.listed);
        let mut problems = listing.problems;
        if !folder.is_dir() {
            problems.push(format!("there is no folder {} there yet", folder.display()));
        }
        let below = |path: &Path| {
            let parts: Vec<String> = path.strip_prefix(&base).ok()?.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            Some(parts.join("/"))
        };
        let mut paths = BTreeMap::new();
        let mut groups = Vec::new();
        for path in listing.runs.into_keys().filter(|path| path.join(DATABASE_FILE).is_file()) {
            let Some(run) = below(&path) else { continue };
            for group in path.ancestors().skip(1).take_while(|folder| **folder != base) {
                if group.join(TRIALS_FILE).is_file() && !groups.iter().any(|known| known == group) {
                    groups.push(group.to_path_buf());
                }
            }
            let name = run.rsplit('/').next().unwrap_or_default().to_string();
            paths.insert((name, run), path);
        }
        // A disk that is not mounted for a while: what was sent of its runs need not be sent again.
        let is_whole = problems.is_empty();
        let told = (paths.keys().map(|(_, run)| run.clone()).collect(), problems);
        if self.listed.as_ref() != Some(&told) {
            let (runs, problems) = told.clone();
            write_frame(output, &FromStream::Runs { runs, problems }, &[])?;
            self.listed = Some(told);
        }
        for group in groups {
            if let Some(name) = below(&group) {
                self.send_file(&group, &name, TRIALS_FILE, output)?;
            }
        }
        if is_whole {
            self.runs.retain(|key, _| paths.contains_key(key));
        }
        for (key, path) in paths {
            let have = self.have.as_mut();
            self.runs.entry(key).or_insert_with_key(|(_, run)| {
                let have = have.and_then(|have| have.remove(run));
                Entry { feed: RunFeed::new(&path, have), path, read: [None; 2], problem: None }
            });
        }
        Ok(())
    }

    /// Wakes runs whose files have changed, or whose process may have died.
    fn look_at_runs(&mut self) {
        for entry in self.runs.values_mut().filter(|entry| !entry.feed.is_open()) {
            if entry.read[1] != Some(stamp(&entry.path)) || !entry.feed.is_over() {
                entry.read = [None; 2];
            }
        }
    }

    /// Sends the most wanted chunk; false when there is nothing new.
    fn send_next(&mut self, output: &mut impl Write) -> Result<bool, End> {
        let mut found: Option<(String, Chunk)> = None;
        let mut read_to_end = Vec::new();
        let mut told = Vec::new();
        let mut open_count = self.runs.values().filter(|entry| entry.feed.is_open()).count();
        'search: for (index, depth) in [Depth::Curves, Depth::All].into_iter().enumerate() {
            for ((_, run), entry) in self.runs.iter_mut().rev().filter(|(_, entry)| entry.feed.is_open() || entry.read[index].is_none()) {
                let now = stamp(&entry.path);
                let was_open = entry.feed.is_open();
                let outcome = entry.feed.next(depth);
                open_count = open_count + usize::from(entry.feed.is_open()) - usize::from(was_open);
                // One that was deleted is told by the list of runs.
                let problem = outcome.as_ref().err().filter(|_| entry.path.join(DATABASE_FILE).is_file()).map(ToString::to_string);
                if problem != entry.problem {
                    entry.problem = problem.clone();
                    told.push(FromStream::RunProblem { run: run.clone(), problem });
                }
                match outcome {
                    Ok(Some(chunk)) => {
                        found = Some((run.clone(), chunk));
                        break 'search;
                    }
                    Ok(None) => {
                        entry.read[index] = Some(now);
                        let is_read = depth == Depth::All;
                        if is_read {
                            read_to_end.push((entry.path.clone(), run.clone()));
                        }
                        if (is_read && entry.feed.is_over()) || open_count > OPEN_RUNS_MAX {
                            entry.feed.close();
                            open_count -= 1;
                        }
                    }
                    // Tried again when the folder is looked at.
                    Err(_) => entry.read = [Some(now); 2],
                }
            }
        }
        for message in told {
            write_frame(output, &message, &[])?;
        }
        // Once the mirror is there.
        for (path, run) in read_to_end {
            self.send_file(&path, &run, solstice_store::RECIPE_FILE, output)?;
        }
        let Some((run, chunk)) = found else { return Ok(false) };
        self.under_way += 1;
        write_frame(output, &FromStream::Chunk { run, header: chunk.header }, &chunk.rows)?;
        Ok(true)
    }

    /// Sends a small file that the window does not have as it is.
    fn send_file(&mut self, folder: &Path, place: &str, name: &str, output: &mut impl Write) -> Result<(), End> {
        let path = format!("{place}/{name}");
        let Ok(file) = fs::metadata(folder.join(name)) else { return Ok(()) };
        let now = (file.len(), file.modified().ok());
        if file.len() > FILE_BYTES_MAX || self.sent_files.get(&path) == Some(&now) {
            return Ok(());
        }
        let Ok(bytes) = fs::read(folder.join(name)) else { return Ok(()) };
        self.sent_files.insert(path.clone(), now);
        let digest = file_digest(&bytes);
        if self.files.get(&path) != Some(&digest) {
            write_frame(output, &FromStream::File { path: path.clone() }, &bytes)?;
            self.files.insert(path, digest);
        }
        Ok(())
    }
}

fn is_allowed(args: &[String]) -> bool {
    args.first().is_some_and(|command| COMMANDS.contains(&command.as_str()))
}
