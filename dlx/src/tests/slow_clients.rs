//! Slow clients: which are closed, which are not, and that others are served meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
};

use crate::{
    client::Timeouts,
    testing::{Site, SiteOptions, header, plugin::Plugin, status, until, upstream},
};

/// The preface of HTTP/2.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Short and distinct from the defaults.
const SHORT: Duration = Duration::from_millis(300);

async fn site(address: SocketAddr, options: SiteOptions) -> Site {
    Site::start(Plugin::at(address).awake("a", address), options).await
}

fn stalling() -> SiteOptions {
    SiteOptions { timeouts: Timeouts { stall: SHORT, ..Timeouts::default() }, ..SiteOptions::default() }
}

/// A GET on a connection that is kept; the answer's status.
async fn get(client: &mut TcpStream) -> u16 {
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let head = tokio::time::timeout(crate::testing::EVENT_TIMEOUT, upstream::read_head(client))
        .await
        .expect("an answer");
    let head = head.unwrap();
    let length = header(&head, "content-length").unwrap().parse().unwrap();
    client.read_exact(&mut vec![0; length]).await.unwrap();
    status(&head)
}

/// Waits until the DLX closes the connection; what was received before.
async fn end(client: &mut TcpStream) -> String {
    let mut received = Vec::new();
    // An error: it was reset.
    let _ = tokio::time::timeout(crate::testing::EVENT_TIMEOUT / 2, client.read_to_end(&mut received))
        .await
        .expect("an end");
    String::from_utf8_lossy(&received).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_closed_and_an_idle_connection_is_not() {
    let (address, _) = upstream::echo(async || ()).await;
    let timeouts = Timeouts { head: SHORT, ..Timeouts::default() };
    let site = site(address, SiteOptions { timeouts, ..SiteOptions::default() }).await;
    let (mut idle, mut silent) = (site.connect().await, site.connect().await);
    assert_eq!(get(&mut idle).await, 200);
    for half in [&b"GET / HTTP/1.1\r\nHos"[..], b"PRI * HTTP/2.0\r\n\r\nS"] {
        let mut client = site.connect().await;
        client.write_all(half).await.unwrap();
        assert_eq!(end(&mut client).await, "");
    }
    // The head of a later request.
    let mut later = site.connect().await;
    assert_eq!(get(&mut later).await, 200);
    later.write_all(b"GET").await.unwrap();
    assert_eq!(end(&mut later).await, "");
    assert_eq!((get(&mut idle).await, get(&mut silent).await), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_in_the_end() {
    let (address, _) = upstream::echo(async || ()).await;
    // On a busy machine long enough for the first request.
    let timeouts = Timeouts { idle: 10 * SHORT, ..Timeouts::default() };
    let site = site(address, SiteOptions { timeouts, ..SiteOptions::default() }).await;
    let (mut used, mut silent) = (site.connect().await, site.connect().await);
    assert_eq!(get(&mut used).await, 200);
    let mut http2 = site.connect().await;
    http2.write_all(HTTP2).await.unwrap();
    end(&mut used).await;
    end(&mut silent).await;
    end(&mut http2).await;
}

/// Silent connections and half heads are closed for clients that send; the longest idle first.
#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_lock_no_others_out() {
    let (address, _) = upstream::echo(async || ()).await;
    // None of them is closed by a timeout.
    let timeouts = Timeouts { head: Duration::from_secs(3600), ..Timeouts::default() };
    let site = site(address, SiteOptions { max_connections: 4, timeouts, ..SiteOptions::default() }).await;
    let mut oldest = site.connect().await;
    assert_eq!(get(&mut oldest).await, 200);
    let mut others = Vec::new();
    for n in 0..20 {
        let mut client = site.connect().await;
        if n % 7 == 1 {
            // It ignores GOAWAY.
            client.write_all(HTTP2).await.unwrap();
        } else if n % 2 == 0 {
            client.write_all(b"GET / HTT").await.unwrap();
        }
        others.push(client);
    }
    for _ in 0..3 {
        let mut new = site.connect().await;
        assert_eq!(get(&mut new).await, 200);
        others.push(new);
    }
    end(&mut oldest).await;
    assert!(site.dlx.server.slots.closed_for_others() > 0);
    assert_eq!(site.ready(), Ok(()));
    // The newest are left.
    assert_eq!(get(others.last_mut().unwrap()).await, 200);
}

/// A busy connection is not closed: others wait, and the readiness says so.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_connections_busy_readiness_says_what_is_wrong() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, echo) = upstream::echo(async || MAY.acquire().await.unwrap().forget()).await;
    let site = site(address, SiteOptions { max_connections: 2, ..SiteOptions::default() }).await;
    let mut busy = [site.connect().await, site.connect().await];
    for client in &mut busy {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    }
    until("both are answered", || echo.serving.load(Ordering::SeqCst) == 2).await;
    let mut waits = site.connect().await;
    waits.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    until("it says so", || site.ready().is_err()).await;
    let why = site.ready().unwrap_err();
    assert!(why.starts_with("new connections wait: 2 clients are connected, "), "{why}");
    // One is done and idle: its slot goes to the other.
    MAY.add_permits(1);
    until("the third is served", || echo.requests.load(Ordering::SeqCst) == 3).await;
    assert_eq!(site.ready(), Ok(()));
    MAY.add_permits(2);
    assert!(upstream::read_head(&mut waits).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_is_answered_408_and_a_silent_application_is_not() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let silent = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            // It neither reads the body nor answers.
            MAY.acquire().await.unwrap().forget();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
        }
    })
    .await;
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).awake("a", address).awake("b", silent);
    let site = Site::start(plugin, stalling()).await;
    let handle = site.resource("a");
    let mut large = site.connect().await;
    large.write_all(b"POST / HTTP/1.1\r\nHost: b.test\r\nContent-Length: 9000000\r\n\r\n").await.unwrap();
    // Until no buffer takes more: the application does not read.
    let filling = tokio::spawn(async move {
        let _ = large.write_all(&vec![0; 9_000_000]).await;
        large
    });
    let mut small = site.connect().await;
    small.write_all(b"POST / HTTP/1.1\r\nHost: b.test\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    until("both are in flight", || site.resource("b").counts.in_flight() == 2).await;
    for stalls in [
        "Content-Length: 100\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n10\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = site.connect().await;
        client.write_all(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{stalls}").as_bytes()).await.unwrap();
        let answer = end(&mut client).await;
        assert_eq!(status(&answer), 408, "{stalls:?}: {answer}");
        until("it is in flight no more", || handle.counts.in_flight() == 0).await;
    }
    // These have taken longer than the timeout.
    assert_eq!(site.resource("b").counts.in_flight(), 2);
    MAY.add_permits(2);
    let head = upstream::read_head(&mut small).await.unwrap();
    assert_eq!(status(&head), 200);
    drop(filling.await.unwrap());
}

/// Sends `first`, and `second` when it may.
async fn in_two(first: &'static [u8], second: &'static [u8], may: &'static Semaphore) -> SocketAddr {
    upstream::raw(move |mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            stream.write_all(first).await.unwrap();
            may.acquire().await.unwrap().forget();
            stream.write_all(second).await.unwrap();
        }
    })
    .await
}

