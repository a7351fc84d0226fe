//! The window over runs as they should not be, and at sizes as people have them: a sentence or a state, never a crash or a freeze.
//!
//! `SOLSTICE_PICTURES=FOLDER cargo test -p solstice-dashboard --test gui_robust -- --ignored` draws the smallest and the largest window.

mod gui_common;

use eframe::egui::{self, Key, Modifiers, Role, Theme, vec2};
use egui_kittest::kittest::Queryable;
use egui_kittest::{Harness, HarnessBuilder};
use gui_common::{Recorded, window};
use serde_json::{Value, json};
use solstice_dashboard::data::{Snapshot, XAxis};
use solstice_dashboard::gui::control::{late_reason, live_fields};
use solstice_dashboard::gui::detail::Page;
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, Pane, run_name};
use solstice_store::{Event, NewRun, RunReader, RunState, RunWriter, set_label};
use std::path::{Path, PathBuf};

fn create(folder: &Path, name: &str) -> RunWriter {
    let config = json!({ "components": { "optimizer": { "id": "sgd", "config": { "lr": 0.1 } } }, "trainer": { "budget": "3ep" } });
    RunWriter::create(folder, &NewRun { name: name.to_string(), config, ..NewRun::default() }).unwrap()
}

fn kinds(path: &Path) -> Vec<String> {
    RunReader::open(path).unwrap().commands_since(0).unwrap().into_iter().map(|command| command.kind).collect()
}

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

/// Draws every panel, every page of the detail and every axis once.
fn walk(harness: &mut Harness<Dashboard>) {
    for pane in Pane::ALL {
        harness.state_mut().view_mut().show_pane(pane);
        harness.run();
    }
    harness.state_mut().view_mut().show_pane(Pane::Curves);
    for page in [Page::Config, Page::Compare, Page::Events, Page::Log, Page::Checkpoints] {
        harness.state_mut().view_mut().page = page;
        harness.run();
    }
    for log_y in [true, false] {
        harness.state_mut().view_mut().log_y = log_y;
        for axis in XAxis::ALL {
            harness.state_mut().view_mut().x_axis = axis;
            harness.run();
        }
    }
    harness.state_mut().view_mut().smoothing = 0.8;
    harness.run();
}

#[test]
fn every_panel_draws_values_that_are_not_numbers_huge_or_tiny() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "strange");
    writer.state(RunState::Running, None);
    let odd =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, 0.0, -0.0, 1e38, -1e38, 1e-45];
    for (index, value) in odd.into_iter().enumerate() {
        let step = index as u64 + 1;
        writer.scalars(step, &[("odd/all", value), ("train/loss", if index % 2 == 0 { value } else { 1.0 })]);
        writer.scalar(step, &format!("odd/only-{index}"), value);
    }
    // Two steps as far apart as steps can be.
    writer.scalar(1u64 << 53, "odd/far", 1.0);
    writer.event(Event { new: Some(json!(1e308)), old: Some(Value::Null), ..Event::new(3, "set", "me", "optimizer.lr: null -> 1e308") });
    writer.event(Event::new(u64::MAX >> 1, "nan", "worker", ""));
    writer.flush().unwrap();
    let mut window = window(Harness::builder(), Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    walk(&mut window);
    window.get_by_label("Chart of odd/all");
    let rect = window.get_by_label("Chart of odd/all").rect();
    window.hover_at(rect.center());
    window.run();
    window.state_mut().session_mut().zoom.x = Some((f64::MIN_POSITIVE, f64::MAX));
    window.run();
    window.state_mut().session_mut().zoom.x = Some((2.0, 2.0 + 1e-12));
    window.run();
}

