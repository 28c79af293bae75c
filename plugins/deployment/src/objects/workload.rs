//! Workloads: whatever has replicas.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::{ApiResource, DynamicObject};
use scaler_types::{Phase, Record, ResourceId, Rollout, Version};
use serde_json::Value;

use super::{
    Labels, Meta, Owners, PortRef, Selector,
    record::{self, StoredState},
    rollout::rollout,
};
use crate::ascii;

/// The label of the pods of Scaler's own daemons: which of them it is.
pub(crate) const COMPONENT: &str = "scaler.dev/component";
/// Its value on the DLXs' pods.
const DLX: &str = "dlx";
/// Its values.
const COMPONENTS: [&str; 2] = ["autoscaler", DLX];

/// Whether pods with these labels are of one of Scaler's own daemons.
pub(crate) fn is_scaler(labels: &Labels) -> bool {
    labels.get(COMPONENT).is_some_and(|name| COMPONENTS.contains(&name.as_str()))
}

/// A kind of workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kind {
    /// Its place among the managed kinds.
    pub(crate) index: usize,
    /// Where the API has it.
    pub(crate) api: ApiResource,
    /// Where its replicas are: a JSON pointer.
    pub(crate) replicas_path: String,
}

/// The fields kept of a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    pub(crate) meta: Meta,
    pub(crate) kind: Arc<Kind>,
    /// Its `resourceVersion` as it stands.
    pub(crate) resource_version: String,
    /// Grows with its specification, not with its status.
    pub(crate) generation: i64,
    /// Its specification without the replicas, as a fingerprint.
    pub(crate) spec: String,
    pub(crate) deleting: bool,
    /// The replicas it is meant to have.
    pub(crate) replicas: u32,
    /// Whose that number is, or was before Scaler wrote it.
    pub(crate) owners: Owners,
    pub(crate) annotations: BTreeMap<String, String>,
    /// It has annotations, ours or others.
    pub(crate) annotated: bool,
    /// Its record: what the annotation holds; nothing written, or nothing readable, is the default. Where an older one
    /// was brought back while it is scaled to zero, what this process knew before.
    pub(crate) stored: StoredState,
    /// The annotation holds an older record than that.
    pub(crate) stale: bool,
    /// The recorded replicas are valid: they were written on the object as it is, or since then neither
    /// record nor scale was seen to change.
    pub(crate) believed: bool,
    /// The replicas before its sleep, as this process knew them when another record was brought in: that record's are not valid.
    pub(crate) had: Option<u32>,
    /// Why the record's annotation cannot be read, if so.
    pub(crate) unreadable: Option<String>,
    /// Selects its pods.
    pub(crate) selector: Selector,
    /// The labels of its pods.
    pub(crate) labels: Labels,
    /// The ports that its pods will have by name; none: the object does not say how its pods will be.
    pub(crate) ports: Option<Vec<(String, u16)>>,
    /// The generation its controller last worked on, where it says.
    pub(crate) observed: Option<i64>,
    /// The pods its controller counts, those that are on their way out left out.
    pub(crate) pods: u32,
    /// Why its controller cannot make its pods, where the object says.
    pub(crate) refused: Option<String>,
    /// The number of its first pod, where its kind numbers them.
    pub(crate) first_ordinal: u32,
    /// How far its current template has been rolled out, where its kind says.
    pub(crate) rollout: Option<Rollout>,
}

// === impl Kind ===

impl Kind {
    /// The name of a resource of this kind: a Deployment's own, else with its kind before it.
    pub(crate) fn resource_name(&self, name: &str) -> String {
        match self.api.kind.as_str() {
            "Deployment" if self.api.group == "apps" => name.to_owned(),
            kind => format!("{}/{name}", kind.to_ascii_lowercase()),
        }
    }

    /// How much the generation grows by a write of the record: a Deployment's counts changes of its annotations, too, every
    /// other kind's only those of its specification.
    pub(crate) fn generations(&self, scaled: bool) -> i64 {
        let counts_annotations = self.api.group == "apps" && self.api.kind == "Deployment";
        i64::from(scaled || counts_annotations)
    }

