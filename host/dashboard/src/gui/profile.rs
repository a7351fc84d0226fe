//! Where a step's time and the device's memory go.

use super::Panel;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfileView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ProfileState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Profile").color(Palette::of(ui).dim));
}
