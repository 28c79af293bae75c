//! Calls across the plugin boundary, of a plugin in order and of plugins that are not: the host goes on, and others are served.

mod common;

use std::time::Duration;

use common::{Log, instance, wake};
use plugin_host::{ANSWER_WITHIN, CallError, RunningPlugin, UnreadableResource};
use scaler_types::{Phase, Record, ResourceId, ScaleError, Version};

/// Longer than any call takes that is expected to end.
const LONG: Duration = Duration::from_secs(60);

/// Calls every method once; what each answers, in words.
async fn call_all(instance: &dyn RunningPlugin) -> [(&'static str, String); 6] {
    fn words<T>(result: Result<T, impl ToString>) -> String {
        result.err().map_or_else(|| "ok".to_owned(), |error| error.to_string())
    }
    let id = ResourceId::new("demo", "bad");
    let record = Record::default();
    [
        ("get_resources", words(instance.get_resources().await)),
        ("set_scale", words(instance.set_scale(&wake(LONG)).await)),
        ("get_config", words(instance.get_config().await)),
        ("resolve_service_name", words(instance.resolve_service_name(&id).await)),
        ("changes", words(instance.changes(0).await)),
        ("compare_and_set", words(instance.compare_and_set(&id, &Version("1".to_owned()), &record).await)),
    ]
}

/// A section in which every call behaves like this.
fn all(how: &str) -> String {
    let calls = [
        "get_resources",
        "set_scale",
        "get_config",
        "resolve_service_name",
        "changes",
        "compare_and_set",
        "stop",
    ];
    let calls: Vec<String> = calls.map(|call| format!("{call}: {how}")).into();
    format!("{{address: '127.0.0.1:9', delay: 50ms, {}}}", calls.join(", "))
}

#[tokio::test]
async fn a_plugin_in_order_is_called_with_every_method() {
    let bad = instance("{hosts: [bad.localhost], address: '127.0.0.1:9'}").await;
    assert_eq!((bad.kind(), bad.namespace()), ("misbehaving", "demo"));

    let first = bad.changes(0).await.unwrap().readable;
    assert!(first.complete && first.cursor > 0);
    assert_eq!(first.resources[0].hosts, ["bad.localhost"]);
    let waiting = tokio::spawn({
        let bad = bad.clone();
        async move { bad.changes(first.cursor).await }
    });

    let id = ResourceId::new("demo", "bad");
    let draining = Record { phase: Phase::Draining, ..Record::default() };
    let version = bad.compare_and_set(&id, &Version("0".to_owned()), &draining).await.unwrap();
    assert_eq!(
        bad.compare_and_set(&id, &Version("0".to_owned()), &draining).await,
        Err(ScaleError::Conflict)
    );
    assert_eq!(waiting.await.unwrap().unwrap().readable.resources[0].record, draining);

    assert_eq!(bad.set_scale(&wake(LONG)).await, Err(ScaleError::Conflict));
    let mut request = wake(LONG);
    request.version = version;
    bad.set_scale(&request).await.unwrap();
    let resources = bad.get_resources().await.unwrap().readable;
    assert_eq!((resources[0].replicas, resources[0].endpoints.len()), (1, 1));

    request.id.name = "other".to_owned();
    let terminal = bad.set_scale(&request).await.unwrap_err();
    assert_eq!(terminal, ScaleError::Terminal { reason: "there is no resource demo/other".to_owned() });
    assert_eq!(bad.get_config().await.unwrap(), None);
    assert_eq!(bad.resolve_service_name(&id).await.unwrap(), "127.0.0.1:9");
    bad.stop().await;
}

#[tokio::test]
async fn instances_are_equal_to_their_clones_alone() {
    let (one, other) = (instance("{}").await, instance("{}").await);
    assert_eq!(*one, *one.clone());
    assert_ne!(*one, *other);
}

#[tokio::test]
async fn a_panic_is_the_calls_error_and_the_plugin_goes_on() {
    let (bad, good) = (instance(&all("panic")).await, instance(&all("ok")).await);
    for _ in 0..2 {
        for (call, answer) in call_all(&*bad).await {
            assert!(
                answer.contains(&format!("the plugin panicked: {call} panics, as configured")),
                "{call}: {answer}"
            );
        }
    }
    let panicked = bad.set_scale(&wake(LONG)).await.unwrap_err();
    assert!(matches!(panicked, ScaleError::Retry { .. }), "{panicked:?}");
    bad.stop().await;
    for (call, answer) in call_all(&*good).await {
        assert_eq!(answer, "ok", "{call}");
    }
}

#[tokio::test]
async fn an_error_is_reported_in_the_authors_words() {
    let bad = instance(&all("error")).await;
    for (call, answer) in call_all(&*bad).await {
        assert!(answer.starts_with(&format!("{call} fails, as configured")), "{call}: {answer}");
    }
    // However often: an answer is a sign of life, the plugin is not left alone.
    for _ in 0..10 {
        assert!(matches!(bad.get_resources().await, Err(CallError::Plugin(_))));
    }
}

#[tokio::test]
async fn a_slow_answer_is_an_answer() {
    let bad = instance(&all("slow")).await;
    for (call, answer) in call_all(&*bad).await {
        assert_eq!(answer, "ok", "{call}");
    }
}

/// The host's clock is moved instead of waited for; the plugin has its own and hangs on it for ever.
#[tokio::test]
async fn a_call_that_hangs_ends_in_time_and_a_plugin_that_hangs_is_left_alone() {
    let (bad, good) = (instance(&all("hang")).await, instance(&all("ok")).await);
    tokio::time::pause();
    let retry = bad.set_scale(&wake(Duration::from_secs(3))).await.unwrap_err();
    let ScaleError::Retry { reason, .. } = retry else { panic!("{retry:?}") };
    assert_eq!(reason, "no answer within 3s");
    for (call, answer) in call_all(&*bad).await {
        assert!(answer.starts_with("no answer within 1m"), "{call}: {answer}");
    }
    // Wakes may take their deadline as often as they like.
    for _ in 0..10 {
        assert!(matches!(bad.set_scale(&wake(LONG)).await, Err(ScaleError::Retry { .. })));
    }
    for _ in 0..2 {
        assert_eq!(bad.changes(7).await.unwrap_err(), CallError::TimedOut(ANSWER_WITHIN));
    }
    assert_eq!(bad.changes(0).await.unwrap_err(), CallError::LeftAlone(3));
    for _ in 0..2 {
        assert_eq!(bad.get_resources().await.unwrap_err(), CallError::TimedOut(ANSWER_WITHIN));
    }
    assert_eq!(bad.get_resources().await.unwrap_err(), CallError::LeftAlone(3));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(bad.get_resources().await.unwrap_err(), CallError::TimedOut(ANSWER_WITHIN), "probed");
    assert_eq!(bad.get_resources().await.unwrap_err(), CallError::LeftAlone(4));
    bad.stop().await;
    tokio::time::resume();
    for (call, answer) in call_all(&*good).await {
        assert_eq!(answer, "ok", "{call}");
    }
}

/// An author who blocks a thread for ever takes half of that plugin; instances and calls beside it are served.
#[tokio::test]
async fn a_blocked_thread_leaves_the_other_calls_served() {
    let (bad, good) = (instance("{set_scale: block}").await, instance(&all("ok")).await);
    let mut request = wake(Duration::from_millis(100));
    request.version = Version("0".to_owned());
    assert!(matches!(bad.set_scale(&request).await, Err(ScaleError::Retry { .. })));
    for _ in 0..1000 {
        good.get_resources().await.unwrap();
        bad.get_resources().await.unwrap();
    }
}

/// What an author does in `Drop` happens on the plugin's threads.
#[tokio::test]
async fn an_instance_that_cannot_be_dropped_harms_nobody() {
    let log = Log::start();
    let good = instance("{}").await;
    drop(instance("{drop: block}").await);
    drop(instance("{drop: panic}").await);
    log.line(&["ERROR", "panicked: drop panics, as configured"]).await;
    good.get_resources().await.unwrap();
}

#[tokio::test]
async fn what_a_plugin_logs_is_in_the_hosts_log_with_its_name() {
    let log = Log::start();
    let bad = instance("{get_config: panic}").await;
    let line = log.line(&["starting", "plugin=\"misbehaving\""]).await;
    assert!(line.contains("INFO") && line.contains("starting namespace=demo"), "{line}");
    bad.get_config().await.unwrap_err();
    let line = log.line(&["panicked: get_config panics", "plugin=\"misbehaving\""]).await;
    assert!(line.contains("ERROR") && line.contains("lib.rs:"), "where it was: {line}");
}

#[tokio::test]
async fn an_unreadable_resource_is_named_with_its_field_and_the_others_are_read() {
    let log = Log::start();
    let bad = instance("{more: 1, unreadable: 1}").await;
    let expected = "field scale_resources: invalid type: null, expected f64";
    let unreadable = [UnreadableResource {
        id: Some(ResourceId::new("demo", "unreadable-0")),
        error: expected.to_owned(),
    }];
    let listed = bad.get_resources().await.unwrap();
    let names: Vec<_> = listed.readable.iter().map(|resource| &*resource.id.name).collect();
    assert_eq!((names, &listed.unreadable[..]), (vec!["bad", "further-0"], &unreadable[..]));
    let changes = bad.changes(0).await.unwrap();
    assert!(changes.readable.complete);
    assert_eq!((changes.readable.resources.len(), &changes.unreadable[..]), (1, &unreadable[..]));
    let line = log.line(&["WARN", "failed to read a resource", "demo/unreadable-0"]).await;
    assert!(line.contains(expected), "{line}");
}
