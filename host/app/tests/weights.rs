//! Weights that leave a run and come into one: `solstice export` and `--init`, as a user meets them.

mod common;

use common::{Desk, Ran, recipe};
use safetensors::SafeTensors;
use solstice_store::{NewCheckpoint, RunReader, Tensor, save_checkpoint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run of six steps, with a checkpoint every three.
fn trained() -> (Desk, String) {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let set = ["dataset.train=128", "dataset.test=64", "trainer.batch_size=16", "trainer.budget=6st", "trainer.checkpoint_every=3st"];
    let mut args = vec!["train", path.as_str(), "--quiet", "--device", "cpu"];
    args.extend(set.iter().flat_map(|field| ["--set", field]));
    desk.run(&args).expect(0);
    let id = desk.run_folder().file_name().unwrap().to_str().unwrap().to_owned();
    (desk, id)
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:09}.safetensors"))
}

/// Shape, type and bytes of each tensor of a file, by another reader than the one that wrote it; and the strings.
fn read(path: &Path) -> (BTreeMap<String, (Vec<usize>, String, Vec<u8>)>, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let dtype = format!("{:?}", view.dtype());
        (name, (view.shape().to_vec(), dtype, view.data().to_vec()))
    });
    (tensors.collect(), header.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// Adds an averaged copy `ema` of every weight but the running statistics to the checkpoint of step 6, as a checkpoint of step 9: each byte one more.
fn add_shadow(run: &Path) {
    let checkpoint_6 = solstice_store::load_checkpoint(&checkpoint(run, 6)).unwrap();
    let mut tensors = checkpoint_6.tensors.clone();
    for tensor in checkpoint_6.tensors.iter().filter(|tensor| tensor.name.starts_with("model.") && !tensor.name.contains("running")) {
        let bytes = tensor.bytes.iter().map(|byte| byte.wrapping_add(1)).collect();
        tensors.push(Tensor { name: format!("shadow.ema.{}", tensor.name), bytes, ..tensor.clone() });
    }
    save_checkpoint(&checkpoint(run, 9), &NewCheckpoint { at: 9.into(), ..checkpoint_6.info }, &tensors).unwrap();
}

#[test]
fn an_export_holds_the_bytes_of_the_checkpoint_under_the_names_that_were_asked_for() {
    let (desk, id) = trained();
    let run = desk.run_folder();
    let out = desk.path().join("out.safetensors");
    let export = |run: &str, more: &[&str]| -> Ran {
        let mut args = vec!["export", run, "-o", "out.safetensors"];
        args.extend(more);
        desk.run(&args)
    };
    let weights = |step: u64| -> BTreeMap<_, _> {
        read(&checkpoint(&run, step)).0.into_iter().filter(|(name, _)| name.starts_with("model.")).collect()
    };

    let shown = export(&id, &[]).expect(0).out;
    let (tensors, strings) = read(&out);
    assert!(tensors.len() >= 8 && tensors == weights(6), "{:?}", tensors.keys());
    assert_eq!((strings["format"].as_str(), strings["run"].as_str(), strings["step"].as_str()), ("pt", id.as_str(), "6"));
    assert_eq!(strings.len(), 3, "strings for people, no state");
    // A line for each tensor and one below.
    assert_eq!(shown.lines().count(), tensors.len() + 2, "{shown}");
    for (name, (shape, _, bytes)) in &tensors {
        let line = shown.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}: {shown}"));
        let cells: Vec<&str> = line.split_whitespace().collect();
        let shape = format!("[{}]", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        assert_eq!(cells, [name.as_str(), &shape, "f32", &bytes.len().to_string()]);
    }
    let last = shown.lines().last().unwrap();
    assert!(last.starts_with(&format!("{} tensors of {id} at step 6 are in out.safetensors", tensors.len())), "{last}");

    export(&format!("{id}@3"), &["--strip-prefix"]).expect(0);
    let (tensors, strings) = read(&out);
    assert_eq!(strings["step"], "3");
    assert!(weights(3) != weights(6), "training changes the weights");
    let stripped: BTreeMap<_, _> = weights(3).into_iter().map(|(name, tensor)| (name["model.".len()..].to_owned(), tensor)).collect();
    assert!(tensors == stripped, "{:?}", tensors.keys());

    export("last@step:6", &["--all"]).expect(0);
    assert!(read(&out).0 == read(&checkpoint(&run, 6)).0);
    assert!(read(&out).0.keys().any(|name| name.starts_with("optimizer.")));

    export(&id, &["--prefix", "optimizer."]).expect(0);
    assert!(read(&out).0.keys().all(|name| name.starts_with("optimizer.")));

    add_shadow(&run);
    export(&id, &["--shadow", "ema"]).expect(0);
    let (tensors, strings) = read(&out);
    assert_eq!((strings["shadow"].as_str(), strings["step"].as_str()), ("ema", "9"));
    let (mut averaged, mut plain) = (0, 0);
    for (name, weight) in weights(6) {
        if name.contains("running") {
            assert!(tensors[&name] == weight, "{name} is not averaged");
            plain += 1;
        } else {
            let bytes: Vec<u8> = weight.2.iter().map(|byte| byte.wrapping_add(1)).collect();
            assert!(tensors[&name] == (weight.0, weight.1, bytes), "{name}");
            averaged += 1;
        }
    }
    assert!(averaged >= 6 && plain >= 2 && tensors.len() == averaged + plain, "{:?}", tensors.keys());
    assert!(!out.with_file_name("out.safetensors.partial").exists());
}

#[test]
fn what_cannot_be_exported_is_a_sentence_and_no_file() {
    let (desk, id) = trained();
    let run = desk.run_folder();
    let refused = |args: &[&str], code: i32| {
        let mut all = vec!["export", "-o", "out.safetensors"];
        all.extend(args);
        let err = desk.run(&all).expect(code).err;
        assert!(!desk.path().join("out.safetensors").exists(), "{args:?}");
        err
    };
    assert!(refused(&["nothing"], 2).contains("no run at runs/nothing"));
    let err = refused(&[&format!("{id}@4")], 1);
    assert!(err.contains("the run has no checkpoint at step 4; the nearest are 3 and 6"), "{err}");
    let err = refused(&[&format!("{id}@soon")], 2);
    assert!(err.contains("`soon` names no checkpoint: say `last`, `best` or `step:N`"), "{err}");
    let err = refused(&[&id, "--prefix", "encoder."], 2);
    assert!(err.contains("no tensor begins with `encoder.`; beginnings there are: ") && err.contains("model"), "{err}");
    let err = refused(&[&id, "--shadow", "ema"], 2);
    assert!(err.contains("the run keeps no averaged copy of its weights"), "{err}");
    add_shadow(&run);
    let err = refused(&[&id, "--shadow", "slow"], 2);
    assert!(err.contains("there is no averaged copy `slow` of these weights; copies there are: ema"), "{err}");
    let err = refused(&[&id, "--all", "--strip-prefix"], 2);
    assert!(err.contains("cannot be used with"), "{err}");
    let err = desk.run(&["export", &id, "-o", "no/such/folder/out.safetensors"]).expect(1).err;
    assert!(err.contains("cannot write the tensors to no/such/folder/out.safetensors"), "{err}");
    // A damaged newest checkpoint gives way to the one before, and that is said.
    for step in [6, 9] {
        std::fs::write(checkpoint(&run, step), "short").unwrap();
    }
    let ran = desk.run(&["export", &id, "-o", "out.safetensors"]).expect(0);
    assert!(ran.err.contains("warning: ") && ran.err.contains("step-000000009") && ran.out.contains("at step 3"), "{}{}", ran.err, ran.out);
    assert!(RunReader::open(&run).unwrap().latest_good().unwrap().1.info.at.step == 3);
}

#[test]
fn a_wrong_renaming_is_found_before_anything_starts() {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let refused = |args: &[&str]| {
        let mut all = vec!["train", path.as_str()];
        all.extend(args);
        let err = desk.run(&all).expect(2).err;
        assert!(!desk.has_runs());
        err
    };
    assert!(refused(&["--init-map", "a.=b."]).contains("--init <FILE>"));
    let err = refused(&["--init", "x.safetensors", "--init-map", "weights"]);
    assert!(err.contains("`weights` is no renaming: write `old.=new.`"), "{err}");
    let err = refused(&["--init", "x.safetensors", "--init-skip", "fc[12"]);
    assert!(err.contains("`fc[12` is no regular expression: unclosed character class"), "{err}");
}

#[test]
fn a_run_begins_with_the_weights_of_a_file() {
    let (desk, id) = trained();
    desk.run(&["export", &id, "-o", "trained.safetensors", "--strip-prefix"]).expect(0);
    let path = recipe("digits.ron");
    let small = ["--set", "dataset.train=64", "--set", "dataset.test=16", "--set", "optimizer=sgd(lr: 0)", "--set", "trainer.budget=1st"];
    let train = |more: &[&str]| {
        let mut args = vec!["train", path.as_str(), "--quiet", "--device", "cpu", "--runs-dir", "new", "--init", "trained.safetensors"];
        args.extend(small);
        args.extend(more);
        desk.run(&args)
    };
    let refused = train(&[]).expect(2);
    assert!(refused.err.contains("no tensor has the name of a weight") && refused.err.contains("--init-map '=model.'"), "{}", refused.err);
    let dry = train(&["--init-map", "=model.", "--init-dry-run"]).expect(0);
    assert!((dry.out + &dry.err).contains("14 of 14 weights match"));
    assert!(!desk.path().join("new").exists(), "a dry run leaves a run behind");
    // A step with a rate of 0 leaves the weights of the file (and moves the running statistics of norms).
    train(&["--init-map", "=model."]).expect(0);
    let run = solstice_store::list_runs(&desk.path().join("new")).unwrap().remove(0).path;
    let weights = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let tensors = RunReader::open(folder).unwrap().latest_good().unwrap().1.tensors;
        let is_weight = |name: &str| name.starts_with("model.") && !name.contains("running");
        tensors.into_iter().filter(|tensor| is_weight(&tensor.name)).map(|tensor| (tensor.name, tensor.bytes)).collect()
    };
    let old = weights(&solstice_store::find_run(&desk.path().join("runs"), &id).unwrap());
    assert!(!old.is_empty() && weights(&run) == old);
    let wider = train(&["--init-map", "=model.", "--set", "model.dense=32"]).expect(2);
    assert!(wider.err.contains("`model.fc1.weight` is f32[32,1568], the file has f32[64,1568]"), "{}", wider.err);
    train(&["--init-map", "=model.", "--set", "model.dense=32", "--partial"]).expect(0);
}
