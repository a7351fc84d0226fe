//! Every op against PyTorch: outputs and gradients of the golden cases on the reference evaluator and on both devices, fused and not.
//!
//! One table ([`build`]) says how a case is written with the author's builder, one ([`roundings`]) how far an f32 device may be off. Shapes and values
//! come from the files, so that `SOLSTICE_GOLDEN` can name another folder.

#[path = "common/golden.rs"]
mod golden;

use golden::{Case, Values};
use solstice_engine::device::{self, DeviceRequest};
use solstice_engine::{CompileOptions, Session, compile, reference};
use solstice_ir::{Compare, ConvolutionGeometry, DType, DotDims, TensorType};
use solstice_plugin_api::{Graph, Result, Tensor};
use std::collections::BTreeMap;

/// Writes the case's op with the author's builder.
fn build(g: &mut Graph, case: &Case, x: &[Tensor]) -> Result<Tensor> {
    Ok(match case.op.as_str() {
        "add" => g.add(x[0], x[1]),
        "subtract" => g.sub(x[0], x[1]),
        "multiply" => g.mul(x[0], x[1]),
        "divide" => g.div(x[0], x[1]),
        "maximum" => g.maximum(x[0], x[1]),
        "minimum" => g.minimum(x[0], x[1]),
        "power" => g.pow(x[0], x[1]),
        "exponential" => g.exp(x[0]),
        "log" => g.log(x[0]),
        "sqrt" => g.sqrt(x[0]),
        "rsqrt" => g.rsqrt(x[0]),
        "tanh" => g.tanh(x[0]),
        "logistic" => g.sigmoid(x[0]),
        "sine" => g.sin(x[0]),
        "cosine" => g.cos(x[0]),
        "erf" => g.erf(x[0]),
        "negate" => g.neg(x[0]),
        "abs" => g.abs(x[0]),
        "relu" => g.relu(x[0]),
        "silu" => g.silu(x[0]),
        "softplus" => g.softplus(x[0]),
        "elu" => g.elu(x[0], 1.0),
        "gelu" if case.attrs["approximate"] == "tanh" => g.gelu_tanh(x[0]),
        "gelu" => g.gelu(x[0]),
        "leaky_relu" => g.leaky_relu(x[0], case.number("negative_slope")),
        "clamp" => g.clamp(x[0], case.number("min"), case.number("max")),
        "select" => {
            let larger = g.compare(Compare::Greater, x[1], x[2]);
            let product = g.mul(x[2], x[0]);
            g.select(larger, x[1], product)
        }
        "transpose" => g.transpose(x[0], &case.axes("perm")),
        "slice" => g.slice_strided(x[0], case.size("dim"), case.size("start"), case.size("limit"), case.size("stride")),
        "concatenate" => g.concatenate(x, case.size("dim")),
        "pad" => g.pad(x[0], &case.list("low"), &case.list("high"), case.number("value")),
        "gather" => g.take_along_axis(x[0], x[1], case.size("dim")),
        "embedding" => g.embedding_with(x[0], x[1]),
        "sum" => reduced(g, case, x[0], Graph::sum),
        "mean" => reduced(g, case, x[0], Graph::mean),
        "amax" => reduced(g, case, x[0], Graph::max),
        "amin" => reduced(g, case, x[0], Graph::min),
        "prod" => reduced(g, case, x[0], Graph::prod),
        "variance" => g.variance(x[0], &case.axes("axes"), case.size("correction")),
        "argmax" => g.argmax(x[0], case.size("axis")),
        "logsumexp" => g.logsumexp(x[0], case.size("axis")),
        "cumsum" => g.cumsum(x[0], case.size("axis")),
        "matmul" => g.matmul(x[0], x[1]),
        "linear" => g.linear_with(x[0], x[1], Some(x[2])),
        "einsum" => einsum(g, case.attrs["equation"].as_str().unwrap_or_default(), x[0], x[1]),
        "conv1d" => g.conv_with(x[0], x[1], None, geometry(case, 1)),
        "conv2d" => g.conv_with(x[0], x[1], Some(x[2]), geometry(case, 2)),
        "conv_transpose2d" => g.conv_transpose_with(x[0], x[1], Some(x[2]), geometry(case, 2), &[case.size("output_padding"); 2]),
        "max_pool2d" => g.max_pool(x[0], &[case.size("kernel"); 2], &[case.size("stride"); 2], &[case.size_or("padding", 0); 2])?,
        "avg_pool2d" => g.avg_pool(x[0], &[case.size("kernel"); 2], &[case.size("stride"); 2], &[case.size_or("padding", 0); 2])?,
        "global_avg_pool2d" => g.global_avg_pool2d(x[0])?,
        "upsample_nearest2d" => g.upsample_nearest2d(x[0], case.size("scale")),
        "softmax" => g.softmax(x[0], case.size("axis")),
        "log_softmax" => g.log_softmax(x[0], case.size("axis")),
        "layer_norm" => g.layer_norm_with(x[0], x[1], Some(x[2]), case.number("epsilon")),
        "rms_norm" => g.rms_norm_with(x[0], x[1], case.number("epsilon")),
        "group_norm" => g.group_norm_with(x[0], x[1], x[2], case.size("groups"), case.number("epsilon")),
        "batch_norm" => g.batch_norm_train(x[0], x[1], x[2], case.number("epsilon"))?.y,
        "attention" => g.scaled_dot_product_attention(x[0], x[1], x[2], case.flag("causal"))?,
        "cross_entropy" => {
            let smoothing = case.attrs.get("label_smoothing").map_or(0.0, |_| case.number("label_smoothing"));
            g.cross_entropy_mean(x[0], x[1], smoothing)
        }
        "mse_loss" => mean_of(g, |g| g.mse(x[0], x[1])),
        "l1_loss" => mean_of(g, |g| g.l1(x[0], x[1])),
        "huber_loss" => mean_of(g, |g| g.huber(x[0], x[1], case.number("delta"))),
        "bce_with_logits" => mean_of(g, |g| g.bce_with_logits(x[0], x[1])),
        other => panic!("no row in the table for the op `{other}` of {}", case.name),
    })
}

