//! Tables: sorted by a column, copied as CSV; only the rows in sight are laid out.

use super::{Desk, Side, waiting};
use crate::data::{Item, Listing, MediaKey};
use crate::gui::axis::short;
use eframe::egui::{self, Align, Rect, RichText, Role, ScrollArea, Sense, Shape, Stroke, TextStyle, Ui, WidgetInfo, pos2, vec2};
use serde_json::Value;
use solstice_store::Table;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// Height of the rows in a card.
const HEIGHT_MAX: f32 = 240.0;
const ROW: f32 = 19.0;
/// Rows that are measured for the widths of columns.
const MEASURED: usize = 100;
const WIDTH_MAX: f32 = 260.0;

/// By what a table is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index of a column.
    pub column: usize,
    /// The greatest first.
    pub is_descending: bool,
}

/// Indices of a table's rows as they are shown, and what they were sorted by.
pub(super) type Order = (Option<Sort>, Arc<Vec<usize>>);

/// The rows as they are shown: as they were logged, or by a column. Numbers stand before words, what is empty always last; equals keep their order.
pub fn order(table: &Table, sort: Option<Sort>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..table.rows.len()).collect();
    let Some(Sort { column, is_descending }) = sort else { return order };
    let cell = |row: usize| table.rows[row].get(column).unwrap_or(&Value::Null);
    order.sort_by(|a, b| {
        let (one, other) = (cell(*a), cell(*b));
        match (one.is_null(), other.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ if is_descending => compare(other, one),
            _ => compare(one, other),
        }
    });
    order
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        _ => plain(one).cmp(&plain(other)),
    }
}

// A cell as text, without rounding.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The table as RFC 4180 has it, in the order shown.
pub fn csv(table: &Table, order: &[usize]) -> String {
    let quoted = |text: String| {
        let is_plain = !text.contains(['"', ',', '\n', '\r']);
        if is_plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
    };
    let line = |cells: Vec<String>| cells.into_iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n";
    let head = line(table.columns.clone());
    order.iter().fold(head, |csv, row| csv + &line(table.rows[*row].iter().map(plain).collect()))
}

