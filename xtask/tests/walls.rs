//! The walls of the design: who may depend on whom, and which words stand where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Names under `[dependencies]` (not dev-dependencies) of a manifest.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if section.ends_with("dependencies")
            && !section.ends_with("dev-dependencies")
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['=', '.', ' '])
        {
            names.insert(name.trim().to_owned());
        }
    }
    names
}

fn ours(manifest: &str) -> BTreeSet<String> {
    dependencies(&root().join(manifest)).into_iter().filter(|name| name.starts_with("solstice-")).collect()
}

/// Every file of ours below `folder` with one of the endings; the programs in `xtask/peers` are of other frameworks.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with(".git") && !path.ends_with("xtask/peers") {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

/// Rust files that use `word` as an identifier outside comments, relative to the root.
fn users_of(word: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut users = vec![];
    for path in files(&root(), &[".rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let hit = text.lines().map(|line| line.split("//").next().unwrap()).any(|line| {
            line.match_indices(word).any(|(at, _)| {
                let before = line[..at].chars().next_back().is_some_and(|c| is_word(c) || c == '"' || c == '`');
                let after = line[at + word.len()..].chars().next().is_some_and(|c| is_word(c) || c == '"' || c == '`');
                !before && !after
            })
        });
        if hit {
            users.push(path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"));
        }
    }
    users.sort();
    users
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn dependencies_run_one_way() {
    let allowed = [
        ("plugin-api/ir/Cargo.toml", set(&[])),
        ("plugin-api/abi/Cargo.toml", set(&["solstice-ir"])),
        ("plugin-api/macros/Cargo.toml", set(&[])),
        ("plugin-api/Cargo.toml", set(&["solstice-ir", "solstice-plugin-abi", "solstice-plugin-macros"])),
        ("host/engine/Cargo.toml", set(&["solstice-ir"])),
        ("host/store/Cargo.toml", set(&[])),
        ("host/dashboard/Cargo.toml", set(&["solstice-store"])),
        ("host/app/Cargo.toml", set(&["solstice-engine", "solstice-store", "solstice-dashboard", "solstice-plugin-abi", "solstice-ir"])),
    ];
    for (manifest, allowed) in allowed {
        let found = ours(manifest);
        assert!(found.is_subset(&allowed), "{manifest} depends on {:?}", found.difference(&allowed).collect::<Vec<_>>());
    }
}

#[test]
fn plugins_depend_on_the_plugin_api_only() {
    let mut count = 0;
    for manifest in files(&root().join("plugins"), &["Cargo.toml"]) {
        let found: Vec<String> = dependencies(&manifest).into_iter().filter(|name| name.starts_with("solstice-")).collect();
        assert_eq!(found, ["solstice-plugin-api"], "{}", manifest.display());
        count += 1;
    }
    assert!(count > 0, "there are no plugins");
}

#[test]
fn the_engine_knows_no_window_no_command_line_and_no_plugins() {
    let found = dependencies(&root().join("host/engine/Cargo.toml"));
    for word in ["egui", "eframe", "clap", "libloading", "abi_stable", "rusqlite"] {
        assert!(!found.contains(word), "host/engine depends on {word}");
    }
    let store = dependencies(&root().join("host/store/Cargo.toml"));
    for word in ["egui", "eframe", "wgpu", "clap", "libloading"] {
        assert!(!store.contains(word), "host/store depends on {word}");
    }
}

#[test]
fn wgpu_is_named_only_where_the_gpu_is() {
    for user in users_of("wgpu") {
        assert!(
            user.starts_with("host/engine/src/gpu/") || user.starts_with("host/engine/tests/") || user == "xtask/tests/walls.rs",
            "{user} names wgpu"
        );
    }
}

#[test]
fn abi_stable_is_named_only_in_the_abi_crate() {
    for user in users_of("abi_stable") {
        assert!(user.starts_with("plugin-api/abi/") || user == "xtask/tests/walls.rs", "{user} names abi_stable");
    }
}

#[test]
fn unsafe_code_stands_only_at_the_borders() {
    // The border to other code: the ABI and its export macro, the loader, the crash fixture. The border to raw memory: the `gemm` crate's raw interface, and
    // bytes that the GPU's driver takes back from an earlier process. And leave to use what wgpu calls experimental.
    let allowed = [
        "plugin-api/abi/",
        "plugin-api/src/export.rs",
        "host/app/src/loader/",
        "host/app/tests/",
        "host/engine/src/cpu/gemm.rs",
        "host/engine/src/gpu/cooperative.rs",
        "host/engine/src/gpu/pipelines.rs",
    ];
    for user in users_of("unsafe") {
        assert!(allowed.iter().any(|place| user.starts_with(place)) || user == "xtask/tests/walls.rs", "{user} has unsafe code");
    }
}

#[test]
fn the_lock_file_has_one_version_of_each_big_crate() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = value.trim_matches('"').to_owned();
        } else if let Some(value) = line.strip_prefix("version = ") {
            versions.entry(name.clone()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    for big in [
        "wgpu",
        "wgpu-core",
        "wgpu-hal",
        "naga",
        "egui",
        "eframe",
        "rusqlite",
        "rayon",
        "serde",
        "serde_json",
        "ron",
        "image",
        "clap",
        "abi_stable",
    ] {
        let found = versions.get(big).map_or(0, BTreeSet::len);
        assert!(found <= 1, "{found} versions of {big}: {:?}", versions[big]);
    }
    // abi_stable 0.11.3 still wants syn 1 (it is unmaintained); its successor in the tree is all that may stand beside it.
    let syn: Vec<&String> = versions["syn"].iter().filter(|version| !version.starts_with("1.")).collect();
    println!("syn beside abi_stable's own: {syn:?}");
    assert!(syn.len() <= 2, "more versions of syn than the dependencies force: {syn:?}");
}
