//! The middle of the window: a chart a metric, grouped by the word before the slash, of every run that is shown.
//!
//! A chart asks its series for one column a pixel and paints least and greatest value as a band and the mean as a line, so a frame costs what the
//! window is wide, not what the runs are long. This file lays the charts out; `chart.rs` is one chart; `cache.rs` bounds what a frame asks for.

mod cache;
mod card;
mod chart;
mod export;
mod groups;
mod lines;
mod marks;
mod menu;
mod navigate;
mod range;
mod raster;
mod readout;
mod toolbar;

pub use cache::ColumnCache;
pub use card::Card;
pub use chart::plot_rect;
pub use export::Format;
pub use groups::GroupBy;
pub use navigate::Zoom;
pub use range::ChartOptions;

use super::Panel;
use super::commands::Action;
use super::theme::{self, Palette};
use crate::data::{Run, XAxis};
use chart::{Scene, whole_range};
use eframe::egui::{
    Align2, FontId, Grid, Id, Key, Popup, Rect, RichText, Role, ScrollArea, Sense, Shape, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How large charts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChartSize {
    /// Many at a time.
    Small,
    /// Two beside one another in a window of usual size.
    #[default]
    Medium,
    /// One across.
    Large,
}

impl ChartSize {
    /// All of them.
    pub const ALL: [ChartSize; 3] = [ChartSize::Small, ChartSize::Medium, ChartSize::Large];

    /// The word on screen.
    pub fn name(self) -> &'static str {
        match self {
            ChartSize::Small => "Small",
            ChartSize::Medium => "Medium",
            ChartSize::Large => "Large",
        }
    }

    // Least width before another column of charts fits, and height with title and axis.
    fn points(self) -> (f32, f32) {
        match self {
            ChartSize::Small => (200.0, 150.0),
            ChartSize::Medium => (300.0, 212.0),
            ChartSize::Large => (560.0, 330.0),
        }
    }
}

/// What is kept from one session to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ChartsView {
    /// Logarithmic x axis, where the axis can have one.
    pub log_x: bool,
    /// Peaks that would flatten the rest are cut off.
    pub cuts_outliers: bool,
    /// Runs are drawn as mean and deviation of their group.
    pub has_means: bool,
    /// What the runs of a group have in common; what seems best without one.
    pub group_by: Option<GroupBy>,
    /// All charts show the same range of x.
    pub is_linked: bool,
    /// How large charts are.
    pub size: ChartSize,
    /// Metrics at the top.
    pub pinned: BTreeSet<String>,
    /// The y axis of charts where people chose something, by metric.
    pub options: BTreeMap<String, ChartOptions>,
    /// Kinds of marks that are not shown.
    pub hidden_marks: BTreeSet<String>,
}

impl Default for ChartsView {
    fn default() -> ChartsView {
        ChartsView {
            log_x: false,
            cuts_outliers: true,
            has_means: false,
            group_by: None,
            is_linked: true,
            size: ChartSize::default(),
            pinned: BTreeSet::new(),
            options: BTreeMap::new(),
            hidden_marks: BTreeSet::new(),
        }
    }
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct ChartsState {
    /// The metric of the one chart that is shown, large.
    pub maximised: Option<String>,
    /// Words that a metric's name must have to be shown.
    pub filter: String,
    /// The point that was clicked.
    pub card: Option<Card>,
    /// What was asked of a chart's menu: carried out when the chart is drawn next.
    pub export: Option<(String, Format)>,
    /// Files under way.
    pub exports: export::Exports,
    /// The chart that had the focus in this frame.
    focused: Option<String>,
    /// Where the mouse is in this frame; becomes [`Zoom::cursor`] at its end.
    cursor: Option<(f64, String)>,
    /// The ends of y axes as they are typed, by metric.
    typed: HashMap<String, [String; 2]>,
    groups: groups::GroupCache,
    /// The first chart of the last frame: the one that is made large while the mouse is over none.
    first: Option<String>,
}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(panel: &mut Panel, action: Action) -> bool {
    match action {
        Action::LogX => {
            let is_log = panel.view.charts.log_x;
            set_log_x(panel, !is_log && x_axis_can_be_log(panel.view.x_axis));
        }
        Action::Outliers => panel.view.charts.cuts_outliers = !panel.view.charts.cuts_outliers,
        Action::GroupMean => panel.view.charts.has_means = !panel.view.charts.has_means,
        Action::Maximise => {
            let charts = &mut panel.session.charts;
            let hovered = || panel.session.zoom.cursor.as_ref().map(|(_, metric)| metric.clone());
            charts.maximised = match charts.maximised {
                Some(_) => None,
                None => charts.focused.clone().or_else(hovered).or(charts.first.clone()),
            };
        }
        _ => return false,
    }
    true
}

/// The time of day has no zero, so no logarithm.
fn x_axis_can_be_log(x_axis: XAxis) -> bool {
    x_axis != XAxis::Wall
}

fn set_log_x(panel: &mut Panel, is_log: bool) {
    panel.view.charts.log_x = is_log;
    panel.session.zoom.x = None;
    panel.session.zoom.own_x.clear();
}

/// The name of an x axis on screen.
pub fn x_axis_name(axis: XAxis) -> &'static str {
    match axis {
        XAxis::Step => "Step",
        XAxis::Epoch => "Epoch",
        XAxis::Samples => "Samples",
        XAxis::Relative => "Time",
        XAxis::Wall => "Clock (UTC)",
    }
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let snapshot = panel.snapshot.clone();
    let runs: Vec<&Arc<Run>> = snapshot.runs.iter().filter(|run| panel.view.is_shown(&run.id)).collect();
    let by = panel.view.charts.group_by.clone();
    let grouping = panel.session.charts.groups.grouping(&runs, by.as_ref());
    toolbar::show(ui, panel, &grouping);
    export::poll(panel);
    export::line(ui, panel);
    panel.session.columns.begin_frame();
    panel.session.charts.focused = None;

