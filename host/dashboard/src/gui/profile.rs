//! Where a step's time and the device's memory go, and which kernels take it.
//!
//! A run logs the parts of its steps (`time/*`, milliseconds a step) and its memory (`system/*`) with every report. Kernels are timed when somebody asks
//! for it: the button sends the command `profile`, and the run leaves the table `profile/kernels`.

use super::axis::{Axis, Scale, short};
use super::model::{empty, size_text};
use super::theme::{self, Palette};
use super::{Panel, is_over, run_name};
use crate::data::{Run, Series, XAxis};
use eframe::egui::{
    self, Align2, Button, Color32, FontId, Mesh, Painter, Pos2, Rect, RichText, Role, ScrollArea, Sense, Shape, Stroke, Ui, WidgetInfo,
    pos2, vec2,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use solstice_store::{CommandState, Logged, Table};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The parts of a step, from the bottom of the chart: scalar, name, what it is.
const PARTS: [(&str, &str, &str); 7] = [
    ("time/device", "Device", "Waiting for the device; on the CPU device, computing"),
    ("time/data_wait", "Data wait", "Waiting for samples"),
    ("time/encode", "Encode", "Handing inputs and commands to the device"),
    ("time/readback", "Readback", "Reading metrics back"),
    ("time/evaluation", "Evaluation", "Evaluating, spread over the steps between two reports"),
    ("time/checkpoint", "Checkpoint", "Copying the state for a checkpoint, spread likewise"),
    ("time/other", "Other", "Callbacks, commands, the log"),
];
/// Reports that make up the average step.
const REPORTS: usize = 20;
const CHART_HEIGHT: f32 = 168.0;
const GUTTER: f32 = 54.0;
const ROW: f32 = 20.0;

/// What the rows of the kernel table are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grouping {
    /// Kernels.
    #[default]
    Kernel,
    /// All kernels of one kind together.
    Kind,
    /// All kernels of one module together.
    Module,
}

/// What is kept from one session to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfileView {
    /// Steps of a profile.
    pub steps: u64,
    /// What the rows of the kernel table are.
    pub grouping: Grouping,
}

impl Default for ProfileView {
    fn default() -> ProfileView {
        ProfileView { steps: 20, grouping: Grouping::default() }
    }
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ProfileState {
    stack: Option<(StackKey, Arc<Stack>)>,
    kernels: Option<(KernelKey, Arc<Vec<Kernel>>)>,
}

/// Run, its version, columns.
type StackKey = (String, u64, usize);
/// Run, row, grouping.
type KernelKey = (String, i64, Grouping);

/// The charts of a run, a value a column.
#[derive(Debug, Default)]
struct Stack {
    range: (f64, f64),
    /// Step, and milliseconds of each part.
    columns: Vec<(f64, [f64; PARTS.len()])>,
    /// Step and bytes.
    device: Vec<(f64, f64)>,
    process: Vec<(f64, f64)>,
    /// Of the newest reports.
    average: [f64; PARTS.len()],
    /// The steps that the average is of.
    averaged: (u64, u64),
}

/// A row of the kernel table.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    kernel: String,
    module: String,
    calls: f64,
    micros: f64,
    percent: f64,
    bytes: f64,
    flops: f64,
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(run) = panel.selected() else {
        return empty(ui, "Select a run on the left to see where its time goes", palette);
    };
    let has_times = run.series.contains_key(PARTS[0].0);
    if !has_times && !run.latest_tables.contains_key("profile/kernels") {
        let text = match is_over(&run) {
            true => "This run was recorded without timings: runs of this version log them with every report",
            false => "Timings appear here with the first report of the run",
        };
        return empty(ui, text, palette);
    }
    let stack = stack(panel, &run, (ui.available_width() - GUTTER).max(50.0) as usize);
    ScrollArea::vertical().id_salt("profile").auto_shrink(false).show(ui, |ui| {
        ui.label(RichText::new(run_name(&run)).size(15.0));
        if has_times {
            average(ui, &stack, palette);
            ui.add_space(theme::GAP);
            time_chart(ui, &stack, palette);
            ui.add_space(theme::GAP);
        }
        if !stack.device.is_empty() {
            memory_chart(ui, &stack, palette);
            ui.add_space(theme::GAP);
        }
        kernels(ui, panel, &run, palette);
    });
}

