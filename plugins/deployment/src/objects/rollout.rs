//! How far the pods of a workload's current template are, by what its controller says in its status.

use std::time::Duration;

use kube::core::ApiResource;
use scaler_types::{Rollout, RolloutPhase};
use serde_json::Value;

/// `progressDeadlineSeconds` of who wants no deadline.
const NO_DEADLINE: u64 = i32::MAX as u64;

/// The rollout of a workload with so many replicas, whose pod template has this fingerprint; `None`: a kind whose status is
/// not known.
///
/// The controller knows the pods of the current template by the newest ReplicaSet's `pod-template-hash`, or by the
/// StatefulSet's `updateRevision`, and counts them. Its status at no replicas is no evidence: a rollout that was scaled
/// to zero counts as complete.
pub(crate) fn rollout(
    kind: &ApiResource,
    data: &Value,
    generation: i64,
    replicas: u32,
    template: String,
) -> Option<Rollout> {
    if kind.group != "apps" {
        return None;
    }
    let status = Counts::new(&data["status"], replicas);
    let (complete, overdue) = match kind.kind.as_str() {
        "Deployment" => status.deployment(),
        "StatefulSet" => (status.stateful_set(&data["spec"]["updateStrategy"]), false),
        _ => return None,
    };
    let seen = status.number("observedGeneration") >= u64::try_from(generation).unwrap_or_default();
    let phase = match (complete, overdue) {
        (true, _) if seen => RolloutPhase::Complete,
        (_, true) if seen => RolloutPhase::Overdue,
        _ => RolloutPhase::Progressing,
    };
    let waits = match phase {
        RolloutPhase::Complete => String::new(),
        _ if !seen => {
            format!("the controller of {}.{} has not observed its last change", kind.plural, kind.group)
        }
        _ => status.describe(),
    };
    let deadline = data["spec"]["progressDeadlineSeconds"].as_u64().filter(|seconds| *seconds < NO_DEADLINE);
    Some(Rollout { revision: template, phase, status: waits, deadline: deadline.map(Duration::from_secs) })
}

/// The counts of a status.
struct Counts<'a> {
    status: &'a Value,
    wanted: u64,
}

// === impl Counts ===

impl<'a> Counts<'a> {
    fn new(status: &'a Value, replicas: u32) -> Self {
        Self { status, wanted: replicas.into() }
    }

    /// A missing number is zero: the API leaves zeros out.
    fn number(&self, name: &str) -> u64 {
        self.status[name].as_u64().unwrap_or_default()
    }

    /// Complete, and past its deadline.
    fn deployment(&self) -> (bool, bool) {
        let conditions = self.status["conditions"].as_array();
        let progressing = conditions.into_iter().flatten().find(|one| one["type"] == "Progressing");
        let reason = progressing.and_then(|one| one["reason"].as_str()).unwrap_or_default();
        let (updated, ready) = (self.number("updatedReplicas"), self.number("readyReplicas"));
        let no_others = self.number("replicas") == updated;
        let complete = match reason {
            // It stays when pods are no longer ready, when the Deployment is scaled, and when a template comes back that was
            // complete once. So it counts only with a ready pod, and with none of another template.
            "NewReplicaSetAvailable" => no_others && ready > 0,
            _ => no_others && updated >= self.wanted && self.number("availableReplicas") >= self.wanted,
        };
        (complete, reason == "ProgressDeadlineExceeded")
    }

    fn stateful_set(&self, strategy: &Value) -> bool {
        let ready = self.number("readyReplicas");
        let same = self.status["currentRevision"] == self.status["updateRevision"];
        // With `OnDelete` the user deletes the pods and so decides when they are replaced.
        if same || strategy["type"] == "OnDelete" {
            return ready > 0;
        }
        let kept = strategy["rollingUpdate"]["partition"].as_u64().unwrap_or_default();
        let due = self.wanted.saturating_sub(kept);
        self.number("updatedReplicas") >= due && ready >= self.wanted
    }

    fn describe(&self) -> String {
        let Self { wanted, .. } = self;
        let (updated, ready) = (self.number("updatedReplicas"), self.number("readyReplicas"));
        let others = self.number("replicas").saturating_sub(updated);
        let rest = if others > 0 { format!(", {others} have an earlier one") } else { String::new() };
        format!("{updated} of {wanted} pods have the current template{rest}, {ready} are ready")
    }
}

