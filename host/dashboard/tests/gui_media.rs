//! The panel of media over recorded runs, driven by the names that a screen reader says; and the figures it shows, against cases worked by hand.

mod gui_common;

use std::io::Cursor;
use std::path::PathBuf;

use eframe::egui::{Key, OutputCommand, Pos2, Role, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use gui_common::window;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;
use solstice_dashboard::data::MediaKey;
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::media::histogram::{Mode, Sheet, quantile, rebin, spread};
use solstice_dashboard::gui::media::matrix::{Shares, accuracy, class_figures, is_confusion, read_out, shares, worst_pairs};
use solstice_dashboard::gui::media::table::{Sort, csv, order};
use solstice_dashboard::gui::media::text::{Change, WORDS_MAX, changes};
use solstice_dashboard::gui::source::Source;
use solstice_store::{Histogram, Image, Matrix, MetricKind, NewRun, RunState, RunWriter, Table, set_label};
use tempfile::TempDir;

/// Runs `one` and `two` with media of every kind.
struct Recorded {
    folder: TempDir,
    one: RunWriter,
    two: RunWriter,
}

/// Three classes: 8 of 10 cats, 6 of 10 dogs and 5 of 5 owls are right.
fn pets() -> Matrix {
    let labels: Vec<String> = ["cat", "dog", "owl"].map(String::from).to_vec();
    let cells = vec![8.0, 2.0, 0.0, 3.0, 6.0, 1.0, 0.0, 0.0, 5.0];
    Matrix { row_labels: labels.clone(), column_labels: labels, cells }
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut data = Cursor::new(Vec::new());
    image.write_to(&mut data, ImageFormat::Png).unwrap();
    data.into_inner()
}

/// A small picture of something round.
fn disc(side: u32, phase: f32) -> Image {
    let image = RgbImage::from_fn(side, side, |x, y| {
        let (x, y) = (x as f32 / side as f32 - 0.5, y as f32 / side as f32 - 0.5);
        let inside = ((0.16 - x * x - y * y) * 40.0).clamp(0.0, 1.0);
        let wave = 0.5 + 0.5 * ((x + y) * 9.0 + phase).sin();
        Rgb([(inside * 240.0) as u8, (inside * wave * 200.0) as u8, 60 + (inside * 80.0) as u8])
    });
    Image { format: "png".into(), width: side, height: side, caption: "a disc; predicted/true 3/3".into(), data: png(&image) }
}

/// A bell of 4000 values around `middle`, in bins of its own.
fn bell(middle: f64, width: f64) -> Histogram {
    let edges: Vec<f64> = (0..=40).map(|edge| middle + width * (edge as f64 / 10.0 - 2.0)).collect();
    let density = |x: f64| (-0.5 * ((x - middle) / width * 1.6).powi(2)).exp();
    let counts = edges.windows(2).map(|pair| (density((pair[0] + pair[1]) / 2.0) * 255.0) as u64).collect();
    Histogram { edges, counts, not_finite: 0 }
}

fn digits(progress: f64) -> Matrix {
    let labels: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    let cell = |index: usize| {
        let (truth, predicted) = (index / 10, index % 10);
        let alike = matches!((truth, predicted), (4, 9) | (9, 4) | (3, 8) | (8, 3) | (3, 5) | (7, 1));
        let wrong = if alike { 9.0 } else { ((truth * 7 + predicted * 3) % 4) as f64 } * (2.0 - progress);
        if truth == predicted { 80.0 + (15.0 * progress).floor() } else { wrong.floor() }
    };
    Matrix { row_labels: labels.clone(), column_labels: labels, cells: (0..100).map(cell).collect() }
}

impl Recorded {
    fn new() -> Recorded {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let writer = RunWriter::create(folder.path(), &NewRun { name: name.into(), ..NewRun::default() }).unwrap();
            writer.state(RunState::Running, None);
            writer.flush().unwrap();
            set_label(writer.path(), "name", name).unwrap();
            writer
        };
        let (two, one) = (create("two"), create("one"));
        for (seed, writer) in [(0.0, &one), (1.5, &two)] {
            for step in [100u64, 200, 300] {
                let progress = step as f64 / 300.0;
                writer.scalar(step, "train/loss", 1.0 / step as f64);
                writer.image(step, "samples/test", disc(28, step as f32 / 60.0 + seed));
                for index in 0..6 {
                    writer.image(step, "samples/grid", disc(16, index as f32 + seed));
                }
                writer.matrix(step, "test/confusion", if step == 300 { pets() } else { digits(progress) });
                writer.histogram(step, "gradients/fc1", bell(0.2 * progress, 1.2 - progress * 0.9));
                let text = ["The king is here", "The queen is here now", "The old queen is here now"][(step / 100 - 1) as usize];
                writer.text(step, "samples/text", text);
                let rows = vec![
                    vec![json!("beam"), json!(2.5), json!("a, \"quoted\" word")],
                    vec![json!("arch"), json!(10), json!(null)],
                    vec![json!("coil"), json!(-1), json!("x")],
                ];
                writer.table(step, "errors", Table { columns: ["part", "loss", "note"].map(String::from).to_vec(), rows });
            }
            writer.flush().unwrap();
        }
        Recorded { folder, one, two }
    }

    /// A window with the panel in front, tall enough for all of it.
    fn window<'a>(&self) -> Harness<'a, Dashboard> {
        self.window_of(Theme::Dark, 2600.0)
    }

    fn window_of<'a>(&self, theme: Theme, height: f32) -> Harness<'a, Dashboard> {
        let mut window = window(Harness::builder(), Source::still(&[self.folder.path().to_path_buf()]), theme);
        window.set_size(vec2(1280.0, height));
        window.key_press(Key::Num3);
        window.run();
        click(&mut window, "Run one");
        window
    }
}

