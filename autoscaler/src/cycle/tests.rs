//! Whole cycles: a plugin in memory, DLXs that are real servers, and the real clock with short intervals.

use scaler_types::{Nonce, Phase, Record};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    decide::Decision,
    telemetry::DrainLabels,
    testing::{Dlx, LONG, Reply, SHORT, Store, confirmed, id, members, refused, serving_dlxs},
};

struct Site {
    state: TempDir,
    context: CycleContext,
    settings: Settings,
}

struct Running {
    states: Arc<Mutex<ResourceStates>>,
    set_active: watch::Sender<ActivePlugin>,
    ask: mpsc::Sender<SleepRequest>,
    task: JoinHandle<()>,
}

impl Site {
    /// A cycle every `interval`, and DLXs that are waited for so long.
    fn new(interval: Duration, activity_timeout: Duration) -> Self {
        let state = tempfile::tempdir().unwrap();
        // The default metric: requests, none within 10 minutes.
        let settings = Settings { scale_interval: interval, ..Settings::default() };
        let members = members(state.path(), activity_timeout);
        let metrics = AutoscalerMetrics::new(&mut prometheus_client::registry::Registry::default());
        let context = CycleContext {
            members,
            metrics,
            cluster: ClusterClient::default(),
            dropped: Dropped::default(),
            dlxs: serving_dlxs(&["a"]).1,
            rules: Rules::default(),
            stop: CancellationToken::new(),
        };
        Self { state, context, settings }
    }

    fn run(&self, store: &Store) -> Running {
        let active =
            ActivePlugin { plugin: Arc::new(store.clone()), settings: Arc::new(self.settings.clone()) };
        let (set_active, active) = watch::channel(active);
        let states = Arc::new(Mutex::new(ResourceStates::with_complete_reports(Instant::now())));
        let (ask, sleep_requests) = mpsc::channel(8);
        let cycle = Cycle::new(
            active,
            "demo",
            self.context.clone(),
            states.clone(),
            InterceptionTable::default(),
            ScalingTable::default(),
            sleep_requests,
        );
        Running { states, set_active, ask, task: tokio::spawn(cycle.run()) }
    }

    fn drain_attempts(&self, outcome: &'static str, reason: &'static str) -> u64 {
        self.context.metrics.drain_attempts.get_or_create(&DrainLabels { outcome, reason }).get()
    }
}

impl Running {
    /// Waits until what it knows fulfils the condition: after a cycle, or after an attempt.
    async fn until(&self, mut fulfilled: impl FnMut(&ResourceStates) -> bool) {
        let wait = async {
            while !fulfilled(&self.states.lock().unwrap()) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "what a cycle learns is read, it tells no event"
                )]
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the cycle never came to that");
    }

    async fn ends(self) {
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it does not end").unwrap();
    }
}

const OFTEN: Duration = Duration::from_millis(5);

#[tokio::test]
async fn idle_resources_are_scaled_to_zero_busy_ones_stay() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello", "busy"]);
    let _dlx = Dlx::quiet(site.state.path(), &["hello"]);
    let running = site.run(&store);
    store.until(|store| store.resources[&id("hello")].replicas == 0).await;
    running
        .until(|states| {
            matches!(states.resources[&id("hello")].last_attempt, Some((DrainOutcome::Committed, _)))
        })
        .await;
    // No DLX reports it.
    running.until(|states| states.resources[&id("busy")].decision.code() == "no_sample").await;
    assert_eq!(store.get("busy").record, Record::default());
    assert_eq!(site.drain_attempts("committed", "confirmed"), 1);
    site.context.stop.cancel();
    running.ends().await;
}

