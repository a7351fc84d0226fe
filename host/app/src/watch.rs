//! What hot reload stands on: which files a plugin was made of, when they change, and how it is built again. Whoever trains decides what to do then.
//!
//! Three parts that know nothing of each other: [`PluginSource`] (from a library to its sources, through the dep-info file that cargo leaves beside it),
//! [`Watch`] (what changed since the last look), [`Building`] (cargo under way). Nothing here loads a plugin or reads a shader's meaning.
//!
//! The files are looked at twenty times a second rather than watched by the system: there are about fifty, whose metadata costs a tenth of a
//! millisecond; content hashes and the settling of a file want the same look anyway; and the system's watchers fail where people train (network folders,
//! folders shared into containers, a user whose editor has used up all watches), so that this look would be needed beside them.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Looks closer together than this are one look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Editors write in several goes, or remove a file and put another in its place. What has been still for this long is what the author means.
const SETTLED_AFTER: Duration = Duration::from_millis(60);

/// Lines of a compiler's errors that are worth showing.
const ERROR_LINES_MAX: usize = 60;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// From a library to its sources

/// Where a plugin comes from, and what cargo needs to make it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSource {
    /// The package's name.
    pub package: String,
    /// The library as it was loaded.
    pub library: PathBuf,
    /// Source files, its own and those of the local packages that it is built from, and its `Cargo.toml`.
    pub files: Vec<PathBuf>,
    /// Folder of the workspace, or of the package where it is in none.
    pub workspace: PathBuf,
    /// Cargo's target folder.
    pub target_dir: PathBuf,
    /// The triple that the library was built for, where cargo was given one.
    pub triple: Option<String>,
    /// Cargo's name of the profile: `dev`, `release`.
    pub profile: String,
}

impl PluginSource {
    /// The sources of the library `library`, whose manifest says that it is the package `package`.
    ///
    /// Errors: one sentence that says why the plugin cannot be watched: it was not built here.
    pub fn find(library: &Path, package: &str) -> Result<PluginSource, String> {
        let why = |reason: String| format!("the plugin `{package}` is not watched: {reason}");
        let library = std::path::absolute(library).unwrap_or_else(|_| library.to_owned());
        let place = BuildPlace::of(&library);
        let dep_info = place.folder.join(library.file_name().unwrap_or_default()).with_extension("d");
        let text = std::fs::read_to_string(&dep_info)
            .map_err(|_| why(format!("cargo left no {} that would name its sources, so it was not built here", dep_info.display())))?;
        // Cargo writes whole paths unless its setting `build.dep-info-basedir` says otherwise, and then people mean the workspace.
        let base = place.target_dir.parent().unwrap_or(&place.target_dir);
        let sources = dependencies(&text).into_iter().map(|path| base.join(path));
        // What a build script writes changes with every build.
        let mut files: Vec<PathBuf> = sources.filter(|path| !path.starts_with(&place.target_dir)).collect();
        let manifest = files.iter().filter(|path| path.is_file()).find_map(|path| {
            let manifest = path.ancestors().skip(1).map(|folder| folder.join("Cargo.toml")).find(|manifest| manifest.is_file())?;
            let text = std::fs::read_to_string(&manifest).ok()?;
            (package_name(&text) == Some(package)).then_some(manifest)
        });
        let manifest = manifest.ok_or_else(|| why(format!("its sources, as {} names them, are not here", dep_info.display())))?;
        let own = manifest.parent().unwrap_or(Path::new("/"));
        let is_workspace = |folder: &&Path| std::fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| declares_workspace(&text));
        let workspace = own.ancestors().find(is_workspace).unwrap_or(own).to_owned();
        files.push(manifest);
        files.sort();
        files.dedup();
        let BuildPlace { target_dir, triple, profile, .. } = place;
        Ok(PluginSource { package: package.to_owned(), library, files, workspace, target_dir, triple, profile })
    }

    /// The same after a build, which may have found new files.
    pub fn again(&self) -> PluginSource {
        PluginSource::find(&self.library, &self.package).unwrap_or_else(|_| self.clone())
    }
}

