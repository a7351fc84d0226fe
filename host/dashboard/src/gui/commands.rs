//! Everything the window can do, in one list: it feeds the keyboard, the menus, the palette (Ctrl+K) and the cheat sheet (`?`).
//!
//! A panel never acts while it is drawn: it names an [`Action`], and `Dashboard::act` carries it out at the end of the frame.

use super::Pane;
use super::theme::{self, Palette};
use eframe::egui::{self, Align, Align2, Button, Id, Key, KeyboardShortcut, Layout, Modifiers, Order, RichText, ScrollArea, Ui, vec2};

/// Something the user can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Show the palette.
    Palette,
    /// Show the keys.
    Keys,
    /// Type in the filter of runs.
    Filter,
    /// Select the run below.
    NextRun,
    /// Select the run above.
    PreviousRun,
    /// Show or hide the curves of the selected run.
    ToggleCurves,
    /// Show only the selected run; again: all.
    Solo,
    /// Show all runs.
    ShowAll,
    /// Compare others with the selected run.
    Compare,
    /// Pause, or go on.
    PauseResume,
    /// One step, then wait.
    Step,
    /// Evaluate now.
    Evaluate,
    /// Save now.
    Checkpoint,
    /// Ask whether to stop.
    Stop,
    /// The next x axis.
    NextXAxis,
    /// Logarithmic y axis, or not.
    LogY,
    /// Logarithmic x axis, or not.
    LogX,
    /// Cut off outliers, or not.
    Outliers,
    /// One chart as large as the panel, or all again.
    Maximise,
    /// Curves of a group as mean and deviation, or each by itself.
    GroupMean,
    /// A new run from a point of this one.
    Fork,
    /// Keep the run at the top of the lists, or not.
    Pin,
    /// Give the run a name.
    Rename,
    /// Put the run away, or take it back.
    Archive,
    /// Delete the run.
    Delete,
    /// Take the last deletion back.
    Undo,
    /// The column of the table, or the axis of the sweep, that was touched last, one place to the left.
    MoveLeft,
    /// The same to the right.
    MoveRight,
    /// Start what the form says.
    Launch,
    /// Bring a panel to the front.
    Show(Pane),
    /// More smoothing.
    Smoother,
    /// Less smoothing.
    Rougher,
    /// Back to the whole range.
    ResetZoom,
    /// Dark or light.
    Theme,
    /// Larger window contents.
    Larger,
    /// Smaller window contents.
    Smaller,
    /// Original size.
    OriginalSize,
    /// Panels where they were at first.
    ResetLayout,
    /// Close the window.
    Quit,
}

/// One line of the list.
#[derive(Debug)]
pub struct Entry {
    /// What it does.
    pub action: Action,
    /// Menu that it stands in.
    pub group: &'static str,
    /// Its name, as in menus.
    pub name: &'static str,
    /// Key with its modifiers. Keys without modifiers count only while no text field has the focus.
    pub key: Option<(Modifiers, Key)>,
}

/// The menus, in order.
pub const GROUPS: [&str; 5] = ["Run", "Curves", "View", "Panels", "Help"];

const fn entry(action: Action, group: &'static str, name: &'static str, key: Key) -> Entry {
    Entry { action, group, name, key: Some((Modifiers::NONE, key)) }
}

const fn with(action: Action, group: &'static str, name: &'static str, modifiers: Modifiers, key: Key) -> Entry {
    Entry { action, group, name, key: Some((modifiers, key)) }
}

