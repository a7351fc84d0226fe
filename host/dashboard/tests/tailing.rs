//! Following runs while the store's writer writes them, and everything that can happen to a folder meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use solstice_dashboard::data::{LABEL, Library, RunData, SentState, Snapshot};
use solstice_store::{At, Event, NewRun, RunState, RunUpdate, RunWriter};

fn create(folder: &Path, name: &str) -> RunWriter {
    RunWriter::create(folder, &NewRun { name: name.to_string(), ..NewRun::default() }).unwrap()
}

fn at(step: u64) -> At {
    At { step, epoch: step as f64 / 10.0, samples: step * 8 }
}

/// Everything on disk now.
fn read_all(data: &mut RunData) {
    data.poll();
    while !data.run().is_complete {
        data.poll();
    }
}

fn values(data: &RunData, name: &str) -> Vec<(u64, f64)> {
    data.run().series.get(name).map_or(Vec::new(), |series| series.points().map(|point| (point.step, point.value)).collect())
}

/// Waits until a snapshot is so. No limit of its own: the test runner's holds.
fn wait_for(library: &Library, is: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    loop {
        let snapshot = library.snapshot();
        if is(&snapshot) {
            return snapshot;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn new_rows_come_in_and_rewound_rows_go() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "tail");
    let mut data = RunData::new(writer.path());
    for step in 1..=5 {
        writer.scalar(at(step), "train/loss", step as f64);
    }
    writer.flush().unwrap();
    read_all(&mut data);
    assert_eq!(values(&data, "train/loss"), [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0)]);
    let before = data.run();

    // Back to step 3, and on from there before the reader looks again.
    writer.rewind(3).unwrap();
    writer.scalar(at(4), "train/loss", f64::NAN);
    writer.scalar(at(4), "val/loss", 0.5);
    writer.event(Event::new(4, "nan", "worker", "the loss is not a number"));
    writer.log("info", "worker", "a line");
    writer.flush().unwrap();
    read_all(&mut data);
    let steps: Vec<u64> = values(&data, "train/loss").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    assert_eq!(data.run().series["train/loss"].bad(), 1);
    assert_eq!(values(&data, "val/loss"), [(4, 0.5)]);
    assert!(data.run().events.iter().any(|event| event.kind == "nan"));
    assert!(data.run().logs.iter().any(|line| line.message == "a line"));
    assert_eq!(data.run().rewinds.len(), 1);
    // What was published stays as it was.
    assert_eq!(before.series["train/loss"].len(), 5);
    assert!(data.run().version > before.version);
    assert!(!data.poll() || data.run().info.is_some());
}

#[test]
fn a_paused_run_is_no_news_until_something_happens() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "paused");
    writer.scalar(at(1), "train/loss", 1.0);
    writer.state(RunState::Paused, None);
    writer.flush().unwrap();
    let library = Library::open(&[folder.path().to_path_buf()]);
    let beat = || solstice_store::RunReader::open(writer.path()).unwrap().info().unwrap().writer.unwrap().time;
    wait_for(&library, |snapshot| !snapshot.is_loading && snapshot.runs.first().is_some_and(|run| run.series.len() == 1));
    // Its process says that it lives, twice and once more so that all that was written before has been read.
    let next_beat = || {
        let before = beat();
        while beat() == before {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    next_beat();
    let version = library.changed();
    (0..2).for_each(|_| next_beat());
    assert_eq!(library.changed(), version, "nothing is drawn anew");
    // Who waits for an answer sees whether the process lives.
    library.send(writer.path(), "eval", json!({}));
    let seen = |snapshot: &Snapshot| snapshot.runs[0].info.as_ref().and_then(|info| Some(info.writer.as_ref()?.time));
    let snapshot = wait_for(&library, |snapshot| snapshot.runs[0].commands.len() == 1);
    let before = seen(&snapshot);
    wait_for(&library, |snapshot| seen(snapshot) > before);
}

#[test]
fn a_long_run_comes_in_bites_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "long");
    for step in 0..30_000 {
        writer.scalar(at(step), "train/loss", step as f64);
    }
    writer.flush().unwrap();
    let mut data = RunData::new(writer.path());
    read_all(&mut data);
    let found = values(&data, "train/loss");
    assert_eq!(found.len(), 30_000);
    assert!(found.iter().enumerate().all(|(index, &point)| point == (index as u64, index as f64)));
}

#[test]
fn a_deleted_a_damaged_and_a_newer_run_say_so_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = {
        let writer = create(folder.path(), "odd");
        writer.scalar(at(1), "train/loss", 1.0);
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        writer.path().to_path_buf()
    };
    let mut data = RunData::new(&path);
    read_all(&mut data);
    assert_eq!(data.run().problem, None);
    let database = path.join("run.sqlite");
    let good = std::fs::read(&database).unwrap();

    // `user_version` is the big-endian number at byte 60 of an SQLite file.
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&9999u32.to_be_bytes());
    std::fs::write(&database, &newer).unwrap();
    data.close();
    assert!(data.poll());
    assert!(data.run().problem.as_ref().unwrap().contains("9999"), "{:?}", data.run().problem);

    for damage in [&b"not a database at all, but a text of some length"[..], &[0xff; 8192], &good[..good.len() / 2]] {
        std::fs::write(&database, damage).unwrap();
        data.close();
        data.poll();
        let run = data.run();
        assert!(run.problem.as_ref().is_some_and(|sentence| sentence.len() > 20), "{:?}", run.problem);
        // What was read before is still there to look at.
        assert_eq!(values(&data, "train/loss"), [(1, 1.0)]);
        assert!(!data.poll(), "the same problem is no news");
    }

    std::fs::write(&database, &good).unwrap();
    read_all(&mut data);
    assert_eq!(data.run().problem, None);

    std::fs::remove_dir_all(&path).unwrap();
    data.poll();
    assert!(data.run().problem.as_ref().unwrap().contains("no such folder"), "{:?}", data.run().problem);
}

