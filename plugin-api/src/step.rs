//! The context in which an experiment builds its step: batch in, model and optimizer called by handle, metrics out. How a loss becomes new weights is
//! in `step/minimize.rs`.

mod accumulate;
mod clip;
mod minimize;

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::traits::Observed;
use solstice_ir::{DType, NodeId, TensorType};
use solstice_plugin_abi::wire::{Field, FieldRole, MetricPort, NamedType, StepRequest, StepTrace, TraceRequest};
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};

/// Asks the host for the graph of another component's entry: (component path, entry, request).
pub type Tracer<'a> = dyn Fn(&str, &str, &TraceRequest) -> Result<solstice_ir::Graph> + 'a;

/// A step under construction. It is also the [`Graph`] that the step is built in.
pub struct Step<'a> {
    graph: Graph,
    request: &'a StepRequest,
    tracer: &'a Tracer<'a>,
    training: bool,
    observed: BTreeMap<String, Tensor>,
    metrics: Vec<MetricPort>,
    gradients: BTreeMap<String, NodeId>,
    traced: HashMap<String, solstice_ir::Graph>,
    /// The input after the recipe's transforms, once something has asked for it.
    transformed: Option<Tensor>,
}

impl Deref for Step<'_> {
    type Target = Graph;
    fn deref(&self) -> &Graph {
        &self.graph
    }
}

