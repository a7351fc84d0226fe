//! Every shader is valid WGSL: the files of `/shaders` as they stand, and what the GPU device makes of them. No device is needed for that; what an edited
//! file does to results needs one (`apt-get install mesa-vulkan-drivers` gives one in software).

#[path = "common/device.rs"]
mod device;
#[path = "common/kernels.rs"]
mod kernels;

use device::{Case, bytes_of, numbers_of};
use solstice_engine::Session;
use solstice_engine::gpu::{FILES, GpuRuntime, Sources, Step, Target, adapters, development_dir, launches, naga};
use solstice_engine::reference::Tensor;
use solstice_ir::{DType, Role, TensorType, UnaryOp};
use std::collections::BTreeSet;
use std::path::Path;

/// Parses and validates as strictly as a device does.
fn check(name: &str, text: &str) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}\n{text}", error.emit_to_string(text)));
    let capabilities =
        naga::valid::Capabilities::SUBGROUP | naga::valid::Capabilities::SHADER_FLOAT16 | naga::valid::Capabilities::COOPERATIVE_MATRIX;
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
    let hardware =
        Target { subgroup_size: 32, storage_buffers_max: 32, workgroup_bytes_max: 32_768, ..Target::smallest(&Sources::built_in()) };
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

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Files read from a folder

/// A folder with one shader file: the built-in one with `from`, which stands there once, changed to `to`.
fn folder_with(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let (_, text) = FILES.iter().find(|(file, _)| *file == name).expect("a shader file");
    assert_eq!(text.matches(from).count(), 1, "`{from}` in {name}.wgsl");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("{name}.wgsl"));
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
    std::fs::write(path, text.replace(from, to)).expect("a file is written");
    folder
}

fn sources(folder: &Path) -> Sources {
    Sources::from_dir(folder).unwrap_or_else(|error| panic!("{error}"))
}

/// `sign(x)` of -3, 0 and 5 on a device with these shader files.
fn signs(sources: &Sources) -> Result<Vec<f64>, String> {
    let mut case = Case::new("signs", 1);
    let x = case.given("x", Role::Input, Tensor::from_f64(&TensorType::new(DType::F32, [3]), &[-3.0, 0.0, 5.0]));
    let y = case.unary(UnaryOp::Sign, x);
    case.output("y", y);
    let adapters = adapters();
    let adapter = adapters.first().expect("an adapter: `apt-get install mesa-vulkan-drivers` installs one in software");
    let mut session = Session::new(Box::new(GpuRuntime::with_sources(adapter, sources).expect("the adapter opens")));
    let program = session.load(case.plan(true)).map_err(|error| error.to_string())?;
    let outputs = session.run(program, &[("x", &bytes_of(&case.values["x"]))], &[]).map_err(|error| error.to_string())?;
    Ok(numbers_of(&TensorType::new(DType::F32, [3]), &outputs[0]))
}

const SIGN: &str = "return select(select(0.0, -1.0, x < 0.0), 1.0, x > 0.0);";

#[test]
fn a_file_of_the_folder_takes_the_place_of_the_built_in_one() {
    let doubled = folder_with("lib/math", SIGN, "return 2.0 * select(select(0.0, -1.0, x < 0.0), 1.0, x > 0.0);");
    let edited = sources(doubled.path());
    assert_eq!(edited.changed().collect::<Vec<_>>(), ["lib/math"]);
    assert_ne!(edited, Sources::built_in());
    assert_eq!(signs(&Sources::built_in()), Ok(vec![-1.0, 0.0, 1.0]));
    assert_eq!(signs(&edited), Ok(vec![-2.0, 0.0, 2.0]));
    // A list of all texts, so that a run can say which shaders it used.
    let differing: Vec<&str> = edited.files().zip(FILES).filter(|(one, other)| one.1 != other.1).map(|(one, _)| one.0).collect();
    assert_eq!((differing, edited.files().count()), (vec!["lib/math"], FILES.len()));
}

#[test]
fn the_files_of_this_tree_are_what_is_built_in() {
    assert_eq!(sources(Path::new("/nonexistent")), Sources::built_in());
    let folder = development_dir().expect("tests run in the source tree, with debug assertions");
    assert_eq!(sources(&folder), Sources::built_in());
}

#[test]
fn a_broken_file_is_refused_with_file_and_line() {
    let line = 1 + FILES.iter().find(|(name, _)| *name == "lib/math").unwrap().1.lines().position(|line| line.trim() == SIGN).unwrap();
    for (broken, words) in [
        // Grammar.
        ("return select(select(0.0, -1.0, x < 0.0), 1.0, x > 0.0;", "expected"),
        ("return select(0.0, nonsense, x > 0.0);", "nonsense"),
        // Well-formed, but of the wrong type.
        ("return i32(x);", "sign_f32"),
    ] {
        let folder = folder_with("lib/math", SIGN, broken);
        let error = Sources::from_dir(folder.path()).unwrap_err();
        let place = format!("{}:{line} is not valid WGSL: ", folder.path().join("lib/math.wgsl").display());
        assert!(error.starts_with(&place), "wanted {place}, got {error}");
        assert!(error.lines().next().is_some_and(|sentence| sentence.contains(words)), "`{words}` in {error}");
    }
    let folder = folder_with("lib/math", "fn f32_from_bits", "const HALF: f32 = 0.5;\nfn f32_from_bits");
    let error = Sources::from_dir(folder.path()).unwrap_err();
    assert!(error.contains("lib/math.wgsl:") && error.contains("starts with a function"), "{error}");
}

/// Valid as it stands, but not with what the engine sets.
#[test]
fn a_file_that_does_not_fit_its_kernels_is_an_error_of_loading() {
    let lost = folder_with("map", "const COUNT: u32 = 1000u;", "const NUMBER: u32 = 1000u;\nconst\n    COUNT: u32 = NUMBER;");
    let error = signs(&sources(lost.path())).unwrap_err();
    assert!(error.contains("map.wgsl has no `const COUNT = ..;`"), "{error}");
    // `sign_f32` is known to generated kernels only by the copy of it in the text, so a second one clashes.
    let folder = folder_with("map", "// begin functions", "fn sign_f32(x: f32) -> f32 {\n    return x;\n}\n\n// begin functions");
    let error = signs(&sources(folder.path())).unwrap_err();
    assert!(error.contains("not valid WGSL") && error.contains("sign_f32"), "{error}");
    // A mistake in a line of the file, made by the bindings that the engine writes: `b0` holds vectors there.
    let folder = folder_with("map", "if (i >= COUNT) {", "if (i >= COUNT + 0u * u32(b0[0])) {");
    let map = folder.path().join("map.wgsl");
    let line = 1 + std::fs::read_to_string(&map).unwrap().lines().position(|line| line.contains("0u * u32")).unwrap();
    let mut case = Case::new("ints", 1);
    let x = case.random("x", Role::Input, DType::I32, &[3]);
    let y = case.op(solstice_ir::Op::Convert { to: DType::F32 }, &[x]);
    case.output("y", y);
    let adapters = adapters();
    let runtime = Box::new(GpuRuntime::with_sources(&adapters[0], &sources(folder.path())).expect("the adapter opens"));
    let error = Session::new(runtime).load(case.plan(true)).unwrap_err().to_string();
    assert!(error.contains(&format!("not valid WGSL at {}:{line}: ", map.display())), "{error}");
}
