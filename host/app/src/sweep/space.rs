//! The search space: what a field may be, and which trials come of it.
//!
//! A draw is a function of (sweep seed, trial, field name): trial 7 is the same with one worker or ten, today or after a restart, and another field in
//! the file changes none of the draws of this one.

use super::Search;
use crate::recipe::strip_comments;
use ron::value::RawValue;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use solstice_engine::random::{threefry2x32, unit_f64};
use std::fmt;

/// What a trial changes: field and value of `--set`, in the order of the file.
pub type Settings = Vec<(String, String)>;

/// More trials than this are a slip of the pen.
const TRIAL_COUNT_MAX: usize = 100_000;

/// What a field may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// One of these. A string is the text of the value, so that `"adam(lr: 1e-3)"` is a component.
    Choice(Vec<Box<RawValue>>),
    /// Whole numbers from the first up to and without the second.
    Range(i64, i64),
    /// Any number between the two.
    Uniform(f64, f64),
    /// Any number between the two, each power of ten as likely as the next.
    LogUniform(f64, f64),
}

/// Fields in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Vec<(String, Domain)>);

/// The trials of a search, or the field that is wrong (empty: the search itself) and a sentence.
pub fn trials(fields: &Fields, search: Search) -> Result<Vec<Settings>, (String, String)> {
    if fields.0.is_empty() {
        return Err((String::new(), "there are no fields to search".into()));
    }
    for (name, domain) in &fields.0 {
        domain.check().map_err(|message| (name.clone(), message))?;
    }
    match search {
        Search::Grid => grid(fields),
        Search::Random { trials: 0, .. } => Err((String::new(), "search: wanted at least 1 trial, got 0".into())),
        Search::Random { trials, .. } if trials > TRIAL_COUNT_MAX => Err((String::new(), too_many(trials))),
        Search::Random { trials, seed } => Ok((0..trials)
            .map(|trial| {
                // `check` has bounded the number of trials far below 2^32.
                fields.0.iter().map(|(name, domain)| (name.clone(), domain.draw(seed, trial as u32, name))).collect()
            })
            .collect()),
    }
}

fn grid(fields: &Fields) -> Result<Vec<Settings>, (String, String)> {
    let mut trials: Vec<Settings> = vec![vec![]];
    for (name, domain) in &fields.0 {
        let values = domain.values().map_err(|message| (name.clone(), message))?;
        let count = trials.len().saturating_mul(values.len());
        if count > TRIAL_COUNT_MAX {
            return Err((String::new(), too_many(count)));
        }
        trials = trials
            .iter()
            .flat_map(|trial| values.iter().map(move |value| trial.iter().cloned().chain([(name.clone(), value.clone())]).collect()))
            .collect();
    }
    Ok(trials)
}

fn too_many(count: usize) -> String {
    format!("search: {count} trials or more; at most {TRIAL_COUNT_MAX} are possible")
}

impl Domain {
    fn check(&self) -> Result<(), String> {
        match self {
            Domain::Choice(values) if values.is_empty() => Err("there are no values to choose from".into()),
            Domain::Range(low, high) if low >= high => {
                Err(format!("range({low}, {high}) is empty: the first number must be below the second"))
            }
            Domain::Uniform(low, high) if !(low < high && low.is_finite() && high.is_finite()) => {
                Err(format!("uniform({low:?}, {high:?}): the first number must be below the second"))
            }
            Domain::LogUniform(low, high) if !(0.0 < *low && low < high && high.is_finite()) => {
                Err(format!("log_uniform({low:?}, {high:?}): wanted two numbers above zero, the first below the second"))
            }
            _ => Ok(()),
        }
    }

    /// Every value, for a grid.
    fn values(&self) -> Result<Vec<String>, String> {
        let between = |name: &str| {
            Err(format!(
                "`{name}` is for `search: random(..)`: a grid has no values between two numbers; list them, `choice([1e-4, 1e-3, 1e-2])`"
            ))
        };
        match self {
            Domain::Choice(values) => Ok(values.iter().map(|raw| value_text(raw)).collect()),
            Domain::Range(low, high) if high.abs_diff(*low) > TRIAL_COUNT_MAX as u64 => Err(format!("range({low}, {high}) is too long")),
            Domain::Range(low, high) => Ok((*low..*high).map(|value| value.to_string()).collect()),
            Domain::Uniform(..) => between("uniform"),
            Domain::LogUniform(..) => between("log_uniform"),
        }
    }

    /// The value of this field in a trial.
    fn draw(&self, seed: u32, trial: u32, name: &str) -> String {
        let unit = unit_draw(seed, trial, name);
        match self {
            Domain::Choice(values) => value_text(&values[(unit * values.len() as f64) as usize]),
            // `unit` is below 1, but the product may round up to the length.
            Domain::Range(low, high) => {
                let length = high.abs_diff(*low);
                let offset = ((unit * length as f64) as u64).min(length - 1);
                low.wrapping_add_unsigned(offset).to_string()
            }
            Domain::Uniform(low, high) => number_text(low + unit * (high - low), *low, *high),
            Domain::LogUniform(low, high) => number_text((low.ln() + unit * (high.ln() - low.ln())).exp(), *low, *high),
        }
    }
}

