//! Matrices as heat maps; of a confusion matrix also what follows from it: accuracy, the worst pairs, precision and recall of each class.

use super::{Desk, Side, waiting};
use crate::data::{Item, Listing, MediaKey};
use crate::gui::axis::short;
use crate::gui::theme::{self, Palette};
use eframe::egui::epaint::{Mesh, TextShape};
use eframe::egui::{
    Align2, Color32, FontId, Galley, Grid, Label, Pos2, Rect, RichText, Role, ScrollArea, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2,
    vec2,
};
use serde::{Deserialize, Serialize};
use solstice_store::Matrix;
use std::ops::Range;
use std::sync::Arc;

/// Greatest side of a cell.
const CELL_MAX: f32 = 46.0;
/// Room for the labels of rows and columns, at most.
const LABELS_MAX: f32 = 96.0;
/// Worst pairs that are listed.
const PAIRS: usize = 8;
/// What precision and recall of the classes take.
const FIGURES_WIDTH: f32 = 236.0;
/// Below this width the lists stand under the map.
const BESIDE_WIDTH: f32 = 560.0;

/// What a cell says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shares {
    /// What was logged.
    #[default]
    Count,
    /// Its part of the row: of all that are so, how many are said to be so.
    Row,
    /// Its part of the column: of all that are said to be so, how many are so.
    Column,
}

/// All of them, with their names.
pub const SHARES: [(Shares, &str); 3] = [(Shares::Count, "Counts"), (Shares::Row, "Row percent"), (Shares::Column, "Column percent")];

/// The matrix counts pairs of true and predicted classes: as many rows as columns, of the same names, none below 0.
pub fn is_confusion(matrix: &Matrix) -> bool {
    let is_count = |cell: &f64| cell.is_finite() && *cell >= 0.0;
    matrix.row_labels.len() > 1 && matrix.row_labels == matrix.column_labels && matrix.cells.iter().all(is_count)
}

/// The cells as parts of their row or column, from 0 to 1; NaN where that has nothing in it.
pub fn shares(matrix: &Matrix, shares: Shares) -> Vec<f64> {
    let columns = matrix.column_labels.len();
    let cells = matrix.cells.iter().enumerate();
    match shares {
        Shares::Count => matrix.cells.clone(),
        Shares::Row => {
            let sums: Vec<f64> = matrix.cells.chunks(columns.max(1)).map(|row| row.iter().sum()).collect();
            cells.map(|(index, cell)| part(*cell, sums[index / columns])).collect()
        }
        Shares::Column => {
            let sums: Vec<f64> = (0..columns).map(|column| matrix.cells.iter().skip(column).step_by(columns).sum()).collect();
            cells.map(|(index, cell)| part(*cell, sums[index % columns])).collect()
        }
    }
}

fn part(cell: f64, sum: f64) -> f64 {
    if sum == 0.0 { f64::NAN } else { cell / sum }
}

/// Two classes that are taken for each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Index of the true class.
    pub truth: usize,
    /// Index of the class that it was taken for.
    pub predicted: usize,
    /// How often.
    pub count: f64,
    /// Part of all of the true class.
    pub of_row: f64,
}

/// The most frequent mistakes of a confusion matrix, the worst first; of equally frequent ones those of the rarer class.
pub fn worst_pairs(matrix: &Matrix, count_max: usize) -> Vec<Pair> {
    let classes = matrix.row_labels.len();
    let parts = shares(matrix, Shares::Row);
    let of = |index: usize| Pair { truth: index / classes, predicted: index % classes, count: matrix.cells[index], of_row: parts[index] };
    let mut pairs: Vec<Pair> = (0..matrix.cells.len()).map(of).filter(|pair| pair.truth != pair.predicted && pair.count > 0.0).collect();
    pairs.sort_by(|a, b| b.count.total_cmp(&a.count).then(b.of_row.total_cmp(&a.of_row)));
    pairs.truncate(count_max);
    pairs
}

/// Part of a confusion matrix that lies on its diagonal; `None` when it is empty.
pub fn accuracy(matrix: &Matrix) -> Option<f64> {
    let classes = matrix.row_labels.len();
    let right: f64 = (0..classes).map(|class| matrix.cells[class * classes + class]).sum();
    let all: f64 = matrix.cells.iter().sum();
    (all > 0.0).then(|| right / all)
}

/// What a confusion matrix says of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassFigures {
    /// Part of those said to be of the class that are; `None` when none is said to be.
    pub precision: Option<f64>,
    /// Part of those of the class that are said to be; `None` when there are none.
    pub recall: Option<f64>,
    /// Harmonic mean of the two.
    pub f1: Option<f64>,
    /// How many are of the class.
    pub support: f64,
}

