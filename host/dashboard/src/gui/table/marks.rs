//! What people do to runs from the table and from the list: names, tags, notes, colours, pins, putting away, deleting and taking that back.
//!
//! Labels are the run's own (`labels` in its store), so every window shows the same.

use super::super::commands::Action;
use super::super::source::Request;
use super::super::theme::{self, Palette};
use super::super::{Pane, Panel};
use super::facts::{Facts, tags};
use eframe::egui::{
    self, Align, Align2, Button, FontId, Key, Layout, Popup, Pos2, Rect, Response, RichText, Role, Sense, Stroke, Ui, WidgetInfo, pos2,
    vec2,
};
use std::sync::Arc;

/// What the colours of the palette are called, for those who do not see them.
pub const COLOURS: [&str; 8] = ["Blue", "Orange", "Green", "Pink", "Yellow", "Red", "Violet", "Grey"];

/// A label that can be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What it is called.
    Name,
    /// Words between commas.
    Tags,
    /// Anything.
    Note,
}

impl Field {
    fn key(self) -> &'static str {
        match self {
            Field::Name => "name",
            Field::Tags => "tags",
            Field::Note => "note",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Field::Name => "Name",
            Field::Tags => "Tags, with commas between them",
            Field::Note => "Note",
        }
    }
}

/// A label that is being typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The runs that get it; the field stands in the row of the first.
    pub runs: Vec<String>,
    /// Which label.
    pub field: Field,
    /// What was typed.
    pub text: String,
    /// The field has the keyboard.
    pub has_focus: bool,
}

/// Carries out an action on the selected runs; false for all that is none of this.
pub fn act(panel: &mut Panel, action: Action) -> bool {
    let snapshot = panel.snapshot.clone();
    panel.session.table.book.update(&snapshot);
    let chosen = panel.view.chosen();
    match action {
        Action::Pin => pin(panel, &chosen),
        Action::Archive => archive(panel, &chosen),
        Action::Rename => {
            if let Some(id) = chosen.first() {
                edit(panel, std::slice::from_ref(id), Field::Name);
            }
        }
        Action::Delete => ask_delete(panel, chosen),
        Action::Undo => undo(panel),
        _ => return false,
    }
    true
}

/// Pins these runs to the top, or lets go of them where all of them are.
pub fn pin(panel: &mut Panel, ids: &[String]) {
    let is_on = all(panel, ids, |facts| facts.is_pinned);
    set_all(panel, ids, "pinned", (!is_on).then_some("true"));
}

/// Puts these runs away, or takes them back where all of them are.
pub fn archive(panel: &mut Panel, ids: &[String]) {
    let is_on = all(panel, ids, |facts| facts.is_archived);
    set_all(panel, ids, "archived", (!is_on).then_some("true"));
}

fn all(panel: &Panel, ids: &[String], holds: impl Fn(&Facts) -> bool) -> bool {
    ids.iter().filter_map(|id| panel.session.table.book.get(id)).all(|facts| holds(facts))
}

fn set_all(panel: &mut Panel, ids: &[String], key: &str, value: Option<&str>) {
    ids.iter().for_each(|id| panel.set_label(id, key, value));
}

/// Begins to type a label. The field stands in the row of the first run, in the table where that is on screen, else in the list.
pub fn edit(panel: &mut Panel, ids: &[String], field: Field) {
    let Some(first) = ids.first() else { return };
    let text = panel.session.table.book.get(first).map_or(String::new(), |facts| match field {
        Field::Name => facts.name.clone(),
        // Of several runs each keeps its own and gets these besides.
        Field::Tags if ids.len() > 1 => String::new(),
        Field::Tags => facts.tags.join(", "),
        Field::Note => facts.note.clone(),
    });
    panel.session.table.scroll_to = Some(first.clone());
    panel.session.table.edit = Some(Edit { runs: ids.to_vec(), field, text, has_focus: false });
    to_front(panel);
}

// The list comes to the front where neither it nor the table can be seen.
fn to_front(panel: &mut Panel) {
    let state = &panel.session.table;
    if state.drawn == 0 || state.drawn + 1 < state.pass {
        panel.view.show_pane(Pane::Runs);
    }
}

