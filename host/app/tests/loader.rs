//! The loader against real files: good plugins, misbehaving ones, and files that are no plugins at all.
//!
//! `fixture-plugin` (beside this file) is built when it is missing or older than its source.

mod fixture;
#[path = "../src/loader/mod.rs"]
#[allow(dead_code, unused_imports)]
mod loader;

use loader::{Catalog, HostServices, LoadError, Loader, PluginError, SearchDir, set_host_services};
use solstice_ir::{DType, Graph, TensorType};
use solstice_plugin_abi::wire::{FieldRole, Kind, NamedType, StepRequest, TraceRequest};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    /// A loader of its own that trusts `plugins/` below this place.
    fn loader(&self) -> Loader {
        let loader = Loader {
            config_dir: self.path("config"),
            cache_dir: self.path("cache"),
            trusted_dirs: vec![self.path("plugins")],
            search_dirs: vec![],
        };
        std::fs::create_dir_all(self.path("plugins")).unwrap();
        loader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The fixture, with text of its manifest replaced by text of the same length.
    fn patched(&self, name: &str, from: &str, to: &str) -> PathBuf {
        assert_eq!(from.len(), to.len());
        let mut bytes = fixture::bytes();
        let at = bytes.windows(16).position(|window| window == b"solstice-plugin\n").expect("the fixture has a manifest");
        let manifest = &mut bytes[at..at + 1024];
        let at = manifest.windows(from.len()).position(|window| window == from.as_bytes()).expect("the manifest has that text");
        manifest[at..at + to.len()].copy_from_slice(to.as_bytes());
        self.write(&format!("plugins/{name}"), &bytes)
    }

    fn fixture(&self) -> PathBuf {
        self.write("plugins/libfixture_plugin.so", &fixture::bytes())
    }
}

fn refusal(loader: &Loader, path: &Path) -> String {
    match loader.load(path) {
        Err(PluginError::Load { reason, .. }) => reason.to_string(),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("{} was loaded", path.display()),
    }
}

fn x() -> TraceRequest {
    let ty = TensorType::new(DType::F32, [4, 5]);
    TraceRequest { inputs: vec![NamedType { name: "x".into(), ty }], training: true, ..TraceRequest::default() }
}

// ---- files ---------------------------------------------------------------------------------------------------------------------------------

