//! Of a pod: what it costs to delete it.

use serde_json::{Value, json};

use super::{policy, with};
use crate::values::{of_kind, rendered};

const COST: &str = "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "mailer-1", "namespace": "shop", "uid": "1", "resourceVersion": "7", "labels": {"app": "mailer"},
            "annotations": {"example.com/owner": "shop"}, "managedFields": [{"manager": "kubelet"}],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "mailer", "uid": "2", "controller": true}],
        },
        "spec": {"nodeName": "one", "containers": [{"name": "mailer", "image": "mailer:1"}]},
        "status": {"phase": "Running"},
    })
}

#[test]
fn its_cost_is_written_changed_and_taken_away() {
    let policy = policy("autoscaler-pods");
    assert!(policy.is_asked("UPDATE", "", "pods") && !policy.is_asked("UPDATE", "", "pods/status"));
    let marked = with(with(pod(), COST, json!("-2147483648")), "/metadata/managedFields", json!([]));
    let marked =
        with(with(marked, "/metadata/resourceVersion", json!("8")), "/metadata/generation", json!(2));
    assert_eq!(policy.refuses(&pod(), &marked), None, "marked");
    assert_eq!(policy.refuses(&marked, &with(marked.clone(), COST, json!("3"))), None, "changed");
    assert_eq!(policy.refuses(&marked, &pod()), None, "taken away");
    let bare = with(pod(), "/metadata/annotations", json!(null));
    let alone = with(
        bare.clone(),
        "/metadata/annotations",
        json!({"controller.kubernetes.io/pod-deletion-cost": "0"}),
    );
    assert_eq!(policy.refuses(&bare, &alone), None, "the first annotation");
    assert_eq!(policy.refuses(&alone, &bare), None, "the last one");
}

#[test]
fn nothing_else_of_a_pod_can_be_changed() {
    let policy = policy("autoscaler-pods");
    for (pointer, value, message) in [
        ("/metadata/annotations/example.com~1owner", json!("me"), "no annotation"),
        ("/metadata/annotations/example.com~1owner", json!(null), "no annotation"),
        ("/metadata/annotations/another", json!("1"), "no annotation"),
        ("/metadata/annotations", json!(null), "no annotation"),
        ("/metadata/labels/app", json!("other"), "no metadata"),
        ("/metadata/labels", json!(null), "no metadata"),
        ("/metadata/ownerReferences", json!([]), "no metadata"),
        ("/metadata/finalizers", json!(["example.com/stays"]), "no metadata"),
        ("/spec/containers", json!([{"name": "mailer", "image": "mailer:2"}]), "nothing of a pod"),
        ("/spec/activeDeadlineSeconds", json!(1), "nothing of a pod"),
        ("/status/phase", json!("Failed"), "nothing of a pod"),
        ("/status", json!(null), "nothing of a pod"),
    ] {
        let changed = with(with(pod(), COST, json!("1")), pointer, value.clone());
        let why = policy.refuses(&pod(), &changed);
        assert!(why.is_some_and(|why| why.contains(message)), "{pointer} = {value}: {why:?}");
    }
}

/// By default the autoscaler has no such right, and so no such policy.
#[test]
fn it_is_there_only_with_the_right() {
    let has = |values: &str| {
        let objects = rendered(values);
        let policies = of_kind(&objects, "ValidatingAdmissionPolicy");
        policies.iter().any(|policy| policy.metadata.name.as_deref() == Some("scaler-scaler-autoscaler-pods"))
    };
    assert!(!has("") && has("autoscaler: {podDeletionCost: true}"));
}
