//! `cargo xtask reload`: how long it takes from saving a plugin's source to the next step of a run that goes on, and whether it really goes on.
//!
//! Trains the MLP on drawn digits with `--watch`, changes a doc comment of `plugins/mlp/src/lib.rs` (which changes the library: settings carry their
//! docs), and reads what the run says about the reload. What happens in a run is read through `solstice runs --json`, so that this crate needs no store.

use crate::{cargo, root, run, target};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Reloads of which the median counts.
const ROUNDS: usize = 5;

/// What the design promises for a small plugin on two cores.
const WANTED_SECS: f64 = 5.0;

/// When nothing comes for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(180);

/// Parts of a reload as its event names them.
const PARTS: [&str; 6] = ["build", "load", "trace", "compile", "restore", "total"];

/// Measures in the dev profile, with `--release` in the release profile as well.
pub fn reload(args: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = args.iter().find(|arg| *arg != "--release") {
        bail!("`cargo xtask reload` takes `--release` and nothing else, not `{unknown}`");
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).context("cannot listen for Ctrl-C")?;
    }
    let mut medians = vec![];
    for profile in ["dev", "release"].iter().filter(|profile| **profile == "dev" || !args.is_empty()) {
        medians.push((*profile, measure(profile, &interrupted)?));
    }
    let mut is_fast = true;
    for (profile, secs) in medians {
        let verdict = if secs <= WANTED_SECS { "within" } else { "over" };
        println!("{profile}: {secs:.2} s from saving to the next step, {verdict} the {WANTED_SECS} s that are promised");
        is_fast &= secs <= WANTED_SECS;
    }
    Ok(if is_fast { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The median, in seconds, from saving to the run's word that it goes on.
fn measure(profile: &str, interrupted: &AtomicBool) -> Result<f64> {
    let mut build = cargo();
    build.args(["build", "--workspace", "--profile", profile]);
    run(&mut build)?;
    let source = Source::open(root().join("plugins/mlp/src/lib.rs"))?;
    let mut training = Training::start(if profile == "dev" { "debug" } else { profile })?;
    let look = |training: &mut Training, kinds: &[&str]| -> Result<Value> {
        let start = Instant::now();
        loop {
            ensure!(!interrupted.load(Ordering::Relaxed), "stopped; the source is as it was");
            if let Some(event) = training.next_event(kinds)? {
                return Ok(event);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "no event of the kind {} within {} s\n{}",
                kinds.join(" or "),
                PATIENCE.as_secs(),
                training.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    training.wait_for_steps(10, interrupted)?;

    println!("\n{profile:<8} {}  {:>8}", PARTS.map(|part| format!("{part:>8}")).join(""), "seen");
    let mut seen = vec![];
    let mut parts: Vec<Vec<f64>> = vec![vec![]; PARTS.len()];
    for round in 1..=ROUNDS {
        let before = training.step();
        let saved = source.write(&format!("(edit {round})"), "")?;
        let event = look(&mut training, &["reload", "reload_failed"])?;
        ensure!(event["kind"] == "reload", "the edit of a comment was refused: {}", event["message"]);
        let secs = event["time"].as_f64().context("an event has a time")? - saved;
        let of_part = PARTS.map(|part| event["new"][part].as_f64().unwrap_or(f64::NAN));
        println!("{:<8} {}  {secs:>8.2}", round, of_part.map(|secs| format!("{secs:>8.2}")).join(""));
        seen.push(secs);
        parts.iter_mut().zip(of_part).for_each(|(all, secs)| all.push(secs));
        let step = event["step"].as_u64().context("an event has a step")?;
        ensure!(step >= before, "the run was at step {before} when the source was saved and at step {step} after the reload");
        training.wait_for_steps(step + 5, interrupted)?;
    }
    let median_secs = median(&mut seen);
    println!("{:<8} {}  {median_secs:>8.2}", "median", parts.iter_mut().map(|all| format!("{:>8.2}", median(all))).collect::<String>());

    // A mistake leaves the run going and is shown.
    let before = training.step();
    source.write("(broken)", "\nfn broken() -> u32 {\n    \"no number\"\n}\n")?;
    let event = look(&mut training, &["reload", "reload_failed"])?;
    let message = event["message"].as_str().unwrap_or_default();
    ensure!(event["kind"] == "reload_failed", "a plugin that does not compile was reloaded: {event}");
    for part in ["E0308", "mismatched types", "plugins/mlp/src/lib.rs:"] {
        ensure!(message.contains(part), "the event of a broken edit does not say `{part}`: {message}");
    }
    training.wait_for_steps(before + 20, interrupted)?;
    ensure!(training.said().contains("mismatched types"), "`solstice train` does not show the compiler's error:\n{}", training.said());
    println!("broken   refused with the compiler's error; the run went on to step {}", training.step());
    drop(source);
    Ok(median_secs)
}

/// The median, which sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A source file, which is given its text back whatever happens.
struct Source {
    path: PathBuf,
    text: String,
}

/// A doc comment of the plugin, to be followed by something.
const PLACE: &str = "/// Multi-layer perceptron";

impl Source {
    fn open(path: PathBuf) -> Result<Source> {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.matches(PLACE).count() == 1, "{} has not one line `{PLACE}`: this script needs another place to edit", path.display());
        Ok(Source { path, text })
    }

    /// Saves an edited text; when that was, in seconds since 1970.
    fn write(&self, comment: &str, end: &str) -> Result<f64> {
        let text = self.text.replacen(PLACE, &format!("{PLACE} {comment}"), 1) + end;
        std::fs::write(&self.path, text).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.path, &self.text) {
            eprintln!("error: {} could not be restored: {error}", self.path.display());
        }
    }
}

/// `solstice train --watch` under way; stopped when dropped.
struct Training {
    child: Child,
    program: PathBuf,
    runs_dir: PathBuf,
    /// The last one printed.
    step: Arc<AtomicU64>,
    said: Arc<Mutex<String>>,
    /// Events that were looked at.
    event_count: usize,
}

impl Training {
    fn start(folder: &str) -> Result<Training> {
        let program = target().join(folder).join("solstice");
        let scratch = target().join("xtask-reload");
        let _ = std::fs::remove_dir_all(&scratch);
        let runs_dir = scratch.join("runs");
        let mut command = Command::new(&program);
        command.arg("train").arg(root().join("experiments/mnist-mlp.ron")).args(["--watch", "--json", "--device", "cpu"]);
        command.arg("--runs-dir").arg(&runs_dir).env("SOLSTICE_CACHE_DIR", scratch.join("cache")).env_remove("SOLSTICE_PLUGIN_PATH");
        let settings = [
            "dataset=drawn_digits(train: 2000, test: 200)",
            "trainer.budget=1000000st",
            "trainer.log_every=1st",
            "trainer.evaluate_every=1000000st",
            "trainer.checkpoint_every=1000000st",
        ];
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command.current_dir(root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (step, said) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(String::new())));
        let (stdout, mut stderr) = (child.stdout.take().expect("asked for above"), child.stderr.take().expect("asked for above"));
        let counter = step.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(step) = serde_json::from_str::<Value>(&line).ok().and_then(|line| line["step"].as_u64()) {
                    counter.store(step, Ordering::Relaxed);
                }
            }
        });
        let text = said.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Ok(Training { child, program, runs_dir, step, said, event_count: 0 })
    }

    fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// What it wrote for people.
    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("`solstice train` ended ({status}):\n{}", self.said());
        }
        Ok(())
    }

    fn wait_for_steps(&mut self, step: u64, interrupted: &AtomicBool) -> Result<()> {
        let start = Instant::now();
        while self.step() < step {
            self.check_alive()?;
            ensure!(!interrupted.load(Ordering::Relaxed), "stopped; the source is as it was");
            ensure!(start.elapsed() < PATIENCE, "the run stays at step {}, before step {step}:\n{}", self.step(), self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The next event of the run that is of one of these kinds.
    fn next_event(&mut self, kinds: &[&str]) -> Result<Option<Value>> {
        self.check_alive()?;
        let output = Command::new(&self.program).arg("runs").arg(&self.runs_dir).arg("--json").output().context("cannot list the runs")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(line) = text.lines().next() else { return Ok(None) };
        let run: Value = serde_json::from_str(line).with_context(|| format!("`solstice runs --json` says {line}"))?;
        let events = run["events"].as_array().context("`solstice runs --json` gives no events")?;
        while let Some(event) = events.get(self.event_count) {
            self.event_count += 1;
            if kinds.iter().any(|kind| event["kind"] == *kind) {
                return Ok(Some(event.clone()));
            }
        }
        Ok(None)
    }
}

impl Drop for Training {
    fn drop(&mut self) {
        // As Ctrl-C would, so that the worker goes as well; once more when it does not listen.
        for _ in 0..2 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(10) {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_has_the_place_that_is_edited_and_gets_its_text_back() {
        let folder = std::env::temp_dir().join(format!("xtask-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("lib.rs");
        let original = std::fs::read_to_string(root().join("plugins/mlp/src/lib.rs")).unwrap();
        std::fs::write(&path, &original).unwrap();
        let source = Source::open(path.clone()).unwrap();
        source.write("(edit 1)", "// end\n").unwrap();
        let edited = std::fs::read_to_string(&path).unwrap();
        assert!(edited.contains("/// Multi-layer perceptron (edit 1)") && edited.ends_with("// end\n"));
        drop(source);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), original);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [5.0, 1.0, 3.0, 2.0, 9.0]), 3.0);
        assert!(median(&mut []).is_nan());
    }
}
