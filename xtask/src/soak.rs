//! The end-to-end cycles, many more of them.

use std::ffi::OsStr;

use anyhow::Result;

use crate::{build::build_all, earlier, steps::Steps, test::tests, workspace::Profile};

/// Runs the end-to-end cycles of `cargo xtask test` with 1,000 of each instead of 50
///
/// The same code and the same checks: committed cycles 1 -> 0 -> 1 under load of random phase, with neither daemon
/// stopped, with each stopped by SIGTERM in every cycle, and with SIGKILL; of processes, and of Deployments in a cluster
/// of the tests' own, there also with rollouts, changes of the leader and an upgrade. Takes some hours on two cores.
#[derive(clap::Args)]
pub struct Soak {
    /// Committed cycles of each sort
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// Only the tests whose name contains this
    #[arg(default_value = "cycles")]
    filter: String,
}

impl Soak {
    /// Runs them.
    ///
    /// # Errors
    ///
    /// A build that fails, a test that fails.
    pub fn run(&self) -> Result<()> {
        let mut steps = Steps::new();
        let built =
            steps.step("building the workspace, installing the plugins", || build_all(Profile::Debug))?;
        let earlier = steps.step("building the version that is upgraded from", earlier::build)?;
        let cycles = self.cycles.to_string();
        let mut environment = vec![("SCALER_CYCLES", OsStr::new(&cycles))];
        environment.extend(earlier.iter().map(|folder| (earlier::ENVIRONMENT, folder.as_os_str())));
        let arguments = ["--package", "e2e", "--profile", "soak", "--no-capture", &self.filter];
        let count = steps
            .step(&format!("{cycles} cycles of each sort"), || tests(&built, &arguments, &environment))?;
        steps.summary();
        count.report()
    }
}
