//! The thread behind [`RunWriter`](crate::RunWriter): one transaction about every 100 ms, a heartbeat every second, a look for commands every 50 ms.
//!
//! A refused transaction goes back into the queue whole and is tried again, later and later. The SQL is in `insert.rs`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::command;
use crate::error::sqlite_advice;
use crate::insert::{MetricRow, write_batch};
use crate::process::now;
use crate::queue::Queue;
use crate::rows::{Command, Event};
use crate::write::WriterOptions;

/// Time between two looks at the `commands` table.
const COMMAND_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two heartbeats.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest wait after a refused transaction.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the callers and the writer thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub queue: Mutex<Queue>,
    /// For the writer thread: something to do before the next tick.
    pub wake: Condvar,
    /// For `flush`: a transaction ended.
    pub written: Condvar,
    pub commands: Mutex<VecDeque<Command>>,
    /// `commands` is not empty: read every step, so no lock.
    pub commands_wait: AtomicBool,
    pub command_came: Condvar,
}

impl Shared {
    pub fn new(queue: Queue) -> Shared {
        Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            written: Condvar::new(),
            commands: Mutex::new(VecDeque::new()),
            commands_wait: AtomicBool::new(false),
            command_came: Condvar::new(),
        }
    }

    // A panic elsewhere must not end training: the data behind these locks is whole between any two statements that change it.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn commands(&self) -> MutexGuard<'_, VecDeque<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one thread that writes the SQLite file of a run.
pub(crate) struct WriterThread<'a> {
    shared: &'a Shared,
    connection: Connection,
    /// By `metric_index`.
    metrics: Vec<MetricRow>,
    options: WriterOptions,
    last_write: Instant,
    last_beat: Instant,
    retry: Option<(Instant, Duration)>,
    data_version: i64,
    last_command_id: i64,
    page_count_max: Option<u32>,
}

