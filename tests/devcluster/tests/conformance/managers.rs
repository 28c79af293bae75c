//! The owners of fields.

use serde_json::{Value, json};

use crate::setup::{Setup, deployment, run};

/// The managers that own a field, with how they came to.
fn owners(object: &Value, field: &str) -> Vec<String> {
    let field: String = field.split('/').skip(1).map(|name| format!("/f:{name}")).collect();
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = entries.iter().filter(|entry| entry["fieldsV1"].pointer(&field).is_some());
    let mut owners: Vec<_> = has
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("manager"), text("operation"), text("subresource")).trim().to_owned()
        })
        .collect();
    owners.sort();
    owners
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    })
}

/// By server-side apply.
async fn apply(api: &Setup, path: &str, who: &str, object: &Value) -> (u16, Value) {
    let path = format!("{path}?{who}");
    api.send(http::Method::PATCH, &path, "application/apply-patch+yaml", object).await
}

#[test]
fn a_field_is_whose_who_changed_it_last_until_the_list_is_written_as_it_was() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let created = api.create(&format!("{path}?fieldManager=alpha"), &service()).await;
        assert_eq!(owners(&created, "/spec/selector"), ["alpha Update"]);
        let path = format!("{path}/web");
        let key = json!({"op": "add", "path": "/spec/selector/example.com~1key", "value": "1"});
        let (_, taken) = api.patch(&format!("{path}?fieldManager=beta"), "json", &json!([key])).await;
        assert_eq!(owners(&taken, "/spec/selector"), ["beta Update"], "a selector is one value");
        assert_eq!(owners(&taken, "/spec/ports"), ["alpha Update"]);
        // With a change in the same patch that is its writer's all the same.
        let lists = &created["metadata"]["managedFields"];
        let list = json!({"op": "replace", "path": "/metadata/managedFields", "value": lists});
        let other = json!({"op": "replace", "path": "/spec/selector/example.com~1key", "value": "2"});
        let beta = format!("{path}?fieldManager=beta");
        let (_, both) = api.patch(&beta, "json", &json!([other, list])).await;
        assert_eq!(owners(&both, "/spec/selector"), ["beta Update"]);
        let (status, alone) = api.patch(&beta, "json", &json!([list])).await;
        assert_eq!(
            (status, owners(&alone, "/spec/selector")),
            (200, vec!["alpha Update".to_owned()]),
            "{alone}"
        );
        assert_eq!(alone["spec"], both["spec"]);
        assert_ne!(alone["metadata"]["resourceVersion"], both["metadata"]["resourceVersion"]);
        // What says nothing is as none; one entry that says nothing takes all from every owner.
        for (list, left) in [(json!([]), 1), (json!([{}]), 0)] {
            let list = json!([{"op": "replace", "path": "/metadata/managedFields", "value": list}]);
            let (_, written) = api.patch(&beta, "json", &list).await;
            assert_eq!(owners(&written, "/spec/selector").len(), left);
        }
    });
}

#[test]
fn an_apply_conflicts_with_who_changed_its_field_and_not_after_it_was_given_back() {
    run(|api| async move {
        let path = format!("{}/web", api.path("apps/v1", "deployments"));
        let mut wanted = deployment("web");
        let flux = "fieldManager=flux";
        let (status, applied) = apply(&api, &path, flux, &wanted).await;
        assert_eq!((status, owners(&applied, "/spec/replicas")), (201, vec!["flux Apply".to_owned()]));
        let one = json!({"spec": {"replicas": 1}});
        let scaled = async || {
            let beta = format!("{path}?fieldManager=beta");
            let (_, scaled) = api.patch(&beta, "merge", &one).await;
            assert_eq!(owners(&scaled, "/spec/replicas"), ["beta Update"]);
        };
        scaled().await;
        let (status, refused) = apply(&api, &path, flux, &wanted).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
        let cause = json!({
            "reason": "FieldManagerConflict", "message": "conflict with \"beta\" using apps/v1", "field": ".spec.replicas",
        });
        assert_eq!(refused["details"]["causes"], json!([cause]));
        let given = "Apply failed with 1 conflict: conflict with \"beta\" using apps/v1: .spec.replicas";
        assert_eq!(refused["message"], given);
        let (status, forced) = apply(&api, &path, &format!("{flux}&force=true"), &wanted).await;
        assert_eq!((status, &forced["spec"]["replicas"]), (200, &json!(0)), "{forced}");
        assert_eq!(owners(&forced, "/spec/replicas"), ["flux Apply"]);

        scaled().await;
        let list = json!([{"op": "replace", "path": "/metadata/managedFields", "value": forced["metadata"]["managedFields"]}]);
        assert_eq!(api.patch(&path, "json", &list).await.0, 200);
        let (status, again) = apply(&api, &path, flux, &wanted).await;
        assert_eq!((status, &again["spec"]["replicas"]), (200, &json!(0)), "{again}");
        // What is applied no more, and has no other owner, is removed.
        wanted["metadata"]["labels"] = Value::Null;
        let (_, less) = apply(&api, &path, flux, &wanted).await;
        assert_eq!(less["metadata"]["labels"], Value::Null);
        let (status, refused) = apply(&api, &path, "force=true", &wanted).await;
        assert_eq!(
            (status, &refused["details"]["causes"][0]["field"]),
            (422, &json!("fieldManager")),
            "{refused}"
        );
    });
}

#[test]
fn an_apply_writes_a_selector_whole() {
    run(|api| async move {
        let path = format!("{}/web", api.path("v1", "services"));
        let flux = "fieldManager=flux&force=true";
        assert_eq!(apply(&api, &path, flux, &service()).await.0, 201);
        let key = json!({"spec": {"selector": {"example.com/key": "1"}}});
        let (_, patched) = api.patch(&path, "strategic-merge", &key).await;
        assert_eq!(patched["spec"]["selector"], json!({"app": "web", "example.com/key": "1"}));
        let (status, applied) = apply(&api, &path, flux, &service()).await;
        assert_eq!((status, &applied["spec"]["selector"]), (200, &json!({"app": "web"})), "{applied}");
    });
}

#[test]
fn a_scale_and_who_is_not_named_own_what_they_write() {
    run(|api| async move {
        let path = api.path("apps/v1", "deployments");
        let created = api.create(&path, &deployment("web")).await;
        assert_eq!(owners(&created, "/spec/replicas"), ["unknown Update"]);
        let scale = format!("{path}/web/scale?fieldManager=hand");
        assert_eq!(api.patch(&scale, "merge", &json!({"spec": {"replicas": 1}})).await.0, 200);
        let (_, scaled) = api.get(&format!("{path}/web")).await;
        assert_eq!(owners(&scaled, "/spec/replicas"), ["hand Update scale"]);
        let agent = api.calling_itself("some-agent/1.2 (linux)");
        let two = json!({"spec": {"replicas": 2}});
        let (_, patched) = agent.patch(&format!("{path}/web"), "merge", &two).await;
        assert_eq!(owners(&patched, "/spec/replicas"), ["some-agent Update"]);
    });
}
