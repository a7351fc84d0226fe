// f32 numbers on their way into f16 memory. Functions only, no bindings.
//
// Inputs and outputs: one element each. Grid: none; the engine copies the functions that a kernel calls.
// Bounds: every bit pattern. A NaN stays one. From 65520 on, half a unit beyond the largest f16, the result is infinite, as IEEE 754 rounds to nearest:
// the conversion itself may round towards 0 on some devices and so end at 65504, and mixed precision lives by seeing what is too large.
// CPU twin: none, the CPU device has no f16.

enable f16;

fn half_of(x: f32) -> f16 {
    return f16(select(x, x * 3e38, abs(x) >= 65520.0));
}

fn half4_of(x: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(select(x, x * 3e38, abs(x) >= vec4<f32>(65520.0)));
}

// The nearest f16 number, as a factor of a product under mixed precision.
fn rounded_of(x: f32) -> f32 {
    return f32(f16(select(x, x * 3e38, abs(x) >= 65520.0)));
}

fn rounded4_of(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(vec4<f16>(select(x, x * 3e38, abs(x) >= vec4<f32>(65520.0))));
}
