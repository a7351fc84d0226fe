//! What is known of the selected run: its settings as a tree, what differs from another run, events, log, checkpoints.

use super::axis::{duration, short};
use super::launch;
use super::theme::{self, Palette};
use super::{Panel, run_name};
use crate::data::Run;
use eframe::egui::{self, CollapsingHeader, RichText, ScrollArea, Ui};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The pages of the panel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Page {
    /// Settings.
    #[default]
    Config,
    /// What differs from another run.
    Compare,
    /// What happened.
    Events,
    /// Lines of the log.
    Log,
    /// Saved states.
    Checkpoints,
}

const PAGES: [(Page, &str); 5] = [
    (Page::Config, "Config"),
    (Page::Compare, "Compare"),
    (Page::Events, "Events"),
    (Page::Log, "Log"),
    (Page::Checkpoints, "Checkpoints"),
];

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(run) = panel.selected() else {
        ui.label(RichText::new("Select a run on the left to see what it is made of").color(palette.dim));
        return;
    };
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (page, name) in PAGES {
            if ui.selectable_label(panel.view.page == page, name).clicked() {
                panel.view.page = page;
            }
        }
    });
    ui.add_space(4.0);
    match panel.view.page {
        Page::Config => config(ui, &run, palette),
        Page::Compare => compare(ui, panel, &run, palette),
        Page::Events => events(ui, &run, palette),
        Page::Log => log(ui, &run, palette),
        Page::Checkpoints => checkpoints(ui, panel, &run, palette),
    }
}

fn config(ui: &mut Ui, run: &Run, palette: &Palette) {
    let Some(info) = &run.info else { return };
    ScrollArea::both().id_salt("config").auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().interact_size.y = 18.0;
        ui.spacing_mut().item_spacing.y = 3.0;
        let device = [info.device.as_deref(), info.adapter.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let parent = info.parent.as_ref().map(|parent| format!("{} at step {}", parent.id, parent.step));
        let facts = [
            ("id", Some(run.id.clone())),
            ("device", Some(device).filter(|text| !text.is_empty())),
            ("seed", Some(info.seed.to_string())),
            ("forked from", parent),
            ("recipe", info.recipe_path.clone()),
        ];
        for (key, value) in facts {
            if let Some(value) = value {
                leaf(ui, key, &value, palette);
            }
        }
        ui.add_space(4.0);
        let components = info.config.get("components").unwrap_or(&Value::Null);
        tree(ui, components, palette, 1);
        let rest = info.config.as_object().into_iter().flatten().filter(|(key, _)| *key != "components" && *key != "name");
        tree(ui, &rest.map(|(key, value)| (key.clone(), value.clone())).collect(), palette, 1);
    });
}

fn tree(ui: &mut Ui, value: &Value, palette: &Palette, depth: usize) {
    let Value::Object(fields) = value else { return };
    for (key, value) in fields {
        match inner(value) {
            Value::Object(fields) if !fields.is_empty() => {
                // A component is known by its id: `optimizer  sgd`.
                let id = value.get("id").and_then(Value::as_str).map_or(String::new(), |id| format!("  {id}"));
                let name = RichText::new(format!("{key}{id}"));
                CollapsingHeader::new(name)
                    .id_salt((depth, key))
                    .default_open(depth < 2)
                    .show(ui, |ui| tree(ui, inner(value), palette, depth + 1));
            }
            other => leaf(ui, key, &text_of(other), palette),
        }
    }
}

// A component's settings without the wrapping of id and config.
fn inner(value: &Value) -> &Value {
    match value {
        Value::Object(fields) if fields.len() == 2 && fields.contains_key("id") => fields.get("config").unwrap_or(value),
        _ => value,
    }
}

fn leaf(ui: &mut Ui, key: &str, value: &str, palette: &Palette) {
    ui.horizontal(|ui| {
        ui.label(RichText::new(key).color(palette.dim));
        ui.add(egui::Label::new(RichText::new(value).monospace()).selectable(true));
    });
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Settings as dotted keys, without the wrapping of components: `optimizer.lr`.
pub fn flat(config: &Value) -> BTreeMap<String, String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    let is_wrapping =
                        matches!(key.as_str(), "components" if path.is_empty()) || (key == "config" && fields.contains_key("id"));
                    let path = match (path.is_empty(), is_wrapping) {
                        (_, true) => path.to_owned(),
                        (true, false) => key.clone(),
                        (false, false) => format!("{path}.{key}"),
                    };
                    walk(value, &path, found);
                }
            }
            other => {
                found.insert(path.to_owned(), text_of(other));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(config, "", &mut found);
    found
}

