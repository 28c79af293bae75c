//! The garbage collector: objects without a living owner are deleted, and a namespace goes with all that is in it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    api::delete::{self, Deletion},
    registry::Kinds,
    server::Server,
    store::{Key, Orphan, TableId, Tables, map, text},
};

/// Collects until the server is gone.
pub async fn collect(server: Arc<Server>, mut orphans: UnboundedReceiver<Orphan>) {
    while let Some(orphan) = orphans.recv().await {
        let kinds = server.registry.kinds();
        let mut tables = server.store.lock();
        match orphan {
            Orphan::Check(table, key) => check(&mut tables, &kinds, &table, &key),
            Orphan::Owner(uid) => {
                for (table, key) in tables.dependents(&uid) {
                    check(&mut tables, &kinds, &table, &key);
                }
            }
            Orphan::Namespace(name) => namespace(&mut tables, &kinds, &name),
        }
    }
}

/// Deletes an object none of whose owners are there; goes on with one that waits for its dependents.
fn check(tables: &mut Tables, kinds: &Kinds, table: &TableId, key: &Key) {
    let (Some(object), Some(kind)) = (tables.get(table, key), kinds.of_table(table)) else { return };
    let owners = object.metadata()["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let absent = |owner: &Value| match tables.by_uid(text(&owner["uid"])) {
        None => true,
        // It is looked up by kind, namespace and name: another one of that uid is none.
        Some((_, at)) if at.name != text(&owner["name"]) => true,
        Some((_, at)) if !at.namespace.is_empty() && at.namespace != key.namespace => true,
        Some((table, _)) if kinds.of_table(table).is_some_and(|kind| kind.kind != text(&owner["kind"])) => {
            true
        }
        // An owner that is being deleted and waits for its dependents counts as gone.
        Some((table, key)) => {
            tables.get(table, key).is_some_and(|owner| has(&owner.value, "foregroundDeletion"))
        }
    };
    if !owners.is_empty() && owners.iter().all(absent) {
        let deletion = Deletion { propagation: "Background".into(), ..Deletion::default() };
        if let Err(why) = delete::remove(tables, &kind, key, &deletion) {
            tracing::debug!(%why, "an orphan was not collected");
        }
        return;
    }
    if object.metadata()["deletionTimestamp"].is_null() {
        return;
    }
    if has(&object.value, "orphan") {
        for (table, key) in tables.dependents(object.uid()) {
            disown(tables, &table, &key, object.uid());
        }
        unfinalize(tables, table, key, "orphan");
    } else if has(&object.value, "foregroundDeletion") {
        let dependents = tables.dependents(object.uid());
        if dependents.is_empty() {
            unfinalize(tables, table, key, "foregroundDeletion");
        }
        for (table, key) in dependents {
            let marked =
                |object: Arc<crate::store::Object>| !object.metadata()["deletionTimestamp"].is_null();
            if !tables.get(&table, &key).is_some_and(marked) {
                check(tables, kinds, &table, &key);
            }
        }
    }
}

fn has(value: &Value, finalizer: &str) -> bool {
    value["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|one| one == finalizer))
}

fn disown(tables: &mut Tables, table: &TableId, key: &Key, owner: &str) {
    let Some(object) = tables.get(table, key) else { return };
    let mut value = object.value.clone();
    if let Some(all) = value["metadata"]["ownerReferences"].as_array_mut() {
        all.retain(|one| one["uid"] != owner);
        if all.is_empty() {
            map(&mut value["metadata"]).remove("ownerReferences");
        }
    }
    tables.put(table, value);
}

fn unfinalize(tables: &mut Tables, table: &TableId, key: &Key, finalizer: &str) {
    let Some(object) = tables.get(table, key) else { return };
    let mut value = object.value.clone();
    if let Some(all) = value["metadata"]["finalizers"].as_array_mut() {
        all.retain(|one| one != finalizer);
        if all.is_empty() {
            map(&mut value["metadata"]).remove("finalizers");
        }
    }
    let object = tables.put(table, value);
    if delete::is_due(&object) {
        tables.remove(table, key);
    }
}

/// Deletes what is in a namespace that is being deleted, and the namespace when nothing is left.
fn namespace(tables: &mut Tables, kinds: &Kinds, name: &str) {
    let (id, at) = (TableId::new("", "namespaces"), Key::new("", name));
    let Some(namespace) = tables.get(&id, &at) else { return };
    if text(&namespace.value["status"]["phase"]) != "Terminating" {
        return;
    }
    let mut left = false;
    for table in tables.ids() {
        let Some(kind) = kinds.of_table(&table) else { continue };
        let keys: Vec<(Key, bool)> = tables
            .table(&table)
            .into_iter()
            .flat_map(|all| &all.objects)
            .filter(|(key, _)| key.namespace == name)
            .map(|(key, object)| (key.clone(), object.metadata()["deletionTimestamp"].is_null()))
            .collect();
        for (key, fresh) in keys {
            let gone = fresh
                && matches!(
                    delete::remove(tables, &kind, &key, &Deletion::default()),
                    Ok(delete::Deleted::Gone(_))
                );
            left |= !gone;
        }
    }
    if !left {
        let mut value = namespace.value.clone();
        value["spec"]["finalizers"] = json!([]);
        tables.put(&id, value);
        tables.remove(&id, &at);
    }
}
