//! Pictures, matrices, histograms, texts and tables of the selected run, and of the run it is compared with beside it.
//!
//! One card a metric, one file a kind in `media/`. All cards show the last step up to the one chosen at the top, or the newest; a card's own slider
//! moves it alone, until the one at the top moves again. Cards out of sight ask for nothing: [`MediaReader`] reads what is drawn.

pub mod histogram;
pub mod matrix;
pub mod picture;
pub mod table;
pub mod text;

use super::theme::{self, Palette};
use super::{Panel, run_name};
use crate::data::{Item, LATEST_TABLES, LATEST_TEXTS, Listing, Media, MediaKey, MediaReader, Run, Saved, Want};
use eframe::egui::{
    self, Align, Button, Color32, CornerRadius, Frame, Id, Layout, Margin, Rect, Response, RichText, Role, ScrollArea, Sense, Shape,
    Slider, Stroke, TextEdit, TextureHandle, Ui, UiBuilder, WidgetInfo, pos2, vec2,
};
use serde::{Deserialize, Serialize};
use solstice_store::{MetricKind, MetricSummary};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of pictures that go to the screen's memory in one frame; more come with the next.
const UPLOAD_BYTES_MAX: usize = 24 << 20;
/// A texture that was not drawn for so many frames is let go.
const TEXTURE_FRAMES: u64 = 120;
/// Comparisons of texts, and orders of tables, that are kept.
const WORKED_OUT_MAX: usize = 64;
/// What a card takes before it was drawn.
const CARD_HEIGHT: f32 = 280.0;

/// The kinds of media in the order of the panel, with the names of their chips.
const KINDS: [(MetricKind, &str); 5] = [
    (MetricKind::Image, "Images"),
    (MetricKind::Matrix, "Matrices"),
    (MetricKind::Histogram, "Histograms"),
    (MetricKind::Text, "Texts"),
    (MetricKind::Table, "Tables"),
];

/// What is kept from one session to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaView {
    /// Kinds that are not shown, by the name of their chip.
    pub hidden_kinds: BTreeSet<String>,
    /// Part of the names that are shown.
    pub filter: String,
    /// The newest step is shown.
    pub is_live: bool,
    /// The step that is shown otherwise.
    pub step: u64,
    /// What a matrix shows.
    pub shares: matrix::Shares,
    /// How histograms are drawn.
    pub histogram: histogram::Mode,
    /// Texts in letters of one width.
    pub is_monospace: bool,
    /// Texts as what changed since the step before.
    pub shows_changes: bool,
}

impl Default for MediaView {
    fn default() -> MediaView {
        MediaView {
            hidden_kinds: BTreeSet::new(),
            filter: String::new(),
            is_live: true,
            step: 0,
            shares: matrix::Shares::default(),
            histogram: histogram::Mode::default(),
            is_monospace: true,
            shows_changes: false,
        }
    }
}

/// What lasts as long as the window.
#[derive(Default)]
pub struct MediaState {
    /// Where media come from.
    pub reader: Option<Arc<MediaReader>>,
    /// The run that all below is about.
    run: String,
    /// Steps of cards that were moved by themselves.
    own_steps: HashMap<CardKey, u64>,
    /// Heights of rows of cards, by the first of a row.
    heights: HashMap<CardKey, f32>,
    /// The picture that fills the panel.
    enlarged: Option<Enlarged>,
    /// The first picture of a grid that is shown, where not all are.
    pages: HashMap<String, usize>,
    saving: Option<Saving>,
    textures: HashMap<(Arc<Path>, i64), Texture>,
    uploaded_bytes: usize,
    frame: u64,
    histograms: HashMap<MediaKey, Arc<histogram::Sheet>>,
    changes: HashMap<(Arc<Path>, i64), Arc<text::Changes>>,
    sorts: HashMap<String, table::Sort>,
    orders: HashMap<(Arc<Path>, i64), table::Order>,
}

impl std::fmt::Debug for MediaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaState").field("own_steps", &self.own_steps).field("enlarged", &self.enlarged).finish_non_exhaustive()
    }
}

/// Kind and name of a metric.
type CardKey = (MetricKind, String);

#[derive(Clone, Debug, PartialEq)]
struct Enlarged {
    key: MediaKey,
    /// Which of the pictures of its step.
    index: usize,
}

/// A picture on its way to a file.
struct Saving {
    path: String,
    /// How many had been saved before.
    asked: Option<PathBuf>,
}

