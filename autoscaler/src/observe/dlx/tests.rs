//! What is made of the DLXs' answers.

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{Dlx, KIND, LONG, Reply, SHORT, Store, activity, id, idle, members};

struct Site {
    state: TempDir,
    resources: Vec<Resource>,
}

impl Site {
    fn new() -> Self {
        let resources = ["hello", "other"].map(|name| Store::with([name]).get(name)).to_vec();
        Self { state: tempfile::tempdir().unwrap(), resources }
    }

    /// A DLX that reports this of `hello`, and nothing noteworthy of `other`.
    fn dlx_reporting(&self, hello: Value) -> Dlx {
        self.answers(move |member| activity(member, [hello.clone(), idle("other")].into_iter()))
    }

    fn answers(&self, body: impl Fn(&str) -> Value + Send + Sync + 'static) -> Dlx {
        Dlx::start(self.state.path(), move |member, _| Reply::Json(StatusCode::OK, body(member)))
    }

    async fn query_activity(&self, activity_timeout: Duration) -> Activity {
        let windows = [Duration::from_secs(600), Duration::from_secs(90)].into();
        query_activity(&members(self.state.path(), activity_timeout), KIND, &self.resources, &windows).await
    }
}

fn hello(change: impl FnOnce(&mut Value)) -> Value {
    let mut hello = idle("hello");
    change(&mut hello);
    hello
}

#[tokio::test]
async fn every_dlx_is_queried_once_for_all_resources() {
    let site = Site::new();
    let busy = hello(|hello| {
        (hello["requests"], hello["in_flight"], hello["held"]) = (9.into(), 2.into(), 1.into());
        hello["idle"] = json!("250ms");
        hello["windows"] = json!({"10m": 5, "1m30s": 4});
    });
    let dlxs = [site.dlx_reporting(busy), site.dlx_reporting(hello(|hello| hello["idle"] = Value::Null))];
    let observed = site.query_activity(LONG).await;
    assert_eq!(observed.source.unknown, None);
    let mut names: Vec<_> = dlxs.iter().map(|dlx| dlx.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(observed.source.members.iter().map(|name| &**name).collect::<Vec<_>>(), names);
    assert_eq!(observed.samples.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    let of = |dlx: &Dlx| observed.samples[0].iter().find(|sample| *sample.member == *dlx.name).unwrap();
    let busy = of(&dlxs[0]);
    assert_eq!((busy.requests, busy.in_flight, busy.held), (9, 2, 1));
    assert_eq!((busy.idle, busy.counted_for), (Some(Duration::from_millis(250)), Duration::from_secs(7200)));
    assert_eq!(
        (busy.count(Duration::from_secs(600)), busy.count(Duration::from_secs(90))),
        (Some(5), Some(4))
    );
    let never = of(&dlxs[1]);
    assert_eq!((never.idle, never.count(Duration::from_secs(90))), (None, None));
    for dlx in &dlxs {
        let requests = dlx.requests.lock().unwrap().clone();
        assert_eq!(
            requests.iter().map(|request| &*request.path).collect::<Vec<_>>(),
            ["/api/v1/activity?window=1m30s&window=10m"]
        );
    }
}

/// It is gone, and what it counted is not.
#[tokio::test]
async fn a_last_report_stands_for_the_dlx_that_sent_it() {
    let site = Site::new();
    let reported = json!({"idle": "5m", "counted_for": "8m", "counted_since_start": true, "windows": {"10m": 5, "1m30s": 0}});
    let mut leaving = site.dlx_reporting(hello(|hello| {
        hello.as_object_mut().unwrap().extend(reported.as_object().unwrap().clone());
    }));
    let members = members(site.state.path(), LONG);
    let serving = daemon::coordination::Coordinator::Files(site.state.path().to_owned()).serving();
    let mut registered = serving.registered();
    let follow = tokio::spawn(members.clone().follow_last_reports(serving.registered()));
    registered.wait_for(|state| !state.names.is_empty()).await.unwrap();
    let windows = [Duration::from_secs(600), Duration::from_secs(90)].into();
    // The question, and that its answer was received.
    while leaving.count("/api/v1/last-activity") < 2 || members.last_reports_for(&windows).is_empty() {
        tokio::task::yield_now().await;
    }
    leaving.leave();
    let staying = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        path if path.starts_with("/api/v1/last-activity") => Reply::Never,
        _ => Reply::Json(StatusCode::OK, activity(member, ["hello", "other"].into_iter().map(idle))),
    });
    let observed = query_activity(&members, KIND, &site.resources, &windows).await;
    assert_eq!(observed.source.unknown, None);
    let name = |dlx: &Dlx| -> Arc<str> { dlx.name.as_str().into() };
    assert!(observed.source.reported.contains(&name(&leaving)));
    assert_eq!(observed.source.members, [name(&staying)]);
    assert!(observed.source.registered.names.contains(&name(&leaving)));
    let sample = observed.samples[0].iter().find(|sample| sample.member == name(&leaving)).unwrap();
    assert!(sample.idle > Some(Duration::from_secs(300)) && sample.counted_for > Duration::from_secs(480));
    assert!(sample.counted_since_start);
    assert_eq!(
        (sample.count(Duration::from_secs(600)), sample.count(Duration::from_secs(90))),
        (Some(5), Some(0))
    );
    follow.abort();
}

