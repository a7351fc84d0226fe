//! Layers as an author meets them: names, shapes, states, and errors that name the author's line. Numbers are tested in `host/engine/tests/golden_ops.rs`.

use solstice_plugin_api::ir::{Graph as Ir, Op, Role};
use solstice_plugin_api::nn;
use solstice_plugin_api::prelude::*;

fn graph() -> Graph {
    Graph::new("test", true)
}

fn input(g: &mut Graph, name: &str, shape: &[usize]) -> Tensor {
    g.input(name, TensorType::new(DType::F32, shape))
}

/// Parameters of a role: name and shape.
fn parameters(ir: &Ir, wanted: Role) -> Vec<(String, Vec<usize>)> {
    let of_role = ir.parameters().filter(|(_, parameter, _)| parameter.role == wanted);
    of_role.map(|(_, parameter, ty)| (parameter.name.clone(), ty.shape.clone())).collect()
}

/// Names of the composites, bodies included.
fn composites(ir: &Ir) -> Vec<String> {
    let mut names = vec![];
    for node in &ir.nodes {
        if let Op::Composite { name, body, .. } = &node.op {
            names.push(name.clone());
            names.extend(composites(body));
        }
    }
    names
}

/// Message of the error of `build`, which must name this file and the line that it gives back.
fn error_at(build: impl FnOnce(&mut Graph) -> (u32, Result<Tensor>)) -> String {
    let mut g = graph();
    let (line, result) = build(&mut g);
    let error = match result {
        Err(error) => error,
        Ok(_) => g.check().expect_err("an error was wanted"),
    };
    assert_eq!(error.location, format!("{}:{line}", file!()), "{}", error.message);
    error.message
}

