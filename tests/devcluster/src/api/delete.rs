//! Deletion: at once, after a grace, or when the last finalizer is gone.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Call, options};
use crate::{
    api::create,
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
    },
    identity,
    registry::{CRDS, Kind},
    store::{Key, Object, Orphan, TableId, Tables, map, text},
};

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// Seconds; `None`: as the object says.
    pub grace: Option<i64>,
    /// Uid and resourceVersion that the object must have.
    pub preconditions: Value,
    /// `Background`, `Foreground`, `Orphan`; empty: as the object's finalizers say.
    pub propagation: String,
    /// Nothing is to be written.
    pub dry: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Deleted {
    /// It is no more.
    Gone(Arc<Object>),
    /// It is marked, and stays until its node or its finalizers let go.
    Marked(Arc<Object>),
}

pub(super) fn delete(call: &Call<'_>) -> Result<Answer> {
    let deletion = deletion(call)?;
    let mut tables = call.server.store.lock();
    if call.kind.is(CRDS.0, CRDS.1) && !deletion.dry {
        undefine(call, &mut tables);
    }
    let answer = match remove(&mut tables, &call.kind, &call.key, &deletion)? {
        Deleted::Marked(object) => answer::json_text(object.text(&call.kind)),
        Deleted::Gone(object) => answer::json(&json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": call.key.name,
                "group": call.kind.group,
                "kind": call.kind.plural,
                "uid": object.uid(),
            },
        })),
    };
    create::after(call, &tables);
    Ok(answer)
}

pub(super) fn delete_collection(call: &Call<'_>) -> Result<Answer> {
    let (deletion, selector) = (deletion(call)?, call.selector()?);
    let mut tables = call.server.store.lock();
    let all: Vec<Key> = tables
        .table(&call.kind.table())
        .into_iter()
        .flat_map(|table| &table.objects)
        .filter(|(key, object)| key.namespace == call.key.namespace && selector.matches(object))
        .map(|(key, _)| key.clone())
        .collect();
    let mut items = Vec::new();
    for key in all {
        let object = match remove(&mut tables, &call.kind, &key, &deletion)? {
            Deleted::Gone(object) | Deleted::Marked(object) => object,
        };
        items.push(object.served(&call.kind));
    }
    create::after(call, &tables);
    Ok(answer::json(&json!({
        "kind": call.kind.list,
        "apiVersion": call.kind.api_version(),
        "metadata": {"resourceVersion": tables.revision().to_string()},
        "items": items,
    })))
}

/// What a definition has brought goes before it.
fn undefine(call: &Call<'_>, tables: &mut Tables) {
    let Some(definition) = tables.get(&call.kind.table(), &call.key) else { return };
    let spec = &definition.value["spec"];
    let table = TableId::new(text(&spec["group"]), text(&spec["names"]["plural"]));
    let Some(kind) = call.server.registry.kinds().of_table(&table) else { return };
    let keys: Vec<Key> =
        tables.table(&table).into_iter().flat_map(|all| all.objects.keys().cloned()).collect();
    for key in keys {
        if let Err(why) = remove(tables, &kind, &key, &Deletion::default()) {
            tracing::debug!(%why, "an object outlives its definition");
        }
    }
}

fn deletion(call: &Call<'_>) -> Result<Deletion> {
    let (body, query) = (call.request.json()?, &call.request.query);
    let grace = match body["gracePeriodSeconds"].as_i64() {
        Some(grace) => Some(grace),
        None => query.number("gracePeriodSeconds")?.map(|grace| i64::try_from(grace).unwrap_or(i64::MAX)),
    };
    let orphan = body["orphanDependents"] == true || query.get("orphanDependents") == Some("true");
    let given = body["propagationPolicy"].as_str().or_else(|| query.get("propagationPolicy"));
    let propagation = given.unwrap_or(if orphan { "Orphan" } else { "" }).to_owned();
    let dry = options::deletes_dry(call, &body);
    Ok(Deletion { grace, preconditions: body["preconditions"].clone(), propagation, dry })
}

