//! Requests of monitors, as in `staticResponses`: the DLX answers for sleeping resources, and awake resources answer
//! themselves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use daemon::settings::{Settings, StaticResponse, StaticResponseWhen};
use scaler_types::Phase;
use tokio::{sync::Semaphore, time::Instant};

use crate::testing::{EVENT_TIMEOUT, Site, SiteOptions, body, plugin::Plugin, status, until, upstream};

async fn site(plugin: Arc<Plugin>) -> Site {
    let when = StaticResponseWhen::Asleep;
    let agent = StaticResponse { user_agent: Some("monitor/".to_owned()), path: None, status: 204, when };
    let path = StaticResponse { user_agent: None, path: Some("/healthz".to_owned()), status: 299, when };
    let settings =
        Settings { static_responses: vec![agent, path], hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await
}

async fn ask(site: &Site, path: &str, agent: &str) -> String {
    let rest = format!("Host: a.test\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n");
    site.raw(format!("GET {path} HTTP/1.1\r\n{rest}").as_bytes()).await
}

/// Neither wakes, nor counts, nor is held.
fn unnoticed(site: &Site) -> bool {
    let handle = site.resource("a");
    let idle = handle.counts.idle().is_none() && handle.counts.within(Duration::from_secs(3600)) == 0;
    idle && handle.counts.total() == 0
        && handle.queue.is_empty()
        && site.plugin.set_scales.load(Ordering::SeqCst) == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn asleep_the_dlx_answers() {
    let (address, echo) = upstream::echo(async || ()).await;
    let site = site(Plugin::at(address).asleep("a")).await;
    assert_eq!(status(&ask(&site, "/", "monitor/1").await), 204);
    assert_eq!(status(&ask(&site, "/healthz?x", "curl").await), 299);
    assert!(unnoticed(&site));
    assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
    // Another request wakes it.
    assert_eq!(status(&ask(&site, "/", "a monitor/1").await), 200);
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn awake_the_resource_answers_and_nothing_counts() {
    let (requested, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (notify, wait) = (requested.clone(), answers.clone());
    let (address, _) = upstream::echo(move || {
        let (notify, wait) = (notify.clone(), wait.clone());
        async move {
            notify.add_permits(1);
            wait.acquire().await.unwrap().forget();
        }
    })
    .await;
    let site = Arc::new(site(Plugin::at(address).awake("a", address)).await);
    let asking = tokio::spawn({
        let site = site.clone();
        async move { ask(&site, "/x", "monitor/1").await }
    });
    requested.acquire().await.unwrap().forget();
    assert!(unnoticed(&site));
    assert_eq!(site.resource("a").counts.in_flight(), 0);
    // It is in flight all the same: its resource must not be scaled to zero meanwhile.
    let (nonce, _) = site.plugin.begin_drain("a").unwrap();
    let confirmed = site.resource("a").confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await;
    assert_eq!(confirmed, Err(crate::state::DrainNotConfirmed::InFlight(1)));
    answers.add_permits(1);
    let answer = asking.await.unwrap();
    assert!(body(&answer).starts_with("GET /x "), "{answer}");
    until("it to have left", || site.resource("a").counts.under_way() == 0).await;
    assert!(unnoticed(&site));
    // During a drain attempt the DLX answers: a monitor does not keep the resource awake.
    assert_eq!(status(&ask(&site, "/x", "monitor/1").await), 204);
    assert_eq!(site.plugin.get("a").record.phase, Phase::Draining);
    site.resource("a").confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_always_the_dlx_answers_awake_and_asleep() {
    let (address, echo) = upstream::echo(async || ()).await;
    for plugin in [Plugin::at(address).asleep("a"), Plugin::at(address).awake("a", address)] {
        let when = StaticResponseWhen::Always;
        let path = StaticResponse { user_agent: None, path: Some("/healthz".to_owned()), status: 299, when };
        let settings = Settings { static_responses: vec![path], ..Settings::default() };
        let site = Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await;
        assert_eq!(status(&ask(&site, "/healthz?x", "curl").await), 299);
        assert!(unnoticed(&site));
        assert_eq!(site.resource("a").counts.under_way(), 0);
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_resource_does_not_look_healthy() {
    let broken = upstream::raw(|mut stream, _| async move {
        let _ = upstream::read_head(&mut stream).await;
        let _ =
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
                .await;
    })
    .await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, expected) in [(broken, 500), (closed, 503)] {
        let site = site(Plugin::at(address).awake("a", address)).await;
        if expected == 500 {
            until("up", || site.resource("a").is_up()).await;
        }
        let answer = ask(&site, "/healthz", "curl").await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(unnoticed(&site));
    }
}

/// A ServiceMonitor follows the Service to the DLXs.
#[tokio::test(flavor = "multi_thread")]
async fn scrapers_wake_nothing_without_any_configuration() {
    let (address, echo) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).asleep("a"), SiteOptions::default()).await;
    for agent in ["Prometheus/3.5.0", "kube-probe/1.36"] {
        let answer = ask(&site, "/metrics", agent).await;
        assert_eq!((status(&answer), body(&answer)), (200, ""), "{agent}");
        assert!(answer.to_lowercase().contains("\r\ncontent-type: text/plain"), "{answer}");
    }
    assert!(unnoticed(&site));
    assert_eq!(status(&ask(&site, "/metrics", "a friend of Prometheus/3.5.0").await), 200);
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1);
    // Awake it answers itself.
    let before = echo.requests.load(Ordering::SeqCst);
    assert_eq!(status(&ask(&site, "/metrics", "Prometheus/3.5.0").await), 200);
    assert_eq!(echo.requests.load(Ordering::SeqCst), before + 1);
}