fn color_of(part: usize, palette: &Palette) -> Color32 {
    // The last one is what is left.
    if part + 1 == PARTS.len() { palette.dim } else { palette.series[part] }
}

// Asked of the series when the run or the width changes.
fn stack(panel: &mut Panel, run: &Run, columns: usize) -> Arc<Stack> {
    let key = (run.id.clone(), run.version, columns);
    if let Some((known, stack)) = &panel.session.profile.stack
        && *known == key
    {
        return stack.clone();
    }
    let stack = Arc::new(Stack::of(run, columns));
    panel.session.profile.stack = Some((key, stack.clone()));
    stack
}

impl Stack {
    fn of(run: &Run, columns: usize) -> Stack {
        let mut stack = Stack::default();
        let series = |name: &str| run.series.get(name).map(Arc::as_ref);
        let ranges = PARTS.iter().filter_map(|(name, ..)| series(name)?.x_range(XAxis::Step));
        let Some(range) = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return stack };
        // A run begins at zero.
        let low = if range.0 < 0.1 * range.1 { 0.0 } else { range.0 };
        stack.range = (low, range.1.max(low + 1.0));
        let view = |series: &Series| series.view(XAxis::Step, stack.range, columns);
        // All parts are logged together, so their columns have the same steps.
        let mut by_step: BTreeMap<u64, (f64, [f64; PARTS.len()])> = BTreeMap::new();
        for (part, (name, ..)) in PARTS.iter().enumerate() {
            let Some(series) = series(name) else { continue };
            for column in view(series) {
                by_step.entry(column.x.to_bits()).or_insert((column.x, Default::default())).1[part] = finite(column.mean);
            }
            let first = series.len().saturating_sub(REPORTS);
            let last: Vec<_> = (first..series.len()).map(|index| series.point(index)).collect();
            stack.average[part] = last.iter().map(|point| finite(point.value)).sum::<f64>() / last.len().max(1) as f64;
            if let (Some(from), Some(to)) = (last.first(), last.last()) {
                stack.averaged = (from.step, to.step);
            }
        }
        // Bits of numbers that are not negative are in the order of the numbers.
        stack.columns = by_step.into_values().collect();
        let line = |name: &str| -> Vec<(f64, f64)> {
            series(name).map_or(vec![], |series| view(series).iter().map(|column| (column.x, finite(column.max))).collect())
        };
        (stack.device, stack.process) = (line("system/device_bytes"), line("system/process_bytes"));
        stack
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

/// Milliseconds to read at a glance.
fn millis_text(millis: f64) -> String {
    match millis {
        _ if millis == 0.0 => "0 ms".into(),
        _ if millis < 0.01 => format!("{:.1} µs", millis * 1e3),
        _ if millis < 0.9995 => format!("{:.0} µs", millis * 1e3),
        _ if millis < 1000.0 => format!("{} ms", short((millis * 100.0).round() / 100.0)),
        _ => format!("{} s", short((millis / 10.0).round() / 100.0)),
    }
}

fn average(ui: &mut Ui, stack: &Stack, palette: &Palette) {
    let total: f64 = stack.average.iter().sum();
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(format!("An average step now: {}", millis_text(total))).size(13.5));
        let (from, to) = stack.averaged;
        let text = if from == to { format!("the report at step {to}") } else { format!("reports from step {from} to {to}") };
        ui.label(RichText::new(text).small().color(palette.dim));
    });
    let (bar, response) = ui.allocate_exact_size(vec2(ui.available_width(), 18.0), Sense::hover());
    let parts: Vec<String> = (0..PARTS.len())
        .filter(|part| stack.average[*part] > 0.0)
        .map(|part| format!("{} {}", PARTS[part].1.to_lowercase(), millis_text(stack.average[part])))
        .collect();
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, format!("An average step: {}", parts.join(", "))));
    let painter = ui.painter_at(bar);
    painter.rect_filled(bar, 3.0, palette.raised);
    let mut left = bar.left();
    for (part, millis) in stack.average.iter().enumerate() {
        let width = bar.width() * (millis / total.max(1e-12)) as f32;
        painter.rect_filled(Rect::from_min_size(pos2(left, bar.top()), vec2(width, bar.height())), 0.0, color_of(part, palette));
        left += width;
    }
    // The parts in columns of equal width, largest first.
    let mut order: Vec<usize> = (0..PARTS.len()).collect();
    order.sort_by(|a, b| stack.average[*b].total_cmp(&stack.average[*a]));
    let columns = ((ui.available_width() / 190.0) as usize).clamp(1, 4);
    let width = ui.available_width() / columns as f32;
    let rows = order.len().div_ceil(columns);
    let (area, _) = ui.allocate_exact_size(vec2(ui.available_width(), rows as f32 * ROW), Sense::hover());
    for (index, part) in order.into_iter().enumerate() {
        let at = area.min + vec2((index % columns) as f32 * width, (index / columns) as f32 * ROW);
        let cell = Rect::from_min_size(at, vec2(width, ROW));
        let (_, name, what) = PARTS[part];
        let percent = 100.0 * stack.average[part] / total.max(1e-12);
        let text = format!("{name} {}", millis_text(stack.average[part]));
        let response = ui.interact(cell, ui.scope_id().with(("part", part)), Sense::hover());
        response.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("{text}, {percent:.1} %")));
        let painter = ui.painter_at(cell);
        painter.rect_filled(Rect::from_center_size(pos2(cell.left() + 5.0, cell.center().y), vec2(9.0, 9.0)), 2.0, color_of(part, palette));
        let color = if percent < 0.05 { palette.dim } else { palette.text };
        let end = painter.text(pos2(cell.left() + 15.0, cell.center().y), Align2::LEFT_CENTER, text, FontId::proportional(12.5), color);
        painter.text(
            pos2(end.right() + 6.0, cell.center().y),
            Align2::LEFT_CENTER,
            percent_text(percent),
            FontId::proportional(11.0),
            palette.dim,
        );
        response.on_hover_text(what);
    }
}

