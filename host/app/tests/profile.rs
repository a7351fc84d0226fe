//! What a run tells of its model, its time, its memory and its kernels.

mod common;

use common::{Desk, prose, recipe};
use serde_json::Value;
use solstice_store::{RunReader, Scalar, Table};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const PARTS: [&str; 7] = ["data_wait", "encode", "device", "readback", "evaluation", "checkpoint", "other"];

/// A perceptron on a few drawn digits, in 8-bit pictures of 28 x 28.
const SMALL: [&str; 8] = [
    "--set",
    "dataset=drawn_digits(train: 640, test: 64)",
    "--set",
    "model=mlp(hidden: [24])",
    "--set",
    "trainer.batch_size=32",
    "--set",
    "trainer.log_every=1st",
];

fn train(desk: &Desk, device: &str, more: &[&str]) {
    let path = recipe("mnist-mlp.ron");
    let args = [["train", path.as_str(), "--quiet", "--device", device].as_slice(), &SMALL, more].concat();
    desk.run(&args).expect(0);
}

fn reader(desk: &Desk) -> RunReader {
    RunReader::open(&desk.run_folder()).unwrap()
}

fn cell<'a>(table: &'a Table, row: &'a [Value], column: &str) -> &'a Value {
    &row[table.columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("no {column} in {:?}", table.columns))]
}

#[test]
fn a_run_tells_what_its_model_is_at_each_start() {
    let desk = Desk::new();
    train(&desk, "cpu", &["--set", "trainer.budget=3st"]);
    let tables = reader(&desk).tables("model/summary", 0).unwrap();
    assert_eq!(tables.len(), 1);
    let table = &tables[0].item;
    let row = |module: &str| table.rows.iter().find(|row| row[0] == module).unwrap_or_else(|| panic!("no {module}: {table:?}"));
    // 784 * 24 + 24 and 24 * 10 + 10.
    for (module, parameters, depth, kind) in
        [("model", 19_090, 0, "mlp"), ("model.fc1", 18_840, 1, "linear"), ("model.fc2", 250, 1, "linear")]
    {
        assert_eq!(
            [cell(table, row(module), "parameters"), cell(table, row(module), "bytes")],
            [&Value::from(parameters), &Value::from(4 * parameters)]
        );
        assert_eq!((cell(table, row(module), "depth"), cell(table, row(module), "type")), (&Value::from(depth), &Value::from(kind)));
    }
    assert_eq!(cell(table, row("model.fc1"), "output"), "f32[32,24]");
    assert_eq!(cell(table, row("(model in all)"), "trainable"), 19_090);

    let graph: Value = serde_json::from_str(&reader(&desk).texts("model/graph", 0).unwrap()[0].item).unwrap();
    assert_eq!(graph["state"]["parameters"], 4 * 19_090);
    assert_eq!(chain(&graph, "image"), ["image", "multiply", "fc1", "relu", "fc2", "cross_entropy"]);
    assert!(names(&graph).contains(&"logits"), "{graph:#}");

    desk.run(&["resume", "last", "--quiet", "--set", "trainer.budget=5st"]).expect(0);
    let again = reader(&desk).tables("model/summary", 0).unwrap();
    assert_eq!((again.len(), again[1].at.step), (2, 3));
    assert_eq!(again[1].item, *table);
}

fn names(graph: &Value) -> Vec<&str> {
    graph["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect()
}

/// Names of the nodes from the one called `first` on, along the first edge of each, outputs left out.
fn chain<'a>(graph: &'a Value, first: &str) -> Vec<&'a str> {
    let names = names(graph);
    let mut at = names.iter().position(|name| *name == first).unwrap();
    let mut found = vec![names[at]];
    let edges: Vec<[usize; 2]> = serde_json::from_value(graph["edges"].clone()).unwrap();
    while let Some([_, to]) = edges.iter().find(|[from, to]| *from == at && graph["nodes"][*to]["kind"] != "output") {
        at = *to;
        found.push(names[at]);
    }
    found
}

