//! One chart: its curves or the means of its groups, ticks, marks, badges, and what the mouse and the keys do over it.

use super::super::axis::{Axis, Scale, short};
use super::super::theme::{self, Palette};
use super::super::{Panel, run_name};
use super::groups::{Grouping, MeanPoint, means};
use super::lines::{Line, Picture, STRIP_HEIGHT, pieces_of_columns, pieces_of_means};
use super::{card, export, marks, menu, navigate, range, readout};
use crate::data::{Column, Run, Series, XAxis};
use eframe::egui::{
    Align2, Color32, FontId, Id, Painter, Popup, PopupCloseBehavior, Rect, Response, Role, Sense, Shape, Stroke, StrokeKind, Ui,
    WidgetInfo, pos2, vec2,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Height of the title's row.
const TITLE_HEIGHT: f32 = 26.0;
/// Room for the labels of the y axis.
const GUTTER: f32 = 46.0;
/// Height of the labels of the x axis.
const TICKS_HEIGHT: f32 = 16.0;

/// What all charts of a frame share.
pub struct Scene<'a> {
    /// The runs with curves.
    pub runs: Vec<&'a Arc<Run>>,
    /// Their colours and dashes, in the same order.
    pub styles: Vec<(Color32, usize)>,
    /// The groups, where curves are put together.
    pub grouping: Option<Arc<Grouping>>,
    /// Range of x of all metrics of all runs.
    pub whole_x: (f64, f64),
    /// How x is laid out.
    pub x_scale: Scale,
    /// What smoothing averages over, in the unit of x; 0 for none.
    pub half_life: f64,
}

/// A curve as it is drawn: a run's, or a group's.
pub struct Trace<'a> {
    /// What the read-out says.
    pub name: String,
    /// Its run; none of a group.
    pub run: Option<&'a Run>,
    /// Its points; none of a group.
    pub series: Option<&'a Series>,
    /// Of the line.
    pub color: Color32,
    /// Of the line.
    pub dash: usize,
    /// Drawn on top, and wider.
    pub is_selected: bool,
    /// One for each pixel.
    pub values: Values,
}

/// What a curve is made of.
pub enum Values {
    /// A run's columns.
    Columns(Arc<Vec<Column>>),
    /// A group's means.
    Means(Vec<MeanPoint>),
}

impl Scene<'_> {
    /// Colours and dashes: a colour belongs to a run; dashes come in where two shown runs have the same.
    pub fn styles(panel: &Panel, runs: &[&Arc<Run>], palette: &Palette) -> Vec<(Color32, usize)> {
        let slots: Vec<usize> = runs.iter().map(|run| panel.view.color_slot(&run.id)).collect();
        let count = palette.series.len();
        let mut shown: HashMap<usize, usize> = HashMap::new();
        slots.iter().for_each(|slot| *shown.entry(slot % count).or_default() += 1);
        let style = |slot: &usize| (palette.run(*slot), if shown[&(slot % count)] > 1 { slot / count % theme::DASHES.len() } else { 0 });
        slots.iter().map(style).collect()
    }

    /// Range of x of one metric.
    pub fn range_of(&self, metric: &str, x_axis: XAxis) -> (f64, f64) {
        whole_range(self.runs.iter().filter_map(|run| run.series.get(metric)).map(Arc::as_ref), x_axis, self.x_scale)
    }
}

/// The range of x that shows all of `series`.
pub fn whole_range<'a>(series: impl Iterator<Item = &'a Series>, x_axis: XAxis, scale: Scale) -> (f64, f64) {
    let range = |series: &Series| {
        let (low, high) = series.x_range(x_axis)?;
        if scale == Scale::Linear || low > 0.0 {
            return Some((low, high));
        }
        let first = series.not_positive_x(x_axis);
        (first < series.len()).then(|| (series.x(x_axis, first), high))
    };
    match series.filter_map(range).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
        // Begins at zero where that is near: the first row of a run is at step 1 or 20.
        Some((low, high)) if high > low && scale == Scale::Linear && x_axis != XAxis::Wall && low > 0.0 && low < 0.1 * high => (0.0, high),
        Some((low, high)) if high > low => (low, high),
        Some((low, _)) if scale == Scale::Log => (low / 2.0, low * 2.0),
        Some((low, _)) => (low - 0.5, low + 0.5),
        None if scale == Scale::Log => (1.0, 10.0),
        None => (0.0, 1.0),
    }
}

