//! What a frame costs. Figures are printed, not asserted: they depend on the machine and the profile. The full size, with a table:
//! `cargo test --release -p solstice-dashboard --test gui_cost -- --ignored --nocapture`.

mod gui_common;

use eframe::egui::{self, Theme, pos2, vec2};
use solstice_dashboard::data::{Detail, Run, RunData, Series, Snapshot, XAxis};
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::axis::{Axis, Scale};
use solstice_dashboard::gui::source::Source;
use solstice_store::{At, NewRun, RunState, RunWriter, Scalar};
use std::sync::Arc;
use std::time::{Duration, Instant};

const METRICS: [&str; 6] = ["train/loss", "train/accuracy", "train/lr", "train/grad_norm", "test/loss", "test/accuracy"];

fn series(seed: u64, points: u64) -> Arc<Series> {
    let mut series = Series::new(0.0);
    for index in 0..points {
        let wave = ((index * 7919 + seed * 104_729) % 1000) as f64 / 1000.0;
        let value = 2.0 / (1.0 + index as f64 * 1e-5) + 0.3 * wave + 0.1 * seed as f64;
        let at = At { step: index, epoch: index as f64 * 1e-3, samples: index * 64 };
        series.push(&Scalar { id: index as i64, metric_id: 1, at, time: index as f64 * 0.01, value });
    }
    Arc::new(series)
}