fn click(window: &mut Harness<Dashboard>, label: &str) {
    window.get_by_label(label).click();
    window.run();
}

fn copied(window: &Harness<Dashboard>) -> Option<String> {
    window.output().platform_output.commands.iter().find_map(|command| match command {
        OutputCommand::CopyText(text) => Some(text.clone()),
        _ => None,
    })
}

fn click_and_copy(window: &mut Harness<Dashboard>, label: &str) -> Option<String> {
    window.get_by_label(label).click();
    // A click is pressed in one frame and let go in another: look at each.
    (0..4).find_map(|_| {
        window.step();
        copied(window)
    })
}

#[test]
fn shares_of_rows_and_columns_as_by_hand() {
    let pets = pets();
    assert!(is_confusion(&pets));
    assert_eq!(shares(&pets, Shares::Row), [0.8, 0.2, 0.0, 0.3, 0.6, 0.1, 0.0, 0.0, 1.0]);
    // Columns hold 11, 8 and 6.
    let columns = [8.0 / 11.0, 0.25, 0.0, 3.0 / 11.0, 0.75, 1.0 / 6.0, 0.0, 0.0, 5.0 / 6.0];
    assert_eq!(shares(&pets, Shares::Column), columns);
    assert_eq!(accuracy(&pets), Some(19.0 / 25.0));
    let pairs: Vec<(usize, usize, f64, f64)> =
        worst_pairs(&pets, 8).iter().map(|pair| (pair.truth, pair.predicted, pair.count, pair.of_row)).collect();
    assert_eq!(pairs, [(1, 0, 3.0, 0.3), (0, 1, 2.0, 0.2), (1, 2, 1.0, 0.1)]);
    assert_eq!(worst_pairs(&pets, 1).len(), 1);
    let figures = class_figures(&pets);
    assert_eq!((figures[0].precision, figures[0].recall, figures[0].support), (Some(8.0 / 11.0), Some(0.8), 10.0));
    assert_eq!((figures[2].precision, figures[2].recall), (Some(5.0 / 6.0), Some(1.0)));
    // 2 * 6 / (10 + 8).
    assert_eq!(figures[1].f1, Some(12.0 / 18.0));
    assert_eq!(read_out(&pets, 1, 0, true), "true dog, predicted cat: 3 (30.0 % of row)");

    // A class that never occurs and is never predicted has no figures, and nothing is divided by 0.
    let labels = vec!["a".to_string(), "b".to_string()];
    let lone = Matrix { row_labels: labels.clone(), column_labels: labels.clone(), cells: vec![4.0, 0.0, 0.0, 0.0] };
    let figures = class_figures(&lone)[1];
    assert_eq!((figures.precision, figures.recall, figures.f1, figures.support), (None, None, None, 0.0));
    assert!(shares(&lone, Shares::Row)[2].is_nan() && worst_pairs(&lone, 8).is_empty());
    let empty = Matrix { cells: vec![0.0; 4], ..lone };
    assert_eq!(accuracy(&empty), None);
    let signed = Matrix { cells: vec![1.0, -1.0, 0.0, 1.0], ..empty };
    assert!(!is_confusion(&signed));
}

