//! `cargo xtask gpu-check`: whether a GPU computes what it should, and how near its peak, in a few minutes and without a network. A report in Markdown.
//!
//! It measures nothing itself: `solstice devices --measure` says what the adapter reaches, `cargo test -p solstice-engine` whether every op is right on it,
//! `solstice bench` how long models, products and convolutions take. What fails becomes a line of the report, and the others are still made.

use crate::peers::{Python, child_python};
use crate::{build_release, cargo, root, setup, target};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Test programs of the engine that run on the first hardware adapter, or on a software one where there is no other.
const TESTS: [&str; 7] = ["gpu_ops", "golden_ops", "golden_optim", "golden_mlp", "fusion", "transforms", "shaders"];

const MODELS: [&str; 3] = ["mlp", "convnet", "gpt"];

/// Products and convolutions: what is square and large, what the models have, what is skinny.
const SWEEP: [&str; 15] = [
    "matmul-256",
    "matmul-512",
    "matmul-1024",
    "matmul-2048",
    "matmul-4096",
    "matmul-8192",
    "matmul-128x784x512",
    "matmul-768x128x512",
    "matmul-64x9216x128",
    "matmul-1x4096x4096",
    "conv-64x32x26-64x3",
    "conv-64x32x26-64x3-input",
    "conv-64x32x26-64x3-weight",
    "conv-32x64x58-64x3",
    "conv-32x256x16-256x3",
];

/// A call that takes longer than this is left out of the sweep, if the chip reaches a twentieth of its peak.
const SECS_A_CALL_MAX: f64 = 1.0;

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Request {
    device: String,
    peak_tflops: Option<f64>,
    output: PathBuf,
    seconds: String,
    tests: bool,
}

fn request(args: &[String]) -> Result<Request> {
    let mut request =
        Request { device: "gpu".into(), peak_tflops: None, output: target().join("gpu-check.md"), seconds: "1".into(), tests: true };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if name == "--no-tests" {
            request.tests = false;
            continue;
        }
        let known = ["--device", "--peak-tflops", "--output", "--seconds", "--no-tests"];
        if !known.contains(&name) {
            bail!("`cargo xtask gpu-check` takes {}, not `{name}`", known.join(", "));
        }
        let value = value.or_else(|| rest.next().cloned()).with_context(|| format!("`{name}` wants a value"))?;
        let number =
            || value.parse::<f64>().ok().filter(|number| *number > 0.0).with_context(|| format!("`{name} {value}` is no number above 0"));
        match name {
            "--device" => request.device = value,
            "--output" => request.output = value.into(),
            "--seconds" => {
                number()?;
                request.seconds = value;
            }
            _ => request.peak_tflops = Some(number()?),
        }
    }
    Ok(request)
}

