//! The rights that the chart gives, each with the comment above it.

use std::fmt::Write as _;

use deploy::{Release, objects};
use serde_json::Value;

use super::{cell, page};

/// One served namespace, beside the daemons' own, and everything that needs a right.
const VALUES: &str =
    "namespaces: {shop: {metrics: {source: kubernetes, resource: {group: apps, kind: Deployment}}}}
autoscaler: {podDeletionCost: true}";

const HEADER: &str = "# Rights

<!-- Written by `cargo xtask reference` from the chart's roles. -->

What the chart allows each daemon, and why. Neither reads Secrets, creates or deletes workloads, or has a wildcard except for the names of
custom metrics. A test fails if a daemon has a right that `tests/deploy/rbac` does not list, and the tests of the daemons in a cluster
run with these rights and no more.

This is with `servicePorts`, with the metric source `kubernetes` and with `autoscaler.podDeletionCost`. Without `servicePorts` the autoscaler
has no right to services beyond `list` and `watch`, and none to endpointslices, networkpolicies, nodes and configmaps. Without
`autoscaler.podDeletionCost`, which is the default, it can only list pods.

RBAC cannot limit which fields a patch changes. The chart's ValidatingAdmissionPolicies do: of a workload each daemon can change
`spec.replicas` and the annotation `scaler.dev/state`, and a DLX replicas only from zero up. Of a Service the autoscaler can only add and
remove the selector key `scaler.dev/intercepted`, and of a pod only the annotation `controller.kubernetes.io/pod-deletion-cost`.
";

/// A rule: what it is for, the verbs and the resources.
struct Rule {
    why: String,
    resources: String,
    verbs: String,
}

/// The rules of a rendered role, each with the comment above it; without one it has that of the rule before it.
fn rules(document: &str) -> Vec<Rule> {
    let (_, text) = document.split_once("\nrules:").expect("rules");
    let (mut comment, mut why) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim_start) {
        if let Some(line) = line.strip_prefix("# ") {
            comment.push(line.to_owned());
        } else if line.starts_with("- apiGroups") {
            let new = std::mem::take(&mut comment).join(" ");
            why.push(if new.is_empty() { why.last().cloned().unwrap_or_default() } else { new });
        }
    }
    let role = objects("a role", document).remove(0);
    let all = role.data["rules"].as_array().expect("rules");
    assert_eq!(all.len(), why.len(), "{document}");
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|one| one.as_str().expect("a text").to_owned()).collect()
    };
    let rule = |(rule, why): (&Value, String)| {
        assert!(!why.is_empty(), "no comment says what this right is for: {rule}");
        let group = list(&rule["apiGroups"]).join("");
        let group = if group.is_empty() { group } else { format!(".{group}") };
        let names = list(&rule["resourceNames"]).join(", ");
        let names = if names.is_empty() { names } else { format!(" `{names}`") };
        let resources: Vec<_> =
            list(&rule["resources"]).iter().map(|one| format!("`{one}{group}`{names}")).collect();
        Rule { why, resources: resources.join(", "), verbs: list(&rule["verbs"]).join(", ") }
    };
    all.iter().zip(why).map(rule).collect()
}

/// Whose a role is, and where it holds; `None`: no role.
fn title(document: &str) -> Option<String> {
    let object = objects("the chart", document).pop()?;
    let scope = match (object.types.as_ref()?.kind.as_str(), object.metadata.namespace.as_deref()) {
        ("ClusterRole", _) => "in the cluster",
        ("Role", Some("shop")) => "in each served namespace",
        ("Role", _) => "in its own namespace",
        _ => return None,
    };
    let name = object.metadata.name?;
    let who = ["autoscaler", "dlx", "restore"].into_iter().find(|who| name.contains(who));
    let who = match who.unwrap_or_else(|| panic!("whose is the role {name}?")) {
        "restore" => "`restore`, the Job of an uninstall".to_owned(),
        daemon => format!("`{daemon}`"),
    };
    Some(format!("{who}, {scope}"))
}

#[test]
fn the_page_of_rights_is_fresh() {
    let release = Release { name: "scaler", namespace: "scaler", values: VALUES };
    let rendered = release.try_render().expect("the chart renders");
    let documents = rendered.split("\n---").map(|document| document.trim_start_matches("---"));
    let mut roles: Vec<_> = documents.filter_map(|document| Some((title(document)?, document))).collect();
    roles.sort();
    assert!(roles.len() > 5, "{} roles", roles.len());
    let mut text = HEADER.to_owned();
    for (title, document) in roles {
        write!(text, "\n## {title}\n\n| resource | verbs | for |\n|---|---|---|\n").expect("a text");
        for Rule { why, resources, verbs } in rules(document) {
            writeln!(text, "| {resources} | {verbs} | {} |", cell(&why)).expect("a text");
        }
    }
    page("rights.md", &text);
}
