//! Runs as they should not be: killed, locked, damaged, deleted, unreadable, noisy, twice under one name. The data layer says it in a sentence, loses no
//! point, and goes on with the other runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use solstice_dashboard::data::{Library, Run, RunData, SentState, Snapshot};
use solstice_store::{At, NewRun, RunReader, RunState, RunWriter};

fn create(folder: &Path, name: &str) -> RunWriter {
    RunWriter::create(folder, &NewRun { name: name.to_string(), ..NewRun::default() }).unwrap()
}

/// A run that is over, with values 1 to `count`.
fn finished(folder: &Path, name: &str, count: u64) -> PathBuf {
    let writer = create(folder, name);
    for step in 1..=count {
        writer.scalar(step, "train/loss", step as f64);
    }
    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    writer.path().to_path_buf()
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

fn values(run: &Run) -> Vec<f64> {
    run.series.get("train/loss").map_or(Vec::new(), |series| series.points().map(|point| point.value).collect())
}

fn counted(count: u64) -> Vec<f64> {
    (1..=count).map(|step| step as f64).collect()
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "a process for another test"]
fn a_worker_to_be_killed() {
    let Some(folder) = std::env::var_os("SOLSTICE_TEST_RUNS") else { return };
    let writer = create(Path::new(&folder), "killed");
    writer.state(RunState::Running, None);
    for step in 1.. {
        writer.scalar(step, "train/loss", step as f64);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_worker_is_lost_and_its_points_stay() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(&[folder.path().to_path_buf()]);
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_worker_to_be_killed", "--ignored"])
        .env("SOLSTICE_TEST_RUNS", folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = |snapshot: &Snapshot| snapshot.runs.first().and_then(|run| run.info.as_ref().map(|info| info.state));
    wait_for(&library, |snapshot| state(snapshot) == Some(RunState::Running) && values(&snapshot.runs[0]).len() > 50);
    worker.kill().unwrap();
    worker.wait().unwrap();
    let snapshot = wait_for(&library, |snapshot| state(snapshot) == Some(RunState::Lost));
    let info = snapshot.runs[0].info.as_ref().unwrap();
    assert!(info.state_reason.as_ref().unwrap().contains("is gone without a word"), "{:?}", info.state_reason);
    // Whatever reached the disk is there, in order and without a hole.
    let on_disk: Vec<f64> =
        RunReader::open(&snapshot.runs[0].path).unwrap().series("train/loss").unwrap().iter().map(|row| row.value).collect();
    let snapshot = wait_for(&library, |snapshot| values(&snapshot.runs[0]).len() == on_disk.len());
    assert_eq!(values(&snapshot.runs[0]), counted(on_disk.len() as u64));
    // A command to it says at once that nobody would take it.
    library.send(&snapshot.runs[0].path, "pause", json!({}));
    let snapshot = wait_for(&library, |snapshot| snapshot.sent.first().is_some_and(|sent| sent.state == SentState::Failed));
    assert!(snapshot.sent[0].reason.as_ref().unwrap().contains("lost"), "{:?}", snapshot.sent[0].reason);
}

#[test]
fn a_store_that_another_program_holds_locked_says_so_and_holds_no_other_up() {
    let folder = tempfile::tempdir().unwrap();
    let locked = finished(folder.path(), "locked", 20);
    let holder = Connection::open(locked.join("run.sqlite")).unwrap();
    // In WAL mode a transaction alone stops no reader; the exclusive locking mode does.
    holder.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(())).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE; INSERT INTO labels VALUES ('note', 'mine', 0);").unwrap();

    let live = create(folder.path(), "live");
    live.state(RunState::Running, None);
    let library = Library::open(&[folder.path().to_path_buf()]);
    let problem = |snapshot: &Snapshot| snapshot.run(&locked).and_then(|run| run.problem.clone());
    let snapshot = wait_for(&library, |snapshot| problem(snapshot).is_some());
    assert!(problem(&snapshot).unwrap().contains("locked"), "{:?}", problem(&snapshot));
    for step in 1..=30u64 {
        live.scalar(step, "train/loss", step as f64);
        wait_for(&library, |snapshot| snapshot.run(live.path()).is_some_and(|run| values(run).len() == step as usize));
    }
    // What is sent to it waits for the lock; what is sent to another run does not wait with it.
    library.set_label(&locked, "note", Some("first"));
    library.set_label(&locked, "note", Some("second"));
    library.send(live.path(), "pause", json!({}));
    let state = |snapshot: &Snapshot, index: usize| snapshot.sent.get(index).map(|sent| sent.state);
    let snapshot = wait_for(&library, |snapshot| state(snapshot, 2) == Some(SentState::Sent));
    assert_eq!((state(&snapshot, 0), state(&snapshot, 1)), (Some(SentState::Sending), Some(SentState::Sending)));
    live.scalar(31, "train/loss", 31.0);
    wait_for(&library, |snapshot| snapshot.run(live.path()).is_some_and(|run| values(run).len() == 31));
    holder.execute_batch("COMMIT").unwrap();
    drop(holder);
    // Each is answered, in the order in which they were sent.
    let is_answered = |snapshot: &Snapshot, index| matches!(state(snapshot, index), Some(SentState::Done | SentState::Failed));
    wait_for(&library, |snapshot| is_answered(snapshot, 1) && is_answered(snapshot, 0));
    for count in 0..20 {
        library.set_label(&locked, "note", Some(&count.to_string()));
    }
    let note = |snapshot: &Snapshot| snapshot.run(&locked)?.info.as_ref()?.labels.get("note").cloned();
    wait_for(&library, |snapshot| note(snapshot).as_deref() == Some("19") && state(snapshot, 22) == Some(SentState::Done));
    let snapshot = wait_for(&library, |snapshot| problem(snapshot).is_none() && snapshot.run(&locked).is_some_and(|run| run.is_complete));
    assert_eq!(values(snapshot.run(&locked).unwrap()), counted(20));
}

#[test]
fn a_store_that_turns_bad_while_it_is_shown_keeps_what_was_read_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = finished(folder.path(), "bad", 30);
    let library = Library::open(&[folder.path().to_path_buf()]);
    wait_for(&library, |snapshot| snapshot.run(&path).is_some_and(|run| values(run).len() == 30));
    let database = path.join("run.sqlite");
    let good = std::fs::read(&database).unwrap();
    // `user_version` is the big-endian number at byte 60 of an SQLite file.
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&9999u32.to_be_bytes());
    for (bad, word) in
        [(&newer[..], "9999"), (&b"no database, but a text that is long enough to look at"[..], "SQLite"), (&[][..], "empty")]
    {
        std::fs::write(&database, bad).unwrap();
        let is_told =
            |snapshot: &Snapshot| snapshot.run(&path).is_some_and(|run| run.problem.as_ref().is_some_and(|told| told.contains(word)));
        let snapshot = wait_for(&library, is_told);
        assert_eq!(values(snapshot.run(&path).unwrap()), counted(30), "with {word}");
    }
    std::fs::write(&database, &good).unwrap();
    let snapshot = wait_for(&library, |snapshot| snapshot.run(&path).is_some_and(|run| run.problem.is_none()));
    assert_eq!(values(snapshot.run(&path).unwrap()), counted(30));
    // Deleted while it is shown: gone from the list, and nothing else happens.
    std::fs::remove_dir_all(&path).unwrap();
    wait_for(&library, |snapshot| snapshot.runs.is_empty());
}

