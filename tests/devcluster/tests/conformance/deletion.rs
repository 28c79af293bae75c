//! Deletion.

use serde_json::{Value, json};

use crate::{
    setup::{config_map, run},
    watches::Events,
};

#[test]
fn preconditions_must_hold() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let created = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let uid = &created["metadata"]["uid"];
        for wrong in [json!({"uid": "another"}), json!({"uid": uid, "resourceVersion": "1"})] {
            let (status, refused) = api.delete(&path, &json!({"preconditions": wrong})).await;
            assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
        }
        let held = json!({"uid": uid, "resourceVersion": created["metadata"]["resourceVersion"]});
        let (status, done) = api.delete(&path, &json!({"preconditions": held})).await;
        assert_eq!((status, &done["status"]), (200, &json!("Success")));
        assert_eq!(&done["details"]["uid"], uid);
        assert_eq!(api.delete(&path, &Value::Null).await.0, 404);
    });
}

#[test]
fn a_finalizer_keeps_an_object_until_it_is_taken_off() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let mut wanted = config_map("one");
        wanted["metadata"]["finalizers"] = json!(["scaler.dev/test"]);
        api.create(&path, &wanted).await;
        let path = format!("{path}/one");
        let (status, marked) = api.delete(&path, &Value::Null).await;
        assert_eq!(status, 200);
        assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
        assert_eq!(api.get(&path).await.0, 200);
        let (status, _) = api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await;
        assert_eq!(status, 200);
        assert_eq!(api.get(&path).await.0, 404);
    });
}

#[test]
fn a_collection_is_deleted_by_selector() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let mut wanted = config_map(name);
            wanted["metadata"]["labels"] = json!({"app": app});
            api.create(&path, &wanted).await;
        }
        assert_eq!(api.delete(&format!("{path}?labelSelector=app%3Dx"), &Value::Null).await.0, 200);
        assert_eq!(api.get(&format!("{path}/a")).await.0, 404);
        assert_eq!(api.get(&format!("{path}/b")).await.0, 404);
        assert_eq!(api.get(&format!("{path}/c")).await.0, 200);
    });
}

#[test]
fn a_pod_on_a_node_stays_until_its_node_lets_go() {
    run(|api| async move {
        let path = api.path("v1", "pods");
        let pod = |name: &str, node: Option<&str>| {
            let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "devcluster/hello"}]}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = json!(node);
            }
            pod
        };
        // No node of that name is there, so nothing else releases it.
        let created = api.create(&path, &pod("bound", Some("no-such-node"))).await;
        assert_eq!(created["status"]["phase"], "Pending");
        let bound = format!("{path}/bound");
        let (status, marked) = api.delete(&bound, &Value::Null).await;
        assert_eq!(status, 200);
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert!(marked["metadata"]["deletionTimestamp"].is_string());
        let (_, shorter) = api.delete(&bound, &json!({"gracePeriodSeconds": 5})).await;
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(api.get(&bound).await.0, 200);
        assert_eq!(api.delete(&bound, &json!({"gracePeriodSeconds": 0})).await.0, 200);
        assert_eq!(api.get(&bound).await.0, 404);
    });
}

#[test]
fn a_namespace_goes_with_what_is_in_it() {
    run(|api| async move {
        let named = json!({"metadata": {"generateName": "conformance-"}});
        let created = api.create("/api/v1/namespaces", &named).await;
        let name = created["metadata"]["name"].as_str().unwrap();
        assert_eq!(created["status"]["phase"], "Active");
        assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
        let path = format!("/api/v1/namespaces/{name}");
        let mut held = config_map("held");
        held["metadata"]["finalizers"] = json!(["scaler.dev/test"]);
        api.create(&format!("{path}/configmaps"), &held).await;
        api.create(&format!("{path}/configmaps"), &config_map("free")).await;
        let query = format!(
            "fieldSelector=metadata.name%3D{name}&resourceVersion={}",
            created["metadata"]["resourceVersion"].as_str().unwrap()
        );
        let mut events = Events::of(&api.client, "/api/v1/namespaces", &query).await;
        assert_eq!(api.delete(&path, &Value::Null).await.0, 200);
        let (status, refused) = api.post(&format!("{path}/configmaps"), &config_map("late")).await;
        assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")), "{refused}");
        assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
        api.patch(&format!("{path}/configmaps/held"), "merge", &json!({"metadata": {"finalizers": null}}))
            .await;
        while events.next().await.expect("the namespace stayed")["type"] != "DELETED" {}
        assert_eq!(api.get(&format!("{path}/configmaps/free")).await.0, 404);
    });
}

