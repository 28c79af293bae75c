//! Kinds that CustomResourceDefinitions bring.

use serde_json::{Value, json};

use super::{Kind, ScalePaths};
use crate::store::text;

/// One kind for each version that the definition serves, the newest first as discovery prefers it.
pub(super) fn kinds(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let kind = text(&names["kind"]).to_owned();
    let list = names["listKind"].as_str().map_or_else(|| format!("{kind}List"), str::to_owned);
    let singular = names["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned);
    let versions = spec["versions"].as_array().cloned().unwrap_or_default();
    versions
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| {
            let scale = &version["subresources"]["scale"];
            Kind {
                group: text(&spec["group"]).to_owned(),
                version: text(&version["name"]).to_owned(),
                plural: text(&names["plural"]).to_owned(),
                singular: singular.clone(),
                kind: kind.clone(),
                list: list.clone(),
                short: words(&names["shortNames"]),
                categories: words(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                status: version["subresources"]["status"].is_object(),
                scale: scale.is_object().then(|| ScalePaths {
                    spec: pointer(text(&scale["specReplicasPath"])),
                    status: pointer(text(&scale["statusReplicasPath"])),
                    selector: scale["labelSelectorPath"].as_str().map(pointer),
                }),
                custom: true,
                generation: true,
                ..Kind::default()
            }
        })
        .collect()
}

/// `.spec.replicas` as the JSON pointer `/spec/replicas`.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// The status of a definition: it is served from the moment it is there.
pub fn definition_status(definition: &Value, now: &str) -> Value {
    let names = definition["spec"]["names"].clone();
    let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let stored: Vec<&Value> = versions
        .iter()
        .filter(|version| version["storage"] == true)
        .map(|version| &version["name"])
        .collect();
    json!({
        "acceptedNames": names,
        "storedVersions": stored,
        "conditions": [
            {
                "type": "NamesAccepted", "status": "True", "reason": "NoConflicts",
                "message": "no conflicts found", "lastTransitionTime": now,
            },
            {
                "type": "Established", "status": "True", "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted", "lastTransitionTime": now,
            },
        ],
    })
}