#[tokio::test]
async fn while_a_dlx_is_unreachable_no_attempt_is_made() {
    let site = Site::new(OFTEN, SHORT);
    let store = Store::with(["hello"]);
    let _good = Dlx::quiet(site.state.path(), &["hello"]);
    let mut stopped = Dlx::start(site.state.path(), |_, _| Reply::Never);
    let running = site.run(&store);
    let name = stopped.name.clone();
    running
        .until(|states| {
            states.cycles.count >= 3
                && states.resources[&id("hello")].decision.to_string() == format!("no answer from DLX {name}")
        })
        .await;
    assert!(store.inner().calls.is_empty());
    // It dies: after a window, what is idle may sleep again.
    stopped.leave();
    running.until(|states| states.resources[&id("hello")].decision.code() == "dlx_left").await;
    assert!(store.inner().calls.is_empty());
    site.context.stop.cancel();
    running.ends().await;
}

#[tokio::test]
async fn a_stale_record_is_repaired_and_then_decided_on() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello"]);
    store.write("hello", Phase::Draining);
    let _dlx = Dlx::quiet(site.state.path(), &["hello"]);
    let running = site.run(&store);
    store.until(|store| store.resources[&id("hello")].replicas == 0).await;
    // The stale drain record was reverted, not taken for its own.
    assert_eq!(store.inner().calls, ["compare_and_set", "compare_and_set", "set_scale"]);
    assert_eq!(site.context.metrics.records_repaired.get(), 1);
    site.context.stop.cancel();
    running.ends().await;
}

#[tokio::test]
async fn a_scale_that_fails_is_reported_and_not_hammered() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello"]);
    store.inner().refuse_scale = Some(ScaleError::Terminal { reason: "the process does not end".to_owned() });
    let _dlx = Dlx::quiet(site.state.path(), &["hello"]);
    let running = site.run(&store);
    running
        .until(|states| {
            states
                .resources
                .get(&id("hello"))
                .is_some_and(|state| state.failure.as_ref().is_some_and(|failure| failure.attempts == 3))
        })
        .await;
    let last_attempt = match &running.states.lock().unwrap().resources[&id("hello")].last_attempt {
        Some((end, _)) => end.to_string(),
        None => String::new(),
    };
    assert_eq!(last_attempt, "failed: scaling to zero: the process does not end");
    store
        .until(|store| {
            store.resources[&id("hello")].record.reason
                == "kept awake: scaling to zero: the process does not end"
        })
        .await;
    store.inner().refuse_scale = None;
    store.until(|store| store.resources[&id("hello")].replicas == 0).await;
    running.until(|states| states.resources[&id("hello")].failure.is_none()).await;
    site.context.stop.cancel();
    running.ends().await;
}

/// A plugin that hangs, and one that works, side by side.
#[tokio::test]
async fn a_plugin_that_hangs_delays_no_other() {
    let site = Site::new(OFTEN, LONG);
    let (stuck, store) = (Store::with(["stuck"]), Store::with(["hello"]));
    stuck.inner().hang = true;
    let _dlx = Dlx::quiet(site.state.path(), &["hello"]);
    let (hangs, works) = (site.run(&stuck), site.run(&store));
    store.until(|store| store.resources[&id("hello")].replicas == 0).await;
    works.until(|states| states.cycles.count >= 5).await;
    assert_eq!(hangs.states.lock().unwrap().cycles.count, 0);
    site.context.stop.cancel();
    hangs.ends().await;
    works.ends().await;
}

