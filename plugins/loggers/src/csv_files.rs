//! The logger `csv`: tables that any program reads, and pictures and texts as files.
//!
//! A row of `scalars.csv` is written at once and may grow while nothing of a later step has come; a new column rewrites the file beside it.

use crate::tail::Tail;
use crate::{WAITING_BYTES_MAX, dropped, number, place, refused, seconds_since_1970};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Entry, LogItem, Logged, Position, RunFacts, unhex};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Tables, pictures and texts as plain files: `scalars.csv` with a row a step and a column a metric, `marks.csv`, `histograms.csv`,
/// `images/<name>/<step>.png`, `texts/<name>/<step>.txt`, `tables/<name>/<step>.csv`.
#[config]
#[derive(Default)]
pub struct Csv {
    /// A run writes to `<folder>/<run id>`; by default to `csv` in its own folder.
    #[schemars(length(min = 1))]
    pub folder: Option<String>,
}

impl Logger for Csv {
    const ID: &'static str = "csv";

    fn open(&self, facts: &RunFacts) -> Result<Box<dyn LogSink>> {
        let folder = place(self.folder.as_deref(), facts, "csv")?;
        let first_step = facts.first_step;
        let files = Files::open(folder, first_step).map_err(|problem| Error::at(problem, ""))?;
        Ok(Box::new(files))
    }
}

const POSITION: [&str; 4] = ["step", "epoch", "samples", "seconds"];
const MARK: [&str; 4] = ["step", "time", "kind", "message"];
const BIN: [&str; 5] = ["step", "name", "low", "high", "count"];

struct Files {
    folder: PathBuf,
    scalars: Scalars,
    marks: Tail,
    histograms: Tail,
    /// Files that wait to be written.
    whole: Vec<(PathBuf, Vec<u8>)>,
    whole_bytes: usize,
    dropped_count: u64,
}

impl Files {
    fn open(folder: PathBuf, first_step: u64) -> Result<Files, String> {
        for part in ["images", "texts", "tables"] {
            let part = folder.join(part);
            take_back(&part, first_step)
                .map_err(|error| format!("cannot remove what is later than step {first_step} from {}: {error}", part.display()))?;
        }
        let scalars = Scalars::open(folder.join("scalars.csv"), first_step)?;
        let marks = table(folder.join("marks.csv"), &MARK, first_step)?.open()?;
        let histograms = table(folder.join("histograms.csv"), &BIN, first_step)?;
        // Made only when there is one to write.
        let histograms = if histograms.path().exists() { histograms.open()? } else { histograms };
        Ok(Files { folder, scalars, marks, histograms, whole: vec![], whole_bytes: 0, dropped_count: 0 })
    }

    fn item(&mut self, item: &LogItem) -> Result<(), String> {
        let step = item.at.step;
        match &item.what {
            Logged::Scalars(figures) => figures.iter().for_each(|(name, value)| self.scalars.add(&item.at, name, *value)),
            Logged::Entry(Entry::Scalar { name, value }) => self.scalars.add(&item.at, name, *value),
            Logged::Mark { kind, message } => self.mark(item.time, step, kind, message),
            Logged::Entry(Entry::Text { name, text }) => self.file("texts", name, step, "txt", text.clone().into_bytes()),
            Logged::Entry(Entry::Image { name, png, .. }) => {
                let png =
                    unhex(png).ok_or_else(|| format!("the image `{name}` of step {step} is not in hexadecimal digits; it is left out"))?;
                self.file("images", name, step, "png", png);
            }
            Logged::Entry(Entry::Histogram { name, edges, counts, not_finite }) => {
                if edges.len() != counts.len() + 1 {
                    let (edges, counts) = (edges.len(), counts.len());
                    return Err(format!("the histogram `{name}` of step {step} has {edges} edges for {counts} counts; it is left out"));
                }
                let odd = (*not_finite > 0).then_some((f64::NAN, f64::NAN, *not_finite));
                let bins = edges.windows(2).zip(counts).map(|(bin, &count)| (bin[0], bin[1], count)).chain(odd);
                for (low, high, count) in bins {
                    push_row(&mut self.histograms, &BIN, &[step.to_string(), name.clone(), number(low), number(high), count.to_string()]);
                }
            }
            Logged::Entry(Entry::Table { name, columns, rows }) => {
                let rows = rows.iter().map(|row| {
                    line(row.iter().map(|cell| match cell.as_str() {
                        Some(text) => text.to_owned(),
                        None if cell.is_null() => String::new(),
                        None => cell.to_string(),
                    }))
                });
                let bytes = [line(columns)].into_iter().chain(rows).flatten().collect();
                self.file("tables", name, step, "csv", bytes);
            }
            Logged::Entry(Entry::Matrix { name, row_labels, column_labels, cells }) => {
                let header = line([""].into_iter().chain(column_labels.iter().map(String::as_str)));
                let rows = row_labels.iter().zip(cells.chunks(column_labels.len().max(1)));
                let rows = rows.map(|(label, cells)| line([label.clone()].into_iter().chain(cells.iter().copied().map(number))));
                let bytes = [header].into_iter().chain(rows).flatten().collect();
                self.file("tables", name, step, "csv", bytes);
            }
        }
        Ok(())
    }

