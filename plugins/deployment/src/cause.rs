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
