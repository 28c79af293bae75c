//! `POST /api/v1/load`: what the autoscaler chooses the replicas by.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use scaler_types::Endpoint;
use serde::Deserialize;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};

use crate::{
    admin,
    testing::{
        Site, SiteOptions,
        plugin::{Plugin, endpoint},
        until, upstream,
    },
};

#[derive(Debug, Deserialize)]
struct Answer {
    resources: Vec<Load>,
}

#[derive(Debug, Deserialize)]
struct Load {
    name: String,
    requests: u64,
    held: usize,
    in_flight_ms: u64,
    at_ms: u64,
    busy: BTreeMap<String, u64>,
}

async fn load(site: &Site, name: &str) -> Load {
    let question = json!({"kind": "test", "resources": [{"namespace": "demo", "name": name}, {"namespace": "demo", "name": "none"}]});
    let request = Request::new(Bytes::from(question.to_string()));
    let body = admin::load::answer(site.dlx.clone(), request).await.into_body().collect().await.unwrap();
    let mut answer: Answer = serde_json::from_slice(&body.to_bytes()).unwrap();
    assert_eq!(answer.resources.len(), 1, "one that it does not know, or was not asked for, is left out");
    answer.resources.remove(0)
}

/// Sends a request and leaves the connection open.
async fn send(site: &Site, host: &str) -> TcpStream {
    let mut stream = site.connect().await;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// Both ways that requests take: relayed as bytes, and by the HTTP library.
#[tokio::test(flavor = "multi_thread")]
async fn it_says_at_which_endpoints_requests_are_and_for_how_long_they_were() {
    for relay in [true, false] {
        let may_answer = Arc::new(Semaphore::new(0));
        let work = {
            let may_answer = may_answer.clone();
            move || {
                let may_answer = may_answer.clone();
                async move { may_answer.acquire().await.unwrap().forget() }
            }
        };
        let (first, echo) = upstream::echo(work.clone()).await;
        let (second, other) = upstream::echo(work).await;
        let at = |address: std::net::SocketAddr, incarnation: &str| Endpoint {
            incarnation: incarnation.to_owned(),
            ..endpoint(address.to_string())
        };
        let plugin = Plugin::at(first).awake("web", first).awake("other", first);
        plugin.change("web", |resource| resource.endpoints = vec![at(first, "pod-1"), at(second, "pod-2")]);
        let site = Site::start(plugin, SiteOptions { relay, ..SiteOptions::default() }).await;
        until("both endpoints take requests", || site.resource("web").snapshot.load().ready.len() == 2).await;
        let quiet = load(&site, "web").await;
        assert_eq!((quiet.requests, quiet.held, quiet.busy.len()), (0, 0, 0), "{quiet:?}");
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(send(&site, "web.test").await);
        }
        let serving = |echo: &upstream::Echo| echo.serving.load(std::sync::atomic::Ordering::SeqCst);
        until("all are served", || serving(&echo) + serving(&other) == 8).await;
        let busy = load(&site, "web").await;
        assert_eq!((&*busy.name, busy.requests), ("web", 8));
        let expected = [("pod-1", serving(&echo)), ("pod-2", serving(&other))];
        let expected = expected.into_iter().filter(|(_, serving)| *serving > 0);
        let expected: BTreeMap<_, _> =
            expected.map(|(pod, serving)| (pod.to_owned(), serving as u64)).collect();
        assert_eq!(busy.busy, expected, "relayed: {relay}");
        assert_eq!(load(&site, "other").await.busy, BTreeMap::new());
        // A pod that is not ready is not listed, and still works on what it has.
        site.plugin.change("web", |resource| resource.endpoints = vec![at(second, "pod-2")]);
        let listed = || site.resource("web").read(|view| view.listed.len());
        until("one is not listed", || listed() == 1).await;
        assert_eq!(load(&site, "web").await.busy, busy.busy, "relayed: {relay}");
        site.plugin.change("web", |resource| resource.endpoints = Vec::new());
        until("none is listed", || listed() == 0).await;
        assert_eq!(load(&site, "web").await.busy, busy.busy, "relayed: {relay}");
        site.plugin.change("web", |resource| {
            resource.endpoints = vec![at(first, "pod-1"), at(second, "pod-2")];
        });
        until("both are listed again", || listed() == 2).await;
        assert_eq!(load(&site, "web").await.busy, busy.busy, "relayed: {relay}");
        until("time passes", || site.resource("web").counts.in_flight_ms().1 >= busy.at_ms + 50).await;
        may_answer.add_permits(8);
        until("all are answered", || site.resource("web").counts.in_flight() == 0).await;
        let after = load(&site, "web").await;
        assert_eq!(after.busy, BTreeMap::new(), "relayed: {relay}");
        let (spent, time) = (after.in_flight_ms - busy.in_flight_ms, after.at_ms - busy.at_ms);
        assert!((8 * 50..=8 * time).contains(&spent), "{spent} ms of 8 requests in {time} ms");
        site.draining.cancel();
    }
}
