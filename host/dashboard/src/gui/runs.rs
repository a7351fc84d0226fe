//! The left of the window: the runs, newest first; which of them have curves, and which one the other panels are about.

use super::axis::{duration, short};
use super::commands::Action;
use super::table::facts::Facts;
use super::table::{TableView, curve_dot, fold_mark, marks, select};
use super::theme::{self, Palette};
use super::{Pane, Panel, Session, View, is_over, main_metric, runs_text, state};
use crate::data::{Run, Snapshot};
use eframe::egui::{
    self, Align, Align2, Button, FontId, Key, Layout, Rect, RichText, Role, ScrollArea, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2,
    vec2,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Height of a run's row.
const RUN_HEIGHT: f32 = 50.0;
/// A row at least as wide says the state in a word.
const WORD_WIDTH_MIN: f32 = 190.0;

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let snapshot = panel.snapshot.clone();
    let palette = Palette::of(ui);
    if snapshot.runs.is_empty() {
        panel.session.table.book.update(&snapshot);
        if !panel.session.table.is_on_screen(ui.ctx()) {
            marks::notices(ui, panel, palette);
        }
        empty(ui, panel, palette);
        return;
    }
    ui.horizontal(|ui| {
        let clear_width = if panel.view.filter.is_empty() { 0.0 } else { 52.0 };
        let field =
            egui::TextEdit::singleline(&mut panel.view.filter).hint_text("Filter: name, state, lr>=0.01").align(Align2::LEFT_CENTER);
        let field = ui.add_sized(vec2(ui.available_width() - clear_width, theme::ROW_HEIGHT), field).accessible_name("Filter runs");
        if std::mem::take(&mut panel.session.focus_filter) {
            field.request_focus();
        }
        if field.has_focus() && ui.input(|input| input.key_pressed(Key::Escape)) {
            field.surrender_focus();
        }
        if !panel.view.filter.is_empty() && ui.button("Clear").on_hover_text("Show all runs in the list").clicked() {
            panel.view.filter.clear();
        }
    });
    panel.session.table.book.update(&snapshot);
    let has_table = panel.session.table.is_on_screen(ui.ctx());
    let rows = rows(&panel.view.table, &panel.session.table.book.listed(&panel.view.filter, panel.view.table.archived));
    let archived = panel.session.table.book.archived_count();
    ui.horizontal(|ui| {
        let listed = rows.listed;
        let all = snapshot.runs.len() - if panel.view.table.archived { 0 } else { archived };
        let count = if listed == all { runs_text(listed) } else { format!("{listed} of {all} runs") };
        let chosen = panel.view.chosen().len();
        let count = if chosen > 1 { format!("{count}, {chosen} selected") } else { count };
        ui.label(RichText::new(count).small().color(palette.dim));
        if archived > 0 {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let (text, name) = if panel.view.table.archived {
                    ("hide archived", "Hide archived runs")
                } else {
                    ("show archived", "Show archived runs")
                };
                let button = egui::Button::new(RichText::new(format!("{text} ({archived})")).small().color(palette.dim)).frame(false);
                if ui.add(button).accessible_name(name).clicked() {
                    panel.view.table.archived = !panel.view.table.archived;
                }
            });
        }
    });
    if !has_table {
        marks::notices(ui, panel, palette);
    }
    if rows.listed == 0 {
        ui.add_space(theme::GAP);
        ui.label(RichText::new("No run has this in its name, id, state or settings").color(palette.dim));
        return;
    }
    let scroll_to = if has_table { None } else { panel.session.table.scroll_to.take() };
    ScrollArea::vertical().id_salt("runs").auto_shrink(false).show_viewport(ui, |ui, viewport| {
        let origin = ui.max_rect().min;
        let width = ui.available_width();
        ui.set_min_size(vec2(width, rows.height));
        for (top, row_of) in &rows.items {
            let height = row_of.height();
            let rect = Rect::from_min_size(origin + vec2(0.0, *top), vec2(width, height));
            if matches!(row_of, Row::Run(facts, _) if scroll_to.as_deref() == Some(facts.id()))
                && !viewport.y_range().contains(*top + height / 2.0)
            {
                ui.scroll_to_rect(rect, None);
            }
            if *top + height < viewport.top() || *top > viewport.bottom() {
                continue;
            }
            match row_of {
                Row::Sweep(title, count) => heading(ui, panel, title, *count, rect, palette),
                Row::Run(facts, is_inner) => {
                    let indent = if *is_inner { 10.0 } else { 0.0 };
                    row(ui, panel, facts, Rect::from_min_max(rect.min + vec2(indent, 0.0), rect.max), &rows, palette);
                }
            }
        }
    });
}

