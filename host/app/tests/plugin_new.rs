//! `solstice plugin new` makes a crate that builds and whose test passes.

mod common;

use common::{Desk, root};
use std::process::Command;

#[test]
fn a_new_plugin_builds_passes_its_test_and_is_described() {
    let desk = Desk::new();
    let made = desk.run(&["plugin", "new", "night-sky", "--dir", "."]).expect(0);
    assert!(made.out.contains("cargo test"), "{}", made.out);
    let folder = desk.path().join("night-sky");
    // The versions that the workspace has, so that nothing is looked up; a folder of its own, because the profile is another.
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let cargo = |args: &[&str]| {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(args)
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", desk.path().join("target"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tested = cargo(&["test", "--quiet"]);
    assert!(tested.contains("1 passed"), "{tested}");
    cargo(&["build", "--quiet"]);
    let library = desk.path().join("target/debug").join(format!("libnight_sky{}", std::env::consts::DLL_SUFFIX));
    let library = library.to_str().unwrap();
    desk.run(&["plugin", "trust", library]).expect(0);
    let mut describe = desk.command(&["describe", "night-sky"]);
    let described = common::ran(describe.env("SOLSTICE_PLUGIN_PATH", desk.path().join("target/debug")).output().unwrap()).expect(0);
    assert!(described.out.contains("Width of the hidden layer"), "{}", described.out);
    // Nothing is overwritten, and nothing half-made is left.
    let again = desk.run(&["plugin", "new", "night-sky", "--dir", "."]);
    assert!(again.code == 1 && again.err.contains("already there"), "{}", again.err);
    assert!(!desk.path().join(".night-sky.partial").exists());
}
