//! The container: nodes, outputs, state updates, and the check that nobody is trusted without.

use crate::{Op, Parameter, Role, ShapeError, TensorType, infer, result_types};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Version of the JSON form; a reader takes its own version and older ones.
pub const GRAPH_VERSION: u32 = 1;

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation and the type of its (first) result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What is computed.
    #[serde(flatten)]
    pub op: Op,
    /// Values that it reads, each an earlier node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<NodeId>,
    /// Type of the result.
    #[serde(rename = "type")]
    pub ty: TensorType,
    /// Dotted path of the named scope that made it, e.g. `model.fc1`; may be empty.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub scope: Arc<str>,
    /// The author's line, `plugins/mlp/src/lib.rs:41`; may be empty.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub location: Arc<str>,
}

/// A named result of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Unique among the outputs.
    pub name: String,
    /// The value.
    pub node: NodeId,
}

/// The new value of a state tensor, in effect after the graph has run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Name of a state parameter of this graph.
    pub state: String,
    /// The value; same type as the parameter.
    pub node: NodeId,
}

/// A function from named inputs and state to named outputs and new state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// [`GRAPH_VERSION`] of the writer.
    pub version: u32,
    /// What the graph is, for labels and messages.
    pub name: String,
    /// In topological order.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<Output>,
    /// New state.
    #[serde(default)]
    pub updates: Vec<Update>,
}

/// Why bytes are not a graph, or a graph is not sound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// The bytes are not the JSON form of a graph.
    #[error("not a graph: {0}")]
    Json(String),
    /// Written by a newer Solstice.
    #[error("graph version {found} is newer than this host's {GRAPH_VERSION}: update the host")]
    Version {
        /// The version that the bytes name.
        found: u32,
    },
    /// A node breaks a rule.
    #[error("graph `{graph}`, node %{node} ({op}): {message}{}", at(.location))]
    Node {
        /// The graph's name.
        graph: String,
        /// Index of the node.
        node: usize,
        /// The op's name.
        op: String,
        /// What is wrong.
        message: String,
        /// The author's line; may be empty.
        location: String,
    },
    /// An output, an update or a name breaks a rule.
    #[error("graph `{graph}`: {message}")]
    Structure {
        /// The graph's name.
        graph: String,
        /// What is wrong.
        message: String,
    },
}

