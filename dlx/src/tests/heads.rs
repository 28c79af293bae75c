//! Heads of HTTP/1 requests: a bad head is refused alike whether its resource sleeps or not, with a reason, and wakes
//! nothing; a body is never taken for a head.

use std::sync::atomic::Ordering;

use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::{Site, SiteOptions, body, plugin::Plugin, status, until, upstream};

/// A request with two lengths.
const BOTH: &str =
    "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

/// A sleeping resource beside one that is awake.
async fn two(relay: bool) -> (Site, std::sync::Arc<upstream::Echo>) {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).asleep("a").awake("b", address);
    (Site::start(plugin, SiteOptions { relay, ..SiteOptions::default() }).await, echo)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_looks_like_a_head_is_a_body() {
    for relay in [true, false] {
        send_bodies_like_heads(relay).await;
    }
}

async fn send_bodies_like_heads(relay: bool) {
    let (site, echo) = two(relay).await;
    let length = BOTH.len();
    let text = format!("POST /1 HTTP/1.1\r\nHost: b.test\r\nContent-Length: {length}\r\n\r\n{BOTH}");
    let chunk = format!("{length:x}\r\n{BOTH}\r\n0\r\n\r\n");
    let chunks =
        format!("POST /2 HTTP/1.1\r\nHost: b.test\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n{chunk}");
    let last = "GET /3 HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n";
    // As a front proxy does with its clients' requests: one after the other on one connection, in pieces of any size.
    for pieces in [vec![format!("{text}{chunks}{last}")], vec![text, chunks, last.to_owned()]] {
        let mut client = site.connect().await;
        let (mut reads, mut writes) = client.split();
        let write = async {
            for piece in &pieces {
                writes.write_all(piece.as_bytes()).await.unwrap();
            }
        };
        let mut answers = String::new();
        let (_, read) = tokio::join!(write, reads.read_to_string(&mut answers));
        read.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
        assert_eq!(answers.matches(&format!("body Ok({length})")).count(), 2, "{answers}");
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), 6);
}

