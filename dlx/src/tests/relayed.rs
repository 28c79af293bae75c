//! What the relay does besides what every request gets: bytes that stay as they are, connections that it keeps and shares.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use scaler_types::Phase;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::testing::{Site, SiteOptions, plugin::Plugin, status, upstream};

/// The heads that a resource received, each with the number of its connection.
type Received = Arc<Mutex<Vec<(usize, String)>>>;

/// A resource that answers each head with its number, in odd letter case.
async fn numbering() -> (SocketAddr, Received) {
    let received = Received::default();
    let heads = received.clone();
    let address = upstream::raw(move |mut stream, connection| {
        let heads = heads.clone();
        async move {
            while let Some(head) = upstream::read_head(&mut stream).await {
                let number = {
                    let mut heads = heads.lock().unwrap();
                    heads.push((connection, head));
                    heads.len()
                };
                let answer = format!("HTTP/1.1 200 Fine\r\nX-NuMBer: {number}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, received)
}

/// The next answer, which has no body.
async fn answer(client: &mut TcpStream) -> String {
    upstream::read_head(client).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_with_the_relay_when_its_requests_were_held() {
    let (address, received) = numbering().await;
    let site = Site::start(Plugin::at(address).asleep("a"), SiteOptions::default()).await;
    let mut client = site.connect().await;
    for round in 1..=3 {
        client.write_all(b"GET / HTTP/1.1\r\nHoST: a.test\r\nX-OwN: 1\r\n\r\n").await.unwrap();
        let answer = answer(&mut client).await;
        // The library would write both names in lower case.
        assert!(answer.contains(&format!("\r\nX-NuMBer: {round}\r\n")), "{answer}");
        assert!(answer.contains("\r\nserver-timing: hold;dur="), "{answer}");
        assert!(received.lock().unwrap().last().unwrap().1.contains("\r\nX-OwN: 1\r\n"));
        site.plugin.change("a", |resource| {
            resource.record.phase = Phase::Asleep;
            resource.replicas = 0;
            resource.endpoints.clear();
        });
        crate::testing::until("asleep", || !site.resource("a").is_up()).await;
    }
    assert_eq!(site.resource("a").counts.total(), 3);
    assert_eq!(site.resource("a").counts.classes()[1], 3);
    crate::testing::until("nothing in flight", || site.resource("a").counts.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_in_one_piece_or_byte_by_byte() {
    let (address, received) = numbering().await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let requests: String = (1..=5).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a.test\r\n\r\n")).collect();
    let mut client = site.connect().await;
    client.write_all(requests.as_bytes()).await.unwrap();
    for n in 1..=5 {
        assert!(answer(&mut client).await.contains(&format!("X-NuMBer: {n}\r\n")));
    }
    for byte in requests.as_bytes() {
        client.write_all(&[*byte]).await.unwrap();
    }
    for n in 6..=10 {
        assert!(answer(&mut client).await.contains(&format!("X-NuMBer: {n}\r\n")));
    }
    let paths: Vec<_> = received.lock().unwrap().iter().map(|(_, head)| head[5..6].to_owned()).collect();
    assert_eq!(paths.concat(), "1234512345");
    assert_eq!(site.resource("a").counts.total(), 10);
}

/// The library sends a request with `TE`; the others are relayed.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_and_the_library_share_idle_connections() {
    let (address, received) = numbering().await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    // All on one thread of the DLX: the threads take connections in turn, or as they are free.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(site.connect().await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let own = if n % 2 == 0 { "TE: trailers\r\n" } else { "" };
        client.write_all(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{own}\r\n").as_bytes()).await.unwrap();
        assert_eq!(status(&answer(client).await), 200);
    }
    let received = received.lock().unwrap();
    let connections: std::collections::BTreeSet<_> =
        received.iter().map(|(connection, _)| connection).collect();
    // One for each thread.
    assert!(connections.len() <= 2, "{connections:?}");
}

/// What was read of a request goes to the library as it came, also in the middle of a connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_handed_over_with_what_was_read() {
    let (address, _) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let mut client = site.connect().await;
    let plain = "POST /plain HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc";
    let other = "POST /other HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nContent-Length: 4\r\n\r\nabcd";
    let last = "GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    client.write_all([plain, other, plain, last].concat().as_bytes()).await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    let lines: Vec<_> = all
        .lines()
        .filter(|line| line.starts_with("POST /") || line.starts_with("GET /") || line.starts_with("body "))
        .collect();
    assert_eq!(
        lines,
        [
            "POST /plain HTTP/1.1",
            "body Ok(3)",
            "POST /other HTTP/1.1",
            "body Ok(4)",
            "POST /plain HTTP/1.1",
            "body Ok(3)",
            "GET /last HTTP/1.1",
            "body Ok(0)"
        ],
        "{all}"
    );
}
