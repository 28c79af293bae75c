//! Loops: a chain of services is none, an address that points to a DLX is.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
};

use scaler_types::AddressOf;
use tokio::io::AsyncWriteExt;

use crate::testing::{
    Site, SiteOptions, body,
    plugin::{Plugin, endpoint, service},
    raw_at, status, upstream,
};

/// A frontend that forwards requests to the next resource with its client's headers, as nginx, HAProxy and every gateway
/// do; and the requests that it got.
async fn frontend(dlx: &Arc<Mutex<Option<SocketAddr>>>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let (heads, dlx) = (Arc::new(Mutex::new(Vec::new())), dlx.clone());
    let seen = heads.clone();
    let address = upstream::raw(move |mut stream, _| {
        let (seen, dlx) = (seen.clone(), dlx.clone());
        async move {
            while let Some(head) = upstream::read_head(&mut stream).await {
                seen.lock().unwrap().push(head.clone());
                // `GET /api.test/front.test/` goes to api.test, and from there to front.test.
                let (line, fields) = head.split_once("\r\n").unwrap();
                let path = line.split(' ').nth(1).unwrap().trim_matches('/');
                let (next, rest) = path.split_once('/').unwrap_or((path, ""));
                let body = match next {
                    "" => "the end".to_owned(),
                    next => {
                        let fields = fields.lines().filter(|line| !line.to_lowercase().starts_with("host:"));
                        let fields: String = fields.map(|line| format!("{line}\r\n")).collect();
                        let request =
                            format!("GET /{rest} HTTP/1.1\r\nHost: {next}\r\nConnection: close\r\n{fields}");
                        let to = dlx.lock().unwrap().unwrap();
                        let answer = raw_at(to, request.as_bytes()).await;
                        format!("{} {}", status(&answer), body(&answer))
                    }
                };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, heads)
}

/// A DLX in front of a frontend and an API that both forward their clients' headers; and the requests that both got.
async fn chain(address_of: AddressOf) -> (Site, Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>) {
    let dlx = Arc::default();
    let (front, api) = (frontend(&dlx).await, frontend(&dlx).await);
    let plugin = Plugin::at(front.0);
    for (name, address) in [("front", front.0), ("api", api.0)] {
        plugin.add(name, |resource| {
            resource.replicas = 1;
            resource.endpoints = vec![scaler_types::Endpoint { address_of, ..endpoint(address) }];
        });
    }
    let site = Site::start(plugin, SiteOptions::default()).await;
    *dlx.lock().unwrap() = Some(site.address);
    (site, front.1, api.1)
}

fn vias(heads: &Mutex<Vec<String>>) -> usize {
    heads.lock().unwrap().iter().filter(|head| head.to_lowercase().contains("\r\nvia:")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_and_its_api_behind_one_dlx_are_no_loop() {
    for address_of in [AddressOf::Instance, AddressOf::Service] {
        let (site, front, api) = chain(address_of).await;
        let answer = site.get("front.test", "/api.test/").await;
        assert_eq!((status(&answer), body(&answer)), (200, "200 the end"), "{address_of:?}");
        // A pod's address cannot lead back.
        let sent = if address_of == AddressOf::Instance { 0 } else { 1 };
        assert_eq!((vias(&front), vias(&api)), (sent, sent), "{address_of:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_calls_its_frontend_is_no_loop() {
    for address_of in [AddressOf::Instance, AddressOf::Service] {
        let (site, front, _) = chain(address_of).await;
        let answer = site.get("front.test", "/api.test/front.test/api.test/").await;
        assert_eq!((status(&answer), body(&answer)), (200, "200 200 200 the end"), "{address_of:?}");
        assert_eq!(front.lock().unwrap().len(), 2);
    }
    // A resource that calls itself does so without Scaler, too.
    let (site, front, _) = chain(AddressOf::Instance).await;
    let answer = site.get("front.test", &"/front.test".repeat(8)).await;
    assert!(status(&answer) == 200 && body(&answer).ends_with("200 the end"), "{answer}");
    let requests = front.lock().unwrap().len();
    assert_eq!((requests, vias(&front)), (9, 0));
}

/// The plugin names a Service that points to the DLX.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_points_to_the_dlx_is_a_loop() {
    let plugin = Plugin::at("127.0.0.1:1");
    plugin.add("a", |resource| resource.replicas = 1);
    let site = Site::start(plugin, SiteOptions::default()).await;
    *site.plugin.named.lock().unwrap() = Some(format!("localhost:{}", site.address.port()));
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 508, "{answer}");
    assert!(body(&answer).contains("came back five times"), "{answer}");
    assert_eq!(site.resource("a").counts.in_flight(), 0);
}

/// Each points to the other.
#[tokio::test(flavor = "multi_thread")]
async fn two_dlxs_that_point_to_each_other_are_a_loop() {
    let first = Site::start(Plugin::at("127.0.0.1:1"), SiteOptions::default()).await;
    let other = Site::start(Plugin::at("127.0.0.1:1"), SiteOptions::default()).await;
    for (site, to) in [(&first, other.address), (&other, first.address)] {
        site.plugin.add("a", |resource| {
            resource.replicas = 1;
            resource.endpoints = vec![service(to)];
        });
        crate::testing::until("it is known", || site.dlx.resources.table().by_host("a.test").is_some()).await;
    }
    let answer = first.get("a.test", "/").await;
    assert_eq!(status(&answer), 508, "{answer}");
    let passed = |site: &Site| site.resource("a").counts.total();
    assert_eq!(passed(&first) + passed(&other), 5);
    assert_eq!(first.plugin.set_scales.load(Ordering::SeqCst), 0);
}
