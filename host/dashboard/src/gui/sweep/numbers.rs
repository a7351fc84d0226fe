//! The sweep's numbers: places on axes and ranks. Draws nothing.

use super::super::axis::Scale;
use std::collections::BTreeSet;

/// Greatest over least value from which an axis is logarithmic.
const LOG_SPREAD: f64 = 20.0;

/// How values of a setting lie on an axis, from 0 (bottom) to 1 (top).
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// Numbers from least to greatest.
    Numbers {
        /// Evenly or by their logarithm.
        scale: Scale,
        /// Least.
        low: f64,
        /// Greatest.
        high: f64,
    },
    /// Words, in order.
    Words(Vec<String>),
}

impl Layout {
    /// The layout of these values: numbers where all are finite numbers, logarithmic where all are positive and far apart; words otherwise.
    pub fn of<'a>(values: impl Iterator<Item = &'a str>) -> Layout {
        let values: BTreeSet<&str> = values.collect();
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse::<f64>().ok().filter(|number| number.is_finite())).collect();
        match numbers {
            Some(numbers) if !numbers.is_empty() => Layout::of_numbers(numbers.into_iter()),
            _ => Layout::Words(values.into_iter().map(str::to_owned).collect()),
        }
    }

    /// The layout of numbers; what is not finite has no place.
    pub fn of_numbers(numbers: impl Iterator<Item = f64>) -> Layout {
        let (low, high) = numbers
            .filter(|number| number.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| (low.min(number), high.max(number)));
        if low > high {
            return Layout::Numbers { scale: Scale::Linear, low: 0.0, high: 1.0 };
        }
        let scale = if low > 0.0 && high / low >= LOG_SPREAD { Scale::Log } else { Scale::Linear };
        Layout::Numbers { scale, low, high }
    }

    /// Where a value lies.
    pub fn place(&self, value: &str) -> Option<f64> {
        match self {
            Layout::Numbers { .. } => self.place_of(value.parse().ok()?),
            Layout::Words(words) => {
                let index = words.iter().position(|word| word == value)?;
                Some(if words.len() == 1 { 0.5 } else { index as f64 / (words.len() - 1) as f64 })
            }
        }
    }

    /// Where a number lies; the only one lies in the middle.
    pub fn place_of(&self, number: f64) -> Option<f64> {
        let Layout::Numbers { scale, low, high } = self else { return None };
        if !number.is_finite() {
            return None;
        }
        let (from, to) = (scale.place(*low), scale.place(*high));
        Some(if to > from { ((scale.place(number) - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 })
    }

    /// The number at a place, within the axis.
    pub fn value_at(&self, place: f64) -> Option<f64> {
        let Layout::Numbers { scale, low, high } = self else { return None };
        let (from, to) = (scale.place(*low), scale.place(*high));
        Some(scale.value(from + place.clamp(0.0, 1.0) * (to - from)))
    }
}

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|index| values[**index] == values[order[start]]).count();
        let rank = start as f64 + (same as f64 + 1.0) / 2.0;
        order[start..start + same].iter().for_each(|index| ranks[*index] = rank);
        start += same;
    }
    ranks
}

/// Spearman's rank correlation: Pearson's over the [`ranks`]. `None` below three pairs, or where one side is all the same.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let one = ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let other = ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    // Ranks and shared ranks alike have this mean.
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let (covariance, spread) = (sum(&one, &other), (sum(&one, &one) * sum(&other, &other)).sqrt());
    (spread > 0.0).then(|| covariance / spread)
}

/// A setting as a number to be ranked: a number, or a yes and no.
pub fn number_of(value: &str) -> Option<f64> {
    match value {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => value.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[10.0, 30.0, 20.0, 20.0]), [1.0, 4.0, 2.5, 2.5]);
        assert_eq!(ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn rank_correlations_by_hand() {
        let spearman = |one: &[f64], other: &[f64]| super::spearman(&one.iter().copied().zip(other.iter().copied()).collect::<Vec<_>>());
        // Any growing function: 1; any falling one: -1.
        assert_eq!(spearman(&[1.0, 10.0, 100.0, 1000.0], &[0.1, 0.2, 0.25, 9.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 4.0, -1.0]), Some(-1.0));
        // Squared differences of the ranks sum up to 194, so 1 - 6 * 194 / (10 * 99) = -29/165, as in the worked
        // example of Wikipedia's article on Spearman's coefficient.
        let iq = [106.0, 86.0, 100.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0];
        let hours = [7.0, 0.0, 27.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        assert!((spearman(&iq, &hours).unwrap() + 29.0 / 165.0).abs() < 1e-12);
        // Ranks 1.5 1.5 3 against 1 2 3: deviations -.5 -.5 1 and -1 0 1, so 1.5 / sqrt(1.5 * 2).
        assert!((spearman(&[0.0, 0.0, 1.0], &[1.0, 2.0, 3.0]).unwrap() - 0.75f64.sqrt()).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn layouts_follow_the_values() {
        let of = |values: &[&str]| Layout::of(values.iter().copied());
        assert_eq!(of(&["0.1", "0.2", "1"]), Layout::Numbers { scale: Scale::Linear, low: 0.1, high: 1.0 });
        assert_eq!(of(&["1e-4", "0.1", "0.01"]), Layout::Numbers { scale: Scale::Log, low: 1e-4, high: 0.1 });
        assert_eq!(of(&["0", "100"]), Layout::Numbers { scale: Scale::Linear, low: 0.0, high: 100.0 });
        assert_eq!(of(&["sgd", "adam", "3"]), Layout::Words(vec!["3".into(), "adam".into(), "sgd".into()]));
        // The middle of four decades is the second power.
        assert!((of(&["1", "10000"]).place("100").unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(of(&["a", "b", "c"]).place("b"), Some(0.5));
        assert_eq!(of(&["7"]).place("7"), Some(0.5));
        assert_eq!(of(&["1", "2"]).place("x"), None);
    }
}
