//! The builder that plugin authors use: primitives with broadcasting, parameters, state, scopes. Layers are in `nn/`, losses in `nn/loss.rs`.
//!
//! A shape error is noted at the author's line when it happens; the builder then hands out placeholders and the first error comes back from the next
//! call that returns a `Result`, or at the latest when the graph is finished. So arithmetic reads like arithmetic and no error is lost.

use crate::error::{Error, Result, location_of};
use serde_json::Value;
use solstice_ir::{
    BinaryOp, Compare, ConvolutionGeometry, DType, DotDims, Init, Inlined, Literal, NodeId, Op, Output, Parameter, ReduceKind, Role,
    ScatterMode, TensorType, UnaryOp, Update, Window,
};
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

/// A value of a [`Graph`] under construction; cheap to copy. Its shape is [`Graph::shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor(pub(crate) NodeId);

/// A graph under construction.
pub struct Graph {
    ir: solstice_ir::Graph,
    scopes: Vec<Scope>,
    parameters: BTreeMap<String, NodeId>,
    training: bool,
    facts: BTreeMap<String, Value>,
    next_stream: u32,
    calls: u32,
    error: Option<Error>,
    empty: Arc<str>,
    // Inside a layer or a composite: the line that asked for it, which says more than the layer's own.
    fixed_location: Option<Arc<str>>,
}

/// A named scope that is open.
struct Scope {
    /// Dotted path, `block3.attention`; empty outside all scopes.
    path: Arc<str>,
    /// ``conv2d `block3.conv` `` while a layer is built: its errors begin with it.
    layer: Option<String>,
}

impl Graph {
    /// An empty graph. `training` is what [`Graph::training`] answers.
    pub fn new(name: &str, training: bool) -> Graph {
        Graph {
            ir: solstice_ir::Graph::new(name),
            scopes: vec![Scope { path: Arc::from(""), layer: None }],
            parameters: BTreeMap::new(),
            training,
            facts: BTreeMap::new(),
            next_stream: 0,
            calls: 0,
            error: None,
            empty: Arc::from(""),
            fixed_location: None,
        }
    }

    /// With facts of the data set (`classes`, `vocabulary`).
    pub fn with_facts(mut self, facts: BTreeMap<String, Value>) -> Graph {
        self.facts = facts;
        self
    }

    /// True while training: dropout drops, batch norm uses the batch.
    pub fn training(&self) -> bool {
        self.training
    }

    /// A whole number that the data set or the experiment knows, e.g. `classes`.
    pub fn fact(&self, name: &str) -> Option<usize> {
        self.facts.get(name)?.as_u64().map(|value| value as usize)
    }

    /// Shape of a value.
    pub fn shape(&self, x: Tensor) -> &[usize] {
        &self.ir.ty(x.0).shape
    }

    /// Element type of a value.
    pub fn dtype(&self, x: Tensor) -> DType {
        self.ir.ty(x.0).dtype
    }

    /// Type of a value.
    pub fn ty(&self, x: Tensor) -> &TensorType {
        self.ir.ty(x.0)
    }

    /// The graph so far, to look at.
    pub fn ir(&self) -> &solstice_ir::Graph {
        &self.ir
    }

    /// The finished graph, or the first error.
    pub fn finish(self) -> Result<solstice_ir::Graph> {
        self.check()?;
        self.ir.verify().map_err(|error| Error::at(error.to_string(), ""))?;
        Ok(self.ir)
    }

    /// The first error so far, if there is one. Composite functions call it before they read shapes.
    pub fn check(&self) -> Result<()> {
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Notes an error; the first one is kept. Returns a scalar placeholder. A layer's name goes in front.
    #[track_caller]
    pub fn fail(&mut self, message: impl Into<String>) -> Tensor {
        if self.error.is_none() {
            let message = match &self.innermost().layer {
                Some(layer) => format!("{layer}: {}", message.into()),
                None => message.into(),
            };
            self.error = Some(Error::at(message, &*self.caller()));
        }
        let value = Literal::scalar(DType::F32, 0.0);
        let ty = value.ty.clone();
        Tensor(self.ir.push_typed(Op::Constant { value }, vec![], ty, self.empty.clone(), self.empty.clone()))
    }

    // ---- scopes, parameters, state -------------------------------------------------------------------------------------------------

    /// Runs `body` inside the named scope: parameters and labels get `name.` in front. A layer (`linear`, `conv2d`, ..) is a scope of its own.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Graph) -> T) -> T {
        let path = self.qualified(name).into();
        self.scopes.push(Scope { path, layer: None });
        let result = body(self);
        self.scopes.pop();
        result
    }

