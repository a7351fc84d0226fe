//! What happened in a run, as marks on the strip under each chart: each kind with its own shape, and a sentence under the mouse.

use super::super::Panel;
use super::super::axis::Axis;
use super::super::theme::{self, Palette};
use super::chart::Trace;
use super::lines::STRIP_HEIGHT;
use crate::data::{Run, Series, XAxis};
use eframe::egui::{self, Color32, Id, Painter, Rect, RichText, Ui, pos2, vec2};
use serde_json::Value;
use solstice_store::Event;

/// Sentences under the mouse at most.
const TOLD_MAX: usize = 8;

/// Kinds of marks: the word on screen and the shape of [`theme::event_mark`].
pub const KINDS: [(&str, &str); 9] = [
    ("Evaluation", "eval"),
    ("Checkpoint", "checkpoint"),
    ("Live change", "set"),
    ("Reload", "reload"),
    ("Pause", "pause"),
    ("Resume", "resume"),
    ("Fork", "fork"),
    ("Not finite", "nan"),
    ("Other", "other"),
];

/// The index in [`KINDS`] of an event; `None` for what stands in the list of events only.
pub fn kind_of(event: &str) -> Option<usize> {
    let shape = match event {
        "startup" | "live" | "state" | "logger" => return None,
        "eval" | "evaluate" | "evaluation" => "eval",
        "checkpoint" | "checkpoint_failed" | "checkpoint_skipped" => "checkpoint",
        other => KINDS.iter().map(|(_, shape)| *shape).find(|shape| *shape == other).unwrap_or("other"),
    };
    KINDS.iter().position(|(_, known)| *known == shape)
}

/// One mark of a run.
#[derive(Clone, Copy, Debug)]
struct Mark<'a> {
    /// Index in [`KINDS`].
    kind: usize,
    step: u64,
    time: f64,
    what: What<'a>,
}

/// What a sentence is made of: only the one under the mouse is written.
#[derive(Clone, Copy, Debug)]
enum What<'a> {
    Saved(&'a str),
    Forked(&'a str),
    Event(&'a Event),
}

impl Mark<'_> {
    fn text(&self) -> String {
        let sentence = match self.what {
            What::Saved(reason) => reason.to_owned(),
            What::Forked(parent) => format!("from {parent}"),
            What::Event(event) => message(event),
        };
        format!("{} at step {}: {sentence}", KINDS[self.kind].0, self.step)
    }
}

// The marks of a run: its events, its checkpoints, and where it was forked from another.
fn marks_of(run: &Run) -> impl Iterator<Item = Mark<'_>> {
    // What is saved stands in the index of checkpoints, not among events.
    let saved = run.checkpoints.iter().map(|row| Mark { kind: 1, step: row.at.step, time: row.time, what: What::Saved(&row.reason) });
    let parent = run.info.as_ref().and_then(|info| info.parent.as_ref().map(|parent| (parent, info.created)));
    let is_told = run.events.iter().any(|event| event.kind == "fork");
    let forked = parent.filter(|_| !is_told);
    let forked = forked.map(|(parent, time)| Mark { kind: 6, step: parent.step, time, what: What::Forked(&parent.id) });
    let events = run
        .events
        .iter()
        .filter_map(|event| Some(Mark { kind: kind_of(&event.kind)?, step: event.step, time: event.time, what: What::Event(event) }));
    saved.chain(forked).chain(events)
}

// A change with the value before and after; else the event's own sentence.
fn message(event: &Event) -> String {
    let (Some(old), Some(new)) = (&event.old, &event.new) else {
        return if event.kind == "checkpoint_failed" { format!("not saved: {}", event.message) } else { event.message.clone() };
    };
    let short = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let key = event.message.split([':', ' ']).next().unwrap_or_default();
    let who = if event.who.is_empty() { String::new() } else { format!(", by {}", event.who) };
    format!("{key} {} → {}{who}", short(old), short(new))
}

fn x_of(mark: &Mark<'_>, series: &Series, x_axis: XAxis) -> Option<f64> {
    match x_axis {
        XAxis::Step => Some(mark.step as f64),
        XAxis::Relative => Some(mark.time - series.origin()),
        XAxis::Wall => Some(mark.time),
        XAxis::Epoch => series.nearest(XAxis::Step, mark.step as f64).map(|point| point.epoch),
        XAxis::Samples => series.nearest(XAxis::Step, mark.step as f64).map(|point| point.samples),
    }
}

/// A mark on the strip.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its middle, in pixels along x.
    pub at: f32,
    /// For [`theme::event_mark`].
    pub shape: &'static str,
    /// Its colour.
    pub color: Color32,
}

/// Marks of the selected run, and values that are not finite of any; those within a few pixels of one another share a mark.
pub fn seen(panel: &Panel, traces: &[Trace], x: &Axis, palette: &Palette) -> Vec<Place> {
    let mut places = Vec::new();
    walk(panel, traces, x, palette, |place, _, is_drawn| {
        if is_drawn {
            places.push(place);
        }
    });
    places
}

