//! The middle of the window: a chart a metric, grouped by the word before the slash, of every run that is shown.
//!
//! A chart asks its series for one column a pixel and paints least and greatest value as a band and the mean as a line, so a frame costs what the
//! window is wide, not what the runs are long. All charts share x range and cursor; a double click goes back to the whole range.

use super::axis::{Axis, Scale, padded, short};
use super::commands::Action;
use super::theme::{self, Palette};
use super::{Panel, run_name};
use crate::data::{Column, Point, Run, Series, XAxis};
use eframe::egui::epaint::Mesh;
use eframe::egui::{
    self, Align2, Color32, FontId, Grid, Id, Painter, Pos2, Rect, Response, RichText, Role, ScrollArea, Sense, Shape, Stroke, StrokeKind,
    Ui, WidgetInfo, pos2, vec2,
};
use serde::{Deserialize, Serialize};
use solstice_store::Event;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Least width of a chart before another column of charts fits.
const CHART_WIDTH_MIN: f32 = 300.0;
/// Height of a chart with its title and axis.
const CHART_HEIGHT: f32 = 212.0;
/// Height of the title's row.
const TITLE_HEIGHT: f32 = 26.0;
/// Room for the labels of the y axis.
const GUTTER: f32 = 46.0;
/// Height of the strip of events.
const STRIP_HEIGHT: f32 = 12.0;
/// Height of the labels of the x axis.
const TICKS_HEIGHT: f32 = 16.0;
/// A drag below this length is a click.
const BOX_MIN: f32 = 6.0;

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChartsView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ChartsState {}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(_panel: &mut Panel, _action: Action) -> bool {
    false
}

/// What part of the charts is looked at. Not kept between sessions.
#[derive(Clone, Debug, Default)]
pub struct Zoom {
    /// Range of x of all charts; the whole without one.
    pub x: Option<(f64, f64)>,
    /// Range of y, by metric; what is to be seen without one.
    pub y: BTreeMap<String, (f64, f64)>,
    /// Where the mouse is, in the unit of the x axis, and over which chart.
    pub cursor: Option<(f64, String)>,
    /// The box that is being drawn over a chart.
    drag: Option<(String, Pos2)>,
}

impl Zoom {
    /// Back to the whole range.
    pub fn reset(&mut self) {
        self.x = None;
        self.y.clear();
    }

    /// Any range is not the whole.
    pub fn is_active(&self) -> bool {
        self.x.is_some() || !self.y.is_empty()
    }
}

/// The columns of the last frame: asking a series again costs a hundred times more than drawing what is known.
#[derive(Debug, Default)]
pub struct ColumnCache {
    columns: HashMap<CurveKey, CachedColumns>,
    frame: u64,
}

/// A run's id and a metric.
type CurveKey = (String, String);

/// What columns depend on: the series' version, axis, range, number and half-life.
type ColumnsKey = (u64, usize, XAxis, [u64; 2], usize, u64);

#[derive(Debug)]
struct CachedColumns {
    key: ColumnsKey,
    columns: Arc<Vec<Column>>,
    frame: u64,
}

impl ColumnCache {
    fn columns(
        &mut self,
        run: &str,
        metric: &str,
        series: &Series,
        axis: XAxis,
        range: (f64, f64),
        count: usize,
        half_life: f64,
    ) -> Arc<Vec<Column>> {
        let key = (series.version(), series.len(), axis, [range.0.to_bits(), range.1.to_bits()], count, half_life.to_bits());
        let slot = (run.to_owned(), metric.to_owned());
        if let Some(cached) = self.columns.get_mut(&slot).filter(|cached| cached.key == key) {
            cached.frame = self.frame;
            return cached.columns.clone();
        }
        let columns = Arc::new(columns(series, axis, range, count, half_life));
        self.columns.insert(slot, CachedColumns { key, columns: columns.clone(), frame: self.frame });
        columns
    }

    // Forgets what the last frames did not draw.
    fn begin_frame(&mut self) {
        self.frame += 1;
        let frame = self.frame;
        if frame.is_multiple_of(64) {
            self.columns.retain(|_, cached| cached.frame + 64 > frame);
        }
    }
}

