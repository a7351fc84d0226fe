//! Which checkpoints go, which is the best, which one a person means: cases worked by hand.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{checkpoint_at, new_run, tensors};
use solstice_store::retention::{best, expendable};
use solstice_store::{
    At, CheckpointRow, CheckpointTarget, Monitor, MonitorMode, NewCheckpoint, Retention, RunReader, RunWriter, StoreError,
};

fn row(step: u64, loss: Option<f64>) -> CheckpointRow {
    let file = format!("step-{step:09}.safetensors");
    CheckpointRow {
        path: file.clone().into(),
        file,
        at: At::from(step),
        position: 0,
        time: step as f64,
        bytes: 1,
        sha256: String::new(),
        metrics: loss.into_iter().map(|loss| ("val/loss".to_string(), loss)).collect(),
        reason: "cadence".to_string(),
        pinned: false,
        abandoned: false,
    }
}

fn least_loss() -> Monitor {
    Monitor { metric: "val/loss".to_string(), mode: MonitorMode::Min }
}

fn policy(last: usize, best: usize) -> Retention {
    Retention { last, best, monitor: Some(least_loss()) }
}

fn steps(rows: &[&CheckpointRow]) -> Vec<u64> {
    rows.iter().map(|row| row.at.step).collect()
}

/// Ten checkpoints; the losses fall, rise and fall: 0.9 0.5 0.4 0.6 0.7 0.8 0.3 0.5 0.6 0.7 at steps 100 to 1000.
fn ten() -> Vec<CheckpointRow> {
    [0.9, 0.5, 0.4, 0.6, 0.7, 0.8, 0.3, 0.5, 0.6, 0.7].iter().zip(1..).map(|(&loss, index)| row(100 * index, Some(loss))).collect()
}

#[test]
fn what_no_rule_keeps_goes_oldest_first() {
    let rows = ten();
    // The last two: 900, 1000. The best two: 700 (0.3), 300 (0.4).
    assert_eq!(steps(&expendable(&rows, &policy(2, 2))), [100, 200, 400, 500, 600, 800]);
    assert_eq!(steps(&expendable(&rows, &policy(3, 0))), [100, 200, 300, 400, 500, 600, 700]);
    assert_eq!(steps(&expendable(&rows, &policy(10, 0))), [0; 0]);
    assert_eq!(steps(&expendable(&rows, &policy(usize::MAX, usize::MAX))), [0; 0]);
    assert_eq!(steps(&expendable(&[], &policy(3, 3))), [0; 0]);
    // The order of the rows is nothing.
    let mut shuffled = ten();
    shuffled.reverse();
    shuffled.swap(0, 4);
    assert_eq!(steps(&expendable(&shuffled, &policy(2, 2))), [100, 200, 400, 500, 600, 800]);
}

#[test]
fn the_newest_good_one_stays_whatever_the_policy_says() {
    let rows = ten();
    assert_eq!(steps(&expendable(&rows, &Retention::default())), [100, 200, 300, 400, 500, 600, 700, 800, 900]);
    let mut rows = ten();
    rows[9].abandoned = true;
    // 1000 was left behind by a resume from 900: 900 is the newest good one.
    assert_eq!(steps(&expendable(&rows, &policy(0, 0))), [100, 200, 300, 400, 500, 600, 700, 800, 1000]);
    assert_eq!(steps(&expendable(&[row(5, None)], &policy(0, 0))), [0; 0]);
}

#[test]
fn pinned_ones_and_those_kept_for_ever_stay_and_abandoned_ones_go() {
    let mut rows = ten();
    rows[0].pinned = true;
    rows[3].reason = "every".to_string();
    rows[7].reason = "every".to_string();
    assert_eq!(steps(&expendable(&rows, &policy(1, 1))), [200, 300, 500, 600, 900]);
    // Left behind: even the best, even one that was to be kept for ever; but not a pinned one.
    for abandoned in [6, 7, 8, 9] {
        rows[abandoned].abandoned = true;
    }
    rows[8].pinned = true;
    // Of the others: 100 pinned, 300 the best, 400 for ever, 600 the newest; 900 pinned.
    assert_eq!(steps(&expendable(&rows, &policy(1, 1))), [200, 500, 700, 800, 1000]);
}