fn at(location: &str) -> String {
    if location.is_empty() { String::new() } else { format!(" ({location})") }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { version: GRAPH_VERSION, name: name.into(), nodes: Vec::new(), outputs: Vec::new(), updates: Vec::new() }
    }

    /// Appends a node after inferring its type.
    ///
    /// Leaves carry their own type and go through [`Graph::push_typed`].
    pub fn push(&mut self, op: Op, inputs: &[NodeId], scope: &Arc<str>, location: &Arc<str>) -> Result<NodeId, ShapeError> {
        let ty = infer(self, &op, inputs)?;
        Ok(self.push_typed(op, inputs.to_vec(), ty, scope.clone(), location.clone()))
    }

    /// Appends a node whose type is known: a leaf (parameter, constant, iota, rng_bits), or a copy of a verified node.
    pub fn push_typed(&mut self, op: Op, inputs: Vec<NodeId>, ty: TensorType, scope: Arc<str>, location: Arc<str>) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { op, inputs, ty, scope, location });
        id
    }

    /// The node behind `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Type of the value `id`.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        &self.nodes[id.index()].ty
    }

    /// Ids in topological order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// All parameters, in node order.
    pub fn parameters(&self) -> impl Iterator<Item = (NodeId, &Parameter, &TensorType)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| match &node.op {
            Op::Parameter(parameter) => Some((NodeId(index as u32), parameter, &node.ty)),
            _ => None,
        })
    }

    /// The parameter called `name`.
    pub fn parameter(&self, name: &str) -> Option<NodeId> {
        self.parameters().find(|(_, parameter, _)| parameter.name == name).map(|(id, ..)| id)
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<NodeId> {
        self.outputs.iter().find(|output| output.name == name).map(|output| output.node)
    }

    /// The JSON form.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a graph of plain data always has a JSON form")
    }

    /// Reads the JSON form and verifies every node; the bytes are not trusted.
    pub fn from_bytes(bytes: &[u8]) -> Result<Graph, GraphError> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        let header: Header = serde_json::from_slice(bytes).map_err(|error| GraphError::Json(error.to_string()))?;
        if header.version > GRAPH_VERSION {
            return Err(GraphError::Version { found: header.version });
        }
        let graph: Graph = serde_json::from_slice(bytes).map_err(|error| GraphError::Json(error.to_string()))?;
        graph.verify()?;
        Ok(graph)
    }

    /// Checks order, types, names, outputs and updates of every node, bodies of composites included.
    pub fn verify(&self) -> Result<(), GraphError> {
        let structure = |message: String| GraphError::Structure { graph: self.name.clone(), message };
        let mut names = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let node_error = |message: String| GraphError::Node {
                graph: self.name.clone(),
                node: index,
                op: node.op.name(),
                message,
                location: node.location.to_string(),
            };
            if let Some(late) = node.inputs.iter().find(|input| input.index() >= index) {
                return Err(node_error(format!("reads %{}, which does not come before it", late.0)));
            }
            let overflow = node.ty.shape.iter().try_fold(4usize, |bytes, &size| bytes.checked_mul(size)).is_none();
            if overflow {
                return Err(node_error(format!("{} is too large to address", node.ty)));
            }
            match &node.op {
                Op::Parameter(parameter) => {
                    if let Some(first) = names.insert(parameter.name.clone(), index) {
                        return Err(node_error(format!("parameter `{}` is already node %{first}", parameter.name)));
                    }
                    if parameter.role == Role::Scalar && !node.ty.shape.is_empty() {
                        return Err(node_error(format!("runtime scalar `{}` has the shape {}", parameter.name, node.ty)));
                    }
                }
                Op::Constant { value } => {
                    if !value.is_consistent() || value.ty != node.ty {
                        return Err(node_error(format!("the literal does not fill {}", node.ty)));
                    }
                }
                Op::Iota { axis } => {
                    if *axis >= node.ty.rank() || matches!(node.ty.dtype, crate::DType::Bool | crate::DType::U8) {
                        return Err(node_error(format!("no iota along axis {axis} of {}", node.ty)));
                    }
                }
                Op::RngBits { .. } => {
                    let scalar = TensorType::new(crate::DType::U32, []);
                    if node.inputs.len() != 2
                        || node.inputs.iter().any(|input| *self.ty(*input) != scalar)
                        || node.ty.dtype != crate::DType::U32
                    {
                        return Err(node_error("wants a seed and a step, both u32[], and gives u32".into()));
                    }
                }
                op => {
                    if let Op::Composite { body, .. } = op {
                        body.verify()?;
                    }
                    let inferred = infer(self, op, &node.inputs).map_err(|error| node_error(error.message))?;
                    if inferred != node.ty {
                        return Err(node_error(format!("is declared as {}, but its inputs give {inferred}", node.ty)));
                    }
                }
            }
        }
        let mut output_names = std::collections::HashSet::new();
        for output in &self.outputs {
            if output.node.index() >= self.nodes.len() {
                return Err(structure(format!("output `{}` names node %{}, which is not there", output.name, output.node.0)));
            }
            if !output_names.insert(&output.name) {
                return Err(structure(format!("output `{}` is named twice", output.name)));
            }
        }
        let mut updated = std::collections::HashSet::new();
        for update in &self.updates {
            let Some(Node { op: Op::Parameter(parameter), ty, .. }) = names.get(&update.state).map(|index| &self.nodes[*index]) else {
                return Err(structure(format!("update of `{}`, which is no parameter of the graph", update.state)));
            };
            if !parameter.role.is_state() || parameter.role == Role::Table {
                return Err(structure(format!("update of `{}`, which is not state that may change", update.state)));
            }
            if update.node.index() >= self.nodes.len() || self.ty(update.node) != ty {
                return Err(structure(format!("update of `{}` does not have its type {ty}", update.state)));
            }
            if !updated.insert(&update.state) {
                return Err(structure(format!("`{}` is updated twice", update.state)));
            }
        }
        Ok(())
    }

    /// Types of all results of node `id`: one, but for composites and gradients.
    pub fn result_types(&self, id: NodeId) -> Vec<TensorType> {
        result_types(self, id)
    }
}
