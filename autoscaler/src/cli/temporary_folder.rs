//! An empty folder for a command.

use std::{
    env, fs,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// An empty folder that is gone when this is.
pub(super) struct TemporaryFolder(PathBuf);

// === impl TemporaryFolder ===

impl TemporaryFolder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("scaler-check-{:016x}", RandomState::new().hash_one(std::process::id()));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
