//! The training options of a step in numbers: micro-batches, bounds on gradients, groups, frozen weights, copies of weights. Cases are worked by hand or
//! in f64 here; which states and scalars a step has is tested in `plugin-api/tests/step.rs`.

#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use machine::{Device, Machine};
use optimizers::{Adam, Sgd};
use schedules::Constant;
use solstice_ir::Output;
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Event, Moment};
use solstice_plugin_api::testing::{Components, step_request};
use solstice_plugin_api::wire::{Accumulate, Clip, ParamGroup, StepRequest, StepTrace};
use std::collections::BTreeMap;

const WEIGHTS: [(&str, &[usize]); 4] = [("matrix", &[2, 3]), ("vector", &[2]), ("scalar", &[]), ("kernel", &[2, 1, 1, 2])];
/// Elements of all weights together.
const INPUTS: usize = 13;

/// A sample has a number for each element of each weight, `z` is their inner product. The loss is `z + y`, so that the mean sample is the gradient, or
/// `(z - y)^2 / 2`.
#[config]
#[derive(Default)]
struct Products {
    square: bool,
}

impl Experiment for Products {
    const ID: &'static str = "products";

    fn train_step(&self, step: &mut Step) -> Result<()> {
        let (x, y) = (step.input()?, step.target()?);
        let mut z = step.constant(0.0);
        let mut start = 0;
        for (name, shape) in WEIGHTS {
            let count: usize = shape.iter().product();
            let weight = step.param(name, shape, Init::Constant(1.0));
            let row = step.reshape(weight, &[count]);
            let part = step.slice(x, 1, start, start + count);
            let products = step.mul(part, row);
            let sum = step.sum(products, &[1]); // [batch]
            z = step.add(z, sum);
            start += count;
        }
        let loss = if self.square {
            let difference = step.sub(z, y);
            let square = step.square(difference);
            step.scale(square, 0.5)
        } else {
            step.add(z, y)
        };
        step.log_mean("loss", loss)?;
        step.observe("product", z);
        // A running statistic.
        let seen = step.model_state("seen", &[], Init::Constant(0.0));
        let mean = step.batch_mean(y);
        let now = step.add(seen, mean);
        step.update(seen, now);
        let loss = step.batch_mean(loss);
        step.minimize(loss)
    }

    fn eval_step(&self, _: &mut Step) -> Result<()> {
        Ok(())
    }
}

/// Copies that follow their weights by a tenth of the way.
#[config]
#[derive(Default)]
struct Ema {}
impl Callback for Ema {
    const ID: &'static str = "ema";
    const MOMENTS: &'static [Moment] = &[];
    type State = ();
    fn on_event(&self, _: &mut (), _: &Event, _: &Run<'_>) -> Result<Vec<Action>> {
        Ok(vec![])
    }
    fn shadow(&self, g: &mut Graph, at: ShadowUpdate) -> Result<Option<Tensor>> {
        let difference = g.sub(at.param, at.shadow);
        let part = g.scale(difference, 0.1);
        Ok(Some(g.add(at.shadow, part)))
    }
}

fn request(batch_size: usize) -> StepRequest {
    step_request("train", batch_size, TensorType::new(DType::F32, [INPUTS]), TensorType::new(DType::F32, []))
}

/// The step of `Products` under plain descent at the rate 1, or what `components` says instead.
fn traced(request: &StepRequest) -> StepTrace {
    traced_with(plain().optimizer(Sgd { lr: 1.0, ..Sgd::default() }), false, request)
}

fn plain() -> Components {
    Components::new().lr_schedule(Constant::default())
}

fn traced_with(components: Components, square: bool, request: &StepRequest) -> StepTrace {
    components.trace(&Products { square }, "train_step", request).unwrap_or_else(|error| panic!("{error}"))
}

struct Batch {
    x: Vec<f64>,
    y: Vec<f64>,
    mask: Vec<f64>,
}

