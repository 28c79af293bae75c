//! MutatingAdmissionPolicies: a key that one keeps in a Service's selector at each user's writes.

use http::Method;
use serde_json::{Value, json};

use crate::setup::{Setup, config_map, run, soon};

const KEY: &str = "example.com/key";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy and its binding, named after the namespace, for its Services alone. A write of `key.VALUE` adds the key, one of `unkey`
/// removes it, and any other keeps it.
fn policy(namespace: &str) -> [(String, Value); 2] {
    let path = format!("/spec/selector/\" + jsonpatch.escapeKey(\"{KEY}\")");
    let expression = format!(
        "variables.add ? [JSONPatch{{op: \"add\", path: \"{path}, value: variables.manager.substring(4)}}] \
         : variables.remove ? (variables.keyed ? [JSONPatch{{op: \"remove\", path: \"{path}}}] : []) \
         : variables.was && !variables.keyed \
         ? [JSONPatch{{op: \"add\", path: \"{path}, value: oldObject.spec.selector[\"{KEY}\"]}}] : []"
    );
    let variable = |name: &str, expression: &str| json!({"name": name, "expression": expression});
    let selector = "has(object.spec.selector) && size(object.spec.selector) > 0";
    let manager = "has(request.options) && has(request.options.fieldManager) ? string(request.options.fieldManager) : ''";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["services"],
                }],
            },
            "matchConditions": [
                {"name": "has-a-selector", "expression": selector},
                {"name": "not-left-alone", "expression": "!(has(object.metadata.labels) && 'alone' in object.metadata.labels)"},
            ],
            "variables": [
                variable("manager", manager),
                variable("add", "variables.manager.startsWith('key.')"),
                variable("remove", "variables.manager == 'unkey'"),
                variable("keyed", &format!("'{KEY}' in object.spec.selector")),
                variable("was", &format!("has(oldObject.spec.selector) && '{KEY}' in oldObject.spec.selector")),
            ],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {
            "policyName": namespace,
            "paramRef": {"name": "ports", "namespace": namespace, "parameterNotFoundAction": "Allow"},
        },
    });
    [
        (format!("{GROUP}/mutatingadmissionpolicies"), policy),
        (format!("{GROUP}/mutatingadmissionpolicybindings"), binding),
    ]
}

/// Whether the API has that kind: not before 1.36.
async fn is_served(api: &Setup) -> bool {
    let (_, list) = api.get(GROUP).await;
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let served = all.iter().any(|one| one["name"] == "mutatingadmissionpolicies");
    if !served {
        println!("not proved: the API has no MutatingAdmissionPolicy");
    }
    served
}

/// Deletes both, also where the test fails.
async fn with_policy(api: &Setup, test: impl Future<Output = ()> + Send + 'static) {
    let policies = policy(&api.namespace);
    for (path, object) in &policies {
        api.create(path, object).await;
    }
    let outcome = tokio::spawn(test).await;
    for (path, _) in policies.iter().rev() {
        api.delete(&format!("{path}/{}", api.namespace), &Value::Null).await;
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic.into_panic());
    }
}

fn service(app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80}]},
    })
}

/// The managers that own the selector.
fn owners(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owning = entries.iter().filter(|one| one["fieldsV1"].pointer("/f:spec/f:selector").is_some());
    owning.filter_map(|one| one["manager"].as_str()).collect()
}

fn managers(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|one| one["manager"].as_str()).collect()
}

fn key(object: &Value) -> Option<&str> {
    object["spec"]["selector"][KEY].as_str()
}

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

/// By server-side apply.
async fn apply(api: &Setup, path: &str, object: &Value) -> Value {
    let path = format!("{path}?fieldManager=flux&force=true");
    let (status, applied) = api.send(Method::PATCH, &path, "application/apply-patch+yaml", object).await;
    assert!(status == 200 || status == 201, "{applied}");
    applied
}

/// A patch of `test` operations alone, by that manager.
async fn tested(api: &Setup, path: &str, manager: &str, tests: &[(&str, &Value)]) -> (u16, Value) {
    let tests: Vec<_> =
        tests.iter().map(|(path, value)| json!({"op": "test", "path": path, "value": value})).collect();
    api.patch(&format!("{path}{manager}"), "json", &json!(tests)).await
}

/// Waits until the binding is in force: a dry run shows it.
async fn in_force(api: &Setup, path: &str, uid: &Value) {
    soon(async {
        loop {
            let (status, shown) =
                tested(api, path, "?dryRun=All&fieldManager=key.0", &[("/metadata/uid", uid)]).await;
            assert_eq!(status, 200, "{shown}");
            if key(&shown) == Some("0") {
                return;
            }
        }
    })
    .await;
    let (_, stored) = api.get(path).await;
    assert_eq!(key(&stored), None, "a dry run stores nothing");
}