/// A client may send the next protocol's bytes before it knows whether the switch succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_protocol_switch_are_read_by_its_answer() {
    let switching = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await.unwrap();
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    })
    .await;
    let (declining, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at("127.0.0.1:1").awake("a", switching).awake("b", declining);
    let site = Site::start(plugin, SiteOptions::default()).await;
    let ask =
        |host: &str| format!("GET /1 HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let answer = site.raw(format!("{}\0\u{1}", ask("a.test")).as_bytes()).await;
    assert!(status(&answer) == 101 && answer.ends_with("\r\n\r\n\0\u{1}"), "{answer:?}");
    let next = "GET /2 HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n";
    let answer = site.raw(format!("{}{next}", ask("b.test")).as_bytes()).await;
    assert!(answer.contains("GET /1 ") && answer.contains("GET /2 "), "{answer}");
    let answer = site.raw(format!("{}\0\u{1}", ask("b.test")).as_bytes()).await;
    assert!(answer.contains("GET /1 ") && answer.contains("HTTP/1.1 400"), "{answer}");
}

/// Each of them, at the beginning of a connection and behind another request.
const REFUSED: &[(u16, &str)] = &[
    // Lengths.
    (
        400,
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    (
        400,
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n\r\n"),
    (400, "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: +3\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: -3\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x3\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length:\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3, 3\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 9223372036854775808\r\n\r\nabc"),
    (400, "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551616\r\n\r\nabc"),
    // Targets.
    (400, "CONNECT HOST:80 HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "CONNECT /x HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "PRI / HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET HOST:80 HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET HOST HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET x/y HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET ?x HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET http:// HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET http://user@HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET /<x> HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET /\u{1} HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    // Hosts.
    (400, "GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST, HOST\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: user@HOST\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST\u{e4}\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nX: HOST\r\n\r\n"),
    // Lines and versions.
    (400, "GET /\r\n\r\n"),
    (400, "GET / HTTP/0.9\r\nHost: HOST\r\n\r\n"),
    (400, "GET / HTTP/2.0\r\nHost: HOST\r\n\r\n"),
    (400, "GET / HTTP/1.1 \r\nHost: HOST\r\n\r\n"),
    (400, "GET\t/ HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "G@T / HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST\r\nX : y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST\r\nX: y\r\n folded\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST\r\nX: \u{0}\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: HOST\r\nno field\r\n\r\n"),
    (400, "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}"),
    // Sizes.
    (431, "GET / HTTP/1.1\r\nHost: HOST\r\nX: LONG\r\n\r\n"),
    (431, "GET / HTTP/1.1\r\nHost: HOST\r\nMANY\r\n\r\n"),
    (414, "GET /LONG HTTP/1.1\r\nHost: HOST\r\n\r\n"),
];

fn written(request: &str, host: &str) -> String {
    let many = (0..10_000).map(|number| format!("x{number}: y\r\n")).collect::<String>();
    request.replace("HOST", host).replace("LONG", &"x".repeat(70_000)).replace("MANY\r\n", &many)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_heads_are_refused_alike_with_a_reason_and_wake_nothing() {
    for relay in [true, false] {
        send_bad_heads(relay).await;
    }
}

async fn send_bad_heads(relay: bool) {
    let (site, echo) = two(relay).await;
    for (expected, request) in REFUSED {
        let mut answers = Vec::new();
        for host in ["a.test", "b.test"] {
            let own = written(request, host);
            let answer = site.raw(own.as_bytes()).await;
            assert_eq!(status(&answer), *expected, "{host} {request:?}: {answer}");
            let parsed: serde_json::Value = serde_json::from_str(body(&answer)).expect(&answer);
            assert!(
                parsed["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
                "{request:?}: {answer}"
            );
            answers.push(parsed);
        }
        assert_eq!(answers[0], answers[1], "{request:?}");
        let before = "POST /before HTTP/1.1\r\nHost: b.test\r\nContent-Length: 3\r\n\r\nabc";
        let answer = site.raw(format!("{before}{}", written(request, "a.test")).as_bytes()).await;
        let (first, second) = answer.split_at(answer.rfind("HTTP/1.1 4").unwrap_or_default());
        assert!(first.contains("/before") && status(second) == *expected, "{request:?}: {answer}");
    }
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0, "it was woken");
    assert_eq!(
        site.resource("a").counts.total() + site.resource("a").queue.len() as u64,
        0,
        "it was counted"
    );
    assert_eq!(echo.requests.load(Ordering::SeqCst), REFUSED.len(), "only those that stood before");
}

/// Unusual but valid requests.
const TAKEN: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: HOST\r\nCLOSE",
    "\r\n\r\nGET / HTTP/1.1\nHost: HOST\nCLOSE",
    "GET http://HOST/x?y HTTP/1.1\r\nHost: other\r\nCLOSE",
    "GET http://HOST?y HTTP/1.1\r\nCLOSE",
    "OPTIONS * HTTP/1.1\r\nHost: HOST\r\nCLOSE",
    "M-SEARCH //x/../y?a={}|^ HTTP/1.1\r\nhOST:HOST\r\nCLOSE",
    "GET /\u{e4}?\u{e4} HTTP/1.1\r\nHost: HOST:80\r\nCLOSE",
    "GET / HTTP/1.0\r\nHost: HOST\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 3\r\nCLOSEabc",
    "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 003\r\nCLOSEabc",
    "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: Chunked \r\nCLOSE3;x=\"y\"\r\nabc\r\n0\r\nT: r\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: HOST\r\nX:\r\nY: \u{e4}\t\r\nCLOSE",
    "GET / HTTP/1.1\r\nHost: HOST\r\nX: HALF\r\nCLOSE",
];

#[tokio::test(flavor = "multi_thread")]
async fn unusual_heads_are_accepted_alike_and_forwarded_with_one_length() {
    // Each wake takes a while.
    tokio::join!(send_unusual_heads(true), send_unusual_heads(false));
}

async fn send_unusual_heads(relay: bool) {
    let (site, echo) = two(relay).await;
    let first = site.plugin.get("a");
    for (number, request) in TAKEN.iter().enumerate() {
        let mut answers = Vec::new();
        for host in ["b.test", "a.test"] {
            // A body that only looks like half of the longest head.
            let own = written(request, host)
                .replace("HALF", &"x".repeat(60_000))
                .replace("CLOSE", "Connection: close\r\n\r\n");
            let answer = site.raw(own.as_bytes()).await;
            assert_eq!(status(&answer), 200, "{host} {request:?}: {answer}");
            assert!(body(&answer).matches("content-length: ").count() < 2, "{answer}");
            answers.push(body(&answer).replace(host, "HOST"));
        }
        assert_eq!(answers[0], answers[1], "{request:?}");
        assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), number + 1, "{request:?} did not wake");
        site.plugin.change("a", |resource| *resource = first.clone());
        until("asleep", || !site.resource("a").is_up()).await;
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), 2 * TAKEN.len());
}

/// A body of which nothing comes.
struct Nothing;

impl hyper::body::Body for Nothing {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_are_checked_alike_in_http2_and_http1() {
    let (site, _) = two(true).await;
    let stream = hyper_util::rt::TokioIo::new(site.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    for (expected, lengths) in [
        (400, &["3", "4"][..]),
        (400, &["+3"]),
        (400, &["3", "x"]),
        (400, &["9223372036854775808"]),
        (200, &["3", "3"]),
    ] {
        let mut request = http::Request::post("http://a.test/");
        for length in lengths {
            request = request.header("content-length", *length);
        }
        let body = match expected {
            200 => http_body_util::Either::Left(http_body_util::Full::from("abc")),
            _ => http_body_util::Either::Right(Nothing),
        };
        let Ok(answer) = client.send_request(request.body(body).unwrap()).await else {
            // A length that is no number is refused by the HTTP library: the stream is reset.
            assert_eq!((expected, site.plugin.set_scales.load(Ordering::SeqCst)), (400, 0), "{lengths:?}");
            continue;
        };
        assert_eq!(answer.status(), expected, "{lengths:?}");
        let answer = http_body_util::BodyExt::collect(answer).await.unwrap().to_bytes();
        let count = String::from_utf8_lossy(&answer).matches("content-length: 3\n").count();
        assert_eq!(count, usize::from(expected == 200), "{lengths:?}");
        assert_eq!(
            site.plugin.set_scales.load(Ordering::SeqCst),
            usize::from(expected == 200),
            "{lengths:?}"
        );
    }
}

/// A head made of lines that are right, wrong, or nearly so.
fn heads() -> impl Strategy<Value = String> {
    let method = select(vec!["GET", "POST", "OPTIONS", "CONNECT", "get", "G T", "", "PRI"]);
    let target = select(vec![
        "/",
        "/x?y=z",
        "*",
        "http://HOST/",
        "HOST",
        "HOST:80",
        "/<",
        "/#",
        "\\",
        "/%zz",
        "/\u{fc}",
    ]);
    let version =
        select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", ""]);
    let field = select(vec![
        "Host: HOST",
        "host:HOST:8080",
        "Host: ",
        "Host: a b",
        "Content-Length: 0",
        "Content-Length: 0",
        "Content-Length: 00",
        "Content-Length: +0",
        "Content-Length: 0,0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: x, chunked",
        "Connection: x",
        "Upgrade: x",
        "X: \u{fc}",
        "X : y",
        ": y",
        "X",
        " X: y",
        "X: \u{7f}",
        "Expect: 100-continue",
        "TE: trailers",
        "Via: 1.1 x",
    ]);
    let end = select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let fields = prop::collection::vec((field, end.clone()), 0..5);
    (method, target, version, end, fields, prop::bool::weighted(0.7)).prop_map(
        |(method, target, version, end, fields, host)| {
            let mut head = format!("{method} {target} {version}{end}");
            if host {
                head += "Host: HOST\r\n";
            }
            fields.iter().for_each(|(field, end)| head += &format!("{field}{end}"));
            head + "Connection: close\r\n\r\n0\r\n\r\n"
        },
    )
}

/// Whatever its head: a request for a sleeping resource is answered like one for an awake resource, and wakes it only if
/// it is forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn heads_are_checked_alike_asleep_and_awake() {
    let (site, _) = two(true).await;
    let first = site.plugin.get("a");
    let judge = async |head: String| {
        let before = site.plugin.set_scales.load(Ordering::SeqCst);
        let awake = site.raw(head.replace("HOST", "b.test").as_bytes()).await;
        let asleep = site.raw(head.replace("HOST", "a.test").as_bytes()).await;
        let woken = site.plugin.set_scales.load(Ordering::SeqCst) - before;
        if woken > 0 {
            site.plugin.change("a", |resource| *resource = first.clone());
            until("asleep", || !site.resource("a").is_up()).await;
        }
        let last = |answer: String| answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n").to_owned();
        (last(awake), last(asleep), woken)
    };
    let runtime = tokio::runtime::Handle::current();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() });
    tokio::task::block_in_place(|| {
        runner.run(&heads(), |head| {
            let (awake, asleep, woken) = runtime.block_on(judge(head));
            prop_assert_eq!(status(&awake), status(&asleep), "{} {}", awake, asleep);
            prop_assert_eq!(woken, usize::from(status(&asleep) == 200), "{}", asleep);
            if status(&asleep) != 200 {
                prop_assert!(serde_json::from_str::<serde_json::Value>(body(&asleep)).is_ok(), "{}", asleep);
                prop_assert_eq!(body(&awake).replace("b.test", ""), body(&asleep).replace("a.test", ""));
            }
            Ok(())
        })
    })
    .unwrap();
}
