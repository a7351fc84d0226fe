//! What can go wrong with a plugin, each in one sentence.

use solstice_plugin_abi::{AbiError, ErrorKind};
use std::path::PathBuf;

/// Why a file is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is no library of this machine: text, another system, another processor, cut off.
    #[error("{0}")]
    NotALibrary(String),
    /// A library, but not of ours.
    #[error("it is a library, but no Solstice plugin (no symbol {}..)", solstice_plugin_abi::MANIFEST_SYMBOL_PREFIX)]
    NoManifest,
    /// The manifest is there, but not in a form that this host reads.
    #[error("its plugin manifest is damaged")]
    BadManifest,
    /// Plugins that depend on one another were linked together and the file's name fits none.
    #[error("it holds several plugins ({}): name the file {}", .0.join(", "), super::library_file_name(&.0[0]))]
    SeveralPlugins(Vec<String>),
    /// Another version of the boundary; the text says which side to update.
    #[error("{0}")]
    Version(String),
    /// Somebody else could have written it.
    #[error("{0}")]
    Permissions(String),
    /// Nobody said yet that it may run.
    #[error(
        "plugin `{name}` is not trusted yet, and a plugin can do whatever you can; if you know where it comes from: solstice plugin trust {}",
        .path.display()
    )]
    Untrusted {
        /// The name that it gives itself.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// It took its process down before.
    #[error("{0}; it is skipped until it is rebuilt, or try again with: solstice plugins --try-again")]
    Quarantined(String),
    /// The system's loader refused it.
    #[error("{0}")]
    Open(String),
    /// The boundary's own checks refused it.
    #[error("{0}")]
    Layout(String),
}

/// Why a plugin or a call into it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The file was refused.
    #[error("{}: {reason}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: LoadError,
    },
    /// No plugin offers this.
    #[error("{0}")]
    Unknown(String),
    /// The settings are not valid.
    #[error("{component}: {message}")]
    Config {
        /// `model `mlp` (plugin `mlp`)`.
        component: String,
        /// Line, column, field, wanted, got.
        message: String,
    },
    /// The plugin's code returned an error or panicked.
    #[error("{component}, {call}: {}{message}{}", if *.panicked { "panicked: " } else { "" }, at(.location))]
    Call {
        /// `model `mlp` (plugin `mlp`)`.
        component: String,
        /// The entry: `forward`, `fill`.
        call: String,
        /// True for a panic.
        panicked: bool,
        /// One sentence.
        message: String,
        /// The author's line; may be empty.
        location: String,
        /// Of a panic; may be empty.
        backtrace: String,
    },
    /// The plugin answered something that the host cannot use.
    #[error("{component}, {call}: {message}")]
    Answer {
        /// `model `mlp` (plugin `mlp`)`.
        component: String,
        /// The entry.
        call: String,
        /// What is wrong with the answer.
        message: String,
    },
}

fn at(location: &str) -> String {
    if location.is_empty() { String::new() } else { format!(" ({location})") }
}

impl PluginError {
    /// A recipe slot that an experiment asked for and that is not there.
    pub fn unknown_component<'a>(slot: &str, known: impl Iterator<Item = &'a str>) -> PluginError {
        let known: Vec<&str> = known.collect();
        PluginError::Unknown(format!("the experiment asks for `{slot}`; the recipe has {}", known.join(", ")))
    }

    /// Line of the author's code, if the error has one.
    pub fn location(&self) -> &str {
        match self {
            PluginError::Call { location, .. } => location,
            _ => "",
        }
    }

    pub(super) fn from_call(component: &str, call: &str, error: AbiError) -> PluginError {
        let component = component.to_owned();
        if error.kind == ErrorKind::CONFIG {
            return PluginError::Config { component, message: error.to_string() };
        }
        PluginError::Call {
            component,
            call: call.to_owned(),
            panicked: error.kind == ErrorKind::PANIC,
            backtrace: error.backtrace().unwrap_or_default(),
            message: error.message.into(),
            location: error.location.into(),
        }
    }

    pub(super) fn answer(component: &str, call: &str, message: impl Into<String>) -> PluginError {
        PluginError::Answer { component: component.to_owned(), call: call.to_owned(), message: message.into() }
    }
}
