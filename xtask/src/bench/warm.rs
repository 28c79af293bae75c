//! What a request costs through each proxy while the resource is awake.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    Dlx, Part,
    load::{HOST, Load},
    peers::{self, Peer, Programs},
    proc::{self, Cpu},
    report::Spread,
    upstream,
    workloads::{Entries, Unit, Workload},
};
use crate::{
    http,
    scene::{Scene, Script, free_port, process_section},
};

/// The proxies that every other one is compared with, and the DLX of `--dlx`.
pub const COMPARED: [&str; 3] = ["HAProxy", "nginx", super::BEFORE];

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often each proxy is measured in each row.
    pub rounds: usize,
    /// How long each measurement takes.
    pub seconds: u32,
    /// Of the other proxies HAProxy alone.
    pub haproxy_alone: bool,
}

/// All proxies under one workload.
#[derive(Serialize)]
pub struct Row {
    /// The workload.
    pub name: &'static str,
    /// `us` per request, or `ms` per GiB.
    pub unit: &'static str,
    /// The DLX's goal, in times of HAProxy's CPU.
    pub reach: Option<f64>,
    /// In the order of the table.
    pub proxies: Vec<Figures>,
}

/// One proxy under one workload.
#[derive(Serialize)]
pub struct Figures {
    /// Which.
    pub proxy: &'static str,
    /// CPU of its process tree, both kinds.
    pub cpu: Spread,
    /// The median of its CPU in user mode.
    pub user: f64,
    /// The median of its CPU in the kernel.
    pub system: f64,
    /// Requests, or MiB.
    pub per_second: Spread,
    /// By another proxy's name: its CPU divided by the other's in the same round.
    pub ratios: BTreeMap<&'static str, Spread>,
}

/// One proxy while it is measured.
#[derive(Clone, Copy)]
struct Measured {
    name: &'static str,
    entries: Entries,
    pid: u32,
}

/// What one proxy cost in one round, by the unit of its row.
#[derive(Clone, Copy, Debug)]
struct Round {
    user: f64,
    system: f64,
    per_second: f64,
}

/// A DLX whose resource is awake.
struct Awake {
    upstream: SocketAddr,
    measured: Measured,
    /// Dropped: the daemon and the upstream are stopped.
    _scene: Scene,
}

/// Measures every proxy in every round of each row, the order turned round each time.
///
/// # Errors
///
/// Something does not start, or a request failed.
pub async fn measure(dlxs: &[Dlx], programs: &Programs, rows: &[Workload], plan: Plan) -> Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("scaler-bench-").tempdir()?;
    let mut awake = Vec::new();
    for dlx in dlxs {
        awake.push(Awake::start(dlx, programs, folder.path()).await?);
    }
    let upstream = awake.first().context("there is no DLX to measure")?.upstream;
    let peers = peers::start(programs, folder.path(), upstream, plan.haproxy_alone).await?;
    let of_peer = |peer: &Peer| Measured { name: peer.name, entries: peer.entries, pid: peer.pid() };
    let proxies: Vec<Measured> =
        peers.iter().map(of_peer).chain(awake.iter().map(|awake| awake.measured)).collect();

    let warm_up = Part::KeepAlive64.workload().context("the workload to warm up with")?.client;
    for proxy in &proxies {
        let warmed = warm_up.run(programs, folder.path(), proxy.entries.http, 1);
        warmed.with_context(|| format!("warming up {}", proxy.name))?;
    }
    let mut table = Vec::with_capacity(rows.len());
    for row in rows {
        println!("    {}", row.name);
        let mut runs: Vec<_> = proxies
            .iter()
            .filter_map(|proxy| Some((*proxy, proxy.entries.address(row.entry)?, Vec::new())))
            .collect();
        for _ in 0..plan.rounds {
            for (proxy, address, rounds) in &mut runs {
                let before = proc::cpu(proxy.pid)?;
                let load = row.client.run(programs, folder.path(), *address, plan.seconds);
                let load = load.with_context(|| format!("measuring {}: {}", proxy.name, row.name))?;
                rounds.push(Round::of(row.unit, proc::cpu(proxy.pid)? - before, load));
            }
            runs.reverse();
        }
        // In the order of the table, whatever the last round's was.
        runs.sort_by_key(|(proxy, ..)| proxies.iter().position(|other| other.name == proxy.name));
        let runs = runs.into_iter().map(|(proxy, _, rounds)| (proxy.name, rounds)).collect();
        table.push(Row::of(row, runs));
    }
    Ok(table)
}

// === impl Awake ===

