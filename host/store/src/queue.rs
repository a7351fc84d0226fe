//! Rows between training and the disk: bounded memory, and what is given up first when the bound is met.
//!
//! Training pushes under a mutex held for nanoseconds; the writer thread takes what is there and puts it back when the disk refuses it.
//! Nothing here touches SQLite: that is `write.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::rows::{At, CheckpointRow, Event, Health, Histogram, Image, LogLine, Matrix, MetricKind, PluginInfo, RunState, Table};
use crate::write::RunUpdate;

/// A scalar on its way. `metric_index` counts the names in the order in which this process met them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScalarRow {
    pub metric_index: u32,
    pub at: At,
    pub time: f64,
    pub value: f64,
}

#[derive(Debug)]
pub(crate) struct MediaRow {
    pub metric_index: u32,
    pub at: At,
    pub time: f64,
    pub item: Media,
}

#[derive(Debug)]
pub(crate) enum Media {
    Histogram(Histogram),
    Image(Image),
    Text(String),
    Table(Table),
    Matrix(Matrix),
}

impl Media {
    pub fn kind(&self) -> MetricKind {
        match self {
            Media::Histogram(_) => MetricKind::Histogram,
            Media::Image(_) => MetricKind::Image,
            Media::Text(_) => MetricKind::Text,
            Media::Table(_) => MetricKind::Table,
            Media::Matrix(_) => MetricKind::Matrix,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Media::Histogram(histogram) => 8 * (histogram.edges.len() + histogram.counts.len()),
            Media::Image(image) => image.data.len() + image.caption.len(),
            Media::Text(text) => text.len(),
            Media::Table(table) => {
                table.rows.iter().map(|row| 32 * row.len() + row.iter().map(|v| v.as_str().map_or(0, str::len)).sum::<usize>()).sum()
            }
            Media::Matrix(matrix) => 8 * matrix.cells.len(),
        }
    }
}

/// Small rows that steer a run. Never given up; few by nature.
#[derive(Debug)]
pub(crate) enum Control {
    State { state: RunState, reason: Option<String>, time: f64 },
    Update(Box<RunUpdate>),
    Plugins(Vec<PluginInfo>),
    Checkpoint(Box<CheckpointRow>),
    PinCheckpoint { file: String, pinned: bool },
    RemoveCheckpoint { file: String },
    CommandTaken { id: i64, time: f64 },
    CommandAnswered { id: i64, done: bool, reason: Option<String>, time: f64 },
    Rewind { step: u64, time: f64 },
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub scalars: VecDeque<ScalarRow>,
    pub media: VecDeque<MediaRow>,
    pub logs: VecDeque<LogLine>,
    pub events: VecDeque<Event>,
    pub control: VecDeque<Control>,
    pub progress: Option<(At, f64)>,
    /// Memory of the rows, about.
    pub bytes: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.row_count() == 0 && self.progress.is_none()
    }

    pub fn row_count(&self) -> usize {
        self.scalars.len() + self.media.len() + self.logs.len() + self.events.len() + self.control.len()
    }
}

const SCALAR_BYTES: usize = size_of::<ScalarRow>();
const CONTROL_BYTES: usize = 256;
/// Rows of scalars or logs in one transaction: keeps the file locked for some tens of milliseconds at most.
const TAKE_ROWS_MAX: usize = 50_000;
/// Media in one transaction, for the same reason.
const TAKE_MEDIA_BYTES_MAX: usize = 16 << 20;

fn media_bytes(row: &MediaRow) -> usize {
    size_of::<MediaRow>() + row.item.bytes()
}

fn log_bytes(line: &LogLine) -> usize {
    size_of::<LogLine>() + line.level.len() + line.source.len() + line.message.len()
}

fn event_bytes(event: &Event) -> usize {
    size_of::<Event>() + 64 + event.message.len()
}

