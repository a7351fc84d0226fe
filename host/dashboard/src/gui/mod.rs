//! The window: panels over the snapshots of [`crate::data`]. It never opens a store, loads a plugin or waits for a lock while it paints.
//!
//! A frame: take the newest snapshot, draw each panel of it, then carry out what was asked. One panel is one file; every colour stands in
//! `theme.rs`, every command in `commands.rs`. An idle window does not paint: the data layer asks for a frame when something has changed.

pub mod axis;
pub mod commands;
pub mod control;
pub mod curves;
pub mod detail;
pub mod launch;
pub mod library;
pub mod media;
pub mod model;
pub mod profile;
pub mod runs;
pub mod source;
pub mod sweep;
pub mod table;
pub mod theme;

use crate::data::{Host, Run, Snapshot, XAxis};
use commands::{Action, CommandPalette};
use control::ControlState;
use curves::{ColumnCache, Zoom};
use detail::Page;
use eframe::egui::{self, Align, Button, Color32, Frame, Id, Layout, Margin, RichText, Stroke, Ui, Visuals, WidgetText};
use egui_tiles::{Behavior, Container, Linear, LinearDir, SimplificationOptions, TabState, Tile, TileId, Tiles, Tree, UiResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use solstice_store::RunState;
use source::{Request, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many runs have curves when they are first seen; of more, the older ones are listed only.
const SHOWN_AT_FIRST: usize = 8;
/// A longer name of a run is cut.
const NAME_CHARS_MAX: usize = 160;
/// How long news may wait for a frame where a processor draws: with what looking for them takes, less than
/// the 300 ms that they may take to the screen.
const SOFTWARE_PACE: Duration = Duration::from_millis(150);
/// By how much a window that a processor draws stands back behind runs.
const SOFTWARE_NICE: i32 = 10;
/// Key of the kept part in the window's storage.
const STORAGE_KEY: &str = "dashboard";

/// The panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pane {
    /// `runs.rs`: the list on the left.
    Runs,
    /// `library.rs`: what the plugins offer, and the recipes.
    Library,
    /// `curves/`: scalars.
    Curves,
    /// `table.rs`: runs in rows, settings and metrics in columns.
    Table,
    /// `media.rs`: pictures, matrices, histograms, texts and tables of the selected run.
    Media,
    /// `sweep.rs`: settings against a result over many runs.
    Sweep,
    /// `model.rs`: the model's modules and graph.
    Model,
    /// `profile.rs`: where a step's time and memory go.
    Profile,
    /// `launch.rs`: the form for a new run.
    Launch,
    /// `control.rs`
    Control,
    /// `detail.rs`
    Detail,
}

impl Pane {
    /// All of them, in the order of the default layout.
    pub const ALL: [Pane; 11] = [
        Pane::Runs,
        Pane::Library,
        Pane::Curves,
        Pane::Table,
        Pane::Media,
        Pane::Sweep,
        Pane::Model,
        Pane::Profile,
        Pane::Launch,
        Pane::Control,
        Pane::Detail,
    ];

    /// What its tab says.
    pub fn title(self) -> &'static str {
        match self {
            Pane::Runs => "Runs",
            Pane::Library => "Library",
            Pane::Curves => "Curves",
            Pane::Table => "Table",
            Pane::Media => "Media",
            Pane::Sweep => "Sweep",
            Pane::Model => "Model",
            Pane::Profile => "Profile",
            Pane::Launch => "Launch",
            Pane::Control => "Control",
            Pane::Detail => "Detail",
        }
    }
}

