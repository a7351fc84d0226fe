//! Pictures: one as large as the card is wide, several of a step as a grid, and any of them enlarged to the whole panel.

use super::{Desk, Enlarged, Saving, Side, count_text, last_saved, step_control, waiting};
use crate::data::{Item, Listing, MediaKey, MediaReader, Picture};
use crate::gui::theme;
use eframe::egui::{
    self, Button, Key, Label, Modifiers, Rect, Response, RichText, Role, ScrollArea, Sense, Stroke, StrokeKind, TextEdit, Ui, Vec2,
    WidgetInfo, pos2, vec2,
};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Greatest height of a single picture in a card.
const HEIGHT_MAX: f32 = 300.0;
/// Side of a picture in a grid.
const CELL: f32 = 84.0;
/// Pictures of a step that are shown at once.
const PAGE: usize = 60;
/// A small picture is not drawn larger than so many pixels a pixel: in a card, and enlarged.
const SCALES_MAX: [f32; 2] = [12.0, 40.0];

pub(super) fn show(ui: &mut Ui, desk: &mut Desk, side: &Side, key: &MediaKey, listing: &Listing, rows: Range<usize>) {
    let name = format!("{}{}", key.name, side.suffix);
    if let [row] = &listing.rows[rows.clone()] {
        match desk.item(key, row.id).as_deref() {
            Some(Item::Picture(picture)) => {
                let room = vec2(ui.available_width(), HEIGHT_MAX);
                let size = fitted(ui, picture, room, SCALES_MAX[0]);
                if paint(ui, desk, key, row.id, picture, size, size, &format!("Enlarge {name}")).clicked() {
                    desk.state.enlarged = Some(Enlarged { key: key.clone(), index: 0 });
                }
                caption(ui, desk, picture, 2);
            }
            other => waiting(ui, desk.palette, other),
        }
        return;
    }
    let first = desk.state.pages.get(&key.name).copied().unwrap_or(0).min((rows.len() - 1) / PAGE * PAGE);
    let columns = ((ui.available_width() + 4.0) / (CELL + 4.0)).floor().max(1.0) as usize;
    let spacing = std::mem::replace(&mut ui.spacing_mut().item_spacing, vec2(4.0, 4.0));
    let page: Vec<(usize, i64)> =
        rows.clone().enumerate().skip(first).take(PAGE).map(|(index, row)| (index, listing.rows[row].id)).collect();
    for line in page.chunks(columns) {
        ui.horizontal(|ui| {
            for &(index, id) in line {
                let cell = Rect::from_min_size(ui.cursor().min, Vec2::splat(CELL));
                // Pictures out of sight are not read.
                if !ui.is_rect_visible(cell) {
                    ui.allocate_exact_size(cell.size(), Sense::hover());
                    continue;
                }
                let count = count_text(index, &rows);
                match desk.item(key, id).as_deref() {
                    Some(Item::Picture(picture)) => {
                        let size = fitted(ui, picture, cell.size(), SCALES_MAX[0]);
                        let response = paint(ui, desk, key, id, picture, cell.size(), size, &format!("Enlarge {name}, {count}"));
                        let response = if picture.caption.is_empty() { response } else { response.on_hover_text(&picture.caption) };
                        if response.clicked() {
                            desk.state.enlarged = Some(Enlarged { key: key.clone(), index });
                        }
                    }
                    other => {
                        let (rect, response) = ui.allocate_exact_size(cell.size(), Sense::hover());
                        ui.painter().rect_stroke(rect, 2.0, Stroke::new(1.0, desk.palette.line), StrokeKind::Inside);
                        if let Some(Item::Problem(problem)) = other {
                            let text = ui.painter().layout("damaged".into(), egui::FontId::proportional(11.0), desk.palette.error, CELL);
                            ui.painter().galley(rect.center() - text.size() / 2.0, text, desk.palette.error);
                            response.widget_info(|| WidgetInfo::labeled(Role::Label, true, problem));
                            response.on_hover_text(problem);
                        }
                    }
                }
            }
        });
    }
    ui.spacing_mut().item_spacing = spacing;
    if rows.len() > PAGE {
        ui.horizontal(|ui| {
            let last = (first + PAGE).min(rows.len());
            if ui.add_enabled(first > 0, Button::new("Earlier")).accessible_name(format!("Earlier pictures of {name}")).clicked() {
                desk.state.pages.insert(key.name.clone(), first.saturating_sub(PAGE));
            }
            if ui.add_enabled(last < rows.len(), Button::new("Later")).accessible_name(format!("Later pictures of {name}")).clicked() {
                desk.state.pages.insert(key.name.clone(), last);
            }
            ui.label(RichText::new(format!("{} to {last} of {}", first + 1, rows.len())).small().color(desk.palette.dim));
        });
    }
}

