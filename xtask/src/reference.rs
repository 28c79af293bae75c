//! The pages under docs/reference, written from what the daemons declare.

use anyhow::Result;

use crate::{steps::run, workspace::cargo};

/// Set: `tests/deploy` writes the pages, which it else compares.
const WRITE: &str = "SCALER_WRITE_REFERENCE";

/// Writes docs/reference from what the daemons declare
///
/// The flags and the keys of a namespace file, with their meanings and defaults. `cargo xtask test` fails while a page is not
/// what they declare.
#[derive(clap::Args)]
pub struct Reference {}

// === impl Reference ===

impl Reference {
    /// Writes the pages.
    ///
    /// # Errors
    ///
    /// What declares them does not build.
    pub fn run(&self) -> Result<()> {
        let test = ["test", "--quiet", "--package=deploy", "--test=suite", "reference::"];
        run(cargo().args(test).env(WRITE, "1"))
    }
}
