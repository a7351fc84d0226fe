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
        assert!(run.err.contains(part) && run.err.contains("fixture-plugin/src/"), "{change}: {}", run.err);
    }
}

/// Trains a run of twelve steps that saves each, with plugins that watch.
fn watched(desk: &Desk, changes: &[&str], more: &[&str]) -> Ran {
    desk.write("test.ron", RECIPE);
    let mut args =
        vec!["train", "test.ron", "--json", "--device", "cpu", "--set", "trainer.budget=12st", "--set", "trainer.checkpoint_every=1st"];
    changes.iter().for_each(|change| args.extend(["--set", change]));
    args.extend(more);
    fixture_run(desk, &args)
}

fn fixture_run(desk: &Desk, args: &[&str]) -> Ran {
    ran(desk.command(args).env("SOLSTICE_PLUGIN_PATH", fixture::path().parent().unwrap()).output().unwrap())
}

#[test]
fn a_crash_in_the_middle_of_a_run_names_the_call_and_the_run_goes_on_without_the_culprit() {
    for (misdeed, part) in [
        ("segfault", "segmentation fault"),
        ("abort", "abort"),
        ("stack_overflow", "signal"),
        ("exit", "ended early with code 0"),
        ("out_of_memory", "abort"),
        ("loop", "no sign of life for 1 s"),
        ("busy_loop", "no sign of life for 1 s"),
    ] {
        let desk = Desk::new();
        // The culprit's is the first step of the second process: what was saved at the end of the first is on disk, and so is the new budget.
        watched(&desk, &["trainer.budget=200st", "trainer.log_every=50st"], &[]).expect(0);
        let culprit = format!("callbacks=[meddler(at_step: 201, misdeed: {misdeed})]");
        let timeout = if misdeed.ends_with("loop") { "1" } else { "60" };
        let run = fixture_run(
            &desk,
            &["resume", "last", "--json", "--plugin-timeout", timeout, "--set", &culprit, "--set", "trainer.budget=400st"],
        );
        assert_eq!(run.code, 6, "{misdeed}: {}", run.err);
        for part in [part, "meddler", "on_event"] {
            assert!(run.err.contains(part), "{misdeed}: `{part}` is not in: {}", run.err);
        }
        let reader = solstice_store::RunReader::open(&desk.run_folder()).unwrap();
        let saved = reader.latest_good().unwrap().1.info.at.step;
        assert!((200..=201).contains(&saved), "{misdeed}: step {saved}");
        let resumed = fixture_run(&desk, &["resume", "last", "--json", "--set", "callbacks=[]"]).expect(0);
        assert_eq!(resumed.json().last().unwrap()["step"], 400, "{misdeed}");
        assert_eq!(reader.info().unwrap().state, solstice_store::RunState::Done, "{misdeed}");
    }
}

#[test]
fn a_callback_stops_evaluates_saves_and_changes() {
    let with = |action: &str| {
        let desk = Desk::new();
        let callback = format!("callbacks=[meddler(at_step: 5, action: {action})]");
        let run = watched(&desk, &[&callback, "trainer.checkpoint_every=100st", "trainer.evaluate_every=100st"], &[]).expect(0);
        (desk, run)
    };
    let (desk, _) = with("stop");
    let info = solstice_store::RunReader::open(&desk.run_folder()).unwrap().info().unwrap();
    assert_eq!((info.at.step, info.state_reason.as_deref()), (5, Some("the meddler had enough")));
    let (_, run) = with("evaluate");
    let evaluated: Vec<_> = run.json().iter().filter(|line| line.get("test/loss").is_some()).map(|line| line["step"].clone()).collect();
    assert_eq!(evaluated, [5, 12]);
    let (desk, _) = with("checkpoint");
    let rows = solstice_store::RunReader::open(&desk.run_folder()).unwrap().checkpoints().unwrap();
    assert!(rows.iter().any(|row| row.at.step == 5 && row.reason == "meddler"), "{rows:?}");
    let (_, run) = with(r#"set(key: "optimizer.lr", value: 0.25)"#);
    let rates = run.metric("train/lr");
    assert!((rates[4] - 1e-4).abs() < 1e-9 && (rates[5] - 0.25).abs() < 1e-9, "{rates:?}");
    let wrong = watched(&Desk::new(), &[r#"callbacks=[meddler(at_step: 5, action: set(key: "optimizer.lrr", value: 1))]"#], &[]).expect(1);
    assert!(wrong.err.contains("callback `meddler`") && wrong.err.contains("did you mean `optimizer.lr`?"), "{}", wrong.err);
}

#[test]
fn a_callback_that_fails_ends_the_run_with_its_sentence_and_line() {
    for misdeed in ["panic", "error"] {
        let desk = Desk::new();
        let run = watched(&desk, &[&format!("callbacks=[meddler(at_step: 5, misdeed: {misdeed})]")], &[]).expect(1);
        assert!(run.err.contains("meddler") && run.err.contains("fixture-plugin/src/misdeed.rs:"), "{}", run.err);
        assert!(desk.run(&["runs"]).out.contains("failed"));
    }
}

#[test]
fn a_logger_that_is_slow_fails_or_hangs_costs_the_run_nothing() {
    for (logger, warning) in [
        ("sulky(slow_ms: 60000)", None),
        ("sulky(misdeed: loop, after: 2)", None),
        ("sulky(fail: true)", Some("sulky")),
        ("sulky(misdeed: panic, after: 3)", Some("panicked")),
    ] {
        let desk = Desk::new();
        let run = watched(&desk, &[&format!("loggers=[{logger}]")], &["--plugin-timeout", "1"]).expect(0);
        assert_eq!(run.metric("train/loss").len(), 12, "{logger}");
        let warnings: Vec<&str> = run.err.lines().filter(|line| line.starts_with("warning:")).collect();
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{logger}: {warnings:?}");
        assert!(warning.is_none_or(|part| warnings[0].contains(part)), "{logger}: {warnings:?}");
        let events = solstice_store::RunReader::open(&desk.run_folder()).unwrap().events_since(0).unwrap();
        assert!(events.iter().any(|event| event.kind == "logger"), "{logger}: no event says what became of it");
    }
}

#[test]
fn a_logger_that_recovers_says_so_once_and_a_resumed_run_opens_it_again() {
    let desk = Desk::new();
    // Long enough that a busy machine does not hand the logger all of it at once.
    watched(&desk, &["loggers=[sulky(fail_until: 3), csv()]", "trainer.budget=300st"], &[]).expect(0);
    let events = solstice_store::RunReader::open(&desk.run_folder()).unwrap().events_since(0).unwrap();
    let said: Vec<&str> = events.iter().filter(|event| event.kind == "logger").map(|event| event.message.as_str()).collect();
    assert!(said.last().unwrap().contains("works again"), "{said:?}");
    fixture_run(&desk, &["resume", "last", "--quiet", "--set", "trainer.budget=400st"]).expect(0);
    let text = std::fs::read_to_string(desk.run_folder().join("sulky.txt")).unwrap();
    assert!(text.starts_with("0 open") && text.contains("300 open"), "{text}");
    let table = std::fs::read_to_string(desk.run_folder().join("csv/scalars.csv")).unwrap();
    let steps: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    let wanted: Vec<String> = (1..=400).map(|step: u32| step.to_string()).collect();
    assert_eq!(steps, wanted);
}
