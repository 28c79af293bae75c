//! When an endpoint counts as ready.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use scaler_types::{Endpoint, Probe};
use tokio::io::AsyncWriteExt;

use crate::testing::{Site, SiteOptions, health::health, plugin::Plugin, status, until, upstream};

/// An awake resource with one endpoint.
async fn listed(endpoint: Endpoint) -> Site {
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint];
    });
    Site::start(plugin, SiteOptions::default()).await
}

/// A port that answers each request with the status that `says` holds, and keeps the heads.
async fn says(status: Arc<AtomicUsize>) -> (SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    let heads = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let kept = heads.clone();
    let address = upstream::raw(move |mut stream, _| {
        let (status, kept) = (status.clone(), kept.clone());
        async move {
            if let Some(head) = upstream::read_head(&mut stream).await {
                kept.lock().unwrap().push(head);
                let status = status.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (address, heads)
}

fn why(site: &Site) -> String {
    site.resource("a").read(|view| view.why_not_up())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_probed_at_its_own_port_until_it_serves() {
    let (address, echo) = upstream::echo(async || ()).await;
    let (health_address, health) = health().await;
    health.status.store(2, Ordering::SeqCst);
    let site = listed(Endpoint {
        probe: Probe::Grpc { service: "shop".to_owned() },
        probe_address: Some(health_address.to_string()),
        ..Endpoint::new(address.to_string(), "1")
    })
    .await;
    let served = async {
        until("it was probed", || health.checks.load(Ordering::SeqCst) > 3).await;
        until("it is reported", || why(&site).contains("NOT_SERVING")).await;
        assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
        health.status.store(1, Ordering::SeqCst);
    };
    let (answer, ()) = tokio::join!(site.get("a.test", "/"), served);
    assert_eq!(status(&answer), 200, "{answer}");
    let question = health.requests.lock().unwrap()[0].clone();
    assert_eq!(question, format!("POST http://{health_address}/grpc.health.v1.Health/Check"));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_answers_of_grpc_are_reported() {
    let (health_address, _) = health().await;
    let probe = |service: &str| Endpoint {
        probe: Probe::Grpc { service: service.to_owned() },
        ..Endpoint::new(health_address.to_string(), "1")
    };
    let site = listed(probe("other")).await;
    until("an unknown service", || why(&site).contains("NOT_FOUND")).await;
    // An HTTP/1 server, which cannot answer it.
    let (address, _) = says(Arc::new(AtomicUsize::new(200))).await;
    let site = listed(Endpoint { probe_address: Some(address.to_string()), ..probe("shop") }).await;
    until("no gRPC", || why(&site).contains("cannot speak gRPC")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_and_three_hundreds_are_ready_and_nothing_else() {
    let (address, _) = upstream::echo(async || ()).await;
    for (code, ready) in
        [(200, true), (204, true), (302, true), (399, true), (199, false), (400, false), (503, false)]
    {
        let (probed, heads) = says(Arc::new(AtomicUsize::new(code))).await;
        let site = listed(Endpoint {
            probe: Probe::Http {
                path: "/ready?deep=1".to_owned(),
                headers: vec![
                    ("Host".to_owned(), "shop.test".to_owned()),
                    ("X-Key".to_owned(), "1".to_owned()),
                ],
            },
            probe_address: Some(probed.to_string()),
            ..Endpoint::new(address.to_string(), "1")
        })
        .await;
        let handle = site.resource("a");
        if ready {
            until("it is ready", || handle.is_open()).await;
        } else {
            until("it is reported", || why(&site).contains(&format!("answers {code}"))).await;
            assert!(!handle.is_open(), "{code}");
        }
        let head = heads.lock().unwrap()[0].to_lowercase();
        assert!(head.starts_with("get /ready?deep=1 http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: shop.test\r\n") && head.contains("\r\nx-key: 1\r\n"), "{head}");
        assert_eq!(head.matches("host:").count(), 1, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_probe_is_reported_and_not_sent() {
    let (address, heads) = says(Arc::new(AtomicUsize::new(200))).await;
    let probe = Probe::Http {
        path: "/".to_owned(),
        headers: vec![("X-Key".to_owned(), "1\r\nX-Admin: 1".to_owned())],
    };
    let site = listed(Endpoint { probe, ..Endpoint::new(address.to_string(), "1") }).await;
    until("it is reported", || why(&site).contains("cannot be probed")).await;
    assert!(heads.lock().unwrap().is_empty());
    // Corrected by its user: another endpoint to the DLX.
    site.plugin.change("a", |resource| resource.endpoints[0].probe = Probe::Tcp);
    until("it is ready", || site.resource("a").is_open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_listed_again_is_probed_anew() {
    let (address, echo) = upstream::echo(async || ()).await;
    let code = Arc::new(AtomicUsize::new(200));
    let (probed, heads) = says(code.clone()).await;
    let endpoint = Endpoint {
        probe: Probe::Http { path: "/".to_owned(), headers: Vec::new() },
        probe_address: Some(probed.to_string()),
        ..Endpoint::new(address.to_string(), "1")
    };
    let site = listed(endpoint.clone()).await;
    let handle = site.resource("a");
    until("it is ready", || handle.is_open()).await;
    // As before: no probe is sent.
    let sent = heads.lock().unwrap().len();
    site.plugin.change("a", |resource| resource.status = "another".to_owned());
    until("it is seen", || why(&site).contains("another")).await;
    assert!(handle.is_open() && heads.lock().unwrap().len() == sent);
    code.store(500, Ordering::SeqCst);
    site.plugin.change("a", |resource| resource.endpoints.clear());
    until("it is gone", || !handle.is_open()).await;
    site.plugin.change("a", |resource| resource.endpoints = vec![endpoint]);
    let back = async {
        until("it is probed again", || heads.lock().unwrap().len() > sent + 3).await;
        assert_eq!(echo.requests.load(Ordering::SeqCst), 0);
        code.store(200, Ordering::SeqCst);
    };
    let (answer, ()) = tokio::join!(site.get("a.test", "/"), back);
    assert_eq!(status(&answer), 200);
}
