//! A try against DLXs that are real servers, and a plugin in memory.

mod switchover;

use http::StatusCode;
use scaler_types::{Phase, Scaling};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    interception::InterceptionTable,
    observe::ActivitySource,
    testing::{Dlx, KIND, LONG, Reply, SHORT, Store, confirmed, members, refused, serving_dlxs},
};

/// Of a path that needs none.
fn no_switch() -> Switchover {
    Switchover {
        interceptions: InterceptionTable::default(),
        dlxs: serving_dlxs(&[]).1,
        source: ActivitySource::Dlx,
        settings: Arc::default(),
        namespace: "demo".to_owned(),
    }
}

struct Site {
    state: TempDir,
    store: Store,
    scaling: ScalingTable,
    stop: CancellationToken,
}

impl Site {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            store: Store::with(["hello"]),
            scaling: ScalingTable::default(),
            stop: CancellationToken::new(),
        }
    }

    fn dlx(&self, script: impl Fn() -> Reply + Send + Sync + 'static) -> Dlx {
        Dlx::start(self.state.path(), move |_, _| script())
    }

    async fn run_with(&self, rules: Rules, activity_timeout: Duration) -> DrainOutcome {
        let one = DrainAttempt {
            plugin: Arc::new(self.store.clone()),
            members: members(self.state.path(), activity_timeout),
            rules,
            deadline: LONG,
            switchover: no_switch(),
            scaling: self.scaling.clone(),
            stop: self.stop.clone(),
        };
        let resource = self.store.get("hello");
        timeout(Duration::from_secs(60), one.run(&resource, "idle for 10m"))
            .await
            .expect("the try does not end")
    }

    async fn run(&self) -> DrainOutcome {
        self.run_with(Rules::default(), LONG).await
    }

    fn calls(&self) -> Vec<&'static str> {
        self.store.inner().calls.clone()
    }

    #[track_caller]
    fn is(&self, state: Phase, replicas: u32) {
        let hello = self.store.get("hello");
        assert_eq!((hello.record.phase, hello.replicas), (state, replicas));
    }
}

#[tokio::test]
async fn confirmed_by_all_it_is_scaled_to_zero() {
    let site = Site::new();
    let dlxs = [site.dlx(confirmed), site.dlx(confirmed)];
    assert_eq!(site.run().await, DrainOutcome::Committed);
    site.is(Phase::Asleep, 0);
    let record = site.store.get("hello").record;
    assert_eq!(record.reason, "idle for 10m");
    for dlx in &dlxs {
        let requests = dlx.requests.lock().unwrap().clone();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].path, "/api/v1/confirm-drain");
        assert_eq!(requests[0].authorization.as_deref(), Some("Bearer secret"));
        assert_eq!(
            requests[0].body,
            json!({"namespace": "demo", "name": "hello", "kind": KIND, "nonce": record.nonce.to_string(),
                   "wait": "30m", "member": dlx.name})
        );
    }
    assert_eq!(site.calls(), ["compare_and_set", "set_scale"]);
}

#[tokio::test]
async fn one_refusal_reverts_and_waits_for_no_other() {
    let site = Site::new();
    let _slow = site.dlx(|| Reply::Never);
    let refusing = site.dlx(|| refused("2 requests in flight"));
    let reason = format!("DLX {}: 2 requests in flight", refusing.name);
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Refused(reason)));
    site.is(Phase::Active, 1);
    assert_eq!(site.calls(), ["compare_and_set"; 2]);
}

