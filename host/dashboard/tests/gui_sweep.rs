//! Parallel coordinates over recorded runs: brushes, the hovered run, the order of the best, rank correlations.

mod gui_common;

use eframe::egui::{Key, Modifiers, Pos2, Theme, pos2, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::window;
use serde_json::json;
use solstice_dashboard::data::Snapshot;
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::sweep::brushed;
use solstice_dashboard::gui::{Dashboard, Pane};
use solstice_store::{NewRun, RunState, RunWriter, set_label};
use tempfile::TempDir;

/// Runs named `a`, `b`, ... with learning rate, width, activation and last loss.
fn record(settings: &[(f64, u64, &str, f64)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, (lr, hidden, activation, loss)) in settings.iter().enumerate() {
        let config = json!({ "components": {
            "model": { "id": "mlp", "config": { "hidden": hidden, "activation": activation } },
            "optimizer": { "id": "sgd", "config": { "lr": lr, "momentum": 0.9 } },
        } });
        let writer = RunWriter::create(folder.path(), &NewRun { name: "digits".into(), config, ..NewRun::default() }).unwrap();
        writer.scalars(1, &[("test/loss", loss * 2.0)]);
        writer.scalars(2, &[("test/loss", *loss)]);
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        set_label(writer.path(), "name", &char::from(b'a' + index as u8).to_string()).unwrap();
    }
    folder
}

/// The loss falls with the logarithm of the learning rate, but for the last.
const SETTINGS: [(f64, u64, &str, f64); 5] =
    [(1e-4, 64, "relu", 0.9), (1e-3, 32, "tanh", 0.7), (1e-2, 64, "relu", 0.5), (1e-1, 16, "gelu", 0.2), (1.0, 32, "relu", 0.8)];

fn sweep<'a>(source: Source, theme: Theme, width: f32) -> Harness<'a, Dashboard> {
    let mut window = window(Harness::builder(), source, theme);
    window.set_size(vec2(width, 800.0));
    window.state_mut().view_mut().show_pane(Pane::Sweep);
    window.run();
    window
}

fn open<'a>(folder: &TempDir) -> Harness<'a, Dashboard> {
    sweep(Source::still(&[folder.path().to_path_buf()]), Theme::Dark, 1900.0)
}

/// Names of the runs that the brushes leave.
fn left(window: &Harness<Dashboard>) -> Vec<String> {
    let ids = brushed(&window.state().session().sweep);
    let book = &window.state().session().table.book;
    let mut names: Vec<String> = ids.iter().map(|id| book.get(id).unwrap().name.clone()).collect();
    names.sort();
    names
}

fn drag(window: &mut Harness<Dashboard>, from: Pos2, to: Pos2) {
    window.hover_at(from);
    window.run();
    window.drag_at(from);
    window.run();
    for part in [0.5, 1.0] {
        window.hover_at(from + (to - from) * part);
        window.run();
    }
    window.drop_at(to);
    window.run();
}

/// A point on an axis: 0 is its lower end, 1 its upper. The axis reaches from 6 above its upper end to the plot's lower edge.
fn on_axis(window: &Harness<Dashboard>, axis: &str, part: f32) -> Pos2 {
    let rect = window.get_by_label(&format!("Axis {axis}")).rect();
    let (top, bottom) = (rect.top() + 6.0, rect.bottom() - 12.0);
    pos2(rect.center().x, bottom + part * (top - bottom))
}

#[test]
fn brushes_choose_runs_and_combine() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    assert_eq!(left(&window), ["a", "b", "c", "d", "e"]);
    // Five learning rates over four decades lie at 0, 1/4, 1/2, 3/4 and 1: the axis is logarithmic.
    let (from, to) = (on_axis(&window, "optimizer.lr", 0.9), on_axis(&window, "optimizer.lr", 0.4));
    drag(&mut window, from, to);
    assert_eq!(left(&window), ["c", "d"]);
    window.get_by_label("2 of 5 runs");
    // Widths 16, 32, 64 lie at 0, 1/3, 1.
    let (from, to) = (on_axis(&window, "model.hidden", 0.8), on_axis(&window, "model.hidden", 1.0));
    drag(&mut window, from, to);
    assert_eq!(left(&window), ["c"]);
    let at = on_axis(&window, "optimizer.lr", 0.6);
    for _ in 0..2 {
        window.drag_at(at);
        window.drop_at(at);
        window.step();
    }
    window.run();
    assert_eq!(left(&window), ["a", "c"], "a double click clears one brush");
    window.get_by_label("Clear brushes").click();
    window.run();
    assert_eq!(left(&window).len(), 5);
    // Words too, in order: gelu 0, relu 1/2, tanh 1. And the result.
    let (from, to) = (on_axis(&window, "model.activation", 0.3), on_axis(&window, "model.activation", 0.7));
    drag(&mut window, from, to);
    assert_eq!(left(&window), ["a", "c", "e"]);
    // Losses from 0.2 to 0.9: below 0.55 is below the half.
    let (from, to) = (on_axis(&window, "test/loss", 0.5), on_axis(&window, "test/loss", 0.0));
    drag(&mut window, from, to);
    assert_eq!(left(&window), ["c"]);
}

