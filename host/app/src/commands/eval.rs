//! `solstice eval RUN`: the last good checkpoint of a run, measured on its evaluation splits.

use super::catalog;
use crate::assemble::Assembly;
use crate::cli::EvalArgs;
use crate::drive::state_type;
use crate::launch::open_device;
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::recipe::Recipe;
use crate::train::{Begin, Run, Stopwatch};
use solstice_engine::Session;
use solstice_engine::gpu::Sources;
use solstice_store::{RunReader, find_run};

/// Evaluates and prints the metrics; returns the exit code.
pub fn run(args: &EvalArgs) -> Result<i32, Exit> {
    let folder = find_run(&args.runs_dir, &args.run).or_exit(exit::USAGE)?;
    let recipe = Recipe::from_file(&folder.join("recipe.ron")).or_exit(exit::FAILED)?;
    let (_, checkpoint, damaged) = RunReader::open(&folder).and_then(|reader| reader.latest_good()).or_exit(exit::FAILED)?;
    for sentence in damaged {
        eprintln!("warning: {sentence}");
    }
    let step = checkpoint.info.at.step;
    let assembly = catalog(&args.data).and_then(|catalog| Assembly::new(&recipe, &catalog)).or_exit(exit::FAILED)?;
    let (runtime, _) = open_device(&args.device, &Sources::built_in())?;
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let tensors = checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), state_type(tensor), tensor.bytes.clone())).collect();
    let begin = Begin { step, tensors, partial: args.partial, ..Begin::default() };
    let (mut run, _) = Run::start(&assembly, &spec, Session::new(runtime), begin, &mut Stopwatch::start()).or_exit(exit::FAILED)?;
    let splits = run.evaluated_splits();
    let metrics = run.evaluate(&splits, None, &mut || false).or_exit(exit::FAILED)?.scalars;
    if args.json {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        line.extend(metrics.into_iter().map(|(name, value)| (name, value.into())));
        println!("{}", serde_json::Value::Object(line));
    } else {
        println!("{} at step {}", folder.display(), step);
        for (name, value) in metrics {
            println!("  {name:<24} {value:.6}");
        }
    }
    Ok(exit::OK)
}