/// A number in `[0, 1)` for (seed, trial, name).
fn unit_draw(seed: u32, trial: u32, name: &str) -> f64 {
    let digest = Sha256::digest(name.as_bytes());
    let word = |at: usize| u32::from_le_bytes(digest[at..at + 4].try_into().expect("four bytes"));
    unit_f64(threefry2x32([seed, word(0)], [trial, word(4)]))
}

/// Six digits are enough to search with, and fit into a table.
fn number_text(value: f64, low: f64, high: f64) -> String {
    let rounded: f64 = format!("{value:.5e}").parse().expect("printed above");
    format!("{:?}", rounded.clamp(low, high))
}

/// The text of a listed value: of a string what it holds, of anything else itself.
fn value_text(raw: &RawValue) -> String {
    let text = strip_comments(raw.get_ron());
    let text = text.trim();
    match ron::from_str::<String>(text) {
        Ok(content) => content,
        Err(_) => text.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields and what they may be: `{\"optimizer.lr\": log_uniform(1e-4, 1e-1)}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Domain)> = vec![];
                while let Some(name) = map.next_key::<String>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format!("the field `{name}` stands here twice")));
                    }
                    let domain = map.next_value()?;
                    fields.push((name, domain));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        ron::from_str(text).unwrap()
    }

    fn values(trials: &[Settings]) -> Vec<String> {
        trials.iter().map(|trial| trial.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_grid_counts_like_a_clock() {
        let trials = trials(&fields(r#"{"a": choice([x(y: 1), "b c"]), "n": range(-1, 2)}"#), Search::Grid).unwrap();
        assert_eq!(values(&trials), ["x(y: 1) -1", "x(y: 1) 0", "x(y: 1) 1", "b c -1", "b c 0", "b c 1"]);
    }

    #[test]
    fn a_grid_without_end_is_refused() {
        let (_, message) = trials(&fields(r#"{"a": range(0, 1000), "b": range(0, 1000)}"#), Search::Grid).unwrap_err();
        assert!(message.contains("1000000 trials"), "{message}");
        let (field, message) = trials(&fields(r#"{"a": log_uniform(1e-3, 1.0)}"#), Search::Grid).unwrap_err();
        assert!(field == "a" && message.contains("`log_uniform` is for `search: random(..)`"), "{message}");
    }

    #[test]
    fn draws_depend_on_seed_trial_and_name_alone() {
        let random = |text: &str, trials: usize, seed: u32| super::trials(&fields(text), Search::Random { trials, seed }).unwrap();
        let alone = random(r#"{"lr": uniform(0.0, 1.0)}"#, 8, 3);
        let longer = random(r#"{"lr": uniform(0.0, 1.0)}"#, 20, 3);
        assert_eq!(alone[..], longer[..8]);
        let among = random(r#"{"other": range(0, 100), "lr": uniform(0.0, 1.0)}"#, 8, 3);
        for (alone, among) in alone.iter().zip(&among) {
            assert_eq!(alone[0], among[1]);
            assert_ne!(among[0].1, among[1].1);
        }
        assert_ne!(alone, random(r#"{"lr": uniform(0.0, 1.0)}"#, 8, 4));
        let mut distinct = values(&longer);
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 20);
    }

    #[test]
    fn draws_fill_their_domains_evenly() {
        let search = Search::Random { trials: 3000, seed: 0 };
        let text = r#"{"u": uniform(2.0, 4.0), "l": log_uniform(1e-4, 1e-1), "r": range(-2, 1), "c": choice([7, 8])}"#;
        let trials = trials(&fields(text), search).unwrap();
        let column = |index: usize| -> Vec<f64> { trials.iter().map(|trial| trial[index].1.parse().unwrap()).collect() };
        let share = |values: &[f64], low: f64, high: f64| {
            values.iter().filter(|value| (low..high).contains(*value)).count() as f64 / values.len() as f64
        };
        // The share of 3000 draws in a part of probability p strays by sqrt(p (1 - p) / 3000), below 0.01: four of these.
        let near = |share: f64, wanted: f64| assert!((share - wanted).abs() < 0.04, "{share}, wanted {wanted}");
        for quarter in 0..4 {
            let low = 2.0 + 0.5 * f64::from(quarter);
            near(share(&column(0), low, low + 0.5), 0.25);
        }
        for decade in -4..-1 {
            near(share(&column(1), 10f64.powi(decade), 10f64.powi(decade + 1)), 1.0 / 3.0);
        }
        for value in [-2.0, -1.0, 0.0] {
            near(share(&column(2), value, value + 0.5), 1.0 / 3.0);
        }
        near(share(&column(3), 7.0, 7.5), 0.5);
        assert_eq!(share(&column(0), 2.0, 4.000_001) + share(&column(2), -2.0, 1.0) + share(&column(3), 7.0, 9.0), 3.0);
    }

    #[test]
    fn numbers_are_short_and_stay_inside() {
        assert_eq!(number_text(0.003_162_277_660_168, 1e-4, 1e-1), "0.00316228");
        assert_eq!(number_text(1.234_567_89e-7, 1e-9, 1.0), "1.23457e-7");
        // Rounding would step out of the domain.
        assert_eq!(number_text(0.123_456_78, 0.0, 0.123_456_78), "0.12345678");
    }
}
