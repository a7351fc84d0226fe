//! What a run survives in a long life. Slow, and partly for root, so `cargo xtask endure` runs it and the everyday tests do not.

mod common;

use common::{Desk, ran, recipe};
use solstice_store::{RunReader, RunState};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A tiny model that makes thousands of steps a second.
fn tiny(more: &[&str]) -> Vec<String> {
    let settings = [
        "dataset=drawn_digits(train: 512, test: 64)",
        "model=mlp(hidden: [16], dropout: 0.1)",
        "schedule=constant",
        "trainer.batch_size=32",
    ];
    let mut args: Vec<String> =
        ["train", &recipe("digits.ron"), "--quiet", "--device", "cpu", "--resume", "last"].map(str::to_owned).to_vec();
    for setting in settings.iter().chain(more) {
        args.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    args
}

fn start(desk: &Desk, args: &[String]) -> Child {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    desk.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn count_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} wants a number, got {text}")))
}

struct Draws(u64);

impl Draws {
    /// A number below `below`, from a 64-bit linear congruential generator (Knuth's constants).
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn kill(pid: u32) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL);
}

/// The worker that a command has started, if it has.
fn worker_of(child: &Child) -> Option<u32> {
    let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).ok()?;
    list.split_whitespace().next()?.parse().ok()
}

fn weights(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let tensors = RunReader::open(folder).unwrap().latest_good().unwrap().1.tensors;
    tensors.into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect()
}

#[test]
#[ignore = "takes minutes: cargo xtask endure"]
fn a_run_that_is_killed_a_hundred_times_ends_as_if_it_had_not_been() {
    let kills_wanted = count_from_env("SOLSTICE_KILLS", 100);
    let seed = count_from_env("SOLSTICE_SEED", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    println!("seed {seed}");
    let mut draws = Draws(seed);
    // More than a hundred lives can reach, so that the last life ends it.
    let budget = format!("trainer.budget={}st", 3000 * kills_wanted);
    let args = tiny(&[&budget, "trainer.checkpoint_every=100st", "trainer.log_every=100st", "trainer.evaluate_every=500st"]);
    let (disturbed, whole) = (Desk::new(), Desk::new());
    let (mut kills, mut lives, mut saved_before) = (0, 0, 0);
    while kills < kills_wanted {
        let mut child = start(&disturbed, &args);
        lives += 1;
        std::thread::sleep(Duration::from_millis(draws.below(900)));
        let worker = worker_of(&child);
        if child.try_wait().unwrap().is_some() {
            panic!("life {lives} ended by itself: {}", ran(child.wait_with_output().unwrap()).err);
        }
        let with_parent = draws.below(2) == 0;
        if let Some(worker) = worker {
            kill(worker);
            kills += 1;
        }
        if with_parent {
            kill(child.id());
        }
        let ended = ran(child.wait_with_output().unwrap());
        assert!(with_parent || worker.is_none() || ended.code == 6, "life {lives}: {ended:?}");
        let Some(folder) = disturbed.newest_run() else { continue };
        // The kernel may take a moment to close the files of the dead.
        let reader = RunReader::open(&folder).unwrap_or_else(|error| panic!("after kill {kills}: {error}"));
        let connection = rusqlite::Connection::open(folder.join("run.sqlite")).unwrap();
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "after kill {kills}");
        drop(connection);
        for row in reader.checkpoints().unwrap() {
            solstice_store::load_checkpoint(&row.path).unwrap_or_else(|error| panic!("after kill {kills}: {error}"));
        }
        if let Ok((_, checkpoint, damaged)) = reader.latest_good() {
            assert!(damaged.is_empty(), "after kill {kills}: {damaged:?}");
            assert!(checkpoint.info.at.step >= saved_before, "after kill {kills}: step {} was saved and is gone", saved_before);
            saved_before = checkpoint.info.at.step;
        }
    }
    println!("{kills} kills in {lives} lives; the newest checkpoint is at step {saved_before}");
    assert_eq!(
        std::fs::read_dir(disturbed.path().join("runs"))
            .unwrap()
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .count(),
        1,
        "one run, however often it was killed"
    );
    let last = ran(start(&disturbed, &args).wait_with_output().unwrap());
    assert_eq!(last.code, 0, "{}", last.err);
    assert_eq!(ran(start(&whole, &args).wait_with_output().unwrap()).code, 0);
    let (disturbed, whole) = (disturbed.run_folder(), whole.run_folder());
    assert!(weights(&disturbed) == weights(&whole), "the killed run ends with other parameters");
    let loss = |folder: &Path| -> Vec<(u64, u64)> {
        RunReader::open(folder).unwrap().series("train/loss").unwrap().iter().map(|row| (row.at.step, row.value.to_bits())).collect()
    };
    assert!(loss(&disturbed) == loss(&whole), "the killed run has logged other losses");
}

