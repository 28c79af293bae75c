//! A real Prometheus reports the activity of a workload.

use std::time::{Duration, Instant};

use e2e::{
    kubernetes::{
        Setting, Shop, Workload,
        prometheus::{self, Prometheus},
        run,
        workload::PORT,
    },
    load::{get, once},
    wait::{pause, wait_timeout},
};

/// For longer than a window of the metric after the other one slept.
const BUSY: usize = 20;

/// Requests that pass no DLX keep it awake, because Prometheus has seen them; when they end it sleeps. Beside it another one without
/// requests is scaled to zero meanwhile.
#[test]
fn activity_seen_by_prometheus_keeps_it_awake() {
    if prometheus::cannot_be_reached() {
        return;
    }
    run(async {
        let queries = "    busy:\n      query: sum by (name) (increase(service_requests_total{namespace=\"$namespace\"}[$window]))\n      \
                       sampleCountQuery: min by (name, namespace) (count_over_time(service_requests_total{namespace=\"$namespace\"}[$window]) * (resets(service_requests_total{namespace=\"$namespace\"}[$window]) == bool 0))\n";
        let shop = Shop::open_with(Setting::default().with(&prometheus::source(queries))).await;
        let [web, quiet] = ["web", "quiet"].map(|name| {
            Workload::new(&shop, name)
                .annotation("metrics", "[{metricName: busy, windowSize: 3s, threshold: 0}]")
        });
        let Some(_prometheus) = Prometheus::start(&shop) else { return };
        shop.deploy(&web).await;
        shop.served(&web, "one").await;
        let pod = shop.address(&web).await;

        shop.deploy(&quiet).await;
        let (began, mut number, mut left) = (Instant::now(), 0, BUSY);
        while left > 0 {
            let answer = once((pod, PORT).into(), &get("web", "/", &format!("past-{number}"))).await;
            assert_eq!(answer.expect("an answer").status, 200);
            pause(Duration::from_millis(200)).await;
            number += 1;
            if shop.state(&quiet.name) == "asleep" {
                left -= 1;
            }
            assert!(
                began.elapsed() < wait_timeout(),
                "nothing sleeps at all: {}",
                shop.logs("autoscaler", 10)
            );
        }
        assert_eq!(
            shop.object(&web).await.data["spec"]["replicas"],
            1,
            "it was put to sleep while it was busy"
        );
        assert_eq!(web.read().starts.len(), 1, "it was put to sleep while it was busy");
        shop.asleep(&web).await;
        shop.served(&web, "two").await;
    });
}
