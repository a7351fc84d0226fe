//! What a recipe's training options leave in the traced step: which states, scalars and updates there are, and which mistakes are refused. Numbers are
//! tested in `host/engine/tests/training_options.rs`.

use solstice_plugin_api::ir::{Graph as Ir, Role};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Event, Moment};
use solstice_plugin_api::testing::{Components, step_request};
use solstice_plugin_api::wire::{Accumulate, Clip, ParamGroup, StepRequest, StepTrace};
use solstice_plugin_api::{Run, ir::Op};

/// One layer.
#[config]
#[derive(Default)]
struct Line {}
impl Model for Line {
    const ID: &'static str = "line";
    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        g.linear("fc", x, 2)
    }
}

/// Momentum, with a weight decay or, as plugins of API 1.0 do it, with one that nobody can weaken.
#[config]
#[derive(Default)]
struct Momentum {
    before_1_1: bool,
}
impl Optimizer for Momentum {
    const ID: &'static str = "momentum";
    fn learning_rate(&self) -> f64 {
        0.1
    }
    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let decay = if self.before_1_1 { g.live("weight_decay", 0.1) } else { at.weight_decay(g, 0.1) };
        let pull = g.mul(decay, at.param);
        let grad = g.add(at.grad, pull);
        let shape = g.shape(at.param).to_vec();
        let velocity = g.optimizer_state("velocity", &shape, Init::Constant(0.0));
        let moved = g.add(velocity, grad);
        g.update(velocity, moved);
        let change = g.mul(at.lr, moved);
        Ok(g.sub(at.param, change))
    }
}

/// The base rate for ever.
#[config]
#[derive(Default)]
struct Steady {}
impl LrSchedule for Steady {
    const ID: &'static str = "steady";
    fn rate(&self, _: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        Ok(at.base_lr)
    }
}

/// Copies: none, plain ones, or with a state of their own.
#[config]
#[derive(Default)]
struct Copies {
    kept: bool,
    own_state: bool,
}
impl Callback for Copies {
    const ID: &'static str = "copies";
    const MOMENTS: &'static [Moment] = &[];
    type State = ();
    fn on_event(&self, _: &mut (), _: &Event, _: &Run<'_>) -> Result<Vec<Action>> {
        Ok(vec![])
    }
    fn shadow(&self, g: &mut Graph, at: ShadowUpdate) -> Result<Option<Tensor>> {
        if self.own_state {
            g.optimizer_state("count", &[], Init::Constant(0.0));
        }
        let half = g.live("half", 0.5);
        let difference = g.sub(at.param, at.shadow);
        let part = g.mul(difference, half);
        Ok(self.kept.then(|| g.add(at.shadow, part)))
    }
}

/// Mean square of the model's output.
#[config]
#[derive(Default)]
struct Shrink {}
impl Experiment for Shrink {
    const ID: &'static str = "shrink";
    fn train_step(&self, step: &mut Step) -> Result<()> {
        let loss = self.loss(step)?;
        let loss = step.batch_mean(loss);
        step.minimize(loss)
    }
    fn eval_step(&self, step: &mut Step) -> Result<()> {
        self.loss(step).map(drop)
    }
}
impl Shrink {
    fn loss(&self, step: &mut Step) -> Result<Tensor> {
        let x = step.input()?;
        let y = step.model(x)?;
        step.observe("prediction", y);
        let square = step.square(y);
        let loss = step.sum(square, &[1]);
        step.log_mean("loss", loss)?;
        Ok(loss)
    }
}

fn components() -> Components {
    Components::new().model(Line {}).optimizer(Momentum::default()).lr_schedule(Steady {})
}

fn request() -> StepRequest {
    step_request("train", 4, TensorType::new(DType::F32, [3]), TensorType::new(DType::I32, []))
}

fn group(lr: f64, weight_decay: f64, frozen: bool) -> ParamGroup {
    ParamGroup { lr, weight_decay, frozen }
}

/// A request with one group that has these parameters.
fn grouped(group: ParamGroup, names: &[&str]) -> StepRequest {
    StepRequest { groups: vec![group], group_of: names.iter().map(|name| ((*name).to_owned(), 0)).collect(), ..request() }
}

