//! Attempts in traffic mode `when-asleep`: an interceptor over a plugin in memory, DLXs and a Prometheus that are real servers.

use std::sync::atomic::{AtomicUsize, Ordering};

use daemon::{namespace_file::NamespaceFile, reports::Dropped, settings::Settings};
use http::StatusCode;
use prometheus_client::registry::Registry;
use scaler_types::{Backend, Interception, Phase, ScaleError, ScaleResource, TrafficMode, protocol::Rules};
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    interception::{self, InterceptionTable, Interceptor, ServingDlxs},
    observe::{ActivitySource, kubernetes::ClusterClient},
    plugin::ActivePlugin,
    telemetry::AutoscalerMetrics,
    testing::{Dlx, LONG, Reply, Store, activity, confirmed, id, idle, members, refused, serving_dlxs},
};

struct Site {
    state: TempDir,
    store: Store,
    context: interception::InterceptorContext,
    members: Members,
    rules: Rules,
    switchover: Switchover,
    prometheus: Dlx,
    _set_active: watch::Sender<ActivePlugin>,
    _dlxs: watch::Sender<daemon::members::serving::ReadyDlxs>,
}

/// What a Prometheus says to both questions: so many scrapes prove enough, and are the value at the same time. Idle is 6 or less.
fn says(value: &str) -> Reply {
    let element = json!({"metric": {"name": "web", "namespace": "demo"}, "value": [1_700_000_000.0, value]});
    let data = json!({"resultType": "vector", "result": [element]});
    Reply::Json(StatusCode::OK, json!({"status": "success", "data": data}))
}

impl Site {
    /// `answer`: the Prometheus's.
    fn new(grace: Duration, answer: impl Fn(&Store) -> Reply + Send + Sync + 'static) -> Self {
        Self::scraped("20ms", grace, answer)
    }

    /// By a Prometheus that scrapes so often.
    fn scraped(
        interval: &str,
        grace: Duration,
        answer: impl Fn(&Store) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let store = Store::with(["web"]);
        store.change("web", |web| {
            web.traffic_mode = TrafficMode::WhenAsleep;
            web.interception =
                Some(Interception { requested: true, workload_ready: true, ..Interception::default() });
            web.scale_resources = vec![ScaleResource {
                metric_name: "requests".to_owned(),
                window_size: Duration::from_millis(80),
                threshold: 6.0,
            }];
        });
        let read = store.clone();
        let mut prometheus = Dlx::start(&state.path().join("prometheus"), move |_, _| answer(&read));
        prometheus.leave();
        let text = format!(
            "namespace: demo\nmetrics:\n  source: prometheus\n  url: http://{}\n  scrapeInterval: {interval}\n  queries:\n    \
             requests: {{query: 'sum by (name, namespace) (increase(requests_total[$window]))',\n      \
             sampleCountQuery: 'min by (name, namespace) (count_over_time(requests_total[$window]) * (resets(requests_total[$window]) == bool 0))'}}\n",
            prometheus.address
        );
        let file = NamespaceFile::parse("demo.yaml", text.as_bytes()).unwrap();
        let settings = Arc::new(Settings::merge(&file.settings, &Default::default(), &Default::default()));
        let (set_dlxs, dlxs) = serving_dlxs(&["a"]);
        let context = interception::InterceptorContext {
            metrics: AutoscalerMetrics::new(&mut Registry::default()),
            dropped: Dropped::default(),
            dlxs: ServingDlxs { propagation_delay: grace, ..dlxs },
            wakes: daemon::wakes::Wakes::new(daemon::wakes::DEFAULT),
            stop: CancellationToken::new(),
        };
        let members = members(state.path(), LONG);
        let active = ActivePlugin { plugin: Arc::new(store.clone()), settings: settings.clone() };
        let (set_active, active) = watch::channel(active);
        let interceptions = InterceptionTable::default();
        tokio::spawn(Interceptor::new(active, "demo", context.clone(), interceptions.clone()).run());
        let switchover = Switchover {
            interceptions,
            dlxs: context.dlxs.clone(),
            source: ActivitySource::new(&settings.metrics, &ClusterClient::default()),
            settings,
            namespace: "demo".to_owned(),
        };
        Self {
            state,
            store,
            context,
            members,
            rules: Rules::default(),
            switchover,
            prometheus,
            _set_active: set_active,
            _dlxs: set_dlxs,
        }
    }