#[test]
fn a_policy_keeps_a_key_under_server_side_apply_and_owns_nothing() {
    run(|api| async move {
        if !is_served(&api).await {
            return;
        }
        let inner = api.clone();
        with_policy(&api, async move {
            let api = inner;
            let path = format!("{}/web", api.path("v1", "services"));
            let created = apply(&api, &path, &service("web")).await;
            let uid = &created["metadata"]["uid"];
            api.create(&api.path("v1", "configmaps"), &config_map("ports")).await;
            in_force(&api, &path, uid).await;

            let wrong = json!("1");
            let (status, refused) =
                tested(&api, &path, "?fieldManager=key.1", &[("/metadata/resourceVersion", &wrong)]).await;
            assert_eq!(status, 422, "{refused}");
            let at = [("/metadata/uid", uid), ("/metadata/resourceVersion", version(&created))];
            let (status, keyed) = tested(&api, &path, "?fieldManager=key.1", &at).await;
            assert_eq!((status, key(&keyed)), (200, Some("1")), "{keyed}");
            assert_eq!((owners(&keyed), managers(&keyed)), (vec!["flux"], vec!["flux"]));
            assert_ne!(version(&keyed), version(&created));

            // The same manifest again and again, and another selector.
            let again = apply(&api, &path, &service("web")).await;
            assert_eq!((key(&again), version(&again)), (Some("1"), version(&keyed)), "{again}");
            let other = apply(&api, &path, &service("other")).await;
            assert_eq!(other["spec"]["selector"], json!({"app": "other", KEY: "1"}), "{other}");
            let again = apply(&api, &path, &service("other")).await;
            assert_eq!(version(&again), version(&other));
            assert_eq!(managers(&again), ["flux"]);

            // Removed by a patch it is back; who replaces the Service owns the selector.
            let gone = json!([{"op": "remove", "path": "/spec/selector/example.com~1key"}]);
            let (_, edited) = api.patch(&path, "json", &gone).await;
            assert_eq!(key(&edited), Some("1"), "{edited}");
            let mut replaced = edited.clone();
            replaced["spec"]["selector"] = json!({"app": "other"});
            let (status, replaced) = api.put(&format!("{path}?fieldManager=hand"), &replaced).await;
            assert_eq!((status, key(&replaced), owners(&replaced)), (200, Some("1"), vec!["hand"]));

            // Another value, and none.
            let (_, anew) = tested(&api, &path, "?fieldManager=key.2", &[("/metadata/uid", uid)]).await;
            assert_eq!((key(&anew), owners(&anew)), (Some("2"), vec!["hand"]));
            let (_, without) = tested(&api, &path, "?fieldManager=unkey", &[("/metadata/uid", uid)]).await;
            assert_eq!(without["spec"]["selector"], json!({"app": "other"}), "{without}");
            assert_eq!(owners(&without), ["hand"]);
        })
        .await;
    });
}

#[test]
fn a_policy_does_nothing_where_it_is_skipped_at_a_creation_and_without_its_parameter() {
    run(|api| async move {
        if !is_served(&api).await {
            return;
        }
        let inner = api.clone();
        with_policy(&api, async move {
            let api = inner;
            let services = api.path("v1", "services");
            let path = format!("{services}/web");
            let created = apply(&api, &path, &service("web")).await;
            let uid = &created["metadata"]["uid"];
            let uid_holds = [("/metadata/uid", uid)];
            let (_, without) = tested(&api, &path, "?fieldManager=key.1", &uid_holds).await;
            assert_eq!((key(&without), version(&without)), (None, version(&created)), "no parameter");
            let maps = api.path("v1", "configmaps");
            api.create(&maps, &config_map("ports")).await;
            in_force(&api, &path, uid).await;
            let (_, keyed) = tested(&api, &path, "?fieldManager=key.1", &uid_holds).await;
            assert_eq!(key(&keyed), Some("1"));

            // By a match condition it is not about this one.
            let alone = json!({"metadata": {"labels": {"alone": ""}}, "spec": {"selector": {KEY: null}}});
            let (_, skipped) = api.patch(&path, "merge", &alone).await;
            assert_eq!(key(&skipped), None, "{skipped}");
            let (_, _) = api.patch(&path, "merge", &json!({"metadata": {"labels": {"alone": null}}})).await;
            let (_, keyed) = tested(&api, &path, "?fieldManager=key.3", &uid_holds).await;
            assert_eq!(key(&keyed), Some("3"));

            // Deleted and created, it is another object.
            api.delete(&path, &Value::Null).await;
            let anew = apply(&api, &path, &service("web")).await;
            assert_eq!(key(&anew), None, "{anew}");
            let uid = &anew["metadata"]["uid"];
            let (_, keyed) = tested(&api, &path, "?fieldManager=key.4", &[("/metadata/uid", uid)]).await;
            assert_eq!(key(&keyed), Some("4"));

            // Whoever removes the parameter ends it.
            api.delete(&format!("{maps}/ports"), &Value::Null).await;
            soon(async { while key(&apply(&api, &path, &service("web")).await).is_some() {} }).await;
        })
        .await;
    });
}
