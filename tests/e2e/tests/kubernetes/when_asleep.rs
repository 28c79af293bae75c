//! Services that are intercepted only while their workloads sleep: Prometheus reports the activity, nodes follow changes late,
//! clients keep connections to pods that kube-proxy never cuts, and the application exits at once on SIGTERM.
//!
//! The autoscaler waits for two things after the switchover: the propagation delay, for new connections, and a sample after it, for
//! those that are kept. Each has a scenario of its own, and then there is load for both.

use std::time::Duration;

use e2e::{
    kubernetes::{
        Setting, Shop, Workload, WorkloadView,
        cycles::{App, Beside, Plan},
        needs_devcluster,
        prometheus::{self, Prometheus, SAMPLE},
        run,
        shop::{LAG, PROPAGATION_DELAY},
    },
    load::{Connection, Exchange, get, once},
    traffic::{Client, Sleeps},
    wait::pause,
};
use scaler_types::{Backend, Phase};
use tokio::time::timeout;

use crate::leaders::change_at;

/// What Prometheus is asked.
const QUERIES: &str = "    busy:\n      query: sum by (name) (increase(service_requests_total{namespace=\"$namespace\"}[$window]))\n      \
                       sampleCountQuery: min by (name, namespace) (count_over_time(service_requests_total{namespace=\"$namespace\"}[$window]) * (resets(service_requests_total{namespace=\"$namespace\"}[$window]) == bool 0))\n    \
                       flying:\n      query: max by (name) (max_over_time(service_in_flight{namespace=\"$namespace\"}[$window]))\n      \
                       sampleCountQuery: min by (name, namespace) (count_over_time(service_in_flight{namespace=\"$namespace\"}[$window]))\n";
/// The metrics' window: as short as it can be.
const WINDOW: Duration = SAMPLE;
const METRICS: &str =
    "[{metricName: busy, windowSize: 2s, threshold: 0}, {metricName: flying, windowSize: 2s, threshold: 0}]";

/// How late a node follows: longer than a sample takes.
const LATE: Duration = Duration::from_secs(5);
/// The daemons wait for it.
const LATE_PROPAGATION_DELAY: Duration = Duration::from_secs(6);
/// Where nodes follow at once.
const SHORT_PROPAGATION_DELAY: Duration = Duration::from_secs(1);

fn setting() -> Setting {
    Setting::intercepting().with(&prometheus::source(QUERIES))
}

/// A shop with that propagation delay and one workload, to whose pod every node sends; nodes follow at once. `None`: without a
/// Prometheus.
async fn scene(propagation_delay: Duration) -> Option<(Shop, Prometheus, Workload)> {
    let mut setting = setting();
    setting.flags.push(format!("--endpoint-propagation-delay={}s", propagation_delay.as_secs()));
    let shop = Shop::open_with(setting).await;
    shop.nodes_hear_at_once();
    let prometheus = Prometheus::start(&shop)?;
    let web =
        Workload::new(&shop, "web").annotation("intercept", "when-asleep").annotation("metrics", METRICS);
    shop.deploy(&web).await;
    shop.reached(&web).await;
    Some((shop, prometheus, web))
}

/// The Service is switched to the DLXs, and the pod may still be needed.
fn switched(seen: &WorkloadView) -> bool {
    seen.backend() == Backend::Dlx && seen.state() == Some(Phase::Draining) && seen.replicas() == 1
}

/// Sends a request on a connection that was kept; the pod answers it.
async fn answered(kept: &mut Connection, web: &Workload, path: &str, id: &str) {
    match kept.send(&get(&web.host(), path, id)).await {
        Exchange::Answered(answer) => {
            assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id)), "{}", answer.text());
        }
        lost => panic!("{id} on a connection that was kept: {lost:?}"),
    }
}

/// The propagation delay: when the sample could have been taken, a node that is late still sends new connections to the pod.
#[test]
fn no_pod_is_stopped_that_a_node_still_sends_to() {
    if needs_devcluster("has a node that lags") {
        return;
    }
    run(async {
        let Some((shop, _prometheus, web)) = scene(LATE_PROPAGATION_DELAY).await else { return };
        let [late, soon] = shop.service(&web, 80).await[..] else { panic!("two nodes") };
        shop.proxy().set_lag(0, LATE..LATE);
        // None of its pods is left.
        shop.asleep(&web).await;
        tokio::join!(shop.served_at(late, &web, "late"), shop.served_at(soon, &web, "soon"));
    });
}

