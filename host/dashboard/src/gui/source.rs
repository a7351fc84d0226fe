//! Where the window's snapshots come from, and where its commands go.

use crate::data::{Host, Hosts, Library, MediaReader, Outbox, Remote, SAVE, SentCommand, SentState, Snapshot, Trashed, save_beside};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something that is to be done to a run, by its id; carried out at the end of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A row in its table of commands.
    Command {
        /// The run.
        run: String,
        /// `pause`, `set`, ...
        kind: String,
        /// Arguments.
        args: Value,
    },
    /// A mark of people.
    Label {
        /// The run.
        run: String,
        /// `name`, `note`, `tags`, `colour`, `pinned`, `archived`.
        key: String,
        /// Without one the mark is taken away.
        value: Option<String>,
    },
    /// Delete runs, together.
    Trash {
        /// The runs.
        runs: Vec<String>,
    },
    /// Bring deleted runs back.
    Restore {
        /// The hidden folders they wait in.
        hidden: Vec<PathBuf>,
    },
    /// Write a text to a new file beside the first runs folder.
    Save {
        /// How the file's name ends.
        ending: &'static str,
        /// What is written.
        text: String,
    },
}

/// Runs folders, followed or read once.
#[derive(Clone)]
pub enum Source {
    /// Followed by a thread.
    Live {
        /// The thread.
        library: Arc<Library>,
        /// What it follows.
        folders: Vec<PathBuf>,
        /// Lists, checks and launches there.
        host: Option<Arc<dyn Host>>,
    },
    /// Read when it was made and, where there are folders, after each command, on the thread that asks: for tests, where nothing may change by itself.
    Still {
        /// What is read.
        folders: Vec<PathBuf>,
        /// What was read.
        snapshot: Arc<Snapshot>,
        /// What could not be sent.
        failures: Vec<String>,
        /// Lists, checks and launches there.
        host: Option<Arc<dyn Host>>,
    },
}

impl Source {
    /// Follows these folders.
    pub fn live(folders: &[PathBuf]) -> Source {
        Source::Live { library: Arc::new(Library::open(folders)), folders: folders.to_vec(), host: None }
    }

    /// Follows these folders, and the runs of other machines; `local` is the program on this one, where its runs are shown too.
    pub fn far(folders: &[PathBuf], remotes: &[Arc<Remote>], local: Option<Arc<dyn Host>>) -> Source {
        let outboxes: Vec<Arc<dyn Outbox>> = remotes.iter().map(|remote| remote.clone() as Arc<dyn Outbox>).collect();
        let all = folders.iter().cloned().chain(outboxes.iter().map(|outbox| outbox.folder().to_path_buf())).collect();
        let library = Arc::new(Library::open_with(folders, outboxes));
        Source::Live { library, folders: all, host: Some(Arc::new(Hosts::new(local, remotes))) }
    }

    /// The source, with a program that lists, checks and launches.
    pub fn with_host(mut self, new: Arc<dyn Host>) -> Source {
        match &mut self {
            Source::Live { host, .. } | Source::Still { host, .. } => *host = Some(new),
        }
        self
    }

    /// The program that lists, checks and launches, where there is one.
    pub fn host(&self) -> Option<Arc<dyn Host>> {
        match self {
            Source::Live { host, .. } | Source::Still { host, .. } => host.clone(),
        }
    }

    /// These folders as they are now.
    pub fn still(folders: &[PathBuf]) -> Source {
        Source::Still { folders: folders.to_vec(), snapshot: Arc::new(Snapshot::read(folders)), failures: Vec::new(), host: None }
    }

    /// A snapshot made elsewhere.
    pub fn of(snapshot: Snapshot) -> Source {
        Source::Still { folders: Vec::new(), snapshot: Arc::new(snapshot), failures: Vec::new(), host: None }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        match self {
            Source::Live { library, .. } => library.snapshot(),
            Source::Still { snapshot, .. } => snapshot.clone(),
        }
    }

    /// The folders.
    pub fn folders(&self) -> &[PathBuf] {
        match self {
            Source::Live { folders, .. } | Source::Still { folders, .. } => folders,
        }
    }