    /// Runs `body` inside the scope of the layer `name`, a `function` such as `linear`: labels and errors name the layer, at the line of the caller.
    ///
    /// Errors: what was noted before, and what `body` notes or returns.
    #[track_caller]
    pub(crate) fn layer<T>(&mut self, function: &str, name: &str, body: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        self.check()?;
        let path = self.qualified(name);
        let layer = Some(format!("{function} `{path}`"));
        let location = self.caller();
        let outer = self.fixed_location.replace(location);
        self.scopes.push(Scope { path: path.into(), layer });
        let result = body(self);
        self.scopes.pop();
        self.fixed_location = outer;
        self.check()?;
        result
    }

    fn innermost(&self) -> &Scope {
        &self.scopes[self.scopes.len() - 1]
    }

    fn qualified(&self, name: &str) -> String {
        let outer = &self.innermost().path;
        if outer.is_empty() { name.to_owned() } else { format!("{outer}.{name}") }
    }

    #[track_caller]
    fn parameter(&mut self, name: String, role: Role, ty: TensorType, init: Option<Init>) -> Tensor {
        if let Some(&id) = self.parameters.get(&name) {
            if *self.ir.ty(id) != ty {
                let found = self.ir.ty(id).clone();
                return self.fail(format!("`{name}` is asked for as {ty}, but it is already {found}"));
            }
            return Tensor(id);
        }
        let op = Op::Parameter(Parameter { name: name.clone(), role, init });
        let id = self.ir.push_typed(op, vec![], ty, self.innermost().path.clone(), self.caller());
        self.parameters.insert(name, id);
        Tensor(id)
    }

    #[track_caller]
    fn caller(&self) -> Arc<str> {
        match &self.fixed_location {
            Some(location) => location.clone(),
            None => location_of(Location::caller()).into(),
        }
    }

    /// A trainable f32 weight; asked for twice by one name it is one weight.
    #[track_caller]
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Tensor {
        self.parameter(self.qualified(name), Role::Param, TensorType::new(DType::F32, shape), Some(init))
    }

    /// Model state that is not trained (running statistics); see [`Graph::update`].
    #[track_caller]
    pub fn model_state(&mut self, name: &str, shape: &[usize], init: Init) -> Tensor {
        self.parameter(self.qualified(name), Role::ModelState, TensorType::new(DType::F32, shape), Some(init))
    }

    /// Optimizer state for the parameter at hand, zero at the start unless `init` says otherwise.
    #[track_caller]
    pub fn optimizer_state(&mut self, name: &str, shape: &[usize], init: Init) -> Tensor {
        self.parameter(self.qualified(name), Role::OptState, TensorType::new(DType::F32, shape), Some(init))
    }

    /// A metric accumulator, zero at the start and after each report.
    #[track_caller]
    pub fn accumulator(&mut self, name: &str, ty: TensorType) -> Tensor {
        self.parameter(self.qualified(name), Role::Metric, ty, Some(Init::Constant(0.0)))
    }

    /// A config field that may be changed while the run goes on: a runtime scalar whose first value is `value`.
    #[track_caller]
    pub fn live(&mut self, field: &str, value: f64) -> Tensor {
        self.parameter(field.to_owned(), Role::Scalar, TensorType::new(DType::F32, []), Some(Init::Constant(value)))
    }

    /// A runtime scalar of the run: `run.step` (u32, from 0), `run.seed` (u32), `run.total_steps` (f32).
    #[track_caller]
    pub fn run_scalar(&mut self, name: &str, dtype: DType) -> Tensor {
        self.parameter(format!("run.{name}"), Role::Scalar, TensorType::new(dtype, []), None)
    }

