//! Every colour, size and mark of the window, in one table for dark and one for light. No other file of the window names a colour.
//!
//! Text has at least 4.5:1 against the panel it stands on, in both tables. A state has its own mark as well as a colour.

use eframe::egui::{
    self, Color32, Context, CornerRadius, FontFamily, FontId, Margin, Painter, Pos2, Rect, Shape, Stroke, TextStyle, Theme, Vec2, pos2,
    vec2,
};
use solstice_store::RunState;

/// Space between unlike things.
pub const GAP: f32 = 8.0;
/// Height of a row of a list.
pub const ROW_HEIGHT: f32 = 24.0;
/// Width of a curve, and of the curve of the selected run.
pub const CURVE_WIDTH: [f32; 2] = [1.5, 2.3];
/// Opacity of a band between least and greatest value.
pub const BAND_OPACITY: f32 = 0.20;
/// Opacity of the raw curve behind a smoothed one.
pub const SHADOW_OPACITY: f32 = 0.38;

/// The colours of one theme.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    /// Behind everything.
    pub background: Color32,
    /// Panels.
    pub panel: Color32,
    /// Buttons, fields, the row under the mouse.
    pub raised: Color32,
    /// Lines between panels.
    pub line: Color32,
    /// Grid lines of a chart.
    pub grid: Color32,
    /// Text.
    pub text: Color32,
    /// Text that is not read first.
    pub dim: Color32,
    /// What is chosen; the one thing to press.
    pub accent: Color32,
    /// Text on `accent`.
    pub on_accent: Color32,
    /// Went well, goes on.
    pub ok: Color32,
    /// Wants a look.
    pub warn: Color32,
    /// Went wrong.
    pub error: Color32,
    /// Colours of runs.
    pub series: [Color32; 8],
}

const DARK: Palette = Palette {
    background: rgb(0x0e1116),
    panel: rgb(0x151920),
    raised: rgb(0x232a34),
    line: rgb(0x2b323d),
    grid: rgb(0x212832),
    text: rgb(0xe6eaf0),
    dim: rgb(0x9aa5b4),
    accent: rgb(0xf5a524),
    on_accent: rgb(0x1a1206),
    ok: rgb(0x3fb96f),
    warn: rgb(0xe3b341),
    error: rgb(0xf06060),
    // Okabe and Ito, "Color Universal Design", 2008, lightened for a dark ground.
    series: [rgb(0x56b4e9), rgb(0xe69f00), rgb(0x00b88a), rgb(0xcc79a7), rgb(0xf0e442), rgb(0xe86a2b), rgb(0x7aa2f7), rgb(0xd0d4dc)],
};

const LIGHT: Palette = Palette {
    background: rgb(0xeef0f3),
    panel: rgb(0xfbfcfd),
    raised: rgb(0xe4e8ee),
    line: rgb(0xd0d6de),
    grid: rgb(0xe6e9ee),
    text: rgb(0x1a2028),
    dim: rgb(0x566173),
    accent: rgb(0x985000),
    on_accent: rgb(0xffffff),
    ok: rgb(0x177a3e),
    warn: rgb(0x8a6100),
    error: rgb(0xc42b2b),
    series: [rgb(0x0072b2), rgb(0xb86800), rgb(0x007f5f), rgb(0xa8467f), rgb(0x857500), rgb(0xc44a12), rgb(0x3d56c4), rgb(0x4a5563)],
};

const fn rgb(hex: u32) -> Color32 {
    Color32::from_rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

impl Palette {
    /// The colours of the theme that `ui` is drawn in.
    pub fn of(ui: &egui::Ui) -> &'static Palette {
        if ui.visuals().dark_mode { &DARK } else { &LIGHT }
    }

    /// The colour of a run's slot.
    pub fn run(&self, slot: usize) -> Color32 {
        self.series[slot % self.series.len()]
    }

    /// The colour of a result, from the worst (0) to the best (1): told apart by lightness, also by eyes that see few colours, and always at least
    /// 3:1 against the panel, so each theme leaves out one end of the map.
    pub fn ramp(&self, part: f64) -> Color32 {
        // Dark: dim violet to bright yellow. Light: pale green to dark violet.
        let (from, to) = if self.panel.r() < 128 { (0.40, 1.0) } else { (0.55, 0.0) };
        viridis((from + part.clamp(0.0, 1.0) * (to - from)) as f32)
    }

    /// The colour of a state.
    pub fn state(&self, state: RunState) -> Color32 {
        match state {
            RunState::Starting => self.dim,
            RunState::Running => self.ok,
            RunState::Paused | RunState::Lost => self.warn,
            RunState::Done => self.ok,
            RunState::Stopped => self.dim,
            RunState::Failed => self.error,
        }
    }
}