/// What a library's folder says about its build.
#[derive(Debug, PartialEq, Eq)]
struct BuildPlace {
    /// Where cargo puts the finished libraries.
    folder: PathBuf,
    target_dir: PathBuf,
    triple: Option<String>,
    profile: String,
}

impl BuildPlace {
    /// `target/release/libmlp.so`, `target/release/deps/libmlp.so`, `target/x86_64-unknown-linux-musl/release/libmlp.so`.
    fn of(library: &Path) -> BuildPlace {
        let mut folder = library.parent().unwrap_or(Path::new("/"));
        if folder.ends_with("deps") {
            folder = folder.parent().unwrap_or(folder);
        }
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let profile = if name(folder) == "debug" { "dev".to_owned() } else { name(folder) };
        let parent = folder.parent().unwrap_or(folder);
        // A triple has two dashes at least; few people call their target folder so, and those who do have cargo's own mark in it.
        let has_triple = name(parent).matches('-').count() >= 2 && !parent.join(".rustc_info.json").is_file();
        let (target_dir, triple) = match parent.parent() {
            Some(target_dir) if has_triple => (target_dir, Some(name(parent))),
            _ => (parent, None),
        };
        BuildPlace { folder: folder.to_owned(), target_dir: target_dir.to_owned(), triple, profile }
    }
}

/// Prerequisites of a dep-info file, which is a makefile: `target: file file\ with\ blanks ..`, lines that end in a backslash going on.
fn dependencies(text: &str) -> Vec<PathBuf> {
    let mut files = vec![];
    for line in text.replace("\\\n", " ").lines() {
        let mut words = words_of(line).into_iter().peekable();
        // The target ends at the first word that ends in a colon; a line without one is a comment.
        if words.by_ref().find(|word| word.ends_with(':')).is_some() {
            files.extend(words.filter(|word| !word.is_empty()).map(PathBuf::from));
        }
    }
    files
}

/// Splits at blanks; a backslash keeps the blank or number sign after it.
fn words_of(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek().is_some_and(|next| " #\\".contains(*next)) => {
                words.last_mut().expect("there is one").extend(letters.next())
            }
            ' ' | '\t' => words.push(String::new()),
            '#' => break,
            _ => words.last_mut().expect("there is one").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// `name` of `[package]`.
fn package_name(manifest: &str) -> Option<&str> {
    let mut lines =
        manifest.lines().map(str::trim).skip_while(|line| *line != "[package]").skip(1).take_while(|line| !line.starts_with('['));
    let value = lines.find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='))?;
    value.split(['"', '\'']).nth(1)
}

fn declares_workspace(manifest: &str) -> bool {
    manifest.lines().map(str::trim).any(|line| line.starts_with("[workspace]") || line.starts_with("[workspace."))
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// What changed

/// Something that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sources of a plugin.
    Plugin {
        /// Its place in the list that was given to [`Watch::new`].
        index: usize,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Shader files.
    Shaders {
        /// The files.
        files: Vec<PathBuf>,
    },
}

/// Looks at the sources of plugins and at shaders. A file counts as changed when its content is another; touching it is nothing.
pub struct Watch {
    /// One for each plugin, then one for the shaders.
    groups: Vec<Group>,
    plugin_count: usize,
    looked: Option<Instant>,
}

/// Files that are reported together, none of them before all are settled.
struct Group {
    files: BTreeMap<PathBuf, File>,
}

struct File {
    /// Cheap to compare: when these are the same, the content is.
    stamp: Stamp,
    /// Hash of the content that was reported last; `None` when it was not there.
    known: Option<[u8; 32]>,
    /// When the stamp was last seen to move.
    moved: Option<Instant>,
}

type Stamp = Option<(SystemTime, u64, u64)>;

impl Watch {
    /// From now on. `shaders` is a folder with the files of `/shaders`.
    pub fn new(plugins: &[PluginSource], shaders: Option<PathBuf>) -> Watch {
        let shader_files = shaders.into_iter().flat_map(|folder| {
            let path = move |(name, _): &(&str, &str)| folder.join(format!("{name}.wgsl"));
            solstice_engine::gpu::FILES.iter().map(path)
        });
        let mut groups: Vec<Group> = plugins.iter().map(|plugin| Group::new(plugin.files.iter().cloned())).collect();
        groups.push(Group::new(shader_files));
        Watch { groups, plugin_count: plugins.len(), looked: None }
    }

    /// What changed since the last call. Does not wait; to be called often.
    pub fn changes(&mut self) -> Vec<Change> {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked < LOOK_EVERY) {
            return vec![];
        }
        self.looked = Some(now);
        self.look(now)
    }

    /// After a build: the files of a plugin may be others now. Those that were there keep what is known of them.
    pub fn set_files(&mut self, index: usize, plugin: &PluginSource) {
        assert!(index < self.plugin_count, "there are {} plugins", self.plugin_count);
        let group = &mut self.groups[index];
        group.files.retain(|path, _| plugin.files.contains(path));
        for path in &plugin.files {
            group.files.entry(path.clone()).or_insert_with(|| File::new(path));
        }
    }

    fn look(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = vec![];
        for (index, group) in self.groups.iter_mut().enumerate() {
            let files = group.look(now);
            if !files.is_empty() {
                changes.push(if index < self.plugin_count { Change::Plugin { index, files } } else { Change::Shaders { files } });
            }
        }
        changes
    }
}

impl Group {
    fn new(files: impl Iterator<Item = PathBuf>) -> Group {
        let with_state = |path: PathBuf| {
            let file = File::new(&path);
            (path, file)
        };
        Group { files: files.map(with_state).collect() }
    }

    fn look(&mut self, now: Instant) -> Vec<PathBuf> {
        for (path, file) in &mut self.files {
            let stamp = stamp(path);
            if stamp != file.stamp {
                file.stamp = stamp;
                file.moved = Some(now);
            }
        }
        let is_settled = |file: &File| file.moved.is_none_or(|moved| now.saturating_duration_since(moved) >= SETTLED_AFTER);
        if !self.files.values().all(is_settled) {
            return vec![];
        }
        let mut changed = vec![];
        for (path, file) in self.files.iter_mut().filter(|(_, file)| file.moved.is_some()) {
            file.moved = None;
            let content = hash(path);
            if content != file.known {
                file.known = content;
                changed.push(path.clone());
            }
        }
        changed
    }
}

impl File {
    fn new(path: &Path) -> File {
        // The stamp first: a write in between is seen at the next look.
        let stamp = stamp(path);
        File { stamp, known: hash(path), moved: None }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), std::os::unix::fs::MetadataExt::ino(&metadata)))
}