/// Its connection may be dead without any notice.
#[tokio::test(start_paused = true)]
async fn a_last_report_that_does_not_come_is_requested_again() {
    let site = Site::new();
    let dlx = Dlx::start(site.state.path(), |_, _| Reply::Never);
    let members = members(site.state.path(), LONG);
    let serving = daemon::coordination::Coordinator::Files(site.state.path().to_owned()).serving();
    let follow = tokio::spawn(members.clone().follow_last_reports(serving.registered()));
    let begun = tokio::time::Instant::now();
    while dlx.count("/api/v1/last-activity") < 3 {
        // The clock moves no faster than what is asked.
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < LONG, "it waits for ever");
    }
    follow.abort();
}

/// What a DLX forgot before it left, it may have served.
#[tokio::test]
async fn what_a_last_report_does_not_name_may_have_been_forgotten() {
    let resources = Site::new().resources;
    let places = index_by_name(&resources);
    let windows = [Duration::from_secs(600), Duration::from_secs(60)].into();
    let body = json!({"member": "a", "last_forgotten": "2m", "resources": [idle("hello")]}).to_string();
    let mut samples = vec![Vec::new(); 2];
    let ago = Duration::from_secs(60);
    merge_last(body.as_bytes(), &"a".into(), ago, KIND, &places, &windows, &mut samples).unwrap();
    let forgotten = &samples[1][0];
    assert_eq!((forgotten.idle, forgotten.counted_for), (None, Duration::from_secs(180)));
    assert_eq!(forgotten.idle_for(), Some(Duration::from_secs(180)));
    assert_eq!(
        (forgotten.count(Duration::from_secs(600)), forgotten.count(Duration::from_secs(60))),
        (None, Some(0))
    );
    // Nothing was forgotten: of what it does not name it had nothing.
    let body = json!({"member": "a", "last_forgotten": null, "resources": [idle("hello")]}).to_string();
    let mut samples = vec![Vec::new(); 2];
    merge_last(body.as_bytes(), &"a".into(), ago, KIND, &places, &windows, &mut samples).unwrap();
    assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test]
