//! A folder of trials: each has a runs folder of its own, and its state is what the run's store in there says. Beside them lies one small file,
//! `trials.json`, with what a store cannot say: the settings of each trial, and for one that crashed the sentence and how often it was tried.
//!
//! Nothing is kept in memory that a kill could lose. Trials of a sweep and folds of a cross-validation are the same here.

use super::halving::has_reached;
use super::space::Settings;
use crate::cli::DataArgs;
use crate::outcome::exit;
use crate::pool::{Ended, Job, Next, Pool, last_error};
use crate::recipe::{Recipe, RecipeError};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use solstice_plugin_abi::Span;
use solstice_store::{At, Heartbeat, MetricKind, MetricSummary, RunReader, RunState, RunSummary, list_runs, now};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Name of the file with the settings and failures.
pub const LEDGER_FILE: &str = "trials.json";

/// How long a start waits for trials that another process is training: those of a sweep that was just killed save and stop.
const OTHERS_WAIT: Duration = Duration::from_secs(30);

/// A heartbeat younger than this belongs to a process that is still closing its run.
const CLOSING_SECS: f64 = 3.0;

/// How every trial is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// `--set` of every trial, in the order in which they were typed, before the trial's own.
    pub set: Vec<String>,
    /// As on the command line.
    pub device: String,
    /// As on the command line.
    pub data: DataArgs,
}

/// A folder of trials.
pub struct Trials {
    /// The folder of the sweep or the cross-validation.
    pub folder: PathBuf,
    /// How they are started.
    pub launch: Launch,
    /// What each changes.
    pub settings: Vec<Settings>,
    /// `trial` or `fold`: names the folders.
    pub word: &'static str,
    /// Digits of a folder's number.
    pub digits: usize,
    /// A trial that crashed this often is left alone; `None` tries it at every start.
    pub tries_max: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ledger {
    recipe: PathBuf,
    // A sweep goes on only with the recipe that it began with.
    recipe_sha256: String,
    trials: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    trial: usize,
    folder: String,
    settings: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

/// How a trial failed the last time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// How often it was tried.
    pub tries: u32,
    /// Why it failed.
    pub sentence: String,
}

/// What the store of a trial's newest run says.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The run's folder.
    pub run: PathBuf,
    /// What it is doing.
    pub state: RunState,
    /// Why.
    pub reason: Option<String>,
    /// How far it is.
    pub at: At,
    /// Its budget in steps, where that is known.
    pub steps_total: Option<u64>,
    /// Seconds spent on it.
    pub secs: f64,
    /// Its scalars.
    pub metrics: Vec<MetricSummary>,
    writer: Option<Heartbeat>,
}

impl Observed {
    /// It has reached its own budget.
    pub fn is_done(&self) -> bool {
        self.state == RunState::Done && self.steps_total.is_none_or(|total| self.at.step >= total)
    }

    /// The scalar of this name.
    pub fn metric(&self, name: &str) -> Option<&MetricSummary> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// A process is writing it.
    fn is_written(&self) -> bool {
        let Some(beat) = &self.writer else { return false };
        match self.state {
            RunState::Lost => false,
            state if state.is_over() => now() - beat.time < CLOSING_SECS,
            _ => true,
        }
    }
}

impl Trials {
    /// Name of a trial's folder.
    pub fn folder_name(&self, trial: usize) -> String {
        format!("{}-{trial:0width$}", self.word, width = self.digits)
    }

    /// A trial's runs folder.
    pub fn runs_dir(&self, trial: usize) -> PathBuf {
        self.folder.join(self.folder_name(trial))
    }

    /// True once [`Trials::prepare`] has run: what it checked need not be checked again.
    pub fn is_prepared(&self) -> bool {
        self.folder.join(LEDGER_FILE).is_file()
    }

    /// Makes the folder with its files, or checks that the recipe is the one that the folder was made with.
    pub fn prepare(&self, files: &[(&str, &str)]) -> Result<()> {
        let hash = file_hash(&self.launch.recipe)?;
        if self.is_prepared() {
            let ledger = self.read_ledger()?;
            if ledger.recipe_sha256 != hash {
                return Err(RecipeError(format!(
                    "the recipe {} has changed since {} was begun, and its trials would not compare: put the recipe back, or start anew under \
                     another file name or in another --runs-dir",
                    self.launch.recipe.display(),
                    self.folder.display()
                ))
                .into());
            }
            return Ok(());
        }
        std::fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        for (name, text) in files {
            write_beside_and_rename(&self.folder.join(name), text.as_bytes())?;
        }
        let trials = self
            .settings
            .iter()
            .enumerate()
            .map(|(trial, settings)| Entry {
                trial,
                folder: self.folder_name(trial),
                settings: settings.iter().map(|(field, value)| (field.clone(), value.clone().into())).collect(),
                failure: None,
            })
            .collect();
        let _lock = self.lock_ledger()?;
        // Two tasks of an array job may come here at once: the first one's file stands.
        if !self.is_prepared() {
            self.write_ledger(&Ledger { recipe: self.launch.recipe.clone(), recipe_sha256: hash, trials })?;
        }
        Ok(())
    }

