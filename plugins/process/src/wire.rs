//! What the plugin and its shim say to each other. Both are of one build and installed together.
//!
//! `process-shim run FOLDER RUN -- COMMAND...` makes and locks `FOLDER/RUN.run`, a FIFO, and writes [`READY`] to its
//! standard output. It then waits for [`GO`] on its standard input; the input's end instead means that whoever wanted the
//! process is gone, and nothing is started. What it is told later comes through the FIFO. Its end, and the process's,
//! is the end of the lock; how the process ended is in `FOLDER/ended`.

use std::path::{Path, PathBuf};

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

/// How the last run of a resource ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which run it was.
    pub run: String,
    /// Whether it was asked to.
    pub asked: bool,
    /// In words: "exited with status 1".
    pub how: String,
}

// === impl Ended ===

impl Ended {
    /// The file it is in.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("ended")
    }

    /// As it is written.
    #[allow(dead_code, reason = "the shim writes, the plugin reads")]
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.run, if self.asked { "asked" } else { "itself" }, self.how)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    #[allow(dead_code, reason = "the shim writes, the plugin reads")]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            run: lines.next()?.to_owned(),
            asked: lines.next()? == "asked",
            how: lines.next()?.to_owned(),
        })
    }
}
