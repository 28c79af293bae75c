//! ValidatingAdmissionPolicies: what is denied at creations and updates, and how the API says so.

use serde_json::{Value, json};

use crate::setup::{Setup, config_map, run, soon};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MESSAGE: &str = "Only annotations change.";

/// A policy and its binding, named after the namespace, for its ConfigMaps alone: annotations may change, nothing else of one may
/// whose name is not `free`, and none may be called `never`.
fn policy(namespace: &str) -> [(String, Value); 2] {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"],
                }],
            },
            "matchConditions": [{"name": "not-free", "expression": "object.metadata.name != 'free'"}],
            "variables": [{"name": "data", "expression": "has(object.data) ? dyn(object.data) : dyn({})"}],
            "validations": [
                {"expression": "request.operation == 'UPDATE' || object.metadata.name != 'never'"},
                {
                    "expression": "oldObject == null || variables.data == (has(oldObject.data) ? dyn(oldObject.data) : dyn({}))",
                    "message": MESSAGE,
                },
            ],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"]},
    });
    [
        (format!("{GROUP}/validatingadmissionpolicies"), policy),
        (format!("{GROUP}/validatingadmissionpolicybindings"), binding),
    ]
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

#[test]
fn a_policy_denies_what_it_does_not_allow_and_says_which_it_is() {
    run(|api| async move {
        let inner = api.clone();
        with_policy(&api, async move {
            let api = inner;
            let maps = api.path("v1", "configmaps");
            api.create(&maps, &config_map("kept")).await;
            api.create(&maps, &config_map("free")).await;
            // A binding is in force a little later.
            let refused = soon(async {
                loop {
                    let (status, answer) =
                        api.post(&format!("{maps}?dryRun=All"), &config_map("never")).await;
                    if status != 201 {
                        return (status, answer);
                    }
                }
            })
            .await;
            assert_eq!((refused.0, &refused.1["reason"]), (422, &json!("Invalid")), "{}", refused.1);

            let changed = json!({"data": {"another": "1"}});
            let (status, refused) = api.patch(&format!("{maps}/kept"), "merge", &changed).await;
            let name = &api.namespace;
            let why =
                format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {MESSAGE}");
            assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
            assert_eq!(refused["message"], format!("configmaps \"kept\" is forbidden: {why}"));
            assert_eq!(refused["details"]["causes"], json!([{"message": why}]), "{refused}");
            let (_, kept) = api.get(&format!("{maps}/kept")).await;
            assert_eq!(kept["data"]["another"], Value::Null);

            let annotated = json!({"metadata": {"annotations": {"a": "1"}}});
            assert_eq!(api.patch(&format!("{maps}/kept"), "merge", &annotated).await.0, 200);
            assert_eq!(api.patch(&format!("{maps}/free"), "merge", &changed).await.0, 200);
        })
        .await;
    });
}
