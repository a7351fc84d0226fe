//! Histograms over time: as a row of hills behind one another, as a heat map over steps, or as bands of percentiles.
//!
//! Each row has edges of its own, so all are brought to one axis by area: what a bin holds is spread evenly over its width.

use super::{Desk, Side, waiting};
use crate::data::{Item, Listing, MediaKey};
use crate::gui::axis::{Axis, Scale, padded, short};
use crate::gui::theme::{self, Palette};
use eframe::egui::epaint::Mesh;
use eframe::egui::{Align2, Color32, FontId, Label, Painter, Rect, RichText, Role, Sense, Shape, Stroke, Ui, WidgetInfo, pos2, vec2};
use serde::{Deserialize, Serialize};
use solstice_store::Histogram;
use std::ops::Range;
use std::sync::Arc;

/// Bins of the common axis.
const BINS: usize = 96;
/// Rows that are read of a metric: of more, every second, every fourth, ...
const ROWS_MAX: usize = 192;
/// Hills that are drawn behind one another.
const HILLS_MAX: usize = 28;
const HEIGHT: f32 = 190.0;
const GUTTER: f32 = 44.0;
const TICKS_HEIGHT: f32 = 16.0;
/// The percentiles that make the bands, from outside to inside, and the middle.
const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// How they are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Hills, the newest in front.
    #[default]
    Ridge,
    /// Steps along, values up, colour for how many.
    Heat,
    /// Bands from the 5th to the 95th and from the 25th to the 75th percentile, and the median.
    Percentiles,
}

/// All of them, with their names.
pub const MODES: [(Mode, &str); 3] = [(Mode::Ridge, "Ridge"), (Mode::Heat, "Heat map"), (Mode::Percentiles, "Percentiles")];

/// `counts` between `edges`, brought to the bins between `axis` by area: a bin's count is spread evenly over its width, one without width falls
/// into the bin it lies in. What lies beyond the axis is left out, so the sum stays where the axis holds all edges.
pub fn rebin(edges: &[f64], counts: &[u64], axis: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; axis.len().saturating_sub(1)];
    let (Some(&first), Some(&last)) = (axis.first(), axis.last()) else { return sums };
    let bins = sums.len();
    let mut start = 0;
    for (edge, &count) in edges.windows(2).zip(counts).filter(|(_, count)| **count > 0) {
        let (low, high, count) = (edge[0], edge[1], count as f64);
        // Ascending edges: a bin never begins before the one before it.
        while start + 1 < bins && axis[start + 1] <= low {
            start += 1;
        }
        if high <= low {
            if low >= first && low <= last {
                sums[start] += count;
            }
            continue;
        }
        for bin in start..bins {
            if axis[bin] >= high {
                break;
            }
            let overlap = high.min(axis[bin + 1]) - low.max(axis[bin]);
            sums[bin] += count * (overlap / (high - low)).max(0.0);
        }
    }
    sums
}

/// The value that a part `q` of all lies below, as if each bin's count were spread evenly; `None` where nothing is counted.
pub fn quantile(edges: &[f64], counts: &[u64], q: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let wanted = q * total as f64;
    let mut before = 0.0;
    for (edge, &count) in edges.windows(2).zip(counts).filter(|(_, count)| **count > 0) {
        let count = count as f64;
        if before + count >= wanted {
            return Some(edge[0] + (edge[1] - edge[0]) * ((wanted - before) / count).clamp(0.0, 1.0));
        }
        before += count;
    }
    edges.last().copied()
}

/// Indices of rows to draw: all, or every 2nd, 4th, .. of many, and always the last. As rows come the choice stays, until it halves.
pub fn spread(count: usize, count_max: usize) -> Vec<usize> {
    let mut stride = 1;
    while count.div_ceil(stride) > count_max.max(1) {
        stride *= 2;
    }
    let mut indices: Vec<usize> = (0..count).step_by(stride).collect();
    if indices.last().is_some_and(|last| last + 1 < count) {
        indices.push(count - 1);
    }
    indices
}