/// A run's curve in a chart.
struct Curve<'a> {
    run: &'a Run,
    series: &'a Series,
    color: Color32,
    is_selected: bool,
    columns: Arc<Vec<Column>>,
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    toolbar(ui, panel);
    panel.session.columns.begin_frame();
    let snapshot = panel.snapshot.clone();
    let runs: Vec<&Arc<Run>> = snapshot.runs.iter().filter(|run| panel.view.is_shown(&run.id)).collect();
    let palette = Palette::of(ui);
    let names: BTreeSet<&str> = runs.iter().flat_map(|run| run.series.keys().map(String::as_str)).collect();
    if names.is_empty() {
        let text = if snapshot.runs.is_empty() {
            "Curves appear here as soon as there is a run"
        } else if runs.is_empty() {
            "No run is shown: click the dot of one on the left"
        } else {
            "The shown runs have no numbers yet"
        };
        ui.centered_and_justified(|ui| ui.label(RichText::new(text).color(palette.dim)));
        return;
    }
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        groups.entry(name.split_once('/').map_or("", |(group, _)| group)).or_default().push(name);
    }
    for metrics in groups.values_mut() {
        metrics.sort_by_key(|name| (rank(name), *name));
    }
    let mut groups: Vec<(&str, Vec<&str>)> = groups.into_iter().collect();
    groups.sort_by_key(|(group, _)| (if *group == "train" { 0 } else { 1 }, *group));

    let whole_x = whole_range(&runs, panel.view.x_axis);
    let mut cursor = None;
    ScrollArea::vertical().id_salt("curves").auto_shrink(false).show(ui, |ui| {
        for (group, metrics) in groups {
            let title = if group.is_empty() { "other" } else { group };
            let mut is_open = !panel.view.closed_groups.contains(title);
            group_heading(ui, title, metrics.len(), &mut is_open);
            if is_open {
                panel.view.closed_groups.remove(title);
            } else {
                panel.view.closed_groups.insert(title.into());
                continue;
            }
            let width = ui.available_width();
            let column_count = ((width / CHART_WIDTH_MIN) as usize).clamp(1, 4);
            let size = vec2((width - theme::GAP * (column_count - 1) as f32) / column_count as f32, CHART_HEIGHT);
            Grid::new(("charts", group)).num_columns(column_count).spacing([theme::GAP, theme::GAP]).show(ui, |ui| {
                for (index, metric) in metrics.iter().enumerate() {
                    let (rect, response) = ui.allocate_exact_size(size, Sense::click_and_drag());
                    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, format!("Chart of {metric}")));
                    // Charts out of sight ask for no columns.
                    if ui.is_rect_visible(rect) {
                        chart(ui, panel, &runs, metric, rect, &response, whole_x, &mut cursor);
                    }
                    if index % column_count == column_count - 1 {
                        ui.end_row();
                    }
                }
            });
            ui.add_space(theme::GAP);
        }
    });
    panel.session.zoom.cursor = cursor;
}

// What people look at first.
fn rank(name: &str) -> usize {
    let last = name.rsplit('/').next().unwrap_or(name);
    ["loss", "accuracy", "perplexity", "lr", "samples_per_sec"].iter().position(|known| *known == last).unwrap_or(9)
}

fn whole_range(runs: &[&Arc<Run>], x_axis: XAxis) -> (f64, f64) {
    let ranges = runs.iter().flat_map(|run| run.series.values()).filter_map(|series| series.x_range(x_axis));
    let range = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    match range {
        // Begins at zero where that is near: the first row of a run is at step 1 or 20.
        Some((low, high)) if high > low && x_axis != XAxis::Wall && low > 0.0 && low < 0.1 * high => (0.0, high),
        Some((low, high)) if high > low => (low, high),
        Some((low, _)) => (low - 0.5, low + 0.5),
        None => (0.0, 1.0),
    }
}

