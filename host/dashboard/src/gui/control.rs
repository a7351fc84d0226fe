//! Steering the selected run: pause, step, evaluate, save, stop, live values; and what became of each command.
//!
//! A command is a row in the run's store. The window never waits for an answer: the row's state comes back with the next snapshot.

use super::axis::{duration, short};
use super::commands::Action;
use super::runs::progress_text;
use super::theme::{self, Palette};
use super::{Panel, is_over, run_name, state};
use crate::data::{LABEL, Run, SentState};
use eframe::egui::{self, Button, Key, RichText, ScrollArea, Sense, Ui, vec2};
use serde_json::{Value, json};
use solstice_store::{Command, CommandState, RunState, now};
use std::collections::BTreeMap;
use std::time::Duration;

/// Settings of the trainer that a run of an older version takes while it goes on.
const LIVE_TRAINER: [&str; 5] = ["budget", "log_every", "evaluate_every", "checkpoint_every", "clip"];

/// Width of a field for a live value.
const FIELD_WIDTH: f32 = 76.0;
/// Most of what the name before it may take, so that the two stay together in a wide window.
const LABEL_WIDTH_MAX: f32 = 220.0;
/// Room that a live value's name has beside its slider.
const NAME_WIDTH_MIN: f32 = 104.0;
/// Room for the words after the number of steps and for the button behind them.
const STEP_WORDS_WIDTH: f32 = 186.0;
/// Width of the slider beside it.
const SLIDER_WIDTH: f32 = 84.0;
/// A command without an answer is explained after this.
const LATE_SECS: f64 = 5.0;

/// What is typed or asked but not sent yet.
#[derive(Debug, Default)]
pub struct ControlState {
    /// The run that was asked to confirm its stop.
    pub asks_stop: Option<String>,
    /// How many steps `Step` does.
    pub steps: u64,
    /// Texts of fields being edited, by run and key.
    edits: BTreeMap<(String, String), String>,
    /// The slider that is being moved, by run and key, and where it is.
    sliding: Option<((String, String), f64)>,
    /// Values that were sent and are not answered, by run and key, with the time.
    waiting: BTreeMap<(String, String), (Value, f64)>,
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(run) = panel.selected() else {
        ui.label(RichText::new("Select a run on the left to steer it").color(palette.dim));
        return;
    };
    head(ui, panel, &run, palette);
    ScrollArea::vertical().id_salt("control").auto_shrink(false).show(ui, |ui| {
        if run.info.is_none() {
            let text = if run.problem.is_some() { "It is tried again by itself" } else { "It is being read" };
            ui.label(RichText::new(text).color(palette.dim));
        } else if is_over(&run) {
            ended(ui, panel, &run, palette);
        } else {
            buttons(ui, panel, &run, palette);
            live_values(ui, panel, &run, palette);
        }
        commands(ui, panel, &run, palette);
    });
}

fn head(ui: &mut Ui, panel: &Panel, run: &Run, palette: &Palette) {
    ui.horizontal(|ui| {
        let (dot, _) = ui.allocate_exact_size(vec2(12.0, theme::ROW_HEIGHT), Sense::hover());
        ui.painter().circle_filled(dot.center(), 5.0, palette.run(panel.view.color_slot(&run.id)));
        // The state first, from the right: a long name must not push it out.
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            if let Some(info) = &run.info {
                let color = palette.state(info.state);
                ui.label(RichText::new(info.state.name()).color(color));
                let (mark, _) = ui.allocate_exact_size(vec2(12.0, theme::ROW_HEIGHT), Sense::hover());
                theme::state_mark(ui.painter(), mark.center(), info.state, color);
            }
            ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
                ui.add(egui::Label::new(RichText::new(run_name(run)).size(15.0)).truncate());
            });
        });
    });
    if let Some(problem) = &run.problem {
        ui.label(RichText::new(problem).color(palette.error));
    }
    let Some(info) = &run.info else { return };
    if let Some(part) = run.progress() {
        let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 4.0), Sense::hover());
        ui.painter().rect_filled(rect, 2.0, palette.line);
        ui.painter().rect_filled(
            egui::Rect::from_min_size(rect.min, vec2(rect.width() * part as f32, 4.0)),
            2.0,
            palette.state(info.state),
        );
    }
    let total = info.steps_total.map_or(String::new(), |total| format!(" of {}", short(total as f64)));
    let progress = if is_over(run) || run.progress().is_none() { String::new() } else { format!(", {}", progress_text(run)) };
    let text = format!("step {}{total}{progress}; trained {}", info.at.step, duration(info.train_secs));
    ui.label(RichText::new(text).small().color(palette.dim));
    if let Some(reason) = info.state_reason.as_ref().filter(|reason| !reason.is_empty()) {
        let color = if info.state == RunState::Failed { palette.error } else { palette.dim };
        ui.label(RichText::new(reason).small().color(color));
    }
    ui.add_space(4.0);
}

