//! What a wake reports to clients, in Events and in metrics; and what follows a failed wake.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{
    Endpoint, Phase, Progress, Record, Resource, Rollout, RolloutPhase, ScaleError, Scaling, Target,
};

use crate::{
    state::ColdStartPhase,
    testing::{
        EVENT_TIMEOUT, Site, SiteOptions, body, header,
        plugin::{Plugin, endpoint},
        status, until, upstream,
    },
};

/// A resource as `GET /api/v1/resources` shows it.
async fn shown(site: &Site, name: &str) -> serde_json::Value {
    let request = http::Request::new(bytes::Bytes::new());
    let answer = crate::admin::resources::answer(site.dlx.clone(), request).await;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let all: serde_json::Value = serde_json::from_slice(&body).unwrap();
    all["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == name).unwrap().clone()
}

/// What Prometheus reads.
fn metrics(site: &Site) -> String {
    let (dlx, resources) = (std::sync::Arc::downgrade(&site.dlx), daemon::telemetry::ResourceMetrics::Active);
    let mut registry = daemon::telemetry::registry("dlx");
    registry.register_collector(Box::new(crate::admin::MetricsCollector { dlx, resources }));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    page
}

fn reported(site: &Site) -> Vec<(String, String)> {
    site.plugin.reports.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_wakes_the_fewest_replicas_that_its_users_set() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(move |request| {
        let fewest = if request.id.name == "many" { 3 } else { 1 };
        assert_eq!(request.target, Target::AtLeast(fewest), "{}", request.id);
        Ok(vec![endpoint(address)])
    });
    plugin.add("many", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.scaling = Some(Scaling { min_replicas: 3, ..Scaling::up_to(5) });
    });
    plugin.add("one", |resource| resource.record.phase = Phase::Asleep);
    let site = Site::start(plugin, SiteOptions::default()).await;
    assert_eq!(status(&site.get("many.test", "/").await), 200);
    assert_eq!(status(&site.get("one.test", "/").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resources_own_timeouts_win() {
    // The namespace file would hold it for half a minute, and have a wake fail at once.
    let settings = Settings {
        hold_timeout: EVENT_TIMEOUT,
        resource_readiness_timeout: Duration::from_millis(1),
        ..Settings::default()
    };
    let (address, _) = upstream::echo(async || ()).await;
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let plugin = Plugin::waking(move |request| {
        let left = request.deadline;
        assert!(left > Duration::from_secs(30) && left <= Duration::from_secs(60), "{left:?}");
        match TRIES.fetch_add(1, Ordering::SeqCst) {
            0 => Err(ScaleError::Retry { after: Duration::from_millis(10), reason: "not yet".to_owned() }),
            _ => Ok(vec![endpoint(address)]),
        }
    });
    plugin.add("slow", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.resource_readiness_timeout = Some(Duration::from_secs(60));
    });
    plugin.add("hasty", |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint("127.0.0.1:1")];
        resource.hold_timeout = Some(Duration::from_millis(50));
    });
    let site = Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await;
    assert_eq!(status(&site.get("slow.test", "/").await), 200);
    let hasty = site.get("hasty.test", "/").await;
    assert_eq!(status(&hasty), 503);
    // Not for the 30 s of the others.
    assert!(body(&hasty).contains("held for ") && !body(&hasty).contains("held for 30"), "{hasty}");
    let (hasty, slow) = (shown(&site, "hasty").await, shown(&site, "slow").await);
    assert_eq!(
        (&hasty["hold_timeout"], &hasty["resource_readiness_timeout"]),
        (&"50ms".into(), &"1ms".into())
    );
    assert_eq!((&slow["hold_timeout"], &slow["resource_readiness_timeout"]), (&"30s".into(), &"1m".into()));
    // Taken back: the namespace file's holds again.
    site.plugin.change("hasty", |resource| resource.hold_timeout = None);
    let handle = site.resource("hasty");
    until("it is seen", || handle.snapshot.load().settings.hold_timeout == EVENT_TIMEOUT).await;
}

/// Workers of a queue that sleep: no host, port or Service names them, and they list no endpoint.
fn workers(resource: &mut Resource) {
    resource.record.phase = Phase::Asleep;
    resource.hosts.clear();
    resource.scaling = Some(Scaling { queues: vec!["test://jobs".to_owned()], ..Scaling::up_to(5) });
}

