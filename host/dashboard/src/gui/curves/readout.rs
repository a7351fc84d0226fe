//! The values under the cursor, in all charts at once, and the same in words for a screen reader.

use super::super::Panel;
use super::super::axis::{Axis, clock, duration, short};
use super::super::theme::{self, Palette};
use super::chart::{Trace, Values};
use crate::data::XAxis;
use eframe::egui::{Color32, FontId, Painter, Rect, Stroke, StrokeKind, pos2, vec2};

/// Curves that are listed at most.
const LINES_MAX: usize = 12;
/// Height of a line.
const LINE_HEIGHT: f32 = 15.0;
/// How far from the cursor, in pixels, a value may be of a curve that has ended or not begun.
const BESIDE_MAX: f32 = 4.0;

/// What a curve says at a place.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Where.
    pub x: f64,
    /// The value that is drawn.
    pub value: f64,
    /// Deviation and count of a group.
    pub spread: Option<(f64, usize)>,
}

impl Trace<'_> {
    /// The reading nearest to `x`.
    pub fn at(&self, x: f64, is_smooth: bool) -> Option<Reading> {
        match &self.values {
            Values::Columns(columns) => {
                let column = nearest(columns, x, |column| column.x)?;
                Some(Reading { x: column.x, value: if is_smooth { column.smoothed } else { column.mean }, spread: None })
            }
            Values::Means(means) => {
                let point = nearest(means, x, |point| point.x)?;
                Some(Reading { x: point.x, value: point.mean, spread: Some((point.deviation, point.count)) })
            }
        }
    }

    fn covers(&self, x: f64, x_axis: XAxis) -> bool {
        match (&self.values, self.series) {
            (Values::Columns(_), Some(series)) => series.x_range(x_axis).is_some_and(|(low, high)| (low..=high).contains(&x)),
            (Values::Means(means), _) => means.first().zip(means.last()).is_some_and(|(first, last)| (first.x..=last.x).contains(&x)),
            _ => false,
        }
    }
}

/// The item nearest to `x`, of items that ascend.
pub fn nearest<T>(items: &[T], x: f64, x_of: impl Fn(&T) -> f64) -> Option<&T> {
    let after = items.partition_point(|item| x_of(item) < x);
    let candidates = [after.checked_sub(1), Some(after)];
    let candidates = candidates.into_iter().flatten().filter_map(|index| items.get(index));
    candidates.min_by(|a, b| (x_of(a) - x).abs().total_cmp(&(x_of(b) - x).abs()))
}

/// A place on the x axis, to read.
pub fn place_text(x: f64, x_axis: XAxis) -> String {
    match x_axis {
        XAxis::Relative => duration(x),
        XAxis::Wall => clock(x, 60.0),
        XAxis::Epoch => format!("epoch {x:.2}"),
        XAxis::Samples => format!("{} samples", short(x.round())),
        XAxis::Step => format!("step {x:.0}"),
    }
}

/// A chart in words: `train/loss: wide 0.083 at step 20000, narrow 0.1 at step 15000`.
pub fn value_text(metric: &str, traces: &[Trace], x_axis: XAxis) -> String {
    let of = |trace: &Trace| match (&trace.values, trace.series) {
        (Values::Means(means), _) => {
            let last = means.last()?;
            let place = place_text(last.x, x_axis);
            Some(format!("{} {} ± {} of {} at {place}", trace.name, short(last.mean), short(last.deviation), last.count))
        }
        (_, Some(series)) => {
            let last = series.last()?;
            Some(format!("{} {} at {}", trace.name, short(last.value), place_text(last.x(x_axis, series.origin()), x_axis)))
        }
        _ => None,
    };
    let texts: Vec<String> = traces.iter().rev().filter_map(of).collect();
    format!("{metric}: {}", if texts.is_empty() { "nothing".into() } else { texts.join(", ") })
}

