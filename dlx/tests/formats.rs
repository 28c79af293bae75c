//! Rows of a later format than this DLX knows: left alone, never confirmed, and what they belong to is served.

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{Nonce, Row, State};
use support::{
    Given, Site, body,
    plugin::{Plugin, endpoint},
    status, until, upstream,
};
use tokio::time::Instant;

const STATES: [State; 5] = [State::Active, State::Draining, State::Asleep, State::Waking, State::Failed];

fn later(state: State) -> Row {
    Row { state, nonce: Nonce(7), reason: "later".to_owned(), format: Row::FORMAT + 1, ..Row::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_runs_is_forwarded_to_whatever_its_row_says_and_nothing_is_written() {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    for state in STATES {
        plugin.add(&state.to_string(), |resource| {
            resource.row = later(state);
            resource.replicas = 1;
            resource.endpoints = vec![endpoint(address)];
        });
    }
    let site = Site::start(plugin, Given::default()).await;
    for state in STATES {
        let name = state.to_string();
        let before = site.plugin.get(&name);
        assert_eq!(status(&site.get(&format!("{name}.test"), "/").await), 200, "{state}");
        let soon = Instant::now() + Duration::from_millis(20);
        let confirmed = site.entry(&name).confirm(Nonce(7), soon).await;
        assert!(confirmed.is_err(), "{state}: confirmed what it does not understand");
        let after = site.plugin.get(&name);
        assert_eq!((after.row, after.version), (before.row, before.version), "{state}");
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), STATES.len());
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sleeps_is_held_for_a_newer_dlx_to_wake() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| resource.row = later(State::Asleep));
    let site = Arc::new(Site::start(plugin, Given::default()).await);
    let request = tokio::spawn({
        let site = site.clone();
        async move { site.get("a.test", "/").await }
    });
    until("held", || site.entry("a").queue.len() == 1).await;
    // A newer one does.
    site.plugin.change("a", |resource| {
        resource.row = later(State::Waking);
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
    });
    assert_eq!(status(&request.await.unwrap()), 200);
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0, "woken with a row that was not understood");
    assert_eq!(site.plugin.get("a").row, later(State::Waking));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_wakes_is_answered_with_what_is_to_be_done() {
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| resource.row = later(State::Asleep));
    let settings = Settings { hold_timeout: Duration::from_millis(100), ..Settings::default() };
    let site = Site::start(plugin, Given { settings, ..Given::default() }).await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("format 2") && body(&answer).contains("newer one"), "{answer}");
    until("nothing is held", || site.entry("a").queue.is_empty()).await;
}
