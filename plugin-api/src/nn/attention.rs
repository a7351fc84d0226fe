//! Attention.

use super::dropout::drop_by_bits;
use crate::{Graph, Result, Tensor};
use serde_json::json;
use solstice_ir::{Compare, DType, DotDims};

/// What a masked score is set to: far below any score, and finite, because WGSL has no infinity.
const MASKED: f64 = -1e30;

impl Graph {
    /// `softmax(q k^T / sqrt(dim)) v`; with `causal` a query sees keys up to its own position.
    ///
    /// Shapes: q `[batch, heads, query, dim]`, k `[batch, heads, key, dim]`, v `[batch, heads, key, width] -> [batch, heads, query, width]`; any number of
    /// leading axes. Errors: sizes that do not fit. Cost: the scores `[.., query, key]` are formed, unless the device has a kernel for `attention`.
    /// Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    #[track_caller]
    pub fn scaled_dot_product_attention(&mut self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Result<Tensor> {
        self.check()?;
        let y = self.attention("scaled_dot_product_attention", [q, k, v], causal, 0.0);
        self.check().map(|()| y)
    }

    /// Self-attention of `heads` heads: a projection `{name}.qkv` to queries, keys and values, attention, and a projection `{name}.out` back; both are
    /// [`Graph::linear`] layers. Dropout with probability `dropout` acts on the attention weights.
    ///
    /// `{name}.qkv.weight` is `[3 width, width]`: rows of q, then k, then v, each cut into heads in order (PyTorch's `in_proj_weight`).
    ///
    /// Shapes: `[batch, sequence, width] -> [batch, sequence, width]`. Errors: another rank, heads that do not divide the width, a bad probability.
    #[track_caller]
    pub fn multi_head_attention(&mut self, name: &str, x: Tensor, heads: usize, causal: bool, dropout: f64) -> Result<Tensor> {
        self.layer("multi_head_attention", name, |g| {
            let &[batch, sequence, width] = g.shape(x) else {
                let found = g.ty(x).clone();
                return Ok(g.fail(format!("wants x as f32[batch, sequence, width], got {found}")));
            };
            if heads == 0 || width % heads != 0 {
                return Ok(g.fail(format!("wants heads that divide the width {width}, got {heads}")));
            }
            let qkv = g.linear("qkv", x, 3 * width)?; // [batch, sequence, 3 width]
            let parts = g.reshape(qkv, &[batch, sequence, 3, heads, width / heads]);
            let parts = g.transpose(parts, &[2, 0, 3, 1, 4]); // [3, batch, heads, sequence, dim]
            let mut part = [parts; 3];
            for (index, slot) in part.iter_mut().enumerate() {
                let cut = g.slice(parts, 0, index, index + 1);
                *slot = g.reshape(cut, &[batch, heads, sequence, width / heads]);
            }
            let mixed = g.attention("attention", part, causal, dropout); // [batch, heads, sequence, dim]
            let mixed = g.transpose(mixed, &[0, 2, 1, 3]);
            let mixed = g.reshape(mixed, &[batch, sequence, width]);
            g.linear("out", mixed, width)
        })
    }

    #[track_caller]
    fn attention(&mut self, who: &str, qkv: [Tensor; 3], causal: bool, dropout: f64) -> Tensor {
        let [q_shape, k_shape, v_shape] = qkv.map(|tensor| self.shape(tensor).to_vec());
        let rank = q_shape.len();
        let fits = rank >= 2
            && k_shape.len() == rank
            && v_shape.len() == rank
            && q_shape[..rank - 2] == k_shape[..rank - 2]
            && k_shape[..rank - 1] == v_shape[..rank - 1]
            && q_shape[rank - 1] == k_shape[rank - 1];
        if !fits {
            return self.fail(format!(
                "{who}: wants q [.., query, dim], k [.., key, dim], v [.., key, width], got q {q_shape:?}, k {k_shape:?}, v {v_shape:?}"
            ));
        }
        if !(0.0..=1.0).contains(&dropout) {
            return self.fail(format!("{who}: wants a dropout probability within 0..=1, got {dropout}"));
        }
        let dropout = if self.training() { dropout } else { 0.0 };
        let scale = 1.0 / (q_shape[rank - 1] as f64).sqrt();
        let mut inputs = qkv.to_vec();
        if dropout > 0.0 {
            let scores = [&q_shape[..rank - 1], &[k_shape[rank - 2]]].concat();
            inputs.push(self.random_bits(&scores));
        }
        let attrs = json!({"causal": causal, "scale": scale, "dropout": dropout});
        self.function("attention", attrs, &inputs, |g, inputs| {
            let batch: Vec<usize> = (0..rank - 2).collect();
            let dims = |rhs: usize| DotDims {
                lhs_batch: batch.clone(),
                rhs_batch: batch.clone(),
                lhs_contract: vec![rank - 1],
                rhs_contract: vec![rhs],
            };
            let scores = g.dot_general(inputs[0], inputs[1], dims(rank - 1)); // [.., query, key]
            let mut scores = g.scale(scores, scale);
            if causal {
                let square = [q_shape[rank - 2], k_shape[rank - 2]];
                let (row, column) = (g.iota(DType::I32, &square, 0), g.iota(DType::I32, &square, 1));
                let seen = g.compare(Compare::GreaterEqual, row, column); // [query, key]
                let masked = g.full_like(scores, MASKED);
                scores = g.select(seen, scores, masked);
            }
            let mut weights = g.softmax(scores, rank - 1); // [.., query, key]
            if let Some(&bits) = inputs.get(3) {
                weights = drop_by_bits(g, weights, bits, dropout);
            }
            g.dot_general(weights, inputs[2], dims(rank - 2)) // [.., query, width]
        })
    }
}
