//! Runs that stop, die, go on, branch off and are steered: to the byte what an undisturbed run computes.

mod common;

use common::{Desk, ran, recipe};
use solstice_store::{RunReader, RunState, Scalar};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A small run with everything on that has a state or a random stream: dropout, augmentation, shuffling, streamed batches, several batches a step,
/// copies of the weights, callbacks that remember.
const EVERYTHING: [&str; 26] = [
    "--set",
    "dataset.train=700",
    "--set",
    "dataset.test=90",
    "--set",
    "model=convnet(channels: [4, 8], dense: 16, dropout: 0.2)",
    "--set",
    "trainer.batch_size=16",
    "--set",
    "trainer.accumulate=3",
    "--set",
    "trainer.resident=false",
    "--set",
    "trainer.log_every=2st",
    "--set",
    "trainer.evaluate_every=7st",
    "--set",
    "trainer.checkpoint_every=5st",
    "--set",
    "trainer.keep_last=9",
    "--set",
    "callbacks=[ema(decay: 0.9), loss_spike(window: 3)]",
    "--set",
    "trainer.clip=norm(1.0)",
    "--set",
    "transforms=[random_shift(pixels: 2), gaussian_noise(deviation: 0.05)]",
];

fn arguments<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    command.iter().chain(more).copied().collect()
}

/// What a run leaves that must not depend on how often it was disturbed.
fn remains(folder: &Path) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<(u64, u64)>>) {
    let reader = RunReader::open(folder).unwrap();
    let tensors = reader.latest_good().unwrap().1.tensors.into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect();
    let bits = |rows: Vec<Scalar>| rows.iter().map(|row| (row.at.step, row.value.to_bits())).collect();
    let names = reader.metrics().unwrap().into_iter().map(|metric| metric.name).filter(|name| !is_of_the_clock(name));
    let scalars = names.map(|name| (name.clone(), bits(reader.series(&name).unwrap()))).collect();
    (tensors, scalars)
}

/// Depends on how fast and how large the machine is, not on what is trained.
fn is_of_the_clock(name: &str) -> bool {
    name.ends_with("samples_per_sec") || name.starts_with("time/") || name.starts_with("system/")
}

