//! Every optimizer against PyTorch: fixed gradients, so that only the update rule is tried. Rules that PyTorch's file lacks (Lion, Muon)
//! are written out here.

#[allow(dead_code)]
#[path = "common/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use golden::Values;
use machine::{Device, Machine};
use optimizers::{Adadelta, Adagrad, Adam, AdamW, Lion, Muon, MuonScale, Nadam, RmsProp, Sgd};
use serde::Deserialize;
use serde_json::Value;
use solstice_ir::Graph;
use solstice_plugin_api::{Optimizer, testing};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Row {
    name: String,
    steps: usize,
    attrs: Value,
}

/// The update graph of an optimizer with these settings, and its base learning rate.
fn traced(name: &str, attrs: &Value, shape: &[usize]) -> (Graph, f64) {
    fn of<O: Optimizer>(attrs: &Value, shape: &[usize]) -> (Graph, f64) {
        let optimizer: O = serde_json::from_value(attrs.clone()).unwrap_or_else(|error| panic!("{}: {error}", O::ID));
        let graph = testing::trace_optimizer(&optimizer, shape).unwrap_or_else(|error| panic!("{}: {error}", O::ID));
        (graph, optimizer.learning_rate())
    }
    match name.split('_').next().unwrap_or(name) {
        "sgd" => of::<Sgd>(attrs, shape),
        "adam" => of::<Adam>(attrs, shape),
        "adamw" => of::<AdamW>(attrs, shape),
        "rmsprop" => of::<RmsProp>(attrs, shape),
        "adagrad" => of::<Adagrad>(attrs, shape),
        "nadam" => of::<Nadam>(attrs, shape),
        "adadelta" => of::<Adadelta>(attrs, shape),
        other => panic!("no optimizer for the row `{other}`"),
    }
}

/// The parameter after each step.
fn run(device: Device, graph: &Graph, lr: f64, param: &Values, grads: &[Values]) -> Vec<Vec<f64>> {
    run_with_decay(device, graph, lr, 1.0, param, grads)
}

/// The same with a factor on the weight decay, for graphs that have it as an input.
fn run_with_decay(device: Device, graph: &Graph, lr: f64, decay: f64, param: &Values, grads: &[Values]) -> Vec<Vec<f64>> {
    let mut machine = Machine::new(device, graph, &BTreeMap::new());
    let mut param = param.data.clone();
    let mut after = vec![];
    for (index, grad) in grads.iter().enumerate() {
        let inputs: [(&str, &[f64]); 5] =
            [("param", &param), ("grad", &grad.data), ("lr", &[lr]), ("step", &[(index + 1) as f64]), ("decay", &[decay])];
        let outputs = machine.run(&inputs);
        param = outputs["param"].clone();
        after.push(param.clone());
    }
    after
}

fn grads(tensors: &BTreeMap<String, Values>, steps: usize) -> Vec<Values> {
    (0..steps).map(|index| tensors[&format!("grad/{index}")].clone()).collect()
}

/// Largest distance of two lists of steps, a NaN being as far as can be.
fn distance(found: &[Vec<f64>], wanted: &[Vec<f64>]) -> f64 {
    let pairs = found.iter().flatten().zip(wanted.iter().flatten());
    pairs.map(|(x, y)| if x.is_nan() { f64::INFINITY } else { (x - y).abs() }).fold(0.0, f64::max)
}

fn largest(steps: &[Vec<f64>]) -> f64 {
    steps.iter().flatten().fold(1.0, |largest, value| largest.max(value.abs()))
}

/// Each step rounds the weight once (2^-24 of it) and adds a change that is some ten roundings off, scaled by a learning rate of 1 or less;
/// WGSL grants division 2.5 and a root 4 units in the last place. Twelve steps of 4 units of the largest weight cover that.
fn tolerance(device: Device, steps: usize) -> f64 {
    device.pick(1e-9, steps as f64 * 4.0 * 2f64.powi(-24))
}