/// What a confusion matrix says of each class.
pub fn class_figures(matrix: &Matrix) -> Vec<ClassFigures> {
    let classes = matrix.row_labels.len();
    let ratio = |part: f64, all: f64| (all > 0.0).then(|| part / all);
    let of = |class: usize| {
        let right = matrix.cells[class * classes + class];
        let support: f64 = matrix.cells[class * classes..(class + 1) * classes].iter().sum();
        let predicted: f64 = matrix.cells.iter().skip(class).step_by(classes).sum();
        let f1 = ratio(2.0 * right, support + predicted);
        ClassFigures { precision: ratio(right, predicted), recall: ratio(right, support), f1, support }
    };
    (0..classes).map(of).collect()
}

pub(super) fn show(ui: &mut Ui, desk: &mut Desk, side: &Side, key: &MediaKey, listing: &Listing, rows: Range<usize>) {
    let name = format!("{}{}", key.name, side.suffix);
    // Of several of one step the last one counts.
    let row = listing.rows[rows.end - 1];
    let item = desk.item(key, row.id);
    let Some(Item::Matrix(matrix)) = item.as_deref() else {
        waiting(ui, desk.palette, item.as_deref());
        return;
    };
    if matrix.cells.is_empty() {
        ui.label(RichText::new("The matrix is empty").color(desk.palette.dim));
        return;
    }
    let palette = desk.palette;
    let shares = desk.view.shares;
    let is_confusion = is_confusion(matrix);
    let width = ui.available_width();
    if !is_confusion {
        map(ui, palette, matrix, shares, &name, width, false);
        return;
    }
    if width < BESIDE_WIDTH {
        map(ui, palette, matrix, shares, &name, width, true);
        ui.add_space(4.0);
        figures(ui, palette, matrix, &name);
        return;
    }
    ui.horizontal_top(|ui| {
        let lists = FIGURES_WIDTH;
        ui.vertical(|ui| {
            ui.set_width(width - lists - 16.0);
            map(ui, palette, matrix, shares, &name, width - lists - 16.0, true);
        });
        ui.add_space(8.0);
        ui.vertical(|ui| {
            ui.set_width(lists);
            figures(ui, palette, matrix, &name);
        });
    });
}

// What a cell is compared with: its colour is its part of this, from `low` to `high`.
struct Shade {
    low: f64,
    high: f64,
}

impl Shade {
    fn of(values: &[f64], shares: Shares) -> Shade {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = finite().fold((0.0f64, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        match shares {
            Shares::Count => Shade { low, high: if high > low { high } else { low + 1.0 } },
            _ if low < 0.0 => Shade { low, high },
            _ => Shade { low: 0.0, high: 1.0 },
        }
    }

    fn color(&self, value: f64, palette: &Palette) -> Color32 {
        if !value.is_finite() {
            palette.raised
        } else if self.low < 0.0 {
            theme::diverging((value / self.high.max(-self.low)) as f32)
        } else {
            theme::viridis((value / self.high) as f32)
        }
    }
}

fn map(ui: &mut Ui, palette: &'static Palette, matrix: &Matrix, shares: Shares, name: &str, width: f32, is_confusion: bool) {
    let (rows, columns) = (matrix.row_labels.len(), matrix.column_labels.len());
    let values = self::shares(matrix, shares);
    let shade = Shade::of(&values, shares);
    let font = FontId::proportional(11.0);
    let painter = ui.painter().clone();
    let galley = |text: &str, color: Color32| painter.layout_no_wrap(shortened(text), font.clone(), color);
    let widest = |labels: &[String]| labels.iter().map(|label| galley(label, palette.dim).size().x).fold(0.0, f32::max);
    let line = galley("0", palette.dim).size().y;

    // The words on both axes, then the labels, then the cells.
    let title = if is_confusion { line + 4.0 } else { 0.0 };
    let left = title + widest(&matrix.row_labels).min(LABELS_MAX) + 6.0;
    let cell = ((width - left) / columns as f32).clamp(1.0, CELL_MAX);
    // Few classes have room for flat cells; many are square down to the smallest.
    let height = cell.min(if rows > 24 { cell } else { 30.0 });
    let column_width = widest(&matrix.column_labels);
    let is_upright = column_width + 6.0 > cell && column_width > line * 1.5;
    let top = title + if is_upright { column_width.min(LABELS_MAX) } else { line } + 4.0;
    let size = vec2(left + cell * columns as f32, top + height * rows as f32);
    let (rect, response) = ui.allocate_exact_size(vec2(width, size.y), Sense::hover());
    let summary = match accuracy(matrix).filter(|_| is_confusion) {
        Some(accuracy) => format!("Matrix {name}: {rows} classes, accuracy {}", percent(accuracy)),
        None => format!("Matrix {name}: {rows} rows, {columns} columns"),
    };
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, &summary));
    let cells = Rect::from_min_size(rect.min + vec2(left, top), vec2(cell * columns as f32, height * rows as f32));
    let place =
        |row: usize, column: usize| Rect::from_min_size(cells.min + vec2(column as f32 * cell, row as f32 * height), vec2(cell, height));

