//! `solstice sweep`: check, make the folder, train the trials in child processes, print the table. Never loads a plugin.

use super::is_stdin;
use crate::cli::{Export, SweepArgs};
use crate::outcome::{Exit, OrExit, exit, sentence};
use crate::pool::{Next, Pool};
use crate::recipe::{RecipeError, did_you_mean};
use crate::sweep::halving::{keep_best, rungs};
use crate::sweep::slurm::{ArrayJob, quoted, script};
use crate::sweep::table::{number, print_json, print_text, rows, settings_text};
use crate::sweep::trials::{Failure, Launch, Trials, write_beside_and_rename};
use crate::sweep::{Halving, Sweep};
use anyhow::{Context, Result, anyhow};
use solstice_plugin_abi::Span;
use std::path::{PathBuf, absolute};

/// A trial that crashed is tried once more at the next start, then left.
const TRIES_MAX: u32 = 2;

/// Runs the sweep, one trial of it, or its table; returns the exit code.
pub fn run(args: &SweepArgs) -> i32 {
    sweep(args).unwrap_or_else(|Exit { code, error }| {
        eprintln!("error: {}", sentence(&error));
        code
    })
}

fn sweep(args: &SweepArgs) -> Result<i32, Exit> {
    let sweep = Sweep::from_file(&args.file).or_exit(exit::USAGE)?;
    // A recipe that the sweep itself holds is checked as a file of its own, and lies in the sweep's folder once there is one.
    let own_recipe = match &sweep.recipe_text {
        Some(text) => Some(OwnRecipe::new(text).or_exit(exit::FAILED)?),
        None => None,
    };
    let recipe = own_recipe.as_ref().map_or_else(|| sweep.recipe.clone(), |own| own.file.clone());
    let mut trials = Trials {
        folder: args.runs_dir.join(format!("sweep-{}", sweep.id)),
        launch: Launch { recipe, set: vec![], device: args.device.clone(), data: args.data.clone() },
        settings: sweep.trials.clone(),
        word: "trial",
        digits: 4,
        // A person who asks for one trial means it.
        tries_max: args.trial.is_none().then_some(TRIES_MAX),
    };
    if args.table {
        show(&sweep, &trials, args.json).or_exit(exit::FAILED)?;
        return Ok(exit::OK);
    }
    if args.export.is_some() && is_stdin(&args.file) {
        let message = "the tasks of an array job have no standard input to read: write the sweep to a file";
        return Err(RecipeError(message.into())).or_exit(exit::USAGE);
    }
    if sweep.halving.is_some() && (args.export.is_some() || args.trial.is_some()) {
        let message = "with `halving` a trial's budget depends on the others, so the tasks of an array job cannot run apart: take `halving` out, \
                       or run `solstice sweep` inside one job";
        return Err(RecipeError(message.into())).or_exit(exit::USAGE);
    }
    check_settings(&sweep, &trials).or_exit(exit::USAGE)?;
    if let (Some(own), true) = (&own_recipe, trials.is_prepared() || args.trial.is_some()) {
        own.move_to(&mut trials).or_exit(exit::FAILED)?;
    }
    if let Some(trial) = args.trial {
        return one_trial(&sweep, &trials, trial);
    }
    // What was checked when the folder was made was not changed since: `prepare` sees to that.
    if !trials.is_prepared() {
        check_components(&sweep, &trials, args.export.is_none())?;
        if let Some(own) = &own_recipe {
            own.move_to(&mut trials).or_exit(exit::FAILED)?;
        }
    }
    trials.prepare(&[("sweep.ron", &sweep.text)]).or_exit(exit::FAILED)?;
    if args.export == Some(Export::Slurm) {
        export_slurm(args, &sweep, &trials).or_exit(exit::FAILED)?;
        return Ok(exit::OK);
    }
    let _lock = trials.lock().or_exit(exit::FAILED)?;
    let pool = Pool::new(usize::from(args.workers)).or_exit(exit::FAILED)?;
    eprintln!("{} trials in {}", trials.settings.len(), trials.folder.display());
    let trained = match &sweep.halving {
        None => {
            let all: Vec<usize> = (0..trials.settings.len()).collect();
            train(&sweep, &trials, &pool, &all, None)
        }
        Some(halving) => train_rungs(&sweep, &trials, &pool, halving),
    };
    trained.or_exit(exit::FAILED)?;
    let any_result = show(&sweep, &trials, args.json).or_exit(exit::FAILED)?;
    Ok(pool.interrupted_code().unwrap_or(if any_result { exit::OK } else { exit::FAILED }))
}

