//! What each daemon may do, all of it: `rbac/` lists it, so that no right is added by mistake.

use std::{collections::BTreeSet, fs};

use deploy::Release;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use crate::values::{is_hook, of_kind};

/// A right: where, on what, which verb.
type Right = (String, String, String);

/// Everything the roles bound to a daemon's service account allow.
fn rights(objects: &[DynamicObject], account: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for binding in typed::<RoleBinding>(objects, "RoleBinding") {
        if !binding.subjects.unwrap().iter().any(|subject| subject.name == account) {
            continue;
        }
        let namespace = binding.metadata.namespace.unwrap();
        let role = typed::<Role>(objects, "Role").into_iter().find(|role| {
            role.metadata.name.as_ref() == Some(&binding.role_ref.name)
                && role.metadata.namespace.as_ref() == Some(&namespace)
        });
        add(&mut rights, &namespace, role.expect("the bound role").rules.unwrap());
    }
    for binding in typed::<ClusterRoleBinding>(objects, "ClusterRoleBinding") {
        if !binding.subjects.unwrap().iter().any(|subject| subject.name == account) {
            continue;
        }
        let role = typed::<ClusterRole>(objects, "ClusterRole")
            .into_iter()
            .find(|role| role.metadata.name.as_ref() == Some(&binding.role_ref.name));
        add(&mut rights, "(cluster)", role.expect("the bound role").rules.unwrap());
    }
    rights
}

fn add(rights: &mut BTreeSet<Right>, place: &str, rules: Vec<PolicyRule>) {
    for rule in rules {
        assert_eq!(rule.non_resource_urls, None);
        let names = rule.resource_names.map(|names| format!(" {}", names.join(","))).unwrap_or_default();
        for group in rule.api_groups.unwrap() {
            let group = if group.is_empty() { group } else { format!("{group}/") };
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert((place.to_owned(), format!("{group}{resource}{names}"), verb.clone()));
                }
            }
        }
    }
}

fn typed<T: DeserializeOwned>(objects: &[DynamicObject], kind: &str) -> Vec<T> {
    let typed = |object: &&DynamicObject| {
        serde_json::to_value(object).and_then(serde_json::from_value).expect("an object of its kind")
    };
    of_kind(objects, kind).iter().map(typed).collect()
}

/// One line per place and resource: `shop  apps/deployments: get list patch watch`.
fn listing(rights: &BTreeSet<Right>) -> String {
    let mut lines = Vec::<((&str, &str), Vec<&str>)>::new();
    for (place, resource, verb) in rights {
        match lines.last_mut() {
            Some((key, verbs)) if *key == (place, resource) => verbs.push(verb),
            _ => lines.push(((place, resource), vec![verb])),
        }
    }
    let line = |((place, resource), verbs): &((&str, &str), Vec<&str>)| {
        format!("{place:<9}  {resource}: {}\n", verbs.join(" "))
    };
    lines.iter().map(line).collect()
}

/// The values of each listing.
const LISTED: [(&str, &str); 5] = [
    ("one-namespace", "namespaces: {shop: {}}"),
    ("nothing-intercepted", "namespaces: {shop: {}}\nservicePorts: null"),
    ("all-namespaces", r#"namespaces: {"*": {}}"#),
    ("deletion-cost", "namespaces: {shop: {}}\nautoscaler: {podDeletionCost: true}"),
    (
        "custom-metrics",
        "namespaces: {shop: {metrics: {source: kubernetes, resource: {group: apps, kind: Deployment}}}}\nworkloads: [{group: argoproj.io, plural: rollouts}]",
    ),
];

fn each(mut check: impl FnMut(&str, &str, BTreeSet<Right>)) {
    for (name, values) in LISTED {
        let mut objects = Release { name: "scaler", namespace: "scaler", values }.render();
        objects.retain(|object| !is_hook(object));
        for daemon in ["autoscaler", "dlx"] {
            check(name, daemon, rights(&objects, &format!("scaler-{daemon}")));
        }
    }
}

/// `UPDATE_RIGHTS=1` writes the listings anew.
#[test]
fn each_daemon_may_do_what_is_listed_and_no_more() {
    each(|name, daemon, rights| {
        let path = deploy::root().join(format!("tests/deploy/rbac/{name}.{daemon}.txt"));
        let now = listing(&rights);
        if std::env::var_os("UPDATE_RIGHTS").is_some() {
            fs::write(&path, &now).expect("writing a listing");
        }
        let listed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(now, listed, "{} lists other rights than the chart gives", path.display());
    });
}

#[test]
fn nothing_is_allowed_that_scaling_does_not_need() {
    each(|name, daemon, rights| {
        assert!(rights.len() > 10, "{name}: {daemon} has {} rights", rights.len());
        for (place, resource, verb) in rights {
            let right = format!("{name}: {daemon} in {place}: {verb} {resource}");
            assert!(verb != "*" && verb != "deletecollection" && verb != "escalate", "{right}");
            assert!(!resource.contains('*') || resource == "custom.metrics.k8s.io/*", "{right}");
            assert!(
                !resource.contains("secrets") && !resource.contains("rbac.") && !resource.contains("/exec"),
                "{right}"
            );
            let writes = !["get", "list", "watch"].contains(&verb.as_str());
            let may = match resource.split(' ').next().unwrap_or_default() {
                "apps/deployments" | "apps/statefulsets" | "argoproj.io/rollouts" => verb == "patch",
                "events" | "events.k8s.io/events" => verb == "create" || verb == "patch",
                "coordination.k8s.io/leases" => place == "scaler",
                "pods" if name == "deletion-cost" && daemon == "autoscaler" => {
                    place == "shop" && verb == "patch"
                }
                // The rest is needed to intercept a Service.
                _ if daemon == "dlx" || name == "nothing-intercepted" => false,
                "services" => verb == "patch",
                "discovery.k8s.io/endpointslices" => true,
                "configmaps" if verb == "create" => place == "scaler",
                "configmaps" => place == "scaler" && resource == "configmaps scaler-service-ports",
                _ => false,
            };
            assert!(!writes || may, "{right}");
        }
    });
}