#[test]
#[cfg(unix)]
fn a_folder_that_may_not_be_read_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = finished(folder.path(), "private", 5);
    let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o000);
    if std::fs::read_dir(&path).is_ok() {
        // The superuser reads everything.
        return allow(0o700);
    }
    let library = Library::open(&[folder.path().to_path_buf()]);
    let snapshot = wait_for(&library, |snapshot| snapshot.run(&path).is_some_and(|run| run.problem.is_some()));
    let told = snapshot.run(&path).unwrap().problem.clone().unwrap();
    assert!(told.contains("permissions"), "{told}");
    allow(0o700);
    wait_for(&library, |snapshot| snapshot.run(&path).is_some_and(|run| run.problem.is_none() && values(run).len() == 5));
}

#[test]
fn ten_thousand_log_lines_a_second_stay_bounded_and_the_newest_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "noisy");
    writer.state(RunState::Running, None);
    let library = Library::open(&[folder.path().to_path_buf()]);
    for second in 0..3 {
        for line in 0..10_000 {
            writer.log("info", "worker", format!("line {}", second * 10_000 + line));
            if line % 100 == 0 {
                writer.scalar(second * 100 + line / 100, "train/loss", 0.5);
            }
        }
        writer.flush().unwrap();
        let last = format!("line {}", second * 10_000 + 9_999);
        let is_there =
            |snapshot: &Snapshot| snapshot.runs.first().is_some_and(|run| run.logs.last().is_some_and(|line| line.message == last));
        let snapshot = wait_for(&library, is_there);
        assert!(snapshot.runs[0].logs.len() <= 5000, "{}", snapshot.runs[0].logs.len());
    }
    wait_for(&library, |snapshot| snapshot.runs[0].series.get("train/loss").is_some_and(|series| series.len() == 300));
    // Somebody who opens the finished run sees its end, and not its beginning.
    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    let snapshot = Snapshot::read(&[folder.path().to_path_buf()]);
    assert_eq!(snapshot.runs[0].logs.last().unwrap().message, "line 29999");
}

#[test]
fn two_runs_with_the_same_folder_name_are_two() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let writers: Vec<RunWriter> = [&one, &other].map(|runs| create(runs, "twin")).into();
    // The same name by hand, as after a copy from another machine.
    let paths: Vec<PathBuf> = [&one, &other].map(|runs| runs.join("2026-01-01-0000-twin-abcd")).into();
    for (writer, path) in writers.iter().zip(&paths) {
        writer.state(RunState::Running, None);
        writer.scalar(At::from(1), "train/loss", 1.0);
        writer.flush().unwrap();
        std::fs::rename(writer.path(), path).unwrap();
    }
    let library = Library::open(&[one, other]);
    let snapshot = wait_for(&library, |snapshot| snapshot.runs.iter().filter(|run| !run.series.is_empty()).count() == 2);
    let mut ids: Vec<&str> = snapshot.runs.iter().map(|run| run.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["2026-01-01-0000-twin-abcd", "other/2026-01-01-0000-twin-abcd"]);
}

#[test]
fn a_run_with_five_thousand_metrics_is_read_whole_and_its_last_values_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path(), "wide");
    let names: Vec<String> = (0..5000).map(|index| format!("layer{}/weight{index}", index / 50)).collect();
    for step in 1..=3u64 {
        let rows: Vec<(&str, f64)> = names.iter().enumerate().map(|(index, name)| (name.as_str(), (index as u64 * step) as f64)).collect();
        writer.scalars(step, &rows);
    }
    writer.state(RunState::Done, None);
    writer.flush().unwrap();
    let mut data = RunData::new(writer.path());
    while !data.run().is_complete {
        data.poll();
    }
    let run = data.run();
    assert_eq!((run.series.len(), run.metrics.len()), (5000, 5000));
    for (index, metric) in run.metrics.iter().enumerate() {
        assert_eq!((metric.last, run.series[&metric.name].len()), (Some(index as f64 * 3.0), 3), "{}", metric.name);
    }
}
