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

/// FLOPs, bytes and form of the products of a step: of the first layer forward and the gradient of its weight, of the second layer also the gradient of
/// what goes into it. How much else is done in their kernels is the compiler's business, within limits.
fn check_products(mut products: Vec<(u64, u64, &str)>) {
    products.sort_unstable();
    // Multiply-adds count as two. All products of a layer touch the same three matrices; each is read or written once.
    let layer = |rows: u64, inner: u64, columns: u64| (2 * rows * inner * columns, 4 * (rows * inner + inner * columns + rows * columns));
    let (first, second) = (layer(32, 784, 24), layer(32, 24, 10));
    // With the largest result: an input's gradient in the second layer, the weight's gradient in the first.
    let wanted = [(second, 32 * 24), (second, 32 * 24), (second, 32 * 24), (first, 784 * 24), (first, 784 * 24)];
    assert_eq!(products.len(), wanted.len(), "{products:?}");
    for (&(flops, bytes, form), ((product_flops, product_bytes), elements)) in products.iter().zip(wanted) {
        // An epilogue has at most 64 operations on each element, and six more buffers of no more elements.
        let (most_flops, most_bytes) = match form {
            "" => (product_flops, product_bytes),
            "epilogue" => (product_flops + 64 * elements, product_bytes + 6 * 4 * elements),
            _ => panic!("a product is no {form}"),
        };
        assert!((product_flops..=most_flops).contains(&flops), "{products:?}: {product_flops} to {most_flops} FLOPs wanted");
        assert!((product_bytes..=most_bytes).contains(&bytes), "{products:?}: {product_bytes} to {most_bytes} bytes wanted");
    }
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
    let number = |row: &[Value], column: &str| cell(table, row, column).as_u64().unwrap();
    let products = table.rows.iter().filter(|row| cell(table, row, "kernel") == "dot_general");
    check_products(products.map(|row| (number(row, "flops"), number(row, "bytes"), cell(table, row, "form").as_str().unwrap())).collect());
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

// ---- `solstice profile` ------------------------------------------------------------------------------------------------------------------------

/// The arguments of `profile` of the small perceptron.
fn profile_args<'a>(path: &'a str, device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [["profile", path, "--device", device, "--steps", "6", "--warmup", "2"].as_slice(), &SMALL, more].concat()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key}: {value:#}"))
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key}: {value:#}"))
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

/// The figures of a profile must fit each other and what is known of the perceptron.
fn check_profile(profile: &Value) {
    let kernels = profile["kernels"].as_array().unwrap();
    let sum = |key: &str| kernels.iter().map(|kernel| number(kernel, key)).sum::<f64>();
    assert!(is_close(sum("percent"), 100.0), "{}", sum("percent"));
    assert!(is_close(sum("us_per_step") / 1e3, number(&profile["timed"], "kernels_ms_per_step")));
    assert!(kernels.is_sorted_by(|a, b| number(a, "us_per_step") >= number(b, "us_per_step")), "slowest first");
    assert!(kernels.iter().all(|kernel| number(kernel, "calls") == 1.0));
    let of = |kernel: &&Value| word(kernel, "kernel") == "dot_general";
    let products = kernels.iter().filter(of).map(|row| (number(row, "flops") as u64, number(row, "bytes") as u64, word(row, "form")));
    check_products(products.collect());
    let roofs = &profile["roofs"];
    for kernel in kernels.iter().filter(|kernel| number(kernel, "us_per_step") > 0.0) {
        let (micros, bytes, flops) = (number(kernel, "us_per_step"), number(kernel, "bytes"), kernel["flops"].as_f64().unwrap_or(0.0));
        assert!(is_close(number(kernel, "gb_per_sec"), bytes / micros / 1e3), "{kernel:#}");
        assert!(flops == 0.0 || is_close(number(kernel, "gflop_per_sec"), flops / micros / 1e3), "{kernel:#}");
        // Microseconds that the work takes at least, by each roof.
        let (computing, moving) = (flops / number(roofs, "gflop_per_sec") / 1e3, bytes / number(roofs, "gb_per_sec") / 1e3);
        assert!(is_close(number(kernel, "percent_of_roof"), 100.0 * computing.max(moving) / micros), "{kernel:#}");
        assert_eq!(word(kernel, "bound_by"), if computing > moving { "compute" } else { "memory" });
    }

    let parts = profile["parts"].as_array().unwrap();
    let names: Vec<String> = parts.iter().map(|part| word(part, "part").replace(' ', "_")).collect();
    assert_eq!(names, PARTS);
    let millis: f64 = parts.iter().map(|part| number(part, "ms_per_step")).sum();
    assert!(is_close(millis, number(profile, "ms_per_step")) && number(&parts[2], "ms_per_step") > 0.0);
    assert!(is_close(number(profile, "samples_per_sec"), 32.0 / millis * 1e3));
    // 640 samples in batches of 32 are 20 steps; a report after each.
    for (part, every) in [("readback", 1.0), ("evaluation", 20.0), ("checkpoint", 20.0)] {
        let row = parts.iter().find(|row| row["part"] == part).unwrap();
        let spread = &row["spread"][0];
        assert_eq!(number(spread, "every_steps"), every, "{row:#}");
        assert!(is_close(number(row, "ms_per_step"), number(spread, "ms_each") / every) && number(spread, "ms_each") > 0.0, "{row:#}");
    }
}

#[test]
fn profile_tells_kernels_parts_and_roofs_that_fit_each_other() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    let profile = desk.run(&profile_args(&path, "cpu", &["--json"])).expect(0).json().remove(0);
    check_profile(&profile);
    assert_eq!((word(&profile, "recipe"), &profile["steps"], &profile["batch_size"]), ("mnist-mlp", &6.into(), &32.into()));
    // On this device the loop's thread does what the kernels do, and next to nothing else, while it is said to be with the device.
    let timed = &profile["timed"];
    let (kernels, device) = (number(timed, "kernels_ms_per_step"), number(timed, "device_ms_per_step"));
    assert!(kernels <= device && kernels >= 0.5 * device && device <= number(timed, "ms_per_step"), "{timed}");
    // The line that asked for the first layer is where the plugin says so.
    let is_first = |kernel: &&Value| kernel["kernel"] == "dot_general" && kernel["module"] == "model.fc1";
    let first = profile["kernels"].as_array().unwrap().iter().find(is_first).expect("the first layer");
    let (file, line) = word(first, "location").rsplit_once(':').unwrap();
    let source = std::fs::read_to_string(common::root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = source.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap();
    assert!(file.contains("mlp") && line.contains("linear("), "{first:#}: {line}");
    assert!(!desk.has_runs(), "a profile leaves a run behind");
}

#[test]
fn a_profile_on_the_gpu_has_the_same_figures_or_says_that_there_is_no_clock() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    let ran = desk.run(&profile_args(&path, "gpu", &["--json", "--trace", "gpu.json"]));
    if ran.code == 1 && ran.err.contains("timestamp queries") {
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        return;
    }
    check_profile(&ran.expect(0).json()[0]);
    check_trace(&serde_json::from_slice(&std::fs::read(desk.path().join("gpu.json")).unwrap()).unwrap(), 6);
}

