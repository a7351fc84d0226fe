//! The form for a new run, made from the plugins' schemas: the fields on the left, the same recipe as text on the right, both editable.
//!
//! The text is what is launched. A change of the form writes it anew; a change of the text is read by `solstice check` in a child process, whose
//! answer fills the form, so that the window needs neither plugins nor a reader of RON. A fork is the same form over the recipe of a run: only what
//! is changed there is handed on.
//!
//! Read next: `launch/draft.rs` for the recipe, `launch/form.rs` for its fields, `launch/many.rs` for grids, `data/catalog.rs` for the asking.

pub mod draft;
mod form;
pub mod many;

use super::axis::short;
use super::commands::Action;
use super::theme::{self, Palette};
use super::{Pane, Panel, run_name};
use crate::data::{Catalog, Curve, Host, Problem, RecipeFile, Run, Workshop};
use draft::{Draft, LISTS, Part, SLOTS};
use eframe::egui::{
    self, Align2, Button, ComboBox, FontId, RichText, ScrollArea, Sense, Shape, Stroke, TextEdit, TextStyle, Ui, UiBuilder, pos2, vec2,
};
use form::{Form, Move};
use many::Many;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// From this width on the text stands beside the form.
const WIDE: f32 = 560.0;
/// Height of the learning rate's curve.
const CURVE_HEIGHT: f32 = 84.0;

/// What is kept from one session to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchView {
    /// The recipe, as text; empty when none is open.
    pub text: String,
    /// What it was opened from.
    pub opened: Option<PathBuf>,
    /// Where to train: `auto`, `cpu`, `gpu` or a part of an adapter's name.
    pub device: String,
    /// In a narrow panel the text is shown in place of the form.
    pub shows_text: bool,
    /// The grid.
    pub many: Many,
}

impl Default for LaunchView {
    fn default() -> LaunchView {
        LaunchView { text: String::new(), opened: None, device: "auto".into(), shows_text: false, many: Many::default() }
    }
}

/// A branch of a run.
#[derive(Clone, Debug)]
struct Fork {
    run: String,
    name: String,
    // As `solstice fork` is told.
    target: String,
    runs_dir: String,
    before: Draft,
    // The step that was asked for, those that there are, and the one that it begins from.
    wanted: Option<u64>,
    steps: Vec<u64>,
    step: u64,
    // Take what fits of the checkpoint: another model or optimizer has another state.
    is_partial: bool,
}

/// A run that was started and has not been seen yet.
#[derive(Clone, Debug)]
struct Pending {
    ticket: u64,
    name: String,
    // Runs that there were before; of those that came since, the new one is the one of this name.
    known: BTreeSet<String>,
}

/// Whose change is being checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Author {
    #[default]
    Form,
    Text,
}

/// What lasts as long as the window.
#[derive(Default)]
pub struct LaunchState {
    link: Option<Link>,
    workshop: Option<Workshop>,
    draft: Option<Draft>,
    fork: Option<Fork>,
    /// The newest check, and who wants to know.
    asked: u64,
    author: Author,
    seen_check: u64,
    problems: Vec<Problem>,
    schedule: Option<Curve>,
    /// The text is to be written from the form as soon as the schemas are there.
    is_stale: bool,
    /// What is to be put in as soon as a recipe is there: kind and id.
    wanted: Option<(String, String)>,
    edits: BTreeMap<String, String>,
    opened: BTreeSet<String>,
    pending: Vec<Pending>,
    complaint: Option<String>,
    note: Option<String>,
    /// The panel was drawn in the last frame, and in this one.
    is_visible: bool,
    is_drawn: bool,
}

impl std::fmt::Debug for LaunchState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchState").field("draft", &self.draft).field("fork", &self.fork).finish_non_exhaustive()
    }
}

// Where the workshop comes from, once somebody looks.
struct Link {
    host: Arc<dyn Host>,
    is_live: bool,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl LaunchState {
    /// Tells which program to ask; it is not asked before somebody wants to see. A window that follows nothing asks on its own thread.
    pub fn connect(&mut self, host: Option<Arc<dyn Host>>, is_live: bool, wake: impl Fn() + Send + Sync + 'static) {
        self.workshop = None;
        self.link = host.map(|host| Link { host, is_live, wake: Arc::new(wake) });
    }

    /// What asks, if there is a program to ask.
    pub fn workshop(&mut self) -> Option<&Workshop> {
        if self.workshop.is_none() {
            let link = self.link.as_ref()?;
            let (host, wake) = (link.host.clone(), link.wake.clone());
            self.workshop = Some(if link.is_live { Workshop::live(host, move || wake()) } else { Workshop::still(host) });
        }
        self.workshop.as_ref()
    }

    /// The recipe in the form.
    pub fn draft(&self) -> Option<&Draft> {
        self.draft.as_ref()
    }

    /// Why the last launch made no run: a sentence.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    fn forget(&mut self) {
        self.draft = None;
        self.fork = None;
        self.problems.clear();
        self.schedule = None;
        self.is_stale = false;
        self.edits.clear();
        self.complaint = None;
        self.note = None;
    }
}

// ---- what comes in -----------------------------------------------------------------------------------------------------------------------

