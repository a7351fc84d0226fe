//! Where a run's time and memory go: the parts of a step as the loop's thread lives them, and the kernels of a step as the device measures them.
//!
//! [`Meter`] cuts the thread's time into pieces without gaps, so that the parts add up to the whole; `drive.rs` and `train.rs` say at each cut what the
//! piece was. [`kernels`] turns what a profiled session has measured into rows; it knows nothing of runs and serves any program of any session.

use serde_json::{Value, json};
use solstice_engine::cost::{Cost, cost};
use solstice_engine::kernel::KernelOp;
use solstice_engine::roof::{Bound, Roofs};
use solstice_engine::{KernelTime, Plan, Session};
use solstice_store::Table;
use std::time::{Duration, Instant};

/// What the loop's thread was busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Part::DataWait => "data wait",
            Part::Encode => "encode",
            Part::Device => "device",
            Part::Readback => "readback",
            Part::Evaluation => "evaluation",
            Part::Checkpoint => "checkpoint",
            Part::Other => "other",
        }
    }
}

/// A piece of the thread's time.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// What it was.
    pub part: Part,
    /// When it began.
    pub start: Instant,
    /// How long it was.
    pub time: Duration,
}

/// Time of one thread, part by part. Every moment since the start belongs to one part, but for what is skipped. A cut costs one look at the clock.
#[derive(Clone, Debug)]
pub struct Meter {
    parts: [Duration; Part::ALL.len()],
    last: Instant,
    /// Every piece, while somebody wants them.
    pieces: Option<Vec<Piece>>,
}

impl Meter {
    /// Starts now.
    pub fn start() -> Meter {
        Meter { parts: Default::default(), last: Instant::now(), pieces: None }
    }

    /// Keeps every piece from now on.
    pub fn record(&mut self) {
        self.pieces = Some(vec![]);
        self.last = Instant::now();
    }

    /// The pieces since [`Meter::record`], without gaps and in order; keeps no more.
    pub fn recorded(&mut self) -> Vec<Piece> {
        self.pieces.take().unwrap_or_default()
    }

    /// What was since the last cut belongs to `part`.
    pub fn lap(&mut self, part: Part) {
        self.lap_at(part, Instant::now());
    }

