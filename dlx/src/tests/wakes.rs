//! A crawler requests every sleeping resource.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon::settings::Settings;
use tokio::sync::watch;

use crate::testing::{Site, SiteOptions, plugin::Plugin, status, until, upstream};

const ALL: usize = 60;
const AT_ONCE: usize = 4;

/// A plugin whose wakes come up when the test lets them; how many are under way, and the most there were.
fn plugin(address: std::net::SocketAddr) -> (Arc<Plugin>, watch::Sender<usize>) {
    let plugin = Plugin::at(address);
    for number in 0..ALL {
        plugin.clone().asleep(&format!("r{number}"));
    }
    let up = watch::Sender::new(0);
    *plugin.comes_up.lock().unwrap() = Some(up.subscribe());
    (plugin, up)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_wakes_are_limited_and_every_request_is_answered() {
    let (address, _) = upstream::echo(async || ()).await;
    let (plugin, up) = plugin(address);
    let site =
        Arc::new(Site::start(plugin.clone(), SiteOptions { wakes: AT_ONCE, ..SiteOptions::default() }).await);
    let answered = Arc::new(AtomicUsize::new(0));
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..ALL {
        let (site, answered) = (site.clone(), answered.clone());
        requests.spawn(async move {
            let answer = site.get(&format!("r{number}.test"), "/").await;
            answered.fetch_add(1, Ordering::SeqCst);
            status(&answer)
        });
    }
    let held = || (0..ALL).map(|number| site.resource(&format!("r{number}")).queue.len()).sum::<usize>();
    until("all requests to be held", || held() == ALL).await;
    for round in 0..ALL {
        // The next begins when one has come up, and none before.
        let begun = (round + AT_ONCE).min(ALL);
        until("as many wakes as may be", || plugin.set_scales.load(Ordering::SeqCst) == begun).await;
        up.send_modify(|up| *up += 1);
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(plugin.set_scales.load(Ordering::SeqCst), ALL);
}

/// A request that waits for a wake slot is held no longer than any other, and its answer says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_wake_slot_is_held_within_its_hold_timeout() {
    let (address, _) = upstream::echo(async || ()).await;
    let (plugin, up) = plugin(address);
    let settings = Settings { hold_timeout: Duration::from_secs(2), ..Settings::default() };
    let site = Arc::new(
        Site::start(plugin.clone(), SiteOptions { wakes: 1, settings, ..SiteOptions::default() }).await,
    );
    let first = tokio::spawn({
        let site = site.clone();
        async move { site.get("r0.test", "/").await }
    });
    until("the first wake", || plugin.set_scales.load(Ordering::SeqCst) == 1).await;
    let answer = site.get("r1.test", "/").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("the limit of concurrent wakes is reached"), "{answer}");
    // No request waits for it any more, so it is not woken when it gets a slot.
    up.send_modify(|up| *up = ALL);
    assert!([200, 503].contains(&status(&first.await.unwrap())));
    let answer = site.get("r2.test", "/").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(plugin.set_scales.load(Ordering::SeqCst), 2);
    // A wake ends after its requests were dispatched.
    until("the wakes' end", || site.dlx.driver.wakes().under_way() == 0).await;
}
