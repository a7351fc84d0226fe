// Elementwise functions as `solstice_ir::UnaryOp`, `BinaryOp` and `Op::Convert` define them. Functions only, no bindings.
//
// Inputs and outputs: one element each. Grid: none; the engine copies the functions that a generated kernel calls (and those that they call).
// Bounds: every bit pattern of the argument types. CPU twin: the elementwise functions of host/engine/src/cpu/.
//
// exp, log, sin, cos, tanh are written out because WGSL allows errors up to 2^-11 in its own, and because 1 - 0.999^t needs a log that is exact near 1.
// Source of the polynomials: Cephes 2.2, single precision (S. L. Moshier, netlib.org/cephes), errors of 1 to 2 units in the last place.

// WGSL has no literal for infinities and NaNs, and constant expressions may not make one: the bits go through a function argument.
fn f32_from_bits(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}

// naga writes `!=` on floats as an ordered comparison, so `x != x` is false for a NaN: look at the bits.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn maximum_f32(x: f32, y: f32) -> f32 {
    return select(y, x, x > y || is_nan(x));
}

fn minimum_f32(x: f32, y: f32) -> f32 {
    return select(y, x, x < y || is_nan(x));
}

fn sign_f32(x: f32) -> f32 {
    return select(select(0.0, -1.0, x < 0.0), 1.0, x > 0.0);
}

// 2^n for n in -126..=127.
fn power_of_two(n: i32) -> f32 {
    return f32_from_bits(u32(n + 127) << 23u);
}

fn exponential(x: f32) -> f32 {
    // Beyond these the result is infinite or 0, which the scaling below gives by itself.
    let clamped = clamp(x, -104.0, 89.0);
    let n = floor(clamped * 1.44269504088896341 + 0.5);
    let r = (clamped - n * 0.693359375) + n * 2.12194440e-4;
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    let y = p * r * r + r + 1.0;
    // Two factors: 2^n itself may be out of range.
    let half = i32(n) / 2;
    return select(y * power_of_two(half) * power_of_two(i32(n) - half), x, is_nan(x));
}

fn logarithm(x: f32) -> f32 {
    let is_small = x < 1.17549435e-38;
    let bits = bitcast<u32>(select(x, x * 8388608.0, is_small));
    var e = f32(i32(bits >> 23u) - select(126, 149, is_small));
    var m = f32_from_bits((bits & 0x7fffffu) | 0x3f000000u); // [0.5, 1)
    if (m < 0.70710678118654752) {
        e = e - 1.0;
        m = m + m;
    }
    m = m - 1.0;
    let z = m * m;
    var p = 7.0376836292e-2;
    p = p * m - 1.1514610310e-1;
    p = p * m + 1.1676998740e-1;
    p = p * m - 1.2420140846e-1;
    p = p * m + 1.4249322787e-1;
    p = p * m - 1.6668057665e-1;
    p = p * m + 2.0000714765e-1;
    p = p * m - 2.4999993993e-1;
    p = p * m + 3.3333331174e-1;
    let y = (m + (p * m * z - e * 2.12194440e-4 - 0.5 * z)) + e * 0.693359375;
    // NaNs and +inf are themselves; a negative number has no logarithm.
    let is_special = is_nan(x) || bitcast<u32>(x) == 0x7f800000u;
    let lower = select(y, f32_from_bits(0xff800000u), x == 0.0);
    return select(select(lower, f32_from_bits(0x7fc00000u), x < 0.0), x, is_special);
}

fn hyperbolic_tangent(x: f32) -> f32 {
    let a = abs(x);
    let z = x * x;
    var p = -5.70498872745e-3;
    p = p * z + 2.06390887954e-2;
    p = p * z - 5.37397155531e-2;
    p = p * z + 1.33314422036e-1;
    p = p * z - 3.33332819422e-1;
    let large = 1.0 - 2.0 / (exponential(2.0 * a) + 1.0);
    return select(select(large, -large, x < 0.0), p * z * x + x, a < 0.625);
}