fn traced(components: &Components, request: &StepRequest) -> Result<StepTrace> {
    components.trace(&Shrink {}, "train_step", request)
}

fn refused(components: &Components, request: &StepRequest) -> String {
    traced(components, request).expect_err("the step was to be refused").message
}

fn named(graph: &Ir, role: Role) -> Vec<String> {
    graph.parameters().filter(|(_, parameter, _)| parameter.role == role).map(|(_, parameter, _)| parameter.name.clone()).collect()
}

fn updated(trace: &StepTrace) -> Vec<String> {
    trace.graph.updates.iter().map(|update| update.state.clone()).filter(|name| !name.starts_with("metrics.")).collect()
}

fn logged(trace: &StepTrace) -> Vec<&str> {
    trace.metrics.iter().map(|port| port.name.as_str()).collect()
}

const WEIGHT: &str = "model.fc.weight";
const BIAS: &str = "model.fc.bias";

#[test]
fn options_that_nobody_uses_leave_the_step_as_it_is() -> Result<()> {
    let plain = traced(&components(), &request())?;
    assert_eq!(named(&plain.graph, Role::Scalar), ["optimizer.lr", "run.step", "run.total_steps", "optimizer.weight_decay"]);
    let unused = StepRequest { groups: vec![group(0.5, 0.0, false)], ..request() };
    assert_eq!(traced(&components().callback(Copies::default()), &unused)?.graph, plain.graph);
    Ok(())
}

#[test]
fn frozen_parameters_have_no_gradient_no_state_and_no_update() -> Result<()> {
    let trace = traced(&components(), &grouped(group(1.0, 1.0, true), &[WEIGHT]))?;
    let mut changed = updated(&trace);
    changed.sort();
    assert_eq!(changed, [BIAS, "optimizer.model.fc.bias.velocity"]);
    assert_eq!(named(&trace.graph, Role::OptState), ["optimizer.model.fc.bias.velocity"]);
    assert_eq!(trace.gradients.keys().collect::<Vec<_>>(), [BIAS]);
    let grads: Vec<usize> = trace.graph.nodes.iter().filter(|node| matches!(node.op, Op::Grad)).map(|node| node.inputs.len()).collect();
    assert_eq!(grads, [2], "the loss and the bias");
    assert!(!named(&trace.graph, Role::Scalar).iter().any(|name| name.starts_with("trainer.")));
    let message = refused(&components(), &grouped(group(1.0, 1.0, true), &[WEIGHT, BIAS]));
    assert!(message.contains("all 2 parameters"), "{message}");
    Ok(())
}

#[test]
fn groups_and_clipping_are_steered_by_live_scalars_of_the_trainer() -> Result<()> {
    let request = StepRequest { clip: Some(Clip::Norm(2.0)), ..grouped(group(0.5, 0.25, false), &[WEIGHT]) };
    let trace = traced(&components(), &request)?;
    let first = |name: &str| {
        let id = trace.graph.parameter(name).unwrap_or_else(|| panic!("no {name}"));
        match &trace.graph.node(id).op {
            Op::Parameter(parameter) => parameter.init.clone(),
            _ => None,
        }
    };
    assert_eq!(first("trainer.clip"), Some(Init::Constant(2.0)));
    assert_eq!(first("trainer.groups.0.lr"), Some(Init::Constant(0.5)));
    assert_eq!(first("trainer.groups.0.weight_decay"), Some(Init::Constant(0.25)));
    assert_eq!(logged(&trace), ["loss", "nonfinite", "lr", "grad_norm", "clipped"]);
    assert_eq!(named(&trace.graph, Role::OptState), ["optimizer.model.fc.weight.velocity", "optimizer.model.fc.bias.velocity"]);
    Ok(())
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let mut request = request();
    request.group_of.insert(BIAS.into(), 3);
    let message = refused(&components(), &request);
    assert!(message.contains(BIAS) && message.contains("group 3"), "{message}");
    for bound in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let message = refused(&components(), &StepRequest { clip: Some(Clip::Value(bound)), ..self::request() });
        assert!(message.contains("trainer.clip"), "{message}");
    }
}

