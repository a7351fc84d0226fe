//! The graph of Solstice as plain data.
//!
//! A [`Graph`] is a list of [`Node`]s in topological order. Every node has one result tensor ([`TensorType`]); a node with several results
//! ([`Op::Composite`], [`Op::Grad`]) is followed by [`Op::Result`] nodes that name the others. This crate knows shapes and types, the JSON form and
//! the printed form. It does not know plugins, autodiff or devices, and nothing of ours stands below it.
//!
//! Read `op.rs` for the primitive set, `infer.rs` for the shape rules, `graph.rs` for the container.

mod graph;
mod infer;
mod init;
mod inline;
mod literal;
mod op;
mod print;
mod types;

pub use graph::{GRAPH_VERSION, Graph, GraphError, Node, NodeId, Output, Update};
pub use infer::{ShapeError, infer, result_types};
pub use init::Init;
pub use inline::Inlined;
pub use literal::Literal;
pub use op::{BinaryOp, Compare, ConvolutionGeometry, DotDims, Op, Parameter, ReduceKind, Role, ScatterMode, UnaryOp, Window};
pub use types::{DType, TensorType, element_count, strides_of};
