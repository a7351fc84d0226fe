//! Axes as numbers: where ticks stand, how they are written, and the mapping between values and pixels. Draws nothing.

use crate::data::XAxis;
use serde::{Deserialize, Serialize};

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm; values that are not positive have no place.
    Log,
}

impl Scale {
    /// The place of a value, in the unit in which the axis is even.
    pub fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// Inverse of [`Scale::place`].
    pub fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear => place,
            Scale::Log => 10f64.powf(place),
        }
    }
}

/// An axis on screen: values `low..high` lie on pixels `start..end`.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// How values are laid out.
    pub scale: Scale,
    /// The value at `start`.
    pub low: f64,
    /// The value at `end`.
    pub high: f64,
    /// First pixel.
    pub start: f32,
    /// Last pixel; below `start` for an axis that grows upwards.
    pub end: f32,
}

impl Axis {
    /// The pixel of a value.
    pub fn pixel(&self, value: f64) -> f32 {
        let (low, high) = (self.scale.place(self.low), self.scale.place(self.high));
        let part = ((self.scale.place(value) - low) / (high - low)).clamp(-8.0, 9.0);
        self.start + part as f32 * (self.end - self.start)
    }

    /// The value of a pixel.
    pub fn value(&self, pixel: f32) -> f64 {
        let (low, high) = (self.scale.place(self.low), self.scale.place(self.high));
        let part = f64::from((pixel - self.start) / (self.end - self.start));
        self.scale.value(low + part * (high - low))
    }

    /// The mapping with everything worked out that does not depend on the value: for many values of one frame.
    pub fn pixels(&self) -> Pixels {
        let (low, high) = (self.scale.place(self.low), self.scale.place(self.high));
        Pixels { scale: self.scale, low, factor: 1.0 / (high - low), start: self.start, length: self.end - self.start }
    }

    /// Edges of `count` columns of equal width on screen.
    pub fn edges(&self, count: usize) -> Vec<f64> {
        let (low, high) = (self.scale.place(self.low), self.scale.place(self.high));
        let edge = |index: usize| self.scale.value(low + (high - low) * (index as f64 / count.max(1) as f64));
        std::iter::once(self.low).chain((1..count).map(edge)).chain([self.high]).collect()
    }

    /// Values to mark, at most about `count_max`: 1, 2 or 5 times a power of ten; on a logarithmic axis as many of them as have room, else powers of
    /// ten, else every second power, and so on.
    pub fn ticks(&self, count_max: usize) -> Vec<f64> {
        let count_max = count_max.max(2);
        if self.scale == Scale::Log && self.high > 0.0 {
            let (low, high) = (self.low.max(f64::MIN_POSITIVE).log10(), self.high.log10());
            let decades = low.floor() as i32..=high.ceil() as i32;
            let of = |factors: &[f64], stride: i32| -> Vec<f64> {
                let decades = decades.clone().filter(|decade| decade.rem_euclid(stride) == 0);
                let ticks = decades.flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
                // One part in 10^12: a power of ten may come out a little beside itself.
                ticks.filter(|tick| *tick >= self.low * (1.0 - 1e-12) && *tick <= self.high * (1.0 + 1e-12)).collect()
            };
            let stride = ((high - low) / count_max as f64).ceil().max(1.0) as i32;
            for (factors, stride) in [(&[1.0, 2.0, 5.0][..], 1), (&[1.0, 3.0], 1), (&[1.0], 1), (&[1.0], stride)] {
                let ticks = of(factors, stride);
                if ticks.len() <= count_max.max(3) && ticks.len() >= 2 {
                    return ticks;
                }
            }
        }
        let step = self.even_step(count_max);
        let (first, last) = self.even_ticks(step);
        (first..=last.min(first.saturating_add(100))).map(|index| index as f64 * step).collect()
    }

    // Between even ticks. One tick alone says nothing of the scale: then the next finer step.
    fn even_step(&self, count_max: usize) -> f64 {
        let step = nice_step((self.high - self.low) / count_max.max(2) as f64);
        let finer = [step, nice_step(step / 2.6), nice_step(step / 5.1)];
        let has_two = |step: &f64| {
            let (first, last) = self.even_ticks(*step);
            last > first
        };
        finer.into_iter().find(has_two).unwrap_or(step)
    }

