//! `kubectl rollout undo`: the cluster's controller copies a Deployment's annotations to its ReplicaSets, and an undo brings back those of
//! an earlier one, its record among them.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::*;
use deployment::DeploymentScaler;
use devcluster::controllers::Controllers;
use kube::{
    ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use scaler_types::{
    Nonce, Resource, ResourceScaler as _, ScaleError, State, Target,
    protocol::{Seen, Step, WakeSeen, recover, transition},
};
use serde_json::{Value, json};

const ROW: &str = "scaler.dev/row";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// What kubectl leaves as it is.
const KEPT: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// A Deployment of the first image, its controller, and the ReplicaSet that the undo goes back to.
struct Site {
    _controllers: Controllers,
    scene: Scene,
    plugin: Arc<DeploymentScaler>,
}

impl Site {
    async fn new() -> Self {
        let scene = Scene::new().await;
        let controllers = Controllers::start(scene.client.clone());
        scene.create("Deployment", deployment("web", 3)).await;
        let plugin = scene.autoscaler().await;
        let site = Self { _controllers: controllers, scene, plugin };
        site.copied("1").await;
        site
    }

    /// The ReplicaSet of that revision, when it has the Deployment's record.
    async fn copied(&self, revision: &str) -> DynamicObject {
        soon(async {
            loop {
                let record = self.scene.get("Deployment", "web").await.annotations().get(ROW).cloned();
                let sets = self.scene.api("ReplicaSet").list(&ListParams::default()).await.unwrap();
                let it = sets.into_iter().find(|set| {
                    set.annotations().get(REVISION).is_some_and(|number| number == revision)
                        && set.annotations().get(ROW) == record.as_ref()
                });
                if let Some(set) = it {
                    return set;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn write(&self, row: scaler_types::Row) -> Resource {
        soon(async {
            loop {
                let seen = one(&self.plugin, "web").await;
                match self.plugin.compare_and_set(&id("web"), &seen.version, &row).await {
                    // Its controller has numbered it meanwhile.
                    Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                    written => break written.unwrap(),
                }
            }
        })
        .await;
        one(&self.plugin, "web").await
    }

    async fn scale(&self, target: Target, row: scaler_types::Row) {
        soon(async {
            loop {
                let seen = one(&self.plugin, "web").await;
                match self.plugin.set_scale(&request("web", target, &seen.version, row.clone())).await {
                    Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                    written => break written.unwrap(),
                }
            }
        })
        .await;
        let zero = target == Target::Zero;
        soon(async {
            // The next wake waits for that.
            while zero && !self.emptied().await {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn emptied(&self) -> bool {
        let web = self.scene.get("Deployment", "web").await;
        web.data["status"]["observedGeneration"].as_i64() == web.metadata.generation
            && web.data["status"]["replicas"].as_i64().unwrap_or(0) == 0
    }

    async fn image(&self, image: &str) {
        let containers = json!([{"name": "web", "image": image}]);
        self.scene
            .merge("Deployment", "web", json!({"spec": {"template": {"spec": {"containers": containers}}}}))
            .await;
    }

    /// As kubectl does it.
    async fn undo(&self, to: &DynamicObject) {
        let to = self.scene.get("ReplicaSet", &to.name_any()).await;
        let mut template = to.data["spec"]["template"].clone();
        template["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
        let kept = self.scene.get("Deployment", "web").await;
        let kept = kept.annotations().iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
        let back = to.annotations().iter().filter(|(key, _)| !KEPT.contains(&key.as_str()));
        let annotations: BTreeMap<_, _> = kept.chain(back).collect();
        let patch: Value = json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "replace", "path": "/metadata/annotations", "value": annotations},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
        self.scene.api("Deployment").patch("web", &PatchParams::default(), &patch).await.unwrap();
    }
}

/// What stands in a record that is brought back.
const OLD: [Option<State>; 6] = [
    None,
    Some(State::Active),
    Some(State::Draining),
    Some(State::Asleep),
    Some(State::Waking),
    Some(State::Failed),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_changes_nothing_of_what_sleeps() {
    for old in OLD {
        let site = Site::new().await;
        if old == Some(State::Asleep) {
            // With another number of replicas.
            site.scene.merge("Deployment", "web", json!({"spec": {"replicas": 5}})).await;
            until(&site.plugin, "web", |web| web.replicas == 5).await;
            site.write(row(State::Draining, 1)).await;
            site.scale(Target::Zero, row(State::Asleep, 1)).await;
        } else if let Some(state) = old {
            site.write(row(state, 1)).await;
        }
        let first = site.copied("1").await;
        site.image("web:2").await;
        site.copied("2").await;
        if old == Some(State::Asleep) {
            site.scale(Target::AtLeast(1), row(State::Waking, 2)).await;
            site.scene.merge("Deployment", "web", json!({"spec": {"replicas": 3}})).await;
            until(&site.plugin, "web", |web| web.replicas == 3).await;
        }
        site.write(row(State::Draining, 3)).await;
        site.scale(Target::Zero, row(State::Asleep, 3)).await;
        let asleep = one(&site.plugin, "web").await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.row.nonce != Nonce(3)).await;
        assert_eq!((brought.replicas, brought.row.state), (0, old.unwrap_or_default()), "{old:?}");
        let late = site.plugin.compare_and_set(&id("web"), &asleep.version, &row(State::Failed, 4)).await;
        assert_eq!(late, Err(ScaleError::Conflict), "{old:?}");
        // A request wakes it, with what it had.
        let seen = Seen { row: brought.row.clone(), version: brought.version.clone(), scaled: false };
        let waking = transition(&seen, Step::Wake, Nonce(5), "a test").unwrap();
        soon(async {
            while !site.emptied().await {
                tokio::task::yield_now().await;
            }
        })
        .await;
        site.scale(Target::AtLeast(1), waking).await;
        assert_eq!(site.scene.replicas("web").await, 3, "{old:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_on_what_is_awake_is_written_over() {
    for old in OLD {
        let site = Site::new().await;
        if let Some(state) = old {
            site.write(row(state, 1)).await;
        }
        let first = site.copied("1").await;
        site.image("web:2").await;
        site.copied("2").await;
        let fenced = site.write(row(State::Draining, 3)).await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.row.nonce != Nonce(3)).await;
        assert_eq!(brought.replicas, 3, "{old:?}");
        // What was under way is none any more.
        let commit = request("web", Target::Zero, &fenced.version, row(State::Asleep, 3));
        assert_eq!(soon(site.plugin.set_scale(&commit)).await, Err(ScaleError::Conflict), "{old:?}");
        // Whoever leads writes over what says that it does not run; and it can be put to sleep as ever.
        let seen = |web: &Resource| Seen { row: web.row.clone(), version: web.version.clone(), scaled: true };
        if let Some(row) = recover(&seen(&brought), false, WakeSeen::Ready, Nonce(6)) {
            site.write(row).await;
        }
        let web = one(&site.plugin, "web").await;
        let fence = transition(&seen(&web), Step::Fence, Nonce(7), "a test");
        site.write(fence.unwrap_or_else(|| panic!("{old:?}: {:?}", web.row))).await;
        site.scale(Target::Zero, row(State::Asleep, 7)).await;
        site.scale(Target::AtLeast(1), row(State::Waking, 8)).await;
        assert_eq!(site.scene.replicas("web").await, 3, "{old:?}");
    }
}