    /// Of what was since the last cut, `waited` belongs to the device and what came before it to preparing its work.
    pub fn lap_submitted(&mut self, waited: Duration) {
        let now = Instant::now();
        let device = waited.min(now.duration_since(self.last));
        self.lap_at(Part::Encode, now - device);
        self.lap_at(Part::Device, now);
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
        let time = now.duration_since(self.last);
        self.parts[part as usize] += time;
        if let Some(pieces) = &mut self.pieces {
            pieces.push(Piece { part, start: self.last, time });
        }
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
    /// What was joined in it: `epilogue` of a product, `14 kernels` of a group; empty for most.
    pub form: String,
    /// `plugins/mlp/src/lib.rs:41`: the line that asked for it; may be empty.
    pub location: String,
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
        let Name { kernel: name, module, form } = Name::of(plan, time.kernel);
        let calls = time.calls as f64 / steps;
        let work = cost(plan, &kernel.op);
        KernelRow {
            kernel: name,
            module,
            form,
            location: kernel.location.to_string(),
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

impl KernelRow {
    /// Percent of what the roofs allow for its work, and the roof that binds it; none for a kernel that took no time or does nothing. Over 100 where a
    /// cache serves it, or where it does better than what the roofs were measured with.
    pub fn of_roof(&self, roofs: &Roofs) -> Option<(f64, Bound)> {
        let (least, bound) = roofs.least(Cost { bytes: self.bytes, flops: self.flops.unwrap_or(0) });
        (self.micros > 0.0 && least > 0.0).then(|| (100.0 * least * 1e6 / self.micros, bound))
    }

    /// Thousand millions of `amount` a second.
    pub fn giga_per_sec(&self, amount: u64) -> Option<f64> {
        // 1 byte a microsecond is a megabyte a second.
        (self.micros > 0.0).then(|| amount as f64 / self.micros / 1e3)
    }
}

/// What a kernel of a plan is called, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `dot_general`, `group`.
    pub kernel: String,
    /// The scope that it comes from; of a group, the one of most members.
    pub module: String,
    /// As in [`KernelRow::form`].
    pub form: String,
}

impl Name {
    /// Of the kernel at this place of `plan`.
    pub fn of(plan: &Plan, kernel: usize) -> Name {
        let kernel = &plan.kernels[kernel];
        let split = |label: &str| {
            let (name, scope) = label.split_once(' ').unwrap_or((label, ""));
            (name.to_owned(), scope.to_owned())
        };
        match &kernel.op {
            KernelOp::Group { members } => {
                // `group 14 kernels: add model.fc1`: the label that most of them have.
                let (common, module) = split(kernel.label.split_once(": ").map_or("", |(_, common)| common));
                Name { kernel: "group".into(), module, form: format!("{} kernels, {common}", members.len()) }
            }
            KernelOp::Dot { epilogue: Some(_), .. } | KernelOp::Convolution { epilogue: Some(_), .. } => {
                let (kernel, module) = split(&kernel.label);
                Name { kernel, module, form: "epilogue".into() }
            }
            _ => {
                let (kernel, module) = split(&kernel.label);
                Name { kernel, module, form: String::new() }
            }
        }
    }
}

/// Kernel and form in words: `dot_general + epilogue`, `group of 14 kernels, add`.
pub fn named(kernel: &str, form: &str) -> String {
    match (kernel, form) {
        (kernel, "") => kernel.into(),
        ("group", form) => format!("group of {form}"),
        (kernel, form) => format!("{kernel} + {form}"),
    }
}

/// The rows as a table for the run's store.
pub fn kernel_table(rows: &[KernelRow]) -> Table {
    let columns =
        ["kernel", "module", "form", "location", "calls", "us_per_step", "percent", "bytes", "flops", "gb_per_sec", "gflop_per_sec"];
    let rounded = |value: f64, digits: i32| json!((value * 10f64.powi(digits)).round() / 10f64.powi(digits));
    let cells = |row: &KernelRow| {
        let rate = |amount: u64| row.giga_per_sec(amount).map_or(Value::Null, |rate| rounded(rate, 3));
        vec![
            json!(row.kernel),
            json!(row.module),
            json!(row.form),
            json!(row.location),
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
    use solstice_engine::{CompileOptions, compile};
    use solstice_ir::{BinaryOp, DType, DotDims, Graph, Op, Output, Parameter, Role, TensorType};

    #[test]
    fn every_moment_belongs_to_one_part() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut meter = Meter { parts: Default::default(), last: start, pieces: Some(vec![]) };
        meter.lap_at(Part::DataWait, at(3));
        meter.lap_at(Part::Device, at(10));
        meter.lap_at(Part::Other, at(12));
        meter.lap_at(Part::Device, at(20));
        let taken = meter.take(2);
        let of = |name: &str| taken.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!([of("time/data_wait"), of("time/device"), of("time/other"), of("time/evaluation")], [1.5, 7.5, 1.0, 0.0]);
        assert_eq!(taken.iter().map(|(_, millis)| millis).sum::<f64>() * 2.0, 20.0);
        assert!(meter.take(2).iter().all(|(_, millis)| *millis == 0.0));
        // The pieces say the same, one after the other.
        let pieces = meter.recorded();
        let parts: Vec<(Part, Duration)> = pieces.iter().map(|piece| (piece.part, piece.time)).collect();
        let millis = Duration::from_millis;
        assert_eq!(parts, [(Part::DataWait, millis(3)), (Part::Device, millis(7)), (Part::Other, millis(2)), (Part::Device, millis(8))]);
        assert!(pieces.windows(2).all(|pair| pair[0].start + pair[0].time == pair[1].start));
        meter.lap_at(Part::Other, at(30));
        assert!(meter.recorded().is_empty(), "it kept pieces that nobody asked for");
    }

    #[test]
    fn a_submission_is_prepared_before_the_device_is_waited_for() {
        let mut meter = Meter::start();
        meter.record();
        std::thread::sleep(Duration::from_millis(2));
        meter.lap_submitted(Duration::from_millis(1));
        let pieces = meter.recorded();
        assert_eq!(pieces.iter().map(|piece| piece.part).collect::<Vec<_>>(), [Part::Encode, Part::Device]);
        assert!(pieces[0].time >= Duration::from_millis(1) && pieces[1].time == Duration::from_millis(1));
    }

    #[test]
    fn a_group_and_an_epilogue_are_called_so() {
        let input = |graph: &mut Graph, name: &str, shape: &[usize]| {
            let op = Op::Parameter(Parameter { name: name.into(), role: Role::Input, init: None });
            graph.push_typed(op, vec![], TensorType::new(DType::F32, shape), "".into(), "".into())
        };
        let add = |graph: &mut Graph, a, b, scope: &str| {
            graph.push(Op::Binary { function: BinaryOp::Add }, &[a, b], &scope.into(), &"".into()).unwrap()
        };
        let names = |graph: &Graph| -> Vec<Name> {
            let plan = compile(graph, &CompileOptions::default()).unwrap().plan;
            (0..plan.kernels.len()).map(|kernel| Name::of(&plan, kernel)).collect()
        };
        let name = |kernel: &str, module: &str, form: &str| Name { kernel: kernel.into(), module: module.into(), form: form.into() };

        let mut dense = Graph::new("dense");
        let (a, b, c) = (input(&mut dense, "a", &[3, 5]), input(&mut dense, "b", &[5, 7]), input(&mut dense, "c", &[3, 7]));
        let dims = DotDims { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![0] };
        let product = dense.push(Op::DotGeneral { dims }, &[a, b], &"model.fc1".into(), &"".into()).unwrap();
        let plain = Output { name: "y".into(), node: product };
        dense.outputs.push(plain);
        assert_eq!(names(&dense), [name("dot_general", "model.fc1", "")]);
        dense.outputs[0].node = add(&mut dense, product, c, "model.fc1");
        assert_eq!(names(&dense), [name("dot_general", "model.fc1", "epilogue")]);

        let mut small = Graph::new("small");
        for (index, size) in [6, 10, 4].into_iter().enumerate() {
            let x = input(&mut small, &format!("x{index}"), &[size]);
            let node = add(&mut small, x, x, if index == 0 { "first" } else { "rest" });
            small.outputs.push(Output { name: format!("y{index}"), node });
        }
        assert_eq!(names(&small), [name("group", "rest", "3 kernels, add")]);
        assert_eq!(named("group", "3 kernels, add"), "group of 3 kernels, add");
        assert_eq!([named("dot_general", "epilogue"), named("add", "")], ["dot_general + epilogue", "add"]);
    }

    #[test]
    fn a_rate_over_the_roof_is_told_as_it_is() {
        let roofs = Roofs { flops_per_sec: 100e9, product_size: 512, bytes_per_sec: 10e9, stream_bytes: 0 };
        let row = |bytes: u64, flops: Option<u64>, micros: f64| KernelRow {
            kernel: "add".into(),
            module: String::new(),
            form: String::new(),
            location: String::new(),
            calls: 1.0,
            micros,
            percent: 100.0,
            bytes,
            flops,
        };
        let rounded = |row: KernelRow| row.of_roof(&roofs).map(|(percent, bound)| (percent.round(), bound));
        // 30,000 bytes take 3 us at least, 600,000 operations 6 us.
        assert_eq!(rounded(row(30_000, Some(600_000), 12.0)), Some((50.0, Bound::Compute)));
        assert_eq!(rounded(row(30_000, None, 12.0)), Some((25.0, Bound::Memory)));
        assert_eq!(rounded(row(30_000, None, 1.5)), Some((200.0, Bound::Memory)));
        assert_eq!(rounded(row(30_000, None, 0.0)), None);
    }

    #[test]
    fn a_wait_longer_than_the_piece_is_the_piece() {
        let mut meter = Meter::start();
        meter.lap_submitted(Duration::from_secs(3600));
        let taken = meter.take(1);
        assert!(taken.iter().all(|(name, millis)| *millis == 0.0 || (name == "time/device" && *millis < 3.6e6)), "{taken:?}");
    }
}