fn logistic(x: f32) -> f32 {
    // exp of a negative number may vanish, but not overflow.
    let e = exponential(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

// x modulo pi/4, in three steps so that no bit is lost for |x| up to about 8000.
fn octant_remainder(x: f32, octants: f32) -> f32 {
    return ((x - octants * 0.78515625) - octants * 2.4187564849853515625e-4) - octants * 3.77489497744594108e-8;
}

fn sine_polynomial(x: f32) -> f32 {
    let z = x * x;
    return ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x;
}

fn cosine_polynomial(x: f32) -> f32 {
    let z = x * x;
    return ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
}

fn sine(x: f32) -> f32 {
    let a = abs(x);
    var octant = u32_from_f32(a * 1.27323954473516);
    octant = octant + (octant & 1u);
    let r = octant_remainder(a, f32(octant));
    let y = select(sine_polynomial(r), cosine_polynomial(r), (octant & 2u) != 0u);
    let is_negative = ((octant & 4u) != 0u) != (x < 0.0);
    let is_finite = (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
    return select(f32_from_bits(0x7fc00000u), select(y, -y, is_negative), is_finite);
}

fn cosine(x: f32) -> f32 {
    let a = abs(x);
    var octant = u32_from_f32(a * 1.27323954473516);
    octant = octant + (octant & 1u);
    let r = octant_remainder(a, f32(octant));
    let y = select(cosine_polynomial(r), sine_polynomial(r), (octant & 2u) != 0u);
    let is_negative = ((octant & 4u) != 0u) != ((octant & 2u) != 0u);
    let is_finite = (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
    return select(f32_from_bits(0x7fc00000u), select(y, -y, is_negative), is_finite);
}

// x P(x^2) / Q(x^2) on [-4, 4], beyond which erf is 1 to f32. Source: Eigen, `generic_fast_erf_float` (also XLA's `ErfImpl32`).
fn error_function(x: f32) -> f32 {
    let c = clamp(x, -4.0, 4.0);
    let z = c * c;
    var p = -2.72614225801306e-10;
    p = p * z + 2.77068142495902e-8;
    p = p * z - 2.10102402082508e-6;
    p = p * z - 5.69250639462346e-5;
    p = p * z - 7.34990630326855e-4;
    p = p * z - 2.95459980854025e-3;
    p = p * z - 1.60960333262415e-2;
    var q = -1.45660718464996e-5;
    q = q * z - 2.13374055278905e-4;
    q = q * z - 1.68282697438203e-3;
    q = q * z - 7.37332916720468e-3;
    q = q * z - 1.42647390514189e-2;
    return select(c * p / q, x, is_nan(x));
}

fn power(x: f32, y: f32) -> f32 {
    let magnitude = abs(x);
    let is_whole = floor(y) == y;
    let is_odd = is_whole && abs(y) < 16777216.0 && (u32_from_f32(abs(y)) & 1u) == 1u;
    var result = exponential(y * logarithm(magnitude));
    if (magnitude == 1.0) {
        result = 1.0; // also for infinite y, where the product above is a NaN
    }
    // A zero or infinity keeps its sign under odd powers; a finite negative number has whole powers only.
    let is_negative = (bitcast<u32>(x) >> 31u) == 1u;
    result = select(result, -result, is_negative && is_odd);
    let is_finite_negative = x < 0.0 && magnitude < f32_from_bits(0x7f800000u);
    result = select(result, f32_from_bits(0x7fc00000u), is_finite_negative && !is_whole);
    result = select(result, x + y, is_nan(x) || is_nan(y));
    return select(result, 1.0, y == 0.0 || x == 1.0);
}

// Remainder of a truncating division, exact: long division in base 2. A subnormal divisor counts as 0.
fn remainder_f32(x: f32, y: f32) -> f32 {
    let divisor = abs(y);
    let divisor_bits = bitcast<u32>(divisor);
    let is_bad = (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u || is_nan(y) || divisor_bits < 0x00800000u;
    var rest = abs(x);
    if (!is_bad && rest >= divisor && divisor_bits < 0x7f800000u) {
        let exponent = bitcast<u32>(rest) & 0x7f800000u;
        var multiple = f32_from_bits((divisor_bits & 0x7fffffu) | exponent);
        var steps = (exponent - (divisor_bits & 0x7f800000u)) >> 23u;
        loop {
            if (rest >= multiple) {
                rest = rest - multiple;
            }
            if (steps == 0u) {
                break;
            }
            multiple = multiple * 0.5;
            steps = steps - 1u;
        }
    }
    return select(select(rest, -rest, x < 0.0), f32_from_bits(0x7fc00000u), is_bad);
}

fn divide_i32(x: i32, y: i32) -> i32 {
    return select(x / select(y, 1, y == 0), 0, y == 0);
}

fn divide_u32(x: u32, y: u32) -> u32 {
    return select(x / select(y, 1u, y == 0u), 0u, y == 0u);
}

fn remainder_i32(x: i32, y: i32) -> i32 {
    return select(x % select(y, 1, y == 0), 0, y == 0);
}

fn remainder_u32(x: u32, y: u32) -> u32 {
    return select(x % select(y, 1u, y == 0u), 0u, y == 0u);
}

fn shift_left_u32(x: u32, count: u32) -> u32 {
    return select(x << (count & 31u), 0u, count > 31u);
}

fn shift_right_u32(x: u32, count: u32) -> u32 {
    return select(x >> (count & 31u), 0u, count > 31u);
}

fn shift_left_i32(x: i32, count: i32) -> i32 {
    return bitcast<i32>(shift_left_u32(bitcast<u32>(x), bitcast<u32>(count)));
}

fn shift_right_i32(x: i32, count: i32) -> i32 {
    return bitcast<i32>(shift_right_u32(bitcast<u32>(x), bitcast<u32>(count)));
}

// Truncates and saturates; a NaN gives 0.
fn i32_from_f32(x: f32) -> i32 {
    let inside = i32(clamp(x, -2147483648.0, 2147483520.0));
    let low = select(inside, bitcast<i32>(0x80000000u), x <= -2147483648.0);
    return select(select(low, 2147483647, x >= 2147483648.0), 0, is_nan(x));
}

// Truncates and saturates; a NaN gives 0.
fn u32_from_f32(x: f32) -> u32 {
    let inside = u32(clamp(x, 0.0, 4294967040.0));
    return select(select(inside, 0xffffffffu, x >= 4294967296.0), 0u, is_nan(x));
}
