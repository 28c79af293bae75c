//! The pages under docs/reference, written from what the daemons declare.

use anyhow::Result;

use crate::{
    steps::{run, show_progress},
    workspace::cargo,
};

/// Set: `tests/deploy` writes the pages, which it else compares.
const WRITE: &str = "SCALER_WRITE_REFERENCE";

/// Writes docs/reference from what the code declares
///
/// Flags, keys of a namespace file, annotations, commands, Events, metrics, errors and rights. `cargo xtask test` fails while a page
/// is not what the code declares.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo xtask reference             after a change of a flag or a key")]
pub struct Reference {}

// === impl Reference ===

impl Reference {
    /// Writes the pages.
    ///
    /// # Errors
    ///
    /// What declares them does not build.
    pub fn run(&self) -> Result<()> {
        let mut test = cargo();
        show_progress(test.arg("test")).args(["--package=deploy", "--test=suite", "reference::"]);
        run(test.env(WRITE, "1"))
    }
}
