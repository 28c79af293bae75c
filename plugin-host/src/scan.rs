//! A folder of plugins.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{LoadError, Plugin, Rejected};

/// What loading a folder gave, each in the order of the files' names.
#[derive(Debug, Default)]
pub struct Scan {
    /// What was loaded, one per kind.
    pub plugins: Vec<Plugin>,
    /// What was skipped, and why.
    pub rejected: Vec<Rejected>,
}

/// Loads every `*.so` of `dir`, in name order. A file that cannot be loaded is told, and never keeps another from
/// being loaded; of two files with one kind the first has it.
///
/// Blocks, and runs the libraries' initialisers: from asynchronous code, call it in `spawn_blocking`.
///
/// # Errors
///
/// The folder itself cannot be read.
pub fn load_dir(dir: &Path) -> io::Result<Scan> {
    // Absolute, so that the loader never looks for a name without a slash in the system's folders.
    let dir = std::path::absolute(dir)?;
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("{}: the plugins' folder cannot be read: {error}", dir.display()),
        )
    };
    let mut paths = std::fs::read_dir(&dir)
        .map_err(named)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()
        .map_err(named)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
    paths.sort();
    let mut scan = Scan::default();
    for path in paths {
        match Plugin::load(&path) {
            Ok(plugin) => match scan.plugins.iter().find(|other| other.kind() == plugin.kind()) {
                Some(other) => {
                    let (kind, by) = (plugin.kind().to_owned(), other.path().to_owned());
                    scan.rejected.push(Rejected { path, error: LoadError::Duplicate { kind, by } });
                }
                None => scan.plugins.push(plugin),
            },
            Err(error) => scan.rejected.push(Rejected { path, error }),
        }
    }
    Ok(scan)
}
