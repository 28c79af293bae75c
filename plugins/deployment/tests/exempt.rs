//! What Scaler itself needs is never scaled to zero, and its Services are never intercepted: its daemons, and what its metrics come from.

mod common;

use std::sync::Arc;

use common::*;
use deployment::DeploymentScaler;
use devcluster::User;
use kube::api::Patch;
use scaler_types::{Backend, PluginContext, ResourceScaler as _, Role, ScaleError};
use serde_json::{Value, json};

const COMPONENT: &str = "scaler.dev/component";

/// One of Scaler's daemons, as the manifests make it, in the served namespace.
fn daemon(component: &str) -> Value {
    let mut daemon = deployment(&format!("scaler-{component}"), 2);
    daemon["metadata"]["annotations"] = json!({});
    daemon["spec"]["template"]["metadata"]["labels"][COMPONENT] = component.into();
    daemon
}

/// An application that says nothing for itself.
fn silent(name: &str) -> Value {
    let mut web = deployment(name, 1);
    web["metadata"]["annotations"] = json!({});
    web
}

/// The daemons run in the namespace that they serve.
async fn at_home() -> Scene {
    let scene = Scene::new().await;
    for component in ["autoscaler", "dlx"] {
        scene.create("Deployment", daemon(component)).await;
        let name = format!("scaler-{component}");
        scene.create("Service", service(&name, &name)).await;
    }
    scene.create("Deployment", silent("web")).await;
    scene.create("Service", service("web", "web")).await;
    scene
}

/// A leader, with more said of its context.
async fn leader(
    scene: &Scene,
    section: &str,
    change: impl FnOnce(&mut PluginContext),
) -> Arc<DeploymentScaler> {
    let mut context = scene.context(Role::Autoscaler, &User::Admin, section);
    (context.service_ports, context.daemon_namespace) = (Some(PORTS), Some(NAMESPACE.to_owned()));
    change(&mut context);
    Arc::new(soon(DeploymentScaler::new(context)).await.unwrap())
}

async fn names(plugin: &DeploymentScaler) -> Vec<String> {
    all(plugin).await.into_iter().map(|resource| resource.id.name).collect()
}

async fn annotate_namespace(scene: &Scene, annotations: Value) {
    let namespaces: kube::Api<kube::api::DynamicObject> =
        kube::Api::all_with(scene.client.clone(), &api_resource("Namespace"));
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    namespaces.patch(NAMESPACE, &Default::default(), &patch).await.unwrap();
}