// The size on screen: a small picture grows by a whole number of pixels a pixel, a large one shrinks.
fn fitted(ui: &Ui, picture: &Picture, room: Vec2, scale_max: f32) -> Vec2 {
    let points_per_pixel = 1.0 / ui.ctx().pixels_per_point();
    let size = vec2(picture.size[0] as f32, picture.size[1] as f32) * points_per_pixel;
    let scale = (room.x / size.x).min(room.y / size.y);
    size * if scale >= 1.0 { scale.floor().min(scale_max) } else { scale }
}

#[expect(clippy::too_many_arguments)]
fn paint(ui: &mut Ui, desk: &mut Desk, key: &MediaKey, id: i64, picture: &Picture, place: Vec2, size: Vec2, name: &str) -> Response {
    let (rect, response) = ui.allocate_exact_size(place, Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, name));
    let shown = Rect::from_center_size(rect.center(), size);
    // On whole pixels, or its squares become unequal.
    let pixels = ui.ctx().pixels_per_point();
    let corner = (shown.min.to_vec2() * pixels).round() / pixels;
    let shown = Rect::from_min_size(corner.to_pos2(), size);
    if let Some(texture) = desk.texture(ui, key, id, picture) {
        ui.painter().image(texture, shown, Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0)), theme::UNTINTED);
    }
    if response.hovered() || response.has_focus() {
        ui.painter().rect_stroke(shown, 0.0, Stroke::new(1.5, desk.palette.accent), StrokeKind::Outside);
    }
    response.on_hover_cursor(egui::CursorIcon::ZoomIn)
}

fn caption(ui: &mut Ui, desk: &Desk, picture: &Picture, row_count: usize) {
    if picture.caption.is_empty() {
        return;
    }
    let mut text =
        egui::text::LayoutJob::simple(picture.caption.clone(), egui::FontId::proportional(11.0), desk.palette.dim, ui.available_width());
    text.wrap.max_rows = row_count;
    ui.add(Label::new(text)).on_hover_text(&picture.caption);
}

