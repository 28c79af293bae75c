//! How many replicas: what users write is listed, or refused with an Event, and then their number stays.

mod common;

use common::*;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use scaler_types::{Phase, Resource, ResourceScaler as _, Target};
use serde_json::json;

/// A worker of a queue, without a Service.
fn mailer(more: serde_json::Value) -> serde_json::Value {
    let mut object = deployment("mailer", 1);
    let mut annotations = json!({
        "scaler.dev/queue": "beanstalkd://beanstalkd:11300/mails",
        "scaler.dev/messages-per-replica": "20",
        "scaler.dev/max-replicas": "30",
    });
    for (name, value) in more.as_object().unwrap() {
        annotations[name] = value.clone();
    }
    object["metadata"]["annotations"] = annotations;
    object
}

async fn annotate(scene: &Scene, name: &str, value: serde_json::Value) {
    scene.merge("Deployment", "mailer", json!({"metadata": {"annotations": {name: value}}})).await;
}

/// The message of an Event on the worker, once it is there.
async fn event(scene: &Scene, reason: &str, part: &str) {
    let api: Api<Event> = Api::namespaced(scene.client.clone(), NAMESPACE);
    soon(async {
        loop {
            let all = api.list(&Default::default()).await.unwrap().items;
            let is_wanted = |event: &Event| {
                event.reason.as_deref() == Some(reason)
                    && event.note.as_deref().unwrap_or_default().contains(part)
            };
            if all.iter().any(is_wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_service_is_woken_by_its_queue_alone() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m"}))).await;
    let leader = scene.leader().await;
    let listed = one(&leader, "mailer").await;
    assert_eq!((listed.keep_awake.as_str(), &listed.interception), ("", &None), "{listed:?}");
    assert!(listed.hosts.is_empty() && listed.ports.is_empty());
    let scaling = listed.scaling.unwrap();
    assert_eq!(
        (scaling.queues.len(), scaling.messages_per_replica, scaling.max_replicas),
        (1, Some(20.0), 30)
    );

    annotate(&scene, "scaler.dev/intercept", json!("manual")).await;
    scene.create("Service", service("mailer", "mailer")).await;
    let manual = |mailer: &Resource| !mailer.hosts.is_empty() && mailer.interception.is_none();
    assert_eq!(until(&leader, "mailer", manual).await.keep_awake, "");
    annotate(&scene, "scaler.dev/intercept", json!(null)).await;
    let wanted = until(&leader, "mailer", |mailer| mailer.interception.is_some()).await;
    assert!(wanted.interception.unwrap().requested, "with a Service its requests have to be held, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scale_to_zero_it_is_scaled_and_stays_awake() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({}))).await;
    scene.create("Service", service("mailer", "mailer")).await;
    let leader = scene.leader().await;
    let listed = one(&leader, "mailer").await;
    assert!(listed.keep_awake.contains("scaler.dev/scale-to-zero"), "{}", listed.keep_awake);
    assert!(listed.scaling.is_some());
    assert_eq!(listed.interception, None, "no request has to wake it");
    annotate(&scene, "scaler.dev/in-flight-per-replica", json!("8")).await;
    let counted = until(&leader, "mailer", |mailer| mailer.interception.is_some()).await;
    assert!(counted.interception.unwrap().requested, "its requests have to be counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_now_is_obeyed_once_for_each_value() {
    let scene = Scene::new().await;
    scene
        .create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m", "scaler.dev/wake-now": "1"})))
        .await;
    let leader = scene.leader().await;
    assert_eq!(one(&leader, "mailer").await.wake_now, "", "it is awake");
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 0).await.wake_now, "");
    annotate(&scene, "scaler.dev/wake-now", json!("2")).await;
    let wishes = until(&leader, "mailer", |mailer| !mailer.wake_now.is_empty()).await;
    assert_eq!(wishes.wake_now, "scaler.dev/wake-now: 2");
    scene.observe("mailer", 0).await;
    let version = one(&leader, "mailer").await.version;
    let woken = request("mailer", Target::AtLeast(1), &version, record(Phase::Active, 2));
    soon(leader.set_scale(&woken)).await.unwrap();
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 1).await.wake_now, "");
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 0).await.wake_now, "", "it was obeyed");
}

