//! What an Event must be. By `events.k8s.io` more than by the core group, where it may be one of an older kind.

use serde_json::{Value, json};

use super::names;
use crate::{http::failure::Cause, registry::Kind, store::text};

/// The longest names of reporter, action and reason.
const LONGEST: usize = 128;
/// The longest message.
const MESSAGE: usize = 1024;
/// What a repetition leaves as it was.
const FIXED: [&str; 11] = [
    "action",
    "count",
    "firstTimestamp",
    "involvedObject",
    "lastTimestamp",
    "message",
    "reason",
    "related",
    "reportingComponent",
    "reportingInstance",
    "type",
];

/// `value` and `old` are as the core group has them; the fields are called as there, whatever they are in the request.
pub(super) fn event(kind: &Kind, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let (of, its) = (&value["involvedObject"]["namespace"], text(&value["metadata"]["namespace"]));
    // What is in no namespace has its Events in one of these.
    let cluster_wide = text(of).is_empty() && matches!(its, "default" | "kube-system");
    if text(of) != its && !cluster_wide {
        causes.push(Cause::invalid("involvedObject.namespace", of, "does not match event.namespace"));
    }
    if !value["eventTime"].is_null() {
        new_kind(kind, value, causes);
    }
    if kind.group.is_empty() {
        return;
    }
    if value["series"] != old.map_or(Value::Null, |old| old["series"].clone()) {
        series(&value["series"], causes);
    }
    let Some(old) = old else { return created(value, causes) };
    for field in FIXED {
        if old.get(field) != value.get(field) {
            causes.push(Cause::invalid(field, &value[field], "field is immutable"));
        }
    }
}

fn new_kind(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    let controller = if kind.group.is_empty() { "reportingComponent" } else { "reportingController" };
    let who = text(&value["reportingComponent"]);
    if who.is_empty() {
        causes.push(Cause::required(controller, ""));
    } else if !names::is_qualified(who) {
        causes.push(Cause::invalid(controller, &json!(who), names::QUALIFIED));
    }
    for field in ["reportingInstance", "action", "reason"] {
        match text(&value[field]).len() {
            0 => causes.push(Cause::required(field, "")),
            length => longest(field, length, LONGEST, causes),
        }
    }
    longest("message", text(&value["message"]).len(), MESSAGE, causes);
}

fn longest(field: &str, length: usize, most: usize, causes: &mut Vec<Cause>) {
    if length > most {
        causes.push(Cause::invalid(field, &json!(""), &format!("can have at most {most} characters")));
    }
}

fn series(series: &Value, causes: &mut Vec<Cause>) {
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or_default() < 2 {
        causes.push(Cause::invalid("series.count", &json!(""), "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        causes.push(Cause::required("series.lastObservedTime", ""));
    }
}

fn created(value: &Value, causes: &mut Vec<Cause>) {
    if value["eventTime"].is_null() {
        causes.push(Cause::required("eventTime", ""));
    }
    let kind = text(&value["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        causes.push(Cause::invalid("type", &json!(""), &format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if value.get(field).is_some_and(|value| !value.is_null()) {
            causes.push(Cause::invalid(field, &json!(""), "needs to be unset"));
        }
    }
}