/// Opens a recipe in the form.
pub fn open(panel: &mut Panel, recipe: &RecipeFile) {
    let state = &mut panel.session.launch;
    state.forget();
    panel.view.launch.text = with_name(&recipe.text, &recipe.name);
    panel.view.launch.opened = Some(recipe.path.clone());
    panel.view.launch.many.rows.clear();
    ask(panel, Author::Text);
    bring(panel, Pane::Launch);
}

/// Puts a component into the form; where no recipe is open, into one of defaults.
pub fn put(panel: &mut Panel, kind: &str, id: &str) {
    panel.session.launch.wanted = Some((kind.into(), id.into()));
    bring(panel, Pane::Launch);
}

// A recipe without a name is called after its file, which the program does not see.
fn with_name(text: &str, name: &str) -> String {
    let has_name = text.lines().any(|line| line.trim_start().trim_start_matches('(').trim_start().starts_with("name:"));
    match text.lines().position(|line| line.trim() == "(").filter(|_| !has_name) {
        Some(at) => {
            let named = format!("    name: {name:?},");
            let lines = text.lines().take(at + 1).chain([named.as_str()]).chain(text.lines().skip(at + 1));
            lines.map(|line| format!("{line}\n")).collect()
        }
        None => text.to_owned(),
    }
}

/// Fills the form from a run, to branch off at its newest checkpoint at or before `step`; without one at its newest.
pub fn fork(panel: &mut Panel, run: &Run, step: Option<u64>) {
    bring(panel, Pane::Launch);
    panel.session.launch.forget();
    panel.view.launch.opened = None;
    let refuse = |panel: &mut Panel, reason: &str| {
        panel.session.launch.complaint = Some(format!("{} cannot be forked: {reason}", run_name(run)));
    };
    let Some(before) = run.info.as_ref().and_then(|info| Draft::of(&info.config)) else {
        return refuse(panel, "its settings could not be read");
    };
    let steps: BTreeSet<u64> = run.checkpoints.iter().map(|checkpoint| checkpoint.at.step).collect();
    let mut steps: Vec<u64> = steps.into_iter().filter(|saved| step.is_none_or(|step| *saved <= step)).collect();
    steps.reverse();
    let Some(&nearest) = steps.first() else {
        let reason = match (step, run.checkpoints.first()) {
            (Some(step), Some(first)) => format!("step {step} is before its first checkpoint, which is at step {}", first.at.step),
            _ => "it has no checkpoint yet; C saves one".into(),
        };
        return refuse(panel, &reason);
    };
    let parent = run.path.parent().map(|folder| folder.display().to_string()).filter(|folder| !folder.is_empty());
    let first = panel.folders.first().map_or("runs".into(), |folder| folder.display().to_string());
    // A branch of a sweep's trial is a run of its own: in the trial's folder it would count as the trial.
    // The folder's name and not the id, which has the runs folder before it where two runs have the same name.
    let name = run.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (target, runs_dir) = match (&run.group, parent, name) {
        (None, Some(parent), Some(name)) => (name, parent),
        _ => (run.path.display().to_string(), first),
    };
    let draft = before.clone();
    panel.session.launch.fork = Some(Fork {
        run: run.id.clone(),
        name: run_name(run),
        target,
        runs_dir,
        before,
        wanted: step,
        steps,
        step: nearest,
        is_partial: false,
    });
    panel.session.launch.draft = Some(draft);
    panel.session.launch.is_stale = true;
    panel.view.launch.device = "as the run".into();
}

/// Goes on with a run that is over.
pub fn resume(panel: &mut Panel, run: &Run) {
    let args = vec!["resume".to_owned(), run.path.display().to_string()];
    // It is there already: what is awaited is that it goes on, or that it does not.
    let mut known: BTreeSet<String> = panel.snapshot.runs.iter().map(|run| run.id.clone()).collect();
    known.remove(&run.id);
    start(panel, args, "", run.info.as_ref().map_or("", |info| &info.name), known);
}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(panel: &mut Panel, action: Action) -> bool {
    match action {
        Action::Launch => {
            // Ctrl+Enter starts only what can be seen.
            if panel.session.launch.is_visible || panel.session.launch.is_drawn {
                launch(panel)
            } else {
                bring(panel, Pane::Launch)
            }
            true
        }
        Action::Fork => {
            if let Some(run) = panel.selected() {
                fork(panel, &run, None);
            }
            true
        }
        _ => false,
    }
}

// While panels are drawn an action brings another one forward; at the end of the frame the layout itself can be changed.
fn bring(panel: &mut Panel, pane: Pane) {
    panel.actions.push(Action::Show(pane));
    panel.view.show_pane(pane);
}