/// How far an f32 device may be from the truth: this many times 2^-24 of the largest element of the result (or of 1).
///
/// A sum of `n` terms in any order is off by at most `n` roundings of the sum of their sizes, which for mixed signs is some `sqrt(n)` above the result;
/// the walk of the roundings gives that root back, so `n` holds. Gradients of a contraction are contractions over the other axes.
fn roundings(case: &Case, shapes: &[&[usize]]) -> f64 {
    let count = |shape: &[usize]| shape.iter().product::<usize>() as f64;
    let largest = shapes.iter().map(|shape| count(shape)).fold(1.0, f64::max);
    match case.op.as_str() {
        // Moved or chosen, not computed; a gradient may add a handful of terms that came from one element.
        "transpose" | "slice" | "concatenate" | "pad" | "negate" | "abs" | "relu" | "leaky_relu" | "clamp" | "select" | "amax" | "amin"
        | "argmax" | "gather" | "embedding" | "max_pool2d" | "upsample_nearest2d" => 16.0,
        // One rounding forward; the gradient of a broadcast side is a sum over the repeats.
        "add" | "subtract" | "multiply" | "maximum" | "minimum" => 4.0 + largest / count(shapes[1]),
        // WGSL grants division 2.5 ulp, sqrt and rsqrt a few; the gradients multiply three such factors.
        "divide" | "sqrt" | "rsqrt" => 32.0,
        // exp is good to (3 + 2 |x|) ulp, log to 3, pow and tanh are made of them: |x| is below 10 here, and a gradient takes two.
        "exponential" | "log" | "power" | "tanh" | "logistic" | "erf" | "silu" | "softplus" | "elu" | "gelu" => 128.0,
        // WGSL grants sine and cosine an absolute 2^-11; devices are far better than that, and a wrong formula far worse.
        "sine" | "cosine" => 8192.0,
        // Reductions over a part of the tensor, with a few elementwise steps before and after.
        "sum" | "mean" | "prod" | "cumsum" | "variance" | "avg_pool2d" | "global_avg_pool2d" => 16.0 + largest.sqrt(),
        // A row of exponentials, their sum, and differences that cancel against the row's maximum (|x| up to some 15).
        "logsumexp" | "softmax" | "log_softmax" | "layer_norm" | "rms_norm" | "group_norm" | "batch_norm" => 128.0 + largest.sqrt(),
        // Contracted axes are shorter than the larger operand, and weight gradients contract over batch and space.
        "matmul" | "linear" | "einsum" | "conv1d" | "conv2d" | "conv_transpose2d" => 16.0 + largest.sqrt(),
        "attention" => 256.0,
        // exp and log of logits that go to 200: 2 |x| ulp of the exponential, before a mean.
        "cross_entropy" | "mse_loss" | "l1_loss" | "huber_loss" | "bce_with_logits" => 256.0,
        other => panic!("no tolerance for the op `{other}` of {}", case.name),
    }
}

