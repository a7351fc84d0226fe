//! The library and the form for new runs, driven by the names that a screen reader says, over a host that answers with what the real program once
//! said (`gui_launch.jsonl`) and writes down what reached it.

mod gui_common;

use eframe::egui::{Key, Modifiers, Role, Theme};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::{Recorded, window};
use serde_json::Value;
use solstice_dashboard::data::{Answer, Host, Snapshot};
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, Pane};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a host was told: arguments and standard input.
type Told = (Vec<String>, String);

struct FakeHost {
    answers: BTreeMap<String, String>,
    asked: Mutex<Vec<Told>>,
    started: Mutex<Vec<Told>>,
    /// What every started command answers at once.
    ends_with: Option<Answer>,
    problem: &'static str,
}

impl FakeHost {
    fn new() -> FakeHost {
        let lines = include_str!("gui_launch.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let answers = lines.map(|line| (line["asked"].as_str().unwrap().to_owned(), line["answer"].as_str().unwrap().to_owned()));
        FakeHost { answers: answers.collect(), asked: Mutex::default(), started: Mutex::default(), ends_with: None, problem: "" }
    }

    fn started(&self) -> Vec<Told> {
        self.started.lock().unwrap().clone()
    }
}

impl Host for FakeHost {
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String> {
        self.asked.lock().unwrap().push((args.to_vec(), input.to_owned()));
        let key = match args[0].as_str() {
            "check" if input.contains("dropout: 2.0") => "check dropout",
            "check" if input.contains("model: mlp(hidden: [7])") => "check mlp",
            "check" => "check digits",
            "plugins" if !self.problem.is_empty() => {
                let line = serde_json::json!({
                    "name": "sulky", "version": "0.1.0", "path": "/x/libsulky.so", "kinds": [], "refused": self.problem, "quarantined": true,
                });
                return Ok(Answer { code: 0, out: line.to_string(), err: String::new() });
            }
            other => other,
        };
        let out = self.answers[key].clone();
        Ok(Answer { code: if key == "check dropout" { 2 } else { 0 }, out, err: String::new() })
    }

    fn start(&self, args: &[String], input: &str) -> Result<u64, String> {
        self.started.lock().unwrap().push((args.to_vec(), input.to_owned()));
        Ok(self.started.lock().unwrap().len() as u64)
    }

    fn ended(&self, _: u64) -> Option<Answer> {
        self.ends_with.clone()
    }
}

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

fn type_over(harness: &mut Harness<Dashboard>, label: &str, text: &str) {
    harness.get_by_label(label).focus();
    harness.run();
    harness.key_press_modifiers(Modifiers::COMMAND, Key::A);
    harness.get_by_label(label).type_text(text);
    harness.run();
}

fn choose(harness: &mut Harness<Dashboard>, menu: &str, choice: &str) {
    click(harness, menu);
    harness.get_by_role_and_label(Role::Button, choice).click();
    harness.run();
}

fn text(harness: &Harness<Dashboard>) -> String {
    harness.state().view().launch.text.clone()
}

fn over<'a>(host: &Arc<FakeHost>, source: Source) -> Harness<'a, Dashboard> {
    let mut harness = window(Harness::builder(), source.with_host(host.clone()), Theme::Dark);
    harness.state_mut().view_mut().show_pane(Pane::Library);
    harness.run();
    harness
}

/// A window whose form holds `experiments/digits.ron`.
fn digits<'a>(host: &Arc<FakeHost>) -> Harness<'a, Dashboard> {
    let mut harness = over(host, Source::of(Snapshot::default()));
    click(&mut harness, "Open recipe digits");
    harness
}

#[test]
fn a_recipe_opens_in_the_form_and_a_changed_number_reaches_the_text() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    assert_eq!(window.get_by_label("optimizer.lr").value().as_deref(), Some("0.002"));
    // As it stands in the file, comment included.
    assert!(text(&window).starts_with("// The built-in drawn digits"));
    assert!(text(&window).contains("adamw(lr: 2e-3, weight_decay: 0.01)"), "{}", text(&window));
    type_over(&mut window, "optimizer.lr", "0.0005");
    assert!(text(&window).contains("optimizer: adamw(lr: 0.0005),"), "{}", text(&window));
    assert!(text(&window).contains("trainer: (budget: \"3ep\", log_every: \"20st\")"), "{}", text(&window));
    // What was typed is nonsense for a moment: nothing changes.
    type_over(&mut window, "optimizer.lr", "fast");
    assert!(text(&window).contains("lr: 0.0005"));
    click(&mut window, "Back to the default: optimizer.lr");
    assert!(text(&window).contains("optimizer: adamw(),"), "{}", text(&window));
}

