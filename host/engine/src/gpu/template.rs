//! Shader templates: the files of `/shaders`, valid WGSL as they stand, in which marked declarations are replaced.
//!
//! Three kinds of mark: `const NAME: type = value;` and `alias NAME = type;` lines, whose right side is replaced, and regions between `// begin name` and
//! `// end name`, which are replaced whole. WGSL's own `override` cannot change types, bindings or bodies, hence text. A name that is not in the file is
//! an error of the text, since an edited file may have lost it. `sources.rs` has the files, `shaders.rs` in the tests walks them.

use crate::gpu::sources::{LIBRARY, Sources, code_of, is_directive};
use std::fmt::Display;

/// A shader on its way to its final text.
pub struct Template {
    /// For messages.
    title: String,
    lines: Vec<String>,
    /// The first name that was not there.
    missing: Option<String>,
}

impl Template {
    /// The file `name` of `sources`.
    pub fn new(sources: &Sources, name: &str) -> Template {
        let (_, text) = sources.file(name);
        Template { title: sources.title(name), lines: text.lines().map(str::to_owned).collect(), missing: None }
    }

    /// Sets `const name: u32`. The value must fit.
    pub fn count(self, name: &str, value: usize) -> Template {
        let value = u32::try_from(value).expect("sizes are checked against u32 before a shader is made");
        self.set("const", name, format_args!("{value}u"))
    }

    /// Sets `const name: f32`.
    pub fn number(self, name: &str, value: &str) -> Template {
        self.set("const", name, value)
    }

    /// Sets `const name: bool`.
    pub fn flag(self, name: &str, value: bool) -> Template {
        self.set("const", name, value)
    }

    /// Sets `alias name`.
    pub fn alias(self, name: &str, ty: &str) -> Template {
        self.set("alias", name, ty)
    }

    fn set(mut self, keyword: &str, name: &str, value: impl Display) -> Template {
        let declares = |line: &String| {
            line.strip_prefix(keyword)
                .and_then(|rest| rest.trim_start().strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(':') || rest.starts_with(" ="))
        };
        match self.lines.iter_mut().find(|line| declares(line)) {
            Some(line) => {
                let left = line.split('=').next().unwrap_or_default().trim_end();
                *line = format!("{left} = {value};");
            }
            None => self.miss(format!("`{keyword} {name} = ..;` on a line of its own")),
        }
        self
    }

    /// Replaces the lines of region `name`.
    pub fn region(mut self, name: &str, text: &str) -> Template {
        let mark = |line: &String, word: &str| line.trim() == format!("// {word} {name}");
        let begin = self.lines.iter().position(|line| mark(line, "begin"));
        let end = self.lines.iter().position(|line| mark(line, "end"));
        match (begin, end) {
            (Some(begin), Some(end)) if begin < end => {
                self.lines.splice(begin..=end, text.lines().map(str::to_owned));
            }
            _ => self.miss(format!("lines `// begin {name}` and `// end {name}`")),
        }
        self
    }

    fn miss(&mut self, what: String) {
        self.missing.get_or_insert(what);
    }

    /// The text without comments and blank lines, so that kernels which differ in nothing else share a pipeline.
    ///
    /// Errors: something that was to be set is not in the file.
    pub fn into_text(self) -> Result<String, String> {
        if let Some(missing) = self.missing {
            return Err(format!("the shader {} has no {missing}, which the engine sets", self.title));
        }
        let mut text = String::new();
        for line in &self.lines {
            let code = code_of(line);
            if !code.trim().is_empty() && !is_directive(code) {
                text.push_str(code);
                text.push('\n');
            }
        }
        Ok(text)
    }
}

/// The functions of `lib/*.wgsl` that `code` calls, and those that they call, in file order.
pub fn library(sources: &Sources, code: &str) -> String {
    let mut functions: Vec<(String, String)> = Vec::new();
    for name in LIBRARY {
        let (_, text) = sources.file(name);
        for line in text.lines().map(code_of).filter(|line| !line.trim().is_empty() && !is_directive(line)) {
            match line.strip_prefix("fn ") {
                Some(rest) => functions.push((rest.split('(').next().unwrap_or_default().to_owned(), format!("{line}\n"))),
                None => {
                    functions.last_mut().expect("a library file starts with a function, which is checked when it is read").1 +=
                        &format!("{line}\n")
                }
            }
        }
    }
    let mut wanted: Vec<bool> = functions.iter().map(|(name, _)| calls(code, name)).collect();
    loop {
        let reached: Vec<bool> = functions
            .iter()
            .map(|(name, _)| {
                functions.iter().zip(&wanted).any(|((other, text), &is_wanted)| is_wanted && other != name && calls(text, name))
            })
            .collect();
        let before = wanted.clone();
        wanted.iter_mut().zip(reached).for_each(|(wanted, reached)| *wanted |= reached);
        if wanted == before {
            break;
        }
    }
    functions.iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted).map(|((_, text), _)| text.as_str()).collect()
}

/// Names of the functions of `lib/*.wgsl`.
pub fn library_names(sources: &Sources) -> std::collections::BTreeSet<String> {
    let lines = LIBRARY.iter().flat_map(|name| sources.file(name).1.lines());
    lines.filter_map(|line| line.strip_prefix("fn ")).map(|rest| rest.split('(').next().unwrap_or_default().to_owned()).collect()
}

/// True when `code` holds `name(` that is not the end of a longer name.
fn calls(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}(")).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_brings_what_its_functions_call() {
        let text = library(&Sources::built_in(), "let y = hyperbolic_tangent(x);");
        for name in ["fn hyperbolic_tangent(", "fn exponential(", "fn power_of_two(", "fn is_nan("] {
            assert!(text.contains(name), "{name} is missing in:\n{text}");
        }
        assert!(!text.contains("fn sine("), "unused functions stay away:\n{text}");
        assert_eq!(library(&Sources::built_in(), "my_sine(x)"), "");
    }

    #[test]
    fn marked_declarations_are_replaced() {
        let text = Template::new(&Sources::built_in(), "reduce_arg")
            .count("LENGTH", 7)
            .alias("T", "i32")
            .flag("IS_MAX", false)
            .region("is_nan", "fn nothing() {}")
            .into_text()
            .expect("the names are in the file");
        for line in ["const LENGTH: u32 = 7u;", "alias T = i32;", "const IS_MAX: bool = false;", "fn nothing() {}"] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("fn is_nan"));
    }

    #[test]
    fn a_name_that_an_edited_file_has_lost_is_an_error() {
        let sources = Sources::built_in();
        let error = Template::new(&sources, "map").count("COUNT", 1).count("HEIGHT", 2).flag("OTHER", true).into_text().unwrap_err();
        assert!(error.contains("map.wgsl") && error.contains("`const HEIGHT = ..;`"), "{error}");
        let error = Template::new(&sources, "map").region("middle", "").into_text().unwrap_err();
        assert!(error.contains("`// begin middle`"), "{error}");
    }
}
