//! Committed 1 -> 0 -> 1 cycles of many Deployments under load, while daemons are replaced.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Setting, Shop, Workload,
    shop::{Part, Version, Versions, earlier},
};
use crate::{
    counters::Counters,
    journal::Verdict,
    random::{self, Random},
    traffic::{self, Shared, Sleeps, Target, Way},
    until,
    wait::pause,
};

/// How many Deployments cycle at once.
pub const WORKLOADS: usize = 6;
/// Per cycle asked for, a run may take this long before it is given up, or as long as a Deployment takes to sleep.
const TIMEOUT_PER_CYCLE: Duration = Duration::from_secs(8);
/// The daemon that is replaced next, and by what: up and down, in both orders.
const VERSIONS: [(Part, Version); 8] = [
    (Part::Dlx, Version::Ours),
    (Part::Autoscaler, Version::Ours),
    (Part::Dlx, Version::Earlier),
    (Part::Autoscaler, Version::Earlier),
    (Part::Autoscaler, Version::Ours),
    (Part::Dlx, Version::Ours),
    (Part::Autoscaler, Version::Earlier),
    (Part::Dlx, Version::Earlier),
];

/// What happens to the daemons meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// Again and again a pod of it is deleted, and another one comes.
    Deleted(Part),
    /// Again and again all DLXs are replaced, one after the other, as by a new version.
    Rollout,
    /// Again and again the leader's pod is deleted.
    LeaderChange,
    /// The daemons are of an earlier version ([`earlier`]), and again and again one of them becomes this one, or that again.
    Versions,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many committed cycles, all Deployments together.
    pub cycles: u64,
    /// What happens to the daemons.
    pub disturbance: Disturbance,
    /// The cluster.
    pub setting: Setting,
    /// How the Services are intercepted (`scaler.dev/intercept`): then the load goes through them; without it, to the DLXs.
    pub route: Option<&'static str>,
    /// How the applications end.
    pub app: App,
    /// How many connections a client keeps; see [`Way::pool`].
    pub pool: usize,
    /// Annotations of the Deployments, `scaler.dev/NAME`, beside those that all have; `$NAME` in a value is the Deployment's name.
    pub annotations: Vec<(&'static str, String)>,
    /// How soon they sleep.
    pub sleeps: Sleeps,
    /// What has to run beside the shop for as long as the run takes.
    pub beside: Option<fn(&Shop) -> Beside>,
}

/// Something beside a shop, which ends when it is dropped.
pub type Beside = Box<dyn std::any::Any + Send + Sync>;

/// How an application ends on SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// At once, whatever it was doing.
    Exits,
    /// After a while in which it goes on, and once it has answered.
    Drains(Duration),
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What became of the requests.
    pub verdict: Verdict,
    /// Committed cycles: the pods' starts after the Deployments' first.
    pub cycles: u64,
    /// How often a daemon was replaced.
    pub replaced: u64,
    /// What the daemons that ran in the end had counted.
    pub counters: Counters,
    /// How long it took.
    pub took: Duration,
    /// What was not done when patience ended.
    pub late: Option<String>,
}

struct Run {
    shop: Shop,
    plan: Plan,
    workloads: Vec<Workload>,
    ways: Vec<Way>,
    shared: Shared,
    seed: u64,
    versions: Option<Versions>,
}

// === impl Plan ===

