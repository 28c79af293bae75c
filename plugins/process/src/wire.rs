//! The messages between the plugin and its shim. They are installed together, but a shim outlives the daemon that started
//! it: a later plugin talks to an earlier shim.
//!
//! `process-shim run FOLDER RUN -- COMMAND...` makes and locks `FOLDER/RUN.run`, a FIFO, and writes [`READY`] to its
//! standard output. It then waits for [`GO`] on its standard input; if the input ends instead, the plugin is gone and
//! nothing is started. Later messages come through the FIFO. When the shim or the process ends, the lock is freed; how
//! the process ended is in `FOLDER/exit.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The shim's first word: it holds the lock.
pub const READY: &str = "ready";
/// The plugin's answer: the run is written down, start it.
pub const GO: &str = "go";
/// Through the FIFO: end the process; then the grace period in milliseconds.
pub const STOP: &str = "stop";
/// The environment variable by which a process of a run is known, its shim gone or not.
pub const MARK: &str = "SCALER_RUN";

/// The FIFO of a run, which its shim has locked.
pub fn fifo(folder: &Path, run: &str) -> PathBuf {
    folder.join(format!("{run}.run"))
}

/// How the last run of a resource ended, as JSON in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The run's id.
    pub run: String,
    /// Whether it was to stop.
    pub stop_requested: bool,
    /// Whether something of it was left when the grace period had passed, and was killed.
    #[serde(default)]
    pub killed: bool,
    /// How it ended: "exited with status 1".
    pub reason: String,
}

// === impl Exit ===

impl Exit {
    /// The file it is in.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("exit.json")
    }
}
