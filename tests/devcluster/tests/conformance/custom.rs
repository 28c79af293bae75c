//! Custom resources.

use serde_json::{Value, json};

use crate::{
    setup::{Setup, run},
    watches::Events,
};

/// Defines a kind, in a group of the test's own, and waits until it is served.
async fn define(api: &Setup) -> String {
    let group = format!("{}.scaler.dev", api.namespace);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("workers.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "workers", "singular": "worker", "kind": "Worker", "shortNames": ["wk"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.workers",
                        "statusReplicasPath": ".status.workers",
                        "labelSelectorPath": ".status.selector",
                    },
                },
            }],
        },
    });
    let created = api.create(path, &definition).await;
    let name = created["metadata"]["name"].as_str().unwrap();
    let mut events = Events::of(&api.client, path, &format!("fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let event = events.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
            return group;
        }
    }
}

async fn undefine(api: &Setup, group: &str) {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workers.{group}");
    assert_eq!(api.delete(&path, &Value::Null).await.0, 200);
}

#[test]
fn a_defined_kind_is_served_scaled_and_discovered() {
    run(|api| async move {
        let group = define(&api).await;
        let (status, list) = api.get(&format!("/apis/{group}/v1")).await;
        assert_eq!(status, 200);
        let names: Vec<&str> =
            list["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        for name in ["workers", "workers/status", "workers/scale"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let path = api.path(&format!("{group}/v1"), "workers");
        let worker = json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "Worker",
            "metadata": {"name": "one"},
            "spec": {"workers": 3, "anything": {"goes": true}},
        });
        let created = api.create(&path, &worker).await;
        assert_eq!(created["spec"]["anything"]["goes"], true);
        assert_eq!(created["metadata"]["generation"], 1);
        let one = format!("{path}/one");
        let status = json!({"status": {"workers": 2, "selector": "app=one"}, "spec": {"workers": 9}});
        assert_eq!(api.patch(&format!("{one}/status"), "merge", &status).await.0, 200);
        let (_, scale) = api.get(&format!("{one}/scale")).await;
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(3), &json!(2)));
        assert_eq!(scale["status"]["selector"], "app=one");
        let (status, _) =
            api.patch(&format!("{one}/scale"), "merge", &json!({"spec": {"replicas": 0}})).await;
        assert_eq!(status, 200);
        let (_, read) = api.get(&one).await;
        assert_eq!((&read["spec"]["workers"], &read["metadata"]["generation"]), (&json!(0), &json!(2)));
        assert_eq!(read["status"]["workers"], 2);
        // Entries of a list of custom resources say their kind, unlike built-in ones.
        assert_eq!(api.get(&path).await.1["items"][0]["kind"], "Worker");
        // An update must say which version it means.
        let (status, _) = api.put(&one, &worker).await;
        assert_eq!(status, 422);
        // No strategic merge without the types.
        let (status, _) = api.patch(&one, "strategic-merge", &json!({})).await;
        assert_eq!(status, 415);
        undefine(&api, &group).await;
    });
}

#[test]
fn a_kind_goes_with_its_definition() {
    run(|api| async move {
        let group = define(&api).await;
        let path = api.path(&format!("{group}/v1"), "workers");
        api.create(
            &path,
            &json!({"apiVersion": format!("{group}/v1"), "kind": "Worker", "metadata": {"name": "one"}}),
        )
        .await;
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let name = format!("workers.{group}");
        let mut events =
            Events::of(&api.client, definitions, &format!("fieldSelector=metadata.name%3D{name}")).await;
        undefine(&api, &group).await;
        while events.next().await.unwrap()["type"] != "DELETED" {}
        // A real server takes a moment to stop serving it.
        while api.get(&path).await.0 == 200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(api.get(&path).await.0, 404);
    });
}