/// What is kept from one session to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// Dark, light, or as the system has it.
    pub theme: egui::ThemePreference,
    /// The x axis of all charts.
    #[serde(with = "axis_name")]
    pub x_axis: XAxis,
    /// Logarithmic y axes.
    pub log_y: bool,
    /// Part of a curve's length that is averaged over; 0 is raw.
    pub smoothing: f64,
    /// Runs without curves.
    pub hidden: BTreeSet<String>,
    /// The colour of each run that was ever seen: it belongs to the run.
    pub colors: BTreeMap<String, usize>,
    /// The filter of the list.
    pub filter: String,
    /// The run that control and detail are about.
    pub selected: Option<String>,
    /// Further selected runs.
    pub also: BTreeSet<String>,
    /// The run that others are compared with.
    pub baseline: Option<String>,
    /// The page of the detail panel.
    pub page: Page,
    /// Settings that are the same stand in the comparison too.
    pub compare_all: bool,
    /// Groups of charts that are folded.
    pub closed_groups: BTreeSet<String>,
    /// Size of the window's contents.
    pub scale: f32,
    /// Of the charts.
    pub charts: curves::ChartsView,
    /// Of the table of runs.
    pub table: table::TableView,
    /// Of pictures, matrices, histograms, texts and tables.
    pub media: media::MediaView,
    /// Of the comparison over many runs.
    pub sweep: sweep::SweepView,
    /// Of the model.
    pub model: model::ModelView,
    /// Of time and memory.
    pub profile: profile::ProfileView,
    /// Of the library.
    pub library: library::LibraryView,
    /// Of the form for new runs.
    pub launch: launch::LaunchView,
    /// Colours that people gave, by run: as the labels of the last snapshot say.
    #[serde(skip)]
    labelled: BTreeMap<String, usize>,
    /// Where the panels are.
    tree: Tree<Pane>,
}

impl Default for View {
    fn default() -> View {
        View {
            theme: egui::ThemePreference::Dark,
            x_axis: XAxis::default(),
            log_y: false,
            smoothing: 0.0,
            hidden: BTreeSet::new(),
            colors: BTreeMap::new(),
            filter: String::new(),
            selected: None,
            also: BTreeSet::new(),
            baseline: None,
            page: Page::default(),
            compare_all: false,
            closed_groups: BTreeSet::new(),
            scale: 1.0,
            charts: curves::ChartsView::default(),
            table: table::TableView::default(),
            media: media::MediaView::default(),
            sweep: sweep::SweepView::default(),
            model: model::ModelView::default(),
            profile: profile::ProfileView::default(),
            library: library::LibraryView::default(),
            launch: launch::LaunchView::default(),
            labelled: BTreeMap::new(),
            tree: default_tree(),
        }
    }
}

impl View {
    /// The run has curves.
    pub fn is_shown(&self, id: &str) -> bool {
        !self.hidden.contains(id)
    }

    /// Gives the run curves, or takes them away.
    pub fn set_shown(&mut self, id: &str, is_shown: bool) {
        if is_shown {
            self.hidden.remove(id);
        } else {
            self.hidden.insert(id.into());
        }
    }

    /// Brings a panel to the front; one that is not in the window any more comes back.
    pub fn show_pane(&mut self, pane: Pane) {
        if self.tree.tiles.find_pane(&pane).is_none() {
            let tile = self.tree.tiles.insert_pane(pane);
            let beside = Pane::ALL.iter().filter(|other| is_central(**other)).find_map(|other| self.tree.tiles.find_pane(other));
            match beside.and_then(|tile| self.tree.tiles.parent_of(tile)).or(self.tree.root) {
                Some(parent) => self.tree.move_tile_to_container(tile, parent, usize::MAX, false),
                None => self.tree.root = Some(tile),
            }
        }
        self.tree.make_active(|_, tile| matches!(tile, Tile::Pane(found) if *found == pane));
    }

    /// The run's slot in the palette: the one that people gave it, else the one it got when it was first seen.
    pub fn color_slot(&self, id: &str) -> usize {
        self.labelled.get(id).or(self.colors.get(id)).copied().unwrap_or(0)
    }

    /// Selects this run alone.
    pub fn select(&mut self, id: &str) {
        self.selected = Some(id.into());
        self.also.clear();
    }

    /// The run is selected, alone or among others.
    pub fn is_selected(&self, id: &str) -> bool {
        self.selected.as_deref() == Some(id) || self.also.contains(id)
    }

    /// Selects the run besides those that are, or no longer; one stays selected.
    pub fn toggle_selected(&mut self, id: &str) {
        if self.selected.as_deref() == Some(id) {
            if let Some(next) = self.also.pop_first() {
                self.selected = Some(next);
            }
        } else if !self.also.remove(id) {
            if self.selected.is_some() {
                self.also.insert(id.into());
            } else {
                self.selected = Some(id.into());
            }
        }
    }

    /// Every selected run; the one that the other panels are about first.
    pub fn chosen(&self) -> Vec<String> {
        self.selected.iter().chain(self.also.iter().filter(|id| Some(*id) != self.selected.as_ref())).cloned().collect()
    }