#[test]
fn keys_brush_and_move_an_axis() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    let value = |window: &Harness<'_, Dashboard>, axis: &str| window.get_by_label(&format!("Axis {axis}")).value().unwrap_or_default();
    let press = |window: &mut Harness<'_, Dashboard>, modifiers: Modifiers, key: Key| {
        window.key_press_modifiers(modifiers, key);
        window.run();
    };
    window.get_by_label("Axis optimizer.lr").focus();
    window.run();
    let selected = window.state().view().selected.clone();
    press(&mut window, Modifiers::NONE, Key::ArrowUp);
    assert_eq!(left(&window), ["b", "c", "d", "e"], "the lower end stands above the least rate");
    press(&mut window, Modifiers::SHIFT, Key::ArrowDown);
    press(&mut window, Modifiers::SHIFT, Key::ArrowDown);
    assert_eq!(left(&window), ["b", "c"], "and the upper end two rates lower");
    // Half way between 1e-4 and 1e-3, and between 1e-2 and 1e-1, on an axis of logarithms.
    assert_eq!(value(&window, "optimizer.lr"), "1e-4 to 1, logarithmic; brushed from 3.16e-4 to 0.03162");
    // The ends stay apart, and the keys did nothing else.
    for _ in 0..9 {
        press(&mut window, Modifiers::NONE, Key::ArrowUp);
    }
    assert_eq!(left(&window), ["c"]);
    assert_eq!(window.state().view().selected, selected);
    press(&mut window, Modifiers::NONE, Key::Backspace);
    assert_eq!(left(&window).len(), 5);
    assert!(!value(&window, "optimizer.lr").contains("brushed"));
    // Up and down again is as it was before.
    press(&mut window, Modifiers::SHIFT, Key::ArrowDown);
    press(&mut window, Modifiers::SHIFT, Key::ArrowUp);
    assert!(window.query_by_label("Clear brushes").is_none());
    // Words are chosen in their order: gelu, relu, tanh.
    window.get_by_label("Axis model.activation").focus();
    window.run();
    press(&mut window, Modifiers::NONE, Key::ArrowUp);
    assert_eq!(left(&window), ["a", "b", "c", "e"]);
    assert_eq!(value(&window, "model.activation"), "gelu, relu, tanh; brushed: relu, tanh");
    let x = |window: &Harness<'_, Dashboard>, key: &str| window.get_by_label(&format!("Axis {key}")).rect().center().x;
    assert!(x(&window, "model.activation") < x(&window, "model.hidden"));
    press(&mut window, Modifiers::COMMAND, Key::ArrowRight);
    assert!(x(&window, "model.activation") > x(&window, "model.hidden"));
    press(&mut window, Modifiers::COMMAND, Key::ArrowLeft);
    press(&mut window, Modifiers::COMMAND, Key::ArrowLeft);
    assert!(x(&window, "model.activation") < x(&window, "model.hidden"));
}

