//! To zero and back, one workload at a time.

use std::time::Duration;

use e2e::{
    kubernetes::{Shop, Workload, run},
    traffic::WINDOW,
    wait::pause,
};
use serde_json::json;

#[test]
fn a_request_wakes_a_sleeping_deployment_and_idle_it_sleeps_again() {
    run(async {
        let shop = Shop::open().await;
        let web = Workload::new(&shop, "web");
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        let answer = shop.served(&web, "one").await;
        let timing = answer.header("server-timing").unwrap_or_default();
        assert!(timing.contains("hold;dur="), "it was not held: {answer:?}");
        shop.asleep(&web).await;
        shop.served(&web, "two").await;
        let journal = web.read();
        assert_eq!(journal.starts.len(), 3, "its first pod and one for each request");
        assert_eq!(journal.requests.keys().collect::<Vec<_>>(), ["one", "two"]);
        // Its users see on it what was done.
        for reason in ["ScaledToZero: ", "WakeStarted: ", "Woken: "] {
            shop.event(&web, reason).await;
        }
    });
}

#[test]
fn a_stateful_set_comes_back_with_as_many_as_it_had() {
    run(async {
        let shop = Shop::open().await;
        let db = Workload::new(&shop, "db").stateful().replicas(2);
        shop.deploy(&db).await;
        shop.asleep(&db).await;
        shop.served(&db, "one").await;
        assert_eq!(shop.object(&db).await.data["spec"]["replicas"], 2);
        shop.asleep(&db).await;
    });
}

#[test]
fn annotations_decide_when_it_sleeps() {
    run(async {
        let shop = Shop::open().await;
        let paused = Workload::new(&shop, "paused").annotation("paused", "true");
        let long = Workload::new(&shop, "long").annotation("scale-to-zero", "1h");
        // Whichever value is invalid: what was meant is not known.
        let wrong = Workload::new(&shop, "wrong").annotation("hold-timeout", "soon");
        let other = Workload::new(&shop, "other");
        for workload in [&paused, &long, &wrong, &other] {
            shop.deploy(workload).await;
            shop.served(workload, "one").await;
        }
        shop.asleep(&other).await;
        shop.event(&wrong, "InvalidAnnotation: ").await;
        shop.patch(&long, json!({"metadata": {"annotations": {"scaler.dev/sleep-now": "once"}}})).await;
        shop.asleep(&long).await;
        shop.served(&long, "two").await;
        // Done once for this value; and several decisions later the others are as they were.
        pause(WINDOW * 2 + Duration::from_secs(1)).await;
        for workload in [&paused, &long, &wrong] {
            assert_eq!(shop.object(workload).await.data["spec"]["replicas"], 1, "{}", workload.name);
        }
        shop.patch(&paused, json!({"metadata": {"annotations": {"scaler.dev/paused": null}}})).await;
        shop.asleep(&paused).await;
    });
}

/// What was never ready: `kubectl rollout status` would take it for complete at no replicas.
#[test]
fn nothing_sleeps_during_its_rollout() {
    run(async {
        let shop = Shop::open().await;
        let broken = Workload::new(&shop, "broken").image(&shop.names().missing);
        let db = Workload::new(&shop, "db").stateful().image(&shop.names().missing);
        let other = Workload::new(&shop, "other");
        for workload in [&broken, &db, &other] {
            shop.deploy(workload).await;
        }
        // Twice as long as the others need.
        for id in ["one", "two"] {
            shop.asleep(&other).await;
            shop.served(&other, id).await;
        }
        for workload in [&broken, &db] {
            assert_eq!(shop.object(workload).await.data["spec"]["replicas"], 1, "{}", workload.name);
        }
        let image = json!([broken.container(&shop.names().service)]);
        shop.patch(&broken, json!({"spec": {"template": {"spec": {"containers": image}}}})).await;
        shop.asleep(&broken).await;
        assert_eq!(broken.read().starts.len(), 1, "it ran before it slept");
    });
}