/// Asks whether to delete these runs; those that go on are refused at once.
pub fn ask_delete(panel: &mut Panel, ids: Vec<String>) {
    let state = &mut panel.session.table;
    let (over, live): (Vec<String>, Vec<String>) = ids.into_iter().partition(|id| state.book.get(id).is_none_or(|facts| facts.is_over()));
    let names: Vec<&str> = live.iter().filter_map(|id| state.book.get(id)).map(|facts| facts.name.as_str()).collect();
    state.refused = match names[..] {
        [] => None,
        [name] => Some(format!("{name} is under way, so it is not deleted: stop it first")),
        [..] => Some(format!("{} runs are under way, so they are not deleted: stop them first", names.len())),
    };
    state.asks_delete = over;
    to_front(panel);
}

/// Brings back what was deleted last.
pub fn undo(panel: &mut Panel) {
    let batch = panel.snapshot.trashed.last().map(|trashed| trashed.batch);
    let hidden: Vec<_> =
        panel.snapshot.trashed.iter().filter(|trashed| Some(trashed.batch) == batch).map(|trashed| trashed.hidden.clone()).collect();
    if !hidden.is_empty() {
        panel.requests.push(Request::Restore { hidden });
    }
}

/// The question before a deletion, why one was refused, and the line that takes the last one back. Stays until the window closes.
pub fn notices(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    let asks = panel.session.table.asks_delete.clone();
    if !asks.is_empty() {
        let book = &panel.session.table.book;
        let text = match asks.as_slice() {
            [id] => format!("Delete {} with its checkpoints?", book.get(id).map_or(id.as_str(), |facts| &facts.name)),
            ids => format!("Delete {} runs with their checkpoints?", ids.len()),
        };
        line(ui, &text, palette.warn, |ui| {
            if ui.button("Keep").clicked() {
                panel.session.table.asks_delete.clear();
            }
            let button = Button::new(RichText::new("Delete now").color(palette.on_accent)).fill(palette.accent);
            if ui.add(button).clicked() {
                let runs = std::mem::take(&mut panel.session.table.asks_delete);
                panel.requests.push(Request::Trash { runs });
            }
        });
    }
    if let Some(text) = panel.session.table.refused.clone() {
        line(ui, &text, palette.warn, |ui| {
            if ui.button("OK").clicked() {
                panel.session.table.refused = None;
            }
        });
    }
    let snapshot = panel.snapshot.clone();
    if let Some(last) = snapshot.trashed.last() {
        let count = snapshot.trashed.iter().filter(|trashed| trashed.batch == last.batch).count();
        let earlier = snapshot.trashed.len() - count;
        let what = if count == 1 { last.title.clone() } else { format!("{count} runs") };
        let before = if earlier == 0 { String::new() } else { format!(", and {earlier} before") };
        line(ui, &format!("Deleted {what}{before}"), palette.dim, |ui| {
            let hint = "Brings back what was deleted last (Ctrl+Z). When the window closes it is gone for good";
            if ui.button("Undo").on_hover_text(hint).clicked() {
                undo(panel);
            }
        });
    }
}

// A sentence on the left, cut where it must be, and buttons on the right.
fn line(ui: &mut Ui, text: &str, color: egui::Color32, buttons: impl FnOnce(&mut Ui)) {
    ui.horizontal(|ui| {
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            buttons(ui);
            ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
                ui.add(egui::Label::new(RichText::new(text).color(color)).truncate()).on_hover_text(text);
            });
        });
    });
}

/// The menu of a run: about all selected ones where it is one of them. Opens by the right button.
pub fn context_menu(response: &Response, panel: &mut Panel, facts: &Arc<Facts>) {
    response.context_menu(|ui| menu(ui, panel, facts));
}

