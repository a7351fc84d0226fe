//! Moving about in a chart: a box or Ctrl and wheel zooms, Shift or the middle button drags, arrows and + - do the same from the keyboard, a double
//! click shows all again.

use super::super::Panel;
use super::super::axis::Axis;
use super::super::theme::Palette;
use eframe::egui::{EventFilter, Key, Painter, PointerButton, Pos2, Rect, Response, Stroke, StrokeKind, Ui};
use std::collections::BTreeMap;

/// A drag below this length is a click.
const BOX_MIN: f32 = 6.0;
/// A box that is lower than this is meant for x alone.
const FLAT_BOX: f32 = 24.0;
/// Part of the width that an arrow moves.
const ARROW: f32 = 0.1;
/// What + takes away of the width.
const KEY_ZOOM: f32 = 0.8;

/// What part of the charts is looked at. Not kept between sessions.
#[derive(Clone, Debug, Default)]
pub struct Zoom {
    /// Range of x of all charts; the whole without one.
    pub x: Option<(f64, f64)>,
    /// Range of x by metric, of charts that are not linked.
    pub own_x: BTreeMap<String, (f64, f64)>,
    /// Range of y, by metric; what is to be seen without one.
    pub y: BTreeMap<String, (f64, f64)>,
    /// Where the mouse is, in the unit of the x axis, and over which chart.
    pub cursor: Option<(f64, String)>,
    /// The box that is being drawn over a chart.
    drag: Option<(String, Pos2)>,
}

impl Zoom {
    /// Back to the whole range.
    pub fn reset(&mut self) {
        self.x = None;
        self.own_x.clear();
        self.y.clear();
    }

    /// Any range is not the whole.
    pub fn is_active(&self) -> bool {
        self.x.is_some() || !self.y.is_empty() || !self.own_x.is_empty()
    }

    fn set_x(&mut self, metric: &str, is_linked: bool, range: (f64, f64)) {
        let span = range.1 - range.0;
        // Closer than numbers can tell apart there is nothing to see.
        if !(range.0.is_finite() && range.1.is_finite() && span > 1e-9 * range.0.abs().max(range.1.abs())) {
            return;
        }
        if is_linked {
            self.x = Some(range);
        } else {
            self.own_x.insert(metric.into(), range);
        }
    }
}

// The range after moving by pixels.
fn moved(axis: &Axis, pixels: f32) -> (f64, f64) {
    (axis.value(axis.start - pixels), axis.value(axis.end - pixels))
}

// The range that is `factor` times as wide, with the same value under `pixel`.
fn scaled(axis: &Axis, pixel: f32, factor: f32) -> (f64, f64) {
    (axis.value(pixel - (pixel - axis.start) * factor), axis.value(pixel + (axis.end - pixel) * factor))
}

/// Takes mouse and keys over one chart.
pub fn show(
    ui: &Ui,
    panel: &mut Panel,
    metric: &str,
    response: &Response,
    x: &Axis,
    y: &Axis,
    plot: Rect,
    painter: &Painter,
    palette: &Palette,
) {
    let is_linked = panel.view.charts.is_linked;
    let zoom = &mut panel.session.zoom;
    let mouse = response.hover_pos().or(response.interact_pointer_pos());
    // Over the title, or its menu, nothing is read.
    let mouse = mouse.filter(|mouse| plot.x_range().contains(mouse.x) && mouse.y >= plot.top());
    if let Some(mouse) = mouse {
        panel.session.charts.cursor = Some((x.value(mouse.x), metric.to_owned()));
    }
    if response.double_clicked() {
        if is_linked {
            zoom.reset();
        } else {
            zoom.own_x.remove(metric);
            zoom.y.remove(metric);
        }
        zoom.drag = None;
        return;
    }
    keys(ui, panel, metric, response, x, is_linked);
    let zoom = &mut panel.session.zoom;
    let (shift, delta) = ui.input(|input| (input.modifiers.shift, input.zoom_delta()));
    if let (Some(mouse), true) = (response.hover_pos(), delta != 1.0) {
        zoom.set_x(metric, is_linked, scaled(x, mouse.x.clamp(plot.left(), plot.right()), 1.0 / delta));
    }
    if response.drag_started() {
        let start = ui.input(|input| input.pointer.press_origin());
        let is_box = response.drag_started_by(PointerButton::Primary) && !shift;
        zoom.drag = start.filter(|_| is_box).map(|start| (metric.to_owned(), start));
    }
    if response.dragged() && zoom.drag.is_none() && !response.dragged_by(PointerButton::Secondary) {
        zoom.set_x(metric, is_linked, moved(x, response.drag_delta().x));
        if zoom.y.contains_key(metric) {
            let (low, high) = moved(y, response.drag_delta().y);
            zoom.y.insert(metric.into(), (low, high));
        }
    }
    let Some((chart, start)) = zoom.drag.clone().filter(|(chart, _)| chart == metric) else { return };
    let Some(end) = response.interact_pointer_pos().or(response.hover_pos()) else { return };
    let dragged = Rect::from_two_pos(start, end).intersect(plot);
    let is_flat = dragged.height() < FLAT_BOX;
    if response.drag_stopped() {
        zoom.drag = None;
        if dragged.width() >= BOX_MIN {
            zoom.set_x(metric, is_linked, (x.value(dragged.left()), x.value(dragged.right())));
            if is_flat {
                zoom.y.remove(&chart);
            } else {
                zoom.y.insert(chart, (y.value(dragged.bottom()), y.value(dragged.top())));
            }
        }
    } else if dragged.width() > 1.0 {
        let shown = if is_flat { Rect::from_x_y_ranges(dragged.x_range(), plot.y_range()) } else { dragged };
        painter.rect(shown, 2.0, palette.accent.gamma_multiply(0.12), Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
}

// Of the chart that has the focus; of the one under the mouse while nothing has.
fn keys(ui: &Ui, panel: &mut Panel, metric: &str, response: &Response, x: &Axis, is_linked: bool) {
    if response.has_focus() {
        // Else the arrows would go to the next widget.
        let filter = EventFilter { horizontal_arrows: true, ..EventFilter::default() };
        ui.memory_mut(|memory| memory.set_focus_lock_filter(response.id, filter));
        panel.session.charts.focused = Some(metric.to_owned());
    } else if !(response.hovered() && ui.memory(|memory| memory.focused().is_none())) {
        return;
    }
    let pressed = |key: Key| ui.input(|input| input.modifiers.is_none() && input.key_pressed(key));
    let width = x.end - x.start;
    let middle = x.start + width / 2.0;
    let range = if pressed(Key::ArrowLeft) {
        moved(x, width * ARROW)
    } else if pressed(Key::ArrowRight) {
        moved(x, -width * ARROW)
    } else if ui
        .input(|input| !input.modifiers.command && !input.modifiers.alt && (input.key_pressed(Key::Plus) || input.key_pressed(Key::Equals)))
    {
        scaled(x, middle, KEY_ZOOM)
    } else if pressed(Key::Minus) {
        scaled(x, middle, 1.0 / KEY_ZOOM)
    } else {
        return;
    };
    panel.session.zoom.set_x(metric, is_linked, range);
    ui.ctx().request_repaint();
}
