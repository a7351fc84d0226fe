//! The printed form, for people: `%3 = add %1, %2 : f32[32,128]  # model.fc1 (plugins/mlp/src/lib.rs:41)`.

use crate::{Graph, Op};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_graph(self, f, "")
    }
}

fn write_graph(graph: &Graph, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
    writeln!(f, "{indent}graph {} {{", graph.name)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        let inputs: Vec<String> = node.inputs.iter().map(|input| format!("%{}", input.0)).collect();
        write!(f, "{indent}  %{index} = {}", node.op.name())?;
        if !inputs.is_empty() {
            write!(f, " {}", inputs.join(", "))?;
        }
        write_attributes(&node.op, f)?;
        write!(f, " : {}", node.ty)?;
        match (node.scope.is_empty(), node.location.is_empty()) {
            (true, true) => {}
            (false, true) => write!(f, "  # {}", node.scope)?,
            (true, false) => write!(f, "  # ({})", node.location)?,
            (false, false) => write!(f, "  # {} ({})", node.scope, node.location)?,
        }
        writeln!(f)?;
        if let Op::Composite { body, .. } = &node.op {
            write_graph(body, f, &format!("{indent}    "))?;
        }
    }
    for update in &graph.updates {
        writeln!(f, "{indent}  {} <- %{}", update.state, update.node.0)?;
    }
    for output in &graph.outputs {
        writeln!(f, "{indent}  return {} = %{}", output.name, output.node.0)?;
    }
    writeln!(f, "{indent}}}")
}

fn write_attributes(op: &Op, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match op {
        Op::Parameter(parameter) => write!(f, " `{}` {:?}", parameter.name, parameter.role),
        Op::Constant { value } => match value.splat_value() {
            Some(splat) => write!(f, " {splat}"),
            None => write!(f, " [{} values]", value.values.len()),
        },
        Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select | Op::Composite { .. } => Ok(()),
        // The JSON form has the attributes under their own names.
        other => match serde_json::to_value(other) {
            Ok(serde_json::Value::Object(mut attributes)) => {
                attributes.remove("op");
                if attributes.is_empty() { Ok(()) } else { write!(f, " {}", serde_json::Value::Object(attributes)) }
            }
            _ => Ok(()),
        },
    }
}