    fn mark(&mut self, time: f64, step: u64, kind: &str, message: &str) {
        push_row(&mut self.marks, &MARK, &[step.to_string(), number(time), kind.into(), message.into()]);
    }

    fn file(&mut self, part: &str, name: &str, step: u64, extension: &str, bytes: Vec<u8>) {
        let path = self.folder.join(part).join(safe_path(name)).join(format!("{step}.{extension}"));
        // A name and an extension are at most a few hundred bytes.
        self.whole_bytes += bytes.len() + 256;
        self.whole.push((path, bytes));
    }

    fn waiting_bytes(&self) -> usize {
        self.scalars.waiting_bytes + self.marks.waiting_bytes() + self.histograms.waiting_bytes() + self.whole_bytes
    }

    /// Writes everything that waits, as far as it goes; the first problem is told.
    fn drain(&mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        let whole_bytes = &mut self.whole_bytes;
        self.whole.retain(|(path, bytes)| match write_beside(path, bytes) {
            Ok(()) => {
                *whole_bytes -= bytes.len() + 256;
                false
            }
            Err(error) => {
                if outcome.is_ok() {
                    outcome = Err(format!("cannot write {}: {error}", path.display()));
                }
                true
            }
        });
        // Each of them is tried.
        outcome.and(self.scalars.drain()).and(self.marks.drain()).and(self.histograms.drain())
    }

    fn refused(&self, problem: &str) -> Error {
        refused(problem, self.waiting_bytes(), self.dropped_count)
    }
}

impl LogSink for Files {
    fn log(&mut self, items: &[LogItem]) -> Result<()> {
        let (mut disk, mut mistake) = (Ok(()), Ok(()));
        for item in items {
            if self.waiting_bytes() > WAITING_BYTES_MAX && disk.is_ok() {
                disk = self.drain();
            }
            if self.waiting_bytes() > WAITING_BYTES_MAX {
                self.dropped_count += 1;
            } else if let Err(problem) = self.item(item) {
                mistake = mistake.and(Err(Error::at(problem, "")));
            }
        }
        self.drain().map_err(|problem| self.refused(&problem))?;
        if self.dropped_count > 0 {
            let message = dropped(std::mem::take(&mut self.dropped_count));
            let (time, step) = items.last().map_or((seconds_since_1970(), 0), |item| (item.time, item.at.step));
            self.mark(time, step, "logger", &message);
            self.drain().map_err(|problem| self.refused(&problem))?;
        }
        mistake
    }

    fn flush(&mut self) -> Result<()> {
        let sync = self
            .drain()
            .and_then(|()| [&mut self.scalars.tail, &mut self.marks, &mut self.histograms].into_iter().try_for_each(Tail::sync));
        sync.map_err(|problem| self.refused(&problem))
    }
}

// ---- scalars.csv ---------------------------------------------------------------------------------------------------------------------------

struct Scalars {
    tail: Tail,
    /// Names of the metrics, in order of appearance, and their places.
    columns: Vec<String>,
    places: HashMap<String, usize>,
    /// Metrics in the header of the file; `None` without a header.
    header_columns: Option<usize>,
    /// Rows to write; the last one may stand in the file already and be unfinished.
    rows: Vec<Row>,
    waiting_bytes: usize,
    changed: bool,
}

