//! Muon: momentum made orthogonal.

use crate::adam::adam_direction;
use crate::{descend, moving_average, with_decay, zeros_like};
use solstice_plugin_api::prelude::*;

/// Momentum whose matrix is replaced by the nearest one with equal singular values; vectors and scalars go by AdamW at the same learning
/// rate.
///
/// A weight of three or more axes is the matrix `[first axis, all others]`. Embeddings and last layers are turned as well, although its
/// author gives them to AdamW: an optimizer plugin sees a weight, not its place.
/// Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, as `torch.optim.Muon` (here in f32, not bf16).
#[config]
pub struct Muon {
    /// Base learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Decay of the mean gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub momentum: f64,
    /// Looks one step ahead along the momentum.
    pub nesterov: bool,
    /// Each step takes `lr * weight_decay` of a weight away. Live.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Weights with fewer than two axes decay too.
    pub decay_biases_and_norms: bool,
    /// Size of a step on a matrix.
    pub scale: MuonScale,
    /// AdamW's decay of the mean gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta1: f64,
    /// AdamW's decay of the mean squared gradient.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta2: f64,
    /// AdamW's addition to the root of the mean square.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
}

/// Size of a step on a matrix.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum MuonScale {
    /// `0.2 * sqrt(max(rows, columns))`: entries move as far as AdamW's, so one learning rate serves both. Source: Liu et al., "Muon is
    /// Scalable", 2025.
    MatchRmsAdamw,
    /// `sqrt(max(1, rows / columns))`, as its author first had it; learning rates near 0.02.
    Original,
}

impl Default for Muon {
    fn default() -> Self {
        Muon {
            lr: 1e-3,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            decay_biases_and_norms: true,
            scale: MuonScale::MatchRmsAdamw,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl Optimizer for Muon {
    const ID: &'static str = "muon";

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let shape = g.shape(at.param).to_vec();
        let param = with_decay(g, at, self.weight_decay, self.decay_biases_and_norms);
        if shape.len() < 2 {
            let direction = adam_direction(g, at, (self.beta1, self.beta2), self.epsilon);
            return Ok(descend(g, param, at.lr, direction));
        }
        let momentum = zeros_like(g, "momentum", at.param);
        let momentum = moving_average(g, momentum, at.grad, self.momentum);
        let direction = if self.nesterov {
            let difference = g.sub(momentum, at.grad);
            let part = g.scale(difference, self.momentum);
            g.add(at.grad, part)
        } else {
            momentum
        };
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let matrix = g.reshape(direction, &[rows, columns]);
        let turned = orthogonalized(g, matrix);
        let size = match self.scale {
            MuonScale::MatchRmsAdamw => 0.2 * (rows.max(columns) as f64).sqrt(),
            MuonScale::Original => (rows as f64 / columns as f64).max(1.0).sqrt(),
        };
        let scaled = g.scale(turned, size);
        let direction = g.reshape(scaled, &shape);
        Ok(descend(g, param, at.lr, direction))
    }
}

/// About `U V^T` of the matrix `U S V^T`: five steps of a quintic that drives singular values to between 0.7 and 1.2, not to 1, as fast as
/// it can.
///
/// Source: Newton-Schulz iteration with the coefficients of Jordan et al., KellerJordan/Muon, `muon.py`.
fn orthogonalized(g: &mut Graph, matrix: Tensor) -> Tensor {
    const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
    let is_tall = g.shape(matrix)[0] > g.shape(matrix)[1];
    let wide = if is_tall { g.transpose(matrix, &[1, 0]) } else { matrix };
    // The products are of the shorter side. The norm bounds the largest singular value by 1.
    let square = g.square(wide);
    let sum = g.sum_all(square);
    let norm = g.sqrt(sum);
    let least = g.constant(1e-7);
    let norm = g.maximum(norm, least);
    let mut x = g.div(wide, norm);
    for _ in 0..5 {
        // x <- a x + (b A + c A^2) x with A = x x^T.
        let transposed = g.transpose(x, &[1, 0]);
        let gram = g.matmul(x, transposed);
        let gram_square = g.matmul(gram, gram);
        let linear = g.scale(gram, COEFFICIENTS.1);
        let quadratic = g.scale(gram_square, COEFFICIENTS.2);
        let polynomial = g.add(linear, quadratic);
        let turned = g.matmul(polynomial, x);
        let kept = g.scale(x, COEFFICIENTS.0);
        x = g.add(kept, turned);
    }
    if is_tall { g.transpose(x, &[1, 0]) } else { x }
}
