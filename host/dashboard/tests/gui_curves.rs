//! The Curves panel, driven by the names that a screen reader says, over recorded runs and without a display.

mod gui_common;

use eframe::egui::accesskit::Toggled;
use eframe::egui::{self, Event, Key, Modifiers, PointerButton, Pos2, Rect, pos2, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::{Recorded, window};
use solstice_dashboard::data::{Snapshot, XAxis};
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::curves::{ChartSize, GroupBy, plot_rect};
use solstice_dashboard::gui::source::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

fn press(harness: &mut Harness<Dashboard>, key: Key) {
    harness.key_press(key);
    harness.run();
}

fn is_on(harness: &Harness<Dashboard>, label: &str) -> bool {
    harness.get_by_label(label).accesskit_node().toggled() == Some(Toggled::True)
}

fn chart(harness: &Harness<Dashboard>, metric: &str) -> Rect {
    harness.get_by_label(&format!("Chart of {metric}")).rect()
}

/// What a screen reader says of a chart.
fn spoken(harness: &Harness<Dashboard>, metric: &str) -> String {
    harness.get_by_label(&format!("Chart of {metric}")).value().unwrap_or_default()
}

fn drag(harness: &mut Harness<Dashboard>, from: Pos2, to: Pos2, button: PointerButton, modifiers: Modifiers) {
    let input = |pos, pressed| Event::PointerButton { pos, button, pressed, modifiers };
    harness.hover_at(from);
    harness.event(Event::ModifiersChanged(modifiers));
    harness.run();
    harness.event(input(from, true));
    harness.run();
    harness.hover_at(to);
    harness.run();
    harness.event(input(to, false));
    harness.run();
    harness.event(Event::ModifiersChanged(Modifiers::NONE));
    harness.run();
}

/// Longer than two clicks that count as a double click.
fn wait(harness: &mut Harness<Dashboard>) {
    (0..40).for_each(|_| harness.step());
}

#[test]
fn toggles_by_box_and_by_key() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    for (label, key, at_first) in [("Log x", Key::L, false), ("Log y", Key::Y, false), ("Cut outliers", Key::U, true)] {
        assert_eq!(is_on(&window, label), at_first, "{label}");
        click(&mut window, label);
        assert_eq!(is_on(&window, label), !at_first, "{label}");
        press(&mut window, key);
        assert_eq!(is_on(&window, label), at_first, "{label} by {key:?}");
    }
    assert!(is_on(&window, "Link axes"));
    click(&mut window, "Link axes");
    assert!(!window.state().view().charts.is_linked);
    click(&mut window, "Chart size");
    click(&mut window, "Large");
    assert_eq!(window.state().view().charts.size, ChartSize::Large);
    assert!(chart(&window, "train/loss").height() > 300.0);
    click(&mut window, "Chart size");
    click(&mut window, "Small");
    assert!(chart(&window, "train/loss").height() < 160.0);
}

#[test]
fn the_time_of_day_has_no_logarithm() {
    let recorded = Recorded::new(200);
    let mut window = recorded.window();
    window.state_mut().view_mut().x_axis = XAxis::Wall;
    press(&mut window, Key::L);
    assert!(!window.state().view().charts.log_x);
    assert!(window.get_by_label("Log x").accesskit_node().is_disabled());
}

#[test]
fn the_filter_chooses_charts_and_says_so_when_none_is_left() {
    let recorded = Recorded::new(200);
    let mut window = recorded.window();
    let type_in = |window: &mut Harness<Dashboard>, text: &str| {
        window.state_mut().session_mut().charts.filter.clear();
        window.get_by_role_and_label(egui::Role::TextInput, "Filter charts").focus();
        window.run();
        window.get_by_role_and_label(egui::Role::TextInput, "Filter charts").type_text(text);
        window.run();
    };
    type_in(&mut window, "TEST acc");
    window.get_by_label("Chart of test/accuracy");
    assert!(window.query_by_label("Chart of train/accuracy").is_none());
    type_in(&mut window, "no such");
    window.get_by_label("No chart has this in its name");
    click(&mut window, "Show all charts");
    window.get_by_label("Chart of train/accuracy");
    type_in(&mut window, "lr");
    press(&mut window, Key::Escape);
    window.get_by_label("Chart of train/accuracy");
}