fn percent_text(percent: f64) -> String {
    match percent {
        _ if percent == 0.0 => "0 %".into(),
        _ if percent < 0.1 => "<0.1 %".into(),
        _ => format!("{percent:.1} %"),
    }
}

/// A chart over the steps: its place on screen, and its axes.
struct Frame {
    plot: Rect,
    x: Axis,
    y: Axis,
    mouse: Option<Pos2>,
}

// Ground, title, grid and ticks of a chart. `text` writes the values of the y axis.
fn frame(
    ui: &mut Ui,
    title: &str,
    name: &str,
    range: (f64, f64),
    high: f64,
    text: &dyn Fn(f64) -> String,
    palette: &Palette,
) -> (Frame, Painter) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), CHART_HEIGHT), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, name));
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 5.0, palette.background);
    painter.text(rect.min + vec2(10.0, 13.0), Align2::LEFT_CENTER, title, FontId::proportional(12.5), palette.text);
    let plot = Rect::from_min_max(pos2(rect.left() + GUTTER, rect.top() + 26.0), pos2(rect.right() - 12.0, rect.bottom() - 18.0));
    let x = Axis { scale: Scale::Linear, low: range.0, high: range.1, start: plot.left(), end: plot.right() };
    let y = Axis { scale: Scale::Linear, low: 0.0, high, start: plot.bottom(), end: plot.top() };
    let small = FontId::proportional(10.5);
    for tick in y.ticks(4) {
        let at = painter.round_to_pixel_center(y.pixel(tick));
        painter.hline(plot.x_range(), at, Stroke::new(1.0, palette.grid));
        painter.text(pos2(plot.left() - 6.0, at), Align2::RIGHT_CENTER, text(tick), small.clone(), palette.dim);
    }
    let count = (plot.width() / 90.0) as usize;
    for tick in x.ticks(count) {
        let galley = painter.layout_no_wrap(x.tick_text(tick, count), small.clone(), palette.dim);
        let left = (x.pixel(tick) - galley.size().x / 2.0).clamp(plot.left() - 8.0, plot.right() + 8.0 - galley.size().x);
        painter.galley(pos2(left, plot.bottom() + 3.0), galley, palette.dim);
    }
    let mouse = response.hover_pos().filter(|mouse| plot.x_range().contains(mouse.x));
    (Frame { plot, x, y, mouse }, painter)
}