/// Both themes, sizes of text and spacing. Called once.
pub fn install(context: &Context) {
    for (theme, palette) in [(Theme::Dark, &DARK), (Theme::Light, &LIGHT)] {
        context.style_mut_of(theme, |style| {
            let font = |size: f32| FontId::new(size, FontFamily::Proportional);
            style.text_styles = [
                (TextStyle::Small, font(11.0)),
                (TextStyle::Body, font(13.0)),
                (TextStyle::Button, font(13.0)),
                (TextStyle::Heading, font(15.0)),
                (TextStyle::Monospace, FontId::new(12.0, FontFamily::Monospace)),
            ]
            .into();
            style.animation_time = 0.0;
            style.spacing.item_spacing = vec2(8.0, 5.0);
            style.spacing.button_padding = vec2(8.0, 3.0);
            style.spacing.interact_size = vec2(32.0, ROW_HEIGHT);
            style.spacing.menu_margin = Margin::same(8);
            style.spacing.window_margin = Margin::same(12);
            style.spacing.slider_width = 96.0;
            style.spacing.scroll.floating = true;
            // Room for the bar, so that it never covers what it scrolls.
            style.spacing.scroll.floating_allocated_width = 8.0;
            style.interaction.selectable_labels = false;
            style.interaction.tooltip_delay = 0.25;
            colour(&mut style.visuals, palette);
        });
    }
}

fn colour(visuals: &mut egui::Visuals, palette: &Palette) {
    let radius = CornerRadius::same(4);
    visuals.panel_fill = palette.panel;
    visuals.window_fill = palette.panel;
    visuals.window_stroke = Stroke::new(1.0, palette.line);
    visuals.window_corner_radius = CornerRadius::same(8);
    visuals.menu_corner_radius = CornerRadius::same(6);
    visuals.extreme_bg_color = palette.background;
    visuals.faint_bg_color = palette.raised.gamma_multiply(0.35);
    visuals.code_bg_color = palette.background;
    visuals.hyperlink_color = palette.accent;
    visuals.warn_fg_color = palette.warn;
    visuals.error_fg_color = palette.error;
    visuals.weak_text_color = Some(palette.dim);
    visuals.selection.bg_fill = palette.accent.gamma_multiply(0.2);
    visuals.selection.stroke = Stroke::new(1.0, palette.accent);
    visuals.slider_trailing_fill = true;
    for (widget, fill, edge, text) in [
        (&mut visuals.widgets.noninteractive, palette.panel, palette.line, palette.text),
        (&mut visuals.widgets.inactive, palette.raised, Color32::TRANSPARENT, palette.text),
        (&mut visuals.widgets.hovered, palette.line, palette.dim, palette.text),
        (&mut visuals.widgets.active, palette.line, palette.accent, palette.text),
        (&mut visuals.widgets.open, palette.raised, palette.line, palette.text),
    ] {
        widget.bg_fill = fill;
        widget.weak_bg_fill = fill;
        widget.bg_stroke = Stroke::new(1.0, edge);
        widget.fg_stroke = Stroke::new(1.0, text);
        widget.corner_radius = radius;
        widget.expansion = 0.0;
    }
}

/// A run's state as a shape, so that it can be told without colour: a triangle runs, two bars pause, a tick is done, a square was stopped, a cross
/// failed, a ring starts, a broken ring was lost.
pub fn state_mark(painter: &Painter, center: Pos2, state: RunState, color: Color32) {
    let at = |x: f32, y: f32| pos2(center.x + x, center.y + y);
    let stroke = Stroke::new(1.7, color);
    let bar = |x: f32| Rect::from_center_size(at(x, 0.0), vec2(2.4, 8.5));
    match state {
        RunState::Starting => {
            painter.circle_stroke(center, 3.6, stroke);
        }
        RunState::Running => {
            painter.add(Shape::convex_polygon(vec![at(-3.2, -4.4), at(4.6, 0.0), at(-3.2, 4.4)], color, Stroke::NONE));
        }
        RunState::Paused => {
            painter.rect_filled(bar(-2.4), 0.5, color);
            painter.rect_filled(bar(2.4), 0.5, color);
        }
        RunState::Done => {
            painter.line(vec![at(-4.2, 0.2), at(-1.2, 3.4), at(4.4, -3.6)], stroke);
        }
        RunState::Stopped => {
            painter.rect_filled(Rect::from_center_size(center, Vec2::splat(7.5)), 1.0, color);
        }
        RunState::Failed => {
            painter.line_segment([at(-3.6, -3.6), at(3.6, 3.6)], stroke);
            painter.line_segment([at(-3.6, 3.6), at(3.6, -3.6)], stroke);
        }
        RunState::Lost => {
            painter.extend(Shape::dashed_line(&ring(center, 4.0), stroke, 2.6, 2.2));
        }
    }
}

