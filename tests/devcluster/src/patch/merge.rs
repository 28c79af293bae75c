//! JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

/// `value` with `patch` merged into it: `null` removes.
pub fn merge(value: &Value, patch: &Value) -> Value {
    let Some(fields) = patch.as_object() else { return patch.clone() };
    let mut merged = value.as_object().cloned().unwrap_or_else(Map::new);
    for (name, change) in fields {
        if change.is_null() {
            merged.remove(name);
        } else {
            let new = merge(merged.get(name).unwrap_or(&Value::Null), change);
            merged.insert(name.clone(), new);
        }
    }
    Value::Object(merged)
}
