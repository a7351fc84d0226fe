//! Weights between safetensors files and a session: which tensor of a file is which weight, a report of it, and the values themselves.
//!
//! `--init` begins a run with the weights of a file ([`load`]). Writing a file is `commands/export.rs`; a whole state comes back by `train.rs`.

use anyhow::{Context, Result, anyhow, bail};
use regex::Regex;
use solstice_engine::Session;
use solstice_ir::{DType, TensorType};
use solstice_store::{DType as FileDType, Tensor, load_tensors};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Names of weights, trained and running alike, begin so; state of optimizers and metrics has other names.
pub const WEIGHT_PREFIX: &str = "model.";
/// How many tensors of a file that nothing wants are listed; a checkpoint has an optimizer's for each weight.
const EXTRA_ROWS_MAX: usize = 20;
/// How many tensors an error names.
const NAMED_MAX: usize = 3;

/// Element type and shape of a tensor in a file, where there are more types than in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileType {
    /// Element type.
    pub dtype: FileDType,
    /// Sizes of the axes, outermost first.
    pub shape: Vec<usize>,
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.dtype.tag(), sizes.join(","))
    }
}

/// Names and types of tensors, for [`match_weights`].
pub fn file_types(tensors: &[Tensor]) -> Vec<(String, FileType)> {
    tensors.iter().map(|tensor| (tensor.name.clone(), FileType { dtype: tensor.dtype, shape: tensor.shape.clone() })).collect()
}

/// How names of a file become names of weights.
#[derive(Clone, Debug)]
pub enum NameMap {
    /// A name that begins with `from` begins with `to` instead.
    Prefix {
        /// Empty: every name begins with it.
        from: String,
        /// May be empty.
        to: String,
    },
    /// Every match is replaced.
    Pattern {
        /// What is looked for.
        from: Regex,
        /// `${1}` and `${name}` are groups.
        to: String,
    },
}

impl NameMap {
    /// From `old.=new.` (a beginning) or `/regex/=new`.
    pub fn parse(text: &str) -> Result<NameMap> {
        if let Some((pattern, to)) = text.strip_prefix('/').and_then(|rest| rest.split_once("/=")) {
            let from = parse_regex(pattern)?;
            return Ok(NameMap::Pattern { from, to: to.to_owned() });
        }
        match text.split_once('=') {
            Some(("", "")) | None => {
                bail!("`{text}` is no renaming: write `old.=new.` for a beginning of names, or `/regex/=new` for any part of them")
            }
            Some((from, to)) => Ok(NameMap::Prefix { from: from.to_owned(), to: to.to_owned() }),
        }
    }

    fn rename(&self, name: &str) -> String {
        match self {
            NameMap::Prefix { from, to } => name.strip_prefix(from.as_str()).map_or_else(|| name.to_owned(), |rest| format!("{to}{rest}")),
            NameMap::Pattern { from, to } => from.replace_all(name, to.as_str()).into_owned(),
        }
    }
}

fn parse_regex(text: &str) -> Result<Regex> {
    // The crate draws the place of a mistake over several lines; its last line says what it is.
    Regex::new(text).map_err(|error| {
        let said = error.to_string();
        anyhow!("`{text}` is no regular expression: {}", said.lines().last().unwrap_or_default().trim_start_matches("error: "))
    })
}

