//! The model of the selected run: its modules and its graph.

use super::Panel;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ModelState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Model").color(Palette::of(ui).dim));
}
