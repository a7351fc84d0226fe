//! Linking: one graph's nodes copied into another under a named scope.

use crate::{Graph, GraphError, NodeId, Op, Parameter, Role};
use std::collections::HashMap;
use std::sync::Arc;

/// What an inlined graph gives back.
#[derive(Clone, Debug, Default)]
pub struct Inlined {
    /// The inlined graph's outputs: name and value in the outer graph.
    pub outputs: Vec<(String, NodeId)>,
    /// The inlined graph's state updates: renamed state and new value in the outer graph.
    pub updates: Vec<(String, NodeId)>,
}

impl Inlined {
    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<NodeId> {
        self.outputs.iter().find(|(output, _)| output == name).map(|(_, node)| *node)
    }
}

impl Graph {
    /// Copies the nodes of `inner` to the end of this graph.
    ///
    /// `Input` parameters take `arguments` by name. Every other parameter is renamed by `rename` and shared with a parameter of that name that is
    /// already here. Random streams are mixed with `scope` and `call`, so that two calls of one function draw different numbers.
    ///
    /// Errors: an argument that is missing or has another type; a shared parameter of another type.
    pub fn inline(
        &mut self,
        inner: &Graph,
        arguments: &[(&str, NodeId)],
        scope: &str,
        call: u32,
        rename: &dyn Fn(&Parameter) -> String,
    ) -> Result<Inlined, GraphError> {
        let structure = |message: String| GraphError::Structure { graph: inner.name.clone(), message };
        let mut known: HashMap<String, NodeId> = self.parameters().map(|(id, parameter, _)| (parameter.name.clone(), id)).collect();
        let mut scopes: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut renamed_states = HashMap::new();
        let mut places = Vec::with_capacity(inner.nodes.len());
        for node in &inner.nodes {
            let place = match &node.op {
                Op::Parameter(parameter) if parameter.role == Role::Input => {
                    let Some((_, argument)) = arguments.iter().find(|(name, _)| *name == parameter.name) else {
                        return Err(structure(format!("wants the input `{}` {}, which was not given", parameter.name, node.ty)));
                    };
                    if *self.ty(*argument) != node.ty {
                        let found = self.ty(*argument);
                        return Err(structure(format!("wants the input `{}` {}, got {found}", parameter.name, node.ty)));
                    }
                    *argument
                }
                Op::Parameter(parameter) => {
                    let name = rename(parameter);
                    renamed_states.insert(parameter.name.clone(), name.clone());
                    match known.get(&name) {
                        Some(&id) if *self.ty(id) == node.ty => id,
                        Some(&id) => {
                            let found = self.ty(id);
                            return Err(structure(format!("`{name}` is {} here and {found} elsewhere", node.ty)));
                        }
                        None => {
                            let op = Op::Parameter(Parameter { name: name.clone(), ..parameter.clone() });
                            let scope = joined(&mut scopes, scope, &node.scope);
                            let id = self.push_typed(op, vec![], node.ty.clone(), scope, node.location.clone());
                            known.insert(name, id);
                            id
                        }
                    }
                }
                op => {
                    let inputs = node.inputs.iter().map(|input| places[input.index()]).collect();
                    let op = match op {
                        Op::RngBits { stream } => Op::RngBits { stream: mix(scope, *stream, call) },
                        other => other.clone(),
                    };
                    let scope = joined(&mut scopes, scope, &node.scope);
                    self.push_typed(op, inputs, node.ty.clone(), scope, node.location.clone())
                }
            };
            places.push(place);
        }
        Ok(Inlined {
            outputs: inner.outputs.iter().map(|output| (output.name.clone(), places[output.node.index()])).collect(),
            updates: inner.updates.iter().map(|update| (renamed_states[&update.state].clone(), places[update.node.index()])).collect(),
        })
    }
}

fn joined(cache: &mut HashMap<Arc<str>, Arc<str>>, outer: &str, inner: &Arc<str>) -> Arc<str> {
    cache
        .entry(inner.clone())
        .or_insert_with(|| match (outer.is_empty(), inner.is_empty()) {
            (true, _) => inner.clone(),
            (_, true) => outer.into(),
            _ => format!("{outer}.{inner}").into(),
        })
        .clone()
}

/// FNV-1a over the scope, the stream and the call: fixed for ever, because resumed runs draw from it.
fn mix(scope: &str, stream: u32, call: u32) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    for byte in scope.bytes().chain(stream.to_le_bytes()).chain(call.to_le_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash
}
