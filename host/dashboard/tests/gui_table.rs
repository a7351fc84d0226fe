//! The runs table, labels, deletion with undo and the comparison, by the names that a screen reader says, over recorded runs.

mod gui_common;

use eframe::egui::{Key, Modifiers, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::window;
use serde_json::json;
use solstice_dashboard::data::{Run, RunData, Snapshot};
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::table::TableView;
use solstice_dashboard::gui::table::columns::Column;
use solstice_dashboard::gui::{Dashboard, Pane};
use solstice_store::{NewRun, Parent, RunReader, RunState, RunWriter, set_label};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Runs whose processes are gone, but for those that are kept alive.
struct Runs {
    folder: TempDir,
    paths: BTreeMap<String, PathBuf>,
    alive: Vec<RunWriter>,
}

impl Runs {
    /// Four runs, oldest first: `one` and `two` with a learning rate of 0.1 and last losses of 0.2 and 0.4, `three` with 0.5 and 1.0, all done,
    /// and `four`, which failed before its first value.
    fn four() -> Runs {
        let mut runs = Runs { folder: tempfile::tempdir().unwrap(), paths: BTreeMap::new(), alive: Vec::new() };
        runs.add("one", 0.1, &[0.9, 0.1, 0.2], RunState::Done, NewRun::default());
        runs.add("two", 0.1, &[1.5, 0.4], RunState::Done, NewRun::default());
        runs.add("three", 0.5, &[2.0, 1.0], RunState::Done, NewRun::default());
        runs.add("four", 9.0, &[], RunState::Failed, NewRun::default());
        runs
    }

    fn add(&mut self, name: &str, lr: f64, losses: &[f64], state: RunState, more: NewRun) {
        let config = json!({
            "components": { "optimizer": { "id": "sgd", "config": { "lr": lr, "momentum": 0.9 } } },
            "trainer": { "budget": "100st" },
        });
        let writer =
            RunWriter::create(self.folder.path(), &NewRun { name: "digits".into(), config, steps_total: Some(100), ..more }).unwrap();
        writer.state(RunState::Running, None);
        for (step, loss) in losses.iter().enumerate() {
            writer.scalars(step as u64 + 1, &[("train/loss", *loss), ("test/accuracy", 1.0 - loss / 4.0), ("train/lr", lr)]);
        }
        match state {
            RunState::Running => {}
            RunState::Failed => writer.state(state, Some("the data ended early")),
            state => writer.state(state, None),
        }
        writer.flush().unwrap();
        set_label(writer.path(), "name", name).unwrap();
        self.paths.insert(name.into(), writer.path().to_path_buf());
        if state == RunState::Running {
            self.alive.push(writer);
        }
    }

    fn source(&self) -> Source {
        Source::still(&[self.folder.path().to_path_buf()])
    }

    fn window<'a>(&self) -> Harness<'a, Dashboard> {
        table(self.source(), Theme::Dark)
    }

    fn id(&self, name: &str) -> String {
        self.paths[name].file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn labels(&self, name: &str) -> BTreeMap<String, String> {
        RunReader::open(&self.paths[name]).unwrap().info().unwrap().labels
    }
}

/// A wide window with the table in front.
fn table<'a>(source: Source, theme: Theme) -> Harness<'a, Dashboard> {
    let mut window = window(Harness::builder(), source, theme);
    window.set_size(vec2(2400.0, 900.0));
    window.state_mut().view_mut().show_pane(Pane::Table);
    window.run();
    window
}

fn click(window: &mut Harness<Dashboard>, label: &str) {
    window.get_by_label(label).click();
    window.run();
}

fn click_with(window: &mut Harness<Dashboard>, label: &str, modifiers: Modifiers) {
    window.get_by_label(label).click_modifiers(modifiers);
    window.run();
}

fn menu(window: &mut Harness<Dashboard>, label: &str, entry: &str) {
    window.get_by_label(label).click_secondary();
    window.run();
    window.get_by_label(entry).click();
    window.run();
}

/// Names of the rows from top to bottom.
fn rows(window: &Harness<Dashboard>) -> Vec<String> {
    let mut found: Vec<(f32, String)> = window
        .query_all_by_label_contains("Row ")
        .map(|node| (node.rect().top(), node.accesskit_node().label().unwrap_or_default()[4..].to_owned()))
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().map(|(_, name)| name).collect()
}

fn value(window: &Harness<Dashboard>, label: &str) -> String {
    window.get_by_label(label).value().unwrap_or_default()
}

fn type_filter(window: &mut Harness<Dashboard>, text: &str) {
    window.state_mut().view_mut().filter.clear();
    window.get_by_label("Filter the table").focus();
    window.run();
    window.get_by_label("Filter the table").type_text(text);
    window.run();
}

/// Types over what stands in the field that has the keyboard, and Enter.
fn type_label(window: &mut Harness<Dashboard>, field: &str, text: &str) {
    window.key_press_modifiers(Modifiers::COMMAND, Key::A);
    window.get_by_label(field).type_text(text);
    window.run();
    window.key_press(Key::Enter);
    window.run();
    assert!(window.query_by_label(field).is_none(), "the field is closed");
}

#[test]
fn a_header_sorts_and_again_the_other_way_round() {
    let runs = Runs::four();
    let mut window = runs.window();
    assert_eq!(rows(&window), ["four", "three", "two", "one"], "newest first");
    click(&mut window, "Sort by train/loss");
    assert_eq!(rows(&window), ["one", "two", "three", "four"], "a run without the value goes last");
    click(&mut window, "Sort by train/loss");
    assert_eq!(rows(&window), ["three", "two", "one", "four"], "also the other way round");
    click(&mut window, "Sort by min train/loss");
    assert_eq!(rows(&window), ["one", "two", "three", "four"]);
    click(&mut window, "Sort by optimizer.lr");
    click(&mut window, "Sort by optimizer.lr");
    assert_eq!(rows(&window)[0], "four", "9.0 is more than 0.5");
    click(&mut window, "Sort by name");
    assert_eq!(rows(&window), ["four", "one", "three", "two"]);
    // The keys go through the rows as they stand.
    click(&mut window, "Row one");
    window.key_press(Key::ArrowDown);
    window.run();
    assert_eq!(window.state().view().selected, Some(runs.id("three")));
}

#[test]
fn cells_say_state_values_and_settings() {
    let runs = Runs::four();
    let window = runs.window();
    let one = value(&window, "Row one");
    for part in ["state done", "train/loss 0.2", "min train/loss 0.1", "max test/accuracy 0.975", "optimizer.lr 0.1"] {
        assert!(one.split("; ").any(|cell| cell == part), "{part} in {one}");
    }
    // What is the same everywhere is no column at first, nor is what tells nothing.
    assert!(!one.contains("momentum") && !one.contains("train/lr"), "{one}");
    assert!(value(&window, "Row four").contains("state failed: the data ended early"), "{}", value(&window, "Row four"));
}

#[test]
fn columns_are_chosen_and_the_best_can_be_turned_round() {
    let runs = Runs::four();
    let mut window = runs.window();
    click(&mut window, "Columns");
    click(&mut window, "Column optimizer.momentum");
    click(&mut window, "Column optimizer.lr");
    click(&mut window, "Best of train/loss is the greatest");
    let one = value(&window, "Row one");
    assert!(one.contains("optimizer.momentum 0.9") && !one.contains("optimizer.lr"), "{one}");
    assert!(one.contains("max train/loss 0.9"), "{one}");
    click(&mut window, "Columns as at first");
    assert!(value(&window, "Row one").contains("optimizer.lr 0.1"));
}

/// Titles of the columns from left to right.
fn heads(window: &Harness<Dashboard>) -> Vec<String> {
    let mut found: Vec<(f32, String)> = window
        .query_all_by_label_contains("Sort by ")
        .map(|node| (node.rect().left(), node.accesskit_node().label().unwrap_or_default()["Sort by ".len()..].to_owned()))
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().map(|(_, title)| title).collect()
}

#[test]
fn a_column_is_dragged_to_another_place_and_stays_there() {
    let runs = Runs::four();
    let mut window = runs.window();
    let first = heads(&window);
    assert_eq!(first[..2], ["name", "state"]);
    let center = |window: &Harness<'_, Dashboard>, title: &str| window.get_by_label(&format!("Sort by {title}")).rect().center();
    let (from, to) = (center(&window, "optimizer.lr"), center(&window, "state") - vec2(30.0, 0.0));
    window.hover_at(from);
    window.run();
    window.drag_at(from);
    window.run();
    window.hover_at(from - vec2(40.0, 0.0));
    window.run();
    window.hover_at(to);
    window.run();
    assert_eq!(heads(&window), first, "it is moved when it is let go");
    window.drop_at(to);
    window.run();
    let mut wanted = first.clone();
    wanted.retain(|title| title != "optimizer.lr");
    wanted.insert(1, "optimizer.lr".into());
    assert_eq!(heads(&window), wanted);
    // Nothing was sorted by it, and the cells went with their head.
    assert_eq!(rows(&window), ["four", "three", "two", "one"]);
    assert!(value(&window, "Row one").starts_with("optimizer.lr 0.1; state done"), "{}", value(&window, "Row one"));
    // Kept, and what is exported has the same order.
    let kept: TableView = serde_json::from_str(&serde_json::to_string(&window.state().view().table).unwrap()).unwrap();
    assert_eq!(kept.order.first(), Some(&Column::Setting("optimizer.lr".into())));
    click(&mut window, "Columns");
    click(&mut window, "Columns as at first");
    assert_eq!(heads(&window), first);
}

#[test]
fn a_column_is_moved_by_keys_and_from_its_menu() {
    let runs = Runs::four();
    let mut window = runs.window();
    let first = heads(&window);
    let at = |window: &Harness<'_, Dashboard>, title: &str| heads(window).iter().position(|known| known == title).unwrap();
    // Nothing was touched yet: a sentence, and nothing moves.
    window.key_press_modifiers(Modifiers::COMMAND, Key::ArrowLeft);
    window.run();
    assert_eq!(heads(&window), first);
    window.get_by_label_contains("Choose the column to move first");
    let place = at(&window, "train/loss");
    window.get_by_label("Sort by train/loss").focus();
    window.run();
    window.key_press_modifiers(Modifiers::COMMAND, Key::ArrowLeft);
    window.run();
    assert_eq!(at(&window, "train/loss"), place - 1);
    for _ in 0..20 {
        window.key_press_modifiers(Modifiers::COMMAND, Key::ArrowLeft);
        window.run();
    }
    assert_eq!(at(&window, "train/loss"), 1, "the name stays first");
    menu(&mut window, "Sort by duration", "Move to the left Ctrl+Left");
    assert_eq!(at(&window, "duration"), first.iter().position(|known| known == "duration").unwrap() - 1);
    // In a text field the same keys go from word to word.
    window.get_by_label("Filter the table").focus();
    window.run();
    let before = heads(&window);
    window.key_press_modifiers(Modifiers::COMMAND, Key::ArrowRight);
    window.run();
    assert_eq!(heads(&window), before);
}

#[test]
fn a_column_is_dragged_wider() {
    let runs = Runs::four();
    let mut window = runs.window();
    let width = |window: &Harness<'_, Dashboard>| window.get_by_label("Sort by train/loss").rect().width();
    let before = width(&window);
    let edge = window.get_by_label("Width of train/loss").rect().center();
    window.hover_at(edge);
    window.run();
    window.drag_at(edge);
    window.run();
    window.hover_at(edge + vec2(60.0, 0.0));
    window.run();
    window.drop_at(edge + vec2(60.0, 0.0));
    window.run();
    assert!((width(&window) - before - 60.0).abs() < 4.0, "{before} to {}", width(&window));
}

#[test]
fn the_filter_compares_names_and_turns_round() {
    let mut runs = Runs::four();
    runs.add("five", 0.2, &[0.3], RunState::Running, NewRun::default());
    set_label(&runs.paths["two"], "tags", "keep, to do").unwrap();
    set_label(&runs.paths["one"], "note", "the first that worked").unwrap();
    let mut window = runs.window();
    for (filter, wanted) in [
        ("train/loss<0.35", vec!["five", "one"]),
        ("loss<=0.4 lr=0.1", vec!["two", "one"]),
        ("optimizer.lr>=0.2 loss>0", vec!["five", "three"]),
        ("lr!=0.1", vec!["five", "four", "three"]),
        ("state:failed", vec!["four"]),
        ("tag:keep", vec!["two"]),
        ("note:worked", vec!["one"]),
        ("-state:done", vec!["five", "four"]),
        ("-one -two -three", vec!["five", "four"]),
        ("step>=3", vec!["one"]),
        ("accuracy>=0.9", vec!["five", "one", "two"]),
        ("optimizer.id=sgd wor", vec!["one"]),
    ] {
        type_filter(&mut window, filter);
        let mut wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
        let mut found = rows(&window);
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "{filter}");
    }
    type_filter(&mut window, "no such run");
    window.get_by_label("The filter leaves no run: clear it, or type less");
}

#[test]
fn groups_have_mean_and_deviation_and_fold() {
    let runs = Runs::four();
    let mut window = runs.window();
    window.get_by_label("Sort by optimizer.lr").click_secondary();
    window.run();
    click(&mut window, "Group by this");
    let of = |window: &Harness<'_, Dashboard>, group: &str| value(window, &format!("Group optimizer.lr = {group}"));
    // 0.2 and 0.4: mean 0.3, deviation with n - 1 = sqrt(2 * 0.1^2) = 0.1414. The least are 0.1 and 0.4: 0.25 and sqrt(2 * 0.15^2) = 0.2121.
    let tenth = of(&window, "0.1");
    assert!(tenth.starts_with("2 runs; "), "{tenth}");
    assert!(tenth.contains("; train/loss 0.3 ± 0.14"), "{tenth}");
    assert!(tenth.contains("; min train/loss 0.25 ± 0.21"), "{tenth}");
    // One run has no deviation; none has no mean.
    assert!(of(&window, "0.5").contains("train/loss 1;") || of(&window, "0.5").ends_with("train/loss 1"), "{}", of(&window, "0.5"));
    assert!(!of(&window, "9.0").contains("train/loss"), "{}", of(&window, "9.0"));
    assert_eq!(rows(&window), ["two", "one", "three", "four"], "groups by the size of the setting");
    click(&mut window, "Group optimizer.lr = 0.1");
    assert_eq!(rows(&window), ["three", "four"]);
    click(&mut window, "Group optimizer.lr = 0.1");
    click(&mut window, "Sort by train/loss");
    click(&mut window, "Sort by train/loss");
    assert_eq!(rows(&window), ["three", "two", "one", "four"], "groups by their means");
}

#[test]
fn names_tags_notes_and_colours_reach_the_run() {
    let runs = Runs::four();
    let mut window = runs.window();
    click(&mut window, "Row two");
    window.key_press(Key::F2);
    window.run();
    type_label(&mut window, "New name of two", "second try");
    assert_eq!(runs.labels("two")["name"], "second try");
    menu(&mut window, "Row second try", "Tags…");
    type_label(&mut window, "Tags of second try", "good, to do");
    assert_eq!(runs.labels("two")["tags"], "good, to do");
    menu(&mut window, "Row second try", "Note…");
    type_label(&mut window, "Note of second try", "slower than it should be");
    assert_eq!(runs.labels("two")["note"], "slower than it should be");
    let row = value(&window, "Row second try");
    assert!(row.contains("tags good, to do"), "{row}");
    // Escape keeps what was.
    window.key_press(Key::F2);
    window.run();
    window.get_by_label("New name of second try").type_text("x");
    window.run();
    window.key_press(Key::Escape);
    window.run();
    assert_eq!(runs.labels("two")["name"], "second try");
    click(&mut window, "Colour of second try");
    click(&mut window, "Violet");
    assert_eq!(runs.labels("two")["colour"], "6");
    assert_eq!(window.state().view().color_slot(&runs.id("two")), 6);
    // Another window has it too.
    let other = runs.window();
    assert_eq!(other.state().view().color_slot(&runs.id("two")), 6);
    click(&mut window, "Colour of second try");
    click(&mut window, "As at first");
    assert!(!runs.labels("two").contains_key("colour"));
    // The second of four that were met.
    assert_eq!(window.state().view().color_slot(&runs.id("two")), window.state().view().colors[&runs.id("two")]);
    // An empty note is none.
    menu(&mut window, "Row second try", "Note…");
    window.key_press_modifiers(Modifiers::COMMAND, Key::A);
    window.key_press(Key::Delete);
    window.run();
    window.key_press(Key::Enter);
    window.run();
    assert!(!runs.labels("two").contains_key("note"));
}

#[test]
fn pinned_runs_stand_first_and_archived_ones_are_hidden() {
    let runs = Runs::four();
    let mut window = runs.window();
    click(&mut window, "Row one");
    window.key_press(Key::P);
    window.run();
    assert_eq!(rows(&window), ["one", "four", "three", "two"]);
    click(&mut window, "Sort by min train/loss");
    click(&mut window, "Sort by min train/loss");
    assert_eq!(rows(&window), ["one", "three", "two", "four"], "also when sorted");
    let top = |window: &Harness<'_, Dashboard>, name: &str| window.get_by_label(&format!("Run {name}")).rect().top();
    assert!(top(&window, "one") < top(&window, "four"), "also in the list");
    window.key_press(Key::P);
    window.run();
    assert_eq!(rows(&window)[0], "three");
    menu(&mut window, "Row three", "Archive");
    assert_eq!(rows(&window), ["two", "one", "four"]);
    assert!(window.query_by_label("Run three").is_none());
    window.get_by_label("3 runs");
    assert_eq!(runs.labels("three")["archived"], "true");
    click(&mut window, "Archived");
    assert_eq!(rows(&window), ["three", "two", "one", "four"]);
    menu(&mut window, "Row three", "Take back");
    assert!(!runs.labels("three").contains_key("archived"));
}

#[test]
fn a_deleted_run_comes_back_in_its_very_folder() {
    let runs = Runs::four();
    let mut window = runs.window();
    let before = std::fs::read(runs.paths["two"].join("run.sqlite")).unwrap();
    click(&mut window, "Row two");
    window.key_press(Key::Delete);
    window.run();
    window.get_by_label("Delete two with its checkpoints?");
    click(&mut window, "Keep");
    assert!(runs.paths["two"].exists() && window.query_by_label("Delete now").is_none());
    window.key_press(Key::Delete);
    window.run();
    click(&mut window, "Delete now");
    assert!(!runs.paths["two"].exists());
    assert_eq!(rows(&window), ["four", "three", "one"]);
    window.get_by_label("Deleted two");
    // A second one, so that there is something to undo twice.
    click(&mut window, "Row three");
    click_with(&mut window, "Row one", Modifiers::SHIFT);
    window.key_press(Key::Delete);
    window.run();
    window.get_by_label("Delete 2 runs with their checkpoints?");
    click(&mut window, "Delete now");
    assert_eq!(rows(&window), ["four"]);
    window.get_by_label("Deleted 2 runs, and 1 before");
    window.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    window.run();
    assert_eq!(rows(&window), ["four", "three", "one"], "what was deleted together comes back together");
    click(&mut window, "Undo");
    assert_eq!(rows(&window), ["four", "three", "two", "one"]);
    assert_eq!(std::fs::read(runs.paths["two"].join("run.sqlite")).unwrap(), before);
    assert!(window.query_by_label("Undo").is_none());
    assert_eq!(std::fs::read_dir(runs.folder.path()).unwrap().count(), 4);
}

#[test]
fn a_run_that_goes_on_is_not_deleted() {
    let mut runs = Runs::four();
    runs.add("five", 0.2, &[0.3], RunState::Running, NewRun::default());
    let mut window = runs.window();
    click(&mut window, "Row five");
    window.key_press(Key::Delete);
    window.run();
    window.get_by_label("five is under way, so it is not deleted: stop it first");
    assert!(window.query_by_label("Delete now").is_none());
    click(&mut window, "OK");
    // Its process came back after the window looked: the store says no, and the window why.
    let writer = RunWriter::open(&runs.paths["one"]).unwrap();
    click(&mut window, "Row one");
    window.key_press(Key::Delete);
    window.run();
    click(&mut window, "Delete now");
    assert!(runs.paths["one"].exists());
    window.get_by_label_contains("is writing this run. Stop it first");
    drop(writer);
}

#[test]
fn a_live_window_deletes_undoes_and_clears_up_when_it_closes() {
    let runs = Runs::four();
    let mut window = table(Source::live(&[runs.folder.path().to_path_buf()]), Theme::Dark);
    let until = |window: &mut Harness<Dashboard>, holds: &dyn Fn(&Harness<Dashboard>) -> bool| {
        while !holds(window) {
            std::thread::sleep(std::time::Duration::from_millis(10));
            window.step();
        }
    };
    until(&mut window, &|window| rows(window).len() == 4);
    for name in ["two", "three"] {
        window.get_by_label(&format!("Row {name}")).click();
        window.step();
        window.step();
        window.key_press(Key::Delete);
        window.step();
        window.step();
        window.get_by_label("Delete now").click();
        until(&mut window, &|window| window.query_by_label(&format!("Row {name}")).is_none());
    }
    until(&mut window, &|window| window.query_by_label("Deleted three, and 1 before").is_some());
    window.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    until(&mut window, &|window| window.query_by_label("Row three").is_some());
    assert!(runs.paths["three"].join("run.sqlite").is_file());
    let hidden = || {
        std::fs::read_dir(runs.folder.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
            .count()
    };
    assert_eq!(hidden(), 1, "two can still be restored");
    drop(window);
    assert_eq!(hidden(), 0, "the window is closed");
    assert!(!runs.paths["two"].exists() && runs.paths["three"].exists());
}

#[test]
fn several_runs_are_selected_and_compared() {
    let runs = Runs::four();
    let mut window = runs.window();
    click(&mut window, "Row three");
    click_with(&mut window, "Row one", Modifiers::COMMAND);
    assert_eq!(window.state().view().chosen(), [runs.id("three"), runs.id("one")]);
    click(&mut window, "Row three");
    click_with(&mut window, "Row one", Modifiers::SHIFT);
    let mut chosen = window.state().view().chosen();
    chosen.sort();
    let mut wanted = vec![runs.id("one"), runs.id("two"), runs.id("three")];
    wanted.sort();
    assert_eq!(chosen, wanted);
    click(&mut window, "Compare");
    window.get_by_label("3 selected runs");
    // Two of them have 0.1; what is the same in all is not shown.
    assert_eq!(window.query_all_by_label("0.1").count(), 7, "two learning rates, set, last and least, and one least loss");
    assert!(window.query_by_label("optimizer.momentum").is_none());
    window.get_by_label("min train/loss");
    click(&mut window, "Only differences");
    window.get_by_label("optimizer.momentum");
    click(&mut window, "Select one");
    window.get_by_label("Against");
    // With Ctrl a run is taken out again.
    click_with(&mut window, "Row two", Modifiers::COMMAND);
    click_with(&mut window, "Row two", Modifiers::COMMAND);
    assert_eq!(window.state().view().chosen().len(), 1);
}

#[test]
fn a_fork_names_its_parent_and_a_click_goes_there() {
    let mut runs = Runs::four();
    let parent = Parent { id: runs.id("one"), step: 2, changes: serde_json::Map::new() };
    runs.add("fork", 0.3, &[0.1], RunState::Done, NewRun { parent: Some(parent), ..NewRun::default() });
    let mut window = runs.window();
    assert!(value(&window, "Row fork").contains("parent one @ 2"), "{}", value(&window, "Row fork"));
    click(&mut window, "Parent of fork");
    assert_eq!(window.state().view().selected, Some(runs.id("one")));
    click(&mut window, "Show one");
    assert!(!window.state().view().is_shown(&runs.id("one")));
}

#[test]
fn runs_of_a_sweep_stand_under_a_heading_in_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let trials = folder.path().join("lr-sweep");
    std::fs::create_dir(&trials).unwrap();
    std::fs::write(trials.join("trials.json"), "{}").unwrap();
    for index in 0..2 {
        let writer = RunWriter::create(&trials.join(format!("trial-{index}")), &NewRun { name: "t".into(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Done, None);
        set_label(writer.path(), "name", &format!("trial {index}")).unwrap();
    }
    let mut window = table(Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    window.get_by_label("Run trial 0");
    click(&mut window, "Sweep lr-sweep");
    assert!(window.query_by_label("Run trial 0").is_none());
    click(&mut window, "Group by");
    click(&mut window, "By sweep");
    assert!(value(&window, "Group lr-sweep").starts_with("2 runs"));
}

#[test]
fn the_table_is_exported() {
    let runs = Runs::four();
    set_label(&runs.paths["two"], "note", "so, \"so\"").unwrap();
    let mut window = runs.window();
    click(&mut window, "Sort by name");
    click(&mut window, "Export");
    window.run();
    let folder = runs.folder.path().canonicalize().unwrap();
    let file = folder.with_file_name(format!("{}-table.csv", folder.file_name().unwrap().to_str().unwrap()));
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines[0].starts_with("id,name,state,"), "{}", lines[0]);
    assert!(lines[1].starts_with(&format!("{},four,failed: the data ended early,", runs.id("four"))), "{}", lines[1]);
    assert!(lines[4].starts_with(&format!("{},two,", runs.id("two"))) && lines[4].ends_with("\"so, \"\"so\"\"\""), "{}", lines[4]);
    window.get_by_label(&format!("Copied, and saved as {}", file.display()));
    // A second one does not write over the first.
    click(&mut window, "Export");
    let second = file.with_file_name(format!("{}-table-2.csv", folder.file_name().unwrap().to_str().unwrap()));
    assert!(second.exists());
    for file in [file, second] {
        std::fs::remove_file(file).unwrap();
    }
}

/// Copies of a recorded run that are told apart by id, name and learning rate.
fn many(path: &Path, count: usize) -> Snapshot {
    let mut data = RunData::new(path);
    while !data.run().is_complete {
        data.poll();
    }
    let run = data.run();
    let runs = (0..count).map(|index| {
        let mut info = (**run.info.as_ref().unwrap()).clone();
        info.id = format!("run-{index:04}");
        info.created += index as f64;
        info.labels.insert("name".into(), format!("number {index:04}"));
        info.config = json!({ "optimizer": { "lr": index as f64 * 0.001 } });
        Arc::new(Run { id: info.id.clone(), path: path.join(&info.id), info: Some(Arc::new(info)), ..(*run).clone() })
    });
    Snapshot { version: 1, runs: runs.rev().collect(), ..Snapshot::default() }
}

#[test]
fn of_six_hundred_runs_only_those_on_screen_are_drawn() {
    let runs = Runs::four();
    let mut window = table(Source::of(many(&runs.paths["one"], 600)), Theme::Dark);
    // 900 pixels less bars, over rows of 26.
    let drawn = window.state().session().table.rows_drawn;
    assert!((20..40).contains(&drawn), "{drawn}");
    assert_eq!(rows(&window)[0], "number 0599");
    click(&mut window, "Sort by optimizer.lr");
    assert_eq!(rows(&window)[0], "number 0000");
    // The keys bring their row into sight.
    window.get_by_label("Row number 0010").click();
    window.run();
    for _ in 0..30 {
        window.key_press(Key::ArrowDown);
        window.run();
    }
    assert_eq!(window.state().view().selected.as_deref(), Some("run-0040"));
    assert!(rows(&window).contains(&"number 0040".to_owned()), "{:?}", rows(&window));
    assert!(window.state().session().table.rows_drawn < 40);
    // What has not changed is not worked out again.
    let generation = window.state().session().table.book.generation;
    window.hover_at(window.get_by_label("Row number 0040").rect().center());
    window.run();
    assert_eq!(window.state().session().table.book.generation, generation);
}

#[test]
fn what_was_chosen_is_kept() {
    let runs = Runs::four();
    let mut window = runs.window();
    let view = &mut window.state_mut().view_mut().table;
    view.columns = vec![(Column::Last("train/lr".into()), true), (Column::Start, false)];
    view.widths = vec![(Column::Setting("optimizer.lr".into()), 99.0)];
    view.best.insert("x".into(), true);
    click(&mut window, "Sort by min train/loss");
    let kept = serde_json::to_string(&window.state().view().table).unwrap();
    let again: solstice_dashboard::gui::table::TableView = serde_json::from_str(&kept).unwrap();
    assert_eq!(format!("{again:?}"), format!("{:?}", window.state().view().table));
    assert!(value(&window, "Row one").contains("train/lr 0.1") && !value(&window, "Row one").contains("start"));
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures() {
    let recorded = gui_common::Recorded::new(2000);
    set_label(&recorded.path("deep"), "tags", "good, paper").unwrap();
    set_label(&recorded.path("deep"), "pinned", "true").unwrap();
    set_label(&recorded.path("fast"), "note", "far too fast").unwrap();
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        for width in [1280.0, 1900.0] {
            let mut window = window(Harness::builder(), Source::still(&[recorded.folder.path().to_path_buf()]), theme);
            window.set_size(vec2(width, 800.0));
            window.state_mut().view_mut().show_pane(Pane::Table);
            window.run();
            window.get_by_label("Sort by test/accuracy").click();
            window.run();
            let (row, save) = (window.get_by_label("Row narrow").rect(), |window: &mut Harness<Dashboard>, what: &str| {
                window.render().unwrap().save(folder.join(format!("table-{what}-{name}-{width}.png"))).unwrap();
            });
            window.hover_at(row.left_center() + vec2(80.0, 0.0));
            window.run();
            save(&mut window, "plain");
            click(&mut window, "Row narrow");
            click_with(&mut window, "Row deep", Modifiers::COMMAND);
            click_with(&mut window, "Row wide", Modifiers::COMMAND);
            click(&mut window, "Compare");
            window.state_mut().view_mut().table.group_by = solstice_dashboard::gui::table::GroupBy::Setting("optimizer.lr".into());
            window.run();
            save(&mut window, "grouped");
            window.state_mut().view_mut().table.group_by = solstice_dashboard::gui::table::GroupBy::None;
            click(&mut window, "Row deep");
            window.key_press(Key::Delete);
            window.run();
            window.get_by_label("Row wide").click_secondary();
            window.run();
            save(&mut window, "menu");
            window.key_press(Key::Escape);
            window.run();
            click(&mut window, "Columns");
            save(&mut window, "columns");
        }
    }
}