    // Runs seen for the first time get a colour, and curves while there are few.
    fn meet(&mut self, snapshot: &Snapshot) {
        let is_new = |run: &Arc<Run>, colors: &BTreeMap<String, usize>| run.info.is_some() && !colors.contains_key(&run.id);
        // The folders' names know minutes only.
        let mut runs: Vec<&Arc<Run>> = snapshot.runs.iter().collect();
        runs.sort_by(|a, b| created(b).total_cmp(&created(a)));
        let mut shown = runs.iter().filter(|run| self.colors.contains_key(&run.id) && self.is_shown(&run.id)).count();
        for run in runs.iter().filter(|run| is_new(run, &self.colors)) {
            if is_over(run) && shown >= SHOWN_AT_FIRST {
                self.hidden.insert(run.id.clone());
            } else {
                shown += 1;
            }
        }
        // Oldest first, so that neighbours in the list have different colours.
        for run in runs.iter().rev() {
            if is_new(run, &self.colors) {
                self.colors.insert(run.id.clone(), self.colors.len());
            }
        }
        let colour = |run: &Arc<Run>| run.info.as_ref()?.labels.get("colour")?.parse().ok();
        self.labelled = snapshot.runs.iter().filter_map(|run| Some((run.id.clone(), colour(run)?))).collect();
        let is_there = |id: &String| snapshot.runs.iter().any(|run| run.id == *id);
        if !snapshot.is_loading {
            self.also.retain(is_there);
        }
        // The run that was selected in the last session may not be read yet.
        if !snapshot.is_loading && !snapshot.runs.is_empty() && !self.selected.as_ref().is_some_and(is_there) {
            let live = runs.iter().find(|run| !is_over(run));
            self.selected = live.or(runs.first()).map(|run| run.id.clone());
        }
    }
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct Session {
    /// What part of the charts is looked at.
    pub zoom: Zoom,
    /// What the charts drew last.
    pub columns: ColumnCache,
    /// What is typed but not sent.
    pub control: ControlState,
    /// The filter gets the focus in this frame.
    pub focus_filter: bool,
    /// Of the charts.
    pub charts: curves::ChartsState,
    /// Of the table of runs.
    pub table: table::TableState,
    /// Of pictures, matrices, histograms, texts and tables.
    pub media: media::MediaState,
    /// Of the comparison over many runs.
    pub sweep: sweep::SweepState,
    /// Of the model.
    pub model: model::ModelState,
    /// Of time and memory.
    pub profile: profile::ProfileState,
    /// Of the library.
    pub library: library::LibraryState,
    /// Of the form for new runs.
    pub launch: launch::LaunchState,
}

/// What a panel may read and change.
pub struct Panel<'a> {
    /// The runs as they were at the beginning of the frame.
    pub snapshot: Arc<Snapshot>,
    /// The folders that are watched.
    pub folders: &'a [PathBuf],
    /// What is kept.
    pub view: &'a mut View,
    /// What is not.
    pub session: &'a mut Session,
    /// What was asked for; carried out at the end of the frame.
    pub actions: &'a mut Vec<Action>,
    /// What is to be done to runs at the end of the frame.
    pub requests: &'a mut Vec<Request>,
    /// The program that lists, checks and launches, where there is one.
    pub host: Option<Arc<dyn Host>>,
}

impl Panel<'_> {
    /// The run that control and detail are about.
    pub fn selected(&self) -> Option<Arc<Run>> {
        let id = self.view.selected.as_ref()?;
        self.snapshot.runs.iter().find(|run| run.id == *id).cloned()
    }

    /// Sends a command to a run at the end of the frame.
    pub fn send(&mut self, run: &str, kind: &str, args: Value) {
        self.requests.push(Request::Command { run: run.into(), kind: kind.into(), args });
    }

    /// Sets a label of a run at the end of the frame, or takes it away: `name`, `note`, `tags`, `colour`, `pinned`, `archived`.
    pub fn set_label(&mut self, run: &str, key: &str, value: Option<&str>) {
        self.requests.push(Request::Label { run: run.into(), key: key.into(), value: value.map(str::to_owned) });
    }
}

