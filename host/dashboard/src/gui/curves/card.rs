//! The point that was clicked: whose it is, its value, and what can be done from there.

use super::super::axis::{Axis, short};
use super::super::theme::Palette;
use super::super::{Panel, launch, run_name};
use super::chart::{Trace, Values};
use super::readout::nearest;
use crate::data::{Run, XAxis};
use eframe::egui::{Area, Frame, Id, Order, Painter, Pos2, Rect, Response, RichText, Sense, Stroke, Ui, pos2, vec2};
use std::sync::Arc;

/// How far from a curve, in pixels, a click still means it.
const REACH: f32 = 28.0;

/// A point that was clicked.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The run's id.
    pub run: String,
    /// The metric.
    pub metric: String,
    /// The point's step.
    pub step: u64,
    /// Its value as it was logged.
    pub value: f64,
    /// The smoothed value there, where curves are smoothed.
    pub smoothed: Option<f64>,
    /// Where it was drawn in this frame.
    pub(super) anchor: Option<Pos2>,
}

/// Takes a click: on a curve it shows that point's card, beside all curves it takes the card away.
pub fn choose(ui: &Ui, panel: &mut Panel, metric: &str, response: &Response, runs: &[Trace], x: &Axis, y: &Axis, plot: Rect) {
    if !response.clicked() || !ui.input(|input| input.pointer.any_click()) {
        return;
    }
    if response.double_clicked() {
        panel.session.charts.card = None;
        return;
    }
    let Some(mouse) = response.interact_pointer_pos().filter(|mouse| plot.contains(*mouse)) else { return };
    let is_smooth = panel.view.smoothing > 0.0;
    let mut best: Option<(f32, Card)> = None;
    for trace in runs {
        let (Some(run), Some(series), Values::Columns(columns)) = (trace.run, trace.series, &trace.values) else { continue };
        let at = x.value(mouse.x);
        let Some(column) = nearest(columns, at, |column| column.x) else { continue };
        let drawn = if is_smooth { column.smoothed } else { column.mean };
        // Within the band of a raw curve is on it.
        if !drawn.is_finite() {
            continue;
        }
        let (top, bottom) = if is_smooth { (drawn, drawn) } else { (column.max, column.min) };
        let beside = (mouse.y - mouse.y.clamp(y.pixel(top), y.pixel(bottom))).abs();
        let distance = (x.pixel(column.x) - mouse.x).hypot(beside) + (y.pixel(drawn) - mouse.y).abs() * 1e-3;
        if distance > REACH || best.as_ref().is_some_and(|(least, _)| *least <= distance) {
            continue;
        }
        let Some(point) = series.nearest(panel.view.x_axis, at) else { continue };
        best = Some((
            distance,
            Card {
                run: run.id.clone(),
                metric: metric.into(),
                step: point.step,
                value: point.value,
                smoothed: is_smooth.then_some(column.smoothed),
                anchor: None,
            },
        ));
    }
    panel.session.charts.card = best.map(|(_, card)| card);
    ui.ctx().request_repaint();
}

/// A ring around the point in its chart.
pub fn mark(panel: &mut Panel, metric: &str, runs: &[Trace], x: &Axis, y: &Axis, plot: Rect, painter: &Painter, palette: &Palette) {
    let Some(card) = panel.session.charts.card.as_mut().filter(|card| card.metric == metric) else { return };
    let Some(trace) = runs.iter().find(|trace| trace.run.is_some_and(|run| run.id == card.run)) else { return };
    let point = trace.series.and_then(|series| Some((series.nearest(XAxis::Step, card.step as f64)?, series.origin())));
    let Some((point, origin)) = point else { return };
    let value = card.smoothed.unwrap_or(card.value);
    let at = pos2(
        x.pixel(point.x(panel.view.x_axis, origin)),
        y.pixel(if value.is_finite() { value } else { y.low }).clamp(plot.top(), plot.bottom()),
    );
    if plot.expand(1.0).contains(at) {
        painter.circle_filled(at, 4.0, trace.color);
        painter.circle_stroke(at, 6.0, Stroke::new(1.5, palette.text));
        card.anchor = Some(at);
    }
}

/// The card beside its point, over all charts; not while the point is out of sight.
pub fn show(ui: &Ui, panel: &mut Panel, runs: &[&Arc<Run>]) {
    let Some(card) = &mut panel.session.charts.card else { return };
    let Some(anchor) = card.anchor.take() else { return };
    let card = card.clone();
    let Some(run) = runs.iter().find(|run| run.id == card.run) else { return };
    let palette = Palette::of(ui);
    let color = palette.run(panel.view.color_slot(&run.id));
    let mut is_open = true;
    let area = Area::new(Id::unique("point card")).order(Order::Foreground).fixed_pos(anchor + vec2(12.0, 12.0)).constrain(true);
    area.show(ui.ctx(), |ui| {
        Frame::popup(ui.style()).inner_margin(10).show(ui, |ui| {
            ui.set_max_width(260.0);
            ui.horizontal(|ui| {
                let (dot, _) = ui.allocate_exact_size(vec2(10.0, 16.0), Sense::hover());
                ui.painter().circle_filled(dot.center(), 4.5, color);
                ui.label(RichText::new(run_name(run)).strong());
            });
            ui.label(RichText::new(format!("{} at step {}", card.metric, card.step)).color(palette.dim));
            ui.horizontal(|ui| {
                ui.label(RichText::new("Value").color(palette.dim));
                ui.label(RichText::new(short(card.value)).monospace());
                if let Some(smoothed) = card.smoothed {
                    ui.add_space(6.0);
                    ui.label(RichText::new("Smoothed").color(palette.dim));
                    ui.label(RichText::new(short(smoothed)).monospace());
                }
            });
            ui.add_space(4.0);
            ui.horizontal(|ui| {
                if ui.button("Fork from here…").on_hover_text("A new run from the checkpoint at or before this step").clicked() {
                    launch::fork(panel, run, Some(card.step));
                    is_open = false;
                }
                if ui.button("Select run").clicked() {
                    panel.view.selected = Some(run.id.clone());
                    is_open = false;
                }
                if ui.button("Close").clicked() {
                    is_open = false;
                }
            });
        });
    });
    if !is_open {
        panel.session.charts.card = None;
    }
}
