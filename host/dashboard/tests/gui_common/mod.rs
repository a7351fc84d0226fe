//! What the tests of the window share: recorded runs, and a window over them without a display.
#![allow(dead_code)]

use eframe::egui::{Theme, Vec2, vec2};
use egui_kittest::{Harness, HarnessBuilder};
use serde_json::json;
use solstice_dashboard::data::{RunData, Snapshot};
use solstice_dashboard::gui::Dashboard;
use solstice_dashboard::gui::source::Source;
use solstice_store::{At, Event, NewCheckpoint, NewRun, RunState, RunWriter, set_label};
use std::path::PathBuf;
use tempfile::TempDir;

/// Recorded runs. The writers are kept: a run without its writer is lost.
pub struct Recorded {
    pub folder: TempDir,
    pub writers: Vec<RunWriter>,
}

/// A number from 0 to 1 that only depends on `index`: SplitMix64, after Steele, Lea and Flood, 2014.
fn noise(index: u64) -> f64 {
    let mut z = index.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl Recorded {
    /// Five runs named `wide` (running), `narrow` (paused), `deep` (done), `fast` (failed), `plain` (stopped), of up to `steps` steps.
    pub fn new(steps: u64) -> Recorded {
        let folder = tempfile::tempdir().unwrap();
        let mut recorded = Recorded { folder, writers: Vec::new() };
        let runs = [
            ("plain", 0.05, 0.42, RunState::Stopped),
            ("fast", 0.8, 0.30, RunState::Failed),
            ("deep", 0.1, 1.0, RunState::Done),
            ("narrow", 0.2, 0.75, RunState::Paused),
            ("wide", 0.3, 0.61, RunState::Running),
        ];
        for (index, (name, lr, part, state)) in runs.into_iter().enumerate() {
            recorded.run(index as u64, name, lr, (steps as f64 * part) as u64, steps, state);
        }
        recorded
    }

    fn run(&mut self, seed: u64, name: &str, lr: f64, steps: u64, steps_total: u64, state: RunState) {
        let config = json!({
            "name": "digits",
            "components": {
                "dataset": { "id": "drawn-digits", "config": { "train": 6400, "test": 1000, "noise": 0.15 } },
                "model": { "id": "mlp", "config": { "hidden": [128, 64], "activation": "relu", "dropout": 0.1 } },
                "optimizer": { "id": "sgd", "config": { "lr": lr, "momentum": 0.9, "nesterov": true } },
            },
            "trainer": { "budget": format!("{steps_total}st"), "batch_size": 64, "log_every": "1st", "evaluate_every": "1ep" },
        });
        let new = NewRun {
            name: "digits".into(),
            config,
            seed,
            device: Some("cpu".into()),
            steps_total: Some(steps_total),
            steps_per_epoch: Some(100),
            ..NewRun::default()
        };
        let writer = RunWriter::create(self.folder.path(), &new).unwrap();
        writer.state(RunState::Running, None);
        for step in 1..=steps {
            let part = step as f64 / steps_total as f64;
            let at = At { step, epoch: step as f64 / 100.0, samples: step * 64 };
            let speed = 5.0 + lr * 12.0;
            let clean = 0.08 + 0.15 / (1.0 + lr * 8.0) + 2.2 * (-part * speed).exp();
            let loss = clean * (0.75 + 0.5 * noise(seed * 1_000_003 + step));
            let nan = state == RunState::Failed && step == steps;
            writer.scalars(
                at,
                &[
                    ("train/loss", if nan { f64::NAN } else { loss }),
                    ("train/accuracy", 1.0 - clean / 2.6 * (0.85 + 0.3 * noise(seed * 77 + step))),
                    ("train/lr", lr * 0.5 * (1.0 + (part * std::f64::consts::PI).cos())),
                    ("train/samples_per_sec", 41_000.0 + 900.0 * seed as f64 + 1200.0 * noise(seed * 31 + step)),
                ],
            );
            if step % 100 == 0 {
                writer.scalars(at, &[("test/loss", clean * 1.12 + 0.02), ("test/accuracy", 0.985 - clean * 0.37)]);
                if step % 400 == 0 {
                    writer.event(Event::new(step, "checkpoint", "worker", format!("saved at step {step}")));
                }
            }
        }
        writer.event(Event::new(steps / 2, "set", "somebody", "optimizer.lr from 0.4 to 0.3"));
        writer.log("info", "worker", "the device is cpu");
        writer.log("warn", "loader", "the last batch of an epoch is short");
        let checkpoint = NewCheckpoint { at: At::from(steps / 2), reason: "cadence".into(), ..NewCheckpoint::default() };
        writer.save_checkpoint(&checkpoint, &[]).unwrap();
        match state {
            RunState::Running => writer.progress(At { step: steps, epoch: steps as f64 / 100.0, samples: steps * 64 }),
            RunState::Failed => {
                writer.event(Event::new(steps, "nan", "worker", "train/loss is NaN"));
                writer.state(state, Some("train/loss is NaN at the last step"));
            }
            state => writer.state(state, None),
        }
        writer.flush().unwrap();
        set_label(writer.path(), "name", name).unwrap();
        self.writers.push(writer);
    }

    /// The folder of the run of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        let names = ["plain", "fast", "deep", "narrow", "wide"];
        self.writers[names.iter().position(|known| *known == name).unwrap()].path().to_path_buf()
    }

    /// Everything that is recorded, newest first.
    pub fn snapshot(&self) -> Snapshot {
        let runs = self.writers.iter().rev().map(|writer| {
            let mut data = RunData::new(writer.path());
            for _ in 0..10_000 {
                data.poll();
                if data.run().is_complete {
                    break;
                }
            }
            data.run()
        });
        Snapshot { version: 1, runs: runs.collect(), ..Snapshot::default() }
    }

    /// A window over them.
    pub fn window<'a>(&self) -> Harness<'a, Dashboard> {
        self.window_with(Harness::builder(), Theme::Dark)
    }

    /// The same, drawn as the builder says.
    pub fn window_with<'a>(&self, builder: HarnessBuilder<Dashboard>, theme: Theme) -> Harness<'a, Dashboard> {
        window(builder, Source::of(self.snapshot()), theme)
    }
}

/// A window over any source.
pub fn window<'a>(builder: HarnessBuilder<Dashboard>, source: Source, theme: Theme) -> Harness<'a, Dashboard> {
    let mut harness = builder.with_size(vec2(1280.0, 800.0)).with_theme(theme).with_max_steps(12).with_step_dt(1.0 / 60.0).build_eframe(
        move |creation| {
            let mut dashboard = Dashboard::new(creation, source);
            dashboard.view_mut().theme = theme.into();
            creation.egui_ctx.set_theme(theme);
            dashboard
        },
    );
    harness.run();
    harness
}

/// Compares the window with the picture of it in `tests/snapshots`, which `UPDATE_SNAPSHOTS=1` draws anew. Renderers and clocks may move some pixels,
/// the words "3 s left" among them; a thing that is missing, or in another place, moves more.
pub fn looks_as_before(harness: &mut Harness<Dashboard>, name: &str) {
    looks_as_before_at(harness, vec2(960.0, 600.0), name);
}

/// The same at another size.
pub fn looks_as_before_at(harness: &mut Harness<Dashboard>, size: Vec2, name: &str) {
    harness.set_size(size);
    harness.run();
    let options = egui_kittest::SnapshotOptions::new().threshold(2.0).max_failed_pixels(1500);
    harness.snapshot_options(name, &options);
}