fn reduced(g: &mut Graph, case: &Case, x: Tensor, reduce: fn(&mut Graph, Tensor, &[usize]) -> Tensor) -> Tensor {
    let axes = case.axes("axes");
    let mut y = reduce(g, x, &axes);
    if case.flag("keepdims") {
        for axis in axes {
            y = g.expand_dims(y, axis);
        }
    }
    y
}

fn mean_of(g: &mut Graph, loss: impl FnOnce(&mut Graph) -> Tensor) -> Tensor {
    let per_sample = loss(g);
    g.mean_all(per_sample)
}

fn geometry(case: &Case, spatial: usize) -> ConvolutionGeometry {
    let entries = |name: &str, default: usize| vec![case.size_or(name, default); spatial];
    let padding = entries("padding", 0);
    ConvolutionGeometry {
        strides: entries("stride", 1),
        low: padding.clone(),
        high: padding,
        dilation: entries("dilation", 1),
        groups: case.size_or("groups", 1),
    }
}

/// A product of two tensors in einsum's notation, every letter once a side.
fn einsum(g: &mut Graph, equation: &str, a: Tensor, b: Tensor) -> Tensor {
    let parts: Vec<Vec<char>> =
        equation.split([',', '-', '>']).filter(|part| !part.is_empty()).map(|part| part.chars().collect()).collect();
    let [left, right, out] = &parts[..] else { panic!("`{equation}` is no product of two tensors") };
    let place = |letters: &[char], letter: char| letters.iter().position(|other| *other == letter);
    let mut dims = DotDims::default();
    let mut order = vec![];
    for (axis, &letter) in left.iter().enumerate() {
        match (place(right, letter), place(out, letter)) {
            (Some(other), Some(_)) => {
                dims.lhs_batch.push(axis);
                dims.rhs_batch.push(other);
                order.push(letter);
            }
            (Some(other), None) => {
                dims.lhs_contract.push(axis);
                dims.rhs_contract.push(other);
            }
            (None, _) => {}
        }
    }
    order.extend(left.iter().filter(|letter| place(right, **letter).is_none()));
    order.extend(right.iter().filter(|letter| place(left, **letter).is_none()));
    let product = g.dot_general(a, b, dims);
    let perm: Vec<usize> = out.iter().map(|&letter| place(&order, letter).unwrap_or_else(|| panic!("`{equation}`: no {letter}"))).collect();
    g.transpose(product, &perm)
}

/// The graph of a case: inputs `in/0`, .. and `upstream`; outputs `out` and `grad/0`, .., the gradients of `sum(upstream out)`.
fn graph_of(case: &Case, tensors: &BTreeMap<String, Values>) -> Result<solstice_ir::Graph> {
    let mut g = Graph::new(&case.name, true);
    let mut inputs = vec![];
    for index in 0..case.inputs.len() {
        let values = &tensors[&format!("{}/in/{index}", case.name)];
        inputs.push(g.input(&format!("in/{index}"), type_of(values)));
    }
    let out = build(&mut g, case, &inputs)?;
    g.output("out", out);
    if !case.grads.is_empty() {
        let upstream = g.input("upstream", type_of(&tensors[&format!("{}/upstream", case.name)]));
        let product = g.mul(upstream, out);
        let loss = g.sum_all(product);
        let wrt: Vec<Tensor> = case.grads.iter().map(|&index| inputs[index]).collect();
        for (&index, grad) in case.grads.iter().zip(g.grad(loss, &wrt)) {
            g.output(&format!("grad/{index}"), grad);
        }
    }
    g.finish()
}

