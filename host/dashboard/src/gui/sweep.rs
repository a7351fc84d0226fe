//! Settings against a result over many runs: parallel coordinates, the best runs in order, and how each setting's ranks go with the result's.
//!
//! An axis a setting, the result last; a line a run, in the colour of its result. A brush is a range dragged on an axis, or chosen by keys: runs
//! outside of any fade. The numbers stand in `sweep/numbers.rs`.

pub mod numbers;

use super::Panel;
use super::axis::{Axis, short};
use super::commands::Action;
use super::runs::elided;
use super::table::facts::{Facts, differing, is_result, metric_names};
use super::theme::{self, Palette};
use eframe::egui::{
    self, Align2, Color32, CursorIcon, EventFilter, FontId, Key, Modifiers, Popup, PopupCloseBehavior, Pos2, Rect, RichText, Role,
    ScrollArea, Sense, Shape, Stroke, Ui, UiBuilder, WidgetInfo, accesskit, pos2, vec2,
};
use numbers::{Layout, number_of, spearman};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Axes before anybody chose.
const AXES_AT_FIRST: usize = 7;
/// Words that an axis has room for.
const WORDS_MAX: usize = 40;
/// Where the runs lie that do not have the setting: below the axis.
const NOWHERE: f64 = -0.07;
/// Name of the last axis among the brushes.
const RESULT: &str = "=result";
/// Different values of an axis between each of which keys stop.
const GAPS_MAX: usize = 24;
/// How near to a line the mouse must be.
const REACH: f32 = 8.0;
/// From this width the lists stand beside the lines, else below.
const WIDE: f32 = 860.0;

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepView {
    /// Only the runs of this sweep; of the one that the selected run belongs to without one.
    pub group: Option<String>,
    /// All runs that are listed, whatever the sweep.
    pub all: bool,
    /// The result; the one that tells most without one.
    pub metric: Option<String>,
    /// Its last value instead of its best.
    pub last: bool,
    /// The axes in order; the settings that differ without.
    pub axes: Option<Vec<String>>,
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct SweepState {
    /// Ranges by axis, as parts of it.
    pub brushes: BTreeMap<String, (f64, f64)>,
    /// The run under the mouse.
    pub hovered: Option<String>,
    /// The axis that was clicked or had the keyboard last: the one that the commands move.
    pub axis: Option<String>,
    // The frame in which the panel was drawn last.
    drawn: u64,
    field: Option<(FieldKey, Arc<Field>)>,
}

type FieldKey = (u64, String, String);

impl SweepState {
    /// The panel was drawn in this frame or the one before.
    pub fn is_on_screen(&self, context: &egui::Context) -> bool {
        self.drawn > 0 && self.drawn + 1 >= context.cumulative_pass_nr()
    }
}

/// What is drawn, worked out once a change.
#[derive(Debug)]
struct Field {
    axes: Vec<(String, Layout)>,
    /// Every setting that could be an axis.
    offered: Vec<String>,
    metrics: Vec<String>,
    metric: String,
    is_greatest_best: bool,
    result: Layout,
    /// The best first; runs without the result last.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    facts: Arc<Facts>,
    /// One an axis, and the result's.
    places: Vec<f64>,
    result: Option<f64>,
}

impl Field {
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.axes.iter().map(|(key, _)| key.as_str()).chain([RESULT])
    }

    /// The line passes through every brush.
    fn is_active(&self, line: &Line, brushes: &BTreeMap<String, (f64, f64)>) -> bool {
        self.keys().zip(&line.places).all(|(key, place)| brushes.get(key).is_none_or(|(low, high)| (*low..=*high).contains(place)))
    }

    /// Where the ends of a brush stop when keys move them: between any two values of the axis, and beyond the outer ones; of many values, twentieths.
    fn gaps(&self, index: usize) -> Vec<f64> {
        let mut places: Vec<f64> = self.lines.iter().map(|line| line.places[index]).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let first = if places.first() == Some(&NOWHERE) { NOWHERE - 0.02 } else { 0.0 };
        let between: Vec<f64> = if places.len() > GAPS_MAX {
            // What lies nowhere has a gap of its own.
            let below = (first < 0.0).then_some(NOWHERE / 2.0);
            below.into_iter().chain((1..20).map(|part| f64::from(part) / 20.0)).collect()
        } else {
            places.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
        };
        std::iter::once(first).chain(between).chain([1.0]).collect()
    }

    /// From 0, the worst result, to 1, the best.
    fn quality(&self, line: &Line) -> Option<f64> {
        let place = self.result.place_of(line.result?)?;
        Some(if self.is_greatest_best { place } else { 1.0 - place })
    }
}

