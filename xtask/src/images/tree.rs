//! What an image holds beside its base: the daemon, and the plugins where the daemon looks for them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use object::read::elf::{ElfFile64, FileHeader};

use crate::build::{Built, Plugin};

/// The glibc of deploy/docker/Dockerfile's base, Debian 12.
pub const BASE_GLIBC: (u32, u32) = (2, 36);

/// The daemon's own folder: on the path, so that `kubectl exec ... -- autoscaler explain` finds it.
pub const PROGRAMS: &str = "usr/local/bin";

/// Puts a daemon and plugins (with the programs that belong to them) into `tree`: metric sources only with the autoscaler.
///
/// # Errors
///
/// The file system's.
pub fn assemble(built: &Built, daemon: &str, plugins: &[Plugin], tree: &Path) -> Result<()> {
    put_program(&built.program(daemon), &tree.join(PROGRAMS).join(daemon))?;
    let wanted = plugins.iter().filter(|plugin| !plugin.is_metric_source || daemon == "autoscaler");
    put_plugins(built, wanted, &tree.join("plugins"))
}

/// Puts plugins, with the programs that belong to them, into `folder`.
///
/// # Errors
///
/// The file system's.
pub fn put_plugins<'a>(
    built: &Built,
    plugins: impl IntoIterator<Item = &'a Plugin>,
    folder: &Path,
) -> Result<()> {
    for plugin in plugins {
        let programs = plugin.programs.iter().map(PathBuf::from);
        for file in std::iter::once(plugin.installed()).chain(programs) {
            put_program(&built.plugins.join(&file), &folder.join(&file))?;
        }
    }
    Ok(())
}

/// Copies a program or library; only its owner may write it, all may run it.
///
/// # Errors
///
/// The file system's.
pub fn put_program(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(doing)?;
    fs::copy(from, to).with_context(doing)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(doing)
}

/// Every file of a tree.
///
/// # Errors
///
/// The file system's.
pub fn files(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(tree).with_context(|| format!("reading {}", tree.display()))? {
        let path = entry?.path();
        if path.is_dir() { files.extend(self::files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// What is built against a newer glibc than the base's does not start there.
///
/// # Errors
///
/// The first file that wants more than the base has.
pub fn refuse_newer_glibc(tree: &Path) -> Result<()> {
    for file in files(tree)? {
        let needed = glibc(&file)?;
        ensure!(
            needed <= BASE_GLIBC,
            "{} needs glibc {}.{}, the base has {}.{}: build it where glibc is as old, as deploy/docker/Dockerfile does",
            file.display(),
            needed.0,
            needed.1,
            BASE_GLIBC.0,
            BASE_GLIBC.1
        );
    }
    Ok(())
}

/// The newest version of glibc's symbols that an ELF file asks for.
pub fn glibc(path: &Path) -> Result<(u32, u32)> {
    let doing = || format!("reading the symbol versions of {}", path.display());
    let data = fs::read(path).with_context(doing)?;
    let file = ElfFile64::<object::Endianness>::parse(&*data).with_context(doing)?;
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, &*data).with_context(doing)?;
    let mut newest = (0, 0);
    let Some((mut needs, link)) = sections.gnu_verneed(endian, &*data).with_context(doing)? else {
        return Ok(newest);
    };
    let names = sections.strings(endian, &*data, link).with_context(doing)?;
    while let Some((_, mut versions)) = needs.next().with_context(doing)? {
        while let Some(version) = versions.next().with_context(doing)? {
            let name = version.name(endian, names).with_context(doing)?;
            newest = newest.max(parse(name).unwrap_or_default());
        }
    }
    Ok(newest)
}

/// `GLIBC_2.34`, `GLIBC_2.2.5`; other libraries' versions are none of ours.
fn parse(name: &[u8]) -> Option<(u32, u32)> {
    let version = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse(b"GLIBC_2.2.5"), Some((2, 2)));
        assert!(parse(b"GLIBC_2.34") > parse(b"GLIBC_2.4"));
        assert_eq!(parse(b"GCC_3.0"), None);
        assert_eq!(parse(b"GLIBC_PRIVATE"), None);
    }

    /// This very test program is an ELF file that glibc loads.
    #[test]
    fn the_newest_version_wanted_is_found() {
        let this = std::env::current_exe().unwrap();
        assert!(glibc(&this).unwrap() >= (2, 2), "{:?}", glibc(&this));
    }

    #[test]
    fn the_dockerfile_stands_on_the_glibc_that_is_checked() {
        let file = fs::read_to_string(root().join("deploy/docker/Dockerfile")).unwrap();
        assert!(file.contains("ARG RUST=rust:1.95-bookworm\nARG BASE=debian:12-slim\n"), "{file}");
        let toolchain = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
        assert!(toolchain.contains("channel = \"1.95."), "the Dockerfile's compiler is another: {toolchain}");
    }
}
