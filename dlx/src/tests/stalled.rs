//! A DLX whose plugin's stream stalls while others go on.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use scaler_types::{Phase, Record};
use tokio::time::Instant;

use crate::testing::{
    EVENT_TIMEOUT, Site, SiteOptions,
    plugin::{Plugin, endpoint},
    status, until, upstream,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_view_confirms_no_drain_and_goes_on_serving() {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).awake("a", address);
    let stalled = Site::start(plugin.clone(), SiteOptions::default()).await;
    let handle = stalled.resource("a");
    assert_eq!(status(&stalled.get("a.test", "/").await), 200);
    plugin.stalled.send_replace(true);
    let (nonce, version) = plugin.begin_drain("a").unwrap();
    // It does not see the drain attempt, and so forwards: it must not confirm.
    let refused = handle.confirm_drain(nonce, soon()).await;
    assert!(refused.as_ref().is_err_and(|why| why.to_string().contains("sees active")), "{refused:?}");
    assert_eq!(status(&stalled.get("a.test", "/").await), 200);
    assert_eq!(echo.requests.load(Ordering::SeqCst), 2);
    // Reverted and tried again: no unseen drain attempt is confirmed, however many there are.
    plugin.write("a", &version, |resource| resource.record = Record::default()).unwrap();
    let (nonce, _) = plugin.begin_drain("a").unwrap();
    assert!(handle.confirm_drain(nonce, soon()).await.is_err());
    // The stream comes back with all there is.
    plugin.stalled.send_replace(false);
    assert_eq!(handle.confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await, Ok(()));
    // From here on a request reverts it first.
    assert_eq!(status(&stalled.get("a.test", "/").await), 200);
    assert_eq!(plugin.get("a").record.phase, Phase::Active);
    assert_eq!(echo.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_stall_are_seen_when_the_stream_comes_back() {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).awake("a", address).awake("gone", address);
    let site = Site::start(plugin.clone(), SiteOptions::default()).await;
    plugin.stalled.send_replace(true);
    plugin.change("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.replicas = 0;
        resource.endpoints.clear();
    });
    plugin.remove("gone");
    plugin.add("new", |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
    });
    plugin.stalled.send_replace(false);
    let handle = site.resource("a");
    until("it is seen", || handle.state() == Some(Phase::Asleep)).await;
    assert!(!handle.is_up() && handle.snapshot.load().ready.is_empty());
    assert_eq!(status(&site.get("gone.test", "/").await), 404);
    assert_eq!(status(&site.get("new.test", "/").await), 200);
    // It is asleep: the next request wakes it.
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    assert_eq!((plugin.set_scales.load(Ordering::SeqCst), echo.requests.load(Ordering::SeqCst)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_needs_no_stream() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).asleep("a");
    let site = Arc::new(Site::start(plugin.clone(), SiteOptions::default()).await);
    plugin.stalled.send_replace(true);
    // The DLX asks for what the wake wrote.
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    until("it is finished", || plugin.get("a").record.phase == Phase::Active).await;
    assert_eq!(plugin.set_scales.load(Ordering::SeqCst), 1);
}