/// Takes in what the host has answered, and selects the run that was started once it is there. Called once a frame, before the panels.
pub fn each_frame(panel: &mut Panel) {
    let state = &mut panel.session.launch;
    state.is_visible = std::mem::take(&mut state.is_drawn);
    let Some(workshop) = &state.workshop else { return };
    let catalog = workshop.catalog();
    if let Some(checked) = catalog.checked.as_ref().filter(|checked| checked.ticket > state.seen_check) {
        state.seen_check = checked.ticket;
        // An answer about a text that has changed since is only good for its marks.
        let is_newest = checked.ticket == state.asked;
        match &checked.report {
            Ok(report) => {
                state.problems.clone_from(&report.problems);
                if report.problems.is_empty() {
                    state.schedule.clone_from(&report.schedule);
                }
                if let (true, Author::Text, Some(draft)) = (is_newest, state.author, report.recipe.as_ref().and_then(Draft::of)) {
                    if state.draft.is_none() {
                        choose_metric(&draft, &mut panel.view.launch.many);
                    }
                    state.draft = Some(draft);
                    state.edits.clear();
                }
            }
            Err(sentence) => state.problems = vec![Problem { field: String::new(), message: sentence.clone(), line: None, column: None }],
        }
    }
    for launched in &catalog.launched {
        if let Some(sentence) = launched.outcome.complaint()
            && let Some(at) = state.pending.iter().position(|pending| pending.ticket == launched.ticket)
        {
            state.pending.remove(at);
            state.note = None;
            state.complaint = Some(sentence);
            panel.view.show_pane(Pane::Launch);
        }
    }
    let snapshot = panel.snapshot.clone();
    let state = &mut panel.session.launch;
    let is_it = |pending: &Pending, run: &Run| {
        !pending.known.contains(&run.id) && run.info.as_ref().is_some_and(|info| pending.name.is_empty() || info.name == pending.name)
    };
    let found =
        state.pending.iter().enumerate().find_map(|(at, pending)| Some((at, snapshot.runs.iter().find(|run| is_it(pending, run))?)));
    if let Some((at, run)) = found {
        state.pending.remove(at);
        state.note = Some(format!("{} is started", run_name(run)));
        panel.view.selected = Some(run.id.clone());
        panel.view.set_shown(&run.id, true);
        panel.view.show_pane(Pane::Curves);
    }
}

// What the runs of a grid are compared by, unless somebody says otherwise: what the recipe expects, else the loss of what it evaluates.
fn choose_metric(draft: &Draft, many: &mut Many) {
    let text = |key: &str| draft.trainer.get(key).and_then(Value::as_str);
    let expected = draft.expect.as_object().and_then(|bands| bands.keys().next());
    let Some(metric) = text("monitor").or(expected.map(String::as_str)) else { return };
    many.metric = metric.into();
    many.is_max = if text("monitor").is_some() { text("monitor_mode") == Some("max") } else { !metric.contains("loss") };
}

fn ask(panel: &mut Panel, author: Author) {
    let text = panel.view.launch.text.clone();
    let steps = panel.session.launch.draft.as_ref().and_then(|draft| steps_per_epoch(panel, draft));
    let state = &mut panel.session.launch;
    state.author = author;
    if let Some(ticket) = state.workshop().map(|workshop| workshop.check(&text, steps)) {
        state.asked = ticket;
    }
}

// As a run of the same data and batches had it: the window opens no data.
fn steps_per_epoch(panel: &Panel, draft: &Draft) -> Option<u64> {
    let data = draft.parts.get("dataset")?;
    let is_same = |config: &Value| {
        let part = |key: &str| config.pointer("/components/dataset").and_then(|dataset| dataset.get(key));
        let sizes = ["batch_size", "accumulate", "limit_train", "fold"];
        part("id").and_then(Value::as_str) == Some(data.id.as_str())
            && part("config") == Some(&data.config)
            && sizes.iter().all(|key| config.get("trainer").and_then(|trainer| trainer.get(key)) == draft.trainer.get(key))
    };
    panel.snapshot.runs.iter().filter_map(|run| run.info.as_ref()).find(|info| is_same(&info.config))?.steps_per_epoch
}

// ---- what goes out -----------------------------------------------------------------------------------------------------------------------

fn start(panel: &mut Panel, args: Vec<String>, input: &str, name: &str, known: BTreeSet<String>) {
    let state = &mut panel.session.launch;
    (state.complaint, state.note) = (None, None);
    let Some(ticket) = state.workshop().map(|workshop| workshop.start(args, input)) else {
        state.complaint = Some(NO_HOST.into());
        return bring(panel, Pane::Launch);
    };
    state.note = Some("Starting; the run appears as soon as its first step is ready".into());
    state.pending.push(Pending { ticket, name: name.into(), known });
}

fn runs_dir(panel: &Panel) -> String {
    panel.folders.first().map_or("runs".into(), |folder| folder.display().to_string())
}

fn known(panel: &Panel) -> BTreeSet<String> {
    panel.snapshot.runs.iter().map(|run| run.id.clone()).collect()
}

// Starts what the form says, unless something is known to be wrong.
fn launch(panel: &mut Panel) {
    let state = &panel.session.launch;
    if panel.view.launch.text.trim().is_empty() || !state.problems.is_empty() {
        return;
    }
    let name = state.draft.as_ref().map_or(String::new(), |draft| draft.name.clone());
    let known = known(panel);
    let device = panel.view.launch.device.clone();
    let Some(fork) = panel.session.launch.fork.clone() else {
        let args = ["train", "-", "--runs-dir", &runs_dir(panel), "--device", &device].map(str::to_owned).to_vec();
        let text = panel.view.launch.text.clone();
        return start(panel, args, &text, &name, known);
    };
    let (Some(draft), Some(catalog)) = (panel.session.launch.draft.clone(), catalog(panel)) else { return };
    let mut args = vec!["fork".to_owned(), format!("{}@{}", fork.target, fork.step), "--runs-dir".into(), fork.runs_dir.clone()];
    for change in draft.changes_from(&fork.before, &catalog) {
        args.extend(["--set".to_owned(), change]);
    }
    if fork.is_partial {
        args.push("--partial".into());
    }
    if device != "as the run" {
        args.extend(["--device".to_owned(), device]);
    }
    start(panel, args, "", &name, known);
}

