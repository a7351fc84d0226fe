//! The error that plugin code returns: a sentence and the author's line.

use std::fmt;
use std::panic::Location;

/// A plugin's error. `?` turns any `std::error::Error` into one and notes the line of the `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What, wanted, got, what to do.
    pub message: String,
    /// `plugins/mlp/src/lib.rs:41`.
    pub location: String,
}

/// Result of plugin code.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error at the caller's line.
    #[track_caller]
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), location: location_of(Location::caller()) }
    }

    /// An error at a known place.
    pub fn at(message: impl Into<String>, location: impl Into<String>) -> Error {
        Error { message: message.into(), location: location.into() }
    }
}

pub(crate) fn location_of(location: &Location<'_>) -> String {
    format!("{}:{}", location.file(), location.line())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.location.is_empty() { Ok(()) } else { write!(f, " ({})", self.location) }
    }
}

// `Error` itself is no `std::error::Error`, so that the conversion below covers every other error type.
impl<E: std::error::Error> From<E> for Error {
    #[track_caller]
    fn from(error: E) -> Error {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            message = format!("{message}: {inner}");
            source = inner.source();
        }
        Error { message, location: location_of(Location::caller()) }
    }
}