#[test]
fn the_table_of_a_profile_is_for_people() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    let text = desk.run(&profile_args(&path, "cpu", &["--top", "2"])).expect(0).out;
    println!("{text}");
    for part in [
        "mnist-mlp on ",
        "batches of 32, 6 steps after 2",
        "roofs of this device",
        "GFLOP/s",
        "of roof",
        "asked for at",
        "other kernels take",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    for part in ["data wait", "device", "evaluation", "test: ", " every 20 steps", "samples/s"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let lines: Vec<&str> = text.lines().collect();
    let place = |begin: &str| lines.iter().position(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no line `{begin}`\n{text}"));
    assert_eq!(place("other kernels") - place("kernel "), 3, "two kernels\n{text}");
}

/// A file of the Trace Event Format: what <https://ui.perfetto.dev> needs of it. The complete events of each track, in order.
fn check_trace(file: &Value, steps: u64) -> [Vec<Value>; 2] {
    assert_eq!(file["displayTimeUnit"], "ms");
    let mut tracks: std::collections::BTreeMap<u64, Vec<Value>> = Default::default();
    let mut names = vec![];
    for event in file["traceEvents"].as_array().unwrap() {
        let (thread, _) = (event["tid"].as_u64().expect("a thread"), event["pid"].as_u64().expect("a process"));
        match (word(event, "ph"), word(event, "name")) {
            ("M", "thread_name") => names.push((thread, word(&event["args"], "name").to_owned())),
            ("M", "process_name") => assert!(word(&event["args"], "name").contains("mnist-mlp")),
            ("M", "thread_sort_index") => assert!(event["args"]["sort_index"].is_u64()),
            ("X", _) => {
                assert!(!word(event, "cat").is_empty() && event["args"].is_object());
                assert!(number(event, "ts") >= 0.0 && number(event, "dur") >= 0.0, "{event:#}");
                tracks.entry(thread).or_default().push(event.clone());
            }
            (kind, name) => panic!("{kind} {name} is no event that a trace has"),
        }
    }
    assert_eq!(names.iter().map(|(thread, _)| *thread).collect::<Vec<_>>(), tracks.keys().copied().collect::<Vec<_>>());
    assert!(names[0].1 == "loop" && names[1].1.starts_with("device: "), "{names:?}");
    let end = |event: &Value| number(event, "ts") + number(event, "dur");
    for events in tracks.values() {
        for pair in events.windows(2) {
            // Times are in thousandths; sums of them are off by less.
            assert!(end(&pair[0]) <= number(&pair[1], "ts") + 1e-4, "{:#} overlaps {:#}", pair[0], pair[1]);
        }
    }
    let [loop_events, kernels]: [Vec<Value>; 2] = tracks.into_values().collect::<Vec<_>>().try_into().expect("two tracks");
    // Every step has all kernels, in the order of the plan.
    let of_step = |step: u64| kernels.iter().filter(move |kernel| kernel["args"]["step"] == step);
    let first = kernels[0]["args"]["step"].as_u64().unwrap();
    let plan: Vec<u64> = of_step(first).map(|kernel| kernel["args"]["kernel"].as_u64().unwrap()).collect();
    assert!(plan.len() > 5 && plan.is_sorted_by(|a, b| a < b), "{plan:?}");
    for step in first..first + steps {
        assert_eq!(of_step(step).map(|kernel| kernel["args"]["kernel"].as_u64().unwrap()).collect::<Vec<_>>(), plan, "step {step}");
    }
    assert_eq!(kernels.len(), plan.len() * steps as usize);
    [loop_events, kernels]
}

#[test]
fn a_trace_shows_the_loop_and_the_kernels_of_each_step_below_it() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    let profile = desk.run(&profile_args(&path, "cpu", &["--json", "--trace", "trace.json"])).expect(0).json().remove(0);
    let file: Value = serde_json::from_slice(&std::fs::read(desk.path().join("trace.json")).unwrap()).unwrap();
    let [loop_events, kernels] = check_trace(&file, 6);
    let end = |event: &Value| number(event, "ts") + number(event, "dur");
    // On this device the kernels of a step run while the loop's thread hands it over and waits for it.
    for kernel in &kernels {
        let is_busy =
            |event: &&Value| matches!(word(event, "name"), "encode" | "device") && event["args"]["step"] == kernel["args"]["step"];
        let busy: Vec<&Value> = loop_events.iter().filter(is_busy).collect();
        let (from, to) = (number(busy[0], "ts"), busy.iter().map(|event| end(event)).fold(0.0, f64::max));
        assert!(from <= number(kernel, "ts") && end(kernel) <= to + 1e-3, "{kernel:#} outside of {from} to {to}");
    }
    // All of the table is in the picture: six steps were timed. Each event is cut to whole nanoseconds.
    let millis: f64 = kernels.iter().map(|kernel| number(kernel, "dur") / 1e3).sum();
    let wanted = 6.0 * number(&profile["timed"], "kernels_ms_per_step");
    assert!((millis - wanted).abs() <= 2e-6 * kernels.len() as f64, "{millis} ms of {wanted} ms");
    let first = kernels.iter().find(|kernel| word(kernel, "name").contains("model.fc1")).expect("the first layer");
    assert!(word(&first["args"], "location").contains("mlp"), "{first:#}");
}

#[test]
fn a_run_is_profiled_by_its_recipe_and_left_alone() {
    let desk = Desk::new();
    train(&desk, "cpu", &["--set", "trainer.budget=3st"]);
    let before = reader(&desk).info().unwrap();
    let profile = desk.run(&["profile", "last", "--json", "--device", "cpu", "--steps", "2", "--set", "trainer.batch_size=16"]);
    let profile = profile.expect(0).json().remove(0);
    assert_eq!((word(&profile, "recipe"), &profile["batch_size"], &profile["steps"]), ("mnist-mlp", &16.into(), &2.into()));
    // The budget of three steps is the run's: its end has the only evaluation.
    let evaluation = profile["parts"].as_array().unwrap().iter().find(|part| part["part"] == "evaluation").unwrap();
    assert_eq!(number(&evaluation["spread"][0], "every_steps"), 3.0);
    let after = reader(&desk).info().unwrap();
    assert_eq!((before.id, before.at.step, before.state), (after.id, after.at.step, after.state));
    assert_eq!(std::fs::read_dir(desk.path().join("runs")).unwrap().count(), 1);
}

#[test]
fn a_wrong_profile_is_one_sentence() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        let ran = desk.run(args).expect(code);
        assert!(ran.out.is_empty() && ran.err.starts_with("error: "), "{ran:?}");
        for part in parts {
            assert!(ran.err.contains(part), "no `{part}` in {}", ran.err);
        }
        ran
    };
    let one_line = |ran: common::Ran| assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    one_line(refused(&["profile", "nowhere.ron"], 2, &["`nowhere.ron`", "no recipe", "no run"]));
    one_line(refused(&profile_args(&path, "cpu", &["--trace", "no/such/folder/trace.json"]), 2, &["no/such/folder", "make it"]));
    one_line(refused(&profile_args(&path, "cpu", &["--trace", "."]), 2, &["is a folder"]));
    one_line(refused(&profile_args(&path, "cpu", &["--set", "model.hiden=[3]"]), 2, &["did you mean `hidden`?"]));
    one_line(refused(&profile_args(&path, "quantum 9000", &[]), 1, &["quantum 9000"]));
    // The parser's own words, which show how to ask for help too.
    refused(&["profile", &path, "--steps", "0"], 2, &["--steps", "0"]);
    refused(&["profile", &path, "--steps", "many"], 2, &["--steps", "many"]);
    assert!(!desk.has_runs());
}
