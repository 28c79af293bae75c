//! Requests that are sent a second time, and those that never are.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::testing::{Site, SiteOptions, plugin::Plugin, status, upstream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The requests in their order: the connection's number and the request line.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(usize, String)>>>);

impl Seen {
    /// Reads a head and its body.
    async fn read(&self, stream: &mut TcpStream, connection: usize) -> Option<String> {
        let head = upstream::read_head(stream).await?;
        let length =
            crate::testing::header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        let line = head.lines().next().unwrap().to_owned();
        self.0.lock().unwrap().push((connection, line.clone()));
        Some(line)
    }

    fn of(&self, path: &str) -> Vec<usize> {
        let seen = self.0.lock().unwrap();
        seen.iter().filter(|(_, line)| line.contains(path)).map(|(connection, _)| *connection).collect()
    }
}

/// A server that does what the test says with each connection on which bytes come; probes send none.
async fn server<F>(serve: impl Fn(TcpStream, usize) -> F + Clone + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let count = Arc::new(AtomicUsize::new(0));
    upstream::raw(move |stream, _| {
        let (serve, count) = (serve.clone(), count.clone());
        async move {
            if stream.peek(&mut [0; 1]).await.is_ok_and(|len| len > 0) {
                serve(stream, count.fetch_add(1, Ordering::SeqCst)).await;
            }
        }
    })
    .await
}