fn hash(path: &Path) -> Option<[u8; 32]> {
    std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into())
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Building

/// How a build ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Build {
    /// From the start of cargo to its end.
    pub secs: f64,
    /// The library is built, or the compiler's errors, the plugin's own first.
    pub outcome: Result<(), String>,
}

/// Cargo at work on a plugin. Dropped, it is stopped.
pub struct Building {
    child: Child,
    start: Instant,
    // Both pipes are read all the time: a full one would stop cargo for ever.
    messages: Option<JoinHandle<Messages>>,
    log: Option<JoinHandle<String>>,
}

/// What cargo said on its standard output.
#[derive(Default)]
struct Messages {
    is_built: bool,
    /// Errors of the plugin itself, of others.
    errors: [Vec<String>; 2],
}

/// Builds a plugin and waits for it.
#[cfg(test)]
fn build(source: &PluginSource, color: bool) -> Build {
    match Building::start(source, color) {
        Ok(mut building) => loop {
            if let Some(build) = building.poll() {
                return build;
            }
            std::thread::sleep(Duration::from_millis(5));
        },
        Err(error) => Build { secs: 0.0, outcome: Err(error) },
    }
}

impl Building {
    /// Starts cargo. `color`: the errors are for a terminal.
    ///
    /// The libraries of the whole workspace are asked for, not the one package: cargo chooses the features of shared dependencies for what it is asked
    /// for, and with others it builds them all again (about 20 s, measured, and again when the workspace is built next). What has not changed is not
    /// built, programs never are, and the running one stays the file that it is.
    pub fn start(source: &PluginSource, color: bool) -> Result<Building, String> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--workspace", "--lib", "--quiet"]);
        // A mistake in another plugin is no reason to wait with this one.
        command.arg("--keep-going");
        command.arg(if color { "--message-format=json-diagnostic-rendered-ansi" } else { "--message-format=json" });
        command.args(["--color", if color { "always" } else { "never" }]);
        command.args(["--profile", &source.profile]).arg("--target-dir").arg(&source.target_dir);
        if let Some(triple) = &source.triple {
            command.args(["--target", triple]);
        }
        if source.profile != "dev" {
            // Of this package alone, since other settings would build the others again.
            for setting in FAST_SETTINGS {
                command.arg("--config").arg(format!("profile.{}.package.{}.{setting}", source.profile, source.package));
            }
        }
        // What `cargo run` tells a program about its own package; build scripts that look at it (`ring`'s) would run again, and all that stands on them.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command.current_dir(&source.workspace).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own group, so that the compilers that it started can be stopped with it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| format!("cargo cannot be started: {error}"))?;
        let (stdout, stderr) = (child.stdout.take().expect("asked for above"), child.stderr.take().expect("asked for above"));
        let stem = source.library.file_stem().unwrap_or_default().to_string_lossy();
        let crate_name = stem.strip_prefix(std::env::consts::DLL_PREFIX).unwrap_or(&stem).to_owned();
        let messages = std::thread::spawn(move || {
            let mut messages = Messages::default();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                messages.take(&line, &crate_name);
            }
            messages
        });
        let log = std::thread::spawn(move || {
            let mut bytes = vec![];
            let _ = BufReader::new(stderr).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Building { child, start: Instant::now(), messages: Some(messages), log: Some(log) })
    }

    /// How it ended, once it has. Does not wait.
    pub fn poll(&mut self) -> Option<Build> {
        let status = self.child.try_wait();
        if matches!(status, Ok(None)) {
            return None;
        }
        let secs = self.start.elapsed().as_secs_f64();
        let messages = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let log = self.log.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Some(Build { secs, outcome: messages.outcome(&log) })
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Settings of an optimised build that make the second build of a package faster, none of which changes what it computes: 4.3 s become 1.1 s for the
/// plugin `mlp` on two cores. The units are cargo's own number without `incremental`, with which it would take 256.
const FAST_SETTINGS: [&str; 2] = ["incremental=true", "codegen-units=16"];

impl Messages {
    /// One line of cargo's JSON.
    fn take(&mut self, line: &str, crate_name: &str) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { return };
        let target = &message["target"];
        let is_library = target["crate_types"].as_array().is_some_and(|types| types.iter().any(|ty| ty == "cdylib"));
        let own = is_library && target["name"].as_str() == Some(crate_name);
        match message["reason"].as_str() {
            Some("compiler-artifact") => self.is_built |= own,
            Some("compiler-message") if message["message"]["level"].as_str().is_some_and(|level| level.starts_with("error")) => {
                let rendered = message["message"]["rendered"].as_str().unwrap_or_default().trim_end();
                // The last message only counts the others.
                let is_count = message["message"]["message"].as_str().is_some_and(|text| text.starts_with("aborting due to"));
                if !rendered.is_empty() && !is_count {
                    self.errors[usize::from(!own)].push(rendered.to_owned());
                }
            }
            _ => {}
        }
    }

    /// `log` is what cargo said on its standard error: about manifests, the lock file, a failed build script.
    fn outcome(self, log: &str) -> Result<(), String> {
        if self.is_built {
            return Ok(());
        }
        let errors = self.errors.concat().join("\n\n");
        let text = if errors.is_empty() { log.trim() } else { errors.as_str() };
        if text.is_empty() {
            return Err("cargo ended without the plugin's library and without a word".into());
        }
        let lines: Vec<&str> = text.lines().collect();
        let mut shown = lines[..lines.len().min(ERROR_LINES_MAX)].join("\n");
        if lines.len() > ERROR_LINES_MAX {
            shown += &format!("\n.. and {} more lines", lines.len() - ERROR_LINES_MAX);
        }
        Err(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn dep_info_is_read_as_make_reads_it() {
        let text = "/t/debug/libmlp.rlib: /a/src/lib.rs /a/my\\ file.rs \\\n /a/c\\#.rs\n\n# a comment: no\n/a/src/lib.rs:\n";
        let wanted: Vec<PathBuf> = ["/a/src/lib.rs", "/a/my file.rs", "/a/c#.rs"].map(PathBuf::from).into();
        assert_eq!(dependencies(text), wanted);
        assert_eq!(dependencies("/my\\ target/x.so: /a.rs"), [PathBuf::from("/a.rs")]);
        assert_eq!(dependencies(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_folder_tells_profile_target_and_triple() {
        let place = |path: &str| {
            let place = BuildPlace::of(Path::new(path));
            (place.target_dir.to_string_lossy().into_owned(), place.triple, place.profile)
        };
        assert_eq!(place("/w/target/debug/libmlp.so"), ("/w/target".into(), None, "dev".into()));
        assert_eq!(place("/w/target/debug/deps/libmlp.so"), ("/w/target".into(), None, "dev".into()));
        assert_eq!(place("/w/out/release/libmlp.so"), ("/w/out".into(), None, "release".into()));
        assert_eq!(place("/w/out/bench-fast/libmlp.so"), ("/w/out".into(), None, "bench-fast".into()));
        let triple = "aarch64-unknown-linux-gnu";
        assert_eq!(place(&format!("/w/target/{triple}/release/libmlp.so")), ("/w/target".into(), Some(triple.into()), "release".into()));
    }

    #[test]
    fn manifests_are_told_apart() {
        assert_eq!(package_name("[lib]\nname = \"no\"\n[package]\nversion = \"1\"\nname = \"my-model\"\n"), Some("my-model"));
        assert_eq!(package_name("[package]\nversion = \"1\"\n[lib]\nname = \"no\"\n"), None);
        assert!(declares_workspace("[package]\nname = \"x\"\n\n[workspace]\n") && declares_workspace("[workspace.package]\n"));
        assert!(!declares_workspace("[package]\nversion.workspace = true\n# [workspace]\n"));
    }

    /// A workspace with one plugin, and the library and dep-info that cargo would have left.
    fn workspace(folder: &Path) -> PathBuf {
        let package = folder.join("plugins/my model");
        fs::create_dir_all(package.join("src")).unwrap();
        fs::create_dir_all(folder.join("target/release")).unwrap();
        fs::write(folder.join("Cargo.toml"), "[workspace]\nmembers = [\"plugins/*\"]\n").unwrap();
        fs::write(package.join("Cargo.toml"), "[package]\nname = \"my-model\"\n").unwrap();
        fs::write(package.join("src/lib.rs"), "one").unwrap();
        let escaped = |path: PathBuf| path.display().to_string().replace(' ', "\\ ");
        let library = folder.join("target/release/libmy_model.so");
        let generated = folder.join("target/release/build/x/out/generated.rs");
        let text = format!("{}: {} {}\n", escaped(library.clone()), escaped(package.join("src/lib.rs")), escaped(generated));
        fs::write(library.with_extension("d"), text).unwrap();
        library
    }

    #[test]
    fn a_library_leads_to_its_sources() {
        let folder = tempfile::tempdir().unwrap();
        let library = workspace(folder.path());
        let source = PluginSource::find(&library, "my-model").unwrap();
        let package = folder.path().join("plugins/my model");
        assert_eq!(source.files, [package.join("Cargo.toml"), package.join("src/lib.rs")]);
        assert_eq!((source.workspace.as_path(), source.profile.as_str()), (folder.path(), "release"));
        assert_eq!(source.target_dir, folder.path().join("target"));
        // Out of any workspace it is its own.
        fs::remove_file(folder.path().join("Cargo.toml")).unwrap();
        assert_eq!(source.again().workspace, package);
        // Sources that are gone, a library that was copied here.
        fs::remove_dir_all(&package).unwrap();
        assert!(PluginSource::find(&library, "my-model").unwrap_err().contains("are not here"));
        fs::remove_file(library.with_extension("d")).unwrap();
        let error = PluginSource::find(&library, "my-model").unwrap_err();
        assert!(error.starts_with("the plugin `my-model` is not watched: ") && error.contains("libmy_model.d"), "{error}");
    }

    #[test]
    fn a_change_is_reported_once_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let source = PluginSource::find(&workspace(folder.path()), "my-model").unwrap();
        let file = source.files[1].clone();
        let shaders = folder.path().join("shaders");
        fs::create_dir_all(&shaders).unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&source), Some(shaders.clone()));
        let start = Instant::now();
        let at = |millis: u64, watch: &mut Watch| watch.look(start + Duration::from_millis(millis));
        let saved = vec![Change::Plugin { index: 0, files: vec![file.clone()] }];
        assert_eq!(at(0, &mut watch), []);
        // Written in two goes.
        fs::write(&file, "").unwrap();
        assert_eq!(at(100, &mut watch), []);
        fs::write(&file, "two, longer").unwrap();
        assert_eq!(at(150, &mut watch), []);
        assert_eq!(at(200, &mut watch), [], "50 ms after the last write");
        assert_eq!(at(211, &mut watch), saved);
        assert_eq!(at(400, &mut watch), []);
        // Touched only.
        fs::File::options().append(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((at(500, &mut watch), at(600, &mut watch)), (vec![], vec![]));
        // Replaced by a rename, away for a moment; and a file beside it that is still being written holds the report back.
        fs::remove_file(&file).unwrap();
        assert_eq!(at(700, &mut watch), []);
        fs::write(file.with_extension("tmp"), "three").unwrap();
        fs::rename(file.with_extension("tmp"), &file).unwrap();
        assert_eq!(at(720, &mut watch), []);
        fs::write(&source.files[0], "[package]\nname = \"my-model\"\n# edited\n").unwrap();
        assert_eq!(at(760, &mut watch), []);
        assert_eq!(at(790, &mut watch), []);
        assert_eq!(at(830, &mut watch), [Change::Plugin { index: 0, files: source.files.clone() }]);
        // A shader that was not there; other files of its folder are of no account.
        fs::write(shaders.join("map.wgsl"), "// new").unwrap();
        fs::write(shaders.join("notes.txt"), "").unwrap();
        assert_eq!(at(900, &mut watch), []);
        assert_eq!(at(1000, &mut watch), [Change::Shaders { files: vec![shaders.join("map.wgsl")] }]);
        // New files join with what they hold now, known ones keep their pending change.
        let module = file.with_file_name("module.rs");
        fs::write(&module, "module").unwrap();
        fs::write(&file, "four").unwrap();
        watch.set_files(0, &PluginSource { files: vec![file.clone(), module.clone()], ..source });
        assert_eq!(at(1100, &mut watch), []);
        assert_eq!(at(1200, &mut watch), saved);
        fs::write(&module, "another module").unwrap();
        assert_eq!((at(1300, &mut watch).len(), at(1400, &mut watch).len()), (0, 1));
    }

    fn message(crate_name: &str, level: &str, message: &str, rendered: &str) -> String {
        let inner = serde_json::json!({"level": level, "message": message, "rendered": rendered});
        let target = serde_json::json!({"name": crate_name, "crate_types": ["cdylib", "rlib"]});
        serde_json::json!({"reason": "compiler-message", "target": target, "message": inner}).to_string()
    }

    #[test]
    fn the_plugins_own_errors_come_first_and_not_too_many() {
        let (own, other) = ("my_model", "other");
        let mut messages = Messages::default();
        for line in [
            message(other, "error", "other", "error: in another plugin\n"),
            message(own, "warning", "unused", "warning: unused"),
            message(own, "error", "mismatched types", &format!("error[E0308]: mismatched types\n{}", "  |\n".repeat(70))),
            message(own, "error", "aborting due to 1 previous error", "error: aborting due to 1 previous error"),
            "not JSON".into(),
        ] {
            messages.take(&line, own);
        }
        let error = messages.outcome("error: could not compile").unwrap_err();
        assert!(error.starts_with("error[E0308]: mismatched types\n  |\n"), "{error}");
        assert!(error.ends_with("\n.. and 13 more lines") && error.lines().count() == 61, "{error}");
        assert!(!error.contains("warning"));
        // Without a word from a compiler, cargo's own.
        assert_eq!(Messages::default().outcome("error: no such manifest\n"), Err("error: no such manifest".into()));
        // Another plugin's mistake does not matter when this one is built.
        let mut messages = Messages::default();
        let target = serde_json::json!({"name": own, "crate_types": ["cdylib", "rlib"]});
        let artifact = serde_json::json!({"reason": "compiler-artifact", "target": target});
        messages.take(&message(other, "error", "other", "error: in another plugin"), own);
        messages.take(&artifact.to_string(), own);
        assert_eq!(messages.outcome("error: could not compile"), Ok(()));
    }

    /// A crate without dependencies that builds to a library in its own target folder.
    fn small_crate(folder: &Path) -> PluginSource {
        fs::create_dir_all(folder.join("src")).unwrap();
        let manifest =
            "[package]\nname = \"small-crate\"\nedition = \"2021\"\n\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n[workspace]\n";
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.join("src/lib.rs"), "pub fn answer() -> u32 {\n    42\n}\n").unwrap();
        let target_dir = folder.join("target");
        let library = target_dir.join("debug").join(crate::loader::library_file_name("small-crate"));
        PluginSource {
            package: "small-crate".into(),
            library,
            files: vec![folder.join("Cargo.toml"), folder.join("src/lib.rs")],
            workspace: folder.to_owned(),
            target_dir,
            triple: None,
            profile: "dev".into(),
        }
    }

    #[test]
    fn what_is_built_is_found_again_and_what_does_not_compile_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let source = small_crate(folder.path());
        let built = build(&source, false);
        assert_eq!(built.outcome, Ok(()));
        assert!(built.secs > 0.0);
        assert_eq!(PluginSource::find(&source.library, "small-crate").as_ref(), Ok(&source));
        let bytes = fs::read(&source.library).unwrap();
        // Another file, another behaviour.
        fs::write(folder.path().join("src/more.rs"), "#[no_mangle]\npub extern \"C\" fn more() {}\n").unwrap();
        fs::write(folder.path().join("src/lib.rs"), "pub mod more;\n").unwrap();
        assert_eq!(build(&source, false).outcome, Ok(()));
        let good = fs::read(&source.library).unwrap();
        assert_ne!(bytes, good);
        assert_eq!(source.again().files, ["Cargo.toml", "src/lib.rs", "src/more.rs"].map(|name| folder.path().join(name)));
        // More errors than a pipe holds.
        let broken: String = (0..3000).map(|index| format!("pub fn f{index}() -> u32 {{\n    \"text\"\n}}\n")).collect();
        fs::write(folder.path().join("src/lib.rs"), broken).unwrap();
        let error = build(&source, false).outcome.unwrap_err();
        assert!(error.starts_with("error[E0308]: mismatched types") && error.contains("src/lib.rs:2:5"), "{error}");
        assert!(error.lines().count() == ERROR_LINES_MAX + 1 && !error.contains('\u{1b}'), "{error}");
        assert_eq!(fs::read(&source.library).unwrap(), good, "the library of the last good build stays");
        let error = build(&source, true).outcome.unwrap_err();
        assert!(error.contains('\u{1b}'), "colours for a terminal: {error}");
        // What is no mistake of the compiler's either.
        fs::write(folder.path().join("Cargo.toml"), "[package\n").unwrap();
        let error = build(&source, false).outcome.unwrap_err();
        assert!(error.contains("Cargo.toml"), "{error}");
        fs::remove_dir_all(folder.path().join("src")).unwrap();
        let gone = PluginSource { workspace: folder.path().join("gone"), ..source };
        assert!(build(&gone, false).outcome.unwrap_err().contains("cargo cannot be started"));
    }

    #[test]
    fn a_build_that_is_given_up_leaves_nothing_running() {
        let folder = tempfile::tempdir().unwrap();
        let source = small_crate(folder.path());
        let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=slow\");\n    if std::path::Path::new(\"slow\").exists() {\n        \
                      std::fs::write(\"started\", \"\").unwrap();\n        std::thread::sleep(std::time::Duration::from_secs(3600));\n    }\n}\n";
        fs::write(folder.path().join("build.rs"), script).unwrap();
        fs::write(folder.path().join("slow"), "").unwrap();
        let mut building = Building::start(&source, false).unwrap();
        while !folder.path().join("started").exists() {
            assert_eq!(building.poll(), None);
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(building);
        fs::remove_file(folder.path().join("slow")).unwrap();
        // One that still ran would hold cargo's lock for an hour.
        assert_eq!(build(&source, false).outcome, Ok(()));
    }
}
