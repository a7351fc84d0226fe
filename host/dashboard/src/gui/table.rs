//! Runs in rows, settings and metrics in columns: sorted, grouped, labelled, deleted and brought back.
//!
//! Head and first column stand still while the rest scrolls. Texts are made for the rows that are seen only; what is known of a run is worked out
//! once for each of its versions (`facts.rs`), the order of the rows once a change (`listing.rs`). The labels and the menu of a run, the question
//! before a deletion and the line that takes it back stand in `marks.rs`; the list on the left uses them too.

pub mod columns;
pub mod facts;
pub mod filter;
pub mod listing;
pub mod marks;

use super::commands::Action;
use super::runs::elided;
use super::theme::{self, Palette};
use super::{Pane, Panel};
use crate::data::SentState;
use columns::Column;
use eframe::egui::{
    self, Align2, Color32, CursorIcon, FontId, Popup, PopupCloseBehavior, Pos2, Rect, Response, RichText, Role, ScrollArea, Sense, Stroke,
    Ui, Vec2, WidgetInfo, pos2, vec2,
};
use facts::{Book, Facts, differing};
use listing::{Item, Listing};
use marks::Edit;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Height of a row.
const ROW: f32 = 26.0;
/// Height of the head.
const HEAD: f32 = 28.0;
/// Room between a cell's edge and its text.
const PAD: f32 = 8.0;
/// Room for the mark of colour and the dot, before the name.
const MARKS: f32 = 38.0;
/// Least width of a column.
const WIDTH_MIN: f32 = 44.0;

/// What the runs are grouped by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupBy {
    /// Nothing.
    #[default]
    None,
    /// The sweep or cross-validation they belong to.
    Sweep,
    /// The value of a setting.
    Setting(String),
}

/// What the rows are sorted by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sort {
    /// The column.
    pub column: Column,
    /// The greatest first.
    pub descending: bool,
}

/// What is kept from one session to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableView {
    /// Newest first without one.
    pub sort: Option<Sort>,
    /// Headings.
    pub group_by: GroupBy,
    /// Titles of folded groups.
    pub folded: BTreeSet<String>,
    /// Sweeps that are folded in the list on the left.
    pub folded_sweeps: BTreeSet<String>,
    /// Runs that were put away are listed too.
    pub archived: bool,
    /// Columns that were shown or hidden by hand.
    pub columns: Vec<(Column, bool)>,
    /// Columns from left to right, once one was moved by hand.
    pub order: Vec<Column>,
    /// Widths that were changed by hand.
    pub widths: Vec<(Column, f32)>,
    /// Metrics whose best was set by hand: true where it is the greatest.
    pub best: BTreeMap<String, bool>,
}

/// What lasts as long as the window.
#[derive(Debug, Default)]
pub struct TableState {
    /// What is known of the runs.
    pub book: Book,
    /// The label that is being typed.
    pub edit: Option<Edit>,
    /// The runs whose deletion waits for a yes.
    pub asks_delete: Vec<String>,
    /// Why something was not done.
    pub refused: Option<String>,
    /// The row that is scrolled to in the next frame.
    pub scroll_to: Option<String>,
    /// The column whose head was clicked or had the keyboard last: the one that the commands move.
    pub column: Option<Column>,
    /// Number of the frame that is being carried out.
    pub pass: u64,
    /// Runs whose rows were drawn in the last frame.
    pub rows_drawn: usize,
    /// Where a selection with Shift begins.
    anchor: Option<String>,
    // The frame in which the table was drawn last.
    drawn: u64,
    listing: Option<(ListingKey, Arc<Listing>)>,
    column_filter: String,
    // Sent commands that were there when a table was exported: what comes later tells of it.
    exported: Option<u64>,
}

// What the rows depend on, but for the view, which is compared by its text.
type ListingKey = (u64, String, String);

impl TableState {
    /// The table was drawn in this frame or the one before.
    pub fn is_on_screen(&self, context: &egui::Context) -> bool {
        self.drawn > 0 && self.drawn + 1 >= context.cumulative_pass_nr()
    }

    /// The runs in the order of the table, when it was drawn in this frame.
    pub fn ids_on_screen(&self, context: &egui::Context) -> Option<Vec<String>> {
        let (_, listing) = self.listing.as_ref().filter(|_| self.is_on_screen(context))?;
        Some(ids(listing))
    }
}

fn ids(listing: &Listing) -> Vec<String> {
    let runs = listing.items.iter().filter_map(|item| match item {
        Item::Run(index) => Some(listing.runs[*index].id().to_owned()),
        Item::Heading(_) => None,
    });
    runs.collect()
}

/// Carries out an action that is this panel's matter; false for all others.
pub fn act(panel: &mut Panel, action: Action) -> bool {
    match action {
        Action::MoveLeft => move_column(panel, -1),
        Action::MoveRight => move_column(panel, 1),
        _ => return marks::act(panel, action),
    }
    true
}

