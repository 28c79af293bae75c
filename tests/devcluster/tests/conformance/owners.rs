//! What belongs to an object goes with it.

use serde_json::{Value, json};

use crate::{
    setup::{Setup, config_map, run},
    watches::Events,
};

/// An owner, and what belongs to it; a watch of the latter.
async fn owned(api: &Setup) -> (String, Events) {
    let path = api.path("v1", "configmaps");
    let owner = api.create(&path, &config_map("owner")).await;
    let mut dependent = config_map("dependent");
    let uid = &owner["metadata"]["uid"];
    dependent["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": true, "controller": true},
    ]);
    let dependent = api.create(&path, &dependent).await;
    let version = dependent["metadata"]["resourceVersion"].as_str().unwrap();
    let query = format!("fieldSelector=metadata.name%3Ddependent&resourceVersion={version}");
    let events = Events::of(&api.client, &path, &query).await;
    (path, events)
}

#[test]
fn dependents_are_collected_in_the_background() {
    run(|api| async move {
        let (path, mut events) = owned(&api).await;
        api.delete(&format!("{path}/owner"), &json!({"propagationPolicy": "Background"})).await;
        assert_eq!(api.get(&format!("{path}/owner")).await.0, 404);
        while events.next().await.expect("the dependent stayed")["type"] != "DELETED" {}
    });
}

#[test]
fn an_owner_deleted_in_the_foreground_goes_last() {
    run(|api| async move {
        let (path, mut events) = owned(&api).await;
        let version = api.get(&format!("{path}/owner")).await.1["metadata"]["resourceVersion"].clone();
        let query =
            format!("fieldSelector=metadata.name%3Downer&resourceVersion={}", version.as_str().unwrap());
        let mut owner = Events::of(&api.client, &path, &query).await;
        let (_, marked) =
            api.delete(&format!("{path}/owner"), &json!({"propagationPolicy": "Foreground"})).await;
        assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{marked}");
        let gone = async |events: &mut Events| loop {
            let event = events.next().await.expect("it stayed");
            if event["type"] == "DELETED" {
                return event["object"]["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap();
            }
        };
        let (first, last) = (gone(&mut events).await, gone(&mut owner).await);
        assert!(first < last);
    });
}

#[test]
fn orphans_are_left() {
    run(|api| async move {
        let (path, mut events) = owned(&api).await;
        api.delete(&format!("{path}/owner"), &json!({"propagationPolicy": "Orphan"})).await;
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], "MODIFIED");
        assert!(event["object"]["metadata"].get("ownerReferences").is_none(), "{event}");
        assert_eq!(api.get(&format!("{path}/dependent")).await.0, 200);
    });
}

#[test]
fn objects_without_a_living_owner_are_collected() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let since = api.get(&path).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut wanted = config_map("lost");
        wanted["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "11111111-2222-3333-4444-555555555555"},
        ]);
        api.create(&path, &wanted).await;
        let query = format!("fieldSelector=metadata.name%3Dlost&resourceVersion={since}");
        let mut events = Events::of(&api.client, &path, &query).await;
        while events.next().await.expect("it stayed")["type"] != "DELETED" {}
        assert_eq!(api.delete(&format!("{path}/lost"), &Value::Null).await.0, 404);
    });
}

#[test]
fn an_owner_is_who_is_named_and_not_the_uid_alone() {
    run(|api| async move {
        let path = api.path("v1", "configmaps");
        let owner = api.create(&path, &config_map("owner")).await;
        let version = owner["metadata"]["resourceVersion"].as_str().unwrap();
        let query = format!("fieldSelector=metadata.name%3Ddependent&resourceVersion={version}");
        let mut events = Events::of(&api.client, &path, &query).await;
        let mut wanted = config_map("dependent");
        wanted["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": owner["metadata"]["uid"]},
        ]);
        api.create(&path, &wanted).await;
        while events.next().await.expect("it stayed")["type"] != "DELETED" {}
        assert_eq!(api.get(&format!("{path}/owner")).await.0, 200);
    });
}
