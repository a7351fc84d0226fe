//! The first test of the whole: thirty steps on MNIST from given weights, through the real model, experiment, optimizer and schedule
//! plugins, against the losses and gradient norms that PyTorch gets in f64.

#[allow(dead_code)]
#[path = "common/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use classification::Classification;
use flate2::read::GzDecoder;
use machine::{Device, Machine};
use mlp::Mlp;
use optimizers::{AdamW, Sgd};
use schedules::Constant;
use serde::Deserialize;
use solstice_ir::DType;
use solstice_plugin_api::testing::Components;
use solstice_plugin_api::wire::{Field, FieldRole, StepRequest, StepTrace};
use std::collections::BTreeMap;
use std::io::Read;

const BATCH: usize = 64;
const PIXELS: usize = 784;

#[derive(Deserialize)]
struct Run {
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

/// The elements of an IDX file: a header of a word and one word an axis, then bytes. Source: yann.lecun.com/exdb/mnist.
fn idx(name: &str) -> Vec<f64> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = vec![];
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let axes = usize::from(bytes[3]);
    bytes[4 + 4 * axes..].iter().map(|&byte| f64::from(byte)).collect()
}

fn train_step(components: Components) -> StepTrace {
    let field = |name: &str, role, dtype, shape: &[usize], scale| Field {
        name: name.into(),
        role,
        dtype,
        shape: shape.to_vec(),
        scale,
        offset: 0.0,
    };
    let request = StepRequest {
        split: "train".into(),
        batch_size: BATCH,
        fields: vec![
            field("image", FieldRole::Input, DType::U8, &[1, 28, 28], 1.0 / 255.0),
            field("label", FieldRole::Target, DType::I32, &[], 1.0),
        ],
        facts: [("classes".to_owned(), 10.into())].into(),
        norms: true,
        ..StepRequest::default()
    };
    components.trace(&Classification::default(), "train_step", &request).unwrap_or_else(|error| panic!("{error}"))
}

fn follows_pytorch(device: Device) {
    let path = golden::folder().join("mlp_mnist.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let runs: BTreeMap<String, Run> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let weights: BTreeMap<String, Vec<f64>> =
        golden::tensors("mlp_mnist.safetensors").into_iter().map(|(name, values)| (format!("model.{name}"), values.data)).collect();
    let (images, labels) = (idx("mnist-first-1920-images.idx.gz"), idx("mnist-first-1920-labels.idx.gz"));
    assert!(!runs.is_empty());
    for (name, run) in &runs {
        let components = Components::new().model(Mlp::default()).lr_schedule(Constant::default());
        let components = match name.as_str() {
            "sgd" => components.optimizer(Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() }),
            "adamw" => components.optimizer(AdamW { lr: 1e-3, weight_decay: 0.01, ..AdamW::default() }),
            other => panic!("no optimizer for the run `{other}`"),
        };
        let trace = train_step(components);
        let mut machine = Machine::new(device, &trace.graph, &weights);
        for (step, (loss, grad_norm)) in run.loss.iter().zip(&run.grad_norm).enumerate() {
            let first = step * BATCH;
            machine.run(&[
                ("batch.image", &images[first * PIXELS..(first + BATCH) * PIXELS]),
                ("batch.label", &labels[first..first + BATCH]),
                ("batch.mask", &[1.0; BATCH]),
                ("run.step", &[step as f64]),
                ("run.total_steps", &[30.0]),
            ]);
            for (figure, wanted) in [("loss", *loss), ("grad_norm", *grad_norm)] {
                let port = trace.metrics.iter().find(|port| port.name == figure).unwrap_or_else(|| panic!("no {figure} is logged"));
                let sums: Vec<(String, Vec<f64>)> = port.states.iter().map(|state| (state.clone(), machine.state(state))).collect();
                port.states.iter().for_each(|state| machine.clear(state));
                let borrowed: Vec<(&str, &[f64])> = sums.iter().map(|(state, values)| (state.as_str(), &values[..])).collect();
                let found = Machine::new(Device::Reference, &port.compute, &BTreeMap::new()).run(&borrowed)[figure][0];
                // One step is some 784 roundings of 2^-24 off; momentum and Adam's division let errors grow with the steps. The oracle: f64
                // twice.
                let allowed = device.pick(1e-9, 1e-4) * wanted;
                assert!((found - wanted).abs() <= allowed, "{name} on {device:?}: {figure} at step {step} is {found}, wanted {wanted}");
            }
        }
    }
}

#[test]
fn the_oracle_trains_as_pytorch_does() {
    follows_pytorch(Device::Reference);
}

#[test]
fn the_cpu_trains_as_pytorch_does() {
    follows_pytorch(Device::Cpu);
}

#[test]
fn a_gpu_trains_as_pytorch_does() {
    follows_pytorch(Device::Gpu);
}