    let mut mesh = Mesh::default();
    for (index, value) in values.iter().enumerate() {
        // A line between cells, where there is room for one.
        let gap = if cell > 8.0 { 1.0 } else { 0.0 };
        let room = place(index / columns, index % columns);
        mesh.add_colored_rect(Rect::from_min_max(room.min, room.max - vec2(gap, gap)), shade.color(*value, palette));
    }
    ui.painter().add(mesh);
    if cell >= 16.0 && height >= 12.0 {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite() && **value != 0.0) {
            let room = place(index / columns, index % columns);
            let color = theme::text_on(shade.color(*value, palette));
            let text = if shares == Shares::Count { short(*value) } else { format!("{:.0}", value * 100.0) };
            let text = ui.painter().layout_no_wrap(text, FontId::proportional(10.5), color);
            if text.size().x <= cell - 3.0 {
                ui.painter().galley(room.center() - text.size() / 2.0, text, color);
            }
        }
    }

    let hovered = response.hover_pos().filter(|pos| cells.contains(*pos)).map(|pos| {
        let row = ((pos.y - cells.top()) / height) as usize;
        let column = ((pos.x - cells.left()) / cell) as usize;
        (row.min(rows - 1), column.min(columns - 1))
    });
    if let Some((row, column)) = hovered {
        ui.painter().rect_stroke(place(row, column), 0.0, Stroke::new(1.5, palette.accent), StrokeKind::Outside);
    }

    // Labels thin out until they have room; the one under the mouse is always there.
    let every = |room: f32, wanted: f32| (wanted / room).ceil().max(1.0) as usize;
    let row_stride = every(height, line);
    let column_stride = every(cell, if is_upright { line } else { column_width + 6.0 });
    for (row, label) in matrix.row_labels.iter().enumerate() {
        let is_hovered = hovered.is_some_and(|(hovered, _)| hovered == row);
        if row % row_stride == 0 && hovered.is_none_or(|(hovered, _)| hovered.abs_diff(row) >= row_stride) || is_hovered {
            let text = galley(label, if is_hovered { palette.accent } else { palette.dim });
            let right = pos2(cells.left() - 5.0, place(row, 0).center().y);
            paint_clipped(ui, text, Align2::RIGHT_CENTER, right, LABELS_MAX);
        }
    }
    for (column, label) in matrix.column_labels.iter().enumerate() {
        let is_hovered = hovered.is_some_and(|(_, hovered)| hovered == column);
        if column % column_stride == 0 && hovered.is_none_or(|(_, hovered)| hovered.abs_diff(column) >= column_stride) || is_hovered {
            let color = if is_hovered { palette.accent } else { palette.dim };
            let text = galley(label, color);
            let x = place(0, column).center().x;
            if is_upright {
                let corner = pos2(x - text.size().y / 2.0, cells.top() - 4.0);
                ui.painter().add(TextShape::new(corner, text, color).with_angle(-std::f32::consts::FRAC_PI_2));
            } else {
                paint_clipped(ui, text, Align2::CENTER_BOTTOM, pos2(x, cells.top() - 3.0), LABELS_MAX);
            }
        }
    }
    if is_confusion {
        let text = galley("Predicted", palette.text);
        ui.painter().galley(pos2(cells.center().x - text.size().x / 2.0, rect.top()), text, palette.text);
        let text = galley("True", palette.text);
        let corner = pos2(rect.left(), cells.center().y + text.size().x / 2.0);
        ui.painter().add(TextShape::new(corner, text, palette.text).with_angle(-std::f32::consts::FRAC_PI_2));
    }

    // The words for what is under the mouse stand always at the same place.
    let text = hovered.map(|(row, column)| read_out(matrix, row, column, is_confusion));
    ui.horizontal(|ui| {
        scale(ui, palette, &shade, shares);
        match text {
            Some(text) => ui.add(Label::new(RichText::new(text).small()).truncate()),
            None => ui.label(RichText::new("Point at a cell to read it").small().color(palette.dim)),
        };
    });
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= 16 { label.to_owned() } else { label.chars().take(15).chain(['…']).collect() }
}

fn paint_clipped(ui: &Ui, text: Arc<Galley>, align: Align2, pos: Pos2, width: f32) {
    let rect = align.anchor_size(pos, vec2(text.size().x.min(width), text.size().y));
    let color = text.job.sections.first().map_or(ui.visuals().text_color(), |section| section.format.color);
    ui.painter().galley(rect.min, text, color);
}

