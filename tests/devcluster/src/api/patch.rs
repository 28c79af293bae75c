//! Patches.

use http::StatusCode;
use serde_json::Value;

use super::{
    Call, create,
    update::{self, Part},
};
use crate::{
    fields,
    http::{
        answer::{self, Answer},
        failure::{Cause, Failure, Result},
    },
    patch,
    registry::Kind,
    store::text,
};

/// The kinds of patches that are read.
const KNOWN: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                     application/strategic-merge-patch+json";

pub(super) fn patch(call: &Call<'_>, part: Part) -> Result<Answer> {
    let mut tables = call.server.store.lock();
    let kind = &call.kind;
    let Some(old) = tables.get(&kind.table(), &call.key) else {
        if call.request.applies() && part == Part::Main {
            has_manager(call)?;
            update::may_create(call, &tables)?;
            let object = create::insert(call, &mut tables, call.request.json()?)?;
            return Ok(answer::json_with(StatusCode::CREATED, object.text(kind)));
        }
        return Err(Failure::not_found(kind, &call.key.name));
    };
    let mut value = apply(call, &old.served(kind))?;
    update::named(call, &value)?;
    let uid = &value["metadata"]["uid"];
    if !text(uid).is_empty() && text(uid) != old.uid() {
        let cause = Cause::invalid("metadata.uid", uid, "field is immutable");
        return Err(Failure::invalid(kind, &call.key.name, &[cause]));
    }
    if call.request.applies() {
        has_manager(call)?;
        if part == Part::Main && fields::are_kept(kind) {
            let (config, force) = (call.request.json()?, call.request.query.on("force"));
            let (new, owners) = fields::applied(&old.value, value, &config, &call.writer(), force)
                .map_err(|conflicts| Failure::apply_conflicts(&conflicts))?;
            value = new;
            value["metadata"]["managedFields"] = owners;
        }
    }
    let checked =
        create::checked(call, value, Some(&old)).map_err(|why| Failure::patched(kind, &call.key.name, &why));
    let value = kind.convert_in(checked?);
    let object = update::change(call, &mut tables, &old, value, part)?;
    Ok(answer::json_text(object.text(kind)))
}

/// Who applies says who he is.
fn has_manager(call: &Call<'_>) -> Result<()> {
    if call.request.query.get("fieldManager").is_some() {
        return Ok(());
    }
    let options = Kind::named("meta.k8s.io", "PatchOptions", "");
    Err(Failure::invalid(&options, "", &[Cause::required("fieldManager", "is required for apply patch")]))
}

/// `value` with the request's patch applied.
pub(super) fn apply(call: &Call<'_>, value: &Value) -> Result<Value> {
    let request = call.request;
    match request.content_type.as_str() {
        "application/json-patch+json" => {
            let text = std::str::from_utf8(&request.body).unwrap_or_default();
            patch::json(value, text, call.server.options.no_conflict).map_err(|why| match why {
                patch::Wrong::Malformed(why) => Failure::bad_request(format!("error decoding patch: {why}")),
                patch::Wrong::TooLong(count) => Failure::too_large_entity(&format!(
                    "The allowed maximum operations in a JSON patch is {}, got {count}",
                    patch::MOST_OPERATIONS
                )),
                patch::Wrong::DoesNotApply(why) => {
                    tracing::debug!(%why, "a JSON patch does not apply");
                    Failure::patch_failed()
                }
            })
        }
        "application/merge-patch+json" => match request.json()? {
            patch @ Value::Object(_) => Ok(patch::merge(value, &patch)),
            _ => Err(Failure::bad_request("error decoding patch: it is no object")),
        },
        "application/strategic-merge-patch+json" if call.kind.custom => {
            Err(Failure::unsupported_media_type(KNOWN))
        }
        // What an apply does beside: see `fields`.
        "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => {
            Ok(patch::strategic(value, &request.json()?))
        }
        _ => Err(Failure::unsupported_media_type(KNOWN)),
    }
}
