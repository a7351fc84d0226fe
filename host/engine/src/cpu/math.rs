//! Elementary functions of f32 without branches or tables, so that loops over them become vector code on any instruction set.
//!
//! Errors against f64 over their whole range, measured by the tests below in units of the last place of the result: exp 1, log 1, tanh 5, logistic 3,
//! erf 8, sine and cosine 1.5 (absolute 1e-7 next to a zero). Infinities, NaN and subnormal arguments give what std gives. Polynomials are chains of
//! fused multiply-adds: half the instructions, one rounding each. A machine without them (x86 before 2013) computes the same bits, slowly.

// Coefficients stand as their sources print them.
#![allow(clippy::excessive_precision)]

/// Added and taken away again, rounds to a whole number (1.5 * 2^23).
const ROUND: f32 = 12_582_912.0;

/// Largest argument that sine and cosine reduce themselves; what lies beyond goes through std, element by element.
pub(super) const TRIGONOMETRIC_MAX: f32 = 1.0e5;

/// e^x. Source: Cephes `expf`, Moshier; the power of two is applied in two halves, which reaches subnormal results.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Outside these the result is 0 or infinite; a NaN, whose bits mean nothing here, is brought back by the last line.
    let clamped = x.clamp(-104.0, 89.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let n_float = shifted - ROUND;
    let r = n_float.mul_add(2.121_944_4e-4, n_float.mul_add(-0.693_359_4, clamped));
    let mut p = 1.987_569_2e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5.000_000_1e-1);
    let y = p.mul_add(r * r, r) + 1.0;
    let half = n >> 1;
    let y = y * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if x.is_nan() { x } else { y }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// Natural logarithm. Source: Cephes `logf`.
#[inline(always)]
pub(super) fn log(x: f32) -> f32 {
    let is_subnormal = x < f32::MIN_POSITIVE;
    let scaled = if is_subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    // Mantissa in [sqrt(1/2), sqrt(2)), exponent to match.
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let exponent = (shifted as i32) >> 23;
    let mantissa = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let e = exponent as f32 - if is_subnormal { 23.0 } else { 0.0 };
    let m = mantissa - 1.0;
    let z = m * m;
    let mut p = 7.037_683_6e-2_f32;
    p = p.mul_add(m, -1.151_461e-1);
    p = p.mul_add(m, 1.167_699_9e-1);
    p = p.mul_add(m, -1.242_014_1e-1);
    p = p.mul_add(m, 1.424_932_3e-1);
    p = p.mul_add(m, -1.666_805_8e-1);
    p = p.mul_add(m, 2.000_071_5e-1);
    p = p.mul_add(m, -2.499_999_4e-1);
    p = p.mul_add(m, 3.333_333_1e-1);
    let y = (-0.5_f32).mul_add(z, e.mul_add(-2.121_944_4e-4, p * m * z));
    let y = e.mul_add(0.693_359_4, m + y);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// Source: rational approximation of Eigen's `generic_fast_tanh_float` (also XLA's `EmitFastTanh`).
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Where the quotient reaches 1.
    let c = x.clamp(-7.998_811_7, 7.998_811_7);
    let z = c * c;
    let mut p = -2.760_768_5e-16_f32;
    p = p.mul_add(z, 2.000_187_9e-13);
    p = p.mul_add(z, -8.604_671_5e-11);
    p = p.mul_add(z, 5.122_297_1e-8);
    p = p.mul_add(z, 1.485_722_4e-5);
    p = p.mul_add(z, 6.372_619_3e-4);
    p = p.mul_add(z, 4.893_524_6e-3);
    let mut q = 1.198_258_4e-6_f32;
    q = q.mul_add(z, 1.185_347_1e-4);
    q = q.mul_add(z, 2.268_434_6e-3);
    q = q.mul_add(z, 4.893_525e-3);
    // Subnormal arguments would lose their last bits in the quotient.
    let y = if x.abs() < 4e-4 { x } else { c * p / q };
    if x.is_nan() { x } else { y }
}

