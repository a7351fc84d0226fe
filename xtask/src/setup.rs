//! System packages: which are missing, installed where we may, named with the command where we may not.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the packages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building and training on the CPU.
    Build,
    /// Also the tests of the GPU device, on Mesa's software Vulkan.
    Test,
}

/// One need, how to see that it is met, and the Debian package that meets it.
struct Need {
    package: &'static str,
    why: &'static str,
    only_for_tests: bool,
    is_met: fn() -> bool,
}

const NEEDS: [Need; 3] = [
    Need { package: "build-essential", why: "a C compiler for SQLite", only_for_tests: false, is_met: has_c_compiler },
    Need { package: "libvulkan1", why: "the Vulkan loader", only_for_tests: true, is_met: has_vulkan_loader },
    Need {
        package: "mesa-vulkan-drivers",
        why: "Mesa's software Vulkan, for the tests of the GPU device",
        only_for_tests: true,
        is_met: has_vulkan_driver,
    },
];

/// Installs what is missing, or says which command does.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| (purpose == Purpose::Test || !need.only_for_tests) && !(need.is_met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let reasons: Vec<String> = missing.iter().map(|need| format!("{} ({})", need.package, need.why)).collect();
    let by_hand = format!("sudo apt-get install -y --no-install-recommends {}", packages.join(" "));
    let Some(prefix) = apt_prefix() else {
        bail!(
            "missing: {}. Install with `{by_hand}` (Debian, Ubuntu) or your system's equivalent, then run this again.",
            reasons.join(", ")
        );
    };
    eprintln!("Installing {}..", reasons.join(", "));
    let apt = |args: &[&str]| -> Result<bool> {
        let mut words: Vec<&str> = prefix.to_vec();
        words.push("apt-get");
        words.extend(args);
        let status = Command::new(words[0])
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot start apt-get")?;
        Ok(status.success())
    };
    // A package list may be old or absent; a failed update still leaves a list that may serve.
    let _ = apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&packages);
    if !apt(&install)? {
        bail!("apt-get could not install {}. Try `{by_hand}` by hand and read what it says.", packages.join(", "));
    }
    match missing.iter().find(|need| !(need.is_met)()) {
        Some(need) => bail!("{} is installed, but {} is still not found.", need.package, need.why),
        None => Ok(()),
    }
}

// How apt-get may be called here: as root, or through sudo without a password. `None` where it may not, or is not there.
fn apt_prefix() -> Option<&'static [&'static str]> {
    if !runs("apt-get", &["--version"]) {
        return None;
    }
    let user = Command::new("id").arg("-u").output().ok()?;
    if user.stdout.trim_ascii() == b"0" {
        return Some(&[]);
    }
    runs("sudo", &["-n", "true"]).then_some(&["sudo", "-n"])
}

fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn has_c_compiler() -> bool {
    runs("cc", &["--version"])
}

fn has_vulkan_loader() -> bool {
    has_file_like(&["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"], "libvulkan.so.1")
        || cfg!(not(target_os = "linux"))
}

fn has_vulkan_driver() -> bool {
    // The software driver's manifest is lvp_icd.*.json; any hardware driver serves as well.
    has_file_like(&["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"], ".json") || cfg!(not(target_os = "linux"))
}

fn has_file_like(folders: &[&str], part: &str) -> bool {
    folders
        .iter()
        .filter_map(|folder| Path::new(folder).read_dir().ok())
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains(part))
}
