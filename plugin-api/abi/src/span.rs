//! One type for every budget and cadence: `2ep`, `500st`, `30min`, `1e6samples`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What a span counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Passes over the training split.
    Epochs,
    /// Optimizer steps.
    Steps,
    /// Training samples.
    Samples,
    /// Seconds of training time.
    Seconds,
}

/// An amount of training, above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// How many.
    pub amount: f64,
    /// Of what.
    pub unit: Unit,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Seconds trained.
    pub seconds: f64,
}

/// Sizes that turn epochs and samples into steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochShape {
    /// Samples of the training split.
    pub samples: u64,
    /// Steps of one epoch, the ragged last batch included.
    pub steps: u64,
}

impl Span {
    /// True when the span ends between `before` and `now`; the one rule for logging, evaluating, saving and stopping.
    ///
    /// A span of 1 step fires at every step. The caller adds "always at the last step".
    pub fn fires(&self, before: Progress, now: Progress, epoch: EpochShape) -> bool {
        // Counting in whole periods: a rate of steps that jumps over a mark still fires once. The small constant keeps `3 * (1 / 3)` at 1.
        let periods = |at: Progress| (self.position(at, epoch) / self.amount + 1e-9).floor();
        periods(now) > periods(before)
    }

    fn position(&self, at: Progress, epoch: EpochShape) -> f64 {
        match self.unit {
            Unit::Epochs => at.step as f64 / epoch.steps as f64,
            Unit::Steps => at.step as f64,
            Unit::Samples => at.samples as f64,
            Unit::Seconds => at.seconds,
        }
    }

    /// Steps of the span where they are known in advance, rounded up; `None` for a span of time.
    pub fn steps(&self, epoch: EpochShape) -> Option<u64> {
        match self.unit {
            Unit::Epochs => Some((self.amount * epoch.steps as f64 - 1e-9).ceil() as u64),
            Unit::Steps => Some(self.amount.ceil() as u64),
            Unit::Samples => {
                let epochs = (self.amount / epoch.samples as f64).floor();
                let rest = self.amount - epochs * epoch.samples as f64;
                let batch = epoch.samples.div_ceil(epoch.steps).max(1);
                Some(epochs as u64 * epoch.steps + (rest / batch as f64).ceil() as u64)
            }
            Unit::Seconds => None,
        }
    }

    /// Share of the span that is done, 0 to 1.
    pub fn share(&self, at: Progress, epoch: EpochShape) -> f64 {
        (self.position(at, epoch) / self.amount).min(1.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let trimmed = text.trim();
        let split = trimmed
            .char_indices()
            .find(|(index, c)| c.is_alphabetic() && !(matches!(c, 'e' | 'E') && follows_digit_and_leads_exponent(trimmed, *index)))
            .map_or(trimmed.len(), |(index, _)| index);
        let (number, unit) = (trimmed[..split].trim(), trimmed[split..].trim());
        let wanted = "wanted a number and a unit: `2ep`, `500st`, `1e6samples`, `90s`, `30min`, `2h`";
        let amount: f64 = number.replace('_', "").parse().map_err(|_| format!("`{text}` is no amount of training; {wanted}"))?;
        let (factor, unit) = match unit {
            "ep" | "epoch" | "epochs" => (1.0, Unit::Epochs),
            "st" | "step" | "steps" => (1.0, Unit::Steps),
            "sa" | "sample" | "samples" => (1.0, Unit::Samples),
            "s" | "sec" | "seconds" => (1.0, Unit::Seconds),
            "min" | "minutes" => (60.0, Unit::Seconds),
            "h" | "hours" => (3600.0, Unit::Seconds),
            "" => return Err(format!("`{text}` has no unit; {wanted}")),
            other => return Err(format!("`{other}` in `{text}` is no unit; {wanted}")),
        };
        if !(amount > 0.0 && amount.is_finite()) {
            return Err(format!("`{text}` is not above zero; {wanted}"));
        }
        if unit == Unit::Steps && amount.fract() != 0.0 {
            return Err(format!("`{text}` is not a whole number of steps"));
        }
        Ok(Span { amount: amount * factor, unit })
    }
}

// In `1e6samples` the first `e` belongs to the number; in `2ep` it does not.
fn follows_digit_and_leads_exponent(text: &str, index: usize) -> bool {
    let before = text[..index].chars().next_back().is_some_and(|c| c.is_ascii_digit() || c == '.');
    let mut after = text[index + 1..].chars();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    before
        && match after.next() {
            Some('+' | '-') => digit(after.next()),
            next => digit(next),
        }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Epochs => "ep",
            Unit::Steps => "st",
            Unit::Samples => "samples",
            Unit::Seconds => "s",
        };
        write!(f, "{}{unit}", self.amount)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: EpochShape = EpochShape { samples: 1000, steps: 16 };

    fn steps_that_fire(span: &str, until: u64) -> Vec<u64> {
        let span: Span = span.parse().unwrap();
        let at = |step: u64| Progress { step, samples: (step / 16) * 1000 + (step % 16) * 64, seconds: step as f64 * 0.5 };
        (1..=until).filter(|&step| span.fires(at(step - 1), at(step), EPOCH)).collect()
    }

    #[test]
    fn every_unit_parses_and_prints_back() {
        for text in ["2ep", "500st", "1000000samples", "90s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("1e6 samples".parse::<Span>().unwrap().amount, 1e6);
        assert_eq!("1e3st".parse::<Span>().unwrap().amount, 1000.0);
        assert_eq!("30min".parse::<Span>().unwrap(), Span { amount: 1800.0, unit: Unit::Seconds });
        assert_eq!("0.5ep".parse::<Span>().unwrap().amount, 0.5);
    }

    #[test]
    fn nonsense_is_refused_with_what_was_wanted() {
        for text in ["0ep", "-1st", "ep", "3", "3 parsecs", "infst", "1.5st", ""] {
            let message = text.parse::<Span>().unwrap_err();
            assert!(message.contains(&format!("`{text}`")) || message.contains(text), "{message}");
        }
    }

    #[test]
    fn cadences_fire_where_a_person_counts() {
        assert_eq!(steps_that_fire("1st", 4), [1, 2, 3, 4]);
        assert_eq!(steps_that_fire("3st", 10), [3, 6, 9]);
        assert_eq!(steps_that_fire("1ep", 40), [16, 32]);
        assert_eq!(steps_that_fire("0.25ep", 16), [4, 8, 12, 16]);
        assert_eq!(steps_that_fire("2s", 12), [4, 8, 12]);
        assert_eq!(steps_that_fire("500samples", 20), [8, 16]);
        // A third of 16 steps is no whole number: the first step at or past each mark.
        assert_eq!(steps_that_fire("0.3333333333333333ep", 16), [6, 11, 16]);
    }

    #[test]
    fn budgets_in_steps_round_up() {
        let steps = |text: &str| text.parse::<Span>().unwrap().steps(EPOCH);
        assert_eq!(steps("2ep"), Some(32));
        assert_eq!(steps("0.1ep"), Some(2));
        assert_eq!(steps("7st"), Some(7));
        assert_eq!(steps("1000samples"), Some(16));
        assert_eq!(steps("1min"), None);
    }
}