#[test]
fn rebinning_goes_by_area_and_keeps_the_count() {
    // 10 in 0..2 and 6 in 2..5, onto bins of width 1.5 from 0 to 6: 7.5; 2.5 + 6/3; 6/3 * 1.5; 6/3 * 0.5.
    assert_eq!(rebin(&[0.0, 2.0, 5.0], &[10, 6], &[0.0, 1.5, 3.0, 4.5, 6.0]), [7.5, 4.5, 3.0, 1.0]);
    // Finer and coarser, and a bin without width.
    assert_eq!(rebin(&[0.0, 4.0], &[8], &[0.0, 1.0, 2.0, 3.0, 4.0]), [2.0; 4]);
    assert_eq!(rebin(&[0.0, 1.0, 1.0, 2.0], &[1, 5, 1], &[0.0, 1.0, 2.0]), [1.0, 6.0]);
    assert_eq!(rebin(&[2.0, 2.0], &[3], &[0.0, 1.0, 2.0]), [0.0, 3.0]);
    // Half of it lies beyond the axis.
    assert_eq!(rebin(&[0.0, 2.0], &[4], &[1.0, 2.0]), [2.0]);
    // Random bins: the sum stays. The generator is that of Numerical Recipes.
    let mut seed = 17u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(seed >> 8) / f64::from(1 << 24)
    };
    for _ in 0..200 {
        let mut edges: Vec<f64> = (0..20).map(|_| random() * 10.0 - 5.0).collect();
        edges.sort_by(f64::total_cmp);
        let counts: Vec<u64> = (0..19).map(|_| (random() * 100.0) as u64).collect();
        let axis: Vec<f64> = (0..=37).map(|edge| -5.0 + 10.0 * f64::from(edge) / 37.0).collect();
        let sum: f64 = rebin(&edges, &counts, &axis).iter().sum();
        let wanted: u64 = counts.iter().sum();
        assert!((sum - wanted as f64).abs() < 1e-9 * wanted as f64, "{sum} for {wanted}");
    }
}

#[test]
fn histograms_of_several_steps_share_an_axis() {
    let first = Histogram { edges: vec![-1.0, 0.0, 1.0], counts: vec![30, 10], not_finite: 0 };
    let second = Histogram { edges: vec![0.0, 3.0], counts: vec![6], not_finite: 2 };
    let sheet = Sheet::of(&[(1, 100, &first), (2, 250, &second)]);
    assert_eq!((sheet.axis[0], *sheet.axis.last().unwrap(), &sheet.steps[..]), (-1.0, 3.0, &[100, 250][..]));
    for (row, wanted) in sheet.rows.iter().zip([40.0, 6.0]) {
        assert!((row.iter().sum::<f64>() - wanted).abs() < 1e-9);
    }
    // 96 bins from -1 to 3: 24 a unit.
    assert!((sheet.rows[0][0] - 30.0 / 24.0).abs() < 1e-9 && (sheet.rows[1][95] - 6.0 / 72.0).abs() < 1e-9);
    assert_eq!(sheet.read_out(0, 0), "step 100, -1 to -0.9583: 1.25");
    assert!(sheet.read_out(1, 95).ends_with("2 not finite"));
    // A quarter of 40 is a third of the way through the first bin's 30.
    assert!((quantile(&first.edges, &first.counts, 0.25).unwrap() - (-1.0 + 1.0 / 3.0)).abs() < 1e-12);
    assert!((quantile(&first.edges, &first.counts, 0.95).unwrap() - 0.8).abs() < 1e-12);
    assert_eq!(quantile(&[0.0, 1.0], &[0], 0.5), None);
    assert_eq!(spread(5, 8), [0, 1, 2, 3, 4]);
    assert_eq!(spread(9, 4), [0, 4, 8]);
    assert_eq!(spread(11, 4), [0, 4, 8, 10]);
    assert!(spread(0, 4).is_empty());
}

