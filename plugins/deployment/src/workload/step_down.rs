//! Which pods a step down takes: none that has work, as far as the workload's controller lets that be chosen.

use std::{cmp::Reverse, collections::BTreeSet};

use k8s_openapi::api::core::v1 as core;

use crate::{objects::PodObject, workload::busy::PodActivity};

/// A ReplicaSet gives up pods with less of it first. A pod without it counts as 0.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The cost of the pods that a step down is to take. Nothing is cheaper.
pub(crate) const CHEAPEST: i32 = i32::MIN;

/// At most so many pods are named in a reason.
const MAX_NAMED: usize = 3;

/// A pod of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) ip: Option<String>,
    /// A container of it runs: else it cannot have work.
    pub(crate) runs: bool,
    /// A ReplicaSet gives up what is less here first, whatever it costs: it has a node, runs, is ready.
    standing: (bool, bool, bool),
    cost: i32,
    ordinal: Option<u32>,
    /// The uid of what made it.
    owner: String,
    pub(crate) activity: PodActivity,
}

/// How a workload's controller chooses the pods that it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// As a ReplicaSet: the cheapest of those in the best standing last.
    Cheapest,
    /// As a StatefulSet: the last ones, of ordinals from this one on.
    Last(u32),
    /// It is not known.
    Any,
}

/// A step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StepDown {
    /// The replicas to write: as wanted, or more.
    pub(crate) replicas: u32,
    /// What is to be written before: pods by name, with their new cost, or none.
    pub(crate) costs: Vec<(String, Option<i32>)>,
}

// === impl Replica ===

impl Replica {
    /// From a pod that something controls; `None` for one that ends or has ended.
    pub(crate) fn new(pod: core::Pod) -> Option<Self> {
        let meta = pod.metadata.clone();
        let owner =
            meta.owner_references.into_iter().flatten().find(|owner| owner.controller == Some(true))?;
        let cost = meta.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
        let ordinal = meta.name.as_deref().and_then(|name| name.rsplit('-').next()?.parse().ok());
        let assigned = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let known = PodObject::from(pod);
        let (running, alive) = (known.phase == "Running", known.alive());
        alive.then(|| Self {
            standing: (assigned, running, known.ready),
            cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or_default(),
            ordinal,
            owner: owner.uid,
            runs: known.containers.iter().any(|container| container.started),
            ip: known.ip,
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            activity: PodActivity::Idle,
        })
    }

    fn is_busy(&self) -> bool {
        self.activity != PodActivity::Idle
    }
}

/// A step from `now` replicas to `wanted` that takes no busy pod.
///
/// # Errors
///
/// There is none: why.
pub(crate) fn plan_step_down(
    pods: &[Replica],
    removal: Removal,
    now: u32,
    wanted: u32,
) -> Result<StepDown, String> {
    let as_wanted = StepDown { replicas: wanted, costs: Vec::new() };
    let Some(busy) = describe_busy(pods) else { return Ok(as_wanted) };
    let step = match removal {
        Removal::Any => return Err(format!("{busy}, and its controller may remove any of them")),
        Removal::Last(first) => {
            let ordinals = pods.iter().filter(|pod| pod.is_busy()).filter_map(|pod| pod.ordinal);
            let in_range = ordinals.map(|ordinal| ordinal.saturating_sub(first)).filter(|place| *place < now);
            StepDown { replicas: in_range.max().map_or(wanted, |last| wanted.max(last + 1)), ..as_wanted }
        }
        Removal::Cheapest => {
            let owners: BTreeSet<_> = pods.iter().map(|pod| &pod.owner).collect();
            if owners.len() > 1 {
                return Err(format!("{busy}, and a rollout is in progress"));
            }
            step_down_by_cost(pods, wanted)
        }
    };
    if step.replicas >= now { Err(busy) } else { Ok(step) }
}