#[test]
fn the_best_runs_stand_in_order_and_a_click_selects() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    let tops: Vec<f32> =
        ["Rank 1 d", "Rank 2 c", "Rank 3 b", "Rank 4 e", "Rank 5 a"].map(|name| window.get_by_label(name).rect().top()).into();
    assert!(tops.is_sorted(), "{tops:?}");
    assert_eq!(window.get_by_label("Rank 1 d").value().as_deref(), Some("0.2"));
    window.get_by_label("Rank 2 c").click();
    window.run();
    let selected = window.state().view().selected.clone().unwrap();
    assert_eq!(window.state().session().table.book.get(&selected).unwrap().name, "c");
    // The line of `a`, the only run with the least learning rate, begins at the foot of that axis.
    let foot = on_axis(&window, "optimizer.lr", 0.0);
    window.hover_at(foot);
    window.run();
    let hovered = window.state().session().sweep.hovered.clone().unwrap();
    assert_eq!(window.state().session().table.book.get(&hovered).unwrap().name, "a");
    window.drag_at(foot);
    window.drop_at(foot);
    window.run();
    assert_eq!(window.state().view().selected, Some(hovered));
}

#[test]
fn rank_correlations_are_those_by_hand() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    let of = |window: &Harness<'_, Dashboard>, key: &str| window.get_by_label(&format!("Rank correlation of {key}")).value().unwrap();
    // Learning rates rank 1 2 3 4 5, losses 5 3 2 1 4: differences 4 1 1 3 1, squares 16 + 1 + 1 + 9 + 1 = 28, so 1 - 6 * 28 / (5 * 24) = -0.4.
    assert_eq!(of(&window, "optimizer.lr"), "-0.40 over 5 runs");
    // Widths 64 32 64 16 32 rank 4.5 2.5 4.5 1 2.5; deviations from 3 times those of the losses (2 0 -1 -2 1): 3 + 0 - 1.5 + 4 - 0.5 = 5,
    // over sqrt((2.25 + 0.25 + 2.25 + 4 + 0.25) * 10) = sqrt(90): 0.527.
    assert_eq!(of(&window, "model.hidden"), "0.53 over 5 runs");
    assert_eq!(of(&window, "model.activation"), "words over 0 runs");
    // Without the last run the loss falls with every step of the rate.
    let (from, to) = (on_axis(&window, "optimizer.lr", 0.9), on_axis(&window, "optimizer.lr", -0.1));
    drag(&mut window, from, to);
    assert_eq!(of(&window, "optimizer.lr"), "-1.00 over 4 runs");
}

#[test]
fn axes_are_chosen_and_moved() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    let x = |window: &Harness<'_, Dashboard>, key: &str| window.get_by_label(&format!("Axis {key}")).rect().center().x;
    assert!(x(&window, "model.hidden") < x(&window, "optimizer.lr"));
    // What is the same in all runs is no axis.
    assert!(window.query_by_label("Axis optimizer.momentum").is_none());
    let from = window.get_by_label("Move axis optimizer.lr").rect().center();
    let to = pos2(x(&window, "model.activation"), from.y);
    drag(&mut window, from, to);
    assert!(x(&window, "optimizer.lr") < x(&window, "model.activation"));
    window.get_by_label("Axes").click();
    window.run();
    window.get_by_label("Show axis model.hidden").click();
    window.run();
    assert!(window.query_by_label("Axis model.hidden").is_none());
    assert_eq!(window.state().view().sweep.axes, Some(vec!["optimizer.lr".into(), "model.activation".into()]));
}