#[test]
fn changes_of_a_text_word_by_word() {
    let found = changes("The king is here", "The old queen is here").unwrap();
    let same = |text: &str| (Change::Same, text.to_string());
    let removed = |text: &str| (Change::Removed, text.to_string());
    let added = |text: &str| (Change::Added, text.to_string());
    assert_eq!(found, [same("The "), removed("king "), added("old queen "), same("is here")]);
    assert_eq!(changes("a b", "a b").unwrap(), [same("a b")]);
    assert_eq!(changes("", "new").unwrap(), [added("new")]);
    assert_eq!(changes("gone", "").unwrap(), [removed("gone")]);
    // The new text is what is left without the removed words, to the letter.
    let (old, new) = ("  one two\nthree four", "zero  two three\n\nfive four ");
    let kept: String =
        changes(old, new).unwrap().into_iter().filter(|(change, _)| *change != Change::Removed).map(|(_, text)| text).collect();
    assert_eq!(kept, new);
    let long = |word: &str| vec![word; WORDS_MAX + 1].join(" ");
    assert_eq!(changes(&long("a"), &long("b")), None);
    // What both begin with is not compared.
    assert!(changes(&long("a"), &(long("a") + " b")).is_some());
}

#[test]
fn tables_are_sorted_and_written_as_csv() {
    let rows = vec![
        vec![json!("b"), json!(10)],
        vec![json!("a,\"x\""), json!(9.5)],
        vec![json!("c"), json!(null)],
        vec![json!("d"), json!("many")],
    ];
    let table = Table { columns: vec!["name".into(), "n".into()], rows };
    let by = |column, is_descending| order(&table, Some(Sort { column, is_descending }));
    assert_eq!(order(&table, None), [0, 1, 2, 3]);
    assert_eq!((by(1, false), by(1, true), by(0, false)), (vec![1, 0, 3, 2], vec![3, 0, 1, 2], vec![1, 0, 2, 3]));
    assert_eq!(csv(&table, &[1, 2]), "name,n\r\n\"a,\"\"x\"\"\",9.5\r\nc,\r\n");
}

#[test]
fn all_kinds_are_there_and_chips_and_filter_narrow_them() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    let names = ["samples/test", "samples/grid", "test/confusion", "gradients/fc1", "samples/text", "errors"];
    for name in names {
        window.get_by_label(name);
    }
    click(&mut window, "Show Images");
    assert!(window.query_by_label("samples/grid").is_none());
    window.get_by_label("test/confusion");
    click(&mut window, "Show Images");
    window.get_by_label("samples/grid");
    window.get_by_label("Filter of media").focus();
    window.run();
    window.get_by_label("Filter of media").type_text("confu");
    window.run();
    assert_eq!(names.map(|name| window.query_by_label(name).is_some()), [false, false, true, false, false, false]);
    window.get_by_label("Filter of media").type_text("zzz");
    window.run();
    window.get_by_label("Nothing is left by the chips and the filter above");
}

#[test]
fn the_step_of_all_moves_every_card_and_a_cards_own_moves_it_alone() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    let text = |window: &Harness<'_, Dashboard>, text: &str| window.query_by_label(text).is_some();
    // The newest at first.
    assert!(text(&window, "The old queen is here now") && text(&window, "Matrix test/confusion: 3 classes, accuracy 76.0 %"));
    click(&mut window, "Step of all, back");
    assert!(text(&window, "The queen is here now"));
    window.get_by_label_contains("Matrix test/confusion: 10 classes");
    assert!(!window.state().view().media.is_live);
    window.get_by_role_and_label(Role::Slider, "Step of all").set_value_accesskit(120.0);
    window.run();
    assert_eq!(window.state().view().media.step, 100);
    assert!(text(&window, "The king is here"));
    // Alone.
    click(&mut window, "Step of samples/text, forward");
    assert!(text(&window, "The queen is here now") && !text(&window, "Matrix test/confusion: 3 classes, accuracy 76.0 %"));
    window.get_by_role_and_label(Role::Slider, "Step of test/confusion").set_value_accesskit(290.0);
    window.run();
    assert!(text(&window, "Matrix test/confusion: 3 classes, accuracy 76.0 %") && text(&window, "The queen is here now"));
    // A key goes to the next step, however far it is.
    window.get_by_role_and_label(Role::Slider, "Step of samples/text").focus();
    window.run();
    window.key_press(Key::ArrowRight);
    window.run();
    assert!(text(&window, "The old queen is here now"));
    // The step of all takes them along again.
    click(&mut window, "Step of all, forward");
    assert!(text(&window, "The queen is here now"));
    click(&mut window, "Live");
    assert!(window.state().view().media.is_live && text(&window, "The old queen is here now"));
}

