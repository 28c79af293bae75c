//! The daemons of an earlier version, for the tests that upgrade from it and go back to it.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    steps::run,
    workspace::{cargo, root, target},
};

/// The last commit that leads no Services, and what is in its place in a cluster before an upgrade.
const COMMIT: &str = "0882a58a6193e1e764ea5137f73f4715943490d7";
/// Names the folder to the tests.
pub const ENVIRONMENT: &str = "SCALER_E2E_OLD_BIN";
/// What is upgraded.
const PACKAGES: [&str; 3] = ["autoscaler", "dlx", "resource-scaler-deployment"];

/// Builds them from this repository's history, once: the folder with their programs and plugins; or one that is named already.
/// `None`: the history does not go back so far, as in a shallow clone.
///
/// They are built on their own, so that neither build takes the other's place, and without debug information: nobody looks
/// into them.
///
/// # Errors
///
/// git's, tar's and cargo's, and the file system's.
pub fn build() -> Result<Option<PathBuf>> {
    if let Some(given) = env::var_os(ENVIRONMENT).filter(|folder| !folder.is_empty()) {
        return Ok(Some(given.into()));
    }
    let folder = target().join("earlier").join(&COMMIT[..12]);
    let (source, programs) = (folder.join("source"), folder.join("target/debug"));
    let has_it = git(&["cat-file", "-e", &format!("{COMMIT}^{{commit}}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_it {
        println!("    not there: the history does not go back to {}", &COMMIT[..12]);
        return Ok(None);
    }
    fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
    let archive = folder.join("source.tar");
    run(git(&["archive", "--format=tar", "--output"]).arg(&archive).arg(COMMIT))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source))?;
    let mut build = cargo();
    build
        .current_dir(&source)
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(folder.join("target"));
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    run(build.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0"))?;
    Ok(Some(programs))
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(root()).args(arguments);
    git
}
