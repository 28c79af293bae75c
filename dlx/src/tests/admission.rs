//! A request that is held, dispatched and held again: its deadline, its bytes, and its answer.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use scaler_types::{Endpoint, Probe};
use tokio::{io::AsyncWriteExt, sync::watch};

use crate::{
    state::ResourceHandle,
    testing::{
        EVENT_TIMEOUT, Site, SiteOptions, body,
        plugin::{Plugin, endpoint},
        status, until,
    },
};

/// Held while its connection is set up, or by the HTTP server: a request that a proxy has seen is held only after its
/// head was read.
const REQUESTS: [&str; 2] = [
    "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 proxy\r\nConnection: close\r\n\r\n",
];

/// A sleeping resource. It is ready as soon as the test lets it come up, and then refuses every connection.
async fn start(hold_timeout: Duration) -> (Site, Arc<ResourceHandle>, watch::Sender<usize>) {
    let plugin = Plugin::waking(|_| Ok(vec![Endpoint { probe: Probe::Listed, ..endpoint("127.0.0.1:1") }]));
    let (up, comes_up) = watch::channel(0);
    *plugin.comes_up.lock().unwrap() = Some(comes_up);
    let settings = Settings { hold_timeout, ..Settings::default() };
    let site = Site::start(plugin.asleep("a"), SiteOptions { settings, ..SiteOptions::default() }).await;
    let handle = site.resource("a");
    (site, handle, up)
}

/// Returns when the request was dispatched, was refused by the endpoint, and is held again.
async fn held_again(handle: &ResourceHandle) {
    let refused = || {
        handle.read(|view| view.listed.iter().any(|listed| listed.error.is_some())) && handle.queue.len() == 1
    };
    until("it is held again", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_again_a_request_has_the_rest_of_its_time() {
    for request in REQUESTS {
        let (site, handle, up) = start(Duration::from_secs(3)).await;
        let answer = site.raw(request.as_bytes());
        let let_go = async {
            until("it is held", || handle.queue.len() == 1).await;
            // For requests that come from now on.
            site.plugin.change("a", |resource| resource.hold_timeout = Some(2 * EVENT_TIMEOUT));
            until("that is seen", || handle.snapshot.load().settings.hold_timeout > EVENT_TIMEOUT).await;
            up.send_replace(usize::MAX);
            held_again(&handle).await;
        };
        let (answer, ()) = tokio::join!(tokio::time::timeout(EVENT_TIMEOUT, answer), let_go);
        assert_eq!(status(&answer.expect("the end of its time")), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_again_a_request_reserves_its_bytes_again() {
    for request in REQUESTS {
        let (site, handle, up) = start(2 * EVENT_TIMEOUT).await;
        let mut client = site.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        until("it is held", || handle.queue.len() == 1).await;
        let reserved = handle.queue.bytes();
        assert!(reserved > 0);
        up.send_replace(usize::MAX);
        held_again(&handle).await;
        assert_eq!(handle.queue.bytes(), reserved);
        assert_eq!(site.dlx.shared.totals.bytes(), reserved);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_again_a_request_is_answered_with_its_whole_hold_time() {
    const HOLD: Duration = Duration::from_secs(1);
    for request in REQUESTS {
        let (site, handle, up) = start(HOLD).await;
        let came = std::time::Instant::now();
        let answer = site.raw(request.as_bytes());
        let let_go = async {
            until("it has been held for a while", || handle.queue.len() == 1 && came.elapsed() > HOLD / 2)
                .await;
            up.send_replace(usize::MAX);
            held_again(&handle).await;
        };
        let (answer, ()) = tokio::join!(answer, let_go);
        let reason = body(&answer).split_once("held for ").expect("a reason").1;
        let held = scaler_types::duration::parse(reason.split_once(' ').unwrap().0).unwrap();
        assert!(held >= HOLD && held < came.elapsed(), "{answer}");
    }
}