impl<'a> WriterThread<'a> {
    pub fn new(shared: &'a Shared, connection: Connection, metrics: Vec<MetricRow>, options: WriterOptions) -> WriterThread<'a> {
        let now = Instant::now();
        WriterThread {
            shared,
            connection,
            metrics,
            options,
            last_write: now,
            last_beat: now,
            retry: None,
            data_version: -1,
            last_command_id: 0,
            page_count_max: None,
        }
    }

    pub fn run(mut self) {
        let mut give_up = None;
        loop {
            let (flush, shutdown, urgent) = self.sleep();
            self.poll_commands();
            if shutdown && give_up.is_none() {
                give_up = Some(Instant::now() + self.options.drop_patience);
            }
            let asked = flush || shutdown;
            let can_try = asked || self.retry.is_none_or(|(when, _)| Instant::now() >= when);
            let is_due = asked || urgent || self.last_write.elapsed() >= self.options.batch_interval;
            let mut all_written = false;
            if can_try && is_due {
                all_written = self.write(asked);
            }
            if let Some(give_up) = give_up {
                if all_written || Instant::now() >= give_up {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.close();
    }

    /// Waits for the next tick or until there is something to do: `(flush, shutdown, urgent)`.
    fn sleep(&mut self) -> (bool, bool, bool) {
        let is_due = |queue: &Queue, retrying: bool| {
            queue.flush_requested > queue.flush_finished || queue.shutdown || (!retrying && (queue.urgent || queue.is_filling()))
        };
        let retrying = self.retry.is_some();
        let queue = self.shared.queue();
        let (mut queue, _) = self
            .shared
            .wake
            .wait_timeout_while(queue, COMMAND_INTERVAL.min(self.options.batch_interval), |queue| !is_due(queue, retrying))
            .unwrap_or_else(PoisonError::into_inner);
        if self.page_count_max != queue.page_count_max {
            self.page_count_max = queue.page_count_max;
            let pages = self.page_count_max.unwrap_or(u32::MAX - 1);
            let _ = self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
        }
        let urgent = std::mem::take(&mut queue.urgent) || queue.is_filling();
        (queue.flush_requested > queue.flush_finished, queue.shutdown, urgent)
    }

    /// New rows of `commands`, looked at only when another connection has written: one shared-memory read otherwise.
    fn poll_commands(&mut self) {
        let Ok(version) = self.connection.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)) else { return };
        if version == self.data_version {
            return;
        }
        if let Ok(commands) = command::sent_after(&self.connection, self.last_command_id) {
            self.data_version = version;
            if let Some(last) = commands.last() {
                self.last_command_id = last.id;
                self.shared.commands().extend(commands);
                self.shared.commands_wait.store(true, Ordering::Release);
                self.shared.command_came.notify_all();
            }
        }
    }

    /// Writes one batch and the heartbeat. True when nothing waits any more.
    fn write(&mut self, everything: bool) -> bool {
        let (batch, ticket) = {
            let mut queue = self.shared.queue();
            for (kind, name) in &queue.metrics[self.metrics.len()..] {
                self.metrics.push(MetricRow::new(*kind, name.clone()));
            }
            // A flush may have been asked for since the thread woke: its ticket is answered only if everything is taken.
            let everything = everything || queue.flush_requested > queue.flush_finished;
            (queue.take(everything), queue.flush_requested)
        };
        let beat_secs = self.last_beat.elapsed().as_secs_f64();
        let beat_due = self.last_beat.elapsed() >= BEAT_INTERVAL;
        if batch.is_empty() && !beat_due {
            let mut queue = self.shared.queue();
            queue.written();
            queue.flush_finished = ticket;
            queue.flush_problem = None;
            self.shared.written.notify_all();
            return queue.is_empty();
        }
        // A rolled-back transaction takes back the rows of new metrics too.
        let metrics_before = self.metrics.clone();
        let outcome = write_batch(&mut self.connection, &mut self.metrics, &batch, beat_due.then_some(beat_secs));
        self.last_write = Instant::now();
        if outcome.is_ok() && beat_due {
            self.last_beat = self.last_write;
        }
        let mut queue = self.shared.queue();
        match outcome {
            Ok(refused_rows) => {
                self.retry = None;
                queue.written();
                queue.health.transactions += 1;
                queue.health.refused_rows += refused_rows;
                queue.flush_problem = None;
                if let Some(problem) = queue.health.problem.take() {
                    let secs = now() - queue.health.problem_since.take().unwrap_or_else(now);
                    let lost = queue.health.lost_rows();
                    let message = format!("the run store takes rows again after {secs:.0} s ({problem}); {lost} rows were given up");
                    let step = batch.progress.map_or(0, |(at, _)| at.step);
                    queue.push_event(Event { time: now(), ..Event::new(step, "store", "store", message) });
                }
            }
            Err(error) => {
                self.metrics = metrics_before;
                let wait = self.retry.map_or(RETRY_WAIT.0, |(_, wait)| (wait * 2).min(RETRY_WAIT.1));
                self.retry = Some((self.last_write + wait, wait));
                let problem = format!("{error}{}", sqlite_advice(&error));
                queue.put_back(batch);
                queue.health.problem_since.get_or_insert_with(now);
                queue.flush_problem = Some(problem.clone());
                queue.health.problem = Some(problem);
            }
        }
        queue.flush_finished = ticket;
        self.shared.written.notify_all();
        queue.is_empty()
    }

    /// The last words: nobody will take commands any more, and nobody writes. Best effort: a reader draws the same conclusions without them.
    fn close(self) {
        let _ = self.connection.execute(
            "UPDATE commands SET state = 'failed', answered_time = ?1, reason = 'the run ended before it answered' WHERE state IN ('sent', 'taken')",
            [now()],
        );
        let _ = self.connection.execute("UPDATE run SET train_secs = train_secs + ?1", [self.last_beat.elapsed().as_secs_f64()]);
        let _ = self.connection.execute("UPDATE heartbeat SET pid = NULL, pid_start = NULL, time = ?1", [now()]);
    }
}
