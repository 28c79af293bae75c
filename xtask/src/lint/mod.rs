//! What needs no build of the workspace: seconds, so `cargo xtask test` begins with it.

mod cycles;
mod names;
mod source;

use anyhow::Result;

use crate::{
    install,
    steps::{Steps, run},
    workspace::cargo,
};

/// Checks what needs no build: formatting, dependencies, module cycles, names
///
/// The first steps of `cargo xtask test`, some seconds. Dependencies: `deny.toml` says which licences, sources and
/// doubled versions are allowed (cargo-deny is installed into target/tools if the machine has none).
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo xtask lint")]
pub struct Lint {}

/// Asks the RustSec database about the dependencies in Cargo.lock
///
/// Not part of `cargo xtask test`: its outcome changes without a change here.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo xtask advisories")]
pub struct Advisories {}

impl Lint {
    /// Runs the steps.
    ///
    /// # Errors
    ///
    /// The first step that fails.
    pub fn run(&self) -> Result<()> {
        let mut steps = Steps::new(STEPS);
        lint(&mut steps)?;
        steps.summary();
        Ok(())
    }
}

impl Advisories {
    /// Asks.
    ///
    /// # Errors
    ///
    /// An advisory that deny.toml does not allow, or no database.
    pub fn run(&self) -> Result<()> {
        deny(&["advisories"])
    }
}

/// How many steps [`lint`] has.
pub const STEPS: usize = 5;

/// The steps of [`Lint`].
///
/// # Errors
///
/// The first that fails.
pub fn lint(steps: &mut Steps) -> Result<()> {
    steps.step("cargo fmt --check", || run(cargo().args(["fmt", "--all", "--check"])))?;
    steps.step("cargo deny check", || deny(&["bans", "licenses", "sources"]))?;
    let crates = steps.step("reading the product crates", source::product_crates)?;
    steps.step("modules without cycles", || cycles::check(&crates))?;
    steps.step("names and words", || names::check(&crates))
}

/// A warning fails: an exception in deny.toml that is no longer needed goes.
fn deny(checks: &[&str]) -> Result<()> {
    let program = install::deny()?;
    let mut command = cargo();
    install::first_on_path(&mut command, program.parent().unwrap_or(&program));
    run(command.args(["deny", "--locked", "check", "--deny", "warnings"]).args(checks))
}