/// The list.
pub const ENTRIES: [Entry; 49] = [
    entry(Action::PauseResume, "Run", "Pause or resume", Key::Space),
    entry(Action::Step, "Run", "One step", Key::N),
    entry(Action::Evaluate, "Run", "Evaluate now", Key::E),
    entry(Action::Checkpoint, "Run", "Save a checkpoint", Key::C),
    entry(Action::Stop, "Run", "Stop…", Key::S),
    entry(Action::PreviousRun, "Run", "Select the run above", Key::ArrowUp),
    entry(Action::NextRun, "Run", "Select the run below", Key::ArrowDown),
    entry(Action::Compare, "Run", "Compare others with this run", Key::B),
    entry(Action::Fork, "Run", "Fork…", Key::F),
    entry(Action::Pin, "Run", "Pin to the top, or not", Key::P),
    entry(Action::Rename, "Run", "Rename…", Key::F2),
    Entry { action: Action::Archive, group: "Run", name: "Archive, or take back", key: None },
    entry(Action::Delete, "Run", "Delete…", Key::Delete),
    with(Action::Undo, "Run", "Take the deletion back", Modifiers::COMMAND, Key::Z),
    with(Action::Launch, "Run", "Launch", Modifiers::COMMAND, Key::Enter),
    entry(Action::ToggleCurves, "Curves", "Show or hide the run", Key::V),
    entry(Action::Solo, "Curves", "Show only this run, or all", Key::O),
    entry(Action::ShowAll, "Curves", "Show all runs", Key::A),
    entry(Action::NextXAxis, "Curves", "Next x axis", Key::X),
    entry(Action::LogY, "Curves", "Logarithmic y axis", Key::Y),
    entry(Action::LogX, "Curves", "Logarithmic x axis", Key::L),
    entry(Action::Outliers, "Curves", "Cut off outliers", Key::U),
    entry(Action::GroupMean, "Curves", "Groups as mean and deviation", Key::G),
    entry(Action::Maximise, "Curves", "One large chart, or all", Key::M),
    entry(Action::Smoother, "Curves", "Smoother", Key::CloseBracket),
    entry(Action::Rougher, "Curves", "Less smooth", Key::OpenBracket),
    entry(Action::ResetZoom, "Curves", "Show the whole range", Key::R),
    with(Action::Palette, "View", "Commands", Modifiers::COMMAND, Key::K),
    entry(Action::Filter, "View", "Filter runs", Key::Slash),
    entry(Action::Theme, "View", "Dark or light", Key::T),
    with(Action::MoveLeft, "View", "Move the column or axis to the left", Modifiers::COMMAND, Key::ArrowLeft),
    with(Action::MoveRight, "View", "Move the column or axis to the right", Modifiers::COMMAND, Key::ArrowRight),
    with(Action::Larger, "View", "Larger", Modifiers::COMMAND, Key::Plus),
    with(Action::Smaller, "View", "Smaller", Modifiers::COMMAND, Key::Minus),
    with(Action::OriginalSize, "View", "Original size", Modifiers::COMMAND, Key::Num0),
    Entry { action: Action::ResetLayout, group: "View", name: "Panels where they were", key: None },
    Entry { action: Action::Show(Pane::Runs), group: "Panels", name: "Runs", key: None },
    Entry { action: Action::Show(Pane::Library), group: "Panels", name: "Library", key: None },
    entry(Action::Show(Pane::Curves), "Panels", "Curves", Key::Num1),
    entry(Action::Show(Pane::Table), "Panels", "Table", Key::Num2),
    entry(Action::Show(Pane::Media), "Panels", "Media", Key::Num3),
    entry(Action::Show(Pane::Sweep), "Panels", "Sweep", Key::Num4),
    entry(Action::Show(Pane::Model), "Panels", "Model", Key::Num5),
    entry(Action::Show(Pane::Profile), "Panels", "Profile", Key::Num6),
    entry(Action::Show(Pane::Launch), "Panels", "Launch", Key::Num7),
    Entry { action: Action::Show(Pane::Control), group: "Panels", name: "Control", key: None },
    Entry { action: Action::Show(Pane::Detail), group: "Panels", name: "Detail", key: None },
    with(Action::Quit, "View", "Close the window", Modifiers::COMMAND, Key::Q),
    entry(Action::Keys, "Help", "Keys", Key::Questionmark),
];

impl Action {
    /// Its line of the list.
    pub fn entry(self) -> &'static Entry {
        ENTRIES.iter().find(|entry| entry.action == self).expect("every action stands in the list")
    }

    /// Its name and key, for hover texts: `Pause or resume (Space)`.
    pub fn hint(self) -> String {
        let entry = self.entry();
        match entry.key_name() {
            name if name.is_empty() => entry.name.into(),
            name => format!("{} ({name})", entry.name),
        }
    }
}

impl Entry {
    /// The key as people write it; empty without one.
    pub fn key_name(&self) -> String {
        let Some((modifiers, key)) = self.key else { return String::new() };
        let key = match key {
            Key::ArrowUp => "Up",
            Key::ArrowDown => "Down",
            Key::ArrowLeft => "Left",
            Key::ArrowRight => "Right",
            Key::OpenBracket => "[",
            Key::CloseBracket => "]",
            Key::Slash => "/",
            Key::Questionmark => "?",
            Key::Plus => "+",
            Key::Minus => "-",
            other => other.name(),
        };
        if modifiers.command { format!("Ctrl+{key}") } else { key.into() }
    }
}

