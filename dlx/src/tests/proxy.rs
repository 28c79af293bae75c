//! Forwarding: what is passed on, what is refused, and what is never sent twice.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::{Site, SiteOptions, body, header, plugin::Plugin, status, upstream};

async fn awake() -> (Site, Arc<upstream::Echo>) {
    let (address, echo) = upstream::echo(async || ()).await;
    (Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await, echo)
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    let (site, echo) = awake().await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n",
        "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = site.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), 400, "{request:?}: {answer}");
    }
    assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_lengths_are_refused_on_a_used_connection_too() {
    let (site, echo) = awake().await;
    let answers = site
        .raw(
            b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nPOST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        )
        .await;
    assert!(answers.contains("400 Bad Request"), "{answers}");
    assert!(!answers.contains("smuggled"), "{answers}");
    assert_eq!(echo.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_looks_like_a_head_is_a_body() {
    let (site, _) = awake().await;
    let text = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
        text.len()
    );
    let answer = site.raw(request.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(body(&answer).contains(&format!("body Ok({})", text.len())), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resource_gets_the_request_with_the_proxys_headers() {
    let (site, _) = awake().await;
    let answer = site
        .raw(b"GET /p?q=1 HTTP/1.1\r\nHost: A.Test.:80\r\nConnection: close, X-Private\r\nX-Private: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-Forwarded-For: 10.1.1.1\r\nX-Resource-Name: demo/b\r\nX-Kept: 1\r\n\r\n")
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let text = body(&answer);
    assert!(text.starts_with("GET /p?q=1 HTTP/1.1\n"), "{text}");
    for line in [
        "host: A.Test.:80\n",
        "x-kept: 1\n",
        "te: trailers\n",
        "connection: te\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    for gone in ["x-private", "keep-alive", "10.1.1.1", "close", "via"] {
        assert!(!text.contains(gone), "{gone:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_form_takes_precedence_over_the_host() {
    let (site, _) = awake().await;
    let answer =
        site.raw(b"GET http://a.test/x HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n").await;
    assert!(
        body(&answer).starts_with("GET /x HTTP/1.1\n") && body(&answer).contains("host: a.test\n"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_404_and_lists_the_plugins_at_most_once_a_second() {
    let (site, _) = awake().await;
    let before = site.plugin.lists.load(Ordering::SeqCst);
    for host in 0..50 {
        let answer = site.get(&format!("x{host}.test"), "/").await;
        assert_eq!(status(&answer), 404);
        assert!(body(&answer).contains(r#""error":"unknown_host""#), "{answer}");
    }
    let lists = site.plugin.lists.load(Ordering::SeqCst) - before;
    assert!((1..10).contains(&lists), "{lists} lists for 50 unknown hosts");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_headers_count_from_trusted_peers_alone() {
    let (a, b) = (upstream::echo(async || ()).await, upstream::echo(async || ()).await);
    let plugin = Plugin::at(a.0).awake("a", a.0).awake("b", b.0);
    let named = b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Resource-Name: b\r\nX-Original-Uri: /y?z\r\nX-Forwarded-For: 10.1.1.1\r\nConnection: close\r\n\r\n";
    let stranger = Site::start(plugin.clone(), SiteOptions::default()).await;
    stranger.raw(named).await;
    assert_eq!((a.1.requests.load(Ordering::SeqCst), b.1.requests.load(Ordering::SeqCst)), (1, 0));
    let trusted =
        Site::start(plugin, SiteOptions { trusted: &["127.0.0.0/8"], ..SiteOptions::default() }).await;
    let answer = trusted.raw(named).await;
    assert_eq!((a.1.requests.load(Ordering::SeqCst), b.1.requests.load(Ordering::SeqCst)), (1, 1));
    assert!(
        body(&answer).starts_with("GET /y?z ")
            && body(&answer).contains("x-forwarded-for: 10.1.1.1, 127.0.0.1\n"),
        "{answer}"
    );
    let missing = trusted
        .raw(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Resource-Name: c\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&missing), 404, "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_that_claim_a_host_has_it() {
    let (a, b) = (upstream::echo(async || ()).await, upstream::echo(async || ()).await);
    let site = Site::start(Plugin::at(a.0).awake("z", a.0), SiteOptions::default()).await;
    let claims = |resource: &mut scaler_types::Resource| {
        resource.hosts = vec!["z.test".to_owned(), "a.test".to_owned()];
        resource.replicas = 1;
        resource.endpoints = vec![crate::testing::plugin::endpoint(b.0)];
    };
    site.plugin.add("a", claims);
    crate::testing::until("it is known", || !site.dlx.resources.table().conflicts.is_empty()).await;
    site.get("z.test", "/").await;
    assert_eq!((a.1.requests.load(Ordering::SeqCst), b.1.requests.load(Ordering::SeqCst)), (1, 0));
    site.plugin.remove("z");
    crate::testing::until("it is gone", || site.dlx.resources.table().conflicts.is_empty()).await;
    site.get("z.test", "/").await;
    assert_eq!(b.1.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_the_resource_closed_between_two_requests_costs_nothing() {
    static CLOSED: AtomicUsize = AtomicUsize::new(0);
    let address = upstream::raw(|mut stream, _| async move {
        // It promises keep-alive, and then closes.
        if upstream::read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            drop(stream);
            CLOSED.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    for n in 0..50 {
        crate::testing::until("it has closed the last one", || CLOSED.load(Ordering::SeqCst) == n).await;
        assert_eq!(status(&site.get("a.test", "/").await), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_never_sent_is_held_until_the_endpoint_is_back() {
    let (address, echo) = upstream::echo(async || ()).await;
    // Listed as ready, but nothing listens there.
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![scaler_types::Endpoint {
            probe: scaler_types::Probe::Listed,
            ..scaler_types::Endpoint::new("127.0.0.1:1", "")
        }];
    });
    let site = Site::start(plugin, SiteOptions::default()).await;
    let handle = site.resource("a");
    let post = b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    let moved = async {
        crate::testing::until("held", || handle.queue.len() == 1).await;
        site.plugin
            .change("a", |resource| resource.endpoints = vec![crate::testing::plugin::endpoint(address)]);
    };
    let (answer, ()) = tokio::join!(site.raw(post), moved);
    assert_eq!(status(&answer), 200);
    assert!(body(&answer).contains("body Ok(3)"), "{answer}");
    assert_eq!(echo.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_protocols_copies_both_ways_and_is_in_flight() {
    let address = upstream::raw(|mut stream, _| async move {
        let head = upstream::read_head(&mut stream).await.unwrap();
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
            )
            .await
            .unwrap();
        let mut buffer = [0; 100];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..len]).await.unwrap();
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).asleep("a"), SiteOptions::default()).await;
    let mut stream = site.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let head = upstream::read_head(&mut stream).await.unwrap();
    assert_eq!(status(&head), 101, "{head}");
    let mut buffer = [0; 2];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hi");
    for _ in 0..3 {
        stream.write_all(b"ab").await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ab");
    }
    let handle = site.resource("a");
    assert_eq!(handle.counts.in_flight(), 1);
    drop(stream);
    crate::testing::until("it is over", || handle.counts.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_is_forwarded_and_held() {
    let (address, _) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).asleep("a"), SiteOptions::default()).await;
    let io = TokioIo::new(site.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let request =
            Request::post("http://a.test/p").body(Full::new(bytes::Bytes::from_static(b"abc"))).unwrap();
        sender.ready().await.unwrap();
        requests.spawn(sender.send_request(request));
    }
    for answer in requests.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(
            text.starts_with("POST /p HTTP/1.1\n")
                && text.contains("host: a.test\n")
                && text.contains("body Ok(3)"),
            "{text}"
        );
    }
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_draining_answers_close_and_new_connections_are_refused() {
    let (site, _) = awake().await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let head = upstream::read_head(&mut stream).await.unwrap();
    assert_eq!(header(&head, "connection"), None);
    let mut rest = vec![0; header(&head, "content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut rest).await.unwrap();
    site.draining.cancel();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((status(&answer), header(&answer, "connection")), (200, Some("close")));
    tokio::time::timeout(crate::testing::EVENT_TIMEOUT, site.dlx.server.slots.wait_until_empty())
        .await
        .expect("every connection ends");
}