    // Of the first and the last tick, how many steps they are from zero.
    fn even_ticks(&self, step: f64) -> (i64, i64) {
        ((self.low / step).ceil() as i64, (self.high / step).floor() as i64)
    }

    /// Values between those of [`Axis::ticks`], to mark without a text: 2 to 9 times the powers of ten of a logarithmic axis, or the powers that were
    /// left out; on an even one a quarter or a fifth of the way. None where they would stand too close.
    pub fn minor_ticks(&self, count_max: usize) -> Vec<f64> {
        let major = self.ticks(count_max);
        let is_major = |tick: f64| major.iter().any(|known| (known - tick).abs() <= 1e-9 * tick.abs());
        let within = |tick: &f64| *tick >= self.low && *tick <= self.high && !is_major(*tick);
        if self.scale == Scale::Log && self.high >= self.low.max(f64::MIN_POSITIVE) * 2.0 {
            let (low, high) = (self.low.max(f64::MIN_POSITIVE).log10(), self.high.log10());
            let decades = low.floor() as i32..=high.ceil() as i32;
            let factors: &[f64] = if high - low <= 7.0 { &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] } else { &[1.0] };
            return decades.flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade))).filter(within).collect();
        }
        let (Some(first), Some(second)) = (major.first(), major.get(1)) else { return Vec::new() };
        let step = second - first;
        // A step of 2 has quarters of a half, those of 1 and 5 have fifths.
        let parts = if (step / 10f64.powf(step.log10().floor() + 1e-9) - 2.0).abs() < 0.1 { 4 } else { 5 };
        let fine = step / f64::from(parts);
        let (first, last) = ((self.low / fine).ceil() as i64, (self.high / fine).floor() as i64);
        let near = |tick: &f64| !major.iter().any(|known| (known - tick).abs() < fine * 0.5);
        (first..=last.min(first.saturating_add(500))).map(|index| index as f64 * fine).filter(near).collect()
    }

    /// [`Axis::ticks`] of what runs along x: time has its own round numbers.
    pub fn ticks_of(&self, count: usize, x_axis: XAxis) -> Vec<f64> {
        if !is_time(x_axis) || self.scale == Scale::Log {
            return self.ticks(count);
        }
        let wanted = (self.high - self.low) / count as f64;
        let steps = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0];
        match steps.into_iter().find(|step| *step >= wanted) {
            Some(step) if wanted >= 0.5 => {
                let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
                (first..=last.min(first.saturating_add(100))).map(|index| index as f64 * step).collect()
            }
            _ => self.ticks(count),
        }
    }

    /// [`Axis::tick_text`] of what runs along x.
    pub fn tick_text_of(&self, value: f64, count: usize, x_axis: XAxis) -> String {
        if x_axis == XAxis::Wall {
            return clock(value, self.high - self.low);
        }
        if x_axis != XAxis::Relative || self.high - self.low < 3.0 {
            return self.tick_text(value, count) + if x_axis == XAxis::Relative { " s" } else { "" };
        }
        let one_digit = |value: f64| {
            let text = format!("{value:.1}");
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        };
        match value.abs() {
            ..120.0 => format!("{} s", one_digit(value)),
            120.0..7200.0 => format!("{} min", one_digit(value / 60.0)),
            7200.0..172_800.0 => format!("{} h", one_digit(value / 3600.0)),
            _ => format!("{} d", one_digit(value / 86_400.0)),
        }
    }

    /// How ticks are written: with as many digits as tell neighbours apart.
    pub fn tick_text(&self, value: f64, count_max: usize) -> String {
        match self.scale {
            Scale::Log if self.high / self.low.max(f64::MIN_POSITIVE) >= 10.0 => short(value),
            _ => with_step(value, self.even_step(count_max)),
        }
    }
}

/// The x axis is in seconds.
pub fn is_time(x_axis: XAxis) -> bool {
    matches!(x_axis, XAxis::Relative | XAxis::Wall)
}

/// Time of day, UTC; seconds where the axis is short.
pub fn clock(time: f64, span: f64) -> String {
    let secs = time.rem_euclid(86_400.0) as u32;
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if span < 600.0 { format!("{hours:02}:{minutes:02}:{secs:02}") } else { format!("{hours:02}:{minutes:02}") }
}

