//! Patches.

use http::StatusCode;
use serde_json::Value;

use super::{
    Call, create,
    update::{self, Part},
};
use crate::{
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
    },
    patch,
};

/// The kinds of patches that are read.
const KNOWN: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                     application/strategic-merge-patch+json";

pub(super) fn patch(call: &Call<'_>, part: Part) -> Result<Answer> {
    let mut tables = call.server.store.lock();
    let kind = &call.kind;
    let Some(old) = tables.get(&kind.table(), &call.key) else {
        if call.request.content_type == "application/apply-patch+yaml" && part == Part::Main {
            let object = create::insert(call, &mut tables, call.request.json()?)?;
            return Ok(answer::json_with(StatusCode::CREATED, object.text(kind)));
        }
        return Err(Failure::not_found(kind, &call.key.name));
    };
    let value = apply(call, &old.served(kind))?;
    let checked =
        create::checked(call, value, Some(&old)).map_err(|why| Failure::patched(kind, &call.key.name, &why));
    let value = kind.convert_in(checked?);
    let object = update::change(call, &mut tables, &old, value, part)?;
    Ok(answer::json_text(object.text(kind)))
}

/// `value` with the request's patch applied.
pub(super) fn apply(call: &Call<'_>, value: &Value) -> Result<Value> {
    let request = call.request;
    match request.content_type.as_str() {
        "application/json-patch+json" => {
            // That it is JSON at all.
            request.json()?;
            let text = std::str::from_utf8(&request.body).unwrap_or_default();
            patch::json(value, text, call.server.options.no_conflict).map_err(|why| {
                tracing::debug!(%why, "a JSON patch does not apply");
                Failure::patch_failed()
            })
        }
        "application/merge-patch+json" => Ok(patch::merge(value, &request.json()?)),
        "application/strategic-merge-patch+json" if call.kind.custom => {
            Err(Failure::unsupported_media_type(KNOWN))
        }
        // An apply is no more than this here: nobody's tests need its ownership of fields.
        "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => {
            Ok(patch::strategic(value, &request.json()?))
        }
        _ => Err(Failure::unsupported_media_type(KNOWN)),
    }
}
