//! The one kind of write: row and scale in one JSON patch, which changes nothing unless the object is what it was
//! decided on.

use scaler_types::{Row, Target};
use serde_json::{Value, json};

use crate::{
    annotations,
    facts::Workload,
    row::{self, Change, Kept},
};

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The patch.
    pub operations: Value,
    /// The row's annotation after it.
    pub kept: Kept,
    /// The generation after it.
    pub generation: i64,
    /// What the patch cannot test any other way than by `resourceVersion`: it may also fail for a change of the
    /// status, and is then to be built anew.
    pub strict: bool,
}

/// The replicas that a target means for a workload.
pub fn replicas(workload: &Workload, target: Option<Target>) -> u32 {
    let now = workload.replicas;
    match target {
        None => now,
        Some(Target::Zero) => 0,
        Some(Target::Exactly(count)) => count,
        Some(Target::AtLeast(_)) if now > 0 => now.max(at_least(target)),
        Some(Target::AtLeast(_)) => {
            // What it had, unless that was written on another specification.
            let before = workload.kept.before(workload.generation).unwrap_or(0);
            before.max(at_least(target))
        }
    }
}

fn at_least(target: Option<Target>) -> u32 {
    match target {
        Some(Target::AtLeast(count)) => count.max(1),
        _ => 0,
    }
}

/// Writes `row`, with a scale if there is a target.
pub fn write(workload: &Workload, row: &Row, target: Option<Target>, now: &str) -> Write {
    let replicas = replicas(workload, target);
    // The API server counts a change of the specification itself, and nothing else: not annotations, not status.
    let generation = workload.generation + i64::from(replicas != workload.replicas);
    let change = Change {
        row,
        generation,
        replicas: workload.replicas,
        target: replicas,
        sleep_now: workload.annotations.get(annotations::SLEEP_NOW).map(String::as_str),
        now,
    };
    let kept = workload.kept.after(change, workload.generation);
    let annotation =
        format!("/metadata/annotations/{}", row::ANNOTATION.replace('~', "~0").replace('/', "~1"));
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": workload.meta.uid}),
        json!({"op": "test", "path": "/metadata/generation", "value": workload.generation}),
    ];
    let strict = workload.row_text().is_none();
    match workload.row_text() {
        Some(old) => operations.push(json!({"op": "test", "path": annotation, "value": old})),
        // A patch has no test for what is not there (RFC 6902, 4.6).
        None => operations.push(
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": workload.resource_version}),
        ),
    }
    if !workload.annotated {
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    operations.push(json!({"op": "add", "path": annotation, "value": kept.text()}));
    if replicas != workload.replicas {
        operations.push(json!({"op": "add", "path": workload.kind.replicas_path, "value": replicas}));
    }
    Write { operations: Value::Array(operations), kept, generation, strict }
}