/// Ids of the runs that all brushes leave, best first; for tests and for whoever asks what was chosen.
pub fn brushed(state: &SweepState) -> Vec<String> {
    let Some((_, field)) = &state.field else { return Vec::new() };
    field.lines.iter().filter(|line| field.is_active(line, &state.brushes)).map(|line| line.facts.id().to_owned()).collect()
}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(panel: &mut Panel, action: Action) -> bool {
    let by = match action {
        Action::MoveLeft => -1,
        Action::MoveRight => 1,
        _ => return false,
    };
    let state = &panel.session.sweep;
    let is_seen = state.drawn > 0 && state.drawn + 1 >= panel.session.table.pass;
    let (Some(key), Some((_, field)), true) = (&state.axis, &state.field, is_seen) else { return false };
    let Some(at) = field.axes.iter().position(|(known, _)| known == key) else { return false };
    let to = at.saturating_add_signed(by).min(field.axes.len() - 1);
    panel.view.sweep.axes = Some(moved(field, at, to));
    true
}

// The axes with the one at `from` taken to the place `to`.
fn moved(field: &Field, from: usize, to: usize) -> Vec<String> {
    let mut axes: Vec<String> = field.axes.iter().map(|(key, _)| key.clone()).collect();
    let axis = axes.remove(from);
    axes.insert(to, axis);
    axes
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    panel.session.sweep.drawn = ui.ctx().cumulative_pass_nr();
    let snapshot = panel.snapshot.clone();
    panel.session.table.book.update(&snapshot);
    let listed = panel.session.table.book.listed(&panel.view.filter, panel.view.table.archived);
    let mut groups: Vec<String> = listed.iter().filter_map(|facts| facts.run.group.clone()).collect();
    groups.sort();
    groups.dedup();
    let field = field_of(panel, &listed, &groups);
    toolbar(ui, panel, &field, &groups, listed.len(), palette);
    if field.lines.len() < 2 || field.axes.is_empty() {
        empty(ui, panel, &field, listed.len(), palette);
        return;
    }
    ui.add_space(4.0);
    let area = ui.available_rect_before_wrap();
    let (plot, lists) = if area.width() >= WIDE {
        let edge = area.right() - 270.0;
        (Rect::from_min_max(area.min, pos2(edge - 12.0, area.bottom())), Rect::from_min_max(pos2(edge, area.top()), area.max))
    } else {
        let edge = area.top() + (area.height() * 0.58).max(220.0);
        (Rect::from_min_max(area.min, pos2(area.right(), edge)), Rect::from_min_max(pos2(area.left(), edge + 8.0), area.max))
    };
    let mut hovered = None;
    ui.scope_builder(UiBuilder::new().max_rect(plot), |ui| coordinates(ui, panel, &field, plot, &mut hovered, palette));
    ui.scope_builder(UiBuilder::new().max_rect(lists), |ui| {
        if area.width() >= WIDE {
            let half = Rect::from_min_size(lists.min, vec2(lists.width(), lists.height() * 0.5));
            ui.scope_builder(UiBuilder::new().max_rect(half), |ui| ranking(ui, panel, &field, &mut hovered, palette));
            let rest = Rect::from_min_max(pos2(lists.left(), half.bottom() + 8.0), lists.max);
            ui.scope_builder(UiBuilder::new().max_rect(rest), |ui| correlations(ui, panel, &field, palette));
        } else {
            ui.columns(2, |columns| {
                ranking(&mut columns[0], panel, &field, &mut hovered, palette);
                correlations(&mut columns[1], panel, &field, palette);
            });
        }
    });
    if panel.session.sweep.hovered != hovered {
        panel.session.sweep.hovered = hovered;
        ui.ctx().request_repaint();
    }
}

