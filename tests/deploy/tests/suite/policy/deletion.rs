//! What may be deleted of Scaler while a Service is intercepted.

use serde_json::{Value, json};

use super::{Policy, named, policy};
use crate::values::{SETS, is_hook, of_kind, rendered};

/// Whether the API server lets an object be deleted; else its message. `data` is that of the ConfigMap that the policy takes.
fn denied<'a>(
    policy: &'a Policy,
    (group, resource): (&str, &str),
    object: &Value,
    namespace: &Value,
    data: &Value,
) -> Option<&'a str> {
    let request = json!({"operation": "DELETE", "resource": {"group": group, "resource": resource}});
    let given = [("request", &request), ("oldObject", object)];
    if !policy.is_asked("DELETE", group, resource) || !policy.matches(&given) {
        return None;
    }
    let map = json!({"metadata": {"name": "scaler-service-ports", "namespace": "scaler"}});
    let map = if data.is_null() { map } else { super::with(map, "/data", data.clone()) };
    let null = Value::Null;
    let [request, old] = given;
    policy.refuses_with(&[request, old, ("object", &null), ("params", &map), ("namespaceObject", namespace)])
}

fn object(namespace: Option<&str>, name: &str) -> Value {
    let metadata = match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    json!({ "metadata": metadata })
}

fn namespace() -> Value {
    json!({"metadata": {"name": "scaler"}, "status": {"phase": "Active"}})
}

const DEPLOYMENTS: (&str, &str) = ("apps", "deployments");
const ACCOUNTS: (&str, &str) = ("", "serviceaccounts");
const MAPS: (&str, &str) = ("", "configmaps");
const NAMESPACES: (&str, &str) = ("", "namespaces");
const SECRETS: (&str, &str) = ("", "secrets");
const ROLES: (&str, &str) = (RBAC, "roles");
const BINDINGS: (&str, &str) = (RBAC, "rolebindings");
const CLUSTER_ROLES: (&str, &str) = (RBAC, "clusterroles");
const CLUSTER_BINDINGS: (&str, &str) = (RBAC, "clusterrolebindings");
const NETWORK_POLICIES: (&str, &str) = ("networking.k8s.io", "networkpolicies");
const RBAC: &str = "rbac.authorization.k8s.io";

/// What is Scaler's: where, and its name; what is cluster-wide is in no namespace.
const OURS: [((&str, &str), Option<&str>, &str); 13] = [
    (DEPLOYMENTS, Some("scaler"), "scaler-autoscaler"),
    (DEPLOYMENTS, Some("scaler"), "scaler-dlx"),
    (ACCOUNTS, Some("scaler"), "scaler-autoscaler"),
    (ACCOUNTS, Some("scaler"), "scaler-dlx"),
    (MAPS, Some("scaler"), "scaler-service-ports"),
    (MAPS, Some("scaler"), "scaler-namespaces"),
    (SECRETS, Some("scaler"), "scaler-admin-token"),
    (ROLES, Some("scaler"), "scaler-autoscaler-members"),
    (BINDINGS, Some("scaler"), "scaler-dlx"),
    (CLUSTER_ROLES, None, "scaler-scaler-dlx"),
    (CLUSTER_BINDINGS, None, "scaler-scaler-autoscaler"),
    (NETWORK_POLICIES, Some("scaler"), "scaler-dlx"),
    (NAMESPACES, None, "scaler"),
];

#[test]
fn nothing_of_scaler_is_deleted_while_a_service_is_intercepted() {
    let policy = policy("deletion");
    for (resource, at, name) in OURS {
        let (ours, around) = (object(at, name), if at.is_some() { namespace() } else { Value::Null });
        let denied = |data: Value| denied(&policy, resource, &ours, &around, &data);
        for count in ["1", "250"] {
            let why = denied(json!({"intercepted": count, "20000": "{}"})).unwrap_or_default();
            let mut rest = why;
            // In the order in which they are to be done.
            for step in [
                "helm -n scaler get manifest scaler | kubectl apply -f -",
                "kubectl apply -f cluster.yaml -f scaler.yaml",
                "the Job scaler-restore",
                "helm -n scaler get hooks scaler | kubectl apply -f -",
                "kubectl apply -f restore.yaml",
                "annotate it with scaler.dev/force-delete=true",
            ] {
                let found = rest.split_once(step).map(|(_, after)| after);
                rest = found
                    .unwrap_or_else(|| panic!("{resource:?} {name}, {count}: {step:?} is not in {why:?}"));
            }
        }
        for none in [json!({"intercepted": "0", "20000": "{}"}), json!({"20000": "{}"}), Value::Null] {
            assert_eq!(denied(none.clone()), None, "{resource:?} {name}: {none}");
        }
    }
}

