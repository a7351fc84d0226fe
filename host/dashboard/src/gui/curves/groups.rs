//! Runs put together: by their sweep, their recipe or one setting, and the mean and deviation of each group along x.

use super::super::axis::Axis;
use super::super::detail::flat;
use crate::data::{Column, Run};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What the runs of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupBy {
    /// Nothing: one group of all.
    All,
    /// The sweep or cross-validation.
    Sweep,
    /// The recipe's name.
    Recipe,
    /// The value of a setting, by its dotted key.
    Setting(String),
}

impl GroupBy {
    /// The word on screen.
    pub fn name(&self) -> &str {
        match self {
            GroupBy::All => "All runs",
            GroupBy::Sweep => "Sweep",
            GroupBy::Recipe => "Recipe",
            GroupBy::Setting(key) => key,
        }
    }
}

/// The shown runs in groups.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    /// What they could be grouped by: only what tells them apart.
    pub choices: Vec<GroupBy>,
    /// What they are grouped by.
    pub by: Option<GroupBy>,
    /// Names of the groups, in order.
    pub names: Vec<String>,
    /// The group of each run, by its id.
    pub group_of: HashMap<String, usize>,
}

/// The grouping of the last frame: settings are walked through only when the shown runs change.
#[derive(Debug, Default)]
pub struct GroupCache {
    known: Option<(u64, Arc<Grouping>)>,
}

impl GroupCache {
    /// The groups of `runs`; by what seems best where `by` is not said or tells nothing apart any more.
    pub fn grouping(&mut self, runs: &[&Arc<Run>], by: Option<&GroupBy>) -> Arc<Grouping> {
        let mut hasher = DefaultHasher::new();
        by.map(GroupBy::name).hash(&mut hasher);
        for run in runs {
            (&run.id, &run.group, run.info.as_ref().map(|info| info.created.to_bits())).hash(&mut hasher);
        }
        let key = hasher.finish();
        match &self.known {
            Some((known, grouping)) if *known == key => grouping.clone(),
            _ => {
                let made = Arc::new(grouping(runs, by));
                self.known = Some((key, made.clone()));
                made
            }
        }
    }
}

fn grouping(runs: &[&Arc<Run>], by: Option<&GroupBy>) -> Grouping {
    let settings: Vec<BTreeMap<String, String>> =
        runs.iter().map(|run| run.info.as_ref().map(|info| flat(&info.config)).unwrap_or_default()).collect();
    let recipes: BTreeSet<&str> = runs.iter().filter_map(|run| run.info.as_ref()).map(|info| info.name.as_str()).collect();
    let keys: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
    let differs = |key: &&String| settings.iter().map(|settings| settings.get(*key)).collect::<BTreeSet<_>>().len() > 1;

    let mut choices = vec![GroupBy::All];
    choices.extend(runs.iter().any(|run| run.group.is_some()).then_some(GroupBy::Sweep));
    choices.extend((recipes.len() > 1).then_some(GroupBy::Recipe));
    choices.extend(keys.into_iter().filter(differs).map(|key| GroupBy::Setting(key.clone())));

    let name_of = |index: usize, by: &GroupBy| match by {
        GroupBy::All => "all runs".to_owned(),
        GroupBy::Sweep => runs[index].group.clone().unwrap_or_else(|| "no sweep".into()),
        GroupBy::Recipe => runs[index].info.as_ref().map_or(String::new(), |info| info.name.clone()),
        GroupBy::Setting(key) => format!("{key} {}", settings[index].get(key).map_or("-", String::as_str)),
    };
    // A setting that some runs share says more than all runs as one; one that none share groups nothing.
    let is_shared = |by: &GroupBy| {
        let names: BTreeSet<String> = (0..runs.len()).map(|index| name_of(index, by)).collect();
        names.len() > 1 && names.len() < runs.len()
    };
    let best = || choices.iter().find(|by| is_shared(by)).unwrap_or(&GroupBy::All);
    let by = by.filter(|by| choices.contains(by)).unwrap_or_else(best).clone();

    let names_of: Vec<String> = (0..runs.len()).map(|index| name_of(index, &by)).collect();
    let mut names = names_of.clone();
    names.sort_by(|a, b| by_number(a, b));
    names.dedup();
    let group_of =
        runs.iter().zip(&names_of).filter_map(|(run, name)| Some((run.id.clone(), names.iter().position(|known| known == name)?)));
    Grouping { group_of: group_of.collect(), by: Some(by), choices, names }
}

