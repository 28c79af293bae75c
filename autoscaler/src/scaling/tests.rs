//! A whole scaler on a plugin and a broker in memory, by a clock that moves when nothing else does.

use daemon::settings::Settings;
use http::StatusCode;
use prometheus_client::registry::Registry;
use scaler_types::{Nonce, Phase, Record, ScaleError, Scaling};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Broker, Dlx, KIND, LONG, Reply, Store, id, members};

const QUEUE: &str = "test://mails";

struct Site {
    store: Store,
    broker: Arc<Broker>,
    table: ScalingTable,
    state: TempDir,
    _active: watch::Sender<ActivePlugin>,
    _task: JoinHandle<()>,
}

impl Site {
    fn start(resources: impl IntoIterator<Item = Resource>) -> Self {
        let store = Store::with([]);
        for resource in resources {
            store.put(resource);
        }
        let (broker, table, state) =
            (Arc::new(Broker::default()), ScalingTable::default(), tempfile::tempdir().unwrap());
        broker.state().in_flight = Some(0);
        let settings = Settings { scale_interval: LONG, ..Settings::default() };
        let active = ActivePlugin { plugin: Arc::new(store.clone()), settings: Arc::new(settings) };
        let (set_active, active) = watch::channel(active);
        let context = ScalerContext {
            members: members(state.path(), LONG),
            metrics: AutoscalerMetrics::new(&mut Registry::default()),
            cluster: ClusterClient::default(),
            dropped: Dropped::default(),
            wakes: Wakes::new(8),
            stop: CancellationToken::new(),
        };
        let scaler = ReplicaScaler::new(active, "demo", broker.sources(), context, table.clone());
        let task = tokio::spawn(scaler.run());
        Self { store, broker, table, state, _active: set_active, _task: task }
    }

    async fn until_replicas(&self, name: &str, replicas: u32) {
        self.store.comes_to(|store| store.resources[&id(name)].replicas == replicas).await;
    }

    fn events(&self) -> Vec<(String, String)> {
        let inner = self.store.inner();
        inner.reports.iter().map(|(_, event)| (event.reason.clone(), event.message.clone())).collect()
    }
}

/// Workers of the queue that sleep.
fn workers(name: &str) -> Resource {
    let mut resource = Resource::new(id(name));
    resource.record = Record { phase: Phase::Asleep, nonce: Nonce::fresh(), ..Record::default() };
    resource.scaling = Some(Scaling {
        queues: vec![QUEUE.to_owned()],
        messages_per_replica: Some(20.0),
        ..Scaling::up_to(30)
    });
    resource
}

