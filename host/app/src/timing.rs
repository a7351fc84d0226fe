//! Where a run's time and memory go: the parts of a step as the loop's thread lives them, and the kernels of a step as the device measures them.
//!
//! [`Meter`] cuts the thread's time into pieces without gaps, so that the parts add up to the whole; `drive.rs` and `train.rs` say at each cut what the
//! piece was. [`kernels`] turns what a profiled session has measured into rows; it knows nothing of runs and serves any program of any session.

use serde_json::{Value, json};
use solstice_engine::{KernelTime, Session, cost};
use solstice_store::Table;
use std::time::{Duration, Instant};

/// What the loop's thread was busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waited for samples, or drew their order.
    DataWait,
    /// Prepared and handed over a step's inputs and commands.
    Encode,
    /// Waited for the device; on the CPU device, computed.
    Device,
    /// Read metrics back and worked them out.
    Readback,
    /// Evaluated.
    Evaluation,
    /// Copied the state, and waited for the thread that writes it.
    Checkpoint,
    /// Callbacks, commands, the log.
    Other,
}

impl Part {
    /// Every part, in the order in which a step meets them.
    pub const ALL: [Part; 7] =
        [Part::DataWait, Part::Encode, Part::Device, Part::Readback, Part::Evaluation, Part::Checkpoint, Part::Other];

    /// The scalar that tells it, in milliseconds a step.
    pub fn scalar(self) -> &'static str {
        match self {
            Part::DataWait => "time/data_wait",
            Part::Encode => "time/encode",
            Part::Device => "time/device",
            Part::Readback => "time/readback",
            Part::Evaluation => "time/evaluation",
            Part::Checkpoint => "time/checkpoint",
            Part::Other => "time/other",
        }
    }
}

/// Time of one thread, part by part. Every moment since the start belongs to one part, but for what is skipped. A cut costs one look at the clock.
#[derive(Clone, Debug)]
pub struct Meter {
    parts: [Duration; Part::ALL.len()],
    last: Instant,
}

impl Meter {
    /// Starts now.
    pub fn start() -> Meter {
        Meter { parts: Default::default(), last: Instant::now() }
    }

    /// What was since the last cut belongs to `part`.
    pub fn lap(&mut self, part: Part) {
        self.lap_at(part, Instant::now());
    }

    /// Of what was since the last cut, `waited` belongs to the device and the rest to preparing its work.
    pub fn lap_submitted(&mut self, waited: Duration) {
        let now = Instant::now();
        let device = waited.min(now.duration_since(self.last));
        self.parts[Part::Device as usize] += device;
        self.last += device;
        self.lap_at(Part::Encode, now);
    }

    /// What was since the last cut counts for nothing: the run was paused.
    pub fn skip(&mut self) {
        self.last = Instant::now();
    }

    /// Begins anew.
    pub fn restart(&mut self) {
        *self = Meter::start();
    }

    /// Milliseconds a step of each part since the last call, by the names of the scalars.
    pub fn take(&mut self, steps: u64) -> Vec<(String, f64)> {
        let parts = std::mem::take(&mut self.parts);
        let per_step = |time: Duration| time.as_secs_f64() * 1e3 / steps.max(1) as f64;
        Part::ALL.into_iter().zip(parts).map(|(part, time)| (part.scalar().to_owned(), per_step(time))).collect()
    }

    fn lap_at(&mut self, part: Part, now: Instant) {
        self.parts[part as usize] += now.duration_since(self.last);
        self.last = now;
    }
}

/// Memory as it is now: the device's, and this process's where the system tells.
pub fn memory(session: &Session) -> Vec<(String, f64)> {
    let device = ("system/device_bytes".to_owned(), session.memory_bytes() as f64);
    std::iter::once(device).chain(process_bytes().map(|bytes| ("system/process_bytes".to_owned(), bytes as f64))).collect()
}