// A run that no process works on: go on with it, or begin another from one of its points.
fn ended(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let text = match state(run) {
        RunState::Lost => "Its process is gone without a word. It can go on from its last checkpoint.",
        RunState::Done => "This run has reached its budget. Resume it with a larger one to train on.",
        _ => "This run has ended. It can go on from its last checkpoint.",
    };
    ui.label(RichText::new(text).color(palette.dim));
    ui.horizontal_wrapped(|ui| {
        let resume = Button::new(RichText::new("Resume").color(palette.on_accent)).fill(palette.accent).min_size(vec2(68.0, 0.0));
        let resume = ui.add_enabled(panel.host.is_some(), resume).on_hover_text("Start a process that goes on with this run");
        if resume.on_disabled_hover_text("This window has no solstice program to start it with: copy the command").clicked() {
            super::launch::resume(panel, run);
        }
        if ui.button("Fork…").on_hover_text(Action::Fork.hint()).clicked() {
            panel.actions.push(Action::Fork);
        }
    });
    ui.add_space(4.0);
    let command = format!("solstice resume {}", super::detail::shell_word(&run.path.display().to_string()));
    copyable(ui, &command, "Copy resume command");
}

// Why the run cannot take a rebuilt plugin in; none where it can.
fn no_reload_reason(run: &Run) -> Option<&'static str> {
    let told = run.events.iter().rev().find(|event| event.kind == "live").and_then(|event| event.new.as_ref());
    match told.map(|told| told["reloads"].as_bool().unwrap_or(false)) {
        Some(true) => None,
        Some(false) => Some(
            "Nothing beside this run can start a new worker for it (a trial of a sweep has none): stop it, and resume it with the rebuilt plugin",
        ),
        None => Some(
            "This run was started by an older version, which reloads only with --watch: stop it, and resume it with the rebuilt plugin",
        ),
    }
}

fn buttons(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let id = &run.id;
    ui.horizontal_wrapped(|ui| {
        let is_paused = state(run) == RunState::Paused;
        let mut act = |ui: &mut Ui, action: Action, button: Button| {
            if ui.add(button).on_hover_text(action.hint()).clicked() {
                panel.actions.push(action);
            }
        };
        let text = if is_paused { "Resume" } else { "Pause" };
        act(
            ui,
            Action::PauseResume,
            Button::new(RichText::new(text).color(palette.on_accent)).fill(palette.accent).min_size(vec2(68.0, 0.0)),
        );
        act(ui, Action::Evaluate, Button::new("Evaluate"));
        act(ui, Action::Checkpoint, Button::new("Checkpoint"));
        if panel.session.control.asks_stop.as_deref() != Some(id) {
            act(ui, Action::Stop, Button::new(RichText::new("Stop…").color(palette.error)));
        }
    });
    ui.horizontal(|ui| {
        if ui.add(Button::new("Step").min_size(vec2(68.0, 0.0))).on_hover_text(Action::Step.hint()).clicked() {
            panel.actions.push(Action::Step);
        }
        let steps = egui::DragValue::new(&mut panel.session.control.steps).range(1..=1_000_000).speed(0.2);
        ui.add(steps).accessible_name("Steps at a time");
        let word = if panel.session.control.steps == 1 { "step, then wait" } else { "steps, then wait" };
        if ui.available_width() > STEP_WORDS_WIDTH {
            ui.label(RichText::new(word).color(palette.dim));
        }
        let no_reload = no_reload_reason(run);
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let reload = ui.add_enabled(no_reload.is_none(), Button::new("Reload"));
            let reload = reload
                .on_hover_text("Load the plugins' files again, as they are built now, and go on from the same step. It builds nothing");
            if reload.on_disabled_hover_text(no_reload.unwrap_or_default()).clicked() {
                panel.send(id, "reload", json!({}));
            }
        });
    });
    if panel.session.control.asks_stop.as_deref() == Some(id) {
        ui.horizontal_wrapped(|ui| {
            ui.label("Stop this run? It saves first and can be resumed.");
            if ui.add(Button::new(RichText::new("Stop now").color(palette.error)).stroke(egui::Stroke::new(1.0, palette.error))).clicked() {
                panel.send(id, "stop", json!({}));
                panel.session.control.asks_stop = None;
            }
            if ui.button("Keep going").clicked() {
                panel.session.control.asks_stop = None;
            }
        });
    }
}