/// Histograms of several steps on one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    ids: Vec<i64>,
    /// One a row.
    pub steps: Vec<u64>,
    /// Edges of the common bins.
    pub axis: Vec<f64>,
    /// Counts of the common bins, row by row.
    pub rows: Vec<Vec<f64>>,
    /// The greatest of them.
    pub top: f64,
    /// [`QUANTILES`] of each row that counts anything.
    quantiles: Vec<Option<[f64; 5]>>,
    not_finite: Vec<u64>,
}

impl Sheet {
    /// `rows` by step, each with its id.
    pub fn of(rows: &[(i64, u64, &Histogram)]) -> Sheet {
        let ends = rows.iter().filter_map(|(_, _, row)| Some((*row.edges.first()?, *row.edges.last()?)));
        let range = ends.reduce(|(low, high), (first, last)| (low.min(first), high.max(last)));
        let (low, high) = match range {
            Some((low, high)) if high > low => (low, high),
            other => padded(other, Scale::Linear),
        };
        let axis: Vec<f64> =
            (0..=BINS).map(|edge| if edge == BINS { high } else { low + (high - low) * edge as f64 / BINS as f64 }).collect();
        let binned: Vec<Vec<f64>> = rows.iter().map(|(_, _, row)| rebin(&row.edges, &row.counts, &axis)).collect();
        let quantiles = |row: &Histogram| {
            let found = QUANTILES.map(|q| quantile(&row.edges, &row.counts, q));
            found.iter().all(Option::is_some).then(|| found.map(Option::unwrap_or_default))
        };
        Sheet {
            ids: rows.iter().map(|(id, _, _)| *id).collect(),
            steps: rows.iter().map(|(_, step, _)| *step).collect(),
            top: binned.iter().flatten().copied().fold(0.0, f64::max),
            axis,
            rows: binned,
            quantiles: rows.iter().map(|(_, _, row)| quantiles(row)).collect(),
            not_finite: rows.iter().map(|(_, _, row)| row.not_finite).collect(),
        }
    }

    // The row whose step is nearest.
    fn nearest(&self, step: f64) -> usize {
        let distance = |index: &usize| (self.steps[*index] as f64 - step).abs();
        (0..self.steps.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    }

    fn bin_of(&self, value: f64) -> usize {
        self.axis.partition_point(|edge| *edge <= value).saturating_sub(1).min(self.axis.len().saturating_sub(2))
    }

    /// A bin of a row in words: `step 400, -0.2 to -0.1: 37`.
    pub fn read_out(&self, row: usize, bin: usize) -> String {
        let count = self.rows[row][bin];
        let count = if count < 10.0 { short(count) } else { short(count.round()) };
        let bad = self.not_finite[row];
        let bad = if bad > 0 { format!(", {bad} not finite") } else { String::new() };
        format!("step {}, {} to {}: {count}{bad}", self.steps[row], short(self.axis[bin]), short(self.axis[bin + 1]))
    }
}

pub(super) fn show(ui: &mut Ui, desk: &mut Desk, side: &Side, key: &MediaKey, listing: &Listing, rows: Range<usize>) {
    let palette = desk.palette;
    let name = format!("{}{}", key.name, side.suffix);
    let chosen = rows.end - 1;
    let mut indices = spread(listing.rows.len(), ROWS_MAX);
    if let Err(place) = indices.binary_search(&chosen) {
        indices.insert(place, chosen);
    }
    let items: Vec<(i64, u64, Option<Arc<Item>>)> =
        indices.into_iter().map(|index| listing.rows[index]).map(|row| (row.id, row.step, desk.item(key, row.id))).collect();
    let histograms: Vec<(i64, u64, &Histogram)> = items
        .iter()
        .filter_map(|(id, step, item)| match item.as_deref() {
            Some(Item::Histogram(histogram)) => Some((*id, *step, histogram)),
            _ => None,
        })
        .collect();
    if histograms.is_empty() {
        waiting(ui, palette, items.iter().find_map(|(_, _, item)| item.as_deref()));
        return;
    }
    let is_known =
        |sheet: &&Arc<Sheet>| sheet.ids.len() == histograms.len() && sheet.ids.iter().zip(&histograms).all(|(id, row)| *id == row.0);
    let sheet = match desk.state.histograms.get(key).filter(is_known) {
        Some(sheet) => sheet.clone(),
        None => {
            let sheet = Arc::new(Sheet::of(&histograms));
            desk.state.histograms.insert(key.clone(), sheet.clone());
            sheet
        }
    };
    let chosen = sheet.nearest(listing.rows[chosen].step as f64);
    let mode = desk.view.histogram;
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), HEIGHT), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, format!("Histograms {name}: {} steps", sheet.steps.len())));
    let painter = ui.painter_at(rect);
    let pointer = response.hover_pos();
    let text = match mode {
        Mode::Ridge => ridge(&painter, palette, &sheet, chosen, rect, pointer),
        Mode::Heat => heat(&painter, palette, &sheet, chosen, rect, pointer),
        Mode::Percentiles => percentiles(&painter, palette, &sheet, chosen, rect, pointer),
    };
    let text = text.map_or_else(
        || {
            let middle = sheet.quantiles[chosen].map_or("nothing counted".to_owned(), |quantiles| {
                format!("half within {} to {}", short(quantiles[1]), short(quantiles[3]))
            });
            let bad = sheet.not_finite[chosen];
            let bad = if bad > 0 { format!(", {bad} not finite") } else { String::new() };
            RichText::new(format!("step {}: {middle}{bad}", sheet.steps[chosen])).color(palette.dim)
        },
        |text| RichText::new(text).color(palette.text),
    );
    ui.add(Label::new(text.small()).truncate());
}

