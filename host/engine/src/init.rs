//! First values of parameters and state: from an [`Init`], the run's seed and the tensor's name. The same on every device and in every order of
//! tensors, and bit for bit the same on every platform: the transcendental functions are `libm`'s, not the system's.

use crate::random::{threefry2x32, unit_f64};
use solstice_ir::{Init, element_count};

/// Elements of a tensor of `shape` in row-major order.
///
/// Random values are rounded to f32, so that a host that keeps them as f32 loses nothing and `Uniform` stays below `high`.
/// A single value in `Init::Values` fills the tensor; the graph's owner has checked that there is one or as many as elements.
pub fn initial_values(init: &Init, shape: &[usize], seed: u64, name: &str) -> Vec<f64> {
    let count = element_count(shape);
    let draws = Draws::new(seed, name);
    match init {
        Init::Constant(value) => vec![*value; count],
        Init::Values(literal) => (0..count).map(|index| literal.value(index)).collect(),
        Init::Uniform { low, high } => (0..count).map(|index| draws.uniform(index, *low, *high)).collect(),
        Init::Normal { mean, std } => (0..count).map(|index| to_f32(mean + std * draws.standard_normal(index, 0))).collect(),
        Init::TruncatedNormal { mean, std, cut } => {
            (0..count).map(|index| to_f32(mean + std * draws.truncated_normal(index, *cut))).collect()
        }
        Init::Orthogonal { gain } => {
            let rows = shape.first().copied().unwrap_or(1);
            let columns = element_count(shape.get(1..).unwrap_or(&[]));
            orthonormal(rows, columns, &draws).into_iter().map(|value| to_f32(gain * value)).collect()
        }
    }
}

/// 64-bit FNV-1a hash. Source: Fowler, Noll, Vo; offset and prime from RFC 9923.
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn to_f32(value: f64) -> f64 {
    f64::from(value as f32)
}

/// The random numbers of one tensor, addressed by element and attempt.
struct Draws {
    key: [u32; 2],
}

impl Draws {
    fn new(seed: u64, name: &str) -> Self {
        let name = fnv1a_64(name.as_bytes());
        Draws { key: threefry2x32([seed as u32, (seed >> 32) as u32], [name as u32, (name >> 32) as u32]) }
    }

    /// Number `attempt` in `[0, 1)` of element `index`.
    fn unit(&self, index: usize, attempt: u32) -> f64 {
        // A tensor has fewer than 2^32 elements: its bytes must be addressable on a GPU.
        unit_f64(threefry2x32(self.key, [index as u32, attempt]))
    }

    fn uniform(&self, index: usize, low: f64, high: f64) -> f64 {
        let value = (low + (high - low) * self.unit(index, 0)) as f32;
        // Rounding to f32 may reach `high`, which is excluded.
        let excluded = f64::from(value) >= high && low < high;
        f64::from(if excluded { (high as f32).next_down() } else { value })
    }

    /// Box and Muller, "A note on the generation of random normal deviates", 1958; the cosine branch.
    fn standard_normal(&self, index: usize, attempt: u32) -> f64 {
        let radius_bits = 1.0 - self.unit(index, 2 * attempt); // in (0, 1]: the logarithm is finite
        let angle_bits = self.unit(index, 2 * attempt + 1);
        libm::sqrt(-2.0 * libm::log(radius_bits)) * libm::cos(std::f64::consts::TAU * angle_bits)
    }

    fn truncated_normal(&self, index: usize, cut: f64) -> f64 {
        // With cut = 2 an attempt fails once in 22; 1000 failures mean a cut so narrow that the mean is as good.
        (0..1000).map(|attempt| self.standard_normal(index, attempt)).find(|value| value.abs() <= cut).unwrap_or(0.0)
    }
}

/// Row-major `[rows, columns]` matrix whose rows, or columns, whichever are fewer, are orthonormal; uniformly distributed.
///
/// Gram-Schmidt on normal vectors (QR with a positive diagonal, so that the result is Haar distributed: Mezzadri, "How to generate random matrices
/// from the classical compact groups", 2007).
fn orthonormal(rows: usize, columns: usize, draws: &Draws) -> Vec<f64> {
    let (vector_count, length) = (rows.min(columns), rows.max(columns));
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(vector_count);
    for vector_index in 0..vector_count {
        let first = vector_index * length;
        let mut vector: Vec<f64> = (first..first + length).map(|index| draws.standard_normal(index, 0)).collect();
        // A vector that lost more than half of its length has lost digits too and is projected again ("twice is enough", Kahan; four for good measure).
        for _ in 0..4 {
            let norm_before = norm(&vector);
            for earlier in &vectors {
                let overlap = dot(earlier, &vector);
                vector.iter_mut().zip(earlier).for_each(|(value, other)| *value -= overlap * other);
            }
            if norm(&vector) >= 0.5 * norm_before {
                break;
            }
        }
        let scale = 1.0 / norm(&vector);
        vector.iter_mut().for_each(|value| *value *= scale);
        vectors.push(vector);
    }
    if rows <= columns { vectors.concat() } else { (0..rows).flat_map(|row| vectors.iter().map(move |vector| vector[row])).collect() }
}