#[tokio::test]
async fn an_unreachable_dlx_reverts() {
    let site = Site::new();
    let (_confirming, _silent) = (site.dlx(confirmed), site.dlx(|| Reply::Never));
    let end = site.run_with(Rules::default(), SHORT).await;
    assert!(
        matches!(&end, DrainOutcome::Reverted(RevertReason::Unreachable(reason)) if reason.ends_with("no answer within 100ms")),
        "{end}"
    );
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn an_answer_that_is_not_quite_a_confirmation_is_none() {
    for reply in [
        || Reply::Json(StatusCode::OK, json!({})),
        || Reply::Json(StatusCode::OK, json!({"confirmed": false})),
        || Reply::Json(StatusCode::OK, json!({"confirmed": "true"})),
        || Reply::Json(StatusCode::ACCEPTED, json!({"confirmed": true})),
        || Reply::Json(StatusCode::CONFLICT, json!({"confirmed": true})),
        || Reply::Json(StatusCode::UNAUTHORIZED, json!({"error": "no token"})),
    ] {
        let site = Site::new();
        let _dlx = site.dlx(reply);
        let end = site.run().await;
        assert!(matches!(end, DrainOutcome::Reverted(RevertReason::Unreachable(_))), "{end}");
        site.is(Phase::Active, 1);
    }
}

#[tokio::test]
async fn without_a_dlx_nothing_sleeps() {
    let site = Site::new();
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::NoDlx("there is no DLX".to_owned())));
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn members_that_cannot_be_read_are_not_none() {
    let site = Site::new();
    std::fs::write(site.state.path().join("members"), "no folder").unwrap();
    let end = site.run().await;
    assert!(matches!(end, DrainOutcome::Reverted(RevertReason::NoDlx(_))), "{end}");
    site.is(Phase::Active, 1);
}

/// A DLX that registers once the record is written may have missed nothing, and is asked all the same.
#[tokio::test]
async fn a_dlx_that_joins_after_the_record_was_written_is_asked() {
    let joins = |site: &Site| {
        let (state, joined) = (site.state.path().to_owned(), Arc::new(std::sync::Mutex::new(Vec::new())));
        let keep = joined.clone();
        site.store.on_write(move |_, record| {
            if record.phase == Phase::Draining {
                joined.lock().unwrap().push(Dlx::start(&state, |_, _| refused("1 requests held")));
            }
        });
        keep
    };
    let site = Site::new();
    let _first = site.dlx(confirmed);
    let _joined = joins(&site);
    let end = site.run().await;
    assert!(matches!(end, DrainOutcome::Reverted(RevertReason::Refused(_))), "{end}");
    site.is(Phase::Active, 1);

    // With that rule left out it is not: which is what the rule is for.
    let site = Site::new();
    let _first = site.dlx(confirmed);
    let _joined = joins(&site);
    let end = site.run_with(Rules { members_after_fence: false, ..Rules::default() }, LONG).await;
    assert_eq!(end, DrainOutcome::Committed);
}

/// Every DLX confirmed, and then a request came: its DLX has written `active` before it forwards.
#[tokio::test]
async fn a_request_after_the_confirmation_wins() {
    let late = |site: &Site| {
        let store = site.store.clone();
        site.dlx(move || {
            store.write("hello", Phase::Active);
            confirmed()
        })
    };
    let site = Site::new();
    let _dlx = late(&site);
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Changed));
    site.is(Phase::Active, 1);

    // With that rule left out the request would be lost: which is what the rule is for.
    let site = Site::new();
    let _dlx = late(&site);
    let rules = Rules { commit_tests_version: false, ..Rules::default() };
    assert_eq!(site.run_with(rules, LONG).await, DrainOutcome::Committed);
    site.is(Phase::Asleep, 0);
}

