//! The archive of a release: both daemons, all plugins, the systemd units and a bill of materials.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::sbom;
use crate::{
    build::{Built, plugins},
    images::tree,
    steps::run,
    workspace::{root, target},
};

const DAEMONS: [&str; 2] = ["autoscaler", "dlx"];

/// Files of the workspace, and where they are in the archive.
const FILES: [(&str, &str); 9] = [
    ("LICENSE", "LICENSE"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("docs/one-machine.md", "one-machine.md"),
    ("deploy/systemd/scaler-autoscaler.service", "systemd/scaler-autoscaler.service"),
    ("deploy/systemd/scaler-dlx.service", "systemd/scaler-dlx.service"),
    ("deploy/systemd/scaler-dlx.socket", "systemd/scaler-dlx.socket"),
    ("deploy/systemd/scaler-sysusers.conf", "systemd/scaler-sysusers.conf"),
    ("examples/config/hello.yaml", "examples/hello.yaml"),
    ("examples/config/every-key.yaml", "examples/every-key.yaml"),
];

/// Makes the archive in target/release-files, and beside it its SHA-256 and the bill of materials.
///
/// # Errors
///
/// A file needs a newer glibc than the images' base has, or the file system's.
pub fn make(built: &Built) -> Result<PathBuf> {
    let folder = target().join("release-files");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let name = name();
    let scratch = tempfile::Builder::new().prefix("archive-").tempdir_in(&folder)?;
    let tree = scratch.path().join(&name);
    assemble(built, &tree)?;
    tree::refuse_newer_glibc(&tree.join("bin"))?;
    tree::refuse_newer_glibc(&tree.join("plugins"))?;
    let archive = pack(&tree, &folder)?;
    fs::copy(tree.join(sbom::NAME), folder.join(format!("{name}.{}", sbom::NAME)))?;
    Ok(archive)
}

/// `scaler-1.2.3-linux-amd64`: the archive's name, and the one folder in it.
fn name() -> String {
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("scaler-{}-linux-{processor}", env!("CARGO_PKG_VERSION"))
}

fn assemble(built: &Built, tree: &Path) -> Result<()> {
    for daemon in DAEMONS {
        tree::put_program(&built.program(daemon), &tree.join("bin").join(daemon))?;
    }
    tree::put_plugins(built, &plugins()?, &tree.join("plugins"))?;
    for (from, to) in FILES {
        let to = tree.join(to);
        let doing = || format!("copying {from} to {}", to.display());
        fs::create_dir_all(to.parent().unwrap_or(tree)).with_context(doing)?;
        fs::copy(root().join(from), &to).with_context(doing)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).with_context(doing)?;
    }
    let sbom = serde_json::to_vec_pretty(&sbom::make()?)?;
    fs::write(tree.join(sbom::NAME), sbom).context("writing the bill of materials")
}

/// Packs the folder, the same bytes for the same files: sorted, owned by root, of one time.
fn pack(tree: &Path, folder: &Path) -> Result<PathBuf> {
    let name = tree.file_name().and_then(|name| name.to_str()).context("the archive's name")?;
    let archive = folder.join(format!("{name}.tar.gz"));
    let time = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| "0".to_owned());
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=posix"]);
    tar.args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]);
    tar.arg(format!("--mtime=@{time}")).args(["--use-compress-program=gzip -n", "-cf"]);
    run(tar.arg(&archive).arg("-C").arg(tree.parent().unwrap_or(tree)).arg(name))?;
    let output =
        Command::new("sha256sum").arg(archive.file_name().context("a name")?).current_dir(folder).output();
    let sum = output.context("starting sha256sum")?.stdout;
    fs::write(folder.join(format!("{name}.tar.gz.sha256")), sum).context("writing the SHA-256")?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Plugin;

    fn put(file: &Path) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, file.display().to_string()).unwrap();
    }

    /// The files of all plugins, as they lie in their folder.
    fn installed() -> Vec<PathBuf> {
        let files = |plugin: Plugin| {
            let library = plugin.installed();
            std::iter::once(library).chain(plugin.programs.into_iter().map(PathBuf::from))
        };
        plugins().unwrap().into_iter().flat_map(files).collect()
    }

    /// Small files in the place of what is built.
    fn built(folder: &Path) -> Built {
        let built = Built { programs: folder.join("programs"), plugins: folder.join("plugins") };
        for name in DAEMONS {
            put(&built.programs.join(name));
        }
        for file in installed() {
            put(&built.plugins.join(file));
        }
        built
    }

    fn output(command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_archive_has_what_one_machine_needs_and_is_the_same_each_time() {
        let scratch = tempfile::tempdir().unwrap();
        let built = built(scratch.path());
        let tree = scratch.path().join("scaler-1.2.3-linux-amd64");
        assemble(&built, &tree).unwrap();
        let archive = pack(&tree, scratch.path()).unwrap();
        let first = fs::read(&archive).unwrap();
        let listed = output(Command::new("tar").arg("-tvzf").arg(&archive));
        let mut files = Vec::new();
        for line in listed.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let (mode, owner, path) = (words[0], words[1], words[5]);
            assert_eq!(owner, "0/0", "{line}");
            assert_ne!(
                mode.as_bytes()[8],
                b'w',
                "a daemon refuses a plugin that everybody may write: {line}"
            );
            if mode.starts_with('-') {
                let path = path.strip_prefix("scaler-1.2.3-linux-amd64/").expect(line);
                assert_eq!(
                    mode == "-rwxr-xr-x",
                    path.starts_with("bin/") || path.starts_with("plugins/"),
                    "{line}"
                );
                files.push(path);
            }
        }
        let plugins = installed().into_iter().map(|file| format!("plugins/{}", file.display()));
        let mut expected: Vec<_> = plugins.collect();
        for library in ["deployment.so", "process.so", "process-shim"] {
            assert!(expected.contains(&format!("plugins/{library}")), "{expected:?}");
        }
        expected.extend(
            [
                "CHANGELOG.md",
                "LICENSE",
                "bin/autoscaler",
                "bin/dlx",
                "examples/every-key.yaml",
                "examples/hello.yaml",
                "one-machine.md",
                "sbom.cdx.json",
                "systemd/scaler-autoscaler.service",
                "systemd/scaler-dlx.service",
                "systemd/scaler-dlx.socket",
                "systemd/scaler-sysusers.conf",
            ]
            .map(str::to_owned),
        );
        files.sort_unstable();
        expected.sort_unstable();
        assert_eq!(files, expected);
        let sum = scratch.path().join("scaler-1.2.3-linux-amd64.tar.gz.sha256");
        output(Command::new("sha256sum").arg("--check").arg(sum).current_dir(scratch.path()));
        fs::remove_dir_all(&tree).unwrap();
        assemble(&built, &tree).unwrap();
        assert!(fs::read(pack(&tree, scratch.path()).unwrap()).unwrap() == first, "the bytes differ");
    }
}