/// 1 / (1 + e^-x), from an exponential that cannot overflow.
#[inline(always)]
pub(super) fn logistic(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Source: rational approximation of Eigen's `generic_fast_erf_float` (also XLA's `ErfImpl32`).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let c = x.clamp(-4.0, 4.0);
    let z = c * c;
    let mut p = -2.726_142_3e-10_f32;
    p = p.mul_add(z, 2.770_681_4e-8);
    p = p.mul_add(z, -2.101_024e-6);
    p = p.mul_add(z, -5.692_506_4e-5);
    p = p.mul_add(z, -7.349_906_3e-4);
    p = p.mul_add(z, -2.954_599_8e-3);
    p = p.mul_add(z, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5_f32;
    q = q.mul_add(z, -2.133_740_6e-4);
    q = q.mul_add(z, -1.682_827e-3);
    q = q.mul_add(z, -7.373_329_2e-3);
    q = q.mul_add(z, -1.426_473_9e-2);
    let y = (c * p / q).clamp(-1.0, 1.0);
    if x.is_nan() { x } else { y }
}

/// Quadrant and remainder of x by pi/2, in f64: exact to f32 for arguments up to `TRIGONOMETRIC_MAX`.
#[inline(always)]
fn quarter_turns(x: f32) -> (i32, f32) {
    let wide = f64::from(x);
    // 1.5 * 2^52 rounds as ROUND does.
    let shifted = wide * std::f64::consts::FRAC_2_PI + 6_755_399_441_055_744.0;
    let n = shifted - 6_755_399_441_055_744.0;
    let r = wide - n * std::f64::consts::FRAC_PI_2 - n * 6.123_233_995_736_766e-17;
    (shifted.to_bits() as i32, r as f32)
}

/// Sine and cosine on [-pi/4, pi/4]. Source: Cephes `sinf`, `cosf`.
#[inline(always)]
fn sine_and_cosine_near_zero(r: f32) -> (f32, f32) {
    let z = r * r;
    let sine = (-1.951_529_6e-4_f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1).mul_add(z * r, r);
    let cosine = 2.443_315_7e-5_f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2).mul_add(z * z, (-0.5_f32).mul_add(z, 1.0));
    (sine, cosine)
}

/// Only for `|x| <= TRIGONOMETRIC_MAX`.
#[inline(always)]
pub(super) fn sine(x: f32) -> f32 {
    let (quadrant, r) = quarter_turns(x);
    let (sine, cosine) = sine_and_cosine_near_zero(r);
    let y = if quadrant & 1 == 0 { sine } else { cosine };
    if quadrant & 2 == 0 { y } else { -y }
}

/// Only for `|x| <= TRIGONOMETRIC_MAX`.
#[inline(always)]
pub(super) fn cosine(x: f32) -> f32 {
    let (quadrant, r) = quarter_turns(x);
    let (sine, cosine) = sine_and_cosine_near_zero(r);
    let y = if quadrant & 1 == 0 { cosine } else { sine };
    if quadrant.wrapping_add(1) & 2 == 0 { y } else { -y }
}

#[inline(always)]
pub(super) fn maximum(x: f32, y: f32) -> f32 {
    // A NaN on either side comes through.
    if x > y || x.is_nan() { x } else { y }
}

#[inline(always)]
pub(super) fn minimum(x: f32, y: f32) -> f32 {
    if x < y || x.is_nan() { x } else { y }
}

/// Lanes of `threefry`: two vectors of AVX2 or one of AVX-512.
pub(super) const LANES: usize = 16;