    /// Held while this process starts trials; the system lets go of it when the process dies.
    pub fn lock(&self) -> Result<File> {
        let path = self.folder.join("sweep.lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                anyhow::bail!("another process is at work in {}; `--table` shows how far it is", self.folder.display())
            }
            // A file system without locks: each run's own lock is what is left.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(file),
        }
    }

    /// The command that trains one trial, here and in an array job: the only place that knows it.
    pub fn trial_command(&self, trial: usize, budget: Option<Span>) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        command.arg("train").arg(&self.launch.recipe).args(sets(self.changes(trial, budget))).arg("--runs-dir").arg(self.runs_dir(trial));
        // Without a run in its folder it starts one; with a run that has reached its budget it returns at once.
        command.args(["--resume", "last", "--quiet"]).args(self.device_and_data());
        Ok(command)
    }

    /// The recipe with a trial's changes. Finds slips in all but the components' own fields, which only their plugins know.
    pub fn recipe(&self, trial: usize, budget: Option<Span>) -> Result<Recipe, RecipeError> {
        let mut recipe = Recipe::from_file(&self.launch.recipe)?;
        for change in self.changes(trial, budget) {
            recipe.set(&change)?;
        }
        Ok(recipe)
    }

    /// What is wrong with a trial's settings, as `solstice check` says it with its exit code. Without `on_device` no data is read and no device opened.
    pub fn check(&self, trial: usize, budget: Option<Span>, on_device: bool) -> Result<Option<(i32, String)>> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        command.arg("check").arg(&self.launch.recipe).args(sets(self.changes(trial, budget))).args(self.device_and_data());
        if !on_device {
            command.arg("--settings-only");
        }
        let output = command.output().context("cannot start `solstice check`")?;
        if output.status.success() {
            return Ok(None);
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        let sentence = last_error(&printed).unwrap_or_else(|| printed.trim().to_owned());
        Ok(Some((output.status.code().unwrap_or(exit::CRASHED), sentence)))
    }

    /// The `--set` of a trial.
    fn changes(&self, trial: usize, budget: Option<Span>) -> Vec<String> {
        let mut settings: Vec<&(String, String)> = self.settings[trial].iter().collect();
        // `optimizer=..` puts back all fields of the optimizer, so it goes before `optimizer.lr=..`.
        settings.sort_by_key(|(field, _)| field.matches('.').count());
        let mut changes = self.launch.set.clone();
        changes.extend(settings.into_iter().map(|(field, value)| format!("{field}={value}")));
        changes.extend(budget.map(|budget| format!("trainer.budget={budget}")));
        changes
    }

    fn device_and_data(&self) -> Vec<std::ffi::OsString> {
        let mut args = vec!["--device".into(), self.launch.device.clone().into()];
        if let Some(folder) = &self.launch.data.data_dir {
            args.extend(["--data-dir".into(), folder.into()]);
        }
        if self.launch.data.offline {
            args.push("--offline".into());
        }
        if let Some(secs) = self.launch.data.plugin_timeout {
            args.extend(["--plugin-timeout".into(), secs.to_string().into()]);
        }
        args
    }

    /// What the newest run of a trial says; `None` without a readable run.
    pub fn observe(&self, trial: usize) -> Option<Observed> {
        let runs = list_runs(&self.runs_dir(trial)).unwrap_or_default();
        let readable = |run: RunSummary| run.contents.ok().map(|contents| (run.path, contents));
        let (run, contents) = runs.into_iter().filter_map(readable).max_by(|a, b| a.1.info.created.total_cmp(&b.1.info.created))?;
        let info = contents.info;
        Some(Observed {
            run,
            state: info.state,
            reason: info.state_reason,
            at: info.at,
            steps_total: info.steps_total,
            secs: info.train_secs,
            metrics: contents.metrics.into_iter().filter(|metric| metric.kind == MetricKind::Scalar).collect(),
            writer: info.writer,
        })
    }

    /// The metric at the end of a rung: its first value at or past `budget`. `None` when the trial has not come that far.
    pub fn value_at(&self, trial: usize, metric: &str, budget: Span) -> Option<f64> {
        let observed = self.observe(trial)?;
        let series = RunReader::open(&observed.run).and_then(|reader| reader.series(metric)).ok()?;
        series.iter().find(|row| has_reached(row.at, budget)).map(|row| row.value)
    }

    /// True when there is nothing left to train: the run is done, or for a rung, has its value and was saved there or later.
    pub fn has_finished(&self, trial: usize, rung: Option<(&str, Span)>) -> bool {
        let Some(observed) = self.observe(trial) else { return false };
        match rung {
            None => observed.is_done(),
            Some((metric, budget)) => {
                let further = Span { amount: budget.amount * (1.0 + 1e-9), ..budget };
                let is_saved = observed.state == RunState::Done || has_reached(observed.at, further);
                is_saved && self.value_at(trial, metric, budget).is_some()
            }
        }
    }

    /// The failures so far, by trial.
    pub fn failures(&self) -> Result<Vec<Option<Failure>>> {
        if !self.is_prepared() {
            return Ok(vec![None; self.settings.len()]);
        }
        let mut failures = vec![None; self.settings.len()];
        for entry in self.read_ledger()?.trials {
            if let Some(place) = failures.get_mut(entry.trial) {
                *place = entry.failure;
            }
        }
        Ok(failures)
    }

    /// Trains those of `which` that are not finished and not given up, to their own budget or to that of a rung. Failures are recorded.
    /// `on_end` hears of each trial that ended with its failure, if it has one, and the number of those still to come.
    pub fn train(
        &self,
        pool: &Pool,
        which: &[usize],
        rung: Option<(&str, Span)>,
        mut on_end: impl FnMut(usize, Option<&Failure>, usize) -> Result<Next>,
    ) -> Result<()> {
        let failures = self.failures()?;
        let given_up = |trial: usize| {
            let tries = failures[trial].as_ref().map_or(0, |failure| failure.tries);
            self.tries_max.is_some_and(|max| tries >= max)
        };
        let unfinished: Vec<usize> = which.iter().copied().filter(|trial| !given_up(*trial) && !self.has_finished(*trial, rung)).collect();
        let free = self.wait_for_others(pool, unfinished);
        let mut pending = vec![];
        // What another process was training may be finished by now.
        for trial in free.into_iter().filter(|trial| !self.has_finished(*trial, rung)) {
            let command = self.trial_command(trial, rung.map(|(_, budget)| budget))?;
            pending.push(Job { id: trial, command, log: self.runs_dir(trial).join("output.log") });
        }
        let mut left = pending.len();
        let mut halted = false;
        pool.run(pending, |ended| {
            left -= 1;
            let Ended { id, code, sentence } = ended;
            let was_asked = halted || pool.interrupts() > 0 || code == exit::STOPPED;
            let failure = match code {
                exit::OK => {
                    self.record(id, None)?;
                    None
                }
                // Asked to stop: whatever it says about that is no failure.
                _ if was_asked => return Ok(if halted { Next::Halt } else { Next::GoOn }),
                _ => {
                    let tries = 1 + failures[id].as_ref().map_or(0, |failure| failure.tries);
                    let failure = Failure { tries, sentence: sentence.unwrap_or_default() };
                    self.record(id, Some(&failure))?;
                    Some(failure)
                }
            };
            let next = on_end(id, failure.as_ref(), left);
            halted = !matches!(next, Ok(Next::GoOn));
            next
        })
    }

    /// Those of `which` that no other process is training, after a while of patience.
    fn wait_for_others(&self, pool: &Pool, which: Vec<usize>) -> Vec<usize> {
        let begin = Instant::now();
        loop {
            let busy: Vec<usize> =
                which.iter().copied().filter(|trial| self.observe(*trial).is_some_and(|observed| observed.is_written())).collect();
            if busy.is_empty() {
                return which;
            }
            if begin.elapsed() > OTHERS_WAIT || pool.interrupts() > 0 {
                let names: Vec<String> = busy.iter().map(|trial| self.folder_name(*trial)).collect();
                eprintln!("Left to the process that is training there: {}", names.join(", "));
                return which.into_iter().filter(|trial| !busy.contains(trial)).collect();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes down, or takes back, that a trial failed.
    fn record(&self, trial: usize, failure: Option<&Failure>) -> Result<()> {
        let _lock = self.lock_ledger()?;
        let mut ledger = self.read_ledger()?;
        let entry = ledger.trials.iter_mut().find(|entry| entry.trial == trial);
        match entry {
            Some(entry) if entry.failure.as_ref() != failure => entry.failure = failure.cloned(),
            _ => return Ok(()),
        }
        self.write_ledger(&ledger)
    }

    /// Held for a moment: the tasks of an array job share the file.
    fn lock_ledger(&self) -> Result<File> {
        let path = self.folder.join("trials.lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        // A file system without locks: at worst a failure is forgotten, and the trial tried once more.
        let _ = file.lock();
        Ok(file)
    }

    fn read_ledger(&self) -> Result<Ledger> {
        let path = self.folder.join(LEDGER_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged; delete it: the runs are not lost", path.display()))
    }

    fn write_ledger(&self, ledger: &Ledger) -> Result<()> {
        write_beside_and_rename(&self.folder.join(LEDGER_FILE), &serde_json::to_vec_pretty(ledger)?)
    }
}

fn sets(changes: Vec<String>) -> impl Iterator<Item = String> {
    changes.into_iter().flat_map(|change| ["--set".to_owned(), change])
}

/// SHA-256 of a file, hexadecimal.
fn file_hash(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Replaces a file as a whole: readers, and a kill at any time, find the old content or the new.
pub fn write_beside_and_rename(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(folder: &Path) -> Trials {
        let pair = |field: &str, value: &str| (field.to_owned(), value.to_owned());
        let recipe = folder.join("recipe.ron");
        std::fs::write(&recipe, "()").unwrap();
        Trials {
            folder: folder.join("sweep"),
            launch: Launch {
                recipe,
                set: vec!["name=x".into()],
                device: "cpu".into(),
                data: DataArgs { data_dir: Some("data".into()), offline: true, plugin_timeout: None },
            },
            settings: vec![vec![pair("optimizer.lr", "0.1"), pair("optimizer", "sgd()"), pair("seed", "1")], vec![]],
            word: "trial",
            digits: 4,
            tries_max: Some(2),
        }
    }

    #[test]
    fn the_command_of_a_trial() {
        let folder = tempfile::tempdir().unwrap();
        let trials = trials(folder.path());
        let command = trials.trial_command(0, Some("3ep".parse().unwrap())).unwrap();
        let args: Vec<&str> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        let (recipe, runs) = (folder.path().join("recipe.ron"), folder.path().join("sweep/trial-0000"));
        // The whole component first: it would undo the change of its field.
        let sets =
            ["--set", "name=x", "--set", "optimizer=sgd()", "--set", "seed=1", "--set", "optimizer.lr=0.1", "--set", "trainer.budget=3ep"];
        let wanted = [
            &["train", recipe.to_str().unwrap()][..],
            &sets,
            &["--runs-dir", runs.to_str().unwrap(), "--resume", "last", "--quiet", "--device", "cpu", "--data-dir", "data", "--offline"],
        ];
        assert_eq!(args, wanted.concat());
    }

    #[test]
    fn failures_are_written_down_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let trials = trials(folder.path());
        assert_eq!(trials.failures().unwrap(), [None, None]);
        trials.prepare(&[("sweep.ron", "text")]).unwrap();
        assert_eq!(std::fs::read_to_string(trials.folder.join("sweep.ron")).unwrap(), "text");
        let failure = Failure { tries: 1, sentence: "the worker died".into() };
        trials.record(1, Some(&failure)).unwrap();
        assert_eq!(trials.failures().unwrap(), [None, Some(failure)]);
        trials.prepare(&[]).unwrap();
        trials.record(1, None).unwrap();
        assert_eq!(trials.failures().unwrap(), [None, None]);
    }

    #[test]
    fn another_recipe_is_another_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let trials = trials(folder.path());
        trials.prepare(&[]).unwrap();
        std::fs::write(&trials.launch.recipe, "(name: \"x\")").unwrap();
        assert!(trials.prepare(&[]).unwrap_err().to_string().contains("has changed"));
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let trials = trials(folder.path());
        trials.prepare(&[]).unwrap();
        let lock = trials.lock().unwrap();
        assert!(trials.lock().unwrap_err().to_string().contains("another process"));
        drop(lock);
        trials.lock().unwrap();
    }
}