fn step_down_by_cost(pods: &[Replica], wanted: u32) -> StepDown {
    let mut order: Vec<_> = pods.iter().collect();
    // Those that are marked already come first, so that their mark need not be taken away.
    order.sort_by_key(|pod| (pod.standing, pod.is_busy(), pod.cost, Reverse(pod.uid.as_str())));
    let alive = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    let too_many = usize::try_from(alive.saturating_sub(wanted)).unwrap_or(usize::MAX);
    let idle = order.iter().take_while(|pod| !pod.is_busy()).count();
    let (leaving, staying) = order.split_at(too_many.min(idle));
    let is_marked = |pod: &&&Replica| pod.cost == CHEAPEST;
    let unmarked = staying.iter().filter(is_marked).map(|pod| (pod.name.clone(), None));
    let cheaper_stays = |leaving: &Replica| {
        let alike = staying.iter().filter(|pod| pod.standing == leaving.standing && !is_marked(pod));
        let reset =
            staying.iter().filter(|pod| pod.standing == leaving.standing && is_marked(pod)).map(|_| 0);
        alike.map(|pod| pod.cost).chain(reset).any(|cost| cost <= leaving.cost)
    };
    let marked =
        leaving.iter().filter(|pod| cheaper_stays(pod)).map(|pod| (pod.name.clone(), Some(CHEAPEST)));
    let left = alive.saturating_sub(u32::try_from(leaving.len()).unwrap_or(u32::MAX));
    StepDown { replicas: wanted.max(left), costs: unmarked.chain(marked).collect() }
}