/// The name of a run on screen: the one that people gave it, or the recipe's with the id's last part, which tells its runs apart.
pub fn run_name(run: &Run) -> String {
    let is_named = run.info.as_ref().is_some_and(|info| info.labels.get("name").is_some_and(|name| !name.is_empty()));
    let name = match run.id.rsplit_once('-') {
        Some((_, end)) if !is_named && run.title() != run.id => format!("{} {end}", run.title()),
        _ => run.title().to_owned(),
    };
    // People and recipes may name a run anything; on screen it is one line.
    let is_odd = name.len() > NAME_CHARS_MAX || name.chars().any(char::is_control);
    let name = if is_odd { one_line(&name, NAME_CHARS_MAX) } else { name };
    // Another run that is followed has the same folder name: its runs folder tells them apart.
    match run.id.rsplit_once('/') {
        Some((folder, _)) if name != run.id => format!("{name} ({folder})"),
        _ => name,
    }
}

/// `1 run`, `2 runs`.
pub fn runs_text(count: usize) -> String {
    format!("{count} {}", if count == 1 { "run" } else { "runs" })
}

/// A text as one line of at most `count` characters.
pub fn one_line(text: &str, count: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(count).collect();
    if text.chars().nth(count).is_some() { line + "…" } else { line }
}

/// What the run is doing; starting, while it could not be read yet.
pub fn state(run: &Run) -> RunState {
    run.info.as_ref().map_or(RunState::Starting, |info| info.state)
}

/// When it was made, in seconds since 1970; 0 while it could not be read yet.
pub fn created(run: &Run) -> f64 {
    run.info.as_ref().map_or(0.0, |info| info.created)
}

/// No process works on the run.
pub fn is_over(run: &Run) -> bool {
    state(run).is_over()
}