/// The file of a recipe that came within a sweep.
struct OwnRecipe<'a> {
    text: &'a str,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl OwnRecipe<'_> {
    fn new(text: &str) -> Result<OwnRecipe<'_>> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let file = folder.path().join("recipe.ron");
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(OwnRecipe { text, file, _folder: folder })
    }

    /// From now on the trials read it in their own folder.
    fn move_to(&self, trials: &mut Trials) -> Result<()> {
        std::fs::create_dir_all(&trials.folder).with_context(|| format!("cannot make {}", trials.folder.display()))?;
        let file = absolute(&trials.folder)?.join("recipe.ron");
        write_beside_and_rename(&file, self.text.as_bytes())?;
        trials.launch.recipe = file;
        Ok(())
    }
}

/// Every trial's settings as far as they can be checked without a plugin.
fn check_settings(sweep: &Sweep, trials: &Trials) -> Result<(), RecipeError> {
    let recipe = trials.recipe(0, first_budget(sweep))?;
    for settings in &sweep.trials {
        let mut changed = recipe.clone();
        for (field, value) in settings {
            changed.set(&format!("{field}={value}"))?;
        }
    }
    Ok(())
}

/// The settings that only plugins know, in child processes: the first trial to its first steps, and each listed value.
fn check_components(sweep: &Sweep, trials: &Trials, on_device: bool) -> Result<(), Exit> {
    for trial in sweep.trials_to_check() {
        if let Some((code, sentence)) = trials.check(trial, first_budget(sweep), on_device && trial == 0).or_exit(exit::FAILED)? {
            return Err(Exit { code, error: anyhow!(sentence) });
        }
    }
    Ok(())
}

fn first_budget(sweep: &Sweep) -> Option<Span> {
    sweep.halving.as_ref().map(|halving| halving.min)
}

/// Trains `which` and says how each went.
fn train(sweep: &Sweep, trials: &Trials, pool: &Pool, which: &[usize], rung: Option<Span>) -> Result<()> {
    trials.train(pool, which, rung.map(|budget| (sweep.metric.as_str(), budget)), |trial, failure, left| {
        report(sweep, trials, trial, failure, left)?;
        Ok(Next::GoOn)
    })
}

/// A line for a trial that ended. A metric that no run has is found with the first one, before the others have trained in vain.
fn report(sweep: &Sweep, trials: &Trials, trial: usize, failure: Option<&Failure>, left: usize) -> Result<()> {
    let settings = settings_text(&trials.settings[trial]);
    if let Some(failure) = failure {
        eprintln!("trial {trial} ({settings}) failed; {left} left: {}", failure.sentence);
        return Ok(());
    }
    let Some(observed) = trials.observe(trial) else { return Ok(()) };
    let last = observed.metric(&sweep.metric).and_then(|metric| metric.last);
    let Some(last) = last else {
        let names: Vec<&str> = observed.metrics.iter().map(|metric| metric.name.as_str()).collect();
        let near = did_you_mean(&sweep.metric, names.iter().copied());
        return Err(anyhow!("metric: trial {trial} has no metric `{}`{near}; there are {}", sweep.metric, names.join(", ")));
    };
    eprintln!("trial {trial} ({settings}): {} {}; {left} left", sweep.metric, number(last));
    Ok(())
}

