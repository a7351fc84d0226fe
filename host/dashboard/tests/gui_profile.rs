//! The profile panel over recorded runs: the average step, the charts, the kernel table and the command that measures it.

mod gui_common;

use eframe::egui::{self, Key, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::window;
use serde_json::json;
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::source::Source;
use solstice_store::{NewRun, RunReader, RunState, RunWriter, Table};
use tempfile::TempDir;

struct Recorded {
    folder: TempDir,
    writer: RunWriter,
}

impl Recorded {
    /// A run whose steps take 3 ms on the device, 0.8 ms for data and 0.2 ms for the rest; every tenth report has an evaluation in it.
    fn new(reports: u64) -> Recorded {
        let folder = tempfile::tempdir().unwrap();
        let writer = RunWriter::create(folder.path(), &NewRun { name: "digits".into(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Running, None);
        for report in 1..=reports {
            let evaluation = if report % 10 == 0 { 10.0 } else { 0.0 };
            let parts = [
                ("time/data_wait", 0.8),
                ("time/encode", 0.04),
                ("time/device", 3.0),
                ("time/readback", 0.1),
                ("time/evaluation", evaluation),
                ("time/checkpoint", 0.0),
                ("time/other", 0.06),
                ("system/device_bytes", 2.5e6),
                ("system/process_bytes", 80e6 + 1e5 * report as f64),
            ];
            writer.scalars(report * 5, &parts);
        }
        writer.flush().unwrap();
        Recorded { folder, writer }
    }

    fn measure(&self) {
        let row = |kernel: &str, module: &str, micros: f64, percent: f64, flops: Option<u64>| {
            vec![json!(kernel), json!(module), json!(1.0), json!(micros), json!(percent), json!(400_000), json!(flops)]
        };
        let rows = vec![
            row("dot_general", "model.fc1", 1500.0, 50.0, Some(12_000_000)),
            row("dot_general", "model.fc2", 900.0, 30.0, Some(3_000_000)),
            row("add", "model.fc1", 450.0, 15.0, Some(60_000)),
            row("gather", "", 150.0, 5.0, None),
        ];
        let columns = ["kernel", "module", "calls", "us_per_step", "percent", "bytes", "flops"];
        self.writer.table(100, "profile/kernels", Table { columns: columns.map(str::to_owned).to_vec(), rows });
        self.writer.text(100, "profile/note", "steps 81 to 100: 4 kernels take 3.000 ms a step");
        self.writer.flush().unwrap();
    }

    fn window<'a>(&self) -> Harness<'a, Dashboard> {
        let mut harness = window(Harness::builder(), Source::still(&[self.folder.path().to_path_buf()]), Theme::Dark);
        harness.key_press(Key::Num6);
        harness.run();
        harness
    }
}

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

#[test]
fn the_average_step_is_told_with_its_parts() {
    let recorded = Recorded::new(9);
    let window = recorded.window();
    window.get_by_label("An average step now: 4 ms");
    window.get_by_label("reports from step 5 to 45");
    window.get_by_label("Device 3 ms, 75.0 %");
    window.get_by_label("Data wait 800 µs, 20.0 %");
    window.get_by_label("Encode 40 µs, 1.0 %");
    window.get_by_label("Evaluation 0 ms, 0.0 %");
    window.get_by_label("Chart of the time of a step");
    window.get_by_label("Chart of memory");
}

#[test]
fn only_the_newest_reports_make_the_average() {
    // The last twenty of forty: two of them with 10 ms of evaluation a step.
    let recorded = Recorded::new(40);
    let window = recorded.window();
    window.get_by_label("An average step now: 5 ms");
    window.get_by_label("reports from step 105 to 200");
    window.get_by_label("Evaluation 1 ms, 20.0 %");
}

#[test]
fn the_button_sends_the_command_once_and_shows_what_became_of_it() {
    let recorded = Recorded::new(9);
    let mut window_ = recorded.window();
    window_.get_by_label("Not measured yet: press Profile kernels");
    click(&mut window_, "Profile kernels");
    let sent = RunReader::open(recorded.writer.path()).unwrap().commands_since(0).unwrap();
    assert_eq!((sent[0].kind.as_str(), &sent[0].args), ("profile", &json!({ "steps": 20 })));
    window_.get_by_label("Waits for the run");
    assert!(window_.get_by_label("Profile kernels").accesskit_node().is_disabled());
    let taken = recorded.writer.wait_for_commands(std::time::Duration::from_secs(20));
    recorded.writer.complete_command(taken[0].id, Err("it has no timestamp queries"));
    recorded.writer.flush().unwrap();
    let mut window_ = recorded.window();
    window_.get_by_label("Failed: it has no timestamp queries");
    // It may be tried again, with another number of steps.
    window_.state_mut().view_mut().profile.steps = 5;
    window_.run();
    click(&mut window_, "Profile kernels");
    let sent = RunReader::open(recorded.writer.path()).unwrap().commands_since(0).unwrap();
    assert_eq!(sent[1].args, json!({ "steps": 5 }));
}

#[test]
fn kernels_are_listed_and_added_up() {
    let recorded = Recorded::new(9);
    recorded.measure();
    let mut window = recorded.window();
    window.get_by_label("Steps 81 to 100: 4 kernels take 3.000 ms a step");
    for label in ["Kernel dot_general model.fc1: 50.0 %", "Kernel add model.fc1: 15.0 %", "Kernel gather: 5.0 %"] {
        window.get_by_label(label);
    }
    click(&mut window, "a kind");
    window.get_by_label("Kernel dot_general: 80.0 %");
    click(&mut window, "a module");
    window.get_by_label("Kernel model.fc1: 65.0 %");
    window.get_by_label("Kernel outside of modules: 5.0 %");
}

#[test]
fn a_run_that_is_over_is_not_measured_and_an_old_one_says_why_it_has_nothing() {
    let recorded = Recorded::new(9);
    recorded.writer.state(RunState::Done, None);
    recorded.writer.flush().unwrap();
    let window_ = recorded.window();
    assert!(window_.query_by_label("Profile kernels").is_none());
    window_.get_by_label("The run is over: kernels are profiled while one goes on");
    let old = Recorded::new(0);
    old.window().get_by_label("Timings appear here with the first report of the run");
    old.writer.state(RunState::Done, None);
    old.writer.flush().unwrap();
    old.window().get_by_label("This run was recorded without timings: runs of this version log them with every report");
}

#[test]
fn the_mouse_reads_a_chart_without_trouble() {
    let recorded = Recorded::new(60);
    recorded.measure();
    let mut window = recorded.window();
    for chart in ["Chart of the time of a step", "Chart of memory"] {
        let rect = window.get_by_label(chart).rect();
        for part in [0.05, 0.3, 0.6, 0.98] {
            window.hover_at(rect.left_center() + vec2(rect.width() * part, 0.0));
            window.run();
        }
    }
    let delay = window.output().viewport_output[&egui::ViewportId::ROOT].repaint_delay;
    assert!(delay > std::time::Duration::from_secs(3600), "an idle window paints: {delay:?}");
}

#[test]
fn it_looks_as_before() {
    let recorded = Recorded::new(40);
    solstice_store::set_label(recorded.writer.path(), "name", "first").unwrap();
    recorded.measure();
    let mut window = recorded.window();
    gui_common::looks_as_before(&mut window, "profile");
}