    /// An input of the traced function.
    #[track_caller]
    pub fn input(&mut self, name: &str, ty: TensorType) -> Tensor {
        self.parameter(name.to_owned(), Role::Input, ty, None)
    }

    /// All trainable weights so far: name and value, in the order in which they were made.
    pub fn params(&self) -> Vec<(String, Tensor)> {
        self.ir
            .parameters()
            .filter(|(_, parameter, _)| parameter.role == Role::Param)
            .map(|(id, parameter, _)| (parameter.name.clone(), Tensor(id)))
            .collect()
    }

    /// Sets the new value of a state tensor, in effect after the step. The last call counts.
    #[track_caller]
    pub fn update(&mut self, state: Tensor, value: Tensor) {
        let Op::Parameter(parameter) = &self.ir.node(state.0).op else {
            self.fail("only a state tensor can be updated");
            return;
        };
        let name = parameter.name.clone();
        if !parameter.role.is_state() || self.ir.ty(state.0) != self.ir.ty(value.0) {
            let (wanted, found) = (self.ty(state).clone(), self.ty(value).clone());
            self.fail(format!("the update of `{name}` must be {wanted}, it is {found}"));
            return;
        }
        self.ir.updates.retain(|update| update.state != name);
        self.ir.updates.push(Update { state: name, node: value.0 });
    }

    /// The updates so far: state and new value.
    pub fn updates(&self) -> Vec<(Tensor, Tensor)> {
        self.ir.updates.iter().map(|update| (Tensor(self.parameters[&update.state]), Tensor(update.node))).collect()
    }

    /// Names a result of the graph.
    pub fn output(&mut self, name: &str, value: Tensor) {
        self.ir.outputs.retain(|output| output.name != name);
        self.ir.outputs.push(Output { name: name.into(), node: value.0 });
    }

    /// Inlines a finished graph under `scope`: its state and live scalars get `scope.` in front, `run.` scalars are shared, updates are taken over.
    #[track_caller]
    pub fn inline(&mut self, inner: &solstice_ir::Graph, arguments: &[(&str, Tensor)], scope: &str) -> Result<Vec<(String, Tensor)>> {
        self.check()?;
        let scope = self.qualified(scope);
        let ids: Vec<(&str, NodeId)> = arguments.iter().map(|(name, tensor)| (*name, tensor.0)).collect();
        let rename = |parameter: &Parameter| {
            if parameter.name.starts_with("run.") { parameter.name.clone() } else { format!("{scope}.{}", parameter.name) }
        };
        self.calls += 1;
        let Inlined { outputs, updates } =
            self.ir.inline(inner, &ids, &scope, self.calls, &rename).map_err(|error| Error::new(error.to_string()))?;
        for (id, parameter, _) in self.ir.parameters() {
            self.parameters.entry(parameter.name.clone()).or_insert(id);
        }
        for (state, node) in updates {
            self.ir.updates.retain(|update| update.state != state);
            self.ir.updates.push(Update { state, node });
        }
        Ok(outputs.into_iter().map(|(name, node)| (name, Tensor(node))).collect())
    }

    // ---- pushing nodes -------------------------------------------------------------------------------------------------------------

    /// Appends an op; a shape error is noted at the caller's line.
    #[track_caller]
    pub fn push(&mut self, op: Op, inputs: &[Tensor]) -> Tensor {
        let location = self.caller();
        let scope = self.innermost().path.clone();
        let ids: Vec<NodeId> = inputs.iter().map(|input| input.0).collect();
        let name = op.name();
        match self.ir.push(op, &ids, &scope, &location) {
            Ok(id) => Tensor(id),
            Err(error) => {
                // A layer's name stands in front already.
                let is_told = scope.is_empty() || self.innermost().layer.is_some();
                let place = if is_told { String::new() } else { format!(" in `{scope}`") };
                self.fail(format!("{name}{place}: {}", error.message))
            }
        }
    }

    #[track_caller]
    fn leaf(&mut self, op: Op, inputs: &[Tensor], ty: TensorType) -> Tensor {
        let location = self.caller();
        let ids = inputs.iter().map(|input| input.0).collect();
        Tensor(self.ir.push_typed(op, ids, ty, self.innermost().path.clone(), location))
    }