/// All within one cycle: those that wait for a place do not wait for the next one.
#[tokio::test]
async fn many_are_scaled_to_zero_a_bounded_number_at_a_time() {
    let site = Site::new(LONG, LONG);
    let names: Vec<_> = (0..300).map(|number| format!("r{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let store = Store::with(names.iter().copied());
    let _dlx = Dlx::quiet(site.state.path(), &names);
    // A draining record is an attempt in progress.
    let most = Arc::new(Mutex::new(0));
    let seen = most.clone();
    store.on_write(move |store, _| {
        let inner = store.inner();
        let draining =
            inner.resources.values().filter(|resource| resource.record.phase == Phase::Draining).count();
        let mut most = seen.lock().unwrap();
        *most = draining.max(*most);
    });
    let running = site.run(&store);
    store.until(|store| store.resources.values().all(|resource| resource.replicas == 0)).await;
    assert_eq!(running.states.lock().unwrap().cycles.count, 1);
    assert_eq!(*most.lock().unwrap(), MAX_CONCURRENT_ATTEMPTS);
    site.context.stop.cancel();
    running.ends().await;
}

/// The try waits for a DLX; the cycles go on, and no second try of the same resource begins.
#[tokio::test]
async fn an_attempt_does_not_hold_up_the_next_cycle() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello"]);
    let dlx = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        "/api/v1/confirm-drain" => Reply::Never,
        _ => Reply::Json(
            http::StatusCode::OK,
            crate::testing::activity(member, std::iter::once(crate::testing::idle("hello"))),
        ),
    });
    let running = site.run(&store);
    store.until(|store| store.resources[&id("hello")].record.phase == Phase::Draining).await;
    let count = running.states.lock().unwrap().cycles.count;
    running.until(|states| states.cycles.count > count + 5).await;
    assert_eq!(dlx.count("/api/v1/confirm-drain"), 1);
    assert_eq!(store.get("hello").record.phase, Phase::Draining);
    // The end: it is reverted, and that is waited for.
    let states = running.states.clone();
    site.context.stop.cancel();
    running.ends().await;
    let states = states.lock().unwrap();
    assert_eq!(states.resources[&id("hello")].failed_drains, [(("reverted", "stopping"), 1)].into());
    assert_eq!((store.get("hello").record.phase, store.get("hello").replicas), (Phase::Active, 1));
    assert_eq!(site.drain_attempts("reverted", "stopping"), 1);
}

#[tokio::test]
async fn another_file_changes_the_cycle_and_none_ends_it() {
    let mut site = Site::new(LONG, LONG);
    let (first, second) = (Store::with(["hello"]), Store::with(["hello"]));
    let _dlx = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        "/api/v1/confirm-drain" => refused("2 requests in flight"),
        _ => Reply::Json(
            http::StatusCode::OK,
            crate::testing::activity(member, std::iter::once(crate::testing::idle("hello"))),
        ),
    });
    let running = site.run(&first);
    running
        .until(|states| states.resources.get(&id("hello")).is_some_and(|state| state.last_attempt.is_some()))
        .await;
    // What it remembers outlives the change; the hour's pause does not.
    site.settings.scale_interval = OFTEN;
    running.set_active.send_replace(ActivePlugin {
        plugin: Arc::new(second.clone()),
        settings: Arc::new(site.settings.clone()),
    });
    second.until(|store| !store.calls.is_empty()).await;
    assert!(running.states.lock().unwrap().cycles.count >= 2);
    let Running { set_active, task, .. } = running;
    drop(set_active);
    tokio::time::timeout(Duration::from_secs(60), task).await.expect("it does not end").unwrap();
    assert_eq!(second.get("hello").record.phase, Phase::Active);
}

#[tokio::test]
async fn every_attempt_has_its_own_nonce() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello"]);
    let nonces = Arc::new(Mutex::new(Vec::<Nonce>::new()));
    let seen = nonces.clone();
    store.on_write(move |_, record| seen.lock().unwrap().push(record.nonce));
    let _dlx = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        "/api/v1/confirm-drain" => refused("1 requests held"),
        _ => Reply::Json(
            http::StatusCode::OK,
            crate::testing::activity(member, std::iter::once(crate::testing::idle("hello"))),
        ),
    });
    let running = site.run(&store);
    store.until(|store| store.calls.len() >= 10).await;
    site.context.stop.cancel();
    running.ends().await;
    let mut nonces = nonces.lock().unwrap().clone();
    let all = nonces.len();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), all);
}

#[tokio::test]
async fn a_plugin_that_cannot_list_changes_nothing() {
    let site = Site::new(OFTEN, LONG);
    let store = Store::with(["hello"]);
    let _dlx = Dlx::start(site.state.path(), |_, _| confirmed());
    let running = site.run(&store);
    // An activity that says nothing is no activity of zero.
    running.until(|states| states.cycles.error.is_some()).await;
    running.until(|states| matches!(states.resources[&id("hello")].decision, Decision::Keep(_))).await;
    assert!(store.inner().calls.is_empty());
    site.context.stop.cancel();
    running.ends().await;
}

