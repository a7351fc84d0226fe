//! Attention as a whole: which composites the devices take without their bodies, and the composite of its gradient.
//!
//! A device's kernel goes through the scores a block at a time and never writes them. What no kernel takes (a dropout of the weights, heads wider than
//! [`WIDTH_MAX`]) goes through the bodies, like any composite. So does a composite of the same name whose body does something else: a name is no proof.

use crate::grad::{GradError, expand_gradients};
use crate::lower::inline_composites;
use crate::simplify::remove_dead_code;
use solstice_ir::{BinaryOp, DType, Graph, Node, NodeId, Op, Output, Parameter, ReduceKind, Role, TensorType, element_count};
use std::sync::Arc;

/// Name of the forward composite: inputs q `[.., query, dim]`, k `[.., key, dim]`, v `[.., key, width]`, result `[.., query, width]`; attributes `causal`,
/// `scale` and `dropout`.
const FORWARD: &str = "attention";

/// Name of the gradient, which the engine alone gives ([`without_foreign_gradients`]): inputs q, k, v and what flows to the result; results what flows to q, k and v; the same attributes.
const GRADIENT: &str = "attention_grad";

/// Widest head of a kernel: a row of it stays in an invocation's registers.
const WIDTH_MAX: usize = 128;

/// Sizes and settings of an attention that a kernel can take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attention {
    /// It is the gradient.
    pub is_gradient: bool,
    /// Leading axes.
    pub batch: Vec<usize>,
    pub queries: usize,
    pub keys: usize,
    /// Width of a query and a key.
    pub dim: usize,
    /// Width of a value.
    pub width: usize,
    pub causal: bool,
    /// Factor of the scores.
    pub scale: f64,
}

impl Attention {
    /// What `node` is, where its name, attributes and inputs are exactly what the name promises.
    pub fn of(graph: &Graph, node: &Node) -> Option<Attention> {
        let Op::Composite { name, attrs, body } = &node.op else { return None };
        let is_gradient = match name.as_str() {
            FORWARD => false,
            GRADIENT => true,
            _ => return None,
        };
        let types: Vec<&TensorType> = node.inputs.iter().map(|input| graph.ty(*input)).collect();
        let (q, k, v) = match (types[..].get(..3)?, is_gradient) {
            ([q, k, v], true) if types.len() == 4 && body.outputs.len() == 3 => (q, k, v),
            ([q, k, v], false) if types.len() == 3 && body.outputs.len() == 1 => (q, k, v),
            _ => return None,
        };
        let causal = attrs.get("causal")?.as_bool()?;
        let scale = attrs.get("scale")?.as_f64().filter(|scale| (*scale as f32).is_finite())?;
        if attrs.len() != 3 || attrs.get("dropout")?.as_f64()? != 0.0 || types.iter().any(|ty| ty.dtype != DType::F32) {
            return None;
        }
        let outer = q.rank().checked_sub(2)?;
        let (&[queries, dim], [keys, _], &[_, width]) = (&q.shape[outer..], k.shape.get(outer..)?, v.shape.get(outer..)?) else {
            return None;
        };
        let batch = q.shape[..outer].to_vec();
        let with = |rows: usize, columns: usize| [&batch[..], &[rows, columns]].concat();
        let result = with(queries, width);
        let fits = k.shape == with(*keys, dim)
            && v.shape == with(*keys, width)
            && if is_gradient { types[3].shape == result } else { node.ty.shape == result };
        let is_small = dim.max(width) <= WIDTH_MAX && element_count(&batch) * queries * keys * dim * width > 0;
        let is_meant = is_gradient || (fits && is_small && has_body_of_attention(body, causal, scale));
        (fits && is_small && is_meant).then_some(Attention { is_gradient, batch, queries, keys: *keys, dim, width, causal, scale })
    }
}

/// The ops of `softmax(scale * q k^T) v` as the plugin API traces it, without those that only repeat or rename.
const BODY: &[&str] = &["divide", "dot_general", "dot_general", "exponential", "multiply", "reduce_max", "reduce_sum", "subtract"];

/// The same with a causal mask beside them.
const MASK: &[&str] = &["compare_greater_equal", "iota", "iota", "select"];

