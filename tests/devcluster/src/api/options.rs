//! The parameters of a request: what is unknown, or does not go together, is refused before anything is done.

use serde_json::{Value, json};

use super::Call;
use crate::{
    http::failure::{Cause, Failure, Result},
    registry::Kind,
};

/// What is known of a deletion's dependents.
const PROPAGATIONS: [&str; 3] = ["Background", "Foreground", "Orphan"];

/// Refuses parameters that cannot be meant.
pub(super) fn check(call: &Call<'_>) -> Result<()> {
    let query = &call.request.query;
    let (kind, causes) = match call.request.target.verb {
        "create" => ("CreateOptions", written(call)),
        "update" => ("UpdateOptions", written(call)),
        "patch" => ("PatchOptions", written(call)),
        "delete" | "deletecollection" => ("DeleteOptions", deleted(call)?),
        "list" => ("ListOptions", listed(call)),
        "watch" => ("ListOptions", watched(call)),
        _ => return Ok(()),
    };
    if !causes.is_empty() {
        return Err(Failure::invalid(&Kind::named("meta.k8s.io", kind, ""), "", &causes));
    }
    let version = query.get("resourceVersion").is_some_and(|version| version != "0");
    if call.request.target.verb == "list" && version && query.get("continue").is_some() {
        return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(())
}

fn written(call: &Call<'_>) -> Vec<Cause> {
    let query = &call.request.query;
    let mut causes = Vec::new();
    dry(query.get("dryRun"), &mut causes);
    let validation = query.get("fieldValidation").unwrap_or_default();
    if !matches!(validation, "" | "Ignore" | "Warn" | "Strict") {
        let known = ["", "Ignore", "Strict", "Warn"];
        causes.push(Cause::unsupported("fieldValidation", &json!(validation), &known));
    }
    causes
}

/// Whether a body or the query asks for a dry run of a deletion.
pub(super) fn deletes_dry(call: &Call<'_>, body: &Value) -> bool {
    call.dry() || body["dryRun"].as_array().is_some_and(|all| !all.is_empty())
}

fn deleted(call: &Call<'_>) -> Result<Vec<Cause>> {
    let (body, query) = (call.request.json()?, &call.request.query);
    let mut causes = Vec::new();
    let given = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for one in given.chain(query.get("dryRun")) {
        dry(Some(one), &mut causes);
    }
    let propagation = body["propagationPolicy"].as_str().or_else(|| query.get("propagationPolicy"));
    if let Some(other) = propagation.filter(|given| !PROPAGATIONS.contains(given)) {
        causes.push(Cause::unsupported("propagationPolicy", &json!(other), &PROPAGATIONS));
    }
    Ok(causes)
}

fn dry(given: Option<&str>, causes: &mut Vec<Cause>) {
    if let Some(other) = given.filter(|given| *given != "All") {
        causes.push(Cause::unsupported("dryRun", &json!([other]), &["All"]));
    }
}

fn listed(call: &Call<'_>) -> Vec<Cause> {
    const MATCH: &str = "resourceVersionMatch";
    let query = &call.request.query;
    let mut causes = Vec::new();
    if let Some(given) = query.get(MATCH) {
        if query.get("resourceVersion").is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.push(Cause::forbidden(MATCH, why));
        }
        if query.get("continue").is_some() {
            causes
                .push(Cause::forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(given, "Exact" | "NotOlderThan") {
            causes.push(Cause::unsupported(MATCH, &json!(given), &["Exact", "NotOlderThan", ""]));
        }
        if given == "Exact" && query.get("resourceVersion") == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.push(Cause::forbidden(MATCH, why));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        causes.push(Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    causes
}

fn watched(call: &Call<'_>) -> Vec<Cause> {
    const MATCH: &str = "resourceVersionMatch";
    let query = &call.request.query;
    let (given, initial) = (query.get(MATCH), query.get("sendInitialEvents").is_some());
    let mut causes = Vec::new();
    if initial && given != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        causes.push(Cause::forbidden(MATCH, why));
    }
    let Some(given) = given else { return causes };
    if !initial {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        causes.push(Cause::forbidden(MATCH, why));
    }
    if given != "NotOlderThan" {
        causes.push(Cause::unsupported(MATCH, &json!(given), &["NotOlderThan"]));
    }
    causes
}
