//! Ports of `--service-ports`: bound all the while, each for whoever has it at the moment.

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use daemon::listen::Handed;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use scaler_types::{Path, Port, Protocol, Resource, Row, ServicePorts, State};
use support::{
    Given, PATIENCE, Site, body, free_range, header, is_reset, local,
    plugin::{Plugin, endpoint},
    raw_at, status, until, upstream,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

fn port(listen: u16, protocol: Protocol) -> Vec<Port> {
    vec![Port { listen, target: None, protocol }]
}

fn given(ports: ServicePorts) -> Given {
    Given { service_ports: Some(ports), ..Given::default() }
}

/// Awake at `address`, and reached by this port.
fn at(address: SocketAddr, listen: u16, protocol: Protocol) -> impl FnOnce(&mut Resource) {
    move |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
        resource.ports = port(listen, protocol);
    }
}

/// A server that says its name to each connection, and again for each byte it gets.
async fn named(name: u8) -> SocketAddr {
    upstream::raw(move |mut stream, _| async move {
        let mut byte = [0];
        while stream.write_all(&[name]).await.is_ok() && stream.read_exact(&mut byte).await.is_ok() {}
    })
    .await
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(local(port)).await.unwrap()
}

async fn says(stream: &mut TcpStream) -> u8 {
    timeout(PATIENCE, stream.read_u8()).await.expect("a name").unwrap()
}

