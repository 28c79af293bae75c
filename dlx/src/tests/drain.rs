//! The gate under load: a confirmed drain attempt holds, and no request is lost or sent to a sleeping resource.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use scaler_types::{Phase, Record, protocol::Rules};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::Instant,
};

use crate::{
    state::{DrainNotConfirmed, ResourceHandle},
    testing::{EVENT_TIMEOUT, Site, SiteOptions, header, plugin::Plugin, status, until, upstream},
};

/// The results of the load.
#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    not_answered: usize,
    commits: usize,
    reverts: usize,
    /// Requests the resource served while it was down.
    served_asleep: usize,
}

impl Seen {
    /// Enough attempts ended in either way.
    fn is_enough(&self) -> bool {
        self.commits >= 20 && self.reverts >= 5
    }
}

/// Clients that never retry, and an autoscaler that tries to scale the resource to zero all the time.
async fn cycles(rules: Rules, clients: usize, commits: usize) -> Seen {
    let up = Arc::new(AtomicBool::new(false));
    let wrong = Arc::new(AtomicUsize::new(0));
    let work = {
        let (up, wrong) = (up.clone(), wrong.clone());
        move || {
            let (up, wrong) = (up.clone(), wrong.clone());
            async move {
                let before = up.load(Ordering::SeqCst);
                tokio::task::yield_now().await;
                if !before || !up.load(Ordering::SeqCst) {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    };
    let (address, echo) = upstream::echo(work).await;
    let wakes = up.clone();
    let plugin = Plugin::waking(move |_| {
        wakes.store(true, Ordering::SeqCst);
        Ok(vec![crate::testing::plugin::endpoint(address)])
    });
    let site =
        Arc::new(Site::start(plugin.asleep("a"), SiteOptions { rules, ..SiteOptions::default() }).await);
    let handle = site.resource("a");
    let done = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for client in 0..clients {
        let (site, done) = (site.clone(), done.clone());
        load.spawn(async move {
            let (mut requests, mut not_answered) = (0, 0);
            let mut stream = site.connect().await;
            while !done.load(Ordering::SeqCst) {
                let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Id: {client}-{requests}\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                requests += 1;
                let Some(answer) = read_answer(&mut stream).await else {
                    not_answered += 1;
                    stream = site.connect().await;
                    continue;
                };
                if status(&answer) != 200 {
                    not_answered += 1;
                }
                // Pauses between requests, or no drain attempt would last.
                for _ in 0..(client * 7 + requests * 13) % 40 {
                    #[expect(clippy::disallowed_methods, reason = "the time between two moves of the load")]
                    tokio::time::sleep_until(Instant::now() + Duration::from_micros(300)).await;
                }
            }
            (requests, not_answered)
        });
    }
    let mut seen = Seen::default();
    let end = Instant::now() + EVENT_TIMEOUT;
    // On a busy machine it goes on until enough has happened.
    while seen.commits < commits && (Instant::now() < end || !seen.is_enough()) {
        let Some((nonce, version)) = site.plugin.begin_drain("a") else {
            tokio::task::yield_now().await;
            continue;
        };
        let confirmed =
            ResourceHandle::confirm_drain(&handle, nonce, Instant::now() + Duration::from_secs(2)).await;
        let committed = confirmed.is_ok()
            && site
                .plugin
                .write("a", &version, |resource| {
                    // In the same step, as a plugin's set_scale does.
                    up.store(false, Ordering::SeqCst);
                    if echo.serving.load(Ordering::SeqCst) > 0 {
                        wrong.fetch_add(1, Ordering::SeqCst);
                    }
                    resource.record = Record { phase: Phase::Asleep, ..Record::default() };
                    resource.replicas = 0;
                    resource.endpoints.clear();
                })
                .is_some();
        if committed {
            seen.commits += 1;
        } else {
            seen.reverts += 1;
            site.plugin.write("a", &version, |resource| resource.record = Record::default());
        }
        // An autoscaler tries at intervals; one that never paused would let no request through.
        #[expect(clippy::disallowed_methods, reason = "the time between two moves of the load")]
        tokio::time::sleep_until(Instant::now() + Duration::from_millis(2)).await;
    }
    done.store(true, Ordering::SeqCst);
    for (requests, not_answered) in load.join_all().await {
        seen.requests += requests;
        seen.not_answered += not_answered;
    }
    seen.served_asleep = wrong.load(Ordering::SeqCst);
    let mut ids = echo.ids.lock().unwrap().clone();
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "a request was sent twice");
    seen
}

async fn read_answer(stream: &mut tokio::net::TcpStream) -> Option<String> {
    let head = upstream::read_head(stream).await?;
    let mut body = vec![0; header(&head, "content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_or_served_asleep_in_cycles_under_load() {
    let seen = cycles(Rules::default(), 6, 200).await;
    assert_eq!((seen.not_answered, seen.served_asleep), (0, 0), "{seen:?}");
    assert!(seen.is_enough() && seen.requests >= 200, "too little happened: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_count_in_flight_requests_are_served_asleep() {
    let rules = Rules { confirm_counts_in_flight: false, ..Rules::default() };
    let seen = cycles(rules, 6, 60).await;
    assert!(seen.served_asleep > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_not_seen_is_not_confirmed() {
    let (address, _) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let handle = site.resource("a");
    let soon = || Instant::now() + Duration::from_millis(50);
    let nonce = scaler_types::Nonce(7);
    assert!(handle.confirm_drain(nonce, soon()).await.unwrap_err().to_string().contains("active"));
    let (seen, version) = site.plugin.begin_drain("a").unwrap();
    assert_eq!(handle.confirm_drain(seen, Instant::now() + EVENT_TIMEOUT).await, Ok(()));
    assert!(handle.confirm_drain(nonce, soon()).await.unwrap_err().to_string().contains(&seen.to_string()));
    // A request reverts it, is forwarded, and the commit fails.
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    assert!(
        site.plugin.write("a", &version, |_| ()).is_none(),
        "the commit found the drain attempt's version"
    );
    assert_eq!(site.plugin.get("a").record.phase, Phase::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_confirmation_counts_the_requests_in_flight() {
    let (address, _) = upstream::echo(async || std::future::pending().await).await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let handle = site.resource("a");
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    until("in flight", || handle.counts.in_flight() == 1).await;
    let (nonce, _) = site.plugin.begin_drain("a").unwrap();
    let refused = handle.confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await;
    assert_eq!(refused, Err(DrainNotConfirmed::InFlight(1)));
    drop(stream);
    until("its client left", || handle.counts.in_flight() == 0).await;
    assert_eq!(handle.confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await, Ok(()));
}