fn field_of(panel: &mut Panel, listed: &Arc<Vec<Arc<Facts>>>, groups: &[String]) -> Arc<Field> {
    let view = &panel.view.sweep;
    let group = group_of(panel, groups);
    let key = (
        panel.session.table.book.generation,
        panel.view.filter.clone(),
        format!("{:?} {group:?} {} {:?}", view, panel.view.table.archived, panel.view.table.best),
    );
    if let Some((_, field)) = panel.session.sweep.field.as_ref().filter(|(known, _)| *known == key) {
        return field.clone();
    }
    let is_in = |facts: &Arc<Facts>| group.is_none() || facts.run.group == group;
    let runs: Vec<Arc<Facts>> = listed.iter().filter(|facts| is_in(facts)).cloned().collect();
    let metrics = metric_names(&runs);
    let metric = view.metric.clone().filter(|metric| metrics.contains(metric)).or_else(|| metrics.first().cloned()).unwrap_or_default();
    let is_greatest_best = panel.view.table.is_greatest_best(&metric);
    let offered = differing(&runs);
    let layout_of = |key: &String| Layout::of(runs.iter().filter_map(|facts| facts.settings.get(key)).map(String::as_str));
    let has_room = |layout: &Layout| !matches!(layout, Layout::Words(words) if words.len() > WORDS_MAX);
    let axes: Vec<(String, Layout)> = match &view.axes {
        Some(keys) => keys.iter().filter(|key| offered.contains(key)).map(|key| (key.clone(), layout_of(key))).collect(),
        None => {
            let axes = offered.iter().map(|key| (key.clone(), layout_of(key))).filter(|(_, layout)| has_room(layout));
            // A setting of which only one run is the odd one tells least; those that stay keep their order.
            let mut axes: Vec<(usize, (String, Layout))> = axes.enumerate().collect();
            axes.sort_by_key(|(place, (key, _))| (std::cmp::Reverse(unlike_most(&runs, key)), *place));
            axes.truncate(AXES_AT_FIRST);
            axes.sort_by_key(|(place, _)| *place);
            axes.into_iter().map(|(_, axis)| axis).collect()
        }
    };
    let value = |facts: &Facts| {
        let values = facts.metrics.get(&metric)?;
        let value = if view.last { values.last } else { values.best(is_greatest_best) };
        value.filter(|value| value.is_finite())
    };
    let result = Layout::of_numbers(runs.iter().filter_map(|facts| value(facts)));
    let mut lines: Vec<Line> = runs
        .iter()
        .map(|facts| {
            let result_value = value(facts);
            let place = |(key, layout): &(String, Layout)| facts.settings.get(key).and_then(|value| layout.place(value)).unwrap_or(NOWHERE);
            let last = result_value.and_then(|value| result.place_of(value)).unwrap_or(NOWHERE);
            Line { facts: facts.clone(), places: axes.iter().map(place).chain([last]).collect(), result: result_value }
        })
        .collect();
    lines.sort_by(|a, b| match (a.result, b.result) {
        (Some(a), Some(b)) if is_greatest_best => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let field = Arc::new(Field { axes, offered, metrics, metric, is_greatest_best, result, lines });
    panel.session.sweep.field = Some((key, field.clone()));
    field
}

// The sweep that is shown: the one that was chosen, else the selected run's.
fn group_of(panel: &Panel, groups: &[String]) -> Option<String> {
    let view = &panel.view.sweep;
    let of_selected = || panel.selected().and_then(|run| run.group.clone());
    let chosen = view.group.clone().filter(|group| groups.contains(group));
    chosen.or_else(of_selected).filter(|group| !view.all && groups.contains(group))
}

// Runs whose value of a setting is not the one that most have.
fn unlike_most(runs: &[Arc<Facts>], key: &str) -> usize {
    let mut counts: BTreeMap<Option<&String>, usize> = BTreeMap::new();
    runs.iter().for_each(|facts| *counts.entry(facts.settings.get(key)).or_default() += 1);
    runs.len() - counts.values().max().copied().unwrap_or(0)
}

fn toolbar(ui: &mut Ui, panel: &mut Panel, field: &Arc<Field>, groups: &[String], listed: usize, palette: &Palette) {
    ui.horizontal_wrapped(|ui| {
        if !groups.is_empty() {
            let group = group_of(panel, groups);
            let view = &mut panel.view.sweep;
            let text = group.clone().unwrap_or_else(|| "All listed runs".into());
            let combo = egui::ComboBox::from_id_salt("sweep runs").selected_text(text).width(150.0).show_ui(ui, |ui| {
                if ui.selectable_label(group.is_none(), "All listed runs").clicked() {
                    (view.group, view.all) = (None, true);
                }
                for name in groups {
                    if ui.selectable_label(group.as_ref() == Some(name), name).clicked() {
                        (view.group, view.all) = (Some(name.clone()), false);
                    }
                }
            });
            combo.response.accessible_name("Runs of the sweep");
        }
        if !field.metrics.is_empty() {
            let combo = egui::ComboBox::from_id_salt("sweep metric").selected_text(&field.metric).width(130.0).show_ui(ui, |ui| {
                for metric in &field.metrics {
                    if ui.selectable_label(field.metric == *metric, metric).clicked() {
                        panel.view.sweep.metric = Some(metric.clone());
                        panel.session.sweep.brushes.remove(RESULT);
                    }
                }
            });
            combo.response.accessible_name("Result");
            let best = if field.is_greatest_best { "Greatest" } else { "Least" };
            for (is_last, name) in [(false, best), (true, "Last")] {
                if ui.selectable_label(panel.view.sweep.last == is_last, name).on_hover_text("Which of its values counts").clicked() {
                    panel.view.sweep.last = is_last;
                }
            }
        }
        if !field.offered.is_empty() {
            let button = ui.button("Axes");
            Popup::menu(&button).close_behavior(PopupCloseBehavior::CloseOnClickOutside).show(|ui| chooser(ui, panel, field));
        }
        let active = field.lines.iter().filter(|line| field.is_active(line, &panel.session.sweep.brushes)).count();
        let text = if active == field.lines.len() { super::runs_text(active) } else { format!("{active} of {} runs", field.lines.len()) };
        if listed > 1 {
            ui.label(RichText::new(text).small().color(palette.dim)).on_hover_text("The filter of the runs decides which are here");
        }
        if !panel.session.sweep.brushes.is_empty() && ui.button("Clear brushes").clicked() {
            panel.session.sweep.brushes.clear();
        }
    });
}

fn chooser(ui: &mut Ui, panel: &mut Panel, field: &Field) {
    ui.set_width(240.0);
    let shown: Vec<String> = field.axes.iter().map(|(key, _)| key.clone()).collect();
    ScrollArea::vertical().max_height(360.0).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        for key in &field.offered {
            let mut is_shown = shown.contains(key);
            if ui.checkbox(&mut is_shown, key).accessible_name(format!("Show axis {key}")).changed() {
                let mut axes = shown.clone();
                axes.retain(|known| known != key);
                if is_shown {
                    axes.push(key.clone());
                }
                panel.session.sweep.brushes.remove(key);
                panel.view.sweep.axes = Some(axes);
            }
        }
    });
    if panel.view.sweep.axes.is_some() && ui.button("Axes as at first").clicked() {
        panel.view.sweep.axes = None;
    }
}

