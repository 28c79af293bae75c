//! Committed 1 -> 0 -> 1 cycles of many resources under load, while daemons are stopped, killed or broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Daemon, Namespace, Service, Site, binaries,
    counters::Counters,
    daemon::Launch,
    journal::{Journal, Verdict},
    member::StandIn,
    random::{self, Random},
    traffic::{self, LiveAddresses, Shared, Sleeps, Target, Way},
    until,
    wait::pause,
    without,
};

/// How many resources cycle at once.
const RESOURCES: usize = 8;
const NAMESPACE: &str = "cycles";
/// Per cycle asked for, a run may take this long before it is given up.
const TIMEOUT_PER_CYCLE: Duration = Duration::from_secs(6);

/// What happens to the daemons meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// In each cycle the next incarnation takes over and this one is stopped by SIGTERM.
    Handover(Part),
    /// In each cycle it is killed by SIGKILL at a random moment, and started again.
    Kill(Part),
}

/// One of the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The autoscaler.
    Autoscaler,
    /// The one that wakes.
    Dlx,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many committed cycles, all resources together.
    pub cycles: u64,
    /// What happens to the daemons.
    pub disturbance: Disturbance,
    /// Rules of the protocol that both daemons are built without, as the variable `SCALER_WITHOUT` names them.
    pub without: Option<&'static str>,
    /// End as soon as a request is lost.
    pub until_lost: bool,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What became of the requests.
    pub verdict: Verdict,
    /// Committed cycles: the resources' starts after their first.
    pub cycles: u64,
    /// Commits: every start is followed by one, since each resource sleeps in the end. (The autoscaler counts a commit
    /// that a wake overtook as reverted.)
    pub commits: u64,
    /// How often a daemon was stopped or killed.
    pub restarts: u64,
    /// What the daemons counted.
    pub counters: Counters,
    /// Requests that were on their way while a DLX was killed.
    pub exposed: BTreeSet<String>,
    /// How long it took.
    pub took: Duration,
}

struct Run {
    site: Site,
    plan: Plan,
    services: Vec<Service>,
    fronts: LiveAddresses,
    shared: Shared,
    seed: u64,
}

// === impl Plan ===

