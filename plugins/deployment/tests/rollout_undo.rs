//! `kubectl rollout undo`: the cluster's controller copies a Deployment's annotations to its ReplicaSets, and an undo brings back those of
//! an earlier one, its record among them.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::*;
use deployment::DeploymentScaler;
use devcluster::controllers::Controllers;
use kube::{
    ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use scaler_types::{
    Backend, Nonce, Phase, Resource, ResourceScaler as _, RestoreRequest, ScaleError, Target,
    protocol::{Seen, Step, WakeSeen, recover, transition},
};
use serde_json::{Value, json};

const RECORD: &str = "scaler.dev/state";
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
    /// Puts it to zero, wherever its Service leads.
    sleeper: Arc<DeploymentScaler>,
}

impl Site {
    async fn new() -> Self {
        let scene = Scene::new().await;
        scene.create("Deployment", deployment("web", 3)).await;
        let plugin = scene.autoscaler().await;
        Self::of(scene, plugin).await
    }

    /// Its Service is to lead to the DLXs, and does not yet.
    async fn to_be_led() -> Self {
        let scene = Scene::with_web().await;
        scene.annotate("web", "scaler.dev/intercept", "always").await;
        let plugin = scene.leader().await;
        Self::of(scene, plugin).await
    }

    async fn of(scene: Scene, plugin: Arc<DeploymentScaler>) -> Self {
        let controllers = Controllers::start(scene.client.clone());
        let sleeper = scene.dlx().await;
        let site = Self { _controllers: controllers, scene, plugin, sleeper };
        site.copied("1").await;
        site
    }