struct Texture {
    handle: TextureHandle,
    frame: u64,
}

/// A run whose media are shown.
#[derive(Clone)]
struct Side {
    run: Arc<Run>,
    path: Arc<Path>,
    color: Color32,
    /// Part of the names of its controls while two runs are shown.
    suffix: String,
}

impl Side {
    fn key(&self, kind: MetricKind, name: &str) -> MediaKey {
        MediaKey { run: self.path.clone(), kind, name: name.to_owned() }
    }
}

/// What a card works with.
struct Desk<'a> {
    view: &'a mut MediaView,
    state: &'a mut MediaState,
    media: Arc<Media>,
    palette: &'static Palette,
    sides: Vec<Side>,
    wants: Vec<Want>,
}

impl Desk<'_> {
    fn want(&mut self, key: &MediaKey) -> &mut Want {
        let index = self.wants.iter().position(|want| want.key == *key).unwrap_or_else(|| {
            self.wants.push(Want { key: key.clone(), ids: Vec::new() });
            self.wants.len() - 1
        });
        &mut self.wants[index]
    }

    // The rows of a metric; asks for them.
    fn listing(&mut self, key: &MediaKey) -> Option<Arc<Listing>> {
        self.want(key);
        self.media.listing(key).cloned()
    }

    // What was logged in a row; asks for it.
    fn item(&mut self, key: &MediaKey, id: i64) -> Option<Arc<Item>> {
        self.want(key).ids.push(id);
        self.media.item(key, id).cloned()
    }

    // The step that a card shows: its last one up to this.
    fn step(&self, kind: MetricKind, name: &str) -> u64 {
        let own = self.state.own_steps.get(&(kind, name.to_owned())).copied();
        own.unwrap_or(if self.view.is_live { u64::MAX } else { self.view.step })
    }

    // The picture in the screen's memory; `None` when this frame has uploaded enough.
    fn texture(&mut self, ui: &Ui, key: &MediaKey, id: i64, picture: &crate::data::Picture) -> Option<egui::TextureId> {
        let frame = self.state.frame;
        if let Some(texture) = self.state.textures.get_mut(&(key.run.clone(), id)) {
            texture.frame = frame;
            return Some(texture.handle.id());
        }
        if self.state.uploaded_bytes > 0 && self.state.uploaded_bytes + picture.rgba.len() > UPLOAD_BYTES_MAX {
            ui.ctx().request_repaint();
            return None;
        }
        self.state.uploaded_bytes += picture.rgba.len();
        let image = egui::ColorImage::from_rgba_unmultiplied(picture.size, &picture.rgba);
        // Small pictures are drawn as the squares they are made of.
        let options = egui::TextureOptions { magnification: egui::TextureFilter::Nearest, ..egui::TextureOptions::LINEAR };
        let handle = ui.ctx().load_texture(format!("{} {id}", key.name), image, options);
        let shown = handle.id();
        self.state.textures.insert((key.run.clone(), id), Texture { handle, frame });
        Some(shown)
    }
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let Some(run) = panel.selected() else {
        ui.label(RichText::new("Select a run on the left to see its pictures, matrices, histograms, texts and tables").color(palette.dim));
        return;
    };
    let Some(reader) = panel.session.media.reader.clone() else { return };
    let mut state = std::mem::take(&mut panel.session.media);
    let mut view = std::mem::take(&mut panel.view.media);
    if state.run != run.id {
        let kept = MediaState { reader: state.reader.take(), textures: std::mem::take(&mut state.textures), ..MediaState::default() };
        state = MediaState { run: run.id.clone(), ..kept };
    }
    state.frame += 1;
    state.uploaded_bytes = 0;
    let frame = state.frame;
    state.textures.retain(|_, texture| texture.frame + TEXTURE_FRAMES > frame);
    // Quickly made again.
    if state.changes.len() > WORKED_OUT_MAX {
        state.changes.clear();
    }
    if state.orders.len() > WORKED_OUT_MAX {
        state.orders.clear();
    }

    let other = panel.view.baseline.as_ref().filter(|id| **id != run.id);
    let other = other.and_then(|id| panel.snapshot.runs.iter().find(|run| run.id == *id)).cloned();
    let is_pair = other.is_some();
    let sides = [Some(run), other].into_iter().flatten().map(|run| Side {
        path: Arc::from(run.path.as_path()),
        color: palette.run(panel.view.color_slot(&run.id)),
        suffix: if is_pair { format!(" of {}", run_name(&run)) } else { String::new() },
        run,
    });
    let sides = sides.collect();
    let mut desk = Desk { view: &mut view, state: &mut state, media: reader.media(), palette, sides, wants: Vec::new() };
    let version = desk.media.version;
    match desk.state.enlarged.clone() {
        Some(enlarged) => picture::enlarged(ui, &mut desk, &reader, enlarged),
        None => overview(ui, &mut desk),
    }
    let wants = desk.wants;
    reader.want(wants);
    if reader.media().version != version {
        ui.ctx().request_repaint();
    }
    panel.session.media = state;
    panel.view.media = view;
}

