//! Pictures of the window, to look at: `SOLSTICE_PICTURES=FOLDER cargo test -p solstice-dashboard --test gui_pictures -- --ignored`.
//! `SOLSTICE_RUNS=FOLDER` adds one of the runs there.

mod gui_common;

use eframe::egui::{Theme, pos2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use gui_common::{Recorded, window};
use solstice_dashboard::data::Snapshot;
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::detail::Page;
use solstice_dashboard::gui::source::Source;
use std::path::PathBuf;

fn save(harness: &mut Harness<Dashboard>, name: &str) {
    let folder = std::env::var_os("SOLSTICE_PICTURES").map_or_else(std::env::temp_dir, PathBuf::from);
    let picture = harness.render().unwrap();
    assert_eq!((picture.width(), picture.height()), (1280, 800));
    picture.save(folder.join(name)).unwrap();
}

#[test]
#[ignore = "draws pictures for people"]
fn dark_light_and_empty() {
    let recorded = Recorded::new(4000);
    for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let mut harness = recorded.window_with(Harness::builder(), theme);
        harness.state_mut().view_mut().smoothing = 0.35;
        harness.run();
        harness.hover_at(pos2(470.0, 230.0));
        harness.run();
        save(&mut harness, &format!("{name}.png"));
        harness.state_mut().view_mut().smoothing = 0.6;
        harness.state_mut().view_mut().log_y = true;
        harness.state_mut().view_mut().page = Page::Checkpoints;
        harness.get_by_label("Run narrow").click();
        harness.run();
        harness.hover_at(pos2(560.0, 230.0));
        harness.run();
        save(&mut harness, &format!("{name}-smooth.png"));
    }
    if let Some(runs) = std::env::var_os("SOLSTICE_RUNS") {
        let mut harness = window(Harness::builder(), Source::still(&[runs.into()]), Theme::Dark);
        save(&mut harness, "runs.png");
        harness.state_mut().view_mut().page = Page::Events;
        harness.state_mut().view_mut().x_axis = solstice_dashboard::data::XAxis::Relative;
        harness.run();
        save(&mut harness, "runs-events.png");
    }
    let mut harness = window(Harness::builder(), Source::of(Snapshot::default()), Theme::Dark);
    save(&mut harness, "empty.png");
    let mut harness = recorded.window_with(Harness::builder(), Theme::Dark);
    harness.get_by_label("Commands Ctrl+K").click();
    harness.run();
    save(&mut harness, "palette.png");
}