fn toolbar(ui: &mut Ui, panel: &mut Panel) {
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("x axis");
        egui::ComboBox::from_id_salt("x axis")
            .selected_text(x_axis_name(panel.view.x_axis))
            .width(84.0)
            .show_ui(ui, |ui| {
                for axis in XAxis::ALL {
                    if ui.selectable_label(panel.view.x_axis == axis, x_axis_name(axis)).clicked() {
                        panel.view.x_axis = axis;
                        panel.session.zoom.reset();
                    }
                }
            })
            .response
            .labelled_by(label.id);
        ui.add_space(theme::GAP);
        let label = ui.label("Smoothing");
        ui.add(egui::Slider::new(&mut panel.view.smoothing, 0.0..=0.99).max_decimals(2)).labelled_by(label.id).on_hover_text(
            "Exponential mean; its half-life is a twentieth of the x axis times the square of this. The raw curve stays behind it",
        );
        ui.add_space(theme::GAP);
        ui.checkbox(&mut panel.view.log_y, "Log y").on_hover_text("Logarithmic y axis (Y)");
        ui.add_space(theme::GAP);
        let reset = ui.add_enabled(panel.session.zoom.is_active(), egui::Button::new("Whole range"));
        if reset.on_hover_text("Back to the whole range (R, or double click on a chart)").clicked() {
            panel.session.zoom.reset();
        }
    });
    ui.add_space(2.0);
}

/// The name of an x axis on screen.
pub fn x_axis_name(axis: XAxis) -> &'static str {
    match axis {
        XAxis::Step => "Step",
        XAxis::Epoch => "Epoch",
        XAxis::Samples => "Samples",
        XAxis::Relative => "Time",
        XAxis::Wall => "Clock (UTC)",
    }
}

fn group_heading(ui: &mut Ui, title: &str, count: usize, is_open: &mut bool) {
    let palette = Palette::of(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), theme::ROW_HEIGHT), Sense::click());
    response.widget_info(|| WidgetInfo::selected(Role::DisclosureTriangle, true, *is_open, format!("Group {title}")));
    if response.clicked() {
        *is_open = !*is_open;
    }
    let painter = ui.painter_at(rect);
    let middle = pos2(rect.left() + 7.0, rect.center().y);
    let corners = if *is_open { [(-4.0, -2.0), (4.0, -2.0), (0.0, 3.5)] } else { [(-2.0, -4.0), (3.5, 0.0), (-2.0, 4.0)] };
    let corners = corners.iter().map(|(x, y)| middle + vec2(*x, *y)).collect();
    painter.add(Shape::convex_polygon(corners, palette.dim, Stroke::NONE));
    let text =
        painter.text(pos2(rect.left() + 18.0, rect.center().y), Align2::LEFT_CENTER, title, FontId::proportional(14.0), palette.text);
    painter.text(
        pos2(text.right() + 7.0, rect.center().y + 0.5),
        Align2::LEFT_CENTER,
        count.to_string(),
        FontId::proportional(11.0),
        palette.dim,
    );
    if response.has_focus() {
        painter.rect_stroke(rect, 4.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
}

fn chart(
    ui: &Ui,
    panel: &mut Panel,
    runs: &[&Arc<Run>],
    metric: &str,
    rect: Rect,
    response: &Response,
    whole_x: (f64, f64),
    cursor: &mut Option<(f64, String)>,
) {
    let palette = Palette::of(ui);
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 5.0, palette.background);
    let plot = Rect::from_min_max(
        pos2(rect.left() + GUTTER, rect.top() + TITLE_HEIGHT),
        pos2(rect.right() - 10.0, rect.bottom() - TICKS_HEIGHT - STRIP_HEIGHT),
    );
    let scale = if panel.view.log_y { Scale::Log } else { Scale::Linear };
    let (x_low, x_high) = panel.session.zoom.x.unwrap_or(whole_x);
    let x = Axis { scale: Scale::Linear, low: x_low, high: x_high, start: plot.left(), end: plot.right() };

    let half_life = half_life(panel.view.smoothing, whole_x);
    let mut curves: Vec<Curve> = runs
        .iter()
        .filter_map(|run| {
            let series = run.series.get(metric)?;
            let count = plot.width() as usize;
            let columns = panel.session.columns.columns(&run.id, metric, series, panel.view.x_axis, (x_low, x_high), count, half_life);
            let is_selected = panel.view.selected.as_ref() == Some(&run.id);
            Some(Curve { run, series, color: palette.run(panel.view.color_slot(&run.id)), is_selected, columns })
        })
        .collect();
    // The selected run is drawn last, on top.
    curves.sort_by_key(|curve| curve.is_selected);

    let is_smooth = panel.view.smoothing > 0.0;
    let seen = seen_of(&curves, scale, is_smooth);
    let (y_low, y_high) = panel.session.zoom.y.get(metric).copied().unwrap_or_else(|| padded(seen.as_ref().map(|seen| seen.range), scale));
    let y = Axis { scale, low: y_low, high: y_high, start: plot.bottom(), end: plot.top() };

    grid(&painter, plot, &x, &y, palette, panel.view.x_axis);
    let inside = painter.with_clip_rect(plot.expand(1.0).intersect(ui.clip_rect()));
    for curve in &curves {
        draw(&inside, curve, &x, &y, plot, is_smooth, palette);
    }
    strip(ui, &painter, panel, &curves, &x, plot, palette);

    painter.text(
        pos2(rect.left() + 10.0, rect.top() + TITLE_HEIGHT / 2.0 + 1.0),
        Align2::LEFT_CENTER,
        metric,
        FontId::proportional(12.5),
        palette.text,
    );
    let has_range = panel.session.zoom.y.contains_key(metric);
    if let Some(peak) = seen
        .as_ref()
        .and_then(|seen| seen.cut)
        .filter(|_| !has_range && panel.session.zoom.cursor.as_ref().is_none_or(|(_, over)| over != metric))
    {
        painter.text(
            pos2(rect.right() - 10.0, rect.top() + TITLE_HEIGHT / 2.0 + 1.0),
            Align2::RIGHT_CENTER,
            format!("cut off: {}", short(peak)),
            FontId::proportional(10.5),
            palette.warn,
        );
    }
    if seen.is_none() {
        let text = if scale == Scale::Log { "nothing above zero here" } else { "nothing here" };
        painter.text(plot.center(), Align2::CENTER_CENTER, text, FontId::proportional(12.0), palette.dim);
    }
    interact(ui, panel, metric, response, &x, &y, plot, &painter, palette, cursor);
    read_out(&painter, panel, metric, &curves, &x, &y, plot, rect, palette);
}