/// A value that the run takes while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveField {
    /// `optimizer.lr`, `trainer.budget`.
    pub key: String,
    /// As it is now.
    pub value: Value,
    /// As it was when the run began, or went on.
    pub first: Value,
    /// Least value that the run takes, where it says so.
    pub minimum: Option<f64>,
    /// Greatest value that the run takes, where it says so.
    pub maximum: Option<f64>,
    /// What it is.
    pub doc: String,
}

impl LiveField {
    /// The range of its slider and whether that is logarithmic; none where the range is not known. A value that is above zero and has no upper bound,
    /// such as a learning rate, slides from a hundredth to a hundredfold of what it was at first.
    pub fn slider(&self) -> Option<(f64, f64, bool)> {
        let first = self.first.as_f64().filter(|first| first.is_finite() && !self.first.is_u64() && !self.first.is_i64())?;
        let (low, high, is_log) = match (self.minimum, self.maximum) {
            (low, None) if first > 0.0 => ((first / 100.0).max(low.unwrap_or(0.0)), first * 100.0, true),
            (Some(low), Some(high)) => (low, high, low > 0.0 && high / low > 1e3),
            _ => return None,
        };
        (low < high && (high - low).is_finite()).then_some((low, high, is_log))
    }
}

/// The values that a run takes while it goes on, as it said when it began, with what they are now.
pub fn live_fields(run: &Run) -> Vec<LiveField> {
    let told = run.events.iter().rposition(|event| event.kind == "live");
    let mut fields = match told.and_then(|index| run.events[index].new.as_ref()) {
        Some(new) => new["settings"].as_array().into_iter().flatten().filter_map(told_field).collect(),
        None => fields_of_recipe(run),
    };
    let mut changes: Vec<(f64, &str, &Value)> = Vec::new();
    let start = told.map_or(f64::NEG_INFINITY, |index| run.events[index].time);
    for command in run.commands.iter().filter(|command| command.kind == "set" && command.state == CommandState::Done) {
        let time = command.answered_time.unwrap_or(command.time);
        if let (Some(key), Some(value), true) = (command.args["key"].as_str(), command.args.get("value"), time >= start) {
            changes.push((time, key, value));
        }
    }
    let at = run.info.as_ref().map_or(0, |info| info.at.step);
    for (index, event) in run.events.iter().enumerate().filter(|(_, event)| event.kind == "set") {
        // A run that goes on from a checkpoint makes later changes again, at their steps; those of one that went back by hand are forgotten.
        let counts = told.is_none_or(|told| {
            let is_again = || event.step >= run.events[told].step && event.step <= at;
            index > told || (is_again() && !run.events[index..told].iter().any(|event| event.kind == "rewind"))
        });
        if let (Some(new), Some((key, _)), true) = (&event.new, event.message.split_once(':'), counts) {
            changes.push((event.time, key, new));
        }
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, key, value) in changes {
        if let Some(field) = fields.iter_mut().find(|field| field.key == key) {
            field.value = value.clone();
        }
    }
    fields
}

fn told_field(told: &Value) -> Option<LiveField> {
    Some(LiveField {
        key: told["key"].as_str()?.to_owned(),
        value: told["value"].clone(),
        first: told["value"].clone(),
        minimum: told["minimum"].as_f64(),
        maximum: told["maximum"].as_f64(),
        doc: told["doc"].as_str().unwrap_or_default().to_owned(),
    })
}

