//! The table's columns: what stands in them, how they are sorted, and the text of an export. Draws nothing.

use super::super::axis::{duration, short};
use super::super::{is_over, state};
use super::TableView;
use super::facts::{Facts, differing, is_greatest_best, is_result, metric_names};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// Metrics that are columns before anybody chose.
const METRICS_AT_FIRST: usize = 3;
/// Settings that are columns before anybody chose.
const SETTINGS_AT_FIRST: usize = 10;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Column {
    /// Always the first, and always to be seen.
    Name,
    /// What it is doing.
    State,
    /// Part of the budget that is done, and what is left.
    Progress,
    /// Last value of a metric.
    Last(String),
    /// Best value of a metric.
    Best(String),
    /// A setting by its dotted key.
    Setting(String),
    /// When it was created.
    Start,
    /// Time spent on it.
    Duration,
    /// Steps a second of late.
    Speed,
    /// Seed of its random streams.
    Seed,
    /// `cpu` or `gpu`.
    Device,
    /// The run it was forked from, and the step.
    Parent,
    /// Marks of people.
    Tags,
    /// A mark of people.
    Note,
}

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// By size.
    Number(f64),
    /// By letters.
    Text(String),
    /// Last, in both directions.
    Missing,
}

impl Key {
    fn of(number: Option<f64>) -> Key {
        number.filter(|number| !number.is_nan()).map_or(Key::Missing, Key::Number)
    }

    fn text(text: &str) -> Key {
        if text.is_empty() { Key::Missing } else { Key::Text(text.to_lowercase()) }
    }

    /// Numbers before words, what is missing at the end, also when `descending`.
    pub fn compare(&self, other: &Key, descending: bool) -> Ordering {
        let turn = |order: Ordering| if descending { order.reverse() } else { order };
        match (self, other) {
            (Key::Number(one), Key::Number(other)) => turn(one.total_cmp(other)),
            (Key::Text(one), Key::Text(other)) => turn(one.cmp(other)),
            (Key::Number(_), Key::Text(_)) => turn(Ordering::Less),
            (Key::Text(_), Key::Number(_)) => turn(Ordering::Greater),
            (Key::Missing, Key::Missing) => Ordering::Equal,
            (Key::Missing, _) => Ordering::Greater,
            (_, Key::Missing) => Ordering::Less,
        }
    }
}

impl Column {
    /// What its head says. `min` or `max` tells which value of a metric is the best.
    pub fn title(&self, view: &TableView) -> String {
        match self {
            Column::Name => "name".into(),
            Column::State => "state".into(),
            Column::Progress => "progress".into(),
            Column::Last(metric) => metric.clone(),
            Column::Best(metric) => format!("{} {metric}", if view.is_greatest_best(metric) { "max" } else { "min" }),
            Column::Setting(key) => key.clone(),
            Column::Start => "start (UTC)".into(),
            Column::Duration => "duration".into(),
            Column::Speed => "steps/s".into(),
            Column::Seed => "seed".into(),
            Column::Device => "device".into(),
            Column::Parent => "parent".into(),
            Column::Tags => "tags".into(),
            Column::Note => "note".into(),
        }
    }

    /// Its width before anybody changed it.
    pub fn width(&self, view: &TableView) -> f32 {
        match self {
            Column::Name => 168.0,
            Column::State => 92.0,
            Column::Progress => 122.0,
            Column::Last(_) | Column::Best(_) | Column::Setting(_) => {
                (self.title(view).chars().count() as f32 * 6.4 + 30.0).clamp(68.0, 156.0)
            }
            Column::Start => 118.0,
            Column::Duration | Column::Parent => 98.0,
            Column::Speed | Column::Seed | Column::Device => 64.0,
            Column::Tags => 104.0,
            Column::Note => 180.0,
        }
    }

    /// Numbers stand at the right of their column.
    pub fn is_number(&self) -> bool {
        matches!(self, Column::Last(_) | Column::Best(_) | Column::Duration | Column::Speed | Column::Seed)
    }

