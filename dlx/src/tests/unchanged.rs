//! What the DLX changes in a message: each exchange is made twice, with the resource itself and through its port of the
//! DLX.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use scaler_types::{Endpoint, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::testing::{
    Site, SiteOptions, body, free_range, header, local,
    message::{self, Message},
    plugin::{Plugin, endpoint},
    raw_at,
    service_ports::{on_service_ports, port},
};

/// A request and its answer, as they are sent: the answer's end is that of its connection where it says no other.
struct Exchange {
    request: Vec<u8>,
    answer: Vec<u8>,
    /// What the DLX changes.
    differs: &'static [&'static str],
}

/// What the resource answers, and what it received.
#[derive(Default)]
struct Script {
    answer: Vec<u8>,
    received: Vec<Message>,
}

/// An exchange that passes unchanged. The lines of both heads are ended here.
fn same(request: &[u8], answer: &[u8]) -> Exchange {
    differs(request, answer, &[])
}

fn differs(request: &[u8], answer: &[u8], differs: &'static [&'static str]) -> Exchange {
    // These are added where they are missing: of that there are exchanges of their own.
    let about_client = b"X-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n";
    let date = b"Date: Sun, 29 Nov 2026 12:00:00 GMT\r\n";
    Exchange { request: with(request, about_client), answer: with(answer, date), differs }
}