// A run of an older version does not say what it takes: numbers of its optimizer and settings of its loop can be tried, and it answers.
fn fields_of_recipe(run: &Run) -> Vec<LiveField> {
    let Some(config) = run.info.as_ref().map(|info| &info.config) else { return Vec::new() };
    let field = |key: String, value: &Value| {
        let minimum = value.is_number().then_some(0.0);
        LiveField { key, value: value.clone(), first: value.clone(), minimum, maximum: None, doc: String::new() }
    };
    let optimizer = config.pointer("/components/optimizer/config").and_then(Value::as_object).into_iter().flatten();
    let optimizer = optimizer.filter(|(_, value)| value.is_number()).map(|(key, value)| field(format!("optimizer.{key}"), value));
    let trainer = LIVE_TRAINER.iter().filter_map(|key| {
        let value = config.get("trainer")?.get(key).filter(|value| value.is_number() || value.is_string())?;
        Some(field(format!("trainer.{key}"), value))
    });
    optimizer.chain(trainer).collect()
}

fn live_values(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let fields = live_fields(run);
    if fields.is_empty() {
        return;
    }
    section(ui, "Live values", palette)
        .on_hover_text("Changed between two steps, without a restart. Enter sends what is typed; a slider sends when it is let go");
    for field in fields {
        live_value(ui, panel, run, &field, palette);
    }
}

fn live_value(ui: &mut Ui, panel: &mut Panel, run: &Run, field: &LiveField, palette: &Palette) {
    let slot = (run.id.clone(), field.key.clone());
    let waiting = waiting_value(panel, run, field, &slot);
    let shown = waiting.clone().unwrap_or_else(|| field.value.clone());
    let present = text_of(&shown);
    let mut text = panel.session.control.edits.get(&slot).cloned().unwrap_or_else(|| present.clone());
    let typed = parsed(&text, &field.value);
    let mut send = None;
    ui.horizontal(|ui| {
        // Where both do not fit, the name counts more than the slider: the value can be typed.
        let slider = field.slider().filter(|_| ui.available_width() > FIELD_WIDTH + SLIDER_WIDTH + NAME_WIDTH_MIN);
        let slider_room = if slider.is_some() { SLIDER_WIDTH + 8.0 } else { 0.0 };
        let label_width = (ui.available_width() - FIELD_WIDTH - 8.0 - slider_room).clamp(48.0, LABEL_WIDTH_MAX);
        let label = egui::Label::new(RichText::new(&field.key).color(palette.dim)).truncate();
        let label =
            ui.allocate_ui_with_layout(vec2(label_width, theme::ROW_HEIGHT), egui::Layout::left_to_right(egui::Align::Center), |ui| {
                ui.set_min_width(label_width);
                ui.add(label)
            });
        let label =
            label.inner.on_hover_text(if field.doc.is_empty() { field.key.clone() } else { format!("{}\n{}", field.key, field.doc) });
        if let Some((low, high, is_log)) = slider {
            let mut value = match &panel.session.control.sliding {
                Some((sliding, value)) if *sliding == slot => *value,
                _ => shown.as_f64().unwrap_or(low),
            };
            ui.spacing_mut().slider_width = SLIDER_WIDTH;
            let slider =
                egui::Slider::new(&mut value, low..=high).logarithmic(is_log).show_value(false).clamping(egui::SliderClamping::Edits);
            let slider = ui.add(slider).accessible_name(format!("Slide {}", field.key));
            let slider = slider.on_hover_text(format!("{} to {}; sent when it is let go", short(low), short(high)));
            if slider.changed() {
                panel.session.control.sliding = Some((slot.clone(), value));
                text = text_of(&json!(rounded(value)));
            }
            // A key or a screen reader moves it without a drag.
            let is_let_go = slider.drag_stopped() || (slider.changed() && !slider.dragged());
            if is_let_go && panel.session.control.sliding.take_if(|(sliding, _)| *sliding == slot).is_some() {
                send = Some(json!(rounded(value)));
            }
        }
        let color = match (&typed, &waiting) {
            (None, _) => palette.error,
            (_, Some(_)) => palette.warn,
            _ => palette.text,
        };
        let edit = egui::TextEdit::singleline(&mut text)
            .desired_width(FIELD_WIDTH)
            .hint_text("none")
            .text_color(color)
            .font(egui::TextStyle::Monospace)
            .align(egui::Align2::LEFT_CENTER);
        let edit = ui.add_sized(vec2(FIELD_WIDTH, 22.0), edit).labelled_by(label.id);
        if edit.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter)) && text != present {
            send = send.take().or(parsed(&text, &field.value));
        }
        if waiting.is_some() {
            edit.on_hover_text(format!("Sent; it is {} until the run takes it", text_of(&field.value)));
        }
    });
    let is_sliding = panel.session.control.sliding.as_ref().is_some_and(|(sliding, _)| *sliding == slot);
    if text != present && !is_sliding && send.is_none() {
        ui.horizontal(|ui| {
            let button = ui.add_enabled(typed.is_some(), Button::new("Set")).accessible_name(format!("Set {}", field.key));
            if button.on_disabled_hover_text("A number is wanted").clicked() {
                send = parsed(&text, &field.value);
            }
            if ui.button("Undo").accessible_name(format!("Undo {}", field.key)).clicked() {
                text.clone_from(&present);
            }
        });
    }
    if let Some(value) = send {
        panel.send(&run.id, "set", json!({ "key": field.key, "value": value }));
        panel.session.control.waiting.insert(slot.clone(), (value, now()));
        text.clone_from(&present);
    }
    if text == present || is_sliding {
        panel.session.control.edits.remove(&slot);
    } else {
        panel.session.control.edits.insert(slot, text);
    }
}

