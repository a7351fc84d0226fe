//! What the lists, the table and the sweep need to know of each run, worked out once a change of the run and not once a frame. Draws nothing.

use super::super::detail::flat;
use super::super::runs::progress_text;
use super::super::{is_over, run_name, state};
use super::filter::Filter;
use crate::data::{Run, Snapshot};
use solstice_store::{MetricKind, RunState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// Last, least and greatest value of a scalar.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values {
    /// The newest.
    pub last: Option<f64>,
    /// The least that is not NaN.
    pub min: Option<f64>,
    /// The greatest that is not NaN.
    pub max: Option<f64>,
}

impl Values {
    /// The best: the greatest, or the least.
    pub fn best(&self, is_greatest: bool) -> Option<f64> {
        if is_greatest { self.max } else { self.min }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The run as it was when this was worked out.
    pub run: Arc<Run>,
    /// Its name on screen.
    pub name: String,
    /// What a word of a filter is looked for in: lower case.
    pub text: String,
    /// Settings by dotted key. Shared between the versions of a run.
    pub settings: Arc<BTreeMap<String, String>>,
    /// Scalars by name.
    pub metrics: BTreeMap<String, Values>,
    /// Marks of people.
    pub tags: Vec<String>,
    /// A mark of people.
    pub note: String,
    /// Kept at the top.
    pub is_pinned: bool,
    /// Put away.
    pub is_archived: bool,
}

impl Facts {
    fn new(run: &Arc<Run>, old: Option<&Arc<Facts>>) -> Facts {
        let info = run.info.as_deref();
        let is_same = |old: &&Arc<Facts>| old.run.info.as_ref().map(|info| &info.config) == info.map(|info| &info.config);
        let settings = match old.filter(is_same) {
            Some(old) => old.settings.clone(),
            None => Arc::new(info.map(|info| flat(&info.config)).unwrap_or_default()),
        };
        let label = |key: &str| info.and_then(|info| info.labels.get(key)).map_or("", String::as_str);
        let is_set = |key: &str| !matches!(label(key), "" | "0" | "false" | "no");
        let name = run_name(run);
        let group = run.group.as_deref().unwrap_or_default();
        let text = format!("{} {name} {} {group} {} {}", run.id, state(run), label("tags"), label("note")).to_lowercase();
        let metrics = run.metrics.iter().filter(|metric| metric.kind == MetricKind::Scalar).map(|metric| {
            let value = |pair: Option<(f64, u64)>| pair.map(|(value, _)| value);
            (metric.name.clone(), Values { last: metric.last, min: value(metric.min), max: value(metric.max) })
        });
        Facts {
            metrics: metrics.collect(),
            tags: tags(label("tags")),
            note: label("note").to_owned(),
            is_pinned: is_set("pinned"),
            is_archived: is_set("archived"),
            run: run.clone(),
            name,
            text,
            settings,
        }
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.run.id
    }

    /// When it was created; 0 for one that could not be read yet.
    pub fn created(&self) -> f64 {
        self.run.info.as_ref().map_or(0.0, |info| info.created)
    }

    /// What it is doing, and of a failed run the sentence.
    pub fn state_text(&self) -> String {
        let info = self.run.info.as_deref();
        let reason = info.and_then(|info| info.state_reason.clone()).or_else(|| self.run.problem.clone());
        match (state(&self.run), reason) {
            (state, Some(reason)) if state == RunState::Failed || self.run.problem.is_some() => format!("{state}: {reason}"),
            (state, _) => state.to_string(),
        }
    }

    /// How far it is, in words.
    pub fn progress_text(&self) -> String {
        progress_text(&self.run)
    }

    /// No process works on it.
    pub fn is_over(&self) -> bool {
        is_over(&self.run)
    }
}

/// The tags in a label: words between commas.
pub fn tags(label: &str) -> Vec<String> {
    label.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Whether the greatest value of a metric of this name is the best one, as for accuracies; of losses, and of what is not known, the least is.
pub fn is_greatest_best(metric: &str) -> bool {
    const GREATEST: [&str; 24] = [
        "acc",
        "accuracy",
        "auc",
        "auroc",
        "ap",
        "map",
        "f1",
        "precision",
        "recall",
        "score",
        "r2",
        "iou",
        "dice",
        "bleu",
        "rouge",
        "psnr",
        "ssim",
        "reward",
        "return",
        "correct",
        "hits",
        "top1",
        "top5",
        "likelihood",
    ];
    let name = metric.to_lowercase();
    let is_loss = ["loss", "error", "nll", "negative"].iter().any(|word| name.contains(word));
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    !is_loss && (name.contains("per_sec") || words().any(|word| GREATEST.contains(&word)))
}

/// Every run's facts.
#[derive(Debug, Default)]
pub struct Book {
    /// In the order of the snapshot.
    pub runs: Vec<Arc<Facts>>,
    /// Grows when anything in `runs` changed.
    pub generation: u64,
    seen: Option<Arc<Snapshot>>,
    lists: Vec<((u64, String, bool), Arc<Vec<Arc<Facts>>>)>,
}

impl Book {
    /// Takes up a snapshot; what has not changed is not looked at again.
    pub fn update(&mut self, snapshot: &Arc<Snapshot>) {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, snapshot)) {
            return;
        }
        self.seen = Some(snapshot.clone());
        let old: HashMap<PathBuf, Arc<Facts>> = self.runs.drain(..).map(|facts| (facts.run.path.clone(), facts)).collect();
        let mut is_changed = old.len() != snapshot.runs.len();
        for run in &snapshot.runs {
            let known = old.get(&run.path);
            match known.filter(|known| Arc::ptr_eq(&known.run, run)) {
                Some(known) => self.runs.push(known.clone()),
                None => {
                    is_changed = true;
                    self.runs.push(Arc::new(Facts::new(run, known)));
                }
            }
        }
        self.generation += u64::from(is_changed);
    }