fn empty(ui: &mut Ui, panel: &mut Panel, field: &Field, listed: usize, palette: &Palette) {
    ui.add_space(theme::GAP);
    let (title, text) = if panel.snapshot.runs.len() < 2 {
        (
            "Nothing to compare yet",
            "Two runs or more that differ in a setting stand here as lines from their settings to their result. A sweep makes them:",
        )
    } else if listed < 2 {
        ("The filter leaves too few runs", "Clear it in the list on the left, or type less. A sweep makes more runs to compare:")
    } else if field.offered.is_empty() {
        (
            "The settings of these runs are the same",
            "Runs that differ in a setting stand here as lines from their settings to their result. A sweep makes them:",
        )
    } else {
        ("No axis is chosen", "Choose settings under Axes above. A sweep makes more runs to compare:")
    };
    ui.label(RichText::new(title).size(15.0));
    ui.add_space(4.0);
    ui.add(egui::Label::new(RichText::new(text).color(palette.dim)).wrap());
    let command = "solstice sweep lr.ron --workers 2";
    ui.add(egui::Label::new(RichText::new(command).monospace()).wrap());
    if ui.button("Copy command").clicked() {
        ui.ctx().copy_text(command.into());
    }
}

/// Where the lines are on screen.
struct Plot {
    top: f32,
    bottom: f32,
    xs: Vec<f32>,
}

impl Plot {
    fn y(&self, place: f64) -> f32 {
        self.bottom + place as f32 * (self.top - self.bottom)
    }

    fn place(&self, y: f32) -> f64 {
        f64::from((y - self.bottom) / (self.top - self.bottom)).clamp(NOWHERE - 0.02, 1.0)
    }

    fn points(&self, line: &Line) -> Vec<Pos2> {
        self.xs.iter().zip(&line.places).map(|(x, place)| pos2(*x, self.y(*place))).collect()
    }
}