/// Answers two requests on its first connection and closes it on the third, after sending `last`; answers all on others.
async fn closes(last: &'static [u8]) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let all = seen.clone();
    let address = server(move |mut stream, connection| {
        let seen = seen.clone();
        async move {
            let mut count = 0;
            while seen.read(&mut stream, connection).await.is_some() {
                count += 1;
                if connection == 0 && count > 2 {
                    // Nothing, or less than an answer.
                    let _ = stream.write_all(last).await;
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    (address, all)
}

/// A DLX in front of it, and a client's connection; the thread of that has a connection to the resource that was used
/// twice.
async fn site(address: SocketAddr) -> (Site, TcpStream) {
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let mut client = site.connect().await;
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "GET", "/first", "\r\n").await.0, 200);
    }
    (site, client)
}

/// A request on a connection that is kept, and the status and body of its answer.
async fn ask(client: &mut TcpStream, method: &str, path: &str, rest: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{rest}");
    client.write_all(request.as_bytes()).await.unwrap();
    let head = upstream::read_head(client).await.unwrap();
    let length = crate::testing::header(&head, "content-length").unwrap_or("0").parse().unwrap();
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    client.read_exact(&mut body).await.unwrap();
    (status(&head), String::from_utf8(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn safe_requests_are_sent_again_when_their_reused_connection_closes() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let (address, seen) = closes(b"").await;
        let (site, mut client) = site(address).await;
        assert_eq!(ask(&mut client, method, "/again", "\r\n").await.0, 200, "{method}");
        assert_eq!(seen.of("/again"), [0, 1], "{method}");
        assert_eq!(site.dlx.server.pools.resent(), 1, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_requests_are_never_sent_twice() {
    for (method, rest) in [
        ("POST", "Content-Length: 0\r\n\r\n"),
        ("POST", "Content-Length: 3\r\nIdempotency-Key: 1\r\n\r\nabc"),
        ("PUT", "Content-Length: 3\r\n\r\nabc"),
        ("PATCH", "Content-Length: 3\r\n\r\nabc"),
        ("DELETE", "\r\n"),
        ("DELETE", "Idempotency-Key: 1\r\n\r\n"),
        ("GET", "Content-Length: 3\r\n\r\nabc"),
    ] {
        let (address, seen) = closes(b"").await;
        let (site, mut client) = site(address).await;
        let (status, text) = ask(&mut client, method, "/once", rest).await;
        assert_eq!(status, 502, "{method} {rest:?}: {text}");
        assert!(text.contains(r#""resource":"demo/a""#), "{text}");
        assert_eq!(seen.of("/once"), [0], "{method} {rest:?}");
        assert_eq!(site.dlx.server.pools.resent(), 0, "{method} {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partly_answered_request_is_not_sent_again() {
    let (address, seen) = closes(b"H").await;
    let (_site, mut client) = site(address).await;
    assert_eq!(ask(&mut client, "GET", "/part", "\r\n").await.0, 502);
    assert_eq!(seen.of("/part"), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_a_third_time_nor_again_on_a_new_connection() {
    let seen = Seen::default();
    let all = seen.clone();
    let address = server(move |mut stream, connection| {
        let seen = seen.clone();
        async move {
            while let Some(line) = seen.read(&mut stream, connection).await {
                if !line.contains("/first") {
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let (site, mut client) = site(address).await;
    assert_eq!(ask(&mut client, "GET", "/third", "\r\n").await.0, 502);
    assert_eq!(all.of("/third"), [0, 1]);
    assert_eq!(site.dlx.server.pools.resent(), 1);
    assert_eq!(ask(&mut client, "GET", "/new", "\r\n").await.0, 502);
    assert_eq!(all.of("/new"), [2]);
}

/// As uWSGI does: it promises keep-alive. Its close comes at the worst moment: with the next request.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_not_kept_where_each_answer_is_the_last() {
    let seen = Seen::default();
    let all = seen.clone();
    let address = server(move |mut stream, connection| {
        let seen = seen.clone();
        async move {
            if seen.read(&mut stream, connection).await.is_some() {
                stream.write_all(OK).await.unwrap();
                seen.read(&mut stream, connection).await;
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let mut client = site.connect().await;
    let (mut learned, mut before) = (0, 0);
    while learned < 2 {
        assert_eq!(ask(&mut client, "GET", "/", "\r\n").await.0, 200);
        let resent = site.dlx.server.pools.resent();
        learned = if resent == before && all.of("/").len() > 1 { learned + 1 } else { 0 };
        before = resent;
    }
    for n in 0..20 {
        let (method, rest) = if n % 2 == 0 { ("POST", "Content-Length: 0\r\n\r\n") } else { ("GET", "\r\n") };
        assert_eq!(ask(&mut client, method, "/learned", rest).await.0, 200, "{n}");
    }
    assert_eq!(all.of("/learned").len(), 20);
    assert_eq!(site.dlx.server.pools.resent(), before);
}

/// What an HTTP/2 server does with the first stream of its first connection.
#[derive(Clone, Copy, Debug)]
enum First {
    /// Refuses the stream.
    Refuses,
    /// Sends GOAWAY with the last stream; the connection stays open.
    GoesAway { last: u8 },
    /// The same, and closes the connection.
    GoesAwayAndCloses { last: u8 },
}

/// An HTTP/2 server, and the bodies of the requests that it answered.
async fn http2(first: First) -> (SocketAddr, Arc<Mutex<Vec<Bytes>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let all = bodies.clone();
    let address = server(move |stream, number| {
        let bodies = bodies.clone();
        async move {
            match first {
                First::GoesAway { last } if number == 0 => {
                    let stream = goes_away(stream, last).await;
                    std::future::pending::<()>().await;
                    drop(stream);
                }
                First::GoesAwayAndCloses { last } if number == 0 => drop(goes_away(stream, last).await),
                _ => answers(stream, number == 0, bodies).await,
            }
        }
    })
    .await;
    (address, all)
}

/// Reads until a stream has begun, and sends GOAWAY with `last`.
async fn goes_away(mut stream: TcpStream, last: u8) -> TcpStream {
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        // HEADERS.
        if head[3] == 1 {
            break;
        }
    }
    stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]).await.unwrap();
    stream
}

async fn answers(stream: TcpStream, refuses: bool, bodies: Arc<Mutex<Vec<Bytes>>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let bodies = bodies.clone();
        tokio::spawn(async move {
            let mut stream = request.into_body();
            let mut body = Vec::new();
            while let Some(data) = stream.data().await {
                body.extend_from_slice(&data.unwrap());
                if refuses {
                    // After a part of the body has arrived.
                    return respond.send_reset(Reason::REFUSED_STREAM);
                }
            }
            bodies.lock().unwrap().push(body.into());
            respond.send_response(Response::new(()), true).unwrap();
        });
    }
}

/// A call with a body to an HTTP/2 resource; its status, and how many requests were sent again.
async fn call(first: First) -> (u16, u64, Vec<Bytes>) {
    let (address, bodies) = http2(first).await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let io = TokioIo::new(site.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let call = Request::post("http://a.test/call").header("content-type", "application/grpc");
    let call = call.body(Full::new(Bytes::from_static(b"abc"))).unwrap();
    let answer = client.send_request(call).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    let bodies = bodies.lock().unwrap().clone();
    (status, site.dlx.server.pools.resent(), bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_not_begun_is_sent_again_with_its_body() {
    for first in [First::Refuses, First::GoesAway { last: 0 }] {
        let expected = (200, 1, vec![Bytes::from_static(b"abc")]);
        assert_eq!(call(first).await, expected, "{first:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_may_have_been_begun_is_not_sent_again() {
    let first = First::GoesAwayAndCloses { last: 1 };
    assert_eq!(call(first).await, (502, 0, vec![]));
}
