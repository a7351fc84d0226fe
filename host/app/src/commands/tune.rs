//! `solstice tune`: how a recipe's products run best on this adapter, measured once and kept for later runs.

use super::assemble;
use crate::cli::TuneArgs;
use crate::launch::device_options;
use crate::outcome::{Exit, OrExit, exit};
use anyhow::{Context, Result};
use solstice_engine::device::{DeviceRequest, tune};
use solstice_engine::gpu::{Measured, Sources};
use solstice_engine::{Plan, compile};

/// Measures and prints a line a class of products; returns the exit code. Shapes come from the data set, so it is opened.
pub fn run(args: &TuneArgs) -> Result<i32, Exit> {
    let assembly = assemble(&args.recipe)?;
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let mut entries = vec![("train_step", "train")];
    entries.extend(spec.splits.iter().filter(|split| split.name != "train").map(|split| ("eval_step", split.name.as_str())));
    let mut plans: Vec<Plan> = vec![];
    for (entry, split) in entries {
        let trace = assembly.step(entry, split, &spec).or_exit(exit::USAGE)?;
        plans.push(compile(&trace.graph, &assembly.compile_options()).context("the step does not compile").or_exit(exit::FAILED)?.plan);
    }
    let plans: Vec<&Plan> = plans.iter().collect();
    let request: DeviceRequest = args.recipe.device.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    let mut count = 0;
    let mut report = |measured: &Measured| {
        count += 1;
        if args.json {
            println!("{}", serde_json::to_string(measured).expect("names and numbers are JSON"));
        } else {
            println!(
                "{:8.1} us, was {:8.1}   {} of {} tiles   {}   {}",
                measured.after_secs * 1e6,
                measured.before_secs * 1e6,
                measured.choice,
                measured.candidates,
                measured.class,
                measured.label
            );
        }
    };
    let info = tune(&request, &device_options(&Sources::built_in()), &plans, args.again, &mut report).or_exit(exit::FAILED)?;
    if !args.json {
        println!("{count} classes of products measured on {}; kept there: {}", info.name, info.tuning);
    }
    Ok(exit::OK)
}
