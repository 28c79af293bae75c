//! With a server that gives prepared answers, and time that passes when nothing else is left to do.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;

enum Answer {
    /// A list or an error.
    Whole(u16, Value),
    /// The events of a watch, which the server then ends.
    Ended(Vec<Value>),
    /// The events of a watch that then says nothing.
    Silent(Vec<Value>),
    /// None.
    Hang,
}

use Answer::*;

/// The requests so far, each with the seconds since the start.
type Requests = Arc<Mutex<Vec<(f64, String)>>>;

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

fn body(parts: Vec<Value>, ends: bool) -> ResponseBody {
    let parts = parts.into_iter().map(|part| {
        let line = Bytes::from(format!("{part}\n"));
        Ok(hyper::body::Frame::data(line))
    });
    let rest = if ends { stream::empty().boxed() } else { stream::pending().boxed() };
    StreamBody::new(stream::iter(parts).chain(rest)).boxed_unsync()
}

/// Gives the answers in this order, and then none.
fn server(answers: Vec<Answer>) -> (Api<ConfigMap>, Requests) {
    // Pauses are not shortened at random.
    scaler_types::backoff::seed_jitter(0);
    let (requests, began) = (Requests::default(), Instant::now());
    let (record, answers) = (requests.clone(), Arc::new(Mutex::new(VecDeque::from(answers))));
    let service = tower::service_fn(move |request: Request<Body>| {
        let uri = request.uri().path_and_query().unwrap().as_str().to_owned();
        record.lock().unwrap().push((began.elapsed().as_secs_f64(), uri));
        let answer = answers.lock().unwrap().pop_front();
        async move {
            let (status, body) = match answer.unwrap_or(Hang) {
                Whole(status, value) => (status, body(vec![value], true)),
                Ended(events) => (200, body(events, true)),
                Silent(events) => (200, body(events, false)),
                Hang => pending().await,
            };
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    (Api::namespaced(Client::new(service, "shop"), "shop"), requests)
}

fn object(name: &str, revision: u64) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "resourceVersion": revision.to_string()}})
}

fn page(names: &[&str], revision: u64, next: &str) -> Answer {
    let items: Vec<_> = names.iter().map(|name| object(name, 1)).collect();
    let metadata = json!({"resourceVersion": revision.to_string(), "continue": next});
    Whole(200, json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "refused", "reason": "Why", "code": code})
}

/// The next events, as text.
async fn events(watch: &mut Watch<ConfigMap>, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let name = |object: ConfigMap| object.metadata.name.unwrap();
        all.push(match watch.next().await {
            Ok(Event::Init) => "init".to_owned(),
            Ok(Event::Page { objects, complete_at }) => {
                let names: Vec<_> = objects.into_iter().map(name).collect();
                format!("page {} {complete_at:?}", names.join(","))
            }
            Ok(Event::Apply(object)) => format!("apply {}", name(object)),
            Ok(Event::Delete(object)) => format!("delete {}", name(object)),
            Ok(Event::Bookmark) => "bookmark".to_owned(),
            Err(error) => error.to_string(),
        });
    }
    all
}

/// When each request came, and what for.
fn log(requests: &Requests) -> Vec<(f64, String)> {
    let all = requests.lock().unwrap();
    let log = all.iter().map(|(at, uri)| {
        let what = match uri.split_once("watch=true") {
            Some((_, query)) => format!("watch {}", query.rsplit_once("resourceVersion=").unwrap().1),
            None => "list".to_owned(),
        };
        ((at * 10.0).round() / 10.0, what)
    });
    log.collect()
}