fn menu(ui: &mut Ui, panel: &mut Panel, facts: &Arc<Facts>) {
    ui.set_min_width(190.0);
    let id = facts.id().to_owned();
    let chosen = panel.view.chosen();
    let ids = if chosen.len() > 1 && chosen.contains(&id) { chosen } else { vec![id.clone()] };
    if ids.len() > 1 {
        ui.label(RichText::new(format!("{} runs", ids.len())).small().color(Palette::of(ui).dim));
    }
    let entry = |ui: &mut Ui, text: &str, key: &str| {
        let button = Button::new(text);
        ui.add(if key.is_empty() { button } else { button.shortcut_text(key) }).clicked()
    };
    if ids.len() == 1 && entry(ui, "Rename…", "F2") {
        edit(panel, &ids, Field::Name);
    }
    if entry(ui, "Tags…", "") {
        edit(panel, &ids, Field::Tags);
    }
    if entry(ui, "Note…", "") {
        edit(panel, &ids, Field::Note);
    }
    ui.menu_button("Colour", |ui| colours(ui, panel, &ids));
    let is_pinned = all(panel, &ids, |facts| facts.is_pinned);
    if entry(ui, if is_pinned { "Unpin" } else { "Pin to the top" }, "P") {
        pin(panel, &ids);
    }
    let is_archived = all(panel, &ids, |facts| facts.is_archived);
    if entry(ui, if is_archived { "Take back" } else { "Archive" }, "") {
        archive(panel, &ids);
    }
    ui.separator();
    let is_shown = ids.iter().all(|id| panel.view.is_shown(id));
    if entry(ui, if is_shown { "Hide curves" } else { "Show curves" }, "V") {
        ids.iter().for_each(|id| panel.view.set_shown(id, !is_shown));
    }
    if ids.len() == 1 {
        if entry(ui, "Compare others with this", "B") {
            panel.view.baseline = Some(id.clone());
        }
        if let Some(parent) = facts.run.info.as_ref().and_then(|info| info.parent.as_ref())
            && entry(ui, "Select the parent", "")
        {
            panel.view.select(&parent.id);
            panel.session.table.scroll_to = Some(parent.id.clone());
        }
        if entry(ui, "Copy the id", "") {
            ui.ctx().copy_text(id);
        }
    }
    ui.separator();
    if entry(ui, "Delete…", "Del") {
        ask_delete(panel, ids);
    }
}

// The colours of the palette in two rows.
fn colours(ui: &mut Ui, panel: &mut Panel, ids: &[String]) {
    let palette = Palette::of(ui);
    let now = ids.first().map(|id| panel.view.color_slot(id) % COLOURS.len());
    egui::Grid::new("colours").spacing(vec2(4.0, 4.0)).show(ui, |ui| {
        for (slot, name) in COLOURS.into_iter().enumerate() {
            let (rect, response) = ui.allocate_exact_size(vec2(24.0, 24.0), Sense::click());
            let is_now = now == Some(slot);
            response.widget_info(|| WidgetInfo::selected(Role::Button, true, is_now, name));
            ui.painter().rect_filled(rect.shrink(3.0), 4.0, palette.run(slot));
            if is_now || response.hovered() || response.has_focus() {
                ui.painter().rect_stroke(rect.shrink(0.5), 5.0, Stroke::new(1.5, palette.text), egui::StrokeKind::Inside);
            }
            if response.on_hover_text(name).clicked() {
                set_all(panel, ids, "colour", Some(&slot.to_string()));
                ui.close();
            }
            if slot == 3 {
                ui.end_row();
            }
        }
    });
    if ui.button("As at first").clicked() {
        set_all(panel, ids, "colour", None);
    }
}