/// A DLX that has just forwarded a request for `hello`, and confirms all the same: it has its answer.
fn just_requested(member: &str, request: &crate::testing::ReceivedRequest) -> Reply {
    let mut active = crate::testing::idle("hello");
    active["idle"] = "1s".into();
    match request.path.as_str() {
        "/api/v1/confirm-drain" => confirmed(),
        _ => Reply::Json(http::StatusCode::OK, crate::testing::activity(member, std::iter::once(active))),
    }
}

async fn ask(running: &Running, name: &str) -> SleepOutcome {
    let (answer, answered) = oneshot::channel();
    assert!(running.ask.send(super::SleepRequest { id: id(name), answer }).await.is_ok(), "the cycle runs");
    answered.await.expect("an answer")
}

#[tokio::test]
async fn a_user_need_not_wait_for_the_window() {
    let site = Site::new(LONG, LONG);
    let store = Store::with(["hello"]);
    let mut paused = store.get("hello");
    paused.keep_awake = "paused".to_owned();
    let dlx = Dlx::start(site.state.path(), just_requested);
    let running = site.run(&store);
    running.until(|states| states.cycles.count == 1).await;
    assert_eq!(running.states.lock().unwrap().resources[&id("hello")].decision.code(), "active");
    assert_eq!(
        ask(&running, "nobody").await,
        SleepOutcome::Unknown("no plugin lists demo/nobody".to_owned())
    );
    assert!(store.inner().calls.is_empty());
    assert_eq!(ask(&running, "hello").await, SleepOutcome::Attempted(DrainOutcome::Committed));
    assert_eq!((store.get("hello").replicas, store.get("hello").record.reason.as_str()), (0, "requested"));
    // By a drain attempt as ever.
    assert_eq!(dlx.count("/api/v1/confirm-drain"), 1);
    assert_eq!(ask(&running, "hello").await, SleepOutcome::AlreadyAsleep);
    // What a user keeps awake stays awake.
    store.put(paused);
    assert_eq!(ask(&running, "hello").await, SleepOutcome::KeptAwake("kept awake: paused".to_owned()));
    site.context.stop.cancel();
    running.ends().await;
}

#[tokio::test]
async fn a_user_is_told_what_prevents_it() {
    let site = Site::new(LONG, LONG);
    let store = Store::with(["hello"]);
    let dlx = Dlx::start(site.state.path(), |member, request| match request.path.as_str() {
        "/api/v1/confirm-drain" => refused("1 requests in flight"),
        _ => just_requested(member, request),
    });
    let running = site.run(&store);
    let SleepOutcome::Attempted(end) = ask(&running, "hello").await else { panic!("no try was made") };
    assert_eq!(
        end.to_string(),
        format!("reverted: the drain was not confirmed: DLX {}: 1 requests in flight", dlx.name)
    );
    assert_eq!(store.get("hello").replicas, 1);
    assert_eq!(store.get("hello").record.reason, format!("kept awake: {end}"));
    site.context.stop.cancel();
    running.ends().await;
}

fn reported(store: &crate::testing::Inner, reason: &str) -> Vec<String> {
    let of = store.reports.iter().filter(|(_, report)| report.reason == reason);
    of.map(|(_, report)| report.message.clone()).collect()
}