// The value nearest to a place; values stand in the order of their steps.
fn nearest<T>(values: &[T], x: f64, step: impl Fn(&T) -> f64) -> Option<usize> {
    let after = values.partition_point(|value| step(value) < x);
    let candidates = [after.checked_sub(1), (after < values.len()).then_some(after)];
    candidates.into_iter().flatten().min_by(|a, b| (step(&values[*a]) - x).abs().total_cmp(&(step(&values[*b]) - x).abs()))
}

fn time_chart(ui: &mut Ui, stack: &Stack, palette: &Palette) {
    let mut tops: Vec<f64> = stack.columns.iter().map(|(_, parts)| parts.iter().sum()).collect();
    tops.sort_by(f64::total_cmp);
    let greatest = tops.last().copied().unwrap_or(0.0);
    // An evaluation or a slow first step must not flatten all others.
    let most = tops.get(tops.len() * 19 / 20).copied().unwrap_or(greatest);
    let is_cut = tops.len() >= 20 && greatest > 3.0 * most && most > 0.0;
    let high = (if is_cut { most * 1.6 } else { greatest * 1.08 }).max(1e-6);
    let (frame, painter) = frame(ui, "Time of a step", "Chart of the time of a step", stack.range, high, &millis_text, palette);
    if is_cut {
        let at = pos2(frame.plot.right(), frame.plot.top() - 13.0);
        painter.text(at, Align2::RIGHT_CENTER, format!("cut off: {}", millis_text(greatest)), FontId::proportional(10.5), palette.warn);
    }
    let inside = painter.with_clip_rect(frame.plot.intersect(ui.clip_rect()));
    // One report is a bar, many are an area.
    let half = if stack.columns.len() == 1 { 6.0 } else { 0.0 };
    let ends: Vec<(f32, &[f64; PARTS.len()])> = match &stack.columns[..] {
        [(step, parts)] => vec![(frame.x.pixel(*step) - 2.0 * half, parts), (frame.x.pixel(*step), parts)],
        columns => columns.iter().map(|(step, parts)| (frame.x.pixel(*step), parts)).collect(),
    };
    let mut floors = vec![0.0; ends.len()];
    for part in 0..PARTS.len() {
        let mut mesh = Mesh::default();
        let color = color_of(part, palette).gamma_multiply(0.85);
        for (index, (x, parts)) in ends.iter().enumerate() {
            let floor = floors[index];
            floors[index] += parts[part];
            let first = mesh.vertices.len() as u32;
            mesh.colored_vertex(pos2(*x, frame.y.pixel(floor)), color);
            mesh.colored_vertex(pos2(*x, frame.y.pixel(floors[index])), color);
            if index > 0 {
                mesh.add_triangle(first - 2, first - 1, first);
                mesh.add_triangle(first - 1, first, first + 1);
            }
        }
        inside.add(Shape::mesh(mesh));
    }
    painter.hline(frame.plot.x_range(), painter.round_to_pixel_center(frame.plot.bottom()), Stroke::new(1.0, palette.line));
    let Some(index) = frame.mouse.and_then(|mouse| nearest(&stack.columns, frame.x.value(mouse.x), |column| column.0)) else { return };
    let (step, parts) = &stack.columns[index];
    let mut lines = vec![(None, format!("step {step:.0}: {}", millis_text(parts.iter().sum())))];
    let shown = (0..PARTS.len()).rev().filter(|part| parts[*part] > 0.0);
    lines.extend(shown.map(|part| (Some(color_of(part, palette)), format!("{} {}", PARTS[part].1, millis_text(parts[part])))));
    read_out(&painter, &frame, *step, &lines, palette);
}