#[test]
fn one_large_chart_and_back() {
    let recorded = Recorded::new(200);
    let mut window = recorded.window();
    let small = chart(&window, "train/accuracy");
    window.hover_at(small.center());
    window.run();
    press(&mut window, Key::M);
    assert!(chart(&window, "train/accuracy").height() > 400.0);
    assert!(window.query_by_label("Chart of train/loss").is_none());
    press(&mut window, Key::Escape);
    assert_eq!(chart(&window, "train/accuracy"), small);
    // The mouse over the title, twice.
    let title = window.get_by_label("Maximise train/loss").rect().center();
    for _ in 0..2 {
        window.drag_at(title);
        window.drop_at(title);
        window.step();
    }
    window.run();
    assert!(chart(&window, "train/loss").height() > 400.0);
    press(&mut window, Key::M);
    window.get_by_label("Chart of train/accuracy");
}

#[test]
fn the_menu_pins_and_sets_the_range() {
    let recorded = Recorded::new(200);
    let mut window = recorded.window();
    click(&mut window, "Options of train/lr");
    click(&mut window, "Pin chart to the top");
    assert!(window.get_by_label("Group Pinned").rect().top() < window.get_by_label("Group train").rect().top());
    assert!(chart(&window, "train/lr").top() < chart(&window, "train/loss").top());
    // By the right button too.
    window.get_by_label("Chart of train/lr").click_secondary();
    window.run();
    click(&mut window, "Unpin chart");
    assert!(window.query_by_label("Group Pinned").is_none());

    click(&mut window, "Options of train/loss");
    click(&mut window, "Include zero");
    assert!(window.state().view().charts.options["train/loss"].has_zero);
    for (name, text) in [("Least y of train/loss", "0.5"), ("Greatest y of train/loss", "1e1")] {
        window.get_by_label(name).focus();
        window.run();
        window.get_by_label(name).type_text(text);
        window.run();
    }
    let options = window.state().view().charts.options["train/loss"];
    assert_eq!((options.low, options.high), (Some(0.5), Some(10.0)));
    click(&mut window, "Automatic range");
    assert_eq!(window.state().view().charts.options["train/loss"].low, None);
    click(&mut window, "Include zero");
    assert!(window.state().view().charts.options.is_empty());
}

#[test]
fn a_screen_reader_hears_values_and_what_is_left_out() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    let text = spoken(&window, "test/accuracy");
    assert!(text.starts_with("test/accuracy: ") && text.contains("deep 0.") && text.contains(" at step 400"), "{text}");
    window.state_mut().view_mut().x_axis = XAxis::Epoch;
    window.run();
    assert!(spoken(&window, "test/accuracy").contains("at epoch 4.00"));
}

/// A window over runs whose metric `m` is made of these values, one a step from step `first` on.
fn over(curves: &[(&str, u64, Vec<f64>)]) -> (tempfile::TempDir, Harness<'static, Dashboard>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, first, values) in curves {
        let new = solstice_store::NewRun {
            name: (*name).into(),
            config: serde_json::json!({ "seed": name, "kind": if name.starts_with('a') { "a" } else { "b" } }),
            ..Default::default()
        };
        let writer = solstice_store::RunWriter::create(folder.path(), &new).unwrap();
        for (index, value) in values.iter().enumerate() {
            let step = first + index as u64;
            let at = solstice_store::At { step, epoch: step as f64 / 10.0, samples: step * 64 };
            writer.scalars(at, &[("train/m", *value)]);
        }
        writer.state(solstice_store::RunState::Done, None);
        writer.flush().unwrap();
        solstice_store::set_label(writer.path(), "name", name).unwrap();
    }
    let snapshot = Snapshot::read(&[folder.path().to_path_buf()]);
    let mut window = window(Harness::builder(), Source::of(snapshot), egui::Theme::Dark);
    window.run();
    (folder, window)
}