/// The actions whose keys were pressed in this frame. `moves`: columns or axes are on screen, so that the keys that move one are taken.
pub fn pressed(context: &egui::Context, moves: bool) -> Vec<Action> {
    let typing = context.text_edit_focused();
    // A focused button takes the space bar itself.
    let focused = context.memory(|memory| memory.focused().is_some());
    context.input_mut(|input| {
        ENTRIES
            .iter()
            .filter(|entry| {
                let Some((modifiers, key)) = entry.key else { return false };
                if modifiers.is_none() && (typing || (focused && matches!(key, Key::Space | Key::ArrowUp | Key::ArrowDown))) {
                    return false;
                }
                if modifiers.is_none() && (input.modifiers.command || input.modifiers.alt) {
                    return false;
                }
                let is_move = matches!(entry.action, Action::MoveLeft | Action::MoveRight);
                // A text field takes back what was typed in it, and goes from word to word.
                if (typing && (is_move || entry.action == Action::Undo)) || (is_move && !moves) {
                    return false;
                }
                // `consume_shortcut` lets Shift through where the key itself needs it, as `?` and `+` do on many keyboards.
                input.consume_shortcut(&KeyboardShortcut::new(modifiers, key))
                    || (key == Key::Questionmark && input.consume_key(Modifiers::SHIFT, Key::Questionmark))
                    || (key == Key::Plus && input.consume_key(Modifiers::COMMAND, Key::Equals))
            })
            .map(|entry| entry.action)
            .collect()
    })
}

/// The menus of the bar.
pub fn menus(ui: &mut Ui, actions: &mut Vec<Action>) {
    for group in GROUPS {
        ui.menu_button(group, |ui| {
            ui.set_min_width(220.0);
            for entry in ENTRIES.iter().filter(|entry| entry.group == group) {
                if ui.add(Button::new(entry.name).shortcut_text(entry.key_name()).frame_when_inactive(false)).clicked() {
                    actions.push(entry.action);
                    ui.close();
                }
            }
        });
    }
}

/// The palette: type a part of a command's name, Enter takes the first.
#[derive(Default, Debug)]
pub struct CommandPalette {
    /// It is shown.
    pub is_open: bool,
    query: String,
    chosen: usize,
}

impl CommandPalette {
    /// Opens it, empty.
    pub fn open(&mut self) {
        *self = CommandPalette { is_open: true, ..CommandPalette::default() };
    }

    /// Draws it when it is open.
    pub fn show(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        if !self.is_open {
            return;
        }
        let context = ui.ctx().clone();
        let palette = Palette::of(ui);
        if context.input_mut(|input| input.consume_key(Modifiers::NONE, Key::Escape)) {
            self.is_open = false;
            return;
        }
        let (down, up, enter) = context.input_mut(|input| {
            let mut take = |key| input.consume_key(Modifiers::NONE, key);
            (take(Key::ArrowDown), take(Key::ArrowUp), take(Key::Enter))
        });
        let area = egui::Area::new(Id::unique("command palette")).order(Order::Foreground).anchor(Align2::CENTER_TOP, vec2(0.0, 72.0));
        let shown = area.show(&context, |ui| {
            egui::Frame::popup(ui.style()).inner_margin(10).show(ui, |ui| {
                ui.set_width(420.0);
                let field = egui::TextEdit::singleline(&mut self.query).hint_text("Type a command").desired_width(f32::INFINITY);
                let field = ui.add(field).accessible_name("Command to run");
                field.request_focus();
                if field.changed() {
                    self.chosen = 0;
                }
                let found = matches(&self.query);
                if !found.is_empty() {
                    self.chosen = (self.chosen + usize::from(down) + if up { found.len() - 1 } else { 0 }) % found.len();
                }
                ui.add_space(4.0);
                if found.is_empty() {
                    ui.label(RichText::new("No command has these letters in this order").color(palette.dim));
                }
                ScrollArea::vertical().max_height(330.0).show(ui, |ui| {
                    for (index, entry) in found.iter().enumerate() {
                        let text = format!("{}: {}", entry.group, entry.name);
                        let row = Button::selectable(index == self.chosen, text).shortcut_text(entry.key_name());
                        let row = ui.add(row.min_size(vec2(ui.available_width(), theme::ROW_HEIGHT)));
                        if index == self.chosen && (down || up) {
                            row.scroll_to_me(None);
                        }
                        if row.clicked() || (enter && index == self.chosen) {
                            actions.push(entry.action);
                            self.is_open = false;
                        }
                    }
                });
            })
        });
        if context.input(|input| {
            input.pointer.any_pressed() && input.pointer.interact_pos().is_some_and(|pos| !shown.response.rect.contains(pos))
        }) {
            self.is_open = false;
        }
    }
}

/// The entries that have the letters of `query` in this order; those with the letters together come first.
pub fn matches(query: &str) -> Vec<&'static Entry> {
    let query = query.to_lowercase();
    let mut found: Vec<(usize, &Entry)> = ENTRIES
        .iter()
        .filter(|entry| entry.action != Action::Palette)
        .filter_map(|entry| Some((gaps(&format!("{}: {}", entry.group, entry.name).to_lowercase(), &query)?, entry)))
        .collect();
    found.sort_by_key(|(gaps, _)| *gaps);
    found.into_iter().map(|(_, entry)| entry).collect()
}