#[test]
fn the_library_finds_new_runs_drops_deleted_ones_and_wakes_the_window() {
    let folder = tempfile::tempdir().unwrap();
    // The folder is made later, by the first run.
    let runs = folder.path().join("runs");
    let library = Library::open(std::slice::from_ref(&runs));
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    library.on_change(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let writer = create(&runs, "first");
    writer.state(RunState::Running, None);
    writer.update(RunUpdate { steps_total: Some(10), ..RunUpdate::default() });
    writer.scalar(at(1), "train/loss", 2.0);
    writer.progress(at(5));
    let snapshot = wait_for(&library, |snapshot| {
        snapshot.runs.first().is_some_and(|run| run.series.contains_key("train/loss") && run.progress() == Some(0.5))
    });
    assert_eq!((snapshot.runs.len(), snapshot.runs[0].title()), (1, "first"));
    assert!(wakes.load(Ordering::Relaxed) > 0);

    writer.scalar(at(2), "train/loss", 1.0);
    let path = writer.path().to_path_buf();
    let later = wait_for(&library, |snapshot| snapshot.run(&path).is_some_and(|run| run.series["train/loss"].len() == 2));
    assert!(later.version > snapshot.version);
    assert_eq!(snapshot.runs[0].series["train/loss"].len(), 1);

    // An odd folder is shown with its sentence, a sweep's trials under its name.
    std::fs::create_dir(runs.join("empty")).unwrap();
    let trials = runs.join("sweep-lr");
    std::fs::create_dir(&trials).unwrap();
    std::fs::write(trials.join("trials.json"), "{}").unwrap();
    let trial = create(&trials.join("trial-0"), "of-sweep");
    let snapshot =
        wait_for(&library, |snapshot| snapshot.runs.iter().filter(|run| run.info.is_some()).count() == 2 && snapshot.runs.len() == 3);
    let of_sweep = snapshot.run(trial.path()).unwrap();
    assert_eq!(of_sweep.group.as_deref(), Some("sweep-lr"));
    let odd = snapshot.run(&runs.join("empty")).unwrap();
    assert!(odd.problem.as_ref().unwrap().contains("run.sqlite"), "{:?}", odd.problem);

    drop(trial);
    std::fs::remove_dir_all(&trials).unwrap();
    std::fs::remove_dir(runs.join("empty")).unwrap();
    wait_for(&library, |snapshot| snapshot.runs.len() == 1);
}

#[test]
fn a_command_is_followed_to_its_answer_and_a_refusal_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "steered");
    writer.state(RunState::Running, None);
    writer.flush().unwrap();
    let path = writer.path().to_path_buf();
    let library = Library::open(&[folder.path().to_path_buf()]);
    let ticket = library.send(&path, "pause", json!({}));
    let state_of = |snapshot: &Snapshot, ticket| snapshot.sent.iter().find(|sent| sent.ticket == ticket).map(|sent| sent.state);
    let command = loop {
        if let Some(command) = writer.wait_for_commands(Duration::from_secs(60)).pop() {
            break command;
        }
    };
    wait_for(&library, |snapshot| state_of(snapshot, ticket) == Some(SentState::Taken));
    writer.complete_command(command.id, Err("not now"));
    let snapshot = wait_for(&library, |snapshot| state_of(snapshot, ticket) == Some(SentState::Failed));
    assert_eq!(snapshot.sent[0].reason.as_deref(), Some("not now"));

    let label = library.set_label(&path, "name", Some("my run"));
    let snapshot = wait_for(&library, |snapshot| {
        state_of(snapshot, label) == Some(SentState::Done) && snapshot.run(&path).is_some_and(|run| run.title() == "my run")
    });
    assert_eq!(snapshot.sent[1].kind, LABEL);

    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    drop(writer);
    let late = library.send(&path, "stop", json!({}));
    let snapshot = wait_for(&library, |snapshot| state_of(snapshot, late) == Some(SentState::Failed));
    assert!(snapshot.sent.last().unwrap().reason.as_ref().unwrap().contains("done"), "{:?}", snapshot.sent.last());
}

#[test]
fn five_hundred_runs_open_without_running_out_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let first = {
        let writer = create(folder.path(), "one");
        writer.scalar(at(1), "train/loss", 1.0);
        writer.state(RunState::Done, None);
        writer.flush().unwrap();
        writer.path().to_path_buf()
    };
    for index in 0..499 {
        let copy = folder.path().join(format!("copy-{index:03}"));
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(first.join("run.sqlite"), copy.join("run.sqlite")).unwrap();
    }
    let folders: Vec<PathBuf> = vec![folder.path().to_path_buf()];
    let snapshot = Snapshot::read(&folders);
    assert_eq!(snapshot.runs.len(), 500);
    assert!(!snapshot.is_loading);
    for run in &snapshot.runs {
        assert_eq!((run.problem.as_deref(), run.series["train/loss"].len()), (None, 1), "{}", run.id);
    }
}