// What was sent for this field and is not answered yet.
fn waiting_value(panel: &mut Panel, run: &Run, field: &LiveField, slot: &(String, String)) -> Option<Value> {
    let (value, since) = panel.session.control.waiting.get(slot)?.clone();
    let is_mine = |command: &&Command| command.kind == "set" && command.args["key"].as_str() == Some(field.key.as_str());
    let newest = run.commands.iter().rev().find(is_mine).filter(|command| command.time >= since - 0.5);
    let is_refused = panel.snapshot.sent.iter().rev().any(|sent| {
        sent.run == run.path
            && sent.time >= since - 0.5
            && sent.state == SentState::Failed
            && sent.args["key"].as_str() == Some(field.key.as_str())
    });
    let is_answered = newest.is_some_and(|command| matches!(command.state, CommandState::Done | CommandState::Failed));
    if is_answered || is_refused || value == field.value {
        panel.session.control.waiting.remove(slot);
        return None;
    }
    Some(value)
}

// A slider's place as people would write it: three digits that count.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        // A plugin that keeps its settings in 32 bits means 0.3 by 0.30000001192092896.
        Value::Number(number) => match number.as_f64().filter(|value| number.is_f64() && f64::from(*value as f32) == *value) {
            Some(value) => format!("{:?}", value as f32),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

// What was typed, as the kind of value that stands there now.
fn parsed(text: &str, present: &Value) -> Option<Value> {
    if present.is_number() {
        let number: f64 = text.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
        let whole = text.trim().parse::<i64>().ok().filter(|_| present.is_i64() || present.is_u64());
        return Some(whole.map_or_else(|| json!(number), |whole| json!(whole)));
    }
    (!text.trim().is_empty()).then(|| json!(text.trim()))
}

fn commands(ui: &mut Ui, panel: &Panel, run: &Run, palette: &Palette) {
    // What is not in the run's table: on its way there, or it could not be put there.
    let outside = panel.snapshot.sent.iter().rev().filter(|sent| sent.run == run.path && sent.kind != LABEL && sent.id.is_none()).take(4);
    let mut outside = outside.peekable();
    if run.commands.is_empty() && outside.peek().is_none() {
        return;
    }
    section(ui, "Commands", palette);
    for sent in outside {
        let (color, word) = if sent.state == SentState::Failed { (palette.error, "not sent") } else { (palette.dim, "sending") };
        command_row(ui, sent.time, &command_text(&sent.kind, &sent.args), (word, color), sent.reason.as_deref(), palette);
    }
    for command in run.commands.iter().rev().take(12) {
        let (color, word) = match command.state {
            CommandState::Sent => (palette.dim, "sent"),
            CommandState::Taken => (palette.warn, "taken"),
            CommandState::Done => (palette.ok, "done"),
            CommandState::Failed => (palette.error, "failed"),
        };
        let is_open = matches!(command.state, CommandState::Sent | CommandState::Taken);
        let late = (is_open && !is_over(run)).then(|| late_reason(run, command, now())).flatten();
        let reason = command.reason.as_deref().filter(|reason| !reason.is_empty()).or(late.as_deref());
        command_row(ui, command.time, &command_text(&command.kind, &command.args), (word, color), reason, palette);
        if is_open && !is_over(run) {
            // Its clock goes on while nothing else happens.
            ui.ctx().request_repaint_after(Duration::from_secs(1));
        }
    }
}

fn command_row(ui: &mut Ui, time: f64, text: &str, (word, color): (&str, egui::Color32), reason: Option<&str>, palette: &Palette) {
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(clock(time)).small().monospace().color(palette.dim)).on_hover_text("When it was sent (UTC)");
        ui.label(RichText::new(text));
        ui.label(RichText::new(word).color(color));
        if let Some(reason) = reason {
            ui.label(RichText::new(reason).color(if color == palette.error { palette.error } else { palette.dim }));
        }
    });
}