fn memory_chart(ui: &mut Ui, stack: &Stack, palette: &Palette) {
    let curves = [("Device", &stack.device, palette.series[0]), ("Process", &stack.process, palette.series[3])];
    let greatest = curves.iter().flat_map(|(_, values, _)| values.iter()).map(|(_, bytes)| *bytes).fold(0.0, f64::max);
    let (frame, painter) = frame(ui, "Memory", "Chart of memory", stack.range, (greatest * 1.12).max(1.0), &size_text, palette);
    let inside = painter.with_clip_rect(frame.plot.expand(1.0).intersect(ui.clip_rect()));
    let mut left = frame.plot.right();
    for (name, values, color) in curves.iter().rev() {
        let Some((_, last)) = values.last() else { continue };
        let points: Vec<Pos2> = values.iter().map(|(step, bytes)| pos2(frame.x.pixel(*step), frame.y.pixel(*bytes))).collect();
        if let [point] = points[..] {
            inside.circle_filled(point, 2.5, *color);
        }
        inside.add(Shape::line(points, Stroke::new(theme::CURVE_WIDTH[0], *color)));
        let title = pos2(left, frame.plot.top() - 13.0);
        let text =
            painter.text(title, Align2::RIGHT_CENTER, format!("{name} {}", size_text(*last)), FontId::proportional(11.5), palette.dim);
        painter.rect_filled(Rect::from_center_size(pos2(text.left() - 9.0, text.center().y), vec2(9.0, 9.0)), 2.0, *color);
        left = text.left() - 26.0;
    }
    painter.hline(frame.plot.x_range(), painter.round_to_pixel_center(frame.plot.bottom()), Stroke::new(1.0, palette.line));
    let Some(index) = frame.mouse.and_then(|mouse| nearest(&stack.device, frame.x.value(mouse.x), |value| value.0)) else { return };
    let step = stack.device[index].0;
    let mut lines = vec![(None, format!("step {step:.0}"))];
    for (name, values, color) in curves {
        if let Some(index) = nearest(values, step, |value| value.0) {
            lines.push((Some(color), format!("{name} {}", size_text(values[index].1))));
        }
    }
    read_out(&painter, &frame, step, &lines, palette);
}

// A line at a step, and beside it what stands there.
fn read_out(painter: &Painter, frame: &Frame, step: f64, lines: &[(Option<Color32>, String)], palette: &Palette) {
    let at = frame.x.pixel(step);
    painter.vline(at, frame.plot.y_range(), Stroke::new(1.0, palette.dim));
    let galleys: Vec<_> =
        lines.iter().map(|(_, text)| painter.layout_no_wrap(text.clone(), FontId::proportional(11.0), palette.text)).collect();
    let width = galleys.iter().map(|galley| galley.size().x).fold(0.0, f32::max) + 26.0;
    let size = vec2(width, galleys.len() as f32 * 15.0 + 8.0);
    let left = if at + 10.0 + width < frame.plot.right() { at + 10.0 } else { at - 10.0 - width };
    let card = Rect::from_min_size(pos2(left, frame.plot.top()), size);
    painter.rect(card, 4.0, palette.panel, Stroke::new(1.0, palette.line), egui::StrokeKind::Inside);
    for (index, (galley, (color, _))) in galleys.into_iter().zip(lines).enumerate() {
        let middle = card.top() + 4.0 + 15.0 * (index as f32 + 0.5);
        if let Some(color) = color {
            painter.rect_filled(Rect::from_center_size(pos2(card.left() + 10.0, middle), vec2(8.0, 8.0)), 2.0, *color);
        }
        let left = if color.is_some() { card.left() + 19.0 } else { card.left() + 6.0 };
        painter.galley(pos2(left, middle - galley.size().y / 2.0), galley, palette.text);
    }
}

