//! Whether a workload comes up, what it waits for, and why it cannot.

use std::collections::{HashMap, HashSet};

use crate::objects::{Container, PodObject, Workload};

/// How often a container may be started anew in one wake before it counts as one that cannot run.
const MAX_CRASHES: i32 = 3;

/// Reasons of the kubelet's that only a change of the object ends. It tries all of them again, after pauses that grow: a
/// wake that is asked for later waits until it has.
const FINAL_REASONS: [&str; 6] = [
    PULL_FAILED,
    PULL_PAUSES,
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// An image could not be pulled, a moment ago.
const PULL_FAILED: &str = "ErrImagePull";
/// The kubelet pauses before it pulls the image again.
const PULL_PAUSES: &str = "ImagePullBackOff";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodHealth {
    Ready,
    /// It is on its way; what for it waits, for people.
    Pending(String),
    /// It cannot come up as things are.
    Failed(String),
}

/// How pods were when a wake began: what they did before is not its own, and what had failed may no longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Baseline {
    /// How often containers had been started.
    restarts: HashMap<ContainerKey, i32>,
    /// The containers that had failed and were not retried since, as far as this process saw.
    failed: HashMap<ContainerKey, PastFailure>,
    /// Why pods could not be made.
    refused: Option<String>,
}

/// A container: its pod's uid and its name.
type ContainerKey = (String, String);

/// A past failure.
#[derive(Clone, Debug)]
struct PastFailure {
    reason: String,
    /// It was seen to pause since: if it fails now it has been tried again.
    paused: bool,
}

/// How a workload with replicas looks, with all its pods.
pub(crate) fn assess_pods<'a>(
    workload: &Workload,
    pods: impl Iterator<Item = &'a PodObject> + Clone,
    baseline: &Baseline,
) -> PodHealth {
    let alive = || pods.clone().filter(|pod| pod.alive());
    if alive().any(|pod| pod.ready) {
        return PodHealth::Ready;
    }
    // The first that may still come up decides; if none does, the first that cannot.
    let mut never = None;
    for pod in alive() {
        match assess_pod(pod, baseline) {
            PodHealth::Failed(reason) => never = never.or(Some(reason)),
            coming => return coming,
        }
    }
    let current = workload.observed.is_none_or(|observed| observed >= workload.generation);
    if let Some(reason) = never {
        PodHealth::Failed(reason)
    } else if let Some(refused) = workload.refused.as_ref().filter(|_| current) {
        let reason = format!("its pods cannot be created: {refused}");
        // A terminating pod counts for a quota until it is gone.
        let leaving = pods.clone().any(|pod| !pod.alive());
        match is_verdict(refused) && !leaving && baseline.refused.as_ref() != Some(refused) {
            true => PodHealth::Failed(reason),
            false => PodHealth::Pending(reason),
        }
    } else {
        PodHealth::Pending(match current {
            true => "waiting for its pods to be created".to_owned(),
            false => format!("waiting for the controller of {}", workload.kind.full_name()),
        })
    }
}

/// Whether a pod that was refused for this would be refused again: by a quota, a missing right, or as no valid pod. A
/// webhook or a server that did not answer may the next time.
fn is_verdict(refused: &str) -> bool {
    refused.contains("forbidden") || refused.contains("is invalid")
}

fn assess_pod(pod: &PodObject, baseline: &Baseline) -> PodHealth {
    let containers = || pod.containers.iter();
    if let Some(reason) = containers().find_map(|container| failure_reason(pod, container, baseline)) {
        return PodHealth::Failed(reason);
    }
    let waits = |what: String| PodHealth::Pending(format!("waiting for {what}"));
    if let Some(why) = pod.unschedulable.as_ref().filter(|_| !pod.scheduled) {
        return waits(format!("a node: {why}"));
    }
    if !pod.scheduled {
        return waits("a node".to_owned());
    }
    let name =
        |container: &Container| format!("the container {} of the pod {}", container.name, pod.meta.name);
    if let Some((container, waiting)) =
        containers().find_map(|container| Some((container, container.waiting.as_ref()?)))
    {
        let reason = if waiting.reason.is_empty() { "it has not started" } else { &waiting.reason };
        let message = match waiting.message.as_str() {
            "" => String::new(),
            message => format!(": {message}"),
        };
        return waits(format!("{}: {reason}{message}", name(container)));
    }
    match pod.serving().find(|container| !container.started) {
        Some(container) => waits(format!("{} to start", name(container))),
        None => waits(format!("the pod {} to be ready", pod.meta.name)),
    }
}

