//! `solstice cross-validate`: one run per fold, each a child process, and what they say together. Never loads a plugin.

use crate::cli::CrossValidateArgs;
use crate::outcome::{Exit, OrExit, exit, sentence};
use crate::pool::{Next, Pool};
use crate::sweep::short_hash;
use crate::sweep::table::{columns, number};
use crate::sweep::trials::{Failure, Launch, Observed, Trials};
use anyhow::{Context, Result, anyhow};
use serde_json::json;

/// How the metrics of the held-out samples begin: they are an evaluation split of this name.
const HELD_OUT: &str = "fold/";

/// Runs the folds and prints mean and standard deviation; returns the exit code.
pub fn run(args: &CrossValidateArgs) -> i32 {
    cross_validate(args).unwrap_or_else(|Exit { code, error }| {
        eprintln!("error: {}", sentence(&error));
        code
    })
}

fn cross_validate(args: &CrossValidateArgs) -> Result<i32, Exit> {
    let recipe = &args.recipe.recipe;
    let text = std::fs::read(recipe).with_context(|| format!("cannot read the recipe {}", recipe.display())).or_exit(exit::USAGE)?;
    let stem = recipe.file_stem().map_or("recipe".into(), |stem| stem.to_string_lossy().into_owned());
    let (folds, seed) = (args.folds.to_le_bytes(), args.fold_seed.to_le_bytes());
    let mut parts: Vec<&[u8]> = vec![&text, &folds, &seed];
    parts.extend(args.recipe.set.iter().map(|change| change.as_bytes()));
    let folds = Trials {
        folder: args.runs_dir.join(format!("cv-{stem}-{}", short_hash(parts))),
        launch: Launch {
            recipe: recipe.clone(),
            set: args.recipe.set.clone(),
            device: args.recipe.device.clone(),
            data: args.recipe.data.clone(),
        },
        settings: (0..args.folds).map(|index| vec![fold_setting(index, args.folds, args.fold_seed)]).collect(),
        word: "fold",
        digits: 1,
        // All folds are needed: whoever starts again wants the failed one tried again.
        tries_max: None,
    };
    folds.recipe(0, None).or_exit(exit::USAGE)?;
    if !folds.is_prepared()
        && let Some((code, sentence)) = folds.check(0, None, true).or_exit(exit::FAILED)?
    {
        return Err(Exit { code, error: anyhow!(sentence) });
    }
    folds.prepare(&[]).or_exit(exit::FAILED)?;
    let _lock = folds.lock().or_exit(exit::FAILED)?;
    let pool = Pool::new(usize::from(args.workers)).or_exit(exit::FAILED)?;
    eprintln!("{} folds in {}", args.folds, folds.folder.display());
    let all: Vec<usize> = (0..folds.settings.len()).collect();
    let trained = folds.train(&pool, &all, None, |fold, failure, left| {
        match failure {
            Some(failure) => eprintln!("fold {fold} failed; {left} left: {}", failure.sentence),
            None => eprintln!("fold {fold} is done; {left} left"),
        }
        Ok(Next::GoOn)
    });
    trained.or_exit(exit::FAILED)?;
    let observed: Vec<Option<Observed>> = all.iter().map(|fold| folds.observe(*fold)).collect();
    let failures = folds.failures().or_exit(exit::FAILED)?;
    let is_whole = show(&observed, &failures, args.json);
    Ok(pool.interrupted_code().unwrap_or(if is_whole { exit::OK } else { exit::FAILED }))
}

/// What makes a run a fold.
fn fold_setting(index: u32, count: u32, seed: u32) -> (String, String) {
    ("trainer.fold".into(), format!("(index: {index}, count: {count}, seed: {seed})"))
}

/// Prints the metrics of the held-out folds, and names those that are missing; returns whether none is.
fn show(folds: &[Option<Observed>], failures: &[Option<Failure>], json: bool) -> bool {
    let done: Vec<Option<&Observed>> = folds.iter().map(|fold| fold.as_ref().filter(|fold| fold.is_done())).collect();
    let mut names: Vec<&str> = vec![];
    for metric in done.iter().flatten().flat_map(|fold| &fold.metrics) {
        if metric.name.starts_with(HELD_OUT) && !names.contains(&metric.name.as_str()) {
            names.push(&metric.name);
        }
    }
    let mut lines = vec![["metric", "mean", "std"].map(str::to_owned).to_vec()];
    lines[0].extend((0..folds.len()).map(|fold| format!("fold {fold}")));
    for name in names {
        let values: Vec<Option<f64>> = done.iter().map(|fold| (*fold)?.metric(name)?.last).collect();
        let (mean, std) = mean_and_deviation(&values.iter().flatten().copied().collect::<Vec<_>>());
        if json {
            println!("{}", json!({"metric": name, "mean": mean, "std": std, "folds": values}));
        }
        let cell = |value: Option<f64>| value.map_or("-".into(), number);
        let mut line = vec![name.to_owned(), number(mean), cell(std)];
        line.extend(values.into_iter().map(cell));
        lines.push(line);
    }
    if !json {
        print!("{}", columns(&lines));
    }
    for (fold, _) in done.iter().enumerate().filter(|(_, observed)| observed.is_none()) {
        let state = folds[fold].as_ref().map_or("pending", |observed| observed.state.name());
        match (&failures[fold], json) {
            (Some(failure), true) => {
                println!("{}", json!({"fold": fold, "state": "failed", "reason": failure.sentence, "tries": failure.tries}))
            }
            (Some(failure), false) => println!("fold {fold} failed: {}", failure.sentence),
            (None, true) => println!("{}", json!({"fold": fold, "state": state})),
            (None, false) => println!("fold {fold} is not finished: {state}"),
        }
    }
    done.iter().all(Option::is_some)
}

/// Mean, and standard deviation of the values as a sample of all that could have been (`n - 1`); of one value it is not known.
fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_by_hand() {
        // Squares of the distances from 5: 9, 1, 1, 1, 0, 0, 4, 16; their sum 32 over 7.
        let (mean, std) = mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(mean, 5.0);
        assert!((std.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, Some(2f64.sqrt())));
        assert_eq!(mean_and_deviation(&[3.5]), (3.5, None));
    }

    #[test]
    fn a_fold_is_a_setting() {
        assert_eq!(fold_setting(1, 5, 0), ("trainer.fold".into(), "(index: 1, count: 5, seed: 0)".into()));
    }
}