#[test]
fn outliers_are_cut_and_told_until_it_is_switched_off() {
    let mut values: Vec<f64> = (0..200).map(|index| 1.0 + f64::from(index % 5) * 0.1).collect();
    values[10] = 900.0;
    let (_folder, mut window) = over(&[("a", 1, values), ("b", 1, vec![5000.0; 200])]);
    // Two curves far apart: nothing is flattened that could be shown.
    assert!(!spoken(&window, "train/m").contains("cut"), "{}", spoken(&window, "train/m"));
    click(&mut window, "Curves of b");
    assert!(spoken(&window, "train/m").ends_with("cut at 1.4, up to 900"), "{}", spoken(&window, "train/m"));
    press(&mut window, Key::U);
    assert!(!spoken(&window, "train/m").contains("cut"));
}

#[test]
fn what_has_no_place_on_a_logarithmic_axis_is_counted() {
    let values: Vec<f64> = (0..100).map(|index| if index % 4 == 0 { 0.0 } else { f64::from(index) - 10.0 }).collect();
    let wanted = values.iter().filter(|value| **value <= 0.0).count();
    let (_folder, mut window) = over(&[("a", 0, values)]);
    press(&mut window, Key::Y);
    assert!(spoken(&window, "train/m").contains(&format!("{wanted} not above 0")), "{}", spoken(&window, "train/m"));
    press(&mut window, Key::L);
    assert!(spoken(&window, "train/m").contains("1 at x 0"), "{}", spoken(&window, "train/m"));
}

#[test]
fn groups_become_mean_and_deviation() {
    let curve = |value: f64| vec![value; 50];
    let (_folder, mut window) = over(&[("a1", 1, curve(1.0)), ("a2", 1, curve(2.0)), ("a3", 1, curve(6.0)), ("b1", 1, curve(4.0))]);
    press(&mut window, Key::G);
    assert!(window.state().view().charts.has_means);
    // By itself: the setting that some runs share. 1, 2 and 6: mean 3, squares 4 + 1 + 9 = 14, over 2, root 2.646.
    let text = spoken(&window, "train/m");
    assert!(text.contains("kind a 3 ± 2.646 of 3 at step") && text.contains("kind b 4 ± 0 of 1"), "{text}");
    click(&mut window, "Group by");
    click(&mut window, "All runs");
    assert_eq!(window.state().view().charts.group_by, Some(GroupBy::All));
    // 1, 2, 6 and 4: mean 3.25, squares 5.0625 + 1.5625 + 7.5625 + 0.5625 = 14.75, over 3, root 2.217.
    let text = spoken(&window, "train/m");
    assert!(text.contains("all runs 3.25 ± 2.217 of 4"), "{text}");
    click(&mut window, "Group by");
    click(&mut window, "No groups");
    assert!(spoken(&window, "train/m").contains("a1 1 at step 50"));
}

#[test]
fn keys_pan_and_zoom_the_chart_that_has_the_focus() {
    let recorded = Recorded::new(1000);
    let mut window = recorded.window();
    window.state_mut().session_mut().zoom.x = Some((400.0, 600.0));
    window.run();
    window.get_by_label("Chart of train/loss").focus();
    window.run();
    let range = |window: &Harness<Dashboard>| window.state().session().zoom.x.unwrap();
    press(&mut window, Key::ArrowRight);
    let (low, high) = range(&window);
    assert!((low - 420.0).abs() < 0.01 && (high - 620.0).abs() < 0.01, "{low} {high}");
    press(&mut window, Key::ArrowLeft);
    press(&mut window, Key::ArrowLeft);
    assert!((range(&window).0 - 380.0).abs() < 0.01);
    press(&mut window, Key::Plus);
    let (low, high) = range(&window);
    assert!((low - 400.0).abs() < 0.01 && (high - 560.0).abs() < 0.01, "{low} {high}");
    press(&mut window, Key::Minus);
    assert!((range(&window).0 - 380.0).abs() < 0.01);
    assert!(window.get_by_label("Chart of train/loss").is_focused());
    // On a logarithmic axis a tenth of the width is a factor.
    window.state_mut().view_mut().charts.log_x = true;
    window.state_mut().session_mut().zoom.x = Some((1.0, 1024.0));
    window.run();
    press(&mut window, Key::ArrowRight);
    let (low, high) = range(&window);
    assert!((low - 2.0).abs() < 0.01 && (high - 2048.0).abs() < 1.0, "{low} {high}");
}

