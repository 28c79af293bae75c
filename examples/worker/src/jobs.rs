//! The jobs of a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use scaler_types::duration;

/// How the file of a job that is worked on ends.
const WORKING: &str = ".working";

/// A job that this worker has taken.
pub struct Job {
    /// The name of its file.
    pub name: String,
    /// How long it takes.
    pub takes: Duration,
    working: PathBuf,
}

// === impl Job ===

impl Job {
    /// Takes a job that no worker has taken. `takes`: how long it takes if its file does not say.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or a file of it not be renamed.
    pub fn take(folder: &Path, takes: Duration) -> io::Result<Option<Self>> {
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name.ends_with(WORKING) {
                continue;
            }
            let working = folder.join(format!("{name}{WORKING}"));
            match fs::rename(folder.join(&name), &working) {
                Ok(()) => {}
                // Another worker took it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let text = fs::read_to_string(&working)?;
            let takes = duration::parse(text.trim()).unwrap_or(takes);
            return Ok(Some(Self { name, takes, working }));
        }
        Ok(None)
    }

    /// It is done.
    ///
    /// # Errors
    ///
    /// Its file cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.working)
    }
}
