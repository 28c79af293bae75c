//! Where things lie in this workspace, and cargo started in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

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