#[test]
fn files_that_are_no_plugins_are_refused_in_a_sentence() {
    let place = Place::new();
    let loader = place.loader();
    let cases = [
        (place.write("plugins/libtext.so", b"hello, I am a text"), "it is not a library: its first bytes belong to no known format"),
        (place.write("plugins/libempty.so", b""), "it is not a library: its first bytes belong to no known format"),
        (place.path("plugins/libabsent.so"), "it cannot be read: No such file or directory (os error 2)"),
        (place.path("plugins"), "it is no regular file"),
    ];
    for (path, wanted) in cases {
        assert_eq!(refusal(&loader, &path), wanted);
    }
    let libm = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    if let Some(libm) = libm.iter().map(Path::new).find(|path| path.exists()) {
        let message = refusal(&loader, libm);
        assert!(message.starts_with("it is a library, but no Solstice plugin"), "{message}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_never_reaches_the_system() {
    let place = Place::new();
    let loader = place.loader();
    let bytes = fixture::bytes();
    let size = bytes.len();
    for length in [1, 3, 4, 63, 64, 4096, 100_000, size / 2, size - 20_000, size - 100, size - 1] {
        let message = refusal(&loader, &place.write("plugins/libcut.so", &bytes[..length]));
        assert!(message.starts_with("it is not a library") || message.starts_with("it is damaged or cut off"), "{length} bytes: {message}");
    }
}

#[test]
fn a_plugin_for_another_processor_says_so() {
    let place = Place::new();
    let mut bytes = fixture::bytes();
    // e_machine of an ELF file: RISC-V, which no test machine of ours is.
    bytes[18..20].copy_from_slice(&243u16.to_le_bytes());
    let message = refusal(&place.loader(), &place.write("plugins/libforeign.so", &bytes));
    assert!(message.starts_with("it is built for Riscv64 Elf, this machine is "), "{message}");
}

#[test]
fn versions_that_do_not_fit_are_refused_and_say_which_side_to_update() {
    let place = Place::new();
    let loader = place.loader();
    let host = solstice_plugin_abi::ABI_VERSION;
    let message = refusal(&loader, &place.patched("libmajor.so", "abi=1.1.0", "abi=2.0.0"));
    assert_eq!(message, format!("built for plugin ABI 2.0.0, this host has {host}: update Solstice, or build the plugin against {host}"));
    let message = refusal(&loader, &place.patched("libminor.so", "abi=1.1.0", "abi=1.9.0"));
    assert_eq!(message, format!("built for plugin ABI 1.9.0, this host has {host}: update Solstice, or build the plugin against {host}"));
    let message = refusal(&loader, &place.patched("libold.so", "abi=1.1.0", "abi=0.9.0"));
    assert_eq!(message, format!("built for plugin ABI 0.9.0, this host has {host}: rebuild the plugin"));
}

#[test]
fn a_plugin_from_somewhere_is_refused_until_it_is_trusted() {
    let place = Place::new();
    let loader = Loader { trusted_dirs: vec![], ..place.loader() };
    let path = place.patched("libdownloaded.so", "version=0.1.0", "version=0.7.1");
    let message = refusal(&loader, &path);
    assert!(message.contains("not trusted yet") && message.contains(&format!("solstice plugin trust {}", path.display())), "{message}");
    assert_eq!(loader.trust(&path).unwrap().name, "fixture-plugin");
    assert_eq!(loader.load(&path).unwrap().manifest.version, "0.7.1");
    // Another file at the same place is another program.
    let path = place.patched("libdownloaded.so", "version=0.1.0", "version=0.7.2");
    assert!(refusal(&loader, &path).contains("not trusted yet"));
    assert_eq!(loader.trusted().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_file_that_anybody_may_write_is_refused_even_where_we_trust() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let loader = place.loader();
    let path = place.fixture();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let message = refusal(&loader, &path);
    assert!(message.contains("can be written by everybody"), "{message}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(place.path("plugins"), PermissionsExt::from_mode(0o777)).unwrap();
    let message = refusal(&loader, &path);
    assert!(message.contains("can be written by everybody"), "{message}");
}

#[test]
fn the_loaded_copy_does_not_mind_what_happens_to_the_file() {
    let place = Place::new();
    let loader = place.loader();
    let path = place.patched("librebuilt.so", "version=0.1.0", "version=0.8.1");
    let first = loader.load(&path).unwrap();
    let model = first.create_traced(Kind::Model, "rogue", "").unwrap();
    // Overwriting a loaded library in place kills a process that runs it.
    std::fs::write(&path, vec![0; fixture::bytes().len()]).unwrap();
    assert_eq!(model.trace("forward", &x()).unwrap().outputs[0].name, "y");
    place.patched("librebuilt.so", "version=0.1.0", "version=0.8.2");
    let second = loader.load(&path).unwrap();
    assert_eq!((first.manifest.version.as_str(), second.manifest.version.as_str()), ("0.8.1", "0.8.2"));
    assert_eq!(
        model.trace("forward", &x()).unwrap(),
        second.create_traced(Kind::Model, "rogue", "").unwrap().trace("forward", &x()).unwrap()
    );
}

// ---- many plugins --------------------------------------------------------------------------------------------------------------------------

#[test]
fn many_plugins_in_one_process_each_stay_themselves() {
    let place = Place::new();
    let loader = place.loader();
    let versions = ["1.1.1", "2.2.2", "3.3.3", "4.4.4", "5.5.5"];
    let plugins: Vec<_> = versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            if index == 2 {
                // A refused one in between does no harm to those after it.
                refusal(&loader, &place.patched("libbad.so", "abi=1.1.0", "abi=3.0.0"));
            }
            let path = place.patched(&format!("libmany_{index}.so"), "version=0.1.0", &format!("version={version}"));
            loader.load(&path).unwrap()
        })
        .collect();
    for (plugin, version) in plugins.iter().zip(versions) {
        assert_eq!(plugin.manifest.version, version);
        assert_eq!(plugin.components().unwrap().len(), 5);
    }
    // The same content is one library, wherever it lies.
    let again = place.patched("libagain.so", "version=0.1.0", "version=1.1.1");
    assert!(Arc::ptr_eq(&plugins[0], &loader.load(&again).unwrap()));
}

#[test]
fn discovery_lists_plugins_with_kinds_and_refusals_with_reasons() {
    let place = Place::new();
    place.loader();
    place.fixture();
    place.write("plugins/libtext.so", b"no");
    place.write("plugins/notes.txt", b"not even named like a library");
    place.patched("libfuture.so", "abi=1.1.0", "abi=1.7.0");
    place.write("build/libtext.so", b"no");
    place.write("build/libsame.so", &fixture::bytes());
    let search = |dir: &str, mixed| SearchDir { path: place.path(dir), mixed };
    let loader = Loader { search_dirs: vec![search("plugins", false), search("build", true), search("absent", false)], ..place.loader() };
    // Twice: the second time from the notes of the first.
    for _ in 0..2 {
        let catalog = Catalog::new(loader.clone(), &[]);
        let names: Vec<&str> = catalog.found().iter().map(|found| found.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["libfixture_plugin.so", "libfuture.so", "libtext.so"]);
        let [fixture, future, text] = catalog.found() else { unreachable!() };
        assert_eq!((fixture.name(), fixture.version(), &fixture.refusal), ("fixture-plugin", "0.1.0", &None));
        assert_eq!(fixture.kinds(), [Kind::Experiment, Kind::Model, Kind::Dataset, Kind::Callback, Kind::Logger]);
        assert!(matches!(future.refusal, Some(LoadError::Version(_))));
        assert!(matches!(text.refusal, Some(LoadError::NotALibrary(_))));
        let ids: Vec<String> = catalog.components().into_iter().map(|info| info.id).collect();
        assert_eq!(ids, ["watching", "rogue", "counting", "meddler", "sulky"]);
    }
}

#[test]
fn the_catalog_finds_components_and_guesses_what_was_meant() {
    let place = Place::new();
    let loader = Loader { search_dirs: vec![SearchDir { path: place.path("plugins"), mixed: false }], ..place.loader() };
    place.fixture();
    let catalog = Catalog::new(loader, &[]);
    assert_eq!(catalog.plugin(Kind::Model, "rogue").unwrap().manifest.name, "fixture-plugin");
    let problem = |kind, id| catalog.plugin(kind, id).err().unwrap().to_string();
    assert_eq!(problem(Kind::Model, "rouge"), "no plugin offers the model `rouge`, did you mean `rogue`?");
    assert_eq!(problem(Kind::Dataset, "rogue"), "no plugin offers the dataset `rogue`; there is a model of that name");
    assert_eq!(problem(Kind::Model, "transformer"), "no plugin offers the model `transformer`; there are rogue");
}

#[test]
fn a_description_carries_docs_defaults_and_ranges() {
    let place = Place::new();
    let plugin = place.loader().load(&place.fixture()).unwrap();
    let info = plugin.components().unwrap().iter().find(|info| info.id == "rogue").unwrap();
    assert_eq!(info.doc, "A dense layer that may misbehave.");
    assert_eq!(info.defaults, serde_json::json!({ "width": 3, "misdeed": "none" }));
    assert_eq!(info.schema["properties"]["width"]["maximum"], 64);
}

// ---- calls ---------------------------------------------------------------------------------------------------------------------------------

#[test]
fn settings_are_checked_by_the_plugin_and_filled_in() {
    let place = Place::new();
    let plugin = place.loader().load(&place.fixture()).unwrap();
    let check = |text: &str| plugin.validate_config(Kind::Model, "rogue", text);
    assert_eq!(check("(width: 8)").unwrap(), serde_json::json!({ "width": 8, "misdeed": "none" }));
    assert_eq!(check(r#"{"misdeed": "panic"}"#).unwrap()["misdeed"], "panic");
    let problem = |text: &str| check(text).unwrap_err().to_string();
    assert_eq!(problem("(width: 0)"), "model `rogue` (plugin `fixture-plugin`): `width` must be at least 1, got 0");
    assert!(problem("(widht: 1)").contains("line 1, column 2: unknown field `widht`, did you mean `width`?"));
    let unknown = plugin.validate_config(Kind::Model, "rouge", "").unwrap_err().to_string();
    assert!(unknown.contains("the plugin has no model `rouge`, did you mean `rogue`?"), "{unknown}");
}

#[test]
fn a_model_gives_a_verified_graph() {
    let place = Place::new();
    let model = place.loader().load(&place.fixture()).unwrap().create_traced(Kind::Model, "rogue", "(width: 7)").unwrap();
    let graph = model.trace("forward", &x()).unwrap();
    assert_eq!(graph.ty(graph.output("y").unwrap()).shape, [4, 7]);
    let error = model.trace("backward", &x()).unwrap_err().to_string();
    assert!(error.contains("has no entry `backward`; it has forward"), "{error}");
}

#[test]
fn errors_and_panics_come_back_with_the_authors_line() {
    let place = Place::new();
    let plugin = place.loader().load(&place.fixture()).unwrap();
    let problem = |misdeed: &str| {
        let model = plugin.create_traced(Kind::Model, "rogue", &format!("(misdeed: {misdeed})")).unwrap();
        model.trace("forward", &x()).unwrap_err()
    };
    let start = "model `rogue` (plugin `fixture-plugin`), forward: ";
    for (misdeed, message) in [
        ("error", "wanted to fail, and did"),
        ("panic", "panicked: index 7 out of range"),
        ("panic_in_thread", "panicked: a thread fell over"),
        ("shape_error", "reshape"),
    ] {
        let error = problem(misdeed);
        let text = error.to_string();
        assert!(text.starts_with(&format!("{start}{message}")), "{text}");
        assert!(error.location().contains("fixture-plugin/src/"), "{text}");
        assert!(text.ends_with(&format!(" ({})", error.location())), "{text}");
    }
    assert!(matches!(problem("panic"), PluginError::Call { panicked: true, backtrace, .. } if !backtrace.is_empty()));
    // A panic in `Drop` is printed and goes no further.
    drop(plugin.create_traced(Kind::Model, "rogue", "(misdeed: panic_in_drop)").unwrap());
}

#[test]
fn a_data_set_is_opened_described_and_read_from_several_threads() {
    let place = Place::new();
    let plugin = place.loader().load(&place.fixture()).unwrap();
    let dataset = plugin.create_dataset("counting", "(len: 100)").unwrap();
    assert!(dataset.spec().unwrap_err().to_string().contains("was not opened"));
    dataset.open().unwrap();
    dataset.open().unwrap();
    let spec = dataset.spec().unwrap();
    assert_eq!((spec.splits[0].len, spec.fields[1].role), (100, FieldRole::Target));
    let read = |indices: &[u64]| {
        let mut numbers = vec![0xAA; indices.len() * 4];
        let mut labels = vec![0xAA; indices.len() * 4];
        dataset.fill("train", 0, indices, &mut [&mut numbers, &mut labels]).map(|()| numbers)
    };
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for index in 0..25 {
                    let index = thread * 25 + index;
                    assert_eq!(read(&[index]).unwrap(), (index as f32).to_le_bytes());
                }
            });
        }
    });
    assert!(read(&[]).unwrap().is_empty());
    let error = read(&[100]).unwrap_err().to_string();
    assert!(error.contains("sample 100 of `train` was asked for, which has 100 samples"), "{error}");
    let error = dataset.fill("train", 0, &[1], &mut [&mut [0; 4], &mut [0; 3]]).unwrap_err().to_string();
    assert!(error.contains("the buffer of `label` has 3 bytes, 4 are needed"), "{error}");
    let bad = plugin.create_dataset("counting", "(misdeed: panic)").unwrap();
    bad.open().unwrap();
    let error = bad.fill("train", 0, &[1], &mut [&mut [0; 4], &mut [0; 4]]).unwrap_err();
    assert!(error.to_string().contains("fill: panicked: index 7 out of range"), "{error}");
    assert!(error.location().contains("fixture-plugin/src/misdeed.rs:"), "{error}");
}

