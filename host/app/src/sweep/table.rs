//! The results of a sweep: read from the trials' stores at any time, ranked, printed.

use super::halving::{has_reached, rungs};
use super::space::Settings;
use super::trials::{Failure, Observed, Trials};
use super::{Mode, Sweep};
use anyhow::Result;
use serde_json::{Map, Value, json};
use solstice_store::RunState;
use std::path::PathBuf;

/// A trial's line.
#[derive(Clone, Debug)]
pub struct Row {
    /// 1 is the best; `None` without a number to compare, or when it failed.
    pub rank: Option<usize>,
    /// Its number.
    pub trial: usize,
    /// What it changes.
    pub settings: Settings,
    /// How many rungs it has finished; `None` without successive halving.
    pub rungs_done: Option<usize>,
    /// The metric's last value and its step.
    pub last: Option<(f64, u64)>,
    /// The metric's best value and its first step.
    pub best: Option<(f64, u64)>,
    /// `pending`, `failed`, or the run's own state.
    pub state: String,
    /// Steps done.
    pub step: u64,
    /// Steps of its budget.
    pub steps_total: Option<u64>,
    /// Seconds spent.
    pub secs: f64,
    /// Its run's folder.
    pub run: Option<PathBuf>,
    /// Why it failed, and how often it was tried.
    pub failure: Option<Failure>,
}

/// A row for each trial, the best first.
pub fn rows(sweep: &Sweep, trials: &Trials) -> Result<Vec<Row>> {
    let failures = trials.failures()?;
    let mut rows: Vec<Row> = failures
        .into_iter()
        .enumerate()
        .map(|(trial, failure)| row(sweep, trial, &trials.settings[trial], trials.observe(trial), failure))
        .collect();
    rank(&mut rows, sweep.mode);
    Ok(rows)
}

fn row(sweep: &Sweep, trial: usize, settings: &Settings, observed: Option<Observed>, failure: Option<Failure>) -> Row {
    let settings = settings.clone();
    let ladder = sweep.halving.as_ref().map(|halving| rungs(halving).expect("checked when the file was read"));
    let Some(observed) = observed else {
        let state = if failure.is_some() { "failed" } else { "pending" };
        let rungs_done = ladder.map(|_| 0);
        return Row {
            rank: None,
            trial,
            settings,
            rungs_done,
            last: None,
            best: None,
            state: state.into(),
            step: 0,
            steps_total: None,
            secs: 0.0,
            run: None,
            failure,
        };
    };
    let metric = observed.metric(&sweep.metric);
    let is_failed = observed.state == RunState::Failed || (failure.is_some() && !observed.is_done());
    // A run that failed under somebody else's eyes, such as an array job's, has its reason in its store.
    let failure = failure
        .or_else(|| is_failed.then(|| Failure { tries: 1, sentence: observed.reason.clone().unwrap_or_default() }))
        .filter(|_| is_failed);
    Row {
        rank: None,
        trial,
        settings,
        rungs_done: ladder.map(|ladder| ladder.iter().filter(|budget| has_reached(observed.at, **budget)).count()),
        last: metric.and_then(|metric| metric.last.zip(metric.last_step)),
        best: metric.and_then(|metric| if sweep.mode == Mode::Min { metric.min } else { metric.max }),
        state: if is_failed { "failed".into() } else { observed.state.name().into() },
        step: observed.at.step,
        steps_total: observed.steps_total,
        secs: observed.secs,
        run: Some(observed.run),
        failure,
    }
}

/// Sorts and numbers: who came further in successive halving stands before who has the better number; of equals the earlier trial.
fn rank(rows: &mut [Row], mode: Mode) {
    for row in rows.iter_mut() {
        let comparable = row.failure.is_none() && row.last.is_some_and(|(value, _)| !value.is_nan());
        row.rank = comparable.then_some(0);
    }
    rows.sort_by(|a, b| {
        let value = |row: &Row| row.last.map_or(f64::NAN, |(value, _)| value);
        let both = b.rank.is_some().cmp(&a.rank.is_some());
        let further = b.rungs_done.cmp(&a.rungs_done);
        let better = if a.rank.is_some() && b.rank.is_some() { further.then(mode.compare(value(a), value(b))) } else { both };
        better.then(a.trial.cmp(&b.trial))
    });
    let mut place = 0;
    for row in rows.iter_mut().filter(|row| row.rank.is_some()) {
        place += 1;
        row.rank = Some(place);
    }
}

