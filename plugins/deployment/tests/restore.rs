//! Workloads that are restored, with the cluster's own controllers at work.

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use deployment::DeploymentScaler;
use devcluster::{Filter, controllers::Controllers};
use futures_util::StreamExt as _;
use kube::{
    Api,
    api::{DynamicObject, WatchParams},
    core::WatchEvent,
};
use scaler_types::{Backend, Phase, ResourceScaler as _, RestoreRequest, Role, ScaleError, Target};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const GRACE: Duration = Duration::from_millis(20);
/// Longer than all the rest takes.
const LONG_GRACE: Duration = Duration::from_secs(3);

/// A cluster that runs, with a Deployment `web` of two behind a Service.
struct Running {
    // Ended before what they ask is.
    kubelet: JoinSet<()>,
    _controllers: Controllers,
    scene: Scene,
}

impl Running {
    async fn new(route: &str) -> Self {
        let scene = Scene::new().await;
        let controllers = Controllers::start(scene.client.clone());
        let mut kubelet = JoinSet::new();
        kubelet.spawn(run_pods(scene.api("Pod")));
        let mut web = deployment("web", 2);
        web["metadata"]["annotations"]["scaler.dev/intercept"] = route.into();
        scene.create("Deployment", web).await;
        scene.create("Service", service("web", "web")).await;
        Self { kubelet, _controllers: controllers, scene }
    }