// The column that was touched last, by one place. Nothing moves out of sight.
fn move_column(panel: &mut Panel, by: isize) {
    let state = &mut panel.session.table;
    let listing = state.listing.clone().filter(|_| state.drawn > 0 && state.drawn + 1 >= state.pass);
    let Some((_, listing)) = listing else { return panel.view.show_pane(Pane::Table) };
    let at = state.column.as_ref().and_then(|column| listing.columns.iter().position(|known| known == column));
    let Some(at) = at else {
        state.refused = Some("Choose the column to move first: click on its head, or go there with Tab".into());
        return;
    };
    state.refused = None;
    let to = at.saturating_add_signed(by).min(listing.columns.len() - 1);
    panel.view.table.order = moved(&listing.columns, at, to);
}

// The columns with the one at `from` taken to the place `to`.
fn moved(columns: &[Column], from: usize, to: usize) -> Vec<Column> {
    let mut columns = columns.to_vec();
    let column = columns.remove(from);
    columns.insert(to, column);
    columns
}

/// Draws the panel.
pub fn show(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let snapshot = panel.snapshot.clone();
    panel.session.table.book.update(&snapshot);
    panel.session.table.drawn = ui.ctx().cumulative_pass_nr();
    if snapshot.runs.is_empty() {
        marks::notices(ui, panel, palette);
        ui.add_space(theme::GAP);
        ui.label(RichText::new("The runs of the list on the left stand here in rows, with their settings and results").color(palette.dim));
        return;
    }
    let runs = panel.session.table.book.listed(&panel.view.filter, panel.view.table.archived);
    let listing = listing_of(panel, &runs);
    toolbar(ui, panel, &listing, &runs, palette);
    marks::notices(ui, panel, palette);
    exported_line(ui, panel, palette);
    if runs.is_empty() {
        ui.add_space(theme::GAP);
        ui.label(RichText::new("The filter leaves no run: clear it, or type less").color(palette.dim));
        return;
    }
    body(ui, panel, &listing, palette);
}

fn listing_of(panel: &mut Panel, runs: &[Arc<Facts>]) -> Arc<Listing> {
    let state = &mut panel.session.table;
    // A few hundred bytes a frame, against sorting all runs.
    let key = (state.book.generation, panel.view.filter.clone(), format!("{:?}", panel.view.table));
    if let Some((_, listing)) = state.listing.as_ref().filter(|(known, _)| *known == key) {
        return listing.clone();
    }
    let listing = Arc::new(listing::list(runs, &panel.view.table));
    state.listing = Some((key, listing.clone()));
    listing
}

fn toolbar(ui: &mut Ui, panel: &mut Panel, listing: &Arc<Listing>, runs: &[Arc<Facts>], palette: &Palette) {
    ui.horizontal_wrapped(|ui| {
        let field = egui::TextEdit::singleline(&mut panel.view.filter).hint_text("loss<0.3 lr>=0.01 -word").align(Align2::LEFT_CENTER);
        let field = ui.add_sized(vec2(178.0, theme::ROW_HEIGHT), field).accessible_name("Filter the table");
        field.on_hover_text(
            "Every word must hold:\nword: in name, id, state, tags or note\nlr=0.1  lr>=0.01  loss<0.3  step>1000: settings, last values, numbers\n\
             state:failed  tag:x  group:x  note:x\n-word: not this",
        );
        let group = match &panel.view.table.group_by {
            GroupBy::None => "No groups".to_owned(),
            GroupBy::Sweep => "By sweep".to_owned(),
            GroupBy::Setting(key) => format!("By {key}"),
        };
        let combo = egui::ComboBox::from_id_salt("group by").selected_text(group).width(112.0).height(320.0).show_ui(ui, |ui| {
            let by = &mut panel.view.table.group_by;
            ui.selectable_value(by, GroupBy::None, "No groups");
            ui.selectable_value(by, GroupBy::Sweep, "By sweep");
            for key in differing(runs) {
                ui.selectable_value(by, GroupBy::Setting(key.clone()), format!("By {key}"));
            }
        });
        combo.response.accessible_name("Group by");
        let columns = ui.button("Columns");
        let menu = Popup::menu(&columns).close_behavior(PopupCloseBehavior::CloseOnClickOutside);
        menu.show(|ui| chooser(ui, panel, listing, palette));
        let archived = panel.session.table.book.archived_count();
        if archived > 0 || panel.view.table.archived {
            let text = format!("{archived} runs were put away");
            ui.toggle_value(&mut panel.view.table.archived, "Archived").on_hover_text(text);
        }
        if ui.button("Export").on_hover_text("Copies these rows as comma-separated values, and saves them beside the runs folder").clicked() {
            let text = columns::csv(listing.runs.iter().map(|facts| &**facts), &listing.columns, &panel.view.table);
            ui.ctx().copy_text(text.clone());
            panel.session.table.exported = Some(panel.snapshot.sent.iter().map(|sent| sent.ticket).max().unwrap_or(0));
            panel.requests.push(super::source::Request::Save { ending: "csv", text });
        }
        let chosen = panel.view.chosen().len();
        let count = match (runs.len(), panel.session.table.book.runs.len()) {
            (listed, all) if listed == all => format!("{all} listed"),
            (listed, all) => format!("{listed} of {all} listed"),
        };
        let count = if chosen > 1 { format!("{count}, {chosen} selected") } else { count };
        ui.label(RichText::new(count).small().color(palette.dim));
    });
}

