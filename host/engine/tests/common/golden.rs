//! Golden files from another framework: inputs in f32, results in f64, by name. `golden/README.md` says how they were made.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A tensor of a golden file, widened to f64 (exact for f32, f64 and i32).
#[derive(Clone, Debug)]
pub struct Values {
    /// True for an i32 tensor.
    pub is_integer: bool,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f64>,
}

/// One case of `ops.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Prefix of its tensors.
    pub name: String,
    /// What is computed.
    pub op: String,
    /// Parameters of the op.
    pub attrs: Map<String, Value>,
    /// Inputs whose gradient is given.
    pub grads: Vec<usize>,
    /// Shapes of the inputs.
    pub inputs: Vec<Vec<usize>>,
}

impl Case {
    /// A whole number among the parameters, or `default`.
    pub fn size_or(&self, name: &str, default: usize) -> usize {
        self.attrs.get(name).map_or(default, |value| value.as_u64().unwrap_or_else(|| panic!("{}: {name} is {value}", self.name)) as usize)
    }

    /// A whole number among the parameters.
    pub fn size(&self, name: &str) -> usize {
        assert!(self.attrs.contains_key(name), "{} has no attribute {name}", self.name);
        self.size_or(name, 0)
    }

    /// A number among the parameters.
    pub fn number(&self, name: &str) -> f64 {
        self.attrs[name].as_f64().unwrap_or_else(|| panic!("{}: {name} is {}", self.name, self.attrs[name]))
    }

    /// A list of whole numbers among the parameters.
    pub fn list(&self, name: &str) -> Vec<i64> {
        let entries = self.attrs[name].as_array().unwrap_or_else(|| panic!("{}: {name} is {}", self.name, self.attrs[name]));
        entries.iter().filter_map(Value::as_i64).collect()
    }

    /// A list of axes among the parameters.
    pub fn axes(&self, name: &str) -> Vec<usize> {
        self.list(name).iter().map(|&axis| axis as usize).collect()
    }

    /// A truth value among the parameters; false when it is not there.
    pub fn flag(&self, name: &str) -> bool {
        self.attrs.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

/// The folder of the golden files: `SOLSTICE_GOLDEN`, or the copy beside the tests.
pub fn folder() -> PathBuf {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("SOLSTICE_GOLDEN").map_or(beside, PathBuf::from)
}

/// The cases of `ops.json`.
pub fn cases() -> Vec<Case> {
    let path = folder().join("ops.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All tensors of a safetensors file of the folder.
pub fn tensors(file: &str) -> BTreeMap<String, Values> {
    let path = folder().join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let archive = safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    archive.iter().map(|(name, view)| (name.to_owned(), widened(&view))).collect()
}

fn widened(view: &safetensors::tensor::TensorView<'_>) -> Values {
    use safetensors::Dtype;
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|word| f64::from(i32::from_le_bytes(*word))).collect(),
        other => panic!("golden files hold f32, f64 and i32, not {other:?}"),
    };
    Values { is_integer: view.dtype() == Dtype::I32, shape: view.shape().to_vec(), data }
}
