//! `KernelOp::Group` as few launches: the shaders of the members become functions of one shader, and each workgroup runs one of them.
//!
//! A member's text is taken as it is: its declarations get names of their own, equal ones of the library and equal workgroup arrays are kept once, memory that
//! several members read is bound once, and `main` becomes a function that is given the number of its workgroup. A launch holds as many members as the device
//! binds buffers for. Second launches of members (long reductions) are joined in the same way behind the first ones.

use crate::gpu::launch::{Binding, Context, Step};
use crate::gpu::sources::is_directive;
use crate::gpu::template::library_names;
use crate::kernel::Kernel;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// Invocations of a workgroup of every member.
const LANES: usize = 64;

/// Characters of one text at most: compilers of drivers are slow beyond.
const TEXT_MAX: usize = 120_000;

/// Workgroups of a member that shares a launch on a software adapter. llvmpipe has no branches but masks: each workgroup steps through all members, which costs
/// a large one more than a launch of its own (6 members of Adam, 670,000 parameters: 6.7 ms together, 2.6 ms apart; a launch is about 0.05 ms).
const SOFTWARE_GROUPS_MAX: usize = 32;

/// True for so few workgroups that a software adapter runs them together with those of other kernels.
pub fn is_small(groups: usize) -> bool {
    groups <= SOFTWARE_GROUPS_MAX
}

/// Appends the launches of a group.
pub fn emit(context: &mut Context, label: &str, members: &[Kernel]) -> Result<(), String> {
    let mut stages: Vec<Vec<Step>> = Vec::new();
    for member in members {
        for (stage, step) in context.steps_of(member)?.into_iter().enumerate() {
            if stages.len() == stage {
                stages.push(Vec::new());
            }
            stages[stage].push(step);
        }
    }
    let shared = library_names(context.sources());
    for steps in stages {
        let mut open: Option<Joined> = None;
        for step in steps {
            let Step::Launch { wgsl, bindings, grid, .. } = &step else {
                context.push(step);
                continue;
            };
            let groups = grid[0] as usize * grid[1] as usize;
            if !has_usual_lanes(wgsl) || (context.target.is_software && !is_small(groups)) {
                context.push(step);
                continue;
            }
            let limit = context.target.storage_buffers_max;
            let grown = open.as_ref().and_then(|open| open.with(wgsl, bindings, groups, limit, &shared));
            let next = match grown {
                Some(grown) => grown,
                None => {
                    if let Some(full) = open.take() {
                        full.launch(context, label)?;
                    }
                    let alone = Joined::default().with(wgsl, bindings, groups, limit, &shared);
                    alone.ok_or("a kernel alone fits into a launch of its own")?
                }
            };
            open = Some(next);
        }
        if let Some(last) = open {
            last.launch(context, label)?;
        }
    }
    Ok(())
}

/// True when the text says that a workgroup has [`LANES`] invocations.
pub fn has_usual_lanes(wgsl: &str) -> bool {
    let number = |text: &str| text.trim_end_matches('u').parse::<usize>().ok();
    let size = || wgsl.split("@workgroup_size(").nth(1)?.split(')').next();
    let constant = |name: &str| number(wgsl.split(&format!("const {name}: u32 = ")).nth(1)?.split(';').next()?);
    size().and_then(|size| number(size).or_else(|| constant(size))) == Some(LANES)
}

/// A launch under construction.
#[derive(Clone, Default)]
pub struct Joined {
    /// Each with the type of its array.
    bindings: Vec<(Binding, String)>,
    /// Name and text of what members share.
    shared: BTreeMap<String, String>,
    text: String,
    /// End of each member in workgroups.
    ends: Vec<usize>,
}

impl Joined {
    /// The launch with one more member, if it fits.
    pub fn with(&self, wgsl: &str, bindings: &[Binding], groups: usize, limit: usize, library: &BTreeSet<String>) -> Option<Joined> {
        if !self.ends.is_empty() && self.text.len() + wgsl.len() > TEXT_MAX {
            return None;
        }
        let mut joined = self.clone();
        let member = self.ends.len();
        let mut declarations = declarations(wgsl);
        declarations.retain(|text| !is_directive(text));
        // An alias is written out.
        let alias = |text: &String| {
            let ty = text.strip_prefix("alias ")?.split(" = ").nth(1)?.trim_end_matches(';').to_owned();
            Some((name_of(text)?, ty))
        };
        let mut names: HashMap<String, String> = declarations.iter().filter_map(alias).collect();
        for text in declarations.iter().filter(|text| !text.starts_with("alias ")) {
            let name = name_of(text)?;
            if text.starts_with("@group") {
                let binding = bindings[binding_of(text)?];
                let array = renamed(text.split(": ").last()?.trim_end_matches(';'), &names);
                names.insert(name, format!("g{}", joined.bind(binding, &array)?));
            } else if !library.contains(&name) && !text.starts_with("var<workgroup>") {
                names.insert(name.clone(), format!("{name}_m{member}"));
            }
        }
        if joined.bindings.len() > limit {
            return None;
        }
        for text in &declarations {
            let name = name_of(text)?;
            if text.starts_with("@group") || text.starts_with("alias ") {
            } else if let Some(rest) = text.strip_prefix("@compute") {
                let body = &rest[rest.find('{')?..];
                let _ = writeln!(joined.text, "fn main_m{member}(group: vec3<u32>, lane: u32) {}", renamed(body, &names));
            } else if library.contains(&name) {
                joined.shared.insert(name, text.clone());
            } else if text.starts_with("var<workgroup>") {
                // Only one member runs in a workgroup: arrays of one type are one.
                let ty = renamed(text.split(": ").nth(1)?.trim_end_matches(';'), &names);
                let known: String = ty.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                let own = format!("{name}_{known}");
                joined.shared.insert(own.clone(), format!("var<workgroup> {own}: {ty};"));
                names.insert(name, own);
            } else {
                let _ = writeln!(joined.text, "{}", renamed(text, &names));
            }
        }
        joined.ends.push(self.ends.last().copied().unwrap_or(0) + groups);
        Some(joined)
    }

