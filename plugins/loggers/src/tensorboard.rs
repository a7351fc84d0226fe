//! The logger `tensorboard`: one event file a process. The bytes are made in `records.rs`.

use crate::records::{self, Message, histogram, image, record, scalar, start_event, summary_event, version_event};
use crate::tail::Tail;
use crate::{WAITING_BYTES_MAX, dropped, number, place, refused, seconds_since_1970};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Entry, LogItem, Logged, RunFacts, unhex};
use std::collections::HashMap;
use std::path::Path;

/// Event files for TensorBoard: `tensorboard --logdir <runs folder>` shows them.
///
/// Scalars, images, histograms and texts are what they are there; tables, matrices, marks (`marks/<kind>`) and the settings (`config`) are texts.
#[config]
#[derive(Default)]
pub struct TensorBoard {
    /// A run writes to `<folder>/<run id>`; by default to `tensorboard` in its own folder.
    #[schemars(length(min = 1))]
    pub folder: Option<String>,
}

impl Logger for TensorBoard {
    const ID: &'static str = "tensorboard";

    fn open(&self, facts: &RunFacts) -> Result<Box<dyn LogSink>> {
        let folder = place(self.folder.as_deref(), facts, "tensorboard")?;
        let name = file_name(&folder).map_err(|error| Error::at(format!("cannot read the folder {}: {error}", folder.display()), ""))?;
        let tail = Tail::new(folder.join(name), 0).open().map_err(|problem| Error::at(problem, ""))?;
        Ok(Box::new(EventFile::begin(tail, facts)))
    }
}

/// `events.out.tfevents.<seconds>.<host>.<process>.v2`. Readers take files in order of their names, so a later file has later seconds.
fn file_name(folder: &Path) -> std::io::Result<String> {
    let mut seconds = seconds_since_1970() as u64;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let other = name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents.")?.split('.').next()?.parse::<u64>().ok());
        seconds = seconds.max(other.map_or(0, |other| other + 1));
    }
    Ok(format!("events.out.tfevents.{seconds:010}.{}.{}.v2", host_name(), std::process::id()))
}

fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("COMPUTERNAME").ok()).or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name: String = name.trim().chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

struct EventFile {
    tail: Tail,
    dropped_count: u64,
    /// Step and text of the last mark of each kind.
    marks: HashMap<String, (u64, String)>,
}

impl EventFile {
    fn begin(tail: Tail, facts: &RunFacts) -> EventFile {
        let mut file = EventFile { tail, dropped_count: 0, marks: HashMap::new() };
        let now = seconds_since_1970();
        file.push(version_event(now));
        if facts.first_step > 0 {
            // A reader drops what it has of this step and later; what was logged at `first_step` itself stays.
            file.push(start_event(now, facts.first_step + 1));
        } else if !facts.config.is_null() {
            let config = records::text("config", &fenced(&format!("{:#}", facts.config)));
            file.push(summary_event(now, 0, [config]));
        }
        file
    }

    fn push(&mut self, event: Message) {
        self.tail.push(&record(&event.into_bytes()));
    }

    /// A reader keeps one text a tag and step, so a second mark of a kind and step is written with the first.
    fn mark(&mut self, time: f64, step: u64, kind: &str, message: &str) {
        let text = match self.marks.get(kind) {
            Some((last, text)) if *last == step => format!("{text}\n\n{message}"),
            _ => message.to_owned(),
        };
        self.push(summary_event(time, step, [records::text(&format!("marks/{kind}"), &text)]));
        self.marks.insert(kind.into(), (step, text));
    }

    fn item(&mut self, item: &LogItem) -> Result<(), String> {
        let (time, step) = (item.time, item.at.step);
        match &item.what {
            Logged::Scalars(figures) => self.push(summary_event(time, step, figures.iter().map(|(name, value)| scalar(name, *value)))),
            Logged::Entry(entry) => self.push(summary_event(time, step, values(entry, step)?)),
            Logged::Mark { kind, message } => self.mark(time, step, kind, message),
        }
        Ok(())
    }

    fn drain(&mut self, at: (f64, u64)) -> Result<()> {
        let mut outcome = self.tail.drain();
        if outcome.is_ok() && self.dropped_count > 0 {
            let message = dropped(std::mem::take(&mut self.dropped_count));
            self.mark(at.0, at.1, "logger", &message);
            outcome = self.tail.drain();
        }
        outcome.map_err(|problem| refused(&problem, self.tail.waiting_bytes(), self.dropped_count))
    }
}