#[test]
fn the_mouse_drags_boxes_and_the_wheel() {
    let recorded = Recorded::new(1000);
    let mut window = recorded.window();
    let plot = plot_rect(chart(&window, "train/loss"));
    let zoom = |window: &Harness<Dashboard>| window.state().session().zoom.clone();
    // A box of half the width and half the height, in the middle.
    drag(&mut window, plot.lerp_inside(vec2(0.25, 0.25)), plot.lerp_inside(vec2(0.75, 0.75)), PointerButton::Primary, Modifiers::NONE);
    let (low, high) = zoom(&window).x.unwrap();
    assert!((low - 250.0).abs() < 6.0 && (high - 750.0).abs() < 6.0, "{low} {high}");
    assert!(zoom(&window).y.contains_key("train/loss"));
    // A tenth of the width to the right: earlier steps come in.
    let delta = vec2(plot.width() * 0.1, 0.0);
    for (button, modifiers, wanted) in
        [(PointerButton::Primary, Modifiers::SHIFT, low - 50.0), (PointerButton::Middle, Modifiers::NONE, low - 100.0)]
    {
        drag(&mut window, plot.center(), plot.center() + delta, button, modifiers);
        let now = zoom(&window).x.unwrap().0;
        assert!((now - wanted).abs() < 8.0, "{button:?}: {now} is not {wanted}");
    }
    press(&mut window, Key::R);
    assert!(!zoom(&window).is_active());
    window.hover_at(plot.center());
    window.event(Event::Zoom(2.0));
    window.run();
    let (low, high) = zoom(&window).x.unwrap();
    assert!((high - low - 500.0).abs() < 20.0, "{low} {high}");
}

#[test]
fn charts_that_are_not_linked_have_ranges_of_their_own() {
    let recorded = Recorded::new(1000);
    let mut window = recorded.window();
    click(&mut window, "Link axes");
    let plot = plot_rect(chart(&window, "train/loss"));
    drag(&mut window, plot.lerp_inside(vec2(0.25, 0.5)), plot.lerp_inside(vec2(0.75, 0.5)), PointerButton::Primary, Modifiers::NONE);
    let zoom = window.state().session().zoom.clone();
    assert_eq!((zoom.x, zoom.own_x.keys().map(String::as_str).collect::<Vec<_>>()), (None, vec!["train/loss"]));
    for _ in 0..2 {
        window.drag_at(plot.center());
        window.drop_at(plot.center());
        window.step();
    }
    window.run();
    assert!(window.state().session().zoom.own_x.is_empty());
}

#[test]
fn a_click_on_a_curve_pins_its_point() {
    let (_folder, mut window) = over(&[("a", 0, vec![3.0; 101]), ("b", 0, vec![1.0; 101])]);
    let plot = plot_rect(chart(&window, "train/m"));
    // 3 and 1 with 6 % air: 3 is at 0.12 / 2.24 of the height from above.
    let at = plot.lerp_inside(vec2(0.4, 0.12 / 2.24));
    window.hover_at(at);
    window.run();
    window.drag_at(at);
    window.drop_at(at);
    window.run();
    window.get_by_label("Fork from here…");
    let card = window.state().session().charts.card.clone().unwrap();
    assert!((39..=41).contains(&card.step) && card.value == 3.0 && card.smoothed.is_none(), "{card:?}");
    window.get_by_label(&format!("train/m at step {}", card.step));
    wait(&mut window);
    click(&mut window, "Select run");
    assert_eq!(window.state().view().selected.as_ref(), Some(&card.run));
    assert!(window.query_by_label("Fork from here…").is_none());
    // Beside all curves there is no point; Escape takes a card away.
    wait(&mut window);
    window.drag_at(at);
    window.drop_at(at);
    window.run();
    press(&mut window, Key::Escape);
    assert!(window.state().session().charts.card.is_none());
    wait(&mut window);
    let nowhere = plot.lerp_inside(vec2(0.4, 0.5));
    window.hover_at(nowhere);
    window.run();
    window.drag_at(nowhere);
    window.drop_at(nowhere);
    window.run();
    assert!(window.state().session().charts.card.is_none());
}

