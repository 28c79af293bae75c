//! Gives pods to the node, or says why it cannot have them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Shared,
    pod::is_over,
    status::{now, with_condition},
};
use crate::cache::{Change, Key, rest};

/// The pause after an error of the API.
const PAUSE: Duration = Duration::from_millis(20);

/// News for the scheduler.
pub enum News {
    Pod(Change<Pod>),
    /// What the node takes has changed.
    Capacity,
}

/// The pods it knows: those that wait, by age, and those that count as the node's.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<(String, Key), Arc<Pod>>,
    placed: HashSet<String>,
    /// The reason reported for each waiting pod, by uid: once.
    reported: BTreeMap<String, String>,
}

/// Works for ever.
pub async fn run(node: Arc<Shared>, mut news: mpsc::UnboundedReceiver<News>) {
    let mut queue = Queue::default();
    while let Some(first) = news.recv().await {
        let mut freed = queue.take_in(&node, first);
        while let Ok(next) = news.try_recv() {
            freed |= queue.take_in(&node, next);
        }
        if freed || !queue.waiting.is_empty() {
            queue.place(&node).await;
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn age(pod: &Pod) -> (String, Key) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (created.unwrap_or_default(), Key::of(pod))
}

// === impl Queue ===

impl Queue {
    /// Whether there may be room now that there was not.
    fn take_in(&mut self, node: &Shared, news: News) -> bool {
        let News::Pod(change) = news else {
            self.reported.clear();
            return true;
        };
        if let Some(old) = &change.old {
            self.waiting.remove(&age(old));
        }
        let Some(pod) = &change.new else {
            self.reported.remove(&uid(change.any()));
            return self.placed.remove(&uid(change.any()));
        };
        let spec = pod.spec.as_ref();
        let bound = spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
        if is_over(pod) {
            return self.placed.remove(&uid(pod));
        }
        match bound {
            Some(name) => {
                self.reported.remove(&uid(pod));
                if name == node.options.name {
                    self.placed.insert(uid(pod));
                }
            }
            // Bound by this scheduler, which the watch does not say yet.
            None if self.placed.contains(&uid(pod)) => {}
            None => {
                let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref());
                if scheduler.unwrap_or("default-scheduler") == "default-scheduler"
                    && pod.metadata.deletion_timestamp.is_none()
                {
                    self.waiting.insert(age(pod), Arc::clone(pod));
                }
            }
        }
        false
    }

    async fn place(&mut self, node: &Arc<Shared>) {
        for (key, pod) in self.waiting.clone() {
            let refusal = self.refusal(node, &pod);
            match refusal {
                None => {
                    if bind(node, &pod).await {
                        self.placed.insert(uid(&pod));
                    }
                    self.waiting.remove(&key);
                }
                Some(why) if self.reported.get(&uid(&pod)) != Some(&why) => {
                    if refuse(node, &pod, &why).await {
                        self.reported.insert(uid(&pod), why);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Why the node cannot have the pod, in the scheduler's words.
    fn refusal(&self, node: &Shared, pod: &Pod) -> Option<String> {
        let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
        let labels = node.labels();
        let fits = selector
            .is_none_or(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
        if !fits {
            return Some(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.".into(),
            );
        }
        (self.placed.len() >= node.capacity()).then(|| {
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.".into()
        })
    }
}

/// Whether the pod is bound now.
async fn bind(node: &Arc<Shared>, pod: &Pod) -> bool {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let binding = Binding {
        metadata: kube::api::ObjectMeta {
            name: Some(name.clone()),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        target: k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.options.name.clone()),
            ..Default::default()
        },
    };
    loop {
        let pods = node.pods_of(pod);
        let bound: kube::Result<serde_json::Value> =
            pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        match bound {
            Ok(_) => return true,
            Err(kube::Error::Api(refused)) if refused.code == 404 => return false,
            // It has a node already, or another pod has its name.
            Err(kube::Error::Api(refused)) if refused.code == 409 && !waits(node, pod).await => return false,
            Err(error) => {
                tracing::debug!(pod = name, %error, "a pod could not be bound, it is tried again");
                rest(PAUSE).await;
            }
        }
    }
}

/// Whether the pod is still there, without a node.
async fn waits(node: &Shared, pod: &Pod) -> bool {
    let found = node.pods_of(pod).get(pod.metadata.name.as_deref().unwrap_or_default()).await;
    match found {
        Ok(found) => uid(&found) == uid(pod) && found.spec.is_none_or(|spec| spec.node_name.is_none()),
        Err(kube::Error::Api(refused)) => refused.code != 404,
        Err(_) => true,
    }
}

/// Writes down why the pod waits. `false`: the API would not have it.
async fn refuse(node: &Arc<Shared>, pod: &Pod, why: &str) -> bool {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let known = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions = with_condition(
        known,
        PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(why.to_owned()),
            last_transition_time: Some(now()),
            ..Default::default()
        },
    );
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}});
    loop {
        let written =
            node.pods_of(pod).patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        match written {
            Ok(_) => return true,
            Err(error) => {
                tracing::debug!(pod = name, %error, "a condition could not be written");
                if !waits(node, pod).await {
                    return false;
                }
                rest(PAUSE).await;
            }
        }
    }
}
