//! `solstice watch` without a terminal: a run that is over, one that goes on, one that was lost, and none at all.

mod common;

use common::{Desk, ran};
use solstice_store::{At, Event, NewRun, RunState, RunUpdate, RunWriter};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn create(desk: &Desk) -> RunWriter {
    let writer = RunWriter::create(&desk.path().join("runs"), &NewRun { name: "tiny".to_string(), ..NewRun::default() }).unwrap();
    writer.state(RunState::Running, None);
    writer.update(RunUpdate { steps_total: Some(4), ..RunUpdate::default() });
    log(&writer, 2);
    writer
}

fn log(writer: &RunWriter, step: u64) {
    let at = At { step, epoch: step as f64 / 4.0, samples: step };
    writer.scalars(at, &[("train/loss", 1.0 / step as f64), ("val/loss", 0.25)]);
    writer.scalar(at, "val/accuracy", 0.5);
    writer.progress(at);
    writer.flush().unwrap();
}

#[test]
fn a_run_that_is_over_is_told_at_once() {
    let desk = Desk::new();
    let writer = create(&desk);
    log(&writer, 4);
    writer.event(Event::new(4, "eval", "worker", "evaluated val"));
    writer.state(RunState::Done, None);
    drop(writer);
    let out = desk.run(&["watch"]).expect(0).out;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("tiny ("), "{out}");
    assert!(lines.contains(&"step 4  eval (worker): evaluated val"), "{out}");
    assert!(lines.contains(&"step 4/4  100 %  epoch 1.00  train/loss 0.2500  val/loss 0.2500"), "{out}");
    assert_eq!(lines.last(), Some(&"done"), "{out}");
    let out = desk.run(&["watch", "last", "--metric", "val/accuracy"]).expect(0).out;
    assert!(out.contains("epoch 1.00  val/accuracy 0.5000\n"), "{out}");
}

#[test]
fn a_run_that_goes_on_is_followed_to_its_end() {
    let desk = Desk::new();
    let writer = create(&desk);
    let mut child = desk.command(&["watch", "last", "--runs-dir", "runs"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.by_ref().any(|line| line.contains("step 2/4  50 %") && line.contains("train/loss 0.5000")));
    log(&writer, 3);
    writer.state(RunState::Failed, Some("the loss is not finite"));
    drop(writer);
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("step 3/4  75 %") && line.contains("train/loss 0.3333")), "{rest:#?}");
    assert_eq!(rest.last().unwrap(), "failed: the loss is not finite");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_run_whose_process_is_gone_is_lost() {
    let desk = Desk::new();
    drop(create(&desk));
    let out = desk.run(&["watch"]).expect(1).out;
    assert!(out.contains("step 2/4") && out.lines().last().unwrap().starts_with("lost: "), "{out}");
}

#[test]
fn without_a_run_it_says_what_there_is() {
    let desk = Desk::new();
    assert!(desk.run(&["watch"]).expect(1).err.contains("no runs"));
    let folder = create(&desk).path().to_path_buf();
    std::fs::write(folder.join("run.sqlite"), "no database").unwrap();
    let _ = std::fs::remove_file(folder.join("run.sqlite-wal"));
    let result = ran(desk.command(&["watch", &folder.display().to_string()]).output().unwrap()).expect(1);
    assert!(result.err.contains("run.sqlite"), "{}", result.err);
}