    /// What is compared: all but what every write changes.
    async fn objects(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for (kind, name) in [("Deployment", "web"), ("Service", "web")] {
            let mut object = serde_json::to_value(self.scene.get(kind, name).await).unwrap();
            object.as_object_mut().unwrap().remove("status");
            for field in ["resourceVersion", "generation"] {
                object["metadata"].as_object_mut().unwrap().remove(field);
            }
            for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
                entry.as_object_mut().unwrap().remove("time");
            }
            all.push(object);
        }
        all
    }

    /// Led, and asleep.
    async fn sleeps(&self, leader: &Arc<DeploymentScaler>) {
        until(leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
        intercept(leader, "web").await;
        let web =
            until(leader, "web", |web| !web.interception.as_ref().unwrap().intercepted_for.is_zero()).await;
        let fenced =
            leader.compare_and_set(&id("web"), &web.version, &record(Phase::Draining, 1)).await.unwrap();
        leader.set_scale(&request("web", Target::Zero, &fenced, record(Phase::Asleep, 1))).await.unwrap();
        // The Deployment's controller has stopped what ran.
        soon(async {
            while self.scene.api("Pod").list(&Default::default()).await.unwrap().items.iter().any(is_alive) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn is_clean(&self) {
        assert_eq!(self.scene.our_slices().await.len(), 0);
        let registry = self.scene.registry().await;
        assert!(registry.values().all(|entry| entry["freed_at"].is_string()), "{registry:?}");
        assert_eq!(self.scene.intercepted().await.as_deref(), Some("0"));
    }
}

fn is_alive(pod: &DynamicObject) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

/// In the kubelets' place: every pod runs as soon as it is there.
async fn run_pods(pods: Api<DynamicObject>) {
    let mut next = 0;
    let mut version = "0".to_owned();
    loop {
        let Ok(events) = pods.watch(&WatchParams::default(), &version).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut events = Box::pin(events);
        while let Some(Ok(event)) = events.next().await {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
            version = pod.metadata.resource_version.clone().unwrap();
            if pod.data["status"].get("podIP").is_some() {
                continue;
            }
            next += 1;
            let status = json!({"status": {
                "phase": "Running", "podIP": format!("10.244.0.{next}"),
                "conditions": [{"type": "Ready", "status": "True"}],
            }});
            let name = pod.metadata.name.unwrap();
            // A pod that is gone meanwhile needs no status.
            let _ = pods.patch_status(&name, &Default::default(), &kube::api::Patch::Merge(status)).await;
        }
    }
}

fn release(deadline: Duration) -> RestoreRequest {
    RestoreRequest { id: id("web"), propagation_delay: GRACE, deadline }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercepted_service_of_a_sleeping_workload_is_restored_as_it_was() {
    for route in ["always", "when-asleep"] {
        let running = Running::new(route).await;
        let leader = running.scene.leader().await;
        until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
        let before = running.objects().await;
        running.sleeps(&leader).await;
        assert_ne!(running.objects().await, before);
        let began = Instant::now();
        soon(leader.restore(&RestoreRequest { propagation_delay: LONG_GRACE, ..release(SOON) }))
            .await
            .unwrap();
        assert!(began.elapsed() >= LONG_GRACE, "the DLXs stay named so long");
        assert_eq!(running.objects().await, before, "{route}");
        running.is_clean().await;
        // Nothing is written again, and it can be taken up again.
        running.scene.cluster.requests().reset();
        soon(leader.restore(&release(SOON))).await.unwrap();
        let services = Filter::any().verb("create,update,patch,delete").resource("services");
        assert_eq!(running.scene.cluster.requests().of(&services), 0);
        running.sleeps(&leader).await;
    }
}

/// Also by a process that was started without ports: what is led is on the objects.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_needs_no_ports() {
    let running = Running::new("always").await;
    let leader = running.scene.leader().await;
    until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
    let before = running.objects().await;
    running.sleeps(&leader).await;
    let mut context = running.scene.context(Role::Autoscaler, &devcluster::User::Admin, "{}");
    context.daemon_namespace = Some(HOME.to_owned());
    let bare = soon(DeploymentScaler::new(context)).await.unwrap();
    let refused = one(&bare, "web").await.interception.unwrap().refusal;
    assert!(refused.contains("--service-ports"), "{refused}");
    soon(bare.restore(&release(SOON))).await.unwrap();
    assert_eq!(running.objects().await, before);
    running.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_map_that_was_not_there_is_not_there_again() {
    let scene = Scene::new().await;
    let mut web = deployment("web", 1);
    web["metadata"]["annotations"] = Value::Null;
    scene.create("Deployment", web).await;
    let all = scene.plugin_of(Role::Autoscaler, &devcluster::User::Admin, "{optIn: all}").await;
    let before = scene.get("Deployment", "web").await.metadata.annotations;
    let seen = one(&all, "web").await;
    all.compare_and_set(&id("web"), &seen.version, &record(Phase::Draining, 1)).await.unwrap();
    soon(all.restore(&release(SOON))).await.unwrap();
    assert_eq!((scene.get("Deployment", "web").await.metadata.annotations, before), (None, None));
}

/// The DLXs stay named until there is somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_up_stays_with_the_dlxs() {
    let mut running = Running::new("always").await;
    let leader = running.scene.leader().await;
    running.sleeps(&leader).await;
    running.kubelet.shutdown().await;
    let error = leader.restore(&release(Duration::ZERO)).await.unwrap_err();
    assert!(
        matches!(&error, ScaleError::Retry { reason, .. } if reason.contains("not restored within")),
        "{error}"
    );
    running.scene.cluster.requests().reset();
    let releasing = tokio::spawn({
        let leader = Arc::clone(&leader);
        async move { leader.restore(&release(SOON)).await }
    });
    until(&leader, "web", |web| {
        web.replicas > 0 && web.interception.as_ref().unwrap().backend == Backend::Both
    })
    .await;
    // It waits for endpoints; and whoever asked for it has died.
    soon(async {
        while running.scene.asked("list", "endpointslices") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    releasing.abort();
    assert!(releasing.await.unwrap_err().is_cancelled());
    assert_eq!(running.scene.our_slices().await.len(), 1);
    running.kubelet.spawn(run_pods(running.scene.api("Pod")));
    soon(leader.restore(&release(SOON))).await.unwrap();
    running.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_is_recovered_from() {
    for writes in 0.. {
        let running = Running::new("always").await;
        let leader = running.scene.leading_as(Role::Autoscaler).await;
        until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
        let before = running.objects().await;
        running.sleeps(&leader).await;
        let crash = running.scene.crash_after(writes);
        let ended = soon(leader.restore(&release(SOON))).await;
        drop(crash);
        // Somebody is there in the meantime.
        assert!(
            ended.is_ok()
                || running.scene.our_slices().await.len() == 1
                || !running.scene.is_fenced("web").await
        );
        let slices = running.scene.our_slices().await.len();
        assert!(
            slices == 0 || running.scene.intercepted().await.as_deref() == Some("1"),
            "after {writes} writes"
        );
        let next = running.scene.leading_as(Role::Autoscaler).await;
        soon(next.restore(&release(SOON))).await.unwrap();
        assert_eq!(running.objects().await, before, "after {writes} writes");
        running.is_clean().await;
        if ended.is_ok() {
            assert!(writes >= 5, "the replicas, the key, the slice, the port, the record");
            return;
        }
    }
}

/// As backup tools do it: objects of the same names with other uids, and slices that name an owner and addresses that are nobody's.
async fn restored_from_a_backup(scene: &Scene) {
    let mut backup = Vec::new();
    let slice = scene.our_slices().await.remove(0);
    for (kind, object) in [
        ("Deployment", scene.get("Deployment", "web").await),
        ("Service", scene.get("Service", "web").await),
        ("EndpointSlice", slice),
    ] {
        let mut object = serde_json::to_value(object).unwrap();
        object.as_object_mut().unwrap().remove("status");
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        match kind {
            "Service" => {
                for field in ["clusterIP", "clusterIPs"] {
                    object["spec"].as_object_mut().unwrap().remove(field);
                }
            }
            "EndpointSlice" => object["endpoints"][0]["addresses"] = json!(["10.9.9.9"]),
            _ => {}
        }
        backup.push((kind, object));
    }
    scene.delete("Deployment", "web").await;
    // Its slices go with it.
    scene.delete("Service", "web").await;
    soon(async {
        while !scene.our_slices().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (kind, object) in backup {
        scene.create(kind, object).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_from_a_backup_is_intercepted_anew_and_restored() {
    for (route, anew) in [("always", false), ("when-asleep", false), ("always", true)] {
        let running = Running::new(route).await;
        let scene = &running.scene;
        let mut leader = scene.leader().await;
        running.sleeps(&leader).await;
        let old = scene.get("Service", "web").await.metadata.uid;
        restored_from_a_backup(scene).await;
        if anew {
            leader = scene.leader().await;
        }
        let seen = until(&leader, "web", |web| web.replicas == 0 && web.record.phase == Phase::Asleep).await;
        assert_eq!(seen.record.nonce, record(Phase::Asleep, 1).nonce, "{route}");
        // As the leader does until it is as it should be.
        soon(async {
            while !one(&leader, "web")
                .await
                .interception
                .is_some_and(|route| route.backend == Backend::Dlx && route.in_sync)
            {
                let _ = leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a"]))).await;
                let _ = leader.sync_dlxs(&dlxs(&["a"])).await;
            }
        })
        .await;
        let new = scene.get("Service", "web").await.metadata.uid;
        assert_ne!(new, old);
        let slices = scene.our_slices().await;
        assert_eq!(slices.len(), 1, "{route}");
        assert_eq!(slices[0].data["endpoints"][0]["addresses"], json!(["10.244.9.1"]), "{route}");
        assert_eq!(slices[0].metadata.owner_references.as_ref().unwrap()[0].uid, *new.as_ref().unwrap());
        soon(leader.sync_dlxs(&dlxs(&["a"]))).await.unwrap();
        assert_eq!(scene.intercepted().await.as_deref(), Some("1"), "the one that is gone is not counted");

        // Whoever asks wakes it; the two replicas of the record are not believed.
        let dlx = scene.leading(Role::Dlx, PORTS).await;
        let asleep =
            until(&dlx, "web", |web| web.record.phase == Phase::Asleep && web.ports.len() == 1).await;
        let waking = wake(&dlx, "web", &asleep.version, 7);
        until(&dlx, "web", |web| web.replicas == 1).await;
        waking.abort();
        soon(leader.restore(&release(SOON))).await.unwrap();
        running.is_clean().await;
        let web = scene.get("Deployment", "web").await;
        assert_eq!(web.data["spec"]["replicas"], 1, "{route}");
        assert_eq!(web.metadata.annotations.unwrap().get("scaler.dev/state"), None, "{route}");
        assert_eq!(
            scene.get("Service", "web").await.data["spec"]["selector"],
            json!({"app": "web"}),
            "{route}"
        );
    }
}

/// Leading back by steps, as the leader does while the workload stays asked for: the pods are endpoints again at the end.
#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_controller_takes_the_pods_out_and_in_again() {
    let running = Running::new("always").await;
    let leader = running.scene.leader().await;
    until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
    intercept(&leader, "web").await;
    until(&leader, "web", |web| !web.interception.as_ref().unwrap().intercepted_for.is_zero()).await;
    soon(leader.set_backend(&to("web", Backend::Both, dlxs(&["a"])))).await.unwrap();
    let both = until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
    assert_eq!(both.interception.unwrap().backend, Backend::Both);
}

/// Such a Service selects no pods: nothing of Scaler's may stay on it, nor prevent an uninstall.
#[tokio::test(flavor = "multi_thread")]
async fn an_intercepted_service_that_becomes_an_external_name_is_restored() {
    let scene = Scene::with_web().await;
    scene.annotate("web", "scaler.dev/intercept", "always").await;
    let leader = scene.leader().await;
    intercept(&leader, "web").await;
    assert!(scene.is_fenced("web").await);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "web.example.com"}});
    scene.merge("Service", "web", external).await;
    soon(async {
        while scene.is_fenced("web").await {
            leader.sync_dlxs(&dlxs(&["a"])).await.unwrap();
        }
    })
    .await;
    assert_eq!(scene.our_slices().await.len(), 0);
    soon(leader.sync_dlxs(&[])).await.unwrap();
}