#[test]
fn the_best_is_finite_and_the_earliest_of_equals() {
    let mut rows = vec![
        row(1, Some(f64::NEG_INFINITY)),
        row(2, Some(f64::NAN)),
        row(3, None),
        row(4, Some(0.5)),
        row(5, Some(0.25)),
        row(6, Some(0.25)),
        row(7, Some(0.75)),
    ];
    assert_eq!(best(&rows, &least_loss()).unwrap().at.step, 5);
    let most = Monitor { mode: MonitorMode::Max, ..least_loss() };
    assert_eq!(best(&rows, &most).unwrap().at.step, 7);
    rows[4].abandoned = true;
    assert_eq!(best(&rows, &least_loss()).unwrap().at.step, 6);
    assert_eq!(best(&rows[..3], &least_loss()), None);
    assert_eq!(best(&rows, &Monitor { metric: "val/accuracy".into(), mode: MonitorMode::Max }), None);
    let zeros = [row(1, Some(0.0)), row(2, Some(-0.0)), row(3, Some(0.0))];
    assert_eq!(best(&zeros, &least_loss()).unwrap().at.step, 1);
    assert_eq!(best(&zeros, &most).unwrap().at.step, 1);
    // Without a monitor nothing is the best: only the newest stays.
    let policy = Retention { last: 1, best: 5, monitor: None };
    assert_eq!(steps(&expendable(&ten(), &policy)).len(), 9);
}

#[test]
fn a_target_is_read_as_it_is_written() {
    for (text, target) in [("last", CheckpointTarget::Last), ("best", CheckpointTarget::Best), ("step:1200", CheckpointTarget::Step(1200))]
    {
        assert_eq!(text.parse::<CheckpointTarget>().unwrap(), target);
        assert_eq!(target.to_string(), text);
    }
    assert_eq!("0".parse::<CheckpointTarget>().unwrap(), CheckpointTarget::Step(0));
    for text in ["", "step:", "step:-1", "newest", "step 3", "99999999999999999999999"] {
        let sentence = text.parse::<CheckpointTarget>().unwrap_err().to_string();
        assert_eq!(sentence, format!("`{text}` names no checkpoint: say `last`, `best` or `step:N`, such as `step:1200`"));
    }
}

#[test]
fn a_checkpoint_is_found_by_target_and_a_wrong_step_names_its_neighbours() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    let at = |target: &str| reader.checkpoint_at(target.parse().unwrap(), Some(&least_loss()));
    let problem = |target: &str| at(target).unwrap_err().to_string();
    assert!(problem("120").ends_with("the run has no checkpoint at step 120; none was saved yet"), "{}", problem("120"));
    assert!(
        problem("best").contains("no checkpoint holds a finite `val/loss`") && problem("best").ends_with("none"),
        "{}",
        problem("best")
    );
    for (step, loss) in [(50, 0.4), (100, 0.2), (150, 0.3), (200, f64::NAN)] {
        let metrics = [("val/loss".to_string(), loss)].into();
        writer.save_checkpoint(&NewCheckpoint { metrics, ..checkpoint_at(step) }, &tensors()).unwrap();
    }
    writer.flush().unwrap();
    let step_at = |target: &str| at(target).unwrap().1.info.at.step;
    assert_eq!((step_at("last"), step_at("best"), step_at("step:150")), (200, 100, 150));
    assert!(problem("120").ends_with("the run has no checkpoint at step 120; the nearest are 100 and 150"), "{}", problem("120"));
    assert!(problem("1").ends_with("the run has no checkpoint at step 1; the nearest is 50"), "{}", problem("1"));
    assert!(problem("900").ends_with("at step 900; the nearest is 200"), "{}", problem("900"));
    assert!(matches!(at("900"), Err(StoreError::NoSuchCheckpoint { .. })));
    let sentence = reader.checkpoint_at(CheckpointTarget::Best, None).unwrap_err().to_string();
    assert!(sentence.contains("no metric is monitored"), "{sentence}");
    let other = Monitor { metric: "val/accuracy".into(), mode: MonitorMode::Max };
    let sentence = reader.checkpoint_at(CheckpointTarget::Best, Some(&other)).unwrap_err().to_string();
    assert!(sentence.contains("`val/accuracy`") && sentence.ends_with("metrics that they hold: val/loss"), "{sentence}");

    // A damaged best gives way to the next best, which is told; a damaged step that was asked for is an error.
    let damaged = writer.path().join("checkpoints/step-000000100.safetensors");
    fs::write(&damaged, "short").unwrap();
    let (_, checkpoint, problems) = at("best").unwrap();
    assert_eq!((checkpoint.info.at.step, problems.len()), (150, 1));
    assert!(problems[0].contains("step-000000100"), "{problems:?}");
    assert!(matches!(at("100"), Err(StoreError::Checkpoint { .. })));
    // A resume from 150 leaves 200 behind: no longer the last, but there when it is asked for.
    writer.rewind(150).unwrap();
    assert_eq!((step_at("last"), step_at("step:200")), (150, 200));
}