/// Why a container cannot run, if so.
fn failure_reason(pod: &PodObject, container: &Container, baseline: &Baseline) -> Option<String> {
    let name = &container.name;
    let waiting = container.waiting.as_ref().filter(|_| !baseline.awaits_another_try(pod, container));
    if let Some(waiting) = waiting.filter(|one| FINAL_REASONS.contains(&one.reason.as_str())) {
        let message =
            if waiting.message.is_empty() { "the kubelet gives no message" } else { &waiting.message };
        return Some(format!("container {name}: {}: {message}", waiting.reason));
    }
    let backs_off = waiting.is_some_and(|one| one.reason == "CrashLoopBackOff");
    let in_this_wake = container.restarts - baseline.restarts_of(pod, container).unwrap_or(0);
    // One that still runs between two crashes is not asked about: it may be its first that lasts.
    if in_this_wake >= MAX_CRASHES && !container.started || backs_off && container.restarts >= MAX_CRASHES {
        let ended = container.ended.as_deref().unwrap_or("ended");
        return Some(format!(
            "container {name} keeps crashing: restarted {} times, {ended}",
            container.restarts
        ));
    }
    None
}

// === impl Baseline ===

impl Baseline {
    /// As the workload and its pods are now.
    pub(crate) fn new<'a>(workload: Option<&Workload>, pods: impl Iterator<Item = &'a PodObject>) -> Self {
        let refused = workload.filter(|workload| workload.replicas > 0);
        let refused = refused.and_then(|workload| workload.refused.clone());
        let mut baseline = Self { refused, ..Self::default() };
        for (pod, container) in containers(pods) {
            let name = container_key(pod, container);
            if let Some(waiting) = &container.waiting
                && (FINAL_REASONS.contains(&waiting.reason.as_str()) || waiting.reason == "CrashLoopBackOff")
            {
                let paused = waiting.reason == PULL_PAUSES;
                baseline.failed.insert(name.clone(), PastFailure { reason: waiting.reason.clone(), paused });
            }
            baseline.restarts.insert(name, container.restarts);
        }
        baseline
    }

    /// The workload and its pods are like this by now: what of it is from before the wake no longer?
    pub(crate) fn update<'a>(&mut self, workload: &Workload, pods: impl Iterator<Item = &'a PodObject>) {
        if self.refused != workload.refused {
            self.refused = None;
        }
        if self.failed.is_empty() {
            return;
        }
        let mut still = HashSet::new();
        for (pod, container) in containers(pods) {
            let name = container_key(pod, container);
            let restarts = self.restarts_of(pod, container);
            let Some(failed) = self.failed.get_mut(&name) else { continue };
            let now = container.waiting.as_ref().map_or("", |waiting| &waiting.reason);
            failed.paused |= now == PULL_PAUSES;
            let as_before = match now {
                PULL_PAUSES => failed.reason == PULL_FAILED || failed.reason == PULL_PAUSES,
                PULL_FAILED => failed.reason == PULL_FAILED && !failed.paused,
                other => failed.reason == other && restarts == Some(container.restarts),
            };
            if as_before {
                still.insert(name);
            }
        }
        self.failed.retain(|name, _| still.contains(name));
    }

    /// Whether it is as it was when the wake began: it is not known yet whether what failed then would fail now.
    fn awaits_another_try(&self, pod: &PodObject, container: &Container) -> bool {
        self.failed.contains_key(&container_key(pod, container))
    }

    fn restarts_of(&self, pod: &PodObject, container: &Container) -> Option<i32> {
        self.restarts.get(&container_key(pod, container)).copied()
    }
}

