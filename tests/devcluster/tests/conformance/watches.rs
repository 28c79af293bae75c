//! Watches.

use std::{pin::Pin, time::Duration};

use devcluster::Options;
use futures_util::{AsyncBufRead, AsyncBufReadExt, Stream, StreamExt, io::Lines};
use http::Request;
use serde_json::{Value, json};

use crate::setup::{Setup, config_map, run, run_with, soon};

/// A watch's events.
pub struct Events(Lines<Pin<Box<dyn AsyncBufRead + Send>>>);

impl Events {
    /// Begins a watch; `query` says what of.
    pub async fn of(client: &kube::Client, path: &str, query: &str) -> Self {
        let request = Request::builder().uri(format!("{path}?watch=true&{query}")).body(Vec::new()).unwrap();
        let reader = soon(client.request_stream(request)).await.unwrap();
        let reader: Pin<Box<dyn AsyncBufRead + Send>> = Box::pin(reader);
        Self(reader.lines())
    }

    /// The next event; `None`: the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        let line = soon(std::future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context))).await?;
        Some(serde_json::from_str(&line.ok()?).unwrap())
    }

    /// The next event's type, the object's name and its value of `a`.
    async fn next_change(&mut self) -> (String, String, String) {
        let event = self.next().await.expect("the watch ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
            text(&event["object"]["data"]["a"]),
        )
    }
}

fn change(kind: &str, name: &str, a: &str) -> (String, String, String) {
    (kind.to_owned(), name.to_owned(), a.to_owned())
}

async fn version(api: &Setup, path: &str) -> String {
    api.get(path).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[test]
fn a_watch_tells_what_happened_since_its_version() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let since = version(&api, &path).await;
        let mut wanted = config_map("one");
        wanted["metadata"]["labels"] = json!({"app": "x"});
        api.create(&path, &wanted).await;
        let mut events =
            Events::of(&api.client, &path, &format!("resourceVersion={since}&labelSelector=app")).await;
        assert_eq!(events.next_change().await, change("ADDED", "one", "1"));
        api.patch(&format!("{path}/one"), "merge", &json!({"data": {"a": "2"}})).await;
        assert_eq!(events.next_change().await, change("MODIFIED", "one", "2"));
        let last = api.delete(&format!("{path}/one"), &Value::Null).await.1;
        assert_eq!(last["status"], "Success");
        let gone = events.next().await.unwrap();
        assert_eq!(gone["type"], "DELETED");
        assert_eq!(gone["object"]["kind"], "ConfigMap");
        // The deletion has a version of its own, so that a watch can go on from it.
        let of = |event: &Value| {
            event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        };
        assert!(of(&gone) > since.parse().unwrap());
        let mut events = Events::of(&api.client, &path, &format!("resourceVersion={}", of(&gone))).await;
        api.create(&path, &config_map("two")).await;
        assert_eq!(events.next_change().await, change("ADDED", "two", "1"));
    });
}

#[test]
fn a_watch_without_a_version_begins_with_what_there_is() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        for query in ["", "resourceVersion=0"] {
            let query = format!("{query}&fieldSelector=metadata.name%3Done");
            let mut events = Events::of(&api.client, &path, &query).await;
            assert_eq!(events.next_change().await, change("ADDED", "one", "1"));
        }
    });
}

#[test]
fn what_a_selector_no_longer_takes_is_deleted_for_its_watch() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let since = version(&api, &path).await;
        let mut events =
            Events::of(&api.client, &path, &format!("resourceVersion={since}&labelSelector=app%3Dweb")).await;
        api.create(&path, &config_map("one")).await;
        let one = format!("{path}/one");
        let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
        api.patch(&one, "merge", &label("web")).await;
        assert_eq!(events.next_change().await, change("ADDED", "one", "1"));
        let other = json!({"metadata": {"labels": {"app": "other"}}, "data": {"a": "2"}});
        let (_, other) = api.patch(&one, "merge", &other).await;
        // As the selector took it last, with the version of the change.
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], "DELETED");
        assert_eq!(
            (&event["object"]["metadata"]["labels"]["app"], &event["object"]["data"]["a"]),
            (&json!("web"), &json!("1"))
        );
        assert_eq!(event["object"]["metadata"]["resourceVersion"], other["metadata"]["resourceVersion"]);
        api.patch(&one, "merge", &label("web")).await;
        assert_eq!(events.next_change().await, change("ADDED", "one", "2"));
    });
}