// Ticks and grid lines of an axis along the bottom.
fn bottom_axis(painter: &Painter, palette: &Palette, axis: &Axis, plot: Rect) {
    let count = (plot.width() / 60.0).max(2.0) as usize;
    for tick in axis.ticks(count) {
        let x = axis.pixel(tick);
        painter.line_segment([pos2(x, plot.top()), pos2(x, plot.bottom())], Stroke::new(1.0, palette.grid));
        label(painter, palette, pos2(x, plot.bottom() + 2.0), Align2::CENTER_TOP, &axis.tick_text(tick, count), plot);
    }
}

// The same up the left.
fn left_axis(painter: &Painter, palette: &Palette, axis: &Axis, plot: Rect) {
    for tick in axis.ticks(5) {
        let y = axis.pixel(tick);
        painter.line_segment([pos2(plot.left(), y), pos2(plot.right(), y)], Stroke::new(1.0, palette.grid));
        painter.text(pos2(plot.left() - 5.0, y), Align2::RIGHT_CENTER, axis.tick_text(tick, 5), FontId::proportional(10.5), palette.dim);
    }
}

// A label that stays within the width of the plot.
fn label(painter: &Painter, palette: &Palette, pos: eframe::egui::Pos2, align: Align2, text: &str, plot: Rect) {
    let galley = painter.layout_no_wrap(text.to_owned(), FontId::proportional(10.5), palette.dim);
    let rect = align.anchor_size(pos, galley.size());
    let left = rect.left().clamp(plot.left(), (plot.right() - rect.width()).max(plot.left()));
    painter.galley(pos2(left, rect.top()), galley, palette.dim);
}

fn quad(mesh: &mut Mesh, corners: [(f32, f32); 4], color: Color32) {
    let first = mesh.vertices.len() as u32;
    for (x, y) in corners {
        mesh.colored_vertex(pos2(x, y), color);
    }
    mesh.add_triangle(first, first + 1, first + 2);
    mesh.add_triangle(first, first + 2, first + 3);
}

type Pointer = Option<eframe::egui::Pos2>;

