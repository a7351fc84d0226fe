//! Fully connected layers.

use super::{Size, init};
use crate::{Graph, Result, Tensor};
use solstice_ir::{DType, DotDims};

impl Graph {
    /// `x W^T + b`: a fully connected layer with the weights `{name}.weight` `[out, in]` and `{name}.bias` `[out]`.
    ///
    /// Shapes: `[.., in] -> [.., out]`. Errors: an `x` without axes, or not f32.
    /// Weights start uniform in `±1/sqrt(in)`, PyTorch's default (`kaiming_uniform` with `a = sqrt(5)`). For another start make them with
    /// [`Graph::param`] and call [`Graph::linear_with`].
    #[track_caller]
    pub fn linear(&mut self, name: &str, x: Tensor, out: impl Size) -> Result<Tensor> {
        self.linear_layer(name, x, out.size(), true)
    }

    /// [`Graph::linear`] without `{name}.bias`.
    #[track_caller]
    pub fn linear_no_bias(&mut self, name: &str, x: Tensor, out: impl Size) -> Result<Tensor> {
        self.linear_layer(name, x, out.size(), false)
    }

    #[track_caller]
    fn linear_layer(&mut self, name: &str, x: Tensor, out: usize, has_bias: bool) -> Result<Tensor> {
        self.layer("linear", name, |g| {
            let Some(&width) = g.shape(x).last().filter(|_| g.dtype(x) == DType::F32) else {
                let found = g.ty(x).clone();
                return Ok(g.fail(format!("wants x as f32[.., in], got {found}")));
            };
            if out == 0 {
                return Ok(g.fail("wants a width of at least 1, got none"));
            }
            let weight = g.param("weight", &[out, width], init::fan_in_uniform(width));
            let mut bias = None;
            if has_bias {
                bias = Some(g.param("bias", &[out], init::fan_in_uniform(width)));
            }
            Ok(g.linear_with(x, weight, bias))
        })
    }

    /// `x W^T + b` with weights that are values: `weight` `[out, in]`, `bias` `[out]`.
    ///
    /// Shapes: `[.., in] -> [.., out]`. Errors: sizes that do not fit.
    #[track_caller]
    pub fn linear_with(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
        let (shape, weight_shape) = (self.shape(x).to_vec(), self.shape(weight).to_vec());
        let (Some(width), [out, weight_width]) = (shape.last(), &weight_shape[..]) else {
            return self.fail(format!("linear: wants x as [.., in] and weight as [out, in], got x {shape:?}, weight {weight_shape:?}"));
        };
        if width != weight_width {
            return self.fail(format!("linear: inner sizes differ: x is {shape:?}, weight [out, in] is {weight_shape:?}"));
        }
        let dims = DotDims { lhs_contract: vec![shape.len() - 1], rhs_contract: vec![1], ..DotDims::default() };
        let product = self.dot_general(x, weight, dims); // [.., out]
        match bias {
            None => product,
            Some(bias) if self.shape(bias) == [*out] => self.add(product, bias),
            Some(bias) => {
                let found = self.ty(bias).clone();
                self.fail(format!("linear: wants bias as [{out}], got {found}"))
            }
        }
    }
}