/// Keys whose values differ, with both; `-` where one has none.
pub fn differences(one: &Value, other: &Value) -> Vec<(String, String, String)> {
    let (one, other) = (flat(one), flat(other));
    let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
    keys.sort();
    keys.dedup();
    let of = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned().unwrap_or_else(|| "-".into());
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).map(|key| (key.clone(), of(&one, key), of(&other, key))).collect()
}

fn compare(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let snapshot = panel.snapshot.clone();
    let other =
        panel.view.baseline.as_ref().and_then(|id| snapshot.runs.iter().find(|run| run.id == *id)).filter(|other| other.id != run.id);
    ui.horizontal(|ui| {
        let label = ui.label(RichText::new("Against").color(palette.dim));
        let text = other.map_or("choose a run".into(), |other| run_name(other));
        egui::ComboBox::from_id_salt("compare with")
            .selected_text(text)
            .width(ui.available_width() - 12.0)
            .show_ui(ui, |ui| {
                for candidate in snapshot.runs.iter().filter(|candidate| candidate.id != run.id).take(200) {
                    let is_chosen = other.is_some_and(|other| other.id == candidate.id);
                    let name = format!("{}  ({})", run_name(candidate), candidate.id);
                    if ui.selectable_label(is_chosen, name).clicked() {
                        panel.view.baseline = Some(candidate.id.clone());
                    }
                }
            })
            .response
            .labelled_by(label.id);
    });
    let Some(other) = other else {
        ui.label(RichText::new("Ctrl and click on a run in the list chooses it too").color(palette.dim));
        return;
    };
    let (Some(one), Some(two)) = (&run.info, &other.info) else { return };
    let rows = differences(&one.config, &two.config);
    let seeds = (one.seed != two.seed).then(|| ("seed".to_owned(), one.seed.to_string(), two.seed.to_string()));
    if rows.is_empty() && seeds.is_none() {
        ui.label("Their settings are the same");
    }
    ScrollArea::both().id_salt("differences").auto_shrink(false).show(ui, |ui| {
        egui::Grid::new("differences").num_columns(3).striped(true).spacing([12.0, 4.0]).show(ui, |ui| {
            for (title, color) in
                [("", palette.dim), ("this", panel_color(panel, run, palette)), ("other", panel_color(panel, other, palette))]
            {
                ui.label(RichText::new(title).color(color));
            }
            ui.end_row();
            for (key, one, two) in seeds.into_iter().chain(rows) {
                ui.label(RichText::new(key).color(palette.dim));
                ui.label(RichText::new(one).monospace());
                ui.label(RichText::new(two).monospace());
                ui.end_row();
            }
            ui.label(RichText::new("Last values").color(palette.accent));
            ui.end_row();
            for (name, series) in &run.series {
                let (one, two) = (series.last(), other.series.get(name).and_then(|series| series.last()));
                if let (Some(one), Some(two)) = (one, two) {
                    ui.label(RichText::new(name).color(palette.dim));
                    ui.label(RichText::new(short(one.value)).monospace());
                    ui.label(RichText::new(short(two.value)).monospace());
                    ui.end_row();
                }
            }
        });
    });
}

fn panel_color(panel: &Panel, run: &Run, palette: &Palette) -> egui::Color32 {
    palette.run(panel.view.color_slot(&run.id))
}

fn events(ui: &mut Ui, run: &Run, palette: &Palette) {
    if run.events.is_empty() {
        ui.label(RichText::new("Nothing has happened yet").color(palette.dim));
        return;
    }
    ScrollArea::vertical().id_salt("events").auto_shrink(false).show(ui, |ui| {
        for event in run.events.iter().rev().take(500) {
            let color = if event.kind == "nan" || event.kind.ends_with("failed") { palette.error } else { palette.text };
            ui.horizontal_wrapped(|ui| {
                let (mark, _) = ui.allocate_exact_size(egui::vec2(10.0, 16.0), egui::Sense::hover());
                theme::event_mark(ui.painter(), mark.center(), &event.kind, color);
                ui.label(RichText::new(&event.kind).color(color));
                ui.label(RichText::new(format!("step {}", event.step)).small().color(palette.dim));
                let message = event.message.split_whitespace().collect::<Vec<_>>().join(" ");
                ui.label(RichText::new(message).color(palette.dim)).on_hover_text(&event.who);
            });
        }
    });
}

