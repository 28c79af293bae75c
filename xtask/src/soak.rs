//! The end-to-end cycles, many more of them.

use std::ffi::OsStr;

use anyhow::Result;

use crate::{
    build::build_all,
    earlier,
    steps::Steps,
    test::{END_TO_END, tests},
    workspace::Profile,
};

/// Runs the long end-to-end tests of `cargo xtask test` with larger numbers
///
/// 1,000 cycles of each instead of 50, a herd of 3,000 workloads instead of 60, and workers with 1,000 jobs and 2,000 queues.
/// The same code and the same checks: committed cycles 1 -> 0 -> 1 under load of random phase, with neither daemon
/// stopped, with each stopped by SIGTERM in every cycle, and with SIGKILL; of processes, and of Deployments in a cluster
/// of the tests' own, there also with rollouts, changes of the leader and an upgrade. Takes some hours on two cores.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask soak                              all of it
  cargo xtask soak --cycles 200 intercepted     200 cycles each, of the tests with this in their names
  cargo xtask soak --fuzz 60                    an hour of HTTP/1.1 messages through the DLX's relay, the HTTP library, nginx and HAProxy")]
pub struct Soak {
    /// Committed cycles of each sort
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// How many workloads sleep when every DLX is killed
    #[arg(long, default_value_t = 3000)]
    herd: u32,
    /// No cycles: for so many minutes compare what the DLX's relay, the HTTP library alone, nginx and HAProxy make of the same bytes
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["cycles", "herd", "filters"])]
    fuzz: Option<u32>,
    /// Only the tests whose name contains one of these
    #[arg(default_values = ["cycles", "herd", "workers"])]
    filters: Vec<String>,
}

impl Soak {
    /// Runs them.
    ///
    /// # Errors
    ///
    /// A build that fails, a test that fails.
    pub fn run(&self) -> Result<()> {
        if let Some(minutes) = self.fuzz {
            return fuzz(minutes);
        }
        let mut steps = Steps::new(3);
        let built =
            steps.step("building the workspace, installing the plugins", || build_all(Profile::Debug))?;
        let earlier = steps.step("building the version that is upgraded from", earlier::build)?;
        let (cycles, herd) = (self.cycles.to_string(), self.herd.to_string());
        let mut environment =
            vec![("SCALER_CYCLES", OsStr::new(&cycles)), ("SCALER_HERD", OsStr::new(&herd))];
        environment.extend(earlier.iter().map(|folder| (earlier::ENVIRONMENT, folder.as_os_str())));
        let mut arguments = vec!["--profile", "soak", "--no-capture"];
        arguments.extend(self.filters.iter().map(String::as_str));
        let count = steps.step(&format!("{cycles} cycles of each sort"), || {
            tests(Some(END_TO_END), Some(&built), &arguments, &environment)
        })?;
        steps.summary();
        count.report()
    }
}

/// Runs the comparison of `dlx/src/tests/relay` for longer than the tests do.
fn fuzz(minutes: u32) -> Result<()> {
    let mut steps = Steps::new(1);
    // Requests, then answers: each has half of the time.
    let seconds = (u64::from(minutes) * 30).to_string();
    let environment = [("SCALER_FUZZ_SECONDS", OsStr::new(&seconds))];
    let arguments = ["--profile", "soak", "--no-capture", "tests::relay::"];
    let count = steps.step(&format!("{minutes} minutes, of requests and then of answers"), || {
        tests(Some("dlx"), None, &arguments, &environment)
    })?;
    steps.summary();
    count.report()
}