fn follows_pytorch(device: Device) {
    let path = golden::folder().join("optim.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<Row> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = golden::tensors("optim.safetensors");
    let param = &tensors["param"];
    assert!(!rows.is_empty());
    let mut wrong = vec![];
    for row in &rows {
        let (graph, lr) = traced(&row.name, &row.attrs, &param.shape);
        let found = run(device, &graph, lr, param, &grads(&tensors, row.steps));
        let wanted: Vec<Vec<f64>> = (0..row.steps).map(|index| tensors[&format!("{}/param/{index}", row.name)].data.clone()).collect();
        let (off, allowed) = (distance(&found, &wanted), tolerance(device, row.steps) * largest(&wanted));
        if off > allowed {
            wrong.push(format!("{} is off by {off:.2e}, allowed {allowed:.2e}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{device:?}:\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_are_pytorchs() {
    follows_pytorch(Device::Reference);
}

#[test]
fn the_cpu_takes_pytorchs_steps() {
    follows_pytorch(Device::Cpu);
}

#[test]
fn a_gpu_takes_pytorchs_steps() {
    follows_pytorch(Device::Gpu);
}

/// The update graphs of an optimizer with this weight decay: plain, and with a factor on it.
fn decaying<O: Optimizer>(more: Value, weight_decay: f64, shape: &[usize]) -> (Graph, Graph) {
    let mut attrs = more;
    attrs["weight_decay"] = weight_decay.into();
    let optimizer: O = serde_json::from_value(attrs).unwrap_or_else(|error| panic!("{}: {error}", O::ID));
    let traced = |graph: solstice_plugin_api::Result<Graph>| graph.unwrap_or_else(|error| panic!("{}: {error}", O::ID));
    (traced(testing::trace_optimizer(&optimizer, shape)), traced(testing::trace_grouped_optimizer(&optimizer, shape)))
}

#[test]
fn a_factor_on_the_weight_decay_is_a_weaker_decay() {
    type Decaying = fn(Value, f64, &[usize]) -> (Graph, Graph);
    let none = || Value::Object(serde_json::Map::new());
    let rules: [(&str, Decaying, Value); 11] = [
        ("sgd", decaying::<Sgd>, none()),
        ("sgd with momentum", decaying::<Sgd>, serde_json::json!({ "momentum": 0.9 })),
        ("adam", decaying::<Adam>, none()),
        ("adamw", decaying::<AdamW>, none()),
        ("nadam", decaying::<Nadam>, none()),
        ("decoupled nadam", decaying::<Nadam>, serde_json::json!({ "decoupled_weight_decay": true })),
        ("rmsprop", decaying::<RmsProp>, none()),
        ("adagrad", decaying::<Adagrad>, none()),
        ("adadelta", decaying::<Adadelta>, none()),
        ("lion", decaying::<Lion>, none()),
        ("muon", decaying::<Muon>, none()),
    ];
    let tensors = golden::tensors("optim.safetensors");
    let (grads, param) = (grads(&tensors, 3), &tensors["param"]);
    for device in [Device::Reference, Device::Cpu] {
        for (name, decaying, attrs) in &rules {
            let with = |weight_decay: f64| decaying(attrs.clone(), weight_decay, &param.shape);
            let (plain, grouped) = with(0.5);
            let strong = run(device, &plain, 0.01, param, &grads);
            for (factor, same) in [(0.0, 0.0), (0.25, 0.125), (1.0, 0.5)] {
                let found = run_with_decay(device, &grouped, 0.01, factor, param, &grads);
                // Powers of two: the product is exact, and so is all that follows.
                assert_eq!(found, run(device, &with(same).0, 0.01, param, &grads), "{name} on {device:?}, factor {factor}");
                assert_eq!(found == strong, factor == 1.0, "{name} on {device:?}: the decay changes nothing");
            }
        }
    }
}

#[test]
fn lion_is_the_paper_s_algorithm() {
    let tensors = golden::tensors("optim.safetensors");
    let grads = grads(&tensors, 12);
    let lion = Lion { lr: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, decay_biases_and_norms: true };
    let mut param = tensors["param"].data.clone();
    let mut momentum = vec![0.0; param.len()];
    let mut wanted = vec![];
    for grad in &grads {
        for ((w, m), g) in param.iter_mut().zip(&mut momentum).zip(&grad.data) {
            let direction = (0.9 * *m + (1.0 - 0.9) * g).signum();
            *m = 0.99 * *m + (1.0 - 0.99) * g;
            *w -= 0.01 * (direction + 0.1 * *w);
        }
        wanted.push(param.clone());
    }
    let graph = testing::trace_optimizer(&lion, &tensors["param"].shape).expect("lion traces");
    for device in [Device::Reference, Device::Cpu, Device::Gpu].into_iter() {
        let found = run(device, &graph, 0.01, &tensors["param"], &grads);
        // Mixed gradients here are 1e-4 and more from 0, so that no sign is in doubt.
        assert!(distance(&found, &wanted) <= tolerance(device, 12) * largest(&wanted), "{device:?}");
    }
}

/// `a b` of row-major matrices, `[m, k] x [k, n]`.
fn product(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    (0..m * n).map(|cell| (0..k).map(|i| a[cell / n * k + i] * b[i * n + cell % n]).sum()).collect()
}

fn transposed(a: &[f64], (m, n): (usize, usize)) -> Vec<f64> {
    (0..m * n).map(|cell| a[cell % m * n + cell / m]).collect()
}

/// `torch.optim.Muon` (`torch/optim/_muon.py`, PyTorch 2.9) in f64: `_zeropower_via_newtonschulz` without its bf16.
fn newton_schulz(matrix: &[f64], (m, n): (usize, usize)) -> Vec<f64> {
    if m > n {
        return transposed(&newton_schulz(&transposed(matrix, (m, n)), (n, m)), (n, m));
    }
    let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-7);
    let mut x: Vec<f64> = matrix.iter().map(|x| x / norm).collect();
    for _ in 0..5 {
        let gram = product(&x, &transposed(&x, (m, n)), (m, n, m));
        let square = product(&gram, &gram, (m, m, m));
        let update: Vec<f64> = gram.iter().zip(&square).map(|(a, b)| -4.7750 * a + 2.0315 * b).collect();
        let turned = product(&update, &x, (m, m, n));
        x = x.iter().zip(&turned).map(|(x, y)| 3.4445 * x + y).collect();
    }
    x
}

#[test]
fn muon_steps_along_orthogonal_matrices() {
    let tensors = golden::tensors("optim.safetensors");
    let (grads, param) = (grads(&tensors, 12), &tensors["param"]);
    let (rows, columns) = (param.shape[0], param.shape[1]);
    for (tall, scale) in [(false, MuonScale::Original), (true, MuonScale::MatchRmsAdamw), (true, MuonScale::Original)] {
        let (m, n) = if tall { (columns, rows) } else { (rows, columns) };
        let size = match scale {
            MuonScale::Original => (m as f64 / n as f64).max(1.0).sqrt(),
            MuonScale::MatchRmsAdamw => 0.2 * (m.max(n) as f64).sqrt(),
        };
        let muon = Muon { lr: 0.02, scale, ..Muon::default() };
        let mut weights = param.data.clone();
        let mut momentum = vec![0.0; weights.len()];
        let mut wanted = vec![];
        for grad in &grads {
            for (m, g) in momentum.iter_mut().zip(&grad.data) {
                *m += (1.0 - muon.momentum) * (g - *m);
            }
            let ahead: Vec<f64> = momentum.iter().zip(&grad.data).map(|(m, g)| g + muon.momentum * (m - g)).collect();
            for (w, turned) in weights.iter_mut().zip(newton_schulz(&ahead, (m, n))) {
                *w = *w * (1.0 - 0.02 * muon.weight_decay) - 0.02 * size * turned;
            }
            wanted.push(weights.clone());
        }
        let graph = testing::trace_optimizer(&muon, &[m, n]).expect("muon traces");
        for device in [Device::Reference, Device::Cpu, Device::Gpu].into_iter() {
            let found = run(device, &graph, 0.02, param, &grads);
            // The quintic multiplies small singular values, and their errors, by up to 3.4445 five times.
            let allowed = device.pick(1e-9, 500.0 * 0.02 * 12.0 * 2f64.powi(-24)) * largest(&wanted);
            assert!(distance(&found, &wanted) <= allowed, "{device:?}: off by {:.2e}, allowed {allowed:.2e}", distance(&found, &wanted));
        }
    }
    // What it is for: after five steps all singular values of a random matrix are between 0.6 and 1.3, so x x^T is near the identity.
    let x = newton_schulz(&grads[0].data, (rows, columns));
    let gram = product(&x, &transposed(&x, (rows, columns)), (rows, columns, rows));
    assert!((0..rows).all(|row| (0.3..1.7).contains(&gram[row * rows + row])));
}
