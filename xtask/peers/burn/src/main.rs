//! Burn beside Solstice: the three benchmark models on one of Burn's backends, called as `solstice bench --child` is.
//!
//! `burn-peer --models mlp --devices flex|ndarray|wgpu --seconds 3` prints one line of JSON. Only `xtask/src/peers.rs` calls it. The models are those of
//! `plugins/mlp`, `plugins/convnet` and `plugins/gpt` in the settings of `solstice bench`; the number of parameters shows that they are.

use burn::module::{Initializer, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig, Relu};
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DeviceKind, Distribution, TensorData};
use std::time::Instant;

const LR: f64 = 1e-3;
const CLASSES: usize = 10;
const VOCABULARY: usize = 65;
const CONTEXT: usize = 64;
const WIDTH: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 4;

fn main() {
    let started = Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).map(String::as_str);
    let (Some(model), Some(name), Some(seconds)) =
        (option("--models"), option("--devices"), option("--seconds").and_then(|seconds| seconds.parse::<f64>().ok()))
    else {
        eprintln!("burn-peer --models mlp|convnet|gpt --devices flex|ndarray|wgpu --seconds S");
        std::process::exit(2);
    };
    let device = match name {
        "flex" => Device::flex(),
        #[allow(deprecated)]
        "ndarray" => Device::ndarray(),
        "wgpu" => Device::wgpu(DeviceKind::DefaultDevice),
        _ => {
            eprintln!("there is no Burn backend `{name}` in this peer; there are flex, ndarray and wgpu");
            std::process::exit(2);
        }
    }
    .autodiff();
    let figure = match model {
        "mlp" => {
            let input = Tensor::random([128, 784], Distribution::Default, &device);
            let target = whole_numbers([128], CLASSES, &device);
            let loss = CrossEntropyLossConfig::new().init(&device);
            measure(Mlp::new(&device), AdamConfig::new().init(), 128, &device, seconds, started, |model: &Mlp| {
                loss.forward(model.forward(input.clone()), target.clone())
            })
        }
        "convnet" => {
            let input = Tensor::random([64, 1, 28, 28], Distribution::Default, &device);
            let target = whole_numbers([64], CLASSES, &device);
            let loss = CrossEntropyLossConfig::new().init(&device);
            measure(ConvNet::new(&device), AdamConfig::new().init(), 64, &device, seconds, started, |model: &ConvNet| {
                loss.forward(model.forward(input.clone()), target.clone())
            })
        }
        "gpt" => {
            let tokens = whole_numbers([12, CONTEXT], VOCABULARY, &device);
            let target = whole_numbers([12 * CONTEXT], VOCABULARY, &device);
            let loss: CrossEntropyLoss = CrossEntropyLossConfig::new().init(&device);
            measure(Gpt::new(&device), AdamWConfig::new().init(), 12, &device, seconds, started, |model: &Gpt| {
                loss.forward(model.forward(tokens.clone()), target.clone())
            })
        }
        _ => {
            eprintln!("there is no model `{model}`; there are mlp, convnet and gpt");
            std::process::exit(2);
        }
    };
    let adapter = device.clone().inner().identity().map_or_else(|| format!("{name}, {} threads", threads()), |identity| identity.name);
    println!(
        "{}",
        serde_json::json!({
            "model": model,
            "device": format!("burn-{name}"),
            "adapter": adapter,
            "ms_per_step": figure.secs * 1e3,
            "samples_per_sec": figure.batch_size as f64 / figure.secs,
            "parameters": figure.parameters,
            "peak_memory_mib": peak_memory_bytes() as f64 / f64::from(1 << 20),
            "device_memory_mib": device.memory_pool_usage().map(|usage| usage.bytes_reserved as f64 / f64::from(1 << 20)),
            "first_step_secs": figure.first_step_secs,
        })
    );
}

struct Figure {
    secs: f64,
    batch_size: usize,
    parameters: usize,
    first_step_secs: f64,
}

/// Steps timed together take about this, as in `solstice bench`.
const SECS_TIMED_TOGETHER: f64 = 0.02;

/// Steps as the Burn Book trains: forward, backward, gradients by parameter, optimizer. The batch is on the device already.
///
/// The clock stops when the device has done the steps timed together (`Device::sync`, which also runs what fusion has kept back); the loss is read
/// once, at the end.
fn measure<M: Module>(
    mut model: M,
    mut optimizer: ModuleOptimizer,
    batch_size: usize,
    device: &Device,
    seconds: f64,
    started: Instant,
    loss_of: impl Fn(&M) -> Tensor<1>,
) -> Figure {
    let parameters = model.num_params();
    let mut one = |model: M| -> (M, Tensor<1>) {
        let loss = loss_of(&model);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        (optimizer.step(LR, model, grads), loss)
    };
    let finish = || device.sync().expect("the device does the steps");
    let mut loss;
    (model, loss) = one(model);
    finish();
    let first_step_secs = started.elapsed().as_secs_f64();
    // Two more steps at least, and a second: caches, fusion plans and autotuning settle.
    let (mut warm_steps, begin) = (0, Instant::now());
    while warm_steps < 2 || begin.elapsed().as_secs_f64() < 1.0 {
        (model, _) = one(model);
        finish();
        warm_steps += 1;
    }
    let together = (SECS_TIMED_TOGETHER * f64::from(warm_steps) / begin.elapsed().as_secs_f64()).clamp(1.0, 1000.0) as usize;
    let mut times = vec![];
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 3 {
        let start = Instant::now();
        for _ in 0..together {
            (model, loss) = one(model);
        }
        finish();
        times.push(start.elapsed().as_secs_f64() / together as f64);
    }
    times.sort_by(f64::total_cmp);
    let loss = loss.into_scalar::<f32>();
    assert!(loss.is_finite(), "the loss is {loss}");
    Figure { secs: times[times.len() / 2], batch_size, parameters, first_step_secs }
}