/// The message with these fields after its first line, and after those of 1xx.
fn with(message: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while message[at..].starts_with(b"HTTP/1.1 1") {
        at += message[at..].windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    }
    at += message[at..].windows(2).position(|end| end == b"\r\n").unwrap() + 2;
    [&message[..at], fields, &message[at..]].concat()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn exchanges() -> Vec<Exchange> {
    let many: String = (0..300).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let many_fields_request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n");
    let many_fields_answer = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nhi");
    vec![
        same(GET, OK),
        // Status lines.
        same(GET, b"HTTP/1.1 200 Fine, thanks\r\nContent-Length: 0\r\n\r\n"),
        same(GET, b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
        same(GET, b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"),
        same(GET, b"HTTP/1.1 799 Odder\r\nContent-Length: 0\r\n\r\n"),
        same(GET, b"HTTP/1.0 404 Not Found\r\n\r\nto the end"),
        same(GET, b"HTTP/1.1 404 Not Found\r\n\r\nto the end"),
        // Fields.
        same(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\nAccept: x\r\nCookie: b=2\r\nAccept: y\r\nX-Empty:\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nSet-Cookie: b=1\r\nX: 1\r\nSet-Cookie: a=2\r\nX: 2\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n",
        ),
        same(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nX_Under: 1\r\nX: \xe9\xff \"q\"\ta, b;c=d\r\nReferer: http://b/\xc3\xa9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: \xe9\xff \"q\"\ta\r\nServer: x\r\nContent-Disposition: attachment; filename=\"\xe9\"\r\nContent-Length: 0\r\n\r\n",
        ),
        same(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 edge\r\nForwarded: for=_x;proto=https\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nX-Real-IP: 10.0.0.1\r\nX-Request-Id: 1\r\nTraceparent: 00-1-2-01\r\nAuthorization: Basic eA==\r\nProxy-Authorization: Basic eA==\r\nMax-Forwards: 3\r\nAccept-Encoding: gzip\r\nIf-None-Match: \"a\"\r\nRange: bytes=0-1\r\n\r\n",
            b"HTTP/1.1 206 Partial Content\r\nVia: 1.1 inner\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-1/9\r\nVary: *\r\nAge: 1\r\nWarning: 110 - \"x\"\r\nProxy-Authenticate: Basic\r\nWWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
        ),
        same(many_fields_request.as_bytes(), many_fields_answer.as_bytes()),
        same(GET, b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"),
        // Answers without a body.
        same(GET, b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 12345\r\n\r\n"),
        same(GET, b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        same(GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        same(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"),
        same(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        same(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\n\r\n"),
        same(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        // Bodies, of which a GET has one, too.
        same(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\na\0c", OK),
        same(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", OK),
        same(b"POST / HTTP/1.1\r\nHost: a.test\r\n\r\n", OK),
        same(b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc", OK),
        same(b"GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", OK),
        same(
            b"HEAD / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        ),
        same(b"GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK),
        same(b"DELETE / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", OK),
        same(
            b"POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum, X-More\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: \xe9\r\nX-More: 2\r\nX-More: 1\r\n\r\n",
        ),
        // Trailers that were not announced.
        same(
            b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            OK,
        ),
        same(GET, "HTTP/1.1 200 Schön\r\nContent-Length: 0\r\n\r\n".as_bytes()),
        // Targets and methods.
        same(b"GET //a/../b/./c;x=1?q={%22a%22:[1]}&%zz=~!$'()*+,@&&p=a/b?c HTTP/1.1\r\nHost: a.test\r\n\r\n", OK),
        same(b"GET /{\"\xc3\xa9\"}|^?{\xc3\xa9}|^` HTTP/1.1\r\nHost: a.test\r\n\r\n", OK),
        same(b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", OK),
        same(b"PROPFIND /a HTTP/1.1\r\nHost: A.Test:8080\r\n\r\n", OK),
        same(b"get / HTTP/1.1\r\nHost: a.test\r\n\r\n", OK),
        same(b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 200-ok\r\nContent-Length: 3\r\n\r\nabc", OK),
        // HTTP/1.0, with a host and without.
        same(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", OK),
        same(b"OPTIONS / HTTP/1.0\r\n\r\n", OK),
        same(b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        same(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.0 200 OK\r\n\r\nto the end"),
    ]
}

/// What is required of a proxy.
fn required() -> Vec<Exchange> {
    vec![
        differs(
            b"GET http://b.test/x HTTP/1.1\r\nHost: b.test\r\n\r\n",
            OK,
            &["GET http://b.test/x became GET /x"],
        ),
        differs(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n",
            OK,
            &["lost field x-own"],
        ),
        differs(
            GET,
            b"HTTP/1.1 200 OK\r\nConnection: x-own\r\nX-Own: 1\r\nContent-Length: 0\r\n\r\n",
            &["lost field x-own"],
        ),
        differs(GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", &["lost field content-length"]),
    ]
}

/// The DLX's choice.
fn chosen() -> Vec<Exchange> {
    vec![
        differs(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            OK,
            &["lost field http2-settings", "lost field upgrade"],
        ),
        differs(
            b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
            OK,
            &["lost field expect"],
        ),
        differs(b"GET / HTTP/1.1\r\nHost: a.test\r\nProxy-Connection: close\r\n\r\n", OK, &["lost field proxy-connection"]),
    ]
}

/// Limits of the HTTP library, on a request that is handed over to it. When one goes, the documentation has a line less.
fn beyond_the_library() -> Vec<Exchange> {
    vec![
        differs(b"GET /a#b HTTP/1.1\r\nHost: a.test\r\n\r\n", OK, &["GET /a#b became GET /a"]),
        // Not announced.
        differs(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            &["lost trailer x-sum"],
        ),
    ]
}

/// The same on requests that are plain: relayed, they and their answers pass unchanged.
fn beyond_the_library_alone() -> Vec<Exchange> {
    vec![
        differs(
            GET,
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            &["lost HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload"],
        ),
        // To a client that does not say that it takes some.
        differs(
            GET,
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            &["lost trailer x-sum"],
        ),
    ]
}

/// Added to messages without them; the date by the library alone.
fn added(relay: bool) -> Vec<Exchange> {
    let added: [&[&str]; 2] =
        [&["new field x-forwarded-for", "new field date"], &["new field x-forwarded-for"]];
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_vec();
    vec![Exchange { request, answer: OK.to_vec(), differs: added[usize::from(relay)] }]
}

/// A resource that answers every request by the script.
async fn scripted() -> (SocketAddr, Arc<Mutex<Script>>) {
    let script = Arc::new(Mutex::new(Script::default()));
    let played = script.clone();
    let address = crate::testing::upstream::raw(move |mut stream, _| {
        let script = played.clone();
        async move {
            while let Some(received) = message::read(&mut stream, false).await {
                let head = received.start.starts_with(b"HEAD");
                let answer = {
                    let mut script = script.lock().unwrap();
                    script.received.push(received);
                    script.answer.clone()
                };
                let text = String::from_utf8_lossy(&answer);
                let endless =
                    !["Content-Length:", "chunked", " 204 ", " 304 "].iter().any(|word| text.contains(word));
                // Failing, the client has what it waited for, and is gone.
                if stream.write_all(&answer).await.is_err() || endless && !head {
                    return;
                }
            }
        }
    })
    .await;
    (address, script)
}

/// A resource of that endpoint, and its port of a DLX.
async fn site(endpoint: Endpoint, relay: bool) -> (Site, SocketAddr) {
    let ports = free_range(1);
    let plugin = Plugin::at(&endpoint.address);
    plugin.add("a", |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint];
        resource.ports = port(ports.first, Protocol::Http);
    });
    let options = SiteOptions { relay, ..on_service_ports(ports) };
    (Site::start(plugin, options).await, local(ports.first))
}

async fn answer(to: SocketAddr, exchange: &Exchange) -> Message {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&exchange.request).await.unwrap();
    message::read(&mut stream, exchange.request.starts_with(b"HEAD")).await.expect("an answer")
}

async fn compare(exchanges: Vec<Exchange>, relay: bool) {
    let (address, script) = scripted().await;
    let (_site, port) = site(endpoint(address), relay).await;
    let mut wrong = Vec::new();
    for exchange in exchanges {
        script.lock().unwrap().answer = exchange.answer.clone();
        let own = answer(address, &exchange).await;
        let through = answer(port, &exchange).await;
        let received = std::mem::take(&mut script.lock().unwrap().received);
        let mut differences = match &received[..] {
            [own, through] => own.differences(through),
            received => vec![format!("it got {} requests", received.len())],
        };
        differences.extend(own.differences(&through));
        if differences != exchange.differs {
            wrong.push(format!(
                "{}\n{}\n-> {differences:?}, expected {:?}\n",
                String::from_utf8_lossy(&exchange.request),
                String::from_utf8_lossy(&exchange.answer),
                exchange.differs
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_messages_pass_unchanged() {
    compare(exchanges(), true).await;
    compare(exchanges(), false).await;
    let relayed =
        beyond_the_library_alone().into_iter().map(|exchange| Exchange { differs: &[], ..exchange });
    compare(relayed.collect(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_those_in_the_documentation() {
    for relay in [true, false] {
        compare(added(relay), relay).await;
        compare(required(), relay).await;
        compare(chosen(), relay).await;
        compare(beyond_the_library(), relay).await;
    }
    compare(beyond_the_library_alone(), false).await;
}

/// What is refused here, and would not be without the DLX.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_the_library_cannot_read_are_refused() {
    let many: String = (0..1100).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n");
    let answer = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nhi");
    let (address, script) = scripted().await;
    let (_site, port) = site(endpoint(address), true).await;
    for (request, answered, status) in [
        (request.as_bytes(), OK, 431),
        (GET, answer.as_bytes(), 502),
        (b"GET /?{\"a\":1} HTTP/1.1\r\nHost: a.test\r\n\r\n", OK, 400),
        (b"GET /a`b HTTP/1.1\r\nHost: a.test\r\n\r\n", OK, 400),
        (GET, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", 502),
        (GET, b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nhi", 502),
    ] {
        script.lock().unwrap().answer = answered.to_vec();
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(request).await.unwrap();
        let answer = message::read(&mut stream, false).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer.start).into_owned();
        assert!(answer.starts_with(&status.to_string()), "{answer}: {}", String::from_utf8_lossy(request));
    }
}

/// A body of unknown length.
struct Unsized(Option<Bytes>);

impl Body for Unsized {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A request in HTTP/2 reaches an application of HTTP/1.1 in its protocol, held or not.
#[tokio::test(flavor = "multi_thread")]
async fn http2_is_translated_for_an_http1_application() {
    let (address, script) = scripted().await;
    script.lock().unwrap().answer = OK.to_vec();
    let site = Site::start(Plugin::at(address).asleep("a"), crate::testing::SiteOptions::default()).await;
    let io = TokioIo::new(site.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let asterisk = || Uri::builder().scheme("http").authority("a.test").path_and_query("*").build().unwrap();
    let cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    for (method, uri, fields, body, expected) in [
        ("OPTIONS", asterisk(), &[][..], "", "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        ("OPTIONS", asterisk(), &[], "", "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        (
            "GET",
            Uri::from_static("http://a.test/x"),
            &cookies,
            "",
            "GET /x HTTP/1.1\r\nhost: a.test\r\ncookie: a=1; b=2; c=3\r\n\r\n",
        ),
        (
            "GET",
            Uri::from_static("http://a.test/x"),
            &[],
            "abc",
            "GET /x HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\nabc",
        ),
    ] {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = (!body.is_empty()).then(|| Bytes::from_static(body.as_bytes()));
        let sized = body.is_none();
        let body = if sized { Full::default().boxed() } else { Unsized(body).boxed() };
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let received = script.lock().unwrap().received.pop().unwrap();
        let mut expected = message::read(&mut expected.as_bytes(), false).await.unwrap();
        if !sized {
            expected.fields.remove("content-length");
        }
        let made_up = [
            "new field x-forwarded-for",
            "new field x-forwarded-host",
            "new field x-forwarded-proto",
            "new field via",
            "new field content-length",
        ];
        let mut differences = expected.differences(&received);
        differences.retain(|one| !made_up.contains(&&**one));
        assert_eq!(differences, [] as [&str; 0], "{method} {fields:?}");
    }
}

/// To an HTTP/1.0 client the end of an answer without a length is the end of its connection: if it were told that the
/// connection is kept, it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_http10_client_sees_when_its_connection_closes() {
    let (address, script) = scripted().await;
    let (site, port) = site(endpoint(address), true).await;
    let request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    script.lock().unwrap().answer = OK.to_vec();
    let mut stream = TcpStream::connect(port).await.unwrap();
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        let head = crate::testing::upstream::read_head(&mut stream).await.unwrap();
        assert_eq!(header(&head, "connection"), Some("keep-alive"), "{head}");
        stream.read_exact(&mut [0; 2]).await.unwrap();
    }
    for answer in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\n\r\nhi",
    ] {
        script.lock().unwrap().answer = answer.to_vec();
        let answer = raw_at(port, request).await;
        assert_eq!((header(&answer, "connection"), body(&answer)), (None, "hi"), "{answer}");
    }
    script.lock().unwrap().answer = OK.to_vec();
    site.draining.cancel();
    stream.write_all(request).await.unwrap();
    let mut last = String::new();
    stream.read_to_string(&mut last).await.unwrap();
    assert_eq!((header(&last, "connection"), body(&last)), (None, "hi"), "{last}");
}
