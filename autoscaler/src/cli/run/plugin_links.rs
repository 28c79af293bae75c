//! A folder with the plugins that the files configure: the daemons load every plugin of a folder.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use plugin_host::{Interface, METRIC_SOURCES_FOLDER, Plugin};

use super::state::StateFolder;

/// Links the plugins of these kinds, the programs beside them, and the folder of the metric sources into a folder below `state`.
pub(super) fn link(
    plugins: &[Plugin],
    kinds: &BTreeSet<&String>,
    state: &StateFolder,
) -> anyhow::Result<PathBuf> {
    let folder = state.path().join("run-plugins");
    let scalers = plugins.iter().filter(|plugin| plugin.interface() == Interface::ResourceScaler);
    let links = link_into(scalers.filter(|plugin| kinds.contains(&plugin.kind().to_owned())), &folder);
    links.with_context(|| format!("linking the plugins into {}", folder.display()))?;
    Ok(folder)
}

fn link_into<'a>(plugins: impl Iterator<Item = &'a Plugin>, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Only links are from here: anything else is the user's.
        anyhow::ensure!(
            entry.file_type()?.is_symlink(),
            "{} is not one of its links: remove it, or choose another --state-dir",
            entry.path().display()
        );
        fs::remove_file(entry.path())?;
    }
    for plugin in plugins {
        let Some(from) = plugin.path().parent() else { continue };
        for entry in fs::read_dir(from)? {
            let file = entry?.path();
            let is_plugin = file.extension().is_some_and(|extension| extension == "so");
            // process-shim, for one: a plugin looks for its programs beside itself.
            let program = || {
                fs::metadata(&file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
            };
            let link = folder.join(file.file_name().unwrap_or_default());
            if (file == plugin.path() || !is_plugin && program()) && fs::symlink_metadata(&link).is_err() {
                symlink(&file, link)?;
            }
        }
        let (sources, link) = (from.join(METRIC_SOURCES_FOLDER), folder.join(METRIC_SOURCES_FOLDER));
        if sources.is_dir() && fs::symlink_metadata(&link).is_err() {
            symlink(sources, link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_are_replaced() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("run-plugins");
        fs::create_dir(&folder).unwrap();
        symlink("/nowhere/process.so", folder.join("process.so")).unwrap();
        link_into([].iter(), &folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::write(folder.join("mine"), "").unwrap();
        let error = link_into([].iter(), &folder).unwrap_err().to_string();
        assert!(error.contains("run-plugins/mine is not one of its links"), "{error}");
        assert!(folder.join("mine").exists());
    }
}
