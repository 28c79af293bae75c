//! A folder of plugins.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Interface, LoadError, Plugin, RejectedPlugin, inspect::inspect, probe::ProbeProcess};

/// How long the libraries of a folder may take to be loaded, by default: enough for a slow disk.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of loading a folder, in the order of the files' names.
#[derive(Debug, Default)]
pub struct Scan {
    /// The loaded plugins, one per kind.
    pub plugins: Vec<Plugin>,
    /// The skipped files, and why.
    pub rejected: Vec<RejectedPlugin>,
}

/// Loads every `*.so` of `dir`, in name order, each of which has to be of this interface. A file that cannot be loaded is reported, and never keeps another from
/// being loaded; of two files with one kind the first has it. `before` is called with each file that is about to be loaded.
/// `timeout`: how long all of them may take in the processes that try them out; see [`answer_probe`](crate::answer_probe).
///
/// Blocks, and runs the libraries' initialisers: from asynchronous code, call it in `spawn_blocking`.
///
/// # Errors
///
/// The folder itself cannot be read.
pub fn load_dir(
    dir: &Path,
    interface: Interface,
    timeout: Duration,
    before: impl Fn(&Path),
) -> io::Result<Scan> {
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
    let deadline = Instant::now().checked_add(timeout);
    let probed = paths.into_iter().map(|path| {
        let probe = inspect(&path).and_then(|found| {
            if found != interface {
                return Err(found.misplaced(&dir));
            }
            before(&path);
            ProbeProcess::start(&path)
        });
        (path, probe)
    });
    // All at once: one that hangs costs the others no time of theirs.
    let probed: Vec<_> = probed.collect();
    let mut scan = Scan::default();
    for (path, probe) in probed {
        let loaded = probe
            .and_then(|probe| probe.wait(timeout, deadline))
            .and_then(|()| Plugin::load(&path, interface));
        match loaded {
            Ok(plugin) => match scan.plugins.iter().find(|other| other.kind() == plugin.kind()) {
                Some(other) => {
                    let (kind, by) = (plugin.kind().to_owned(), other.path().to_owned());
                    scan.rejected.push(RejectedPlugin { path, error: LoadError::Duplicate { kind, by } });
                }
                None => scan.plugins.push(plugin),
            },
            Err(error) => scan.rejected.push(RejectedPlugin { path, error }),
        }
    }
    Ok(scan)
}