// In units of the x axis: a part of its whole length, so that zooming changes no curve. The square gives the slider its fineness at the low end.
fn half_life(smoothing: f64, (low, high): (f64, f64)) -> f64 {
    smoothing * smoothing * 0.05 * (high - low)
}

// One column a pixel, with the points just outside, so that lines come in and go out at the edges.
fn columns(series: &Series, x_axis: XAxis, range: (f64, f64), count: usize, half_life: f64) -> Vec<Column> {
    let mut columns = series.view_smoothed(x_axis, range, count, half_life);
    if half_life == 0.0 {
        let (before, after) = series.neighbours(x_axis, range);
        let beyond = |point: Point| {
            let x = match x_axis {
                XAxis::Step => point.step as f64,
                XAxis::Epoch => point.epoch,
                XAxis::Samples => point.samples,
                XAxis::Relative => point.time - series.origin(),
                XAxis::Wall => point.time,
            };
            let value = point.value;
            let bad = u32::from(!value.is_finite());
            let ends = Column {
                x,
                x_first: x,
                x_last: x,
                min: value,
                max: value,
                first: value,
                last: value,
                mean: value,
                smoothed: value,
                count: 1,
                bad,
                has_gap: bad > 0,
            };
            (!ends.has_gap).then_some(ends)
        };
        if let Some(column) = before.and_then(beyond) {
            columns.insert(0, column);
        }
        columns.extend(after.and_then(beyond));
    }
    columns
}

fn x_of_event(step: u64, time: f64, series: &Series, x_axis: XAxis) -> Option<f64> {
    match x_axis {
        XAxis::Step => Some(step as f64),
        XAxis::Relative => Some(time - series.origin()),
        XAxis::Wall => Some(time),
        XAxis::Epoch => series.nearest(XAxis::Step, step as f64).map(|point| point.epoch),
        XAxis::Samples => series.nearest(XAxis::Step, step as f64).map(|point| point.samples),
    }
}

/// What a chart shows of its values when nobody has chosen a range.
struct Seen {
    /// Least and greatest value to be seen.
    range: (f64, f64),
    /// A value so far out that it would flatten all others: it is cut off, and told.
    cut: Option<f64>,
}

