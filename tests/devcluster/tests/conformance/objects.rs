//! Create, read, replace.

use serde_json::json;

use crate::setup::{config_map, deployment, run};

#[test]
fn a_created_object_has_uid_version_time_and_generation() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        let created = api.create(&path, &deployment("web")).await;
        let metadata = &created["metadata"];
        assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
        assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
        assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(metadata["generation"], 1);
        assert_eq!(metadata["namespace"], api.namespace.as_str());
        let (status, read) = api.get(&format!("{path}/web")).await;
        assert_eq!(status, 200);
        assert_eq!(read["metadata"]["uid"], metadata["uid"]);
        assert_eq!(read["kind"], "Deployment");
        assert_eq!(read["apiVersion"], "apps/v1");
    });
}

#[test]
fn a_second_object_of_that_name_already_exists() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let (status, refused) = api.post(&path, &config_map("one")).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("AlreadyExists")));
        assert_eq!(refused["message"], "configmaps \"one\" already exists");
        assert_eq!(refused["details"], json!({"name": "one", "kind": "configmaps"}));
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    run(|api| async move {
        let (status, refused) = api.get(&api.path("apps/v1", "deployments/none")).await;
        assert_eq!((status, &refused["reason"]), (404, &json!("NotFound")));
        assert_eq!(refused["message"], "deployments.apps \"none\" not found");
        assert_eq!(refused["details"], json!({"name": "none", "group": "apps", "kind": "deployments"}));
        let (status, refused) =
            api.post("/api/v1/namespaces/no-such-namespace/configmaps", &config_map("a")).await;
        assert_eq!(
            (status, &refused["message"]),
            (404, &json!("namespaces \"no-such-namespace\" not found"))
        );
        let none = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "the server could not find the requested resource", "details": {},
        });
        for path in
            ["/apis/apps/v1/nothings", "/apis/apps/v1/namespaces/default/nothings/one", "/api/v1/nothings"]
        {
            assert_eq!(api.get(path).await, (404, none.clone()), "{path}");
        }
        let nobody = (404, json!("404 page not found\n"));
        assert_eq!(api.get("/apis/nothing.example.com/v1/nothings").await, nobody);
    });
}

#[test]
fn a_generated_name_begins_as_asked() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let wanted = json!({"metadata": {"generateName": "some-"}});
        let one = api.create(&path, &wanted).await["metadata"]["name"].clone();
        let two = api.create(&path, &wanted).await["metadata"]["name"].clone();
        assert_ne!(one, two);
        for name in [one, two] {
            let name = name.as_str().unwrap();
            assert!(name.starts_with("some-") && name.len() == 10, "{name}");
        }
    });
}

#[test]
fn a_replace_of_an_old_version_conflicts() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let first = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let mut second = first.clone();
        second["data"]["a"] = json!("2");
        let (status, second) = api.put(&path, &second).await;
        assert_eq!(status, 200, "{second}");
        assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let (status, refused) = api.put(&path, &first).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
        let message = "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply \
                       your changes to the latest version and try again";
        assert_eq!(refused["message"], message);
        assert_eq!(api.get(&path).await.1["data"]["a"], "2");
        // Without a version it is unconditional.
        let (status, third) = api.put(&path, &config_map("one")).await;
        assert_eq!((status, &third["data"]["a"]), (200, &json!("1")));
    });
}

#[test]
fn an_object_of_another_uid_is_not_replaced() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let mut other = api.create(&path, &config_map("one")).await;
        other["metadata"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
        other["metadata"]["resourceVersion"] = json!("");
        let (status, refused) = api.put(&format!("{path}/one"), &other).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
        assert!(refused["message"].as_str().unwrap().contains("Precondition failed: UID"), "{refused}");
    });
}

#[test]
fn a_replace_that_changes_nothing_writes_nothing() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let first = api.create(&path, &config_map("one")).await;
        let (status, second) = api.put(&format!("{path}/one"), &first).await;
        assert_eq!(status, 200);
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    });
}

#[test]
fn the_generation_counts_what_is_wanted_and_a_deployments_annotations() {
    run(|api| async move {
        for (plural, annotations_count) in [("deployments", true), ("statefulsets", false)] {
            let path = api.path("apps/v1", plural);
            let mut wanted = deployment("web");
            if plural == "statefulsets" {
                wanted["kind"] = json!("StatefulSet");
                wanted["spec"]["serviceName"] = json!("web");
            }
            api.create(&path, &wanted).await;
            let path = format!("{path}/web");
            let generation = async |body| {
                let (status, patched) = api.patch(&path, "merge", &body).await;
                assert_eq!(status, 200, "{patched}");
                patched["metadata"]["generation"].as_i64().unwrap()
            };
            assert_eq!(generation(json!({"metadata": {"labels": {"more": "1"}}})).await, 1);
            let after = generation(json!({"metadata": {"annotations": {"more": "1"}}})).await;
            assert_eq!(after, if annotations_count { 2 } else { 1 }, "{plural}");
            assert_eq!(generation(json!({"spec": {"replicas": 0}})).await, after);
            let body = json!({"spec": {"template": {"metadata": {"annotations": {"x": "y"}}}}});
            assert_eq!(generation(body).await, after + 1);
        }
    });
}

