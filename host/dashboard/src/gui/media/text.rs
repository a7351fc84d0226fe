//! Texts, whole or as what changed since the step before.

use super::{Desk, Side, waiting};
use crate::data::{Item, Listing, MediaKey};
use eframe::egui::text::{LayoutJob, TextFormat};
use eframe::egui::{FontFamily, FontId, Label, RichText, ScrollArea, Stroke, Ui};
use std::ops::Range;
use std::sync::Arc;

/// Words of a text that are compared; a longer one is shown whole.
pub const WORDS_MAX: usize = 2000;
/// Texts of one step that are shown.
const TEXTS_MAX: usize = 8;
/// Height of a text in a card.
const HEIGHT_MAX: f32 = 220.0;

/// What became of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In both.
    Same,
    /// In the old one only.
    Removed,
    /// In the new one only.
    Added,
}

/// Pieces of two texts in order; `None` where they are too long to compare.
pub type Changes = Option<Vec<(Change, String)>>;

// Words with the space that follows them; what stands before the first word is a word of its own.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut was_space = true;
    for (index, letter) in text.char_indices() {
        if was_space && !letter.is_whitespace() && index > start {
            words.push(&text[start..index]);
            start = index;
        }
        was_space = letter.is_whitespace();
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// What became of `old`, word by word, by a longest common subsequence; `None` when one has more than [`WORDS_MAX`] words between what both begin
/// and end with.
pub fn changes(old: &str, new: &str) -> Changes {
    let (old, new) = (words(old), words(new));
    let is_same = |one: &&str, other: &&str| one.trim_end() == other.trim_end();
    let head = old.iter().zip(&new).take_while(|(one, other)| is_same(one, other)).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(one, other)| is_same(one, other)).count();
    let (old_middle, new_middle) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    if old_middle.len() > WORDS_MAX || new_middle.len() > WORDS_MAX {
        return None;
    }
    // `length[i][j]`: words that the rests from `i` and `j` on have in common.
    let width = new_middle.len() + 1;
    let mut length = vec![0u16; (old_middle.len() + 1) * width];
    for i in (0..old_middle.len()).rev() {
        for j in (0..new_middle.len()).rev() {
            length[i * width + j] = if is_same(&old_middle[i], &new_middle[j]) {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let mut pieces: Vec<(Change, String)> = Vec::new();
    let mut push = |change: Change, word: &str| match pieces.last_mut() {
        Some((last, text)) if *last == change => text.push_str(word),
        _ => pieces.push((change, word.to_owned())),
    };
    new[..head].iter().for_each(|word| push(Change::Same, word));
    let (mut i, mut j) = (0, 0);
    while i < old_middle.len() || j < new_middle.len() {
        if i < old_middle.len() && j < new_middle.len() && is_same(&old_middle[i], &new_middle[j]) {
            push(Change::Same, new_middle[j]);
            (i, j) = (i + 1, j + 1);
        } else if j == new_middle.len() || (i < old_middle.len() && length[(i + 1) * width + j] >= length[i * width + j + 1]) {
            push(Change::Removed, old_middle[i]);
            i += 1;
        } else {
            push(Change::Added, new_middle[j]);
            j += 1;
        }
    }
    new[new.len() - tail..].iter().for_each(|word| push(Change::Same, word));
    Some(pieces)
}

pub(super) fn show(ui: &mut Ui, desk: &mut Desk, side: &Side, key: &MediaKey, listing: &Listing, rows: Range<usize>) {
    let palette = desk.palette;
    let name = format!("{}{}", key.name, side.suffix);
    let before = listing.step_before(listing.rows[rows.start].step).map(|step| listing.at(step));
    for (index, row) in rows.clone().enumerate().take(TEXTS_MAX) {
        let id = listing.rows[row].id;
        let item = desk.item(key, id);
        let Some(Item::Text(text)) = item.as_deref() else {
            waiting(ui, palette, item.as_deref());
            continue;
        };
        let name = if rows.len() > 1 { format!("{name}, {}", index + 1) } else { name.clone() };
        let old_id = before.clone().and_then(|mut before| before.nth(index)).map(|row| listing.rows[row].id);
        let mut note = None;
        let mut pieces = None;
        if desk.view.shows_changes {
            match old_id.and_then(|id| desk.item(key, id)).as_deref() {
                Some(Item::Text(old)) => {
                    let slot = (key.run.clone(), id);
                    let found = desk.state.changes.entry(slot).or_insert_with(|| Arc::new(changes(old, text))).clone();
                    note = found.is_none().then_some("Too long to compare word by word");
                    pieces = found.is_some().then_some(found);
                }
                _ if old_id.is_none() => note = Some("No step before to compare with"),
                _ => {}
            }
        }
        ui.push_id((&name, "text"), |ui| {
            ScrollArea::vertical().id_salt("text").max_height(HEIGHT_MAX).auto_shrink([false, true]).show(ui, |ui| {
                let family = if desk.view.is_monospace { FontFamily::Monospace } else { FontFamily::Proportional };
                let size = if desk.view.is_monospace { 12.0 } else { 13.0 };
                let plain = TextFormat::simple(FontId::new(size, family), palette.text);
                let mut job = LayoutJob::default();
                match pieces.as_deref() {
                    Some(Some(pieces)) => {
                        for (change, piece) in pieces {
                            let color = match change {
                                Change::Same => palette.dim,
                                Change::Removed => palette.error,
                                Change::Added => palette.ok,
                            };
                            // Not by colour alone: what is gone is struck through, what is new is underlined.
                            let line = Stroke::new(1.0, color);
                            let mut format = TextFormat { color, ..plain.clone() };
                            match change {
                                Change::Same => {}
                                Change::Removed => format.strikethrough = line,
                                Change::Added => format.underline = line,
                            }
                            job.append(piece, 0.0, format);
                        }
                    }
                    _ => job.append(text, 0.0, plain),
                }
                job.wrap.max_width = ui.available_width();
                ui.add(Label::new(job).wrap().selectable(true));
            });
        });
        ui.horizontal(|ui| {
            if ui.button("Copy").accessible_name(format!("Copy {name}")).clicked() {
                ui.ctx().copy_text(text.clone());
            }
            let count = text.chars().count();
            ui.label(RichText::new(format!("{count} characters")).small().color(palette.dim));
            if let Some(note) = note {
                ui.label(RichText::new(note).small().color(palette.warn));
            }
        });
    }
    if rows.len() > TEXTS_MAX {
        ui.label(RichText::new(format!("and {} more of this step", rows.len() - TEXTS_MAX)).small().color(palette.dim));
    }
}
