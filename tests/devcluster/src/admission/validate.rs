//! What an object must be, as far as somebody depends on being refused.

use serde_json::Value;

use crate::{http::failure::Cause, registry::Kind};

/// Everything that is wrong with an object; `old` is what it replaces.
pub fn validate(_kind: &Kind, _value: &Value, _old: Option<&Value>) -> Vec<Cause> {
    Vec::new()
}