/// A batch of one sample, which for the plain loss is the gradient.
fn gradient(matrix: [f64; 6], vector: [f64; 2], scalar: f64, kernel: [f64; 4]) -> Batch {
    Batch { x: [&matrix[..], &vector, &[scalar], &kernel].concat(), y: vec![0.0], mask: vec![1.0] }
}

/// The state of a run, which goes from program to program.
#[derive(Clone)]
struct Bench {
    device: Device,
    states: BTreeMap<String, Vec<f64>>,
}

impl Bench {
    fn new(device: Device, states: &[(&str, &[f64])]) -> Bench {
        Bench { device, states: states.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect() }
    }

    /// Runs a step's graph; live scalars that are not given have their first value. Returns the outputs.
    fn run(&mut self, trace: &StepTrace, step: usize, batch: &Batch, live: &[(&str, f64)]) -> BTreeMap<String, Vec<f64>> {
        let mut machine = Machine::new(self.device, &trace.graph, &self.states);
        let step = [step as f64];
        let mut inputs: Vec<(&str, &[f64])> =
            vec![("batch.input", &batch.x), ("batch.target", &batch.y), ("batch.mask", &batch.mask), ("run.step", &step)];
        inputs.push(("run.total_steps", &[10.0]));
        inputs.extend(live.iter().map(|(name, value)| (*name, std::slice::from_ref(value))));
        let outputs = machine.run(&inputs);
        for (_, parameter, _) in trace.graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
            self.states.insert(parameter.name.clone(), machine.state(&parameter.name));
        }
        outputs
    }

    /// All elements of the weights, in the order of `WEIGHTS`.
    fn weights(&self) -> Vec<f64> {
        WEIGHTS.iter().flat_map(|(name, _)| self.states[*name].clone()).collect()
    }

    /// What training has made: everything but metrics, sums of micro-batches and running statistics.
    fn learned(&self) -> BTreeMap<&str, &[f64]> {
        let learned = |name: &str| name != "seen" && !name.starts_with("metrics.") && !name.starts_with("gradients.");
        self.states.iter().filter(|(name, _)| learned(name)).map(|(name, values)| (name.as_str(), &values[..])).collect()
    }

    fn metric(&self, name: &str) -> f64 {
        let sum = self.states[&format!("metrics.train.{name}.sum")][0];
        self.states.get(&format!("metrics.train.{name}.weight")).map_or(sum, |weight| sum / weight[0])
    }
}

fn distance(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(x, y)| if x.is_nan() { f64::INFINITY } else { (x - y).abs() }).fold(0.0, f64::max)
}

/// Hand-worked cases are a few operations on numbers of 5 and less: some ten roundings of 5 * 2^-24.
fn assert_near(device: Device, found: &[f64], wanted: &[f64]) {
    let allowed = device.pick(1e-12, 50.0 * 2f64.powi(-24));
    assert!(distance(found, wanted) <= allowed, "{device:?}: {found:?}, wanted {wanted:?}");
}

const DEVICES: [Device; 2] = [Device::Reference, Device::Cpu];

// ---- micro-batches -----------------------------------------------------------------------------------------------------------------------

const STEPS: usize = 5;
const LR: f64 = 0.05;
/// Samples of the micro-batches of each step; there is room for four in each.
const PARTS: [usize; 3] = [4, 4, 2];

/// Sample `index` of a step: numbers between -0.5 and 0.5, the last one the target.
fn sample(step: usize, index: usize) -> Vec<f64> {
    (0..=INPUTS).map(|element| f64::from(((step * 101 + index * 37 + element * 7919 + 13) * 733 % 1009) as f32 / 1009.0 - 0.5)).collect()
}

/// Samples `first ..` of a step in a batch of `size`; padding has numbers that must not be seen.
fn batch(step: usize, first: usize, count: usize, size: usize) -> Batch {
    let samples: Vec<Vec<f64>> =
        (0..size).map(|slot| if slot < count { sample(step, first + slot) } else { vec![7.0; INPUTS + 1] }).collect();
    Batch {
        x: samples.iter().flat_map(|sample| sample[..INPUTS].to_vec()).collect(),
        y: samples.iter().map(|sample| sample[INPUTS]).collect(),
        mask: (0..size).map(|slot| f64::from(u8::from(slot < count))).collect(),
    }
}