/// One picture, as large as the panel.
pub(super) fn enlarged(ui: &mut Ui, desk: &mut Desk, reader: &Arc<MediaReader>, enlarged: Enlarged) {
    let palette = desk.palette;
    let Enlarged { key, index } = enlarged;
    let listing = desk.listing(&key).unwrap_or_default();
    let rows = listing.at(desk.step(key.kind, &key.name));
    let index = index.min(rows.len().saturating_sub(1));
    let row = listing.rows.get(rows.start + index).copied();
    let mut is_open = !ui.ctx().input_mut(|input| input.consume_key(Modifiers::NONE, Key::Escape));
    ui.horizontal(|ui| {
        is_open &= !ui.button("Back").on_hover_text("To all media (Esc)").clicked();
        ui.label(&key.name);
        let width = (ui.available_width() - 240.0).clamp(50.0, 220.0);
        let current = row.map_or(0, |row| row.step);
        if let Some(step) =
            step_control(ui, palette, &format!("Step of {}", key.name), std::slice::from_ref(&listing), current, None, width)
        {
            desk.state.own_steps.insert((key.kind, key.name.clone()), step);
        }
        if let Some(row) = row
            && desk.state.saving.is_none()
            && ui.button("Save as PNG…").clicked()
        {
            desk.state.saving = Some(Saving { path: proposed_path(&key, row.step, index, rows.len()), asked: None });
        }
    });
    if rows.len() > 1 {
        ui.horizontal(|ui| {
            if ui.add_enabled(index > 0, Button::new("Previous picture")).clicked() {
                desk.state.enlarged = Some(Enlarged { key: key.clone(), index: index - 1 });
            }
            if ui.add_enabled(index + 1 < rows.len(), Button::new("Next picture")).clicked() {
                desk.state.enlarged = Some(Enlarged { key: key.clone(), index: index + 1 });
            }
            ui.label(RichText::new(count_text(index, &rows)).color(palette.dim));
        });
    }
    if let Some(row) = row {
        save_form(ui, desk, reader, &key, row.id);
        ScrollArea::vertical().id_salt("enlarged").auto_shrink(false).show(ui, |ui| match desk.item(&key, row.id).as_deref() {
            Some(Item::Picture(picture)) => {
                let room = vec2(ui.available_width(), (ui.available_height() - 60.0).max(120.0));
                let size = fitted(ui, picture, room, SCALES_MAX[1]);
                let place = vec2(room.x, size.y);
                is_open &= !paint(ui, desk, &key, row.id, picture, place, size, &format!("Shrink {}", key.name)).clicked();
                ui.add_space(4.0);
                let [across, down] = picture.original;
                let is_reduced = picture.size != [across as usize, down as usize];
                let note = if is_reduced { ", drawn smaller; the saved file has all" } else { "" };
                ui.label(RichText::new(format!("{across} by {down} pixels{note}")).small().color(palette.dim));
                if !picture.caption.is_empty() {
                    ui.add(Label::new(&picture.caption).wrap().selectable(true));
                }
            }
            other => waiting(ui, palette, other),
        });
    } else {
        ui.label(RichText::new("The picture is gone: a resume took it back").color(palette.dim));
    }
    if !is_open {
        desk.state.enlarged = None;
        desk.state.saving = None;
    }
}

fn save_form(ui: &mut Ui, desk: &mut Desk, reader: &Arc<MediaReader>, key: &MediaKey, id: i64) {
    let palette = desk.palette;
    let Some(saving) = &mut desk.state.saving else { return };
    let mut is_over = false;
    ui.horizontal(|ui| {
        ui.label(RichText::new("Save to").color(palette.dim));
        let field =
            TextEdit::singleline(&mut saving.path).align(egui::Align2::LEFT_CENTER).desired_width((ui.available_width() - 140.0).max(80.0));
        let field = ui.add(field).accessible_name("File to save the picture to");
        let is_entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        if ui.add_enabled(!saving.path.trim().is_empty(), Button::new("Save")).clicked() || is_entered {
            let path = PathBuf::from(saving.path.trim());
            reader.save(key, id, &path);
            saving.asked = Some(path);
        }
        is_over = ui.button("Close").clicked();
    });
    let media = reader.media();
    if let Some(saved) = saving.asked.as_ref().and_then(|path| last_saved(&media, path)) {
        match &saved.problem {
            Some(problem) => ui.label(RichText::new(problem).color(palette.error)),
            None => ui.label(RichText::new(format!("Saved as {}", saved.path.display())).color(palette.ok)),
        };
    }
    if is_over {
        desk.state.saving = None;
    }
}

// A name that says what it is, in the folder where people look for what they saved.
fn proposed_path(key: &MediaKey, step: u64, index: usize, count: usize) -> String {
    let run = key.run.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name: String = key.name.chars().map(|letter| if letter.is_alphanumeric() || letter == '-' { letter } else { '-' }).collect();
    let number = if count > 1 { format!("-{}", index + 1) } else { String::new() };
    let file = format!("{run}-{name}-step-{step}{number}.png");
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
    home.map_or_else(|| PathBuf::from(&file), |home| home.join(&file)).display().to_string()
}