    async fn run(&self) -> DrainOutcome {
        let one = DrainAttempt {
            plugin: Arc::new(self.store.clone()),
            members: self.members.clone(),
            rules: self.rules,
            deadline: LONG,
            switchover: self.switchover.clone(),
            scaling: ScalingTable::default(),
            stop: self.context.stop.clone(),
        };
        let web = self.store.get("web");
        timeout(LONG, one.run(&web, "idle for 10m")).await.expect("the try does not end")
    }

    fn is(&self, state: Phase, replicas: u32) {
        let web = self.store.get("web");
        assert_eq!((web.record.phase, web.replicas), (state, replicas));
    }

    fn backends(&self) -> Vec<Backend> {
        self.store.inner().set_backend_calls.iter().map(|call| call.to).collect()
    }

    /// The Service is restored after the attempt.
    async fn restored_by_way_of_both(&self) {
        self.store.until(|inner| inner.set_backend_calls.len() == 3).await;
        assert_eq!(self.backends(), [Backend::Dlx, Backend::Both, Backend::Workload]);
        assert!(!self.store.inner().calls.contains(&"set_scale"));
    }
}

const SHORT: Duration = Duration::from_millis(20);
/// The shortest that scrapes so often prove.
const SAMPLE: Duration = Duration::from_millis(80);

#[tokio::test]
async fn seen_idle_after_the_switch_it_is_scaled_to_zero() {
    let site = Site::new(SHORT, |store| {
        let web = store.get("web");
        // Asked only when there is something to be seen.
        assert_eq!((web.record.phase, web.interception.unwrap().backend), (Phase::Draining, Backend::Dlx));
        // First the propagation delay, then the length of the sample.
        let switched = store.inner().set_backend_calls[0].at;
        assert!(switched.elapsed() >= SHORT + SAMPLE, "asked {:?} after the switch", switched.elapsed());
        says("6")
    });
    let dlx = Dlx::quiet(site.state.path(), &["web"]);
    assert_eq!(site.run().await, DrainOutcome::Committed);
    site.is(Phase::Asleep, 0);
    assert_eq!(site.backends(), [Backend::Dlx]);
    // The value and the scrapes, once each.
    assert_eq!(site.prometheus.count("/api/v1/query"), 2);
    assert_eq!((dlx.count("/api/v1/confirm-drain"), dlx.count("/api/v1/activity")), (1, 1));
    assert_eq!(site.store.inner().calls, ["compare_and_set", "set_backend", "set_scale"]);
}

#[tokio::test]
async fn not_seen_idle_it_stays_awake_and_its_service_is_restored() {
    for (answer, reason) in [
        (says as fn(&str) -> Reply, "requests_per_80ms is 7, the threshold is 6"),
        (|_| Reply::Json(StatusCode::SERVICE_UNAVAILABLE, json!({})), "503"),
    ] {
        let site = Site::new(SHORT, move |_| answer("7"));
        let _dlx = Dlx::quiet(site.state.path(), &["web"]);
        let end = site.run().await;
        assert!(
            matches!(&end, DrainOutcome::Reverted(RevertReason::NotIdle(why)) if why.contains(reason)),
            "{end}"
        );
        site.is(Phase::Active, 1);
        assert!(site.store.get("web").record.reason.starts_with("kept awake: reverted: not idle after"));
        site.restored_by_way_of_both().await;
    }
    // Not enough scrapes, or more than there can be.
    for count in ["4", "9"] {
        let site = Site::new(SHORT, move |_| says(count));
        let _dlx = Dlx::quiet(site.state.path(), &["web"]);
        assert!(matches!(site.run().await, DrainOutcome::Reverted(RevertReason::NotIdle(_))), "{count}");
        site.restored_by_way_of_both().await;
    }
}

#[tokio::test]
async fn in_flight_at_a_dlx_is_not_idle() {
    let site = Site::new(SHORT, |_| says("6"));
    let _dlx = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        "/api/v1/confirm-drain" => confirmed(),
        _ => {
            let mut web = idle("web");
            web["in_flight"] = 1.into();
            Reply::Json(StatusCode::OK, activity(member, [web].into_iter()))
        }
    });
    let end = site.run().await;
    assert!(
        matches!(&end, DrainOutcome::Reverted(RevertReason::NotIdle(why)) if why == "1 requests in flight, 0 held"),
        "{end}"
    );
    site.restored_by_way_of_both().await;
}

