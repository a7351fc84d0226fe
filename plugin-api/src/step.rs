//! The context in which an experiment builds its step: batch in, model and optimizer called by handle, metrics out.

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::traits::Observed;
use solstice_ir::{DType, Role, TensorType};
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
    traced: HashMap<String, solstice_ir::Graph>,
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
        Step { graph, request, tracer, training, observed: BTreeMap::new(), metrics: vec![], traced: HashMap::new() }
    }

    // ---- the batch -----------------------------------------------------------------------------------------------------------------

    /// Samples in a batch, padding included.
    pub fn batch_size(&self) -> usize {
        self.request.batch_size
    }

    /// The field `name` of the batch, `[batch, ..]`: f32 for `u8` (scaled as the data set says) and `f32` fields, i32 otherwise.
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

    /// The first field that the model should see.
    #[track_caller]
    pub fn input(&mut self) -> Result<Tensor> {
        self.field_of(FieldRole::Input, "input")
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
        let inner = self.traced(path, entry, inputs)?;
        self.graph.inline(&inner, inputs, scope)
    }

    /// The graph of a component's entry for inputs of these types; equal requests are traced once.
    fn traced(&mut self, path: &str, entry: &str, inputs: &[(&str, Tensor)]) -> Result<solstice_ir::Graph> {
        let named = inputs.iter().map(|(name, tensor)| NamedType { name: (*name).into(), ty: self.graph.ty(*tensor).clone() }).collect();
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

    /// Gradients of the scalar `loss` by every trainable weight, one optimizer update of each, and the norms.
    ///
    /// When the loss or the norm of the gradients is not finite, nothing of the state changes and `nonfinite` counts the step.
    #[track_caller]
    pub fn minimize(&mut self, loss: Tensor) -> Result<()> {
        self.graph.check()?;
        let params = self.graph.params();
        if params.is_empty() {
            return Err(Error::new("there is nothing to train: the step has no trainable weight"));
        }
        let weights: Vec<Tensor> = params.iter().map(|(_, weight)| *weight).collect();
        let grads = self.graph.grad(loss, &weights);
        let grad_norm = self.norm(&grads);
        let both = {
            let loss_finite = self.graph.is_finite(loss);
            let norm_finite = self.graph.is_finite(grad_norm);
            self.graph.and(loss_finite, norm_finite)
        };
        let lr = self.learning_rate()?;
        let step = self.graph.run_scalar("step", DType::U32);
        let step = self.graph.convert(step, DType::F32);
        let step = self.graph.offset(step, 1.0);
        let mut changes = Vec::new();
        for ((name, weight), grad) in params.iter().zip(&grads) {
            let inputs = [("param", *weight), ("grad", *grad), ("lr", lr), ("step", step)];
            let outputs = self.graph_update(name, &inputs)?;
            let updated = only(outputs, "the optimizer")?;
            changes.push(self.graph.sub(updated, *weight));
            self.graph.update(*weight, updated);
        }
        // Everything that the step would change is kept as it was when a number is not finite.
        for (state, value) in self.graph.updates() {
            let kept = self.graph.select(both, value, state);
            self.graph.update(state, kept);
        }
        let one = self.graph.constant(1.0);
        let zero = self.graph.constant(0.0);
        let nonfinite = self.graph.select(both, zero, one);
        self.log_sum("nonfinite", nonfinite)?;
        self.log_scalar("lr", lr)?;
        if self.request.norms {
            let param_norm = self.norm(&weights);
            let update_norm = self.norm(&changes);
            self.log_scalar("grad_norm", grad_norm)?;
            self.log_scalar("param_norm", param_norm)?;
            self.log_scalar("update_norm", update_norm)?;
        }
        self.graph.check()
    }

    fn graph_update(&mut self, param: &str, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        // Optimizer state is named after its parameter; live fields (`weight_decay`) stay one scalar for all parameters.
        let path = "optimizer";
        let mut inner = self.traced(path, "update", inputs)?;
        let mut renamed = HashMap::new();
        for node in &mut inner.nodes {
            if let solstice_ir::Op::Parameter(parameter) = &mut node.op
                && parameter.role == Role::OptState
            {
                let name = format!("{param}.{}", parameter.name);
                renamed.insert(std::mem::replace(&mut parameter.name, name.clone()), name);
            }
        }
        for update in &mut inner.updates {
            if let Some(name) = renamed.get(&update.state) {
                update.state = name.clone();
            }
        }
        self.graph.inline(&inner, inputs, path)
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
        Ok(StepTrace { graph: self.graph.finish()?, metrics: self.metrics })
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
