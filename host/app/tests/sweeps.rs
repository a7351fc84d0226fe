//! Sweeps and cross-validation from the command line: what is trained, what a restart does not train again, what is ranked, what is refused.

mod common;
mod fixture;

use common::{Desk, Ran, ran, recipe, table};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use solstice_store::{RunReader, RunState, list_runs};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// The digits recipe, shrunk: ten steps an epoch, a small network.
fn small_digits() -> String {
    let text = std::fs::read_to_string(recipe("digits.ron")).unwrap();
    let changes = [
        ("convnet(channels: [16, 32], batch_norm: true, dense: 64, dropout: 0.25)", "mlp(hidden: [16])"),
        ("drawn_digits()", "drawn_digits(train: 640, test: 200)"),
        ("schedule: cosine()", "schedule: constant()"),
        ("budget: \"3ep\"", "budget: \"2ep\""),
    ];
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "digits.ron has changed: no `{from}`");
        text.replace(from, to)
    })
}

/// A desk with the recipe in `experiments/` and a sweep of it in `sweeps/`.
fn desk(sweep: &str) -> Desk {
    let desk = Desk::new();
    desk.write("experiments/small.ron", &small_digits());
    desk.write("sweeps/lr.ron", &format!("(recipe: \"experiments/small.ron\", metric: \"test/loss\", mode: min, {sweep})"));
    desk
}

fn sweep_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["sweep", "sweeps/lr.ron", "--device", "cpu"][..], more].concat()
}

fn sweep(desk: &Desk, more: &[&str]) -> Ran {
    desk.run(&sweep_args(more))
}

