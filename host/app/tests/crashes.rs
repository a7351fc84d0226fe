//! A plugin that dies takes its worker with it and nothing else: the parent says which call it was.

mod common;
mod fixture;

use common::{Desk, Ran, ran};

const RECIPE: &str = r#"(
    experiment: classification(),
    model: rogue(misdeed: none, width: 2),
    dataset: counting(len: 64),
    optimizer: sgd(lr: 1e-4),
    trainer: (budget: "4st", batch_size: 16, log_every: "1st"),
)"#;

/// Trains with `change` applied to the recipe.
fn train(desk: &Desk, change: &str) -> Ran {
    desk.write("test.ron", RECIPE);
    let mut command = desk.command(&["train", "test.ron", "--json", "--device", "cpu", "--set", change]);
    ran(command.env("SOLSTICE_PLUGIN_PATH", fixture::path().parent().unwrap()).output().unwrap())
}

#[test]
fn good_behaviour_trains() {
    let desk = Desk::new();
    let run = train(&desk, "model.width=2").expect(0);
    assert_eq!(run.metric("train/loss").len(), 4);
}

#[test]
fn a_crash_while_tracing_names_plugin_and_call() {
    for (misdeed, part) in [
        ("segfault", "segmentation fault"),
        ("abort", "abort"),
        ("double_panic", "abort"),
        ("stack_overflow", "signal"),
        ("exit", "ended early with code 0"),
    ] {
        let desk = Desk::new();
        let run = train(&desk, &format!("model.misdeed={misdeed}"));
        assert_eq!(run.code, 6, "{misdeed}: {}", run.err);
        for part in [part, "rogue", "forward"] {
            assert!(run.err.contains(part), "{misdeed}: `{part}` is not in: {}", run.err);
        }
        assert!(!desk.has_runs(), "{misdeed}: a run was left behind");
    }
}

#[test]
fn a_crash_while_filling_leaves_a_readable_run_or_none() {
    for misdeed in ["segfault", "exit"] {
        let desk = Desk::new();
        let run = train(&desk, &format!("dataset.misdeed={misdeed}"));
        assert_eq!(run.code, 6, "{misdeed}: {}", run.err);
        assert!(run.err.contains("counting") && run.err.contains("fill"), "{misdeed}: {}", run.err);
        if desk.has_runs() {
            let reader = solstice_store::RunReader::open(&desk.run_folder()).unwrap();
            assert_eq!(reader.info().unwrap().state, solstice_store::RunState::Lost);
        }
    }
}

#[test]
fn an_error_or_a_panic_is_a_sentence_with_the_authors_line() {
    for (change, part) in [
        ("model.misdeed=panic", "index 7 out of range"),
        ("model.misdeed=error", "wanted to fail"),
        ("model.misdeed=shape_error", "reshape"),
        ("model.misdeed=panic_in_thread", "a thread fell over"),
        ("dataset.misdeed=panic", "index 7 out of range"),
    ] {
        let desk = Desk::new();
        let run = train(&desk, change);
        assert_eq!(run.code, 1, "{change}: {}", run.err);
        assert!(run.err.contains(part) && run.err.contains("fixture-plugin/src/lib.rs:"), "{change}: {}", run.err);
    }
}
