//! What controllers ask of pods.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::Timestamp,
};
use kube::{Resource, api::ObjectMeta};

/// Pods with less of it go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Counted and managed: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Succeeded or Failed.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Its Ready condition.
pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Seconds until a ready pod counts as available; 0 if it does.
pub fn available_in(pod: &Pod, min_ready_seconds: i32) -> Option<u64> {
    let condition = ready_condition(pod).filter(|condition| condition.status == "True")?;
    let since = condition.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
    let left = since + i64::from(min_ready_seconds) - Timestamp::now().as_second();
    Some(if min_ready_seconds == 0 { 0 } else { left.try_into().unwrap_or_default() })
}

/// Its phase; empty before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Those of `pods` that a ReplicaSet gives up first, so many: unscheduled, pending, not ready, cheap to delete, on a node with many of
/// `related`, ready for a short time, often restarted, young (`ActivePodsWithRanks` of kube-controller-manager). Ages differ by powers
/// of two; between the same ones the uid decides.
pub fn first_to_leave(
    mut pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut ranks: HashMap<_, usize> = HashMap::new();
    for pod in related {
        *ranks.entry(node_of(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| ranks.get(&node_of(pod)).copied();
    // The order has cycles, as Kubernetes' own: it is no order to sort by.
    let mut leaving = Vec::new();
    while leaving.len() < count
        && let Some(first) =
            (0..pods.len()).reduce(|a, b| if leaves_before(&pods[b], &pods[a], rank, now) { b } else { a })
    {
        leaving.push(pods.swap_remove(first));
    }
    leaving
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn leaves_before(a: &Pod, b: &Pod, rank: impl Fn(&Pod) -> Option<usize>, now: Timestamp) -> bool {
    let coarse = |pod: &Pod| {
        let phase = match phase(pod) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        };
        (node_of(pod).is_some(), phase, is_ready(pod), deletion_cost(pod), Reverse(rank(pod)))
    };
    let (left, right) = (coarse(a), coarse(b));
    if left != right {
        return left < right;
    }
    let age = |time: Timestamp| {
        let nanoseconds = u128::try_from(now.duration_since(time).as_nanos()).unwrap_or_default();
        nanoseconds.checked_ilog2()
    };
    let younger = |one: Option<Timestamp>, other: Option<Timestamp>| match (one, other) {
        (Some(one), Some(other)) if age(one) == age(other) => a.metadata.uid < b.metadata.uid,
        (Some(one), Some(other)) => age(one) < age(other),
        (one, _) => one.is_none(),
    };
    let ready_since = |pod: &Pod| {
        let condition = ready_condition(pod).filter(|condition| condition.status == "True")?;
        condition.last_transition_time.as_ref().map(|time| time.0)
    };
    let restarts = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if ready_since(a) != ready_since(b) {
        younger(ready_since(a), ready_since(b))
    } else if restarts(a) != restarts(b) {
        restarts(a) > restarts(b)
    } else if created(a) != created(b) {
        younger(created(a), created(b))
    } else {
        false
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// The object that controls this one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference that says `owner` controls what carries it.
pub fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A new pod of `owner` after its template.
pub fn from_template<K: Resource<DynamicType = ()>>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controlled_by(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    /// A ready pod, two hours old, with that over it.
    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2025-12-31T23:00:00Z"},
            "spec": {"nodeName": "n0", "containers": []},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-12-31T23:00:10Z"}],
            },
        });
        for (pointer, value) in more.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        serde_json::from_value(pod).map(Arc::new).unwrap()
    }

    fn leaving(pods: &[Arc<Pod>], related: &[Arc<Pod>]) -> Vec<String> {
        let all = first_to_leave(pods.to_vec(), related, pods.len(), NOW.parse().unwrap());
        all.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn pods_leave_in_the_order_of_kubernetes() {
        let cost = |cost: &str| json!({"/metadata/annotations": {DELETION_COST: cost}});
        let ready = |at: &str| json!({"/status/conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
        let restarts = json!([{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2}]);
        let order = [
            pod("unassigned", json!({"/spec/nodeName": null, "/metadata/annotations": {DELETION_COST: "9"}})),
            pod("pending", json!({"/status/phase": "Pending"})),
            pod("unready", json!({"/status/conditions": []})),
            pod("cheap", cost("-1")),
            pod("crowded", json!({"/spec/nodeName": "n1"})),
            pod("young-in-readiness", ready("2026-01-01T00:59:00Z")),
            pod("restarted", json!({"/status/containerStatuses": restarts})),
            pod("young", json!({"/metadata/creationTimestamp": "2026-01-01T00:59:00Z"})),
            pod("plain", json!({})),
            pod("dear", cost("1")),
        ];
        let crowd: Vec<_> = (0..20).map(|_| pod("other", json!({"/spec/nodeName": "n1"}))).collect();
        let related: Vec<_> = order.iter().chain(&crowd).cloned().collect();
        let names: Vec<_> = order.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        let reversed: Vec<_> = order.iter().rev().cloned().collect();
        assert_eq!(leaving(&reversed, &related), names);
        assert_eq!(leaving(&order, &related), names);
    }

    /// An age is a power of two, so that a deployment of long ago does not lose its youngest pods alone.
    #[test]
    fn among_pods_of_about_the_same_age_the_uid_decides() {
        let at = |name: &str, time: &str| {
            pod(
                name,
                json!({"/status/conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}),
            )
        };
        let pods = [
            at("b", "2025-12-31T23:50:00Z"),
            at("a", "2025-12-31T23:55:00Z"),
            at("c", "2026-01-01T00:50:00Z"),
        ];
        assert_eq!(leaving(&pods, &pods), ["c", "a", "b"]);
        let pods = [at("a", "2025-12-31T23:50:00Z"), at("b", "2025-12-31T23:55:00Z")];
        assert_eq!(leaving(&pods, &pods), ["a", "b"], "though b is younger");
    }
}
