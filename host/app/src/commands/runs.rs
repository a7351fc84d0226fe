//! `solstice runs`: a line for each run of a folder.

use crate::cli::RunsArgs;
use crate::outcome::exit;
use crate::sweep::trials::LEDGER_FILE;
use anyhow::Result;
use serde_json::json;
use solstice_store::RunReader;

/// Lists the runs, newest first; returns the exit code.
pub fn run(args: &RunsArgs) -> Result<i32> {
    let runs = solstice_store::list_runs(&args.runs_dir)?;
    if runs.is_empty() && !args.json {
        println!("There are no runs in {}. Start one with `solstice train RECIPE`.", args.runs_dir.display());
    }
    for run in runs {
        match (run.contents, args.json) {
            (Ok(contents), true) => {
                let info = &contents.info;
                let metrics: serde_json::Map<String, serde_json::Value> =
                    contents.metrics.iter().map(|metric| (metric.name.clone(), json!(metric.last))).collect();
                let events = RunReader::open(&run.path).and_then(|reader| reader.events_since(0)).unwrap_or_default();
                let events: Vec<serde_json::Value> = events
                    .iter()
                    .map(|event| {
                        json!({"time": event.time, "step": event.step, "kind": event.kind, "who": event.who, "message": event.message,
                            "old": event.old, "new": event.new})
                    })
                    .collect();
                println!(
                    "{}",
                    json!({"id": run.id, "name": info.name, "state": info.state.name(), "reason": info.state_reason, "step": info.at.step,
                        "steps_total": info.steps_total, "parent": info.parent, "created": info.created, "metrics": metrics, "events": events})
                );
            }
            (Ok(contents), false) => {
                let info = &contents.info;
                let total = info.steps_total.map_or(String::new(), |total| format!("/{total}"));
                let shown: Vec<String> = contents
                    .metrics
                    .iter()
                    .filter(|metric| {
                        !metric.name.starts_with("train/")
                            && (metric.name.ends_with("/loss") || metric.name.ends_with("/accuracy") || metric.name.ends_with("/r2"))
                    })
                    .filter_map(|metric| Some(format!("{} {:.4}", metric.name, metric.last?)))
                    .collect();
                let reason = info.state_reason.as_ref().filter(|_| info.state == solstice_store::RunState::Failed);
                let parent = info.parent.as_ref().map_or(String::new(), |parent| format!("  fork of {}@{}", parent.id, parent.step));
                println!(
                    "{:<44} {:<8} step {}{total}  {}{parent}{}",
                    run.id,
                    info.state.name(),
                    info.at.step,
                    shown.join("  "),
                    reason.map_or(String::new(), |reason| format!("  {reason}"))
                );
            }
            // The folder of a sweep or a cross-validation holds runs folders, and is no run.
            (Err(_), _) if run.path.join(LEDGER_FILE).is_file() => {
                if !args.json {
                    println!("{:<44} trials; `solstice runs` on a folder in it lists a trial's run", run.id);
                }
            }
            (Err(problem), true) => println!("{}", json!({"id": run.id, "problem": problem})),
            (Err(problem), false) => println!("{:<44} unreadable: {problem}", run.id),
        }
    }
    Ok(exit::OK)
}
