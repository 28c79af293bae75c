//! Field selectors: a few fields for each kind, as on the real server.

use serde_json::Value;

use crate::{
    http::failure::{Failure, Result},
    registry::Kind,
};

/// What fields must be.
#[derive(Debug, Clone, Default)]
pub struct FieldSelector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    /// JSON pointer into an object as it is stored.
    pointer: String,
    field: String,
    equal: bool,
    value: String,
}

// === impl FieldSelector ===

impl FieldSelector {
    /// Parses `metadata.name=web,status.phase!=Running` for a kind.
    ///
    /// # Errors
    ///
    /// It is none, or the kind's objects cannot be selected by that field.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self> {
        let mut all = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                return Err(Failure::bad_request(format!("invalid field selector {part:?}")));
            };
            let stored = stored(kind, field)
                .ok_or_else(|| Failure::bad_request(format!("field label not supported: {field}")))?;
            let pointer = format!("/{}", stored.replace('.', "/"));
            all.push(Requirement { pointer, field: field.to_owned(), equal, value: value.to_owned() });
        }
        Ok(Self(all))
    }

    /// Whether an object's fields are so.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let held = object.pointer(&requirement.pointer);
            let is = match held {
                Some(Value::String(text)) => *text == requirement.value,
                None | Some(Value::Null) => {
                    requirement.value.is_empty()
                        || (requirement.value == "false" && requirement.field == "spec.unschedulable")
                }
                Some(Value::Number(number)) => number.to_string() == requirement.value,
                Some(Value::Bool(held)) => requirement.value.parse() == Ok(*held),
                Some(_) => false,
            };
            is == requirement.equal
        })
    }
}

/// Where a field that objects can be selected by is stored; `None`: they cannot.
fn stored(kind: &Kind, field: &str) -> Option<String> {
    if field == "metadata.name" || (field == "metadata.namespace" && kind.namespaced) {
        return Some(field.to_owned());
    }
    let known: &[&str] = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("apps", "replicasets") | ("", "replicationcontrollers") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("", "events") if field == "source" => return Some("source.component".to_owned()),
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "type",
        ],
        ("events.k8s.io", "events") => {
            let stored = field.replace("regarding.", "involvedObject.");
            let stored = if stored == "reportingController" { "reportingComponent".into() } else { stored };
            let known = stored.starts_with("involvedObject.")
                || ["reason", "reportingComponent", "type"].contains(&stored.as_str());
            return known.then_some(stored);
        }
        _ => &[],
    };
    known.contains(&field).then(|| field.to_owned())
}
