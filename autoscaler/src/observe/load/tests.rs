use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use serde_json::json;

use super::*;
use crate::testing::{Dlx, KIND, LONG, Reply, id, members};

#[tokio::test]
async fn many_resources_are_asked_about_in_several_questions() {
    let state = tempfile::tempdir().unwrap();
    let (asked, fails) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let (nth, failing) = (asked.clone(), fails.clone());
    let dlx = Dlx::start(state.path(), move |member, request| {
        if nth.fetch_add(1, Ordering::SeqCst) == failing.load(Ordering::SeqCst) {
            return Reply::Json(StatusCode::INTERNAL_SERVER_ERROR, json!({}));
        }
        let resources = request.body["resources"].as_array().unwrap().iter();
        let load = |id: &serde_json::Value| {
            json!({"namespace": id["namespace"], "name": id["name"], "requests": 7, "held": 0, "in_flight_ms": 0,
                "at_ms": 1, "busy": {}})
        };
        Reply::Json(
            StatusCode::OK,
            json!({"member": member, "resources": resources.map(load).collect::<Vec<_>>()}),
        )
    });
    let members = members(state.path(), LONG);
    let all: Vec<_> = (0..2_500).map(|number| id(&format!("web-{number}"))).collect();
    let reports = query_load(&members, KIND, all.clone()).await;
    assert_eq!((reports.unknown.clone(), reports.answers.len()), (None, 1));
    let known = &reports.answers[0].1;
    assert!(all.iter().all(|id| known[id].requests == 7));
    let sizes: Vec<_> = {
        let requests = dlx.requests.lock().unwrap();
        requests.iter().map(|request| request.body["resources"].as_array().unwrap().len()).collect()
    };
    assert_eq!(sizes, [1_000, 1_000, 500]);
    // A partial answer counts as no answer: the other resources may be busy.
    fails.store(asked.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
    let reports = query_load(&members, KIND, all).await;
    assert!(reports.unknown.is_some() && reports.answers.is_empty(), "{reports:?}");
}
