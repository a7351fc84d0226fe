//! A logger that is slow, fails or misbehaves.

use crate::misdeed::Misdeed;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{LogItem, Logged, RunFacts};
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Writes the items that it takes to `sulky.txt` in the run's folder, one a line: the step, a blank, what it is. A line `open` begins each process,
/// a line `flush` stands for each flush.
#[config]
#[derive(Default)]
pub struct Sulky {
    /// What goes wrong in `log`.
    pub misdeed: Misdeed,
    /// It goes wrong once, with the item after so many. After an `error` that item and the rest of its call are not written.
    pub after: u64,
    /// Milliseconds to sleep over each item.
    pub slow_ms: u64,
    /// `log` is an error; its items are not written.
    pub fail: bool,
    /// `log` is an error, as with `fail`, until so many items were given.
    pub fail_until: u64,
}

impl Logger for Sulky {
    const ID: &'static str = "sulky";

    fn open(&self, facts: &RunFacts) -> Result<Box<dyn LogSink>> {
        let path = Path::new(&facts.folder).join("sulky.txt");
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        writeln!(file, "{} open", facts.first_step)?;
        Ok(Box::new(Sulking { sulky: self.clone(), given: 0, file }))
    }
}

struct Sulking {
    sulky: Sulky,
    /// Items so far.
    given: u64,
    file: File,
}

impl LogSink for Sulking {
    fn log(&mut self, items: &[LogItem]) -> Result<()> {
        let before = self.given;
        let mut lines = String::new();
        for item in items {
            std::thread::sleep(Duration::from_millis(self.sulky.slow_ms));
            self.given += 1;
            if self.given == self.sulky.after + 1 {
                // What came before it is written.
                self.file.write_all(lines.as_bytes())?;
                lines.clear();
                self.sulky.misdeed.commit()?;
            }
            write_line(&mut lines, item)?;
        }
        if self.sulky.fail || before < self.sulky.fail_until {
            let (first, last) = (before + 1, self.given);
            return Err(Error::new(format!("did not feel like taking items {first} to {last}")));
        }
        Ok(self.file.write_all(lines.as_bytes())?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(writeln!(self.file, "- flush")?)
    }
}

impl Drop for Sulking {
    fn drop(&mut self) {
        if self.sulky.misdeed == Misdeed::PanicInDrop {
            panic!("dropped badly");
        }
    }
}

fn write_line(lines: &mut String, item: &LogItem) -> Result<()> {
    write!(lines, "{}", item.at.step)?;
    match &item.what {
        Logged::Scalars(figures) => figures.iter().try_for_each(|(name, value)| write!(lines, " {name}={value}"))?,
        Logged::Entry(entry) => write!(lines, " {entry:?}")?,
        Logged::Mark { kind, message } => write!(lines, " {kind}: {message}")?,
    }
    lines.push('\n');
    Ok(())
}
