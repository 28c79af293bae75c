//! What there is to ask for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{openapi, review::REVIEWS};
use crate::{
    custom_metrics,
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
        request::Request,
    },
    registry::{Kind, Kinds},
    server::Server,
};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];

pub(super) fn answer(server: &Arc<Server>, request: &Request) -> Result<Answer> {
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    let kinds = server.registry.kinds();
    let value = match parts.as_slice() {
        ["version"] => version(),
        ["healthz" | "livez" | "readyz", ..] => return Ok(answer::json_text("ok".into())),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["api", "v1"] => resources(&kinds, "", "v1").ok_or_else(Failure::no_such_path)?,
        ["apis"] => {
            let groups: Vec<Value> = groups(server, &kinds);
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let mut group = groups(server, &kinds)
                .into_iter()
                .find(|group| group["name"] == *name)
                .ok_or_else(Failure::no_such_path)?;
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["apis", custom_metrics::GROUP, version]
            if server.options.custom_metrics && custom_metrics::VERSIONS.contains(version) =>
        {
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": format!("{}/{version}", custom_metrics::GROUP),
                "resources": server.custom_metrics.resources(),
            })
        }
        ["openapi", "v2"] => return Ok(openapi::empty()),
        ["openapi", ..] => openapi::answer(&parts, &kinds)?,
        ["apis", group, version] => resources(&kinds, group, version).ok_or_else(Failure::no_such_path)?,
        _ => return Err(Failure::no_such_path()),
    };
    Ok(answer::json(&value))
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": "v1.33.0+devcluster",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2025-04-23T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

fn groups(server: &Server, kinds: &Kinds) -> Vec<Value> {
    let mut all = kinds.groups();
    for (group, ..) in REVIEWS {
        if !all.iter().any(|(known, _)| *known == group) {
            all.push((group, vec!["v1"]));
        }
    }
    if server.options.custom_metrics {
        all.push((custom_metrics::GROUP, custom_metrics::VERSIONS.to_vec()));
    }
    all.into_iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
                .collect();
            json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
        })
        .collect()
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in kinds.all.iter().filter(|kind| kind.group == group && kind.version == version) {
        list.extend(entries(kind));
    }
    for (_, kind, plural, namespaced) in REVIEWS.iter().filter(|(of, ..)| *of == group && version == "v1") {
        list.push(json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind,
            "verbs": ["create"],
        }));
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// A resource and its subresources.
fn entries(kind: &Kind) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": VERBS,
    });
    for (field, words) in [("shortNames", &kind.short), ("categories", &kind.categories)] {
        if !words.is_empty() {
            main[field] = json!(words);
        }
    }
    let part = |name: &str, group: &str, version: &str, of: &str, verbs: &[&str]| {
        let mut part = json!({
            "name": format!("{}/{name}", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": of,
            "verbs": verbs,
        });
        if !group.is_empty() {
            part["group"] = group.into();
            part["version"] = version.into();
        }
        part
    };
    let mut all = vec![main];
    if kind.scale.is_some() {
        all.push(part("scale", "autoscaling", "v1", "Scale", &PART_VERBS));
    }
    if kind.status {
        all.push(part("status", "", "", &kind.kind, &PART_VERBS));
    }
    if kind.is("", "pods") {
        all.push(part("binding", "", "", "Binding", &["create"]));
    }
    if kind.is("", "serviceaccounts") {
        all.push(part("token", "authentication.k8s.io", "v1", "TokenRequest", &["create"]));
    }
    all
}