fn coordinates(ui: &mut Ui, panel: &mut Panel, field: &Arc<Field>, rect: Rect, hovered: &mut Option<String>, palette: &Palette) {
    let response = ui.allocate_rect(rect, Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, format!("Settings against {}", field.metric)));
    let count = field.axes.len() + 1;
    let has_nowhere = field.lines.iter().any(|line| line.places.contains(&NOWHERE));
    let (left, right) = (rect.left() + 26.0, rect.right() - 56.0);
    let xs = (0..count).map(|index| left + (right - left) * index as f32 / (count - 1).max(1) as f32).collect();
    let plot = Plot { top: rect.top() + 34.0, bottom: rect.bottom() - if has_nowhere { 34.0 } else { 12.0 }, xs };
    let spacing = (right - left) / (count - 1).max(1) as f32;

    let mut clicked = response.clicked();
    let mut double_clicked = false;
    for (index, x) in plot.xs.clone().into_iter().enumerate() {
        let (key, title) = match field.axes.get(index) {
            Some((key, _)) => (key.as_str(), key.clone()),
            None => (RESULT, field.metric.clone()),
        };
        let axis = Rect::from_min_max(pos2(x - 11.0, plot.top - 6.0), pos2(x + 11.0, rect.bottom()));
        let axis =
            ui.interact(axis, ui.scope_id().with(("axis", key)), Sense::click_and_drag()).on_hover_cursor(CursorIcon::ResizeVertical);
        axis.widget_info(|| {
            let mut info = WidgetInfo::labeled(Role::Slider, true, format!("Axis {title}"));
            info.current_text_value = Some(axis_text(field, index, panel.session.sweep.brushes.get(key)));
            info
        });
        if axis.dragged()
            && let (Some(from), Some(to)) = (ui.input(|input| input.pointer.press_origin()), axis.interact_pointer_pos())
        {
            let (from, to) = (plot.place(from.y), plot.place(to.y));
            panel.session.sweep.brushes.insert(key.to_owned(), (from.min(to), from.max(to)));
        }
        if axis.double_clicked() {
            panel.session.sweep.brushes.remove(key);
            double_clicked = true;
        }
        clicked |= axis.clicked();
        if axis.gained_focus() || axis.clicked() {
            touch(panel, key);
        }
        if axis.has_focus() {
            brush_by_keys(ui, panel, field, index, key, axis.id);
            let ring = Rect::from_min_max(pos2(x - 11.0, plot.top - 6.0), pos2(x + 11.0, rect.bottom()));
            ui.painter_at(rect).rect_stroke(ring, 4.0, Stroke::new(1.0, palette.accent), egui::StrokeKind::Inside);
        }
    }

    // The line under the mouse, but not while a brush is drawn.
    let is_idle = !ui.input(|input| input.pointer.any_down());
    let pointer = ui.input(|input| input.pointer.hover_pos()).filter(|pos| rect.contains(*pos) && pos.y > plot.top - 8.0);
    let pointer = pointer.filter(|_| ui.rect_contains_pointer(rect));
    if let Some(pointer) = pointer.filter(|_| is_idle || clicked) {
        let near = field
            .lines
            .iter()
            .filter(|line| field.is_active(line, &panel.session.sweep.brushes))
            .map(|line| (distance(&plot.points(line), pointer), line))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(distance, _)| *distance <= REACH);
        if let Some((_, line)) = near {
            *hovered = Some(line.facts.id().to_owned());
            if clicked && !double_clicked {
                panel.view.select(line.facts.id());
                panel.session.table.scroll_to = Some(line.facts.id().to_owned());
            }
            response.on_hover_ui_at_pointer(|ui| tooltip(ui, field, line, palette));
        }
    }

    let painter = ui.painter_at(rect);
    let lit = hovered.clone().or(panel.session.sweep.hovered.clone());
    let is_lit = |line: &Line| lit.as_deref() == Some(line.facts.id());
    let is_selected = |line: &Line| panel.view.selected.as_deref() == Some(line.facts.id());
    let mut drawn: Vec<(u8, &Line)> = field
        .lines
        .iter()
        .rev()
        .map(|line| match () {
            () if !field.is_active(line, &panel.session.sweep.brushes) => (0, line),
            () if is_lit(line) => (3, line),
            () if is_selected(line) => (2, line),
            () => (1, line),
        })
        .collect();
    // The worst first, so that the best lie on top.
    drawn.sort_by_key(|(level, _)| *level);
    let many = field.lines.len() > 60;
    for (level, line) in drawn {
        let color = field.quality(line).map_or(palette.dim, |quality| palette.ramp(quality));
        let stroke = match level {
            0 => Stroke::new(1.0, palette.line),
            1 if lit.is_some() => Stroke::new(1.2, color.gamma_multiply(0.35)),
            1 => Stroke::new(if many { 1.1 } else { 1.7 }, color),
            2 => Stroke::new(2.6, color),
            _ => Stroke::new(3.2, color),
        };
        let points = plot.points(line);
        if level >= 2 {
            points.iter().for_each(|point| {
                painter.circle_filled(*point, if level == 3 { 4.0 } else { 3.2 }, color);
            });
        }
        painter.add(Shape::line(points, stroke));
    }
    for index in 0..count {
        let x = plot.xs[index];
        draw_axis(&painter, panel, field, index, &plot, palette);
        title(
            ui,
            panel,
            field,
            index,
            Rect::from_center_size(pos2(x, rect.top() + 11.0), vec2(spacing.min(170.0) - 6.0, 20.0)),
            rect,
            &plot,
            palette,
        );
    }
    if has_nowhere {
        painter.text(pos2(rect.left(), plot.y(NOWHERE)), Align2::LEFT_CENTER, "none", FontId::proportional(10.5), palette.dim);
    }
}

// The commands move this axis from now on.
fn touch(panel: &mut Panel, key: &str) {
    panel.session.sweep.axis = Some(key.to_owned());
    panel.session.table.column = None;
}

// The keyboard on an axis: Up and Down move the lower end of its brush, with Shift the upper end, from one gap between values to the next.
fn brush_by_keys(ui: &Ui, panel: &mut Panel, field: &Field, index: usize, key: &str, id: egui::Id) {
    ui.memory_mut(|memory| memory.set_focus_lock_filter(id, EventFilter { vertical_arrows: true, ..EventFilter::default() }));
    let (lower, upper, is_cleared) = ui.input_mut(|input| {
        let mut pressed = |modifiers, key| i32::from(input.consume_key(modifiers, key));
        // With Shift first: without it the key alone would count.
        let upper = pressed(Modifiers::SHIFT, Key::ArrowUp) - pressed(Modifiers::SHIFT, Key::ArrowDown);
        let lower = pressed(Modifiers::NONE, Key::ArrowUp) - pressed(Modifiers::NONE, Key::ArrowDown);
        let is_cleared = pressed(Modifiers::NONE, Key::Backspace) > 0;
        let asked = |action| input.num_accesskit_action_requests(id, action) as i32;
        (lower + asked(accesskit::Action::Increment) - asked(accesskit::Action::Decrement), upper, is_cleared)
    });
    let brushes = &mut panel.session.sweep.brushes;
    if is_cleared {
        brushes.remove(key);
    }
    if lower == 0 && upper == 0 {
        return;
    }
    let gaps = field.gaps(index);
    let (first, last) = (gaps[0], gaps[gaps.len() - 1]);
    let (low, high) = brushes.get(key).copied().unwrap_or((first, last));
    let beside = |from: f64, by: i32| match by {
        0 => from,
        1.. => gaps.iter().copied().find(|gap| *gap > from + 1e-9).unwrap_or(last),
        _ => gaps.iter().copied().rev().find(|gap| *gap < from - 1e-9).unwrap_or(first),
    };
    let (low, high) = (beside(low, lower), beside(high, upper));
    if low <= first && high >= last {
        brushes.remove(key);
    } else if low < high {
        brushes.insert(key.to_owned(), (low, high));
    }
    ui.ctx().request_repaint();
}