impl DerefMut for Step<'_> {
    fn deref_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl<'a> Step<'a> {
    /// An empty step; the host's side of an experiment makes it.
    pub fn new(request: &'a StepRequest, training: bool, tracer: &'a Tracer<'a>) -> Step<'a> {
        let graph = Graph::new(&format!("{}_step", request.split), training).with_facts(request.facts.clone());
        Step {
            graph,
            request,
            tracer,
            training,
            observed: BTreeMap::new(),
            metrics: vec![],
            gradients: BTreeMap::new(),
            traced: HashMap::new(),
            transformed: None,
        }
    }

    // ---- the batch -----------------------------------------------------------------------------------------------------------------

    /// Samples in a batch, padding included.
    pub fn batch_size(&self) -> usize {
        self.request.batch_size
    }

    /// The field `name` of the batch, `[batch, ..]`: f32 for `u8` (scaled as the data set says) and `f32` fields, i32 otherwise. It is as the data set
    /// gives it: transforms change [`Step::input`] alone.
    #[track_caller]
    pub fn field(&mut self, name: &str) -> Result<Tensor> {
        let request = self.request;
        match request.fields.iter().find(|field| field.name == name) {
            Some(field) => Ok(self.batch_field(field)),
            None => {
                let known: Vec<&str> = request.fields.iter().map(|field| field.name.as_str()).collect();
                Err(Error::new(format!("the data set has no field `{name}`; it has {}", known.join(", "))))
            }
        }
    }

    /// The first field that the model should see; in training, changed by the recipe's transforms, and the same however often it is asked for.
    #[track_caller]
    pub fn input(&mut self) -> Result<Tensor> {
        if let Some(x) = self.transformed {
            return Ok(x);
        }
        let x = self.field_of(FieldRole::Input, "input")?;
        if self.has_transforms() { self.transform(x) } else { Ok(x) }
    }

    /// True when this step is to transform its input.
    fn has_transforms(&self) -> bool {
        self.training && !self.request.transforms.is_empty()
    }

    /// `x` through the recipe's transforms, in order. Each is inlined under its own path, so that two of a kind draw different random numbers.
    #[track_caller]
    fn transform(&mut self, x: Tensor) -> Result<Tensor> {
        self.graph.check()?;
        if self.graph.dtype(x) != DType::F32 {
            let found = self.graph.ty(x);
            return Err(Error::new(format!(
                "transforms change numbers (f32), the model's input is {found}; leave `transforms` out of the recipe"
            )));
        }
        let request = self.request;
        let mut y = x;
        for path in &request.transforms {
            y = only(self.call(path, "apply", &[("x", y)])?, &format!("the transform at `{path}`"))?;
        }
        self.transformed = Some(y);
        Ok(y)
    }

    /// The first field that the model should predict.
    #[track_caller]
    pub fn target(&mut self) -> Result<Tensor> {
        self.field_of(FieldRole::Target, "target")
    }

    #[track_caller]
    fn field_of(&mut self, role: FieldRole, name: &str) -> Result<Tensor> {
        let request = self.request;
        match request.fields.iter().find(|field| field.role == role) {
            Some(field) => Ok(self.batch_field(field)),
            None => Err(Error::new(format!("the data set has no field with the role `{name}`"))),
        }
    }

    #[track_caller]
    fn batch_field(&mut self, field: &Field) -> Tensor {
        let mut shape = vec![self.request.batch_size];
        shape.extend(&field.shape);
        let stored = self.graph.input(&format!("batch.{}", field.name), TensorType::new(field.dtype, shape));
        if field.dtype != DType::U8 {
            return stored;
        }
        let value = self.graph.convert(stored, DType::F32);
        let value = if field.scale == 1.0 { value } else { self.graph.scale(value, field.scale) };
        if field.offset == 0.0 { value } else { self.graph.offset(value, field.offset) }
    }

    /// 1 for samples, 0 for the padding of a ragged last batch: f32 `[batch]`.
    #[track_caller]
    pub fn mask(&mut self) -> Tensor {
        let ty = TensorType::new(DType::F32, [self.request.batch_size]);
        self.graph.input("batch.mask", ty)
    }

    /// Mean over the samples of the batch of a per-sample value `[batch]`: a scalar.
    #[track_caller]
    pub fn batch_mean(&mut self, per_sample: Tensor) -> Tensor {
        let mask = self.mask();
        let masked = self.masked(per_sample, mask);
        let sum = self.graph.sum_all(masked);
        let count = self.graph.sum_all(mask);
        self.graph.div(sum, count)
    }

    // A NaN in a padded row must not reach the sum, so the mask selects; it does not multiply.
    #[track_caller]
    fn masked(&mut self, per_sample: Tensor, mask: Tensor) -> Tensor {
        let inside = self.graph.compare_with(solstice_ir::Compare::Greater, mask, 0.0);
        let zero = self.graph.full_like(per_sample, 0.0);
        self.graph.select(inside, per_sample, zero)
    }

    // ---- other components ----------------------------------------------------------------------------------------------------------

    /// Calls an entry of the component at `path` (`model`, `optimizer`): its traced graph is inlined under the scope `path`.
    #[track_caller]
    pub fn call(&mut self, path: &str, entry: &str, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        self.call_in(path, path, entry, inputs)
    }

    #[track_caller]
    fn call_in(&mut self, path: &str, scope: &str, entry: &str, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        self.graph.check()?;
        let types: Vec<(&str, TensorType)> = inputs.iter().map(|(name, tensor)| (*name, self.graph.ty(*tensor).clone())).collect();
        let inner = self.traced(path, entry, &types)?;
        self.graph.inline(&inner, inputs, scope)
    }

    /// The graph of a component's entry for inputs of these types; equal requests are traced once.
    fn traced(&mut self, path: &str, entry: &str, inputs: &[(&str, TensorType)]) -> Result<solstice_ir::Graph> {
        let named = inputs.iter().map(|(name, ty)| NamedType { name: (*name).into(), ty: ty.clone() }).collect();
        let request = TraceRequest { inputs: named, training: self.training, facts: self.request.facts.clone() };
        let key = format!("{path}\n{entry}\n{}", serde_json::to_string(&request)?);
        if !self.traced.contains_key(&key) {
            let graph = (self.tracer)(path, entry, &request)?;
            self.traced.insert(key.clone(), graph);
        }
        Ok(self.traced[&key].clone())
    }

    /// Output of the recipe's model for `x`.
    #[track_caller]
    pub fn model(&mut self, x: Tensor) -> Result<Tensor> {
        only(self.call("model", "forward", &[("x", x)])?, "the model")
    }

    /// Learning rate of this step: the optimizer's base rate through the schedule.
    #[track_caller]
    pub fn learning_rate(&mut self) -> Result<Tensor> {
        let base_lr = only(self.call("optimizer", "learning_rate", &[])?, "the optimizer")?;
        let step = self.graph.run_scalar("step", DType::U32);
        let step = self.graph.convert(step, DType::F32);
        let total_steps = self.graph.run_scalar("total_steps", DType::F32);
        only(self.call("schedule", "rate", &[("base_lr", base_lr), ("step", step), ("total_steps", total_steps)])?, "the schedule")
    }

    /// Euclidean norm of several tensors together: a scalar.
    #[track_caller]
    pub fn norm(&mut self, tensors: &[Tensor]) -> Tensor {
        let mut total = self.graph.constant(0.0);
        for &tensor in tensors {
            let square = self.graph.square(tensor);
            let sum = self.graph.sum_all(square);
            total = self.graph.add(total, sum);
        }
        self.graph.sqrt(total)
    }

    // ---- metrics -------------------------------------------------------------------------------------------------------------------

    /// Logs the mean over samples of a per-sample value `[batch]` as `<split>/<name>`.
    #[track_caller]
    pub fn log_mean(&mut self, name: &str, per_sample: Tensor) -> Result<()> {
        let mask = self.mask();
        let masked = self.masked(per_sample, mask);
        let sum = self.graph.sum_all(masked);
        let weight = self.graph.sum_all(mask);
        self.log_ratio(name, sum, weight)
    }

    /// Logs the mean over steps of a scalar as `<split>/<name>`.
    #[track_caller]
    pub fn log_scalar(&mut self, name: &str, value: Tensor) -> Result<()> {
        let one = self.graph.constant(1.0);
        self.log_ratio(name, value, one)
    }

    /// Logs the sum over steps of a scalar as `<split>/<name>`.
    #[track_caller]
    pub fn log_sum(&mut self, name: &str, value: Tensor) -> Result<()> {
        self.accumulate(name, &[("sum", value)], |_, sums| {
            let sum = sums["sum"];
            Ok(vec![(name.to_owned(), sum)])
        })
    }

    /// Logs `sum of value / sum of weight` over the steps as `<split>/<name>`; both are scalars.
    #[track_caller]
    pub fn log_ratio(&mut self, name: &str, value: Tensor, weight: Tensor) -> Result<()> {
        self.accumulate(name, &[("sum", value), ("weight", weight)], |g, sums| {
            let ratio = g.div(sums["sum"], sums["weight"]);
            Ok(vec![(name.to_owned(), ratio)])
        })
    }

    #[track_caller]
    fn accumulate(
        &mut self,
        name: &str,
        increments: &[(&str, Tensor)],
        compute: impl FnOnce(&mut Graph, &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>>,
    ) -> Result<()> {
        self.graph.check()?;
        let (states, types) = self.add_increments(name, increments);
        let mut inner = Graph::new(name, false);
        let mut sums = BTreeMap::new();
        for ((state, ty), (accumulator, _)) in states.iter().zip(types).zip(increments) {
            sums.insert((*accumulator).to_owned(), inner.input(state, ty));
        }
        for (output, value) in compute(&mut inner, &sums)? {
            inner.output(&output, value);
        }
        self.metrics.push(MetricPort { name: name.into(), states, compute: inner.finish()? });
        self.graph.check()
    }

    // Adds each increment to a state tensor of role Metric, named `metrics.<split>.<metric>.<accumulator>`.
    #[track_caller]
    fn add_increments(&mut self, name: &str, increments: &[(&str, Tensor)]) -> (Vec<String>, Vec<TensorType>) {
        let mut states = vec![];
        let mut types = vec![];
        for (accumulator, increment) in increments {
            let state = format!("metrics.{}.{name}.{accumulator}", self.request.split);
            let ty = self.graph.ty(*increment).clone();
            let old = self.graph.accumulator(&state, ty.clone());
            let new = self.graph.add(old, *increment);
            self.graph.update(old, new);
            states.push(state);
            types.push(ty);
        }
        (states, types)
    }

    /// Shows a value to the recipe's metrics: `logits` and `target` for classification, `prediction` and `target` for regression.
    pub fn observe(&mut self, name: &str, value: Tensor) {
        self.observed.insert(name.into(), value);
    }

    /// The finished step with the recipe's metrics in it.
    pub fn finish(mut self) -> Result<StepTrace> {
        if self.has_transforms() && self.transformed.is_none() {
            return Err(Error::at(
                "the recipe lists `transforms`, but this experiment never reads `step.input()`, which they change; leave them out of the recipe",
                "",
            ));
        }
        // Ids stay: the graph is finished with all its nodes, whether something reads them or not.
        let seen = self.observed.iter().map(|(name, value)| (name.clone(), value.0)).collect();
        let mask = self.mask();
        let mut observed = Observed { values: std::mem::take(&mut self.observed) };
        observed.values.insert("mask".into(), mask);
        let metrics = self.request.metrics.clone();
        for (path, name) in metrics {
            let inputs: Vec<(&str, Tensor)> = observed.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            let increments = self.call_in(&path, &path, "update", &inputs)?;
            let borrowed: Vec<(&str, Tensor)> = increments.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            let (states, types) = self.add_increments(&name, &borrowed);
            let request = TraceRequest {
                inputs: increments.iter().zip(types).map(|((name, _), ty)| NamedType { name: name.clone(), ty }).collect(),
                training: false,
                facts: self.request.facts.clone(),
            };
            let mut compute = (self.tracer)(&path, "compute", &request)?;
            rename_inputs(&mut compute, &increments, &states);
            self.metrics.push(MetricPort { name, states, compute });
        }
        Ok(StepTrace { graph: self.graph.finish()?, metrics: self.metrics, gradients: self.gradients, observed: seen })
    }
}

// Inputs of a metric's `compute` are called after its accumulators; the port's inputs are called after the state tensors.
fn rename_inputs(compute: &mut solstice_ir::Graph, increments: &[(String, Tensor)], states: &[String]) {
    for node in &mut compute.nodes {
        if let solstice_ir::Op::Parameter(parameter) = &mut node.op
            && let Some(index) = increments.iter().position(|(name, _)| *name == parameter.name)
        {
            parameter.name = states[index].clone();
        }
    }
}

#[track_caller]
fn only(outputs: Vec<(String, Tensor)>, who: &str) -> Result<Tensor> {
    match outputs.first() {
        Some((_, tensor)) => Ok(*tensor),
        None => Err(Error::new(format!("{who} gave no output"))),
    }
}
