//! Getting the peers: crates built with cargo, PyTorch and NumPy by a virtual environment. What cannot be had is a sentence: what, why, what to do.

use crate::{cargo, root, target};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names a Python of the user's that has torch and numpy.
const VARIABLE: &str = "SOLSTICE_PEERS_PYTHON";

/// The program of the crate in `xtask/peers/{name}`, built in `folder` of the target folder.
pub fn crate_program(name: &str, folder: &str, options: &[&str]) -> Result<PathBuf, String> {
    let manifest = root().join("xtask/peers").join(name).join("Cargo.toml");
    let folder = target().join(folder);
    eprintln!("Building the peer `{name}` (Burn takes many minutes the first time)..");
    let mut command = cargo();
    command
        .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&folder)
        .args(options);
    match command.status() {
        Ok(status) if status.success() => Ok(folder.join("release").join(format!("{name}-peer{}", std::env::consts::EXE_SUFFIX))),
        Ok(_) => Err(format!(
            "{name} is not measured: its crates could not be built, for the reason above. Without a network, `cargo fetch --manifest-path {}` where \
             there is one, and bring cargo's registry here.",
            Path::new("xtask/peers").join(name).join("Cargo.toml").display()
        )),
        Err(error) => Err(format!("{name} is not measured: cargo could not be started ({error}).")),
    }
}

/// A Python with torch, numpy or both, and what its script can time.
#[derive(Clone, Debug)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// What `torch_peer.py --devices list` says.
    pub listing: Value,
}

impl Python {
    /// What stands before the options of every call.
    pub fn arguments(&self) -> Vec<String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        vec![script().to_string_lossy().into_owned(), "--threads".into(), threads.to_string()]
    }

    /// Whether the script can time `device` here, else why not.
    pub fn offers(&self, device: &str) -> Result<(), String> {
        let (what, module) = match device {
            "openblas" => ("openblas", "numpy"),
            "torch-cuda" => ("cuda", "torch with CUDA, and a GPU that it knows"),
            _ => ("torch", "torch"),
        };
        if self.listing[what].is_string() {
            return Ok(());
        }
        Err(format!("{device} is not measured: {} has no {module}.", self.program.display()))
    }
}

fn script() -> PathBuf {
    root().join("xtask/peers/torch_peer.py")
}

/// The Python of `SOLSTICE_PEERS_PYTHON`, else one that imports torch, else an environment made here.
pub fn python() -> Result<Python, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return listed(&named).and_then(|python| complete(python).ok_or_else(|| "it imports neither torch nor numpy".into())).map_err(|why| {
            let path = named.display();
            format!(
                "PyTorch and NumPy are not measured: `{VARIABLE}` names {path}, and {why}. `{path} -m pip install torch numpy` installs them; unset, \
                 an environment is made in the target folder."
            )
        });
    }
    if let Some(python) = child_python() {
        return Ok(python);
    }
    environment().map_err(|why| {
        format!(
            "PyTorch and NumPy are not measured: {why}. With a network, `python3 -m venv DIR` and `DIR/bin/pip install torch numpy` make an \
             environment; `{VARIABLE}=DIR/bin/python` names it."
        )
    })
}

/// The Python that is here without installing anything, if it imports torch.
pub fn child_python() -> Option<Python> {
    let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()).map(PathBuf::from);
    let candidates = named.into_iter().chain(["python3".into(), "python".into(), in_environment()]);
    candidates.filter_map(|program| listed(&program).ok()).find(|python| python.listing["torch"].is_string())
}

fn complete(python: Python) -> Option<Python> {
    (python.listing["torch"].is_string() || python.listing["openblas"].is_string()).then_some(python)
}

/// Asks an interpreter what it has.
fn listed(program: &Path) -> Result<Python, String> {
    let output = Command::new(program).arg(script()).args(["--devices", "list"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|error| format!("it could not be started ({error})"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last().map(serde_json::from_str) {
        Some(Ok(listing)) if output.status.success() => Ok(Python { program: program.into(), listing }),
        _ => Err(format!("it could not run {}", script().display())),
    }
}

fn environment_folder() -> PathBuf {
    target().join("peers/python")
}

fn in_environment() -> PathBuf {
    let program = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    environment_folder().join(program)
}

/// Makes a virtual environment with torch and numpy. PyTorch's own index has wheels without CUDA, a tenth of the size; the usual one comes second.
fn environment() -> Result<Python, String> {
    let folder = environment_folder();
    eprintln!("Making a Python environment with PyTorch and NumPy in {} (a download of some hundred MB)..", folder.display());
    let succeeds = |command: &mut Command| command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let base = if cfg!(windows) { "python" } else { "python3" };
    if !succeeds(Command::new(base).args(["-m", "venv"]).arg(&folder)) {
        return Err(format!("`{base} -m venv` made no environment (Debian and Ubuntu want `apt-get install python3-venv`)"));
    }
    let install = |options: &[&str]| {
        let mut command = Command::new(in_environment());
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]).args(options);
        succeeds(&mut command)
    };
    let has_torch = install(&["torch", "--index-url", "https://download.pytorch.org/whl/cpu"]) || install(&["torch"]);
    if !(has_torch && install(&["numpy"])) {
        return Err("pip could not install torch and numpy, for the reason above (is there a network?)".into());
    }
    listed(&in_environment())
        .and_then(|python| complete(python).ok_or_else(|| "the new environment imports neither torch nor numpy".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_lacks_is_a_sentence() {
        let python = Python { program: "python3".into(), listing: json!({ "torch": "2.15.0+cpu", "cuda": null, "openblas": null }) };
        assert_eq!(python.offers("torch"), Ok(()));
        assert_eq!(python.offers("torch-compile"), Ok(()));
        assert!(python.offers("openblas").unwrap_err().contains("python3 has no numpy"));
        assert!(python.offers("torch-cuda").unwrap_err().contains("no torch with CUDA"));
    }

    #[test]
    fn a_python_that_is_none_is_told_apart() {
        assert!(listed(Path::new("/nonexistent/python")).unwrap_err().contains("could not be started"));
    }
}