/// Where the curves of a chart lie within it.
pub fn plot_rect(rect: Rect) -> Rect {
    Rect::from_min_max(
        pos2(rect.left() + GUTTER, rect.top() + TITLE_HEIGHT),
        pos2(rect.right() - 10.0, rect.bottom() - TICKS_HEIGHT - STRIP_HEIGHT),
    )
}

/// Draws the chart of `metric`.
pub fn show(ui: &Ui, panel: &mut Panel, scene: &Scene, metric: &str, rect: Rect, response: &Response) {
    let palette = Palette::of(ui);
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 5.0, palette.background);
    let plot = plot_rect(rect);
    let scale = if panel.view.log_y { Scale::Log } else { Scale::Linear };
    let (x_low, x_high) = x_range(panel, scene, metric);
    let x = Axis { scale: scene.x_scale, low: x_low, high: x_high, start: plot.left(), end: plot.right() };
    let is_smooth = scene.half_life > 0.0;

    let runs = run_traces(panel, scene, metric, &x);
    let groups = scene.grouping.as_ref().map(|grouping| group_traces(grouping, &runs, &x, is_smooth, palette));
    let drawn: &[Trace] = groups.as_deref().unwrap_or(&runs);

    let cuts = panel.view.charts.cuts_outliers;
    let options = panel.view.charts.options.get(metric).copied().unwrap_or_default();
    let seen = range::seen_of(drawn.iter().map(|trace| values_of(trace, is_smooth)), scale, cuts);
    let zoomed = panel.session.zoom.y.get(metric).copied();
    let (y_low, y_high) = range::y_range(zoomed, &options, seen, scale);
    let y = Axis { scale, low: y_low, high: y_high, start: plot.bottom(), end: plot.top() };

    let mut bad = Vec::new();
    let lines = drawn.iter().map(|trace| line_of(trace, &x, &y, is_smooth, &mut bad)).collect();
    let picture = Picture { title: metric.into(), frame: rect, plot, x_axis: panel.view.x_axis, x, y, lines, bad };
    let is_whole_y = zoomed.is_none() && options.low.is_none() && options.high.is_none();
    let notes = notes(panel, scene, metric, &runs, seen.filter(|_| is_whole_y), scale);
    export::carry_out(ui, panel, &runs, &picture, &notes, palette);
    picture.paint_grid(&painter, palette);
    picture.paint_lines(&painter.with_clip_rect(plot.expand(1.0).intersect(ui.clip_rect())), palette);
    if seen.is_none() {
        let text = if scale == Scale::Log { "nothing above zero here" } else { "nothing here" };
        painter.text(plot.center(), Align2::CENTER_CENTER, text, FontId::proportional(12.0), palette.dim);
    }

    ui.ctx().accesskit_node_builder(response.id, |node| {
        let mut text = readout::value_text(metric, drawn, panel.view.x_axis);
        notes.iter().for_each(|(note, _)| text = format!("{text}; {note}"));
        node.set_value(text);
    });
    marks::show(ui, &painter, panel, &runs, &x, plot, palette);
    title_row(ui, panel, metric, rect, &painter, &notes, palette);
    if response.has_focus() {
        painter.rect_stroke(rect.shrink(0.5), 5.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
    navigate::show(ui, panel, metric, response, &x, &y, plot, &painter, palette);
    card::choose(ui, panel, metric, response, &runs, &x, &y, plot);
    card::mark(panel, metric, &runs, &x, &y, plot, &painter, palette);
    readout::show(&painter, panel, metric, drawn, &x, &y, plot, rect, palette, is_smooth);
    Popup::context_menu(response).close_behavior(PopupCloseBehavior::CloseOnClickOutside).show(|ui| menu::show(ui, panel, metric));
}

fn x_range(panel: &Panel, scene: &Scene, metric: &str) -> (f64, f64) {
    let zoom = &panel.session.zoom;
    let can_be = |range: &(f64, f64)| scene.x_scale == Scale::Linear || range.0 > 0.0;
    if panel.view.charts.is_linked {
        zoom.x.filter(can_be).unwrap_or(scene.whole_x)
    } else {
        zoom.own_x.get(metric).copied().filter(can_be).unwrap_or_else(|| scene.range_of(metric, panel.view.x_axis))
    }
}

fn run_traces<'a>(panel: &mut Panel, scene: &'a Scene, metric: &str, x: &Axis) -> Vec<Trace<'a>> {
    let runs = scene.runs.iter().zip(&scene.styles).filter_map(|(run, style)| Some((*run, run.series.get(metric)?, style)));
    let mut traces: Vec<Trace> = runs
        .map(|(run, series, (color, dash))| Trace {
            name: run_name(run),
            run: Some(run.as_ref()),
            series: Some(series.as_ref()),
            color: *color,
            dash: *dash,
            is_selected: panel.view.selected.as_ref() == Some(&run.id),
            values: Values::Columns(panel.session.columns.columns(&run.id, metric, series, panel.view.x_axis, x, scene.half_life)),
        })
        .collect();
    // The selected run is drawn last, on top.
    traces.sort_by_key(|trace| trace.is_selected);
    traces
}

