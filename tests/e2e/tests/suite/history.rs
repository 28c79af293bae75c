//! Missing data never counts as idle.

use std::time::Duration;

use e2e::{
    Daemon, Namespace, Service, Site,
    load::{get, once},
    until,
    wait::pause,
};
use tokio::time::Instant;

/// Three DLXs, and a resource that one of them has served. Each is stopped as another begins; the autoscaler has all of their
/// last reports, and the new ones' short histories are no reason to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_leaves_no_gap_and_a_killed_dlx_does() {
    let site = Site::new("rolling-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1h").with(&service));
    let autoscaler = site.autoscaler().await;
    let mut dlxs = Vec::new();
    for _ in 0..3 {
        dlxs.push(site.dlx_beside().await);
    }
    let response = once(dlxs[0].1, &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 200);
    code_is(&autoscaler, "active").await;
    for _ in 0..3 {
        let (mut old, _) = dlxs.remove(0);
        dlxs.push(site.dlx_beside().await);
        old.terminate();
        assert!(old.ended().await.success());
        assert!(old.log().contains("delivered the last report to the autoscaler"), "{}", old.log());
    }
    // Those that are there now have counted for a moment, and the one that served it is gone.
    let resource = code_is(&autoscaler, "active").await;
    let samples = resource["samples"].as_array().expect("samples");
    assert!(samples.iter().any(|sample| sample["requests"] == 1), "the request is known: {resource}");
    assert!(!autoscaler.log().contains("left without a last report"), "{}", autoscaler.log());
    dlxs[0].0.kill().expect("killing it");
    until("the gap to be noticed", || async {
        let log = autoscaler.log();
        if log.contains("left without a last report") { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn code_is(autoscaler: &Daemon, code: &str) -> serde_json::Value {
    until("a decision by all DLXs", || async {
        let resource = autoscaler.resource("demo", "hello").await;
        if resource["code"] == code { Ok(resource) } else { Err(resource.to_string()) }
    })
    .await
}

/// A DLX that was started a moment ago knows nothing of the window before: nothing sleeps on its word until it has
/// counted for a whole window.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_dlx_scales_nothing_to_zero_for_lack_of_history() {
    let window = Duration::from_secs(6);
    let site = Site::new("history-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("6s").with(&service));
    let dlx = site.dlx().await;
    let response = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 200);
    // The autoscaler comes last, and is not what keeps it awake: it has seen no event of this resource.
    dlx.stop().await;
    // Well over the window without a request, while no DLX counts.
    pause(window + window / 3).await;
    let started = Instant::now();
    let _dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;
    let mut decisions = 0;
    while site.state("demo", "hello") == "active" {
        let resource = autoscaler.resource("demo", "hello").await;
        if resource["decision"] == "keep" {
            decisions += 1;
        }
        assert!(started.elapsed() < e2e::wait::WAIT_TIMEOUT, "it never sleeps: {resource}");
        pause(Duration::from_millis(50)).await;
    }
    // Not a limit on how fast it is: the DLX cannot have counted for a whole window earlier.
    let counted = started.elapsed();
    assert!(counted >= window, "drained after {counted:?}, the window is {window:?}");
    assert!(decisions > 0, "no decision to keep it was seen");
    site.state_is("demo", "hello", "asleep").await;
}
