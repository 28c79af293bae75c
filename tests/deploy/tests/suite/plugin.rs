//! The plugin, with the chart's namespace files and each daemon's rights and no more, sees the examples as they are meant.

use std::{collections::BTreeMap, path::Path, time::Duration};

use deployment::DeploymentScaler;
use devcluster::{Cluster, User};
use scaler_types::{Coordination, PluginContext, Resource, ResourceScaler, Role, ServicePorts};
use serde_json::json;

use crate::{
    cluster::{cluster, created},
    daemons::namespace_files,
    examples,
    values::{EXAMPLE, of_kind, rendered},
};

/// A daemon's plugin for a namespace file of the chart, with that daemon's rights. `folder` is its own.
pub async fn started(
    cluster: &Cluster,
    role: Role,
    folder: &Path,
    file: (String, String),
) -> DeploymentScaler {
    started_as("scaler", cluster, role, folder, file).await
}

/// The same of a chart that calls its objects so.
async fn started_as(
    called: &str,
    cluster: &Cluster,
    role: Role,
    folder: &Path,
    (file, text): (String, String),
) -> DeploymentScaler {
    let account = match role {
        Role::Autoscaler => format!("{called}-autoscaler"),
        Role::Dlx => format!("{called}-dlx"),
    };
    let account = User::service_account("scaler", &account);
    let plugin = DeploymentScaler::new(PluginContext {
        namespace: file.trim_end_matches(".yaml").to_owned(),
        role,
        state_dir: folder.to_owned(),
        plugin_dir: folder.to_owned(),
        kubeconfig: Some(cluster.kubeconfig(folder, &account).expect("a kubeconfig")),
        coordination: Coordination::Leases,
        daemon_namespace: Some("scaler".to_owned()),
        service_ports: Some(ServicePorts { first: 20_000, last: 21_999 }),
        daemon_pod: None,
        dlx_service: "scaler-dlx".to_owned(),
        metrics_urls: Vec::new(),
        kind: "deployment".to_owned(),
        namespace_file: file.clone(),
        namespace_file_text: text.into(),
    });
    plugin.await.unwrap_or_else(|error| panic!("{file}: {error:#}"))
}

/// What a daemon's plugin lists in each served namespace, by `namespace/name`. `web` has an Ingress and an HTTPRoute in the
/// examples; here only one of them.
async fn listed(role: Role, without: &str) -> BTreeMap<String, Resource> {
    let (cluster, client) = cluster().await;
    for (path, mut objects) in examples::files() {
        objects.retain(|object| object.types.as_ref().is_none_or(|types| types.kind != without));
        // As the Gateway says it, where the chart's ReferenceGrant allows it.
        let routes = objects
            .iter_mut()
            .filter(|object| object.types.as_ref().is_some_and(|types| types.kind == "HTTPRoute"));
        for route in routes {
            let resolved = json!([{"type": "ResolvedRefs", "status": "True", "observedGeneration": 1}]);
            route.data["status"] = json!({"parents": [{ "conditions": resolved }]});
        }
        created(&client, &path, &objects).await;
    }
    let chart = rendered(EXAMPLE);
    created(&client, "the chart", &chart).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut all = BTreeMap::new();
    for file in namespace_files(&chart) {
        let plugin = started(&cluster, role, folder.path(), file).await;
        for resource in plugin.get_resources().await.expect("the resources") {
            all.insert(resource.id.to_string(), resource);
        }
        plugin.stop().await;
    }
    all
}

#[tokio::test]
async fn the_examples_are_listed_with_the_names_they_are_asked_for_by() {
    let both = |without| [(Role::Autoscaler, without), (Role::Dlx, without)];
    for (role, without) in ["Ingress", "HTTPRoute"].into_iter().flat_map(both) {
        let all = listed(role, without).await;
        assert_eq!(
            all.keys().collect::<Vec<_>>(),
            ["shop/api", "shop/front", "shop/mailer", "shop/statefulset/orders-db", "shop/web"],
            "{role:?}: preview's db has opted out"
        );
        for (name, resource) in &all {
            assert_eq!(
                resource.keep_awake, "",
                "{role:?}: {name}: its annotations are all in order, and its Services can be intercepted"
            );
        }
        let web = &all["shop/web"];
        for host in ["shop.example.com", "web", "web.shop", "web.shop.svc.cluster.local"] {
            assert!(
                web.hosts.iter().any(|known| known == host),
                "{role:?}: {host} is none of {:?}",
                web.hosts
            );
        }
        assert_eq!(web.hold_timeout, Some(Duration::from_secs(40)));
        let api = &all["shop/api"];
        for host in ["api", "api.shop", "api.shop.svc", "api.shop.svc.cluster.local"] {
            assert!(
                api.hosts.iter().any(|known| known == host),
                "{role:?}: {host} is none of {:?}",
                api.hosts
            );
        }
        assert_eq!(api.scale_resources.len(), 2);
        assert_eq!(api.resource_readiness_timeout, Some(Duration::from_secs(180)));
    }
}

/// Whatever the release and its objects are called, and however they are opted in.
#[tokio::test]
async fn the_charts_own_daemons_are_never_managed() {
    for (name, values) in [
        ("another name", "nameOverride: zero"),
        (
            "labels of its user's",
            r#"{dlx: {podLabels: {scaler.dev/component: none}}, commonLabels: {scaler.dev/component: none}}"#,
        ),
    ] {
        let (cluster, client) = cluster().await;
        let chart = rendered(values);
        created(&client, name, &chart).await;
        let daemons = of_kind(&chart, "Deployment").len();
        assert_eq!(daemons, 2, "{name}");
        let folder = tempfile::tempdir().expect("a folder");
        let text = "namespace: scaler\nplugins: {deployment: {optIn: all}}\n".to_owned();
        let account = if values.contains("nameOverride") { "scaler-zero" } else { "scaler" };
        let plugin =
            started_as(account, &cluster, Role::Autoscaler, folder.path(), ("scaler.yaml".to_owned(), text))
                .await;
        assert_eq!(plugin.get_resources().await.expect("the resources"), [], "{name}");
        plugin.stop().await;
    }
}
