//! `solstice check`: everything that can be wrong with a recipe, found in seconds.

use super::{assemble, check_json};
use crate::cli::CheckArgs;
use crate::launch::open_device;
use crate::outcome::exit;
use crate::outcome::{Exit, OrExit};
use crate::train::{Begin, Run, Stopwatch};
use anyhow::{Context, Result};
use solstice_engine::gpu::Sources;
use solstice_engine::{Session, compile, gpu};

/// Checks part by part and prints a line for each; returns the exit code.
pub fn run(args: &CheckArgs) -> Result<i32, Exit> {
    if args.json {
        return check_json::run(args);
    }
    let assembly = assemble(&args.recipe)?;
    let parts: Vec<String> = assembly.resolved.components.iter().map(|(slot, component)| format!("{slot} {}", component.id)).collect();
    println!("ok  plugins and settings   {}", parts.join(", "));
    if args.settings_only {
        return Ok(exit::OK);
    }
    let spec = assembly.open_data().or_exit(exit::DATA_MISSING)?;
    let splits: Vec<String> = spec.splits.iter().map(|split| format!("{} {}", split.name, split.len)).collect();
    let fields: Vec<String> = spec.fields.iter().map(|field| format!("{} {}{:?}", field.name, field.dtype, field.shape)).collect();
    println!("ok  data                   {}; {}", splits.join(", "), fields.join(", "));
    let mut entries = vec![("train_step", "train")];
    entries.extend(spec.splits.iter().filter(|split| split.name != "train").map(|split| ("eval_step", split.name.as_str())));
    for (entry, split) in entries {
        let trace = assembly.step(entry, split, &spec).or_exit(exit::USAGE)?;
        let plan = compile(&trace.graph, &assembly.compile_options()).or_exit(exit::FAILED)?.plan;
        let shaders = gpu::shaders(&plan, &gpu::Sources::built_in()).map_err(anyhow::Error::msg).or_exit(exit::FAILED)?;
        for (label, wgsl) in &shaders {
            gpu::validate(wgsl)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("the shader of `{label}` is not valid WGSL"))
                .or_exit(exit::FAILED)?;
        }
        println!(
            "ok  {entry:<10} {split:<10}  {} nodes, {} kernels, {} shaders valid",
            trace.graph.nodes.len(),
            plan.kernels.len(),
            shaders.len()
        );
    }
    let (runtime, info) = open_device(&args.recipe.device, &Sources::built_in())?;
    let start = Run::start(&assembly, &spec, Session::new(runtime), Begin::default(), &mut Stopwatch::start());
    let (mut run, _) = start.or_exit(exit::FAILED)?;
    let mut losses = vec![];
    for _ in 0..2 {
        run.train_step().or_exit(exit::FAILED)?;
        let report = run.report().or_exit(exit::FAILED)?;
        let value = |name: &str| report.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
        if value("train/nonfinite").is_some_and(|count| count > 0.0) {
            return Err(anyhow::anyhow!("the loss or a gradient of step {} is not finite", run.step)).or_exit(exit::DIVERGED);
        }
        losses.extend(value("train/loss").map(|loss| format!("{loss:.4}")));
    }
    println!("ok  two steps on {}   {} weights, loss {}", info.name, run.param_count(), losses.join(", "));
    Ok(exit::OK)
}
