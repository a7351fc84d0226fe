//! Runs the built `solstice` as a user would, in a folder of its own.

#![allow(dead_code)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary folder to run in.
pub struct Desk {
    folder: tempfile::TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The JSON lines of standard output.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Values of one metric, in order.
    pub fn metric(&self, name: &str) -> Vec<f64> {
        self.json().iter().filter_map(|line| line.get(name)?.as_f64()).collect()
    }
}

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A recipe of `experiments/`.
pub fn recipe(name: &str) -> String {
    root().join("experiments").join(name).display().to_string()
}

impl Desk {
    pub fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command, not yet started; caches and settings stay in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solstice"));
        command
            .args(args)
            .current_dir(self.path())
            .env("SOLSTICE_CONFIG_DIR", self.path().join("config"))
            .env("SOLSTICE_CACHE_DIR", self.path().join("cache"))
            .env_remove("SOLSTICE_DATA")
            .env_remove("SOLSTICE_PLUGIN_PATH")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().unwrap())
    }

    /// Folders of runs; one that a dead worker was about to make has a name with a dot and is none.
    fn run_folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join("runs")).into_iter().flatten().flatten();
        entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).map(|entry| entry.path()).collect()
    }

    /// The folder of the only run, or of the newest.
    pub fn run_folder(&self) -> PathBuf {
        self.run_folders().into_iter().max_by_key(|path| path.metadata().unwrap().modified().unwrap()).expect("there is a run")
    }

    /// The same, if there is one.
    pub fn newest_run(&self) -> Option<PathBuf> {
        self.has_runs().then(|| self.run_folder())
    }

    pub fn has_runs(&self) -> bool {
        !self.run_folders().is_empty()
    }

    pub fn last_checkpoint(&self) -> solstice_store::Checkpoint {
        solstice_store::RunReader::open(&self.run_folder()).unwrap().latest_good().unwrap().1
    }

    /// Bytes of the tensors of the newest checkpoint of the newest run, by name.
    pub fn checkpoint(&self) -> std::collections::BTreeMap<String, Vec<u8>> {
        self.last_checkpoint().tensors.into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect()
    }
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A table whose target is a smooth function of two columns, with noise from a fixed generator.
pub fn table(rows: usize) -> String {
    let mut text = String::from("a,b,kind,y\n");
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31) * 2.0 - 1.0
    };
    for row in 0..rows {
        let (a, b, noise) = (draw(), draw(), draw());
        let kind = ["red", "green", "blue"][row % 3];
        let y = 2.0 * a - b + a * b + (row % 3) as f64 * 0.5 + 0.05 * noise;
        text += &format!("{a:.5},{b:.5},{kind},{y:.5}\n");
    }
    text
}

/// A few thousand characters with some order in them.
pub fn prose() -> String {
    let words = ["the", "sun", "stands", "still", "and", "turns", "north", "again"];
    (0..1200).map(|index| format!("{}{}", words[(index * index + index / 3) % 8], if index % 9 == 8 { ".\n" } else { " " })).collect()
}
