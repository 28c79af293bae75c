//! One object.

use super::Call;
use crate::http::{
    answer::{self, Answer},
    failure::{Failure, Result},
};

pub(super) fn get(call: &Call<'_>) -> Result<Answer> {
    let object = call.server.store.lock().get(&call.kind.table(), &call.key);
    let object = object.ok_or_else(|| Failure::not_found(&call.kind, &call.key.name))?;
    Ok(answer::json_text(object.text(&call.kind)))
}