/// An axis is kept by its name.
mod axis_name {
    use crate::data::XAxis;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(axis: &XAxis, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(axis.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<XAxis, D::Error> {
        Ok(XAxis::from_name(&String::deserialize(deserializer)?).unwrap_or_default())
    }
}

/// The metric that tells best how a run does, with its last value: held-out before training data, accuracy before loss.
pub fn main_metric(run: &Run) -> Option<(&str, f64)> {
    const FIRST: [&str; 7] = ["test/accuracy", "val/accuracy", "test/loss", "val/loss", "train/accuracy", "train/loss", "loss"];
    let known = FIRST.iter().find_map(|name| run.series.get_key_value(*name));
    let (name, series) = known.or_else(|| run.series.iter().next())?;
    Some((name.as_str(), series.last()?.value))
}

/// The window's contents.
pub struct Dashboard {
    source: Source,
    view: View,
    session: Session,
    palette: CommandPalette,
    keys_open: bool,
    seen: Option<Arc<Snapshot>>,
}

impl Dashboard {
    /// Takes up what was kept of the last session.
    pub fn new(creation: &eframe::CreationContext, source: Source) -> Dashboard {
        Dashboard::restored(creation, source, Duration::ZERO)
    }

    fn restored(creation: &eframe::CreationContext, source: Source, pace: Duration) -> Dashboard {
        let mut dashboard = Dashboard::paced(&creation.egui_ctx, source, pace);
        if let Some(view) = creation.storage.and_then(|storage| eframe::get_value::<View>(storage, STORAGE_KEY)) {
            creation.egui_ctx.set_theme(view.theme);
            creation.egui_ctx.set_zoom_factor(view.scale.clamp(0.5, 3.0));
            dashboard.view = view;
        }
        dashboard
    }

    /// A window as it is at first, that asks for a frame whenever `source` has something new.
    pub fn over(context: &egui::Context, source: Source) -> Dashboard {
        Dashboard::paced(context, source, Duration::ZERO)
    }

    // News are drawn after `pace` at most.
    fn paced(context: &egui::Context, source: Source, pace: Duration) -> Dashboard {
        theme::install(context);
        let view = View::default();
        context.set_theme(view.theme);
        let waker = context.clone();
        source.on_change(move || waker.request_repaint_after(pace));
        let mut session = Session::default();
        let waker = context.clone();
        session.launch.connect(source.host(), matches!(source, Source::Live { .. }), move || waker.request_repaint());
        session.control.steps = 1;
        let waker = context.clone();
        session.media.reader = Some(Arc::new(source.media(move || waker.request_repaint())));
        Dashboard { source, view, session, palette: CommandPalette::default(), keys_open: false, seen: None }
    }

    /// What is kept; for tests.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The same, to change it.
    pub fn view_mut(&mut self) -> &mut View {
        &mut self.view
    }

    /// What the runs are now; for tests.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.source.snapshot()
    }

    /// What lasts as long as the window; for tests.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The same, to change it.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Draws one frame and carries out what was asked in it.
    pub fn frame(&mut self, ui: &mut Ui) {
        let snapshot = self.source.snapshot();
        if !self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &snapshot)) {
            self.view.meet(&snapshot);
            self.seen = Some(snapshot.clone());
        }
        let moves = self.session.table.is_on_screen(ui.ctx()) || self.session.sweep.is_on_screen(ui.ctx());
        let mut actions = if self.palette.is_open || self.keys_open { Vec::new() } else { commands::pressed(ui.ctx(), moves) };
        let mut requests = Vec::new();
        launch::each_frame(&mut self.panel(&snapshot, &mut actions, &mut requests));
        egui::Panel::top("bar").frame(bar_frame(ui)).show(ui, |ui| self.bar(ui, &mut actions));
        egui::Panel::bottom("status").frame(bar_frame(ui)).show(ui, |ui| self.status(ui, &snapshot));
        let mut tree = std::mem::replace(&mut self.view.tree, Tree::empty(Id::unique("no panels")));
        egui::CentralPanel::no_frame().show(ui, |ui| {
            tree.ui(&mut Panes { panel: self.panel(&snapshot, &mut actions, &mut requests) }, ui);
        });
        self.view.tree = tree;
        self.view.scale = ui.ctx().zoom_factor();
        self.palette.show(ui, &mut actions);
        commands::cheat_sheet(ui, &mut self.keys_open);
        for action in actions {
            self.act(ui.ctx(), &snapshot, action, &mut requests);
        }
        for request in requests {
            self.source.carry_out(&snapshot, request);
        }
    }

    fn bar(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let palette = theme::Palette::of(ui);
        ui.horizontal(|ui| {
            ui.label(RichText::new("Solstice").size(14.5).color(palette.accent));
            ui.add_space(theme::GAP);
            commands::menus(ui, actions);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                if ui.add(Button::new("Commands").shortcut_text("Ctrl+K")).clicked() {
                    actions.push(Action::Palette);
                }
                let name = if ui.visuals().dark_mode { "Light" } else { "Dark" };
                if ui.button(name).on_hover_text(Action::Theme.hint()).clicked() {
                    actions.push(Action::Theme);
                }
            });
        });
    }

    fn status(&self, ui: &mut Ui, snapshot: &Snapshot) {
        let palette = theme::Palette::of(ui);
        ui.horizontal(|ui| {
            let live = snapshot.runs.iter().filter(|run| !is_over(run)).count();
            let points: usize = snapshot.runs.iter().flat_map(|run| run.series.values()).map(|series| series.len()).sum();
            let text = format!("{}, {live} going on, {} values", runs_text(snapshot.runs.len()), axis::short(points as f64));
            ui.label(RichText::new(text).small().color(palette.dim));
            if let Some(problem) = snapshot.problems.first().cloned().or(self.source.failure()) {
                ui.label(RichText::new(&problem).small().color(palette.warn)).on_hover_text(snapshot.problems.join("\n"));
            }
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                ui.label(RichText::new("? for keys").small().color(palette.dim));
            });
        });
    }

    fn panel<'a>(&'a mut self, snapshot: &Arc<Snapshot>, actions: &'a mut Vec<Action>, requests: &'a mut Vec<Request>) -> Panel<'a> {
        Panel {
            snapshot: snapshot.clone(),
            folders: self.source.folders(),
            view: &mut self.view,
            session: &mut self.session,
            actions,
            requests,
            host: self.source.host(),
        }
    }

    fn act(&mut self, context: &egui::Context, snapshot: &Arc<Snapshot>, action: Action, requests: &mut Vec<Request>) {
        self.session.table.pass = context.cumulative_pass_nr();
        // What is the matter of one panel is carried out there.
        let mut more = Vec::new();
        let mut panel = self.panel(snapshot, &mut more, requests);
        if curves::act(&mut panel, action)
            || sweep::act(&mut panel, action)
            || table::act(&mut panel, action)
            || launch::act(&mut panel, action)
        {
            return context.request_repaint();
        }

        let selected = self.view.selected.as_ref().and_then(|id| snapshot.runs.iter().find(|run| run.id == *id)).cloned();
        let mut send = |kind: &str, args: Value| {
            if let Some(run) = selected.as_ref().filter(|run| !is_over(run)) {
                requests.push(Request::Command { run: run.id.clone(), kind: kind.into(), args });
            }
        };
        let zoom_by = |factor: f32| context.set_zoom_factor((context.zoom_factor() * factor).clamp(0.5, 3.0));
        match action {
            Action::Palette => self.palette.open(),
            Action::Keys => self.keys_open = true,
            Action::Filter => self.session.focus_filter = true,
            Action::NextRun => self.select_beside(context, 1),
            Action::PreviousRun => self.select_beside(context, -1),
            Action::ToggleCurves => {
                if let Some(run) = &selected {
                    self.view.set_shown(&run.id, !self.view.is_shown(&run.id));
                }
            }
            Action::Solo => {
                let others =
                    || snapshot.runs.iter().map(|run| run.id.clone()).filter(|id| selected.as_ref().is_some_and(|run| run.id != *id));
                let is_solo = others().all(|id| self.view.hidden.contains(&id));
                self.view.hidden.clear();
                if !is_solo {
                    self.view.hidden.extend(others());
                }
            }
            Action::ShowAll => self.view.hidden.clear(),
            Action::Compare => {
                self.view.baseline = selected.as_ref().map(|run| run.id.clone());
                self.view.page = Page::Compare;
            }
            Action::PauseResume => {
                let is_paused = selected.as_ref().is_some_and(|run| state(run) == RunState::Paused);
                send(if is_paused { "resume" } else { "pause" }, json!({}));
            }
            Action::Step => send("step", json!({ "steps": self.session.control.steps.max(1) })),
            Action::Evaluate => send("eval", json!({})),
            Action::Checkpoint => send("checkpoint", json!({})),
            Action::Stop => self.session.control.asks_stop = selected.as_ref().map(|run| run.id.clone()),
            Action::NextXAxis => {
                let at = XAxis::ALL.iter().position(|axis| *axis == self.view.x_axis).unwrap_or(0);
                self.view.x_axis = XAxis::ALL[(at + 1) % XAxis::ALL.len()];
                self.session.zoom.reset();
            }
            Action::LogY => self.view.log_y = !self.view.log_y,
            Action::Smoother => self.view.smoothing = (self.view.smoothing + 0.1).min(0.99),
            Action::Rougher => self.view.smoothing = if self.view.smoothing < 0.11 { 0.0 } else { self.view.smoothing - 0.1 },
            Action::ResetZoom => self.session.zoom.reset(),
            Action::Theme => {
                let is_dark = context.global_style().visuals.dark_mode;
                self.view.theme = if is_dark { egui::ThemePreference::Light } else { egui::ThemePreference::Dark };
                context.set_theme(self.view.theme);
            }
            Action::Larger => zoom_by(1.1),
            Action::Smaller => zoom_by(1.0 / 1.1),
            Action::OriginalSize => context.set_zoom_factor(1.0),
            Action::ResetLayout => self.view.tree = default_tree(),
            Action::Show(pane) => self.view.show_pane(pane),
            Action::Quit => context.send_viewport_cmd(egui::ViewportCommand::Close),
            // Carried out by its panel, above.
            _ => {}
        }
        // What an action changed is drawn at once, not with the next move of the mouse.
        context.request_repaint();
    }

    // In the order of the table where that is looked at, else of the list.
    fn select_beside(&mut self, context: &egui::Context, distance: isize) {
        let of_table = self.session.table.ids_on_screen(context);
        let listed = of_table.unwrap_or_else(|| runs::order(&self.view, &mut self.session, &self.source.snapshot()));
        let at = listed.iter().position(|id| self.view.selected.as_ref() == Some(id));
        let next = at.map_or(0, |at| at.saturating_add_signed(distance).min(listed.len().saturating_sub(1)));
        if let Some(id) = listed.get(next) {
            self.view.select(id);
            self.session.table.scroll_to = Some(id.clone());
        }
    }
}