fn exported_line(ui: &mut Ui, panel: &mut Panel, palette: &Palette) {
    let Some(before) = panel.session.table.exported else { return };
    let snapshot = panel.snapshot.clone();
    let saved = snapshot.sent.iter().rev().find(|sent| sent.kind == crate::data::SAVE && sent.ticket > before);
    ui.horizontal(|ui| {
        let text = match saved {
            Some(sent) if sent.state == SentState::Done => format!("Copied, and saved as {}", sent.run.display()),
            Some(sent) => format!("Copied, but not saved: {}", sent.reason.as_deref().unwrap_or("no reason given")),
            None => "Copied".into(),
        };
        let mut is_closed = false;
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            is_closed = ui.button("OK").accessible_name("Close the line about the export").clicked();
            ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
                ui.add(egui::Label::new(RichText::new(&text).color(palette.dim)).truncate()).on_hover_text(&text);
            });
        });
        if is_closed {
            panel.session.table.exported = None;
        }
    });
}

// Which columns there are.
fn chooser(ui: &mut Ui, panel: &mut Panel, listing: &Arc<Listing>, palette: &Palette) {
    ui.set_width(270.0);
    let field = egui::TextEdit::singleline(&mut panel.session.table.column_filter).hint_text("Find a column").desired_width(f32::INFINITY);
    ui.add(field).accessible_name("Find a column");
    let wanted = panel.session.table.column_filter.to_lowercase();
    ScrollArea::vertical().max_height(360.0).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        let section = |column: &Column| match column {
            Column::Last(_) | Column::Best(_) => "Results",
            Column::Setting(_) => "Settings",
            _ => "Run",
        };
        for title in ["Results", "Settings", "Run"] {
            let found = |column: &Column| section(column) == title && column.title(&panel.view.table).to_lowercase().contains(&wanted);
            let offered: Vec<&(Column, bool)> = listing.offered.iter().filter(|(column, _)| found(column)).collect();
            if offered.is_empty() {
                continue;
            }
            ui.label(RichText::new(title).color(palette.accent));
            for (column, at_first) in offered {
                let mut is_shown = listing.columns.contains(column);
                let name = column.title(&panel.view.table);
                ui.horizontal(|ui| {
                    if ui.checkbox(&mut is_shown, &name).accessible_name(format!("Column {name}")).changed() {
                        panel.view.table.columns.retain(|(known, _)| known != column);
                        if is_shown != *at_first {
                            panel.view.table.columns.push((column.clone(), is_shown));
                        }
                    }
                    if let Column::Best(metric) = column {
                        let is_greatest = panel.view.table.is_greatest_best(metric);
                        let (text, turned) =
                            if is_greatest { ("greatest is best", "the least") } else { ("least is best", "the greatest") };
                        let button = egui::Button::new(RichText::new(text).small().color(palette.dim)).frame(false);
                        if ui
                            .add(button)
                            .accessible_name(format!("Best of {metric} is {turned}"))
                            .on_hover_text(format!("Click: {turned}"))
                            .clicked()
                        {
                            panel.view.table.best.insert(metric.clone(), !is_greatest);
                        }
                    }
                });
            }
            ui.add_space(4.0);
        }
    });
    let is_changed = !panel.view.table.columns.is_empty() || !panel.view.table.order.is_empty();
    if is_changed && ui.button("Columns as at first").clicked() {
        panel.view.table.columns.clear();
        panel.view.table.order.clear();
    }
}

/// Where the parts of the table are on screen.
struct Frame {
    /// All that is seen.
    view: Rect,
    /// Where the first row would be, with what is scrolled away.
    top: f32,
    /// Left edges of the columns but the first, with what is scrolled away; then the right edge of the last.
    edges: Vec<f32>,
    /// Right edge of the first column, which does not scroll.
    first: f32,
}

impl Frame {
    fn scrolled(&self) -> Rect {
        Rect::from_min_max(pos2(self.first, self.view.top() + HEAD), self.view.max)
    }

    fn fixed(&self) -> Rect {
        Rect::from_min_max(pos2(self.view.left(), self.view.top() + HEAD), pos2(self.first, self.view.bottom()))
    }

    fn cell(&self, column: usize, row: Rect) -> Rect {
        Rect::from_x_y_ranges(self.edges[column]..=self.edges[column + 1], row.y_range())
    }
}

