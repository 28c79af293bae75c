//! New objects.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use crate::{
    admission, fields,
    http::{
        answer::{self, Answer},
        failure::{Cause, Failure, Result},
    },
    identity,
    registry::{CRDS, Kind},
    store::{Key, Object, TableId, Tables, map, text},
};

/// Tries for a generated name; the real server has as many.
const TRIES: usize = 8;

pub(super) fn create(call: &Call<'_>) -> Result<Answer> {
    let value = call.request.json()?;
    let mut tables = call.server.store.lock();
    let object = insert(call, &mut tables, value)?;
    Ok(answer::json_with(StatusCode::CREATED, object.text(&call.kind)))
}

/// Creates an object from what a client sent.
pub(super) fn insert(call: &Call<'_>, tables: &mut Tables, value: Value) -> Result<Arc<Object>> {
    let kind = &call.kind;
    let sent = call.request.applies().then(|| value.clone());
    let mut value = kind.convert_in(checked(call, value, None)?);
    let metadata = map(&mut value["metadata"]);
    if metadata.get("resourceVersion").is_some_and(|version| !text(version).is_empty()) {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if kind.namespaced {
        metadata.insert("namespace".into(), Value::from(call.key.namespace.as_str()));
        has_namespace(call, tables)?;
    }
    name(call, tables, &mut value)?;
    let name = text(&value["metadata"]["name"]).to_owned();
    let metadata = map(&mut value["metadata"]);
    for field in
        ["managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), Value::from(identity::uid()));
    metadata.insert("creationTimestamp".into(), Value::from(identity::now()));
    if kind.generation {
        metadata.insert("generation".into(), json!(1));
    } else {
        metadata.remove("generation");
    }
    // A node brings its status along, everything else gets one.
    if kind.status && !kind.is("", "nodes") {
        map(&mut value).remove("status");
    }
    admission::defaults(kind, &mut value);
    let causes = admission::validate(kind, &value, None);
    if !causes.is_empty() {
        return Err(Failure::invalid(kind, &name, &causes));
    }
    admission::admit(kind, tables, &mut value, None, call.server.options.dual_stack)?;
    if tables.get(&kind.table(), &Key::new(call.key.namespace.as_str(), name.as_str())).is_some() {
        return Err(Failure::already_exists(kind, &name));
    }
    if fields::are_kept(kind) {
        let writer = call.writer();
        value["metadata"]["managedFields"] = match sent {
            // What is there by default has no owner.
            Some(sent) => fields::updated(&Value::Null, &sent, &Value::Null, &writer),
            None => fields::updated(&Value::Null, &value, &Value::Null, &writer),
        };
    }
    let write = admission::Write { tables, kind, request: call.request, old: &Value::Null };
    admission::enforce(&write, &value)?;
    let object = if call.dry() { Arc::new(Object::unsaved(value)) } else { tables.put(&kind.table(), value) };
    after(call, tables);
    Ok(object)
}

/// What follows from objects of some kinds.
pub(super) fn after(call: &Call<'_>, tables: &Tables) {
    if call.kind.is(CRDS.0, CRDS.1) {
        define(call.server, tables);
    }
}

/// The kinds follow the definitions.
pub(crate) fn define(server: &crate::server::Server, tables: &Tables) {
    let table = tables.table(&TableId::new(CRDS.0, CRDS.1));
    let definitions = table.into_iter().flat_map(|table| table.objects.values()).map(|object| &object.value);
    server.registry.define(definitions);
}

/// Body and URL must be about the same kind and namespace, and the body of that kind's type. `old`: what it replaces, as it is served.
pub(super) fn checked(call: &Call<'_>, mut value: Value, old: Option<&Object>) -> Result<Value> {
    let kind = &call.kind;
    let Some(fields) = value.as_object_mut() else {
        return Err(Failure::bad_request(format!("the body of the request is no {}", kind.kind)));
    };
    let (wanted_kind, wanted_version) = (&kind.kind, kind.api_version());
    for (field, wanted) in [("kind", wanted_kind), ("apiVersion", &wanted_version)] {
        let Some(given) = fields.remove(field) else { continue };
        if !text(&given).is_empty() && given != wanted.as_str() {
            return Err(Failure::bad_request(format!(
                "the {field} of the provided object ({}) does not match that of the request ({wanted})",
                text(&given)
            )));
        }
    }
    texts(kind, map(fields.entry("metadata").or_insert(Value::Null)))?;
    let namespace = text(&value["metadata"]["namespace"]);
    if !namespace.is_empty() && namespace != call.key.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    admission::micro_times(kind, &value)?;
    // Most changes are of annotations or of the status alone, and the rest is of its type already.
    let same =
        |old: &Object| ["spec", "data", "status"].iter().all(|part| old.value.get(part) == value.get(part));
    if old.is_some_and(same) {
        return Ok(value);
    }
    let strict = call.request.query.get("fieldValidation") == Some("Strict");
    admission::decode(kind, value, strict)
}

/// Labels and annotations are texts.
fn texts(kind: &Kind, metadata: &Map<String, Value>) -> Result<()> {
    for field in ["labels", "annotations"] {
        let all = metadata.get(field).and_then(Value::as_object).into_iter().flatten();
        if let Some((key, other)) = all.into_iter().find(|(_, value)| !value.is_string() && !value.is_null())
        {
            return Err(Failure::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: metadata.{field}[{key:?}] is {other}, which is no text",
                kind.kind, kind.version, kind.kind
            )));
        }
    }
    Ok(())
}

/// Objects are created in namespaces that are there to stay.
fn has_namespace(call: &Call<'_>, tables: &Tables) -> Result<()> {
    let namespaces = TableId::new("", "namespaces");
    let name = &call.key.namespace;
    let Some(namespace) = tables.get(&namespaces, &Key::new("", name.as_str())) else {
        let kinds = call.server.registry.kinds();
        let kind = kinds.get("", "v1", "namespaces").ok_or_else(|| Failure::internal("no namespaces"))?;
        return Err(Failure::not_found(&kind, name));
    };
    if namespace.metadata()["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut failure = Failure::forbidden(&call.kind, text(&Value::Null), &why);
    failure.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {name} is being terminated"),
        "field": "metadata.namespace",
    }]);
    Err(failure)
}

/// Gives the object a name that is free, if it asks for one.
fn name(call: &Call<'_>, tables: &Tables, value: &mut Value) -> Result<()> {
    let kind = &call.kind;
    let metadata = &value["metadata"];
    if !text(&metadata["name"]).is_empty() {
        return Ok(());
    }
    let prefix = text(&metadata["generateName"]);
    if prefix.is_empty() {
        let cause = Cause::required("metadata.name", "name or generateName is required");
        return Err(Failure::invalid(kind, "", &[cause]));
    }
    let free = |name: &String| {
        tables.get(&kind.table(), &Key::new(call.key.namespace.as_str(), name.as_str())).is_none()
    };
    let name = (0..TRIES).map(|_| identity::generated(prefix)).find(free);
    let name = name.ok_or_else(|| Failure::already_exists(kind, prefix))?;
    value["metadata"]["name"] = Value::from(name);
    Ok(())
}