#[test]
fn another_model_brings_its_own_fields() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    window.get_by_label("model.channels");
    choose(&mut window, "model", "mlp");
    assert!(window.query_by_label("model.channels").is_none());
    assert_eq!(window.get_by_label("model.hidden").value().as_deref(), Some("128"));
    type_over(&mut window, "model.hidden", "64, 32");
    choose(&mut window, "model.activation", "gelu");
    click(&mut window, "model.outputs is set");
    assert!(text(&window).contains("model: mlp(hidden: [64, 32], activation: gelu, outputs: 0),"), "{}", text(&window));
}

#[test]
fn a_mistake_stands_at_its_field_and_nothing_is_launched() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    type_over(&mut window, "model.dropout", "2.0");
    window.get_by_label("must be at most 0.95, got 2.0");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    window.run();
    assert!(host.started().is_empty());
    type_over(&mut window, "model.dropout", "0.5");
    assert!(window.query_by_label("must be at most 0.95, got 2.0").is_none());
}

#[test]
fn launch_hands_the_text_to_train() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    click(&mut window, "Launch the run");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    window.run();
    let started = host.started();
    assert_eq!(started.len(), 2);
    assert_eq!(started[0], started[1]);
    let (args, input) = &started[0];
    assert_eq!(args, &["train", "-", "--runs-dir", "runs", "--device", "auto"]);
    assert_eq!(*input, text(&window));
}

#[test]
fn a_launch_that_makes_no_run_says_why() {
    let err = "some noise\nerror: the data set is not there\n".to_owned();
    let host = Arc::new(FakeHost { ends_with: Some(Answer { code: 5, out: String::new(), err }), ..FakeHost::new() });
    let mut window = digits(&host);
    window.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    window.run();
    window.state_mut().session_mut().launch.workshop().unwrap().look();
    window.run();
    window.get_by_label("the data set is not there");
}

#[test]
fn the_new_run_is_selected_with_its_curves() {
    let host = Arc::new(FakeHost::new());
    let recorded = Recorded::new(400);
    let mut window = over(&host, Source::still(&[recorded.folder.path().to_path_buf()]));
    click(&mut window, "Open recipe digits");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    window.run();
    let config = serde_json::json!({ "name": "digits", "components": {}, "trainer": {} });
    let new = solstice_store::NewRun { name: "digits".into(), config, ..solstice_store::NewRun::default() };
    let writer = solstice_store::RunWriter::create(recorded.folder.path(), &new).unwrap();
    writer.flush().unwrap();
    assert_ne!(window.state().view().selected.as_deref(), Some(writer.id()));
    // A still window reads again after each command.
    window.state_mut().view_mut().selected = recorded.path("wide").file_name().map(|name| name.to_string_lossy().into_owned());
    window.run();
    click(&mut window, "Evaluate");
    window.run();
    assert_eq!(window.state().view().selected.as_deref(), Some(writer.id()));
    window.get_by_label("Chart of train/loss");
}

