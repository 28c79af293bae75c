//! Patches.

use http::Method;
use serde_json::json;

use crate::setup::{config_map, deployment, run};

#[test]
fn a_failed_test_leaves_all_as_it_was() {
    run(|api| async move {
        // Only this test writes it: a Deployment's version moves by its controller's writes.
        let path = api.path("coordination.k8s.io/v1", "leases");
        let lease = json!({"metadata": {"name": "web"}, "spec": {"leaseDurationSeconds": 15}});
        let created = api.create(&path, &lease).await;
        let path = format!("{path}/web");
        let version = &created["metadata"]["resourceVersion"];
        let replace = json!({"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}});
        for test in [
            json!({"op": "test", "path": "/metadata/uid", "value": "another"}),
            json!({"op": "test", "path": "/spec/leaseDurationSeconds", "value": 3}),
            json!({"op": "test", "path": "/metadata/annotations/scaler.dev~1state", "value": "x"}),
        ] {
            let (status, refused) = api.patch(&path, "json", &json!([replace, test])).await;
            assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
            assert_eq!(&api.get(&path).await.1["metadata"]["resourceVersion"], version);
        }
        let held = json!([
            {"op": "test", "path": "/metadata/uid", "value": created["metadata"]["uid"]},
            {"op": "test", "path": "/spec/leaseDurationSeconds", "value": 15},
            {"op": "test", "path": "/metadata/annotations", "value": null},
            replace,
            {"op": "add", "path": "/metadata/annotations/scaler.dev~1state", "value": "{}"},
        ]);
        let (status, patched) = api.patch(&path, "json", &held).await;
        assert_eq!(status, 200, "{patched}");
        assert_eq!(patched["metadata"]["annotations"]["scaler.dev/state"], "{}");
    });
}

/// Go's encoder writes the letters that HTML minds, and two line ends of Unicode, as numbers, and nothing else that it need not: a `test`
/// compares that text, and not what it means.
#[test]
fn a_test_compares_the_text_as_the_server_writes_it() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let mut map = config_map("one");
        map["data"] = json!({"html": "x->y & <z>", "lines": "\u{2028}\u{2029}", "other": "ä→\u{7f}/😀"});
        api.create(&path, &map).await;
        let path = format!("{path}/one");
        for (key, text, expected) in [
            ("html", r#""x-\u003ey \u0026 \u003cz\u003e""#, 200),
            ("html", r#""x->y & <z>""#, 422),
            ("html", r#""x-\u003Ey \u0026 \u003Cz\u003E""#, 422),
            ("lines", r#""\u2028\u2029""#, 200),
            ("lines", "\"\u{2028}\u{2029}\"", 422),
            ("other", "\"ä→\u{7f}/😀\"", 200),
            ("other", r#""\u00e4→\u007f/😀""#, 422),
            ("other", "\"ä→\u{7f}\\/😀\"", 422),
        ] {
            let patch = format!(r#"[{{"op": "test", "path": "/data/{key}", "value": {text}}}]"#);
            let (status, answer) =
                api.send_text(Method::PATCH, &path, "application/json-patch+json", patch.into()).await;
            assert_eq!(status, expected, "{text}: {answer}");
        }
        // Printable ASCII without those letters is the same for all readers.
        let plain: String = (' '..='~').filter(|letter| !"<>&".contains(*letter)).collect();
        assert_eq!(api.patch(&path, "merge", &json!({"data": {"plain": plain}})).await.0, 200);
        let test = json!([{"op": "test", "path": "/data/plain", "value": plain}]);
        assert_eq!(api.patch(&path, "json", &test).await.0, 200);
        let path = api.path("apps/v1", "deployments");
        api.create(&path, &deployment("web")).await;
        for (number, expected) in [("0", 200), ("0.0", 422)] {
            let patch = format!(r#"[{{"op": "test", "path": "/spec/replicas", "value": {number}}}]"#);
            let path = format!("{path}/web");
            let (status, answer) =
                api.send_text(Method::PATCH, &path, "application/json-patch+json", patch.into()).await;
            assert_eq!(status, expected, "{number}: {answer}");
        }
    });
}

#[test]
fn a_test_of_the_version_holds_while_it_stands() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let created = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let patch = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": created["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/data/a", "value": "2"},
        ]);
        assert_eq!(api.patch(&path, "json", &patch).await.0, 200);
        assert_eq!(api.patch(&path, "json", &patch).await.0, 422);
    });
}

#[test]
fn a_merge_patch_removes_by_null_and_minds_a_version() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let created = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let (status, patched) = api.patch(&path, "merge", &json!({"data": {"a": null, "b": "2"}})).await;
        assert_eq!((status, &patched["data"]), (200, &json!({"b": "2"})));
        let old = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"c": "3"}});
        let (status, refused) = api.patch(&path, "merge", &old).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
    });
}

