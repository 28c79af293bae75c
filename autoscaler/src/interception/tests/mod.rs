//! An interceptor over a plugin in memory, by a clock that moves when all tasks wait.

mod pacing;
mod unreadable;

use std::{sync::Arc, time::Duration};

use daemon::{members::serving::ReadyDlxs, reports::Dropped, settings::Settings};
use plugin_host::RunningPlugin;
use prometheus_client::registry::Registry;
use scaler_types::{Backend, Interception, Nonce, Phase, Record, Resource, ScaleError, TrafficMode};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, advance},
};
use tokio_util::sync::CancellationToken;

use super::{InterceptionTable, Interceptor, InterceptorContext, SwitchoverProgress};
use crate::{
    plugin::ActivePlugin,
    telemetry::{AutoscalerMetrics, BackendLabels, CycleLabels},
    testing::{
        KIND, LONG, PROPAGATION_DELAY, SetBackendCall, Store, UNAVAILABLE_TIMEOUT, id, named, serving_dlxs,
    },
};

struct Site {
    store: Store,
    table: InterceptionTable,
    context: InterceptorContext,
    dlxs: watch::Sender<ReadyDlxs>,
    _set_active: watch::Sender<ActivePlugin>,
    task: JoinHandle<()>,
    _state: tempfile::TempDir,
}

/// Awake, in traffic mode `always`, its interception requested and not made yet.
fn intercepted(name: &str) -> Resource {
    let mut resource = Resource::new(id(name));
    resource.replicas = 1;
    resource.interception = Some(Interception { requested: true, ..Interception::default() });
    resource
}

fn record(state: Phase) -> Record {
    Record { phase: state, nonce: Nonce::fresh(), ..Record::default() }
}

impl Site {
    fn start(store: &Store, names: &[&str]) -> Self {
        let settings = Arc::new(Settings { scale_interval: LONG, ..Settings::default() });
        Self::with(store, names, settings)
    }

    fn with(store: &Store, names: &[&str], settings: Arc<Settings>) -> Self {
        scaler_types::backoff::seed_jitter(0);
        let state = tempfile::tempdir().unwrap();
        let (dlxs, serving) = serving_dlxs(names);
        let context = InterceptorContext {
            metrics: AutoscalerMetrics::new(&mut Registry::default()),
            dropped: Dropped::default(),
            dlxs: serving,
            wakes: daemon::wakes::Wakes::new(daemon::wakes::DEFAULT),
            stop: CancellationToken::new(),
        };
        let (table, set_active, task) = start_interceptor(store, "demo", settings, &context);
        Self { store: store.clone(), table, context, dlxs, _set_active: set_active, task, _state: state }
    }

    fn serve(&self, names: &[&str]) {
        self.dlxs.send_replace(Some(named(names)));
    }

    /// Waits until so many calls were made; gives all of them.
    async fn calls(&self, count: usize) -> Vec<SetBackendCall> {
        self.store.comes_to(|inner| inner.set_backend_calls.len() >= count).await;
        self.store.inner().set_backend_calls.clone()
    }

    /// The backends of all calls, when nothing more happens for an hour.
    async fn in_the_end(&self) -> Vec<Backend> {
        settle(Duration::from_secs(1800)).await;
        self.store.inner().set_backend_calls.iter().map(|call| call.to).collect()
    }

    fn reports(&self, reason: &str) -> usize {
        self.store.inner().reports.iter().filter(|(_, report)| report.reason == reason).count()
    }

    fn gauge(&self, backend: Backend) -> i64 {
        let labels = CycleLabels { kind: KIND.to_owned(), namespace: "demo".to_owned() };
        self.context.metrics.interceptions.get_or_create(&BackendLabels::new(&labels, backend)).get()
    }
}

/// An interceptor for a namespace file.
fn start_interceptor(
    store: &Store,
    namespace: &str,
    settings: Arc<Settings>,
    context: &InterceptorContext,
) -> (InterceptionTable, watch::Sender<ActivePlugin>, JoinHandle<()>) {
    let (set_active, active) = watch::channel(ActivePlugin { plugin: Arc::new(store.clone()), settings });
    let table = InterceptionTable::default();
    let task = tokio::spawn(Interceptor::new(active, namespace, context.clone(), table.clone()).run());
    (table, set_active, task)
}

