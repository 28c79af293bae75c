//! A DLX whose plugin lists a resource that cannot be read.

use std::{sync::atomic::Ordering, time::Duration};

use daemon::settings::Settings;
use scaler_types::Phase;

use crate::testing::{Site, SiteOptions, plugin::Plugin, status, until, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_resource_keeps_its_last_state_and_the_others_are_updated() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).awake("a", address).awake("b", address);
    let site = Site::start(plugin.clone(), SiteOptions::default()).await;
    let b = site.resource("b");
    let put_to_sleep = |name: &str| {
        plugin.change(name, |resource| {
            resource.record.phase = Phase::Asleep;
            resource.replicas = 0;
            resource.endpoints.clear();
        })
    };
    plugin.set_unreadable(&[Some("a")]);
    put_to_sleep("b");
    until("b is updated", || b.state() == Some(Phase::Asleep)).await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    // One without a readable name may be any: nothing is gone for certain.
    plugin.set_unreadable(&[None]);
    plugin.remove("a");
    plugin.add("c", |_| ());
    until("c is listed", || site.knows("c")).await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    plugin.set_unreadable(&[]);
    until("a is gone", || !site.knows("a")).await;
    assert_eq!(status(&site.get("a.test", "/").await), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_read_is_not_asked_for_in_a_loop() {
    let settings = Settings { hold_timeout: Duration::from_secs(1), ..Settings::default() };
    let plugin = Plugin::at("127.0.0.1:9").asleep("a");
    let site = Site::start(plugin.clone(), SiteOptions { settings, ..SiteOptions::default() }).await;
    plugin.set_unreadable(&[Some("a")]);
    plugin.change("a", |resource| resource.status = "changed".to_owned());
    let lists = plugin.lists.load(Ordering::SeqCst);
    // Its wake names a version that is no longer there.
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("its state may be old: field replicas"), "{answer}");
    let lists = plugin.lists.load(Ordering::SeqCst) - lists;
    assert!((1..10).contains(&lists), "{lists} lists in a second");
    assert_eq!(plugin.get("a").replicas, 0);
    plugin.set_unreadable(&[]);
    let a = site.resource("a");
    until("a is read again", || a.read(|view| view.unreadable.is_none())).await;
}
