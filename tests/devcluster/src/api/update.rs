//! Changes of objects that are there.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, create, delete};
use crate::{
    access::rbac,
    admission, fields,
    http::{
        answer::{self, Answer},
        failure::{Cause, Failure, Result},
        request::Target,
    },
    registry::Kind,
    store::{Object, Tables, map, text},
};

/// Fields of `metadata` that only the server writes.
const SYSTEM: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "namespace",
];

/// Which half of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the status, where that is a subresource.
    Main,
    /// The status and nothing else.
    Status,
}

pub(super) fn replace(call: &Call<'_>, part: Part) -> Result<Answer> {
    let value = call.request.json()?;
    let mut tables = call.server.store.lock();
    named(call, &value)?;
    let Some(old) = tables.get(&call.kind.table(), &call.key) else {
        if part == Part::Main && call.kind.create_on_update {
            let object = create_by_put(call, &mut tables, value)?;
            return Ok(answer::json_with(StatusCode::CREATED, object.text(&call.kind)));
        }
        return Err(Failure::not_found(&call.kind, &call.key.name));
    };
    let value = call.kind.convert_in(create::checked(call, value, Some(&old))?);
    let version = text(&value["metadata"]["resourceVersion"]);
    if version.is_empty() && !call.kind.unconditional_update {
        let why = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Failure::invalid(&call.kind, &call.key.name, &[why]));
    }
    let object = change(call, &mut tables, &old, value, part)?;
    Ok(answer::json_text(object.text(&call.kind)))
}

/// Creates what a PUT found nothing of. Who says a uid means an object that was there; a version means nothing.
fn create_by_put(call: &Call<'_>, tables: &mut Tables, mut value: Value) -> Result<Arc<Object>> {
    let uid = text(&value["metadata"]["uid"]);
    if !uid.is_empty() {
        return Err(another(call, uid, ""));
    }
    map(&mut value["metadata"]).remove("resourceVersion");
    may_create(call, tables)?;
    create::insert(call, tables, value)
}

/// Who creates by an update needs the right to create.
pub(super) fn may_create(call: &Call<'_>, tables: &Tables) -> Result<()> {
    if call.server.options.no_rbac {
        return Ok(());
    }
    let target = Target { verb: "create", ..call.request.target.clone() };
    rbac::check(tables, &call.request.user, &target, &call.request.path)
}

