//! A chart as lines and bands in pixels: made once a frame, painted on screen or into a file from the same description.

use super::super::axis::{Axis, Scale};
use super::super::theme::{self, Palette};
use super::groups::MeanPoint;
use crate::data::{Column, XAxis};
use eframe::egui::epaint::Mesh;
use eframe::egui::{Align2, Color32, FontId, Painter, Pos2, Rect, Shape, Stroke, Vec2, pos2};

/// Height of the strip of events under the plot.
pub const STRIP_HEIGHT: f32 = 12.0;
const TICK_FONT: f32 = 10.5;

/// All of a chart that is drawn from numbers.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The metric.
    pub title: String,
    /// All of it, with title and texts.
    pub frame: Rect,
    /// Where the lines are.
    pub plot: Rect,
    /// What runs along x.
    pub x_axis: XAxis,
    /// Horizontal.
    pub x: Axis,
    /// Vertical.
    pub y: Axis,
    /// In the order in which they are drawn.
    pub lines: Vec<Line>,
    /// Where values are not finite.
    pub bad: Vec<f32>,
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// Of the line; band and shadow are thinned.
    pub color: Color32,
    /// Index of its dashes in [`theme::DASHES`].
    pub dash: usize,
    /// Of the line.
    pub width: f32,
    /// Opacity of the band.
    pub band_opacity: f32,
    /// Between gaps.
    pub pieces: Vec<Piece>,
}

/// A part of a curve without gaps.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// x, least and greatest.
    pub band: Vec<[f32; 3]>,
    /// The raw curve behind a smoothed one.
    pub shadow: Vec<Pos2>,
    /// The curve.
    pub line: Vec<Pos2>,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.line.is_empty() && self.shadow.is_empty()
    }
}

fn can_be_drawn(value: f64, scale: Scale) -> bool {
    value.is_finite() && (scale == Scale::Linear || value > 0.0)
}