/// What `POST /api/v1/wake` answers: its status, and its body.
async fn wake(site: &Site, name: &str) -> (u16, serde_json::Value) {
    let body = serde_json::json!({"namespace": "demo", "name": name}).to_string();
    let answer = crate::admin::wake::answer(site.dlx.clone(), http::Request::new(body.into())).await;
    let status = answer.status().as_u16();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_wakes_workers_that_take_no_requests() {
    let awake = (200, serde_json::json!({"awake": true}));
    let plugin = Plugin::waking(|_| Ok(Vec::new()));
    plugin.add("a", workers);
    let site = Site::start(plugin, SiteOptions::default()).await;
    assert_eq!(wake(&site, "a").await, awake);
    until("it is finished", || site.plugin.get("a").record.phase == Phase::Active).await;
    assert_eq!(wake(&site, "a").await, awake, "it is awake already");
    assert_eq!((site.plugin.set_scales.load(Ordering::SeqCst), site.resource("a").queue.len()), (1, 0));
    let handle = site.resource("a");
    assert!(!handle.is_open() && !handle.read(|view| view.wakes()), "no request can be sent to it");
    until("it is reported", || reported(&site).iter().any(|(reason, _)| reason == "Woken")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_awake_when_their_plugin_lists_a_ready_replica() {
    let rollout = |phase| Rollout { revision: "1".to_owned(), phase, status: String::new(), deadline: None };
    let plugin = Plugin::waking(|_| Ok(Vec::new()));
    plugin.add("a", |resource| {
        workers(resource);
        resource.rollout = Some(rollout(RolloutPhase::Progressing));
    });
    let site = std::sync::Arc::new(Site::start(plugin, SiteOptions::default()).await);
    let command = tokio::spawn({
        let site = site.clone();
        async move { wake(&site, "a").await.0 }
    });
    until("it is scaled", || site.resource("a").read(|view| view.scaled() && !view.gate.waking())).await;
    assert!(!command.is_finished() && site.plugin.get("a").record.phase == Phase::Waking);
    site.plugin.change("a", |resource| resource.rollout = Some(rollout(RolloutPhase::Complete)));
    assert_eq!(command.await.unwrap(), 200);
    until("it is finished", || site.plugin.get("a").record.phase == Phase::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_end_while_they_are_woken_are_not_awake() {
    let plugin = Plugin::waking(|_| Ok(Vec::new()));
    let (fail, fails) = tokio::sync::watch::channel(false);
    *plugin.after_wake.lock().unwrap() = Some(fails);
    plugin.add("a", workers);
    let site = std::sync::Arc::new(Site::start(plugin, SiteOptions::default()).await);
    let command = tokio::spawn({
        let site = site.clone();
        async move { wake(&site, "a").await }
    });
    until("its replica is listed", || site.resource("a").read(|view| view.scaled())).await;
    assert!(!command.is_finished());
    fail.send_replace(true);
    let (status, body) = command.await.unwrap();
    assert_eq!((status, &body["error"]), (503, &"wake_failed".into()), "{body}");
    until("it is written", || site.plugin.get("a").record.phase == Phase::Failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_answered_besides_the_last_error() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let settings = Settings { hold_timeout: Duration::from_millis(300), ..Settings::default() };
    let plugin = Plugin::waking(|_| match TRIES.fetch_add(1, Ordering::SeqCst) {
        0 => Err(ScaleError::Retry {
            after: Duration::from_millis(1),
            reason: "the API server answers 500".to_owned(),
        }),
        // Written, and nothing of it can be reached yet.
        _ => Ok(Vec::new()),
    });
    plugin.add("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.status = "waits for a node: 0/3 nodes are available".to_owned();
    });
    let site = Site::start(plugin, SiteOptions { settings, ..SiteOptions::default() }).await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    let text = body(&answer);
    let node = text.find("waits for a node: 0/3 nodes are available").unwrap_or_else(|| panic!("{text}"));
    let error =
        text.find("the last error was: the API server answers 500").unwrap_or_else(|| panic!("{text}"));
    assert!(node < error, "{text}");
    // Scheduled meanwhile, and it does not answer.
    site.plugin.change("a", |resource| {
        resource.status = "pulls its image".to_owned();
        resource.endpoints = vec![endpoint("127.0.0.1:1")];
    });
    let handle = site.resource("a");
    until("it is probed", || handle.read(|view| view.listed.iter().any(|listed| listed.error.is_some())))
        .await;
    let answer = site.get("a.test", "/").await;
    let text = body(&answer);
    assert!(text.contains("pulls its image; its endpoint 127.0.0.1:1 is not ready: "), "{text}");
    assert!(!text.contains("waits for a node"), "{text}");
}

/// A wake that fails and leaves its pods behind, as Kubernetes does.
fn failed_with_pods(resource: &mut scaler_types::Resource, endpoints: Vec<Endpoint>) {
    resource.record =
        Record { phase: Phase::Failed, reason: "ImagePullBackOff".to_owned(), ..Record::default() };
    resource.replicas = 1;
    resource.endpoints = endpoints;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_resource_that_answers_after_all_is_woken_by_the_next_request() {
    let (address, echo) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    // The image was put right before this DLX came.
    let pod = endpoint(address);
    let listed = pod.clone();
    plugin.add("a", move |resource| failed_with_pods(resource, vec![listed]));
    *plugin.wake.lock().unwrap() = std::sync::Arc::new(Box::new(move |request| {
        assert_eq!(request.record.phase, Phase::Waking);
        Ok(vec![pod.clone()])
    }));
    let site = Site::start(plugin, SiteOptions::default()).await;
    let handle = site.resource("a");
    until("its endpoint is probed", || handle.read(|view| view.is_ready())).await;
    assert!(!handle.is_up(), "nothing is forwarded while it is failed");
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1);
    until("it is finished", || site.plugin.get("a").record.phase == Phase::Active).await;
    assert_eq!(echo.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_after_failures_is_cut_short_when_an_endpoint_answers() {
    let (address, _) = upstream::echo(async || ()).await;
    static BROKEN: AtomicUsize = AtomicUsize::new(1);
    let plugin = Plugin::waking(move |_| match BROKEN.load(Ordering::SeqCst) {
        1 => Err(ScaleError::Terminal { reason: "ImagePullBackOff: no such image".to_owned() }),
        _ => Ok(vec![endpoint(address)]),
    });
    let site = Site::start(plugin.asleep("a"), SiteOptions::default()).await;
    let handle = site.resource("a");
    assert!(body(&site.get("a.test", "/").await).contains("no such image"));
    until("it is written", || site.plugin.get("a").record.phase == Phase::Failed).await;
    // As if it had failed again and again for a while.
    handle.decide(|view| {
        let failure = view.failure.as_mut().unwrap();
        failure.until += Duration::from_secs(600);
    });
    assert_eq!(status(&site.get("a.test", "/").await), 503);
    BROKEN.store(0, Ordering::SeqCst);
    site.plugin.change("a", |resource| failed_with_pods(resource, vec![endpoint(address)]));
    until("its endpoint answers, and the shortest pause is over", || {
        handle.read(|view| view.is_ready() && view.remembered_failure(&handle.key.id).is_none())
    })
    .await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    until("it is finished", || site.plugin.get("a").record.phase == Phase::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answered_for_a_moment_does_not_keep_a_failed_one_woken() {
    // It answers its probe, and each wake is refused: a quota, say.
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(|_| Err(ScaleError::Terminal { reason: "forbidden".to_owned() }));
    plugin.add("a", move |resource| failed_with_pods(resource, vec![endpoint(address)]));
    let site = Site::start(plugin, SiteOptions::default()).await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let answer = site.get("a.test", "/").await;
        assert!(status(&answer) == 503 && body(&answer).contains("forbidden"), "{answer}");
    }
    let most = 1 + begun.elapsed().as_secs() as usize;
    let wakes = site.plugin.set_scales.load(Ordering::SeqCst);
    assert!((1..=most).contains(&wakes), "{wakes} wakes for 100 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_wake_that_leaves_pods_refuses_held_requests_at_once() {
    // Written, scheduled, and then the kubelet says why it cannot be: the record is still `waking`, and has replicas.
    let plugin = Plugin::at("127.0.0.1:1");
    let (terminal, receiver) = tokio::sync::watch::channel(false);
    let site = Site::start(plugin.asleep("a"), SiteOptions::default()).await;
    *site.plugin.after_wake.lock().unwrap() = Some(receiver);
    let answer = async {
        until("it is written and has replicas", || site.plugin.get("a").replicas == 1).await;
        terminal.send_replace(true);
    };
    let (answer, ()) = tokio::join!(site.get("a.test", "/"), answer);
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("CrashLoopBackOff") && body(&answer).contains("wake_failed"), "{answer}");
    until("it is failed", || site.plugin.get("a").record.phase == Phase::Failed).await;
    assert_eq!(site.plugin.get("a").replicas, 1, "what Kubernetes keeps is kept");
    until("the Event is reported", || reported(&site).len() == 2).await;
    let reports = reported(&site);
    assert_eq!(reports[0].0, "WakeStarted");
    assert_eq!(
        (reports[1].0.as_str(), reports[1].1.as_str()),
        ("WakeFailed", "CrashLoopBackOff: back-off 10s")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_is_reported_phase_by_phase() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(|_| Ok(Vec::new()));
    let site = Site::start(plugin.asleep("a"), SiteOptions::default()).await;
    let handle = site.resource("a");
    let moves = async {
        until("it is written", || site.plugin.get("a").replicas == 1).await;
        site.plugin.change("a", |resource| resource.progress = Some(Progress::Scheduled));
        until("it is seen", || handle.read(|view| view.resource.progress.is_some())).await;
        site.plugin.change("a", |resource| {
            resource.progress = Some(Progress::Started);
            resource.endpoints = vec![endpoint(address)];
        });
    };
    let (answer, ()) = tokio::join!(site.get("a.test", "/"), moves);
    assert_eq!(status(&answer), 200);
    let timing = header(&answer, "server-timing").unwrap();
    for name in ["hold", "wake", "decide", "patch", "scheduled", "started", "ready", "first_byte"] {
        assert_eq!(timing.matches(&format!("{name};dur=")).count(), 1, "{timing}");
    }
    let cold = handle.read(|view| view.last_cold).unwrap();
    let sum: Duration =
        ColdStartPhase::ALL.into_iter().filter_map(|phase| cold.phases.duration_of(phase)).sum();
    // A phase that was not seen counts as nothing.
    let seen = |phase| cold.phases.duration_of(phase).is_some_and(|took| took > Duration::ZERO);
    assert!(ColdStartPhase::ALL.into_iter().all(seen), "{cold:?}");
    assert!(cold.phases.millis().count() == 6 && sum >= cold.wake.unwrap(), "{cold:?}");
    let text = shown(&site, "a").await;
    for phase in ColdStartPhase::ALL {
        assert!(text["cold_start"]["phases_ms"][phase.name()].is_f64(), "{text}");
    }
    let metrics = metrics(&site);
    for phase in ColdStartPhase::ALL {
        let line = format!(
            r#"scaler_dlx_cold_start_phase_seconds_count{{namespace="demo",kind="test",phase="{}"}} 1"#,
            phase.name()
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    until("the Event is reported", || reported(&site).len() == 2).await;
    let reports = reported(&site);
    assert_eq!((reports[0].0.as_str(), reports[1].0.as_str()), ("WakeStarted", "Woken"));
    assert!(reports[1].1.contains("scheduled") && reports[1].1.contains("started"), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hold_is_reported_as_an_event_once() {
    let settings = Settings { max_held_requests: 0, ..Settings::default() };
    let plugin = Plugin::waking(|_| Ok(Vec::new()));
    let site = Site::start(plugin.asleep("a"), SiteOptions { settings, ..SiteOptions::default() }).await;
    for _ in 0..20 {
        assert_eq!(status(&site.get("a.test", "/").await), 503);
    }
    until("it is reported", || !reported(&site).is_empty()).await;
    let reports = reported(&site);
    assert_eq!((reports.len(), reports[0].0.as_str()), (1, "TooManyHeld"), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_another_dlx_won_is_reported_and_counted_by_that_dlx() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(|_| Ok(Vec::new())).asleep("a");
    let other = plugin.clone();
    *plugin.wake.lock().unwrap() = std::sync::Arc::new(Box::new(move |_| {
        other.change("a", |resource| {
            resource.record =
                Record { phase: Phase::Waking, nonce: scaler_types::Nonce(7), ..Record::default() };
            resource.replicas = 1;
            resource.endpoints = vec![endpoint(address)];
        });
        Ok(Vec::new())
    }));
    let site = Site::start(plugin.asleep("b"), SiteOptions::default()).await;
    assert_eq!(status(&site.get("a.test", "/").await), 200);
    // Events come in order: those of the first wake are there when the other's are.
    let own = endpoint(address);
    *site.plugin.wake.lock().unwrap() = std::sync::Arc::new(Box::new(move |_| Ok(vec![own.clone()])));
    assert_eq!(status(&site.get("b.test", "/").await), 200);
    until("its own wake is reported", || reported(&site).iter().any(|(reason, _)| reason == "Woken")).await;
    let reasons: Vec<_> = reported(&site).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["WakeStarted", "Woken"]);
    let awake = |name: &str| site.resource(name).counts.wakes()[0];
    assert_eq!((awake("a"), awake("b")), (("awake", "", 0), ("awake", "", 1)));
    let page = metrics(&site);
    assert!(page.contains("scaler_dlx_wake_seconds_count 1\n"), "{page}");
    for phase in ColdStartPhase::ALL {
        assert!(page.contains(&format!(r#"phase="{}"}} 1"#, phase.name())), "{page}");
    }
    // What caused this one is not taken for what causes the next.
    assert!(["a", "b"].iter().all(|name| site.resource(name).read(|view| view.wake_cause.is_none())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_whose_endpoint_never_answers_fails_with_what_the_endpoint_says() {
    let settings = Settings { resource_readiness_timeout: Duration::from_millis(300), ..Settings::default() };
    // For the plugin it is ready.
    let plugin = Plugin::waking(|_| Ok(vec![endpoint("127.0.0.1:1")]));
    let site = Site::start(plugin.asleep("a"), SiteOptions { settings, ..SiteOptions::default() }).await;
    let answer = site.get("a.test", "/").await;
    assert_eq!(status(&answer), 503);
    let why = "not ready within 300ms: its endpoint 127.0.0.1:1 is not ready: ";
    assert!(body(&answer).contains(why), "{answer}");
    until("it is failed", || site.plugin.get("a").record.phase == Phase::Failed).await;
    let record = site.plugin.get("a").record;
    assert!(record.failed_wake.starts_with(why), "{record:?}");
    until("the Event is reported", || {
        reported(&site).last().is_some_and(|(reason, _)| reason == "WakeFailed")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_failure_is_remembered_for_a_second_only() {
    let plugin = Plugin::waking(|_| Err(ScaleError::Terminal { reason: "no such image".to_owned() }));
    let site = Site::start(plugin.asleep("a"), SiteOptions::default()).await;
    let handle = site.resource("a");
    let pause_after = async |before: Duration| {
        handle.decide(|view| {
            if let Some(failure) = &mut view.failure {
                (failure.pause, failure.until) = (before, std::time::Instant::now());
            }
        });
        assert_eq!(status(&site.get("a.test", "/").await), 503);
        handle.read(|view| view.failure.as_ref().unwrap().pause)
    };
    let second = Duration::from_secs(1);
    assert_eq!(pause_after(Duration::ZERO).await, second);
    assert_eq!(pause_after(10 * second).await, 20 * second);
    assert_eq!(pause_after(20 * second).await, 30 * second);
    // As if it had taken longer than the pause before.
    assert_eq!(pause_after(Duration::ZERO).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_says_what_changed_lists_nothing_for_a_wake() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address).asleep("a").asleep("b");
    plugin.tells_changes.store(true, Ordering::SeqCst);
    let site = std::sync::Arc::new(Site::start(plugin.clone(), SiteOptions::default()).await);
    let source = site.resource("a").read(|view| view.source.clone());
    plugin.change("b", |resource| resource.status = "changed".to_owned());
    until("it has said what changed", || source.tells_changes()).await;
    let listed = plugin.lists.load(Ordering::SeqCst);
    // The wake is written before it is told.
    plugin.stalled.send_replace(true);
    let woken = tokio::spawn({
        let site = site.clone();
        async move { status(&site.get("a.test", "/").await) }
    });
    until("the wake is written", || !reported(&site).is_empty()).await;
    plugin.stalled.send_replace(false);
    assert_eq!(woken.await.unwrap(), 200);
    assert_eq!(plugin.lists.load(Ordering::SeqCst), listed, "lists");
    assert_eq!(plugin.set_scales.load(Ordering::SeqCst), 1, "wakes");
}