fn type_of(values: &Values) -> TensorType {
    TensorType::new(if values.is_integer { DType::I32 } else { DType::F32 }, values.shape.clone())
}

/// Runs every case with `run` (graph and inputs by name to outputs by name) and lists all that are further off than `tolerance` allows.
fn check_all(
    mut run: impl FnMut(&Case, &solstice_ir::Graph, &BTreeMap<String, Values>) -> Result<BTreeMap<String, Values>, String>,
    tolerance: impl Fn(&Case, &[&[usize]]) -> f64,
) {
    let (cases, tensors) = (golden::cases(), golden::tensors("ops.safetensors"));
    let mut wrong = vec![];
    for case in &cases {
        let mut inputs = BTreeMap::new();
        let named = (0..case.inputs.len()).map(|index| format!("in/{index}")).chain(["upstream".to_owned()]);
        for name in named {
            if let Some(values) = tensors.get(&format!("{}/{name}", case.name)) {
                inputs.insert(name, values.clone());
            }
        }
        let graph = match graph_of(case, &tensors) {
            Ok(graph) => graph,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        let outputs = match run(case, &graph, &inputs) {
            Ok(outputs) => outputs,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        let mut shapes: Vec<&[usize]> = case.inputs.iter().map(|shape| &shape[..]).collect();
        shapes.push(&tensors[&format!("{}/out", case.name)].shape);
        let allowed = tolerance(case, &shapes);
        let names = ["out".to_owned()].into_iter().chain(case.grads.iter().map(|index| format!("grad/{index}")));
        for name in names {
            if let Err(message) = compare(&outputs[&name], &tensors[&format!("{}/{name}", case.name)], allowed) {
                wrong.push(format!("{} {name}: {message}", case.name));
            }
        }
    }
    assert!(!cases.is_empty() && wrong.is_empty(), "{} wrong results in {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Whole numbers must be equal, others within `allowed` of the largest element (or of 1).
fn compare(found: &Values, wanted: &Values, allowed: f64) -> Result<(), String> {
    if found.shape != wanted.shape || found.is_integer != wanted.is_integer || found.data.len() != wanted.data.len() {
        return Err(format!("shape {:?} of {} elements, wanted {:?}", found.shape, found.data.len(), wanted.shape));
    }
    let largest = wanted.data.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
    let limit = if wanted.is_integer { 0.0 } else { allowed * largest };
    let worst = found.data.iter().zip(&wanted.data).enumerate().map(|(index, (x, y))| (index, x, y));
    // A NaN is as far off as can be.
    let distance = |x: f64, y: f64| match (x - y).abs() {
        _ if x == y => 0.0,
        far if far.is_nan() => f64::INFINITY,
        far => far,
    };
    let (index, x, y) = match worst.max_by(|a, b| distance(*a.1, *a.2).total_cmp(&distance(*b.1, *b.2))) {
        Some(worst) => worst,
        None => return Ok(()),
    };
    if distance(*x, *y) <= limit {
        return Ok(());
    }
    Err(format!("element {index} is {x}, wanted {y}: off by {:.2e}, allowed {limit:.2e}", distance(*x, *y)))
}

#[test]
fn the_reference_evaluator_agrees_with_pytorch() {
    let run = |_: &Case, graph: &solstice_ir::Graph, inputs: &BTreeMap<String, Values>| {
        let inputs =
            inputs.iter().map(|(name, values)| (name.clone(), reference::Tensor::from_f64(&type_of(values), &values.data))).collect();
        let evaluation = reference::evaluate(graph, &inputs).map_err(|error| error.to_string())?;
        Ok(evaluation.outputs.into_iter().map(|(name, tensor)| (name, values_of(&tensor.ty, tensor.to_f64()))).collect())
    };
    // Both sides compute in f64; sums over 130 elements and exponentials of 15 leave 1e-12, PyTorch's erf and softplus a little more.
    check_all(run, |_, _| 1e-9);
}

fn values_of(ty: &TensorType, data: Vec<f64>) -> Values {
    Values { is_integer: ty.dtype == DType::I32, shape: ty.shape.clone(), data }
}

#[test]
fn the_cpu_device_agrees_with_pytorch() {
    for fuse in [true, false] {
        let mut session = Session::new(Box::new(solstice_engine::cpu::CpuRuntime::new(None).expect("threads")));
        check_all(|_, graph, inputs| run_on(&mut session, graph, inputs, fuse), f32_tolerance);
    }
}

#[test]
fn the_gpu_device_agrees_with_pytorch() {
    for fuse in [true, false] {
        // A machine without any adapter, not even Mesa's software one, fails here: what was not run was not tested.
        let (runtime, _) = device::open(&DeviceRequest::Gpu).expect("an adapter: install mesa-vulkan-drivers for a software one");
        let mut session = Session::new(runtime);
        check_all(|_, graph, inputs| run_on(&mut session, graph, inputs, fuse), f32_tolerance);
    }
}

/// `roundings` in units of half the distance from 1 to the next f32.
fn f32_tolerance(case: &Case, shapes: &[&[usize]]) -> f64 {
    roundings(case, shapes) * 2f64.powi(-24)
}

/// Compiles and runs a graph once.
fn run_on(
    session: &mut Session,
    graph: &solstice_ir::Graph,
    inputs: &BTreeMap<String, Values>,
    fuse: bool,
) -> Result<BTreeMap<String, Values>, String> {
    let told = |error: solstice_engine::EngineError| format!("fuse {fuse}: {error}");
    let plan = compile(graph, &CompileOptions { fuse, ..CompileOptions::default() }).map_err(told)?.plan;
    let ports = plan.outputs.clone();
    let program = session.load(plan).map_err(told)?;
    let bytes: Vec<(&str, Vec<u8>)> = inputs.iter().map(|(name, values)| (name.as_str(), bytes_of(values))).collect();
    let inputs: Vec<(&str, &[u8])> = bytes.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let outputs = session.run(program, &inputs, &[]).map_err(told)?;
    Ok(ports.into_iter().zip(outputs).map(|(port, bytes)| (port.name, values_from(&port.ty, &bytes))).collect())
}

fn bytes_of(values: &Values) -> Vec<u8> {
    let word = |value: &f64| if values.is_integer { (*value as i32).to_le_bytes() } else { (*value as f32).to_le_bytes() };
    values.data.iter().flat_map(word).collect()
}

fn values_from(ty: &TensorType, bytes: &[u8]) -> Values {
    let words = bytes.as_chunks().0.iter();
    let data = match ty.dtype {
        DType::I32 => words.map(|word| f64::from(i32::from_le_bytes(*word))).collect(),
        _ => words.map(|word| f64::from(f32::from_le_bytes(*word))).collect(),
    };
    values_of(ty, data)
}

/// Outputs and updates of a graph in f64 for inputs and state by name; `run.` scalars are 0.
fn evaluated(g: Graph, inputs: &[(&str, &[f64])]) -> BTreeMap<String, Vec<f64>> {
    let graph = g.finish().unwrap_or_else(|error| panic!("{error}"));
    let value = |name: &str| inputs.iter().find(|(input, _)| *input == name).map_or(vec![0.0], |(_, data)| data.to_vec());
    let inputs =
        graph.parameters().map(|(_, parameter, ty)| (parameter.name.clone(), reference::Tensor::from_f64(ty, &value(&parameter.name))));
    let evaluation = reference::evaluate(&graph, &inputs.collect()).unwrap_or_else(|error| panic!("{error}"));
    evaluation.outputs.into_iter().chain(evaluation.updates).map(|(name, tensor)| (name, tensor.to_f64())).collect()
}

fn assert_close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    let close = found.iter().zip(wanted).all(|(x, y)| (x - y).abs() <= 1e-12 * y.abs().max(1.0));
    assert!(close, "{found:?}, wanted {wanted:?}");
}

#[test]
fn batch_norm_updates_its_running_statistics_with_the_unbiased_variance() -> Result<()> {
    let mut g = Graph::new("test", true);
    let x = g.input("x", TensorType::new(DType::F32, [4, 1]));
    let y = g.batch_norm("bn", x)?;
    g.output("y", y);
    let state: [(&str, &[f64]); 5] =
        [("x", &[1.0, 3.0, 5.0, 7.0]), ("bn.weight", &[1.0]), ("bn.bias", &[0.0]), ("bn.running_mean", &[2.0]), ("bn.running_var", &[1.0])];
    let found = evaluated(g, &state);
    // Mean 4; squares 9 + 1 + 1 + 9 = 20, variance 20 / 4 = 5 for the batch and 20 / 3 for the running one.
    assert_close(&found["bn.running_mean"], &[0.9 * 2.0 + 0.1 * 4.0]);
    assert_close(&found["bn.running_var"], &[0.9 + 0.1 * 20.0 / 3.0]);
    let unit = 1.0 / (5.0f64 + 1e-5).sqrt();
    assert_close(&found["y"], &[-3.0 * unit, -unit, unit, 3.0 * unit]);

    let mut g = Graph::new("test", false);
    let x = g.input("x", TensorType::new(DType::F32, [4, 1]));
    let y = g.batch_norm("bn", x)?;
    g.output("y", y);
    let unit = 1.0 / (1.0f64 + 1e-5).sqrt();
    assert_close(&evaluated(g, &state)["y"], &[-unit, unit, 3.0 * unit, 5.0 * unit]);
    Ok(())
}

#[test]
fn dropout_drops_its_share_and_scales_the_rest_and_its_gradient_has_the_same_mask() -> Result<()> {
    let mut g = Graph::new("test", true);
    let x = g.input("x", TensorType::new(DType::F32, [10_000]));
    let y = g.dropout(x, 0.3)?;
    g.output("y", y);
    let loss = g.sum_all(y);
    let grad = g.grad(loss, &[x])[0];
    g.output("grad", grad);
    let found = evaluated(g, &[("x", &[1.0; 10_000])]);
    let dropped = found["y"].iter().filter(|value| **value == 0.0).count();
    // The count has the standard deviation sqrt(10000 * 0.3 * 0.7) = 46; five of those.
    assert!((3000 - 230..=3000 + 230).contains(&dropped), "{dropped}");
    assert!(found["y"].iter().all(|value| *value == 0.0 || (value - 1.0 / 0.7).abs() < 1e-12));
    assert_eq!(found["y"], found["grad"]);
    Ok(())
}

#[test]
fn gradients_are_right_where_the_formula_has_a_kink() {
    // relu, leaky_relu and clamp as PyTorch has them at the kink; softplus and bce_with_logits have none, however they are written.
    let at = |x: f64, function: fn(&mut Graph, Tensor) -> Tensor| {
        let mut g = Graph::new("test", true);
        let input = g.input("x", TensorType::new(DType::F32, [1]));
        let y = function(&mut g, input);
        let loss = g.sum_all(y);
        let grad = g.grad(loss, &[input])[0];
        g.output("grad", grad);
        evaluated(g, &[("x", &[x])])["grad"][0]
    };
    assert_eq!(at(0.0, |g, x| g.relu(x)), 0.0);
    assert_eq!(at(0.0, |g, x| g.leaky_relu(x, 0.1)), 0.1);
    assert_eq!(at(0.0, |g, x| g.elu(x, 2.0)), 2.0);
    assert_eq!(at(-1.0, |g, x| g.clamp(x, -1.0, 1.0)), 1.0);
    assert_eq!(at(-1.1, |g, x| g.clamp(x, -1.0, 1.0)), 0.0);
    assert_eq!(at(0.0, |g, x| g.softplus(x)), 0.5);
    let bce = |g: &mut Graph, x: Tensor| {
        let target = g.full_like(x, 1.0);
        g.bce_with_logits(x, target)
    };
    assert_eq!(at(0.0, bce), -0.5);
    assert!((at(1e4, |g, x| g.softplus(x)) - 1.0).abs() < 1e-15 && at(-1e4, |g, x| g.softplus(x)).abs() < 1e-15);
    assert_eq!(at(1e4, |g, x| g.elu(x, 1.0)), 1.0);
    assert!(at(f64::NAN, |g, x| g.relu(x)).is_finite());
}

#[test]
fn cross_entropy_stands_huge_logits_and_leaves_targets_out_of_range_alone() {
    for smoothing in [0.0, 0.1] {
        let mut g = Graph::new("test", true);
        let logits = g.input("logits", TensorType::new(DType::F32, [4, 2]));
        let target = g.input("target", TensorType::new(DType::I32, [4]));
        let loss = g.cross_entropy(logits, target, smoothing);
        g.output("loss", loss);
        let mean = g.cross_entropy_mean(logits, target, smoothing);
        g.output("mean", mean);
        let grad = g.grad(mean, &[logits])[0];
        g.output("grad", grad);
        let found =
            evaluated(g, &[("logits", &[1000.0, -1000.0, 1000.0, -1000.0, 3.0, 4.0, 3.0, 4.0]), ("target", &[0.0, 1.0, -1.0, 2.0])]);
        // Two targets count. Log-probabilities 0 and -2000; smoothing mixes in their mean, -1000.
        let (right, wrong) = (smoothing * 1000.0, (1.0 - smoothing) * 2000.0 + smoothing * 1000.0);
        assert_close(&found["loss"], &[right, wrong, 0.0, 0.0]);
        assert_close(&found["mean"], &[(right + wrong) / 2.0]);
        let half = smoothing / 2.0;
        let (first, second) = (half / 2.0, (1.0 - half) / 2.0);
        assert_close(&found["grad"], &[first, -first, second, -second, 0.0, 0.0, 0.0, 0.0]);
    }
}

#[test]
fn a_causal_query_does_not_see_later_keys_and_heads_keep_to_their_own_columns() -> Result<()> {
    let (batch, sequence, width, heads) = (1, 3, 4, 2);
    let mut g = Graph::new("test", true);
    let x = g.input("x", TensorType::new(DType::F32, [batch, sequence, width]));
    let y = g.multi_head_attention("mha", x, heads, true, 0.0)?;
    g.output("y", y);
    let wave = |count: usize, speed: f64| (0..count).map(|index| (index as f64 * speed).sin()).collect::<Vec<f64>>();
    let (x, w, b) = (wave(12, 1.3), wave(48, 0.7), wave(12, 2.1));
    let identity: Vec<f64> = (0..16).map(|index| if index % 5 == 0 { 1.0 } else { 0.0 }).collect();
    let inputs: [(&str, &[f64]); 5] =
        [("x", &x), ("mha.qkv.weight", &w), ("mha.qkv.bias", &b), ("mha.out.weight", &identity), ("mha.out.bias", &[0.0; 4])];
    // The same in loops: project, then for each head and query a softmax over the keys up to the query.
    let project = |row: usize, out: usize| b[out] + (0..width).map(|k| x[row * width + k] * w[out * width + k]).sum::<f64>();
    let mut wanted = vec![0.0; sequence * width];
    for head in 0..heads {
        for query in 0..sequence {
            let columns = head * 2..head * 2 + 2;
            let score = |key: usize| columns.clone().map(|c| project(query, c) * project(key, width + c)).sum::<f64>() / 2f64.sqrt();
            let total: f64 = (0..=query).map(|key| score(key).exp()).sum();
            for column in columns.clone() {
                wanted[query * width + column] =
                    (0..=query).map(|key| score(key).exp() / total * project(key, 2 * width + column)).sum::<f64>();
            }
        }
    }
    assert_close(&evaluated(g, &inputs)["y"], &wanted);
    Ok(())
}
