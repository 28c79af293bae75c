//! Events, by the group that they are written by today.

use serde_json::{Value, json};

use crate::{
    setup::{Setup, run},
    validation::causes,
};

fn event(api: &Setup) -> Value {
    json!({
        "metadata": {"name": "one"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "scaler-dlx", "reportingInstance": "dlx-0", "action": "Scale", "reason": "Woken",
        "note": "it was asked for", "type": "Normal",
        "regarding": {"kind": "Deployment", "apiVersion": "apps/v1", "namespace": api.namespace, "name": "web"},
    })
}

#[test]
fn an_event_says_who_what_and_why_and_no_more_than_it_may() {
    run(|api| async move {
        let path = api.path("events.k8s.io/v1", "events");
        for (field, value, named) in [
            ("action", json!(""), "action"),
            ("reason", json!("x".repeat(129)), "reason"),
            ("note", json!("x".repeat(1025)), "message"),
            ("note", json!("ä".repeat(513)), "message"),
            ("type", json!("Error"), "type"),
            ("eventTime", Value::Null, "eventTime"),
            ("reportingController", json!("a dlx"), "reportingController"),
            ("reportingInstance", json!(""), "reportingInstance"),
            (
                "series",
                json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}),
                "series.count",
            ),
        ] {
            let mut wrong = event(&api);
            wrong[field] = value;
            assert_eq!(causes(&api, &path, &wrong).await, [named], "{field}");
        }
        let mut elsewhere = event(&api);
        elsewhere["regarding"]["namespace"] = json!("default");
        assert_eq!(causes(&api, &path, &elsewhere).await, ["involvedObject.namespace"]);
        let mut long = event(&api);
        long["note"] = json!("x".repeat(1024));
        api.create(&path, &long).await;
    });
}

#[test]
fn a_repetition_is_counted_and_says_what_the_first_one_said() {
    run(|api| async move {
        let path = api.path("events.k8s.io/v1", "events");
        api.create(&path, &event(&api)).await;
        let path = format!("{path}/one");
        let series = |count: u32| json!({"series": {"count": count, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
        assert_eq!(api.patch(&path, "merge", &series(1)).await.0, 422);
        let (status, counted) = api.patch(&path, "merge", &series(2)).await;
        assert_eq!((status, &counted["series"]["count"]), (200, &json!(2)), "{counted}");
        for (field, value, named) in [
            ("note", json!("another cause"), "message"),
            ("reason", json!("WakeFailed"), "reason"),
            ("type", json!("Warning"), "type"),
        ] {
            let (status, refused) = api.patch(&path, "merge", &json!({field: value})).await;
            assert_eq!(
                (status, &refused["details"]["causes"][0]["field"]),
                (422, &json!(named)),
                "{refused}"
            );
        }
    });
}