#[test]
#[ignore = "takes minutes: cargo xtask endure"]
fn a_hundred_thousand_steps_take_no_more_memory_than_a_thousand() {
    let steps = count_from_env("SOLSTICE_STEPS", 100_000);
    let desk = Desk::new();
    let budget = format!("trainer.budget={steps}st");
    let args = tiny(&[&budget, "trainer.checkpoint_every=5000st", "trainer.log_every=100st", "trainer.evaluate_every=5000st"]);
    let mut child = start(&desk, &args);
    let mut samples: Vec<(u64, u64)> = vec![];
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        if let (Some(worker), Some(folder)) = (worker_of(&child), desk.newest_run())
            && let (Some(kib), Ok(info)) = (resident_kib(worker), RunReader::open(&folder).and_then(|reader| reader.info()))
        {
            samples.push((info.at.step, kib));
        }
    }
    assert_eq!(ran(child.wait_with_output().unwrap()).code, 0);
    let early: Vec<(u64, u64)> = samples.iter().copied().filter(|(step, _)| (1000..steps / 10).contains(step)).collect();
    let late: Vec<(u64, u64)> = samples.iter().copied().filter(|(step, _)| *step >= steps / 2).collect();
    for (step, kib) in samples.iter().step_by(samples.len().div_ceil(12).max(1)) {
        println!("step {step:>7}: {:.1} MiB resident", *kib as f64 / 1024.0);
    }
    let most = |samples: &[(u64, u64)]| samples.iter().map(|(_, kib)| *kib).max().expect("the run was seen");
    let (before, after) = (most(&early), most(&late));
    println!("most resident: {:.1} MiB up to a tenth, {:.1} MiB in the second half", before as f64 / 1024.0, after as f64 / 1024.0);
    // What is logged meanwhile is on disk; an allocator's ups and downs are a few MiB.
    assert!(after <= before + 4096, "{before} KiB became {after} KiB");
    let folder = desk.run_folder();
    let reader = RunReader::open(&folder).unwrap();
    let rows: u64 = reader.metrics().unwrap().iter().map(|metric| metric.count).sum();
    let bytes = std::fs::metadata(folder.join("run.sqlite")).unwrap().len();
    println!("{rows} rows logged, the store has {bytes} bytes: {:.0} a row", bytes as f64 / rows as f64);
    assert!(bytes < 400_000 + 120 * rows, "the store grows by more than what is logged");
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// A small memory disk that is unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> SmallDisk {
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).status().unwrap();
        assert!(done.success(), "this test mounts a small tmpfs, for which it must be root");
        SmallDisk(path)
    }

    /// Leaves no byte free; the file to delete.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "for root: cargo xtask endure"]
fn a_full_disk_is_one_warning_each_and_training_goes_on() {
    let desk = Desk::new();
    let disk = SmallDisk::mount(desk.path().join("runs"), "48m");
    let args = tiny(&["trainer.budget=100000000st", "trainer.checkpoint_every=500st", "trainer.log_every=50st", "loggers=[csv()]"]);
    let child = start(&desk, &args);
    let folder = wait(|| desk.newest_run());
    let reader = wait(|| RunReader::open(&folder).ok());
    wait(|| (reader.info().unwrap().at.step > 1000).then_some(()));
    let filler = disk.fill();
    let full_at = reader.info().unwrap().at.step;
    // The store takes nothing now, so that the run lives shows in the time that its worker burns.
    let worker = worker_of(&child).unwrap();
    let before = processor_ticks(worker);
    std::thread::sleep(Duration::from_secs(4));
    assert!(processor_ticks(worker) > before + 100, "training stands still while the disk is full");
    std::fs::remove_file(&filler).unwrap();
    wait(|| (reader.info().unwrap().at.step > full_at + 2000).then_some(()));
    let saved = reader.checkpoints().unwrap().iter().map(|row| row.at.step).max().unwrap();
    wait(|| reader.checkpoints().unwrap().iter().any(|row| row.at.step > saved).then_some(()));
    desk.run(&["ctl", "last", "stop"]).expect(0);
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 3, "{}", ended.err);
    let warnings: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("warning:")).collect();
    println!("{}", warnings.join("\n"));
    for what in ["was not saved", "logger `csv`", "the run store takes no rows"] {
        assert_eq!(warnings.iter().filter(|line| line.contains(what)).count(), 1, "wanted one warning that says `{what}`: {warnings:#?}");
    }
    let info = reader.info().unwrap();
    assert_eq!(info.state, RunState::Stopped);
    // No row is missing: one loss every 50 steps, all the way.
    let steps: Vec<u64> = reader.series("train/loss").unwrap().iter().map(|row| row.at.step).collect();
    assert!(steps.windows(2).all(|pair| pair[1] == pair[0] + 50), "rows are missing");
}

fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it did not come within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}
