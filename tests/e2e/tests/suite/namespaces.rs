//! Namespaces are isolated from each other.

use e2e::{
    Namespace, Service, Site,
    journal::Journal,
    load::{get, once},
    until,
};

/// Two resources of one name, in two namespaces: requests, wakes, state, metrics, journals stay apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_with_a_resource_of_the_same_name_stay_apart() {
    let site = Site::new("namespaces-");
    let one = Service::new(&site, "hello").host("one.localhost").arguments(&["--name", "one"]);
    let two = Service::new(&site, "hello").host("two.localhost").arguments(&["--name", "two"]);
    site.configure(&Namespace::new("one").with(&one));
    site.configure(&Namespace::new("two").window("10m").with(&two));
    let dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;

    let answer = once(site.front(), &get("one.localhost", "/", "1")).await.expect("an answer");
    assert!(answer.text().starts_with("one "), "{}", answer.text());
    assert_eq!(Journal::read(&one.journal).starts.len(), 1);
    assert_eq!(Journal::read(&two.journal).starts.len(), 0, "the other namespace's resource was woken");
    assert_ne!(site.state("two", "hello"), "waking");
    assert_eq!(dlx.resource("one", "hello").await["requests"], 1);
    assert_eq!(dlx.resource("two", "hello").await["requests"], 0);

    let answer = once(site.front(), &get("two.localhost", "/", "2")).await.expect("an answer");
    assert!(answer.text().starts_with("two "), "{}", answer.text());
    // One sleeps after its own window; the other one's is long.
    site.state_is("one", "hello", "asleep").await;
    site.state_is("two", "hello", "active").await;
    let metrics = dlx.metrics().await;
    for namespace in ["one", "two"] {
        let label = format!("namespace=\"{namespace}\"");
        assert_eq!(metrics.sum("scaler_dlx_requests_total", &[&label, "name=\"hello\""]), 1.0, "{namespace}");
    }
    until("the autoscaler to list both as they are", || async {
        let (one, two) =
            (autoscaler.resource("one", "hello").await, autoscaler.resource("two", "hello").await);
        if one["replicas"] == 0 && two["replicas"] == 1 { Ok(()) } else { Err(format!("{one} {two}")) }
    })
    .await;
    assert_eq!(Journal::read(&two.journal).requests.keys().collect::<Vec<_>>(), ["2"]);
}
