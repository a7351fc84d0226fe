//! The model of the selected run: its modules as a table, and the flow of data between them as a drawing. Both fold together.
//!
//! A run writes both when it starts: the table `model/summary` and the text `model/graph`. They are parsed when their rows change, never in between.
//! `model/drawing.rs` is the drawing, `model/layout.rs` places its boxes.

mod drawing;
mod layout;

use super::axis::short;
use super::theme::Palette;
use super::{Panel, run_name};
use crate::data::Run;
use drawing::{Canvas, Drawing};
use eframe::egui::{
    self, Align2, Color32, FontId, Frame, Painter, Rect, RichText, Role, ScrollArea, Sense, Shape, Stroke, StrokeKind, Ui, WidgetInfo,
    pos2, vec2,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use solstice_store::{Logged, Table};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Least width of the drawing beside the table; in a narrower panel it stands below.
const BESIDE_WIDTH: f32 = 460.0;
const ROW: f32 = 22.0;

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelView {
    /// Modules that are folded where others of their depth are open, or open where others are folded.
    pub toggled: BTreeSet<String>,
}

impl ModelView {
    /// Its children are shown. At first those of the outermost modules are: two levels.
    pub fn is_open(&self, module: &str) -> bool {
        let is_open_at_first = !module.contains('.');
        is_open_at_first ^ self.toggled.contains(module)
    }

    /// Opens what is folded, and folds what is open.
    pub fn toggle(&mut self, module: &str) {
        if !self.toggled.remove(module) {
            self.toggled.insert(module.into());
        }
    }
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ModelState {
    /// The module, or the node of the drawing, that was clicked.
    pub selected: Option<String>,
    seen: Option<Seen>,
    drawing: Option<(BTreeSet<String>, Arc<Drawing>)>,
    canvas: Canvas,
    scroll_to_selected: bool,
}

/// What was parsed, and of which rows.
#[derive(Debug)]
struct Seen {
    run: String,
    table: Arc<Logged<Table>>,
    text: Option<Arc<Logged<String>>>,
    model: Arc<Model>,
}

/// The rows of a run, parsed.
#[derive(Debug, Default)]
struct Model {
    modules: Vec<Module>,
    outside: Option<Module>,
    total: Module,
    graph: Graph,
}

#[derive(Debug, Default)]
struct Module {
    path: String,
    depth: usize,
    kind: String,
    output: String,
    parameters: f64,
    trainable: f64,
    bytes: f64,
    flops: f64,
    has_children: bool,
}

/// The text `model/graph`. Unknown fields are left, missing ones are empty: other versions of Solstice write it too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Graph {
    batch_size: u64,
    state: StateBytes,
    programs: Vec<Program>,
    nodes: Vec<Node>,
    edges: Vec<[usize; 2]>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StateBytes {
    parameters: f64,
    model_state: f64,
    optimizer: f64,
    metrics: f64,
    total: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Program {
    name: String,
    kernels: u64,
    scratch_bytes: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    kind: String,
    module: String,
    name: String,
    #[serde(rename = "type")]
    ty: String,
    shape: String,
    parameters: f64,
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(run) = panel.selected() else {
        return empty(ui, "Select a run on the left to see its model", palette);
    };
    let Some(model) = read(panel, &run) else {
        let text = match super::is_over(&run) {
            true => "This run was recorded without its model: runs of this version keep it when they start",
            false => "The model appears here as soon as the run has started",
        };
        return empty(ui, text, palette);
    };
    facts(ui, &run, &model, palette);
    ui.add_space(4.0);
    let whole = ui.available_size();
    let has_graph = !model.graph.nodes.is_empty();
    if has_graph && whole.x >= BESIDE_WIDTH {
        let wanted = (whole.x * 0.46).clamp(210.0, 640.0);
        let side = egui::Panel::right("model drawing").frame(Frame::NONE).resizable(true).default_size(wanted);
        side.size_range(160.0..=(whole.x - 200.0)).show(ui, |ui| drawing_of(ui, panel, &model, palette));
        table(ui, panel, &model, palette);
    } else if has_graph {
        let below = egui::Panel::bottom("model drawing below").frame(Frame::NONE).resizable(true).default_size(whole.y * 0.5);
        below.size_range(120.0..=(whole.y - 100.0).max(121.0)).show(ui, |ui| drawing_of(ui, panel, &model, palette));
        table(ui, panel, &model, palette);
    } else {
        table(ui, panel, &model, palette);
    }
}

pub(super) fn empty(ui: &mut Ui, text: &str, palette: &Palette) {
    ui.centered_and_justified(|ui| ui.label(RichText::new(text).color(palette.dim)));
}

/// Bytes to read at a glance.
pub fn size_text(bytes: f64) -> String {
    let (value, unit) = match bytes {
        _ if bytes < 999.5 => return format!("{bytes:.0} B"),
        _ if bytes < 999.95e3 => (bytes / 1e3, "kB"),
        _ if bytes < 999.95e6 => (bytes / 1e6, "MB"),
        _ => (bytes / 1e9, "GB"),
    };
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

// The parsed rows of the run; parsed anew when another row is the newest.
fn read(panel: &mut Panel, run: &Run) -> Option<Arc<Model>> {
    let table = run.latest_tables.get("model/summary")?;
    let text = run.latest_texts.get("model/graph");
    let state = &mut panel.session.model;
    let is_same =
        |seen: &Seen| seen.run == run.id && seen.table.id == table.id && seen.text.as_ref().map(|text| text.id) == text.map(|text| text.id);
    if !state.seen.as_ref().is_some_and(is_same) {
        let model = Arc::new(parsed(&table.item, text.map_or("", |text| text.item.as_str())));
        if state.seen.as_ref().is_none_or(|seen| seen.run != run.id) {
            state.canvas = Canvas::default();
        }
        state.drawing = None;
        state.seen = Some(Seen { run: run.id.clone(), table: table.clone(), text: text.cloned(), model });
    }
    state.seen.as_ref().map(|seen| seen.model.clone())
}

fn parsed(table: &Table, text: &str) -> Model {
    let column = |name: &str| table.columns.iter().position(|column| column == name);
    let cell = |row: &[Value], name: &str| column(name).and_then(|index| row.get(index)).cloned().unwrap_or_default();
    let text_of = |row: &[Value], name: &str| cell(row, name).as_str().unwrap_or_default().to_owned();
    let number = |row: &[Value], name: &str| cell(row, name).as_f64().unwrap_or(0.0);
    let mut model = Model { graph: serde_json::from_str(text).unwrap_or_default(), ..Model::default() };
    for row in &table.rows {
        let module = Module {
            path: text_of(row, "module"),
            depth: number(row, "depth") as usize,
            kind: text_of(row, "type"),
            output: text_of(row, "output"),
            parameters: number(row, "parameters"),
            trainable: number(row, "trainable"),
            bytes: number(row, "bytes"),
            flops: number(row, "flops_sample"),
            has_children: false,
        };
        match module.path.as_str() {
            "(model in all)" => model.total = module,
            "(loss, metrics)" => model.outside = Some(module),
            _ => model.modules.push(module),
        }
    }
    for index in 1..model.modules.len() {
        model.modules[index - 1].has_children = model.modules[index].depth > model.modules[index - 1].depth;
    }
    let count = model.graph.nodes.len();
    model.graph.edges.retain(|[from, to]| from != to && *from < count && *to < count);
    model
}

fn facts(ui: &mut Ui, run: &Run, model: &Model, palette: &Palette) {
    let Module { parameters, trainable, flops, .. } = &model.total;
    let state = &model.graph.state;
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        ui.label(RichText::new(run_name(run)).size(15.0));
        ui.add_space(8.0);
        let mut fact = |value: String, what: &str, hover: String| {
            // One text: a number and its caption stand on one line.
            let font = egui::TextStyle::Body.resolve(ui.style());
            let mut text = egui::text::LayoutJob::default();
            text.append(&value, 0.0, egui::TextFormat::simple(font.clone(), palette.text));
            text.append(&format!(" {what}"), 0.0, egui::TextFormat::simple(font, palette.dim));
            let response = ui.add(egui::Label::new(text).extend());
            if !hover.is_empty() {
                response.on_hover_text(hover);
            }
            ui.add_space(8.0);
        };
        let frozen = parameters - trainable;
        fact(grouped(*parameters), if *parameters == 1.0 { "parameter" } else { "parameters" }, String::new());
        if frozen > 0.0 {
            fact(grouped(frozen), "of them frozen", String::new());
        }
        if state.total > 0.0 {
            let parts = format!(
                "weights {}\nmodel state {}\noptimizer {}\nmetrics {}",
                size_text(state.parameters),
                size_text(state.model_state),
                size_text(state.optimizer),
                size_text(state.metrics)
            );
            fact(size_text(state.total), "state", parts);
        }
        fact(format!("{}FLOP", unit(*flops)), "a sample, forward", "A multiply-add counts as two, an elementwise function as one".into());
        let programs = model.graph.programs.iter();
        let lines: Vec<String> = programs
            .map(|program| format!("{}: {} kernels, {} of scratch memory", program.name, program.kernels, size_text(program.scratch_bytes)))
            .collect();
        if let Some(train) = model.graph.programs.first() {
            fact(train.kernels.to_string(), "kernels a step", format!("{}\nbatches of {}", lines.join("\n"), model.graph.batch_size));
        }
    });
}

/// `101,770`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `13.03 M`, to stand before a unit.
fn unit(number: f64) -> String {
    let text = short(number);
    let split = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).len();
    format!("{} {}", &text[..split], &text[split..])
}

/// A column of the table: its title, its width, and whether numbers stand at its right edge.
struct ColumnPlace {
    title: &'static str,
    left: f32,
    right: f32,
    is_number: bool,
}

// Columns that have room, from the left; the module takes what is left.
fn places(width: f32) -> Vec<ColumnPlace> {
    let optional: [(&'static str, f32, f32, bool); 5] = [
        ("Type", 86.0, 270.0, false),
        ("Output", 108.0, 420.0, false),
        ("Parameters", 128.0, 0.0, true),
        ("Bytes", 62.0, 560.0, true),
        ("FLOP a sample", 84.0, 500.0, true),
    ];
    let columns: Vec<_> = optional.into_iter().filter(|(.., least, _)| width >= *least).collect();
    let rest: f32 = columns.iter().map(|(_, width, ..)| width).sum();
    let mut left = (width - rest).max(90.0);
    let mut places = vec![ColumnPlace { title: "Module", left: 0.0, right: left, is_number: false }];
    for (title, width, _, is_number) in columns {
        places.push(ColumnPlace { title, left, right: left + width, is_number });
        left += width;
    }
    places
}

fn table(ui: &mut Ui, panel: &mut Panel, model: &Model, palette: &Palette) {
    let width = ui.available_width() - 14.0;
    let places = places(width);
    let (head, _) = ui.allocate_exact_size(vec2(width, ROW), Sense::hover());
    for place in &places {
        cell(ui.painter(), head, place, place.title, FontId::proportional(11.0), palette.dim);
    }
    ui.painter().hline(head.x_range(), head.bottom() - 1.0, Stroke::new(1.0, palette.line));
    let scroll_to = std::mem::take(&mut panel.session.model.scroll_to_selected);
    ScrollArea::vertical().id_salt("modules").auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        let mut hidden_below: Option<usize> = None;
        for module in &model.modules {
            if hidden_below.is_some_and(|depth| module.depth > depth) {
                continue;
            }
            let is_open = panel.view.model.is_open(&module.path);
            hidden_below = (module.has_children && !is_open).then_some(module.depth);
            row(ui, panel, module, model, &places, width, is_open, scroll_to, palette);
        }
        let last: Vec<&Module> = model.outside.iter().chain([&model.total]).collect();
        for (index, module) in last.into_iter().enumerate() {
            let (rect, _) = ui.allocate_exact_size(vec2(width, ROW), Sense::hover());
            if index == 0 {
                ui.painter().hline(rect.x_range(), rect.top() + 0.5, Stroke::new(1.0, palette.line));
            }
            let name = if module.path == "(model in all)" { "Model in all" } else { "Loss and metrics" };
            cells(ui.painter(), rect, module, name, 0.0, &places, None, palette.dim, palette);
        }
    });
}