/// The cursor of all charts: a line, a dot a curve, and their values; names and the place too in the chart under the mouse.
pub fn show(
    painter: &Painter,
    panel: &Panel,
    metric: &str,
    traces: &[Trace],
    x: &Axis,
    y: &Axis,
    plot: Rect,
    rect: Rect,
    palette: &Palette,
    is_smooth: bool,
) {
    let Some((at, hovered)) = &panel.session.zoom.cursor else { return };
    if !(x.low..=x.high).contains(at) {
        return;
    }
    let x_axis = panel.view.x_axis;
    let pixel = x.pixel(*at);
    let is_hovered = hovered == metric;
    painter.vline(painter.round_to_pixel_center(pixel), plot.y_range(), Stroke::new(1.0, palette.dim.gamma_multiply(0.6)));
    let mut lines: Vec<(f64, Option<(Color32, usize)>, String, bool)> = Vec::new();
    for trace in traces.iter().rev() {
        let Some(reading) = trace.at(*at, is_smooth) else { continue };
        // A curve that ended before the cursor, or begins after it, has no value there.
        if (x.pixel(reading.x) - pixel).abs() > BESIDE_MAX && !trace.covers(*at, x_axis) {
            continue;
        }
        let dot = pos2(x.pixel(reading.x), y.pixel(reading.value));
        if reading.value.is_finite() && plot.expand(1.0).contains(dot) {
            painter.circle_filled(dot, 3.2, trace.color);
        }
        let mut text = short(reading.value);
        if let Some((deviation, count)) = reading.spread {
            text += &format!(" ± {}", short(deviation));
            if is_hovered {
                text += &format!("  n {count}");
            }
        }
        if is_hovered {
            text += &format!("  {}", trace.name);
        }
        lines.push((reading.value, Some((trace.color, trace.dash)), text, trace.is_selected));
    }
    if lines.is_empty() && !is_hovered {
        return;
    }
    // In the order in which they stand at the cursor.
    lines.sort_by(|a, b| b.0.total_cmp(&a.0));
    let room = (((plot.height() - 12.0) / LINE_HEIGHT) as usize).clamp(3, LINES_MAX);
    let rest = lines.len().saturating_sub(room);
    if rest > 0 {
        // The selected one stays.
        let selected = lines.iter().position(|line| line.3).filter(|index| *index >= room);
        if let Some(index) = selected {
            lines.swap(index, room - 1);
        }
        lines.truncate(room);
        lines.push((0.0, None, format!("and {rest} more"), false));
    }
    if is_hovered {
        lines.insert(0, (0.0, None, place_text(*at, x_axis), false));
    }
    let galleys: Vec<_> = lines
        .iter()
        .map(|(_, _, text, strong)| {
            painter.layout_no_wrap(text.clone(), FontId::proportional(11.0), if *strong { palette.text } else { palette.dim })
        })
        .collect();
    let indent = |style: &Option<(Color32, usize)>| if style.is_some() { 28.0 } else { 8.0 };
    let width = galleys.iter().zip(&lines).map(|(galley, line)| galley.size().x + indent(&line.1)).fold(0.0, f32::max) + 8.0;
    let size = vec2(width, galleys.len() as f32 * LINE_HEIGHT + 8.0);
    // On the side of the cursor where there is room.
    let left = if pixel + size.x + 12.0 < plot.right() {
        pixel + 10.0
    } else if pixel - 10.0 - size.x > plot.left() {
        pixel - 10.0 - size.x
    } else {
        // Nowhere: over the curves, but never over the labels of the axis.
        (plot.right() - size.x).max(rect.left() + 2.0)
    };
    let panel_rect = Rect::from_min_size(pos2(left, plot.top() + 3.0), size);
    painter.rect(panel_rect, 4.0, palette.panel.gamma_multiply(0.94), Stroke::new(1.0, palette.line), StrokeKind::Inside);
    for (index, (galley, (_, style, ..))) in galleys.into_iter().zip(&lines).enumerate() {
        let middle = panel_rect.top() + 4.0 + LINE_HEIGHT * (index as f32 + 0.5);
        if let Some((color, dash)) = style {
            let from = pos2(panel_rect.left() + 7.0, middle);
            theme::dashed(painter, vec![from, from + vec2(16.0, 0.0)], Stroke::new(2.4, *color), *dash);
        }
        painter.galley(pos2(panel_rect.left() + indent(style), middle - galley.size().y / 2.0), galley, palette.text);
    }
}