#[test]
fn edited_text_fills_the_form() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    let edited = text(&window).replace("convnet(channels: [16, 32], batch_norm: true, dense: 64, dropout: 0.25)", "mlp(hidden: [7])");
    type_over(&mut window, "Recipe as text", &edited);
    assert_eq!(window.get_by_label("model.hidden").value().as_deref(), Some("7"));
    assert_eq!(text(&window), edited);
}

#[test]
fn lists_grow_shrink_and_change_their_order() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    let recipe_metrics = |window: &Harness<'_, Dashboard>| {
        let draft = window.state().session().launch.draft().unwrap();
        draft.lists["metrics"].iter().map(|part| part.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(recipe_metrics(&window), ["confusion"]);
    click(&mut window, "Open metric accuracy");
    assert_eq!(recipe_metrics(&window), ["confusion", "accuracy"]);
    assert!(text(&window).contains("metrics: [confusion(), accuracy()],"), "{}", text(&window));
    window.get_by_label("Up metrics.1").scroll_to_me();
    window.run();
    click(&mut window, "Up metrics.1");
    assert_eq!(recipe_metrics(&window), ["accuracy", "confusion"]);
    click(&mut window, "Remove metrics.0");
    assert_eq!(recipe_metrics(&window), ["confusion"]);
}

#[test]
fn a_fork_hands_on_only_what_was_changed() {
    let host = Arc::new(FakeHost::new());
    let recorded = Recorded::new(400);
    let mut window = over(&host, Source::of(recorded.snapshot()));
    window.state_mut().view_mut().show_pane(Pane::Runs);
    window.run();
    click(&mut window, "Run deep");
    window.key_press(Key::F);
    window.run();
    window.get_by_label("Fork of deep at step");
    type_over(&mut window, "optimizer.lr", "0.05");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    window.run();
    let folder = recorded.path("deep");
    let (id, runs_dir) = (folder.file_name().unwrap().to_str().unwrap(), recorded.folder.path().display().to_string());
    let wanted = ["fork", &format!("{id}@200"), "--runs-dir", &runs_dir, "--set", "optimizer.lr=0.05"];
    assert_eq!(host.started(), [(wanted.map(str::to_owned).to_vec(), String::new())]);
}

#[test]
fn a_fork_between_checkpoints_takes_the_one_before() {
    let host = Arc::new(FakeHost::new());
    let recorded = Recorded::new(400);
    let mut window = over(&host, Source::of(recorded.snapshot()));
    let fork = |window: &mut Harness<Dashboard>, step: u64| {
        let snapshot = recorded.snapshot();
        let run = snapshot.runs.iter().find(|run| run.title() == "wide").unwrap().clone();
        let (mut actions, mut requests) = (vec![], vec![]);
        let dashboard = window.state_mut();
        let mut view = std::mem::take(dashboard.view_mut());
        let mut session = std::mem::take(dashboard.session_mut());
        let mut panel = solstice_dashboard::gui::Panel {
            snapshot: Arc::new(snapshot),
            folders: &[],
            view: &mut view,
            session: &mut session,
            actions: &mut actions,
            requests: &mut requests,
            host: None,
        };
        solstice_dashboard::gui::launch::fork(&mut panel, &run, Some(step));
        *dashboard.view_mut() = view;
        *dashboard.session_mut() = session;
        window.run();
    };
    fork(&mut window, 200);
    window.get_by_label("A fork begins from a checkpoint: the nearest before step 200 is at step 122.");
    fork(&mut window, 100);
    window.get_by_label("wide cannot be forked: step 100 is before its first checkpoint, which is at step 122");
}