/// [`Axis`] for many values.
#[derive(Clone, Copy, Debug)]
pub struct Pixels {
    scale: Scale,
    low: f64,
    factor: f64,
    start: f32,
    length: f32,
}

impl Pixels {
    /// The pixel of a value; a few lengths beside the axis for what is far away, so that a line there goes the right way.
    pub fn at(&self, value: f64) -> f32 {
        let part = ((self.scale.place(value) - self.low) * self.factor).clamp(-8.0, 9.0);
        self.start + part as f32 * self.length
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
pub fn nice_step(step: f64) -> f64 {
    if !(step.is_finite() && step > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    // One part in 10^9: 10^log10(x) may come out a little below x.
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|nice| *nice >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// `low..high` with air around it; a range of width zero, or none, becomes one that can be drawn.
pub fn padded(range: Option<(f64, f64)>, scale: Scale) -> (f64, f64) {
    let Some((low, high)) = range else { return if scale == Scale::Log { (0.1, 1.0) } else { (0.0, 1.0) } };
    let (low, high) = (scale.place(low), scale.place(high));
    let air = if high > low { (high - low) * 0.06 } else { (low.abs() * 0.05).max(if scale == Scale::Log { 0.2 } else { 1e-9 }) };
    (scale.value(low - air), scale.value(high + air))
}

// A value on an axis with ticks `step` apart.
fn with_step(value: f64, step: f64) -> String {
    let magnitude = value.abs().max(step);
    let (unit, sign) = if magnitude >= 1e9 {
        (1e9, "G")
    } else if magnitude >= 1e6 {
        (1e6, "M")
    } else if magnitude >= 1e4 {
        (1e3, "k")
    } else {
        (1.0, "")
    };
    let decimals = (-(step / unit).log10().floor()).clamp(0.0, 12.0) as usize;
    if magnitude < 1e-3 && value != 0.0 {
        return scientific(value, 2);
    }
    let text = format!("{:.*}", decimals, value / unit);
    // Minus zero is zero.
    if text.trim_start_matches('-').bytes().all(|byte| matches!(byte, b'0' | b'.')) { "0".into() } else { text + sign }
}

/// A value to read at a glance: four digits, `k`, `M` and `G` for thousands, powers of ten for what is tiny.
pub fn short(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞".into() } else { "-∞".into() };
    }
    let magnitude = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-3..1e12).contains(&magnitude) {
        scientific(value, 3)
    } else if magnitude >= 1e9 {
        digits(value / 1e9) + "G"
    } else if magnitude >= 1e6 {
        digits(value / 1e6) + "M"
    } else if magnitude >= 1e4 {
        digits(value / 1e3) + "k"
    } else {
        digits(value)
    }
}

// Four significant digits, without zeros at the end.
fn digits(value: f64) -> String {
    let whole = value.abs().max(1e-12).log10().floor() as i32;
    trimmed(format!("{:.*}", (3 - whole).clamp(0, 9) as usize, value))
}

fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{exponent}", trimmed(mantissa.into()))
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// Seconds as people say them: `42 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".into();
    }
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, low: f64, high: f64) -> Axis {
        Axis { scale, low, high, start: 100.0, end: 300.0 }
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(axis(Scale::Linear, 0.0, 10.0).ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(axis(Scale::Linear, -0.3, 0.9).ticks(3), [0.0, 0.5]);
        assert_eq!(axis(Scale::Log, 0.005, 20.0).ticks(4), [0.01, 0.1, 1.0, 10.0]);
        assert_eq!(axis(Scale::Log, 0.9, 12.0).ticks(6), [1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn one_tick_is_never_alone() {
        assert_eq!(written(&axis(Scale::Linear, 0.1, 0.97).ticks(2)), "0.2 0.4 0.6 0.8");
        let low = axis(Scale::Linear, 40_900.0, 46_300.0);
        assert_eq!(low.ticks(2).into_iter().map(|tick| low.tick_text(tick, 2)).collect::<Vec<_>>(), ["42k", "44k", "46k"]);
    }

    fn written(ticks: &[f64]) -> String {
        ticks.iter().map(|tick| short(*tick)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_at_every_zoom() {
        // Two thirds of a decade around 1: one power of ten alone would say nothing.
        assert_eq!(written(&axis(Scale::Log, 0.15, 9.0).ticks(4)), "0.3 1 3");
        assert_eq!(axis(Scale::Log, 1.0, 10_000.0).ticks(5), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        // Twelve decades, room for four: every third.
        assert_eq!(written(&axis(Scale::Log, 1e-6, 1e6).ticks(5)), "1e-6 0.001 1 1000 1M");
        // Less than one decade: even steps.
        assert_eq!(axis(Scale::Log, 2.1, 3.9).ticks(4), [2.5, 3.0, 3.5]);
        for (low, high) in [(1.0, 2e4), (0.3, 4.0), (1e-7, 0.2), (5.0, 5.1), (900.0, 1100.0), (1.0, 1e9)] {
            for count in 2..9 {
                let ticks = axis(Scale::Log, low, high).ticks(count);
                assert!(!ticks.is_empty() && ticks.len() <= count.max(3) + 1, "{low} to {high} in {count}: {ticks:?}");
                assert!(ticks.is_sorted(), "{ticks:?}");
            }
        }
    }

    #[test]
    fn minor_ticks_stand_between_and_never_on_the_others() {
        assert_eq!(axis(Scale::Log, 1.0, 100.0).minor_ticks(3).len(), 16);
        assert_eq!(axis(Scale::Log, 1e-12, 1e12).minor_ticks(5).len(), 25 - axis(Scale::Log, 1e-12, 1e12).ticks(5).len());
        let minor = axis(Scale::Linear, 0.0, 4.0).minor_ticks(2);
        assert_eq!(minor, [0.5, 1.0, 1.5, 2.5, 3.0, 3.5]);
        assert_eq!(written(&axis(Scale::Linear, 0.0, 2.0).minor_ticks(2)), "0.2 0.4 0.6 0.8 1.2 1.4 1.6 1.8");
    }

    #[test]
    fn edges_are_even_on_screen() {
        assert_eq!(axis(Scale::Linear, 0.0, 8.0).edges(4), [0.0, 2.0, 4.0, 6.0, 8.0]);
        let edges = axis(Scale::Log, 1.0, 10_000.0).edges(4);
        for (edge, wanted) in edges.iter().zip([1.0, 10.0, 100.0, 1000.0, 10_000.0]) {
            assert!((edge / wanted - 1.0).abs() < 1e-12, "{edges:?}");
        }
        let axis = axis(Scale::Log, 0.01, 40.0);
        assert_eq!(axis.pixels().at(7.0), axis.pixel(7.0));
    }

    #[test]
    fn ticks_can_be_told_apart() {
        for (low, high) in [(0.0, 1.0), (2.301, 2.304), (0.0, 200_000.0), (-4e-6, 9e-6), (1e9, 1.001e9), (-3.0, 4e7)] {
            let axis = axis(Scale::Linear, low, high);
            let texts: Vec<String> = axis.ticks(5).into_iter().map(|tick| axis.tick_text(tick, 5)).collect();
            let mut unique = texts.clone();
            unique.dedup();
            assert_eq!(texts, unique);
        }
    }

    #[test]
    fn a_pixel_goes_to_its_value_and_back() {
        for scale in [Scale::Linear, Scale::Log] {
            let axis = axis(scale, 0.01, 40.0);
            for value in [0.01, 0.3, 7.0, 40.0] {
                // A pixel is an f32: 2^-24 of 300, over 200 pixels of 3.6 decades.
                assert!((axis.value(axis.pixel(value)) / value - 1.0).abs() < 1e-3, "{scale:?} {value}");
            }
        }
        assert_eq!(axis(Scale::Linear, 0.0, 2.0).pixel(1.0), 200.0);
    }

    #[test]
    fn values_read_at_a_glance() {
        let pairs = [
            (0.0, "0"),
            (0.123_456, "0.1235"),
            (12.0, "12"),
            (12_345.0, "12.35k"),
            (2_000_000.0, "2M"),
            (1e-5, "1e-5"),
            (-3.25e-4, "-3.25e-4"),
        ];
        for (value, text) in pairs {
            assert_eq!(short(value), text);
        }
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }
}