/// Sends without an end.
async fn endless() -> (SocketAddr, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let counts = ended.clone();
    let address = upstream::raw(move |mut stream, _| {
        let ended = counts.clone();
        async move {
            if upstream::read_head(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
                while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                ended.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, ended)
}

/// Silent streams stay; a client that does not read what there is does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_closed_and_silent_streams_are_not() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let events = in_two(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n", b"data: 2\n\n", &MAY).await;
    let socket = in_two(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi",
        b"ho",
        &MAY,
    )
    .await;
    let (large, ended) = endless().await;
    let plugin = Plugin::at(large).awake("a", large).awake("events", events).awake("socket", socket);
    let site = Site::start(plugin, stalling()).await;
    let mut sse = site.connect().await;
    sse.write_all(b"GET / HTTP/1.1\r\nHost: events.test\r\n\r\n").await.unwrap();
    upstream::read_head(&mut sse).await.unwrap();
    let mut websocket = site.connect().await;
    websocket
        .write_all(
            b"GET / HTTP/1.1\r\nHost: socket.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    upstream::read_head(&mut websocket).await.unwrap();
    for n in 1..=2 {
        let mut takes_nothing = site.connect().await;
        takes_nothing.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        until("it is given up", || ended.load(Ordering::SeqCst) == n).await;
        until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
    }
    MAY.add_permits(2);
    let mut seen = [0; 64];
    until_read(&mut sse, &mut seen, b"data: 2").await;
    until_read(&mut websocket, &mut seen, b"ho").await;
}

/// A part of the answer is left in the kernel, and the application sends nothing more: no task waits to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_a_small_answer_is_closed() {
    static LITTLE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let silent = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.write_all(&LITTLE).await.unwrap();
            // Until the DLX closes it.
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let site = site(silent, stalling()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(site.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let handle = site.resource("a");
    until("it was asked for", || handle.counts.total() == 1).await;
    until("it is in flight no more", || handle.counts.in_flight() == 0).await;
}

async fn until_read(stream: &mut TcpStream, room: &mut [u8], wanted: &[u8]) {
    let mut all = Vec::new();
    while !all.windows(wanted.len()).any(|part| part == wanted) {
        let len = stream.read(room).await.unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&room[..len]);
    }
}

/// A server of HTTP/2 that sends back what comes, stream by stream.
async fn http2_echo() -> SocketAddr {
    upstream::raw(|stream, _| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut from = request.into_body();
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                while let Some(Ok(data)) = from.data().await {
                    from.flow_control().release_capacity(data.len()).unwrap();
                    to.send_data(data, false).unwrap();
                }
            });
        }
    })
    .await
}

