//! Objects field by field, before and after.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;

use super::Shop;

/// What the API itself counts, and what is seen instead of wanted.
const NOT_COMPARED: [&str; 4] =
    ["/metadata/resourceVersion", "/metadata/generation", "/metadata/managedFields", "/status"];

/// The Deployments, Services and slices of a namespace, without what changes by itself: slices that the cluster's own
/// controller keeps follow the pods, and are left out.
#[derive(Clone, PartialEq)]
pub struct Snapshot(BTreeMap<String, Value>);

// === impl Snapshot ===

impl Snapshot {
    /// How an object differs in the other snapshot: by its kind and name, the field, and both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        for name in names {
            let [one, another] = [self, other].map(|side| side.0.get(name).unwrap_or(&Value::Null));
            differ(name, one, another, &mut differences);
        }
        differences
    }

    /// Both are equal.
    ///
    /// # Panics
    ///
    /// They are not; the message lists every difference.
    pub fn assert_equal(&self, other: &Self) {
        let differences = self.differences(other);
        assert!(differences.is_empty(), "before != after:\n{}", differences.join("\n"));
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Shop {
    /// The objects of the namespace now.
    pub async fn snapshot(&self) -> Snapshot {
        let kinds = [
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<EndpointSlice>(&()),
        ];
        let mut all = BTreeMap::new();
        for kind in kinds {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.names().namespace, &kind);
            let list = api.list(&ListParams::default()).await.expect("listing the namespace's objects");
            for object in list.items {
                let keeper = object.labels().get("endpointslice.kubernetes.io/managed-by");
                if keeper.is_some_and(|keeper| keeper == "endpointslice-controller.k8s.io") {
                    continue;
                }
                let name = format!("{} {}", kind.kind, object.name_any());
                let mut value = serde_json::to_value(object).unwrap_or_default();
                NOT_COMPARED.iter().for_each(|path| remove(&mut value, path));
                all.insert(name, value);
            }
        }
        Snapshot(all)
    }
}

fn remove(value: &mut Value, path: &str) {
    let Some((parent, field)) = path.rsplit_once('/') else { return };
    if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        fields.remove(field);
    }
}

fn differ(at: &str, one: &Value, other: &Value, differences: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let fields: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for field in fields {
                let [one, other] = [one, other].map(|side| side.get(field).unwrap_or(&Value::Null));
                differ(&format!("{at} /{field}"), one, other, differences);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differ(&format!("{at} /{index}"), one, other, differences);
            }
        }
        _ if one == other => {}
        _ => differences.push(format!("{at}: {one} -> {other}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_difference_is_reported() {
        let snapshot = |value: Value| Snapshot([("Service web".to_owned(), value)].into());
        let before = snapshot(json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        before.assert_equal(&before.clone());
        let after =
            snapshot(json!({"spec": {"selector": {"app": "web", "x": "1"}, "ports": [{"port": 81}]}}));
        let expected =
            ["Service web /spec /ports /0 /port: 80 -> 81", "Service web /spec /selector /x: null -> \"1\""];
        assert_eq!(before.differences(&after), expected);
        assert_eq!(before.differences(&Snapshot(BTreeMap::new())).len(), 1);
    }
}
