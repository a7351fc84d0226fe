//! Every control of the window, driven by the name that a screen reader says, over recorded runs and without a display.

mod gui_common;

use eframe::egui::accesskit::Toggled;
use eframe::egui::{self, Key, Modifiers, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::{Recorded, window};
use serde_json::json;
use solstice_dashboard::data::{Snapshot, XAxis};
use solstice_dashboard::gui::detail::Page;
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, main_metric};
use solstice_store::{Command, RunReader};

fn commands(recorded: &Recorded, name: &str) -> Vec<Command> {
    RunReader::open(&recorded.path(name)).unwrap().commands_since(0).unwrap()
}

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

#[test]
fn pause_and_the_other_buttons_send_command_rows() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    for button in ["Pause", "Step", "Evaluate", "Checkpoint"] {
        click(&mut window, button);
    }
    let sent = commands(&recorded, "wide");
    let kinds: Vec<&str> = sent.iter().map(|command| command.kind.as_str()).collect();
    assert_eq!(kinds, ["pause", "step", "eval", "checkpoint"]);
    assert_eq!(sent[1].args, json!({ "steps": 1 }));
    // Only the selected run was meant.
    assert!(commands(&recorded, "narrow").is_empty());
}

#[test]
fn a_paused_run_is_resumed() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run narrow");
    assert!(window.query_by_label("Pause").is_none());
    click(&mut window, "Resume");
    assert_eq!(commands(&recorded, "narrow")[0].kind, "resume");
}

#[test]
fn stop_asks_once() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    click(&mut window, "Stop…");
    assert!(commands(&recorded, "wide").is_empty());
    click(&mut window, "Keep going");
    assert!(window.query_by_label("Stop now").is_none());
    click(&mut window, "Stop…");
    click(&mut window, "Stop now");
    assert_eq!(commands(&recorded, "wide")[0].kind, "stop");
}

#[test]
fn a_live_value_is_typed_and_sent_by_enter() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    let field = |window: &Harness<'_, Dashboard>| window.get_by_role_and_label(egui::Role::TextInput, "optimizer.lr").rect();
    assert!(field(&window).width() > 60.0);
    let type_in = |window: &mut Harness<Dashboard>, text: &str| {
        window.get_by_role_and_label(egui::Role::TextInput, "optimizer.lr").focus();
        window.run();
        window.key_press_modifiers(Modifiers::COMMAND, Key::A);
        window.get_by_role_and_label(egui::Role::TextInput, "optimizer.lr").type_text(text);
        window.run();
    };
    type_in(&mut window, "fast");
    window.key_press(Key::Enter);
    window.run();
    assert!(commands(&recorded, "wide").is_empty(), "a word is no learning rate");
    type_in(&mut window, "2.5e-3");
    window.key_press(Key::Enter);
    window.run();
    let sent = commands(&recorded, "wide");
    assert_eq!((sent[0].kind.as_str(), &sent[0].args), ("set", &json!({ "key": "optimizer.lr", "value": 0.0025 })));
}

#[test]
fn what_became_of_a_command_is_shown() {
    let recorded = Recorded::new(400);
    let writer = recorded.writers.last().unwrap();
    for key in ["optimizer.lr", "model.hidden"] {
        solstice_store::send_command(writer.path(), "me", "set", &json!({ "key": key, "value": 0.5 })).unwrap();
    }
    let taken = writer.wait_for_commands(std::time::Duration::from_secs(20));
    writer.complete_command(taken[0].id, Ok("from 0.3"));
    writer.complete_command(taken[1].id, Err("it cannot be changed while the run goes on"));
    writer.flush().unwrap();
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    window.get_by_label("set optimizer.lr to 0.5");
    window.get_by_label("done");
    window.get_by_label("failed");
    window.get_by_label("it cannot be changed while the run goes on");
    // The config still says 0.3: the field shows what was set.
    assert_eq!(window.get_by_role_and_label(egui::Role::TextInput, "optimizer.lr").value().as_deref(), Some("0.5"));
}

