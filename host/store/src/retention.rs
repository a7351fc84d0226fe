//! Which checkpoints a run keeps, which one is the best, and how a person names one. Functions over rows of the index: nothing here touches a file.
//!
//! Who deletes: the caller, with [`RunWriter::remove_checkpoint`](crate::RunWriter::remove_checkpoint). Who reads the one that was named:
//! [`RunReader::checkpoint_at`](crate::RunReader::checkpoint_at).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::rows::CheckpointRow;

/// The reason of checkpoints that a cadence keeps for ever.
pub const EVERY: &str = "every";

/// Which way a metric gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MonitorMode {
    /// Lower is better: a loss.
    Min,
    /// Higher is better: an accuracy.
    Max,
}

/// The metric by which checkpoints are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// Name as logged: `val/loss`.
    pub metric: String,
    /// Which way is better.
    pub mode: MonitorMode,
}

/// What a run keeps. A checkpoint is let go only if no rule keeps it; those that are pinned or saved for the reason [`EVERY`] always stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How many of the newest to keep; the newest one stays even with 0.
    pub last: usize,
    /// How many of the best by `monitor` to keep.
    pub best: usize,
    /// What `best` means; without it `best` keeps nothing.
    pub monitor: Option<Monitor>,
}

/// Which checkpoints a policy lets go of, oldest first.
///
/// Rows may come in any order. An abandoned one (left behind by a resume from an earlier step) counts for no rule and goes unless it is pinned.
pub fn expendable<'a>(rows: &'a [CheckpointRow], policy: &Retention) -> Vec<&'a CheckpointRow> {
    let mut by_age: Vec<&CheckpointRow> = rows.iter().collect();
    by_age.sort_by(|a, b| a.at.step.cmp(&b.at.step).then_with(|| a.time.total_cmp(&b.time)));
    let good = || by_age.iter().copied().filter(|row| !row.abandoned);
    // A file names a checkpoint.
    let mut kept: BTreeSet<&str> = rows.iter().filter(|row| row.pinned).map(|row| row.file.as_str()).collect();
    kept.extend(good().filter(|row| row.reason == EVERY).map(|row| row.file.as_str()));
    kept.extend(good().rev().take(policy.last.max(1)).map(|row| row.file.as_str()));
    if let Some(monitor) = &policy.monitor {
        kept.extend(ranked(rows, monitor).into_iter().take(policy.best).map(|row| row.file.as_str()));
    }
    by_age.retain(|row| !kept.contains(row.file.as_str()));
    by_age
}

/// The best checkpoint by a metric, the earliest of equals; `None` when no row that is not abandoned has a finite value of it.
pub fn best<'a>(rows: &'a [CheckpointRow], monitor: &Monitor) -> Option<&'a CheckpointRow> {
    ranked(rows, monitor).into_iter().next()
}

/// Rows with a finite value of the metric, the best first and of equals the earliest; abandoned ones are left out.
pub(crate) fn ranked<'a>(rows: &'a [CheckpointRow], monitor: &Monitor) -> Vec<&'a CheckpointRow> {
    let mut valued: Vec<(f64, &CheckpointRow)> = rows
        .iter()
        .filter(|row| !row.abandoned)
        .filter_map(|row| Some((*row.metrics.get(&monitor.metric)?, row)))
        .filter(|(value, _)| value.is_finite())
        // -0.0 + 0.0 is 0.0: the two zeros are one value.
        .map(|(value, row)| (if monitor.mode == MonitorMode::Max { -value + 0.0 } else { value + 0.0 }, row))
        .collect();
    valued.sort_by(|(a, a_row), (b, b_row)| a.total_cmp(b).then_with(|| a_row.at.step.cmp(&b_row.at.step)));
    valued.into_iter().map(|(_, row)| row).collect()
}

/// The checkpoint that a person means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckpointTarget {
    /// The newest whole one.
    #[default]
    Last,
    /// The best whole one by the monitored metric.
    Best,
    /// The one of this step.
    Step(u64),
}

impl fmt::Display for CheckpointTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointTarget::Last => f.write_str("last"),
            CheckpointTarget::Best => f.write_str("best"),
            CheckpointTarget::Step(step) => write!(f, "step:{step}"),
        }
    }
}

impl FromStr for CheckpointTarget {
    type Err = StoreError;

    /// `last`, `best`, `step:1200`; the bare number of a step is one too.
    fn from_str(text: &str) -> Result<CheckpointTarget, StoreError> {
        match text {
            "last" => Ok(CheckpointTarget::Last),
            "best" => Ok(CheckpointTarget::Best),
            _ => text
                .strip_prefix("step:")
                .unwrap_or(text)
                .parse()
                .map(CheckpointTarget::Step)
                .map_err(|_| StoreError::NotATarget { text: text.to_string() }),
        }
    }
}

/// Why there is no checkpoint at `step`, with the nearest steps that have one. `steps` ascend.
pub(crate) fn no_such_step(step: u64, steps: &[u64]) -> String {
    let below = steps.iter().rev().find(|&&known| known < step);
    let above = steps.iter().find(|&&known| known > step);
    let nearest = match (below, above) {
        (Some(below), Some(above)) => format!("the nearest are {below} and {above}"),
        (Some(only), None) | (None, Some(only)) => format!("the nearest is {only}"),
        (None, None) => "none was saved yet".to_string(),
    };
    format!("the run has no checkpoint at step {step}; {nearest}")
}
