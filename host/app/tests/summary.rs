//! `solstice summary` on recipes whose figures are worked out by hand.

mod common;

use common::{Desk, prose, recipe};
use serde_json::Value;

fn summary(desk: &Desk, recipe_name: &str, more: &[&str]) -> Value {
    let path = recipe(recipe_name);
    let mut args = vec!["summary", path.as_str(), "--json"];
    args.extend(more);
    desk.run(&args).expect(0).json().remove(0)
}

fn row<'a>(summary: &'a Value, module: &str) -> &'a Value {
    let rows = summary["modules"].as_array().unwrap();
    rows.iter().find(|row| row["module"] == module).unwrap_or_else(|| panic!("no row {module}: {summary:#}"))
}

fn count(row: &Value, figure: &str) -> u64 {
    row[figure].as_u64().unwrap_or_else(|| panic!("no {figure}: {row:#}"))
}

fn shape(row: &Value) -> Vec<u64> {
    row["output"]["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).collect()
}

#[test]
fn a_perceptron_has_the_figures_of_a_textbook() {
    let desk = Desk::new();
    let more =
        ["--set", "dataset=drawn_digits(train: 320, test: 40)", "--set", "model=mlp(hidden: [128])", "--set", "trainer.batch_size=32"];
    let got = summary(&desk, "mnist-mlp.ron", &more);
    let (model, fc1, fc2) = (row(&got, "model"), row(&got, "model.fc1"), row(&got, "model.fc2"));
    assert_eq!([&model["type"], &fc1["type"], &fc2["type"]], ["mlp", "linear", "linear"]);
    // 784 * 128 + 128 and 128 * 10 + 10.
    assert_eq!([fc1, fc2, model].map(|row| count(row, "parameters")), [100_480, 1_290, 101_770]);
    // Two for each weight and one for each bias; relu is a comparison and a selection of 128 numbers. Together 203,264 of multiply-adds and 394.
    assert_eq!([fc1, fc2].map(|row| count(row, "flops_sample")), [200_704 + 128, 2_560 + 10]);
    assert_eq!(count(model, "flops_sample"), 203_264 + 128 + 10 + 2 * 128);
    assert_eq!(count(model, "flops_batch"), 32 * count(model, "flops_sample"));
    assert_eq!([shape(fc1), shape(fc2), shape(model)], [[32, 128], [32, 10], [32, 10]]);
    assert_eq!([count(&got["total"], "trainable"), count(&got["total"], "frozen")], [101_770, 0]);
    // AdamW keeps two numbers a weight.
    let state = &got["state"];
    assert_eq!([count(state, "parameters"), count(state, "optimizer")], [407_080, 814_160]);
    assert_eq!(count(state, "total"), 407_080 + 814_160 + count(state, "metrics"));
    let names: Vec<&str> = got["programs"].as_array().unwrap().iter().map(|program| program["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["train", "test"]);
    // Training keeps 32 * 128 hidden numbers, and has the gradients and the optimizer on top of what evaluation does.
    let [train, test] = [0, 1].map(|index| &got["programs"][index]);
    assert!(count(train, "scratch_bytes") >= 32 * 128 * 4 && count(train, "kernels") > count(test, "kernels"), "{got:#}");
    assert!(!desk.has_runs());
}

#[test]
fn a_convolution_and_a_batch_norm_are_counted_as_by_hand() {
    let more = [
        "--set",
        "dataset=drawn_digits(train: 80, test: 8)",
        "--set",
        "model=convnet(channels: [4, 6], dense: 0, dropout: 0.25)",
        "--set",
        "trainer.batch_size=8",
    ];
    let got = summary(&Desk::new(), "mnist-convnet.ron", &more);
    // Images of 28 x 28, padded; then 14 x 14 after pooling. No bias before a norm.
    let (conv1, conv2) = (row(&got, "model.conv1"), row(&got, "model.conv2"));
    assert_eq!([&conv1["type"], &row(&got, "model.norm1")["type"], &row(&got, "model.fc1")["type"]], ["conv2d", "batch_norm", "linear"]);
    assert_eq!([conv1, conv2].map(|row| count(row, "parameters")), [4 * 9, 6 * 4 * 9]);
    assert_eq!([conv1, conv2].map(|row| count(row, "flops_sample")), [2 * 4 * 784 * 9, 2 * 6 * 196 * 9 * 4]);
    assert_eq!([shape(conv1), shape(conv2)], [[8, 4, 28, 28], [8, 6, 14, 14]]);
    // Each number is scaled and shifted; what it is scaled and shifted by takes five operations a channel, once a batch.
    assert_eq!(count(row(&got, "model.norm1"), "flops_batch"), 8 * 2 * 4 * 784 + 5 * 4);
    assert_eq!(count(row(&got, "model.norm1"), "parameters"), 8);
    // Relu is two operations and pooling one for each number.
    let own = count(row(&got, "model"), "flops_batch")
        - ["conv1", "norm1", "conv2", "norm2", "fc1"]
            .map(|name| count(row(&got, &format!("model.{name}")), "flops_batch"))
            .iter()
            .sum::<u64>();
    assert_eq!(own, 8 * 3 * (4 * 784 + 6 * 196));
    // Running mean and variance of ten channels.
    assert_eq!(count(&got["state"], "model_state"), 2 * 10 * 4);
}

#[test]
fn the_embeddings_of_a_transformer_cost_nothing_and_its_blocks_are_nested() {
    let desk = Desk::new();
    desk.write("prose.txt", &prose());
    let more = [
        "--set",
        "dataset=text(path: \"prose.txt\", context: 16)",
        "--set",
        "model=gpt(layers: 2, heads: 2, width: 8)",
        "--set",
        "trainer.batch_size=4",
    ];
    let got = summary(&desk, "shakespeare-gpt.ron", &more);
    for embedding in ["model.wte", "model.wpe"] {
        assert_eq!(count(row(&got, embedding), "flops_batch"), 0);
    }
    let wte = row(&got, "model.wte");
    assert_eq!((&wte["type"], shape(wte)), (&Value::from("embedding"), vec![4, 16, 8]));
    let vocabulary = count(wte, "parameters") / 8;
    let block = "model.block1";
    let flops = |module: &str| count(row(&got, &format!("{block}.{module}")), "flops_sample");
    // 16 tokens of width 8; the inner layer is 32 wide.
    assert_eq!(flops("attention.qkv"), 2 * 16 * 8 * 24);
    assert_eq!(flops("attention.proj"), 2 * 16 * 8 * 8);
    assert_eq!([flops("mlp.fc"), flops("mlp.proj")], [2 * 16 * 8 * 32; 2]);
    let attention = row(&got, &format!("{block}.attention"));
    assert_eq!((&attention["type"], &attention["depth"], shape(attention)), (&"attention".into(), &2.into(), vec![4, 16, 8]));
    // Two products of 2 heads * 16 * 16 * 4; scores are scaled, masked and go through a softmax: less the maximum (found and subtracted), e to that,
    // their sum, a quotient.
    let inner = flops("attention") - flops("attention.qkv") - flops("attention.proj");
    assert_eq!(inner, 2 * (2 * 2 * 16 * 16 * 4) + (2 + 5) * (2 * 16 * 16));
    // A block has norms 2 * 8, attention 4 * 8 * 8, layers 8 * 8 * 8; tied, the last layer has no weights of its own.
    assert_eq!(count(row(&got, block), "parameters"), 16 + 256 + 512);
    assert_eq!(count(&got["total"], "parameters"), 2 * 784 + 8 * vocabulary + 16 * 8 + 8);
    // What the model itself does: positions added, and the product with the embedding for the logits.
    let children = ["wte", "wpe", "block0", "block1", "ln_f"].map(|name| count(row(&got, &format!("model.{name}")), "flops_sample"));
    assert_eq!(count(row(&got, "model"), "flops_sample") - children.iter().sum::<u64>(), 16 * 8 + 2 * 16 * 8 * vocabulary);
}

#[test]
fn the_table_is_for_people_and_a_wrong_setting_is_a_usage_error() {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let small = ["--set", "dataset.train=320", "--set", "dataset.test=40"];
    let text = desk.run(&[["summary", path.as_str()].as_slice(), &small].concat()).expect(0).out;
    for part in
        ["module", "FLOPs/sample", "\nmodel ", "\n  fc1 ", "(loss, metrics)", "trainable, 0 frozen", "scratch memory", "counts as two"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    println!("{text}");
    let wrong = desk.run(&["summary", path.as_str(), "--set", "model.hiden=[3]"]).expect(2);
    assert!(wrong.err.contains("hiden"), "{}", wrong.err);
}
