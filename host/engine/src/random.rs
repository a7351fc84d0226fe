//! Counter-based random numbers: threefry2x32 with 20 rounds. No state: the same key and counter give the same words on every device, so there is
//! nothing to save but the counter. `init.rs` and `reference.rs` draw from here; the kernels have their own copies, tested against this one.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants and key schedule as in Random123's `threefry.h`, which is
//! also what `jax.random` uses.

/// Rotation distances of the eight rounds that repeat (`R_32x2_*` in Random123).
const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];

/// Constant of the key schedule (`SKEIN_KS_PARITY32` in Random123).
const PARITY: u32 = 0x1BD1_1BDA;

/// Two random words for a key and a counter; a bijection of the counter for each key.
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let schedule = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let [mut left, mut right] = [counter[0].wrapping_add(schedule[0]), counter[1].wrapping_add(schedule[1])];
    for round in 0..20 {
        left = left.wrapping_add(right);
        right = right.rotate_left(ROTATIONS[round % 8]) ^ left;
        // The key is injected after every fourth round, with the number of the injection.
        if round % 4 == 3 {
            let injection = round / 4 + 1;
            left = left.wrapping_add(schedule[injection % 3]);
            right = right.wrapping_add(schedule[(injection + 1) % 3]).wrapping_add(injection as u32);
        }
    }
    [left, right]
}

/// Element `element` of `Op::RngBits { stream }` in step `step` of a run with seed `seed`.
pub fn rng_bits(seed: u32, stream: u32, step: u32, element: u32) -> u32 {
    threefry2x32([seed, stream], [step, element])[0]
}

/// A number in `[0, 1)` with 53 random bits, from two random words.
pub fn unit_f64(words: [u32; 2]) -> f64 {
    let bits = (u64::from(words[0] >> 5) << 26) | u64::from(words[1] >> 6);
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `threefry2x32 20` lines of Random123's `tests/kat_vectors`.
    #[test]
    fn known_answers_of_random123() {
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn unit_numbers_stay_below_one() {
        assert_eq!(unit_f64([0, 0]), 0.0);
        // The largest is 1 - 2^-53.
        assert_eq!(unit_f64([u32::MAX; 2]), 1.0 - f64::EPSILON / 2.0);
    }
}
