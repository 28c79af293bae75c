//! What a test can order to go wrong, and the guarantees it can take away.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use devcluster::{Cluster, Filter, Options, Refusal, User};
use futures_util::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

async fn create(client: &Client, name: &str) -> kube::Result<ConfigMap> {
    let map = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    maps(client).create(&PostParams::default(), &map).await
}

fn code<T: std::fmt::Debug>(outcome: kube::Result<T>) -> u16 {
    match outcome {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("no refusal: {other:?}"),
    }
}

/// A client that shows refusals instead of trying again.
fn client_of(cluster: &Cluster, user: &User) -> Client {
    let mut config = kube::Config::new(cluster.url().parse().unwrap());
    config.default_retry = false;
    let token = match user {
        User::Admin => cluster.admin_token(),
        User::ServiceAccount { namespace, name } => cluster.token(namespace, name),
    };
    config.auth_info.token = Some(token.into());
    Client::try_from(config).unwrap()
}

async fn watch(
    client: &Client,
    version: &str,
) -> Pin<Box<BoxStream<'static, kube::Result<WatchEvent<ConfigMap>>>>> {
    let stream = maps(client).watch(&WatchParams::default(), version).await.unwrap();
    Box::pin(stream.boxed())
}

async fn version(client: &Client) -> String {
    maps(client).list(&kube::api::ListParams::default()).await.unwrap().metadata.resource_version.unwrap()
}

#[tokio::test]
async fn the_next_requests_of_a_sort_are_refused() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let creates = Filter::any().verb("create").resource("configmaps");
    let fault = cluster.faults().refuse(creates.clone(), 2, Refusal::TooManyRequests(7));
    match create(&client, "a").await {
        // No `Status`: an overloaded server answers in plain text.
        Err(kube::Error::Api(status)) if status.code == 429 => {
            let said = (status.message.as_str(), status.details.is_none());
            assert_eq!(said, ("Too many requests, please try again later.", true), "{status:?}");
        }
        other => panic!("no refusal: {other:?}"),
    }
    maps(&client).list(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(code(create(&client, "a").await), 429);
    assert_eq!(cluster.faults().refusals_left(), 0);
    create(&client, "a").await.unwrap();
    fault.end();
    for (refusal, wanted) in
        [(Refusal::Conflict, 409), (Refusal::InternalError, 500), (Refusal::Unavailable, 503)]
    {
        let _fault = cluster.faults().refuse(creates.clone(), 1, refusal);
        assert_eq!(code(create(&client, "b").await), wanted);
    }
    // Those of another user are none of them.
    let other = Filter::any().user(User::service_account("default", "other"));
    let _fault = cluster.faults().refuse(other, 1, Refusal::InternalError);
    create(&client, "b").await.unwrap();
    assert_eq!(cluster.faults().refusals_left(), 1);
}

#[tokio::test]
async fn some_requests_pass_and_those_after_them_are_refused() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let writes = Filter::any().verb("create,delete");
    let fault = cluster.faults().refuse_after(writes, 2, Refusal::Unavailable);
    create(&client, "a").await.unwrap();
    maps(&client).delete("a", &Default::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(code(create(&client, "a").await), 503);
        maps(&client).list(&kube::api::ListParams::default()).await.unwrap();
    }
    fault.end();
    create(&client, "a").await.unwrap();
}

#[tokio::test]
async fn latency_is_waited_for() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let latency = Duration::from_millis(300);
    let fault = cluster.faults().latency(Filter::any().verb("create"), latency);
    let started = Instant::now();
    create(&client, "a").await.unwrap();
    assert!(started.elapsed() >= latency);
    fault.end();
}

#[tokio::test]
async fn a_stalled_watch_is_silent_and_then_gets_what_it_missed() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    let mut events = watch(&client, &since).await;
    create(&client, "before").await.unwrap();
    assert!(matches!(timeout(LONG, events.next()).await.unwrap(), Some(Ok(WatchEvent::Added(_)))));
    let stall = cluster.faults().stall_watches(Filter::any().resource("configmaps"));
    create(&client, "missed").await.unwrap();
    // A watch of another resource gets its event: so long, at least, the stalled one got none.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "default");
    let mut others = Box::pin(accounts.watch(&WatchParams::default(), "0").await.unwrap());
    timeout(LONG, others.next()).await.unwrap().unwrap().unwrap();
    assert!(timeout(Duration::from_millis(200), events.next()).await.is_err());
    stall.end();
    let missed = timeout(LONG, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(missed, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("missed")));
}