#[tokio::test]
async fn what_another_writer_changed_is_left_alone() {
    let site = Site::new();
    let dlx = site.dlx(confirmed);
    let stale = site.store.get("hello");
    site.store.write("hello", Phase::Active);
    let one = DrainAttempt {
        plugin: Arc::new(site.store.clone()),
        members: members(site.state.path(), LONG),
        rules: Rules::default(),
        deadline: LONG,
        switchover: no_switch(),
        scaling: ScalingTable::default(),
        stop: site.stop.clone(),
    };
    assert_eq!(one.run(&stale, "idle").await, DrainOutcome::Reverted(RevertReason::Changed));
    assert_eq!(dlx.count("/"), 0);
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn a_failed_call_is_reported() {
    let unreachable = ScaleError::Retry { after: Duration::ZERO, reason: "no route".to_owned() };
    let site = Site::new();
    let _dlx = site.dlx(confirmed);
    site.store.inner().refuse_scale = Some(unreachable.clone());
    let end = site.run().await;
    assert_eq!(end.to_string(), "failed: scaling to zero: no route; retry in 0s");
    // Reverted at once: if the scale happened after all, the revert finds another version.
    site.is(Phase::Active, 1);
    let reason = site.store.get("hello").record.reason;
    assert_eq!(reason, "kept awake: scaling to zero: no route; retry in 0s");

    let site = Site::new();
    site.store.inner().refuse_records = Some(unreachable.clone());
    let end = site.run().await;
    assert_eq!(end.to_string(), "failed: writing the record: no route; retry in 0s");

    // A revert that cannot be written is no revert.
    let site = Site::new();
    let _dlx = site.dlx(|| refused("2 requests in flight"));
    site.store.on_write(move |store, _| store.inner().refuse_records = Some(unreachable.clone()));
    let end = site.run().await;
    assert!(matches!(end, DrainOutcome::Failed(_)), "{end}");
    site.is(Phase::Draining, 1);
}

#[tokio::test]
async fn what_cannot_be_drained_stays_awake() {
    let site = Site::new();
    let dlx = site.dlx(|| refused("2 requests in flight"));
    site.store.inner().refuse_records = Some(ScaleError::Unsupported);
    let end = site.run().await;
    assert_eq!(
        end.to_string(),
        "failed: its plugin stores no records (compare_and_set is unsupported), so it stays awake"
    );
    site.is(Phase::Active, 1);
    assert_eq!(dlx.count("/"), 0);
}

#[tokio::test]
async fn a_stopping_process_reverts_at_once() {
    let site = Site::new();
    let stop = site.stop.clone();
    let _dlx = site.dlx(move || {
        stop.cancel();
        Reply::Never
    });
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Stopping));
    site.is(Phase::Active, 1);
}

/// Workers of a queue that have no host, no port and no Service; it was just read, and is empty.
fn without_requests(site: &mut Site) {
    site.store.change("hello", |hello| {
        let queues = vec!["test://mails".to_owned()];
        hello.scaling = Some(scaler_types::Scaling { queues, ..scaler_types::Scaling::up_to(3) });
    });
    site.scaling = ScalingTable::with_messages(&site.store.get("hello"), 0);
}

#[tokio::test]
async fn without_requests_it_sleeps_in_an_installation_without_a_dlx() {
    let mut site = Site::new();
    without_requests(&mut site);
    assert_eq!(site.run().await, DrainOutcome::Committed);
    site.is(Phase::Asleep, 0);
    assert_eq!(site.calls(), ["compare_and_set", "set_scale"], "the drain is made");
}

#[tokio::test]
async fn without_requests_the_dlxs_that_there_are_confirm_all_the_same() {
    let mut site = Site::new();
    without_requests(&mut site);
    let dlx = site.dlx(|| refused("1 requests in flight"));
    assert!(matches!(site.run().await, DrainOutcome::Reverted(RevertReason::Refused(_))));
    site.is(Phase::Active, 1);
    assert_eq!(dlx.count("/api/v1/confirm-drain"), 1);
}

#[tokio::test]
async fn a_message_that_arrives_during_the_drain_keeps_it_awake() {
    let mut site = Site::new();
    without_requests(&mut site);
    assert_eq!(site.run().await, DrainOutcome::Committed);
    let mut site = Site::new();
    without_requests(&mut site);
    site.scaling = ScalingTable::with_messages(&site.store.get("hello"), 1);
    let why = "test://mails has 1 messages waiting, 0 in flight, 0 delayed".to_owned();
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::NotIdle(why)));
    site.is(Phase::Active, 1);
}