    /// The ReplicaSet of that revision, when it has the Deployment's record.
    async fn copied(&self, revision: &str) -> DynamicObject {
        soon(async {
            loop {
                let record = self.scene.get("Deployment", "web").await.annotations().get(RECORD).cloned();
                let sets = self.scene.api("ReplicaSet").list(&ListParams::default()).await.unwrap();
                let it = sets.into_iter().find(|set| {
                    set.annotations().get(REVISION).is_some_and(|number| number == revision)
                        && set.annotations().get(RECORD) == record.as_ref()
                });
                if let Some(set) = it {
                    return set;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn write(&self, record: scaler_types::Record) -> Resource {
        soon(async {
            loop {
                let seen = one(&self.plugin, "web").await;
                match self.plugin.compare_and_set(&id("web"), &seen.version, &record).await {
                    // Its controller has numbered it meanwhile.
                    Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                    written => break written.unwrap(),
                }
            }
        })
        .await;
        one(&self.plugin, "web").await
    }

    async fn scale(&self, target: Target, record: scaler_types::Record) {
        let plugin = if target == Target::Zero { &self.sleeper } else { &self.plugin };
        soon(async {
            loop {
                let seen = one(plugin, "web").await;
                match plugin.set_scale(&request("web", target, &seen.version, record.clone())).await {
                    Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                    written => break written.unwrap(),
                }
            }
        })
        .await;
        if target == Target::Zero {
            self.is_empty().await;
            until(&self.plugin, "web", |web| web.replicas == 0).await;
        }
    }

    /// The next wake waits for that.
    async fn is_empty(&self) {
        soon(async {
            while !self.emptied().await {
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
        let next = (kept.annotations()[REVISION].parse::<u32>().unwrap() + 1).to_string();
        let kept = kept.annotations().iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
        let back = to.annotations().iter().filter(|(key, _)| !KEPT.contains(&key.as_str()));
        let annotations: BTreeMap<_, _> = kept.chain(back).collect();
        let patch: Value = json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "replace", "path": "/metadata/annotations", "value": annotations},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
        self.scene.api("Deployment").patch("web", &PatchParams::default(), &patch).await.unwrap();
        // The controller numbers it, which is a change of its annotations: who starts after one believes no record of before.
        soon(async {
            while self
                .scene
                .get("Deployment", "web")
                .await
                .annotations()
                .get(REVISION)
                .is_none_or(|at| *at != next)
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// What stands in a record that is brought back.
const OLD: [Option<Phase>; 6] = [
    None,
    Some(Phase::Active),
    Some(Phase::Draining),
    Some(Phase::Asleep),
    Some(Phase::Waking),
    Some(Phase::Failed),
];

/// The same as an earlier version wrote it, which counted no sleeps; and what is no record.
const TEXTS: [&str; 2] = [r#"{"phase":"active","nonce":"1","reason":"","format":1}"#, "not a record"];

/// It sleeps with the second image, having had three replicas; gives the first image's ReplicaSet, with that record.
async fn sleeping(site: &Site, old: Result<Option<Phase>, &str>) -> DynamicObject {
    match old {
        Ok(None) => {}
        Ok(Some(Phase::Asleep)) => {
            // With another number of replicas.
            site.scene.merge("Deployment", "web", json!({"spec": {"replicas": 5}})).await;
            until(&site.plugin, "web", |web| web.replicas == 5).await;
            site.write(record(Phase::Draining, 1)).await;
            site.scale(Target::Zero, record(Phase::Asleep, 1)).await;
        }
        Ok(Some(state)) => drop(site.write(record(state, 1)).await),
        Err(text) => site.scene.annotate("web", RECORD, text).await,
    }
    let first = site.copied("1").await;
    site.image("web:2").await;
    site.copied("2").await;
    if old == Ok(Some(Phase::Asleep)) {
        site.scale(Target::AtLeast(1), record(Phase::Waking, 2)).await;
        site.scene.merge("Deployment", "web", json!({"spec": {"replicas": 3}})).await;
        until(&site.plugin, "web", |web| web.replicas == 3).await;
    }
    site.write(record(Phase::Draining, 3)).await;
    site.scale(Target::Zero, record(Phase::Asleep, 3)).await;
    first
}

/// Wakes it as a request or the leader does.
async fn woken(site: &Site, plugin: &Arc<DeploymentScaler>) {
    site.is_empty().await;
    soon(async {
        loop {
            let web = one(plugin, "web").await;
            let seen = Seen { record: web.record, version: web.version.clone(), scaled: false };
            let waking = transition(&seen, Step::Wake, Nonce(5), "a test").unwrap();
            match plugin.set_scale(&request("web", Target::AtLeast(1), &web.version, waking)).await {
                // Its controller has numbered it meanwhile.
                Err(ScaleError::Conflict) => tokio::task::yield_now().await,
                written => break written.unwrap(),
            }
        }
    })
    .await;
}

async fn released(plugin: &DeploymentScaler) {
    let request = RestoreRequest { id: id("web"), propagation_delay: Duration::ZERO, deadline: SOON };
    soon(plugin.restore(&request)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_changes_nothing_of_what_sleeps() {
    for old in OLD {
        let site = Site::new().await;
        let first = sleeping(&site, Ok(old)).await;
        let asleep = one(&site.plugin, "web").await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.needs_repair).await;
        assert_eq!((brought.replicas, &brought.record), (0, &asleep.record), "{old:?}");
        let late = site.plugin.compare_and_set(&id("web"), &asleep.version, &record(Phase::Failed, 4)).await;
        assert_eq!(late, Err(ScaleError::Conflict), "{old:?}");
        // A request wakes it, with what it had.
        woken(&site, &site.plugin).await;
        assert_eq!(site.scene.replicas("web").await, 3, "{old:?}");
    }
}

/// What is asked of a workload whose old record came back: at once of the process that saw it sleep, or of another one after the
/// leader has written the record again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    ReleaseAtOnce,
    Release,
    OptOut,
    Refuse,
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_woken_whatever_is_asked_of_it_after_an_undo() {
    let records = OLD.map(Ok).into_iter().chain(TEXTS.map(Err));
    let asked = [Asked::ReleaseAtOnce, Asked::Release, Asked::OptOut, Asked::Refuse];
    for (old, asked) in records.flat_map(|old| asked.map(|asked| (old, asked))) {
        let site = if asked == Asked::Refuse { Site::to_be_led().await } else { Site::new().await };
        let first = sleeping(&site, old).await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.needs_repair).await;
        if asked == Asked::ReleaseAtOnce {
            released(&site.plugin).await;
            assert_eq!(site.scene.replicas("web").await, 3, "{old:?} {asked:?}");
            continue;
        }
        let repaired = site.write(brought.record.clone()).await;
        assert!(
            !repaired.needs_repair && repaired.record == brought.record,
            "{old:?}: {:?}",
            repaired.record
        );
        let other = match asked {
            Asked::Refuse => site.scene.leader().await,
            _ => site.scene.autoscaler().await,
        };
        match asked {
            Asked::ReleaseAtOnce | Asked::Release => released(&other).await,
            Asked::OptOut => {
                site.scene.annotate("web", "scaler.dev/scale-to-zero", "false").await;
                until(&other, "web", |web| web.keep_awake.contains("opted out")).await;
                woken(&site, &other).await;
            }
            Asked::Refuse => {
                let policy = json!({
                    "metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
                });
                site.scene.create("NetworkPolicy", policy).await;
                let refused = until(&other, "web", |web| web.keep_awake.contains("NetworkPolicy")).await;
                // By this the leader wakes it.
                assert_eq!((refused.replicas, refused.record.phase), (0, Phase::Asleep), "{old:?}");
                assert_eq!(refused.interception.unwrap().backend, Backend::Workload);
                woken(&site, &other).await;
            }
        }
        assert_eq!(site.scene.replicas("web").await, 3, "{old:?} {asked:?}");
    }
}

/// What came back while it was awake counts fewer sleeps than there were. The next record counts them all.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_while_awake_does_not_hide_a_later_one() {
    let site = Site::new().await;
    let first = site.copied("1").await;
    site.image("web:2").await;
    for nonce in [10, 20] {
        site.write(record(Phase::Draining, nonce)).await;
        site.scale(Target::Zero, record(Phase::Asleep, nonce)).await;
        site.scale(Target::AtLeast(1), record(Phase::Waking, nonce + 1)).await;
    }
    site.write(record(Phase::Active, 30)).await;
    let second = site.copied("2").await;
    site.undo(&first).await;
    until(&site.plugin, "web", |web| web.record == scaler_types::Record::default()).await;
    site.write(record(Phase::Draining, 40)).await;
    site.scale(Target::Zero, record(Phase::Asleep, 40)).await;
    site.undo(&second).await;
    let brought = until(&site.plugin, "web", |web| web.needs_repair).await;
    assert_eq!(brought.record, record(Phase::Asleep, 40));
}

/// One that its owner has scaled to zero stays there, whatever record an undo brings back.
#[tokio::test(flavor = "multi_thread")]
async fn what_its_owner_scaled_to_zero_is_not_woken() {
    for old in [Some(Phase::Active), Some(Phase::Asleep)] {
        let site = Site::new().await;
        let first = sleeping(&site, Ok(old)).await;
        site.scale(Target::AtLeast(1), record(Phase::Waking, 4)).await;
        site.write(record(Phase::Active, 5)).await;
        site.scene.merge("Deployment", "web", json!({"spec": {"replicas": 0}})).await;
        until(&site.plugin, "web", |web| web.replicas == 0).await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.needs_repair).await;
        assert_eq!(brought.record, record(Phase::Active, 5), "{old:?}");
        site.write(brought.record).await;
        let other = site.scene.autoscaler().await;
        released(&other).await;
        assert_eq!(site.scene.replicas("web").await, 0, "{old:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_on_what_is_awake_is_written_over() {
    for old in OLD {
        let site = Site::new().await;
        if let Some(state) = old {
            site.write(record(state, 1)).await;
        }
        let first = site.copied("1").await;
        site.image("web:2").await;
        site.copied("2").await;
        let fenced = site.write(record(Phase::Draining, 3)).await;
        site.undo(&first).await;
        let brought = until(&site.plugin, "web", |web| web.record.nonce != Nonce(3)).await;
        assert_eq!(brought.replicas, 3, "{old:?}");
        // What was under way is none any more.
        let commit = request("web", Target::Zero, &fenced.version, record(Phase::Asleep, 3));
        assert_eq!(soon(site.plugin.set_scale(&commit)).await, Err(ScaleError::Conflict), "{old:?}");
        // Whoever leads writes over what says that it does not run; and it can be put to sleep as ever.
        let seen =
            |web: &Resource| Seen { record: web.record.clone(), version: web.version.clone(), scaled: true };
        if let Some(record) = recover(&seen(&brought), false, WakeSeen::Ready, Nonce(6)) {
            site.write(record).await;
        }
        let web = one(&site.plugin, "web").await;
        let fence = transition(&seen(&web), Step::Drain, Nonce(7), "a test");
        site.write(fence.unwrap_or_else(|| panic!("{old:?}: {:?}", web.record))).await;
        site.scale(Target::Zero, record(Phase::Asleep, 7)).await;
        site.scale(Target::AtLeast(1), record(Phase::Waking, 8)).await;
        assert_eq!(site.scene.replicas("web").await, 3, "{old:?}");
    }
}