#[test]
fn a_watch_ends_with_its_time() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let since = version(&api, &path).await;
        let mut events =
            Events::of(&api.client, &path, &format!("resourceVersion={since}&timeoutSeconds=1")).await;
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn bookmarks_say_how_far_a_quiet_watch_is() {
    let options = Options { bookmark_interval: Duration::from_millis(100), ..Options::default() };
    run_with(options, |api| async move {
        let path = api.path("v1", "configmaps");
        let since = version(&api, &path).await;
        // Something else happens, of which the watch sees nothing. A real server sends a bookmark shortly before the watch's time is over.
        let secret = json!({"metadata": {"name": "other"}});
        let other = api.create(&api.path("v1", "secrets"), &secret).await;
        let query = format!("resourceVersion={since}&allowWatchBookmarks=true&timeoutSeconds=10");
        let mut events = Events::of(&api.client, &path, &query).await;
        let mut last = None;
        while let Some(event) = events.next().await {
            if event["type"] == "BOOKMARK" {
                last = Some(event);
                break;
            }
        }
        let bookmark = last.expect("there was no bookmark");
        assert_eq!(bookmark["object"]["kind"], "ConfigMap");
        let version: u64 =
            bookmark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version >= since.parse().unwrap());
        let _ = other;
    });
}

#[test]
fn initial_events_end_with_a_bookmark_that_says_so() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Done";
        let mut events = Events::of(&api.client, &path, query).await;
        assert_eq!(events.next_change().await, change("ADDED", "one", "1"));
        let bookmark = events.next().await.unwrap();
        assert_eq!(bookmark["type"], "BOOKMARK");
        assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    });
}

#[test]
fn a_version_that_is_forgotten_is_gone() {
    run_with(Options { log_capacity: 2, ..Options::default() }, |api| async move {
        let path = api.path("v1", "configmaps");
        for name in ["a", "b", "c", "d"] {
            api.create(&path, &config_map(name)).await;
        }
        // On a real cluster, version 1 is long compacted.
        let mut events = Events::of(&api.client, &path, "resourceVersion=1").await;
        let event = events.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(event["object"]["reason"], "Expired");
        assert_eq!(events.next().await, None);
        let (status, refused) =
            api.get(&format!("{path}?resourceVersion=1&resourceVersionMatch=Exact")).await;
        assert_eq!((status, &refused["reason"]), (410, &json!("Expired")), "{refused}");
    });
}

#[test]
fn kube_follows_a_collection() {
    run(|api| async move {
        let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = api.api();
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let config = kube::runtime::watcher::Config::default().page_size(1);
        let mut seen = Box::pin(kube::runtime::watcher(maps, config));
        let mut names = Vec::new();
        let (mut ready, mut deleted) = (false, false);
        while !deleted {
            use kube::runtime::watcher::Event;
            match soon(seen.next()).await.unwrap().unwrap() {
                Event::Init => {}
                Event::InitApply(map) | Event::Apply(map) => {
                    let name = map.metadata.name.unwrap();
                    if name == "two" {
                        api.delete(&format!("{path}/two"), &Value::Null).await;
                    }
                    names.push(name);
                }
                Event::InitDone => {
                    ready = true;
                    api.create(&path, &config_map("two")).await;
                }
                Event::Delete(map) => deleted = map.metadata.name.as_deref() == Some("two"),
            }
        }
        assert!(ready);
        assert!(names.contains(&"one".to_owned()) && names.contains(&"two".to_owned()), "{names:?}");
    });
}