#[test]
fn a_decay_factor_that_the_optimizer_cannot_take_is_refused() -> Result<()> {
    let old = Components::new().model(Line {}).optimizer(Momentum { before_1_1: true }).lr_schedule(Steady {});
    let message = refused(&old, &grouped(group(1.0, 0.0, false), &[BIAS]));
    assert!(message.contains("decay") && message.contains("trainer.groups.0"), "{message}");
    // Its learning rate may be another all the same; there is no scalar for the factor then.
    let trace = traced(&old, &grouped(group(0.5, 1.0, false), &[BIAS]))?;
    let scalars = named(&trace.graph, Role::Scalar);
    assert!(scalars.contains(&"trainer.groups.0.lr".into()) && !scalars.contains(&"trainer.groups.0.weight_decay".into()), "{scalars:?}");
    Ok(())
}

#[test]
fn a_micro_batch_changes_its_sums_alone() -> Result<()> {
    let sums = ["gradients.samples", "gradients.loss", "gradients.model.fc.weight", "gradients.model.fc.bias"];
    let components = components().callback(Copies { kept: true, own_state: false });
    let gather = traced(&components, &StepRequest { accumulate: Some(Accumulate::Gather), norms: true, ..request() })?;
    assert_eq!(updated(&gather), sums);
    assert_eq!(named(&gather.graph, Role::OptState), sums);
    assert_eq!(named(&gather.graph, Role::Scalar), [""; 0], "no learning rate is asked for");
    assert_eq!(logged(&gather), ["loss"]);
    let apply = traced(&components, &StepRequest { accumulate: Some(Accumulate::Apply), ..request() })?;
    let plain = traced(&components, &request())?;
    let mut wanted = updated(&plain);
    wanted.extend(sums.map(String::from));
    assert_eq!(updated(&apply), wanted);
    assert_eq!(logged(&apply), logged(&plain));
    // Both programs share the state.
    for name in sums {
        let of = |trace: &StepTrace| trace.graph.parameter(name).map(|id| (trace.graph.node(id).op.clone(), trace.graph.ty(id).clone()));
        assert_eq!(of(&gather), of(&apply), "{name}");
    }
    Ok(())
}

#[test]
fn copies_are_kept_of_every_parameter_by_the_callbacks_that_want_them() -> Result<()> {
    let components = components().callback(Copies::default()).callback(Copies { kept: true, own_state: false });
    let trace = traced(&components, &grouped(group(1.0, 1.0, true), &[WEIGHT]))?;
    let shadows: Vec<String> = updated(&trace).into_iter().filter(|name| name.starts_with("shadow.")).collect();
    assert_eq!(shadows, ["shadow.copies.model.fc.weight", "shadow.copies.model.fc.bias"]);
    assert!(named(&trace.graph, Role::Scalar).contains(&"callbacks.1.half".into()));
    assert!(!named(&trace.graph, Role::Scalar).contains(&"callbacks.0.half".into()));
    let evaluation = components.trace(&Shrink {}, "eval_step", &request())?;
    assert_eq!(updated(&evaluation), [""; 0]);
    Ok(())
}

#[test]
fn a_copy_with_a_state_of_its_own_is_refused() {
    let message = refused(&components().callback(Copies { kept: true, own_state: true }), &request());
    assert!(message.contains("copies") && message.contains("`count`"), "{message}");
}

#[test]
fn the_answer_says_where_gradients_and_observations_are() -> Result<()> {
    for accumulate in [None, Some(Accumulate::Gather), Some(Accumulate::Apply)] {
        let trace = traced(&components(), &StepRequest { accumulate, clip: Some(Clip::Norm(1.0)), ..request() })?;
        for (name, id) in &trace.gradients {
            let weight = trace.graph.parameter(name).expect("a gradient is of a parameter");
            assert_eq!(trace.graph.ty(*id), trace.graph.ty(weight), "{name}");
        }
        assert_eq!(trace.gradients.len(), 2);
        assert_eq!(trace.observed.keys().collect::<Vec<_>>(), ["prediction"]);
        assert_eq!(trace.graph.ty(trace.observed["prediction"]).shape, [4, 2]);
    }
    let evaluation = components().trace(&Shrink {}, "eval_step", &request())?;
    assert!(evaluation.gradients.is_empty() && evaluation.observed.contains_key("prediction"));
    Ok(())
}