// Of this kind, and without a panel of its own.
fn is_media(metric: &MetricSummary, kind: MetricKind) -> bool {
    let name = metric.name.as_str();
    metric.kind == kind && metric.count > 0 && !LATEST_TABLES.contains(&name) && !LATEST_TEXTS.contains(&name)
}

fn overview(ui: &mut Ui, desk: &mut Desk) {
    let run = desk.sides[0].run.clone();
    let of_kind = |kind: MetricKind| run.metrics.iter().filter(move |metric| is_media(metric, kind));
    if KINDS.iter().all(|(kind, _)| of_kind(*kind).next().is_none()) {
        empty(ui, desk.palette);
        return;
    }
    let filter = desk.view.filter.trim().to_lowercase();
    let names = |kind: MetricKind| -> Vec<String> {
        of_kind(kind).map(|metric| metric.name.clone()).filter(|name| name.to_lowercase().contains(&filter)).collect()
    };
    let groups: Vec<(MetricKind, &str, Vec<String>)> = KINDS.into_iter().map(|(kind, title)| (kind, title, names(kind))).collect();
    chips(ui, desk, &groups);
    let shown: Vec<&(MetricKind, &str, Vec<String>)> =
        groups.iter().filter(|(_, title, names)| !names.is_empty() && !desk.view.hidden_kinds.contains(*title)).collect();
    steps_of_all(ui, desk, &shown);
    ui.add_space(4.0);
    if shown.is_empty() {
        ui.label(RichText::new("Nothing is left by the chips and the filter above").color(desk.palette.dim));
        return;
    }
    ScrollArea::vertical().id_salt("media").auto_shrink(false).show(ui, |ui| {
        for (index, (kind, title, names)) in shown.into_iter().enumerate() {
            if index > 0 {
                ui.add_space(theme::GAP);
            }
            heading(ui, desk, *kind, title);
            cards(ui, desk, *kind, names);
        }
    });
}

fn empty(ui: &mut Ui, palette: &Palette) {
    ui.label("This run has logged no pictures, matrices, histograms, texts or tables");
    ui.label(RichText::new("Metrics and callbacks log them. Add a line to the recipe, and start a run:").color(palette.dim));
    ui.add_space(theme::GAP);
    let lines = [
        ("Which classes are taken for which", "metrics: [confusion()],"),
        ("Pictures of samples, with what the model says", "callbacks: [sample_images(count: 16)],"),
        ("Histograms of gradients and weights", "callbacks: [gradient_histogram(every: \"1ep\", weights: true)],"),
        ("Text that a language model writes", "callbacks: [generate_text(prompt: \"\", length: 200)],"),
    ];
    for (what, line) in lines {
        ui.label(RichText::new(what).color(palette.dim));
        ui.horizontal(|ui| {
            ui.add(egui::Label::new(RichText::new(line).monospace()).selectable(true));
            let name = line.split(['[', '(']).nth(1).unwrap_or_default();
            if ui.button("Copy").accessible_name(format!("Copy the line for {name}")).clicked() {
                ui.ctx().copy_text(line.to_owned());
            }
        });
        ui.add_space(4.0);
    }
    ui.label(RichText::new("Tables come from callbacks of your own: Entry::Table").color(palette.dim));
}