/// Which of them are busy, and why; `None` if none is.
pub(crate) fn describe_busy(pods: &[Replica]) -> Option<String> {
    let busy: Vec<_> = pods
        .iter()
        .filter_map(|pod| match &pod.activity {
            PodActivity::Busy(why) => Some(format!("{}: {why}", pod.name)),
            PodActivity::Idle => None,
        })
        .collect();
    let (count, all) = (busy.len(), pods.len());
    let more = if count > MAX_NAMED { format!(", and {} more", count - MAX_NAMED) } else { String::new() };
    let named = busy.get(..count.min(MAX_NAMED)).unwrap_or_default().join(", ");
    (count > 0).then(|| format!("{count} of its {all} pods may have work ({named}{more})"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, cost: Option<&str>, status: Value) -> Replica {
        let annotations = cost.map(|cost| json!({DELETION_COST: cost}));
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name, "resourceVersion": "7", "annotations": annotations,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "set", "controller": true}],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "a"}]},
            "status": status,
        });
        Replica::new(serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn running() -> Value {
        json!({
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}],
        })
    }

    /// Ready pods; those in capitals are busy.
    fn pods(names: &[&str]) -> Vec<Replica> {
        let one = |name: &&str| {
            let busy = name.starts_with(char::is_uppercase);
            let activity = if busy { PodActivity::Busy("it works".to_owned()) } else { PodActivity::Idle };
            Replica { activity, ..pod(name, None, running()) }
        };
        names.iter().map(one).collect()
    }

    fn marks(step: &StepDown) -> Vec<(&str, Option<i32>)> {
        step.costs.iter().map(|(name, cost)| (name.as_str(), *cost)).collect()
    }

    #[test]
    fn idle_pods_leave_as_wanted_and_cost_nothing() {
        for removal in [Removal::Cheapest, Removal::Last(0), Removal::Any] {
            let step = plan_step_down(&pods(&["a-0", "a-1", "a-2"]), removal, 3, 1).unwrap();
            assert_eq!(step, StepDown { replicas: 1, costs: Vec::new() }, "{removal:?}");
        }
    }

    #[test]
    fn idle_pods_are_marked_where_busy_ones_stay_and_no_more_leave_than_are_idle() {
        let step = plan_step_down(&pods(&["A", "b", "C", "d"]), Removal::Cheapest, 4, 3).unwrap();
        assert_eq!((step.replicas, marks(&step)), (3, vec![("d", Some(CHEAPEST))]));
        let step = plan_step_down(&pods(&["A", "b", "C", "d"]), Removal::Cheapest, 4, 1).unwrap();
        assert_eq!(
            (step.replicas, marks(&step)),
            (2, vec![("d", Some(CHEAPEST)), ("b", Some(CHEAPEST))]),
            "a smaller step"
        );
        let none = plan_step_down(&pods(&["A", "B"]), Removal::Cheapest, 2, 1).unwrap_err();
        assert_eq!(none, "2 of its 2 pods may have work (A: it works, B: it works)");
    }

    #[test]
    fn a_cost_is_written_only_where_it_changes() {
        let mut all = pods(&["A", "b", "c", "D"]);
        all[1].cost = -3;
        all[0].cost = -2;
        let step = plan_step_down(&all, Removal::Cheapest, 4, 3).unwrap();
        assert_eq!((step.replicas, marks(&step)), (3, vec![]), "its own annotation makes it the cheapest");
        // Left by a step that did not happen: it is busy now.
        all[3].cost = CHEAPEST;
        let step = plan_step_down(&all, Removal::Cheapest, 4, 3).unwrap();
        assert_eq!((step.replicas, marks(&step)), (3, vec![("D", None)]));
        all[1].cost = 0;
        let step = plan_step_down(&all, Removal::Cheapest, 4, 3).unwrap();
        assert_eq!(marks(&step), [("D", None), ("c", Some(CHEAPEST))]);
        // It is still idle: it is the one.
        all[2].cost = CHEAPEST;
        let step = plan_step_down(&all, Removal::Cheapest, 4, 3).unwrap();
        assert_eq!(marks(&step), [("D", None)]);
    }

    /// Whatever they cost, a ReplicaSet takes pods that are not ready first.
    #[test]
    fn a_busy_pod_that_is_not_ready_forbids_what_would_take_it() {
        let mut all = pods(&["A", "b", "c"]);
        all[0].standing.2 = false;
        let none = plan_step_down(&all, Removal::Cheapest, 3, 2).unwrap_err();
        assert!(none.contains("A: it works"), "{none}");
        // One that has no node leaves before it.
        all[1].standing = (false, false, false);
        let step = plan_step_down(&all, Removal::Cheapest, 3, 1).unwrap();
        assert_eq!((step.replicas, marks(&step)), (2, vec![]));
    }

    #[test]
    fn a_step_down_within_a_rollout_waits_where_a_pod_is_busy() {
        let mut all = pods(&["A", "b", "c"]);
        all[2].owner = "another".to_owned();
        let none = plan_step_down(&all, Removal::Cheapest, 3, 2).unwrap_err();
        assert!(none.ends_with("and a rollout is in progress"), "{none}");
        all[0].activity = PodActivity::Idle;
        assert_eq!(plan_step_down(&all, Removal::Cheapest, 3, 2).unwrap().replicas, 2);
    }

    /// Pods that are missing already, and such as are still to be deleted.
    #[test]
    fn the_pods_there_are_count_not_those_that_there_should_be() {
        let step = plan_step_down(&pods(&["A", "b"]), Removal::Cheapest, 4, 2).unwrap();
        assert_eq!((step.replicas, marks(&step)), (2, vec![]), "none leaves");
        let step = plan_step_down(&pods(&["A", "B", "c"]), Removal::Cheapest, 4, 1).unwrap();
        assert_eq!((step.replicas, marks(&step)), (2, vec![("c", Some(CHEAPEST))]));
        let none = plan_step_down(&pods(&["A", "B", "C", "d"]), Removal::Cheapest, 2, 1);
        assert!(none.is_err(), "{none:?}: three of them have work");
    }

    #[test]
    fn a_stateful_set_steps_down_as_far_as_its_last_pods_are_idle() {
        for (names, first, now, wanted, expected) in [
            (vec!["Web-0", "web-1", "web-2"], 0, 3, 1, Some(1)),
            (vec!["Web-0", "Web-1", "web-2"], 0, 3, 1, Some(2)),
            (vec!["web-0", "web-1", "Web-2"], 0, 3, 1, None),
            (vec!["Web-5", "Web-6", "web-7"], 5, 3, 1, Some(2)),
            // Its last pods are not there yet.
            (vec!["web-0", "Web-1"], 0, 4, 1, Some(2)),
            // Others are on their way out already.
            (vec!["web-0", "Web-1", "web-2", "Web-3", "web-4"], 0, 3, 1, Some(2)),
            (vec!["web-0", "web-1", "web-2", "Web-3"], 0, 3, 1, Some(1)),
            (vec!["Web-9", "web-10"], 9, 2, 1, Some(1)),
        ] {
            let step = plan_step_down(&pods(&names), Removal::Last(first), now, wanted);
            assert_eq!(step.ok().map(|step| step.replicas), expected, "{names:?}");
        }
    }

    #[test]
    fn where_the_controller_may_take_any_all_must_be_idle() {
        let none = plan_step_down(&pods(&["A", "b"]), Removal::Any, 2, 1).unwrap_err();
        assert!(none.ends_with("and its controller may remove any of them"), "{none}");
    }

    #[test]
    fn what_ends_or_is_uncontrolled_is_no_replica_and_what_does_not_run_has_no_work() {
        let core_pod = |change: &dyn Fn(&mut Value)| {
            let mut pod = json!({
                "metadata": {"name": "a", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "set", "controller": true},
                ]},
                "spec": {"containers": [{"name": "a"}]},
                "status": {"phase": "Pending"},
            });
            change(&mut pod);
            Replica::new(serde_json::from_value(pod).unwrap())
        };
        assert!(core_pod(&|_| {}).is_some_and(|pod| !pod.runs));
        assert!(core_pod(&|pod| pod["status"] = running()).is_some_and(|pod| pod.runs));
        assert!(core_pod(&|pod| pod["status"]["phase"] = json!("Failed")).is_none());
        assert!(
            core_pod(&|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")).is_none()
        );
        assert!(core_pod(&|pod| pod["metadata"]["ownerReferences"] = json!([])).is_none());
    }

    #[test]
    fn few_of_the_busy_ones_are_named() {
        let text = describe_busy(&pods(&["A", "B", "C", "D", "E", "f"])).unwrap();
        assert!(text.starts_with("5 of its 6 pods") && text.ends_with("C: it works, and 2 more)"), "{text}");
        assert_eq!(describe_busy(&pods(&["a"])), None);
    }

    proptest! {
        /// With the costs written, what a ReplicaSet takes first is idle.
        #[test]
        fn what_leaves_is_idle(
            states in prop::collection::vec((any::<bool>(), any::<bool>(), -2..3_i32, any::<bool>()), 1..12),
            wanted in 1..6_u32,
        ) {
            let mut all = pods(&vec!["x"; states.len()]);
            for (place, (pod, (busy, ready, cost, marked))) in all.iter_mut().zip(&states).enumerate() {
                pod.name = format!("p{place}");
                pod.standing.2 = *ready;
                pod.cost = if *marked { CHEAPEST } else { *cost };
                pod.activity = if *busy { PodActivity::Busy(String::new()) } else { PodActivity::Idle };
            }
            let now = u32::try_from(all.len()).unwrap();
            if wanted < now && let Ok(step) = plan_step_down(&all, Removal::Cheapest, now, wanted) {
                prop_assert!((wanted..now).contains(&step.replicas));
                for (name, cost) in &step.costs {
                    let pod = all.iter_mut().find(|pod| pod.name == *name).unwrap();
                    let cost = cost.unwrap_or_default();
                    prop_assert_ne!(pod.cost, cost);
                    pod.cost = cost;
                }
                // Of equal ones it may take any: the busy one, to be sure.
                all.sort_by_key(|pod| (pod.standing, pod.cost, !pod.is_busy()));
                let leaving = &all[..usize::try_from(now - step.replicas).unwrap()];
                prop_assert!(describe_busy(&all).is_none() || describe_busy(leaving).is_none(), "{:?}", leaving);
            }
        }
    }
}
