//! Strategic merge patch, as far as kubectl and our tests use it: maps are merged, and lists whose entries have a key are merged by it.

use serde_json::{Map, Value};

/// Lists that are merged, and the field that says which entry is which.
const KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("imagePullSecrets", "name"),
    ("ownerReferences", "uid"),
    ("conditions", "type"),
    ("ports", ""),
];
/// Lists of plain values that are merged as sets.
const SETS: &[&str] = &["finalizers"];

/// `value` with `patch` merged into it.
pub fn strategic(value: &Value, patch: &Value) -> Value {
    let Some(fields) = patch.as_object() else { return patch.clone() };
    if fields.get("$patch").is_some_and(|directive| directive == "replace") {
        return without_directives(fields);
    }
    let mut merged = value.as_object().cloned().unwrap_or_else(Map::new);
    for (name, change) in fields {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(held)), Some(gone)) = (merged.get_mut(list), change.as_array()) {
                held.retain(|one| !gone.contains(one));
            }
        } else if name.starts_with('$') {
            // Orders of lists, and which keys are retained: nothing here depends on them.
        } else if change.is_null() || change["$patch"] == "delete" {
            merged.remove(name);
        } else {
            let held = merged.get(name).unwrap_or(&Value::Null);
            let new = match change {
                Value::Array(changes) => list(name, held, changes),
                _ => strategic(held, change),
            };
            merged.insert(name.clone(), new);
        }
    }
    Value::Object(merged)
}

fn without_directives(fields: &Map<String, Value>) -> Value {
    let kept = fields.iter().filter(|(name, _)| !name.starts_with('$'));
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn list(name: &str, held: &Value, changes: &[Value]) -> Value {
    let old = held.as_array().cloned().unwrap_or_default();
    if SETS.contains(&name) {
        let mut all = old;
        all.extend(
            changes.iter().filter(|one| !held.as_array().is_some_and(|held| held.contains(one))).cloned(),
        );
        return Value::Array(all);
    }
    let Some((_, key)) = KEYS.iter().find(|(list, _)| *list == name) else {
        return Value::Array(changes.to_vec());
    };
    // A Service's ports are merged by `port`, a container's by `containerPort`.
    let key = match (*key, changes.first()) {
        ("", Some(first)) if first.get("containerPort").is_some() => "containerPort",
        ("", _) => "port",
        (key, _) => key,
    };
    if changes.iter().any(|change| change["$patch"] == "replace") {
        return Value::Array(
            changes.iter().filter(|change| change.get("$patch").is_none()).cloned().collect(),
        );
    }
    let mut all = old;
    for change in changes {
        let at = all.iter().position(|one| one.get(key).is_some() && one.get(key) == change.get(key));
        match (at, change["$patch"] == "delete") {
            (Some(at), true) => drop(all.remove(at)),
            (None, true) => {}
            (Some(at), false) => all[at] = strategic(&all[at], change),
            (None, false) => all.push(change.clone()),
        }
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_merged_by_name() {
        let held = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}],
        }});
        let merged = json!({"spec": {"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}]},
            {"name": "c"},
        ]}});
        assert_eq!(strategic(&held, &patch), merged);
    }

    #[test]
    fn maps_are_merged_and_null_removes() {
        let held = json!({"metadata": {"annotations": {"a": "1", "b": "2"}}});
        let patch = json!({"metadata": {"annotations": {"a": null, "c": "3"}}});
        assert_eq!(strategic(&held, &patch), json!({"metadata": {"annotations": {"b": "2", "c": "3"}}}));
    }
}