fn at(seconds: f64, what: &str) -> (f64, String) {
    (seconds, what.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_consistently_page_by_page_and_watched_from_its_end() {
    let changes = vec![
        event("ADDED", object("c", 8)),
        event("MODIFIED", object("a", 9)),
        event("DELETED", object("b", 10)),
        event("BOOKMARK", object("", 15)),
    ];
    let (api, requests) = server(vec![page(&["a"], 0, "more"), page(&["b"], 7, ""), Silent(changes), Hang]);
    let mut watch = Watch::new(api, ListParams::default().labels("x=y").fields("metadata.name=z"));
    let all = events(&mut watch, 7).await;
    assert_eq!(all, ["init", "page a None", "page b Some(7)", "apply c", "apply a", "delete b", "bookmark"]);
    let uris: Vec<_> = requests.lock().unwrap().iter().map(|(_, uri)| uri.clone()).collect();
    for uri in &uris {
        assert!(
            uri.contains("labelSelector=x%3Dy") && uri.contains("fieldSelector=metadata.name%3Dz"),
            "{uri}"
        );
    }
    assert!(uris[0].contains("limit=500") && !uris[0].contains("esourceVersion"), "{}", uris[0]);
    assert!(uris[1].contains("continue=more"), "{}", uris[1]);
    assert!(
        uris[2].contains("timeoutSeconds=60") && uris[2].contains("allowWatchBookmarks=true"),
        "{}",
        uris[2]
    );
    assert!(uris[2].ends_with("resourceVersion=7"), "{}", uris[2]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_for_longer_than_it_may_last_is_resumed_where_it_was() {
    let (api, requests) = server(vec![
        page(&[], 7, ""),
        Silent(vec![event("BOOKMARK", object("", 9))]),
        Silent(vec![event("ADDED", object("a", 12))]),
    ]);
    let mut watch = Watch::new(api, ListParams::default());
    assert_eq!(events(&mut watch, 4).await, ["init", "page  Some(7)", "bookmark", "apply a"]);
    assert_eq!(log(&requests), [at(0.0, "list"), at(0.0, "watch 7"), at(65.0, "watch 9")]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_watches_at_once_is_asked_ever_less_often() {
    let ended = || Ended(vec![]);
    let last = Silent(vec![event("ADDED", object("a", 12))]);
    let (api, requests) = server(vec![page(&[], 7, ""), ended(), ended(), ended(), last]);
    let mut watch = Watch::new(api, ListParams::default());
    assert_eq!(events(&mut watch, 3).await, ["init", "page  Some(7)", "apply a"]);
    let watches = [0.0, 0.2, 0.6, 1.4].map(|seconds| at(seconds, "watch 7"));
    assert_eq!(log(&requests)[1..], watches);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_no_longer_has_is_listed_anew_after_a_pause() {
    for gone in [Whole(410, status(410)), Ended(vec![event("ERROR", status(410))])] {
        let (api, requests) = server(vec![gone, page(&["a"], 20, ""), Hang]);
        let mut watch = Watch::resume(api, ListParams::default(), "7".to_owned());
        assert_eq!(events(&mut watch, 2).await, ["init", "page a Some(20)"]);
        assert_eq!(log(&requests), [at(0.0, "watch 7"), at(0.2, "list")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_no_version_is_listed_ever_less_often() {
    let gone = || Whole(410, status(410));
    let (api, requests) = server(vec![
        Whole(500, status(500)),
        Whole(500, status(500)),
        gone(),
        page(&["a"], 20, ""),
        gone(),
        page(&["a"], 21, ""),
        Silent(vec![event("ADDED", object("b", 22)), event("ERROR", status(410))]),
        page(&["a"], 30, ""),
        Hang,
    ]);
    let mut watch = Watch::resume(api, ListParams::default(), "7".to_owned());
    let all = events(&mut watch, 9).await;
    let lists = ["init", "page a Some(20)", "init", "page a Some(21)", "apply b", "init", "page a Some(30)"];
    assert_eq!(all[..2], ["watch failed to start"; 2]);
    assert_eq!(all[2..], lists);
    let lists: Vec<_> = log(&requests).into_iter().filter(|request| request.1 == "list").collect();
    assert_eq!(lists, [at(0.8, "list"), at(1.2, "list"), at(1.4, "list")]);
}

#[test]
fn a_failure_ends_when_the_objects_are_known_again() {
    let mut failure = LastFailure::default();
    let page = |complete_at| Event::<ConfigMap>::Page { objects: Vec::new(), complete_at };
    assert!(failure.is_new("no answer") && !failure.is_new("no answer"));
    assert!(!failure.ends_with(&Event::<ConfigMap>::Init) && !failure.ends_with(&page(None)));
    assert!(failure.ends_with(&page(Some(1))) && !failure.ends_with(&page(Some(1))));
    assert!(failure.is_new("no answer") && failure.ends_with(&Event::<ConfigMap>::Bookmark));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_after_a_pause_that_grows() {
    let broken = || Silent(vec![event("ERROR", status(500))]);
    let (api, requests) = server(vec![
        Whole(500, status(500)),
        page(&["a"], 0, "more"),
        Hang,
        page(&["a", "b"], 7, ""),
        Whole(403, status(403)),
        broken(),
        Silent(vec![event("ADDED", object("c", 9))]),
    ]);
    let mut watch = Watch::new(api, ListParams::default());
    let all = events(&mut watch, 10).await;
    assert_eq!(
        all,
        [
            "init",
            "list failed",
            "init",
            "page a None",
            "list failed",
            "init",
            "page a,b Some(7)",
            "watch failed to start",
            "watch failed",
            "apply c",
        ]
    );
    assert_eq!(
        log(&requests),
        [
            at(0.0, "list"),
            at(0.2, "list"),
            at(0.2, "list"),
            // Not answered for 30 s.
            at(30.6, "list"),
            at(30.6, "watch 7"),
            at(30.8, "watch 7"),
            at(31.2, "watch 7"),
        ]
    );
}

/// Of two that are awaited together one may have to wait for long; what is under way for it goes on.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_no_longer_awaited_is_the_next_one() {
    let (api, requests) = server(vec![page(&[], 7, ""), Silent(vec![]), Hang]);
    let mut watch = Watch::new(api, ListParams::default());
    assert_eq!(events(&mut watch, 2).await.len(), 2);
    for _ in 0..10 {
        assert!(timeout(Duration::from_secs(1), watch.next()).await.is_err());
    }
    assert_eq!(log(&requests), [at(0.0, "list"), at(0.0, "watch 7")]);
}

#[test]
fn a_lasting_reason_is_new_once() {
    let mut failure = LastFailure::default();
    assert!(failure.is_new("refused"));
    assert!(!failure.is_new("refused"));
    assert!(failure.is_new("no answer"));
    assert!(!failure.ends_with(&Event::<()>::Init));
    assert!(failure.ends_with(&Event::<()>::Bookmark));
    assert!(!failure.ends_with(&Event::<()>::Bookmark));
}
