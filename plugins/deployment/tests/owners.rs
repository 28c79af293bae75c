//! Whose the fields are that Scaler writes: their owners', as soon as it has written them.

mod common;

use common::*;
use devcluster::{Filter, Refusal};
use kube::api::{DynamicObject, Patch, PatchParams};
use scaler_types::{Leads, ResourceScaler as _, State, Target};
use serde_json::{Value, json};

const REPLICAS: &str = "/f:spec/f:replicas";
const SELECTOR: &str = "/f:spec/f:selector";

/// As Flux, Argo CD or Helm 4 do it, without force.
async fn apply(scene: &Scene, kind: &str, mut object: Value) -> Result<DynamicObject, kube::Error> {
    object["apiVersion"] = api_resource(kind).api_version.into();
    object["kind"] = kind.into();
    let params = PatchParams::apply("flux");
    scene.api(kind).patch("web", &params, &Patch::Apply(object)).await
}

/// The managers that own a field.
async fn owners(scene: &Scene, kind: &str, field: &str) -> Vec<String> {
    let entries = scene.get(kind, "web").await.metadata.managed_fields.unwrap_or_default();
    let owning = entries
        .into_iter()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(field).is_some()));
    owning.filter_map(|entry| entry.manager).collect()
}

async fn nothing_is_ours(scene: &Scene, kind: &str) {
    let entries = scene.get(kind, "web").await.metadata.managed_fields.unwrap_or_default();
    let ours = entries.iter().filter_map(|entry| entry.manager.as_deref());
    assert_eq!(ours.filter(|manager| manager.starts_with("scaler")).count(), 0, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workloads_replicas_stay_its_owners() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    nothing_is_ours(&scene, "Deployment").await;
    scene.observe("web", 0).await;
    let asleep = until(&dlx, "web", |web| web.row.state == State::Asleep).await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    let up = until(&dlx, "web", |web| web.replicas == 3).await;
    dlx.compare_and_set(&id("web"), &up.version, &row(State::Active, 3)).await.unwrap();
    ended(waking).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    // Another number is no conflict, awake or asleep: a manifest that is applied while it sleeps wakes it.
    let more = apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
    assert_eq!(more.data["spec"]["replicas"], 4);
    until(&dlx, "web", |web| web.replicas == 4).await;
    sleep(&dlx, "web").await.unwrap();
    let again = apply(&scene, "Deployment", deployment("web", 5)).await.unwrap();
    assert_eq!(again.data["spec"]["replicas"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_given_back_is_nobodys_after_the_next_write() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let dlx = scene.dlx().await;
    let seen = one(&dlx, "web").await;
    let fenced = dlx.compare_and_set(&id("web"), &seen.version, &row(State::Draining, 1)).await.unwrap();
    let crashed = scene.cluster.faults().refuse_after(
        Filter::any().verb("patch").resource("deployments"),
        1,
        Refusal::Unavailable,
    );
    dlx.set_scale(&request("web", Target::Zero, &fenced, row(State::Asleep, 1))).await.unwrap();
    crashed.end();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["scaler-dlx"]);
    assert!(apply(&scene, "Deployment", deployment("web", 4)).await.is_err(), "it conflicts");
    scene.observe("web", 0).await;
    let asleep = until(&dlx, "web", |web| web.row.state == State::Asleep).await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    let up = until(&dlx, "web", |web| web.replicas == 3).await;
    dlx.compare_and_set(&id("web"), &up.version, &row(State::Active, 3)).await.unwrap();
    ended(waking).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, Vec::<String>::new());
    apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_selector_stays_its_owners() {
    let scene = Scene::new().await;
    let mut web = deployment("web", 3);
    web["metadata"]["annotations"]["scaler.dev/route"] = "service".into();
    scene.create("Deployment", web).await;
    apply(&scene, "Service", service("web", "web")).await.unwrap();
    scene.own_endpoints("web", &[]).await;
    let leader = scene.leader().await;
    lead(&leader, "web").await;
    assert_eq!(scene.get("Service", "web").await.data["spec"]["selector"]["scaler.dev/fenced"], "1");
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    // The key is written anew by a commit.
    until(&leader, "web", |web| web.route.as_ref().is_some_and(|route| !route.led_for.is_zero())).await;
    sleep(&leader, "web").await.unwrap();
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    // An apply is no conflict, and takes the key away: the router puts it back.
    let applied = apply(&scene, "Service", service("web", "web")).await.unwrap();
    assert_eq!(applied.data["spec"]["selector"], json!({"app": "web"}));
    until(&leader, "web", |web| web.route.as_ref().is_some_and(|route| route.leads != Leads::Dlx)).await;
    for leads in [Leads::Dlx, Leads::Both] {
        soon(leader.set_route(&to("web", leads, dlxs(&["a"])))).await.unwrap();
    }
    assert_eq!(scene.get("Service", "web").await.data["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    nothing_is_ours(&scene, "Service").await;
}
