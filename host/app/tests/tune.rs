//! `solstice tune`: what it measures, what it keeps, and that runs follow it.

mod common;

use common::{Desk, recipe};
use serde_json::Value;
use std::collections::BTreeSet;

/// A perceptron on a few drawn digits.
const SMALL: [&str; 6] =
    ["--set", "dataset=drawn_digits(train: 640, test: 64)", "--set", "model=mlp(hidden: [64])", "--set", "trainer.batch_size=32"];

fn command<'a>(name: &'a str, path: &'a str, device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[name, path, "--device", device][..], &SMALL, more].concat()
}

/// The `tuning` that the checkpoints of a two-step run on the GPU are stamped with, and what its weights became.
fn trained(desk: &Desk, path: &str) -> (String, Vec<u8>) {
    desk.run(&command("train", path, "gpu", &["--quiet", "--set", "trainer.budget=2st"])).expect(0);
    let weight = desk.checkpoint().remove("model.fc1.weight").expect("the first layer's weight is saved");
    (desk.last_checkpoint().info.metadata["tuning"].clone(), weight)
}

#[test]
fn products_are_measured_once_and_runs_follow_what_was_kept() {
    let desk = Desk::new();
    let path = recipe("mnist-mlp.ron");
    assert_eq!(trained(&desk, &path).0, "", "nothing is measured in a run");
    let first = desk.run(&command("tune", &path, "gpu", &["--json"])).expect(0).json();
    // Forward, and the gradients of both weights and of the hidden layer; evaluation has products of its own.
    assert!(first.len() >= 4, "{first:?}");
    for measured in &first {
        let secs = |name: &str| measured[name].as_f64().unwrap();
        assert!(secs("after_secs") > 0.0 && secs("after_secs") <= secs("before_secs"), "{measured}");
        assert!(measured["candidates"].as_u64().unwrap() >= 1, "{measured}");
    }
    let classes = |measured: &[Value]| measured.iter().map(|line| line["class"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(classes(&first).len(), first.len(), "a class is measured once");

    let (stamp, weight) = trained(&desk, &path);
    assert_ne!(stamp, "");
    let second = desk.run(&command("tune", &path, "gpu", &[])).expect(0);
    assert!(second.out.starts_with("0 classes of products measured"), "{}", second.out);
    assert_eq!(trained(&desk, &path), (stamp, weight), "the same choices give the same bytes");

    let again = desk.run(&command("tune", &path, "gpu", &["--again", "--json"])).expect(0).json();
    assert_eq!(classes(&again), classes(&first));
}

#[test]
fn the_cpu_has_nothing_to_measure() {
    let ran = Desk::new().run(&command("tune", &recipe("mnist-mlp.ron"), "cpu", &[])).expect(1);
    assert!(ran.err.contains("`--device gpu`"), "{}", ran.err);
}
