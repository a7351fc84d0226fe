//! `solstice inspect`: a recipe's step at a stage of the compiler.

use super::assemble;
use crate::cli::{InspectArgs, Stage};
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use anyhow::{Context, Result};
use solstice_engine::{compile, gpu};

/// Prints the stage; returns the exit code. Shapes come from the data set, so it is opened.
pub fn run(args: &InspectArgs) -> Result<i32, Exit> {
    let assembly = assemble(&args.recipe)?;
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let entry = if args.split == "train" { "train_step" } else { "eval_step" };
    let trace = assembly.step(entry, &args.split, &spec).or_exit(exit::USAGE)?;
    let text = if args.stage == Stage::Traced {
        trace.graph.to_string()
    } else {
        let stages = compile(&trace.graph, &assembly.compile_options()).context("the step does not compile").or_exit(exit::FAILED)?;
        match args.stage {
            Stage::Grad => stages.grad.to_string(),
            Stage::Simplified => stages.simplified.to_string(),
            Stage::Fused | Stage::Plan | Stage::Traced => stages.plan.to_string(),
            Stage::Wgsl => gpu::shaders(&stages.plan, &gpu::Sources::built_in())
                .map_err(anyhow::Error::msg)
                .or_exit(exit::FAILED)?
                .into_iter()
                .map(|(label, wgsl)| format!("// ---- {label}\n{wgsl}\n"))
                .collect(),
        }
    };
    // A pager that closes early is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(exit::OK)
}
