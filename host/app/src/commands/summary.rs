//! `solstice summary`: the model's table before training. It opens the data for its shapes, and no device.

use super::assemble;
use crate::assemble::{Assembly, with_resident_tables};
use crate::cli::SummaryArgs;
use crate::data::SplitData;
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::summary::{self, Step, components, summarise};
use crate::train::{evaluation_splits, is_resident};
use anyhow::Result;
use solstice_engine::{Plan, compile};
use solstice_ir::Graph;
use solstice_plugin_abi::wire::DatasetSpec;

/// Prints the table or its JSON; returns the exit code.
pub fn run(args: &SummaryArgs) -> Result<i32, Exit> {
    let assembly = assemble(&args.recipe)?;
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let mut programs = vec![compiled(&assembly, &spec, "train_step", "train").or_exit(exit::USAGE)?];
    for split in evaluation_splits(&assembly.resolved.trainer, &spec) {
        programs.push(compiled(&assembly, &spec, "eval_step", &split).or_exit(exit::USAGE)?);
    }
    let forward = match programs.get(1) {
        Some((_, graph, _)) => graph.clone(),
        None => assembly.step("eval_step", "train", &spec).or_exit(exit::USAGE)?.graph,
    };
    let steps: Vec<Step> = programs.iter().map(|(name, graph, plan)| Step { name, graph, plan }).collect();
    let summary = summarise(&steps, &forward, &components(&assembly), assembly.resolved.trainer.batch_size);
    let text = if args.json {
        serde_json::to_string(&summary).map_err(anyhow::Error::from).or_exit(exit::FAILED)? + "\n"
    } else {
        summary::table(&summary)
    };
    // A pager that closes early is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(exit::OK)
}

/// A split's step as the experiment traced it, and its plan as `train` would load it.
fn compiled(assembly: &Assembly, spec: &DatasetSpec, entry: &str, split: &str) -> Result<(String, Graph, Plan)> {
    let trainer = &assembly.resolved.trainer;
    let data = SplitData::new(assembly.dataset.clone(), spec, split, trainer.fold)?;
    let graph = assembly.step(entry, split, spec)?.graph;
    let rewritten =
        is_resident(trainer, spec, &data).then(|| with_resident_tables(&graph, &data.source, data.source_len, trainer.batch_size));
    let plan = compile(rewritten.as_ref().unwrap_or(&graph), &assembly.compile_options())?.plan;
    Ok((split.to_owned(), graph, plan))
}