/// Mean over all samples of a step of the gradient of `(z - y)^2 / 2`.
fn mean_gradient(step: usize, weights: &[f64]) -> Vec<f64> {
    let count = PARTS.iter().sum::<usize>();
    let mut gradient = vec![0.0; INPUTS];
    for sample in (0..count).map(|index| sample(step, index)) {
        let z: f64 = sample.iter().zip(weights).map(|(x, w)| x * w).sum();
        for (sum, x) in gradient.iter_mut().zip(&sample) {
            *sum += (z - sample[INPUTS]) * x / count as f64;
        }
    }
    gradient
}

/// Weights after all steps, in f64. Adam as in Kingma and Ba, "Adam", 2015, algorithm 1.
fn weights_by_hand(adam: bool) -> Vec<f64> {
    let (mut weights, mut mean, mut square) = (vec![1.0; INPUTS], vec![0.0; INPUTS], vec![0.0; INPUTS]);
    for step in 0..STEPS {
        let gradient = mean_gradient(step, &weights);
        for (((w, m), v), g) in weights.iter_mut().zip(&mut mean).zip(&mut square).zip(gradient) {
            if adam {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let t = step as i32 + 1;
                *w -= LR * (*m / (1.0 - 0.9f64.powi(t))) / ((*v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            } else {
                *m = 0.9 * *m + g;
                *w -= LR * *m;
            }
        }
    }
    weights
}

fn learner(adam: bool) -> Components {
    if adam {
        plain().optimizer(Adam { lr: LR, ..Adam::default() })
    } else {
        plain().optimizer(Sgd { lr: LR, momentum: 0.9, ..Sgd::default() })
    }
}

fn part(adam: bool, accumulate: Accumulate) -> StepTrace {
    traced_with(learner(adam), true, &StepRequest { accumulate: Some(accumulate), norms: true, ..request(4) })
}

fn micro_batches_are_one_large_batch(device: Device) {
    for adam in [false, true] {
        let (gather, apply) = (part(adam, Accumulate::Gather), part(adam, Accumulate::Apply));
        let whole = traced_with(learner(adam), true, &StepRequest { norms: true, ..request(12) });
        let (mut micro, mut large) = (Bench::new(device, &[]), Bench::new(device, &[]));
        for step in 0..STEPS {
            large.run(&whole, step, &batch(step, 0, 10, 12), &[]);
            let mut first = 0;
            for (index, count) in PARTS.into_iter().enumerate() {
                let is_last = index + 1 == PARTS.len();
                micro.run(if is_last { &apply } else { &gather }, step, &batch(step, first, count, 4), &[]);
                first += count;
            }
        }
        let wanted = weights_by_hand(adam);
        // Each step rounds a weight near 1 once and moves it by 0.05 of a direction that is some 30 roundings off: the mean of ten products of sums of
        // 13. Momentum repeats a move up to four times; Adam's direction is near 1, made of gradients that may be 40 times smaller than their terms.
        let roundings = STEPS as f64 * (1.0 + LR * 30.0 * if adam { 40.0 } else { 4.0 });
        let allowed = device.pick(1e-12, roundings * 2f64.powi(-24));
        for (name, bench) in [("micro-batches", &micro), ("one batch", &large)] {
            let off = distance(&bench.weights(), &wanted);
            assert!(off <= allowed, "{device:?}, adam {adam}: {name} are off by {off:.2e}, allowed {allowed:.2e}");
        }
        for metric in ["loss", "grad_norm", "param_norm", "update_norm", "nonfinite", "lr"] {
            let (found, wanted) = (micro.metric(metric), large.metric(metric));
            let allowed = device.pick(1e-12, 100.0 * 2f64.powi(-24)) * wanted.abs().max(1.0);
            assert!((found - wanted).abs() <= allowed, "{device:?}, adam {adam}: {metric} is {found}, wanted {wanted}");
        }
        assert!(micro.states.iter().filter(|(name, _)| name.starts_with("gradients.")).all(|(_, sum)| sum.iter().all(|x| *x == 0.0)));
    }
}

#[test]
fn micro_batches_are_one_large_batch_in_f64() {
    micro_batches_are_one_large_batch(Device::Reference);
}

#[test]
fn micro_batches_are_one_large_batch_on_the_cpu() {
    micro_batches_are_one_large_batch(Device::Cpu);
}

#[test]
fn micro_batches_are_one_large_batch_on_a_gpu() {
    micro_batches_are_one_large_batch(Device::Gpu);
}

/// What may be wrong with one micro-batch of a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Input(f64),
    /// An infinite loss with gradients that are finite.
    Target(f64),
}

fn a_bad_micro_batch_refuses_the_step(device: Device, faults: &[(usize, Fault)]) {
    let components = || plain().optimizer(Adam { lr: LR, ..Adam::default() }).callback(Ema {});
    let of = |accumulate| traced_with(components(), false, &StepRequest { accumulate: Some(accumulate), ..request(4) });
    let (gather, apply) = (of(Accumulate::Gather), of(Accumulate::Apply));
    let take = |bench: &mut Bench, step: usize, fault: Option<(usize, Fault)>| {
        let mut first = 0;
        for (index, count) in PARTS.into_iter().enumerate() {
            let mut batch = batch(step, first, count, 4);
            match fault {
                Some((place, Fault::Input(value))) if place == index => batch.x[INPUTS + 2] = value,
                Some((place, Fault::Target(value))) if place == index => batch.y[1] = value,
                _ => {}
            }
            bench.run(if index + 1 == PARTS.len() { &apply } else { &gather }, step, &batch, &[]);
            first += count;
        }
    };
    let mut before = Bench::new(device, &[]);
    take(&mut before, 0, None);
    let mut clean = before.clone();
    take(&mut clean, 2, None);
    for &fault in faults {
        let mut bench = before.clone();
        take(&mut bench, 1, Some(fault));
        assert_eq!(bench.learned(), before.learned(), "{device:?}, {fault:?}: a refused step changed something");
        assert_eq!(bench.metric("nonfinite"), 1.0, "{device:?}, {fault:?}");
        assert!(bench.states["seen"][0].is_finite() && bench.metric("loss").is_finite(), "{device:?}, {fault:?}");
        take(&mut bench, 2, None);
        assert_eq!(bench.learned(), clean.learned(), "{device:?}, {fault:?}: the next step is not clean");
        assert_eq!(bench.metric("nonfinite"), 1.0, "{device:?}, {fault:?}");
    }
}

#[test]
fn a_micro_batch_that_is_not_finite_refuses_the_whole_step() {
    let faults = [
        (0, Fault::Input(f64::NAN)),
        (1, Fault::Input(f64::INFINITY)),
        (2, Fault::Input(f64::NAN)),
        (0, Fault::Target(f64::INFINITY)),
        (1, Fault::Target(f64::NAN)),
        (2, Fault::Target(f64::NEG_INFINITY)),
    ];
    DEVICES.into_iter().for_each(|device| a_bad_micro_batch_refuses_the_step(device, &faults));
}

#[test]
fn a_gpu_refuses_a_step_with_a_bad_micro_batch() {
    a_bad_micro_batch_refuses_the_step(Device::Gpu, &[(0, Fault::Input(f64::NAN)), (1, Fault::Target(f64::INFINITY))]);
}

#[test]
fn a_micro_batch_moves_running_statistics_and_no_weight() {
    for device in DEVICES {
        let gather = part(true, Accumulate::Gather);
        let mut bench = Bench::new(device, &[]);
        bench.run(&gather, 0, &batch(0, 0, 4, 4), &[]);
        let first = bench.states["seen"][0];
        let mean: f64 = (0..4).map(|index| sample(0, index)[INPUTS] / 4.0).sum();
        assert_near(device, &[first], &[mean]);
        assert_eq!(bench.weights(), [1.0; INPUTS]);
        assert_eq!(bench.states["gradients.samples"], [4.0]);
        let mut bad = batch(0, 4, 2, 4);
        bad.x[0] = f64::NAN;
        bench.run(&gather, 0, &bad, &[]);
        assert_eq!(bench.states["seen"][0], first, "{device:?}");
        assert_eq!(bench.states["gradients.samples"], [6.0]);
    }
}

// ---- bounds on gradients -----------------------------------------------------------------------------------------------------------------

fn clipped(clip: Clip) -> StepTrace {
    traced(&StepRequest { clip: Some(clip), ..request(1) })
}

#[test]
fn clipping_by_norm_shortens_all_gradients_together() {
    let trace = clipped(Clip::Norm(2.0));
    // Norm sqrt(9 + 16 + 144) = 13.
    let batch = gradient([3.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 4.0], -12.0, [0.0; 4]);
    for device in DEVICES {
        let mut bench = Bench::new(device, &[]);
        bench.run(&trace, 0, &batch, &[]);
        // torch.nn.utils.clip_grad_norm_: times max_norm / (norm + 1e-6).
        let factor = 2.0 / (13.0 + 1e-6);
        let mut wanted = [1.0; INPUTS];
        (wanted[0], wanted[7], wanted[8]) = (1.0 - 3.0 * factor, 1.0 - 4.0 * factor, 1.0 + 12.0 * factor);
        assert_near(device, &bench.weights(), &wanted);
        assert_eq!((bench.metric("grad_norm"), bench.metric("clipped")), (13.0, 1.0), "{device:?}");
        // The bound is live, and a gradient within it is left alone.
        let mut bench = Bench { states: bench.states.into_iter().filter(|(name, _)| name.starts_with("metrics.")).collect(), ..bench };
        bench.run(&trace, 1, &batch, &[("trainer.clip", 14.0)]);
        assert_eq!(bench.weights()[..9], [-2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -3.0, 13.0], "{device:?}");
        assert_eq!((bench.metric("grad_norm"), bench.metric("clipped")), (13.0, 0.5), "{device:?}");
    }
}

#[test]
fn clipping_by_norm_does_not_hide_a_gradient_that_is_not_finite() {
    for clip in [Clip::Norm(1.0), Clip::Value(1.0), Clip::Adaptive(1.0)] {
        let trace = clipped(clip);
        for device in DEVICES {
            let mut bench = Bench::new(device, &[]);
            // Clamped to 1, an infinite gradient would look like a good one.
            bench.run(&trace, 0, &gradient([0.0; 6], [f64::INFINITY, 0.0], 0.0, [0.0; 4]), &[]);
            assert_eq!(bench.weights(), [1.0; INPUTS], "{device:?}, {clip:?}");
            assert_eq!(bench.metric("nonfinite"), 1.0);
        }
    }
}

#[test]
fn clipping_by_value_bounds_each_element() {
    let trace = clipped(Clip::Value(0.5));
    for device in DEVICES {
        let mut bench = Bench::new(device, &[]);
        bench.run(&trace, 0, &gradient([3.0, 0.25, -0.5, -9.0, 0.0, 0.0], [0.5, -0.75], 1.0, [0.0, 0.0, 0.0, -0.125]), &[]);
        assert_eq!(bench.weights(), [0.5, 0.75, 1.5, 1.5, 1.0, 1.0, 0.5, 1.5, 0.5, 1.0, 1.0, 1.0, 1.125], "{device:?}");
        assert_eq!(bench.metric("clipped"), 1.0);
        bench.run(&trace, 1, &gradient([0.0, 0.0, 0.0, 0.0, 0.0, -0.5], [0.0; 2], 0.5, [0.0; 4]), &[]);
        assert_eq!(bench.metric("clipped"), 0.5, "{device:?}: an element at the bound is within it");
    }
}

#[test]
fn adaptive_clipping_bounds_each_unit_beside_its_weight() {
    let trace = clipped(Clip::Adaptive(0.1));
    // Rows of a matrix: weights of norm 5 and 0, which counts as 1e-3; gradients of norm 5 and 5e-4, over 0.5 and 1e-4.
    let matrix = ([3.0, 4.0, 0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 4.0, 3e-4, 4e-4, 0.0], [3.0, 3.7, -0.4, -6e-5, -8e-5, 0.0]);
    // A vector is one unit: the gradient's norm 0.05 is within 0.1 * 1, although its second element is over a tenth of the weight's.
    let vector = ([0.96, 0.28], [0.03, 0.04], [0.93, 0.24]);
    // A scalar: 1 is over 0.1 * 2.
    let scalar = (-2.0, 1.0, -2.2);
    // Output channels of a kernel: 1 is over 0.1 * 1, 0.25 is within 0.1 * 5.
    let kernel = ([0.6, 0.8, 3.0, 4.0], [1.0, 0.0, 0.15, 0.2], [0.5, 0.8, 2.85, 3.8]);
    let wanted = [&matrix.2[..], &vector.2, &[scalar.2], &kernel.2].concat();
    for device in DEVICES {
        let mut bench = Bench::new(device, &[("matrix", &matrix.0), ("vector", &vector.0), ("scalar", &[scalar.0]), ("kernel", &kernel.0)]);
        let before = bench.clone();
        bench.run(&trace, 0, &gradient(matrix.1, vector.1, scalar.1, kernel.1), &[]);
        assert_near(device, &bench.weights(), &wanted);
        // The small row alone, which the tolerance above would not see: a fifth of its gradient is left.
        let small = &bench.states["matrix"][3..];
        assert!(distance(small, &matrix.2[3..]) <= device.pick(1e-15, 1e-9), "{device:?}: {small:?}");
        assert_eq!(bench.metric("clipped"), 1.0);
        let mut bench = before;
        bench.run(&trace, 0, &gradient([0.0; 6], vector.1, 0.0, [0.0, 0.0, 0.15, 0.2]), &[]);
        assert_eq!(bench.metric("clipped"), 0.0, "{device:?}");
    }
}

// ---- groups, frozen weights, copies --------------------------------------------------------------------------------------------------------

fn grouped(groups: &[ParamGroup], group_of: &[(&str, usize)]) -> StepRequest {
    StepRequest {
        groups: groups.to_vec(),
        group_of: group_of.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect(),
        ..request(1)
    }
}

#[test]
fn groups_have_rates_and_decays_of_their_own() {
    let slow = ParamGroup { lr: 0.5, weight_decay: 1.0, frozen: false };
    let free = ParamGroup { lr: 2.0, weight_decay: 0.0, frozen: false };
    let request = grouped(&[slow, free], &[("vector", 0), ("scalar", 1)]);
    let trace = traced_with(plain().optimizer(Sgd { lr: 0.25, weight_decay: 0.5, ..Sgd::default() }), false, &request);
    let batch = gradient([1.0; 6], [1.0; 2], 1.0, [1.0; 4]);
    for device in DEVICES {
        let mut bench = Bench::new(device, &[]);
        bench.run(&trace, 0, &batch, &[]);
        // 1 - 0.25 * (1 + 0.5) without a group; half of the rate; twice the rate and no decay.
        let mut wanted = [0.625; INPUTS];
        (wanted[6], wanted[7], wanted[8]) = (0.8125, 0.8125, 0.5);
        assert_eq!(bench.weights(), wanted, "{device:?}");
        assert_eq!(bench.metric("lr"), 0.25);
        // All of it is live: 1 - 0.25 * 4 * (1 + 2 * 0.5).
        let mut bench = Bench::new(device, &[]);
        bench.run(&trace, 0, &batch, &[("trainer.groups.0.lr", 4.0), ("trainer.groups.0.weight_decay", 2.0)]);
        assert_eq!((bench.weights()[6], bench.weights()[8]), (-1.0, 0.5), "{device:?}");
    }
}

#[test]
fn frozen_weights_stay_and_the_norms_leave_them_out() {
    let frozen = ParamGroup { lr: 1.0, weight_decay: 1.0, frozen: true };
    let request = StepRequest { norms: true, ..grouped(&[frozen], &[("matrix", 0), ("kernel", 0)]) };
    let trace = traced(&request);
    for device in DEVICES {
        let mut bench = Bench::new(device, &[]);
        bench.run(&trace, 0, &gradient([9.0; 6], [2.0, 2.0], 1.0, [9.0; 4]), &[]);
        assert_eq!(bench.weights(), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0], "{device:?}");
        assert_eq!((bench.metric("grad_norm"), bench.metric("update_norm")), (3.0, 3.0));
        assert_near(device, &[bench.metric("param_norm")], &[3f64.sqrt()]);
    }
}