#[test]
fn what_is_forced_or_goes_with_its_namespace_is_deleted() {
    let policy = policy("deletion");
    let some = json!({"intercepted": "1"});
    for (resource, at, name) in OURS {
        let around = if at.is_some() { namespace() } else { Value::Null };
        for (annotations, allowed) in [
            (json!({"scaler.dev/force-delete": "true"}), true),
            (json!({"scaler.dev/force-delete": "false"}), false),
            (json!({"team": "a"}), false),
        ] {
            let ours = super::with(object(at, name), "/metadata/annotations", annotations.clone());
            let why = denied(&policy, resource, &ours, &around, &some);
            assert_eq!(why.is_none(), allowed, "{resource:?} {name}: {annotations}");
        }
        let ending = super::with(namespace(), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
        if at.is_some() {
            assert_eq!(denied(&policy, resource, &object(at, name), &ending, &some), None, "{name}");
        }
    }
}

#[test]
fn everything_else_is_deleted_by_whoever_may() {
    let policy = policy("deletion");
    let some = json!({"intercepted": "1"});
    for (resource, at, name) in [
        (DEPLOYMENTS, Some("scaler"), "web"),
        (DEPLOYMENTS, Some("shop"), "scaler-dlx"),
        (ACCOUNTS, Some("scaler"), "default"),
        (ACCOUNTS, Some("shop"), "scaler-dlx"),
        (MAPS, Some("scaler"), "kube-root-ca.crt"),
        (MAPS, Some("shop"), "scaler-service-ports"),
        (SECRETS, Some("scaler"), "web"),
        (SECRETS, Some("shop"), "scaler-admin-token"),
        (ROLES, Some("scaler"), "scaler-restore"),
        (BINDINGS, Some("scaler"), "scaler-restore"),
        (ROLES, Some("shop"), "scaler-dlx"),
        (CLUSTER_ROLES, None, "scaler-dlx"),
        (NETWORK_POLICIES, Some("scaler"), "web"),
        (NAMESPACES, None, "shop"),
    ] {
        let around = if at.is_some() { namespace() } else { Value::Null };
        assert_eq!(denied(&policy, resource, &object(at, name), &around, &some), None, "{resource:?} {name}");
    }
    for operation in ["CREATE", "UPDATE"] {
        for ((group, resource), ..) in OURS {
            assert!(!policy.is_asked(operation, group, resource), "{operation} {resource}");
        }
    }
}

/// A mistake in it, or a missing ConfigMap, prevents no deletion.
#[test]
fn it_fails_open_and_takes_its_number_from_the_config_map_of_its_own_namespace() {
    assert_eq!(policy("deletion").failure_policy, "Ignore");
    let objects = rendered("");
    let policy: Value = named(&objects, "ValidatingAdmissionPolicy", "scaler-scaler-deletion");
    assert_eq!(policy["spec"]["paramKind"], json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    let binding: Value = named(&objects, "ValidatingAdmissionPolicyBinding", "scaler-scaler-deletion");
    let param =
        json!({"name": "scaler-service-ports", "namespace": "scaler", "parameterNotFoundAction": "Allow"});
    assert_eq!(binding["spec"]["paramRef"], param);
    assert_eq!(policy["spec"]["validations"][0]["reason"], "Forbidden");
}

/// The names are those that the release has. What the hook brings is deleted by helm, and everything else after it.
#[test]
fn everything_that_scaler_and_its_restore_need_is_protected_and_nothing_of_the_hook() {
    for (name, values) in SETS {
        let objects = rendered(values);
        let policies = of_kind(&objects, "ValidatingAdmissionPolicy").into_iter();
        let mut names = policies.map(|object| object.metadata.name.as_deref().unwrap());
        let called = names.find(|name| name.ends_with("-deletion"));
        assert_eq!(called.is_some(), name != "everything off", "{name}");
        let Some(called) = called else { continue };
        let policy = super::policy_of(&objects, called);
        let is_denied = |resource, object: &Value, count: &str| {
            let around = match object["metadata"]["namespace"].as_str() {
                Some(_) => namespace(),
                None => Value::Null,
            };
            denied(&policy, resource, object, &around, &json!({ "intercepted": count })).is_some()
        };
        let mut kept = 0;
        for object in &objects {
            let resource = match object.types.as_ref().unwrap().kind.as_str() {
                "Deployment" => DEPLOYMENTS,
                "ServiceAccount" => ACCOUNTS,
                "ConfigMap" => MAPS,
                "Secret" => SECRETS,
                "Role" => ROLES,
                "RoleBinding" => BINDINGS,
                "ClusterRole" => CLUSTER_ROLES,
                "ClusterRoleBinding" => CLUSTER_BINDINGS,
                "NetworkPolicy" => NETWORK_POLICIES,
                "Job" => ("batch", "jobs"),
                kind => {
                    assert_ne!(kind, "Namespace", "{name}");
                    continue;
                }
            };
            // Scaler does not need its dashboard.
            let is_dashboard = object.metadata.name.as_deref().unwrap().ends_with("-dashboard");
            let ours = !is_hook(object) && !is_dashboard;
            let value = serde_json::to_value(object).unwrap();
            assert_eq!(is_denied(resource, &value, "1"), ours, "{name}: {resource:?} {:?}", object.metadata);
            assert!(!is_denied(resource, &value, "0"), "{name}: {:?}", object.metadata.name);
            kept += usize::from(ours);
        }
        // Two Deployments, accounts and NetworkPolicies; of each daemon two pairs of rights, and one ConfigMap.
        assert!(kept >= 15, "{name}: {kept}");
        // What its pod mounts, whichever object it comes from.
        let [job] = &of_kind(&objects, "Job")[..] else { panic!("{name}: one Job") };
        for volume in job.data["spec"]["template"]["spec"]["volumes"].as_array().unwrap() {
            let (resource, taken) = match (&volume["configMap"]["name"], &volume["secret"]["secretName"]) {
                (Value::String(map), _) => (MAPS, map),
                (_, Value::String(secret)) => (SECRETS, secret),
                _ => continue,
            };
            assert!(is_denied(resource, &object(Some("scaler"), taken), "1"), "{name}: {taken}");
        }
    }
    let off = rendered("admissionPolicy: {protectFromDeletion: false}");
    assert_eq!(of_kind(&off, "ValidatingAdmissionPolicy").len(), 5);
}
