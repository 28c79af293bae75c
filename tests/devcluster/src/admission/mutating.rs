//! MutatingAdmissionPolicies: what those of the cluster make of an update. Their expressions are evaluated, `JSONPatch{}` included.

use cel::Value as Cel;
use serde_json::Value;

use super::policies::{Bound, Write, bound, cel, evaluate, list, served};
use crate::{
    http::failure::{self, Failure},
    patch,
    store::text,
};

/// What the policies make of `value`, which is to be written. Each is asked once, in the order of their bindings' names.
///
/// # Errors
///
/// One that must not fail cannot be evaluated.
pub fn mutate(write: &Write<'_>, mut value: Value) -> failure::Result<Value> {
    for policy in bound(write.tables, "mutatingadmissionpolicies") {
        match policy.mutate(write, &value) {
            Ok(Some(changed)) => value = changed,
            Ok(None) => {}
            Err(why) if policy.ignores_failures() => {
                tracing::warn!(policy = policy.name, why, "a mutating policy failed and is ignored");
            }
            Err(why) => {
                let why = format!("{}: {why}", policy.name);
                return Err(Failure::forbidden(write.kind, &write.request.target.name, &why));
            }
        }
    }
    Ok(value)
}

// === impl Bound ===

impl Bound<'_> {
    /// The changed object; `None`: it leaves it as it is.
    fn mutate(&self, write: &Write<'_>, value: &Value) -> Result<Option<Value>, String> {
        let Some(mut context) = self.context(write, value)? else { return Ok(None) };
        let mut changed = value.clone();
        for mutation in list(&self.policy["mutations"]) {
            let expression = text(&mutation["jsonPatch"]["expression"]);
            if expression.is_empty() {
                return Err("only mutations by jsonPatch are known here".to_owned());
            }
            let operations = operations(&evaluate(expression, &context)?)?;
            changed = patch::json(&changed, &Value::from(operations).to_string(), false)
                .map_err(|why| format!("{why:?}"))?;
            context.add_variable_from_value("object", cel(&served(write.kind, &changed)));
        }
        Ok(Some(changed))
    }
}

/// The operations of a JSON patch.
fn operations(list: &Cel) -> Result<Vec<Value>, String> {
    let Cel::List(all) = list else { return Err(format!("a list of JSONPatch was expected: {list:?}")) };
    let operation = |one: &Cel| {
        let Cel::Struct(one) = one else { return Err(format!("a JSONPatch was expected: {one:?}")) };
        let fields = one.field_values().into_iter().map(|(name, value)| {
            let value = Cel::try_from(&*value).map_err(|error| error.to_string())?;
            Ok((name, value.json().map_err(|error| error.to_string())?))
        });
        fields.collect::<Result<serde_json::Map<_, _>, String>>().map(Value::Object)
    };
    all.iter().map(operation).collect()
}
