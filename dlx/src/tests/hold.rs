//! Held requests: one wake, dispatched in order and at a pace, within limits, and gone when their client is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{Phase, ScaleError};
use tokio::{io::AsyncWriteExt, sync::Semaphore, task::JoinSet};

use crate::{
    state::HoldLimits,
    testing::{EVENT_TIMEOUT, Site, SiteOptions, body, header, plugin::Plugin, status, until, upstream},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_wake_once_and_are_all_answered() {
    let (address, echo) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).asleep("a"), SiteOptions::default()).await;
    let mut requests = JoinSet::new();
    let site = std::sync::Arc::new(site);
    for id in 0..1000 {
        let site = site.clone();
        requests.spawn(async move {
            let request =
                format!("GET /x HTTP/1.1\r\nHost: a.test\r\nX-Id: {id}\r\nConnection: close\r\n\r\n");
            site.raw(request.as_bytes()).await
        });
    }
    let answers = requests.join_all().await;
    assert!(
        answers.iter().all(|answer| status(answer) == 200),
        "{:?}",
        answers.iter().find(|a| status(a) != 200)
    );
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1);
    let mut ids = echo.ids.lock().unwrap().clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), echo.requests.load(Ordering::SeqCst)), (1000, 1000));
    until("the wake is finished", || site.plugin.get("a").record.phase == Phase::Active).await;
    assert!(
        answers
            .iter()
            .any(|answer| header(answer, "server-timing").is_some_and(|value| value.contains("wake;dur=")))
    );
}