impl eframe::App for Dashboard {
    fn ui(&mut self, ui: &mut Ui, _: &mut eframe::Frame) {
        self.frame(ui);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        eframe::set_value(storage, STORAGE_KEY, &self.view);
    }

    fn clear_color(&self, visuals: &Visuals) -> [f32; 4] {
        visuals.panel_fill.to_normalized_gamma_f32()
    }
}

fn bar_frame(ui: &Ui) -> Frame {
    Frame::new().fill(ui.visuals().panel_fill).inner_margin(Margin::symmetric(12, 4))
}

// The panels in the middle, behind one another.
fn is_central(pane: Pane) -> bool {
    !matches!(pane, Pane::Runs | Pane::Library | Pane::Control | Pane::Detail)
}

// Runs and library on the left, all views of runs in the middle, control over detail on the right.
fn default_tree() -> Tree<Pane> {
    let mut tiles = Tiles::default();
    let of = |tiles: &mut Tiles<Pane>, panes: &[Pane]| -> Vec<TileId> { panes.iter().map(|pane| tiles.insert_pane(*pane)).collect() };
    let left = of(&mut tiles, &[Pane::Runs, Pane::Library]);
    let left = tiles.insert_tab_tile(left);
    let central: Vec<Pane> = Pane::ALL.into_iter().filter(|pane| is_central(*pane)).collect();
    let middle = of(&mut tiles, &central);
    let middle = tiles.insert_tab_tile(middle);
    let right = of(&mut tiles, &[Pane::Control, Pane::Detail]);
    let mut shares = Linear::new(LinearDir::Vertical, right.clone());
    shares.shares.set_share(right[0], 1.0);
    shares.shares.set_share(right[1], 0.9);
    let right = tiles.insert_new(Tile::Container(Container::Linear(shares)));
    let mut all = Linear::new(LinearDir::Horizontal, vec![left, middle, right]);
    for (tile, share) in [(left, 0.24), (middle, 0.5), (right, 0.26)] {
        all.shares.set_share(tile, share);
    }
    let root = tiles.insert_new(Tile::Container(Container::Linear(all)));
    Tree::new(Id::unique("panels"), root, tiles)
}