fn whole_numbers<const D: usize>(shape: [usize; D], below: usize, device: &Device) -> Tensor<D, Int> {
    // Knuth's multiplicative hash: any spread will do.
    let values: Vec<i32> =
        (0..shape.iter().product::<usize>()).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32 % below as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
    relu: Relu,
}

impl Mlp {
    fn new(device: &Device) -> Mlp {
        Mlp {
            fc1: LinearConfig::new(784, 512).init(device),
            fc2: LinearConfig::new(512, 512).init(device),
            fc3: LinearConfig::new(512, CLASSES).init(device),
            relu: Relu::new(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let h = self.relu.forward(self.fc1.forward(x)); // [batch, 512]
        let h = self.relu.forward(self.fc2.forward(h));
        self.fc3.forward(h)
    }
}

#[derive(Module, Debug)]
struct ConvNet {
    conv1: Conv2d,
    conv2: Conv2d,
    pool: MaxPool2d,
    fc1: Linear,
    fc2: Linear,
    relu: Relu,
}

impl ConvNet {
    fn new(device: &Device) -> ConvNet {
        ConvNet {
            conv1: Conv2dConfig::new([1, 32], [3, 3]).init(device),
            conv2: Conv2dConfig::new([32, 64], [3, 3]).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            fc1: LinearConfig::new(64 * 12 * 12, 128).init(device),
            fc2: LinearConfig::new(128, CLASSES).init(device),
            relu: Relu::new(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let h = self.relu.forward(self.conv1.forward(x)); // [batch, 32, 26, 26]
        let h = self.relu.forward(self.conv2.forward(h)); // [batch, 64, 24, 24]
        let h = self.pool.forward(h).flatten(1, 3); // [batch, 9216]
        let h = self.relu.forward(self.fc1.forward(h)); // [batch, 128]
        self.fc2.forward(h)
    }
}

#[derive(Module, Debug)]
struct Gpt {
    wte: Embedding,
    wpe: Param<Tensor<2>>,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
}

#[derive(Module, Debug)]
struct Block {
    ln1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ln2: LayerNorm,
    fc: Linear,
    fc_proj: Linear,
    gelu: Gelu,
}

const WEIGHTS: Initializer = Initializer::Normal { mean: 0.0, std: 0.02 };

fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(WEIGHTS).init(device)
}

fn norm(device: &Device) -> LayerNorm {
    LayerNormConfig::new(WIDTH).with_bias(false).init(device)
}

impl Gpt {
    fn new(device: &Device) -> Gpt {
        let block = |_| Block {
            ln1: norm(device),
            qkv: linear(WIDTH, 3 * WIDTH, device),
            proj: linear(WIDTH, WIDTH, device),
            ln2: norm(device),
            fc: linear(WIDTH, 4 * WIDTH, device),
            fc_proj: linear(4 * WIDTH, WIDTH, device),
            gelu: Gelu::new(),
        };
        Gpt {
            wte: EmbeddingConfig::new(VOCABULARY, WIDTH).with_initializer(WEIGHTS).init(device),
            wpe: WEIGHTS.init([CONTEXT, WIDTH], device),
            blocks: (0..LAYERS).map(block).collect(),
            ln_f: norm(device),
        }
    }

    /// Logits `[batch * time, vocabulary]`, by the matrix of the embedding.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let mut x = self.wte.forward(tokens) + self.wpe.val().unsqueeze::<3>(); // [batch, time, width]
        for block in &self.blocks {
            x = block.forward(x);
        }
        let x = self.ln_f.forward(x).flatten::<2>(0, 1);
        x.matmul(self.wte.weight.val().transpose())
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, time, _] = x.dims();
        let all = self.qkv.forward(self.ln1.forward(x.clone())); // [batch, time, 3 * width]
        let heads = |part: Tensor<3>| part.reshape([batch, time, HEADS, WIDTH / HEADS]).swap_dims(1, 2);
        let [query, key, value] = <[Tensor<3>; 3]>::try_from(all.chunk(3, 2)).expect("three parts").map(heads);
        let causal = AttentionModuleOptions { is_causal: true, ..AttentionModuleOptions::default() };
        let mixed = attention(query, key, value, None, None, causal); // [batch, head, time, width / heads]
        let mixed = mixed.swap_dims(1, 2).reshape([batch, time, WIDTH]);
        let x = x + self.proj.forward(mixed);
        let h = self.gelu.forward(self.fc.forward(self.ln2.forward(x.clone())));
        x + self.fc_proj.forward(h)
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Largest resident set of this process so far; 0 where the system does not tell.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