/// Why a command may still be without an answer, once it has waited for 5 s; `time` is the present.
pub fn late_reason(run: &Run, command: &Command, time: f64) -> Option<String> {
    let waited = time - command.time;
    if waited < LATE_SECS {
        return None;
    }
    let info = run.info.as_ref()?;
    let silent = info.writer.as_ref().map_or(0.0, |beat| time - beat.time);
    let still = info.progress_time.map_or(0.0, |progress| time - progress);
    let because = if command.state == CommandState::Taken {
        "it is carried out when the step or evaluation under way ends".to_owned()
    } else if info.state == RunState::Starting {
        "the run is still starting: it reads its data and compiles, and takes commands from its first step on".to_owned()
    } else if silent > LATE_SECS {
        format!("its process has not written for {}: it hangs, is stopped, or its disk is full", duration(silent))
    } else if info.state == RunState::Running && still > LATE_SECS {
        format!(
            "its last step ended {} ago: a plugin, an evaluation or a checkpoint takes that long; commands are taken between two steps",
            duration(still)
        )
    } else {
        "commands are taken between two steps".to_owned()
    };
    Some(format!("waits for {}: {because}", duration(waited.floor())))
}

// `14:02:07` of a time in seconds since 1970, UTC.
fn clock(time: f64) -> String {
    let second = time.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

fn command_text(kind: &str, args: &Value) -> String {
    let value = |name: &str| args.get(name).map(text_of);
    match (kind, value("key"), value("value"), value("steps")) {
        ("set", Some(key), Some(value), _) => format!("set {key} to {value}"),
        ("step", _, _, Some(steps)) if steps != "1" => format!("{steps} steps"),
        (kind, ..) => kind.into(),
    }
}

/// A small heading within a panel.
pub fn section(ui: &mut Ui, text: &str, palette: &Palette) -> egui::Response {
    ui.add_space(6.0);
    ui.label(RichText::new(text).size(12.0).color(palette.accent))
}

/// A command line to take away.
pub fn copyable(ui: &mut Ui, command: &str, button: &str) {
    ui.add(egui::Label::new(RichText::new(command).monospace()).wrap().selectable(true));
    if ui.button(button).clicked() {
        ui.ctx().copy_text(command.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_wrote_them() {
        for (value, text) in
            [(json!(f64::from(0.3f32)), "0.3"), (json!(0.3), "0.3"), (json!(1.0), "1.0"), (json!(2), "2"), (json!(1e300), "1e300")]
        {
            assert_eq!(text_of(&value).parse::<f64>().unwrap(), text.parse::<f64>().unwrap());
            assert!(text_of(&value).len() <= 6, "{}", text_of(&value));
        }
        assert_eq!((text_of(&json!("3ep")), text_of(&Value::Null)), ("3ep".into(), String::new()));
        assert_eq!(clock(1_795_460_345.9), "18:59:05");
    }
}