    /// Calls `wake` whenever there is a new snapshot.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        if let Source::Live { library, .. } = self {
            library.on_change(Box::new(wake));
        }
    }

    /// What reads media: on a thread that calls `wake` where the source is live, else where it is asked for.
    pub fn media(&self, wake: impl Fn() + Send + Sync + 'static) -> MediaReader {
        match self {
            Source::Live { .. } => MediaReader::live(wake),
            Source::Still { .. } => MediaReader::still(),
        }
    }

    /// Does what was asked of a run of `snapshot`.
    pub fn carry_out(&mut self, snapshot: &Snapshot, request: Request) {
        let path_of = |id: &str| snapshot.runs.iter().find(|run| run.id == id).map(|run| run.path.clone());
        match request {
            Request::Command { run, kind, args } => {
                if let Some(path) = path_of(&run) {
                    self.send(&path, &kind, args);
                }
            }
            Request::Label { run, key, value } => {
                if let Some(path) = path_of(&run) {
                    self.set_label(&path, &key, value.as_deref());
                }
            }
            Request::Trash { runs } => {
                let runs: Vec<PathBuf> = runs.iter().filter_map(|id| path_of(id)).collect();
                self.trash(&runs);
            }
            Request::Restore { hidden } => self.restore(&hidden),
            Request::Save { ending, text } => self.save(ending, text),
        }
    }

    fn trash(&mut self, runs: &[PathBuf]) {
        match self {
            Source::Live { library, .. } => library.trash(runs),
            Source::Still { snapshot, .. } => {
                let mut next = (**snapshot).clone();
                let batch = next.trashed.last().map_or(1, |last| last.batch + 1);
                let mut outcome = Ok(());
                for path in runs {
                    let title = next.run(path).map_or_else(|| path.display().to_string(), |run| run.title().to_owned());
                    match Trashed::new(path, &title, batch) {
                        Ok(trashed) => next.trashed.push(trashed),
                        Err(error) => outcome = Err(error),
                    }
                }
                *snapshot = Arc::new(next);
                self.settle(outcome);
            }
        }
    }

    fn restore(&mut self, hidden: &[PathBuf]) {
        match self {
            Source::Live { library, .. } => library.restore(hidden),
            Source::Still { snapshot, .. } => {
                let mut next = (**snapshot).clone();
                let outcome = hidden.iter().try_for_each(|hidden| solstice_store::restore_run(hidden).map(|_| ()));
                next.trashed.retain(|trashed| !hidden.contains(&trashed.hidden) || trashed.hidden.exists());
                *snapshot = Arc::new(next);
                self.settle(outcome);
            }
        }
    }

    fn save(&mut self, ending: &'static str, text: String) {
        let Some(folder) = self.folders().first().cloned() else { return };
        match self {
            Source::Live { library, .. } => library.save_beside(&folder, ending, text),
            Source::Still { snapshot, failures, .. } => match save_beside(&folder, ending, &text) {
                Ok(path) => {
                    let saved = SentCommand {
                        ticket: snapshot.sent.len() as u64 + 1,
                        run: path,
                        kind: SAVE.into(),
                        args: Value::Null,
                        state: SentState::Done,
                        reason: None,
                        time: solstice_store::now(),
                        id: None,
                    };
                    let mut next = (**snapshot).clone();
                    next.sent.push(saved);
                    *snapshot = Arc::new(next);
                }
                Err(sentence) => failures.push(sentence),
            },
        }
    }

    fn send(&mut self, run: &Path, kind: &str, args: Value) {
        match self {
            Source::Live { library, .. } => {
                library.send(run, kind, args);
            }
            Source::Still { .. } => self.settle(solstice_store::send_command(run, "window", kind, &args).map(|_| ())),
        }
    }

    fn set_label(&mut self, run: &Path, key: &str, value: Option<&str>) {
        match self {
            Source::Live { library, .. } => {
                library.set_label(run, key, value);
            }
            Source::Still { .. } => self.settle(match value {
                Some(value) => solstice_store::set_label(run, key, value),
                None => solstice_store::forget_label(run, key),
            }),
        }
    }

    // A still source is read again after each change.
    fn settle(&mut self, outcome: Result<(), solstice_store::StoreError>) {
        let Source::Still { folders, snapshot, failures, .. } = self else { return };
        failures.extend(outcome.err().map(|error| error.to_string()));
        if !folders.is_empty() {
            let read = Snapshot::read(folders);
            *snapshot = Arc::new(Snapshot { sent: snapshot.sent.clone(), trashed: snapshot.trashed.clone(), ..read });
        }
    }

    /// Why the last command could not be sent, if it could not.
    pub fn failure(&self) -> Option<String> {
        match self {
            Source::Live { library, .. } => {
                let snapshot = library.snapshot();
                let last = snapshot.sent.last()?;
                (last.state == SentState::Failed && last.id.is_none()).then(|| last.reason.clone()).flatten()
            }
            Source::Still { failures, .. } => failures.last().cloned(),
        }
    }
}
