//! What is refused, and how.

use serde_json::{Value, json};

use crate::setup::{Setup, config_map, deployment, run};

/// Posts what must be refused as invalid; the fields that the answer names.
pub async fn causes(api: &Setup, path: &str, wrong: &Value) -> Vec<String> {
    let (status, refused) = api.post(path, wrong).await;
    assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
    let causes = refused["details"]["causes"].as_array().unwrap_or_else(|| panic!("no causes: {refused}"));
    causes.iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn names_and_labels_must_be_well_formed() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        for name in ["Upper", "under_score", "-dash", "dot."] {
            assert_eq!(causes(&api, &path, &config_map(name)).await, ["metadata.name"], "{name}");
        }
        let mut wrong = config_map("one");
        wrong["metadata"]["labels"] = json!({"app": "not a value"});
        assert_eq!(causes(&api, &path, &wrong).await, ["metadata.labels"]);
        wrong["metadata"]["labels"] = json!({"not a key": "x"});
        assert_eq!(causes(&api, &path, &wrong).await, ["metadata.labels"]);
        assert_eq!(causes(&api, &path, &json!({"metadata": {}})).await, ["metadata.name"]);
    });
}

#[test]
fn an_annotation_must_be_text_and_all_of_them_small() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let mut wrong = config_map("one");
        wrong["metadata"]["annotations"] = json!({"a": 1});
        let (status, refused) = api.post(&path, &wrong).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
        wrong["metadata"]["annotations"] = json!({"a": "x".repeat(300_000)});
        assert_eq!(causes(&api, &path, &wrong).await, ["metadata.annotations"]);
    });
}

#[test]
fn what_has_another_type_is_refused_and_what_is_unknown_is_dropped() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        let mut wrong = deployment("web");
        wrong["spec"]["replicas"] = json!("3");
        let (status, refused) = api.post(&path, &wrong).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
        let mut typo = deployment("web");
        typo["spec"]["replica"] = json!(3);
        let (status, refused) = api.post(&format!("{path}?fieldValidation=Strict"), &typo).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.replica\""), "{refused}");
        let created = api.create(&path, &typo).await;
        assert!(created["spec"].get("replica").is_none());
        let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": "3"}]);
        let (status, refused) = api.patch(&format!("{path}/web"), "json", &patch).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
    });
}

#[test]
fn a_deployment_needs_an_image_and_a_selector_that_fits() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        let mut wrong = deployment("web");
        wrong["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("image");
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.template.spec.containers[0].image"]);
        let mut wrong = deployment("web");
        wrong["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.template.metadata.labels"]);
        let mut wrong = deployment("web");
        wrong["spec"]["replicas"] = json!(-1);
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.replicas"]);
        let (status, refused) = api
            .post(&path, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}))
            .await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
    });
}

#[test]
fn a_selector_does_not_change() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        api.create(&path, &deployment("web")).await;
        let change = json!({"spec": {
            "selector": {"matchLabels": {"app": "new"}},
            "template": {"metadata": {"labels": {"app": "new"}}},
        }});
        let (status, refused) = api.patch(&format!("{path}/web"), "merge", &change).await;
        assert_eq!(
            (status, &refused["details"]["causes"][0]["field"]),
            (422, &json!("spec.selector")),
            "{refused}"
        );
    });
}

#[test]
fn defaults_are_filled_in() {
    run(|api| async move {
        let mut wanted = deployment("web");
        wanted["spec"].as_object_mut().unwrap().remove("replicas");
        wanted["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": 2}});
        // Nothing of it is to run on a real cluster.
        wanted["spec"]["template"]["spec"]["nodeSelector"] = json!({"no.such/label": "true"});
        wanted["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
            json!({"httpGet": {"port": 80}});
        let created = api.create(&api.path("apps/v1", "deployments"), &wanted).await;
        let spec = &created["spec"];
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": "25%", "maxUnavailable": "25%"}));
        let pod = &spec["template"]["spec"];
        assert_eq!(
            (&pod["restartPolicy"], &pod["terminationGracePeriodSeconds"]),
            (&json!("Always"), &json!(30))
        );
        assert_eq!(
            pod["containers"][0]["readinessProbe"],
            json!({
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            })
        );
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["containers"][0]["resources"]["requests"]["cpu"], "2");
    });
}

#[test]
fn an_autoscaler_has_at_least_one_replica() {
    run(|api| async move {
        let path = api.path("autoscaling/v2", "horizontalpodautoscalers");
        let wanted = |least: i64, most: i64| {
            json!({
                "metadata": {"name": "web"},
                "spec": {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                    "minReplicas": least,
                    "maxReplicas": most,
                },
            })
        };
        assert_eq!(causes(&api, &path, &wanted(1, 0)).await, ["spec.maxReplicas", "spec.maxReplicas"]);
        assert_eq!(causes(&api, &path, &wanted(5, 3)).await, ["spec.maxReplicas"]);
        api.create(&path, &wanted(2, 3)).await;
    });
}

#[test]
fn a_config_map_holds_a_mebibyte() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let map = |bytes: usize| json!({"metadata": {"name": "one"}, "data": {"a": "x".repeat(bytes - 1), "b": "y"}});
        assert_eq!(causes(&api, &path, &map((1 << 20) + 1)).await, [""]);
        api.create(&path, &map(1 << 20)).await;
    });
}

