//! The menu of one chart: its place, its y axis, its export.

use super::super::Panel;
use super::super::theme::{self, Palette};
use super::export::Format;
use super::range::ChartOptions;
use eframe::egui::{Align2, Button, RichText, TextEdit, Ui, vec2};

/// Draws it; opened by the button of a chart, or a right click on it.
pub fn show(ui: &mut Ui, panel: &mut Panel, metric: &str) {
    let palette = Palette::of(ui);
    ui.set_min_width(212.0);
    let is_large = panel.session.charts.maximised.is_some();
    let item = |ui: &mut Ui, text: &str, key: &str| {
        let button = Button::new(text).frame_when_inactive(false);
        ui.add(if key.is_empty() { button } else { button.shortcut_text(key) }).clicked()
    };
    if item(ui, if is_large { "All charts" } else { "One large chart" }, "M") {
        panel.session.charts.maximised = if is_large { None } else { Some(metric.into()) };
        ui.close();
    }
    let is_pinned = panel.view.charts.pinned.contains(metric);
    if item(ui, if is_pinned { "Unpin chart" } else { "Pin chart to the top" }, "") {
        if is_pinned {
            panel.view.charts.pinned.remove(metric);
        } else {
            panel.view.charts.pinned.insert(metric.into());
        }
        ui.close();
    }
    ui.separator();
    let before = panel.view.charts.options.get(metric).copied().unwrap_or_default();
    let mut options = before;
    ui.checkbox(&mut options.has_zero, "Include zero");
    ui.horizontal(|ui| {
        let typed = panel.session.charts.typed.entry(metric.into()).or_insert_with(|| [text_of(before.low), text_of(before.high)]);
        let ends = [("y from", "Least y", &mut options.low), ("to", "Greatest y", &mut options.high)];
        for ((word, name, value), typed) in ends.into_iter().zip(typed.iter_mut()) {
            ui.label(RichText::new(word).color(palette.dim));
            let is_wrong = !typed.trim().is_empty() && number(typed).is_none();
            let color = if is_wrong { palette.error } else { palette.text };
            let field = TextEdit::singleline(typed).hint_text("auto").text_color(color).align(Align2::LEFT_CENTER);
            if ui.add_sized(vec2(64.0, theme::ROW_HEIGHT), field).accessible_name(format!("{name} of {metric}")).changed() {
                *value = number(typed);
            }
        }
    });
    if (before.low.is_some() || before.high.is_some()) && item(ui, "Automatic range", "") {
        (options.low, options.high) = (None, None);
        panel.session.charts.typed.remove(metric);
    }
    if options != before {
        if options == ChartOptions::default() {
            panel.view.charts.options.remove(metric);
        } else {
            panel.view.charts.options.insert(metric.into(), options);
        }
        ui.ctx().request_repaint();
    }
    ui.separator();
    for format in Format::ALL {
        if item(ui, format.title(), "") {
            panel.session.charts.export = Some((metric.into(), format));
            ui.ctx().request_repaint();
            ui.close();
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

fn text_of(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
