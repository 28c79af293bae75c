//! What opts in is intercepted; anything else sleeps only if a request reaches a DLX all the same, and could wake it.

mod common;

use common::*;
use devcluster::User;
use scaler_types::{Backend, Phase, ResourceScaler as _, Role, ScaleError};
use serde_json::json;

/// An Ingress that leads a host to a Service.
fn ingress(host: &str, service: &str) -> serde_json::Value {
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({"metadata": {"name": "web"}, "spec": {"rules": [{"host": host, "http": {"paths": paths}}]}})
}

async fn set_backend(scene: &Scene, value: serde_json::Value) {
    scene
        .merge("Deployment", "web", json!({"metadata": {"annotations": {"scaler.dev/intercept": value}}}))
        .await;
}

/// Tries to put it to sleep as the autoscaler does.
async fn sleeps(plugin: &deployment::DeploymentScaler) -> Result<(), ScaleError> {
    let seen = one(plugin, "web").await;
    let fenced = plugin.compare_and_set(&seen.id, &seen.version, &record(Phase::Draining, 1)).await?;
    let slept = plugin
        .set_scale(&request("web", scaler_types::Target::Zero, &fenced, record(Phase::Asleep, 1)))
        .await;
    let seen = one(plugin, "web").await;
    if slept.is_err() {
        plugin.compare_and_set(&seen.id, &seen.version, &record(Phase::Active, 2)).await?;
    }
    slept
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ingress_leads_to_the_dlx_sleeps_only_where_that_is_written() {
    let scene = Scene::with_web().await;
    let leader = scene.leader().await;
    let web = until(&leader, "web", |web| web.keep_awake.contains("no request could wake it")).await;
    assert!(web.interception.unwrap().requested);
    assert_eq!(sleeps(&leader).await, Err(ScaleError::Conflict), "whoever decided that");
    assert_eq!(scene.replicas("web").await, 3);

    let name = "scaler-dlx.scaler.svc.cluster.local";
    let service =
        json!({"metadata": {"name": "scaler-dlx"}, "spec": {"type": "ExternalName", "externalName": name}});
    scene.create("Service", service).await;
    scene.create("Ingress", ingress("shop.example.com", "scaler-dlx")).await;
    scene.annotate("web", "scaler.dev/hosts", "shop.example.com").await;
    let web = until(&leader, "web", |web| web.keep_awake.is_empty()).await;
    assert_eq!(web.interception, None, "its Services are not intercepted");

    // Without it its Service is led, as of everything that opts in.
    set_backend(&scene, json!(null)).await;
    let web = until(&leader, "web", |web| web.interception.is_some()).await;
    assert_eq!(web.keep_awake, "");
    soon(leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a"])))).await.unwrap();
    assert!(scene.is_fenced("web").await);
    set_backend(&scene, json!("manual")).await;
    until(&leader, "web", |web| web.interception.as_ref().is_some_and(|route| !route.requested)).await;

    scene.delete("Ingress", "web").await;
    until(&leader, "web", |web| web.keep_awake.contains("no request could wake it")).await;
}

/// DLXs of the namespace's own, behind a Service that selects their pods.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_behind_an_ingress_to_former_dlxs_stays_awake() {
    for deleted in [false, true] {
        let scene = Scene::with_web().await;
        let mut proxy = deployment("proxy", 1);
        proxy["metadata"]["annotations"] = json!({});
        proxy["spec"]["template"]["metadata"]["labels"]["scaler.dev/component"] = "dlx".into();
        scene.create("Deployment", proxy).await;
        scene.create("Service", service("front", "proxy")).await;
        scene.create("Ingress", ingress("shop.example.com", "front")).await;
        scene.annotate("web", "scaler.dev/hosts", "shop.example.com").await;
        let leader = scene.leader().await;
        until(&leader, "web", |web| web.keep_awake.is_empty()).await;
        if deleted {
            scene.delete("Deployment", "proxy").await;
        } else {
            let labels = json!({"labels": {"scaler.dev/component": null}});
            scene.merge("Deployment", "proxy", json!({"spec": {"template": {"metadata": labels}}})).await;
        }
        until(&leader, "web", |web| web.keep_awake.contains("no request could wake it")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_a_network_policy_refuses_stays_awake() {
    let scene = Scene::with_web().await;
    set_backend(&scene, json!(null)).await;
    let leader = scene.leader().await;
    assert_eq!(until(&leader, "web", |_| true).await.keep_awake, "");
    let policy =
        json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    scene.create("NetworkPolicy", policy).await;
    let web = until(&leader, "web", |web| !web.keep_awake.is_empty()).await;
    assert!(web.keep_awake.contains("interceptDespiteNetworkPolicies: true"), "{}", web.keep_awake);
    assert_eq!(sleeps(&leader).await, Err(ScaleError::Conflict));
    assert_eq!(scene.replicas("web").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everything_is_opted_in_only_what_can_be_woken_sleeps() {
    let scene = Scene::new().await;
    for name in ["web", "worker"] {
        let mut deployment = deployment(name, 1);
        deployment["metadata"]["annotations"] = json!({});
        scene.create("Deployment", deployment).await;
    }
    scene.create("Service", service("web", "web")).await;
    let mut context = scene.context(Role::Autoscaler, &User::Admin, "{optIn: all}");
    (context.service_ports, context.daemon_namespace) = (Some(PORTS), Some(HOME.to_owned()));
    let leader = soon(deployment::DeploymentScaler::new(context)).await.unwrap();
    let (web, worker) = (one(&leader, "web").await, one(&leader, "worker").await);
    assert_eq!((web.keep_awake.as_str(), web.interception.map(|route| route.requested)), ("", Some(true)));
    assert!(worker.keep_awake.contains("no Service selects its pods"), "{}", worker.keep_awake);
    // Without ports nothing can be led, and nothing sleeps.
    let bare = scene.plugin_of(Role::Autoscaler, &User::Admin, "{optIn: all}").await;
    assert!(one(&bare, "web").await.keep_awake.contains("--service-ports"));
}
