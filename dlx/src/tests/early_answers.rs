//! Resources that answer before they have read the request, and close.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    client::Timeouts,
    testing::{EVENT_TIMEOUT, Site, SiteOptions, body, plugin::Plugin, status, until, upstream},
};

/// Short and distinct from the defaults; long enough on a busy machine for what happens before.
const SHORT: Duration = Duration::from_secs(3);

/// Nothing of the upload is read: the close is a reset. The answer had come before it.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_the_client_also_when_the_upload_is_reset() {
    let address = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            // Some bytes stay unread.
            stream.readable().await.unwrap();
            let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    for round in 0..50 {
        let (mut from, mut to) = site.connect().await.into_split();
        let sending = tokio::spawn(async move {
            let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000000\r\n\r\n";
            to.write_all(head).await.unwrap();
            // An error: the other end is gone.
            let _ = to.write_all(&vec![b'x'; 20_000_000]).await;
            to
        });
        let mut answer = Vec::new();
        // What arrived counts, however it ended.
        let _ = from.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((status(&answer), body(&answer)), (413, "large"), "round {round}: {answer}");
        drop(sending.await.unwrap());
    }
}

/// The part of the answer that the client has not read yet survives what it still sends.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_that_reads_when_it_has_sent_everything() {
    const LONG: usize = 32 * 1024;
    let address = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            stream.readable().await.unwrap();
            let head =
                format!("HTTP/1.1 413 Too Large\r\nContent-Length: {LONG}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&[b'x'; LONG]).await.unwrap();
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(site.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000000\r\nConnection: close\r\n\r\n";
    client.write_all(head).await.unwrap();
    client.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!((status(&answer), body(&answer).len()), (413, LONG));
}

/// Answers each request when it has its head, and reads on until "end" comes; whether it has come.
async fn answers_first() -> (SocketAddr, Arc<AtomicBool>) {
    let ended = Arc::new(AtomicBool::new(false));
    let ends = ended.clone();
    let address = upstream::raw(move |mut stream, _| {
        let ended = ends.clone();
        async move {
            if upstream::read_head(&mut stream).await.is_none() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await.unwrap();
            let mut all = Vec::new();
            while stream.read_buf(&mut all).await.is_ok_and(|len| len > 0) {
                ended.fetch_or(all.windows(3).any(|part| part == b"end"), Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, ended)
}

async fn site(timeouts: Timeouts) -> (Site, Arc<AtomicBool>) {
    let (address, ended) = answers_first().await;
    let options = SiteOptions { timeouts, ..SiteOptions::default() };
    (Site::start(Plugin::at(address).awake("a", address), options).await, ended)
}

/// Has its answer, and has sent one of the four bytes of its body.
async fn upload(site: &Site) -> TcpStream {
    let mut client = site.connect().await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n.").await.unwrap();
    assert_eq!(status(&upstream::read_head(&mut client).await.unwrap()), 200);
    client.read_exact(&mut [0; 5]).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_goes_on_after_its_answer_is_in_flight_and_its_connection_not_idle() {
    let (site, ended) = site(Timeouts { idle: SHORT, ..Timeouts::default() }).await;
    let handle = site.resource("a");
    let mut client = upload(&site).await;
    assert_eq!(handle.counts.in_flight(), 1);
    // A later, idle connection is closed meanwhile.
    let mut idle = site.connect().await;
    assert_eq!(timeout(EVENT_TIMEOUT, idle.read(&mut [0; 1])).await.expect("an end").unwrap(), 0);
    assert_eq!(handle.counts.in_flight(), 1);
    client.write_all(b"end").await.unwrap();
    until("all of it came", || ended.load(Ordering::SeqCst)).await;
    until("it is in flight no more", || handle.counts.in_flight() == 0).await;
    // From here on it is idle.
    assert_eq!(timeout(EVENT_TIMEOUT, client.read(&mut [0; 1])).await.expect("an end").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_upload_that_goes_on_after_its_answer_is_in_flight() {
    let (site, ended) = site(Timeouts { idle: SHORT, ..Timeouts::default() }).await;
    let handle = site.resource("a");
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let post = Request::post("http://a.test/").body(()).unwrap();
    let (answer, mut to) = client.send_request(post, false).unwrap();
    to.send_data(Bytes::from_static(b"."), false).unwrap();
    let mut from = answer.await.unwrap().into_body();
    assert_eq!(from.data().await.unwrap().unwrap(), "early");
    assert!(from.data().await.is_none());
    assert_eq!(handle.counts.in_flight(), 1);
    let mut idle = site.connect().await;
    assert_eq!(timeout(EVENT_TIMEOUT, idle.read(&mut [0; 1])).await.expect("an end").unwrap(), 0);
    assert_eq!(handle.counts.in_flight(), 1);
    to.send_data(Bytes::from_static(b"end"), true).unwrap();
    until("all of it came", || ended.load(Ordering::SeqCst)).await;
    until("it is in flight no more", || handle.counts.in_flight() == 0).await;
    timeout(EVENT_TIMEOUT, connection).await.expect("an end").unwrap().unwrap();
}

/// The resource reads nothing more, and its connection stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_upload_after_its_answer_keeps_nothing_awake_and_no_slot() {
    let address = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            pending::<()>().await;
        }
    })
    .await;
    let timeouts = Timeouts { stall: SHORT, ..Timeouts::default() };
    let (echo, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).awake("a", address).awake("b", echo);
    let site =
        Site::start(plugin, SiteOptions { timeouts, max_connections: 1, ..SiteOptions::default() }).await;
    let (_from, mut to) = site.connect().await.into_split();
    let sending = tokio::spawn(async move {
        to.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
        // Endless: no reader takes all of it.
        let _ = to.write_all(&vec![b'x'; 100_000_000]).await;
    });
    let handle = site.resource("a");
    until("it was asked for", || handle.counts.total() == 1).await;
    until("it is in flight no more", || handle.counts.in_flight() == 0).await;
    // Its slot goes to another connection.
    assert_eq!(status(&site.get("b.test", "/").await), 200);
    sending.abort();
}

/// The resource takes no more than the window: the DLX waits for room, and the client leaves in the middle of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_upload_ends_with_its_client() {
    const WINDOW: usize = 65_535;
    let taken = Arc::new(AtomicUsize::new(0));
    let takes = taken.clone();
    let address = upstream::raw(move |stream, _| {
        let taken = takes.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let taken = taken.clone();
                tokio::spawn(async move {
                    let mut answer = respond.send_response(Response::new(()), false).unwrap();
                    answer.send_data(Bytes::from_static(b"begun"), false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        taken.fetch_add(data.len(), Ordering::SeqCst);
                    }
                });
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let call = Request::post("http://a.test/").header("content-type", "application/grpc").body(()).unwrap();
    let (answer, mut to) = client.send_request(call, false).unwrap();
    to.send_data(Bytes::from(vec![0; 4 * WINDOW]), false).unwrap();
    let mut from = answer.await.unwrap().into_body();
    assert_eq!(from.data().await.unwrap().unwrap(), "begun");
    until("the window is full", || taken.load(Ordering::SeqCst) == WINDOW).await;
    let handle = site.resource("a");
    assert_eq!(handle.counts.in_flight(), 1);
    to.send_reset(Reason::CANCEL);
    until("it is in flight no more", || handle.counts.in_flight() == 0).await;
}

/// Its client sends nothing more, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stalls_after_its_answer_keeps_nothing_awake() {
    let (site, _) = site(Timeouts { stall: SHORT, ..Timeouts::default() }).await;
    let client = upload(&site).await;
    until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
    drop(client);
}
