//! Ports of `--service-ports`: always bound, each for its current owner.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use daemon::listen::InheritedSockets;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use scaler_types::{Phase, Protocol, Record, TrafficMode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::testing::{
    EVENT_TIMEOUT, Site, SiteOptions, body, free_range, header, local,
    plugin::Plugin,
    raw_at, resets,
    service_ports::{
        awake_on_port, connect, on_service_ports, port, port_owner, read_name, start_name_server,
    },
    status, until, upstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_with_the_resource_that_had_its_port_when_it_came() {
    let ports = free_range(2);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.first, Protocol::Tcp));
    plugin.add("b", awake_on_port(start_name_server(b'b').await, ports.last, Protocol::Tcp));
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let mut before = connect(ports.first).await;
    assert_eq!(read_name(&mut before).await, b'a');
    // Both change at once for an observer, in no promised order.
    site.plugin.change("a", |resource| resource.ports.clear());
    site.plugin.change("b", |resource| resource.ports = port(ports.first, Protocol::Tcp));
    until("it is b's", || port_owner(&site, ports.first).as_deref() == Some("b")).await;
    let mut after = connect(ports.first).await;
    assert_eq!(read_name(&mut after).await, b'b');
    before.write_all(b"?").await.unwrap();
    assert_eq!(read_name(&mut before).await, b'a');
    let counts = |name| (site.resource(name).counts.in_flight(), site.resource(name).counts.total());
    assert_eq!((counts("a"), counts("b")), ((1, 1), (1, 1)));
    assert_eq!(site.dlx.ports.all().len(), 0, "bound once more");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_service_port_nothing_in_a_request_names_its_resource() {
    let ports = free_range(1);
    let (a, b) = (upstream::echo(async || ()).await, upstream::echo(async || ()).await);
    let plugin = Plugin::at(a.0).awake("b", b.0);
    plugin.add("a", awake_on_port(a.0, ports.first, Protocol::Http));
    let request = b"GET /own HTTP/1.1\r\nHost: b.test\r\nX-Resource-Name: demo/b\r\nX-Original-Uri: /other\r\nX-Forwarded-For: 10.1.1.1\r\nConnection: close\r\n\r\n";
    for (trusted, chain) in
        [(&[][..], "10.1.1.1"), (&["127.0.0.0/8"], "10.1.1.1"), (&["192.0.2.0/24"], "127.0.0.1")]
    {
        let site = Site::start(plugin.clone(), SiteOptions { trusted, ..on_service_ports(ports) }).await;
        let answer = raw_at(local(ports.first), request).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(body(&answer).starts_with("GET /own HTTP/1.1\n"), "{answer}");
        assert!(body(&answer).contains("host: b.test\n"), "{answer}");
        assert!(body(&answer).contains(&format!("x-forwarded-for: {chain}\n")), "{answer}");
        // The next one binds the same ports.
        site.draining.cancel();
        until("closed", || std::net::TcpListener::bind(("::", ports.first)).is_ok()).await;
    }
    assert_eq!((a.1.requests.load(Ordering::SeqCst), b.1.requests.load(Ordering::SeqCst)), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_resource_is_woken_by_a_peer_that_is_trusted_and_one_that_is_not() {
    for trusted in [&[][..], &["127.0.0.0/8"]] {
        let ports = free_range(1);
        let (address, _) = upstream::echo(async || ()).await;
        let plugin = Plugin::at(address);
        plugin.add("a", |resource| {
            resource.record.phase = Phase::Asleep;
            resource.ports = port(ports.first, Protocol::Http);
        });
        let site = Site::start(plugin, SiteOptions { trusted, ..on_service_ports(ports) }).await;
        let answer = site.get_at(ports.first, "/x").await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(header(&answer, "server-timing").is_some(), "{answer}");
    }
}

/// A client that speaks HTTP/2 to the resource speaks it to the DLX's port, too; the resource may know no other.
#[tokio::test(flavor = "multi_thread")]
async fn http2_and_grpc_reach_a_resource_that_speaks_nothing_else() {
    let ports = free_range(1);
    let (address, health) = crate::testing::health::health().await;
    health.status.store(1, Ordering::SeqCst);
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
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
    assert_eq!(health.requests.lock().unwrap().last().unwrap(), "GET http://shop/plain");
    assert_eq!(site.resource("a").counts.total(), 2);
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
        awake_on_port(address, ports.first, Protocol::Http)(resource);
        resource.endpoints[0].probe = scaler_types::Probe::Listed;
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let mut stream = connect(ports.first).await;
    let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    assert_eq!(status(&upstream::read_head(&mut stream).await.unwrap()), 101);
    assert_eq!(read_name(&mut stream).await, b'h');
    let handle = site.resource("a");
    assert_eq!(handle.counts.in_flight(), 1);
    drop(stream);
    until("it is over", || handle.counts.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_reach_every_port() {
    let ports = free_range(1);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.first, Protocol::Tcp));
    let _site = Site::start(plugin, on_service_ports(ports)).await;
    assert_eq!(read_name(&mut connect(ports.first).await).await, b'a');
    let mut six = TcpStream::connect(("::1", ports.first)).await.unwrap();
    assert_eq!(read_name(&mut six).await, b'a');
}

/// In every traffic mode and whatever the record says, a DLX serves what it gets, by the same gate.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_mode_when_asleep_is_served_in_every_phase_as_always_is() {
    for path in [TrafficMode::Always, TrafficMode::WhenAsleep] {
        for (state, replicas, wakes) in [
            (Phase::Active, 1, 0),
            (Phase::Draining, 1, 0),
            (Phase::Waking, 1, 0),
            (Phase::Asleep, 0, 1),
            (Phase::Failed, 0, 1),
            (Phase::Draining, 0, 1),
        ] {
            let case = format!("{path:?} {state} {replicas}");
            let ports = free_range(1);
            let (address, _) = upstream::echo(async || ()).await;
            let plugin = Plugin::at(address);
            plugin.add("a", |resource| {
                awake_on_port(address, ports.first, Protocol::Http)(resource);
                resource.traffic_mode = path;
                resource.record = Record { phase: state, ..Record::default() };
                resource.replicas = replicas;
                if replicas == 0 {
                    resource.endpoints.clear();
                }
            });
            let before = plugin.get("a");
            let site = Site::start(plugin, on_service_ports(ports)).await;
            assert_eq!(status(&site.get_at(ports.first, "/").await), 200, "{case}");
            assert_eq!(status(&site.get("a.test", "/").await), 200, "{case}");
            assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), wakes, "{case}");
            until(&case, || site.plugin.get("a").record.phase == Phase::Active).await;
            let written = site.plugin.get("a").version != before.version;
            assert_eq!(
                written,
                state != Phase::Active,
                "{case}: a drain attempt is reverted before a request is forwarded"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_port_outlives_its_resource_and_others_do_not() {
    let ports = free_range(2);
    let own = free_range(3).last;
    assert!(!ports.contains(own));
    let plugin = Plugin::at("127.0.0.1:1");
    let address = start_name_server(b'a').await;
    plugin.add("a", |resource| {
        awake_on_port(address, ports.first, Protocol::Tcp)(resource);
        resource.ports.extend(port(own, Protocol::Tcp));
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let ip = "127.0.0.1".parse().unwrap();
    let (own_ports, server, workers) =
        (site.dlx.ports.clone(), site.dlx.server.clone(), site.workers.clone());
    tokio::spawn(async move { own_ports.follow(server, workers, InheritedSockets::default(), ip).await });
    let bound = || {
        let all = site.dlx.ports.all();
        all.iter().map(|bound| (bound.identity.port.listen, bound.error.clone())).collect::<Vec<_>>()
    };
    until("the other one is bound", || bound() == [(own, None)]).await;
    for each in [ports.first, own] {
        assert_eq!(read_name(&mut connect(each).await).await, b'a');
    }
    site.plugin.remove("a");
    until("the other one is closed", || bound().is_empty()).await;
    until("refused", || std::net::TcpStream::connect(local(own)).is_err()).await;
    assert!(resets(local(ports.first)).await);
}

/// A connection of a resource that is gone is not kept: the port may belong to another one by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_resource_that_is_gone_ends_with_its_next_request() {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", awake_on_port(address, ports.first, Protocol::Http));
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let mut stream = connect(ports.first).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let head = upstream::read_head(&mut stream).await.unwrap();
    let mut rest = vec![0; header(&head, "content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut rest).await.unwrap();
    let io = TokioIo::new(connect(ports.first).await);
    let (mut sender, http2) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    let http2 = tokio::spawn(http2);
    // From its answer on the connection's resource is known; it speaks HTTP/1 only.
    let ask = Request::get("http://x/").body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(ask).await.unwrap().status(), 502);
    assert_eq!(site.resource("a").counts.total(), 2);
    site.plugin.remove("a");
    site.plugin.add("b", awake_on_port(address, ports.first, Protocol::Http));
    until("it is b's", || port_owner(&site, ports.first).as_deref() == Some("b")).await;
    timeout(EVENT_TIMEOUT, http2).await.expect("a GOAWAY").unwrap().unwrap();
    drop(sender);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(EVENT_TIMEOUT, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    assert_eq!((status(&answer), header(&answer, "connection")), (503, Some("close")), "{answer}");
    assert!(body(&answer).contains("resource_gone"), "{answer}");
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_claim_a_port_the_older_has_it() {
    let ports = free_range(1);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("b", awake_on_port(start_name_server(b'b').await, ports.first, Protocol::Tcp));
    let site = Site::start(plugin, on_service_ports(ports)).await;
    site.plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.first, Protocol::Tcp));
    until("it is known", || !site.dlx.resources.table().conflicts.is_empty()).await;
    assert_eq!(read_name(&mut connect(ports.first).await).await, b'b');
    let answer = serde_json::to_value(&site.dlx.resources.table().conflicts).unwrap();
    let expected = serde_json::json!([{"port": ports.first, "has": "demo/b", "wants": "demo/a"}]);
    assert_eq!(answer, expected);
    site.plugin.remove("b");
    until("it is a's", || port_owner(&site, ports.first).as_deref() == Some("a")).await;
}

/// Listeners take no slots of clients.
#[tokio::test(flavor = "multi_thread")]
async fn unused_ports_take_no_slots_of_clients() {
    let ports = free_range(8);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.last, Protocol::Tcp));
    let _site = Site::start(plugin, SiteOptions { max_connections: 1, ..on_service_ports(ports) }).await;
    for _ in 0..3 {
        assert_eq!(read_name(&mut connect(ports.last).await).await, b'a');
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_lists_ports_and_interceptions() {
    let ports = free_range(2);
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| {
        resource.ports = port(ports.first, Protocol::Http);
        resource.interception = Some(scaler_types::Interception {
            requested: true,
            backend: scaler_types::Backend::Dlx,
            dlxs: vec!["test-1".to_owned(), "other".to_owned()],
            ..Default::default()
        });
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let answer = crate::admin::resources::answer(site.dlx.clone(), Request::default()).await;
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["service_ports"], serde_json::json!({"first": ports.first, "last": ports.last}));
    let bound = serde_json::json!([{"listen": ports.first, "resource": "demo/a", "error": null}]);
    assert_eq!(answer["ports"], bound, "{answer}");
    let resource = &answer["resources"][0];
    assert_eq!(resource["ports"][0]["listen"], ports.first);
    assert_eq!(resource["interception"]["dlxs"], serde_json::json!(["test-1", "other"]));
    assert_eq!(resource["interception"]["backend"], "dlx");
    assert_eq!((&answer["interceptions"], &answer["stopping"]), (&1.into(), &serde_json::Value::Null));
}