struct Row {
    at: Position,
    cells: BTreeMap<usize, f64>,
}

impl Scalars {
    fn open(path: PathBuf, first_step: u64) -> Result<Scalars, String> {
        let kept = kept(&path, first_step)?;
        let (columns, end) = match &kept {
            Some((header, end)) => {
                let metrics = header.strip_prefix(&POSITION.map(String::from)[..]);
                (metrics.ok_or_else(|| foreign(&path, &POSITION, header))?.to_vec(), *end)
            }
            None => (vec![], 0),
        };
        let places = columns.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        let header_columns = kept.map(|_| columns.len());
        let _ = std::fs::remove_file(beside(&path));
        let tail = Tail::new(path, end).open()?;
        Ok(Scalars { tail, columns, places, header_columns, rows: vec![], waiting_bytes: 0, changed: false })
    }

    fn add(&mut self, at: &Position, name: &str, value: f64) {
        let name = one_line(name);
        let place = *self.places.entry(name).or_insert_with_key(|name| {
            self.columns.push(name.clone());
            self.columns.len() - 1
        });
        if self.rows.last().is_none_or(|row| row.at.step != at.step) {
            self.rows.push(Row { at: *at, cells: BTreeMap::new() });
            self.waiting_bytes += 64;
        }
        let row = self.rows.last_mut().expect("one was just made sure of");
        row.at = *at;
        row.cells.insert(place, value);
        self.waiting_bytes += 24;
        self.changed = true;
    }

    fn drain(&mut self) -> Result<(), String> {
        if !self.changed {
            return Ok(());
        }
        let mut finished = vec![];
        match self.header_columns {
            None => finished = line(POSITION.into_iter().chain(self.columns.iter().map(String::as_str))),
            Some(count) if count < self.columns.len() => self.widen(count)?,
            Some(_) => {}
        }
        let (last, rows) = self.rows.split_last().expect("what changed is a row");
        finished.extend(rows.iter().flat_map(|row| self.line_of(row)));
        let unfinished = self.line_of(last);
        self.tail.write(&finished, &unfinished)?;
        self.header_columns = Some(self.columns.len());
        self.rows.drain(..self.rows.len() - 1);
        (self.waiting_bytes, self.changed) = (0, false);
        Ok(())
    }

    fn line_of(&self, row: &Row) -> Vec<u8> {
        let at = &row.at;
        let position = [at.step.to_string(), number(at.epoch), at.samples.to_string(), number(at.seconds)];
        let cell = |place| row.cells.get(&place).map_or_else(String::new, |value| number(*value));
        line(position.into_iter().chain((0..self.columns.len()).map(cell)))
    }

    /// Writes the file anew with all columns, beside the old one, and puts it in its place.
    fn widen(&mut self, header_columns: usize) -> Result<(), String> {
        let path = self.tail.path().to_owned();
        let beside = beside(&path);
        let header = line(POSITION.into_iter().chain(self.columns.iter().map(String::as_str)));
        // Every row is one line of numbers, so it gets empty cells at its end.
        let more = ",".repeat(self.columns.len() - header_columns) + "\n";
        let copy = || -> io::Result<u64> {
            let mut old = BufReader::new(File::open(&path)?.take(self.tail.end()));
            let mut new = BufWriter::new(File::create(&beside)?);
            let (mut row, mut length) = (vec![], header.len() as u64);
            old.read_until(b'\n', &mut row)?;
            new.write_all(&header)?;
            loop {
                row.clear();
                if old.read_until(b'\n', &mut row)? == 0 {
                    break;
                }
                row.pop_if(|byte| *byte == b'\n');
                row.extend(more.as_bytes());
                new.write_all(&row)?;
                length += row.len() as u64;
            }
            new.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
            std::fs::rename(&beside, &path)?;
            Ok(length)
        };
        match copy() {
            Ok(length) => {
                self.tail.replaced(length);
                self.header_columns = Some(self.columns.len());
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(&beside);
                Err(format!("cannot write {}: {error}", beside.display()))
            }
        }
    }
}