fn launch_many(panel: &mut Panel) {
    let many = panel.view.launch.many.clone();
    let name = panel.session.launch.draft.as_ref().map_or(String::new(), |draft| draft.name.clone());
    match many.sweep(&panel.view.launch.text) {
        Ok(sweep) => {
            let known = known(panel);
            let (runs_dir, workers) = (runs_dir(panel), many.workers.to_string());
            let args = ["sweep", "-", "--runs-dir", &runs_dir, "--device", &panel.view.launch.device, "--workers", &workers];
            let args = args.map(str::to_owned).to_vec();
            start(panel, args, &sweep, &name, known);
        }
        Err(problem) => panel.session.launch.complaint = Some(problem),
    }
}

fn catalog(panel: &mut Panel) -> Option<Arc<Catalog>> {
    panel.session.launch.workshop().map(Workshop::catalog)
}

/// What is said where there is nothing to ask.
pub const NO_HOST: &str = "This window only watches: start it with `solstice dashboard` to launch runs from it";

// ---- what is seen ------------------------------------------------------------------------------------------------------------------------

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    panel.session.launch.is_drawn = true;
    let Some(catalog) = catalog(panel) else {
        ui.label(RichText::new(NO_HOST).color(palette.dim));
        return;
    };
    contents(ui, panel, &catalog, palette);
    // Answered at once, where no thread does it: taken in with the next frame.
    if self::catalog(panel).is_some_and(|newer| newer.version != catalog.version) {
        ui.ctx().request_repaint();
    }
}

fn contents(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    take_wanted(panel, catalog);
    if panel.session.launch.is_stale && catalog.trainer.is_some() {
        panel.session.launch.is_stale = false;
        write_text(panel, catalog);
    }
    // The text of the last session.
    if panel.session.launch.draft.is_none() && !panel.view.launch.text.is_empty() && panel.session.launch.asked == 0 {
        ask(panel, Author::Text);
    }
    if panel.view.launch.text.is_empty() && panel.session.launch.draft.is_none() {
        return empty(ui, panel, catalog, palette);
    }
    if panel.session.launch.fork.is_some() {
        fork_head(ui, panel, palette);
    }
    bar(ui, panel, catalog, palette);
    words(ui, panel, palette);
    if panel.session.launch.fork.is_none() {
        many_section(ui, panel, palette);
    }
    ui.add_space(2.0);
    let rect = ui.available_rect_before_wrap();
    ui.painter().hline(rect.x_range(), rect.top(), Stroke::new(1.0, palette.line));
    let rect = rect.with_min_y(rect.top() + 6.0);
    if rect.width() < WIDE {
        let mut inner = ui.new_child(UiBuilder::new().max_rect(rect));
        inner.horizontal(|ui| {
            for (text, shows_text) in [("Form", false), ("Text", true)] {
                if ui.selectable_label(panel.view.launch.shows_text == shows_text, text).clicked() {
                    panel.view.launch.shows_text = shows_text;
                }
            }
        });
        if panel.view.launch.shows_text { text_side(&mut inner, panel, palette) } else { form_side(&mut inner, panel, catalog, palette) }
    } else {
        let (left, right) = rect.split_left_right_at_fraction(0.58);
        form_side(&mut ui.new_child(UiBuilder::new().max_rect(left)), panel, catalog, palette);
        ui.painter().vline(left.right(), rect.y_range(), Stroke::new(1.0, palette.line));
        text_side(&mut ui.new_child(UiBuilder::new().max_rect(right.with_min_x(right.left() + 8.0))), panel, palette);
    }
    ui.advance_cursor_after_rect(rect);
}

fn empty(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    ui.add_space(theme::GAP);
    if let Some(sentence) = &panel.session.launch.complaint {
        ui.label(RichText::new(sentence).color(palette.error));
        ui.add_space(theme::GAP);
    }
    if let Some(problem) = &catalog.problem {
        ui.label(RichText::new(problem).color(palette.error));
        return;
    }
    if catalog.is_loading {
        ui.label(RichText::new("Asking the plugins what they offer").color(palette.dim));
        return;
    }
    ui.label(RichText::new("A new run").size(15.0));
    ui.add_space(4.0);
    let text = if catalog.recipes.is_empty() { "There are no recipes in experiments/ here." } else { "Open a recipe:" };
    ui.label(RichText::new(text).color(palette.dim));
    for recipe in catalog.recipes.iter().filter(|recipe| recipe.problem.is_none()) {
        ui.horizontal(|ui| {
            if ui.add(Button::new(&recipe.name).min_size(vec2(140.0, 0.0))).clicked() {
                open(panel, recipe);
            }
            ui.add(egui::Label::new(RichText::new(&recipe.doc).color(palette.dim)).truncate());
        });
    }
    ui.add_space(4.0);
    if let Some(draft) = Draft::first_of(catalog)
        && ui.button("Start from defaults").on_hover_text("The first component of each kind").clicked()
    {
        panel.session.launch.draft = Some(draft);
        write_text(panel, catalog);
    }
}

