//! Settings of the trainer, callbacks and cross-validation, from the command line to what the run leaves.

mod common;

use common::{Desk, Ran, recipe};
use solstice_store::RunReader;
use std::collections::BTreeMap;

/// A tiny run on the cpu; `more` are `--set` values.
fn train(desk: &Desk, more: &[&str]) -> Ran {
    let path = recipe("digits.ron");
    let settings = ["dataset=drawn_digits(train: 320, test: 96)", "model=mlp(hidden: [16])", "schedule=constant", "trainer.batch_size=32"];
    let mut args = vec!["train", &path, "--json", "--device", "cpu"];
    for setting in settings.iter().chain(more) {
        args.extend(["--set", setting]);
    }
    desk.run(&args)
}

fn weights(desk: &Desk) -> BTreeMap<String, Vec<f32>> {
    let words = |bytes: &[u8]| bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let tensors = desk.checkpoint().into_iter().filter(|(name, _)| name.starts_with("model."));
    tensors.map(|(name, bytes)| (name, words(&bytes))).collect()
}

#[test]
fn four_batches_a_step_are_one_batch_of_four_times_the_size() {
    let end = |more: &[&str]| {
        let desk = Desk::new();
        // 320 samples: two whole steps and a ragged one of 64 in an epoch.
        train(&desk, &[more, &["trainer.budget=3ep", "optimizer=sgd(lr: 0.1)", "trainer.log_every=1st"]].concat()).expect(0);
        weights(&desk)
    };
    let (parts, whole) = (end(&["trainer.batch_size=32", "trainer.accumulate=4"]), end(&["trainer.batch_size=128"]));
    for (name, values) in &whole {
        for (a, b) in values.iter().zip(&parts[name]) {
            // Sums of the same products in another order, over 9 steps: a few units in the last place of values around 1.
            assert!((a - b).abs() < 2e-6, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn frozen_parameters_stay_and_a_group_without_learning_rate_too() {
    let first = Desk::new();
    train(&first, &["trainer.budget=1st", "optimizer=sgd(lr: 0)"]);
    let desk = Desk::new();
    let run = train(
        &desk,
        &["trainer.budget=1ep", r#"trainer.groups=[(params: "model\\.fc1.*", frozen: true), (params: ".*", rank_max: 1, lr: 0)]"#],
    )
    .expect(0);
    assert!(!run.metric("train/loss").is_empty());
    let names: Vec<String> = weights(&desk).keys().cloned().collect();
    let state = desk.checkpoint();
    assert!(names.iter().any(|name| name.contains("fc1")), "{names:?}");
    assert!(!state.keys().any(|name| name.starts_with("optimizer") && name.contains("fc1")), "a frozen weight has an optimizer's state");
    let wrong = train(&Desk::new(), &[r#"trainer.groups=[(params: "model\\.fd1.*", frozen: true)]"#]).expect(2);
    assert!(wrong.err.contains("fits no parameter") && wrong.err.contains("model.fc1.weight"), "{}", wrong.err);
    let all = train(&Desk::new(), &[r#"trainer.groups=[(params: ".*", frozen: true)]"#]).expect(2);
    assert!(all.err.contains("nothing is left to train"), "{}", all.err);
}

#[test]
fn clipping_bounds_the_update() {
    let desk = Desk::new();
    // With plain descent the norm of an update is the learning rate times the norm of the clipped gradient.
    let run = train(&desk, &["trainer.budget=5st", "optimizer=sgd(lr: 0.5)", "trainer.clip=norm(0.01)", "trainer.log_every=1st"]).expect(0);
    for (update, clipped) in run.metric("train/update_norm").iter().zip(run.metric("train/clipped")) {
        assert!(*update <= 0.005 * 1.001 && clipped == 1.0, "{update} {clipped}");
    }
    let wrong = train(&Desk::new(), &["trainer.clip=norm(-1)"]).expect(2);
    assert!(wrong.err.contains("trainer.clip must be above zero"), "{}", wrong.err);
}

#[test]
fn limits_overfitting_and_splits_with_times_of_their_own() {
    let desk = Desk::new();
    let run =
        train(&desk, &["trainer.limit_train=2st", "trainer.limit_evaluate=0.5ep", "trainer.budget=3ep", "trainer.log_every=1st"]).expect(0);
    assert_eq!(run.json().last().unwrap()["step"], 6, "an epoch has two steps");
    let desk = Desk::new();
    let run =
        train(&desk, &["trainer.overfit_batches=1", "trainer.budget=60st", "trainer.log_every=20st", "optimizer=adam(lr: 1e-2)"]).expect(0);
    let losses = run.metric("train/loss");
    assert!(losses.last().unwrap() < &(0.2 * losses[0]), "one batch is not learnt by heart: {losses:?}");
    let desk = Desk::new();
    let run = train(
        &desk,
        &[
            "trainer.evaluate=[\"test\", \"train\"]",
            "trainer.evaluate_each={\"train\": \"2st\"}",
            "trainer.evaluate_every=4st",
            "trainer.budget=8st",
            "trainer.log_every=100st",
        ],
    )
    .expect(0);
    let steps = |name: &str| -> Vec<u64> {
        run.json().iter().filter(|line| line.get(name).is_some()).map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("test/loss"), [4, 8]);
    assert_eq!(steps("train/precision_macro"), [2, 4, 6, 8]);
}

#[test]
fn early_stopping_ends_the_run_as_done_with_its_reason() {
    let desk = Desk::new();
    let stop = r#"callbacks=[early_stopping(monitor: "test/accuracy", stopping_threshold: 0.0, patience: "1ep")]"#;
    train(&desk, &[stop, "trainer.budget=50ep", "trainer.evaluate_every=3st"]).expect(0);
    let reader = RunReader::open(&desk.run_folder()).unwrap();
    let info = reader.info().unwrap();
    assert_eq!((info.at.step, info.state), (3, solstice_store::RunState::Done));
    assert!(info.state_reason.as_ref().unwrap().contains("test/accuracy"), "{:?}", info.state_reason);
    assert_eq!(reader.latest_good().unwrap().1.info.at.step, 3);
    let wrong = train(&Desk::new(), &[r#"callbacks=[early_stopping(monitor: "val/loss")]"#]).expect(2);
    assert!(wrong.err.contains("no split `val` is evaluated"), "{}", wrong.err);
}

#[test]
fn the_average_of_the_weights_is_evaluated_beside_them_and_exported() {
    let desk = Desk::new();
    let run = train(&desk, &["callbacks=[ema(decay: 0.5)]", "trainer.budget=10st", "trainer.evaluate_every=5st"]).expect(0);
    let (plain, average) = (run.metric("test/loss"), run.metric("test-ema/loss"));
    assert_eq!((plain.len(), average.len()), (2, 2));
    assert_ne!(plain[1], average[1]);
    let state = desk.checkpoint();
    for (name, bytes) in state.iter().filter(|(name, _)| name.starts_with("model.") && name.ends_with("weight")) {
        let copy = &state[&format!("shadow.ema.{name}")];
        assert!(copy.len() == bytes.len() && copy != bytes, "{name}");
    }
    desk.run(&["export", "last", "-o", "average.safetensors", "--shadow", "ema"]).expect(0);
    assert!(desk.path().join("average.safetensors").is_file());
}

#[test]
fn a_search_for_a_learning_rate_ends_with_a_suggestion() {
    let desk = Desk::new();
    let run = train(&desk, &["callbacks=[lr_finder(steps: 60)]", "trainer.budget=100st", "optimizer=sgd(lr: 0.1)"]).expect(0);
    let info = RunReader::open(&desk.run_folder()).unwrap().info().unwrap();
    assert!(
        info.state_reason.as_ref().is_some_and(|reason| reason.contains("suggested learning rate")),
        "{:?} {}",
        info.state_reason,
        run.err
    );
    assert!(info.at.step <= 60);
}

#[test]
fn histograms_pictures_and_marks_reach_the_store() {
    let desk = Desk::new();
    let callbacks = r#"callbacks=[gradient_histogram(every: "4st"), sample_images(count: 4), loss_spike()]"#;
    train(&desk, &[callbacks, "trainer.budget=8st", "trainer.evaluate_every=4st"]).expect(0);
    let reader = RunReader::open(&desk.run_folder()).unwrap();
    let histograms = reader.histograms("gradients/model.fc1.weight", 0).unwrap();
    assert_eq!(histograms.iter().map(|logged| logged.at.step).collect::<Vec<_>>(), [4, 8]);
    let values: u64 = histograms[0].item.counts.iter().sum();
    assert_eq!(values as usize, weights(&desk)["model.fc1.weight"].len());
    let images = reader.images("samples/test", 0).unwrap();
    assert_eq!(images.len(), 2);
    let image = reader.image(images[0].id).unwrap().unwrap().item;
    assert_eq!(&image.data[1..4], b"PNG");
}

#[test]
fn text_is_generated_at_every_evaluation() {
    let desk = Desk::new();
    desk.write("prose.txt", &common::prose());
    let path = recipe("shakespeare-gpt.ron");
    let settings = [
        "dataset.path=prose.txt",
        "dataset.context=16",
        "model.layers=1",
        "model.width=16",
        "trainer.batch_size=4",
        "trainer.budget=6st",
        "trainer.evaluate_every=3st",
        "trainer.limit_evaluate=2st",
        "callbacks=[generate_text(length: 40)]",
    ];
    let mut args = vec!["train", path.as_str(), "--quiet", "--device", "cpu"];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    desk.run(&args).expect(0);
    let texts = RunReader::open(&desk.run_folder()).unwrap().texts("samples/text", 0).unwrap();
    assert_eq!(texts.len(), 2);
    assert!(texts[1].item.chars().count() >= 40, "{:?}", texts[1].item);
}

#[test]
fn a_fold_is_left_out_and_evaluated() {
    let desk = Desk::new();
    let run = train(&desk, &["trainer.fold=(index: 1, count: 4)", "trainer.budget=2ep", "trainer.evaluate=[]"]).expect(0);
    // 240 of 320 samples are left: 8 steps of 32 an epoch.
    assert_eq!(run.json().last().unwrap()["step"], 16);
    assert!(!run.metric("fold/loss").is_empty());
}