#[tokio::test(start_paused = true)]
async fn a_message_wakes_more_raise_and_none_lower_to_one() {
    let site = Site::start([workers("mailer")]);
    site.broker.put(QUEUE, 55);
    site.until_replicas("mailer", 3).await;
    let record = site.store.get("mailer").record;
    assert_eq!(
        (record.phase, &*record.reason),
        (Phase::Active, "woken: 55 messages, 20 per replica: 3 replicas wanted")
    );
    site.broker.put(QUEUE, 300);
    site.until_replicas("mailer", 15).await;
    let raised = site.store.get("mailer").record;
    assert_ne!(raised.nonce, record.nonce, "a drain that was decided on before fails");
    let began = Instant::now();
    site.broker.state().waiting.clear();
    site.until_replicas("mailer", 1).await;
    assert!(
        began.elapsed() >= std::time::Duration::from_secs(280),
        "after the delay of five minutes: {:?}",
        began.elapsed()
    );
    let status = site.table.status(&id("mailer")).unwrap();
    assert_eq!(status.desired, Some(1));
    site.store.comes_to(|store| store.reports.len() == 3).await;
    assert_eq!(
        site.events(),
        [
            ("Woken", "Woken with 3 replicas: 55 messages, 20 per replica: 3 replicas wanted"),
            ("ScaledUp", "Scaled up from 3 to 15: 300 messages, 20 per replica: 15 replicas wanted"),
            ("ScaledDown", "Scaled down from 15 to 1: 0 messages, 20 per replica: 0 replicas wanted; raised to 1, the minimum while awake"),
        ]
        .map(|(reason, message)| (reason.to_owned(), message.to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_fails_changes_nothing() {
    let mut awake = workers("mailer");
    (awake.record.phase, awake.replicas) = (Phase::Active, 7);
    let site = Site::start([awake, workers("sleeper")]);
    site.broker.state().refused.insert(QUEUE.to_owned());
    site.broker.until_reads(12).await;
    site.broker.state().refused.clear();
    // It answers, and too late to say anything.
    site.broker.state().takes = std::time::Duration::from_secs(11);
    site.broker.state().waiting.insert(QUEUE.to_owned(), 500);
    let so_far = site.broker.state().reads.len();
    site.broker.until_reads(so_far + 20).await;
    assert_eq!(site.store.inner().calls, Vec::<&str>::new());
    let said = "Cannot read test://mails, so it is not scaled by it: connection refused";
    let events = site.events();
    assert_eq!(events.len(), 2, "once for each: {events:?}");
    assert!(events.iter().all(|(reason, message)| reason == "NotScaled" && message == said), "{events:?}");
    let why = site.table.status(&id("mailer")).unwrap();
    assert_eq!(why.desired, Some(7));
    site.broker.state().takes = std::time::Duration::ZERO;
    site.until_replicas("mailer", 25).await;
    site.until_replicas("sleeper", 25).await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_cannot_succeed_is_written_as_failed_and_one_that_conflicts_is_decided_anew() {
    let site = Site::start([workers("mailer")]);
    site.store
        .set(|store| store.refuse_scale = Some(ScaleError::Terminal { reason: "no such image".to_owned() }));
    site.broker.put(QUEUE, 1);
    site.store.comes_to(|store| store.resources[&id("mailer")].record.phase == Phase::Failed).await;
    assert_eq!(site.store.get("mailer").record.failed_wake, "no such image");
    site.store.comes_to(|store| !store.reports.is_empty()).await;
    assert_eq!(site.events()[0], ("WakeFailed".to_owned(), "Waking failed: no such image".to_owned()));
    site.store.set(|store| store.refuse_scale = Some(ScaleError::Conflict));
    site.store.comes_to(|store| store.calls.iter().filter(|call| **call == "set_scale").count() >= 3).await;
    site.store.set(|store| store.refuse_scale = None);
    site.until_replicas("mailer", 1).await;
    let record = site.store.get("mailer").record;
    assert_eq!((record.phase, &*record.failed_wake), (Phase::Active, ""));
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_was_written_and_ends_at_once_is_written_as_failed() {
    let site = Site::start([workers("mailer")]);
    site.store.set(|store| store.ends_at_once = Some("exited with status 3"));
    site.broker.put(QUEUE, 1);
    site.store.comes_to(|store| !store.reports.is_empty()).await;
    let record = site.store.get("mailer").record;
    assert_eq!((record.phase, &*record.failed_wake), (Phase::Failed, "exited with status 3"));
    site.store.set(|store| store.ends_at_once = None);
    site.until_replicas("mailer", 1).await;
    assert_eq!(site.store.get("mailer").record.phase, Phase::Active);
}

#[tokio::test(start_paused = true)]
async fn a_user_wakes_without_any_metric() {
    let mut resource = workers("mailer");
    resource.scaling = None;
    let site = Site::start([resource]);
    site.store.change("mailer", |resource| resource.wake_now = "scaler.dev/wake-now: 1".to_owned());
    site.until_replicas("mailer", 1).await;
    assert_eq!(site.store.get("mailer").record.reason, "scaler.dev/wake-now: 1");
}

#[tokio::test(start_paused = true)]
async fn wakes_keep_to_the_budget() {
    let all: Vec<_> = (0..40).map(|number| format!("w{number}")).collect();
    let site = Site::start(all.iter().map(|name| workers(name)));
    site.store.set(|store| store.start_takes = std::time::Duration::from_secs(10));
    for resource in &all {
        site.store.change(resource, |resource| {
            resource.rollout = Some(scaler_types::Rollout {
                revision: String::new(),
                phase: scaler_types::RolloutPhase::Progressing,
                status: String::new(),
                deadline: Some(LONG),
            });
        });
    }
    site.broker.put(QUEUE, 1);
    site.store.comes_to(|store| store.woken.len() == 40 && store.starting.0 == 0).await;
    // Half of the slots are for requests.
    assert_eq!(site.store.inner().starting.1, 4);
}

fn load(member: &str, at_ms: u64, in_flight_ms: u64, held: u64, busy: &serde_json::Value) -> Reply {
    Reply::Json(
        StatusCode::OK,
        json!({"member": member, "resources": [{"namespace": "demo", "name": "web", "requests": 5, "held": held,
            "in_flight_ms": in_flight_ms, "at_ms": at_ms, "busy": busy}]}),
    )
}

/// By the real clock: the DLX is a real server.
#[tokio::test]
async fn requests_in_flight_and_held_ones_raise_also_while_it_wakes() {
    let mut web = Resource::new(id("web"));
    web.hosts = vec!["web.test".to_owned()];
    (web.record.phase, web.replicas) = (Phase::Waking, 1);
    web.scaling = Some(Scaling { in_flight_per_replica: Some(2.0), ..Scaling::up_to(30) });
    let waking = web.record.clone();
    let site = Site::start([web]);
    let asked = std::sync::atomic::AtomicU64::new(0);
    let dlx = Dlx::start(site.state.path(), move |member, _| {
        let nth = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // 6 in flight on average, and 3 are held.
        load(member, nth * 1000, nth * 6000, 3, &json!({"pod-1": 2}))
    });
    site.until_replicas("web", 5).await;
    assert_eq!(site.store.get("web").record, waking, "those who work on its wake go on");
    let asked = dlx.requests.lock().unwrap()[0].body.clone();
    assert_eq!(asked, json!({"kind": KIND, "resources": [{"namespace": "demo", "name": "web"}]}));
}

#[tokio::test]
async fn a_step_down_names_the_busy_replicas_and_waits_while_they_are_not_known() {
    let mut web = Resource::new(id("web"));
    web.hosts = vec!["web.test".to_owned()];
    web.replicas = 5;
    web.scaling =
        Some(Scaling { in_flight_per_replica: Some(2.0), last_scaled: Some(1), ..Scaling::up_to(30) });
    let site = Site::start([web]);
    let asked = std::sync::atomic::AtomicU64::new(0);
    let _dlx = Dlx::start(site.state.path(), move |member, _| {
        let nth = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match nth {
            // Between the decision and the call it does not answer.
            2 => Reply::Json(StatusCode::INTERNAL_SERVER_ERROR, json!({})),
            _ => load(member, nth * 1000, nth * 3000, 0, &json!({"pod-2": 2, "pod-1": 1})),
        }
    });
    site.store.comes_to(|store| !store.reports.is_empty()).await;
    let events = site.events();
    assert_eq!(events[0].0, "NotScaled");
    assert!(events[0].1.contains("it is not known which of its replicas are busy"), "{events:?}");
    assert_eq!(site.store.get("web").replicas, 5);
    site.until_replicas("web", 2).await;
    assert_eq!(site.store.inner().busy, ["pod-1", "pod-2"]);
}

/// Awake workers of the queue, changed last an hour ago.
fn awake(name: &str, replicas: u32) -> Resource {
    let mut resource = workers(name);
    (resource.record.phase, resource.replicas) = (Phase::Active, replicas);
    resource.scaling.as_mut().unwrap().last_scaled = Some(1);
    resource
}

#[tokio::test(start_paused = true)]
async fn a_smaller_step_down_is_reported_as_it_was_made_and_one_that_waits_once() {
    let site = Site::start([awake("mailer", 9)]);
    site.store.set(|store| store.working = 4);
    site.broker.put(QUEUE, 20);
    site.until_replicas("mailer", 4).await;
    let wanted = "20 messages, 20 per replica: 1 replica wanted";
    let made = format!("Scaled down from 9 to 4: {wanted}; 3 more replicas have work and stay for now");
    // Those that are left have work, whenever the plugin asks them.
    site.store.comes_to(|store| store.calls.len() >= 5).await;
    let reports: Vec<_> = site.store.inner().reports.iter().map(|(_, event)| event.clone()).collect();
    assert_eq!((&*reports[0].reason, &*reports[0].message), ("ScaledDown", &*made));
    let waits = "Not scaled down from 4 yet: 4 of its 4 pods may have work (call 2)";
    assert_eq!((&*reports[1].reason, &*reports[1].message), ("ScaleDownWaits", waits));
    assert_eq!((reports.len(), reports[1].severity), (2, scaler_types::Severity::Normal));
    let reason = site.table.status(&id("mailer")).unwrap().reason;
    assert!(reason.contains("1 replica wanted; not lowered yet: 4 of its 4"), "{reason}");
    site.store.set(|store| store.working = 0);
    site.until_replicas("mailer", 1).await;
    site.store.comes_to(|store| store.reports.len() == 3).await;
    assert_eq!(site.events()[2].1, format!("Scaled down from 4 to 1: {wanted}"));
}

/// One broker may be that of a thousand workloads.
#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_read_is_published_on_twenty_of_its_workloads() {
    let site = Site::start((0..30).map(|number| workers(&format!("w{number}"))));
    site.broker.state().refused.insert(QUEUE.to_owned());
    site.store.comes_to(|store| store.reports.len() >= MAX_REPORTED_FAILURES).await;
    site.broker.until_reads(5).await;
    assert_eq!(site.events().len(), MAX_REPORTED_FAILURES);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_any_more_or_cannot_be_read_is_not_woken() {
    let site = Site::start(["gone", "broken", "mailer"].map(workers));
    site.broker.until_reads(2).await;
    let is_known = |name: &str| site.table.status(&id(name)).is_some();
    assert!(is_known("gone") && is_known("broken") && is_known("mailer"));
    // The list of all is the first answer after one that failed.
    site.store.set(|store| {
        store.blind = true;
        store.resources.remove(&id("gone"));
    });
    site.broker.until_reads(4).await;
    assert!(is_known("gone"), "what was known last is kept");
    site.store.set(|store| {
        store.blind = false;
        let error = "its record cannot be parsed".to_owned();
        store.unreadable = vec![plugin_host::UnreadableResource { id: Some(id("broken")), error }];
    });
    site.broker.until_reads(9).await;
    assert!(!is_known("gone") && !is_known("broken") && is_known("mailer"));
    site.broker.put(QUEUE, 1);
    site.until_replicas("mailer", 1).await;
    assert_eq!(site.store.get("broken").replicas, 0);
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_never_scaled_down_get_an_event_that_names_the_fix() {
    let mut mailer = awake("mailer", 9);
    mailer.keep_awake = "it is scaled between its limits and not to zero".to_owned();
    let site = Site::start([mailer]);
    site.broker.state().in_flight = None;
    let reads = site.broker.state().reads.len();
    site.broker.put(QUEUE, 0);
    site.store.comes_to(|store| !store.reports.is_empty()).await;
    site.broker.until_reads(reads + 5).await;
    let events = site.events();
    assert_eq!(events.len(), 1, "once: {events:?}");
    assert_eq!(events[0].0, "NotScaled");
    let fix = "set scaler.dev/busy-probe, or scaler.dev/early-ack: accepted";
    assert!(
        events[0].1.starts_with("Not scaled down: test://mails") && events[0].1.contains(fix),
        "{events:?}"
    );
    assert_eq!(site.store.inner().calls, Vec::<&str>::new());
}

/// By the real clock: the DLX is a real server.
#[tokio::test]
async fn the_dlxs_are_asked_about_resources_with_a_target_for_requests_alone() {
    let with_hosts = |name: &str, scaling| {
        let mut resource = Resource::new(id(name));
        (resource.hosts, resource.replicas) = (vec![format!("{name}.test")], 1);
        resource.scaling = Some(scaling);
        resource
    };
    let queue =
        Scaling { queues: vec![QUEUE.to_owned()], messages_per_replica: Some(20.0), ..Scaling::up_to(30) };
    let counted = Scaling { requests_per_replica: Some(100.0), ..queue.clone() };
    let mut external = with_hosts("external", counted.clone());
    external.traffic_mode = scaler_types::TrafficMode::WhenAsleep;
    let site = Site::start([with_hosts("web", counted), with_hosts("mailer", queue), external]);
    let (sender, mut asked) = mpsc::unbounded_channel();
    let _dlx = Dlx::start(site.state.path(), move |member, request| {
        drop(sender.send(request.body.clone()));
        load(member, 0, 0, 0, &json!({}))
    });
    let asked = asked.recv().await.unwrap();
    assert_eq!(asked["resources"], json!([{"namespace": "demo", "name": "web"}]));
}