/// Starts a run and kills its worker as soon as a checkpoint of at least `step` is on disk.
fn train_and_kill(desk: &Desk, args: &[&str], step: u64) {
    let mut child = desk.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    loop {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed: {}", ran(child.wait_with_output().unwrap()).err);
        if let Some(pid) = worker_past(desk, step) {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 6, "{}", ended.err);
    assert!(ended.err.contains("signal 9"), "{}", ended.err);
}

fn worker_past(desk: &Desk, step: u64) -> Option<u32> {
    let reader = RunReader::open(&desk.newest_run()?).ok()?;
    let saved = reader.checkpoints().ok()?.iter().any(|row| row.at.step >= step);
    reader.info().ok()?.writer.filter(|_| saved).map(|writer| writer.pid)
}

fn killed_and_resumed_equals_undisturbed(device: &str, budget: &str, kill_at: u64, precision: &str) {
    let path = recipe("digits.ron");
    let (budget, precision) = (format!("trainer.budget={budget}"), format!("trainer.precision={precision}"));
    let command = ["train", &path, "--quiet", "--device", device, "--set", &budget, "--set", &precision];
    let whole = Desk::new();
    whole.run(&arguments(&command, &EVERYTHING)).expect(0);
    let parts = Desk::new();
    train_and_kill(&parts, &arguments(&command, &EVERYTHING), kill_at);
    parts.run(&["resume", "last", "--quiet"]).expect(0);
    let ((tensors, scalars), (tensors_again, scalars_again)) = (remains(&whole.run_folder()), remains(&parts.run_folder()));
    for (name, bytes) in &tensors {
        assert!(tensors_again.get(name) == Some(bytes), "`{name}` differs from the undisturbed run");
    }
    assert_eq!(tensors.len(), tensors_again.len());
    assert!(tensors.keys().any(|name| name.starts_with("shadow.ema.")), "there are no copies of the weights");
    assert!(scalars.contains_key("test-ema/loss"), "{:?}", scalars.keys());
    assert_eq!(scalars, scalars_again, "what was logged differs");
}

#[test]
fn a_killed_run_goes_on_to_the_byte() {
    // 15 steps of 48 samples make an epoch: the run is killed in its second epoch, between two reports and two evaluations.
    killed_and_resumed_equals_undisturbed("cpu", "40st", 20, "f32");
}

#[test]
fn a_killed_run_goes_on_to_the_byte_on_the_gpu() {
    killed_and_resumed_equals_undisturbed("gpu", "12st", 5, "f32");
}

#[test]
fn a_killed_run_in_mixed_precision_goes_on_to_the_byte() {
    killed_and_resumed_equals_undisturbed("gpu", "12st", 5, "mixed");
}

#[test]
fn a_stopped_run_goes_on_to_the_byte_and_the_same_command_line_resumes() {
    let path = recipe("digits.ron");
    let command = ["train", path.as_str(), "--quiet", "--device", "cpu", "--set", "trainer.budget=40st", "--resume", "last"];
    let args = arguments(&command, &EVERYTHING);
    let whole = Desk::new();
    whole.run(&args).expect(0);
    let parts = Desk::new();
    let mut stops = 0;
    loop {
        let child = parts.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300 + 150 * stops));
        interrupt(&child);
        let ended = ran(child.wait_with_output().unwrap());
        assert!(matches!(ended.code, 0 | 3 | 130 | -1), "{ended:?}");
        stops += 1;
        let finished = parts.has_runs() && RunReader::open(&parts.run_folder()).unwrap().info().unwrap().state == RunState::Done;
        if finished {
            break;
        }
        assert!(stops < 60, "it does not come to an end");
    }
    let ((tensors, scalars), (tensors_again, scalars_again)) = (remains(&whole.run_folder()), remains(&parts.run_folder()));
    let differing: Vec<&String> = tensors.keys().filter(|name| tensors_again.get(*name) != tensors.get(*name)).collect();
    assert!(differing.is_empty() && tensors.len() == tensors_again.len(), "stopped {stops} times, {differing:?} are others");
    assert_eq!(scalars, scalars_again, "stopped {stops} times, other figures are logged");
    // Once more: there is nothing to do.
    let again = parts.run(&args).expect(0);
    assert!(again.err.contains("done"), "{}", again.err);
}

fn interrupt(child: &Child) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT);
}

const SMALL: [&str; 10] = [
    "--set",
    "dataset.train=640",
    "--set",
    "dataset.test=64",
    "--set",
    "trainer.checkpoint_every=4st",
    "--set",
    "trainer.keep_last=99",
    "--set",
    "trainer.log_every=1st",
];