    /// The runs that a filter leaves, newest first; `archived`: also those that were put away.
    pub fn listed(&mut self, filter: &str, archived: bool) -> Arc<Vec<Arc<Facts>>> {
        let key = (self.generation, filter.to_owned(), archived);
        if let Some((_, list)) = self.lists.iter().find(|(known, _)| *known == key) {
            return list.clone();
        }
        let parsed = Filter::parse(filter);
        let is_listed = |facts: &&Arc<Facts>| (archived || !facts.is_archived) && parsed.matches(facts);
        let mut list: Vec<Arc<Facts>> = self.runs.iter().filter(is_listed).cloned().collect();
        // The snapshot's order is that of the folders' names, which know minutes only. Runs that could not be read yet have no time: they go last.
        list.sort_by(|a, b| b.created().total_cmp(&a.created()));
        let list = Arc::new(list);
        self.lists.retain(|(known, _)| known.0 == self.generation);
        self.lists.truncate(3);
        self.lists.push((key, list.clone()));
        list
    }

    /// The run of this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Facts>> {
        self.runs.iter().find(|facts| facts.id() == id)
    }

    /// How many runs are put away.
    pub fn archived_count(&self) -> usize {
        self.runs.iter().filter(|facts| facts.is_archived).count()
    }
}

/// Keys whose values are not the same in all runs that could be read, in order.
pub fn differing(runs: &[Arc<Facts>]) -> Vec<String> {
    let read: Vec<&Arc<Facts>> = runs.iter().filter(|facts| facts.run.info.is_some()).collect();
    let Some(first) = read.first() else { return Vec::new() };
    let mut differing = BTreeSet::new();
    for other in &read[1..] {
        if Arc::ptr_eq(&first.settings, &other.settings) {
            continue;
        }
        for (key, value) in first.settings.iter() {
            if other.settings.get(key) != Some(value) && !differing.contains(key) {
                differing.insert(key.clone());
            }
        }
        for key in other.settings.keys() {
            if !first.settings.contains_key(key) && !differing.contains(key) {
                differing.insert(key.clone());
            }
        }
    }
    differing.into_iter().collect()
}

/// Names of all scalars of these runs: those that tell how a run does come first, and of these those that most runs have.
pub fn metric_names(runs: &[Arc<Facts>]) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    runs.iter().flat_map(|facts| facts.metrics.keys()).for_each(|name| *counts.entry(name).or_default() += 1);
    let most = counts.values().copied().max().unwrap_or(0);
    let mut names: Vec<(&String, usize)> = counts.into_iter().collect();
    // What few runs have compares few.
    names.sort_by_key(|(name, count)| (!is_result(name), 2 * count < most, metric_rank(name)));
    names.into_iter().map(|(name, _)| name.clone()).collect()
}

// Held-out before training data, accuracies and losses before all else.
fn metric_rank(name: &str) -> usize {
    let held_out = ["test/", "val/", "valid/", "eval/"].iter().any(|part| name.starts_with(part));
    let last = name.rsplit('/').next().unwrap_or(name);
    let what = match last {
        "accuracy" => 0,
        "loss" => 1,
        _ if is_greatest_best(name) && !name.contains("per_sec") => 2,
        _ if last.contains("loss") || last.contains("error") => 2,
        _ => 8,
    };
    what + if held_out { 0 } else { 4 }
}

/// Metrics that tell how a run does, of [`metric_names`]: not learning rates and speeds.
pub fn is_result(name: &str) -> bool {
    metric_rank(name) < 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_derived_from_the_name() {
        for name in ["test/accuracy", "val/top1", "f1", "val/mean_iou", "train/samples_per_sec", "eval/F1-score"] {
            assert!(is_greatest_best(name), "{name}");
        }
        for name in ["train/loss", "val/perplexity", "test/error", "accuracy_loss", "train/lr", "val/cap"] {
            assert!(!is_greatest_best(name), "{name}");
        }
        assert!(is_result("test/loss") && is_result("train/accuracy") && !is_result("train/lr") && !is_result("train/samples_per_sec"));
    }

    #[test]
    fn tags_stand_between_commas() {
        assert_eq!(tags("good, to do ,,x"), ["good", "to do", "x"]);
        assert!(tags("").is_empty());
    }
}
