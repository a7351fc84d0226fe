//! Transforms in a step: when they are applied, how often, and what they may not do. What those of `plugins/transforms` do to images is tried in
//! `host/engine/tests/transforms.rs`.

use solstice_plugin_api::ir::{Graph as Ir, Op, Role};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::testing::{Components, step_request, trace_transform};
use solstice_plugin_api::wire::{Accumulate, StepRequest, StepTrace};

/// Uniform noise on a live scale, or something that a transform may not do.
#[config]
#[derive(Default)]
struct Jitter {
    misdeed: Misdeed,
}

#[config]
#[derive(Copy, PartialEq, Default)]
enum Misdeed {
    #[default]
    None,
    Shape,
    Weight,
    State,
}

impl Transform for Jitter {
    const ID: &'static str = "jitter";
    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let shape = g.shape(x).to_vec();
        match self.misdeed {
            Misdeed::Shape => return Ok(g.sum(x, &[1])),
            Misdeed::Weight => return g.linear("mixer", x, shape[1]),
            Misdeed::State => drop(g.model_state("seen", &[], Init::Constant(0.0))),
            Misdeed::None => {}
        }
        let amount = g.live("amount", 0.25);
        let noise = g.random_uniform(&shape);
        let noise = g.mul(noise, amount);
        Ok(g.add(x, noise))
    }
}

/// Twice the input.
#[config]
#[derive(Default)]
struct Double {}
impl Transform for Double {
    const ID: &'static str = "double";
    fn apply(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        Ok(g.scale(x, 2.0))
    }
}

// It is a kind that a library can export.
export_plugin! { transforms: [Jitter, Double] }

/// One layer.
#[config]
#[derive(Default)]
struct Line {}
impl Model for Line {
    const ID: &'static str = "line";
    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let y = g.linear("fc", x, 2)?;
        g.dropout(y, 0.5)
    }
}

#[config]
#[derive(Default)]
struct Descent {}
impl Optimizer for Descent {
    const ID: &'static str = "descent";
    fn learning_rate(&self) -> f64 {
        0.1
    }
    fn update(&self, g: &mut Graph, at: ParamUpdate) -> Result<Tensor> {
        let change = g.mul(at.lr, at.grad);
        Ok(g.sub(at.param, change))
    }
}

#[config]
#[derive(Default)]
struct Steady {}
impl LrSchedule for Steady {
    const ID: &'static str = "steady";
    fn rate(&self, _: &mut Graph, at: SchedulePoint) -> Result<Tensor> {
        Ok(at.base_lr)
    }
}

/// Asks for its input twice, or, by name, never.
#[config]
#[derive(Default)]
struct Shrink {
    by_name: bool,
}
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
        let x = if self.by_name { step.field("input")? } else { step.input()? };
        let y = step.model(x)?;
        if !self.by_name {
            let again = step.input()?;
            assert!(again == x || !step.training(), "one input in a training step");
        }
        step.observe("input", x);
        let square = step.square(y);
        Ok(step.sum(square, &[1]))
    }
}

fn components() -> Components {
    Components::new().model(Line {}).optimizer(Descent {}).lr_schedule(Steady {})
}

fn request(dtype: DType) -> StepRequest {
    step_request("train", 4, TensorType::new(dtype, [3]), TensorType::new(DType::I32, []))
}

fn traced(components: &Components, entry: &str) -> Result<StepTrace> {
    components.trace(&Shrink::default(), entry, &request(DType::F32))
}

fn streams(graph: &Ir) -> Vec<u32> {
    graph.nodes.iter().filter_map(|node| if let Op::RngBits { stream } = node.op { Some(stream) } else { None }).collect()
}

#[test]
fn a_step_without_transforms_is_as_it_was() -> Result<()> {
    // A request of a host that does not know them yet.
    let mut json = serde_json::to_value(request(DType::F32)).expect("a request has a JSON form");
    json.as_object_mut().expect("a request is an object").remove("transforms");
    let old: StepRequest = serde_json::from_value(json).expect("a request of an older host is understood");
    assert_eq!(old, request(DType::F32));
    let plain = traced(&components(), "train_step")?;
    assert!(!plain.graph.nodes.iter().any(|node| node.scope.starts_with("transforms")));
    Ok(())
}

