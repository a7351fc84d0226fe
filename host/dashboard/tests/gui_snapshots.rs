//! The window as it looked before, panel by panel; the panels with recorded media, models and sweeps have theirs beside their own tests.

mod gui_common;

use eframe::egui::{Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use gui_common::{Recorded, looks_as_before, window};
use solstice_dashboard::data::Snapshot;
use solstice_dashboard::gui::detail::Page;
use solstice_dashboard::gui::source::Source;
use solstice_dashboard::gui::{Dashboard, Pane};

fn open<'a>(recorded: &Recorded, theme: Theme, pane: Pane, page: Page) -> Harness<'a, Dashboard> {
    let mut window = recorded.window_with(Harness::builder(), theme);
    window.state_mut().view_mut().show_pane(pane);
    window.state_mut().view_mut().page = page;
    window.run();
    window
}

fn curves(theme: Theme, name: &str) {
    let mut window = open(&Recorded::new(4000), theme, Pane::Curves, Page::Checkpoints);
    window.state_mut().view_mut().smoothing = 0.35;
    looks_as_before(&mut window, name);
}

#[test]
fn curves_in_the_dark() {
    curves(Theme::Dark, "curves-dark");
}

#[test]
fn curves_in_the_light() {
    curves(Theme::Light, "curves-light");
}

#[test]
fn the_table_of_runs() {
    let mut window = open(&Recorded::new(400), Theme::Dark, Pane::Table, Page::Events);
    looks_as_before(&mut window, "table");
}

#[test]
fn two_runs_compared() {
    let recorded = Recorded::new(400);
    let mut window = open(&recorded, Theme::Dark, Pane::Curves, Page::Compare);
    let id = |name: &str| recorded.path(name).file_name().unwrap().to_string_lossy().into_owned();
    window.state_mut().view_mut().selected = Some(id("wide"));
    window.state_mut().view_mut().baseline = Some(id("deep"));
    looks_as_before(&mut window, "compare");
}

#[test]
fn a_failed_run() {
    let recorded = Recorded::new(400);
    let mut window = open(&recorded, Theme::Dark, Pane::Curves, Page::Events);
    window.get_by_label("Run fast").click();
    looks_as_before(&mut window, "failed");
}

#[test]
fn nothing_yet() {
    let mut window = window(Harness::builder(), Source::of(Snapshot::default()), Theme::Dark);
    looks_as_before(&mut window, "empty");
}

#[test]
fn the_palette() {
    let recorded = Recorded::new(400);
    let mut window = open(&recorded, Theme::Dark, Pane::Curves, Page::Checkpoints);
    window.get_by_label("Commands Ctrl+K").click();
    looks_as_before(&mut window, "palette");
}

#[test]
fn the_smallest_window() {
    let recorded = Recorded::new(400);
    let mut window = open(&recorded, Theme::Dark, Pane::Curves, Page::Checkpoints);
    gui_common::looks_as_before_at(&mut window, vec2(640.0, 400.0), "smallest");
}
