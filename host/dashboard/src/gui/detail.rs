//! What is known of the selected run: its settings as a tree, what differs from another run, events, log, checkpoints.

use super::axis::{duration, short};
use super::launch;
use super::table::facts::{Facts, metric_names};
use super::theme::{self, Palette};
use super::{Panel, run_name};
use crate::data::Run;
use eframe::egui::{self, CollapsingHeader, RichText, ScrollArea, Ui};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Runs that are compared side by side.
const COMPARED_MAX: usize = 8;

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

/// Every key of these settings with its value in each, and whether all are the same; keys that differ first, then by name.
pub fn side_by_side(settings: &[&BTreeMap<String, String>]) -> Vec<(String, Vec<Option<String>>, bool)> {
    let keys: BTreeSet<&String> = settings.iter().flat_map(|settings| settings.keys()).collect();
    let row = |key: &String| {
        let values: Vec<Option<String>> = settings.iter().map(|settings| settings.get(key).cloned()).collect();
        let is_same = values.windows(2).all(|pair| pair[0] == pair[1]);
        (key.clone(), values, is_same)
    };
    let mut rows: Vec<_> = keys.into_iter().map(row).collect();
    rows.sort_by_key(|(_, _, is_same)| *is_same);
    rows
}

fn compare(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
    let snapshot = panel.snapshot.clone();
    panel.session.table.book.update(&snapshot);
    let chosen = panel.view.chosen();
    let several = chosen.len() > 1;
    if several {
        ui.horizontal(|ui| {
            let more = chosen.len().saturating_sub(COMPARED_MAX);
            let text = match more {
                0 => format!("{} selected runs", chosen.len()),
                _ => format!("{COMPARED_MAX} of {} selected runs", chosen.len()),
            };
            ui.label(RichText::new(text).color(palette.dim));
            if ui.button("Select one").on_hover_text("Back to this run against another").clicked() {
                panel.view.also.clear();
            }
        });
    } else {
        against(ui, panel, run, palette);
    }
    let ids: Vec<String> = if several {
        chosen.into_iter().take(COMPARED_MAX).collect()
    } else {
        std::iter::once(run.id.clone()).chain(panel.view.baseline.clone().filter(|id| *id != run.id)).collect()
    };
    let runs: Vec<Arc<Facts>> = ids.iter().filter_map(|id| panel.session.table.book.get(id).cloned()).collect();
    if runs.len() < 2 {
        ui.label(RichText::new("Ctrl and click on runs in a list compares several").color(palette.dim));
        return;
    }
    let mut only = !panel.view.compare_all;
    ui.checkbox(&mut only, "Only differences");
    panel.view.compare_all = !only;
    let settings: Vec<&BTreeMap<String, String>> = runs.iter().map(|facts| &*facts.settings).collect();
    let mut rows = side_by_side(&settings);
    let seeds: Vec<Option<String>> = runs.iter().map(|facts| facts.run.info.as_ref().map(|info| info.seed.to_string())).collect();
    let is_same = seeds.windows(2).all(|pair| pair[0] == pair[1]);
    if is_same {
        rows.push(("seed".into(), seeds, true));
    } else {
        rows.insert(0, ("seed".into(), seeds, false));
    }
    let differing = rows.iter().filter(|(_, _, is_same)| !is_same).count();
    if differing == 0 {
        ui.label("Their settings are the same");
    }
    rows.truncate(if only { differing } else { usize::MAX });
    ScrollArea::both().id_salt("differences").auto_shrink(false).show(ui, |ui| {
        egui::Grid::new("differences").num_columns(runs.len() + 1).striped(true).spacing([12.0, 4.0]).max_col_width(170.0).show(ui, |ui| {
            ui.label("");
            for facts in &runs {
                let name = egui::Label::new(RichText::new(&facts.name).color(panel_color(panel, &facts.run, palette))).truncate();
                ui.add(name).on_hover_text(facts.id());
            }
            ui.end_row();
            for (key, values, is_same) in rows {
                ui.label(RichText::new(&key).color(palette.dim));
                for value in values {
                    let color = if is_same { palette.dim } else { palette.text };
                    let text = value.unwrap_or_else(|| "-".into());
                    ui.add(egui::Label::new(RichText::new(&text).monospace().color(color)).truncate())
                        .on_hover_text(format!("{key} {text}"));
                }
                ui.end_row();
            }
            for name in metric_names(&runs) {
                let is_greatest = panel.view.table.is_greatest_best(&name);
                let last = |facts: &Facts| facts.metrics.get(&name).and_then(|values| values.last);
                let best = |facts: &Facts| facts.metrics.get(&name).and_then(|values| values.best(is_greatest));
                let title = if is_greatest { "max" } else { "min" };
                metric_row(ui, &name, &runs.iter().map(|facts| last(facts)).collect::<Vec<_>>(), is_greatest, palette);
                metric_row(ui, &format!("{title} {name}"), &runs.iter().map(|facts| best(facts)).collect::<Vec<_>>(), is_greatest, palette);
            }
        });
    });
}

// The best of a row stands out, where one is.
fn metric_row(ui: &mut Ui, title: &str, values: &[Option<f64>], is_greatest: bool, palette: &Palette) {
    let finite = values.iter().flatten().copied().filter(|value| value.is_finite());
    let best = if is_greatest { finite.reduce(f64::max) } else { finite.reduce(f64::min) };
    let is_result = super::table::facts::is_result(title.trim_start_matches("max ").trim_start_matches("min "));
    let is_tied = values.iter().all(|value| *value == best);
    ui.label(RichText::new(title).color(palette.dim));
    for value in values {
        let color = if is_result && !is_tied && value.is_some() && *value == best { palette.ok } else { palette.text };
        ui.label(RichText::new(value.map_or_else(|| "-".into(), short)).monospace().color(color));
    }
    ui.end_row();
}

// The run that one is compared with.
fn against(ui: &mut Ui, panel: &mut Panel, run: &Run, palette: &Palette) {
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
    fn what_differs_comes_first_and_shows_every_side() {
        let of = |config: Value| flat(&config);
        let three = [
            of(json!({ "a": 1, "b": { "c": 2 } })),
            of(json!({ "a": 1, "b": { "c": 3 }, "d": "x" })),
            of(json!({ "a": 1, "b": { "c": 2 } })),
        ];
        let rows = side_by_side(&three.iter().collect::<Vec<_>>());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            rows,
            [
                ("b.c".into(), vec![some("2"), some("3"), some("2")], false),
                ("d".into(), vec![None, some("x"), None], false),
                ("a".into(), vec![some("1"), some("1"), some("1")], true),
            ]
        );
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("runs/a-1"), "runs/a-1");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
    }
}
