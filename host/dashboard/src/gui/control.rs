//! Steering the selected run: pause, step, evaluate, save, stop, live values; and what became of each command.
//!
//! A command is a row in the run's store. The window never waits for an answer: the row's state comes back with the next snapshot.

use super::axis::{duration, short};
use super::commands::Action;
use super::runs::progress_text;
use super::theme::{self, Palette};
use super::{Panel, is_over, run_name, state};
use crate::data::Run;
use eframe::egui::{self, Button, Key, RichText, ScrollArea, Sense, Ui, vec2};
use serde_json::{Value, json};
use solstice_store::{Command, CommandState, RunState};
use std::collections::BTreeMap;

/// Settings of the trainer that a run takes while it goes on.
const LIVE_TRAINER: [&str; 5] = ["budget", "log_every", "evaluate_every", "checkpoint_every", "clip"];

/// What is typed or asked but not sent yet.
#[derive(Debug, Default)]
pub struct ControlState {
    /// The run that was asked to confirm its stop.
    pub asks_stop: Option<String>,
    /// How many steps `Step` does.
    pub steps: u64,
    /// Texts of fields being edited, by run and key.
    edits: BTreeMap<(String, String), String>,
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
        if is_over(&run) {
            let text = match state(&run) {
                RunState::Lost => "Its process is gone without a word. Go on from the last checkpoint with",
                _ => "This run has ended. Go on with it with",
            };
            ui.label(RichText::new(text).color(palette.dim));
            let command = format!("solstice resume {}", super::detail::shell_word(&run.path.display().to_string()));
            copyable(ui, &command, "Copy resume command");
        } else {
            buttons(ui, panel, &run, palette);
            live_values(ui, panel, &run, palette);
        }
        commands(ui, &run, palette);
    });
}

fn head(ui: &mut Ui, panel: &Panel, run: &Run, palette: &Palette) {
    let Some(info) = &run.info else {
        ui.label(RichText::new(&run.id).size(15.0));
        return;
    };
    ui.horizontal(|ui| {
        let (dot, _) = ui.allocate_exact_size(vec2(12.0, theme::ROW_HEIGHT), Sense::hover());
        ui.painter().circle_filled(dot.center(), 5.0, palette.run(panel.view.color_slot(&run.id)));
        ui.label(RichText::new(run_name(run)).size(15.0));
        let (mark, _) = ui.allocate_exact_size(vec2(12.0, theme::ROW_HEIGHT), Sense::hover());
        let color = palette.state(info.state);
        theme::state_mark(ui.painter(), mark.center(), info.state, color);
        ui.label(RichText::new(info.state.name()).color(color));
    });
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
    let progress = if is_over(run) { String::new() } else { format!(", {}", progress_text(run)) };
    let text = format!("step {}{total}{progress}; trained {}", info.at.step, duration(info.train_secs));
    ui.label(RichText::new(text).small().color(palette.dim));
    if let Some(reason) = info.state_reason.as_ref().filter(|reason| !reason.is_empty()) {
        let color = if info.state == RunState::Failed { palette.error } else { palette.dim };
        ui.label(RichText::new(reason).small().color(color));
    }
    ui.add_space(4.0);
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
        ui.label(RichText::new(word).color(palette.dim));
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

/// The values of a run that can be offered as fields: key and present value. The run itself decides what it takes.
pub fn live_fields(run: &Run) -> Vec<(String, Value)> {
    let Some(config) = run.info.as_ref().map(|info| &info.config) else { return Vec::new() };
    let mut fields = Vec::new();
    if let Some(optimizer) = config.pointer("/components/optimizer/config").and_then(Value::as_object) {
        let numbers = optimizer.iter().filter(|(_, value)| value.is_number());
        fields.extend(numbers.map(|(key, value)| (format!("optimizer.{key}"), value.clone())));
    }
    if let Some(trainer) = config.get("trainer").and_then(Value::as_object) {
        for key in LIVE_TRAINER {
            if let Some(value) = trainer.get(key).filter(|value| value.is_number() || value.is_string()) {
                fields.push((format!("trainer.{key}"), value.clone()));
            }
        }
    }
    // The config is as the run began: what was set since then counts.
    for command in run.commands.iter().filter(|command| command.kind == "set" && command.state == CommandState::Done) {
        let (Some(key), Some(value)) = (command.args["key"].as_str(), command.args.get("value")) else { continue };
        match fields.iter_mut().find(|(known, _)| known == key) {
            Some(field) => field.1 = value.clone(),
            None => fields.push((key.into(), value.clone())),
        }
    }
    fields
}

fn live_values(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let fields = live_fields(run);
    if fields.is_empty() {
        return;
    }
    section(ui, "Live values", palette).on_hover_text("Changed between two steps, without a restart; Enter sends");
    egui::Grid::new("live values").num_columns(3).spacing([8.0, 4.0]).show(ui, |ui| {
        for (key, value) in fields {
            let present = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let slot = (run.id.clone(), key.clone());
            let mut text = panel.session.control.edits.get(&slot).cloned().unwrap_or_else(|| present.clone());
            let label = ui.label(RichText::new(&key).color(palette.dim));
            let typed = parsed(&text, &value);
            let color = if typed.is_some() { palette.text } else { palette.error };
            let field = egui::TextEdit::singleline(&mut text)
                .desired_width(84.0)
                .text_color(color)
                .font(egui::TextStyle::Monospace)
                .align(egui::Align2::LEFT_CENTER);
            let field = ui.add_sized(vec2(84.0, 22.0), field).labelled_by(label.id);
            let entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
            let is_edited = text != present;
            let mut send = false;
            ui.horizontal(|ui| {
                if is_edited {
                    let button = ui.add_enabled(typed.is_some(), Button::new("Set")).accessible_name(format!("Set {key}"));
                    send = button.on_disabled_hover_text("A number is wanted").clicked();
                    if ui.button("Undo").accessible_name(format!("Undo {key}")).clicked() {
                        text.clone_from(&present);
                    }
                }
            });
            ui.end_row();
            if (send || (entered && is_edited))
                && let Some(typed) = parsed(&text, &value)
            {
                panel.send(&run.id, "set", json!({ "key": key, "value": typed }));
                text.clone_from(&present);
            }
            if text == present {
                panel.session.control.edits.remove(&slot);
            } else {
                panel.session.control.edits.insert(slot, text);
            }
        }
    });
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

fn commands(ui: &mut Ui, run: &Run, palette: &Palette) {
    if run.commands.is_empty() {
        return;
    }
    section(ui, "Commands", palette);
    for command in run.commands.iter().rev().take(12) {
        let (color, state) = match command.state {
            CommandState::Sent => (palette.dim, "sent"),
            CommandState::Taken => (palette.warn, "taken"),
            CommandState::Done => (palette.ok, "done"),
            CommandState::Failed => (palette.error, "failed"),
        };
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(command_text(command)));
            ui.label(RichText::new(state).color(color));
            if let Some(reason) = command.reason.as_ref().filter(|reason| !reason.is_empty()) {
                ui.label(RichText::new(reason).color(if command.state == CommandState::Failed { palette.error } else { palette.dim }));
            }
        });
    }
}

fn command_text(command: &Command) -> String {
    let value = |name: &str| command.args.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    match (command.kind.as_str(), value("key"), value("value"), value("steps")) {
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