#[test]
fn names_with_line_breaks_endless_names_and_names_from_right_to_left_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["two\nlines\tand a tab\u{0}", &"endless ".repeat(400), "שלום עולם \u{202e}right to left", ""];
    for (index, name) in names.into_iter().enumerate() {
        let writer = create(folder.path(), "named");
        writer.state(RunState::Done, None);
        writer.scalar(1, name, index as f64);
        writer.scalar(1, &format!("train/{name}"), 1.0);
        writer.event(Event::new(1, name, name, name));
        writer.log(name, name, name);
        writer.flush().unwrap();
        for key in ["name", "note", "tags"] {
            set_label(writer.path(), key, name).unwrap();
        }
    }
    let snapshot = Snapshot::read(&[folder.path().to_path_buf()]);
    for run in &snapshot.runs {
        let name = run_name(run);
        assert!(!name.chars().any(char::is_control) && name.chars().count() <= 161, "{name:?}");
    }
    // There are no letters of these scripts in the window's font: it draws boxes.
    let mut window = window(Harness::builder().allow_missing_glyphs(), Source::of(snapshot.clone()), Theme::Dark);
    for run in &snapshot.runs {
        window.state_mut().view_mut().selected = Some(run.id.clone());
        walk(&mut window);
    }
    let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, vec2(1280.0, 800.0));
    let state = window.get_all_by_label("done").next().expect("the state is on screen").rect();
    assert!(screen.contains_rect(state), "{state:?}");
}

#[test]
fn runs_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let bad = [("newer", "9999"), ("damaged", "SQLite"), ("empty", "empty"), ("without", "no `run.sqlite`")];
    let mut paths = Vec::new();
    for (name, _) in bad {
        let writer = create(folder.path(), name);
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        paths.push(writer.path().to_path_buf());
    }
    let database = |index: usize| paths[index].join("run.sqlite");
    let mut newer = std::fs::read(database(0)).unwrap();
    // `user_version` is the big-endian number at byte 60 of an SQLite file.
    newer[60..64].copy_from_slice(&9999u32.to_be_bytes());
    std::fs::write(database(0), newer).unwrap();
    std::fs::write(database(1), "no database, but a text that is long enough to look at").unwrap();
    std::fs::write(database(2), "").unwrap();
    std::fs::remove_file(database(3)).unwrap();
    let mut window = window(Harness::builder(), Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    for (path, (_, word)) in paths.iter().zip(bad) {
        window.state_mut().view_mut().selected = Some(path.file_name().unwrap().to_str().unwrap().to_owned());
        walk(&mut window);
        assert!(window.query_all_by_label_contains(word).next().is_some(), "{word}");
        window.get_by_label("It is tried again by itself");
        window.key_press(Key::Space);
        window.run();
    }
}

#[test]
fn a_run_that_is_deleted_while_it_is_selected_gives_way_to_another() {
    let recorded = Recorded::new(100);
    let mut window = window(Harness::builder(), Source::live(&[recorded.folder.path().to_path_buf()]), Theme::Dark);
    let until = |window: &mut Harness<Dashboard>, holds: &dyn Fn(&Harness<Dashboard>) -> bool| {
        while !holds(window) {
            std::thread::sleep(std::time::Duration::from_millis(10));
            window.step();
        }
    };
    until(&mut window, &|window| window.query_by_label("5 runs").is_some());
    window.get_by_label("Run deep").click();
    window.step();
    std::fs::remove_dir_all(recorded.path("deep")).unwrap();
    until(&mut window, &|window| window.query_by_label("4 runs").is_some());
    window.step();
    let selected = window.state().view().selected.clone().unwrap();
    assert_ne!(Some(selected.as_str()), recorded.path("deep").file_name().unwrap().to_str());
    window.get_by_label("Stop…");
}

#[test]
fn a_noisy_run_lets_the_window_settle() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "noisy");
    writer.state(RunState::Running, None);
    let mut window = window(Harness::builder(), Source::live(&[folder.path().to_path_buf()]), Theme::Dark);
    window.state_mut().view_mut().page = Page::Log;
    for second in 0..2 {
        for line in 0..10_000 {
            writer.log("info", "worker", format!("line {}", second * 10_000 + line));
            if line % 1000 == 0 {
                window.step();
            }
        }
    }
    writer.flush().unwrap();
    while window.query_by_label_contains("line 19999").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        window.step();
    }
    window.run();
}