/// As a saver thread does it: one thread trains and logs, one saves, one removes every odd step as soon as it sees the file, which may be before
/// its row is written.
#[test]
fn files_and_index_agree_after_saves_and_removals_from_two_threads() {
    fn shared<T: Send + Sync>(value: T) -> Arc<T> {
        Arc::new(value)
    }
    let runs = tempfile::tempdir().unwrap();
    let writer = shared(RunWriter::create(runs.path(), &new_run()).unwrap());
    let reader = RunReader::open(writer.path()).unwrap();
    let folder = writer.path().join("checkpoints");
    let files = || {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".safetensors")).collect::<std::collections::BTreeSet<String>>()
    };
    let is_odd = |file: &String| file.trim_end_matches(".safetensors").ends_with(['1', '3', '5', '7', '9']);
    let saving = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in 1..=100 {
                let reason = if step % 20 == 0 { "every" } else { "cadence" };
                writer.save_checkpoint(&NewCheckpoint { reason: reason.into(), ..checkpoint_at(step) }, &tensors()).unwrap();
            }
            saving.store(false, Ordering::Release);
        });
        scope.spawn(|| {
            let mut is_last_look = false;
            while !is_last_look {
                is_last_look = !saving.load(Ordering::Acquire);
                for file in files().iter().filter(|file| is_odd(file)) {
                    writer.remove_checkpoint(file).unwrap();
                }
            }
        });
        let mut step = 0;
        while saving.load(Ordering::Acquire) {
            writer.scalar(step, "train/loss", 1.0);
            step += 1;
            std::thread::yield_now();
        }
    });
    writer.flush().unwrap();
    let rows = reader.checkpoints().unwrap();
    assert_eq!(rows.iter().map(|row| row.at.step).collect::<Vec<_>>(), (1..=50).map(|half| 2 * half).collect::<Vec<_>>());
    for row in expendable(&rows, &policy(3, 0)) {
        writer.remove_checkpoint(&row.file).unwrap();
    }
    writer.flush().unwrap();
    let rows = reader.checkpoints().unwrap();
    assert_eq!(rows.iter().map(|row| row.at.step).collect::<Vec<_>>(), [20, 40, 60, 80, 96, 98, 100]);
    assert_eq!(files(), rows.into_iter().map(|row| row.file).collect());
}

#[test]
fn a_stop_at_the_step_of_a_checkpoint_kept_for_ever_does_not_make_it_expendable() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    let save = |step, reason: &str| {
        writer.save_checkpoint(&NewCheckpoint { reason: reason.into(), ..checkpoint_at(step) }, &tensors()).unwrap();
        writer.flush().unwrap();
    };
    let reasons = || reader.checkpoints().unwrap().into_iter().map(|row| row.reason).collect::<Vec<_>>();
    save(100, "every");
    save(100, "stop");
    save(200, "cadence");
    assert_eq!(reasons(), ["every", "cadence"]);
    // What a resume left behind promises nothing.
    writer.rewind(50).unwrap();
    save(100, "cadence");
    assert_eq!(reasons(), ["cadence", "cadence"]);
}