#[test]
fn new_rows_appear_while_live_and_a_rewind_drops_them() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    window.get_by_label("The old queen is here now");
    recorded.one.text(400, "samples/text", "The crown is gone");
    recorded.one.flush().unwrap();
    window.run();
    window.get_by_label("The crown is gone");
    recorded.one.rewind(200).unwrap();
    window.run();
    assert!(window.query_by_label("The crown is gone").is_none());
    window.get_by_label("The queen is here now");
    // Not live: the step that is looked at stays.
    click(&mut window, "Live");
    click(&mut window, "Step of all, back");
    recorded.one.text(500, "samples/text", "The crown is found");
    recorded.one.flush().unwrap();
    window.run();
    assert!(window.query_by_label("The crown is found").is_none());
}

#[test]
fn pictures_are_enlarged_stepped_through_and_saved() {
    let recorded = Recorded::new();
    let mut window = recorded.window_of(Theme::Dark, 1400.0);
    click(&mut window, "Enlarge samples/grid, 2 of 6");
    window.get_by_label("2 of 6");
    click(&mut window, "Next picture");
    window.get_by_label("3 of 6");
    click(&mut window, "Previous picture");
    click(&mut window, "Previous picture");
    window.get_by_label("1 of 6");
    window.get_by_label("16 by 16 pixels");
    click(&mut window, "Step of samples/grid, back");
    window.get_by_label("step 200");
    click(&mut window, "Save as PNG…");
    let field = "File to save the picture to";
    let proposed = window.get_by_label(field).value().unwrap();
    assert!(proposed.ends_with("-samples-grid-step-200-1.png"), "{proposed}");
    let path: PathBuf = recorded.folder.path().join("mine.png");
    window.get_by_label(field).focus();
    window.run();
    window.key_press_modifiers(eframe::egui::Modifiers::COMMAND, Key::A);
    window.get_by_label(field).type_text(path.to_str().unwrap());
    window.run();
    click(&mut window, "Save");
    window.get_by_label(&format!("Saved as {}", path.display()));
    assert_eq!(std::fs::read(&path).unwrap(), disc(16, 0.0).data);
    click(&mut window, "Save");
    window.get_by_label_contains("is there already");
    click(&mut window, "Close");
    assert!(window.query_by_label(field).is_none());
    click(&mut window, "Back");
    click(&mut window, "Enlarge samples/test");
    window.get_by_label("Back");
    window.key_press(Key::Escape);
    window.run();
    window.get_by_label("Enlarge samples/test");
}

#[test]
fn a_matrix_says_what_is_under_the_mouse_its_worst_pairs_and_figures() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    window.get_by_label("Accuracy 76.0 % of 25");
    window.get_by_label("dog taken for cat: 3 (30.0 % of row)");
    // Precision, recall and F1 of the owls.
    for figure in ["83.3", "100.0", "90.9"] {
        window.get_by_label(figure);
    }
    let map = window.get_by_label("Matrix test/confusion: 3 classes, accuracy 76.0 %").rect();
    // Whatever the layout, some place of the map is each of the cells.
    let mut found = std::collections::BTreeSet::new();
    for x in 0..24 {
        for y in 0..12 {
            window.hover_at(Pos2::new(
                map.left() + map.width() * (x as f32 + 0.5) / 24.0,
                map.top() + map.height() * (y as f32 + 0.5) / 12.0,
            ));
            window.step();
            found.extend(window.query_all_by_label_contains("predicted ").filter_map(|node| node.value().or(Some(format!("{node:?}")))));
        }
    }
    assert!(found.iter().any(|text| text.contains("true dog, predicted cat: 3 (30.0 % of row)")), "{found:?}");
    assert_eq!(found.iter().filter(|text| text.contains("of row")).count(), 9, "{found:?}");
    window.remove_cursor();
    window.run();
    for (label, shares) in [("Row percent", Shares::Row), ("Column percent", Shares::Column), ("Counts", Shares::Count)] {
        click(&mut window, label);
        assert_eq!(window.state().view().media.shares, shares);
    }
}

