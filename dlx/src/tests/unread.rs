//! HTTP/2 clients with unbounded windows that do not read.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use crate::testing::{Site, SiteOptions, plugin::Plugin, until, upstream};

const STREAMS: usize = 512;
const LARGE: usize = 1 << 20;

/// A connection that stops reading as soon as it is `deaf`.
struct Ears {
    stream: TcpStream,
    deaf: Arc<AtomicBool>,
}

impl AsyncRead for Ears {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.deaf.load(Ordering::SeqCst) {
            Poll::Pending
        } else {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }
}

impl AsyncWrite for Ears {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sends large answers; how many have begun.
async fn large() -> (SocketAddr, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let counts = begun.clone();
    let address = upstream::raw(move |mut stream, _| {
        let begun = counts.clone();
        async move {
            if upstream::read_head(&mut stream).await.is_some() {
                begun.fetch_add(1, Ordering::SeqCst);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                // An error: the client does not take it.
                let _ = stream.write_all(&vec![b'x'; LARGE]).await;
            }
        }
    })
    .await;
    (address, begun)
}

/// A client with requests on `streams` streams.
async fn ask(site: &Site, deaf: &Arc<AtomicBool>, streams: usize) -> Vec<h2::client::ResponseFuture> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size((1 << 31) - 1).initial_connection_window_size((1 << 31) - 1);
    let ears = Ears { stream: site.connect().await, deaf: deaf.clone() };
    let (mut client, connection) = builder.handshake::<_, Bytes>(ears).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..streams {
        client = client.ready().await.unwrap();
        let get = Request::get("http://a.test/").body(()).unwrap();
        answers.push(client.send_request(get, true).unwrap().0);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_bytes_of_one_client_are_bounded() {
    let (address, begun) = large().await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let deaf = Arc::new(AtomicBool::new(false));
    let answers = ask(&site, &deaf, STREAMS).await;
    deaf.store(true, Ordering::SeqCst);
    let mut most = 0;
    until("all are under way", || {
        most = most.max(site.dlx.server.slots.unread());
        begun.load(Ordering::SeqCst) == STREAMS
    })
    .await;
    // 4 MiB, and a chunk for each stream.
    assert!((4 << 20..16 << 20).contains(&most), "{most} bytes of one connection");
    drop(answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_bytes_of_all_clients_are_bounded_and_others_are_served() {
    const BOUND: usize = 8 << 20;
    /// Of a client that does not read at least so much is unread, when its answers have come.
    const FILLED: usize = 3 << 19;
    let (address, _) = large().await;
    let options = SiteOptions { unread: BOUND, ..SiteOptions::default() };
    let site = Site::start(Plugin::at(address).awake("a", address), options).await;
    let mut clients = Vec::new();
    let (most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (slots, watched, ends) = (site.dlx.server.slots.clone(), most.clone(), done.clone());
    let watching = std::thread::spawn(move || {
        while !ends.load(Ordering::SeqCst) {
            watched.fetch_max(slots.unread(), Ordering::SeqCst);
            std::thread::yield_now();
        }
    });
    let slots = &site.dlx.server.slots;
    // One after another: however slow the machine is, those that are being closed are no more than a few.
    for _ in 0..16 {
        let (unread, closed) = (slots.unread(), slots.closed_for_unread());
        let deaf = Arc::new(AtomicBool::new(false));
        let answers = ask(&site, &deaf, 32).await;
        deaf.store(true, Ordering::SeqCst);
        clients.push((answers, deaf));
        until("its answers have come", || {
            slots.unread() > unread + FILLED || slots.closed_for_unread() > closed
        })
        .await;
        until("what is left is within the bound", || {
            // The look that the last chunk called for may have come too soon after another one.
            slots.add_unread(0);
            slots.unread() <= BOUND
        })
        .await;
    }
    assert!(slots.closed_for_unread() >= 2);
    done.store(true, Ordering::SeqCst);
    watching.join().unwrap();
    let most = most.load(Ordering::SeqCst);
    // At each moment, those included that are being closed: without a bound it were 16 times 4 MiB, and the chunks.
    assert!(most < 4 * BOUND, "{most} bytes of all connections");
    let reads = Arc::new(AtomicBool::new(false));
    let answer = ask(&site, &reads, 1).await.pop().unwrap().await.unwrap();
    let mut body = answer.into_body();
    let mut seen = 0;
    while let Some(data) = body.data().await {
        seen += data.unwrap().len();
    }
    assert_eq!(seen, LARGE);
}
