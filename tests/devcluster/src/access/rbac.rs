//! Role-based access, evaluated on the roles and bindings that are in the store.

use serde_json::Value;

use super::User;
use crate::{
    http::{
        failure::{Failure, Result},
        request::Target,
    },
    registry::Kind,
    store::{Key, TableId, Tables, text},
};

/// API group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";
/// Paths that are no resources and that everybody with a token may read.
const DISCOVERY: [&str; 7] = ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];

/// Whether the user may do this; a `Forbidden` as the real server words it if not.
///
/// # Errors
///
/// He may not.
pub fn check(tables: &Tables, user: &User, target: &Target, path: &str) -> Result<()> {
    if allowed(tables, user, target, path) {
        return Ok(());
    }
    if target.resource.is_empty() {
        return Err(Failure::forbidden_path(&user.to_string(), target.verb, path));
    }
    let scope = if target.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", target.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        user.to_string(),
        target.verb,
        target.full_resource(),
        target.group,
    );
    let kind = Kind::named(&target.group, "", &target.resource);
    Err(Failure::forbidden(&kind, target.named(), &why))
}

/// Whether the user may do this.
pub fn allowed(tables: &Tables, user: &User, target: &Target, path: &str) -> bool {
    if *user == User::Admin {
        return true;
    }
    if target.resource.is_empty() {
        let below =
            |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let open = target.verb == "get" && (path == "/" || DISCOVERY.iter().any(|root| below(root)));
        return open || rules(tables, user, "").any(|rule| allows_path(&rule, target.verb, path));
    }
    // Everybody may ask what he himself may do.
    if target.group == "authorization.k8s.io" && target.resource.starts_with("self") {
        return true;
    }
    rules(tables, user, &target.namespace).any(|rule| allows(&rule, target))
}

/// The rules that a user has in a namespace: those of the cluster, and the namespace's own.
fn rules<'a>(tables: &'a Tables, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Value> + 'a {
    let bindings = |plural: &str| {
        tables.table(&TableId::new(GROUP, plural)).into_iter().flat_map(|table| &table.objects)
    };
    let cluster = bindings("clusterrolebindings").map(|(_, binding)| (binding, ""));
    let local = bindings("rolebindings")
        .filter(move |(key, _)| !namespace.is_empty() && key.namespace == namespace)
        .map(move |(_, binding)| (binding, namespace));
    cluster
        .chain(local)
        .filter(move |(binding, home)| names(&binding.value["subjects"], user, home))
        .flat_map(move |(binding, home)| {
            let role = &binding.value["roleRef"];
            let name = text(&role["name"]);
            let (table, key) = if role["kind"] == "Role" {
                (TableId::new(GROUP, "roles"), Key::new(home, name))
            } else {
                (TableId::new(GROUP, "clusterroles"), Key::new("", name))
            };
            let rules = tables.get(&table, &key).map(|role| role.value["rules"].clone());
            match rules {
                Some(Value::Array(rules)) => rules,
                _ => Vec::new(),
            }
        })
}

/// Whether a binding's subjects name the user.
fn names(subjects: &Value, user: &User, home: &str) -> bool {
    let groups = user.groups();
    subjects.as_array().into_iter().flatten().any(|subject| {
        let name = text(&subject["name"]);
        match text(&subject["kind"]) {
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().unwrap_or(home);
                *user == User::service_account(namespace, name)
            }
            "Group" => groups.iter().any(|group| group == name),
            _ => user.to_string() == name,
        }
    })
}

fn allows(rule: &Value, target: &Target) -> bool {
    has(&rule["verbs"], &[target.verb])
        && has(&rule["apiGroups"], &[&target.group])
        && has_resource(&rule["resources"], target)
        && (rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
            || (!target.named().is_empty() && lists(&rule["resourceNames"], target.named())))
}

fn has_resource(resources: &Value, target: &Target) -> bool {
    has(resources, &[&target.full_resource()])
        || (!target.subresource.is_empty() && lists(resources, &format!("*/{}", target.subresource)))
}

fn allows_path(rule: &Value, verb: &str, path: &str) -> bool {
    let paths = rule["nonResourceURLs"].as_array().into_iter().flatten();
    let fits = |pattern: &str| {
        pattern == path || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
    };
    has(&rule["verbs"], &[verb]) && paths.filter_map(Value::as_str).any(fits)
}

/// Whether the list has one of them, or `*`.
fn has(list: &Value, any: &[&str]) -> bool {
    lists(list, "*") || any.iter().any(|one| lists(list, one))
}

fn lists(list: &Value, one: &str) -> bool {
    list.as_array().into_iter().flatten().any(|entry| entry == one)
}