fn chips(ui: &mut Ui, desk: &mut Desk, groups: &[(MetricKind, &str, Vec<String>)]) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        // A kind whose metrics are all filtered out keeps its chip: nothing moves while a name is typed.
        let is_there = |kind: MetricKind| desk.sides[0].run.metrics.iter().any(|metric| is_media(metric, kind));
        let there: Vec<_> = groups.iter().filter(|(kind, _, _)| is_there(*kind)).collect();
        for (_, title, names) in there {
            let is_shown = !desk.view.hidden_kinds.contains(*title);
            let chip = ui.add(Button::selectable(is_shown, format!("{title} {}", names.len()))).accessible_name(format!("Show {title}"));
            if chip.clicked() {
                if is_shown {
                    desk.view.hidden_kinds.insert((*title).to_owned());
                } else {
                    desk.view.hidden_kinds.remove(*title);
                }
            }
        }
        ui.add_space(4.0);
        let field = TextEdit::singleline(&mut desk.view.filter)
            .id_salt("filter of media")
            .hint_text("Filter by name")
            .desired_width(120.0)
            .align(egui::Align2::LEFT_CENTER);
        ui.add(field).accessible_name("Filter of media");
        if let [_, other] = &desk.sides[..] {
            ui.add_space(4.0);
            let text = format!("beside {}", run_name(&other.run));
            ui.label(RichText::new(text).color(desk.palette.dim)).on_hover_text("The run that others are compared with (B)");
        }
    });
}

// The step of every card at once.
fn steps_of_all(ui: &mut Ui, desk: &mut Desk, shown: &[&(MetricKind, &str, Vec<String>)]) {
    let mut listings = Vec::new();
    for (kind, _, names) in shown {
        for name in names {
            let keys: Vec<MediaKey> = desk.sides.iter().map(|side| side.key(*kind, name)).collect();
            listings.extend(keys.iter().filter_map(|key| desk.media.listing(key).cloned()));
        }
    }
    let mut last = listings.iter().filter_map(|listing| listing.steps()).map(|(_, last)| last).max().unwrap_or(0);
    // Cards out of sight are not listed yet, but counted.
    for side in &desk.sides {
        let metrics = side
            .run
            .metrics
            .iter()
            .filter(|metric| shown.iter().any(|(kind, _, names)| *kind == metric.kind && names.contains(&metric.name)));
        last = metrics.filter_map(|metric| metric.last_step).fold(last, u64::max);
    }
    ui.horizontal(|ui| {
        ui.label(RichText::new("Step").color(desk.palette.dim));
        let current = if desk.view.is_live { last } else { desk.view.step.min(last) };
        let width = (ui.available_width() - 210.0).clamp(80.0, 420.0);
        if let Some(step) = step_control(ui, desk.palette, "Step of all", &listings, current, Some(last), width) {
            desk.view.step = step;
            desk.view.is_live = false;
            desk.state.own_steps.clear();
        }
        let live = ui.add(Button::selectable(desk.view.is_live, "Live")).on_hover_text("Always the newest step");
        if live.clicked() {
            desk.view.is_live = !desk.view.is_live;
            desk.view.step = current;
            desk.state.own_steps.clear();
        }
    });
}

// Two arrows and a slider over the steps of `listings`: the step that is asked for, if one is.
fn step_control(
    ui: &mut Ui,
    palette: &Palette,
    name: &str,
    listings: &[Arc<Listing>],
    current: u64,
    last: Option<u64>,
    width: f32,
) -> Option<u64> {
    let first = listings.iter().filter_map(|listing| listing.steps()).map(|(first, _)| first).min()?;
    let last = last.or_else(|| listings.iter().filter_map(|listing| listing.steps()).map(|(_, last)| last).max())?;
    let before = |step: u64| listings.iter().filter_map(|listing| listing.step_before(step)).max();
    let after = |step: u64| listings.iter().filter_map(|listing| listing.step_after(step)).min();
    let current = current.clamp(first, last);
    let mut chosen = None;
    ui.spacing_mut().item_spacing.x = 4.0;
    if arrow(ui, palette, false, before(current).is_some(), &format!("{name}, back")).clicked() {
        chosen = before(current);
    }
    let mut value = current;
    ui.spacing_mut().slider_width = width;
    let slider = ui.add_enabled(first < last, Slider::new(&mut value, first..=last.max(first + 1)).show_value(false));
    let slider = slider.accessible_name(name);
    if slider.changed() && value != current {
        let nearest = match (before(value.saturating_add(1)), after(value)) {
            (Some(low), Some(high)) => {
                if value - low <= high - value {
                    low
                } else {
                    high
                }
            }
            (low, high) => low.or(high).unwrap_or(value),
        };
        // A key moves by one, which may be less than to the next step.
        let is_key = nearest == current && !slider.dragged();
        chosen = if is_key { if value > current { after(current) } else { before(current) } } else { Some(nearest) };
    }
    if arrow(ui, palette, true, after(current).is_some(), &format!("{name}, forward")).clicked() {
        chosen = after(current);
    }
    ui.label(RichText::new(format!("step {current}")).small().color(palette.dim));
    chosen.filter(|chosen| *chosen != current)
}

