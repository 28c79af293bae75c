//! Why a file was not loaded, and why a call has no result.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

use scaler_types::{duration, v1::Fault};

/// A file that was skipped, and why. Displayed as one line.
#[derive(Debug)]
pub struct RejectedPlugin {
    /// The file, as it was found in the folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: LoadError,
}

/// Why a file was not loaded: what is wrong, then what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A dangling link.
    #[error("a link to a file that does not exist; remove it or make it point at a plugin")]
    Dangling,
    /// A folder, a socket, ...
    #[error("not a file but {0}; only plugins may be named *.so here")]
    NotAFile(&'static str),
    /// The file system did not let us.
    #[error("it cannot be read: {0}; let the daemon's user read it")]
    Unreadable(#[source] io::Error),
    /// It is loaded by a process of its own first.
    #[error(
        "no process could be started to try it out: {0}; see that /proc and /dev/null are there, and raise the limit of processes"
    )]
    NoProbe(#[source] io::Error),
    /// No library is that large.
    #[error("{} MiB are too much for a plugin, {} MiB at most; remove it from this folder", size >> 20, max >> 20)]
    TooLarge {
        /// The file's length in bytes.
        size: u64,
        /// The most that is taken.
        max: u64,
    },
    /// Every user who may write a plugin runs code in the daemon.
    #[error("everybody may write it (mode {0:04o}); run chmod o-w on it")]
    Writable(u32),
    /// Foreign, or cut short.
    #[error(
        "not an ELF library, or cut short: {0}; copy it again, under another name first and then by rename"
    )]
    NotElf(String),
    /// A library of another machine.
    #[error("made for another processor ({0}); build it for this one ({ours})", ours = std::env::consts::ARCH)]
    Processor(String),
    /// A library, but no plugin.
    #[error(
        "a library, but no plugin: it was not made by export_resource_scaler! or export_metric_source!; remove it from this folder"
    )]
    NoPlugin,
    /// A plugin of the other interface.
    #[error("{what}; move it to {}", right.display())]
    Misplaced {
        /// What it is, and where.
        what: &'static str,
        /// The folder of its interface.
        right: PathBuf,
    },
    /// The dynamic loader refused it.
    #[error("it cannot be loaded: {0}; build it on this system or an older one")]
    Open(String),
    /// Its initialisers do not return.
    #[error("it was not loaded within {}: its initialisers hang; remove it, or ask its author", duration::short(*.0))]
    Hangs(Duration),
    /// Its initialisers ended the process that tried it out.
    #[error("it ends the process that loads it ({0}); remove it, or ask its author")]
    Crashes(ExitStatus),
    /// Another major version of the interface.
    #[error(
        "made for version {theirs} of the plugin interface, this daemon has {ours}; build it with this daemon's scaler-types"
    )]
    Version {
        /// The library's.
        theirs: String,
        /// This build's.
        ours: String,
    },
    /// The same version, other types.
    #[error("its plugin interface is laid out differently ({0}); build it with this daemon's scaler-types")]
    Layout(String),
    /// It panicked before it could say anything.
    #[error("it failed while it was loaded: {0}; ask its author")]
    Constructor(String),
    /// A kind that cannot be a folder's name and a key.
    #[error("its kind {0:?} is no name; a kind is lower-case letters, digits and dashes")]
    Kind(String),
    /// Two files for one kind.
    #[error("kind {kind} is already served by {by}; remove one of them")]
    Duplicate {
        /// The kind.
        kind: String,
        /// The file that has it.
        by: PathBuf,
    },
}

/// A call without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The plugin answered with an error, or panicked.
    #[error("{0}")]
    Plugin(String),
    /// The namespace file gives the plugin nothing to do: there is no instance.
    #[error("the namespace file does not configure it")]
    NotConfigured,
    /// No answer in time; the call was cancelled.
    #[error("no answer within {}", duration::short(*.0))]
    TimedOut(Duration),
    /// It timed out several times in a row and is probed now and then; this call was not made.
    #[error(
        "not called: the plugin did not answer {0} consecutive calls; it is tried again from time to time"
    )]
    LeftAlone(u32),
}

// === impl RejectedPlugin ===

impl fmt::Display for RejectedPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A loader's message, or a file's name, may hold a line break.
        let line = format!("{}: {}", self.path.display(), self.error);
        f.write_str(&line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

// === impl CallError ===

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotConfigured => CallError::NotConfigured,
            fault => CallError::Plugin(fault.to_string()),
        }
    }
}
