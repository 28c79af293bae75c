//! The API is away for a while.

use std::time::{Duration, Instant};

use e2e::{
    kubernetes::{Setting, Shop, Workload, needs_devcluster, run},
    wait::pause,
};

/// Longer than the leader's Lease, and than any single call of the API is waited for.
const OUTAGE: Duration = Duration::from_secs(60);

#[test]
fn while_the_api_is_away_what_is_awake_is_served_and_what_is_held_gets_an_answer() {
    if needs_devcluster("orders an outage of the API") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::intercepting().with("dlx: {holdTimeout: 2s}\n")).await;
        let awake = Workload::new(&shop, "awake").annotation("scale-to-zero", "1h");
        let asleep = Workload::new(&shop, "asleep");
        let patient = Workload::new(&shop, "patient").annotation("hold-timeout", "10m");
        for workload in [&awake, &asleep, &patient] {
            shop.deploy(workload).await;
        }
        shop.served(&awake, "before").await;
        // Through their own Services.
        let intercepted = Workload::new(&shop, "intercepted")
            .annotation("scale-to-zero", "1h")
            .annotation("intercept", "always");
        let dreams = Workload::new(&shop, "dreams")
            .annotation("hold-timeout", "10m")
            .annotation("intercept", "always");
        for workload in [&intercepted, &dreams] {
            shop.deploy(workload).await;
            shop.until_intercepted(workload).await;
        }
        shop.asleep(&dreams).await;
        let [at_intercepted, at_dreams] =
            [shop.service(&intercepted, 80).await[0], shop.service(&dreams, 80).await[1]];
        shop.asleep(&asleep).await;
        shop.asleep(&patient).await;

        let began = Instant::now();
        let outage = shop.cluster().faults().outage();
        let held = async {
            let refused = shop.ask(&asleep, "/", "refused").await.expect("an answer");
            assert_eq!(refused.status, 503, "{}", refused.text());
            assert!(refused.header("retry-after").is_some());
            let reason = refused.json()["reason"].as_str().unwrap_or_default().to_owned();
            assert!(!reason.is_empty(), "a 503 without a reason");
            println!("held in vain: {reason}");
            pause(OUTAGE.saturating_sub(began.elapsed())).await;
            outage.end();
        };
        let waiting = async { shop.served(&patient, "patient").await };
        let dreaming = shop.served_at(at_dreams, &dreams, "dreams");
        let warm = async {
            let mut number = 0;
            while began.elapsed() < OUTAGE + Duration::from_secs(2) {
                shop.served(&awake, &format!("warm-{number}")).await;
                shop.served_at(at_intercepted, &intercepted, &format!("intercepted-{number}")).await;
                pause(Duration::from_millis(25)).await;
                number += 1;
            }
        };
        tokio::join!(held, waiting, dreaming, warm);
        // And then everything goes on.
        shop.asleep(&patient).await;
        shop.asleep(&dreams).await;
        shop.served(&asleep, "after").await;
        for workload in [&awake, &asleep, &patient, &intercepted, &dreams] {
            assert!(workload.read().requests.values().all(|&times| times == 1));
        }
        assert!(!asleep.read().requests.contains_key("refused"));
    });
}