fn kernels(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new("Kernels").size(13.5));
        ui.add_space(theme::GAP);
        if is_over(run) {
            ui.label(RichText::new("The run is over: kernels are profiled while one goes on").color(palette.dim));
            return;
        }
        let last = run.commands.iter().rev().find(|command| command.kind == "profile");
        let is_open = last.is_some_and(|command| matches!(command.state, CommandState::Sent | CommandState::Taken));
        let button = ui.add_enabled(!is_open, Button::new("Profile kernels"));
        if button.on_hover_text("Times every kernel of the next steps; what is trained stays the same").clicked() {
            panel.send(&run.id, "profile", json!({ "steps": panel.view.profile.steps }));
        }
        let steps = egui::DragValue::new(&mut panel.view.profile.steps).range(1..=10_000).speed(0.2);
        ui.add(steps).accessible_name("Steps to profile");
        ui.label(RichText::new(if panel.view.profile.steps == 1 { "step" } else { "steps" }).color(palette.dim));
        let Some(command) = last else { return };
        let (text, color) = match command.state {
            CommandState::Sent => ("Waits for the run".into(), palette.dim),
            CommandState::Taken => ("Measuring…".into(), palette.warn),
            CommandState::Done => return,
            CommandState::Failed => (format!("Failed: {}", command.reason.as_deref().unwrap_or("no reason given")), palette.error),
        };
        ui.label(RichText::new(text).color(color));
    });
    let Some(table) = run.latest_tables.get("profile/kernels") else {
        if !is_over(run) {
            ui.label(RichText::new("Not measured yet: press Profile kernels").color(palette.dim));
        }
        return;
    };
    if let Some(note) = run.latest_texts.get("profile/note") {
        ui.label(RichText::new(first_upper(&note.item)).color(palette.dim));
    }
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        ui.label(RichText::new("A row is").color(palette.dim));
        ui.add_space(4.0);
        for (grouping, name) in [(Grouping::Kernel, "a kernel"), (Grouping::Kind, "a kind"), (Grouping::Module, "a module")] {
            if ui.selectable_label(panel.view.profile.grouping == grouping, name).clicked() {
                panel.view.profile.grouping = grouping;
            }
        }
    });
    let rows = kernel_rows(panel, run, table);
    kernel_table(ui, &rows, panel.view.profile.grouping, palette);
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

// Parsed and grouped when the table or the grouping changes.
fn kernel_rows(panel: &mut Panel, run: &Run, table: &Logged<Table>) -> Arc<Vec<Kernel>> {
    let key = (run.id.clone(), table.id, panel.view.profile.grouping);
    if let Some((known, rows)) = &panel.session.profile.kernels
        && *known == key
    {
        return rows.clone();
    }
    let rows = Arc::new(grouped(parsed(&table.item), key.2));
    panel.session.profile.kernels = Some((key, rows.clone()));
    rows
}

fn parsed(table: &Table) -> Vec<Kernel> {
    let place = |name: &str| table.columns.iter().position(|column| column == name);
    let places = ["kernel", "module", "calls", "us_per_step", "percent", "bytes", "flops"].map(place);
    let row = |row: &Vec<Value>| {
        let cell = |index: usize| places[index].and_then(|place| row.get(place)).unwrap_or(&Value::Null);
        let text = |index: usize| cell(index).as_str().unwrap_or_default().to_owned();
        let number = |index: usize| cell(index).as_f64().unwrap_or(0.0);
        Kernel {
            kernel: text(0),
            module: text(1),
            calls: number(2),
            micros: number(3),
            percent: number(4),
            bytes: number(5),
            flops: number(6),
        }
    };
    table.rows.iter().map(row).collect()
}

