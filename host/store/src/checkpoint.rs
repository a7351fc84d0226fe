//! Checkpoints as safetensors files: written beside, synced, renamed; read back only when every byte is as it was written.
//!
//! Two things stand in `__metadata__` besides the caller's strings: `solstice`, the position and metrics as JSON, so that a file says by itself
//! what it is; and `solstice.sha256`, a checksum over names, types, shapes, values and strings, so that a file that moved to another machine is
//! still checked. Any program that reads safetensors reads these files. The header is written here and not by the `safetensors` crate, whose
//! hash map gives equal states unequal files; reading uses that crate's checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype as FileDType, Metadata};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Result, StoreError};
use crate::rows::{At, CheckpointRow, json_from_metrics, metrics_from_json};

pub(crate) const SUFFIX: &str = ".safetensors";
pub(crate) const PARTIAL_SUFFIX: &str = ".partial";
const POSITION_KEY: &str = "solstice";
const CHECKSUM_KEY: &str = "solstice.sha256";
/// The limit of the `safetensors` crate: a longer header is damage.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Element type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// One byte of 0 or 1 an element (a device's 32-bit truth words are narrowed by the caller).
    Bool,
    /// Byte.
    U8,
    /// Signed byte.
    I8,
    /// Half precision.
    F16,
    /// Upper half of single precision.
    Bf16,
    /// Signed word.
    I32,
    /// Unsigned word: random keys and counters, kept bit for bit.
    U32,
    /// Single precision.
    F32,
    /// Signed double word.
    I64,
    /// Unsigned double word.
    U64,
    /// Double precision.
    F64,
}

/// Type, our tag, the file's tag, bytes of an element.
const DTYPES: [(DType, &str, &str, usize); 11] = [
    (DType::Bool, "bool", "BOOL", 1),
    (DType::U8, "u8", "U8", 1),
    (DType::I8, "i8", "I8", 1),
    (DType::F16, "f16", "F16", 2),
    (DType::Bf16, "bf16", "BF16", 2),
    (DType::I32, "i32", "I32", 4),
    (DType::U32, "u32", "U32", 4),
    (DType::F32, "f32", "F32", 4),
    (DType::I64, "i64", "I64", 8),
    (DType::U64, "u64", "U64", 8),
    (DType::F64, "f64", "F64", 8),
];

impl DType {
    fn entry(self) -> &'static (DType, &'static str, &'static str, usize) {
        &DTYPES[self as usize]
    }

    /// `f32`, `bool`: the graph's name of it.
    pub fn tag(self) -> &'static str {
        self.entry().1
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.entry().3
    }

    /// The type of this tag.
    pub fn from_tag(tag: &str) -> Option<DType> {
        DTYPES.iter().find(|entry| entry.1 == tag).map(|entry| entry.0)
    }

    fn file_tag(self) -> &'static str {
        self.entry().2
    }

    fn from_file(dtype: FileDType) -> Option<DType> {
        let tag = format!("{dtype:?}");
        DTYPES.iter().find(|entry| entry.2 == tag).map(|entry| entry.0)
    }
}

/// A named tensor of plain bytes: little-endian, row-major, no gaps.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Unique within a checkpoint.
    pub name: String,
    /// Type of an element.
    pub dtype: DType,
    /// Extents; empty for a scalar.
    pub shape: Vec<usize>,
    /// `shape` product times the element's size.
    pub bytes: Vec<u8>,
}

/// What a checkpoint is, besides its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewCheckpoint {
    /// Where in training: the step that was finished last.
    pub at: At,
    /// Index of the next sample within the epoch.
    pub position: u64,
    /// `cadence`, `every` (kept for ever), `best`, `end`, `stop`, `nan`, `reload`, `command`.
    pub reason: String,
    /// The metrics known now.
    pub metrics: BTreeMap<String, f64>,
    /// Retention leaves it.
    pub pinned: bool,
    /// Everything else a resume needs, by the caller's names: config, states of callbacks, hashes. Names that begin with `solstice` are taken.
    pub metadata: BTreeMap<String, String>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCheckpoint {
    /// Size of the file.
    pub bytes: u64,
    /// Checksum of its content.
    pub sha256: String,
}