pub(super) fn show(ui: &mut Ui, desk: &mut Desk, side: &Side, key: &MediaKey, listing: &Listing, rows: Range<usize>) {
    let palette = desk.palette;
    let name = format!("{}{}", key.name, side.suffix);
    // Of several of one step the last one counts.
    let id = listing.rows[rows.end - 1].id;
    let item = desk.item(key, id);
    let Some(Item::Table(table)) = item.as_deref() else {
        waiting(ui, palette, item.as_deref());
        return;
    };
    let sort = desk.state.sorts.get(&key.name).copied().filter(|sort| sort.column < table.columns.len());
    let slot = (key.run.clone(), id);
    let order = match desk.state.orders.get(&slot).filter(|(by, _)| *by == sort) {
        Some((_, order)) => order.clone(),
        None => {
            let order = Arc::new(order(table, sort));
            desk.state.orders.insert(slot, (sort, order.clone()));
            order
        }
    };
    let font = TextStyle::Body.resolve(ui.style());
    let width_of = |ui: &Ui, text: String| ui.painter().layout_no_wrap(text, font.clone(), palette.text).size().x;
    let widths: Vec<f32> = (0..table.columns.len())
        .map(|column| {
            let cells = table.rows.iter().take(MEASURED).map(|row| row.get(column).map_or(0.0, |cell| width_of(ui, shown(cell))));
            // Room for the mark of sorting.
            cells.fold(width_of(ui, table.columns[column].clone()) + 14.0, f32::max).min(WIDTH_MAX) + 12.0
        })
        .collect();
    let is_number: Vec<bool> = (0..table.columns.len())
        .map(|column| table.rows.iter().take(MEASURED).any(|row| row.get(column).is_some_and(Value::is_number)))
        .collect();
    ui.push_id((&name, "table"), |ui| {
        ScrollArea::horizontal().id_salt("columns").show(ui, |ui| {
            ui.vertical(|ui| {
                ui.spacing_mut().item_spacing = vec2(0.0, 0.0);
                ui.set_width(widths.iter().sum::<f32>().max(40.0));
                ui.horizontal(|ui| {
                    for (column, title) in table.columns.iter().enumerate() {
                        let is_sorted = sort.filter(|sort| sort.column == column);
                        let (rect, response) = ui.allocate_exact_size(vec2(widths[column], ROW + 2.0), Sense::click());
                        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Sort {name} by {title}")));
                        let color = if response.hovered() || response.has_focus() { palette.text } else { palette.dim };
                        text_at(ui, rect, title.clone(), color, is_number[column], if is_sorted.is_some() { 12.0 } else { 0.0 });
                        if let Some(sort) = is_sorted {
                            let (middle, way) = (pos2(rect.right() - 11.0, rect.center().y), if sort.is_descending { 1.0 } else { -1.0 });
                            let corners = [(-3.5, -2.0), (3.5, -2.0), (0.0, 3.0)].map(|(x, y)| pos2(middle.x + x, middle.y + way * y));
                            ui.painter().add(Shape::convex_polygon(corners.to_vec(), palette.accent, Stroke::NONE));
                        }
                        if response.clicked() {
                            // Up, down, and back to the order in which it was logged.
                            match is_sorted {
                                None => desk.state.sorts.insert(key.name.clone(), Sort { column, is_descending: false }),
                                Some(Sort { is_descending: false, .. }) => {
                                    desk.state.sorts.insert(key.name.clone(), Sort { column, is_descending: true })
                                }
                                Some(_) => desk.state.sorts.remove(&key.name),
                            };
                        }
                    }
                });
                let line = ui.cursor().min;
                ui.painter().hline(line.x..=line.x + widths.iter().sum::<f32>(), line.y, Stroke::new(1.0, palette.line));
                let area = ScrollArea::vertical().id_salt("rows").max_height(HEIGHT_MAX).auto_shrink([false, true]);
                area.show_rows(ui, ROW, order.len(), |ui, range| {
                    for &row in &order[range] {
                        ui.horizontal(|ui| {
                            for (column, width) in widths.iter().enumerate() {
                                let (rect, response) = ui.allocate_exact_size(vec2(*width, ROW), Sense::hover());
                                let Some(cell) = table.rows[row].get(column) else { continue };
                                let text = shown(cell);
                                response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &text));
                                let is_cut = text_at(ui, rect, text, palette.text, is_number[column], 0.0);
                                if is_cut || cell.as_f64().is_some() {
                                    response.on_hover_text(plain(cell));
                                }
                            }
                        });
                    }
                });
            });
        });
    });
    ui.horizontal(|ui| {
        if ui.button("Copy as CSV").accessible_name(format!("Copy {name} as CSV")).clicked() {
            ui.ctx().copy_text(csv(table, &order));
        }
        ui.label(RichText::new(format!("{} rows", table.rows.len())).small().color(palette.dim));
    });
}

// A cell as it is shown: numbers to four digits.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, short),
        other => plain(other).replace(['\n', '\r'], " "),
    }
}

// Numbers stand at the right, words at the left; true when the text does not fit.
fn text_at(ui: &mut Ui, rect: Rect, text: String, color: egui::Color32, is_right: bool, room: f32) -> bool {
    let inner = rect.shrink2(vec2(5.0, 0.0));
    let inner = Rect::from_min_max(inner.min, pos2(inner.right() - room, inner.bottom()));
    let mut job = egui::text::LayoutJob::simple_singleline(text, TextStyle::Body.resolve(ui.style()), color);
    job.wrap = egui::text::TextWrapping::truncate_at_width(inner.width());
    let galley = ui.painter().layout_job(job);
    let align = if is_right { Align::Max } else { Align::Min };
    let x = if align == Align::Max { inner.right() - galley.size().x } else { inner.left() };
    let is_cut = galley.elided;
    ui.painter().galley(pos2(x, inner.center().y - galley.size().y / 2.0), galley, color);
    is_cut
}
