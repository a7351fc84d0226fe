//! Every shader is valid WGSL: the files of `/shaders` as they stand, and what the GPU device makes of them. No device is needed.

#[path = "common/device.rs"]
mod device;
#[path = "common/kernels.rs"]
mod kernels;

use solstice_engine::gpu::{FILES, Step, Target, launches, naga};
use std::collections::BTreeSet;

/// Parses and validates as strictly as a device does.
fn check(name: &str, text: &str) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}\n{text}", error.emit_to_string(text)));
    let capabilities = naga::valid::Capabilities::SUBGROUP;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {}\n{text}", error.emit_to_string(text)));
}

#[test]
fn every_file_is_valid_on_its_own() {
    for (name, text) in FILES {
        check(name, text);
    }
}

#[test]
fn every_file_of_the_folder_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shaders");
    let mut found = BTreeSet::new();
    for prefix in ["", "lib/"] {
        for entry in std::fs::read_dir(format!("{folder}/{prefix}")).expect("the folder is there") {
            let name = entry.expect("an entry").file_name().into_string().expect("names are UTF-8");
            found.extend(name.strip_suffix(".wgsl").map(|stem| format!("{prefix}{stem}")));
        }
    }
    let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, listed);
}

/// A header says what is read and written, how the grid maps to elements, which bounds hold and whom the kernel must equal.
#[test]
fn every_file_has_a_header() {
    for (name, text) in FILES {
        let header: String = text.lines().take_while(|line| line.starts_with("//")).collect::<Vec<_>>().join("\n");
        for word in ["Input", "utput", "Grid", "Bounds", "CPU twin"] {
            assert!(header.contains(word), "the header of {name}.wgsl does not say `{word}`:\n{header}");
        }
    }
}

fn targets() -> [Target; 4] {
    let hardware = Target { is_software: false, subgroup_size: 32, storage_buffers_max: 32, groups_max: 65535, loop_steps_max: usize::MAX };
    let software = Target { is_software: true, subgroup_size: 8, loop_steps_max: 60_000, ..hardware.clone() };
    [
        Target { subgroup_size: 1, ..software.clone() },
        // So few workgroups that every grid is folded.
        Target { groups_max: 3000, ..hardware.clone() },
        hardware,
        software,
    ]
}

#[test]
fn what_the_device_makes_of_them_is_valid() {
    let mut texts = BTreeSet::new();
    for case in kernels::elementwise().into_iter().chain(kernels::every_other_kernel()) {
        for target in targets() {
            for fuse in [false, true] {
                let plan = case.plan(fuse);
                let launches = launches(&plan, &target).unwrap_or_else(|error| panic!("{}: {error}\n{plan}", case.graph.name));
                for step in &launches.steps {
                    let Step::Launch { label, wgsl, grid, .. } = step else { continue };
                    assert!(grid.iter().all(|&groups| groups as usize <= target.groups_max), "{label}: {grid:?}");
                    if texts.insert(wgsl.clone()) {
                        check(label, wgsl);
                    }
                }
            }
        }
    }
    // A guard that the cases above still reach the emitters.
    assert!(texts.len() > 100, "only {} different texts", texts.len());
}
