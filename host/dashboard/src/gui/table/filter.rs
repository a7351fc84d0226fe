//! The filter of runs: words that must all hold. Draws nothing.
//!
//! `word` stands in id, name, state, group, tags or note; `state:failed`, `tag:x`, `name:`, `note:`, `group:`, `device:`, `id:` look in one of
//! them; `lr=0.1`, `lr!=0.1`, `lr>=0.01`, `loss<0.3` compare a setting, a metric's last value, or `step`, `seed`, `duration`, `speed`,
//! `progress` (in %). A key is its last part or more of it: `lr` is `optimizer.lr`. `-` before any of them turns it round.

use super::super::state;
use super::facts::Facts;

/// A parsed filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<(bool, Term)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Word(String),
    Field(&'static str, String),
    Compare(String, Relation, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    Other,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

const FIELDS: [&str; 8] = ["state", "tag", "name", "note", "group", "sweep", "device", "id"];
// The longer ones first.
const RELATIONS: [(&str, Relation); 6] = [
    ("<=", Relation::LessOrEqual),
    (">=", Relation::MoreOrEqual),
    ("!=", Relation::Other),
    ("<", Relation::Less),
    (">", Relation::More),
    ("=", Relation::Equal),
];

impl Filter {
    /// Any text is a filter; what is not understood is a word.
    pub fn parse(text: &str) -> Filter {
        let terms = text.to_lowercase().split_whitespace().filter(|word| *word != "-").map(term).collect();
        Filter { terms }
    }

    /// The run is listed.
    pub fn matches(&self, facts: &Facts) -> bool {
        self.terms.iter().all(|(is_wanted, term)| holds(term, facts) == *is_wanted)
    }
}

fn term(word: &str) -> (bool, Term) {
    let (is_wanted, word) = match word.strip_prefix('-') {
        // A number below zero is a word, not the lack of one.
        Some(rest) if rest.parse::<f64>().is_err() => (false, rest),
        _ => (true, word),
    };
    let first = RELATIONS.iter().filter_map(|relation| Some((word.find(relation.0)?, relation))).min_by_key(|(at, _)| *at);
    if let Some((at, (sign, relation))) = first
        && at > 0
    {
        return (is_wanted, Term::Compare(word[..at].to_owned(), *relation, word[at + sign.len()..].to_owned()));
    }
    if let Some((field, value)) = word.split_once(':')
        && let Some(field) = FIELDS.iter().find(|known| **known == field)
    {
        return (is_wanted, Term::Field(field, value.to_owned()));
    }
    (is_wanted, Term::Word(word.to_owned()))
}

fn holds(term: &Term, facts: &Facts) -> bool {
    match term {
        Term::Word(word) => facts.text.contains(word),
        Term::Field(field, value) => {
            let has = |text: &str| text.to_lowercase().contains(value);
            let info = facts.run.info.as_deref();
            match *field {
                "state" => has(state(&facts.run).name()),
                "tag" => facts.tags.iter().any(|tag| tag.to_lowercase() == *value),
                "name" => has(&facts.name),
                "note" => has(&facts.note),
                "device" => info.is_some_and(|info| info.device.as_deref().is_some_and(has) || info.adapter.as_deref().is_some_and(has)),
                "id" => has(facts.id()),
                _ => facts.run.group.as_deref().is_some_and(has),
            }
        }
        Term::Compare(key, relation, wanted) => compare(facts, key, *relation, wanted),
    }
}

fn compare(facts: &Facts, key: &str, relation: Relation, wanted: &str) -> bool {
    let number: Option<f64> = wanted.parse().ok();
    let by_number = |value: f64| number.is_some_and(|wanted| relation.holds(value, wanted));
    if let Some(value) = own_number(facts, key) {
        return value.is_some_and(by_number);
    }
    let settings = facts.settings.iter().filter(|(name, _)| is_named(name, key, '.'));
    let mut by_setting = settings.map(|(_, value)| match (value.parse::<f64>(), number) {
        (Ok(value), Some(wanted)) => relation.holds(value, wanted),
        // Neither smaller nor greater than what is no number.
        _ => match relation {
            Relation::Equal => value.to_lowercase().contains(wanted),
            Relation::Other => !value.to_lowercase().contains(wanted),
            _ => false,
        },
    });
    let mut by_metric =
        facts.metrics.iter().filter(|(name, _)| is_named(name, key, '/')).filter_map(|(_, values)| values.last).map(by_number);
    by_setting.any(|holds| holds) || by_metric.any(|holds| holds)
}

// `lr` and `optimizer.lr` name `optimizer.lr`.
fn is_named(name: &str, key: &str, separator: char) -> bool {
    let name = name.to_lowercase();
    name.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with(separator))
}

// A number that is neither setting nor metric; `Some(None)` where the run has none.
fn own_number(facts: &Facts, key: &str) -> Option<Option<f64>> {
    let info = facts.run.info.as_deref();
    Some(match key {
        "step" => info.map(|info| info.at.step as f64),
        "epoch" => info.map(|info| info.at.epoch),
        "seed" => info.map(|info| info.seed as f64),
        "duration" => info.map(|info| info.train_secs),
        "speed" => facts.run.steps_per_sec(),
        "progress" => facts.run.progress().map(|part| part * 100.0),
        _ => return None,
    })
}

impl Relation {
    fn holds(self, value: f64, wanted: f64) -> bool {
        match self {
            Relation::Equal => value == wanted,
            Relation::Other => value != wanted,
            Relation::Less => value < wanted,
            Relation::LessOrEqual => value <= wanted,
            Relation::More => value > wanted,
            Relation::MoreOrEqual => value >= wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_fields_and_comparisons() {
        let of = |text: &str| Filter::parse(text).terms;
        let compare = |key: &str, relation, wanted: &str| Term::Compare(key.into(), relation, wanted.into());
        assert_eq!(of("Wide  -x"), [(true, Term::Word("wide".into())), (false, Term::Word("x".into()))]);
        assert_eq!(
            of("loss<0.3 lr>=1e-2"),
            [(true, compare("loss", Relation::Less, "0.3")), (true, compare("lr", Relation::MoreOrEqual, "1e-2")),]
        );
        assert_eq!(
            of("-a.b!=c state:failed"),
            [(false, compare("a.b", Relation::Other, "c")), (true, Term::Field("state", "failed".into())),]
        );
        assert_eq!(
            of("12:30 -5 - =x"),
            [(true, Term::Word("12:30".into())), (true, Term::Word("-5".into())), (true, Term::Word("=x".into())),]
        );
    }

    #[test]
    fn keys_are_named_by_their_end() {
        assert!(is_named("optimizer.lr", "lr", '.') && is_named("optimizer.lr", "optimizer.lr", '.') && is_named("lr", "lr", '.'));
        assert!(!is_named("optimizer.blr", "lr", '.') && !is_named("optimizer.lr", "optimizer", '.'));
    }
}