// Rows with the same kernel or module are added up; slowest first.
fn grouped(rows: Vec<Kernel>, grouping: Grouping) -> Vec<Kernel> {
    let mut grouped: Vec<Kernel> = vec![];
    let mut index_of: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let key = match grouping {
            Grouping::Kernel => {
                grouped.push(row);
                continue;
            }
            Grouping::Kind => row.kernel.clone(),
            Grouping::Module => row.module.clone(),
        };
        let index = *index_of.entry(key.clone()).or_insert_with(|| {
            let (kernel, module) = if grouping == Grouping::Kind { (key, String::new()) } else { (String::new(), key) };
            grouped.push(Kernel { kernel, module, ..Kernel::default() });
            grouped.len() - 1
        });
        let sum = &mut grouped[index];
        sum.calls += row.calls;
        sum.micros += row.micros;
        sum.percent += row.percent;
        sum.bytes += row.bytes;
        sum.flops += row.flops;
    }
    grouped.sort_by(|a, b| b.micros.total_cmp(&a.micros));
    grouped
}

fn kernel_table(ui: &mut Ui, rows: &[Kernel], grouping: Grouping, palette: &Palette) {
    let width = ui.available_width() - 4.0;
    // Numbers from the right: title, width, least width of the panel.
    let numbers: [(&str, f32, f32); 5] =
        [("Calls", 46.0, 420.0), ("A step", 66.0, 0.0), ("GB/s", 56.0, 500.0), ("GFLOP/s", 62.0, 500.0), ("", 118.0, 0.0)];
    let numbers: Vec<_> = numbers.into_iter().filter(|(.., least)| width >= *least).collect();
    let left_part = (width - numbers.iter().map(|(_, width, _)| width).sum::<f32>()).max(80.0);
    let names: [(&str, f32); 2] = match grouping {
        Grouping::Kernel => [("Kernel", left_part * 0.48), ("Module", left_part * 0.52)],
        Grouping::Kind => [("Kernel", left_part), ("Module", 0.0)],
        Grouping::Module => [("Kernel", 0.0), ("Module", left_part)],
    };
    let font = FontId::proportional(12.0);
    let (head, _) = ui.allocate_exact_size(vec2(width, ROW), Sense::hover());
    let in_cell = |painter: &Painter, row: Rect, left: f32, width: f32, text: &str, is_number: bool, font: FontId, color: Color32| {
        let clip = Rect::from_x_y_ranges(row.left() + left..=row.left() + left + (width - 8.0).max(0.0), row.y_range());
        let painter = painter.with_clip_rect(clip.intersect(painter.clip_rect()));
        let (x, align) = if is_number { (clip.right(), Align2::RIGHT_CENTER) } else { (clip.left(), Align2::LEFT_CENTER) };
        painter.text(pos2(x, row.center().y), align, text, font, color);
    };
    let mut left = 0.0;
    for (title, width) in names {
        if width > 0.0 {
            in_cell(ui.painter(), head, left, width, title, false, FontId::proportional(11.0), palette.dim);
        }
        left += width;
    }
    for (title, width, _) in &numbers {
        in_cell(ui.painter(), head, left, *width, title, true, FontId::proportional(11.0), palette.dim);
        left += width;
    }
    ui.painter().hline(head.x_range(), head.bottom() - 1.0, Stroke::new(1.0, palette.line));
    let most = rows.first().map_or(1.0, |row| row.percent.max(1e-9));
    // All rows have their place, those in sight are drawn.
    let (area, _) = ui.allocate_exact_size(vec2(width, rows.len() as f32 * ROW), Sense::hover());
    for (index, kernel) in rows.iter().enumerate() {
        let row = Rect::from_min_size(area.min + vec2(0.0, index as f32 * ROW), vec2(width, ROW));
        if !ui.is_rect_visible(row) {
            continue;
        }
        let response = ui.interact(row, ui.scope_id().with(("kernel", index)), Sense::hover());
        let name =
            [kernel.kernel.as_str(), kernel.module.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        let name = if name.is_empty() { "outside of modules".to_owned() } else { name };
        response.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("Kernel {name}: {:.1} %", kernel.percent)));
        let painter = ui.painter();
        if response.hovered() {
            painter.rect_filled(row, 3.0, palette.raised.gamma_multiply(0.6));
        }
        let rate =
            |amount: f64| if amount > 0.0 && kernel.micros > 0.0 { short(round3(amount / kernel.micros / 1e3)) } else { String::new() };
        let module = if kernel.module.is_empty() && grouping != Grouping::Kind { "outside of modules" } else { &kernel.module };
        let mut left = 0.0;
        for ((_, width), text) in names.into_iter().zip([kernel.kernel.as_str(), module]) {
            if width > 0.0 {
                let color = if text == "outside of modules" { palette.dim } else { palette.text };
                in_cell(painter, row, left, width, text, false, font.clone(), color);
            }
            left += width;
        }
        for (title, width, _) in &numbers {
            match *title {
                "Calls" => in_cell(painter, row, left, *width, &short(round3(kernel.calls)), true, font.clone(), palette.dim),
                "A step" => in_cell(painter, row, left, *width, &millis_text(kernel.micros / 1e3), true, font.clone(), palette.text),
                "GB/s" => in_cell(painter, row, left, *width, &rate(kernel.bytes), true, font.clone(), palette.dim),
                "GFLOP/s" => in_cell(painter, row, left, *width, &rate(kernel.flops), true, font.clone(), palette.dim),
                _ => {
                    let text_left = row.left() + left;
                    in_cell(painter, row, left, 52.0, &percent_text(kernel.percent), true, font.clone(), palette.text);
                    let track = Rect::from_min_size(pos2(text_left + 52.0, row.center().y - 3.5), vec2(width - 52.0, 7.0));
                    painter.rect_filled(track, 2.0, palette.raised);
                    let part = (kernel.percent / most) as f32;
                    painter.rect_filled(Rect::from_min_size(track.min, vec2((track.width() * part).max(1.0), 7.0)), 2.0, palette.series[0]);
                }
            }
            left += width;
        }
        response.on_hover_ui(|ui| {
            ui.label(name);
            let line =
                format!("{} a step, {:.2} %, {} calls", millis_text(kernel.micros / 1e3), kernel.percent, short(round3(kernel.calls)));
            ui.label(RichText::new(line).color(palette.dim));
            let flops = if kernel.flops > 0.0 { format!(", {}FLOP", short(kernel.flops)) } else { String::new() };
            ui.label(RichText::new(format!("moves {}{flops}", size_text(kernel.bytes))).color(palette.dim));
        });
    }
}