/// Bytes of this process that are in memory; `None` where the system does not tell.
fn process_bytes() -> Option<u64> {
    // In kB, whatever the size of a page is; `statm` counts pages.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The table of a run's newest kernel profile.
pub const KERNELS: &str = "profile/kernels";
/// What that profile is of, in a sentence.
pub const NOTE: &str = "profile/note";

/// One kernel of a profiled program, a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRow {
    /// `dot_general`: what it is.
    pub kernel: String,
    /// `model.fc1`: where it comes from; may be empty.
    pub module: String,
    /// How often a step runs it.
    pub calls: f64,
    /// Microseconds a step.
    pub micros: f64,
    /// Of the time of all kernels.
    pub percent: f64,
    /// Bytes that it must move, a step.
    pub bytes: u64,
    /// Floating-point operations, a step; none for kernels that only move data.
    pub flops: Option<u64>,
}

/// The rows of what a session measured over `steps` steps, slowest first.
pub fn kernels(session: &Session, times: &[KernelTime], steps: u64) -> Vec<KernelRow> {
    let steps = steps.max(1) as f64;
    let total: f64 = times.iter().map(|time| time.time.as_secs_f64()).sum();
    let row = |time: &KernelTime| {
        let plan = session.plan(time.program);
        let kernel = &plan.kernels[time.kernel];
        let (name, module) = kernel.label.split_once(' ').unwrap_or((&kernel.label, ""));
        let calls = time.calls as f64 / steps;
        let work = cost::cost(plan, &kernel.op);
        KernelRow {
            kernel: name.into(),
            module: module.into(),
            calls,
            micros: time.time.as_secs_f64() * 1e6 / steps,
            percent: 100.0 * time.time.as_secs_f64() / total.max(1e-12),
            bytes: (work.bytes as f64 * calls) as u64,
            flops: (work.flops > 0).then_some((work.flops as f64 * calls) as u64),
        }
    };
    let mut rows: Vec<KernelRow> = times.iter().map(row).collect();
    rows.sort_by(|a, b| b.micros.total_cmp(&a.micros));
    rows
}

/// The rows as a table for the run's store.
pub fn kernel_table(rows: &[KernelRow]) -> Table {
    let columns = ["kernel", "module", "calls", "us_per_step", "percent", "bytes", "flops", "gb_per_sec", "gflop_per_sec"];
    let rounded = |value: f64, digits: i32| json!((value * 10f64.powi(digits)).round() / 10f64.powi(digits));
    let cells = |row: &KernelRow| {
        // 1 byte a microsecond is a megabyte a second.
        let rate = |amount: u64| if row.micros > 0.0 { rounded(amount as f64 / row.micros / 1e3, 3) } else { Value::Null };
        vec![
            json!(row.kernel),
            json!(row.module),
            rounded(row.calls, 3),
            rounded(row.micros, 3),
            rounded(row.percent, 3),
            json!(row.bytes),
            json!(row.flops),
            rate(row.bytes),
            row.flops.map_or(Value::Null, rate),
        ]
    };
    Table { columns: columns.map(str::to_owned).to_vec(), rows: rows.iter().map(cells).collect() }
}

/// A profile under way.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The command that asked for it.
    pub command: i64,
    /// Who sent it.
    pub who: String,
    /// How many steps were wanted.
    pub wanted: u64,
    /// How many are still to come.
    pub left: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_belongs_to_one_part() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut meter = Meter { parts: Default::default(), last: start };
        meter.lap_at(Part::DataWait, at(3));
        meter.lap_at(Part::Device, at(10));
        meter.lap_at(Part::Other, at(12));
        meter.lap_at(Part::Device, at(20));
        let taken = meter.take(2);
        let of = |name: &str| taken.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!([of("time/data_wait"), of("time/device"), of("time/other"), of("time/evaluation")], [1.5, 7.5, 1.0, 0.0]);
        assert_eq!(taken.iter().map(|(_, millis)| millis).sum::<f64>() * 2.0, 20.0);
        assert!(meter.take(2).iter().all(|(_, millis)| *millis == 0.0));
    }

    #[test]
    fn a_wait_longer_than_the_piece_is_the_piece() {
        let mut meter = Meter::start();
        meter.lap_submitted(Duration::from_secs(3600));
        let taken = meter.take(1);
        assert!(taken.iter().all(|(name, millis)| *millis == 0.0 || (name == "time/device" && *millis < 3.6e6)), "{taken:?}");
    }
}