fn group_traces<'a>(grouping: &Grouping, runs: &[Trace<'a>], x: &Axis, is_smooth: bool, palette: &Palette) -> Vec<Trace<'a>> {
    let mut members: Vec<Vec<Arc<Vec<Column>>>> = vec![Vec::new(); grouping.names.len()];
    let mut is_selected = vec![false; grouping.names.len()];
    for trace in runs {
        let group = trace.run.and_then(|run| grouping.group_of.get(&run.id));
        if let (Some(&group), Values::Columns(columns)) = (group, &trace.values) {
            members[group].push(columns.clone());
            is_selected[group] |= trace.is_selected;
        }
    }
    let named = grouping.names.iter().zip(members).enumerate().filter(|(_, (_, members))| !members.is_empty());
    let mut traces: Vec<Trace> = named
        .map(|(index, (name, members))| Trace {
            name: name.clone(),
            run: None,
            series: None,
            color: palette.run(index),
            dash: index / palette.series.len() % theme::DASHES.len(),
            is_selected: is_selected[index],
            values: Values::Means(means(&members, x, |column| if is_smooth { column.smoothed } else { column.mean })),
        })
        .collect();
    traces.sort_by_key(|trace| trace.is_selected);
    traces
}

// Lines when smoothed, bands too when not.
fn values_of(trace: &Trace, is_smooth: bool) -> Vec<f64> {
    match &trace.values {
        Values::Columns(columns) if is_smooth => columns.iter().flat_map(|column| [column.smoothed, column.mean]).collect(),
        Values::Columns(columns) => columns.iter().flat_map(|column| [column.min, column.max]).collect(),
        Values::Means(means) => means.iter().flat_map(|point| [point.mean - point.deviation, point.mean + point.deviation]).collect(),
    }
}

fn line_of(trace: &Trace, x: &Axis, y: &Axis, is_smooth: bool, bad: &mut Vec<f32>) -> Line {
    let (pieces, band_opacity) = match &trace.values {
        Values::Columns(columns) => {
            let opacity = if is_smooth { theme::BAND_OPACITY * 0.55 } else { theme::BAND_OPACITY };
            (pieces_of_columns(columns, x, y, is_smooth, bad), opacity)
        }
        Values::Means(means) => (pieces_of_means(means, x, y), theme::BAND_OPACITY),
    };
    let width = theme::CURVE_WIDTH[usize::from(trace.is_selected)];
    Line { name: trace.name.clone(), color: trace.color, dash: trace.dash, width, band_opacity, pieces }
}