#[test]
fn kinds_of_marks_can_be_hidden() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Marks");
    for kind in ["Evaluation", "Checkpoint", "Live change", "Reload", "Pause", "Resume", "Fork", "Not finite", "Other"] {
        let toggled = window.get_by_role_and_label(egui::Role::CheckBox, kind).accesskit_node().toggled();
        assert_eq!(toggled, Some(Toggled::True), "{kind}");
    }
    click(&mut window, "Live change");
    assert!(!is_on(&window, "Live change"));
    assert!(window.state().view().charts.hidden_marks.contains("Live change"));
}

#[test]
fn a_mark_tells_what_happened_under_the_mouse() {
    let recorded = Recorded::new(400);
    let mut window = recorded.window();
    click(&mut window, "Run deep");
    // `deep` has 400 steps and its value was set at 200: the middle of the whole range.
    let plot = plot_rect(chart(&window, "train/loss"));
    window.hover_at(egui::pos2(plot.center().x, plot.bottom() + 6.5));
    window.run();
    window.get_by_label("Live change at step 200: optimizer.lr from 0.4 to 0.3");
    window.get_by_label_contains("Checkpoint at step 200");
}

/// A window whose runs folder lies in a folder of its own, where exports go.
fn exporting() -> (Recorded, tempfile::TempDir, Harness<'static, Dashboard>) {
    let recorded = Recorded::new(400);
    let outer = tempfile::tempdir().unwrap();
    let runs = outer.path().join("runs");
    let copied = |from: &Path, to: &Path| std::fs::copy(from, to).map(|_| ()).unwrap();
    for writer in &recorded.writers {
        let folder = runs.join(writer.path().file_name().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(writer.path()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            copied(&entry.path(), &folder.join(entry.file_name()));
        }
    }
    let mut window = window(Harness::builder(), Source::still(&[runs]), egui::Theme::Dark);
    window.run();
    (recorded, outer, window)
}

/// Saves a chart by its menu and waits for the thread that writes.
fn saved(window: &mut Harness<Dashboard>, metric: &str, item: &str) -> PathBuf {
    window.state_mut().session_mut().charts.exports.said = None;
    click(window, &format!("Options of {metric}"));
    click(window, item);
    while window.state().session().charts.exports.said.is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
        window.step();
    }
    window.run();
    window.state().session().charts.exports.said.clone().unwrap().unwrap()
}

#[test]
fn the_points_of_a_csv_are_those_that_were_pushed() {
    let (_recorded, outer, mut window) = exporting();
    window.state_mut().session_mut().zoom.x = Some((100.0, 250.0));
    window.run();
    let path = saved(&mut window, "train/loss", "Save points as CSV");
    assert_eq!(path, outer.path().join("exports/train-loss.csv"));
    window.get_by_label(&format!("Saved {}", path.display()));
    click(&mut window, "Copy path");
    let snapshot = Snapshot::read(&[outer.path().join("runs")]);
    let mut wanted: BTreeMap<(String, u64), f64> = BTreeMap::new();
    for run in &snapshot.runs {
        let points = run.series["train/loss"].points().filter(|point| (100..=250).contains(&point.step));
        wanted.extend(points.map(|point| ((run.id.clone(), point.step), point.value)));
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.split("\r\n");
    assert_eq!(lines.next(), Some("run,step,epoch,samples,time,value,name"));
    let mut found = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let step: u64 = fields[1].parse().unwrap();
        assert_eq!(fields[2].parse::<f64>().unwrap(), step as f64 / 100.0);
        assert_eq!(fields[3].parse::<u64>().unwrap(), step * 64);
        found.insert((fields[0].to_owned(), step), f64::from(fields[5].parse::<f32>().unwrap()));
    }
    assert_eq!(found.len(), wanted.len());
    for (key, value) in &wanted {
        assert!(found[key] == *value || (found[key].is_nan() && value.is_nan()), "{key:?}");
    }
    // Again: the first file stays.
    assert_eq!(saved(&mut window, "train/loss", "Save points as CSV"), outer.path().join("exports/train-loss-2.csv"));
    click(&mut window, "Close");
    assert!(window.query_by_label("Copy path").is_none());
}