#[cfg(test)]
mod tests {
    use kube::core::GroupVersionKind;
    use serde_json::json;

    use super::*;

    fn rollout_of(kind: &str, replicas: u32, spec: Value, status: Value) -> Rollout {
        let group = if kind == "Rollout" { "argoproj.io" } else { "apps" };
        let api = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let data = json!({"spec": spec, "status": status});
        rollout(&api, &data, 4, replicas, "f".to_owned()).expect("its status is known")
    }

    fn deployment(reason: &str, status: Value) -> RolloutPhase {
        let mut status = status;
        if status["observedGeneration"].is_null() {
            status["observedGeneration"] = 4.into();
        }
        if !reason.is_empty() {
            status["conditions"] = json!([{"type": "Available"}, {"type": "Progressing", "reason": reason}]);
        }
        rollout_of("Deployment", 3, json!({}), status).phase
    }

    #[test]
    fn a_deployments_rollout() {
        use RolloutPhase::{Complete, Overdue, Progressing};
        let all = json!({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3});
        let one = json!({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 1, "availableReplicas": 1});
        let none = json!({"replicas": 3, "updatedReplicas": 3});
        let behind = json!({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
            "observedGeneration": 3});
        let mixed = json!({"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3});
        for (reason, status, expected) in [
            ("NewReplicaSetAvailable", &all, Complete),
            ("NewReplicaSetAvailable", &behind, Progressing),
            ("ReplicaSetUpdated", &one, Progressing),
            ("ReplicaSetUpdated", &all, Complete),
            ("ReplicaSetUpdated", &none, Progressing),
            ("NewReplicaSetCreated", &mixed, Progressing),
            ("ProgressDeadlineExceeded", &mixed, Overdue),
            ("ProgressDeadlineExceeded", &behind, Progressing),
            // After a wake, and when an earlier template has come back, the condition is from before.
            ("NewReplicaSetAvailable", &none, Progressing),
            ("NewReplicaSetAvailable", &mixed, Progressing),
            ("NewReplicaSetAvailable", &json!({}), Progressing),
            ("NewReplicaSetAvailable", &one, Complete),
            // Without a deadline there is no condition.
            ("", &one, Progressing),
            ("", &all, Complete),
            ("DeploymentPaused", &mixed, Progressing),
        ] {
            assert_eq!(deployment(reason, status.clone()), expected, "{reason} {status}");
        }
    }

    #[test]
    fn a_stateful_sets_rollout() {
        use RolloutPhase::{Complete, Progressing};
        let rolling = |partition: u32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
        let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
        let status = |current: &str, updated: u32, ready: u32| {
            json!({"observedGeneration": 4, "currentRevision": current, "updateRevision": "b",
                "replicas": 3, "updatedReplicas": updated, "readyReplicas": ready})
        };
        for (spec, status, expected) in [
            (rolling(0), status("b", 1, 1), Complete),
            (rolling(0), status("b", 1, 0), Progressing),
            (rolling(0), status("a", 1, 3), Progressing),
            (rolling(0), status("a", 3, 2), Progressing),
            (rolling(0), status("a", 3, 3), Complete),
            (rolling(2), status("a", 1, 3), Complete),
            (rolling(2), status("a", 0, 3), Progressing),
            (on_delete.clone(), status("a", 0, 3), Complete),
            (on_delete, status("a", 0, 0), Progressing),
        ] {
            assert_eq!(
                rollout_of("StatefulSet", 3, spec.clone(), status.clone()).phase,
                expected,
                "{spec} {status}"
            );
        }
    }

    #[test]
    fn the_status_counts_the_pods_and_the_deadline_is_read() {
        let deadline = |seconds: i32| json!({"progressDeadlineSeconds": seconds});
        let status =
            json!({"observedGeneration": 4, "replicas": 4, "updatedReplicas": 1, "readyReplicas": 2});
        let rollout = rollout_of("Deployment", 3, deadline(90), status);
        assert_eq!(rollout.deadline, Some(Duration::from_secs(90)));
        assert_eq!(
            rollout.status,
            "1 of 3 pods have the current template, 3 have an earlier one, 2 are ready"
        );
        let none = rollout_of("Deployment", 3, deadline(i32::MAX), json!({}));
        assert_eq!(none.deadline, None);
        assert_eq!(none.status, "the controller of deployments.apps has not observed its last change");
    }
}