#[test]
fn commands_and_names_reach_the_right_one_of_two_runs_with_the_same_folder_name() {
    let folder = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = ["one", "other"].map(|runs| folder.path().join(runs)).into();
    let writers: Vec<RunWriter> = folders.iter().map(|runs| create(runs, "twin")).collect();
    let paths: Vec<PathBuf> = folders.iter().map(|runs| runs.join("2026-01-01-0000-twin-abcd")).collect();
    for (writer, path) in writers.iter().zip(&paths) {
        writer.state(RunState::Running, None);
        writer.scalar(1, "train/loss", 1.0);
        writer.flush().unwrap();
        std::fs::rename(writer.path(), path).unwrap();
    }
    let mut window = window(Harness::builder(), Source::still(&folders), Theme::Dark);
    click(&mut window, "Run twin abcd (other)");
    click(&mut window, "Pause");
    assert_eq!((kinds(&paths[0]), kinds(&paths[1])), (vec![], vec!["pause".to_owned()]));
    click(&mut window, "Run twin abcd");
    click(&mut window, "Checkpoint");
    assert_eq!(kinds(&paths[0]), ["checkpoint"]);
    assert_eq!(kinds(&paths[1]), ["pause"]);
    // What the window remembers of one is not said of the other.
    let shown = |window: &Harness<Dashboard>| {
        ["2026-01-01-0000-twin-abcd", "other/2026-01-01-0000-twin-abcd"].map(|id| window.state().view().is_shown(id))
    };
    let before = shown(&window);
    click(&mut window, "Curves of twin abcd (other)");
    assert_eq!(shown(&window), [before[0], !before[1]]);
}

#[test]
fn of_five_thousand_metrics_only_the_charts_in_sight_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "wide");
    let names: Vec<String> = (0..5000).map(|index| format!("train/weight{index:04}")).collect();
    for step in 1..=40u64 {
        let rows: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), step as f64)).collect();
        writer.scalars(step, &rows);
    }
    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    let source = Source::still(&[folder.path().to_path_buf()]);
    let context = egui::Context::default();
    let mut window = Dashboard::over(&context, source);
    let mut shapes = 0;
    for frame in 0..4 {
        let screen_rect = Some(egui::Rect::from_min_size(egui::Pos2::ZERO, vec2(1280.0, 800.0)));
        let input = egui::RawInput { screen_rect, time: Some(f64::from(frame) / 60.0), ..Default::default() };
        shapes = context.run_ui(input, |ui| window.frame(ui)).shapes.len();
    }
    // At most ten charts fit, of some dozens of shapes each; all of them would be a hundred thousand.
    assert!(shapes < 4000, "{shapes} shapes");
}

fn sized(size: egui::Vec2) -> HarnessBuilder<Dashboard> {
    Harness::builder().with_size(size)
}

fn sized_window<'a>(recorded: &Recorded, size: egui::Vec2, theme: Theme) -> Harness<'a, Dashboard> {
    let source = Source::of(recorded.snapshot());
    let builder: HarnessBuilder<Dashboard> = sized(size).with_theme(theme).with_max_steps(12).with_step_dt(1.0 / 60.0);
    let mut harness = builder.build_eframe(move |creation| {
        let mut dashboard = Dashboard::new(creation, source);
        dashboard.view_mut().theme = theme.into();
        creation.egui_ctx.set_theme(theme);
        dashboard
    });
    harness.run();
    harness
}