/// Builds, measures, tests, and leaves the report.
pub fn check(args: &[String]) -> Result<ExitCode> {
    let request = request(args)?;
    setup::ensure(setup::Purpose::Test)?;
    // Downloads only what is not here yet; with everything here it needs no network.
    if !cargo().args(["fetch", "--locked", "--quiet"]).status().is_ok_and(|status| status.success()) {
        bail!(
            "crates that the engine and its tests need are neither here nor to be downloaded. Run `cargo fetch` where there is a network and bring \
             the folder `registry` of its cargo home (`~/.cargo`) here."
        );
    }
    build_release()?;
    let measured = json_of(solstice().args(["devices", "--measure", &request.device, "--json"]))?;
    let peak = request.peak_tflops.map_or(measured["f32_flops"].as_f64().unwrap_or(f64::NAN), |tflops| tflops * 1e12);
    let mut report = heading(&measured, request.peak_tflops);

    let mut tests_passed = true;
    if request.tests {
        eprintln!("Testing every op on the adapter..");
        let (lines, passed) = tests();
        report += &lines;
        tests_passed = passed;
    }

    let mut section = String::from(
        "\n## Products and convolutions\n\nf32, on tensors that stay on the device; a call is one step of `solstice bench`, its launch included.\n\n| | ms a call | GFLOP/s | of the peak |\n|---|---|---|---|\n",
    );
    for name in SWEEP {
        let secs = flops_of(name) / (peak / 20.0);
        if secs > SECS_A_CALL_MAX {
            let _ = writeln!(section, "| {name} | left out: about {secs:.0} s a call on this adapter | | |");
            continue;
        }
        let _ = match bench(name, &request.device, &request.seconds) {
            Ok(figure) => {
                let gflops = figure["gflops_per_sec"].as_f64().unwrap_or(f64::NAN);
                writeln!(section, "| {name} | {:.3} | {gflops:.0} | {:.1} % |", number(&figure, "ms_per_step"), 100.0 * gflops * 1e9 / peak)
            }
            Err(error) => writeln!(section, "| {name} | failed: {error:#} | | |"),
        };
    }
    report += &section;
    report += &models(&request);
    report += "\n## Tensor cores\n\n";
    report += &tensor_cores(&measured);
    print!("{report}");
    std::fs::write(&request.output, &report).with_context(|| format!("cannot write {}", request.output.display()))?;
    eprintln!("\nThe report is in {}.", request.output.display());
    Ok(if tests_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the adapter is and reaches.
fn heading(measured: &Value, peak_tflops: Option<f64>) -> String {
    let text = |name: &str| measured[name].as_str().unwrap_or("-").to_owned();
    let date = Command::new("date")
        .arg("+%F")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let mut report =
        format!("# GPU check\n\n{}, {} ({}), driver {}, {date}.\n", text("name"), text("type"), text("backend"), text("driver"));
    if measured["is_software"] == true {
        report += "\nThis adapter computes in software, on the processor: the figures say how the WGSL does there and nothing of a GPU.\n";
    }
    let micros = |name: &str| format!("{:.2} us", number(measured, name) * 1e6);
    let gflops = |name: &str| measured[name].as_f64().map_or("none".into(), |value| format!("{:.0} GFLOP/s", value / 1e9));
    report += "\n| | |\n|---|---|\n";
    let mut row = |name: &str, value: String| report += &format!("| {name} | {value} |\n");
    if let Some(tflops) = peak_tflops {
        row("peak that percents refer to, as given", format!("{tflops} TFLOP/s"));
    }
    row("f32 multiply-adds in registers", gflops("f32_flops"));
    row("f16 multiply-adds in registers", gflops("f16_flops"));
    row("memory, two reads to a write", format!("{:.1} GB/s", number(measured, "memory_bytes_per_sec") / 1e9));
    row("a dispatch that waits for the one before it", micros("chained_dispatch_secs"));
    row("a dispatch that waits for none", micros("independent_dispatch_secs"));
    row(
        "what the barrier between two costs",
        format!("{:.2} us", (number(measured, "chained_dispatch_secs") - number(measured, "independent_dispatch_secs")) * 1e6),
    );
    row("host time of a dispatch", micros("encode_secs"));
    row("empty submission and back", micros("round_trip_secs"));
    for name in ["features", "limits"] {
        for (name, value) in measured[name].as_object().into_iter().flatten() {
            let value = value.as_bool().map_or(value.to_string(), |has| if has { "yes".into() } else { "no".into() });
            row(name, value);
        }
    }
    report
}

/// Runs the engine's tests; a line for each program, and whether all passed.
fn tests() -> (String, bool) {
    let mut report = String::from("\n## Ops\n\n| tests of the engine | passed | failed |\n|---|---|---|\n");
    let mut all_passed = true;
    for test in TESTS {
        let mut command = cargo();
        command.args(["test", "--offline", "--quiet", "-p", "solstice-engine", "--test", test]).stderr(Stdio::inherit());
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                all_passed = false;
                let _ = writeln!(report, "| {test} | cargo could not be started: {error} | |");
                continue;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let (passed, failed) = counts(&text);
        all_passed &= output.status.success();
        let names = failures(&text);
        let _ = match passed {
            0 if !output.status.success() => writeln!(report, "| {test} | it did not build or crashed | |"),
            _ if failed == 0 => writeln!(report, "| {test} | {passed} | 0 |"),
            _ => writeln!(report, "| {test} | {passed} | {failed}: {} |", names.join(", ")),
        };
        if !output.status.success() {
            eprintln!("{text}");
        }
    }
    (report, all_passed)
}

/// Passed and failed, from the lines in which the test harness sums up.
fn counts(output: &str) -> (usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        let before = |word: &str| {
            let words: Vec<&str> = line.split([' ', ';']).filter(|part| !part.is_empty()).collect();
            words.iter().position(|part| *part == word).and_then(|at| words[at - 1].parse::<usize>().ok()).unwrap_or(0)
        };
        passed += before("passed");
        failed += before("failed");
    }
    (passed, failed)
}

/// Names of failed tests, from the list at the end of the harness's output.
fn failures(output: &str) -> Vec<String> {
    let last = output.rsplit_once("failures:\n").map_or("", |(_, list)| list);
    last.lines().take_while(|line| line.starts_with("    ")).map(|line| line.trim().to_owned()).collect()
}

/// The three models, beside this machine's PyTorch where there is one.
fn models(request: &Request) -> String {
    let python = child_python();
    let torch = python.as_ref().map(|python| if python.listing["cuda"].is_string() { "torch-cuda" } else { "torch" });
    let mut report = String::from("\n## Models\n\n");
    report += &match (&python, torch) {
        (Some(python), Some(device)) => {
            let version = python.listing["torch"].as_str().unwrap_or_default();
            let on = python.listing["cuda"].as_str().unwrap_or("the processor");
            format!("f32, random data; beside PyTorch {version} on {on} (`{device}`), eager, TF32 off.\n\n")
        }
        _ => "f32, random data. No Python here imports torch, so nothing stands beside them; `SOLSTICE_PEERS_PYTHON` may name one.\n\n"
            .to_owned(),
    };
    report += "| model | ms a step | samples/s | kernels | MiB on the device | first step, s | PyTorch, ms a step | its MiB | ours / PyTorch in samples/s |\n|---|---|---|---|---|---|---|---|---|\n";
    for model in MODELS {
        let ours = bench(model, &request.device, &request.seconds);
        let theirs = python.as_ref().zip(torch).map(|(python, device)| torch_figure(python, device, model, &request.seconds));
        let _ = match &ours {
            Ok(ours) => write!(
                report,
                "| {model} | {:.2} | {:.0} | {:.0} | {:.1} | {:.2} |",
                number(ours, "ms_per_step"),
                number(ours, "samples_per_sec"),
                number(ours, "dispatches_per_step"),
                number(ours, "device_memory_mib"),
                number(ours, "first_step_secs")
            ),
            Err(error) => write!(report, "| {model} | failed: {error:#} | | | | |"),
        };
        let _ = match (&ours, theirs) {
            (_, None) => writeln!(report, " - | - | - |"),
            (_, Some(Err(error))) => writeln!(report, " failed: {error:#} | | |"),
            (Ok(ours), Some(Ok(theirs))) if ours["parameters"] != theirs["parameters"] => {
                writeln!(report, " not the same model: {} and {} parameters | | |", ours["parameters"], theirs["parameters"])
            }
            (ours, Some(Ok(theirs))) => {
                let ratio = ours.as_ref().map_or(f64::NAN, |ours| number(ours, "samples_per_sec") / number(&theirs, "samples_per_sec"));
                writeln!(report, " {:.2} | {:.1} | {ratio:.2} |", number(&theirs, "ms_per_step"), number(&theirs, "device_memory_mib"))
            }
        };
    }
    report
}

fn tensor_cores(measured: &Value) -> String {
    let shapes: Vec<&str> = measured["tensor_cores"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match shapes.as_slice() {
        [] => "This adapter offers none (cooperative matrices) through this driver.\n".into(),
        shapes => {
            let test = measured["tensor_core_test"].as_str().unwrap_or("no word of the self-test");
            format!("The adapter offers {}. Mixed precision: {test}.\n", shapes.join(", "))
        }
    }
}

/// Operations of one call, by its name; 0 where that says nothing.
fn flops_of(name: &str) -> f64 {
    let sizes: Vec<f64> = name.split(['-', 'x']).filter_map(|size| size.parse().ok()).collect();
    match (name.split('-').next(), &*sizes) {
        (Some("matmul"), [n]) => 2.0 * n * n * n,
        (Some("matmul"), [rows, inner, columns]) => 2.0 * rows * inner * columns,
        (Some("conv"), [images, channels, side, out, kernel]) => {
            let places = (side - kernel + 1.0) * (side - kernel + 1.0);
            2.0 * images * places * out * channels * kernel * kernel
        }
        _ => 0.0,
    }
}

fn solstice() -> Command {
    let mut command = Command::new(target().join("release/solstice"));
    command.current_dir(root());
    command
}

fn bench(model: &str, device: &str, seconds: &str) -> Result<Value> {
    eprintln!("{model} on {device}");
    json_of(solstice().args(["bench", "--child", "--models", model, "--devices", device, "--seconds", seconds]))
}

fn torch_figure(python: &Python, device: &str, model: &str, seconds: &str) -> Result<Value> {
    eprintln!("{model} by {device}");
    json_of(Command::new(&python.program).args(python.arguments()).args(["--models", model, "--devices", device, "--seconds", seconds]))
}

/// The last line that a program prints, as JSON.
fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{}", crate::peers::last_words(&String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{command:?} printed no figures but `{line}`"))
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_read_and_wrong_ones_answered() {
        let read = |args: &[&str]| request(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&[]).unwrap().device, "gpu");
        let given = read(&["--device", "H200", "--peak-tflops=66.9", "--output", "x.md"]).unwrap();
        assert_eq!((given.device.as_str(), given.peak_tflops, given.output), ("H200", Some(66.9), "x.md".into()));
        let sentence = |args: &[&str]| format!("{:#}", read(args).unwrap_err());
        assert!(sentence(&["--peak-tflops", "fast"]).contains("`--peak-tflops fast`"));
        assert!(sentence(&["--peak"]).contains("not `--peak`"));
        assert!(sentence(&["--device"]).contains("wants a value"));
        assert!(read(&[]).unwrap().tests && !read(&["--no-tests"]).unwrap().tests);
    }

    #[test]
    fn the_test_harness_is_understood() {
        let good =
            "\nrunning 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!((counts(good), failures(good).len()), ((3, 0), 0));
        let bad = "failures:\n\n---- a::b stdout ----\nboom\n\nfailures:\n    a::b\n    c\n\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(counts(bad), (1, 2));
        assert_eq!(failures(bad), ["a::b", "c"]);
        assert_eq!(counts("error: could not compile"), (0, 0));
    }

    #[test]
    fn a_sweep_knows_its_work() {
        assert_eq!(flops_of("matmul-10"), 2000.0);
        assert_eq!(flops_of("matmul-2x3x5"), 60.0);
        assert_eq!(flops_of("conv-64x32x26-64x3-input"), 2.0 * 64.0 * 24.0 * 24.0 * 64.0 * 32.0 * 9.0);
        assert!(SWEEP.iter().all(|name| flops_of(name) > 0.0));
    }

    #[test]
    fn tensor_cores_are_named_or_missed() {
        assert!(tensor_cores(&json!({ "tensor_cores": [] })).contains("none"));
        let test = "tensor cores (self-test passed: 144 products)";
        let some = tensor_cores(&json!({ "tensor_cores": ["16x16x16 f16 -> f32"], "tensor_core_test": test }));
        assert_eq!(some, format!("The adapter offers 16x16x16 f16 -> f32. Mixed precision: {test}.\n"));
    }
}