/// A checkpoint read back whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it is, with the caller's strings.
    pub info: NewCheckpoint,
    /// In the order of the file: larger element types first, then by name.
    pub tensors: Vec<Tensor>,
    /// Its checksum, found right.
    pub sha256: String,
}

impl Checkpoint {
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Writes a checkpoint to `path`: to a file beside it first, synced to the disk, then renamed over. A process that dies at any moment leaves
/// the old file or the new one.
///
/// Errors: `StoreError::Tensor` for a tensor whose bytes do not fit its shape, a repeated name or a truth byte other than 0 and 1.
/// Equal input gives an equal file, byte for byte.
pub fn save_checkpoint(path: &Path, new: &NewCheckpoint, tensors: &[Tensor]) -> Result<SavedCheckpoint> {
    let ordered = in_file_order(tensors)?;
    let mut metadata = new.metadata.clone();
    if let Some(key) = metadata.keys().find(|key| key.starts_with(POSITION_KEY)) {
        return Err(StoreError::checkpoint(
            path,
            format!("metadata key `{key}` is taken: names that begin with `solstice` belong to the store"),
        ));
    }
    metadata.insert(POSITION_KEY.to_string(), position_json(new));
    let sha256 = content_sha256(&metadata, &ordered);
    metadata.insert(CHECKSUM_KEY.to_string(), sha256.clone());
    let bytes = write_beside(path, &metadata, &ordered).map_err(StoreError::io("write the checkpoint", path))?;
    Ok(SavedCheckpoint { bytes, sha256 })
}

/// Writes plain safetensors for other programs: the caller's strings and nothing of ours, so neither a position nor a checksum. Written beside,
/// synced and renamed as a checkpoint is. Returns the size of the file.
///
/// Errors: as [`save_checkpoint`].
pub fn save_tensors(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[Tensor]) -> Result<u64> {
    write_beside(path, metadata, &in_file_order(tensors)?).map_err(StoreError::io("write the tensors to", path))
}

/// Reads a checkpoint that [`save_checkpoint`] wrote, and refuses it with a sentence unless every value, name and string is as it was written.
pub fn load_checkpoint(path: &Path) -> Result<Checkpoint> {
    let (mut metadata, tensors) = read_file(path)?;
    let Some(wanted) = metadata.remove(CHECKSUM_KEY) else {
        let problem = "it has no checksum: either damaged or not written by Solstice. Weights of other programs load with --init";
        return Err(StoreError::checkpoint(path, problem));
    };
    let found = content_sha256(&metadata, &tensors.iter().collect::<Vec<_>>());
    if found != wanted {
        let problem = format!(
            "damaged: the checksum of its content is {} and {} was recorded. Use an earlier checkpoint",
            short(&found),
            short(&wanted)
        );
        return Err(StoreError::checkpoint(path, problem));
    }
    let info = metadata.remove(POSITION_KEY).and_then(|text| position_from_json(&text)).ok_or_else(|| {
        StoreError::checkpoint(path, "it does not say at which step it was saved: not a checkpoint of this version of Solstice")
    })?;
    Ok(Checkpoint { info: NewCheckpoint { metadata, ..info }, tensors, sha256: wanted })
}

/// Reads the tensors and strings of any safetensors file, of Solstice or another program. A checksum is verified where there is one.
pub fn load_tensors(path: &Path) -> Result<(Vec<Tensor>, BTreeMap<String, String>)> {
    let (mut metadata, tensors) = read_file(path)?;
    if let Some(wanted) = metadata.remove(CHECKSUM_KEY)
        && wanted != content_sha256(&metadata, &tensors.iter().collect::<Vec<_>>())
    {
        return Err(StoreError::checkpoint(path, "damaged: its content does not match its checksum"));
    }
    Ok((tensors, metadata))
}

/// Name of the checkpoint of a step.
pub(crate) fn file_name(step: u64) -> String {
    format!("step-{step:09}{SUFFIX}")
}

/// The index row of a whole checkpoint file, for files that are not yet indexed.
pub(crate) fn row_from_file(path: &Path) -> Result<CheckpointRow> {
    let checkpoint = load_checkpoint(path)?;
    let metadata = fs::metadata(path).map_err(StoreError::io("read the checkpoint", path))?;
    let saved = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(CheckpointRow {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: path.to_path_buf(),
        at: checkpoint.info.at,
        position: checkpoint.info.position,
        time: saved.map_or(0.0, |saved| saved.as_secs_f64()),
        bytes: metadata.len(),
        sha256: checkpoint.sha256,
        metrics: checkpoint.info.metrics,
        reason: checkpoint.info.reason,
        pinned: checkpoint.info.pinned,
        abandoned: false,
    })
}

/// The checksum that a file records of itself, from its header alone.
pub(crate) fn recorded_sha256(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let file_bytes = file.metadata().ok()?.len();
    let (header, _) = read_header(&mut file, file_bytes, path).ok()?;
    header.metadata().as_ref()?.get(CHECKSUM_KEY).cloned()
}

/// Checked, and in the order in which a file holds them.
fn in_file_order(tensors: &[Tensor]) -> Result<Vec<&Tensor>> {
    let mut ordered: Vec<&Tensor> = tensors.iter().collect();
    // Larger element types first keeps every tensor aligned in a mapped file, as the `safetensors` crate does.
    ordered.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
    check_tensors(&ordered)?;
    Ok(ordered)
}

fn check_tensors(tensors: &[&Tensor]) -> Result<()> {
    let fail = |tensor: &Tensor, problem: String| Err(StoreError::Tensor { name: tensor.name.clone(), problem });
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let wanted = tensor.shape.iter().try_fold(tensor.dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
        if wanted != Some(tensor.bytes.len()) {
            let wanted = wanted.map_or_else(|| "more bytes than memory holds".to_string(), |bytes| format!("{bytes} bytes"));
            return fail(tensor, format!("{} of shape {:?} takes {wanted}, got {}", tensor.dtype.tag(), tensor.shape, tensor.bytes.len()));
        }
        if tensor.name == "__metadata__" || !names.insert(&tensor.name) {
            return fail(tensor, "this name is taken: each tensor of a checkpoint needs its own".to_string());
        }
        if tensor.dtype == DType::Bool
            && let Some(byte) = tensor.bytes.iter().find(|&&byte| byte > 1)
        {
            return fail(tensor, format!("bool wants one byte of 0 or 1 an element, got a byte of {byte}"));
        }
    }
    Ok(())
}

/// Over strings in the order of their keys, then tensors in the order of their names; lengths before contents, so that no two states agree.
fn content_sha256(metadata: &BTreeMap<String, String>, tensors: &[&Tensor]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    let mut by_name = tensors.to_vec();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    for tensor in by_name {
        add(tensor.name.as_bytes());
        add(tensor.dtype.file_tag().as_bytes());
        let shape: Vec<u8> = tensor.shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes()).collect();
        add(&shape);
        add(&tensor.bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

fn position_json(new: &NewCheckpoint) -> String {
    json!({
        "step": new.at.step,
        "epoch": new.at.epoch,
        "samples": new.at.samples,
        "position": new.position,
        "reason": new.reason,
        "pinned": new.pinned,
        "metrics": json_from_metrics(&new.metrics),
    })
    .to_string()
}

fn position_from_json(text: &str) -> Option<NewCheckpoint> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(NewCheckpoint {
        at: At { step: value["step"].as_u64()?, epoch: value["epoch"].as_f64().unwrap_or(0.0), samples: value["samples"].as_u64()? },
        position: value["position"].as_u64()?,
        reason: value["reason"].as_str()?.to_string(),
        pinned: value["pinned"].as_bool()?,
        metrics: metrics_from_json(value["metrics"].as_str()?),
        metadata: BTreeMap::new(),
    })
}

fn header_json(metadata: &BTreeMap<String, String>, tensors: &[&Tensor]) -> String {
    let mut header = Map::new();
    header.insert("__metadata__".to_string(), json!(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes.len();
        header.insert(tensor.name.clone(), json!({"dtype": tensor.dtype.file_tag(), "shape": tensor.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    // The format allows spaces at the end; values begin at a multiple of eight.
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    text
}

/// To a file beside `path`, then renamed over it; a failure leaves what was there and nothing else. Returns the size.
fn write_beside(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[&Tensor]) -> std::io::Result<u64> {
    let header = header_json(metadata, tensors);
    let partial = path.with_file_name(format!("{}{PARTIAL_SUFFIX}", path.file_name().unwrap_or_default().to_string_lossy()));
    write_synced(&partial, &header, tensors).and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })?;
    sync_folder_of(path);
    let data_bytes: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    Ok((8 + header.len() + data_bytes) as u64)
}

fn write_synced(path: &Path, header: &str, tensors: &[&Tensor]) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for tensor in tensors {
        file.write_all(&tensor.bytes)?;
    }
    // Waits for the disk.
    file.into_inner()?.sync_all()
}

/// A rename is lasting once the folder is synced. Where that is not possible (Windows) the file system orders renames itself.
fn sync_folder_of(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// The header, checked by the `safetensors` crate, and where the values begin.
fn read_header(file: &mut File, file_bytes: u64, path: &Path) -> Result<(Metadata, u64)> {
    let fail = |problem: String| StoreError::checkpoint(path, problem);
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| fail(format!("cut off: {file_bytes} bytes, and a safetensors file has at least 8")))?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > HEADER_BYTES_MAX || header_bytes + 8 > file_bytes {
        return Err(fail(format!("cut off or damaged: its header would take {header_bytes} bytes of a file of {file_bytes}")));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(StoreError::io("read the checkpoint", path))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| fail(format!("its header is damaged or not safetensors: {error}")))?;
    Ok((metadata, 8 + header_bytes))
}

fn read_file(path: &Path) -> Result<(BTreeMap<String, String>, Vec<Tensor>)> {
    let fail = |problem: String| StoreError::checkpoint(path, problem);
    let mut file = File::open(path).map_err(StoreError::io("open the checkpoint", path))?;
    let file_bytes = file.metadata().map_err(StoreError::io("read the checkpoint", path))?.len();
    let (header, data_begin) = read_header(&mut file, file_bytes, path)?;
    let wanted = data_begin + header.data_len() as u64;
    if wanted != file_bytes {
        return Err(fail(format!("cut off or damaged: {file_bytes} bytes, and its header tells of {wanted}")));
    }
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let info = header.info(&name).ok_or_else(|| fail(format!("tensor `{name}` is named twice")))?;
        let dtype = DType::from_file(info.dtype)
            .ok_or_else(|| fail(format!("tensor `{name}` is of type {:?}, which Solstice does not read", info.dtype)))?;
        // The header was checked to tell of tensors without gaps that fill the file, so this reads on where the last one ended, and no more than the file has.
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        file.read_exact(&mut bytes).map_err(StoreError::io("read the checkpoint", path))?;
        tensors.push(Tensor { name, dtype, shape: info.shape.clone(), bytes });
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((metadata, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_types_stands_in_the_order_of_the_enum() {
        for (index, entry) in DTYPES.iter().enumerate() {
            assert_eq!(entry.0 as usize, index);
            assert_eq!(DType::from_tag(entry.1), Some(entry.0));
            let file: FileDType = serde_json::from_value(json!(entry.2)).unwrap();
            assert_eq!(DType::from_file(file), Some(entry.0));
            assert_eq!(file.bitsize(), 8 * entry.3);
        }
    }
}