fn arrow(ui: &mut Ui, palette: &Palette, is_forward: bool, is_enabled: bool, name: &str) -> Response {
    let sense = if is_enabled { Sense::click() } else { Sense::hover() };
    let (rect, response) = ui.allocate_exact_size(vec2(20.0, 20.0), sense);
    response.widget_info(|| WidgetInfo::labeled(Role::Button, is_enabled, name));
    if is_enabled {
        let visuals = ui.style().interact(&response);
        ui.painter().rect(rect, visuals.corner_radius, visuals.bg_fill, visuals.bg_stroke, egui::StrokeKind::Inside);
    }
    let color = if is_enabled { palette.text } else { palette.line };
    let (middle, way) = (rect.center(), if is_forward { 1.0 } else { -1.0 });
    let corners = [(-2.5, -4.0), (3.0, 0.0), (-2.5, 4.0)].map(|(x, y)| pos2(middle.x + way * x, middle.y + y));
    ui.painter().add(Shape::convex_polygon(corners.to_vec(), color, Stroke::NONE));
    response
}

// The name of a group, and what all its cards share.
fn heading(ui: &mut Ui, desk: &mut Desk, kind: MetricKind, title: &str) {
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(title).color(desk.palette.accent));
        ui.add_space(4.0);
        ui.spacing_mut().item_spacing.x = 2.0;
        match kind {
            MetricKind::Matrix => {
                for (shares, name) in matrix::SHARES {
                    ui.selectable_value(&mut desk.view.shares, shares, name);
                }
            }
            MetricKind::Histogram => {
                for (mode, name) in histogram::MODES {
                    ui.selectable_value(&mut desk.view.histogram, mode, name);
                }
            }
            MetricKind::Text => {
                ui.toggle_value(&mut desk.view.is_monospace, "Monospace");
                ui.toggle_value(&mut desk.view.shows_changes, "Changes").on_hover_text("What changed since the step before");
            }
            _ => {}
        }
    });
}

// Least width of what is shown of one run before another column of cards fits.
fn side_width_min(kind: MetricKind) -> f32 {
    match kind {
        MetricKind::Image | MetricKind::Histogram => 270.0,
        _ => 330.0,
    }
}

fn cards(ui: &mut Ui, desk: &mut Desk, kind: MetricKind, names: &[String]) {
    let gap = theme::GAP;
    let width = ui.available_width();
    let least = side_width_min(kind) * desk.sides.len() as f32;
    let column_count = (((width + gap) / (least + gap)) as usize).clamp(1, 4).min(names.len().max(1));
    let card_width = ((width - gap * (column_count - 1) as f32) / column_count as f32).floor();
    for row in names.chunks(column_count) {
        let first = (kind, row[0].clone());
        let height = desk.state.heights.get(&first).copied().unwrap_or(CARD_HEIGHT);
        let place = Rect::from_min_size(ui.cursor().min, vec2(width, height));
        if !ui.is_rect_visible(place) {
            ui.allocate_space(place.size());
            continue;
        }
        let mut bottom = place.top();
        for (column, name) in row.iter().enumerate() {
            let corner = pos2(place.left() + column as f32 * (card_width + gap), place.top());
            let room = Rect::from_min_size(corner, vec2(card_width, f32::INFINITY));
            let salt = Id::unique(("media card", kind.name(), name.as_str()));
            let builder = UiBuilder::new().id_salt(salt).max_rect(room).layout(Layout::top_down(Align::Min));
            let mut inner = ui.new_child(builder);
            card(&mut inner, desk, kind, name, card_width);
            bottom = bottom.max(inner.min_rect().bottom());
        }
        desk.state.heights.insert(first, bottom - place.top());
        ui.allocate_rect(Rect::from_min_max(place.min, pos2(place.right(), bottom)), Sense::hover());
    }
}

