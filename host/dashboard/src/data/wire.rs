//! What a window and `solstice stream` on another machine say to each other, over the standard input and output of ssh.
//!
//! A frame is its length (`u32`, little end first), one line of JSON and raw bytes. `solstice stream` first writes [`START`], so that whatever a
//! login shell prints before it can be told apart, and then a hello; the window answers with its own. Everything but hello belongs to a protocol
//! number: another number on the other side is an error on both, in a sentence. Unknown messages of the same protocol are passed over.
//!
//! Read next: `stream.rs` for the end where the runs are, `remote.rs` for the end where the window is.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use solstice_store::mirror::{ChunkHeader, Have};

use super::host::Answer;

/// Number of what is said here; both ends must have the same.
pub const PROTOCOL: u32 = 1;
/// Begins the output of `solstice stream`, in every protocol. No shell prints a zero byte.
pub const START: &[u8] = b"\0solstice stream\0";
/// Version of this build, for sentences.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Chunks on their way that were not acknowledged: what an answer may have to wait behind, and what a link of 100 ms carries 10 MB a second with.
pub(super) const CHUNKS_UNDER_WAY_MAX: usize = 4;
/// Files that are mirrored as they are, beside the stores.
pub(super) const FILES: [&str; 2] = [solstice_store::RECIPE_FILE, super::library::TRIALS_FILE];
/// A larger file is no recipe.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is skipped in search of [`START`].
const NOISE_BYTES_MAX: usize = 64 << 10;
/// The longest frame: a picture may be as long as SQLite lets a value be.
const FRAME_BYTES_MAX: u64 = (1 << 30) + (1 << 20);
/// The longest first frame.
const HELLO_BYTES_MAX: u64 = 1 << 16;

/// How both ends use time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A sign of life is sent this often.
    pub beat: Duration,
    /// No byte for so long: the connection is cut.
    pub silence: Duration,
    /// First wait before it is tried again; doubled each time.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
    /// A connection that held so long was a good one: the next wait is the first one again.
    pub steady: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            beat: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            steady: Duration::from_secs(10),
        }
    }
}

/// From the window.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum ToStream {
    /// The first.
    Hello { protocol: u32, version: String },
    /// The mirrors that are here, by the run's path below the base folder, and files with a digest: the stream begins.
    Have { runs: BTreeMap<String, Have>, files: BTreeMap<String, String> },
    /// A chunk was taken in.
    Taken,
    /// A mirror is gone or was of no use: send all of the run.
    Again { run: String },
    /// To be answered under this number.
    Request { request: u64, wanted: Wanted },
    /// A sign of life.
    Beat,
    #[serde(other)]
    Unknown,
}

/// What a window may ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "want", rename_all = "snake_case")]
pub(super) enum Wanted {
    /// A row in the run's table of commands. `args` is JSON as text: no number changes on the way.
    Command { run: String, kind: String, args: String, who: String },
    /// A mark; without a value it is taken away.
    Label { run: String, key: String, value: Option<String> },
    /// `solstice ARGS..` to its end; paths in it that begin with `root`, the folder of the mirrors, mean the folder over there.
    Ask { args: Vec<String>, input: String, root: String },
    /// `solstice ARGS..`, which goes on by itself; [`FromStream::Ended`] tells its end.
    Start { args: Vec<String>, input: String, root: String },
    /// Of a later build.
    #[serde(other)]
    Unknown,
}

/// From the machine with the runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum FromStream {
    /// The first.
    Hello { protocol: u32, version: String },
    /// Why it ends.
    Refused { sentence: String },
    /// Every run there is, by its path below the base folder; also once more after each change.
    Runs { runs: Vec<String>, problems: Vec<String> },
    /// What is new in a run; its rows follow as bytes.
    Chunk { run: String, header: ChunkHeader },
    /// A small file, whole.
    File { path: String },
    /// Why a run cannot be read; `None`: it can again.
    RunProblem { run: String, problem: Option<String> },
    /// To a request.
    Answer { request: u64, outcome: Outcome },
    /// A started command has ended.
    Ended { ticket: u64, answer: Answer },
    /// A sign of life.
    Beat,
    #[serde(other)]
    Unknown,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The command is in this row.
    Sent { id: i64 },
    /// The mark is set.
    Done,
    /// What the command line answered.
    Answered { answer: Answer },
    /// It runs.
    Started { ticket: u64 },
    /// A sentence.
    Failed { sentence: String },
}

/// Two builds that cannot talk, as the side with `own` tells it; `there` is what the other side is called.
pub(super) fn protocol_problem(there: &str, protocol: u32, version: &str) -> Option<String> {
    (protocol != PROTOCOL).then(|| {
        format!(
            "Solstice {version} {there} speaks protocol {protocol}, Solstice {VERSION} here speaks protocol {PROTOCOL}: install the same version on both"
        )
    })
}