#[test]
fn the_smallest_and_the_largest_window_show_every_panel() {
    let recorded = Recorded::new(400);
    for size in [vec2(640.0, 400.0), vec2(3840.0, 2160.0)] {
        let mut window = sized_window(&recorded, size, Theme::Dark);
        walk(&mut window);
        let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, size);
        let pause = window.get_by_label("Pause").rect();
        assert!(screen.contains_rect(pause), "{pause:?} at {size:?}");
    }
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures_of_the_smallest_and_the_largest_window() {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    let recorded = Recorded::new(4000);
    let writer = recorded.writers.last().unwrap();
    tell_live(writer);
    for (key, value) in [("optimizer.lr", 0.15), ("model.hidden", 4.0)] {
        solstice_store::send_command(writer.path(), "me", "set", &json!({ "key": key, "value": value })).unwrap();
    }
    let taken = writer.wait_for_commands(std::time::Duration::from_secs(20));
    writer.complete_command(taken[0].id, Ok("optimizer.lr: 0.3 -> 0.15, from step 2441 on"));
    writer.complete_command(taken[1].id, Err("`model.hidden` cannot be changed while the run goes on; what can: optimizer.lr"));
    writer.flush().unwrap();
    solstice_store::send_command(writer.path(), "me", "eval", &json!({})).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6));
    for (size, theme, name) in [
        (vec2(640.0, 400.0), Theme::Dark, "smallest"),
        (vec2(3840.0, 2160.0), Theme::Dark, "largest"),
        (vec2(1280.0, 800.0), Theme::Dark, "control-dark"),
        (vec2(1280.0, 800.0), Theme::Light, "control-light"),
    ] {
        let mut window = sized_window(&recorded, size, theme);
        window.render().unwrap().save(folder.join(format!("{name}.png"))).unwrap();
        if name.starts_with("control") {
            window.get_by_label("failed").scroll_to_me();
            window.run();
            window.render().unwrap().save(folder.join(format!("{name}-commands.png"))).unwrap();
            click(&mut window, "Run deep");
            window.render().unwrap().save(folder.join(format!("{name}-ended.png"))).unwrap();
        }
    }
}

// ---- control -----------------------------------------------------------------------------------------------------------------------------------

/// What a worker says at the start.
fn tell_live(writer: &RunWriter) {
    let settings = json!([
        { "key": "optimizer.lr", "value": 0.3, "minimum": 0.0, "maximum": null, "doc": "Learning rate." },
        { "key": "optimizer.momentum", "value": 0.9, "minimum": 0.0, "maximum": 1.0, "doc": "Part of the last step that goes on." },
        { "key": "trainer.groups.0.lr", "value": 1.0, "minimum": 0, "maximum": null, "doc": "Factor on the learning rate of this group" },
        { "key": "trainer.budget", "value": "4000st", "doc": "How long to train" },
        { "key": "trainer.keep_last", "value": 2, "minimum": 0, "doc": "Newest checkpoints that are kept" },
        { "key": "trainer.keep_every", "value": null, "doc": "Also keep one checkpoint in every span of this length" },
    ]);
    let new = Some(json!({ "settings": settings, "reloads": true }));
    writer.event(Event { new, ..Event::new(0, "live", "worker", "can be changed: optimizer.lr, ..") });
    writer.flush().unwrap();
}

fn sent(recorded: &Recorded) -> Vec<(String, Value)> {
    let commands = RunReader::open(&recorded.path("wide")).unwrap().commands_since(0).unwrap();
    commands.into_iter().map(|command| (command.kind, command.args)).collect()
}

#[test]
fn live_values_are_those_that_the_run_named_with_sliders_where_a_range_is_known() {
    let recorded = Recorded::new(400);
    tell_live(recorded.writers.last().unwrap());
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    let has = |window: &Harness<'_, Dashboard>, role, label: &str| window.query_by_role_and_label(role, label).is_some();
    for (key, slides) in [("optimizer.lr", true), ("optimizer.momentum", true), ("trainer.groups.0.lr", true), ("trainer.budget", false)] {
        assert!(has(&window, Role::TextInput, key), "{key}");
        assert_eq!(has(&window, Role::Slider, &format!("Slide {key}")), slides, "{key}");
    }
    // The recipe has it, but the run did not name it.
    assert!(!has(&window, Role::TextInput, "trainer.evaluate_every"));
    assert!(!has(&window, Role::Slider, "Slide trainer.keep_last"));

    window.get_by_role_and_label(Role::Slider, "Slide optimizer.lr").set_value_accesskit(0.03);
    window.run();
    assert_eq!(sent(&recorded), [("set".to_owned(), json!({ "key": "optimizer.lr", "value": 0.03 }))]);
}

