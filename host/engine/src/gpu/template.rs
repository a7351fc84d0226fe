//! Shader templates: the files of `/shaders`, valid WGSL as they stand, in which marked declarations are replaced.
//!
//! Three kinds of mark: `const NAME: type = value;` and `alias NAME = type;` lines, whose right side is replaced, and regions between `// begin name` and
//! `// end name`, which are replaced whole. WGSL's own `override` cannot change types, bindings or bodies, hence text. A name that is not in the file is
//! a bug of ours and asserts. `shaders.rs` in the tests walks [`FILES`].

use std::fmt::Display;

macro_rules! shader_files {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every file of `/shaders`, built in so that the binary needs no files.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../../shaders/", $name, ".wgsl")))),*];
    };
}

shader_files![
    "convolution",
    "convolution_input_grad",
    "convolution_weight_grad",
    "dot_general",
    "dot_general_subgroup",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "lib/math",
    "lib/threefry",
    "map",
    "reduce",
    "reduce_arg",
    "reduce_window",
    "scatter",
    "scatter_rows",
    "select_and_scatter",
];

/// A shader on its way to its final text.
pub struct Template {
    name: &'static str,
    lines: Vec<String>,
}

impl Template {
    /// The file `name` of [`FILES`].
    pub fn new(name: &str) -> Template {
        let (name, text) = FILES.iter().find(|(file, _)| *file == name).expect("every template is listed in FILES");
        Template { name, lines: text.lines().map(str::to_owned).collect() }
    }

    /// Sets `const name: u32`. The value must fit.
    pub fn count(self, name: &str, value: usize) -> Template {
        let value = u32::try_from(value).expect("sizes are checked against u32 before a shader is made");
        self.set("const", name, format_args!("{value}u"))
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
        let line = self.lines.iter_mut().find(|line| declares(line));
        let line = line.unwrap_or_else(|| panic!("{}.wgsl has no `{keyword} {name}`", self.name));
        let (left, _) = line.split_once('=').expect("a declaration has a value");
        *line = format!("{left}= {value};");
        self
    }

    /// Replaces the lines of region `name`.
    pub fn region(mut self, name: &str, text: &str) -> Template {
        let mark = |line: &String, word: &str| line.trim() == format!("// {word} {name}");
        let begin = self.lines.iter().position(|line| mark(line, "begin"));
        let end = self.lines.iter().position(|line| mark(line, "end"));
        let (Some(begin), Some(end)) = (begin, end) else { panic!("{}.wgsl has no region `{name}`", self.name) };
        self.lines.splice(begin..=end, text.lines().map(str::to_owned));
        self
    }

    /// The text without comments and blank lines, so that kernels which differ in nothing else share a pipeline.
    pub fn into_text(self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let code = line.split("//").next().unwrap_or_default().trim_end();
            if !code.trim().is_empty() {
                text.push_str(code);
                text.push('\n');
            }
        }
        text
    }
}

/// The functions of `lib/*.wgsl` that `code` calls, and those that they call, in file order.
pub fn library(code: &str) -> String {
    let mut functions: Vec<(String, String)> = Vec::new();
    for name in ["lib/math", "lib/threefry"] {
        let text = Template::new(name).into_text();
        for line in text.lines() {
            match line.strip_prefix("fn ") {
                Some(rest) => functions.push((rest.split('(').next().unwrap_or_default().to_owned(), format!("{line}\n"))),
                None => functions.last_mut().expect("the library holds functions only").1 += &format!("{line}\n"),
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

/// True when `code` holds `name(` that is not the end of a longer name.
fn calls(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}(")).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_brings_what_its_functions_call() {
        let text = library("let y = hyperbolic_tangent(x);");
        for name in ["fn hyperbolic_tangent(", "fn exponential(", "fn power_of_two(", "fn is_nan("] {
            assert!(text.contains(name), "{name} is missing in:\n{text}");
        }
        assert!(!text.contains("fn sine("), "unused functions stay away:\n{text}");
        assert_eq!(library("my_sine(x)"), "");
    }

    #[test]
    fn marked_declarations_are_replaced() {
        let text = Template::new("reduce_arg")
            .count("LENGTH", 7)
            .alias("T", "i32")
            .flag("IS_MAX", false)
            .region("is_nan", "fn nothing() {}")
            .into_text();
        for line in ["const LENGTH: u32 = 7u;", "alias T = i32;", "const IS_MAX: bool = false;", "fn nothing() {}"] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("fn is_nan"));
    }
}
