//! Events on users' objects.

mod common;

use std::pin::pin;

use common::*;
use futures_util::TryStreamExt as _;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use scaler_types::{ResourceEvent, ResourceScaler as _, Severity};
use serde_json::json;

/// All Events on a workload, as reason and note.
async fn events(scene: &Scene, name: &str) -> Vec<(String, String)> {
    let api: Api<Event> = Api::namespaced(scene.client.clone(), NAMESPACE);
    let all = api.list(&Default::default()).await.unwrap().items;
    let mut its: Vec<_> = all
        .into_iter()
        .filter(|event| event.regarding.as_ref().unwrap().name.as_deref() == Some(name))
        .map(|event| (event.reason.unwrap(), event.note.unwrap()))
        .collect();
    its.sort();
    its
}

/// Waits for an Event on a workload.
async fn event(scene: &Scene, name: &str, reason: &str) {
    let api: Api<Event> = Api::namespaced(scene.client.clone(), NAMESPACE);
    let mut events = pin!(watcher(api, watcher::Config::default()).applied_objects());
    soon(async {
        while let Some(event) = events.try_next().await.unwrap() {
            let on = event.regarding.unwrap().name.as_deref() == Some(name);
            if on && event.reason.as_deref() == Some(reason) {
                return;
            }
        }
    })
    .await;
}

fn wanted(name: &str) -> serde_json::Value {
    let mut object = deployment(name, 1);
    object["metadata"]["annotations"]["scaler.dev/intercept"] = json!("always");
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_is_an_event_of_its_own() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    for message in ["no such image", "no node", "no such image"] {
        let (reason, message) = ("WakeFailed".to_owned(), message.to_owned());
        let report = ResourceEvent { severity: Severity::Warning, reason, message };
        dlx.publish_event(&id("web"), &report).await.unwrap();
    }
    let event = |note: &str| ("WakeFailed".to_owned(), note.to_owned());
    assert_eq!(events(&scene, "web").await, [event("no node"), event("no such image")]);
}

/// As in most manifests.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_stands_before_its_service_is_not_warned_of_that() {
    let scene = Scene::new().await;
    let leader = scene.leader().await;
    scene.create("Deployment", wanted("web")).await;
    until(&leader, "web", |web| web.keep_awake.contains("no Service")).await;
    scene.create("Service", service("web", "web")).await;
    until(&leader, "web", |web| web.keep_awake.is_empty()).await;
    scene.create("Deployment", wanted("lonely")).await;
    // It comes after the other's would have.
    event(&scene, "lonely", "InterceptionRefused").await;
    assert_eq!(events(&scene, "web").await, []);
}