/// The only folder in `runs`.
fn sweep_folder(desk: &Desk) -> PathBuf {
    let folders: Vec<PathBuf> = std::fs::read_dir(desk.path().join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

/// The lines of `--table --json` by trial.
fn rows_of(desk: &Desk) -> BTreeMap<u64, Value> {
    let lines = sweep(desk, &["--table", "--json"]).expect(0).json();
    lines.into_iter().map(|line| (line["trial"].as_u64().unwrap(), line)).collect()
}

/// Ids and step counts of the runs of all trials.
fn runs(folder: &Path) -> BTreeMap<String, u64> {
    let trials = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    trials.flat_map(|trial| list_runs(&trial).unwrap()).map(|run| (run.id, run.contents.unwrap().info.at.step)).collect()
}

/// Starts a sweep and waits until its standard error says `text`.
fn start_until(desk: &Desk, more: &[&str], text: &str) -> Child {
    let mut child = desk.command(&sweep_args(more)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(text)), "the sweep ended without `{text}`");
    // Somebody has to read on, or the child would wait.
    std::thread::spawn(move || lines.count());
    child
}

/// Waits until the newest run below `runs_dir` is as wanted; `child`, which trains it, must not end before.
fn wait_for_run(child: &mut Child, runs_dir: &Path, wanted: impl Fn(RunState, u64) -> bool) {
    let newest = || {
        let runs = list_runs(runs_dir).unwrap();
        let info = runs.first().and_then(|run| RunReader::open(&run.path).ok()).and_then(|reader| reader.info().ok());
        info.is_some_and(|info| wanted(info.state, info.at.step))
    };
    loop {
        let ended = child.try_wait().unwrap();
        if newest() {
            return;
        }
        assert!(ended.is_none(), "the sweep ended before {} was as wanted: {ended:?}", runs_dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_grid_is_trained_ranked_and_not_trained_again() {
    let desk =
        desk(r#"search: grid, fields: {"optimizer": choice(["sgd(lr: 0.1)", "sgd(lr: 0.001)"]), "model.hidden": choice([[8], [16]])}"#);
    let first = sweep(&desk, &["--workers", "2", "--json"]).expect(0);
    let lines = first.json();
    assert_eq!(lines.len(), 4);
    let losses: Vec<f64> = lines.iter().map(|line| line["last"].as_f64().unwrap()).collect();
    assert!(losses.is_sorted(), "{losses:?}");
    for (place, line) in lines.iter().enumerate() {
        assert_eq!(
            (line["rank"].as_u64(), line["state"].as_str(), line["step"].as_u64()),
            (Some(place as u64 + 1), Some("done"), Some(20))
        );
        // Both epochs were evaluated; the better of the two is the best.
        assert!(line["best"].as_f64().unwrap() <= line["last"].as_f64().unwrap(), "{line}");
    }
    let by_trial = rows_of(&desk);
    assert_eq!(by_trial[&1]["settings"], serde_json::json!({"optimizer": "sgd(lr: 0.1)", "model.hidden": "[16]"}));
    // A trial is the run that `solstice train` makes of the same settings.
    let alone = ["train", "experiments/small.ron", "--json", "--device", "cpu", "--runs-dir", "alone"];
    let alone = desk.run(&[&alone[..], &["--set", "optimizer=sgd(lr: 0.001)", "--set", "model.hidden=[8]"]].concat()).expect(0);
    assert_eq!(alone.metric("test/loss").last().copied(), by_trial[&2]["last"].as_f64());
    let before = runs(&sweep_folder(&desk));
    let again = sweep(&desk, &["--json"]).expect(0);
    assert_eq!(again.out, first.out);
    assert_eq!(runs(&sweep_folder(&desk)), before);
    let text = sweep(&desk, &["--table"]).expect(0).out;
    assert!(text.starts_with("rank  trial  settings") && text.contains("test/loss") && text.contains("20/20"), "{text}");
    let listed = desk.run(&["runs"]).expect(0).out;
    assert!(listed.contains("sweep-lr-") && !listed.contains("unreadable"), "{listed}");
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    for (fields, parts) in [
        (r#""model.hiden": choice([[8]])"#, vec!["--set model.hiden=[8]", "did you mean `hidden`?"]),
        (r#""trainer.bugdet": choice(["1ep"])"#, vec!["--set trainer.bugdet=1ep", "did you mean `budget`?"]),
        (r#""modle.hidden": choice([[8]])"#, vec!["did you mean `model`?"]),
        (r#""model": choice(["mlp()", "mpl()"])"#, vec!["`mpl`", "did you mean `mlp`?"]),
        (r#""model.dropout": choice([0.5, 1.5])"#, vec!["--set model.dropout=1.5", "0.95"]),
        (r#""optimizer.lr": log_uniform(1e-4, 1e-1)"#, vec!["sweeps/lr.ron:1:", "`optimizer.lr`", "search: random"]),
    ] {
        let desk = desk(&format!("search: grid, fields: {{{fields}}}"));
        let run = sweep(&desk, &[]).expect(2);
        for part in parts {
            assert!(run.err.contains(part), "`{part}` is not in: {}", run.err);
        }
        assert!(!desk.path().join("runs").exists(), "{fields}: something was left behind");
    }
    let desk = desk("search: grid, fields: {\"seed\": range(0, 3)}");
    let run = sweep(&desk, &["--trial", "3"]).expect(2);
    assert!(run.err.contains("trials 0 to 2"), "{}", run.err);
    assert!(!desk.path().join("runs").exists());
    assert!(desk.run(&["sweep", "nowhere.ron"]).expect(2).err.contains("nowhere.ron"));
}

#[test]
fn a_metric_that_no_run_has_ends_the_sweep_after_one_trial() {
    let desk = desk("search: grid, fields: {\"seed\": range(0, 3)}");
    let file = desk.path().join("sweeps/lr.ron");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("test/loss", "test/los")).unwrap();
    let run = sweep(&desk, &[]).expect(1);
    assert!(run.err.contains("did you mean `test/loss`?"), "{}", run.err);
    assert_eq!(runs(&sweep_folder(&desk)).len(), 1);
}

#[test]
fn a_sweep_killed_in_the_middle_goes_on() {
    let desk = desk(r#"search: grid, fields: {"trainer.budget": choice(["1ep", "40ep", "2ep"])}"#);
    let mut child = start_until(&desk, &[], "trial 0 (");
    let folder = sweep_folder(&desk);
    wait_for_run(&mut child, &folder.join("trial-0001"), |_, step| step > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let first = runs(&folder);
    // The trial that was under way does not train on unseen: it saves, or had just finished.
    let state = loop {
        let state = rows_of(&desk)[&1]["state"].as_str().unwrap().to_owned();
        if state != "running" {
            break state;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(state == "stopped" || state == "done", "{state}");
    let rows = sweep(&desk, &["--json"]).expect(0).json();
    assert!(rows.iter().all(|row| row["state"] == "done"), "{rows:?}");
    let steps = |trial: u64| rows_of(&desk)[&trial]["step"].as_u64().unwrap();
    assert_eq!((steps(0), steps(1), steps(2)), (10, 400, 20));
    // The finished trial has the one run that it had.
    let finished = list_runs(&folder.join("trial-0000")).unwrap();
    assert!(finished.len() == 1 && first.contains_key(&finished[0].id), "{first:?}");
}

#[test]
fn control_c_lets_every_trial_save() {
    let desk = desk(r#"search: grid, fields: {"seed": range(0, 3), "trainer.budget": choice(["1000ep"])}"#);
    let mut child = start_until(&desk, &["--workers", "2"], "3 trials in");
    let folder = sweep_folder(&desk);
    for trial in ["trial-0000", "trial-0001"] {
        wait_for_run(&mut child, &folder.join(trial), |_, step| step > 0);
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    ran(child.wait_with_output().unwrap()).expect(3);
    let rows = rows_of(&desk);
    for trial in [0, 1] {
        assert_eq!(rows[&trial]["state"], "stopped");
        let run = RunReader::open(&desk.path().join(rows[&trial]["run"].as_str().unwrap())).unwrap();
        assert_eq!(run.latest_good().unwrap().1.info.at.step, rows[&trial]["step"].as_u64().unwrap());
    }
    assert_eq!(rows[&2]["state"], "pending");
}

#[test]
fn halving_gives_the_best_of_each_rung_more() {
    let desk = desk(
        r#"search: grid, halving: (min: "1ep", max: "4ep", factor: 2),
        fields: {"optimizer": choice(["sgd(lr: 1e-5)", "sgd(lr: 0.1)", "sgd(lr: 1e-3)", "sgd(lr: 0.02)"])}"#,
    );
    let rows = sweep(&desk, &["--workers", "2", "--json"]).expect(0).json();
    let order: Vec<u64> = rows.iter().map(|row| row["trial"].as_u64().unwrap()).collect();
    let rungs: Vec<u64> = rows.iter().map(|row| row["rungs_done"].as_u64().unwrap()).collect();
    let steps: Vec<u64> = rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    // After an epoch the two highest rates are far ahead of the two that hardly move.
    assert_eq!((rungs.as_slice(), steps.as_slice()), (&[3, 2, 1, 1][..], &[40, 20, 10, 10][..]));
    assert!(order[..2].contains(&1) && order[..2].contains(&3) && order[2..] == [2, 0], "{order:?}");
    // What was decided stays decided.
    let before = runs(&sweep_folder(&desk));
    let again = sweep(&desk, &["--json"]).expect(0).json();
    assert_eq!(again, rows);
    assert_eq!(runs(&sweep_folder(&desk)), before);
}

#[test]
fn a_trial_that_crashes_is_named_and_tried_once_more() {
    let desk = Desk::new();
    desk.write(
        "test.ron",
        r#"(experiment: classification(), model: rogue(width: 2), dataset: counting(len: 64), optimizer: sgd(lr: 1e-4),
            trainer: (budget: "2st", batch_size: 16, log_every: "1st"))"#,
    );
    desk.write(
        "crash.ron",
        r#"(recipe: "test.ron", metric: "train/loss", mode: min, search: grid, fields: {"model.misdeed": choice(["none", "segfault"])})"#,
    );
    let run = |tries: Option<u64>| {
        let mut command = desk.command(&["sweep", "crash.ron", "--device", "cpu", "--json"]);
        let rows = ran(command.env("SOLSTICE_PLUGIN_PATH", fixture::path().parent().unwrap()).output().unwrap()).expect(0).json();
        assert_eq!((rows[0]["state"].as_str(), rows[0]["rank"].as_u64()), (Some("done"), Some(1)));
        assert_eq!((rows[1]["state"].as_str(), rows[1]["rank"].as_u64(), rows[1]["tries"].as_u64()), (Some("failed"), None, tries));
        let reason = rows[1]["reason"].as_str().unwrap();
        assert!(reason.contains("segmentation fault") && reason.contains("forward"), "{reason}");
    };
    for tries in [1, 2, 2] {
        run(Some(tries));
    }
}

#[test]
fn an_array_job_runs_the_trials_one_by_one() {
    let desk = desk(r#"search: random(trials: 3, seed: 7), fields: {"optimizer.lr": log_uniform(1e-4, 1e-1)}"#);
    let out = sweep(&desk, &["--export", "slurm", "--workers", "2"]).expect(0).out;
    let script = sweep_folder(&desk).join("array.sbatch");
    assert!(out.contains("sbatch runs/sweep-lr-"), "{out}");
    let text = std::fs::read_to_string(&script).unwrap();
    assert!(text.contains("#SBATCH --array=0-2%2\n"), "{text}");
    assert!(rows_of(&desk).values().all(|row| row["state"] == "pending"));
    // What the queue does, from another folder, with the variable that it sets.
    let mut task = std::process::Command::new("sh");
    task.arg(&script).current_dir("/").env("SLURM_ARRAY_TASK_ID", "1");
    let env = desk.command(&[]);
    task.envs(env.get_envs().filter_map(|(key, value)| Some((key, value?)))).env_remove("SOLSTICE_DATA").env_remove("SOLSTICE_PLUGIN_PATH");
    ran(task.output().unwrap()).expect(0);
    let rows = rows_of(&desk);
    let states: Vec<&str> = rows.values().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["pending", "done", "pending"]);
    let rate: f64 = rows[&1]["settings"]["optimizer.lr"].as_str().unwrap().parse().unwrap();
    assert!((1e-4..1e-1).contains(&rate));
    // The rest at home.
    sweep(&desk, &[]).expect(0);
    assert!(rows_of(&desk).values().all(|row| row["state"] == "done"));
    let halving = self::desk(r#"search: grid, halving: (min: "1ep", max: "4ep", factor: 2), fields: {"seed": range(0, 4)}"#);
    for more in [&["--export", "slurm"][..], &["--trial", "0"]] {
        assert!(sweep(&halving, more).expect(2).err.contains("array job"));
    }
}

#[test]
fn folds_are_averaged_and_not_trained_again() {
    let desk = Desk::new();
    desk.write("small.ron", &small_digits());
    let args =
        ["cross-validate", "small.ron", "--folds", "3", "--workers", "2", "--device", "cpu", "--set", "optimizer=sgd(lr: 0.1)", "--json"];
    let lines = desk.run(&args).expect(0).json();
    for name in ["fold/loss", "fold/accuracy"] {
        let line = lines.iter().find(|line| line["metric"] == name).unwrap_or_else(|| panic!("no {name} in {lines:?}"));
        let values: Vec<f64> = line["folds"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let mean = (values[0] + values[1] + values[2]) / 3.0;
        let std = (values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / 2.0).sqrt();
        // A few roundings of f64.
        assert!((line["mean"].as_f64().unwrap() - mean).abs() < 1e-12 && (line["std"].as_f64().unwrap() - std).abs() < 1e-12, "{line}");
        assert!(name == "fold/accuracy" || (values[0] != values[1] && values[1] != values[2]), "{values:?}");
    }
    let folder = sweep_folder(&desk);
    assert!(folder.file_name().unwrap().to_str().unwrap().starts_with("cv-small-"));
    let before = runs(&folder);
    assert_eq!(before.len(), 3);
    assert_eq!(desk.run(&args).expect(0).json(), lines);
    assert_eq!(runs(&folder), before);
    let text = desk.run(&args[..args.len() - 1]).expect(0).out;
    assert!(text.starts_with("metric") && text.contains("fold 2") && text.contains("fold/loss"), "{text}");
}

#[test]
fn a_failed_fold_is_named() {
    let desk = Desk::new();
    desk.write("table.csv", &table(200));
    desk.write(
        "table.ron",
        r#"(experiment: regression(), model: mlp(hidden: [8]), dataset: csv(path: "table.csv", target: "y"), optimizer: sgd(lr: 1e3),
            trainer: (budget: "40st", batch_size: 32))"#,
    );
    let args = ["cross-validate", "table.ron", "--folds", "2", "--device", "cpu"];
    let run = desk.run(&args).expect(1);
    for part in ["fold 0 failed: not finite", "fold 1 failed: not finite"] {
        assert!(run.out.contains(part), "`{part}` is not in: {}", run.out);
    }
    let typo = desk.run(&[&args[..], &["--set", "model.hiden=[3]"]].concat()).expect(2);
    assert!(typo.err.contains("did you mean `hidden`?"), "{}", typo.err);
    assert!(desk.run(&["cross-validate", "table.ron", "--folds", "1"]).expect(2).err.contains("--folds"));
}
