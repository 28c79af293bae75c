//! Who owns which field: `metadata.managedFields`, as the real server keeps it for what our daemons and their users write: workloads,
//! Services and custom resources, all but their status.
//!
//! A list is one value here, whatever distinguishes its entries, and no entry stands for a map itself (`.`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    identity,
    registry::Kind,
    store::{map, text},
};

/// Fields of `metadata` without an owner.
const UNOWNED: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Maps that are one value.
const ATOMIC: [&str; 3] = ["selector", "nodeSelector", "labelSelector"];

/// The way to a field.
type Path = Vec<String>;

/// Who writes.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// `fieldManager`, or what the client calls itself.
    pub manager: &'a str,
    /// The version of the API that is written by.
    pub version: String,
    /// `scale` for instance; empty: the object itself.
    pub subresource: &'a str,
    /// By server-side apply.
    pub applies: bool,
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// All but the fields.
    head: Map<String, Value>,
    fields: BTreeSet<Path>,
}

/// A field that an apply would change, and whose it is.
#[derive(Debug)]
pub struct Conflict {
    /// As `.spec.replicas`.
    pub field: String,
    /// As in messages: `"flux" using apps/v1`.
    pub owner: String,
}

/// Whether the owners of its fields are kept.
pub fn are_kept(kind: &Kind) -> bool {
    kind.custom || kind.group == "apps" && kind.plural != "replicasets" || kind.is("", "services")
}

/// The list after `writer` made `new` of `old`. `given`: what he sent as the list; one that says nothing is as none.
pub fn updated(old: &Value, new: &Value, given: &Value, writer: &Writer<'_>) -> Value {
    let mut all = match entries(given) {
        // One entry that says nothing at all takes everything from everybody.
        none if none.is_empty() && *given == json!([{}]) => none,
        none if none.is_empty() => entries(&old["metadata"]["managedFields"]),
        given => given,
    };
    let (before, after) = (leaves(old), leaves(new));
    let at = |value: &Value, path: &Path| value.pointer(&pointer(path)).cloned();
    let changed: BTreeSet<Path> =
        after.iter().filter(|path| at(old, path) != at(new, path)).cloned().collect();
    let gone: BTreeSet<Path> = before.difference(&after).cloned().collect();
    for entry in &mut all {
        entry.fields.retain(|path| !gone.contains(path) && !changed.contains(path));
    }
    if !changed.is_empty() {
        own(&mut all, writer, |fields| fields.extend(changed));
    }
    listed(all)
}

/// What an apply of `config` makes of `old`: the object, and its list.
///
/// # Errors
///
/// Others own what it would change; with `force` they lose it.
pub fn applied(
    old: &Value,
    merged: Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(Value, Value), Vec<Conflict>> {
    let mut all = entries(&old["metadata"]["managedFields"]);
    let wanted = leaves(config);
    let differs = |path: &Path| match (config.pointer(&pointer(path)), old.pointer(&pointer(path))) {
        (Some(Value::Object(wanted)), held) => held.and_then(Value::as_object) != Some(wanted),
        (Some(wanted), Some(held)) => !is_within(wanted, held),
        _ => false,
    };
    let mut conflicts = Vec::new();
    for entry in all.iter_mut().filter(|entry| !entry.is(writer)) {
        let taken: Vec<Path> =
            entry.fields.intersection(&wanted).filter(|path| differs(path)).cloned().collect();
        for path in taken {
            entry.fields.remove(&path);
            conflicts.push(Conflict { field: format!(".{}", path.join(".")), owner: entry.owner() });
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    let mut new = merged;
    let mine =
        all.iter().find(|entry| entry.is(writer)).map(|entry| entry.fields.clone()).unwrap_or_default();
    for path in mine.difference(&wanted) {
        if !all.iter().any(|entry| !entry.is(writer) && entry.fields.contains(path)) {
            remove(&mut new, path);
        }
    }
    // A map that is one value is as it was applied, and not merged.
    for path in &wanted {
        if let (Some(value), Some(place)) = (config.pointer(&pointer(path)), new.pointer_mut(&pointer(path)))
            && value.is_object()
        {
            *place = value.clone();
        }
    }
    own(&mut all, writer, |fields| *fields = wanted);
    Ok((new, listed(all)))
}

/// Whether all that one value says is in the other: the entries of a list hold defaults beside what was applied.
fn is_within(wanted: &Value, held: &Value) -> bool {
    match (wanted, held) {
        (Value::Object(wanted), Value::Object(held)) => {
            wanted.iter().all(|(name, wanted)| held.get(name).is_some_and(|held| is_within(wanted, held)))
        }
        (Value::Array(wanted), Value::Array(held)) => {
            wanted.len() == held.len()
                && wanted.iter().zip(held).all(|(wanted, held)| is_within(wanted, held))
        }
        (wanted, held) => wanted == held,
    }
}

fn own(all: &mut Vec<Entry>, writer: &Writer<'_>, change: impl FnOnce(&mut BTreeSet<Path>)) {
    let at = all.iter().position(|entry| entry.is(writer)).unwrap_or_else(|| {
        all.push(Entry::new(writer));
        all.len() - 1
    });
    let before = all[at].fields.clone();
    change(&mut all[at].fields);
    if all[at].fields != before {
        all[at].head.insert("time".into(), identity::now().into());
    }
}

/// Every value that can have an owner.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut all = BTreeSet::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "status") {
            walk(value, &mut vec![name.clone()], &mut all);
        }
    }
    all
}

