//! Element types and tensor types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// 32-bit signed integer: indices and labels.
    I32,
    /// 32-bit unsigned integer: random bits, counters, seeds.
    U32,
    /// Truth value; one 32-bit word of 0 or 1 on every device.
    Bool,
    /// Byte, for storage of data sets only: a `u8` value is a parameter or a gather from one, and only `convert` reads it.
    U8,
}

impl DType {
    /// Size of one element as it crosses the device boundary, in bytes (a `Bool` is a 32-bit word).
    pub fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            _ => 4,
        }
    }

    /// True for the types that carry gradients.
    pub fn is_float(self) -> bool {
        self == DType::F32
    }

    /// True for signed and unsigned 32-bit integers.
    pub fn is_integer(self) -> bool {
        matches!(self, DType::I32 | DType::U32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::Bool => "bool",
            DType::U8 => "u8",
        })
    }
}

/// Element type and shape of a tensor; shape `[]` is a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes, outermost first; row-major.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A tensor type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements; 1 for a scalar.
    pub fn element_count(&self) -> usize {
        element_count(&self.shape)
    }

    /// Bytes of the tensor as it crosses the device boundary.
    pub fn byte_count(&self) -> usize {
        self.element_count() * self.dtype.size()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.dtype, sizes.join(","))
    }
}

/// Product of the sizes; 1 for `[]`.
pub fn element_count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Row-major strides of `shape`, in elements.
pub fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}
