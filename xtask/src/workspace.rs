//! Where things lie in this workspace, and cargo started in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Which build of the daemons is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: tests and the demo.
    Debug,
    /// What is measured.
    Release,
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// `target`, wherever the environment puts it.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// `cargo` in the workspace, without what our own `cargo run` left in the environment: build scripts would take
/// it for a change and everything would be built twice.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// A member of the workspace.
pub struct Package {
    /// What cargo calls it.
    pub name: String,
    /// The folder of its manifest.
    pub folder: PathBuf,
    /// The root files of its library and programs.
    pub roots: Vec<PathBuf>,
    /// Its targets, as `cargo metadata` has them.
    pub targets: Vec<Value>,
}

/// The workspace's members, as cargo lists them.
///
/// # Errors
///
/// cargo's.
pub fn packages() -> Result<Vec<Package>> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("starting cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    Ok(packages.iter().map(Package::parse).collect())
}

/// Whether a target is of this kind: `lib`, `cdylib`, `bin`, `test`.
pub fn is_kind(target: &Value, kind: &str) -> bool {
    target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|one| one == kind))
}

// === impl Package ===

impl Package {
    fn parse(package: &Value) -> Self {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let targets = package["targets"].as_array().cloned().unwrap_or_default();
        let is_product =
            |target: &&Value| ["lib", "rlib", "cdylib", "bin"].iter().any(|kind| is_kind(target, kind));
        let roots = targets.iter().filter(is_product).filter_map(|target| target["src_path"].as_str());
        Self {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            folder: manifest.parent().unwrap_or(manifest).to_owned(),
            roots: roots.map(PathBuf::from).collect(),
            targets,
        }
    }
}

// === impl Profile ===

impl Profile {
    /// The folder cargo puts this build's programs and libraries in.
    pub fn folder(self) -> PathBuf {
        target().join(match self {
            Self::Debug => "debug",
            Self::Release => "release",
        })
    }

    /// What cargo calls it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "dev",
            Self::Release => "release",
        }
    }
}