// Calls `take` for each mark in the range of x, in order; the last argument tells those that are drawn from those that share a mark.
fn walk(panel: &Panel, traces: &[Trace], x: &Axis, palette: &Palette, mut take: impl FnMut(Place, &Mark<'_>, bool)) {
    let hidden = &panel.view.charts.hidden_marks;
    for trace in traces {
        let (Some(run), Some(series)) = (trace.run, trace.series) else { continue };
        let is_marked = trace.is_selected || run.events.iter().any(|event| event.kind == "nan");
        if !is_marked {
            continue;
        }
        let mut last: Option<(f32, usize)> = None;
        for mark in marks_of(run) {
            let (name, shape) = KINDS[mark.kind];
            if hidden.contains(name) || !(trace.is_selected || shape == "nan") {
                continue;
            }
            let Some(place) = x_of(&mark, series, panel.view.x_axis).filter(|place| (x.low..=x.high).contains(place)) else { continue };
            let at = x.pixel(place);
            let color = if shape == "nan" { palette.error } else { trace.color };
            let is_drawn = !last.is_some_and(|(pixel, before)| before == mark.kind && (at - pixel).abs() < 7.0);
            if is_drawn {
                last = Some((at, mark.kind));
            }
            take(Place { at, shape, color }, &mark, is_drawn);
        }
    }
}

/// Draws the marks under the plot, and says what is under the mouse.
pub fn show(ui: &Ui, painter: &Painter, panel: &Panel, traces: &[Trace], x: &Axis, plot: Rect, palette: &Palette) {
    let y = plot.bottom() + STRIP_HEIGHT / 2.0 + 0.5;
    let mouse = ui.input(|input| input.pointer.hover_pos()).filter(|pos| (pos.y - y).abs() < 7.0 && ui.clip_rect().contains(*pos));
    let mut told: Vec<(Color32, String)> = Vec::new();
    walk(panel, traces, x, palette, |place, mark, is_drawn| {
        if mouse.is_some_and(|mouse| (mouse.x - place.at).abs() < 4.5) {
            told.push((place.color, mark.text()));
        }
        if is_drawn {
            theme::event_mark(painter, pos2(place.at, y), place.shape, place.color);
        }
    });
    let Some(mouse) = mouse.filter(|_| !told.is_empty()) else { return };
    let more = told.len().saturating_sub(TOLD_MAX);
    told.truncate(TOLD_MAX);
    let id = Id::unique(("event", x.start as i32, y as i32));
    let anchor = Rect::from_center_size(pos2(mouse.x, y), vec2(10.0, STRIP_HEIGHT));
    egui::Tooltip::always_open(ui.ctx().clone(), ui.layer_id(), id, anchor).show(|ui| {
        ui.set_max_width(380.0);
        for (color, text) in told {
            ui.label(RichText::new(text).color(color));
        }
        if more > 0 {
            ui.label(RichText::new(format!("and {more} more")).color(palette.dim));
        }
    });
}

/// One box for each kind: whether it is shown.
pub fn choose(ui: &mut Ui, hidden: &mut std::collections::BTreeSet<String>) {
    let palette = Palette::of(ui);
    for (name, shape) in KINDS {
        ui.horizontal(|ui| {
            let (rect, _) = ui.allocate_exact_size(vec2(14.0, 18.0), egui::Sense::hover());
            theme::event_mark(ui.painter(), rect.center(), shape, palette.dim);
            let mut is_shown = !hidden.contains(name);
            if ui.checkbox(&mut is_shown, name).changed() {
                if is_shown {
                    hidden.remove(name);
                } else {
                    hidden.insert(name.into());
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_journal_has_its_mark() {
        let name = |event: &str| kind_of(event).map(|kind| KINDS[kind].0);
        for (event, wanted) in [
            ("eval", "Evaluation"),
            ("checkpoint_failed", "Checkpoint"),
            ("set", "Live change"),
            ("reload", "Reload"),
            ("pause", "Pause"),
            ("resume", "Resume"),
            ("fork", "Fork"),
            ("nan", "Not finite"),
            ("a word of a callback", "Other"),
        ] {
            assert_eq!(name(event), Some(wanted));
        }
        assert_eq!(name("startup"), None);
    }

    #[test]
    fn a_change_says_what_it_was_and_what_it_is() {
        let event = Event { old: Some(0.4.into()), new: Some(0.3.into()), ..Event::new(5, "set", "somebody", "optimizer.lr: 0.4 -> 0.3") };
        assert_eq!(message(&event), "optimizer.lr 0.4 → 0.3, by somebody");
        assert_eq!(message(&Event::new(5, "eval", "worker", "evaluated")), "evaluated");
    }
}