// Lines when smoothed, bands too when not. A peak is cut off where it takes more than three quarters of the height and is no more than 2 % of the
// columns of its curve: the first steps of a run, or a burst. Each curve is judged alone, so that none is hidden by another.
fn seen_of(curves: &[Curve], scale: Scale, is_smooth: bool) -> Option<Seen> {
    let mut whole: Option<(f64, f64)> = None;
    let mut most: Option<(f64, f64)> = None;
    let join = |range: &mut Option<(f64, f64)>, low: f64, high: f64| {
        *range = Some(range.map_or((low, high), |(least, greatest)| (least.min(low), greatest.max(high))));
    };
    let can_be_drawn = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
    let mut values: Vec<f64> = Vec::new();
    for curve in curves {
        values.clear();
        for column in curve.columns.iter() {
            let pair = if is_smooth { [column.smoothed, column.mean] } else { [column.min, column.max] };
            values.extend(pair.into_iter().filter(can_be_drawn));
        }
        if values.is_empty() {
            continue;
        }
        // Two values a column: a peak of one column is always left out where there are enough.
        let last = values.len() - 1;
        let left_out = if last < 16 { 0 } else { (last / 50).max(2) };
        let (below, low, _) = values.select_nth_unstable_by(left_out, f64::total_cmp);
        let (least, low) = (below.iter().copied().fold(*low, f64::min), *low);
        let (_, high, above) = values.select_nth_unstable_by(last - left_out, f64::total_cmp);
        let (greatest, high) = (above.iter().copied().fold(*high, f64::max), *high);
        join(&mut whole, least, greatest);
        join(&mut most, low, high);
    }
    let (whole, most) = (whole?, most?);
    let is_flattened = scale == Scale::Linear && most.1 > most.0 && whole.1 - whole.0 > 4.0 * (most.1 - most.0);
    let furthest = if whole.1 - most.1 > most.0 - whole.0 { whole.1 } else { whole.0 };
    Some(Seen { range: if is_flattened { most } else { whole }, cut: is_flattened.then_some(furthest) })
}

fn grid(painter: &Painter, plot: Rect, x: &Axis, y: &Axis, palette: &Palette, x_axis: XAxis) {
    let line = Stroke::new(1.0, palette.grid);
    let font = FontId::proportional(10.5);
    let count = ((plot.height() / 26.0) as usize).max(2);
    for tick in y.ticks(count) {
        let at = painter.round_to_pixel_center(y.pixel(tick));
        painter.hline(plot.x_range(), at, line);
        painter.text(pos2(plot.left() - 6.0, at), Align2::RIGHT_CENTER, y.tick_text(tick, count), font.clone(), palette.dim);
    }
    let count = ((plot.width() / 46.0) as usize).max(2);
    let bottom = plot.bottom() + STRIP_HEIGHT;
    for tick in x_ticks(x, count, x_axis) {
        let at = painter.round_to_pixel_center(x.pixel(tick));
        painter.vline(at, plot.y_range(), line);
        let text = x_tick_text(x, tick, count, x_axis);
        let galley = painter.layout_no_wrap(text, font.clone(), palette.dim);
        // The first and last label stay within the chart.
        let left = (at - galley.size().x / 2.0).clamp(plot.left() - 8.0, plot.right() + 8.0 - galley.size().x);
        painter.galley(pos2(left, bottom + 1.0), galley, palette.dim);
    }
    painter.hline(plot.x_range(), painter.round_to_pixel_center(plot.bottom()), Stroke::new(1.0, palette.line));
}

// Time has its own round numbers.
fn x_ticks(x: &Axis, count: usize, x_axis: XAxis) -> Vec<f64> {
    if !is_time(x_axis) {
        return x.ticks(count);
    }
    let wanted = (x.high - x.low) / count as f64;
    let steps = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0];
    match steps.into_iter().find(|step| *step >= wanted) {
        Some(step) if wanted >= 0.5 => {
            let (first, last) = ((x.low / step).ceil() as i64, (x.high / step).floor() as i64);
            (first..=last.min(first + 100)).map(|index| index as f64 * step).collect()
        }
        _ => x.ticks(count),
    }
}