#[test]
fn the_status_is_written_apart_from_the_rest() {
    run(|api| async move {
        let path = api.path("apps/v1", "replicasets");
        let mut wanted = deployment("web");
        wanted["kind"] = json!("ReplicaSet");
        wanted["status"] = json!({"replicas": 7});
        let created = api.create(&path, &wanted).await;
        assert_ne!(created["status"]["replicas"], 7);
        let path = format!("{path}/web");
        let patch = json!({"metadata": {"labels": {"no": "no"}}, "spec": {"replicas": 5}, "status": {"replicas": 0, "observedGeneration": 9}});
        let (status, patched) = api.patch(&format!("{path}/status"), "merge", &patch).await;
        assert_eq!(status, 200, "{patched}");
        assert_eq!(patched["status"]["observedGeneration"], 9);
        assert_eq!(patched["spec"]["replicas"], 0);
        assert_eq!(patched["metadata"]["generation"], 1);
        let (_, patched) = api.patch(&path, "merge", &json!({"status": {"observedGeneration": 3}})).await;
        assert_ne!(patched["status"]["observedGeneration"], 3);
    });
}

#[test]
fn a_dry_run_writes_nothing() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let (status, dry) = api.post(&format!("{path}?dryRun=All"), &config_map("one")).await;
        assert_eq!((status, &dry["data"]["a"]), (201, &json!("1")));
        assert_eq!(api.get(&format!("{path}/one")).await.0, 404);
    });
}

#[test]
fn a_lease_is_created_by_a_put_and_a_config_map_is_not() {
    run(|api| async move {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}, "spec": {"holderIdentity": "me"}});
        let (status, created) = api.put(&api.path("coordination.k8s.io/v1", "leases/one"), &lease).await;
        assert_eq!(status, 201, "{created}");
        // And an update of one must say which version it means.
        let (status, refused) = api.put(&api.path("coordination.k8s.io/v1", "leases/one"), &lease).await;
        assert_eq!(status, 422, "{refused}");
        assert_eq!(refused["details"]["causes"][0]["field"], "metadata.resourceVersion");
        let (status, _) = api.put(&api.path("v1", "configmaps/one"), &config_map("one")).await;
        assert_eq!(status, 404);
    });
}

#[test]
fn events_are_the_same_in_both_groups() {
    run(|api| async move {
        let event = json!({
            "metadata": {"name": "one"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "scaler.dev/dlx",
            "reportingInstance": "dlx-0",
            "action": "Waking",
            "reason": "Woken",
            "note": "it was asked for",
            "type": "Normal",
            "regarding": {"kind": "Deployment", "apiVersion": "apps/v1", "namespace": api.namespace, "name": "web"},
        });
        api.create(&api.path("events.k8s.io/v1", "events"), &event).await;
        let (_, read) = api.get(&api.path("v1", "events/one")).await;
        assert_eq!(read["message"], "it was asked for");
        assert_eq!(read["involvedObject"]["name"], "web");
        assert_eq!(read["reportingComponent"], "scaler.dev/dlx");
        let path = api.path("v1", "events");
        let (_, list) = api.get(&format!("{path}?fieldSelector=involvedObject.name%3Dweb,type=Normal")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        let (_, list) = api.get(&format!("{path}?fieldSelector=involvedObject.name%3Dother")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn an_object_that_is_put_says_its_name() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        for metadata in [json!({}), json!({"name": "two"})] {
            let body = json!({"metadata": metadata, "data": {"a": "2"}});
            let (status, refused) = api.put(&format!("{path}/one"), &body).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
        }
    });
}

#[test]
fn a_put_of_what_was_deleted_creates_a_lease_unless_it_says_the_uid() {
    run(|api| async move {
        let path = api.path("coordination.k8s.io/v1", "leases");
        let created = api.create(&path, &json!({"metadata": {"name": "one"}})).await;
        let path = format!("{path}/one");
        assert_eq!(api.delete(&path, &json!(null)).await.0, 200);
        let (status, refused) = api.put(&path, &created).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("Precondition failed: UID"), "{refused}");
        assert_eq!(api.get(&path).await.0, 404);
        // The version alone prevents nothing.
        let mut other = created.clone();
        other["metadata"].as_object_mut().unwrap().remove("uid");
        let (status, again) = api.put(&path, &other).await;
        assert_eq!(status, 201, "{again}");
        assert_ne!(again["metadata"]["uid"], created["metadata"]["uid"]);
        assert_ne!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);

        let path = api.path("v1", "configmaps");
        let created = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        assert_eq!(api.delete(&path, &json!(null)).await.0, 200);
        let (status, refused) = api.put(&path, &created).await;
        // Versions differ in what they look at first.
        assert!(matches!(status, 404 | 409), "{refused}");
    });
}

#[test]
fn a_time_to_the_microsecond_has_six_digits() {
    run(|api| async move {
        let path = api.path("coordination.k8s.io/v1", "leases");
        let lease = |time: &str| json!({"metadata": {"name": "one"}, "spec": {"renewTime": time}});
        for wrong in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123Z", "2026-01-01T00:00:00.123456789Z"] {
            let (status, refused) = api.post(&path, &lease(wrong)).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{wrong}: {refused}");
        }
        let created = api.create(&path, &lease("2026-01-01T02:00:00.123456+02:00")).await;
        assert_eq!(created["spec"]["renewTime"], "2026-01-01T00:00:00.123456Z");
        let patch = json!({"spec": {"renewTime": "2026-01-01T00:00:00Z"}});
        assert_eq!(api.patch(&format!("{path}/one"), "merge", &patch).await.0, 422);
    });
}