/// The rows that wait, the names of metrics, and the talk between the callers and the writer thread.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Batch,
    /// Bytes and rows that the writer thread holds in an open transaction.
    in_flight_bytes: usize,
    in_flight_rows: usize,
    bytes_max: usize,
    names: [HashMap<Arc<str>, u32>; MetricKind::ALL.len()],
    /// In the order of `metric_index`.
    pub metrics: Vec<(MetricKind, Arc<str>)>,
    pub health: Health,
    /// Something to write now and not at the next tick.
    pub urgent: bool,
    pub shutdown: bool,
    pub flush_requested: u64,
    pub flush_finished: u64,
    /// Why the last flush did not succeed.
    pub flush_problem: Option<String>,
    /// The writer thread has ended, so nothing will be written any more.
    pub thread_ended: bool,
    /// For tests: the store may not grow beyond this many pages, as on a full disk.
    pub page_count_max: Option<u32>,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Queue {
        Queue { bytes_max, ..Queue::default() }
    }

    /// Index of a metric; a known name allocates nothing.
    pub fn metric_index(&mut self, kind: MetricKind, name: &str) -> u32 {
        let names = &mut self.names[kind as usize];
        if let Some(&index) = names.get(name) {
            return index;
        }
        let index = self.metrics.len() as u32;
        let name: Arc<str> = Arc::from(name);
        names.insert(name.clone(), index);
        self.metrics.push((kind, name));
        index
    }

    pub fn push_scalars(&mut self, at: At, time: f64, scalars: &[(&str, f64)]) {
        for &(name, value) in scalars {
            let metric_index = self.metric_index(MetricKind::Scalar, name);
            self.waiting.scalars.push_back(ScalarRow { metric_index, at, time, value });
        }
        self.waiting.bytes += scalars.len() * SCALAR_BYTES;
        self.progress(at, time);
        self.keep_bound();
    }

    /// Training got here. Only the furthest position is kept.
    pub fn progress(&mut self, at: At, time: f64) {
        match &mut self.waiting.progress {
            Some((furthest, last)) if furthest.step > at.step => *last = time,
            // A bare step (`At::from`) does not take back the epoch that a fuller position of the same step told.
            Some((furthest, last)) if furthest.step == at.step && at.samples == 0 && at.epoch == 0.0 => {
                furthest.step = at.step;
                *last = time;
            }
            progress => *progress = Some((at, time)),
        }
    }

    pub fn push_media(&mut self, name: &str, at: At, time: f64, item: Media) {
        let metric_index = self.metric_index(item.kind(), name);
        let row = MediaRow { metric_index, at, time, item };
        self.waiting.bytes += media_bytes(&row);
        self.waiting.media.push_back(row);
        self.keep_bound();
    }

    pub fn push_log(&mut self, line: LogLine) {
        self.waiting.bytes += log_bytes(&line);
        self.waiting.logs.push_back(line);
        self.keep_bound();
    }

    pub fn push_event(&mut self, event: Event) {
        self.waiting.bytes += event_bytes(&event);
        self.waiting.events.push_back(event);
        self.keep_bound();
    }

    /// Writes at once, so that whoever steers the run sees the answer.
    pub fn push_control(&mut self, control: Control) {
        self.waiting.bytes += CONTROL_BYTES;
        self.waiting.control.push_back(control);
        self.urgent = true;
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A quarter of the bound: time to write before the tick.
    pub fn is_filling(&self) -> bool {
        self.waiting.bytes * 4 > self.bytes_max
    }

    pub fn health(&self) -> Health {
        Health {
            waiting_rows: self.waiting.row_count() + self.in_flight_rows,
            waiting_bytes: self.waiting.bytes + self.in_flight_bytes,
            ..self.health.clone()
        }
    }

    /// Moves out what one transaction writes: everything when somebody waits for a flush, else a bite.
    pub fn take(&mut self, everything: bool) -> Batch {
        let few_rows = self.waiting.scalars.len() <= TAKE_ROWS_MAX && self.waiting.logs.len() <= TAKE_ROWS_MAX;
        let few_media = self.waiting.bytes <= TAKE_MEDIA_BYTES_MAX;
        let batch = if everything || (few_rows && few_media) {
            std::mem::take(&mut self.waiting)
        } else {
            let mut batch = Batch {
                events: std::mem::take(&mut self.waiting.events),
                control: std::mem::take(&mut self.waiting.control),
                progress: self.waiting.progress.take(),
                ..Batch::default()
            };
            batch.scalars = self.waiting.scalars.drain(..self.waiting.scalars.len().min(TAKE_ROWS_MAX)).collect();
            batch.logs = self.waiting.logs.drain(..self.waiting.logs.len().min(TAKE_ROWS_MAX)).collect();
            let mut bytes = 0;
            while bytes < TAKE_MEDIA_BYTES_MAX
                && let Some(row) = self.waiting.media.pop_front()
            {
                bytes += media_bytes(&row);
                batch.media.push_back(row);
            }
            batch.bytes = bytes
                + batch.scalars.len() * SCALAR_BYTES
                + batch.logs.iter().map(log_bytes).sum::<usize>()
                + batch.events.iter().map(event_bytes).sum::<usize>()
                + batch.control.len() * CONTROL_BYTES;
            self.waiting.bytes -= batch.bytes;
            batch
        };
        self.in_flight_bytes = batch.bytes;
        self.in_flight_rows = batch.row_count();
        batch
    }

    /// The batch is on disk.
    pub fn written(&mut self) {
        self.in_flight_bytes = 0;
        self.in_flight_rows = 0;
    }

    /// The disk refused the batch: its rows come before those that arrived meanwhile.
    pub fn put_back(&mut self, mut batch: Batch) {
        self.written();
        let newer = std::mem::take(&mut self.waiting);
        batch.scalars.extend(newer.scalars);
        batch.media.extend(newer.media);
        batch.logs.extend(newer.logs);
        batch.events.extend(newer.events);
        batch.control.extend(newer.control);
        batch.progress = newer.progress.or(batch.progress);
        batch.bytes += newer.bytes;
        self.waiting = batch;
        self.keep_bound();
    }

    /// Gives up the oldest pictures and the like first, then logs, then scalars, then events; counted, so that it can be told.
    fn keep_bound(&mut self) {
        while self.waiting.bytes + self.in_flight_bytes > self.bytes_max {
            let waiting = &mut self.waiting;
            let freed = if let Some(row) = waiting.media.pop_front() {
                self.health.dropped_media += 1;
                media_bytes(&row)
            } else if let Some(line) = waiting.logs.pop_front() {
                self.health.dropped_logs += 1;
                log_bytes(&line)
            } else if waiting.scalars.pop_front().is_some() {
                self.health.dropped_scalars += 1;
                SCALAR_BYTES
            } else if let Some(event) = waiting.events.pop_front() {
                self.health.dropped_events += 1;
                event_bytes(&event)
            } else {
                break;
            };
            waiting.bytes -= freed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Media {
        Media::Text("x".repeat(bytes))
    }

    #[test]
    fn media_go_before_logs_before_scalars_before_events() {
        let mut queue = Queue::new(20_000);
        queue.push_event(Event::new(1, "start", "worker", "begin"));
        for step in 0..100u64 {
            queue.push_scalars(At::from(step), 0.0, &[("loss", 1.0)]);
        }
        queue.push_media("sample", At::from(1), 0.0, text(5_000));
        queue.push_log(LogLine { id: 0, time: 0.0, level: "info".into(), source: "test".into(), message: "m".repeat(3_000) });
        assert_eq!(queue.health().lost_rows(), 0);
        queue.push_media("sample", At::from(2), 0.0, text(9_000));
        assert_eq!(queue.health().dropped_media, 1, "the oldest picture went first");
        queue.push_media("sample", At::from(3), 0.0, text(19_000));
        let health = queue.health();
        assert_eq!(
            (health.dropped_media, health.dropped_logs, health.dropped_scalars),
            (3, 0, 0),
            "a picture that does not fit goes alone"
        );
        for step in 0..1_000u64 {
            queue.push_scalars(At::from(step), 0.0, &[("loss", 1.0)]);
        }
        let health = queue.health();
        assert_eq!((health.dropped_logs, health.dropped_events), (1, 0));
        assert!(health.dropped_scalars > 0 && health.waiting_bytes <= 20_000, "{health:?}");
    }

    #[test]
    fn what_is_put_back_stands_before_what_came_later() {
        let mut queue = Queue::new(1 << 20);
        queue.push_scalars(At::from(1), 0.0, &[("loss", 1.0)]);
        let batch = queue.take(false);
        queue.push_scalars(At::from(2), 0.0, &[("loss", 2.0)]);
        assert_eq!(queue.health().waiting_rows, 2);
        queue.put_back(batch);
        let steps: Vec<u64> = queue.take(true).scalars.iter().map(|row| row.at.step).collect();
        assert_eq!(steps, [1, 2]);
        queue.written();
        assert_eq!(queue.health(), Health::default());
    }

    #[test]
    fn a_large_backlog_is_taken_in_bites() {
        let mut queue = Queue::new(usize::MAX / 8);
        for step in 0..120_000u64 {
            queue.push_scalars(At::from(step), 0.0, &[("loss", 1.0)]);
        }
        let sizes: Vec<usize> = (0..4).map(|_| queue.take(false).scalars.len()).collect();
        assert_eq!(sizes, [50_000, 50_000, 20_000, 0]);
        assert_eq!(queue.health().waiting_bytes, 0);
    }
}