/// The sample: a connection that is kept stays with its pod, whatever the nodes have heard by then.
#[test]
fn no_pod_is_stopped_that_is_busy_after_the_propagation_delay() {
    if prometheus::cannot_be_reached() {
        return;
    }
    run(async {
        let Some((shop, _prometheus, web)) = scene(SHORT_PROPAGATION_DELAY).await else { return };
        let address = shop.service(&web, 80).await[0];
        let mut kept = Connection::open(address).await.expect("a connection");
        answered(&mut kept, &web, "/", "first").await;

        // One that was begun within the propagation delay outlasts the sample.
        shop.until_seen(&web, "the switch", switched).await;
        let path = format!("/slow/{}", ((SHORT_PROPAGATION_DELAY + SAMPLE) * 2).as_millis());
        tokio::select! {
            biased;
            () = answered(&mut kept, &web, &path, "long") => {}
            _ = shop.until_seen(&web, "its sleep", |seen| seen.state() == Some(Phase::Asleep)) => {
                panic!("it was put to sleep while a request was with its pod");
            }
        }
        shop.until_seen(&web, "its Service to be restored", |seen| seen.backend() == Backend::Workload).await;

        // Short ones, all of them after the propagation delay.
        shop.until_seen(&web, "another switch", switched).await;
        pause(SHORT_PROPAGATION_DELAY + SAMPLE / 8).await;
        let decided =
            shop.until_seen(&web, "an end of the try", |seen| seen.state() != Some(Phase::Draining));
        let mut decided = std::pin::pin!(decided);
        let mut number = 0;
        let seen = loop {
            number += 1;
            answered(&mut kept, &web, "/", &format!("short-{number}")).await;
            if let Ok(seen) = timeout(SAMPLE / 8, &mut decided).await {
                break seen;
            }
        };
        assert_eq!((seen.state(), seen.replicas()), (Some(Phase::Active), 1), "after {number} requests");
        let why = seen.record()["reason"].clone();
        assert!(why.as_str().is_some_and(|why| why.contains("not idle after")), "{why}");
        answered(&mut kept, &web, "/", "last").await;
        assert_eq!(web.read().starts.len(), 1, "it was stopped while it was in use");
        // And when it is not used any more it sleeps.
        shop.asleep(&web).await;
    });
}

/// A leader that is killed in the middle of a switchover: what it had verified is lost, and the next one begins anew.
#[test]
fn another_leader_reverts_a_switchover_that_it_did_not_begin() {
    if needs_devcluster("kills a process") {
        return;
    }
    run(async {
        let Some((shop, _prometheus, web)) = scene(SHORT_PROPAGATION_DELAY).await else { return };
        change_at(&shop, &web, "a switch", switched).await;
        let lifted =
            shop.until_seen(&web, "the drain to be reverted", |seen| seen.state() != Some(Phase::Draining));
        let lifted = lifted.await;
        assert_eq!((lifted.state(), lifted.replicas()), (Some(Phase::Active), 1));
        shop.until_restored(&web).await;
        // Of itself again, and then as if nothing had been.
        shop.asleep(&web).await;
        let answer = once(shop.service(&web, 80).await[0], &get(&web.host(), "/", "one")).await;
        assert_eq!(answer.expect("an answer").header("x-request-id"), Some("one"));
    });
}

/// How many are asked for, if so many are asked for otherwise: one takes as long as ten of the others.
fn cycles() -> u64 {
    (Plan::new().cycles / 2).max(6)
}

fn plan(app: App, pool: usize) -> Plan {
    let intercepted = Plan::new().intercepted("when-asleep");
    Plan {
        cycles: cycles(),
        setting: setting(),
        app,
        pool,
        annotations: vec![("metrics", METRICS.to_owned())],
        // Its window and as much again until the scrapes are complete for it; nodes and propagation delay; the sample after it.
        sleeps: Sleeps { after: WINDOW, by: WINDOW * 2 + LAG + PROPAGATION_DELAY + SAMPLE * 3 },
        beside: Some(|shop| Box::new(Prometheus::start(shop)) as Beside),
        ..intercepted
    }
}

#[test]
fn cycles_lose_nothing_where_applications_drain() {
    if prometheus::cannot_be_reached() {
        return;
    }
    run(async {
        let report = plan(App::Drains(Duration::from_secs(2)), 3).run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        report.assert_done();
    });
}

/// What an application loses that exits at once: requests on connections that were kept to its pods, between the last scrape and
/// the end. It is counted; a new connection loses nothing.
#[test]
fn cycles_of_applications_that_exit_at_once_lose_no_new_connection() {
    if prometheus::cannot_be_reached() {
        return;
    }
    run(async {
        let report = plan(App::Exits, 3).run().await;
        println!("{report}");
        let verdict = &report.verdict;
        let new: Vec<_> = verdict.lost.iter().filter(|(id, ..)| Client::New.sent(id)).collect();
        assert!(new.is_empty() && verdict.exact() && verdict.refused.is_empty(), "{verdict}\n{new:?}");
        println!("lost on kept connections: {} of {}", verdict.lost.len(), verdict.answered);
        report.assert_done();
    });
}
