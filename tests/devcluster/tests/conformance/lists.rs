//! Lists.

use serde_json::{Value, json};

use crate::setup::{Setup, config_map, run};

async fn three(api: &Setup) -> String {
    let path = api.path("v1", "configmaps");
    for (name, labels) in [
        ("a", json!({"app": "web", "tier": "front"})),
        ("b", json!({"app": "web"})),
        ("c", json!({"app": "db"})),
    ] {
        let mut wanted = config_map(name);
        labels.clone_into(&mut wanted["metadata"]["labels"]);
        api.create(&path, &wanted).await;
    }
    path
}

/// Names, without what a real cluster puts into each namespace.
fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .filter(|name| *name != "kube-root-ca.crt")
        .collect()
}

#[test]
fn labels_select() {
    run(|api| async move {
        let path = three(&api).await;
        for (selector, wanted) in [
            ("", vec!["a", "b", "c"]),
            ("app%3Dweb", vec!["a", "b"]),
            ("app%3Dweb,tier!%3Dfront", vec!["b"]),
            ("app+in+(web,db),!tier,app", vec!["b", "c"]),
            ("app+notin+(web),app", vec!["c"]),
            ("tier", vec!["a"]),
        ] {
            let (status, list) = api.get(&format!("{path}?labelSelector={selector}")).await;
            assert_eq!((status, names(&list)), (200, wanted), "{selector}");
        }
        let (status, refused) = api.get(&format!("{path}?labelSelector=a+in+b")).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")));
    });
}

#[test]
fn fields_select() {
    run(|api| async move {
        let path = three(&api).await;
        let (_, list) = api.get(&format!("{path}?fieldSelector=metadata.name%3Db")).await;
        assert_eq!(names(&list), ["b"]);
        let (_, list) = api
            .get(&format!("/api/v1/configmaps?fieldSelector=metadata.namespace%3D{}", api.namespace))
            .await;
        assert_eq!(names(&list), ["a", "b", "c"]);
        let (status, refused) = api.get(&format!("{path}?fieldSelector=data.a%3D1")).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")));
    });
}

#[test]
fn a_list_says_its_kind_and_version() {
    run(|api| async move {
        let path = three(&api).await;
        let (_, list) = api.get(&path).await;
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
        let version: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let newest = list["items"].as_array().unwrap().iter();
        let newest =
            newest.map(|item| item["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        assert!(version >= newest.max().unwrap());
        // Entries of a built-in kind do not repeat it.
        assert!(list["items"][0].get("kind").is_none());
    });
}

#[test]
fn pages_are_of_one_version() {
    run(|api| async move {
        let path = three(&api).await;
        let page = format!("{path}?limit=2&labelSelector=app");
        let (_, first) = api.get(&page).await;
        assert_eq!(names(&first), ["a", "b"]);
        let next = first["metadata"]["continue"].as_str().unwrap().to_owned();
        let mut more = config_map("d");
        more["metadata"]["labels"] = json!({"app": "new"});
        api.create(&path, &more).await;
        api.patch(&format!("{path}/c"), "merge", &json!({"data": {"a": "changed"}})).await;
        let (_, second) = api.get(&format!("{page}&continue={next}")).await;
        assert_eq!(names(&second), ["c"]);
        assert_eq!(second["items"][0]["data"]["a"], "1");
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert!(second["metadata"]["continue"].as_str().unwrap_or_default().is_empty());
    });
}

#[test]
fn an_earlier_version_can_be_listed() {
    run(|api| async move {
        let path = three(&api).await;
        let (_, list) = api.get(&path).await;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        api.delete(&format!("{path}/a"), &Value::Null).await;
        let (_, then) =
            api.get(&format!("{path}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
        assert_eq!(names(&then), ["a", "b", "c"]);
        let (_, now) =
            api.get(&format!("{path}?resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await;
        assert!(
            now["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
                >= version.parse().unwrap()
        );
        let (status, refused) =
            api.get(&format!("{path}?resourceVersion=99999999999&resourceVersionMatch=Exact")).await;
        assert_eq!((status, &refused["reason"]), (504, &json!("Timeout")), "{refused}");
    });
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    run(|api| async move {
        let path = three(&api).await;
        let (_, first) = api.get(&format!("{path}?limit=1")).await;
        let next = first["metadata"]["continue"].as_str().unwrap();
        let version = first["metadata"]["resourceVersion"].as_str().unwrap();
        for (query, fields) in [
            ("resourceVersionMatch=Exact".to_owned(), vec!["resourceVersionMatch"]),
            ("resourceVersionMatch=Exact&resourceVersion=0".to_owned(), vec!["resourceVersionMatch"]),
            (format!("resourceVersionMatch=Newer&resourceVersion={version}"), vec!["resourceVersionMatch"]),
            (
                format!("limit=1&continue={next}&resourceVersion={version}&resourceVersionMatch=Exact"),
                vec!["resourceVersionMatch"],
            ),
            ("sendInitialEvents=true".to_owned(), vec!["sendInitialEvents"]),
            ("watch=true&sendInitialEvents=true".to_owned(), vec!["resourceVersionMatch"]),
            (
                format!("watch=true&resourceVersion={version}&resourceVersionMatch=NotOlderThan"),
                vec!["resourceVersionMatch"],
            ),
        ] {
            let (status, refused) = api.get(&format!("{path}?{query}")).await;
            assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{query}: {refused}");
            let causes = refused["details"]["causes"].as_array().unwrap();
            let given: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
            assert_eq!(given, fields, "{query}");
            assert_eq!(refused["details"]["kind"], "ListOptions");
        }
        for query in [
            format!("limit=1&continue={next}&resourceVersion={version}"),
            "limit=1&continue=nothing".to_owned(),
        ] {
            let (status, refused) = api.get(&format!("{path}?{query}")).await;
            assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{query}: {refused}");
        }
    });
}