fn card(ui: &mut Ui, desk: &mut Desk, kind: MetricKind, name: &str, width: f32) {
    let palette = desk.palette;
    let margin = 8.0;
    let frame = Frame::new().fill(palette.background).corner_radius(CornerRadius::same(4)).inner_margin(Margin::same(margin as i8));
    frame.show(ui, |ui| {
        ui.set_width(width - 2.0 * margin);
        let sides = desk.sides.clone();
        let keys: Vec<MediaKey> = sides.iter().map(|side| side.key(kind, name)).collect();
        let listings: Vec<Option<Arc<Listing>>> = keys.iter().map(|key| desk.listing(key)).collect();
        let step = desk.step(kind, name);
        ui.horizontal(|ui| {
            let known: Vec<Arc<Listing>> = listings.iter().flatten().cloned().collect();
            let shown = known.iter().filter_map(|listing| listing.rows.get(listing.at(step).start)).map(|row| row.step).max().unwrap_or(0);
            let slider_width = (ui.available_width() * 0.5 - 110.0).clamp(44.0, 140.0);
            let text = ui.painter().layout_no_wrap(format!("step {shown}"), egui::TextStyle::Small.resolve(ui.style()), palette.dim);
            // Two arrows, the gaps, the slider, the step.
            let control_width = slider_width + 54.0 + text.size().x;
            let title_width = (ui.available_width() - control_width - theme::GAP).max(60.0);
            let title = egui::Label::new(RichText::new(name).color(palette.text)).truncate();
            ui.scope(|ui| {
                ui.set_max_width(title_width);
                ui.add(title);
            });
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                ui.allocate_ui_with_layout(vec2(control_width, theme::ROW_HEIGHT), Layout::left_to_right(Align::Center), |ui| {
                    if let Some(step) = step_control(ui, palette, &format!("Step of {name}"), &known, shown, None, slider_width) {
                        desk.state.own_steps.insert((kind, name.to_owned()), step);
                    }
                });
            });
        });
        let mut one = |ui: &mut Ui, index: usize| {
            let Some(listing) = &listings[index] else {
                waiting(ui, palette, None);
                return;
            };
            if let Some(problem) = &listing.problem {
                ui.label(RichText::new(problem).color(palette.error));
            }
            let rows = listing.at(step);
            if rows.is_empty() {
                if listing.problem.is_none() {
                    ui.label(RichText::new("Nothing logged under this name").color(palette.dim));
                }
                return;
            }
            let (side, key) = (&sides[index], &keys[index]);
            match kind {
                MetricKind::Image => picture::show(ui, desk, side, key, listing, rows),
                MetricKind::Matrix => matrix::show(ui, desk, side, key, listing, rows),
                MetricKind::Histogram => histogram::show(ui, desk, side, key, listing, rows),
                MetricKind::Text => text::show(ui, desk, side, key, listing, rows),
                MetricKind::Table => table::show(ui, desk, side, key, listing, rows),
                MetricKind::Scalar => {}
            }
        };
        if sides.len() == 1 {
            one(ui, 0);
            return;
        }
        ui.spacing_mut().item_spacing.x = 16.0;
        ui.columns(sides.len(), |columns| {
            for (index, ui) in columns.iter_mut().enumerate() {
                ui.spacing_mut().item_spacing.x = theme::GAP;
                let step = listings[index].as_ref().and_then(|listing| listing.rows.get(listing.at(step).start)).map(|row| row.step);
                let text = step.map_or(run_name(&sides[index].run), |step| format!("{}, step {step}", run_name(&sides[index].run)));
                ui.add(egui::Label::new(RichText::new(text).small().color(sides[index].color)).truncate());
                ui.with_layout(Layout::top_down(Align::Min), |ui| one(ui, index));
            }
        });
    });
}

// What stands where something is not read yet, or cannot be.
fn waiting(ui: &mut Ui, palette: &Palette, item: Option<&Item>) {
    match item {
        Some(Item::Problem(problem)) => ui.add(egui::Label::new(RichText::new(problem).color(palette.error)).wrap()),
        _ => ui.label(RichText::new("Reading…").color(palette.dim)),
    };
}

// "2 of 5" below a card that shows one of several rows of a step.
fn count_text(index: usize, rows: &Range<usize>) -> String {
    format!("{} of {}", index + 1, rows.len())
}

fn last_saved<'a>(media: &'a Media, path: &Path) -> Option<&'a Saved> {
    media.saved.iter().rev().find(|saved| saved.path == path)
}