// How many letters of `text` stand between those of `query`; none when they are not all there.
fn gaps(text: &str, query: &str) -> Option<usize> {
    if text.contains(query) {
        return Some(0);
    }
    let mut letters = text.chars();
    let mut count = 0;
    for (index, wanted) in query.chars().enumerate() {
        let skipped = letters.by_ref().take_while(|letter| *letter != wanted).count();
        // `take_while` ends in silence where the text ends: look again whether the letter came.
        count += if index == 0 { 0 } else { skipped };
    }
    let mut rest = text.chars();
    query.chars().all(|wanted| rest.any(|letter| letter == wanted)).then_some(count + 1)
}

/// What the mouse and the keys do on a thing, which is no command of the list.
const ELSEWHERE: [&str; 2] = [
    "Over a chart: drag to zoom into a box, Ctrl and wheel or + and - to zoom, Shift and drag, middle drag or arrows to move, double click for the whole range, click to pin a point and fork there",
    "On an axis of the sweep (Tab goes there): Up and Down move the lower end of the chosen range, with Shift the upper end, Backspace chooses all again",
];
/// Width of a column of the sheet.
const SHEET_COLUMN: f32 = 270.0;

/// The keys, on one sheet over the window; what is behind it goes on.
pub fn cheat_sheet(ui: &mut Ui, is_open: &mut bool) {
    if !*is_open {
        return;
    }
    let context = ui.ctx().clone();
    if context.input_mut(|input| input.consume_key(Modifiers::NONE, Key::Escape)) {
        *is_open = false;
        return;
    }
    let palette = Palette::of(ui);
    let room = context.content_rect().size() - vec2(60.0, 60.0);
    let count = ((room.x / SHEET_COLUMN) as usize).clamp(1, 3);
    let area = egui::Area::new(Id::unique("keys")).order(Order::Foreground).anchor(Align2::CENTER_CENTER, vec2(0.0, 0.0));
    let shown = area.show(&context, |ui| {
        egui::Frame::popup(ui.style()).inner_margin(14).show(ui, |ui| {
            ui.set_width(SHEET_COLUMN * count as f32);
            ui.horizontal(|ui| {
                ui.heading("Keys");
                ui.with_layout(Layout::right_to_left(Align::Center), |ui| *is_open &= !ui.button("Close").clicked());
            });
            ui.add_space(4.0);
            ScrollArea::vertical().max_height(room.y - 50.0).show(ui, |ui| {
                ui.columns(count, |columns| {
                    for (index, group) in GROUPS.iter().enumerate() {
                        // The last ones are short, and stand below one another.
                        sheet_group(&mut columns[index.min(count - 1)], group, palette);
                    }
                });
                for text in ELSEWHERE {
                    ui.label(RichText::new(text).color(palette.dim));
                    ui.add_space(4.0);
                }
            });
        })
    });
    let is_outside = |input: &egui::InputState| {
        input.pointer.any_pressed() && input.pointer.interact_pos().is_some_and(|pos| !shown.response.rect.contains(pos))
    };
    *is_open &= !context.input(is_outside);
}

fn sheet_group(ui: &mut Ui, group: &str, palette: &Palette) {
    ui.label(RichText::new(group).color(palette.accent));
    ui.spacing_mut().interact_size.y = 18.0;
    ui.spacing_mut().item_spacing.y = 2.0;
    for entry in ENTRIES.iter().filter(|entry| entry.group == group && entry.key.is_some()) {
        ui.horizontal(|ui| {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                ui.label(RichText::new(entry.key_name()).monospace().color(palette.dim));
                ui.with_layout(Layout::left_to_right(Align::Center), |ui| ui.add(egui::Label::new(entry.name).truncate()));
            });
        });
    }
    ui.add_space(theme::GAP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_means_one_thing() {
        for (index, one) in ENTRIES.iter().enumerate() {
            for other in &ENTRIES[index + 1..] {
                assert!(one.key.is_none() || one.key != other.key, "{} and {} have the same key", one.name, other.name);
                assert_ne!(one.action, other.action);
            }
            assert!(GROUPS.contains(&one.group), "{} stands in no menu", one.name);
        }
    }

    #[test]
    fn the_palette_finds_by_letters_in_order() {
        assert_eq!(matches("log")[0].action, Action::LogY);
        assert_eq!(matches("pse")[0].action, Action::PauseResume);
        assert!(matches("zzz").is_empty());
        assert_eq!(matches("").len(), ENTRIES.len() - 1);
    }
}
