//! What passes, what does not, and what counts as a request.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    Daemon, Namespace, Service, Site,
    journal::Journal,
    load::{Connection, Exchange, Response, get, once},
    until,
    wait::pause,
};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Three windows: whatever may sleep is asleep by then.
const THREE_WINDOWS: Duration = Duration::from_secs(3);

async fn one_service(name: &str) -> (Site, Service, Daemon) {
    let site = Site::new(name);
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let dlx = site.dlx().await;
    (site, service, dlx)
}

async fn raw(site: &Site, text: &str) -> (Response, Connection) {
    let mut connection = Connection::open(site.front()).await.unwrap();
    let Exchange::Answered(response) = connection.send(text.as_bytes()).await else {
        panic!("no answer to {text:?}")
    };
    (response, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_keeps_its_resource_awake_and_echoes() {
    let (site, service, dlx) = one_service("upgrade-").await;
    let _autoscaler = site.autoscaler().await;
    let request =
        "GET /echo HTTP/1.1\r\nHost: hello.localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let (response, mut connection) = raw(&site, request).await;
    assert_eq!(response.status, 101, "{}", response.text());
    assert_eq!(response.header("upgrade"), Some("echo"));
    let stream = connection.stream();
    for _ in 0..2 {
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
        pause(THREE_WINDOWS).await;
        assert_eq!(dlx.resource("demo", "hello").await["in_flight"], 1);
    }
    assert_eq!(site.state("demo", "hello"), "active");
    assert_eq!(Journal::read(&service.journal).starts.len(), 1);
    drop(connection);
    site.state_is("demo", "hello", "asleep").await;
}

/// Events come as they are sent, and a stream longer than the window keeps its resource awake.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_passes_as_it_comes_and_keeps_its_resource_awake() {
    let (site, service, _dlx) = one_service("events-").await;
    let _autoscaler = site.autoscaler().await;
    let mut stream = TcpStream::connect(site.front()).await.unwrap();
    // Gaps longer than the window: silent, but in flight.
    stream.write_all(&get("hello.localhost", "/events/3/1500", "1")).await.unwrap();
    let mut text = String::new();
    for number in 0..3 {
        let event = format!("data: {number}");
        while !text.contains(&event) {
            let mut part = [0; 1024];
            let count = stream.read(&mut part).await.unwrap();
            assert!(count > 0, "the stream ended before {event}: {text}");
            text.push_str(&String::from_utf8_lossy(&part[..count]));
        }
        assert!(!text.contains(&format!("data: {}", number + 1)), "the events came together");
    }
    while !text.ends_with("0\r\n\r\n") {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "the stream broke off: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    assert_eq!(Journal::read(&service.journal).starts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_clear_text_wakes_and_passes_many_requests_on_one_connection() {
    let (site, service, _dlx) = one_service("h2c-").await;
    let stream = TcpStream::connect(site.front()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let requests: Vec<_> = (0..50)
        .map(|number| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let request = http::Request::get("http://hello.localhost/")
                    .header("x-request-id", number.to_string())
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                let response = sender.send_request(request).await.expect("an answer");
                assert_eq!(response.status(), 200);
                assert_eq!(response.version(), http::Version::HTTP_2);
                assert_eq!(response.headers()["x-request-id"], number.to_string());
                response.into_body().collect().await.expect("a whole body").to_bytes()
            })
        })
        .collect();
    for request in requests {
        assert!(!request.await.unwrap().is_empty());
    }
    let journal = Journal::read(&service.journal);
    assert_eq!((journal.starts.len(), journal.requests.len()), (1, 50));
    assert!(journal.requests.values().all(|&times| times == 1));
}