#[test]
fn a_run_that_is_over_offers_resume_on_the_command_line() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run deep");
    assert!(window.query_by_label("Pause").is_none());
    window.get_by_label("Copy resume command");
    window.key_press(Key::Space);
    window.run();
    assert!(commands(&recorded, "deep").is_empty());
}

#[test]
fn the_filter_hides_runs() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    let type_filter = |window: &mut Harness<Dashboard>, text: &str| {
        window.state_mut().view_mut().filter.clear();
        window.get_by_label("Filter runs").focus();
        window.run();
        window.get_by_label("Filter runs").type_text(text);
        window.run();
    };
    type_filter(&mut window, "nar");
    assert!(window.query_by_label("Run wide").is_none());
    window.get_by_label("Run narrow");
    window.get_by_label("1 of 5 runs");
    type_filter(&mut window, "optimizer.lr=0.8");
    window.get_by_label("Run fast");
    assert!(window.query_by_label("Run narrow").is_none());
    type_filter(&mut window, "running");
    window.get_by_label("Run wide");
    window.get_by_label("1 of 5 runs");
    type_filter(&mut window, "no such run");
    window.get_by_label("No run has this in its name, id, state or settings");
    click(&mut window, "Clear");
    window.get_by_label("5 runs");
}

#[test]
fn the_dot_hides_curves_and_keys_do_too() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    let toggled =
        |window: &Harness<'_, Dashboard>, name: &str| window.get_by_label(&format!("Curves of {name}")).accesskit_node().toggled();
    assert_eq!(toggled(&window, "fast"), Some(Toggled::True));
    click(&mut window, "Curves of fast");
    assert_eq!(toggled(&window, "fast"), Some(Toggled::False));
    click(&mut window, "Run deep");
    window.key_press(Key::O);
    window.run();
    assert_eq!((toggled(&window, "deep"), toggled(&window, "wide")), (Some(Toggled::True), Some(Toggled::False)));
    window.key_press(Key::V);
    window.run();
    window.get_by_label("No run is shown: click the dot of one on the left");
    window.key_press(Key::A);
    window.run();
    window.get_by_label("Chart of train/loss");
    assert_eq!(toggled(&window, "fast"), Some(Toggled::True));
}

#[test]
fn log_y_toggles_by_box_key_and_palette() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    let is_log = |window: &Harness<'_, Dashboard>| window.get_by_label("Log y").accesskit_node().toggled() == Some(Toggled::True);
    assert!(!is_log(&window));
    click(&mut window, "Log y");
    assert!(is_log(&window));
    window.get_by_label("Run wide").focus();
    window.key_press(Key::Y);
    window.run();
    assert!(!is_log(&window));
    window.key_press_modifiers(Modifiers::COMMAND, Key::K);
    window.run();
    window.get_by_label("Command to run").type_text("logar");
    window.run();
    window.key_press(Key::Enter);
    window.run();
    assert!(is_log(&window));
    assert!(window.query_by_label("Command to run").is_none());
}

#[test]
fn a_box_zooms_all_charts_and_a_double_click_resets() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    let rect = window.get_by_label("Chart of train/loss").rect();
    let (from, to) = (rect.center() - vec2(50.0, 2.0), rect.center() + vec2(40.0, 3.0));
    window.hover_at(from);
    window.run();
    window.drag_at(from);
    window.run();
    window.hover_at(to);
    window.run();
    window.drop_at(to);
    window.run();
    let (low, high) = window.state().session().zoom.x.expect("a range");
    // 90 of about 250 pixels of 400 steps.
    assert!((100.0..180.0).contains(&(high - low)), "{low} to {high}");
    assert!(window.state().session().zoom.y.is_empty(), "a flat box leaves y alone");
    for _ in 0..2 {
        window.drag_at(rect.center());
        window.drop_at(rect.center());
        window.step();
    }
    window.run();
    assert_eq!(window.state().session().zoom.x, None);
    window.state_mut().session_mut().zoom.x = Some((10.0, 20.0));
    window.run();
    click(&mut window, "Whole range");
    assert_eq!(window.state().session().zoom.x, None);
}

