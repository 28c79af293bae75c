//! Both daemons of this workspace, on a namespace file of one's own.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    build::build,
    steps::{Steps, line},
    workspace::Profile,
};

/// Builds the daemons and the plugins, and runs both daemons on namespace files until Ctrl-C
///
/// The same as `autoscaler run` of this workspace, with its flags after the file.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask run examples/config/hello.yaml                            then: curl http://hello.localhost:8090/
  cargo xtask run examples/config/hello.yaml --listen-address 127.0.0.1:9090      on another port")]
pub struct Run {
    /// The namespace file
    file: PathBuf,
    /// More files, and flags of `autoscaler run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    more: Vec<OsString>,
}

// === impl Run ===

impl Run {
    /// Builds, and becomes `autoscaler run`.
    ///
    /// # Errors
    ///
    /// The build's, and that the autoscaler cannot be started.
    pub fn run(&self) -> Result<()> {
        let built = Steps::new(1).step("building the daemons and the plugins", || build(Profile::Debug))?;
        let mut command = Command::new(built.program("autoscaler"));
        command.arg("run").arg("--plugins-dir").arg(&built.plugins).arg(&self.file).args(&self.more);
        Err(command.exec()).with_context(|| format!("starting `{}`", line(&command)))
    }
}