/// The plugin tells the owners by an Event.
async fn wait_for_event(scene: &Scene, name: &str, reason: &str, words: &str) {
    soon(async {
        loop {
            let events = scene.api("Event").list(&Default::default()).await.unwrap().items;
            let is = |event: &kube::api::DynamicObject| {
                let note = event.data["note"].as_str().unwrap_or_default();
                event.data["regarding"]["name"] == name
                    && event.data["reason"] == reason
                    && note.contains(words)
            };
            if events.iter().any(is) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_are_not_managed_when_their_namespace_opts_in() {
    let scene = at_home().await;
    annotate_namespace(&scene, json!({"scaler.dev/scale-to-zero": "8s", "scaler.dev/intercept": "always"}))
        .await;
    assert_eq!(names(&*leader(&scene, "{}", |_| ()).await).await, ["web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_are_not_managed_when_everything_is_opted_in() {
    let scene = at_home().await;
    let leader = leader(&scene, "{optIn: all, intercept: always}", |_| ()).await;
    assert_eq!(names(&leader).await, ["web"]);
    // Nor are those that somebody has opted in by themselves, and who asks for that is told.
    for name in ["scaler-autoscaler", "scaler-dlx"] {
        scene.annotate(name, "scaler.dev/scale-to-zero", "8s").await;
        wait_for_event(&scene, name, "OptInRefused", COMPONENT).await;
    }
    assert_eq!(names(&leader).await, ["web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_dlxs_is_never_intercepted() {
    let scene = at_home().await;
    scene.create("Service", service("front-door", "scaler-dlx")).await;
    scene.annotate("scaler-dlx", "scaler.dev/scale-to-zero", "8s").await;
    let leader = leader(&scene, "{optIn: all, intercept: always}", |_| ()).await;
    let refused = leader.set_backend(&to("scaler-dlx", Backend::Dlx, dlxs(&["a"]))).await;
    assert!(matches!(refused, Err(ScaleError::Terminal { .. })), "{refused:?}");
    assert!(!scene.is_fenced("front-door").await && !scene.is_fenced("scaler-dlx").await);

    // One over an application's pods as well as theirs.
    for name in ["web", "scaler-dlx"] {
        let labels = json!({"spec": {"template": {"metadata": {"labels": {"tier": "front"}}}}});
        scene.merge("Deployment", name, labels).await;
    }
    scene.merge("Service", "web", json!({"spec": {"selector": {"app": null, "tier": "front"}}})).await;
    let why = "selects the pods of scaler-dlx, one of Scaler's own daemons";
    until(&leader, "web", |web| web.keep_awake.contains(why)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_pod_is_not_labelled_manages_nothing_in_its_own_namespace() {
    let scene = at_home().await;
    scene.pod("scaler-autoscaler-1", "scaler-autoscaler").await;
    let pod = |context: &mut PluginContext| {
        context.daemon_pod = Some("scaler-autoscaler-1".to_owned());
        context.namespace = "*".to_owned();
    };
    let elsewhere = {
        let api = kube::Api::<kube::api::DynamicObject>::namespaced_with(
            scene.client.clone(),
            HOME,
            &api_resource("Deployment"),
        );
        let mut other = silent("other");
        (other["apiVersion"], other["kind"]) = ("apps/v1".into(), "Deployment".into());
        api.create(&Default::default(), &serde_json::from_value(other).unwrap()).await.unwrap()
    };
    assert_eq!(elsewhere.metadata.namespace.as_deref(), Some(HOME));
    let section = "{optIn: all, intercept: manual}";
    let unlabelled = leader(&scene, section, pod).await;
    let web = one(&unlabelled, "web").await;
    for text in [&web.keep_awake, &web.interception.unwrap().refusal] {
        assert!(text.contains("nothing is managed in namespace shop") && text.contains(COMPONENT), "{text}");
    }
    wait_for_event(&scene, "web", "InterceptionRefused", COMPONENT).await;
    let other = all(&unlabelled).await.into_iter().find(|one| one.id.namespace == HOME).unwrap();
    assert!(!other.keep_awake.contains(COMPONENT), "{}", other.keep_awake);
    let warnings = unlabelled.get_config().await.unwrap().unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(COMPONENT), "{warnings:?}");

    // With the label; and one that cannot be read is none.
    let labels = json!({"metadata": {"labels": {COMPONENT: "autoscaler"}}});
    scene.merge("Pod", "scaler-autoscaler-1", labels).await;
    let labelled = leader(&scene, section, pod).await;
    assert_eq!(labelled.get_config().await.unwrap().unwrap().warnings, Vec::<String>::new());
    assert!(!one(&labelled, "web").await.keep_awake.contains(COMPONENT));
    let gone = leader(&scene, section, |context| context.daemon_pod = Some("gone".to_owned())).await;
    assert!(one(&gone, "web").await.keep_awake.contains("cannot read the label"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metric_source_stays_awake_and_is_not_intercepted() {
    let scene = at_home().await;
    scene.create("Deployment", silent("prometheus")).await;
    scene.create("Service", service("metrics", "prometheus")).await;
    let address =
        scene.get("Service", "metrics").await.data["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for url in ["http://metrics.shop:9090/prometheus".to_owned(), format!("http://{address}:9090")] {
        for route in ["manual", "always"] {
            let section = format!("{{optIn: all, intercept: {route}}}");
            let leader = leader(&scene, &section, |context| context.metrics_urls = vec![url.clone()]).await;
            let prometheus = one(&leader, "prometheus").await;
            assert!(prometheus.keep_awake.contains(&url), "{}", prometheus.keep_awake);
            assert!(prometheus.interception.unwrap().refusal.contains("Service metrics"));
            assert!(!one(&leader, "web").await.keep_awake.contains(&url));
            wait_for_event(&scene, "prometheus", "InterceptionRefused", "it serves Scaler's metrics").await;
        }
    }
}