/// For the parser of the command line: a renaming, as it was written.
pub fn checked_map(text: &str) -> Result<String, String> {
    NameMap::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// For the parser of the command line: a regular expression, as it was written.
pub fn checked_regex(text: &str) -> Result<String, String> {
    parse_regex(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A weight and the tensor of the file that has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The weight.
    pub name: String,
    /// Its type.
    pub wanted: TensorType,
    /// What the tensor is called in the file.
    pub file_name: String,
    /// Its type there.
    pub found: FileType,
}

impl Pair {
    fn is_converted(&self) -> bool {
        self.found.dtype.tag() != self.wanted.dtype.to_string()
    }

    // The same sizes in another order: values in row order would be a transposed weight, not the weight.
    fn is_perhaps_transposed(&self) -> bool {
        let sizes = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
        let (mut a, mut b) = (sizes(&self.wanted.shape), sizes(&self.found.shape));
        let differs = a != b;
        a.sort_unstable();
        b.sort_unstable();
        differs && a == b
    }
}

/// Which weights a file has. Each weight stands in one of the first five lists, each tensor of the file in `extra` or in a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchReport {
    /// Same shape, and the same type or one that is converted.
    pub matched: Vec<Pair>,
    /// As many elements in another shape; taken in row order, and only where part of the weights is enough.
    pub reshaped: Vec<Pair>,
    /// Another number of elements, or a type that is not converted.
    pub mismatched: Vec<Pair>,
    /// Weights that the file does not have.
    pub missing: Vec<(String, TensorType)>,
    /// Weights that were to be left as they are.
    pub skipped: Vec<(String, TensorType)>,
    /// Tensors of the file that are no weight, by their names there.
    pub extra: Vec<(String, FileType)>,
}

/// Finds each wanted weight among the tensors of a file, renamed by `maps` in order.
///
/// Errors: two tensors of the file that get the same name.
pub fn match_weights(found: &[(String, FileType)], wanted: &[(String, TensorType)], maps: &[NameMap]) -> Result<MatchReport> {
    let mut by_name: BTreeMap<String, &(String, FileType)> = BTreeMap::new();
    for tensor in found {
        let name = maps.iter().fold(tensor.0.clone(), |name, map| map.rename(&name));
        if let Some(other) = by_name.insert(name.clone(), tensor) {
            bail!("`{}` and `{}` of the file would both be called `{name}`: give the renaming more of the names", other.0, tensor.0);
        }
    }
    let mut report = MatchReport::default();
    for (name, ty) in wanted {
        let Some((file_name, file_type)) = by_name.remove(name) else {
            report.missing.push((name.clone(), ty.clone()));
            continue;
        };
        let pair = Pair { name: name.clone(), wanted: ty.clone(), file_name: file_name.clone(), found: file_type.clone() };
        let list = if !is_convertible(file_type.dtype, ty.dtype) {
            &mut report.mismatched
        } else if file_type.shape == ty.shape {
            &mut report.matched
        } else if solstice_ir::element_count(&file_type.shape) == ty.element_count() {
            &mut report.reshaped
        } else {
            &mut report.mismatched
        };
        list.push(pair);
    }
    report.extra = by_name.into_values().cloned().collect();
    Ok(report)
}

impl MatchReport {
    /// One line: how many weights match, and what is with the others.
    pub fn summary(&self) -> String {
        let wanted = self.matched.len() + self.reshaped.len() + self.mismatched.len() + self.missing.len() + self.skipped.len();
        let mut parts = vec![format!("{} of {wanted} weights match", self.matched.len())];
        let converted = self.matched.iter().filter(|pair| pair.is_converted()).count();
        let mut count = |count: usize, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        count(converted, "of them converted");
        count(self.reshaped.len(), "reshaped");
        count(self.mismatched.len(), "mismatched");
        count(self.missing.len(), "missing");
        count(self.skipped.len(), "skipped");
        count(self.extra.len(), if self.extra.len() == 1 { "tensor of the file not used" } else { "tensors of the file not used" });
        parts.join(", ")
    }

    /// Why the file must not be taken, as a sentence; `None` when it may. With `partial` what does not match is left as it is.
    pub fn problem(&self, partial: bool) -> Option<String> {
        if self.matched.is_empty() && self.reshaped.is_empty() && self.mismatched.is_empty() {
            let (Some((weight, _)), Some((tensor, _))) = (self.missing.first(), self.extra.first()) else {
                return Some("there is nothing to take from it".to_owned());
            };
            return Some(format!(
                "no tensor has the name of a weight: the file has `{tensor}`, the model `{weight}`. Rename with --init-map{}",
                self.likely_map().map_or(String::new(), |map| format!(", such as --init-map '{map}'"))
            ));
        }
        // Even a part has to be something.
        if partial && !(self.matched.is_empty() && self.reshaped.is_empty()) {
            return None;
        }
        let mut offenders: Vec<String> = vec![];
        for pair in self.mismatched.iter().chain(&self.reshaped) {
            offenders.push(format!("`{}` is {}, the file has {}", pair.name, pair.wanted, pair.found));
        }
        offenders.extend(self.missing.iter().map(|(name, _)| format!("`{name}` is not in the file")));
        if offenders.is_empty() {
            return None;
        }
        let rest = offenders.len().saturating_sub(NAMED_MAX);
        let named = offenders[..offenders.len() - rest].join("; ");
        let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        Some(format!(
            "{named}{rest}. --partial takes what fits, --init-map renames, --init-skip leaves a weight at its first value, --init-dry-run prints the table"
        ))
    }

    /// A change of beginnings that would give a missing weight a tensor that is left over.
    fn likely_map(&self) -> Option<String> {
        self.missing.iter().find_map(|(weight, _)| {
            self.extra.iter().find_map(|(tensor, _)| {
                let grown = weight.strip_suffix(tensor.as_str()).map(|prefix| format!("={prefix}"));
                grown.or_else(|| tensor.strip_suffix(weight.as_str()).map(|prefix| format!("{prefix}=")))
            })
        })
    }
}

/// A table, a line for each weight and tensor, and the summary below it.
impl fmt::Display for MatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<[String; 4]> = vec![];
        let pairs = [(&self.matched, "taken"), (&self.reshaped, "reshaped"), (&self.mismatched, "mismatched")];
        for (pair, status) in pairs.into_iter().flat_map(|(pairs, status)| pairs.iter().map(move |pair| (pair, status))) {
            let mut found = pair.found.to_string();
            if pair.file_name != pair.name {
                found += &format!(" {}", pair.file_name);
            }
            let status = match status {
                "taken" if pair.is_converted() => "taken, converted",
                "reshaped" if pair.is_perhaps_transposed() => "reshaped (perhaps transposed: values are in row order)",
                status => status,
            };
            rows.push([pair.name.clone(), pair.wanted.to_string(), found, status.to_owned()]);
        }
        for (list, status) in [(&self.missing, "missing"), (&self.skipped, "skipped")] {
            rows.extend(list.iter().map(|(name, ty)| [name.clone(), ty.to_string(), "-".to_owned(), status.to_owned()]));
        }
        rows.sort();
        rows.insert(0, ["weight", "wanted", "in the file", ""].map(str::to_owned));
        let listed = self.extra.iter().take(EXTRA_ROWS_MAX);
        rows.extend(listed.map(|(name, ty)| ["-".to_owned(), "-".to_owned(), format!("{ty} {name}"), "not used".to_owned()]));
        write_table(f, &rows)?;
        if self.extra.len() > EXTRA_ROWS_MAX {
            writeln!(f, "and {} more of the file, not used", self.extra.len() - EXTRA_ROWS_MAX)?;
        }
        f.write_str(&self.summary())
    }
}