#[test]
fn the_cursor_is_shared_by_all_charts() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    window.hover_at(window.get_by_label("Chart of train/loss").rect().center());
    window.run();
    let (step, chart) = window.state().session().zoom.cursor.clone().expect("a cursor");
    assert_eq!(chart, "train/loss");
    assert!((100.0..300.0).contains(&step), "{step}");
}

#[test]
fn x_axis_smoothing_and_groups() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "x axis");
    click(&mut window, "Epoch");
    assert_eq!(window.state().view().x_axis, XAxis::Epoch);
    window.get_by_role_and_label(egui::Role::Slider, "Smoothing").set_value_accesskit(0.5);
    window.run();
    assert_eq!(window.state().view().smoothing, 0.5);
    window.get_by_label("Chart of train/lr");
    click(&mut window, "Group train");
    assert!(window.query_by_label("Chart of train/lr").is_none());
    window.get_by_label("Chart of test/loss");
}

#[test]
fn detail_shows_config_difference_events_log_and_the_fork_command() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run deep");
    window.key_press(Key::B);
    click(&mut window, "Run wide");
    assert_eq!(window.state().view().page, Page::Compare);
    window.get_by_label("0.3");
    window.get_by_label("0.1");
    // What is the same in both is no difference.
    assert!(window.query_by_label("dataset.noise").is_none());
    click(&mut window, "Events");
    window.get_by_label("optimizer.lr from 0.4 to 0.3");
    click(&mut window, "Log");
    window.get_by_label_contains("the last batch of an epoch is short");
    click(&mut window, "Checkpoints");
    let folder = recorded.path("wide");
    let (id, runs_dir) = (folder.file_name().unwrap().to_str().unwrap().to_owned(), recorded.folder.path().display().to_string());
    window.get_by_label("Copy the command that forks at step 122").click();
    let mut copied = None;
    for _ in 0..4 {
        window.step();
        let commands = &window.output().platform_output.commands;
        copied = copied.or(commands.iter().find_map(|command| match command {
            egui::OutputCommand::CopyText(text) => Some(text.clone()),
            _ => None,
        }));
    }
    assert_eq!(copied.unwrap(), format!("solstice fork {id}@122 --runs-dir {runs_dir} --set optimizer.lr=0.3"));
    click(&mut window, "Config");
    window.get_by_label("optimizer  sgd");
}

#[test]
fn an_empty_folder_says_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut window = window(Harness::builder(), Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    window.get_by_label("No runs yet");
    window.get_by_label(&format!("solstice train experiments/digits.ron --runs-dir {}", folder.path().display()));
    click(&mut window, "Copy command");
}

#[test]
fn the_cheat_sheet_opens_and_closes() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    click(&mut window, "Help");
    click(&mut window, "Keys ?");
    window.get_by_label("Close");
    click(&mut window, "Close");
    assert!(window.query_by_label("Close").is_none());
}

#[test]
fn an_idle_window_does_not_paint() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    window.run();
    let root = egui::ViewportId::ROOT;
    let delay = window.output().viewport_output[&root].repaint_delay;
    assert!(delay > std::time::Duration::from_secs(3600), "{delay:?}");
}

/// The window's storage, in memory.
#[derive(Default)]
struct Kept(std::collections::HashMap<String, String>);

impl eframe::Storage for Kept {
    fn get_string(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn set_string(&mut self, key: &str, value: String) {
        self.0.insert(key.into(), value);
    }

    fn remove_string(&mut self, key: &str) {
        self.0.remove(key);
    }

    fn flush(&mut self) {}
}

#[test]
fn what_is_kept_survives_its_storage() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    window.state_mut().view_mut().x_axis = XAxis::Samples;
    click(&mut window, "Curves of fast");
    let mut kept = Kept::default();
    eframe::App::save(window.state_mut(), &mut kept);
    let mut again = Harness::builder().with_size(vec2(1280.0, 800.0)).with_max_steps(12).build_eframe(|creation| {
        creation.storage = Some(&kept);
        Dashboard::new(creation, Source::of(recorded.snapshot()))
    });
    again.run();
    let (before, after) = (window.state().view(), again.state().view());
    assert_eq!(
        (after.x_axis, &after.hidden, &after.colors, &after.selected),
        (XAxis::Samples, &before.hidden, &before.colors, &before.selected)
    );
    // The panels are there.
    again.get_by_label("Chart of train/loss");
    again.get_by_label("Pause");
}