    let names: BTreeSet<&str> = runs.iter().flat_map(|run| run.series.keys().map(String::as_str)).collect();
    if names.is_empty() {
        let text = if snapshot.runs.is_empty() {
            "Curves appear here as soon as there is a run"
        } else if runs.is_empty() {
            "No run is shown: click the dot of one on the left"
        } else {
            "The shown runs have no numbers yet"
        };
        ui.centered_and_justified(|ui| ui.label(RichText::new(text).color(palette.dim)));
        return;
    }
    let filter = panel.session.charts.filter.to_lowercase();
    let is_wanted = |name: &&str| filter.split_whitespace().all(|word| name.to_lowercase().contains(word));
    let wanted: Vec<&str> = names.iter().copied().filter(is_wanted).collect();
    let x_scale = toolbar::x_scale(panel);
    let all = runs.iter().flat_map(|run| run.series.values()).map(Arc::as_ref);
    let whole_x = whole_range(all, panel.view.x_axis, x_scale);
    let scene = Scene {
        styles: Scene::styles(panel, &runs, palette),
        runs,
        grouping: panel.view.charts.has_means.then_some(grouping),
        whole_x,
        x_scale,
        half_life: half_life(panel.view.smoothing, whole_x),
    };

    escape(ui, panel);
    let large = panel.session.charts.maximised.clone().filter(|metric| names.contains(metric.as_str()));
    if let Some(metric) = large {
        let size = ui.available_size().max(vec2(160.0, 140.0));
        one(ui, panel, &scene, &metric, size);
    } else if wanted.is_empty() {
        ui.add_space(theme::GAP);
        ui.label(RichText::new("No chart has this in its name").color(palette.dim));
        if ui.button("Show all charts").clicked() {
            panel.session.charts.filter.clear();
        }
    } else {
        let groups = grouped(&wanted, &panel.view.charts.pinned);
        panel.session.charts.first = groups.first().and_then(|(_, metrics)| metrics.first()).map(|metric| (*metric).to_owned());
        ScrollArea::vertical().id_salt("curves").auto_shrink(false).show(ui, |ui| {
            for (title, metrics) in groups {
                group(ui, panel, &scene, title, &metrics);
            }
        });
    }
    card::show(ui, panel, &scene.runs);
    panel.session.zoom.cursor = panel.session.charts.cursor.take();
    if panel.session.columns.has_quick() {
        ui.ctx().request_repaint();
    }
}

// In units of the x axis: a part of its whole length, so that zooming changes no curve. The square gives the slider its fineness at the low end.
fn half_life(smoothing: f64, (low, high): (f64, f64)) -> f64 {
    smoothing * smoothing * 0.05 * (high - low)
}

