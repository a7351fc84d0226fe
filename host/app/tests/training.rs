//! Runs from the command line to the store: what a user does and sees.

mod common;

use common::{Desk, prose, ran, recipe, table};
use std::process::Stdio;
use std::time::Duration;

const SMALL: [&str; 6] = ["--set", "dataset.train=640", "--set", "dataset.test=200", "--set", "trainer.log_every=1st"];

fn train(desk: &Desk, recipe_name: &str, more: &[&str]) -> common::Ran {
    let path = recipe(recipe_name);
    let mut args = vec!["train", path.as_str(), "--json"];
    args.extend(more);
    desk.run(&args)
}

#[test]
fn a_run_learns_and_leaves_a_store_a_recipe_and_a_checkpoint() {
    let desk = Desk::new();
    let mut args = SMALL.to_vec();
    args.extend(["--set", "trainer.budget=4ep", "--device", "cpu"]);
    let run = train(&desk, "digits.ron", &args).expect(0);
    let losses = run.metric("train/loss");
    assert_eq!(losses.len(), 40);
    assert!(losses[39] < 0.6 * losses[0], "{losses:?}");
    assert!(run.metric("test/accuracy").last().unwrap() > &0.5);
    let folder = desk.run_folder();
    for file in ["run.sqlite", "recipe.ron", "worker.log"] {
        assert!(folder.join(file).is_file(), "{file} is missing");
    }
    let listed = desk.run(&["runs"]).expect(0).out;
    assert!(listed.contains("done") && listed.contains("step 40/40"), "{listed}");
    // The checkpoint gives the figures that the run ended with.
    let id = folder.file_name().unwrap().to_str().unwrap();
    let eval = desk.run(&["eval", id, "--json", "--device", "cpu"]).expect(0);
    for metric in ["test/loss", "test/accuracy"] {
        assert_eq!(eval.metric(metric).last(), run.metric(metric).last(), "{metric}");
    }
    // The resolved recipe repeats the run.
    let resolved = folder.join("recipe.ron").display().to_string();
    let again = desk.run(&["train", &resolved, "--json", "--device", "cpu"]).expect(0);
    assert_eq!(again.metric("train/loss"), losses);
}

#[test]
fn the_confusion_matrix_of_every_evaluation_is_kept() {
    let desk = Desk::new();
    let mut args = SMALL.to_vec();
    args.extend(["--set", "trainer.budget=2ep", "--device", "cpu"]);
    let run = train(&desk, "digits.ron", &args).expect(0);
    let reader = solstice_store::RunReader::open(&desk.run_folder()).unwrap();
    let matrices = reader.matrices("test/confusion", 0).unwrap();
    assert_eq!(matrices.iter().map(|row| row.at.step).collect::<Vec<_>>(), [10, 20]);
    let accuracies = run.metric("test/accuracy");
    for (matrix, accuracy) in matrices.iter().map(|row| &row.item).zip(accuracies) {
        assert_eq!(matrix.row_labels, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(matrix.column_labels, matrix.row_labels);
        assert_eq!(matrix.cells.iter().sum::<f64>(), 200.0, "each sample counts once");
        let right: f64 = (0..10).map(|class| matrix.cells[class * 11]).sum();
        assert!((right / 200.0 - accuracy).abs() < 1e-6);
    }
    assert!(reader.matrices("train/confusion", 0).unwrap().is_empty());
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    let checkpoint = |more: &[&str]| {
        let desk = Desk::new();
        let mut args = SMALL.to_vec();
        args.extend(["--set", "trainer.budget=13st", "--device", "cpu"]);
        args.extend(more);
        train(&desk, "digits.ron", &args).expect(0);
        desk.checkpoint()
    };
    let first = checkpoint(&[]);
    assert!(first.keys().any(|name| name.starts_with("model.")));
    assert!(first == checkpoint(&[]), "two equal runs differ");
    assert!(first != checkpoint(&["--set", "seed=1"]), "the seed changes nothing");
    let streamed = checkpoint(&["--set", "trainer.resident=false", "--set", "trainer.loader_threads=1"]);
    assert!(first == streamed, "a resident set trains differently");
    assert!(
        streamed == checkpoint(&["--set", "trainer.resident=false", "--set", "trainer.loader_threads=4"]),
        "the number of loader threads changes the run"
    );
}

#[test]
fn the_gpu_repeats_itself_to_the_byte() {
    let checkpoint = || {
        let desk = Desk::new();
        let mut args = SMALL.to_vec();
        args.extend(["--set", "trainer.budget=5st", "--set", "trainer.batch_size=16", "--device", "gpu"]);
        train(&desk, "digits.ron", &args).expect(0);
        desk.checkpoint()
    };
    assert!(checkpoint() == checkpoint(), "two equal runs on the gpu differ");
}

#[test]
fn evaluation_does_not_change_training() {
    let checkpoint = |every: &str| {
        let desk = Desk::new();
        let mut args = SMALL.to_vec();
        let set = format!("trainer.evaluate_every={every}");
        args.extend(["--set", "trainer.budget=12st", "--device", "cpu", "--set", &set]);
        train(&desk, "digits.ron", &args).expect(0);
        let mut tensors = desk.checkpoint();
        tensors.retain(|name, _| !name.starts_with("metrics."));
        tensors
    };
    let never = checkpoint("100ep");
    assert!(never == checkpoint("1st"), "evaluating every step changes the weights");
}

/// First 20 losses of a recipe on the gpu device (Mesa's software Vulkan where there is no other) beside the cpu device.
fn devices_agree(desk: &Desk, recipe_name: &str, more: &[&str]) {
    let losses = |device: &str| {
        let mut args = vec!["--set", "trainer.budget=20st", "--set", "trainer.log_every=1st", "--device", device];
        args.extend(more);
        train(desk, recipe_name, &args).expect(0).metric("train/loss")
    };
    let (cpu, gpu) = (losses("cpu"), losses("gpu"));
    assert_eq!(cpu.len(), 20);
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        // f32 rounding differs in the order of sums; 20 steps of training may amplify it, 1e-4 is the bar of the project.
        assert!((cpu - gpu).abs() <= 1e-4 * cpu.abs().max(1e-3), "step {}: cpu {cpu}, gpu {gpu}", step + 1);
    }
}