fn body(ui: &mut Ui, panel: &mut Panel, listing: &Listing, palette: &Palette) {
    let width_of = |panel: &Panel, column: &Column| {
        let known = panel.view.table.widths.iter().find(|(known, _)| known == column);
        known.map_or_else(|| column.width(&panel.view.table), |(_, width)| *width)
    };
    let first_width = width_of(panel, &Column::Name).min(ui.available_width() * 0.6);
    let widths: Vec<f32> = listing.columns.iter().map(|column| width_of(panel, column)).collect();
    let size = vec2(first_width + widths.iter().sum::<f32>(), HEAD + ROW * listing.items.len() as f32);
    let scroll_to = panel.session.table.scroll_to.take();
    ui.spacing_mut().item_spacing = Vec2::ZERO;
    panel.session.table.rows_drawn = 0;
    ScrollArea::both().id_salt("table").auto_shrink(false).show_viewport(ui, |ui, viewport| {
        let origin = ui.max_rect().min;
        ui.set_min_size(size);
        let view = Rect::from_min_size(origin + viewport.min.to_vec2(), viewport.size()).intersect(ui.clip_rect());
        let mut edges = vec![origin.x + first_width];
        widths.iter().for_each(|width| edges.push(edges[edges.len() - 1] + width));
        let frame = Frame { view, top: origin.y + HEAD, edges, first: view.left() + first_width };
        if let Some(id) = scroll_to
            && let Some(row) = listing.items.iter().position(|item| matches!(item, Item::Run(index) if listing.runs[*index].id() == id))
        {
            let row = Rect::from_min_size(pos2(view.left(), frame.top + row as f32 * ROW), vec2(1.0, ROW));
            // The head covers the first row of what is seen.
            if row.top() < view.top() + HEAD || row.bottom() > view.bottom() {
                let align = if row.top() < view.top() + HEAD { egui::Align::TOP } else { egui::Align::BOTTOM };
                let margin = if align == egui::Align::TOP { HEAD } else { 0.0 };
                ui.scroll_to_rect(row.translate(vec2(0.0, -margin)), Some(align));
            }
        }
        let clip = ui.clip_rect();
        let from = ((view.top() - origin.y) / ROW).floor().max(0.0) as usize;
        let to = (((view.bottom() - frame.top) / ROW).ceil().max(0.0) as usize).min(listing.items.len());
        for index in from.min(to)..to {
            let row = Rect::from_min_size(pos2(view.left(), frame.top + index as f32 * ROW), vec2(view.width(), ROW));
            match listing.items[index] {
                Item::Heading(group) => heading(ui, panel, listing, group, row, &frame, palette),
                Item::Run(run) => {
                    panel.session.table.rows_drawn += 1;
                    run_row(ui, panel, listing, &listing.runs[run], row, &frame, palette);
                }
            }
        }
        ui.set_clip_rect(view);
        head(ui, panel, listing, &frame, palette);
        let line = Stroke::new(1.0, palette.line);
        ui.painter().vline(frame.first - 0.5, view.y_range(), line);
        ui.set_clip_rect(clip);
    });
}

fn head(ui: &mut Ui, panel: &mut Panel, listing: &Listing, frame: &Frame, palette: &Palette) {
    let rect = Rect::from_min_size(frame.view.min, vec2(frame.view.width(), HEAD));
    ui.painter().rect_filled(rect, 0.0, palette.panel);
    ui.painter().hline(rect.x_range(), rect.bottom() - 0.5, Stroke::new(1.0, palette.line));
    let clip = ui.clip_rect();
    ui.set_clip_rect(Rect::from_min_max(pos2(frame.first, rect.top()), rect.max));
    for (index, column) in listing.columns.iter().enumerate() {
        let cell = frame.cell(index, rect);
        // One that is dragged out of sight is still dragged.
        let is_dragged = ui.ctx().is_being_dragged(sort_id(ui, column));
        if is_dragged || (cell.right() > frame.first && cell.left() < rect.right()) {
            let head = head_cell(ui, panel, column, cell, palette);
            drag_column(ui, panel, listing, frame, index, rect, &head, palette);
        }
    }
    ui.set_clip_rect(clip);
    head_cell(ui, panel, &Column::Name, Rect::from_min_max(rect.min, pos2(frame.first, rect.bottom())), palette);
}

