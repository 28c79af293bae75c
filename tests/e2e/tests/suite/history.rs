//! What a DLX does not know is not idle.

use std::time::Duration;

use e2e::{
    Namespace, Service, Site,
    load::{get, once},
    wait::pause,
};
use tokio::time::Instant;

/// A DLX that was started a moment ago knows nothing of the window before: nothing sleeps on its word until it has
/// counted for a whole window.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_dlx_puts_nothing_to_sleep_for_want_of_history() {
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
        assert!(started.elapsed() < e2e::wait::PATIENCE, "it never sleeps: {resource}");
        pause(Duration::from_millis(50)).await;
    }
    // Not a limit on how fast it is: the DLX cannot have counted for a whole window earlier.
    let counted = started.elapsed();
    assert!(counted >= window, "fenced after {counted:?}, the window is {window:?}");
    assert!(decisions > 0, "no decision to keep it was seen");
    site.state_is("demo", "hello", "asleep").await;
}
