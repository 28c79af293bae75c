//! Of a workload: the record and the replicas.

use serde_json::{Value, json};

use super::{policy, with};

fn asleep() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "7", "generation": 3,
            "labels": {"app": "web"},
            "annotations": {"scaler.dev/scale-to-zero": "10m", "scaler.dev/state": "{\"phase\":\"asleep\"}"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
        },
        "status": {"observedGeneration": 3},
    })
}

const RECORD: &str = "/metadata/annotations/scaler.dev~1state";

#[test]
fn records_and_wakes_pass() {
    let waking = with(with(asleep(), RECORD, json!("{\"phase\":\"waking\"}")), "/spec/replicas", json!(3));
    // What the API server writes itself.
    let waking = with(with(waking, "/metadata/generation", json!(4)), "/metadata/managedFields", json!([]));
    let awake = with(asleep(), "/spec/replicas", json!(3));
    let draining = with(awake.clone(), RECORD, json!("{\"phase\":\"draining\"}"));
    let untouched = with(awake.clone(), RECORD, json!(null));
    let bare = with(untouched.clone(), "/metadata/annotations", json!(null));
    let first = with(bare.clone(), "/metadata/annotations", json!({"scaler.dev/state": "{}"}));
    for daemon in ["dlx", "autoscaler"] {
        let policy = policy(daemon);
        assert_eq!(policy.refuses(&asleep(), &waking), None, "{daemon}: a wake");
        assert_eq!(policy.refuses(&awake, &draining), None, "{daemon}: a record");
        assert_eq!(policy.refuses(&untouched, &awake), None, "{daemon}: a first record");
        assert_eq!(policy.refuses(&bare, &first), None, "{daemon}: a first annotation");
    }
    assert_eq!(policy("autoscaler").refuses(&awake, &asleep()), None, "scaled to zero");
}

/// A restored workload has nothing of ours on it.
#[test]
fn a_record_may_be_taken_away_and_the_annotations_with_it_if_there_is_no_other() {
    let policy = policy("autoscaler");
    assert!(
        policy.is_asked("UPDATE", "apps", "deployments") && policy.is_asked("UPDATE", "apps", "statefulsets")
    );
    let without = with(asleep(), RECORD, json!(null));
    assert_eq!(policy.refuses(&asleep(), &without), None, "beside others");
    let woken = with(without, "/spec/replicas", json!(3));
    assert_eq!(policy.refuses(&asleep(), &woken), None, "and woken with it");
    let alone = with(asleep(), "/metadata/annotations", json!({"scaler.dev/state": "{}"}));
    for nothing in [json!(null), json!({})] {
        let bare = with(alone.clone(), "/metadata/annotations", nothing);
        assert_eq!(policy.refuses(&alone, &bare), None, "the only one");
    }
    let more = with(asleep(), "/metadata/annotations", json!(null));
    assert!(policy.refuses(&asleep(), &more).is_some(), "not the user's");
}

#[test]
fn a_dlx_puts_nothing_to_sleep() {
    let awake = with(asleep(), "/spec/replicas", json!(3));
    for fewer in [0, 1, 5] {
        let changed = with(awake.clone(), "/spec/replicas", json!(fewer));
        assert_eq!(
            policy("dlx").refuses(&awake, &changed),
            Some("A DLX changes a workload's replicas from zero up only."),
            "3 to {fewer}"
        );
    }
}

#[test]
fn nothing_else_of_a_workload_can_be_changed() {
    for daemon in ["dlx", "autoscaler"] {
        let policy = policy(daemon);
        for (pointer, value, message) in [
            ("/spec/template/spec/containers/0/image", json!("evil:1"), "spec"),
            ("/spec/template/spec/serviceAccountName", json!("admin"), "spec"),
            ("/spec/paused", json!(true), "spec"),
            ("/spec/selector", json!(null), "spec"),
            ("/metadata/labels/app", json!("other"), "metadata"),
            ("/metadata/labels", json!(null), "metadata"),
            ("/metadata/finalizers", json!(["keep"]), "metadata"),
            ("/metadata/ownerReferences", json!([{"uid": "2"}]), "metadata"),
            ("/metadata/annotations/scaler.dev~1scale-to-zero", json!("1s"), "annotation"),
            ("/metadata/annotations/scaler.dev~1scale-to-zero", json!(null), "annotation"),
            ("/metadata/annotations/example.com~1role", json!("admin"), "annotation"),
            ("/metadata/annotations", json!(null), "annotation"),
            ("/status/observedGeneration", json!(4), "beside"),
        ] {
            let changed = with(asleep(), pointer, value);
            let refused = policy.refuses(&asleep(), &changed);
            assert!(refused.is_some_and(|why| why.contains(message)), "{daemon}: {pointer}: {refused:?}");
        }
    }
}