/// One object a line.
pub fn print_json(rows: &[Row], metric: &str) {
    for row in rows {
        let settings: Map<String, Value> = row.settings.iter().map(|(field, value)| (field.clone(), value.clone().into())).collect();
        let pair = |pair: Option<(f64, u64)>| (pair.map(|(value, _)| value), pair.map(|(_, step)| step));
        let ((last, last_step), (best, best_step)) = (pair(row.last), pair(row.best));
        let mut line = json!({
            "rank": row.rank, "trial": row.trial, "settings": settings, "metric": metric, "last": last, "last_step": last_step,
            "best": best, "best_step": best_step, "state": row.state, "step": row.step, "steps_total": row.steps_total, "secs": row.secs,
            "run": row.run,
        });
        let object = line.as_object_mut().expect("written as one above");
        if let Some(rungs_done) = row.rungs_done {
            object.insert("rungs_done".into(), rungs_done.into());
        }
        if let Some(failure) = &row.failure {
            object.insert("reason".into(), failure.sentence.clone().into());
            object.insert("tries".into(), failure.tries.into());
        }
        println!("{line}");
    }
}

/// For people: a table, and below it why trials failed.
pub fn print_text(rows: &[Row], sweep: &Sweep) {
    let mut header = vec!["rank", "trial", "settings", sweep.metric.as_str(), "best (step)", "state", "steps", "secs"];
    if sweep.halving.is_some() {
        header.insert(2, "rungs");
    }
    let mut lines = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let total = row.steps_total.map_or(String::new(), |total| format!("/{total}"));
        let mut line = vec![
            row.rank.map_or("-".into(), |rank| rank.to_string()),
            row.trial.to_string(),
            settings_text(&row.settings),
            row.last.map_or("-".into(), |(value, _)| number(value)),
            row.best.map_or("-".into(), |(value, step)| format!("{} ({step})", number(value))),
            row.state.clone(),
            format!("{}{total}", row.step),
            format!("{:.1}", row.secs),
        ];
        if let Some(rungs_done) = row.rungs_done {
            line.insert(2, rungs_done.to_string());
        }
        lines.push(line);
    }
    print!("{}", columns(&lines));
    for row in rows {
        if let Some(failure) = &row.failure {
            let times = if failure.tries == 1 { "once".into() } else { format!("{} times", failure.tries) };
            println!("trial {} failed (tried {times}): {}", row.trial, failure.sentence);
        }
    }
}

/// `optimizer.lr=0.01 seed=1`.
pub fn settings_text(settings: &Settings) -> String {
    settings.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(" ")
}

/// Four digits behind the point, or four digits at all for a small number.
pub fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-2 { format!("{value:.3e}") } else { format!("{value:.4}") }
}

/// Lines of cells, padded so that columns stand below each other.
pub fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(trial: usize, last: Option<f64>, rungs_done: Option<usize>, failed: bool) -> Row {
        Row {
            rank: None,
            trial,
            settings: vec![],
            rungs_done,
            last: last.map(|value| (value, 10)),
            best: None,
            state: "done".into(),
            step: 10,
            steps_total: None,
            secs: 1.0,
            run: None,
            failure: failed.then(|| Failure { tries: 1, sentence: "no".into() }),
        }
    }

    fn ranked(mut rows: Vec<Row>, mode: Mode) -> Vec<(usize, Option<usize>)> {
        rank(&mut rows, mode);
        rows.iter().map(|row| (row.trial, row.rank)).collect()
    }

    #[test]
    fn the_best_stands_first_and_what_cannot_be_compared_last() {
        let rows = vec![
            with(0, Some(f64::NAN), None, false),
            with(1, Some(0.5), None, false),
            with(2, Some(0.1), None, true),
            with(3, None, None, false),
            with(4, Some(0.2), None, false),
            with(5, Some(0.5), None, false),
        ];
        let unranked = [(0, None), (2, None), (3, None)];
        assert_eq!(ranked(rows.clone(), Mode::Min), [&[(4, Some(1)), (1, Some(2)), (5, Some(3))][..], &unranked].concat());
        assert_eq!(ranked(rows, Mode::Max), [&[(1, Some(1)), (5, Some(2)), (4, Some(3))][..], &unranked].concat());
    }

    #[test]
    fn whoever_trained_longer_in_halving_stands_first() {
        let rows = vec![with(0, Some(0.1), Some(1), false), with(1, Some(0.3), Some(3), false), with(2, Some(0.2), Some(2), false)];
        assert_eq!(ranked(rows, Mode::Min), [(1, Some(1)), (2, Some(2)), (0, Some(3))]);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let cells = |line: &[&str]| line.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        assert_eq!(columns(&[cells(&["a", "long", "x"]), cells(&["bcd", "e", ""])]), "a    long  x\nbcd  e\n");
        assert_eq!((number(0.001_234_5), number(12.345_67), number(0.0)), ("1.234e-3".into(), "12.3457".into(), "0.0000".into()));
    }
}