#[test]
fn a_refused_deletion_says_what_differs() {
    run(|api| async move {
        let path = api.path("coordination.k8s.io/v1", "leases");
        let created = api.create(&path, &json!({"metadata": {"name": "one"}})).await;
        let path = format!("{path}/one");
        let (uid, version) = (&created["metadata"]["uid"], &created["metadata"]["resourceVersion"]);
        let (_, refused) = api.delete(&path, &json!({"preconditions": {"uid": "another"}})).await;
        let message = format!(
            "Operation cannot be fulfilled on Lease.coordination.k8s.io \"one\": the UID in the precondition (another) \
             does not match the UID in record ({}). The object might have been deleted and then recreated",
            uid.as_str().unwrap()
        );
        assert_eq!(refused["message"], message);
        let (_, refused) = api.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await;
        let message = format!(
            "Operation cannot be fulfilled on Lease.coordination.k8s.io \"one\": the ResourceVersion in the precondition \
             (1) does not match the ResourceVersion in record ({}). The object might have been modified",
            version.as_str().unwrap()
        );
        assert_eq!(refused["message"], message);
        assert_eq!(
            refused["details"],
            json!({"name": "one", "group": "coordination.k8s.io", "kind": "Lease"})
        );
    });
}

#[test]
fn a_dry_run_deletes_nothing() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let one = format!("{path}/one");
        assert_eq!(api.delete(&format!("{one}?dryRun=All"), &Value::Null).await.0, 200);
        assert_eq!(api.delete(&one, &json!({"dryRun": ["All"]})).await.0, 200);
        assert_eq!(api.get(&one).await.0, 200);
        let held = json!({"dryRun": ["All"], "preconditions": {"uid": "another"}});
        assert_eq!(api.delete(&one, &held).await.0, 409);
        assert_eq!(api.delete(&path, &json!({"dryRun": ["All"]})).await.0, 200);
        assert_eq!(api.get(&one).await.0, 200);
        for wrong in [json!({"dryRun": ["Some"]}), json!({"propagationPolicy": "Slow"})] {
            let (status, refused) = api.delete(&one, &wrong).await;
            assert_eq!((status, &refused["details"]["kind"]), (422, &json!("DeleteOptions")), "{refused}");
        }
    });
}

#[test]
fn what_is_being_deleted_gets_no_finalizer_and_keeps_its_time() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let mut wanted = config_map("one");
        wanted["metadata"]["finalizers"] = json!(["scaler.dev/test"]);
        api.create(&path, &wanted).await;
        let path = format!("{path}/one");
        let (_, marked) = api.delete(&path, &Value::Null).await;
        let more = json!({"metadata": {"finalizers": ["scaler.dev/test", "scaler.dev/more"]}});
        let (status, refused) = api.patch(&path, "merge", &more).await;
        assert_eq!(
            (status, &refused["details"]["causes"][0]["field"]),
            (422, &json!("metadata.finalizers")),
            "{refused}"
        );
        let (status, again) = api.delete(&path, &Value::Null).await;
        assert_eq!((status, &again["metadata"]), (200, &marked["metadata"]));
        let (_, foreground) = api.delete(&path, &json!({"propagationPolicy": "Foreground"})).await;
        assert_eq!(
            foreground["metadata"]["finalizers"],
            json!(["scaler.dev/test", "foregroundDeletion"]),
            "{foreground}"
        );
        api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await;
        assert_eq!(api.get(&path).await.0, 404);
    });
}
