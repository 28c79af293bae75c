//! Ports of their own: spliced through the same gate.

use std::{sync::Arc, time::Duration};

use daemon::{listen::InheritedSockets, settings::Settings};
use scaler_types::{Phase, Port, Protocol, Record, ScaleResource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::testing::{EVENT_TIMEOUT, Site, SiteOptions, plugin::Plugin, until, upstream};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn site(window: Duration) -> (Site, u16) {
    let address = upstream::tcp_echo().await;
    let port = free_port();
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.ports = vec![Port { listen: port, target: None, protocol: Protocol::Tcp, guessed: false }];
        resource.scale_resources =
            vec![ScaleResource { metric_name: "requests".to_owned(), window_size: window, threshold: 0.0 }];
    });
    let settings = Settings { hold_timeout: EVENT_TIMEOUT, ..Settings::default() };
    let site = Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await;
    let ip = "127.0.0.1".parse().unwrap();
    let (ports, server, workers) = (site.dlx.ports.clone(), site.dlx.server.clone(), site.workers.clone());
    tokio::spawn(async move { ports.follow(server, workers, InheritedSockets::default(), ip).await });
    until("bound", || site.dlx.ports.all().iter().any(|bound| bound.error.is_none())).await;
    (site, port)
}

async fn send(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    tokio::time::timeout(EVENT_TIMEOUT, stream.read_exact(&mut back)).await.expect("an echo").unwrap();
    assert_eq!(back, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_wakes_and_is_spliced() {
    let (site, port) = site(Duration::from_secs(600)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    send(&mut stream, b"hello").await;
    send(&mut stream, &vec![7; 300_000]).await;
    let handle = site.resource("a");
    assert_eq!((handle.counts.in_flight(), handle.counts.total()), (1, 1));
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    until("it is over", || handle.counts.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_leaves_flight_and_reverts_a_drain_before_a_byte_moves() {
    let (site, port) = site(Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    send(&mut stream, b"one").await;
    let handle = site.resource("a");
    until("it is up", || site.plugin.get("a").record.phase == Phase::Active).await;
    until("it rests", || handle.counts.in_flight() == 0).await;
    let (nonce, version) = site.plugin.begin_drain("a").unwrap();
    assert_eq!(handle.confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await, Ok(()));
    send(&mut stream, b"two").await;
    assert!(site.plugin.write("a", &version, |_| ()).is_none(), "the drain was reverted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_when_its_resource_sleeps() {
    let (site, port) = site(Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    send(&mut stream, b"one").await;
    let handle = site.resource("a");
    until("it is up", || site.plugin.get("a").record.phase == Phase::Active).await;
    until("it rests", || handle.counts.in_flight() == 0).await;
    let (nonce, version) = site.plugin.begin_drain("a").unwrap();
    assert_eq!(handle.confirm_drain(nonce, Instant::now() + EVENT_TIMEOUT).await, Ok(()));
    site.plugin
        .write("a", &version, |resource| {
            resource.record = Record { phase: Phase::Asleep, ..Record::default() };
            resource.replicas = 0;
            resource.endpoints.clear();
        })
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
    assert!(rest.is_empty());
    // And the next one wakes it.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    send(&mut stream, b"three").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_goes_with_its_resource() {
    let (site, port) = site(Duration::from_secs(600)).await;
    site.plugin.remove("a");
    until("closed", || site.dlx.ports.all().is_empty()).await;
    let site = Arc::new(site);
    let mut refused = false;
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !refused && Instant::now() < deadline {
        refused = TcpStream::connect(("127.0.0.1", port)).await.is_err();
    }
    assert!(refused);
    drop(site);
}
