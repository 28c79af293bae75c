//! ValidatingAdmissionPolicies: what those of the cluster deny. They are asked about objects that are created and updated.

use cel::Value as Cel;
use http::StatusCode;
use serde_json::{Value, json};

use super::policies::{Bound, Write, bound, evaluate, list};
use crate::{
    http::failure::{self, Failure},
    store::text,
};

/// Asks all policies whether `value` may be written.
///
/// # Errors
///
/// One denies it, or cannot be evaluated and must not fail.
pub fn enforce(write: &Write<'_>, value: &Value) -> failure::Result<()> {
    for policy in bound(write.tables, "validatingadmissionpolicies") {
        let denies = list(&policy.binding["validationActions"]).any(|action| action == "Deny");
        let why = match policy.refusal(write, value) {
            Ok(None) => continue,
            Ok(Some(why)) => why,
            Err(why) if policy.ignores_failures() => {
                tracing::warn!(policy = policy.name, why, "a validating policy failed and is ignored");
                continue;
            }
            Err(why) => why,
        };
        if denies {
            return Err(denied(&policy, write, text(&value["metadata"]["name"]), &why));
        }
    }
    Ok(())
}

fn denied(policy: &Bound<'_>, write: &Write<'_>, name: &str, why: &str) -> Failure {
    let (policy, binding) = (text(&policy.binding["policyName"]), policy.name);
    let why = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}");
    let mut failure = Failure::forbidden(write.kind, name, &why);
    // The default of a validation without `reason`.
    (failure.code, failure.reason) = (StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
    failure.details["causes"] = json!([{"message": why}]);
    failure
}

// === impl Bound ===

impl Bound<'_> {
    /// Why it refuses the write; `None`: it does not.
    fn refusal(&self, write: &Write<'_>, value: &Value) -> Result<Option<String>, String> {
        let Some(context) = self.context(write, value)? else { return Ok(None) };
        for validation in list(&self.policy["validations"]) {
            let expression = text(&validation["expression"]);
            if evaluate(expression, &context)? != Cel::Bool(true) {
                let message = text(&validation["message"]);
                let message = if message.is_empty() {
                    format!("failed expression: {expression}")
                } else {
                    message.to_owned()
                };
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}