#[test]
fn the_input_is_transformed_once_and_in_order() -> Result<()> {
    let trace = traced(&components().transform(Jitter::default()).transform(Double {}), "train_step")?;
    let scopes: Vec<&str> = trace.graph.nodes.iter().map(|node| &*node.scope).filter(|scope| scope.starts_with("transforms")).collect();
    assert_eq!(streams(&trace.graph).len(), 2, "one draw of the transform, one of the model");
    assert_eq!(scopes.iter().filter(|scope| **scope == "transforms.1").count(), 2, "a factor and a product: {scopes:?}");
    assert!(scopes.is_sorted(), "{scopes:?}");
    let last = trace.graph.node(trace.observed["input"]);
    assert_eq!((last.op.name().as_str(), &*last.scope), ("multiply", "transforms.1"));
    Ok(())
}

#[test]
fn evaluation_sees_the_input_as_it_is() -> Result<()> {
    let plain = traced(&components(), "eval_step")?;
    let transforms = components().transform(Jitter::default()).transform(Double {});
    assert_eq!(traced(&transforms, "eval_step")?.graph, plain.graph);
    Ok(())
}

#[test]
fn two_of_a_kind_draw_differently_and_have_scalars_of_their_own() -> Result<()> {
    let components = components().transform(Jitter::default()).transform(Jitter::default());
    let trace = traced(&components, "train_step")?;
    let mut drawn = streams(&trace.graph);
    assert_eq!(drawn.len(), 3);
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "two transforms and the model's dropout share a stream");
    let scalars: Vec<&str> = trace
        .graph
        .parameters()
        .filter(|(_, parameter, _)| parameter.role == Role::Scalar)
        .map(|(_, parameter, _)| parameter.name.as_str())
        .collect();
    assert!(scalars.contains(&"transforms.0.amount") && scalars.contains(&"transforms.1.amount"), "{scalars:?}");
    Ok(())
}

#[test]
fn micro_batches_draw_what_a_whole_step_draws() -> Result<()> {
    // The host gives each its own seed.
    let components = components().transform(Jitter::default()).transform(Jitter::default());
    let whole = streams(&traced(&components, "train_step")?.graph);
    for accumulate in [Accumulate::Gather, Accumulate::Apply] {
        let part = StepRequest { accumulate: Some(accumulate), ..request(DType::F32) };
        assert_eq!(streams(&components.trace(&Shrink::default(), "train_step", &part)?.graph), whole);
    }
    Ok(())
}

#[test]
fn an_input_that_is_no_f32_is_refused() {
    let components = components().transform(Jitter::default());
    let error = components.trace(&Shrink::default(), "train_step", &request(DType::I32)).expect_err("tokens are not transformed");
    assert!(error.message.contains("i32[4,3]") && error.message.contains("`transforms`"), "{error}");
    // Stored bytes are numbers by the time the transforms see them.
    let trace = components.trace(&Shrink::default(), "train_step", &request(DType::U8)).expect("bytes are scaled first");
    assert_eq!(trace.graph.ty(trace.observed["input"]).dtype, DType::F32);
}

#[test]
fn an_experiment_that_does_not_read_its_input_is_told() {
    let components = components().transform(Jitter::default());
    let refused = components.trace(&Shrink { by_name: true }, "train_step", &request(DType::F32)).expect_err("nothing is transformed");
    assert!(refused.message.contains("step.input()"), "{refused}");
    components.trace(&Shrink { by_name: true }, "eval_step", &request(DType::F32)).expect("evaluation transforms nothing");
}

#[test]
fn a_transform_gives_back_what_it_got() {
    let x = || TensorType::new(DType::F32, [4, 3]);
    let refused = |misdeed| trace_transform(&Jitter { misdeed }, x()).expect_err("the transform was to be refused");
    let error = refused(Misdeed::Shape);
    assert!(error.message.contains("apply of transform `jitter` must return f32[4,3], it returns f32[4]"), "{error}");
    assert!(error.location.contains("tests/transform.rs"), "{error}");
    assert!(refused(Misdeed::Weight).message.contains("`mixer.weight`"));
    assert!(refused(Misdeed::State).message.contains("`seen`"));
    assert!(trace_transform(&Jitter::default(), x()).is_ok());
}