// What a screen reader says of an axis.
fn axis_text(field: &Field, index: usize, brush: Option<&(f64, f64)>) -> String {
    let range = match layout(field, index) {
        Layout::Words(words) => words.join(", "),
        Layout::Numbers { scale, low, high } => {
            let log = if *scale == super::axis::Scale::Log { ", logarithmic" } else { "" };
            format!("{} to {}{log}", short(*low), short(*high))
        }
    };
    match brush {
        Some((low, high)) => match layout(field, index) {
            Layout::Words(words) => {
                let chosen = |word: &&String| layout(field, index).place(word).is_some_and(|place| (*low..=*high).contains(&place));
                let chosen: Vec<&str> = words.iter().filter(chosen).map(String::as_str).collect();
                format!("{range}; brushed: {}", if chosen.is_empty() { "none".into() } else { chosen.join(", ") })
            }
            Layout::Numbers { .. } => {
                let value = |place: f64| short(layout(field, index).value_at(place).unwrap_or_default());
                format!("{range}; brushed from {} to {}", value(*low), value(*high))
            }
        },
        None => range,
    }
}

fn layout(field: &Field, index: usize) -> &Layout {
    field.axes.get(index).map_or(&field.result, |(_, layout)| layout)
}

fn draw_axis(painter: &egui::Painter, panel: &Panel, field: &Field, index: usize, plot: &Plot, palette: &Palette) {
    let x = plot.xs[index];
    let key = field.axes.get(index).map_or(RESULT, |(key, _)| key.as_str());
    if index == field.axes.len() {
        // The result's axis is the legend of the colours.
        for part in 0..48 {
            let (low, high) = (f64::from(part) / 48.0, f64::from(part + 1) / 48.0);
            let middle = (low + high) / 2.0;
            let color = palette.ramp(if field.is_greatest_best { middle } else { 1.0 - middle });
            painter.rect_filled(Rect::from_min_max(pos2(x - 3.0, plot.y(high)), pos2(x + 3.0, plot.y(low) + 0.5)), 0.0, color);
        }
    } else {
        painter.vline(x, plot.top..=plot.bottom, Stroke::new(1.5, palette.dim));
    }
    // Marks, with a ground of their own so that they can be read over lines.
    let mark = |place: f64, text: &str| {
        let y = plot.y(place);
        let galley = painter.layout_no_wrap(clipped(text, 14), FontId::proportional(10.5), palette.text);
        let ground = Rect::from_min_size(pos2(x + 7.0, y - galley.size().y / 2.0), galley.size()).expand2(vec2(2.0, 0.0));
        painter.hline(x - 3.0..=x + 4.0, y, Stroke::new(1.0, palette.dim));
        painter.rect_filled(ground, 3.0, palette.panel.gamma_multiply(0.82));
        painter.galley(ground.min + vec2(2.0, 0.0), galley, palette.text);
    };
    match layout(field, index) {
        Layout::Words(words) => {
            let stride = words.len().div_ceil(14).max(1);
            words.iter().step_by(stride).for_each(|word| mark(layout(field, index).place(word).unwrap_or(0.5), word));
        }
        Layout::Numbers { low, high, .. } if low == high => mark(0.5, &short(*low)),
        Layout::Numbers { scale, low, high } => {
            let distinct = distinct(field, index);
            if distinct.len() <= 7 && key != RESULT {
                // Neighbours that would cover each other are left out.
                let mut last = f32::INFINITY;
                for value in distinct {
                    let place = layout(field, index).place_of(value).unwrap_or(0.5);
                    if last - plot.y(place) >= 13.0 {
                        last = plot.y(place);
                        mark(place, &short(value));
                    }
                }
            } else {
                let axis = Axis { scale: *scale, low: *low, high: *high, start: plot.bottom, end: plot.top };
                for tick in axis.ticks(5) {
                    mark(layout(field, index).place_of(tick).unwrap_or(0.5), &axis.tick_text(tick, 5));
                }
            }
        }
    }
    if let Some((low, high)) = panel.session.sweep.brushes.get(key) {
        let band = Rect::from_min_max(pos2(x - 8.0, plot.y(*high)), pos2(x + 8.0, plot.y(*low)));
        painter.rect(band, 3.0, palette.accent.gamma_multiply(0.28), Stroke::new(1.2, palette.accent), egui::StrokeKind::Inside);
    }
}