    /// Plural and group, as RBAC rules name it: `deployments.apps`.
    pub(crate) fn full_name(&self) -> String {
        match self.api.group.as_str() {
            "" => self.api.plural.clone(),
            group => format!("{}.{group}", self.api.plural),
        }
    }
}

// === impl Workload ===

impl Workload {
    /// It is one of Scaler's own daemons.
    pub(crate) fn is_scaler(&self) -> bool {
        is_scaler(&self.labels)
    }

    /// It is the DLX.
    pub(crate) fn is_dlx(&self) -> bool {
        self.labels.get(COMPONENT).is_some_and(|name| name == DLX)
    }

    /// It is awake and not draining.
    pub(crate) fn serves(&self) -> bool {
        self.replicas > 0 && self.stored.record.phase != Phase::Draining
    }

    /// From an object of the kind.
    pub(crate) fn new(kind: &Arc<Kind>, object: DynamicObject) -> Self {
        let meta = Meta::from(&object.metadata);
        let data = &object.data;
        let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_i64);
        let annotations = super::scaler_annotations(&object.metadata);
        let (stored, unreadable) =
            match annotations.get(record::ANNOTATION).map(|text| StoredState::parse(text)) {
                Some(Ok(stored)) => (stored.restrict_to(&meta.uid), None),
                Some(Err(error)) => (StoredState::default(), Some(error.to_string())),
                None => (StoredState::default(), None),
            };
        let selector = match data.pointer("/spec/selector") {
            Some(selector) => serde_json::from_value::<
                k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
            >(selector.clone())
            .map(Selector::from)
            .unwrap_or_default(),
            None => Selector::default(),
        };
        let selector = match data.pointer("/status/selector").and_then(Value::as_str) {
            Some(text) if selector.is_empty() => Selector::parse(text),
            _ => selector,
        };
        let owners = Owners::of_field(&object.metadata, &kind.replicas_path).or_stored(&stored.owners);
        let labels = data
            .pointer("/spec/template/metadata/labels")
            .and_then(|labels| serde_json::from_value::<Labels>(labels.clone()).ok())
            .unwrap_or_else(|| selector.equal.clone());
        let conditions = data.pointer("/status/conditions").and_then(Value::as_array);
        let refused = conditions.into_iter().flatten().find_map(|condition| {
            let holds = condition["type"] == "ReplicaFailure" && condition["status"] == "True";
            holds.then(|| condition["message"].as_str().unwrap_or("its pods cannot be created").to_owned())
        });
        // A workload without the number has one pod.
        let replicas = number(&kind.replicas_path).map_or(1, |count| u32::try_from(count).unwrap_or(0));
        Self {
            meta,
            kind: Arc::clone(kind),
            resource_version: object.metadata.resource_version.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or(0),
            spec: fingerprint(data.get("spec"), kind.replicas_path.strip_prefix("/spec").unwrap_or("")),
            deleting: object.metadata.deletion_timestamp.is_some(),
            replicas,
            owners,
            believed: stored.matches_generation(object.metadata.generation.unwrap_or(0)),
            had: None,
            annotated: object.metadata.annotations.is_some_and(|all| !all.is_empty()),
            annotations,
            stored,
            stale: false,
            unreadable,
            selector,
            labels,
            ports: template_ports(data),
            observed: number("/status/observedGeneration"),
            pods: number("/status/replicas").map_or(0, |count| u32::try_from(count).unwrap_or(0)),
            refused,
            first_ordinal: number("/spec/ordinals/start")
                .and_then(|first| first.try_into().ok())
                .unwrap_or(0),
            rollout: rollout(
                &kind.api,
                data,
                object.metadata.generation.unwrap_or(0),
                replicas,
                fingerprint(data.pointer("/spec/template"), ""),
            ),
        }
    }

    /// As an Event names what it is about.
    pub(crate) fn reference(&self) -> ObjectReference {
        let api = &self.kind.api;
        ObjectReference {
            api_version: Some(api.api_version.clone()),
            kind: Some(api.kind.clone()),
            namespace: Some(self.meta.namespace.to_string()),
            name: Some(self.meta.name.to_string()),
            uid: Some(self.meta.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// Its identity among the resources.
    pub(crate) fn id(&self) -> ResourceId {
        ResourceId::new(&*self.meta.namespace, self.kind.resource_name(&self.meta.name))
    }

    /// The record's annotation as it stands.
    pub(crate) fn record_text(&self) -> Option<&str> {
        self.annotations.get(record::ANNOTATION).map(String::as_str)
    }

    /// The same, if a patch can test it: the API server compares the text that its own encoder writes. Others than ours may have
    /// anything in it: an earlier version's, one that a user edited, or either brought back by `rollout undo`.
    pub(crate) fn plain_record_text(&self) -> Option<&str> {
        self.record_text().filter(|text| ascii::is_plain(text))
    }

    /// Its state before was `old`: replicas valid then are still valid if the record and the scale are the same.
    /// Restoring an old annotation (`rollout undo`) changes the record's text; deploying an image or annotating does not.
    pub(crate) fn follows(&mut self, old: &Workload) {
        if old.meta.uid != self.meta.uid {
            return;
        }
        let same_record = old.record_text() == self.record_text();
        self.believed |= old.believed && (old.replicas, true) == (self.replicas, same_record);
        if (old.replicas, self.replicas) == (0, 0) {
            self.had = old.replicas_before();
            if old.stale && same_record || !same_record && self.stored.is_older_than(&old.stored) {
                (self.stored, self.believed, self.stale) = (old.stored.clone(), old.believed, true);
                self.owners = std::mem::take(&mut self.owners).or_stored(&self.stored.owners);
            }
        }
        // An older record counts fewer sleeps than there were.
        self.stored.sleeps = self.stored.sleeps.max(old.stored.sleeps);
    }

    /// Its record is to be written again: an older one stands in its place, or the daemon that wrote the replicas last ended before it had
    /// restored their field managers. One of a later version is not. While it drains or wakes a daemon may be doing that.
    pub(crate) fn needs_repair(&self) -> bool {
        let is_ours = self.stored.record.format <= Record::FORMAT;
        is_ours
            && (self.stale
                || self.owners.scaler && !matches!(self.stored.record.phase, Phase::Draining | Phase::Waking))
    }

    /// The replicas to come back with.
    pub(crate) fn replicas_before(&self) -> Option<u32> {
        self.stored.replicas.filter(|_| self.believed).or(self.had)
    }

    /// The port that its pods will have behind that, where it says.
    pub(crate) fn port(&self, target: &PortRef) -> Option<u16> {
        match target {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => {
                let ports = self.ports.iter().flatten();
                ports.clone().find(|(port, _)| port == name).map(|(_, number)| *number)
            }
        }
    }

    pub(crate) fn version(&self) -> Version {
        record::version(&self.meta.uid, self.generation, self.record_text())
    }

    /// Whether its controller has seen that none are wanted, and counts none.
    pub(crate) fn is_emptied(&self) -> bool {
        self.observed.is_none_or(|observed| observed >= self.generation) && self.pods == 0
    }
}

/// The named TCP ports of the containers that go on running.
fn template_ports(data: &Value) -> Option<Vec<(String, u16)>> {
    let pod = data.pointer("/spec/template/spec")?;
    let list = |name: &str| pod[name].as_array().into_iter().flatten();
    let sidecars = list("initContainers").filter(|container| container["restartPolicy"] == "Always");
    let ports =
        list("containers").chain(sidecars).flat_map(|container| container["ports"].as_array()).flatten();
    let tcp = ports.filter(|port| port["protocol"].as_str().is_none_or(|name| name == "TCP"));
    let named = tcp.filter_map(|port| {
        let number = port["containerPort"].as_u64().and_then(|number| u16::try_from(number).ok());
        Some((port["name"].as_str()?.to_owned(), number?))
    });
    Some(named.collect())
}

/// Of the specification's JSON.
fn fingerprint(spec: Option<&Value>, replicas: &str) -> String {
    let mut spec = spec.cloned().unwrap_or_default();
    if let Some(count) = (!replicas.is_empty()).then(|| spec.pointer_mut(replicas)).flatten() {
        *count = Value::Null;
    }
    record::fingerprint(&spec.to_string())
}