#[test]
fn a_transformer_of_four_blocks_is_a_small_graph_with_residual_edges() {
    let desk = Desk::new();
    desk.write("prose.txt", &prose());
    let path = recipe("shakespeare-gpt.ron");
    let more = [
        "--set",
        "dataset=text(path: \"prose.txt\", context: 16)",
        "--set",
        "model=gpt(layers: 4, heads: 2, width: 8)",
        "--set",
        "trainer.batch_size=4",
        "--set",
        "trainer.budget=2st",
    ];
    desk.run(&[["train", path.as_str(), "--quiet", "--device", "cpu"].as_slice(), &more].concat()).expect(0);
    let text = &reader(&desk).texts("model/graph", 0).unwrap()[0].item;
    assert!(text.len() < 32_000, "{} bytes", text.len());
    let graph: Value = serde_json::from_str(text).unwrap();
    let nodes = graph["nodes"].as_array().unwrap();
    for block in 0..4 {
        let path = format!("model.block{block}");
        let of = |module: &str, name: &str| {
            let is = |node: &&Value| node["module"] == format!("{path}{module}").as_str() && node["name"] == name;
            nodes.iter().filter(is).count()
        };
        assert_eq!(
            [of(".ln1", "ln1"), of(".attention.qkv", "qkv"), of(".attention", "attention"), of(".mlp.fc", "fc")],
            [1; 4],
            "{graph:#}"
        );
        assert_eq!(of("", "add"), 2, "{graph:#}");
    }
    let edges: Vec<[usize; 2]> = serde_json::from_value(graph["edges"].clone()).unwrap();
    // The first sum of a block takes what goes in and what attention makes of it.
    let add = nodes.iter().position(|node| node["module"] == "model.block0" && node["name"] == "add").unwrap();
    assert_eq!(edges.iter().filter(|[_, to]| *to == add).count(), 2);
    let info = reader(&desk).events_since(0).unwrap();
    let summary = info.iter().find(|event| event.kind == "startup" && event.message.starts_with("summary")).unwrap();
    println!("{} bytes, {} nodes; {}", text.len(), nodes.len(), summary.message);
}

fn values(reader: &RunReader, name: &str) -> Vec<Scalar> {
    reader.series(name).unwrap()
}

fn parts_add_up(device: &str, budget: &str) {
    let desk = Desk::new();
    let more = [
        "--set",
        "trainer.log_every=5st",
        "--set",
        budget,
        "--set",
        "trainer.evaluate_every=20st",
        "--set",
        "trainer.checkpoint_every=15st",
    ];
    train(&desk, device, &more);
    let reader = reader(&desk);
    let parts = PARTS.map(|part| values(&reader, &format!("time/{part}")));
    let count = parts[0].len();
    assert!(count >= 8 && parts.iter().all(|rows| rows.len() == count));
    assert!(parts.iter().flatten().all(|row| row.value >= 0.0));
    // From the first row to the last: rows carry the time at which they were logged, just after the cut. All the same for every step count.
    let millis: f64 = parts.iter().flat_map(|rows| &rows[1..]).map(|row| row.value * 5.0).sum();
    let span = (parts[0][count - 1].time - parts[0][0].time) * 1e3;
    assert!((millis - span).abs() <= 0.01 * span + 2.0, "parts come to {millis} ms of {span} ms");
    let total = |part: &str| values(&reader, &format!("time/{part}")).iter().map(|row| row.value).sum::<f64>();
    for part in ["device", "evaluation", "checkpoint", "encode"] {
        assert!(total(part) > 0.0, "no time for {part}");
    }
    // Weights and two moments of each, on the device.
    let bytes = values(&reader, "system/device_bytes");
    assert!(bytes.len() == count && bytes.iter().all(|row| row.value > 3.0 * 4.0 * 19_090.0), "{bytes:?}");
    if Path::new("/proc/self/status").exists() {
        assert!(values(&reader, "system/process_bytes").iter().all(|row| row.value > 1e6));
    }
}

#[test]
fn the_parts_of_a_step_add_up_to_the_time_between_reports() {
    parts_add_up("cpu", "trainer.budget=200st");
}