// ---- tables with fixed columns -------------------------------------------------------------------------------------------------------------

/// The end of a table with that header, rows after `first_step` left out; it need not be there.
fn table(path: PathBuf, header: &[&str], first_step: u64) -> Result<Tail, String> {
    match kept(&path, first_step)? {
        Some((found, _)) if found != header => Err(foreign(&path, header, &found)),
        Some((_, end)) => Ok(Tail::new(path, end)),
        None => Ok(Tail::new(path, 0)),
    }
}

fn push_row(tail: &mut Tail, header: &[&str], cells: &[String]) {
    if tail.is_empty() {
        tail.push(&line(header));
    }
    tail.push(&line(cells.iter().map(|cell| one_line(cell))));
}

fn foreign(path: &Path, wanted: &[&str], found: &[String]) -> String {
    let (wanted, found) = (wanted.join(","), found.join(","));
    format!(
        "{} is not this logger's: wanted a header that begins with `{wanted}`, found `{found}`; move the file or set `folder`",
        path.display()
    )
}

/// What stays of a table: its header, and where its last row ends that is whole and not after `first_step`. `None`: nothing does.
fn kept(path: &Path, first_step: u64) -> Result<Option<(Vec<String>, u64)>, String> {
    if first_step == 0 {
        return Ok(None);
    }
    let scan = || -> io::Result<Option<(Vec<String>, u64)>> {
        let mut file = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut row = vec![];
        let mut read = file.read_until(b'\n', &mut row)? as u64;
        if !row.ends_with(b"\n") {
            return Ok(None);
        }
        let mut header = vec![];
        for cells in csv::ReaderBuilder::new().has_headers(false).from_reader(&row[..]).byte_records().take(1) {
            header = cells.map_err(io::Error::from)?.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
        }
        let mut end = read;
        loop {
            row.clear();
            read += file.read_until(b'\n', &mut row)? as u64;
            // A killed process leaves a last row without its end.
            if !row.ends_with(b"\n") {
                break;
            }
            let step = row.split(|byte| *byte == b',').next().and_then(|cell| std::str::from_utf8(cell).ok()?.parse::<u64>().ok());
            match step {
                Some(step) if step > first_step => break,
                Some(_) if cell_count(&row) == header.len() => end = read,
                _ => {}
            }
        }
        Ok(Some((header, end)))
    };
    scan().map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Cells of a line: one more than commas outside of quotes.
fn cell_count(line: &[u8]) -> usize {
    let mut quoted = false;
    let commas = line.iter().filter(|byte| {
        quoted ^= **byte == b'"';
        **byte == b',' && !quoted
    });
    commas.count() + 1
}

/// A row as it stands in a file, quoted where needed.
fn line<C: AsRef<[u8]>>(cells: impl IntoIterator<Item = C>) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(vec![]);
    let written = writer.write_record(cells).map_err(|error| error.to_string());
    written.and_then(|()| writer.into_inner().map_err(|error| error.to_string())).expect("memory takes every row")
}

/// Every row is one line, so that a cut-off one shows: control characters become blanks.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

// ---- whole files ---------------------------------------------------------------------------------------------------------------------------

/// A name with `/` as folders and a file, without anything that leads elsewhere or that a file system refuses.
fn safe_path(name: &str) -> PathBuf {
    let safe = |letter: char| if letter.is_alphanumeric() || " ._-=+@()[]".contains(letter) { letter } else { '_' };
    let part = |part: &str| match part.chars().all(|letter| letter == '.') {
        true => "_".to_owned(),
        false => part.chars().map(safe).collect(),
    };
    name.split('/').map(part).collect()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a file beside its place and moves it there, so that a file is whole or absent.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = beside(path);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&beside, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// Removes `<step>.<extension>` of later steps, and files that were not finished.
fn take_back(folder: &Path, first_step: u64) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            take_back(&path, first_step)?;
            continue;
        }
        let step = path.file_stem().and_then(|stem| stem.to_str()?.split('.').next()?.parse::<u64>().ok());
        let unfinished = path.extension().is_some_and(|extension| extension == "part");
        if step.is_some_and(|step| step > first_step || unfinished) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