fn distinct(field: &Field, index: usize) -> Vec<f64> {
    let Some((key, _)) = field.axes.get(index) else { return Vec::new() };
    let mut values: Vec<f64> = field.lines.iter().filter_map(|line| line.facts.settings.get(key)?.parse().ok()).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

fn clipped(text: &str, count_max: usize) -> String {
    if text.chars().count() <= count_max { text.to_owned() } else { text.chars().take(count_max - 1).chain(['…']).collect() }
}

// The name over an axis: drag it to another place; its menu hides the axis.
fn title(ui: &mut Ui, panel: &mut Panel, field: &Arc<Field>, index: usize, rect: Rect, all: Rect, plot: &Plot, palette: &Palette) {
    let Some((key, _)) = field.axes.get(index) else {
        let painter = ui.painter_at(all);
        let galley = painter.layout_no_wrap(field.metric.clone(), FontId::proportional(12.0), palette.accent);
        let left = (rect.center().x - galley.size().x / 2.0).min(all.right() - galley.size().x - 2.0);
        painter.galley(pos2(left, rect.center().y - galley.size().y / 2.0), galley, palette.accent);
        return;
    };
    let response = ui.interact(rect, ui.scope_id().with(("move", key)), Sense::click_and_drag()).on_hover_and_drag_cursor(CursorIcon::Grab);
    super::table::named(&response, format!("Move axis {key}"));
    if response.dragged()
        && let Some(pointer) = response.interact_pointer_pos()
    {
        let last = field.axes.len() - 1;
        let nearest =
            (0..=last).min_by(|a, b| (plot.xs[*a] - pointer.x).abs().total_cmp(&(plot.xs[*b] - pointer.x).abs())).unwrap_or(index);
        if nearest != index {
            panel.view.sweep.axes = Some(moved(field, index, nearest));
        }
    }
    if response.gained_focus() || response.clicked() {
        touch(panel, key);
    }
    response.context_menu(|ui| {
        if ui.button("Hide this axis").clicked() {
            panel.view.sweep.axes = Some(field.axes.iter().map(|(key, _)| key.clone()).filter(|known| known != key).collect());
            panel.session.sweep.brushes.remove(key);
        }
        if ui.button("Clear the brush").clicked() {
            panel.session.sweep.brushes.remove(key);
        }
    });
    let is_lit = response.hovered() || response.dragged() || response.has_focus();
    let color = if is_lit { palette.accent } else { palette.text };
    let fits = |text: &str| ui.painter().layout_no_wrap(text.to_owned(), FontId::proportional(12.0), color).size().x;
    // The last part of the key tells it from its neighbours, mostly.
    let text = if fits(key) <= rect.width() { key.as_str() } else { key.rsplit('.').next().unwrap_or(key) };
    let width = fits(text).min(rect.width());
    let left = (rect.center().x - width / 2.0).max(all.left());
    elided(ui, &ui.painter_at(all), pos2(left, rect.center().y), rect.width().max(40.0), text, 12.0, color);
    response.on_hover_text(format!(
        "{key}\nDrag, or Ctrl+Left and Right: another place; drag on the axis: choose a range; double click on it: all again"
    ));
}

fn tooltip(ui: &mut Ui, field: &Field, line: &Line, palette: &Palette) {
    ui.label(RichText::new(&line.facts.name).size(13.5));
    egui::Grid::new("values").num_columns(2).spacing([12.0, 2.0]).show(ui, |ui| {
        let result = line.result.map_or_else(|| "none yet".into(), short);
        ui.label(RichText::new(&field.metric).color(palette.accent));
        ui.label(RichText::new(result).monospace());
        ui.end_row();
        for (key, _) in &field.axes {
            ui.label(RichText::new(key).color(palette.dim));
            ui.label(RichText::new(line.facts.settings.get(key).map_or("none", String::as_str)).monospace());
            ui.end_row();
        }
    });
}

// From a point to a chain of lines.
fn distance(points: &[Pos2], pointer: Pos2) -> f32 {
    let to_segment = |pair: &[Pos2]| {
        let (from, along) = (pair[0], pair[1] - pair[0]);
        let part = if along.length_sq() > 0.0 { ((pointer - from).dot(along) / along.length_sq()).clamp(0.0, 1.0) } else { 0.0 };
        (from + part * along).distance(pointer)
    };
    points.windows(2).map(to_segment).fold(f32::INFINITY, f32::min)
}

fn ranking(ui: &mut Ui, panel: &mut Panel, field: &Field, hovered: &mut Option<String>, palette: &Palette) {
    let of = if panel.view.sweep.last {
        "last"
    } else if field.is_greatest_best {
        "greatest"
    } else {
        "least"
    };
    ui.label(RichText::new("Best runs").color(palette.accent)).on_hover_text(format!("By the {of} {}", field.metric));
    let active: Vec<&Line> =
        field.lines.iter().filter(|line| line.result.is_some() && field.is_active(line, &panel.session.sweep.brushes)).collect();
    if active.is_empty() {
        ui.add(egui::Label::new(RichText::new(format!("No run here has logged {}", field.metric)).color(palette.dim)).wrap());
        return;
    }
    ui.spacing_mut().item_spacing.y = 0.0;
    ScrollArea::vertical().id_salt("best runs").auto_shrink(false).show_rows(ui, 22.0, active.len(), |ui, range| {
        for index in range {
            let line = active[index];
            let id = line.facts.id();
            let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 22.0), Sense::click());
            let value = line.result.map(short).unwrap_or_default();
            let is_selected = panel.view.is_selected(id);
            response.widget_info(|| {
                let mut info = WidgetInfo::selected(Role::Button, true, is_selected, format!("Rank {} {}", index + 1, line.facts.name));
                info.current_text_value = Some(value.clone());
                info
            });
            let painter = ui.painter_at(rect);
            if is_selected || response.hovered() || panel.session.sweep.hovered.as_deref() == Some(id) {
                painter.rect_filled(rect, 4.0, palette.raised.gamma_multiply(if is_selected { 1.0 } else { 0.6 }));
            }
            let y = rect.center().y;
            painter.text(pos2(rect.left() + 22.0, y), Align2::RIGHT_CENTER, (index + 1).to_string(), FontId::monospace(11.0), palette.dim);
            let color = field.quality(line).map_or(palette.dim, |quality| palette.ramp(quality));
            painter.rect_filled(Rect::from_center_size(pos2(rect.left() + 33.0, y), vec2(8.0, 8.0)), 2.0, color);
            let number = painter.text(pos2(rect.right() - 6.0, y), Align2::RIGHT_CENTER, &value, FontId::monospace(12.0), palette.text);
            elided(ui, &painter, pos2(rect.left() + 44.0, y), number.left() - rect.left() - 52.0, &line.facts.name, 12.5, palette.text);
            if response.hovered() {
                *hovered = Some(id.to_owned());
            }
            if response.clicked() {
                panel.view.select(id);
            }
            if response.hovered() {
                response.on_hover_ui_at_pointer(|ui| tooltip(ui, field, line, palette));
            }
        }
    });
}