/// What is written in an object's place has its name.
pub(super) fn named(call: &Call<'_>, value: &Value) -> Result<()> {
    let (given, name) = (text(&value["metadata"]["name"]), &call.key.name);
    if given.is_empty() {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// Writes `value` in the place of `old`. Its resourceVersion and uid, where it has them, must be those of `old`.
pub(super) fn change(
    call: &Call<'_>,
    tables: &mut Tables,
    old: &Arc<Object>,
    mut value: Value,
    part: Part,
) -> Result<Arc<Object>> {
    let kind = &call.kind;
    let name = &call.key.name;
    stands(call, old, &value)?;
    let given = value["metadata"]["managedFields"].clone();
    keep_system_fields(old, &mut value);
    match part {
        Part::Main => {
            if kind.status {
                keep(&old.value, &mut value, "status");
            }
            admission::defaults(kind, &mut value);
            admission::drop_unneeded(kind, &mut value, &old.value);
        }
        Part::Status => {
            let (status, metadata) = (value.get("status").cloned(), value["metadata"].take());
            value = old.value.clone();
            match status {
                Some(status) => map(&mut value).insert("status".into(), status),
                None => map(&mut value).remove("status"),
            };
            if kind.is("", "pods") {
                admission::pod_addresses(&mut value);
            }
            if !kind.custom {
                value["metadata"] = metadata;
                // The real server lets the status of built-in kinds carry annotations, and labels, save a Deployment's.
                if kind.is("apps", "deployments") {
                    keep(old.metadata(), &mut value["metadata"], "labels");
                }
                keep(old.metadata(), &mut value["metadata"], "ownerReferences");
                keep(old.metadata(), &mut value["metadata"], "finalizers");
            }
        }
    }
    let causes = admission::validate(kind, &value, Some(&old.value));
    if !causes.is_empty() {
        return Err(Failure::invalid(kind, name, &causes));
    }
    if part == Part::Main {
        admission::admit(kind, tables, &mut value, Some(&old.value), call.server.options.dual_stack)?;
        count_generation(kind, old, &mut value);
    }
    // An apply has settled whose its fields are; who writes the status owns none that are kept here.
    match part {
        Part::Main if !fields::are_kept(kind) => {}
        Part::Main if call.request.applies() => value["metadata"]["managedFields"] = given,
        Part::Main => {
            let owners = fields::updated(&old.value, &value, &given, &call.writer());
            value["metadata"]["managedFields"] = owners;
        }
        Part::Status => keep(old.metadata(), &mut value["metadata"], "managedFields"),
    }
    map(&mut value["metadata"]).insert("resourceVersion".into(), Value::from(old.revision.to_string()));
    if part == Part::Main {
        // Whose a field is was settled before: what a policy changes has the owner that it had.
        let write = admission::Write { tables, kind, request: call.request, old: &old.value };
        value = admission::mutate(&write, value)?;
        let causes = admission::validate(kind, &value, Some(&old.value));
        if !causes.is_empty() {
            return Err(Failure::invalid(kind, name, &causes));
        }
        admission::enforce(&write, &value)?;
    }
    if value == old.value {
        return Ok(Arc::clone(old));
    }
    if call.dry() {
        return Ok(Arc::new(Object::unsaved(value)));
    }
    let object = tables.put(&kind.table(), value);
    let object = if delete::is_due(&object) {
        tables.remove(&kind.table(), &call.key).unwrap_or(object)
    } else {
        object
    };
    create::after(call, tables);
    Ok(object)
}

/// Whether the writer means this version of this object.
fn stands(call: &Call<'_>, old: &Object, value: &Value) -> Result<()> {
    let metadata = &value["metadata"];
    let (uid, version) = (text(&metadata["uid"]), text(&metadata["resourceVersion"]));
    if !uid.is_empty() && uid != old.uid() {
        return Err(another(call, uid, old.uid()));
    }
    if !version.is_empty() && version != old.revision.to_string() && !call.server.options.no_conflict {
        return Err(Failure::modified(&call.kind, &call.key.name));
    }
    Ok(())
}

fn another(call: &Call<'_>, uid: &str, held: &str) -> Failure {
    let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}");
    Failure::conflict(&call.kind, &call.key.name, &why)
}

fn keep_system_fields(old: &Object, value: &mut Value) {
    let metadata = map(&mut value["metadata"]);
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    for field in SYSTEM.into_iter().chain(["name"]) {
        match old.metadata().get(field) {
            Some(held) => metadata.insert(field.into(), held.clone()),
            None => metadata.remove(field),
        };
    }
    // An empty map is as none: so two versions that say the same are the same.
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(all)) => all.is_empty(),
            Some(Value::Array(all)) => all.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

fn keep(old: &Value, value: &mut Value, field: &str) {
    match old.get(field) {
        Some(held) => map(value).insert(field.into(), held.clone()),
        None => map(value).remove(field),
    };
}

/// The generation counts changes of what is wanted; a Deployment's those of its annotations, too, and an EndpointSlice's those of its
/// labels: so does the real server's.
fn count_generation(kind: &Kind, old: &Object, value: &mut Value) {
    if !kind.generation {
        return;
    }
    let wanted = |value: &Value| -> Value {
        let mut wanted = value.clone();
        let fields = map(&mut wanted);
        fields.remove("metadata");
        if kind.status || !kind.custom {
            fields.remove("status");
        }
        wanted
    };
    let of_metadata = match (kind.group.as_str(), kind.plural.as_str()) {
        ("apps", "deployments") => Some("annotations"),
        ("discovery.k8s.io", _) => Some("labels"),
        _ => None,
    };
    let changed = wanted(&old.value) != wanted(value)
        || of_metadata.is_some_and(|field| old.metadata()[field] != value["metadata"][field]);
    if changed {
        let generation = old.metadata()["generation"].as_i64().unwrap_or_default();
        value["metadata"]["generation"] = json!(generation + 1);
    }
}

/// `pods/binding`: a scheduler says on which node the pod runs.
pub(super) fn bind(call: &Call<'_>) -> Result<Answer> {
    let binding = call.request.json()?;
    let mut tables = call.server.store.lock();
    let pods = call.kind.table();
    let old = tables.get(&pods, &call.key).ok_or_else(|| Failure::not_found(&call.kind, &call.key.name))?;
    let held = text(&old.value["spec"]["nodeName"]);
    if !held.is_empty() {
        let why = format!("pod {} is already assigned to node {held:?}", call.key.name);
        return Err(Failure::conflict(&call.kind, &call.key.name, &why));
    }
    let mut value = old.value.clone();
    value["spec"]["nodeName"] = binding["target"]["name"].clone();
    admission::scheduled(&mut value);
    tables.put(&pods, value);
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer::json_with(StatusCode::CREATED, done.to_string().into()))
}