impl Awake {
    async fn start(dlx: &Dlx, programs: &Programs, folder: &Path) -> Result<Self> {
        let port = free_port(17_000)?;
        let (own, tcp) = (free_port(17_050)?, free_port(17_060)?);
        let upstream = upstream::service(programs, folder, port)?;
        let namespace_file = format!(
            "namespace: bench\n{}        tcpPorts: [{{listen: {own}, protocol: http}}, {{listen: {tcp}}}]\n",
            // Ends within its last resource.
            process_section(&[upstream], Some("/"))
        );
        let scene =
            Scene::start(&dlx.built, &Script { namespace_file, dlx: Some(Vec::new()), autoscaler: false })
                .await?;
        // Wakes the upstream; from here on it stays awake.
        let woken = http::get(scene.addresses.entry, HOST, "/", Duration::from_secs(20)).await?;
        ensure!(woken.status == 200, "{} answered {} {}", dlx.name, woken.status, woken.body);
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let http = scene.addresses.entry;
        let entries = Entries { http, own: local(own), h2c: Some(http), tcp: Some(local(tcp)) };
        let pid = scene.pid("dlx").context("the DLX has no process id")?;
        Ok(Self { upstream: local(port), measured: Measured { name: dlx.name, entries, pid }, _scene: scene })
    }
}

// === impl Row ===

impl Row {
    fn of(workload: &Workload, runs: Vec<(&'static str, Vec<Round>)>) -> Self {
        let figures = |(name, rounds): &(&'static str, Vec<Round>)| {
            let others = runs.iter().filter(|(other, _)| COMPARED.contains(other) && other != name);
            let ratios = others.map(|(other, theirs)| (*other, Round::ratio(rounds, theirs))).collect();
            Figures {
                proxy: name,
                cpu: Spread::of(rounds.iter().map(|round| round.cpu())),
                user: Spread::of(rounds.iter().map(|round| round.user)).median,
                system: Spread::of(rounds.iter().map(|round| round.system)).median,
                per_second: Spread::of(rounds.iter().map(|round| round.per_second)),
                ratios,
            }
        };
        Self {
            name: workload.name,
            unit: match workload.unit {
                Unit::Request => "us",
                Unit::Gibibyte => "ms",
            },
            reach: workload.reach,
            proxies: runs.iter().map(figures).collect(),
        }
    }
}

// === impl Round ===

impl Round {
    fn of(unit: Unit, cpu: Cpu, load: Load) -> Self {
        // Microseconds per MiB are 1.024 times milliseconds per GiB.
        let scale = match unit {
            Unit::Request => 1.0,
            Unit::Gibibyte => 1.024,
        };
        let each = |microseconds: u64| microseconds as f64 * scale / load.requests as f64;
        Self { user: each(cpu.user), system: each(cpu.system), per_second: load.per_second }
    }

    fn cpu(&self) -> f64 {
        self.user + self.system
    }

    /// Of each round, the CPU of one proxy divided by that of the other: a machine that is slower in one round is so for both.
    fn ratio(rounds: &[Self], others: &[Self]) -> Spread {
        Spread::of(rounds.iter().zip(others).map(|(round, other)| round.cpu() / other.cpu()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(cpu: [(f64, f64); 3]) -> Vec<Round> {
        cpu.map(|(user, system)| Round { user, system, per_second: 1.0 }).to_vec()
    }

    #[test]
    fn a_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_the_medians() {
        // The machine was half as fast in the second round, and the pair of the third is far off.
        let haproxy = rounds([(4.0, 6.0), (8.0, 12.0), (5.0, 35.0)]);
        let dlx = rounds([(2.0, 3.0), (4.0, 7.0), (4.0, 6.0)]);
        let workload = Part::KeepAlive64.workload().unwrap();
        let row = Row::of(&workload, vec![("HAProxy", haproxy), ("Scaler's DLX", dlx)]);
        let [haproxy, dlx] = &row.proxies[..] else { panic!("two proxies") };
        assert!(haproxy.ratios.is_empty(), "it is not compared with itself");
        let ratio = dlx.ratios["HAProxy"];
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.25, 0.5, 0.55));
        assert_eq!((dlx.user, dlx.system, dlx.cpu.median), (4.0, 6.0, 10.0));
    }

    #[test]
    fn the_cpu_of_a_mib_per_request_is_given_per_gib() {
        let (cpu, load) =
            (Cpu { user: 250_000, system: 750_000 }, Load { requests: 1000, per_second: 500.0 });
        assert_eq!(Round::of(Unit::Request, cpu, load).cpu(), 1000.0);
        // 1,000 MiB took one second.
        assert_eq!(Round::of(Unit::Gibibyte, cpu, load).cpu(), 1024.0);
    }
}
