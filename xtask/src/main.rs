//! `cargo xtask demo | test | bench | endure | reload | setup`: everything that a newcomer or CI types, set-up included.

mod reload;
mod setup;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

const USAGE: &str = "\
cargo xtask demo  [ARGS..]   build, then train experiments/mnist-convnet.ron (ARGS go to `solstice train`)
cargo xtask test  [ARGS..]   install what the tests need, then run every test (ARGS go to `cargo test`)
cargo xtask bench [ARGS..]   build, then time the three benchmark models on each device (ARGS go to `solstice bench`)
cargo xtask endure           a hundred kills, a hundred thousand steps, a full disk (as root: it mounts a small memory disk); minutes
cargo xtask reload [--release]  time a hot reload: edit, build, next step (it edits plugins/mlp and puts it back)
cargo xtask setup            install what the tests need";

/// Exit code of `solstice` when a data set is missing; see `solstice help exit-codes`.
const EXIT_DATA_MISSING: i32 = 5;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match command.as_str() {
        "demo" => demo(&rest),
        "test" => test(&rest),
        "bench" => bench(&rest),
        "endure" => endure(&rest),
        "reload" => reload::reload(&rest),
        "setup" => setup::ensure(setup::Purpose::Test).map(|()| ExitCode::SUCCESS),
        _ => {
            eprintln!("{USAGE}");
            return if command == "help" || command == "--help" { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Builds in release mode and trains the convnet; on drawn digits where MNIST cannot be had.
fn demo(args: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Build)?;
    build_release()?;
    let recipe = root().join("experiments/mnist-convnet.ron");
    let train = |extra: &[&str]| -> Result<ExitStatus> {
        let mut command = Command::new(target().join("release/solstice"));
        command.arg("train").arg(&recipe).args(extra).args(args).current_dir(root());
        command.status().context("cannot start the built `solstice`")
    };
    let status = train(&[])?;
    if status.code() != Some(EXIT_DATA_MISSING) {
        return Ok(exit_code(status));
    }
    eprintln!("MNIST is neither here nor to be downloaded: training on the built-in drawn digits instead.");
    train(&["--set", "dataset=drawn_digits"]).map(exit_code)
}

/// Everything that the tests need, then every test of the workspace.
fn test(args: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Test)?;
    // The end-to-end tests load the plugins as a user would: as libraries beside the binary.
    run(cargo().args(["build", "--workspace"]))?;
    let status = cargo().args(["test", "--workspace"]).args(args).status().context("cannot start cargo")?;
    Ok(exit_code(status))
}

/// The tests of `host/app/tests/endurance.rs`, one after the other, with what they measure.
fn endure(args: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Test)?;
    run(cargo().args(["build", "--workspace"]))?;
    let mut command = cargo();
    command.args(["test", "-p", "solstice-app", "--test", "endurance", "--", "--ignored", "--nocapture", "--test-threads", "1"]).args(args);
    Ok(exit_code(command.status().context("cannot start cargo")?))
}

fn bench(args: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Test)?;
    build_release()?;
    let status = Command::new(target().join("release/solstice")).arg("bench").args(args).current_dir(root()).status()?;
    Ok(exit_code(status))
}

fn build_release() -> Result<()> {
    eprintln!("Building (the first time takes some minutes)..");
    run(cargo().args(["build", "--release", "--workspace", "--exclude", "xtask", "--exclude", "fixture-plugin"]))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` says about this package; build scripts that look at it (`ring`'s) would run again, here and at the next build by hand.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(root());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace").to_path_buf()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