// A head that is dragged: its name goes with the mouse, and a line says where it would stand.
#[expect(clippy::too_many_arguments, reason = "a column, where it is, and what is drawn")]
fn drag_column(
    ui: &Ui,
    panel: &mut Panel,
    listing: &Listing,
    frame: &Frame,
    index: usize,
    head: Rect,
    response: &Response,
    palette: &Palette,
) {
    let is_over = response.drag_stopped();
    let Some(pointer) = response.interact_pointer_pos().filter(|_| response.dragged() || is_over) else { return };
    // The gap between two columns that is nearest: 0 is before the first.
    let edge = |gap: &usize| (frame.edges[*gap] - pointer.x).abs();
    let gap = (0..frame.edges.len()).min_by(|a, b| edge(a).total_cmp(&edge(b))).unwrap_or(index);
    let to = if gap > index { gap - 1 } else { gap };
    if is_over {
        if to != index {
            panel.view.table.order = moved(&listing.columns, index, to);
        }
        return;
    }
    let layer = egui::LayerId::new(egui::Order::Tooltip, egui::Id::unique("moved column"));
    let painter = ui.ctx().layer_painter(layer).with_clip_rect(frame.view);
    if to != index {
        let x = frame.edges[gap].clamp(frame.first + 1.0, frame.view.right() - 1.0);
        painter.vline(x, frame.view.y_range(), Stroke::new(2.0, palette.accent));
    }
    let title = listing.columns[index].title(&panel.view.table);
    let galley = painter.layout_no_wrap(title, FontId::proportional(12.0), palette.text);
    let ghost = Rect::from_center_size(pos2(pointer.x, head.center().y), galley.size() + vec2(2.0 * PAD, 6.0));
    painter.rect(ghost, 4.0, palette.raised, Stroke::new(1.0, palette.accent), egui::StrokeKind::Inside);
    painter.galley(ghost.min + vec2(PAD, 3.0), galley, palette.text);
    // Further columns come into sight at the edges.
    let reach = 28.0;
    let by = if pointer.x > head.right() - reach && frame.edges[frame.edges.len() - 1] > frame.view.right() {
        -6.0
    } else if pointer.x < frame.first + reach && frame.edges[0] < frame.first {
        6.0
    } else {
        return;
    };
    ui.scroll_with_delta(vec2(by, 0.0));
    ui.ctx().request_repaint();
}

fn sort_id(ui: &Ui, column: &Column) -> egui::Id {
    ui.scope_id().with(("sort", column))
}

fn head_cell(ui: &mut Ui, panel: &mut Panel, column: &Column, cell: Rect, palette: &Palette) -> Response {
    let title = column.title(&panel.view.table);
    let sort = panel.view.table.sort.as_ref().filter(|sort| sort.column == *column).cloned();
    let can_move = *column != Column::Name;
    let sense = if can_move { Sense::click_and_drag() } else { Sense::click() };
    let response = ui.interact(cell, sort_id(ui, column), sense);
    response.widget_info(|| {
        let mut info = WidgetInfo::labeled(Role::Button, true, format!("Sort by {title}"));
        info.current_text_value = sort.as_ref().map(|sort| if sort.descending { "descending".into() } else { "ascending".into() });
        info
    });
    if response.clicked() {
        let descending = sort.as_ref().is_some_and(|sort| !sort.descending);
        panel.view.table.sort = Some(Sort { column: column.clone(), descending });
    }
    if can_move && (response.clicked() || response.gained_focus() || response.secondary_clicked()) {
        panel.session.table.column = Some(column.clone());
        panel.session.sweep.axis = None;
    }
    response.context_menu(|ui| {
        if ui.button("Smallest first").clicked() {
            panel.view.table.sort = Some(Sort { column: column.clone(), descending: false });
        }
        if ui.button("Greatest first").clicked() {
            panel.view.table.sort = Some(Sort { column: column.clone(), descending: true });
        }
        if panel.view.table.sort.is_some() && ui.button("Newest first").clicked() {
            panel.view.table.sort = None;
        }
        if let Column::Setting(key) = column
            && ui.button("Group by this").clicked()
        {
            panel.view.table.group_by = GroupBy::Setting(key.clone());
        }
        if let Some(metric) = column.metric() {
            let is_greatest = panel.view.table.is_greatest_best(metric);
            let text = if is_greatest { "The least is the best" } else { "The greatest is the best" };
            if ui.button(text).clicked() {
                panel.view.table.best.insert(metric.to_owned(), !is_greatest);
            }
        }
        if can_move {
            for (action, text) in [(Action::MoveLeft, "Move to the left"), (Action::MoveRight, "Move to the right")] {
                if ui.add(egui::Button::new(text).shortcut_text(action.entry().key_name())).clicked() {
                    panel.actions.push(action);
                }
            }
        }
        if can_move && ui.button("Hide this column").clicked() {
            panel.view.table.columns.retain(|(known, _)| known != column);
            panel.view.table.columns.push((column.clone(), false));
        }
    });
    let painter = ui.painter().with_clip_rect(cell.intersect(ui.clip_rect()));
    let color = if sort.is_some() || response.hovered() || response.has_focus() { palette.text } else { palette.dim };
    let mut text_rect = cell.shrink2(vec2(PAD, 0.0));
    if let Some(sort) = &sort {
        let tip = if sort.descending { 3.0 } else { -3.0 };
        let center = pos2(text_rect.right() - 4.0, cell.center().y);
        let corners = vec![center + vec2(-4.0, -tip * 0.7), center + vec2(4.0, -tip * 0.7), center + vec2(0.0, tip)];
        painter.add(egui::Shape::convex_polygon(corners, palette.accent, Stroke::NONE));
        text_rect.max.x -= 12.0;
    }
    if *column == Column::Name {
        text_rect.min.x = cell.left() + MARKS;
    }
    let align = if column.is_number() { Align2::RIGHT_CENTER } else { Align2::LEFT_CENTER };
    cell_text(ui, &painter, text_rect, &title, FontId::proportional(12.0), color, align);
    if response.has_focus() {
        painter.rect_stroke(cell.shrink(2.0), 3.0, Stroke::new(1.0, palette.accent), egui::StrokeKind::Inside);
    }
    let hint = if can_move { "\nDrag: another place" } else { "" };
    let response = response.on_hover_text(format!("{title}\nClick: sort by it; again: the other way round{hint}"));

    // The edge: drag it, or double click for the width it had.
    let edge = Rect::from_x_y_ranges(cell.right() - 4.0..=cell.right() + 3.0, cell.y_range());
    let edge = ui
        .interact(edge, ui.scope_id().with(("width", column)), Sense::click_and_drag())
        .on_hover_and_drag_cursor(CursorIcon::ResizeColumn);
    edge.widget_info(|| WidgetInfo::labeled(Role::Splitter, true, format!("Width of {title}")));
    if edge.hovered() || edge.dragged() {
        painter.vline(cell.right() - 1.0, cell.y_range(), Stroke::new(2.0, palette.accent));
    }
    if edge.dragged() && edge.drag_delta().x != 0.0 {
        let width = (cell.width() + edge.drag_delta().x).clamp(WIDTH_MIN, 800.0);
        panel.view.table.widths.retain(|(known, _)| known != column);
        panel.view.table.widths.push((column.clone(), width));
    }
    if edge.double_clicked() {
        panel.view.table.widths.retain(|(known, _)| known != column);
    }
    response
}