/// First words of threefry2x32 for `LANES` counters; equal to `random::rng_bits` lane by lane.
#[inline(always)]
pub(super) fn threefry(seed: u32, stream: u32, step: u32, elements: &[u32; LANES]) -> [u32; LANES] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let schedule = [seed, stream, 0x1BD1_1BDA ^ seed ^ stream];
    let mut left = [step.wrapping_add(schedule[0]); LANES];
    let mut right = elements.map(|element| element.wrapping_add(schedule[1]));
    for injection in 1..=5usize {
        for round in 0..4 {
            let rotation = ROTATIONS[(injection - 1) % 2 * 4 + round];
            for lane in 0..LANES {
                left[lane] = left[lane].wrapping_add(right[lane]);
                right[lane] = right[lane].rotate_left(rotation) ^ left[lane];
            }
        }
        let (first, second) = (schedule[injection % 3], schedule[(injection + 1) % 3].wrapping_add(injection as u32));
        for lane in 0..LANES {
            left[lane] = left[lane].wrapping_add(first);
            right[lane] = right[lane].wrapping_add(second);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error in units of the last place of the true result, over a grid of bit patterns within `from..=to` and their negatives.
    fn worst(function: fn(f32) -> f32, truth: fn(f64) -> f64, from: f32, to: f32, signed: bool) -> f64 {
        let mut worst = 0.0f64;
        for bits in (from.to_bits()..=to.to_bits()).step_by(9973) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if x < 0.0 && !signed {
                    continue;
                }
                let wanted = truth(f64::from(x));
                let rounded = wanted as f32;
                let unit = f64::from(
                    f32::from_bits((rounded.abs().to_bits()).max(f32::MIN_POSITIVE.to_bits()) + 1)
                        - f32::from_bits(rounded.abs().to_bits().max(f32::MIN_POSITIVE.to_bits())),
                );
                let error = (f64::from(function(x)) - wanted).abs() / unit;
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn errors_stay_within_a_few_units_of_the_last_place() {
        let cases: [(&str, f64, f64); 5] = [
            ("exp", worst(exp, f64::exp, 1e-8, 87.3, true), 1.0),
            ("log", worst(log, f64::ln, 1e-40, 3e38, false), 1.0),
            ("tanh", worst(tanh, f64::tanh, 1e-30, 30.0, true), 5.0),
            ("logistic", worst(logistic, |x| 1.0 / (1.0 + (-x).exp()), 1e-8, 80.0, true), 3.0),
            ("erf", worst(erf, libm::erf, 1e-30, 6.0, true), 8.0),
        ];
        for (name, error, bound) in cases {
            println!("{name}: {error:.2}");
            assert!(error <= bound, "{name} is off by {error} units");
        }
    }

    #[test]
    fn sine_and_cosine_hold_up_to_their_limit() {
        let mut worst = 0.0f64;
        for bits in (1e-20f32.to_bits()..=TRIGONOMETRIC_MAX.to_bits()).step_by(997) {
            let x = f32::from_bits(bits);
            worst = worst.max((f64::from(sine(x)) - f64::from(x).sin()).abs()).max((f64::from(cosine(-x)) - f64::from(x).cos()).abs());
        }
        println!("absolute error {worst:e}");
        assert!(worst < 1.2e-7);
    }

    #[test]
    fn special_arguments_give_what_std_gives() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, -1e-45, 88.8, -103.0, -110.0, 200.0, f32::MAX, f32::MIN] {
            let pairs = [(exp(x), x.exp()), (log(x), x.ln()), (tanh(x), x.tanh()), (erf(x), libm::erf(f64::from(x)) as f32)];
            for (position, (found, wanted)) in pairs.into_iter().enumerate() {
                let close = found == wanted || (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() <= wanted.abs() * 4e-7 + 1e-44;
                assert!(close, "function {position} of {x}: {found} for {wanted}");
            }
        }
        assert_eq!((logistic(f32::NEG_INFINITY), logistic(f32::INFINITY)), (0.0, 1.0));
        assert!(logistic(f32::NAN).is_nan() && maximum(1.0, f32::NAN).is_nan() && minimum(f32::NAN, 1.0).is_nan());
    }

    #[test]
    fn lanes_of_threefry_are_the_scalar_function() {
        let elements: [u32; LANES] = std::array::from_fn(|lane| (lane as u32).wrapping_mul(0x9e37_79b9));
        let words = threefry(7, 3, 11, &elements);
        elements.iter().zip(words).for_each(|(&element, word)| assert_eq!(word, crate::random::rng_bits(7, 3, 11, element)));
    }
}
