//! The MutatingAdmissionPolicy that keeps Scaler's key in selectors, in force on devcluster, whose API evaluates it.

use deploy::Release;
use devcluster::{Cluster, User};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use super::policy;
use crate::{
    cluster::{cluster, created},
    values::{of_kind, rendered},
};

const KINDS: [&str; 2] = ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];

fn services(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Service"));
    Api::namespaced_with(client.clone(), "shop", &resource)
}

/// A cluster with the chart for the namespace `shop`, and a Service `web` there.
async fn site() -> (Cluster, Client) {
    let (cluster, client) = cluster().await;
    created(&client, "the chart", &rendered("namespaces: {shop: {}}")).await;
    let ports = "{apiVersion: v1, kind: ConfigMap, metadata: {name: scaler-service-ports, namespace: scaler}, data: {a: b}}";
    let web = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}";
    for object in [ports, web] {
        created(&client, object, &deploy::objects(object, object)).await;
    }
    (cluster, client)
}

/// Patches `web` by that field manager.
async fn patch(client: &Client, manager: &str, patch: Value) -> Value {
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = Patch::Json::<()>(serde_json::from_value(patch).expect("operations"));
    let patched = services(client).patch("web", &params, &patch).await.expect("a patch");
    serde_json::to_value(patched).expect("an object")
}

fn key(service: &Value) -> Option<&str> {
    service["spec"]["selector"]["scaler.dev/intercepted"].as_str()
}

#[tokio::test]
async fn the_autoscaler_has_the_key_written_and_others_cannot_remove_it() {
    let (cluster, admin) = site().await;
    let scaler = cluster.client_of(&User::service_account("scaler", "scaler-autoscaler")).expect("a client");
    let test = json!([{"op": "test", "path": "/spec/selector/app", "value": "web"}]);
    let remove = json!([{"op": "remove", "path": "/spec/selector/scaler.dev~1intercepted"}]);
    let services = policy("autoscaler-services");
    let before = patch(&scaler, "scaler-autoscaler", test.clone()).await;
    assert_eq!(key(&before), None);
    for (client, manager) in [
        // Nobody else, and no value but a nonce.
        (&admin, "scaler-intercept.1"),
        (&scaler, "scaler-intercept.none"),
        (&scaler, "scaler-intercept."),
        (&scaler, "scaler-intercept.00c0ffee00c0ffee0"),
        (&scaler, "scaler-restore"),
    ] {
        let after = patch(client, manager, test.clone()).await;
        assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{manager}");
    }
    let keyed = patch(&scaler, "scaler-intercept.00c0ffee00c0ffee", test.clone()).await;
    assert_eq!(key(&keyed), Some("00c0ffee00c0ffee"));
    assert_eq!(services.refuses(&before, &keyed), None, "what the other policy allows the autoscaler");
    let write = |value: &str| json!([{"op": "add", "path": "/spec/selector/scaler.dev~1intercepted", "value": value}]);
    for other in [remove.clone(), write("1")] {
        assert_eq!(key(&patch(&admin, "kubectl", other).await), key(&keyed));
    }
    // By its own patch, as an earlier version does it; and by the policy, for any user.
    let without = patch(&scaler, "scaler-autoscaler", remove).await;
    assert_eq!(key(&without), None);
    // A manifest that was exported while the Service was intercepted.
    assert_eq!(key(&patch(&admin, "kubectl", write("1")).await), None);
    for client in [&scaler, &admin] {
        assert_eq!(key(&patch(&scaler, "scaler-intercept.1", test.clone()).await), Some("1"));
        let restored = patch(client, "scaler-restore", test.clone()).await;
        assert_eq!(restored["spec"]["selector"], json!({"app": "web"}));
    }
}

#[tokio::test]
async fn it_leaves_alone_what_has_no_selector_and_what_is_in_other_namespaces() {
    let (cluster, admin) = site().await;
    let scaler = cluster.client_of(&User::service_account("scaler", "scaler-autoscaler")).expect("a client");
    let test = json!([{"op": "test", "path": "/metadata/name", "value": "web"}]);
    let external = json!([
        {"op": "replace", "path": "/spec/type", "value": "ExternalName"},
        {"op": "add", "path": "/spec/externalName", "value": "web.example.com"},
    ]);
    patch(&admin, "kubectl", external).await;
    assert_eq!(key(&patch(&scaler, "scaler-intercept.1", test.clone()).await), None);
    patch(&admin, "kubectl", json!([{"op": "replace", "path": "/spec/type", "value": "ClusterIP"}])).await;
    assert_eq!(key(&patch(&scaler, "scaler-intercept.1", test.clone()).await), Some("1"));
    let bare = patch(&admin, "kubectl", json!([{"op": "remove", "path": "/spec/selector"}])).await;
    assert_eq!(bare["spec"]["selector"], Value::Null, "a Service without a selector has its own endpoints");
    patch(&admin, "kubectl", json!([{"op": "add", "path": "/spec/selector", "value": {"app": "web"}}])).await;
    assert_eq!(key(&patch(&scaler, "scaler-intercept.1", test.clone()).await), Some("1"));
    // Where Scaler is gone, and its ConfigMap with it, it does nothing.
    let ports: Api<ConfigMap> = Api::namespaced(admin.clone(), "scaler");
    ports.delete("scaler-service-ports", &kube::api::DeleteParams::default()).await.expect("the ConfigMap");
    let remove = json!([{"op": "remove", "path": "/spec/selector/scaler.dev~1intercepted"}]);
    assert_eq!(key(&patch(&admin, "kubectl", remove).await), None);

    let policies = rendered("namespaces: {shop: {}, blog: {}}");
    let policy = serde_json::to_value(of_kind(&policies, KINDS[0])[0]).expect("an object");
    let namespaces = &policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"];
    let served =
        json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["blog", "shop"]}]);
    assert_eq!(*namespaces, served);
    let all = rendered(r#"namespaces: {"*": {}}"#);
    let policy = serde_json::to_value(of_kind(&all, KINDS[0])[0]).expect("an object");
    assert_eq!(policy["spec"]["matchConstraints"]["namespaceSelector"], Value::Null);
}

#[test]
fn it_is_left_out_where_the_api_has_no_such_kind_and_where_it_is_switched_off() {
    let release = |values| Release { name: "scaler", namespace: "scaler", values };
    let older = release("").try_render_on(&[]).expect("the chart");
    assert!(!older.contains(KINDS[0]) && older.contains("kind: ValidatingAdmissionPolicy\n"));
    for (values, count) in [
        ("", 1),
        ("admissionPolicy: {keepSelectorKey: false}", 0),
        ("admissionPolicy: {create: false}", 0),
        ("servicePorts: null", 0),
    ] {
        let objects = rendered(values);
        assert!(KINDS.iter().all(|kind| of_kind(&objects, kind).len() == count), "{values}");
    }
}