/// Tags of an XML text, with whether every one that opens is closed in order.
fn tags(text: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_owned();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_ref(), Some(&name), "closes what was opened last");
        } else {
            if !tag.ends_with('/') {
                open.push(name);
            }
            all.push(tag.to_owned());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    all
}

#[test]
fn an_svg_has_title_axes_legend_bands_and_lines() {
    let (_recorded, outer, mut window) = exporting();
    window.state_mut().view_mut().smoothing = 0.4;
    window.run();
    let path = saved(&mut window, "train/loss", "Save drawing as SVG");
    assert_eq!(path, outer.path().join("exports/train-loss.svg"));
    let text = std::fs::read_to_string(&path).unwrap();
    let tags = tags(&text);
    let count = |what: &str| tags.iter().filter(|tag| tag.contains(what)).count();
    assert!(tags[0].starts_with("svg xmlns=\"http://www.w3.org/2000/svg\""));
    assert_eq!(count("class=\"line\""), 5, "one line a run");
    assert_eq!(count("class=\"raw\""), 5, "raw behind smoothed");
    assert!(count("class=\"band\"") >= 1);
    for wanted in ["<title>train/loss</title>", ">Step</text>", ">wide</text>", ">narrow</text>", ">200</text>"] {
        assert!(text.contains(wanted), "{wanted}");
    }
    assert!(!text.contains("NaN") && !text.contains("inf"));
    // The line of `deep` goes from the left end to the right end of the plot.
    let plot = plot_rect(chart(&window, "train/loss"));
    let widths: Vec<f32> = tags
        .iter()
        .filter(|tag| tag.contains("class=\"line\""))
        .map(|tag| {
            let path = tag.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
            let xs: Vec<f32> = path.split(['M', 'L']).filter_map(|pair| pair.split(' ').next()?.parse().ok()).collect();
            xs.last().unwrap() - xs[0]
        })
        .collect();
    assert!(widths.iter().any(|width| (width - plot.width()).abs() < 4.0), "{widths:?} of {}", plot.width());
}

#[test]
fn a_png_is_the_chart_with_twice_the_pixels_and_a_legend() {
    let (_recorded, outer, mut window) = exporting();
    let rect = chart(&window, "train/loss");
    let path = saved(&mut window, "train/loss", "Save picture as PNG");
    assert_eq!(path, outer.path().join("exports/train-loss.png"));
    let picture = image::open(&path).unwrap().to_rgba8();
    assert!((picture.width() as f32 - 2.0 * rect.width()).abs() <= 1.0, "{} of {}", picture.width(), rect.width());
    assert!(picture.height() as f32 > 2.0 * rect.height(), "the names of the curves stand below");
    // The lines are where they are on screen: every colour that is no grey and frequent within the plot there is more frequent in the file's plot.
    let screen = window.render().unwrap();
    let plot = plot_rect(rect);
    let within = |image: &image::RgbaImage, corner: Pos2, scale: f32| {
        let (from, to) = ((plot.min - corner) * scale, (plot.max - corner) * scale);
        let mut counts: BTreeMap<[u8; 4], usize> = BTreeMap::new();
        for y in from.y as u32..to.y as u32 {
            (from.x as u32..to.x as u32).for_each(|x| *counts.entry(image.get_pixel(x, y).0).or_default() += 1);
        }
        counts
    };
    let (on_screen, in_file) = (within(&screen, pos2(0.0, 0.0), 1.0), within(&picture, rect.min, 2.0));
    let spread = |color: &[u8; 4]| color[..3].iter().max().unwrap() - color[..3].iter().min().unwrap();
    let lines: Vec<_> = on_screen.iter().filter(|(color, count)| spread(color) > 90 && **count > 40).collect();
    assert!(!lines.is_empty());
    for (color, count) in lines {
        let found = in_file.get(color).copied().unwrap_or(0);
        assert!(found > *count, "{color:?}: {found} pixels in the file, {count} on screen");
    }
    let mut colors: BTreeMap<[u8; 4], usize> = BTreeMap::new();
    picture.pixels().for_each(|pixel| *colors.entry(pixel.0).or_default() += 1);
    assert!(colors.len() > 20, "curves and text, not one colour");
    // Afterwards everything is there again.
    window.get_by_label("Options of train/loss");
}

