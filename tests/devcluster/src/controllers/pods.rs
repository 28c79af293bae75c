//! What controllers ask of pods.

use std::cmp::Reverse;

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::Timestamp,
};
use kube::{Resource, api::ObjectMeta};

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

/// The order in which a ReplicaSet gives pods up, first to go first: unscheduled, pending, not ready, cheap to delete, young in readiness,
/// often restarted, young.
pub fn order_of_leaving(pod: &Pod) -> impl Ord + use<> {
    let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = match phase(pod) {
        "Running" => 2,
        "Pending" | "" => 0,
        _ => 1,
    };
    let cost: i32 = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or_default();
    let ready_since = ready_condition(pod)
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0.as_second());
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let restarts =
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    (scheduled, phase, is_ready(pod), cost, Reverse(ready_since), Reverse(restarts), Reverse(created))
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