impl Plan {
    /// As many cycles as `SCALER_CYCLES` says (50 without it), undisturbed.
    pub fn new() -> Self {
        let cycles = std::env::var("SCALER_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(50);
        Self { cycles, disturbance: Disturbance::None, without: None, until_lost: false }
    }

    fn program(&self, part: Part) -> PathBuf {
        let name = match part {
            Part::Autoscaler => "autoscaler",
            Part::Dlx => "dlx",
        };
        match self.without {
            None => binaries::folder().join(name),
            Some(_) => binaries::own(&format!("{name}-without")),
        }
    }

    fn environment(&self) -> Option<(String, String)> {
        self.without.map(|rules| (without::WITHOUT.to_owned(), rules.to_owned()))
    }

    /// Makes the run. Every resource sleeps, every daemon is stopped and nothing is left behind when it returns.
    ///
    /// # Panics
    ///
    /// The cycles take too long, a daemon ends by itself, or something is left behind.
    pub async fn run(self) -> Report {
        let seed = random::seed();
        let mut site = Site::new("cycles-");
        let mut namespace = Namespace::new(NAMESPACE);
        let mut services = Vec::new();
        for number in 0..RESOURCES {
            let listen = site.add_port().port();
            let mut service = Service::new(&site, &format!("r{number}"));
            // Half of them speak both protocols: a connection of either keeps the whole resource awake.
            if number % 2 == 0 {
                service = service.lines(&site, listen);
            }
            namespace = namespace.with(&service);
            services.push(service);
        }
        site.configure(&namespace);
        let program = self.program(Part::Dlx);
        let (mut beside, front) = site.launch_dlx_beside(program);
        beside.environment.extend(self.environment());
        let fronts = LiveAddresses::from(vec![site.front(), front]);
        Arc::new(Run { site, plan: self, services, fronts, shared: Shared::new(seed), seed }).go(beside).await
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Run ===

impl Run {
    async fn go(self: Arc<Self>, beside: Launch) -> Report {
        let began = Instant::now();
        let mut report = Report::default();
        // A member that takes its time: drain attempts stay open long after the DLXs have confirmed.
        let names: Vec<&str> = self.services.iter().map(|service| service.name.as_str()).collect();
        let slow =
            StandIn::join_slow(&self.site, NAMESPACE, &names, Random::new(self.seed, u64::MAX / 2)).await;
        let beside = beside.start().ready().await;
        let mut dlx = self.start(Part::Dlx).await;
        let mut autoscaler = self.start(Part::Autoscaler).await;
        let clients: Vec<_> =
            (0..self.services.len()).map(|number| tokio::spawn(self.clone().load(number))).collect();

        let mut random = Random::new(self.seed, u64::MAX);
        let deadline = Instant::now() + TIMEOUT_PER_CYCLE * self.plan.cycles.try_into().unwrap_or(u32::MAX);
        while !self.done(&report) {
            assert!(
                Instant::now() < deadline,
                "too slow: {} cycles, {} restarts",
                self.cycles(),
                report.restarts
            );
            self.next_moment(&mut random).await;
            match self.plan.disturbance {
                Disturbance::None => {}
                Disturbance::Handover(Part::Dlx) => self.hand_over(Part::Dlx, &mut dlx, &mut report).await,
                Disturbance::Handover(part) => self.hand_over(part, &mut autoscaler, &mut report).await,
                Disturbance::Kill(Part::Dlx) => {
                    self.kill(Part::Dlx, &mut dlx, &mut random, &mut report).await
                }
                Disturbance::Kill(part) => self.kill(part, &mut autoscaler, &mut random, &mut report).await,
            }
        }

        self.shared.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("a client's task");
        }
        report.cycles = self.cycles();
        report.took = began.elapsed();
        report.commits = self.starts();
        for service in &self.services {
            self.site.state_is(NAMESPACE, &service.name, "asleep").await;
        }
        report.counters.add(&autoscaler).await;
        autoscaler.stop().await;
        for dlx in [dlx, beside] {
            report.counters.add(&dlx).await;
            dlx.stop().await;
        }
        drop(slow);
        self.site.nothing_runs().await;
        until("no member to be left", || async {
            let members = self.site.state_entries("members");
            if members.is_empty() { Ok(()) } else { Err(format!("{members:?}")) }
        })
        .await;
        assert!(self.site.half_written().is_empty(), "left behind: {:?}", self.site.half_written());
        report.verdict = self.verdict();
        report.verdict.allow_resent(report.counters.resent);
        report
    }

    async fn load(self: Arc<Self>, number: usize) {
        let random = Random::new(self.seed, number as u64);
        let service = &self.services[number];
        let run = self.clone();
        let mut way = Way::new(service.host_name(), self.fronts.clone());
        if let Some((listen, _)) = service.lines {
            way = way.lines(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, listen))]);
        }
        let target = Target {
            way,
            state: Box::new(move || run.site.state(NAMESPACE, &run.services[number].name)),
            sleeps: Sleeps::default(),
        };
        traffic::run(&target, self.shared.clone(), random).await;
    }

    /// Waits for the moment at which something may happen to a daemon.
    async fn next_moment(&self, random: &mut Random) {
        if self.plan.disturbance != Disturbance::None {
            // Nothing sleeps within a window after a DLX was killed or the leader has changed: let the resources have a cycle first.
            let before = self.starts();
            let end = Instant::now() + traffic::WINDOW * 4;
            while self.starts() < before + RESOURCES as u64 / 2 && Instant::now() < end {
                pause(Duration::from_millis(10)).await;
            }
            pause(random.between(Duration::ZERO..traffic::WINDOW)).await;
        } else {
            pause(random.between(Duration::from_millis(50)..Duration::from_millis(450))).await;
        }
    }

    fn done(&self, report: &Report) -> bool {
        let enough = match self.plan.disturbance {
            Disturbance::None => 0,
            // What happens to a daemon happens in a cycle of each resource.
            Disturbance::Handover(_) | Disturbance::Kill(_) => self.plan.cycles / RESOURCES as u64,
        };
        let lost = self.plan.until_lost && !self.verdict().lost.is_empty();
        lost || self.cycles() >= self.plan.cycles && report.restarts >= enough
    }

    fn starts(&self) -> u64 {
        self.services.iter().map(|service| Journal::read(&service.journal).starts.len() as u64).sum()
    }

    fn cycles(&self) -> u64 {
        self.starts().saturating_sub(self.services.len() as u64)
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(&self.shared.ledger, self.services.iter().map(|service| Journal::read(&service.journal)))
    }

    async fn start(&self, part: Part) -> Daemon {
        let program = self.plan.program(part);
        let mut launch = match part {
            Part::Autoscaler => self.site.launch_autoscaler(program, &[]),
            Part::Dlx => self.site.launch_dlx(program, &[]),
        };
        launch.environment.extend(self.plan.environment());
        launch.start().ready().await
    }

    /// The next incarnation takes over; this one is stopped and ends when it has finished what it had begun.
    async fn hand_over(&self, part: Part, daemon: &mut Daemon, report: &mut Report) {
        let mut old = std::mem::replace(daemon, self.start(part).await);
        report.counters.add(&old).await;
        old.terminate();
        let status = old.ended().await;
        assert!(status.success(), "{} ended with {status} on SIGTERM; its log:\n{}", old.name(), old.log());
        report.restarts += 1;
    }

    async fn kill(&self, part: Part, daemon: &mut Daemon, random: &mut Random, report: &mut Report) {
        report.counters.add(daemon).await;
        self.shared.flights.watch();
        daemon.kill().expect("killing a daemon");
        if part == Part::Dlx {
            report.exposed.extend(self.shared.flights.watched());
        }
        pause(random.between(Duration::ZERO..Duration::from_millis(300))).await;
        *daemon = self.start(part).await;
        report.restarts += 1;
    }
}

// === impl Report ===

impl Report {
    /// Drain attempts that were reverted. Of a daemon that was killed, or stopped in the middle of one, some are not known.
    pub fn reverts(&self) -> f64 {
        (self.counters.drain_attempts - self.commits as f64).max(0.0)
    }

    /// Losses that no kill of a DLX explains: the request was not on its way then, or the other side did answer.
    pub fn unexplained(&self) -> BTreeMap<String, String> {
        use crate::load::Lost::{CutShort, NoAnswer};
        let explained = |(id, lost, _): &&(String, crate::load::Lost, bool)| {
            self.exposed.contains(id) && matches!(lost, NoAnswer(_) | CutShort(_))
        };
        let rest = self.verdict.lost.iter().filter(|loss| !explained(loss));
        rest.map(|(id, lost, _)| (id.clone(), lost.to_string())).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, cycles, commits, restarts, counters, exposed, took } = self;
        let (reverts, during_drain) = (self.reverts(), counters.during_drain);
        writeln!(
            f,
            "{cycles} committed cycles in {took:.1?}: {commits} commits, {reverts} reverts, {during_drain} requests during a \
             drain, {restarts} restarts"
        )?;
        if !exposed.is_empty() {
            writeln!(f, "{} requests were on their way while a DLX was killed", exposed.len())?;
        }
        write!(f, "{verdict}")
    }
}