fn ridge(painter: &Painter, palette: &Palette, sheet: &Sheet, chosen: usize, rect: Rect, pointer: Pointer) -> Option<String> {
    let plot = Rect::from_min_max(rect.min, pos2(rect.right() - GUTTER, rect.bottom() - TICKS_HEIGHT));
    let axis = Axis { scale: Scale::Linear, low: sheet.axis[0], high: sheet.axis[BINS], start: plot.left() + 1.0, end: plot.right() - 1.0 };
    bottom_axis(painter, palette, &axis, plot);
    let mut shown = spread(sheet.rows.len(), HILLS_MAX);
    if let Err(place) = shown.binary_search(&chosen) {
        shown.insert(place, chosen);
    }
    // One hill alone may be as high as the plot; many leave most of it to the row of their feet.
    let tall = if shown.len() < 2 { plot.height() - 6.0 } else { (plot.height() * 0.42).min(plot.height() - 6.0) };
    let foot = |order: usize| {
        let part = if shown.len() < 2 { 1.0 } else { order as f32 / (shown.len() - 1) as f32 };
        plot.top() + 4.0 + tall + part * (plot.height() - 4.0 - tall)
    };
    let center = |bin: usize| axis.pixel((sheet.axis[bin] + sheet.axis[bin + 1]) / 2.0);
    let top = if sheet.top > 0.0 { sheet.top } else { 1.0 };
    let height = |row: usize, bin: usize| (sheet.rows[row][bin] / top) as f32 * tall;
    let hovered = pointer.filter(|pos| plot.contains(*pos)).map(|pos| {
        let distance = |order: &usize| (foot(*order) - pos.y).abs();
        let order = (0..shown.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
        (shown[order], sheet.bin_of(axis.value(pos.x)))
    });
    for (order, &row) in shown.iter().enumerate() {
        let foot = foot(order);
        let part = if shown.len() < 2 { 1.0 } else { order as f32 / (shown.len() - 1) as f32 };
        let is_marked = row == chosen || hovered.is_some_and(|(hovered, _)| hovered == row);
        let color = if is_marked { palette.accent } else { theme::viridis(0.25 + 0.6 * part) };
        let fill = palette.background.lerp_to_gamma(color, if is_marked { 0.42 } else { 0.28 });
        let mut mesh = Mesh::default();
        let points: Vec<_> = (0..BINS).map(|bin| (center(bin), foot - height(row, bin))).collect();
        for pair in points.windows(2) {
            quad(&mut mesh, [pair[0], pair[1], (pair[1].0, foot), (pair[0].0, foot)], fill);
        }
        painter.add(mesh);
        let line: Vec<_> = points.iter().map(|(x, y)| pos2(*x, *y)).collect();
        painter.add(Shape::line(line, Stroke::new(if is_marked { 1.6 } else { 1.0 }, color)));
    }
    // The steps of the first and the last hill, and of the chosen one where it has room.
    let last = shown.len() - 1;
    let mut taken: Vec<f32> = Vec::new();
    let chosen_order = shown.iter().position(|row| *row == chosen).unwrap_or(last);
    for order in [chosen_order, 0, last] {
        let y = foot(order).min(plot.bottom() - 6.0);
        if taken.iter().any(|other| (other - y).abs() < 12.0) {
            continue;
        }
        taken.push(y);
        let color = if order == chosen_order { palette.accent } else { palette.dim };
        let text = short(sheet.steps[shown[order]] as f64);
        painter.text(pos2(plot.right() + 5.0, y), Align2::LEFT_CENTER, text, FontId::proportional(10.5), color);
    }
    let (row, bin) = hovered?;
    let x = center(bin);
    painter.line_segment([pos2(x, plot.top()), pos2(x, plot.bottom())], Stroke::new(1.0, palette.dim));
    Some(sheet.read_out(row, bin))
}

// The plot with steps along the bottom and values up the left.
fn over_steps(painter: &Painter, palette: &Palette, sheet: &Sheet, rect: Rect, low: f64, high: f64) -> (Rect, Axis, Axis) {
    let plot = Rect::from_min_max(pos2(rect.left() + GUTTER, rect.top() + 4.0), pos2(rect.right() - 4.0, rect.bottom() - TICKS_HEIGHT));
    let (first, last) = (sheet.steps[0] as f64, sheet.steps[sheet.steps.len() - 1] as f64);
    let (first, last) = if last > first { (first, last) } else { (first - 0.5, last + 0.5) };
    let x = Axis { scale: Scale::Linear, low: first, high: last, start: plot.left(), end: plot.right() };
    let y = Axis { scale: Scale::Linear, low, high, start: plot.bottom(), end: plot.top() };
    bottom_axis(painter, palette, &x, plot);
    left_axis(painter, palette, &y, plot);
    (plot, x, y)
}

fn mark_step(painter: &Painter, palette: &Palette, x: f32, plot: Rect) {
    painter.line_segment([pos2(x, plot.top()), pos2(x, plot.bottom())], Stroke::new(1.0, palette.accent));
}

fn heat(painter: &Painter, palette: &Palette, sheet: &Sheet, chosen: usize, rect: Rect, pointer: Pointer) -> Option<String> {
    let (plot, x, y) = over_steps(painter, palette, sheet, rect, sheet.axis[0], sheet.axis[BINS]);
    let top = if sheet.top > 0.0 { sheet.top } else { 1.0 };
    let count = sheet.rows.len();
    // A row reaches half way to its neighbours.
    let middle = |a: usize, b: usize| (x.pixel(sheet.steps[a] as f64) + x.pixel(sheet.steps[b] as f64)) / 2.0;
    let mut mesh = Mesh::default();
    for (row, bins) in sheet.rows.iter().enumerate() {
        let left = if row == 0 { plot.left() } else { middle(row - 1, row) };
        let right = if row + 1 == count { plot.right() } else { middle(row, row + 1) };
        for (bin, value) in bins.iter().enumerate() {
            // The root lets the tails be seen beside the peak.
            let color = theme::viridis((value / top).sqrt() as f32);
            let (low, high) = (y.pixel(sheet.axis[bin]), y.pixel(sheet.axis[bin + 1]));
            quad(&mut mesh, [(left, high), (right, high), (right, low), (left, low)], color);
        }
    }
    painter.add(mesh);
    if count > 1 {
        mark_step(painter, palette, x.pixel(sheet.steps[chosen] as f64), plot);
    }
    let pos = pointer.filter(|pos| plot.contains(*pos))?;
    Some(sheet.read_out(sheet.nearest(x.value(pos.x)), sheet.bin_of(y.value(pos.y))))
}

fn percentiles(painter: &Painter, palette: &Palette, sheet: &Sheet, chosen: usize, rect: Rect, pointer: Pointer) -> Option<String> {
    let ends = sheet.quantiles.iter().flatten().map(|quantiles| (quantiles[0], quantiles[4]));
    let range = ends.reduce(|(low, high), (first, last)| (low.min(first), high.max(last)));
    let (low, high) = padded(range, Scale::Linear);
    let (plot, x, y) = over_steps(painter, palette, sheet, rect, low, high);
    let known: Vec<(f32, [f32; 5])> = sheet
        .steps
        .iter()
        .zip(&sheet.quantiles)
        .filter_map(|(step, quantiles)| Some((x.pixel(*step as f64), (*quantiles)?.map(|value| y.pixel(value)))))
        .collect();
    let color = palette.series[0];
    let mut mesh = Mesh::default();
    for (outer, inner, strength) in [(0, 4, 0.18), (1, 3, 0.30)] {
        for pair in known.windows(2) {
            let ((x0, one), (x1, other)) = (pair[0], pair[1]);
            quad(&mut mesh, [(x0, one[inner]), (x1, other[inner]), (x1, other[outer]), (x0, one[outer])], color.gamma_multiply(strength));
        }
    }
    painter.add(mesh);
    for (index, width) in [(0, 1.0), (4, 1.0), (2, 2.0)] {
        let line: Vec<_> = known.iter().map(|(x, values)| pos2(*x, values[index])).collect();
        let stroke = Stroke::new(width, if index == 2 { color } else { color.gamma_multiply(0.6) });
        match &line[..] {
            [one] => {
                painter.circle_filled(*one, width + 1.0, stroke.color);
            }
            _ => {
                painter.add(Shape::line(line, stroke));
            }
        }
    }
    if sheet.rows.len() > 1 {
        mark_step(painter, palette, x.pixel(sheet.steps[chosen] as f64), plot);
    }
    let pos = pointer.filter(|pos| plot.contains(*pos))?;
    let row = sheet.nearest(x.value(pos.x));
    let quantiles = sheet.quantiles[row]?;
    let [low, _, median, _, high] = quantiles.map(short);
    Some(format!("step {}: 5 % below {low}, median {median}, 95 % below {high}", sheet.steps[row]))
}
