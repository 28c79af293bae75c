//! The scale subresource: `autoscaling/v1` Scale, of built-in workloads and of custom resources that declare it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, patch::apply, update};
use crate::{
    http::{
        answer::{self, Answer},
        failure::{Cause, Failure, Result},
    },
    registry::{Kind, ScalePaths},
    selector::LabelSelector,
    store::{Object, map, text},
};

pub(super) fn get(call: &Call<'_>) -> Result<Answer> {
    let (_, paths) = found(call)?;
    let object = held(call, &call.server.store.lock())?;
    Ok(answer::json(&scale_of(&object, paths)))
}

pub(super) fn replace(call: &Call<'_>) -> Result<Answer> {
    let wanted = call.request.json()?;
    write(call, |_| Ok(wanted))
}

pub(super) fn patch(call: &Call<'_>) -> Result<Answer> {
    write(call, |scale| apply(call, &scale))
}

fn found<'a>(call: &'a Call<'_>) -> Result<(&'a Kind, &'a ScalePaths)> {
    let paths = call.kind.scale.as_ref().ok_or_else(|| match call.kind.custom {
        true => Failure::no_such_path(),
        false => Failure::no_such_resource(),
    })?;
    Ok((&call.kind, paths))
}

fn held(call: &Call<'_>, tables: &crate::store::Tables) -> Result<Arc<Object>> {
    let object = tables.get(&call.kind.table(), &call.key);
    object.ok_or_else(|| Failure::not_found(&call.kind, &call.key.name))
}

/// Has `next` make the new Scale of the present one, and writes its replicas.
fn write(call: &Call<'_>, next: impl FnOnce(Value) -> Result<Value>) -> Result<Answer> {
    let (kind, paths) = found(call)?;
    let mut tables = call.server.store.lock();
    let old = held(call, &tables)?;
    let scale = next(scale_of(&old, paths))?;
    update::named(call, &scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or_default();
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        let scale_kind = Kind::named("autoscaling", "Scale", "");
        let cause = Cause::invalid("spec.replicas", &json!(replicas), why);
        return Err(Failure::invalid(&scale_kind, &call.key.name, &[cause]));
    }
    let mut value = old.value.clone();
    for field in ["uid", "resourceVersion"] {
        let given = text(&scale["metadata"][field]);
        map(&mut value["metadata"]).insert(field.into(), Value::from(given));
    }
    set(&mut value, &paths.spec, json!(replicas))
        .ok_or_else(|| Failure::internal(&format!("{} has no {}", kind.kind, paths.spec)))?;
    let object = update::change(call, &mut tables, &old, value, update::Part::Main)?;
    Ok(answer::json(&scale_of(&object, paths)))
}

fn scale_of(object: &Object, paths: &ScalePaths) -> Value {
    let metadata = object.metadata();
    let number = |pointer: &str| object.value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number(&paths.spec)},
        "status": {"replicas": number(&paths.status)},
    });
    if let Some(namespace) = metadata.get("namespace") {
        scale["metadata"]["namespace"] = namespace.clone();
    }
    if let Some(selector) = paths.selector.as_ref().and_then(|pointer| object.value.pointer(pointer)) {
        let given = selector.as_str().map_or_else(|| LabelSelector::of(selector).text(), str::to_owned);
        scale["status"]["selector"] = Value::from(given);
    }
    scale
}

/// Writes at a pointer, making the maps on the way.
fn set(value: &mut Value, pointer: &str, new: Value) -> Option<()> {
    let mut place = value;
    for field in pointer.split('/').skip(1) {
        place = map(place).entry(field).or_insert(Value::Null);
    }
    *place = new;
    Some(())
}
