//! The picture of the demo in the README.

use std::process::Command;

use anyhow::Result;

use crate::{
    build::{BUILT, build},
    install,
    steps::{Steps, run},
    workspace::{Profile, root},
};

/// Records the demo as docs/images/demo.svg: an animated picture for light and dark pages
///
/// Runs the demo and a shell in terminals of their own for half a minute, and requests the services. pyte is installed from
/// PyPI into target/tools. Look at the picture in a browser before you commit it.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo xtask record-demo           after a change of what the demo shows")]
pub struct RecordDemo {}

// === impl RecordDemo ===

impl RecordDemo {
    /// Records.
    ///
    /// # Errors
    ///
    /// The build's; no Python; the demo did not show what was waited for.
    pub fn run(&self) -> Result<()> {
        let mut steps = Steps::new(3);
        let built = steps.step("building what the demo runs", || build(Profile::Debug))?;
        let python = steps.step("a terminal in Python", install::python_with_pyte)?;
        steps.step("recording", || {
            let mut record = Command::new(python);
            record
                .arg(root().join("xtask/record-demo.py"))
                .args([root(), &root().join("docs/images/demo.svg")]);
            run(record.env(BUILT, &built.programs))
        })
    }
}
