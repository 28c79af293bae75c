//! Discovery.

use serde_json::{Value, json};

use crate::setup::run;

#[test]
fn groups_versions_and_resources_are_listed() {
    run(|api| async move {
        assert_eq!(api.get("/api").await.1["versions"], json!(["v1"]));
        let (_, groups) = api.get("/apis").await;
        let names: Vec<&str> =
            groups["groups"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        for name in [
            "apps",
            "autoscaling",
            "coordination.k8s.io",
            "discovery.k8s.io",
            "events.k8s.io",
            "rbac.authorization.k8s.io",
        ] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        let (_, group) = api.get("/apis/autoscaling").await;
        assert_eq!(group["preferredVersion"]["version"], "v2");
        let (_, list) = api.get("/apis/apps/v1").await;
        assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), &json!("apps/v1")));
        let of = |name: &str| -> Value {
            list["resources"]
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["name"] == name)
                .cloned()
                .unwrap_or_default()
        };
        assert_eq!(of("deployments")["shortNames"], json!(["deploy"]));
        assert_eq!(of("deployments")["namespaced"], true);
        for verb in ["create", "delete", "get", "list", "patch", "update", "watch"] {
            assert!(of("deployments")["verbs"].as_array().unwrap().contains(&json!(verb)), "{verb}");
        }
        assert_eq!(of("deployments/scale")["kind"], "Scale");
        assert_eq!(of("deployments/scale")["group"], "autoscaling");
        assert_eq!(api.get("/apis/no.such.group/v1").await.0, 404);
        assert!(api.get("/version").await.1["minor"].is_string());
    });
}

#[test]
fn an_autoscaler_is_read_in_both_versions() {
    run(|api| async move {
        let wanted = json!({
            "metadata": {"name": "web"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "maxReplicas": 3,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            },
        });
        let created = api.create(&api.path("autoscaling/v2", "horizontalpodautoscalers"), &wanted).await;
        assert_eq!(created["spec"]["minReplicas"], 1);
        let (_, read) = api.get(&api.path("autoscaling/v1", "horizontalpodautoscalers/web")).await;
        assert_eq!(read["spec"]["targetCPUUtilizationPercentage"], 50, "{read}");
        assert_eq!(read["apiVersion"], "autoscaling/v1");
    });
}
