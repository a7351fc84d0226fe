//! The model panel over a recorded transformer of two blocks: table, drawing, folding, selection. Pictures of real runs for people:
//! `SOLSTICE_RUNS=FOLDER SOLSTICE_PICTURES=FOLDER cargo test -p solstice-dashboard --test gui_model -- --ignored`.

mod gui_common;

use eframe::egui::accesskit::Toggled;
use eframe::egui::{Key, Theme};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use gui_common::window;
use serde_json::{Value, json};
use solstice_dashboard::data::{Run, RunData};
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, Pane};
use solstice_store::{NewRun, RunState, RunWriter, Table};
use std::path::PathBuf;
use tempfile::TempDir;

struct Recorded {
    folder: TempDir,
    writer: RunWriter,
}

impl Recorded {
    fn new() -> Recorded {
        let folder = tempfile::tempdir().unwrap();
        let writer = RunWriter::create(folder.path(), &NewRun { name: "tiny-gpt".into(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Running, None);
        Recorded { folder, writer }
    }

    fn write_model(&self) {
        self.writer.table(0, "model/summary", summary());
        self.writer.text(0, "model/graph", graph().to_string());
        self.writer.flush().unwrap();
    }

    fn window<'a>(&self) -> Harness<'a, Dashboard> {
        let mut harness = window(Harness::builder(), Source::still(&[self.folder.path().to_path_buf()]), Theme::Dark);
        harness.key_press(Key::Num5);
        harness.run();
        harness
    }
}

/// Two blocks of width 8: norms 8, qkv 192, proj 64, fc 256, proj 256 each.
fn summary() -> Table {
    let mut rows = vec![];
    let mut row = |module: &str, kind: Option<&str>, output: &str, parameters: u64| {
        let depth = if module.starts_with('(') { 0 } else { module.matches('.').count() };
        rows.push(vec![
            json!(module),
            json!(depth),
            json!(kind),
            json!(output),
            json!(parameters),
            json!(parameters),
            json!(4 * parameters),
            json!(1000),
        ]);
    };
    row("model", Some("gpt"), "f32[4,16,20]", 2000);
    row("model.wte", Some("embedding"), "f32[4,16,8]", 160);
    for block in ["model.block0", "model.block1"] {
        row(block, None, "f32[4,16,8]", 784);
        row(&format!("{block}.ln1"), Some("layer_norm"), "f32[4,16,8]", 8);
        row(&format!("{block}.attention"), Some("attention"), "f32[4,16,8]", 256);
        row(&format!("{block}.attention.qkv"), Some("linear"), "f32[4,16,24]", 192);
        row(&format!("{block}.attention.proj"), Some("linear"), "f32[4,16,8]", 64);
        row(&format!("{block}.mlp"), None, "f32[4,16,8]", 512);
        row(&format!("{block}.mlp.fc"), Some("linear"), "f32[4,16,32]", 256);
        row(&format!("{block}.mlp.proj"), Some("linear"), "f32[4,16,8]", 256);
    }
    row("(loss, metrics)", None, "", 0);
    row("(model in all)", None, "", 2000);
    let columns = ["module", "depth", "type", "output", "parameters", "trainable", "bytes", "flops_sample"];
    Table { columns: columns.map(str::to_owned).to_vec(), rows }
}

fn graph() -> Value {
    let (mut nodes, mut edges): (Vec<Value>, Vec<[usize; 2]>) = (vec![], vec![]);
    let mut node = |kind: &str, module: &str, name: &str, ty: &str| {
        nodes.push(json!({ "kind": kind, "module": module, "name": name, "type": ty, "shape": "f32[4,16,8]", "parameters": 0 }));
        nodes.len() - 1
    };
    let mut edge = |from: usize, to: usize| edges.push([from, to]);
    let tokens = node("input", "", "tokens", "input");
    let targets = node("input", "", "targets", "input");
    let mut last = node("module", "model.wte", "wte", "embedding");
    edge(tokens, last);
    for block in ["model.block0", "model.block1"] {
        let chain = [
            ("module", "ln1", "ln1", "layer_norm"),
            ("module", "attention.qkv", "qkv", "linear"),
            ("op", "attention", "attention", "attention"),
            ("module", "attention.proj", "proj", "linear"),
        ];
        let mut at = last;
        for (kind, module, name, ty) in chain {
            let next = node(kind, &format!("{block}.{module}"), name, ty);
            edge(at, next);
            at = next;
        }
        let add = node("op", block, "add", "add");
        edge(at, add);
        edge(last, add);
        let fc = node("module", &format!("{block}.mlp.fc"), "fc", "linear");
        let gelu = node("op", &format!("{block}.mlp"), "gelu", "gelu");
        let proj = node("module", &format!("{block}.mlp.proj"), "proj", "linear");
        let sum = node("op", block, "add", "add");
        for (from, to) in [(add, fc), (fc, gelu), (gelu, proj), (proj, sum), (add, sum)] {
            edge(from, to);
        }
        last = sum;
    }
    let head = node("module", "model.wte", "wte", "embedding");
    let loss = node("op", "", "cross_entropy", "cross_entropy");
    edge(last, head);
    edge(head, loss);
    edge(targets, loss);
    json!({
        "version": 1,
        "batch_size": 4,
        "state": { "parameters": 8000, "model_state": 0, "optimizer": 16000, "metrics": 16, "total": 24016 },
        "programs": [{ "name": "train", "kernels": 90, "scratch_bytes": 123456 }],
        "nodes": nodes,
        "edges": edges,
    })
}

fn click(harness: &mut Harness<Dashboard>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

fn is_on(harness: &Harness<Dashboard>, label: &str) -> bool {
    // A button that is chosen is a pressed one to a screen reader.
    let node = harness.get_by_label(label);
    node.accesskit_node().toggled() == Some(Toggled::True) || node.accesskit_node().is_selected() == Some(true)
}

#[test]
fn table_and_drawing_show_two_levels_and_unfold_together() {
    let recorded = Recorded::new();
    recorded.write_model();
    let mut window = recorded.window();
    window.get_by_label("2,000 parameters");
    window.get_by_label("24 kB state");
    window.get_by_label("90 kernels a step");
    for label in [
        "Module model",
        "Module model.wte",
        "Module model.block0",
        "Node model.block0",
        "Node model.wte 2",
        "Node cross_entropy",
        "Node tokens",
    ] {
        window.get_by_label(label);
    }
    assert!(window.query_by_label("Module model.block0.ln1").is_none());
    assert!(window.query_by_label("Node model.block0.ln1").is_none());
    click(&mut window, "Fold model.block0");
    for label in [
        "Module model.block0.ln1",
        "Node model.block0.ln1",
        "Node model.block0.add",
        "Node model.block0.add 2",
        "Node model.block0.attention",
    ] {
        window.get_by_label(label);
    }
    // Attention and the inner layers are folded within the block.
    assert!(window.query_by_label("Node model.block0.attention.qkv").is_none());
    click(&mut window, "Open model.block0.attention");
    window.get_by_label("Module model.block0.attention.qkv");
    window.get_by_label("Node model.block0.attention.qkv");
    click(&mut window, "Fold model.block0");
    assert!(window.query_by_label("Module model.block0.attention.qkv").is_none());
    click(&mut window, "Fold model");
    assert!(window.query_by_label("Module model.wte").is_none() && window.query_by_label("Node model.block1").is_none());
    window.get_by_label("Node model");
}

#[test]
fn a_click_on_a_node_selects_its_row_and_the_other_way_round() {
    let recorded = Recorded::new();
    recorded.write_model();
    let mut window = recorded.window();
    assert!(!is_on(&window, "Module model.block1"));
    click(&mut window, "Node model.block1");
    assert!(is_on(&window, "Module model.block1") && is_on(&window, "Node model.block1"));
    click(&mut window, "Module model.wte");
    assert!(is_on(&window, "Node model.wte") && is_on(&window, "Node model.wte 2") && !is_on(&window, "Node model.block1"));
    click(&mut window, "Fold model.block0");
    // A sum has no row of its own: the block's is meant.
    click(&mut window, "Node model.block0.add");
    assert!(is_on(&window, "Module model.block0") && !is_on(&window, "Node model.block0.add 2"));
    click(&mut window, "Node model.block0.add");
    assert_eq!(window.state().session().model.selected, None);
}

#[test]
fn what_is_open_is_kept() {
    let recorded = Recorded::new();
    recorded.write_model();
    let mut window = recorded.window();
    click(&mut window, "Fold model.block1");
    let kept = serde_json::to_string(window.state().view()).unwrap();
    let view: solstice_dashboard::gui::View = serde_json::from_str(&kept).unwrap();
    assert!(view.model.is_open("model.block1") && !view.model.is_open("model.block0"));
}

#[test]
fn a_run_without_a_model_says_when_there_will_be_one() {
    let recorded = Recorded::new();
    let window_ = recorded.window();
    window_.get_by_label("The model appears here as soon as the run has started");
    recorded.writer.state(RunState::Done, None);
    recorded.writer.flush().unwrap();
    recorded.window().get_by_label("This run was recorded without its model: runs of this version keep it when they start");
}

// The list of metrics is not read at each poll.
fn poll_until(data: &mut RunData, is_so: impl Fn(&Run) -> bool) {
    for _ in 0..1000 {
        data.poll();
        if is_so(&data.run()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("waited in vain");
}

#[test]
fn the_newest_row_counts_also_after_a_rewind() {
    let recorded = Recorded::new();
    recorded.write_model();
    let mut data = RunData::new(recorded.writer.path());
    data.poll();
    let first = data.run().latest_tables["model/summary"].clone();
    assert_eq!(first.item, summary());
    let mut other = summary();
    other.rows.truncate(3);
    recorded.writer.table(50, "model/summary", other.clone());
    recorded.writer.flush().unwrap();
    poll_until(&mut data, |run| run.latest_tables["model/summary"].item == other);
    // What was published stays as it was.
    assert_eq!(first.item, summary());
    recorded.writer.rewind(10).unwrap();
    poll_until(&mut data, |run| run.latest_tables["model/summary"].item == summary());
    assert!(data.run().latest_texts.contains_key("model/graph") && !data.run().latest_tables.contains_key("profile/kernels"));
}

fn save(harness: &mut Harness<Dashboard>, name: &str) {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    harness.render().unwrap().save(folder.join(name)).unwrap();
}

#[test]
fn it_looks_as_before() {
    let recorded = Recorded::new();
    solstice_store::set_label(recorded.writer.path(), "name", "first").unwrap();
    recorded.write_model();
    let mut window = recorded.window();
    gui_common::looks_as_before_at(&mut window, eframe::egui::vec2(1280.0, 800.0), "model");
}

#[test]
#[ignore = "draws pictures for people"]
fn pictures() {
    let recorded = Recorded::new();
    recorded.write_model();
    let folders = match std::env::var_os("SOLSTICE_RUNS") {
        Some(runs) => vec![PathBuf::from(runs)],
        None => vec![recorded.folder.path().to_path_buf()],
    };
    let source = Source::still(&folders);
    let runs: Vec<(String, String)> = source.snapshot().runs.iter().map(|run| (run.id.clone(), run.title().to_owned())).collect();
    for (theme, theme_name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        for (id, title) in &runs {
            let mut harness = window(Harness::builder(), source.clone(), theme);
            harness.state_mut().view_mut().selected = Some(id.clone());
            harness.state_mut().view_mut().show_pane(Pane::Model);
            harness.run();
            save(&mut harness, &format!("model-{title}-{theme_name}.png"));
            for fold in ["Fold model.block0", "Fold model.block0.attention", "Fold model.block0.mlp"] {
                if harness.query_by_label(fold).is_some() {
                    click(&mut harness, fold);
                }
            }
            if harness.query_by_label("Node model.block0.ln1").is_some() {
                click(&mut harness, "Node model.block0.ln1");
                save(&mut harness, &format!("model-{title}-{theme_name}-open.png"));
            }
            harness.state_mut().view_mut().show_pane(Pane::Profile);
            harness.run();
            save(&mut harness, &format!("profile-{title}-{theme_name}.png"));
        }
    }
}
