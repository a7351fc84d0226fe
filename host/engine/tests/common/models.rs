//! The steps of the three models of `solstice bench`, in any size, and numbers to feed them with.

use classification::Classification;
use convnet::{ConvNet, Padding, Pool};
use gpt::Gpt;
use language_model::LanguageModel;
use mlp::Mlp;
use optimizers::{Adam, AdamW};
use schedules::Constant;
use solstice_engine::random::rng_bits;
use solstice_ir::{DType, Graph};
use solstice_plugin_api::testing::Components;
use solstice_plugin_api::wire::{Field, FieldRole, StepRequest};

fn request(batch_size: usize, x: (DType, &[usize]), y: &[usize], classes: usize) -> StepRequest {
    let field =
        |name: &str, role, dtype, shape: &[usize]| Field { name: name.into(), role, dtype, shape: shape.to_vec(), scale: 1.0, offset: 0.0 };
    StepRequest {
        split: "train".into(),
        batch_size,
        fields: vec![field("x", FieldRole::Input, x.0, x.1), field("y", FieldRole::Target, DType::I32, y)],
        facts: ["classes", "vocabulary"].iter().map(|fact| ((*fact).to_owned(), classes.into())).collect(),
        norms: false,
        ..StepRequest::default()
    }
}

/// Dense layers on 28 x 28 pixels, ten classes.
pub fn mlp(hidden: &[u32], batch_size: usize) -> Graph {
    let components = Components::new()
        .model(Mlp { hidden: hidden.to_vec(), ..Mlp::default() })
        .lr_schedule(Constant::default())
        .optimizer(Adam { lr: 1e-3, ..Adam::default() });
    let request = request(batch_size, (DType::F32, &[1, 28, 28]), &[], 10);
    components.trace(&Classification::default(), "train_step", &request).unwrap_or_else(|error| panic!("{error}")).graph
}

/// Two convolutions, a pooling and two dense layers on one channel, ten classes.
pub fn convnet(channels: [u32; 2], dense: u32, batch_size: usize, side: usize) -> Graph {
    let model = ConvNet {
        channels: channels.to_vec(),
        padding: Padding::Valid,
        pool: Pool::Last,
        batch_norm: false,
        dense,
        dropout: 0.0,
        ..ConvNet::default()
    };
    let components = Components::new().model(model).lr_schedule(Constant::default()).optimizer(Adam { lr: 1e-3, ..Adam::default() });
    let request = request(batch_size, (DType::F32, &[1, side, side]), &[], 10);
    components.trace(&Classification::default(), "train_step", &request).unwrap_or_else(|error| panic!("{error}")).graph
}

/// A transformer on 65 characters.
pub fn gpt(layers: u32, heads: u32, width: u32, batch_size: usize, time: usize) -> Graph {
    let components = Components::new()
        .model(Gpt { layers, heads, width, ..Gpt::default() })
        .lr_schedule(Constant::default())
        .optimizer(AdamW { lr: 1e-3, ..AdamW::default() });
    let request = request(batch_size, (DType::I32, &[time]), &[time], 65);
    components.trace(&LanguageModel::default(), "train_step", &request).unwrap_or_else(|error| panic!("{error}")).graph
}

/// The value of element `i` of an input or scalar.
pub fn value(name: &str, dtype: DType, classes: u32, i: u32) -> f64 {
    let bits = rng_bits(1, 2, 3, i);
    match (name, dtype) {
        ("batch.mask", _) => 1.0,
        ("run.total_steps", _) => 1e6,
        ("run.step" | "run.seed", _) => 0.0,
        (_, DType::F32) => f64::from(bits >> 8) / 16_777_216.0,
        _ => f64::from(bits % classes),
    }
}