/// The run's colour at the edge of its row: click it for another.
pub fn swatch(ui: &mut Ui, panel: &mut Panel, facts: &Arc<Facts>, rect: Rect, palette: &Palette) {
    let id = facts.id().to_owned();
    let response = ui.interact(rect, ui.scope_id().with(("swatch", &id)), Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Colour of {}", facts.name)));
    let is_lit = response.hovered() || response.has_focus();
    let bar = Rect::from_center_size(pos2(rect.left() + 5.0, rect.center().y), vec2(if is_lit { 8.0 } else { 4.0 }, rect.height() - 10.0));
    ui.painter().rect_filled(bar, 2.0, palette.run(panel.view.color_slot(&id)));
    Popup::menu(&response).show(|ui| colours(ui, panel, &[id]));
    response.on_hover_text("Click: another colour");
}

/// The field of the label that is being typed: Enter or a click elsewhere keeps it, Escape does not.
pub fn editor(ui: &mut Ui, panel: &mut Panel, rect: Rect, palette: &Palette) {
    let Some(mut edit) = panel.session.table.edit.take() else { return };
    let name = edit.runs.first().and_then(|id| panel.session.table.book.get(id)).map_or(String::new(), |facts| facts.name.clone());
    let what = match edit.field {
        Field::Name => format!("New name of {name}"),
        Field::Tags => format!("Tags of {name}"),
        Field::Note => format!("Note of {name}"),
    };
    ui.painter().rect_filled(rect, 4.0, palette.background);
    let field = egui::TextEdit::singleline(&mut edit.text).hint_text(edit.field.hint()).align(Align2::LEFT_CENTER);
    let response = ui.put(rect, field).accessible_name(what);
    ui.painter().rect_stroke(rect, 4.0, Stroke::new(1.0, palette.accent), egui::StrokeKind::Inside);
    if !edit.has_focus {
        response.request_focus();
        edit.has_focus = true;
        panel.session.table.edit = Some(edit);
        return;
    }
    let escaped = ui.input(|input| input.key_pressed(Key::Escape));
    if escaped {
        return;
    }
    if response.lost_focus() {
        keep(panel, &edit);
    } else {
        panel.session.table.edit = Some(edit);
    }
}

fn keep(panel: &mut Panel, edit: &Edit) {
    let several = edit.runs.len() > 1;
    for id in &edit.runs {
        let Some(facts) = panel.session.table.book.get(id).cloned() else { continue };
        let typed = edit.text.trim();
        let value = match edit.field {
            Field::Tags => {
                let mut all = if several { facts.tags.clone() } else { Vec::new() };
                all.extend(tags(typed));
                let mut seen = std::collections::BTreeSet::new();
                all.retain(|tag| seen.insert(tag.clone()));
                all.join(", ")
            }
            // The name on screen was only made from the recipe's: not typed is not given.
            Field::Name if typed == facts.name => continue,
            _ => typed.to_owned(),
        };
        panel.set_label(id, edit.field.key(), Some(value.as_str()).filter(|value| !value.is_empty()));
    }
}

/// Tags, as many as fit.
pub fn chips(ui: &Ui, painter: &egui::Painter, rect: Rect, tags: &[String], palette: &Palette) {
    let mut left = rect.left();
    for tag in tags {
        let galley = ui.painter().layout_no_wrap(tag.clone(), FontId::proportional(11.0), palette.text);
        let chip = Rect::from_min_size(pos2(left, rect.center().y - 8.0), vec2(galley.size().x + 10.0, 16.0));
        if chip.right() > rect.right() && left > rect.left() {
            painter.text(pos2(left, rect.center().y), Align2::LEFT_CENTER, "…", FontId::proportional(11.0), palette.dim);
            return;
        }
        painter.rect(chip, 8.0, palette.background, Stroke::new(1.0, palette.line), egui::StrokeKind::Inside);
        painter.galley(chip.center() - galley.size() / 2.0, galley, palette.text);
        left = chip.right() + 4.0;
    }
}

/// The mark of a pinned run: a needle with a head.
pub fn pin_mark(painter: &egui::Painter, center: Pos2, color: egui::Color32) {
    painter.circle_filled(center - vec2(0.0, 2.5), 3.2, color);
    painter.line_segment([center, center + vec2(0.0, 6.0)], Stroke::new(1.5, color));
}

/// Room that [`chips`] take on one line.
pub fn chips_width(ui: &Ui, tags: &[String]) -> f32 {
    tags.iter().map(|tag| ui.painter().layout_no_wrap(tag.clone(), FontId::proportional(11.0), theme_text(ui)).size().x + 14.0).sum()
}

fn theme_text(ui: &Ui) -> egui::Color32 {
    theme::Palette::of(ui).text
}
