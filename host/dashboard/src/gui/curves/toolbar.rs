//! The two rows over the charts: axes and smoothing; what is shown and how it is put together.

use super::super::Panel;
use super::super::axis::Scale;
use super::super::commands::Action;
use super::super::theme::{self, Palette};
use super::groups::Grouping;
use super::{ChartSize, marks, x_axis_can_be_log, x_axis_name};
use crate::data::XAxis;
use eframe::egui::containers::menu::{MenuButton, MenuConfig};
use eframe::egui::{self, Align2, Button, ComboBox, Key, PopupCloseBehavior, RichText, Slider, TextEdit, Ui, vec2};

/// Width of the slider with its name and number.
const SMOOTHING_WIDTH: f32 = 262.0;

/// Draws them. `grouping` is what the runs could be, or are, grouped by.
pub fn show(ui: &mut Ui, panel: &mut Panel, grouping: &Grouping) {
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("x axis");
        ComboBox::from_id_salt("x axis")
            .selected_text(x_axis_name(panel.view.x_axis))
            .width(84.0)
            .show_ui(ui, |ui| {
                for axis in XAxis::ALL {
                    if ui.selectable_label(panel.view.x_axis == axis, x_axis_name(axis)).clicked() {
                        panel.view.x_axis = axis;
                        panel.session.zoom.reset();
                    }
                }
            })
            .response
            .labelled_by(label.id);
        let can_be_log = x_axis_can_be_log(panel.view.x_axis);
        let mut is_log = panel.view.charts.log_x && can_be_log;
        let log_x = ui.add_enabled(can_be_log, egui::Checkbox::new(&mut is_log, "Log x"));
        if log_x.on_hover_text(Action::LogX.hint()).on_disabled_hover_text("The time of day has no zero to count from").changed() {
            super::set_log_x(panel, is_log);
        }
        ui.checkbox(&mut panel.view.log_y, "Log y").on_hover_text(Action::LogY.hint());
        ui.checkbox(&mut panel.view.charts.cuts_outliers, "Cut outliers")
            .on_hover_text("Peaks that would flatten the rest are cut off, and the chart says where; no curve is cut off whole (U)");
        // A slider does not wrap by itself, and what sticks out would make all charts as wide.
        if ui.available_size_before_wrap().x < SMOOTHING_WIDTH {
            ui.end_row();
        } else {
            ui.add_space(theme::GAP);
        }
        let label = ui.label("Smoothing");
        ui.add(Slider::new(&mut panel.view.smoothing, 0.0..=0.99).max_decimals(2)).labelled_by(label.id).on_hover_text(
            "Exponential mean; its half-life is a twentieth of the x axis times the square of this. The raw curve stays behind it",
        );
    });
    ui.horizontal_wrapped(|ui| {
        let field = TextEdit::singleline(&mut panel.session.charts.filter).hint_text("Filter charts").align(Align2::LEFT_CENTER);
        let field = ui.add_sized(vec2(128.0, theme::ROW_HEIGHT), field).accessible_name("Filter charts");
        // The field gives the focus away by itself.
        if (field.has_focus() || field.lost_focus()) && ui.input(|input| input.key_pressed(Key::Escape)) {
            panel.session.charts.filter.clear();
            field.surrender_focus();
        }
        group_by(ui, panel, grouping);
        // Several can be chosen at a time.
        let stays = MenuConfig::new().close_behavior(PopupCloseBehavior::CloseOnClickOutside);
        let (marks_menu, _) = MenuButton::new("Marks").config(stays).ui(ui, |ui| {
            ui.set_min_width(150.0);
            marks::choose(ui, &mut panel.view.charts.hidden_marks);
        });
        marks_menu.on_hover_text("Which events of the selected run stand under the charts");
        ComboBox::from_id_salt("chart size")
            .selected_text(panel.view.charts.size.name())
            .width(72.0)
            .show_ui(ui, |ui| {
                for size in ChartSize::ALL {
                    ui.selectable_value(&mut panel.view.charts.size, size, size.name());
                }
            })
            .response
            .accessible_name("Chart size");
        let mut is_linked = panel.view.charts.is_linked;
        if ui.checkbox(&mut is_linked, "Link axes").on_hover_text("All charts show the same part of the x axis").changed() {
            panel.view.charts.is_linked = is_linked;
            panel.session.zoom.x = None;
            panel.session.zoom.own_x.clear();
        }
        let reset = ui.add_enabled(panel.session.zoom.is_active(), Button::new("Whole range"));
        if reset.on_hover_text("Back to the whole range (R, or double click on a chart)").clicked() {
            panel.session.zoom.reset();
        }
    });
    ui.add_space(2.0);
}

fn group_by(ui: &mut Ui, panel: &mut Panel, grouping: &Grouping) {
    let palette = Palette::of(ui);
    let is_on = panel.view.charts.has_means;
    let name = match (&grouping.by, is_on) {
        (Some(by), true) => by.name().to_owned(),
        _ => "No groups".into(),
    };
    ComboBox::from_id_salt("group by")
        .selected_text(name)
        .width(124.0)
        .truncate()
        .show_ui(ui, |ui| {
            ui.label(RichText::new("Mean and deviation of runs with the same").small().color(palette.dim));
            if ui.selectable_label(!is_on, "No groups").clicked() {
                panel.view.charts.has_means = false;
            }
            for by in &grouping.choices {
                if ui.selectable_label(is_on && grouping.by.as_ref() == Some(by), by.name()).clicked() {
                    panel.view.charts.group_by = Some(by.clone());
                    panel.view.charts.has_means = true;
                }
            }
        })
        .response
        .accessible_name("Group by");
}

/// The scale of the x axis, as chosen and as far as the axis can have it.
pub fn x_scale(panel: &Panel) -> Scale {
    if panel.view.charts.log_x && x_axis_can_be_log(panel.view.x_axis) { Scale::Log } else { Scale::Linear }
}