fn row(
    ui: &mut Ui,
    panel: &mut Panel,
    module: &Module,
    model: &Model,
    places: &[ColumnPlace],
    width: f32,
    is_open: bool,
    scroll_to: bool,
    palette: &Palette,
) {
    let (rect, response) = ui.allocate_exact_size(vec2(width, ROW), Sense::click());
    // A node that is no module of its own selects the row of the one around it.
    let selected = panel.session.model.selected.as_deref().map(|key| key.split('#').next().unwrap_or(key));
    let is_selected = selected == Some(module.path.as_str()) && !module.path.is_empty();
    let shown = if module.path.is_empty() { "(experiment)" } else { &module.path };
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, is_selected, format!("Module {shown}")));
    if is_selected && scroll_to {
        response.scroll_to_me(None);
    }
    let indent = module.depth as f32 * 14.0;
    let fold_rect = Rect::from_min_size(pos2(rect.left() + indent, rect.top()), vec2(16.0, ROW));
    let mut toggled = response.double_clicked() && module.has_children;
    if module.has_children {
        let fold = ui.interact(fold_rect, ui.scope_id().with(("fold", &module.path)), Sense::click());
        fold.widget_info(|| WidgetInfo::selected(Role::DisclosureTriangle, true, is_open, format!("Fold {shown}")));
        toggled |= fold.clicked();
    }
    if toggled {
        panel.view.model.toggle(&module.path);
        ui.ctx().request_repaint();
    }
    if response.clicked() {
        panel.session.model.selected = (!is_selected).then(|| module.path.clone());
    }
    if !ui.is_rect_visible(rect) {
        return;
    }
    let painter = ui.painter();
    if is_selected {
        painter.rect_filled(rect, 3.0, palette.accent.gamma_multiply(0.16));
    } else if response.hovered() {
        painter.rect_filled(rect, 3.0, palette.raised.gamma_multiply(0.6));
    }
    if response.has_focus() {
        painter.rect_stroke(rect, 3.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
    if module.has_children {
        triangle(painter, fold_rect.center(), is_open, palette.dim);
    }
    let name = if module.depth == 0 { shown } else { module.path.rsplit('.').next().unwrap_or(shown) };
    let part = module.parameters / model.total.parameters.max(1.0);
    cells(painter, rect, module, name, indent + 17.0, places, Some(part), palette.text, palette);
    let hover = format!(
        "{shown}\n{}{} parameters ({:.1} %), {} of them trained\n{}FLOP a sample",
        if module.kind.is_empty() { String::new() } else { format!("{}, ", module.kind) },
        grouped(module.parameters),
        100.0 * part,
        grouped(module.trainable),
        unit(module.flops)
    );
    response.on_hover_text(hover);
}

/// The mark of what can be folded.
pub(super) fn triangle(painter: &Painter, middle: egui::Pos2, is_open: bool, color: Color32) {
    let corners = if is_open { [(-3.5, -2.0), (3.5, -2.0), (0.0, 3.0)] } else { [(-2.0, -3.5), (3.0, 0.0), (-2.0, 3.5)] };
    let corners = corners.iter().map(|(x, y)| middle + vec2(*x, *y)).collect();
    painter.add(Shape::convex_polygon(corners, color, Stroke::NONE));
}

fn cells(
    painter: &Painter,
    rect: Rect,
    module: &Module,
    name: &str,
    indent: f32,
    places: &[ColumnPlace],
    part: Option<f64>,
    color: Color32,
    palette: &Palette,
) {
    let font = FontId::proportional(12.5);
    for place in places {
        match place.title {
            "Module" => {
                let place = ColumnPlace { title: "", left: place.left + indent, right: place.right, is_number: false };
                cell(painter, rect, &place, name, font.clone(), color);
            }
            "Type" => cell(painter, rect, place, &module.kind, font.clone(), palette.dim),
            "Output" => cell(painter, rect, place, &shape_text(&module.output), font.clone(), palette.dim),
            "Parameters" => {
                // The number, and beside it its part of the whole.
                let number = ColumnPlace { title: "", left: place.left, right: place.left + 76.0, is_number: true };
                if module.parameters > 0.0 {
                    cell(painter, rect, &number, &grouped(module.parameters), font.clone(), color);
                }
                if let Some(part) = part.filter(|part| *part > 0.0) {
                    let track = Rect::from_min_size(pos2(rect.left() + place.left + 80.0, rect.center().y - 3.0), vec2(42.0, 6.0));
                    painter.rect_filled(track, 2.0, palette.raised);
                    let bar = Rect::from_min_size(track.min, vec2((track.width() * part as f32).max(1.5), 6.0));
                    painter.rect_filled(bar, 2.0, palette.series[0]);
                }
            }
            "Bytes" if module.bytes > 0.0 => cell(painter, rect, place, &size_text(module.bytes), font.clone(), palette.dim),
            "FLOP a sample" if module.flops > 0.0 => cell(painter, rect, place, &short(module.flops), font.clone(), palette.dim),
            _ => {}
        }
    }
}

fn cell(painter: &Painter, row: Rect, place: &ColumnPlace, text: &str, font: FontId, color: Color32) {
    let clip = Rect::from_x_y_ranges(row.left() + place.left..=row.left() + place.right - 8.0, row.y_range());
    let painter = painter.with_clip_rect(clip.intersect(painter.clip_rect()));
    let (at, align) = match place.is_number {
        true => (pos2(clip.right(), row.center().y), Align2::RIGHT_CENTER),
        false => (pos2(clip.left(), row.center().y), Align2::LEFT_CENTER),
    };
    // A title stands where its numbers do.
    let at = if place.title == "Parameters" && text == "Parameters" { pos2(row.left() + place.left + 68.0, at.y) } else { at };
    painter.text(at, align, text, font, color);
}

/// `f32[64,10]` as `64×10`; a type other than f32 is told.
fn shape_text(shape: &str) -> String {
    let Some((dtype, sizes)) = shape.strip_suffix(']').and_then(|shape| shape.split_once('[')) else { return shape.into() };
    let sizes = if sizes.is_empty() { "scalar".into() } else { sizes.replace(',', "×") };
    if dtype == "f32" { sizes } else { format!("{sizes} {dtype}") }
}

fn drawing_of(ui: &mut Ui, panel: &mut Panel, model: &Model, palette: &Palette) {
    let is_known = |known: &(BTreeSet<String>, Arc<Drawing>)| known.0 == panel.view.model.toggled;
    let drawing = match &panel.session.model.drawing {
        Some(known) if is_known(known) => known.1.clone(),
        _ => {
            let drawing = Arc::new(Drawing::new(ui, model, &panel.view.model));
            panel.session.model.canvas.fit();
            panel.session.model.drawing = Some((panel.view.model.toggled.clone(), drawing.clone()));
            drawing
        }
    };
    let state = &mut panel.session.model;
    let asked = drawing::show(ui, &drawing, &mut state.canvas, state.selected.as_deref(), palette);
    if let Some(selected) = asked.selected {
        // The row of the table is brought into sight: whatever it stands in is opened, but not the node that was clicked.
        state.scroll_to_selected = selected.is_some();
        state.selected = selected;
    }
    if let Some(module) = asked.toggled {
        panel.view.model.toggle(&module);
        ui.ctx().request_repaint();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_shapes_are_written_for_people() {
        assert_eq!([0.0, 999.0, 101_770.0, 1_234_567.0].map(grouped), ["0", "999", "101,770", "1,234,567"]);
        assert_eq!([12.0, 407_080.0, 3e9].map(size_text), ["12 B", "407.1 kB", "3 GB"]);
        assert_eq!(["f32[64,10]", "i32[64]", "f32[]", ""].map(shape_text), ["64×10", "64 i32", "scalar", ""]);
        assert_eq!(unit(13_030_000.0), "13.03 M");
    }

    #[test]
    fn a_table_of_another_version_is_read_as_far_as_it_goes() {
        let table = Table {
            columns: ["parameters", "module", "depth", "news"].map(str::to_owned).to_vec(),
            rows: vec![vec![json!(5), json!("model"), json!(0), json!("x")], vec![json!(5), json!("model.fc"), json!(1), json!(null)]],
        };
        let model = parsed(&table, r#"{"nodes": [{"kind": "module", "name": "fc"}], "edges": [[0, 0], [0, 7]], "news": 1}"#);
        assert!(model.modules[0].has_children && !model.modules[1].has_children);
        assert_eq!((model.modules[1].parameters, model.graph.nodes.len(), model.graph.edges.len()), (5.0, 1, 0));
        assert_eq!(parsed(&table, "no JSON").graph.nodes.len(), 0);
    }

    #[test]
    fn two_levels_are_open_at_first() {
        let mut view = ModelView::default();
        assert!(view.is_open("model") && !view.is_open("model.block0"));
        view.toggle("model.block0");
        view.toggle("model");
        assert!(!view.is_open("model") && view.is_open("model.block0"));
        view.toggle("model");
        assert!(view.is_open("model"));
    }
}