#[test]
fn histograms_have_three_forms_and_a_read_out() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    for (label, mode, wanted) in
        [("Heat map", Mode::Heat, " to "), ("Percentiles", Mode::Percentiles, "median"), ("Ridge", Mode::Ridge, " to ")]
    {
        click(&mut window, label);
        assert_eq!(window.state().view().media.histogram, mode);
        window.get_by_label_contains("step 300: half within");
        let plot = window.get_by_label("Histograms gradients/fc1: 3 steps").rect();
        window.hover_at(plot.center());
        window.run();
        assert!(window.query_by_label_contains("step 300: half within").is_none());
        assert!(window.query_all_by_label_contains(wanted).next().is_some(), "{label}");
        window.remove_cursor();
        window.run();
    }
}

#[test]
fn texts_show_what_changed_and_are_copied() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    click(&mut window, "Changes");
    // One label in both views: what was removed stands in it too.
    window.get_by_label("The old queen is here now");
    click(&mut window, "Step of samples/text, back");
    window.get_by_label_contains("king queen is here now");
    click(&mut window, "Step of samples/text, back");
    window.get_by_label("No step before to compare with");
    click(&mut window, "Monospace");
    assert!(!window.state().view().media.is_monospace);
    assert_eq!(click_and_copy(&mut window, "Copy samples/text").as_deref(), Some("The king is here"));
}

#[test]
fn tables_are_sorted_by_a_click_and_copied_as_shown() {
    let recorded = Recorded::new();
    let mut window = recorded.window();
    let top = |window: &Harness<'_, Dashboard>, text: &str| window.get_by_label(text).rect().top();
    assert!(top(&window, "beam") < top(&window, "arch"));
    click(&mut window, "Sort errors by loss");
    assert!(top(&window, "coil") < top(&window, "beam") && top(&window, "beam") < top(&window, "arch"));
    click(&mut window, "Sort errors by loss");
    assert!(top(&window, "arch") < top(&window, "beam"));
    let csv = click_and_copy(&mut window, "Copy errors as CSV").unwrap();
    assert_eq!(csv, "part,loss,note\r\narch,10,\r\nbeam,2.5,\"a, \"\"quoted\"\" word\"\r\ncoil,-1,x\r\n");
    click(&mut window, "Sort errors by loss");
    assert!(top(&window, "beam") < top(&window, "arch"));
}

#[test]
fn a_long_table_lays_out_what_is_in_sight() {
    let recorded = Recorded::new();
    let rows = (0..50_000).map(|row| vec![json!(format!("row {row}"))]).collect();
    recorded.one.table(900, "errors", Table { columns: vec!["part".into()], rows });
    recorded.one.flush().unwrap();
    let window = recorded.window();
    window.get_by_label("50000 rows");
    window.get_by_label("row 0");
    assert!(window.query_all_by_label_contains("row ").count() < 40);
}

#[test]
fn two_runs_stand_side_by_side() {
    let recorded = Recorded::new();
    recorded.two.text(300, "samples/text", "Another text");
    recorded.two.flush().unwrap();
    let mut window = recorded.window();
    let two = recorded.two.path().file_name().unwrap().to_str().unwrap().to_owned();
    window.state_mut().view_mut().baseline = Some(two);
    window.run();
    let one = window.get_by_label("Enlarge samples/test of one").rect();
    let other = window.get_by_label("Enlarge samples/test of two").rect();
    assert!(one.right() <= other.left() && (one.top() - other.top()).abs() < 1.0);
    window.get_by_label("Another text");
    window.get_by_label("Matrix test/confusion of two: 3 classes, accuracy 76.0 %");
    click(&mut window, "Enlarge samples/test of two");
    window.get_by_label("28 by 28 pixels");
}

#[test]
fn a_damaged_picture_is_a_sentence() {
    let recorded = Recorded::new();
    let broken = Image { format: "png".into(), width: 4, height: 4, caption: String::new(), data: vec![1, 2, 3] };
    recorded.one.image(400, "samples/test", broken);
    recorded.one.flush().unwrap();
    let mut window = recorded.window();
    window.get_by_label_contains("this picture is damaged and cannot be shown");
    click(&mut window, "Step of samples/test, back");
    window.get_by_label("Enlarge samples/test");
}

#[test]
fn a_run_without_media_says_what_makes_them() {
    let folder = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(folder.path(), &NewRun { name: "plain".into(), ..NewRun::default() }).unwrap();
    writer.scalar(1, "train/loss", 1.0);
    writer.flush().unwrap();
    let mut window = window(Harness::builder(), Source::still(&[folder.path().to_path_buf()]), Theme::Dark);
    window.key_press(Key::Num3);
    window.run();
    window.get_by_label("This run has logged no pictures, matrices, histograms, texts or tables");
    window.get_by_label("callbacks: [sample_images(count: 16)],");
    let line = click_and_copy(&mut window, "Copy the line for gradient_histogram").unwrap();
    assert_eq!(line, "callbacks: [gradient_histogram(every: \"1ep\", weights: true)],");
}

