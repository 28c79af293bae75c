//! Services that lead to the DLXs only while their workloads sleep: Prometheus says how busy they are, nodes hear of changes late,
//! clients keep connections to pods that kube-proxy never cuts, and the application exits at once on SIGTERM.

use std::time::Duration;

use e2e::{
    kubernetes::{
        cycles::{App, Beside, Plan},
        needs_devcluster,
        prometheus::{self, Prometheus},
        run,
        shop::{GRACE, LAG},
    },
    traffic::{Client, Sleeps},
};

/// How far back the metrics are looked at.
const WINDOW: Duration = Duration::from_secs(3);

/// How many are asked for, if so many are asked for otherwise: one takes as long as ten of the others.
fn cycles() -> u64 {
    (Plan::new().cycles / 2).max(6)
}

fn plan(app: App, pool: usize) -> Plan {
    let queries = "    busy:\n      query: sum by (name) (increase(service_requests_total{namespace=\"$namespace\"}[$window]))\n    \
                   flying:\n      query: max by (name) (max_over_time(service_in_flight{namespace=\"$namespace\"}[$window]))\n";
    let metrics = "[{metricName: busy, windowSize: 3s, threshold: 0}, {metricName: flying, windowSize: 3s, threshold: 0}]";
    let led = Plan::new().led("direct");
    Plan {
        cycles: cycles(),
        setting: led.setting.clone().with(&prometheus::source(queries)),
        app,
        pool,
        annotations: vec![("metrics", metrics.to_owned())],
        // Its window and as much again for the scrapes to cover it; nodes and grace; the sample after it.
        sleeps: Sleeps { after: WINDOW, by: WINDOW * 2 + LAG + GRACE + Duration::from_secs(8) },
        beside: Some(|shop| Box::new(Prometheus::start(shop)) as Beside),
        ..led
    }
}

#[test]
fn cycles_lose_nothing_where_applications_drain() {
    if needs_devcluster("has nodes that lag, and a Prometheus beside it") {
        return;
    }
    run(async {
        let report = plan(App::Drains(Duration::from_secs(2)), 3).run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        assert!(report.cycles >= cycles());
    });
}

/// What an application loses that exits at once: requests on connections that were kept to its pods, between the last scrape and
/// the end. It is counted; a new connection loses nothing.
#[test]
fn cycles_of_applications_that_exit_at_once_lose_no_new_connection() {
    if needs_devcluster("has nodes that lag, and a Prometheus beside it") {
        return;
    }
    run(async {
        let report = plan(App::Exits, 3).run().await;
        println!("{report}");
        let verdict = &report.verdict;
        let new: Vec<_> = verdict.lost.iter().filter(|(id, ..)| Client::New.sent(id)).collect();
        assert!(new.is_empty() && verdict.exact() && verdict.refused.is_empty(), "{verdict}\n{new:?}");
        println!("lost on kept connections: {} of {}", verdict.lost.len(), verdict.answered);
        assert!(report.cycles >= cycles());
    });
}