// Escape takes away the card, then the large chart.
fn escape(ui: &Ui, panel: &mut Panel) {
    let context = ui.ctx();
    let charts = &mut panel.session.charts;
    let is_ours = !context.text_edit_focused() && !Popup::is_any_open(context);
    if is_ours && ui.input(|input| input.key_pressed(Key::Escape)) && charts.card.take().is_none() {
        charts.maximised = None;
    }
}

// Pinned ones first, then training, then the rest; in a group what people look at first.
fn grouped<'a>(names: &[&'a str], pinned: &BTreeSet<String>) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let group = name.split_once('/').map_or("other", |(group, _)| group);
        groups.entry(if pinned.contains(*name) { "Pinned" } else { group }).or_default().push(name);
    }
    for metrics in groups.values_mut() {
        metrics.sort_by_key(|name| (rank(name), *name));
    }
    let mut groups: Vec<(&str, Vec<&str>)> = groups.into_iter().collect();
    let place = |group: &str| match group {
        "Pinned" => 0,
        "train" => 1,
        // What the machine does comes after what is learnt.
        "time" | "system" => 3,
        _ => 2,
    };
    groups.sort_by_key(|(group, _)| (place(group), *group));
    groups
}

fn rank(name: &str) -> usize {
    let last = name.rsplit('/').next().unwrap_or(name);
    ["loss", "accuracy", "perplexity", "lr", "samples_per_sec"].iter().position(|known| *known == last).unwrap_or(9)
}

fn group(ui: &mut Ui, panel: &mut Panel, scene: &Scene, title: &str, metrics: &[&str]) {
    let mut is_open = !panel.view.closed_groups.contains(title);
    group_heading(ui, title, metrics.len(), &mut is_open);
    if is_open {
        panel.view.closed_groups.remove(title);
    } else {
        panel.view.closed_groups.insert(title.into());
        return;
    }
    let (least, height) = panel.view.charts.size.points();
    let width = ui.available_width();
    let column_count = ((width / least) as usize).clamp(1, 8);
    let size = vec2((width - theme::GAP * (column_count - 1) as f32) / column_count as f32, height);
    Grid::new(("charts", title)).num_columns(column_count).spacing([theme::GAP, theme::GAP]).show(ui, |ui| {
        for (index, metric) in metrics.iter().enumerate() {
            one(ui, panel, scene, metric, size);
            if index % column_count == column_count - 1 {
                ui.end_row();
            }
        }
    });
    ui.add_space(theme::GAP);
}

fn one(ui: &mut Ui, panel: &mut Panel, scene: &Scene, metric: &str, size: eframe::egui::Vec2) {
    let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
    // By its name, so that it keeps focus and menu when others come before it.
    let response = ui.interact(rect, Id::unique(("chart of", metric)), Sense::click_and_drag());
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, format!("Chart of {metric}")));
    if response.gained_focus() {
        response.scroll_to_me(None);
    }
    // Charts out of sight ask for no columns.
    if ui.is_rect_visible(rect) {
        chart::show(ui, panel, scene, metric, rect, &response);
    }
}

fn group_heading(ui: &mut Ui, title: &str, count: usize, is_open: &mut bool) {
    let palette = Palette::of(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), theme::ROW_HEIGHT), Sense::click());
    response.widget_info(|| WidgetInfo::selected(Role::DisclosureTriangle, true, *is_open, format!("Group {title}")));
    if response.clicked() {
        *is_open = !*is_open;
    }
    let painter = ui.painter_at(rect);
    let middle = pos2(rect.left() + 7.0, rect.center().y);
    let corners = if *is_open { [(-4.0, -2.0), (4.0, -2.0), (0.0, 3.5)] } else { [(-2.0, -4.0), (3.5, 0.0), (-2.0, 4.0)] };
    let corners = corners.iter().map(|(x, y)| middle + vec2(*x, *y)).collect();
    painter.add(Shape::convex_polygon(corners, palette.dim, Stroke::NONE));
    let text: Rect =
        painter.text(pos2(rect.left() + 18.0, rect.center().y), Align2::LEFT_CENTER, title, FontId::proportional(14.0), palette.text);
    painter.text(
        pos2(text.right() + 7.0, rect.center().y + 0.5),
        Align2::LEFT_CENTER,
        count.to_string(),
        FontId::proportional(11.0),
        palette.dim,
    );
    if response.has_focus() {
        painter.rect_stroke(rect, 4.0, Stroke::new(1.0, palette.accent), StrokeKind::Inside);
    }
}
