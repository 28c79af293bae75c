//! Hostile and broken clients and resources.

use std::{
    net::SocketAddr,
    sync::{Arc, Barrier},
};

use scaler_types::{Resource, ResourceId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    plugin::PluginSource,
    state::{ResourceHandle, ResourceKey},
    testing::{Site, SiteOptions, body, header, plugin::Plugin, status, until, upstream},
};

/// A resource that answers every request with these bytes, and keeps the connection.
async fn answering(answer: &'static [u8]) -> Site {
    let address = upstream::raw(move |mut stream, _| async move {
        while upstream::read_head(&mut stream).await.is_some() {
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unrequested_protocol_switch_is_a_502() {
    let site =
        answering(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhi").await;
    for _ in 0..2 {
        let answer = site.get("a.test", "/").await;
        assert_eq!(status(&answer), 502, "{answer}");
    }
    until("nothing in flight", || site.resource("a").counts.in_flight() == 0).await;
}

/// The chunks say where the body ends: a length beside them would cut it, and what is left would be the next answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_a_resources_chunks_does_not_cut_its_answer() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            [..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let site = answering(answer).await;
        let answer = site.get("a.test", "/").await;
        assert_eq!(header(&answer, "content-length"), None, "{answer}");
        assert_eq!(body(&answer), "5\r\nhello\r\n0\r\n\r\n", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_transfer_codings_are_not_forwarded_as_plain_bodies() {
    let site = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n...").await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 502, "{answer}");
    let request =
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = site.raw(request).await;
    assert_eq!(status(&answer), 400, "{answer}");
}

/// The client does not wait for the end of a head that is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_speaks_another_protocol_is_a_502() {
    let site = answering(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 502, "{answer}");
}

/// Two answers to one request: the second is discarded.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_is_discarded() {
    let address = upstream::raw(|mut stream, number| async move {
        let mut answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2";
        if number > 0 {
            answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3";
        }
        while upstream::read_head(&mut stream).await.is_some() {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    // On one connection: the same thread, the same pool.
    let answers = site
        .raw(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answers.ends_with("\r\n\r\n3") && !answers.contains("\r\n\r\n2"), "{answers}");
}

/// Half of a second request behind the first: the first one's answer does not wait for the other half.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let site = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let mut client = site.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HT").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(client.read_u8().await.unwrap());
    }
    client.write_all(b"TP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer).matches("hello").count(), 2);
}

/// A request that leaves flight in every way a client can think of: nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_leaves_a_request_in_flight() {
    for relay in [true, false] {
        leave_in_every_way(relay).await;
    }
}

async fn leave_in_every_way(relay: bool) {
    let address = upstream::raw(|mut stream, _| async move {
        // Says that much comes and never ends it; reads nothing more.
        if upstream::read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegin").await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let site =
        Site::start(Plugin::at(address).awake("a", address), SiteOptions { relay, ..SiteOptions::default() })
            .await;
    let handle = site.resource("a");
    for request in [
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let mut client = site.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"begin") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert_eq!(handle.counts.in_flight(), 1, "{request:?}");
        drop(client);
        until(request, || handle.counts.in_flight() == 0).await;
    }
    assert_eq!((handle.queue.len(), handle.queue.bytes()), (0, 0));
}

/// The client's fault, not the resource's.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_client_breaks_is_not_counted_against_the_resource() {
    let (address, _) = upstream::echo(async || ()).await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for broken in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcde\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "8000000000000000\r\nabc",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
    ] {
        let answer = site.raw(format!("{head}3\r\nabc\r\n{broken}").as_bytes()).await;
        assert_eq!(status(&answer), 400, "{broken:?}: {answer}");
        assert_eq!(header(&answer, "connection"), Some("close"), "{answer}");
    }
    let mut client = site.connect().await;
    client.write_all(format!("{head}3\r\nab").as_bytes()).await.unwrap();
    until("it has come", || site.resource("a").counts.total() == 7).await;
    drop(client);
    until("it has left", || site.resource("a").counts.in_flight() == 0).await;
    assert_eq!(site.resource("a").counts.classes(), [0; 5]);
}

/// Two plugins list at the same moment: each table is built from both lists, or replaced by such a table.
#[tokio::test(flavor = "multi_thread")]
async fn tables_built_at_the_same_moment_lose_no_host() {
    let plugin = Plugin::at("127.0.0.1:1");
    let site = Site::start(plugin.clone(), SiteOptions::default()).await;
    let dlx = &site.dlx;
    let source = PluginSource::new(plugin, Arc::default(), Default::default());
    for round in 0..300 {
        let names = [format!("x{round}"), format!("y{round}")];
        let (both, source) = (&Barrier::new(2), &source);
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || {
                    let key = ResourceKey { kind: "test".into(), id: ResourceId::new("demo", name) };
                    let handle = || {
                        ResourceHandle::new(
                            key.clone(),
                            dlx.resources.next_listing(),
                            source.clone(),
                            dlx.shared.clone(),
                        )
                    };
                    let (handle, _) = dlx.resources.get_or(&key, handle);
                    let mut resource = Resource::new(key.id.clone());
                    resource.hosts.push(format!("{name}.test"));
                    both.wait();
                    handle.observe(source, resource);
                    dlx.plugins.rebuild_table();
                });
            }
        });
        let table = dlx.resources.table();
        for name in names {
            assert!(
                table.by_host(&format!("{name}.test")).is_some(),
                "round {round}: {name}'s host is nobody's"
            );
        }
    }
}

/// `tr` of /proc/net/tcp: 2 is the keep-alive timer.
fn timer(local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let form = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port())
        }
        SocketAddr::V6(_) => unreachable!("IPv4 alone"),
    };
    let (local, remote) = (form(local), form(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str()))
            .then(|| fields[5].split(':').next().unwrap().to_owned())
    })
}

/// A peer without power closes nothing. The kernel probes both ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_peer_is_detected() {
    let (sender, mut upstreams) = tokio::sync::mpsc::unbounded_channel();
    let address = upstream::raw(move |mut stream: TcpStream, _| {
        let sender = sender.clone();
        async move {
            // The probe says nothing.
            while upstream::read_head(&mut stream).await.is_some() {
                sender.send((stream.local_addr().unwrap(), stream.peer_addr().unwrap())).unwrap();
            }
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
    let mut client = site.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let (resource, dlx) = upstreams.recv().await.unwrap();
    let client = client.local_addr().unwrap();
    // Until what was sent is acknowledged another timer runs.
    until("the client to be watched", || timer(site.address, client).as_deref() == Some("02")).await;
    until("the resource to be watched", || timer(dlx, resource).as_deref() == Some("02")).await;
}

/// Frames of 17 bytes that the HTTP library warns of, each: the log gets few lines of them, and what was left out is counted.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_protocol_do_not_fill_the_log() {
    const FRAMES: usize = 2000;
    daemon::telemetry::init(daemon::telemetry::LogFormat::Text);
    let site = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..FRAMES {
        // An answer to a ping that was not sent.
        bytes.extend_from_slice(b"\0\0\x08\x06\x01\0\0\0\0 no ping");
    }
    site.connect().await.write_all(&bytes).await.unwrap();
    let left_out = || {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &daemon::telemetry::registry("dlx")).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix("scaler_log_lines_left_out_total "));
        line.unwrap().parse::<usize>().unwrap()
    };
    until("all frames were read", || left_out() > FRAMES / 2).await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
}
