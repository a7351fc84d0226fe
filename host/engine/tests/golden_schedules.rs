//! Every learning-rate schedule against PyTorch, step by step.

#[allow(dead_code)]
#[path = "common/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use machine::{Device, Machine};
use schedules::{
    AnySchedule, Cosine, CosineRestarts, Exponential, Linear, LinearWarmupCosine, MultiStep, OneCycle, Part, Polynomial, Product, Sequence,
    StepDecay,
};
use serde::Deserialize;
use serde_json::Value;
use solstice_ir::Graph;
use solstice_plugin_api::{LrSchedule, testing};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Row {
    base_lr: f64,
    attrs: Value,
    values: Vec<f64>,
}

fn rows() -> BTreeMap<String, Row> {
    let path = golden::folder().join("schedules.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn traced(name: &str, attrs: &Value) -> Graph {
    fn of<S: LrSchedule>(attrs: &Value) -> Graph {
        let schedule: S = serde_json::from_value(attrs.clone()).unwrap_or_else(|error| panic!("{}: {error}", S::ID));
        testing::trace_lr_schedule(&schedule).unwrap_or_else(|error| panic!("{}: {error}", S::ID))
    }
    match name {
        "step" => of::<StepDecay>(attrs),
        "multistep" => of::<MultiStep>(attrs),
        "exponential" => of::<Exponential>(attrs),
        "cosine" => of::<Cosine>(attrs),
        "linear_warmup_cosine" => of::<LinearWarmupCosine>(attrs),
        "cosine_restarts" => of::<CosineRestarts>(attrs),
        "polynomial" => of::<Polynomial>(attrs),
        "one_cycle" => of::<OneCycle>(attrs),
        other => panic!("no schedule for the row `{other}`"),
    }
}

fn rates(device: Device, graph: &Graph, base_lr: f64, steps: usize, total_steps: f64) -> Vec<f64> {
    let mut machine = Machine::new(device, graph, &BTreeMap::new());
    let mut rate =
        |step: usize| machine.run(&[("base_lr", &[base_lr]), ("step", &[step as f64]), ("total_steps", &[total_steps])])["lr"][0];
    (0..steps).map(&mut rate).collect()
}

fn check(what: &str, device: Device, found: &[f64], wanted: &[f64]) {
    let highest = wanted.iter().fold(0.0f64, |highest, rate| highest.max(rate.abs()));
    for (step, (x, y)) in found.iter().zip(wanted).enumerate() {
        // The oracle: two formulas in f64. Devices: about ten roundings, sine and exponential within some units in the last place of 1, so
        // that near a rate of nothing the error is one of the highest rate (a sine squared halves its digits: 1e-6 of it).
        let allowed = device.pick(1e-9 * y.abs() + 1e-15, 1e-5 * y.abs() + 1e-6 * highest);
        assert!((x - y).abs() <= allowed, "{what} on {device:?}: step {step} is {x:e}, wanted {y:e}");
    }
    assert_eq!(found.len(), wanted.len());
}

fn follows_pytorch(device: Device) {
    let rows = rows();
    assert!(!rows.is_empty());
    for (name, row) in &rows {
        // A run of another length: these schedules name their own.
        let found = rates(device, &traced(name, &row.attrs), row.base_lr, row.values.len(), 1000.0);
        check(name, device, &found, &row.values);
    }
}

#[test]
fn the_schedules_are_pytorchs() {
    follows_pytorch(Device::Reference);
}

#[test]
fn the_cpu_gives_pytorchs_rates() {
    follows_pytorch(Device::Cpu);
}

#[test]
fn a_gpu_gives_pytorchs_rates() {
    follows_pytorch(Device::Gpu);
}

#[test]
fn without_a_total_a_schedule_spans_the_run() {
    for (name, row) in rows() {
        let mut attrs = row.attrs.clone();
        let Some(total) = attrs.as_object_mut().and_then(|attrs| attrs.remove("total")).and_then(|total| total.as_f64()) else { continue };
        let found = rates(Device::Reference, &traced(&name, &attrs), row.base_lr, row.values.len(), total);
        check(&name, Device::Reference, &found, &row.values);
    }
}

#[test]
fn a_schedule_stays_where_it_ended() {
    let row = &rows()["cosine"];
    let total = row.attrs["total"].as_f64().expect("the cosine has a total");
    let found = rates(Device::Reference, &traced("cosine", &row.attrs), row.base_lr, 2 * total as usize, total);
    assert!(found[total as usize..].iter().all(|rate| (rate - row.attrs["min_lr"].as_f64().unwrap_or(0.0)).abs() < 1e-12));
}

#[test]
fn a_sequence_of_a_line_and_a_cosine_is_a_warm_up() {
    let row = &rows()["linear_warmup_cosine"];
    let attrs: LinearWarmupCosine = serde_json::from_value(row.attrs.clone()).expect("its settings");
    let line = Linear { start_factor: attrs.start_factor, end_factor: 1.0, total: None };
    let parts = vec![
        Part { schedule: AnySchedule::Linear(line), steps: Some(attrs.warmup) },
        Part { schedule: AnySchedule::Cosine(Cosine { min_lr: attrs.min_lr, total: None }), steps: None },
    ];
    let graph = testing::trace_lr_schedule(&Sequence { parts }).expect("a sequence traces");
    let total = f64::from(attrs.total.expect("its total"));
    check("sequence", Device::Reference, &rates(Device::Reference, &graph, row.base_lr, row.values.len(), total), &row.values);
}

#[test]
fn a_product_multiplies_factors() {
    let (gamma, rows) = (0.95f64, rows());
    let row = &rows["polynomial"];
    let fall: Polynomial = serde_json::from_value(row.attrs.clone()).expect("its settings");
    let schedules = vec![AnySchedule::Exponential(Exponential { gamma }), AnySchedule::Polynomial(fall)];
    let graph = testing::trace_lr_schedule(&Product { schedules }).expect("a product traces");
    let wanted: Vec<f64> = row.values.iter().enumerate().map(|(step, rate)| rate * gamma.powi(step as i32)).collect();
    check("product", Device::Reference, &rates(Device::Reference, &graph, row.base_lr, wanted.len(), 1000.0), &wanted);
}