/// A finished run of twelve steps with a checkpoint every four.
fn finished(desk: &Desk) -> String {
    let path = recipe("digits.ron");
    desk.run(&arguments(&["train", &path, "--quiet", "--device", "cpu", "--set", "trainer.budget=12st"], &SMALL)).expect(0);
    desk.run_folder().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn an_unchanged_fork_is_its_parent_and_a_changed_one_differs_after_the_fork() {
    let desk = Desk::new();
    let parent = finished(&desk);
    let parent_folder = desk.run_folder();
    let fork = format!("{parent}@8");
    desk.run(&["fork", &fork, "--quiet", "--runs-dir", "same", "--device", "cpu"]).expect(2);
    desk.run(&["fork", &fork, "--quiet"]).expect(0);
    let child = desk.run_folder();
    assert_ne!(child, parent_folder);
    assert!(remains(&parent_folder).0 == remains(&child).0, "an unchanged fork ends otherwise than its parent");
    let info = RunReader::open(&child).unwrap().info().unwrap();
    let pointer = info.parent.unwrap();
    assert_eq!((pointer.id.as_str(), pointer.step, pointer.changes.len()), (parent.as_str(), 8, 0));

    desk.run(&["fork", &fork, "--quiet", "--set", "optimizer.lr=3e-4"]).expect(0);
    let changed = desk.run_folder();
    let reader = RunReader::open(&changed).unwrap();
    let pointer = reader.info().unwrap().parent.unwrap();
    assert_eq!(pointer.changes["optimizer.lr"], serde_json::json!([0.002, 0.0003]));
    // At the fork the state is the parent's; afterwards it is not.
    let at = |folder: &Path, step| {
        let target = solstice_store::CheckpointTarget::Step(step);
        let checkpoint = RunReader::open(folder).unwrap().checkpoint_at(target, None).unwrap().1;
        checkpoint.tensors.into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect::<BTreeMap<_, _>>()
    };
    assert!(at(&changed, 8) == at(&parent_folder, 8));
    assert!(at(&changed, 12) != at(&parent_folder, 12));
    let lr: Vec<f64> = reader.series("train/lr").unwrap().iter().map(|row| row.value).collect();
    assert!(!lr.is_empty() && lr.iter().all(|lr| *lr <= 3e-4 * 1.000_001), "{lr:?}");
    // A fork that was killed at once goes on as a fork.
    let eval = desk.run(&["resume", changed.to_str().unwrap(), "--set", "trainer.budget=14st", "--quiet"]).expect(0);
    assert!(!eval.err.contains("begins again"), "{}", eval.err);
}

#[test]
fn a_fork_at_a_step_without_a_checkpoint_names_the_nearest() {
    let desk = Desk::new();
    let parent = finished(&desk);
    let refused = desk.run(&["fork", &format!("{parent}@9"), "--quiet"]).expect(2);
    assert!(refused.err.contains("no checkpoint at step 9; the nearest are 8 and 10"), "{}", refused.err);
    assert_eq!(desk.run(&["runs"]).out.lines().count(), 1, "a refused fork leaves a run behind");
}

#[test]
fn a_done_run_goes_on_with_a_larger_budget_and_keeps_what_it_trains() {
    let desk = Desk::new();
    let id = finished(&desk);
    desk.run(&["resume", &id, "--quiet", "--set", "trainer.budget=20st"]).expect(0);
    let info = RunReader::open(&desk.run_folder()).unwrap().info().unwrap();
    assert_eq!((info.at.step, info.state, info.budget.as_deref()), (20, RunState::Done, Some("20st")));
    let refused = desk.run(&["resume", &id, "--quiet", "--set", "optimizer.lr=0.1"]).expect(2);
    assert!(refused.err.contains("`optimizer.lr`") && refused.err.contains("fork"), "{}", refused.err);
    let refused = desk.run(&["resume", &id, "--at", "step:5"]).expect(2);
    assert!(refused.err.contains("nearest"), "{}", refused.err);
    desk.run(&["resume", "nobody"]).expect(2);
}

#[test]
fn a_model_of_another_shape_is_refused_with_a_report_unless_partial() {
    let desk = Desk::new();
    let id = finished(&desk);
    let fork = format!("{id}@12");
    let wider = ["--set", "model.dense=24", "--set", "trainer.budget=14st", "--quiet"];
    let refused = desk.run(&arguments(&["fork", &fork], &wider)).expect(1);
    assert!(refused.err.contains("another shape") && refused.err.contains("--partial"), "{}", refused.err);
    assert_eq!(desk.run(&["runs"]).out.lines().count(), 1, "a refused fork leaves a run behind");
    desk.run(&arguments(&["fork", &fork, "--partial"], &wider)).expect(0);
    let events = RunReader::open(&desk.run_folder()).unwrap().events_since(0).unwrap();
    assert!(events.iter().any(|event| event.kind == "fork" && event.message.contains("kept")), "{events:?}");
}

/// Starts a run without an end; its first report is there.
fn endless(desk: &Desk) -> Child {
    let path = recipe("digits.ron");
    let more =
        ["--set", "dataset.train=640", "--set", "dataset.test=64", "--set", "trainer.log_every=1st", "--set", "trainer.budget=100000ep"];
    let args = arguments(&["train", &path, "--json", "--device", "cpu", "--set", "trainer.checkpoint_every=100000ep"], &more);
    let mut child = desk.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    // The rest is nobody's; the pipe must not fill up.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    child
}

#[test]
fn a_run_is_paused_stepped_changed_saved_and_stopped_by_commands() {
    let desk = Desk::new();
    let child = endless(&desk);
    let folder = desk.run_folder();
    let reader = RunReader::open(&folder).unwrap();
    let step = || reader.info().unwrap().at.step;
    let ctl = |args: &[&str]| desk.run(&arguments(&["ctl", "last"], args));

    ctl(&["pause"]).expect(0);
    // On disk within a tenth of a second or so.
    let paused_at = wait_for(|| (reader.info().unwrap().state == RunState::Paused).then(step));
    ctl(&["step", "3"]).expect(0);
    wait_for(|| (step() == paused_at + 3).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(step(), paused_at + 3, "a paused run goes on");

    let set = ctl(&["set", "optimizer.lr", "0.0005"]).expect(0);
    assert!(set.out.contains("0.002 -> 0.0005"), "{}", set.out);
    let range = ctl(&["set", "optimizer.lr", "-1"]).expect(1);
    assert!(range.err.contains("lr") && range.err.contains("-1"), "{}", range.err);
    let typo = ctl(&["set", "optimizer.lrr", "1"]).expect(1);
    assert!(typo.err.contains("did you mean `optimizer.lr`?"), "{}", typo.err);
    let not_live = ctl(&["set", "model.hidden", "3"]).expect(1);
    assert!(not_live.err.contains("cannot be changed while the run goes on"), "{}", not_live.err);
    ctl(&["set", "trainer.log_every", "2st"]).expect(0);

    ctl(&["eval"]).expect(0);
    let evaluated = || reader.series("test/loss").unwrap().last().map(|row| row.at.step);
    wait_for(|| (evaluated() == Some(step())).then_some(()));
    ctl(&["checkpoint"]).expect(0);
    let saved = wait_for(|| reader.checkpoints().unwrap().into_iter().find(|row| row.reason == "command"));
    assert!(saved.pinned && saved.at.step == step(), "{saved:?}");

    ctl(&["step"]).expect(0);
    wait_for(|| (step() == paused_at + 4).then_some(()));
    ctl(&["resume"]).expect(0);
    wait_for(|| (step() > paused_at + 10).then_some(()));
    let lr = reader.series("train/lr").unwrap().last().unwrap().value;
    assert!(lr <= 5e-4 * 1.000_001, "the learning rate is still {lr}");
    ctl(&["stop"]).expect(0);
    assert_eq!(ran(child.wait_with_output().unwrap()).code, 3);
    let info = reader.info().unwrap();
    assert_eq!(info.state, RunState::Stopped);
    assert_eq!(reader.latest_good().unwrap().1.info.at.step, info.at.step);
    let gone = ctl(&["pause"]);
    assert_ne!(gone.code, 0);
    assert!(gone.err.contains("stopped"), "{}", gone.err);
    // Every command is an event with who, when, and what was before and is after.
    let events = reader.events_since(0).unwrap();
    for kind in ["pause", "step", "eval", "checkpoint", "resume", "stop"] {
        assert!(events.iter().any(|event| event.kind == kind && !event.who.is_empty() && event.command_id.is_some()), "no event of {kind}");
    }
    let change = events.iter().find(|event| event.kind == "set" && event.message.starts_with("optimizer.lr")).unwrap();
    assert_eq!((change.old.clone(), change.new.clone()), (Some(0.002.into()), Some(0.0005.into())));
    // A run that goes on keeps the value.
    desk.run(&["resume", "last", "--quiet", "--set", &format!("trainer.budget={}st", info.at.step + 2)]).expect(0);
    let lr = reader.series("train/lr").unwrap().last().unwrap().value;
    assert!(lr <= 5e-4 * 1.000_001, "the resumed run forgot the learning rate: {lr}");
}

#[test]
fn a_change_after_the_last_checkpoint_is_made_again_when_the_run_goes_on() {
    let path = recipe("digits.ron");
    let command = [
        "train",
        &path,
        "--quiet",
        "--device",
        "cpu",
        "--set",
        "trainer.budget=1000000st",
        "--set",
        "trainer.checkpoint_every=1000000st",
        "--set",
        "schedule=constant",
    ];
    let desk = Desk::new();
    let child = desk.command(&arguments(&command, &SMALL[..4])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(|| desk.newest_run().filter(|_| desk.run(&["ctl", "last", "pause"]).code == 0));
    let reader = RunReader::open(&desk.run_folder()).unwrap();
    desk.run(&["ctl", "last", "checkpoint"]).expect(0);
    wait_for(|| reader.checkpoints().unwrap().first().cloned());
    desk.run(&["ctl", "last", "step", "2"]).expect(0);
    desk.run(&["ctl", "last", "set", "optimizer.lr", "1e-5"]).expect(0);
    desk.run(&["ctl", "last", "step", "2"]).expect(0);
    let step = wait_for(|| {
        let info = reader.info().unwrap();
        (info.state == RunState::Paused && reader.events_since(0).unwrap().iter().filter(|event| event.kind == "step").count() == 2)
            .then_some(info.at.step)
    });
    desk.run(&["ctl", "last", "checkpoint"]).expect(0);
    let (file, then) = wait_for(|| {
        let row = reader.checkpoints().unwrap().into_iter().find(|row| row.at.step == step)?;
        Some((row.path.clone(), solstice_store::load_checkpoint(&row.path).ok()?))
    });
    let pid = reader.info().unwrap().writer.unwrap().pid;
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    drop(ran(child.wait_with_output().unwrap()));
    // Without the later checkpoint the run goes on from the first one, and the change is made again where it was made.
    std::fs::remove_file(&file).unwrap();
    desk.run(&["resume", "last", "--quiet", "--set", &format!("trainer.budget={step}st")]).expect(0);
    let now = reader.latest_good().unwrap().1;
    assert_eq!(now.info.at.step, step);
    // The end of a run reports, and so clears the accumulators.
    let state = |checkpoint: solstice_store::Checkpoint| -> Vec<_> {
        checkpoint.tensors.into_iter().filter(|tensor| !tensor.name.starts_with("metrics.")).collect()
    };
    assert!(state(now) == state(then), "the run went on without the change");
}

#[test]
fn a_second_process_is_refused_and_the_first_is_left_alone() {
    let desk = Desk::new();
    let child = endless(&desk);
    let refused = desk.run(&["resume", "last", "--quiet"]).expect(2);
    assert!(refused.err.contains("process") && refused.err.contains("only one"), "{}", refused.err);
    desk.run(&["ctl", "last", "stop"]).expect(0);
    assert_eq!(ran(child.wait_with_output().unwrap()).code, 3);
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let desk = Desk::new();
    let id = finished(&desk);
    let connection = rusqlite::Connection::open(desk.run_folder().join("run.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = desk.run(&["resume", &id, "--quiet"]);
    assert!(refused.code != 0 && refused.err.contains("newer"), "{refused:?}");
}

#[test]
fn a_fast_dev_run_tries_everything_and_leaves_nothing() {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let run = desk
        .run(&["train", &path, "--json", "--device", "cpu", "--set", "dataset.train=640", "--set", "dataset.test=640", "--fast-dev-run=3"])
        .expect(0);
    assert_eq!(run.json().last().unwrap()["step"], 3);
    assert!(!run.metric("test/loss").is_empty());
    assert!(!desk.path().join("runs").exists());
}

/// Waits for something that is bound to come.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come within a minute");
}