#[tokio::test]
async fn users_are_told_once() {
    let site = Site::new(OFTEN, SHORT);
    let store = Store::with(["hello"]);
    let _good = Dlx::quiet(site.state.path(), &["hello"]);
    let mut unreachable = Dlx::start(site.state.path(), |_, _| Reply::Never);
    let running = site.run(&store);
    store.until(|store| !reported(store, "NotScaledToZero").is_empty()).await;
    let count = running.states.lock().unwrap().cycles.count;
    running.until(|states| states.cycles.count > count + 3).await;
    let expected = format!("Kept awake: no answer from DLX {}", unreachable.name);
    assert_eq!(reported(&store.inner(), "NotScaledToZero"), [expected]);
    unreachable.leave();
    running.until(|states| states.resources[&id("hello")].decision.code() == "dlx_left").await;
    // A user does not wait for the window.
    let mut now = store.get("hello");
    now.sleep_now = true;
    store.put(now);
    store.until(|store| !reported(store, "ScaledToZero").is_empty()).await;
    assert_eq!(reported(&store.inner(), "ScaledToZero"), ["Scaled to zero: requested"]);
    // Somebody scales it by hand.
    let mut up = store.get("hello");
    (up.replicas, up.sleep_now) = (1, false);
    store.put(up);
    store.until(|store| !reported(store, "ScaledUpManually").is_empty()).await;
    assert_eq!(reported(&store.inner(), "ScaledUpManually"), ["Its phase is active now: scaled up manually"]);
    site.context.stop.cancel();
    running.ends().await;
}

/// Attempts in traffic mode `when-asleep` take their time, and no other's place.
#[tokio::test]
async fn attempts_that_wait_for_an_interception_keep_no_other_waiting() {
    let mut site = Site::new(LONG, LONG);
    let directs: Vec<_> = (0..200).map(|number| format!("direct-{number}")).collect();
    let names: Vec<_> = directs.iter().map(String::as_str).chain(["hello"]).collect();
    let element = |name: &&str| serde_json::json!({"metric": {"name": name, "namespace": "demo"}, "value": [1_700_000_000.0, "41"]});
    let data =
        serde_json::json!({"resultType": "vector", "result": names.iter().map(element).collect::<Vec<_>>()});
    let answer = serde_json::json!({"status": "success", "data": data});
    let mut prometheus = Dlx::start(&site.state.path().join("prometheus"), move |_, _| {
        Reply::Json(http::StatusCode::OK, answer.clone())
    });
    prometheus.leave();
    let text = format!(
        "namespace: demo\nmetrics: {{source: prometheus, url: 'http://{}', scrapeInterval: 15s, queries: {{requests: \
         {{query: 'increase(requests_total[$window])', sampleCountQuery: \
         'count_over_time(requests_total[$window])'}}}}}}\ndefaults: {{scaleResources: [{{metricName: requests, \
         windowSize: 10m, threshold: 50}}]}}\n",
        prometheus.address
    );
    let file = daemon::namespace_file::NamespaceFile::parse("demo.yaml", text.as_bytes()).unwrap();
    let settings = Settings::merge(&file.settings, &Default::default(), &Default::default());
    site.settings = Settings { scale_interval: LONG, ..settings };
    let store = Store::with(names.iter().copied());
    for name in &directs {
        store.change(name, |direct| {
            direct.traffic_mode = TrafficMode::WhenAsleep;
            direct.interception = Some(scaler_types::Interception { requested: true, ..Default::default() });
        });
    }
    store.change("hello", |hello| hello.keep_awake = "paused".to_owned());
    let dlx = Dlx::quiet(site.state.path(), &names);
    // No interceptor runs: their interceptions are waited for.
    let running = site.run(&store);
    running.until(|_| dlx.count("/api/v1/confirm-drain") == MAX_CONCURRENT_SWITCHOVERS).await;
    store.change("hello", |hello| hello.keep_awake.clear());
    let (answer, answered) = oneshot::channel();
    running.ask.send(SleepRequest { id: id("hello"), answer }).await.unwrap();
    assert_eq!(answered.await, Ok(SleepOutcome::Attempted(DrainOutcome::Committed)));
    let draining = |store: &crate::testing::Inner| {
        store.resources.values().filter(|resource| resource.record.phase == Phase::Draining).count()
    };
    assert_eq!(draining(&store.inner()), MAX_CONCURRENT_SWITCHOVERS);
    site.context.stop.cancel();
    running.ends().await;
    assert_eq!(draining(&store.inner()), 0, "all are reverted");
}
