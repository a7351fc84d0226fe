//! `solstice train`, `resume` and `fork`, the worker's side: what the words of the command line mean, then `launch.rs`.

use super::catalog;
use crate::assemble;
use crate::cli::{Command, ForkArgs, GoOnArgs, ResumeArgs, TrainArgs};
use crate::drive::monitor_of;
use crate::launch::{Launch, Origin, check_resumable, launch, stored_recipe};
use crate::outcome::{Exit, OrExit, exit};
use crate::recipe::{Recipe, RecipeError, ResolvedRecipe};
use crate::side::{Reload, SideDir};
use crate::train::Stopwatch;
use crate::weights::InitOptions;
use anyhow::{Context, Result, bail};
use solstice_engine::gpu::Sources;
use solstice_store::{
    Checkpoint, CheckpointTarget, RunInfo, RunReader, RunState, StoreError, find_run, list_runs, load_checkpoint, writer_of,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// `solstice train`; returns the exit code.
pub fn train(args: &TrainArgs, shaders: Option<&Path>, side: &SideDir, interrupted: &AtomicBool) -> Result<i32, Exit> {
    let watch = Stopwatch::start();
    let mut recipe = Recipe::from_args(&args.recipe).or_exit(exit::USAGE)?;
    let mut runs_dir = args.runs_dir.clone();
    if let Some(steps) = args.fast_dev_run {
        for assignment in [format!("trainer.budget={steps}st"), format!("trainer.limit_evaluate={steps}st"), "loggers=[]".into()] {
            recipe.set(&assignment).or_exit(exit::USAGE)?;
        }
        // Goes with the parent's folder.
        runs_dir = side.0.join("runs");
    }
    let catalog = catalog(&args.recipe.data).or_exit(exit::FAILED)?;
    let options = InitOptions::new(&args.init_map, &args.init_skip, args.partial, args.init_dry_run).or_exit(exit::USAGE)?;
    let mut origin = Origin::New(args.init.clone().map(|file| (file, options)));
    if let Some(place) = &args.resume {
        let resolved = assemble::resolve(&recipe, &catalog).or_exit(exit::USAGE)?;
        match place_to_resume(&runs_dir, place, &resolved).or_exit(exit::USAGE)? {
            Place::Nowhere => {}
            Place::Finished(folder) => {
                std::fs::write(side.run_file(), format!("{}\n{}", folder.display(), i64::MAX)).or_exit(exit::FAILED)?;
                eprintln!("This run is done: its budget is reached. A larger one goes on with it: --set trainer.budget=..");
                return Ok(exit::OK);
            }
            Place::At { folder, checkpoint, chosen } => {
                let before = stored_recipe(&folder).or_exit(exit::USAGE)?;
                check_resumable(&before, &resolved, &format!("--resume {place}")).or_exit(exit::USAGE)?;
                origin = Origin::Resume { folder, checkpoint, chosen, partial: args.partial };
            }
        }
    }
    let mut command_line = format!("solstice train {}", args.recipe.recipe.display());
    for assignment in &args.recipe.set {
        command_line += &format!(" --set '{assignment}'");
    }
    if let Some(file) = &args.init {
        command_line += &format!(" --init {}", file.display());
    }
    for map in &args.init_map {
        command_line += &format!(" --init-map '{map}'");
    }
    command_line += &format!(" --device '{}'", args.recipe.device);
    let device = args.recipe.device.clone();
    let recipe_path = args.recipe.text.is_none().then(|| args.recipe.recipe.clone());
    let shaders = sources(shaders)?;
    launch(
        Launch { recipe, origin, device, shaders, runs_dir, recipe_path, command_line, verbose: args.show.verbose },
        &catalog,
        side,
        interrupted,
        watch,
    )
}

/// `solstice resume`; returns the exit code.
pub fn resume(args: &ResumeArgs, shaders: Option<&Path>, side: &SideDir, interrupted: &AtomicBool) -> Result<i32, Exit> {
    let place = args.at.as_deref().unwrap_or("last");
    let command_line = format!("solstice resume {}", args.run);
    go_on(&args.run, &args.go_on, command_line, shaders, side, interrupted, |GoingOn { folder, info, before, after }| {
        check_resumable(&before, &after, "resume")?;
        let checkpoint = read_checkpoint(&folder, place, &before, true)?;
        let chosen = place != "last" || info.state == RunState::Done;
        Ok(Origin::Resume { folder, checkpoint, chosen, partial: args.go_on.partial })
    })
}

/// `solstice fork`; returns the exit code.
pub fn fork(args: &ForkArgs, shaders: Option<&Path>, side: &SideDir, interrupted: &AtomicBool) -> Result<i32, Exit> {
    let (run, place) = args.run.rsplit_once('@').unwrap_or((&args.run, "last"));
    let command_line = format!("solstice fork {}", args.run);
    go_on(run, &args.go_on, command_line, shaders, side, interrupted, |GoingOn { folder, info, before, .. }| {
        let Some(checkpoint) = read_checkpoint(&folder, place, &before, false)? else {
            bail!(RecipeError(format!("{} has no checkpoint to fork from", folder.display())));
        };
        Ok(Origin::Fork { parent: info.id, resolved: Box::new(before), checkpoint, partial: args.go_on.partial })
    })
}

/// A run on disk from which training goes on.
struct GoingOn {
    folder: PathBuf,
    info: RunInfo,
    /// Its recipe, and the same with the changes of the command line.
    before: ResolvedRecipe,
    after: ResolvedRecipe,
}

fn go_on(
    run: &str,
    args: &GoOnArgs,
    command_line: String,
    shaders: Option<&Path>,
    side: &SideDir,
    interrupted: &AtomicBool,
    origin: impl FnOnce(GoingOn) -> Result<Origin>,
) -> Result<i32, Exit> {
    let watch = Stopwatch::start();
    let folder = find_run(&args.runs_dir, run).or_exit(exit::USAGE)?;
    let catalog = catalog(&args.data).or_exit(exit::FAILED)?;
    let mut recipe = Recipe::from_file(&folder.join("recipe.ron")).or_exit(exit::FAILED)?;
    let before = assemble::resolve(&recipe, &catalog).or_exit(exit::FAILED)?;
    for assignment in &args.set {
        recipe.set(assignment).or_exit(exit::USAGE)?;
    }
    let after = assemble::resolve(&recipe, &catalog).or_exit(exit::USAGE)?;
    let info = RunReader::open(&folder).and_then(|reader| reader.info()).or_exit(exit::FAILED)?;
    let device = args.device.clone().or(info.device.clone()).unwrap_or_else(|| "auto".into());
    let recipe_path = info.recipe_path.clone().map(PathBuf::from);
    let origin = origin(GoingOn { folder, info, before, after }).or_exit(exit::USAGE)?;
    let command_line = args.set.iter().fold(command_line, |line, assignment| format!("{line} --set '{assignment}'"));
    let (shaders, runs_dir, verbose) = (sources(shaders)?, args.runs_dir.clone(), args.show.verbose);
    launch(Launch { recipe, origin, device, shaders, runs_dir, recipe_path, command_line, verbose }, &catalog, side, interrupted, watch)
}

/// Takes a run over from the worker before, which `command` started; returns the exit code.
pub fn reload(reload: &Reload, command: &Command, shaders: Option<&Path>, side: &SideDir, interrupted: &AtomicBool) -> Result<i32, Exit> {
    let watch = Stopwatch::start();
    let data = match command {
        Command::Train(args) => &args.recipe.data,
        Command::Resume(args) => &args.go_on.data,
        Command::Fork(args) => &args.go_on.data,
        other => unreachable!("{other:?} trains nothing"),
    };
    let info = RunReader::open(&reload.folder).and_then(|reader| reader.info()).or_exit(exit::FAILED)?;
    let recipe = Recipe::from_file(&reload.folder.join("recipe.ron")).or_exit(exit::FAILED)?;
    let launch_this = Launch {
        recipe,
        origin: Origin::Reload(reload.clone()),
        device: info.device.unwrap_or_else(|| "auto".into()),
        shaders: sources(shaders)?,
        runs_dir: PathBuf::new(),
        recipe_path: info.recipe_path.map(PathBuf::from),
        command_line: info.command_line.unwrap_or_default(),
        verbose: false,
    };
    let catalog = catalog(data).or_exit(exit::FAILED)?;
    launch(launch_this, &catalog, side, interrupted, watch)
}

/// The shaders of a folder, or the built-in ones.
fn sources(dir: Option<&Path>) -> Result<Sources, Exit> {
    match dir {
        Some(dir) => Sources::from_dir(dir).map_err(anyhow::Error::msg).or_exit(exit::FAILED),
        None => Ok(Sources::built_in()),
    }
}

/// Where `train --resume` goes on.
enum Place {
    /// There is no run of this recipe yet.
    Nowhere,
    /// There is one that has nothing left to do.
    Finished(PathBuf),
    /// Here.
    At { folder: PathBuf, checkpoint: Option<Checkpoint>, chosen: bool },
}

fn place_to_resume(runs_dir: &Path, place: &str, resolved: &ResolvedRecipe) -> Result<Place> {
    let path = Path::new(place);
    if path.is_file() {
        let folder = path.canonicalize()?.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        if RunReader::open(&folder).is_err() {
            bail!("{place} is not a checkpoint in the folder of a run; weights of other files load with --init");
        }
        return Ok(Place::At { folder, checkpoint: Some(load_checkpoint(path)?), chosen: true });
    }
    let (folder, place) = if path.join("run.sqlite").is_file() {
        (path.to_path_buf(), "last")
    } else {
        place.parse::<CheckpointTarget>().with_context(|| format!("--resume {place}: there is no such file or run, and"))?;
        // The newest run of this recipe, whatever of its cadences and budget changed since.
        let same = |folder: &Path| stored_recipe(folder).is_ok_and(|before| check_resumable(&before, resolved, "").is_ok());
        let runs = list_runs(runs_dir).unwrap_or_default();
        let Some(run) = runs.into_iter().find(|run| same(&run.path)) else { return Ok(Place::Nowhere) };
        (run.path, place)
    };
    let info = RunReader::open(&folder)?.info()?;
    if info.state == RunState::Done && info.budget == Some(resolved.trainer.budget.to_string()) && place == "last" {
        return Ok(Place::Finished(folder));
    }
    let checkpoint = read_checkpoint(&folder, place, resolved, true)?;
    Ok(Place::At { folder, checkpoint, chosen: place != "last" || info.state == RunState::Done })
}

/// The checkpoint that `place` names: `last`, `best`, `step:N`, `N`, or a file. `None` when the run died before its first one.
/// A run that is to go on must not be under way.
fn read_checkpoint(folder: &Path, place: &str, resolved: &ResolvedRecipe, goes_on: bool) -> Result<Option<Checkpoint>> {
    let reader = RunReader::open(folder)?;
    let info = reader.info()?;
    if goes_on && let Some(who) = writer_of(folder) {
        bail!(StoreError::Locked { path: folder.to_path_buf(), who });
    }
    if Path::new(place).is_file() {
        return Ok(Some(load_checkpoint(Path::new(place))?));
    }
    let target: CheckpointTarget = place.parse()?;
    match reader.checkpoint_at(target, monitor_of(resolved, &reader.checkpoints()?).as_ref()) {
        Ok((_, checkpoint, damaged)) => {
            for sentence in damaged {
                eprintln!("warning: {sentence}");
            }
            Ok(Some(checkpoint))
        }
        Err(StoreError::NoCheckpoint { .. })
            if target == CheckpointTarget::Last && info.parent.is_none() && reader.checkpoints()?.is_empty() =>
        {
            eprintln!("The run has no checkpoint yet: it begins again.");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