#[test]
fn devices_agree_on_the_digits_recipe() {
    devices_agree(
        &Desk::new(),
        "digits.ron",
        &["--set", "dataset.train=640", "--set", "dataset.test=64", "--set", "trainer.batch_size=16"],
    );
}

#[test]
fn devices_agree_on_the_mlp_recipe() {
    let more = ["--set", "dataset=drawn_digits(train: 1280, test: 64)", "--set", "trainer.batch_size=32"];
    devices_agree(&Desk::new(), "mnist-mlp.ron", &more);
}

#[test]
fn devices_agree_on_the_text_recipe() {
    let desk = Desk::new();
    desk.write("prose.txt", &prose());
    let more = [
        "--set",
        "dataset.path=prose.txt",
        "--set",
        "dataset.context=16",
        "--set",
        "model.layers=2",
        "--set",
        "model.width=32",
        "--set",
        "trainer.batch_size=4",
    ];
    devices_agree(&desk, "shakespeare-gpt.ron", &more);
}

#[test]
fn devices_agree_on_the_table_recipe() {
    let desk = Desk::new();
    desk.write("table.csv", &table(600));
    devices_agree(&desk, "housing.ron", &["--set", "dataset.path=table.csv", "--set", "dataset.target=y", "--set", "model.hidden=[32]"]);
}

#[test]
fn a_table_is_fitted() {
    let desk = Desk::new();
    desk.write("table.csv", &table(1500));
    let more =
        ["--set", "dataset.path=table.csv", "--set", "dataset.target=y", "--set", "model.hidden=[32]", "--set", "trainer.budget=20ep"];
    let run = train(&desk, "housing.ron", &more).expect(0);
    // The noise leaves R2 at 0.999 at best.
    assert!(run.metric("val/r2").last().unwrap() > &0.97, "{:?}", run.metric("val/r2"));
}

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// Starts a run of many epochs and waits for its first reported step.
fn start_long_run(desk: &Desk) -> std::process::Child {
    let path = recipe("digits.ron");
    let mut args = vec!["train", path.as_str(), "--json", "--device", "cpu", "--set", "trainer.budget=1000ep"];
    args.extend(SMALL);
    let mut child = desk.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::with_capacity(1, child.stdout.as_mut().unwrap()), &mut first).unwrap();
    assert!(first.contains("train/loss"), "{first}");
    child
}

#[test]
fn control_c_once_finishes_the_step_and_saves() {
    let desk = Desk::new();
    let child = start_long_run(&desk);
    interrupt(&child);
    ran(child.wait_with_output().unwrap()).expect(3);
    let reader = solstice_store::RunReader::open(&desk.run_folder()).unwrap();
    let info = reader.info().unwrap();
    assert_eq!(info.state, solstice_store::RunState::Stopped);
    assert!(info.at.step > 0);
    assert_eq!(desk.last_checkpoint().info.at.step, info.at.step);
}

#[test]
fn control_c_twice_stops_at_once() {
    let desk = Desk::new();
    let child = start_long_run(&desk);
    interrupt(&child);
    // The two signals must not merge into one.
    std::thread::sleep(Duration::from_millis(20));
    interrupt(&child);
    let code = ran(child.wait_with_output().unwrap()).code;
    // A quick machine may have finished the step in between.
    assert!(code == 130 || code == 3, "{code}");
}

#[test]
fn a_run_that_diverges_names_the_first_bad_tensor_and_keeps_the_last_good_state() {
    let desk = Desk::new();
    desk.write("table.csv", &table(600));
    let more = [
        "--set",
        "dataset.path=table.csv",
        "--set",
        "dataset.target=y",
        "--set",
        "model.hidden=[32, 32]",
        "--set",
        "optimizer=sgd(lr: 1e8)",
        "--set",
        "schedule=constant",
        "--set",
        "trainer.log_every=1st",
    ];
    let run = train(&desk, "housing.ron", &more).expect(4);
    assert!(run.err.contains("not finite at step") && run.err.contains("plugins/"), "{}", run.err);
    for (name, bytes) in desk.checkpoint() {
        let finite = bytes.chunks_exact(4).all(|word| f32::from_le_bytes(word.try_into().unwrap()).is_finite());
        assert!(finite || !name.starts_with("model."), "{name} holds a number that is not finite");
    }
    assert!(desk.run(&["runs"]).out.contains("failed"));
}

#[test]
fn plain_lines_when_not_on_a_terminal() {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let mut args = vec!["train", path.as_str(), "--device", "cpu", "--set", "trainer.budget=3st"];
    args.extend(SMALL);
    let run = desk.run(&args).expect(0);
    assert!(run.out.contains("step      3") && run.out.contains("test/accuracy"), "{}", run.out);
    assert!(!run.out.contains('\u{1b}') && !run.err.contains('\u{1b}'), "escape codes in a file");
}