/// Whose the port is.
fn owner(site: &Site, port: u16) -> Option<String> {
    site.dlx.table.load().by_port(port).map(|identity| identity.entry.key.id.name.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_with_the_resource_that_had_its_port_when_it_came() {
    let ports = free_range(2);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", at(named(b'a').await, ports.first, Protocol::Tcp));
    plugin.add("b", at(named(b'b').await, ports.last, Protocol::Tcp));
    let site = Site::start(plugin, given(ports)).await;
    let mut before = connect(ports.first).await;
    assert_eq!(says(&mut before).await, b'a');
    // Both are moved at once as far as anybody can see, in an order that nobody promises.
    site.plugin.change("a", |resource| resource.ports.clear());
    site.plugin.change("b", |resource| resource.ports = port(ports.first, Protocol::Tcp));
    until("it is b's", || owner(&site, ports.first).as_deref() == Some("b")).await;
    let mut after = connect(ports.first).await;
    assert_eq!(says(&mut after).await, b'b');
    before.write_all(b"?").await.unwrap();
    assert_eq!(says(&mut before).await, b'a');
    let counts = |name| (site.entry(name).counts.in_flight(), site.entry(name).counts.total());
    assert_eq!((counts("a"), counts("b")), ((1, 1), (1, 1)));
    assert_eq!(site.dlx.ports.all().len(), 0, "bound once more");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_says_for_whom_it_is() {
    let ports = free_range(1);
    let (a, b) = (upstream::echo(async || ()).await, upstream::echo(async || ()).await);
    let plugin = Plugin::at(a.0).awake("b", b.0);
    plugin.add("a", at(a.0, ports.first, Protocol::Http));
    let request = b"GET /own HTTP/1.1\r\nHost: b.test\r\nX-Resource-Name: demo/b\r\nX-Original-Uri: /other\r\nX-Forwarded-For: 10.1.1.1\r\nConnection: close\r\n\r\n";
    for (trusted, chain) in [(&[][..], "127.0.0.1"), (&["127.0.0.0/8"], "10.1.1.1, 127.0.0.1")] {
        let site = Site::start(plugin.clone(), Given { trusted, ..given(ports) }).await;
        let answer = raw_at(local(ports.first), request).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(body(&answer).starts_with("GET /own HTTP/1.1\n"), "{answer}");
        assert!(body(&answer).contains("host: b.test\n"), "{answer}");
        assert!(body(&answer).contains(&format!("x-forwarded-for: {chain}\n")), "{answer}");
        // The next one binds the same ports.
        site.draining.cancel();
        until("closed", || std::net::TcpListener::bind(("::", ports.first)).is_ok()).await;
    }
    assert_eq!((a.1.requests.load(Ordering::SeqCst), b.1.requests.load(Ordering::SeqCst)), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_resource_is_woken_by_a_peer_that_is_trusted_and_one_that_is_not() {
    for trusted in [&[][..], &["127.0.0.0/8"]] {
        let ports = free_range(1);
        let (address, _) = upstream::echo(async || ()).await;
        let plugin = Plugin::at(address);
        plugin.add("a", |resource| {
            resource.row.state = State::Asleep;
            resource.ports = port(ports.first, Protocol::Http);
        });
        let site = Site::start(plugin, Given { trusted, ..given(ports) }).await;
        let answer = site.get_at(ports.first, "/x").await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(header(&answer, "server-timing").is_some(), "{answer}");
    }
}

/// Whoever spoke HTTP/2 to the resource itself speaks it to its port here; the resource may know nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn http2_and_grpc_reach_a_resource_that_speaks_nothing_else() {
    let ports = free_range(1);
    let (address, health) = support::health::health().await;
    health.status.store(1, Ordering::SeqCst);
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.row.state = State::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, given(ports)).await;
    let io = TokioIo::new(connect(ports.first).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let question = Bytes::from_static(b"\0\0\0\0\x06\x0a\x04shop");
    let call = Request::post("http://shop/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(question))
        .unwrap();
    let answer = sender.send_request(call).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes().as_ref(), [0, 0, 0, 0, 2, 8, 1]);
    let plain = Request::get("http://shop/plain").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(sender.send_request(plain).await.unwrap().status(), 200);
    assert_eq!(health.questions.lock().unwrap().last().unwrap(), "GET http://shop/plain");
    assert_eq!(site.entry("a").counts.total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_switched_and_in_flight() {
    let ports = free_range(1);
    let address = upstream::raw(|mut stream, _| async move {
        let head = upstream::read_head(&mut stream).await.unwrap();
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        let switch =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
        stream.write_all(switch).await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    // Not probed: a probe would be another connection.
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        at(address, ports.first, Protocol::Http)(resource);
        resource.endpoints[0].probe = scaler_types::Probe::Listed;
    });
    let site = Site::start(plugin, given(ports)).await;
    let mut stream = connect(ports.first).await;
    let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    assert_eq!(status(&upstream::read_head(&mut stream).await.unwrap()), 101);
    assert_eq!(says(&mut stream).await, b'h');
    let entry = site.entry("a");
    assert_eq!(entry.counts.in_flight(), 1);
    drop(stream);
    until("it is over", || entry.counts.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_reach_every_port() {
    let ports = free_range(1);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", at(named(b'a').await, ports.first, Protocol::Tcp));
    let _site = Site::start(plugin, given(ports)).await;
    assert_eq!(says(&mut connect(ports.first).await).await, b'a');
    let mut six = TcpStream::connect(("::1", ports.first)).await.unwrap();
    assert_eq!(says(&mut six).await, b'a');
}

/// On every path, whatever the row says: what a DLX gets it serves, by the same gate.
#[tokio::test(flavor = "multi_thread")]
async fn direct_is_served_in_every_state_as_always_is() {
    for path in [Path::Always, Path::Direct] {
        for (state, replicas, wakes) in [
            (State::Active, 1, 0),
            (State::Draining, 1, 0),
            (State::Waking, 1, 0),
            (State::Asleep, 0, 1),
            (State::Failed, 0, 1),
            (State::Draining, 0, 1),
        ] {
            let case = format!("{path:?} {state} {replicas}");
            let ports = free_range(1);
            let (address, _) = upstream::echo(async || ()).await;
            let plugin = Plugin::at(address);
            plugin.add("a", |resource| {
                at(address, ports.first, Protocol::Http)(resource);
                resource.path = path;
                resource.row = Row { state, ..Row::default() };
                resource.replicas = replicas;
                if replicas == 0 {
                    resource.endpoints.clear();
                }
            });
            let before = plugin.get("a");
            let site = Site::start(plugin, given(ports)).await;
            assert_eq!(status(&site.get_at(ports.first, "/").await), 200, "{case}");
            assert_eq!(status(&site.get("a.test", "/").await), 200, "{case}");
            assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), wakes, "{case}");
            until(&case, || site.plugin.get("a").row.state == State::Active).await;
            let written = site.plugin.get("a").version != before.version;
            assert_eq!(written, state != State::Active, "{case}: a fence is reverted before anything goes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_has_is_asked_for_once_and_reset_for_a_thousand() {
    let ports = free_range(2);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", at(address, ports.first, Protocol::Http));
    let site = Arc::new(Site::start(plugin, given(ports)).await);
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut strangers = JoinSet::new();
    for _ in 0..1000 {
        strangers.spawn(async move {
            let mut stream = connect(ports.last).await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
            is_reset(&mut stream).await
        });
    }
    until("they wait", || site.dlx.strangers.available_permits() < 1024).await;
    // Everybody else is served meanwhile.
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
    assert_eq!(strangers.join_all().await, vec![true; 1000]);
    let lists = site.plugin.lists.load(Ordering::SeqCst) - lists;
    assert!((1..=10).contains(&lists), "{lists} lists");
    assert_eq!(site.dlx.shared.metrics.unassigned_so_far(), 1000);
    assert_eq!(site.dlx.strangers.available_permits(), 1024);
    assert_eq!(site.entry("a").counts.total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_wait_for_an_owner_than_may() {
    let ports = free_range(1);
    let site = Site::start(Plugin::at("127.0.0.1:1"), given(ports)).await;
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    site.dlx.strangers.forget_permits(usize::MAX);
    // So soon that it may be told to the call that connects.
    match TcpStream::connect(local(ports.first)).await {
        Ok(mut stream) => assert!(is_reset(&mut stream).await),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(site.plugin.lists.load(Ordering::SeqCst), lists, "somebody waited");
    assert_eq!(site.dlx.shared.metrics.unassigned_so_far(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_lags_is_made_up_for_by_one_list() {
    let ports = free_range(1);
    let site = Site::start(Plugin::at("127.0.0.1:1"), given(ports)).await;
    site.plugin.stalled.send_replace(true);
    site.plugin.add("a", at(named(b'a').await, ports.first, Protocol::Tcp));
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(async move { says(&mut connect(ports.first).await).await });
    }
    assert_eq!(clients.join_all().await, [b'a'; 50]);
    let lists = site.plugin.lists.load(Ordering::SeqCst) - lists;
    assert!((1..=3).contains(&lists), "{lists} lists");
}

/// A list that brought nothing is not asked for again at once; who comes then waits for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_given_right_after_a_miss_is_found() {
    let ports = free_range(2);
    let site = Site::start(Plugin::at("127.0.0.1:1"), given(ports)).await;
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut missed = connect(ports.last).await;
    until("a miss", || site.plugin.lists.load(Ordering::SeqCst) > lists).await;
    site.plugin.stalled.send_replace(true);
    site.plugin.add("a", at(named(b'a').await, ports.first, Protocol::Tcp));
    assert_eq!(says(&mut connect(ports.first).await).await, b'a');
    assert!(is_reset(&mut missed).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_port_outlives_its_resource_and_others_do_not() {
    let ports = free_range(2);
    let own = free_range(3).last;
    assert!(!ports.contains(own));
    let plugin = Plugin::at("127.0.0.1:1");
    let address = named(b'a').await;
    plugin.add("a", |resource| {
        at(address, ports.first, Protocol::Tcp)(resource);
        resource.ports.extend(port(own, Protocol::Tcp));
    });
    let site = Site::start(plugin, given(ports)).await;
    let ip = "127.0.0.1".parse().unwrap();
    tokio::spawn(dlx::tcp::follow(site.dlx.clone(), site.workers.clone(), Handed::default(), ip));
    let bound = || {
        let all = site.dlx.ports.all();
        all.iter().map(|bound| (bound.identity.port.listen, bound.error.clone())).collect::<Vec<_>>()
    };
    until("the other one is bound", || bound() == [(own, None)]).await;
    for each in [ports.first, own] {
        assert_eq!(says(&mut connect(each).await).await, b'a');
    }
    site.plugin.remove("a");
    until("the other one is closed", || bound().is_empty()).await;
    until("refused", || std::net::TcpStream::connect(local(own)).is_err()).await;
    assert!(is_reset(&mut connect(ports.first).await).await);
}

/// A connection of a resource that is gone is not kept: the port may be somebody else's by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_resource_that_is_gone_ends_with_its_next_request() {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", at(address, ports.first, Protocol::Http));
    let site = Site::start(plugin, given(ports)).await;
    let mut stream = connect(ports.first).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let head = upstream::read_head(&mut stream).await.unwrap();
    let mut rest = vec![0; header(&head, "content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut rest).await.unwrap();
    let io = TokioIo::new(connect(ports.first).await);
    let (sender, http2) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    let http2 = tokio::spawn(http2);
    site.plugin.remove("a");
    site.plugin.add("b", at(address, ports.first, Protocol::Http));
    until("it is b's", || owner(&site, ports.first).as_deref() == Some("b")).await;
    timeout(PATIENCE, http2).await.expect("told to go away").unwrap().unwrap();
    drop(sender);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    assert_eq!((status(&answer), header(&answer, "connection")), (503, Some("close")), "{answer}");
    assert!(body(&answer).contains("the resource is gone"), "{answer}");
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_claim_a_port_the_older_has_it() {
    let ports = free_range(1);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("b", at(named(b'b').await, ports.first, Protocol::Tcp));
    let site = Site::start(plugin, given(ports)).await;
    site.plugin.add("a", at(named(b'a').await, ports.first, Protocol::Tcp));
    until("it is known", || !site.dlx.table.load().conflicts.is_empty()).await;
    assert_eq!(says(&mut connect(ports.first).await).await, b'b');
    let told = serde_json::to_value(&site.dlx.table.load().conflicts).unwrap();
    let expected = serde_json::json!([{"port": ports.first, "has": "demo/b", "wants": "demo/a"}]);
    assert_eq!(told, expected);
    site.plugin.remove("b");
    until("it is a's", || owner(&site, ports.first).as_deref() == Some("a")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_wakes_nobody_and_is_told_so() {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.row.state = State::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, given(ports)).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = raw_at(local(ports.first), garbage).await;
        assert!(answer.is_empty() || status(&answer) == 400, "{garbage:?}: {answer}");
    }
    // One that says it is HTTP/2 and goes on with something else.
    let mut stream = connect(ports.first).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    let mut rest = Vec::new();
    // An error is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end");
    let entry = site.entry("a");
    assert_eq!((entry.counts.total(), entry.queue.len()), (0, 0));
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0, "woken by garbage");
}

/// A head that never ends wakes nobody, and a body that comes byte by byte while it is held holds up nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dribble_hold_up_nobody() {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let (up, may) = tokio::sync::watch::channel(false);
    let plugin = Plugin::waking(move |_| match *may.borrow() {
        true => Ok(vec![endpoint(address)]),
        false => Err(scaler_types::ScaleError::Retry {
            after: Duration::from_millis(10),
            reason: "not yet".to_owned(),
        }),
    });
    plugin.add("a", |resource| {
        resource.row.state = State::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, given(ports)).await;
    let entry = site.entry("a");
    let mut heads = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(ports.first).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        heads.push(stream);
    }
    let mut slow = connect(ports.first).await;
    slow.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\na")
        .await
        .unwrap();
    until("it is held", || entry.queue.len() == 1).await;
    slow.write_all(b"b").await.unwrap();
    assert_eq!((entry.queue.len(), entry.counts.in_flight()), (1, 0), "half a head is held, or counts");
    up.send_replace(true);
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
    slow.write_all(b"c").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, slow.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(body(&answer).ends_with("body Ok(3)\n"), "{answer}");
    assert_eq!(entry.counts.total(), 2);
    drop(heads);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_ports_and_route() {
    let ports = free_range(2);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| {
        resource.ports = port(ports.first, Protocol::Http);
        resource.route = Some(scaler_types::Route {
            asked: true,
            leads: scaler_types::Leads::Dlx,
            dlxs: vec!["test-1".to_owned(), "other".to_owned()],
            ..Default::default()
        });
    });
    let site = Site::start(plugin, given(ports)).await;
    let told = dlx::admin::resources::answer(site.dlx.clone(), Request::default()).await;
    let told = told.into_body().collect().await.unwrap().to_bytes();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["service_ports"], serde_json::json!({"first": ports.first, "last": ports.last}));
    let bound = serde_json::json!([{"listen": ports.first, "resource": "demo/a", "error": null}]);
    assert_eq!(told["ports"], bound, "{told}");
    let resource = &told["resources"][0];
    assert_eq!(resource["ports"][0]["listen"], ports.first);
    assert_eq!(resource["route"]["dlxs"], serde_json::json!(["test-1", "other"]));
    assert_eq!(resource["route"]["leads"], "dlx");
    assert_eq!((&told["routes"], &told["stopping"]), (&1.into(), &serde_json::Value::Null));
}
