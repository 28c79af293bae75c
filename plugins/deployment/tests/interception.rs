//! Services that are intercepted and restored.

mod common;

use common::*;
use scaler_types::{
    AddressOf, Backend, Port, Protocol, ResourceScaler as _, Role, ScaleError, Target, TrafficMode,
};
use serde_json::json;

async fn web(route: &str) -> Scene {
    let scene = Scene::with_web().await;
    scene.annotate("web", "scaler.dev/intercept", route).await;
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn interception_and_restore_leave_every_object_as_it_was() {
    let scene = web("always").await;
    let leader = scene.leader().await;
    let dlx = scene.leading(Role::Dlx, PORTS).await;
    let before = scene.get("Service", "web").await;
    let seen = one(&leader, "web").await;
    let route = seen.interception.clone().unwrap();
    assert_eq!((seen.traffic_mode, route.requested, route.refusal.as_str()), (TrafficMode::Always, true, ""));
    assert_eq!((route.backend, route.in_sync, route.workload_ready), (Backend::Workload, true, true));
    assert_eq!(seen.ports, []);

    let ours = dlxs(&["a", "b"]);
    soon(leader.set_backend(&to("web", Backend::Dlx, ours.clone()))).await.unwrap();
    let selector = &scene.get("Service", "web").await.data["spec"]["selector"];
    assert_eq!(*selector, json!({"app": "web", "scaler.dev/intercepted": "1"}));
    let slices = scene.our_slices().await;
    assert_eq!(slices.len(), 1);
    let slice = &slices[0];
    assert_eq!(slice.metadata.name.as_deref(), Some("web-scaler-ipv4"));
    let annotations = slice.metadata.annotations.clone().unwrap();
    assert_eq!((&*annotations["scaler.dev/format"], &*annotations["scaler.dev/dlxs"]), ("1", "a,b"));
    assert_eq!(
        slice.metadata.owner_references.as_ref().unwrap()[0].uid,
        before.metadata.uid.clone().unwrap()
    );
    let endpoints = slice.data["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2);
    let first = json!({
        "addresses": ["10.244.9.1"], "nodeName": "node", "zone": "zone",
        "conditions": {"ready": true, "serving": true, "terminating": false},
    });
    assert_eq!(endpoints[0], first);
    let listen = u16::try_from(slice.data["ports"][0]["port"].as_u64().unwrap()).unwrap();
    assert_eq!(slice.data["ports"], json!([{"name": "http", "port": listen, "protocol": "TCP"}]));
    assert!(PORTS.contains(listen));
    let entry = json!({"namespace": "shop", "service": "web", "uid": before.metadata.uid, "port": "http"});
    assert_eq!(scene.registry().await, [(listen.to_string(), entry)].into());

    // The DLX sees which of its ports that is, and what is behind it.
    let port = Port { listen, target: Some(8080), protocol: Protocol::Http, guessed: true };
    let served = until(&dlx, "web", |web| web.ports == [port.clone()]).await;
    assert_eq!(served.interception.unwrap().dlxs, ["a", "b"]);
    // The pods are endpoints until the cluster's controller has seen the key.
    let web = one(&leader, "web").await;
    let route = web.interception.unwrap();
    assert_eq!((route.backend, route.in_sync, route.intercepted_for.is_zero()), (Backend::Dlx, true, true));
    assert_eq!(web.ports, [port]);
    scene.own_endpoints("web", &[]).await;
    until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|route| !route.intercepted_for.is_zero())
    })
    .await;

    // Nothing is written again.
    scene.cluster.requests().reset();
    soon(leader.set_backend(&to("web", Backend::Dlx, ours.clone()))).await.unwrap();
    for verb in ["patch", "update", "create", "delete"] {
        let resources = ["services", "endpointslices", "configmaps"];
        assert!(resources.iter().all(|resource| scene.asked(verb, resource) == 0), "{verb}");
    }

    soon(leader.set_backend(&to("web", Backend::Both, ours))).await.unwrap();
    assert!(!scene.is_fenced("web").await);
    let both = one(&leader, "web").await.interception.unwrap();
    assert_eq!(
        (both.backend, both.in_sync, both.workload_ready, both.intercepted_for.is_zero()),
        (Backend::Both, true, false, true)
    );
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    until(&leader, "web", |web| web.interception.as_ref().is_some_and(|route| route.workload_ready)).await;
    soon(leader.set_backend(&to("web", Backend::Workload, Vec::new()))).await.unwrap();
    assert_eq!(one(&leader, "web").await.interception.unwrap().backend, Backend::Workload);
    assert_eq!(scene.our_slices().await.len(), 0);
    let after = scene.get("Service", "web").await;
    assert_eq!((after.data, after.metadata.labels), (before.data, before.metadata.labels));
    assert_eq!(after.metadata.annotations, before.metadata.annotations);
    let entries = scene.registry().await;
    assert!(entries.values().all(|entry| entry["freed_at"].is_string()), "{entries:?}");
    // Who is behind may still come.
    assert_eq!(one(&leader, "web").await.ports.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_intercepted_workload_is_scaled_to_zero_by_the_apis_current_state() {
    let scene = web("always").await;
    let leader = scene.leader().await;
    assert_eq!(sleep(&leader, "web").await, Err(ScaleError::Conflict), "it is not intercepted");
    intercept(&leader, "web").await;
    scene.own_endpoints("web", &[]).await;
    let web = until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|route| !route.intercepted_for.is_zero())
    })
    .await;
    // Somebody takes the key away, and the news is late.
    let stall = scene.cluster.faults().stall_watches(devcluster::Filter::any().resource("services"));
    let away = json!({"spec": {"selector": {"scaler.dev/intercepted": null}}});
    scene.merge("Service", "web", away).await;
    let request = request("web", Target::Zero, &web.version, record(scaler_types::Phase::Asleep, 1));
    assert_eq!(leader.set_scale(&request).await, Err(ScaleError::Conflict));
    assert_eq!(scene.replicas("web").await, 3);
    stall.end();
    intercept(&leader, "web").await;
    // The slice is deleted, and the news is late.
    let stall = scene.cluster.faults().stall_watches(devcluster::Filter::any().resource("endpointslices"));
    scene.delete("EndpointSlice", "web-scaler-ipv4").await;
    assert_eq!(leader.set_scale(&request).await, Err(ScaleError::Conflict));
    stall.end();
    intercept(&leader, "web").await;
    leader.set_scale(&request).await.unwrap();
    assert_eq!(scene.replicas("web").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_writes_no_routes() {
    let scene = web("always").await;
    let dlx = scene.leading(Role::Dlx, PORTS).await;
    let request = to("web", Backend::Dlx, dlxs(&["a"]));
    assert_eq!(dlx.set_backend(&request).await, Err(ScaleError::Unsupported));
    assert!(dlx.sync_dlxs(&request.dlxs).await.is_err());
    let release = scaler_types::RestoreRequest { id: id("web"), propagation_delay: SOON, deadline: SOON };
    assert_eq!(dlx.restore(&release).await, Err(ScaleError::Unsupported));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_dlxs_are_named_everywhere_and_nobody_is_never() {
    let scene = web("always").await;
    scene.create("Deployment", deployment("api", 1)).await;
    scene.create("Service", service("api", "api")).await;
    scene.annotate("api", "scaler.dev/intercept", "when-asleep").await;
    let leader = scene.leader().await;
    assert_eq!(one(&leader, "api").await.traffic_mode, TrafficMode::WhenAsleep);
    for name in ["web", "api"] {
        intercept(&leader, name).await;
    }
    let error = leader.sync_dlxs(&[]).await.unwrap_err().to_string();
    assert!(error.contains("still counts the Service shop/"), "{error}");
    for slice in scene.our_slices().await {
        assert_eq!(slice.metadata.annotations.unwrap()["scaler.dev/dlxs"], "a");
    }
    soon(leader.sync_dlxs(&dlxs(&["a", "b", "c"]))).await.unwrap();
    for slice in scene.our_slices().await {
        assert_eq!(slice.metadata.annotations.unwrap()["scaler.dev/dlxs"], "a,b,c");
        assert_eq!(slice.data["endpoints"].as_array().unwrap().len(), 3);
    }
    let web = one(&leader, "web").await.interception.unwrap();
    assert_eq!((web.dlxs.len(), web.in_sync), (3, true));
    scene.cluster.requests().reset();
    soon(leader.sync_dlxs(&dlxs(&["a", "b", "c"]))).await.unwrap();
    assert_eq!(
        scene.asked("get", "endpointslices") + scene.asked("get", "services"),
        0,
        "nothing is to be done"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_is_not_ours_is_left_alone() {
    let scene = web("always").await;
    let leader = scene.leader().await;
    let foreign = json!({
        "metadata": {"name": "web-scaler-ipv4", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    });
    scene.create("EndpointSlice", foreign).await;
    let Err(ScaleError::Terminal { reason }) =
        leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a"]))).await
    else {
        panic!()
    };
    assert!(reason.contains("web-scaler-ipv4") && reason.contains("rename or delete it"), "{reason}");
    assert!(!scene.is_fenced("web").await);
}

/// What has its ports needs nothing of the registry, whatever others need of it.
#[tokio::test(flavor = "multi_thread")]
async fn another_dlx_is_named_while_the_registry_cannot_be_written() {
    let scene = web("always").await;
    scene.create("Deployment", deployment("api", 1)).await;
    scene.create("Service", service("api", "api")).await;
    scene.own_endpoints("api", &["10.244.0.2"]).await;
    scene.annotate("api", "scaler.dev/intercept", "always").await;
    let leader = scene.leader().await;
    for name in ["web", "api"] {
        soon(leader.set_backend(&to(name, Backend::Dlx, dlxs(&["a"])))).await.unwrap();
    }
    // The other's port is to be written there again.
    let mut registry = scene.registry().await.into_iter();
    let (lost, _) = registry.find(|(_, entry)| entry["service"] == "api").unwrap();
    let without = kube::api::Patch::Merge(json!({"data": {lost: null}}));
    scene.home().patch("scaler-service-ports", &Default::default(), &without).await.unwrap();
    until(&leader, "api", |api| !api.interception.as_ref().unwrap().in_sync).await;
    let registry = devcluster::Filter::any().verb("patch").resource("configmaps");
    let _refused = scene.cluster.faults().refuse(registry, u32::MAX, devcluster::Refusal::Unavailable);
    soon(leader.set_backend(&to("api", Backend::Dlx, dlxs(&["a", "b"])))).await.unwrap_err();
    soon(leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a", "b"])))).await.unwrap();
    let slices = scene.our_slices().await;
    let named = |service: &str| {
        let name = format!("{service}-scaler-ipv4");
        let slice = slices.iter().find(|slice| slice.metadata.name.as_ref() == Some(&name)).unwrap();
        slice.metadata.annotations.as_ref().unwrap()["scaler.dev/dlxs"].clone()
    };
    assert_eq!((&*named("web"), &*named("api")), ("a,b", "a"));
}

/// Opting in a whole namespace would else cost a write of the registry for each Service, and a reading of all of it for each write.
#[tokio::test(flavor = "multi_thread")]
async fn services_waiting_for_ports_are_assigned_them_in_the_same_write() {
    let scene = web("always").await;
    for (name, route) in [
        ("api", "always"),
        ("docs", "always"),
        ("direct", "when-asleep"),
        ("local", "always"),
        ("other", "manual"),
    ] {
        scene.create("Deployment", deployment(name, 1)).await;
        scene.create("Service", service(name, name)).await;
        scene.annotate(name, "scaler.dev/intercept", route).await;
    }
    scene.merge("Service", "local", json!({"spec": {"internalTrafficPolicy": "Local"}})).await;
    let leader = scene.leader().await;
    intercept(&leader, "web").await;
    let holders = async || {
        let held = scene.registry().await.into_values().filter(|entry| entry["freed_at"].is_null());
        let mut held: Vec<_> = held.map(|entry| entry["service"].as_str().unwrap().to_owned()).collect();
        held.sort();
        held
    };
    assert_eq!(holders().await, ["api", "docs", "web"]);
    scene.cluster.requests().reset();
    intercept(&leader, "api").await;
    assert_eq!(scene.asked("patch", "configmaps"), 0);
    // One that was never intercepted for all that.
    scene.annotate("docs", "scaler.dev/intercept", "manual").await;
    until(&leader, "docs", |docs| docs.keep_awake.contains("no request could wake it")).await;
    soon(leader.sync_dlxs(&dlxs(&["a"]))).await.unwrap();
    assert_eq!(holders().await, ["api", "web"]);
}

/// The workload's selector takes in a pod that is a DLX: what was sent there would come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_among_the_workloads_pods_gets_no_requests() {
    let scene = web("always").await;
    let leader = scene.leader().await;
    let dlx = scene.leading(Role::Dlx, PORTS).await;
    soon(leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a"])))).await.unwrap();
    for (pod, address) in [("web-1", "10.244.0.1"), ("web-2", "10.244.9.1")] {
        scene.pod(pod, "web").await;
        scene.runs(pod, address, true).await;
    }
    let expected = "the pod web-2 gets no requests: it is a DLX";
    let seen = until(&dlx, "web", |web| web.status.contains(expected)).await;
    let [endpoint] = &seen.endpoints[..] else { panic!("{:?}", seen.endpoints) };
    assert_eq!((&*endpoint.address, endpoint.address_of), ("10.244.0.1:8080", AddressOf::Instance));
}