#[test]
fn a_quota_limits_pods() {
    run(|api| async move {
        let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}});
        let quota = api.create(&api.path("v1", "resourcequotas"), &quota).await;
        let pod = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "a", "image": "devcluster/hello"}]}});
        let (status, refused) = api.post(&api.path("v1", "pods"), &pod).await;
        assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")), "{quota}");
        let message = refused["message"].as_str().unwrap();
        // Until a real cluster's controller has counted, it says that instead.
        assert!(message.contains("quota") && message.starts_with("pods \"one\" is forbidden: "), "{message}");
    });
}

#[test]
fn a_pods_deletion_cost_is_a_number() {
    run(|api| async move {
        let path = api.path("v1", "pods");
        let mut pod = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "a", "image": "devcluster/hello"}]}});
        const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
        for wrong in ["", "many", "1.5", "+1", "007", "2147483648"] {
            pod["metadata"]["annotations"] = json!({COST: wrong});
            let field = format!("metadata.annotations[{COST}]");
            assert_eq!(causes(&api, &path, &pod).await, [field], "{wrong:?}");
        }
        pod["metadata"]["annotations"] = json!({COST: "-2147483648"});
        api.create(&path, &pod).await;
        let one = format!("{path}/one");
        let (status, _) = api.patch(&one, "merge", &json!({"metadata": {"annotations": {COST: "x"}}})).await;
        assert_eq!(status, 422);
        let (status, pod) =
            api.patch(&one, "merge", &json!({"metadata": {"annotations": {COST: null}}})).await;
        assert_eq!((status, pod["metadata"].get("annotations")), (200, None), "{pod}");
        let stale = json!({"metadata": {"resourceVersion": "1", "annotations": {COST: "0"}}});
        assert_eq!(api.patch(&one, "merge", &stale).await.0, 409);
    });
}

#[test]
fn a_pod_needs_its_service_account() {
    run(|api| async move {
        let pod = json!({
            "metadata": {"name": "one"},
            "spec": {"serviceAccountName": "nobody", "containers": [{"name": "a", "image": "devcluster/hello"}]},
        });
        let (status, refused) = api.post(&api.path("v1", "pods"), &pod).await;
        assert_eq!(status, 403, "{refused}");
        let message = format!(
            "pods \"one\" is forbidden: error looking up service account {}/nobody: serviceaccount \"nobody\" not found",
            api.namespace
        );
        assert_eq!(refused["message"], message);
    });
}

#[test]
fn a_config_maps_keys_are_file_names_and_it_may_be_fixed() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        for key in ["a/b", "a b", "..", "ä", &"x".repeat(254)] {
            let wrong = json!({"metadata": {"name": "one"}, "data": {key: "1"}});
            assert_eq!(causes(&api, &path, &wrong).await, [format!("data[{key}]")]);
        }
        let twice = json!({"metadata": {"name": "one"}, "data": {"a": "1"}, "binaryData": {"a": "AA=="}});
        assert_eq!(causes(&api, &path, &twice).await, ["data[a]"]);
        let mut fixed = config_map("one");
        fixed["immutable"] = json!(true);
        api.create(&path, &fixed).await;
        for (change, field) in [
            (json!({"data": {"a": "2"}}), "data"),
            (json!({"immutable": false}), "immutable"),
            (json!({"binaryData": {"b": "AA=="}}), "binaryData"),
        ] {
            let (status, refused) = api.patch(&format!("{path}/one"), "merge", &change).await;
            assert_eq!(
                (status, &refused["details"]["causes"][0]["field"]),
                (422, &json!(field)),
                "{refused}"
            );
        }
        let labels = json!({"metadata": {"labels": {"a": "b"}}});
        assert_eq!(api.patch(&format!("{path}/one"), "merge", &labels).await.0, 200);
    });
}

#[test]
fn what_is_too_large_is_said_to_be() {
    run(|api| async move {
        let body = json!({"metadata": {"name": "one"}, "data": {"a": "x".repeat(3 << 20)}});
        let (status, refused) = api.post(&api.path("v1", "configmaps"), &body).await;
        assert_eq!((status, &refused["reason"]), (413, &json!("RequestEntityTooLarge")), "{refused}");
        assert_eq!(refused["message"], "Request entity too large: limit is 3145728");
    });
}

#[test]
fn an_unknown_option_is_refused() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        for (query, field) in [("dryRun=Some", "dryRun"), ("fieldValidation=Loose", "fieldValidation")] {
            assert_eq!(causes(&api, &format!("{path}?{query}"), &config_map("one")).await, [field]);
        }
        api.create(&format!("{path}?fieldValidation=Ignore"), &config_map("one")).await;
        for query in ["dryRun=Some", "fieldValidation=Loose"] {
            let (status, refused) =
                api.patch(&format!("{path}/one?{query}"), "merge", &json!({"data": {"a": "2"}})).await;
            assert_eq!((status, &refused["details"]["kind"]), (422, &json!("PatchOptions")), "{refused}");
        }
    });
}