// What the chart leaves out, to be told in its title: text, and whether it wants a look.
fn notes(panel: &Panel, scene: &Scene, metric: &str, runs: &[Trace], seen: Option<range::Seen>, scale: Scale) -> Vec<(String, bool)> {
    let mut notes: Vec<(String, bool)> = seen.and_then(|seen| seen.badge()).map(|text| (text, true)).into_iter().collect();
    if scale == Scale::Log {
        let of = |trace: &Trace| match &trace.values {
            Values::Columns(columns) => columns.iter().map(|column| u64::from(column.not_positive)).sum::<u64>(),
            Values::Means(_) => 0,
        };
        let count: u64 = runs.iter().map(of).sum();
        notes.extend((count > 0).then(|| (format!("{} not above 0", short(count as f64)), true)));
    }
    if scene.x_scale == Scale::Log {
        let series = scene.runs.iter().filter_map(|run| run.series.get(metric));
        let count: usize = series.map(|series| series.not_positive_x(panel.view.x_axis)).sum();
        notes.extend((count > 0).then(|| (format!("{} at x 0", short(count as f64)), false)));
    }
    notes
}

// Title on the left, badges and the button of the menu on the right.
fn title_row(ui: &Ui, panel: &mut Panel, metric: &str, rect: Rect, painter: &Painter, notes: &[(String, bool)], palette: &Palette) {
    let middle = rect.top() + TITLE_HEIGHT / 2.0 + 1.0;
    let button = Rect::from_center_size(pos2(rect.right() - 18.0, middle), vec2(24.0, 20.0));
    let mut right = button.left() - 4.0;
    let options = ui.interact(button, Id::unique(("options of", metric)), Sense::click());
    options.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Options of {metric}")));
    if options.hovered() || options.has_focus() || Popup::menu(&options).is_open() {
        painter.rect_filled(button, 4.0, palette.raised);
    }
    for x in [-5.0, 0.0, 5.0] {
        painter.circle_filled(button.center() + vec2(x, 0.0), 1.5, palette.dim);
    }
    if options.has_focus() {
        painter.rect_stroke(button, 4.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
    Popup::menu(&options).close_behavior(PopupCloseBehavior::CloseOnClickOutside).show(|ui| menu::show(ui, panel, metric));
    options.on_hover_text("Range, zero, export");
    for (text, is_warning) in notes {
        let color = if *is_warning { palette.warn } else { palette.dim };
        let galley = painter.layout_no_wrap(text.clone(), FontId::proportional(10.5), color);
        let badge = Rect::from_min_size(pos2(right - galley.size().x - 12.0, middle - 8.0), vec2(galley.size().x + 12.0, 16.0));
        painter.rect_filled(badge, 8.0, palette.raised);
        painter.galley(badge.min + vec2(6.0, 8.0 - galley.size().y / 2.0), galley, color);
        right = badge.left() - 4.0;
    }
    let mut left = rect.left() + 10.0;
    if panel.view.charts.pinned.contains(metric) {
        // A pin: head and needle.
        painter.circle_filled(pos2(left + 4.0, middle - 2.5), 3.0, palette.accent);
        painter.add(Shape::line_segment([pos2(left + 4.0, middle), pos2(left + 4.0, middle + 5.5)], Stroke::new(1.4, palette.accent)));
        left += 14.0;
    }
    let mut job = eframe::egui::text::LayoutJob::simple_singleline(metric.to_owned(), FontId::proportional(12.5), palette.text);
    job.wrap = eframe::egui::text::TextWrapping::truncate_at_width((right - left - 6.0).max(24.0));
    let galley = ui.ctx().fonts_mut(|fonts| fonts.layout_job(job));
    let area = Rect::from_min_size(pos2(left - 3.0, rect.top() + 3.0), vec2(galley.size().x + 6.0, TITLE_HEIGHT - 5.0));
    painter.galley(pos2(left, middle - galley.size().y / 2.0), galley, palette.text);
    let title = ui.interact(area, Id::unique(("title of", metric)), Sense::click());
    let is_large = panel.session.charts.maximised.is_some();
    let name = if is_large { format!("All charts instead of {metric}") } else { format!("Maximise {metric}") };
    title.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    // The keyboard has no double click.
    let by_key = title.clicked() && !ui.input(|input| input.pointer.any_click());
    if title.double_clicked() || by_key {
        panel.session.charts.maximised = if is_large { None } else { Some(metric.into()) };
        ui.ctx().request_repaint();
    }
    if title.has_focus() {
        painter.rect_stroke(area, 3.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
    title.on_hover_text(if is_large { "Double click: all charts (M, Escape)" } else { "Double click: one large chart (M)" });
}