// A component that was asked for while no recipe was there.
fn take_wanted(panel: &mut Panel, catalog: &Catalog) {
    let Some((kind, id)) = panel.session.launch.wanted.clone() else { return };
    let state = &mut panel.session.launch;
    if state.draft.is_none() {
        if !panel.view.launch.text.is_empty() {
            // The text of the last session is being read, or cannot be read: then it is not thrown away.
            if !state.problems.is_empty() {
                state.wanted = None;
                state.complaint = Some("The recipe that is open has a mistake: mend it before a component is put in".into());
            }
            return;
        }
        state.draft = Draft::first_of(catalog);
    }
    let (Some(draft), Some(component)) = (state.draft.as_mut(), catalog.component(&kind, &id)) else { return };
    state.wanted = None;
    state.edits.clear();
    if let Some((slot, _)) = SLOTS.iter().find(|(_, of)| *of == kind) {
        draft.parts.insert((*slot).to_owned(), Part::default_of(component));
    } else if let Some((list, _)) = LISTS.iter().find(|(_, of)| *of == kind) {
        draft.lists.entry((*list).to_owned()).or_default().push(Part::default_of(component));
    }
    write_text(panel, catalog);
}

// The form has changed: the text follows, and is checked.
fn write_text(panel: &mut Panel, catalog: &Catalog) {
    if let Some(draft) = &panel.session.launch.draft {
        panel.view.launch.text = draft.to_ron(catalog);
    }
    ask(panel, Author::Form);
}

fn fork_head(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    let Some(fork) = &mut panel.session.launch.fork else { return };
    let mut is_left = false;
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(format!("Fork of {} at step", fork.name)).size(15.0));
        let menu = ComboBox::from_id_salt("fork step").selected_text(fork.step.to_string()).width(84.0).show_ui(ui, |ui| {
            for step in &fork.steps {
                ui.selectable_value(&mut fork.step, *step, step.to_string());
            }
        });
        menu.response.accessible_name("Checkpoint to fork from");
        let partial = ui.checkbox(&mut fork.is_partial, "Take what fits");
        partial.on_hover_text("For another model or optimizer: what the checkpoint does not have begins anew");
        is_left = ui.button("Leave the fork").on_hover_text("Keep these settings for a new run from its first step").clicked();
    });
    let sentence = match fork.wanted {
        Some(wanted) if wanted != fork.step => {
            format!("A fork begins from a checkpoint: the nearest before step {wanted} is at step {}.", fork.steps[0])
        }
        _ => "It goes on from this checkpoint, with what is changed here.".into(),
    };
    ui.label(RichText::new(sentence).small().color(palette.dim)).on_hover_text(format!("The run {}", fork.run));
    if is_left {
        panel.session.launch.fork = None;
        panel.view.launch.device = "auto".into();
    }
}

fn bar(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    let mut changed = false;
    let is_fork = panel.session.launch.fork.is_some();
    ui.horizontal_wrapped(|ui| {
        if let Some(draft) = &mut panel.session.launch.draft {
            let label = ui.label(RichText::new("Name").color(palette.dim));
            let name = TextEdit::singleline(&mut draft.name).align(Align2::LEFT_CENTER);
            changed |= ui.add_sized(vec2(120.0, 22.0), name).labelled_by(label.id).accessible_name("Name of the run").changed();
            let label = ui.label(RichText::new("Seed").color(palette.dim));
            let mut seed = draft.trainer["seed"].as_u64().unwrap_or_default();
            let field = egui::DragValue::new(&mut seed).range(0..=u64::from(u32::MAX)).speed(0.1);
            if ui.add(field).labelled_by(label.id).accessible_name("trainer.seed").changed() {
                draft.trainer["seed"] = seed.into();
                changed = true;
            }
        }
        ui.label(RichText::new("Device").color(palette.dim));
        let device = &mut panel.view.launch.device;
        let menu = ComboBox::from_id_salt("device").selected_text(device.as_str()).width(84.0).show_ui(ui, |ui| {
            let own = is_fork.then_some(("as the run", "The device that the run had".to_owned()));
            let fixed = [("auto", "A GPU where there is one, else the CPU"), ("cpu", "This processor"), ("gpu", "The first GPU")];
            let fixed = fixed.into_iter().map(|(name, doc)| (name, doc.to_owned()));
            let listed = catalog.devices.iter().filter(|device| device.backend != "native");
            let listed = listed.map(|device| (device.name.as_str(), format!("{}, {}", device.device_type, device.backend)));
            for (name, doc) in own.into_iter().chain(fixed).chain(listed) {
                if ui.selectable_label(device == name, name).on_hover_text(doc).clicked() {
                    *device = name.to_owned();
                }
            }
        });
        menu.response.accessible_name("Device");
        let problems = panel.session.launch.problems.len();
        let text = if is_fork { "Fork" } else { "Launch" };
        let is_ready = problems == 0;
        let button =
            Button::new(RichText::new(text).color(if is_ready { palette.on_accent } else { palette.dim })).min_size(vec2(76.0, 0.0));
        let button = if is_ready { button.fill(palette.accent) } else { button };
        let name = if is_fork { "Launch the fork" } else { "Launch the run" };
        let button = ui.add_enabled(is_ready, button).accessible_name(name).on_hover_text(Action::Launch.hint());
        if button.on_disabled_hover_text("Something is wrong in the recipe: it is marked below").clicked() {
            launch(panel);
        }
        if !is_fork {
            let many = &mut panel.view.launch.many;
            if ui.selectable_label(many.is_open, "Many…").on_hover_text("A grid over some fields").clicked() {
                many.is_open = !many.is_open;
            }
        }
    });
    if changed {
        write_text(panel, catalog);
    }
}

