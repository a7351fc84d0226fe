//! Where shader texts come from: the files of `/shaders` as they were built in, or as they stand in a folder now, which is how a development build
//! takes an edited shader without a build. A value and not a setting of the process: [`crate::gpu::Target`] carries it to whoever writes a kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wgpu::naga;

macro_rules! shader_files {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every file of `/shaders`, built in so that the binary needs no files.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../../shaders/", $name, ".wgsl")))),*];
    };
}

shader_files![
    "attention",
    "attention_grad",
    "convolution",
    "convolution_input_grad",
    "convolution_weight_grad",
    "dot_general",
    "dot_general_cooperative",
    "dot_general_subgroup",
    "dot_general_thin",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "lib/half",
    "lib/math",
    "lib/threefry",
    "map",
    "reduce",
    "reduce_arg",
    "reduce_window",
    "rows",
    "scatter",
    "scatter_rows",
    "select_and_scatter",
    "select_and_scatter_tiled",
];

/// The files that hold functions for the generated kernels, and nothing else.
pub(super) const LIBRARY: [&str; 3] = ["lib/half", "lib/math", "lib/threefry"];

/// The text of every shader file. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Files that differ from what is built in: path and text.
    read: Arc<BTreeMap<&'static str, (PathBuf, String)>>,
}

impl Sources {
    /// The files as they were built in.
    pub fn built_in() -> Sources {
        Sources::default()
    }

    /// The files as they stand in `dir` now; one that is not there is the built-in one, other files of the folder are of no account.
    ///
    /// Errors: a file that cannot be read, or is not valid WGSL: one sentence with file and line, then the compiler's own words.
    /// Cost: parses the files that differ from the built-in ones, a millisecond each.
    pub fn from_dir(dir: &Path) -> Result<Sources, String> {
        let mut read = BTreeMap::new();
        for &(name, built_in) in FILES {
            let path = dir.join(format!("{name}.wgsl"));
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("the shader {} cannot be read: {error}", path.display())),
            };
            if text == built_in {
                continue;
            }
            // Each file is valid as it stands, so that a mistake is found here, where the lines are the author's.
            if let Err(problem) = check(&text) {
                let message = format!("{} is not valid WGSL: {}", place(&path, problem.line), problem.message);
                return Err(format!("{message}\n{}", problem.excerpt(&text, &path)));
            }
            if LIBRARY.contains(&name)
                && let Some(line) = first_code_line(&text)
                && !text.lines().nth(line).is_some_and(|code| code.starts_with("fn "))
            {
                return Err(format!("{}: a file of shader functions starts with a function", place(&path, Some(line + 1))));
            }
            read.insert(name, (path, text));
        }
        Ok(Sources { read: Arc::new(read) })
    }

    /// Name and text of every file, in the order of [`FILES`]: what a run's identity is made of.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        FILES.iter().map(|(name, built_in)| (*name, self.read.get(name).map_or(*built_in, |(_, text)| text.as_str())))
    }

    /// Names of the files that differ from the built-in ones.
    pub fn changed(&self) -> impl Iterator<Item = &'static str> {
        self.read.keys().copied()
    }

    /// The file `name` of [`FILES`].
    pub(super) fn file(&self, name: &str) -> (&'static str, &str) {
        self.files().find(|(file, _)| *file == name).expect("every template is listed in FILES")
    }

    /// What a person calls the file: the path that was read, else its name.
    pub(super) fn title(&self, name: &str) -> String {
        self.read.get(name).map_or_else(|| format!("{name}.wgsl"), |(path, _)| path.display().to_string())
    }

    /// What is wrong with a kernel's text, if the shader grammar's checker finds it: the line in the file that it came from where that can be told.
    /// `None` where the text is valid, so that the device itself has a reason.
    pub(super) fn explain(&self, wgsl: &str) -> Option<String> {
        let problem = check(wgsl).err()?;
        let line = problem.line.and_then(|line| wgsl.lines().nth(line - 1)).unwrap_or_default();
        let place = self.find(line).map_or_else(|| format!("in the generated line `{}`", line.trim()), |place| format!("at {place}"));
        Some(format!("not valid WGSL {place}: {}\n{}", problem.message, problem.excerpt(wgsl, Path::new("the kernel's text"))))
    }

    /// File and line of a line of code, if it is in one place only, the files that were read first.
    fn find(&self, wanted: &str) -> Option<String> {
        let places = |is_read: bool| {
            let files = self.files().filter(move |(name, _)| self.read.contains_key(name) == is_read);
            files.flat_map(move |(name, text)| {
                let lines = text.lines().enumerate().filter(move |(_, line)| !wanted.is_empty() && code_of(line) == wanted);
                lines.map(move |(index, _)| (name, index + 1))
            })
        };
        let read: Vec<_> = places(true).collect();
        let all = if read.is_empty() { places(false).collect() } else { read };
        match all[..] {
            [(name, line)] => Some(format!("{}:{line}", self.title(name))),
            _ => None,
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Sources").field("changed", &self.changed().collect::<Vec<_>>()).finish()
    }
}

/// `/shaders` of the source tree that this program was built from: `None` in a release build, or where the tree is gone.
pub fn development_dir() -> Option<PathBuf> {
    #[cfg(debug_assertions)]
    {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shaders"));
        dir.canonicalize().ok()
    }
    // The text of a release build names no folder of the machine that built it.
    #[cfg(not(debug_assertions))]
    None
}

/// A line without its comment and without blanks at the end, as kernels carry it.
pub(super) fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim_end()
}

/// Behind the directives.
fn first_code_line(text: &str) -> Option<usize> {
    text.lines().position(|line| !code_of(line).trim().is_empty() && !is_directive(line))
}

/// True for the lines that WGSL wants before all others, which are written anew for each kernel.
pub(super) fn is_directive(line: &str) -> bool {
    line.starts_with("enable ")
}

fn place(path: &Path, line: Option<usize>) -> String {
    line.map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()))
}

/// What the checker found.
struct Problem {
    /// Counted from 1.
    line: Option<usize>,
    message: String,
    error: ProblemError,
}

enum ProblemError {
    Grammar(naga::front::wgsl::ParseError),
    Meaning(Box<naga::WithSpan<naga::valid::ValidationError>>),
}

impl Problem {
    /// The lines in question with the mistake marked.
    fn excerpt(&self, text: &str, path: &Path) -> String {
        let path = path.display().to_string();
        let excerpt = match &self.error {
            ProblemError::Grammar(error) => error.emit_to_string_with_path(text, &path),
            ProblemError::Meaning(error) => error.emit_to_string_with_path(text, &path),
        };
        excerpt.trim_end().to_owned()
    }
}

/// Parses and validates as strictly as a device does.
fn check(wgsl: &str) -> Result<(), Problem> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| Problem {
        line: error.location(wgsl).map(|location| location.line_number as usize),
        message: error.message().to_owned(),
        error: ProblemError::Grammar(error),
    })?;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    validator.validate(&module).map(|_| ()).map_err(|error| Problem {
        // The shortest span is the expression, longer ones are what it stands in.
        line: error
            .spans()
            .filter_map(|(span, _)| span.to_range().map(|range| (range.len(), span.location(wgsl).line_number as usize)))
            .min()
            .map(|(_, line)| line),
        message: deepest(error.as_inner()),
        error: ProblemError::Meaning(Box::new(error)),
    })
}

/// The checker names the function first and the reason last; both in one sentence.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        message += &format!(": {source}");
        next = source.source();
    }
    message
}