fn step_request() -> StepRequest {
    let ty = |dtype, shape: &[usize]| (dtype, shape.to_vec());
    let field = |name: &str, role, (dtype, shape)| solstice_plugin_abi::wire::Field {
        name: name.into(),
        role,
        dtype,
        shape,
        scale: 1.0,
        offset: 0.0,
    };
    StepRequest {
        split: "train".into(),
        batch_size: 6,
        fields: vec![field("number", FieldRole::Input, ty(DType::F32, &[1])), field("label", FieldRole::Target, ty(DType::I32, &[]))],
        ..StepRequest::default()
    }
}

#[test]
fn an_experiment_reaches_the_model_through_the_host() {
    let place = Place::new();
    let plugin = place.loader().load(&place.fixture()).unwrap();
    let experiment = plugin.create_experiment("watching", "").unwrap();
    let trace_with = |misdeed: &str| {
        let model = plugin.create_traced(Kind::Model, "rogue", &format!("(misdeed: {misdeed})")).unwrap();
        let ask = |slot: &str, entry: &str, request: &TraceRequest| -> Result<Graph, PluginError> {
            if slot == "model" { model.trace(entry, request) } else { Err(PluginError::unknown_component(slot, ["model"].into_iter())) }
        };
        experiment.trace("eval_step", &step_request(), &ask)
    };
    let step = trace_with("none").unwrap();
    assert!(step.graph.parameter("model.fc.weight").is_some(), "the model is inlined under its slot");
    assert_eq!(step.metrics[0].name, "mean");
    // The one at fault is named, not the one that asked.
    let error = trace_with("panic").unwrap_err().to_string();
    assert!(error.starts_with("model `rogue` (plugin `fixture-plugin`), forward: panicked: index 7 out of range"), "{error}");
    let own = plugin.create_experiment("watching", "(misdeed: error)").unwrap();
    let never = |_: &str, _: &str, _: &TraceRequest| -> Result<Graph, PluginError> { unreachable!("the experiment fails before it asks") };
    let error = own.trace("train_step", &step_request(), &never).unwrap_err().to_string();
    assert!(error.starts_with("experiment `watching` (plugin `fixture-plugin`), train_step: wanted to fail, and did ("), "{error}");
}

