//! One object.

use serde_json::json;

use super::{Call, table};
use crate::http::{
    answer::{self, Answer},
    failure::{Failure, Result},
};

pub(super) fn get(call: &Call<'_>) -> Result<Answer> {
    let object = call.server.store.lock().get(&call.kind.table(), &call.key);
    let object = object.ok_or_else(|| Failure::not_found(&call.kind, &call.key.name))?;
    if let Some(include) = table::wanted(call.request) {
        let metadata = json!({"resourceVersion": object.revision.to_string()});
        return Ok(answer::json(&table::table(include, &call.kind, std::iter::once(&*object), metadata)));
    }
    Ok(answer::json_text(object.text(&call.kind)))
}