fn heading(ui: &mut Ui, panel: &mut Panel, listing: &Listing, index: usize, row: Rect, frame: &Frame, palette: &Palette) {
    let group = &listing.groups[index];
    let is_open = !panel.view.table.folded.contains(&group.title);
    let clip = ui.clip_rect();
    let below = Rect::from_min_max(frame.fixed().min, frame.view.max);
    ui.set_clip_rect(below);
    let response = ui.interact(row, ui.scope_id().with(("group", &group.title)), Sense::click());
    let texts: Vec<String> = group.stats.iter().map(|stats| stats.as_ref().map_or(String::new(), spread_text)).collect();
    response.widget_info(|| {
        let mut info = WidgetInfo::selected(Role::Button, true, is_open, format!("Group {}", group.title));
        let stats = listing.columns.iter().zip(&texts).filter(|(_, text)| !text.is_empty());
        let stats: Vec<String> = stats.map(|(column, text)| format!("{} {text}", column.title(&panel.view.table))).collect();
        info.current_text_value = Some(format!("{} runs; {}", group.count, stats.join("; ")));
        info
    });
    if response.clicked() && !panel.view.table.folded.remove(&group.title) {
        panel.view.table.folded.insert(group.title.clone());
    }
    let fill = if response.hovered() { palette.raised } else { palette.raised.gamma_multiply(0.6) };
    ui.painter().rect_filled(row, 0.0, fill);
    ui.set_clip_rect(frame.scrolled());
    for (index, text) in texts.iter().enumerate() {
        let cell = frame.cell(index, row);
        if cell.right() > frame.first && cell.left() < frame.view.right() {
            let painter = ui.painter().with_clip_rect(cell.intersect(ui.clip_rect()));
            cell_text(ui, &painter, cell.shrink2(vec2(PAD, 0.0)), text, FontId::monospace(11.5), palette.text, Align2::RIGHT_CENTER);
        }
    }
    ui.set_clip_rect(frame.fixed());
    fold_mark(ui.painter(), pos2(row.left() + 16.0, row.center().y), is_open, palette.dim);
    let painter = ui.painter();
    let count = painter.text(
        pos2(frame.first - PAD, row.center().y),
        Align2::RIGHT_CENTER,
        group.count.to_string(),
        FontId::proportional(12.0),
        palette.dim,
    );
    elided(ui, painter, pos2(row.left() + 28.0, row.center().y), count.left() - 6.0 - row.left() - 28.0, &group.title, 12.5, palette.text);
    ui.set_clip_rect(clip);
    response.on_hover_text_at_pointer(format!("{}\nMean ± standard deviation of its runs; click to fold", group.title));
}

// `0.25 ± 0.05`.
fn spread_text(spread: &listing::Spread) -> String {
    use super::axis::short;
    spread.std.map_or_else(|| short(spread.mean), |std| format!("{} ± {}", short(spread.mean), short_digits(std)))
}

// Two digits tell how wide it is.
fn short_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return super::axis::short(value);
    }
    let unit = 10f64.powf(value.abs().log10().floor() - 1.0);
    super::axis::short((value / unit).round() * unit)
}

