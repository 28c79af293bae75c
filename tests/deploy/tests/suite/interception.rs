//! The plugin intercepts the examples' Services with the chart's rights, and the chart's admission policies allow each of its
//! writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use devcluster::Cluster;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
};
use scaler_types::{Backend, Dlx, InterceptionRequest, ResourceId, ResourceScaler, Role};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    cluster::{cluster, created},
    daemons::namespace_files,
    examples, plugin,
    policy::policy,
    values::{EXAMPLE, rendered},
};

/// What there is of a kind in a namespace, by name.
async fn all<T>(client: &Client, namespace: &str) -> BTreeMap<String, Value>
where
    T: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
{
    let list = Api::<T>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
    let items = list.expect("a list").items.into_iter();
    items
        .map(|item| {
            let name = item.meta().name.clone().expect("a name");
            (name, serde_json::to_value(item).expect("an object"))
        })
        .collect()
}

async fn shop() -> (Cluster, Client) {
    let (cluster, client) = cluster().await;
    for (path, objects) in examples::files() {
        created(&client, &path, &objects).await;
    }
    created(&client, "the chart", &rendered(EXAMPLE)).await;
    (cluster, client)
}

/// The objects that differ between `before` and `after` were written by the autoscaler: the policy allows each. How many there are.
fn passes(name: &str, before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> usize {
    let policy = policy(name);
    let none = json!(null);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut written = 0;
    for object in names {
        let (old, new) = (before.get(object).unwrap_or(&none), after.get(object).unwrap_or(&none));
        if old != new {
            assert_eq!(policy.refuses(old, new), None, "{name}: {object}: {old} to {new}");
            written += 1;
        }
    }
    written
}

/// What the cluster's controller writes for a Service: pods of its own are ready.
fn own(service: &str) -> EndpointSlice {
    let labels = json!({
        "kubernetes.io/service-name": service,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    let slice = json!({
        "metadata": {"name": format!("{service}-own"), "labels": labels}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": true}}], "ports": [],
    });
    serde_json::from_value(slice).expect("a slice")
}

#[tokio::test]
async fn services_of_the_examples_are_intercepted_and_restored_and_no_policy_denies_it() {
    let (cluster, client) = shop().await;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "shop");
    for service in all::<Service>(&client, "shop").await.keys() {
        slices.create(&PostParams::default(), &own(service)).await.expect("a slice of its own endpoints");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = namespace_files(&rendered(EXAMPLE)).into_iter().find(|(file, _)| file == "shop.yaml");
    let plugin = plugin::started(&cluster, Role::Autoscaler, folder.path(), file.expect("shop's file")).await;
    plugin.get_resources().await.expect("the resources");
    let dlxs = ["a", "b", "c"].map(|name| Dlx {
        name: name.to_owned(),
        addresses: vec!["10.244.0.9".parse().unwrap()],
        node: Some("one".to_owned()),
        zone: Some("a".to_owned()),
    });
    let seen = async || {
        let services = all::<Service>(&client, "shop").await;
        (services, all::<EndpointSlice>(&client, "shop").await, all::<ConfigMap>(&client, "scaler").await)
    };
    let set_backend = async |to: Backend| {
        for name in ["front", "statefulset/orders-db"] {
            let dlxs = if to == Backend::Workload { Vec::new() } else { dlxs.to_vec() };
            let id = ResourceId::new("shop", name);
            let request = InterceptionRequest { id, backend: to, dlxs, deadline: Duration::from_secs(30) };
            plugin.set_backend(&request).await.unwrap_or_else(|error| panic!("{name} to {to:?}: {error}"));
        }
    };
    let before = seen().await;
    set_backend(Backend::Dlx).await;
    let intercepted = seen().await;
    assert_eq!(
        passes("autoscaler-services", &before.0, &intercepted.0),
        2,
        "the headless one is left as it is"
    );
    assert_eq!(passes("autoscaler-endpointslices", &before.1, &intercepted.1), 2);
    assert_eq!(passes("autoscaler-configmaps", &before.2, &intercepted.2), 1);
    set_backend(Backend::Both).await;
    set_backend(Backend::Workload).await;
    let restored = seen().await;
    assert_eq!(passes("autoscaler-services", &intercepted.0, &restored.0), 2);
    assert_eq!(passes("autoscaler-endpointslices", &intercepted.1, &restored.1), 2);
    assert_eq!(passes("autoscaler-configmaps", &intercepted.2, &restored.2), 1);
    for (name, service) in &before.0 {
        assert_eq!(service["spec"], restored.0[name]["spec"], "{name} is as it was");
    }
    assert_eq!(restored.1.len(), before.1.len(), "{:?}", restored.1);
    plugin.stop().await;
}