fn containers<'a>(
    pods: impl Iterator<Item = &'a PodObject>,
) -> impl Iterator<Item = (&'a PodObject, &'a Container)> {
    pods.flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

fn container_key(pod: &PodObject, container: &Container) -> ContainerKey {
    (pod.meta.uid.clone(), container.name.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::{ApiResource, GroupVersionKind};
    use serde_json::json;

    use super::*;
    use crate::objects::Kind;

    fn workload(observed: i64, refused: Option<&str>) -> Workload {
        let api = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let kind = Arc::new(Kind { index: 0, api, replicas_path: "/spec/replicas".to_owned() });
        let conditions =
            refused.map(|message| json!([{"type": "ReplicaFailure", "status": "True", "message": message}]));
        let object = json!({
            "metadata": {"name": "web", "generation": 4}, "spec": {"replicas": 3},
            "status": {"observedGeneration": observed, "conditions": conditions.unwrap_or_default()},
        });
        Workload::new(&kind, serde_json::from_value(object).unwrap())
    }

    fn pod(change: impl FnOnce(&mut PodObject, &mut Container)) -> PodObject {
        let mut pod = PodObject { phase: "Pending".to_owned(), scheduled: true, ..PodObject::default() };
        pod.meta.name = "web-1".into();
        let mut container = Container { name: "web".to_owned(), ..Container::default() };
        change(&mut pod, &mut container);
        pod.containers.push(container);
        pod
    }

    fn waits(reason: &str, restarts: i32) -> PodObject {
        use crate::objects::WaitingReason;
        pod(|_, container| {
            container.waiting = Some(WaitingReason { reason: reason.to_owned(), message: "said".to_owned() });
            container.restarts = restarts;
            container.ended = Some("exited with status 1".to_owned());
        })
    }

    fn look(workload: &Workload, pods: &[PodObject]) -> PodHealth {
        assess_pods(workload, pods.iter(), &Baseline::default())
    }

    #[test]
    fn pending_reasons_are_distinguished_from_failures() {
        let web = workload(4, None);
        for reason in FINAL_REASONS {
            assert_eq!(
                look(&web, &[waits(reason, 0)]),
                PodHealth::Failed(format!("container web: {reason}: said"))
            );
        }
        for reason in ["ContainerCreating", "PodInitializing", "CrashLoopBackOff", "RunContainerError"] {
            let coming =
                PodHealth::Pending(format!("waiting for the container web of the pod web-1: {reason}: said"));
            assert_eq!(look(&web, &[waits(reason, 2)]), coming);
        }
        let PodHealth::Failed(reason) = look(&web, &[waits("CrashLoopBackOff", 3)]) else { panic!() };
        assert!(reason.contains("3 times, exited with status 1"), "{reason}");
    }

    #[test]
    fn one_that_may_come_up_is_enough_and_one_that_is_ready_is_the_end() {
        let web = workload(4, Some("pods \"web-\" is forbidden: exceeded quota"));
        let broken = || waits("ImagePullBackOff", 0);
        let coming = pod(|_, container| container.started = true);
        let ready = pod(|pod, _| pod.ready = true);
        assert_eq!(
            look(&web, &[broken(), coming.clone()]),
            PodHealth::Pending("waiting for the pod web-1 to be ready".to_owned())
        );
        assert_eq!(look(&web, &[broken(), coming, ready]), PodHealth::Ready);
        let leaving = pod(|pod, _| (pod.ready, pod.deleting) = (true, true));
        assert!(
            matches!(look(&web, std::slice::from_ref(&leaving)), PodHealth::Pending(_)),
            "it takes room in the quota still"
        );
        assert!(matches!(look(&web, &[]), PodHealth::Failed(_)));
        assert!(matches!(look(&workload(4, Some("failed calling webhook")), &[]), PodHealth::Pending(_)));
        assert_eq!(
            look(&workload(3, Some("pods \"web-\" is forbidden")), &[]),
            PodHealth::Pending("waiting for the controller of deployments.apps".to_owned()),
            "that was said of what it was before"
        );
        assert_eq!(
            look(&workload(4, None), &[leaving]),
            PodHealth::Pending("waiting for its pods to be created".to_owned())
        );
    }

    #[test]
    fn restarts_of_before_the_wake_are_not_its_own() {
        let web = workload(4, None);
        let mut old = waits("ContainerCreating", 7);
        let before = Baseline::new(None, [&old].into_iter());
        old.containers[0].restarts = 9;
        assert!(matches!(assess_pods(&web, [&old].into_iter(), &before), PodHealth::Pending(_)));
        old.containers[0].restarts = 10;
        assert!(matches!(assess_pods(&web, [&old].into_iter(), &before), PodHealth::Failed(_)));
        old.containers[0].started = true;
        assert!(
            matches!(assess_pods(&web, [&old].into_iter(), &before), PodHealth::Pending(_)),
            "it may be the one that lasts"
        );
    }

    /// What it waited for when a wake began, then what it waits for in turn, and whether that ends the wake.
    #[test]
    fn what_had_failed_before_the_wake_is_waited_for_until_it_was_tried_again() {
        let web = workload(4, None);
        for (before, then) in [
            ("ImagePullBackOff", vec![("ImagePullBackOff", false), ("ErrImagePull", true)]),
            ("ImagePullBackOff", vec![("ContainerCreating", false), ("ImagePullBackOff", true)]),
            (
                "ErrImagePull",
                vec![("ErrImagePull", false), ("ImagePullBackOff", false), ("ErrImagePull", true)],
            ),
            (
                "CreateContainerConfigError",
                vec![("CreateContainerConfigError", false), ("ErrImagePull", true)],
            ),
            ("ContainerCreating", vec![("ErrImagePull", true), ("ImagePullBackOff", true)]),
        ] {
            let mut baseline = Baseline::new(None, [&waits(before, 0)].into_iter());
            for (place, (now, ends)) in then.iter().enumerate() {
                let pod = waits(now, 0);
                baseline.update(&web, [&pod].into_iter());
                let looks = assess_pods(&web, [&pod].into_iter(), &baseline);
                assert_eq!(matches!(looks, PodHealth::Failed(_)), *ends, "{before}, {place}: {looks:?}");
            }
        }
    }

    #[test]
    fn a_crash_loop_of_before_the_wake_has_one_more_start() {
        let web = workload(4, None);
        let mut baseline = Baseline::new(None, [&waits("CrashLoopBackOff", 7)].into_iter());
        for (restarts, ends) in [(7, false), (8, true)] {
            let pod = waits("CrashLoopBackOff", restarts);
            baseline.update(&web, [&pod].into_iter());
            let looks = assess_pods(&web, [&pod].into_iter(), &baseline);
            assert_eq!(matches!(looks, PodHealth::Failed(_)), ends, "{restarts}: {looks:?}");
        }
    }

    #[test]
    fn a_quota_that_was_full_before_the_wake_may_have_room_by_now() {
        let full = |message: &str| workload(4, Some(message));
        let web = full("pods \"web-\" is forbidden: exceeded quota: small");
        let mut baseline = Baseline::new(Some(&web), [].into_iter());
        assert!(matches!(assess_pods(&web, [].into_iter(), &baseline), PodHealth::Pending(_)));
        let other = full("pods \"web-\" is forbidden: exceeded quota: other");
        baseline.update(&other, [].into_iter());
        assert!(matches!(assess_pods(&other, [].into_iter(), &baseline), PodHealth::Failed(_)));
    }
}