/// Writes one frame.
pub(super) fn write_frame(output: &mut impl Write, header: &impl Serialize, payload: &[u8]) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, header)?;
    bytes.push(b'\n');
    let length = u32::try_from(bytes.len() - 4 + payload.len()).map_err(|_| io::Error::other("a message above 4 GB"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    output.write_all(&bytes)?;
    output.write_all(payload)?;
    output.flush()
}

/// Reads the first frame; `None` at the end of the input.
pub(super) fn read_hello<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, String> {
    Ok(read_limited(input, HELLO_BYTES_MAX)?.map(|(header, _)| header))
}

/// Reads one frame; `None` at the end of the input.
pub(super) fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<(T, Vec<u8>)>, String> {
    read_limited(input, FRAME_BYTES_MAX)
}

fn read_limited<T: DeserializeOwned>(input: &mut impl Read, bytes_max: u64) -> Result<Option<(T, Vec<u8>)>, String> {
    let cut = |_| "the connection ended in the middle of a message".to_string();
    let mut length = [0; 4];
    match input.read(&mut length[..1]) {
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) => input.read_exact(&mut length[1..]).map_err(cut)?,
    }
    let length = u64::from(u32::from_le_bytes(length));
    if length > bytes_max {
        return Err(format!("what came is no message of Solstice: it claims to be {length} bytes long"));
    }
    // Grows with what comes, not with what was claimed.
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 != length {
        return Err(cut(io::Error::other("")));
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("what came is no message of Solstice: it has no first line")?;
    let header = serde_json::from_slice(&bytes[..end]).map_err(|error| format!("a message that came cannot be read: {error}"))?;
    bytes.drain(..=end);
    Ok(Some((header, bytes)))
}

/// Skips what stands before [`START`]. Errors: it does not come; then what came instead, its last lines.
pub(super) fn skip_to_start(input: &mut impl Read) -> Result<(), String> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(START) {
        let is_open = matches!(input.read(&mut byte), Ok(1));
        if !is_open || seen.len() >= NOISE_BYTES_MAX {
            let text = String::from_utf8_lossy(&seen).into_owned();
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let shown: String = lines[lines.len().saturating_sub(3)..].join(" | ").chars().take(300).collect();
            return Err(shown);
        }
        seen.push(byte[0]);
    }
    Ok(())
}

/// FNV-1a of 64 bits, after Fowler, Noll and Vo: is a small file the same on both sides?
pub(super) fn file_digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// A path below the base folder that stays below it and is not hidden.
pub(super) fn is_plain_path(path: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':', '\0']);
    path.split('/').count() <= 6 && path.split('/').all(is_plain)
}

/// A reader that notes when bytes last came.
pub(super) struct Heard<R> {
    pub input: R,
    pub at: Arc<Mutex<Instant>>,
}

impl<R: Read> Read for Heard<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(bytes)?;
        *self.at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
        Ok(count)
    }
}

/// How long ago bytes last came.
pub(super) fn silent_for(at: &Mutex<Instant>) -> Duration {
    at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_a_line_and_bytes() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &ToStream::Beat, b"\n\0x").unwrap();
        let header = br#"{"message":"beat"}"#;
        assert_eq!(bytes[..4], (header.len() as u32 + 4).to_le_bytes());
        assert_eq!(bytes[4..4 + header.len()], header[..]);
        assert_eq!(&bytes[4 + header.len()..], b"\n\n\0x");
        let (message, payload) = read_frame::<ToStream>(&mut &bytes[..]).unwrap().unwrap();
        assert!(matches!(message, ToStream::Beat));
        assert_eq!(payload, b"\n\0x");
        for end in 1..bytes.len() {
            assert!(read_frame::<ToStream>(&mut &bytes[..end]).is_err(), "cut after {end} bytes");
        }
        assert!(read_frame::<ToStream>(&mut &b""[..]).unwrap().is_none());
        // A message of a later build.
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &serde_json::json!({"message": "sing", "song": 3}), b"").unwrap();
        assert!(matches!(read_frame::<ToStream>(&mut &bytes[..]).unwrap().unwrap().0, ToStream::Unknown));
    }

    #[test]
    fn noise_is_skipped_up_to_a_bound_and_then_shown() {
        let with = |noise: &[u8]| [noise, START, b"rest"].concat();
        for noise in [&b""[..], b"Welcome!\n", b"\0\0solstice str", &vec![b'x'; NOISE_BYTES_MAX - START.len()]] {
            let bytes = with(noise);
            let mut input = &bytes[..];
            skip_to_start(&mut input).unwrap();
            assert_eq!(input, b"rest");
        }
        assert_eq!(skip_to_start(&mut &b"one\n\n two \nthree\nfour\n"[..]).unwrap_err(), "two | three | four");
        let endless = vec![b'x'; 2 * NOISE_BYTES_MAX];
        let mut input = &endless[..];
        skip_to_start(&mut input).unwrap_err();
        assert!(input.len() >= NOISE_BYTES_MAX - 1);
    }

    #[test]
    fn paths_stay_below_their_folder() {
        assert!(is_plain_path("2026-11-23-1859-mnist-a1b2") && is_plain_path("sweep/trial-1/run"));
        for path in ["", "..", "a/../b", "/etc", "a//b", ".hidden", "a\\b", "c:", "a/b/c/d/e/f/g"] {
            assert!(!is_plain_path(path), "{path}");
        }
    }
}
