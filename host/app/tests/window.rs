//! The window from end to end: a real run is launched through the form, paused, given another learning rate, forked and stopped, all by the names
//! that a screen reader says; what came of it is read from the store.
#![cfg(feature = "window")]

mod common;

use common::Desk;
use eframe::egui::{Key, Modifiers, Role, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use solstice_dashboard::data::{LocalHost, Run};
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, Pane, state};
use solstice_store::{CommandState, RunReader, RunState};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A build machine under load may take long to start a process; a test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(120);

const RECIPE: &str = r#"(
    name: "tiny",
    experiment: classification(),
    model: mlp(hidden: [16]),
    dataset: drawn_digits(train: 640, test: 64),
    optimizer: sgd(lr: 0.05),
    trainer: (budget: "1e6st", batch_size: 32, evaluate_every: "1e6st", log_every: "5st", checkpoint_every: "1e6st"),
)
"#;

/// Which of two fields of one name.
#[derive(Clone, Copy)]
enum Side {
    /// In the middle of the window.
    Form,
    /// On its right.
    Control,
}

struct Window<'a> {
    harness: Harness<'a, Dashboard>,
}

impl Window<'_> {
    /// Draws frames until `found` finds something.
    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&Harness<Dashboard>) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            self.harness.step();
            if let Some(found) = found(&self.harness) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn click(&mut self, label: &str) {
        self.wait(&format!("`{label}`"), |harness| harness.query_by_label(label).map(|_| ()));
        self.harness.get_by_label(label).click();
        self.harness.run_steps(3);
    }

    /// Replaces what stands in the field of this name; of the form's and the live value's, the leftmost or the rightmost.
    fn type_over(&mut self, label: &str, side: Side, text: &str) {
        self.wait(&format!("`{label}`"), |harness| harness.query_all_by_role_and_label(Role::TextInput, label).next().map(|_| ()));
        let field = |harness: &Harness<Dashboard>| {
            let fields = harness.query_all_by_role_and_label(Role::TextInput, label).map(|node| node.rect().left());
            let lefts: Vec<f32> = fields.collect();
            let wanted = match side {
                Side::Form => lefts.iter().copied().fold(f32::INFINITY, f32::min),
                Side::Control => lefts.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            };
            lefts.iter().position(|left| *left == wanted).expect("it was there")
        };
        let index = field(&self.harness);
        self.harness.query_all_by_role_and_label(Role::TextInput, label).nth(index).expect("it was there").focus();
        self.harness.run_steps(2);
        self.harness.key_press_modifiers(Modifiers::COMMAND, Key::A);
        self.harness.query_all_by_role_and_label(Role::TextInput, label).nth(index).expect("it was there").type_text(text);
        self.harness.run_steps(2);
    }

    fn key(&mut self, key: Key) {
        self.harness.key_press(key);
        self.harness.run_steps(3);
    }

    /// Waits until the selected run is as wanted.
    fn wait_for_run(&mut self, what: &str, is_so: impl Fn(&Run) -> bool) -> Arc<Run> {
        self.wait(what, |harness| {
            let dashboard = harness.state();
            let id = dashboard.view().selected.as_ref()?;
            dashboard.snapshot().runs.iter().find(|run| run.id == *id && is_so(run)).cloned()
        })
    }
}

#[test]
fn a_run_is_launched_paused_changed_forked_and_stopped() {
    let desk = Desk::new();
    desk.write("experiments/tiny.ron", RECIPE);
    // The program as the window starts it, with caches and settings in the test's folder.
    let program = desk.write(
        "solstice",
        &format!(
            "#!/bin/sh\nexport SOLSTICE_CONFIG_DIR='{0}/config' SOLSTICE_CACHE_DIR='{0}/cache'\nexec '{1}' \"$@\"\n",
            desk.path().display(),
            env!("CARGO_BIN_EXE_solstice")
        ),
    );
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let runs = desk.path().join("runs");
    let host = LocalHost::new(program, desk.path().into());
    let source = Source::live(std::slice::from_ref(&runs)).with_host(Arc::new(host));
    let builder = Harness::builder().with_size(vec2(1280.0, 800.0)).with_theme(Theme::Dark);
    let mut window = Window { harness: builder.build_eframe(move |creation| Dashboard::new(creation, source)) };

    // Launched through the form, with one number changed in it.
    window.harness.state_mut().view_mut().show_pane(Pane::Library);
    window.click("Open recipe tiny");
    window.type_over("optimizer.lr", Side::Form, "0.02");
    window.click("Launch the run");
    let first = window.wait_for_run("the run's first numbers", |run| run.series.get("train/loss").is_some_and(|loss| loss.len() > 2));
    assert_eq!(first.info.as_ref().unwrap().config["components"]["optimizer"]["config"]["lr"], 0.02);

    // Paused: it stands still.
    window.click("Pause");
    let paused = window.wait_for_run("the pause", |run| state(run) == RunState::Paused);
    let step = RunReader::open(&paused.path).unwrap().info().unwrap().at.step;
    window.harness.run_steps(5);

    // Another learning rate while it waits.
    window.type_over("optimizer.lr", Side::Control, "0.005");
    window.key(Key::Enter);
    window.wait_for_run("the new learning rate", |run| {
        run.commands.iter().any(|command| command.kind == "set" && command.state == CommandState::Done)
    });
    assert_eq!(RunReader::open(&paused.path).unwrap().info().unwrap().at.step, step, "a paused run does no step");

    // Saved, then forked from there.
    window.click("Checkpoint");
    window.wait_for_run("the checkpoint", |run| !run.checkpoints.is_empty());
    window.key(Key::F);
    window.type_over("trainer.budget", Side::Form, &format!("{}st", step + 20));
    window.click("Launch the fork");
    let fork = window.wait_for_run("the fork's end", |run| run.id != first.id && state(run) == RunState::Done);

    // The first one goes on and is stopped.
    window.harness.state_mut().view_mut().show_pane(Pane::Runs);
    window.harness.state_mut().view_mut().selected = Some(first.id.clone());
    window.click("Resume");
    window.wait_for_run("more steps", |run| run.info.as_ref().is_some_and(|info| info.at.step > step));
    window.click("Stop…");
    window.click("Stop now");
    window.wait_for_run("the stop", |run| state(run) == RunState::Stopped);

    // What the store says.
    let reader = RunReader::open(&first.path).unwrap();
    let kinds: Vec<String> = reader.commands_since(0).unwrap().into_iter().map(|command| command.kind).collect();
    assert_eq!(kinds, ["pause", "set", "checkpoint", "resume", "stop"]);
    let set = reader.events_since(0).unwrap().into_iter().find(|event| event.kind == "set").expect("a live change is an event");
    assert_eq!(set.step, step);
    let lr = reader.series("train/lr").unwrap();
    let at = |step: u64| lr.iter().rfind(|row| row.at.step <= step).map(|row| row.value);
    assert!(at(step).is_some_and(|value| (value - 0.02).abs() < 1e-6));
    assert!(lr.last().is_some_and(|row| (row.value - 0.005).abs() < 1e-6), "{:?}", lr.last());
    let info = RunReader::open(&fork.path).unwrap().info().unwrap();
    let parent = info.parent.expect("a fork knows its parent");
    assert_eq!((parent.id.as_str(), parent.step), (first.id.as_str(), step));
    assert_eq!(info.at.step, step + 20);
}