/// A row of the list.
enum Row {
    /// A sweep's heading, with the number of its runs.
    Sweep(String, usize),
    /// A run, and whether it stands under a heading.
    Run(Arc<Facts>, bool),
}

impl Row {
    fn height(&self) -> f32 {
        match self {
            Row::Sweep(..) => theme::ROW_HEIGHT,
            Row::Run(..) => RUN_HEIGHT,
        }
    }
}

struct Rows {
    items: Vec<(f32, Row)>,
    height: f32,
    listed: usize,
}

impl Rows {
    fn ids(&self) -> Vec<String> {
        let runs = self.items.iter().filter_map(|(_, row)| match row {
            Row::Run(facts, _) => Some(facts.id().to_owned()),
            Row::Sweep(..) => None,
        });
        runs.collect()
    }
}

// Pinned runs first; then the newest, where the runs of a sweep stand together at the place of their newest.
fn rows(view: &TableView, runs: &[Arc<Facts>]) -> Rows {
    let mut rows = Rows { items: Vec::new(), height: 0.0, listed: runs.len() };
    let mut push = |row: Row| {
        let top = rows.height;
        rows.height += row.height() + 2.0;
        rows.items.push((top, row));
    };
    runs.iter().filter(|facts| facts.is_pinned).for_each(|facts| push(Row::Run(facts.clone(), false)));
    let mut sweeps: HashMap<&str, Vec<&Arc<Facts>>> = HashMap::new();
    for facts in runs.iter().filter(|facts| !facts.is_pinned) {
        if let Some(group) = &facts.run.group {
            sweeps.entry(group).or_default().push(facts);
        }
    }
    for facts in runs.iter().filter(|facts| !facts.is_pinned) {
        match &facts.run.group {
            None => push(Row::Run(facts.clone(), false)),
            Some(group) => {
                // The first of them brings all.
                let Some(members) = sweeps.remove(group.as_str()) else { continue };
                push(Row::Sweep(group.clone(), members.len()));
                if !view.folded_sweeps.contains(group) {
                    members.into_iter().for_each(|facts| push(Row::Run(facts.clone(), true)));
                }
            }
        }
    }
    rows
}

/// The runs in the order of the list, without those of folded sweeps.
pub fn order(view: &View, session: &mut Session, snapshot: &Arc<Snapshot>) -> Vec<String> {
    session.table.book.update(snapshot);
    rows(&view.table, &session.table.book.listed(&view.filter, view.table.archived)).ids()
}

fn heading(ui: &mut Ui, panel: &mut Panel, title: &str, count: usize, rect: Rect, palette: &Palette) {
    let is_open = !panel.view.table.folded_sweeps.contains(title);
    let response = ui.interact(rect, ui.scope_id().with(("sweep", title)), Sense::click());
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, is_open, format!("Sweep {title}")));
    if response.clicked() && !panel.view.table.folded_sweeps.remove(title) {
        panel.view.table.folded_sweeps.insert(title.to_owned());
    }
    let painter = ui.painter_at(rect);
    if response.hovered() || response.has_focus() {
        painter.rect_filled(rect, 5.0, palette.raised.gamma_multiply(0.5));
    }
    fold_mark(&painter, pos2(rect.left() + 17.0, rect.center().y), is_open, palette.dim);
    let count = painter.text(
        pos2(rect.right() - 10.0, rect.center().y),
        Align2::RIGHT_CENTER,
        count.to_string(),
        FontId::proportional(11.5),
        palette.dim,
    );
    elided(ui, &painter, pos2(rect.left() + 30.0, rect.center().y), count.left() - 8.0 - rect.left() - 30.0, title, 12.5, palette.dim);
    response.on_hover_text("A sweep: click to fold its runs");
}