#[test]
fn a_strategic_patch_merges_containers_by_name() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        api.create(&path, &deployment("web")).await;
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "main", "image": "devcluster/other"},
            {"name": "more", "image": "devcluster/more"},
        ]}}}});
        let (status, patched) = api.patch(&format!("{path}/web"), "strategic-merge", &patch).await;
        assert_eq!(status, 200, "{patched}");
        let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let images: Vec<&str> = containers.iter().map(|one| one["image"].as_str().unwrap()).collect();
        assert!(images.contains(&"devcluster/other") && images.contains(&"devcluster/more"), "{images:?}");
        assert_eq!(images.len(), 2);
    });
}

#[test]
fn a_patch_of_what_is_not_there_is_not_found() {
    run(|api| async move {
        let path = api.path("v1", "configmaps/none");
        assert_eq!(api.patch(&path, "merge", &json!({"data": {}})).await.0, 404);
        assert_eq!(api.patch(&path, "json", &json!([])).await.0, 404);
    });
}

#[test]
fn an_unknown_kind_of_patch_is_refused() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let (status, refused) = api.patch(&format!("{path}/one"), "other", &json!({})).await;
        assert_eq!((status, &refused["reason"]), (415, &json!("UnsupportedMediaType")));
    });
}

#[test]
fn a_malformed_patch_is_distinguished_from_one_that_does_not_apply() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        for wrong in
            [json!({"op": "test"}), json!("add"), json!([1]), json!([{"op": "add", "path": 1, "value": 2}])]
        {
            let (status, refused) = api.patch(&path, "json", &wrong).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{wrong}: {refused}");
        }
        for wrong in [json!("a"), json!([1])] {
            let (status, refused) = api.patch(&path, "merge", &wrong).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{wrong}: {refused}");
        }
        let (status, refused) =
            api.patch(&path, "json", &json!([{"op": "increase", "path": "/data/a"}])).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        let test = json!({"op": "test", "path": "/data/a", "value": "1"});
        assert_eq!(api.patch(&path, "json", &json!(vec![test.clone(); 10_000])).await.0, 200);
        let (status, refused) = api.patch(&path, "json", &json!(vec![test; 10_001])).await;
        assert_eq!((status, &refused["reason"]), (413, &json!("RequestEntityTooLarge")), "{refused}");
    });
}

#[test]
fn a_test_for_nothing_needs_the_map_that_it_would_be_in() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let nothing = |path: &str| json!([{"op": "test", "path": path, "value": null}]);
        assert_eq!(api.patch(&path, "json", &nothing("/metadata/annotations")).await.0, 200);
        assert_eq!(api.patch(&path, "json", &nothing("/data/b")).await.0, 200);
        assert_eq!(api.patch(&path, "json", &nothing("/metadata/annotations/a")).await.0, 422);
        assert_eq!(api.patch(&path, "json", &nothing("/data/a")).await.0, 422);
    });
}

#[test]
fn a_patch_does_not_make_another_object_of_it() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let created = api.create(&path, &config_map("one")).await;
        let path = format!("{path}/one");
        let other = json!({"metadata": {"uid": "11111111-2222-3333-4444-555555555555"}});
        let (status, refused) = api.patch(&path, "merge", &other).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        assert_eq!(refused["details"]["causes"][0]["field"], "metadata.uid");
        for name in [json!("two"), json!("")] {
            let (status, refused) = api.patch(&path, "merge", &json!({"metadata": {"name": name}})).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
        }
        for time in [json!(null), json!("2020-01-01T00:00:00Z")] {
            let change = json!({"metadata": {"uid": null, "creationTimestamp": time}});
            let (status, kept) = api.patch(&path, "merge", &change).await;
            assert_eq!((status, &kept["metadata"]["uid"]), (200, &created["metadata"]["uid"]), "{kept}");
            assert_eq!(kept["metadata"]["creationTimestamp"], created["metadata"]["creationTimestamp"]);
        }
    });
}