/// Deletes an object, or marks it.
///
/// # Errors
///
/// It is not there, or not the one that the preconditions say.
pub fn remove(tables: &mut Tables, kind: &Kind, key: &Key, deletion: &Deletion) -> Result<Deleted> {
    let table = kind.table();
    let old = tables.get(&table, key).ok_or_else(|| Failure::not_found(kind, &key.name))?;
    meets(kind, &old, &deletion.preconditions)?;
    let mut value = old.value.clone();
    let marked = !old.metadata()["deletionTimestamp"].is_null();
    let grace = grace(kind, &old, deletion.grace);
    let metadata = map(&mut value["metadata"]);
    let held = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    // What waits for its grace to be over has its finalizers.
    if held.is_none_or(|held| held == 0) {
        dependents_by(&deletion.propagation, metadata);
    }
    if !marked && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    // A second deletion can only shorten the grace.
    if !marked || held.is_some_and(|held| grace < held) {
        metadata.insert("deletionTimestamp".into(), Value::from(identity::after(grace)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    let namespace = kind.is("", "namespaces");
    if namespace {
        value["status"]["phase"] = "Terminating".into();
    }
    if value == old.value {
        return Ok(Deleted::Marked(old));
    }
    if deletion.dry {
        return Ok(match !namespace && due(&value) {
            true => Deleted::Gone(old),
            false => Deleted::Marked(Arc::new(Object::unsaved(value))),
        });
    }
    if !namespace && due(&value) {
        return tables
            .remove(&table, key)
            .map(Deleted::Gone)
            .ok_or_else(|| Failure::not_found(kind, &key.name));
    }
    let object = tables.put(&table, value);
    // The collector goes on with it.
    tables.orphan(if namespace {
        Orphan::Namespace(key.name.clone())
    } else {
        Orphan::Check(table, key.clone())
    });
    Ok(Deleted::Marked(object))
}

/// The finalizer that has the dependents deleted first, or left.
fn dependents_by(propagation: &str, metadata: &mut Map<String, Value>) {
    let finalizer = match propagation {
        "Foreground" => Some("foregroundDeletion"),
        "Orphan" => Some("orphan"),
        "" => return,
        _ => None,
    };
    let finalizers = metadata.remove("finalizers").unwrap_or_default();
    let mut all: Vec<Value> = finalizers.as_array().cloned().unwrap_or_default();
    if finalizer.is_none_or(|finalizer| !all.iter().any(|one| one == finalizer)) {
        all.retain(|one| one != "foregroundDeletion" && one != "orphan");
        all.extend(finalizer.map(Value::from));
    }
    if !all.is_empty() {
        metadata.insert("finalizers".into(), all.into());
    }
}

fn meets(kind: &Kind, old: &Object, preconditions: &Value) -> Result<()> {
    let unmet = |what: &str, wanted: &str, held: &str, so: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({held}). The object might {so}"
        );
        Err(Failure::unmet(kind, &old.key().name, &why))
    };
    let (uid, version) = (text(&preconditions["uid"]), text(&preconditions["resourceVersion"]));
    let held = old.revision.to_string();
    if !uid.is_empty() && uid != old.uid() {
        return unmet("UID", uid, old.uid(), "have been deleted and then recreated");
    }
    if !version.is_empty() && version != held {
        return unmet("ResourceVersion", version, &held, "have been modified");
    }
    Ok(())
}

/// Only a pod that a node runs is left some time.
fn grace(kind: &Kind, old: &Object, asked: Option<i64>) -> i64 {
    let phase = text(&old.value["status"]["phase"]);
    let runs = kind.is("", "pods")
        && !text(&old.value["spec"]["nodeName"]).is_empty()
        && !matches!(phase, "Succeeded" | "Failed");
    if !runs {
        return 0;
    }
    asked.or_else(|| old.value["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30).max(0)
}

/// Whether nothing keeps a marked object any more.
pub fn is_due(object: &Object) -> bool {
    !object.metadata()["deletionTimestamp"].is_null() && due(&object.value)
}

fn due(value: &Value) -> bool {
    let metadata = &value["metadata"];
    let finalizers = metadata["finalizers"].as_array().is_some_and(|all| !all.is_empty());
    let namespace = value["spec"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
        && metadata.get("namespace").is_none()
        && value["status"]["phase"] == "Terminating";
    !finalizers && !namespace && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
}
