//! Ports of `--service-ports` without a known owner, and hostile clients on ports.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use scaler_types::{Phase, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::testing::{
    EVENT_TIMEOUT, Site, body, free_range, is_reset, local,
    plugin::{Plugin, endpoint},
    raw_at, resets,
    service_ports::{awake_on_port, connect, on_service_ports, port, read_name, start_name_server},
    status, until, upstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_to_an_unassigned_port_cost_one_list_and_are_reset() {
    let ports = free_range(2);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", awake_on_port(address, ports.first, Protocol::Http));
    let site = Arc::new(Site::start(plugin, on_service_ports(ports)).await);
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut waiting_for_owner = JoinSet::new();
    for _ in 0..1000 {
        waiting_for_owner.spawn(async move {
            let mut stream = connect(ports.last).await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
            is_reset(&mut stream).await
        });
    }
    until("they wait", || site.dlx.server.identifier.waiting_for_owner.available_permits() < 1024).await;
    // Other clients are served meanwhile.
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
    assert_eq!(waiting_for_owner.join_all().await, vec![true; 1000]);
    let lists = site.plugin.lists.load(Ordering::SeqCst) - lists;
    assert!((1..=10).contains(&lists), "{lists} lists");
    assert_eq!(site.dlx.metrics.unassigned.get(), 1000);
    assert_eq!(site.dlx.server.identifier.waiting_for_owner.available_permits(), 1024);
    assert_eq!(site.resource("a").counts.total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_for_an_owner_are_limited() {
    let ports = free_range(1);
    let site = Site::start(Plugin::at("127.0.0.1:1"), on_service_ports(ports)).await;
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    site.dlx.server.identifier.waiting_for_owner.forget_permits(usize::MAX);
    assert!(resets(local(ports.first)).await);
    assert_eq!(site.plugin.lists.load(Ordering::SeqCst), lists, "somebody waited");
    assert_eq!(site.dlx.metrics.unassigned.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_view_is_brought_up_to_date_by_one_list() {
    let ports = free_range(1);
    let site = Site::start(Plugin::at("127.0.0.1:1"), on_service_ports(ports)).await;
    site.plugin.stalled.send_replace(true);
    site.plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.first, Protocol::Tcp));
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(async move { read_name(&mut connect(ports.first).await).await });
    }
    assert_eq!(clients.join_all().await, [b'a'; 50]);
    let lists = site.plugin.lists.load(Ordering::SeqCst) - lists;
    assert!((1..=3).contains(&lists), "{lists} lists");
}

/// After a list that brought nothing there is a pause; connections meanwhile wait for the next list.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_assigned_right_after_a_miss_is_found() {
    let ports = free_range(2);
    let site = Site::start(Plugin::at("127.0.0.1:1"), on_service_ports(ports)).await;
    let lists = site.plugin.lists.load(Ordering::SeqCst);
    let mut missed = connect(ports.last).await;
    until("a miss", || site.plugin.lists.load(Ordering::SeqCst) > lists).await;
    site.plugin.stalled.send_replace(true);
    site.plugin.add("a", awake_on_port(start_name_server(b'a').await, ports.first, Protocol::Tcp));
    assert_eq!(read_name(&mut connect(ports.first).await).await, b'a');
    assert!(is_reset(&mut missed).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_400_and_wakes_nothing() {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
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
    // A client that begins as HTTP/2 and continues with something else.
    let mut stream = connect(ports.first).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    let mut rest = Vec::new();
    // An error is an end, too.
    let _ = timeout(EVENT_TIMEOUT, stream.read_to_end(&mut rest)).await.expect("an end");
    let handle = site.resource("a");
    assert_eq!((handle.counts.total(), handle.queue.len()), (0, 0));
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0, "woken by garbage");
}

/// A head that never ends wakes nothing, and a body that comes byte by byte while it is held delays no others.
#[tokio::test(flavor = "multi_thread")]
async fn slow_writers_delay_no_others() {
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
        resource.record.phase = Phase::Asleep;
        resource.ports = port(ports.first, Protocol::Http);
    });
    let site = Site::start(plugin, on_service_ports(ports)).await;
    let handle = site.resource("a");
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
    until("it is held", || handle.queue.len() == 1).await;
    slow.write_all(b"b").await.unwrap();
    assert_eq!((handle.queue.len(), handle.counts.in_flight()), (1, 0), "half a head is held, or counts");
    up.send_replace(true);
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
    slow.write_all(b"c").await.unwrap();
    let mut answer = String::new();
    timeout(EVENT_TIMEOUT, slow.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(body(&answer).ends_with("body Ok(3)\n"), "{answer}");
    assert_eq!(handle.counts.total(), 2);
    drop(heads);
}
