//! Records of a later format than this DLX knows: left alone, never confirmed, and their resources are served.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{Nonce, Phase, Record};
use tokio::time::Instant;

use crate::testing::{
    Site, SiteOptions, body,
    plugin::{Plugin, endpoint},
    status, until, upstream,
};

/// All phases but `asleep`.
const STATES: [Phase; 4] = [Phase::Active, Phase::Draining, Phase::Waking, Phase::Failed];

fn later(state: Phase) -> Record {
    Record {
        phase: state,
        nonce: Nonce(7),
        reason: "later".to_owned(),
        format: Record::FORMAT + 1,
        ..Record::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_resource_is_forwarded_to_whatever_its_record_says_and_nothing_is_written() {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    for state in STATES {
        plugin.add(&state.to_string(), |resource| {
            resource.record = later(state);
            resource.replicas = 1;
            resource.endpoints = vec![endpoint(address)];
        });
    }
    let site = Site::start(plugin, SiteOptions::default()).await;
    for state in STATES {
        let name = state.to_string();
        let before = site.plugin.get(&name);
        assert_eq!(status(&site.get(&format!("{name}.test"), "/").await), 200, "{state}");
        let soon = Instant::now() + Duration::from_millis(20);
        let confirmed = site.resource(&name).confirm_drain(Nonce(7), soon).await;
        assert!(confirmed.is_err(), "{state}: confirmed what it does not understand");
        let after = site.plugin.get(&name);
        assert_eq!((after.record, after.version), (before.record, before.version), "{state}");
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), STATES.len());
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_sleeping_resource_are_held_for_a_newer_dlx_to_wake() {
    for replicas in [0, 1] {
        held_for_a_newer_dlx(replicas).await;
    }
}

/// Asleep with replicas, too: a later version may scale to zero in a way that keeps them.
async fn held_for_a_newer_dlx(replicas: u32) {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.record = later(Phase::Asleep);
        resource.replicas = replicas;
        resource.endpoints = vec![endpoint(address); replicas as usize];
    });
    let site = Arc::new(Site::start(plugin, SiteOptions::default()).await);
    let request = tokio::spawn({
        let site = site.clone();
        async move { site.get("a.test", "/").await }
    });
    until("held", || site.resource("a").queue.len() == 1).await;
    assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
    // A newer DLX does.
    site.plugin.change("a", |resource| {
        resource.record = later(Phase::Waking);
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
    });
    assert_eq!(status(&request.await.unwrap()), 200);
    assert_eq!(
        site.plugin.set_scales.load(Ordering::SeqCst),
        0,
        "woken with a record that was not understood"
    );
    assert_eq!(site.plugin.get("a").record, later(Phase::Waking));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_that_no_dlx_can_wake_for_says_what_to_do() {
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| resource.record = later(Phase::Asleep));
    let settings = Settings { hold_timeout: Duration::from_millis(100), ..Settings::default() };
    let site = Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("format 2") && body(&answer).contains("upgrade it"), "{answer}");
    until("nothing is held", || site.resource("a").queue.is_empty()).await;
}