struct Panes<'a> {
    panel: Panel<'a>,
}

impl Behavior<Pane> for Panes<'_> {
    fn pane_ui(&mut self, ui: &mut Ui, _: TileId, pane: &mut Pane) -> UiResponse {
        ui.painter().rect_filled(ui.max_rect(), 0.0, ui.visuals().panel_fill);
        Frame::new().inner_margin(Margin { left: 10, right: 10, top: 8, bottom: 6 }).show(ui, |ui| {
            ui.take_available_space();
            match pane {
                Pane::Runs => runs::show(ui, &mut self.panel),
                Pane::Library => library::show(ui, &mut self.panel),
                Pane::Curves => curves::show(ui, &mut self.panel),
                Pane::Table => table::show(ui, &mut self.panel),
                Pane::Media => media::show(ui, &mut self.panel),
                Pane::Sweep => sweep::show(ui, &mut self.panel),
                Pane::Model => model::show(ui, &mut self.panel),
                Pane::Profile => profile::show(ui, &mut self.panel),
                Pane::Launch => launch::show(ui, &mut self.panel),
                Pane::Control => control::show(ui, &mut self.panel),
                Pane::Detail => detail::show(ui, &mut self.panel),
            }
        });
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, pane: &Pane) -> WidgetText {
        RichText::new(pane.title()).size(12.5).into()
    }

    fn simplification_options(&self) -> SimplificationOptions {
        // Every panel has a tab: its title, and the handle to move it by.
        SimplificationOptions { all_panes_must_have_tabs: true, ..SimplificationOptions::default() }
    }

    fn tab_bar_height(&self, _: &egui::Style) -> f32 {
        26.0
    }

    fn gap_width(&self, _: &egui::Style) -> f32 {
        1.0
    }

    fn min_size(&self) -> f32 {
        160.0
    }

    fn tab_bar_color(&self, visuals: &Visuals) -> Color32 {
        visuals.extreme_bg_color
    }

    fn tab_bg_color(&self, visuals: &Visuals, _: &Tiles<Pane>, _: TileId, state: &TabState) -> Color32 {
        if state.active { visuals.panel_fill } else { visuals.extreme_bg_color }
    }

    fn tab_outline_stroke(&self, _: &Visuals, _: &Tiles<Pane>, _: TileId, _: &TabState) -> Stroke {
        Stroke::NONE
    }

    fn tab_text_color(&self, visuals: &Visuals, _: &Tiles<Pane>, _: TileId, state: &TabState) -> Color32 {
        if state.active { visuals.text_color() } else { visuals.weak_text_color() }
    }
}

