//! What part of the values a chart shows when nobody has zoomed: everything, or everything but a few peaks that would flatten the rest.

use super::super::axis::{Scale, padded, short};
use serde::{Deserialize, Serialize};

/// What people chose for the y axis of one chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChartOptions {
    /// Zero is always in sight.
    pub has_zero: bool,
    /// Lower end of the y axis.
    pub low: Option<f64>,
    /// Upper end of the y axis.
    pub high: Option<f64>,
}

/// What a chart shows of its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Least and greatest value to be seen.
    pub range: (f64, f64),
    /// Greatest value of all, where it is cut off.
    pub above: Option<f64>,
    /// Least value of all, where it is cut off.
    pub below: Option<f64>,
}

impl Seen {
    /// What is cut off, to be told.
    pub fn badge(&self) -> Option<String> {
        match (self.above, self.below) {
            (None, None) => None,
            (Some(peak), None) => Some(format!("cut at {}, up to {}", short(self.range.1), short(peak))),
            (None, Some(peak)) => Some(format!("cut at {}, down to {}", short(self.range.0), short(peak))),
            (Some(_), Some(_)) => Some(format!("cut at {} and {}", short(self.range.0), short(self.range.1))),
        }
    }
}

/// The range of curves, each given as its values. With `cuts`, a peak is cut off where it takes more than three quarters of the height and is no more
/// than 2 % of its curve: the first steps of a run, or a burst. Each curve is judged alone, so that none is hidden by another.
pub fn seen_of(curves: impl Iterator<Item = Vec<f64>>, scale: Scale, cuts: bool) -> Option<Seen> {
    let mut whole: Option<(f64, f64)> = None;
    let mut most: Option<(f64, f64)> = None;
    let join = |range: &mut Option<(f64, f64)>, low: f64, high: f64| {
        *range = Some(range.map_or((low, high), |(least, greatest)| (least.min(low), greatest.max(high))));
    };
    for mut values in curves {
        values.retain(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        if values.is_empty() {
            continue;
        }
        // Two values a column: a peak of one column is always left out where there are enough.
        let last = values.len() - 1;
        let left_out = if last < 16 { 0 } else { (last / 50).max(2) };
        let (below, low, _) = values.select_nth_unstable_by(left_out, f64::total_cmp);
        let (least, low) = (below.iter().copied().fold(*low, f64::min), *low);
        let (_, high, above) = values.select_nth_unstable_by(last - left_out, f64::total_cmp);
        let (greatest, high) = (above.iter().copied().fold(*high, f64::max), *high);
        join(&mut whole, least, greatest);
        join(&mut most, low, high);
    }
    let (whole, most) = (whole?, most?);
    // On a logarithmic axis nothing is flattened.
    let is_flattened = cuts && scale == Scale::Linear && most.1 > most.0 && whole.1 - whole.0 > 4.0 * (most.1 - most.0);
    if !is_flattened {
        return Some(Seen { range: whole, above: None, below: None });
    }
    Some(Seen { range: most, above: (whole.1 > most.1).then_some(whole.1), below: (whole.0 < most.0).then_some(whole.0) })
}

/// The ends of the y axis: a zoom, else what people chose, else what is seen, with air.
pub fn y_range(zoom: Option<(f64, f64)>, options: &ChartOptions, seen: Option<Seen>, scale: Scale) -> (f64, f64) {
    let can_be = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
    if let Some((low, high)) = zoom.filter(|(low, high)| can_be(low) && can_be(high) && low < high) {
        return (low, high);
    }
    let mut range = seen.map(|seen| seen.range);
    if options.has_zero && scale == Scale::Linear {
        range = Some(range.map_or((0.0, 1.0), |(low, high)| (low.min(0.0), high.max(0.0))));
    }
    let (mut low, mut high) = padded(range, scale);
    // Zero itself needs no air below it.
    if options.has_zero && scale == Scale::Linear {
        let (least, greatest) = range.unwrap_or((0.0, 1.0));
        low = if least == 0.0 { 0.0 } else { low };
        high = if greatest == 0.0 && least < 0.0 { 0.0 } else { high };
    }
    let (chosen_low, chosen_high) = (options.low.filter(can_be), options.high.filter(can_be));
    low = chosen_low.unwrap_or(low);
    high = chosen_high.unwrap_or(high);
    if low < high {
        return (low, high);
    }
    // One end was chosen beyond all values: the other one gives way.
    let span = if scale == Scale::Log { low.abs() * 9.0 } else { low.abs().max(1.0) };
    match (chosen_low, chosen_high) {
        (Some(low), _) => (low, low + span),
        (None, Some(high)) if scale == Scale::Log => (high / 10.0, high),
        (None, Some(high)) => (high - span, high),
        (None, None) => (low, low + span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(middle: f64, count: usize) -> Vec<f64> {
        (0..count).map(|index| middle + (index % 7) as f64 * 0.01).collect()
    }

    #[test]
    fn a_peak_is_cut_and_told_and_comes_back() {
        let mut values = noisy(1.0, 200);
        values[3] = 80.0;
        let seen = seen_of(std::iter::once(values.clone()), Scale::Linear, true).unwrap();
        assert_eq!((seen.range, seen.above, seen.below), ((1.0, 1.06), Some(80.0), None));
        assert_eq!(seen.badge().unwrap(), "cut at 1.06, up to 80");
        let whole = seen_of(std::iter::once(values), Scale::Linear, false).unwrap();
        assert_eq!((whole.range, whole.badge()), ((1.0, 80.0), None));
    }

    #[test]
    fn no_curve_is_ever_cut_off_whole() {
        // One far above many, one of a single value, one constant: some of each is within the range.
        let curves = [noisy(1.0, 300), noisy(5000.0, 300), vec![-900.0], vec![12.0; 40]];
        let seen = seen_of(curves.iter().cloned(), Scale::Linear, true).unwrap();
        for curve in &curves {
            let within = curve.iter().filter(|value| (seen.range.0..=seen.range.1).contains(*value)).count();
            assert!(within * 100 >= curve.len() * 90, "{within} of {}", curve.len());
        }
        assert_eq!(seen_of(std::iter::once(vec![f64::NAN, f64::INFINITY]), Scale::Linear, true), None);
        assert_eq!(seen_of(std::iter::once(vec![-1.0, 0.0]), Scale::Log, true), None);
    }

    #[test]
    fn chosen_ends_and_zero() {
        let seen = Some(Seen { range: (2.0, 4.0), above: None, below: None });
        let chosen = |has_zero, low, high| y_range(None, &ChartOptions { has_zero, low, high }, seen, Scale::Linear);
        assert_eq!(chosen(false, Some(1.0), Some(9.0)), (1.0, 9.0));
        assert_eq!(chosen(true, None, Some(9.0)), (0.0, 9.0));
        let (low, high) = chosen(false, Some(50.0), None);
        assert!(low == 50.0 && high > 50.0);
        assert_eq!(y_range(Some((2.5, 3.0)), &ChartOptions::default(), seen, Scale::Linear), (2.5, 3.0));
        // A zoom from before the axis was logarithmic.
        let (low, high) = y_range(Some((-1.0, 3.0)), &ChartOptions { low: Some(-5.0), ..ChartOptions::default() }, seen, Scale::Log);
        assert!(low > 0.0 && high > 4.0);
    }
}