impl Plan {
    /// As many cycles as `SCALER_CYCLES` says (50 without it), undisturbed.
    pub fn new() -> Self {
        let cycles = std::env::var("SCALER_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(50);
        let setting = Setting::default();
        Self {
            cycles,
            disturbance: Disturbance::None,
            setting,
            route: None,
            app: App::Exits,
            pool: 1,
            annotations: Vec::new(),
            sleeps: Sleeps::default(),
            beside: None,
        }
    }

    /// The same through intercepted Services.
    #[must_use]
    pub fn intercepted(self, mode: &'static str) -> Self {
        Self { route: Some(mode), setting: Setting::intercepting(), ..self }
    }

    /// Makes the run. Every Deployment sleeps when it returns, unless it is [`late`](Report::late): what was lost by then is reported all
    /// the same.
    pub async fn run(self) -> Report {
        let seed = random::seed();
        let mut setting = self.setting.clone();
        if let Some(proxy) = &mut setting.proxy {
            proxy.seed = seed;
        }
        let shop = Shop::open_with(setting).await;
        let versions = match self.disturbance {
            Disturbance::Versions => Some(begin_earlier(&shop).await),
            _ => None,
        };
        let beside = self.beside.map(|start| start(&shop));
        let (mut workloads, mut ways) = (Vec::new(), Vec::new());
        for number in 0..WORKLOADS {
            let workload = self.workload(&shop, &format!("r{number}"));
            shop.deploy(&workload).await;
            workloads.push(workload);
        }
        for workload in &workloads {
            let way = match self.route {
                None => shop.front_way(workload),
                Some(_) => shop.way(workload).await,
            };
            match self.route {
                None => {}
                Some("when-asleep") => shop.reached(workload).await,
                // What was connected before would pass no DLX.
                Some(_) => drop(shop.until_intercepted(workload).await),
            }
            ways.push(way.pool(self.pool));
        }
        let shared = Shared::new(seed);
        let report = Arc::new(Run { shop, plan: self, workloads, ways, shared, seed, versions }).go().await;
        drop(beside);
        report
    }

    fn workload(&self, shop: &Shop, name: &str) -> Workload {
        let mut workload = Workload::new(shop, name);
        if let Some(route) = self.route {
            workload = workload.annotation("intercept", route);
        }
        for (option, value) in &self.annotations {
            workload = workload.annotation(option, &value.replace("$NAME", name));
        }
        match self.app {
            App::Exits => workload,
            App::Drains(time) => workload.drains(time),
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Run ===

impl Run {
    async fn go(self: Arc<Self>) -> Report {
        let began = Instant::now();
        let mut report = Report::default();
        let clients: Vec<_> =
            (0..self.workloads.len()).map(|number| tokio::spawn(self.clone().load(number))).collect();
        let mut random = Random::new(self.seed, u64::MAX);
        let timeout = TIMEOUT_PER_CYCLE.max(self.plan.sleeps.by);
        let deadline = began + timeout * self.plan.cycles.try_into().unwrap_or(u32::MAX);
        while !self.done(&report) {
            let replaced = report.replaced;
            if Instant::now() >= deadline {
                let (cycles, wanted) = (self.cycles(), self.plan.cycles);
                report.late = Some(format!("{cycles} cycles of {wanted}, {replaced} daemons replaced"));
                break;
            }
            pause(random.between(Duration::from_millis(50)..Duration::from_millis(450))).await;
            if self.disturb(&mut random, replaced).await {
                report.replaced += 1;
            }
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("a client's task");
        }
        report.cycles = self.cycles();
        report.took = began.elapsed();
        if report.late.is_none() {
            for workload in &self.workloads {
                self.shop.asleep(workload).await;
            }
        }
        for part in [Part::Autoscaler, Part::Dlx] {
            for (_, metrics) in self.shop.metrics(part).await {
                report.counters.add_from(&metrics);
            }
        }
        report.verdict = self.verdict();
        report.verdict.allow_resent(report.counters.resent);
        report
    }

    async fn load(self: Arc<Self>, number: usize) {
        let workload = &self.workloads[number];
        let (way, state) = (self.ways[number].clone(), self.shop.state_of(&workload.name));
        let target = Target { way, state, sleeps: self.plan.sleeps };
        let random = Random::new(self.seed, number as u64);
        traffic::run(&target, self.shared.clone(), random).await;
    }

    /// Does once what is to be done again and again, and waits for the new daemon. Nothing is asleep within a window after
    /// a DLX has come: the Deployments have a cycle between two of them.
    async fn disturb(&self, random: &mut Random, number: u64) -> bool {
        let shop = &self.shop;
        let (part, gone) = match self.plan.disturbance {
            Disturbance::None => return false,
            Disturbance::Deleted(part) => {
                let pods = shop.pods(part).await;
                let Some(pod) = pods.get(random.below(pods.len() as u64) as usize) else { return false };
                (part, pod.metadata.name.clone())
            }
            Disturbance::LeaderChange => {
                let Some(leader) = shop.leader().await else { return false };
                let pods = shop.pods(Part::Autoscaler).await;
                let names = pods.iter().filter_map(|pod| pod.metadata.name.clone());
                let Some(pod) = names.into_iter().find(|name| leader.starts_with(name.as_str())) else {
                    return false;
                };
                (Part::Autoscaler, Some(pod))
            }
            Disturbance::Rollout => (Part::Dlx, None),
            Disturbance::Versions => {
                self.next_version(number).await;
                return true;
            }
        };
        let before = self.starts();
        match &gone {
            Some(pod) => {
                shop.delete_pod(pod).await;
                until(&format!("{pod} to be gone"), || async {
                    let pods = shop.pods(part).await;
                    let there = pods.iter().any(|known| known.metadata.name.as_ref() == Some(pod));
                    if there { Err("there".to_owned()) } else { Ok(()) }
                })
                .await;
            }
            None => shop.restart(part, &number.to_string()).await,
        }
        let count = match part {
            Part::Autoscaler => self.plan.setting.autoscalers,
            Part::Dlx => self.plan.setting.dlxs,
        };
        shop.ready(part, count).await;
        let end = Instant::now() + self.plan.sleeps.by * 3;
        while self.starts() < before + WORKLOADS as u64 / 2 && Instant::now() < end {
            pause(Duration::from_millis(10)).await;
        }
        true
    }

    /// Replaces the next daemon, and waits until every workload has had a cycle with what runs then.
    async fn next_version(&self, number: u64) {
        let Some(versions) = &self.versions else { return };
        let (part, version) = VERSIONS[number as usize % VERSIONS.len()];
        versions.roll(&self.shop, part, version).await;
        let before = self.starts();
        until(&format!("cycles with {} of {version:?}", part.deployment()), || async {
            let more = self.starts() - before;
            if more >= WORKLOADS as u64 { Ok(()) } else { Err(format!("{more}\n{}", self.verdict())) }
        })
        .await;
    }

    fn done(&self, report: &Report) -> bool {
        let enough = match self.plan.disturbance {
            Disturbance::None => 0,
            // Every order, however few cycles that takes.
            Disturbance::Versions => (self.plan.cycles / WORKLOADS as u64).max(VERSIONS.len() as u64),
            // What happens to it happens in a cycle of each of them.
            _ => self.plan.cycles / WORKLOADS as u64,
        };
        self.cycles() >= self.plan.cycles && report.replaced >= enough
    }

    fn starts(&self) -> u64 {
        self.workloads.iter().map(|workload| workload.read().starts.len() as u64).sum()
    }

    fn cycles(&self) -> u64 {
        self.starts().saturating_sub(self.workloads.len() as u64)
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(&self.shared.ledger, self.workloads.iter().map(Workload::read))
    }
}

/// Has both daemons be of the earlier version.
async fn begin_earlier(shop: &Shop) -> Versions {
    let earlier = earlier().unwrap_or_else(|why| panic!("{why}"));
    let versions = Versions::new(shop, earlier).await;
    for part in [Part::Dlx, Part::Autoscaler] {
        versions.roll(shop, part, Version::Earlier).await;
    }
    versions
}

// === impl Report ===

impl Report {
    /// All that was asked for was done in time. To be asked after the verdict: what is lost may be what took so long.
    ///
    /// # Panics
    ///
    /// It was not.
    pub fn assert_done(&self) {
        assert!(self.late.is_none(), "too slow: {}\n{self}", self.late.as_deref().unwrap_or_default());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, cycles, replaced, counters, took, late: _ } = self;
        let (drain_attempts, during_drain) = (counters.drain_attempts, counters.during_drain);
        writeln!(
            f,
            "{cycles} committed cycles in {took:.1?}: {drain_attempts} drain attempts, {during_drain} requests during one, {replaced} daemons replaced"
        )?;
        write!(f, "{verdict}")
    }
}
