//! What was received, written down before it is answered.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process,
};

use anyhow::{Context as _, Result};

/// A file that several runs, one after the other, append to.
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
        let journal = file.map(|file| Self(Some(file)));
        let noted =
            journal.and_then(|journal| journal.line("start", &process::id().to_string()).map(|()| journal));
        noted.with_context(|| format!("writing the journal {}", path.display()))
    }

    /// Notes a request that was received.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn request(&self, id: &str) -> io::Result<()> {
        self.line("request", id)
    }

    fn line(&self, what: &str, value: &str) -> io::Result<()> {
        // One write, which the kernel appends as a whole.
        self.0.as_ref().map_or(Ok(()), |mut file| file.write_all(format!("{what} {value}\n").as_bytes()))
    }
}