#[test]
fn a_slider_sends_once_when_it_is_let_go() {
    let recorded = Recorded::new(400);
    tell_live(recorded.writers.last().unwrap());
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    let rect = window.get_by_role_and_label(Role::Slider, "Slide optimizer.momentum").rect();
    let at = |part: f32| egui::pos2(rect.left() + rect.width() * part, rect.center().y);
    window.hover_at(at(0.9));
    window.run();
    window.drag_at(at(0.9));
    window.run();
    for part in [0.8, 0.6, 0.5] {
        window.hover_at(at(part));
        window.run();
        assert!(sent(&recorded).is_empty(), "sent before it was let go");
    }
    window.drop_at(at(0.5));
    window.run();
    let sent = sent(&recorded);
    let value = sent[0].1["value"].as_f64().unwrap();
    assert!(sent.len() == 1 && (0.4..0.6).contains(&value), "{sent:?}");
}

#[test]
fn a_range_without_an_end_slides_over_a_hundredth_to_a_hundredfold() {
    let recorded = Recorded::new(100);
    let writer = recorded.writers.last().unwrap();
    tell_live(writer);
    let field = |key: &str| {
        let snapshot = Snapshot::read(&[recorded.folder.path().to_path_buf()]);
        let run = snapshot.run(&recorded.path("wide")).unwrap().clone();
        live_fields(&run).into_iter().find(|field| field.key == key).unwrap()
    };
    assert_eq!(field("optimizer.lr").slider(), Some((0.003, 30.0, true)));
    assert_eq!(field("optimizer.momentum").slider(), Some((0.0, 1.0, false)));
    assert_eq!(field("trainer.keep_last").slider(), None);
    // A change by a callback counts as well; the slider stays where it was.
    let old = Some(json!(0.3));
    writer.event(Event { old, new: Some(json!(0.15)), ..Event::new(40, "set", "plateau", "optimizer.lr: 0.3 -> 0.15") });
    writer.flush().unwrap();
    assert_eq!((field("optimizer.lr").value, field("optimizer.lr").slider()), (json!(0.15), Some((0.003, 30.0, true))));
    // The run goes on from an earlier step: it says anew what holds there, and makes the change again at its step.
    tell_live(writer);
    assert_eq!(field("optimizer.lr").value, json!(0.15));
    // Somebody asked for that very step: what was changed later is forgotten.
    writer.event(Event::new(0, "rewind", "worker", "step 0 was asked for"));
    tell_live(writer);
    assert_eq!(field("optimizer.lr").value, json!(0.3));
}

#[test]
fn reload_is_offered_where_it_works_and_says_why_where_not() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    click(&mut window, "Reload");
    assert!(sent(&recorded).is_empty(), "a run of an older version cannot");
    tell_live(recorded.writers.last().unwrap());
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    click(&mut window, "Reload");
    assert_eq!(sent(&recorded), [("reload".to_owned(), json!({}))]);
}

#[test]
fn a_command_that_nobody_takes_says_why_after_five_seconds() {
    let recorded = Recorded::new(100);
    let path = recorded.path("wide");
    solstice_store::send_command(&path, "me", "eval", &json!({})).unwrap();
    let snapshot = Snapshot::read(&[recorded.folder.path().to_path_buf()]);
    let run = snapshot.run(&path).unwrap();
    let command = &run.commands[0];
    assert_eq!(late_reason(run, command, command.time + 4.0), None);
    let told = late_reason(run, command, command.time + 20.0).unwrap();
    // Nobody has beaten the heart for 20 s at that time.
    assert!(told.contains("waits for 20 s") && told.contains("has not written"), "{told}");
    let mut window = recorded.window();
    click(&mut window, "Run wide");
    window.get_by_label("sent");
}

#[test]
fn a_run_that_is_over_can_be_resumed_and_forked() {
    let recorded = Recorded::new(100);
    let mut window = recorded.window();
    click(&mut window, "Run deep");
    // Without the program there is nothing to start; the command line is there.
    window.get_by_role_and_label(Role::Button, "Resume");
    click(&mut window, "Fork…");
    window.get_by_label("Copy resume command");
    window.key_press_modifiers(Modifiers::NONE, Key::Space);
    window.run();
    assert!(RunReader::open(&recorded.path("deep")).unwrap().commands_since(0).unwrap().is_empty());
}
