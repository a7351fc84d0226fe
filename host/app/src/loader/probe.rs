//! What a file says about itself, found without running any of it.
//!
//! `dlopen` of a damaged file can end the process inside the system's loader, so everything that can be seen from outside is seen first.

use super::LoadError;
use object::read::{ExportTarget, NameOrOrdinal};
use object::{Architecture, BinaryFormat, Object, ObjectKind, ObjectSegment};
use sha2::{Digest, Sha256};
use solstice_plugin_abi::{MANIFEST_BYTES, MANIFEST_SYMBOL_PREFIX, Manifest, ManifestError, ROOT_SYMBOL_PREFIX};
use std::path::Path;

/// A plugin is some megabytes; what is larger is something else.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file that looks like a plugin.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its own words about itself.
    pub manifest: Manifest,
    /// The exported header, to look up after loading.
    pub root_symbol: String,
}

/// Reads a file once; everything later works on these bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Unreadable(error.to_string());
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(LoadError::NotALibrary("it is no regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(LoadError::NotALibrary("it is larger than 1 GiB, which no plugin is".into()));
    }
    std::fs::read(path).map_err(unreadable)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks at a library's headers, exports and manifest. Does not judge the version.
pub fn probe(bytes: &[u8], file_stem: &str) -> Result<Probe, LoadError> {
    let not = |what: &str| LoadError::NotALibrary(what.to_owned());
    let looks_like_elf = bytes.starts_with(b"\x7fELF");
    let file = object::File::parse(bytes).map_err(|_| {
        if looks_like_elf { not("it is damaged or cut off") } else { not("it is not a library: its first bytes belong to no known format") }
    })?;
    let (format, architecture) = (file.format(), file.architecture());
    if (format, architecture) != (host_format(), host_architecture()) {
        return Err(LoadError::NotALibrary(format!(
            "it is built for {architecture:?} {format:?}, this machine is {:?} {:?}",
            host_architecture(),
            host_format()
        )));
    }
    if file.kind() != ObjectKind::Dynamic {
        return Err(not("it is not a shared library"));
    }
    for segment in file.segments() {
        let (offset, size) = segment.file_range();
        if offset.checked_add(size).is_none_or(|end| end > bytes.len() as u64) {
            return Err(not("it is damaged or cut off"));
        }
    }
    let mut symbols: Vec<(String, u64)> = Vec::new();
    let unreadable = |_| not("it is damaged or cut off: its symbols cannot be read");
    for export in file.exports().map_err(unreadable)? {
        let export = export.map_err(unreadable)?;
        if let (NameOrOrdinal::Name(name), ExportTarget::Address { address }) = (export.name(), export.target()) {
            // Mach-O puts an underscore in front.
            symbols.push((String::from_utf8_lossy(name).trim_start_matches('_').to_owned(), address));
        }
    }
    let mut crates: Vec<(&str, u64)> =
        symbols.iter().filter_map(|(name, address)| Some((name.strip_prefix(MANIFEST_SYMBOL_PREFIX)?, *address))).collect();
    // A plugin that uses another one as a library exports both; the file's name tells which one it is.
    if crates.len() > 1 && crates.iter().any(|(name, _)| *name == file_stem) {
        crates.retain(|(name, _)| *name == file_stem);
    }
    let (name, address) = match crates[..] {
        [] => return Err(LoadError::NoManifest),
        [one] => one,
        _ => return Err(LoadError::SeveralPlugins(crates.iter().map(|(name, _)| (*name).to_owned()).collect())),
    };
    let root_symbol = format!("{ROOT_SYMBOL_PREFIX}{name}");
    if !symbols.iter().any(|(symbol, _)| *symbol == root_symbol) {
        return Err(LoadError::BadManifest);
    }
    // By segment, because sections of debug information have the address 0 and would shadow the data.
    let data = file.segments().find_map(|segment| segment.data_range(address, MANIFEST_BYTES as u64).ok().flatten());
    let manifest = Manifest::parse(data.ok_or(LoadError::BadManifest)?).map_err(load_error)?;
    Ok(Probe { manifest, root_symbol })
}

/// The boundary's version rule, as a refusal.
pub fn check_version(manifest: &Manifest) -> Result<(), LoadError> {
    manifest.check_version().map_err(load_error)
}

/// File name without folder, `lib` and extension.
pub fn file_stem(path: &Path) -> &str {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    stem.strip_prefix(std::env::consts::DLL_PREFIX).unwrap_or(stem)
}

fn load_error(error: ManifestError) -> LoadError {
    match error {
        ManifestError::Malformed => LoadError::BadManifest,
        ManifestError::Version(message) => LoadError::Version(message),
    }
}

fn host_format() -> BinaryFormat {
    if cfg!(windows) {
        BinaryFormat::Pe
    } else if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else {
        BinaryFormat::Elf
    }
}

fn host_architecture() -> Architecture {
    match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        "x86" => Architecture::I386,
        "riscv64" => Architecture::Riscv64,
        _ => Architecture::Unknown,
    }
}
