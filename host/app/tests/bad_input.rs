//! Every mistake a user can make is one clear sentence, a code that is not 0, and no half-made run.

mod common;

use common::{Desk, recipe, table};

const RECIPE: &str = r#"(
    experiment: regression(),
    model: mlp(hidden: [8]),
    dataset: csv(path: "table.csv", target: "y"),
    optimizer: adam(lr: 1e-2),
    metrics: [regression()],
    trainer: (budget: "5st", batch_size: 32),
)"#;

/// Trains `recipe` with `more` arguments and checks code and sentence; there must be no run.
fn refused(desk: &Desk, recipe: &str, more: &[&str], code: i32, parts: &[&str]) {
    desk.write("test.ron", recipe);
    let mut args = vec!["train", "test.ron"];
    args.extend(more);
    if !more.contains(&"--device") {
        args.extend(["--device", "cpu"]);
    }
    let run = desk.run(&args);
    for part in parts {
        assert!(run.err.contains(part), "`{part}` is not in: {}", run.err);
    }
    assert_eq!(run.code, code, "{}", run.err);
    assert!(!desk.has_runs(), "a run was left behind");
}

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("table.csv", &table(200));
    desk
}

#[test]
fn recipes_and_settings() {
    let desk = desk();
    let cases: &[(&str, &str, &[&str])] = &[
        ("optimizer:", "optimiser:", &["test.ron:5:", "`optimiser`", "did you mean `optimizer`?"]),
        ("hidden: [8]", "hiden: [8]", &["mlp", "`hiden`", "`hidden`"]),
        ("hidden: [8]", "hidden: \"wide\"", &["mlp", "hidden"]),
        ("hidden: [8]", "hidden: [8], dropout: 1.5", &["mlp", "`dropout`", "0.95", "1.5"]),
        ("mlp(hidden: [8])", "mpl(hidden: [8])", &["`mpl`", "did you mean `mlp`?"]),
        ("\"5st\"", "\"0ep\"", &["test.ron:7:", "not above zero"]),
        ("\"5st\"", "\"5 parsecs\"", &["test.ron:7:", "`parsecs`"]),
        ("batch_size: 32", "batch_size: 0", &["batch_size", "at least 1"]),
        ("batch_size: 32", "batch: 32", &["`batch`", "did you mean `batch_size`?"]),
        ("\"y\"", "\"z\"", &["csv", "`z`", "table.csv"]),
    ];
    for (from, to, parts) in cases {
        let code = if *to == "\"z\"" { 5 } else { 2 };
        refused(&desk, &RECIPE.replace(from, to), &[], code, parts);
    }
    refused(&desk, RECIPE, &["--set", "model.hiden=[3]"], 2, &["--set model.hiden", "did you mean `hidden`?"]);
    refused(&desk, RECIPE, &["--set", "model.dropout=2"], 2, &["--set model.dropout=2", "0.95"]);
    refused(&desk, RECIPE, &["--set", "trainer.bugdet=2ep"], 2, &["did you mean `budget`?"]);
    refused(&desk, "(experiment: ", &[], 2, &["test.ron:1:"]);
    let missing = desk.run(&["train", "nowhere.ron"]);
    assert!(missing.code == 2 && missing.err.contains("nowhere.ron"), "{}", missing.err);
}

#[test]
fn devices() {
    let desk = desk();
    refused(&desk, RECIPE, &["--device", "quantum 9000"], 1, &["quantum 9000"]);
    // A loader that finds no driver: what a machine without Vulkan looks like.
    desk.write("test.ron", RECIPE);
    let run = desk
        .command(&["train", "test.ron", "--device", "gpu"])
        .env("VK_ICD_FILENAMES", "/nonexistent.json")
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .output()
        .unwrap();
    let run = common::ran(run);
    assert_eq!(run.code, 1, "{}", run.err);
    assert!(run.err.contains("--device cpu"), "{}", run.err);
    assert!(!desk.has_runs());
}

#[test]
fn data() {
    let desk = desk();
    desk.write("ragged.csv", "a,b,y\n1,2,3\n4,5\n6,7,8\n");
    refused(&desk, RECIPE, &["--set", "dataset.path=ragged.csv"], 5, &["ragged.csv", "3"]);
    refused(&desk, RECIPE, &["--set", "dataset.path=nowhere.csv"], 5, &["nowhere.csv"]);
    desk.write("empty.txt", "");
    let text = std::fs::read_to_string(recipe("shakespeare-gpt.ron")).unwrap();
    refused(&desk, &text, &["--set", "dataset.path=empty.txt"], 5, &["empty.txt"]);
    let mnist = std::fs::read_to_string(recipe("mnist-mlp.ron")).unwrap();
    refused(&desk, &mnist, &["--offline"], 5, &["mnist", "--data-dir"]);
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        desk.write(&format!("mnist/{name}"), "not an IDX file");
    }
    refused(&desk, &mnist, &["--offline", "--data-dir", "."], 5, &["ubyte"]);
}

#[test]
fn shapes_inside_a_plugin_name_the_authors_line() {
    let desk = desk();
    // A language model on a table: the gpt plugin wants tokens.
    refused(&desk, &RECIPE.replace("mlp(hidden: [8])", "gpt()"), &[], 1, &["gpt", "plugins/gpt/src/lib.rs:"]);
}

#[test]
fn commands() {
    let desk = desk();
    let run = desk.run(&["describe", "mlpp"]);
    assert!(run.code == 2 && run.err.contains("did you mean `mlp`?"), "{}", run.err);
    let run = desk.run(&["eval", "nothing"]);
    assert!(run.code == 2 && run.err.contains("nothing"), "{}", run.err);
    let run = desk.run(&["plugin", "new", "Bad Name"]);
    assert!(run.code == 1 && run.err.contains("Bad Name"), "{}", run.err);
    let run = desk.run(&["describe", "mlp"]).expect(0);
    for part in ["hidden", "Widths of the hidden layers", "dropout", "0.95", "relu"] {
        assert!(run.out.contains(part), "{part}: {}", run.out);
    }
    let run = desk.run(&["plugins"]).expect(0);
    for part in ["mlp", "csv", "optimizers"] {
        assert!(run.out.contains(part), "{part}: {}", run.out);
    }
    let run = desk.run(&["devices"]).expect(0);
    assert!(run.out.contains("cpu"), "{}", run.out);
}