// `lr 0.05` before `lr 0.1` before `lr 1e1`.
fn by_number(a: &str, b: &str) -> std::cmp::Ordering {
    let number = |text: &str| text.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
    match (number(a), number(b)) {
        (Some(one), Some(other)) => one.total_cmp(&other).then_with(|| a.cmp(b)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// The mean of a group at one x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanPoint {
    /// Where.
    pub x: f64,
    /// Mean over the runs that have a value there.
    pub mean: f64,
    /// Standard deviation over them, with one less than their count below the fraction; 0 of one run.
    pub deviation: f64,
    /// How many.
    pub count: usize,
}

/// Mean and deviation over the curves of a group in the middle of each pixel column of `axis`. A curve counts from its first to its last column,
/// with a straight line between columns, so that runs that log at other steps, or have ended, do not pull the mean about.
///
/// Cost: columns times runs.
pub fn means(curves: &[Arc<Vec<Column>>], axis: &Axis, value: impl Fn(&Column) -> f64) -> Vec<MeanPoint> {
    let count = (axis.end - axis.start).max(1.0) as usize;
    let edges = axis.edges(count);
    // Sum, then sum of squares about the first value: curves of a group are close together.
    let mut sums = vec![(0usize, 0.0f64, 0.0f64, 0.0f64); count];
    for curve in curves {
        let mut points = curve.iter().map(|column| (column.x, value(column))).filter(|(_, value)| value.is_finite());
        let Some(mut left) = points.next() else { continue };
        let mut right = points.next();
        for (index, pair) in edges.windows(2).enumerate() {
            let middle = pair[0] + (pair[1] - pair[0]) / 2.0;
            while let Some(next) = right.filter(|next| next.0 <= middle) {
                left = next;
                right = points.next();
            }
            // The ends of a curve reach to the ends of their column.
            let at = match right {
                Some(next) if middle >= left.0 => left.1 + (next.1 - left.1) * ((middle - left.0) / (next.0 - left.0)),
                _ if left.0 >= pair[0] && (left.0 < pair[1] || (left.0 == pair[1] && index + 1 == count)) => left.1,
                _ => continue,
            };
            let (number, first, sum, squares) = &mut sums[index];
            if *number == 0 {
                *first = at;
            }
            *number += 1;
            *sum += at - *first;
            *squares += (at - *first).powi(2);
        }
    }
    let middles = edges.windows(2).map(|pair| pair[0] + (pair[1] - pair[0]) / 2.0);
    let point = |(x, (count, first, sum, squares)): (f64, (usize, f64, f64, f64))| {
        let number = count as f64;
        let variance = if count > 1 { ((squares - sum * sum / number) / (number - 1.0)).max(0.0) } else { 0.0 };
        (count > 0).then(|| MeanPoint { x, mean: first + sum / number, deviation: variance.sqrt(), count })
    };
    middles.zip(sums).filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::axis::Scale;
    use super::*;
    use crate::data::{Series, XAxis};
    use solstice_store::{At, Scalar};

    fn curve(points: &[(u64, f64)], axis: &Axis) -> Arc<Vec<Column>> {
        let mut series = Series::new(0.0);
        for (step, value) in points {
            let at = At { step: *step, epoch: 0.0, samples: 0 };
            series.push(&Scalar { id: 0, metric_id: 1, at, time: 0.0, value: *value });
        }
        Arc::new(series.view_edges(XAxis::Step, &axis.edges(10), 0.0, crate::data::Detail::Exact))
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        // Ten columns of 0..10: middles at 0.5, 1.5, ...
        let axis = Axis { scale: Scale::Linear, low: 0.0, high: 10.0, start: 0.0, end: 10.0 };
        let rising = curve(&[(0, 0.0), (10, 10.0)], &axis); // x itself
        let flat = curve(&[(0, 3.0), (5, 3.0)], &axis); // ends at 5
        let falling = curve(&[(0, 10.0), (10, 0.0)], &axis); // 10 - x
        let means = means(&[rising, flat, falling], &axis, |column| column.mean);
        assert_eq!(means.len(), 10);
        // At 2.5: 2.5, 3 and 7.5. Mean 13/3; deviations -11/6, -8/6, 19/6; squares (121 + 64 + 361) / 36 = 546/36; over 2, root.
        let at = means[2];
        assert_eq!((at.x, at.count), (2.5, 3));
        assert!((at.mean - 13.0 / 3.0).abs() < 1e-12 && (at.deviation - (546.0f64 / 72.0).sqrt()).abs() < 1e-12, "{at:?}");
        // At 8.5 the flat one is over: 8.5 and 1.5. Mean 5; deviation 3.5 * root of 2.
        let at = means[8];
        assert_eq!((at.x, at.mean, at.count), (8.5, 5.0, 2));
        assert!((at.deviation - 3.5 * 2.0f64.sqrt()).abs() < 1e-12, "{at:?}");
        // The column in which it ends still has it.
        assert_eq!((means[5].count, means[6].count), (3, 2));
    }

    #[test]
    fn one_run_has_no_deviation_and_a_single_point_is_a_mean_too() {
        let axis = Axis { scale: Scale::Linear, low: 0.0, high: 10.0, start: 0.0, end: 10.0 };
        let single = curve(&[(4, 7.0)], &axis);
        assert_eq!(means(&[single], &axis, |column| column.mean), [MeanPoint { x: 4.5, mean: 7.0, deviation: 0.0, count: 1 }]);
        assert!(means(&[curve(&[], &axis), curve(&[(3, f64::NAN)], &axis)], &axis, |column| column.mean).is_empty());
    }

    #[test]
    fn names_go_by_their_number() {
        let mut names = ["lr 1e1", "lr 0.1", "lr 0.05", "lr -"];
        names.sort_by(|a, b| by_number(a, b));
        assert_eq!(names, ["lr 0.05", "lr 0.1", "lr 1e1", "lr -"]);
    }
}
