//! Where `run` keeps its state: outside of the current folder, and the same for the same files.

use std::{
    env,
    fs::{DirBuilder, File, TryLockError},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use daemon::exit::Misconfigured;

/// The state folder, locked as long as this is there.
pub(super) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

// === impl StateFolder ===

impl StateFolder {
    /// Makes and locks it. `wanted`: the one that the user wants.
    pub(super) fn open(wanted: Option<&Path>, files: &[PathBuf]) -> anyhow::Result<Self> {
        let path = match wanted {
            Some(path) => std::path::absolute(path)?,
            None => default_path(files)?,
        };
        let named = || format!("making the state folder {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(named)?;
        let lock = File::create(path.join("run.lock")).with_context(named)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another autoscaler run has the state folder {}: stop that one first, or give this one another with --state-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(named),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn default_path(files: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let base = base.ok_or_else(|| {
        Misconfigured("neither XDG_STATE_HOME nor HOME is set: name a folder with --state-dir".to_owned())
    })?;
    let stem = files.first().and_then(|file| file.file_stem()).unwrap_or_default().to_string_lossy();
    let mut number = Fnv::default();
    for file in files {
        // A file that does not exist is reported by its check.
        let path = file.canonicalize().or_else(|_| std::path::absolute(file))?;
        number.add(path.as_os_str().as_bytes());
        number.add(b"\n");
    }
    Ok(base.join("scaler").join(format!("{stem}-{:016x}", number.0)))
}

/// FNV-1a: the same number for the same path, whichever build this is.
struct Fnv(u64);

// === impl Fnv ===

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}
