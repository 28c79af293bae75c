//! Lists, whole or in pages, of now or of an earlier version.

use std::ops::Bound;

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::{Call, table};
use crate::{
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
    },
    store::{Key, TableId, Tables},
};

/// Where a list goes on: all its pages are of one version.
struct Continue {
    revision: u64,
    after: Key,
}

pub(super) fn list(call: &Call<'_>) -> Result<Answer> {
    let query = &call.request.query;
    let selector = call.selector()?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let from = query.get("continue").map(Continue::parse).transpose()?;
    let (objects, revision) = {
        let tables = call.server.store.lock();
        let revision = match &from {
            Some(from) => from.revision,
            None => revision(call, &tables)?,
        };
        let start = from
            .as_ref()
            .map_or_else(|| start(&call.key.namespace), |from| Bound::Excluded(from.after.clone()));
        let objects = tables.table(&call.kind.table()).map(|table| table.at(revision, &start));
        let objects = objects.unwrap_or_else(|| Some(Vec::new()));
        (objects, revision)
    };
    let objects = objects.ok_or_else(|| match from {
        Some(_) => Failure::expired_continue(),
        None => Failure::expired(revision, floor(call)),
    })?;
    let mut found = objects
        .iter()
        .take_while(|object| {
            call.key.namespace.is_empty() || object.metadata()["namespace"] == call.key.namespace.as_str()
        })
        .filter(|object| selector.matches(object))
        .peekable();
    let mut page = Vec::new();
    while let Some(object) = found.next_if(|_| limit.is_none_or(|limit| (page.len() as u64) < limit)) {
        page.push(object);
    }
    let last = page.last().map(|object| object.key());
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (Some(after), true) = (last, found.peek().is_some()) {
        metadata["continue"] = Value::from(Continue { revision, after }.text());
        // Counted only where no selector hides some, as on the real server.
        if selector.labels.is_empty() && query.get("fieldSelector").is_none() {
            metadata["remainingItemCount"] = Value::from(found.count());
        }
    }
    let kind = &call.kind;
    if let Some(include) = table::wanted(call.request) {
        let page = page.into_iter().map(|object| &**object);
        return Ok(answer::json(&table::table(include, kind, page, metadata)));
    }
    let mut items = BytesMut::new();
    for (index, object) in page.into_iter().enumerate() {
        if index > 0 {
            items.put_u8(b',');
        }
        object.write_item(kind, &mut items);
    }
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind.list),
        json!(kind.api_version())
    );
    let mut text = BytesMut::with_capacity(head.len() + items.len() + 2);
    text.put_slice(head.as_bytes());
    text.put_slice(&items);
    text.put_slice(b"]}");
    Ok(answer::json_text(text.freeze()))
}

/// The first key of a namespace, or of all.
pub(super) fn start(namespace: &str) -> Bound<Key> {
    if namespace.is_empty() { Bound::Unbounded } else { Bound::Included(Key::new(namespace, "")) }
}

/// The version that is asked for.
fn revision(call: &Call<'_>, tables: &Tables) -> Result<u64> {
    let asked = call.request.query.number("resourceVersion")?.unwrap_or_default();
    if asked > tables.revision() {
        return Err(Failure::too_large(asked, tables.revision()));
    }
    match call.request.query.get("resourceVersionMatch") {
        Some("Exact") => Ok(asked),
        _ => Ok(tables.revision()),
    }
}

fn floor(call: &Call<'_>) -> u64 {
    let id: TableId = call.kind.table();
    call.server.store.lock().table(&id).map_or(0, crate::store::Table::floor)
}

// === impl Continue ===

impl Continue {
    fn text(&self) -> String {
        format!("{}:{}/{}", self.revision, self.after.namespace, self.after.name)
    }

    fn parse(text: &str) -> Result<Self> {
        let parse = || {
            let (revision, key) = text.split_once(':')?;
            let (namespace, name) = key.split_once('/')?;
            Some(Self { revision: revision.parse().ok()?, after: Key::new(namespace, name) })
        };
        parse().ok_or_else(|| Failure::bad_request(format!("continue key is not valid: {text:?}")))
    }
}
