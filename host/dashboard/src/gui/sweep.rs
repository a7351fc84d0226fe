//! Settings against a result over many runs: parallel coordinates.

use super::Panel;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct SweepState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Sweep").color(Palette::of(ui).dim));
}
