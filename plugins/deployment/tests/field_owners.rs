//! Whose the fields are that Scaler writes: their owners', as soon as it has written them.

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use devcluster::{Filter, Refusal, User};
use kube::api::{DynamicObject, Patch, PatchParams};
use scaler_types::{Backend, Phase, Resource, ResourceScaler as _, RestoreRequest, Role, ScaleError, Target};
use serde_json::{Value, json};

const REPLICAS: &str = "/f:spec/f:replicas";
const SELECTOR: &str = "/f:spec/f:selector";

/// As Flux, Argo CD or Helm 4 do it, without force.
async fn apply(scene: &Scene, kind: &str, mut object: Value) -> Result<DynamicObject, kube::Error> {
    object["apiVersion"] = api_resource(kind).api_version.into();
    object["kind"] = kind.into();
    let params = PatchParams::apply("flux");
    scene.api(kind).patch("web", &params, &Patch::Apply(object)).await
}

/// The managers that own a field.
async fn owners(scene: &Scene, kind: &str, field: &str) -> Vec<String> {
    let entries = scene.get(kind, "web").await.metadata.managed_fields.unwrap_or_default();
    let owning = entries
        .into_iter()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(field).is_some()));
    owning.filter_map(|entry| entry.manager).collect()
}

async fn nothing_is_ours(scene: &Scene, kind: &str) {
    let entries = scene.get(kind, "web").await.metadata.managed_fields.unwrap_or_default();
    let ours = entries.iter().filter_map(|entry| entry.manager.as_deref());
    assert_eq!(ours.filter(|manager| manager.starts_with("scaler")).count(), 0, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workloads_replicas_stay_its_owners() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    nothing_is_ours(&scene, "Deployment").await;
    scene.observe("web", 0).await;
    let asleep = until(&dlx, "web", |web| web.record.phase == Phase::Asleep).await;
    let waking = wake(&dlx, "web", &asleep.version, 2);
    let up = until(&dlx, "web", |web| web.replicas == 3).await;
    dlx.compare_and_set(&id("web"), &up.version, &record(Phase::Active, 3)).await.unwrap();
    ended(waking).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    // Another number is no conflict, awake or asleep: a manifest that is applied while it sleeps wakes it.
    let more = apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
    assert_eq!(more.data["spec"]["replicas"], 4);
    until(&dlx, "web", |web| web.replicas == 4).await;
    sleep(&dlx, "web").await.unwrap();
    let again = apply(&scene, "Deployment", deployment("web", 5)).await.unwrap();
    assert_eq!(again.data["spec"]["replicas"], 5);
}

/// Does something, and is killed after its first write of that resource.
async fn killed_after_a_write(
    scene: &Scene,
    resource: &str,
    work: impl Future<Output = Result<(), ScaleError>> + Send + 'static,
) {
    let writes = Filter::any().verb("patch").resource(resource);
    let fault = scene.cluster.faults().refuse_after(writes.clone(), 1, Refusal::Unavailable);
    scene.cluster.requests().reset();
    let task = tokio::spawn(work);
    soon(async {
        while scene.cluster.requests().of(&writes) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    task.abort();
    // Whether it was cancelled or had given up: it writes no more.
    let _ = task.await;
    fault.end();
}

/// Put to zero by a process that was killed before it gave the replicas back.
async fn sleeps_by_one_that_was_killed(scene: &Scene) {
    let killed = scene.dlx().await;
    let seen = one(&killed, "web").await;
    let fenced =
        killed.compare_and_set(&id("web"), &seen.version, &record(Phase::Draining, 1)).await.unwrap();
    let asleep = request("web", Target::Zero, &fenced, record(Phase::Asleep, 1));
    killed_after_a_write(scene, "deployments", async move { killed.set_scale(&asleep).await }).await;
    assert_eq!(owners(scene, "Deployment", REPLICAS).await, ["scaler-dlx"]);
    assert!(apply(scene, "Deployment", deployment("web", 4)).await.is_err(), "it conflicts");
}

/// Slept, and was woken by a process that was killed before it gave the replicas back.
async fn is_woken_by_one_that_was_killed(scene: &Scene) {
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    scene.observe("web", 0).await;
    let killed = scene.autoscaler().await;
    let asleep = one(&killed, "web").await;
    let waking = request("web", Target::AtLeast(1), &asleep.version, record(Phase::Waking, 2));
    killed_after_a_write(scene, "deployments", async move { killed.set_scale(&waking).await }).await;
    assert_eq!(owners(scene, "Deployment", REPLICAS).await, ["scaler-autoscaler"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_killed_process_are_restored_by_the_leader() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    sleeps_by_one_that_was_killed(&scene).await;
    let leader = scene.autoscaler().await;
    let asleep = one(&leader, "web").await;
    assert!(asleep.needs_repair);
    let version = leader.compare_and_set(&id("web"), &asleep.version, &asleep.record).await.unwrap();
    assert_eq!(version, asleep.version, "nothing else was written");
    assert!(!one(&leader, "web").await.needs_repair);
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    let applied = apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
    assert_eq!(applied.data["spec"]["replicas"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_killed_process_are_restored_by_the_next_wake_and_by_restore() {
    for wakes in [true, false] {
        let scene = Scene::new().await;
        apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
        sleeps_by_one_that_was_killed(&scene).await;
        scene.observe("web", 0).await;
        if wakes {
            let dlx = scene.dlx().await;
            let asleep = one(&dlx, "web").await;
            let waking = wake(&dlx, "web", &asleep.version, 2);
            let up = until(&dlx, "web", |web| web.replicas == 3).await;
            dlx.compare_and_set(&id("web"), &up.version, &record(Phase::Active, 3)).await.unwrap();
            ended(waking).await.unwrap();
        } else {
            let request = RestoreRequest { id: id("web"), propagation_delay: Duration::ZERO, deadline: SOON };
            soon(scene.autoscaler().await.restore(&request)).await.unwrap();
            nothing_is_ours(&scene, "Deployment").await;
        }
        assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
        apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
    }
}

/// The record that says whose they were is gone meanwhile: the leader knows it.
#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_killed_process_are_restored_without_its_record() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let leader = scene.autoscaler().await;
    sleeps_by_one_that_was_killed(&scene).await;
    until(&leader, "web", |web| web.record.phase == Phase::Asleep).await;
    scene.merge("Deployment", "web", json!({"metadata": {"annotations": {"scaler.dev/state": null}}})).await;
    let seen = |web: &Resource| web.needs_repair && web.record.phase == Phase::Asleep;
    let gone = until(&leader, "web", |web| seen(web) && !web.version.0.contains("asleep")).await;
    leader.compare_and_set(&id("web"), &gone.version, &gone.record).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
}

/// Killed in its wake, and killed again while it is given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_returns_the_replicas_field_before_it_removes_the_record_of_its_owner() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    is_woken_by_one_that_was_killed(&scene).await;
    for killed in [true, false] {
        let leader = scene.autoscaler().await;
        let request = RestoreRequest { id: id("web"), propagation_delay: Duration::ZERO, deadline: SOON };
        match killed {
            true => {
                killed_after_a_write(&scene, "deployments", async move { leader.restore(&request).await })
                    .await
            }
            false => soon(leader.restore(&request)).await.unwrap(),
        }
    }
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    nothing_is_ours(&scene, "Deployment").await;
}

/// Each write of the owners is refused for longer than a release tries: the record that says whose the replicas were stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_cannot_return_the_replicas_field_is_retried() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    is_woken_by_one_that_was_killed(&scene).await;
    let leader = scene.autoscaler().await;
    let request = RestoreRequest { id: id("web"), propagation_delay: Duration::ZERO, deadline: SOON };
    let (writes, faults) = (Filter::any().verb("patch").resource("deployments"), scene.cluster.faults());
    // The first write has no answer in time. Of what may follow only one passes: the one that takes the record away.
    let slow = faults.latency(writes.clone(), 2 * SOON);
    let first = faults.refuse(writes.clone(), 1, Refusal::Unavailable);
    let rest = faults.refuse_after(writes, 2, Refusal::Unavailable);
    let releasing = tokio::spawn({
        let (leader, request) = (Arc::clone(&leader), request.clone());
        async move { leader.restore(&request).await }
    });
    soon(async {
        while scene.cluster.faults().refusals_left() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    slow.end();
    let released = soon(releasing).await.unwrap();
    first.end();
    rest.end();
    assert!(matches!(released, Err(ScaleError::Retry { .. })), "{released:?}");
    soon(leader.restore(&request)).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    nothing_is_ours(&scene, "Deployment").await;
}

/// The same of a Service: its slices, which say whose its selector was, stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_restore_of_a_selector_is_retried() {
    for by_release in [true, false] {
        let scene = Scene::new().await;
        let mut web = deployment("web", 3);
        web["metadata"]["annotations"]["scaler.dev/intercept"] = "always".into();
        scene.create("Deployment", web).await;
        apply(&scene, "Service", service("web", "web")).await.unwrap();
        scene.own_endpoints("web", &["10.244.0.1"]).await;
        let leader = scene.leader().await;
        intercept(&leader, "web").await;
        if !by_release {
            scene.delete("Deployment", "web").await;
            soon(async {
                while !all(&leader).await.is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        let request = RestoreRequest { id: id("web"), propagation_delay: Duration::ZERO, deadline: SOON };
        let give_back = async || match by_release {
            true => soon(leader.restore(&request)).await.map_err(|error| error.to_string()),
            false => soon(leader.sync_dlxs(&dlxs(&["a"]))).await.map_err(|error| error.to_string()),
        };
        // The key is taken away; after that all is refused.
        let writes = Filter::any().verb("patch").resource("services");
        let fault = scene.cluster.faults().refuse_after(writes, 1, Refusal::Unavailable);
        let failed = give_back().await.unwrap_err();
        fault.end();
        assert!(failed.contains("selector of the Service shop/web"), "{by_release}: {failed}");
        assert_eq!(owners(&scene, "Service", SELECTOR).await, ["scaler-autoscaler"], "{by_release}");
        give_back().await.unwrap();
        assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"], "{by_release}");
        nothing_is_ours(&scene, "Service").await;
        assert_eq!(scene.our_slices().await.len(), 0, "{by_release}");
    }
}

/// Killed in its wake: what finishes that gives the replicas back.
#[tokio::test(flavor = "multi_thread")]
async fn fields_left_by_a_wake_are_restored_when_it_finishes() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    is_woken_by_one_that_was_killed(&scene).await;
    let other = scene.dlx().await;
    let up = one(&other, "web").await;
    // It may be being given back now.
    assert!(!up.needs_repair);
    other.compare_and_set(&id("web"), &up.version, &record(Phase::Active, 3)).await.unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
    apply(&scene, "Deployment", deployment("web", 4)).await.unwrap();
}

/// Deleted and created anew by somebody who leaves its replicas to others: whose they were before means nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_created_anew_meanwhile_is_left_alone() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let dlx = scene.leading_as(Role::Dlx).await;
    let user = User::service_account(NAMESPACE, "dlx");
    let seen = one(&dlx, "web").await;
    let fenced = dlx.compare_and_set(&id("web"), &seen.version, &record(Phase::Draining, 1)).await.unwrap();
    // The scale is written, and its owner is not until it is another workload.
    let writes = Filter::any().user(&user).verb("patch").resource("deployments");
    let conflicts = scene.cluster.faults().refuse_after(writes.clone(), 1, Refusal::Conflict);
    scene.cluster.requests().reset();
    let sleeping = tokio::spawn({
        let dlx = Arc::clone(&dlx);
        async move { dlx.set_scale(&request("web", Target::Zero, &fenced, record(Phase::Asleep, 1))).await }
    });
    soon(async {
        while scene.cluster.requests().of(&writes) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let reads = Filter::any().user(&user).verb("get").resource("deployments");
    let unread = scene.cluster.faults().refuse_after(reads, 0, Refusal::Unavailable);
    scene.delete("Deployment", "web").await;
    let mut anew = deployment("web", 1);
    anew["spec"].as_object_mut().unwrap().remove("replicas");
    apply(&scene, "Deployment", anew).await.unwrap();
    unread.end();
    conflicts.end();
    soon(sleeping).await.unwrap().unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, Vec::<String>::new());
}

/// More conflicts than there were tries once.
#[tokio::test(flavor = "multi_thread")]
async fn others_that_write_at_the_same_time_do_not_keep_a_field_from_its_owner() {
    let scene = Scene::new().await;
    apply(&scene, "Deployment", deployment("web", 3)).await.unwrap();
    let dlx = scene.dlx().await;
    let seen = one(&dlx, "web").await;
    let fenced = dlx.compare_and_set(&id("web"), &seen.version, &record(Phase::Draining, 1)).await.unwrap();
    // The scale is written; after it the next four are in conflict.
    let writes = Filter::any().verb("patch").resource("deployments");
    let conflicts = scene.cluster.faults().refuse_after(writes.clone(), 1, Refusal::Conflict);
    scene.cluster.requests().reset();
    let sleeping = tokio::spawn({
        let dlx = Arc::clone(&dlx);
        async move { dlx.set_scale(&request("web", Target::Zero, &fenced, record(Phase::Asleep, 1))).await }
    });
    soon(async {
        while scene.cluster.requests().of(&writes) < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    conflicts.end();
    soon(sleeping).await.unwrap().unwrap();
    assert_eq!(owners(&scene, "Deployment", REPLICAS).await, ["flux"]);
}

/// Killed between each write of leading a Service, or giving it back, and the next: another leader gives its selector back.
#[tokio::test(flavor = "multi_thread")]
async fn a_selector_field_of_a_killed_process_is_restored_by_the_next_leader() {
    for (leads, by_tending) in
        [(Backend::Dlx, true), (Backend::Dlx, false), (Backend::Both, true), (Backend::Both, false)]
    {
        let scene = Scene::new().await;
        let mut web = deployment("web", 3);
        web["metadata"]["annotations"]["scaler.dev/intercept"] = "always".into();
        scene.create("Deployment", web).await;
        apply(&scene, "Service", service("web", "web")).await.unwrap();
        scene.own_endpoints("web", &["10.244.0.1"]).await;
        let killed = scene.leader().await;
        // Then it knows that no admission policy writes the key.
        intercept(&killed, "web").await;
        if leads == Backend::Dlx {
            soon(killed.set_backend(&to("web", Backend::Both, dlxs(&["a"])))).await.unwrap();
        }
        let request = to("web", leads, dlxs(&["a"]));
        killed_after_a_write(&scene, "services", async move { killed.set_backend(&request).await }).await;
        assert_eq!(owners(&scene, "Service", SELECTOR).await, ["scaler-autoscaler"], "{leads:?}");
        assert!(apply(&scene, "Service", service("web", "other")).await.is_err(), "it conflicts");
        let next = scene.leader().await;
        match by_tending {
            true => soon(next.sync_dlxs(&dlxs(&["a"]))).await.unwrap(),
            false => soon(next.set_backend(&to("web", leads, dlxs(&["a"])))).await.unwrap(),
        }
        assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"], "{leads:?} {by_tending}");
        nothing_is_ours(&scene, "Service").await;
        apply(&scene, "Service", service("web", "other")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_selector_stays_its_owners() {
    let scene = Scene::new().await;
    let mut web = deployment("web", 3);
    web["metadata"]["annotations"]["scaler.dev/intercept"] = "always".into();
    scene.create("Deployment", web).await;
    apply(&scene, "Service", service("web", "web")).await.unwrap();
    scene.own_endpoints("web", &[]).await;
    let leader = scene.leader().await;
    intercept(&leader, "web").await;
    assert_eq!(scene.get("Service", "web").await.data["spec"]["selector"]["scaler.dev/intercepted"], "1");
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    // The key is written anew by a commit.
    until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|route| !route.intercepted_for.is_zero())
    })
    .await;
    sleep(&leader, "web").await.unwrap();
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    // An apply is no conflict, and takes the key away: the router puts it back.
    let applied = apply(&scene, "Service", service("web", "web")).await.unwrap();
    assert_eq!(applied.data["spec"]["selector"], json!({"app": "web"}));
    until(&leader, "web", |web| web.interception.as_ref().is_some_and(|route| route.backend != Backend::Dlx))
        .await;
    for leads in [Backend::Dlx, Backend::Both] {
        soon(leader.set_backend(&to("web", leads, dlxs(&["a"])))).await.unwrap();
    }
    assert_eq!(scene.get("Service", "web").await.data["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(owners(&scene, "Service", SELECTOR).await, ["flux"]);
    nothing_is_ours(&scene, "Service").await;
}