// The ramp with its ends.
fn scale(ui: &mut Ui, palette: &Palette, shade: &Shade, shares: Shares) {
    let text = |value: f64| if shares == Shares::Count { short(value) } else { format!("{:.0} %", value * 100.0) };
    ui.spacing_mut().item_spacing.x = 4.0;
    let far = shade.high.max(-shade.low);
    let low = if shade.low < 0.0 { -far } else { 0.0 };
    ui.label(RichText::new(text(low)).small().color(palette.dim));
    let (bar, _) = ui.allocate_exact_size(vec2(64.0, 8.0), Sense::hover());
    for step in 0..32 {
        let x = |step: usize| bar.left() + bar.width() * step as f32 / 32.0;
        let value = low + (far - low) * (step as f64 + 0.5) / 32.0;
        let part = Rect::from_min_max(pos2(x(step), bar.top()), pos2(x(step + 1), bar.bottom()));
        ui.painter().rect_filled(part, 0.0, shade.color(value, palette));
    }
    ui.label(RichText::new(text(far)).small().color(palette.dim));
    ui.add_space(8.0);
}

/// A cell in words: `true 3, predicted 8: 12 (4.1 % of row)`.
pub fn read_out(matrix: &Matrix, row: usize, column: usize, is_confusion: bool) -> String {
    let index = row * matrix.column_labels.len() + column;
    let (row_name, column_name, value) = (&matrix.row_labels[row], &matrix.column_labels[column], short(matrix.cells[index]));
    if !is_confusion {
        return format!("{row_name}, {column_name}: {value}");
    }
    let part = shares(matrix, Shares::Row)[index];
    let part = if part.is_finite() { format!(" ({} of row)", percent(part)) } else { String::new() };
    format!("true {row_name}, predicted {column_name}: {value}{part}")
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn figures(ui: &mut Ui, palette: &Palette, matrix: &Matrix, name: &str) {
    // Under a wide map there is room for the two beside each other.
    let width = ui.available_width();
    if width < FIGURES_WIDTH + 190.0 {
        mistakes(ui, palette, matrix);
        classes(ui, palette, matrix, name);
        return;
    }
    ui.horizontal_top(|ui| {
        ui.vertical(|ui| {
            ui.set_width(width - FIGURES_WIDTH - theme::GAP);
            mistakes(ui, palette, matrix);
        });
        ui.vertical(|ui| {
            ui.set_width(FIGURES_WIDTH);
            classes(ui, palette, matrix, name);
        });
    });
}

fn mistakes(ui: &mut Ui, palette: &Palette, matrix: &Matrix) {
    ui.spacing_mut().interact_size.y = 18.0;
    ui.spacing_mut().item_spacing.y = 3.0;
    if let Some(accuracy) = accuracy(matrix) {
        let all: f64 = matrix.cells.iter().sum();
        ui.label(format!("Accuracy {} of {}", percent(accuracy), short(all)));
    }
    ui.label(RichText::new("Worst pairs").color(palette.accent));
    let pairs = worst_pairs(matrix, PAIRS);
    if pairs.is_empty() {
        ui.label(RichText::new("No mistakes").color(palette.dim));
    }
    for pair in pairs {
        let (truth, predicted) = (shortened(&matrix.row_labels[pair.truth]), shortened(&matrix.column_labels[pair.predicted]));
        let text = format!("{truth} taken for {predicted}: {} ({} of row)", short(pair.count), percent(pair.of_row));
        ui.add(Label::new(RichText::new(text).small()).truncate());
    }
}

fn classes(ui: &mut Ui, palette: &Palette, matrix: &Matrix, name: &str) {
    ui.spacing_mut().interact_size.y = 18.0;
    ui.label(RichText::new("Precision and recall").color(palette.accent));
    let figures = class_figures(matrix);
    let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}", value * 100.0));
    ScrollArea::vertical().id_salt(("classes of", name)).max_height(190.0).auto_shrink([false, true]).show(ui, |ui| {
        Grid::new(("class figures", name)).num_columns(5).spacing([10.0, 2.0]).striped(true).show(ui, |ui| {
            for title in ["class", "precision", "recall", "F1", "count"] {
                ui.label(RichText::new(title).small().color(palette.dim));
            }
            ui.end_row();
            for (label, class) in matrix.row_labels.iter().zip(figures) {
                ui.label(RichText::new(shortened(label)).small());
                for value in [text(class.precision), text(class.recall), text(class.f1), short(class.support)] {
                    ui.label(RichText::new(value).small().monospace());
                }
                ui.end_row();
            }
        });
    });
}