// What went wrong, what is under way, and which mistakes there are.
fn words(ui: &mut Ui, panel: &Panel, palette: &Palette) {
    let state = &panel.session.launch;
    if let Some(sentence) = &state.complaint {
        ui.add(egui::Label::new(RichText::new(sentence).color(palette.error)).wrap().selectable(true));
    }
    if let Some(note) = &state.note {
        ui.label(RichText::new(note).small().color(palette.dim));
    }
    let Some(first) = state.problems.first() else { return };
    let rest = if state.problems.len() > 1 { format!(" (and {} more)", state.problems.len() - 1) } else { String::new() };
    let place = first.line.map_or(String::new(), |line| format!("line {line}: "));
    let field = if first.field.is_empty() { String::new() } else { format!("{} ", first.field) };
    ui.add(egui::Label::new(RichText::new(format!("{place}{field}{}{rest}", first.message)).small().color(palette.error)).wrap());
}

fn many_section(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    if !panel.view.launch.many.is_open {
        return;
    }
    let fields = panel.session.launch.draft.as_ref().map(Draft::fields).unwrap_or_default();
    let present = |field: &str| panel.session.launch.draft.as_ref().and_then(|draft| draft.get(field)).map(ToString::to_string);
    let mut asked = false;
    egui::Frame::group(ui.style()).show(ui, |ui| {
        ui.set_width(ui.available_width());
        let many = &mut panel.view.launch.many;
        let mut removed = None;
        for (index, (field, text)) in many.rows.iter_mut().enumerate() {
            ui.horizontal(|ui| {
                let menu = ComboBox::from_id_salt(("many", index)).selected_text(field.as_str()).width(150.0).show_ui(ui, |ui| {
                    for name in &fields {
                        ui.selectable_value(field, name.clone(), name);
                    }
                });
                menu.response.accessible_name(format!("Field {}", index + 1));
                let is_wrong = many::values(text).is_err();
                let hint = present(field).map_or(String::new(), |value| format!("now {value}"));
                let edit = TextEdit::singleline(text).hint_text(hint).font(TextStyle::Monospace).align(Align2::LEFT_CENTER);
                let edit = edit.text_color(if is_wrong { palette.error } else { palette.text });
                let response = ui.add_sized(vec2(ui.available_width() - 72.0, 22.0), edit).accessible_name(format!("Values of {field}"));
                response.on_hover_text("0.1, 0.01   or   1..4 in 4   or   1e-4..1e-1 in 4 log");
                if ui.button("Remove").accessible_name(format!("Remove {field}")).clicked() {
                    removed = Some(index);
                }
            });
        }
        if let Some(index) = removed {
            many.rows.remove(index);
        }
        ui.horizontal_wrapped(|ui| {
            let is_free = |field: &&String| !many.rows.iter().any(|(used, _)| used == *field);
            if ui.button("Add a field").clicked()
                && let Some(field) = fields.iter().find(|field| *field == "optimizer.lr").filter(is_free).or(fields.iter().find(is_free))
            {
                many.rows.push((field.clone(), String::new()));
            }
            let label = ui.label(RichText::new("Compared by").color(palette.dim));
            let metric = TextEdit::singleline(&mut many.metric).align(Align2::LEFT_CENTER);
            ui.add_sized(vec2(104.0, 22.0), metric).labelled_by(label.id).accessible_name("Metric of the sweep");
            let menu = ComboBox::from_id_salt("many mode").selected_text(if many.is_max { "highest" } else { "lowest" }).width(64.0);
            let menu = menu.show_ui(ui, |ui| {
                ui.selectable_value(&mut many.is_max, false, "lowest");
                ui.selectable_value(&mut many.is_max, true, "highest");
            });
            menu.response.accessible_name("Which value is best");
            let label = ui.label(RichText::new("At once").color(palette.dim));
            ui.add(egui::DragValue::new(&mut many.workers).range(1..=64).speed(0.05)).labelled_by(label.id).accessible_name("Runs at once");
        });
        let count = many.count();
        let is_right = panel.session.launch.problems.is_empty();
        ui.horizontal_wrapped(|ui| match count {
            Ok(count) => {
                let combinations = if count == 1 { "1 combination".into() } else { format!("{count} combinations") };
                asked = ui.add_enabled(is_right, Button::new(format!("Launch {count} runs"))).clicked();
                ui.label(RichText::new(combinations).color(palette.dim));
            }
            Err(problem) => {
                ui.label(RichText::new(problem).color(palette.dim));
            }
        });
    });
    if asked {
        launch_many(panel);
    }
}