#[test]
fn copies_follow_the_weights_as_they_are_after_the_step() {
    let frozen = ParamGroup { lr: 1.0, weight_decay: 1.0, frozen: true };
    let components = || plain().optimizer(Sgd { lr: 1.0, ..Sgd::default() }).callback(Ema {});
    let trace = traced_with(components(), false, &grouped(&[frozen], &[("scalar", 0)]));
    for device in DEVICES {
        // The host begins a copy as its weight; the frozen one is put elsewhere to see it move.
        let mut bench = Bench::new(device, &[("shadow.ema.vector", &[1.0, 1.0]), ("shadow.ema.scalar", &[3.0])]);
        let batch = gradient([0.0; 6], [2.0, -1.0], 5.0, [0.0; 4]);
        bench.run(&trace, 0, &batch, &[]);
        // Weights -1 and 2, and 1 as it was.
        assert_near(device, &bench.states["shadow.ema.vector"], &[0.8, 1.1]);
        assert_near(device, &bench.states["shadow.ema.scalar"], &[2.8]);
        bench.run(&trace, 1, &batch, &[]);
        // Weights -3 and 3.
        assert_near(device, &bench.states["shadow.ema.vector"], &[0.42, 1.29]);
        let before = bench.clone();
        bench.run(&trace, 2, &gradient([f64::NAN; 6], [2.0, -1.0], 5.0, [0.0; 4]), &[]);
        assert_eq!(bench.learned(), before.learned(), "{device:?}: a refused step moved a copy");
    }
}

#[test]
fn gradients_are_found_before_clipping_and_accumulation() {
    for (accumulate, clip) in
        [(None, Clip::Norm(0.1)), (Some(Accumulate::Gather), Clip::Value(0.1)), (Some(Accumulate::Apply), Clip::Adaptive(0.1))]
    {
        let mut trace = traced(&StepRequest { accumulate, clip: Some(clip), ..request(1) });
        let found = trace.gradients.iter().chain(&trace.observed);
        trace.graph.outputs = found.map(|(name, node)| Output { name: name.clone(), node: *node }).collect();
        for device in DEVICES {
            let mut bench = Bench::new(device, &[("gradients.vector", &[70.0, 80.0]), ("gradients.samples", &[2.0])]);
            let outputs = bench.run(&trace, 0, &gradient([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [7.0, -8.0], 9.0, [0.5, 0.0, 0.0, 0.25]), &[]);
            assert_eq!(outputs["matrix"], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "{device:?}");
            assert_eq!(outputs["vector"], [7.0, -8.0]);
            assert_eq!(outputs["scalar"], [9.0]);
            assert_eq!(outputs["kernel"], [0.5, 0.0, 0.0, 0.25]);
            assert_eq!(outputs["product"], [29.75]);
        }
    }
}
