//! The form for a new run, made from the plugins' schemas.

use super::Panel;
use super::commands::Action;
use super::theme::Palette;
use eframe::egui::{RichText, Ui};
use serde::{Deserialize, Serialize};

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchView {}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct LaunchState {}

/// Draws the panel.
pub fn show(ui: &mut Ui, _panel: &mut Panel) {
    ui.label(RichText::new("Launch").color(Palette::of(ui).dim));
}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(_panel: &mut Panel, _action: Action) -> bool {
    false
}

/// Opens the form for a fork of a run, from a step of it or from where it is.
pub fn fork(_panel: &mut Panel, _run: &crate::data::Run, _step: Option<u64>) {}
