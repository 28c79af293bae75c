//! What it did, written down when it happens.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    process,
};

use anyhow::{Context as _, Result};

/// A file to which all workers of a queue append.
pub struct Journal(Option<File>);

// === impl Journal ===

impl Journal {
    /// Opens it, and notes the start.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let journal = Self(Some(file.with_context(|| format!("opening the journal {}", path.display()))?));
        journal.line("start", "")?;
        Ok(journal)
    }

    /// Notes what happened to a job.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn line(&self, what: &str, job: &str) -> Result<()> {
        let Some(mut file) = self.0.as_ref() else { return Ok(()) };
        let line = format!("{} {what} {job}", process::id());
        // One write, which the kernel appends as a whole.
        file.write_all(format!("{}\n", line.trim_end()).as_bytes()).context("writing the journal")
    }
}