/// One stream's window is 0: that stream ends. The others of its connection, idle on both sides, go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_reads_nothing_ends_alone() {
    let (large, ended) = endless().await;
    let echo = http2_echo().await;
    let site = Site::start(Plugin::at(large).awake("a", large).awake("echo", echo), stalling()).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1024).initial_connection_window_size(1 << 20);
    let (mut client, connection) = builder.handshake::<_, Bytes>(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let call =
        Request::post("http://echo.test/").header("content-type", "application/grpc").body(()).unwrap();
    let (answer, mut to) = client.send_request(call, false).unwrap();
    to.send_data(Bytes::from_static(b"one"), false).unwrap();
    let mut from = answer.await.unwrap().into_body();
    assert_eq!(from.data().await.unwrap().unwrap(), "one");
    from.flow_control().release_capacity(3).unwrap();

    let get = Request::get("http://a.test/").body(()).unwrap();
    let (answer, _) = client.send_request(get, true).unwrap();
    let mut takes_nothing = answer.await.unwrap().into_body();
    until("it is given up", || ended.load(Ordering::SeqCst) == 1).await;
    until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
    let error = loop {
        let data = tokio::time::timeout(crate::testing::EVENT_TIMEOUT, takes_nothing.data());
        match data.await.expect("an end") {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(error.is_some_and(|error| error.is_err_and(|error| error.is_reset())));

    to.send_data(Bytes::from_static(b"two"), false).unwrap();
    let two = tokio::time::timeout(crate::testing::EVENT_TIMEOUT, from.data()).await.expect("it goes on");
    assert_eq!(two.unwrap().unwrap(), "two");
    assert_eq!(site.resource("echo").counts.in_flight(), 1);
}
