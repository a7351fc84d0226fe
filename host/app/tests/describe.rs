//! What the window asks of the program: everything that can be trained with its schemas, a recipe checked field by field, recipes from standard input.

mod common;

use common::{Desk, Ran, ran, root, table};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

const RECIPE: &str = r#"(
    name: "from-window",
    experiment: regression(),
    model: mlp(hidden: [8]),
    dataset: csv(path: "table.csv", target: "y"),
    optimizer: adam(lr: 1e-2),
    schedule: linear(end_factor: 0.5),
    metrics: [regression()],
    trainer: (budget: "101st", batch_size: 32),
)"#;

fn run_with(desk: &Desk, args: &[&str], input: &str) -> Ran {
    let mut child = desk.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ran(child.wait_with_output().unwrap())
}

fn check(desk: &Desk, recipe: &str, code: i32) -> Value {
    run_with(desk, &["check", "--settings-only", "--json", "-"], recipe).expect(code).json().remove(0)
}

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("table.csv", &table(200));
    desk
}

#[test]
fn everything_is_described_with_its_schema_the_trainer_too() {
    let desk = desk();
    desk.write("experiments/one.ron", &format!("// The first.\n// And more.\n{RECIPE}"));
    desk.write("experiments/two.ron", &RECIPE.replace("model:", "modle:").replace("name: \"from-window\",", ""));
    desk.write(
        "experiments/sweep.ron",
        "(recipe: \"one.ron\", metric: \"val/loss\", mode: min, search: grid, fields: {\"seed\": range(0, 2)})",
    );
    let lines = desk.run(&["describe", "--json", "--recipes", "experiments"]).expect(0).json();
    let of = |kind: &str, id: &str| lines.iter().find(|line| line["kind"] == kind && line["id"] == id).unwrap();
    let mlp = of("model", "mlp");
    assert_eq!(mlp["defaults"]["dropout"], json!(0.0));
    assert_eq!(mlp["schema"]["properties"]["dropout"]["maximum"], json!(0.95));
    let trainer = of("trainer", "trainer");
    assert_eq!((&trainer["defaults"]["batch_size"], &trainer["defaults"]["log_every"]), (&json!(64), &json!("10st")));
    let properties = trainer["schema"]["properties"].as_object().unwrap();
    assert_eq!(properties["loader_threads"]["maximum"], json!(256));
    assert!(properties["batch_size"]["description"].as_str().unwrap().starts_with("Samples in a batch"));
    assert_eq!(trainer["schema"]["required"], json!(["budget"]));
    // Every field has a default, so that a form can fill it in.
    assert!(properties.keys().all(|name| trainer["defaults"].get(name).is_some()));
    let recipes: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "recipe").collect();
    assert_eq!(recipes.len(), 2, "a sweep is no recipe: {recipes:?}");
    assert_eq!((&recipes[0]["name"], &recipes[0]["doc"]), (&json!("from-window"), &json!("The first. And more.")));
    assert_eq!(recipes[0]["problem"], Value::Null);
    assert_eq!(recipes[1]["name"], json!("two"));
    assert!(recipes[1]["problem"].as_str().unwrap().contains("did you mean `model`?"));
    assert!(desk.run(&["describe", "trainer"]).expect(0).out.contains("Samples in a batch"));
    let devices = desk.run(&["devices", "--json"]).expect(0).json();
    assert_eq!((&devices[0]["type"], &devices[0]["backend"]), (&json!("CPU"), &json!("native")));
}

#[test]
fn the_recipes_of_the_repository_are_right() {
    let desk = Desk::new();
    let mut command = desk.command(&["describe", "--json", "--recipes"]);
    let lines = ran(command.arg(root().join("experiments")).current_dir(root()).output().unwrap()).expect(0).json();
    let recipes: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "recipe").collect();
    assert!(recipes.len() >= 6 && recipes.iter().all(|recipe| recipe["problem"].is_null()), "{recipes:?}");
}

#[test]
fn a_good_recipe_comes_back_with_all_its_settings_and_its_learning_rate() {
    let desk = desk();
    let report = check(&desk, RECIPE, 0);
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
    let recipe = &report["recipe"];
    assert_eq!(recipe["name"], json!("from-window"));
    assert_eq!(
        recipe["components"]["model"],
        json!({ "id": "mlp", "config": {
        "hidden": [8], "activation": "relu", "dropout": 0.0, "outputs": null,
    } })
    );
    assert_eq!(recipe["trainer"]["accumulate"], json!(1));
    assert_eq!(recipe["metrics"][0]["id"], json!("regression"));
    // A line from 0.01 to half of it over 101 steps: 0.01 * (1 - 0.5 * step / 101).
    let curve = &report["schedule"];
    assert_eq!(curve["total_steps"], json!(101));
    let points = curve["points"].as_array().unwrap();
    assert_eq!(points.len(), 101);
    for point in points {
        let (step, rate) = (point[0].as_f64().unwrap(), point[1].as_f64().unwrap());
        assert!((rate - 0.01 * (1.0 - 0.5 * step / 101.0)).abs() < 1e-8, "{point}");
    }
    let epochs = RECIPE.replace("101st", "2ep");
    assert_eq!(check(&desk, &epochs, 0)["schedule"]["total_steps"], Value::Null);
    let args = ["check", "--settings-only", "--json", "--steps-per-epoch", "50", "-"];
    assert_eq!(run_with(&desk, &args, &epochs).expect(0).json()[0]["schedule"]["total_steps"], json!(100));
}

