//! `cargo xtask demo | test | bench | gpu-check | endure | reload | setup`: everything that a newcomer or CI types, set-up included.

mod gpu_check;
mod peers;
mod reload;
mod setup;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

const USAGE: &str = "\
cargo xtask demo  [ARGS..]   build, then train experiments/mnist-convnet.ron and watch it in the dashboard (ARGS go to `solstice train`)
cargo xtask test  [ARGS..]   install what the tests need, then run every test (ARGS go to `cargo test`)
cargo xtask bench [ARGS..]   build, then time the three benchmark models on each device, and the dashboard (ARGS go to `solstice bench`)
cargo xtask bench --peers [LIST] [--models LIST] [--rounds N] [--seconds S] [--json FILE]  the models and products beside Burn, PyTorch, OpenBLAS and
                             the gemm crate in interleaved rounds; LIST chooses, as `burn-cpu,torch` does (a wrong name is answered with all)
cargo xtask gpu-check [--device NAME] [--peak-tflops X] [--output FILE] [--no-tests]  what a GPU reaches, and whether every op is right on it: a report in Markdown
cargo xtask bench dashboard [PART..]  the dashboard alone: open, memory, latency, killed, frames, idle
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
        "gpu-check" => gpu_check::check(&rest),
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

/// Builds in release mode and trains the convnet, with the dashboard over it where there is a display; on drawn digits where MNIST cannot be had.
fn demo(args: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Build)?;
    build_release()?;
    if has_display() {
        return demo_in_window(args);
    }
    eprintln!("There is no display for the dashboard: the run is shown here. `solstice watch` shows it in another terminal.");
    let train = |extra: &[&str]| train_command(extra, args).status().context("cannot start the built `solstice`");
    let status = train(&[])?;
    if status.code() != Some(EXIT_DATA_MISSING) {
        return Ok(exit_code(status));
    }
    eprintln!("{NO_MNIST}");
    train(&DRAWN_DIGITS).map(exit_code)
}

const NO_MNIST: &str = "MNIST is neither here nor to be downloaded: training on the built-in drawn digits instead.";
const DRAWN_DIGITS: [&str; 2] = ["--set", "dataset=drawn_digits"];

fn train_command(extra: &[&str], args: &[String]) -> Command {
    let mut command = Command::new(target().join("release/solstice"));
    command.arg("train").arg(root().join("experiments/mnist-convnet.ron")).args(extra).args(args).current_dir(root());
    command
}

/// Trains in a process of its own, which outlives the window, and opens the dashboard. What the run says goes to a file.
fn demo_in_window(args: &[String]) -> Result<ExitCode> {
    let log = target().join("demo.log");
    let output = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let begin = move |extra: &[&str]| -> std::io::Result<Child> {
        let mut command = train_command(extra, args);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        #[cfg(unix)]
        {
            // A group of its own: neither Ctrl-C nor the end of this terminal reaches it.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        command.spawn()
    };
    let mut run = begin(&[]).context("cannot start the built `solstice`")?;
    eprintln!("A run is under way; its process is {}, what it prints is in {}.", run.id(), log.display());
    eprintln!("It goes on when the window is closed. `solstice runs` lists it, `solstice ctl last stop` ends it.");
    let mut window = Command::new(target().join("release/solstice"));
    let mut window = window.args(["dashboard", "runs"]).current_dir(root()).spawn().context("cannot open the dashboard")?;
    loop {
        if let Some(status) = window.try_wait()? {
            if !status.success() {
                eprintln!("The dashboard did not open; `solstice watch last` shows the run in this terminal.");
            }
            return Ok(exit_code(status));
        }
        if run.try_wait()?.is_some_and(|status| status.code() == Some(EXIT_DATA_MISSING)) {
            eprintln!("{NO_MNIST}");
            run = begin(&DRAWN_DIGITS).context("cannot start the built `solstice`")?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// There is a display to open a window on, as far as the environment tells.
fn has_display() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(any(windows, target_os = "macos")) || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
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
    if let Some((_, parts)) = args.split_first().filter(|(first, _)| *first == "dashboard") {
        return bench_dashboard(parts);
    }
    setup::ensure(setup::Purpose::Test)?;
    build_release()?;
    if peers::are_wanted(args) {
        return peers::bench(args);
    }
    let status = Command::new(target().join("release/solstice")).arg("bench").args(args).current_dir(root()).status()?;
    if !status.success() || !args.is_empty() {
        return Ok(exit_code(status));
    }
    println!();
    bench_dashboard(&[])
}

/// What the dashboard promises, and what it measures here.
fn bench_dashboard(parts: &[String]) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Build)?;
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "-p", "solstice-dashboard", "--example", "bars", "--"]).args(parts);
    Ok(exit_code(command.status().context("cannot start cargo")?))
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