/// A triangle that points down where what follows is open, to the right where it is folded.
pub fn fold_mark(painter: &egui::Painter, center: Pos2, is_open: bool, color: Color32) {
    let at = |x: f32, y: f32| center + vec2(x, y);
    let corners =
        if is_open { vec![at(-4.0, -2.5), at(4.0, -2.5), at(0.0, 3.5)] } else { vec![at(-2.5, -4.0), at(3.5, 0.0), at(-2.5, 4.0)] };
    painter.add(egui::Shape::convex_polygon(corners, color, Stroke::NONE));
}

fn run_row(ui: &mut Ui, panel: &mut Panel, listing: &Listing, facts: &Arc<Facts>, row: Rect, frame: &Frame, palette: &Palette) {
    let id = facts.id();
    let is_shown = panel.view.is_shown(id);
    let is_selected = panel.view.is_selected(id);
    let color = palette.run(panel.view.color_slot(id));
    let clip = ui.clip_rect();
    ui.set_clip_rect(Rect::from_min_max(frame.fixed().min, frame.view.max));
    let book = &panel.session.table.book;
    let name_of = |id: &str| book.get(id).map(|facts| facts.name.clone());
    let visible = |index: usize| frame.edges[index + 1] > frame.first && frame.edges[index] < frame.view.right();
    let texts: Vec<String> = listing
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| if visible(index) { column.text(facts, &panel.view.table, name_of) } else { String::new() })
        .collect();
    let body = ui.interact(row, ui.scope_id().with(("row", id)), Sense::click());
    body.widget_info(|| {
        let mut info = WidgetInfo::selected(Role::Button, true, is_selected, format!("Row {}", facts.name));
        let cells = listing.columns.iter().zip(&texts).filter(|(_, text)| !text.is_empty());
        let cells: Vec<String> = cells.map(|(column, text)| format!("{} {text}", column.title(&panel.view.table))).collect();
        info.current_text_value = Some(cells.join("; "));
        info
    });
    if is_selected {
        ui.painter().rect_filled(row, 0.0, palette.raised);
    } else if body.hovered() {
        ui.painter().rect_filled(row, 0.0, palette.raised.gamma_multiply(0.5));
    }

    ui.set_clip_rect(frame.scrolled());
    let mut parent_clicked = false;
    for (index, (column, text)) in listing.columns.iter().zip(&texts).enumerate() {
        if visible(index) {
            let cell = frame.cell(index, row);
            parent_clicked |= run_cell(ui, facts, column, text, cell, palette);
        }
    }

    // What stands still: colour, dot, pin, name.
    let fixed = Rect::from_min_max(row.min, pos2(frame.first, row.bottom()));
    ui.set_clip_rect(frame.fixed());
    let swatch = Rect::from_min_size(row.min, vec2(12.0, ROW));
    marks::swatch(ui, panel, facts, swatch, palette);
    let dot_rect = Rect::from_min_max(pos2(swatch.right(), row.top()), pos2(row.left() + MARKS - 6.0, row.bottom()));
    let dot = ui.interact(dot_rect, ui.scope_id().with(("dot", id)), Sense::click());
    dot.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, is_shown, format!("Show {}", facts.name)));
    if dot.clicked() {
        panel.view.set_shown(id, !is_shown);
    }
    curve_dot(ui.painter(), dot_rect.center(), is_shown, color);
    dot.on_hover_text("Show or hide the curves (V)");
    let mut left = row.left() + MARKS;
    if facts.is_pinned {
        marks::pin_mark(ui.painter(), pos2(left + 3.0, row.center().y), palette.accent);
        left += 13.0;
    }
    let is_editing = panel.session.table.edit.as_ref().is_some_and(|edit| edit.runs.first().is_some_and(|run| run == id));
    if !is_editing {
        let name_color = if facts.is_archived { palette.dim } else { palette.text };
        elided(ui, ui.painter(), pos2(left, row.center().y), frame.first - PAD - left, &facts.name, 13.0, name_color);
    }
    if body.has_focus() {
        ui.painter().rect_stroke(fixed.shrink(1.0), 3.0, Stroke::new(1.0, palette.accent), egui::StrokeKind::Inside);
    }
    ui.set_clip_rect(clip);

    if parent_clicked {
        if let Some(parent) = facts.run.info.as_ref().and_then(|info| info.parent.as_ref()) {
            panel.view.select(&parent.id);
            panel.session.table.scroll_to = Some(parent.id.clone());
        }
    } else if body.clicked() {
        select(ui, panel, id, || ids(listing));
    }
    marks::context_menu(&body, panel, facts);
    let hovered = ui.input(|input| input.pointer.hover_pos()).filter(|_| body.hovered());
    if let Some(pointer) = hovered {
        let column =
            (0..listing.columns.len()).find(|index| pointer.x >= frame.first && frame.cell(*index, row).x_range().contains(pointer.x));
        let text = match column {
            Some(index) if !texts[index].is_empty() => format!("{}: {}", listing.columns[index].title(&panel.view.table), texts[index]),
            Some(_) => String::new(),
            None => {
                [facts.name.as_str(), id, facts.note.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
            }
        };
        if !text.is_empty() {
            body.on_hover_text_at_pointer(text);
        }
    }
    if is_editing {
        // As wide as what is typed may be, over what stands beside the name.
        let width = (frame.first - left - 2.0).max(230.0).min(frame.view.right() - left - 4.0);
        marks::editor(ui, panel, Rect::from_min_size(pos2(left - 4.0, row.top() + 1.0), vec2(width, ROW - 2.0)), palette);
    }
}