    /// Number of a binding; `None` when one piece of memory would be written and bound twice.
    fn bind(&mut self, binding: Binding, array: &str) -> Option<usize> {
        let same = self.bindings.iter().position(|(known, known_array)| known.memory == binding.memory && known_array == array);
        let clashes = |known: &Binding| known.memory == binding.memory && (known.is_written || binding.is_written);
        if self.bindings.iter().enumerate().any(|(index, (known, _))| clashes(known) && Some(index) != same) {
            return None;
        }
        Some(match same {
            Some(index) => {
                self.bindings[index].0.is_written |= binding.is_written;
                index
            }
            None => {
                self.bindings.push((binding, array.to_owned()));
                self.bindings.len() - 1
            }
        })
    }

    fn launch(self, context: &mut Context, label: &str) -> Result<(), String> {
        let total = self.ends.last().copied().unwrap_or(0);
        context.launch(label, self.bindings(), total, |groups_x| {
            let mut text = self.text_before_main();
            let _ = writeln!(text, "@compute @workgroup_size({LANES})");
            let _ = writeln!(text, "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{");
            let _ = writeln!(text, "let index = group.y * {groups_x}u + group.x;");
            let mut start = 0;
            for (member, end) in self.ends.iter().enumerate() {
                let _ = writeln!(text, "if (index < {end}u) {{\nmain_m{member}(vec3<u32>(index - {start}u, 0u, 0u), lane);\nreturn;\n}}");
                start = *end;
            }
            text += "}\n";
            Ok(text)
        })
    }

    /// The buffers, binding `i` at position `i`.
    pub fn bindings(&self) -> Vec<Binding> {
        self.bindings.iter().map(|(binding, _)| *binding).collect()
    }

    /// A shader whose only workgroup runs the workgroups of all members one after the other.
    pub fn text_in_turn(&self) -> String {
        let mut text = self.text_before_main();
        let _ = writeln!(text, "@compute @workgroup_size({LANES})");
        let _ = writeln!(text, "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{");
        let mut start = 0;
        for (member, end) in self.ends.iter().enumerate() {
            for group in 0..end - start {
                if start + group > 0 {
                    // What was written before is read now, and arrays of the workgroup are used again.
                    text += "storageBarrier();\nworkgroupBarrier();\n";
                }
                let _ = writeln!(text, "main_m{member}(vec3<u32>({group}u, 0u, 0u), lane);");
            }
            start = *end;
        }
        text + "}\n"
    }

    fn text_before_main(&self) -> String {
        let mut text = String::new();
        for (index, (binding, array)) in self.bindings.iter().enumerate() {
            let access = if binding.is_written { "read_write" } else { "read" };
            let _ = writeln!(text, "@group(0) @binding({index}) var<storage, {access}> g{index}: {array};");
        }
        self.shared.values().for_each(|declaration| {
            let _ = writeln!(text, "{declaration}");
        });
        text + &self.text
    }
}

/// The declarations of a module, each from its first line to its last.
fn declarations(wgsl: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut current = String::new();
    let mut depth = 0usize;
    for line in wgsl.lines() {
        if !current.is_empty() {
            current.push('\n');
        }
        current.push_str(line);
        depth += line.matches('{').count();
        depth -= line.matches('}').count();
        let ends = depth == 0 && (line.ends_with(';') || line.ends_with('}'));
        if ends {
            all.push(std::mem::take(&mut current));
        }
    }
    all
}

/// The name that a declaration gives.
fn name_of(declaration: &str) -> Option<String> {
    let after = ["fn ", "const ", "alias ", "> "].into_iter().filter_map(|mark| declaration.find(mark).map(|at| (at, mark))).min()?;
    let rest = &declaration[after.0 + after.1.len()..];
    Some(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

fn binding_of(declaration: &str) -> Option<usize> {
    declaration.split("@binding(").nth(1)?.split(')').next()?.parse().ok()
}

/// The text with whole words replaced; members (`.x`) stay.
fn renamed(text: &str, names: &HashMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len() + text.len() / 4);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_ascii_alphanumeric() || first == '_';
        let length = rest.find(|c: char| (c.is_ascii_alphanumeric() || c == '_') != is_word).unwrap_or(rest.len());
        let (token, after) = rest.split_at(length);
        let is_name = is_word && !first.is_ascii_digit() && !result.ends_with('.');
        result.push_str(if is_name { names.get(token).map_or(token, String::as_str) } else { token });
        rest = after;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_renamed() {
        let names = HashMap::from([("to".to_owned(), "g1".to_owned()), ("T".to_owned(), "T_f32".to_owned())]);
        assert_eq!(renamed("to[total.to + to_0] = T(0.0T);", &names), "g1[total.to + to_0] = T_f32(0.0T);");
    }

    #[test]
    fn declarations_end_where_they_end() {
        let text =
            "const A: u32 = 1u;\n@compute @workgroup_size(64)\nfn main(x: u32) {\nif (x > A) {\n}\n}\nvar<workgroup> p: array<f32, 4>;";
        let found = declarations(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().map(|text| name_of(text).unwrap()).collect::<Vec<_>>(), ["A", "main", "p"]);
    }
}
