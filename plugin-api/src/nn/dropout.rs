//! Dropout.

use crate::{Graph, Result, Tensor};
use serde_json::json;
use solstice_ir::Compare;

impl Graph {
    /// Each element set to 0 with probability `p`, the others times `1 / (1 - p)`; the identity when not training. Every call draws anew.
    ///
    /// Shapes: any. Errors: a `p` outside `[0, 1]`. Gradient: through the elements that were kept. The mask is recomputed, not stored.
    /// Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    #[track_caller]
    pub fn dropout(&mut self, x: Tensor, p: f64) -> Result<Tensor> {
        if !(0.0..=1.0).contains(&p) {
            self.fail(format!("dropout: wants a probability within 0..=1, got {p}"));
        }
        self.check()?;
        if !self.training() || p == 0.0 {
            return Ok(x);
        }
        let shape = self.shape(x).to_vec();
        let bits = self.random_bits(&shape);
        let y = self.function("dropout", json!({"p": p}), &[x, bits], |g, inputs| drop_by_bits(g, inputs[0], inputs[1], p));
        self.check().map(|()| y)
    }
}

/// `x` with elements dropped where `bits` (u32, the shape of `x`) say so. A composite's body calls it: the bits are drawn outside.
pub(super) fn drop_by_bits(g: &mut Graph, x: Tensor, bits: Tensor, p: f64) -> Tensor {
    if p >= 1.0 {
        return g.full_like(x, 0.0);
    }
    // Of 2^32 equally likely words, round(p 2^32) lie below the threshold.
    let threshold = (p * 4_294_967_296.0).round().min(4_294_967_295.0);
    let kept = g.compare_with(Compare::GreaterEqual, bits, threshold);
    let scaled = g.scale(x, 1.0 / (1.0 - p));
    let zero = g.full_like(x, 0.0);
    g.select(kept, scaled, zero)
}
