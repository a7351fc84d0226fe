//! Picking by index: embeddings, elements along an axis, one-hot rows.

use super::Size;
use super::init;
use crate::{Graph, Result, Tensor};
use solstice_ir::{Compare, DType};

impl Graph {
    /// Rows of the weight `{name}.weight` `[count, width]`, which starts as a standard normal (PyTorch's default).
    ///
    /// Shapes: indices `[..] -> [.., width]`. Errors: indices that are not i32 or u32. An index out of range is clamped.
    /// Gradient: sums of the rows of `grad_out` that were taken from one row.
    #[track_caller]
    pub fn embedding(&mut self, name: &str, indices: Tensor, count: impl Size, width: impl Size) -> Result<Tensor> {
        let (count, width) = (count.size(), width.size());
        self.layer("embedding", name, |g| {
            if !g.dtype(indices).is_integer() || count == 0 {
                let found = g.ty(indices).clone();
                return Ok(g.fail(format!("wants i32 or u32 indices into at least one row, got {found} into {count} rows")));
            }
            let weight = g.param("weight", &[count, width], init::normal(1.0));
            Ok(g.embedding_with(indices, weight))
        })
    }

    /// Rows of `weight` `[count, width]`. Shapes: indices `[..] -> [.., width]`. Errors, gradient: as [`Graph::embedding`].
    #[track_caller]
    pub fn embedding_with(&mut self, indices: Tensor, weight: Tensor) -> Tensor {
        if self.shape(weight).len() != 2 || !self.dtype(indices).is_integer() {
            let (indices, weight) = (self.ty(indices).clone(), self.ty(weight).clone());
            return self
                .fail(format!("embedding: wants i32 or u32 indices and weight as [count, width], got indices {indices}, weight {weight}"));
        }
        self.gather(weight, indices, 0, 0)
    }

    /// `out[.., i, ..] = x[.., indices[.., i, ..], ..]` along `axis`: `torch.gather`, `numpy.take_along_axis`.
    ///
    /// Shapes: x `[.., n, ..]`, indices `[.., m, ..]` equal to x on every other axis `-> [.., m, ..]`. An index out of range is clamped.
    /// Errors: other shapes, an axis that is not there, indices that are not i32 or u32. Gradient: added up where it was taken from.
    #[track_caller]
    pub fn take_along_axis(&mut self, x: Tensor, indices: Tensor, axis: usize) -> Tensor {
        let (shape, wanted) = (self.shape(x).to_vec(), self.shape(indices).to_vec());
        let rank = shape.len();
        let matches = |other: usize| other == axis || shape[other] == wanted[other];
        if axis >= rank || wanted.len() != rank || !(0..rank).all(matches) || !self.dtype(indices).is_integer() {
            let (x, indices) = (self.ty(x).clone(), self.ty(indices).clone());
            return self
                .fail(format!("take_along_axis: wants integer indices that match x beside axis {axis}, got x {x}, indices {indices}"));
        }
        // The op shares leading axes only, so `axis` goes last and comes back.
        let mut to_last: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
        to_last.push(axis);
        let mut back: Vec<usize> = (0..rank - 1).collect();
        back.insert(axis, rank - 1);
        let is_last = axis + 1 == rank;
        let (x, indices) = if is_last { (x, indices) } else { (self.transpose(x, &to_last), self.transpose(indices, &to_last)) };
        let taken = self.gather(x, indices, rank - 1, rank - 1);
        if is_last { taken } else { self.transpose(taken, &back) }
    }

    /// 1 at the index, 0 elsewhere (f32); a row of zeros for an index out of range.
    ///
    /// Shapes: `[..] -> [.., classes]`. Errors: indices that are not i32 or u32. Gradient: none.
    #[track_caller]
    pub fn one_hot(&mut self, indices: Tensor, classes: usize) -> Tensor {
        if !self.dtype(indices).is_integer() {
            let found = self.ty(indices).clone();
            return self.fail(format!("one_hot: wants i32 or u32 indices, got {found}"));
        }
        let hot = self.is_class(indices, classes);
        self.convert(hot, DType::F32)
    }

    /// True where the last axis counts to the index: `[..] -> bool[.., classes]`.
    #[track_caller]
    pub(super) fn is_class(&mut self, indices: Tensor, classes: usize) -> Tensor {
        let column = self.expand_dims(indices, self.shape(indices).len()); // [.., 1]
        let mut shape = self.shape(indices).to_vec();
        shape.push(classes);
        let counted = self.iota(self.dtype(indices), &shape, shape.len() - 1);
        self.compare(Compare::Equal, column, counted)
    }
}