#[test]
fn pictures_and_histograms_out_of_sight_are_not_read() {
    let recorded = Recorded::new();
    for name in 0..200 {
        recorded.one.histogram(300, &format!("gradients/layer{name:03}"), bell(0.0, 1.0));
    }
    recorded.one.flush().unwrap();
    let window = recorded.window_of(Theme::Dark, 800.0);
    let reader = window.state().session().media.reader.clone().unwrap();
    let media = reader.media();
    let key = |name: &str| MediaKey { run: recorded.one.path().into(), kind: MetricKind::Histogram, name: name.into() };
    assert!(media.listing(&key("gradients/layer199")).is_none());
    assert!(media.item_count() < 40, "{}", media.item_count());
    assert!(media.listing(&MediaKey { kind: MetricKind::Image, ..key("samples/test") }).is_some());
}

/// `SOLSTICE_PICTURES=FOLDER cargo test -p solstice-dashboard --test gui_media -- --ignored`
#[test]
fn it_looks_as_before() {
    let recorded = Recorded::new();
    let mut window = recorded.window_of(Theme::Dark, 800.0);
    gui_common::looks_as_before(&mut window, "media");
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures_of_the_panel() {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    let recorded = Recorded::new();
    for step in (310..=900u64).step_by(10) {
        let progress = step as f64 / 900.0;
        recorded.one.histogram(step, "gradients/fc1", bell(0.4 * progress, 1.0 - progress * 0.7));
        recorded.one.histogram(step, "weights/fc1", bell((progress * 6.0).sin() * 0.3, 0.3 + progress * 0.5));
    }
    recorded.one.matrix(900, "test/confusion", digits(0.9));
    let labels: Vec<String> = (0..100).map(|class| format!("class {class}")).collect();
    let cells = (0..10_000).map(|index| if index / 100 == index % 100 { 80.0 } else { f64::from(index * 7919 % 101 / 96) * 9.0 }).collect();
    recorded.one.matrix(900, "val/confusion", Matrix { row_labels: labels.clone(), column_labels: labels, cells });
    let text = "ROMEO:\nWhat say you to the morning light that breaks so soft upon the wall of yonder house, and all the rest of it?\n\n\
                JULIET:\nI say the day is early yet, and sweet the sound that I have heard.";
    recorded.one.text(800, "samples/text", text);
    recorded.one.text(900, "samples/text", text.replace("morning", "evening").replace("early yet", "far too late"));
    recorded.one.flush().unwrap();
    for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let mut window = recorded.window_of(theme, 800.0);
        let save = |window: &mut Harness<Dashboard>, part: &str| {
            window.render().unwrap().save(folder.join(format!("media-{name}-{part}.png"))).unwrap();
        };
        save(&mut window, "top");
        window.set_size(vec2(1280.0, 3200.0));
        window.run();
        click(&mut window, "Changes");
        save(&mut window, "all");
        click(&mut window, "Row percent");
        click(&mut window, "Heat map");
        let two = recorded.two.path().file_name().unwrap().to_str().unwrap().to_owned();
        window.state_mut().view_mut().baseline = Some(two);
        window.run();
        save(&mut window, "pair");
        window.state_mut().view_mut().baseline = None;
        click(&mut window, "Percentiles");
        window.set_size(vec2(1900.0, 1400.0));
        window.run();
        save(&mut window, "wide");
        window.set_size(vec2(1280.0, 800.0));
        window.run();
        click(&mut window, "Enlarge samples/test");
        click(&mut window, "Save as PNG…");
        save(&mut window, "enlarged");
    }
    let plain = RunWriter::create(recorded.folder.path(), &NewRun { name: "plain".into(), ..NewRun::default() }).unwrap();
    plain.flush().unwrap();
    let mut window = window(Harness::builder(), Source::still(&[recorded.folder.path().to_path_buf()]), Theme::Dark);
    window.key_press(Key::Num3);
    window.state_mut().view_mut().selected = Some(plain.path().file_name().unwrap().to_str().unwrap().to_owned());
    window.run();
    window.render().unwrap().save(folder.join("media-empty.png")).unwrap();
}