/// Nothing else wakes a worker without a Service, whose messages would wait until its user looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_worker_that_its_metrics_could_not_wake_any_more_is_woken() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m"}))).await;
    let leader = scene.leader().await;
    // Awake it is kept awake, and that is all.
    annotate(&scene, "scaler.dev/messages-per-replica", json!("many")).await;
    let kept = until(&leader, "mailer", |mailer| mailer.scaling.is_none()).await;
    assert_eq!(kept.wake_now, "");
    assert!(kept.keep_awake.contains("messages-per-replica"), "{}", kept.keep_awake);
    annotate(&scene, "scaler.dev/messages-per-replica", json!("20")).await;
    until(&leader, "mailer", |mailer| mailer.scaling.is_some()).await;
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 0).await.wake_now, "");
    for (name, value, valid) in [
        ("scaler.dev/queue", json!("mails"), json!("beanstalkd://beanstalkd:11300/mails")),
        ("scaler.dev/messages-per-replica", json!("many"), json!("20")),
        // It needs another one.
        ("scaler.dev/max-replicas", json!(null), json!("30")),
        ("scaler.dev/hold-timeout", json!("soon"), json!(null)),
    ] {
        annotate(&scene, name, value).await;
        let woken = until(&leader, "mailer", |mailer| !mailer.wake_now.is_empty()).await;
        let said =
            woken.wake_now.starts_with("its queues or metrics could not have woken it: invalid annotation: ");
        assert!(said && woken.wake_now.contains(name), "{}", woken.wake_now);
        annotate(&scene, name, valid).await;
        until(&leader, "mailer", |mailer| mailer.wake_now.is_empty()).await;
    }
    let hpa = json!({
        "metadata": {"name": "cpu"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mailer"}, "minReplicas": 1, "maxReplicas": 5},
    });
    scene.create("HorizontalPodAutoscaler", hpa).await;
    let beside = until(&leader, "mailer", |mailer| !mailer.wake_now.is_empty()).await;
    assert!(beside.wake_now.contains("HorizontalPodAutoscaler cpu decides"), "{}", beside.wake_now);
    // A user who has scaled it to zero means that.
    scene.merge("Deployment", "mailer", json!({"spec": {"replicas": 1}})).await;
    let up = until(&leader, "mailer", |mailer| mailer.replicas == 1).await;
    leader.compare_and_set(&id("mailer"), &up.version, &record(Phase::Active, 9)).await.unwrap();
    scene.merge("Deployment", "mailer", json!({"spec": {"replicas": 0}})).await;
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 0).await.wake_now, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_worker_whose_metrics_are_ignored_is_woken_with_the_replicas_it_had() {
    let scene = Scene::new().await;
    let mut worker = mailer(json!({"scaler.dev/scale-to-zero": "5m"}));
    worker["spec"]["replicas"] = json!(4);
    scene.create("Deployment", worker).await;
    let leader = scene.leader().await;
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(until(&leader, "mailer", |mailer| mailer.replicas == 0).await.wake_now, "");
    annotate(&scene, "scaler.dev/in-flight-per-replica", json!("8")).await;
    // Its requests would have to be counted, and reach it by no Service.
    let ignored = until(&leader, "mailer", |mailer| !mailer.wake_now.is_empty()).await;
    assert!(ignored.wake_now.contains("no Service selects its pods"), "{}", ignored.wake_now);
    assert_eq!(ignored.scaling, None);
    scene.observe("mailer", 0).await;
    let version = one(&leader, "mailer").await.version;
    let wake = request("mailer", Target::AtLeast(1), &version, record(Phase::Active, 2));
    soon(leader.set_scale(&wake)).await.unwrap();
    until(&leader, "mailer", |mailer| mailer.replicas == 4).await;
}

