//! Where a command finds the plugins.

use std::{
    env,
    path::{Path, PathBuf},
};

use daemon::exit::Misconfigured;
use plugin_host::{Interface, LOAD_TIMEOUT, METRIC_SOURCES_FOLDER, Plugin, RejectedPlugin, Scan};

/// The plugins of a folder, the metric sources in it included.
pub(super) struct PluginsFolder {
    pub(super) folder: PathBuf,
    pub(super) plugins: Vec<Plugin>,
    pub(super) rejected: Vec<RejectedPlugin>,
}

/// The name of the folder in the current folder, and beside the program.
const NAME: &str = "plugins";

/// The folder that the user wants; else `plugins` here, else beside this program, else this program's own folder, else beside that.
pub(super) fn find(wanted: Option<&Path>) -> PathBuf {
    if let Some(folder) = wanted {
        return folder.to_owned();
    }
    let own = env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let above = own.as_deref().and_then(Path::parent).map(|above| above.join(NAME));
    let beside = own.iter().flat_map(|own| [own.join(NAME), own.clone()]).chain(above);
    let mut folders = std::iter::once(PathBuf::from(NAME)).chain(beside);
    folders.find(|folder| has_plugins(folder)).unwrap_or_else(|| NAME.into())
}

/// Loads all of them.
///
/// # Errors
///
/// A [`Misconfigured`]: the folder cannot be read.
pub(super) fn load(wanted: Option<&Path>) -> Result<PluginsFolder, Misconfigured> {
    let folder = find(wanted);
    let load = |folder: &Path, interface| {
        plugin_host::load_dir(folder, interface, LOAD_TIMEOUT, |_| {}).map_err(|error| {
            let hint =
                if wanted.is_none() { "; name the folder of the plugins with --plugins-dir" } else { "" };
            Misconfigured(format!("--plugins-dir {}: {error}{hint}", folder.display()))
        })
    };
    let Scan { mut plugins, mut rejected } = load(&folder, Interface::ResourceScaler)?;
    let sources = folder.join(METRIC_SOURCES_FOLDER);
    if sources.is_dir() {
        let found = load(&sources, Interface::MetricSource)?;
        plugins.extend(found.plugins);
        rejected.extend(found.rejected);
    }
    Ok(PluginsFolder { folder, plugins, rejected })
}

fn has_plugins(folder: &Path) -> bool {
    let files = folder.read_dir().into_iter().flatten().flatten();
    files.map(|file| file.path()).any(|file| file.extension().is_some_and(|extension| extension == "so"))
}