#[test]
fn plugins_reach_the_hosts_log() {
    struct Collect(Arc<Mutex<Vec<String>>>);
    impl HostServices for Collect {
        fn log(&self, level: u32, plugin: &str, message: &str) {
            self.0.lock().unwrap().push(format!("{level} {plugin}: {message}"));
        }
        fn progress(&self, message: &str, _done: u64, _total: u64) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    set_host_services(Collect(lines.clone()));
    let place = Place::new();
    place.loader().load(&place.fixture()).unwrap().create_dataset("counting", "").unwrap().open().unwrap();
    let lines = lines.lock().unwrap();
    assert!(lines.contains(&"3 fixture-plugin: counted".to_owned()) && lines.contains(&"counting".to_owned()), "{lines:?}");
}

// ---- deaths --------------------------------------------------------------------------------------------------------------------------------

/// Runs one test of this file in a process of its own; these tests do nothing unless they are called that way.
fn in_child(test: &str, place: &Place, environment: &[(&str, &str)]) -> std::process::ExitStatus {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("SOLSTICE_TEST_CHILD", place.folder.path());
    command.envs(environment.iter().copied()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().unwrap()
}

fn child_place() -> Option<PathBuf> {
    std::env::var_os("SOLSTICE_TEST_CHILD").map(PathBuf::from)
}

fn child_loader(folder: &Path) -> Loader {
    Loader {
        config_dir: folder.join("config"),
        cache_dir: folder.join("cache"),
        trusted_dirs: vec![folder.join("plugins")],
        search_dirs: vec![],
    }
}

#[test]
fn child_misbehaves() {
    let Some(folder) = child_place() else { return };
    loader::record_calls_in(&folder.join("entering"));
    let plugin = child_loader(&folder).load(&folder.join("plugins/libfixture_plugin.so")).unwrap();
    let misdeed = std::env::var("SOLSTICE_TEST_MISDEED").unwrap();
    let model = plugin.create_traced(Kind::Model, "rogue", &format!("(misdeed: {misdeed})")).unwrap();
    model.trace("forward", &x()).unwrap();
}

#[cfg(unix)]
#[test]
fn after_a_death_the_culprit_is_known() {
    use std::os::unix::process::ExitStatusExt;
    for (misdeed, signals, code) in [
        ("segfault", &[11][..], None),
        ("abort", &[6], None),
        ("double_panic", &[6], None),
        ("stack_overflow", &[6, 11], None),
        ("exit", &[], Some(0)),
    ] {
        let place = Place::new();
        place.loader();
        place.fixture();
        let status = in_child("child_misbehaves", &place, &[("SOLSTICE_TEST_MISDEED", misdeed)]);
        assert_eq!(status.code(), code, "{misdeed}: {status}");
        assert!(status.signal().is_none_or(|signal| signals.contains(&signal)), "{misdeed}: {status}");
        let record = std::fs::read_to_string(place.path("entering")).unwrap();
        assert_eq!(record.trim_end_matches('\0'), "forward of model `rogue` (plugin `fixture-plugin`)", "{misdeed}");
    }
}

#[test]
fn child_describes() {
    let Some(folder) = child_place() else { return };
    let catalog = Catalog::new(child_loader(&folder), &[folder.join("plugins/libfixture_plugin.so")]);
    assert_eq!(catalog.components().len(), 5);
}

#[test]
fn a_plugin_that_does_not_survive_being_listed_is_tried_again_only_on_request() {
    let place = Place::new();
    let loader = place.loader();
    let path = place.fixture();
    let dies = || assert!(!in_child("child_describes", &place, &[("SOLSTICE_FIXTURE_ABORT_IN_DESCRIBE", "1")]).success());
    dies();
    // Somebody may have killed the process at that moment: once is forgiven.
    assert_eq!(loader.discover(std::slice::from_ref(&path))[0].refusal, None);
    dies();
    let refused = || loader.discover(std::slice::from_ref(&path))[0].refusal.clone();
    assert!(matches!(refused(), Some(LoadError::Quarantined(_))));
    let message = refused().unwrap().to_string();
    assert!(
        message.starts_with("2 processes in a row died while it was describing itself;") && message.contains("--try-again"),
        "{message}"
    );
    assert_eq!(loader.clear_quarantine(), 1);
    assert_eq!(refused(), None);
    assert!(in_child("child_describes", &place, &[]).success());
    assert_eq!(refused(), None);
}
