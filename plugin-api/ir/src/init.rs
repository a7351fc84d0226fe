//! How a parameter starts. Fan-in and fan-out rules (Xavier, Kaiming) are worked out by the layer that knows its fans; here are only distributions.

use crate::Literal;
use serde::{Deserialize, Serialize};

/// Initial value of a parameter or state tensor. Random values are drawn by the host from (run seed, tensor name), so they do not depend on
/// the device or on the order in which tensors are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Every element has this value.
    Constant(f64),
    /// Uniform in `[low, high)`.
    Uniform {
        /// Lower end, included.
        low: f64,
        /// Upper end, excluded.
        high: f64,
    },
    /// Normal distribution.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Normal distribution, redrawn until within `cut` standard deviations of the mean.
    TruncatedNormal {
        /// Mean.
        mean: f64,
        /// Standard deviation before truncation.
        std: f64,
        /// Cut in standard deviations.
        cut: f64,
    },
    /// Rows (or columns, whichever are fewer) orthonormal, times `gain`; the tensor is seen as `[shape[0], rest]`. Source: Saxe et al. 2013.
    Orthogonal {
        /// Factor on the orthonormal matrix.
        gain: f64,
    },
    /// Exactly these values.
    Values(Literal),
}