/// Lets so much time pass, with everything that happens in it.
#[expect(clippy::disallowed_methods, reason = "the clock moves when everybody waits: this is what moves it")]
async fn settle(time: Duration) {
    tokio::time::sleep(time).await;
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_requested_interception_is_made_once_and_reported() {
    let store = Store::with(["plain"]);
    store.put(intercepted("web"));
    let site = Site::start(&store, &["a", "b"]);
    let calls = site.calls(1).await;
    assert_eq!(
        (calls[0].to, calls[0].dlxs.as_slice()),
        (Backend::Dlx, ["a".to_owned(), "b".to_owned()].as_slice())
    );
    assert_eq!(site.in_the_end().await, [Backend::Dlx]);
    assert_eq!((site.reports("ServiceIntercepted"), site.reports("InterceptionFailed")), (1, 0));
    assert_eq!((site.gauge(Backend::Dlx), site.gauge(Backend::Workload)), (1, 0));
    // Another writer removed a part of it.
    store.change_interception("web", |interception| interception.in_sync = false);
    assert_eq!(site.in_the_end().await, [Backend::Dlx; 2]);
    // New ones are intercepted as they come, and no other is checked.
    store.put(intercepted("shop"));
    site.calls(3).await;
    store.remove("shop");
    store.change("plain", |resource| resource.replicas = 2);
    assert_eq!(site.in_the_end().await, [Backend::Dlx; 3]);
    assert_eq!((site.gauge(Backend::Dlx), site.gauge(Backend::Workload)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_requested_is_restored_by_way_of_both_after_the_delay() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let site = Site::start(&store, &["a"]);
    site.calls(1).await;
    store.change_interception("web", |interception| interception.requested = false);
    assert_eq!(site.in_the_end().await, [Backend::Dlx, Backend::Both], "nobody else serves yet");
    store.change_interception("web", |interception| interception.workload_ready = true);
    settle(PROPAGATION_DELAY - SECOND).await;
    // Not ready any more, and ready again: from then on.
    store.change_interception("web", |interception| interception.workload_ready = false);
    settle(SECOND * 5).await;
    store.change_interception("web", |interception| interception.workload_ready = true);
    settle(PROPAGATION_DELAY - SECOND).await;
    // So after a record that was written meanwhile: it may have been switched and back in between.
    store.write("web", Phase::Active);
    let ready = Instant::now();
    let calls = site.calls(3).await;
    assert_eq!((calls[2].to, calls[2].dlxs.len()), (Backend::Workload, 0));
    assert_eq!(calls[2].at - ready, PROPAGATION_DELAY);
    store
        .comes_to(|inner| inner.reports.iter().any(|(_, report)| report.reason == "InterceptionRemoved"))
        .await;
    assert_eq!(site.gauge(Backend::Both) + site.gauge(Backend::Dlx) + site.gauge(Backend::Workload), 0);
    assert!(site.table.status(&id("web"), &site.context.dlxs).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_asleep_resource_is_restored_when_it_is_woken() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let site = Site::start(&store, &["a"]);
    site.calls(1).await;
    store.change("web", |resource| (resource.replicas, resource.record) = (0, record(Phase::Asleep)));
    store.change_interception("web", |interception| interception.requested = false);
    assert_eq!(site.in_the_end().await, [Backend::Dlx]);
    let status = site.table.status(&id("web"), &site.context.dlxs).unwrap();
    let status = serde_json::to_value(status).unwrap();
    assert_eq!(status["waiting_for"], "its wake: it has no replicas yet");
    assert_eq!(status["next_backend"], "both");
    store.change("web", |resource| (resource.replicas, resource.record) = (1, record(Phase::Waking)));
    assert_eq!(site.calls(2).await[1].to, Backend::Both);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_intercepted_without_a_dlx() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let site = Site::start(&store, &[]);
    assert!(site.in_the_end().await.is_empty());
    // Not known is not none, however long.
    site.dlxs.send_replace(None);
    assert!(site.in_the_end().await.is_empty());
    assert!(store.inner().synced_dlxs.is_empty());
    site.serve(&["a"]);
    assert_eq!(site.in_the_end().await, [Backend::Dlx]);
}

/// A new leader does not know yet which DLXs take requests: an interception must not lose its DLXs meanwhile.
#[tokio::test(start_paused = true)]
async fn until_the_dlxs_are_known_none_is_named() {
    let store = Store::with([]);
    let mut resource = intercepted("web");
    resource.traffic_mode = TrafficMode::WhenAsleep;
    resource.interception = Some(Interception {
        requested: true,
        backend: Backend::Dlx,
        in_sync: true,
        dlxs: vec!["a".to_owned()],
        ..Interception::default()
    });
    store.put(resource);
    let site = Site::start(&store, &[]);
    site.dlxs.send_replace(None);
    assert!(site.in_the_end().await.is_empty());
    site.serve(&["a"]);
    let calls = site.calls(1).await;
    assert_eq!((calls[0].to, calls[0].dlxs.as_slice()), (Backend::Both, ["a".to_owned()].as_slice()));

    // There are none, for longer than the timeout.
    site.context.stop.cancel();
    site.task.await.unwrap();
    let site = Site::start(&store, &[]);
    store.change_interception("web", |interception| interception.backend = Backend::Dlx);
    let calls = site.calls(2).await;
    assert_eq!((calls[1].to, calls[1].dlxs.len()), (Backend::Both, 0));
}

#[tokio::test(start_paused = true)]
async fn a_bounded_number_is_written_at_once_and_all_in_the_end() {
    let store = Store::with([]);
    for number in 0..200 {
        store.put(intercepted(&format!("r{number}")));
    }
    let site = Site::start(&store, &["a"]);
    assert_eq!(site.in_the_end().await.len(), 200);
    assert_eq!(store.inner().writing, (0, 16));
    assert_eq!(site.gauge(Backend::Dlx), 200);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_made_again_after_a_growing_pause() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let retry = |after| ScaleError::Retry { after, reason: "the API is away".to_owned() };
    store.inner().refuse_set_backend =
        [retry(SECOND), retry(SECOND), retry(SECOND), retry(SECOND * 20)].into();
    let site = Site::start(&store, &["a"]);
    let calls = site.calls(5).await;
    let pauses: Vec<_> = calls.windows(2).map(|two| (two[1].at - two[0].at).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 20]);
    assert_eq!(site.in_the_end().await.len(), 5);
    assert_eq!(site.reports("InterceptionFailed"), 0);
}

/// Written, as the plugin says, and not so: no loop of calls.
#[tokio::test(start_paused = true)]
async fn what_is_not_seen_is_written_again_after_a_growing_pause() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    store.inner().forgetful = true;
    let site = Site::start(&store, &["a"]);
    let calls = site.calls(4).await;
    let pauses: Vec<_> = calls.windows(2).map(|two| (two[1].at - two[0].at).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_intercepted_is_reported_once_and_retried_later() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let terminal = ScaleError::Terminal { reason: "no port is free".to_owned() };
    store.inner().refuse_set_backend = [terminal.clone(), terminal].into();
    let site = Site::start(&store, &["a"]);
    site.calls(1).await;
    store.comes_to(|inner| !inner.reports.is_empty()).await;
    let message = store.inner().reports[0].1.message.clone();
    assert_eq!(message, "Failed to switch its Service to the DLXs: no port is free");
    let status = serde_json::to_value(site.table.status(&id("web"), &site.context.dlxs)).unwrap();
    assert_eq!(status["waiting_for"], "another attempt in 30s, after 1 that failed: no port is free");
    // Whatever changes meanwhile.
    store.change("web", |resource| resource.replicas = 2);
    let calls = site.calls(3).await;
    let pauses: Vec<_> = calls.windows(2).map(|two| (two[1].at - two[0].at).as_secs()).collect();
    assert_eq!(pauses, [30, 60]);
    assert_eq!(site.reports("InterceptionFailed"), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_the_first_change_that_is_seen_decides() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    store.inner().refuse_set_backend = [ScaleError::Conflict].into();
    let site = Site::start(&store, &["a"]);
    let calls = site.calls(1).await;
    settle(Duration::from_millis(100)).await;
    // They do not want it any more: looked at again, and nothing is to be done.
    store.change_interception("web", |interception| interception.requested = false);
    assert_eq!(site.in_the_end().await.len(), 1);
    store.inner().refuse_set_backend = [ScaleError::Conflict].into();
    store.change_interception("web", |interception| interception.requested = true);
    settle(Duration::from_millis(100)).await;
    store.change("web", |resource| resource.replicas = 2);
    let later = site.calls(3).await;
    assert!(later[2].at - later[1].at < SECOND, "{calls:?} {later:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_lost_leadership_writes_nothing() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    store.put(intercepted("shop"));
    store.inner().stuck_set_backend = true;
    let site = Site::start(&store, &["a"]);
    site.calls(2).await;
    assert_eq!(store.inner().writing.0, 2);
    let began = Instant::now();
    site.context.stop.cancel();
    site.task.await.unwrap();
    assert_eq!(Instant::now(), began, "at once");
    assert_eq!(store.inner().writing.0, 0, "the calls are given up");
    store.set(|inner| inner.stuck_set_backend = false);
    store.put(intercepted("late"));
    settle(LONG).await;
    assert_eq!(store.inner().set_backend_calls.len(), 2);
    let labels = CycleLabels { kind: KIND.to_owned(), namespace: "demo".to_owned() };
    assert_eq!(
        site.context
            .metrics
            .interceptions
            .get_or_create(&BackendLabels::new(&labels, Backend::Workload))
            .get(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn without_any_dlx_everything_is_restored_and_woken() {
    let store = Store::with([]);
    for name in ["awake", "asleep"] {
        let mut resource = intercepted(name);
        resource.interception = Some(Interception {
            requested: true,
            backend: Backend::Dlx,
            in_sync: true,
            ..Interception::default()
        });
        if name == "asleep" {
            (resource.record, resource.replicas) = (record(Phase::Asleep), 0);
        }
        store.put(resource);
    }
    // One without an interception is not managed.
    let mut other = Resource::new(id("other"));
    other.record = record(Phase::Asleep);
    store.put(other);
    let site = Site::start(&store, &["a"]);
    settle(SECOND).await;
    site.serve(&[]);
    let gone = Instant::now();
    settle(UNAVAILABLE_TIMEOUT - SECOND).await;
    assert!(store.inner().set_backend_calls.is_empty(), "they may come back");
    let calls = site.calls(2).await;
    assert!(
        calls.iter().all(|call| call.to == Backend::Both && call.at - gone == UNAVAILABLE_TIMEOUT),
        "{calls:?}"
    );
    // They are named as they were: there are no others.
    assert!(calls.iter().all(|call| call.dlxs == ["a"]), "{calls:?}");
    store.comes_to(|inner| inner.resources[&id("asleep")].replicas == 1).await;
    let woken = store.get("asleep").record;
    assert_eq!((woken.phase, &*woken.reason), (Phase::Active, "no DLX is ready to take requests"));
    store.comes_to(|inner| inner.reports.iter().any(|(_, report)| report.reason == "DLXUnavailable")).await;
    // Without the propagation delay half of the requests would find no backend.
    store.change_interception("awake", |interception| interception.workload_ready = true);
    let ready = Instant::now();
    let calls = site.calls(3).await;
    assert_eq!((calls[2].to, calls[2].at), (Backend::Workload, ready));
    assert_eq!(store.get("other").replicas, 0);
    settle(LONG / 2).await;
    assert_eq!(site.reports("DLXUnavailable"), 1);

    // They are back, and so is everything else.
    site.serve(&["b"]);
    let calls = site.calls(5).await;
    assert!(calls[3..].iter().all(|call| call.to == Backend::Dlx && call.dlxs == ["b"]), "{calls:?}");
    assert_eq!(site.in_the_end().await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_wake_without_dlxs_is_retried_until_it_succeeds() {
    let store = Store::with([]);
    let mut resource = intercepted("asleep");
    (resource.record, resource.replicas) = (record(Phase::Asleep), 0);
    store.put(resource);
    store.inner().refuse_scale = Some(ScaleError::Terminal { reason: "no image".to_owned() });
    let site = Site::start(&store, &[]);
    let attempts =
        |inner: &crate::testing::Inner| inner.calls.iter().filter(|call| **call == "set_scale").count();
    store.comes_to(|inner| attempts(inner) == 3).await;
    assert_eq!(site.reports("DLXUnavailable"), 0);
    store.set(|inner| inner.refuse_scale = None);
    store.comes_to(|inner| inner.resources[&id("asleep")].replicas == 1).await;
    store.comes_to(|inner| !inner.reports.is_empty()).await;
    settle(LONG / 2).await;
    assert_eq!(attempts(&store.inner()), 4);
    assert_eq!(site.reports("DLXUnavailable"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_sleeps_and_could_be_woken_by_no_request_is_woken() {
    let store = Store::with([]);
    for (name, refused, backend) in [
        ("stranded", "it is not intercepted, so no request could wake it", Backend::Workload),
        // Requests reach a DLX as long as it is intercepted.
        ("reached", "somebody took the key away", Backend::Dlx),
        ("fine", "", Backend::Workload),
    ] {
        let mut resource = intercepted(name);
        (resource.record, resource.replicas) = (record(Phase::Asleep), 0);
        let interception = resource.interception.as_mut().unwrap();
        (interception.refusal, interception.backend) = (refused.to_owned(), backend);
        store.put(resource);
    }
    let site = Site::start(&store, &["a"]);
    let started = Instant::now();
    settle(9 * SECOND).await;
    assert_eq!(store.get("stranded").replicas, 0, "what stands in its way may pass");
    store.comes_to(|inner| inner.resources[&id("stranded")].replicas == 1).await;
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(&*store.get("stranded").record.reason, "it is not intercepted, so no request could wake it");
    store.comes_to(|inner| inner.reports.iter().any(|(_, report)| report.reason == "Woken")).await;
    settle(LONG / 2).await;
    assert_eq!([store.get("reached").replicas, store.get("fine").replicas], [0, 0]);
    assert_eq!((site.reports("Woken"), site.reports("DLXUnavailable")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn interceptions_are_synced_when_the_dlxs_change_and_periodically() {
    let store = Store::with(["plain"]);
    let settings = Arc::new(Settings { scale_interval: 60 * SECOND, ..Settings::default() });
    let site = Site::with(&store, &["a"], settings);
    let synced_dlxs = |count: usize| store.comes_to(move |inner| inner.synced_dlxs.len() >= count);
    synced_dlxs(1).await;
    let began = Instant::now();
    site.serve(&["a", "b"]);
    synced_dlxs(2).await;
    assert_eq!(Instant::now(), began, "at once");
    // Nobody: they stay named.
    site.serve(&[]);
    settle(50 * SECOND).await;
    assert_eq!(store.inner().synced_dlxs.len(), 2);
    store.inner().refuse_sync_dlxs = ["conflict".to_owned(), "conflict".to_owned()].into();
    site.serve(&["b"]);
    synced_dlxs(5).await;
    assert_eq!(began.elapsed(), 53 * SECOND, "after 1 s and 2 s");
    synced_dlxs(6).await;
    assert_eq!(began.elapsed(), 113 * SECOND, "each interval");
    assert_eq!(
        store.inner().synced_dlxs[..6],
        [&["a"][..], &["a", "b"], &["b"], &["b"], &["b"], &["b"]]
            .map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_plugin_cannot_list_nothing_is_forgotten() {
    let store = Store::with([]);
    store.put(intercepted("web"));
    let site = Site::start(&store, &["a"]);
    site.calls(1).await;
    settle(SECOND).await;
    store.set(|inner| inner.blind = true);
    settle(LONG / 2).await;
    assert_eq!(site.gauge(Backend::Dlx), 1);
    // What happened meanwhile is seen when the plugin lists again.
    store.remove("web");
    store.put(intercepted("shop"));
    store.set(|inner| inner.blind = false);
    let calls = site.calls(2).await;
    assert_eq!((&*calls[1].name, calls[1].to), ("shop", Backend::Dlx));
    settle(SECOND).await;
    assert_eq!((site.gauge(Backend::Dlx), site.gauge(Backend::Workload)), (1, 0));
}

/// On path direct, of which this process's try waits in its switch.
#[tokio::test(start_paused = true)]
async fn only_a_confirmed_attempt_has_its_service_intercepted() {
    let store = Store::with([]);
    for name in ["mine", "other"] {
        let mut resource = intercepted(name);
        (resource.traffic_mode, resource.record) = (TrafficMode::WhenAsleep, record(Phase::Draining));
        store.put(resource);
    }
    let site = Site::start(&store, &["a"]);
    assert!(site.in_the_end().await.is_empty(), "nobody confirmed them");
    let draining = store.get("mine").record.nonce;
    let mut confirmed = site.table.begin_switchover(&id("mine"), Nonce(0), draining);
    let began = Instant::now();
    assert_eq!(confirmed.settled().await, SwitchoverProgress::Intercepted);
    assert_eq!(began.elapsed(), PROPAGATION_DELAY);
    let calls = site.calls(1).await;
    assert_eq!((calls.len(), &*calls[0].name, calls[0].to), (1, "mine", Backend::Dlx));
    // Somebody took a part of it away: the time begins anew.
    store.change_interception("mine", |interception| interception.in_sync = false);
    assert_eq!(confirmed.lost().await, SwitchoverProgress::Waiting);
    assert_eq!(confirmed.settled().await, SwitchoverProgress::Intercepted);
    assert_eq!(began.elapsed(), 2 * PROPAGATION_DELAY);
    // A request came: its DLX has written.
    store.write("mine", Phase::Active);
    assert_eq!(confirmed.lost().await, SwitchoverProgress::Changed);
    store.change_interception("mine", |interception| interception.workload_ready = true);
    assert_eq!(site.in_the_end().await[2..], [Backend::Both, Backend::Workload]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_not_seen_yet_is_waited_for_and_another_is_none() {
    let store = Store::with([]);
    let mut resource = intercepted("web");
    (resource.traffic_mode, resource.record) = (TrafficMode::WhenAsleep, record(Phase::Active));
    let before = resource.record.nonce;
    store.put(resource);
    let site = Site::start(&store, &["a"]);
    settle(SECOND).await;
    let draining = record(Phase::Draining);
    let mut confirmed = site.table.begin_switchover(&id("web"), before, draining.nonce);
    let waits = tokio::time::timeout(SECOND, confirmed.settled()).await;
    assert!(waits.is_err(), "{waits:?}");
    let version = store.get("web").version;
    store.compare_and_set(&id("web"), &version, &draining).await.unwrap();
    assert_eq!(confirmed.settled().await, SwitchoverProgress::Intercepted);
    drop(confirmed);
    // The revert decides, not the end of the wait.
    assert_eq!(site.in_the_end().await, [Backend::Dlx]);
    let mut another = site.table.begin_switchover(&id("web"), before, Nonce::fresh());
    assert_eq!(another.settled().await, SwitchoverProgress::Changed);
    let mut nobody = site.table.begin_switchover(&id("nobody"), before, draining.nonce);
    assert!(matches!(nobody.settled().await, SwitchoverProgress::Lost(_)));
    store.set(|inner| inner.blind = true);
    // Its stream stands: what happened to it is not known.
    advance(Duration::from_secs(60)).await;
    store.change_interception("web", |_| {});
    let mut blind = site.table.begin_switchover(&id("web"), before, draining.nonce);
    while !matches!(blind.settled().await, SwitchoverProgress::Lost(_)) {
        blind.lost().await;
    }
}
