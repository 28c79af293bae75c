//! From one replica to many by the requests, and back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use e2e::{
    counters::Counters,
    journal::Verdict,
    kubernetes::{Setting, Shop, Workload, run, shop::Part},
    load::{Ids, Ledger, Outcome, get, once},
    random::{self, Random},
    traffic::LiveAddresses,
    until,
    wait::pause,
};
use tokio::task::JoinSet;

/// How many clients there are at most.
const CLIENTS: usize = 20;
const MOST: u64 = 4;
/// How long each request takes.
const REQUEST: Duration = Duration::from_millis(250);

/// The clients of a workload, the first so many of which send one request after the other.
struct Ramp {
    active: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

// === impl Ramp ===

impl Ramp {
    fn start(shop: &Shop, workload: &Workload, ledger: &Ledger, seed: u64) -> Self {
        let (active, stop) = (Arc::new(AtomicUsize::new(1)), Arc::default());
        let ids = Arc::new(Ids::new(format!("{}-{seed:x}", workload.name)));
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let (active, stop, ledger, ids): (_, Arc<AtomicBool>, _, _) =
                (Arc::clone(&active), Arc::clone(&stop), ledger.clone(), ids.clone());
            let (fronts, host, mut random) =
                (shop.fronts(), workload.host(), Random::new(seed, number as u64));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if number < active.load(Ordering::Relaxed) {
                        let id = ids.next();
                        ledger.record(id.clone(), ask(&fronts, &host, &id, &mut random).await);
                    } else {
                        pause(REQUEST / 10).await;
                    }
                }
            });
        }
        Self { active, stop, tasks }
    }

    fn set(&self, active: usize) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Waits for the answers to what they have sent.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

/// One request on a connection of its own, by any DLX.
async fn ask(fronts: &LiveAddresses, host: &str, id: &str, random: &mut Random) -> Outcome {
    let fronts = fronts.all();
    let front = fronts[random.below(fronts.len() as u64) as usize];
    let path = format!("/slow/{}", REQUEST.as_millis());
    match once(front, &get(host, &path, id)).await {
        Ok(response) => response.outcome(id),
        Err(lost) => Outcome::Lost(lost),
    }
}

/// Waits until so many replicas are asked for, or more.
async fn replicas(shop: &Shop, web: &Workload, wanted: std::ops::RangeInclusive<u64>) {
    until(&format!("{wanted:?} replicas of {}", web.id()), || async {
        let replicas = shop.object(web).await.data["spec"]["replicas"].as_u64().unwrap_or_default();
        let events = shop.events(web).await;
        if wanted.contains(&replicas) { Ok(()) } else { Err(format!("{replicas}; {events:#?}")) }
    })
    .await;
}

#[test]
fn a_ramp_of_requests_scales_up_and_down_and_loses_nothing() {
    run(async {
        let seed = random::seed();
        let values = "autoscaler: {podDeletionCost: true}\n".to_owned();
        let shop = Shop::open_with(Setting { values, ..Setting::default() }).await;
        let web = |name: &str, target: &str, value: &str| {
            Workload::new(&shop, name)
                .annotation("scale-to-zero", "1h")
                .annotation(target, value)
                .annotation("max-replicas", &MOST.to_string())
                .annotation("scale-down-delay", "1s")
                .drains(Duration::from_millis(500))
        };
        let flying = web("flying", "in-flight-per-replica", "2");
        let asked = web("asked", "requests-per-replica", "8");
        let (ledger, mut all, mut journals) = (Ledger::default(), Vec::new(), Vec::new());
        for workload in [flying, asked] {
            shop.deploy(&workload).await;
            let ramp = Ramp::start(&shop, &workload, &ledger, seed);
            all.push((workload, ramp));
        }
        for (clients, wanted) in [(CLIENTS / 3, 2..=MOST), (CLIENTS, MOST..=MOST), (1, 1..=1)] {
            all.iter().for_each(|(_, ramp)| ramp.set(clients));
            for (workload, _) in &all {
                replicas(&shop, workload, wanted.clone()).await;
            }
        }
        for (workload, ramp) in all {
            until(&format!("one pod of {}", workload.id()), || async {
                let pods = shop.pods_of(&workload).await;
                if pods.len() == 1 { Ok(()) } else { Err(format!("{pods:?}")) }
            })
            .await;
            shop.event(&workload, "ScaledUp: ").await;
            shop.event(&workload, "ScaledDown: ").await;
            ramp.end().await;
            journals.push(workload.read());
        }
        let (mut verdict, mut counters) = (Verdict::of(&ledger, journals), Counters::default());
        for (_, metrics) in shop.metrics(Part::Dlx).await {
            counters.add_from(&metrics);
        }
        verdict.allow_resent(counters.resent);
        println!("{verdict}");
        verdict.assert_nothing_lost();
    });
}
