//! To zero and back.

mod common;

use common::*;
use devcluster::{Filter, Refusal, User};
use scaler_types::{Phase, ResourceScaler as _, Role, ScaleError, ScaleEvent, Target};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn to_zero_and_back_with_what_it_had_in_one_patch_each() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let web = one(&dlx, "web").await;
    assert_eq!((web.replicas, web.record.phase), (3, Phase::Active));
    assert_eq!(web.hosts, ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]);
    assert_eq!(web.scale_resources[0].wire_name(), "requests_per_10m");

    scene.cluster.requests().reset();
    sleep(&dlx, "web").await.unwrap();
    assert_eq!(scene.asked("patch", "deployments"), 3, "the fence, the sleep, and whose the replicas are");
    assert_eq!(scene.replicas("web").await, 0);
    let asleep = one(&dlx, "web").await;
    assert_eq!((asleep.replicas, asleep.record.phase), (0, Phase::Asleep));
    assert_eq!(asleep.last_scale_event, Some(ScaleEvent::ScaleToZeroCompleted));

    scene.observe("web", 0).await;
    scene.cluster.requests().reset();
    let waking = wake(&dlx, "web", &asleep.version, 2);
    let up = until(&dlx, "web", |web| web.replicas > 0).await;
    assert_eq!((up.replicas, up.record.phase), (3, Phase::Waking));
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", false).await;
    // Known before the kubelet says that it is ready: the DLX asks the pod itself.
    let listed = until(&dlx, "web", |web| !web.endpoints.is_empty()).await;
    assert_eq!(listed.endpoints[0].address, "10.244.0.1:8080");
    assert_eq!(listed.progress, Some(scaler_types::Progress::Started));
    scene.runs("web-1", "10.244.0.1", true).await;
    ended(waking).await.unwrap();
    assert_eq!(scene.asked("patch", "deployments"), 2, "the wake, and whose the replicas are");
    assert_eq!(
        (scene.asked("get", "deployments"), scene.asked("list", "deployments")),
        (0, 0),
        "nothing is polled"
    );
    assert_eq!(scene.asked("list", "pods"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_also_ends_when_a_dlx_has_moved_the_record_on() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    scene.observe("web", 0).await;
    let waking = wake(&dlx, "web", &one(&dlx, "web").await.version, 2);
    let up = until(&dlx, "web", |web| web.replicas > 0).await;
    dlx.compare_and_set(&id("web"), &up.version, &record(Phase::Active, 3)).await.unwrap();
    ended(waking).await.unwrap();
    let awake = one(&dlx, "web").await;
    assert_eq!(awake.last_scale_event, Some(ScaleEvent::ScaleFromZeroCompleted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_no_conflict_and_a_manual_scale_is_one() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let web = one(&dlx, "web").await;
    scene.status("Deployment", "web", json!({"replicas": 3, "readyReplicas": 2})).await;
    let fenced = dlx.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 1)).await.unwrap();
    scene.status("Deployment", "web", json!({"replicas": 3, "readyReplicas": 3})).await;
    let again = dlx.compare_and_set(&id("web"), &fenced, &record(Phase::Active, 2)).await.unwrap();

    let fenced = dlx.compare_and_set(&id("web"), &again, &record(Phase::Draining, 3)).await.unwrap();
    // Nothing tells the plugin but the refusal.
    let _stall = scene.cluster.faults().stall_watches(Filter::any());
    scene.merge("Deployment", "web", json!({"spec": {"replicas": 5}})).await;
    let commit = request("web", Target::Zero, &fenced, record(Phase::Asleep, 3));
    assert_eq!(dlx.set_scale(&commit).await, Err(ScaleError::Conflict));
    assert_eq!(scene.replicas("web").await, 5);
    let seen = one(&dlx, "web").await;
    assert_eq!(seen.replicas, 5, "what stood in the way is seen, though the watch is silent");
    dlx.compare_and_set(&id("web"), &seen.version, &record(Phase::Active, 4)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_behind_can_only_fail() {
    let scene = Scene::with_web().await;
    let (fast, slow) = (scene.dlx().await, scene.dlx().await);
    let old = one(&slow, "web").await;
    let stall = scene.cluster.faults().stall_watches(Filter::any());
    sleep(&fast, "web").await.unwrap();
    assert_eq!(one(&slow, "web").await.replicas, 3, "it does not know");
    let fence = slow.compare_and_set(&id("web"), &old.version, &record(Phase::Draining, 7)).await;
    assert_eq!(fence, Err(ScaleError::Conflict));
    let seen = one(&slow, "web").await;
    assert_eq!((seen.replicas, seen.record.phase), (0, Phase::Asleep));
    // What the stream still has to tell is older, and is not told.
    let before = soon(slow.changes(0)).await.unwrap().cursor;
    stall.end();
    scene.annotate("web", "scaler.dev/paused", "true").await;
    let told = soon(slow.changes(before)).await.unwrap();
    assert!(told.resources.iter().all(|web| web.replicas == 0), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_wake_at_once_write_once() {
    let scene = Scene::with_web().await;
    let (a, b) = (scene.dlx().await, scene.dlx().await);
    sleep(&a, "web").await.unwrap();
    scene.observe("web", 0).await;
    let asleep = until(&b, "web", |web| web.record.phase == Phase::Asleep).await;
    let wakes = [wake(&a, "web", &asleep.version, 2), wake(&b, "web", &asleep.version, 3)];
    until(&a, "web", |web| web.replicas == 3).await;
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", true).await;
    let mut ends = Vec::new();
    for wake in wakes {
        ends.push(ended(wake).await);
    }
    ends.sort_by_key(Result::is_err);
    assert_eq!(ends, [Ok(()), Err(ScaleError::Conflict)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_write_again_is_no_conflict() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let web = one(&dlx, "web").await;
    let first = dlx.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 1)).await;
    // As after an answer that was lost.
    assert_eq!(dlx.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 1)).await, first);
    let other = dlx.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 2)).await;
    assert_eq!(other, Err(ScaleError::Conflict));
}

#[tokio::test(flavor = "multi_thread")]
async fn api_errors_are_classified() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let web = one(&dlx, "web").await;
    let patches = || Filter::any().verb("patch").resource("deployments");
    let fence = |nonce| {
        let (dlx, version) = (dlx.clone(), web.version.clone());
        async move { dlx.compare_and_set(&id("web"), &version, &record(Phase::Draining, nonce)).await }
    };
    let busy = scene.cluster.faults().refuse(patches(), 1, Refusal::TooManyRequests(7));
    let Err(ScaleError::Retry { after, reason }) = fence(1).await else { panic!("it is busy") };
    // It says so in plain text, and when to come again in a header alone.
    assert_eq!(after.as_secs(), 1, "{reason}");
    assert!(reason.ends_with("Too many requests, please try again later."), "{reason}");
    busy.end();
    let broken = scene.cluster.faults().refuse(patches(), 1, Refusal::InternalError);
    assert!(matches!(fence(1).await, Err(ScaleError::Retry { .. })));
    broken.end();
    // Others that write at the same time are no reason to give up: what it was decided on still stands.
    let others = scene.cluster.faults().refuse(patches(), 2, Refusal::Conflict);
    fence(1).await.unwrap();
    others.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_replicas_stay_and_a_new_image_wakes_nothing() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let web = one(&dlx, "web").await;
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", true).await;
    // As after a wake that failed: it has replicas, only the record is to be written.
    ended(wake(&dlx, "web", &web.version, 2)).await.unwrap();
    assert_eq!(scene.replicas("web").await, 3);
    let up = one(&dlx, "web").await;
    dlx.compare_and_set(&id("web"), &up.version, &record(Phase::Active, 3)).await.unwrap();
    sleep(&dlx, "web").await.unwrap();
    scene.delete("Pod", "web-1").await;

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}});
    scene.merge("Deployment", "web", image).await;
    let updated = until(&dlx, "web", |web| web.last_scale_event == Some(ScaleEvent::ResourceUpdated)).await;
    assert_eq!((updated.replicas, updated.record.phase), (0, Phase::Asleep), "it sleeps on");
    scene.observe("web", 0).await;
    let waking = wake(&dlx, "web", &updated.version, 4);
    let up = until(&dlx, "web", |web| web.replicas > 0).await;
    assert_eq!(up.replicas, 3, "it comes back with what it had");
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_that_is_brought_back_is_not_believed() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    let old = scene.get("Deployment", "web").await.metadata.annotations.unwrap()["scaler.dev/state"].clone();
    assert!(old.contains("\"replicas\":3"), "{old}");
    scene.observe("web", 0).await;
    let asleep = one(&dlx, "web").await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    let up = until(&dlx, "web", |web| web.replicas == 3).await;
    waking.abort();
    // As `kubectl rollout undo` does; then it is scaled to zero by hand.
    scene.annotate("web", "scaler.dev/state", &old).await;
    scene.merge("Deployment", "web", json!({"spec": {"replicas": 0}})).await;
    let commit = request("web", Target::Zero, &up.version, record(Phase::Asleep, 1));
    assert_eq!(dlx.set_scale(&commit).await, Err(ScaleError::Conflict), "an old nonce merely aborts");
    scene.observe("web", 0).await;
    let asleep = until(&dlx, "web", |web| web.replicas == 0 && web.record.phase == Phase::Asleep).await;
    let waking = wake(&dlx, "web", &asleep.version, 3);
    assert_eq!(until(&dlx, "web", |web| web.replicas > 0).await.replicas, 1);
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_of_its_name_is_another_one() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    let asleep = one(&dlx, "web").await;
    let stall = scene.cluster.faults().stall_watches(Filter::any());
    scene.delete("Deployment", "web").await;
    let gone =
        dlx.set_scale(&request("web", Target::AtLeast(1), &asleep.version, record(Phase::Waking, 2))).await;
    let Err(ScaleError::Terminal { reason }) = gone else { panic!("{gone:?}") };
    assert!(reason.contains("does not exist"), "{reason}");
    assert_eq!(all(&dlx).await, []);
    stall.end();
    scene.create("Deployment", deployment("web", 2)).await;
    let web = until(&dlx, "web", |web| web.replicas == 2).await;
    assert_ne!(web.version, asleep.version);
    let old = dlx.compare_and_set(&id("web"), &asleep.version, &record(Phase::Waking, 3)).await;
    assert_eq!(old, Err(ScaleError::Conflict));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_sleeps_and_wakes_too() {
    let scene = Scene::new().await;
    let mut db = deployment("db", 2);
    db["spec"]["serviceName"] = "db".into();
    scene.create("StatefulSet", db).await;
    let dlx = scene.dlx().await;
    sleep(&dlx, "statefulset/db").await.unwrap();
    let asleep = one(&dlx, "statefulset/db").await;
    assert_eq!(asleep.replicas, 0);
    let generation = scene.get("StatefulSet", "db").await.metadata.generation;
    scene.status("StatefulSet", "db", json!({"observedGeneration": generation, "replicas": 0})).await;
    let waking = wake(&dlx, "statefulset/db", &asleep.version, 2);
    assert_eq!(until(&dlx, "statefulset/db", |db| db.replicas > 0).await.replicas, 2);
    waking.abort();
}