/// Runs of `points` points in each of `metrics`; the charts of a run share one series, so that the points fit in memory.
fn snapshot(folder: &std::path::Path, runs: u64, points: u64, metrics: &[&str]) -> Snapshot {
    let run = |seed| {
        let writer = RunWriter::create(folder, &NewRun { name: "long".into(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        let mut data = RunData::new(writer.path());
        while !data.run().is_complete {
            data.poll();
        }
        let series = series(seed, points);
        let series = metrics.iter().map(|name| ((*name).to_owned(), series.clone())).collect();
        Arc::new(Run { series, ..(*data.run()).clone() })
    };
    Snapshot { version: 1, runs: (0..runs).map(run).collect(), ..Snapshot::default() }
}

#[derive(Clone, Copy, Default)]
struct Case {
    smoothing: f64,
    mouse: bool,
    zoom: bool,
    log: bool,
    means: bool,
}

struct Cost {
    drawn: Duration,
    tessellated: Duration,
    shapes: usize,
    vertices: usize,
}

/// The best frame of some, and the middle one.
fn cost(snapshot: &Snapshot, case: Case, x_end: f64) -> (Cost, Duration) {
    let context = egui::Context::default();
    let mut window = Dashboard::over(&context, Source::of(snapshot.clone()));
    window.view_mut().theme = Theme::Dark.into();
    window.view_mut().smoothing = case.smoothing;
    window.view_mut().charts.log_x = case.log;
    window.view_mut().log_y = case.log;
    window.view_mut().charts.has_means = case.means;
    for run in &snapshot.runs {
        window.view_mut().set_shown(&run.id, true);
    }
    let mut best: Option<Cost> = None;
    let mut all = Vec::new();
    for frame in 0..12 {
        let screen = egui::Rect::from_min_size(pos2(0.0, 0.0), vec2(1280.0, 1000.0));
        let mut input = egui::RawInput { screen_rect: Some(screen), time: Some(f64::from(frame) / 60.0), ..Default::default() };
        if case.mouse {
            input.events.push(egui::Event::PointerMoved(pos2(450.0 + frame as f32, 250.0)));
        }
        if case.zoom {
            window.session_mut().zoom.x = Some((1.0 + f64::from(frame) * x_end * 1e-4, x_end));
        }
        let start = Instant::now();
        let output = context.run_ui(input, |ui| window.frame(ui));
        let drawn = start.elapsed();
        let shapes = output.shapes.len();
        let start = Instant::now();
        let meshes = context.tessellate(output.shapes, output.pixels_per_point);
        let tessellated = start.elapsed();
        let vertices = meshes.iter().map(|mesh| match &mesh.primitive {
            egui::epaint::Primitive::Mesh(mesh) => mesh.vertices.len(),
            egui::epaint::Primitive::Callback(_) => 0,
        });
        let vertices = vertices.sum();
        // The first frames lay out text and panels.
        if frame < 4 {
            continue;
        }
        all.push(drawn + tessellated);
        if best.as_ref().is_none_or(|best| drawn + tessellated < best.drawn + best.tessellated) {
            best = Some(Cost { drawn, tessellated, shapes, vertices });
        }
    }
    all.sort();
    (best.unwrap(), all[all.len() / 2])
}

const CASES: [(&str, Case); 7] = [
    ("nothing has changed", Case { smoothing: 0.0, mouse: false, zoom: false, log: false, means: false }),
    ("mouse over a chart", Case { smoothing: 0.0, mouse: true, zoom: false, log: false, means: false }),
    ("smoothed, nothing has changed", Case { smoothing: 0.6, mouse: false, zoom: false, log: false, means: false }),
    ("another range in each frame", Case { smoothing: 0.0, mouse: false, zoom: true, log: false, means: false }),
    ("smoothed, another range in each frame", Case { smoothing: 0.6, mouse: false, zoom: true, log: false, means: false }),
    ("log x and y, another range in each frame", Case { smoothing: 0.0, mouse: false, zoom: true, log: true, means: false }),
    ("one group, another range in each frame", Case { smoothing: 0.0, mouse: false, zoom: true, log: false, means: true }),
];

fn print_cases(snapshot: &Snapshot, x_end: f64) {
    println!("{:42}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}", "", "draw ms", "tess. ms", "both", "middle", "shapes", "vertices");
    for (what, case) in CASES {
        let (best, middle) = cost(snapshot, case, x_end);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{what:42}{:10.2}{:10.2}{:10.2}{:10.2}{:10}{:10}",
            ms(best.drawn),
            ms(best.tessellated),
            ms(best.drawn + best.tessellated),
            ms(middle),
            best.shapes,
            best.vertices
        );
    }
}

#[test]
fn vertices_follow_pixels_and_not_points() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = snapshot(folder.path(), 10, 100_000, &METRICS);
    for (what, case) in CASES {
        let (cost, _) = cost(&snapshot, case, 1e5);
        // Six charts of about 260 columns and ten runs, some vertices each.
        assert!(cost.vertices < 500_000, "{what}: {}", cost.vertices);
        assert!(cost.vertices > if case.means { 8_000 } else { 20_000 }, "{what}: {}: the charts were not drawn", cost.vertices);
    }
}

#[test]
#[ignore = "prints what frames cost; run it optimised"]
fn a_frame_of_sixty_million_points() {
    let folder = tempfile::tempdir().unwrap();
    println!("six charts of ten runs of a million points, 1280 x 1000");
    print_cases(&snapshot(folder.path(), 10, 1_000_000, &METRICS), 1e6);
    println!("one chart of one run of ten million points");
    print_cases(&snapshot(folder.path(), 1, 10_000_000, &METRICS[..1]), 1e7);
    println!("\nasking one series for its columns, on a range never asked before, ms: exact / quick / smoothed");
    print!("{:>12}", "points");
    let widths = [250, 600, 1200, 2400];
    widths.iter().for_each(|width| print!("{width:>24}"));
    println!();
    for points in [10_000, 100_000, 1_000_000, 10_000_000] {
        let series = series(1, points);
        print!("{points:>12}");
        for width in widths {
            let time = |half_life: f64, detail: Detail| {
                let rounds = 20;
                let start = Instant::now();
                for round in 0..rounds {
                    let low = points as f64 * (0.01 + 1e-3 * f64::from(round));
                    let axis = Axis { scale: Scale::Linear, low, high: points as f64, start: 0.0, end: width as f32 };
                    let columns = series.view_edges(XAxis::Step, &axis.edges(width), half_life, detail);
                    assert!(columns.len() <= width && columns.len() > width / 2);
                }
                start.elapsed().as_secs_f64() * 1e3 / f64::from(rounds)
            };
            let half_life = points as f64 * 0.02;
            let times = [time(0.0, Detail::Exact), time(0.0, Detail::Quick), time(half_life, Detail::Quick)];
            print!("{:>24}", format!("{:.3} / {:.3} / {:.3}", times[0], times[1], times[2]));
        }
        println!();
    }
}