#[test]
fn the_parts_of_a_step_add_up_on_the_gpu_too() {
    parts_add_up("gpu", "trainer.budget=45st");
}

/// Starts a run without an end; its first report is there.
fn endless(desk: &Desk, device: &str) -> Child {
    let path = recipe("mnist-mlp.ron");
    let more =
        ["--set", "trainer.budget=100000ep", "--set", "trainer.checkpoint_every=100000ep", "--set", "trainer.evaluate_every=100000ep"];
    let args = [["train", path.as_str(), "--json", "--device", device].as_slice(), &SMALL, &more].concat();
    let mut child = desk.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [0; 1]).unwrap();
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    child
}

fn wait_for_step(desk: &Desk, step: u64) {
    while values(&reader(desk), "train/loss").last().is_none_or(|row| row.at.step < step) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn losses(desk: &Desk) -> Vec<(u64, u64)> {
    values(&reader(desk), "train/loss").iter().map(|row| (row.at.step, row.value.to_bits())).collect()
}

fn a_profile_times_kernels_and_changes_nothing(device: &str) {
    let desk = Desk::new();
    let mut child = endless(&desk, device);
    let answer = desk.run(&["ctl", "last", "profile", "--steps", "6"]);
    let refused = desk.run(&["ctl", "last", "profile", "--steps", "0"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    let measured = reader(&desk).tables("profile/kernels", 0).unwrap();
    let profiled_to = measured.last().map_or(10, |logged| logged.at.step);
    wait_for_step(&desk, profiled_to + 5);
    desk.run(&["ctl", "last", "stop"]).expect(0);
    child.wait().unwrap();
    if answer.code != 0 {
        // An adapter without a clock says so, and the run goes on.
        assert!(device != "cpu" && answer.err.contains("timestamp queries"), "{answer:?}");
        assert!(measured.is_empty());
        return;
    }
    let table = &measured[0].item;
    let sum = |column: &str| table.rows.iter().map(|row| cell(table, row, column).as_f64().unwrap()).sum::<f64>();
    assert!((sum("percent") - 100.0).abs() < 0.1, "{}", sum("percent"));
    assert!(sum("us_per_step") > 0.0);
    assert!(table.rows.iter().all(|row| *cell(table, row, "calls") == 1.0), "{table:?}");
    let micros: Vec<f64> = table.rows.iter().map(|row| cell(table, row, "us_per_step").as_f64().unwrap()).collect();
    assert!(micros.is_sorted_by(|a, b| a >= b), "slowest first");
    // Forward and gradient of the first layer's weight: 2 * 32 * 784 * 24 each, of fc2 three products of 2 * 32 * 24 * 10.
    let products = table.rows.iter().filter(|row| cell(table, row, "kernel") == "dot_general");
    let mut flops: Vec<u64> = products.map(|row| cell(table, row, "flops").as_u64().unwrap()).collect();
    flops.sort_unstable();
    assert_eq!(flops, [15_360, 15_360, 15_360, 1_204_224, 1_204_224]);
    let note = reader(&desk).texts("profile/note", 0).unwrap().remove(0).item;
    assert!(answer.out.contains(&note) && note.contains("kernels take"), "{note}\n{}", answer.out);
    println!("{note}");

    // The same run without a profile.
    let whole = Desk::new();
    let mut child = endless(&whole, device);
    wait_for_step(&whole, profiled_to + 5);
    whole.run(&["ctl", "last", "stop"]).expect(0);
    child.wait().unwrap();
    let (with, without) = (losses(&desk), losses(&whole));
    let common = with.len().min(without.len());
    assert!(common as u64 >= profiled_to + 5);
    assert_eq!(with[..common], without[..common], "a profile changes what is trained");
}

#[test]
fn a_profile_of_the_cpu_times_kernels_and_changes_nothing() {
    a_profile_times_kernels_and_changes_nothing("cpu");
}

#[test]
fn a_profile_of_the_gpu_times_kernels_and_changes_nothing() {
    a_profile_times_kernels_and_changes_nothing("gpu");
}