/// As after a lost leadership: the scaler has ended, and its table is empty.
#[tokio::test]
async fn queues_and_metrics_of_which_nothing_is_known_keep_it_awake() {
    let metric = scaler_types::ScalingMetric {
        metric_name: "lag".to_owned(),
        window_size: Duration::from_secs(60),
        target_per_replica: 5.0,
    };
    for by_metric in [false, true] {
        let mut site = Site::new();
        without_requests(&mut site);
        if by_metric {
            let (metrics, up_to) = (vec![metric.clone()], scaler_types::Scaling::up_to(3));
            site.store.change("hello", |hello| {
                hello.scaling = Some(scaler_types::Scaling { metrics, ..up_to });
            });
        }
        site.scaling = ScalingTable::default();
        let why = "its queues and metrics have not been read yet".to_owned();
        assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::NotIdle(why)));
        site.is(Phase::Active, 1);
    }
}

#[tokio::test]
async fn a_stopping_process_commits_nothing_where_no_dlx_is_asked() {
    let mut site = Site::new();
    without_requests(&mut site);
    let stop = site.stop.clone();
    site.store.on_write(move |_, _| stop.cancel());
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Stopping));
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn without_requests_it_stays_awake_while_the_dlxs_cannot_be_listed() {
    let mut site = Site::new();
    without_requests(&mut site);
    std::fs::write(site.state.path().join("members"), "no folder").unwrap();
    assert!(matches!(site.run().await, DrainOutcome::Reverted(RevertReason::NoDlx(_))));
    site.is(Phase::Active, 1);
}

/// Its requests pass no DLX that could confirm anything: one write that tests the version, and no DLX is asked.
#[tokio::test]
async fn in_traffic_mode_external_no_dlx_is_asked() {
    let site = Site::new();
    let dlx = site.dlx(|| refused("1 requests in flight"));
    let mut external = site.store.get("hello");
    external.traffic_mode = TrafficMode::External;
    site.store.put(external.clone());
    assert_eq!(site.run().await, DrainOutcome::Committed);
    site.is(Phase::Asleep, 0);
    assert_eq!((site.calls(), dlx.count("/")), (vec!["set_scale"], 0));
    // Another process works on it, or was faster.
    (external.record.phase, external.replicas) = (Phase::Waking, 1);
    site.store.put(external);
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Changed));
    site.is(Phase::Waking, 1);
}

#[tokio::test]
async fn in_traffic_mode_external_work_in_progress_and_a_stop_keep_it_awake() {
    let mut site = Site::new();
    let mut external = site.store.get("hello");
    external.traffic_mode = TrafficMode::External;
    external.scaling = Some(Scaling { queues: vec!["test://jobs".to_owned()], ..Scaling::up_to(3) });
    site.store.put(external.clone());
    site.scaling = ScalingTable::with_messages(&external, 3);
    let DrainOutcome::Reverted(RevertReason::NotIdle(why)) = site.run().await else { panic!("it has work") };
    assert!(why.contains("3 messages waiting"), "{why}");
    site.scaling = ScalingTable::with_messages(&external, 0);
    site.stop.cancel();
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Stopping));
    assert_eq!(site.calls(), Vec::<&str>::new());
    site.is(Phase::Active, 1);
    site.stop = CancellationToken::new();
    let after = Duration::from_secs(5);
    let busy = ScaleError::Busy { after, reason: "1 of its 1 pods may have work".to_owned() };
    site.store.set(|store| store.refuse_scale = Some(busy));
    let why = "1 of its 1 pods may have work".to_owned();
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::NotIdle(why)));
    site.store.set(|store| store.refuse_scale = None);
    assert_eq!(site.run().await, DrainOutcome::Committed);
}

/// The plugin asks the replicas at the commit. A busy one is no failure.
#[tokio::test]
async fn a_replica_that_has_work_reverts() {
    let site = Site::new();
    let _dlx = site.dlx(confirmed);
    let reason = "1 of its 1 pods may have work".to_owned();
    let busy = ScaleError::Busy { after: Duration::from_secs(5), reason: reason.clone() };
    site.store.set(|store| store.refuse_scale = Some(busy));
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::NotIdle(reason)));
    site.is(Phase::Active, 1);
    assert!(site.store.get("hello").record.reason.contains("may have work"));
}
