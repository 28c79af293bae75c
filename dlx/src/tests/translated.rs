//! Clients that speak HTTP/2 to resources that speak HTTP/1.1: what of an answer reaches them, however it is framed.

use std::{
    future::{pending, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::testing::{EVENT_TIMEOUT, Site, SiteOptions, plugin::Plugin, until, upstream};

/// An answer: its status, its body, and its trailers. An error: how its stream was reset.
type Received = Result<(StatusCode, Vec<u8>, HeaderMap), Option<Reason>>;

/// A DLX in front of a resource that sends `answer` to each request, and then closes or waits.
async fn site(answer: Vec<u8>, closes: bool) -> (Site, SendRequest<Bytes>, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let address = upstream::raw(move |mut stream, _| {
        let (answer, count) = (answer.clone(), count.clone());
        async move {
            let mut first = true;
            while upstream::read_head(&mut stream).await.is_some() {
                count.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::SeqCst);
                // In two parts, wherever that cuts it.
                let (begin, end) = answer.split_at(answer.len() / 2);
                stream.write_all(begin).await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(end).await.unwrap();
                if closes {
                    return;
                }
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let (client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    (site, client, connections)
}

async fn ask(client: &mut SendRequest<Bytes>, method: &str) -> Received {
    let request = Request::builder().method(method).uri("http://a.test/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").map_err(|error| error.reason())?;
    let (status, mut from) = (answer.status(), answer.into_body());
    let mut body = Vec::new();
    while let Some(data) = timeout(EVENT_TIMEOUT, from.data()).await.expect("more of the answer") {
        let data = data.map_err(|error| error.reason())?;
        from.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = from.trailers().await.map_err(|error| error.reason())?;
    Ok((status, body, trailers.unwrap_or_default()))
}

/// The answer is whole, and its connection is used again or not.
#[tokio::test(flavor = "multi_thread")]
async fn answers_arrive_whole_however_they_are_framed() {
    let long = vec![b'x'; 300_000];
    let with_length = [b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", &long[..]].concat();
    let chunk =
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n493e0;x=y\r\n", &long[..], b"\r\n0\r\n\r\n"]
            .concat();
    let to_the_end = [b"HTTP/1.1 200 OK\r\n\r\n", &long[..]].concat();
    for (answer, closes, method, status, body, connections) in [
        (with_length, false, "GET", 200, &long[..], 1),
        (chunk, false, "GET", 200, &long, 1),
        (to_the_end, true, "GET", 200, &long, 2),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nhi".to_vec(),
            false,
            "GET",
            200,
            b"hi",
            1,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n".to_vec(),
            false,
            "GET",
            200,
            b"hi!",
            1,
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
                .to_vec(),
            false,
            "GET",
            200,
            b"hi",
            1,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(), false, "HEAD", 200, b"", 1),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_vec(), false, "GET", 304, b"", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), false, "GET", 204, b"", 1),
        // The resource closes, or sends what is no answer to anything.
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi".to_vec(),
            false,
            "GET",
            200,
            b"hi",
            2,
        ),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec(), false, "GET", 200, b"hi", 2),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!".to_vec(), false, "GET", 200, b"hi", 2),
        (b"HTTP/1.1 204 No Content\r\n\r\nhi".to_vec(), false, "GET", 204, b"", 2),
    ] {
        let text = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let (_site, mut client, opened) = site(answer, closes).await;
        for _ in 0..2 {
            let received = ask(&mut client, method).await.expect(&text);
            assert_eq!(received.0, status, "{text}");
            assert!(received.1 == body, "{text}: {} bytes", received.1.len());
        }
        assert_eq!(opened.load(Ordering::SeqCst), connections, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_arrive() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n";
    let (_site, mut client, opened) = site(answer.to_vec(), false).await;
    for _ in 0..2 {
        let (_, body, trailers) = ask(&mut client, "GET").await.unwrap();
        assert_eq!(body, b"hi");
        let sums: Vec<_> = trailers.get_all("x-sum").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(sums, ["1", "2"]);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

/// RFC 9110 8.6.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_content_has_no_length() {
    let answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\n";
    let (_site, mut client, _) = site(answer.to_vec(), false).await;
    let request = Request::head("http://a.test/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert!(!answer.headers().contains_key("content-length"));
}

/// None is taken for a whole answer.
#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_are_502_or_reset_their_stream() {
    let reset = Err(Some(Reason::INTERNAL_ERROR));
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"[..], reset),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", reset),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi!\r\n0\r\n\r\n", reset),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", reset),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi", Ok(502)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", Ok(502)),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Ok(502)),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Ok(502)),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", Ok(502)),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Ok(502)),
        (b"nonsense\r\n\r\n", Ok(502)),
        (b"x", Ok(502)),
    ] {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (_site, mut client, _) = site(answer.to_vec(), true).await;
        let received = ask(&mut client, "GET").await.map(|(status, ..)| status.as_u16());
        assert_eq!(received, expected, "{text}");
    }
}