    /// A named function with its own decomposition (see `Op::Composite`). `body` gets the inputs and returns the results.
    ///
    /// The body may not make parameters: pass weights as inputs.
    #[track_caller]
    pub fn composite(
        &mut self,
        name: &str,
        attrs: Value,
        inputs: &[Tensor],
        body: impl FnOnce(&mut Graph, &[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        self.check()?;
        let mut inner = Graph::new(name, self.training);
        inner.next_stream = self.next_stream;
        inner.fixed_location = Some(self.caller());
        let arguments: Vec<Tensor> =
            inputs.iter().enumerate().map(|(index, input)| inner.input(&format!("x{index}"), self.ty(*input).clone())).collect();
        let results = body(&mut inner, &arguments)?;
        for (index, result) in results.iter().enumerate() {
            inner.output(&format!("y{index}"), *result);
        }
        self.next_stream = inner.next_stream;
        let count = results.len();
        let body = Box::new(inner.finish()?);
        let attrs = match attrs {
            Value::Object(map) => map,
            _ => serde_json::Map::new(),
        };
        let first = self.push(Op::Composite { name: name.into(), attrs, body }, inputs);
        let mut all = vec![first];
        for index in 1..count {
            all.push(self.push(Op::Result { index }, &[first]));
        }
        self.check()?;
        Ok(all)
    }

    /// Gradients of the scalar `loss` by each of `wrt`, which may be weights or any values of this graph.
    #[track_caller]
    pub fn grad(&mut self, loss: Tensor, wrt: &[Tensor]) -> Vec<Tensor> {
        if wrt.is_empty() {
            return vec![];
        }
        let inputs: Vec<Tensor> = std::iter::once(loss).chain(wrt.iter().copied()).collect();
        let first = self.push(Op::Grad, &inputs);
        let mut all = vec![first];
        for index in 1..wrt.len() {
            all.push(self.push(Op::Result { index }, &[first]));
        }
        all
    }

    // ---- leaves --------------------------------------------------------------------------------------------------------------------

    /// A scalar constant of type f32.
    #[track_caller]
    pub fn constant(&mut self, value: f64) -> Tensor {
        self.literal(Literal::scalar(DType::F32, value))
    }

    /// A constant tensor.
    #[track_caller]
    pub fn literal(&mut self, value: Literal) -> Tensor {
        let ty = value.ty.clone();
        self.leaf(Op::Constant { value }, &[], ty)
    }

    /// A tensor of one value, in the type and shape of `like`.
    #[track_caller]
    pub fn full_like(&mut self, like: Tensor, value: f64) -> Tensor {
        let ty = self.ty(like).clone();
        self.literal(Literal::splat(ty, value))
    }

    /// Index along `axis`.
    #[track_caller]
    pub fn iota(&mut self, dtype: DType, shape: &[usize], axis: usize) -> Tensor {
        if axis >= shape.len() {
            return self.fail(format!("iota: {shape:?} has no axis {axis}"));
        }
        self.leaf(Op::Iota { axis }, &[], TensorType::new(dtype, shape))
    }

    /// Random bits (u32): a new stream for every call, a function of (seed, stream, step, element).
    #[track_caller]
    pub fn random_bits(&mut self, shape: &[usize]) -> Tensor {
        // A composite's body cannot read run scalars: draw outside and pass the bits in.
        let seed = self.run_scalar("seed", DType::U32);
        let step = self.run_scalar("step", DType::U32);
        let stream = self.next_stream;
        self.next_stream += 1;
        self.leaf(Op::RngBits { stream }, &[seed, step], TensorType::new(DType::U32, shape))
    }

    /// Uniform in `[0, 1)`, on a grid of 2^-24.
    #[track_caller]
    pub fn random_uniform(&mut self, shape: &[usize]) -> Tensor {
        let bits = self.random_bits(shape);
        let eight = self.literal(Literal::splat(TensorType::new(DType::U32, shape), 8.0));
        let high = self.push(Op::Binary { function: BinaryOp::ShiftRight }, &[bits, eight]);
        let whole = self.convert(high, DType::F32);
        self.scale(whole, 1.0 / 16_777_216.0)
    }

    // ---- elementwise, with broadcasting as numpy does it ------------------------------------------------------------------------------

    /// Shapes stretched to each other by numpy's rule (aligned at the last axis, 1 repeats).
    #[track_caller]
    pub fn broadcast_together(&mut self, operation: &str, a: Tensor, b: Tensor) -> (Tensor, Tensor) {
        let (left, right) = (self.shape(a).to_vec(), self.shape(b).to_vec());
        if left == right {
            return (a, b);
        }
        let rank = left.len().max(right.len());
        let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |own| shape[own]);
        let mut shape = Vec::with_capacity(rank);
        for axis in 0..rank {
            let (l, r) = (size(&left, axis), size(&right, axis));
            if l != r && l != 1 && r != 1 {
                let placeholder = self.fail(format!("{operation}: shapes do not broadcast: a is {left:?}, b is {right:?}"));
                return (placeholder, placeholder);
            }
            shape.push(if l == 1 { r } else { l });
        }
        (self.broadcast_to(a, &shape), self.broadcast_to(b, &shape))
    }

    /// Repeats axes of size 1 and adds leading axes until the shape is `shape`.
    #[track_caller]
    pub fn broadcast_to(&mut self, x: Tensor, shape: &[usize]) -> Tensor {
        if self.shape(x) == shape {
            return x;
        }
        let Some(offset) = shape.len().checked_sub(self.shape(x).len()) else {
            let found = self.ty(x).clone();
            return self.fail(format!("broadcast_to: {found} has more axes than {shape:?}"));
        };
        let dims = (offset..shape.len()).collect();
        self.push(Op::BroadcastInDim { shape: shape.to_vec(), dims }, &[x])
    }

    #[track_caller]
    fn binary(&mut self, function: BinaryOp, a: Tensor, b: Tensor) -> Tensor {
        let op = Op::Binary { function };
        let (a, b) = self.broadcast_together(&op.name(), a, b);
        self.push(op, &[a, b])
    }

    #[track_caller]
    fn unary(&mut self, function: UnaryOp, x: Tensor) -> Tensor {
        self.push(Op::Unary { function }, &[x])
    }

    /// Type conversion; see `Op::Convert`.
    #[track_caller]
    pub fn convert(&mut self, x: Tensor, to: DType) -> Tensor {
        if self.dtype(x) == to { x } else { self.push(Op::Convert { to }, &[x]) }
    }

    /// Same bits as another 32-bit type.
    #[track_caller]
    pub fn bitcast(&mut self, x: Tensor, to: DType) -> Tensor {
        self.push(Op::BitcastConvert { to }, &[x])
    }

    /// Comparison with broadcasting; the result is bool.
    #[track_caller]
    pub fn compare(&mut self, direction: Compare, a: Tensor, b: Tensor) -> Tensor {
        let (a, b) = self.broadcast_together("compare", a, b);
        self.push(Op::Compare { direction }, &[a, b])
    }

    /// Comparison with a number.
    #[track_caller]
    pub fn compare_with(&mut self, direction: Compare, a: Tensor, value: f64) -> Tensor {
        let b = self.full_like(a, value);
        self.push(Op::Compare { direction }, &[a, b])
    }

    /// `predicate ? on_true : on_false`, all three broadcast together.
    #[track_caller]
    pub fn select(&mut self, predicate: Tensor, on_true: Tensor, on_false: Tensor) -> Tensor {
        let (on_true, on_false) = self.broadcast_together("select", on_true, on_false);
        let (predicate, on_true) = self.broadcast_together("select", predicate, on_true);
        let (_, on_false) = self.broadcast_together("select", on_true, on_false);
        self.push(Op::Select, &[predicate, on_true, on_false])
    }

    /// `x * factor`.
    #[track_caller]
    pub fn scale(&mut self, x: Tensor, factor: f64) -> Tensor {
        let factor = self.full_like(x, factor);
        self.push(Op::Binary { function: BinaryOp::Multiply }, &[x, factor])
    }

    /// `x + value`.
    #[track_caller]
    pub fn offset(&mut self, x: Tensor, value: f64) -> Tensor {
        let value = self.full_like(x, value);
        self.push(Op::Binary { function: BinaryOp::Add }, &[x, value])
    }

    /// `x * x`.
    #[track_caller]
    pub fn square(&mut self, x: Tensor) -> Tensor {
        self.push(Op::Binary { function: BinaryOp::Multiply }, &[x, x])
    }

    /// True where `x` is neither infinite nor a NaN, from the exponent bits (some drivers fold `x != x` away).
    #[track_caller]
    pub fn is_finite(&mut self, x: Tensor) -> Tensor {
        let bits = self.bitcast(x, DType::U32);
        let exponent = self.full_like(bits, f64::from(0x7f80_0000u32));
        let masked = self.push(Op::Binary { function: BinaryOp::And }, &[bits, exponent]);
        self.push(Op::Compare { direction: Compare::NotEqual }, &[masked, exponent])
    }

    // ---- shape ---------------------------------------------------------------------------------------------------------------------

    /// Same elements in row-major order, other shape.
    #[track_caller]
    pub fn reshape(&mut self, x: Tensor, shape: &[usize]) -> Tensor {
        if self.shape(x) == shape { x } else { self.push(Op::Reshape { shape: shape.to_vec() }, &[x]) }
    }

    /// All axes but the first in one.
    #[track_caller]
    pub fn flatten(&mut self, x: Tensor) -> Tensor {
        let shape = self.shape(x).to_vec();
        match shape.split_first() {
            Some((&batch, rest)) => self.reshape(x, &[batch, rest.iter().product()]),
            None => self.fail("flatten: a scalar has no batch axis"),
        }
    }

    /// Axis `i` of the result is axis `perm[i]` of `x`.
    #[track_caller]
    pub fn transpose(&mut self, x: Tensor, perm: &[usize]) -> Tensor {
        self.push(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// An axis of size 1 put in before `axis`.
    #[track_caller]
    pub fn expand_dims(&mut self, x: Tensor, axis: usize) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        if axis > shape.len() {
            return self.fail(format!("expand_dims: no place {axis} in {shape:?}"));
        }
        shape.insert(axis, 1);
        self.reshape(x, &shape)
    }

    /// Elements `start .. limit` along one axis.
    #[track_caller]
    pub fn slice(&mut self, x: Tensor, axis: usize, start: usize, limit: usize) -> Tensor {
        self.slice_strided(x, axis, start, limit, 1)
    }

    /// Elements `start, start + stride, ..` below `limit` along one axis.
    #[track_caller]
    pub fn slice_strided(&mut self, x: Tensor, axis: usize, start: usize, limit: usize, stride: usize) -> Tensor {
        let shape = self.shape(x).to_vec();
        if axis >= shape.len() {
            return self.fail(format!("slice: {shape:?} has no axis {axis}"));
        }
        let (mut starts, mut limits, mut strides) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
        (starts[axis], limits[axis], strides[axis]) = (start, limit, stride);
        self.push(Op::Slice { starts, limits, strides }, &[x])
    }

    /// Padding with a number; negative entries crop.
    #[track_caller]
    pub fn pad(&mut self, x: Tensor, low: &[i64], high: &[i64], value: f64) -> Tensor {
        let value = self.literal(Literal::scalar(self.dtype(x), value));
        let interior = vec![0; low.len()];
        self.push(Op::Pad { low: low.to_vec(), high: high.to_vec(), interior }, &[x, value])
    }

    /// Inputs one after the other along `axis`.
    #[track_caller]
    pub fn concatenate(&mut self, inputs: &[Tensor], axis: usize) -> Tensor {
        self.push(Op::Concatenate { axis }, inputs)
    }

    /// Order turned round along `axes`.
    #[track_caller]
    pub fn reverse(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        self.push(Op::Reverse { axes: axes.to_vec() }, &[x])
    }

    /// `x` at `indices` along `axis`: see `Op::Gather`.
    #[track_caller]
    pub fn gather(&mut self, x: Tensor, indices: Tensor, axis: usize, batch_dims: usize) -> Tensor {
        self.push(Op::Gather { axis, batch_dims }, &[x, indices])
    }

    /// `x` with updates combined at `indices` along `axis`: see `Op::Scatter`.
    #[track_caller]
    pub fn scatter(&mut self, x: Tensor, indices: Tensor, updates: Tensor, axis: usize, batch_dims: usize, mode: ScatterMode) -> Tensor {
        self.push(Op::Scatter { axis, batch_dims, mode }, &[x, indices, updates])
    }

    // ---- reductions ----------------------------------------------------------------------------------------------------------------

    #[track_caller]
    fn reduce(&mut self, kind: ReduceKind, x: Tensor, axes: &[usize]) -> Tensor {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        self.push(Op::Reduce { kind, axes }, &[x])
    }

    /// Sum over `axes`, which vanish.
    #[track_caller]
    pub fn sum(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        self.reduce(ReduceKind::Sum, x, axes)
    }

    /// Sum of all elements: a scalar.
    #[track_caller]
    pub fn sum_all(&mut self, x: Tensor) -> Tensor {
        let axes: Vec<usize> = (0..self.shape(x).len()).collect();
        self.reduce(ReduceKind::Sum, x, &axes)
    }

    /// Mean over `axes`, which vanish.
    #[track_caller]
    pub fn mean(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        let shape = self.shape(x).to_vec();
        let count: usize = axes.iter().filter_map(|&axis| shape.get(axis)).product();
        let sum = self.sum(x, axes);
        self.scale(sum, 1.0 / count as f64)
    }

    /// Mean of all elements: a scalar.
    #[track_caller]
    pub fn mean_all(&mut self, x: Tensor) -> Tensor {
        let axes: Vec<usize> = (0..self.shape(x).len()).collect();
        self.mean(x, &axes)
    }

    /// Largest element over `axes`, which vanish.
    #[track_caller]
    pub fn max(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        self.reduce(ReduceKind::Max, x, axes)
    }

    /// Smallest element over `axes`, which vanish.
    #[track_caller]
    pub fn min(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        self.reduce(ReduceKind::Min, x, axes)
    }

    /// Product over `axes`, which vanish.
    #[track_caller]
    pub fn prod(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        self.reduce(ReduceKind::Prod, x, axes)
    }

    /// Index (i32) of the first largest element along `axis`.
    #[track_caller]
    pub fn argmax(&mut self, x: Tensor, axis: usize) -> Tensor {
        self.push(Op::ReduceArg { kind: ReduceKind::Max, axis }, &[x])
    }

    /// Index (i32) of the first smallest element along `axis`.
    #[track_caller]
    pub fn argmin(&mut self, x: Tensor, axis: usize) -> Tensor {
        self.push(Op::ReduceArg { kind: ReduceKind::Min, axis }, &[x])
    }

    /// Reduction of each window.
    #[track_caller]
    pub fn reduce_window(&mut self, kind: ReduceKind, x: Tensor, window: Window) -> Tensor {
        self.push(Op::ReduceWindow { kind, window }, &[x])
    }

    // ---- contractions --------------------------------------------------------------------------------------------------------------

    /// Sum of products over paired axes.
    #[track_caller]
    pub fn dot_general(&mut self, a: Tensor, b: Tensor, dims: DotDims) -> Tensor {
        self.push(Op::DotGeneral { dims }, &[a, b])
    }

    /// Matrix product as numpy has it: `[.., m, k] x [.., k, n] -> [.., m, n]`, leading axes broadcast.
    #[track_caller]
    pub fn matmul(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let (left, right) = (self.shape(a).to_vec(), self.shape(b).to_vec());
        let (l, r) = (left.len(), right.len());
        if l < 2 || r < 2 || left[l - 1] != right[r - 2] {
            return self.fail(format!("matmul: inner sizes differ: a is {left:?}, b is {right:?}"));
        }
        if r == 2 {
            // One weight matrix for all leading axes: no batch axes, so that the product is a single large one.
            let dims = DotDims { lhs_contract: vec![l - 1], rhs_contract: vec![0], ..DotDims::default() };
            return self.dot_general(a, b, dims);
        }
        let batch = l.max(r) - 2;
        let mut lead = Vec::with_capacity(batch);
        for axis in 0..batch {
            let size = |shape: &[usize]| (axis + shape.len() - 2).checked_sub(batch).map_or(1, |own| shape[own]);
            let (x, y) = (size(&left), size(&right));
            if x != y && x != 1 && y != 1 {
                return self.fail(format!("matmul: batch sizes do not broadcast: a is {left:?}, b is {right:?}"));
            }
            lead.push(x.max(y));
        }
        let shaped = |tail: &[usize]| lead.iter().chain(tail).copied().collect::<Vec<_>>();
        let a = self.broadcast_to(a, &shaped(&left[l - 2..]));
        let b = self.broadcast_to(b, &shaped(&right[r - 2..]));
        let axes: Vec<usize> = (0..batch).collect();
        let dims = DotDims { lhs_batch: axes.clone(), rhs_batch: axes, lhs_contract: vec![batch + 1], rhs_contract: vec![batch] };
        self.dot_general(a, b, dims)
    }

    /// Convolution; see `Op::Convolution`.
    #[track_caller]
    pub fn convolution(&mut self, x: Tensor, weight: Tensor, geometry: ConvolutionGeometry) -> Tensor {
        self.push(Op::Convolution { geometry }, &[x, weight])
    }

    /// Transposed convolution: the input gradient of a convolution whose input had the spatial sizes `input_spatial`.
    #[track_caller]
    pub fn convolution_transposed(&mut self, x: Tensor, weight: Tensor, geometry: ConvolutionGeometry, input_spatial: &[usize]) -> Tensor {
        self.push(Op::ConvolutionInputGrad { geometry, input_spatial: input_spatial.to_vec() }, &[x, weight])
    }

    /// The value without its gradient.
    #[track_caller]
    pub fn stop_gradient(&mut self, x: Tensor) -> Tensor {
        self.push(Op::StopGradient, &[x])
    }
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident => $function:ident,)*) => {
        impl Graph {
            $($(#[$doc])* #[track_caller] pub fn $name(&mut self, x: Tensor) -> Tensor { self.unary(UnaryOp::$function, x) })*
        }
    };
}

unary_methods! {
    /// `-x`.
    neg => Negate,
    /// `|x|`.
    abs => Abs,
    /// -1, 0 or 1.
    sign => Sign,
    /// Largest whole number not above `x`.
    floor => Floor,
    /// `e^x`.
    exp => Exponential,
    /// Natural logarithm.
    log => Log,
    /// Square root.
    sqrt => Sqrt,
    /// `1 / sqrt(x)`.
    rsqrt => Rsqrt,
    /// Hyperbolic tangent.
    tanh => Tanh,
    /// `1 / (1 + e^-x)`.
    sigmoid => Logistic,
    /// Sine.
    sin => Sine,
    /// Cosine.
    cos => Cosine,
    /// Error function.
    erf => Erf,
    /// Logical or bitwise not.
    not => Not,
}

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident => $function:ident,)*) => {
        impl Graph {
            $($(#[$doc])* #[track_caller] pub fn $name(&mut self, a: Tensor, b: Tensor) -> Tensor { self.binary(BinaryOp::$function, a, b) })*
        }
    };
}

binary_methods! {
    /// `a + b` with broadcasting.
    add => Add,
    /// `a - b` with broadcasting.
    sub => Subtract,
    /// `a * b` with broadcasting.
    mul => Multiply,
    /// `a / b` with broadcasting.
    div => Divide,
    /// The larger, with broadcasting.
    maximum => Maximum,
    /// The smaller, with broadcasting.
    minimum => Minimum,
    /// `a^b` with broadcasting.
    pow => Power,
    /// Remainder with the sign of `a`, with broadcasting.
    rem => Remainder,
    /// Logical or bitwise and, with broadcasting.
    and => And,
    /// Logical or bitwise or, with broadcasting.
    or => Or,
    /// Logical or bitwise exclusive or, with broadcasting.
    xor => Xor,
}
