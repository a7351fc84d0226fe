//! Layers, activations and losses as methods of [`Graph`].
//!
//! Layers (`linear`, `conv2d`, `layer_norm`, `dropout`, `max_pool2d`, ..) return a `Result`; those with weights make them under their name. Functions
//! (activations, losses, the `_with` forms that take weights as values) return a `Tensor` and leave their error to the next `Result`, as arithmetic does.
//! Names, layouts, defaults and initial distributions are those of PyTorch, so that weights can be carried over; where a function differs, it says so.
//! Functions that a device may have a kernel for are composites of the same name; their bodies are what they mean.
//!
//! A layer is a scope: `g.linear("fc1", ..)` labels its nodes `fc1`, so that errors, kernels and the host's summary name the layer.
//!
//! One file a family; `init.rs` has the initial distributions. None of it knows the engine: everything is built from the methods in `graph.rs`.

mod activations;
mod attention;
mod convolution;
mod dropout;
mod indexing;
pub mod init;
mod linear;
mod loss;
mod norm;
mod pool;
mod reductions;
mod resize;

pub use convolution::{Conv, Conv1d, Conv2d, Conv3d, ConvTranspose, ConvTranspose1d, ConvTranspose2d};
pub use norm::BatchNormed;
pub use pool::{Pool, Pool1d, Pool2d};

use crate::{Graph, Tensor};
use serde_json::Value;

/// The width of a layer: a `usize`, a config's `u32`, or a number written in the code.
pub trait Size {
    /// As a count.
    fn size(self) -> usize;
}

impl Size for usize {
    fn size(self) -> usize {
        self
    }
}

impl Size for u32 {
    fn size(self) -> usize {
        self as usize
    }
}

impl Size for i32 {
    // A literal; one below zero makes the layer refuse its width.
    fn size(self) -> usize {
        usize::try_from(self).unwrap_or(0)
    }
}

impl Graph {
    /// A composite with one result. What goes wrong in the body is noted at the author's line.
    #[track_caller]
    fn function(&mut self, name: &str, attrs: Value, inputs: &[Tensor], body: impl FnOnce(&mut Graph, &[Tensor]) -> Tensor) -> Tensor {
        match self.composite(name, attrs, inputs, |g, arguments| Ok(vec![body(g, arguments)])) {
            Ok(results) => results[0],
            Err(error) => self.fail(error.message),
        }
    }

    /// False, with an error noted, when `x` has no axis `axis`.
    #[track_caller]
    fn has_axis(&mut self, function: &str, x: Tensor, axis: usize) -> bool {
        let fits = axis < self.shape(x).len();
        if !fits {
            let message = format!("{function}: wants an axis below {}, got {axis}: x is {}", self.shape(x).len(), self.ty(x));
            self.fail(message);
        }
        fits
    }

    /// `axes` that a reduction took away, put back with size 1. They are in increasing order.
    #[track_caller]
    fn restore_axes(&mut self, reduced: Tensor, axes: &[usize]) -> Tensor {
        let mut shape = self.shape(reduced).to_vec();
        for &axis in axes {
            shape.insert(axis.min(shape.len()), 1);
        }
        self.reshape(reduced, &shape)
    }
}