/// Columns as wide as their widest cell, two spaces apart, without spaces at the ends of lines.
pub fn write_table<const N: usize>(out: &mut impl fmt::Write, rows: &[[String; N]]) -> fmt::Result {
    let widths: [usize; N] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// How `--init` takes a file.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// Renamings of the file's tensors, in order.
    pub maps: Vec<NameMap>,
    /// Weights whose names match one of these keep their first value.
    pub skip: Vec<Regex>,
    /// Take what fits and leave the rest at its first value.
    pub partial: bool,
    /// Only report.
    pub dry_run: bool,
}

impl InitOptions {
    /// From the words of the command line.
    pub fn new(maps: &[String], skip: &[String], partial: bool, dry_run: bool) -> Result<InitOptions> {
        let maps = maps.iter().map(|text| NameMap::parse(text)).collect::<Result<_>>()?;
        let skip = skip.iter().map(|text| parse_regex(text)).collect::<Result<_>>()?;
        Ok(InitOptions { maps, skip, partial, dry_run })
    }
}

/// Gives the `wanted` states of a session the values of a safetensors file, of Solstice or another program.
///
/// Call it before first values are given and copies of the weights are made. Nothing is written when the file does not fit.
/// A dry run reports and neither writes nor fails on what does not fit: [`MatchReport::problem`] tells.
pub fn load(session: &mut Session, wanted: &[(String, TensorType)], file: &Path, options: &InitOptions) -> Result<MatchReport> {
    let (tensors, _) = load_tensors(file)?;
    let is_skipped = |name: &str| options.skip.iter().any(|pattern| pattern.is_match(name));
    let (skipped, wanted): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(|(name, _)| is_skipped(name));
    let place = || format!("--init {}", file.display());
    let report = match_weights(&file_types(&tensors), &wanted, &options.maps).with_context(place)?;
    let report = MatchReport { skipped, ..report };
    if options.dry_run {
        return Ok(report);
    }
    if let Some(problem) = report.problem(options.partial) {
        return Err(anyhow!(problem).context(place()));
    }
    apply(session, &report, &tensors, options.partial)?;
    Ok(report)
}