fn walk(value: &Value, path: &mut Path, all: &mut BTreeSet<Path>) {
    let name = path.last().map(String::as_str).unwrap_or_default();
    match value {
        Value::Null => {}
        Value::Object(fields) if !fields.is_empty() && !ATOMIC.contains(&name) => {
            for (name, value) in fields {
                if path.len() == 1 && path[0] == "metadata" && UNOWNED.contains(&name.as_str()) {
                    continue;
                }
                path.push(name.clone());
                walk(value, path, all);
                path.pop();
            }
        }
        _ => drop(all.insert(path.clone())),
    }
}

fn pointer(path: &Path) -> String {
    path.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

fn remove(object: &mut Value, path: &Path) {
    let Some((name, parents)) = path.split_last() else { return };
    if let Some(Value::Object(fields)) = object.pointer_mut(&pointer(&parents.to_vec())) {
        fields.remove(name);
    }
}

/// What can be read of a list; an entry that owns nothing is none.
fn entries(list: &Value) -> Vec<Entry> {
    let all = list.as_array().into_iter().flatten().filter_map(|entry| {
        let mut head = entry.as_object()?.clone();
        let mut fields = BTreeSet::new();
        parse(&head.remove("fieldsV1")?, &mut Path::new(), &mut fields);
        Some(Entry { head, fields })
    });
    all.filter(|entry| !entry.fields.is_empty()).collect()
}

fn parse(fields: &Value, path: &mut Path, all: &mut BTreeSet<Path>) {
    for (name, below) in fields.as_object().into_iter().flatten() {
        let Some(name) = name.strip_prefix("f:") else { continue };
        path.push(name.to_owned());
        match below.as_object().is_some_and(|below| below.keys().any(|name| name.starts_with("f:"))) {
            true => parse(below, path, all),
            false => drop(all.insert(path.clone())),
        }
        path.pop();
    }
}

fn listed(all: Vec<Entry>) -> Value {
    let all = all.into_iter().filter(|entry| !entry.fields.is_empty()).map(|entry| {
        let mut fields = json!({});
        for path in &entry.fields {
            let mut place = &mut fields;
            for name in path {
                place = map(place).entry(format!("f:{name}")).or_insert_with(|| json!({}));
            }
        }
        let mut whole = entry.head;
        whole.insert("fieldsV1".into(), fields);
        Value::Object(whole)
    });
    Value::Array(all.collect())
}

// === impl Entry ===

impl Entry {
    fn new(writer: &Writer<'_>) -> Self {
        let mut head = json!({
            "manager": writer.manager,
            "operation": if writer.applies { "Apply" } else { "Update" },
            "apiVersion": writer.version,
            "fieldsType": "FieldsV1",
        });
        if !writer.subresource.is_empty() {
            head["subresource"] = writer.subresource.into();
        }
        Self { head: map(&mut head).clone(), fields: BTreeSet::new() }
    }

    fn is(&self, writer: &Writer<'_>) -> bool {
        let has = |field: &str| self.head.get(field).map(text).unwrap_or_default();
        has("manager") == writer.manager
            && (has("operation") == "Apply") == writer.applies
            && has("apiVersion") == writer.version
            && has("subresource") == writer.subresource
    }

    fn owner(&self) -> String {
        let has = |field: &str| self.head.get(field).map(text).unwrap_or_default();
        let subresource = match has("subresource") {
            "" => String::new(),
            name => format!(" with subresource {name:?}"),
        };
        format!("{:?}{subresource} using {}", has("manager"), has("apiVersion"))
    }
}
