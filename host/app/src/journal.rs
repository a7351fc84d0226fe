//! Where everything that a run has to say goes: its store, and the recipe's loggers, each on a thread of its own.
//!
//! A logger that is slow, fails or hangs costs the run nothing: what it cannot take in time is left out of that logger and counted.

use crate::loader::LoggerHandle;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use solstice_plugin_abi::run::{Entry, LogItem, Logged, Position, RunFacts, unhex};
use solstice_store::{At, Event, RunWriter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Items that wait for a logger at most.
const WAITING_MAX: usize = 4096;
/// How long the end of a run waits for its loggers.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The store and the loggers of a run.
pub struct Journal {
    /// The run's store.
    pub writer: Arc<RunWriter>,
    loggers: Vec<LoggerThread>,
    store_fails: bool,
}

struct LoggerThread {
    component: String,
    sender: Sender<Message>,
    done: Receiver<()>,
    left_out: AtomicU64,
}

enum Message {
    Item(LogItem),
    Flush,
}

impl Journal {
    /// Starts a thread for each logger; a logger that cannot be opened is a warning.
    pub fn open(writer: Arc<RunWriter>, loggers: Vec<(String, LoggerHandle)>, facts: &RunFacts) -> Journal {
        let start = |(_, handle): (String, LoggerHandle)| {
            let (sender, receiver) = bounded(WAITING_MAX);
            let (ended, done) = bounded(0);
            // A logger that hangs must not keep the store open.
            let (writer, facts, component) = (Arc::downgrade(&writer), facts.clone(), handle.component().to_owned());
            let run = move || {
                write_all(&handle, &writer, &facts, &receiver);
                drop(ended);
            };
            std::thread::Builder::new().name("logger".into()).spawn(run).expect("the system can start a thread");
            LoggerThread { component, sender, done, left_out: AtomicU64::new(0) }
        };
        let loggers = loggers.into_iter().map(start).collect();
        Journal { writer, loggers, store_fails: false }
    }

    /// Logs figures of one step.
    pub fn scalars(&self, at: Position, scalars: &[(String, f64)]) {
        let borrowed: Vec<(&str, f64)> = scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.writer.scalars(store_at(at), &borrowed);
        self.send(at, || Logged::Scalars(scalars.iter().cloned().collect()));
    }

    /// Notes something that happened.
    pub fn event(&self, at: Position, event: Event) {
        self.send(at, || Logged::Mark { kind: event.kind.clone(), message: event.message.clone() });
        self.writer.event(event);
    }

    /// Logs anything under a name.
    pub fn entry(&self, at: Position, entry: Entry) {
        let place = store_at(at);
        match &entry {
            Entry::Scalar { name, value } => self.writer.scalar(place, name, *value),
            Entry::Text { name, text } => self.writer.text(place, name, text.clone()),
            Entry::Image { name, width, height, caption, png } => {
                let Some(data) = unhex(png) else {
                    return self.writer.event(Event::new(
                        at.step,
                        "callback",
                        "worker",
                        format!("the picture `{name}` is damaged and was left out"),
                    ));
                };
                let image = solstice_store::Image { format: "png".into(), width: *width, height: *height, caption: caption.clone(), data };
                self.writer.image(place, name, image);
            }
            Entry::Histogram { name, edges, counts, not_finite } => {
                let histogram = solstice_store::Histogram { edges: edges.clone(), counts: counts.clone(), not_finite: *not_finite };
                self.writer.histogram(place, name, histogram);
            }
            Entry::Table { name, columns, rows } => {
                self.writer.table(place, name, solstice_store::Table { columns: columns.clone(), rows: rows.clone() });
            }
            Entry::Matrix { name, row_labels, column_labels, cells } => {
                let (row_labels, column_labels, cells) = (row_labels.clone(), column_labels.clone(), cells.clone());
                self.writer.matrix(place, name, solstice_store::Matrix { row_labels, column_labels, cells });
            }
        }
        self.send(at, || Logged::Entry(entry));
    }

    /// Says so, once, when the disk takes no rows any more, and when it does again.
    pub fn watch_store(&mut self) {
        let problem = self.writer.health().problem;
        match (&problem, self.store_fails) {
            (Some(problem), false) => {
                eprintln!("warning: the run store takes no rows: {problem}; they wait in memory, and training goes on")
            }
            (None, true) => eprintln!("The run store takes rows again."),
            _ => {}
        }
        self.store_fails = problem.is_some();
    }

    /// Asks the loggers to put what they have on disk; waits for nothing.
    pub fn flush(&self) {
        for logger in &self.loggers {
            let _ = logger.sender.try_send(Message::Flush);
        }
    }

    fn send(&self, at: Position, what: impl FnOnce() -> Logged) {
        if self.loggers.is_empty() {
            return;
        }
        let item = LogItem { at, time: solstice_store::now(), what: what() };
        for logger in &self.loggers {
            match logger.sender.try_send(Message::Item(item.clone())) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    if logger.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
                        let sentence =
                            format!("{} is slower than the run logs: what it has no time for is left out of it", logger.component);
                        eprintln!("warning: {sentence}");
                        self.writer.event(Event::new(at.step, "logger", "worker", sentence));
                    }
                }
                // It has given up, and said so.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

impl Drop for Journal {
    /// Gives the loggers a few seconds for what they still have; one that takes longer is left alone.
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + LAST_WORDS;
        for logger in std::mem::take(&mut self.loggers) {
            let LoggerThread { component, sender, done, left_out } = logger;
            drop(sender);
            let late = matches!(done.recv_deadline(deadline), Err(crossbeam_channel::RecvTimeoutError::Timeout));
            let left_out = left_out.into_inner();
            if late || left_out > 0 {
                let rest = if late { ", and did not finish" } else { "" };
                self.writer.event(Event::new(0, "logger", "worker", format!("{component} missed {left_out} items{rest}")));
            }
        }
    }
}

fn write_all(handle: &LoggerHandle, writer: &Weak<RunWriter>, facts: &RunFacts, messages: &Receiver<Message>) {
    let tell = |step: u64, sentence: String| {
        if let Some(writer) = writer.upgrade() {
            writer.event(Event::new(step, "logger", "worker", sentence));
        }
    };
    let mut failing = false;
    let mut check = |outcome: Result<(), crate::loader::PluginError>, step: u64, written: bool| {
        match outcome {
            Ok(()) => {
                if written && std::mem::take(&mut failing) {
                    tell(step, format!("{} works again", handle.component()));
                }
                return true;
            }
            // Once: a full disk fails every call.
            Err(error) if !std::mem::replace(&mut failing, true) => {
                let sentence = format!("{error}; training goes on");
                eprintln!("warning: {sentence}");
                tell(step, sentence);
            }
            Err(_) => {}
        }
        false
    };
    if !check(handle.open(facts), facts.first_step, false) {
        return;
    }
    while let Ok(first) = messages.recv() {
        let mut items = vec![];
        let mut flush = false;
        for message in std::iter::once(first).chain(messages.try_iter().take(WAITING_MAX)) {
            match message {
                Message::Item(item) => items.push(item),
                Message::Flush => flush = true,
            }
        }
        let step = items.last().map_or(facts.first_step, |item| item.at.step);
        if !items.is_empty() {
            check(handle.log(&items), step, true);
        }
        if flush {
            check(handle.flush(), step, false);
        }
    }
    check(handle.flush(), facts.first_step, false);
}

/// A position as the store has it.
pub fn store_at(at: Position) -> At {
    At { step: at.step, epoch: at.epoch, samples: at.samples }
}
