//! Numbers that are saved exactly, places in a run, and words for messages.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Event, NamedTensor, RunFacts};
use solstice_plugin_api::{EpochShape, Progress};

/// A number in a saved state. It is written as text: JSON has no infinities, and its reader may miss the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Exact, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Exact).map_err(|_| D::Error::custom(format!("`{text}` is no number")))
    }
}

/// How far a run was, in a saved state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Steps done.
    pub step: u64,
    samples: u64,
    seconds: Exact,
}

impl Place {
    /// Where an event happened.
    pub fn of(event: &Event) -> Place {
        Place { step: event.at.step, samples: event.at.samples, seconds: Exact(event.at.seconds) }
    }

    /// From the start of the run.
    pub fn progress(&self) -> Progress {
        Progress { step: self.step, samples: self.samples, seconds: self.seconds.0 }
    }

    /// From an earlier place to this one.
    pub fn since(&self, earlier: &Place) -> Progress {
        Progress {
            step: self.step.saturating_sub(earlier.step),
            samples: self.samples.saturating_sub(earlier.samples),
            seconds: self.seconds.0 - earlier.seconds.0,
        }
    }
}

/// Sizes of an epoch.
pub fn epoch(facts: &RunFacts) -> EpochShape {
    EpochShape { samples: facts.epoch_samples.max(1), steps: facts.epoch_steps.max(1) }
}

/// A figure of an event; a sentence that lists what there is when it does not occur.
pub fn figure(who: &str, event: &Event, name: &str) -> Result<f64> {
    event.metrics.get(name).copied().ok_or_else(|| {
        let known = list(event.metrics.keys());
        problem(format!("{who}: there is no metric `{name}` at step {}; there are {known}", event.at.step))
    })
}

/// An error in the user's settings: the line of this plugin would not help.
pub fn problem(message: String) -> Error {
    Error::at(message, "")
}

/// Names for a message.
pub fn list<Name: AsRef<str>>(names: impl IntoIterator<Item = Name>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A number with six digits at most, as a person writes it.
pub fn shown(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let trimmed =
        |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    if (1e-4..1e6).contains(&magnitude) {
        let decimals = (5 - magnitude.log10().floor() as i32).max(0) as usize;
        return trimmed(&format!("{value:.decimals$}"));
    }
    let text = format!("{value:.5e}");
    let (digits, exponent) = text.split_once('e').expect("Rust writes an exponent");
    format!("{}e{exponent}", trimmed(digits))
}

/// The values of a tensor of whole numbers; `None` for another type.
pub fn integers(tensor: &NamedTensor) -> Option<Vec<i64>> {
    let words = tensor.bytes.chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("four bytes"));
    match tensor.ty.dtype {
        DType::I32 => Some(words.map(|word| i64::from(i32::from_le_bytes(word))).collect()),
        DType::U32 | DType::Bool => Some(words.map(|word| i64::from(u32::from_le_bytes(word))).collect()),
        DType::U8 => Some(tensor.bytes.iter().map(|&byte| i64::from(byte)).collect()),
        DType::F32 => None,
    }
}

/// The tensor of that name; a sentence that lists what there is when it is not among them.
pub fn named<'a>(who: &str, what: &str, tensors: &'a [NamedTensor], name: &str) -> Result<&'a NamedTensor> {
    tensors.iter().find(|tensor| tensor.name == name).ok_or_else(|| {
        let known = list(tensors.iter().map(|tensor| &tensor.name));
        problem(format!("{who}: {what} has no `{name}`; there are {known}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_numbers_come_back_bit_for_bit() {
        // 0.1 + 0.2 needs 17 digits.
        for value in [0.1 + 0.2, 1.0 / 3.0, 5e-324, -0.0, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let text = serde_json::to_string(&Exact(value)).unwrap();
            let Exact(read) = serde_json::from_str(&text).unwrap();
            assert!(read.to_bits() == value.to_bits() || (read.is_nan() && value.is_nan()), "{text}");
        }
    }

    #[test]
    fn numbers_are_shown_with_six_digits_at_most() {
        // An f32 of 0.49 is 0.49000000953674316.
        for (value, text) in [
            (f64::from(0.49f32), "0.49"),
            (0.0, "0"),
            (3.0, "3"),
            (123456.0, "123456"),
            (-12.3456789, "-12.3457"),
            (0.00012, "0.00012"),
            (3.2e-7, "3.2e-7"),
            (2.5e9, "2.5e9"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(shown(value), text);
        }
    }
}
