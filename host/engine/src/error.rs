//! What can go wrong between a graph and its numbers.

use solstice_ir::{GraphError, TensorType};

/// Errors of the engine. Each says what was wanted, what came, and what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The graph is not sound.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A gradient that does not exist.
    #[error("{0}")]
    Gradient(String),
    /// Bytes that do not fill a tensor.
    #[error("`{name}` is {ty} and wants {} bytes, got {found}", .ty.byte_count())]
    Size {
        /// Input or state name.
        name: String,
        /// Its type.
        ty: TensorType,
        /// Bytes that came.
        found: usize,
    },
    /// A state tensor that the session does not hold.
    #[error("there is no state tensor `{name}`")]
    UnknownState {
        /// The name.
        name: String,
    },
    /// A state tensor of another type.
    #[error("the state tensor `{name}` is {found}, the program wants {wanted}")]
    StateType {
        /// The name.
        name: String,
        /// What the program wants.
        wanted: TensorType,
        /// What the session holds.
        found: TensorType,
    },
    /// An input or runtime scalar that was not given.
    #[error("the input `{name}` was not given")]
    MissingInput {
        /// The name.
        name: String,
    },
    /// No device answers to the request.
    #[error("{0}")]
    NoDevice(String),
    /// A program in mixed precision on a device without f16.
    #[error(
        "`{program}` wants mixed precision, and {device} {why}: set `trainer.precision` to `f32`, or choose a GPU that `solstice devices` lists with f16"
    )]
    NoMixedPrecision {
        /// Name of the plan.
        program: String,
        /// Which device.
        device: String,
        /// What it does instead.
        why: String,
    },
    /// The device cannot do what the program needs (limits), or failed.
    #[error("{device}: {message}")]
    Device {
        /// Adapter name.
        device: String,
        /// What happened.
        message: String,
    },
}