fn form_side(ui: &mut Ui, panel: &mut Panel, catalog: &Catalog, palette: &Palette) {
    let state = &mut panel.session.launch;
    let Some(draft) = &mut state.draft else {
        let text = if state.problems.is_empty() { "Reading the recipe" } else { "The fields appear when the text is right" };
        ui.label(RichText::new(text).color(palette.dim));
        return;
    };
    let before = state.fork.as_ref().map(|fork| &fork.before);
    let base_name = if before.is_some() { "the run's value" } else { "the default" };
    let mut form = Form { palette, problems: &state.problems, edits: &mut state.edits, opened: &mut state.opened, base_name };
    let (schedule, mut changed) = (&state.schedule, false);
    ScrollArea::vertical().id_salt("launch form").auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 3.0;
        for (slot, kind) in SLOTS {
            let base = before.and_then(|before| before.parts.get(slot));
            if let Some(part) = draft.parts.get_mut(slot) {
                changed |= component(ui, &mut form, slot, kind, part, base, catalog);
            }
            if slot == "schedule"
                && let Some(curve) = schedule
            {
                draw_curve(ui, curve, palette);
            }
        }
        changed |= trainer(ui, &mut form, &mut draft.trainer, before.map(|before| &before.trainer), catalog);
        for (list, kind) in LISTS {
            let base = before.and_then(|before| before.lists.get(list)).map_or(&[][..], Vec::as_slice);
            changed |= list_of(ui, &mut form, list, kind, draft.lists.entry(list.to_owned()).or_default(), base, catalog);
        }
        ui.add_space(theme::GAP);
    });
    if changed {
        write_text(panel, catalog);
    }
}

fn title(ui: &mut Ui, text: &str, doc: &str, palette: &Palette) {
    let mut letters = text.chars();
    let text: String = letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default();
    form::title_of(ui, &text, doc, palette.accent);
}

// A slot: which component, and its fields.
fn component(ui: &mut Ui, form: &mut Form, slot: &str, kind: &str, part: &mut Part, base: Option<&Part>, catalog: &Catalog) -> bool {
    let mut changed = false;
    let doc = catalog.component(kind, &part.id).map_or("", |component| component.doc.as_str());
    ui.horizontal(|ui| {
        title(ui, slot, doc, form.palette);
        if let Some(chosen) = choose(ui, slot, kind, &part.id, catalog) {
            // What the run had comes back with its own settings.
            *part = base.filter(|base| base.id == chosen.id).cloned().unwrap_or(chosen);
            form.edits.retain(|path, _| !path.starts_with(&format!("{slot}.")));
            changed = true;
        }
    });
    form::problems(ui, form, |field| field == slot);
    changed | settings(ui, form, slot, kind, part, base, catalog)
}

fn settings(ui: &mut Ui, form: &mut Form, path: &str, kind: &str, part: &mut Part, base: Option<&Part>, catalog: &Catalog) -> bool {
    let Some(component) = catalog.component(kind, &part.id) else {
        ui.label(RichText::new(format!("No plugin offers the {kind} {}", part.id)).small().color(form.palette.warn));
        return false;
    };
    let base = base.filter(|base| base.id == part.id).map_or(&component.defaults, |base| &base.config);
    let changed = form::fields(ui, form, path, &component.schema, &component.schema, &mut part.config, Some(base));
    ui.add_space(4.0);
    changed
}

// The menu of a kind's components; the one that was chosen, with its defaults.
fn choose(ui: &mut Ui, name: &str, kind: &str, present: &str, catalog: &Catalog) -> Option<Part> {
    let mut chosen = None;
    let menu = ComboBox::from_id_salt(("component", name)).selected_text(present).width(150.0).show_ui(ui, |ui| {
        for component in catalog.of_kind(kind) {
            if ui.selectable_label(component.id == present, &component.id).on_hover_text(&component.doc).clicked()
                && component.id != present
            {
                chosen = Some(Part::default_of(component));
            }
        }
    });
    menu.response.accessible_name(name);
    chosen
}

fn trainer(ui: &mut Ui, form: &mut Form, value: &mut Value, base: Option<&Value>, catalog: &Catalog) -> bool {
    let Some(trainer) = &catalog.trainer else { return false };
    ui.horizontal(|ui| title(ui, "trainer", &trainer.doc, form.palette));
    form::problems(ui, form, |field| field == "trainer");
    let base = base.unwrap_or(&trainer.defaults);
    let changed = form::fields(ui, form, "trainer", &trainer.schema, &trainer.schema, value, Some(base));
    ui.add_space(4.0);
    changed
}

fn list_of(ui: &mut Ui, form: &mut Form, list: &str, kind: &str, parts: &mut Vec<Part>, base: &[Part], catalog: &Catalog) -> bool {
    let mut changed = false;
    ui.horizontal(|ui| {
        title(ui, list, "", form.palette);
        let add = ui.menu_button("Add", |ui| {
            for component in catalog.of_kind(kind) {
                let button = ui.button(&component.id).accessible_name(format!("Add {kind} {}", component.id));
                if button.on_hover_text(&component.doc).clicked() {
                    parts.push(Part::default_of(component));
                    changed = true;
                    ui.close();
                }
            }
        });
        add.response.accessible_name(format!("Add to {list}"));
        if parts.is_empty() {
            ui.label(RichText::new("none").color(form.palette.dim));
        }
    });
    form::problems(ui, form, |field| field == list);
    let (count, mut asked): (usize, Option<Move>) = (parts.len(), None);
    for (index, part) in parts.iter_mut().enumerate() {
        let path = format!("{list}.{index}");
        let doc = catalog.component(kind, &part.id).map_or("", |component| component.doc.as_str());
        ui.horizontal(|ui| {
            form::title_of(ui, &part.id, doc, form.palette.text);
            asked = asked.or(form::moves(ui, &path, index, count));
        });
        form::problems(ui, form, |field| field == path);
        changed |= settings(ui, form, &path, kind, part, base.get(index), catalog);
    }
    if let Some(asked) = asked {
        asked.carry_out(parts);
        form.edits.retain(|path, _| !path.starts_with(list));
        changed = true;
    }
    changed
}