fn dot(lhs: &[f64], rhs: &[f64]) -> f64 {
    lhs.iter().zip(rhs).map(|(left, right)| left * right).sum()
}

fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_ir::{DType, Literal, TensorType};

    fn mean_and_std(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn fnv_matches_its_published_values() {
        // Test vectors of the FNV reference code.
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn constants_and_values_are_taken_as_they_are() {
        assert_eq!(initial_values(&Init::Constant(0.1), &[3], 7, "w"), [0.1; 3]);
        let ty = TensorType::new(DType::I32, [2]);
        assert_eq!(initial_values(&Init::Values(Literal { ty: ty.clone(), values: vec![4.0, -5.0] }), &[2], 7, "w"), [4.0, -5.0]);
        assert_eq!(initial_values(&Init::Values(Literal::splat(ty, 9.0)), &[2], 7, "w"), [9.0; 2]);
    }

    #[test]
    fn uniform_fills_its_interval_and_nothing_else() {
        let values = initial_values(&Init::Uniform { low: -1.0, high: 3.0 }, &[100, 100], 1, "w");
        assert!(values.iter().all(|value| (-1.0..3.0).contains(value)));
        let (mean, std) = mean_and_std(&values);
        // Mean 1, standard deviation 4 / sqrt(12) = 1.1547; the mean of 10000 wanders by 0.0115, four of those allowed.
        assert!((mean - 1.0).abs() < 0.05 && (std - 1.1547).abs() < 0.05, "{mean} {std}");
        // Only one f32 lies in [1, 1 + 1e-8): rounding must not leave the interval.
        let narrow = initial_values(&Init::Uniform { low: 1.0, high: 1.0 + 1e-8 }, &[64], 1, "w");
        assert!(narrow.iter().all(|&value| value < 1.0 + 1e-8));
    }

    #[test]
    fn normals_have_their_moments() {
        let (mean, std) = mean_and_std(&initial_values(&Init::Normal { mean: 0.5, std: 2.0 }, &[10_000], 3, "w"));
        assert!((mean - 0.5).abs() < 0.08 && (std - 2.0).abs() < 0.06, "{mean} {std}");
        let cut = initial_values(&Init::TruncatedNormal { mean: 0.5, std: 2.0, cut: 2.0 }, &[10_000], 3, "w");
        assert!(cut.iter().all(|value| (value - 0.5).abs() <= 4.0 + 1e-6));
        // The standard normal cut at 2 has the standard deviation 0.8796.
        let (mean, std) = mean_and_std(&cut);
        assert!((mean - 0.5).abs() < 0.08 && (std - 2.0 * 0.8796).abs() < 0.06, "{mean} {std}");
    }

    #[test]
    fn orthogonal_matrices_are_orthonormal_on_their_short_side() {
        for (shape, rows, columns) in
            [(vec![5, 5], 5, 5), (vec![3, 7], 3, 7), (vec![7, 3], 7, 3), (vec![4, 2, 3], 4, 6), (vec![6], 6, 1), (vec![1, 1], 1, 1)]
        {
            let values = initial_values(&Init::Orthogonal { gain: 2.0 }, &shape, 11, "w");
            assert_eq!(values.len(), rows * columns);
            let at = |row: usize, column: usize| values[row * columns + column];
            let short = rows.min(columns);
            for left in 0..short {
                for right in 0..short {
                    let product: f64 = if rows <= columns {
                        (0..columns).map(|k| at(left, k) * at(right, k)).sum()
                    } else {
                        (0..rows).map(|k| at(k, left) * at(k, right)).sum()
                    };
                    let wanted = if left == right { 4.0 } else { 0.0 };
                    // Values are rounded to f32: 2^-24 relative on each of up to 7 products of at most 4.
                    assert!((product - wanted).abs() < 2e-6, "{shape:?}: {product} at {left}, {right}");
                }
            }
        }
        assert!(initial_values(&Init::Orthogonal { gain: 1.0 }, &[0, 4], 11, "w").is_empty());
    }

    #[test]
    fn seed_and_name_decide_and_nothing_else() {
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let values = initial_values(&init, &[4], 5, "a");
        assert_eq!(values, initial_values(&init, &[4], 5, "a"));
        assert_ne!(values, initial_values(&init, &[4], 5, "b"));
        assert_ne!(values, initial_values(&init, &[4], 6, "a"));
        assert_ne!(values, initial_values(&init, &[4], 5 + (1 << 32), "a"));
        // A larger tensor starts with the same elements: nothing depends on the number of elements.
        assert_eq!(values, initial_values(&init, &[8], 5, "a")[..4]);
    }
}