fn empty(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    ui.add_space(theme::GAP);
    ui.label(RichText::new("No runs yet").size(15.0));
    ui.add_space(4.0);
    let folders: Vec<String> = panel.folders.iter().map(|folder| folder.display().to_string()).collect();
    ui.label(
        RichText::new(format!(
            "This window watches {}. A run appears here by itself, as soon as it has compiled. Start one here, or in a terminal:",
            folders.join(", ")
        ))
        .color(palette.dim),
    );
    ui.add_space(4.0);
    if panel.host.is_some() && ui.add(Button::new(RichText::new("New run…").color(palette.on_accent)).fill(palette.accent)).clicked() {
        panel.actions.push(Action::Show(Pane::Launch));
    }
    let runs_dir = panel.folders.first().filter(|folder| folder.as_os_str() != "runs");
    let command = match runs_dir {
        Some(folder) => format!("solstice train experiments/digits.ron --runs-dir {}", folder.display()),
        None => "solstice train experiments/digits.ron".into(),
    };
    ui.add(egui::Label::new(RichText::new(&command).monospace()).wrap());
    if ui.button("Copy command").clicked() {
        ui.ctx().copy_text(command);
    }
}

fn row(ui: &mut Ui, panel: &mut Panel, facts: &Arc<Facts>, rect: Rect, rows: &Rows, palette: &Palette) {
    let run = &facts.run;
    let id = facts.id();
    let name = &facts.name;
    let state = state(run);
    let dot_rect = Rect::from_min_size(rect.min, vec2(30.0, RUN_HEIGHT));
    let body_rect = Rect::from_min_max(pos2(dot_rect.right(), rect.top()), rect.max);

    let is_shown = panel.view.is_shown(id);
    let is_selected = panel.view.is_selected(id);
    let dot = ui.interact(dot_rect, ui.scope_id().with(("curves", id)), Sense::click());
    dot.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, is_shown, format!("Curves of {name}")));
    let body = ui.interact(body_rect, ui.scope_id().with(("run", id)), Sense::click());
    body.widget_info(|| WidgetInfo::selected(Role::Button, true, is_selected, format!("Run {name}")));
    if dot.clicked() {
        panel.view.set_shown(id, !is_shown);
    }
    if body.clicked() {
        // A second click on the selected run toggles its curves too.
        let is_alone = is_selected && panel.view.also.is_empty();
        if is_alone && ui.input(|input| input.modifiers.is_none()) {
            panel.view.set_shown(id, !is_shown);
        } else {
            select(ui, panel, id, || rows.ids());
        }
    }
    marks::context_menu(&body, panel, facts);

    let painter = ui.painter_at(rect);
    if is_selected {
        painter.rect_filled(rect, 5.0, palette.raised);
        painter.rect_filled(Rect::from_min_size(rect.min + vec2(0.0, 8.0), vec2(3.0, RUN_HEIGHT - 16.0)), 1.5, palette.accent);
    } else if body.hovered() || dot.hovered() {
        painter.rect_filled(rect, 5.0, palette.raised.gamma_multiply(0.5));
    }
    for response in [&dot, &body] {
        if response.has_focus() {
            painter.rect_stroke(response.rect.shrink(1.0), 4.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
        }
    }
    let first = rect.top() + 16.0;
    let second = rect.top() + 34.0;
    let center = pos2(rect.left() + 17.0, first);
    let color = palette.run(panel.view.color_slot(id));
    curve_dot(&painter, center, is_shown, color);

    // First line: name on the left, state on the right.
    let right = rect.right() - 10.0;
    let state_color = palette.state(state);
    // Where there is no room for both, the mark alone tells the state.
    let state_name = if rect.width() < WORD_WIDTH_MIN { "" } else { state.name() };
    let word = painter.text(pos2(right, first), Align2::RIGHT_CENTER, state_name, FontId::proportional(12.0), state_color);
    theme::state_mark(&painter, pos2(word.left() - 10.0, first), state, state_color);
    let name_color = if is_shown && !facts.is_archived { palette.text } else { palette.dim };
    let mut left = body_rect.left();
    if facts.is_pinned {
        marks::pin_mark(&painter, pos2(left + 3.0, first), palette.accent);
        left += 13.0;
    }
    let right_of_name = word.left() - 22.0;
    elided(ui, &painter, pos2(left, first), right_of_name - left, name, 13.5, name_color);

    // Second line: how far, what is left, and the number that counts.
    let metric = main_metric(run).map(|(metric, value)| format!("{metric} {}", short(value)));
    let metric_left = match &metric {
        Some(text) => painter.text(pos2(right, second), Align2::RIGHT_CENTER, text, FontId::proportional(11.5), palette.dim).left(),
        None => right,
    };
    let progress = run.problem.clone().unwrap_or_else(|| progress_text(run));
    let progress_color = if run.problem.is_some() { palette.error } else { palette.dim };
    let mut left = body_rect.left();
    if !facts.tags.is_empty() {
        // Tags before the rest: they are what people look for. At most half of the line.
        let room = ((metric_left - 10.0 - left) * 0.5).max(24.0);
        let width = marks::chips_width(ui, &facts.tags).min(room);
        marks::chips(ui, &painter, Rect::from_center_size(pos2(left + width / 2.0, second), vec2(width, 16.0)), &facts.tags, palette);
        left += width + 6.0;
    }
    elided(ui, &painter, pos2(left, second), metric_left - 10.0 - left, &progress, 11.5, progress_color);
    if let (Some(part), false) = (run.progress(), is_over(run)) {
        let bar = Rect::from_min_size(pos2(body_rect.left(), rect.bottom() - 5.0), vec2(right - body_rect.left(), 2.0));
        painter.rect_filled(bar, 1.0, palette.line);
        painter.rect_filled(Rect::from_min_size(bar.min, vec2(bar.width() * part as f32, 2.0)), 1.0, state_color);
    }
    let baseline = if panel.view.baseline.as_deref() == Some(id) { "\nOthers are compared with this one" } else { "" };
    let reason = run.info.as_ref().and_then(|info| info.state_reason.as_ref()).or(run.problem.as_ref());
    let reason = reason.map_or(String::new(), |reason| format!("\n{reason}"));
    dot.on_hover_text("Show or hide the curves (V); O shows only the selected run");
    let note = if facts.note.is_empty() { String::new() } else { format!("\n{}", facts.note) };
    if body.hovered() {
        body.on_hover_text(format!("{}{reason}{baseline}{note}\nCtrl or Shift and click: select several; right click: more", run.id));
    }
    let is_editing = panel.session.table.edit.as_ref().is_some_and(|edit| edit.runs.first().is_some_and(|run| run == id));
    if is_editing && !panel.session.table.is_on_screen(ui.ctx()) {
        let field = Rect::from_min_max(pos2(body_rect.left() - 4.0, rect.top() + 3.0), pos2(rect.right() - 6.0, rect.top() + 29.0));
        marks::editor(ui, panel, field, palette);
    }
}

/// Text cut to a width, with dots where something is missing.
pub fn elided(ui: &Ui, painter: &egui::Painter, left: egui::Pos2, width: f32, text: &str, size: f32, color: egui::Color32) {
    let mut job = egui::text::LayoutJob::simple_singleline(text.to_owned(), FontId::proportional(size), color);
    job.wrap = egui::text::TextWrapping::truncate_at_width(width.max(10.0));
    let galley = ui.ctx().fonts_mut(|fonts| fonts.layout_job(job));
    painter.galley(left - vec2(0.0, galley.size().y / 2.0), galley, color);
}

/// How far a run is, in words: `61 %, 3 min 20 s left`.
pub fn progress_text(run: &Run) -> String {
    let Some(info) = &run.info else { return "being read".into() };
    let step = format!("step {}", short(info.at.step as f64));
    if is_over(run) {
        return if info.train_secs > 0.0 { format!("{step} in {}", duration(info.train_secs)) } else { step };
    }
    match (run.progress(), run.eta_secs()) {
        (Some(part), Some(secs)) => format!("{:.0} %, {} left", part * 100.0, duration(secs)),
        (Some(part), None) => format!("{:.0} %", part * 100.0),
        _ => step,
    }
}
