//! Committed 1 -> 0 -> 1 cycles under load: the promise itself. `SCALER_CYCLES` says how many.

use std::time::Duration;

use e2e::{
    kubernetes::{
        Setting, Shop, Workload,
        broker::{self, ALLOWED},
        cycles::{App, Beside, Disturbance, Plan, WORKLOADS},
        needs_devcluster, run,
        shop::Part,
    },
    load::{Connection, get, once},
    random::{self, Random},
    traffic::{Sleeps, WINDOW},
    wait::pause,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

fn lose_nothing(disturbance: Disturbance) {
    run(async move {
        let plan = Plan { disturbance, ..Plan::new() };
        let report = plan.run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        report.assert_done();
        // What the DLXs had counted that are gone is not known.
        if !matches!(disturbance, Disturbance::Deleted(Part::Dlx) | Disturbance::Rollout) {
            assert!(report.counters.during_drain > 0.0, "no request met a drain: the load proves nothing");
        }
    });
}

#[test]
fn cycles_under_load_lose_nothing() {
    lose_nothing(Disturbance::None);
}

#[test]
fn cycles_lose_nothing_while_dlxs_are_deleted() {
    lose_nothing(Disturbance::Deleted(Part::Dlx));
}

#[test]
fn cycles_lose_nothing_while_autoscalers_are_deleted() {
    lose_nothing(Disturbance::Deleted(Part::Autoscaler));
}

#[test]
fn cycles_lose_nothing_while_the_leader_changes() {
    lose_nothing(Disturbance::LeaderChange);
}

#[test]
fn cycles_lose_nothing_while_the_dlxs_are_rolled_out() {
    lose_nothing(Disturbance::Rollout);
}

/// How many pod starts to run with messages. A cycle with two replicas counts as two.
fn starts() -> u64 {
    (Plan::new().cycles / 5).max(12)
}

/// Messages of each Deployment come and go, as the requests do: one, or as many as two replicas are for.
fn messages(shop: &Shop) -> Beside {
    let (folder, seed) = (shop.folder().to_owned(), random::seed());
    let mut messages = JoinSet::new();
    messages.spawn(async move {
        let _broker = broker::start(&folder).await;
        let mut tubes = JoinSet::new();
        for number in 0..WORKLOADS {
            let tube = format!("r{number}");
            let mut random = Random::new(seed, (WORKLOADS + number) as u64);
            tubes.spawn(async move {
                for _ in 0..=starts() / WORKLOADS as u64 {
                    pause(random.between(Duration::ZERO..Duration::from_secs(6))).await;
                    broker::put(&tube, if random.percent(50) { 1 } else { 30 }).await;
                    pause(random.between(Duration::ZERO..Duration::from_secs(3))).await;
                    broker::take(&tube, 30).await;
                }
            });
        }
        tubes.join_all().await;
        // Without its broker nothing would be known to be idle.
        std::future::pending::<()>().await;
    });
    // Dropped, it ends.
    Box::new(messages)
}

/// Requests and messages wake it, and both keep it awake; what has scaled it up for messages is scaled down under requests.
#[test]
fn cycles_of_workloads_with_requests_and_a_queue_lose_nothing() {
    if needs_devcluster("starts a broker in its network") {
        return;
    }
    run(async {
        // A soak also intercepts the Services.
        let is_soak = Plan::new().cycles >= 1000;
        let plan = if is_soak { Plan::new().intercepted("always") } else { Plan::new() };
        let annotations = [
            ("queue", broker::queue("$NAME")),
            ("messages-per-replica", "20".to_owned()),
            ("max-replicas", "2".to_owned()),
            ("scale-down-delay", "1s".to_owned()),
        ];
        let plan = Plan {
            cycles: starts(),
            setting: Setting {
                values: "autoscaler: {podDeletionCost: true}\n".to_owned(),
                ..plan.setting.clone().with(ALLOWED)
            },
            app: App::Drains(Duration::from_millis(500)),
            annotations: annotations.into(),
            sleeps: Sleeps { after: WINDOW, by: Duration::from_secs(8) },
            beside: Some(messages),
            ..plan
        };
        let report = plan.run().await;
        println!("{report}\n{} times scaled to zero", report.counters.committed);
        report.verdict.assert_nothing_lost();
        report.assert_done();
    });
}

/// What is in flight keeps it awake, over many windows: a slow request, and an upgraded connection that says nothing. By the DLXs
/// themselves, or through intercepted Services.
pub async fn outlast_many_windows(intercepted: bool) {
    // A minute where there is time for it.
    let windows = if Plan::new().cycles >= 1000 { 60 } else { 6 };
    let shop = Shop::open_with(if intercepted { Setting::intercepting() } else { Setting::default() }).await;
    let ask = async |name: &str| {
        let workload = Workload::new(&shop, name);
        if !intercepted {
            shop.deploy(&workload).await;
            return (workload, shop.fronts().all()[0]);
        }
        let workload = workload.annotation("intercept", "always");
        shop.deploy(&workload).await;
        // What was connected before would pass no DLX.
        shop.until_intercepted(&workload).await;
        let address = shop.service(&workload, 80).await[0];
        (workload, address)
    };
    let ((slow, at_slow), (open, at_open)) = (ask("slow").await, ask("open").await);
    shop.asleep(&open).await;

    let mut upgraded = Connection::open(at_open).await.unwrap();
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        open.host()
    );
    upgraded.stream().write_all(request.as_bytes()).await.unwrap();
    let head = upgraded.receive().await.expect("an answer");
    assert_eq!(head.status, 101, "{}", head.text());
    let path = format!("/slow/{}", (WINDOW * windows).as_millis());
    let answer = once(at_slow, &get(&slow.host(), &path, "slow")).await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("slow")));
    upgraded.stream().write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    upgraded.stream().read_exact(&mut back).await.expect("the connection was cut");
    assert_eq!(shop.state("open"), "active");
    drop(upgraded);
    shop.asleep(&open).await;
    shop.asleep(&slow).await;
}

#[test]
fn a_slow_request_and_an_open_connection_outlast_many_windows() {
    run(outlast_many_windows(false));
}
