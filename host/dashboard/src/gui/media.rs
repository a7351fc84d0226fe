//! Pictures, matrices, histograms, texts and tables of the selected run.

use super::Panel;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct MediaState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Media").color(Palette::of(ui).dim));
}
