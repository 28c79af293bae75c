//! The scale subresource.

use serde_json::json;

use crate::setup::{deployment, run};

#[test]
fn workloads_have_a_scale() {
    run(|api| async move {
        for (kind, plural) in
            [("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("ReplicaSet", "replicasets")]
        {
            let path = api.path("apps/v1", plural);
            let name = kind.to_lowercase();
            let mut wanted = deployment(&name);
            wanted["kind"] = json!(kind);
            if kind == "StatefulSet" {
                wanted["spec"]["serviceName"] = json!("web");
            }
            let created = api.create(&path, &wanted).await;
            let path = format!("{path}/{name}/scale");
            let (status, scale) = api.get(&path).await;
            assert_eq!(status, 200, "{scale}");
            assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
            assert_eq!(scale["metadata"]["uid"], created["metadata"]["uid"]);
            // Zero is left away by the real server.
            assert_eq!(scale["spec"]["replicas"].as_i64().unwrap_or_default(), 0);
            assert_eq!(scale["status"]["selector"], format!("app={name}"));
        }
    });
}

#[test]
fn a_scale_is_written_by_put_and_patch() {
    run(|api| async move {
        let path = api.path("apps/v1", "statefulsets");
        let mut wanted = deployment("db");
        wanted["kind"] = json!("StatefulSet");
        wanted["spec"]["serviceName"] = json!("db");
        api.create(&path, &wanted).await;
        let (object, path) = (format!("{path}/db"), format!("{path}/db/scale"));
        let patch = json!([{"op": "test", "path": "/spec/replicas", "value": 5}, {"op": "replace", "path": "/spec/replicas", "value": 6}]);
        assert_eq!(api.patch(&path, "json", &patch).await.0, 422);
        let (status, scale) = api.patch(&path, "merge", &json!({"spec": {"replicas": 2}})).await;
        assert_eq!((status, &scale["spec"]["replicas"]), (200, &json!(2)));
        let (_, read) = api.get(&object).await;
        assert_eq!((&read["spec"]["replicas"], &read["metadata"]["generation"]), (&json!(2), &json!(2)));
        let mut old = scale.clone();
        assert_eq!(api.patch(&object, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
        old["spec"]["replicas"] = json!(1);
        let (status, refused) = api.put(&path, &old).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
        let (_, mut scale) = api.get(&path).await;
        scale["spec"]["replicas"] = json!(1);
        let (status, scale) = api.put(&path, &scale).await;
        assert_eq!((status, &scale["spec"]["replicas"]), (200, &json!(1)));
        let (status, refused) = api.patch(&path, "merge", &json!({"spec": {"replicas": -1}})).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")));
        assert_eq!(refused["details"]["causes"][0]["field"], "spec.replicas");
    });
}

#[test]
fn what_has_no_scale_answers_404() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &json!({"metadata": {"name": "one"}})).await;
        assert_eq!(api.get(&format!("{path}/one/scale")).await.0, 404);
    });
}