/// Successive halving: rung after rung, each decided by what the stores say, so that a restart decides the same.
fn train_rungs(sweep: &Sweep, trials: &Trials, pool: &Pool, halving: &Halving) -> Result<()> {
    let ladder = rungs(halving).expect("checked when the file was read");
    let mut alive: Vec<usize> = (0..trials.settings.len()).collect();
    for (rung, budget) in ladder.iter().enumerate() {
        eprintln!("rung {} of {}: {} trials to {budget}", rung + 1, ladder.len(), alive.len());
        train(sweep, trials, pool, &alive, Some(*budget))?;
        if pool.interrupts() > 0 || rung + 1 == ladder.len() {
            break;
        }
        let values: Vec<(usize, Option<f64>)> =
            alive.iter().map(|trial| (*trial, trials.value_at(*trial, &sweep.metric, *budget))).collect();
        // A trial that another process trains, or that somebody stopped, has no value yet and is no failure: the rung cannot be decided.
        let failures = trials.failures()?;
        let open: Vec<String> = values
            .iter()
            .filter(|(trial, value)| value.is_none() && failures[*trial].is_none())
            .map(|(trial, _)| trial.to_string())
            .collect();
        if !open.is_empty() {
            eprintln!("rung {} waits for trial {}: start the sweep again when it is through", rung + 1, open.join(", "));
            break;
        }
        alive = keep_best(&values, halving.factor, sweep.mode);
        if alive.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Prints the table; returns whether any trial has a result.
fn show(sweep: &Sweep, trials: &Trials, json: bool) -> Result<bool> {
    let rows = rows(sweep, trials)?;
    if json {
        print_json(&rows, &sweep.metric);
    } else {
        print_text(&rows, sweep);
    }
    Ok(rows.iter().any(|row| row.rank.is_some()))
}

/// One trial, with what it prints; returns the exit code.
fn one_trial(sweep: &Sweep, trials: &Trials, trial: usize) -> Result<i32, Exit> {
    let count = trials.settings.len();
    if trial >= count {
        return Err(RecipeError(format!("--trial {trial}: the sweep has trials 0 to {}", count - 1))).or_exit(exit::USAGE);
    }
    trials.prepare(&[("sweep.ron", &sweep.text)]).or_exit(exit::FAILED)?;
    let pool = Pool::new(1).or_exit(exit::FAILED)?.with_echo();
    train(sweep, trials, &pool, &[trial], None).or_exit(exit::FAILED)?;
    if trials.has_finished(trial, None) {
        eprintln!("Trial {trial} is done: {}", trials.runs_dir(trial).display());
        return Ok(exit::OK);
    }
    Ok(pool.interrupted_code().unwrap_or(exit::FAILED))
}

fn export_slurm(args: &SweepArgs, sweep: &Sweep, trials: &Trials) -> Result<()> {
    let mut options = vec!["--device".to_owned(), args.device.clone()];
    if let Some(folder) = &args.data.data_dir {
        options.extend(["--data-dir".to_owned(), absolute(folder)?.to_string_lossy().into_owned()]);
    }
    if args.data.offline {
        options.push("--offline".into());
    }
    let (runs_dir, folder) = (absolute(&args.runs_dir)?, absolute(&trials.folder)?);
    let file = absolute(&args.file)?;
    let text = script(&ArrayJob {
        name: &format!("sweep-{}", sweep.id),
        program: &std::env::current_exe().context("cannot find this program's own file")?,
        file: &file,
        runs_dir: &runs_dir,
        folder: &folder,
        current_dir: &std::env::current_dir()?,
        options: &options,
        trial_count: trials.settings.len(),
        workers: usize::from(args.workers),
    });
    let path = trials.folder.join("array.sbatch");
    write_beside_and_rename(&path, text.as_bytes())?;
    println!("{} trials, {} at once: {}", trials.settings.len(), args.workers, path.display());
    println!("Submit them with      sbatch {}", quoted(&path.to_string_lossy()));
    let (file, runs_dir) = (quoted(&args.file.to_string_lossy()), quoted(&args.runs_dir.to_string_lossy()));
    println!("Read the results with solstice sweep {file} --runs-dir {runs_dir} --table");
    Ok(())
}