#[test]
fn mistakes_name_their_field_and_place() {
    let desk = desk();
    // Field, line and column are those of what was put in; the column is that of the value, or of the field's name.
    let cases: &[(&str, &str, &str, u64, &str)] = &[
        ("hidden: [8]", "hidden: [8], dropout: 1.5", "model.dropout", 4, "at most 0.95"),
        ("hidden: [8]", "hidden: [8], activation: rellu", "model.activation", 4, "did you mean `relu`?"),
        ("hidden: [8]", "hiden: [8]", "model", 4, "did you mean `hidden`?"),
        ("mlp(hidden: [8])", "mpl()", "model", 4, "did you mean `mlp`?"),
        ("lr: 1e-2", "lr: -1.0", "optimizer.lr", 6, "at least 0"),
        ("metrics: [regression()]", "metrics: [regression(), accuracy(top_k: 0)]", "metrics.1.top_k", 8, "at least 1"),
        ("101st", "5 parsecs", "trainer.budget", 9, "parsecs"),
        ("batch_size: 32", "batch_size: 0", "trainer.batch_size", 9, "at least 1"),
        ("batch_size: 32", "batch: 32", "", 9, "did you mean `batch_size`?"),
        ("optimizer:", "optimiser:", "", 6, "did you mean `optimizer`?"),
    ];
    for (from, to, field, line, part) in cases {
        let report = check(&desk, &RECIPE.replacen(from, to, 1), 2);
        let problem = &report["problems"][0];
        assert_eq!((problem["field"].as_str().unwrap(), problem["line"].as_u64()), (*field, Some(*line)), "{to}: {report}");
        assert!(problem["message"].as_str().unwrap().contains(part), "{to}: {report}");
        assert_eq!((&report["ok"], &report["recipe"]), (&json!(false), &Value::Null));
    }
    // All at once, and where: the unknown choice at its value, the rate at its name.
    let report = check(&desk, &RECIPE.replace("hidden: [8]", "activation: rellu").replace("1e-2", "-1.0"), 2);
    let places: Vec<(&str, u64)> =
        report["problems"].as_array().unwrap().iter().map(|p| (p["field"].as_str().unwrap(), p["column"].as_u64().unwrap())).collect();
    assert_eq!(places, [("model.activation", 28), ("optimizer.lr", 21)]);
    let report = check(&desk, "(experiment: ", 2);
    assert_eq!(report["problems"][0]["line"], json!(1));
}

#[test]
fn a_recipe_from_standard_input_makes_a_run_that_can_be_resumed() {
    let desk = desk();
    let short = RECIPE.replace("101st", "4st");
    run_with(&desk, &["train", "-", "--device", "cpu", "--set", "seed=3"], &short).expect(0);
    let reader = solstice_store::RunReader::open(&desk.run_folder()).unwrap();
    let info = reader.info().unwrap();
    assert_eq!((info.name.as_str(), info.seed, info.recipe_path, info.at.step), ("from-window", 3, None, 4));
    let folder = desk.run_folder();
    desk.run(&["resume", folder.to_str().unwrap(), "--set", "trainer.budget=6st"]).expect(0);
    assert_eq!(solstice_store::RunReader::open(&folder).unwrap().info().unwrap().at.step, 6);
    let wrong = run_with(&desk, &["train", "-", "--device", "cpu"], &short.replace("budget:", "budgets:")).expect(2);
    assert!(wrong.err.contains("standard input:9:") && wrong.err.contains("did you mean `budget`?"), "{}", wrong.err);
}

#[test]
fn a_sweep_from_standard_input_holds_its_recipe() {
    let desk = desk();
    let recipe = RECIPE.replace("101st", "2st");
    let sweep = format!(
        "(\n    recipe: {recipe},\n    metric: \"val/loss\",\n    mode: min,\n    search: grid,\n    fields: {{\n        \
         \"optimizer.lr\": choice([\"0.01\", \"0.1\"]),\n    }},\n)\n"
    );
    let swept = run_with(&desk, &["sweep", "-", "--device", "cpu", "--json"], &sweep).expect(0);
    assert_eq!(swept.json().len(), 2, "{}", swept.out);
    let folder = desk.run_folder();
    assert!(folder.file_name().unwrap().to_str().unwrap().starts_with("sweep-from-window-"), "{}", folder.display());
    assert_eq!(std::fs::read_to_string(folder.join("recipe.ron")).unwrap(), recipe);
    // The same text is the same sweep, and it is through.
    let again = run_with(&desk, &["sweep", "-", "--device", "cpu", "--json"], &sweep).expect(0);
    assert_eq!(again.json().len(), 2);
    let wrong = run_with(&desk, &["sweep", "-", "--device", "cpu"], &sweep.replace("0.1\"", "-1.0\"")).expect(2);
    assert!(wrong.err.contains("`lr` must be at least 0"), "{}", wrong.err);
}
