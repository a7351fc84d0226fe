//! Notes the compiler's name for the plugin manifest; cargo tells it to build scripts only.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=SOLSTICE_RUSTC={}", version.as_deref().map_or("unknown", str::trim));
}