impl LogSink for EventFile {
    fn log(&mut self, items: &[LogItem]) -> Result<()> {
        let (mut disk, mut mistake) = (Ok(()), Ok(()));
        for item in items {
            if self.tail.waiting_bytes() > WAITING_BYTES_MAX && disk.is_ok() {
                disk = self.tail.drain();
            }
            if self.tail.waiting_bytes() > WAITING_BYTES_MAX {
                self.dropped_count += 1;
            } else if let Err(problem) = self.item(item) {
                mistake = mistake.and(Err(Error::at(problem, "")));
            }
        }
        let last = items.last().map_or((seconds_since_1970(), 0), |item| (item.time, item.at.step));
        self.drain(last)?;
        mistake
    }

    fn flush(&mut self) -> Result<()> {
        let sync = self.tail.drain().and_then(|()| self.tail.sync());
        sync.map_err(|problem| refused(&problem, self.tail.waiting_bytes(), self.dropped_count))
    }
}

/// What an entry is in TensorBoard.
fn values(entry: &Entry, step: u64) -> Result<Vec<Message>, String> {
    Ok(match entry {
        Entry::Scalar { name, value } => vec![scalar(name, *value)],
        Entry::Text { name, text } if text.contains('\n') => vec![records::text(name, &fenced(text))],
        Entry::Text { name, text } => vec![records::text(name, text)],
        Entry::Image { name, width, height, caption, png } => {
            let png = unhex(png).filter(|png| png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 25);
            let png =
                png.ok_or_else(|| format!("the image `{name}` of step {step} is no PNG file in hexadecimal digits; it is left out"))?;
            // The header's colour type: 0 grey, 2 colours, 3 palette, 4 grey and alpha, 6 colours and alpha.
            let channels = match png[25] {
                0 => 1,
                4 => 2,
                6 => 4,
                _ => 3,
            };
            vec![image(name, *width, *height, channels, &png, caption)]
        }
        Entry::Histogram { name, edges, counts, not_finite } => {
            if edges.len() != counts.len() + 1 {
                let (edges, counts) = (edges.len(), counts.len());
                return Err(format!("the histogram `{name}` of step {step} has {edges} edges for {counts} counts; it is left out"));
            }
            let odd = (*not_finite > 0).then(|| scalar(&format!("{name}/not_finite"), *not_finite as f64));
            [histogram(name, edges, counts)].into_iter().chain(odd).collect()
        }
        Entry::Table { name, columns, rows } => {
            let rows = rows.iter().map(|row| {
                let cells = row.iter().map(|cell| match cell.as_str() {
                    Some(text) => text.to_owned(),
                    None if cell.is_null() => String::new(),
                    None => cell.to_string(),
                });
                cells.collect()
            });
            vec![records::text(name, &markdown(columns, rows))]
        }
        Entry::Matrix { name, row_labels, column_labels, cells } => {
            let columns: Vec<String> = [String::new()].into_iter().chain(column_labels.iter().cloned()).collect();
            let rows = row_labels.iter().zip(cells.chunks(column_labels.len().max(1)));
            let rows = rows.map(|(label, cells)| [label.clone()].into_iter().chain(cells.iter().copied().map(number)).collect());
            vec![records::text(name, &markdown(&columns, rows))]
        }
    })
}

/// A table in Markdown.
fn markdown(columns: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells = cells.iter().map(|cell| format!(" {} |", cell.replace('|', "\\|").replace(['\r', '\n'], " ")));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = format!("|{}\n", " --- |".repeat(columns.len()));
    line(columns) + &rule + &rows.map(|row| line(&row)).collect::<String>()
}

/// Text that Markdown shows as it is: between fences longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{text}\n{fence}")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use solstice_plugin_api::run::Position;

    #[test]
    fn a_full_disk_is_an_error_and_what_was_given_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = EventFile::begin(Tail::new(path.clone(), 0).open().unwrap(), &RunFacts::default());
        let text = |step: u64, text: String| {
            let what = Logged::Entry(Entry::Text { name: "t".into(), text });
            LogItem { at: Position { step, ..Position::default() }, time: 1.0, what }
        };
        let error = file.log(&[text(1, "first".into())]).unwrap_err().to_string();
        assert!(error.contains("/events: No space left on device") && error.contains("bytes wait in memory"), "{error}");
        assert!(file.flush().is_err());
        // After four of a MiB more than 4 MiB wait; of what comes then nothing is kept.
        let items: Vec<LogItem> = (2..=7).map(|step| text(step, "x".repeat(1 << 20))).collect();
        let error = file.log(&items).unwrap_err().to_string();
        assert!(error.contains("2 items were dropped because more than 4 MiB waited"), "{error}");
        std::fs::remove_file(&path).unwrap();
        file.log(&[text(8, "last".into())]).unwrap();
        file.flush().unwrap();
        let written = std::fs::read(&path).unwrap();
        let count = |part: &[u8]| written.windows(part.len()).filter(|window| *window == part).count();
        assert_eq!((count(b"brain.Event:2"), count(b"first"), written.len() >> 20), (1, 1, 4));
        assert_eq!((count(b"last"), count(b"marks/logger")), (1, 1));
    }
}
