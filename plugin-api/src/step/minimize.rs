//! `Step::minimize`: from a loss to new weights. It is the order of things; bounds on gradients are in `clip.rs`, sums over micro-batches in
//! `accumulate.rs`.
//!
//! A number that is not finite must change nothing, so every new value is gated, the weights' copies included. What a recipe does not ask for is not
//! built: without options the graph is that of a plain step.

use super::{Step, only};
use crate::error::{Error, Result};
use crate::graph::Tensor;
use solstice_ir::{DType, Graph as Ir, Init, Op, Role, TensorType};
use solstice_plugin_abi::wire::Accumulate;
use std::collections::HashMap;

/// A parameter that is not frozen.
pub(super) struct Trained {
    pub(super) name: String,
    pub(super) weight: Tensor,
    /// Its group in the request.
    pub(super) group: Option<usize>,
}

impl Step<'_> {
    /// Gradients of the scalar `loss` by every trained weight, one optimizer update of each, and the norms, which are of the trained weights too.
    ///
    /// When the loss or the norm of the gradients is not finite, nothing of the state changes and `nonfinite` counts the step.
    /// When a step has several micro-batches, each counts by its samples, as if `loss` were a mean over them.
    #[track_caller]
    pub fn minimize(&mut self, loss: Tensor) -> Result<()> {
        self.graph.check()?;
        let params = self.trained()?;
        let weights: Vec<Tensor> = params.iter().map(|param| param.weight).collect();
        let grads = self.graph.grad(loss, &weights);
        self.gradients = params.iter().zip(&grads).map(|(param, grad)| (param.name.clone(), grad.0)).collect();
        match self.request.accumulate {
            None => self.apply(loss, &params, &grads)?,
            Some(Accumulate::Gather) => self.gather(loss, &params, &grads),
            Some(Accumulate::Apply) => {
                let sums = self.sums(&params);
                let (loss, grads) = self.mean_with(&sums, loss, &grads);
                self.apply(loss, &params, &grads)?;
                self.clear(&sums);
            }
        }
        self.graph.check()
    }

    /// All parameters but the frozen ones.
    #[track_caller]
    fn trained(&self) -> Result<Vec<Trained>> {
        let (params, groups) = (self.graph.params(), &self.request.groups);
        if params.is_empty() {
            return Err(Error::new("there is nothing to train: the step has no trainable weight"));
        }
        let count = params.len();
        let mut trained = vec![];
        for (name, weight) in params {
            let group = self.request.group_of.get(&name).copied();
            let frozen = match group {
                Some(index) => match groups.get(index) {
                    Some(group) => group.frozen,
                    None => return Err(Error::new(format!("`{name}` is said to be in group {index}, but there are {}", groups.len()))),
                },
                None => false,
            };
            if !frozen {
                trained.push(Trained { name, weight, group });
            }
        }
        if trained.is_empty() {
            return Err(Error::new(format!(
                "there is nothing to train: the recipe freezes all {count} parameters; leave one out of `frozen`"
            )));
        }
        Ok(trained)
    }

    /// One update of every weight by the gradients of the whole step.
    #[track_caller]
    fn apply(&mut self, loss: Tensor, params: &[Trained], grads: &[Tensor]) -> Result<()> {
        let weights: Vec<Tensor> = params.iter().map(|param| param.weight).collect();
        let grad_norm = self.norm(grads);
        let finite = self.all_finite(loss, grad_norm);
        let lr = self.learning_rate()?;
        let step = self.graph.run_scalar("step", DType::U32);
        let step = self.graph.convert(step, DType::F32);
        let step = self.graph.offset(step, 1.0);
        let clipped = match self.request.clip {
            Some(clip) => Some(self.clip(clip, &weights, grads, grad_norm)?),
            None => None,
        };
        let grads = clipped.as_ref().map_or(grads, |clipped| &clipped.grads);
        self.check_decay(params)?;
        let mut changes = Vec::new();
        for (param, grad) in params.iter().zip(grads) {
            let updated = self.optimized(param, *grad, lr, step)?;
            changes.push(self.graph.sub(updated, param.weight));
            self.graph.update(param.weight, updated);
        }
        self.keep_unless(finite);
        if self.training {
            self.update_shadows(finite, step)?;
        }
        self.log_step(finite, lr)?;
        self.log_norms(grad_norm, &weights, &changes, clipped.map(|clipped| clipped.happened))
    }

    #[track_caller]
    fn log_step(&mut self, finite: Tensor, lr: Tensor) -> Result<()> {
        let one = self.graph.constant(1.0);
        let zero = self.graph.constant(0.0);
        let nonfinite = self.graph.select(finite, zero, one);
        self.log_sum("nonfinite", nonfinite)?;
        self.log_scalar("lr", lr)
    }

    #[track_caller]
    fn log_norms(&mut self, grad_norm: Tensor, weights: &[Tensor], changes: &[Tensor], clipped: Option<Tensor>) -> Result<()> {
        if self.request.norms {
            let param_norm = self.norm(weights);
            let update_norm = self.norm(changes);
            self.log_scalar("grad_norm", grad_norm)?;
            self.log_scalar("param_norm", param_norm)?;
            self.log_scalar("update_norm", update_norm)?;
        } else if clipped.is_some() {
            self.log_scalar("grad_norm", grad_norm)?;
        }
        match clipped {
            Some(clipped) => self.log_scalar("clipped", clipped),
            None => Ok(()),
        }
    }

    /// True when the loss and the norm are finite.
    #[track_caller]
    pub(super) fn all_finite(&mut self, loss: Tensor, grad_norm: Tensor) -> Tensor {
        let loss_finite = self.graph.is_finite(loss);
        let norm_finite = self.graph.is_finite(grad_norm);
        self.graph.and(loss_finite, norm_finite)
    }

    /// Keeps everything that the step would change so far as it was, unless `finite`.
    #[track_caller]
    pub(super) fn keep_unless(&mut self, finite: Tensor) {
        for (state, value) in self.graph.updates() {
            let kept = self.graph.select(finite, value, state);
            self.graph.update(state, kept);
        }
    }

    // ---- the optimizer -------------------------------------------------------------------------------------------------------------

    /// The new weight, before the gate.
    #[track_caller]
    fn optimized(&mut self, param: &Trained, grad: Tensor, lr: Tensor, step: Tensor) -> Result<Tensor> {
        let (mut lr, mut decay) = (lr, None);
        if let Some(index) = param.group {
            let group = self.request.groups[index];
            let factor = self.graph.live(&format!("trainer.groups.{index}.lr"), group.lr);
            lr = self.graph.mul(lr, factor);
            if reads(&self.traced_update(param.weight, true)?, "decay") {
                decay = Some(self.graph.live(&format!("trainer.groups.{index}.weight_decay"), group.weight_decay));
            }
        }
        let mut inner = self.traced_update(param.weight, decay.is_some())?;
        name_state_after(&param.name, &mut inner);
        let mut inputs = vec![("param", param.weight), ("grad", grad), ("lr", lr), ("step", step)];
        inputs.extend(decay.map(|decay| ("decay", decay)));
        only(self.graph.inline(&inner, &inputs, "optimizer")?, "the optimizer")
    }

    /// The optimizer's rule for a weight of this type; the factor on its weight decay is an input or 1.
    fn traced_update(&mut self, weight: Tensor, with_decay: bool) -> Result<Ir> {
        let (weight, scalar) = (self.graph.ty(weight).clone(), TensorType::new(DType::F32, []));
        let mut inputs = vec![("param", weight.clone()), ("grad", weight), ("lr", scalar.clone()), ("step", scalar.clone())];
        if with_decay {
            inputs.push(("decay", scalar));
        }
        self.traced("optimizer", "update", &inputs)
    }

    /// An optimizer built for ABI 1.0 has no factor on its weight decay: the recipe's is refused, not passed over.
    #[track_caller]
    fn check_decay(&mut self, params: &[Trained]) -> Result<()> {
        let groups = &self.request.groups;
        let Some(index) = params.iter().filter_map(|param| param.group).find(|&index| groups[index].weight_decay != 1.0) else {
            return Ok(());
        };
        // A rule may leave some weights out of its decay by itself, such as biases, but not all.
        for param in params {
            if reads(&self.traced_update(param.weight, true)?, "decay") {
                return Ok(());
            }
        }
        let factor = groups[index].weight_decay;
        Err(Error::new(format!(
            "`trainer.groups.{index}` multiplies the weight decay by {factor}, but this optimizer does not read `decay`: it has no weight decay, \
             or its plugin was built for an API before 1.1 and wants rebuilding; leave `weight_decay` of the group at 1"
        )))
    }

    // ---- copies of the weights -----------------------------------------------------------------------------------------------------

    /// The copies that callbacks keep: of every parameter, frozen or not, as it is after this step.
    #[track_caller]
    fn update_shadows(&mut self, finite: Tensor, step: Tensor) -> Result<()> {
        let request = self.request;
        let after: HashMap<Tensor, Tensor> = self.graph.updates().into_iter().collect();
        for (path, name) in &request.shadows {
            for (param, weight) in self.graph.params() {
                let ty = self.graph.ty(weight).clone();
                let types = [("shadow", ty.clone()), ("param", ty.clone()), ("step", TensorType::new(DType::F32, []))];
                let inner = self.traced(path, "shadow", &types)?;
                if inner.output("shadow").is_none() {
                    continue;
                }
                if let Some((_, own, _)) = inner.parameters().find(|(_, parameter, _)| parameter.role.is_state()) {
                    return Err(Error::new(format!(
                        "callback `{name}` ({path}): its `shadow` keeps the state `{}` beside the copy; it may read the copy, the weight, the step \
                         and live scalars only",
                        own.name
                    )));
                }
                let shadow = self.graph.optimizer_state(&format!("shadow.{name}.{param}"), &ty.shape, Init::Constant(0.0));
                let param = after.get(&weight).copied().unwrap_or(weight);
                let outputs = self.graph.inline(&inner, &[("shadow", shadow), ("param", param), ("step", step)], path)?;
                let value = only(outputs, &format!("callback `{name}`"))?;
                let kept = self.graph.select(finite, value, shadow);
                self.graph.update(shadow, kept);
            }
        }
        Ok(())
    }
}

/// True when something in the graph depends on its input `name`.
fn reads(graph: &Ir, name: &str) -> bool {
    graph.parameter(name).is_some_and(|input| {
        graph.nodes.iter().any(|node| node.inputs.contains(&input))
            || graph.outputs.iter().any(|output| output.node == input)
            || graph.updates.iter().any(|update| update.node == input)
    })
}

// Optimizer state is named after its parameter; live fields (`weight_decay`) stay one scalar for all parameters.
fn name_state_after(param: &str, inner: &mut Ir) {
    let mut renamed = HashMap::new();
    for node in &mut inner.nodes {
        if let Op::Parameter(parameter) = &mut node.op
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
}
