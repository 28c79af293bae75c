//! What a wake waits for, and why it cannot succeed.

mod common;

use common::*;
use deployment::DeploymentScaler;
use devcluster::{Filter, User};
use scaler_types::{Phase, ResourceScaler as _, Role, ScaleError, Target};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// `web` asleep, and a wake of it that has been written.
async fn waking(scene: &Scene) -> (Arc<DeploymentScaler>, JoinHandle<Result<(), ScaleError>>) {
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    scene.observe("web", 0).await;
    let asleep = one(&dlx, "web").await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    until(&dlx, "web", |web| web.replicas > 0).await;
    (dlx, waking)
}

fn terminal(end: Result<(), ScaleError>) -> String {
    match end {
        Err(ScaleError::Terminal { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_ends_it_with_the_kubelets_words() {
    let scene = Scene::with_web().await;
    let (dlx, waking) = waking(&scene).await;
    scene.pod("web-1", "web").await;
    scene.waits("web-1", "ContainerCreating", "", 0).await;
    until(&dlx, "web", |web| web.status.contains("ContainerCreating")).await;
    assert!(!waking.is_finished());
    scene.waits("web-1", "ErrImagePull", "devcluster/missing: not found", 0).await;
    let reason = terminal(ended(waking).await);
    assert_eq!(reason, "container web: ErrImagePull: devcluster/missing: not found");
    assert_eq!(scene.replicas("web").await, 3, "it stays as it is, for whoever puts it right");
}

/// The kubelet pauses before it tries again: whoever asks meanwhile waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_not_there_is_waited_for_until_the_kubelet_has_tried_again() {
    let scene = Scene::with_web().await;
    let (dlx, first) = waking(&scene).await;
    scene.pod("web-1", "web").await;
    scene.waits("web-1", "ErrImagePull", "not found", 0).await;
    terminal(ended(first).await);
    let fail = async |nonce| {
        let failed = one(&dlx, "web").await;
        dlx.compare_and_set(&id("web"), &failed.version, &record(Phase::Failed, nonce)).await.unwrap()
    };
    let second = wake(&dlx, "web", &fail(10).await, 11);
    scene.waits("web-1", "ImagePullBackOff", "back-off 10s", 0).await;
    until(&dlx, "web", |web| web.status.contains("back-off 10s") && web.record.phase == Phase::Waking).await;
    assert!(!second.is_finished(), "it has not been tried again");
    scene.waits("web-1", "ErrImagePull", "still not found", 0).await;
    assert!(terminal(ended(second).await).contains("still not found"));
    scene.waits("web-1", "ImagePullBackOff", "back-off 20s", 0).await;
    until(&dlx, "web", |web| web.status.contains("back-off 20s")).await;
    let third = wake(&dlx, "web", &fail(20).await, 21);
    until(&dlx, "web", |web| web.record.phase == Phase::Waking).await;
    assert!(!third.is_finished(), "it has not been tried again");
    scene.runs("web-1", "10.244.0.1", true).await;
    ended(third).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_may_still_come_up_keeps_it_waiting() {
    let scene = Scene::with_web().await;
    let (dlx, waking) = waking(&scene).await;
    scene.pod("web-1", "web").await;
    scene.pod("web-2", "web").await;
    scene.waits("web-1", "ImagePullBackOff", "no such image on this node", 0).await;
    until(&dlx, "web", |web| web.progress.is_some()).await;
    scene.waits("web-2", "ContainerCreating", "", 0).await;
    assert!(!waking.is_finished());
    scene.runs("web-2", "10.244.0.2", true).await;
    ended(waking).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_it_at_the_third_restart() {
    let scene = Scene::with_web().await;
    let (dlx, waking) = waking(&scene).await;
    scene.pod("web-1", "web").await;
    for restarts in 1..=2 {
        let message = format!("back-off {restarts}");
        scene.waits("web-1", "CrashLoopBackOff", &message, restarts).await;
        until(&dlx, "web", |web| web.status.contains(&message)).await;
        assert!(!waking.is_finished(), "{restarts}");
    }
    scene.waits("web-1", "CrashLoopBackOff", "back-off 3", 3).await;
    let reason = terminal(ended(waking).await);
    assert!(reason.contains("restarted 3 times") && reason.contains("exited with status 3"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_a_quota_refuses_end_it_and_a_webhook_that_is_silent_does_not() {
    let scene = Scene::with_web().await;
    let (dlx, waking) = waking(&scene).await;
    let generation = scene.get("Deployment", "web").await.metadata.generation;
    let failure = |message: &str| {
        json!({
            "observedGeneration": generation,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}],
        })
    };
    scene.status("Deployment", "web", failure("failed calling webhook \"pods.example\": timeout")).await;
    until(&dlx, "web", |web| web.status.contains("failed calling webhook")).await;
    assert!(!waking.is_finished(), "a webhook may answer the next time");
    scene.status("Deployment", "web", failure("pods \"web-\" is forbidden: exceeded quota: small")).await;
    let reason = terminal(ended(waking).await);
    assert!(reason.contains("exceeded quota: small"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_missing_is_said_and_waited_for() {
    let scene = Scene::with_web().await;
    let (dlx, waking) = waking(&scene).await;
    let pod = json!({
        "metadata": {"name": "web-1", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    scene.create("Pod", pod).await;
    let message = "0/3 nodes are available: 3 Insufficient memory.";
    let unschedulable = json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    });
    scene.status("Pod", "web-1", unschedulable).await;
    let web = until(&dlx, "web", |web| web.status.contains("available")).await;
    assert_eq!(web.status, format!("waiting for a node: {message}"));
    assert!(!waking.is_finished());
    let mut late = request("web", Target::AtLeast(1), &web.version, web.record.clone());
    late.deadline = std::time::Duration::from_millis(200);
    let Err(ScaleError::Retry { reason, .. }) = dlx.set_scale(&late).await else { panic!("it is not up") };
    assert!(reason.contains(message), "{reason}");
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() {
    let scene = Scene::with_web().await;
    let user = User::service_account("shop", "dlx");
    let refused = soon(DeploymentScaler::new(scene.context(Role::Dlx, &user, "{}"))).await;
    let error = format!("{:#}", refused.err().expect("it may list nothing"));
    assert!(
        error.contains("deployments.apps in namespace shop") && error.contains("get, list, watch, patch"),
        "{error}"
    );

    let reading = json!([
        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["get", "list", "watch"]},
    ]);
    scene.grant("dlx", reading).await;
    let dlx = scene.plugin_of(Role::Dlx, &user, "{}").await;
    let web = one(&dlx, "web").await;
    let error = dlx.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 1)).await.unwrap_err();
    let ScaleError::Terminal { reason } = error else { panic!("{error:?}") };
    assert!(reason.starts_with("forbidden: "), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_no_conflict() {
    let scene = Scene::new().await;
    scene.create("ReplicaSet", deployment("web", 1)).await;
    // Its replicas are not there, and nothing can be put there: answered as a failed test is.
    let section =
        "{workloads: [{group: apps, version: v1, kind: ReplicaSet, replicasPath: /spec/pool/size}]}";
    let dlx = scene.plugin_of(Role::Dlx, &User::Admin, section).await;
    let web = one(&dlx, "replicaset/web").await;
    let name = id("replicaset/web");
    let fenced = dlx.compare_and_set(&name, &web.version, &record(Phase::Draining, 1)).await.unwrap();
    let commit = request("replicaset/web", Target::Zero, &fenced, record(Phase::Asleep, 1));
    let error = dlx.set_scale(&commit).await.unwrap_err();
    assert!(matches!(error, ScaleError::Terminal { .. }), "{error:?}");
    dlx.compare_and_set(&name, &fenced, &record(Phase::Active, 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_waits_until_the_sleep_before_it_is_through() {
    let scene = Scene::with_web().await;
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", true).await;
    scene.observe("web", 1).await;
    let dlx = scene.dlx().await;
    until(&dlx, "web", |web| web.endpoints.len() == 1).await;
    sleep(&dlx, "web").await.unwrap();
    let asleep = one(&dlx, "web").await;
    assert_eq!(asleep.endpoints, [], "what is being stopped is not listed");
    let waking = wake(&dlx, "web", &asleep.version, 2);
    scene.observe("web", 0).await;
    until(&dlx, "web", |_| true).await;
    assert_eq!(scene.replicas("web").await, 0, "a pod of before is alive");
    scene.delete("Pod", "web-1").await;
    until(&dlx, "web", |web| web.replicas == 3).await;
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_stream_does_not_hold_a_wake_up() {
    let scene = Scene::with_web().await;
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", true).await;
    scene.observe("web", 1).await;
    let dlx = scene.dlx().await;
    until(&dlx, "web", |web| web.endpoints.len() == 1).await;
    sleep(&dlx, "web").await.unwrap();
    let asleep = one(&dlx, "web").await;
    let _stall = scene.cluster.faults().stall_watches(Filter::any());
    scene.delete("Pod", "web-1").await;
    scene.observe("web", 0).await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    until(&dlx, "web", |web| web.replicas == 3).await;
    waking.abort();
}

/// The one stream shows the wake, the other not yet the end of the pod before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_before_the_sleep_takes_no_request_after_the_wake() {
    let scene = Scene::with_web().await;
    scene.pod("old", "web").await;
    scene.runs("old", "10.244.0.1", true).await;
    scene.observe("web", 1).await;
    let (a, b) = (scene.dlx().await, scene.dlx().await);
    until(&b, "web", |web| web.endpoints.len() == 1).await;
    let stall = scene.cluster.faults().stall_watches(Filter::any().resource("pods"));
    sleep(&a, "web").await.unwrap();
    until(&b, "web", |web| web.replicas == 0).await;
    scene.delete("Pod", "old").await;
    scene.pod("new", "web").await;
    scene.runs("new", "10.244.0.2", true).await;
    // Woken by hand: both see it at once, and neither sees the pods as they are.
    scene.merge("Deployment", "web", json!({"spec": {"replicas": 3}})).await;
    let awake = until(&b, "web", |web| web.replicas == 3).await;
    assert_eq!(awake.endpoints, [], "it has not been read yet, or is gone");
    stall.end();
    let addresses = |web: &scaler_types::Resource| -> Vec<String> {
        web.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
    };
    let after = until(&b, "web", |web| !web.endpoints.is_empty()).await;
    assert_eq!(addresses(&after), ["10.244.0.2:8080"]);
}

/// A pod of after the wake that was seen before the wake was.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_seen_too_early_takes_requests_all_the_same() {
    let scene = Scene::with_web().await;
    let (a, b) = (scene.dlx().await, scene.dlx().await);
    sleep(&a, "web").await.unwrap();
    until(&b, "web", |web| web.replicas == 0).await;
    let stall = scene.cluster.faults().stall_watches(Filter::any().resource("deployments"));
    scene.merge("Deployment", "web", json!({"spec": {"replicas": 3}})).await;
    scene.pod("new", "web").await;
    scene.runs("new", "10.244.0.2", true).await;
    let still = until(&b, "web", |web| web.status.contains("still run") || web.replicas == 0).await;
    assert_eq!(still.endpoints, []);
    stall.end();
    until(&b, "web", |web| web.endpoints.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_no_longer_ready_is_not_listed_until_it_is_again() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    scene.pod("web-1", "web").await;
    for ready in [true, false, true] {
        scene.runs("web-1", "10.244.0.1", ready).await;
        until(&dlx, "web", |web| web.endpoints.len() == usize::from(ready) && web.progress.is_some()).await;
    }
    let failed: Value = json!({"phase": "Failed"});
    scene.status("Pod", "web-1", failed).await;
    until(&dlx, "web", |web| web.endpoints.is_empty()).await;
}