/// Requests wake it: an annotation that is not valid changes nothing about that.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_workload_without_a_queue_stays_asleep_whatever_its_annotations_say() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m"}))).await;
    let leader = scene.leader().await;
    sleep(&leader, "mailer").await.unwrap();
    for name in ["queue", "messages-per-replica", "max-replicas"] {
        annotate(&scene, &format!("scaler.dev/{name}"), json!(null)).await;
    }
    until(&leader, "mailer", |mailer| mailer.scaling.is_none() && mailer.wake_now.is_empty()).await;
    annotate(&scene, "scaler.dev/hold-timeout", json!("soon")).await;
    let kept = until(&leader, "mailer", |mailer| mailer.keep_awake.contains("hold-timeout")).await;
    assert_eq!((kept.replicas, kept.wake_now.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_says_so() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m"}))).await;
    let leader = scene.leader().await;
    assert!(!one(&leader, "mailer").await.scaling.unwrap().paused);
    annotate(&scene, "scaler.dev/paused", json!("true")).await;
    let paused = until(&leader, "mailer", |mailer| !mailer.keep_awake.is_empty()).await;
    assert!(paused.scaling.unwrap().paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hpa_takes_precedence_over_a_target_and_is_allowed_beside_scale_to_zero() {
    let scene = Scene::new().await;
    let mut web = deployment("mailer", 1);
    web["metadata"]["annotations"]["scaler.dev/intercept"] = json!("always");
    scene.create("Deployment", web).await;
    scene.create("Service", service("mailer", "mailer")).await;
    let hpa = json!({
        "metadata": {"name": "cpu"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mailer"}, "minReplicas": 1, "maxReplicas": 5},
    });
    scene.create("HorizontalPodAutoscaler", hpa).await;
    let leader = scene.leader().await;
    let beside = one(&leader, "mailer").await;
    assert_eq!((beside.keep_awake.as_str(), beside.scaling), ("", None));

    annotate(&scene, "scaler.dev/max-replicas", json!("9")).await;
    annotate(&scene, "scaler.dev/requests-per-replica", json!("100")).await;
    event(&scene, "ConflictingAutoscaler", "HorizontalPodAutoscaler cpu decides").await;
    let ignored = one(&leader, "mailer").await;
    assert_eq!((ignored.keep_awake.as_str(), ignored.scaling), ("", None), "it is still scaled to zero");
    annotate(&scene, "scaler.dev/queue", json!("redis://r/0/a")).await;
    annotate(&scene, "scaler.dev/messages-per-replica", json!("20")).await;
    let kept = until(&leader, "mailer", |mailer| mailer.keep_awake.contains("HorizontalPodAutoscaler")).await;
    assert_eq!(kept.scaling, None, "requests alone do not tell whether it is idle");

    scene.delete("HorizontalPodAutoscaler", "cpu").await;
    let scaled = until(&leader, "mailer", |mailer| mailer.scaling.is_some()).await;
    assert_eq!(scaled.keep_awake, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_an_event_and_the_count_stays() {
    let scene = Scene::new().await;
    scene.create("Deployment", mailer(json!({"scaler.dev/scale-to-zero": "5m"}))).await;
    let leader = scene.leader().await;
    for (name, value, said) in [
        ("scaler.dev/max-replicas", json!("a few"), "a whole number of replicas"),
        ("scaler.dev/max-replicas", json!(null), "needs scaler.dev/max-replicas"),
    ] {
        annotate(&scene, name, value).await;
        event(&scene, "InvalidAnnotation", said).await;
        let listed = one(&leader, "mailer").await;
        assert!(listed.keep_awake.contains(said), "{}", listed.keep_awake);
        assert_eq!(listed.scaling, None);
    }
    annotate(&scene, "scaler.dev/max-replicas", json!("1")).await;
    annotate(&scene, "scaler.dev/min-replicas", json!("2")).await;
    event(&scene, "InvalidAnnotation", "which takes precedence").await;
    let crossed = one(&leader, "mailer").await;
    assert_eq!((crossed.keep_awake.as_str(), crossed.scaling.unwrap().max_replicas), ("", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_the_dlxs_do_not_see_decide_nothing() {
    let scene = Scene::new().await;
    let mut web = mailer(json!({"scaler.dev/in-flight-per-replica": "8", "scaler.dev/max-replicas": "3"}));
    for name in ["queue", "messages-per-replica"] {
        web["metadata"]["annotations"].as_object_mut().unwrap().remove(&format!("scaler.dev/{name}"));
    }
    scene.create("Deployment", web).await;
    let leader = scene.leader().await;
    let alone = one(&leader, "mailer").await;
    assert!(alone.keep_awake.contains("no Service selects its pods"), "{}", alone.keep_awake);
    assert_eq!(alone.scaling, None);
    scene.create("Service", service("mailer", "mailer")).await;
    until(&leader, "mailer", |mailer| mailer.scaling.is_some()).await;
}
