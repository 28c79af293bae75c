//! A Deployment's ReplicaSets: which is the new one, what number each has.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    core::v1::PodTemplateSpec,
};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{DESIRED, MAXIMUM, REVISION, annotate, replicas, rollout, slack};
use crate::{
    cache::Key,
    controllers::{Error, World, pods::controlled_by},
};

/// The label that keeps the pods of one template apart from those of another.
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that are not its ReplicaSets'.
const OWN: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MAXIMUM,
];
/// Letters of a hash, as those of generated names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The ReplicaSets of a Deployment.
pub struct Sets {
    /// The one with the Deployment's template.
    pub new: Option<Arc<ReplicaSet>>,
    /// The others, the oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    /// Whether the new one was made just now.
    pub created: bool,
}

// === impl Sets ===

impl Sets {
    /// As the cache has them.
    pub fn of(world: &World, deployment: &Deployment) -> Self {
        let mut all = world.replica_sets.find(deployment.metadata.uid.as_deref().unwrap_or_default());
        all.sort_by_key(|set| {
            let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, revision(&set.metadata), set.metadata.name.clone())
        });
        let template = deployment.spec.as_ref().map(|spec| without_hash(&spec.template));
        let own = |set: &Arc<ReplicaSet>| {
            let theirs = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            theirs.map(without_hash) == template
        };
        let new = all.iter().position(own).map(|at| all.remove(at));
        Self { new, old: all, created: false }
    }

    /// All of them, the new one last.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// Whether the Deployment was scaled since its ReplicaSets were: no rollout, then.
    pub fn scaled_since(&self, wanted: i32) -> bool {
        self.all().filter(|set| size(set) > 0).any(|set| {
            let desired = set.metadata.annotations.as_ref().and_then(|all| all.get(DESIRED));
            desired.and_then(|desired| desired.parse::<i32>().ok()).is_some_and(|desired| desired != wanted)
        })
    }

    /// Makes the new one if there is none and it may; brings revision and annotations up to date. `None`: its name was taken.
    pub async fn revised(
        self,
        world: &World,
        deployment: &Deployment,
        create: bool,
    ) -> Result<Option<Self>, Error> {
        let newest = self.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or_default();
        let number = (newest + 1).to_string();
        match &self.new {
            Some(set) => {
                let mut annotations = copied(deployment);
                let known = set.metadata.annotations.clone().unwrap_or_default();
                // Its own number stays unless another one came after it.
                let number = if revision(&set.metadata) > newest {
                    revision(&set.metadata).to_string()
                } else {
                    number
                };
                annotations.insert(REVISION.to_owned(), number.clone());
                let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
                let same = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
                    == min_ready.unwrap_or_default();
                if !same || annotations.iter().any(|(key, value)| known.get(key) != Some(value)) {
                    let change = json!({
                        "metadata": {"annotations": annotations, "resourceVersion": set.metadata.resource_version},
                        "spec": {"minReadySeconds": min_ready},
                    });
                    patch(world, set, change).await?;
                }
                self.number(world, deployment, &number).await?;
                Ok(Some(Self { created: false, ..Self::of(world, deployment) }))
            }
            None if !create => Ok(Some(self)),
            None => {
                let Some(made) = self.create(world, deployment, &number).await? else { return Ok(None) };
                world.replica_sets.wrote(made);
                self.number(world, deployment, &number).await?;
                Ok(Some(Self { created: true, ..Self::of(world, deployment) }))
            }
        }
    }

    async fn number(&self, world: &World, deployment: &Deployment, number: &str) -> Result<(), Error> {
        let known = deployment.metadata.annotations.as_ref().and_then(|all| all.get(REVISION));
        if known.map(String::as_str) == Some(number) {
            return Ok(());
        }
        annotate(world, deployment, number).await
    }

    async fn create(
        &self,
        world: &World,
        deployment: &Deployment,
        number: &str,
    ) -> Result<Option<ReplicaSet>, Error> {
        let Some(spec) = &deployment.spec else { return Ok(None) };
        let key = Key::of(deployment);
        let collisions =
            deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let hash = hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
        let (wanted, (surge, _)) = (replicas(deployment), slack(deployment));
        let mut annotations = copied(deployment);
        annotations.insert(REVISION.to_owned(), number.to_owned());
        annotations.insert(DESIRED.to_owned(), wanted.to_string());
        annotations.insert(MAXIMUM.to_owned(), (wanted + surge).to_string());
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", key.name)),
                namespace: Some(key.namespace.clone()),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![controlled_by(deployment)]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(rollout::first_size(deployment, self)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        match world.api::<ReplicaSet>(&key.namespace).create(&PostParams::default(), &set).await {
            Ok(made) => Ok(Some(made)),
            Err(kube::Error::Api(refused)) if refused.code == 409 && refused.reason == "AlreadyExists" => {
                let status = json!({"status": {"collisionCount": collisions + 1}});
                let api = world.api::<Deployment>(&key.namespace);
                let written =
                    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&status)).await?;
                world.deployments.wrote(written);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// How many pods it is to have.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// Changes a ReplicaSet.
pub async fn patch(world: &World, set: &ReplicaSet, patch: Value) -> Result<(), Error> {
    let key = Key::of(set);
    let api = world.api::<ReplicaSet>(&key.namespace);
    let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    world.replica_sets.wrote(written);
    Ok(())
}

fn revision(meta: &ObjectMeta) -> i64 {
    let text = meta.annotations.as_ref().and_then(|all| all.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    annotations
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH);
    }
    template
}

/// FNV-1a over the template, in letters. The real one hashes Go's own notation: the letters differ, their meaning does not.
fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = serde_json::to_string(template).unwrap_or_default() + &collisions.to_string();
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}