fn x_tick_text(x: &Axis, value: f64, count: usize, x_axis: XAxis) -> String {
    if x_axis == XAxis::Wall {
        return clock(value, x.high - x.low);
    }
    if x_axis != XAxis::Relative || x.high - x.low < 3.0 {
        return x.tick_text(value, count) + if x_axis == XAxis::Relative { " s" } else { "" };
    }
    let whole = value.round() as i64;
    match whole.abs() {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", trimmed(value / 60.0)),
        7200..172_800 => format!("{} h", trimmed(value / 3600.0)),
        _ => format!("{} d", trimmed(value / 86_400.0)),
    }
}

fn is_time(x_axis: XAxis) -> bool {
    matches!(x_axis, XAxis::Relative | XAxis::Wall)
}

// Time of day, UTC; seconds where the axis is short.
fn clock(time: f64, span: f64) -> String {
    let secs = time.rem_euclid(86_400.0) as u32;
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if span < 600.0 { format!("{hours:02}:{minutes:02}:{secs:02}") } else { format!("{hours:02}:{minutes:02}") }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn draw(painter: &Painter, curve: &Curve, x: &Axis, y: &Axis, plot: Rect, is_smooth: bool, palette: &Palette) {
    let can_be_drawn = |value: f64| value.is_finite() && (y.scale == Scale::Linear || value > 0.0);
    let mut mesh = Mesh::default();
    let band = curve.color.gamma_multiply(if is_smooth { theme::BAND_OPACITY * 0.55 } else { theme::BAND_OPACITY });
    let mut lines: [Vec<Pos2>; 2] = Default::default(); // raw, smoothed
    let width = theme::CURVE_WIDTH[usize::from(curve.is_selected)];
    let raw_color = if is_smooth { curve.color.gamma_multiply(theme::SHADOW_OPACITY) } else { curve.color };
    let raw_width = if is_smooth { 1.0 } else { width };
    let mut last_band: Option<u32> = None;
    for column in curve.columns.iter() {
        let at = x.pixel(column.x);
        if column.bad > 0 {
            // A value that is not finite has no place on the axis: a red tick at the foot says that it was there.
            painter.vline(at, plot.bottom() - 7.0..=plot.bottom(), Stroke::new(1.5, palette.error));
        }
        if !can_be_drawn(column.mean) {
            for (line, (width, color)) in lines.iter_mut().zip([(raw_width, raw_color), (width, curve.color)]) {
                stroke(painter, std::mem::take(line), width, color);
            }
            last_band = None;
            continue;
        }
        let floor = if y.scale == Scale::Log { column.min.max(y.low.min(column.mean)) } else { column.min };
        let first = mesh.vertices.len() as u32;
        mesh.colored_vertex(pos2(at, y.pixel(floor)), band);
        mesh.colored_vertex(pos2(at, y.pixel(column.max)), band);
        if let Some(before) = last_band {
            mesh.add_triangle(before, before + 1, first);
            mesh.add_triangle(before + 1, first, first + 1);
        }
        last_band = Some(first);
        lines[0].push(pos2(at, y.pixel(column.mean)));
        if is_smooth && can_be_drawn(column.smoothed) {
            lines[1].push(pos2(at, y.pixel(column.smoothed)));
        }
    }
    if curve.columns.iter().any(|column| column.count > 1) {
        painter.add(Shape::mesh(mesh));
    }
    for (line, (width, color)) in lines.into_iter().zip([(raw_width, raw_color), (width, curve.color)]) {
        stroke(painter, line, width, color);
    }
}

// A line; a dot where it has one point.
fn stroke(painter: &Painter, points: Vec<Pos2>, width: f32, color: Color32) {
    match points.len() {
        0 => {}
        1 => {
            painter.circle_filled(points[0], width + 1.0, color);
        }
        _ => {
            painter.add(Shape::line(points, Stroke::new(width, color)));
        }
    }
}

// Events of the selected run under the plot, and values that are not finite of any; those within a few pixels of one another share a mark.
fn strip(ui: &Ui, painter: &Painter, panel: &Panel, curves: &[Curve], x: &Axis, plot: Rect, palette: &Palette) {
    let y = plot.bottom() + STRIP_HEIGHT / 2.0 + 0.5;
    let mouse = ui.input(|input| input.pointer.hover_pos()).filter(|pos| (pos.y - y).abs() < 7.0 && ui.clip_rect().contains(*pos));
    let mut told = Vec::new();
    for curve in curves {
        let mut last: Option<(f32, &str)> = None;
        let events = curve.run.events.iter().filter(|event| is_mark(event) && (curve.is_selected || event.kind == "nan"));
        let events = events.map(|event| (event.kind.as_str(), event.step, event.time, event.message.as_str()));
        // What is saved stands in the index of checkpoints, not among events.
        let saved = curve.run.checkpoints.iter().filter(|_| curve.is_selected);
        let saved = saved.map(|row| ("checkpoint", row.at.step, row.time, row.reason.as_str()));
        for (kind, step, time, message) in saved.chain(events) {
            let Some(place) = x_of_event(step, time, curve.series, panel.view.x_axis) else { continue };
            if !(x.low..=x.high).contains(&place) {
                continue;
            }
            let at = x.pixel(place);
            if mouse.is_some_and(|mouse| (mouse.x - at).abs() < 4.0) && told.len() < 8 {
                told.push((curve.color, format!("{kind} at step {step}: {message}")));
            }
            if last.is_some_and(|(pixel, before)| before == kind && (at - pixel).abs() < 7.0) {
                continue;
            }
            last = Some((at, kind));
            let color = if kind == "nan" { palette.error } else { curve.color };
            theme::event_mark(painter, pos2(at, y), kind, color);
        }
    }
    if let Some(mouse) = mouse
        && !told.is_empty()
    {
        let id = Id::unique(("event", x.start as i32, y as i32));
        let anchor = Rect::from_center_size(pos2(mouse.x, y), vec2(10.0, STRIP_HEIGHT));
        egui::Tooltip::always_open(ui.ctx().clone(), ui.layer_id(), id, anchor).show(|ui| {
            ui.set_max_width(380.0);
            for (color, text) in told {
                ui.label(RichText::new(text).color(color));
            }
        });
    }
}

/// Events that are marks on curves; the others stand in the list of events only.
fn is_mark(event: &Event) -> bool {
    !matches!(event.kind.as_str(), "startup" | "state" | "logger")
}

fn interact(
    ui: &Ui,
    panel: &mut Panel,
    metric: &str,
    response: &Response,
    x: &Axis,
    y: &Axis,
    plot: Rect,
    painter: &Painter,
    palette: &Palette,
    cursor: &mut Option<(f64, String)>,
) {
    let zoom = &mut panel.session.zoom;
    let mouse = response.hover_pos().or(response.interact_pointer_pos());
    if let Some(mouse) = mouse.filter(|mouse| plot.x_range().contains(mouse.x)) {
        *cursor = Some((x.value(mouse.x), metric.to_owned()));
    }
    if response.double_clicked() {
        zoom.reset();
        zoom.drag = None;
        return;
    }
    let (shift, delta) = ui.input(|input| (input.modifiers.shift, input.zoom_delta()));
    if let (Some(mouse), true) = (response.hover_pos(), delta != 1.0) {
        let at = x.value(mouse.x.clamp(plot.left(), plot.right()));
        let factor = 1.0 / f64::from(delta);
        zoom.x = Some((at - (at - x.low) * factor, at + (x.high - at) * factor));
    }
    if response.drag_started() {
        let start = ui.input(|input| input.pointer.press_origin());
        zoom.drag = start.filter(|_| !shift).map(|start| (metric.to_owned(), start));
    }
    if response.dragged() && zoom.drag.is_none() {
        let moved = f64::from(response.drag_delta().x / plot.width()) * (x.high - x.low);
        zoom.x = Some((x.low - moved, x.high - moved));
    }
    let Some((chart, start)) = zoom.drag.clone().filter(|(chart, _)| chart == metric) else { return };
    let Some(end) = response.interact_pointer_pos().or(response.hover_pos()) else { return };
    let dragged = Rect::from_two_pos(start, end).intersect(plot);
    // A flat box is meant for x alone.
    let is_flat = dragged.height() < 24.0;
    if response.drag_stopped() {
        zoom.drag = None;
        if dragged.width() >= BOX_MIN {
            zoom.x = Some((x.value(dragged.left()), x.value(dragged.right())));
            if is_flat {
                zoom.y.remove(&chart);
            } else {
                zoom.y.insert(chart, (y.value(dragged.bottom()), y.value(dragged.top())));
            }
        }
    } else if dragged.width() > 1.0 {
        let shown = if is_flat { Rect::from_x_y_ranges(dragged.x_range(), plot.y_range()) } else { dragged };
        painter.rect(shown, 2.0, palette.accent.gamma_multiply(0.12), Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
}

// The cursor of all charts: a line, a dot a curve, and their values; names too in the chart under the mouse.
fn read_out(
    painter: &Painter,
    panel: &Panel,
    metric: &str,
    curves: &[Curve],
    x: &Axis,
    y: &Axis,
    plot: Rect,
    rect: Rect,
    palette: &Palette,
) {
    let Some((at, hovered)) = &panel.session.zoom.cursor else { return };
    if !(x.low..=x.high).contains(at) {
        return;
    }
    let pixel = x.pixel(*at);
    let is_hovered = hovered == metric;
    painter.vline(painter.round_to_pixel_center(pixel), plot.y_range(), Stroke::new(1.0, palette.dim.gamma_multiply(0.6)));
    let is_smooth = panel.view.smoothing > 0.0;
    let mut lines: Vec<(Color32, String, bool)> = Vec::new();
    for curve in curves.iter().rev() {
        let Some(column) = nearest(&curve.columns, *at) else { continue };
        let value = if is_smooth { column.smoothed } else { column.mean };
        // A curve that ended before the cursor, or begins after it, has no value there.
        if (x.pixel(column.x) - pixel).abs() > 4.0
            && curve.series.x_range(panel.view.x_axis).is_some_and(|(low, high)| *at < low || *at > high)
        {
            continue;
        }
        painter.circle_filled(pos2(x.pixel(column.x), y.pixel(value)), 3.2, curve.color);
        let name = if is_hovered { format!("{}  {}", short(value), run_name(curve.run)) } else { short(value) };
        lines.push((curve.color, name, curve.is_selected));
    }
    if is_hovered {
        let text = match panel.view.x_axis {
            XAxis::Relative => super::axis::duration(*at),
            XAxis::Wall => clock(*at, 60.0),
            XAxis::Epoch => format!("epoch {at:.2}"),
            XAxis::Samples => format!("{} samples", short(at.round())),
            XAxis::Step => format!("step {at:.0}"),
        };
        painter.text(
            pos2(rect.right() - 10.0, rect.top() + TITLE_HEIGHT / 2.0 + 1.0),
            Align2::RIGHT_CENTER,
            text,
            FontId::proportional(11.0),
            palette.dim,
        );
    }
    if lines.is_empty() {
        return;
    }
    let rest = lines.len().saturating_sub(10);
    lines.truncate(10);
    if rest > 0 {
        lines.push((palette.dim, format!("and {rest} more"), false));
    }
    let galleys: Vec<_> = lines
        .iter()
        .map(|(_, text, strong)| {
            painter.layout_no_wrap(text.clone(), FontId::proportional(11.0), if *strong { palette.text } else { palette.dim })
        })
        .collect();
    let size = vec2(galleys.iter().map(|galley| galley.size().x).fold(0.0, f32::max) + 26.0, galleys.len() as f32 * 15.0 + 8.0);
    // On the side of the cursor where there is room.
    let left = if pixel + size.x + 12.0 < plot.right() { pixel + 10.0 } else { (pixel - 10.0 - size.x).max(rect.left() + 2.0) };
    let panel_rect = Rect::from_min_size(pos2(left, plot.top() + 3.0), size);
    painter.rect(panel_rect, 4.0, palette.panel.gamma_multiply(0.94), Stroke::new(1.0, palette.line), StrokeKind::Inside);
    for (index, (galley, (color, ..))) in galleys.into_iter().zip(&lines).enumerate() {
        let middle = panel_rect.top() + 4.0 + 15.0 * (index as f32 + 0.5);
        painter.circle_filled(pos2(panel_rect.left() + 10.0, middle), 3.2, *color);
        painter.galley(pos2(panel_rect.left() + 18.0, middle - galley.size().y / 2.0), galley, palette.text);
    }
}

fn nearest(columns: &[Column], x: f64) -> Option<&Column> {
    let after = columns.partition_point(|column| column.x < x);
    let candidates = [after.checked_sub(1), Some(after)];
    let candidates = candidates.into_iter().flatten().filter_map(|index| columns.get(index));
    candidates.min_by(|a, b| (a.x - x).abs().total_cmp(&(b.x - x).abs()))
}
