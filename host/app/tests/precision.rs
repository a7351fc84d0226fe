//! `trainer.precision: mixed` from the command line to what the run leaves, on the gpu device (Mesa's software Vulkan serves).

mod common;

use common::{Desk, Ran, recipe};

/// A small run; `more` are `--set` values.
fn train(desk: &Desk, device: &str, more: &[&str]) -> Ran {
    let path = recipe("digits.ron");
    let settings = ["dataset=drawn_digits(train: 4096, test: 512)", "model=mlp(hidden: [64, 48])", "trainer.batch_size=64"];
    let mut args = vec!["train", &path, "--json", "--device", device];
    for setting in settings.iter().chain(more) {
        args.extend(["--set", setting]);
    }
    desk.run(&args)
}

const MIXED: &str = "trainer.precision=mixed";

#[test]
fn a_mixed_run_learns_what_an_f32_run_learns() {
    let end = |more: &[&str]| {
        let desk = Desk::new();
        let run = train(&desk, "gpu", &[more, &["trainer.budget=5ep", "trainer.norms=true"]].concat()).expect(0);
        let last = |name: &str| *run.metric(name).last().unwrap_or_else(|| panic!("{name} was not reported"));
        (last("test/accuracy"), last("test/loss"), last("train/grad_norm"), run, desk)
    };
    let single = end(&[]);
    let mixed = end(&[MIXED]);
    // 512 samples: ten of them more or less are noise.
    assert!(single.0 > 0.85, "{} of the test set", single.0);
    assert!((single.0 - mixed.0).abs() <= 0.02, "{} in f32, {} mixed", single.0, mixed.0);
    assert!((single.1 - mixed.1).abs() <= 0.2 * single.1, "loss {} in f32, {} mixed", single.1, mixed.1);
    // Norms are of the gradients, not of the scaled ones.
    assert!((single.2 - mixed.2).abs() <= 0.5 * single.2, "gradients {} in f32, {} mixed", single.2, mixed.2);
    let scales = mixed.3.metric("train/loss_scale");
    assert!(!scales.is_empty() && scales.iter().all(|scale| *scale >= 1.0), "{scales:?}");
    assert!(mixed.3.metric("train/overflows").iter().sum::<f64>() <= 8.0, "{:?}", mixed.3.metric("train/overflows"));
    assert!(single.3.metric("train/loss_scale").is_empty());
    // A checkpoint holds f32 and the scale: nothing that only one precision knows.
    let (single, mixed) = (single.4.last_checkpoint().tensors, mixed.4.last_checkpoint().tensors);
    let names = |tensors: &[solstice_store::Tensor]| -> Vec<(String, Vec<usize>)> {
        let own = |name: &str| name.starts_with("precision.") || name.contains(".loss_scale.") || name.contains(".overflows.");
        tensors.iter().filter(|tensor| !own(&tensor.name)).map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    };
    assert_eq!(names(&single), names(&mixed));
    let scale = mixed.iter().find(|tensor| tensor.name == "precision.loss_scale").expect("the scale is saved");
    assert_eq!(scale.bytes.len(), 4);
}

#[test]
fn a_mixed_fork_is_its_parent() {
    let desk = Desk::new();
    let more = [MIXED, "trainer.budget=12st", "trainer.checkpoint_every=4st", "trainer.keep_last=9", "trainer.accumulate=2"];
    train(&desk, "gpu", &more).expect(0);
    let (parent, state) = (desk.run_folder(), desk.checkpoint());
    let name = parent.file_name().unwrap().to_str().unwrap();
    desk.run(&["fork", &format!("{name}@8"), "--quiet"]).expect(0);
    assert_ne!(desk.run_folder(), parent);
    assert!(state == desk.checkpoint(), "an unchanged fork ends otherwise than its parent");
    assert!(state.contains_key("precision.good_steps") && state.contains_key("precision.overflowed"), "{:?}", state.keys());
    // The precision is no setting of a run that goes on.
    let refused = desk.run(&["resume", name, "--quiet", "--set", "trainer.precision=f32"]).expect(2);
    assert!(refused.err.contains("precision"), "{}", refused.err);
}

#[test]
fn the_cpu_refuses_it_in_one_sentence() {
    let desk = Desk::new();
    let run = train(&desk, "cpu", &[MIXED, "trainer.budget=2st"]).expect(1);
    assert!(
        run.err.contains(
            "`train_step` wants mixed precision, and the CPU device computes in f32 alone: set `trainer.precision` to `f32`, or choose a GPU"
        ),
        "{}",
        run.err
    );
    let wrong = train(&desk, "cpu", &["trainer.precision=f8"]).expect(2);
    assert!(wrong.err.contains("trainer.precision=f8") && wrong.err.contains("mixed"), "{}", wrong.err);
    // `solstice devices` says where it would run.
    let devices = desk.run(&["devices"]).expect(0);
    assert!(devices.out.lines().any(|line| line.ends_with(" f16")), "{}", devices.out);
}

#[test]
fn inspect_shows_which_memory_is_f16() {
    let desk = Desk::new();
    let path = recipe("digits.ron");
    let inspect = |stage: &str, more: &[&str]| desk.run(&[&["inspect", &path, "--stage", stage], more].concat()).expect(0).out;
    let mixed = ["--set", MIXED];
    assert!(!inspect("plan", &[]).contains(":f16@"));
    let plan = inspect("plan", &mixed);
    assert!(plan.contains(":f16@") && plan.contains("precision.loss_scale"), "{plan}");
    assert!(!inspect("wgsl", &[]).contains("f16"));
    assert!(inspect("wgsl", &mixed).contains("enable f16;"));
    assert!(inspect("traced", &mixed).contains("precision.loss_scale"));
}