// Three digits are enough for what was measured.
fn round3(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let factor = 10f64.powf(2.0 - value.abs().log10().floor());
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people() {
        assert_eq!([0.0, 0.0042, 0.25, 3.618, 412.0, 2_000.0].map(millis_text), ["0 ms", "4.2 µs", "250 µs", "3.62 ms", "412 ms", "2 s"]);
        assert_eq!([0.0, 0.04, 12.34].map(percent_text), ["0 %", "<0.1 %", "12.3 %"]);
        assert_eq!([123_456.0, 0.012_345, 0.0].map(round3), [123_000.0, 0.0123, 0.0]);
    }

    #[test]
    fn rows_of_a_kind_are_added_up() {
        let row = |kernel: &str, module: &str, micros: f64| Kernel {
            kernel: kernel.into(),
            module: module.into(),
            calls: 1.0,
            micros,
            percent: micros,
            ..Kernel::default()
        };
        let rows = vec![row("dot", "a", 50.0), row("map", "b", 40.0), row("dot", "b", 10.0)];
        let of = |grouping| {
            grouped(rows.clone(), grouping).into_iter().map(|row| (row.kernel + &row.module, row.micros, row.calls)).collect::<Vec<_>>()
        };
        assert_eq!(of(Grouping::Kernel).len(), 3);
        assert_eq!(of(Grouping::Kind), [("dot".into(), 60.0, 2.0), ("map".into(), 40.0, 1.0)]);
        assert_eq!(of(Grouping::Module), [("a".into(), 50.0, 1.0), ("b".into(), 50.0, 2.0)]);
    }

    #[test]
    fn the_nearest_value_is_found() {
        let values = [1.0, 5.0, 9.0];
        assert_eq!([0.0, 2.9, 3.1, 100.0].map(|x| nearest(&values, x, |value| *value)), [Some(0), Some(0), Some(1), Some(2)]);
        assert_eq!(nearest(&[] as &[f64], 1.0, |value| *value), None);
    }
}