/// Opens the window and returns when it is closed. `renderer` is `auto`, `wgpu` or `glow`; `auto` takes glow where the only adapter is software.
///
/// Errors: one sentence that says what to do, when there is no display or nothing can draw on it.
pub fn open(source: &Source, renderer: &str) -> Result<(), String> {
    if !has_display() {
        return Err(NO_DISPLAY.into());
    }
    let mut last = String::new();
    let has_gpu = has_gpu();
    // Without a GPU a frame takes a processor tens of milliseconds, which a run under way could use.
    let pace = if has_gpu { Duration::ZERO } else { SOFTWARE_PACE };
    #[cfg(unix)]
    if !has_gpu {
        // Of this thread and of those that draw, which it starts. A window that may not is as good a window.
        let _ = rustix::process::nice(SOFTWARE_NICE);
    }
    let renderers: &[eframe::Renderer] = match renderer {
        "wgpu" => &[eframe::Renderer::Wgpu],
        "glow" => &[eframe::Renderer::Glow],
        _ if has_gpu => &[eframe::Renderer::Wgpu, eframe::Renderer::Glow],
        _ => &[eframe::Renderer::Glow, eframe::Renderer::Wgpu],
    };
    for &renderer in renderers {
        let is_last = Some(&renderer) == renderers.last();
        let source = source.clone();
        let opened = Arc::new(AtomicBool::new(false));
        let tells = opened.clone();
        let create: eframe::AppCreator = Box::new(move |creation| {
            tells.store(true, Ordering::Relaxed);
            Ok(Box::new(Dashboard::restored(creation, source, pace)))
        });
        // winit panics, instead of failing, on displays that lack an extension, such as those of `ssh -X`.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let run = || eframe::run_native("Solstice", options(renderer), create);
        let result = std::panic::catch_unwind(AssertUnwindSafe(run));
        std::panic::set_hook(hook);
        let reason = match result {
            Ok(Ok(())) => return Ok(()),
            // Nothing to draw with, but a display: the other renderer may do.
            Ok(Err(error @ eframe::Error::Wgpu(_))) if !is_last => {
                last = error.to_string();
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it gave no reason".into())
            }
        };
        if opened.load(Ordering::Relaxed) {
            return Err(format!("the window broke off, which is a mistake of Solstice; runs go on without it: {reason}"));
        }
        last = reason;
        break;
    }
    // What comes before the last colon is winit's, for its authors.
    let reason = last.lines().next().and_then(|line| line.rsplit(": ").next()).unwrap_or("no reason given");
    Err(format!("no window can be opened on this display ({reason}): {INSTEAD}"))
}

/// What is said where no window can be opened.
pub const NO_DISPLAY: &str =
    "there is no display to open a window on: use `solstice watch` to see runs in this terminal, or start the dashboard on a desktop";
const INSTEAD: &str = "use `solstice watch` to see runs in this terminal, or start the dashboard on a desktop";

/// There is a display to open a window on, as far as the environment tells.
pub fn has_display() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(any(windows, target_os = "macos")) || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}

// Software adapters draw several times slower through the one renderer than through the other.
fn has_gpu() -> bool {
    let eframe::egui_wgpu::WgpuSetup::CreateNew(setup) = eframe::NativeOptions::default().wgpu_options.wgpu_setup else { return true };
    let backends = setup.instance_descriptor.backends;
    let adapters = async { eframe::egui_wgpu::WgpuSetup::CreateNew(setup).new_instance().await.enumerate_adapters(backends).await };
    let is_gpu = |kind: String| matches!(kind.as_str(), "DiscreteGpu" | "IntegratedGpu" | "VirtualGpu");
    pollster::block_on(adapters).iter().any(|adapter| is_gpu(format!("{:?}", adapter.get_info().device_type)))
}

fn options(renderer: eframe::Renderer) -> eframe::NativeOptions {
    let viewport = egui::ViewportBuilder::default().with_title("Solstice").with_app_id("solstice").with_inner_size([1280.0, 800.0]);
    eframe::NativeOptions { viewport: viewport.with_min_inner_size([640.0, 400.0]), renderer, ..Default::default() }
}
