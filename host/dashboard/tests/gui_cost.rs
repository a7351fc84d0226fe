//! What a frame costs: six charts of ten runs of a million points. Printed, not asserted: it depends on the machine and the profile.

mod gui_common;

use eframe::egui::{self, Theme, pos2, vec2};
use solstice_dashboard::data::{Run, RunData, Series, Snapshot};
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::source::Source;
use solstice_store::{At, NewRun, RunState, RunWriter, Scalar};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RUNS: u64 = 10;
const POINTS: u64 = 1_000_000;

fn series(seed: u64) -> Arc<Series> {
    let mut series = Series::new(0.0);
    for index in 0..POINTS {
        let wave = ((index * 7919 + seed * 104_729) % 1000) as f64 / 1000.0;
        let value = 2.0 / (1.0 + index as f64 * 1e-5) + 0.3 * wave + 0.1 * seed as f64;
        let at = At { step: index, epoch: index as f64 * 1e-3, samples: index * 64 };
        series.push(&Scalar { id: index as i64, metric_id: 1, at, time: index as f64 * 0.01, value });
    }
    Arc::new(series)
}

#[test]
fn a_frame_of_sixty_million_points() {
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for seed in 0..RUNS {
        let writer = RunWriter::create(folder.path(), &NewRun { name: "long".into(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        let mut data = RunData::new(writer.path());
        while !data.run().is_complete {
            data.poll();
        }
        // Six charts of one series: drawing asks it six times, and the points fit in memory.
        let series = series(seed);
        let names = ["train/loss", "train/accuracy", "train/lr", "train/grad_norm", "test/loss", "test/accuracy"];
        let series = names.into_iter().map(|name| (name.to_owned(), series.clone())).collect();
        runs.push(Arc::new(Run { series, ..(*data.run()).clone() }));
    }
    let snapshot = Snapshot { version: 1, runs, ..Snapshot::default() };
    for (what, smoothing, mouse, zoom) in [
        ("nothing has changed", 0.0, false, false),
        ("mouse over a chart", 0.0, true, false),
        ("another range in each frame", 0.0, false, true),
        ("smoothed, another range in each frame", 0.6, false, true),
    ] {
        let context = egui::Context::default();
        let mut window = Dashboard::over(&context, Source::of(snapshot.clone()));
        window.view_mut().theme = Theme::Dark.into();
        window.view_mut().smoothing = smoothing;
        for run in &snapshot.runs {
            window.view_mut().set_shown(&run.id, true);
        }
        let mut best = (Duration::MAX, Duration::MAX, 0, 0);
        for frame in 0..8 {
            let mut input =
                egui::RawInput { screen_rect: Some(egui::Rect::from_min_size(pos2(0.0, 0.0), vec2(1280.0, 1000.0))), ..Default::default() };
            input.time = Some(f64::from(frame) / 60.0);
            if mouse {
                input.events.push(egui::Event::PointerMoved(pos2(450.0 + frame as f32, 250.0)));
            }
            if zoom {
                window.session_mut().zoom.x = Some((f64::from(frame) * 100.0, 1e6));
            }
            let start = Instant::now();
            let output = context.run_ui(input, |ui| window.frame(ui));
            let drawn = start.elapsed();
            let shapes = output.shapes.len();
            let start = Instant::now();
            let meshes = context.tessellate(output.shapes, output.pixels_per_point);
            let tessellated = start.elapsed();
            let vertices: usize = meshes
                .iter()
                .map(|mesh| match &mesh.primitive {
                    egui::epaint::Primitive::Mesh(mesh) => mesh.vertices.len(),
                    egui::epaint::Primitive::Callback(_) => 0,
                })
                .sum();
            // The first frames lay out text and panels.
            if frame >= 3 && drawn + tessellated < best.0.saturating_add(best.1) {
                best = (drawn, tessellated, shapes, vertices);
            }
        }
        let (drawn, tessellated, shapes, vertices) = best;
        println!("{what}: drawn in {drawn:.1?}, tessellated in {tessellated:.1?}, {shapes} shapes, {vertices} vertices");
        // The whole point of columns: vertices follow pixels. Six charts of about 260 columns and ten runs, some vertices each.
        assert!(vertices < 400_000, "{vertices}");
        assert!(vertices > 20_000, "{vertices}: the charts were not drawn");
    }
}