fn log(ui: &mut Ui, run: &Run, palette: &Palette) {
    if run.logs.is_empty() {
        ui.label(RichText::new("The log has no lines yet").color(palette.dim));
        return;
    }
    let row = ui.text_style_height(&egui::TextStyle::Monospace);
    ScrollArea::both().id_salt("log").auto_shrink(false).stick_to_bottom(true).show_rows(ui, row, run.logs.len(), |ui, range| {
        for line in &run.logs[range] {
            let color = match line.level.as_str() {
                "error" => palette.error,
                "warn" => palette.warn,
                "info" => palette.text,
                _ => palette.dim,
            };
            let text = format!("{:5} {}: {}", line.level, line.source, line.message.replace('\n', " "));
            ui.add(egui::Label::new(RichText::new(text).monospace().color(color)).extend());
        }
    });
}

fn checkpoints(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    if run.checkpoints.is_empty() {
        ui.label(RichText::new("Nothing is saved yet: press C, or Checkpoint above").color(palette.dim));
        return;
    }
    let created = run.info.as_ref().map_or(0.0, |info| info.created);
    ScrollArea::vertical().id_salt("checkpoints").auto_shrink(false).show(ui, |ui| {
        for checkpoint in run.checkpoints.iter().rev() {
            let step = checkpoint.at.step;
            ui.horizontal_wrapped(|ui| {
                ui.label(format!("step {step}"));
                ui.label(RichText::new(&checkpoint.reason).color(palette.accent));
                ui.label(RichText::new(bytes(checkpoint.bytes)).color(palette.dim));
                ui.label(RichText::new(format!("after {}", duration(checkpoint.time - created))).small().color(palette.dim));
                if ui.button("Fork").accessible_name(format!("Fork at step {step}")).on_hover_text("A new run from here").clicked() {
                    launch::fork(panel, run, Some(step));
                }
                let copy = egui::Button::new(RichText::new("Copy command").small().color(palette.dim)).frame(false);
                let copy = ui.add(copy).accessible_name(format!("Copy the command that forks at step {step}"));
                if copy.on_hover_text(fork_command(run, step)).clicked() {
                    ui.ctx().copy_text(fork_command(run, step));
                }
            });
        }
    });
}

/// The command that forks a run at a step; the learning rate stands there to be changed.
pub fn fork_command(run: &Run, step: u64) -> String {
    let folder = run.path.parent().map_or(String::new(), |folder| format!(" --runs-dir {}", shell_word(&folder.display().to_string())));
    let lr = run
        .info
        .as_ref()
        .and_then(|info| info.config.pointer("/components/optimizer/config/lr"))
        .map_or(String::new(), |lr| format!(" --set optimizer.lr={lr}"));
    // The id may have more than the folder's name, where two runs of the window have the same.
    let id = run.path.file_name().map_or_else(|| run.id.clone(), |name| name.to_string_lossy().into_owned());
    format!("solstice fork {}@{step}{folder}{lr}", shell_word(&id))
}

/// A word as a shell takes it.
pub fn shell_word(word: &str) -> String {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./@:=+,".contains(c));
    if is_plain && !word.is_empty() { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn bytes(count: u64) -> String {
    match count {
        0..1000 => format!("{count} B"),
        1000..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_named_as_on_the_command_line() {
        let config = json!({
            "components": { "optimizer": { "id": "sgd", "config": { "lr": 0.1 } } },
            "trainer": { "budget": "3ep" },
        });
        let flat = flat(&config);
        assert_eq!(flat["optimizer.lr"], "0.1");
        assert_eq!(flat["optimizer.id"], "sgd");
        assert_eq!(flat["trainer.budget"], "3ep");
    }

    #[test]
    fn differences_show_both_sides() {
        let (one, other) = (json!({ "a": 1, "b": { "c": 2 } }), json!({ "a": 1, "b": { "c": 3 }, "d": "x" }));
        let wanted = [("b.c".into(), "2".into(), "3".into()), ("d".into(), "-".into(), "x".into())];
        assert_eq!(differences(&one, &other), wanted);
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("runs/a-1"), "runs/a-1");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
    }
}