/// Its replicas are where its kind has them, and its pods are told by the selector in its status.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_the_configuration_sleeps_and_wakes_too() {
    let scene = Scene::new().await;
    let scale = json!({
        "specReplicasPath": ".spec.workers", "statusReplicasPath": ".status.workers",
        "labelSelectorPath": ".status.selector",
    });
    scene.define("Worker", json!({"status": {}, "scale": scale})).await;
    let annotations = json!({"scaler.dev/scale-to-zero": "10m"});
    let worker = json!({"metadata": {"name": "job", "annotations": annotations}, "spec": {"workers": 2}});
    scene.create("Worker", worker).await;
    scene.status("Worker", "job", json!({"selector": "app=job", "workers": 2})).await;
    let section =
        "{workloads: [{group: example.org, version: v1, kind: Worker, replicasPath: /spec/workers}]}";
    let dlx = scene.plugin_of(Role::Dlx, &User::Admin, section).await;
    let name = "worker/job";
    sleep(&dlx, name).await.unwrap();
    assert_eq!(scene.get("Worker", "job").await.data["spec"]["workers"], 0);
    let asleep = one(&dlx, name).await;
    let waking = wake(&dlx, name, &asleep.version, 2);
    assert_eq!(until(&dlx, name, |job| job.replicas > 0).await.replicas, 2);
    scene.pod("job-1", "job").await;
    scene.runs("job-1", "10.244.0.1", true).await;
    ended(waking).await.unwrap();
    let up = until(&dlx, name, |job| !job.endpoints.is_empty()).await;
    assert_eq!(up.endpoints[0].address, "10.244.0.1:8080");
    assert_eq!(scene.get("Worker", "job").await.data["spec"]["workers"], 2);
}

/// Its generation does not count annotations, as a Deployment's does: only the record's own text tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_somebody_else_wrote_is_a_conflict_by_itself() {
    let scene = Scene::new().await;
    scene.create("StatefulSet", deployment("db", 2)).await;
    let (fast, slow) = (scene.dlx().await, scene.dlx().await);
    let name = "statefulset/db";
    let seen = one(&fast, name).await;
    let first = fast.compare_and_set(&id(name), &seen.version, &record(Phase::Draining, 1)).await.unwrap();
    until(&slow, name, |db| db.version == first).await;
    let _stall = scene.cluster.faults().stall_watches(Filter::any());
    fast.compare_and_set(&id(name), &first, &record(Phase::Active, 2)).await.unwrap();
    let commit = request(name, Target::Zero, &first, record(Phase::Asleep, 1));
    assert_eq!(slow.set_scale(&commit).await, Err(ScaleError::Conflict), "a request came");
    let db = one(&slow, name).await;
    assert_eq!((db.replicas, db.record.phase), (2, Phase::Active));
}
