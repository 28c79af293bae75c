//! Routes while daemons crash and others write.

mod common;

use common::*;
use deployment::DeploymentScaler;
use devcluster::{Filter, Refusal};
use scaler_types::{Backend, Resource, ResourceScaler as _, Role, ScaleError, ServicePorts};
use serde_json::{Value, json};

/// `web` with a second Service, both with endpoints of their own.
async fn web() -> Scene {
    let scene = Scene::with_web().await;
    scene.annotate("web", "scaler.dev/intercept", "always").await;
    scene.create("Service", service("front", "web")).await;
    for name in ["web", "front"] {
        scene.own_endpoints(name, &["10.244.0.1"]).await;
    }
    scene
}

async fn services(scene: &Scene) -> Vec<Value> {
    let mut all = Vec::new();
    for name in ["web", "front"] {
        all.push(scene.get("Service", name).await.data);
    }
    all
}

/// A Service with our key has a slice of ours with somebody in it, every port of a slice is given to its Service, and each Service that
/// has something of ours is counted.
async fn finds_somebody(scene: &Scene) {
    let (slices, registry) = (scene.our_slices().await, scene.registry().await);
    for slice in &slices {
        assert!(!slice.data["endpoints"].as_array().unwrap().is_empty());
        for port in slice.data["ports"].as_array().unwrap() {
            let entry = &registry[&port["port"].to_string()];
            assert_eq!(entry["uid"], *slice.metadata.owner_references.as_ref().unwrap()[0].uid);
            assert_eq!(entry.get("freed_at"), None, "{entry}");
        }
    }
    let mut touched = 0;
    for name in ["web", "front"] {
        let has_slice = slices
            .iter()
            .any(|slice| slice.metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"] == name);
        assert!(has_slice || !scene.is_fenced(name).await, "{name}");
        touched += usize::from(has_slice);
    }
    let counted = scene.intercepted().await.map_or(0, |text| text.parse().unwrap());
    assert!(counted >= touched, "{touched} have something of ours, and {counted} are counted");
}

fn leads(web: &Resource) -> (Backend, bool) {
    let route = web.interception.as_ref().unwrap();
    (route.backend, route.in_sync)
}

async fn go(leader: &DeploymentScaler, leads: Backend) -> Result<(), ScaleError> {
    soon(leader.set_backend(&to("web", leads, dlxs(&["a"])))).await
}

/// From one route to the next, with a crash after each number of writes; then the same process goes on, or another.
async fn crash_on_the_way(ways: &[Backend], same: bool) {
    for writes in 0.. {
        let scene = web().await;
        let before = services(&scene).await;
        let leader = scene.leading_as(Role::Autoscaler).await;
        let (last, first) = ways.split_last().unwrap();
        for way in first {
            go(&leader, *way).await.unwrap();
        }
        let crash = scene.crash_after(writes);
        let ended = go(&leader, *last).await;
        drop(crash);
        finds_somebody(&scene).await;
        let next = if same { leader } else { scene.leading_as(Role::Autoscaler).await };
        go(&next, *last).await.unwrap();
        finds_somebody(&scene).await;
        assert_eq!(leads(&one(&next, "web").await), (*last, true));
        if *last == Backend::Workload {
            assert_eq!(services(&scene).await, before);
            assert_eq!(scene.our_slices().await.len(), 0);
            assert!(scene.registry().await.values().all(|entry| entry["freed_at"].is_string()));
            assert_eq!(scene.intercepted().await.as_deref(), Some("0"));
        } else {
            assert_eq!(scene.our_slices().await.len(), 2);
            assert_eq!(scene.intercepted().await.as_deref(), Some("2"));
            assert_eq!(scene.registry().await.len(), 2, "each port is given once");
        }
        if ended.is_ok() {
            assert!(writes > 1, "there was something to be crashed in");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_of_an_interception_is_recovered_from() {
    for same in [true, false] {
        crash_on_the_way(&[Backend::Dlx], same).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_of_a_restore_is_recovered_from() {
    for same in [true, false] {
        crash_on_the_way(&[Backend::Dlx, Backend::Both], same).await;
        crash_on_the_way(&[Backend::Dlx, Backend::Both, Backend::Workload], same).await;
    }
}

/// As if the answers to all of its own writes had been lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_behind_writes_nothing_twice() {
    let scene = web().await;
    let (behind, other) = (scene.leader().await, scene.leader().await);
    let stall = scene.cluster.faults().stall_watches(Filter::any());
    go(&other, Backend::Dlx).await.unwrap();
    assert_eq!(leads(&one(&behind, "web").await).0, Backend::Workload);
    go(&behind, Backend::Dlx).await.unwrap();
    assert_eq!(scene.registry().await.len(), 2);
    finds_somebody(&scene).await;
    go(&other, Backend::Both).await.unwrap();
    go(&other, Backend::Workload).await.unwrap();
    go(&behind, Backend::Workload).await.unwrap();
    assert_eq!(scene.our_slices().await.len(), 0);
    assert!(scene.registry().await.values().all(|entry| entry["freed_at"].is_string()));
    drop(stall);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_event_on_the_object_and_changes_nothing() {
    let scene = web().await;
    let leader = scene.leader().await;
    let policy =
        json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    scene.create("NetworkPolicy", policy).await;
    let web = until(&leader, "web", |web| !web.keep_awake.is_empty()).await;
    assert!(web.keep_awake.contains("the NetworkPolicy deny"), "{}", web.keep_awake);
    let refusals = || async {
        let all = scene.api("Event").list(&Default::default()).await.unwrap().items;
        all.into_iter().filter(|event| event.data["reason"] == "InterceptionRefused").collect::<Vec<_>>()
    };
    soon(async {
        while refusals().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(go(&leader, Backend::Dlx).await, Err(ScaleError::Terminal { .. })));
    assert_eq!((scene.our_slices().await.len(), scene.registry().await.len()), (0, 0));
    scene.delete("NetworkPolicy", "deny").await;
    until(&leader, "web", |web| web.keep_awake.is_empty()).await;
    go(&leader, Backend::Dlx).await.unwrap();
    assert_eq!(refusals().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_in_the_daemons_namespace_is_named() {
    let scene = web().await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    drop(leader);
    let roles: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(scene.client.clone(), HOME, &api_resource("Role"));
    roles.delete(AUTOSCALER, &Default::default()).await.unwrap();
    let mut context =
        scene.context(Role::Autoscaler, &devcluster::User::service_account(NAMESPACE, AUTOSCALER), "{}");
    (context.service_ports, context.daemon_namespace) = (Some(PORTS), Some(HOME.to_owned()));
    let error = format!("{:#}", soon(DeploymentScaler::new(context)).await.err().unwrap());
    assert!(error.contains("configmaps (scaler-service-ports) in namespace scaler"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_readme_are_enough() {
    let scene = web().await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    let dlx = scene.leading_as(Role::Dlx).await;
    go(&leader, Backend::Dlx).await.unwrap();
    until(&dlx, "web", |web| web.ports.len() == 2).await;
    soon(leader.sync_dlxs(&dlxs(&["b"]))).await.unwrap();
    go(&leader, Backend::Both).await.unwrap();
    go(&leader, Backend::Workload).await.unwrap();
    let release =
        scaler_types::RestoreRequest { id: id("web"), propagation_delay: Default::default(), deadline: SOON };
    soon(leader.restore(&release)).await.unwrap();
    let forbidden = scene.cluster.requests().forbidden();
    let resources: Vec<_> = forbidden.keys().map(|request| request.resource.as_str()).collect();
    assert!(resources.iter().all(|resource| *resource == "namespaces"), "{forbidden:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_meanwhile_stays() {
    let scene = web().await;
    let leader = scene.leader().await;
    // The registry: another daemon has written since this one looked.
    let _stall = scene.cluster.faults().stall_watches(Filter::any().resource("configmaps"));
    let other = json!({"namespace": "bank", "service": "x", "uid": "x", "port": ""}).to_string();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scaler-service-ports"}, "data": {"20050": other}});
    scene.home().create(&Default::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    // The Service: refused once, as after a change of somebody's.
    let once =
        scene.cluster.faults().refuse(Filter::any().verb("patch").resource("services"), 1, Refusal::Conflict);
    go(&leader, Backend::Dlx).await.unwrap();
    drop(once);
    assert_eq!(scene.registry().await.len(), 3);
    assert_eq!(scene.intercepted().await.as_deref(), Some("3"), "of all namespaces");
    let data = json!({"data": {"20051": other}});
    scene
        .home()
        .patch("scaler-service-ports", &Default::default(), &kube::api::Patch::Merge(data))
        .await
        .unwrap();
    // Their own keys, labels and ports.
    let more = json!({"metadata": {"labels": {"team": "a"}}, "spec": {"selector": {"tier": null}, "sessionAffinity": "None"}});
    scene.merge("Service", "web", more).await;
    go(&leader, Backend::Both).await.unwrap();
    go(&leader, Backend::Workload).await.unwrap();
    let web = scene.get("Service", "web").await;
    assert_eq!(web.data["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(web.metadata.labels.unwrap()["team"], "a");
    let registry = scene.registry().await;
    assert_eq!(
        registry.values().filter(|entry| entry["namespace"] == "bank" && entry["freed_at"].is_null()).count(),
        2
    );
    assert_eq!(
        scene.intercepted().await.as_deref(),
        Some("1"),
        "the other's, whatever it was told meanwhile"
    );
}

/// What was looked at is another by the time it is written: it is decided again.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_changes_meanwhile_is_not_intercepted() {
    let scene = web().await;
    let leader = scene.leader().await;
    scene.cluster.requests().reset();
    // The slices take their time, and the Service is changed meanwhile.
    let creates = Filter::any().verb("create").resource("endpointslices");
    let slow = scene.cluster.faults().latency(creates, std::time::Duration::from_secs(1));
    let (written, ()) = tokio::join!(go(&leader, Backend::Dlx), async {
        while scene.asked("create", "endpointslices") == 0 {
            tokio::task::yield_now().await;
        }
        scene.merge("Service", "web", json!({"spec": {"internalTrafficPolicy": "Local"}})).await;
    });
    assert_eq!(written, Err(ScaleError::Conflict));
    drop(slow);
    assert!(!scene.is_fenced("web").await);
    let Err(ScaleError::Terminal { reason }) = go(&leader, Backend::Dlx).await else { panic!() };
    assert!(reason.contains("internalTrafficPolicy"), "{reason}");
    let web = one(&leader, "web").await;
    assert_eq!(web.interception.as_ref().unwrap().refusal, reason);
    assert!(web.keep_awake.contains(&reason));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_key_is_removed_three_times_is_left_alone() {
    let scene = web().await;
    let leader = scene.leader().await;
    for time in 1..=3 {
        go(&leader, Backend::Dlx).await.unwrap();
        assert_eq!(one(&leader, "web").await.interception.unwrap().refusal, "", "{time}");
        scene.merge("Service", "web", json!({"spec": {"selector": {"scaler.dev/intercepted": null}}})).await;
        until(&leader, "web", |web| !leads(web).1 || !web.interception.as_ref().unwrap().refusal.is_empty())
            .await;
    }
    let web = one(&leader, "web").await;
    assert!(web.interception.unwrap().refusal.contains("the Service web"), "by its name");
    assert!(matches!(go(&leader, Backend::Dlx).await, Err(ScaleError::Terminal { .. })));
    assert!(!scene.is_fenced("web").await);
    // Led by others' hands it is none of ours: the other Service is given back, too.
    go(&leader, Backend::Both).await.unwrap();
    go(&leader, Backend::Workload).await.unwrap();
    assert_eq!(scene.our_slices().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_deleted_is_made_again_with_the_same_ports() {
    let scene = web().await;
    let (leader, dlx) = (scene.leader().await, scene.leading(Role::Dlx, PORTS).await);
    // The ports that they would be given in an empty registry are others'.
    go(&leader, Backend::Dlx).await.unwrap();
    go(&leader, Backend::Both).await.unwrap();
    go(&leader, Backend::Workload).await.unwrap();
    let other = json!({"namespace": "bank", "service": "x", "uid": "x", "port": ""}).to_string();
    let taken: Value = scene.registry().await.into_keys().map(|port| (port, other.clone())).collect();
    let taken = kube::api::Patch::Merge(json!({"data": taken}));
    scene.home().patch("scaler-service-ports", &Default::default(), &taken).await.unwrap();
    until(&leader, "web", |web| web.ports.is_empty()).await;
    go(&leader, Backend::Dlx).await.unwrap();
    let mut before = scene.registry().await;
    before.retain(|_, entry| entry["namespace"] == NAMESPACE);
    let listen = |web: &Resource| web.ports.iter().map(|port| port.listen.to_string()).collect::<Vec<_>>();
    let ports = until(&dlx, "web", |web| listen(web).iter().eq(before.keys())).await.ports;
    scene.home().delete("scaler-service-ports", &Default::default()).await.unwrap();
    until(&leader, "web", |web| !leads(web).1).await;
    assert_eq!(one(&dlx, "web").await.ports, ports, "the slices name them still");
    go(&leader, Backend::Dlx).await.unwrap();
    assert_eq!(scene.registry().await, before);
    assert_eq!(scene.intercepted().await.as_deref(), Some("2"));
    assert!(leads(&one(&leader, "web").await).1);
    finds_somebody(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_created_meanwhile_is_intercepted_too() {
    let scene = web().await;
    let leader = scene.leader().await;
    go(&leader, Backend::Dlx).await.unwrap();
    for name in ["web", "front"] {
        scene.own_endpoints(name, &[]).await;
    }
    until(&leader, "web", |web| !web.interception.as_ref().unwrap().intercepted_for.is_zero()).await;
    scene.create("Service", service("third", "web")).await;
    let web = until(&leader, "web", |web| !leads(web).1).await;
    assert_eq!((leads(&web).0, web.interception.unwrap().intercepted_for.is_zero()), (Backend::Dlx, true));
    go(&leader, Backend::Dlx).await.unwrap();
    assert!(scene.is_fenced("third").await);
    let web = one(&leader, "web").await;
    assert_eq!((leads(&web), web.ports.len()), ((Backend::Dlx, true), 3));
    // Made anew under its name: its slice is the old one's until it is written again.
    scene.delete("Service", "third").await;
    scene.create("Service", service("third", "web")).await;
    until(&leader, "web", |web| !leads(web).1).await;
    go(&leader, Backend::Dlx).await.unwrap();
    soon(leader.sync_dlxs(&dlxs(&["a"]))).await.unwrap();
    let freed = scene.registry().await.values().filter(|entry| entry["freed_at"].is_string()).count();
    assert_eq!(freed, 1, "the port of the one that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_port_left_it_is_refused_until_there_is_one() {
    let scene = web().await;
    let leader = scene.leading(Role::Autoscaler, ServicePorts { first: 20000, last: 20001 }).await;
    go(&leader, Backend::Dlx).await.unwrap();
    scene.create("Deployment", deployment("api", 1)).await;
    scene.create("Service", service("api", "api")).await;
    scene.annotate("api", "scaler.dev/intercept", "always").await;
    // Its Service may be seen after it.
    let no_room = |text: &str| text.contains("20000-20001");
    let api =
        until(&leader, "api", |api| api.interception.as_ref().is_some_and(|route| no_room(&route.refusal)))
            .await;
    assert!(no_room(&api.keep_awake), "{}", api.keep_awake);
    let request = to("api", Backend::Dlx, dlxs(&["a"]));
    assert!(matches!(leader.set_backend(&request).await, Err(ScaleError::Terminal { .. })));
    assert_eq!(scene.our_slices().await.len(), 2, "nothing was touched");
    // The operator makes room by hand.
    let port = scene.registry().await.into_keys().next().unwrap();
    go(&leader, Backend::Both).await.unwrap();
    go(&leader, Backend::Workload).await.unwrap();
    let free = json!({"data": {port: null}});
    scene
        .home()
        .patch("scaler-service-ports", &Default::default(), &kube::api::Patch::Merge(free))
        .await
        .unwrap();
    until(&leader, "api", |api| api.interception.as_ref().unwrap().refusal.is_empty()).await;
    soon(leader.set_backend(&request)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_gives_other_ports() {
    let scene = web().await;
    let leader = scene.leader().await;
    go(&leader, Backend::Dlx).await.unwrap();
    let moved = ServicePorts { first: 30000, last: 30010 };
    let next = scene.leading(Role::Autoscaler, moved).await;
    assert_eq!(leads(&one(&next, "web").await), (Backend::Dlx, false));
    go(&next, Backend::Dlx).await.unwrap();
    finds_somebody(&scene).await;
    let web = one(&next, "web").await;
    assert_eq!(leads(&web), (Backend::Dlx, true));
    assert_eq!(web.ports.iter().filter(|port| moved.contains(port.listen)).count(), 2);
    assert_eq!(web.ports.len(), 4, "the old ones are served for a while");
}

/// Until the plugin knows that the workload is gone.
async fn is_gone(leader: &DeploymentScaler) {
    soon(async {
        let mut cursor = 0;
        loop {
            let changes = leader.changes(cursor).await.unwrap();
            if !changes.resources.iter().any(|one| one.id == id("web"))
                && (changes.complete || changes.removed.contains(&id("web")))
            {
                return;
            }
            cursor = changes.cursor;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_a_deleted_workload_is_restored() {
    let scene = web().await;
    let before = services(&scene).await;
    let leader = scene.leader().await;
    go(&leader, Backend::Dlx).await.unwrap();
    scene.delete("Deployment", "web").await;
    is_gone(&leader).await;
    let crash = scene.cluster.faults().refuse(
        Filter::any().verb("delete").resource("endpointslices"),
        1,
        Refusal::Unavailable,
    );
    let error = soon(leader.sync_dlxs(&dlxs(&["a"]))).await.unwrap_err().to_string();
    assert!(error.contains("1 Services are not in sync"), "{error}");
    drop(crash);
    soon(leader.sync_dlxs(&dlxs(&["a"]))).await.unwrap();
    assert_eq!(services(&scene).await, before);
    assert_eq!(scene.our_slices().await.len(), 0);
    assert!(scene.registry().await.values().all(|entry| entry["freed_at"].is_string()));
}

/// As `autoscaler restore` asks at its end. A Service of a namespace that is not looked after stays counted, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn without_dlxs_services_of_deleted_workloads_are_restored_and_the_rest_named() {
    let scene = web().await;
    let before = services(&scene).await;
    let leader = scene.leader().await;
    go(&leader, Backend::Dlx).await.unwrap();
    let other = json!({"namespace": "bank", "service": "x", "uid": "x", "port": ""}).to_string();
    let data = kube::api::Patch::Merge(json!({"data": {"20050": other}}));
    scene.home().patch("scaler-service-ports", &Default::default(), &data).await.unwrap();
    scene.delete("Deployment", "web").await;
    is_gone(&leader).await;
    let error = soon(leader.sync_dlxs(&[])).await.unwrap_err().to_string();
    assert!(error.contains("the Service bank/x") && error.contains("key 20050"), "{error}");
    // Without its key a Service that is there is counted no more.
    let (look, remove) = (error.find("kubectl -n bank get service x"), error.find("remove the key"));
    assert!(look.is_some() && look < remove, "{error}");
    assert_eq!(services(&scene).await, before);
    assert_eq!(scene.our_slices().await.len(), 0);
    assert_eq!(scene.intercepted().await.as_deref(), Some("1"));
    let none = kube::api::Patch::Merge(json!({"data": {"20050": null}}));
    scene.home().patch("scaler-service-ports", &Default::default(), &none).await.unwrap();
    soon(async {
        while leader.sync_dlxs(&[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon(leader.sync_dlxs(&[])).await.unwrap();
    assert_eq!(scene.intercepted().await.as_deref(), Some("0"));
}

/// A version before this one wrote no count, or somebody wrote another.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_count_is_corrected_before_anything_is_intercepted() {
    for said in [Value::Null, json!("0"), json!("many")] {
        let scene = web().await;
        let leader = scene.leading_as(Role::Autoscaler).await;
        // It has the ports of both, and neither key nor slice of any.
        let crash = scene.crash_after(1);
        go(&leader, Backend::Dlx).await.unwrap_err();
        drop(crash);
        assert_eq!((scene.registry().await.len(), scene.our_slices().await.len()), (2, 0));
        let data = kube::api::Patch::Merge(json!({"data": {"intercepted": said}}));
        scene.home().patch("scaler-service-ports", &Default::default(), &data).await.unwrap();
        let next = scene.leading_as(Role::Autoscaler).await;
        let crash = scene.crash_after(1);
        go(&next, Backend::Dlx).await.unwrap_err();
        drop(crash);
        assert_eq!(scene.intercepted().await.as_deref(), Some("2"), "{said}");
        assert_eq!(scene.our_slices().await.len(), 0);
        // And where all of it is led already, by the next look.
        go(&next, Backend::Dlx).await.unwrap();
        scene.home().patch("scaler-service-ports", &Default::default(), &data).await.unwrap();
        let last = scene.leading_as(Role::Autoscaler).await;
        soon(last.sync_dlxs(&dlxs(&["a"]))).await.unwrap();
        assert_eq!(scene.intercepted().await.as_deref(), Some("2"), "{said}");
    }
}