#[tokio::test]
async fn dropped_watches_end_and_can_be_begun_again() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    let mut events = watch(&client, &since).await;
    cluster.faults().drop_watches(Filter::any().resource("deployments"));
    create(&client, "a").await.unwrap();
    assert!(timeout(LONG, events.next()).await.unwrap().is_some());
    cluster.faults().drop_watches(Filter::any());
    assert!(timeout(LONG, events.next()).await.unwrap().is_none());
    let mut events = watch(&client, &since).await;
    assert!(timeout(LONG, events.next()).await.unwrap().is_some());
}

#[tokio::test]
async fn an_outage_cuts_and_refuses_connections() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    let mut events = watch(&client, &since).await;
    let outage = cluster.faults().outage();
    // Cut in the middle: an error, or the end.
    assert!(!matches!(timeout(LONG, events.next()).await.unwrap(), Some(Ok(_))));
    while std::net::TcpStream::connect(cluster.address()).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!matches!(create(&client, "a").await, Err(kube::Error::Api(_)) | Ok(_)));
    outage.end();
    while std::net::TcpStream::connect(cluster.address()).is_err() {
        tokio::task::yield_now().await;
    }
    create(&client, "a").await.unwrap();
}

#[tokio::test]
async fn a_compacted_version_is_gone() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    let mut running = watch(&client, &since).await;
    create(&client, "a").await.unwrap();
    assert!(timeout(LONG, running.next()).await.unwrap().is_some());
    cluster.compact();
    let mut events = watch(&client, &since).await;
    let event = timeout(LONG, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410));
    // A watch that was up to date goes on.
    create(&client, "b").await.unwrap();
    let event = timeout(LONG, running.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("b")));
}

#[tokio::test]
async fn requests_are_counted() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = client_of(&cluster, &User::Admin);
    cluster.requests().reset();
    create(&client, "a").await.unwrap();
    create(&client, "b").await.unwrap();
    version(&client).await;
    assert_eq!(cluster.requests().of(&Filter::any()), 3);
    assert_eq!(
        cluster.requests().of(&Filter::any().verb("create").resource("configmaps").user(User::Admin)),
        2
    );
    assert_eq!(cluster.requests().of(&Filter::any().resource("deployments")), 0);
}

#[tokio::test]
async fn without_conflict_old_versions_and_failed_tests_are_written() {
    let cluster = Cluster::start(Options { no_conflict: true, ..Options::default() }).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let old = create(&client, "a").await.unwrap();
    let merge = |value: &str| Patch::Merge(json!({"data": {"a": value}}));
    maps(&client).patch("a", &PatchParams::default(), &merge("1")).await.unwrap();
    maps(&client).replace("a", &PostParams::default(), &old).await.unwrap();
}

#[tokio::test]
async fn without_gone_an_old_watch_starts_at_now() {
    let cluster = Cluster::start(Options { no_gone: true, ..Options::default() }).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    create(&client, "missed").await.unwrap();
    cluster.compact();
    let mut events = watch(&client, &since).await;
    // It says nothing of what it missed.
    assert!(timeout(Duration::from_millis(200), events.next()).await.is_err());
    create(&client, "seen").await.unwrap();
    let event = timeout(LONG, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("seen")));
}

#[tokio::test]
async fn without_stall_a_stalled_watch_goes_on() {
    let cluster = Cluster::start(Options { no_stall: true, ..Options::default() }).unwrap();
    let client = client_of(&cluster, &User::Admin);
    let since = version(&client).await;
    let _stall = cluster.faults().stall_watches(Filter::any());
    let mut events = watch(&client, &since).await;
    create(&client, "seen").await.unwrap();
    assert!(timeout(LONG, events.next()).await.unwrap().is_some());
}

#[tokio::test]
async fn without_rbac_everybody_may() {
    let cluster = Cluster::start(Options { no_rbac: true, ..Options::default() }).unwrap();
    create(&client_of(&cluster, &User::service_account("default", "nobody")), "a").await.unwrap();
}

/// HTTP/2 without TLS, as curl speaks it with --http2-prior-knowledge.
#[tokio::test]
async fn http_2_is_spoken() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client: hyper_util::client::legacy::Client<_, http_body_util::Empty<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .http2_only(true)
            .build_http();
    let request = http::Request::builder()
        .uri(format!("{}/api/v1/namespaces/default", cluster.url()))
        .header("authorization", format!("Bearer {}", cluster.admin_token()))
        .body(http_body_util::Empty::new())
        .unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    let text = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let namespace: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(namespace["status"]["phase"], "Active");
}
