//! A scene's folder, and a process that cleans up when this one has ended in whatever way, SIGKILL included.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::processes::stop_all;

/// Said to the other process: the folder stays.
const KEEP: &[u8] = b"keep";

/// Waits until its standard input ends, then stops what was started from a scene and removes its folder
#[derive(clap::Args)]
pub struct CleanUp {
    /// The scene's folder
    folder: PathBuf,
}

/// A scene's folder. The kernel closes the pipe to the other process when this one ends.
pub(super) struct SceneFolder {
    folder: TempDir,
    cleaner: Child,
}

impl CleanUp {
    /// Waits and cleans up.
    ///
    /// # Errors
    ///
    /// The folder cannot be removed.
    pub fn run(&self) -> Result<()> {
        let mut word = Vec::new();
        // An error would be the pipe's end, too.
        let _ = io::stdin().read_to_end(&mut word);
        stop_all(&self.folder);
        if word == KEEP {
            return Ok(());
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }
}

// === impl SceneFolder ===

impl SceneFolder {
    /// Makes the folder, and starts the process that will clean up.
    pub(super) fn create() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("scaler-").tempdir().context("making a temporary folder")?;
        // The file of this process, even if it was built anew since.
        let cleaner = Command::new("/proc/self/exe")
            .arg0("xtask")
            .arg("clean-up")
            .arg(folder.path())
            // Ctrl-C and a closed terminal are for the process that waits for this one.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the process that cleans up")?;
        Ok(Self { folder, cleaner })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder.
    pub(super) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
        if let Some(pipe) = &mut self.cleaner.stdin {
            let _ = pipe.write_all(KEEP);
        }
    }

    /// Waits until everything that was started from the scene has ended.
    pub(super) fn stop_all(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ = self.cleaner.wait();
        // If it was killed; else this finds nothing.
        stop_all(self.folder.path());
    }
}