async fn names_of_other_namespaces_and_kinds_stay_apart() {
    let site = Site::new();
    let _dlx = site.answers(|member| {
        let elsewhere =
            hello(|hello| (hello["namespace"], hello["requests"]) = ("elsewhere".into(), 1.into()));
        let kind = hello(|hello| (hello["kind"], hello["requests"]) = ("else".into(), 2.into()));
        activity(member, [elsewhere, kind, idle("other")].into_iter())
    });
    let observed = site.query_activity(LONG).await;
    assert_eq!(observed.source.unknown, None);
    // Nothing is reported of demo/hello of this kind: it has no sample, which is not zero.
    assert_eq!(observed.samples.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn an_answer_that_lacks_something_is_none() {
    let spoilt: Vec<(&str, Value)> = vec![
        ("in_flight is missing", hello(|hello| drop(hello.as_object_mut().unwrap().remove("in_flight")))),
        ("held is missing", hello(|hello| drop(hello.as_object_mut().unwrap().remove("held")))),
        ("idle is missing, not null", hello(|hello| drop(hello.as_object_mut().unwrap().remove("idle")))),
        ("counted_for is missing", hello(|hello| drop(hello.as_object_mut().unwrap().remove("counted_for")))),
        ("counted_for is null", hello(|hello| hello["counted_for"] = Value::Null)),
        ("in_flight is negative", hello(|hello| hello["in_flight"] = json!(-1))),
        ("a count is negative", hello(|hello| hello["windows"] = json!({"10m": -1}))),
        ("a count is not whole", hello(|hello| hello["windows"] = json!({"10m": 0.5}))),
        ("a window is none", hello(|hello| hello["windows"] = json!({"soon": 0}))),
        ("idle is no duration", hello(|hello| hello["idle"] = json!("long"))),
        ("idle is negative", hello(|hello| hello["idle"] = json!("-1s"))),
    ];
    for (what, hello) in spoilt {
        let site = Site::new();
        let dlx = site.dlx_reporting(hello);
        let observed = site.query_activity(LONG).await;
        assert_eq!(
            observed.source.unknown,
            Some(ActivityUnknown::Unreachable([dlx.name.clone()].into())),
            "{what}"
        );
    }
}

#[tokio::test]
async fn one_that_does_not_answer_is_named_until_it_does_or_is_gone() {
    let site = Site::new();
    let _good = site.dlx_reporting(idle("hello"));
    let mut stopped = Dlx::start(site.state.path(), |_, _| Reply::Never);
    let observed = site.query_activity(SHORT).await;
    assert_eq!(observed.source.unknown, Some(ActivityUnknown::Unreachable([stopped.name.clone()].into())));
    assert_eq!(observed.source.members.len(), 2);
    stopped.leave();
    assert_eq!(site.query_activity(SHORT).await.source.unknown, None);

    let site = Site::new();
    let wrong = Dlx::start(site.state.path(), |_, _| Reply::Json(StatusCode::SERVICE_UNAVAILABLE, json!({})));
    assert_eq!(
        site.query_activity(LONG).await.source.unknown,
        Some(ActivityUnknown::Unreachable([wrong.name.clone()].into()))
    );
}

/// After a restart another incarnation may listen at the same address: its report is not the old one's.
#[tokio::test]
async fn another_one_at_the_same_address_is_not_believed() {
    let site = Site::new();
    let dlx = site.answers(|_| activity("another", [idle("hello"), idle("other")].into_iter()));
    assert_eq!(
        site.query_activity(LONG).await.source.unknown,
        Some(ActivityUnknown::Unreachable([dlx.name.clone()].into()))
    );
}

#[tokio::test]
async fn without_members_nothing_is_known() {
    let site = Site::new();
    assert_eq!(site.query_activity(LONG).await.source.unknown, Some(ActivityUnknown::NoDlx));
    std::fs::write(site.state.path().join("members"), "no folder").unwrap();
    assert!(matches!(site.query_activity(LONG).await.source.unknown, Some(ActivityUnknown::SourceFailed(_))));
}

#[test]
fn of_one_that_is_listed_twice_the_first_counts() {
    let twice = [Resource::new(id("hello")), Resource::new(id("hello"))];
    assert_eq!(index_by_name(&twice)["demo"]["hello"], 0);
}