#[test]
fn what_differs_in_one_run_alone_takes_no_axis_from_what_all_differ_in() {
    let folder = record(&SETTINGS);
    // Eight settings that come before the others by name.
    let odd: serde_json::Map<String, serde_json::Value> = (0..8).map(|index| (format!("a{index}"), json!(index))).collect();
    let config = json!({ "components": { "dataset": { "id": "csv", "config": odd } } });
    let writer = RunWriter::create(folder.path(), &NewRun { name: "odd".into(), config, ..NewRun::default() }).unwrap();
    writer.scalars(2, &[("test/loss", 3.0)]);
    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    let window = open(&folder);
    for axis in ["Axis model.activation", "Axis model.hidden", "Axis optimizer.lr"] {
        window.get_by_label(axis);
    }
}

#[test]
fn the_filter_decides_which_runs_are_there() {
    let folder = record(&SETTINGS);
    let mut window = open(&folder);
    window.state_mut().view_mut().filter = "activation=relu".into();
    window.run();
    assert_eq!(left(&window), ["a", "c", "e"]);
    assert!(window.query_by_label("Axis model.activation").is_none(), "it is the same in all that are left");
    let value = window.get_by_label("Axis optimizer.lr").accesskit_node().value().unwrap_or_default();
    assert_eq!(value, "1e-4 to 1, logarithmic");
    window.state_mut().view_mut().filter = "activation=gelu".into();
    window.run();
    window.get_by_label("The filter leaves too few runs");
}

#[test]
fn an_empty_panel_says_what_to_do() {
    let window = sweep(Source::of(Snapshot::default()), Theme::Dark, 1280.0);
    window.get_by_label("Nothing to compare yet");
    window.get_by_label("solstice sweep lr.ron --workers 2");
    let folder = record(&[(0.1, 16, "relu", 0.5), (0.1, 16, "relu", 0.6)]);
    let window = open(&folder);
    window.get_by_label("The settings of these runs are the same");
}

#[test]
fn it_looks_as_before() {
    let settings: Vec<(f64, u64, &str, f64)> = (0..12u64)
        .map(|index| {
            (
                10f64.powi(-4 + (index % 4) as i32),
                [16, 64, 128][(index % 3) as usize],
                ["relu", "gelu"][(index % 2) as usize],
                0.1 * index as f64,
            )
        })
        .collect();
    let folder = record(&settings);
    let mut window = open(&folder);
    gui_common::looks_as_before(&mut window, "sweep");
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures() {
    let activations = ["relu", "tanh", "gelu"];
    let settings: Vec<(f64, u64, &str, f64)> = (0..27u64)
        .map(|index| {
            let (lr, hidden) = (10f64.powf(-4.0 + (index * 7 % 27) as f64 / 27.0 * 3.6), [16, 32, 64, 128][(index * 5 % 4) as usize]);
            let loss = 0.1 + (lr.log10() + 1.8).powi(2) * 0.18 + 4.0 / hidden as f64 + 0.04 * (index % 5) as f64;
            (lr, hidden, activations[(index % 3) as usize], loss)
        })
        .collect();
    let settings: Vec<(f64, u64, &str, f64)> =
        settings.into_iter().map(|(lr, hidden, word, loss)| ((lr * 1e6).round() / 1e6, hidden, word, loss)).collect();
    // Names are letters.
    let folder = record(&settings[..26]);
    let pictures = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        for width in [1280.0, 1900.0] {
            let mut window = sweep(Source::still(&[folder.path().to_path_buf()]), theme, width);
            window.render().unwrap().save(pictures.join(format!("sweep-{name}-{width}.png"))).unwrap();
            let (from, to) = (on_axis(&window, "optimizer.lr", 0.85), on_axis(&window, "optimizer.lr", 0.35));
            drag(&mut window, from, to);
            let rank = window.get_by_label_contains("Rank 3 ").rect().center();
            window.hover_at(rank);
            window.run();
            window.render().unwrap().save(pictures.join(format!("sweep-brushed-{name}-{width}.png"))).unwrap();
        }
    }
}
