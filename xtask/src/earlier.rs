//! The daemons of an earlier version, for the tests that upgrade from it and go back to it.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    steps::{run, show_progress},
    workspace::{cargo, root, target},
};

/// The trailer of the commit that is upgraded from: the first that exchanges and stores what this version does. Its hash changes
/// whenever it is rebased.
const TRAILER: &str = "Upgrade-From: v1";
/// Names the folder to the tests.
pub const ENVIRONMENT: &str = "SCALER_E2E_OLD_BIN";
/// What is upgraded.
const PACKAGES: [&str; 3] = ["autoscaler", "dlx", "resource-scaler-deployment"];

/// Builds them from this repository's history, once: the folder with their programs and plugins; or one that is named already.
/// `None`: the history is not all there, as in a shallow clone, and the commit is not in it.
///
/// They are built on their own, so that neither build replaces the other, and without debug information.
///
/// # Errors
///
/// The history is all there, and no commit has the trailer. git's, tar's and cargo's, and the file system's.
pub fn build() -> Result<Option<PathBuf>> {
    if let Some(given) = env::var_os(ENVIRONMENT).filter(|folder| !folder.is_empty()) {
        return Ok(Some(given.into()));
    }
    let Some(commit) = find()? else {
        println!("    not there: the history is cut off (git fetch --unshallow)");
        return Ok(None);
    };
    let folder = target().join("earlier").join(&commit[..12]);
    let (source, programs) = (folder.join("source"), folder.join("target/debug"));
    fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
    let archive = folder.join("source.tar");
    run(git(&["archive", "--format=tar", "--output"]).arg(&archive).arg(&commit))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source))?;
    let mut build = cargo();
    show_progress(build.current_dir(&source).arg("build"));
    build.args(["--locked", "--target-dir"]).arg(folder.join("target"));
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    run(build.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0"))?;
    Ok(Some(programs))
}

/// The commit that is upgraded from.
fn find() -> Result<Option<String>> {
    let pattern = format!("--grep=^{TRAILER}$");
    let found = output(&mut git(&["log", "--format=%H", "--max-count=1", &pattern]))?;
    if !found.is_empty() {
        return Ok(Some(found));
    }
    let shallow = output(&mut git(&["rev-parse", "--is-shallow-repository"]))?;
    ensure!(
        shallow == "true",
        "no commit of this history has the trailer {TRAILER:?}: the upgrade tests need it"
    );
    Ok(None)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(root()).args(arguments);
    git
}