/// A client that resets its stream, before the answer and in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_ends_its_connection_to_the_resource() {
    for begins in [false, true] {
        let closed = Arc::new(AtomicUsize::new(0));
        let closes = closed.clone();
        let address = upstream::raw(move |mut stream, _| {
            let closed = closes.clone();
            async move {
                if upstream::read_head(&mut stream).await.is_none() {
                    return;
                }
                if begins {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi").await.unwrap();
                }
                if stream.read_u8().await.is_err() {
                    closed.fetch_add(1, Ordering::SeqCst);
                }
                pending::<()>().await;
            }
        })
        .await;
        let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
        let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
        tokio::spawn(connection);
        let (answer, mut stream) =
            client.send_request(Request::get("http://a.test/").body(()).unwrap(), true).unwrap();
        let handle = site.resource("a");
        until("it is in flight", || handle.counts.in_flight() == 1).await;
        if begins {
            let mut body = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hi");
        }
        stream.send_reset(Reason::CANCEL);
        until("its connection is closed", || closed.load(Ordering::SeqCst) == 1).await;
        until("it is in flight no more", || handle.counts.in_flight() == 0).await;
    }
}

/// A client that takes nothing of the answer before it has sent its whole body.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_on_while_the_client_takes_nothing_of_the_answer() {
    const LONG: usize = 8_000_000;
    let taken = Arc::new(AtomicUsize::new(0));
    let takes = taken.clone();
    let address = upstream::raw(move |mut stream, _| {
        let taken = takes.clone();
        async move {
            if upstream::read_head(&mut stream).await.is_none() {
                return;
            }
            let (mut from, mut to) = stream.into_split();
            tokio::spawn(async move {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
                to.write_all(head.as_bytes()).await.unwrap();
                to.write_all(&vec![b'y'; LONG]).await.unwrap();
                to.forget();
            });
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                taken.fetch_add(len, Ordering::SeqCst);
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let post = Request::post("http://a.test/").header("content-length", LONG).body(()).unwrap();
    let (answer, mut to) = client.send_request(post, false).unwrap();
    let mut body = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").unwrap().into_body();
    to.send_data(Bytes::from(vec![b'x'; LONG]), true).unwrap();
    until("all of it came", || taken.load(Ordering::SeqCst) == LONG).await;
    let mut len = 0;
    while let Some(data) = timeout(EVENT_TIMEOUT, body.data()).await.expect("more of the answer") {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        len += data.len();
    }
    assert_eq!(len, LONG);
    until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
}

/// A resource that answers early and closes: the client's body is refused, not read to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_resource_does_not_take_is_refused_after_the_answer() {
    let address = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            let _ = stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let post = Request::post("http://a.test/").body(()).unwrap();
    let (answer, mut to) = client.send_request(post, false).unwrap();
    let answer = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let mut body = answer.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "no");
    assert!(body.data().await.is_none());
    let reset = poll_fn(|cx| to.poll_reset(cx));
    assert_eq!(timeout(EVENT_TIMEOUT, reset).await.expect("a reset").unwrap(), Reason::NO_ERROR);
    until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
}

/// Answers of status 1xx without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_early_hints_are_enough() {
    let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(101);
    let answer = [&hints[..], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"].concat();
    let (_site, mut client, _) = site(answer, false).await;
    assert_eq!(ask(&mut client, "GET").await.unwrap().0, StatusCode::BAD_GATEWAY);
}

/// Clients that have sent a part of their bodies and pause: what is sent to the resource takes no memory meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_pause_keep_no_memory() {
    const UPLOADS: usize = 100;
    const PART: usize = 60_000;
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let taken = Arc::new(AtomicUsize::new(0));
    let takes = taken.clone();
    let address = upstream::raw(move |mut stream, _| {
        let taken = takes.clone();
        async move {
            let mut part = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut part).await {
                taken.fetch_add(part[..len].iter().filter(|byte| **byte == b'~').count(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut uploads = Vec::new();
    let mut upload = async |number: usize| {
        client = client.clone().ready().await.unwrap();
        let (answer, mut to) =
            client.send_request(Request::post("http://a.test/").body(()).unwrap(), false).unwrap();
        to.send_data(Bytes::from(vec![b'~'; PART]), false).unwrap();
        uploads.push((answer, to));
        until("it came", || taken.load(Ordering::SeqCst) == (number + 1) * PART).await;
    };
    // What is allocated once.
    for number in 0..10 {
        upload(number).await;
    }
    let before = resident();
    for number in 10..UPLOADS {
        upload(number).await;
    }
    let each = resident().saturating_sub(before) / (UPLOADS - 10);
    assert!(each < PART / 2, "{each} bytes each");
}
