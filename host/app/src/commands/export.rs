//! `solstice export RUN[@STEP]`: the weights of a checkpoint as a plain safetensors file, for PyTorch, JAX or another run's `--init`.

use crate::cli::ExportArgs;
use crate::drive::monitor_of;
use crate::launch::stored_recipe;
use crate::outcome::{Exit, OrExit, exit};
use crate::weights::{FileType, write_table};
use anyhow::{Result, anyhow};
use solstice_store::{CheckpointTarget, RunReader, Tensor, find_run, save_tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// State of an averaged copy of the weights is named `shadow.<copy>.<weight>`.
const SHADOW_PREFIX: &str = "shadow.";

/// Writes the file and prints what is in it; returns the exit code. Needs no plugin, so it runs in this process.
pub fn run(args: &ExportArgs) -> Result<i32, Exit> {
    let (run, target) = split_run(&args.run).or_exit(exit::USAGE)?;
    let folder = find_run(&args.runs_dir, run).or_exit(exit::USAGE)?;
    let reader = RunReader::open(&folder).or_exit(exit::FAILED)?;
    let info = reader.info().or_exit(exit::FAILED)?;
    let rows = reader.checkpoints().or_exit(exit::FAILED)?;
    let monitor = stored_recipe(&folder).ok().and_then(|resolved| monitor_of(&resolved, &rows));
    let (_, checkpoint, damaged) = reader.checkpoint_at(target, monitor.as_ref()).or_exit(exit::FAILED)?;
    for sentence in damaged {
        eprintln!("warning: {sentence}");
    }
    let step = checkpoint.info.at.step;
    let tensors =
        select(checkpoint.tensors, args).map_err(|error| error.context(format!("{} at step {step}", info.id))).or_exit(exit::USAGE)?;

    // `format` is what the loaders of other libraries ask for; values are plain either way.
    let mut strings = BTreeMap::from([("format", "pt".to_owned()), ("run", info.id.clone()), ("step", step.to_string())]);
    strings.extend(args.shadow.as_ref().map(|shadow| ("shadow", shadow.clone())));
    let strings = strings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let bytes = save_tensors(&args.output, &strings, &tensors).or_exit(exit::FAILED)?;

    let mut text = String::new();
    let mut rows = vec![["name", "shape", "type", "bytes"].map(str::to_owned)];
    rows.extend(
        tensors
            .iter()
            .map(|tensor| [tensor.name.clone(), shape_text(&tensor.shape), tensor.dtype.tag().to_owned(), tensor.bytes.len().to_string()]),
    );
    write_table(&mut text, &rows).expect("a String takes any text");
    print!("{text}");
    println!("{} tensors of {} at step {step} are in {} ({bytes} bytes)", tensors.len(), info.id, args.output.display());
    Ok(exit::OK)
}

/// `run@step:1200` is a run and a checkpoint of it; without `@` it is the newest one.
fn split_run(text: &str) -> Result<(&str, CheckpointTarget)> {
    match text.rsplit_once('@') {
        // A folder may have the sign in its name.
        Some((run, target)) if !Path::new(text).exists() => Ok((run, target.parse()?)),
        _ => Ok((text, CheckpointTarget::Last)),
    }
}

fn shape_text(shape: &[usize]) -> String {
    format!("[{}]", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
}

/// The tensors that the command asks for, under the names that it asks for, by name.
fn select(mut tensors: Vec<Tensor>, args: &ExportArgs) -> Result<Vec<Tensor>> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if args.all {
        return Ok(tensors);
    }
    let mut selected: Vec<Tensor> = tensors.iter().filter(|tensor| tensor.name.starts_with(&args.prefix)).cloned().collect();
    if selected.is_empty() {
        let known = first_parts(tensors.iter().map(|tensor| tensor.name.as_str()));
        return Err(anyhow!("no tensor begins with `{}`; beginnings there are: {known}", args.prefix));
    }
    if let Some(shadow) = &args.shadow {
        take_shadow(&mut selected, &tensors, shadow)?;
    }
    if args.strip_prefix {
        for tensor in &mut selected {
            tensor.name.drain(..args.prefix.len());
        }
    }
    Ok(selected)
}

/// Replaces each tensor by its averaged copy. A weight that is not averaged, such as a running mean, stays what it is: the file is a whole model.
fn take_shadow(selected: &mut [Tensor], tensors: &[Tensor], shadow: &str) -> Result<()> {
    let copies: BTreeMap<&str, &Tensor> = tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.strip_prefix(SHADOW_PREFIX)?.strip_prefix(shadow)?.strip_prefix('.')?, tensor)))
        .collect();
    let mut is_any = false;
    for tensor in selected.iter_mut() {
        let Some(copy) = copies.get(tensor.name.as_str()) else { continue };
        let (weight, average) = [&*tensor, copy].map(|tensor| FileType { dtype: tensor.dtype, shape: tensor.shape.clone() }).into();
        if weight != average {
            return Err(anyhow!("`{}` is {weight} and its copy in `{shadow}` is {average}: this is no average of it", tensor.name));
        }
        tensor.bytes.clone_from(&copy.bytes);
        is_any = true;
    }
    if is_any {
        return Ok(());
    }
    let known = first_parts(tensors.iter().filter_map(|tensor| tensor.name.strip_prefix(SHADOW_PREFIX)));
    Err(if known.is_empty() {
        anyhow!("the run keeps no averaged copy of its weights, so there is no `{shadow}`")
    } else {
        anyhow!("there is no averaged copy `{shadow}` of these weights; copies there are: {known}")
    })
}

/// What stands before the first dot of each name, once each.
fn first_parts<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let parts: BTreeSet<&str> = names.map(|name| name.split_once('.').map_or(name, |(first, _)| first)).collect();
    Vec::from_iter(parts).join(", ")
}