fn ring(center: Pos2, radius: f32) -> Vec<Pos2> {
    (0..=20).map(|i| center + radius * Vec2::angled(i as f32 * std::f32::consts::TAU / 20.0)).collect()
}

/// What happened at a step, as a shape on the strip under a chart: a square is a checkpoint, a diamond a value set, a triangle a plugin built again,
/// a cross a value that is not finite, a disc an evaluation, two bars a pause, a triangle to the right a resume, a branch a fork; anything else a bar.
pub fn event_mark(painter: &Painter, center: Pos2, kind: &str, color: Color32) {
    let at = |x: f32, y: f32| pos2(center.x + x, center.y + y);
    match kind {
        "checkpoint" => {
            painter.rect_filled(Rect::from_center_size(center, Vec2::splat(5.5)), 0.5, color);
        }
        "set" => {
            painter.add(Shape::convex_polygon(vec![at(0.0, -4.2), at(4.2, 0.0), at(0.0, 4.2), at(-4.2, 0.0)], color, Stroke::NONE));
        }
        "reload" => {
            painter.add(Shape::convex_polygon(vec![at(-4.0, 3.4), at(0.0, -3.8), at(4.0, 3.4)], color, Stroke::NONE));
        }
        "nan" => {
            painter.line_segment([at(-3.2, -3.2), at(3.2, 3.2)], Stroke::new(1.7, color));
            painter.line_segment([at(-3.2, 3.2), at(3.2, -3.2)], Stroke::new(1.7, color));
        }
        "eval" => {
            painter.circle_filled(center, 3.0, color);
        }
        "pause" => {
            for x in [-2.0, 2.0] {
                painter.rect_filled(Rect::from_center_size(at(x, 0.0), vec2(2.0, 7.5)), 0.0, color);
            }
        }
        "resume" => {
            painter.add(Shape::convex_polygon(vec![at(-3.0, -4.0), at(4.2, 0.0), at(-3.0, 4.0)], color, Stroke::NONE));
        }
        "fork" => {
            let stroke = Stroke::new(1.5, color);
            painter.line_segment([at(0.0, 4.2), at(0.0, 0.0)], stroke);
            painter.line(vec![at(-3.6, -4.0), at(0.0, 0.0), at(3.6, -4.0)], stroke);
        }
        _ => {
            painter.rect_filled(Rect::from_center_size(center, vec2(2.0, 7.0)), 0.0, color);
        }
    }
}

/// The tint under which a picture keeps its colours.
pub const UNTINTED: Color32 = Color32::WHITE;

// Ten steps of viridis, by Smith and van der Walt for matplotlib, 2015.
const VIRIDIS: [Color32; 11] = [
    rgb(0x440154),
    rgb(0x482475),
    rgb(0x414487),
    rgb(0x355f8d),
    rgb(0x2a788e),
    rgb(0x21918c),
    rgb(0x22a884),
    rgb(0x44bf70),
    rgb(0x7ad151),
    rgb(0xbddf26),
    rgb(0xfde725),
];
// RdBu of eleven classes, from its blue to its red end, after Brewer, "ColorBrewer", 2002.
const BLUE_TO_RED: [Color32; 11] = [
    rgb(0x053061),
    rgb(0x2166ac),
    rgb(0x4393c3),
    rgb(0x92c5de),
    rgb(0xd1e5f0),
    rgb(0xf7f7f7),
    rgb(0xfddbc7),
    rgb(0xf4a582),
    rgb(0xd6604d),
    rgb(0xb2182b),
    rgb(0x67001f),
];

/// The colour of an amount from 0 to 1: brighter is more, also without hue.
pub fn viridis(t: f32) -> Color32 {
    ramp(&VIRIDIS, t)
}

