//! Other numbers of replicas: which pods leave, and which stay because they have work.

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::*;
use deployment::DeploymentScaler;
use devcluster::{Filter, Refusal, User, controllers::Controllers};
use scaler_types::{Phase, Record, Resource, ResourceScaler as _, Role, ScaleError, Target};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const CHEAPEST: &str = "-2147483648";

/// Workers that answer busy probes: one address each, one port for all.
struct Workers {
    port: u16,
    /// What each answers; one without an answer is silent.
    answers: Arc<Mutex<BTreeMap<String, u16>>>,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Workers {
    /// `10.x` is not this host's: each is another address of the loopback.
    fn address(worker: usize) -> String {
        format!("127.77.0.{}", worker + 1)
    }

    async fn start(count: usize) -> Self {
        let answers: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let mut tasks = JoinSet::new();
        let mut port = 0;
        for worker in 0..count {
            let address = Self::address(worker);
            let listener = TcpListener::bind((address.as_str(), port)).await.unwrap();
            port = listener.local_addr().unwrap().port();
            answers.lock().unwrap().insert(address.clone(), 204);
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
            tasks.spawn(async move {
                let mut silent = Vec::new();
                loop {
                    let (mut stream, _): (_, SocketAddr) = listener.accept().await.unwrap();
                    let mut request = [0; 1024];
                    let length = stream.read(&mut request).await.unwrap();
                    assert!(request[..length].starts_with(b"GET /busy HTTP/1.1\r\n"));
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = answers.lock().unwrap().get(&address).copied();
                    match answer {
                        Some(status) => {
                            let answer = format!("HTTP/1.1 {status} Status\r\n\r\n");
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                        None => silent.push(stream),
                    }
                }
            });
        }
        Self { port, answers, asked, _tasks: tasks }
    }

    fn answer(&self, worker: usize, status: impl Into<Option<u16>>) {
        let mut answers = self.answers.lock().unwrap();
        match status.into() {
            Some(status) => answers.insert(Self::address(worker), status),
            None => answers.remove(&Self::address(worker)),
        };
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

fn exactly(count: u32) -> Target {
    Target::Exactly(NonZeroU32::new(count).unwrap())
}

/// A workload of so many workers; with a busy probe if they answer any.
fn mailer(kind: &str, count: usize, workers: Option<&Workers>) -> Value {
    let mut object = deployment("mailer", count.try_into().unwrap());
    object["metadata"]["annotations"] = json!({
        "scaler.dev/scale-to-zero": "5m", "scaler.dev/queue": "beanstalkd://broker:11300/mails",
        "scaler.dev/messages-per-replica": "20", "scaler.dev/max-replicas": "30",
    });
    if let Some(workers) = workers {
        object["metadata"]["annotations"]["scaler.dev/busy-probe"] =
            json!(format!("http://:{}/busy", workers.port));
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!("mailer");
    }
    object
}

/// Such a workload, whose workers are ready.
async fn workers(scene: &Scene, kind: &str, count: usize, workers: Option<&Workers>) {
    let object = mailer(kind, count, workers);
    let mut controller = scene.create(kind, object.clone()).await;
    if kind == "Deployment" {
        let set = json!({"metadata": {"name": "mailer"}, "spec": {"selector": object["spec"]["selector"], "template": object["spec"]["template"]}});
        controller = scene.create("ReplicaSet", set).await;
    }
    let owner = json!({
        "apiVersion": "apps/v1", "kind": controller.types.unwrap().kind, "name": "mailer", "uid": controller.metadata.uid,
        "controller": true,
    });
    for worker in 0..count {
        let name = format!("mailer-{worker}");
        scene.pod(&name, "mailer").await;
        scene.merge("Pod", &name, json!({"metadata": {"ownerReferences": [owner]}})).await;
        scene.runs(&name, &Workers::address(worker), true).await;
    }
}

async fn resize(plugin: &DeploymentScaler, mailer: &Resource, count: u32) -> Result<(), ScaleError> {
    let active = record(Phase::Active, 9);
    plugin.set_scale(&request_for(mailer, exactly(count), active)).await
}

fn request_for(resource: &Resource, target: Target, record: Record) -> scaler_types::ScaleRequest {
    let mut request = request("mailer", target, &resource.version, record);
    request.id = resource.id.clone();
    request
}

/// The costs of all pods that have one.
async fn costs(scene: &Scene) -> BTreeMap<String, String> {
    let pods = scene.api("Pod").list(&Default::default()).await.unwrap();
    let cost = |pod: kube::api::DynamicObject| {
        let cost = pod.metadata.annotations?.get(COST)?.clone();
        Some((pod.metadata.name?, cost))
    };
    pods.items.into_iter().filter_map(cost).collect()
}

async fn count(scene: &Scene, kind: &str) -> Value {
    scene.get(kind, "mailer").await.data["spec"]["replicas"].clone()
}

fn marked(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), CHEAPEST.to_owned())).collect()
}

/// Why it is to be tried again, though no pod has work.
fn failure(result: Result<(), ScaleError>) -> String {
    match result {
        Err(ScaleError::Retry { reason, .. }) => reason,
        other => panic!("it is to be tried again: {other:?}"),
    }
}

fn reason(result: Result<(), ScaleError>) -> String {
    match result {
        Err(ScaleError::Busy { reason, .. }) => reason,
        other => panic!("they have work: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn record_replicas_and_time_are_written_in_one_patch_that_tests_the_version() {
    let scene = Scene::new().await;
    workers(&scene, "Deployment", 2, None).await;
    let leader = scene.autoscaler().await;
    let mailer = one(&leader, "mailer").await;
    assert_eq!(mailer.scaling.as_ref().unwrap().last_scaled, None);
    scene.cluster.requests().reset();
    resize(&leader, &mailer, 5).await.unwrap();
    assert_eq!(scene.asked("patch", "deployments"), 2, "the resize, and whose the replicas are");
    assert_eq!((scene.asked("list", "pods"), scene.asked("patch", "pods")), (0, 0), "nothing leaves");
    let resized = one(&leader, "mailer").await;
    assert_eq!((resized.replicas, resized.record.clone()), (5, record(Phase::Active, 9)));
    let last = resized.scaling.as_ref().unwrap().last_scaled.unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now - 60..=now).contains(&last), "{last} at {now}");
    // Decided on what was before.
    let stale = request_for(&mailer, exactly(3), record(Phase::Active, 10));
    assert_eq!(leader.set_scale(&stale).await, Err(ScaleError::Conflict));
    // The same call again, of which the answer was lost.
    assert_eq!(resize(&leader, &mailer, 5).await, Ok(()));
    assert_eq!(one(&leader, "mailer").await.version, resized.version);
}

/// While it is waking the record says nothing: another leader has written it, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_resize_while_waking_is_done_only_with_its_own_replicas() {
    let scene = Scene::new().await;
    workers(&scene, "Deployment", 2, None).await;
    let (leader, old) = (scene.autoscaler().await, scene.autoscaler().await);
    let mailer = one(&leader, "mailer").await;
    let waking = record(Phase::Waking, 3);
    let version = leader.compare_and_set(&mailer.id, &mailer.version, &waking).await.unwrap();
    let resize = |count| request("mailer", exactly(count), &version, waking.clone());
    leader.set_scale(&resize(4)).await.unwrap();
    assert_eq!(old.set_scale(&resize(3)).await, Err(ScaleError::Conflict));
    assert_eq!(old.set_scale(&resize(4)).await, Ok(()));
    assert_eq!(count(&scene, "Deployment").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_fails_where_a_resize_was_faster_and_a_resize_within_a_drain() {
    let scene = Scene::new().await;
    workers(&scene, "Deployment", 2, None).await;
    let (leader, old) = (scene.autoscaler().await, scene.autoscaler().await);
    let mailer = one(&leader, "mailer").await;
    let drained =
        leader.compare_and_set(&mailer.id, &mailer.version, &record(Phase::Draining, 1)).await.unwrap();
    assert_eq!(resize(&old, &mailer, 3).await, Err(ScaleError::Conflict), "decided before the drain");
    let reverted = leader.compare_and_set(&mailer.id, &drained, &record(Phase::Active, 2)).await.unwrap();
    let again = request("mailer", exactly(3), &reverted, record(Phase::Active, 3));
    leader.set_scale(&again).await.unwrap();
    let commit = request("mailer", Target::Zero, &drained, record(Phase::Asleep, 1));
    assert_eq!(old.set_scale(&commit).await, Err(ScaleError::Conflict));
    assert_eq!(count(&scene, "Deployment").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_gives_what_the_rule_says_and_not_what_there_was_before() {
    let scene = Scene::new().await;
    workers(&scene, "Deployment", 3, None).await;
    for worker in 0..3 {
        scene.delete("Pod", &format!("mailer-{worker}")).await;
    }
    let leader = scene.autoscaler().await;
    sleep(&leader, "mailer").await.unwrap();
    scene.observe("mailer", 0).await;
    let asleep = until(&leader, "mailer", |mailer| mailer.record.phase == Phase::Asleep).await;
    let woken = request_for(&asleep, Target::AtLeast(2), record(Phase::Active, 4));
    leader.set_scale(&woken).await.unwrap();
    let mailer = one(&leader, "mailer").await;
    assert_eq!((mailer.replicas, mailer.record.phase), (2, Phase::Active));
    // Only up.
    let more = request_for(&mailer, Target::AtLeast(1), record(Phase::Active, 5));
    leader.set_scale(&more).await.unwrap();
    assert_eq!(count(&scene, "Deployment").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_pods_are_marked_and_no_more_leave_than_are_idle() {
    let (scene, pods) = (Scene::new().await, Workers::start(5).await);
    workers(&scene, "Deployment", 5, Some(&pods)).await;
    let leader = scene.autoscaler().await;
    for (worker, status) in [(0, 200), (2, 202), (3, 500)] {
        pods.answer(worker, status);
    }
    let mailer = one(&leader, "mailer").await;
    resize(&leader, &mailer, 4).await.unwrap();
    assert_eq!(pods.asked(), 5, "all are asked, once");
    assert_eq!(count(&scene, "Deployment").await, 4);
    let first = costs(&scene).await;
    assert!(first == marked(&["mailer-1"]) || first == marked(&["mailer-4"]), "{first:?}");
    // Its controller does not work here: the same pod is still there, and still idle.
    scene.delete("Pod", first.keys().next().unwrap()).await;
    let mailer = until(&leader, "mailer", |mailer| mailer.replicas == 4).await;
    scene.cluster.requests().reset();
    resize(&leader, &mailer, 1).await.unwrap();
    assert_eq!(count(&scene, "Deployment").await, 3, "one is idle: a smaller step");
    assert_eq!(scene.asked("patch", "pods"), 1);
    let mailer = until(&leader, "mailer", |mailer| mailer.replicas == 3).await;
    let last = costs(&scene).await;
    scene.delete("Pod", last.keys().next().unwrap()).await;
    scene.cluster.requests().reset();
    let why = reason(resize(&leader, &mailer, 1).await);
    assert!(why.contains("3 of its 3 pods may have work") && why.contains("answers 500"), "{why}");
    assert_eq!((count(&scene, "Deployment").await, scene.asked("patch", "deployments")), (json!(3), 0));
    assert_eq!(one(&leader, "mailer").await.version, mailer.version, "nothing is changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_written_where_it_changes_and_taken_away_from_what_is_busy() {
    let (scene, pods) = (Scene::new().await, Workers::start(3).await);
    workers(&scene, "Deployment", 3, Some(&pods)).await;
    // Left by a step that did not happen.
    for (name, cost) in [("mailer-0", CHEAPEST), ("mailer-1", CHEAPEST)] {
        scene.merge("Pod", name, json!({"metadata": {"annotations": {COST: cost, "keep": "1"}}})).await;
    }
    pods.answer(0, 200);
    let leader = scene.autoscaler().await;
    scene.cluster.requests().reset();
    resize(&leader, &one(&leader, "mailer").await, 2).await.unwrap();
    assert_eq!((costs(&scene).await, scene.asked("patch", "pods")), (marked(&["mailer-1"]), 1));
    let annotations = scene.get("Pod", "mailer-0").await.metadata.annotations.unwrap();
    assert_eq!(annotations.get("keep").map(String::as_str), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_are_idle_nothing_is_written_on_the_pods() {
    let (scene, pods) = (Scene::new().await, Workers::start(3).await);
    workers(&scene, "Deployment", 3, Some(&pods)).await;
    let leader = scene.autoscaler().await;
    scene.cluster.requests().reset();
    resize(&leader, &one(&leader, "mailer").await, 1).await.unwrap();
    assert_eq!((count(&scene, "Deployment").await, pods.asked()), (json!(1), 3));
    assert_eq!(scene.asked("patch", "pods"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_requests_in_flight_stay() {
    let scene = Scene::new().await;
    workers(&scene, "Deployment", 3, None).await;
    let leader = scene.autoscaler().await;
    let uid = |pod: kube::api::DynamicObject| pod.metadata.uid.unwrap();
    let (one_of, restarted) = (scene.get("Pod", "mailer-0").await, scene.get("Pod", "mailer-2").await);
    let mailer = one(&leader, "mailer").await;
    let mut request = request_for(&mailer, exactly(1), record(Phase::Active, 9));
    request.busy = vec![uid(one_of), format!("{}.4", uid(restarted)), "long-gone".to_owned()];
    leader.set_scale(&request).await.unwrap();
    assert_eq!((count(&scene, "Deployment").await, costs(&scene).await), (json!(2), marked(&["mailer-1"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_steps_down_only_while_its_last_pods_are_idle() {
    let (scene, pods) = (Scene::new().await, Workers::start(4).await);
    workers(&scene, "StatefulSet", 4, Some(&pods)).await;
    let leader = scene.autoscaler().await;
    pods.answer(1, 200);
    let mailer = one(&leader, "statefulset/mailer").await;
    resize(&leader, &mailer, 1).await.unwrap();
    assert_eq!((count(&scene, "StatefulSet").await, costs(&scene).await), (json!(2), marked(&[])));
    let mailer = until(&leader, "statefulset/mailer", |mailer| mailer.replicas == 2).await;
    for worker in [2, 3] {
        scene.delete("Pod", &format!("mailer-{worker}")).await;
    }
    let why = reason(resize(&leader, &mailer, 1).await);
    assert!(why.contains("1 of its 2 pods may have work (mailer-1: its busy probe answers 200)"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_zero_every_pod_must_answer_that_it_is_idle() {
    let (scene, pods) = (Scene::new().await, Workers::start(2).await);
    workers(&scene, "Deployment", 2, Some(&pods)).await;
    let leader = scene.autoscaler().await;
    let mut version = one(&leader, "mailer").await.version;
    for (nonce, status) in [(1, Some(200)), (3, None), (5, Some(503))] {
        pods.answer(1, status);
        version =
            leader.compare_and_set(&id("mailer"), &version, &record(Phase::Draining, nonce)).await.unwrap();
        scene.cluster.requests().reset();
        let commit = request("mailer", Target::Zero, &version, record(Phase::Asleep, nonce));
        let why = reason(leader.set_scale(&commit).await);
        assert!(why.contains("1 of its 2 pods may have work (mailer-1: its busy probe "), "{why}");
        assert_eq!(scene.cluster.requests().of(&Filter::any().verb("patch")), 0, "nothing is changed");
        version =
            leader.compare_and_set(&id("mailer"), &version, &record(Phase::Active, nonce + 1)).await.unwrap();
    }
    pods.answer(1, 404);
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(count(&scene, "Deployment").await, 0);
}

/// What has no container that runs cannot have work.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_run_are_not_asked() {
    let (scene, pods) = (Scene::new().await, Workers::start(2).await);
    workers(&scene, "Deployment", 2, Some(&pods)).await;
    scene.waits("mailer-1", "CrashLoopBackOff", "back-off", 7).await;
    pods.answer(1, 200);
    let leader = scene.autoscaler().await;
    sleep(&leader, "mailer").await.unwrap();
    assert_eq!(count(&scene, "Deployment").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_mark_pods_the_step_is_as_large_and_without_the_right_to_list_there_is_none() {
    let (scene, pods) = (Scene::new().await, Workers::start(3).await);
    workers(&scene, "Deployment", 3, Some(&pods)).await;
    pods.answer(0, 200);
    let reads = json!({
        "apiGroups": ["", "apps", "networking.k8s.io", "autoscaling"],
        "resources": ["deployments", "statefulsets", "services", "ingresses", "horizontalpodautoscalers"],
        "verbs": ["get", "list", "watch"],
    });
    let writes = json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]});
    let lists = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]});
    scene.grant("blind", json!([reads, writes])).await;
    scene.grant("unarmed", json!([reads, writes, lists])).await;
    let account = |name: &str| User::service_account(NAMESPACE, name);
    let blind = scene.plugin_of(Role::Autoscaler, &account("blind"), "{}").await;
    let why = failure(resize(&blind, &one(&blind, "mailer").await, 1).await);
    assert!(why.contains("listing the pods of shop/mailer") && why.contains("forbidden"), "{why}");
    assert_eq!(count(&scene, "Deployment").await, 3);
    let unarmed = scene.plugin_of(Role::Autoscaler, &account("unarmed"), "{}").await;
    resize(&unarmed, &one(&unarmed, "mailer").await, 1).await.unwrap();
    assert_eq!((count(&scene, "Deployment").await, costs(&scene).await), (json!(1), marked(&[])));
}

/// A pod's status changed between its answer and the mark: it is asked again, for its answer may be another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_changes_meanwhile_is_asked_again() {
    let (scene, pods) = (Scene::new().await, Workers::start(3).await);
    workers(&scene, "Deployment", 3, Some(&pods)).await;
    pods.answer(0, 200);
    let leader = scene.autoscaler().await;
    let mailer = one(&leader, "mailer").await;
    let patches = || Filter::any().verb("patch").resource("pods");
    let _once = scene.cluster.faults().refuse(patches(), 1, Refusal::Conflict);
    resize(&leader, &mailer, 2).await.unwrap();
    assert_eq!(
        (count(&scene, "Deployment").await, pods.asked(), costs(&scene).await.len()),
        (json!(2), 6, 1)
    );
    let mailer = until(&leader, "mailer", |mailer| mailer.replicas == 2).await;
    let _always = scene.cluster.faults().refuse(patches(), u32::MAX, Refusal::Unavailable);
    let why = failure(resize(&leader, &mailer, 1).await);
    assert_eq!(why, "its pods changed while they were chosen");
    assert_eq!(count(&scene, "Deployment").await, 2);
}

/// What the pods said must be fresh when the step is written.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_old_is_asked_for_again() {
    let (scene, pods) = (Scene::new().await, Workers::start(3).await);
    workers(&scene, "Deployment", 3, Some(&pods)).await;
    pods.answer(0, 200);
    let leader = scene.autoscaler().await;
    let mailer = one(&leader, "mailer").await;
    let patches = Filter::any().verb("patch").resource("pods");
    let _slow = scene.cluster.faults().latency(patches, std::time::Duration::from_millis(1100));
    resize(&leader, &mailer, 2).await.unwrap();
    assert_eq!((count(&scene, "Deployment").await, pods.asked()), (json!(2), 6));
}

/// It counts as busy, and what the others said is not too old when it has been waited for.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_pod_that_does_not_answer_idle_ones_are_removed() {
    let (scene, pods) = (Scene::new().await, Workers::start(4).await);
    workers(&scene, "Deployment", 4, Some(&pods)).await;
    pods.answer(0, 200);
    pods.answer(2, None);
    let leader = scene.autoscaler().await;
    resize(&leader, &one(&leader, "mailer").await, 1).await.unwrap();
    assert_eq!(count(&scene, "Deployment").await, 2);
    assert_eq!(costs(&scene).await, marked(&["mailer-1", "mailer-3"]));
}

/// With the controllers of a cluster, which delete the pods.
#[tokio::test(flavor = "multi_thread")]
async fn busy_pods_stay_while_their_deployment_shrinks_and_grows() {
    let (scene, pods) = (Scene::new().await, Workers::start(12).await);
    let _controllers = Controllers::start(scene.client.clone());
    scene.create("Deployment", mailer("Deployment", 6, Some(&pods))).await;
    let leader = scene.autoscaler().await;
    let mut addresses = BTreeMap::new();
    // Few are busy, then most, then none; and others each time.
    for (now, wanted, busy, expected) in [
        (6, 1, vec![1, 4], 2),
        (2, 6, vec![], 6),
        (6, 2, vec![0, 2, 3, 5], 4),
        (4, 3, vec![1], 3),
        (3, 1, vec![], 1),
    ] {
        let alive = alive_pods(&scene, now).await;
        for pod in &alive {
            let free = (0..12).find(|worker| !addresses.values().any(|taken| taken == worker)).unwrap();
            let worker = *addresses.entry(pod.clone()).or_insert(free);
            scene.runs(pod, &Workers::address(worker), true).await;
            pods.answer(worker, 204);
        }
        let busy: Vec<_> = busy.into_iter().map(|place: usize| alive[place].clone()).collect();
        busy.iter().for_each(|pod| pods.answer(addresses[pod], 200));
        let mailer = until(&leader, "mailer", |mailer| mailer.replicas as usize == now).await;
        let nonce = mailer.record.nonce.0 + 1;
        let request = request_for(&mailer, exactly(wanted), record(Phase::Active, nonce));
        soon(leader.set_scale(&request)).await.unwrap();
        assert_eq!(count(&scene, "Deployment").await, expected);
        let left = alive_pods(&scene, expected).await;
        assert!(busy.iter().all(|pod| left.contains(pod)), "of {busy:?} only {left:?} are left");
        addresses.retain(|pod, _| left.contains(pod));
    }
}

/// The pods that are not being deleted, once there are so many.
async fn alive_pods(scene: &Scene, count: usize) -> Vec<String> {
    soon(async {
        loop {
            let pods = scene.api("Pod").list(&Default::default()).await.unwrap();
            let alive = pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let alive: Vec<_> = alive.filter_map(|pod| pod.metadata.name).collect();
            if alive.len() == count {
                return alive;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