// A cell of a run; true when it is the parent and was clicked.
fn run_cell(ui: &Ui, facts: &Facts, column: &Column, text: &str, cell: Rect, palette: &Palette) -> bool {
    let painter = ui.painter().with_clip_rect(cell.intersect(ui.clip_rect()));
    let mut inner = cell.shrink2(vec2(PAD, 0.0));
    let state = super::state(&facts.run);
    match column {
        Column::State => {
            let color = palette.state(state);
            theme::state_mark(&painter, pos2(inner.left() + 5.0, cell.center().y), state, color);
            inner.min.x += 16.0;
            cell_text(ui, &painter, inner, text, FontId::proportional(12.5), color, Align2::LEFT_CENTER);
        }
        Column::Progress => {
            if let (Some(part), false) = (facts.run.progress(), facts.is_over()) {
                let bar = Rect::from_min_size(pos2(inner.left(), cell.bottom() - 4.0), vec2(inner.width(), 2.0));
                painter.rect_filled(bar, 1.0, palette.line);
                painter.rect_filled(Rect::from_min_size(bar.min, vec2(bar.width() * part as f32, 2.0)), 1.0, palette.state(state));
            }
            cell_text(ui, &painter, inner, text, FontId::proportional(12.0), palette.dim, Align2::LEFT_CENTER);
        }
        Column::Parent if !text.is_empty() => {
            let response =
                ui.interact(cell, ui.scope_id().with(("parent", facts.id())), Sense::click()).on_hover_cursor(CursorIcon::PointingHand);
            response.widget_info(|| WidgetInfo::labeled(Role::Link, true, format!("Parent of {}", facts.name)));
            cell_text(ui, &painter, inner, text, FontId::proportional(12.5), palette.accent, Align2::LEFT_CENTER);
            return response.clicked();
        }
        Column::Tags => marks::chips(ui, &painter, inner, &facts.tags, palette),
        Column::Last(_) | Column::Best(_) | Column::Duration | Column::Speed | Column::Seed => {
            cell_text(ui, &painter, inner, text, FontId::monospace(12.0), palette.text, Align2::RIGHT_CENTER);
        }
        Column::Setting(_) => cell_text(ui, &painter, inner, text, FontId::monospace(12.0), palette.text, Align2::LEFT_CENTER),
        _ => cell_text(ui, &painter, inner, text, FontId::proportional(12.5), palette.dim, Align2::LEFT_CENTER),
    }
    false
}

/// The mark of a run that has curves, or has not.
pub fn curve_dot(painter: &egui::Painter, center: Pos2, is_shown: bool, color: Color32) {
    if is_shown {
        painter.circle_filled(center, 5.0, color);
    } else {
        painter.circle_stroke(center, 4.5, Stroke::new(1.5, color.gamma_multiply(0.7)));
    }
}

// Text within a cell, cut with dots where it is too long.
fn cell_text(ui: &Ui, painter: &egui::Painter, rect: Rect, text: &str, font: FontId, color: Color32, align: Align2) {
    if text.is_empty() || rect.width() < 4.0 {
        return;
    }
    let mut job = egui::text::LayoutJob::simple_singleline(text.lines().next().unwrap_or_default().to_owned(), font, color);
    job.wrap = egui::text::TextWrapping::truncate_at_width(rect.width());
    let galley = ui.ctx().fonts_mut(|fonts| fonts.layout_job(job));
    painter.galley(align.align_size_within_rect(galley.size(), rect).min, galley, color);
}

/// What a click on a run does: selects it; with Ctrl besides the others, with Shift all from the last one that was clicked. `ids`: all in order.
pub fn select(ui: &Ui, panel: &mut Panel, id: &str, ids: impl FnOnce() -> Vec<String>) {
    let modifiers = ui.input(|input| input.modifiers);
    if modifiers.shift {
        let ids = ids();
        let place = |id: &str| ids.iter().position(|known| known == id);
        let anchor = panel.session.table.anchor.clone().or(panel.view.selected.clone());
        if let (Some(from), Some(to)) = (anchor.as_deref().and_then(place), place(id)) {
            let range = &ids[from.min(to)..=from.max(to)];
            panel.view.select(&ids[from]);
            panel.view.also = range.iter().filter(|known| **known != ids[from]).cloned().collect();
            return;
        }
    }
    panel.session.table.anchor = Some(id.to_owned());
    if modifiers.command {
        panel.view.toggle_selected(id);
    } else {
        panel.view.select(id);
    }
}

/// A response that is a button with this name.
pub fn named(response: &Response, name: impl Into<String>) {
    let name = name.into();
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, name.clone()));
}