    /// The metric whose values stand in it.
    pub fn metric(&self) -> Option<&str> {
        match self {
            Column::Last(metric) | Column::Best(metric) => Some(metric),
            _ => None,
        }
    }

    /// A number of the run that a group can have a mean of.
    pub fn number(&self, facts: &Facts, view: &TableView) -> Option<f64> {
        match self {
            Column::Last(metric) => facts.metrics.get(metric)?.last,
            Column::Best(metric) => facts.metrics.get(metric)?.best(view.is_greatest_best(metric)),
            Column::Duration => facts.run.info.as_ref().map(|info| info.train_secs).filter(|secs| *secs > 0.0),
            Column::Speed => facts.run.steps_per_sec(),
            _ => None,
        }
    }

    /// What the run is sorted by.
    pub fn key(&self, facts: &Facts, view: &TableView) -> Key {
        let info = facts.run.info.as_deref();
        match self {
            Column::Name => Key::text(&facts.name),
            Column::State => Key::text(state(&facts.run).name()),
            Column::Progress => Key::of(facts.run.progress()),
            Column::Last(_) | Column::Best(_) | Column::Duration | Column::Speed => Key::of(self.number(facts, view)),
            Column::Setting(key) => facts.settings.get(key).map_or(Key::Missing, |value| match value.parse() {
                Ok(number) => Key::of(Some(number)),
                Err(_) => Key::text(value),
            }),
            Column::Start => Key::of(info.map(|info| info.created)),
            Column::Seed => Key::of(info.map(|info| info.seed as f64)),
            Column::Device => Key::text(info.and_then(|info| info.device.as_deref()).unwrap_or_default()),
            Column::Parent => Key::text(info.and_then(|info| info.parent.as_ref()).map_or("", |parent| &parent.id)),
            Column::Tags => Key::text(&facts.tags.join(", ")),
            Column::Note => Key::text(&facts.note),
        }
    }

    /// What the cell says; empty where the run has nothing of the kind. `name_of` gives the name of the run of an id.
    pub fn text(&self, facts: &Facts, view: &TableView, name_of: impl Fn(&str) -> Option<String>) -> String {
        let info = facts.run.info.as_deref();
        match self {
            Column::Name => facts.name.clone(),
            Column::State => facts.state_text(),
            Column::Progress => facts.progress_text(),
            Column::Last(_) | Column::Best(_) => self.number(facts, view).map(short).unwrap_or_default(),
            Column::Speed => self.number(facts, view).map(short).unwrap_or_default(),
            Column::Duration => self.number(facts, view).map(duration).unwrap_or_default(),
            Column::Setting(key) => facts.settings.get(key).cloned().unwrap_or_default(),
            Column::Start => info.map(|info| start_text(info.created)).unwrap_or_default(),
            Column::Seed => info.map(|info| info.seed.to_string()).unwrap_or_default(),
            Column::Device => info.and_then(|info| info.device.clone()).unwrap_or_default(),
            Column::Parent => info
                .and_then(|info| info.parent.as_ref())
                .map(|parent| format!("{} @ {}", name_of(&parent.id).unwrap_or_else(|| parent.id.clone()), parent.step))
                .unwrap_or_default(),
            Column::Tags => facts.tags.join(", "),
            Column::Note => facts.note.clone(),
        }
    }
}

// `2026-11-23 18:59`.
fn start_text(created: f64) -> String {
    let stamp = solstice_store::minute_stamp(created);
    match stamp.rsplit_once('-') {
        Some((day, time)) if time.len() == 4 => format!("{day} {}:{}", &time[..2], &time[2..]),
        _ => stamp,
    }
}

