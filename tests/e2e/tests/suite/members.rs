//! Two DLXs: nothing sleeps without the confirmation of every live one.

use std::{net::SocketAddr, time::Duration};

use e2e::{
    Daemon, Namespace, Service, Site,
    journal::Journal,
    load::{Response, get, once},
    member::StandIn,
    until,
    wait::pause,
};

/// Long enough for several decisions, each of which would put the resource to sleep.
const SEVERAL_DECISIONS: Duration = Duration::from_secs(4);

async fn names(autoscaler: &Daemon, dlx: &Daemon) -> bool {
    let metrics = autoscaler.metrics().await;
    let silent = metrics.samples("scaler_dlx_unreachable", &[]);
    // A member's name ends in its process id, or is reported with its address.
    let (pid, admin) = (dlx.pid().to_string(), dlx.admin().to_string());
    silent
        .into_iter()
        .any(|(sample, value)| value > 0.0 && (sample.contains(&pid) || sample.contains(&admin)))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sleeps_while_a_dlx_is_unreachable_and_the_metric_names_it() {
    let site = Site::new("silent-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let dlx = site.dlx().await;
    let (other, _) = site.dlx_beside().await;
    let autoscaler = site.autoscaler().await;
    wake(&site, "a").await;

    other.freeze();
    until("the silent DLX to be named", || async {
        if names(&autoscaler, &other).await { Ok(()) } else { Err(autoscaler.get("/metrics").await.text()) }
    })
    .await;
    pause(SEVERAL_DECISIONS).await;
    assert_eq!(site.state("demo", "hello"), "active", "slept without the silent DLX's word");
    assert!(!names(&autoscaler, &dlx).await, "named one that answers");

    other.thaw();
    site.state_is("demo", "hello", "asleep").await;
    until("the DLX that answers again to be named no more", || async {
        if names(&autoscaler, &other).await { Err("named".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_died_is_waited_for_no_more() {
    let site = Site::new("died-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let _dlx = site.dlx().await;
    let (mut other, _) = site.dlx_beside().await;
    let autoscaler = site.autoscaler().await;
    wake(&site, "a").await;
    other.freeze();
    until("the silent DLX to be named", || async {
        if names(&autoscaler, &other).await { Ok(()) } else { Err("not named".to_owned()) }
    })
    .await;
    other.kill().unwrap();
    site.state_is("demo", "hello", "asleep").await;
}

/// A DLX that joins during a drain attempt sees it before it forwards anything: a request through it reverts the attempt,
/// and the commit that then comes changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_joins_during_a_drain_reverts_it_before_it_forwards() {
    let site = Site::new("joins-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let _dlx = site.dlx().await;
    let mut stand_in = StandIn::join(&site, "demo", "hello").await;
    let _autoscaler = site.autoscaler().await;
    let first = wake(&site, "first").await;
    for round in 0..5 {
        let drain = stand_in.asked().await;
        assert_eq!(site.state("demo", "hello"), "draining");
        let (other, front) = site.dlx_beside().await;
        let id = format!("joined-{round}");
        // The last member confirms while the request is being answered.
        let (answer, ()) = tokio::join!(once_at(front, "/slow/300", &id), async {
            pause(Duration::from_millis(100)).await;
            stand_in.confirm(drain);
        });
        assert_eq!(answer.header("x-run"), first.header("x-run"), "it was stopped under a request");
        assert_ne!(site.state("demo", "hello"), "asleep");
        other.stop().await;
    }
    let journal = Journal::read(&service.journal);
    assert_eq!(journal.starts.len(), 1, "it was put to sleep in spite of a request");
    assert!(journal.requests.values().all(|&times| times == 1));
}

/// As before, with no request: the commit does not ask the new DLX, and that one holds what comes afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_joined_during_a_drain_wakes_what_was_committed() {
    let site = Site::new("joined-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let _dlx = site.dlx().await;
    let mut stand_in = StandIn::join(&site, "demo", "hello").await;
    let _autoscaler = site.autoscaler().await;
    for round in 0..5 {
        wake(&site, &format!("wake-{round}")).await;
        stand_in.asked().await;
        let (other, front) = site.dlx_beside().await;
        // It is given up after two seconds: if the new DLX took longer to start, a later drain attempt is confirmed, about which
        // that one is asked, too.
        stand_in.confirm(u32::MAX);
        site.state_is("demo", "hello", "asleep").await;
        stand_in.confirm(0);
        once_at(front, "/", &format!("joined-{round}")).await;
        other.stop().await;
        // A drain attempt that is open by now is confirmed: the next round begins with a new one.
        stand_in.confirm(u32::MAX);
        site.state_is("demo", "hello", "asleep").await;
        stand_in.confirm(0);
    }
    let journal = Journal::read(&service.journal);
    assert_eq!(journal.starts.len(), 10, "starts");
    assert!(journal.requests.values().all(|&times| times == 1));
}

async fn wake(site: &Site, id: &str) -> Response {
    once_at(site.front(), "/", id).await
}

async fn once_at(front: SocketAddr, path: &str, id: &str) -> Response {
    let response = once(front, &get("hello.localhost", path, id)).await.expect("an answer");
    assert_eq!((response.status, response.header("x-request-id")), (200, Some(id)), "{}", response.text());
    response
}
