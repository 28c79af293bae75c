//! A real Prometheus says how busy a workload is.

use std::time::Duration;

use e2e::{
    kubernetes::{
        Setting, Shop, Workload, needs_devcluster,
        prometheus::{self, Prometheus},
        run,
        workload::PORT,
    },
    load::{get, once},
    wait::pause,
};

/// Two windows of the metric and more.
const BUSY: usize = 40;

/// Requests that pass no DLX keep it awake, because Prometheus has seen them; when they end it sleeps.
#[test]
fn what_prometheus_has_seen_keeps_it_awake() {
    if needs_devcluster("the Prometheus beside the test cannot be reached by pods") {
        return;
    }
    run(async {
        let queries = "    busy:\n      query: sum by (name) (increase(service_requests_total{namespace=\"$namespace\"}[$window]))\n";
        let shop = Shop::open_with(Setting::default().with(&prometheus::source(queries))).await;
        let web = Workload::new(&shop, "web")
            .annotation("metrics", "[{metricName: busy, windowSize: 3s, threshold: 0}]");
        let Some(_prometheus) = Prometheus::start(&shop) else { return };
        shop.deploy(&web).await;
        shop.served(&web, "one").await;
        let pod = shop.address(&web).await;

        for number in 0..BUSY {
            let answer = once((pod, PORT).into(), &get("web", "/", &format!("past-{number}"))).await;
            assert_eq!(answer.expect("an answer").status, 200);
            pause(Duration::from_millis(200)).await;
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
