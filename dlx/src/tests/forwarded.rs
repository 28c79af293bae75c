//! The headers about the client: on its own port a resource gets them as without the DLX.

use std::net::{IpAddr, SocketAddr};

use daemon::settings::{ForwardedHeaders, Settings};
use scaler_types::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::testing::{
    EVENT_TIMEOUT, Site, SiteOptions, free_range, header, local,
    plugin::Plugin,
    service_ports::{awake_on_port, on_service_ports},
    status, upstream,
};

/// The addresses of the ingress controller and of an untrusted client.
const INGRESS: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";

/// An application that decides by the head of a request how to answer it.
async fn application(decide: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> SocketAddr {
    upstream::raw(move |mut stream, _| {
        let decide = decide.clone();
        async move {
            while let Some(head) = upstream::read_head(&mut stream).await {
                if stream.write_all(decide(&head).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// An application that returns the client it sees, by `trust` applied to the chain of `X-Forwarded-For`.
async fn trusting(trust: impl Fn(&[&str]) -> String + Clone + Send + Sync + 'static) -> SocketAddr {
    application(move |head| {
        let chain: Vec<_> = header(head, "x-forwarded-for").unwrap_or_default().split(", ").collect();
        format!("HTTP/1.1 204 No Content\r\nClient: {}\r\n\r\n", trust(&chain))
    })
    .await
}

/// A site whose resource `a` has an HTTP port of its own, and the host a.test on the shared port.
async fn site(
    address: SocketAddr,
    trusted: &'static [&'static str],
    how: Option<ForwardedHeaders>,
) -> (Site, SocketAddr) {
    let ports = free_range(1);
    let plugin = Plugin::at(address);
    plugin.add("a", awake_on_port(address, ports.first, Protocol::Http));
    let settings = Settings { forwarded_headers: how, ..SiteOptions::default().settings };
    (
        Site::start(plugin, SiteOptions { trusted, settings, ..on_service_ports(ports) }).await,
        local(ports.first),
    )
}

/// A GET from that address with these fields.
async fn get(from: &str, to: SocketAddr, fields: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_string(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    answer
}

/// An application that redirects http to https, behind an ingress that ends TLS.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_behind_a_tls_ingress_does_not_redirect_for_ever() {
    let address = application(|head| match header(head, "x-forwarded-proto") {
        Some("https") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 301 Moved Permanently\r\nLocation: https://a.test/x\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
    })
    .await;
    let ingress = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.test\r\n";
    let (open, port) = site(address, &[], None).await;
    assert_eq!(status(&get(INGRESS, port, ingress).await), 204);
    assert_eq!(status(&get(INGRESS, port, "").await), 301, "a request in clear text is redirected");
    drop(open);
    let (_named, port) = site(address, &[INGRESS], None).await;
    assert_eq!(status(&get(INGRESS, port, ingress).await), 204);
    assert_eq!(status(&get(STRANGER, port, ingress).await), 301);
}

/// An application that trusts one hop: the DLX is none.
#[tokio::test(flavor = "multi_thread")]
async fn the_dlx_is_no_hop_to_an_application_that_counts_them() {
    let address = trusting(|chain| chain.last().unwrap().to_string()).await;
    for trusted in [&[][..], &[INGRESS]] {
        let (_site, port) = site(address, trusted, None).await;
        let answer = get(INGRESS, port, "X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n").await;
        assert_eq!(header(&answer, "client"), Some("192.0.2.1"), "{trusted:?}");
        let answer = get(INGRESS, port, "Forwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n").await;
        assert_eq!(header(&answer, "client"), Some(""), "nothing is made up");
    }
}

/// An application that trusts peers by their address sees the DLX's address for all of them: an untrusted client can
/// forge headers until the trusted proxies are named.
#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_peer_cannot_forge_headers_where_trusted_proxies_are_named() {
    let address = trusting(|chain| chain.first().unwrap().to_string()).await;
    let forged = "X-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.1\r\n";
    let (open, port) = site(address, &[], None).await;
    assert_eq!(header(&get(STRANGER, port, forged).await, "client"), Some("10.0.0.1"));
    drop(open);
    let (_named, port) = site(address, &[INGRESS], None).await;
    assert_eq!(header(&get(STRANGER, port, forged).await, "client"), Some(STRANGER));
    assert_eq!(header(&get(INGRESS, port, forged).await, "client"), Some("10.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_headers_is_identified_by_its_address() {
    let address = trusting(|chain| chain.join("|")).await;
    for trusted in [&[][..], &[INGRESS]] {
        let (_site, port) = site(address, trusted, None).await;
        for from in [INGRESS, STRANGER] {
            assert_eq!(header(&get(from, port, "").await, "client"), Some(from), "{trusted:?}");
        }
    }
}

/// The key of the namespace file applies on every port to trusted peers, and only to them.
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_file_decides_about_headers_of_trusted_proxies() {
    use ForwardedHeaders::{Append, Preserve, Replace};
    let address = trusting(|chain| chain.join(", ")).await;
    let came = "X-Forwarded-For: 192.0.2.1\r\n";
    for (how, on_its_own_port, on_the_shared_one) in [
        (None, "192.0.2.1", "192.0.2.1, 127.0.0.2"),
        (Some(Preserve), "192.0.2.1", "192.0.2.1"),
        (Some(Append), "192.0.2.1, 127.0.0.2", "192.0.2.1, 127.0.0.2"),
        (Some(Replace), INGRESS, INGRESS),
    ] {
        let (site, port) = site(address, &[INGRESS], how).await;
        assert_eq!(header(&get(INGRESS, port, came).await, "client"), Some(on_its_own_port), "{how:?}");
        let shared = site.address;
        assert_eq!(header(&get(INGRESS, shared, came).await, "client"), Some(on_the_shared_one), "{how:?}");
        for port in [port, shared] {
            assert_eq!(header(&get(STRANGER, port, came).await, "client"), Some(STRANGER), "{how:?}");
        }
    }
}
