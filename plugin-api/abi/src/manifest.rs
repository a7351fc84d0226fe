//! A kilobyte of `key=value` lines in the file's data, readable without running the file.

use std::collections::BTreeMap;

/// Size of the manifest, zero-filled at the end.
pub const MANIFEST_BYTES: usize = 1024;

/// A plugin exports its manifest as `SOLSTICE_PLUGIN_MANIFEST_<crate>`.
///
/// The crate's name is in the symbol so that several plugins link into one test binary; a fixed name would be defined twice there.
pub const MANIFEST_SYMBOL_PREFIX: &str = "SOLSTICE_PLUGIN_MANIFEST_";

const MAGIC: &str = "solstice-plugin\n";

/// Builds the manifest at compile time: `lines` are key and value.
///
/// `components` (the last line, ids joined by spaces) is cut at the end of the room; [`Manifest::components_complete`] tells. Everything else must fit.
pub const fn encode_manifest(lines: &[(&str, &str)], components: &[(&str, &str)]) -> [u8; MANIFEST_BYTES] {
    let mut out = [0; MANIFEST_BYTES];
    let mut at = put(&mut out, 0, MAGIC.as_bytes());
    let mut index = 0;
    while index < lines.len() {
        at = put(&mut out, at, lines[index].0.as_bytes());
        at = put(&mut out, at, b"=");
        at = put(&mut out, at, lines[index].1.as_bytes());
        at = put(&mut out, at, b"\n");
        index += 1;
    }
    at = put(&mut out, at, b"components=");
    let mut index = 0;
    while index < components.len() {
        let (kind, id) = components[index];
        // Room for this one, the separator, the mark of a cut and the newline.
        if at + kind.len() + id.len() + 5 > MANIFEST_BYTES {
            at = put(&mut out, at, b"..");
            break;
        }
        at = put(&mut out, at, kind.as_bytes());
        at = put(&mut out, at, b":");
        at = put(&mut out, at, id.as_bytes());
        at = put(&mut out, at, b" ");
        index += 1;
    }
    put(&mut out, at, b"\n");
    out
}

const fn put(out: &mut [u8; MANIFEST_BYTES], at: usize, bytes: &[u8]) -> usize {
    assert!(at + bytes.len() < MANIFEST_BYTES, "the plugin's name and version do not fit into its manifest");
    let mut index = 0;
    while index < bytes.len() {
        out[at + index] = bytes[index];
        index += 1;
    }
    at + bytes.len()
}

/// A manifest as read from a file. Text of a stranger: shown, compared, never trusted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    /// Version of the boundary that the plugin was built with, e.g. `1.0.0`.
    pub abi: String,
    /// Package name.
    pub name: String,
    /// Package version.
    pub version: String,
    /// `rustc --version` of its compiler.
    pub rustc: String,
    /// `unwind` or `abort`; an aborting plugin takes its process along when it panics.
    pub panic: String,
    /// Kind and id of what it offers.
    pub components: Vec<(String, String)>,
    /// False when the list did not fit.
    pub components_complete: bool,
}

/// Why bytes are no manifest that this host can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// Not a manifest at all.
    Malformed,
    /// Written for another major version, or a newer minor one: what to do.
    Version(String),
}

impl Manifest {
    /// Reads a manifest; checks its form alone.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| ManifestError::Malformed)?;
        let body = text.strip_prefix(MAGIC).ok_or(ManifestError::Malformed)?;
        let lines: BTreeMap<&str, &str> = body.lines().filter_map(|line| line.split_once('=')).collect();
        let line = |key: &str| lines.get(key).map(|value| (*value).to_owned());
        let components = lines.get("components").copied().unwrap_or("");
        Ok(Manifest {
            abi: line("abi").ok_or(ManifestError::Malformed)?,
            name: line("name").ok_or(ManifestError::Malformed)?,
            version: line("version").unwrap_or_default(),
            rustc: line("rustc").unwrap_or_default(),
            panic: line("panic").unwrap_or_default(),
            components: components
                .split(' ')
                .filter_map(|pair| pair.split_once(':'))
                .map(|(kind, id)| (kind.to_owned(), id.to_owned()))
                .collect(),
            components_complete: !components.ends_with(".."),
        })
    }

    /// The version rule: same major, and a minor that this host has already.
    pub fn check_version(&self) -> Result<(), ManifestError> {
        let host = crate::ABI_VERSION;
        let (theirs, ours) = (major_minor(&self.abi), major_minor(host));
        let (Some((their_major, their_minor)), Some((our_major, our_minor))) = (theirs, ours) else {
            return Err(ManifestError::Malformed);
        };
        let abi = &self.abi;
        let problem = if their_major > our_major || (their_major == our_major && their_minor > our_minor) {
            format!("built for plugin ABI {abi}, this host has {host}: update Solstice, or build the plugin against {host}")
        } else if their_major < our_major {
            format!("built for plugin ABI {abi}, this host has {host}: rebuild the plugin")
        } else {
            return Ok(());
        };
        Err(ManifestError::Version(problem))
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(abi: &str) -> Manifest {
        let lines = [("abi", abi), ("name", "mlp"), ("version", "0.1.0"), ("rustc", "rustc 1.95.0"), ("panic", "unwind")];
        Manifest::parse(&encode_manifest(&lines, &[("model", "mlp"), ("metric", "top-5")])).unwrap()
    }

    #[test]
    fn reads_what_it_writes() {
        let read = manifest("1.0.0");
        assert_eq!((read.name.as_str(), read.panic.as_str()), ("mlp", "unwind"));
        assert_eq!(read.components, [("model".into(), "mlp".into()), ("metric".into(), "top-5".into())]);
        assert!(read.components_complete);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let many = [("model", "a-model-with-a-rather-long-name"); 60];
        let read = Manifest::parse(&encode_manifest(&[("abi", "1.0.0"), ("name", "many")], &many)).unwrap();
        assert!(!read.components_complete);
        assert!(read.components.len() > 10 && read.components.len() < 60);
        assert!(read.components.iter().all(|(_, id)| id == "a-model-with-a-rather-long-name"));
    }

    #[test]
    fn majors_must_agree_and_the_host_must_not_be_older() {
        let (major, minor) = major_minor(crate::ABI_VERSION).unwrap();
        assert_eq!(manifest(&format!("{major}.{minor}.9")).check_version(), Ok(()));
        assert_eq!(manifest(&format!("{major}.0.0")).check_version(), Ok(()));
        for refused in [format!("{}.0.0", major + 1), format!("{major}.{}.0", minor + 1), "0.9.0".into(), "new".into()] {
            assert!(manifest(&refused).check_version().is_err(), "{refused}");
        }
    }
}