fn text_side(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    ui.label(RichText::new("The same as text. A change of the form writes it anew, without comments.").small().color(palette.dim));
    let is_wrong: BTreeSet<usize> = panel.session.launch.problems.iter().filter_map(|problem| problem.line).collect();
    let mut changed = false;
    ScrollArea::vertical().id_salt("launch text").auto_shrink(false).show(ui, |ui| {
        // Lines with a mistake are red.
        let mut layouter = |ui: &Ui, text: &dyn egui::TextBuffer, width: f32| {
            let mut job = egui::text::LayoutJob::default();
            job.wrap.max_width = width;
            let font = TextStyle::Monospace.resolve(ui.style());
            for (index, line) in text.as_str().split_inclusive('\n').enumerate() {
                let is_comment = line.trim_start().starts_with("//");
                let color = match (is_wrong.contains(&(index + 1)), is_comment) {
                    (true, _) => palette.error,
                    (_, true) => palette.dim,
                    _ => palette.text,
                };
                job.append(line, 0.0, egui::TextFormat::simple(font.clone(), color));
            }
            ui.ctx().fonts_mut(|fonts| fonts.layout_job(job))
        };
        let edit = TextEdit::multiline(&mut panel.view.launch.text).code_editor().desired_width(f32::INFINITY).desired_rows(12);
        let response = ui.add(edit.layouter(&mut layouter)).accessible_name("Recipe as text");
        changed = response.changed();
        for problem in &panel.session.launch.problems {
            let place = match (problem.line, problem.column) {
                (Some(line), Some(column)) => format!("Line {line}, column {column}: "),
                _ => String::new(),
            };
            let field = if problem.field.is_empty() { String::new() } else { format!("{} ", problem.field) };
            let text = format!("{place}{field}{}", problem.message);
            ui.add(egui::Label::new(RichText::new(text).small().color(palette.error)).wrap());
        }
    });
    if changed {
        ask(panel, Author::Text);
    }
}

// The learning rate over the run.
fn draw_curve(ui: &mut Ui, curve: &Curve, palette: &Palette) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width().min(360.0), CURVE_HEIGHT), Sense::hover());
    let highest = curve.points.iter().fold(0.0f64, |highest, (_, rate)| highest.max(*rate));
    let what = if curve.has_base { "lr" } else { "factor on the learning rate" };
    response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::Image, true, format!("Learning rate over the run, up to {}", short(highest)))
    });
    let plot = egui::Rect::from_min_max(rect.min + vec2(12.0, 16.0), rect.max - vec2(6.0, 16.0));
    let painter = ui.painter_at(rect);
    painter.rect_filled(plot.expand2(vec2(2.0, 3.0)), 3.0, palette.background);
    let end = curve.assumed_steps.saturating_sub(1).max(1) as f64;
    let at = |step: u64, rate: f64| {
        let (x, y) = (step as f64 / end, if highest > 0.0 { rate / highest } else { 0.0 });
        pos2(plot.left() + plot.width() * x as f32, plot.bottom() - plot.height() * y as f32)
    };
    let line: Vec<_> = curve.points.iter().map(|(step, rate)| at(*step, *rate)).collect();
    painter.add(Shape::line(line, Stroke::new(theme::CURVE_WIDTH[0], palette.accent)));
    let font = FontId::proportional(10.5);
    painter.text(pos2(plot.left(), rect.top()), Align2::LEFT_TOP, format!("{what}, up to {}", short(highest)), font.clone(), palette.dim);
    let length = match curve.total_steps {
        Some(steps) => format!("{steps} steps"),
        None => format!("end of the budget (drawn as {} steps)", curve.assumed_steps),
    };
    painter.text(pos2(plot.right(), rect.bottom()), Align2::RIGHT_BOTTOM, length, font, palette.dim);
    let Some(pointer) = response.hover_pos() else { return };
    let step = (f64::from((pointer.x - plot.left()) / plot.width()).clamp(0.0, 1.0) * end) as u64;
    if let Some((step, rate)) = curve.points.iter().min_by_key(|(at, _)| at.abs_diff(step)) {
        painter.circle_filled(at(*step, *rate), 3.0, palette.accent);
        let place = match curve.total_steps {
            Some(_) => format!("step {step}"),
            None => format!("{:.0} % of the budget", *step as f64 / end * 100.0),
        };
        response.on_hover_text(format!("{place}: {}", short(*rate)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_without_a_name_gets_that_of_its_file() {
        assert_eq!(with_name("// x\n(\n    model: mlp(),\n)\n", "a"), "// x\n(\n    name: \"a\",\n    model: mlp(),\n)\n");
        let named = "(\n    name: \"b\",\n)\n";
        assert_eq!(with_name(named, "a"), named);
    }
}