/// Writes the matched tensors to the session, converted where types differ; with `partial` the reshaped ones too.
pub fn apply(session: &mut Session, report: &MatchReport, tensors: &[Tensor], partial: bool) -> Result<()> {
    let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let reshaped: &[Pair] = if partial { &report.reshaped } else { &[] };
    for pair in report.matched.iter().chain(reshaped) {
        let tensor = by_name[pair.file_name.as_str()];
        session.write_state(&pair.name, &pair.wanted, &converted(tensor, pair.wanted.dtype))?;
    }
    Ok(())
}

fn is_convertible(from: FileDType, to: DType) -> bool {
    match to {
        DType::F32 => matches!(from, FileDType::F32 | FileDType::F16 | FileDType::Bf16 | FileDType::F64),
        DType::I32 => from == FileDType::I32,
        DType::U32 => from == FileDType::U32,
        // A checkpoint keeps the device's 32-bit words.
        DType::Bool => matches!(from, FileDType::Bool | FileDType::U32),
        DType::U8 => from == FileDType::U8,
    }
}

/// The bytes of a tensor as a device takes them. `is_convertible` holds.
fn converted(tensor: &Tensor, to: DType) -> Cow<'_, [u8]> {
    let bytes = &tensor.bytes;
    let halves = || bytes.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
    let floats = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    match (tensor.dtype, to) {
        (FileDType::F16, DType::F32) => floats(&mut halves().map(f32_from_f16)).into(),
        (FileDType::Bf16, DType::F32) => floats(&mut halves().map(f32_from_bf16)).into(),
        (FileDType::F64, DType::F32) => {
            // Rounded to the nearest; beyond the largest f32 it is an infinity.
            floats(&mut bytes.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().expect("eight bytes")) as f32)).into()
        }
        (FileDType::Bool, DType::Bool) => bytes.iter().flat_map(|&byte| u32::from(byte != 0).to_le_bytes()).collect::<Vec<u8>>().into(),
        _ => bytes.into(),
    }
}