/// A run's columns in pixels, and where they have values that are not finite.
pub fn pieces_of_columns(columns: &[Column], x: &Axis, y: &Axis, is_smooth: bool, bad: &mut Vec<f32>) -> Vec<Piece> {
    let (x_pixels, y_pixels) = (x.pixels(), y.pixels());
    let has_band = columns.iter().any(|column| column.count > 1);
    let mut pieces = Vec::new();
    let mut piece = Piece::default();
    for column in columns {
        let at = x_pixels.at(column.x);
        if column.bad > 0 {
            bad.push(at);
        }
        if !can_be_drawn(column.mean, y.scale) {
            if !piece.is_empty() {
                pieces.push(std::mem::take(&mut piece));
            }
            continue;
        }
        if has_band {
            let floor = if y.scale == Scale::Log && column.min <= 0.0 { y.low.min(column.mean) } else { column.min };
            piece.band.push([at, y_pixels.at(floor), y_pixels.at(column.max)]);
        }
        let raw = pos2(at, y_pixels.at(column.mean));
        if is_smooth {
            piece.shadow.push(raw);
            if can_be_drawn(column.smoothed, y.scale) {
                piece.line.push(pos2(at, y_pixels.at(column.smoothed)));
            }
        } else {
            piece.line.push(raw);
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// A group's mean in pixels, with its deviation as the band.
pub fn pieces_of_means(means: &[MeanPoint], x: &Axis, y: &Axis) -> Vec<Piece> {
    let (x_pixels, y_pixels) = (x.pixels(), y.pixels());
    let mut pieces = Vec::new();
    let mut piece = Piece::default();
    let mut last: Option<f32> = None;
    for point in means {
        let at = x_pixels.at(point.x);
        // No run has a value in between.
        let is_gap = last.is_some_and(|last| at - last > 1.8);
        last = Some(at);
        if (is_gap || !can_be_drawn(point.mean, y.scale)) && !piece.is_empty() {
            pieces.push(std::mem::take(&mut piece));
        }
        if !can_be_drawn(point.mean, y.scale) {
            continue;
        }
        let low = point.mean - point.deviation;
        let low = if can_be_drawn(low, y.scale) { low } else { y.low.min(point.mean) };
        piece.band.push([at, y_pixels.at(low), y_pixels.at(point.mean + point.deviation)]);
        piece.line.push(pos2(at, y_pixels.at(point.mean)));
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

impl Picture {
    /// The same in another place.
    pub fn translated(mut self, by: Vec2) -> Picture {
        (self.frame, self.plot) = (self.frame.translate(by), self.plot.translate(by));
        (self.x.start, self.x.end) = (self.x.start + by.x, self.x.end + by.x);
        (self.y.start, self.y.end) = (self.y.start + by.y, self.y.end + by.y);
        self.bad.iter_mut().for_each(|at| *at += by.x);
        for piece in self.lines.iter_mut().flat_map(|line| &mut line.pieces) {
            piece.band.iter_mut().for_each(|[x, low, high]| (*x, *low, *high) = (*x + by.x, *low + by.y, *high + by.y));
            piece.shadow.iter_mut().chain(&mut piece.line).for_each(|point| *point += by);
        }
        self
    }

    /// How many marks have room along x and y.
    pub fn tick_counts(&self) -> (usize, usize) {
        (((self.plot.width() / 46.0) as usize).max(2), ((self.plot.height() / 26.0) as usize).max(2))
    }

    /// Ticks and their texts, along x.
    pub fn x_ticks(&self) -> Vec<(f64, String)> {
        let (count, _) = self.tick_counts();
        let ticks = self.x.ticks_of(count, self.x_axis);
        ticks.into_iter().map(|tick| (tick, self.x.tick_text_of(tick, count, self.x_axis))).collect()
    }

    /// Ticks and their texts, along y.
    pub fn y_ticks(&self) -> Vec<(f64, String)> {
        let (_, count) = self.tick_counts();
        self.y.ticks(count).into_iter().map(|tick| (tick, self.y.tick_text(tick, count))).collect()
    }

    /// Grid, ticks and their texts.
    pub fn paint_grid(&self, painter: &Painter, palette: &Palette) {
        let plot = self.plot;
        let line = Stroke::new(1.0, palette.grid);
        let thin = Stroke::new(1.0, palette.grid.gamma_multiply(0.45));
        let small = Stroke::new(1.0, palette.line);
        let font = FontId::proportional(TICK_FONT);
        let (x_count, y_count) = self.tick_counts();
        for tick in self.y.minor_ticks(y_count) {
            let at = painter.round_to_pixel_center(self.y.pixel(tick));
            match self.y.scale {
                Scale::Log => painter.hline(plot.x_range(), at, thin),
                Scale::Linear => painter.hline(plot.left() - 3.0..=plot.left(), at, small),
            };
        }
        let minor = if super::super::axis::is_time(self.x_axis) && self.x.scale == Scale::Linear {
            Vec::new()
        } else {
            self.x.minor_ticks(x_count)
        };
        for tick in minor {
            let at = painter.round_to_pixel_center(self.x.pixel(tick));
            match self.x.scale {
                Scale::Log => painter.vline(at, plot.y_range(), thin),
                Scale::Linear => painter.vline(at, plot.bottom()..=plot.bottom() + 3.0, small),
            };
        }
        for (tick, text) in self.y_ticks() {
            let at = painter.round_to_pixel_center(self.y.pixel(tick));
            painter.hline(plot.x_range(), at, line);
            painter.text(pos2(plot.left() - 6.0, at), Align2::RIGHT_CENTER, text, font.clone(), palette.dim);
        }
        let bottom = plot.bottom() + STRIP_HEIGHT;
        let mut free = f32::NEG_INFINITY;
        for (tick, text) in self.x_ticks() {
            let at = painter.round_to_pixel_center(self.x.pixel(tick));
            painter.vline(at, plot.y_range(), line);
            let galley = painter.layout_no_wrap(text, font.clone(), palette.dim);
            // The first and last label stay within the chart, and none runs into the one before.
            let left = (at - galley.size().x / 2.0).clamp(plot.left() - 8.0, plot.right() + 8.0 - galley.size().x);
            if left > free {
                free = left + galley.size().x + 4.0;
                painter.galley(pos2(left, bottom + 1.0), galley, palette.dim);
            }
        }
        painter.hline(plot.x_range(), painter.round_to_pixel_center(plot.bottom()), Stroke::new(1.0, palette.line));
    }

    /// Bands, shadows and lines. Takes the points out, so that none is copied.
    pub fn paint_lines(self, painter: &Painter, palette: &Palette) {
        for at in &self.bad {
            // A value that is not finite has no place on the axis: a red tick at the foot says that it was there.
            painter.vline(*at, self.plot.bottom() - 7.0..=self.plot.bottom(), Stroke::new(1.5, palette.error));
        }
        for line in self.lines {
            let band = line.color.gamma_multiply(line.band_opacity);
            for piece in line.pieces {
                if piece.band.len() > 1 {
                    painter.add(Shape::mesh(band_mesh(&piece.band, band)));
                }
                stroke(painter, piece.shadow, Stroke::new(1.0, line.color.gamma_multiply(theme::SHADOW_OPACITY)), 0);
                stroke(painter, piece.line, Stroke::new(line.width, line.color), line.dash);
            }
        }
    }
}

fn band_mesh(band: &[[f32; 3]], color: Color32) -> Mesh {
    let mut mesh = Mesh::default();
    mesh.reserve_vertices(band.len() * 2);
    mesh.reserve_triangles(band.len() * 2);
    for (index, [at, low, high]) in band.iter().enumerate() {
        mesh.colored_vertex(pos2(*at, *low), color);
        mesh.colored_vertex(pos2(*at, *high), color);
        if index > 0 {
            let first = index as u32 * 2;
            mesh.add_triangle(first - 2, first - 1, first);
            mesh.add_triangle(first - 1, first, first + 1);
        }
    }
    mesh
}

// A line; a dot where it has one point.
fn stroke(painter: &Painter, points: Vec<Pos2>, stroke: Stroke, dash: usize) {
    match points.len() {
        0 => {}
        1 => {
            painter.circle_filled(points[0], stroke.width + 1.0, stroke.color);
        }
        _ => theme::dashed(painter, points, stroke, dash),
    }
}