fn correlations(ui: &mut Ui, panel: &mut Panel, field: &Field, palette: &Palette) {
    ui.label(RichText::new("Rank correlation").color(palette.accent)).on_hover_text(format!(
        "Spearman's rank correlation of each setting with {}, over the runs that are not faded: 1 where the one always grows with the other, -1 \
         where it always falls. It says nothing of causes, and little of few runs",
        field.metric
    ));
    let active: Vec<&Line> = field.lines.iter().filter(|line| field.is_active(line, &panel.session.sweep.brushes)).collect();
    ui.spacing_mut().item_spacing.y = 0.0;
    ScrollArea::vertical().id_salt("correlations").auto_shrink(false).show(ui, |ui| {
        for (key, layout) in &field.axes {
            let pairs: Vec<(f64, f64)> =
                active.iter().filter_map(|line| Some((number_of(line.facts.settings.get(key)?)?, line.result?))).collect();
            let has_order = matches!(layout, Layout::Numbers { .. }) || !pairs.is_empty();
            let found = if has_order { spearman(&pairs) } else { None };
            let text = match found {
                Some(found) => format!("{found:.2}"),
                None if !has_order => "words".into(),
                None => "-".into(),
            };
            let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 22.0), Sense::hover());
            response.widget_info(|| {
                let mut info = WidgetInfo::labeled(Role::Meter, true, format!("Rank correlation of {key}"));
                info.current_text_value = Some(format!("{text} over {} runs", pairs.len()));
                info
            });
            correlation_row(ui, rect, key, found, &text, palette);
            let why = match found {
                Some(_) => format!("{key}: {text} over {} runs", pairs.len()),
                None if !has_order => format!("{key}: words have no order"),
                None => format!("{key}: three runs or more with different values are needed"),
            };
            response.on_hover_text(why);
        }
        if !is_result(&field.metric) {
            ui.add_space(4.0);
            ui.add(
                egui::Label::new(RichText::new(format!("{} tells little of how a run does", field.metric)).small().color(palette.dim))
                    .wrap(),
            );
        }
    });
}

// The key, a bar to the left or right of zero, and the number.
fn correlation_row(ui: &Ui, rect: Rect, key: &str, found: Option<f64>, text: &str, palette: &Palette) {
    let painter = ui.painter_at(rect);
    let y = rect.center().y;
    let number_left = rect.right() - 46.0;
    let bar = Rect::from_min_max(pos2(number_left - (rect.width() * 0.32).min(110.0), y - 4.0), pos2(number_left, y + 4.0));
    elided(ui, &painter, pos2(rect.left() + 2.0, y), bar.left() - rect.left() - 10.0, key, 12.5, palette.text);
    let color: Color32 = if found.is_some() { palette.text } else { palette.dim };
    painter.text(pos2(rect.right() - 4.0, y), Align2::RIGHT_CENTER, text, FontId::monospace(11.5), color);
    painter.rect_filled(bar, 2.0, palette.raised);
    if let Some(found) = found {
        let end = bar.center().x + found as f32 * bar.width() / 2.0;
        let filled = Rect::from_min_max(pos2(end.min(bar.center().x), bar.top()), pos2(end.max(bar.center().x), bar.bottom()));
        painter.rect_filled(filled, 1.0, palette.series[0]);
    }
    painter.vline(bar.center().x, bar.y_range().expand(2.0), Stroke::new(1.0, palette.dim));
}
