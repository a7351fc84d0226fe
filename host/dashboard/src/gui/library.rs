//! What the plugins offer, and the recipes: what a new run can be made of.

use super::Panel;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LibraryView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct LibraryState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Library").color(Palette::of(ui).dim));
}
