//! The error that crosses the boundary.

use abi_stable::{StableAbi, std_types::RString};
use std::fmt;

/// What sort of error; an open list, so a side that does not know a number still shows the message.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, StableAbi)]
pub struct ErrorKind(pub u32);

impl ErrorKind {
    /// The author's code returned an error: a shape that does not fit, a file that is not there.
    pub const PLUGIN: ErrorKind = ErrorKind(0);
    /// The author's code panicked.
    pub const PANIC: ErrorKind = ErrorKind(1);
    /// The user's configuration is not valid.
    pub const CONFIG: ErrorKind = ErrorKind(2);
    /// The plugin has no such component or entry.
    pub const UNKNOWN: ErrorKind = ErrorKind(3);
    /// Bytes of the other side were not what the boundary promises.
    pub const PROTOCOL: ErrorKind = ErrorKind(4);
    /// The host, or another plugin that the host asked, failed.
    pub const HOST: ErrorKind = ErrorKind(5);
}

/// An error of the other side. This layout is frozen; what is new goes into `details`.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, StableAbi)]
pub struct AbiError {
    /// What sort.
    pub kind: ErrorKind,
    /// One sentence: what, wanted, got.
    pub message: RString,
    /// The author's line, `plugins/mlp/src/lib.rs:41`; may be empty.
    pub location: RString,
    /// JSON object, may be empty: `backtrace` (text).
    pub details: RString,
}

impl AbiError {
    /// An error without a place in the author's code.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> AbiError {
        AbiError::at(kind, message, "")
    }

    /// An error at a line of the author's code.
    pub fn at(kind: ErrorKind, message: impl Into<String>, location: impl Into<String>) -> AbiError {
        AbiError { kind, message: message.into().into(), location: location.into().into(), details: RString::new() }
    }

    /// The backtrace of a panic, if one was taken.
    pub fn backtrace(&self) -> Option<String> {
        let details: serde_json::Value = serde_json::from_str(self.details.as_str()).ok()?;
        Some(details.get("backtrace")?.as_str()?.to_owned())
    }
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_str())?;
        if self.location.is_empty() { Ok(()) } else { write!(f, " ({})", self.location) }
    }
}