/// The body has the ops of attention and no other, and the factor of the scores is `scale`.
fn has_body_of_attention(body: &Graph, causal: bool, scale: f64) -> bool {
    let primitives = remove_dead_code(&inline_composites(body, &|_| false));
    let mut found: Vec<String> = primitives
        .nodes
        .iter()
        .map(|node| node.op.name())
        .filter(|name| !matches!(name.as_str(), "parameter" | "constant" | "broadcast_in_dim" | "reshape" | "stop_gradient"))
        .collect();
    let mut wanted: Vec<&str> = BODY.iter().chain(if causal { MASK } else { &[] }).copied().collect();
    found.sort_unstable();
    wanted.sort_unstable();
    let is_scale =
        |node: &Node| matches!(&node.op, Op::Constant { value } if value.splat_value().is_some_and(|value| value as f32 == scale as f32));
    found == wanted && primitives.nodes.iter().any(is_scale)
}

/// The graph without composites that somebody else has named as the gradient is named here: their bodies take their place.
pub(crate) fn without_foreign_gradients(graph: &Graph) -> Graph {
    inline_composites(graph, &|name| name != GRADIENT)
}

/// The node of the gradient of attention `node`: its results are what flows to q, k and v when `g` flows to the result. `None` where a kernel would not
/// take it, so that its body had better be differentiated.
pub(crate) fn gradient_of(graph: &Graph, node: &Node) -> Option<Result<Op, GradError>> {
    Attention::of(graph, node).filter(|attention| !attention.is_gradient)?;
    let Op::Composite { attrs, body, .. } = &node.op else { return None };
    Some(gradient_body(graph, node, body).map(|body| Op::Composite { name: GRADIENT.into(), attrs: attrs.clone(), body: Box::new(body) }))
}

/// Inputs and `g` to the gradients of `sum(g * body(inputs))`, in primitives.
fn gradient_body(graph: &Graph, node: &Node, body: &Graph) -> Result<Graph, GradError> {
    let mut result = Graph::new(GRADIENT);
    let nothing: Arc<str> = Arc::from("");
    let input = |result: &mut Graph, name: String, ty: &TensorType| {
        let parameter = Parameter { name, role: Role::Input, init: None };
        result.push_typed(Op::Parameter(parameter), vec![], ty.clone(), nothing.clone(), nothing.clone())
    };
    let inputs: Vec<NodeId> =
        node.inputs.iter().enumerate().map(|(index, id)| input(&mut result, format!("x{index}"), graph.ty(*id))).collect();
    let g = input(&mut result, "g".into(), &node.ty);
    let push = |result: &mut Graph, op: Op, inputs: &[NodeId]| {
        result.push(op, inputs, &node.scope, &node.location).expect("the gradient of a verified function has sound types")
    };
    // Under another name, whose body is gone through.
    let forward = Op::Composite { name: "attention_forward".into(), attrs: Default::default(), body: Box::new(body.clone()) };
    let y = push(&mut result, forward, &inputs);
    let product = push(&mut result, Op::Binary { function: BinaryOp::Multiply }, &[y, g]);
    let axes = (0..node.ty.rank()).collect();
    let loss = push(&mut result, Op::Reduce { kind: ReduceKind::Sum, axes }, &[product]);
    let gradients = push(&mut result, Op::Grad, &[&[loss], &inputs[..]].concat());
    for index in 0..inputs.len() {
        let node = push(&mut result, Op::Result { index }, &[gradients]);
        result.outputs.push(Output { name: format!("y{index}"), node });
    }
    Ok(keeping_parameters(&expand_gradients(&result)?))
}

/// Without dead code, but with all parameters, in order.
fn keeping_parameters(graph: &Graph) -> Graph {
    let mut kept = graph.clone();
    let count = kept.outputs.len();
    let parameters: Vec<NodeId> = kept.parameters().map(|(id, ..)| id).collect();
    kept.outputs.extend(parameters.into_iter().enumerate().map(|(index, node)| Output { name: format!("parameter{index}"), node }));
    let mut kept = remove_dead_code(&kept);
    kept.outputs.truncate(count);
    kept
}
