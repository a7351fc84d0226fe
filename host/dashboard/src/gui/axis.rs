//! Axes as numbers: where ticks stand, how they are written, and the mapping between values and pixels. Draws nothing.

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

    /// Values to mark, at most about `count_max`: 1, 2 or 5 times a power of ten; powers of ten on a logarithmic axis over two decades or more.
    pub fn ticks(&self, count_max: usize) -> Vec<f64> {
        let count_max = count_max.max(2);
        if self.scale == Scale::Log {
            let (low, high) = (self.low.max(f64::MIN_POSITIVE).log10(), self.high.log10());
            if high - low >= 1.0 {
                let per_decade: &[f64] = if (high - low) * 3.0 <= count_max as f64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let stride = ((high - low) / count_max as f64).ceil().max(1.0) as i32;
                return (low.floor() as i32..=high.ceil() as i32)
                    .filter(|decade| decade.rem_euclid(stride) == 0)
                    .flat_map(|decade| per_decade.iter().map(move |factor| factor * 10f64.powi(decade)))
                    .filter(|tick| (self.low..=self.high).contains(tick))
                    .collect();
            }
        }
        let step = nice_step((self.high - self.low) / count_max as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last.min(first + 100)).map(|index| index as f64 * step).collect()
    }

    /// How ticks are written: with as many digits as tell neighbours apart.
    pub fn tick_text(&self, value: f64, count_max: usize) -> String {
        match self.scale {
            Scale::Log if self.high / self.low.max(f64::MIN_POSITIVE) >= 10.0 => short(value),
            _ => with_step(value, nice_step((self.high - self.low) / count_max.max(2) as f64)),
        }
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