/// Answered by the DLX: it does not wake, and it does not keep awake.
#[tokio::test(flavor = "multi_thread")]
async fn probes_named_in_static_responses_neither_wake_nor_count() {
    let site = Site::new("nowake-");
    let service = Service::new(&site, "hello");
    let responses = "staticResponses: [{userAgent: kube-probe, status: 200}]";
    site.configure(&Namespace::new("demo").dlx(responses).with(&service));
    let dlx = site.dlx().await;
    let _autoscaler = site.autoscaler().await;
    let probe = "GET / HTTP/1.1\r\nHost: hello.localhost\r\nUser-Agent: kube-probe/1.36\r\n\r\n";
    assert_eq!(raw(&site, probe).await.0.status, 200);
    assert_eq!(dlx.resource("demo", "hello").await["requests"], 0);
    assert_eq!(Journal::read(&service.journal).starts.len(), 0, "a probe woke it");

    let answer = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(answer.status, 200);
    until("it to sleep in spite of probes", || async {
        assert_eq!(raw(&site, probe).await.0.status, 200);
        let state = site.state("demo", "hello");
        if state == "asleep" { Ok(()) } else { Err(state) }
    })
    .await;
    let journal = Journal::read(&service.journal);
    assert_eq!((journal.starts.len(), journal.requests.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_answered_400_and_their_connection_is_closed() {
    let (site, service, _dlx) = one_service("malformed-").await;
    for text in [
        "POST / HTTP/1.1\r\nHost: hello.localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: hello.localhost\r\nHost: other.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: hello.localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "no request at all\r\n\r\n",
    ] {
        let (response, mut connection) = raw(&site, text).await;
        assert_eq!(response.status, 400, "{text:?}: {}", response.text());
        let rest = connection.stream().read(&mut [0; 64]).await;
        assert!(matches!(rest, Ok(0) | Err(_)), "{text:?}: the connection goes on: {rest:?}");
    }
    assert_eq!(Journal::read(&service.journal).starts.len(), 0);
}

/// An unknown host: 404 in JSON. A header of the client's own names no resource.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_an_unknown_host_is_answered_404_in_json() {
    let (site, service, _dlx) = one_service("unknown-").await;
    for text in [
        "GET / HTTP/1.1\r\nHost: other.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: other.localhost\r\nX-Resource-Name: hello\r\nX-Original-Uri: /\r\n\r\n",
        "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
    ] {
        let (response, _) = raw(&site, text).await;
        assert_eq!(response.status, 404, "{text:?}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert!(response.json()["reason"].is_string(), "{}", response.text());
    }
    assert_eq!(Journal::read(&service.journal).starts.len(), 0);
}

/// The answer to a request that was held says how long; a warm one's does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_says_so_in_server_timing() {
    let (site, _service, dlx) = one_service("timing-").await;
    let cold = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    let timing = cold.header("server-timing").unwrap_or_default().to_owned();
    assert!(timing.contains("hold;dur=") && timing.contains("wake;dur="), "{cold:?}");
    let warm = once(site.front(), &get("hello.localhost", "/", "2")).await.expect("an answer");
    assert_eq!(warm.header("server-timing"), None);
    assert_eq!(dlx.resource("demo", "hello").await["requests"], 2);
}

/// The resource dies while it answers: 502, and the request is not sent to its next incarnation.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_dies_while_it_answers_is_a_502_and_no_second_request() {
    let (site, service, _dlx) = one_service("broken-").await;
    let first = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    let pid: i32 = first.header("x-run").expect("x-run").parse().unwrap();
    let front = site.front();
    let slow = tokio::spawn(async move { once(front, &get("hello.localhost", "/slow/60000", "2")).await });
    until("the resource to have the request", || async {
        let journal = Journal::read(&service.journal);
        if journal.requests.contains_key("2") { Ok(()) } else { Err(format!("{journal:?}")) }
    })
    .await;
    e2e::processes::signal(pid, rustix::process::Signal::KILL);
    let broken = slow.await.unwrap().expect("an answer");
    assert_eq!(broken.status, 502, "{}", broken.text());
    assert_eq!(broken.json()["resource"], "demo/hello");
    assert_eq!(Journal::read(&service.journal).requests["2"], 1);
}