/// IEEE 754 half precision: 1 sign, 5 exponent, 10 fraction bits. Exact.
fn f32_from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // Below the least normal number: fraction * 2^-24.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        // Infinity, or a NaN that keeps its bits.
        31 => 0x7f80_0000 | fraction << 13,
        // The exponent's bias is 15 here and 127 there.
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The upper half of an f32. Exact.
fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_engine::device;
    use solstice_store::save_tensors;

    fn session() -> Session {
        Session::new(device::open(&"cpu".parse().unwrap()).unwrap().0)
    }

    fn tensor(name: &str, dtype: FileDType, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    }

    fn f32_tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        tensor(name, FileDType::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn wanted(weights: &[(&str, DType, &[usize])]) -> Vec<(String, TensorType)> {
        weights.iter().map(|&(name, dtype, shape)| (name.to_owned(), TensorType::new(dtype, shape))).collect()
    }

    fn found(tensors: &[(&str, FileDType, &[usize])]) -> Vec<(String, FileType)> {
        tensors.iter().map(|&(name, dtype, shape)| (name.to_owned(), FileType { dtype, shape: shape.to_vec() })).collect()
    }

    fn maps(texts: &[&str]) -> Vec<NameMap> {
        texts.iter().map(|text| NameMap::parse(text).unwrap()).collect()
    }

    fn read(session: &mut Session, name: &str) -> Vec<f32> {
        session.read_state(name).unwrap().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn half_precision_by_hand() {
        // Sign, exponent, fraction: the value is (-1)^s * 2^(e - 15) * (1 + f / 1024), and for e = 0 (-1)^s * f * 2^-24.
        let halves: [(u16, f32); 12] = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),    // 2^-2 * (1 + 341 / 1024)
            (0x7bff, 65_504.0),        // the largest: 2^15 * (1 + 1023 / 1024)
            (0x0400, 6.103_515_6e-5),  // the least normal: 2^-14
            (0x03ff, 6.097_555e-5),    // 1023 * 2^-24
            (0x0001, 5.960_464_5e-8),  // 2^-24
            (0x8001, -5.960_464_5e-8), // -2^-24
            (0x4248, 3.140_625),       // 2 * (1 + 584 / 1024)
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in halves {
            assert_eq!(f32_from_f16(bits), value, "{bits:#06x}");
        }
        assert!(f32_from_f16(0x8000).is_sign_negative() && f32_from_f16(0x8000) == 0.0);
        assert!(f32_from_f16(0x7e00).is_nan() && f32_from_f16(0xfc01).is_nan());
        // Sign, exponent of 8 bits with bias 127, fraction of 7 bits.
        let brains: [(u16, f32); 6] = [
            (0x3f80, 1.0),
            (0xc000, -2.0),
            (0x4049, 3.140_625),    // 2 * (1 + 73 / 128)
            (0x0001, 9.183_55e-41), // 2^-126 / 128
            (0x7f80, f32::INFINITY),
            (0x42f7, 123.5), // 64 * (1 + 119 / 128)
        ];
        for (bits, value) in brains {
            assert_eq!(f32_from_bf16(bits), value, "{bits:#06x}");
        }
        assert!(f32_from_bf16(0x7fc0).is_nan());
    }

    #[test]
    fn each_weight_stands_in_one_list() {
        let found = found(&[
            ("a", FileDType::F32, &[2, 3]),
            ("b", FileDType::F16, &[4]),
            ("c", FileDType::F32, &[3, 2]),
            ("d", FileDType::F32, &[7]),
            ("e", FileDType::I64, &[2]),
            ("g", FileDType::F32, &[1]),
        ]);
        let wanted = wanted(&[
            ("a", DType::F32, &[2, 3]),
            ("b", DType::F32, &[4]),
            ("c", DType::F32, &[2, 3]),
            ("d", DType::F32, &[8]),
            ("e", DType::F32, &[2]),
            ("f", DType::F32, &[5]),
        ]);
        let report = match_weights(&found, &wanted, &[]).unwrap();
        let names = |pairs: &[Pair]| pairs.iter().map(|pair| pair.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&report.matched), ["a", "b"]);
        assert_eq!(names(&report.reshaped), ["c"]);
        assert_eq!(names(&report.mismatched), ["d", "e"]);
        assert_eq!((report.missing[0].0.as_str(), report.missing.len()), ("f", 1));
        assert_eq!((report.extra[0].0.as_str(), report.extra.len()), ("g", 1));
        assert_eq!(
            report.to_string(),
            "\
weight  wanted    in the file
a       f32[2,3]  f32[2,3]     taken
b       f32[4]    f16[4]       taken, converted
c       f32[2,3]  f32[3,2]     reshaped (perhaps transposed: values are in row order)
d       f32[8]    f32[7]       mismatched
e       f32[2]    i64[2]       mismatched
f       f32[5]    -            missing
-       -         f32[1] g     not used
2 of 6 weights match, 1 of them converted, 1 reshaped, 2 mismatched, 1 missing, 1 tensor of the file not used"
        );
        let problem = report.problem(false).unwrap();
        assert!(
            problem.starts_with("`d` is f32[8], the file has f32[7]; `e` is f32[2], the file has i64[2]; `c` is f32[2,3]"),
            "{problem}"
        );
        assert!(problem.contains("; and 1 more. --partial takes what fits"), "{problem}");
        assert_eq!(report.problem(true), None);
        let whole = match_weights(&found, &wanted[..2], &[]).unwrap();
        assert_eq!(whole.problem(false), None, "tensors that nothing wants do no harm");
    }

    #[test]
    fn names_are_changed_in_order_by_beginnings_and_patterns() {
        let rename = |texts: &[&str], name: &str| maps(texts).iter().fold(name.to_owned(), |name, map| map.rename(&name));
        assert_eq!(rename(&["=model."], "fc1.weight"), "model.fc1.weight");
        assert_eq!(rename(&["encoder.=model."], "encoder.encoder.w"), "model.encoder.w");
        assert_eq!(rename(&["encoder.=model."], "my.encoder.w"), "my.encoder.w");
        assert_eq!(rename(&["module.="], "module.fc"), "fc");
        assert_eq!(rename(&[r"/^h\.(\d+)\./=model.block${1}."], "h.11.ln"), "model.block11.ln");
        assert_eq!(rename(&["/kernel$/=weight", "/\\//=."], "Dense_0/kernel"), "Dense_0.weight");
        assert_eq!(rename(&["a=b", "b=c"], "a"), "c", "in order");
        for (text, says) in [("weights", "is no renaming"), ("=", "is no renaming"), ("/(/=x", "is no regular expression")] {
            let sentence = NameMap::parse(text).unwrap_err().to_string();
            assert!(sentence.contains(says) && !sentence.contains('\n'), "{sentence}");
        }
        let found = found(&[("a.w", FileDType::F32, &[1]), ("b.w", FileDType::F32, &[1])]);
        let sentence = match_weights(&found, &[], &maps(&["a.=m.", "b.=m."])).unwrap_err().to_string();
        assert!(sentence.starts_with("`a.w` and `b.w` of the file would both be called `m.w`"), "{sentence}");
    }

    #[test]
    fn a_file_that_fits_is_taken_and_one_that_does_not_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let half = |values: [u16; 2]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [
            f32_tensor("fc.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            tensor("fc.bias", FileDType::Bf16, &[2], half([0x3f80, 0xc000])),
            tensor("norm.mean", FileDType::F16, &[2], half([0x3c00, 0x0001])),
            tensor("norm.var", FileDType::F64, &[1], 0.1f64.to_le_bytes().to_vec()),
            tensor("on", FileDType::Bool, &[2], vec![1, 0]),
        ];
        save_tensors(&path, &BTreeMap::new(), &tensors).unwrap();
        let mut session = session();
        let weights: [(&str, DType, &[usize]); 5] = [
            ("model.fc.weight", DType::F32, &[2, 2]),
            ("model.fc.bias", DType::F32, &[2]),
            ("model.norm.mean", DType::F32, &[2]),
            ("model.norm.var", DType::F32, &[1]),
            ("model.on", DType::Bool, &[2]),
        ];
        for (name, ty) in wanted(&weights) {
            session.write_state(&name, &ty, &vec![0; ty.byte_count()]).unwrap();
        }
        session.write_state("optimizer.step", &TensorType::new(DType::U32, []), &[9, 0, 0, 0]).unwrap();
        let weights = wanted(&weights);
        let options = |texts: &[&str], skip: &[&str]| InitOptions {
            maps: maps(texts),
            skip: skip.iter().map(|text| parse_regex(text).unwrap()).collect(),
            ..InitOptions::default()
        };

        let sentence = format!("{:#}", load(&mut session, &weights, &path, &options(&[], &[])).unwrap_err());
        assert!(
            sentence.contains("no tensor has the name of a weight") && sentence.ends_with("such as --init-map '=model.'"),
            "{sentence}"
        );
        let dry = InitOptions { dry_run: true, ..options(&["=model."], &[]) };
        assert_eq!(load(&mut session, &weights, &path, &dry).unwrap().matched.len(), 5);
        assert_eq!(read(&mut session, "model.fc.weight"), [0.0; 4], "a dry run changes nothing");

        let report = load(&mut session, &weights, &path, &options(&["=model."], &["var$"])).unwrap();
        assert_eq!(report.summary(), "4 of 5 weights match, 2 of them converted, 1 skipped, 1 tensor of the file not used");
        assert_eq!(read(&mut session, "model.fc.weight"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(read(&mut session, "model.fc.bias"), [1.0, -2.0]);
        assert_eq!(read(&mut session, "model.norm.mean"), [1.0, 2f32.powi(-24)]);
        assert_eq!(read(&mut session, "model.norm.var"), [0.0], "skipped");
        assert_eq!(session.read_state("model.on").unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
        load(&mut session, &weights, &path, &options(&["=model."], &[])).unwrap();
        assert_eq!(read(&mut session, "model.norm.var"), [0.1]);
    }

    #[test]
    fn another_shape_is_taken_only_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let tensors = [
            f32_tensor("model.a", &[4], &[1.0, 2.0, 3.0, 4.0]),
            f32_tensor("model.b", &[3], &[5.0; 3]),
            f32_tensor("model.c", &[1], &[6.0]),
        ];
        save_tensors(&path, &BTreeMap::new(), &tensors).unwrap();
        let mut session = session();
        let weights = wanted(&[
            ("model.a", DType::F32, &[2, 2]),
            ("model.b", DType::F32, &[2]),
            ("model.c", DType::F32, &[1]),
            ("model.d", DType::F32, &[1]),
        ]);
        for (name, ty) in &weights {
            session.write_state(name, ty, &vec![0; ty.byte_count()]).unwrap();
        }
        let mut options = InitOptions::default();
        let sentence = format!("{:#}", load(&mut session, &weights, &path, &options).unwrap_err());
        assert!(sentence.starts_with(&format!("--init {}: `model.b` is f32[2], the file has f32[3]; ", path.display())), "{sentence}");
        assert!(sentence.contains("`model.d` is not in the file"), "{sentence}");
        assert_eq!(read(&mut session, "model.c"), [0.0], "nothing is taken of a file that does not fit");
        options.partial = true;
        let report = load(&mut session, &weights, &path, &options).unwrap();
        assert_eq!(report.summary(), "1 of 4 weights match, 1 reshaped, 1 mismatched, 1 missing");
        assert!(report.to_string().contains("model.a  f32[2,2]  f32[4]       reshaped\n"), "{report}");
        assert_eq!(read(&mut session, "model.a"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(read(&mut session, "model.b"), [0.0; 2]);
        assert_eq!((read(&mut session, "model.c"), read(&mut session, "model.d")), (vec![6.0], vec![0.0]));
        // A file that is no safetensors is a sentence.
        std::fs::write(&path, "PK\u{3}\u{4} a zip file of another framework").unwrap();
        let sentence = load(&mut session, &weights, &path, &options).unwrap_err().to_string();
        assert!(sentence.contains("other.safetensors") && sentence.contains("header"), "{sentence}");
    }
}