/// The colour of a signed amount from -1 to 1: blue is negative, red is positive, the middle is light.
pub fn diverging(t: f32) -> Color32 {
    ramp(&BLUE_TO_RED, 0.5 + 0.5 * t)
}

fn ramp(anchors: &[Color32], t: f32) -> Color32 {
    let place = if t.is_nan() { 0.0 } else { t.clamp(0.0, 1.0) } * (anchors.len() - 1) as f32;
    let index = (place as usize).min(anchors.len() - 2);
    anchors[index].lerp_to_gamma(anchors[index + 1], place - index as f32)
}

/// Black or white, whichever can be read on `ground`.
pub fn text_on(ground: Color32) -> Color32 {
    let linear = egui::Rgba::from(ground);
    let luminance = 0.2126 * linear.r() + 0.7152 * linear.g() + 0.0722 * linear.b();
    // Where contrast to black and to white is the same: (l + 0.05)^2 = 0.05 * 1.05, after WCAG 2.2.
    if luminance > 0.179 { Color32::BLACK } else { Color32::WHITE }
}

/// Dashes and the gaps after them, of curves whose colour is taken by another one; the first is a whole line.
pub const DASHES: [(&[f32], &[f32]); 4] = [(&[], &[]), (&[7.0], &[3.5]), (&[1.6], &[3.0]), (&[8.0, 1.6], &[3.0, 3.0])];

/// A line in one of the [`DASHES`].
pub fn dashed(painter: &Painter, points: Vec<Pos2>, stroke: Stroke, dash: usize) {
    match DASHES[dash % DASHES.len()] {
        ([], _) => painter.add(Shape::line(points, stroke)),
        (dashes, gaps) => painter.add(Shape::Vec(Shape::dashed_line_with_offset(&points, stroke, dashes, gaps, 0.0))),
    };
}

/// A colour as `#rrggbb`, for files.
pub fn hex(color: Color32) -> String {
    let [red, green, blue, _] = color.to_array();
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance and contrast as WCAG 2.2 defines them.
    fn contrast(a: Color32, b: Color32) -> f64 {
        let luminance = |color: Color32| {
            let channel = |byte: u8| {
                let value = f64::from(byte) / 255.0;
                if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(color.r()) + 0.7152 * channel(color.g()) + 0.0722 * channel(color.b())
        };
        let (high, low) = (luminance(a).max(luminance(b)), luminance(a).min(luminance(b)));
        (high + 0.05) / (low + 0.05)
    }

    #[test]
    fn text_can_be_read_in_both_themes() {
        for palette in [&DARK, &LIGHT] {
            for color in [palette.text, palette.dim, palette.accent, palette.ok, palette.warn, palette.error] {
                assert!(contrast(color, palette.panel) >= 4.5, "{color:?} on {:?}: {}", palette.panel, contrast(color, palette.panel));
            }
            assert!(contrast(palette.on_accent, palette.accent) >= 4.5);
            for part in 0..=20 {
                let color = palette.ramp(f64::from(part) / 20.0);
                assert!(contrast(color, palette.panel) >= 3.0, "{color:?} of {part}: {}", contrast(color, palette.panel));
            }
            // Curves are no text: WCAG 2.2, 1.4.11 wants 3:1 of graphics.
            for color in palette.series {
                assert!(contrast(color, palette.background) >= 3.0, "{color:?}");
            }
        }
    }

    #[test]
    fn ramps_meet_their_anchors_and_text_can_be_read_on_them() {
        assert_eq!((viridis(0.0), viridis(0.5), viridis(1.0)), (rgb(0x440154), rgb(0x21918c), rgb(0xfde725)));
        assert_eq!((viridis(-1.0), viridis(f32::NAN), viridis(7.0)), (rgb(0x440154), rgb(0x440154), rgb(0xfde725)));
        assert_eq!((diverging(-1.0), diverging(0.0), diverging(1.0)), (rgb(0x053061), rgb(0xf7f7f7), rgb(0x67001f)));
        let brightness = |color: Color32| contrast(color, Color32::BLACK);
        for step in 0..=100 {
            let t = step as f32 / 100.0;
            assert!(step == 0 || brightness(viridis(t)) >= brightness(viridis(t - 0.01)), "viridis gets darker at {t}");
            for ground in [viridis(t), diverging(2.0 * t - 1.0)] {
                assert!(contrast(text_on(ground), ground) >= 4.5, "{ground:?}");
            }
        }
    }
}