#[test]
fn a_grid_is_counted_and_launched_as_a_sweep() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    click(&mut window, "Many…");
    window.get_by_label("Add a field to vary");
    click(&mut window, "Add a field");
    type_over(&mut window, "Values of optimizer.lr", "1e-4..1e-1 in 4 log");
    window.get_by_label("4 combinations");
    click(&mut window, "Add a field");
    let field = window.state().view().launch.many.rows[1].0.clone();
    type_over(&mut window, &format!("Values of {field}"), "0.8, 0.9, 0.95");
    window.get_by_label("12 combinations");
    click(&mut window, "Launch 12 runs");
    let (args, input) = host.started().pop().unwrap();
    assert_eq!(args, ["sweep", "-", "--runs-dir", "runs", "--device", "auto", "--workers", "1"]);
    assert!(input.contains("\"optimizer.lr\": choice([\"1e-4\", \"0.001\", \"0.01\", \"0.1\"]),"), "{input}");
    // What the recipe expects is what the runs are compared by.
    assert!(input.contains("metric: \"test/accuracy\",\n    mode: max,"), "{input}");
}

#[test]
fn a_refused_plugin_says_why_and_can_be_tried_again() {
    let host = Arc::new(FakeHost { problem: "it took its process down", ..FakeHost::new() });
    let mut window = over(&host, Source::of(Snapshot::default()));
    window.get_by_label("sulky is not loaded");
    window.get_by_label("it took its process down");
    click(&mut window, "Try again");
    let wanted = ["plugins", "--try-again", "--json"].map(str::to_owned).to_vec();
    assert!(host.asked.lock().unwrap().iter().any(|(args, _)| *args == wanted));
}

#[test]
fn the_library_looks_as_before() {
    let problem =
        "it took its process down twice (segmentation fault in `forward`); it is not loaded until it is built anew or tried again";
    let host = Arc::new(FakeHost { problem, ..FakeHost::new() });
    let mut window = over(&host, Source::of(Snapshot::default()));
    click(&mut window, "Open recipe digits");
    gui_common::looks_as_before(&mut window, "library");
}

#[test]
fn without_a_host_the_panels_say_so() {
    let mut window = window(Harness::builder(), Source::of(Snapshot::default()), Theme::Dark);
    for pane in [Pane::Library, Pane::Launch] {
        window.state_mut().view_mut().show_pane(pane);
        window.run();
        window.get_by_label_contains("This window only watches");
        window.state_mut().view_mut().show_pane(Pane::Runs);
        window.state_mut().view_mut().show_pane(Pane::Curves);
    }
}

#[test]
fn every_widget_of_the_form_has_a_name() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    click(&mut window, "Many…");
    for role in [Role::TextInput, Role::ComboBox, Role::Slider, Role::CheckBox, Role::SpinButton] {
        for node in window.query_all_by_role(role) {
            let name = node.accesskit_node().label().or(node.accesskit_node().value());
            assert!(name.is_some_and(|name| !name.is_empty()), "{role:?} without a name");
        }
    }
}

/// `SOLSTICE_PICTURES=FOLDER cargo test -p solstice-dashboard --test gui_launch -- --ignored`
#[test]
fn it_looks_as_before() {
    let host = Arc::new(FakeHost::new());
    let mut window = digits(&host);
    gui_common::looks_as_before(&mut window, "launch");
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures() {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let host = Arc::new(FakeHost::new());
        let recorded = Recorded::new(400);
        let mut harness = window(Harness::builder(), Source::of(recorded.snapshot()).with_host(host.clone()), theme);
        harness.state_mut().view_mut().show_pane(Pane::Library);
        harness.run();
        click(&mut harness, "Open recipe digits");
        harness.render().unwrap().save(folder.join(format!("launch-{name}.png"))).unwrap();
        click(&mut harness, "Many…");
        click(&mut harness, "Add a field");
        type_over(&mut harness, "Values of optimizer.lr", "1e-4..1e-1 in 4 log");
        type_over(&mut harness, "model.dropout", "2.0");
        harness.render().unwrap().save(folder.join(format!("launch-{name}-many.png"))).unwrap();
        harness.state_mut().view_mut().show_pane(Pane::Runs);
        harness.run();
        click(&mut harness, "Run wide");
        harness.key_press(Key::F);
        harness.run();
        harness.render().unwrap().save(folder.join(format!("launch-{name}-fork.png"))).unwrap();
    }
}
