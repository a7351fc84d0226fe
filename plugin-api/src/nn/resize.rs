//! Maps made larger.

use crate::{Graph, Tensor};

impl Graph {
    /// Every element repeated `scale` times along height and width.
    ///
    /// Shapes: `[batch, channels, h, w] -> [batch, channels, scale h, scale w]`. Errors: another rank, a scale of 0. Gradient: sum over the repeats.
    #[track_caller]
    pub fn upsample_nearest2d(&mut self, x: Tensor, scale: usize) -> Tensor {
        let &[batch, channels, height, width] = self.shape(x) else {
            let found = self.ty(x).clone();
            return self.fail(format!("upsample_nearest2d: wants x as [batch, channels, height, width], got {found}"));
        };
        if scale == 0 {
            return self.fail("upsample_nearest2d: wants a scale of at least 1, got 0");
        }
        let cells = self.reshape(x, &[batch, channels, height, 1, width, 1]);
        let repeated = self.broadcast_to(cells, &[batch, channels, height, scale, width, scale]);
        self.reshape(repeated, &[batch, channels, height * scale, width * scale])
    }
}
