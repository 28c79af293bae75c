//! The one kind of write: record and scale in one JSON patch, which changes nothing unless the object is what it was
//! decided on.

use k8s_openapi::jiff::Timestamp;
use scaler_types::{Record, Target};
use serde_json::{Value, json};

use crate::objects::{
    Workload, annotations,
    record::{self, RecordChange, StoredState},
};

/// The patch to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkloadPatch {
    pub(crate) operations: Value,
    /// The record's annotation after it.
    pub(crate) stored: StoredState,
    /// The generation after it.
    pub(crate) generation: i64,
    /// It tests `resourceVersion`, the only way to test its condition: it may also fail for a change of the status, and
    /// is then to be built anew.
    pub(crate) strict: bool,
}

/// The replicas that a target means for a workload. `remembers`: a wake gives it those that it had before its sleep.
pub(crate) fn replicas(workload: &Workload, target: Option<Target>, remembers: bool) -> u32 {
    let now = workload.replicas;
    match target {
        None => now,
        Some(Target::Zero) => 0,
        Some(Target::Exactly(count)) => count.get(),
        Some(Target::AtLeast(_)) if now > 0 => now.max(at_least(target)),
        Some(Target::AtLeast(_)) => {
            // The replicas before, unless they were written on another specification.
            let before = workload.replicas_before().filter(|_| remembers).unwrap_or(0);
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

/// Writes `record` and `replicas`.
pub(crate) fn build_patch(
    workload: &Workload,
    record: &Record,
    replicas: u32,
    now: Timestamp,
) -> WorkloadPatch {
    let generation = workload.generation + workload.kind.generations(replicas != workload.replicas);
    let annotation = |name: &str| workload.annotations.get(name).map(String::as_str);
    let change = RecordChange {
        record,
        uid: &workload.meta.uid,
        generation,
        replicas: workload.replicas,
        before: workload.replicas_before(),
        target: replicas,
        owners: &workload.owners,
        sleep_now: annotation(annotations::SLEEP_NOW),
        wake_now: annotation(annotations::WAKE_NOW),
        spec: &workload.spec,
        now,
    };
    let kept = workload.stored.apply(change);
    let annotation =
        format!("/metadata/annotations/{}", record::ANNOTATION.replace('~', "~0").replace('/', "~1"));
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": workload.meta.uid}),
        json!({"op": "test", "path": "/metadata/generation", "value": workload.generation}),
    ];
    let strict = workload.plain_record_text().is_none();
    match workload.plain_record_text() {
        Some(old) => operations.push(json!({"op": "test", "path": annotation, "value": old})),
        // A patch has no test for what is not there (RFC 6902, 4.6), and none for a text that the server may write otherwise.
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
    WorkloadPatch { operations: Value::Array(operations), stored: kept, generation, strict }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, sync::Arc};

    use kube::core::{ApiResource, GroupVersionKind};
    use scaler_types::{Nonce, Phase};

    use super::*;
    use crate::{ascii, objects::Kind};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn workload(kind: &str, object: Value) -> Workload {
        let api = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
        let kind = Arc::new(Kind { index: 0, api, replicas_path: "/spec/replicas".to_owned() });
        Workload::new(&kind, serde_json::from_value(object).unwrap())
    }

    fn object(annotations: Value, replicas: u32) -> Value {
        json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u", "generation": 4, "resourceVersion": "77",
                "annotations": annotations,
            },
            "spec": {"replicas": replicas},
        })
    }

    fn record(state: Phase) -> Record {
        Record { phase: state, nonce: Nonce(1), ..Record::default() }
    }

    #[test]
    fn each_write_tests_what_it_was_decided_on() {
        let kept = StoredState { record: record(Phase::Draining), ..StoredState::default() }.text();
        let seen = workload("Deployment", object(json!({"scaler.dev/state": kept}), 3));
        let write = build_patch(&seen, &record(Phase::Asleep), 0, NOW);
        let path = "/metadata/annotations/scaler.dev~1state";
        assert_eq!(
            write.operations,
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/metadata/generation", "value": 4},
                {"op": "test", "path": path, "value": kept},
                {"op": "add", "path": path, "value": write.stored.text()},
                {"op": "add", "path": "/spec/replicas", "value": 0},
            ])
        );
        assert_eq!((write.generation, write.strict, write.stored.replicas), (5, false, Some(3)));
    }

    #[test]
    fn the_first_write_tests_the_version_since_nothing_tests_what_is_not_there() {
        for (annotations, made) in [(Value::Null, true), (json!({"a": "b"}), false)] {
            let seen = workload("Deployment", object(annotations, 3));
            let write = build_patch(&seen, &record(Phase::Draining), 3, NOW);
            let all = write.operations.as_array().unwrap();
            assert!(write.strict);
            assert_eq!(all[2], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "77"}));
            assert_eq!(all[3]["path"] == "/metadata/annotations", made);
            assert!(!write.operations.to_string().contains("/spec/replicas"));
        }
    }

    #[test]
    fn a_text_that_the_server_may_write_otherwise_is_tested_by_the_version() {
        let odd = r#"{"phase":"active","nonce":"1","reason":"x->y"}"#;
        for text in [odd, "not JSON <", "été", "\u{7f}", "two\nlines"] {
            let seen = workload("Deployment", object(json!({"scaler.dev/state": text}), 3));
            let write = build_patch(&seen, &record(Phase::Draining), 3, NOW);
            let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "77"});
            assert_eq!((write.strict, &write.operations[2]), (true, &test), "{text}");
            assert!(ascii::is_plain(&write.stored.text()));
        }
    }

    /// A Deployment's generation counts changes of its annotations, any other's does not (seen on Kubernetes).
    #[test]
    fn the_generation_after_a_write_is_known() {
        for (kind, replicas, expected) in
            [("Deployment", 3, 5), ("Deployment", 0, 5), ("StatefulSet", 3, 4), ("StatefulSet", 0, 5)]
        {
            let seen = workload(kind, object(json!({}), 3));
            let write = build_patch(&seen, &record(Phase::Draining), replicas, NOW);
            assert_eq!(
                (write.generation, write.stored.generation),
                (expected, Some(expected)),
                "{kind} {replicas}"
            );
        }
    }

    #[test]
    fn what_a_target_means() {
        let slept = |generation| {
            let kept = StoredState {
                record: record(Phase::Asleep),
                replicas: Some(5),
                generation: Some(generation),
                ..StoredState::default()
            };
            workload("Deployment", object(json!({"scaler.dev/state": kept.text()}), 0))
        };
        let awake = workload("Deployment", object(json!({}), 3));
        for (seen, target, expected) in [
            (&awake, None, 3),
            (&awake, Some(Target::Zero), 0),
            (&awake, Some(Target::AtLeast(1)), 3),
            (&awake, Some(Target::AtLeast(4)), 4),
            (&awake, Some(Target::Exactly(NonZeroU32::MIN)), 1),
            (&slept(4), Some(Target::AtLeast(1)), 5),
            (&slept(4), Some(Target::AtLeast(7)), 7),
            (&slept(3), Some(Target::AtLeast(1)), 1),
            (&slept(4), Some(Target::AtLeast(0)), 5),
            (&slept(3), Some(Target::AtLeast(0)), 1),
            (&slept(4), None, 0),
        ] {
            assert_eq!(replicas(seen, target, true), expected, "{target:?}");
        }
        assert_eq!(replicas(&slept(4), Some(Target::AtLeast(2)), false), 2, "it gets as many as it needs");
        assert_eq!(
            replicas(&awake, Some(Target::AtLeast(1)), false),
            3,
            "what runs is not reduced by a wake"
        );
    }

    #[test]
    fn replicas_can_be_anywhere() {
        let mut kind = (*workload("Deployment", object(json!({}), 1)).kind).clone();
        kind.replicas_path = "/spec/pool/size".to_owned();
        kind.api.kind = "Pool".to_owned();
        let mut object = object(json!({}), 1);
        object["spec"] = json!({"pool": {"size": 4}, "other": 1});
        let seen = Workload::new(&Arc::new(kind), serde_json::from_value(object).unwrap());
        assert_eq!(seen.replicas, 4);
        let write = build_patch(&seen, &record(Phase::Asleep), 0, NOW);
        let last = write.operations.as_array().unwrap().last().unwrap();
        assert_eq!(*last, json!({"op": "add", "path": "/spec/pool/size", "value": 0}));
    }
}
