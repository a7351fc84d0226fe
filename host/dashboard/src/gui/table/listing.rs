//! The table's rows: sorted, grouped, pinned ones first. Draws nothing.

use super::columns::{Column, Key, offered};
use super::facts::Facts;
use super::{GroupBy, Sort, TableView};
use std::sync::Arc;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The heading of a group, by its index.
    Heading(usize),
    /// A run, by its index.
    Run(usize),
}

/// Runs that have something in common.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the heading says.
    pub title: String,
    /// How many runs.
    pub count: usize,
    /// Mean and deviation for each column of the listing.
    pub stats: Vec<Option<Spread>>,
}

/// Numbers of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation with n - 1; none of a single one.
    pub std: Option<f64>,
    /// How many.
    pub count: usize,
}

/// What the table shows.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The runs, in the order of their rows.
    pub runs: Vec<Arc<Facts>>,
    /// The rows, without those of folded groups.
    pub items: Vec<Item>,
    /// The groups.
    pub groups: Vec<Group>,
    /// The columns but the first, in order.
    pub columns: Vec<Column>,
    /// Every column that could be there, and whether it is there before anybody chose.
    pub offered: Vec<(Column, bool)>,
}

/// Mean and standard deviation (with n - 1) of what is finite; `None` of nothing.
pub fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (count > 0).then(|| Spread { mean, std: (count > 1).then(|| (squares / (count - 1) as f64).sqrt()), count })
}

/// The rows of these runs, which stand newest first.
pub fn list(runs: &[Arc<Facts>], view: &TableView) -> Listing {
    let offered = offered(runs);
    let chosen = |column: &Column| view.columns.iter().find(|(known, _)| known == column).map(|(_, is_shown)| *is_shown);
    let columns: Vec<Column> =
        offered.iter().filter(|(column, at_first)| chosen(column).unwrap_or(*at_first)).map(|(column, _)| column.clone()).collect();
    let columns = ordered(columns, &view.order);
    let mut sorted = runs.to_vec();
    if let Some(Sort { column, descending }) = &view.sort {
        // Once a run, not once a comparison.
        let mut keyed: Vec<(Key, Arc<Facts>)> = sorted.into_iter().map(|facts| (column.key(&facts, view), facts)).collect();
        keyed.sort_by(|a, b| a.0.compare(&b.0, *descending));
        sorted = keyed.into_iter().map(|(_, facts)| facts).collect();
    }
    sorted.sort_by_key(|facts| !facts.is_pinned);
    let mut listing = Listing { columns, offered, ..Listing::default() };
    if view.group_by == GroupBy::None {
        listing.items = (0..sorted.len()).map(Item::Run).collect();
        listing.runs = sorted;
        return listing;
    }
    let mut parts: Vec<(Key, String, Vec<Arc<Facts>>)> = Vec::new();
    for facts in sorted {
        let (key, title) = group_of(&facts, &view.group_by, view);
        match parts.iter_mut().find(|part| part.1 == title) {
            Some(part) => part.2.push(facts),
            None => parts.push((key, title, vec![facts])),
        }
    }
    let sort = view.sort.as_ref().filter(|sort| sort.column.metric().is_some());
    let order = |part: &(Key, String, Vec<Arc<Facts>>)| match sort {
        // Groups follow the metric that their runs are sorted by.
        Some(sort) => spread(part.2.iter().filter_map(|facts| sort.column.number(facts, view)))
            .map_or(Key::Missing, |spread| Key::Number(spread.mean)),
        None => part.0.clone(),
    };
    let descending = sort.is_some_and(|sort| sort.descending);
    parts.sort_by(|a, b| order(a).compare(&order(b), descending));
    for (_, title, runs) in parts {
        let stats = listing.columns.iter().map(|column| spread(runs.iter().filter_map(|facts| column.number(facts, view)))).collect();
        listing.items.push(Item::Heading(listing.groups.len()));
        if !view.folded.contains(&title) {
            listing.items.extend((listing.runs.len()..listing.runs.len() + runs.len()).map(Item::Run));
        }
        listing.groups.push(Group { title, count: runs.len(), stats });
        listing.runs.extend(runs);
    }
    listing
}

// Columns as people put them; one that was not there then stands behind the one that it comes after by itself.
fn ordered(columns: Vec<Column>, order: &[Column]) -> Vec<Column> {
    let mut placed: Vec<Column> = order.iter().filter(|column| columns.contains(column)).cloned().collect();
    for (index, column) in columns.iter().enumerate() {
        if !placed.contains(column) {
            let before = columns[..index].last().and_then(|before| placed.iter().position(|known| known == before));
            placed.insert(before.map_or(0, |before| before + 1), column.clone());
        }
    }
    placed
}

fn group_of(facts: &Facts, by: &GroupBy, view: &TableView) -> (Key, String) {
    match by {
        GroupBy::None => (Key::Missing, String::new()),
        GroupBy::Sweep => match &facts.run.group {
            Some(group) => (Key::Text(group.clone()), group.clone()),
            None => (Key::Missing, "no sweep".into()),
        },
        GroupBy::Setting(key) => {
            let key_of = Column::Setting(key.clone()).key(facts, view);
            let title = facts.settings.get(key).map_or_else(|| format!("without {key}"), |value| format!("{key} = {value}"));
            (key_of, title)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_as_they_were_put_and_new_ones_where_they_belong() {
        use Column::{Duration, Seed, Speed, Start, State};
        assert_eq!(ordered(vec![State, Start, Duration], &[]), [State, Start, Duration]);
        assert_eq!(ordered(vec![State, Start, Duration], &[Duration, State, Start]), [Duration, State, Start]);
        // `Speed` comes after `Duration`, `Seed` after `Speed`; `Start` is not shown any more.
        assert_eq!(ordered(vec![State, Duration, Speed, Seed], &[Duration, State, Start]), [Duration, Speed, Seed, State]);
        assert_eq!(ordered(vec![Seed, State], &[State]), [Seed, State]);
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        // Mean 5, squares 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, over 7.
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0, f64::NAN];
        let found = spread(values.into_iter()).unwrap();
        assert_eq!((found.mean, found.count), (5.0, 8));
        assert!((found.std.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(spread([3.0].into_iter()), Some(Spread { mean: 3.0, std: None, count: 1 }));
        assert_eq!(spread(std::iter::empty()), None);
    }
}