#[test]
fn the_main_metric_is_a_held_out_one() {
    let recorded = Recorded::new(200);
    let snapshot: Snapshot = recorded.snapshot();
    let (name, value) = main_metric(&snapshot.runs[0]).unwrap();
    assert_eq!(name, "test/accuracy");
    assert!(value > 0.0);
}

#[test]
fn a_live_window_follows_its_folder() {
    let recorded = Recorded::new(200);
    let mut window = window(Harness::builder(), Source::live(&[recorded.folder.path().to_path_buf()]), Theme::Dark);
    // The library reads on its own thread; a step takes what it has published.
    let until = |window: &mut Harness<Dashboard>, holds: &dyn Fn(&Harness<Dashboard>) -> bool| {
        while !holds(window) {
            std::thread::sleep(std::time::Duration::from_millis(10));
            window.step();
        }
    };
    until(&mut window, &|window| window.query_by_label("5 runs").is_some());
    window.get_by_label("Run wide").click();
    window.step();
    window.step();
    window.get_by_label("Pause").click();
    until(&mut window, &|_| !commands(&recorded, "wide").is_empty());
    assert_eq!(commands(&recorded, "wide")[0].kind, "pause");
    recorded.writers.last().unwrap().state(solstice_store::RunState::Paused, None);
    until(&mut window, &|window| window.query_by_label("Resume").is_some());
}

#[test]
fn of_many_old_runs_the_newest_have_curves() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..12 {
        let writer =
            solstice_store::RunWriter::create(folder.path(), &solstice_store::NewRun { name: "many".into(), ..Default::default() })
                .unwrap();
        writer.scalar(1, "train/loss", 1.0);
        writer.state(solstice_store::RunState::Done, None);
        solstice_store::set_label(writer.path(), "name", &format!("number {index}")).unwrap();
    }
    let window = window(Harness::builder(), Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    let view = window.state().view();
    let runs = solstice_dashboard::data::Snapshot::read(&[folder.path().to_path_buf()]).runs;
    for run in runs {
        let number: usize = run.title().strip_prefix("number ").unwrap().parse().unwrap();
        assert_eq!(view.is_shown(&run.id), number >= 4, "{}", run.title());
        assert_eq!(view.color_slot(&run.id), number, "neighbours have different colours");
    }
}

#[test]
fn theme_and_scale_change_by_key() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    window.key_press(Key::T);
    window.run();
    assert_eq!(window.state().view().theme, egui::ThemePreference::Light);
    window.get_by_label("Dark");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Plus);
    window.run();
    assert!(window.state().view().scale > 1.05, "{}", window.state().view().scale);
}

#[test]
fn the_list_begins_with_the_newest_and_the_keys_go_through_it() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    let top = |window: &Harness<'_, Dashboard>, name: &str| window.get_by_label(&format!("Run {name}")).rect().top();
    let tops: Vec<f32> = ["wide", "narrow", "deep", "fast", "plain"].into_iter().map(|name| top(&window, name)).collect();
    assert!(tops.is_sorted(), "{tops:?}");
    let selected = |window: &Harness<'_, Dashboard>| window.state().view().selected.clone();
    let id = |name: &str| Some(recorded.path(name).file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(selected(&window), id("wide"));
    window.key_press(Key::ArrowDown);
    window.run();
    assert_eq!(selected(&window), id("narrow"));
    window.key_press(Key::ArrowUp);
    window.run();
    assert_eq!(selected(&window), id("wide"));
}
