//! Whether a workload comes up, what it waits for, and why it cannot.

use std::collections::HashMap;

use crate::facts::{Container, Pod, Workload};

/// How often a container may be started anew in one wake before it counts as one that cannot run.
const CRASHES: i32 = 3;

/// Reasons of the kubelet's that do not pass by waiting. Back-offs are tried again, but for what they name it takes a
/// change by somebody: a wake that is asked for later sees whether it came.
const FINAL: [&str; 5] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// How it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// A pod is ready.
    Ready,
    /// It is on its way; what for it waits, for people.
    Coming(String),
    /// It cannot come up as things are.
    Never(String),
}

/// How often containers had been started when a wake began, by pod and container: what they did before is not its own.
#[derive(Clone, Debug, Default)]
pub struct Baseline(HashMap<(String, String), i32>);

/// How a workload with replicas looks, with all its pods.
pub fn outlook<'a>(
    workload: &Workload,
    pods: impl Iterator<Item = &'a Pod> + Clone,
    baseline: &Baseline,
) -> Outlook {
    let alive = || pods.clone().filter(|pod| pod.alive());
    if alive().any(|pod| pod.ready) {
        return Outlook::Ready;
    }
    // The first that may still come up decides; if none does, the first that cannot.
    let mut never = None;
    for pod in alive() {
        match of_pod(pod, baseline) {
            Outlook::Never(reason) => never = never.or(Some(reason)),
            coming => return coming,
        }
    }
    let current = workload.observed.is_none_or(|observed| observed >= workload.generation);
    if let Some(reason) = never {
        Outlook::Never(reason)
    } else if let Some(refused) = workload.refused.as_ref().filter(|_| current) {
        let reason = format!("its pods cannot be made: {refused}");
        // What is on its way out counts for a quota until it is gone.
        let leaving = pods.clone().any(|pod| !pod.alive());
        match is_verdict(refused) && !leaving {
            true => Outlook::Never(reason),
            false => Outlook::Coming(reason),
        }
    } else {
        Outlook::Coming(match current {
            true => "waits for its pods to be made".to_owned(),
            false => format!("waits for the controller of {}", workload.kind.full_name()),
        })
    }
}

/// Whether a pod that was refused for this would be refused again: by a quota, a missing right, or as no valid pod. A
/// webhook or a server that did not answer may the next time.
fn is_verdict(refused: &str) -> bool {
    refused.contains("forbidden") || refused.contains("is invalid")
}

fn of_pod(pod: &Pod, baseline: &Baseline) -> Outlook {
    let containers = || pod.containers.iter();
    if let Some(reason) = containers().find_map(|container| cannot(pod, container, baseline)) {
        return Outlook::Never(reason);
    }
    let waits = |what: String| Outlook::Coming(format!("waits for {what}"));
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
fn cannot(pod: &Pod, container: &Container, baseline: &Baseline) -> Option<String> {
    let name = &container.name;
    if let Some(waiting) = container.waiting.as_ref().filter(|one| FINAL.contains(&one.reason.as_str())) {
        let message = if waiting.message.is_empty() { "the kubelet says no more" } else { &waiting.message };
        return Some(format!("container {name}: {}: {message}", waiting.reason));
    }
    let backs_off = container.waiting.as_ref().is_some_and(|one| one.reason == "CrashLoopBackOff");
    let in_this_wake = container.restarts - baseline.of(pod, container);
    // One that still runs between two crashes is not asked about: it may be its first that lasts.
    if in_this_wake >= CRASHES && !container.started || backs_off && container.restarts >= CRASHES {
        let ended = container.ended.as_deref().unwrap_or("ended");
        return Some(format!(
            "container {name} crashes again and again: started anew {} times, {ended}",
            container.restarts
        ));
    }
    None
}

// === impl Baseline ===

impl Baseline {
    /// As the pods are now.
    pub fn of_pods<'a>(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let all = pods.flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        Self(all.map(|(pod, container)| (key(pod, container), container.restarts)).collect())
    }

    fn of(&self, pod: &Pod, container: &Container) -> i32 {
        self.0.get(&key(pod, container)).copied().unwrap_or(0)
    }
}

fn key(pod: &Pod, container: &Container) -> (String, String) {
    (pod.meta.uid.clone(), container.name.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::{ApiResource, GroupVersionKind};
    use serde_json::json;

    use super::*;
    use crate::facts::Kind;

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

    fn pod(change: impl FnOnce(&mut Pod, &mut Container)) -> Pod {
        let mut pod = Pod { phase: "Pending".to_owned(), scheduled: true, ..Pod::default() };
        pod.meta.name = "web-1".into();
        let mut container = Container { name: "web".to_owned(), ..Container::default() };
        change(&mut pod, &mut container);
        pod.containers.push(container);
        pod
    }

    fn waits(reason: &str, restarts: i32) -> Pod {
        use crate::facts::Waiting;
        pod(|_, container| {
            container.waiting = Some(Waiting { reason: reason.to_owned(), message: "said".to_owned() });
            container.restarts = restarts;
            container.ended = Some("exited with status 1".to_owned());
        })
    }

    fn look(workload: &Workload, pods: &[Pod]) -> Outlook {
        outlook(workload, pods.iter(), &Baseline::default())
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let web = workload(4, None);
        for reason in FINAL {
            assert_eq!(
                look(&web, &[waits(reason, 0)]),
                Outlook::Never(format!("container web: {reason}: said"))
            );
        }
        for reason in
            ["ContainerCreating", "ErrImagePull", "PodInitializing", "CrashLoopBackOff", "RunContainerError"]
        {
            let coming =
                Outlook::Coming(format!("waits for the container web of the pod web-1: {reason}: said"));
            assert_eq!(look(&web, &[waits(reason, 2)]), coming);
        }
        let Outlook::Never(reason) = look(&web, &[waits("CrashLoopBackOff", 3)]) else { panic!() };
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
            Outlook::Coming("waits for the pod web-1 to be ready".to_owned())
        );
        assert_eq!(look(&web, &[broken(), coming, ready]), Outlook::Ready);
        let leaving = pod(|pod, _| (pod.ready, pod.deleting) = (true, true));
        assert!(
            matches!(look(&web, std::slice::from_ref(&leaving)), Outlook::Coming(_)),
            "it takes room in the quota still"
        );
        assert!(matches!(look(&web, &[]), Outlook::Never(_)));
        assert!(matches!(look(&workload(4, Some("failed calling webhook")), &[]), Outlook::Coming(_)));
        assert_eq!(
            look(&workload(3, Some("pods \"web-\" is forbidden")), &[]),
            Outlook::Coming("waits for the controller of deployments.apps".to_owned()),
            "that was said of what it was before"
        );
        assert_eq!(
            look(&workload(4, None), &[leaving]),
            Outlook::Coming("waits for its pods to be made".to_owned())
        );
    }

    #[test]
    fn restarts_of_before_the_wake_are_not_its_own() {
        let web = workload(4, None);
        let mut old = waits("ContainerCreating", 7);
        let before = Baseline::of_pods([&old].into_iter());
        old.containers[0].restarts = 9;
        assert!(matches!(outlook(&web, [&old].into_iter(), &before), Outlook::Coming(_)));
        old.containers[0].restarts = 10;
        assert!(matches!(outlook(&web, [&old].into_iter(), &before), Outlook::Never(_)));
        old.containers[0].started = true;
        assert!(
            matches!(outlook(&web, [&old].into_iter(), &before), Outlook::Coming(_)),
            "it may be the one that lasts"
        );
    }
}