/// Every column that these runs could have, in the order of the table, and whether it is there before anybody chose.
pub fn offered(runs: &[Arc<Facts>]) -> Vec<(Column, bool)> {
    let has = |wanted: &dyn Fn(&Facts) -> bool| runs.iter().any(|facts| wanted(facts));
    let mut columns = vec![(Column::State, true), (Column::Progress, has(&|facts| !is_over(&facts.run)))];
    for (index, metric) in metric_names(runs).into_iter().enumerate() {
        let is_shown = index < METRICS_AT_FIRST && is_result(&metric);
        columns.push((Column::Last(metric.clone()), is_shown));
        columns.push((Column::Best(metric), is_shown));
    }
    let differing = differing(runs);
    let mut keys: Vec<&String> = runs.iter().flat_map(|facts| facts.settings.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let at_first: Vec<&String> = differing.iter().take(SETTINGS_AT_FIRST).collect();
    columns.extend(keys.into_iter().map(|key| (Column::Setting(key.clone()), at_first.contains(&key))));
    let info = |facts: &Facts| facts.run.info.clone();
    let first = runs.iter().find_map(|facts| info(facts));
    let differs = |same: &dyn Fn(&solstice_store::RunInfo, &solstice_store::RunInfo) -> bool| {
        first.as_ref().is_some_and(|first| has(&|facts| facts.run.info.as_ref().is_some_and(|info| !same(first, info))))
    };
    columns.extend([
        (Column::Start, true),
        (Column::Duration, true),
        (Column::Speed, true),
        (Column::Seed, differs(&|one, other| one.seed == other.seed)),
        (Column::Device, differs(&|one, other| one.device == other.device)),
        (Column::Parent, has(&|facts| facts.run.info.as_ref().is_some_and(|info| info.parent.is_some()))),
        (Column::Tags, has(&|facts| !facts.tags.is_empty())),
        (Column::Note, has(&|facts| !facts.note.is_empty())),
    ]);
    columns
}

/// The runs as comma-separated values after RFC 4180, numbers with all their digits.
pub fn csv<'a>(runs: impl Iterator<Item = &'a Facts>, columns: &[Column], view: &TableView) -> String {
    let all = || std::iter::once(&Column::Name).chain(columns);
    let line = |cells: Vec<String>| cells.into_iter().map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",") + "\r\n";
    let mut text = line(std::iter::once("id".to_owned()).chain(all().map(|column| column.title(view))).collect());
    for facts in runs {
        let cell = |column: &Column| match column.key(facts, view) {
            // Not the time as a number: nobody could read it.
            Key::Number(number) if *column != Column::Start && *column != Column::Progress && !matches!(column, Column::Setting(_)) => {
                number.to_string()
            }
            _ => column.text(facts, view, |_| None),
        };
        text += &line(std::iter::once(facts.id().to_owned()).chain(all().map(cell)).collect());
    }
    text
}

fn quoted(cell: &str) -> String {
    let needs = cell.contains([',', '"', '\n', '\r']);
    if needs { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

impl TableView {
    /// The greatest value of the metric is its best: as people said, else by its name.
    pub fn is_greatest_best(&self, metric: &str) -> bool {
        self.best.get(metric).copied().unwrap_or_else(|| is_greatest_best(metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers_and_what_is_missing_goes_last() {
        let number = |value: f64| Key::Number(value);
        let mut keys = vec![Key::Missing, number(10.0), Key::Text("b".into()), number(9.0), Key::Text("a".into())];
        keys.sort_by(|a, b| a.compare(b, false));
        assert_eq!(keys, [number(9.0), number(10.0), Key::Text("a".into()), Key::Text("b".into()), Key::Missing]);
        keys.sort_by(|a, b| a.compare(b, true));
        assert_eq!(keys, [Key::Text("b".into()), Key::Text("a".into()), number(10.0), number(9.0), Key::Missing]);
    }

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("[128, 64]"), "\"[128, 64]\"");
        assert_eq!(quoted("say \"no\""), "\"say \"\"no\"\"\"");
    }

    #[test]
    fn starts_are_read_as_dates() {
        // From `date -u -d @1795460340`.
        assert_eq!(start_text(1_795_460_340.0), "2026-11-23 18:59");
    }
}