#[test]
fn what_was_chosen_is_kept() {
    let charts = |text: &str| serde_json::from_str::<solstice_dashboard::gui::curves::ChartsView>(text).unwrap();
    let mut view = charts("{}");
    assert!(view.is_linked && view.cuts_outliers && !view.log_x);
    view.pinned.insert("train/loss".into());
    view.group_by = Some(GroupBy::Setting("optimizer.lr".into()));
    let again = charts(&serde_json::to_string(&view).unwrap());
    assert_eq!((again.pinned, again.group_by), (view.pinned, view.group_by));
}

#[test]
fn more_runs_than_colours_still_settle() {
    // Twelve runs of many points on a narrow budget of columns: drawn quickly first, exactly after, and then at rest.
    let values: Vec<f64> = (0..3000).map(|index| f64::from(index % 100)).collect();
    let names: Vec<String> = (0..12).map(|index| format!("a{index}")).collect();
    let curves: Vec<(&str, u64, Vec<f64>)> = names.iter().map(|name| (name.as_str(), 1, values.clone())).collect();
    let (_folder, mut window) = over(&curves);
    press(&mut window, Key::A);
    let root = egui::ViewportId::ROOT;
    let delay = window.output().viewport_output[&root].repaint_delay;
    assert!(delay > std::time::Duration::from_secs(3600), "{delay:?}");
}

#[test]
#[ignore = "draws pictures for people, into SOLSTICE_PICTURES"]
fn pictures() {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    let recorded = Recorded::new(4000);
    for (theme, name) in [(egui::Theme::Dark, "dark"), (egui::Theme::Light, "light")] {
        let mut window = recorded.window_with(Harness::builder(), theme);
        let save = |window: &mut Harness<Dashboard>, what: &str| {
            window.run();
            window.render().unwrap().save(folder.join(format!("curves-{name}-{what}.png"))).unwrap();
        };
        window.hover_at(chart(&window, "train/loss").center());
        save(&mut window, "raw");
        window.state_mut().view_mut().smoothing = 0.4;
        window.state_mut().view_mut().charts.log_x = true;
        window.state_mut().view_mut().log_y = true;
        window.hover_at(chart(&window, "train/accuracy").lerp_inside(vec2(0.4, 0.5)));
        save(&mut window, "log");
        window.state_mut().view_mut().charts.log_x = false;
        window.state_mut().view_mut().log_y = false;
        window.hover_at(egui::pos2(5.0, 5.0));
        click(&mut window, "Options of train/loss");
        save(&mut window, "menu");
        press(&mut window, Key::Escape);
        click(&mut window, "Marks");
        save(&mut window, "marks");
        press(&mut window, Key::Escape);
        press(&mut window, Key::G);
        window.hover_at(chart(&window, "train/loss").center());
        save(&mut window, "groups");
        press(&mut window, Key::G);
        press(&mut window, Key::M);
        let at = plot_rect(chart(&window, "train/loss")).lerp_inside(vec2(0.3, 0.8));
        window.hover_at(at);
        window.run();
        window.drag_at(at);
        window.drop_at(at);
        window.run();
        save(&mut window, "large");
        press(&mut window, Key::Escape);
        press(&mut window, Key::Escape);
        window.state_mut().view_mut().charts.size = ChartSize::Small;
        window.state_mut().session_mut().charts.exports.said = Some(Ok(PathBuf::from("/somewhere/exports/train-loss.csv")));
        save(&mut window, "small");
    }
}
