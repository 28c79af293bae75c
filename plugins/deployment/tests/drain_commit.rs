//! A record and its route are two objects: what keeps a commit and the giving back of a route from passing each other.

mod common;

use std::time::Duration;

use common::*;
use devcluster::Filter;
use scaler_types::{Backend, Phase, ResourceScaler as _, Role, ScaleError, Target};
use serde_json::json;

/// For how long a read waits on its way: long enough for a write meanwhile.
const HELD_UP: Duration = Duration::from_secs(4);

/// The workload `web`, intercepted by a DLX, with nothing of its own behind its Service.
async fn intercepted() -> (Scene, std::sync::Arc<deployment::DeploymentScaler>) {
    let scene = Scene::with_web().await;
    scene.annotate("web", "scaler.dev/intercept", "always").await;
    scene.own_endpoints("web", &[]).await;
    let leader = scene.leader().await;
    intercept(&leader, "web").await;
    until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|route| !route.intercepted_for.is_zero())
    })
    .await;
    (scene, leader)
}

async fn key(scene: &Scene) -> serde_json::Value {
    scene.get("Service", "web").await.data["spec"]["selector"]["scaler.dev/intercepted"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_rewrites_the_selector_key_on_the_version_it_was_decided_on() {
    let (scene, leader) = intercepted().await;
    let web = one(&leader, "web").await;
    let zero = |nonce| request("web", Target::Zero, &web.version, record(Phase::Asleep, nonce));
    // Anything may have happened to the Service that this process has not seen yet.
    let stall = scene.cluster.faults().stall_watches(Filter::any().resource("services"));
    scene.merge("Service", "web", json!({"metadata": {"labels": {"somebody": "else"}}})).await;
    assert_eq!(leader.set_scale(&zero(1)).await, Err(ScaleError::Conflict));
    assert_eq!((scene.replicas("web").await, key(&scene).await), (3, json!("1")));
    stall.end();
    // Seen by now, or at the next try.
    let committed = async {
        loop {
            match leader.set_scale(&zero(2)).await {
                Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                done => break done,
            }
        }
    };
    soon(committed).await.unwrap();
    assert_eq!((scene.replicas("web").await, key(&scene).await), (0, json!("0000000000000002")));
    let route = one(&leader, "web").await.interception.unwrap();
    assert_eq!((route.backend, route.in_sync, route.intercepted_for.is_zero()), (Backend::Dlx, true, false));
}

/// What was decided on what the DLXs counted holds only if everything has passed them ever since.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_needs_the_service_intercepted_since_it_was_decided() {
    let (scene, leader) = intercepted().await;
    let web = one(&leader, "web").await;
    let mut zero = request("web", Target::Zero, &web.version, record(Phase::Asleep, 1));
    zero.intercepted_for = Duration::from_secs(3600);
    assert_eq!(leader.set_scale(&zero).await, Err(ScaleError::Conflict));
    assert_eq!((scene.replicas("web").await, key(&scene).await), (3, json!("1")));
    zero.intercepted_for = web.interception.unwrap().intercepted_for;
    soon(leader.set_scale(&zero)).await.unwrap();
    assert_eq!(scene.replicas("web").await, 0);
}

/// A pod has work, or does not say: neither of the two objects is changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_busy_pod_prevents_leaves_the_selector_key_as_it_is() {
    let (scene, leader) = intercepted().await;
    let template = scene.get("Deployment", "web").await.data["spec"].clone();
    let set = json!({"metadata": {"name": "web"}, "spec": {"selector": template["selector"], "template": template["template"]}});
    let set = scene.create("ReplicaSet", set).await;
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": set.metadata.uid, "controller": true});
    scene.pod("web-1", "web").await;
    scene.merge("Pod", "web-1", json!({"metadata": {"ownerReferences": [owner]}})).await;
    // Nothing listens there.
    scene.runs("web-1", "127.77.1.1", true).await;
    let before = one(&leader, "web").await.version;
    scene.annotate("web", "scaler.dev/busy-probe", "http://:9/busy").await;
    let web = until(&leader, "web", |web| web.version != before).await;
    let zero = request("web", Target::Zero, &web.version, record(Phase::Asleep, 7));
    let Err(ScaleError::Busy { reason, .. }) = leader.set_scale(&zero).await else { panic!("it is busy") };
    assert!(reason.contains("web-1: its busy probe failed"), "{reason}");
    assert_eq!((scene.replicas("web").await, key(&scene).await), (3, json!("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_during_a_drain_attempt() {
    let (scene, leader) = intercepted().await;
    let web = one(&leader, "web").await;
    let other = scene.leader().await;
    // The drain is another process's, and its news is late.
    let stall = scene.cluster.faults().stall_watches(Filter::any().resource("deployments"));
    let fenced = other.compare_and_set(&web.id, &web.version, &record(Phase::Draining, 1)).await.unwrap();
    for backend in [Backend::Both, Backend::Workload] {
        let back = leader.set_backend(&to("web", backend, dlxs(&["a"]))).await;
        assert_eq!(back, Err(ScaleError::Conflict), "{backend:?}");
    }
    assert!(scene.is_fenced("web").await);
    assert_eq!(scene.our_slices().await.len(), 1);
    stall.end();
    other.compare_and_set(&web.id, &fenced, &record(Phase::Active, 2)).await.unwrap();
    soon(leader.set_backend(&to("web", Backend::Both, dlxs(&["a"])))).await.unwrap();
    assert!(!scene.is_fenced("web").await);
}

/// The key that a removal was decided on is another by the time it lands.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_decided_before_a_commit_removes_nothing() {
    let (scene, admin) = intercepted().await;
    drop(admin);
    let leader = scene.leading_as(Role::Autoscaler).await;
    scene.cluster.requests().reset();
    // Between its look at the Service and its removal it is held up, while another one's commit fences the Service anew.
    let slow = scene.cluster.faults().latency(Filter::any().verb("get").resource("deployments"), HELD_UP);
    let removal = tokio::spawn({
        let leader = leader.clone();
        async move { leader.set_backend(&to("web", Backend::Both, dlxs(&["a"]))).await }
    });
    let looked = async {
        while scene.asked("get", "deployments") == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(looked).await;
    scene
        .merge(
            "Service",
            "web",
            json!({"spec": {"selector": {"scaler.dev/intercepted": "00000000c0ffee00"}}}),
        )
        .await;
    assert_eq!(removal.await.unwrap(), Err(ScaleError::Conflict));
    drop(slow);
    assert_eq!(key(&scene).await, json!("00000000c0ffee00"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_not_removed_from_a_service_without_other_endpoints() {
    let (scene, leader) = intercepted().await;
    soon(leader.set_backend(&to("web", Backend::Both, dlxs(&["a"])))).await.unwrap();
    let alone = leader.set_backend(&to("web", Backend::Workload, Vec::new())).await;
    assert_eq!(alone, Err(ScaleError::Conflict));
    assert_eq!(scene.our_slices().await.len(), 1);
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    until(&leader, "web", |web| web.interception.as_ref().is_some_and(|route| route.workload_ready)).await;
    soon(leader.set_backend(&to("web", Backend::Workload, Vec::new()))).await.unwrap();
    assert_eq!(scene.our_slices().await.len(), 0);
}

/// The Service keeps whose sleep it was last: nobody has to have seen it, whatever was deployed since.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_deployed_while_it_slept_takes_no_replicas_from_it() {
    let (scene, leader) = intercepted().await;
    sleep(&leader, "web").await.unwrap();
    let slept =
        scene.get("Deployment", "web").await.metadata.annotations.unwrap()["scaler.dev/state"].clone();
    let deployed = json!({"spec": {"template": {"metadata": {"annotations": {"deployed": "again"}}}}});
    scene.merge("Deployment", "web", deployed).await;
    assert_eq!(comes_back_with(&scene, 5).await, 3);

    // Another sleep, with other replicas, after which somebody brings back the record of the first.
    scene.merge("Deployment", "web", json!({"spec": {"replicas": 4}})).await;
    let web = until(&leader, "web", |web| web.replicas == 4).await;
    let fenced = leader.compare_and_set(&web.id, &web.version, &record(Phase::Draining, 6)).await.unwrap();
    leader.set_scale(&request("web", Target::Zero, &fenced, record(Phase::Asleep, 7))).await.unwrap();
    scene.annotate("web", "scaler.dev/state", &slept).await;
    assert_eq!(comes_back_with(&scene, 8).await, 1);
}

/// How many replicas a DLX gives it that has just begun.
async fn comes_back_with(scene: &Scene, nonce: u64) -> u32 {
    scene.observe("web", 0).await;
    let dlx = scene.leading(Role::Dlx, PORTS).await;
    let web = until(&dlx, "web", |web| web.record.phase == Phase::Asleep).await;
    let wake = wake(&dlx, "web", &web.version, nonce);
    let woken = until(&dlx, "web", |web| web.replicas > 0).await;
    wake.abort();
    woken.replicas
}