#[test]
fn layers_name_and_shape_their_weights_as_pytorch_does() -> Result<()> {
    let mut g = graph();
    let x = input(&mut g, "x", &[5, 7, 12]);
    let y = g.linear("fc", x, 3)?;
    assert_eq!(g.shape(y), [5, 7, 3]);
    g.linear_no_bias("head", x, 2)?;
    g.layer_norm("ln", x)?;
    g.rms_norm("rms", x)?;
    let y = g.multi_head_attention("mha", x, 4, true, 0.1)?;
    assert_eq!(g.shape(y), [5, 7, 12]);
    g.group_norm("gn", x, 7)?;
    let tokens = g.input("tokens", TensorType::new(DType::I32, [5, 7]));
    let y = g.embedding("wte", tokens, 11, 6)?;
    assert_eq!(g.shape(y), [5, 7, 6]);
    let wanted: [(&str, &[usize]); 13] = [
        ("fc.weight", &[3, 12]),
        ("fc.bias", &[3]),
        ("head.weight", &[2, 12]),
        ("ln.weight", &[12]),
        ("ln.bias", &[12]),
        ("rms.weight", &[12]),
        ("mha.qkv.weight", &[36, 12]),
        ("mha.qkv.bias", &[36]),
        ("mha.out.weight", &[12, 12]),
        ("mha.out.bias", &[12]),
        ("gn.weight", &[7]),
        ("gn.bias", &[7]),
        ("wte.weight", &[11, 6]),
    ];
    let found = parameters(g.ir(), Role::Param);
    assert_eq!(found, wanted.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    g.finish().map(drop)
}

/// Op and scope of every node that computes something.
fn labels(ir: &Ir) -> Vec<(String, String)> {
    let computed = ir.nodes.iter().filter(|node| !matches!(node.op, Op::Parameter(_) | Op::Constant { .. }));
    computed.map(|node| (node.op.name(), node.scope.to_string())).collect()
}

#[test]
fn every_node_of_a_layer_carries_the_layers_path() -> Result<()> {
    let mut inner = graph();
    let x = input(&mut inner, "x", &[2, 3, 4]);
    let h = inner.linear("fc1", x, 4)?;
    let h = inner.relu(h);
    let h = inner.scope("block3", |g| {
        let h = g.layer_norm("norm", h)?;
        g.multi_head_attention("attention", h, 2, true, 0.0)
    })?;
    inner.output("y", h);
    let names = inner.params().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let wanted = [
        "fc1.weight",
        "fc1.bias",
        "block3.norm.weight",
        "block3.norm.bias",
        "block3.attention.qkv.weight",
        "block3.attention.qkv.bias",
        "block3.attention.out.weight",
        "block3.attention.out.bias",
    ];
    assert_eq!(names, wanted);
    let inner = inner.finish()?;

    let mut step = graph();
    let x = input(&mut step, "x", &[2, 3, 4]);
    step.inline(&inner, &[("x", x)], "model")?;
    let labels = labels(step.ir());
    let at = |op: &str| labels.iter().filter(|(found, _)| found == op).map(|(_, scope)| scope.as_str()).collect::<Vec<_>>();
    assert_eq!(at("dot_general"), ["model.fc1", "model.block3.attention.qkv", "model.block3.attention.out"]);
    assert_eq!(at("add"), ["model.fc1", "model.block3.attention.qkv", "model.block3.attention.out"]);
    assert_eq!(at("select"), ["model"], "a function without a name belongs to what is around it");
    assert_eq!(at("layer_norm"), ["model.block3.norm"]);
    assert_eq!(at("attention"), ["model.block3.attention"]);
    let scope_of = |name: &str| step.ir().node(step.ir().parameter(name).unwrap()).scope.to_string();
    assert_eq!(scope_of("model.fc1.weight"), "model.fc1");
    assert_eq!(scope_of("model.block3.attention.qkv.bias"), "model.block3.attention.qkv");
    Ok(())
}

#[test]
fn a_layers_nodes_name_the_authors_line_and_its_errors_the_whole_path() -> Result<()> {
    let mut g = graph();
    let x = input(&mut g, "x", &[2, 3, 4]);
    let line = line!() + 1;
    g.multi_head_attention("mha", x, 2, false, 0.5)?;
    let wanted = format!("{}:{line}", file!());
    assert!(g.ir().nodes.iter().skip(1).all(|node| *node.location == *wanted), "{}", g.ir());
    // The layer is closed again: what follows is not in its scope.
    let y = g.relu(x);
    assert_eq!(labels(g.ir()).last().map(|(_, scope)| scope.as_str()), Some(""));

    let message = error_at(|g| {
        let x = input(g, "x", &[2, 3, 2]);
        g.scope("stem", |g| (line!(), g.conv1d("conv", x, nn::Conv1d::new(5, 3))))
    });
    assert_eq!(message, "conv1d `stem.conv`: convolution: a kernel of [3] does not fit in an input of [2] with padding [0]");
    g.output("y", y);
    g.finish().map(drop)
}

#[test]
fn two_layers_of_one_name_share_their_weights_and_another_shape_is_an_error() -> Result<()> {
    let mut g = graph();
    let x = input(&mut g, "x", &[5, 12]);
    let y = g.linear("fc", x, 12)?;
    g.linear("fc", y, 12)?;
    assert_eq!(g.params().len(), 2);
    let message = g.linear("fc", y, 13).expect_err("13 is not 12").message;
    assert!(message.contains("`fc.weight`") && message.contains("[13,12]") && message.contains("[12,12]"), "{message}");
    Ok(())
}

#[test]
fn batch_norm_keeps_running_statistics_only_while_training() -> Result<()> {
    for training in [true, false] {
        let mut g = Graph::new("test", training);
        let x = input(&mut g, "x", &[4, 3, 2]);
        let y = g.batch_norm("bn", x)?;
        assert_eq!(g.shape(y), [4, 3, 2]);
        g.output("y", y);
        let ir = g.finish()?;
        assert_eq!(parameters(&ir, Role::ModelState), [("bn.running_mean".to_owned(), vec![3]), ("bn.running_var".to_owned(), vec![3])]);
        assert_eq!(ir.updates.len(), if training { 2 } else { 0 });
    }
    Ok(())
}

#[test]
fn dropout_is_the_identity_when_it_has_nothing_to_do_and_draws_anew_otherwise() -> Result<()> {
    let mut g = Graph::new("test", false);
    let x = input(&mut g, "x", &[4]);
    assert_eq!(g.dropout(x, 0.5)?, x);
    let mut g = graph();
    let x = input(&mut g, "x", &[4]);
    assert_eq!(g.dropout(x, 0.0)?, x);
    g.dropout(x, 0.5)?;
    g.dropout(x, 0.5)?;
    let streams: Vec<u32> =
        g.ir().nodes.iter().filter_map(|node| if let Op::RngBits { stream } = node.op { Some(stream) } else { None }).collect();
    assert!(streams.len() == 2 && streams[0] != streams[1], "{streams:?}");
    Ok(())
}

#[test]
fn kernels_can_find_functions_by_name() -> Result<()> {
    let mut g = graph();
    let x = input(&mut g, "x", &[2, 3, 4, 8]);
    let labels = g.input("labels", TensorType::new(DType::I32, [2, 3, 4]));
    g.softmax(x, 3);
    g.log_softmax(x, 0);
    g.gelu(x);
    g.layer_norm("ln", x)?;
    g.rms_norm("rms", x)?;
    g.group_norm("gn", x, 3)?;
    g.batch_norm("bn", x)?;
    g.dropout(x, 0.5)?;
    g.scaled_dot_product_attention(x, x, x, true)?;
    g.cross_entropy(x, labels, 0.1);
    let alone = ["softmax", "log_softmax", "gelu", "layer_norm", "rms_norm", "group_norm", "batch_norm", "dropout"];
    let nested = ["attention", "softmax", "cross_entropy", "log_softmax"];
    assert_eq!(composites(g.ir()), [&alone[..], &nested].concat());
    g.finish().map(drop)
}

#[test]
fn losses_give_one_value_a_sample() {
    let mut g = graph();
    let (a, b) = (input(&mut g, "a", &[6, 2, 3]), input(&mut g, "b", &[6, 2, 3]));
    let labels = g.input("labels", TensorType::new(DType::I32, [6, 2]));
    for loss in [g.mse(a, b), g.l1(a, b), g.huber(a, b, 1.0), g.bce_with_logits(a, b)] {
        assert_eq!(g.shape(loss), [6]);
    }
    for loss in [g.cross_entropy(a, labels, 0.0), g.cross_entropy_soft(a, b)] {
        assert_eq!(g.shape(loss), [6, 2]);
    }
    let loss = g.cross_entropy_mean(a, labels, 0.1);
    assert!(g.shape(loss).is_empty());
    assert_eq!(g.check(), Ok(()));
}

#[test]
fn a_shape_error_says_what_was_wanted_and_where_the_author_wrote_it() {
    let message = error_at(|g| {
        let x = input(g, "x", &[]);
        (line!(), g.linear("fc1", x, 3))
    });
    assert_eq!(message, "linear `fc1`: wants x as f32[.., in], got f32[]");

    let message = error_at(|g| {
        let (x, w) = (input(g, "x", &[2, 5]), input(g, "w", &[3, 4]));
        (line!(), Ok(g.linear_with(x, w, None)))
    });
    assert_eq!(message, "linear: inner sizes differ: x is [2, 5], weight [out, in] is [3, 4]");

    let message = error_at(|g| {
        let x = input(g, "x", &[2, 5]);
        (line!(), Ok(g.softmax(x, 2)))
    });
    assert_eq!(message, "softmax: wants an axis below 2, got 2: x is f32[2,5]");

    // Noticed inside the composite's body.
    let message = error_at(|g| {
        let x = g.input("x", TensorType::new(DType::I32, [2, 5]));
        (line!(), Ok(g.softmax(x, 1)))
    });
    assert!(message.contains("i32[2,5]"), "{message}");

    let message = error_at(|g| {
        let x = input(g, "x", &[2, 3, 4, 4]);
        (line!(), g.max_pool2d(x, 5))
    });
    assert_eq!(message, "max_pool2d: wants a window that fits in x [2, 3, 4, 4], got [5, 5] with stride [5, 5], padding [0, 0]");

    let message = error_at(|g| {
        let x = input(g, "x", &[1, 3]);
        (line!(), g.batch_norm("bn", x))
    });
    assert_eq!(message, "batch_norm `bn`: wants more than one value a channel while training, got 1: x is [1, 3]");

    let message = error_at(|g| {
        let x = input(g, "x", &[2, 6, 10]);
        (line!(), g.multi_head_attention("mha", x, 3, false, 0.0))
    });
    assert_eq!(message, "multi_head_attention `mha`: wants heads that divide the width 10, got 3");

    let message = error_at(|g| {
        let (x, y) = (input(g, "x", &[7]), input(g, "y", &[7, 1]));
        (line!(), Ok(g.mse(x, y)))
    });
    assert_eq!(message, "mse: wants prediction and target of one shape, got prediction f32[7], target f32[7,1]");

    let message = error_at(|g| {
        let (x, y) = (input(g, "x", &[7, 4]), g.input("y", TensorType::new(DType::I32, [7, 1])));
        (line!(), Ok(g.cross_entropy(x, y, 0.0)))
    });
    assert_eq!(message, "cross_entropy: wants target as i32[7] for logits [7, 4], got i32[7,1]");

    let message = error_at(|g| {
        let x = input(g, "x", &[7, 4]);
        (line!(), g.dropout(x, 1.5))
    });
    assert_eq!(message, "dropout: wants a probability within 0..=1, got 1.5");
}

#[test]
fn after_an_error_every_function_goes_on_quietly_and_the_first_error_is_kept() {
    let mut g = graph();
    let labels = g.input("labels", TensorType::new(DType::I32, [7]));
    let broken = g.fail("the first");
    let functions: [fn(&mut Graph, Tensor) -> Tensor; 14] = [
        |g, x| g.softmax(x, 3),
        |g, x| g.log_softmax(x, 3),
        |g, x| g.logsumexp(x, 3),
        |g, x| g.cumsum(x, 3),
        |g, x| g.variance(x, &[3], 1),
        |g, x| g.take_along_axis(x, x, 3),
        |g, x| g.upsample_nearest2d(x, 2),
        |g, x| g.linear_with(x, x, Some(x)),
        |g, x| g.layer_norm_with(x, x, Some(x), 1e-5),
        |g, x| g.rms_norm_with(x, x, 1e-5),
        |g, x| g.group_norm_with(x, x, x, 3, 1e-5),
        |g, x| g.batch_norm_eval(x, x, x, x, x, 1e-5),
        |g, x| g.embedding_with(x, x),
        |g, x| g.gelu(x),
    ];
    for function in functions {
        function(&mut g, broken);
    }
    g.cross_entropy(broken, labels, 0.0);
    g.cross_entropy_mean(labels, broken, 0.0);
    g.cross_entropy_soft(broken, broken);
    g.one_hot(broken, 3);
    let layers: [fn(&mut Graph, Tensor) -> Result<Tensor>; 6] = [
        |g, x| g.linear("a", x, 3),
        |g, x| g.batch_norm("b", x),
        |g, x| g.max_pool2d(x, 2),
        |g, x| g.dropout(x, 0.5),
        |g, x| g.multi_head_attention("c", x, 2, true, 0.5),
        |g, x| g.global_avg_pool2d(x),
    ];
    for layer in layers {
        assert_eq!(layer(&mut g, broken).map_err(|error| error.message), Err("the first".to_owned()));
    }
}
