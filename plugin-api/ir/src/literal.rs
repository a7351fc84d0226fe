//! Constant values inside a graph.

use crate::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// A constant tensor: either one value for every element, or all elements in row-major order.
///
/// Values are held as `f64`, which is exact for every `i32`, `u32` and `f32`; JSON has no infinities, so they are written as strings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Literal {
    /// Element type and shape.
    #[serde(flatten)]
    pub ty: TensorType,
    /// One value (a splat) or `ty.element_count()` values.
    #[serde(with = "values")]
    pub values: Vec<f64>,
}

impl Literal {
    /// Every element is `value`.
    pub fn splat(ty: TensorType, value: f64) -> Self {
        Literal { ty, values: vec![value] }
    }

    /// A scalar of type `dtype`.
    pub fn scalar(dtype: DType, value: f64) -> Self {
        Literal::splat(TensorType::new(dtype, []), value)
    }

    /// The one value of a splat, if this is one.
    pub fn splat_value(&self) -> Option<f64> {
        (self.values.len() == 1).then(|| self.values[0])
    }

    /// Element `index` in row-major order.
    pub fn value(&self, index: usize) -> f64 {
        if self.values.len() == 1 { self.values[0] } else { self.values[index] }
    }

    /// True when the number of values fits the shape.
    pub fn is_consistent(&self) -> bool {
        self.values.len() == 1 || self.values.len() == self.ty.element_count()
    }
}

/// JSON form of the values: numbers, or "inf", "-inf", "nan".
mod values {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(f64),
        Word(String),
    }

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        let to_value = |&value: &f64| {
            if value.is_finite() {
                Value::Number(value)
            } else if value.is_nan() {
                Value::Word("nan".into())
            } else {
                Value::Word(if value > 0.0 { "inf" } else { "-inf" }.into())
            }
        };
        serializer.collect_seq(values.iter().map(to_value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let words = Vec::<Value>::deserialize(deserializer)?;
        words
            .into_iter()
            .map(|value| match value {
                Value::Number(number) => Ok(number),
                Value::Word(word) => match word.as_str() {
                    "inf" => Ok(f64::INFINITY),
                    "-inf" => Ok(f64::NEG_INFINITY),
                    "nan" => Ok(f64::NAN),
                    other => Err(D::Error::custom(format!("`{other}` is not a number"))),
                },
            })
            .collect()
    }
}
