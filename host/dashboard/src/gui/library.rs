//! What the plugins offer, and the recipes: what a new run can be made of. A click opens it in the form of `launch.rs`.

use super::launch;
use super::theme::{self, Palette};
use super::{Panel, control};
use crate::data::{Catalog, PluginFile, Workshop};
use eframe::egui::{self, Align, Button, CollapsingHeader, Layout, RichText, ScrollArea, TextEdit, Ui, vec2};
use serde::{Deserialize, Serialize};

/// Kinds of components as headings.
const KINDS: [(&str, &str); 9] = [
    ("experiment", "Experiments"),
    ("model", "Models"),
    ("dataset", "Data sets"),
    ("optimizer", "Optimizers"),
    ("lr-schedule", "Schedules"),
    ("metric", "Metrics"),
    ("transform", "Transforms"),
    ("callback", "Callbacks"),
    ("logger", "Loggers"),
];

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LibraryView {
    /// Only what has this in its name or description.
    pub filter: String,
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct LibraryState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(catalog) = panel.session.launch.workshop().map(Workshop::catalog) else {
        ui.label(RichText::new(launch::NO_HOST).color(palette.dim));
        return;
    };
    ui.horizontal(|ui| {
        let filter = TextEdit::singleline(&mut panel.view.library.filter).hint_text("Filter: name or what it does");
        let filter = filter.align(egui::Align2::LEFT_CENTER);
        ui.add_sized(vec2(ui.available_width() - 68.0, theme::ROW_HEIGHT), filter).accessible_name("Filter the library");
        let button =
            ui.button("Refresh").on_hover_text("Look at the plugins and recipes again; a plugin that is built anew is seen by itself");
        if button.clicked()
            && let Some(workshop) = panel.session.launch.workshop()
        {
            workshop.refresh();
        }
    });
    if let Some(problem) = &catalog.problem {
        ui.label(RichText::new(problem).color(palette.error));
    }
    if catalog.is_loading {
        ui.label(RichText::new("Asking the plugins what they offer").color(palette.dim));
        return;
    }
    ScrollArea::vertical().id_salt("library").auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        refused(ui, panel, &catalog, palette);
        recipes(ui, panel, &catalog, palette);
        for (kind, heading) in KINDS {
            components(ui, panel, &catalog, kind, heading, palette);
        }
        plugins(ui, &catalog, palette);
    });
}

fn is_found(panel: &Panel, name: &str, doc: &str) -> bool {
    let filter = panel.view.library.filter.trim().to_lowercase();
    filter.is_empty() || name.to_lowercase().contains(&filter) || doc.to_lowercase().contains(&filter)
}

// Plugins that are not loaded come first: something that should be there is not.
fn refused(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    let refused: Vec<&PluginFile> = catalog.plugins.iter().filter(|plugin| plugin.refused.is_some()).collect();
    if refused.is_empty() {
        return;
    }
    let is_quarantined = refused.iter().any(|plugin| plugin.quarantined);
    egui::Frame::group(ui.style()).show(ui, |ui| {
        ui.set_width(ui.available_width());
        for plugin in refused {
            ui.label(RichText::new(format!("{} is not loaded", plugin.name)).color(palette.warn));
            let reason = plugin.refused.as_deref().unwrap_or_default();
            ui.add(egui::Label::new(RichText::new(reason).small().color(palette.dim)).wrap().selectable(true))
                .on_hover_text(plugin.path.display().to_string());
        }
        let hint = if is_quarantined {
            "Load plugins again that took their process down"
        } else {
            "Look at the plugins again, as they are built now"
        };
        if ui.button("Try again").on_hover_text(hint).clicked()
            && let Some(workshop) = panel.session.launch.workshop()
        {
            if is_quarantined {
                workshop.try_again();
            } else {
                workshop.refresh();
            }
        }
    });
}

fn recipes(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    control::section(ui, "Recipes", palette);
    if catalog.recipes.is_empty() {
        ui.label(RichText::new("Put recipes into the folder experiments/ here, as files that end in .ron").color(palette.dim));
    }
    for recipe in catalog.recipes.iter() {
        if !is_found(panel, &recipe.name, &recipe.doc) {
            continue;
        }
        let is_open = panel.view.launch.opened.as_ref() == Some(&recipe.path);
        let stem = recipe.path.file_stem().map_or(recipe.name.clone(), |stem| stem.to_string_lossy().into_owned());
        let hover = match &recipe.problem {
            Some(problem) => problem.clone(),
            None => format!("{}\n{}", recipe.doc, recipe.path.display()).trim().to_owned(),
        };
        let color = if recipe.problem.is_some() { palette.warn } else { palette.text };
        if row(ui, is_open, &stem, &recipe.doc, color, palette, &format!("Open recipe {stem}"), &hover) {
            launch::open(panel, recipe);
        }
    }
}

fn components(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, kind: &str, heading: &str, palette: &Palette) {
    let found: Vec<_> = catalog.of_kind(kind).filter(|component| is_found(panel, &component.id, &component.doc)).collect();
    if found.is_empty() {
        return;
    }
    let is_filtered = !panel.view.library.filter.trim().is_empty();
    let header = CollapsingHeader::new(RichText::new(format!("{heading} ({})", found.len())).size(12.0).color(palette.accent));
    header.id_salt(kind).default_open(true).open(is_filtered.then_some(true)).show(ui, |ui| {
        for component in found {
            let name = format!("Open {kind} {}", component.id);
            if row(ui, false, &component.id, &component.doc, palette.text, palette, &name, &component.doc) {
                launch::put(panel, kind, &component.id);
            }
        }
    });
}

// A name with what it is behind it, on one line.
#[expect(clippy::too_many_arguments, reason = "two texts with their colours, and what is said of them")]
fn row(ui: &mut Ui, is_open: bool, name: &str, doc: &str, color: egui::Color32, palette: &Palette, accessible: &str, hover: &str) -> bool {
    let first = doc.lines().next().unwrap_or_default();
    let mut text = egui::text::LayoutJob::default();
    let format = |size: f32, color| egui::TextFormat::simple(egui::FontId::proportional(size), color);
    text.append(name, 0.0, format(13.0, color));
    text.append(first, 8.0, format(11.0, palette.dim));
    let width = ui.available_width();
    let mut clicked = false;
    ui.with_layout(Layout::top_down_justified(Align::LEFT), |ui| {
        let button = Button::selectable(is_open, text).truncate().min_size(vec2(width, 22.0));
        let response = ui.add(button).accessible_name(accessible);
        clicked = response.on_hover_text(hover).clicked();
    });
    clicked
}

fn plugins(ui: &mut Ui, catalog: &Catalog, palette: &Palette) {
    let count = catalog.plugins.len();
    let header = CollapsingHeader::new(RichText::new(format!("Plugins ({count})")).size(12.0).color(palette.accent));
    header.id_salt("plugins").default_open(false).show(ui, |ui| {
        if count == 0 {
            ui.label(RichText::new("No plugins found: build them, and press Refresh").color(palette.dim));
        }
        for plugin in catalog.plugins.iter() {
            ui.horizontal(|ui| {
                ui.label(&plugin.name);
                ui.label(RichText::new(format!("{}  {}", plugin.version, plugin.kinds.join(", "))).small().color(palette.dim));
            })
            .response
            .on_hover_text(plugin.path.display().to_string());
        }
    });
}
