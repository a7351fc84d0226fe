//! The left of the window: the runs, newest first; which of them have curves, and which one the other panels are about.

use super::axis::{duration, short};
use super::theme::{self, Palette};
use super::{Panel, is_over, main_metric, run_name, state};
use crate::data::{Run, Snapshot};
use eframe::egui::{self, Align2, FontId, Key, Rect, RichText, Role, ScrollArea, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};
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
        empty(ui, panel, palette);
        return;
    }
    ui.horizontal(|ui| {
        let clear_width = if panel.view.filter.is_empty() { 0.0 } else { 52.0 };
        let field =
            egui::TextEdit::singleline(&mut panel.view.filter).hint_text("Filter: name, state, setting=value").align(Align2::LEFT_CENTER);
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
    let runs = listed(&snapshot, &panel.view.filter);
    let count = if runs.len() == snapshot.runs.len() {
        format!("{} runs", runs.len())
    } else {
        format!("{} of {} runs", runs.len(), snapshot.runs.len())
    };
    ui.label(RichText::new(count).small().color(palette.dim));
    if runs.is_empty() {
        ui.add_space(theme::GAP);
        ui.label(RichText::new("No run has this in its name, id, state or settings").color(palette.dim));
        return;
    }
    ui.spacing_mut().item_spacing.y = 2.0;
    ScrollArea::vertical().id_salt("runs").auto_shrink(false).show_rows(ui, RUN_HEIGHT, runs.len(), |ui, range| {
        for run in &runs[range] {
            row(ui, panel, run, palette);
        }
    });
}

fn empty(ui: &mut Ui, panel: &Panel, palette: &Palette) {
    ui.add_space(theme::GAP);
    ui.label(RichText::new("No runs yet").size(15.0));
    ui.add_space(4.0);
    let folders: Vec<String> = panel.folders.iter().map(|folder| folder.display().to_string()).collect();
    ui.label(
        RichText::new(format!("This window watches {}. Start one, and it appears here by itself:", folders.join(", "))).color(palette.dim),
    );
    ui.add_space(4.0);
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

/// The runs that a filter leaves, newest first.
pub fn listed<'a>(snapshot: &'a Snapshot, filter: &str) -> Vec<&'a Arc<Run>> {
    let mut runs: Vec<&Arc<Run>> = snapshot.runs.iter().filter(|run| matches(run, filter)).collect();
    // The snapshot's order is that of the folders' names, which know minutes only. Runs that could not be read yet have no time: they go last.
    runs.sort_by(|a, b| created(b).total_cmp(&created(a)));
    runs
}

fn created(run: &Run) -> f64 {
    run.info.as_ref().map_or(0.0, |info| info.created)
}

/// Whether a run is listed under a filter: every word of it stands in its id, name, state, or in a setting written `key=value`.
pub fn matches(run: &Run, filter: &str) -> bool {
    if filter.trim().is_empty() {
        return true;
    }
    let text = format!("{} {} {} {}", run.id, run_name(run), state(run), run.group.as_deref().unwrap_or_default()).to_lowercase();
    let mut settings: Option<Vec<String>> = None;
    filter.to_lowercase().split_whitespace().all(|word| {
        if !word.contains('=') {
            return text.contains(word);
        }
        let settings = settings.get_or_insert_with(|| {
            let flat = run.info.as_ref().map(|info| super::detail::flat(&info.config));
            flat.into_iter().flatten().map(|(key, value)| format!("{key}={value}").to_lowercase()).collect()
        });
        settings.iter().any(|setting| setting.contains(word))
    })
}

fn row(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let id = run.id.as_str();
    let name = run_name(run);
    let state = state(run);
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), RUN_HEIGHT), Sense::hover());
    let dot_rect = Rect::from_min_size(rect.min, vec2(30.0, RUN_HEIGHT));
    let body_rect = Rect::from_min_max(pos2(dot_rect.right(), rect.top()), rect.max);

    let is_shown = panel.view.is_shown(id);
    let is_selected = panel.view.selected.as_deref() == Some(id);
    let dot = ui.interact(dot_rect, ui.scope_id().with(("curves", id)), Sense::click());
    dot.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, is_shown, format!("Curves of {name}")));
    let body = ui.interact(body_rect, ui.scope_id().with(("run", id)), Sense::click());
    body.widget_info(|| WidgetInfo::selected(Role::Button, true, is_selected, format!("Run {name}")));
    if dot.clicked() {
        panel.view.set_shown(id, !is_shown);
    }
    if body.clicked() {
        // A second click on the selected run toggles its curves too.
        if is_selected {
            panel.view.set_shown(id, !is_shown);
        } else if ui.input(|input| input.modifiers.command) {
            panel.view.baseline = Some(run.id.clone());
        } else {
            panel.view.selected = Some(run.id.clone());
        }
    }

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
    if is_shown {
        painter.circle_filled(center, 5.0, color);
    } else {
        painter.circle_stroke(center, 4.5, Stroke::new(1.5, color.gamma_multiply(0.7)));
    }

    // First line: name on the left, state on the right.
    let right = rect.right() - 10.0;
    let state_color = palette.state(state);
    // Where there is no room for both, the mark alone tells the state.
    let state_name = if rect.width() < WORD_WIDTH_MIN { "" } else { state.name() };
    let word = painter.text(pos2(right, first), Align2::RIGHT_CENTER, state_name, FontId::proportional(12.0), state_color);
    theme::state_mark(&painter, pos2(word.left() - 10.0, first), state, state_color);
    let name_color = if is_shown { palette.text } else { palette.dim };
    elided(ui, &painter, pos2(body_rect.left(), first), word.left() - 22.0 - body_rect.left(), &name, 13.5, name_color);

    // Second line: how far, what is left, and the number that counts.
    let metric = main_metric(run).map(|(metric, value)| format!("{metric} {}", short(value)));
    let metric_left = match &metric {
        Some(text) => painter.text(pos2(right, second), Align2::RIGHT_CENTER, text, FontId::proportional(11.5), palette.dim).left(),
        None => right,
    };
    let progress = run.problem.clone().unwrap_or_else(|| progress_text(run));
    let progress_color = if run.problem.is_some() { palette.error } else { palette.dim };
    elided(ui, &painter, pos2(body_rect.left(), second), metric_left - 10.0 - body_rect.left(), &progress, 11.5, progress_color);
    if let (Some(part), false) = (run.progress(), is_over(run)) {
        let bar = Rect::from_min_size(pos2(body_rect.left(), rect.bottom() - 5.0), vec2(right - body_rect.left(), 2.0));
        painter.rect_filled(bar, 1.0, palette.line);
        painter.rect_filled(Rect::from_min_size(bar.min, vec2(bar.width() * part as f32, 2.0)), 1.0, state_color);
    }
    let baseline = if panel.view.baseline.as_deref() == Some(id) { "\nOthers are compared with this one" } else { "" };
    let reason = run.info.as_ref().and_then(|info| info.state_reason.as_ref()).or(run.problem.as_ref());
    let reason = reason.map_or(String::new(), |reason| format!("\n{reason}"));
    dot.on_hover_text("Show or hide the curves (V); O shows only the selected run");
    body.on_hover_text(format!("{}{reason}{baseline}\nCtrl and click: compare with this one", run.id));
}

// Text cut to a width, with dots where something is missing.
fn elided(ui: &Ui, painter: &egui::Painter, left: egui::Pos2, width: f32, text: &str, size: f32, color: egui::Color32) {
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