/// A plugin whose wakes wait for a permit.
fn slow(address: std::net::SocketAddr, may: &'static Semaphore) -> std::sync::Arc<Plugin> {
    Plugin::waking(move |_| match may.try_acquire() {
        Ok(permit) => {
            permit.forget();
            Ok(vec![crate::testing::plugin::endpoint(address)])
        }
        Err(_) => Err(ScaleError::Retry { after: Duration::from_millis(10), reason: "not yet".to_owned() }),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_reservation_with_and_without_an_unread_body() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, echo) = upstream::echo(async || ()).await;
    let site = Site::start(slow(address, &MAY).asleep("a"), SiteOptions::default()).await;
    let handle = site.resource("a");
    let heads = [
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
        // A body that is there, one that is yet to come, and another request behind it.
        format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000)),
        format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(9000)),
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let mut stream = site.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        until("held", || handle.queue.len() == 1).await;
        assert!(handle.queue.bytes() > 0);
        drop(stream);
        until("left", || handle.queue.is_empty()).await;
        assert_eq!(
            (handle.queue.bytes(), site.dlx.shared.totals.requests(), site.dlx.shared.totals.bytes()),
            (0, 0, 0)
        );
    }
    // A client that stays is answered, its whole body included.
    let mut stream = site.connect().await;
    stream
        .write_all(
            format!(
                "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n{}",
                "x".repeat(20_000)
            )
            .as_bytes(),
        )
        .await
        .unwrap();
    until("held", || handle.queue.len() == 1).await;
    MAY.add_permits(1);
    stream.write_all("x".repeat(180_000).as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(body(&answer).ends_with("body Ok(200000)\n"), "{answer}");
    assert_eq!(echo.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hold_says_so() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, _) = upstream::echo(async || ()).await;
    let settings = Settings { max_held_requests: 2, hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    let site =
        Site::start(slow(address, &MAY).asleep("a"), SiteOptions { settings, ..SiteOptions::default() })
            .await;
    let handle = site.resource("a");
    let (first, second) = (site.get("a.test", "/1"), site.get("a.test", "/2"));
    let held = async {
        until("two are held", || handle.queue.len() == 2).await;
        let third = site.get("a.test", "/3").await;
        assert_eq!(status(&third), 503);
        assert!(header(&third, "retry-after").is_some());
        assert!(
            body(&third).contains(r#""resource":"demo/a""#) && body(&third).contains("2 requests"),
            "{third}"
        );
        MAY.add_permits(1);
    };
    let (first, second, ()) = tokio::join!(first, second, held);
    assert_eq!((status(&first), status(&second)), (200, 200));
    assert_eq!(handle.queue.rejections()[0], ("too_many_held", 1));
}

/// One tenant takes as much as it can get; another comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_leaves_room_for_another() {
    const ALL: usize = 12;
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).asleep("greedy").asleep("second").asleep("other/modest");
    let (up, comes_up) = tokio::sync::watch::channel(0);
    *plugin.comes_up.lock().unwrap() = Some(comes_up);
    let held = HoldLimits { requests: ALL, bytes: 1 << 30 };
    let site = Arc::new(Site::start(plugin, SiteOptions { held, ..SiteOptions::default() }).await);
    let mut requests = tokio::task::JoinSet::new();
    let mut ask = |host: &'static str| {
        let site = site.clone();
        requests.spawn(async move { site.get(host, "/").await });
    };
    // From two of its resources, which does not help.
    for _ in 0..ALL / 4 {
        ask("greedy.test");
        ask("second.test");
    }
    until("half of it to be held", || site.dlx.shared.totals.requests() == ALL / 2).await;
    let refused = site.get("greedy.test", "/").await;
    assert_eq!(status(&refused), 503);
    assert!(
        refused.contains("6 requests are held for namespace demo: it has its share of the 12"),
        "{refused}"
    );
    for _ in 0..ALL / 4 {
        ask("modest.test");
    }
    let modest = site.resource("other/modest");
    until("the other to be held", || modest.queue.len() == ALL / 4).await;
    up.send_replace(3);
    while let Some(answer) = requests.join_next().await {
        assert_eq!(status(&answer.unwrap()), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hold_in_bytes_says_so() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, _) = upstream::echo(async || ()).await;
    let settings = Settings { max_held_bytes: 3000, hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    let site =
        Site::start(slow(address, &MAY).asleep("a"), SiteOptions { settings, ..SiteOptions::default() })
            .await;
    let answer = site
        .raw(b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 4000\r\n\r\n")
        .await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("bytes"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_requests_are_dispatched_at_the_pace_of_the_endpoint() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, echo) = upstream::echo(async || tokio::task::yield_now().await).await;
    let settings =
        Settings { slow_start_requests_per_endpoint: 3, hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    let site =
        Site::start(slow(address, &MAY).asleep("a"), SiteOptions { settings, ..SiteOptions::default() })
            .await;
    let handle = site.resource("a");
    let site = std::sync::Arc::new(site);
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let site = site.clone();
        requests.spawn(async move { site.get("a.test", "/").await });
    }
    until("all are held", || handle.queue.len() == 200).await;
    MAY.add_permits(1);
    let answers = requests.join_all().await;
    assert!(answers.iter().all(|answer| status(answer) == 200));
    let most = echo.most_at_once.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_gives_no_head_does_not_stop_the_rest() {
    // The first request never gets a head; the second permit is freed by time.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (address, _) = upstream::echo(async || {
        if ASKED.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let settings =
        Settings { slow_start_requests_per_endpoint: 1, hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    let site =
        Site::start(Plugin::at(address).asleep("a"), SiteOptions { settings, ..SiteOptions::default() })
            .await;
    let mut first = site.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    until("the first was let go", || ASKED.load(Ordering::SeqCst) == 1).await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_too_long_says_why() {
    let plugin = Plugin::waking(|_| Ok(vec![crate::testing::plugin::endpoint("127.0.0.1:1")]));
    let settings = Settings { hold_timeout: Duration::from_millis(100), ..Settings::default() };
    let site = Site::start(plugin.asleep("a"), SiteOptions { settings, ..SiteOptions::default() }).await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    assert!(header(&answer, "retry-after").is_some());
    assert!(body(&answer).contains("127.0.0.1:1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_cannot_succeed_fails_at_once_and_is_tried_again_later() {
    static BROKEN: AtomicUsize = AtomicUsize::new(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(move |_| match BROKEN.load(Ordering::SeqCst) {
        1 => Err(ScaleError::Terminal { reason: "no such image".to_owned() }),
        _ => Ok(vec![crate::testing::plugin::endpoint(address)]),
    });
    let site = Site::start(plugin.asleep("a"), SiteOptions::default()).await;
    for _ in 0..5 {
        let answer = site.get("a.test", "/").await;
        assert_eq!(status(&answer), 503);
        assert!(body(&answer).contains("no such image"), "{answer}");
    }
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1, "the cause is remembered");
    until("it is failed", || site.plugin.get("a").record.phase == Phase::Failed).await;
    BROKEN.store(0, Ordering::SeqCst);
    let handle = site.resource("a");
    until("the pause is over", || {
        handle.read(|view| {
            view.failure.as_ref().is_none_or(|failure| failure.until <= std::time::Instant::now())
        })
    })
    .await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wake_goes_on_when_its_client_has_left() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, echo) = upstream::echo(async || ()).await;
    let site = Site::start(slow(address, &MAY).asleep("a"), SiteOptions::default()).await;
    let handle = site.resource("a");
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    until("its wake is asked for", || site.plugin.set_scales.load(Ordering::SeqCst) > 0).await;
    drop(stream);
    until("left", || handle.queue.is_empty()).await;
    MAY.add_permits(1);
    until("it is up all the same", || {
        site.plugin.get("a").record.phase == Phase::Active && site.plugin.get("a").replicas == 1
    })
    .await;
    assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
}