#[tokio::test]
async fn without_confirmation_nothing_is_intercepted() {
    let site = Site::new(SHORT, |_| says("6"));
    let _dlx = Dlx::start(site.state.path(), |_, _| refused("1 requests in flight"));
    assert!(matches!(site.run().await, DrainOutcome::Reverted(RevertReason::Refused(_))));
    assert_eq!(site.store.inner().calls, ["compare_and_set"; 2]);
}

/// A DLX writes before it forwards: noticed during the propagation delay, and during the sample.
#[tokio::test]
async fn a_request_meanwhile_ends_it_early() {
    let site = Site::new(LONG, |_| says("6"));
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let request = async {
        site.store
            .until(|inner| inner.resources[&id("web")].interception.as_ref().unwrap().backend == Backend::Dlx)
            .await;
        site.store.write("web", Phase::Active);
    };
    let (end, ()) = tokio::join!(site.run(), request);
    assert_eq!(end, DrainOutcome::Reverted(RevertReason::Changed));
    assert_eq!(site.prometheus.count("/"), 0);

    let times = Arc::new(AtomicUsize::new(0));
    let site = Site::new(SHORT, move |store| {
        if times.fetch_add(1, Ordering::SeqCst) == 0 {
            store.write("web", Phase::Active);
        }
        says("6")
    });
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    assert_eq!(site.run().await, DrainOutcome::Reverted(RevertReason::Changed));
    site.is(Phase::Active, 1);
    site.restored_by_way_of_both().await;
}

/// While time passes for there to be a sample, more than an hour of it here.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the clock moves when everybody waits: this is what moves it")]
async fn a_request_before_the_sample_ends_it_early() {
    let site = Site::scraped("20m", SHORT, |_| says("6"));
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let request = async {
        site.store.until(|inner| !inner.set_backend_calls.is_empty()).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        site.store.write("web", Phase::Active);
    };
    let (end, ()) = tokio::join!(site.run(), request);
    assert_eq!(end, DrainOutcome::Reverted(RevertReason::Changed));
    assert_eq!(site.prometheus.count("/"), 0);
}

#[tokio::test]
async fn an_interception_that_ends_during_the_sample_proves_nothing() {
    let site = Site::new(SHORT, |store| {
        store.set(|inner| inner.forgetful = true);
        store.change_interception("web", |interception| interception.in_sync = false);
        says("6")
    });
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let end = site.run().await;
    assert!(matches!(end, DrainOutcome::Reverted(RevertReason::NotIntercepted(_))), "{end}");
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn a_stopping_process_reverts_at_once() {
    let site = Site::new(LONG, |_| says("6"));
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let stop = async {
        site.store.until(|inner| !inner.set_backend_calls.is_empty()).await;
        site.context.stop.cancel();
    };
    let (end, ()) = tokio::join!(site.run(), stop);
    assert_eq!(end, DrainOutcome::Reverted(RevertReason::Stopping));
    site.is(Phase::Active, 1);
}

#[tokio::test(start_paused = true)]
async fn an_interception_that_takes_too_long_is_abandoned() {
    let site = Site::new(SHORT, |_| says("6"));
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let refused = ScaleError::Terminal { reason: "no port is free".to_owned() };
    site.store.inner().refuse_set_backend = std::iter::repeat_n(refused, 9).collect();
    let end = site.run().await;
    assert_eq!(end.to_string(), "reverted: its Service was not intercepted: not within 1m0.02s");
    site.is(Phase::Active, 1);
}

#[tokio::test]
async fn a_source_without_data_of_so_short_a_time_proves_nothing() {
    let mut site = Site::new(SHORT, |_| says("6"));
    site.switchover.source = ActivitySource::Dlx;
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    let end = site.run().await;
    assert!(
        matches!(&end, DrainOutcome::Reverted(RevertReason::NotIdle(why)) if why.contains("no window short enough")),
        "{end}"
    );
}

/// With that rule left out nothing is intercepted, and nothing seen after it: which is what the rule is for.
#[tokio::test]
async fn without_the_rule_nothing_is_switched() {
    let mut site = Site::new(SHORT, |_| says("7"));
    site.rules = Rules { switch_before_commit: false, ..Rules::default() };
    let _dlx = Dlx::quiet(site.state.path(), &["web"]);
    assert_eq!(site.run().await, DrainOutcome::Committed);
    assert_eq!(site.prometheus.count("/"), 0);
}
